//! States, groups, and what is kept.

use bytes::Bytes;
use canvas_core::backend::Stored;
use canvas_core::{Id, ResultTree, State};
use serde_json::{Value, json};

use super::{Port, failure, load, meta, success};

pub(super) async fn one_of_many_at_once_stores_the_success(backend: Port) {
    let storing = (0..40).map(|value| {
        let backend = backend.clone();
        tokio::spawn(async move {
            let stored = backend.store(&success("1", value)).await.unwrap();
            (value, stored)
        })
    });
    let mut written = Vec::new();
    for storing in storing.collect::<Vec<_>>() {
        let (value, stored) = storing.await.unwrap();
        if stored == Stored::Written {
            written.push(value);
        }
    }
    let [value] = written[..] else {
        panic!("{} were written", written.len())
    };
    assert_eq!(load(&backend, "1").await, Some(success("1", value)));
}

pub(super) async fn a_state_is_loaded_as_it_was_stored(backend: Port) {
    let mut full = success("1", 3);
    full.children = Some(vec![ResultTree::group(
        "g".into(),
        vec![ResultTree::task("2".into())],
    )]);
    full.date_done = Some("2026-11-24T06:21:18.239414Z".parse().unwrap());
    full.group_id = Some("group".into());
    full.parent_id = Some("parent".into());
    full.extended.insert("name".to_owned(), json!("tasks.add"));
    assert_eq!(backend.store(&full).await.unwrap(), Stored::Written);
    assert_eq!(load(&backend, "1").await, Some(full));
    let mut failed = failure("3");
    failed.traceback = Some("line 1\nline 2".to_owned());
    backend.store(&failed).await.unwrap();
    assert_eq!(load(&backend, "3").await, Some(failed));
}

pub(super) async fn states_are_loaded_in_the_order_asked_for(backend: Port) {
    for n in 1..=3 {
        backend.store(&success(&n.to_string(), n)).await.unwrap();
    }
    let ids = ["3", "unknown", "1", "2", "3"].map(Id::from);
    let found = backend.load(&ids).await.unwrap();
    let values: Vec<Option<i64>> = found
        .iter()
        .map(|meta| meta.as_ref()?.result.as_i64())
        .collect();
    assert_eq!(values, [Some(3), None, Some(1), Some(2), Some(3)]);
    assert!(backend.load(&[]).await.unwrap().is_empty());
}

pub(super) async fn the_first_success_stands(backend: Port) {
    assert_eq!(
        backend.store(&success("1", 1)).await.unwrap(),
        Stored::Written
    );
    let later = [
        success("1", 2),
        failure("1"),
        meta("1", State::Retry, Value::Null),
        meta("1", State::Started, Value::Null),
        meta("1", State::Revoked, Value::Null),
        meta("1", State::Custom("PROGRESS".to_owned()), Value::Null),
    ];
    for later in later {
        let stored = backend.store(&later).await.unwrap();
        assert_eq!(stored, Stored::Kept, "{}", later.status);
        assert_eq!(load(&backend, "1").await, Some(success("1", 1)));
    }
}

pub(super) async fn a_state_that_is_no_end_is_overwritten(backend: Port) {
    let states = [
        State::Received,
        State::Started,
        State::Custom("PROGRESS".to_owned()),
        State::Retry,
        State::Started,
        State::Failure,
    ];
    for state in states {
        let stored = backend.store(&meta("1", state.clone(), Value::Null)).await;
        assert_eq!(stored.unwrap(), Stored::Written, "{state}");
        assert_eq!(load(&backend, "1").await.unwrap().status, state);
    }
}

pub(super) async fn an_end_is_overwritten_by_another_end_only(backend: Port) {
    for end in [State::Failure, State::Revoked] {
        let id = end.as_str();
        backend
            .store(&meta(id, end.clone(), Value::Null))
            .await
            .unwrap();
        for state in [State::Started, State::Retry, State::Custom("X".to_owned())] {
            let stored = backend.store(&meta(id, state, Value::Null)).await.unwrap();
            assert_eq!(stored, Stored::Kept);
        }
        assert_eq!(load(&backend, id).await.unwrap().status, end);
        assert_eq!(backend.store(&failure(id)).await.unwrap(), Stored::Written);
        assert_eq!(
            backend.store(&success(id, 1)).await.unwrap(),
            Stored::Written
        );
        assert_eq!(load(&backend, id).await, Some(success(id, 1)));
    }
}

pub(super) async fn a_forgotten_state_is_unknown(backend: Port) {
    backend.store(&success("1", 1)).await.unwrap();
    backend.store(&success("2", 2)).await.unwrap();
    backend
        .forget(&["1".into(), "unknown".into()])
        .await
        .unwrap();
    assert_eq!(load(&backend, "1").await, None);
    assert_eq!(load(&backend, "2").await, Some(success("2", 2)));
    assert_eq!(
        backend.store(&success("1", 3)).await.unwrap(),
        Stored::Written
    );
}

pub(super) async fn a_group_keeps_its_shape(backend: Port) {
    let mut member = ResultTree::task("b".into());
    member.set_root_parent(ResultTree::task("a".into()));
    let inner = ResultTree::group("inner".into(), Vec::new());
    let group = ResultTree::group("g".into(), vec![member, inner]);
    assert_eq!(backend.load_group(&"g".into()).await.unwrap(), None);
    backend.save_group(&group).await.unwrap();
    assert_eq!(
        backend.load_group(&"g".into()).await.unwrap(),
        Some(group.clone())
    );
    let smaller = ResultTree::group("g".into(), Vec::new());
    backend.save_group(&smaller).await.unwrap();
    assert_eq!(
        backend.load_group(&"g".into()).await.unwrap(),
        Some(smaller)
    );
    backend.forget_group(&"g".into()).await.unwrap();
    backend.forget_group(&"g".into()).await.unwrap();
    assert_eq!(backend.load_group(&"g".into()).await.unwrap(), None);
}

pub(super) async fn what_is_kept_is_recalled(backend: Port) {
    let value = Bytes::from("[{\"task\": \"ü\"}]".repeat(1_000));
    assert_eq!(backend.recall(&"k".into()).await.unwrap(), None);
    backend.keep(&"k".into(), value.clone()).await.unwrap();
    backend.keep(&"k".into(), value.clone()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(
            backend.recall(&"k".into()).await.unwrap(),
            Some(value.clone())
        );
    }
}
