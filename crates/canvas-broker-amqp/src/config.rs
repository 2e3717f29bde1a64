//! What a broker on RabbitMQ can be told.

use std::path::PathBuf;
use std::time::Duration;

use canvas_core::{Error, Result};

/// Settings of an [`AmqpBroker`](crate::AmqpBroker). The defaults are Celery's,
/// but for the heartbeat, which is shorter: it is how soon the tasks of a
/// machine that has gone come back.
///
/// RabbitMQ refuses a queue that is declared in two ways. All that share the
/// queues must therefore agree on their type, their priorities and their
/// arguments.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct AmqpBrokerConfig {
    /// The type of the queues (`task_default_queue_type`).
    pub queue_type: QueueType,
    /// The type of the exchange that belongs to a queue
    /// (`task_default_exchange_type`).
    pub exchange_type: ExchangeType,
    /// The highest priority, if queues are to have any
    /// (`task_queue_max_priority`). On RabbitMQ the highest number comes first.
    pub queue_max_priority: Option<u8>,
    /// How often a quorum queue delivers a message before it drops it or, where
    /// a policy says so, dead-letters it (`x-delivery-limit`).
    pub delivery_limit: Option<u32>,
    /// Whether tasks with an ETA wait in RabbitMQ and not in a worker, in the
    /// queues that Celery 5.5 calls native delayed delivery. Celery does this
    /// where a queue is a quorum queue, and so does [`quorum`](Self::quorum).
    pub delayed_delivery: bool,
    /// The type of the queues in which they wait
    /// (`broker_native_delayed_delivery_queue_type`).
    pub delayed_delivery_queue_type: QueueType,
    /// The exchange for events (`event_exchange`), a topic.
    pub event_exchange: String,
    /// How often both ends say that they are alive. Twice that without a word,
    /// and the connection is taken for dead. `?heartbeat=` in a URL counts
    /// before this; zero is never.
    pub heartbeat: Duration,
    /// How long connecting to one server may take.
    pub connect_timeout: Duration,
    /// How long to wait until the server confirms what was published.
    pub confirm_timeout: Duration,
    /// Which server comes first of those that a URL names
    /// (`broker_failover_strategy`).
    pub failover: Failover,
    /// A file with the authorities to trust, for `amqps://`; by default those
    /// of the system.
    pub tls_ca_certs: Option<PathBuf>,
}

/// A type of queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueType {
    /// On one node.
    Classic,
    /// On several nodes; it counts deliveries and has no priorities.
    Quorum,
}

/// A type of exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeType {
    /// A message goes where its routing key says.
    Direct,
    /// A message goes where a pattern matches its routing key. With these
    /// Celery's own clients delay tasks natively, which they refuse to do with
    /// direct exchanges.
    Topic,
}

/// Which server comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failover {
    /// One after the other, as they stand in the URL.
    RoundRobin,
    /// Any.
    Shuffle,
}

impl Default for AmqpBrokerConfig {
    fn default() -> Self {
        Self {
            queue_type: QueueType::Classic,
            exchange_type: ExchangeType::Direct,
            queue_max_priority: None,
            delivery_limit: None,
            delayed_delivery: false,
            delayed_delivery_queue_type: QueueType::Quorum,
            event_exchange: "celeryev".to_owned(),
            heartbeat: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(4),
            confirm_timeout: Duration::from_secs(30),
            failover: Failover::RoundRobin,
            tls_ca_certs: None,
        }
    }
}

impl AmqpBrokerConfig {
    /// Quorum queues, with native delayed delivery.
    pub fn quorum() -> Self {
        Self {
            queue_type: QueueType::Quorum,
            delayed_delivery: true,
            ..Self::default()
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |reason: &str| Err(Error::Config(reason.to_owned()));
        if self.queue_type == QueueType::Quorum && self.queue_max_priority.is_some() {
            return refuse("quorum queues have no priorities: leave queue_max_priority out");
        }
        if self.queue_type == QueueType::Classic && self.delivery_limit.is_some() {
            return refuse("only quorum queues count deliveries: leave delivery_limit out");
        }
        Ok(())
    }
}

impl QueueType {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_type_of_queue_does_not_have_is_refused() {
        let quorum = AmqpBrokerConfig {
            queue_max_priority: Some(9),
            ..AmqpBrokerConfig::quorum()
        };
        let classic = AmqpBrokerConfig {
            delivery_limit: Some(5),
            ..AmqpBrokerConfig::default()
        };
        for config in [quorum, classic] {
            assert!(matches!(config.check(), Err(Error::Config(_))));
        }
        assert!(AmqpBrokerConfig::quorum().check().is_ok());
    }
}
