//! References to continuations, and Celery workers that understand them by our
//! module in Python, `canvas_references`.
//!
//! Every test has a Redis and Celery workers of its own. The workers are as
//! Celery comes, but for what they are told to import; their tasks are in
//! `tests/interop/canvases.py`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod fleet;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use canvas::{
    AsyncResult, Canvas, ExceptionInfo, Signature, State, WorkerExt, chain, chord, group,
};
use canvas_tests::support::{
    add, builder, echo, ended, eventually, fail, failure, id_of, ok, sum, task, value,
};
use fleet::{Fleet, PREFORK, Python};
use serde_json::{Value, json};

/// A chain that counts to `steps`.
fn counting(steps: usize) -> Signature {
    chain((0..steps).map(|n| if n == 0 { ok(1) } else { add(1) }))
}

/// A sum, and so many steps after it, each of which adds one.
fn sum_and(steps: usize) -> Signature {
    chain([sum()].into_iter().chain((0..steps).map(|_| add(1))))
}

/// What a canvas gives that is sent with references.
async fn gives(app: &Canvas, canvas: impl Into<Signature>) -> Value {
    value(&app.apply(canvas).await.unwrap()).await
}

/// The bytes that all of a canvas moves, once somebody is there to run it.
async fn bytes(fleet: &Fleet, canvas: impl Into<Signature>, expected: Value) -> u64 {
    let app = fleet.client();
    assert_eq!(gives(&app, ok("ready")).await, "ready");
    let before = fleet.bytes().await;
    assert_eq!(gives(&app, canvas).await, expected);
    fleet.bytes().await - before
}

/// The error of the one step of a chain that failed, from its end.
async fn failed_step(app: &Canvas, last: AsyncResult) -> ExceptionInfo {
    let mut chain = vec![last];
    while let Some(before) = chain.last().and_then(AsyncResult::parent) {
        chain.push(before);
    }
    let mut found = None;
    eventually("a step fails", async || {
        for step in &chain {
            let meta = app.result(step.id().clone()).meta().await.unwrap();
            found = found.take().or(meta.exception());
        }
        found.is_some()
    })
    .await;
    found.unwrap()
}

#[tokio::test]
async fn a_chain_of_a_thousand_costs_python_little_more_than_its_tasks_do() {
    let fleet = Fleet::with_python().await;
    let results = json!((0..1_000).collect::<Vec<_>>());
    let alone = bytes(&fleet, group((0..1_000).map(ok)), results).await;
    let chained = bytes(&fleet, counting(1_000), json!(1_000)).await;
    assert!(!fleet.kept().await.is_empty(), "nothing was kept");
    println!("1,000 tasks: {alone} bytes; a chain of them: {chained}");
    // Without references it is a hundred times as much.
    assert!(chained < alone * 3 / 2, "{alone} and {chained}");
}

#[tokio::test]
async fn the_cost_of_a_chain_grows_with_its_length() {
    let fleet = Fleet::with_python().await;
    let short = bytes(&fleet, counting(50), json!(50)).await;
    let long = bytes(&fleet, counting(500), json!(500)).await;
    println!("a chain of 50: {short} bytes; of 500: {long}");
    assert!(long < short * 11, "{short} and {long}");
}

#[tokio::test]
async fn the_body_of_a_large_chord_is_read_by_who_completes_it() {
    let fleet = Fleet::with_python().await;
    let results = json!((0..200).collect::<Vec<_>>());
    let short = bytes(&fleet, chord((0..200).map(ok), echo()), results).await;
    let expected = (0..200).sum::<i64>() + 9;
    let long = chord((0..200).map(ok), sum_and(9));
    let long = bytes(&fleet, long, json!(expected)).await;
    println!("a chord of 200 and a task: {short} bytes; and a chain of 10: {long}");
    assert!(!fleet.kept().await.is_empty(), "nothing was kept");
    assert!(long < short * 5 / 4, "{short} and {long}");
}

#[tokio::test]
async fn chords_in_chords_feed_their_bodies_by_reference() {
    let fleet = Fleet::with_python().await;
    let app = fleet.client();
    let inner = |n: i64| chord((0..5).map(|m| ok(n * m)), sum_and(3));
    let outer = chord((0..4).map(inner), sum_and(5));
    // 10 n + 3 for each n, and 5.
    assert_eq!(gives(&app, outer).await, json!(60 + 12 + 5));
    let deep = chord([chord([inner(1), inner(2)], sum_and(2)), ok(1)], sum_and(2));
    assert_eq!(gives(&app, deep).await, json!(13 + 23 + 2 + 1 + 2));
    let in_a_row = chain([
        group((0..5).map(ok)),
        sum_and(4),
        group([add(1), add(2), add(3)]),
        sum_and(4),
        group([add(1), add(2)]),
    ]);
    // 14, then 48 + 4, and of that two.
    assert_eq!(gives(&app, in_a_row).await, json!([53, 54]));
    assert!(fleet.kept().await.len() > 10, "little was kept");
}

#[tokio::test]
async fn the_error_callback_of_the_last_step_is_called() {
    let fleet = Fleet::with_python().await;
    let app = fleet.client();
    let errback = Signature::new("t.errback").kwarg("key", "told");
    let canvas = counting(50) | fail("at the end").link_error(errback);
    let result = app.apply(canvas).await.unwrap();
    assert_eq!(failure(&result).await.message(), "at the end");
    let told = json!([result.id(), "ValueError: at the end"]);
    assert_eq!(fleet.notes("told", 1).await, [told]);
}

#[tokio::test]
async fn every_step_of_a_chain_that_fails_at_its_start_fails() {
    let fleet = Fleet::with_python().await;
    let app = fleet.client();
    let result = app
        .apply(fail("at the start") | counting(100))
        .await
        .unwrap();
    let mut step = Some(result);
    let mut steps = 0;
    while let Some(result) = step {
        let meta = ended(&app, result.id()).await;
        assert_eq!(meta.status, State::Failure);
        assert_eq!(meta.exception().unwrap().message(), "at the start");
        steps += 1;
        step = result.parent();
    }
    assert_eq!(steps, 101);
}

#[tokio::test]
async fn a_body_that_is_known_by_reference_fails_with_its_header() {
    let fleet = Fleet::with_python().await;
    let app = fleet.client();
    let errback = Signature::new("t.told").kwarg("key", "told");
    let large = sum().kwarg("padding", "x".repeat(1_000));
    let mut last = None;
    for body in [sum_and(20), large.link_error(errback)] {
        let canvas = chord([ok(1), fail("member")], body);
        let result = app.apply(canvas).await.unwrap();
        let error = failure(&result).await;
        assert_eq!(error.exc_type, "ChordError");
        assert!(error.message().ends_with("raised ValueError('member')"));
        last = Some(result.id().clone());
    }
    assert_eq!(fleet.kept().await.len(), 2);
    assert_eq!(fleet.notes("told", 1).await, [json!([last])]);
}

#[tokio::test]
async fn the_steps_after_a_failed_chord_fail() {
    let fleet = Fleet::with_python().await;
    let app = fleet.client();
    let chord = ok(0) | group([ok(1), fail("member")]) | sum();
    let result = app.apply(chord | counting(20)).await.unwrap();
    let error = failure(&result).await;
    assert_eq!(error.exc_type, "ChordError");
    assert!(error.message().ends_with("raised ValueError('member')"));
}

#[tokio::test]
async fn steps_after_a_reference_come_after_what_it_stands_for() {
    let fleet = Fleet::with_python().await;
    let app = fleet.client();
    let kept = json!([add(20).to_value(), add(10).to_value()]);
    let () = fleet.ask(&format!("SET canvas-ref-mine {kept}")).await;
    let reference = json!({
        "task": "canvas.ref", "args": [], "kwargs": {"key": "mine"}, "options": {},
        "subtask_type": "canvas.ref", "immutable": true,
    });
    let mut last = add(100);
    last.freeze().unwrap();
    let steps = json!([last.to_value(), reference]);
    app.apply(ok(1).set("chain", steps)).await.unwrap();
    assert_eq!(ended(&app, &id_of(&last)).await.result, json!(131));
}

#[tokio::test]
async fn a_chain_that_is_a_member_of_a_chord_arrives_also_when_it_fails() {
    let fleet = Fleet::with_python().await;
    let app = fleet.client();
    let header = [fail("member") | counting(30), counting(30)];
    let result = app.apply(chord(header, sum_and(10))).await.unwrap();
    let error = failure(&result).await;
    assert_eq!(error.exc_type, "ChordError");
    assert!(error.message().ends_with("raised ValueError('member')"));
}

#[tokio::test]
async fn a_task_that_is_tried_again_or_replaced_keeps_what_follows_it() {
    let fleet = Fleet::with_python().await;
    let app = fleet.client();
    let again = Signature::new("t.tick").kwarg("label", "a");
    let again = chain([again.kwarg("does", "retry"), ok(1), counting(20)]);
    assert_eq!(gives(&app, again | add(1)).await, json!(21));
    let swap = |canvas: Signature| Signature::new("t.replace").kwarg("canvas", canvas.to_value());
    let steps = || chain((0..20).map(|_| add(1)));
    assert_eq!(gives(&app, swap(ok(1) | add(1)) | steps()).await, json!(22));
    let by_group = swap(group([ok(1), ok(2)])) | sum() | steps();
    assert_eq!(gives(&app, by_group).await, json!(23));
    let by_chord = swap(chord([ok(1), ok(2)], sum())) | steps();
    assert_eq!(gives(&app, by_chord).await, json!(23));
    let in_header = chord([swap(group([ok(1), ok(2)])), ok(3)], echo() | counting(20));
    assert_eq!(gives(&app, in_header).await, json!(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_and_python_hand_references_to_each_other() {
    let fleet = Fleet::with_python().await;
    assert_eq!(gives(&fleet.client(), ok("ready")).await, "ready");
    let ran = Arc::new(AtomicU64::new(0));
    let counter = ran.clone();
    let count = task("t.add", move |_, call| {
        counter.fetch_add(1, Ordering::Relaxed);
        let sum = call.args.iter().filter_map(Value::as_i64).sum::<i64>();
        async move { Ok(json!(sum)) }
    });
    let app = fleet.app(builder().task_object(count));
    let worker = app
        .worker()
        .concurrency(1)
        .prefetch(1)
        .start()
        .await
        .unwrap();
    let chains = group((0..40).map(|_| counting(20)));
    assert_eq!(gives(&app, chains).await, json!(vec![20; 40]));
    let here = ran.load(Ordering::Relaxed);
    println!("of 760 steps, Rust ran {here}, and Python the others");
    assert!((1..760).contains(&here), "not mixed");
    let chords = (0..20).map(|n| {
        let member = |m: i64| ok(n) | chain((0..5).map(|_| add(m)));
        chord((0..6).map(member), sum_and(10))
    });
    let expected: Vec<i64> = (0..20).map(|n| 6 * n + 5 * 15 + 10).collect();
    assert_eq!(gives(&app, group(chords)).await, json!(expected));
    worker.stop().await;
}

#[tokio::test]
async fn every_pool_and_a_key_prefix_will_do() {
    let mut fleet = Fleet::start().await.under("shop");
    let app = fleet.client();
    for pool in ["solo", "threads", "prefork"] {
        fleet.join(Python {
            pool,
            imports: "",
            settings: Some("references_settings"),
        });
        assert_eq!(gives(&app, counting(50)).await, json!(50), "{pool}");
        let canvas = chord((0..10).map(ok), sum_and(10));
        assert_eq!(gives(&app, canvas).await, json!(55), "{pool}");
        fleet.dismiss();
    }
    let kept = fleet.kept().await;
    assert!(kept.iter().all(|key| key.starts_with("shop_canvas-ref-")));
}

#[tokio::test]
async fn a_chain_whose_rest_has_expired_says_so() {
    let fleet = Fleet::with_python().await;
    let app = fleet.client();
    // Once it has expired, the first step is still waiting for its time.
    let first = ok(1).countdown(Duration::from_secs(2));
    let last = app.apply(first | counting(20)).await.unwrap();
    fleet.expire().await;
    let error = failed_step(&app, last).await;
    assert_eq!(error.exc_type, "ImproperlyConfigured");
    assert!(error.message().starts_with("what follows it was kept as "));
    assert!(error.message().ends_with(", and has expired"));
}

#[tokio::test]
async fn a_chord_whose_body_has_expired_says_so() {
    let fleet = Fleet::with_python().await;
    let app = fleet.client();
    let header = (0..3).map(|n| ok(n).countdown(Duration::from_secs(2)));
    let mut body = sum().kwarg("padding", "x".repeat(1_000));
    body.freeze().unwrap();
    let id = id_of(&body);
    app.apply(chord(header, body)).await.unwrap();
    fleet.expire().await;
    let error = ended(&app, &id).await.exception().unwrap();
    assert_eq!(error.exc_type, "ChordError");
    assert!(error.message().contains("what follows it was kept as "));
}

#[tokio::test]
async fn a_worker_without_the_module_says_so_and_loses_what_follows() {
    let mut fleet = Fleet::start().await;
    fleet.join(Python {
        imports: "",
        ..PREFORK
    });
    let app = fleet.client();
    let last = app.apply(counting(20)).await.unwrap();
    let error = failed_step(&app, last).await;
    assert_eq!(error.to_string(), "KeyError: canvas.ref");
    let large = sum().kwarg("padding", "x".repeat(1_000));
    let body = app.apply(chord([ok(1), ok(2)], large)).await.unwrap();
    eventually("the worker says why", async || {
        let log = fleet.log();
        log.contains("Chord '") && log.contains("raised: KeyError('canvas.ref')")
    })
    .await;
    // Celery drops the chord then: nobody else ends it.
    assert_eq!(body.state().await.unwrap(), State::Pending);
}
