//! The ceiling of the side-by-side: the least that a client and a worker can do
//! on Redis for a task that is sent, run once, and has a result.
//!
//! Messages, records and results are Celery's, but nothing is ready for what a
//! real worker meets: retries, chains, chords, leases, another queue, a lost
//! connection. One script takes and ends 64 tasks at a time.

pub mod rabbitmq;

use std::error::Error;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use canvas::Id;
use futures_util::StreamExt;
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, AsyncConnectionConfig, Client, Script};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

/// How many tasks go into one call.
const BATCH: usize = 64;

/// How many calls are on their way at a time.
const IN_FLIGHT: usize = 4;

const RESULT: &str = "celery-task-meta-";

/// How long results live, in seconds.
const LIFE: u64 = 86_400;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Works until it is ended.
///
/// # Errors
/// Redis's, and a message that is none of this client's.
pub async fn work(url: &str, queue: &str) -> Outcome<()> {
    let client = Client::open(url)?;
    // It waits for as long as there is nothing to do.
    let patient = AsyncConnectionConfig::new().set_response_timeout(None);
    let waiting = client.get_multiplexed_async_connection_with_config(&patient);
    let mut waiting = waiting.await?;
    let mut working = client.get_multiplexed_async_connection().await?;
    let script = Script::new(include_str!("ceiling.lua"));
    let mut finished: Vec<Finished> = Vec::new();
    for round in 0_u64.. {
        // Of up to 128 tags that are no longer than 64 bytes Redis makes a
        // list, and searches it.
        let prefix = format!("ceiling-{round:056x}-");
        let mut call = script.key(queue);
        call.key("unacked").key("unacked_index");
        call.arg(BATCH).arg(&prefix).arg(LIFE);
        for Finished { tag, key, result } in finished.drain(..) {
            call.arg(tag).arg(key).arg(result);
        }
        let messages: Vec<Vec<u8>> = call.invoke_async(&mut working).await?;
        if messages.is_empty() {
            // From the end of the list to the same end: it only waits.
            let mut wait = redis::cmd("BLMOVE");
            wait.arg(&[queue, queue, "RIGHT", "RIGHT"]).arg(0);
            wait.exec_async(&mut waiting).await?;
        }
        let now = chrono::Utc::now().to_rfc3339();
        for (message, place) in messages.iter().zip(1..) {
            finished.push(run(message, format!("{prefix}{place}"), &now)?);
        }
    }
    Ok(())
}

struct Finished {
    tag: String,
    key: String,
    result: String,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    body: &'a str,
    #[serde(borrow)]
    headers: Headers<'a>,
}

#[derive(Deserialize)]
struct Headers<'a> {
    id: &'a str,
    ignore_result: bool,
}

/// Adds up what is in a message.
fn run(message: &[u8], tag: String, now: &str) -> Outcome<Finished> {
    let envelope: Envelope<'_> = serde_json::from_slice(message)?;
    let body = STANDARD.decode(envelope.body)?;
    let ((x, y), _, _): ((u64, u64), IgnoredAny, IgnoredAny) = serde_json::from_slice(&body)?;
    let Headers { id, ignore_result } = envelope.headers;
    let result = if ignore_result {
        String::new()
    } else {
        success(id, x + y, now)
    };
    Ok(Finished {
        tag,
        key: format!("{RESULT}{id}"),
        result,
    })
}

/// A result as Celery's worker writes it.
fn success(id: &str, value: u64, now: &str) -> String {
    format!(
        r#"{{"status": "SUCCESS", "result": {value}, "traceback": null, "children": [], "date_done": "{now}", "task_id": "{id}"}}"#
    )
}

/// The arguments of a message, and what follows it, which is nothing.
fn body(n: u64) -> String {
    format!(
        r#"[[{n}, 1], {{}}, {{"callbacks": null, "errbacks": null, "chain": null, "chord": null}}]"#
    )
}

fn task(quietly: bool) -> &'static str {
    if quietly {
        "bench.add_quietly"
    } else {
        "bench.add"
    }
}

/// Sends so many tasks to a queue: 64 in a pipeline, four pipelines on their
/// way.
///
/// # Errors
/// Redis's.
pub async fn enqueue(url: &str, queue: &str, tasks: u64, quietly: bool) -> Outcome<Duration> {
    let client = Client::open(url)?;
    let connection = client.get_multiplexed_async_connection().await?;
    let started = Instant::now();
    let mut senders = tokio::task::JoinSet::new();
    let lane = tasks.div_ceil(IN_FLIGHT as u64);
    for first in (0..tasks).step_by(lane as usize) {
        let numbers: Vec<u64> = (first..tasks.min(first + lane)).collect();
        let (mut connection, queue) = (connection.clone(), queue.to_owned());
        senders.spawn(async move {
            let group = Id::random();
            for batch in numbers.chunks(BATCH) {
                let mut pipeline = redis::pipe();
                for n in batch {
                    let text = message(&queue, &Id::random(), Some(&group), *n, quietly);
                    pipeline.lpush(&queue, text).ignore();
                }
                pipeline.exec_async(&mut connection).await?;
            }
            redis::RedisResult::Ok(())
        });
    }
    while let Some(sent) = senders.join_next().await {
        sent??;
    }
    Ok(started.elapsed())
}

/// Calls a task so many times, each when the one before has its result.
///
/// # Errors
/// Redis's, and a result that is wrong.
pub async fn call(url: &str, queue: &str, times: u64) -> Outcome<Vec<Duration>> {
    let client = Client::open(url)?;
    let mut connection: MultiplexedConnection = client.get_multiplexed_async_connection().await?;
    let mut subscription = client.get_async_pubsub().await?;
    subscription.psubscribe(format!("{RESULT}*")).await?;
    let mut results = subscription.on_message();
    let mut took = Vec::new();
    for n in 0..times {
        let started = Instant::now();
        let text = message(queue, &Id::random(), None, n, false);
        connection.lpush::<_, _, ()>(queue, text).await?;
        let told = results.next().await.ok_or("the connection has ended")?;
        took.push(started.elapsed());
        let result: serde_json::Value = serde_json::from_slice(told.get_payload_bytes())?;
        if result["result"] != n + 1 {
            return Err(format!("{n} + 1 is not {result}").into());
        }
    }
    Ok(took)
}

/// A message as Celery's client writes it, field for field.
fn message(queue: &str, id: &Id, group: Option<&Id>, n: u64, quietly: bool) -> String {
    let body = STANDARD.encode(body(n));
    let task = task(quietly);
    let group = json!(group.map(Id::as_str));
    let index = if group.is_null() {
        json!(null)
    } else {
        json!(n)
    };
    let (reply, tag) = (id, id);
    format!(
        r#"{{"body": "{body}", "content-encoding": "utf-8", "content-type": "application/json", "headers": {{"lang": "py", "task": "{task}", "id": "{id}", "shadow": null, "eta": null, "expires": null, "group": {group}, "group_index": {index}, "retries": 0, "timelimit": [null, null], "root_id": "{id}", "parent_id": null, "argsrepr": "({n}, 1)", "kwargsrepr": "{{}}", "origin": "gen1@ceiling", "ignore_result": {quietly}, "replaced_task_nesting": 0, "stamped_headers": null, "stamps": {{}}}}, "properties": {{"correlation_id": "{id}", "reply_to": "{reply}", "delivery_mode": 2, "delivery_info": {{"exchange": "", "routing_key": "{queue}"}}, "priority": 0, "body_encoding": "base64", "delivery_tag": "{tag}"}}}}"#
    )
}
