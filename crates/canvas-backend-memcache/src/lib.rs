//! Celery's cache result backend for canvas: Memcached.
//!
//! Results and groups are kept under the keys and in the form of Celery 5.7, so
//! Python and Rust clients wait for each other's results.
//!
//! ```no_run
//! use canvas_backend_memcache::{MemcacheBackend, MemcacheBackendConfig};
//! use canvas_core::Canvas;
//!
//! # fn main() -> canvas_core::Result<()> {
//! let config = MemcacheBackendConfig::default();
//! let backend = MemcacheBackend::new("memcached://one:11211;two:11211", config)?;
//! let app = Canvas::builder().backend(backend).build()?;
//! # let _ = app; Ok(()) }
//! ```
//!
//! # Guarantees
//!
//! Memcached is a cache: it keeps nothing over a restart, and drops what was used
//! least when its memory is full. Give it enough of that (`-m`), or have it refuse
//! to store instead (`-M`).
//!
//! * A result that is lost is that of a task that nobody has heard of: it is
//!   pending, and `get()` waits until its timeout.
//! * A chord whose join was lost, or any of the members that had arrived at it,
//!   fails: the next member that arrives finds it so, and its body is a FAILURE
//!   that says why. It never runs with members missing or counted twice. If no
//!   member arrives any more, as all have, nothing was lost.
//!
//! Within that, every operation can be made twice, and is, when the connection is
//! lost before the answer came: see [`MemcacheBackendConfig::retry_for`]. An item
//! is changed only if nobody else has changed it since it was read.
//!
//! Memcached 1.6 or later is needed. Waiting asks again and again, see
//! [`MemcacheBackendConfig::poll`]. Who has a claim on a join is decided by the
//! clocks of the workers, which must agree to a second or so.
//!
//! # Several servers
//!
//! A key is on the server that comes out highest when both are hashed together, as
//! in Python's client: each must be named in the same way everywhere. A server that
//! is down is waited for, and nothing is stored elsewhere meanwhile.
//!
//! # Keys
//!
//! | Key | Holds |
//! |---|---|
//! | `celery-task-meta-<task>` | a state as JSON |
//! | `celery-taskset-meta-<group>` | the shape of a group as JSON |
//! | `chord-unlock-<group>` | how many members have arrived; ours look here where to begin |
//! | `canvas-join-<group>` | ours: size, quorum, who has the claim; all on its server that follows |
//! | ….`\|<epoch>\|<n>` | ours: the member that arrived as the nth, with its result |
//! | ….`\|<epoch>\|m<place>\|<task>` | ours: that a member has arrived, and since when |
//! | `canvas-ref-<key>` | ours: a continuation that messages refer to |
//!
//! An item is a megabyte at most, unless memcached was started with another limit
//! (`-I`). A larger result is refused, and its task fails saying so.
//!
//! # Chords of Python processes
//!
//! A chord that Python has sent is joined here too, and workers of both kinds may
//! run its header: what Python has run is counted by Celery's counter, and found by
//! the shape of the header. A chord that is sent from here needs workers that are
//! all ours: Celery fails it, since it finds no group.

mod cache;
mod config;
mod joins;
mod keys;
mod parts;
mod servers;
mod states;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use canvas_core::backend::{Arrival, Backend, BackendInfo, JoinSpec, Part, Stored};
use canvas_core::{Id, Result, ResultTree, TaskMeta};
use futures_util::stream::BoxStream;

use crate::cache::Cache;
use crate::joins::Turns;

pub use crate::config::MemcacheBackendConfig;

/// Keeps results in Memcached, and joins chords there.
pub struct MemcacheBackend {
    cache: Arc<Cache>,
    turns: Turns,
}

impl MemcacheBackend {
    /// A backend that connects when it is first used.
    ///
    /// URLs are Celery's, with or without its `cache+`:
    /// `cache+memcached://host[:port][;host[:port]…]`. `memcache://`,
    /// `pymemcache://` and `pylibmc://` say the same.
    ///
    /// # Errors
    /// [`Error::Config`](canvas_core::Error::Config) and
    /// [`Error::UnknownScheme`](canvas_core::Error::UnknownScheme) for a URL that
    /// makes no sense; [`Error::Unsupported`](canvas_core::Error::Unsupported) for
    /// sockets and logins.
    pub fn new(url: &str, config: MemcacheBackendConfig) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            cache: Arc::new(Cache::new(url, config)?),
            turns: Turns::default(),
        }))
    }
}

impl fmt::Debug for MemcacheBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemcacheBackend")
            .field("servers", &self.cache.url())
            .field("config", &self.cache.config)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Backend for MemcacheBackend {
    fn info(&self) -> BackendInfo {
        let mut info = BackendInfo::new(self.cache.url());
        info.push = false;
        info
    }

    async fn store(&self, meta: &TaskMeta) -> Result<Stored> {
        self.cache.store_meta(meta).await
    }

    async fn load(&self, ids: &[Id]) -> Result<Vec<Option<TaskMeta>>> {
        self.cache.load_metas("backend.load", ids).await
    }

    async fn forget(&self, ids: &[Id]) -> Result<()> {
        self.cache.forget_ids(ids).await
    }

    async fn watch(&self, ids: &[Id]) -> Result<BoxStream<'static, Result<TaskMeta>>> {
        Ok(watch::watch(self.cache.clone(), ids))
    }

    async fn save_group(&self, group: &ResultTree) -> Result<()> {
        self.cache.store_group(group).await
    }

    async fn load_group(&self, id: &Id) -> Result<Option<ResultTree>> {
        self.cache.restore_group(id).await
    }

    async fn forget_group(&self, id: &Id) -> Result<()> {
        self.cache.delete_group(id).await
    }

    async fn keep(&self, key: &Id, value: Bytes) -> Result<()> {
        self.cache.keep_value(key, &value).await
    }

    async fn recall(&self, key: &Id) -> Result<Option<Bytes>> {
        self.cache.recall_value(key).await
    }

    async fn open_join(&self, spec: &JoinSpec) -> Result<()> {
        self.cache.open_join(spec).await
    }

    async fn grow_join(&self, join: &Id, member: &Id, by: u64) -> Result<()> {
        self.cache.grow_join(join, member, by).await
    }

    async fn arrive(&self, join: &Id, part: &Part, lease: Duration) -> Result<Arrival> {
        // Those of one process do not get into each other's way.
        let _turn = self.turns.of(join).await;
        self.cache.arrive(join, part, lease).await
    }

    async fn close_join(&self, join: &Id, claim: u64) -> Result<bool> {
        self.cache.close_join(join, claim).await
    }
}
