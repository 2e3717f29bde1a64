//! Rows that have expired.

use std::time::Duration;

use bytes::Bytes;
use canvas_core::ResultTree;
use canvas_core::State;
use canvas_core::backend::{Arrival, Backend, JoinSpec, Part};

use crate::support::{Db, Kind, eventually, success};

/// How long things live here.
const LIFE: Duration = Duration::from_secs(1);

crate::on_each! {
    what_has_expired_is_removed_and_nothing_else,
    more_than_a_batch_is_removed,
    a_process_that_stores_sweeps_from_time_to_time,
}

async fn rows(db: &Db) -> i64 {
    let mut rows = 0;
    for table in [
        "celery_taskmeta",
        "celery_tasksetmeta",
        "canvas_join",
        "canvas_join_part",
        "canvas_join_growth",
        "canvas_kept",
    ] {
        rows += db.number(&format!("SELECT count(*) FROM {table}")).await;
    }
    rows
}

/// Seven rows: one of each, with two members of a join, and two states.
async fn fill(backend: &dyn Backend, name: &str) {
    let mut started = success(&format!("{name}-started"), 0);
    started.status = State::Started;
    backend.store(&started).await.unwrap();
    let mut done = success(&format!("{name}-done"), 1);
    done.date_done = Some("2026-01-01T00:00:00Z".parse().unwrap());
    backend.store(&done).await.unwrap();
    let group = ResultTree::group(name.into(), Vec::new());
    backend.save_group(&group).await.unwrap();
    backend
        .keep(&name.into(), Bytes::from_static(b"[]"))
        .await
        .unwrap();
    let spec = JoinSpec {
        id: name.into(),
        size: 3,
        quorum: 3,
    };
    backend.open_join(&spec).await.unwrap();
    let member = name.into();
    backend.grow_join(&spec.id, &member, 1).await.unwrap();
    let part = Part {
        task_id: "member".into(),
        index: None,
        state: State::Success,
        result: 1.into(),
    };
    let arrival = backend.arrive(&spec.id, &part, LIFE).await.unwrap();
    let waiting = Arrival::Waiting {
        arrived: 1,
        size: 4,
    };
    assert_eq!(arrival, waiting);
}

async fn what_has_expired_is_removed_and_nothing_else(kind: Kind) {
    let db = Db::start(kind).await;
    let backend = db.backend_with(|config| {
        config.result_expires = Some(LIFE);
        config.join_expires = Some(LIFE);
    });
    fill(&*backend, "old").await;
    assert_eq!(rows(&db).await, 7);
    assert_eq!(backend.sweep().await.unwrap(), 0);
    tokio::time::sleep(LIFE * 2).await;
    fill(&*backend, "new").await;
    assert_eq!(backend.sweep().await.unwrap(), 7);
    assert_eq!(rows(&db).await, 7);
    let found = backend.load(&["new-done".into(), "old-done".into()]).await;
    let found: Vec<bool> = found.unwrap().iter().map(Option::is_some).collect();
    assert_eq!(found, [true, false]);
}

async fn more_than_a_batch_is_removed(kind: Kind) {
    let db = Db::start(kind).await;
    let backend = db.backend();
    backend.migrate().await.unwrap();
    // As Celery stores them, without a column of ours.
    let numbers = match kind {
        Kind::Postgres => "SELECT generate_series AS n FROM generate_series(1, 1700)",
        Kind::MariaDb => "SELECT seq AS n FROM seq_1_to_1700",
        Kind::Sqlite => {
            "WITH RECURSIVE all_of(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM all_of WHERE n < \
             1700) SELECT n FROM all_of"
        }
    };
    let id = match kind {
        Kind::MariaDb => "CONCAT('task-', n)",
        _ => "'task-' || n",
    };
    let time = match kind {
        Kind::Postgres => "TIMESTAMP '2020-01-01 00:00:00'",
        _ => "'2020-01-01 00:00:00.000000'",
    };
    db.run(&format!(
        "INSERT INTO celery_taskmeta (task_id, status, date_done) SELECT {id}, 'SUCCESS', {time} \
         FROM ({numbers}) AS numbers"
    ))
    .await;
    backend.store(&success("new", 1)).await.unwrap();
    assert_eq!(rows(&db).await, 1_701);
    // Two at once do not disturb each other.
    let other = db.backend();
    let (one, two) = tokio::join!(backend.sweep(), other.sweep());
    assert_eq!(one.unwrap() + two.unwrap(), 1_700);
    assert_eq!(rows(&db).await, 1);
}

async fn a_process_that_stores_sweeps_from_time_to_time(kind: Kind) {
    let db = Db::start(kind).await;
    let backend = db.backend_with(|config| {
        config.result_expires = Some(LIFE);
        config.join_expires = Some(LIFE);
        config.sweep_every = Some(Duration::from_millis(100));
    });
    fill(&*backend, "old").await;
    tokio::time::sleep(LIFE * 3 / 2).await;
    backend.store(&success("new", 1)).await.unwrap();
    eventually("the old ones are gone", async || {
        (rows(&db).await <= 1).then_some(())
    })
    .await;
}
