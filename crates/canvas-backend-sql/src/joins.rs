//! Joins of chord headers, in tables of ours.
//!
//! Each step is one transaction that holds the row of the join, so that those
//! who arrive at the same time come one after the other, and the last of them
//! sees all. Celery itself polls here.

use std::time::Duration;

use async_trait::async_trait;
use canvas_core::backend::{Arrival, JoinSpec, Part};
use canvas_core::{Id, Result, State, json};

use crate::database::{How, Work};
use crate::fault::Fault;
use crate::groups::millis;
use crate::schema::Tables;
use crate::session::{Arg, Row, Session, Sql};
use crate::states::value;

const WAITING: i64 = 0;
const CLAIMED: i64 = 1;
const CLOSED: i64 = 2;

/// The statements.
#[derive(Debug, Clone)]
pub(crate) struct Joins {
    create: Sql,
    /// Gives whether the join has expired, and keeps its row.
    lock: Sql,
    reset: Sql,
    read: Sql,
    add: Sql,
    count: Sql,
    claim: Sql,
    parts: Sql,
    add_growth: Sql,
    grow: Sql,
    close: Sql,
    is_closed: Sql,
    delete_parts: Sql,
    delete_growth: Sql,
}

impl Joins {
    pub(crate) fn new(tables: &Tables) -> Self {
        let Tables {
            join, part, growth, ..
        } = tables;
        let now = tables.dialect.now();
        let for_update = tables.dialect.for_update();
        let or_nothing = tables.dialect.or_nothing();
        let sql = |text: &str| Sql::new(tables.dialect, text);
        Self {
            create: sql(&format!(
                "INSERT INTO {join} (join_id, size, quorum, arrived, successes, phase, claims, \
                 claimant, claimed_until, expires) VALUES (?, ?, ?, 0, 0, 0, 0, 0, 0, {now} + ?)\
                 {or_nothing}"
            )),
            lock: sql(&format!(
                "SELECT CASE WHEN expires <= {now} THEN 1 ELSE 0 END FROM {join} WHERE join_id = \
                 ?{for_update}"
            )),
            reset: sql(&format!(
                "UPDATE {join} SET size = ?, quorum = ?, arrived = 0, successes = 0, phase = 0, \
                 claims = 0, claimant = 0, claimed_until = 0, expires = {now} + ? WHERE join_id = ?"
            )),
            read: sql(&format!(
                "SELECT size, quorum, arrived, successes, phase, claims, claimant, claimed_until, \
                 {now} FROM {join} WHERE join_id = ? AND (expires IS NULL OR expires > {now})\
                 {for_update}"
            )),
            add: sql(&format!(
                "INSERT INTO {part} (join_id, task_id, place, number, status, result) VALUES (?, \
                 ?, ?, ?, ?, ?){or_nothing}"
            )),
            count: sql(&format!(
                "UPDATE {join} SET arrived = ?, successes = ?, expires = {now} + ? WHERE join_id \
                 = ?"
            )),
            claim: sql(&format!(
                "UPDATE {join} SET phase = 1, claims = ?, claimant = ?, claimed_until = {now} + ? \
                 WHERE join_id = ?"
            )),
            parts: sql(&format!(
                "SELECT task_id, place, status, result FROM {part} WHERE join_id = ? ORDER BY \
                 CASE WHEN place < 0 THEN 1 ELSE 0 END, place, number"
            )),
            add_growth: sql(&format!(
                "INSERT INTO {growth} (join_id, task_id) VALUES (?, ?){or_nothing}"
            )),
            grow: sql(&format!(
                "UPDATE {join} SET size = ?, quorum = ?, expires = {now} + ? WHERE join_id = ?"
            )),
            close: sql(&format!(
                "UPDATE {join} SET phase = 2, expires = {now} + ? WHERE join_id = ? AND phase = 1 \
                 AND claims = ?"
            )),
            is_closed: sql(&format!(
                "SELECT 1 FROM {join} WHERE join_id = ? AND phase = 2 AND claims = ?"
            )),
            delete_parts: sql(&format!("DELETE FROM {part} WHERE join_id = ?")),
            delete_growth: sql(&format!("DELETE FROM {growth} WHERE join_id = ?")),
        }
    }

    async fn empty(&self, on: &mut Session<'_>, join: Arg<'_>) -> Result<(), Fault> {
        on.execute(&self.delete_parts, &[join]).await?;
        on.execute(&self.delete_growth, &[join]).await?;
        Ok(())
    }
}

/// Opens a join, or one anew that has expired.
pub(crate) struct Open<'a> {
    pub(crate) joins: &'a Joins,
    pub(crate) spec: &'a JoinSpec,
    pub(crate) life: Option<i64>,
}

#[async_trait]
impl Work for Open<'_> {
    type Output = ();

    fn operation(&self) -> &'static str {
        "backend.open_join"
    }

    fn how(&self) -> How {
        How::Transaction
    }

    async fn run(&self, on: &mut Session<'_>, _: bool) -> Result<(), Fault> {
        let join = Arg::from(self.spec.id.as_str());
        let (size, quorum) = (signed(self.spec.size), signed(self.spec.quorum));
        // Looked for first: adding a row that is there takes a lock that two
        // may share, and then neither may change it.
        let Some(mut row) = on.first(&self.joins.lock, &[join]).await? else {
            let args = [join, size.into(), quorum.into(), Arg::Int(self.life)];
            on.insert(&self.joins.create, &args).await?;
            return Ok(());
        };
        if row.int()? == Some(1) {
            self.joins.empty(on, join).await?;
            let args = [size.into(), quorum.into(), Arg::Int(self.life), join];
            on.execute(&self.joins.reset, &args).await?;
        }
        Ok(())
    }
}

/// A join as its row has it.
#[derive(Debug)]
struct Join {
    size: u64,
    quorum: u64,
    arrived: u64,
    successes: u64,
    phase: i64,
    claims: u64,
    claimant: i64,
    claimed_until: i64,
    now: i64,
}

impl Join {
    fn read(mut row: Row) -> Result<Self> {
        Ok(Self {
            size: row.count()?,
            quorum: row.count()?,
            arrived: row.count()?,
            successes: row.count()?,
            phase: row.int()?.unwrap_or(WAITING),
            claims: row.count()?,
            claimant: row.int()?.unwrap_or_default(),
            claimed_until: row.int()?.unwrap_or_default(),
            now: row.int()?.unwrap_or_default(),
        })
    }

    fn is_complete(&self) -> bool {
        self.arrived >= self.size || (self.quorum < self.size && self.successes >= self.quorum)
    }
}

/// Counts a member in.
pub(crate) struct Arrive<'a> {
    pub(crate) joins: &'a Joins,
    pub(crate) join: &'a Id,
    pub(crate) part: &'a Part,
    pub(crate) lease: Duration,
    pub(crate) life: Option<i64>,
    /// Who arrives: the same through all attempts at one call, so that one
    /// whose answer was lost is not told that somebody else has the claim.
    pub(crate) asker: i64,
}

#[async_trait]
impl Work for Arrive<'_> {
    type Output = Arrival;

    fn operation(&self) -> &'static str {
        "backend.arrive"
    }

    fn how(&self) -> How {
        How::Transaction
    }

    async fn run(&self, on: &mut Session<'_>, _: bool) -> Result<Arrival, Fault> {
        let id = Arg::from(self.join.as_str());
        let Some(row) = on.first(&self.joins.read, &[id]).await? else {
            return Ok(Arrival::Missing);
        };
        let mut join = Join::read(row)?;
        match join.phase {
            CLOSED => return Ok(Arrival::Closed),
            CLAIMED if join.claimant == self.asker => {
                let claim = join.claims;
                let parts = self.parts(on).await?;
                return Ok(Arrival::Complete { claim, parts });
            }
            CLAIMED if join.claimed_until > join.now => {
                let left = join.claimed_until - join.now;
                return Ok(Arrival::Claimed {
                    retry_after: Duration::from_millis(left.unsigned_abs()),
                });
            }
            // Whoever had it is late or dead. What arrived since it was
            // complete stays out: the body is sent again, not another one.
            CLAIMED => return self.claim(on, &join).await,
            _ => self.count(on, &mut join).await?,
        }
        if join.is_complete() {
            return self.claim(on, &join).await;
        }
        Ok(Arrival::Waiting {
            arrived: join.arrived,
            size: join.size,
        })
    }
}

impl Arrive<'_> {
    /// Adds the member, if it has not arrived before; starts the time of the
    /// join anew.
    async fn count(&self, on: &mut Session<'_>, join: &mut Join) -> Result<(), Fault> {
        let id = Arg::from(self.join.as_str());
        let result = json::write(&self.part.result, "the result of a member of a chord")?;
        let args = [
            id,
            self.part.task_id.as_str().into(),
            self.part.index.map_or(-1, signed).into(),
            signed(join.arrived).into(),
            self.part.state.as_str().into(),
            result.as_slice().into(),
        ];
        if on.insert(&self.joins.add, &args).await? {
            join.arrived += 1;
            join.successes += u64::from(self.part.is_ok());
        }
        let args = [
            signed(join.arrived).into(),
            signed(join.successes).into(),
            Arg::Int(self.life),
            id,
        ];
        on.execute(&self.joins.count, &args).await?;
        Ok(())
    }

    async fn claim(&self, on: &mut Session<'_>, join: &Join) -> Result<Arrival, Fault> {
        let claim = join.claims + 1;
        let args = [
            signed(claim).into(),
            self.asker.into(),
            millis(self.lease).into(),
            self.join.as_str().into(),
        ];
        on.execute(&self.joins.claim, &args).await?;
        let parts = self.parts(on).await?;
        Ok(Arrival::Complete { claim, parts })
    }

    /// Those who have arrived, in header order.
    async fn parts(&self, on: &mut Session<'_>) -> Result<Vec<Part>, Fault> {
        let rows = on
            .fetch(&self.joins.parts, &[self.join.as_str().into()])
            .await?;
        let parts: Result<Vec<Part>> = rows.into_iter().map(part).collect();
        Ok(parts?)
    }
}

fn part(mut row: Row) -> Result<Part> {
    let task_id = Id::from(row.text()?.unwrap_or_default());
    let index = row.int()?.and_then(|place| u64::try_from(place).ok());
    let state = State::from(row.text()?.unwrap_or_default().as_str());
    let result = row.bytes()?.unwrap_or_default();
    Ok(Part {
        index,
        state,
        result: value(&result, &format!("the result of {task_id}"))?,
        task_id,
    })
}

/// Makes a join expect more.
pub(crate) struct Grow<'a> {
    pub(crate) joins: &'a Joins,
    pub(crate) join: &'a Id,
    pub(crate) member: &'a Id,
    pub(crate) by: u64,
    pub(crate) life: Option<i64>,
}

#[async_trait]
impl Work for Grow<'_> {
    type Output = ();

    fn operation(&self) -> &'static str {
        "backend.grow_join"
    }

    fn how(&self) -> How {
        How::Transaction
    }

    async fn run(&self, on: &mut Session<'_>, _: bool) -> Result<(), Fault> {
        let id = Arg::from(self.join.as_str());
        let Some(row) = on.first(&self.joins.read, &[id]).await? else {
            return Ok(());
        };
        let join = Join::read(row)?;
        let member = [id, self.member.as_str().into()];
        if join.phase != WAITING || !on.insert(&self.joins.add_growth, &member).await? {
            return Ok(());
        }
        // A quorum of all stays one of all.
        let quorum = match join.quorum == join.size {
            true => join.quorum + self.by,
            false => join.quorum,
        };
        let args = [
            signed(join.size + self.by).into(),
            signed(quorum).into(),
            Arg::Int(self.life),
            id,
        ];
        on.execute(&self.joins.grow, &args).await?;
        Ok(())
    }
}

/// Ends a join.
pub(crate) struct Close<'a> {
    pub(crate) joins: &'a Joins,
    pub(crate) join: &'a Id,
    pub(crate) claim: u64,
    pub(crate) life: Option<i64>,
}

#[async_trait]
impl Work for Close<'_> {
    type Output = bool;

    fn operation(&self) -> &'static str {
        "backend.close_join"
    }

    fn how(&self) -> How {
        How::Transaction
    }

    async fn run(&self, on: &mut Session<'_>, again: bool) -> Result<bool, Fault> {
        let id = Arg::from(self.join.as_str());
        let claim = Arg::from(signed(self.claim));
        if on
            .execute(&self.joins.close, &[Arg::Int(self.life), id, claim])
            .await?
            == 0
        {
            // The answer to the same call may have been lost.
            let closed = on.first(&self.joins.is_closed, &[id, claim]).await?;
            return Ok(again && closed.is_some());
        }
        // The row is kept to know that it is closed.
        self.joins.empty(on, id).await?;
        Ok(true)
    }
}

/// Databases have no unsigned numbers. No count of ours comes near the limit.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
