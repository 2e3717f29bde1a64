//! Many at once, each on connections of its own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use canvas_backend_sql::SqlBackend;
use canvas_core::State;
use canvas_core::backend::{Arrival, Backend, JoinSpec, Part, Stored};
use futures_util::future::join_all;
use serde_json::json;

use crate::support::{Db, Kind, failure, soon, success};

/// How many processes there seem to be.
const PROCESSES: usize = 6;

fn processes(db: &Db) -> Vec<Arc<SqlBackend>> {
    let few = |config: &mut canvas_backend_sql::SqlBackendConfig| config.max_connections = 3;
    (0..PROCESSES).map(|_| db.backend_with(few)).collect()
}

fn spec(id: &str, size: u64) -> JoinSpec {
    JoinSpec {
        id: id.into(),
        size,
        quorum: size,
    }
}

fn part(index: u64, value: usize) -> Part {
    Part {
        task_id: format!("member-{index}").into(),
        index: Some(index),
        state: State::Success,
        result: json!(value),
    }
}

crate::on_each! {
    of_many_successes_one_stands,
    of_many_arrivals_one_completes_and_sees_all,
    of_many_claims_one_closes,
    of_many_who_open_a_join_that_has_expired_none_loses_a_member,
}

async fn of_many_successes_one_stands(kind: Kind) {
    let db = Db::start(kind).await;
    let processes = processes(&db);
    for round in 0..15 {
        let id = format!("task-{round}");
        let storing = (0..32).map(|n| {
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

async fn of_many_arrivals_one_completes_and_sees_all(kind: Kind) {
    let db = Db::start(kind).await;
    let processes = processes(&db);
    for round in 0..8 {
        let spec = spec(&format!("join-{round}"), 48);
        // All of them open it, too.
        let opened = join_all(processes.iter().map(|backend| backend.open_join(&spec))).await;
        assert!(opened.iter().all(Result::is_ok), "{opened:?}");
        // Each arrives twice, with another result each time.
        let arriving = (0..96).map(|n| {
            let backend = processes[n % (PROCESSES - 1)].clone();
            let (join, part) = (spec.id.clone(), part(n as u64 % 48, n));
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
        assert_eq!(places, (0..48).collect::<Vec<_>>());
    }
}

async fn of_many_claims_one_closes(kind: Kind) {
    let db = Db::start(kind).await;
    let processes = processes(&db);
    let spec = spec("g", 1);
    processes[0].open_join(&spec).await.unwrap();
    let part = part(0, 0);
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
    let mut closed = Vec::new();
    for claim in &claims {
        closed.push(processes[0].close_join(&spec.id, *claim).await.unwrap());
    }
    let last = distinct.last().unwrap();
    let expected: Vec<bool> = claims.iter().map(|claim| claim == last).collect();
    assert_eq!(closed, expected);
}

async fn of_many_who_open_a_join_that_has_expired_none_loses_a_member(kind: Kind) {
    let db = Db::start(kind).await;
    let short = db.backend_with(|config| config.join_expires = Some(Duration::from_millis(1)));
    let processes = processes(&db);
    for round in 0..5 {
        let spec = spec(&format!("join-{round}"), PROCESSES as u64);
        short.open_join(&spec).await.unwrap();
        let old = part(99, 99);
        short.arrive(&spec.id, &old, Duration::ZERO).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let arriving = processes.iter().enumerate().map(|(n, backend)| {
            let (backend, spec) = (backend.clone(), spec.clone());
            tokio::spawn(async move {
                backend.open_join(&spec).await.unwrap();
                let part = part(n as u64, n);
                let lease = Duration::from_secs(60);
                backend.arrive(&spec.id, &part, lease).await.unwrap()
            })
        });
        let arrivals = soon(join_all(arriving.collect::<Vec<_>>())).await;
        let completed: Vec<usize> = arrivals
            .into_iter()
            .filter_map(|arrival| match arrival.unwrap() {
                Arrival::Complete { parts, .. } => Some(parts.len()),
                _ => None,
            })
            .collect();
        // What was there before is gone.
        assert_eq!(completed, [PROCESSES]);
    }
}
