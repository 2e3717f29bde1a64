//! Making effects happen.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::Utc;
use serde_json::Value;

use crate::backend::{Arrival, Backend, Stored};
use crate::broker::{Broker, Outgoing, Receipt, Settled};
use crate::effect::{Arrive, Effect, Errback};
use crate::error::{Error, Result};
use crate::id::Id;
use crate::plan::Env;
use crate::protocol::{Request, Sealed, TaskMeta};
use crate::sequence::{Completion, Sequence, Work};
use crate::together::{Found, Made, Together};

/// How long whoever completes a join may take to send its body, before
/// another may do it.
pub const JOIN_CLAIM: Duration = Duration::from_secs(5);

/// How long to wait before looking again at a join that somebody else has
/// claimed: most close it in no time, and few die first.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// Calls error callbacks that are known in this process.
#[async_trait]
pub trait Errbacks: Send + Sync {
    /// Calls one. What goes wrong in it is its own affair.
    async fn call(&self, errback: Errback);
}

/// Makes effects happen: one after the other on any pair of broker and backend,
/// in one step where those are [together](Together).
///
/// A crash between two effects leaves the delivery unsettled, so all of them
/// are made again, which changes nothing more. That is why the delivery is
/// settled after all of them.
#[derive(Clone)]
pub struct Committer {
    pub(crate) env: Env,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) together: Option<Arc<dyn Together>>,
}

impl std::fmt::Debug for Committer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Committer")
            .field("broker", &self.broker)
            .field("backend", &self.backend)
            .field("together", &self.together)
            .finish_non_exhaustive()
    }
}

impl Committer {
    /// Makes the effects of `request` happen. A `delivery` that is to be
    /// acknowledged may be given: where that is part of the same step, the
    /// answer says what came of it; else it is left to the caller.
    ///
    /// # Errors
    /// The first error of the broker or the backend; everything must then be
    /// tried again.
    pub async fn commit(
        &self,
        request: &Request,
        effects: Vec<Effect>,
        errbacks: &dyn Errbacks,
        delivery: Option<&Receipt>,
    ) -> Result<Committed> {
        let sequence = Sequence::new(request, effects);
        match &self.together {
            Some(together) => {
                self.make(&**together, request, sequence, errbacks, delivery)
                    .await
            }
            None => self.make_in_turn(request, sequence, errbacks).await,
        }
    }

    async fn make_in_turn(
        &self,
        request: &Request,
        mut sequence: Sequence,
        errbacks: &dyn Errbacks,
    ) -> Result<Committed> {
        let mut batch = Vec::new();
        while let Some(work) = sequence.pop() {
            if !matches!(work, Work::Do(Effect::Publish(_))) {
                self.publish(std::mem::take(&mut batch)).await?;
            }
            match work {
                Work::Do(Effect::Store(meta)) => {
                    if self.backend.store(&meta).await? == Stored::Kept
                        && let Some(standing) = self.load(&meta.task_id).await?
                        && let Some(value) = sequence.superseded(&meta, &standing)
                    {
                        return Ok(Committed::Superseded(value));
                    }
                }
                Work::Do(Effect::Errback(errback)) => errbacks.call(*errback).await,
                Work::Do(Effect::Arrive(arrive)) => {
                    let (join, part) = (&arrive.join, &arrive.part);
                    let arrival = self.backend.arrive(join, part, JOIN_CLAIM).await?;
                    self.arrived(request, &mut sequence, arrive, arrival)
                        .await?;
                }
                Work::Do(effect) => self.prepare(effect, &mut batch).await?,
                Work::Close { join, claim } => {
                    // If the claim has passed on, somebody else has sent the
                    // same body too: same ids, so no harm is done.
                    self.backend.close_join(&join, claim).await?;
                }
            }
        }
        self.publish(batch).await?;
        Ok(Committed::All { settled: None })
    }

    async fn make(
        &self,
        together: &dyn Together,
        request: &Request,
        mut sequence: Sequence,
        errbacks: &dyn Errbacks,
        delivery: Option<&Receipt>,
    ) -> Result<Committed> {
        loop {
            let (mut work, errback, is_last) = stretch(&mut sequence);
            let delivery = delivery.filter(|_| is_last);
            let made = if work.is_empty() && delivery.is_none() {
                Made::All { settled: None }
            } else {
                together.make(&work, delivery).await?
            };
            match made {
                Made::All { settled } if is_last => return Ok(Committed::All { settled }),
                Made::All { .. } => {
                    if let Some(errback) = errback {
                        errbacks.call(*errback).await;
                    }
                }
                Made::Until { at, found } => {
                    let errback = errback.map(|errback| Work::Do(Effect::Errback(errback)));
                    let mut rest = work.drain(at.min(work.len())..);
                    let stopped_at = rest.next();
                    sequence.push(rest.chain(errback).collect());
                    match (stopped_at, found) {
                        (Some(Work::Do(Effect::Store(meta))), Found::Standing(standing)) => {
                            if let Some(value) = sequence.superseded(&meta, &standing) {
                                return Ok(Committed::Superseded(value));
                            }
                        }
                        (Some(Work::Do(Effect::Arrive(arrive))), Found::Arrival(arrival)) => {
                            self.arrived(request, &mut sequence, arrive, arrival)
                                .await?;
                        }
                        (stopped_at, found) => {
                            return Err(Error::Connection {
                                operation: "backend.commit",
                                reason: format!("{stopped_at:?} has found {found:?}"),
                            });
                        }
                    }
                }
            }
        }
    }

    /// Goes on from what an arrival has found.
    async fn arrived(
        &self,
        request: &Request,
        sequence: &mut Sequence,
        arrive: Box<Arrive>,
        arrival: Arrival,
    ) -> Result<()> {
        if arrival == Arrival::Missing && !self.env.has_join(&arrive.body) {
            // Its client asks for the member's result itself.
            return Ok(());
        }
        if let Arrival::Claimed { retry_after } = arrival {
            tokio::time::sleep(retry_after.min(LOOK_AGAIN)).await;
        }
        if let Some(completion) = sequence.arrived(arrive, arrival) {
            sequence.push(self.see_through(request, completion).await?);
        }
        Ok(())
    }

    /// What is to be done about a join that is complete, or lost.
    async fn see_through(
        &self,
        request: &Request,
        mut completion: Completion,
    ) -> Result<Vec<Work>> {
        let now = Utc::now();
        while let Some(key) = completion.missing(&self.env, request, now)? {
            let kept = self.recall(&key).await?;
            completion.supply(&key, kept)?;
        }
        if let Some(header) = completion.header() {
            let shape = self.backend.load_group(header).await?;
            completion.shaped(shape);
        }
        Ok(completion.work(&self.env, request, now))
    }

    async fn load(&self, task: &Id) -> Result<Option<TaskMeta>> {
        let found = self.backend.load(std::slice::from_ref(task)).await?;
        Ok(found.into_iter().next().flatten())
    }

    async fn publish(&self, batch: Vec<Outgoing>) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.broker.publish(batch).await
    }

    /// An effect that asks for nothing but itself.
    async fn prepare(&self, effect: Effect, batch: &mut Vec<Outgoing>) -> Result<()> {
        match effect {
            Effect::Store(meta) => self.backend.store(&meta).await.map(drop),
            Effect::Keep { key, value } => self.backend.keep(&key, value).await,
            Effect::SaveGroup(shape) => self.backend.save_group(&shape).await,
            Effect::OpenJoin(spec) => self.backend.open_join(&spec).await,
            Effect::Publish(outgoing) => {
                batch.push(*outgoing);
                Ok(())
            }
            Effect::Errback(_) | Effect::Arrive(_) => Ok(()),
        }
    }

    /// Makes effects that only prepare and publish: those of a client.
    ///
    /// What prepares goes before what is published, some hundred effects at a
    /// time: a join may be open, and a continuation kept, earlier than need be.
    ///
    /// # Errors
    /// The first error of the broker or the backend.
    pub async fn send(&self, effects: impl IntoIterator<Item = Effect>) -> Result<()> {
        const BATCH: usize = 512;
        let mut effects = effects.into_iter();
        loop {
            let (mut preparing, mut batch) = (Vec::new(), Vec::new());
            for effect in effects.by_ref().take(BATCH) {
                match effect {
                    Effect::Publish(outgoing) => batch.push(*outgoing),
                    effect => preparing.push(effect),
                }
            }
            if preparing.is_empty() && batch.is_empty() {
                return Ok(());
            }
            self.prepare_all(preparing, &mut batch).await?;
            self.publish(batch).await?;
        }
    }

    async fn prepare_all(&self, effects: Vec<Effect>, batch: &mut Vec<Outgoing>) -> Result<()> {
        let Some(together) = self.together.as_ref().filter(|_| effects.len() > 1) else {
            for effect in effects {
                self.prepare(effect, batch).await?;
            }
            return Ok(());
        };
        let work: Vec<Work> = effects.into_iter().map(Work::Do).collect();
        match together.make(&work, None).await? {
            Made::All { .. } => Ok(()),
            // A client stores nothing that might stand against it.
            Made::Until { at, found } => Err(Error::Connection {
                operation: "backend.commit",
                reason: format!("{:?} has found {found:?}", work.get(at)),
            }),
        }
    }

    async fn recall(&self, key: &Id) -> Result<Option<Vec<Sealed>>> {
        let kept: Option<Bytes> = self.backend.recall(key).await?;
        kept.map(|text| crate::json::parse(&text, "a kept continuation"))
            .transpose()
    }

    /// Puts what was kept for `request` into it: see [`Request::missing`].
    ///
    /// # Errors
    /// [`Error::MalformedMessage`] if it has expired, or the backend's error.
    pub async fn complete(&self, request: &mut Request, all: bool) -> Result<()> {
        while let Some(key) = request.missing(all) {
            match self.recall(&key).await? {
                Some(kept) => request.supply(&key, kept),
                None => {
                    // Without it the chain can only fail, once, for good.
                    request.supply(&key, Vec::new());
                    return Err(Error::MalformedMessage {
                        reason: format!("what follows it was kept as {key}, and has expired"),
                        id: Some(request.id.clone()),
                        task: Some(request.task.to_string()),
                    });
                }
            }
        }
        Ok(())
    }
}

/// The next work that can be made in one step, an error callback that comes
/// after it, and whether it is the last.
fn stretch(sequence: &mut Sequence) -> (Vec<Work>, Option<Box<Errback>>, bool) {
    /// A server does nothing else while it makes one step.
    const MOST: usize = 512;
    let mut work = Vec::new();
    while work.len() < MOST {
        match sequence.pop() {
            Some(Work::Do(Effect::Errback(errback))) => return (work, Some(errback), false),
            Some(next) => work.push(next),
            None => return (work, None, true),
        }
    }
    (work, None, false)
}

/// What became of the effects of a run.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "what was superseded must be decided anew"]
pub enum Committed {
    /// They were all made.
    All {
        /// What became of the delivery, if it was acknowledged in the same
        /// step.
        settled: Option<Settled>,
    },
    /// None was: another run of the same task has succeeded before with this
    /// value, which stands. What follows must follow from it.
    Superseded(Value),
}
