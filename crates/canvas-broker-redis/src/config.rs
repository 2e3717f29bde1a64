//! What a broker on Redis can be told.

use std::time::Duration;

use canvas_core::{Error, Result};
use canvas_redis::{SentinelOptions, ServerOptions};

/// Settings of a [`RedisBroker`](crate::RedisBroker). The defaults are kombu's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisBrokerConfig {
    /// Put before every key and channel (`global_keyprefix` in Celery's
    /// `broker_transport_options`). All that share the queues must agree on it.
    pub global_keyprefix: String,
    /// The `visibility_timeout` of the Python workers on these queues: after
    /// how long anyone may give a Python worker's delivery to another.
    ///
    /// All that share the queues must agree on it, as in Celery. It is not
    /// the lease of a delivery made here: that is
    /// [`ConsumeSpec::lease`](canvas_core::broker::ConsumeSpec::lease),
    /// which is much shorter and renewed.
    pub visibility_timeout: Duration,
    /// The priorities that have a list of their own, ascending, the first of
    /// them 0 (`priority_steps`).
    pub priority_steps: Vec<u8>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// After how long without an answer a connection is taken for dead.
    pub response_timeout: Duration,
    /// What the sentinels of a `sentinel://` URL must be told.
    pub sentinel: SentinelOptions,
    /// How often leases that have ended are looked for.
    pub sweep_interval: Duration,
}

impl Default for RedisBrokerConfig {
    fn default() -> Self {
        Self {
            global_keyprefix: String::new(),
            visibility_timeout: Duration::from_secs(3_600),
            priority_steps: vec![0, 3, 6, 9],
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(30),
            sentinel: SentinelOptions::default(),
            sweep_interval: Duration::from_secs(1),
        }
    }
}

impl RedisBrokerConfig {
    pub(crate) fn check(&self) -> Result<()> {
        let steps = &self.priority_steps;
        if steps.first() != Some(&0) || !steps.is_sorted_by(|a, b| a < b) {
            return Err(Error::Config(format!(
                "priority_steps must ascend from 0, not be {steps:?}"
            )));
        }
        Ok(())
    }

    pub(crate) fn server(&self) -> ServerOptions {
        ServerOptions {
            port: "broker",
            connect_timeout: self.connect_timeout,
            response_timeout: self.response_timeout,
            sentinel: self.sentinel.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priority_steps_ascend_from_0() {
        for steps in [vec![], vec![1, 2], vec![0, 5, 5]] {
            let config = RedisBrokerConfig {
                priority_steps: steps,
                ..RedisBrokerConfig::default()
            };
            assert!(matches!(config.check(), Err(Error::Config(_))));
        }
    }
}
