//! Celery's Redis result backend for canvas.
//!
//! Results, groups and chords are kept under the keys and in the form of Celery
//! 5.7, so Python and Rust clients wait for each other's results, and Python
//! and Rust workers finish one and the same chord.
//!
//! ```no_run
//! use canvas_backend_redis::{RedisBackend, RedisBackendConfig};
//! use canvas_core::Canvas;
//!
//! # fn main() -> canvas_core::Result<()> {
//! let config = RedisBackendConfig::default();
//! let backend = RedisBackend::new("redis://localhost:6379/0", config)?;
//! let app = Canvas::builder().backend(backend).build()?;
//! # let _ = app; Ok(()) }
//! ```
//!
//! # Guarantees
//!
//! Every operation is one step on the server, a script where it is more than
//! one command. All of them can be made twice, and are, when the connection is
//! lost before the answer came: see [`RedisBackendConfig::retry_for`]. Redis
//! keeps what it has acknowledged as well as it is set up to: with
//! `appendfsync everysec` a crash of the machine loses up to a second.
//!
//! Redis 6 or later is needed. All waiting of a process goes over one
//! subscribed connection, everything else over a second one.
//!
//! # Keys
//!
//! | Key | Holds |
//! |---|---|
//! | `celery-task-meta-<task>` | a state as JSON; published on the channel of that name |
//! | `celery-taskset-meta-<group>` | the shape of a group as JSON |
//! | ….`j` | members of the header that have arrived: sorted set by place, `[1, id, state, result]` |
//! | ….`d` | their `id:place`, so that one counts once |
//! | ….`s`, ….`t` | how many members there are, and how many more were added |
//! | ….`c` | who sends the body, expiring with the claim; `done` once it is sent |
//! | ….`q`, ….`n`, ….`g`, ….`w` | ours: quorum, number of claims, who has added members, who waits for `.s` |
//! | `canvas-ref-<key>` | ours: a continuation that messages refer to |
//!
//! Python workers read the last of these with `python/canvas_references.py`, a
//! module in this crate: `celery -A shop worker -I canvas_references`.
//!
//! A Python worker knows nothing of a quorum: it completes a join when all
//! members are there.
//!
//! # Headers that a Python process sends
//!
//! Celery tells the size of a header (`.s`) just before it sends the last
//! member, so members may arrive before that, and if the process dies first,
//! there never is a size, and Celery's chord never ends. That the size is
//! missing looks the same where the store lost the join. So the first member to
//! arrive without a size is answered [`Arrival::Claimed`], and asks again until
//! the size is there; those after it are answered [`Arrival::Waiting`] with a
//! size of 0. When no new member has arrived for
//! [`RedisBackendConfig::header_grace`], the answer is [`Arrival::Missing`], and
//! the body fails instead of never running. The member that asks holds its own
//! delivery meanwhile: if its worker dies, it is delivered again and asks on.
//!
//! # What is not read
//!
//! Results that Celery stores with a `result_serializer` other than JSON, or
//! with `result_compression`; and chords of workers whose
//! `result_chord_ordered` is off.

mod config;
mod connection;
mod joins;
mod keys;
mod retell;
mod script;
mod store;
mod together;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use canvas_core::backend::{Arrival, Backend, BackendInfo, JoinSpec, Part, Stored};
use canvas_core::{Broker, Id, Result, ResultTree, TaskMeta, Together};
use canvas_redis::{Companion, Server};
use futures_util::stream::BoxStream;

use crate::connection::Link;
use crate::keys::Keys;
use crate::retell::Retell;
use crate::together::OneServer;
use crate::watch::Watches;

pub use crate::config::RedisBackendConfig;
pub use canvas_redis::SentinelOptions;

/// Keeps results in Redis, and joins chords there.
pub struct RedisBackend {
    link: Arc<Link>,
    keys: Keys,
    config: RedisBackendConfig,
    watches: Arc<Watches>,
    retell: Arc<Retell>,
}

impl RedisBackend {
    /// A backend that connects when it is first used.
    ///
    /// URLs are Celery's:
    ///
    /// * `redis://[[user]:password@]host[:port][/db]`
    /// * `rediss://…`, the same with TLS, with the feature `tls`. Celery's
    ///   parameters set it up: `ssl_cert_reqs` (`required` unless it is
    ///   `none`), `ssl_ca_certs` (by default the authorities of the system),
    ///   `ssl_certfile`, `ssl_keyfile` and `ssl_check_hostname`.
    /// * `redis+socket://[[user]:password@]/path[?virtual_host=db]`, where
    ///   `socket://` and `unix://` say the same
    /// * `sentinel://[[user]:password@]host[:port][/db]?master_name=…[;sentinel://…]`:
    ///   the master that the sentinels name, also after a failover. User and
    ///   password are for the master; see [`SentinelOptions`].
    ///
    /// # Errors
    /// [`Error::Config`](canvas_core::Error::Config) and
    /// [`Error::UnknownScheme`](canvas_core::Error::UnknownScheme) for a URL
    /// that makes no sense;
    /// [`Error::Unsupported`](canvas_core::Error::Unsupported) for TLS that is
    /// not compiled in.
    pub fn new(url: &str, config: RedisBackendConfig) -> Result<Arc<Self>> {
        let server = Server::new(url, config.server())?;
        let link = Arc::new(Link::new(server, config.retry_for));
        let keys = Keys::new(&config.global_keyprefix);
        let watches = Watches::new(link.clone(), keys.clone(), &config);
        Ok(Arc::new(Self {
            retell: Retell::new(link.clone(), keys.clone()),
            link,
            keys,
            config,
            watches: Arc::new(watches),
        }))
    }

    /// Which server and database: the same text for URLs that lead to the same
    /// store, however they are written and whoever logs in.
    pub fn server_id(&self) -> &str {
        self.link.server().id()
    }
}

impl fmt::Debug for RedisBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBackend")
            .field("server", self.link.server())
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Backend for RedisBackend {
    fn info(&self) -> BackendInfo {
        let mut info = BackendInfo::new(self.link.server().url());
        info.persistent = true;
        info
    }

    async fn store(&self, meta: &TaskMeta) -> Result<Stored> {
        self.store_meta(meta).await
    }

    async fn load(&self, ids: &[Id]) -> Result<Vec<Option<TaskMeta>>> {
        self.load_metas(ids).await
    }

    async fn forget(&self, ids: &[Id]) -> Result<()> {
        self.forget_ids(ids).await
    }

    async fn watch(&self, ids: &[Id]) -> Result<BoxStream<'static, Result<TaskMeta>>> {
        Ok(self.watches.watch(ids))
    }

    async fn save_group(&self, group: &ResultTree) -> Result<()> {
        self.store_group(group).await
    }

    async fn load_group(&self, id: &Id) -> Result<Option<ResultTree>> {
        self.restore_group(id).await
    }

    async fn forget_group(&self, id: &Id) -> Result<()> {
        self.delete_group(id).await
    }

    async fn keep(&self, key: &Id, value: Bytes) -> Result<()> {
        self.keep_value(key, &value).await
    }

    async fn recall(&self, key: &Id) -> Result<Option<Bytes>> {
        self.recall_value(key).await
    }

    async fn open_join(&self, spec: &JoinSpec) -> Result<()> {
        self.open(spec).await
    }

    async fn grow_join(&self, join: &Id, member: &Id, by: u64) -> Result<()> {
        self.grow(join, member, by).await
    }

    async fn arrive(&self, join: &Id, part: &Part, lease: Duration) -> Result<Arrival> {
        self.count_in(join, part, lease).await
    }

    async fn close_join(&self, join: &Id, claim: u64) -> Result<bool> {
        self.close(join, claim).await
    }

    fn together(&self, broker: &dyn Broker) -> Option<Arc<dyn Together>> {
        let queues = *broker.companion()?.downcast::<Companion>().ok()?;
        if queues.server_id() != self.server_id() {
            return None;
        }
        Some(Arc::new(OneServer::new(
            self.link.clone(),
            self.keys.clone(),
            &self.config,
            queues,
            self.retell.clone(),
        )))
    }
}
