//! Which server: URLs as Celery takes them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use canvas_core::{Error, Result};
use redis::io::tcp::TcpSettings;
use redis::{
    ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo,
};

/// A Redis server, and a database on it.
#[derive(Clone)]
pub(crate) struct Server {
    info: ConnectionInfo,
    shown: String,
    id: String,
}

/// The parts of a URL.
#[derive(Debug, Default)]
struct Parts<'a> {
    user: Option<String>,
    password: Option<String>,
    host: &'a str,
    port: Option<u16>,
    path: String,
    query: Vec<(String, String)>,
}

impl Server {
    /// Reads `redis://[[user]:password@]host[:port][/db]`,
    /// `redis+socket://[[user]:password@]/path[?virtual_host=db]`, and the
    /// same with `socket://` or `unix://`.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let wrong = |reason: &str| {
            Error::Config(format!(
                "result backend `{}`: {reason}",
                without_password(url)
            ))
        };
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| wrong("not a URL; write redis://host:6379/0"))?;
        let is_socket = match scheme {
            "redis" | "valkey" => false,
            "redis+socket" | "socket" | "redis+unix" | "unix" => true,
            "rediss" | "sentinel" => {
                return Err(Error::Unsupported {
                    operation: "backend.connect",
                    driver: format!("canvas-backend-redis, for {scheme}://"),
                    hint: "use redis:// or redis+socket://, through a tunnel or proxy if \
                           it must be TLS or a sentinel"
                        .to_owned(),
                });
            }
            other => {
                return Err(Error::UnknownScheme {
                    port: "backend",
                    scheme: other.to_owned(),
                    known: "redis, redis+socket, socket, unix".to_owned(),
                });
            }
        };
        let parts = Parts::read(rest).map_err(|reason| wrong(&reason))?;
        let db = parts.db(is_socket).map_err(|reason| wrong(&reason))?;
        let user = parts.user.as_deref().unwrap_or_default();
        let login = match &parts.password {
            Some(_) => format!("{user}:**@"),
            None => String::new(),
        };
        let (addr, shown, id) = if is_socket {
            if !parts.host.is_empty() || parts.path.len() < 2 {
                return Err(wrong(
                    "the path of the socket is missing; write redis+socket:///path/to/redis.sock",
                ));
            }
            let path = parts.path.as_str();
            (
                ConnectionAddr::Unix(PathBuf::from(path)),
                format!("redis+socket://{login}{path}?virtual_host={db}"),
                format!("{path}/{db}"),
            )
        } else {
            let host = match parts.host {
                "" => "localhost",
                host => host,
            };
            let port = parts.port.unwrap_or(6379);
            let at = match host.contains(':') {
                true => format!("[{host}]:{port}"),
                false => format!("{host}:{port}"),
            };
            let same = match host.to_lowercase() {
                host if host == "localhost" || host == "::1" => "127.0.0.1".to_owned(),
                host => host,
            };
            (
                ConnectionAddr::Tcp(host.to_owned(), port),
                format!("redis://{login}{at}/{db}"),
                format!("{same}:{port}/{db}"),
            )
        };
        let mut login = RedisConnectionInfo::default()
            .set_db(db)
            .set_lib_name("canvas", env!("CARGO_PKG_VERSION"));
        if let Some(user) = parts.user.filter(|user| !user.is_empty()) {
            login = login.set_username(user);
        }
        if let Some(password) = parts.password {
            login = login.set_password(password);
        }
        let info = addr
            .into_connection_info()
            .map_err(|e| wrong(&e.to_string()))?
            .set_tcp_settings(tcp())
            .set_redis_settings(login);
        Ok(Self { info, shown, id })
    }

    /// How to connect.
    pub(crate) fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    /// The same server, spoken to in another version of its protocol.
    pub(crate) fn speaking(mut self, protocol: ProtocolVersion) -> Self {
        let login = self.info.redis_settings().clone().set_protocol(protocol);
        self.info = self.info.set_redis_settings(login);
        self
    }

    /// The URL without its password.
    pub(crate) fn url(&self) -> &str {
        &self.shown
    }

    /// Server and database, the same for URLs that differ only in how they are
    /// written or in who logs in.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// A peer that went without a word must be noticed: Linux alone would keep
/// such a connection for two hours.
fn tcp() -> TcpSettings {
    const PROBE: Duration = Duration::from_secs(10);
    let keepalive = redis::io::tcp::socket2::TcpKeepalive::new()
        .with_time(PROBE)
        .with_interval(PROBE);
    let settings = TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(PROBE * 3);
    settings
}

impl<'a> Parts<'a> {
    /// Reads what follows the scheme.
    fn read(rest: &'a str) -> Result<Self, String> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (login, address) = match authority.rsplit_once('@') {
            Some((login, address)) => (Some(login), address),
            None => (None, authority),
        };
        let mut parts = Self {
            path: decoded(path)?,
            ..Self::default()
        };
        (parts.host, parts.port) = host_and_port(address)?;
        if let Some(login) = login {
            let (user, password) = match login.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (login, None),
            };
            parts.user = Some(decoded(user)?);
            parts.password = password.map(decoded).transpose()?;
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name)?, decoded(&value.replace('+', " "))?);
            match name.as_str() {
                "username" | "user" => parts.user = Some(value),
                "password" | "pass" => parts.password = Some(value),
                "virtual_host" | "db" => parts.query.push((name, value)),
                _ => tracing::warn!(parameter = name, "not known, and ignored, in the URL"),
            }
        }
        Ok(parts)
    }

    /// The database: `db` counts before all else, as in Celery.
    fn db(&self, is_socket: bool) -> Result<i64, String> {
        let asked = |wanted: &str| {
            let found = self.query.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.as_str())
        };
        let path = Some(self.path.as_str()).filter(|_| !is_socket);
        let db = asked("db").or(path.filter(|path| path.len() > 1));
        match db.or(asked("virtual_host")).map(|db| db.trim_matches('/')) {
            None | Some("") => Ok(0),
            Some(db) => match db.parse::<u32>() {
                Ok(number) => Ok(number.into()),
                Err(_) => Err(format!("`{db}` is no number of a database")),
            },
        }
    }
}

fn host_and_port(address: &str) -> Result<(&str, Option<u16>), String> {
    let (host, port) = match address.strip_prefix('[').and_then(|a| a.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => match address.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let port = port.filter(|port| !port.is_empty());
    let port = port.map(|port| port.parse().map_err(|_| format!("`{port}` is no port")));
    Ok((host, port.transpose()?))
}

/// Text with its `%XX` replaced.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        let code = (*first == b'%').then(|| tail.get(..2)).flatten();
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).map_err(|_| "a %XX in it is no UTF-8".to_owned())
}

/// A URL that may make no sense, without what may be a password.
fn without_password(url: &str) -> String {
    let url = url.split_once('?').map_or(url, |(url, _)| url);
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://**@{rest}"),
        (None, Some((_, rest))) => format!("**@{rest}"),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> (String, i64, Option<String>, Option<String>) {
        let server = Server::parse(url).unwrap();
        let login = server.info().redis_settings();
        (
            server.info().addr().to_string(),
            login.db(),
            login.username().map(str::to_owned),
            login.password().map(str::to_owned),
        )
    }

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn urls_are_read_as_celery_reads_them() {
        let plain = |at: &str, db| (at.to_owned(), db, None, None);
        assert_eq!(read("redis://"), plain("localhost:6379", 0));
        assert_eq!(read("redis://cache"), plain("cache:6379", 0));
        assert_eq!(read("redis://cache:7000/3"), plain("cache:7000", 3));
        assert_eq!(read("redis://cache/1?db=2"), plain("cache:6379", 2));
        assert_eq!(read("redis://[::1]:7000/1"), plain("::1:7000", 1));
        assert_eq!(read("redis:///2"), plain("localhost:6379", 2));
        let at = || "cache:6379".to_owned();
        assert_eq!(
            read("redis://:s%40fe@cache/1"),
            (at(), 1, None, text("s@fe"))
        );
        assert_eq!(
            read("redis://ann:a:b@cache"),
            (at(), 0, text("ann"), text("a:b"))
        );
    }

    #[test]
    fn a_socket_is_a_path_and_its_database_a_parameter() {
        for scheme in ["redis+socket", "socket", "unix", "redis+unix"] {
            let url = format!("{scheme}:///run/my%20redis.sock?virtual_host=4");
            let path = "/run/my redis.sock".to_owned();
            assert_eq!(read(&url), (path, 4, None, None));
        }
        let url = "redis+socket://:secret@/run/redis.sock";
        let path = "/run/redis.sock".to_owned();
        assert_eq!(read(url), (path, 0, None, text("secret")));
    }

    #[test]
    fn a_password_is_never_shown() {
        let server = Server::parse("redis://ann:secret@cache/1").unwrap();
        assert_eq!(server.url(), "redis://ann:**@cache:6379/1");
        assert_eq!(format!("{server:?}"), server.url());
        for url in [
            "redis://ann:secret@cache:port/1",
            "redis://ann:secret@cache/one",
            "redis://ann:secret@cache/-1",
            "ann:secret@cache",
            "redis+socket://ann:secret@nowhere",
            "redis://cache/one?password=secret",
        ] {
            let error = Server::parse(url).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_same_store_has_the_same_id() {
        let id = |url| Server::parse(url).unwrap().id().to_owned();
        assert_eq!(
            id("redis://LocalHost"),
            id("redis://:secret@127.0.0.1:6379/0")
        );
        assert_eq!(
            id("unix:///run/redis.sock?db=1"),
            id("redis+socket:///run/redis.sock?virtual_host=1")
        );
        assert_ne!(id("redis://cache/0"), id("redis://cache/1"));
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_hint() {
        let error = |url| Server::parse(url).unwrap_err();
        assert!(matches!(error("rediss://cache"), Error::Unsupported { .. }));
        assert!(matches!(error("amqp://cache"), Error::UnknownScheme { .. }));
        let hint = error("redis+socket://run/redis.sock").to_string();
        assert!(hint.contains("redis+socket:///path"), "{hint}");
    }
}
