//! What comes of what is published.

use std::collections::BTreeSet;

use bytes::Bytes;
use canvas_core::broker::{Priorities, Settle, Settled};
use serde_json::json;

use super::{NEVER, Port, consume, has_length, id, message, next, nothing, publish, settle, to};

pub(super) async fn a_message_is_delivered_as_it_was_published(broker: Port) {
    let mut sent = message("1");
    sent.headers.retries = 2;
    sent.headers.eta = Some("2026-11-24T06:21:18.239414Z".parse().unwrap());
    sent.headers.timelimit = (Some(10.0), None);
    sent.headers.stamped_headers = Some(vec!["user".to_owned()]);
    sent.headers
        .stamps
        .insert("user".to_owned(), json!(["ann", 1]));
    sent.headers
        .extra
        .insert("mine".to_owned(), json!({"deep": [null, 1.5]}));
    sent.properties.priority = Some(3);
    sent.properties.correlation_id = Some("1".into());
    sent.properties.reply_to = Some("me".into());
    sent.body = Bytes::from("[[\"ü\", 1], {\"x\": null}, {}]");
    broker.publish(vec![to("q", sent.clone())]).await.unwrap();
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.message, sent);
    assert_eq!((&*delivery.queue, delivery.redelivered), ("q", false));
    assert!(delivery.deliveries <= 1);
}

pub(super) async fn a_batch_goes_where_each_of_it_is_sent(broker: Port) {
    broker.publish(Vec::new()).await.unwrap();
    let batch = vec![
        to("a", message("1")),
        to("b", message("2")),
        to("a", message("3")),
    ];
    broker.publish(batch).await.unwrap();
    has_length(&broker, "a", 2).await;
    has_length(&broker, "b", 1).await;
    let mut consumer = consume(&broker, &["b"], 5, NEVER).await;
    assert_eq!(id(&next(&mut consumer).await), "2");
    nothing(&mut consumer).await;
}

pub(super) async fn messages_come_in_order(broker: Port) {
    publish(&broker, "q", &["1", "2"]).await;
    publish(&broker, "q", &["3"]).await;
    let mut consumer = consume(&broker, &["q"], 5, NEVER).await;
    for want in ["1", "2", "3"] {
        assert_eq!(id(&next(&mut consumer).await), want);
    }
}

pub(super) async fn many_can_publish_at_once(broker: Port) {
    let publishers = (0..20).map(|n| {
        let broker = broker.clone();
        tokio::spawn(async move {
            let ids = [format!("{n}-a"), format!("{n}-b")];
            publish(&broker, "q", &[&ids[0], &ids[1]]).await;
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.await.unwrap();
    }
    let mut consumer = consume(&broker, &["q"], 100, NEVER).await;
    let mut seen = BTreeSet::new();
    for _ in 0..40 {
        seen.insert(id(&next(&mut consumer).await));
    }
    assert_eq!(seen.len(), 40);
    nothing(&mut consumer).await;
}

pub(super) async fn urgent_messages_come_first(broker: Port) {
    let priorities = [
        (None, "none"),
        (Some(6), "6"),
        (Some(0), "0"),
        (Some(9), "9"),
        (Some(3), "3"),
    ];
    for (priority, id) in priorities {
        let mut message = message(id);
        message.properties.priority = priority;
        broker.publish(vec![to("q", message)]).await.unwrap();
    }
    let mut consumer = consume(&broker, &["q"], 9, NEVER).await;
    let mut order = Vec::new();
    for _ in 0..5 {
        order.push(id(&next(&mut consumer).await));
    }
    let wanted = match broker.info().priorities {
        Priorities::HighestFirst => ["9", "6", "3", "none", "0"],
        _ => ["none", "0", "3", "6", "9"],
    };
    assert_eq!(order, wanted);
}

pub(super) async fn a_message_that_comes_again_keeps_its_priority(broker: Port) {
    let (first, last) = match broker.info().priorities {
        Priorities::HighestFirst => (9, 0),
        _ => (0, 9),
    };
    let mut urgent = message("urgent");
    urgent.properties.priority = Some(first);
    let mut slow = message("slow");
    slow.properties.priority = Some(last);
    let batch = vec![to("q", slow), to("q", urgent)];
    broker.publish(batch).await.unwrap();
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(id(&delivery), "urgent");
    settle(&broker, &delivery, Settle::Requeue).await;
    assert_eq!(id(&next(&mut consumer).await), "urgent");
}

pub(super) async fn the_length_counts_what_waits(broker: Port) {
    has_length(&broker, "q", 0).await;
    publish(&broker, "q", &["1", "2"]).await;
    has_length(&broker, "q", 2).await;
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let delivery = next(&mut consumer).await;
    has_length(&broker, "q", 1).await;
    settle(&broker, &delivery, Settle::Requeue).await;
    has_length(&broker, "q", 2).await;
}

pub(super) async fn purging_drops_what_waits(broker: Port) {
    publish(&broker, "q", &["1", "2", "3"]).await;
    publish(&broker, "other", &["4"]).await;
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let out = next(&mut consumer).await;
    assert_eq!(broker.purge("q").await.unwrap(), 2);
    assert_eq!(broker.purge("q").await.unwrap(), 0);
    assert_eq!(broker.purge("unknown").await.unwrap(), 0);
    has_length(&broker, "other", 1).await;
    assert_eq!(settle(&broker, &out, Settle::Requeue).await, Settled::Done);
    assert_eq!(id(&next(&mut consumer).await), "1");
    nothing(&mut consumer).await;
}
