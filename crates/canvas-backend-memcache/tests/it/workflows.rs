//! Whole workflows, and what becomes of them when the cache loses something.

use std::sync::OnceLock;
use std::time::Duration;

use canvas::prelude::*;
use canvas::{Error, State};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::{Memcached, PATIENCE};

#[task(name = "tests.add")]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task(name = "tests.total")]
async fn total(numbers: Vec<i64>) -> i64 {
    numbers.iter().sum()
}

#[task(name = "tests.large")]
async fn large(megabytes: usize) -> String {
    "x".repeat(megabytes << 20)
}

/// Lets the tasks that wait go on.
fn gate() -> &'static Semaphore {
    static GATE: OnceLock<Semaphore> = OnceLock::new();
    GATE.get_or_init(|| Semaphore::new(0))
}

#[task(name = "tests.at_the_gate")]
async fn at_the_gate(x: i64) -> i64 {
    gate().acquire().await.map(drop).unwrap_or_default();
    x
}

fn app(memcached: &Memcached) -> Canvas {
    Canvas::builder()
        .task::<add>()
        .task::<total>()
        .task::<large>()
        .task::<at_the_gate>()
        .broker_url("memory://")
        .backend_url(&memcached.url())
        .connect()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chains_groups_and_chords_run() {
    let memcached = Memcached::start().await;
    let app = app(&memcached);
    let worker = app.worker().start().await.unwrap();
    let chained = add::s(1, 2).then(add::partial(3)).then(add::partial(4));
    let result = app.apply(chained).await.unwrap();
    assert_eq!(result.get_timeout(PATIENCE).await.unwrap(), json!(10));
    let nested = group([
        Signature::from(typed_chord((0..20).map(|n| add::s(n, n)), total::partial())),
        Signature::from(typed_chord([add::s(1, 1)], total::partial())),
    ]);
    let result = app.apply(nested | Signature::from(total::partial())).await;
    let value = result.unwrap().get_timeout(PATIENCE).await.unwrap();
    assert_eq!(value, json!(382));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_over_the_item_limit_fails_its_task_and_says_why() {
    let memcached = Memcached::start().await;
    let app = app(&memcached);
    let worker = app.worker().start().await.unwrap();
    let result = app.apply(large::s(2)).await.unwrap();
    let error = result.get_timeout(PATIENCE).await.unwrap_err();
    assert!(matches!(error, Error::TaskFailed { .. }), "{error:?}");
    assert!(error.to_string().contains("too large"), "{error}");
    worker.stop().await;
}

#[test]
fn every_scheme_of_celerys_and_ours_leads_here() {
    for scheme in ["memcached", "memcache", "pymemcache", "pylibmc"] {
        for before in ["", "cache+"] {
            let url = format!("{before}{scheme}://one:11211;two/");
            let app = Canvas::builder().backend_url(&url).connect().unwrap();
            let shown = app.backend().info().url;
            assert_eq!(shown, format!("{before}{scheme}://one:11211;two:11211/"));
        }
    }
    let error = Canvas::builder()
        .backend_url("cache+memory://")
        .connect()
        .unwrap_err();
    assert!(error.to_string().contains("cache+memory"), "{error}");
}

/// The chord would otherwise wait for ever: nobody knows any more how many members
/// it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chord_that_a_restart_has_lost_fails_and_says_why() {
    let mut memcached = Memcached::start().await;
    let app = app(&memcached);
    let worker = app.worker().start().await.unwrap();
    let header = [
        Signature::from(add::s(1, 1)),
        Signature::from(at_the_gate::s(2)),
        Signature::from(at_the_gate::s(3)),
    ];
    let result = app
        .apply(chord(header, Signature::from(total::partial())))
        .await
        .unwrap();
    let end = tokio::time::Instant::now() + PATIENCE;
    let counter = format!("chord-unlock-{}", result.parent().unwrap().id());
    while memcached.item(&counter).unwrap().1 != "1" {
        assert!(tokio::time::Instant::now() < end, "the first never arrived");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    memcached.kill();
    memcached.run().await;
    gate().add_permits(1_000);
    let error = result.get_timeout(PATIENCE).await.unwrap_err();
    let Error::TaskFailed { exception, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(exception.exc_type, "ChordError");
    assert_eq!(result.state().await.unwrap(), State::Failure);
    assert!(error.to_string().contains("lost"), "{error}");
    worker.stop().await;
}
