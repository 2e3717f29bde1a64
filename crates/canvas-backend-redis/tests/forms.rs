//! What is in the store: keys, bytes and how long they live.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use canvas_backend_redis::RedisBackend;
use canvas_core::backend::{Arrival, Backend, JoinSpec, Part, Stored};
use canvas_core::{Error, ResultTree, State};
use futures_util::StreamExt;
use serde_json::{Value, json};
use support::{Redis, failure, soon, success};

const LEASE: Duration = Duration::from_secs(60);

fn part(index: impl Into<Option<u64>>, id: &str, result: Value) -> Part {
    Part {
        task_id: id.into(),
        index: index.into(),
        state: State::Success,
        result,
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

async fn arrive(backend: &RedisBackend, part: Part) -> Arrival {
    backend.arrive(&"g".into(), &part, LEASE).await.unwrap()
}

/// All keys, and for how many hundreds of seconds they are kept, rounded up;
/// none for ever.
async fn lives(redis: &Redis) -> Vec<(String, Option<i64>)> {
    let keys: BTreeSet<String> = redis.ask("KEYS *").await;
    let mut lives = Vec::new();
    for key in keys {
        let left: i64 = redis.send(&["PTTL", &key]).await;
        lives.push((key, (left >= 0).then_some((left + 99_999) / 100_000)));
    }
    lives
}

/// Everything that is ever stored, but for what a closed join leaves.
async fn fill(backend: &RedisBackend) {
    backend.store(&success("1", 1)).await.unwrap();
    let group = ResultTree::group("g".into(), vec![ResultTree::task("1".into())]);
    backend.save_group(&group).await.unwrap();
    backend.keep(&"k".into(), Bytes::from("[]")).await.unwrap();
    let spec = JoinSpec {
        id: "g".into(),
        size: 3,
        quorum: 2,
    };
    backend.open_join(&spec).await.unwrap();
    backend
        .grow_join(&"g".into(), &"1".into(), 1)
        .await
        .unwrap();
    arrive(backend, part(0, "1", json!(1))).await;
    arrive(backend, part(1, "2", json!(1))).await;
}

#[tokio::test]
async fn a_result_is_what_celery_would_have_stored() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    let meta = success("1", json!({ "pi": 3.25, "name": "ü" }));
    backend.store(&meta).await.unwrap();
    let stored: String = redis.ask("GET celery-task-meta-1").await;
    support::is_json(
        &stored,
        &json!({
            "status": "SUCCESS", "result": { "pi": 3.25, "name": "ü" }, "traceback": null,
            "children": [], "date_done": null, "task_id": "1",
        }),
    );
    assert_eq!(stored.as_bytes(), meta.to_json().unwrap());
}

#[tokio::test]
async fn a_group_is_what_celery_would_have_stored() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    let members = ["1", "2"].map(|id| ResultTree::task(id.into()));
    let group = ResultTree::group("g".into(), members.to_vec());
    backend.save_group(&group).await.unwrap();
    let stored: String = redis.ask("GET celery-taskset-meta-g").await;
    let expected = json!({
        "result": [["g", null], [[["1", null], null], [["2", null], null]]]
    });
    support::is_json(&stored, &expected);
}

#[tokio::test]
async fn a_group_too_deep_to_be_read_again_is_refused() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    let steps = (0..100_000).map(|n| ResultTree::task(n.to_string().into()));
    let chain = steps.reduce(|before, mut step| {
        step.set_root_parent(before);
        step
    });
    let group = ResultTree::group("g".into(), chain.into_iter().collect());
    let error = backend.save_group(&group).await.unwrap_err();
    assert!(matches!(error, Error::Encoding { .. }), "{error}");
}

#[tokio::test]
async fn a_join_is_what_celery_would_have_kept() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    open(&backend, 4).await;
    backend
        .grow_join(&"g".into(), &"1".into(), 2)
        .await
        .unwrap();
    arrive(&backend, part(1, "1", json!("a"))).await;
    arrive(&backend, part(0, "2", json!([2]))).await;
    arrive(&backend, part(None, "3", json!(null))).await;
    let size: String = redis.ask("GET celery-taskset-meta-g.s").await;
    let growth: String = redis.ask("GET celery-taskset-meta-g.t").await;
    assert_eq!((size.as_str(), growth.as_str()), ("4", "2"));
    let parts: Vec<(String, String)> = redis
        .ask("ZRANGE celery-taskset-meta-g.j 0 -1 WITHSCORES")
        .await;
    let expected = [
        (json!([1, "2", "SUCCESS", [2]]), "0"),
        (json!([1, "1", "SUCCESS", "a"]), "1"),
        (json!([1, "3", "SUCCESS", null]), "inf"),
    ];
    assert_eq!(parts.len(), 3);
    for ((text, at), (part, place)) in parts.iter().zip(&expected) {
        support::is_json(text, part);
        assert_eq!(at, place);
    }
    let arrived: BTreeSet<String> = redis.ask("SMEMBERS celery-taskset-meta-g.d").await;
    assert_eq!(
        arrived,
        BTreeSet::from(["1:1", "2:0", "3:+inf"].map(str::to_owned))
    );
}

#[tokio::test]
async fn a_closed_join_leaves_celerys_mark_and_nothing_else() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    fill(&backend).await;
    assert!(backend.close_join(&"g".into(), 1).await.unwrap());
    let keys: BTreeSet<String> = redis.ask("KEYS *g.*").await;
    assert_eq!(keys, BTreeSet::from(["celery-taskset-meta-g.c".to_owned()]));
    let mark: String = redis.ask("GET celery-taskset-meta-g.c").await;
    assert_eq!(mark, "done");
    // What comes too late leaves nothing for the next run of the same canvas
    // to count.
    open(&backend, 3).await;
    backend
        .grow_join(&"g".into(), &"9".into(), 1)
        .await
        .unwrap();
    let keys: BTreeSet<String> = redis.ask("KEYS *g.*").await;
    assert_eq!(keys, BTreeSet::from(["celery-taskset-meta-g.c".to_owned()]));
}

#[tokio::test]
async fn all_that_is_stored_expires() {
    let redis = Redis::start().await;
    let backend = redis.backend_with(|config| {
        config.result_expires = Some(Duration::from_secs(2_000));
        config.join_expires = Some(Duration::from_secs(1_000));
    });
    fill(&backend).await;
    let join = ["d", "g", "j", "n", "q", "s", "t"];
    let join = join.map(|key| (format!("celery-taskset-meta-g.{key}"), Some(10)));
    let mut expected: Vec<_> = join.to_vec();
    expected.extend([
        ("canvas-ref-k".to_owned(), Some(20)),
        ("celery-task-meta-1".to_owned(), Some(20)),
        ("celery-taskset-meta-g".to_owned(), Some(20)),
        // For as long as the claim.
        ("celery-taskset-meta-g.c".to_owned(), Some(1)),
    ]);
    expected.sort();
    assert_eq!(lives(&redis).await, expected);
    assert!(backend.close_join(&"g".into(), 1).await.unwrap());
    let mark = ("celery-taskset-meta-g.c".to_owned(), Some(10));
    assert!(lives(&redis).await.contains(&mark));
}

#[tokio::test]
async fn nothing_expires_where_nothing_should() {
    let redis = Redis::start().await;
    let backend = redis.backend_with(|config| {
        config.result_expires = None;
        config.join_expires = None;
    });
    fill(&backend).await;
    assert!(backend.close_join(&"g".into(), 1).await.unwrap());
    let lives = lives(&redis).await;
    assert_eq!(lives.len(), 4);
    assert!(lives.iter().all(|(_, left)| left.is_none()), "{lives:?}");
}

/// The mark of a closed join outlives a redelivery, however soon results go.
#[tokio::test]
async fn a_closed_join_is_remembered_for_some_minutes() {
    let redis = Redis::start().await;
    let backend = redis.backend_with(|config| config.join_expires = Some(Duration::from_secs(9)));
    open(&backend, 1).await;
    arrive(&backend, part(0, "1", json!(1))).await;
    assert!(backend.close_join(&"g".into(), 1).await.unwrap());
    let mark = ("celery-taskset-meta-g.c".to_owned(), Some(3));
    assert_eq!(lives(&redis).await, [mark]);
}

#[tokio::test]
async fn a_prefix_sets_applications_apart() {
    let redis = Redis::start().await;
    let shop = redis.backend_with(|config| config.global_keyprefix = "shop".to_owned());
    let bank = redis.backend_with(|config| config.global_keyprefix = "bank:".to_owned());
    fill(&shop).await;
    assert_eq!(bank.load(&["1".into()]).await.unwrap(), [None]);
    assert_eq!(bank.recall(&"k".into()).await.unwrap(), None);
    assert_eq!(bank.load_group(&"g".into()).await.unwrap(), None);
    fill(&bank).await;
    let keys: Vec<String> = redis.ask("KEYS *").await;
    let of = |prefix| keys.iter().filter(|key| key.starts_with(prefix)).count();
    assert_eq!((of("shop_c"), of("bank:c")), (11, 11));
    assert_eq!(keys.len(), 22);
    // Those who wait are told of their own.
    let mut watch = bank.watch(&["2".into()]).await.unwrap();
    shop.store(&success("2", "shop")).await.unwrap();
    bank.store(&success("2", "bank")).await.unwrap();
    assert_eq!(soon(watch.next()).await.unwrap().unwrap().result, "bank");
}

#[tokio::test]
async fn what_is_forgotten_leaves_nothing() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    fill(&backend).await;
    backend.forget(&["1".into(), "g".into()]).await.unwrap();
    let keys: BTreeSet<String> = redis.ask("KEYS *").await;
    let left = ["canvas-ref-k", "celery-taskset-meta-g"];
    assert_eq!(keys, BTreeSet::from(left.map(str::to_owned)));
}

/// A script reads the status and leaves the rest alone, whoever wrote it.
#[tokio::test]
async fn a_success_that_somebody_else_wrote_stands_byte_for_byte() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    let deep = format!("{}{}", "[".repeat(900), "]".repeat(900));
    let texts = [
        r#"{"status": "SUCCESS", "result": 12345678901234567890123, "task_id": "1"}"#.to_owned(),
        r#"{ "status":"SUCCESS","result":1e400,"task_id":"1"}"#.to_owned(),
        r#"{"result": 0.1000000000000000055, "status": "SUCCESS", "task_id": "1"}"#.to_owned(),
        format!(r#"{{"status": "SUCCESS", "result": {deep}, "task_id": "1"}}"#),
        format!(r#"{{"result": {deep}, "status": "SUCCESS", "task_id": "1"}}"#),
    ];
    for text in texts {
        let _: () = redis.send(&["SET", "celery-task-meta-1", &text]).await;
        assert_eq!(backend.store(&failure("1")).await.unwrap(), Stored::Kept);
        assert_eq!(redis.ask::<String>("GET celery-task-meta-1").await, text);
    }
    // A value that says it is one is none.
    let text = r#"{"result": {"status": "SUCCESS"}, "status": "STARTED", "task_id": "1"}"#;
    let _: () = redis.send(&["SET", "celery-task-meta-1", text]).await;
    let stored = backend.store(&failure("1")).await.unwrap();
    assert_eq!(stored, Stored::Written);
}

#[tokio::test]
async fn a_result_that_cannot_be_read_is_an_error_and_may_be_replaced() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    let _: () = redis.ask("SET celery-task-meta-1 {").await;
    let error = backend.load(&["1".into()]).await.unwrap_err();
    assert!(error.to_string().contains("stored result of 1"), "{error}");
    // Nobody waits for ever for what they could not read.
    let all = backend.watch(&["1".into()]).await.unwrap();
    let all = soon(all.collect::<Vec<_>>()).await;
    assert!(matches!(all.as_slice(), [Err(Error::Encoding { .. })]));
    let stored = backend.store(&success("1", 1)).await.unwrap();
    assert_eq!(stored, Stored::Written);
}

/// Celery's own script has one part for both, and never completes the join.
#[tokio::test]
async fn one_task_at_two_places_counts_twice() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    open(&backend, 3).await;
    for index in 0..2 {
        let waiting = Arrival::Waiting {
            arrived: index + 1,
            size: 3,
        };
        assert_eq!(
            arrive(&backend, part(index, "same", json!(7))).await,
            waiting
        );
    }
    let last = arrive(&backend, part(2, "same", json!(7))).await;
    let expected = [0, 1, 2].map(|index| part(index, "same", json!(7)));
    match last {
        Arrival::Complete { parts, .. } => assert_eq!(parts, expected),
        other => panic!("not complete: {other:?}"),
    }
}

#[tokio::test]
async fn members_without_a_place_come_last() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    open(&backend, 3).await;
    arrive(&backend, part(None, "2", json!("c"))).await;
    arrive(&backend, part(7, "1", json!("b"))).await;
    let last = arrive(&backend, part(0, "3", json!("a"))).await;
    let expected = [
        part(0, "3", json!("a")),
        part(7, "1", json!("b")),
        part(None, "2", json!("c")),
    ];
    match last {
        Arrival::Complete { parts, .. } => assert_eq!(parts, expected),
        other => panic!("not complete: {other:?}"),
    }
}

#[tokio::test]
async fn a_join_that_is_kept_as_a_list_is_refused_with_a_hint() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    open(&backend, 2).await;
    let _: () = redis.ask("RPUSH celery-taskset-meta-g.j []").await;
    let (join, part) = ("g".into(), part(0, "1", json!(1)));
    let error = backend.arrive(&join, &part, LEASE).await.unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(
        error.to_string().contains("result_chord_ordered"),
        "{error}"
    );
}

/// What a Python process does when it sends a chord, the last member aside.
async fn sent_by_python(redis: &Redis, size: &str) {
    let _: () = redis.ask("DEL celery-taskset-meta-g.c").await;
    let set = ["SET", "celery-taskset-meta-g.s", size];
    let _: () = redis.send(&set).await;
}

/// Completes a join of two, whose first member came as `first`, and closes it.
async fn finish(backend: &RedisBackend, last: Part, expected: [Part; 2]) {
    match arrive(backend, last).await {
        Arrival::Complete { claim: 1, parts } => assert_eq!(parts, expected),
        other => panic!("not complete for the first time: {other:?}"),
    }
    assert!(backend.close_join(&"g".into(), 1).await.unwrap());
}

#[tokio::test]
async fn members_that_come_before_their_join_is_opened_anew_are_kept() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    let parts = || [part(0, "1", json!("a")), part(1, "2", json!("b"))];
    let [first, last] = parts();
    open(&backend, 2).await;
    arrive(&backend, first.clone()).await;
    finish(&backend, last.clone(), parts()).await;
    // The same canvas once more: Python says so with the last member only.
    assert_eq!(arrive(&backend, first).await, Arrival::Closed);
    sent_by_python(&redis, "2").await;
    finish(&backend, last, parts()).await;
}

#[tokio::test]
async fn a_join_that_failed_leaves_its_parts_until_it_is_opened_anew() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    let good = part(0, "1", json!("a"));
    let mut bad = part(1, "2", failure("2").result);
    bad.state = State::Failure;
    let parts = || [good.clone(), bad.clone()];
    open(&backend, 2).await;
    arrive(&backend, good.clone()).await;
    finish(&backend, bad.clone(), parts()).await;
    let left: Vec<String> = redis.ask("ZRANGE celery-taskset-meta-g.j 0 -1").await;
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left[0].contains("SUCCESS") && left[1].contains("FAILURE"));
    let lives = lives(&redis).await;
    assert!(lives.iter().all(|(_, life)| life.is_some()), "{lives:?}");

    sent_by_python(&redis, "2").await;
    let waiting = Arrival::Waiting {
        arrived: 1,
        size: 2,
    };
    assert_eq!(arrive(&backend, bad.clone()).await, waiting);
    finish(&backend, good.clone(), parts()).await;
}

/// Celery clears its own keys away, and leaves ours.
#[tokio::test]
async fn claims_on_an_earlier_run_are_forgotten() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    open(&backend, 1).await;
    let parts = [0, 1, 2].map(|index| part(index, &index.to_string(), json!(index)));
    let [first, second, third] = parts.clone();
    arrive(&backend, first.clone()).await;
    for key in ["j", "t", "s", "d"] {
        let _: () = redis.ask(&format!("DEL celery-taskset-meta-g.{key}")).await;
    }
    sent_by_python(&redis, "2").await;
    arrive(&backend, first).await;
    backend
        .grow_join(&"g".into(), &"0".into(), 1)
        .await
        .unwrap();
    let waiting = Arrival::Waiting {
        arrived: 2,
        size: 3,
    };
    assert_eq!(arrive(&backend, second).await, waiting);
    match arrive(&backend, third).await {
        Arrival::Complete { claim, parts: all } => assert_eq!((claim, all), (1, parts.to_vec())),
        other => panic!("not complete: {other:?}"),
    }
}
