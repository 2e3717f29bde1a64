//! Chords from Python's clients, who open no join in a database: they send
//! `celery.chord_unlock`, which asks for the results of the header.
//!
//! A client here that keeps its joins to itself sends the same messages.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

#[expect(dead_code, reason = "the other tests use the rest of it")]
#[path = "it/support.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use canvas::prelude::*;
use canvas::{AsyncResult, Builder, Running, State};
use canvas_core::memory::{MemoryBackend, MemoryBroker};
use serde_json::{Value, json};
use support::{Db, Kind, PATIENCE};

#[task]
async fn fail(why: String) -> Result<i64, TaskError> {
    Err(TaskError::msg(why))
}

/// Gives back what it is given.
#[task]
async fn same(value: Value) -> Value {
    value
}

/// How often each body has run, by its name.
static BODIES: [AtomicUsize; 8] = [const { AtomicUsize::new(0) }; 8];

/// The body of a test: counts its runs.
#[task]
async fn body(results: Value, test: usize) -> Value {
    BODIES[test].fetch_add(1, Ordering::SeqCst);
    results
}

struct Fleet {
    /// Whose messages are Python's.
    python: Canvas,
    /// Who sends as we do.
    app: Canvas,
    _db: Db,
    worker: Running,
}

impl Fleet {
    async fn start() -> Self {
        let db = Db::start(Kind::Sqlite).await;
        let broker = Arc::new(MemoryBroker::new());
        let build = |builder: Builder| {
            let builder = builder.task::<same>().task::<fail>().task::<body>();
            builder.broker(broker.clone())
        };
        let python = Canvas::builder().backend(Arc::new(MemoryBackend::new()));
        let app = build(Canvas::builder().backend_url(&db.url()))
            .connect()
            .unwrap();
        let worker = app.worker().concurrency(4).start().await.unwrap();
        Self {
            python: build(python).build().unwrap(),
            app,
            _db: db,
            worker,
        }
    }

    /// Sends a header with the body that its members carry, as Python does.
    async fn header(&self, header: Signature, test: usize) -> AsyncResult {
        let body = Signature::from(body::partial(test));
        self.python.apply(chord([header], body)).await.unwrap()
    }

    /// Sends the task that polls; its result is there when it asks no more.
    async fn unlock(&self, sent: &AsyncResult, test: usize, limit: Option<u32>) -> AsyncResult {
        let header = sent.parent().unwrap();
        let body = Signature::from(body::partial(test)).task_id(sent.id().clone());
        let results: Vec<Value> = header
            .tree()
            .members
            .iter()
            .flatten()
            .map(|m| m.to_value())
            .collect();
        let unlock = Signature::new("celery.chord_unlock")
            .arg(header.id().as_str())
            .arg(json!(body))
            .kwarg("interval", 0.02)
            .kwarg("max_retries", limit)
            .kwarg("result", results);
        self.python.apply(unlock).await.unwrap()
    }

    /// A worker in the place of the one that is there, which ends what it does.
    async fn next_worker(&mut self) {
        let next = self.app.worker().concurrency(4).start().await.unwrap();
        std::mem::replace(&mut self.worker, next).stop().await;
    }

    /// Waits for the result of a body.
    async fn value(&self, sent: &AsyncResult) -> canvas::Result<Value> {
        self.app
            .result(sent.id().clone())
            .get_timeout(PATIENCE)
            .await
    }

    async fn end(self) {
        self.worker.stop().await;
    }
}

fn runs(test: usize) -> usize {
    BODIES[test].load(Ordering::SeqCst)
}

fn same_of(values: impl IntoIterator<Item = Value>) -> Vec<Signature> {
    values.into_iter().map(|v| same::s(v).into()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chord_from_python_has_its_body_once_however_often_it_is_asked_for() {
    let fleet = Fleet::start().await;
    let header = group(same_of((0..5).map(Value::from)));
    let sent = fleet.header(header, 0).await;
    // Two ask, as when one has come again because its worker was slow.
    let first = fleet.unlock(&sent, 0, None).await;
    let second = fleet.unlock(&sent, 0, None).await;
    assert_eq!(fleet.value(&sent).await.unwrap(), json!([0, 1, 2, 3, 4]));
    fleet.value(&first).await.unwrap();
    fleet.value(&second).await.unwrap();
    fleet.end().await;
    assert_eq!(runs(0), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_from_python_that_come_before_the_join_fail_nothing() {
    let mut fleet = Fleet::start().await;
    let sent = fleet
        .header(group(same_of([json!("a"), json!("b")])), 1)
        .await;
    let header = sent.parent().unwrap().tree().clone();
    for member in header.leaves() {
        let member = fleet.app.result(member.id.clone());
        member.get_timeout(PATIENCE).await.unwrap();
    }
    // Their arrivals come after their results.
    fleet.next_worker().await;
    assert_eq!(
        fleet.app.result(sent.id().clone()).state().await.unwrap(),
        State::Pending
    );
    fleet.unlock(&sent, 1, None).await;
    assert_eq!(fleet.value(&sent).await.unwrap(), json!(["a", "b"]));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_in_a_header_from_python_gives_a_list() {
    let fleet = Fleet::start().await;
    let inner = Signature::from(same::s(json!(1))) | group([same::partial(), same::partial()]);
    let sent = fleet
        .header(group([inner, same::s(json!(2)).into()]), 2)
        .await;
    fleet.unlock(&sent, 2, None).await;
    assert_eq!(fleet.value(&sent).await.unwrap(), json!([[1, 1], 2]));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_member_from_python_fails_the_body() {
    let fleet = Fleet::start().await;
    let failing = Signature::from(fail::s("no way".to_owned()));
    let sent = fleet
        .header(group([failing, same::s(json!(1)).into()]), 3)
        .await;
    fleet.unlock(&sent, 3, None).await;
    let error = fleet.value(&sent).await.unwrap_err().to_string();
    assert!(error.contains("no way"), "{error}");
    assert_eq!(runs(3), 0);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_fails_when_nobody_asks_for_its_members_any_more() {
    let fleet = Fleet::start().await;
    let nobody_runs = same::s(json!(1)).queue("nobody takes from this");
    let sent = fleet.header(group([nobody_runs]), 4).await;
    fleet.unlock(&sent, 4, Some(2)).await;
    let error = fleet.value(&sent).await.unwrap_err().to_string();
    assert!(error.contains("MaxRetriesExceededError"), "{error}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_join_of_our_own_still_fails_its_body() {
    let fleet = Fleet::start().await;
    // Its member waits until the join is gone.
    let wait = same::s(json!(1)).countdown(Duration::from_millis(500));
    let sent = fleet
        .app
        .apply(chord([wait], body::partial(5)))
        .await
        .unwrap();
    let header = sent.parent().unwrap().id().clone();
    fleet.app.backend().forget(&[header]).await.unwrap();
    let error = fleet.value(&sent).await.unwrap_err().to_string();
    assert!(error.contains("not in the backend"), "{error}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chord_of_ours_needs_nobody_to_ask() {
    let fleet = Fleet::start().await;
    let sent = fleet
        .app
        .apply(chord(same_of([json!(1)]), body::partial(6)))
        .await
        .unwrap();
    assert_eq!(fleet.value(&sent).await.unwrap(), json!([1]));
    // As when a Python worker has begun to send it, and one of ours does again.
    let asked = fleet.unlock(&sent, 6, None).await;
    fleet.value(&asked).await.unwrap();
    fleet.end().await;
    assert_eq!(runs(6), 1);
}
