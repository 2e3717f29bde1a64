//! What all parts of a broker share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use canvas_core::Result;
use canvas_core::broker::Receipt;
use lapin::options::{QueueDeclareOptions, QueuePurgeOptions};
use lapin::types::FieldTable;

use crate::config::AmqpBrokerConfig;
use crate::consume::Shared;
use crate::layout::Layout;
use crate::link::{Link, fault, is_not_found};
use crate::publish::Publisher;
use crate::session::read_receipt;
use crate::url::Server;

/// The connections of a broker, and who consumes on them.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) config: AmqpBrokerConfig,
    pub(crate) layout: Arc<Layout>,
    /// For all but publishing.
    pub(crate) link: Link,
    pub(crate) publisher: Publisher,
    consumers: Mutex<HashMap<u64, Arc<Shared>>>,
    /// Held while dead letters are read: they are taken, and put back.
    pub(crate) reading: tokio::sync::Mutex<()>,
}

impl Hub {
    pub(crate) fn new(servers: Vec<Server>, config: AmqpBrokerConfig) -> Self {
        let layout = Arc::new(Layout::new(&config));
        let link = |name| Link::new(name, servers.clone(), config.clone());
        Self {
            link: link("canvas"),
            publisher: Publisher::new(
                link("canvas publishing"),
                layout.clone(),
                config.confirm_timeout,
                config.delayed_delivery,
            ),
            layout,
            config,
            consumers: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
        }
    }

    fn consumers(&self) -> MutexGuard<'_, HashMap<u64, Arc<Shared>>> {
        self.consumers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn remember(&self, consumer: &Arc<Shared>) {
        self.consumers().insert(consumer.id, consumer.clone());
    }

    pub(crate) fn forget(&self, consumer: u64) {
        self.consumers().remove(&consumer);
    }

    /// The consumer that a delivery went to, and its tag there.
    pub(crate) fn find(&self, receipt: &Receipt) -> Option<(Arc<Shared>, u64)> {
        let (consumer, tag) = read_receipt(receipt)?;
        let consumer = self.consumers().get(&consumer)?.clone();
        Some((consumer, tag))
    }

    /// All consumers, in an order in which each may be locked.
    fn all(&self) -> Vec<Arc<Shared>> {
        let mut all: Vec<Arc<Shared>> = self.consumers().values().cloned().collect();
        all.sort_unstable_by_key(|consumer| consumer.id);
        all
    }

    /// How many messages wait: in the queue, and here, where the server has
    /// sent them ahead of anyone asking.
    pub(crate) async fn len(&self, queue: &str) -> Result<u64> {
        const OPERATION: &str = "broker.len";
        let consumers = self.all();
        let mut still = Vec::with_capacity(consumers.len());
        for consumer in &consumers {
            still.push(consumer.changing.lock().await);
        }
        let (channel, _) = self.link.channel(OPERATION).await?;
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let found = channel.queue_declare(queue.into(), options, FieldTable::default());
        let ready = match found.await {
            Ok(found) => u64::from(found.message_count()),
            Err(error) if is_not_found(&error) => return Ok(0),
            Err(error) => return Err(fault(OPERATION, &error)),
        };
        let _ = channel.close(200, "done".into()).await;
        let mut waiting = 0;
        for consumer in &consumers {
            waiting += consumer.waiting(queue).await as u64;
        }
        Ok(ready + waiting)
    }

    /// Drops what waits.
    pub(crate) async fn purge(&self, queue: &str) -> Result<u64> {
        const OPERATION: &str = "broker.purge";
        let (channel, _) = self.link.channel(OPERATION).await?;
        let purging = channel.queue_purge(queue.into(), QueuePurgeOptions::default());
        let mut purged = match purging.await {
            Ok(count) => u64::from(count),
            Err(error) if is_not_found(&error) => return Ok(0),
            Err(error) => return Err(fault(OPERATION, &error)),
        };
        let _ = channel.close(200, "done".into()).await;
        for consumer in self.all() {
            purged += consumer.purge(queue).await?;
        }
        Ok(purged)
    }
}
