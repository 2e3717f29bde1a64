//! Shapes of groups, in Celery's table, and kept continuations in one of ours.

use std::time::Duration;

use async_trait::async_trait;
use canvas_core::{Id, ResultTree};
use chrono::{NaiveDateTime, Utc};

use crate::database::{How, Work};
use crate::fault::Fault;
use crate::migrate::Found;
use crate::schema::Tables;
use crate::session::{Arg, Session, Sql};
use crate::states::{Horizon, value};

/// The statements.
#[derive(Debug, Clone)]
pub(crate) struct Groups {
    insert: Sql,
    update: Sql,
    load: Sql,
    pub(crate) forget: Sql,
    keep: Sql,
    keep_again: Sql,
    recall: Sql,
}

impl Groups {
    pub(crate) fn new(tables: &Tables, found: &Found) -> Self {
        let Tables { group, kept, .. } = tables;
        let sql = |text: &str| Sql::new(tables.dialect, text);
        let (id, next) = match &found.next_group {
            Some(next) => ("id, ", format!("{next}, ")),
            None => ("", String::new()),
        };
        let now = tables.dialect.now();
        let or_nothing = tables.dialect.or_nothing();
        Self {
            insert: sql(&format!(
                "INSERT INTO {group} ({id}taskset_id, result, date_done) VALUES ({next}?, ?, ?)\
                 {or_nothing}"
            )),
            update: sql(&format!(
                "UPDATE {group} SET result = ?, date_done = ? WHERE taskset_id = ?"
            )),
            load: sql(&format!(
                "SELECT result FROM {group} WHERE taskset_id = ? AND NOT (date_done < ? AND \
                 date_done IS NOT NULL)"
            )),
            forget: sql(&format!("DELETE FROM {group} WHERE taskset_id = ?")),
            keep: sql(&format!(
                "INSERT INTO {kept} (kept_id, value, expires) VALUES (?, ?, {now} + ?){or_nothing}"
            )),
            keep_again: sql(&format!(
                "UPDATE {kept} SET value = ?, expires = {now} + ? WHERE kept_id = ?"
            )),
            recall: sql(&format!(
                "SELECT value FROM {kept} WHERE kept_id = ? AND (expires IS NULL OR expires > {now})"
            )),
        }
    }
}

/// Writes a row whether it is there or not: the newest counts.
pub(crate) struct Put<'a> {
    operation: &'static str,
    insert: &'a Sql,
    update: &'a Sql,
    id: &'a Id,
    value: &'a [u8],
    when: When,
}

enum When {
    /// It is written now.
    Time(NaiveDateTime),
    /// It lives for this many milliseconds; `None` for ever.
    Life(Option<i64>),
}

impl<'a> Put<'a> {
    /// A group as Celery saves it.
    pub(crate) fn group(groups: &'a Groups, id: &'a Id, value: &'a [u8]) -> Self {
        Self {
            operation: "backend.save_group",
            insert: &groups.insert,
            update: &groups.update,
            id,
            value,
            when: When::Time(Utc::now().naive_utc()),
        }
    }

    /// A continuation.
    pub(crate) fn kept(
        groups: &'a Groups,
        id: &'a Id,
        value: &'a [u8],
        life: Option<Duration>,
    ) -> Self {
        Self {
            operation: "backend.keep",
            insert: &groups.keep,
            update: &groups.keep_again,
            id,
            value,
            when: When::Life(life.map(millis)),
        }
    }
}

#[async_trait]
impl Work for Put<'_> {
    type Output = ();

    fn operation(&self) -> &'static str {
        self.operation
    }

    fn how(&self) -> How {
        How::Write
    }

    async fn run(&self, on: &mut Session<'_>, _: bool) -> Result<(), Fault> {
        let (id, value) = (Arg::from(self.id.as_str()), Arg::from(self.value));
        let when = match self.when {
            When::Time(time) => time.into(),
            When::Life(life) => Arg::Int(life),
        };
        if on.execute(self.update, &[value, when, id]).await? == 0 {
            // Lost only to somebody who wrote at the same time.
            on.insert(self.insert, &[id, value, when]).await?;
        }
        Ok(())
    }
}

/// Loads a group.
pub(crate) struct LoadGroup<'a> {
    pub(crate) groups: &'a Groups,
    pub(crate) id: &'a Id,
    pub(crate) horizon: Horizon,
}

#[async_trait]
impl Work for LoadGroup<'_> {
    type Output = Option<ResultTree>;

    fn operation(&self) -> &'static str {
        "backend.load_group"
    }

    fn how(&self) -> How {
        How::Read
    }

    async fn run(&self, on: &mut Session<'_>, _: bool) -> Result<Self::Output, Fault> {
        let args = [self.id.as_str().into(), self.horizon.time.into()];
        let Some(mut row) = on.first(&self.groups.load, &args).await? else {
            return Ok(None);
        };
        let Some(stored) = row.bytes()? else {
            return Ok(None);
        };
        let what = format!("the shape of group {}", self.id);
        Ok(Some(ResultTree::from_value(&value(&stored, &what)?)?))
    }
}

/// The time that something lives, as statements take it.
pub(crate) fn millis(life: Duration) -> i64 {
    // Never so long that a time that it is added to overflows.
    i64::try_from(life.as_millis()).map_or(i64::MAX / 4, |millis| millis.min(i64::MAX / 4))
}

/// Recalls a continuation.
pub(crate) struct Recall<'a> {
    pub(crate) groups: &'a Groups,
    pub(crate) key: &'a Id,
}

#[async_trait]
impl Work for Recall<'_> {
    type Output = Option<Vec<u8>>;

    fn operation(&self) -> &'static str {
        "backend.recall"
    }

    fn how(&self) -> How {
        How::Read
    }

    async fn run(&self, on: &mut Session<'_>, _: bool) -> Result<Self::Output, Fault> {
        let row = on
            .first(&self.groups.recall, &[self.key.as_str().into()])
            .await?;
        Ok(row.map(|mut row| row.bytes()).transpose()?.flatten())
    }
}
