//! What a client can ask of a result: a task's, a chain's, a group's, a chord's.
//!
//! Time is paused: a wait that nothing ends takes no time at all.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use canvas::result::dot;
use canvas::{
    AsyncResult, Builder, Canvas, Error, Group, GroupResult, Id, ResultTree, Running, Signature,
    State, TaskError, TaskOptions, Wait, WorkerExt, chain, chord, group, task,
};
use canvas_tests::support::{
    Gate, Log, add, args, builder, echo, eventually, fail, ok, sum, task as closure, task_with,
    value,
};
use futures_util::StreamExt;
use serde_json::{Value, json};

/// Long enough to see that nothing comes.
const MOMENT: Duration = Duration::from_secs(1);

async fn start(builder: Builder) -> (Canvas, Running) {
    let app = builder.build().unwrap();
    let worker = app.worker().concurrency(4).start().await.unwrap();
    (app, worker)
}

/// A call that waits for so many seconds and returns them.
fn slow(seconds: u64) -> Signature {
    Signature::new("t.slow").arg(seconds)
}

fn with_slow(builder: Builder) -> Builder {
    builder.task_object(closure("t.slow", |_, call| async move {
        let seconds = call.args[0].as_u64().unwrap_or_default();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        Ok(json!(seconds))
    }))
}

fn ids(results: &[AsyncResult]) -> Vec<&str> {
    results.iter().map(|result| result.id().as_str()).collect()
}

fn timeout(error: Result<Value, Error>) -> Error {
    match error {
        Err(error @ Error::Timeout { .. }) => error,
        other => panic!("no timeout: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_goes_from_pending_over_started_to_success() {
    let (gate, started) = (Gate::new(), Log::new());
    let run = gate.clone();
    let options = TaskOptions {
        track_started: Some(true),
        ..TaskOptions::default()
    };
    let noted = started.clone();
    let gated = task_with("t.gate", options, move |_, _| {
        noted.note("run");
        let gate = run.clone();
        async move {
            gate.passed().await;
            Ok(json!(7))
        }
    });
    let app = builder().task_object(gated).build().unwrap();
    let result = app.apply(Signature::new("t.gate")).await.unwrap();
    assert_eq!(result.state().await.unwrap(), State::Pending);
    assert!(!result.ready().await.unwrap());
    let worker = app.worker().name("w1@here").start().await.unwrap();
    started.reaches(1).await;
    let meta = result.meta().await.unwrap();
    assert_eq!(meta.status, State::Started);
    assert_eq!(meta.result["hostname"], "w1@here");
    assert_eq!(meta.result["pid"], std::process::id());
    assert!(!result.ready().await.unwrap());
    gate.open();
    assert_eq!(value(&result).await, 7);
    assert_eq!(result.state().await.unwrap(), State::Success);
    assert!(result.ready().await.unwrap() && result.successful().await.unwrap());
    assert!(!result.failed().await.unwrap());
    assert!(result.meta().await.unwrap().date_done.is_some());
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn started_is_not_stored_unless_asked_for() {
    let (gate, started) = (Gate::new(), Log::new());
    let (app, worker) = start(builder().task_object(gate.task("t.gate", &started))).await;
    let result = app.apply(Signature::new("t.gate").arg(1)).await.unwrap();
    started.reaches(1).await;
    assert_eq!(result.state().await.unwrap(), State::Pending);
    gate.open();
    assert_eq!(value(&result).await, 1);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_will_be_tried_again_is_in_retry_and_says_why() {
    let later = closure("t.later", |ctx, _| async move {
        let retry = ctx.retry().countdown(Duration::from_secs(3_600));
        Err(retry.because(TaskError::msg("not yet")))
    });
    let (app, worker) = start(builder().task_object(later)).await;
    let result = app.apply(Signature::new("t.later")).await.unwrap();
    eventually("RETRY", async || {
        result.state().await.unwrap() == State::Retry
    })
    .await;
    let why = result.exception().await.unwrap().unwrap();
    assert_eq!(why.message(), "not yet");
    assert!(!result.ready().await.unwrap());
    timeout(result.get_timeout(MOMENT).await);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_has_an_exception_and_a_traceback() {
    #[task(name = "t.parse")]
    async fn parse(text: String) -> Result<i64, std::num::ParseIntError> {
        text.parse()
    }
    let (app, worker) = start(builder().task::<parse>()).await;
    let result = parse::s("x").apply(&app).await.unwrap();
    let error = result.get().await.unwrap_err();
    let Error::TaskFailed { id, exception } = &error else {
        panic!("{error}")
    };
    assert_eq!(id, result.id());
    assert_eq!(exception.exc_type, "ParseIntError");
    let shown = format!("task {id} failed: ParseIntError: invalid digit found in string");
    assert_eq!(error.to_string(), shown);
    let result = result.into_inner();
    assert_eq!(result.state().await.unwrap(), State::Failure);
    assert!(result.failed().await.unwrap() && result.ready().await.unwrap());
    assert!(!result.successful().await.unwrap());
    assert_eq!(
        result.exception().await.unwrap().as_ref(),
        Some(&**exception)
    );
    let traceback = result.traceback().await.unwrap().unwrap();
    assert!(
        traceback.contains("ParseIntError: invalid digit"),
        "{traceback}"
    );
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_was_called_off_is_revoked() {
    let (app, worker) = start(with_slow(builder())).await;
    let result = app.apply(slow(1_000)).await.unwrap();
    tokio::time::sleep(MOMENT).await;
    result.revoke(true).await.unwrap();
    let error = result.get().await.unwrap_err().to_string();
    assert!(error.ends_with("TaskRevokedError: terminated"), "{error}");
    assert_eq!(result.state().await.unwrap(), State::Revoked);
    assert!(result.ready().await.unwrap());
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_group_is_called_off_as_a_whole() {
    let (app, worker) = start(with_slow(builder())).await;
    let result = app.apply(group([slow(1_000), slow(2_000)])).await.unwrap();
    tokio::time::sleep(MOMENT).await;
    result.revoke(true).await.unwrap();
    for member in result.as_group().unwrap().results() {
        assert!(member.get().await.is_err());
        assert_eq!(member.state().await.unwrap(), State::Revoked);
    }
    assert_eq!(result.state().await.unwrap(), State::Revoked);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_id_that_nobody_knows_is_pending() {
    let app = Canvas::in_memory();
    let result = app.result("unknown");
    assert_eq!(result.state().await.unwrap(), State::Pending);
    assert!(result.exception().await.unwrap().is_none());
    assert!(result.children().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_timeout_says_for_what_and_how_long_it_waited_and_what_to_look_at() {
    let app = Canvas::in_memory();
    let result = app
        .apply(Signature::new("t.any").task_id("the-id"))
        .await
        .unwrap();
    let error = timeout(result.get_timeout(Duration::from_millis(1_500)).await);
    assert_eq!(
        error.to_string(),
        "result of the-id is not there after 1.5s: is a worker consuming its queue?"
    );
    assert!(error.is_retryable());
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_a_value_if_it_is_not_to_propagate() {
    let (app, worker) = start(builder()).await;
    let wait = Wait {
        propagate: false,
        ..Wait::default()
    };
    let failed = app.apply(fail("no")).await.unwrap();
    let shown = json!({
        "exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins",
    });
    assert_eq!(failed.wait(wait).await.unwrap(), shown);
    let some = app.apply(group([ok(1), fail("no"), ok(3)])).await.unwrap();
    assert_eq!(some.wait(wait).await.unwrap(), json!([1, shown, 3]));
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_value_is_read_as_the_type_asked_for() {
    let (app, worker) = start(builder()).await;
    let result = app.apply(ok(json!([1, 2]))).await.unwrap();
    assert_eq!(result.get_as::<Vec<u8>>().await.unwrap(), [1, 2]);
    let error = result.get_as::<String>().await.unwrap_err().to_string();
    let start = format!(
        "cannot decode the result of {}: invalid type: sequence",
        result.id()
    );
    assert!(error.starts_with(&start), "{error}");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_ignored_result_is_null_at_once() {
    let app = builder().build().unwrap();
    let result = app.apply(ok(1).ignore_result(true)).await.unwrap();
    assert_eq!(result.get_timeout(MOMENT).await.unwrap(), Value::Null);
    let group = group([ok(1).ignore_result(true), ok(2).ignore_result(true)]);
    let result = app.apply(group).await.unwrap();
    assert_eq!(
        result.get_timeout(MOMENT).await.unwrap(),
        json!([null, null])
    );
}

#[tokio::test(start_paused = true)]
async fn a_chains_result_is_its_last_steps_and_the_others_are_its_parents() {
    let (app, worker) = start(builder()).await;
    let result = app.apply(chain([ok(1), add(2), add(4)])).await.unwrap();
    assert_eq!(value(&result).await, 7);
    let second = result.parent().unwrap();
    let first = second.parent().unwrap();
    assert_eq!(value(&second).await, 3);
    assert_eq!(value(&first).await, 1);
    assert!(first.parent().is_none());
    // And the other way round, each step is a child of the one before.
    assert_eq!(
        ids(&first.children().await.unwrap()),
        [second.id().as_str()]
    );
    assert_eq!(
        ids(&second.children().await.unwrap()),
        [result.id().as_str()]
    );
    assert!(result.children().await.unwrap().is_empty());
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_chords_result_is_its_bodys_and_its_parent_the_headers_group() {
    let (app, worker) = start(builder()).await;
    let canvas = ok(0) | group([ok(1), ok(2)]) | sum();
    let result = app.apply(canvas).await.unwrap();
    assert_eq!(value(&result).await, 3);
    let header = result.parent().unwrap().as_group().unwrap();
    assert_eq!(header.len(), 2);
    assert_eq!(header.join(Wait::default()).await.unwrap(), [1, 2]);
    let first = header.parent().unwrap();
    assert_eq!(value(&first).await, 0);
    assert!(first.as_group().is_none() && first.parent().is_none());
    // What the first step sent is the chord: its body, with the same parents.
    let child = first.children().await.unwrap().remove(0);
    assert_eq!(child.id(), result.id());
    assert_eq!(child.parent().unwrap().id(), header.id());
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn callbacks_are_among_the_children_in_order() {
    let (app, worker) = start(builder()).await;
    let canvas = ok(1)
        .link(add(1).task_id("one"))
        .link(group([add(2).task_id("a"), add(3).task_id("b")]).task_id("two"))
        .link(add(4).task_id("first") | add(5).task_id("three"));
    let result = app.apply(canvas).await.unwrap();
    assert_eq!(value(&result).await, 1, "the result stays the task's own");
    let children = result.children().await.unwrap();
    assert_eq!(ids(&children), ["one", "two", "three"]);
    assert_eq!(value(&children[0]).await, 2);
    assert_eq!(value(&children[1]).await, json!([3, 4]));
    assert_eq!(value(&children[2]).await, 10);
    assert_eq!(children[2].parent().unwrap().id().as_str(), "first");
    worker.stop().await;
}

/// A task with a callback, which has a callback.
fn family() -> Signature {
    ok(1)
        .task_id("a")
        .link(add(1).task_id("b").link(add(10).task_id("c")))
        .link(add(2).task_id("d"))
}

#[tokio::test(start_paused = true)]
async fn collect_waits_for_all_that_follows_nearest_first() {
    let (app, worker) = start(builder()).await;
    let result = app.apply(family()).await.unwrap();
    let all = result.collect().await.unwrap();
    let all: Vec<(&str, Value)> = all
        .iter()
        .map(|(r, v)| (r.id().as_str(), v.clone()))
        .collect();
    let want = [
        ("a", json!(1)),
        ("b", json!(2)),
        ("d", json!(3)),
        ("c", json!(12)),
    ];
    assert_eq!(all, want);
    let broken = app.apply(ok(1).link(fail("no"))).await.unwrap();
    let error = broken.collect().await.unwrap_err().to_string();
    assert!(error.ends_with("ValueError: no"), "{error}");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn iterdeps_gives_each_with_the_one_that_sent_it() {
    let (app, worker) = start(with_slow(builder())).await;
    let result = app.apply(family()).await.unwrap();
    result.collect().await.unwrap();
    let pairs = |deps: Vec<(Option<AsyncResult>, AsyncResult)>| -> Vec<(Option<String>, String)> {
        let name = |r: AsyncResult| r.id().to_string();
        deps.into_iter()
            .map(|(p, r)| (p.map(name), name(r)))
            .collect()
    };
    let have = pairs(result.iterdeps(false).await.unwrap());
    let want = [
        (None, "a"),
        (Some("a"), "b"),
        (Some("a"), "d"),
        (Some("b"), "c"),
    ];
    let want = want.map(|(p, r)| (p.map(str::to_owned), r.to_owned()));
    assert_eq!(have, want);
    // What has not ended is an error, unless that is said to be all right.
    let open = app
        .apply(ok(1).task_id("x").link(slow(100).task_id("y")))
        .await
        .unwrap();
    open.get().await.unwrap();
    let error = open.iterdeps(false).await.unwrap_err();
    assert!(
        matches!(&error, Error::Timeout { id, .. } if id.as_str() == "y"),
        "{error}"
    );
    let have = pairs(open.iterdeps(true).await.unwrap());
    assert_eq!(have[1], (Some("x".to_owned()), "y".to_owned()));
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_follows_members_of_a_group_is_found_too() {
    let (app, worker) = start(builder()).await;
    let canvas = group([
        ok(1).task_id("a").link(add(1).task_id("b")),
        ok(2).task_id("c"),
    ]);
    let result = app.apply(canvas.task_id("g")).await.unwrap();
    let all = result.collect().await.unwrap();
    let all: Vec<(&str, Value)> = all
        .iter()
        .map(|(r, v)| (r.id().as_str(), v.clone()))
        .collect();
    let want = [
        ("g", json!([1, 2])),
        ("a", json!(1)),
        ("c", json!(2)),
        ("b", json!(2)),
    ];
    assert_eq!(all, want);
    worker.stop().await;
}

/// The nodes with their states, and the edges, of a result's graph.
async fn graph_of(result: &AsyncResult) -> (BTreeSet<String>, BTreeSet<String>) {
    let graph = result.graph().await.unwrap();
    let nodes = graph
        .node_weights()
        .map(|node| format!("{} {}", node.id, node.state));
    let edges = graph.edge_indices().map(|edge| {
        let (from, to) = graph.edge_endpoints(edge).unwrap();
        format!("{} -> {}", graph[from].id, graph[to].id)
    });
    (nodes.collect(), edges.collect())
}

fn set(items: &[&str]) -> BTreeSet<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_graph_of_a_canvas_that_has_not_run_is_its_plan() {
    let app = builder().build().unwrap();
    let header = group([
        ok(1).task_id("b"),
        ok(2).task_id("c1") | echo().task_id("c2"),
    ]);
    let canvas = ok(0).task_id("a") | header | sum().task_id("d") | echo().task_id("e");
    let result = app.apply(canvas).await.unwrap();
    let (nodes, edges) = graph_of(&result).await;
    let names = ["a", "b", "c1", "c2", "d", "e"].map(|name| format!("{name} PENDING"));
    assert_eq!(nodes, BTreeSet::from(names));
    let want = [
        "a -> b", "a -> c1", "b -> d", "c1 -> c2", "c2 -> d", "d -> e",
    ];
    assert_eq!(edges, set(&want));
}

#[tokio::test(start_paused = true)]
async fn the_graph_of_a_canvas_that_has_run_also_has_what_its_tasks_sent() {
    let launch = closure("t.launch", |ctx, _| async move {
        let launched = ctx.launch(ok(5).task_id("launched")).await?;
        Ok(json!(launched.id()))
    });
    let (app, worker) = start(builder().task_object(launch)).await;
    let first = Signature::new("t.launch")
        .task_id("a")
        .link(args().task_id("callback"));
    let canvas = first
        | chord(
            [ok(1).task_id("b"), fail("no").task_id("c")],
            sum().task_id("d"),
        )
        | echo().task_id("e");
    let result = app.apply(canvas).await.unwrap();
    result.get().await.unwrap_err();
    value(&app.result("callback")).await;
    value(&app.result("launched")).await;
    let (nodes, edges) = graph_of(&result).await;
    let want = [
        "a SUCCESS",
        "b SUCCESS",
        "c FAILURE",
        "d FAILURE",
        "e FAILURE",
        "callback SUCCESS",
        "launched SUCCESS",
    ];
    assert_eq!(nodes, set(&want));
    let want = [
        "a -> launched",
        "a -> callback",
        "a -> b",
        "a -> c",
        "b -> d",
        "c -> d",
        "d -> e",
    ];
    assert_eq!(edges, set(&want));
    worker.stop().await;
}

/// The picture, without the attributes that are the same everywhere.
async fn picture(result: &AsyncResult) -> String {
    let graph = result.graph().await.unwrap();
    let scheme = r#"shape="oval", arrowhead="vee", style="filled", fontname="HelveticaNeue", "#;
    let edge = r#"color="darkseagreen4", arrowcolor="black", arrowsize="0.7""#;
    dot(&graph, result.id())
        .replace(scheme, "")
        .replace(edge, "…")
}

#[tokio::test(start_paused = true)]
async fn a_chain_is_drawn_as_celery_draws_it() {
    let app = builder().build().unwrap();
    let canvas = ok(1).task_id("a") | echo().task_id("b");
    let result = app.apply(canvas).await.unwrap();
    let graph = result.graph().await.unwrap();
    let want = r#"digraph dependencies {
    graph [shape="oval", arrowhead="vee", style="filled", fontname="HelveticaNeue", bgcolor="mintcream", root="b"]
    "b" [shape="oval", arrowhead="vee", style="filled", fontname="HelveticaNeue", label="b\nPENDING", fillcolor="palegreen1", color="palegreen2"]
    "a" [shape="oval", arrowhead="vee", style="filled", fontname="HelveticaNeue", label="a\nPENDING", fillcolor="palegreen1", color="palegreen2"]
    "a" -> "b" [shape="oval", arrowhead="vee", style="filled", fontname="HelveticaNeue", color="darkseagreen4", arrowcolor="black", arrowsize="0.7"]
}
"#;
    assert_eq!(dot(&graph, result.id()), want);
}

#[tokio::test(start_paused = true)]
async fn a_group_is_drawn_as_its_members_in_the_colours_of_their_states() {
    let extended = builder().configure(|config| config.result_extended = true);
    let (app, worker) = start(extended).await;
    let members = [ok(1).task_id("a"), fail("no").task_id("b")];
    let result = app.apply(group(members).task_id("g")).await.unwrap();
    let wait = Wait {
        propagate: false,
        ..Wait::default()
    };
    result.wait(wait).await.unwrap();
    let lines: BTreeSet<String> = picture(&result).await.lines().map(str::to_owned).collect();
    let want = [
        "digraph dependencies {",
        r#"    graph [bgcolor="mintcream", root="g"]"#,
        r#"    "a" [label="t.ok\na\nSUCCESS", fillcolor="palegreen3", color="palegreen4"]"#,
        r#"    "b" [label="t.fail\nb\nFAILURE", fillcolor="salmon", color="firebrick"]"#,
        "}",
    ];
    assert_eq!(lines, set(&want));
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_chord_is_drawn_with_an_edge_from_each_member_to_the_body() {
    let (app, worker) = start(builder()).await;
    let canvas = chord([ok(1).task_id("a"), ok(2).task_id("b")], sum().task_id("c"));
    let result = app.apply(canvas).await.unwrap();
    assert_eq!(value(&result).await, 3);
    let lines: BTreeSet<String> = picture(&result).await.lines().map(str::to_owned).collect();
    let done = |id: &str| {
        format!(r#"    "{id}" [label="{id}\nSUCCESS", fillcolor="palegreen3", color="palegreen4"]"#)
    };
    let mut want = set(&[
        "digraph dependencies {",
        r#"    graph [bgcolor="mintcream", root="c"]"#,
        r#"    "a" -> "c" […]"#,
        r#"    "b" -> "c" […]"#,
        "}",
    ]);
    want.extend(["a", "b", "c"].map(done));
    assert_eq!(lines, want);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_drawn_is_quoted() {
    let app = builder().build().unwrap();
    let result = app.apply(ok(1).task_id("say \"hi\" \\o/")).await.unwrap();
    let picture = picture(&result).await;
    let node = r#""say \"hi\" \\o/" [label="say \"hi\" \\o/\nPENDING""#;
    assert!(picture.contains(node), "{picture}");
}

#[tokio::test(start_paused = true)]
async fn a_result_goes_through_its_tuple_and_is_the_same() {
    let (app, worker) = start(builder()).await;
    let canvas = ok(1) | group([echo() | add(1), echo()]) | sum();
    let result = app.apply(canvas).await.unwrap();
    let tuple = result.as_tuple();
    let text = serde_json::to_string(&tuple).unwrap();
    let read: Value = serde_json::from_str(&text).unwrap();
    let again = AsyncResult::from_tuple(&app, &read).unwrap();
    assert_eq!(again.tree(), result.tree());
    assert_eq!(value(&again).await, 3);
    assert_eq!(again.parent().unwrap().as_group().unwrap().len(), 2);
    let kept: ResultTree = serde_json::from_value(tuple).unwrap();
    assert_eq!(value(&app.result_of(kept)).await, 3);
    worker.stop().await;
}

#[test]
fn the_tuples_that_celery_writes_are_read() {
    let app = Canvas::in_memory();
    let task = |id: &str| ResultTree::task(id.into());
    let group = |id: &str, members: &[&str]| {
        ResultTree::group(id.into(), members.iter().map(|id| task(id)).collect())
    };
    let mut child = task("c");
    child.set_root_parent(task("p"));
    let mut body = task("body");
    body.set_root_parent(group("g", &["a", "b"]));
    let table = [
        (json!("a"), task("a")),
        (json!(["a", null]), task("a")),
        (json!([["a", null], null]), task("a")),
        (json!([["a"], null]), task("a")),
        (json!([["c", [["p", null], null]], null]), child),
        (json!(["g", ["a", "b"]]), group("g", &["a", "b"])),
        (json!(["g", []]), group("g", &[])),
        (
            json!([["g", null], [["a", null], [["b", null], null]]]),
            group("g", &["a", "b"]),
        ),
        (json!([["body", ["g", ["a", "b"]]], null]), body),
    ];
    for (tuple, tree) in table {
        let read = AsyncResult::from_tuple(&app, &tuple).unwrap();
        assert_eq!(*read.tree(), tree, "{tuple}");
    }
    for nonsense in [
        json!(3),
        json!(null),
        json!([]),
        json!([3, null]),
        json!({"id": "a"}),
    ] {
        let error = AsyncResult::from_tuple(&app, &nonsense)
            .unwrap_err()
            .to_string();
        assert!(error.contains("a result tuple"), "{error}");
        assert!(error.contains(&nonsense.to_string()), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_can_be_saved_and_found_again() {
    let (app, worker) = start(builder()).await;
    let result = app.apply(group([ok(1), ok(2) | add(1)])).await.unwrap();
    let members = result.as_group().unwrap();
    assert!(
        app.restore_group(result.id().clone())
            .await
            .unwrap()
            .is_none()
    );
    members.save().await.unwrap();
    let restored = app
        .restore_group(result.id().clone())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(restored.tree(), result.tree());
    assert_eq!(value(&restored).await, json!([1, 3]));
    members.delete().await.unwrap();
    members.delete().await.unwrap();
    assert!(
        app.restore_group(result.id().clone())
            .await
            .unwrap()
            .is_none()
    );
    assert!(app.restore_group("unknown").await.unwrap().is_none());
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_group_joins_in_order_and_iterates_as_its_members_end() {
    let (app, worker) = start(with_slow(builder())).await;
    let result = app
        .apply(group([slow(30), slow(10), slow(20)]))
        .await
        .unwrap();
    let members = result.as_group().unwrap();
    let mut ends = members.iter().await.unwrap();
    let mut order = Vec::new();
    for completed in 1..=3 {
        order.push(ends.next().await.unwrap().unwrap().result);
        assert_eq!(members.completed_count().await.unwrap(), completed);
    }
    assert!(ends.next().await.is_none());
    assert_eq!(order, [10, 20, 30]);
    assert_eq!(members.join(Wait::default()).await.unwrap(), [30, 10, 20]);
    assert_eq!(members.results()[1].get().await.unwrap(), 10);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_group_with_a_failure_is_failed_and_counts_what_succeeded() {
    let (app, worker) = start(with_slow(builder())).await;
    let canvas = group([ok(1), fail("no"), slow(10), ok(4)]);
    let result = app.apply(canvas).await.unwrap();
    let members = result.as_group().unwrap();
    let error = members.join(Wait::default()).await.unwrap_err();
    let failed = &members.results()[1];
    assert!(
        matches!(&error, Error::TaskFailed { id, .. } if id == failed.id()),
        "{error}"
    );
    assert_eq!(result.state().await.unwrap(), State::Failure);
    assert!(!result.ready().await.unwrap(), "one is still running");
    assert_eq!(members.completed_count().await.unwrap(), 2);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(result.ready().await.unwrap() && result.failed().await.unwrap());
    assert!(!result.successful().await.unwrap());
    assert_eq!(members.completed_count().await.unwrap(), 3);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn forgetting_a_result_forgets_its_parents_too() {
    let (app, worker) = start(builder()).await;
    let canvas = ok(1) | group([echo(), echo()]) | sum();
    let result = app.apply(canvas).await.unwrap();
    assert_eq!(value(&result).await, 2);
    let header = result.parent().unwrap();
    header.as_group().unwrap().save().await.unwrap();
    let nodes: Vec<Id> = result
        .tree()
        .nodes()
        .iter()
        .map(|node| node.id.clone())
        .collect();
    result.forget().await.unwrap();
    for id in nodes {
        assert_eq!(app.result(id).state().await.unwrap(), State::Pending);
    }
    header.forget().await.unwrap();
    assert!(
        app.restore_group(header.id().clone())
            .await
            .unwrap()
            .is_none()
    );
    timeout(result.get_timeout(MOMENT).await);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn get_inside_a_task_is_refused_and_says_what_to_do_instead() {
    #[task(name = "t.blocking")]
    fn blocking(ctx: &canvas::Ctx, id: String) -> Result<(), TaskError> {
        let result = ctx.app().result(id);
        let waiting = tokio::runtime::Handle::current().block_on(result.get());
        waiting.map(drop).map_err(TaskError::from)
    }
    let waits = closure("t.waits", |ctx, call| async move {
        let result = ctx.app().result(call.args[0].as_str().unwrap_or_default());
        let group = ctx
            .app()
            .result_of(ResultTree::group("g".into(), vec![result.tree().clone()]));
        let group: GroupResult = group.as_group().unwrap();
        let refused = match call.args[1].as_str() {
            Some("get") => result.get().await.map(drop),
            Some("get_timeout") => result.get_timeout(MOMENT).await.map(drop),
            Some("get_as") => result.get_as::<i64>().await.map(drop),
            Some("collect") => result.collect().await.map(drop),
            Some("join") => group.join(Wait::default()).await.map(drop),
            Some("iter") => group.iter().await.map(drop),
            _ => Ok(()),
        };
        refused?;
        Ok(Value::Null)
    });
    let (app, worker) = start(builder().task::<blocking>().task_object(waits)).await;
    let other = app.apply(ok(1)).await.unwrap();
    assert_eq!(value(&other).await, 1);
    let id = other.id().as_str();
    let refused = |how: &str| Signature::new("t.waits").args([id, how]);
    let mut calls: Vec<Signature> = ["get", "get_timeout", "get_as", "collect", "join", "iter"]
        .map(refused)
        .to_vec();
    calls.push(blocking::s(id).into());
    for call in calls {
        let shown = call.to_string();
        let result = app.apply(call).await.unwrap();
        let error = result.get().await.unwrap_err().to_string();
        assert!(error.contains("get() inside a task"), "{shown}: {error}");
        assert!(error.contains("would block a worker"), "{shown}: {error}");
        assert!(
            error.contains("link a callback, use a chain or a chord"),
            "{shown}: {error}"
        );
        assert!(error.contains("ctx.replace(..)"), "{shown}: {error}");
    }
    // Looking without waiting is all right.
    let looks = app.apply(refused("nothing")).await.unwrap();
    assert_eq!(value(&looks).await, Value::Null);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_group_is_an_empty_list_at_once() {
    let app = builder().build().unwrap();
    let result = app.apply(group::<Signature>([])).await.unwrap();
    assert_eq!(result.get_timeout(MOMENT).await.unwrap(), json!([]));
    let members = result.as_group().unwrap();
    assert!(members.is_empty());
    assert_eq!(members.completed_count().await.unwrap(), 0);
    assert!(result.ready().await.unwrap() && result.successful().await.unwrap());
    assert_eq!(result.state().await.unwrap(), State::Success);
    let lazy = Group::from_iter(Vec::<Signature>::new())
        .apply(&app)
        .await
        .unwrap();
    assert_eq!(lazy.get_timeout(MOMENT).await.unwrap(), json!([]));
    assert_eq!(app.broker().len("celery").await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_empty_chain_is_refused_before_anything_is_sent() {
    let app = builder().build().unwrap();
    for canvas in [
        chain::<Signature>([]),
        chord([ok(1)], chain::<Signature>([])),
    ] {
        let error = app.apply(canvas).await.unwrap_err();
        let shown = "invalid canvas: a chain needs at least one step";
        assert_eq!(error.to_string(), shown);
    }
    assert_eq!(app.broker().len("celery").await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_members_are_there_in_order() {
    let (app, worker) = start(builder()).await;
    let members = Group::from_iter((0..10_000).map(ok));
    let result = members.apply(&app).await.unwrap();
    let values: Vec<u64> = result.get_as().await.unwrap();
    assert_eq!(values, (0..10_000).collect::<Vec<_>>());
    let members = result.as_group().unwrap();
    assert_eq!(members.completed_count().await.unwrap(), 10_000);
    let seen = members.iter().await.unwrap().count().await;
    assert_eq!(seen, 10_000);
    let (nodes, edges) = graph_of(&result).await;
    assert_eq!((nodes.len(), edges.len()), (10_000, 0));
    worker.stop().await;
}
