//! Tasks that compute something.

use std::io::Write;
use std::time::Duration;

use canvas::{Builder, Ctx, TaskError, task};
use serde_json::{Value, json};

use super::python::{plus, sum, truth};

pub(super) fn add_to(builder: Builder) -> Builder {
    builder
        .task::<ping>()
        .task::<identity>()
        .task::<add>()
        .task::<mul>()
        .task::<add_not_typed>()
        .task::<add_ignore_result>()
        .task::<add_with_result>()
        .task::<add_pydantic>()
        .task::<add_pydantic_string_annotations>()
        .task::<delayed_sum>()
        .task::<delayed_sum_with_soft_guard>()
        .task::<tsum>()
        .task::<xsum>()
        .task::<write_to_file_and_return_int>()
        .task::<print_unicode>()
        .task::<return_exception>()
        .task::<replaced_with_me>()
}

#[task(name = "celery.ping")]
async fn ping() -> String {
    "pong".to_owned()
}

#[task(name = "t.integration.tasks.identity")]
async fn identity(x: Value) -> Value {
    x
}

#[task(name = "t.integration.tasks.add")]
async fn add(x: Value, y: Value, #[default] z: Value) -> Result<Value, TaskError> {
    let both = plus(x, y)?;
    if truth(&z) { plus(both, z) } else { Ok(both) }
}

#[task(name = "t.integration.tasks.mul")]
async fn mul(x: i64, y: i64) -> i64 {
    x * y
}

#[task(name = "t.integration.tasks.add_not_typed")]
async fn add_not_typed(x: Value, y: Value) -> Result<Value, TaskError> {
    plus(x, y)
}

#[task(name = "t.integration.tasks.add_ignore_result", ignore_result)]
async fn add_ignore_result(x: Value, y: Value) -> Result<Value, TaskError> {
    plus(x, y)
}

#[task(name = "t.integration.tasks.add_with_result")]
async fn add_with_result(x: Value, y: Value) -> Result<Value, TaskError> {
    plus(x, y)
}

/// What the tests have a pydantic model for.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Pair {
    x: i64,
    y: i64,
}

#[task(name = "t.integration.tasks.add_pydantic")]
async fn add_pydantic(data: Pair) -> Value {
    json!({ "result": data.x + data.y })
}

#[task(name = "t.integration.tasks.add_pydantic_string_annotations")]
async fn add_pydantic_string_annotations(data: Pair) -> Value {
    json!({ "result": data.x + data.y })
}

#[task(name = "t.integration.tasks.delayed_sum")]
async fn delayed_sum(numbers: Value, #[default(1.0)] pause_time: f64) -> Result<Value, TaskError> {
    tokio::time::sleep(Duration::from_secs_f64(pause_time)).await;
    sum(numbers)
}

/// Gives 0 if its time is up before it is done.
#[task(name = "t.integration.tasks.delayed_sum_with_soft_guard")]
async fn delayed_sum_with_soft_guard(
    ctx: &Ctx,
    numbers: Value,
    #[default(1.0)] pause_time: f64,
) -> Result<Value, TaskError> {
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs_f64(pause_time)) => sum(numbers),
        () = ctx.soft_time_limit_passed() => Ok(json!(0)),
    }
}

#[task(name = "t.integration.tasks.tsum")]
async fn tsum(nums: Value) -> Result<Value, TaskError> {
    sum(nums)
}

/// The sum of numbers and of lists of numbers.
#[task(name = "t.integration.tasks.xsum")]
async fn xsum(nums: Vec<Value>) -> Result<Value, TaskError> {
    let each = |value: Value| {
        if value.is_array() {
            sum(value)
        } else {
            Ok(value)
        }
    };
    let sums: Result<Vec<Value>, TaskError> = nums.into_iter().map(each).collect();
    sum(Value::Array(sums?))
}

#[task(name = "t.integration.tasks.write_to_file_and_return_int")]
fn write_to_file_and_return_int(file_name: String, i: i64) -> Result<i64, std::io::Error> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.append(true).create(true).open(file_name)?;
    writeln!(file, "{i}")?;
    Ok(i)
}

#[task(name = "t.integration.tasks.print_unicode")]
async fn print_unicode(
    #[default("håå®ƒ valmuefrø".into())] log_message: String,
    #[default("hiöäüß".into())] print_message: String,
) {
    eprintln!("{log_message}");
    println!("{print_message}");
}

#[task(name = "t.integration.tasks.return_exception")]
async fn return_exception(e: Value) -> Value {
    json!([e, true])
}

#[task(name = "t.integration.tasks.replaced_with_me")]
async fn replaced_with_me() -> bool {
    true
}
