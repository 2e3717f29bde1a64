//! One cache for two: Celery's own backend works on what we work on.

#[path = "../../../../tests/kit/python.rs"]
mod python;

use canvas_backend_memcache::{MemcacheBackend, MemcacheBackendConfig};
use canvas_core::backend::{Arrival, Backend, Part, Stored};
use canvas_core::{Id, ResultTree, State};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{Memcached, arrive, failure, soon, success, url};

/// What the Python needs.
const PACKAGES: &str = "celery==5.7.0 and pymemcache";

/// Has Celery do something: see `celery.py`.
async fn celery(url: &str, command: &str, arguments: Value) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/celery.py");
    let mut run = Command::new(python::python(PACKAGES));
    run.args([script, url, command]);
    for argument in arguments.as_array().unwrap() {
        run.arg(argument.to_string());
    }
    let output = soon(run.kill_on_drop(true).output()).await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "celery.py {command}: {errors}");
    let printed = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(printed.lines().last().unwrap()).unwrap()
}

#[tokio::test]
async fn celery_reads_our_results() {
    let memcached = Memcached::start().await;
    let (backend, url) = (memcached.backend(), memcached.url());
    let value = json!({ "list": [1, 2.5, null], "text": "ü" });
    let mut meta = success("1", value.clone());
    meta.date_done = Some("2026-11-24T06:21:18.239414Z".parse().unwrap());
    meta.children = Some(vec![ResultTree::task("child".into())]);
    meta.extended.insert("name".to_owned(), json!("tasks.add"));
    backend.store(&meta).await.unwrap();
    backend.store(&failure("2")).await.unwrap();
    let read = celery(&url, "get", json!(["1"])).await;
    assert_eq!(read, json!({ "value": value }));
    let read = celery(&url, "get", json!(["2"])).await;
    assert_eq!(read, json!({ "error": "ValueError", "args": ["no"] }));
    let read = celery(&url, "meta", json!(["1"])).await;
    assert_eq!(read["children"], json!(["child"]));
    assert_eq!(read["name"], json!("tasks.add"));
}

#[tokio::test]
async fn we_read_celerys_results() {
    let memcached = Memcached::start().await;
    let (backend, url) = (memcached.backend(), memcached.url());
    let value = json!({ "list": [1, 2.5, null], "text": "ü" });
    celery(&url, "store", json!(["1", value])).await;
    celery(&url, "fail", json!(["2"])).await;
    let found = backend.load(&["1".into(), "2".into()]).await.unwrap();
    let [Some(one), Some(two)] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!((&one.status, &one.result), (&State::Success, &value));
    assert!(one.date_done.is_some());
    assert_eq!(one.children, Some(vec![ResultTree::task("child".into())]));
    assert_eq!(one.extended["queue"], json!("celery"));
    let error = two.exception().unwrap();
    assert_eq!(
        (error.exc_type.as_str(), error.exc_message),
        ("ValueError", vec![json!("no"), json!(42)])
    );
    // The first success stands, whoever stored it.
    assert_eq!(backend.store(&success("1", 2)).await.unwrap(), Stored::Kept);
    backend.store(&success("3", 3)).await.unwrap();
    celery(&url, "store", json!(["3", 4])).await;
    let found = backend.load(&["3".into()]).await.unwrap();
    assert_eq!(found, [Some(success("3", 3))]);
}

#[tokio::test]
async fn celery_waits_for_our_results_and_we_for_celerys() {
    let memcached = Memcached::start().await;
    let (backend, url) = (memcached.backend(), memcached.url());
    let mut watch = backend.watch(&["2".into()]).await.unwrap();
    let storing = async { backend.store(&success("1", 7)).await.unwrap() };
    let (read, _) = tokio::join!(celery(&url, "get", json!(["1"])), storing);
    assert_eq!(read, json!({ "value": 7 }));
    celery(&url, "store", json!(["2", 8])).await;
    let told = soon(watch.next()).await.unwrap().unwrap();
    assert_eq!(told.result, json!(8));
}

#[tokio::test]
async fn groups_are_restored_by_either() {
    let memcached = Memcached::start().await;
    let (backend, url) = (memcached.backend(), memcached.url());
    celery(&url, "save", json!(["g1", ["1", "2"]])).await;
    let members = ["1", "2"].map(|id| ResultTree::task(id.into())).to_vec();
    let saved = backend.load_group(&"g1".into()).await.unwrap();
    assert_eq!(saved, Some(ResultTree::group("g1".into(), members.clone())));
    let group = ResultTree::group("g2".into(), members);
    backend.save_group(&group).await.unwrap();
    let restored = celery(&url, "restore", json!(["g2"])).await;
    assert_eq!(restored, json!(["1", "2"]));
}

/// Both choose the same server for a key.
#[tokio::test]
async fn several_servers_are_the_same_to_both() {
    let servers = Memcached::several(5).await;
    let url = url(&servers);
    let backend = MemcacheBackend::new(&url, MemcacheBackendConfig::default()).unwrap();
    celery(&url, "store_many", json!(["python", 40])).await;
    let ids: Vec<Id> = (0..40).map(|n| format!("python-{n}").into()).collect();
    let found = backend.load(&ids).await.unwrap();
    for (n, found) in found.into_iter().enumerate() {
        assert_eq!(found.unwrap().result, json!(n));
    }
    let ours: Vec<String> = (0..40).map(|n| format!("rust-{n}")).collect();
    for (n, id) in ours.iter().enumerate() {
        backend.store(&success(id, n)).await.unwrap();
    }
    let read = celery(&url, "get_all", json!([ours])).await;
    assert_eq!(read, json!((0..40).collect::<Vec<_>>()));
}

fn member(index: u64, value: i64) -> Part {
    Part {
        task_id: format!("m{index}").into(),
        index: Some(index),
        state: State::Success,
        result: json!(value),
    }
}

/// A worker of ours runs a member: it stores the result, and then arrives.
async fn run_member(backend: &dyn Backend, index: u64, value: i64) -> Arrival {
    let part = member(index, value);
    backend
        .store(&success(part.task_id.as_str(), value))
        .await
        .unwrap();
    arrive(backend, "g", &part).await
}

#[tokio::test]
async fn a_chord_that_python_has_sent_is_joined_by_our_workers() {
    let memcached = Memcached::start().await;
    let (backend, url) = (memcached.backend(), memcached.url());
    celery(&url, "open_chord", json!(["g", ["m0", "m1", "m2"]])).await;
    let waiting = |arrived| Arrival::Waiting { arrived, size: 3 };
    assert_eq!(run_member(&*backend, 2, 20).await, waiting(1));
    assert_eq!(run_member(&*backend, 2, 20).await, waiting(1));
    assert_eq!(run_member(&*backend, 0, 0).await, waiting(2));
    let last = run_member(&*backend, 1, 10).await;
    let Arrival::Complete { claim, parts } = last else {
        panic!("{last:?}")
    };
    assert_eq!(parts, [member(0, 0), member(1, 10), member(2, 20)]);
    assert!(backend.close_join(&"g".into(), claim).await.unwrap());
    assert_eq!(run_member(&*backend, 1, 10).await, Arrival::Closed);
}

/// In every order: ours completes it if it comes last, and Python's if that does.
#[tokio::test]
async fn workers_of_both_kinds_run_one_chord_that_python_has_sent() {
    for order in [
        [true, true, false],
        [true, false, true],
        [false, true, true],
        [false, false, true],
        [false, true, false],
        [true, false, false],
    ] {
        let memcached = Memcached::start().await;
        let (backend, url) = (memcached.backend(), memcached.url());
        celery(&url, "open_chord", json!(["g", ["m0", "m1", "m2"]])).await;
        let mut bodies = Vec::new();
        for (index, is_ours) in (0..).zip(order) {
            let value = i64::try_from(index).unwrap() * 10;
            if is_ours {
                if let Arrival::Complete { parts, .. } = run_member(&*backend, index, value).await {
                    let values: Vec<Value> = parts.into_iter().map(|part| part.result).collect();
                    bodies.push(json!(values));
                }
            } else {
                let id = format!("m{index}");
                let sent = celery(&url, "arrive", json!(["g", id, value])).await;
                bodies.extend(sent.as_array().unwrap().iter().cloned());
            }
        }
        assert_eq!(bodies, [json!([0, 10, 20])], "{order:?}");
    }
}

#[tokio::test]
async fn a_chord_of_pythons_that_a_restart_has_lost_is_missing() {
    let mut memcached = Memcached::start().await;
    let (backend, url) = (memcached.backend(), memcached.url());
    celery(&url, "open_chord", json!(["g", ["m0", "m1"]])).await;
    run_member(&*backend, 0, 0).await;
    memcached.kill();
    memcached.run().await;
    assert_eq!(run_member(&*backend, 1, 10).await, Arrival::Missing);
}
