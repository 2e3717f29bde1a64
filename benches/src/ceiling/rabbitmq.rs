//! The same ceiling on RabbitMQ, with results in Redis: a loop over the client
//! library, written by hand.
//!
//! It publishes in windows and waits for the confirms of each, takes 256
//! messages ahead, stores the results of what has come in one pipeline, and
//! acknowledges all of it at once. A message that is not one of these, or a
//! connection that is lost, ends it.

use std::time::{Duration, Instant};

use canvas::Id;
use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use redis::Client;
use serde::de::IgnoredAny;

use super::{LIFE, Outcome, RESULT, body, success, task};

/// How many messages are taken ahead.
const PREFETCH: u16 = 256;

/// How many tasks are ended at once.
const BATCH: usize = 64;

/// How many messages are on their way unconfirmed.
const WINDOW: u64 = 256;

/// Works until it is ended.
///
/// # Errors
/// RabbitMQ's and Redis's, and a message that is none of this client's.
pub async fn work(broker: &str, redis: &str, queue: &str) -> Outcome<()> {
    let (_connection, channel) = open(broker, queue).await?;
    let client = Client::open(redis)?;
    let mut results = client.get_multiplexed_async_connection().await?;
    channel
        .basic_qos(PREFETCH, BasicQosOptions::default())
        .await?;
    let options = BasicConsumeOptions::default();
    let mut messages = channel
        .basic_consume(queue.into(), "".into(), options, FieldTable::default())
        .await?;
    while let Some(first) = messages.next().await {
        let mut batch = vec![first?];
        while batch.len() < BATCH
            && let Some(Some(more)) = messages.next().now_or_never()
        {
            batch.push(more?);
        }
        let now = chrono::Utc::now().to_rfc3339();
        let mut storing = redis::pipe();
        for message in &batch {
            if let Some((key, result)) = run(message, &now)? {
                storing.set_ex(&key, &result, LIFE).ignore();
                storing.publish(&key, &result).ignore();
            }
        }
        if !storing.is_empty() {
            storing.exec_async(&mut results).await?;
        }
        if let Some(last) = batch.last() {
            let options = BasicAckOptions { multiple: true };
            channel.basic_ack(last.delivery_tag, options).await?;
        }
    }
    Ok(())
}

/// Adds up what is in a message.
fn run(message: &Delivery, now: &str) -> Outcome<Option<(String, String)>> {
    let ((x, y), _, _): ((u64, u64), IgnoredAny, IgnoredAny) =
        serde_json::from_slice(&message.data)?;
    let headers = message.properties.headers().as_ref();
    let headers = headers.ok_or("a message without headers")?.inner();
    if headers.get("ignore_result") == Some(&AMQPValue::Boolean(true)) {
        return Ok(None);
    }
    let Some(AMQPValue::LongString(id)) = headers.get("id") else {
        return Err("a message without an id".into());
    };
    let id = std::str::from_utf8(id.as_bytes())?;
    Ok(Some((format!("{RESULT}{id}"), success(id, x + y, now))))
}

/// Sends so many tasks to a queue, each window when the one before has been
/// confirmed.
///
/// # Errors
/// RabbitMQ's.
pub async fn enqueue(broker: &str, queue: &str, tasks: u64, quietly: bool) -> Outcome<Duration> {
    let (_connection, channel) = open(broker, queue).await?;
    let started = Instant::now();
    let group = Id::random();
    for first in (0..tasks).step_by(WINDOW as usize) {
        let mut confirms = Vec::new();
        for n in first..tasks.min(first + WINDOW) {
            let id = Id::random();
            confirms.push(publish(&channel, queue, &id, Some(&group), n, quietly).await?);
        }
        for confirm in confirms {
            confirm.await?;
        }
    }
    Ok(started.elapsed())
}

/// Calls a task so many times, each when the one before has its result.
///
/// # Errors
/// RabbitMQ's and Redis's, and a result that is wrong.
pub async fn call(broker: &str, redis: &str, queue: &str, times: u64) -> Outcome<Vec<Duration>> {
    let (_connection, channel) = open(broker, queue).await?;
    let mut subscription = Client::open(redis)?.get_async_pubsub().await?;
    let mut took = Vec::new();
    for n in 0..times {
        let id = Id::random();
        let started = Instant::now();
        let key = format!("{RESULT}{id}");
        subscription.subscribe(&key).await?;
        publish(&channel, queue, &id, None, n, false).await?.await?;
        let told = subscription.on_message().next().await;
        let told = told.ok_or("the connection has ended")?;
        took.push(started.elapsed());
        let result: serde_json::Value = serde_json::from_slice(told.get_payload_bytes())?;
        if result["result"] != n + 1 {
            return Err(format!("{n} + 1 is not {result}").into());
        }
        subscription.unsubscribe(&key).await?;
    }
    Ok(took)
}

/// A channel with confirms, and the queue.
async fn open(broker: &str, queue: &str) -> Outcome<(Connection, Channel)> {
    let connection = Connection::connect(broker, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.into(), options, FieldTable::default())
        .await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    Ok((connection, channel))
}

async fn publish(
    channel: &Channel,
    queue: &str,
    id: &Id,
    group: Option<&Id>,
    n: u64,
    quietly: bool,
) -> Outcome<lapin::PublisherConfirm> {
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_headers(headers(id, group, n, quietly))
        .with_delivery_mode(2)
        .with_priority(0)
        .with_correlation_id(id.as_str().into())
        .with_reply_to(id.as_str().into());
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let body = body(n);
    let sent = channel.basic_publish(
        "".into(),
        queue.into(),
        options,
        body.as_bytes(),
        properties,
    );
    Ok(sent.await?)
}

/// Headers as Celery's client writes them, field for field.
fn headers(id: &Id, group: Option<&Id>, n: u64, quietly: bool) -> FieldTable {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let id = || text(id.as_str());
    let number = |n: u64| i32::try_from(n).map_or(AMQPValue::Void, AMQPValue::LongInt);
    let none = || AMQPValue::Void;
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("lang", text("py")),
        ("task", text(task(quietly))),
        ("id", id()),
        ("shadow", none()),
        ("eta", none()),
        ("expires", none()),
        (
            "group",
            group.map_or_else(none, |group| text(group.as_str())),
        ),
        ("group_index", group.map_or_else(none, |_| number(n))),
        ("retries", number(0)),
        (
            "timelimit",
            AMQPValue::FieldArray(FieldArray::from(vec![none(), none()])),
        ),
        ("root_id", id()),
        ("parent_id", none()),
        ("argsrepr", text(&format!("({n}, 1)"))),
        ("kwargsrepr", text("{}")),
        ("origin", text("gen1@ceiling")),
        ("ignore_result", AMQPValue::Boolean(quietly)),
        ("replaced_task_nesting", number(0)),
        ("stamped_headers", none()),
        ("stamps", AMQPValue::FieldTable(FieldTable::default())),
    ] {
        headers.insert(name.into(), value);
    }
    headers
}
