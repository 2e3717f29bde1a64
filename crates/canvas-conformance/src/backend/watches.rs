//! Watching for tasks that end.
//!
//! Also of backends that send results to one process and keep none: so it is
//! said here what is expected, as a client does.

use std::collections::BTreeSet;

use canvas_core::{Id, State, TaskMeta};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use serde_json::Value;
use tokio::time::timeout;

use super::{MOMENT, PATIENCE, Port, expect, failure, load, meta, store, success};

type Watch = BoxStream<'static, canvas_core::Result<TaskMeta>>;

/// The next one, which must come.
async fn next(watch: &mut Watch) -> TaskMeta {
    let ended = timeout(PATIENCE, watch.next()).await.expect("none ended");
    ended.expect("the watch is over").unwrap()
}

/// The ids of all that are yet to come, in order, after which it ends.
async fn rest(watch: Watch) -> Vec<Id> {
    let all = watch.map(|meta| meta.unwrap().task_id).collect::<Vec<_>>();
    let mut all = timeout(PATIENCE, all).await.expect("not all ended");
    all.sort();
    all
}

fn ids<const N: usize>(ids: [&str; N]) -> [Id; N] {
    ids.map(Id::from)
}

pub(super) async fn a_result_comes_to_who_expects_it(backend: Port) {
    expect(&backend, &ids(["1"])).await;
    store(&backend, &success("1", 1)).await;
    let mut watch = backend.watch(&ids(["1"])).await.unwrap();
    assert_eq!(next(&mut watch).await, success("1", 1));
    assert!(watch.next().await.is_none());
    for _ in 0..2 {
        assert_eq!(load(&backend, "1").await, Some(success("1", 1)));
    }
}

pub(super) async fn a_watch_yields_what_ended_before(backend: Port) {
    let all = ids(["1", "2", "3"]);
    expect(&backend, &all).await;
    store(&backend, &success("1", 1)).await;
    store(&backend, &failure("2")).await;
    store(&backend, &meta("3", State::Revoked, Value::Null)).await;
    assert_eq!(rest(backend.watch(&all).await.unwrap()).await, all);
    assert!(rest(backend.watch(&[]).await.unwrap()).await.is_empty());
}

pub(super) async fn a_watch_yields_what_ends_later(backend: Port) {
    let all = ids(["1", "2", "3"]);
    expect(&backend, &all).await;
    store(&backend, &meta("1", State::Started, Value::Null)).await;
    let mut watch = backend.watch(&all).await.unwrap();
    store(&backend, &meta("2", State::Retry, Value::Null)).await;
    assert!(timeout(MOMENT, watch.next()).await.is_err(), "too early");
    store(&backend, &success("3", 3)).await;
    assert_eq!(next(&mut watch).await, success("3", 3));
    // Also while somebody waits.
    let later = async {
        tokio::time::sleep(MOMENT).await;
        store(&backend, &success("1", 1)).await;
        store(&backend, &failure("2")).await;
    };
    let (rest, ()) = tokio::join!(rest(watch), later);
    assert_eq!(rest, ids(["1", "2"]));
}

pub(super) async fn a_watch_yields_each_once(backend: Port) {
    expect(&backend, &ids(["1", "2"])).await;
    store(&backend, &success("1", 1)).await;
    let watch = backend
        .watch(&ids(["1", "2", "1", "2", "1"]))
        .await
        .unwrap();
    store(&backend, &failure("2")).await;
    store(&backend, &success("2", 2)).await;
    assert_eq!(rest(watch).await, ids(["1", "2"]));
}

pub(super) async fn a_watch_that_is_dropped_disturbs_no_other(backend: Port) {
    let all = ids(["1", "2"]);
    expect(&backend, &all).await;
    let first = backend.watch(&all).await.unwrap();
    let second = backend.watch(&all).await.unwrap();
    let mut third = backend.watch(&all).await.unwrap();
    drop(first);
    store(&backend, &success("1", 1)).await;
    assert_eq!(next(&mut third).await, success("1", 1));
    drop(third);
    store(&backend, &success("2", 2)).await;
    assert_eq!(rest(second).await, all);
}

pub(super) async fn a_watch_of_many_yields_them_all(backend: Port) {
    let all: Vec<Id> = (0..1_000).map(|n| Id::from(n.to_string())).collect();
    expect(&backend, &all).await;
    let watch = backend.watch(&all).await.unwrap();
    let storing = backend.clone();
    let stored = all.clone();
    let storing = tokio::spawn(async move {
        for id in stored.iter().rev() {
            store(&storing, &success(id.as_str(), 1)).await;
        }
    });
    let found: BTreeSet<Id> = rest(watch).await.into_iter().collect();
    assert_eq!(found, all.into_iter().collect());
    storing.await.unwrap();
}
