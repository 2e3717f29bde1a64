//! Servers that go, and databases that are locked.

use std::time::{Duration, Instant};

use canvas_backend_sql::{SqlBackend, SqlBackendConfig};
use canvas_core::Error;
use canvas_core::State;
use canvas_core::backend::{Arrival, Backend, JoinSpec, Part, Stored};
use futures_util::StreamExt;
use serde_json::json;

use crate::support::{Db, Kind, soon, success};

/// What is stored, waited for and joined goes on when the server is back.
async fn goes_on_after_a_restart(kind: Kind) {
    let mut db = Db::alone(kind).await;
    let backend = db.backend();
    backend.store(&success("1", 1)).await.unwrap();
    let spec = JoinSpec {
        id: "g".into(),
        size: 2,
        quorum: 2,
    };
    backend.open_join(&spec).await.unwrap();
    let part = |index: u64| Part {
        task_id: format!("member-{index}").into(),
        index: Some(index),
        state: State::Success,
        result: json!(index),
    };
    let lease = Duration::from_secs(60);
    backend.arrive(&spec.id, &part(0), lease).await.unwrap();
    let mut watch = backend.watch(&["1".into(), "2".into()]).await.unwrap();
    assert_eq!(soon(watch.next()).await.unwrap().unwrap().result, json!(1));
    db.kill();
    // Made while there is no server, and done once there is.
    let (storing, arriving) = (backend.clone(), backend.clone());
    let storing = tokio::spawn(async move { storing.store(&success("2", 2)).await });
    let last = part(1);
    let arriving = tokio::spawn(async move { arriving.arrive(&"g".into(), &last, lease).await });
    db.restart().await;
    assert_eq!(soon(storing).await.unwrap().unwrap(), Stored::Written);
    let Arrival::Complete { claim, parts } = soon(arriving).await.unwrap().unwrap() else {
        panic!("the last member is there")
    };
    assert_eq!(parts, [part(0), part(1)]);
    assert!(backend.close_join(&spec.id, claim).await.unwrap());
    assert_eq!(soon(watch.next()).await.unwrap().unwrap().result, json!(2));
    let found = backend.load(&["1".into()]).await.unwrap();
    assert_eq!(found, [Some(success("1", 1))]);
    // Whoever waits is still told, not only found.
    let mut watch = backend.watch(&["3".into()]).await.unwrap();
    db.backend().store(&success("3", 3)).await.unwrap();
    assert_eq!(soon(watch.next()).await.unwrap().unwrap().result, json!(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_postgres_is_survived() {
    goes_on_after_a_restart(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_mariadb_is_survived() {
    goes_on_after_a_restart(Kind::MariaDb).await;
}

fn impatient() -> SqlBackendConfig {
    let mut config = SqlBackendConfig::default();
    config.retry_for = Duration::from_millis(1_500);
    config
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_after_a_while() {
    for url in [
        "postgres://me:secret@127.0.0.1:1/shop",
        "mysql://me:secret@127.0.0.1:1/shop",
    ] {
        let started = Instant::now();
        let backend = SqlBackend::new(url, impatient()).unwrap();
        let error = backend.store(&success("1", 1)).await.unwrap_err();
        assert!(matches!(error, Error::Connection { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("127.0.0.1:1/shop"), "{text}");
        assert!(!text.contains("secret"), "{text}");
        assert!(started.elapsed() < Duration::from_secs(10));
        assert!(!format!("{backend:?}").contains("secret"));
    }
}

#[tokio::test]
async fn a_database_that_is_not_there_is_a_matter_of_settings() {
    for kind in [Kind::Postgres, Kind::MariaDb] {
        let db = Db::start(kind).await;
        let url = db.url().replace("/canvas_", "/no_such_");
        let backend = SqlBackend::new(&url, impatient()).unwrap();
        let error = soon(backend.load(&["1".into()])).await.unwrap_err();
        assert!(matches!(error, Error::Config(_)), "{error:?}");
        assert!(error.to_string().contains("no_such_"), "{error}");
    }
    let file = "sqlite:///no/such/folder/results.db";
    let backend = SqlBackend::new(file, impatient()).unwrap();
    let error = soon(backend.load(&["1".into()])).await.unwrap_err();
    assert!(
        error.to_string().contains("does the folder exist"),
        "{error}"
    );
}

#[tokio::test]
async fn a_result_that_celerys_table_has_no_room_for_is_a_clear_error() {
    let db = Db::start(Kind::MariaDb).await;
    let backend = db.backend();
    let large = json!("x".repeat(100_000));
    backend.store(&success("1", large.clone())).await.unwrap();
    assert_eq!(
        backend.load(&["1".into()]).await.unwrap(),
        [Some(success("1", large.clone()))]
    );
    // As Celery makes it.
    db.run("DELETE FROM celery_taskmeta; ALTER TABLE celery_taskmeta MODIFY result BLOB")
        .await;
    let error = backend.store(&success("2", large)).await.unwrap_err();
    assert!(matches!(error, Error::Encoding { .. }), "{error:?}");
    assert!(error.to_string().contains("LONGBLOB"), "{error}");
}

/// Somebody who holds the file for longer than SQLite itself waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_locked_is_waited_for() {
    use sqlx::Connection as _;

    let db = Db::start(Kind::Sqlite).await;
    let backend = db.backend_with(|config| config.response_timeout = Duration::from_millis(200));
    backend.store(&success("1", 1)).await.unwrap();
    let mut other = sqlx::SqliteConnection::connect(&db.url()).await.unwrap();
    let held = other.begin_with("BEGIN EXCLUSIVE").await.unwrap();
    let storing = backend.clone();
    let storing = tokio::spawn(async move { storing.store(&success("2", 2)).await });
    // Readers go on meanwhile.
    assert_eq!(
        backend.load(&["1".into()]).await.unwrap()[0],
        Some(success("1", 1))
    );
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert!(!storing.is_finished());
    held.commit().await.unwrap();
    assert_eq!(soon(storing).await.unwrap().unwrap(), Stored::Written);
}
