//! One connection that all calls share, made anew when it is lost.
//!
//! The driver's own `ConnectionManager` is not used: it does not try a lost
//! call again, keeps a connection whose peer no longer answers, and cannot name
//! the connections that it makes.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use canvas_core::{Error, Result};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, RedisResult, ServerErrorKind};
use tokio::time::Instant;

use crate::config::RedisBackendConfig;
use crate::server::Server;

/// How many calls may wait for their turn to be written.
const QUEUE: usize = 1024;

/// The connection that all calls share.
#[derive(Debug)]
pub(crate) struct Link {
    server: Server,
    config: AsyncConnectionConfig,
    retry_for: Duration,
    current: Mutex<Option<Live>>,
    /// Held by whoever connects.
    connecting: tokio::sync::Mutex<()>,
    /// How often connecting has failed, and why the last time.
    failures: Mutex<(u64, Option<RedisError>)>,
    health: Health,
}

#[derive(Debug, Clone)]
struct Live {
    connection: MultiplexedConnection,
    number: u64,
}

impl Link {
    /// A link that connects when it is first used.
    pub(crate) fn new(server: Server, config: &RedisBackendConfig) -> Self {
        Self {
            config: settings(config).set_pipeline_buffer_size(QUEUE),
            retry_for: config.retry_for,
            current: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(()),
            failures: Mutex::default(),
            health: Health::new("results"),
            server,
        }
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Makes a call that may be made twice, and makes it again if the
    /// connection is lost.
    ///
    /// # Errors
    /// [`Error::Connection`] if it still fails after a while, or if the server
    /// refuses it.
    pub(crate) async fn call<T, F>(
        &self,
        operation: &'static str,
        call: impl Fn(MultiplexedConnection) -> F,
    ) -> Result<T>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let began = Instant::now();
        let mut backoff = Backoff::default();
        loop {
            let error = match self.connection().await {
                Ok(live) => match call(live.connection).await {
                    Ok(answer) => {
                        self.health.up(&self.server);
                        return Ok(answer);
                    }
                    Err(error) => {
                        if is_lost(&error) {
                            self.discard(live.number);
                        }
                        error
                    }
                },
                Err(error) => error,
            };
            let wait = backoff.next();
            if !is_passing(&error) || began.elapsed() + wait > self.retry_for {
                return Err(self.failed(operation, &error, began.elapsed()));
            }
            self.health.down(&self.server, &error);
            tokio::time::sleep(wait).await;
        }
    }

    fn failed(&self, operation: &'static str, error: &RedisError, after: Duration) -> Error {
        if error.code() == Some("WRONGTYPE") {
            return Error::Unsupported {
                operation,
                driver: self.server.url().to_owned(),
                hint: format!(
                    "a key holds another kind of value ({error}): if Python workers share it, \
                     leave their result_chord_ordered on, as it is by default"
                ),
            };
        }
        Error::Connection {
            operation,
            reason: explain(&self.server, error, after),
        }
    }

    /// The connection, made if there is none.
    async fn connection(&self) -> RedisResult<Live> {
        let failures = self.failures().0;
        if let Some(live) = self.current() {
            return Ok(live);
        }
        let _alone = self.connecting.lock().await;
        if let Some(live) = self.current() {
            return Ok(live);
        }
        // Whoever has waited while another one tried in vain shares its error:
        // else a thousand calls to a server that is gone would each wait for
        // all those before.
        if let (now, Some(error)) = &*self.failures()
            && *now != failures
        {
            return Err(error.clone());
        }
        match connect(&self.server, &self.config, "canvas-backend").await {
            Ok(connection) => {
                let number = fastrand::u64(..);
                let live = Live { connection, number };
                *self.lock() = Some(live.clone());
                Ok(live)
            }
            Err(error) => {
                let mut failures = self.failures();
                *failures = (failures.0 + 1, Some(error.clone()));
                Err(error)
            }
        }
    }

    fn failures(&self) -> MutexGuard<'_, (u64, Option<RedisError>)> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Option<Live> {
        self.lock().clone()
    }

    /// Drops a connection, unless another one has taken its place.
    fn discard(&self, number: u64) {
        self.lock().take_if(|live| live.number == number);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Live>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The driver's settings: its own time limit for an answer is half a second.
pub(crate) fn settings(config: &RedisBackendConfig) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(config.connect_timeout))
        .set_response_timeout(Some(config.response_timeout))
}

/// A connection with a name by which `CLIENT LIST` shows it.
pub(crate) async fn connect(
    server: &Server,
    config: &AsyncConnectionConfig,
    name: &str,
) -> RedisResult<MultiplexedConnection> {
    let client = Client::open(server.info().clone())?;
    let mut connection = client
        .get_multiplexed_async_connection_with_config(config)
        .await?;
    let mut named = redis::cmd("CLIENT");
    named.arg("SETNAME").arg(name);
    match named.query_async::<()>(&mut connection).await {
        // Who may not name a connection may still use it.
        Err(error) if is_lost(&error) => Err(error),
        _ => Ok(connection),
    }
}

/// Whether the connection is of no more use.
pub(crate) fn is_lost(error: &RedisError) -> bool {
    // A time limit that has passed counts: the peer may be gone without a
    // word, and answers that come late would only be thrown away.
    error.is_io_error()
        || error.is_unrecoverable_error()
        // A replica that was the master before a failover.
        || error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}

/// Whether the same call may succeed in a moment.
pub(crate) fn is_passing(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, ReadOnly, TryAgain};
    match error.kind() {
        ErrorKind::Io => true,
        ErrorKind::Server(kind) => {
            matches!(
                kind,
                BusyLoading | ClusterDown | MasterDown | ReadOnly | TryAgain
            )
        }
        // Somebody's script runs for long.
        _ => error.code() == Some("BUSY"),
    }
}

/// What failed, on which server, and what to do about it.
pub(crate) fn explain(server: &Server, error: &RedisError, after: Duration) -> String {
    let hint = match error.code().unwrap_or_default() {
        "NOAUTH" | "WRONGPASS" => "; check the user and the password in the URL",
        "NOPERM" => "; give the user the commands and keys that it needs",
        "OOM" => "; the server's memory is full: raise maxmemory, or let results expire sooner",
        _ if error.kind() == ErrorKind::AuthenticationFailed => {
            "; check the user and the password in the URL"
        }
        _ if error.kind() == ErrorKind::RESP3NotSupported => "; Redis 6 or later is needed",
        _ if error.is_io_error() => "; is it running, and reachable from here?",
        _ => "",
    };
    let url = server.url();
    if is_passing(error) {
        format!("{url}: {error}, after trying for {after:.1?}{hint}")
    } else {
        format!("{url}: {error}{hint}")
    }
}

/// Tells of a connection when it is lost and when it is back, and not of each
/// failure in between.
#[derive(Debug)]
pub(crate) struct Health {
    what: &'static str,
    is_up: AtomicBool,
}

impl Health {
    pub(crate) fn new(what: &'static str) -> Self {
        Self {
            what,
            is_up: AtomicBool::new(true),
        }
    }

    pub(crate) fn down(&self, server: &Server, error: &RedisError) {
        if self.is_up.swap(false, Ordering::AcqRel) {
            tracing::warn!(server = server.url(), %error, "lost Redis ({}); trying again", self.what);
        }
    }

    pub(crate) fn up(&self, server: &Server) {
        // Most often it is, and a load is cheaper than a swap.
        if !self.is_up.load(Ordering::Acquire) && !self.is_up.swap(true, Ordering::AcqRel) {
            tracing::info!(server = server.url(), "Redis is back ({})", self.what);
        }
    }
}

/// Growing pauses between attempts.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(Duration::from_millis(25))
    }
}

impl Backoff {
    /// The next pause: about twice the one before, at most about a second.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(Duration::from_secs(1));
        // Not all clients of a server at the same moment.
        pause.mul_f64(0.75 + fastrand::f64() / 2.0)
    }
}
