//! Celery's database result backend for canvas: PostgreSQL, MariaDB, MySQL and
//! SQLite.
//!
//! Results and groups are in the tables of Celery 5.7, so that Python and Rust
//! processes read what either has stored. Chords are joined in the database:
//! the arrival that completes one knows it, in one transaction, and nobody
//! polls.
//!
//! ```no_run
//! use canvas_backend_sql::{SqlBackend, SqlBackendConfig};
//! use canvas_core::Canvas;
//!
//! # fn main() -> canvas_core::Result<()> {
//! let config = SqlBackendConfig::default();
//! let backend = SqlBackend::new("postgres://me:secret@localhost/shop", config)?;
//! let app = Canvas::builder().backend(backend).build()?;
//! # let _ = app; Ok(()) }
//! ```
//!
//! # Guarantees
//!
//! Every operation is one transaction, or one statement. All of them can be
//! made twice, and are, when the connection is lost before the answer came or
//! when two were in each other's way: see [`SqlBackendConfig::retry_for`].
//!
//! Each statement sees what was committed before it. MySQL's own isolation,
//! REPEATABLE READ, shows a transaction what its first query saw, and a process
//! that waits inside one never sees a result; here each transaction says that
//! it wants READ COMMITTED, and what only reads is in none.
//!
//! What has expired is not seen any more, and is removed in batches, every few
//! minutes, by a process that stores: see [`SqlBackendConfig::sweep_every`].
//!
//! # Databases
//!
//! | | Versions | Waiting | Several processes |
//! |---|---|---|---|
//! | PostgreSQL | 11 and later | is told, by LISTEN and NOTIFY | yes |
//! | MariaDB, MySQL | 10.3, 8.0 and later | asks, see [`SqlBackendConfig::poll`] | yes |
//! | SQLite | compiled in | asks | yes, of one machine |
//!
//! A file of SQLite is in WAL mode, so it must not be on a network file system.
//! It has one writer at a time.
//!
//! # Tables
//!
//! Those that are missing are made when the backend is first used, or by
//! [`SqlBackend::migrate`]; columns that are missing are added. Several
//! processes may do that at once.
//!
//! | Table | Holds |
//! |---|---|
//! | `celery_taskmeta` | results: Celery's columns, and `canvas_more` and `canvas_stored` of ours |
//! | `celery_tasksetmeta` | shapes of groups |
//! | `canvas_join`, `canvas_join_part`, `canvas_join_growth` | ours: joins, their members, who has added members |
//! | `canvas_kept` | ours: continuations that messages refer to |
//!
//! In PostgreSQL a trigger on the table of results tells of them, whoever
//! stores them. Where the table was made by Celery, MySQL keeps times to the
//! second there, and results of up to 64 kB.
//!
//! # What Python stores
//!
//! Celery 5.7 stores JSON here. Earlier versions pickled results; those are
//! read as far as they are plain data, and nothing in them is ever run. A group
//! that was pickled is not read, as that is an object of Celery's.
//!
//! A Python process knows nothing of our joins. Celery's own chords are joined
//! by its task `celery.chord_unlock`, which polls. So whoever sends a chord and
//! the workers of its header must be all ours, or all Celery's.

#[cfg(not(any(feature = "postgres", feature = "mysql", feature = "sqlite")))]
compile_error!("canvas-backend-sql needs one of its features: postgres, mysql, sqlite");

mod config;
mod database;
mod fault;
mod groups;
mod joins;
mod listen;
mod migrate;
mod pickle;
mod schema;
mod session;
mod states;
mod store;
mod sweep;
mod url;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use canvas_core::backend::{Arrival, Backend, BackendInfo, JoinSpec, Part, Stored};
use canvas_core::protocol::GroupMeta;
use canvas_core::{Id, Result, ResultTree, TaskMeta};
use futures_util::stream::BoxStream;

use crate::groups::{LoadGroup, Put, Recall, millis};
use crate::joins::{Arrive, Close, Grow, Open};
use crate::states::BATCH;
use crate::store::Store;
use crate::sweep::{Broom, Forget, ForgetGroup};
use crate::url::Dialect;
use crate::watch::Watches;

pub use crate::config::SqlBackendConfig;

/// Keeps results in a database, and joins chords there.
pub struct SqlBackend {
    store: Arc<Store>,
    watches: Arc<Watches>,
    broom: Arc<Broom>,
}

impl SqlBackend {
    /// A backend that connects when it is first used.
    ///
    /// URLs are these, or Celery's, which begin with `db+` and may name a
    /// driver of Python's, as in `db+mysql+pymysql://`:
    ///
    /// * `postgres://[user[:password]@]host[:port]/database`, where
    ///   `postgresql://` says the same, and `?host=/path` names a folder of
    ///   sockets
    /// * `mysql://[user[:password]@]host[:port]/database`, where `mariadb://`
    ///   says the same, and `?socket=/path` names a socket
    /// * `sqlite://path`: a file, which is made if it is missing. After
    ///   `db+sqlite:///` the path begins one slash later, as in Celery.
    ///
    /// With the feature `tls`, `?sslmode=verify-full` and `?sslrootcert=` have
    /// PostgreSQL prove who it is; for MySQL those are `?ssl-mode=VERIFY_IDENTITY`
    /// and `?ssl-ca=`.
    ///
    /// # Errors
    /// [`Error::Config`](canvas_core::Error::Config) and
    /// [`Error::UnknownScheme`](canvas_core::Error::UnknownScheme) for a URL or
    /// a name of a table that makes no sense;
    /// [`Error::Unsupported`](canvas_core::Error::Unsupported) for a database
    /// that is not compiled in.
    pub fn new(url: &str, config: SqlBackendConfig) -> Result<Arc<Self>> {
        let broom = Broom::new(config.sweep_every);
        let store = Arc::new(Store::new(url, config)?);
        Ok(Arc::new(Self {
            watches: Watches::new(store.clone()),
            store,
            broom,
        }))
    }

    /// Makes the tables, columns and indexes that are missing. That may be done
    /// again, and by many at once.
    ///
    /// # Errors
    /// [`Error::Connection`](canvas_core::Error::Connection), and
    /// [`Error::Config`](canvas_core::Error::Config) where this user may not
    /// make them.
    pub async fn migrate(&self) -> Result<()> {
        self.store.prepare(true).await.map(drop)
    }

    /// Removes what has expired, in batches; gives how many rows that were.
    /// [`SqlBackendConfig::sweep_every`] does it from time to time.
    ///
    /// # Errors
    /// [`Error::Connection`](canvas_core::Error::Connection).
    pub async fn sweep(&self) -> Result<u64> {
        sweep(&self.store).await
    }

    /// Sweeps in the background, if it is time.
    fn sweep_now_and_then(&self) {
        if let Some(broom) = self.broom.take() {
            let store = self.store.clone();
            tokio::spawn(async move {
                if let Err(error) = sweep(&store).await {
                    tracing::warn!(%error, "what has expired was not removed");
                }
                drop(broom);
            });
        }
    }

    fn join_life(&self) -> Option<i64> {
        self.store.config.join_expires.map(millis)
    }
}

async fn sweep(store: &Store) -> Result<u64> {
    let sweep = &store.statements().await?.sweep;
    sweep
        .run(&store.database, store.config.result_expires)
        .await
}

impl fmt::Debug for SqlBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlBackend")
            .field("database", &self.store.database.url())
            .field("config", &self.store.config)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Backend for SqlBackend {
    fn info(&self) -> BackendInfo {
        let mut info = BackendInfo::new(self.store.database.url());
        info.persistent = true;
        info.push = self.store.database.dialect() == Dialect::Postgres;
        info.polled = true;
        info
    }

    async fn store(&self, meta: &TaskMeta) -> Result<Stored> {
        let states = &self.store.statements().await?.states;
        let store = states::Store::new(states, meta, self.store.horizon())?;
        let stored = self.store.database.call(&store).await?;
        if meta.status.is_ready() {
            self.watches.ended(&meta.task_id);
        }
        self.sweep_now_and_then();
        Ok(stored)
    }

    async fn load(&self, ids: &[Id]) -> Result<Vec<Option<TaskMeta>>> {
        let found = self.store.load("backend.load", ids, false).await?;
        let take = |id| found.get(id).cloned().transpose();
        ids.iter().map(take).collect()
    }

    async fn forget(&self, ids: &[Id]) -> Result<()> {
        self.store.statements().await?;
        for ids in ids.chunks(BATCH) {
            let tables = &self.store.tables;
            self.store.database.call(&Forget { tables, ids }).await?;
        }
        Ok(())
    }

    async fn watch(&self, ids: &[Id]) -> Result<BoxStream<'static, Result<TaskMeta>>> {
        self.store.statements().await?;
        Ok(self.watches.watch(ids))
    }

    async fn save_group(&self, group: &ResultTree) -> Result<()> {
        let groups = &self.store.statements().await?.groups;
        let text = GroupMeta::tuple_to_json(group)?;
        let put = Put::group(groups, &group.id, &text);
        self.store.database.call(&put).await
    }

    async fn load_group(&self, id: &Id) -> Result<Option<ResultTree>> {
        let load = LoadGroup {
            groups: &self.store.statements().await?.groups,
            id,
            horizon: self.store.horizon(),
        };
        self.store.database.call(&load).await
    }

    async fn forget_group(&self, id: &Id) -> Result<()> {
        let sql = &self.store.statements().await?.groups.forget;
        self.store.database.call(&ForgetGroup { sql, id }).await
    }

    async fn keep(&self, key: &Id, value: Bytes) -> Result<()> {
        let groups = &self.store.statements().await?.groups;
        let put = Put::kept(groups, key, &value, self.store.config.result_expires);
        self.store.database.call(&put).await
    }

    async fn recall(&self, key: &Id) -> Result<Option<Bytes>> {
        let groups = &self.store.statements().await?.groups;
        let found = self.store.database.call(&Recall { groups, key }).await?;
        Ok(found.map(Bytes::from))
    }

    async fn open_join(&self, spec: &JoinSpec) -> Result<()> {
        let open = Open {
            joins: &self.store.statements().await?.joins,
            spec,
            life: self.join_life(),
        };
        self.store.database.call(&open).await?;
        self.sweep_now_and_then();
        Ok(())
    }

    async fn grow_join(&self, join: &Id, member: &Id, by: u64) -> Result<()> {
        let grow = Grow {
            joins: &self.store.statements().await?.joins,
            join,
            member,
            by,
            life: self.join_life(),
        };
        self.store.database.call(&grow).await
    }

    async fn arrive(&self, join: &Id, part: &Part, lease: Duration) -> Result<Arrival> {
        let arrive = Arrive {
            joins: &self.store.statements().await?.joins,
            join,
            part,
            lease,
            life: self.join_life(),
            asker: fastrand::i64(1..),
        };
        self.store.database.call(&arrive).await
    }

    async fn close_join(&self, join: &Id, claim: u64) -> Result<bool> {
        let close = Close {
            joins: &self.store.statements().await?.joins,
            join,
            claim,
            life: self.join_life(),
        };
        self.store.database.call(&close).await
    }
}
