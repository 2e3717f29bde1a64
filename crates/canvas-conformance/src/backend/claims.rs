//! The one live claim on a join that is complete, and its closing.

use canvas_core::backend::Arrival;

use super::{
    CLAIM, LONG, Port, arrive, arrive_briefly, close, complete, failed, lapse, open, open_quorum,
    part,
};

pub(super) async fn there_is_one_claim_at_a_time(backend: Port) {
    open(&backend, "j", 2).await;
    arrive(&backend, "j", &part(0, 0)).await;
    let (claim, _) = complete(arrive(&backend, "j", &part(1, 0)).await);
    for member in [part(0, 0), part(1, 0), part(2, 0), failed(3)] {
        match arrive(&backend, "j", &member).await {
            Arrival::Claimed { retry_after } => assert!(retry_after <= LONG),
            other => panic!("not claimed: {other:?}"),
        }
    }
    assert!(close(&backend, "j", claim).await);
}

pub(super) async fn a_claim_that_lapses_passes_on(backend: Port) {
    open(&backend, "j", 2).await;
    arrive(&backend, "j", &part(0, 1)).await;
    let (lapsed, parts) = complete(arrive_briefly(&backend, "j", &part(1, 2)).await);
    lapse().await;
    let (claim, again) = complete(arrive(&backend, "j", &part(0, 9)).await);
    assert_eq!(again, parts);
    assert_ne!(claim, lapsed);
    assert!(!close(&backend, "j", lapsed).await);
    let other = arrive(&backend, "j", &part(1, 2)).await;
    assert!(matches!(other, Arrival::Claimed { .. }), "{other:?}");
    assert!(close(&backend, "j", claim).await);
    assert_eq!(arrive(&backend, "j", &part(0, 1)).await, Arrival::Closed);
}

pub(super) async fn a_claim_counts_until_it_passes_on(backend: Port) {
    open(&backend, "j", 1).await;
    let (claim, _) = complete(arrive_briefly(&backend, "j", &part(0, 1)).await);
    tokio::time::sleep(CLAIM * 2).await;
    assert!(close(&backend, "j", claim).await);
    assert_eq!(arrive(&backend, "j", &part(0, 1)).await, Arrival::Closed);
}

/// The body is sent again, not another one.
pub(super) async fn a_claim_passes_on_with_the_same_members(backend: Port) {
    open_quorum(&backend, "j", 3, 1).await;
    let (_, parts) = complete(arrive_briefly(&backend, "j", &part(2, 2)).await);
    arrive_briefly(&backend, "j", &part(0, 0)).await;
    lapse().await;
    let (_, again) = complete(arrive(&backend, "j", &part(1, 1)).await);
    assert_eq!(again, parts);
}

pub(super) async fn one_of_many_at_once_takes_a_claim_over(backend: Port) {
    open(&backend, "j", 1).await;
    complete(arrive_briefly(&backend, "j", &part(0, 0)).await);
    lapse().await;
    let arriving = (0..50).map(|_| {
        let backend = backend.clone();
        tokio::spawn(async move { arrive(&backend, "j", &part(0, 0)).await })
    });
    let mut taken = 0;
    for arrival in arriving.collect::<Vec<_>>() {
        taken += usize::from(matches!(arrival.await.unwrap(), Arrival::Complete { .. }));
    }
    assert_eq!(taken, 1);
}

pub(super) async fn a_closed_join_stays_closed(backend: Port) {
    open(&backend, "j", 1).await;
    let (claim, _) = complete(arrive(&backend, "j", &part(0, 1)).await);
    assert!(!close(&backend, "j", claim + 1).await);
    assert!(close(&backend, "j", claim).await);
    assert!(!close(&backend, "j", claim).await);
    let grown = backend.grow_join(&"j".into(), &"late".into(), 1).await;
    grown.unwrap();
    for member in [part(0, 1), part(1, 1)] {
        assert_eq!(arrive(&backend, "j", &member).await, Arrival::Closed);
    }
}
