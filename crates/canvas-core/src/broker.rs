//! The broker port: where messages live until their effects are stored.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::error::Result;
use crate::protocol::Message;

/// Carries messages from whoever sends a task to a worker that runs it.
///
/// The rule that all of them keep: there is no moment at which a message
/// exists only in a worker's memory. A delivery belongs to its consumer under a
/// lease; if it is neither settled nor renewed in time, it is delivered again.
#[async_trait]
pub trait Broker: Send + Sync + Debug {
    /// What this broker is and can do.
    fn info(&self) -> BrokerInfo;

    /// Publishes messages. When this returns, the broker has all of them.
    ///
    /// # Errors
    /// [`Error::Connection`](crate::Error::Connection); any part of the batch may have been published.
    async fn publish(&self, batch: Vec<Outgoing>) -> Result<()>;

    /// Starts consuming.
    ///
    /// # Errors
    /// [`Error::Connection`](crate::Error::Connection).
    async fn consume(&self, spec: ConsumeSpec) -> Result<Box<dyn Consumer>>;

    /// Ends a delivery. Settling with a receipt whose lease has passed to
    /// another delivery changes nothing and answers [`Settled::Stale`].
    ///
    /// # Errors
    /// [`Error::Connection`](crate::Error::Connection).
    async fn settle(&self, receipt: &Receipt, how: Settle) -> Result<Settled>;

    /// Starts the leases of these deliveries anew. Stale ones are passed over.
    ///
    /// # Errors
    /// [`Error::Connection`](crate::Error::Connection).
    async fn renew(&self, receipts: &[Receipt]) -> Result<()>;

    /// Drops the messages waiting in a queue, and says how many. Those out at
    /// a consumer stay.
    ///
    /// # Errors
    /// [`Error::Connection`](crate::Error::Connection).
    async fn purge(&self, queue: &str) -> Result<u64>;

    /// How many messages wait in a queue, those put off for later included where
    /// they wait in the queue itself. RabbitMQ keeps them elsewhere.
    ///
    /// # Errors
    /// [`Error::Connection`](crate::Error::Connection).
    async fn len(&self, queue: &str) -> Result<u64>;

    /// The messages that were rejected from a queue, oldest first.
    ///
    /// # Errors
    /// [`Error::Connection`](crate::Error::Connection).
    async fn dead_letters(&self, queue: &str) -> Result<Vec<DeadLetter>>;

    /// Sends to everyone subscribed now, and keeps nothing: events and
    /// remote control.
    ///
    /// # Errors
    /// [`Error::Connection`](crate::Error::Connection).
    async fn broadcast(&self, exchange: &str, routing_key: &str, message: Message) -> Result<()>;

    /// Receives what is broadcast to an exchange from now on.
    ///
    /// # Errors
    /// [`Error::Connection`](crate::Error::Connection).
    async fn subscribe(&self, exchange: &str) -> Result<Box<dyn Subscription>>;

    /// What a backend in the same server needs in order to commit together
    /// with this broker: of a type that the two drivers agree on. See
    /// [`Backend::together`](crate::Backend::together).
    fn companion(&self) -> Option<Box<dyn Any>> {
        None
    }
}

/// What a broker is and can do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerInfo {
    /// The URL without its password.
    pub url: String,
    /// Whether messages survive a restart of the broker.
    pub persistent: bool,
    /// Whether [`Settle::Defer`] is supported: a worker holds tasks with an
    /// ETA itself where it is not.
    pub defers: bool,
    /// Which messages of a queue come first.
    pub priorities: Priorities,
}

/// What the priority of a message means to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Priorities {
    /// Nothing: messages come in the order in which they were published.
    None,
    /// The lowest number comes first, and 0 is that of a message that has none: as
    /// on Redis.
    LowestFirst,
    /// The highest number comes first, and 0 is that of a message that has none:
    /// as on RabbitMQ.
    HighestFirst,
}

impl BrokerInfo {
    /// A broker that keeps messages in memory, in the order in which they come, and
    /// cannot put them off.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            persistent: false,
            defers: false,
            priorities: Priorities::None,
        }
    }
}

/// A message on its way to the broker.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// Where it is to go.
    pub to: Destination,
    /// The message.
    pub message: Message,
}

/// Where a message is sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The exchange; empty for the default exchange, on which the routing key
    /// is the name of a queue.
    pub exchange: Arc<str>,
    /// The routing key.
    pub routing_key: Arc<str>,
}

impl Destination {
    /// A queue, through the default exchange.
    pub fn queue(name: impl Into<Arc<str>>) -> Self {
        Self {
            exchange: "".into(),
            routing_key: name.into(),
        }
    }
}

/// What to consume, and how much at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumeSpec {
    /// The queues, served fairly.
    pub queues: Vec<Arc<str>>,
    /// How many deliveries may be out unsettled.
    pub prefetch: usize,
    /// After how long an unsettled delivery is given to another consumer.
    pub lease: Duration,
}

/// A stream of deliveries.
#[async_trait]
pub trait Consumer: Send {
    /// The next delivery; `None` after [`stop`](Self::stop). Cancel safe: a
    /// call that is dropped loses no message.
    ///
    /// # Errors
    /// [`Error::Connection`](crate::Error::Connection), after which calling again reconnects.
    async fn next(&mut self) -> Result<Option<Delivery>>;

    /// Changes how many deliveries may be out unsettled.
    async fn set_prefetch(&mut self, prefetch: usize) -> Result<()>;

    /// Adds a queue.
    async fn add_queue(&mut self, queue: &str) -> Result<()>;

    /// Stops consuming a queue. Deliveries that are out can still be settled.
    async fn cancel_queue(&mut self, queue: &str) -> Result<()>;

    /// Stops consuming. Deliveries that are out can still be settled.
    async fn stop(&mut self) -> Result<()>;
}

/// A message given to a consumer, under a lease.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// What settles it.
    pub receipt: Receipt,
    /// The queue it came from.
    pub queue: Arc<str>,
    /// Whether it was out before and came back unsettled or requeued.
    pub redelivered: bool,
    /// How often it was delivered, this time included, where the broker counts.
    pub deliveries: u32,
}

/// The right to settle one delivery, fenced by an epoch: once the lease has
/// passed on, this receipt no longer counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// The broker's tag for the message.
    pub tag: Arc<str>,
    /// Counts the deliveries of this message.
    pub epoch: u64,
}

/// How a delivery ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settle {
    /// It is done with.
    Ack,
    /// Deliver it again, to anyone.
    Requeue,
    /// Deliver it again, not before this moment. Only where
    /// [`BrokerInfo::defers`] says so.
    Defer(DateTime<Utc>),
    /// It cannot be used: keep it as a dead letter, with the reason.
    Reject(String),
}

/// Whether settling took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It did.
    Done,
    /// The lease had passed on: someone else has the message, or had it and
    /// settled it.
    Stale,
}

/// A rejected message.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The message.
    pub message: Message,
    /// Why it was rejected.
    pub reason: String,
    /// When.
    pub at: DateTime<Utc>,
}

/// A stream of broadcast messages.
#[async_trait]
pub trait Subscription: Send {
    /// The next message with its routing key; `None` when the broker is closed.
    /// Cancel safe.
    async fn next(&mut self) -> Result<Option<(String, Message)>>;
}
