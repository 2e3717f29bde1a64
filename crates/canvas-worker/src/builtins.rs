//! The tasks that every worker has: Celery's `celery.*`.

use canvas_core::task::Arguments;
use canvas_core::{
    Ctx, Errbacks, ExceptionInfo, Kwargs, Options, Shape, Signature, TaskError, chord, group,
};
use serde_json::{Value, json};

use crate::unlock;

/// Their names.
pub(crate) const NAMES: [&str; 9] = [
    "celery.accumulate",
    "celery.map",
    "celery.starmap",
    "celery.chunks",
    "celery.group",
    "celery.chord",
    "celery.chain",
    "celery.backend_cleanup",
    unlock::NAME,
];

/// Runs the built-in task of the request, if it is one.
///
/// Error callbacks are those of what it sends, not of its request.
pub(crate) async fn run(
    ctx: &Ctx,
    call: &Arguments,
    errbacks: &dyn Errbacks,
) -> Option<Result<Value, TaskError>> {
    Some(match &*ctx.request().task {
        "celery.accumulate" => accumulate(call),
        "celery.map" => map(ctx, call, false).await,
        "celery.starmap" => map(ctx, call, true).await,
        "celery.chunks" => chunks(call),
        "celery.group" => launch_group(ctx, call).await,
        "celery.chord" => launch_chord(ctx, call).await,
        "celery.chain" => Err(TaskError::failed(ExceptionInfo::builtin(
            "NotImplementedError",
            "chain is not a real task",
        ))),
        // For backends that keep what has expired, and there are none here.
        "celery.backend_cleanup" => Ok(Value::Null),
        unlock::NAME => unlock::run(ctx, call, errbacks).await,
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
                return Err(type_error(&format!(
                    "{task} cannot be replaced inside a map"
                )));
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

/// A group that a client sent as a task, as old ones did.
async fn launch_group(ctx: &Ctx, call: &Arguments) -> Result<Value, TaskError> {
    let tasks = signatures(argument(call, 0, "tasks"))?;
    let mut group = group(tasks);
    if let Some(id) = argument(call, 2, "group_id").as_str() {
        group = group.task_id(id);
    }
    let partial = list(argument(call, 3, "partial_args"));
    launch(ctx, group, &partial).await
}

/// A chord likewise.
async fn launch_chord(ctx: &Ctx, call: &Arguments) -> Result<Value, TaskError> {
    let header = signatures(argument(call, 0, "header"))?;
    let body = Signature::from_value(argument(call, 1, "body").clone())?;
    let partial = list(argument(call, 2, "partial_args"));
    launch(ctx, chord(header, body), &partial).await
}

/// Sends a canvas, and returns where its result will be.
async fn launch(ctx: &Ctx, mut canvas: Signature, partial: &[Value]) -> Result<Value, TaskError> {
    partially(&mut canvas, partial);
    let result = ctx.launch(canvas).await?;
    Ok(json!(result.tree()))
}

/// Puts arguments before those of a group's members or a chord's header.
fn partially(canvas: &mut Signature, args: &[Value]) {
    let members = match &mut canvas.shape {
        Shape::Group(members) => members,
        Shape::Chord(parts) => return partially(&mut parts.header, args),
        _ => return,
    };
    for member in members {
        member.merge(args, &Kwargs::new(), &Options::new(), false);
    }
}

/// An argument, by place or name; null if there is none.
pub(crate) fn argument<'a>(call: &'a Arguments, place: usize, name: &str) -> &'a Value {
    let found = call.args.get(place).or_else(|| call.kwargs.get(name));
    found.unwrap_or(&Value::Null)
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// A list of signatures, or a group of them.
fn signatures(value: &Value) -> Result<Vec<Signature>, TaskError> {
    if let Value::Array(items) = value {
        let read = items.iter().cloned().map(Signature::from_value);
        return Ok(read.collect::<canvas_core::Result<_>>()?);
    }
    match Signature::from_value(value.clone())?.shape {
        Shape::Group(members) => Ok(members),
        _ => Err(TaskError::failed(ExceptionInfo::builtin(
            "TypeError",
            "a group, or a list of signatures, is needed",
        ))),
    }
}
