//! What goes when its time is over, and what starts the time anew.

use std::time::Duration;

use bytes::Bytes;
use canvas_core::backend::{Arrival, Stored};
use canvas_core::{ResultTree, State};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{PATIENCE, Port, arrive, complete, failure, load, meta, open, part, success, waiting};

/// More than half of an expiry: two of these are longer than one.
fn most_of(expiry: Duration) -> Duration {
    expiry * 11 / 20
}

/// Waits until something has gone. Looking must not keep it.
async fn gone(what: &str, there: impl AsyncFn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while there().await {
        assert!(Instant::now() < end, "it never went: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

pub(super) async fn things_expire(backend: Port, expiry: Duration) {
    backend.store(&success("1", 1)).await.unwrap();
    let group = ResultTree::group("g".into(), Vec::new());
    backend.save_group(&group).await.unwrap();
    let kept = Bytes::from_static(b"[]");
    backend.keep(&"k".into(), kept.clone()).await.unwrap();
    sleep(expiry / 4).await;
    assert_eq!(load(&backend, "1").await, Some(success("1", 1)));
    assert_eq!(backend.load_group(&"g".into()).await.unwrap(), Some(group));
    assert_eq!(backend.recall(&"k".into()).await.unwrap(), Some(kept));
    gone("the state", async || load(&backend, "1").await.is_some()).await;
    gone("the group", async || {
        backend.load_group(&"g".into()).await.unwrap().is_some()
    })
    .await;
    gone("what is kept", async || {
        backend.recall(&"k".into()).await.unwrap().is_some()
    })
    .await;
    // Even a SUCCESS is forgotten then, so this is not overwriting one.
    assert_eq!(backend.store(&failure("1")).await.unwrap(), Stored::Written);
    assert_eq!(load(&backend, "1").await, Some(failure("1")));
}

pub(super) async fn a_join_that_nobody_arrives_at_expires(backend: Port, expiry: Duration) {
    open(&backend, "j", 2).await;
    // Asking for it would start its time anew.
    sleep(expiry * 3 / 2).await;
    assert_eq!(arrive(&backend, "j", &part(0, 0)).await, Arrival::Missing);
    open(&backend, "j", 1).await;
    complete(arrive(&backend, "j", &part(0, 0)).await);
}

pub(super) async fn a_state_that_is_stored_again_lives_on(backend: Port, expiry: Duration) {
    for state in [State::Started, State::Retry, State::Started, State::Failure] {
        let meta = meta("1", state.clone(), Value::Null);
        backend.store(&meta).await.unwrap();
        sleep(most_of(expiry)).await;
        let found = load(&backend, "1").await.map(|meta| meta.status);
        assert_eq!(found, Some(state));
    }
    gone("the state", async || load(&backend, "1").await.is_some()).await;
}

pub(super) async fn a_join_lives_on_while_members_arrive(backend: Port, expiry: Duration) {
    open(&backend, "j", 4).await;
    for n in 0..3 {
        sleep(most_of(expiry)).await;
        assert_eq!(arrive(&backend, "j", &part(n, 0)).await, waiting(n + 1, 4));
    }
    sleep(most_of(expiry)).await;
    let last = arrive(&backend, "j", &part(3, 0)).await;
    assert_eq!(complete(last).1.len(), 4);
}
