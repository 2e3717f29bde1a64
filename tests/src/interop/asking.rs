//! Tasks that return something of their request.

use canvas::{Builder, Ctx, task};
use serde_json::{Value, json};

use super::name;
use crate::support::task as closure;

pub(super) fn add_to(builder: Builder) -> Builder {
    builder
        .task_object(closure(&name("return_priority"), |ctx, _| async move {
            let priority = ctx.request().properties.priority.unwrap_or(0);
            Ok(json!(format!("Priority: {priority}")))
        }))
        .task::<ids>()
        .task::<collect_ids>()
        .task::<return_properties>()
        .task::<return_request_eta>()
        .task::<return_request_time_limits>()
        .task::<task_with_declared_time_limits>()
}

#[task(name = "t.integration.tasks.ids")]
async fn ids(ctx: &Ctx, i: Value) -> Value {
    let headers = &ctx.request().headers;
    json!([ctx.request().root_id(), headers.parent_id, i])
}

#[task(name = "t.integration.tasks.collect_ids")]
async fn collect_ids(ctx: &Ctx, res: Value, i: Value) -> Value {
    let headers = &ctx.request().headers;
    json!([res, [ctx.request().root_id(), headers.parent_id, i]])
}

#[task(name = "t.integration.tasks.return_properties")]
async fn return_properties(ctx: &Ctx) -> Value {
    let properties = &ctx.request().properties;
    let mut all = (*properties.extra).clone();
    all.insert(
        "correlation_id".to_owned(),
        json!(properties.correlation_id),
    );
    all.insert("reply_to".to_owned(), json!(properties.reply_to));
    all.insert("priority".to_owned(), json!(properties.priority));
    all.insert("delivery_mode".to_owned(), json!(properties.delivery_mode));
    Value::Object(all)
}

#[task(name = "t.integration.tasks.return_request_eta")]
async fn return_request_eta(ctx: &Ctx) -> Value {
    ctx.request().to_value()["eta"].clone()
}

#[task(name = "t.integration.tasks.return_request_time_limits")]
async fn return_request_time_limits(ctx: &Ctx) -> Value {
    limits(ctx)
}

#[task(
    name = "t.integration.tasks.task_with_declared_time_limits",
    time_limit = 60,
    soft_time_limit = 45
)]
async fn task_with_declared_time_limits(ctx: &Ctx) -> Value {
    limits(ctx)
}

fn limits(ctx: &Ctx) -> Value {
    json!({
        "time_limit": ctx.time_limit().map(|limit| limit.as_secs_f64()),
        "soft_time_limit": ctx.soft_time_limit().map(|limit| limit.as_secs_f64()),
    })
}
