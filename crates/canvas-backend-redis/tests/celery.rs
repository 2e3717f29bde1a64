//! One store for two: Celery's own backend works on what we work on. Run with
//! `cargo test -p canvas-backend-redis --test celery -- --ignored`.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

#[path = "../../../tests/kit/python.rs"]
mod python;
mod support;

use std::path::Path;
use std::time::Duration;

use canvas_backend_redis::RedisBackend;
use canvas_core::backend::{Arrival, Backend, JoinSpec, Part, Stored};
use canvas_core::{ExceptionInfo, ResultTree, State};
use futures_util::StreamExt;
use serde_json::{Value, json};
use support::{Redis, eventually, failure, soon, success};
use tokio::process::Command;

const LEASE: Duration = Duration::from_secs(60);

/// What the Python needs.
const PACKAGES: &str = "celery[redis]==5.7.0";

/// Has Celery do something: see `celery.py`.
async fn celery(redis: &Redis, command: &str, arguments: Value) -> Value {
    celery_with_prefix(redis, "", command, arguments).await
}

async fn celery_with_prefix(redis: &Redis, prefix: &str, command: &str, args: Value) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/celery.py");
    let mut run = Command::new(python::python(PACKAGES));
    run.arg(script).args([&redis.url(), prefix, command]);
    for argument in args.as_array().unwrap() {
        run.arg(argument.to_string());
    }
    let output = soon(run.kill_on_drop(true).output()).await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "celery.py {command}: {errors}");
    let printed = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(printed.lines().last().unwrap()).unwrap()
}

fn part(index: u64, value: impl Into<Value>) -> Part {
    Part {
        task_id: format!("member-{index}").into(),
        index: Some(index),
        state: State::Success,
        result: value.into(),
    }
}

async fn open(backend: &RedisBackend, size: u64) {
    let spec = JoinSpec {
        id: "g".into(),
        size,
        quorum: size,
    };
    backend.open_join(&spec).await.unwrap();
}

async fn arrive(backend: &RedisBackend, part: &Part) -> Arrival {
    arrive_for(backend, part, LEASE).await
}

async fn arrive_for(backend: &RedisBackend, part: &Part, lease: Duration) -> Arrival {
    backend.arrive(&"g".into(), part, lease).await.unwrap()
}

fn complete(arrival: Arrival) -> (u64, Vec<Part>) {
    match arrival {
        Arrival::Complete { claim, parts } => (claim, parts),
        other => panic!("not complete: {other:?}"),
    }
}

#[tokio::test]
#[ignore = "needs Celery"]
async fn celery_reads_our_results() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    let value = json!({ "list": [1, 2.5, null], "text": "ü" });
    backend.store(&success("1", value.clone())).await.unwrap();
    let read = celery(&redis, "get", json!(["1"])).await;
    assert_eq!(read, json!({ "value": value }));
    backend.store(&failure("2")).await.unwrap();
    let read = celery(&redis, "get", json!(["2"])).await;
    assert_eq!(read, json!({ "error": "ValueError", "args": ["no"] }));
}

#[tokio::test]
#[ignore = "needs Celery"]
async fn celery_is_told_of_our_results() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    let waiting = celery(&redis, "get", json!(["1"]));
    let storing = async {
        eventually("Celery waits", async || {
            let channels: Vec<String> = redis.ask("PUBSUB CHANNELS").await;
            (channels == ["celery-task-meta-1"]).then_some(())
        })
        .await;
        backend.store(&success("1", 7)).await.unwrap();
    };
    let (read, ()) = tokio::join!(waiting, storing);
    assert_eq!(read, json!({ "value": 7 }));
}

#[tokio::test]
#[ignore = "needs Celery"]
async fn we_read_celerys_results() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    let value = json!({ "list": [1, 2.5, null], "text": "ü" });
    celery(&redis, "store", json!(["1", value])).await;
    celery(&redis, "fail", json!(["2"])).await;
    let found = backend.load(&["1".into(), "2".into()]).await.unwrap();
    let [Some(one), Some(two)] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!((&one.status, &one.result), (&State::Success, &value));
    assert!(one.date_done.is_some());
    let error = two.exception().unwrap();
    assert_eq!(
        (error.exc_type.as_str(), error.exc_message),
        ("ValueError", vec![json!("no"), json!(42)])
    );
    assert_eq!(two.traceback.as_deref(), Some("where"));
    // A success of theirs stands as one of ours does, and the other way round.
    assert_eq!(backend.store(&failure("1")).await.unwrap(), Stored::Kept);
    backend.store(&success("3", 3)).await.unwrap();
    celery(&redis, "fail", json!(["3"])).await;
    let stands = backend.load(&["3".into()]).await.unwrap();
    assert_eq!(stands, [Some(success("3", 3))]);
}

#[tokio::test]
#[ignore = "needs Celery"]
async fn we_are_told_of_celerys_results() {
    let redis = Redis::start().await;
    // Only by message: the next look is far away.
    let backend = redis.backend_with(|config| config.look_again = Duration::from_secs(3_600));
    let mut watch = backend.watch(&["1".into()]).await.unwrap();
    eventually("we wait", async || {
        let channels: Vec<String> = redis.ask("PUBSUB CHANNELS").await;
        (channels == ["celery-task-meta-1"]).then_some(())
    })
    .await;
    celery(&redis, "store", json!(["1", 7])).await;
    assert_eq!(soon(watch.next()).await.unwrap().unwrap().result, json!(7));
}

#[tokio::test]
#[ignore = "needs Celery"]
async fn groups_are_restored_by_either() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    celery(&redis, "save", json!(["g1", ["1", "2"]])).await;
    let members = ["1", "2"].map(|id| ResultTree::task(id.into())).to_vec();
    let saved = backend.load_group(&"g1".into()).await.unwrap();
    assert_eq!(saved, Some(ResultTree::group("g1".into(), members.clone())));
    let group = ResultTree::group("g2".into(), members);
    backend.save_group(&group).await.unwrap();
    assert_eq!(
        celery(&redis, "restore", json!(["g2"])).await,
        json!(["1", "2"])
    );
}

#[tokio::test]
#[ignore = "needs Celery"]
async fn a_prefix_is_the_same_for_both() {
    let redis = Redis::start().await;
    let backend = redis.backend_with(|config| config.global_keyprefix = "shop".to_owned());
    backend.store(&success("1", 7)).await.unwrap();
    let read = celery_with_prefix(&redis, "shop", "get", json!(["1"])).await;
    assert_eq!(read, json!({ "value": 7 }));
}

#[tokio::test]
#[ignore = "needs Celery"]
async fn we_complete_a_join_that_a_python_worker_is_in() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    open(&backend, 3).await;
    let sent = celery(&redis, "part", json!(["g", "member-1", 1, { "a": [1] }])).await;
    assert_eq!(sent, json!([]));
    let waiting = Arrival::Waiting {
        arrived: 2,
        size: 3,
    };
    assert_eq!(arrive(&backend, &part(2, "c")).await, waiting);
    // Its redelivery to us changes nothing, whatever it gives this time.
    assert_eq!(arrive(&backend, &part(1, "other")).await, waiting);
    let (claim, parts) = complete(arrive(&backend, &part(0, 0.5)).await);
    assert_eq!(claim, 1);
    assert_eq!(
        parts,
        [part(0, 0.5), part(1, json!({ "a": [1] })), part(2, "c")]
    );
    // No other arrival sends the body, neither before nor after the close.
    let late = json!(["g", "member-1", 1, "late"]);
    assert_eq!(celery(&redis, "part", late.clone()).await, json!([]));
    assert!(backend.close_join(&"g".into(), claim).await.unwrap());
    assert_eq!(celery(&redis, "part", late).await, json!([]));
    assert_eq!(arrive(&backend, &part(1, 1)).await, Arrival::Closed);
}

#[tokio::test]
#[ignore = "needs Celery"]
async fn a_python_worker_completes_a_join_that_we_are_in() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    open(&backend, 3).await;
    arrive(&backend, &part(2, json!({ "c": null }))).await;
    arrive(&backend, &part(0, "ü")).await;
    // Our redelivery to it changes nothing either.
    let again = json!(["g", "member-0", 0, "other"]);
    assert_eq!(celery(&redis, "part", again).await, json!([]));
    let sent = celery(&redis, "part", json!(["g", "member-1", 1, 1.5])).await;
    assert_eq!(sent, json!([[["ü", 1.5, { "c": null }]]]));
    assert_eq!(arrive(&backend, &part(0, "late")).await, Arrival::Closed);
}

#[tokio::test]
#[ignore = "needs Celery"]
async fn a_python_process_sends_the_header() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    // It tells the size last. The first who is early waits for that, so that
    // somebody does; the others need not.
    let early = arrive(&backend, &part(0, "a")).await;
    assert!(matches!(early, Arrival::Claimed { .. }), "{early:?}");
    let waiting = Arrival::Waiting {
        arrived: 2,
        size: 0,
    };
    assert_eq!(arrive(&backend, &part(1, "b")).await, waiting);
    celery(&redis, "size", json!(["g", 3])).await;
    let waiting = Arrival::Waiting {
        arrived: 2,
        size: 3,
    };
    assert_eq!(arrive(&backend, &part(0, "a")).await, waiting);
    let (claim, parts) = complete(arrive(&backend, &part(2, "c")).await);
    assert_eq!(parts, [part(0, "a"), part(1, "b"), part(2, "c")]);
    assert!(backend.close_join(&"g".into(), claim).await.unwrap());
}

#[tokio::test]
#[ignore = "needs Celery"]
async fn a_python_worker_completes_the_header_of_a_python_process() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    arrive(&backend, &part(0, "a")).await;
    celery(&redis, "size", json!(["g", 2])).await;
    let sent = celery(&redis, "part", json!(["g", "member-1", 1, "b"])).await;
    assert_eq!(sent, json!([[["a", "b"]]]));
    // The member that waited for the size need wait no longer.
    assert_eq!(arrive(&backend, &part(0, "a")).await, Arrival::Closed);
}

/// Celery itself would never send, and never fail, the body.
#[tokio::test]
#[ignore = "needs Celery"]
async fn a_header_that_is_never_sent_in_full_is_lost_after_a_while() {
    let redis = Redis::start().await;
    let grace = Duration::from_millis(1_500);
    let backend = redis.backend_with(|config| config.header_grace = grace);
    celery(&redis, "part", json!(["g", "member-0", 0, "a"])).await;
    let Arrival::Claimed { retry_after } = arrive(&backend, &part(1, "b")).await else {
        panic!("nobody waits for the size")
    };
    assert!(retry_after <= grace);
    let waiting = Arrival::Waiting {
        arrived: 3,
        size: 0,
    };
    // A new member is a sign of life.
    tokio::time::sleep(grace / 2).await;
    assert_eq!(arrive(&backend, &part(2, "c")).await, waiting);
    tokio::time::sleep(retry_after - grace / 2).await;
    let again = arrive(&backend, &part(1, "b")).await;
    assert!(matches!(again, Arrival::Claimed { .. }), "{again:?}");
    tokio::time::sleep(grace).await;
    assert_eq!(arrive(&backend, &part(1, "b")).await, Arrival::Missing);
    // If the size comes after all, so does the body.
    celery(&redis, "size", json!(["g", 3])).await;
    complete(arrive(&backend, &part(1, "b")).await);
}

/// Celery drops the size then; nobody must take that for a header that is
/// still being sent.
#[tokio::test]
#[ignore = "needs Celery"]
async fn a_join_that_a_python_worker_failed_is_closed() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    open(&backend, 2).await;
    let failed = Part {
        state: State::Failure,
        result: ExceptionInfo::builtin("KeyError", "gone").to_value(),
        ..part(0, ())
    };
    arrive(&backend, &failed).await;
    let sent = celery(&redis, "part", json!(["g", "member-1", 1, 1])).await;
    assert_eq!(sent, json!([]));
    let body = backend.load(&["body-of-g".into()]).await.unwrap();
    let error = body[0].as_ref().unwrap().exception().unwrap();
    assert_eq!(error.exc_type, "ChordError");
    assert!(error.to_string().contains("KeyError"), "{error}");
    assert_eq!(arrive(&backend, &failed).await, Arrival::Closed);
    assert_eq!(arrive(&backend, &part(1, 1)).await, Arrival::Closed);
}

#[tokio::test]
#[ignore = "needs Celery"]
async fn we_take_over_the_claim_of_a_python_worker_that_died() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    open(&backend, 2).await;
    arrive(&backend, &part(0, "a")).await;
    let args = json!(["g", "member-1", 1, "b", 2, "token"]);
    let claimed = celery(&redis, "claim", args).await;
    assert_eq!(claimed, json!({ "ready": 2, "size": 2, "claimed": 1 }));
    let (claim, parts) = eventually("the claim has lapsed", async || {
        match arrive(&backend, &part(0, "a")).await {
            Arrival::Claimed { retry_after } => {
                assert!(retry_after <= Duration::from_secs(2));
                None
            }
            other => Some(complete(other)),
        }
    })
    .await;
    // Not the first: the other one may have sent the body.
    assert_eq!(claim, 2);
    assert_eq!(parts, [part(0, "a"), part(1, "b")]);
    // Should it not be dead after all, it sends nothing now.
    let extended = celery(&redis, "extend", json!(["g", "token"])).await;
    assert_eq!(extended, json!(0));
    assert!(backend.close_join(&"g".into(), claim).await.unwrap());
    let extended = celery(&redis, "extend", json!(["g", "token"])).await;
    assert_eq!(extended, json!(0));
}

#[tokio::test]
#[ignore = "needs Celery"]
async fn a_python_worker_takes_over_our_claim_that_lapsed() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    open(&backend, 2).await;
    arrive(&backend, &part(0, "a")).await;
    let lease = Duration::from_millis(100);
    let (claim, _) = complete(arrive_for(&backend, &part(1, "b"), lease).await);
    tokio::time::sleep(lease * 2).await;
    let args = json!(["g", "member-1", 1, "b", 60, "token"]);
    let claimed = celery(&redis, "claim", args).await;
    assert_eq!(claimed, json!({ "ready": 2, "size": 2, "claimed": 1 }));
    assert!(!backend.close_join(&"g".into(), claim).await.unwrap());
    let arrival = arrive(&backend, &part(1, "b")).await;
    assert!(matches!(arrival, Arrival::Claimed { .. }), "{arrival:?}");
}

#[tokio::test]
#[ignore = "needs Celery"]
async fn members_that_either_adds_are_waited_for_by_both() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    // Also before a Python process has told the size.
    backend
        .grow_join(&"g".into(), &"x".into(), 1)
        .await
        .unwrap();
    celery(&redis, "size", json!(["g", 1])).await;
    celery(&redis, "grow", json!(["g"])).await;
    let waiting = Arrival::Waiting {
        arrived: 1,
        size: 3,
    };
    assert_eq!(arrive(&backend, &part(0, 0)).await, waiting);
    let args = json!(["g", "member-1", 1, 1]);
    assert_eq!(celery(&redis, "part", args).await, json!([]));
    complete(arrive(&backend, &part(2, 2)).await);
}

/// The same canvas, sent again with the same ids.
#[tokio::test]
#[ignore = "needs Celery"]
async fn a_python_process_may_send_a_header_again() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    for _ in 0..2 {
        celery(&redis, "size", json!(["g", 2])).await;
        arrive(&backend, &part(0, "a")).await;
        backend
            .grow_join(&"g".into(), &"member-0".into(), 1)
            .await
            .unwrap();
        arrive(&backend, &part(1, "b")).await;
        let sent = celery(&redis, "part", json!(["g", "member-2", 2, "c"])).await;
        assert_eq!(sent, json!([[["a", "b", "c"]]]));
    }
}

#[tokio::test]
#[ignore = "needs Celery"]
async fn a_quorum_counts_what_python_workers_did() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    let spec = JoinSpec {
        id: "g".into(),
        size: 5,
        quorum: 3,
    };
    backend.open_join(&spec).await.unwrap();
    let failed = json!(["g", "member-4", 4, "no", "FAILURE"]);
    assert_eq!(celery(&redis, "part", failed).await, json!([]));
    arrive(&backend, &part(0, 0)).await;
    let args = json!(["g", "member-1", 1, 1]);
    assert_eq!(celery(&redis, "part", args).await, json!([]));
    let (_, parts) = complete(arrive(&backend, &part(2, 2)).await);
    let places: Vec<_> = parts.iter().map(|part| part.index.unwrap()).collect();
    assert_eq!(places, [0, 1, 2, 4]);
}
