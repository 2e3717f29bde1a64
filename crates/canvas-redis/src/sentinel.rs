//! Asking sentinels for the master, anew for each connection: that is how a
//! failover is followed. (A master that becomes a replica is made to hang up by
//! its sentinels.)

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, RedisError, RedisResult, Value,
    from_redis_value,
};

use crate::fault::{is_login, is_passing};
use crate::server::Reach;
use crate::url::Host;

/// What sentinels must be told, their addresses aside: Celery's transport
/// options `master_name` and `sentinel_kwargs`. What is in the URL, as
/// `master_name`, `sentinel_username` and `sentinel_password`, counts before it.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SentinelOptions {
    /// The name under which the sentinels know the master.
    pub master_name: Option<String>,
    /// Who logs in to the sentinels: they know other users than Redis.
    pub username: Option<String>,
    /// With which password.
    pub password: Option<String>,
}

impl fmt::Debug for SentinelOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentinelOptions")
            .field("master_name", &self.master_name)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "**"))
            .finish()
    }
}

/// Sentinels, and the master that they are asked for.
pub(crate) struct Sentinels {
    pub(crate) master_name: String,
    pub(crate) sentinels: Vec<ConnectionInfo>,
    /// How to reach the master, wherever it is.
    pub(crate) master: Reach,
    pub(crate) connect_timeout: Duration,
    /// The one that has answered last: others may be gone.
    pub(crate) first: AtomicUsize,
}

impl Sentinels {
    /// Connects to the master that a sentinel names. What an old one says is
    /// not believed: one may have been cut off when there was a failover.
    pub(crate) async fn connect(
        &self,
        config: &AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        let (first, count) = (self.first.load(Ordering::Relaxed), self.sentinels.len());
        let mut tried = Vec::new();
        let (mut is_unknown, mut problem) = (false, None);
        for place in (0..count).map(|n| (first + n) % count) {
            let host = match self.ask(&self.sentinels[place]).await {
                Ok(Some(host)) => host,
                Ok(None) => {
                    is_unknown = true;
                    continue;
                }
                Err(error) if is_login(&error) => {
                    let kind = ErrorKind::AuthenticationFailed;
                    let detail = format!("{}: {error}", self.sentinels[place].addr());
                    let what = "a sentinel has users of its own, see sentinel_password";
                    return Err((kind, what, detail).into());
                }
                Err(error) => {
                    problem.get_or_insert(at(self.sentinels[place].addr(), &error));
                    continue;
                }
            };
            if tried.contains(&host) {
                continue;
            }
            match self.connect_to(&host, config).await {
                Ok(connection) => {
                    self.first.store(place, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(error) if is_login(&error) => return Err(error),
                Err(error) => problem = Some(at(&host, &error)),
            }
            tried.push(host);
        }
        // Of more interest than a sentinel that is gone.
        if is_unknown && tried.is_empty() {
            problem = None;
        }
        Err(problem.unwrap_or_else(|| {
            let kind = ErrorKind::MasterNameNotFoundBySentinel;
            let name = self.master_name.clone();
            (kind, "the sentinels know no master of this name", name).into()
        }))
    }

    /// Where a sentinel says that the master is; `None` if it does not know it.
    async fn ask(&self, sentinel: &ConnectionInfo) -> RedisResult<Option<Host>> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.connect_timeout));
        let mut sentinel = Client::open(sentinel.clone())?
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let mut ask = redis::cmd("SENTINEL");
        ask.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master_name);
        let found: Option<(String, u16)> = ask.query_async(&mut sentinel).await?;
        Ok(found.map(|(name, port)| Host { name, port }))
    }

    async fn connect_to(
        &self,
        host: &Host,
        config: &AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        let mut connection = Client::open(self.master.at(host)?)?
            .get_multiplexed_async_connection_with_config(config)
            .await?;
        let role = redis::cmd("ROLE")
            .query_async::<Vec<Value>>(&mut connection)
            .await;
        let role = match role {
            Ok(role) => role.into_iter().next(),
            Err(error) if is_passing(&error) => return Err(error),
            // Who may not ask takes the sentinel's word for it.
            Err(_) => return Ok(connection),
        };
        match role.map(from_redis_value::<String>) {
            Some(Ok(role)) if role == "master" => Ok(connection),
            _ => Err((ErrorKind::Io, "it is not the master any more").into()),
        }
    }
}

/// The same error, with the place where it was met.
fn at(place: &dyn fmt::Display, error: &RedisError) -> RedisError {
    match is_passing(error) {
        true => (
            ErrorKind::Io,
            "no way to the master",
            format!("{place}: {error}"),
        )
            .into(),
        false => error.clone(),
    }
}
