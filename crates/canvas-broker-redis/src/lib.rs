//! A broker on Redis that shares its queues with Celery.
//!
//! Keys, messages and channels are those of kombu 5.7's Redis transport: Python
//! and Rust workers take from the same queues, and each finishes what the other
//! has left. What is different is unseen by Python:
//!
//! * **Nothing is lost on the way.** A message leaves its queue and is recorded
//!   as out in one step on the server. (kombu does it in two, and a worker that
//!   dies between them takes the message with it.)
//! * **Leases are short.** A delivery that is neither settled nor renewed comes
//!   again after [`ConsumeSpec::lease`], whoever looks for it, while those of
//!   Python workers keep their `visibility_timeout`.
//! * **Receipts are fenced.** The record of a delivery has a tag of its own, so
//!   who comes too late settles nothing.
//! * **Few round trips.** Messages are fetched by the batch, acknowledgements
//!   that are waiting go together, and a published batch is one round trip.
//!
//! Redis 6.2 or later is needed.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use canvas_broker_redis::{RedisBroker, RedisBrokerConfig};
//! use canvas_core::Broker;
//!
//! # fn main() -> canvas_core::Result<()> {
//! let broker: Arc<dyn Broker> =
//!     RedisBroker::new("redis://localhost/0", RedisBrokerConfig::default())?;
//! # Ok(()) }
//! ```

mod config;
mod consume;
mod envelope;
mod fanout;
mod hub;
mod layout;
mod lease;
mod publish;
mod pump;
mod record;
mod scripts;
mod seat;
mod settle;
mod shown;

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use canvas_core::Result;
use canvas_core::broker::{
    Broker, BrokerInfo, ConsumeSpec, Consumer, DeadLetter, Outgoing, Priorities, Receipt, Settle,
    Settled, Subscription,
};
use canvas_core::protocol::Message;
use canvas_redis::{Companion, Server};
use redis::Pipeline;
use redis::aio::MultiplexedConnection;

pub use canvas_redis::SentinelOptions;
pub use config::RedisBrokerConfig;

use hub::Hub;
use shown::Shown;

/// A broker on a Redis server.
///
/// It connects when it is first used, and again whenever it has to. An outage
/// is logged once; consumers wait it out, acknowledgements are tried until
/// their lease ends, and publishing answers with an error.
pub struct RedisBroker {
    hub: Arc<Hub>,
}

impl RedisBroker {
    /// A broker on the server that a URL names, as Celery writes it. Nothing is
    /// connected yet.
    ///
    /// * `redis://[[user]:password@]host[:port][/db]`
    /// * `rediss://…`, the same with TLS, with the feature `tls`. Celery's
    ///   parameters set it up: `ssl_cert_reqs` (`required` unless it is
    ///   `none`), `ssl_ca_certs` (by default the authorities of the system),
    ///   `ssl_certfile`, `ssl_keyfile` and `ssl_check_hostname`.
    /// * `redis+socket://[[user]:password@]/path[?virtual_host=db]`, where
    ///   `socket://` and `unix://` say the same
    /// * `sentinel://[[user]:password@]host[:port][/db]?master_name=…[;sentinel://…]`:
    ///   the master that the sentinels name, also after a failover. User and
    ///   password are for the master; see [`SentinelOptions`].
    ///
    /// # Errors
    /// [`Error::Config`](canvas_core::Error::Config) for a URL or a setting that makes no sense,
    /// [`Error::UnknownScheme`](canvas_core::Error::UnknownScheme), and
    /// [`Error::Unsupported`](canvas_core::Error::Unsupported) for TLS that is not compiled in.
    pub fn new(url: &str, config: RedisBrokerConfig) -> Result<Arc<Self>> {
        config.check()?;
        let server = Server::new(url, config.server())?;
        Ok(Arc::new(Self {
            hub: Arc::new(Hub::new(server, config)),
        }))
    }

    /// `host:port/db`, the same for all ways to write it: for the question
    /// whether something else is kept in the same place.
    pub fn server_id(&self) -> String {
        self.hub.server.id().to_owned()
    }
}

impl fmt::Debug for RedisBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBroker")
            .field("url", &self.hub.server.url())
            .field("config", &self.hub.config)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Broker for RedisBroker {
    fn info(&self) -> BrokerInfo {
        let mut info = BrokerInfo::new(self.hub.server.url());
        info.persistent = true;
        info.priorities = Priorities::LowestFirst;
        info
    }

    async fn publish(&self, batch: Vec<Outgoing>) -> Result<()> {
        self.hub.publish(batch).await
    }

    async fn consume(&self, spec: ConsumeSpec) -> Result<Box<dyn Consumer>> {
        Ok(Box::new(self.hub.consume(spec).await?))
    }

    async fn settle(&self, receipt: &Receipt, how: Settle) -> Result<Settled> {
        self.hub.settle(receipt, how).await
    }

    async fn renew(&self, receipts: &[Receipt]) -> Result<()> {
        self.hub.renew(receipts).await
    }

    async fn purge(&self, queue: &str) -> Result<u64> {
        let lists = self.hub.layout.lists(queue);
        let mut pipeline = Pipeline::new();
        pipeline.atomic();
        for list in &lists {
            pipeline.llen(list).del(list).ignore();
        }
        self.sum("broker.purge", pipeline).await
    }

    async fn len(&self, queue: &str) -> Result<u64> {
        let mut pipeline = Pipeline::new();
        for list in self.hub.layout.lists(queue) {
            pipeline.llen(list);
        }
        self.sum("broker.len", pipeline).await
    }

    async fn dead_letters(&self, queue: &str) -> Result<Vec<DeadLetter>> {
        self.hub.dead_letters(queue).await
    }

    async fn broadcast(&self, exchange: &str, routing_key: &str, message: Message) -> Result<()> {
        self.hub.broadcast(exchange, routing_key, &message).await
    }

    async fn subscribe(&self, exchange: &str) -> Result<Box<dyn Subscription>> {
        Ok(Box::new(self.hub.subscribe(exchange).await?))
    }

    fn companion(&self) -> Option<Box<dyn Any>> {
        let companion: Companion = Arc::new(Shown(self.hub.clone()));
        Some(Box::new(companion))
    }
}

impl RedisBroker {
    async fn sum(&self, operation: &'static str, pipeline: Pipeline) -> Result<u64> {
        let call = |mut connection: MultiplexedConnection| async move {
            pipeline.query_async::<Vec<u64>>(&mut connection).await
        };
        let counts = self.hub.link.call(operation, call).await?;
        Ok(counts.iter().sum())
    }
}
