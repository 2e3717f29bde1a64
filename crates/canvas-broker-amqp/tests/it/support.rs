//! The small words of the tests.

#[path = "../../../../tests/kit/log.rs"]
mod log;
#[path = "../../../../tests/kit/messages.rs"]
mod messages;

use std::sync::Arc;
use std::time::{Duration, Instant};

use canvas_broker_amqp::{AmqpBroker, AmqpBrokerConfig};
use canvas_core::Broker;

pub(crate) use crate::rabbit::{Rabbit, Vhost};
pub(crate) use log::{keep_log, logged};
pub(crate) use messages::*;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A lease that does not end within a test.
pub(crate) const NEVER: Duration = Duration::from_secs(3_600);

impl Vhost {
    pub(crate) fn broker(&self) -> Arc<dyn Broker> {
        self.broker_with(AmqpBrokerConfig::default())
    }

    pub(crate) fn broker_with(&self, config: AmqpBrokerConfig) -> Arc<dyn Broker> {
        AmqpBroker::new(&self.url(), config).unwrap()
    }
}

/// Waits until something is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut so: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !so().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
