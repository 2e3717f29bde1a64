//! URLs of Redis as Celery takes them.

use std::fmt;

/// What a URL leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Tcp,
    Tls,
    Socket,
    Sentinel,
}

/// The schemes that are understood, for whoever has written another one.
pub(crate) const SCHEMES: &str = "redis, rediss, redis+socket, socket, unix, sentinel";

/// The port of a server, and of a sentinel, of which the URL names none.
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// What a URL may ask for behind its question mark, the login aside.
const PARAMETERS: [&str; 10] = [
    "db",
    "virtual_host",
    "ssl_cert_reqs",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_check_hostname",
    "master_name",
    "sentinel_username",
    "sentinel_password",
];

impl Scheme {
    pub(crate) fn read(scheme: &str) -> Option<Self> {
        match scheme {
            "redis" | "valkey" => Some(Self::Tcp),
            "rediss" | "valkeys" => Some(Self::Tls),
            "redis+socket" | "socket" | "redis+unix" | "unix" => Some(Self::Socket),
            "sentinel" => Some(Self::Sentinel),
            _ => None,
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Sentinel => SENTINEL_PORT,
            _ => PORT,
        }
    }
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) port: u16,
}

impl Host {
    fn read(address: &str, scheme: Scheme) -> Result<Self, String> {
        let (name, port) = match address.strip_prefix('[').and_then(|a| a.split_once(']')) {
            Some((name, port)) => (name, port.strip_prefix(':')),
            None => match address.rsplit_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (address, None),
            },
        };
        let name = match name {
            "" => "localhost",
            name => name,
        };
        let port = match port.filter(|port| !port.is_empty()) {
            None => scheme.port(),
            Some(port) => port.parse().map_err(|_| format!("`{port}` is no port"))?,
        };
        Ok(Self {
            name: name.to_owned(),
            port,
        })
    }

    /// The same for all ways to write it.
    pub(crate) fn id(&self) -> String {
        let name = self.name.to_lowercase();
        let name = match name.as_str() {
            "localhost" | "::1" => "127.0.0.1",
            other => other,
        };
        format!("{name}:{}", self.port)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.contains(':') {
            true => write!(f, "[{}]:{}", self.name, self.port),
            false => write!(f, "{}:{}", self.name, self.port),
        }
    }
}

/// What a URL says.
#[derive(Debug)]
pub(crate) struct Url {
    pub(crate) scheme: Scheme,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    /// Several only of sentinels; none of a socket.
    pub(crate) hosts: Vec<Host>,
    /// Of a socket.
    pub(crate) path: String,
    pub(crate) db: i64,
    query: Vec<(String, String)>,
}

/// Why a URL cannot be used.
#[derive(Debug)]
pub(crate) enum Problem {
    UnknownScheme(String),
    Other(String),
}

impl From<String> for Problem {
    fn from(reason: String) -> Self {
        Self::Other(reason)
    }
}

impl Url {
    /// Reads one URL, or several of sentinels with a `;` between them: as in
    /// Celery all but the addresses is then taken from the first one.
    pub(crate) fn read(text: &str) -> Result<Self, Problem> {
        let mut urls = text.split(';');
        let mut url = Self::read_one(urls.next().unwrap_or_default())?;
        for other in urls {
            let other = Self::read_one(other)?;
            if url.scheme != Scheme::Sentinel || other.scheme != Scheme::Sentinel {
                return Err(Problem::Other("only sentinels can be several".to_owned()));
            }
            if other.db != 0 && other.db != url.db {
                return Err(Problem::Other(
                    "the database counts where it stands behind the first sentinel, as in Celery; \
                     write sentinel://one:26379/db;sentinel://two:26379"
                        .to_owned(),
                ));
            }
            url.hosts.extend(other.hosts);
        }
        Ok(url)
    }

    fn read_one(text: &str) -> Result<Self, Problem> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| "not a URL; write redis://host:6379/0".to_owned())?;
        let scheme =
            Scheme::read(scheme).ok_or_else(|| Problem::UnknownScheme(scheme.to_owned()))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (login, address) = match authority.rsplit_once('@') {
            Some((login, address)) => (Some(login), address),
            None => (None, authority),
        };
        let path = decoded(path)?;
        let mut url = Self {
            scheme,
            user: None,
            password: None,
            hosts: Vec::new(),
            path: String::new(),
            db: 0,
            query: Vec::new(),
        };
        if let Some(login) = login {
            let (user, password) = match login.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (login, None),
            };
            url.user = Some(decoded(user)?).filter(|user| !user.is_empty());
            url.password = password.map(decoded).transpose()?;
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name)?, decoded(&value.replace('+', " "))?);
            match name.as_str() {
                "username" | "user" => url.user = Some(value),
                "password" | "pass" => url.password = Some(value),
                name if PARAMETERS.contains(&name) => url.query.push((name.to_owned(), value)),
                _ => tracing::warn!(parameter = name, "not known, and ignored, in the URL"),
            }
        }
        if scheme == Scheme::Socket {
            if !address.is_empty() || path.len() < 2 {
                return Err(Problem::Other(
                    "the path of the socket is missing; write redis+socket:///path/to/redis.sock"
                        .to_owned(),
                ));
            }
            url.db = url.number_of_db(None)?;
            url.path = path;
        } else {
            url.hosts.push(Host::read(address, scheme)?);
            url.db = url.number_of_db(Some(path.as_str()).filter(|path| path.len() > 1))?;
        }
        Ok(url)
    }

    /// The database: `db` counts before all else, as in Celery.
    fn number_of_db(&self, path: Option<&str>) -> Result<i64, String> {
        let db = self.asked("db").or(path).or(self.asked("virtual_host"));
        match db.map(|db| db.trim_matches('/')) {
            None | Some("") => Ok(0),
            Some(db) => match db.parse::<u32>() {
                Ok(number) => Ok(number.into()),
                Err(_) => Err(format!("`{db}` is no number of a database")),
            },
        }
    }

    /// A parameter that was given.
    pub(crate) fn asked(&self, wanted: &str) -> Option<&str> {
        let found = self.query.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether any parameter of TLS was given.
    pub(crate) fn asks_for_tls(&self) -> bool {
        self.query.iter().any(|(name, _)| name.starts_with("ssl_"))
    }

    /// The URL without its passwords.
    pub(crate) fn shown(&self) -> String {
        let user = self.user.as_deref().unwrap_or_default();
        let login = match &self.password {
            Some(_) => format!("{user}:**@"),
            None if user.is_empty() => String::new(),
            None => format!("{user}@"),
        };
        let db = self.db;
        let scheme = match self.scheme {
            Scheme::Socket => {
                return format!("redis+socket://{login}{}?virtual_host={db}", self.path);
            }
            Scheme::Tcp => "redis",
            Scheme::Tls => "rediss",
            Scheme::Sentinel => "sentinel",
        };
        let mut hosts = self.hosts.iter();
        let mut shown = match hosts.next() {
            Some(first) => format!("{scheme}://{login}{first}/{db}"),
            None => String::new(),
        };
        for other in hosts {
            shown += &format!(";{scheme}://{other}");
        }
        shown
    }
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
pub(crate) fn without_password(url: &str) -> String {
    let url = url.split_once('?').map_or(url, |(url, _)| url);
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://**@{rest}"),
        (None, Some((_, rest))) => format!("**@{rest}"),
        _ => url.to_owned(),
    }
}
