//! Random canvases, run by a worker, against a plain recursive evaluator.
//!
//! The evaluator knows no ids, messages or joins: it walks the canvas as it
//! was written and says what each result must be. Whatever the worker does,
//! every result of the tree must end, and in that state.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use canvas::{
    Canvas, Id, Kwargs, ResultTree, Signature, State, TaskMeta, WorkerExt, chain, chord, group,
};
use canvas_tests::random::{Expand, Expected, Node, Replace, Tick, evaluate, node};
use futures_util::StreamExt;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;

/// How long the slowest canvas may take before it counts as stuck.
const STUCK: Duration = Duration::from_secs(20);

fn cases() -> u32 {
    std::env::var("CANVAS_PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(2_000)
}

#[test]
fn a_worker_gives_what_the_evaluator_gives() {
    check(|app| app);
}

#[test]
fn copies_of_continuations_mean_the_same_as_references() {
    check(|builder| builder.configure(|c| c.continuation_reference_size = Some(usize::MAX)));
}

fn check(change: impl Fn(canvas::Builder) -> canvas::Builder) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let app = change(
        Canvas::builder()
            .task::<Tick>()
            .task::<Replace>()
            .primitive(Expand)
            .configure(|c| c.continuation_reference_size = Some(300)),
    )
    .build()
    .unwrap();
    let worker = runtime
        .block_on(app.worker().concurrency(8).start())
        .unwrap();
    let mut runner = TestRunner::new(Config {
        cases: cases(),
        max_shrink_iters: 2_000,
        // A canvas that is stuck takes its time each time.
        max_shrink_time: 60_000,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&node(), |node| {
            runtime
                .block_on(run(&app, &node))
                .map_err(TestCaseError::fail)
        })
        .unwrap_or_else(|error| panic!("{error}"));
    runtime.block_on(worker.stop());
}

async fn run(app: &Canvas, node: &Node) -> Result<(), String> {
    let (expected, callbacks) = evaluate(node);
    let mut signature = node.signature();
    let tree = signature.freeze().map_err(|e| e.to_string())?;
    let shown = signature.to_string();
    let callback_ids: Vec<Id> = callbacks.iter().map(|(id, _)| id.clone()).collect();
    // While a failure is made smaller, the same callbacks come again.
    app.backend().forget(&callback_ids).await.unwrap();
    let result = app.apply(signature).await.map_err(|e| e.to_string())?;
    if *result.tree() != tree {
        return Err(format!(
            "applying a frozen canvas changed its tree: {shown}"
        ));
    }
    // Every result that anyone could wait for.
    let mut ids: HashSet<Id> = callback_ids.into_iter().collect();
    let nodes = tree.nodes();
    let waitable = nodes.iter().filter(|n| n.members.is_none() && !n.ignored);
    ids.extend(waitable.map(|n| n.id.clone()));
    let metas = all(app, ids.into_iter().collect())
        .await
        .map_err(|missing| format!("never ended: {missing:?}\n{shown}"))?;
    compare(&tree, &expected, &metas).map_err(|difference| format!("{difference}\n{shown}"))?;
    for (id, expected) in callbacks {
        compare(&ResultTree::task(id), &expected, &metas)
            .map_err(|difference| format!("callback: {difference}\n{shown}"))?;
    }
    Ok(())
}

async fn all(app: &Canvas, ids: Vec<Id>) -> Result<HashMap<Id, TaskMeta>, Vec<Id>> {
    let mut metas = HashMap::new();
    let wait = async {
        let mut stream = app.backend().watch(&ids).await.unwrap();
        while let Some(meta) = stream.next().await {
            let meta = meta.unwrap();
            metas.insert(meta.task_id.clone(), meta);
        }
    };
    if tokio::time::timeout(STUCK, wait).await.is_err() {
        return Err(ids
            .into_iter()
            .filter(|id| !metas.contains_key(id))
            .collect());
    }
    Ok(metas)
}

fn compare(
    tree: &ResultTree,
    expected: &Expected,
    metas: &HashMap<Id, TaskMeta>,
) -> Result<(), String> {
    match (&tree.members, &expected.members) {
        (None, None) => leaf(tree, expected, metas)?,
        (Some(have), Some(want)) if have.len() == want.len() => {
            for (have, want) in have.iter().zip(want) {
                compare(have, want, metas)?;
            }
        }
        (have, want) => {
            let len =
                |m: &Option<usize>| m.map_or("a task".to_owned(), |n| format!("a group of {n}"));
            let (have, want) = (have.as_ref().map(Vec::len), want.as_ref().map(Vec::len));
            return Err(format!(
                "{} is {}, expected {}",
                tree.id,
                len(&have),
                len(&want)
            ));
        }
    }
    match (&tree.parent, &expected.parent) {
        (None, None) => Ok(()),
        (Some(have), Some(want)) => compare(have, want, metas),
        (have, want) => Err(format!(
            "{} has a parent: {}, expected: {}",
            tree.id,
            have.is_some(),
            want.is_some()
        )),
    }
}

fn leaf(
    tree: &ResultTree,
    expected: &Expected,
    metas: &HashMap<Id, TaskMeta>,
) -> Result<(), String> {
    if tree.ignored != expected.ignored {
        return Err(format!("{} is ignored: {}", tree.id, tree.ignored));
    }
    let Some(meta) = metas.get(&tree.id) else {
        return if tree.ignored {
            Ok(())
        } else {
            Err(format!("{} has no state", tree.id))
        };
    };
    match &expected.value {
        Ok(value) if meta.status == State::Success && meta.result == *value => Ok(()),
        Err(causes) if meta.status == State::Failure => {
            let exception = meta.exception().map(|e| e.message()).unwrap_or_default();
            if causes.iter().any(|cause| exception.contains(cause)) {
                Ok(())
            } else {
                Err(format!("{exception:?} names none of {causes:?}"))
            }
        }
        expected => Err(format!(
            "{} is {} {}, expected {expected:?}",
            tree.id, meta.status, meta.result
        )),
    }
}

/// Canvases nested far deeper than the random ones.
#[tokio::test(flavor = "multi_thread")]
async fn canvases_nest_without_limit() {
    let app = Canvas::builder().task::<Tick>().build().unwrap();
    let worker = app.worker().concurrency(4).start().await.unwrap();
    let tick = |label: &str| {
        Signature::new("t.tick").replace(
            None,
            Some(Kwargs::from_iter([(
                "label".to_owned(),
                Value::from(label),
            )])),
            None,
        )
    };
    let mut canvas = tick("innermost");
    for depth in 0..100 {
        canvas = match depth % 3 {
            0 => chord([canvas, tick("a")], tick("body")),
            1 => chain([tick("before"), canvas, tick("after")]),
            _ => group([canvas, tick("b")]) | tick("joined"),
        };
    }
    let result = app.apply(canvas).await.unwrap();
    let value = result.get_timeout(STUCK).await.unwrap();
    assert!(value.is_string(), "{value}");
    worker.stop().await;
}
