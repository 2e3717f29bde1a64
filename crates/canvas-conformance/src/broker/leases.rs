//! Leases: a message comes back if it is neither settled nor renewed.

use std::collections::BTreeSet;

use canvas_core::broker::{Settle, Settled};
use chrono::Utc;
use tokio::time::{Instant, timeout};

use super::{
    LEASE, MOMENT, NEVER, PATIENCE, Port, consume, id, next, nothing, nothing_for, publish, settle,
};

pub(super) async fn an_unsettled_delivery_comes_again_when_its_lease_ends(broker: Port) {
    let start = Instant::now();
    publish(&broker, "q", &["1"]).await;
    let mut first = consume(&broker, &["q"], 1, LEASE).await;
    let mut second = consume(&broker, &["q"], 1, NEVER).await;
    let delivery = next(&mut first).await;
    let again = next(&mut second).await;
    // A server's clock may be coarser than this one.
    assert!(start.elapsed() >= LEASE / 2, "it came too early");
    assert_eq!(again.message, delivery.message);
    assert!(again.redelivered);
    let counted = again.deliveries;
    assert!(counted == 2 || counted == 0, "2, or not counted: {counted}");
    assert_eq!(settle(&broker, &again, Settle::Ack).await, Settled::Done);
}

pub(super) async fn a_consumer_that_goes_leaves_its_deliveries_to_others(broker: Port) {
    publish(&broker, "q", &["1", "2"]).await;
    let mut first = consume(&broker, &["q"], 2, LEASE).await;
    next(&mut first).await;
    next(&mut first).await;
    drop(first);
    let mut second = consume(&broker, &["q"], 5, NEVER).await;
    let again = [next(&mut second).await, next(&mut second).await];
    let ids: BTreeSet<String> = again.iter().map(id).collect();
    assert_eq!(ids.len(), 2);
}

pub(super) async fn a_renewed_delivery_stays(broker: Port) {
    // Longer than others, since who renews must never be late.
    let lease = LEASE * 2;
    publish(&broker, "q", &["1"]).await;
    let mut first = consume(&broker, &["q"], 1, lease).await;
    let mut second = consume(&broker, &["q"], 1, NEVER).await;
    let delivery = next(&mut first).await;
    let start = Instant::now();
    while start.elapsed() < lease * 3 / 2 {
        let receipt = std::slice::from_ref(&delivery.receipt);
        broker.renew(receipt).await.unwrap();
        nothing(&mut second).await;
    }
    assert_eq!(settle(&broker, &delivery, Settle::Ack).await, Settled::Done);
    nothing_for(&mut second, lease * 3 / 2).await;
}

pub(super) async fn a_stale_receipt_changes_nothing(broker: Port) {
    publish(&broker, "q", &["1"]).await;
    let mut first = consume(&broker, &["q"], 1, LEASE).await;
    let stale = next(&mut first).await;
    let mut second = consume(&broker, &["q"], 1, NEVER).await;
    let current = next(&mut second).await;
    assert_ne!(stale.receipt, current.receipt);
    let mut hows = vec![
        Settle::Ack,
        Settle::Requeue,
        Settle::Reject("no".to_owned()),
    ];
    if broker.info().defers {
        hows.push(Settle::Defer(Utc::now()));
    }
    for how in hows {
        let settled = settle(&broker, &stale, how.clone()).await;
        assert_eq!(settled, Settled::Stale, "{how:?}");
    }
    assert!(broker.dead_letters("q").await.unwrap().is_empty());
    nothing(&mut first).await;
    drop(second);
    let settled = settle(&broker, &current, Settle::Requeue).await;
    assert_eq!(settled, Settled::Done);
    // Renewing a stale one does not renew the one that counts.
    let short = next(&mut first).await;
    let both = [stale.receipt.clone(), short.receipt.clone()];
    broker.renew(&both).await.unwrap();
    let mut third = consume(&broker, &["q"], 1, NEVER).await;
    let start = Instant::now();
    let again = loop {
        let receipt = std::slice::from_ref(&stale.receipt);
        broker.renew(receipt).await.unwrap();
        if let Ok(again) = timeout(MOMENT, third.next()).await {
            break again.unwrap().unwrap();
        }
        let late = start.elapsed() > PATIENCE;
        assert!(!late, "a stale receipt has renewed the lease");
    };
    assert!(again.redelivered);
    assert_eq!(settle(&broker, &short, Settle::Ack).await, Settled::Stale);
    assert_eq!(settle(&broker, &again, Settle::Ack).await, Settled::Done);
}
