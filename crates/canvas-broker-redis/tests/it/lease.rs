//! Deliveries that come again because nobody has settled them in time.

use std::time::Duration;

use canvas_core::broker::Settle;
use serde_json::{Value, json};

use crate::support::{NEVER, Redis, consume, id, next, publish, until};

#[tokio::test]
async fn deliveries_that_ended_badly_are_counted() {
    let redis = Redis::start();
    let broker = redis.broker();
    publish(&broker, "q", &["1"]).await;
    let mut consumer = consume(&broker, &["q"], 1, Duration::from_millis(200)).await;
    for count in 1..=3 {
        let delivery = next(&mut consumer).await;
        assert_eq!(
            (delivery.deliveries, delivery.redelivered),
            (count, count > 1)
        );
    }
}

#[tokio::test]
async fn what_comes_again_is_taken_next_the_oldest_first_and_what_is_given_back_last() {
    let redis = Redis::start();
    let broker = redis.broker();
    publish(&broker, "q", &["1", "2", "3", "4"]).await;
    let mut dead = consume(&broker, &["q"], 3, Duration::from_millis(200)).await;
    let given_back = next(&mut dead).await;
    for want in ["2", "3"] {
        assert_eq!(id(&next(&mut dead).await), want);
    }
    broker
        .settle(&given_back.receipt, Settle::Requeue)
        .await
        .unwrap();
    drop(dead);
    let other = consume(&broker, &["elsewhere"], 1, NEVER).await;
    until("restored", || async { broker.len("q").await.unwrap() == 4 }).await;
    drop(other);
    let mut consumer = consume(&broker, &["q"], 9, NEVER).await;
    let mut order = Vec::new();
    for _ in 0..4 {
        order.push(id(&next(&mut consumer).await));
    }
    assert_eq!(order, ["2", "3", "4", "1"]);
}

#[tokio::test]
async fn leases_of_many_deliveries_end_together() {
    let redis = Redis::start();
    let broker = redis.broker();
    let ids: Vec<String> = (0..300).map(|n| format!("{n:03}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    publish(&broker, "q", &ids).await;
    let mut dead = consume(&broker, &["q"], 300, Duration::from_millis(300)).await;
    for _ in 0..300 {
        next(&mut dead).await;
    }
    drop(dead);
    let mut consumer = consume(&broker, &["q"], 300, NEVER).await;
    let mut seen = Vec::new();
    for _ in 0..300 {
        seen.push(id(&next(&mut consumer).await));
    }
    seen.sort_unstable();
    assert_eq!(seen, ids);
}

#[tokio::test]
async fn a_malformed_envelope_whose_lease_ends_comes_back_as_it_was() {
    let redis = Redis::start();
    let broker = redis.broker();
    let raw: &[u8] = b"no JSON, \",\"\",\" nor \xff text";
    let mut push = redis::cmd("LPUSH");
    push.arg("q").arg(raw);
    push.exec_async(&mut redis.client().await).await.unwrap();
    let mut consumer = consume(&broker, &["q"], 1, Duration::from_millis(200)).await;
    let first = next(&mut consumer).await;
    let again = next(&mut consumer).await;
    assert_ne!(first.receipt, again.receipt);
    assert_eq!(first.message.body, raw);
    assert_eq!(again.message.body, raw);
}

/// Records that a message is out, as if long ago, and has someone look.
async fn out_since_long_ago(redis: &Redis, record: Option<&str>) {
    if let Some(record) = record {
        let _: u64 = redis.ask(&["HSET", "unacked", "tag", record]).await;
    }
    let _: u64 = redis.ask(&["ZADD", "unacked_index", "1000", "tag"]).await;
    let _sweeping = consume(&redis.broker(), &["elsewhere"], 1, NEVER).await;
    until("restored", || async {
        redis
            .ask::<u64>(&["EXISTS", "unacked", "unacked_index"])
            .await
            == 0
    })
    .await;
}

#[tokio::test]
async fn what_python_took_through_an_exchange_goes_back_to_the_queues_bound_to_it() {
    let redis = Redis::start();
    for queue in ["q1", "q2"] {
        let member = format!("key\x06\x16\x06\x16{queue}");
        let _: u64 = redis.ask(&["SADD", "_kombu.binding.ex", &member]).await;
    }
    let envelope = r#"{"body":"","headers":{},"properties":{"priority":3,"delivery_info":{}}}"#;
    let record = format!("[{envelope}, \"ex\", \"key\"]");
    out_since_long_ago(&redis, Some(&record)).await;
    for list in ["q1\x06\x163", "q2\x06\x163"] {
        let back: Vec<String> = redis.ask(&["LRANGE", list, "0", "-1"]).await;
        let back: Value = serde_json::from_str(&back[0]).unwrap();
        assert_eq!(back["headers"], json!({"redelivered": true}));
        let info = &back["properties"]["delivery_info"];
        assert_eq!(*info, json!({"redelivered": true, "canvas-deliveries": 1}));
    }
}

#[tokio::test]
async fn what_python_took_through_an_exchange_that_is_gone_is_not_lost() {
    let redis = Redis::start();
    out_since_long_ago(&redis, Some(r#"[{"properties": {}}, "gone", "key"]"#)).await;
    assert_eq!(redis.broker().len("key").await.unwrap(), 1);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_kept_as_a_dead_letter() {
    let redis = Redis::start();
    out_since_long_ago(&redis, Some("no record")).await;
    let letters: Vec<String> = redis
        .ask(&["LRANGE", "canvas.dead.unacked", "0", "-1"])
        .await;
    let letter: Value = serde_json::from_str(&letters[0]).unwrap();
    assert_eq!(
        (letters.len(), &letter["message"]),
        (1, &json!("no record"))
    );
}

#[tokio::test]
async fn a_tag_without_a_record_is_dropped() {
    let redis = Redis::start();
    out_since_long_ago(&redis, None).await;
    assert_eq!(
        redis.ask::<Vec<String>>(&["KEYS", "canvas.*"]).await,
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn many_who_look_restore_a_message_once() {
    let redis = Redis::start();
    let lookers: Vec<_> = (0..8).map(|_| redis.broker()).collect();
    let mut consumers = Vec::new();
    for broker in &lookers {
        consumers.push(consume(broker, &["elsewhere"], 1, NEVER).await);
    }
    let ids: Vec<String> = (0..100).map(|n| format!("{n:03}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    publish(&lookers[0], "q", &ids).await;
    let mut dead = consume(&lookers[0], &["q"], 100, Duration::from_millis(200)).await;
    for _ in 0..100 {
        next(&mut dead).await;
    }
    drop(dead);
    until("restored", || async {
        redis.ask::<u64>(&["HLEN", "unacked"]).await == 0
    })
    .await;
    assert_eq!(lookers[0].len("q").await.unwrap(), 100);
}
