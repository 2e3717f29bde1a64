//! Whole canvases whose results and joins are in a database, chosen by URL.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

#[expect(dead_code, reason = "the other tests use the rest of it")]
#[path = "it/support.rs"]
mod support;

use std::time::Duration;

use canvas::prelude::*;
use serde_json::json;
use support::{Db, Kind, soon};

#[task]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task]
async fn total(numbers: Vec<i64>) -> i64 {
    numbers.iter().sum()
}

#[task]
async fn fail(why: String) -> Result<i64, TaskError> {
    Err(TaskError::msg(why))
}

fn app(db: &Db) -> canvas::Canvas {
    // As Celery writes it: connect() has to know that, too.
    let url = match db.kind {
        Kind::Sqlite => db.celery_url(),
        _ => db.url(),
    };
    let builder = Canvas::builder()
        .task::<add>()
        .task::<total>()
        .task::<fail>();
    builder.backend_url(&url).connect().unwrap()
}

/// A worker that shares its queue with the client, since that is in memory.
async fn canvases_end_as_they_should(kind: Kind) {
    let db = Db::start(kind).await;
    let app = app(&db);
    let worker = app.worker().start().await.unwrap();
    let patience = Duration::from_secs(20);

    // A chord with a chord in it, and a step after it.
    let inner = chord((0..10).map(|n| add::s(n, n)), total::partial());
    let header = (0..20).map(|n| add::s(n, 1).into()).chain([inner]);
    let header: Vec<Signature> = header.collect();
    let canvas = chord(header, total::partial()) | add::partial(1);
    let result = soon(app.apply(canvas)).await.unwrap();
    let value = result.get_timeout(patience).await.unwrap();
    assert_eq!(value, json!(90 + 210 + 1));

    // A member that fails fails the body, with the reason.
    let failing = [
        add::s(1, 1).into(),
        Signature::from(fail::s("no way".to_owned())),
    ];
    let result = app.apply(chord(failing, total::partial())).await.unwrap();
    let error = result.get_timeout(patience).await.unwrap_err();
    assert!(error.to_string().contains("no way"), "{error}");

    worker.stop().await;
    // Nothing is left of joins but the notes that they are closed.
    assert_eq!(db.number("SELECT count(*) FROM canvas_join_part").await, 0);
    let open = "SELECT count(*) FROM canvas_join WHERE phase <> 2";
    assert_eq!(db.number(open).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn canvases_end_on_sqlite() {
    canvases_end_as_they_should(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn canvases_end_on_postgres() {
    canvases_end_as_they_should(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn canvases_end_on_mariadb() {
    canvases_end_as_they_should(Kind::MariaDb).await;
}
