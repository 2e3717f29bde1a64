//! What all parts of a broker share.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use canvas_redis::{Link, Server};
use redis::Pipeline;

use crate::config::RedisBrokerConfig;
use crate::consume::Shared;
use crate::fanout::Fanout;
use crate::layout::{Layout, own_binding};
use crate::publish::Router;
use crate::settle::Acks;

/// The inside of a broker. Its tasks hold it as long as they run.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) config: RedisBrokerConfig,
    pub(crate) server: Arc<Server>,
    pub(crate) layout: Layout,
    /// For all that is quick: publishing, settling, renewing.
    pub(crate) link: Link,
    pub(crate) router: Router,
    pub(crate) acks: Acks,
    pub(crate) fanout: Fanout,
    /// By the first part of the tags of their deliveries.
    consumers: Mutex<HashMap<Arc<str>, Arc<Shared>>>,
    consumed: AtomicU64,
    pub(crate) sweeping: AtomicBool,
}

impl Hub {
    pub(crate) fn new(server: Arc<Server>, config: RedisBrokerConfig) -> Self {
        let layout = Layout::new(&config, server.db());
        Self {
            link: Link::new("canvas-broker", server.clone()),
            fanout: Fanout::new(&layout, &server),
            router: Router::default(),
            acks: Acks::default(),
            consumers: Mutex::default(),
            consumed: AtomicU64::new(0),
            sweeping: AtomicBool::new(false),
            config,
            server,
            layout,
        }
    }

    /// The number of a new consumer.
    pub(crate) fn next_consumer(&self) -> u64 {
        self.consumed.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn consumers(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Shared>>> {
        self.consumers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The consumer that a delivery went to, if it is or was one of ours, and
    /// the number of the delivery there.
    pub(crate) fn consumer_of(&self, tag: &str) -> Option<(Arc<Shared>, u64)> {
        let (name, number) = tag.rsplit_once(':')?;
        let number = u64::from_str_radix(number, 16).ok()?;
        Some((self.consumers().get(name)?.clone(), number))
    }

    /// What turns the time of a delivery into its score, in seconds: see
    /// `fetch.lua`.
    pub(crate) fn lease_offset(&self, lease: Duration) -> f64 {
        lease.as_secs_f64() - self.config.visibility_timeout.as_secs_f64()
    }

    /// Notes that a delivery is not out any more, which makes room for another.
    pub(crate) fn landed(&self, tag: &str) {
        if let Some((consumer, number)) = self.consumer_of(tag)
            && consumer.landed(number)
        {
            self.consumers().remove(&*consumer.name);
        }
    }
}

/// The queues that were declared on a connection.
#[derive(Debug, Default)]
pub(crate) struct Declared {
    generation: u64,
    queues: HashSet<Arc<str>>,
}

impl Declared {
    /// Adds the declaration of a queue, as kombu makes it, unless this
    /// connection has made it.
    pub(crate) fn declare(
        &mut self,
        generation: u64,
        queue: &Arc<str>,
        layout: &Layout,
        pipeline: &mut Pipeline,
    ) {
        if self.generation != generation {
            self.generation = generation;
            self.queues.clear();
        }
        if self.queues.insert(queue.clone()) {
            let member = own_binding(queue);
            pipeline.sadd(layout.bindings(queue), &member).ignore();
            pipeline.sadd(layout.permanent(queue), &member).ignore();
        }
    }
}
