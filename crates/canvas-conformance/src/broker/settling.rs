//! How deliveries end.

use std::time::Duration;

use canvas_core::broker::{Settle, Settled};
use chrono::Utc;

use super::{
    LEASE, MOMENT, NEVER, Port, consume, has_length, id, message, next, nothing, nothing_for,
    publish, settle,
};

pub(super) async fn an_acknowledged_message_is_gone(broker: Port) {
    publish(&broker, "q", &["1"]).await;
    let mut consumer = consume(&broker, &["q"], 5, LEASE).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(settle(&broker, &delivery, Settle::Ack).await, Settled::Done);
    nothing_for(&mut consumer, LEASE * 2).await;
    has_length(&broker, "q", 0).await;
}

pub(super) async fn a_requeued_message_comes_again(broker: Port) {
    publish(&broker, "q", &["1"]).await;
    let mut first = consume(&broker, &["q"], 1, NEVER).await;
    let delivery = next(&mut first).await;
    drop(first);
    assert_eq!(
        settle(&broker, &delivery, Settle::Requeue).await,
        Settled::Done
    );
    has_length(&broker, "q", 1).await;
    let mut second = consume(&broker, &["q"], 1, NEVER).await;
    let again = next(&mut second).await;
    assert_eq!(again.message, delivery.message);
    assert!(again.redelivered);
    assert_ne!(again.receipt, delivery.receipt);
}

pub(super) async fn a_rejected_message_is_kept_as_a_dead_letter(broker: Port) {
    publish(&broker, "q", &["1", "2"]).await;
    assert!(broker.dead_letters("q").await.unwrap().is_empty());
    let mut consumer = consume(&broker, &["q"], 5, LEASE).await;
    for reason in ["no", "never"] {
        let delivery = next(&mut consumer).await;
        let how = Settle::Reject(reason.to_owned());
        assert_eq!(settle(&broker, &delivery, how).await, Settled::Done);
    }
    nothing_for(&mut consumer, LEASE * 2).await;
    let dead = broker.dead_letters("q").await.unwrap();
    let reasons: Vec<&str> = dead.iter().map(|letter| letter.reason.as_str()).collect();
    assert_eq!(reasons, ["no", "never"]);
    assert_eq!(dead[1].message, message("2"));
    has_length(&broker, "q", 0).await;
}

pub(super) async fn a_deferred_message_comes_at_its_time(broker: Port) {
    publish(&broker, "q", &["1"]).await;
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let delivery = next(&mut consumer).await;
    let at = Utc::now() + chrono::Duration::milliseconds(1_500);
    assert_eq!(
        settle(&broker, &delivery, Settle::Defer(at)).await,
        Settled::Done
    );
    // The prefetch is free for others meanwhile.
    publish(&broker, "q", &["2"]).await;
    let other = next(&mut consumer).await;
    assert_eq!(id(&other), "2");
    settle(&broker, &other, Settle::Ack).await;
    let again = loop {
        // The wall clock decides, which does not heed a test's clock.
        std::thread::sleep(Duration::from_millis(20));
        if let Ok(found) = tokio::time::timeout(MOMENT, consumer.next()).await {
            break found.unwrap().unwrap();
        }
        assert!(
            Utc::now() < at + chrono::Duration::seconds(10),
            "it never came"
        );
    };
    assert_eq!(id(&again), "1");
    assert!(Utc::now() >= at);
}

pub(super) async fn settling_twice_is_stale(broker: Port) {
    publish(&broker, "q", &["1", "2"]).await;
    let mut consumer = consume(&broker, &["q"], 5, NEVER).await;
    let acked = next(&mut consumer).await;
    let requeued = next(&mut consumer).await;
    assert_eq!(settle(&broker, &acked, Settle::Ack).await, Settled::Done);
    assert_eq!(
        settle(&broker, &acked, Settle::Requeue).await,
        Settled::Stale
    );
    assert_eq!(
        settle(&broker, &requeued, Settle::Requeue).await,
        Settled::Done
    );
    assert_eq!(
        settle(&broker, &requeued, Settle::Ack).await,
        Settled::Stale
    );
    assert_eq!(id(&next(&mut consumer).await), "2");
    nothing(&mut consumer).await;
}
