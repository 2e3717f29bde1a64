//! What results that are sent can be told.

use std::time::Duration;

use canvas_broker_amqp::AmqpBrokerConfig;
use canvas_core::{Error, Result};

/// Settings of an [`RpcBackend`](crate::RpcBackend).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RpcBackendConfig {
    /// Whether results that are on their way survive a restart of the server
    /// (`result_persistent`). On, unlike in Celery: whoever waits for a result
    /// that was lost waits for ever. A Python worker decides for itself.
    pub persistent: bool,
    /// How long this process keeps what it was sent (`result_expires`); `None`
    /// for as long as it runs.
    pub result_expires: Option<Duration>,
    /// How long a reply queue stays when the process that reads it is gone: as
    /// long may the connection of one be lost that is not.
    pub queue_expires: Duration,
    /// How to connect, and for how long to wait for the server. What it says of
    /// queues and exchanges does not matter.
    pub connection: AmqpBrokerConfig,
}

impl Default for RpcBackendConfig {
    fn default() -> Self {
        Self {
            persistent: true,
            result_expires: Some(Duration::from_secs(86_400)),
            queue_expires: Duration::from_secs(60),
            connection: AmqpBrokerConfig::default(),
        }
    }
}

impl RpcBackendConfig {
    /// [`queue_expires`](Self::queue_expires) in milliseconds, as AMQP has it.
    pub(crate) fn queue_expires_ms(&self) -> Result<i32> {
        i32::try_from(self.queue_expires.as_millis())
            .ok()
            .filter(|milliseconds| *milliseconds > 0)
            .ok_or_else(|| {
                Error::Config(format!(
                    "queue_expires is {:?}: it must be between a millisecond and 24 days",
                    self.queue_expires
                ))
            })
    }
}
