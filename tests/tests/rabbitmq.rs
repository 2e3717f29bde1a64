//! Workflows through RabbitMQ: what a broker alone cannot show.
//!
//! `rabbitmq-server` must be installed: `apt-get install rabbitmq-server`.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

#[expect(dead_code, reason = "the tests of the driver need more of it")]
#[path = "../../crates/canvas-broker-amqp/tests/it/rabbit.rs"]
mod rabbit;

use std::sync::Arc;
use std::time::Duration;

use canvas::broker_amqp::{AmqpBroker, AmqpBrokerConfig};
use canvas::{Broker, Builder, Canvas, Connect, Signature, WorkerExt, chain, chord};
use canvas_tests::support::{PATIENCE, add, builder, fail, ok, sum};
use serde_json::{Value, json};

use rabbit::{Rabbit, Vhost};

fn app(broker: Arc<dyn Broker>) -> Builder {
    builder().broker(broker)
}

async fn run(app: &Canvas, canvas: Signature) -> Result<Value, canvas::Error> {
    let result = app.apply(canvas).await.unwrap();
    result.get_timeout(PATIENCE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workflows_run_on_classic_and_on_quorum_queues() {
    for config in [AmqpBrokerConfig::default(), AmqpBrokerConfig::quorum()] {
        let vhost = Vhost::new();
        let app = app(AmqpBroker::new(&vhost.url(), config).unwrap())
            .build()
            .unwrap();
        let worker = app.worker().start().await.unwrap();
        let chained = chain([ok(1), add(2), add(3)]);
        assert_eq!(run(&app, chained).await.unwrap(), json!(6));
        let wide = chord((1..=50).map(ok), sum());
        assert_eq!(run(&app, wide).await.unwrap(), json!(1_275));
        let broken = chord([ok(1), fail("why")], sum());
        let error = run(&app, broken).await.unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
        worker.stop().await;
        // Nothing is left, and nothing was rejected.
        assert_eq!(app.broker().len("celery").await.unwrap(), 0);
        assert!(
            app.broker()
                .dead_letters("celery")
                .await
                .unwrap()
                .is_empty()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_waits_for_its_time_and_keeps_no_other_waiting() {
    for config in [AmqpBrokerConfig::default(), AmqpBrokerConfig::quorum()] {
        let vhost = Vhost::new();
        let app = app(AmqpBroker::new(&vhost.url(), config).unwrap())
            .build()
            .unwrap();
        let worker = app
            .worker()
            .concurrency(1)
            .prefetch(1)
            .start()
            .await
            .unwrap();
        let started = std::time::Instant::now();
        let mut late = Vec::new();
        for n in 0..3 {
            let later = ok(n).countdown(Duration::from_secs(2));
            late.push(app.apply(later).await.unwrap());
        }
        assert_eq!(run(&app, ok("now")).await.unwrap(), json!("now"));
        assert!(started.elapsed() < Duration::from_secs(2), "it had to wait");
        for result in late {
            result.get_timeout(PATIENCE).await.unwrap();
        }
        assert!(
            started.elapsed() >= Duration::from_secs(2),
            "they came too early"
        );
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chords_end_though_connections_are_closed_under_them() {
    let vhost = Vhost::new();
    let app = builder().broker_url(&vhost.url()).connect().unwrap();
    let worker = app.worker().start().await.unwrap();
    let mut results = Vec::new();
    for round in 0..4 {
        for _ in 0..5 {
            let canvas = chord((1..=20).map(ok), sum());
            // A client that is cut off tries again, as it is told it may.
            match app.apply(canvas).await {
                Ok(result) => results.push(result),
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
        if round < 3 {
            Rabbit::shared().control(&["close_all_connections", "--vhost", &vhost.name, "a test"]);
        }
    }
    assert!(results.len() >= 5);
    for result in results {
        let sum = result.get_timeout(PATIENCE).await.unwrap();
        assert_eq!(sum, json!(210));
    }
    worker.stop().await;
}
