//! A broker on RabbitMQ that shares its queues with Celery.
//!
//! Exchanges, queues, bindings, headers and properties are those of Celery 5.7
//! and kombu: Python and Rust workers take from the same queues. What is
//! different is unseen by Python:
//!
//! * **Nothing is lost on the way.** What is published is confirmed by the
//!   server; what leads to no queue comes back and is an error. A message that
//!   is rejected or put off is confirmed in its new place before it is
//!   acknowledged in the old one. (Celery publishes without confirmation.)
//! * **Receipts are fenced.** When a connection ends, the server gives its
//!   deliveries to others: whoever settles one after that settles nothing.
//! * **Leases.** A delivery that is neither settled nor renewed is given back by
//!   its own consumer; when the whole process hangs, the heartbeat ends its
//!   connection. RabbitMQ itself ends a channel on which a delivery stays
//!   unsettled for 30 minutes (its `consumer_timeout`), renewed or not: raise
//!   it where tasks take longer.
//! * **Few round trips.** A batch is on its way at once, and acknowledgements
//!   that are waiting go as one.
//! * **Tasks with an ETA wait in RabbitMQ** where `delayed_delivery` is on: in
//!   Celery's own delay queues, for which Celery needs topic exchanges, and
//!   this does not. What waits there is in no queue of its own, so the length of
//!   the queue does not count it, and purging does not drop it.
//!
//! RabbitMQ 3.10 or later is needed. Priorities are RabbitMQ's: 9 is the most
//! urgent, and only with [`queue_max_priority`](AmqpBrokerConfig::queue_max_priority).
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use canvas_broker_amqp::{AmqpBroker, AmqpBrokerConfig};
//! use canvas_core::Broker;
//!
//! # fn main() -> canvas_core::Result<()> {
//! let broker: Arc<dyn Broker> =
//!     AmqpBroker::new("amqp://guest:guest@localhost//", AmqpBrokerConfig::default())?;
//! # Ok(()) }
//! ```

mod backoff;
mod config;
mod consume;
mod dead;
mod fanout;
mod hub;
mod layout;
mod link;
mod publish;
mod session;
mod settle;
#[doc(hidden)]
pub mod sharing;
mod start;
mod url;
mod wire;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use canvas_core::Result;
use canvas_core::broker::{
    Broker, BrokerInfo, ConsumeSpec, Consumer, DeadLetter, Outgoing, Priorities, Receipt, Settle,
    Settled, Subscription,
};
use canvas_core::protocol::Message;

pub use config::{AmqpBrokerConfig, ExchangeType, Failover, QueueType};

use hub::Hub;

/// A broker on a RabbitMQ server.
///
/// It connects when it is first used, and again whenever it has to, to whichever
/// server of its URL is there. An outage is logged once; consumers and listeners
/// wait it out, publishing answers with an error, and settling says that the
/// delivery is someone else's.
pub struct AmqpBroker {
    hub: Arc<Hub>,
    shown: String,
}

impl AmqpBroker {
    /// A broker on the server that a URL names, as Celery writes it. Nothing is
    /// connected yet.
    ///
    /// * `amqp://[user:password@]host[:port][/vhost]`, where `pyamqp://` says
    ///   the same. User and password are `guest`, the virtual host is `/`.
    /// * `amqps://…`, the same with TLS, with the feature `tls`.
    /// * `amqp://one;amqp://two`: the first of them that answers.
    ///
    /// `?heartbeat=30` and `?connection_timeout=4000` (in milliseconds) count
    /// before the settings.
    ///
    /// # Errors
    /// [`Error::Config`](canvas_core::Error::Config) for a URL or a setting that makes no sense,
    /// [`Error::UnknownScheme`](canvas_core::Error::UnknownScheme), and
    /// [`Error::Unsupported`](canvas_core::Error::Unsupported) for TLS that is not compiled in.
    pub fn new(url: &str, config: AmqpBrokerConfig) -> Result<Arc<Self>> {
        config.check()?;
        let servers = url::read(url, &config)?;
        let shown: Vec<&str> = servers.iter().map(|server| &*server.shown).collect();
        Ok(Arc::new(Self {
            shown: shown.join(";"),
            hub: Arc::new(Hub::new(servers, config)),
        }))
    }

    /// Why the server takes no messages for now, if so: it is short of memory
    /// or of disk space. Publishing waits meanwhile.
    pub fn blocked(&self) -> Option<String> {
        self.hub.publisher.link.blocked()
    }
}

impl fmt::Debug for AmqpBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpBroker")
            .field("url", &self.shown)
            .field("config", &self.hub.config)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Broker for AmqpBroker {
    fn info(&self) -> BrokerInfo {
        let mut info = BrokerInfo::new(&*self.shown);
        info.persistent = true;
        info.defers = self.hub.config.delayed_delivery;
        if self.hub.config.queue_max_priority.is_some() {
            info.priorities = Priorities::HighestFirst;
        }
        info
    }

    async fn publish(&self, batch: Vec<Outgoing>) -> Result<()> {
        self.hub.publisher.publish(batch).await
    }

    async fn consume(&self, spec: ConsumeSpec) -> Result<Box<dyn Consumer>> {
        Ok(Box::new(self.hub.consume(spec).await?))
    }

    async fn settle(&self, receipt: &Receipt, how: Settle) -> Result<Settled> {
        self.hub.settle(receipt, how).await
    }

    async fn renew(&self, receipts: &[Receipt]) -> Result<()> {
        self.hub.renew(receipts);
        Ok(())
    }

    async fn purge(&self, queue: &str) -> Result<u64> {
        self.hub.purge(queue).await
    }

    async fn len(&self, queue: &str) -> Result<u64> {
        self.hub.len(queue).await
    }

    async fn dead_letters(&self, queue: &str) -> Result<Vec<DeadLetter>> {
        self.hub.dead_letters(queue).await
    }

    async fn broadcast(&self, exchange: &str, routing_key: &str, message: Message) -> Result<()> {
        self.hub.broadcast(exchange, routing_key, message).await
    }

    async fn subscribe(&self, exchange: &str) -> Result<Box<dyn Subscription>> {
        Ok(Box::new(self.hub.subscribe(exchange).await?))
    }
}
