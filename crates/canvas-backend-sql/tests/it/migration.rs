//! Tables that are made, and tables that are there.

use futures_util::future::join_all;
use serde_json::json;

use canvas_core::Error;
use canvas_core::backend::Backend;

use crate::support::{Db, Kind, success};

crate::on_each! {
    many_that_start_at_once_make_the_tables_once,
    making_the_tables_again_changes_nothing,
    missing_columns_are_added_and_rows_stay,
    tables_have_the_names_that_they_are_given,
    without_leave_to_make_tables_it_says_what_is_missing,
}

/// How many tables there are whose names begin like this.
async fn tables(db: &Db, prefix: &str) -> i64 {
    let query = match db.kind {
        Kind::Sqlite => format!(
            "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name LIKE '{prefix}%'"
        ),
        Kind::Postgres => format!(
            "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname LIKE '{prefix}%'"
        ),
        Kind::MariaDb => format!(
            "SELECT count(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND \
             table_name LIKE '{prefix}%' AND table_type = 'BASE TABLE'"
        ),
    };
    db.number(&query).await
}

async fn many_that_start_at_once_make_the_tables_once(kind: Kind) {
    for _ in 0..3 {
        let db = Db::start(kind).await;
        let starting = (0..8).map(|n| {
            let backend = db.backend();
            tokio::spawn(async move {
                let id = format!("task-{n}");
                backend.store(&success(&id, n)).await.unwrap();
                backend.load(&[id.as_str().into()]).await.unwrap()
            })
        });
        for (n, found) in join_all(starting.collect::<Vec<_>>())
            .await
            .into_iter()
            .enumerate()
        {
            assert_eq!(found.unwrap()[0].as_ref().unwrap().result, json!(n));
        }
        assert_eq!(tables(&db, "celery_task").await, 2);
        assert_eq!(tables(&db, "canvas_").await, 4);
    }
}

async fn making_the_tables_again_changes_nothing(kind: Kind) {
    let db = Db::start(kind).await;
    let backend = db.backend();
    backend.migrate().await.unwrap();
    backend.store(&success("1", 1)).await.unwrap();
    backend.migrate().await.unwrap();
    db.backend().migrate().await.unwrap();
    let found = db.backend().load(&["1".into()]).await.unwrap();
    assert_eq!(found, [Some(success("1", 1))]);
}

/// The table as Celery 5.3 made it, by SQLAlchemy 1.4, with a row in it.
async fn old_table(db: &Db) {
    let (id, bytes) = match db.kind {
        Kind::Sqlite => ("INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL", "BLOB"),
        Kind::Postgres => ("INTEGER PRIMARY KEY NOT NULL", "BYTEA"),
        Kind::MariaDb => ("INTEGER PRIMARY KEY AUTO_INCREMENT NOT NULL", "BLOB"),
    };
    let time = match db.kind {
        Kind::Postgres => "TIMESTAMP WITHOUT TIME ZONE",
        _ => "DATETIME",
    };
    db.run(&format!(
        "CREATE TABLE celery_taskmeta (id {id}, task_id VARCHAR(155), status VARCHAR(50), result \
         {bytes}, date_done {time}, traceback TEXT, name VARCHAR(155), args {bytes}, kwargs \
         {bytes}, worker VARCHAR(155), retries INTEGER, queue VARCHAR(155), UNIQUE (task_id))"
    ))
    .await;
    // pickle.dumps([1, "ü"], 5), and a time that is never past.
    let result = "8005950C000000000000005D94284B018C02C3BC94652E";
    let result = match db.kind {
        Kind::Postgres => format!("decode('{result}', 'hex')"),
        _ => format!("x'{result}'"),
    };
    db.run(&format!(
        "INSERT INTO celery_taskmeta (id, task_id, status, result, date_done, retries) VALUES (7, \
         'old', 'SUCCESS', {result}, '2999-01-01 10:00:00', 3)"
    ))
    .await;
    if db.kind == Kind::Postgres {
        db.run("CREATE SEQUENCE task_id_sequence START 8").await;
    }
}

async fn missing_columns_are_added_and_rows_stay(kind: Kind) {
    let db = Db::start(kind).await;
    old_table(&db).await;
    let backend = db.backend();
    let found = backend.load(&["old".into()]).await.unwrap();
    let old = found[0].as_ref().unwrap();
    assert_eq!(old.result, json!([1, "ü"]));
    assert_eq!(old.extended["retries"], json!(3));
    assert_eq!(
        old.date_done.unwrap().to_rfc3339(),
        "2999-01-01T10:00:00+00:00"
    );
    backend.store(&success("new", 2)).await.unwrap();
    let ids = db.number("SELECT CAST(max(id) AS DECIMAL) = 8 FROM celery_taskmeta");
    if kind == Kind::MariaDb {
        assert_eq!(ids.await, 1);
    }
    let found = db.backend().load(&["new".into()]).await.unwrap();
    assert_eq!(found, [Some(success("new", 2))]);
}

async fn tables_have_the_names_that_they_are_given(kind: Kind) {
    let db = Db::start(kind).await;
    let schema = match kind {
        Kind::Sqlite => "main",
        Kind::Postgres => "shop",
        Kind::MariaDb => "",
    };
    let name = match schema {
        "" => "Results".to_owned(),
        schema => format!("{schema}.Results"),
    };
    if kind == Kind::Postgres {
        db.run("CREATE SCHEMA shop").await;
    }
    let named = || {
        db.backend_with(|config| {
            config.task_table.clone_from(&name);
            config.group_table = "groups_of_results".to_owned();
            config.own_tables = "ours".to_owned();
        })
    };
    let backend = named();
    let mut watch = backend.watch(&["1".into()]).await.unwrap();
    named().store(&success("1", 1)).await.unwrap();
    let told = futures_util::StreamExt::next(&mut watch).await;
    assert_eq!(told.unwrap().unwrap(), success("1", 1));
    let group = canvas_core::ResultTree::group("g".into(), Vec::new());
    backend.save_group(&group).await.unwrap();
    assert_eq!(named().load_group(&"g".into()).await.unwrap(), Some(group));
    assert_eq!(tables(&db, "Results").await, 1);
    assert_eq!(tables(&db, "ours_").await, 4);
    assert_eq!(tables(&db, "celery_").await, 0);
}

async fn without_leave_to_make_tables_it_says_what_is_missing(kind: Kind) {
    let db = Db::start(kind).await;
    let backend = db.backend_with(|config| config.create_tables = false);
    let error = backend.store(&success("1", 1)).await.unwrap_err();
    assert!(matches!(error, Error::Config(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("celery_taskmeta"), "{text}");
    assert!(text.contains("migrate()"), "{text}");
    // A person makes them, and it goes on.
    db.backend().migrate().await.unwrap();
    backend.store(&success("1", 1)).await.unwrap();
    assert_eq!(tables(&db, "canvas_").await, 4);
}
