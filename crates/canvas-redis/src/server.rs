//! Which server: where it is, who logs in, and how to connect.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use canvas_core::{Error, Result};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    ProtocolVersion, RedisConnectionInfo, RedisResult,
};

use crate::health::Health;
use crate::sentinel::{SentinelOptions, Sentinels};
use crate::tls::Tls;
use crate::url::{Host, Problem, SCHEMES, Scheme, Url, without_password};

/// What is the same for all connections to a server, its URL aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerOptions {
    /// What it is used as: `broker` or `backend`.
    pub port: &'static str,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// After how long without an answer a connection is taken for dead.
    pub response_timeout: Duration,
    /// What sentinels must be told.
    pub sentinel: SentinelOptions,
}

/// A Redis server, and a database on it.
pub struct Server {
    place: Place,
    db: i64,
    shown: String,
    id: String,
    options: ServerOptions,
    pub(crate) health: Health,
}

enum Place {
    Known(ConnectionInfo),
    Sentinels(Sentinels),
}

/// How to reach a server, its address aside.
pub(crate) struct Reach {
    login: RedisConnectionInfo,
    tls: Option<Tls>,
}

impl Server {
    /// Reads a URL as Celery does:
    ///
    /// * `redis://[[user]:password@]host[:port][/db]`, and `rediss://…` with
    ///   TLS, which the parameters `ssl_cert_reqs`, `ssl_ca_certs`,
    ///   `ssl_certfile`, `ssl_keyfile` and `ssl_check_hostname` set up;
    /// * `redis+socket://[[user]:password@]/path[?virtual_host=db]`, and the
    ///   same with `socket://` or `unix://`;
    /// * `sentinel://[[user]:password@]host[:port][/db][;sentinel://…]`, with a
    ///   `master_name`; user and password are for the master.
    ///
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::UnknownScheme`] for a URL that makes no
    /// sense, and [`Error::Unsupported`] for TLS that is not compiled in.
    pub fn new(url: &str, options: ServerOptions) -> Result<Arc<Self>> {
        let (text, port) = (url, options.port);
        let wrong = |reason: &dyn fmt::Display| {
            let url = without_password(text);
            Error::Config(format!("the URL of the {port}, `{url}`: {reason}"))
        };
        let url = Url::read(text).map_err(|problem| match problem {
            Problem::UnknownScheme(scheme) => Error::UnknownScheme {
                port,
                scheme,
                known: SCHEMES.to_owned(),
            },
            Problem::Other(reason) => wrong(&reason),
        })?;
        if url.scheme == Scheme::Tcp && url.asks_for_tls() {
            return Err(wrong(&"ssl_… is of no use without TLS; write rediss://"));
        }
        let with_tls = match url.scheme {
            Scheme::Tls => true,
            Scheme::Sentinel => url.asks_for_tls(),
            Scheme::Tcp | Scheme::Socket => false,
        };
        let reach = Reach {
            login: login(url.user.as_deref(), url.password.as_deref()).set_db(url.db),
            tls: with_tls.then(|| Tls::new(&url)).transpose()?,
        };
        let addressed = |host: &Host| reach.at(host).map_err(|e| wrong(&e.category()));
        let db = url.db;
        let (place, id) = match url.scheme {
            Scheme::Socket => {
                let path = ConnectionAddr::Unix(PathBuf::from(&url.path));
                let info = path.into_connection_info();
                let info = info.map_err(|e| wrong(&e.category()))?;
                let info = info.set_redis_settings(reach.login);
                (Place::Known(info), format!("{}/{db}", url.path))
            }
            Scheme::Tcp | Scheme::Tls => {
                let [host] = &*url.hosts else {
                    return Err(wrong(&"no host"));
                };
                (
                    Place::Known(addressed(host)?),
                    format!("{}/{db}", host.id()),
                )
            }
            Scheme::Sentinel => {
                let sentinels = sentinels(&url, reach, &options).map_err(|e| wrong(&e))?;
                let mut hosts: Vec<String> = url.hosts.iter().map(Host::id).collect();
                hosts.sort_unstable();
                let id = format!("{}/{}/{db}", hosts.join(","), sentinels.master_name);
                (Place::Sentinels(sentinels), id)
            }
        };
        Ok(Arc::new(Self {
            place,
            db,
            shown: url.shown(),
            id,
            options,
            health: Health::default(),
        }))
    }

    /// The number of the database.
    pub fn db(&self) -> i64 {
        self.db
    }

    /// The URL without its password.
    pub fn url(&self) -> &str {
        &self.shown
    }

    /// Server and database: the same text for URLs that lead to the same
    /// place, however they are written and whoever logs in. For sentinels it is
    /// they, their name of the master, and the database.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) async fn connect(
        &self,
        config: AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        let config = config
            .set_connection_timeout(Some(self.options.connect_timeout))
            .set_response_timeout(Some(self.options.response_timeout));
        match &self.place {
            Place::Known(info) => {
                Client::open(info.clone())?
                    .get_multiplexed_async_connection_with_config(&config)
                    .await
            }
            Place::Sentinels(sentinels) => sentinels.connect(&config).await,
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Reach {
    pub(crate) fn at(&self, host: &Host) -> RedisResult<ConnectionInfo> {
        let address = match &self.tls {
            Some(tls) => tls.at(host),
            None => ConnectionAddr::Tcp(host.name.clone(), host.port),
        };
        let info = address.into_connection_info()?;
        Ok(info
            .set_tcp_settings(tcp())
            .set_redis_settings(self.login.clone()))
    }
}

fn sentinels(url: &Url, master: Reach, options: &ServerOptions) -> Result<Sentinels, String> {
    let SentinelOptions {
        master_name,
        username,
        password,
    } = &options.sentinel;
    let master_name = url.asked("master_name").or(master_name.as_deref());
    let Some(master_name) = master_name.filter(|name| !name.is_empty()) else {
        return Err(
            "which master? Add ?master_name=… behind the first sentinel, or set master_name"
                .to_owned(),
        );
    };
    let username = url.asked("sentinel_username").or(username.as_deref());
    let password = url.asked("sentinel_password").or(password.as_deref());
    let reach = Reach {
        login: login(username, password),
        tls: None,
    };
    let sentinels = url.hosts.iter().map(|host| reach.at(host));
    let sentinels: RedisResult<Vec<_>> = sentinels.collect();
    Ok(Sentinels {
        master_name: master_name.to_owned(),
        sentinels: sentinels.map_err(|error| error.category().to_owned())?,
        master,
        connect_timeout: options.connect_timeout,
        first: AtomicUsize::new(0),
    })
}

fn login(user: Option<&str>, password: Option<&str>) -> RedisConnectionInfo {
    let mut login = RedisConnectionInfo::default()
        // It tells at once when the connection breaks, and mixes answers with
        // what is sent unasked.
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name("canvas", env!("CARGO_PKG_VERSION"));
    if let Some(user) = user {
        login = login.set_username(user);
    }
    if let Some(password) = password {
        login = login.set_password(password);
    }
    login
}

/// A peer that went without a word must be noticed: Linux alone would keep
/// such a connection for two hours.
fn tcp() -> TcpSettings {
    const PROBE: Duration = Duration::from_secs(10);
    let keepalive = TcpKeepalive::new().with_time(PROBE).with_interval(PROBE);
    let settings = TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(PROBE * 3);
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> Result<Arc<Server>> {
        let options = ServerOptions {
            port: "broker",
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(5),
            sentinel: SentinelOptions::default(),
        };
        Server::new(url, options)
    }

    fn read(url: &str) -> (String, i64, Option<String>, Option<String>) {
        let server = server(url).unwrap_or_else(|e| panic!("{url}: {e}"));
        let (at, info) = match &server.place {
            Place::Known(info) => (info.addr().to_string(), info.clone()),
            Place::Sentinels(Sentinels {
                sentinels, master, ..
            }) => {
                let at: Vec<_> = sentinels.iter().map(|s| s.addr().to_string()).collect();
                let anywhere = Host {
                    name: String::new(),
                    port: 0,
                };
                (at.join(" "), master.at(&anywhere).unwrap())
            }
        };
        let login = info.redis_settings();
        (
            at,
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
        assert_eq!(read("redis://cache?virtual_host=2"), plain("cache:6379", 2));
        assert_eq!(read("redis://[::1]:7000/1"), plain("::1:7000", 1));
        assert_eq!(read("redis:///2"), plain("localhost:6379", 2));
        assert_eq!(read("redis://:7000//"), plain("localhost:7000", 0));
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
    fn sentinels_come_one_after_the_other() {
        let url = "sentinel://ann:secret@one:7000/3?master_name=m;sentinel://two;sentinel://:7001";
        let at = "one:7000 two:26379 localhost:7001".to_owned();
        assert_eq!(read(url), (at, 3, text("ann"), text("secret")));
        let server = server(url).unwrap();
        assert_eq!(server.id(), "127.0.0.1:7001,one:7000,two:26379/m/3");
        assert_eq!(
            server.url(),
            "sentinel://ann:**@one:7000/3;sentinel://two:26379;sentinel://localhost:7001"
        );
    }

    #[test]
    fn what_sentinels_must_be_told_may_be_set_aside_from_the_url() {
        let options = || ServerOptions {
            port: "broker",
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(5),
            sentinel: SentinelOptions {
                master_name: text("m"),
                username: text("ann"),
                password: text("secret"),
            },
        };
        assert!(!format!("{:?}", options()).contains("secret"));
        let read = |url| {
            let server = Server::new(url, options()).unwrap();
            let Place::Sentinels(sentinels) = &server.place else {
                panic!("no sentinels");
            };
            let login = sentinels.sentinels[0].redis_settings();
            (
                sentinels.master_name.clone(),
                login.username().map(str::to_owned),
                login.password().map(str::to_owned),
            )
        };
        let own = ("m".to_owned(), text("ann"), text("secret"));
        assert_eq!(read("sentinel://one"), own);
        assert_eq!(
            read("sentinel://one?master_name=n&sentinel_username=bob&sentinel_password=hidden"),
            ("n".to_owned(), text("bob"), text("hidden"))
        );
    }

    #[test]
    fn a_password_is_never_shown() {
        let table = [
            ("redis://ann:secret@cache/1", "redis://ann:**@cache:6379/1"),
            ("redis://ann@cache", "redis://ann@cache:6379/0"),
            ("redis://:secret@[::1]", "redis://:**@[::1]:6379/0"),
            (
                "socket://:secret@/run/r.sock",
                "redis+socket://:**@/run/r.sock?virtual_host=0",
            ),
        ];
        for (url, shown) in table {
            let server = server(url).unwrap();
            assert_eq!(server.url(), shown);
            assert_eq!(format!("{server:?}"), shown);
        }
        for url in [
            "redis://ann:secret@cache:port/1",
            "redis://ann:secret@cache/one",
            "redis://ann:secret@cache/-1",
            "ann:secret@cache",
            "redis+socket://ann:secret@nowhere",
            "redis://cache/one?password=secret",
            "amqp://ann:secret@cache",
            "sentinel://ann:secret@one",
            "sentinel://ann:secret@one;sentinel://:secret@two/7?master_name=m",
            "redis://ann:secret@cache?ssl_cert_reqs=none",
        ] {
            let error = server(url).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_same_place_has_the_same_id() {
        let id = |url| server(url).unwrap().id().to_owned();
        assert_eq!(id("redis://LocalHost"), "127.0.0.1:6379/0");
        assert_eq!(
            id("redis://LocalHost"),
            id("redis://:secret@127.0.0.1:6379/0")
        );
        assert_eq!(id("redis://[::1]/1"), id("redis://localhost/1"));
        assert_eq!(
            id("unix:///run/redis.sock?db=1"),
            id("redis+socket:///run/redis.sock?virtual_host=1")
        );
        assert_ne!(id("redis://cache/0"), id("redis://cache/1"));
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_hint() {
        let error = |url| server(url).unwrap_err();
        assert!(matches!(error("amqp://cache"), Error::UnknownScheme { .. }));
        let table = [
            ("cache", "write redis://host:6379/0"),
            ("redis://cache:port", "`port` is no port"),
            ("redis://cache/one", "`one` is no number of a database"),
            ("redis+socket://run/redis.sock", "redis+socket:///path"),
            ("redis://cache?ssl_cert_reqs=none", "write rediss://"),
            ("redis://one;redis://two", "only sentinels"),
            ("sentinel://one", "Add ?master_name="),
            (
                "sentinel://one;sentinel://two/3?master_name=m",
                "behind the first sentinel",
            ),
        ];
        for (url, hint) in table {
            let error = error(url).to_string();
            assert!(error.contains(hint), "{error}");
        }
    }
}
