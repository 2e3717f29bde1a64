//! Drivers by URL: those that are compiled in.

use canvas_core::{Builder, Canvas, Error, Result};

/// The schemes of Redis.
const REDIS: [&str; 9] = [
    "redis",
    "rediss",
    "redis+socket",
    "redis+unix",
    "socket",
    "unix",
    "valkey",
    "valkeys",
    "sentinel",
];

/// The schemes of RabbitMQ.
const AMQP: [&str; 5] = ["amqp", "amqps", "pyamqp", "pyamqps", "librabbitmq"];

/// Adds [`connect`](Self::connect) to [`Builder`].
pub trait Connect {
    /// Builds the application with the drivers that this crate was built with:
    /// `broker_url` and `result_backend` decide which are used.
    ///
    /// No connection is made yet: a server that is not there shows when it is
    /// first used.
    ///
    /// ```
    /// use canvas::prelude::*;
    /// let app = Canvas::builder().broker_url("memory://").connect()?;
    /// let error = Canvas::builder().broker_url("nats://localhost").connect().unwrap_err();
    /// assert!(error.to_string().contains("no broker for scheme `nats`"), "{error}");
    /// # Ok::<(), canvas::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownScheme`], naming the feature to switch on where there is
    /// one, and what a driver says of a URL.
    fn connect(self) -> Result<Canvas>;
}

impl Connect for Builder {
    fn connect(self) -> Result<Canvas> {
        with_drivers(self).build().map_err(|error| match error {
            Error::UnknownScheme {
                port,
                scheme,
                mut known,
            } => {
                if REDIS.contains(&&*scheme) {
                    known += "; for Redis, switch on the feature `redis` of the canvas crate";
                }
                if AMQP.contains(&&*scheme) && port == "broker" {
                    known += "; for RabbitMQ, switch on the feature `amqp` of the canvas crate";
                }
                Error::UnknownScheme {
                    port,
                    scheme,
                    known,
                }
            }
            other => other,
        })
    }
}

fn with_drivers(builder: Builder) -> Builder {
    with_amqp(with_redis(builder))
}

#[cfg(not(feature = "redis"))]
fn with_redis(builder: Builder) -> Builder {
    builder
}

#[cfg(feature = "redis")]
fn with_redis(builder: Builder) -> Builder {
    use canvas_backend_redis::{RedisBackend, RedisBackendConfig};
    use canvas_broker_redis::{RedisBroker, RedisBrokerConfig};

    builder
        .broker_driver(&REDIS, |config| {
            let own = RedisBrokerConfig::default();
            Ok(RedisBroker::new(&config.broker_url, own)?)
        })
        .backend_driver(&REDIS, |config| {
            let mut own = RedisBackendConfig::default();
            own.result_expires = Some(config.result_expires);
            Ok(RedisBackend::new(&config.result_backend, own)?)
        })
}

#[cfg(not(feature = "amqp"))]
fn with_amqp(builder: Builder) -> Builder {
    builder
}

#[cfg(feature = "amqp")]
fn with_amqp(builder: Builder) -> Builder {
    use canvas_broker_amqp::{AmqpBroker, AmqpBrokerConfig};

    builder.broker_driver(&AMQP, |config| {
        let own = AmqpBrokerConfig::default();
        Ok(AmqpBroker::new(&config.broker_url, own)?)
    })
}
