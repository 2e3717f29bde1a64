//! A database: its connections, and work on them that is done again when they
//! are lost or others were in the way.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use canvas_core::{Error, Result};
use sqlx::pool::{Pool, PoolConnection, PoolOptions};
use sqlx::{Connection as _, SqlSafeStr};

use crate::config::SqlBackendConfig;
use crate::fault::Fault;
use crate::session::{Connection, Session};
use crate::url::{Dialect, Target};

/// How a piece of work is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// One query, which sees what was committed before it.
    Read,
    /// Statements that each stand for themselves.
    Write,
    /// All of it or nothing. Each statement sees what was committed before it:
    /// with MySQL's own isolation, all would see what the first one saw.
    Transaction,
}

/// A piece of work that may be done twice: when the answer was lost, it is.
#[async_trait]
pub(crate) trait Work: Sync {
    type Output: Send;

    /// What it is called in errors, as `port.verb`.
    fn operation(&self) -> &'static str;

    fn how(&self) -> How;

    /// Does it. `again` says that it may have been done before.
    async fn run(&self, on: &mut Session<'_>, again: bool) -> Result<Self::Output, Fault>;
}

/// A database, and the patience with it.
#[derive(Debug)]
pub(crate) struct Database {
    target: Target,
    pools: Pools,
    response_timeout: Duration,
    retry_for: Duration,
}

#[derive(Debug)]
enum Pools {
    #[cfg(feature = "postgres")]
    Postgres(Pool<sqlx::Postgres>),
    #[cfg(feature = "mysql")]
    MySql(Pool<sqlx::MySql>),
    /// One that writes, so that writers of a process take turns in the order
    /// in which they came; and some that read meanwhile.
    #[cfg(feature = "sqlite")]
    Sqlite {
        write: Pool<sqlx::Sqlite>,
        read: Pool<sqlx::Sqlite>,
    },
}

impl Database {
    /// A database that is connected to when it is first used.
    pub(crate) fn new(target: Target, config: &SqlBackendConfig) -> Result<Self> {
        Ok(Self {
            pools: Pools::new(&target, config)?,
            target,
            response_timeout: config.response_timeout,
            retry_for: config.retry_for,
        })
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.target.dialect
    }

    /// The URL without its password.
    pub(crate) fn url(&self) -> &str {
        &self.target.shown
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn retry_for(&self) -> Duration {
        self.retry_for
    }

    /// Does a piece of work, and does it again for as long as what keeps it
    /// from being done may pass.
    ///
    /// # Errors
    /// [`Error::Connection`] when that takes too long, and whatever the
    /// database refuses it for.
    pub(crate) async fn call<W: Work>(&self, work: &W) -> Result<W::Output> {
        let started = Instant::now();
        let mut backoff = Backoff::new();
        let mut again = false;
        loop {
            let fault = match self.attempt(work, again).await {
                Ok(output) => return Ok(output),
                Err(fault) => fault,
            };
            let pause = backoff.pause();
            if !matches!(fault, Fault::Passing(_)) || started.elapsed() + pause > self.retry_for {
                return Err(fault.after(started.elapsed()));
            }
            tokio::time::sleep(pause).await;
            again = true;
        }
    }

    async fn attempt<W: Work>(&self, work: &W, again: bool) -> Result<W::Output, Fault> {
        match &self.pools {
            #[cfg(feature = "postgres")]
            Pools::Postgres(pool) => self.attempt_on(pool, work, again).await,
            #[cfg(feature = "mysql")]
            Pools::MySql(pool) => self.attempt_on(pool, work, again).await,
            #[cfg(feature = "sqlite")]
            Pools::Sqlite { write, read } => {
                let pool = if work.how() == How::Read { read } else { write };
                self.attempt_on(pool, work, again).await
            }
        }
    }

    async fn attempt_on<D: Kind, W: Work>(
        &self,
        pool: &Pool<D>,
        work: &W,
        again: bool,
    ) -> Result<W::Output, Fault> {
        let fault = |error| Fault::of(self.url(), work.operation(), error);
        let mut connection = pool.acquire().await.map_err(fault)?;
        let doing = self.on(&mut connection, work, again);
        match tokio::time::timeout(self.response_timeout, doing).await {
            Ok(done) => done,
            Err(_) => {
                // Its answer, should it ever come, is not for the next one.
                connection.close_on_drop();
                Err(Fault::silence(
                    self.url(),
                    work.operation(),
                    self.response_timeout,
                ))
            }
        }
    }

    async fn on<D: Kind, W: Work>(
        &self,
        connection: &mut PoolConnection<D>,
        work: &W,
        again: bool,
    ) -> Result<W::Output, Fault> {
        let fault = |error| Fault::of(self.url(), work.operation(), error);
        let session = |connection| Session {
            connection,
            operation: work.operation(),
            url: self.url(),
            changed: false,
        };
        if work.how() != How::Transaction {
            let mut session = session(D::wrap(connection));
            return work.run(&mut session, again).await;
        }
        let begin = D::BEGIN.into_sql_str();
        let mut transaction = connection.begin_with(begin).await.map_err(fault)?;
        let mut session = session(D::wrap(&mut transaction));
        let output = work.run(&mut session, again).await?;
        // A lock on a row has to be written down by PostgreSQL, and is only
        // worth waiting for the disk if something was done under it.
        let end = match session.changed {
            true => transaction.commit().await,
            false => transaction.rollback().await,
        };
        end.map_err(fault)?;
        Ok(output)
    }

    /// The pool, to listen on.
    #[cfg(feature = "postgres")]
    pub(crate) fn postgres(&self) -> Option<&Pool<sqlx::Postgres>> {
        match &self.pools {
            Pools::Postgres(pool) => Some(pool),
            #[allow(unreachable_patterns, reason = "the others may not be compiled in")]
            _ => None,
        }
    }
}

/// What the driver does not say of a database.
trait Kind: sqlx::Database {
    /// Begins a transaction, with the isolation that is needed.
    const BEGIN: &'static str;

    fn wrap(connection: &mut Self::Connection) -> Connection<'_>;
}

#[cfg(feature = "postgres")]
impl Kind for sqlx::Postgres {
    const BEGIN: &'static str = "BEGIN ISOLATION LEVEL READ COMMITTED";

    fn wrap(connection: &mut Self::Connection) -> Connection<'_> {
        Connection::Postgres(connection)
    }
}

#[cfg(feature = "mysql")]
impl Kind for sqlx::MySql {
    // The first of the two is for the next transaction only. Gap locks, which
    // lead to deadlocks between writers of new rows, are gone with it, too.
    const BEGIN: &'static str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION";

    fn wrap(connection: &mut Self::Connection) -> Connection<'_> {
        Connection::MySql(connection)
    }
}

#[cfg(feature = "sqlite")]
impl Kind for sqlx::Sqlite {
    // One that begins by reading cannot always go on to write: others may have
    // written meanwhile, and no waiting helps.
    const BEGIN: &'static str = "BEGIN IMMEDIATE";

    fn wrap(connection: &mut Self::Connection) -> Connection<'_> {
        Connection::Sqlite(connection)
    }
}

impl Pools {
    fn new(target: &Target, config: &SqlBackendConfig) -> Result<Self> {
        match target.dialect {
            #[cfg(feature = "postgres")]
            Dialect::Postgres => {
                let options: sqlx::postgres::PgConnectOptions = options(target)?;
                let options = options.application_name("canvas");
                let pool = pool(config, config.max_connections);
                Ok(Self::Postgres(pool.connect_lazy_with(options)))
            }
            #[cfg(feature = "mysql")]
            Dialect::MySql => {
                let options: sqlx::mysql::MySqlConnectOptions = options(target)?;
                let pool = pool(config, config.max_connections);
                Ok(Self::MySql(pool.connect_lazy_with(options)))
            }
            #[cfg(feature = "sqlite")]
            Dialect::Sqlite => {
                use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
                let options: SqliteConnectOptions = options(target)?;
                let options = options
                    .create_if_missing(true)
                    // Readers do not wait for the writer, nor it for them.
                    .journal_mode(SqliteJournalMode::Wal)
                    // What is committed is on the disk, also if power is lost.
                    .synchronous(SqliteSynchronous::Full)
                    .busy_timeout(config.response_timeout / 2)
                    // Times are kept as text; nothing needs a function of ours.
                    .foreign_keys(false);
                Ok(Self::Sqlite {
                    write: pool(config, 1).connect_lazy_with(options.clone()),
                    read: pool(config, config.max_connections).connect_lazy_with(options),
                })
            }
            #[allow(unreachable_patterns, reason = "all may be compiled in")]
            dialect => Err(Error::Unsupported {
                operation: "backend.connect",
                driver: format!("canvas-backend-sql without {dialect:?}"),
                hint: "switch on the feature `postgres`, `mysql` or `sqlite`".to_owned(),
            }),
        }
    }
}

fn options<O: std::str::FromStr<Err = sqlx::Error>>(target: &Target) -> Result<O> {
    target
        .address
        .parse()
        .map_err(|error| Error::Config(format!("{}: {error}", target.shown)))
}

fn pool<D: sqlx::Database>(config: &SqlBackendConfig, connections: u32) -> PoolOptions<D> {
    PoolOptions::new()
        .max_connections(connections.max(1))
        .acquire_timeout(config.retry_for.max(Duration::from_secs(1)))
        // It would be asked before each call whether it still answers; a call
        // that fails is made again anyway.
        .test_before_acquire(false)
}

/// Waits about twice as long each time, up to a second, and never twice the
/// same: those who were in each other's way are not to meet again.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self(Duration::from_millis(10))
    }

    pub(crate) fn pause(&mut self) -> Duration {
        let wait = self.0.mul_f64(0.5 + fastrand::f64());
        self.0 = (self.0 * 2).min(Duration::from_secs(1));
        wait
    }
}
