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
    many_new_results_at_once_are_all_stored,
    of_many_arrivals_one_completes_and_sees_all,
    of_many_claims_one_closes,
    of_many_who_open_a_join_that_has_expired_none_loses_a_member,
    several_processes_share_a_database,
}

/// MariaDB 10.11 dies of prepared statements that leave ids to a sequence.
async fn many_new_results_at_once_are_all_stored(kind: Kind) {
    let db = Db::start(kind).await;
    let processes = processes(&db);
    let storing = (0..PROCESSES * 3).map(|n| {
        let backend = processes[n % PROCESSES].clone();
        tokio::spawn(async move {
            for round in 0..60 {
                let meta = success(&format!("task-{n}-{round}"), round);
                assert_eq!(backend.store(&meta).await.unwrap(), Stored::Written);
            }
        })
    });
    for stored in soon(join_all(storing.collect::<Vec<_>>())).await {
        stored.unwrap();
    }
    let stored = db.number("SELECT count(*) FROM celery_taskmeta").await;
    assert_eq!(stored, (PROCESSES * 3 * 60) as i64);
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

/// Set in a process that a test has started: the URL of the database.
const URL: &str = "CANVAS_TEST_RACE_URL";

/// How many processes there are, and how many members each has.
const REAL: u64 = 3;
const EACH: u64 = 20;

/// This program again, with this one test, and the URL to work on.
async fn several_processes_share_a_database(kind: Kind) {
    if let Ok(url) = std::env::var(URL) {
        return one_of_several(&url).await;
    }
    let db = Db::start(kind).await;
    let module = match kind {
        Kind::Sqlite => "on_sqlite",
        Kind::Postgres => "on_postgres",
        Kind::MariaDb => "on_mariadb",
    };
    let started = (0..REAL).map(|n| {
        let mut process = tokio::process::Command::new(std::env::current_exe().unwrap());
        process
            .arg(format!(
                "races::{module}::several_processes_share_a_database"
            ))
            .args(["--exact", "--nocapture"])
            .env(URL, db.url())
            .env("CANVAS_TEST_RACE_NUMBER", n.to_string())
            .kill_on_drop(true)
            .output()
    });
    let mut said = Vec::new();
    for output in soon(join_all(started)).await {
        let output = output.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let lines = text.lines().filter_map(|line| line.strip_prefix("found: "));
        said.extend(lines.map(str::to_owned));
    }
    said.sort();
    let complete = format!("complete with {}", REAL * EACH);
    assert_eq!(said, [complete.as_str(), "the first success"]);
    let stored = "SELECT count(*) FROM celery_taskmeta WHERE task_id LIKE 'member-%'";
    assert_eq!(db.number(stored).await, i64::try_from(REAL * EACH).unwrap());
}

/// Makes the tables, opens the join, stores and arrives, as all of them do.
async fn one_of_several(url: &str) {
    let number: u64 = std::env::var("CANVAS_TEST_RACE_NUMBER")
        .unwrap()
        .parse()
        .unwrap();
    let config = canvas_backend_sql::SqlBackendConfig::default();
    let backend = SqlBackend::new(url, config).unwrap();
    let spec = spec("g", REAL * EACH);
    backend.open_join(&spec).await.unwrap();
    for index in number * EACH..(number + 1) * EACH {
        let part = part(index, 0);
        let meta = success(part.task_id.as_str(), index);
        assert_eq!(backend.store(&meta).await.unwrap(), Stored::Written);
        let lease = Duration::from_secs(60);
        if let Arrival::Complete { parts, .. } =
            backend.arrive(&spec.id, &part, lease).await.unwrap()
        {
            println!("found: complete with {}", parts.len());
        }
    }
    let stored = backend.store(&success("same", number)).await.unwrap();
    if stored == Stored::Written {
        println!("found: the first success");
    }
}
