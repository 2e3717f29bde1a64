//! The tasks that every worker has: Celery's `celery.*`.

use canvas_core::task::Arguments;
use canvas_core::{Ctx, ExceptionInfo, Shape, Signature, TaskError};
use serde_json::Value;

/// Runs the built-in task of the request, if it is one.
pub(crate) async fn run(ctx: &Ctx, call: &Arguments) -> Option<Result<Value, TaskError>> {
    Some(match &*ctx.request().task {
        "celery.accumulate" => accumulate(call),
        "celery.map" => map(ctx, call, false).await,
        "celery.starmap" => map(ctx, call, true).await,
        "celery.chunks" => chunks(call),
        _ => return None,
    })
}

/// The arguments, or the one at `index`.
fn accumulate(call: &Arguments) -> Result<Value, TaskError> {
    match call.kwargs.get("index").and_then(Value::as_u64) {
        None => Ok(Value::Array(call.args.clone())),
        Some(index) => {
            let at = usize::try_from(index).ok();
            let found = at.and_then(|at| call.args.get(at)).cloned();
            found.ok_or_else(|| {
                let given = call.args.len();
                TaskError::failed(ExceptionInfo::builtin(
                    "IndexError",
                    format!("celery.accumulate: no argument {index}, {given} given"),
                ))
            })
        }
    }
}

/// Calls a task with each item, here and now.
async fn map(ctx: &Ctx, call: &Arguments, star: bool) -> Result<Value, TaskError> {
    let type_error = |text: &str| TaskError::failed(ExceptionInfo::builtin("TypeError", text));
    let task = call.kwargs.get("task").or(call.args.first());
    let items = call.kwargs.get("it").or(call.args.get(1));
    let (Some(task), Some(Value::Array(items))) = (task, items) else {
        return Err(type_error(
            "map needs `task`, a signature, and `it`, a list",
        ));
    };
    let signature = Signature::from_value(task.clone())?;
    let Some(task) = ctx.app().tasks().get(&signature.task) else {
        return Err(TaskError::failed(ExceptionInfo::celery(
            "NotRegistered",
            signature.task.clone(),
        )));
    };
    let mut values = Vec::with_capacity(items.len());
    for item in items {
        let mut args = match (star, item) {
            (false, item) => vec![item.clone()],
            (true, Value::Array(args)) => args.clone(),
            (true, _) => {
                return Err(type_error(
                    "an item of a starmap must be a list of arguments",
                ));
            }
        };
        args.extend(signature.args.iter().cloned());
        let kwargs = signature.kwargs.clone();
        let result = task.run(ctx.clone(), Arguments { args, kwargs }).await;
        values.push(match result {
            // It would take the place of the whole map.
            Err(TaskError::Replaced(_)) => {
                let task = task.name();
                return Err(type_error(&format!("{task} cannot be replaced inside a map")));
            }
            result => result?,
        });
    }
    Ok(Value::Array(values))
}

/// A call of `celery.chunks` that a client sent as it is.
fn chunks(call: &Arguments) -> Result<Value, TaskError> {
    let mut signature = Signature::new("celery.chunks");
    signature.kwargs.clone_from(&call.kwargs);
    debug_assert!(matches!(signature.shape, Shape::Task));
    Err(TaskError::Replaced(Box::new(signature)))
}
