//! One database for two: Celery's own backend works on what we work on.

#[path = "../../../../tests/kit/python.rs"]
mod python;

use canvas_core::backend::{Backend, Stored};
use canvas_core::{ResultTree, State};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{Db, Kind, failure, here, soon, success};

/// What the Python needs.
const PACKAGES: &str = "celery==5.7.0, SQLAlchemy, psycopg2-binary and PyMySQL";

/// Has Celery do something: see `celery.py`.
async fn celery(db: &Db, command: &str, arguments: Value) -> Value {
    celery_with(db, "plain", command, arguments).await
}

async fn celery_with(db: &Db, extended: &str, command: &str, arguments: Value) -> Value {
    let mut run = Command::new(python::python(PACKAGES));
    run.arg(here().join("celery.py"))
        .args([&db.celery_url(), extended, command]);
    for argument in arguments.as_array().unwrap() {
        run.arg(argument.to_string());
    }
    let output = soon(run.kill_on_drop(true).output()).await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "celery.py {command}: {errors}");
    let printed = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(printed.lines().last().unwrap()).unwrap()
}

crate::on_each! {
    celery_reads_our_rows,
    we_read_celerys_rows,
    we_work_on_tables_that_celery_made,
    celery_waits_for_our_results_and_we_for_celerys,
    groups_are_restored_by_either,
    what_older_versions_pickled_is_read_as_data,
    of_the_successes_of_both_the_first_stands,
    both_store_at_once,
}

async fn celery_reads_our_rows(kind: Kind) {
    let db = Db::start(kind).await;
    let backend = db.backend();
    let value = json!({ "list": [1, 2.5, null], "text": "ü" });
    let mut meta = success("1", value.clone());
    meta.date_done = Some("2026-11-24T06:21:18.239414Z".parse().unwrap());
    meta.children = Some(vec![ResultTree::task("child".into())]);
    meta.parent_id = Some("parent".into());
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
    backend.store(&failure("2")).await.unwrap();
    assert_eq!(
        celery(&db, "get", json!(["1"])).await,
        json!({ "value": value })
    );
    assert_eq!(
        celery(&db, "get", json!(["2"])).await,
        json!({ "error": "ValueError", "args": ["no"] })
    );
    let read = celery_with(&db, "extended", "meta", json!(["1"])).await;
    let expected = json!({
        "task_id": "1", "status": "SUCCESS", "result": value, "traceback": null,
        "children": ["child"], "date_done": "2026-11-24T06:21:18.239414",
        "name": "tasks.add", "args": [1, 2], "kwargs": { "x": 1 }, "worker": "w1@h",
        "retries": 2, "queue": "celery", "stamped_headers": ["mark"], "mark": "m",
    });
    assert_eq!(read, expected);
}

async fn we_read_celerys_rows(kind: Kind) {
    let db = Db::start(kind).await;
    let backend = db.backend();
    backend.migrate().await.unwrap();
    reads_celerys_rows(&db, &*backend).await;
}

async fn reads_celerys_rows(db: &Db, backend: &dyn Backend) {
    let value = json!({ "list": [1, 2.5, null], "text": "ü" });
    celery_with(db, "extended", "store", json!(["1", value])).await;
    celery(db, "fail", json!(["2"])).await;
    let found = backend.load(&["1".into(), "2".into()]).await.unwrap();
    let [Some(one), Some(two)] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!((&one.status, &one.result), (&State::Success, &value));
    assert!(one.date_done.is_some());
    assert_eq!(one.children, Some(vec![ResultTree::task("child".into())]));
    let extended = json!({
        "name": "tasks.add", "args": [1, 2], "kwargs": { "x": 1 }, "worker": "w1@h",
        "retries": 2, "queue": "celery", "stamped_headers": ["mark"], "mark": "m",
    });
    assert_eq!(json!(one.extended), extended);
    let error = two.exception().unwrap();
    assert_eq!(
        (error.exc_type.as_str(), error.exc_message),
        ("ValueError", vec![json!("no"), json!(42)])
    );
    assert_eq!(two.traceback.as_deref(), Some("where"));
}

/// Celery comes first: its columns have other types than those of ours.
async fn we_work_on_tables_that_celery_made(kind: Kind) {
    let db = Db::start(kind).await;
    celery(&db, "store", json!(["0", 0])).await;
    let backend = db.backend();
    reads_celerys_rows(&db, &*backend).await;
    backend.store(&success("3", 3)).await.unwrap();
    backend.store(&success("4", 4)).await.unwrap();
    celery(&db, "store", json!(["5", 5])).await;
    for (id, value) in [("0", 0), ("3", 3), ("4", 4), ("5", 5)] {
        let read = celery(&db, "get", json!([id])).await;
        assert_eq!(read, json!({ "value": value }));
        let found = backend.load(&[id.into()]).await.unwrap();
        assert_eq!(found[0].as_ref().unwrap().result, json!(value));
    }
    // With our columns beside its own.
    assert_eq!(db.number("SELECT count(*) FROM celery_taskmeta").await, 6);
}

async fn celery_waits_for_our_results_and_we_for_celerys(kind: Kind) {
    let db = Db::start(kind).await;
    let backend = db.backend();
    let mut watch = backend.watch(&["2".into()]).await.unwrap();
    let waiting = celery(&db, "get", json!(["1"]));
    let storing = async { backend.store(&success("1", 7)).await.unwrap() };
    let (read, _) = tokio::join!(waiting, storing);
    assert_eq!(read, json!({ "value": 7 }));
    celery(&db, "store", json!(["2", 8])).await;
    let told = soon(watch.next()).await.unwrap().unwrap();
    assert_eq!(told.result, json!(8));
}

async fn groups_are_restored_by_either(kind: Kind) {
    let db = Db::start(kind).await;
    let backend = db.backend();
    celery(&db, "save", json!(["g1", ["1", "2"]])).await;
    let members = ["1", "2"].map(|id| ResultTree::task(id.into())).to_vec();
    let saved = backend.load_group(&"g1".into()).await.unwrap();
    assert_eq!(saved, Some(ResultTree::group("g1".into(), members.clone())));
    let group = ResultTree::group("g2".into(), members);
    backend.save_group(&group).await.unwrap();
    let restored = celery(&db, "restore", json!(["g2"])).await;
    assert_eq!(restored, json!(["1", "2"]));
}

async fn what_older_versions_pickled_is_read_as_data(kind: Kind) {
    let db = Db::start(kind).await;
    let backend = db.backend();
    let value = json!({ "list": [1, 2.5, null, true], "text": "ü", "deep": [[[{}]]] });
    celery(&db, "store_pickled", json!(["1", value])).await;
    let found = backend.load(&["1".into()]).await.unwrap();
    assert_eq!(found[0].as_ref().unwrap().result, value);
    // An object of Celery's would have to be built by calling it.
    celery(&db, "save_pickled", json!(["g"])).await;
    let error = backend
        .load_group(&"g".into())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("the shape of group g"), "{error}");
    assert!(error.contains("more than plain data"), "{error}");
}

async fn of_the_successes_of_both_the_first_stands(kind: Kind) {
    let db = Db::start(kind).await;
    let backend = db.backend();
    celery(&db, "store", json!(["1", 1])).await;
    assert_eq!(backend.store(&failure("1")).await.unwrap(), Stored::Kept);
    assert_eq!(backend.store(&success("1", 2)).await.unwrap(), Stored::Kept);
    backend.store(&success("2", 2)).await.unwrap();
    celery(&db, "fail", json!(["2"])).await;
    celery(&db, "store", json!(["2", 3])).await;
    assert_eq!(
        backend.load(&["2".into()]).await.unwrap(),
        [Some(success("2", 2))]
    );
}

async fn both_store_at_once(kind: Kind) {
    let db = Db::start(kind).await;
    let backend = db.backend();
    backend.migrate().await.unwrap();
    let python = celery(&db, "store_many", json!(["python", 40]));
    let rust = async {
        for n in 0..40 {
            let id = format!("rust-{n}");
            assert_eq!(
                backend.store(&success(&id, n)).await.unwrap(),
                Stored::Written
            );
        }
    };
    tokio::join!(python, rust);
    for who in ["python", "rust"] {
        let ids: Vec<canvas_core::Id> = (0..40).map(|n| format!("{who}-{n}").into()).collect();
        let found = backend.load(&ids).await.unwrap();
        for (n, found) in found.into_iter().enumerate() {
            assert_eq!(found.unwrap().result, json!(n), "{who}-{n}");
        }
    }
}
