//! The order in which the effects of one run are made. Pure: a committer, less
//! its broker and its backend.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::advance;
use crate::backend::{Arrival, JoinSpec, Part};
use crate::effect::{Arrive, Effect};
use crate::error::Result;
use crate::id::Id;
use crate::plan::{Env, tail};
use crate::policy::Policy;
use crate::protocol::{Request, Sealed, TaskMeta};
use crate::result::ResultTree;
use crate::signature::Signature;
use crate::state::State;

/// The effects of one run, in the order in which they are made, with what
/// follows from what arrivals find.
///
/// Whoever drives it makes what [`pop`](Self::pop) gives, one after the other,
/// and tells it what came of it. The delivery may be settled when nothing is
/// left. It can be dropped at any point and begun anew: the model checker in
/// the tests does so at each. A [`Committer`](crate::Committer) drives it on a
/// broker and a backend.
#[derive(Debug, Clone, PartialEq)]
pub struct Sequence {
    /// The task whose effects these are.
    task: Id,
    /// What is left, the next one last.
    open: Vec<Work>,
    /// Whether what is published may have been published before.
    again: bool,
    /// Joins that stand for lost ones, with those.
    lost: Vec<(Id, Id)>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Make an effect. If [`Effect::Store`] changed nothing, ask
    /// [`Sequence::superseded`]; what [`Effect::Arrive`] finds is told to
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
    /// The sequence that makes these effects of `request`, in their order.
    pub fn new(request: &Request, effects: Vec<Effect>) -> Self {
        let mut sequence = Self {
            task: request.id.clone(),
            open: Vec::new(),
            again: request.may_be_repeat(),
            lost: Vec::new(),
        };
        sequence.push(effects.into_iter().map(Work::Do).collect());
        sequence
    }

    /// The next thing to do; `None` when all is done.
    pub fn pop(&mut self) -> Option<Work> {
        match self.open.pop()? {
            Work::Do(effect) if self.again => Some(Work::Do(effect.repeated())),
            work => Some(work),
        }
    }

    /// Puts these before all that is left.
    pub fn push(&mut self, work: Vec<Work>) {
        self.open.extend(work.into_iter().rev());
    }

    /// The value that counts instead, where `meta` was not stored because of
    /// `standing`: the task has succeeded before, with another one. The rest
    /// of the sequence is then void, and what follows the task must follow
    /// from this value.
    pub fn superseded(&self, meta: &TaskMeta, standing: &TaskMeta) -> Option<Value> {
        let same = (&standing.status, &standing.result) == (&meta.status, &meta.result);
        let stands = meta.task_id == self.task && standing.status == State::Success && !same;
        stands.then(|| standing.result.clone())
    }

    /// Tells what an arrival found. If it is the driver's to go on from there,
    /// what [`Completion::work`] says is to be [pushed](Self::push). An arrival
    /// that found the join claimed comes again as the next thing to do, and
    /// the driver waits before it does.
    pub fn arrived(&mut self, mut arrive: Box<Arrive>, arrival: Arrival) -> Option<Completion> {
        let lost = self
            .lost
            .iter()
            .find(|(stand_in, _)| *stand_in == arrive.join);
        let lost = lost.map(|(_, lost)| lost.clone());
        let (claim, found) = match (arrival, lost) {
            (Arrival::Waiting { .. } | Arrival::Closed, _) => return None,
            // Whoever holds the claim may have died: see it through.
            (Arrival::Claimed { .. }, _) => {
                self.open.push(Work::Do(Effect::Arrive(arrive)));
                return None;
            }
            (Arrival::Complete { claim, parts }, None) => (Some(claim), Ok(parts)),
            (Arrival::Complete { claim, .. }, Some(lost)) => (Some(claim), Err(lost)),
            (Arrival::Missing, Some(lost)) => (None, Err(lost)),
            // Of all members that find it gone, one is to fail the body: a
            // join of one decides which.
            (Arrival::Missing, None) => {
                let spec = JoinSpec {
                    id: arrive.join.derive("lost"),
                    size: 1,
                    quorum: 1,
                };
                let lost = std::mem::replace(&mut arrive.join, spec.id.clone());
                self.lost.push((spec.id.clone(), lost));
                let first = Work::Do(Effect::OpenJoin(spec));
                self.push(vec![first, Work::Do(Effect::Arrive(arrive))]);
                return None;
            }
        };
        // Whoever had the claim before may have sent the body.
        self.again |= claim.is_some_and(|claim| claim > 1);
        Some(Completion {
            arrive,
            claim,
            found,
            shape: None,
            body: Body::Sealed,
        })
    }
}

/// An arrival after which the body is to be sent, or to fail.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    arrive: Box<Arrive>,
    claim: Option<u64>,
    /// The members; as the error, the id of the join that is lost.
    found: std::result::Result<Vec<Part>, Id>,
    /// The shape of the header, where it was kept.
    shape: Option<ResultTree>,
    body: Body,
}

/// What the join feeds.
#[derive(Debug, Clone, PartialEq)]
enum Body {
    /// As it came.
    Sealed,
    Open(Signature),
    /// It was kept, and has expired: the reference to it.
    Expired(Signature),
}

impl Completion {
    /// The key of something kept that must be [supplied](Self::supply) before
    /// it is clear what to do: the body itself, and the steps after it if it
    /// fails, as they fail too.
    ///
    /// # Errors
    /// [`Error::MalformedSignature`](crate::Error::MalformedSignature).
    pub fn missing(
        &mut self,
        env: &Env,
        request: &Request,
        now: DateTime<Utc>,
    ) -> Result<Option<Id>> {
        if self.body == Body::Sealed {
            let sealed = &self.arrive.body;
            if let Some(key) = sealed.reference_key() {
                return Ok(Some(key));
            }
            self.body = Body::Open(sealed.open()?);
        }
        let Body::Open(body) = &self.body else {
            return Ok(None);
        };
        let key = tail(&mut body.options.clone())?
            .iter()
            .find_map(Sealed::reference_key);
        Ok(key.filter(|_| self.fails(env, request, body, now)))
    }

    fn fails(&self, env: &Env, request: &Request, body: &Signature, now: DateTime<Utc>) -> bool {
        self.found.as_ref().map_or(true, |parts| {
            Policy::of(body).judge(parts, None).is_err()
                || advance::joined(env, request, body, parts, None, now).is_err()
        })
    }

    /// Supplies what was kept under the key that is [missing](Self::missing);
    /// `None` if it has expired.
    ///
    /// # Errors
    /// [`Error::MalformedSignature`](crate::Error::MalformedSignature).
    pub fn supply(&mut self, key: &Id, kept: Option<Vec<Sealed>>) -> Result<()> {
        let Body::Open(body) = &mut self.body else {
            self.body = match kept.and_then(|mut kept| kept.pop()) {
                Some(body) => Body::Open(body.open()?),
                None => Body::Expired(self.arrive.body.open()?),
            };
            return Ok(());
        };
        let kept = kept.unwrap_or_else(|| {
            tracing::error!(%key, "steps that follow a failed chord have expired");
            Vec::new()
        });
        let mut steps = tail(&mut body.options)?;
        let is_it = |step: &Sealed| step.reference_key().as_ref() == Some(key);
        if let Some(at) = steps.iter().position(is_it) {
            steps.splice(at..=at, kept);
        }
        let steps: Result<Vec<_>> = steps.iter().map(|s| Ok(s.open()?.to_value())).collect();
        body.options.set("chain", steps?);
        Ok(())
    }

    /// The header whose shape, if it was kept, must be [told](Self::shaped):
    /// that of a join that was not lost.
    pub fn header(&self) -> Option<&Id> {
        self.found.is_ok().then_some(&self.arrive.join)
    }

    /// Tells the shape of the [`header`](Self::header).
    pub fn shaped(&mut self, shape: Option<ResultTree>) {
        self.shape = shape;
    }

    /// What is to be done. `request` is the member that arrived.
    pub fn work(self, env: &Env, request: &Request, now: DateTime<Utc>) -> Vec<Work> {
        let join = self.arrive.join;
        let lost = |body: &Signature, reason: &str| {
            tracing::error!(%join, task_id = %request.id, "{reason}");
            advance::join_lost(env, request, body, reason, now)
        };
        let effects = match (&self.found, &self.body) {
            (_, Body::Sealed) => Vec::new(),
            (Ok(parts), Body::Open(body)) => {
                advance::joined(env, request, body, parts, self.shape.as_ref(), now)
                    .unwrap_or_else(|error| lost(body, &format!("Callback error: {error}")))
            }
            (Ok(_), Body::Expired(stand_in)) => {
                let reason = "the body was kept in the backend, and has expired";
                lost(stand_in, reason)
            }
            (Err(join), Body::Open(body) | Body::Expired(body)) => {
                let reason = format!(
                    "the join {join} is not in the backend: it expired, or the backend lost it"
                );
                lost(body, &reason)
            }
        };
        // Closed last: until the body is sent, somebody must be able to take
        // the claim over.
        let close = self.claim.map(|claim| Work::Close { join, claim });
        effects.into_iter().map(Work::Do).chain(close).collect()
    }
}
