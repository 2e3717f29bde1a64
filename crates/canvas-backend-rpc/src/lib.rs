//! Celery's RPC result backend (`rpc://`): results are messages to whoever sent
//! the task.
//!
//! Nothing is kept on a server. Each process that sends tasks has a queue in
//! RabbitMQ, and its messages name it as `reply_to`; a worker sends each state of
//! a task there, as Celery's workers do. It is the backend with the least to run
//! and the least it can do:
//!
//! * **A result goes to the process that sent the task, and to no other.** There,
//!   a task that another process has sent is PENDING, whatever becomes of it. To
//!   ask for its state is answered so, and noted in the log; to wait for its
//!   value, which would be for ever, is an [`Error::Unsupported`] that says why. All
//!   of a canvas answers to whoever sent it: steps, members, callbacks, and what its
//!   tasks launch. (In a Python worker, callbacks and what a task sends answer to
//!   that worker, where nobody looks.)
//! * **It is consumed once, and kept.** A message is read into this process, and
//!   then it is nowhere else. Here it stays for
//!   [`result_expires`](RpcBackendConfig::result_expires), so that one can ask
//!   twice. Tasks whose results nobody wants should not have any:
//!   `ignore_result`.
//! * **No chords**, as in Celery: there is no place in which their members could
//!   meet. A canvas that needs one is refused before any of it is sent. Nor are
//!   there saved groups, or continuations by reference.
//! * **A worker cannot look up what has become of a task.** One that is delivered
//!   again is run again, though it may have succeeded; whoever waits gets the
//!   value that came first.
//!
//! What differs from Celery, and is unseen by it:
//!
//! * **A lost connection loses no result.** Celery's reply queue goes with the
//!   connection that reads it. Here it stays for
//!   [`queue_expires`](RpcBackendConfig::queue_expires), a result is acknowledged
//!   when this process has it, and workers wait until the server has confirmed
//!   what they send. If the queue is gone all the same, those who wait are told.
//! * **The queue is read from the first task on**, not from the first question:
//!   results wait in this process, not in the server.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use canvas_backend_rpc::{RpcBackend, RpcBackendConfig};
//! use canvas_core::Backend;
//!
//! # fn main() -> canvas_core::Result<()> {
//! let broker = "amqp://guest:guest@localhost//";
//! let backend: Arc<dyn Backend> =
//!     RpcBackend::new("rpc://", broker, RpcBackendConfig::default())?;
//! # Ok(()) }
//! ```
//!
//! Celery's page:
//! <https://docs.celeryq.dev/en/stable/userguide/configuration.html#rpc-backend-settings>

mod config;
mod expected;
mod replies;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use canvas_broker_amqp::sharing::{Connections, short};
use canvas_core::backend::{Arrival, Backend, BackendInfo, JoinSpec, Part, Stored};
use canvas_core::{Error, Id, Result, ResultTree, State, TaskMeta};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use lapin::BasicProperties;
use lapin::types::FieldTable;

pub use config::RpcBackendConfig;

use replies::Replies;

/// Sends results to those who want them, over RabbitMQ, and receives those that
/// this process wants.
///
/// It connects when it is first used, and again whenever it has to. When the last
/// handle on it is dropped, its queue is deleted; if the process dies, the queue
/// goes after [`queue_expires`](RpcBackendConfig::queue_expires).
pub struct RpcBackend {
    connections: Arc<Connections>,
    replies: Arc<Replies>,
    config: RpcBackendConfig,
    shown: String,
    /// Whether it was noted that results of others do not come here.
    noted: AtomicBool,
}

impl RpcBackend {
    /// A backend by URL. Nothing is connected yet.
    ///
    /// * `rpc://`: on the server of the broker, whose URL is `broker`.
    /// * `rpc://[user:password@]host[:port][/vhost]`: on one of its own. So do
    ///   `amqp://…`, and `amqps://…` with the feature `tls`; workers must name the
    ///   same one.
    ///
    /// # Errors
    /// [`Error::Config`] for a URL or a setting that makes no sense, such as
    /// `rpc://` with a broker that is not RabbitMQ, and
    /// [`Error::Unsupported`] for TLS that is not compiled in.
    pub fn new(url: &str, broker: &str, config: RpcBackendConfig) -> Result<Arc<Self>> {
        config.queue_expires_ms()?;
        let server: Cow<'_, str> = match (url, url.strip_prefix("rpc://")) {
            ("rpc", _) | (_, Some("" | "/")) => broker.into(),
            (_, Some(own)) => format!("amqp://{own}").into(),
            (_, None) => url.into(),
        };
        let connections = Connections::new(&server, &config.connection);
        let connections = Arc::new(connections.map_err(|error| match error {
            Error::UnknownScheme { scheme, .. } => Error::Config(format!(
                "rpc:// sends results through RabbitMQ, not {scheme}://: name a server, \
                 rpc://user:password@host/vhost, or choose another result backend"
            )),
            other => other,
        })?);
        let servers = connections.shown().split(';');
        let shown: Vec<String> = servers.map(|url| url.replacen("amqp", "rpc", 1)).collect();
        let shown = shown.join(";");
        Ok(Arc::new(Self {
            replies: Arc::new(Replies::new(connections.clone(), config.clone())),
            connections,
            config,
            shown,
            noted: AtomicBool::new(false),
        }))
    }

    /// Those of these tasks whose results cannot come here.
    async fn foreign(&self, ids: &[Id]) -> Result<Option<Id>> {
        let expected = self.replies.expected();
        let unsent: Vec<Id> = ids
            .iter()
            .filter(|id| !expected.contains(id))
            .cloned()
            .collect();
        let found = self.replies.came().load(&unsent).await?;
        let mut missing = unsent
            .into_iter()
            .zip(found)
            .filter(|(_, meta)| meta.is_none());
        Ok(missing.next().map(|(id, _)| id))
    }

    fn refuse<T>(&self, operation: &'static str, hint: &str) -> Result<T> {
        Err(Error::Unsupported {
            operation,
            driver: self.shown.clone(),
            hint: hint.to_owned(),
        })
    }

    fn refuse_join<T>(&self, operation: &'static str) -> Result<T> {
        let hint = "results are sent to whoever wants them, and members of a chord cannot meet \
                    there: choose another result backend, such as redis://";
        self.refuse(operation, hint)
    }

    fn refuse_keeping<T>(&self, operation: &'static str) -> Result<T> {
        let hint = "results are sent and not kept: choose another result backend, such as \
                    redis://";
        self.refuse(operation, hint)
    }
}

impl fmt::Debug for RpcBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcBackend")
            .field("url", &self.shown)
            .field("queue", self.replies.queue())
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Why nobody here will ever know how a task ended.
const ELSEWHERE: &str = "results go to the process that sent the task, and this one was not sent \
                         from here, or longer ago than result_expires";

#[async_trait]
impl Backend for RpcBackend {
    fn info(&self) -> BackendInfo {
        let mut info = BackendInfo::new(&*self.shown);
        info.join = false;
        // What came lives with this process, and what is on its way, if
        // `persistent`, with the server.
        info.persistent = false;
        info.shared = false;
        info
    }

    fn reply_to(&self) -> Option<Id> {
        Some(self.replies.queue().clone())
    }

    async fn expect(&self, results: &[ResultTree]) -> Result<()> {
        if !self.replies.expect(results) {
            return Ok(());
        }
        self.replies.open("backend.expect").await.map(drop)
    }

    async fn store(&self, meta: &TaskMeta) -> Result<Stored> {
        let Some(reply) = &meta.reply else {
            tracing::debug!(task_id = %meta.task_id, "nobody is to be sent this result");
            return Ok(Stored::Written);
        };
        // As kombu sends them.
        let properties = BasicProperties::default()
            .with_content_type(short("application/json")?)
            .with_content_encoding(short("utf-8")?)
            .with_headers(FieldTable::default())
            .with_delivery_mode(if self.config.persistent { 2 } else { 1 })
            .with_priority(0)
            .with_correlation_id(short(reply.correlation_id.as_str())?);
        let body = Bytes::from(meta.to_json()?);
        let sending = self
            .connections
            .send("backend.store", reply.to.as_str(), properties, body);
        if !sending.await? {
            tracing::debug!(task_id = %meta.task_id, queue = %reply.to, "whoever wanted this result has gone");
        }
        Ok(Stored::Written)
    }

    async fn load(&self, ids: &[Id]) -> Result<Vec<Option<TaskMeta>>> {
        let came = self.replies.came();
        let found = came.load(ids).await?;
        let is_final = |meta: &Option<TaskMeta>| {
            let meta = meta.as_ref();
            meta.is_some_and(|meta| meta.status == State::Success)
        };
        if found.iter().all(is_final) {
            return Ok(found);
        }
        let found = match self.replies.is_open() {
            true => {
                self.replies.catch_up("backend.load").await?;
                came.load(ids).await?
            }
            false => found,
        };
        if let Some(id) = self.foreign(ids).await?
            && !self.noted.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(task_id = %id, "PENDING here, whatever becomes of it: {ELSEWHERE}");
        }
        Ok(found)
    }

    async fn forget(&self, ids: &[Id]) -> Result<()> {
        if self.replies.is_open() {
            // What is on its way would be unknown no more.
            self.replies.catch_up("backend.forget").await?;
        }
        self.replies.expected().remove(ids);
        self.replies.came().forget(ids).await
    }

    async fn watch(&self, ids: &[Id]) -> Result<BoxStream<'static, Result<TaskMeta>>> {
        const OPERATION: &str = "backend.watch";
        if self.replies.is_open() && self.foreign(ids).await?.is_some() {
            // It may have come, and not have been taken in.
            self.replies.catch_up(OPERATION).await?;
        }
        if let Some(id) = self.foreign(ids).await? {
            let hint = format!("to wait for {id} here would be for ever: {ELSEWHERE}");
            return self.refuse(OPERATION, &hint);
        }
        let came = self.replies.came().watch(ids).await?;
        Ok(watch(self.replies.clone(), ids.to_vec(), came))
    }

    async fn save_group(&self, _group: &ResultTree) -> Result<()> {
        self.refuse_keeping("backend.save_group")
    }

    async fn load_group(&self, _id: &Id) -> Result<Option<ResultTree>> {
        self.refuse_keeping("backend.load_group")
    }

    async fn forget_group(&self, _id: &Id) -> Result<()> {
        Ok(())
    }

    async fn keep(&self, _key: &Id, _value: Bytes) -> Result<()> {
        self.refuse_keeping("backend.keep")
    }

    async fn recall(&self, _key: &Id) -> Result<Option<Bytes>> {
        Ok(None)
    }

    async fn open_join(&self, _spec: &JoinSpec) -> Result<()> {
        self.refuse_join("backend.open_join")
    }

    async fn grow_join(&self, _join: &Id, _member: &Id, _by: u64) -> Result<()> {
        self.refuse_join("backend.grow_join")
    }

    async fn arrive(&self, _join: &Id, _part: &Part, _lease: Duration) -> Result<Arrival> {
        self.refuse_join("backend.arrive")
    }

    async fn close_join(&self, _join: &Id, _claim: u64) -> Result<bool> {
        self.refuse_join("backend.close_join")
    }
}

/// What comes of these tasks, until all have ended, or until it is known that
/// results may have been lost.
fn watch(
    replies: Arc<Replies>,
    ids: Vec<Id>,
    came: BoxStream<'static, Result<TaskMeta>>,
) -> BoxStream<'static, Result<TaskMeta>> {
    let mut losses = replies.losses();
    // One that came about before this is to be told, too.
    losses.mark_changed();
    let state = Watch {
        replies,
        ids,
        came,
        losses,
    };
    let next = |state: Option<Watch>| async move {
        let Watch {
            replies,
            ids,
            mut came,
            mut losses,
        } = state?;
        loop {
            tokio::select! {
                biased;
                next = came.next() => {
                    let state = Watch {
                        replies,
                        ids,
                        came,
                        losses,
                    };
                    return Some((next?, Some(state)));
                }
                changed = losses.changed() => {
                    changed.ok()?;
                    if replies.expected().take_doubt(&ids) {
                        let reason = "the reply queue was gone when the connection came back, and \
                                      with it what was sent meanwhile; what was not may still come";
                        let lost = Error::Connection {
                            operation: "backend.watch",
                            reason: reason.to_owned(),
                        };
                        return Some((Err(lost), None));
                    }
                }
            }
        }
    };
    stream::unfold(Some(state), next).boxed()
}

/// Who waits, and for what.
struct Watch {
    /// Held, since the queue is read for as long as it is.
    replies: Arc<Replies>,
    ids: Vec<Id>,
    came: BoxStream<'static, Result<TaskMeta>>,
    losses: tokio::sync::watch::Receiver<u64>,
}
