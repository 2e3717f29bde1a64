//! The pairs of a broker and a result backend on which Celery's tests run, and
//! the servers that each takes.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::services::{Memcached, Postgres, Private, RabbitMq, Redis, Service};

/// A broker and a backend.
pub(super) struct Pair {
    /// What it is called; `tests/interop/` has its exclusions under this name.
    pub(super) name: &'static str,
    broker: Broker,
    backend: Backend,
}

#[derive(Clone, Copy)]
enum Broker {
    Redis,
    Amqp,
}

#[derive(Clone, Copy)]
enum Backend {
    Redis,
    Postgres,
    Memcached,
    Rpc,
}

/// All pairs. The first is the one that is taken if nothing is said.
pub(super) const PAIRS: [Pair; 5] = [
    Pair::of("redis+redis", Broker::Redis, Backend::Redis),
    Pair::of("amqp+redis", Broker::Amqp, Backend::Redis),
    Pair::of("redis+postgres", Broker::Redis, Backend::Postgres),
    Pair::of("redis+memcached", Broker::Redis, Backend::Memcached),
    Pair::of("amqp+rpc", Broker::Amqp, Backend::Rpc),
];

impl Pair {
    const fn of(name: &'static str, broker: Broker, backend: Backend) -> Self {
        Self {
            name,
            broker,
            backend,
        }
    }

    /// The one with this name.
    pub(super) fn named(name: &str) -> Result<&'static Self, String> {
        PAIRS.iter().find(|pair| pair.name == name).ok_or_else(|| {
            let known: Vec<&str> = PAIRS.iter().map(|pair| pair.name).collect();
            format!("no such pair: {name}; known are {}", known.join(", "))
        })
    }

    /// Starts the servers that all parts of the tests share, with their data in
    /// `folder`.
    pub(super) fn start(&self, folder: &Path) -> Result<Servers, String> {
        let start = |service: &dyn Service| {
            let folder = folder.join(service.name());
            // What was left in it is not for these tests.
            let _ = fs::remove_dir_all(&folder);
            Private::start(service, &folder)
        };
        Ok(Servers {
            rabbit: match self.broker {
                Broker::Redis => None,
                Broker::Amqp => Some(start(&RabbitMq)?),
            },
            backend: match self.backend {
                Backend::Redis | Backend::Rpc => None,
                Backend::Postgres => Some(start(&Postgres)?),
                Backend::Memcached => Some(start(&Memcached)?),
            },
            kind: self.backend,
        })
    }
}

/// Servers that live as long as this does.
pub(super) struct Servers {
    rabbit: Option<Private>,
    backend: Option<Private>,
    kind: Backend,
}

impl Servers {
    /// Starts what one part of the tests has for itself, with its data in
    /// `folder`: a Redis, for the tests keep notes there whatever the pair is,
    /// and a place for its queues. Results can be in one store, since no two
    /// tasks have one id.
    pub(super) fn part(&self, folder: &Path, part: usize) -> Result<(Private, Urls), String> {
        let redis = Private::start(&Redis, &folder.join("redis"))?;
        let notes = redis.place.port;
        let in_redis = format!("redis://127.0.0.1:{notes}/0");
        let broker = match &self.rabbit {
            None => in_redis.clone(),
            Some(rabbit) => {
                let vhost = format!("part-{part}");
                add_vhost(rabbit, &vhost)?;
                let port = rabbit.place.port;
                format!("pyamqp://guest:guest@127.0.0.1:{port}/{vhost}")
            }
        };
        let port = self.backend.as_ref().map_or(0, |server| server.place.port);
        let backend = match self.kind {
            Backend::Redis => in_redis,
            // SQLAlchemy would take a driver that is not installed.
            Backend::Postgres => {
                format!("db+postgresql+psycopg2://postgres@127.0.0.1:{port}/postgres")
            }
            Backend::Memcached => format!("cache+memcached://127.0.0.1:{port}/"),
            Backend::Rpc => "rpc://".to_owned(),
        };
        let urls = Urls {
            broker,
            backend,
            notes,
        };
        Ok((redis, urls))
    }
}

/// Where the servers are, as Celery is told.
pub(super) struct Urls {
    pub(super) broker: String,
    pub(super) backend: String,
    /// The port of the Redis that tests and tasks keep notes in.
    pub(super) notes: u16,
}

/// Adds a virtual host to a RabbitMQ, once its management answers: that is up
/// a little later than the rest.
fn add_vhost(rabbit: &Private, name: &str) -> Result<(), String> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let found = RabbitMq.variables(&rabbit.place);
    let url = found
        .iter()
        .find(|(name, _)| name.ends_with("MANAGEMENT_URL"));
    let address = url
        .and_then(|(_, url)| url.rsplit('@').next())
        .unwrap_or_default();
    let put = |path: &str, body: &str| -> Result<(), String> {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let length = body.len();
            write!(
                stream,
                "PUT /api/{path} HTTP/1.0\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\
                 Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = ask().map_err(|e| format!("{address}: {e}"))?;
        match answer.split(' ').nth(1) {
            Some(code) if code.starts_with('2') => Ok(()),
            _ => Err(format!("{address}: PUT {path}: {answer}")),
        }
    };
    let started = Instant::now();
    loop {
        let all = r#"{"configure": ".*", "write": ".*", "read": ".*"}"#;
        let added = put(&format!("vhosts/{name}"), "{}")
            .and_then(|()| put(&format!("permissions/{name}/guest"), all));
        if added.is_ok() || started.elapsed() > PATIENCE {
            return added;
        }
        thread::sleep(Duration::from_millis(100));
    }
}
