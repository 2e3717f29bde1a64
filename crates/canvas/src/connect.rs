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

/// The schemes of Memcached; Celery writes them with `cache+`, and names what were
/// Python's clients.
const MEMCACHE: [&str; 8] = [
    "memcached",
    "memcache",
    "pymemcache",
    "pylibmc",
    "cache+memcached",
    "cache+memcache",
    "cache+pymemcache",
    "cache+pylibmc",
];

/// Ours, and those of SQLAlchemy that Celery takes, which name a driver of
/// Python's.
const POSTGRES: [&str; 7] = [
    "postgres",
    "postgresql",
    "db+postgres",
    "db+postgresql",
    "db+postgresql+psycopg2",
    "db+postgresql+psycopg",
    "db+postgresql+pg8000",
];

const MYSQL: [&str; 9] = [
    "mysql",
    "mariadb",
    "db+mysql",
    "db+mysql+pymysql",
    "db+mysql+mysqldb",
    "db+mysql+mysqlconnector",
    "db+mariadb",
    "db+mariadb+pymysql",
    "db+mariadb+mariadbconnector",
];

const SQLITE: [&str; 3] = ["sqlite", "db+sqlite", "db+sqlite+pysqlite"];

/// What to switch on for a scheme, and whether it serves that port.
fn feature(port: &str, scheme: &str) -> Option<&'static str> {
    let is_backend = port == "backend";
    if REDIS.contains(&scheme) {
        Some("; for Redis, switch on the feature `redis` of the canvas crate")
    } else if AMQP.contains(&scheme) && port == "broker" {
        Some("; for RabbitMQ, switch on the feature `amqp` of the canvas crate")
    } else if scheme == "rpc" && is_backend {
        Some("; for results over RabbitMQ, switch on the feature `rpc` of the canvas crate")
    } else if MEMCACHE.contains(&scheme) && is_backend {
        Some("; for Memcached, switch on the feature `memcache` of the canvas crate")
    } else if POSTGRES.contains(&scheme) && is_backend {
        Some("; for PostgreSQL, switch on the feature `postgres` of the canvas crate")
    } else if MYSQL.contains(&scheme) && is_backend {
        Some("; for MariaDB and MySQL, switch on the feature `mysql` of the canvas crate")
    } else if SQLITE.contains(&scheme) && is_backend {
        Some("; for SQLite, switch on the feature `sqlite` of the canvas crate")
    } else {
        None
    }
}

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
                known += feature(port, &scheme).unwrap_or_default();
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
    with_sql(with_memcache(with_rpc(with_amqp(with_redis(builder)))))
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

#[cfg(not(feature = "rpc"))]
fn with_rpc(builder: Builder) -> Builder {
    builder
}

#[cfg(feature = "rpc")]
fn with_rpc(builder: Builder) -> Builder {
    use canvas_backend_rpc::{RpcBackend, RpcBackendConfig};

    builder.backend_driver(&["rpc"], |config| {
        let mut own = RpcBackendConfig::default();
        own.persistent = config.result_persistent;
        own.result_expires = Some(config.result_expires);
        let backend = RpcBackend::new(&config.result_backend, &config.broker_url, own)?;
        Ok(backend)
    })
}

#[cfg(not(feature = "memcache"))]
fn with_memcache(builder: Builder) -> Builder {
    builder
}

#[cfg(feature = "memcache")]
fn with_memcache(builder: Builder) -> Builder {
    use canvas_backend_memcache::{MemcacheBackend, MemcacheBackendConfig};

    builder.backend_driver(&MEMCACHE, |config| {
        let mut own = MemcacheBackendConfig::default();
        own.result_expires = Some(config.result_expires);
        Ok(MemcacheBackend::new(&config.result_backend, own)?)
    })
}

#[cfg(not(any(feature = "postgres", feature = "mysql", feature = "sqlite")))]
fn with_sql(builder: Builder) -> Builder {
    builder
}

#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
fn with_sql(builder: Builder) -> Builder {
    use canvas_backend_sql::{SqlBackend, SqlBackendConfig};

    let schemes: [(bool, &[&'static str]); 3] = [
        (cfg!(feature = "postgres"), &POSTGRES),
        (cfg!(feature = "mysql"), &MYSQL),
        (cfg!(feature = "sqlite"), &SQLITE),
    ];
    let switched_on = schemes.into_iter().filter(|(is_on, _)| *is_on);
    switched_on.fold(builder, |builder, (_, schemes)| {
        builder.backend_driver(schemes, |config| {
            let mut own = SqlBackendConfig::default();
            own.result_expires = Some(config.result_expires);
            Ok(SqlBackend::new(&config.result_backend, own)?)
        })
    })
}
