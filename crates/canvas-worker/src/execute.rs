//! One delivery, from top to bottom.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use canvas_core::broker::{Delivery, Receipt, Settle, Settled};
use canvas_core::protocol::{DeliveryInfo, Reply};
use canvas_core::task::Arguments;
use canvas_core::{
    Committed, Ctx, Effect, Errback, Errbacks, Error, ExceptionInfo, Failure, Outcome, Request,
    ResultTree, State, Step, TaskError, TaskMeta, advance, inside_task,
};
use chrono::Utc;
use futures_util::FutureExt;
use serde_json::{Value, json};
use tracing::Instrument;

use crate::builtins;
use crate::roster::Seat;
use crate::run::{Node, Phase, Turn};

/// Sees a delivery through.
pub(crate) async fn delivery(node: Arc<Node>, delivery: Delivery, turn: Turn) {
    let info = DeliveryInfo {
        queue: delivery.queue.clone(),
        redelivered: delivery.redelivered,
    };
    match Request::decode(&delivery.message, info.clone()) {
        Ok(request) => {
            let span = tracing::info_span!(
                "task",
                task_id = %request.id,
                root_id = %request.root_id(),
                name = %request.task,
                retries = request.retries(),
            );
            request_run(&node, delivery, Arc::new(request), turn)
                .instrument(span)
                .await;
        }
        Err(error) => malformed(&node, &delivery, info, error).await,
    }
}

async fn request_run(node: &Node, delivery: Delivery, request: Arc<Request>, turn: Turn) {
    let seat = node.roster.enter(request.clone());
    // The time may have come while the message was on its way.
    if request.headers.eta.is_some_and(|eta| eta > Utc::now()) && !is_over(node, &request) {
        return put_off(node, delivery, &request, seat).await;
    }
    let slot = tokio::select! {
        biased;
        () = node.reached(Phase::Warm) => return settle(node, &delivery.receipt, Settle::Requeue).await,
        slot = turn => slot,
    };
    let Some(slot) = slot else { return };
    // It may be the slot of a task that shutting down has just stopped, seen
    // before the news of that.
    if node.is_shutting_down() {
        return settle(node, &delivery.receipt, Settle::Requeue).await;
    }
    let unrun = before(node, &delivery, &request).await;
    // Only what is run is acknowledged early: the rest may have to be kept as
    // a dead letter.
    let late = unrun.is_some() || acks_late(node, &request);
    if !late {
        settle(node, &delivery.receipt, Settle::Ack).await;
        seat.acknowledged();
    }
    let (mut outcome, launched) = match unrun {
        Some(outcome) => outcome,
        None => run(node, &request, &seat).await,
    };
    // It is for what runs: another may run while this one's end is stored.
    drop(slot);
    if let Outcome::Error(TaskError::Reject { requeue, .. }) = &mut outcome {
        // What was acknowledged cannot be requeued, so it ends.
        *requeue &= late;
    }
    let receipt = late.then_some(&delivery.receipt);
    let Some(ended) = finish(node, request, outcome, launched, receipt).await else {
        return;
    };
    if late {
        end(node, &delivery.receipt, ended).await;
    }
}

/// How a delivery ends whose effects are made.
enum Ended {
    /// It was acknowledged with them.
    Acknowledged(Settled),
    /// In this way, which is still to be done.
    Open(Settle),
}

async fn end(node: &Node, receipt: &Receipt, ended: Ended) {
    match ended {
        Ended::Acknowledged(settled) => landed(node, receipt, settled),
        Ended::Open(how) => settle(node, receipt, how).await,
    }
}

fn acks_late(node: &Node, request: &Request) -> bool {
    let own = node.app.tasks().options(&request.task);
    own.and_then(|options| options.acks_late)
        .unwrap_or(node.app.config().task_acks_late)
}

fn is_over(node: &Node, request: &Request) -> bool {
    request.has_expired(Utc::now()) || node.revoked.covers(request)
}

/// A task whose time has not come: kept by the broker if it can, else here.
async fn put_off(node: &Node, delivery: Delivery, request: &Request, seat: Seat) {
    match request.headers.eta {
        Some(eta) if node.broker().info().defers => {
            settle(node, &delivery.receipt, Settle::Defer(eta)).await;
        }
        _ => node.hold(delivery, seat),
    }
}

/// Reasons not to run the task, and what it comes to then.
async fn before(
    node: &Node,
    delivery: &Delivery,
    request: &Request,
) -> Option<(Outcome, Vec<ResultTree>)> {
    let done = |outcome| Some((outcome, Vec::new()));
    if node.revoked.covers(request) {
        tracing::info!("discarded: revoked");
        return done(Outcome::Revoked("revoked"));
    }
    if request.has_expired(Utc::now()) {
        tracing::info!("discarded: expired");
        return done(Outcome::Revoked("expired"));
    }
    let limit = node.app.config().task_delivery_limit;
    if limit > 0 && delivery.deliveries > limit {
        let text = format!(
            "delivered {} times and never finished: it may be killing its workers",
            delivery.deliveries - 1
        );
        tracing::error!("{text}");
        let exception = ExceptionInfo::new("billiard.exceptions", "WorkerLostError", text);
        return done(Outcome::Refused(exception));
    }
    if !is_known(node, &request.task) {
        tracing::error!(
            "unregistered task; this worker knows {:?}",
            node.app.tasks()
        );
        let exception = ExceptionInfo::celery("NotRegistered", request.task.to_string());
        return done(Outcome::Refused(exception));
    }
    // A message that comes again after its task has succeeded need not run
    // it again, but what follows may not have been sent.
    if request.may_be_repeat()
        && node.app.config().worker_deduplicate_successful_tasks
        && node.app.backend().info().shared
    {
        let stored = node
            .app
            .backend()
            .load(std::slice::from_ref(&request.id))
            .await;
        if let Some(meta) = stored.ok().and_then(|mut found| found.pop()).flatten()
            && meta.status == State::Success
        {
            tracing::info!("has succeeded before; going on from its stored result");
            return done(Outcome::Success(meta.result));
        }
    }
    None
}

fn is_known(node: &Node, task: &str) -> bool {
    node.app.tasks().get(task).is_some()
        || node.app.primitives().get(task).is_some()
        || builtins::NAMES.contains(&task)
}

/// Runs the task.
async fn run(node: &Node, request: &Arc<Request>, seat: &Seat) -> (Outcome, Vec<ResultTree>) {
    let app = &node.app;
    let options = app.tasks().options(&request.task);
    let tracked = options.and_then(|o| o.track_started);
    // Nothing would ever follow the state of a task whose result is dropped.
    let ignored = request.headers.ignore_result.unwrap_or_else(|| {
        options.is_some_and(|o| o.ignore_result) || app.config().task_ignore_result
    });
    if !ignored && tracked.unwrap_or(app.config().task_track_started) {
        let mut meta = TaskMeta::new(request.id.clone(), State::Started);
        meta.result = json!({ "pid": std::process::id(), "hostname": node.name });
        meta.group_id.clone_from(&request.headers.group);
        meta.parent_id.clone_from(&request.headers.parent_id);
        meta.reply = request.reply();
        if let Err(error) = app.backend().store(&meta).await {
            tracing::warn!(%error, "STARTED could not be stored");
        }
    }
    let ctx = Ctx::new(app.clone(), request.clone());
    let stop = seat.started(&ctx);
    // A command that came since this was asked before has missed it.
    if node.revoked.covers(request) {
        return (Outcome::Revoked("revoked"), Vec::new());
    }
    let limit = request
        .time_limit()
        .or_else(|| options.and_then(|o| o.time_limit));
    let started = std::time::Instant::now();
    let outcome = tokio::select! {
        biased;
        () = stop.cancelled() => Outcome::Revoked("terminated"),
        result = limited(limit, call(node, &ctx)) => match result {
            Ok(value) => Outcome::Success(value),
            Err(error) => Outcome::Error(error),
        },
    };
    log(&outcome, started.elapsed());
    (outcome, ctx.children())
}

fn log(outcome: &Outcome, took: Duration) {
    match outcome {
        Outcome::Success(_) => tracing::info!(?took, "succeeded"),
        Outcome::Error(TaskError::Failed(failure)) => {
            tracing::error!(?took, error = %failure.exception, traceback = failure.traceback, "failed");
        }
        Outcome::Error(TaskError::Retry(_)) => tracing::info!(?took, "wants to be retried"),
        Outcome::Error(TaskError::Replaced(_)) => tracing::info!(?took, "replaced"),
        other => tracing::info!(?took, ?other, "ended"),
    }
}

/// The hard time limit, as far as dropping a future can keep it.
async fn limited(
    limit: Option<Duration>,
    task: impl Future<Output = Result<Value, TaskError>>,
) -> Result<Value, TaskError> {
    let Some(limit) = limit else {
        return task.await;
    };
    match tokio::time::timeout(limit, task).await {
        Ok(result) => result,
        Err(_) => {
            let mut exception = ExceptionInfo::new("billiard.exceptions", "TimeLimitExceeded", "");
            exception.exc_message = vec![json!(limit.as_secs_f64())];
            Err(TaskError::failed(exception))
        }
    }
}

/// Calls whatever the request names, and survives its panic.
async fn call(node: &Node, ctx: &Ctx) -> Result<Value, TaskError> {
    let request = ctx.request();
    let call = Arguments {
        args: request.args.clone(),
        kwargs: request.kwargs.clone(),
    };
    let app = ctx.app();
    let work = async {
        if let Some(task) = app.tasks().get(&request.task) {
            return task.run(ctx.clone(), call).await;
        }
        if let Some(primitive) = app.primitives().get(&request.task) {
            let canvas = primitive.expand(call)?;
            return Err(TaskError::Replaced(Box::new(canvas)));
        }
        let built_in = builtins::run(ctx, &call, &CallHere { node }).await;
        built_in.unwrap_or_else(|| Err(TaskError::msg("unregistered task")))
    };
    let caught = AssertUnwindSafe(inside_task(work)).catch_unwind().await;
    caught.unwrap_or_else(|panic| Err(panicked(&*panic)))
}

fn panicked(payload: &(dyn Any + Send)) -> TaskError {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned());
    TaskError::Failed(Box::new(Failure {
        traceback: Some(format!("the task panicked: {text}")),
        exception: ExceptionInfo::new("canvas", "Panic", text),
    }))
}

/// Commits what follows, for as long as it takes, and the acknowledgement of
/// `receipt` with it where that can be; `None` if the worker was stopped
/// meanwhile, and the message is to come again.
async fn finish(
    node: &Node,
    mut request: Arc<Request>,
    mut outcome: Outcome,
    launched: Vec<ResultTree>,
    receipt: Option<&Receipt>,
) -> Option<Ended> {
    let committer = node.app.committer();
    let mut wait = Duration::from_millis(50);
    // Why what follows a success can never be committed.
    let mut hopeless = None;
    loop {
        let error = match decide(node, &mut request, &outcome, &launched).await {
            Ok(step) => {
                let errbacks = CallHere { node };
                let receipt = receipt.filter(|_| step.settle == Settle::Ack);
                let committed = committer.commit(&request, step.effects, &errbacks, receipt);
                match committed.await {
                    Ok(Committed::All { settled }) => {
                        let done = settled.map(Ended::Acknowledged);
                        return Some(done.unwrap_or(Ended::Open(step.settle)));
                    }
                    Ok(Committed::Superseded(_)) if hopeless.is_some() => {
                        return hopeless.map(|reason| Ended::Open(Settle::Reject(reason)));
                    }
                    Ok(Committed::Superseded(value)) => {
                        tracing::info!(
                            "another run has succeeded before; going on from its result"
                        );
                        outcome = Outcome::Success(value);
                        continue;
                    }
                    Err(error) => error,
                }
            }
            // What follows has expired: the task's own result stands, and the
            // chain ends in an error instead of never.
            Err(Error::MalformedMessage { reason, .. }) => {
                tracing::error!("{reason}");
                let exception = ExceptionInfo::celery("ImproperlyConfigured", reason);
                outcome = Outcome::Error(TaskError::failed(exception));
                continue;
            }
            Err(error) => error,
        };
        if !error.is_retryable() {
            tracing::error!(%error, "what follows the task cannot be committed");
            if matches!(outcome, Outcome::Refused(_)) {
                return Some(Ended::Open(Settle::Reject(error.to_string())));
            }
            let exception = ExceptionInfo::celery("BackendStoreError", error.to_string());
            outcome = Outcome::Refused(exception);
            hopeless = Some(error.to_string());
            continue;
        }
        tracing::warn!(%error, ?wait, "committing failed; trying again");
        // From here on it is as if the message had come again.
        Arc::make_mut(&mut request).delivery.redelivered = true;
        tokio::select! {
            () = node.reached(Phase::Cold) => return None,
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2)
            .min(Duration::from_secs(2))
            .mul_f64(0.75 + fastrand::f64() / 2.0);
    }
}

/// Says what follows, with as much of it at hand as that takes: the next step
/// after a success, all of it where all of it ends.
async fn decide(
    node: &Node,
    request: &mut Arc<Request>,
    outcome: &Outcome,
    launched: &[ResultTree],
) -> Result<Step, Error> {
    let advance = |request: &Request| {
        let env = node.app.env();
        advance(env, request, outcome.clone(), launched.to_vec(), Utc::now())
    };
    complete(node, request, false).await?;
    let step = advance(request);
    if !step.ended || request.missing(true).is_none() {
        return Ok(step);
    }
    complete(node, request, true).await?;
    Ok(advance(request))
}

/// Puts what was kept for the request into it.
async fn complete(node: &Node, request: &mut Arc<Request>, all: bool) -> Result<(), Error> {
    if request.missing(all).is_none() {
        return Ok(());
    }
    let committer = node.app.committer();
    committer.complete(Arc::make_mut(request), all).await
}

async fn settle(node: &Node, receipt: &Receipt, how: Settle) {
    match node.broker().settle(receipt, how).await {
        Ok(settled) => landed(node, receipt, settled),
        Err(error) => {
            tracing::warn!(%error, "settling failed; the message will come again");
            node.flights.landed(receipt);
        }
    }
}

fn landed(node: &Node, receipt: &Receipt, settled: Settled) {
    if settled == Settled::Stale {
        tracing::warn!(
            tag = %receipt.tag,
            "the lease had passed to another worker, which now has this task"
        );
    }
    node.flights.landed(receipt);
}

/// A message that cannot be read: kept as a dead letter, and an error for
/// whoever waits, where the id can be told.
async fn malformed(node: &Node, delivery: &Delivery, info: DeliveryInfo, error: Error) {
    tracing::error!(queue = %delivery.queue, %error, "message rejected");
    let kind = match &*delivery.message.properties.content_type {
        "application/json" => "DecodeError",
        _ => "ContentDisallowed",
    };
    let exception = ExceptionInfo::new("kombu.exceptions", kind, error.to_string());
    if let Some(request) = Request::salvage(&delivery.message, info) {
        let refused = Outcome::Refused(exception);
        let receipt = &delivery.receipt;
        let finished = finish(node, Arc::new(request), refused, Vec::new(), Some(receipt));
        if let Some(ended) = finished.await {
            end(node, receipt, ended).await;
        }
        return;
    }
    if let Error::MalformedMessage { id: Some(id), .. } = &error {
        let headers = &delivery.message.headers;
        let asked = delivery.message.properties.reply_to.clone();
        let mut meta = TaskMeta::new(id.clone(), State::Failure);
        meta.result = exception.to_value();
        meta.date_done = Some(Utc::now());
        meta.group_id.clone_from(&headers.group);
        meta.parent_id.clone_from(&headers.parent_id);
        meta.reply = asked.map(|to| Reply {
            to,
            correlation_id: id.clone(),
        });
        let store = vec![Effect::Store(Box::new(meta))];
        if let Err(error) = node.app.committer().send(store).await {
            tracing::warn!(%error, "the error of a malformed message could not be stored");
        }
    }
    settle(node, &delivery.receipt, Settle::Reject(error.to_string())).await;
}

/// Calls error callbacks in this process.
struct CallHere<'a> {
    node: &'a Node,
}

#[async_trait]
impl Errbacks for CallHere<'_> {
    async fn call(&self, errback: Errback) {
        let Errback {
            signature,
            request,
            exception,
            traceback,
        } = errback;
        let Some(task) = self.node.app.tasks().get(&signature.task) else {
            return;
        };
        let mut args = vec![request.to_value(), exception.to_value(), json!(traceback)];
        args.extend(signature.args);
        let kwargs = signature.kwargs;
        let ctx = Ctx::new(self.node.app.clone(), request);
        let work = inside_task(task.run(ctx, Arguments { args, kwargs }));
        match AssertUnwindSafe(work).catch_unwind().await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::error!(errback = task.name(), ?error, "error callback failed")
            }
            Err(_) => tracing::error!(errback = task.name(), "error callback panicked"),
        }
    }
}
