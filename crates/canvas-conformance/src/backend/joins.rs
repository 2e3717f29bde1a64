//! The join: who counts, and when it is complete.

use canvas_core::Error;
use canvas_core::backend::{Arrival, JoinSpec};

use super::{Port, arrive, close, complete, failed, open, open_quorum, part, waiting};

pub(super) async fn joins_are_there_or_refused(backend: Port) {
    let spec = JoinSpec {
        id: "j".into(),
        size: 1,
        quorum: 1,
    };
    let opened = backend.open_join(&spec).await;
    if backend.info().join {
        opened.unwrap();
        complete(arrive(&backend, "j", &part(0, 0)).await);
    } else {
        let refused = matches!(opened, Err(Error::Unsupported { .. }));
        assert!(refused, "BackendInfo::join says no: {opened:?}");
    }
}

pub(super) async fn a_forgotten_join_is_missing(backend: Port) {
    for id in ["open", "complete", "closed", "other"] {
        open(&backend, id, 1).await;
    }
    complete(arrive(&backend, "complete", &part(0, 0)).await);
    let (claim, _) = complete(arrive(&backend, "closed", &part(0, 0)).await);
    assert!(close(&backend, "closed", claim).await);
    let forgotten = ["open", "complete", "closed"].map(Into::into);
    backend.forget(&forgotten).await.unwrap();
    for id in &forgotten {
        let found = arrive(&backend, id.as_str(), &part(0, 0)).await;
        assert_eq!(found, Arrival::Missing, "{id}");
    }
    complete(arrive(&backend, "other", &part(0, 0)).await);
}

pub(super) async fn the_last_member_sees_all_in_header_order(backend: Port) {
    open(&backend, "j", 3).await;
    assert_eq!(arrive(&backend, "j", &part(2, 20)).await, waiting(1, 3));
    assert_eq!(arrive(&backend, "j", &part(0, 0)).await, waiting(2, 3));
    let (claim, parts) = complete(arrive(&backend, "j", &part(1, 10)).await);
    assert_eq!(parts, [part(0, 0), part(1, 10), part(2, 20)]);
    assert!(close(&backend, "j", claim).await);
}

pub(super) async fn places_are_numbers(backend: Port) {
    open(&backend, "j", 12).await;
    for index in (1..12).rev() {
        arrive(&backend, "j", &part(index, 0)).await;
    }
    let (_, parts) = complete(arrive(&backend, "j", &part(0, 0)).await);
    let places: Vec<Option<u64>> = parts.iter().map(|part| part.index).collect();
    assert_eq!(places, (0..12).map(Some).collect::<Vec<_>>());
}

pub(super) async fn a_member_counts_once_with_its_first_outcome(backend: Port) {
    open(&backend, "j", 2).await;
    assert_eq!(arrive(&backend, "j", &part(0, 1)).await, waiting(1, 2));
    assert_eq!(arrive(&backend, "j", &part(0, 1)).await, waiting(1, 2));
    assert_eq!(arrive(&backend, "j", &part(0, 2)).await, waiting(1, 2));
    assert_eq!(arrive(&backend, "j", &failed(0)).await, waiting(1, 2));
    let (_, parts) = complete(arrive(&backend, "j", &part(1, 5)).await);
    assert_eq!(parts, [part(0, 1), part(1, 5)]);
}

pub(super) async fn a_failed_member_counts_as_arrived(backend: Port) {
    open(&backend, "j", 2).await;
    assert_eq!(arrive(&backend, "j", &failed(1)).await, waiting(1, 2));
    let (_, parts) = complete(arrive(&backend, "j", &part(0, 1)).await);
    assert_eq!(parts, [part(0, 1), failed(1)]);
}

pub(super) async fn opening_twice_changes_nothing(backend: Port) {
    open(&backend, "j", 2).await;
    arrive(&backend, "j", &part(0, 0)).await;
    open(&backend, "j", 7).await;
    let (claim, _) = complete(arrive(&backend, "j", &part(1, 0)).await);
    open(&backend, "j", 2).await;
    let again = arrive(&backend, "j", &part(0, 0)).await;
    assert!(matches!(again, Arrival::Claimed { .. }), "{again:?}");
    assert!(close(&backend, "j", claim).await);
    open(&backend, "j", 2).await;
    assert_eq!(arrive(&backend, "j", &part(0, 0)).await, Arrival::Closed);
}

pub(super) async fn joins_are_apart(backend: Port) {
    open(&backend, "j1", 2).await;
    open(&backend, "j2", 2).await;
    assert_eq!(arrive(&backend, "j1", &part(0, 0)).await, waiting(1, 2));
    assert_eq!(arrive(&backend, "j2", &part(1, 0)).await, waiting(1, 2));
    complete(arrive(&backend, "j1", &part(1, 0)).await);
    complete(arrive(&backend, "j2", &part(0, 0)).await);
}

pub(super) async fn an_unknown_join_is_missing(backend: Port) {
    assert_eq!(arrive(&backend, "j", &part(0, 0)).await, Arrival::Missing);
    assert!(!close(&backend, "j", 1).await);
}

pub(super) async fn a_join_grows_once_for_each_member(backend: Port) {
    open(&backend, "j", 2).await;
    arrive(&backend, "j", &part(0, 0)).await;
    let grow = |member: &'static str, by| {
        let backend = backend.clone();
        async move {
            backend
                .grow_join(&"j".into(), &member.into(), by)
                .await
                .unwrap()
        }
    };
    grow("a", 2).await;
    grow("a", 2).await;
    grow("b", 1).await;
    for index in 1..4 {
        assert_eq!(
            arrive(&backend, "j", &part(index, 0)).await,
            waiting(index + 1, 5)
        );
    }
    assert_eq!(
        complete(arrive(&backend, "j", &part(4, 0)).await).1.len(),
        5
    );
}

pub(super) async fn growing_an_unknown_join_does_nothing(backend: Port) {
    backend
        .grow_join(&"j".into(), &"a".into(), 2)
        .await
        .unwrap();
    assert_eq!(arrive(&backend, "j", &part(0, 0)).await, Arrival::Missing);
}

pub(super) async fn a_quorum_of_successes_completes_a_join(backend: Port) {
    open_quorum(&backend, "j", 5, 2).await;
    assert_eq!(arrive(&backend, "j", &failed(4)).await, waiting(1, 5));
    assert_eq!(arrive(&backend, "j", &part(3, 3)).await, waiting(2, 5));
    assert_eq!(arrive(&backend, "j", &failed(1)).await, waiting(3, 5));
    let (claim, parts) = complete(arrive(&backend, "j", &part(0, 0)).await);
    assert_eq!(parts, [part(0, 0), failed(1), part(3, 3), failed(4)]);
    assert!(close(&backend, "j", claim).await);
    assert_eq!(arrive(&backend, "j", &part(2, 2)).await, Arrival::Closed);
}

pub(super) async fn a_quorum_out_of_reach_waits_for_all(backend: Port) {
    open_quorum(&backend, "j", 3, 2).await;
    arrive(&backend, "j", &failed(0)).await;
    assert_eq!(arrive(&backend, "j", &failed(1)).await, waiting(2, 3));
    let (_, parts) = complete(arrive(&backend, "j", &part(2, 2)).await);
    assert_eq!(parts.len(), 3);
}

pub(super) async fn one_of_many_at_once_completes_a_join(backend: Port) {
    let size = 200;
    open(&backend, "j", size).await;
    // Each arrives three times.
    let arriving = (0..size * 3).map(|n| {
        let backend = backend.clone();
        tokio::spawn(async move { arrive(&backend, "j", &part(n % size, 0)).await })
    });
    let mut completed = Vec::new();
    for arrival in arriving.collect::<Vec<_>>() {
        if let Arrival::Complete { parts, .. } = arrival.await.unwrap() {
            completed.push(parts.len());
        }
    }
    assert_eq!(completed, [200]);
}
