//! A client in Rust and a stock Celery worker: the messages that this
//! repository writes, read by those who have to.
//!
//! The worker is started by `cargo xtask interop --reverse`, on the Redis that
//! `CANVAS_TEST_REDIS_URL` names; its tasks are in `tests/interop/canvases.py`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::time::Duration;

use canvas::{
    AsyncResult, Canvas, Error, Id, Policy, Signature, State, Wait, chain, chord, chunks, group,
    map, starmap,
};
use canvas_backend_redis::{RedisBackend, RedisBackendConfig};
use canvas_broker_redis::{RedisBroker, RedisBrokerConfig};
use canvas_tests::support::{
    PATIENCE, add, args, echo, ended, eventually, fail, failure, id_of, ok, sum, value,
};
use redis::AsyncCommands;
use serde_json::{Value, json};

const NEEDS: &str = "CANVAS_TEST_REDIS_URL: run this by `cargo xtask interop --reverse`";

/// A client, without tasks of its own.
fn client() -> Canvas {
    let url = std::env::var("CANVAS_TEST_REDIS_URL").expect(NEEDS);
    let broker = RedisBroker::new(&url, RedisBrokerConfig::default()).unwrap();
    let backend = RedisBackend::new(&url, RedisBackendConfig::default()).unwrap();
    let builder = Canvas::builder().broker(broker).backend(backend);
    builder.build().unwrap()
}

/// What a canvas gives.
async fn gives(canvas: impl Into<Signature>) -> Value {
    let app = client();
    value(&app.apply(canvas).await.unwrap()).await
}

async fn apply(canvas: impl Into<Signature>) -> (Canvas, AsyncResult) {
    let app = client();
    let result = app.apply(canvas).await.unwrap();
    (app, result)
}

/// What tasks noted under a key, once there is this much of it.
async fn notes(key: &str, many: usize) -> Vec<Value> {
    let url = std::env::var("CANVAS_TEST_REDIS_URL").expect(NEEDS);
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut found: Vec<String> = Vec::new();
    eventually(&format!("{many} notes under {key}"), async || {
        found = connection.lrange(key, 0, -1).await.unwrap();
        found.len() >= many
    })
    .await;
    let read = found.iter().map(|note| serde_json::from_str(note).unwrap());
    read.collect()
}

/// A key that nobody has noted under.
fn key() -> String {
    format!("notes-{}", Id::random())
}

#[tokio::test]
#[ignore = "needs a stock Celery worker"]
async fn a_task_is_run_with_its_arguments_and_its_result_comes_back() {
    assert_eq!(gives(add(2).arg(3)).await, json!(5));
    let value = json!({ "text": "hiöäüß ✓", "list": [1, 2.5, null, true], "deep": {"a": {}} });
    assert_eq!(gives(ok(value.clone())).await, value);
    assert_eq!(gives(args().args([1, 2])).await, json!([1, 2]));
}

#[tokio::test]
#[ignore = "needs a stock Celery worker"]
async fn a_chain_passes_results_on_and_can_be_walked_back() {
    let (_, result) = apply(add(1).arg(1) | add(10) | add(100)).await;
    assert_eq!(value(&result).await, json!(112));
    let parent = result.parent().unwrap();
    assert_eq!(value(&parent).await, json!(12));
    assert_eq!(value(&parent.parent().unwrap()).await, json!(2));
    let long = chain((0..200).map(|n| if n == 0 { add(1).arg(0) } else { add(1) }));
    assert_eq!(gives(long).await, json!(200));
}

#[tokio::test]
#[ignore = "needs a stock Celery worker"]
async fn a_step_that_is_immutable_takes_nothing() {
    assert_eq!(
        gives(add(1).arg(1) | args().arg(7).immutable()).await,
        json!([7])
    );
}

#[tokio::test]
#[ignore = "needs a stock Celery worker"]
async fn a_group_gives_its_results_in_order() {
    assert_eq!(
        gives(group((0..20).map(ok))).await,
        json!((0..20).collect::<Vec<_>>())
    );
    let nested = group([ok(1), group([ok(2), ok(3)]), ok(4)]);
    assert_eq!(gives(nested).await, json!([1, 2, 3, 4]));
    assert_eq!(gives(ok(5) | group([add(1), add(2)])).await, json!([6, 7]));
}

#[tokio::test]
#[ignore = "needs a stock Celery worker"]
async fn a_chord_feeds_its_body_in_order() {
    assert_eq!(
        gives(chord((0..50).map(ok), echo())).await,
        json!((0..50).collect::<Vec<_>>())
    );
    assert_eq!(gives(chord([ok(1)], echo())).await, json!([1]));
    assert_eq!(
        gives(chord(Vec::<Signature>::new(), echo())).await,
        json!([])
    );
    assert_eq!(
        gives(ok(1) | group([add(1), add(2)]) | sum() | add(100)).await,
        json!(105)
    );
}

#[tokio::test]
#[ignore = "needs a stock Celery worker"]
async fn canvases_nest_in_each_other() {
    let inner = |n: i64| chord([ok(n), ok(n) | add(1)], sum());
    assert_eq!(gives(chord([inner(1), inner(10)], sum())).await, json!(24));
    assert_eq!(
        gives(group([inner(1), inner(2) | add(1)])).await,
        json!([3, 6])
    );
    let body = chain([sum(), group([add(1), add(2)]), sum()]);
    assert_eq!(gives(chord([ok(1), ok(2)], body)).await, json!(9));
    let three = chain([
        group([ok(1), ok(2)]),
        group([sum(), sum()]),
        group([sum(), sum()]),
        sum(),
    ]);
    assert_eq!(gives(three).await, json!(12));
    let ends_in_groups = group([
        ok(1) | group([add(1), add(2)]),
        ok(2) | group([add(1), add(2)]),
    ]);
    assert_eq!(
        gives(ends_in_groups | echo()).await,
        json!([[2, 3], [3, 4]])
    );
}

#[tokio::test]
#[ignore = "needs a stock Celery worker"]
async fn callbacks_run_after_their_task_and_are_its_children() {
    let mut callback = add(10);
    callback.freeze().unwrap();
    let id = id_of(&callback);
    let (app, result) = apply(ok(1).link(callback)).await;
    assert_eq!(value(&result).await, json!(1));
    assert_eq!(ended(&app, &id).await.result, json!(11));
    let children = ended(&app, result.id()).await.children.unwrap();
    assert_eq!(children[0].id, id);
}

#[tokio::test]
#[ignore = "needs a stock Celery worker"]
async fn error_callbacks_are_told_of_the_error() {
    let key = key();
    let both = fail("no")
        .link_error(Signature::new("t.errback").kwarg("key", key.as_str()))
        .link_error(Signature::new("t.told").kwarg("key", key.as_str()));
    let (_, result) = apply(both).await;
    let error = failure(&result).await;
    assert_eq!(error.to_string(), "ValueError: no");
    let id = result.id().as_str();
    let mut told = notes(&key, 2).await;
    told.sort_by_key(|note| note.as_array().map(Vec::len));
    assert_eq!(told, [json!([id]), json!([id, "ValueError: no"])]);
}

#[tokio::test]
#[ignore = "needs a stock Celery worker"]
async fn a_failed_step_fails_the_steps_after_it() {
    let (app, result) = apply(ok(1) | fail("in the middle") | add(1) | add(2)).await;
    assert_eq!(failure(&result).await.message(), "in the middle");
    let before = result.parent().unwrap();
    assert_eq!(ended(&app, before.id()).await.status, State::Failure);
}

#[tokio::test]
#[ignore = "needs a stock Celery worker"]
async fn a_failed_member_fails_the_body_and_is_named() {
    let key = key();
    let errback = Signature::new("t.told").kwarg("key", key.as_str());
    let mut culprit = fail("member");
    culprit.freeze().unwrap();
    let id = id_of(&culprit);
    let (app, result) = apply(chord([ok(1), culprit], sum()).link_error(errback)).await;
    let meta = ended(&app, result.id()).await;
    let error = meta.exception().unwrap();
    assert_eq!(error.exc_type, "ChordError");
    assert_eq!(
        error.message(),
        format!("Dependency {id} raised ValueError('member')")
    );
    assert_eq!(notes(&key, 1).await, [json!([result.id()])]);
}

#[tokio::test]
#[ignore = "needs a stock Celery worker"]
async fn a_failed_member_calls_the_error_callbacks_of_a_body_that_is_a_chain() {
    let key = key();
    let errback = Signature::new("t.told").kwarg("key", key.as_str());
    let body = (sum() | add(1)).link_error(errback);
    let (_, result) = apply(chord([ok(1), fail("member")], body)).await;
    assert_eq!(failure(&result).await.exc_type, "ChordError");
    assert_eq!(notes(&key, 1).await.len(), 1);
}

#[tokio::test]
#[ignore = "needs a stock Celery worker"]
async fn maps_and_chunks_run_there() {
    assert_eq!(
        gives(map(Signature::new("t.add"), [1, 2, 3])).await,
        json!([1, 2, 3])
    );
    let pairs = [json!([1, 2]), json!([3, 4])];
    assert_eq!(
        gives(starmap(Signature::new("t.add"), pairs.clone())).await,
        json!([3, 7])
    );
    let parts = chunks(Signature::new("t.add"), (0..5).map(|n| json!([n, n])), 2);
    assert_eq!(gives(parts).await, json!([[0, 2], [4, 6], [8]]));
}

#[tokio::test]
#[ignore = "needs a stock Celery worker"]
async fn a_worker_in_python_can_replace_a_task_of_ours() {
    let swap = |canvas: Signature| Signature::new("t.replace").kwarg("canvas", canvas.to_value());
    assert_eq!(gives(swap(ok(1) | add(1)) | add(10)).await, json!(12));
    let in_header = chord([swap(group([ok(1), ok(2)])), ok(3)], echo());
    assert_eq!(gives(in_header).await, json!([[1, 2], 3]));
}

#[tokio::test]
#[ignore = "needs a stock Celery worker"]
async fn the_request_is_what_we_said() {
    let request = Signature::new("t.request")
        .priority(3)
        .header("x-mine", "yes")
        .stamp([("customer", "acme")]);
    let (_, result) = apply(ok(1) | group([request.clone(), request])).await;
    let seen = value(&result).await;
    let root = result.parent().unwrap();
    for (index, seen) in seen.as_array().unwrap().iter().enumerate() {
        assert_eq!(seen["root_id"], json!(root.id()));
        assert_eq!(seen["parent_id"], json!(root.id()));
        assert_eq!(seen["group"], json!(result.id()));
        assert_eq!(seen["group_index"], json!(index));
        assert_eq!(seen["priority"], 3);
        assert_eq!(seen["stamps"], json!({ "customer": "acme" }));
        assert_eq!(seen["headers"]["x-mine"], "yes");
    }
}

#[tokio::test]
#[ignore = "needs a stock Celery worker"]
async fn times_mean_the_same_there() {
    let now = std::time::Instant::now();
    let later = ok("later").countdown(Duration::from_millis(1500));
    assert_eq!(gives(later).await, "later");
    assert!(now.elapsed() >= Duration::from_millis(1500));
    let stale = ok("stale")
        .countdown(Duration::from_secs(2))
        .expires_in(Duration::from_secs(1));
    let (app, result) = apply(stale).await;
    assert_eq!(ended(&app, result.id()).await.status, State::Revoked);
}

#[tokio::test]
#[ignore = "needs a stock Celery worker"]
async fn a_task_that_is_called_off_does_not_run_there() {
    let app = client();
    let mut sent = ok(1).countdown(Duration::from_secs(3));
    sent.freeze().unwrap();
    let id = id_of(&sent);
    app.apply(sent).await.unwrap();
    app.revoke(std::slice::from_ref(&id), false).await.unwrap();
    let meta = ended(&app, &id).await;
    assert_eq!(meta.status, State::Revoked);
    assert_eq!(meta.exception().unwrap().exc_type, "TaskRevokedError");
}

#[tokio::test]
#[ignore = "needs a stock Celery worker"]
async fn a_task_that_is_unknown_there_fails() {
    let (_, result) = apply(Signature::new("t.nowhere")).await;
    assert_eq!(failure(&result).await.exc_type, "NotRegistered");
}

#[tokio::test]
#[ignore = "needs a stock Celery worker"]
async fn a_result_that_is_dropped_is_not_waited_for() {
    let (_, result) = apply(ok(1).ignore_result(true) | ok(2)).await;
    assert_eq!(value(&result).await, json!(2));
    let (_, dropped) = apply(ok(1).ignore_result(true)).await;
    assert_eq!(dropped.get().await.unwrap(), Value::Null);
    // In a header it counts all the same.
    let header = [ok(1).ignore_result(true), ok(2)];
    assert_eq!(gives(chord(header, sum())).await, json!(3));
}

#[tokio::test]
#[ignore = "needs a stock Celery worker"]
async fn a_policy_that_python_does_not_know_changes_nothing_there() {
    let (app, result) = apply(chord([ok(1), fail("no")], sum()).policy(Policy::Any)).await;
    assert_eq!(ended(&app, result.id()).await.status, State::Failure);
}

#[tokio::test]
#[ignore = "needs a stock Celery worker"]
async fn waiting_has_an_end() {
    let (_, result) = apply(ok(1).countdown(Duration::from_secs(60))).await;
    let wait = Wait {
        timeout: Some(Duration::from_millis(200)),
        ..Wait::default()
    };
    let error = result.wait(wait).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(PATIENCE > Duration::from_millis(200));
    result.revoke(false).await.unwrap();
}
