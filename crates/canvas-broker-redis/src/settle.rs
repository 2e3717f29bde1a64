//! Ending deliveries: acknowledgements go together, the rest one by one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use canvas_core::broker::{DeadLetter, Receipt, Settle, Settled};
use canvas_core::{Error, Result, format_time};
use canvas_redis::{Backoff, Fault, run_script};
use chrono::Utc;
use redis::{AsyncCommands, from_redis_value};
use tokio::sync::oneshot;

use crate::envelope;
use crate::hub::Hub;
use crate::record::{Dead, Record, mark};
use crate::scripts;

/// How many acknowledgements go into one call.
const TOGETHER: usize = 512;

/// How many dead letters a queue keeps; older ones are dropped.
const DEAD_LETTERS: usize = 10_000;

/// How long settling is tried for a delivery whose lease is not known here.
const PATIENCE: Duration = Duration::from_secs(30);

/// The acknowledgements that are waiting for their call.
#[derive(Debug, Default)]
pub(crate) struct Acks(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    acks: Vec<Ack>,
    /// Whether a task is about to take them.
    taken_care_of: bool,
}

#[derive(Debug)]
struct Ack {
    tag: Arc<str>,
    trying: Trying,
    done: oneshot::Sender<Result<Settled>>,
}

/// How long a delivery is tried to be settled.
#[derive(Debug, Clone, Copy)]
struct Trying {
    until: Instant,
    /// Whether that is the end of its lease.
    is_leased: bool,
    /// Whether it may be done already, by a call whose answer was lost.
    tried: bool,
}

impl Trying {
    fn has_time(self) -> bool {
        Instant::now() < self.until
    }

    /// What it means that a delivery is not out any more. While the lease runs
    /// nobody else may end it, so it was us, in a call whose answer was lost.
    /// Of a lease that is not known, or that has ended, nobody can tell.
    fn gone(self) -> Settled {
        if self.tried && self.is_leased && self.has_time() {
            Settled::Done
        } else {
            Settled::Stale
        }
    }
}

impl Acks {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One message on its way out of the record.
pub(crate) struct Move<'a> {
    /// Empty if it is the message before, going to another list too.
    pub(crate) tag: &'a str,
    pub(crate) list: String,
    pub(crate) side: Side,
    /// How many the list may hold; 0 for any number.
    pub(crate) most: usize,
    pub(crate) raw: &'a [u8],
}

/// Where in a list a message is put.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    /// To be taken next.
    Next,
    /// To be taken last.
    Last,
}

impl Hub {
    /// Ends a delivery. It is tried again for as long as the lease runs: after
    /// that the message is someone else's.
    pub(crate) async fn settle(
        self: &Arc<Self>,
        receipt: &Receipt,
        how: Settle,
    ) -> Result<Settled> {
        let settled = match how {
            // It lands when it is answered, whether anyone waits or not.
            Settle::Ack => return self.ack(receipt).await,
            Settle::Requeue => self.patiently(receipt, || self.requeue(receipt)).await,
            Settle::Reject(reason) => {
                self.patiently(receipt, || self.reject(receipt, &reason))
                    .await
            }
            Settle::Defer(_) => {
                return Err(Error::Unsupported {
                    operation: "broker.settle",
                    driver: "the Redis broker".to_owned(),
                    hint: "hold the message in the worker until its time".to_owned(),
                });
            }
        };
        if settled.is_ok() {
            self.landed(&receipt.tag);
        }
        settled
    }

    async fn ack(self: &Arc<Self>, receipt: &Receipt) -> Result<Settled> {
        let (done, settled) = oneshot::channel();
        let ack = Ack {
            tag: receipt.tag.clone(),
            trying: self.trying(receipt),
            done,
        };
        let must_start = {
            let mut waiting = self.acks.waiting();
            waiting.acks.push(ack);
            !std::mem::replace(&mut waiting.taken_care_of, true)
        };
        if must_start {
            let taking = Taking {
                hub: self.clone(),
                done: false,
            };
            tokio::spawn(taking.run());
        }
        // The sender is dropped only with the runtime.
        settled.await.unwrap_or(Err(Error::Closed("the runtime")))
    }

    /// Sends acknowledgements, as many as there are each time, until there are
    /// none: what comes while one call is on its way goes with the next.
    async fn send_acks(&self) {
        let mut backoff = Backoff::new();
        let mut again: Vec<Ack> = Vec::new();
        loop {
            // Those who are about to settle as well get to do so.
            tokio::task::yield_now().await;
            let mut batch = again;
            {
                let mut waiting = self.acks.waiting();
                let room = TOGETHER.saturating_sub(batch.len()).min(waiting.acks.len());
                batch.extend(waiting.acks.drain(..room));
                if batch.is_empty() {
                    waiting.taken_care_of = false;
                    return;
                }
            }
            let tags: Vec<&str> = batch.iter().map(|ack| &*ack.tag).collect();
            let keys = [&self.layout.unacked, &self.layout.index];
            let call = |connection| run_script(&scripts::ACK, &keys, &tags, connection);
            let called = self.link.call("broker.settle", call).await;
            again = match called.map(from_redis_value::<Vec<usize>>) {
                Ok(Ok(stale)) => {
                    backoff.reset();
                    self.answer(batch, &stale);
                    Vec::new()
                }
                Ok(Err(error)) => {
                    fail(batch, &odd(&error));
                    Vec::new()
                }
                Err(Fault::Refused(error)) => {
                    fail(batch, &error);
                    Vec::new()
                }
                Err(Fault::Lost(error)) => {
                    let kept = keep_trying(batch, &error);
                    tokio::time::sleep(backoff.pause()).await;
                    kept
                }
            };
        }
    }

    fn answer(&self, batch: Vec<Ack>, stale: &[usize]) {
        let mut stale = stale.iter().copied().peekable();
        for (place, ack) in batch.into_iter().enumerate() {
            self.landed(&ack.tag);
            // Lua counts from 1.
            let settled = match stale.next_if_eq(&(place + 1)) {
                Some(_) => ack.trying.gone(),
                None => Settled::Done,
            };
            // Nobody waits if the caller was dropped; it is done all the same.
            let _ = ack.done.send(Ok(settled));
        }
    }

    /// Does something until the connection holds, or the lease has ended.
    async fn patiently<F>(
        &self,
        receipt: &Receipt,
        mut attempt: impl FnMut() -> F,
    ) -> Result<Settled>
    where
        F: Future<Output = Result<Settled, Fault>>,
    {
        let mut trying = self.trying(receipt);
        let mut backoff = Backoff::new();
        loop {
            match attempt().await {
                Ok(Settled::Stale) => return Ok(trying.gone()),
                Ok(Settled::Done) => return Ok(Settled::Done),
                Err(Fault::Refused(error)) => return Err(error),
                Err(Fault::Lost(error)) if !trying.has_time() => return Err(error),
                Err(Fault::Lost(_)) => trying.tried = true,
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    fn requeue(&self, receipt: &Receipt) -> impl Future<Output = Result<Settled, Fault>> {
        self.move_record(receipt, |hub, record| {
            let marked = mark(&record.raw, false);
            let step = hub.layout.step(marked.priority);
            let list = hub.layout.list(&record.routing_key, step);
            (list, Side::Last, 0, marked.raw)
        })
    }

    fn reject(
        &self,
        receipt: &Receipt,
        reason: &str,
    ) -> impl Future<Output = Result<Settled, Fault>> {
        let at = format_time(Utc::now());
        self.move_record(receipt, move |hub, record| {
            let dead = Dead::new(reason, at, &record.raw);
            let text = serde_json::to_vec(&dead).unwrap_or_default();
            let list = hub.layout.dead(&record.routing_key);
            (list, Side::Next, DEAD_LETTERS, text)
        })
    }

    /// Reads the record of a delivery and moves its message.
    async fn move_record(
        &self,
        receipt: &Receipt,
        destination: impl FnOnce(&Self, &Record) -> (String, Side, usize, Vec<u8>),
    ) -> Result<Settled, Fault> {
        let key = &self.layout.unacked;
        let tag = &*receipt.tag;
        let call = |mut connection: redis::aio::MultiplexedConnection| async move {
            connection.hget::<_, _, Option<Vec<u8>>>(key, tag).await
        };
        let found = self.link.call("broker.settle", call).await?;
        let Some(record) = found.as_deref().and_then(Record::read) else {
            return Ok(Settled::Stale);
        };
        let (list, side, most, raw) = destination(self, &record);
        let moved = Move {
            tag,
            list,
            side,
            most,
            raw: &raw,
        };
        match self.move_all("broker.settle", &[moved], None).await?[..] {
            [true] => Ok(Settled::Done),
            _ => Ok(Settled::Stale),
        }
    }

    /// Moves messages out of the record, those of them that are still there;
    /// with a visibility timeout, only those whose lease has ended.
    pub(crate) async fn move_all(
        &self,
        operation: &'static str,
        moves: &[Move<'_>],
        due: Option<Duration>,
    ) -> Result<Vec<bool>, Fault> {
        let mut keys = vec![&*self.layout.unacked, &*self.layout.index];
        let due = due.map(|timeout| timeout.as_secs_f64().to_string());
        let numbers: Vec<String> = moves.iter().map(|m| m.most.to_string()).collect();
        let mut arguments: Vec<&[u8]> = vec![due.as_deref().unwrap_or_default().as_bytes()];
        for (moved, most) in moves.iter().zip(&numbers) {
            keys.push(&moved.list);
            let side: &[u8] = match moved.side {
                Side::Next => b"R",
                Side::Last => b"L",
            };
            arguments.extend([moved.tag.as_bytes(), side, most.as_bytes(), moved.raw]);
        }
        let call = |connection| run_script(&scripts::MOVE, &keys, &arguments, connection);
        let answer = self.link.call(operation, call).await?;
        from_redis_value(answer).map_err(|error| Fault::Refused(odd(&error)))
    }

    /// The dead letters of a queue, oldest first.
    pub(crate) async fn dead_letters(&self, queue: &str) -> Result<Vec<DeadLetter>> {
        let key = self.layout.dead(queue);
        let call = |mut connection: redis::aio::MultiplexedConnection| async move {
            connection.lrange::<_, Vec<Vec<u8>>>(key, 0, -1).await
        };
        let kept = self.link.call("broker.dead_letters", call).await?;
        let letters = kept.iter().filter_map(|text| {
            let dead: Dead = serde_json::from_slice(text).ok()?;
            Some(DeadLetter {
                message: envelope::open(&dead.raw()).message,
                at: canvas_core::parse_time(&dead.at.clone().into())?,
                reason: dead.reason,
            })
        });
        Ok(letters.collect())
    }

    fn trying(&self, receipt: &Receipt) -> Trying {
        let known = self.consumer_of(&receipt.tag);
        let end = known.and_then(|(consumer, number)| consumer.lease_end(number));
        Trying {
            until: end.unwrap_or_else(|| Instant::now() + PATIENCE),
            is_leased: end.is_some(),
            tried: false,
        }
    }
}

/// Says that nobody takes care of acknowledgements any more, should the task
/// that does be dropped with its runtime.
struct Taking {
    hub: Arc<Hub>,
    done: bool,
}

impl Taking {
    async fn run(mut self) {
        self.hub.send_acks().await;
        self.done = true;
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        if !self.done {
            self.hub.acks.waiting().taken_care_of = false;
        }
    }
}

fn fail(batch: Vec<Ack>, error: &Error) {
    for ack in batch {
        let _ = ack.done.send(Err(error.clone()));
    }
}

fn keep_trying(batch: Vec<Ack>, error: &Error) -> Vec<Ack> {
    let mut kept = Vec::with_capacity(batch.len());
    for mut ack in batch {
        if ack.trying.has_time() {
            ack.trying.tried = true;
            kept.push(ack);
        } else {
            let _ = ack.done.send(Err(error.clone()));
        }
    }
    kept
}

/// An answer of another shape than a script's.
pub(crate) fn odd(error: &dyn std::fmt::Display) -> Error {
    Error::Connection {
        operation: "broker.script",
        reason: format!("an unexpected answer: {error}"),
    }
}
