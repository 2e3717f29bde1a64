//! The committer makes what the sequence says, in its order: only messages wait
//! for each other, and no longer than until something else is to be done.

use std::sync::Arc;

use async_trait::async_trait;
use canvas_core::broker::ConsumeSpec;
use canvas_core::memory::{MemoryBackend, MemoryBroker};
use canvas_core::protocol::DeliveryInfo;
use canvas_core::{
    Broker as _, Canvas, Committed, Errback, Errbacks, Request, advance, chain, chord,
};
use canvas_tests::faults::Faults;
use chrono::Utc;

use crate::scene::{outcomes, t};

struct Nobody;

#[async_trait]
impl Errbacks for Nobody {
    async fn call(&self, errback: Errback) {
        panic!("{errback:?} is not expected");
    }
}

#[tokio::test]
async fn a_commit_makes_each_operation_after_all_before_it() {
    let faults = Faults::none();
    let queue = MemoryBroker::new();
    let app = Canvas::builder()
        .broker(faults.broker(queue.clone()))
        .backend(faults.backend(MemoryBackend::new()))
        .build()
        .unwrap();
    let canvas = chain([t("a"), chord([t("b"), t("c")], t("d"))]);
    app.apply(canvas).await.unwrap();
    let spec = ConsumeSpec {
        queues: vec!["celery".into()],
        prefetch: 1,
        lease: std::time::Duration::from_secs(30),
    };
    let mut consumer = queue.consume(spec).await.unwrap();
    let mut made = Vec::new();
    for _ in 0..4 {
        let delivery = consumer.next().await.unwrap().unwrap();
        let info = DeliveryInfo::default();
        let request = Request::decode(&delivery.message, info).unwrap();
        let before = faults.calls().len();
        let outcome = outcomes(&request).swap_remove(0);
        let step = advance(app.env(), &request, outcome, Vec::new(), Utc::now());
        let committer = app.committer();
        let committed = committer.commit(&request, step.effects, &Nobody, None);
        assert_eq!(committed.await.unwrap(), Committed::All { settled: None });
        queue.settle(&delivery.receipt, step.settle).await.unwrap();
        let calls = faults.calls().split_off(before);
        let calls: Vec<&str> = calls.iter().map(|call| call.operation).collect();
        made.push((Arc::clone(&request.task), calls));
    }
    let made: Vec<(&str, &[&str])> = made.iter().map(|(t, calls)| (&**t, &**calls)).collect();
    let expected: [(&str, &[&str]); 4] = [
        (
            "a",
            &["backend.store", "backend.open_join", "broker.publish"],
        ),
        ("b", &["backend.store", "backend.arrive"]),
        (
            "c",
            &[
                "backend.store",
                "backend.arrive",
                "backend.load_group",
                "broker.publish",
                "backend.close_join",
            ],
        ),
        ("d", &["backend.store"]),
    ];
    assert_eq!(made, expected);
}
