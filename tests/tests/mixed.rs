//! Random canvases on one queue with two workers, one in Rust and one in
//! Python.
//!
//! Each canvas is run three times: by Python alone, by both, and by Rust alone.
//! Wherever it ends with Python alone, it ends so with both; where Celery
//! leaves somebody waiting for ever, Rust alone does not.
//!
//! The Python workers are started by `cargo xtask interop --mixed`, on
//! databases 0 (both) and 1 (alone) of the Redis that `CANVAS_TEST_REDIS_URL`
//! names; their tasks are in `tests/interop/canvases.py`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use canvas::{Canvas, ExceptionInfo, Id, ResultTree, State, TaskMeta, WorkerExt};
use canvas_backend_redis::{RedisBackend, RedisBackendConfig};
use canvas_broker_redis::{RedisBroker, RedisBrokerConfig};
use canvas_tests::random::{Expected, Node, Replace, Tick, evaluate, still_node};
use futures_util::StreamExt;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::Value;

/// When nothing more has ended for this long, nothing will.
const QUIET: Duration = Duration::from_secs(8);

/// How many canvases are out at a time.
const BATCH: usize = 50;

fn app(database: u32) -> Canvas {
    let url = std::env::var("CANVAS_TEST_REDIS_URL")
        .expect("CANVAS_TEST_REDIS_URL: run this by `cargo xtask interop --mixed`");
    let url = format!("{url}/{database}");
    let broker = RedisBroker::new(&url, RedisBrokerConfig::default()).unwrap();
    let backend = RedisBackend::new(&url, RedisBackendConfig::default()).unwrap();
    Canvas::builder()
        .broker(broker)
        .backend(backend)
        .task::<Tick>()
        .task::<Replace>()
        .build()
        .unwrap()
}

fn nodes() -> Vec<Node> {
    let cases = std::env::var("CANVAS_MIXED_CASES").ok();
    let cases = cases.and_then(|n| n.parse().ok()).unwrap_or(500);
    let mut runner = TestRunner::deterministic();
    let strategy = still_node();
    let draw = |_| strategy.new_tree(&mut runner).unwrap().current();
    (0..cases).map(draw).collect()
}

/// What became of a canvas: the results by their place in the tree, and those
/// of callbacks by their id. Missing is what has not ended.
type Outcome = BTreeMap<String, TaskMeta>;

/// Runs canvases, and waits until nothing more ends.
async fn run(app: &Canvas, nodes: &[Node]) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for batch in nodes.chunks(BATCH) {
        let mut places: Vec<Vec<(String, Id)>> = Vec::new();
        let mut canvases = Vec::new();
        for node in batch {
            let mut canvas = node.signature();
            let tree = canvas.freeze().unwrap();
            let (_, callbacks) = evaluate(node);
            let mut all = Vec::new();
            walk(&tree, "", &mut all);
            all.extend(callbacks.into_iter().map(|(id, _)| (id.to_string(), id)));
            places.push(all);
            canvases.push(canvas);
        }
        let ids: Vec<Id> = places.iter().flatten().map(|(_, id)| id.clone()).collect();
        // They are watched from before they are sent. Celery sends a retry
        // first and stores RETRY then, having looked for a SUCCESS before both:
        // where another worker is quicker, what is stored last is RETRY, and
        // that the task has succeeded was told only once.
        let send = async {
            for canvas in canvases {
                app.apply(canvas).await.unwrap();
            }
        };
        let (ended, ()) = tokio::join!(watch(app, &ids), send);
        for place in places {
            let found = place
                .into_iter()
                .filter_map(|(name, id)| Some((name, ended.get(&id)?.clone())));
            outcomes.push(found.collect());
        }
    }
    outcomes
}

async fn watch(app: &Canvas, ids: &[Id]) -> HashMap<Id, TaskMeta> {
    let mut ended = HashMap::new();
    let mut stream = app.backend().watch(ids).await.unwrap();
    while let Ok(Some(meta)) = tokio::time::timeout(QUIET, stream.next()).await {
        let meta = meta.unwrap();
        ended.insert(meta.task_id.clone(), meta);
    }
    ended
}

/// The tasks of a result tree that store something, each by its place.
fn walk(tree: &ResultTree, place: &str, all: &mut Vec<(String, Id)>) {
    match &tree.members {
        Some(members) => {
            for (i, member) in members.iter().enumerate() {
                walk(member, &format!("{place}/{i}"), all);
            }
        }
        None if !tree.ignored => all.push((format!("{place}."), tree.id.clone())),
        None => {}
    }
    if let Some(parent) = &tree.parent {
        walk(parent, &format!("{place}^"), all);
    }
}

/// What each result must be, by its place.
fn expected(node: &Node) -> BTreeMap<String, Result<Value, Vec<String>>> {
    let (tree, callbacks) = evaluate(node);
    let mut all = BTreeMap::new();
    expect(&tree, "", &mut all);
    let callbacks = callbacks
        .into_iter()
        .map(|(id, e)| (id.to_string(), e.value));
    all.extend(callbacks);
    all
}

fn expect(node: &Expected, place: &str, all: &mut BTreeMap<String, Result<Value, Vec<String>>>) {
    match &node.members {
        Some(members) => {
            for (i, member) in members.iter().enumerate() {
                expect(member, &format!("{place}/{i}"), all);
            }
        }
        None if !node.ignored => drop(all.insert(format!("{place}."), node.value.clone())),
        None => {}
    }
    if let Some(parent) = &node.parent {
        expect(parent, &format!("{place}^"), all);
    }
}

/// Whether a result is what it must be.
fn fits(meta: &TaskMeta, expected: &Result<Value, Vec<String>>) -> bool {
    match expected {
        Ok(value) => meta.status == State::Success && meta.result == *value,
        Err(causes) => {
            let shown = ExceptionInfo::from_result(&meta.result).to_string();
            meta.status == State::Failure && causes.iter().any(|cause| shown.contains(cause))
        }
    }
}

/// How an end looks, but for the ids in it.
fn look(meta: Option<&TaskMeta>) -> String {
    match meta {
        None => "waits for ever".to_owned(),
        Some(meta) if meta.status == State::Success => format!("SUCCESS {}", meta.result),
        Some(meta) => format!(
            "{} {}",
            meta.status,
            ExceptionInfo::from_result(&meta.result)
        ),
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs stock Celery workers"]
async fn a_mixed_fleet_gives_what_python_gives_and_rust_ends_what_python_does_not() {
    let nodes = nodes();
    let (both, python, rust) = (app(0), app(1), app(2));
    let worker = |app: &Canvas| app.worker().concurrency(2).start();
    let (beside, alone) = (worker(&both).await.unwrap(), worker(&rust).await.unwrap());
    let (mixed, python, rust) =
        tokio::join!(run(&both, &nodes), run(&python, &nodes), run(&rust, &nodes));
    beside.stop().await;
    alone.stop().await;

    let (mut results, mut never, mut never_mixed, mut problems) = (0, 0, 0, Vec::new());
    for (i, node) in nodes.iter().enumerate() {
        for (place, expected) in expected(node) {
            results += 1;
            let [mixed, python, rust] = [&mixed, &python, &rust].map(|all| all[i].get(&place));
            let shown = || {
                format!(
                    "{place} of {}\n  Python: {}\n  both:   {}\n  Rust:   {}\n  want:   {expected:?}",
                    node.signature(),
                    look(python),
                    look(mixed),
                    look(rust)
                )
            };
            never_mixed += usize::from(mixed.is_none());
            match (python, mixed) {
                (None, _) => never += 1,
                (Some(python), Some(mixed)) if same(python, mixed) => {}
                _ => problems.push(format!("not as Python: {}", shown())),
            }
            if !rust.is_some_and(|meta| fits(meta, &expected)) {
                problems.push(format!("not as it must be: {}", shown()));
            }
        }
    }
    println!(
        "{} canvases, {results} results: Python alone leaves {never} waiting for ever, \
         a mixed fleet {never_mixed}, Rust alone none",
        nodes.len()
    );
    assert!(problems.is_empty(), "{}: {}", problems.len(), problems[0]);
}

/// Whether two ends are the same, but for ids and for which of several
/// failures was the first.
fn same(a: &TaskMeta, b: &TaskMeta) -> bool {
    a.status == b.status && (a.status != State::Success || a.result == b.result)
}
