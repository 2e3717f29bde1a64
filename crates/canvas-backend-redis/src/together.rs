//! Committing in one step, where the broker is on the same server.
//!
//! Runs that end while a call is on its way go together into the next one, so
//! a busy worker pays for few calls and an idle one never waits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use canvas_core::broker::{Receipt, Settled};
use canvas_core::protocol::GroupMeta;
use canvas_core::together::{Found, Made};
use canvas_core::{Effect, Error, Id, JOIN_CLAIM, Result, Together, Work};
use canvas_redis::{Companion, Queues, Seat};
use redis::{Cmd, FromRedisValue, ParsingError, Script, Value};
use tokio::sync::oneshot;

use crate::config::RedisBackendConfig;
use crate::connection::{self, Link};
use crate::joins::{self, Life};
use crate::keys::Keys;
use crate::retell::Retell;
use crate::script;

/// How many runs go into one call, and after how many bytes no more: the server
/// does nothing else meanwhile.
const TOGETHER: usize = 128;
const TOGETHER_BYTES: usize = 1024 * 1024;

/// Commits for a broker and a backend on one server.
#[derive(Debug)]
pub(crate) struct OneServer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    link: Arc<Link>,
    keys: Keys,
    queues: Companion,
    script: Script,
    retell: Arc<Retell>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    runs: Vec<Run>,
    /// Whether a task is about to take them.
    taken_care_of: bool,
}

/// What one run has left.
#[derive(Debug)]
struct Run {
    receipt: Option<Receipt>,
    work: Packed,
    /// For each work in the call, which one it is of those that were asked for.
    places: Vec<usize>,
    /// Results to tell of again.
    retold: Vec<Id>,
    /// Where the message that follows may go, and that message.
    seat: Option<(Box<dyn Seat>, Vec<u8>)>,
    done: oneshot::Sender<Result<Made>>,
}

/// Arguments, one behind the other.
#[derive(Debug, Default)]
struct Packed {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Packed {
    fn push(&mut self, argument: impl AsRef<[u8]>) {
        self.bytes.extend_from_slice(argument.as_ref());
        self.ends.push(self.bytes.len());
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, end)| &self.bytes[start..*end])
    }
}

impl OneServer {
    pub(crate) fn new(
        link: Arc<Link>,
        keys: Keys,
        config: &RedisBackendConfig,
        queues: Companion,
        retell: Arc<Retell>,
    ) -> Self {
        Self(Arc::new(Inner {
            script: script(&*queues, &keys, config),
            retell,
            link,
            keys,
            queues,
            waiting: Mutex::default(),
        }))
    }
}

/// The script, with all that never changes in it.
fn script(queues: &dyn Queues, keys: &Keys, config: &RedisBackendConfig) -> Script {
    let [out, index] = queues.out();
    let life = Life::of(config);
    let numbers = [
        ("result_life", script::life(config.result_expires)),
        ("join_life", life.join),
        ("closed_life", life.closed),
        ("group_life", life.group),
        ("lease", script::millis(JOIN_CLAIM)),
        ("grace", script::life(Some(config.header_grace))),
    ]
    .map(|(name, number)| (name, number.to_string()));
    let mut constants = vec![
        ("out_messages", out),
        ("out_tags", index),
        ("results", keys.results()),
    ];
    constants.extend(
        numbers
            .iter()
            .map(|(name, number)| (*name, number.as_str())),
    );
    script::commit(queues.ack_script(), &constants)
}

#[async_trait]
impl Together for OneServer {
    async fn make(&self, work: &[Work], delivery: Option<&Receipt>) -> Result<Made> {
        let (done, made) = oneshot::channel();
        let mut run = Run {
            receipt: delivery.cloned(),
            work: Packed::default(),
            places: Vec::with_capacity(work.len()),
            retold: Vec::new(),
            seat: None,
            done,
        };
        let is_publish = |work: &Work| matches!(work, Work::Do(Effect::Publish(_)));
        let follows_alone = work.iter().filter(|work| is_publish(work)).count() == 1;
        for (place, one) in work.iter().enumerate() {
            let may_be_taken = follows_alone && place + 1 == work.len();
            self.0.pack(place, one, may_be_taken, &mut run).await?;
        }
        let must_start = {
            let mut waiting = self.0.waiting();
            waiting.runs.push(run);
            !std::mem::replace(&mut waiting.taken_care_of, true)
        };
        if must_start {
            let taking = Taking {
                inner: self.0.clone(),
                done: false,
            };
            tokio::spawn(taking.run());
        }
        // The sender is dropped only with the runtime.
        made.await.unwrap_or(Err(Error::Closed("the runtime")))
    }
}

impl Inner {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down a work as the script takes it. A message may be taken if it
    /// is all that follows.
    async fn pack(
        &self,
        place: usize,
        work: &Work,
        may_be_taken: bool,
        run: &mut Run,
    ) -> Result<()> {
        let to = &mut run.work;
        match work {
            Work::Do(Effect::Store(meta)) => {
                to.push("S");
                to.push(meta.task_id.as_str());
                if Retell::is_for(meta) {
                    run.retold.push(meta.task_id.clone());
                }
                to.push(meta.to_json()?);
                to.push(if meta.status.is_ready() { "1" } else { "0" });
            }
            Work::Do(Effect::Keep { key, value }) => {
                to.push("K");
                to.push(self.keys.kept(key));
                to.push(value);
            }
            Work::Do(Effect::SaveGroup(group)) => {
                to.push("K");
                to.push(self.keys.group(&group.id));
                to.push(GroupMeta::to_json(group)?);
            }
            Work::Do(Effect::OpenJoin(spec)) => {
                to.push("O");
                to.push(self.keys.group(&spec.id));
                to.push(spec.size.to_string());
                to.push(spec.quorum.to_string());
            }
            Work::Do(Effect::Publish(outgoing)) => {
                let (lists, message) = self.queues.address(outgoing).await?;
                if let (true, [list], Some(receipt)) = (may_be_taken, &*lists, &run.receipt)
                    && let Some(seat) = self.queues.seat(receipt, list)
                {
                    to.push("T");
                    to.push(list);
                    to.push(&message);
                    let common = common(&receipt.tag, seat.tag());
                    to.push(common.to_string());
                    to.push(&seat.tag()[common..]);
                    to.push(seat.tail());
                    to.push(seat.offset().to_string());
                    to.push(seat.lists().len().to_string());
                    for list in seat.lists() {
                        to.push(list);
                    }
                    run.places.push(place);
                    run.seat = Some((seat, message));
                    return Ok(());
                }
                for list in lists {
                    to.push("P");
                    to.push(list);
                    to.push(&message);
                    run.places.push(place);
                }
                return Ok(());
            }
            Work::Do(Effect::Arrive(arrive)) => {
                let part = &arrive.part;
                to.push("A");
                to.push(self.keys.group(&arrive.join));
                to.push(part.task_id.as_str());
                to.push(joins::place(part));
                to.push(joins::encode(part)?);
                to.push(if part.is_ok() { "1" } else { "0" });
                to.push(joins::asker());
            }
            Work::Close { join, claim } => {
                to.push("C");
                to.push(self.keys.group(join));
                to.push(claim.to_string());
            }
            Work::Do(Effect::Errback(_)) => {
                return Err(Error::Unsupported {
                    operation: "backend.commit",
                    driver: self.link.server().url().to_owned(),
                    hint: "call error callbacks in the process".to_owned(),
                });
            }
        }
        run.places.push(place);
        Ok(())
    }

    /// Makes calls, of as many runs as there are each time, until there are
    /// none.
    async fn make_all(&self) {
        loop {
            // Those who are about to commit as well get to do so.
            tokio::task::yield_now().await;
            let runs: Vec<Run> = {
                let mut waiting = self.waiting();
                if waiting.runs.is_empty() {
                    waiting.taken_care_of = false;
                    return;
                }
                let mut bytes = 0;
                let fits = |run: &&Run| {
                    bytes += run.work.bytes.len();
                    bytes <= TOGETHER_BYTES
                };
                let most = waiting.runs.iter().take(TOGETHER).take_while(fits).count();
                waiting.runs.drain(..most.max(1)).collect()
            };
            match self.call(&runs).await {
                Ok(Stops(stops)) => self.answer(runs, stops),
                Err(error) => {
                    for run in runs {
                        let _ = run.done.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    async fn call(&self, runs: &[Run]) -> Result<Stops> {
        // After the first attempt, all may have been done.
        let again = AtomicBool::new(false);
        let call = |mut redis| {
            let again = again.swap(true, Ordering::Relaxed);
            async move {
                let call = self.command(runs, again);
                match call.query_async(&mut redis).await {
                    Err(error) if error.code() == Some("NOSCRIPT") => {
                        self.script.load_async(&mut redis).await?;
                        call.query_async(&mut redis).await
                    }
                    answer => answer,
                }
            }
        };
        self.link.call("backend.commit", call).await
    }

    fn command(&self, runs: &[Run], again: bool) -> Cmd {
        let bytes: usize = runs.iter().map(|run| run.work.bytes.len() + 100).sum();
        let arguments: usize = runs.iter().map(|run| run.work.ends.len() + 2).sum();
        let mut call = Cmd::with_capacity(arguments + 12, bytes + 512);
        call.arg("EVALSHA").arg(self.script.get_hash()).arg(0);
        call.arg(u8::from(again));
        for run in runs {
            call.arg(run.receipt.as_ref().map_or("", |receipt| &receipt.tag));
            call.arg(run.places.len());
            for argument in run.work.iter() {
                call.arg(argument);
            }
        }
        call
    }

    fn answer(&self, runs: Vec<Run>, stops: Vec<Stop>) {
        let mut stops: HashMap<usize, Stop> = stops.into_iter().map(|s| (s.run, s)).collect();
        self.retell
            .later(runs.iter().flat_map(|run| run.retold.iter().cloned()));
        for (number, mut run) in runs.into_iter().enumerate() {
            let mut stop = stops.remove(&(number + 1));
            if let Some((seat, message)) = run.seat.take()
                && stop
                    .take_if(|stop| matches!(stop.answer, Answer::Taken))
                    .is_some()
            {
                seat.take(message);
            }
            let made = self.made(&run, stop);
            if let (Some(receipt), Ok(Made::All { .. })) = (&run.receipt, &made) {
                self.queues.landed(receipt);
            }
            // Nobody waits if the caller was dropped; it is done all the same.
            let _ = run.done.send(made);
        }
    }

    /// The server will not do what a run has left.
    fn refused(&self, reason: String) -> Error {
        const OPERATION: &str = "backend.commit";
        if !reason.contains("WRONGTYPE") {
            return Error::Connection {
                operation: OPERATION,
                reason,
            };
        }
        Error::Unsupported {
            operation: OPERATION,
            driver: self.link.server().url().to_owned(),
            hint: connection::wrong_type(&reason),
        }
    }

    fn made(&self, run: &Run, stop: Option<Stop>) -> Result<Made> {
        let all = |settled| Made::All {
            settled: run.receipt.as_ref().map(|_| settled),
        };
        let Some(Stop { work, answer, .. }) = stop else {
            return Ok(all(Settled::Done));
        };
        let found = match answer {
            Answer::Taken => return Ok(all(Settled::Done)),
            Answer::Stale => return Ok(all(Settled::Stale)),
            Answer::Error(reason) => return Err(self.refused(reason)),
            Answer::Standing(text) => {
                let standing =
                    canvas_core::TaskMeta::from_json(&text).map_err(|error| Error::Encoding {
                        action: "decode",
                        what: "the stored result of a task that has run again".to_owned(),
                        reason: error.to_string(),
                    })?;
                Found::Standing(Box::new(standing))
            }
            Answer::Arrival(found) => Found::Arrival(found.read()?),
        };
        let at = run.places.get(work.wrapping_sub(1)).copied();
        Ok(Made::Until {
            at: at.unwrap_or(usize::MAX),
            found,
        })
    }
}

/// How long the beginning is that two tags have in common.
fn common(one: &str, other: &str) -> usize {
    let pairs = one.char_indices().zip(other.chars());
    let same = pairs.take_while(|((_, a), b)| a == b);
    same.last()
        .map_or(0, |((at, last), _)| at + last.len_utf8())
}

/// Where a run has stopped.
struct Stop {
    /// Which run, from 1.
    run: usize,
    /// At which of its works, from 1.
    work: usize,
    answer: Answer,
}

enum Answer {
    /// It was all made, but the delivery was not out any more.
    Stale,
    /// It was all made, and what follows was taken.
    Taken,
    Error(String),
    Standing(Vec<u8>),
    Arrival(joins::Found),
}

/// What the script answers.
struct Stops(Vec<Stop>);

impl FromRedisValue for Stops {
    fn from_redis_value(value: Value) -> std::result::Result<Self, ParsingError> {
        let stops = Vec::<(usize, usize, Value)>::from_redis_value(value)?;
        let read = |(run, work, found): (usize, usize, Value)| {
            Ok(Stop {
                run,
                work,
                answer: Answer::read(found)?,
            })
        };
        stops
            .into_iter()
            .map(read)
            .collect::<std::result::Result<_, _>>()
            .map(Self)
    }
}

impl Answer {
    fn read(value: Value) -> std::result::Result<Self, ParsingError> {
        let word = match &value {
            Value::Array(items) => items.first().cloned().unwrap_or(Value::Nil),
            _ => Value::Nil,
        };
        Ok(match String::from_redis_value(word)?.as_str() {
            "stale" => Self::Stale,
            "taken" => Self::Taken,
            "error" => Self::Error(<(String, String)>::from_redis_value(value)?.1),
            "standing" => Self::Standing(<(String, Vec<u8>)>::from_redis_value(value)?.1),
            _ => Self::Arrival(joins::Found::from_redis_value(value)?),
        })
    }
}

/// Says that nobody takes care of commits any more, should the task that does
/// be dropped with its runtime.
struct Taking {
    inner: Arc<Inner>,
    done: bool,
}

impl Taking {
    async fn run(mut self) {
        self.inner.make_all().await;
        self.done = true;
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        if !self.done {
            self.inner.waiting().taken_care_of = false;
        }
    }
}
