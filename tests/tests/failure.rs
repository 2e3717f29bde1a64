//! What becomes of a canvas when something in it fails. The rules are Celery's;
//! that every result ends is ours.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use canvas::broker::{ConsumeSpec, Settle};
use canvas::protocol::DeliveryInfo;
use canvas::{
    AsyncResult, Builder, Canvas, Effect, ExceptionInfo, Id, Outcome, Policy, Request, RetryPolicy,
    Signature, State, Task, TaskError, TaskOptions, WorkerExt, advance, chain, chord, chunks,
    group, map, task,
};
use canvas_tests::support::{
    Gate, Log, add, all_end, builder, echo, ended, eventually, fail, failure, ok, sum,
    task as task_of, task_with, value, value_error, work,
};
use chrono::Utc;
use serde_json::{Value, json};

fn build(builder: Builder) -> Canvas {
    builder.build().expect("memory:// needs nothing")
}

async fn apply(app: &Canvas, canvas: impl Into<Signature>) -> AsyncResult {
    app.apply(canvas).await.expect("memory:// takes everything")
}

fn note(log: &Log) -> Arc<dyn Task> {
    log.task("note")
}

fn call(task: &str) -> Signature {
    Signature::new(task)
}

async fn state(app: &Canvas, id: &str) -> State {
    ended(app, &id.into()).await.status
}

async fn exception(app: &Canvas, id: &str) -> ExceptionInfo {
    let meta = ended(app, &id.into()).await;
    meta.exception()
        .unwrap_or_else(|| panic!("{id} is {} {}", meta.status, meta.result))
}

// Groups, chains, chords

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_group_are_independent() {
    let app = build(builder());
    let worker = work(&app).await;
    let members = [
        ok(1).task_id("a"),
        fail("no").task_id("b"),
        ok(3).task_id("c"),
    ];
    let result = apply(&app, group(members)).await;
    assert_eq!(failure(&result).await.to_string(), "ValueError: no");
    assert_eq!(ended(&app, &"a".into()).await.result, json!(1));
    assert_eq!(ended(&app, &"c".into()).await.result, json!(3));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_step_stops_a_chain_and_the_rest_fails_with_the_cause_without_running() {
    let log = Log::new();
    let app = build(builder().task_object(note(&log)));
    let worker = work(&app).await;
    let canvas = chain([
        ok(1).task_id("first"),
        fail("no").task_id("failing"),
        call("note").task_id("third"),
        call("note").task_id("last"),
    ]);
    let result = apply(&app, canvas).await;
    assert_eq!(failure(&result).await.repr(), "ValueError('no')");
    assert_eq!(state(&app, "first").await, State::Success);
    for id in ["failing", "third", "last"] {
        assert_eq!(state(&app, id).await, State::Failure, "{id}");
        assert_eq!(exception(&app, id).await.repr(), "ValueError('no')", "{id}");
    }
    worker.stop().await;
    assert_eq!(app.broker().len("celery").await.unwrap(), 0);
    assert!(log.is_empty(), "{:?}", log.entries());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_member_fails_the_body_with_a_chord_error_that_names_it() {
    let log = Log::new();
    let app = build(builder().task_object(note(&log)));
    let worker = work(&app).await;
    let header = [
        ok(1).task_id("a"),
        fail("no").task_id("b"),
        ok(3).task_id("c"),
    ];
    let result = apply(&app, chord(header, call("note").task_id("body"))).await;
    let error = failure(&result).await;
    assert_eq!(error.exc_module, "celery.exceptions");
    assert_eq!(
        error.to_string(),
        "ChordError: Dependency b raised ValueError('no')"
    );
    // The others have their results.
    assert_eq!(state(&app, "a").await, State::Success);
    assert_eq!(state(&app, "c").await, State::Success);
    worker.stop().await;
    assert!(log.is_empty(), "the body ran: {:?}", log.entries());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_failed_members_the_first_in_the_header_is_named() {
    let (gate, started) = (Gate::new(), Log::new());
    let late = {
        let gate = gate.clone();
        let started = started.clone();
        task_of("late", move |_, _| {
            started.note("late");
            let gate = gate.clone();
            async move {
                gate.passed().await;
                Err(value_error("late"))
            }
        })
    };
    let app = build(builder().task_object(late));
    let worker = work(&app).await;
    let header = [ok(0), call("late").task_id("b"), fail("early").task_id("c")];
    let result = apply(&app, chord(header, sum())).await;
    started.reaches(1).await;
    assert_eq!(state(&app, "c").await, State::Failure);
    gate.open();
    let error = failure(&result).await;
    assert_eq!(error.message(), "Dependency b raised ValueError('late')");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_waits_for_all_members_even_once_one_has_failed() {
    let (gate, started) = (Gate::new(), Log::new());
    let app = build(builder().task_object(gate.task("slow", &started)));
    let worker = work(&app).await;
    let header = [fail("no").task_id("a"), call("slow").arg(2)];
    let result = apply(&app, chord(header, sum().task_id("body"))).await;
    started.reaches(1).await;
    assert_eq!(state(&app, "a").await, State::Failure);
    assert_eq!(result.state().await.unwrap(), State::Pending);
    gate.open();
    failure(&result).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_deep_in_nested_canvases_reaches_the_outermost_result() {
    // What follows a task is copied into its message, or kept and named there.
    for size in [usize::MAX, 1] {
        let app = build(builder().configure(|c| c.continuation_reference_size = Some(size)));
        let worker = work(&app).await;
        for (name, canvas) in nested_failures() {
            let result = apply(&app, canvas).await;
            let error = failure(&result).await;
            assert!(error.message().contains("deep cause"), "{name}: {error}");
            all_end(&result).await;
        }
        worker.stop().await;
        assert_eq!(app.broker().len("celery").await.unwrap(), 0);
    }
}

/// Canvases in which one task fails.
fn nested_failures() -> Vec<(&'static str, Signature)> {
    let bad = || fail("deep cause");
    let pair = || [bad(), ok(1)];
    vec![
        (
            "chord in chord",
            chord([chord(pair(), sum()), ok(1)], sum()),
        ),
        (
            "chord in chord in chain",
            ok(1) | chord([chord(pair(), sum()), ok(1)], sum()) | echo(),
        ),
        (
            "chain in group in chord",
            chord([group([chain([ok(1), bad(), ok(2)]), ok(3)]), ok(4)], sum()),
        ),
        (
            "failing body of a member",
            chord([chord([ok(1), ok(2)], bad()), ok(3)], sum()),
        ),
        (
            "last step of a member, more follows",
            chord([ok(1) | bad(), ok(1)], sum()) | echo() | echo(),
        ),
        (
            "first step of a member, more follows",
            chord([bad() | ok(1), ok(1)], sum()) | echo() | echo(),
        ),
        (
            "a body that is a chord",
            chord([ok(1), ok(2)], chord(pair(), sum())),
        ),
        (
            "a body that is a group, joined",
            chord([ok(1), ok(2)], group(pair())) | sum(),
        ),
        (
            "a body that is a chain",
            chord([ok(1), ok(2)], ok(1) | bad() | echo()),
        ),
        (
            "a member that is a chain that ends in a group",
            chord([ok(1) | group(pair())], sum()),
        ),
        (
            "a member that begins with a chord",
            chord([chord(pair(), sum()) | echo() | echo(), ok(1)], sum()),
        ),
        ("a map in a chain", ok(1) | map(bad(), [1, 2]) | echo()),
        (
            "chunks as a header",
            chunks(bad(), [json!([1]), json!([2])], 1) | sum(),
        ),
        (
            "a member without a result",
            chord([bad().ignore_result(true), ok(1)], sum()) | echo(),
        ),
        (
            "steps after the failing body of a chord",
            ok(1) | chord([ok(1), bad()], sum() | echo() | echo()) | echo() | echo(),
        ),
        (
            "twenty chords in each other",
            (0..20).fold(bad(), |inner, _| chord([inner, ok(1)], sum())),
        ),
        (
            "twenty of each in each other",
            (0..20).fold(bad(), |inner, n| match n % 3 {
                0 => chord([ok(1), inner], sum()),
                1 => ok(1) | inner | echo(),
                _ => chord([group([inner, ok(2)]), ok(3)], sum()),
            }),
        ),
    ]
}

// Callbacks and error callbacks

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_gets_the_value_and_runs_only_on_success() {
    let log = Log::new();
    let app = build(builder().task_object(note(&log)));
    let worker = work(&app).await;
    let good = apply(&app, ok(7).link(call("note").arg("after"))).await;
    assert_eq!(value(&good).await, json!(7));
    log.reaches(1).await;
    let bad = fail("no").link(call("note").task_id("callback"));
    let bad = apply(&app, bad).await;
    assert_eq!(failure(&bad).await.to_string(), "ValueError: no");
    // Whoever waits for the callback is told why it never runs.
    assert_eq!(
        exception(&app, "callback").await.to_string(),
        "ValueError: no"
    );
    worker.stop().await;
    assert_eq!(log.entries(), [json!([7, "after"])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_callback_does_not_get_the_value() {
    let log = Log::new();
    let app = build(builder().task_object(note(&log)));
    let worker = work(&app).await;
    apply(&app, ok(7).link(call("note").arg("alone").immutable())).await;
    log.reaches(1).await;
    worker.stop().await;
    assert_eq!(log.entries(), [json!(["alone"])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_callback_gets_request_exception_and_traceback() {
    #[task(name = "failing_with_cause")]
    async fn failing() -> Result<i64, OutOfLuck> {
        Err(OutOfLuck(Cause))
    }
    let calls = Log::new();
    let catch = {
        let calls = calls.clone();
        let options = TaskOptions {
            errback: true,
            ..TaskOptions::default()
        };
        task_with("catch", options, move |_, call| {
            calls.note(call.args);
            async { Ok(Value::Null) }
        })
    };
    let app = build(builder().task::<failing>().task_object(catch));
    let worker = work(&app).await;
    let canvas = Signature::from(failing::s()).task_id("failed");
    let canvas = canvas.link_error(call("catch").arg("own")).link(echo());
    let result = apply(&app, canvas).await;
    failure(&result).await;
    calls.reaches(1).await;
    worker.stop().await;
    let entries = calls.entries();
    assert_eq!(entries.len(), 1, "{entries:?}");
    let [request, exception, traceback, own] = entries[0].as_array().unwrap().as_slice() else {
        panic!("{entries:?}");
    };
    assert_eq!(request["id"], "failed");
    assert_eq!(request["task"], "failing_with_cause");
    assert_eq!(exception["exc_type"], "OutOfLuck");
    assert_eq!(exception["exc_message"], json!(["out of luck"]));
    assert!(
        traceback
            .as_str()
            .unwrap()
            .contains("caused by: a black cat"),
        "{traceback}"
    );
    assert_eq!(own, "own");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_other_error_callback_gets_the_id_of_the_task_that_failed() {
    let log = Log::new();
    let app = build(builder().task_object(note(&log)));
    let worker = work(&app).await;
    let canvas = fail("no")
        .task_id("failed")
        .link_error(call("note").arg("own"));
    apply(&app, canvas).await;
    // It may be a canvas as well.
    let canvas = fail("no")
        .task_id("again")
        .link_error(echo() | call("note"));
    apply(&app, canvas).await;
    log.reaches(2).await;
    worker.stop().await;
    let entries = log.entries();
    assert!(entries.contains(&json!(["failed", "own"])), "{entries:?}");
    assert!(entries.contains(&json!(["again"])), "{entries:?}");
    assert_eq!(entries.len(), 2, "{entries:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_callback_does_not_run_on_success() {
    let log = Log::new();
    let app = build(builder().task_object(log.errback("catch")));
    let worker = work(&app).await;
    let result = apply(&app, ok(1).link_error(call("catch"))).await;
    assert_eq!(value(&result).await, json!(1));
    worker.stop().await;
    assert!(log.is_empty(), "{:?}", log.entries());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_callback_of_a_chain_runs_once_for_the_step_that_failed() {
    let log = Log::new();
    let app = build(builder().task_object(log.errback("catch")));
    let worker = work(&app).await;
    let canvas = chain([
        ok(1).task_id("a"),
        fail("no").task_id("b"),
        ok(3).task_id("c"),
        ok(4).task_id("d"),
    ]);
    let result = apply(&app, canvas.link_error(call("catch"))).await;
    failure(&result).await;
    all_end(&result).await;
    worker.stop().await;
    assert_eq!(log.entries(), [json!(["b", "ValueError: no", []])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_callback_of_a_group_runs_once_for_each_member_that_failed() {
    let log = Log::new();
    let app = build(builder().task_object(log.errback("catch")));
    let worker = work(&app).await;
    let members = [fail("x").task_id("a"), ok(1), fail("y").task_id("c")];
    let result = apply(&app, group(members).link_error(call("catch"))).await;
    all_end(&result).await;
    worker.stop().await;
    let mut entries = log.entries();
    entries.sort_by_key(Value::to_string);
    assert_eq!(
        entries,
        [
            json!(["a", "ValueError: x", []]),
            json!(["c", "ValueError: y", []])
        ]
    );
}

/// The ids that the error callback of a chord was called with. Two of its
/// members fail.
async fn chord_errbacks(on_header: bool, body: Signature) -> Vec<String> {
    let log = Log::new();
    let app = build(
        builder()
            .task_object(log.errback("catch"))
            .configure(|c| c.task_allow_error_cb_on_chord_header = on_header),
    );
    let worker = work(&app).await;
    let header = [
        fail("x").task_id("a"),
        ok(1).task_id("b"),
        fail("y").task_id("c"),
    ];
    let result = apply(&app, chord(header, body).link_error(call("catch"))).await;
    let error = failure(&result).await;
    assert_eq!(error.message(), "Dependency a raised ValueError('x')");
    all_end(&result).await;
    worker.stop().await;
    let mut ids: Vec<String> = log
        .entries()
        .iter()
        .map(|entry| entry[0].as_str().unwrap_or("?").to_owned())
        .collect();
    ids.sort();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_callback_of_a_chord_runs_once_for_its_body() {
    assert_eq!(chord_errbacks(false, sum().task_id("body")).await, ["body"]);
    let body = sum().task_id("body") | echo();
    assert_eq!(chord_errbacks(false, body).await, ["body"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_callback_of_a_chord_also_runs_for_failed_members_where_allowed() {
    assert_eq!(
        chord_errbacks(true, sum().task_id("body")).await,
        ["a", "body", "c"]
    );
    let body = sum().task_id("body") | echo();
    assert_eq!(chord_errbacks(true, body).await, ["a", "body", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_members_own_error_callback_runs_for_the_member() {
    let log = Log::new();
    let app = build(builder().task_object(log.errback("catch")));
    let worker = work(&app).await;
    let member = fail("x")
        .task_id("a")
        .link_error(call("catch").arg("member"));
    let body = sum().task_id("body").link_error(call("catch").arg("body"));
    let result = apply(&app, chord([member, ok(1)], body)).await;
    failure(&result).await;
    worker.stop().await;
    assert_eq!(
        log.entries(),
        [
            json!(["a", "ValueError: x", ["member"]]),
            json!([
                "body",
                "ChordError: Dependency a raised ValueError('x')",
                ["body"]
            ]),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chord_in_a_header_calls_the_error_callbacks_of_the_outer_one_in_its_place() {
    let log = Log::new();
    let app = build(builder().task_object(log.errback("catch")));
    let worker = work(&app).await;
    let inner = chord([fail("x"), ok(1)], sum().task_id("inner"));
    let outer = chord([inner, ok(2)], sum().task_id("outer")).link_error(call("catch"));
    // Both are passed on to the inner one.
    let outer = outer.on_error(call("catch").arg("again"));
    let whole = chord(
        [outer, ok(3)],
        sum().task_id("whole").link_error(call("catch").arg("own")),
    );
    let whole = whole.link_error(call("catch"));
    let result = apply(&app, whole).await;
    failure(&result).await;
    worker.stop().await;
    let mut said: Vec<Value> = log
        .entries()
        .iter()
        .map(|entry| json!([entry[0], entry[2]]))
        .collect();
    said.sort_by_key(Value::to_string);
    let want = json!([["inner", ["again"]], ["inner", []], ["whole", ["own"]]]);
    assert_eq!(Value::Array(said), want);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_callback_of_a_member_leaves_the_chord_alone() {
    let app = build(builder());
    let worker = work(&app).await;
    let header = [ok(1).link(fail("no").task_id("callback")), ok(2)];
    let result = apply(&app, chord(header, sum())).await;
    assert_eq!(value(&result).await, json!(3));
    assert_eq!(state(&app, "callback").await, State::Failure);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_error_callback_changes_nothing() {
    let options = TaskOptions {
        errback: true,
        ..TaskOptions::default()
    };
    let failing = task_with("failing", options.clone(), |_, _| async {
        Err(value_error("in the callback"))
    });
    let panicking = task_with("panicking", options, |_, _| async {
        panic!("in the callback")
    });
    let app = build(builder().task_object(failing).task_object(panicking));
    let worker = work(&app).await;
    let member = fail("no").task_id("a");
    let member = member
        .link_error(call("failing"))
        .link_error(call("panicking"));
    let result = apply(&app, chord([member], sum())).await;
    assert_eq!(
        failure(&result).await.message(),
        "Dependency a raised ValueError('no')"
    );
    assert_eq!(exception(&app, "a").await.to_string(), "ValueError: no");
    assert_eq!(value(&apply(&app, ok("alive")).await).await, json!("alive"));
    worker.stop().await;
}

// Ignored results

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_result_is_ignored_still_feeds_the_body() {
    #[task(name = "ignoring", ignore_result)]
    async fn ignoring(n: i64) -> i64 {
        n
    }
    let app = build(builder().task::<ignoring>());
    let worker = work(&app).await;
    let header = [
        Signature::from(ignoring::s(1)).task_id("by-task"),
        ok(2).task_id("by-call").ignore_result(true),
        ok(3),
    ];
    let result = apply(&app, chord(header, sum())).await;
    assert_eq!(value(&result).await, json!(6));
    worker.stop().await;
    for id in ["by-task", "by-call"] {
        let stored = app.backend().load(&[Id::from(id)]).await.unwrap();
        assert_eq!(stored, [None], "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ignored_body_runs_and_nobody_waits_for_its_result() {
    let log = Log::new();
    let app = build(builder().task_object(note(&log)));
    let body = || call("note").ignore_result(true);
    let result = apply(&app, chord([ok(1), ok(2)], body())).await;
    // At once: no worker is there yet.
    assert_eq!(value(&result).await, Value::Null);
    let worker = work(&app).await;
    log.reaches(1).await;
    assert_eq!(log.entries(), [json!([[1, 2]])]);
    let failed = apply(&app, chord([fail("no").task_id("a"), ok(2)], body())).await;
    assert_eq!(state(&app, "a").await, State::Failure);
    worker.stop().await;
    assert_eq!(value(&failed).await, Value::Null);
    assert_eq!(failed.state().await.unwrap(), State::Pending);
    assert_eq!(log.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_ignored_results_are_stored_where_the_settings_say_so() {
    let app = build(builder().configure(|c| c.task_store_errors_even_if_ignored = true));
    let worker = work(&app).await;
    let canvas = chain([
        fail("no").ignore_result(true),
        ok(1).ignore_result(true).task_id("b"),
    ]);
    apply(&app, canvas).await;
    let stored = async || {
        let found = app.backend().load(&[Id::from("b")]).await.unwrap();
        found[0]
            .as_ref()
            .is_some_and(|meta| meta.status == State::Failure)
    };
    eventually("the error of an ignored step", stored).await;
    worker.stop().await;
}

// Retries

/// Fails this many times, and notes each run as the number of retries before.
fn flaky(failures: u32, log: &Log, options: TaskOptions) -> Arc<dyn Task> {
    let log = log.clone();
    task_with("flaky", options, move |ctx, _| {
        log.note(ctx.retries());
        let retry = ctx.retries() < failures;
        async move {
            if retry {
                let again = ctx.retry().countdown(Duration::ZERO);
                return Err(again.because(value_error("not yet")));
            }
            Ok(json!("done"))
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_may_ask_to_be_run_again() {
    let log = Log::new();
    let app = build(builder().task_object(flaky(2, &log, TaskOptions::default())));
    let worker = work(&app).await;
    let result = apply(&app, call("flaky").task_id("same")).await;
    assert_eq!(value(&result).await, json!("done"));
    worker.stop().await;
    assert_eq!(log.entries(), [0, 1, 2]);
    assert_eq!(state(&app, "same").await, State::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_keeps_its_place_in_the_canvas() {
    let log = Log::new();
    let app = build(
        builder()
            .task_object(flaky(1, &log, TaskOptions::default()))
            .task_object(note(&log)),
    );
    let worker = work(&app).await;
    let member = (call("flaky").link(call("note"))) | echo();
    let result = apply(&app, chord([member, ok("other")], echo()) | echo()).await;
    assert_eq!(value(&result).await, json!(["done", "other"]));
    log.reaches(3).await;
    worker.stop().await;
    assert_eq!(log.entries(), [json!(0), json!(1), json!(["done"])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_visible_with_its_cause_until_it_is_over() {
    let first = task_of("first", |ctx, _| async move {
        let again = ctx.retry().countdown(Duration::from_secs(3_600));
        Err(again.because(value_error("not yet")))
    });
    let app = build(builder().task_object(first));
    let worker = work(&app).await;
    let result = apply(&app, call("first")).await;
    let retried = async || result.state().await.unwrap() == State::Retry;
    eventually("state RETRY", retried).await;
    let meta = result.meta().await.unwrap();
    assert_eq!(meta.exception().unwrap().repr(), "ValueError('not yet')");
    assert_eq!(meta.date_done, None);
    assert!(!result.ready().await.unwrap());
    worker.stop().await;
    // It waits at the broker, not in the worker.
    assert_eq!(app.broker().len("celery").await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_does_not_run_before_its_countdown_is_over() {
    let log = Log::new();
    let timed = {
        let log = log.clone();
        task_of("timed", move |ctx, _| {
            let log = log.clone();
            async move {
                match ctx.request().headers.eta {
                    None => Err(ctx.retry().countdown(Duration::from_millis(150)).into()),
                    Some(eta) => {
                        log.note(Utc::now() >= eta);
                        Ok(Value::Null)
                    }
                }
            }
        })
    };
    let app = build(builder().task_object(timed));
    let worker = work(&app).await;
    let before = Utc::now();
    value(&apply(&app, call("timed")).await).await;
    assert!(Utc::now() - before >= chrono::Duration::milliseconds(150));
    assert_eq!(log.entries(), [true]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_no_retries_left_a_task_fails_with_the_cause() {
    let log = Log::new();
    let mut options = TaskOptions::default();
    options.retry.max_retries = Some(2);
    let app = build(builder().task_object(flaky(u32::MAX, &log, options)));
    let worker = work(&app).await;
    let result = apply(&app, call("flaky") | echo().task_id("next")).await;
    assert_eq!(failure(&result).await.repr(), "ValueError('not yet')");
    assert_eq!(
        exception(&app, "next").await.repr(),
        "ValueError('not yet')"
    );
    worker.stop().await;
    assert_eq!(log.entries(), [0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cause_a_task_fails_for_its_retries() {
    let log = Log::new();
    let again = {
        let log = log.clone();
        task_of("again", move |ctx, _| {
            log.note(ctx.retries());
            // This call's limit counts, not the task's.
            async move { Err(ctx.retry().countdown(Duration::ZERO).max_retries(1).into()) }
        })
    };
    let app = build(builder().task_object(again));
    let worker = work(&app).await;
    let result = apply(&app, call("again").arg(5).task_id("x")).await;
    let error = failure(&result).await;
    assert_eq!(error.exc_type, "MaxRetriesExceededError");
    assert_eq!(error.exc_module, "celery.exceptions");
    assert_eq!(error.message(), "Can't retry again[x] args:(5,) kwargs:{}");
    worker.stop().await;
    assert_eq!(log.entries(), [0, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_may_have_other_arguments() {
    let halve = task_of("halve", |ctx, call| async move {
        match call.args[0].as_i64().unwrap_or(0) {
            n if n > 1 => {
                let again = ctx.retry().countdown(Duration::ZERO);
                Err(again.arguments(vec![json!(n / 2)], call.kwargs).into())
            }
            n => Ok(json!([n, ctx.retries()])),
        }
    });
    let app = build(builder().task_object(halve));
    let worker = work(&app).await;
    let result = apply(&app, call("halve").arg(8)).await;
    assert_eq!(value(&result).await, json!([1, 3]));
    worker.stop().await;
}

/// How often a task ran that fails with this type of error and is retried on
/// these kinds, but not on those.
async fn runs_with(error: &'static str, on: &[&str], but_not: &[&str]) -> usize {
    let log = Log::new();
    let names = |kinds: &[&str]| kinds.iter().map(|kind| (*kind).to_owned()).collect();
    let options = TaskOptions {
        retry: RetryPolicy {
            max_retries: Some(2),
            delay: Duration::ZERO,
            autoretry_for: names(on),
            dont_autoretry_for: names(but_not),
            ..RetryPolicy::default()
        },
        ..TaskOptions::default()
    };
    let failing = {
        let log = log.clone();
        task_with("failing", options, move |_, _| {
            log.note(error);
            async move {
                match error {
                    "panic" => panic!("as if by accident"),
                    "Ignore" => Err(TaskError::Ignore),
                    kind => Err(TaskError::failed(ExceptionInfo::builtin(kind, "again"))),
                }
            }
        })
    };
    let app = build(builder().task_object(failing));
    let worker = work(&app).await;
    let result = apply(&app, call("failing")).await;
    let meta = ended(&app, result.id()).await;
    assert_ne!(meta.status, State::Success);
    worker.stop().await;
    log.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_of_error_are_retried_without_the_task_asking() {
    assert_eq!(runs_with("OSError", &["OSError"], &[]).await, 3);
    assert_eq!(runs_with("OSError", &["KeyError", "OSError"], &[]).await, 3);
    assert_eq!(runs_with("KeyError", &["OSError"], &[]).await, 1);
    assert_eq!(runs_with("OSError", &["*"], &[]).await, 3);
    assert_eq!(runs_with("OSError", &["*"], &["OSError"]).await, 1);
    assert_eq!(runs_with("KeyError", &["*"], &["OSError"]).await, 3);
    assert_eq!(runs_with("panic", &["Panic"], &[]).await, 3);
    assert_eq!(runs_with("Ignore", &["*"], &[]).await, 1);
}

#[test]
fn a_backoff_doubles_up_to_its_limit_and_jitter_takes_a_random_part_of_it() {
    let exact = RetryPolicy {
        backoff: Some(Duration::from_secs(3)),
        backoff_max: Duration::from_secs(100),
        jitter: false,
        ..RetryPolicy::default()
    };
    let delays: Vec<u64> = [0, 1, 2, 5, 6, 31, 32, u32::MAX]
        .map(|retries| exact.automatic_delay(retries).as_secs())
        .to_vec();
    assert_eq!(delays, [3, 6, 12, 96, 100, 100, 100, 100]);
    let jittered = RetryPolicy {
        jitter: true,
        ..exact.clone()
    };
    for retries in 0..8 {
        let full = exact.automatic_delay(retries);
        let some: Vec<Duration> = (0..200)
            .map(|_| jittered.automatic_delay(retries))
            .collect();
        assert!(
            some.iter().all(|delay| *delay <= full),
            "{retries}: {some:?}"
        );
        // Spread over the whole, not around a point of it.
        let below = some.iter().filter(|delay| **delay < full / 2).count();
        assert!(
            (40..160).contains(&below),
            "{retries}: {below} of 200 in the lower half"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_automatic_retry_waits_for_its_backoff() {
    #[task(name = "backing_off", autoretry_for("ValueError"), max_retries = none, retry_backoff = 4, retry_backoff_max = 20)]
    async fn backing_off() -> Result<i64, TaskError> {
        Err(value_error("again"))
    }
    let app = build(builder().task::<backing_off>());
    apply(&app, backing_off::s()).await;
    let mut request = received(&app).await;
    for (retries, longest) in [(0, 4), (1, 8), (2, 16), (3, 20), (40, 20)] {
        request.headers.retries = retries;
        let now = Utc::now();
        let outcome = Outcome::Error(value_error("again"));
        let step = advance(app.env(), &request, outcome, Vec::new(), now);
        let again = step.effects.iter().find_map(|effect| match effect {
            Effect::Publish(outgoing) => Some(&outgoing.message),
            _ => None,
        });
        let again = again.expect("it is sent again");
        assert_eq!(again.headers.retries, retries + 1);
        assert_eq!(again.headers.id, Some(request.id.clone()));
        let wait = again
            .headers
            .eta
            .map_or(0, |eta| (eta - now).num_milliseconds());
        assert!(
            (0..=longest * 1_000).contains(&wait),
            "{retries}: {wait} ms"
        );
    }
}

/// The request of the message that waits in the default queue.
async fn received(app: &Canvas) -> Request {
    let spec = ConsumeSpec {
        queues: vec!["celery".into()],
        prefetch: 1,
        lease: Duration::from_secs(60),
    };
    let mut consumer = app.broker().consume(spec).await.unwrap();
    let delivery = consumer.next().await.unwrap().expect("a message");
    let request = Request::decode(&delivery.message, DeliveryInfo::default()).unwrap();
    app.broker()
        .settle(&delivery.receipt, Settle::Ack)
        .await
        .unwrap();
    request
}

// Errors as data

#[derive(Debug)]
struct OutOfLuck(Cause);

#[derive(Debug)]
struct Cause;

impl fmt::Display for OutOfLuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of luck")
    }
}

impl StdError for OutOfLuck {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a black cat")
    }
}

impl StdError for Cause {}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_is_stored_as_celery_stores_it() {
    #[task(name = "unlucky")]
    async fn unlucky() -> Result<i64, OutOfLuck> {
        Err(OutOfLuck(Cause))
    }
    let app = build(builder().task::<unlucky>());
    let worker = work(&app).await;
    let result = apply(&app, Signature::from(unlucky::s()).task_id("u")).await;
    failure(&result).await;
    worker.stop().await;
    let stored = result.meta().await.unwrap().to_json().unwrap();
    let stored: Value = serde_json::from_slice(&stored).unwrap();
    assert_eq!(stored["status"], "FAILURE");
    assert_eq!(stored["task_id"], "u");
    assert_eq!(
        stored["result"],
        json!({
            "exc_type": "OutOfLuck",
            "exc_message": ["out of luck"],
            "exc_module": "failure",
        })
    );
    let traceback = stored["traceback"].as_str().unwrap();
    assert!(
        traceback.starts_with("failure::OutOfLuck: out of luck"),
        "{traceback}"
    );
    assert!(traceback.contains("caused by: a black cat"), "{traceback}");
    assert!(
        stored["date_done"].as_str().unwrap().ends_with("+00:00"),
        "{stored}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_a_python_type_keeps_its_type_module_and_arguments() {
    let raising = task_of("raising", |_, _| async {
        let mut error = ExceptionInfo::new("shop.errors", "SoldOut", "");
        error.exc_message = vec![json!("socks"), json!(42)];
        Err(TaskError::failed(error))
    });
    let app = build(builder().task_object(raising));
    let worker = work(&app).await;
    let result = apply(&app, call("raising")).await;
    let error = failure(&result).await;
    assert_eq!(error.repr(), "SoldOut('socks', 42)");
    assert_eq!(error.exc_module, "shop.errors");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_a_failure_with_its_message_and_the_worker_lives() {
    #[task(name = "panics_async")]
    async fn panics_async() {
        panic!("an async mishap, number {}", 1);
    }
    #[task(name = "panics_blocking")]
    fn panics_blocking() {
        panic!("a blocking mishap");
    }
    #[task(name = "panics_oddly")]
    fn panics_oddly() {
        std::panic::panic_any(42);
    }
    let app = build(
        builder()
            .task::<panics_async>()
            .task::<panics_blocking>()
            .task::<panics_oddly>(),
    );
    let worker = app.worker().concurrency(1).start().await.unwrap();
    for (signature, message) in [
        (
            Signature::from(panics_async::s()),
            "an async mishap, number 1",
        ),
        (panics_blocking::s().into(), "a blocking mishap"),
        (panics_oddly::s().into(), "a panic without a message"),
    ] {
        let result = apply(&app, signature | echo()).await;
        let error = failure(&result).await;
        assert_eq!(error.exc_type, "Panic");
        assert_eq!(error.message(), message);
        let failed = result.parent().unwrap();
        let traceback = failed.traceback().await.unwrap().unwrap();
        assert!(traceback.contains(message), "{traceback}");
        // Its only slot is free again.
        assert_eq!(value(&apply(&app, ok("alive")).await).await, json!("alive"));
    }
    worker.stop().await;
}

#[task(name = "pair")]
async fn pair(x: i64, y: i64, #[default] z: Option<i64>) -> i64 {
    x + y + z.unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_arguments_are_a_type_error_that_names_them() {
    let app = build(builder().task::<pair>());
    let worker = work(&app).await;
    let pair = |args: Value| call("pair").args(args.as_array().unwrap().clone());
    for (signature, message) in [
        (
            pair(json!(["one", 2])),
            "pair() argument 'x' cannot be 'one'",
        ),
        (pair(json!([1, 2.5])), "pair() argument 'y' cannot be 2.5"),
        (
            pair(json!([1, 2])).kwarg("z", "three"),
            "pair() argument 'z' cannot be 'three'",
        ),
        (pair(json!([1])), "pair() missing required argument: 'y'"),
        (pair(json!([])), "pair() missing required argument: 'x'"),
        (
            pair(json!([1, 2, 3, 4])),
            "pair() takes 3 positional arguments but 4 were given",
        ),
        (
            pair(json!([1, 2])).kwarg("q", 1),
            "pair() got an unexpected keyword argument 'q'",
        ),
        (
            pair(json!([1, 2])).kwarg("x", 1),
            "pair() got multiple values for argument 'x'",
        ),
    ] {
        let shown = signature.to_string();
        let error = failure(&apply(&app, signature).await).await;
        assert_eq!(error.exc_type, "TypeError", "{shown}");
        assert_eq!(error.exc_module, "builtins", "{shown}");
        assert!(error.message().starts_with(message), "{shown}: {error}");
    }
    let fine = pair(json!([1])).kwarg("y", 2);
    assert_eq!(value(&apply(&app, fine).await).await, json!(3));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_has_no_json_form_is_an_error() {
    #[task(name = "unserialisable")]
    async fn unserialisable() -> HashMap<(i64, i64), i64> {
        HashMap::from([((1, 2), 3)])
    }
    let app = build(builder().task::<unserialisable>());
    let worker = work(&app).await;
    let result = apply(&app, Signature::from(unserialisable::s()) | echo()).await;
    let error = failure(&result).await;
    assert_eq!(error.exc_type, "EncodeError");
    assert!(error.message().contains("unserialisable()"), "{error}");
    assert!(error.message().contains("no JSON form"), "{error}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_nested_too_deeply_ends_what_waits_for_it() {
    let deep = task_of("deep", |_, _| async {
        Ok((0..2 * canvas_core::MAX_DEPTH).fold(Value::Null, |inner, _| Value::Array(vec![inner])))
    });
    let app = build(builder().task_object(deep));
    let worker = work(&app).await;
    let alone = failure(&apply(&app, call("deep")).await).await;
    assert_eq!(alone.exc_type, "EncodeError");
    for canvas in [
        call("deep") | echo() | echo() | echo(),
        chord([call("deep"), ok(1)], echo()) | echo(),
        call("deep").link(echo().task_id("callback")) | echo(),
    ] {
        let shown = canvas.to_string();
        let result = apply(&app, canvas).await;
        let error = failure(&result).await;
        assert!(error.message().contains("nested"), "{shown}: {error}");
        all_end(&result).await;
    }
    assert_eq!(state(&app, "callback").await, State::Failure);
    worker.stop().await;
}

// Ends that are neither success nor failure

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_rejects_its_message_fails_and_leaves_a_dead_letter() {
    let rejecting = task_of("rejecting", |_, _| async {
        Err(TaskError::Reject {
            reason: "not for me".to_owned(),
            requeue: false,
        })
    });
    let app = build(builder().task_object(rejecting));
    let worker = work(&app).await;
    let canvas = chord([call("rejecting").task_id("a"), ok(1)], sum());
    let error = failure(&apply(&app, canvas).await).await;
    assert_eq!(error.message(), "Dependency a raised Reject('not for me')");
    assert_eq!(exception(&app, "a").await.to_string(), "Reject: not for me");
    worker.stop().await;
    let dead = app.broker().dead_letters("celery").await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].message.headers.id, Some("a".into()));
    assert_eq!(dead[0].reason, "not for me");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_rejects_its_message_may_have_it_requeued() {
    for acks_late in [true, false] {
        let log = Log::new();
        let choosy = {
            let log = log.clone();
            task_of("choosy", move |ctx, _| {
                log.note(ctx.request().delivery.redelivered);
                let refuse = log.len() < 3;
                async move {
                    if refuse {
                        return Err(TaskError::Reject {
                            reason: "not now".to_owned(),
                            requeue: true,
                        });
                    }
                    Ok(json!("at last"))
                }
            })
        };
        let app = build(
            builder()
                .task_object(choosy)
                .configure(|c| c.task_acks_late = acks_late),
        );
        let worker = work(&app).await;
        let result = apply(&app, call("choosy") | echo()).await;
        if acks_late {
            assert_eq!(value(&result).await, json!("at last"));
            assert_eq!(log.entries(), [false, true, true]);
        } else {
            // There is nothing left to requeue, so it ends.
            assert_eq!(failure(&result).await.to_string(), "Reject: not now");
            assert_eq!(log.entries(), [false]);
        }
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_asks_to_be_ignored_ends_what_depends_on_it() {
    let ignoring = task_of("ignoring", |_, _| async { Err(TaskError::Ignore) });
    let app = build(builder().task_object(ignoring));
    let worker = work(&app).await;
    let alone = apply(&app, call("ignoring").task_id("alone")).await;
    assert_eq!(state(&app, "alone").await, State::Ignored);
    assert!(alone.ready().await.unwrap());
    let chained = apply(&app, call("ignoring") | echo()).await;
    assert_eq!(failure(&chained).await.exc_type, "Ignore");
    let joined = apply(&app, chord([call("ignoring").task_id("a"), ok(1)], sum())).await;
    let error = failure(&joined).await;
    assert!(
        error.message().starts_with("Dependency a raised Ignore("),
        "{error}"
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_called_off_ends_the_chord() {
    let (gate, started) = (Gate::new(), Log::new());
    let app = build(builder().task_object(gate.task("slow", &started)));
    let worker = work(&app).await;
    let header = [call("slow").task_id("a"), ok(1)];
    let result = apply(&app, chord(header, sum()) | echo()).await;
    started.reaches(1).await;
    app.revoke(&["a".into()], true).await.unwrap();
    let error = failure(&result).await;
    assert_eq!(
        error.message(),
        "Dependency a raised TaskRevokedError('terminated')"
    );
    assert_eq!(state(&app, "a").await, State::Revoked);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_expires_ends_the_chord() {
    let app = build(builder());
    let header = [ok(1).task_id("a").expires_in(Duration::ZERO), ok(1)];
    let result = apply(&app, chord(header, sum()) | echo()).await;
    let worker = work(&app).await;
    let error = failure(&result).await;
    assert_eq!(
        error.message(),
        "Dependency a raised TaskRevokedError('expired')"
    );
    assert_eq!(state(&app, "a").await, State::Revoked);
    worker.stop().await;
}

// Policies

/// What the body of a chord with this policy gets, or the error it ends with.
async fn under(policy: Policy, header: Vec<Signature>) -> Result<Value, String> {
    let log = Log::new();
    let app = build(builder().task_object(note(&log)));
    let worker = work(&app).await;
    let canvas = chord(header, call("note")).policy(policy);
    let result = apply(&app, canvas).await;
    let got = result.get_timeout(canvas_tests::support::PATIENCE).await;
    all_end(&result).await;
    worker.stop().await;
    let runs = log.entries();
    match got {
        Ok(got) => {
            assert_eq!(runs, [json!([got])], "the body runs once");
            Ok(got)
        }
        Err(error) => {
            assert!(runs.is_empty(), "the body ran: {runs:?}");
            Err(error.to_string())
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_runs_the_body_with_one_result() {
    let header = vec![fail("x"), ok("b"), fail("y")];
    assert_eq!(under(Policy::Any, header).await, Ok(json!(["b"])));
    let all_fail = vec![fail("x").task_id("a"), fail("y").task_id("b")];
    let error = under(Policy::Any, all_fail).await.unwrap_err();
    assert!(
        error.contains("ChordError: Dependency a raised ValueError('x')"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn at_least_k_runs_the_body_with_k_results() {
    let header = || vec![ok("a"), fail("x").task_id("b"), ok("c"), fail("y")];
    assert_eq!(
        under(Policy::AtLeast(2), header()).await,
        Ok(json!(["a", "c"]))
    );
    let error = under(Policy::AtLeast(3), header()).await.unwrap_err();
    assert!(
        error.contains("ChordError: Dependency b raised ValueError('x')"),
        "{error}"
    );
    // More than there are means all.
    let two = vec![ok("a"), ok("b")];
    assert_eq!(under(Policy::AtLeast(9), two).await, Ok(json!(["a", "b"])));
}

#[tokio::test(flavor = "multi_thread")]
async fn collect_runs_the_body_with_values_and_errors() {
    let error = |why: &str| {
        json!({ "error": {
            "exc_type": "ValueError", "exc_message": [why], "exc_module": "builtins",
        }})
    };
    let header = vec![ok(1), fail("x"), ok(Value::Null)];
    let want = json!([{ "ok": 1 }, error("x"), { "ok": null }]);
    assert_eq!(under(Policy::Collect, header).await, Ok(want));
    let all_fail = vec![fail("x"), fail("y")];
    let want = json!([error("x"), error("y")]);
    assert_eq!(under(Policy::Collect, all_fail).await, Ok(want));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_runs_the_body_once_while_others_still_run() {
    for (policy, want) in [
        (Policy::Any, json!(["a"])),
        (Policy::AtLeast(2), json!(["a", "b"])),
    ] {
        let (gate, log) = (Gate::new(), Log::new());
        let started = Log::new();
        let app = build(
            builder()
                .task_object(note(&log))
                .task_object(gate.task("slow", &started)),
        );
        let worker = work(&app).await;
        let quick: Vec<Signature> = match policy {
            Policy::Any => vec![ok("a")],
            _ => vec![ok("a"), ok("b")],
        };
        let slow = [
            call("slow").arg("late").task_id("slow"),
            call("slow").arg("later"),
        ];
        let canvas = chord(quick.into_iter().chain(slow), call("note"));
        let result = apply(&app, canvas.policy(policy)).await;
        assert_eq!(value(&result).await, want, "{policy:?}");
        assert_eq!(app.result("slow").state().await.unwrap(), State::Pending);
        started.reaches(2).await;
        gate.open();
        all_end(&result).await;
        worker.stop().await;
        assert_eq!(app.broker().len("celery").await.unwrap(), 0);
        assert_eq!(log.entries(), [json!([want])], "{policy:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_callback_of_a_chord_under_a_policy_runs_when_it_cannot_be_met() {
    let log = Log::new();
    let app = build(builder().task_object(log.errback("catch")));
    let worker = work(&app).await;
    let body = || sum().task_id("body").link_error(call("catch"));
    let met = chord([ok(1), fail("x")], body()).policy(Policy::Any);
    assert_eq!(value(&apply(&app, met).await).await, json!(1));
    let unmet = chord([fail("x").task_id("a"), fail("y")], sum().task_id("unmet"));
    let unmet = unmet.link_error(call("catch")).policy(Policy::Any);
    failure(&apply(&app, unmet | add(1)).await).await;
    worker.stop().await;
    let want = json!([
        "unmet",
        "ChordError: Dependency a raised ValueError('x')",
        []
    ]);
    assert_eq!(log.entries(), [want]);
}
