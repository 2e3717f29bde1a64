//! Making effects happen.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::advance;
use crate::backend::{Arrival, Backend, JoinSpec, Part, Stored};
use crate::broker::{Broker, Outgoing};
use crate::effect::{Arrive, Effect, Errback};
use crate::error::{Error, Result};
use crate::id::Id;
use crate::plan::{Env, tail};
use crate::policy::Policy;
use crate::protocol::{Request, Sealed, TaskMeta};
use crate::signature::Signature;
use crate::state::State;

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

/// Makes effects happen, one after the other: the committer for any pair of
/// broker and backend.
///
/// A crash between two effects leaves the delivery unsettled, so all of them
/// are made again, which changes nothing more. That is why the delivery is
/// settled by the caller, once this has returned.
#[derive(Clone)]
pub struct Committer {
    pub(crate) env: Env,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) backend: Arc<dyn Backend>,
}

impl std::fmt::Debug for Committer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Committer")
            .field("broker", &self.broker)
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}

impl Committer {
    /// Makes the effects of `request` happen.
    ///
    /// # Errors
    /// The first error of the broker or the backend; everything must then be
    /// tried again.
    pub async fn commit(
        &self,
        request: &Request,
        effects: Vec<Effect>,
        errbacks: &dyn Errbacks,
    ) -> Result<Committed> {
        let mut again = request.may_be_repeat();
        let mut batch = Vec::new();
        let mut sequence = Sequence::new(effects);
        while let Some(work) = sequence.pop() {
            if !matches!(work, Work::Do(Effect::Publish(_))) {
                self.publish(std::mem::take(&mut batch)).await?;
            }
            match work {
                Work::Do(Effect::Store(meta)) => {
                    let stored = self.backend.store(&meta).await?;
                    if stored == Stored::Kept
                        && meta.task_id == request.id
                        && let Some(value) = self.other_success(&meta).await?
                    {
                        return Ok(Committed::Superseded(value));
                    }
                }
                Work::Do(effect @ Effect::Publish(_)) if again => {
                    self.prepare(effect.repeated(), &mut batch).await?;
                }
                Work::Do(Effect::Errback(errback)) => errbacks.call(*errback).await,
                Work::Do(Effect::Arrive(arrive)) => {
                    let arrival = self.arrive(&arrive, &mut sequence).await?;
                    match arrival {
                        Arrival::Claimed { retry_after } => {
                            tokio::time::sleep(retry_after.min(LOOK_AGAIN)).await;
                        }
                        // Whoever had the claim before may have sent the body.
                        Arrival::Complete { claim, .. } => again |= claim > 1,
                        _ => {}
                    }
                    if let Some(completion) = sequence.arrived(arrive, arrival) {
                        let now = Utc::now();
                        let mut body = self.body(completion.body()).await?;
                        if let Ok(body) = &mut body
                            && completion.fails(&self.env, request, body, now)
                        {
                            self.complete_tail(body).await?;
                        }
                        sequence.push(completion.work(&self.env, request, body, now));
                    }
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
        Ok(Committed::All)
    }

    /// Counts a member in. Of all members that find their join gone, one is
    /// told so, and fails the body; `sequence` then notes that it has.
    async fn arrive(&self, arrive: &Arrive, sequence: &mut Sequence) -> Result<Arrival> {
        let backend = &self.backend;
        let arrival = backend.arrive(&arrive.join, &arrive.part, JOIN_CLAIM).await?;
        if arrival != Arrival::Missing {
            return Ok(arrival);
        }
        let lost = JoinSpec {
            id: arrive.join.derive("lost"),
            size: 1,
            quorum: 1,
        };
        backend.open_join(&lost).await?;
        match backend.arrive(&lost.id, &arrive.part, JOIN_CLAIM).await? {
            Arrival::Complete { claim, .. } => {
                let join = lost.id;
                sequence.push(vec![Work::Close { join, claim }]);
                Ok(Arrival::Missing)
            }
            other => Ok(other),
        }
    }

    /// The value that the task succeeded with before, if that is another than
    /// this one.
    async fn other_success(&self, meta: &TaskMeta) -> Result<Option<Value>> {
        let ids = std::slice::from_ref(&meta.task_id);
        let stored = self.backend.load(ids).await?.pop().flatten();
        let differs = |stored: &TaskMeta| {
            let same = (&stored.status, &stored.result) == (&meta.status, &meta.result);
            stored.status == State::Success && !same
        };
        Ok(stored.filter(differs).map(|stored| stored.result))
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
    /// # Errors
    /// The first error of the broker or the backend.
    pub async fn send(&self, effects: impl IntoIterator<Item = Effect>) -> Result<()> {
        const BATCH: usize = 512;
        let mut batch = Vec::new();
        for effect in effects {
            if !matches!(effect, Effect::Publish(_)) || batch.len() >= BATCH {
                self.publish(std::mem::take(&mut batch)).await?;
            }
            self.prepare(effect, &mut batch).await?;
        }
        self.publish(batch).await
    }

    /// A chord's body; `Err` with the reference to it, if what was kept is gone.
    async fn body(
        &self,
        sealed: &Sealed,
    ) -> Result<std::result::Result<Signature, Signature>> {
        let Some(key) = sealed.reference_key() else {
            return sealed.open().map(Ok);
        };
        let stand_in = sealed.open()?;
        match self.recall(&key).await?.and_then(|mut kept| kept.pop()) {
            Some(body) => body.open().map(Ok),
            None => Ok(Err(stand_in)),
        }
    }

    /// Puts all that was kept of the steps after a body into it: if it fails,
    /// so do they.
    async fn complete_tail(&self, body: &mut Signature) -> Result<()> {
        let mut steps = tail(&mut body.options)?;
        let reference = |(at, step): (usize, &Sealed)| Some((at, step.reference_key()?));
        while let Some((at, key)) = steps.iter().enumerate().find_map(reference) {
            let kept = self.recall(&key).await?.unwrap_or_else(|| {
                tracing::error!(%key, "steps that follow a failed chord have expired");
                Vec::new()
            });
            steps.splice(at..=at, kept);
        }
        let steps: Result<Vec<_>> = steps.iter().map(|s| Ok(s.open()?.to_value())).collect();
        body.options.set("chain", steps?);
        Ok(())
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

/// What became of the effects of a run.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "what was superseded must be decided anew"]
pub enum Committed {
    /// They were all made.
    All,
    /// None was: another run of the same task has succeeded before with this
    /// value, which stands. What follows must follow from it.
    Superseded(Value),
}

/// The order in which the effects of one run are made: what a [`Committer`]
/// does, less the broker and the backend.
///
/// Whoever drives it makes what [`pop`](Self::pop) gives, one after the other,
/// and tells it what arrivals find. The delivery may be settled when nothing
/// is left. It can be dropped at any point and begun anew.
#[derive(Debug, Clone, PartialEq)]
pub struct Sequence {
    /// What is left, the next one last.
    open: Vec<Work>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Make an effect. What [`Effect::Arrive`] finds is told to
    /// [`Sequence::arrived`].
    Do(Effect),
    /// Close a join whose body was sent.
    Close {
        /// The join.
        join: Id,
        /// The claim that the arrival was given.
        claim: u64,
    },
}

impl Sequence {
    /// The sequence that makes these effects, in their order.
    pub fn new(effects: Vec<Effect>) -> Self {
        let mut sequence = Self { open: Vec::new() };
        sequence.push(effects.into_iter().map(Work::Do).collect());
        sequence
    }

    /// The next thing to do; `None` when all is done.
    pub fn pop(&mut self) -> Option<Work> {
        self.open.pop()
    }

    /// Puts these before all that is left.
    pub fn push(&mut self, work: Vec<Work>) {
        self.open.extend(work.into_iter().rev());
    }

    /// Tells what an arrival found. If it is the driver's to go on from there,
    /// what [`Completion::work`] says is to be [pushed](Self::push). An arrival
    /// that found the join claimed comes again as the next thing to do, and
    /// the driver waits before it does.
    pub fn arrived(&mut self, arrive: Box<Arrive>, arrival: Arrival) -> Option<Completion> {
        let found = match arrival {
            Arrival::Waiting { .. } | Arrival::Closed => return None,
            // Whoever holds the claim may have died: see it through.
            Arrival::Claimed { .. } => {
                self.open.push(Work::Do(Effect::Arrive(arrive)));
                return None;
            }
            Arrival::Complete { claim, parts } => Some((claim, parts)),
            Arrival::Missing => None,
        };
        Some(Completion { arrive, found })
    }
}

/// An arrival after which the body is to be sent, or to fail.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    arrive: Box<Arrive>,
    /// The claim and the parts; `None` if the join is lost.
    found: Option<(u64, Vec<Part>)>,
}

impl Completion {
    /// What the join feeds. It may be a reference to a kept body.
    pub fn body(&self) -> &Sealed {
        &self.arrive.body
    }

    /// Whether the body is going to fail with steps after it: they must then
    /// all be at hand, as they fail too.
    fn fails(
        &self,
        env: &Env,
        request: &Request,
        body: &Signature,
        now: DateTime<Utc>,
    ) -> bool {
        if body.options.get("chain").is_none() {
            return false;
        }
        self.found.as_ref().is_none_or(|(_, parts)| {
            Policy::of(body).judge(parts).is_err()
                || advance::joined(env, request, body, parts, now).is_err()
        })
    }

    /// What is to be done. `request` is the member that arrived; `body` is
    /// what the join feeds, or the reference to it, as the error, if what was
    /// kept has expired.
    pub fn work(
        self,
        env: &Env,
        request: &Request,
        body: std::result::Result<Signature, Signature>,
        now: DateTime<Utc>,
    ) -> Vec<Work> {
        let join = self.arrive.join;
        let lost = |body: &Signature, reason: &str| {
            tracing::error!(%join, task_id = %request.id, "{reason}");
            advance::join_lost(env, request, body, reason, now)
        };
        let (effects, claim) = match (self.found, body) {
            (Some((claim, parts)), Ok(body)) => {
                let effects = advance::joined(env, request, &body, &parts, now);
                let failed = |error| lost(&body, &format!("Callback error: {error}"));
                (effects.unwrap_or_else(failed), Some(claim))
            }
            (Some((claim, _)), Err(stand_in)) => {
                let reason = "the body was kept in the backend, and has expired";
                (lost(&stand_in, reason), Some(claim))
            }
            (None, Ok(body) | Err(body)) => {
                let reason = format!(
                    "the join {join} is not in the backend: it expired, or the backend lost it"
                );
                (lost(&body, &reason), None)
            }
        };
        // Closed last: until the body is sent, somebody must be able to take
        // the claim over.
        let close = claim.map(|claim| Work::Close { join, claim });
        effects.into_iter().map(Work::Do).chain(close).collect()
    }
}
