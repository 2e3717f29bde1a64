//! Consumers: what they get, how much at a time, and of which queues.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use canvas_core::broker::{Settle, Settled};

use super::{MOMENT, NEVER, PATIENCE, Port, consume, id, next, nothing, publish, settle};

pub(super) async fn a_waiting_consumer_is_woken(broker: Port) {
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let waiting = tokio::spawn(async move { id(&next(&mut consumer).await) });
    tokio::time::sleep(MOMENT).await;
    publish(&broker, "q", &["1"]).await;
    assert_eq!(waiting.await.unwrap(), "1");
}

pub(super) async fn queues_are_served_fairly(broker: Port) {
    let many: Vec<String> = (0..50).map(|n| format!("long-{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    publish(&broker, "long", &many).await;
    publish(&broker, "short", &["short-0", "short-1"]).await;
    let mut consumer = consume(&broker, &["long", "short"], 1, NEVER).await;
    let mut order = Vec::new();
    for _ in 0..8 {
        let delivery = next(&mut consumer).await;
        order.push(delivery.queue.to_string());
        settle(&broker, &delivery, Settle::Ack).await;
    }
    let short = order.iter().filter(|queue| *queue == "short").count();
    assert_eq!(short, 2, "{order:?}");
}

pub(super) async fn consumers_share_a_queue(broker: Port) {
    let ids: Vec<String> = (0..60).map(|n| n.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let mut takers = Vec::new();
    for _ in 0..4 {
        let broker = broker.clone();
        let mut consumer = consume(&broker, &["q"], 2, NEVER).await;
        takers.push(tokio::spawn(async move {
            let mut taken = Vec::new();
            while let Ok(Ok(Some(delivery))) =
                tokio::time::timeout(MOMENT * 5, consumer.next()).await
            {
                taken.push(id(&delivery));
                tokio::time::sleep(Duration::from_millis(1)).await;
                settle(&broker, &delivery, Settle::Ack).await;
            }
            taken
        }));
    }
    publish(&broker, "q", &ids).await;
    let mut all = Vec::new();
    for taker in takers {
        let taken = taker.await.unwrap();
        assert!(!taken.is_empty(), "one consumer got nothing");
        all.extend(taken);
    }
    assert_eq!(all.len(), 60);
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>().len(), 60);
}

pub(super) async fn queues_come_and_go(broker: Port) {
    let mut consumer = consume(&broker, &["a"], 9, NEVER).await;
    publish(&broker, "b", &["1", "2"]).await;
    nothing(&mut consumer).await;
    consumer.add_queue("b").await.unwrap();
    consumer.add_queue("b").await.unwrap();
    let delivery = next(&mut consumer).await;
    assert_eq!((id(&delivery), &*delivery.queue), ("1".to_owned(), "b"));
    consumer.cancel_queue("b").await.unwrap();
    nothing(&mut consumer).await;
    assert_eq!(settle(&broker, &delivery, Settle::Ack).await, Settled::Done);
    publish(&broker, "a", &["3"]).await;
    assert_eq!(id(&next(&mut consumer).await), "3");
    consumer.cancel_queue("a").await.unwrap();
    consumer.cancel_queue("unknown").await.unwrap();
    publish(&broker, "a", &["4"]).await;
    nothing(&mut consumer).await;
}

pub(super) async fn a_dropped_next_loses_no_message(broker: Port) {
    let publisher = broker.clone();
    let publishing = tokio::spawn(async move {
        for n in 0..100 {
            publish(&publisher, "q", &[&n.to_string()]).await;
            tokio::time::sleep(Duration::from_micros(700)).await;
        }
    });
    let mut consumer = consume(&broker, &["q"], 1_000, NEVER).await;
    let mut seen = BTreeMap::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while seen.len() < 100 && tokio::time::Instant::now() < deadline {
        let brief = tokio::time::timeout(Duration::from_micros(300), consumer.next()).await;
        if let Ok(delivery) = brief {
            *seen.entry(id(&delivery.unwrap().unwrap())).or_insert(0) += 1;
        }
    }
    publishing.await.unwrap();
    assert_eq!(seen.len(), 100);
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
}

pub(super) async fn a_stopped_consumer_gives_no_more(broker: Port) {
    publish(&broker, "q", &["1", "2"]).await;
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let delivery = next(&mut consumer).await;
    consumer.stop().await.unwrap();
    assert!(consumer.next().await.unwrap().is_none());
    assert!(consumer.next().await.unwrap().is_none());
    assert_eq!(settle(&broker, &delivery, Settle::Ack).await, Settled::Done);
    let mut other = consume(&broker, &["q"], 5, NEVER).await;
    assert_eq!(id(&next(&mut other).await), "2");
    nothing(&mut other).await;
}

pub(super) async fn no_more_is_out_than_the_prefetch(broker: Port) {
    publish(&broker, "q", &["1", "2", "3", "4"]).await;
    let mut consumer = consume(&broker, &["q"], 2, NEVER).await;
    let first = next(&mut consumer).await;
    next(&mut consumer).await;
    nothing(&mut consumer).await;
    settle(&broker, &first, Settle::Ack).await;
    assert_eq!(id(&next(&mut consumer).await), "3");
    nothing(&mut consumer).await;
    // What one has out is no matter of the others.
    let mut other = consume(&broker, &["q"], 1, NEVER).await;
    assert_eq!(id(&next(&mut other).await), "4");
}

pub(super) async fn the_prefetch_can_be_changed(broker: Port) {
    publish(&broker, "q", &["1", "2", "3", "4"]).await;
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let first = next(&mut consumer).await;
    nothing(&mut consumer).await;
    consumer.set_prefetch(3).await.unwrap();
    let second = next(&mut consumer).await;
    let third = next(&mut consumer).await;
    nothing(&mut consumer).await;
    consumer.set_prefetch(1).await.unwrap();
    for delivery in [&first, &second] {
        settle(&broker, delivery, Settle::Ack).await;
        nothing(&mut consumer).await;
    }
    settle(&broker, &third, Settle::Ack).await;
    assert_eq!(id(&next(&mut consumer).await), "4");
}

pub(super) async fn a_full_consumer_is_woken_when_it_has_room(broker: Port) {
    publish(&broker, "q", &["1", "2"]).await;
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let first = next(&mut consumer).await;
    let waiting = tokio::spawn(async move { id(&next(&mut consumer).await) });
    tokio::time::sleep(MOMENT).await;
    settle(&broker, &first, Settle::Ack).await;
    assert_eq!(waiting.await.unwrap(), "2");
}
