//! A connection that comes back, to whichever server there is.
//!
//! The client library can restore a connection by itself, but only to the same
//! server, not a channel that the server has closed, and without a word of it:
//! here a new connection must be known for one, since it voids all receipts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use canvas_core::{Error, Result};
use futures_util::StreamExt;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind, Event};

use crate::config::{AmqpBrokerConfig, Failover};
use crate::url::Server;

/// How long a failure to connect counts for those who ask again: without it
/// they would all try, one after the other.
const FRESH: Duration = Duration::from_millis(50);

/// A connection that is made when it is needed.
#[derive(Debug)]
pub(crate) struct Link {
    /// What it is for, as the server's own tools show it.
    name: &'static str,
    servers: Vec<Server>,
    config: AmqpBrokerConfig,
    current: tokio::sync::Mutex<Current>,
    health: Arc<Health>,
}

#[derive(Debug, Default)]
struct Current {
    live: Option<Live>,
    /// Which server was connected to last.
    server: usize,
    failed: Option<(Instant, Error)>,
}

/// A connection that holds, as far as is known.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    connection: Arc<Connection>,
    /// Tells connections from each other, over all links of this process.
    pub(crate) epoch: u64,
}

impl Link {
    pub(crate) fn new(name: &'static str, servers: Vec<Server>, config: AmqpBrokerConfig) -> Self {
        let health = Health {
            name,
            ..Health::default()
        };
        Self {
            name,
            servers,
            config,
            current: tokio::sync::Mutex::default(),
            health: Arc::new(health),
        }
    }

    /// The connection, made anew if there is none.
    pub(crate) async fn live(&self, operation: &'static str) -> Result<Live> {
        let mut current = self.current.lock().await;
        if let Some(live) = &current.live
            && live.connection.status().connected()
        {
            return Ok(live.clone());
        }
        if let Some((at, error)) = &current.failed
            && at.elapsed() < FRESH
        {
            return Err(error.clone());
        }
        current.live = None;
        match self.connect(operation, &mut current.server).await {
            Ok(live) => {
                current.failed = None;
                current.live = Some(live.clone());
                Ok(live)
            }
            Err(error) => {
                self.health.lost(&error);
                current.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// A channel on the connection.
    pub(crate) async fn channel(&self, operation: &'static str) -> Result<(Channel, u64)> {
        let live = self.live(operation).await?;
        let channel = live.connection.create_channel().await;
        let channel = channel.map_err(|error| fault(operation, &error))?;
        Ok((channel, live.epoch))
    }

    /// Tries each server once. The one that was there last comes first, as it
    /// has just been restarted more often than it has gone for good.
    async fn connect(&self, operation: &'static str, last: &mut usize) -> Result<Live> {
        let mut order: Vec<usize> = (0..self.servers.len()).collect();
        match self.config.failover {
            Failover::RoundRobin => order.rotate_left(*last),
            Failover::Shuffle => fastrand::shuffle(&mut order),
        }
        let mut problems = Vec::new();
        for place in order {
            let server = &self.servers[place];
            match self.connect_to(operation, server).await {
                Ok(live) => {
                    *last = place;
                    return Ok(live);
                }
                // It is there, and has refused us for a reason that stays.
                Err(error @ Error::Config(_)) if self.servers.len() == 1 => return Err(error),
                Err(error) => problems.push(error),
            }
        }
        let reasons: Vec<_> = problems.iter().map(reason).collect();
        Err(Error::Connection {
            operation,
            reason: reasons.join("; "),
        })
    }

    async fn connect_to(&self, operation: &'static str, server: &Server) -> Result<Live> {
        let shown = &server.shown;
        let properties = ConnectionProperties::default().with_connection_name(self.name.into());
        let connecting = open(server, properties, &self.config);
        let lost = |reason: String| Error::Connection {
            operation,
            reason: format!("{shown}: {reason}"),
        };
        let connection = tokio::time::timeout(self.config.connect_timeout, connecting)
            .await
            .map_err(|_| lost(format!("no answer in {:?}", self.config.connect_timeout)))?
            .map_err(|error| match refusal(&error) {
                Some(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)) => Error::Config(format!(
                    "{shown} refuses this user: check name and password ({error})"
                )),
                Some(AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)) => Error::Config(format!(
                    "{shown} refuses this user or has no such virtual host ({error})"
                )),
                _ => lost(error.to_string()),
            })?;
        let epoch = next_epoch();
        let health = self.health.clone();
        health.connected(shown);
        let events = connection.events_listener();
        tokio::spawn(watch(events, health));
        Ok(Live {
            connection: Arc::new(connection),
            epoch,
        })
    }

    /// Why the server takes nothing on this connection for now, if so.
    pub(crate) fn blocked(&self) -> Option<String> {
        self.health.state().blocked.clone()
    }
}

#[cfg(not(feature = "tls"))]
async fn open(
    server: &Server,
    properties: ConnectionProperties,
    _: &AmqpBrokerConfig,
) -> lapin::Result<Connection> {
    Connection::connect_uri(server.uri.clone(), properties).await
}

#[cfg(feature = "tls")]
async fn open(
    server: &Server,
    properties: ConnectionProperties,
    config: &AmqpBrokerConfig,
) -> lapin::Result<Connection> {
    let mut tls = lapin::tcp::OwnedTLSConfig::default();
    if let Some(path) = &config.tls_ca_certs {
        // Short, and read once for each connection.
        tls.cert_chain = Some(std::fs::read_to_string(path)?);
    }
    let runtime = lapin::runtime::default_runtime()?;
    Connection::connect_uri_with_config(server.uri.clone(), properties, tls, runtime).await
}

/// Numbers connections and channels.
pub(crate) fn next_epoch() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// Whether a connection holds, and whether it is blocked: each change is
/// logged once.
#[derive(Debug, Default)]
struct Health {
    name: &'static str,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    server: String,
    down_since: Option<Instant>,
    blocked: Option<String>,
}

impl Health {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connected(&self, server: &str) {
        let mut state = self.state();
        server.clone_into(&mut state.server);
        state.blocked = None;
        if let Some(lost) = state.down_since.take() {
            let after = lost.elapsed();
            tracing::info!(
                server,
                connection = self.name,
                ?after,
                "connected to RabbitMQ again"
            );
        }
    }

    fn lost(&self, error: &dyn std::fmt::Display) {
        let mut state = self.state();
        if state.down_since.is_none() {
            state.down_since = Some(Instant::now());
            let server = &*state.server;
            tracing::warn!(server, connection = self.name, %error, "connection to RabbitMQ lost");
        }
    }

    fn blocked(&self, reason: Option<String>) {
        let mut state = self.state();
        let server = &*state.server;
        match &reason {
            Some(reason) => tracing::warn!(
                server,
                connection = self.name,
                reason,
                "RabbitMQ takes no messages for now"
            ),
            None => tracing::info!(
                server,
                connection = self.name,
                "RabbitMQ takes messages again"
            ),
        }
        state.blocked = reason;
    }
}

/// Listens to what happens to a connection, for as long as there is one.
async fn watch(events: impl futures_util::Stream<Item = Event>, health: Arc<Health>) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Event::ConnectionBlocked(reason) => health.blocked(Some(reason)),
            Event::ConnectionUnblocked => health.blocked(None),
            Event::Error(error) => health.lost(&error),
            _ => {}
        }
    }
}

fn refusal(error: &lapin::Error) -> Option<&AMQPErrorKind> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.kind()),
        _ => None,
    }
}

/// Whether the server says that there is no such thing.
pub fn is_not_found(error: &lapin::Error) -> bool {
    matches!(
        refusal(error),
        Some(AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
    )
}

/// What an error means to whoever asked.
pub fn fault(operation: &'static str, error: &lapin::Error) -> Error {
    match refusal(error) {
        Some(AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)) => Error::Config(format!(
            "RabbitMQ refuses what {operation} asks for: {error}; all who share a queue must \
             declare it alike (queue_type, queue_max_priority, delivery_limit)"
        )),
        Some(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)) => {
            Error::Config(format!("RabbitMQ does not allow {operation}: {error}"))
        }
        _ => Error::Connection {
            operation,
            reason: error.to_string(),
        },
    }
}

fn reason(error: &Error) -> std::borrow::Cow<'_, str> {
    match error {
        Error::Connection { reason, .. } => reason.into(),
        other => other.to_string().into(),
    }
}
