//! A connection that comes back: named, watched, made anew when it breaks.
//!
//! The `redis` crate's own `ConnectionManager` is not used: it keeps a
//! connection whose peer no longer answers, cannot name the connections that it
//! makes, and does not look for the master anew.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use canvas_core::Result;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, PushInfo, PushKind, RedisError, RedisResult};

use crate::backoff::Backoff;
use crate::fault::{Fault, is_passing};
use crate::server::Server;

/// How many calls may wait for their turn to be written.
const QUEUE: usize = 1024;

/// Told of what the server says unasked.
type OnPush = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// A connection under a name, which the server shows in its list of clients.
///
/// Nothing is connected until it is needed. A connection that breaks is
/// dropped, and the next call makes another: one at a time, however many
/// callers wait for it.
pub struct Link {
    name: String,
    server: Arc<Server>,
    on_push: Option<OnPush>,
    state: Mutex<State>,
    /// Held by whoever connects.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    live: Option<Live>,
    /// Counts connections.
    generation: u64,
    /// Counts attempts to connect, and keeps what became of the last one.
    attempts: u64,
    failed: Option<Fault>,
}

/// A connection that was alive when last looked at.
#[derive(Debug, Clone)]
pub struct Live {
    /// The connection; clones of it share it.
    pub connection: MultiplexedConnection,
    /// Which connection of the link it is.
    pub generation: u64,
    made: Instant,
    dead: Arc<AtomicBool>,
}

impl Link {
    /// A link that connects when it is first used.
    pub fn new(name: impl Into<String>, server: Arc<Server>) -> Self {
        Self {
            name: name.into(),
            server,
            on_push: None,
            state: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        }
    }

    /// The same, which tells of what the server says unasked.
    #[must_use]
    pub fn on_push(mut self, told: impl Fn(PushInfo) + Send + Sync + 'static) -> Self {
        self.on_push = Some(Arc::new(told));
        self
    }

    /// The server that it leads to.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Makes one call, and connects first if need be.
    ///
    /// # Errors
    /// What became of the call, or of connecting.
    pub async fn call<T, F>(
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
    ///
    /// # Errors
    /// What became of the call.
    pub async fn call_on<T, F>(
        &self,
        live: &Live,
        operation: &'static str,
        call: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let called = call(live.connection.clone()).await;
        self.judge(live, operation, called)
    }

    /// Makes a call that may be made twice, and makes it again for so long
    /// while the connection is lost.
    ///
    /// # Errors
    /// What became of the call the last time.
    pub async fn call_patiently<T, F>(
        &self,
        operation: &'static str,
        patience: Duration,
        mut call: impl FnMut(MultiplexedConnection) -> F,
    ) -> Result<T>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let began = Instant::now();
        let mut backoff = Backoff::new();
        loop {
            let fault = match self.call(operation, &mut call).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            let pause = backoff.pause();
            if matches!(fault, Fault::Refused(_)) || began.elapsed() + pause > patience {
                return Err(fault.after(began.elapsed()));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// The connection, made anew if there is none.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub async fn live(&self, operation: &'static str) -> Result<Live, Fault> {
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
                && let Some(fault) = &state.failed
            {
                // Someone tried while we stood in line: else a thousand calls
                // to a server that is gone would each wait for all before.
                return Err(fault.clone());
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
                let live = Live {
                    connection,
                    generation: state.generation,
                    made: Instant::now(),
                    dead,
                };
                state.live = Some(live.clone());
                Ok(live)
            }
            Err(error) => {
                let fault = self.fault(operation, &error);
                state.failed = Some(fault.clone());
                if let Fault::Lost(_) = fault {
                    self.lost(None, &error);
                }
                Err(fault)
            }
        }
    }

    async fn connect(&self) -> RedisResult<(MultiplexedConnection, Arc<AtomicBool>)> {
        let dead = Arc::new(AtomicBool::new(false));
        let (on_push, hung_up) = (self.on_push.clone(), dead.clone());
        let config = AsyncConnectionConfig::new()
            .set_pipeline_buffer_size(QUEUE)
            .set_push_sender(move |push: PushInfo| -> std::result::Result<(), ()> {
                if push.kind == PushKind::Disconnection {
                    hung_up.store(true, Ordering::Release);
                }
                if let Some(on_push) = &on_push {
                    on_push(push);
                }
                Ok(())
            });
        let mut connection = self.server.connect(config).await?;
        let mut named = redis::cmd("CLIENT");
        named.arg("SETNAME").arg(&self.name);
        // Who may not name a connection may still use it.
        match named.exec_async(&mut connection).await {
            Err(error) if is_passing(&error) => Err(error),
            _ => Ok((connection, dead)),
        }
    }

    /// What became of a call, for the connection too.
    fn judge<T>(
        &self,
        live: &Live,
        operation: &'static str,
        called: RedisResult<T>,
    ) -> Result<T, Fault> {
        let fault = match called {
            Ok(answer) => {
                self.server.health.answered(self.server.url(), live.made);
                return Ok(answer);
            }
            Err(error) => {
                let fault = self.fault(operation, &error);
                if let Fault::Lost(_) = fault {
                    let mut state = self.state();
                    state
                        .live
                        .take_if(|now| now.generation == live.generation)
                        .inspect(|_| self.lost(Some(live.made), &error));
                }
                fault
            }
        };
        if let Fault::Refused(_) = fault {
            self.server.health.answered(self.server.url(), live.made);
        }
        Err(fault)
    }

    fn fault(&self, operation: &'static str, error: &RedisError) -> Fault {
        Fault::of(self.server.url(), operation, error)
    }

    fn lost(&self, made: Option<Instant>, error: &RedisError) {
        let Server { health, .. } = &*self.server;
        health.lost(self.server.url(), &self.name, made, error);
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
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}
