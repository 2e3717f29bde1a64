//! What a cache loses: all of it when it is restarted, any of it when it is full.

use std::time::{Duration, Instant};

use canvas_backend_memcache::MemcacheBackend;
use canvas_core::Error;
use canvas_core::backend::{Arrival, Backend};
use futures_util::StreamExt;
use serde_json::json;

use crate::support::{Memcached, arrive, open, part, soon, success};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_while_the_server_is_away_is_done_once_it_is_back() {
    let mut memcached = Memcached::start().await;
    let backend = memcached.backend();
    let mut watch = backend.watch(&["1".into()]).await.unwrap();
    backend.store(&success("0", 0)).await.unwrap();
    memcached.kill();
    let storing = backend.clone();
    let storing = tokio::spawn(async move { storing.store(&success("1", 1)).await });
    memcached.run().await;
    soon(storing).await.unwrap().unwrap();
    assert_eq!(soon(watch.next()).await.unwrap().unwrap().result, json!(1));
    // It is a cache.
    assert_eq!(backend.load(&["0".into()]).await.unwrap(), [None]);
    assert!(!backend.info().persistent);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_after_a_while() {
    let mut memcached = Memcached::start().await;
    let backend = memcached.backend_with(|config| config.retry_for = Duration::from_millis(600));
    memcached.kill();
    let started = Instant::now();
    let error = backend.load(&["1".into()]).await.unwrap_err();
    assert!(error.is_retryable());
    assert!(error.to_string().contains("is it running"), "{error}");
    assert!((300..5_000).contains(&started.elapsed().as_millis()));
    let mut watch = backend.watch(&["1".into()]).await.unwrap();
    let told = soon(watch.next()).await.unwrap();
    assert!(matches!(told, Err(Error::Connection { .. })), "{told:?}");
    assert!(soon(watch.next()).await.is_none());
}

#[tokio::test]
async fn a_join_that_a_restart_has_lost_is_missing() {
    let mut memcached = Memcached::start().await;
    let backend = memcached.backend();
    open(&*backend, "g", 2).await;
    arrive(&*backend, "g", &part(0)).await;
    memcached.kill();
    memcached.run().await;
    for member in [part(0), part(1)] {
        assert_eq!(arrive(&*backend, "g", &member).await, Arrival::Missing);
    }
    // Its claim is void, and growing it is no error.
    assert!(!backend.close_join(&"g".into(), 1).await.unwrap());
    backend
        .grow_join(&"g".into(), &"m".into(), 1)
        .await
        .unwrap();
}

/// Whichever item of a join is dropped, the body neither runs with a member missing
/// or twice, nor waits for ever.
#[tokio::test]
async fn a_join_of_which_any_item_is_dropped_completes_or_is_missing() {
    let memcached = Memcached::start().await;
    let backend = memcached.backend();
    let mut missing = 0;
    for (n, dropped) in ["head", "counter", "place 1", "place 3", "note 1", "note 3"]
        .iter()
        .enumerate()
    {
        let join = format!("g{n}");
        open(&*backend, &join, 4).await;
        for index in 0..3 {
            arrive(&*backend, &join, &part(index)).await;
        }
        let head = memcached.item(&format!("canvas-join-{join}")).unwrap().1;
        let head: serde_json::Value = serde_json::from_str(&head).unwrap();
        let epoch = head["epoch"].as_str().unwrap();
        let key = match dropped.split_once(' ') {
            None if *dropped == "head" => format!("canvas-join-{join}"),
            None => format!("chord-unlock-{join}"),
            Some(("place", place)) => format!("canvas-join-{join}|{epoch}|{place}"),
            Some((_, note)) => {
                let index = note.parse::<u64>().unwrap() - 1;
                format!("canvas-join-{join}|{epoch}|m{index}|member-{index}")
            }
        };
        assert_eq!(
            memcached.ask(&format!("delete {key}")),
            ["DELETED"],
            "{key}"
        );
        // All are delivered once more before the last one comes.
        let mut found = Vec::new();
        for index in [2, 1, 0, 3, 3, 2, 1, 0] {
            found.push(arrive(&*backend, &join, &part(index)).await);
        }
        let end = found.iter().find_map(|arrival| match arrival {
            Arrival::Complete { parts, .. } => Some(Some(parts.clone())),
            Arrival::Missing => Some(None),
            _ => None,
        });
        let all = vec![part(0), part(1), part(2), part(3)];
        match end.unwrap_or_else(|| panic!("{dropped}: it waits for ever: {found:?}")) {
            Some(parts) => assert_eq!(parts, all, "{dropped}"),
            None => missing += 1,
        }
    }
    assert!(missing >= 3, "{missing}");
}

#[tokio::test]
async fn a_member_that_crashed_before_it_was_counted_arrives_once() {
    let memcached = Memcached::start().await;
    let backend = memcached.backend();
    open(&*backend, "g", 3).await;
    arrive(&*backend, "g", &part(0)).await;
    arrive(&*backend, "g", &part(1)).await;
    // As if neither had been counted.
    assert_eq!(memcached.ask("decr chord-unlock-g 2"), ["0"]);
    for index in [0, 1, 0] {
        let again = arrive(&*backend, "g", &part(index)).await;
        assert_eq!(
            again,
            Arrival::Waiting {
                arrived: 2,
                size: 3
            }
        );
    }
    let last = arrive(&*backend, "g", &part(2)).await;
    let Arrival::Complete { parts, .. } = last else {
        panic!("{last:?}")
    };
    assert_eq!(parts, [part(0), part(1), part(2)]);
}

/// Each has its own idea of how far the join is, and no process knows of another.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_processes_arrive_at_one_join() {
    let memcached = Memcached::start().await;
    let backends: Vec<_> = (0..8).map(|_| memcached.backend()).collect();
    const SIZE: u64 = 300;
    open(&*backends[0], "g", SIZE).await;
    let arriving = (0..SIZE * 3).map(|n| {
        let backend: std::sync::Arc<MemcacheBackend> =
            backends[usize::try_from(n).unwrap() % backends.len()].clone();
        tokio::spawn(async move { arrive(&*backend, "g", &part(n * 7 % SIZE)).await })
    });
    let mut completed = Vec::new();
    for arrival in arriving.collect::<Vec<_>>() {
        match soon(arrival).await.unwrap() {
            Arrival::Complete { parts, .. } => completed.push(parts),
            Arrival::Missing | Arrival::Closed => panic!("nothing was lost"),
            _ => {}
        }
    }
    let all: Vec<_> = (0..SIZE).map(part).collect();
    assert_eq!(completed, [all]);
}
