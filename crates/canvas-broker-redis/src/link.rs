//! A connection that comes back: named, watched, made anew when it breaks.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use canvas_core::Error;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, PushInfo, PushKind, RedisError, RedisResult,
    ServerErrorKind,
};

use crate::config::{RedisBrokerConfig, Server};

/// What went wrong with a call.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// The connection broke, or there is none. Whether the server did what it
    /// was asked is not known.
    Lost(Error),
    /// The server answered, and will not do it.
    Refused(Error),
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Lost(error) | Fault::Refused(error) => error,
        }
    }
}

/// Told of what the server says unasked.
pub(crate) type OnPush = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// A connection under a name, which the server shows in its list of clients.
///
/// Nothing is connected until it is needed. A connection that breaks is
/// dropped, and the next call makes another: one at a time, however many
/// callers wait for it.
pub(crate) struct Link {
    name: String,
    server: Arc<Server>,
    connect_timeout: Duration,
    response_timeout: Duration,
    on_push: Option<OnPush>,
    state: Mutex<State>,
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    live: Option<Live>,
    /// Counts connections.
    generation: u64,
    /// Counts attempts to connect, and keeps the error of the last one.
    attempts: u64,
    failed: Option<Error>,
}

/// Whether the server can be reached, for all links to it: each change is
/// logged once.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<Option<Instant>>);

impl Health {
    fn lost(&self, server: &Server, connection: &str, error: &dyn fmt::Display) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if since.is_none() {
            *since = Some(Instant::now());
            let server = server.redacted();
            tracing::warn!(server, connection, %error, "connection to Redis lost");
        }
    }

    fn back(&self, server: &Server) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(since) = since.take() {
            let (server, after) = (server.redacted(), since.elapsed());
            tracing::info!(server, ?after, "connected to Redis again");
        }
    }
}

/// A connection that was alive when last looked at.
#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) connection: MultiplexedConnection,
    /// Which connection of the link it is.
    pub(crate) generation: u64,
    dead: Arc<AtomicBool>,
}

impl Link {
    pub(crate) fn new(
        name: impl Into<String>,
        server: Arc<Server>,
        config: &RedisBrokerConfig,
        on_push: Option<OnPush>,
    ) -> Self {
        Self {
            name: name.into(),
            server,
            connect_timeout: config.connect_timeout,
            response_timeout: config.response_timeout,
            on_push,
            state: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        }
    }

    /// Makes one call, and connects first if need be.
    pub(crate) async fn call<T, F>(
        &self,
        operation: &'static str,
        call: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let live = self.live(operation).await?;
        self.call_on(&live, operation, call).await
    }

    /// Makes one call on this very connection.
    pub(crate) async fn call_on<T, F>(
        &self,
        live: &Live,
        operation: &'static str,
        call: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let called = call(live.connection.clone()).await;
        called.map_err(|error| self.judge(operation, live.generation, &error))
    }

    /// The connection, made anew if there is none.
    pub(crate) async fn live(&self, operation: &'static str) -> Result<Live, Fault> {
        let seen = {
            let state = self.state();
            if let Some(live) = state.alive() {
                return Ok(live);
            }
            state.attempts
        };
        let _one_at_a_time = self.connecting.lock().await;
        {
            let mut state = self.state();
            if let Some(live) = state.alive() {
                return Ok(live);
            }
            if state.attempts != seen
                && let Some(error) = &state.failed
            {
                // Someone tried while we stood in line.
                return Err(Fault::Lost(error.clone()));
            }
            // It hung up while nobody looked; it may be there all the same.
            state.live = None;
        }
        let connected = self.connect().await;
        let mut state = self.state();
        state.attempts += 1;
        match connected {
            Ok((connection, dead)) => {
                state.failed = None;
                state.generation += 1;
                self.server.health.back(&self.server);
                let live = Live {
                    connection,
                    generation: state.generation,
                    dead,
                };
                state.live = Some(live.clone());
                Ok(live)
            }
            Err(error) => {
                let fault = self.fault(operation, &error);
                state.failed = None;
                if let Fault::Lost(described) = &fault {
                    state.failed = Some(described.clone());
                    self.server.health.lost(&self.server, &self.name, &error);
                }
                Err(fault)
            }
        }
    }

    async fn connect(&self) -> RedisResult<(MultiplexedConnection, Arc<AtomicBool>)> {
        let dead = Arc::new(AtomicBool::new(false));
        let (on_push, hung_up) = (self.on_push.clone(), dead.clone());
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.response_timeout))
            .set_push_sender(move |push: PushInfo| -> Result<(), ()> {
                if push.kind == PushKind::Disconnection {
                    hung_up.store(true, Ordering::Release);
                }
                if let Some(on_push) = &on_push {
                    on_push(push);
                }
                Ok(())
            });
        let client = Client::open(self.server.info.clone())?;
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let limit = self.connect_timeout * 2;
        let mut connection = tokio::time::timeout(limit, connecting)
            .await
            .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))?;
        let mut named = redis::cmd("CLIENT");
        named.arg("SETNAME").arg(&self.name);
        // A server without names for its clients serves as well.
        match named.exec_async(&mut connection).await {
            Err(error) if is_lost(&error) => Err(error),
            _ => Ok((connection, dead)),
        }
    }

    /// What an error of a call means, for the connection too.
    fn judge(&self, operation: &'static str, generation: u64, error: &RedisError) -> Fault {
        let fault = self.fault(operation, error);
        if let Fault::Lost(_) = fault {
            let mut state = self.state();
            if state
                .live
                .as_ref()
                .is_some_and(|live| live.generation == generation)
            {
                state.live = None;
                self.server.health.lost(&self.server, &self.name, error);
            }
        }
        fault
    }

    fn fault(&self, operation: &'static str, error: &RedisError) -> Fault {
        let server = self.server.redacted();
        if is_login(error) {
            return Fault::Refused(Error::Config(format!(
                "{server} refuses the login: {error}; check the user and the password in the URL"
            )));
        }
        let reason = format!("{server}: {error}");
        let described = Error::Connection { operation, reason };
        if is_lost(error) {
            Fault::Lost(described)
        } else {
            Fault::Refused(described)
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn alive(&self) -> Option<Live> {
        let live = self.live.as_ref()?;
        (!live.dead.load(Ordering::Acquire)).then(|| live.clone())
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Whether the connection is of no use any more, or the server of none yet.
fn is_lost(error: &RedisError) -> bool {
    let not_yet = [
        ErrorKind::Server(ServerErrorKind::BusyLoading),
        ErrorKind::Server(ServerErrorKind::MasterDown),
        ErrorKind::Server(ServerErrorKind::ReadOnly),
    ];
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
        || not_yet.contains(&error.kind())
}

fn is_login(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("WRONGPASS" | "NOAUTH"))
}

/// Waits longer each time, up to a limit, and never twice the same.
#[derive(Debug)]
pub(crate) struct Backoff {
    wait: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(20);
    const LONGEST: Duration = Duration::from_secs(2);

    pub(crate) fn new() -> Self {
        Self { wait: Self::FIRST }
    }

    /// How long to wait this time.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.wait.mul_f64(0.75 + fastrand::f64() / 2.0);
        self.wait = (self.wait * 2).min(Self::LONGEST);
        wait
    }

    pub(crate) fn reset(&mut self) {
        self.wait = Self::FIRST;
    }
}
