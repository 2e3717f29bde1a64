//! Tasks that fail, are refused, or are tried again.

#![expect(
    clippy::disallowed_names,
    reason = "the arguments are called so by whoever sends them"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use canvas::{
    Builder, Ctx, ExceptionInfo, Failure, Kwargs, RetryPolicy, State, TaskError, TaskMeta,
    TaskOptions, task,
};
use serde_json::{Value, json};

use super::name;
use super::python::{own_error, plus, truth};
use crate::support::{task as closure, task_with};

pub(super) fn add_to(builder: Builder) -> Builder {
    let builder = builder
        .task_object(closure(&name("raise_error"), |_, _| async {
            let error = ExceptionInfo::builtin("ValueError", "deliberate error");
            Err(TaskError::failed(error))
        }))
        .task_object(closure(&name("fail"), |_, call| async move {
            let mut args = vec![json!("Task expected to fail")];
            args.extend(call.args);
            Err(TaskError::failed(own_error("ExpectedException", args)))
        }))
        .task_object(closure(&name("sleeping"), |_, call| async move {
            let seconds = call.args.first().or(call.kwargs.get("i"));
            let seconds = seconds.and_then(Value::as_f64).unwrap_or_default();
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            Ok(Value::Null)
        }))
        .task::<fail_unpickleable>()
        .task::<store_success_then_reject>()
        .task::<reject_then_succeed>()
        .task::<reject_without_requeue>()
        .task::<soft_time_limit_must_exceed_time_limit>();
    retrying(builder)
}

fn retrying(builder: Builder) -> Builder {
    let builder = builder
        .task_object(retry())
        .task_object(retry_unpickleable())
        .task::<retry_with_args_after_kwargs>()
        .task::<retry_with_kwargs_after_args>()
        .task::<retry_once_ignore_result>()
        .task::<retry_once_with_result>()
        .task::<auto_retry_class_task>();
    let once = [
        ("retry_once", Some(Duration::from_secs(120))),
        ("retry_once_priority", None),
        ("retry_once_headers", None),
    ];
    once.into_iter().fold(builder, |builder, (task, expires)| {
        builder.task_object(retry_once(task, expires))
    })
}

#[task(name = "t.integration.tasks.fail_unpickleable")]
async fn fail_unpickleable(foo: Value, bar: Value) -> Result<Value, TaskError> {
    // The exception keeps it to itself: it is no argument of the exception.
    let _ = bar;
    Err(TaskError::failed(unpickleable(foo)))
}

fn unpickleable(foo: Value) -> ExceptionInfo {
    own_error("UnpickleableException", vec![foo])
}

/// First it stores a result and is delivered again; then it need not run.
#[task(name = "t.integration.tasks.store_success_then_reject", acks_late)]
async fn store_success_then_reject(ctx: &Ctx) -> Result<String, TaskError> {
    if ctx.request().delivery.redelivered {
        return Ok("dedup-pass".to_owned());
    }
    let mut meta = TaskMeta::new(ctx.id().clone(), State::Success);
    meta.result = json!("first-pass");
    ctx.app().backend().store(&meta).await?;
    Err(again())
}

#[task(name = "t.integration.tasks.reject_then_succeed", acks_late)]
async fn reject_then_succeed(ctx: &Ctx) -> Result<String, TaskError> {
    if ctx.request().delivery.redelivered {
        Ok("second-pass".to_owned())
    } else {
        Err(again())
    }
}

fn again() -> TaskError {
    TaskError::Reject {
        reason: String::new(),
        requeue: true,
    }
}

#[task(name = "t.integration.tasks.reject_without_requeue")]
async fn reject_without_requeue() -> Result<(), TaskError> {
    Err(TaskError::Reject {
        reason: "rejected".to_owned(),
        requeue: false,
    })
}

#[task(
    name = "t.integration.tasks.soft_time_limit_must_exceed_time_limit",
    soft_time_limit = 2,
    time_limit = 1
)]
async fn soft_time_limit_must_exceed_time_limit() {}

/// Fails with its own kind of error once it has been tried three times, or,
/// with a value to return, succeeds then. It counts for itself, like its model.
fn retry() -> Arc<dyn canvas::Task> {
    let attempts = Arc::new(AtomicU32::new(0));
    task_with(&name("retry"), with_delay(1), move |ctx, call| {
        let attempts = attempts.clone();
        async move {
            let value = call.args.first().or(call.kwargs.get("return_value"));
            let value = value.cloned().unwrap_or_default();
            if truth(&value) && attempts.fetch_add(1, Ordering::Relaxed) >= 3 {
                attempts.store(0, Ordering::Relaxed);
                return Ok(value);
            }
            let cause = own_error("ExpectedException", Vec::new());
            let again = ctx.retry().countdown(Duration::from_secs(5));
            Err(again.because(TaskError::failed(cause)))
        }
    })
}

/// Is told how to retry.
fn retry_unpickleable() -> Arc<dyn canvas::Task> {
    task_with(
        &name("retry_unpickleable"),
        with_delay(1),
        |ctx, call| async move {
            let foo = call.args.first().or(call.kwargs.get("foo"));
            let how = call.kwargs.get("retry_kwargs").cloned().unwrap_or_default();
            let mut again = ctx.retry();
            if let Some(seconds) = how["countdown"].as_f64() {
                again = again.countdown(Duration::from_secs_f64(seconds));
            }
            if let Some(limit) = how["max_retries"].as_u64() {
                again = again.max_retries(u32::try_from(limit).unwrap_or(u32::MAX));
            }
            let cause = unpickleable(foo.cloned().unwrap_or_default());
            Err(again.because(TaskError::failed(cause)))
        },
    )
}

fn with_delay(seconds: u64) -> TaskOptions {
    TaskOptions {
        retry: RetryPolicy {
            delay: Duration::from_secs(seconds),
            ..RetryPolicy::default()
        },
        ..TaskOptions::default()
    }
}

/// One of the tasks that are tried a second time and then say something of
/// their request.
fn retry_once(task: &'static str, expires: Option<Duration>) -> Arc<dyn canvas::Task> {
    let options = TaskOptions {
        expires,
        retry: RetryPolicy {
            max_retries: Some(1),
            ..RetryPolicy::default()
        },
        ..TaskOptions::default()
    };
    task_with(&name(task), options, move |ctx, call| async move {
        if ctx.retries() > 0 {
            let request = ctx.request();
            return Ok(match task {
                "retry_once_priority" => json!(request.properties.priority.unwrap_or(0)),
                "retry_once_headers" => json!(request.headers.extra),
                _ => json!(ctx.retries()),
            });
        }
        let seconds = call.kwargs.get("countdown").cloned().unwrap_or(json!(0.1));
        let mut again = ctx.retry();
        // None leaves it to the task, which is long.
        if let Some(seconds) = seconds.as_f64() {
            again = again.countdown(Duration::from_secs_f64(seconds));
        }
        if let Some(limit) = call.kwargs.get("max_retries").and_then(Value::as_u64) {
            again = again.max_retries(u32::try_from(limit).unwrap_or(u32::MAX));
        }
        Err(again.into())
    })
}

#[task(
    name = "t.integration.tasks.retry_with_args_after_kwargs",
    max_retries = 1
)]
async fn retry_with_args_after_kwargs(
    ctx: &Ctx,
    foo: Value,
    bar: Value,
    #[default] label: Value,
) -> Result<Value, TaskError> {
    if ctx.retries() > 0 {
        return Ok(json!({
            "foo": foo, "bar": bar, "label": label,
            "retries": ctx.retries(), "is_eager": false,
        }));
    }
    let args = vec![plus(foo, json!(1))?, plus(bar, json!(1))?];
    let kwargs = Kwargs::from_iter([("label".to_owned(), label)]);
    Err(ctx
        .retry()
        .countdown(Duration::ZERO)
        .arguments(args, kwargs)
        .into())
}

#[task(
    name = "t.integration.tasks.retry_with_kwargs_after_args",
    max_retries = 1
)]
async fn retry_with_kwargs_after_args(
    ctx: &Ctx,
    foo: Value,
    bar: Value,
) -> Result<Value, TaskError> {
    if ctx.retries() > 0 {
        return Ok(json!({
            "foo": foo, "bar": bar, "retries": ctx.retries(), "is_eager": false,
        }));
    }
    let kwargs = [("foo", plus(foo, json!(1))?), ("bar", bar)];
    let kwargs = kwargs.map(|(key, value)| (key.to_owned(), value));
    let again = ctx.retry().countdown(Duration::ZERO);
    Err(again
        .arguments(Vec::new(), Kwargs::from_iter(kwargs))
        .into())
}

#[task(name = "t.integration.tasks.retry_once_ignore_result", ignore_result)]
async fn retry_once_ignore_result(ctx: &Ctx) -> Result<u32, TaskError> {
    twice(ctx)
}

#[task(name = "t.integration.tasks.retry_once_with_result")]
async fn retry_once_with_result(ctx: &Ctx) -> Result<u32, TaskError> {
    twice(ctx)
}

fn twice(ctx: &Ctx) -> Result<u32, TaskError> {
    match ctx.retries() {
        0 => Err(ctx.retry().countdown(Duration::ZERO).into()),
        retries => Ok(retries),
    }
}

#[task(
    name = "auto_retry_class_task",
    autoretry_for("ValueError"),
    max_retries = 1,
    retry_backoff
)]
async fn auto_retry_class_task(ctx: &Ctx) -> Result<u32, TaskError> {
    match ctx.retries() {
        0 => {
            let mut error = ExceptionInfo::builtin("ValueError", "");
            error.exc_message.clear();
            Err(TaskError::Failed(Box::new(Failure {
                exception: error,
                traceback: None,
            })))
        }
        retries => Ok(retries),
    }
}
