//! Many at once, each on a connection of its own.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use canvas_backend_redis::RedisBackend;
use canvas_core::State;
use canvas_core::backend::{Arrival, Backend, JoinSpec, Part, Stored};
use futures_util::future::join_all;
use serde_json::json;
use support::{Redis, failure, success};

/// How many processes there seem to be.
const PROCESSES: usize = 8;

fn processes(redis: &Redis) -> Vec<Arc<RedisBackend>> {
    (0..PROCESSES).map(|_| redis.backend()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_successes_one_stands() {
    let redis = Redis::start().await;
    let processes = processes(&redis);
    for round in 0..50 {
        let id = format!("task-{round}");
        let storing = (0..64).map(|n| {
            let backend = processes[n % PROCESSES].clone();
            let id = id.clone();
            tokio::spawn(async move {
                // A fourth of them fails.
                let meta = match n % 4 {
                    0 => failure(&id),
                    _ => success(&id, n as u64),
                };
                (backend.store(&meta).await.unwrap(), meta)
            })
        });
        let stored = join_all(storing.collect::<Vec<_>>()).await;
        let stored = stored.into_iter().map(Result::unwrap);
        let is_written = |(stored, meta): &(Stored, canvas_core::TaskMeta)| {
            *stored == Stored::Written && meta.status == State::Success
        };
        let written: Vec<_> = stored.filter(is_written).map(|(_, meta)| meta).collect();
        assert_eq!(written.len(), 1);
        let stands = processes[0].load(&[id.as_str().into()]).await.unwrap();
        assert_eq!(stands, [Some(written[0].clone())]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_arrivals_one_completes_and_sees_all() {
    let redis = Redis::start().await;
    let processes = processes(&redis);
    for round in 0..30 {
        let join = format!("join-{round}");
        let spec = JoinSpec {
            id: join.as_str().into(),
            size: 64,
            quorum: 64,
        };
        // All of them open it, too.
        join_all(processes.iter().map(|backend| backend.open_join(&spec))).await;
        // Each arrives twice, with another result each time.
        let arriving = (0..128).map(|n| {
            let backend = processes[n % (PROCESSES - 1)].clone();
            let join = spec.id.clone();
            let index = n as u64 % 64;
            let part = Part {
                task_id: format!("member-{index}").into(),
                index: Some(index),
                state: State::Success,
                result: json!(n),
            };
            let lease = Duration::from_secs(60);
            tokio::spawn(async move { backend.arrive(&join, &part, lease).await.unwrap() })
        });
        let mut completed = Vec::new();
        for arrival in join_all(arriving.collect::<Vec<_>>()).await {
            if let Arrival::Complete { claim, parts } = arrival.unwrap() {
                assert_eq!(claim, 1);
                completed.push(parts);
            }
        }
        assert_eq!(completed.len(), 1);
        let places: Vec<_> = completed[0]
            .iter()
            .map(|part| part.index.unwrap())
            .collect();
        assert_eq!(places, (0..64).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_claims_one_closes() {
    let redis = Redis::start().await;
    let processes = processes(&redis);
    let spec = JoinSpec {
        id: "g".into(),
        size: 1,
        quorum: 1,
    };
    processes[0].open_join(&spec).await.unwrap();
    let part = Part {
        task_id: "member".into(),
        index: Some(0),
        state: State::Success,
        result: json!(null),
    };
    // Claims lapse as fast as they can be taken over.
    let lease = Duration::from_millis(1);
    let mut claims = Vec::new();
    while claims.len() < 20 {
        let arriving = processes.iter().map(|p| p.arrive(&spec.id, &part, lease));
        for arrival in join_all(arriving).await {
            if let Arrival::Complete { claim, .. } = arrival.unwrap() {
                claims.push(claim);
            }
        }
    }
    let distinct: BTreeSet<u64> = claims.iter().copied().collect();
    assert_eq!(distinct.len(), claims.len());
    let closing = claims
        .iter()
        .map(|claim| processes[0].close_join(&spec.id, *claim));
    let closed: Vec<bool> = join_all(closing)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let last = distinct.last().unwrap();
    let expected: Vec<bool> = claims.iter().map(|claim| claim == last).collect();
    assert_eq!(closed, expected);
}
