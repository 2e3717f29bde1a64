//! What is in Redis, key for key.

use std::time::Duration;

use canvas_core::broker::{Destination, Outgoing, Settle, Settled};
use canvas_core::protocol::DeliveryInfo;
use canvas_core::{Error, Request};
use serde_json::{Value, json};

use crate::support::{NEVER, Redis, ack, consume, id, message, next, publish, to, until};

const SEP: &str = "\x06\x16";

fn sent(queue: &str, id: &str, priority: u8) -> Outgoing {
    let mut message = message(id);
    message.properties.priority = Some(priority);
    to(queue, message)
}

/// A message as Python would write it, by its words.
fn envelope(id: &str) -> Value {
    json!({
        "body": "W1tdLCB7fSwge31d",
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"task": "task", "id": id},
        "properties": {
            "correlation_id": id,
            "delivery_info": {"exchange": "", "routing_key": "q"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "tag-of-the-publisher",
        },
    })
}

#[tokio::test]
async fn each_priority_step_has_its_list() {
    let redis = Redis::start();
    let broker = redis.broker();
    let batch = (0..=9).map(|priority| sent("q", "m", priority)).collect();
    broker.publish(batch).await.unwrap();
    for (step, want) in [("", 3), ("3", 3), ("6", 3), ("9", 1)] {
        let list = match step {
            "" => "q".to_owned(),
            step => format!("q{SEP}{step}"),
        };
        assert_eq!(redis.ask::<u64>(&["LLEN", &list]).await, want, "{list:?}");
    }
    assert_eq!(broker.len("q").await.unwrap(), 10);
    assert_eq!(broker.purge("q").await.unwrap(), 10);
    assert_eq!(broker.len("q").await.unwrap(), 0);
}

#[tokio::test]
async fn steps_of_ones_own_are_used() {
    let redis = Redis::start();
    let broker = redis.broker_with(|config| config.priority_steps = vec![0, 5]);
    broker
        .publish(vec![sent("q", "4", 4), sent("q", "5", 5)])
        .await
        .unwrap();
    assert_eq!(redis.ask::<u64>(&["LLEN", "q"]).await, 1);
    assert_eq!(redis.ask::<u64>(&["LLEN", &format!("q{SEP}5")]).await, 1);
}

#[tokio::test]
async fn queues_are_declared_as_kombu_declares_them() {
    let redis = Redis::start();
    let broker = redis.broker();
    publish(&broker, "sent", &["1"]).await;
    let mut consumer = consume(&broker, &["taken"], 1, NEVER).await;
    let waiting = tokio::spawn(async move { next(&mut consumer).await });
    for queue in ["sent", "taken"] {
        let member = format!("{queue}{SEP}{SEP}{queue}");
        for table in ["_kombu.binding.", "_kombu.binding_permanent."] {
            let key = format!("{table}{queue}");
            until(&key, || async {
                redis.ask::<Vec<String>>(&["SMEMBERS", &key]).await == [member.clone()]
            })
            .await;
        }
    }
    waiting.abort();
}

#[tokio::test]
async fn a_named_exchange_leads_to_the_queues_that_are_bound_to_it() {
    let redis = Redis::start();
    let broker = redis.broker();
    for (exchange, key, pattern, queue) in [
        ("direct", "key", "", "q1"),
        ("direct", "key", "", "q2"),
        ("direct", "other", "", "q3"),
        ("topic", "task.#", "^task\\..*?$", "q1"),
        ("topic", "task.*", "^task\\.[^\\.]+$", "q3"),
    ] {
        let member = format!("{key}{SEP}{pattern}{SEP}{queue}");
        let _: u64 = redis
            .ask(&["SADD", &format!("_kombu.binding.{exchange}"), &member])
            .await;
    }
    for (exchange, routing_key, want) in [
        ("direct", "key", [1, 1, 0]),
        ("topic", "task.a.b", [1, 0, 0]),
        ("topic", "task.a", [1, 0, 1]),
    ] {
        let to = Destination {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
        };
        let message = message("1");
        broker
            .publish(vec![Outgoing { to, message }])
            .await
            .unwrap();
        for (queue, want) in ["q1", "q2", "q3"].into_iter().zip(want) {
            assert_eq!(
                broker.purge(queue).await.unwrap(),
                want,
                "{exchange} {routing_key} {queue}"
            );
        }
    }
}

#[tokio::test]
async fn a_binding_made_a_moment_ago_counts() {
    let redis = Redis::start();
    let broker = redis.broker();
    let send = async |key: &str| {
        let to = Destination {
            exchange: "replies".into(),
            routing_key: key.into(),
        };
        let message = message("1");
        broker
            .publish(vec![Outgoing { to, message }])
            .await
            .unwrap();
    };
    for client in ["a", "b"] {
        let member = format!("{client}{SEP}{SEP}{client}.replies");
        let _: u64 = redis
            .ask(&["SADD", "_kombu.binding.replies", &member])
            .await;
        send(client).await;
        assert_eq!(broker.len(&format!("{client}.replies")).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn what_nothing_is_bound_to_is_kept_in_the_queue_of_its_name() {
    let redis = Redis::start();
    let broker = redis.broker();
    let to = Destination {
        exchange: "nowhere".into(),
        routing_key: "key".into(),
    };
    let message = message("1");
    broker
        .publish(vec![Outgoing {
            to,
            message: message.clone(),
        }])
        .await
        .unwrap();
    assert_eq!(broker.len("key").await.unwrap(), 1);
    let nowhere = Destination::queue("");
    let error = broker
        .publish(vec![Outgoing {
            to: nowhere,
            message,
        }])
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Config(_)), "{error}");
}

#[tokio::test]
async fn a_message_that_is_out_is_recorded_for_any_worker() {
    let redis = Redis::start();
    let broker = redis.broker();
    let written = envelope("1");
    let _: u64 = redis
        .ask(&["LPUSH", "q\"uo\\te", &written.to_string()])
        .await;
    let mut consumer = consume(&broker, &["q\"uo\\te"], 5, Duration::from_secs(30)).await;
    let delivery = next(&mut consumer).await;
    let tag = &*delivery.receipt.tag;
    assert_ne!(tag, "tag-of-the-publisher", "a tag is of one delivery only");
    let record: String = redis.ask(&["HGET", "unacked", tag]).await;
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record, json!([written, "", "q\"uo\\te"]));
    // Python waits 3600 s from the score on; the lease is 30 s from now on.
    let score: f64 = redis.ask(&["ZSCORE", "unacked_index", tag]).await;
    let [seconds, _]: [String; 2] = redis
        .ask::<Vec<String>>(&["TIME"])
        .await
        .try_into()
        .unwrap();
    let left = score + 3_600.0 - seconds.parse::<f64>().unwrap();
    assert!((25.0..=31.0).contains(&left), "{left} s left");
    assert_eq!(ack(&broker, &delivery).await, Settled::Done);
    assert_eq!(
        redis
            .ask::<u64>(&["EXISTS", "unacked", "unacked_index"])
            .await,
        0
    );
}

#[tokio::test]
async fn every_key_and_channel_has_the_prefix() {
    let redis = Redis::start();
    let broker = redis.broker_with(|config| config.global_keyprefix = "app:".to_owned());
    let mut listener = broker.subscribe("news").await.unwrap();
    broker
        .publish(vec![sent("q", "1", 0), sent("q", "2", 9)])
        .await
        .unwrap();
    let mut consumer = consume(&broker, &["q"], 5, NEVER).await;
    let first = next(&mut consumer).await;
    let second = next(&mut consumer).await;
    broker
        .settle(&first.receipt, Settle::Reject("no".to_owned()))
        .await
        .unwrap();
    broker.broadcast("news", "k", message("3")).await.unwrap();
    assert_eq!(listener.next().await.unwrap().unwrap().0, "k");
    let mut keys: Vec<String> = redis.ask(&["KEYS", "*"]).await;
    keys.sort_unstable();
    let want = [
        "app:_kombu.binding.q",
        "app:_kombu.binding_permanent.q",
        "app:canvas.dead.q",
        "app:unacked",
        "app:unacked_index",
    ];
    assert_eq!(keys, want);
    let channels: Vec<String> = redis.ask(&["PUBSUB", "CHANNELS"]).await;
    assert_eq!(channels, Vec::<String>::new(), "only patterns");
    broker
        .settle(&second.receipt, Settle::Requeue)
        .await
        .unwrap();
    assert_eq!(broker.len("q").await.unwrap(), 1);
    assert_eq!(
        redis.ask::<u64>(&["LLEN", &format!("app:q{SEP}9")]).await,
        1
    );
}

#[tokio::test]
async fn what_comes_again_is_marked_where_kombu_marks_it_and_otherwise_the_same() {
    let redis = Redis::start();
    let broker = redis.broker();
    let mut written = envelope("1");
    written["headers"]["mine"] = json!({"float": 0.1, "empty": [], "none": null});
    written["properties"]["priority"] = json!(7);
    let list = format!("q{SEP}6");
    // A number that no f64 holds must come back as it was.
    let text = written
        .to_string()
        .replace("0.1", "123456789012345678901234567890");
    let _: u64 = redis.ask(&["LPUSH", &list, &text]).await;
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let delivery = next(&mut consumer).await;
    assert_eq!((delivery.redelivered, delivery.deliveries), (false, 1));
    broker
        .settle(&delivery.receipt, Settle::Requeue)
        .await
        .unwrap();
    let back: String = redis.ask(&["LINDEX", &list, "0"]).await;
    let want = text
        .replace(r#""none":null}"#, r#""none":null},"redelivered":true"#)
        .replace(
            r#""routing_key":"q""#,
            r#""routing_key":"q","redelivered":true"#,
        );
    assert_eq!(back, want);
    let again = next(&mut consumer).await;
    assert_eq!(
        (again.redelivered, again.deliveries),
        (true, 1),
        "given back on purpose"
    );
    assert_eq!(again.message, delivery.message);
}

#[tokio::test]
async fn a_malformed_envelope_is_refused_with_its_reason_and_kept_byte_for_byte() {
    let redis = Redis::start();
    let broker = redis.broker();
    let with = |change: fn(&mut Value)| {
        let mut envelope = envelope("id-1");
        change(&mut envelope);
        envelope.to_string().into_bytes()
    };
    // What is in the list, what the worker is told, and whether the id is known.
    let table: Vec<(Vec<u8>, &str, bool)> = vec![
        (b"".to_vec(), "the envelope cannot be read", false),
        (b"no JSON".to_vec(), "the envelope cannot be read", false),
        (
            b"\x80\x04\x95pickle\xff".to_vec(),
            "the envelope cannot be read",
            false,
        ),
        (b"[1, 2]".to_vec(), "the envelope cannot be read", false),
        (
            b"[[], {}, {}]".to_vec(),
            "the envelope cannot be read",
            false,
        ),
        (b"null".to_vec(), "the envelope cannot be read", false),
        (
            b"{\"body\": \"W10".to_vec(),
            "the envelope cannot be read",
            false,
        ),
        (b"{}".to_vec(), "content type `application/data`", false),
        (
            with(|e| e["headers"] = json!([])),
            "`headers` in the envelope must be an object",
            false,
        ),
        (
            with(|e| e["properties"] = json!("x")),
            "`properties` in the envelope must be",
            true,
        ),
        (
            with(|e| e["body"] = json!("!!!")),
            "the body is no base64",
            true,
        ),
        (
            with(|e| e["body"] = json!({"a": 1})),
            "`body` in the envelope must be text",
            true,
        ),
        (
            with(|e| e["body"] = json!("bm8gSlNPTg==")),
            "cannot decode a message body",
            true,
        ),
        (
            with(|e| e["body"] = Value::Null),
            "cannot decode a message body",
            true,
        ),
        (
            with(|e| e["content-type"] = json!(7)),
            "`content-type` in the envelope must be",
            true,
        ),
        (
            with(|e| e["content-type"] = json!("application/x-python-serialize")),
            "content type `application/x-python-serialize` is refused",
            true,
        ),
        (
            with(|e| e["properties"]["body_encoding"] = json!("uuencode")),
            "body_encoding `uuencode` is not known",
            true,
        ),
        (
            with(|e| e["properties"]["correlation_id"] = json!({})),
            "`properties.correlation_id` in the envelope must be text",
            true,
        ),
        (
            with(|e| e["properties"]["delivery_info"] = json!(1)),
            "`properties.delivery_info` in the envelope must be",
            true,
        ),
        (
            with(|e| e["headers"]["retries"] = json!("many")),
            "header `retries` must be",
            true,
        ),
        (
            with(|e| e["headers"]["compression"] = json!("application/x-gzip")),
            "the body is no application/x-gzip",
            true,
        ),
        (
            with(|e| e["headers"]["compression"] = json!("application/x-bz2")),
            "compressed with application/x-bz2",
            true,
        ),
    ];
    let mut consumer = consume(&broker, &["q"], 5, NEVER).await;
    for (raw, want, knows_id) in &table {
        let mut push = redis::cmd("LPUSH");
        push.arg("q").arg(raw.as_slice());
        push.exec_async(&mut redis.client().await).await.unwrap();
        let shown = String::from_utf8_lossy(raw);
        let delivery = next(&mut consumer).await;
        let error = Request::decode(&delivery.message, DeliveryInfo::default()).unwrap_err();
        assert!(error.to_string().contains(want), "{shown}: {error}");
        let id = delivery
            .message
            .headers
            .id
            .as_ref()
            .map(canvas_core::Id::as_str);
        assert_eq!(id, knows_id.then_some("id-1"), "{shown}");
        let how = Settle::Reject(error.to_string());
        let settled = broker.settle(&delivery.receipt, how).await.unwrap();
        assert_eq!(settled, Settled::Done, "{shown}");
    }
    let letters = broker.dead_letters("q").await.unwrap();
    assert_eq!(letters.len(), table.len());
    let kept: Vec<Vec<u8>> = redis.ask(&["LRANGE", "canvas.dead.q", "0", "-1"]).await;
    for (((raw, want, _), letter), kept) in table.iter().zip(&letters).zip(&kept) {
        assert!(letter.reason.contains(want));
        let kept: Value = serde_json::from_slice(kept).unwrap();
        match kept["message"].as_str() {
            Some(text) => assert_eq!(text.as_bytes(), raw.as_slice()),
            None => assert_eq!(kept["message_base64"], json!("gASVcGlja2xl/w==")),
        }
    }
    publish(&broker, "q", &["and it goes on"]).await;
    assert_eq!(id(&next(&mut consumer).await), "and it goes on");
}

#[tokio::test]
async fn the_oldest_of_too_many_dead_letters_is_dropped() {
    let redis = Redis::start();
    let broker = redis.broker();
    let fill = r"for n = 1, 10000 do redis.call('RPUSH', KEYS[1], '{}') end";
    redis.ask::<()>(&["EVAL", fill, "1", "canvas.dead.q"]).await;
    publish(&broker, "q", &["1"]).await;
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let delivery = next(&mut consumer).await;
    broker
        .settle(&delivery.receipt, Settle::Reject("no".to_owned()))
        .await
        .unwrap();
    assert_eq!(redis.ask::<u64>(&["LLEN", "canvas.dead.q"]).await, 10_000);
    let letters = broker.dead_letters("q").await.unwrap();
    assert_eq!(letters.last().unwrap().reason, "no");
}

#[tokio::test]
async fn a_body_of_20_mb_arrives() {
    let redis = Redis::start();
    let broker = redis.broker();
    let mut large = message("large");
    large.body = vec![b'x'; 20 * 1024 * 1024].into();
    broker
        .publish(vec![to("q", large.clone()), to("q", message("small"))])
        .await
        .unwrap();
    let mut consumer = consume(&broker, &["q"], 5, NEVER).await;
    let delivery = next(&mut consumer).await;
    assert!(delivery.message == large, "not as it was sent");
    assert_eq!(id(&next(&mut consumer).await), "small");
    broker
        .settle(&delivery.receipt, Settle::Requeue)
        .await
        .unwrap();
    assert!(next(&mut consumer).await.message.body.len() == large.body.len());
}

#[tokio::test]
async fn a_compressed_body_is_unpacked() {
    let redis = Redis::start();
    let broker = redis.broker();
    let mut written = envelope("1");
    written["headers"]["compression"] = json!("application/x-gzip");
    // What zlib.compress(b'[[1], {}, {}]') gives.
    written["body"] = json!("eJyLjjaM1VGorgXhWAAbqAQq");
    let _: u64 = redis.ask(&["LPUSH", "q", &written.to_string()]).await;
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.message.body, "[[1], {}, {}]");
    let request = Request::decode(&delivery.message, DeliveryInfo::default()).unwrap();
    assert_eq!(request.args, [json!(1)]);
}
