//! Waiting, told or not.

use std::time::{Duration, Instant};

use canvas_core::backend::Backend;
use futures_util::StreamExt;

use crate::support::{Db, Kind, eventually, soon, success};

/// An hour: no look but the first.
const NEVER: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn postgres_tells_of_results() {
    let db = Db::start(Kind::Postgres).await;
    let backend = db.backend_with(|config| config.look_again = NEVER);
    let other = db.backend();
    let mut watch = backend.watch(&["1".into(), "2".into()]).await.unwrap();
    eventually("it listens", async || {
        let listening = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND \
                         datname = current_database()";
        (db.number(listening).await == 1).then_some(())
    })
    .await;
    // From now on only what is told can be found.
    tokio::time::sleep(Duration::from_millis(300)).await;
    other.store(&success("2", 2)).await.unwrap();
    assert_eq!(soon(watch.next()).await.unwrap().unwrap(), success("2", 2));
    // Whoever stores it: here nobody who knows of us.
    db.run(
        "INSERT INTO celery_taskmeta (task_id, status, result, date_done) VALUES ('1', 'SUCCESS', \
         '1', now())",
    )
    .await;
    let told = soon(watch.next()).await.unwrap().unwrap();
    assert_eq!(told.result, 1);
    assert!(soon(watch.next()).await.is_none());
}

#[tokio::test]
async fn one_connection_listens_for_all_who_wait_and_goes_with_the_last() {
    let db = Db::start(Kind::Postgres).await;
    let backend = db.backend();
    let listening = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND \
                     datname = current_database()";
    let one = backend.watch(&["1".into()]).await.unwrap();
    let two = backend.watch(&["2".into()]).await.unwrap();
    eventually("it listens", async || {
        (db.number(listening).await == 1).then_some(())
    })
    .await;
    drop(one);
    drop(two);
    eventually("nobody listens", async || {
        (db.number(listening).await == 0).then_some(())
    })
    .await;
}

crate::on_each! {
    a_result_of_another_process_is_found_soon,
    a_result_of_this_process_is_found_at_once,
    a_result_that_cannot_be_read_is_an_error_and_not_a_wait,
}

async fn a_result_of_another_process_is_found_soon(kind: Kind) {
    let db = Db::start(kind).await;
    let backend = db.backend();
    let mut watch = backend.watch(&["1".into()]).await.unwrap();
    // Until looks have become seldom.
    tokio::time::sleep(Duration::from_millis(800)).await;
    let started = Instant::now();
    db.backend().store(&success("1", 1)).await.unwrap();
    assert_eq!(soon(watch.next()).await.unwrap().unwrap(), success("1", 1));
    let waited = started.elapsed();
    assert!(waited < Duration::from_secs(5), "{waited:?}");
}

async fn a_result_of_this_process_is_found_at_once(kind: Kind) {
    let db = Db::start(kind).await;
    let backend = db.backend_with(|config| (config.poll, config.look_again) = (NEVER, NEVER));
    let mut watch = backend.watch(&["1".into()]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    backend.store(&success("1", 1)).await.unwrap();
    assert_eq!(soon(watch.next()).await.unwrap().unwrap(), success("1", 1));
}

async fn a_result_that_cannot_be_read_is_an_error_and_not_a_wait(kind: Kind) {
    let db = Db::start(kind).await;
    let backend = db.backend();
    backend.migrate().await.unwrap();
    db.run(
        "INSERT INTO celery_taskmeta (task_id, status, result) VALUES ('1', 'SUCCESS', 'no JSON')",
    )
    .await;
    let watch = backend.watch(&["1".into()]).await.unwrap();
    let told: Vec<_> = soon(watch.collect()).await;
    assert_eq!(told.len(), 1);
    let error = told[0].as_ref().unwrap_err().to_string();
    assert!(error.contains("the result of task 1"), "{error}");
}
