//! Work that is decided at run time: replacing a task, adding to a chord,
//! launching more, and primitives of one's own.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

use std::sync::Arc;
use std::time::Duration;

use canvas::{
    Arguments, AsyncResult, Builder, Canvas, Error, Id, Primitive, ResultTree, Signature, State,
    Task, TaskError, WorkerExt, chain, chord, chunks, group, map, starmap,
};
use canvas_tests::support::{
    Gate, Log, add, all_end, args, builder, echo, ended, fail, failure, ok, sum, task, value,
    value_error, work,
};
use serde_json::{Value, json};

fn build(builder: Builder) -> Canvas {
    builder
        .task_object(task("swap", |ctx, call| async move {
            Err(ctx.replace(Signature::from_value(call.kwargs["canvas"].clone())?))
        }))
        .primitive(Each)
        .build()
        .expect("memory:// needs nothing")
}

async fn apply(app: &Canvas, canvas: impl Into<Signature>) -> AsyncResult {
    app.apply(canvas).await.expect("memory:// takes everything")
}

/// The value of a canvas on a worker of its own, all of whose results end.
async fn run(canvas: impl Into<Signature>) -> Value {
    let app = build(builder());
    let worker = work(&app).await;
    let result = apply(&app, canvas).await;
    let value = value(&result).await;
    all_end(&result).await;
    worker.stop().await;
    assert_eq!(app.broker().len("celery").await.unwrap(), 0);
    value
}

/// A task that is replaced by a canvas.
fn swap(canvas: impl Into<Signature>) -> Signature {
    Signature::new("swap").kwarg("canvas", canvas.into())
}

fn call(task: &str) -> Signature {
    Signature::new(task)
}

/// Notes the id, parent, root and how often it was replaced of the task that
/// runs, and returns its first argument.
fn lineage(log: &Log) -> Arc<dyn Task> {
    let log = log.clone();
    task("lineage", move |ctx, call| {
        let headers = &ctx.request().headers;
        log.note(json!([
            ctx.id(),
            headers.parent_id,
            headers.root_id,
            headers.replaced_task_nesting
        ]));
        async move { Ok(call.args.into_iter().next().unwrap_or_default()) }
    })
}

fn empty() -> Signature {
    group::<Signature>([])
}

// Replacing

/// Canvases and their values, that of a group being a list.
fn canvases() -> Vec<(Signature, Value)> {
    vec![
        (ok(1), json!(1)),
        (ok(1) | add(2) | add(3), json!(6)),
        (group([ok(1), ok(2)]), json!([1, 2])),
        (group([ok(1)]), json!([1])),
        (group([ok(1) | add(1), ok(2)]), json!([2, 2])),
        (ok(1) | group([add(1), add(2)]), json!([2, 3])),
        (chord([ok(1), ok(2)], sum()), json!(3)),
        (
            chord([ok(1), ok(2)], group([sum(), echo()])),
            json!([3, [1, 2]]),
        ),
        (chord([ok(1), ok(2)], sum() | add(4)), json!(7)),
        (
            ok(1) | chord([chord([add(1), add(2)], sum()), ok(3)], sum()) | add(1),
            json!(9),
        ),
        (chord([ok(1), group([ok(2), ok(3)])], sum()), json!(6)),
        (map(add(1), [1, 2]), json!([2, 3])),
        (
            chunks(add(0), [json!([1, 2]), json!([3, 4]), json!([5, 6])], 2),
            json!([[3, 7], [11]]),
        ),
        (swap(ok(7)), json!(7)),
        (
            swap(group([swap(ok(1)), swap(ok(1) | add(1))])),
            json!([1, 2]),
        ),
        (empty(), json!([])),
        (chain([empty()]), json!([])),
        (chord::<Signature>([], echo()), json!([])),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_may_be_replaced_by_any_canvas_and_its_result_id_stays() {
    let app = build(builder());
    let worker = work(&app).await;
    for (canvas, want) in canvases() {
        let shown = canvas.to_string();
        let result = apply(&app, swap(canvas)).await;
        assert_eq!(value(&result).await, want, "{shown}");
        let meta = ended(&app, result.id()).await;
        assert_eq!(
            (meta.status, meta.result),
            (State::Success, want),
            "{shown}"
        );
    }
    worker.stop().await;
    assert_eq!(app.broker().len("celery").await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_takes_the_tasks_place_wherever_that_is() {
    for (canvas, want) in canvases() {
        let shown = canvas.to_string();
        let before = ok("before") | swap(canvas.clone()).immutable();
        assert_eq!(run(before).await, want, "last step: {shown}");
        let mid = ok("before") | swap(canvas.clone()).immutable() | echo() | args();
        assert_eq!(run(mid).await, json!([want]), "mid-chain: {shown}");
        let header = chord([ok("a"), swap(canvas.clone()), ok("c")], echo());
        assert_eq!(
            run(header).await,
            json!(["a", want, "c"]),
            "header: {shown}"
        );
        let member = chord([ok("a"), swap(canvas.clone()) | echo()], echo());
        assert_eq!(
            run(member).await,
            json!(["a", want]),
            "first of a member: {shown}"
        );
        let body = chord([ok("a"), ok("b")], swap(canvas.clone()).immutable());
        assert_eq!(run(body).await, want, "body: {shown}");
        let body = chord(
            [ok("a"), ok("b")],
            swap(canvas.clone()).immutable() | args(),
        );
        assert_eq!(run(body).await, json!([want]), "first of a body: {shown}");
        let fanned = swap(canvas.clone()) | group([echo(), args()]);
        assert_eq!(
            run(fanned).await,
            json!([want, [want]]),
            "before a group: {shown}"
        );
        let grouped = ok(0) | group([swap(canvas).immutable(), ok("b")]);
        assert_eq!(
            run(grouped).await,
            json!([want, "b"]),
            "in a last group: {shown}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_is_given_what_the_task_gives_it() {
    // The task's own arguments are its affair.
    let halve = task("halve", |ctx, call| async move {
        match call.args[0].as_i64().unwrap_or(0) {
            n if n > 1 => Err(ctx.replace(call_again(n / 2))),
            n => Ok(json!([n, ctx.request().headers.replaced_task_nesting])),
        }
    });
    fn call_again(n: i64) -> Signature {
        Signature::new("halve").arg(n)
    }
    let app = build(builder().task_object(halve));
    let worker = work(&app).await;
    let result = apply(&app, call_again(64).task_id("same") | echo()).await;
    assert_eq!(value(&result).await, json!([1, 6]));
    assert_eq!(ended(&app, &"same".into()).await.result, json!([1, 6]));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callbacks_move_to_the_replacement() {
    for (canvas, want) in canvases() {
        let shown = canvas.to_string();
        let log = Log::new();
        let app = build(builder().task_object(log.task("note")));
        let worker = work(&app).await;
        let result = apply(&app, swap(canvas).link(call("note"))).await;
        assert_eq!(value(&result).await, want, "{shown}");
        log.reaches(1).await;
        worker.stop().await;
        assert_eq!(log.entries(), [json!([want])], "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn error_callbacks_move_to_the_replacement() {
    let error = "ValueError: no";
    let chord_error = "ChordError: Dependency b raised ValueError('no')";
    for (canvas, want) in [
        (fail("no"), vec![json!(["id", error, []])]),
        (
            ok(1) | fail("no").task_id("b"),
            vec![json!(["id", error, []])],
        ),
        (
            fail("no").task_id("b") | ok(1),
            vec![json!(["b", error, []])],
        ),
        (
            chord([fail("no").task_id("b"), ok(1)], sum()),
            vec![json!(["id", chord_error, []])],
        ),
        (
            chord([ok(1), ok(1)], fail("no")),
            vec![json!(["id", error, []])],
        ),
    ] {
        let shown = canvas.to_string();
        let log = Log::new();
        let app = build(builder().task_object(log.errback("catch")));
        let worker = work(&app).await;
        let task = swap(canvas).task_id("id").link_error(call("catch"));
        let result = apply(&app, task | echo()).await;
        failure(&result).await;
        worker.stop().await;
        assert_eq!(log.entries(), want, "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_in_the_replacement_is_the_tasks() {
    let app = build(builder());
    let worker = work(&app).await;
    for canvas in [
        fail("deep cause"),
        fail("deep cause") | ok(1),
        ok(1) | group([fail("deep cause"), ok(1)]),
        group([ok(1), fail("deep cause")]),
        chord([chord([fail("deep cause"), ok(1)], sum()), ok(1)], sum()),
        swap(swap(fail("deep cause")) | ok(1)),
    ] {
        let shown = canvas.to_string();
        let member = swap(canvas).task_id(Id::random());
        let id = member.id().unwrap();
        let result = apply(&app, chord([ok(1), member], sum()) | echo()).await;
        let error = failure(&result).await;
        assert!(error.message().contains("deep cause"), "{shown}: {error}");
        let named = format!("Dependency {id} raised ");
        assert!(error.message().starts_with(&named), "{shown}: {error}");
        all_end(&result).await;
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_that_makes_no_sense_is_an_error_that_says_so() {
    let app = build(builder());
    let worker = work(&app).await;
    let mut no_body = chord([ok(1)], sum()).to_value();
    no_body["kwargs"]["body"] = Value::Null;
    for (canvas, message) in [
        (chain::<Signature>([]), "empty chain"),
        (
            Signature::from_value(no_body).unwrap(),
            "a chord needs a body",
        ),
        (ok(1).set("chord", sum()), "in a chord already"),
    ] {
        let shown = canvas.to_string();
        let result = apply(&app, chord([swap(canvas), ok(1)], sum()) | echo()).await;
        let error = failure(&result).await;
        assert!(
            error.message().contains("ImproperlyConfigured("),
            "{shown}: {error}"
        );
        assert!(error.message().contains(message), "{shown}: {error}");
        all_end(&result).await;
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_keeps_parent_and_root_and_counts_how_often() {
    let log = Log::new();
    let app = build(builder().task_object(lineage(&log)));
    let worker = work(&app).await;
    let twice = swap(swap(call("lineage"))).immutable().task_id("b");
    let result = apply(&app, ok(1).task_id("a") | twice | echo()).await;
    value(&result).await;
    worker.stop().await;
    assert_eq!(log.entries(), [json!(["b", "a", "a", 2])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_a_result_is_kept_is_for_the_replaced_task_to_say() {
    let log = Log::new();
    let app = build(builder().task_object(log.task("note")));
    let worker = work(&app).await;
    let kept = apply(&app, swap(ok(1).ignore_result(true))).await;
    assert_eq!(value(&kept).await, json!(1));
    let dropped = swap(ok(1)).task_id("dropped").ignore_result(true);
    apply(&app, dropped.link(call("note"))).await;
    log.reaches(1).await;
    worker.stop().await;
    assert_eq!(
        app.backend().load(&["dropped".into()]).await.unwrap(),
        [None]
    );
}

// Adding to a chord

/// A task that adds a canvas to the chord it is in and returns its argument.
fn adder(canvas: Signature) -> Arc<dyn Task> {
    task("adder", move |ctx, call| {
        let canvas = canvas.clone();
        async move {
            ctx.add_to_chord(canvas).await?;
            Ok(call.args.into_iter().next().unwrap_or_default())
        }
    })
}

/// What the body is given, as one sorted list: what was added has no place of
/// its own in the header.
async fn with_added(canvas: Signature) -> Vec<i64> {
    let app = build(builder().task_object(adder(canvas)));
    let worker = work(&app).await;
    let result = apply(&app, chord([call("adder").arg(1), ok(2)], echo())).await;
    let got: Vec<Value> = serde_json::from_value(value(&result).await).unwrap();
    all_end(&result).await;
    worker.stop().await;
    let mut got: Vec<i64> = got.iter().map(|n| n.as_i64().unwrap()).collect();
    got.sort_unstable();
    got
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_may_add_to_its_chord_and_the_body_waits_for_that() {
    assert_eq!(with_added(ok(10)).await, [1, 2, 10]);
    assert_eq!(with_added(ok(10) | add(1)).await, [1, 2, 11]);
    assert_eq!(with_added(group([ok(10), ok(20)])).await, [1, 2, 10, 20]);
    assert_eq!(
        with_added(ok(10) | group([add(1), add(2)])).await,
        [1, 2, 11, 12]
    );
    assert_eq!(with_added(chord([ok(10), ok(20)], sum())).await, [1, 2, 30]);
    assert_eq!(with_added(swap(ok(10))).await, [1, 2, 10]);
    assert_eq!(with_added(empty()).await, [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_added_may_add_more() {
    let more = task("more", |ctx, call| async move {
        let n = call.args[0].as_i64().unwrap_or(0);
        if n > 0 {
            ctx.add_to_chord(Signature::new("more").arg(n - 1)).await?;
        }
        Ok(json!(n))
    });
    let app = build(builder().task_object(more));
    let worker = work(&app).await;
    let result = apply(&app, chord([call("more").arg(4), ok(100)], sum())).await;
    assert_eq!(value(&result).await, json!(110));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_added_fails_the_body_if_it_fails() {
    let added = fail("no").task_id("added");
    let app = build(builder().task_object(adder(added)));
    let worker = work(&app).await;
    let result = apply(&app, chord([call("adder").arg(1), ok(2)], echo()) | echo()).await;
    let error = failure(&result).await;
    assert_eq!(error.message(), "Dependency added raised ValueError('no')");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn adding_to_a_chord_from_outside_one_is_a_clear_error() {
    let app = build(builder().task_object(adder(ok(10))));
    let worker = work(&app).await;
    for canvas in [
        call("adder"),
        ok(1) | call("adder"),
        group([call("adder"), ok(1)]),
        // A body is not in the header.
        chord([ok(1), ok(2)], call("adder")),
        // Nor is the first step of a member: its last one is.
        chord([call("adder") | echo(), ok(2)], echo()),
    ] {
        let shown = canvas.to_string();
        let error = failure(&apply(&app, canvas).await).await;
        let want = "adder is not in the header of a chord, so nothing can be added to it";
        assert!(error.message().contains(want), "{shown}: {error}");
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_run_again_after_a_crash_adds_the_same_once() {
    let (gate, started) = (Gate::new(), Log::new());
    let adding = {
        let (gate, started) = (gate.clone(), started.clone());
        task("adding", move |ctx, _| {
            let (gate, started) = (gate.clone(), started.clone());
            async move {
                let added = ctx.add_to_chord(ok(10)).await?;
                started.note(added.id().as_str());
                gate.passed().await;
                Ok(json!(1))
            }
        })
    };
    let app = build(
        builder()
            .task_object(adding)
            .configure(|c| c.visibility_timeout = Duration::from_millis(200)),
    );
    let first = work(&app).await;
    let result = apply(&app, chord([call("adding"), ok(2)], echo())).await;
    started.reaches(1).await;
    first.kill();
    let second = work(&app).await;
    started.reaches(2).await;
    gate.open();
    let mut got: Vec<i64> = serde_json::from_value(value(&result).await).unwrap();
    got.sort_unstable();
    assert_eq!(got, [1, 2, 10]);
    second.stop().await;
    let ids = started.entries();
    assert_eq!(ids[0], ids[1]);
}

// Launching

/// A task that launches a canvas and returns the id of what it launched.
fn launcher(canvas: Signature) -> Arc<dyn Task> {
    task("launcher", move |ctx, _| {
        let canvas = canvas.clone();
        async move { Ok(json!(ctx.launch(canvas).await?.id())) }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_task_launches_is_its_child_with_the_right_parent_and_root() {
    for (canvas, parent, root) in [
        (call("launcher").task_id("l"), "l", "l"),
        (ok(1).task_id("a") | call("launcher").task_id("l"), "l", "a"),
        (
            ok(1).task_id("a").link(call("launcher").task_id("l")),
            "l",
            "a",
        ),
        (
            chord([ok(1).task_id("a")], call("launcher").task_id("l")),
            "l",
            "a",
        ),
        (
            ok(1).task_id("a") | chord([ok(1), call("launcher").task_id("l")], echo()),
            "l",
            "a",
        ),
        (
            ok(1).task_id("a") | swap(call("launcher")).immutable().task_id("l"),
            "l",
            "a",
        ),
        (
            fail("no")
                .task_id("a")
                .link_error(call("launcher").task_id("l")),
            "l",
            "a",
        ),
    ] {
        let shown = canvas.to_string();
        let log = Log::new();
        let launched = call("lineage").task_id("launched");
        let app = build(
            builder()
                .task_object(launcher(launched))
                .task_object(lineage(&log)),
        );
        let worker = work(&app).await;
        apply(&app, canvas).await;
        log.reaches(1).await;
        assert_eq!(
            log.entries(),
            [json!(["launched", parent, root, 0])],
            "{shown}"
        );
        assert_eq!(
            ended(&app, &"l".into()).await.result,
            json!("launched"),
            "{shown}"
        );
        let children = app.result("l").children().await.unwrap();
        let launched = |child: &AsyncResult| *child.id() == Id::from("launched");
        assert!(children.iter().any(launched), "{shown}: {children:?}");
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn launched_canvases_and_callbacks_are_all_among_the_children() {
    let app = build(builder().task_object(launcher(chord([ok(1), ok(2)], sum()))));
    let worker = work(&app).await;
    let canvas = call("launcher").link(echo().task_id("callback")) | echo().task_id("next");
    let result = apply(&app, canvas).await;
    let launched = Id::from(value(&result).await.as_str().unwrap());
    assert_eq!(ended(&app, &launched).await.result, json!(3));
    let parent = result.parent().unwrap();
    let children = parent.children().await.unwrap();
    let ids: Vec<&Id> = children.iter().map(AsyncResult::id).collect();
    assert_eq!(ids, [&launched, &"callback".into(), &"next".into()]);
    // The tree of what was launched is there too.
    let header: Option<&ResultTree> = children[0].tree().parent.as_deref();
    assert_eq!(
        header.and_then(|h| h.members.as_ref()).map(Vec::len),
        Some(2)
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_run_again_after_a_crash_launches_the_same_tasks() {
    let (gate, launched) = (Gate::new(), Log::new());
    let launching = {
        let (gate, launched) = (gate.clone(), launched.clone());
        task("launching", move |ctx, _| {
            let (gate, launched) = (gate.clone(), launched.clone());
            async move {
                let first = ctx.launch(ok(1)).await?;
                let second = ctx.launch(group([ok(2), ok(3)])).await?;
                launched.note(json!([first.as_tuple(), second.as_tuple()]));
                gate.passed().await;
                Ok(json!("done"))
            }
        })
    };
    let app = build(
        builder()
            .task_object(launching)
            .configure(|c| c.visibility_timeout = Duration::from_millis(200)),
    );
    let first = work(&app).await;
    let result = apply(&app, call("launching")).await;
    launched.reaches(1).await;
    first.kill();
    let second = work(&app).await;
    launched.reaches(2).await;
    gate.open();
    assert_eq!(value(&result).await, json!("done"));
    second.stop().await;
    let trees = launched.entries();
    assert_eq!(trees[0], trees[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_result_inside_a_task_is_refused() {
    let waiting = task("waiting", |ctx, _| async move {
        let child = ctx.launch(ok(1)).await?;
        match child.get().await {
            Err(error @ Error::GetInsideTask(_)) => Ok(json!(error.to_string())),
            other => Err(value_error(&format!("{other:?}"))),
        }
    });
    let app = build(builder().task_object(waiting));
    let worker = app.worker().concurrency(1).start().await.unwrap();
    let refusal = value(&apply(&app, call("waiting")).await).await;
    assert!(
        refusal.as_str().unwrap().contains("ctx.replace("),
        "{refusal}"
    );
    worker.stop().await;
}

// Primitives of one's own

/// Runs a task on each item of a list: `each`. A negative number is refused,
/// and zero is an accident.
#[derive(Debug)]
struct Each;

impl Primitive for Each {
    fn subtask_type(&self) -> &str {
        "each"
    }

    fn expand(&self, call: Arguments) -> Result<Signature, TaskError> {
        let items: Vec<Value> = serde_json::from_value(call.args[0].clone())?;
        let task = Signature::from_value(call.kwargs["task"].clone())?;
        if items
            .iter()
            .any(|item| item.as_i64().is_some_and(|n| n < 0))
        {
            return Err(value_error("negative"));
        }
        assert!(!items.contains(&json!(0)), "zero");
        let one = |item: Value| {
            let mut one = task.clone();
            one.args.insert(0, item);
            one
        };
        Ok(group(items.into_iter().map(one)))
    }
}

fn each(task: Signature) -> Signature {
    Each.signature().kwarg("task", task)
}

fn list(items: &[i64]) -> Signature {
    ok(items.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primitive_works_wherever_a_task_does() {
    let plus = || each(add(10));
    let wanted = json!([11, 12]);
    assert_eq!(run(plus().arg(vec![1, 2])).await, wanted, "alone");
    assert_eq!(run(list(&[1, 2]) | plus()).await, wanted, "last step");
    assert_eq!(
        run(list(&[1, 2]) | plus() | sum()).await,
        json!(23),
        "mid-chain"
    );
    assert_eq!(
        run(plus().arg(vec![1, 2]) | sum()).await,
        json!(23),
        "first step"
    );
    let header = chord([plus().arg(vec![1, 2]), ok(5)], echo());
    assert_eq!(run(header).await, json!([[11, 12], 5]), "in a header");
    let body = chord([ok(1), ok(2)], plus());
    assert_eq!(run(body).await, wanted, "as a body");
    let body = chord([ok(1), ok(2)], plus() | sum());
    assert_eq!(run(body).await, json!(23), "first of a body");
    let member = group([list(&[1, 2]) | plus(), ok(5)]);
    assert_eq!(run(member).await, json!([[11, 12], 5]), "in a group");
    let both = list(&[1, 2]) | plus() | plus();
    assert_eq!(run(both).await, json!([21, 22]), "after another");
    let nested = ok(json!([[1, 2], [3]])) | each(plus());
    assert_eq!(
        run(nested).await,
        json!([[11, 12], [13]]),
        "in its own expansion"
    );
    let replaced = swap(list(&[1, 2]) | plus());
    assert_eq!(run(replaced).await, wanted, "in a replacement");
    let none = list(&[]) | plus() | args();
    assert_eq!(run(none).await, json!([[]]), "with nothing to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primitives_result_can_be_waited_for_before_it_expands() {
    let app = build(builder());
    let mut canvas = list(&[1, 2]) | each(add(10)).task_id("each") | sum();
    let tree = canvas.freeze().unwrap();
    let early = app.result("each");
    assert_eq!(early.state().await.unwrap(), State::Pending);
    let result = apply(&app, canvas).await;
    assert_eq!(*result.tree(), tree);
    let worker = work(&app).await;
    assert_eq!(value(&early).await, json!([11, 12]));
    assert_eq!(value(&result).await, json!(23));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callbacks_of_a_primitive_get_what_it_comes_to() {
    let log = Log::new();
    let app = build(
        builder()
            .task_object(log.task("note"))
            .task_object(log.errback("catch")),
    );
    let worker = work(&app).await;
    let watched = || each(add(10)).link(call("note")).link_error(call("catch"));
    value(&apply(&app, watched().arg(vec![1, 2])).await).await;
    log.reaches(1).await;
    let refused = watched().arg(vec![-1]).task_id("refused");
    failure(&apply(&app, refused).await).await;
    log.reaches(2).await;
    worker.stop().await;
    let want = [
        json!([[11, 12]]),
        json!(["refused", "ValueError: negative", []]),
    ];
    assert_eq!(log.entries(), want);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primitive_that_cannot_expand_fails_as_a_task_does() {
    let app = build(builder());
    let worker = work(&app).await;
    for (items, cause) in [
        (json!([1, -2]), "ValueError('negative')"),
        (json!([0]), "Panic('zero')"),
        (json!("no list"), "invalid type: string"),
    ] {
        let member = (ok(items) | each(add(10))).task_id("primitive");
        let result = apply(&app, chord([member, ok(1)], sum()) | echo()).await;
        let error = failure(&result).await;
        let named = error.message().starts_with("Dependency primitive raised ");
        assert!(named && error.message().contains(cause), "{cause}: {error}");
        all_end(&result).await;
        app.backend().forget(&["primitive".into()]).await.unwrap();
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_an_expansion_that_fails_fails_the_primitive() {
    let app = build(builder());
    let worker = work(&app).await;
    let result = apply(&app, list(&[1, 2]) | each(fail("no")) | sum()).await;
    let error = failure(&result).await;
    assert!(
        error.message().ends_with("raised ValueError('no')"),
        "{error}"
    );
    all_end(&result).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primitive_that_the_worker_does_not_know_fails() {
    let app = builder().build().unwrap();
    let worker = work(&app).await;
    let result = apply(&app, list(&[1]) | each(add(1)) | echo()).await;
    assert_eq!(failure(&result).await.to_string(), "NotRegistered: each");
    all_end(&result).await;
    worker.stop().await;
}

// From JSON

#[tokio::test(flavor = "multi_thread")]
async fn every_canvas_is_rebuilt_from_its_json_and_means_the_same() {
    let app = build(builder());
    let worker = work(&app).await;
    let pairs = || [json!([1, 2]), json!([3, 4])];
    let more = [
        (list(&[1, 2]) | each(add(10)) | sum(), json!(23)),
        (
            chord([each(add(1)).arg(vec![1]), ok(5)], echo()),
            json!([[2], 5]),
        ),
        (starmap(add(0), pairs()), json!([3, 7])),
    ];
    for (canvas, want) in canvases().into_iter().chain(more) {
        let json = serde_json::to_vec(&canvas).unwrap();
        let rebuilt = app.primitives().rebuild(&json).unwrap();
        assert_eq!(rebuilt, canvas);
        let result = apply(&app, rebuilt).await;
        assert_eq!(value(&result).await, want, "{canvas}");
    }
    worker.stop().await;
}

#[test]
fn an_unknown_type_in_json_is_named_with_those_that_are_known() {
    let app = build(builder());
    let strange = || {
        let mut strange = each(add(1)).to_value();
        strange["subtask_type"] = json!("weave");
        Signature::from_value(strange).unwrap()
    };
    for canvas in [
        strange(),
        ok(1) | strange() | ok(2),
        group([ok(1), strange()]),
        chord([strange(), ok(1)], sum()),
        chord([ok(1)], chord([ok(1)], strange())),
    ] {
        let json = serde_json::to_vec(&canvas).unwrap();
        let error = app.primitives().rebuild(&json).unwrap_err();
        assert_eq!(
            error.to_string(),
            "malformed signature: unknown subtask_type `weave`: known are chain, group, chord, \
             each; register it with Canvas::builder().primitive(..)",
            "{canvas}"
        );
    }
    let error = app.primitives().rebuild(b"{\"task\": 3}").unwrap_err();
    assert!(error.to_string().contains("`task` must be"), "{error}");
    assert!(app.primitives().rebuild(b"{").is_err());
}
