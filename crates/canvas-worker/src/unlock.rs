//! `celery.chord_unlock`: how Celery's clients join chords on backends without
//! joins of theirs. They send it with the header; it asks again and again
//! whether all members have ended.
//!
//! Here it opens a join, into which members count themselves from then on. When
//! all have ended it counts in those who came before that, or ran on workers
//! that count nobody. So the body is sent once, whoever completes the join.

use std::time::Duration;

use canvas_core::backend::{JoinSpec, Part};
use canvas_core::protocol::Sealed;
use canvas_core::task::Arguments;
use canvas_core::{
    Arrive, Ctx, Effect, Errbacks, ExceptionInfo, Id, Result, ResultTree, Signature, State,
    TaskError, TaskMeta,
};
use serde_json::Value;

use crate::builtins::argument;

pub(crate) const NAME: &str = "celery.chord_unlock";

/// Between two questions: Celery's `result_chord_retry_interval`.
const INTERVAL: Duration = Duration::from_secs(1);

/// Looks once.
pub(crate) async fn run(
    ctx: &Ctx,
    call: &Arguments,
    errbacks: &dyn Errbacks,
) -> std::result::Result<Value, TaskError> {
    let unlock = Unlock::read(call)?;
    match unlock.look(ctx, errbacks).await {
        Ok(true) => Ok(Value::Null),
        Ok(false) if ctx.request().retries() >= unlock.limit => {
            Err(TaskError::failed(gave_up(ctx)))
        }
        Ok(false) => Err(unlock.again(ctx)),
        Err(error) => {
            tracing::warn!(chord = %unlock.header.id, %error, "asking again");
            Err(unlock.again(ctx))
        }
    }
}

/// What its message says.
struct Unlock {
    /// The header's results, under the id of its group.
    header: ResultTree,
    body: Signature,
    interval: Duration,
    limit: u32,
}

impl Unlock {
    fn read(call: &Arguments) -> Result<Self> {
        let shape = [argument(call, 0, "group_id"), argument(call, 4, "result")];
        let body = argument(call, 1, "callback").clone();
        let interval = argument(call, 2, "interval").as_f64();
        let interval = interval.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let limit = argument(call, 3, "max_retries").as_u64();
        Ok(Self {
            header: ResultTree::from_value(&Value::from_iter(shape.map(Value::clone)))?,
            body: Signature::from_value(body)?,
            interval: interval.unwrap_or(INTERVAL),
            limit: limit.map_or(u32::MAX, |limit| u32::try_from(limit).unwrap_or(u32::MAX)),
        })
    }

    /// Whether there is nothing left to ask.
    async fn look(&self, ctx: &Ctx, errbacks: &dyn Errbacks) -> Result<bool> {
        let ids: Vec<Id> = self.header.leaves().iter().map(|l| l.id.clone()).collect();
        let backend = ctx.app().backend();
        let found = backend.load(&ids).await?;
        let ended = |meta: &Option<TaskMeta>| meta.as_ref().is_some_and(|m| m.status.is_ready());
        let all = found.iter().all(ended);
        let last = ctx.request().retries() >= self.limit;
        let mut effects = Vec::new();
        if all || last || ctx.request().retries() == 0 {
            effects.extend(self.open(ids.len()));
        }
        if all || last {
            // With no questions left, who has not ended has failed.
            let parts = ids.iter().zip(found).enumerate();
            let parts = parts.map(|(index, (id, meta))| part(ctx, index, id, meta));
            effects.extend(self.arrivals(parts)?);
        }
        let committer = ctx.app().committer();
        let request = ctx.request();
        // Nothing is stored for this task, so nothing can stand against it.
        let _ = committer.commit(request, effects, errbacks, None).await?;
        Ok(all || self.is_sent(ctx).await?)
    }

    fn open(&self, size: usize) -> Vec<Effect> {
        let size = size as u64;
        let mut effects = Vec::new();
        let is_nested = |m: &ResultTree| m.members.is_some();
        if self.header.members.iter().flatten().any(is_nested) {
            effects.push(Effect::SaveGroup(Box::new(self.header.clone())));
        }
        effects.push(Effect::OpenJoin(JoinSpec {
            id: self.header.id.clone(),
            size,
            quorum: size,
        }));
        effects
    }

    fn arrivals(&self, parts: impl Iterator<Item = Part>) -> Result<Vec<Effect>> {
        let body = Sealed::new(&self.body)?;
        let arrive = |part| {
            let (join, body) = (self.header.id.clone(), body.clone());
            Effect::Arrive(Box::new(Arrive { join, part, body }))
        };
        Ok(parts.map(arrive).collect())
    }

    /// Whether the body runs already: members that count themselves in and
    /// store no result complete the join without ever ending here.
    async fn is_sent(&self, ctx: &Ctx) -> Result<bool> {
        let Some(body) = self.body.options.task_id() else {
            return Ok(false);
        };
        let found = ctx.app().backend().load(&[body]).await?;
        let found = found.into_iter().flatten().next();
        Ok(found.is_some_and(|meta| meta.status != State::Revoked))
    }

    fn again(&self, ctx: &Ctx) -> TaskError {
        // The limit counts what was asked, not what went wrong.
        let retry = ctx.retry().countdown(self.interval).max_retries(u32::MAX);
        retry.into()
    }
}

fn part(ctx: &Ctx, index: usize, id: &Id, meta: Option<TaskMeta>) -> Part {
    let ended = meta.filter(|meta| meta.status.is_ready());
    let (state, result) = match ended {
        Some(meta) => (meta.status, meta.result),
        None => (State::Failure, gave_up(ctx).to_value()),
    };
    Part {
        task_id: id.clone(),
        index: Some(index as u64),
        state,
        result,
    }
}

fn gave_up(ctx: &Ctx) -> ExceptionInfo {
    let (name, id) = (&ctx.request().task, &ctx.request().id);
    ExceptionInfo::celery(
        "MaxRetriesExceededError",
        format!("Can't retry {name}[{id}]"),
    )
}
