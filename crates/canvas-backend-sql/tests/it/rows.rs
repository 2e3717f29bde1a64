//! Rows as they are in the database, and values that are hard to keep.

use canvas_core::backend::{Backend, Stored};
use canvas_core::{Error, ResultTree, State, TaskMeta};
use serde_json::json;

use crate::support::{Db, Kind, failure, success};

crate::on_each! {
    columns_are_celerys,
    values_are_kept_as_they_are,
    ids_that_differ_in_case_are_different,
    a_table_does_not_run_out_of_ids_by_storing_again,
    an_id_that_is_too_long_is_an_error,
}

/// All that Celery has a column for is in that column.
async fn columns_are_celerys(kind: Kind) {
    let db = Db::start(kind).await;
    let backend = db.backend();
    let mut meta = success("1", json!({ "a": [1, "ü"] }));
    meta.children = Some(vec![ResultTree::task("2".into())]);
    meta.date_done = Some("2026-11-24T06:21:18.239414Z".parse().unwrap());
    meta.parent_id = Some("0".into());
    for (key, value) in [
        ("name", json!("tasks.add")),
        ("args", json!([1, 2])),
        ("kwargs", json!({ "x": 1 })),
        ("worker", json!("w1@h")),
        ("retries", json!(2)),
        ("queue", json!("celery")),
        ("stamped_headers", json!(["mark"])),
        ("mark", json!("m")),
    ] {
        meta.extended.insert(key.to_owned(), value);
    }
    backend.store(&meta).await.unwrap();
    assert_eq!(backend.load(&["1".into()]).await.unwrap(), [Some(meta)]);
    let text = |column: &str| match kind {
        Kind::Postgres => format!("convert_from({column}, 'UTF8')"),
        Kind::MariaDb => format!("CONVERT({column} USING utf8mb4)"),
        Kind::Sqlite => format!("CAST({column} AS TEXT)"),
    };
    for (column, value) in [
        ("status".to_owned(), "SUCCESS"),
        (text("result"), r#"{"a":[1,"ü"]}"#),
        (text("children"), r#"[[["2",null],null]]"#),
        ("name".to_owned(), "tasks.add"),
        (text("args"), "[1,2]"),
        (text("kwargs"), r#"{"x":1}"#),
        ("worker".to_owned(), "w1@h"),
        ("queue".to_owned(), "celery"),
        (
            text("stamps"),
            r#"{"stamped_headers":["mark"],"stamps":{"mark":"m"}}"#,
        ),
    ] {
        let query = format!("SELECT count(*) FROM celery_taskmeta WHERE {column} = '{value}'");
        assert_eq!(db.number(&query).await, 1, "{column} = {value}");
    }
    let time = "SELECT count(*) FROM celery_taskmeta WHERE retries = 2 AND date_done = \
                '2026-11-24 06:21:18.239414'";
    assert_eq!(db.number(time).await, 1);
}

async fn values_are_kept_as_they_are(kind: Kind) {
    let db = Db::start(kind).await;
    let backend = db.backend();
    let deep = (0..900).fold(json!(1), |value, _| json!([value]));
    let values = [
        json!(null),
        json!(""),
        json!("\u{0}\u{1F980}'\"\\?$1"),
        json!(0.1 + 0.2),
        json!(i64::MIN),
        json!(u64::MAX),
        json!("x".repeat(3_000_000)),
        deep,
    ];
    for (n, value) in values.into_iter().enumerate() {
        let meta = success(&format!("task-{n}"), value);
        assert_eq!(backend.store(&meta).await.unwrap(), Stored::Written);
        let found = backend
            .load(std::slice::from_ref(&meta.task_id))
            .await
            .unwrap();
        assert!(found == [Some(meta)], "value {n}");
    }
    let mut failed = failure("failed");
    failed.traceback = Some("line\n".repeat(50_000));
    backend.store(&failed).await.unwrap();
    let found = backend.load(&["failed".into()]).await.unwrap();
    assert!(found == [Some(failed)]);
}

async fn ids_that_differ_in_case_are_different(kind: Kind) {
    let db = Db::start(kind).await;
    let backend = db.backend();
    backend.store(&success("a", 1)).await.unwrap();
    backend.store(&success("A", 2)).await.unwrap();
    let found = backend.load(&["A".into(), "a".into()]).await.unwrap();
    assert_eq!(found, [Some(success("A", 2)), Some(success("a", 1))]);
}

/// Each state that a task goes through must not use up an id of the table:
/// those of Celery's tables have 31 bits.
async fn a_table_does_not_run_out_of_ids_by_storing_again(kind: Kind) {
    let db = Db::start(kind).await;
    let backend = db.backend();
    for state in [State::Started, State::Retry, State::Started, State::Success] {
        let meta = TaskMeta::new("1".into(), state);
        backend.store(&meta).await.unwrap();
    }
    backend.store(&failure("1")).await.unwrap();
    backend.store(&success("2", 2)).await.unwrap();
    let ids = db
        .number("SELECT max(id) - min(id) FROM celery_taskmeta")
        .await;
    // MariaDB may look for the value of a sequence that it then does not need.
    assert!(ids <= 5, "{ids}");
    if kind != Kind::MariaDb {
        assert_eq!(ids, 1);
    }
}

async fn an_id_that_is_too_long_is_an_error(kind: Kind) {
    let db = Db::start(kind).await;
    let backend = db.backend();
    let long = "x".repeat(156);
    let stored = backend.store(&success(&long, 1)).await;
    // SQLite minds no lengths.
    if kind == Kind::Sqlite {
        assert_eq!(stored.unwrap(), Stored::Written);
        return;
    }
    let error = stored.unwrap_err();
    assert!(matches!(error, Error::Encoding { .. }), "{error:?}");
}
