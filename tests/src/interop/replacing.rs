//! Tasks that send more tasks, or are replaced by some.

use canvas::{Builder, Ctx, ResultTree, Signature, TaskError, chain, chord, group, task};
use serde_json::{Value, json};

use super::python::truth;
use super::{Notes, call, name};
use crate::support::task as closure;

pub(super) fn add_to(builder: Builder, notes: &Notes) -> Builder {
    let builder = builder
        .task_object(closure(&name("fail_replaced"), |ctx, it| async move {
            Err(ctx.replace(call("fail").args(it.args).immutable()))
        }))
        .task_object(closure(&name("replace_with_chain"), |ctx, it| async move {
            let steps = chain([call("identity").args(it.args), call("identity")]);
            Err(ctx.replace(steps.link(told(it.kwargs.get("link_msg")))))
        }))
        .task_object(closure(
            &name("replace_with_chain_which_raises"),
            |ctx, it| async move {
                let steps = chain([call("identity").args(it.args), call("raise_error")]);
                Err(ctx.replace(steps.link_error(told(it.kwargs.get("link_msg")))))
            },
        ))
        .task_object(closure(
            &name("replace_with_empty_chain"),
            |ctx, _| async move { Err(ctx.replace(chain(Vec::<Signature>::new()))) },
        ))
        .task::<chain_add>()
        .task::<chord_add>()
        .task::<add_replaced>()
        .task::<add_replaced_with_chain>()
        .task::<record_replaced_task_nesting>()
        .task::<replace_with_chain_which_contains_a_group>()
        .task::<add_to_all>()
        .task::<add_to_all_to_chord>()
        .task::<add_chord_to_chord>()
        .task::<build_chain_inside_task>()
        .task::<replace_with_stamped_task>();
    second_order(builder, notes)
}

/// A callback that echoes this, or whatever it is given.
fn told(message: Option<&Value>) -> Signature {
    match message {
        Some(message) if !message.is_null() => call("redis_echo").arg(message.clone()).immutable(),
        _ => call("redis_echo"),
    }
}

/// A task that is replaced by a chain with itself at the end, around a task
/// that is replaced likewise.
fn second_order(builder: Builder, notes: &Notes) -> Builder {
    let tasks = [
        ("second_order_replace1", "A", call("second_order_replace2")),
        (
            "second_order_replace2",
            "B",
            call("redis_echo").arg("In/Out C"),
        ),
    ];
    tasks
        .into_iter()
        .fold(builder, |builder, (task, letter, inner)| {
            let notes = notes.clone();
            builder.task_object(closure(&name(task), move |ctx, it| {
                let (notes, inner) = (notes.clone(), inner.clone());
                async move {
                    let done = it.kwargs.get("state").is_some_and(truth);
                    let way = if done { "Out" } else { "In" };
                    notes.push("redis-echo", &format!("{way} {letter}")).await?;
                    if done {
                        return Ok(Value::Null);
                    }
                    let out = call(task).kwarg("state", true).immutable();
                    Err(ctx.replace(chain([inner, out])))
                }
            }))
        })
}

#[task(name = "t.integration.tasks.chain_add")]
async fn chain_add(ctx: &Ctx, x: Value, y: Value) -> Result<(), TaskError> {
    let add = call("add").arg(x.clone()).arg(x);
    ctx.launch(add | call("add").arg(y)).await?;
    Ok(())
}

#[task(name = "t.integration.tasks.chord_add")]
async fn chord_add(ctx: &Ctx, x: Value, y: Value) -> Result<(), TaskError> {
    let add = call("add").arg(x.clone()).arg(x);
    ctx.launch(chord([add], call("add").arg(y))).await?;
    Ok(())
}

#[task(name = "t.integration.tasks.add_replaced")]
async fn add_replaced(ctx: &Ctx, x: Value, y: Value) -> Result<Value, TaskError> {
    Err(ctx.replace(call("add").arg(x).arg(y)))
}

#[task(name = "t.integration.tasks.add_replaced_with_chain")]
async fn add_replaced_with_chain(ctx: &Ctx, x: Value, y: Value) -> Result<Value, TaskError> {
    Err(ctx.replace(call("add").arg(x).arg(y) | call("identity")))
}

/// Is replaced by itself a few times, and tells how deep it was each time.
#[task(name = "t.integration.tasks.record_replaced_task_nesting")]
async fn record_replaced_task_nesting(
    ctx: &Ctx,
    replacements: u64,
    #[default] nesting: Option<Vec<u32>>,
) -> Result<Vec<u32>, TaskError> {
    let mut nesting = nesting.unwrap_or_default();
    nesting.push(ctx.request().headers.replaced_task_nesting);
    if replacements == 0 {
        return Ok(nesting);
    }
    let again = call("record_replaced_task_nesting").arg(replacements - 1);
    Err(ctx.replace(again.arg(nesting)))
}

#[task(name = "t.integration.tasks.replace_with_chain_which_contains_a_group")]
async fn replace_with_chain_which_contains_a_group(ctx: &Ctx) -> Result<Value, TaskError> {
    let both = group([call("add").arg(1), call("add").arg(1)]);
    Err(ctx.replace(chain([call("add").arg(1).arg(2), both])))
}

#[task(name = "t.integration.tasks.add_to_all")]
async fn add_to_all(ctx: &Ctx, nums: Vec<Value>, val: Value) -> Result<Value, TaskError> {
    Err(ctx.replace(group(adds(nums, &val))))
}

#[task(name = "t.integration.tasks.add_to_all_to_chord")]
async fn add_to_all_to_chord(ctx: &Ctx, nums: Vec<Value>, val: Value) -> Result<i64, TaskError> {
    for add in adds(nums, &val) {
        ctx.add_to_chord(add).await?;
    }
    Ok(0)
}

#[task(name = "t.integration.tasks.add_chord_to_chord")]
async fn add_chord_to_chord(ctx: &Ctx, nums: Vec<Value>, val: Value) -> Result<i64, TaskError> {
    ctx.add_to_chord(group(adds(nums, &val)) | call("tsum"))
        .await?;
    Ok(0)
}

fn adds(nums: Vec<Value>, val: &Value) -> Vec<Signature> {
    let add = |num| call("add").arg(num).arg(val.clone());
    nums.into_iter().map(add).collect()
}

/// Returns a result that somebody can wait for.
#[task(name = "t.integration.tasks.build_chain_inside_task")]
async fn build_chain_inside_task(ctx: &Ctx) -> Result<ResultTree, TaskError> {
    let both = group([call("add").arg(3), call("add").arg(4)]);
    let canvas = call("add").arg(1).arg(1) | call("add").arg(2) | both | call("add").arg(5);
    Ok(ctx.launch(canvas).await?.tree().clone())
}

#[task(name = "t.integration.tasks.replace_with_stamped_task")]
async fn replace_with_stamped_task(
    ctx: &Ctx,
    #[default] replace_with: Option<Value>,
) -> Result<Value, TaskError> {
    let canvas = match replace_with {
        Some(signature) => Signature::from_value(signature)?,
        None => call("replaced_with_me"),
    };
    let stamp = ("StampOnReplace", json!("This is the replaced task"));
    Err(ctx.replace(canvas.stamp([stamp])))
}
