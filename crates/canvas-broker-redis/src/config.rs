//! What a broker on Redis can be told, and where the server is.

use std::fmt;
use std::time::Duration;

use canvas_core::{Error, Result};
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};

use crate::link::Health;

/// The schemes of URLs that are understood.
const SCHEMES: &str = "redis://, unix:// and redis+socket://";

/// After how long a silent connection is tried by the operating system.
const KEEPALIVE: Duration = Duration::from_secs(30);

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
}

/// A Redis server and a database in it.
pub(crate) struct Server {
    pub(crate) info: ConnectionInfo,
    pub(crate) health: Health,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl Server {
    /// Reads a URL as kombu does.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| Error::Config(format!("not a Redis URL: only {SCHEMES} are")))?;
        let url = match scheme {
            "redis" | "valkey" => format!("redis://{}", with_host(rest)),
            "unix" | "redis+unix" => format!("unix://{}", rest.replace("virtual_host=", "db=")),
            "redis+socket" => socket(rest),
            "rediss" | "valkeys" => {
                return Err(unsupported(
                    "TLS is not compiled in: use a tunnel and redis://",
                ));
            }
            "sentinel" => {
                return Err(unsupported(
                    "give the URL of the master (redis://host:port/db)",
                ));
            }
            other => {
                return Err(Error::UnknownScheme {
                    port: "broker",
                    scheme: other.to_owned(),
                    known: SCHEMES.to_owned(),
                });
            }
        };
        // The driver's message may quote the URL, and with it the password.
        let info = url.into_connection_info().map_err(|e| {
            Error::Config(format!("the Redis URL cannot be read: {}", e.category()))
        })?;
        let settings = info.redis_settings().clone();
        if settings.db() < 0 {
            return Err(Error::Config(format!("no database {}", settings.db())));
        }
        // Version 3 of the protocol brings word of changes on any connection.
        let settings = settings.set_protocol(ProtocolVersion::RESP3);
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
        let tcp = info.tcp_settings().clone();
        let tcp = tcp.set_nodelay(true).set_keepalive(keepalive);
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
        Ok(Self {
            info,
            health: Health::default(),
        })
    }

    pub(crate) fn db(&self) -> i64 {
        self.info.redis_settings().db()
    }

    /// The URL, without the password.
    pub(crate) fn redacted(&self) -> String {
        let settings = self.info.redis_settings();
        let user = settings.username().unwrap_or_default();
        let login = match settings.password() {
            Some(_) => format!("{user}:***@"),
            None if user.is_empty() => String::new(),
            None => format!("{user}@"),
        };
        match self.info.addr() {
            ConnectionAddr::Unix(path) => {
                format!(
                    "redis+socket://{login}{}?virtual_host={}",
                    path.display(),
                    self.db()
                )
            }
            address => format!("redis://{login}{address}/{}", self.db()),
        }
    }

    /// `host:port/db`, the same for all ways to write it.
    pub(crate) fn id(&self) -> String {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, port) => {
                let host = host.to_ascii_lowercase();
                let host = match host.as_str() {
                    "localhost" | "::1" | "[::1]" => "127.0.0.1",
                    other => other,
                };
                format!("{host}:{port}/{}", self.db())
            }
            address => format!("{address}/{}", self.db()),
        }
    }
}

fn unsupported(hint: &str) -> Error {
    Error::Unsupported {
        operation: "broker.connect",
        driver: "the Redis broker".to_owned(),
        hint: hint.to_owned(),
    }
}

/// What follows `redis://`, with the host that kombu takes if there is none.
fn with_host(rest: &str) -> String {
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (login, address) = match authority.rsplit_once('@') {
        Some((login, address)) => (format!("{login}@"), address),
        None => (String::new(), authority),
    };
    let host = match address {
        "" => "127.0.0.1".to_owned(),
        port if port.starts_with(':') => format!("127.0.0.1{port}"),
        host => host.to_owned(),
    };
    format!("{login}{host}{path}").replace("virtual_host=", "db=")
}

/// `[user:password@]/path?virtual_host=db`, as the driver wants it.
fn socket(rest: &str) -> String {
    let (login, path) = match rest.find('/').and_then(|at| rest[..at].strip_suffix('@')) {
        Some(login) => (login, &rest[login.len() + 1..]),
        None => ("", rest),
    };
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let mut query: Vec<String> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.replace("virtual_host=", "db="))
        .collect();
    if let Some((user, password)) = login.split_once(':') {
        if !user.is_empty() {
            query.push(format!("user={user}"));
        }
        query.push(format!("pass={password}"));
    }
    format!("unix://{path}?{}", query.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_kombu_reads_them() {
        let table = [
            ("redis://", "redis://127.0.0.1:6379/0", "127.0.0.1:6379/0"),
            (
                "redis://localhost",
                "redis://localhost:6379/0",
                "127.0.0.1:6379/0",
            ),
            ("redis:///2", "redis://127.0.0.1:6379/2", "127.0.0.1:6379/2"),
            (
                "redis://:7000/1",
                "redis://127.0.0.1:7000/1",
                "127.0.0.1:7000/1",
            ),
            (
                "redis://Redis.Example:7000//",
                "redis://Redis.Example:7000/0",
                "redis.example:7000/0",
            ),
            ("redis://:pa%40ss@h:1/3", "redis://:***@h:1/3", "h:1/3"),
            ("redis://ann:secret@h:1/3", "redis://ann:***@h:1/3", "h:1/3"),
            (
                "unix:///run/r.sock?db=4",
                "redis+socket:///run/r.sock?virtual_host=4",
                "/run/r.sock/4",
            ),
            (
                "redis+socket:///run/r.sock?virtual_host=4",
                "redis+socket:///run/r.sock?virtual_host=4",
                "/run/r.sock/4",
            ),
            (
                "redis+socket://ann:secret@/run/r.sock",
                "redis+socket://ann:***@/run/r.sock?virtual_host=0",
                "/run/r.sock/0",
            ),
        ];
        for (url, redacted, id) in table {
            let server = Server::parse(url).unwrap_or_else(|e| panic!("{url}: {e}"));
            assert_eq!(server.redacted(), redacted, "{url}");
            assert_eq!(server.id(), id, "{url}");
        }
        let login = Server::parse("redis+socket://ann:secret@/run/r.sock").unwrap();
        assert_eq!(login.info.redis_settings().password(), Some("secret"));
        let login = Server::parse("redis://:pa%40ss@h:1/3").unwrap();
        assert_eq!(login.info.redis_settings().password(), Some("pa@ss"));
    }

    #[test]
    fn a_url_that_cannot_be_used_says_why_and_keeps_its_password() {
        let table = [
            ("rediss://:secret@h/0", "TLS is not compiled in"),
            ("sentinel://:secret@h:26379", "URL of the master"),
            ("amqp://guest:secret@h", "no broker for scheme `amqp`"),
            ("redis://:secret@h:port/0", "cannot be read"),
            ("redis://:secret@h/zero", "cannot be read"),
            ("no url", "not a Redis URL"),
        ];
        for (url, want) in table {
            let error = Server::parse(url).expect_err(url).to_string();
            assert!(error.contains(want), "{url}: {error}");
            assert!(!error.contains("secret"), "{url}: {error}");
        }
    }

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
