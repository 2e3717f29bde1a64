//! Removing what has expired, a batch at a time, so that nobody waits long for
//! a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use canvas_core::{Id, Result};
use tokio::time::Instant;

use crate::database::{Database, How, Work};
use crate::fault::Fault;
use crate::schema::{Table, Tables};
use crate::session::{Arg, Session, Sql};
use crate::states::{EXPIRED, Horizon};

/// How many rows go at a time.
const BATCH: usize = 500;

/// A join has rows for all its members, which go with it.
const JOINS: usize = 20;

/// A table, and how what has expired in it is found and removed.
#[derive(Debug, Clone)]
struct Expiring {
    find: Sql,
    /// Its condition is that of `find` again: a row may have been written anew
    /// in between.
    condition: String,
    table: Table,
    key: &'static str,
    /// The tables whose rows go with it.
    with: Vec<Table>,
    by: By,
}

/// What the statements ask for: how long ago, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Time,
    Millis,
    Both,
    /// The row says when.
    Itself,
}

/// What of all tables has expired.
#[derive(Debug, Clone)]
pub(crate) struct Sweep {
    tables: Tables,
    all: Vec<Expiring>,
}

impl Sweep {
    pub(crate) fn new(tables: &Tables) -> Self {
        let now = tables.dialect.now();
        let expiring = |table: &Table, key, condition: String, by, with: Vec<Table>| {
            let is_join = !with.is_empty();
            let (limit, lock) = match is_join {
                true => (JOINS, tables.dialect.for_update()),
                false => (BATCH, ""),
            };
            let text = format!("SELECT {key} FROM {table} WHERE {condition} LIMIT {limit}{lock}");
            Expiring {
                find: Sql::new(tables.dialect, &text),
                condition,
                table: table.clone(),
                key,
                with,
                by,
            }
        };
        let itself = format!("expires <= {now}");
        let with = vec![tables.part.clone(), tables.growth.clone()];
        Self {
            all: vec![
                expiring(
                    &tables.task,
                    "task_id",
                    // By the index of the time first.
                    format!("date_done < ? AND {EXPIRED}"),
                    By::Both,
                    Vec::new(),
                ),
                expiring(
                    &tables.task,
                    "task_id",
                    "date_done IS NULL AND canvas_stored < ?".to_owned(),
                    By::Millis,
                    Vec::new(),
                ),
                expiring(
                    &tables.group,
                    "taskset_id",
                    "date_done < ?".to_owned(),
                    By::Time,
                    Vec::new(),
                ),
                expiring(
                    &tables.kept,
                    "kept_id",
                    itself.clone(),
                    By::Itself,
                    Vec::new(),
                ),
                expiring(&tables.join, "join_id", itself, By::Itself, with),
            ],
            tables: tables.clone(),
        }
    }

    /// Removes all that has expired; gives how many rows that were.
    pub(crate) async fn run(&self, database: &Database, expires: Option<Duration>) -> Result<u64> {
        let horizon = Horizon::new(expires);
        let mut swept = 0;
        for expiring in &self.all {
            // Nothing that is written from now on has expired by then, so this
            // ends.
            loop {
                let batch = Batch {
                    sweep: self,
                    expiring,
                    horizon,
                };
                let (found, removed) = database.call(&batch).await?;
                swept += removed;
                let full = match expiring.with.is_empty() {
                    true => BATCH,
                    false => JOINS,
                };
                if found < full {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        Ok(swept)
    }
}

/// One batch: how many were found, and how many rows were removed.
struct Batch<'a> {
    sweep: &'a Sweep,
    expiring: &'a Expiring,
    horizon: Horizon,
}

#[async_trait]
impl Work for Batch<'_> {
    type Output = (usize, u64);

    fn operation(&self) -> &'static str {
        "backend.sweep"
    }

    fn how(&self) -> How {
        How::Transaction
    }

    async fn run(&self, on: &mut Session<'_>, _: bool) -> Result<Self::Output, Fault> {
        let (time, millis) = (self.horizon.time.into(), self.horizon.millis.into());
        let asked: Vec<Arg<'_>> = match self.expiring.by {
            By::Time => vec![time],
            By::Millis => vec![millis],
            By::Both => vec![time, time, millis],
            By::Itself => Vec::new(),
        };
        let rows = on.fetch(&self.expiring.find, &asked).await?;
        let ids: Result<Vec<Option<String>>> = rows.into_iter().map(|mut row| row.text()).collect();
        let ids: Vec<String> = ids?.into_iter().flatten().collect();
        if ids.is_empty() {
            return Ok((0, 0));
        }
        let keys: Vec<Arg<'_>> = ids.iter().map(|id| id.as_str().into()).collect();
        let dialect = self.sweep.tables.dialect;
        let places = vec!["?"; ids.len()].join(", ");
        let Expiring {
            table,
            key,
            condition,
            ..
        } = self.expiring;
        let text = format!("DELETE FROM {table} WHERE {key} IN ({places}) AND {condition}");
        let args = [keys.as_slice(), &asked].concat();
        let mut removed = on.execute(&Sql::new(dialect, &text), &args).await?;
        for table in &self.expiring.with {
            let text = format!("DELETE FROM {table} WHERE {key} IN ({places})");
            removed += on.execute(&Sql::new(dialect, &text), &keys).await?;
        }
        Ok((ids.len(), removed))
    }
}

/// Removes these states, and the joins of these ids.
pub(crate) struct Forget<'a> {
    pub(crate) tables: &'a Tables,
    /// No more than a statement may name.
    pub(crate) ids: &'a [Id],
}

#[async_trait]
impl Work for Forget<'_> {
    type Output = ();

    fn operation(&self) -> &'static str {
        "backend.forget"
    }

    fn how(&self) -> How {
        How::Transaction
    }

    async fn run(&self, on: &mut Session<'_>, _: bool) -> Result<(), Fault> {
        let Tables {
            dialect,
            task,
            join,
            part,
            growth,
            ..
        } = self.tables;
        let keys: Vec<Arg<'_>> = self.ids.iter().map(|id| id.as_str().into()).collect();
        let places = vec!["?"; keys.len()].join(", ");
        // The join before what belongs to it: in the order in which those who
        // arrive take their locks.
        for (table, key) in [
            (task, "task_id"),
            (join, "join_id"),
            (part, "join_id"),
            (growth, "join_id"),
        ] {
            let text = format!("DELETE FROM {table} WHERE {key} IN ({places})");
            on.execute(&Sql::new(*dialect, &text), &keys).await?;
        }
        Ok(())
    }
}

/// Removes a group.
pub(crate) struct ForgetGroup<'a> {
    pub(crate) sql: &'a Sql,
    pub(crate) id: &'a Id,
}

#[async_trait]
impl Work for ForgetGroup<'_> {
    type Output = ();

    fn operation(&self) -> &'static str {
        "backend.forget_group"
    }

    fn how(&self) -> How {
        How::Write
    }

    async fn run(&self, on: &mut Session<'_>, _: bool) -> Result<(), Fault> {
        on.execute(self.sql, &[self.id.as_str().into()]).await?;
        Ok(())
    }
}

/// When to sweep: now and then, while something is stored.
#[derive(Debug)]
pub(crate) struct Broom {
    every: Option<Duration>,
    last: std::sync::Mutex<Instant>,
    at_it: AtomicBool,
}

impl Broom {
    pub(crate) fn new(every: Option<Duration>) -> Arc<Self> {
        Arc::new(Self {
            every,
            last: std::sync::Mutex::new(Instant::now()),
            at_it: AtomicBool::new(false),
        })
    }

    /// Takes the broom, if it is time.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Taken> {
        let every = self.every?;
        let mut last = self
            .last
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.elapsed() < every || self.at_it.swap(true, Ordering::AcqRel) {
            return None;
        }
        *last = Instant::now();
        Some(Taken(self.clone()))
    }
}

/// The broom in somebody's hand; back in the corner once it is dropped.
pub(crate) struct Taken(Arc<Broom>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.at_it.store(false, Ordering::Release);
    }
}
