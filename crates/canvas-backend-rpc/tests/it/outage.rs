//! Connections that are cut, and servers that are restarted.

use canvas::prelude::*;
use canvas::{Error, State};
use canvas_backend_rpc::RpcBackendConfig;
use serde_json::json;

use crate::support::{PATIENCE, Rabbit, Vhost, add, no_file, until, wait, with_tasks};

fn cut(vhost: &Vhost) {
    Rabbit::shared().control(&["close_all_connections", "--vhost", &vhost.name, "a test"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_comes_though_the_connection_is_cut_while_one_waits() {
    let vhost = Vhost::new();
    let worker = vhost.app().worker().start().await.unwrap();
    let client = vhost.client();
    let file = no_file("cut");
    let result = client.apply(wait::s(file.clone())).await.unwrap();
    until("it runs", || async {
        result.state().await.unwrap() == State::Custom("WAITING".to_owned())
    })
    .await;
    let waiting = tokio::spawn({
        let result = result.clone();
        async move { result.get_timeout(PATIENCE).await }
    });
    cut(&vhost);
    std::fs::write(&file, "").unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), json!("done"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_that_are_sent_while_nobody_reads_are_there_later() {
    let vhost = Vhost::new();
    let client = vhost.client();
    let results = [
        client.apply(add::s(1, 2)).await.unwrap(),
        client.apply(add::s(3, 4)).await.unwrap(),
    ];
    let worker = vhost.app().worker().start().await.unwrap();
    for round in 0..3 {
        cut(&vhost);
        for (result, value) in results.iter().zip([3, 7]) {
            let value = json!(value);
            assert_eq!(
                result.get_timeout(PATIENCE).await.unwrap(),
                value,
                "{round}"
            );
        }
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_are_told_when_the_queue_is_gone() {
    let vhost = Vhost::new();
    let client = vhost.client();
    let result = client.apply(add::s(1, 2)).await.unwrap();
    let waiting = tokio::spawn({
        let result = result.clone();
        async move { result.get_timeout(PATIENCE).await }
    });
    let queue = client.env().reply_to.to_string();
    vhost.manage("DELETE", "queues", &queue);
    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Connection { .. }), "{error}");
    assert!(
        error.to_string().contains("the reply queue was gone"),
        "{error}"
    );
    // What was not sent meanwhile comes all the same.
    let worker = vhost.app().worker().start().await.unwrap();
    assert_eq!(result.get_timeout(PATIENCE).await.unwrap(), json!(3));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_ask_after_the_queue_was_gone_are_told_once() {
    let vhost = Vhost::new();
    let client = vhost.client();
    let result = client.apply(add::s(1, 2)).await.unwrap();
    let queue = client.env().reply_to.to_string();
    vhost.manage("DELETE", "queues", &queue);
    until("it is there again", || async {
        vhost.reply_queues() == [queue.clone()]
    })
    .await;
    let error = result.get_timeout(PATIENCE).await.unwrap_err();
    assert!(
        error.to_string().contains("the reply queue was gone"),
        "{error}"
    );
    let moment = std::time::Duration::from_millis(200);
    let error = result.get_timeout(moment).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_on_their_way_survive_a_restart_of_the_server() {
    let mut rabbit = Rabbit::start();
    let url = format!("amqp://127.0.0.1:{}", rabbit.port);
    let app = || with_tasks(Canvas::builder().broker_url(&url).backend_url("rpc://"));
    let client = app().connect().unwrap();
    let file = no_file("restart");
    let slow = client.apply(wait::s(file.clone())).await.unwrap();
    let quick = client.apply(add::s(1, 2)).await.unwrap();
    let worker = app().connect().unwrap().worker().start().await.unwrap();
    until("it runs", || async {
        slow.state().await.unwrap() == State::Custom("WAITING".to_owned())
    })
    .await;
    let waiting = tokio::spawn(async move { slow.get_timeout(PATIENCE).await });
    assert_eq!(quick.get_timeout(PATIENCE).await.unwrap(), json!(3));
    rabbit.kill();
    std::fs::write(&file, "").unwrap();
    // What came is here, server or not.
    assert_eq!(quick.get_timeout(PATIENCE).await.unwrap(), json!(3));
    rabbit.run();
    assert_eq!(waiting.await.unwrap().unwrap(), json!("done"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_is_an_error_and_nothing_is_sent() {
    let vhost = Vhost::new();
    let nowhere = "rpc://guest:guest@127.0.0.1:9//";
    let client = vhost.builder().backend_url(nowhere).connect().unwrap();
    for _ in 0..2 {
        let error = client.apply(add::s(1, 2)).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        assert!(error.to_string().starts_with("backend.expect: "), "{error}");
        assert!(error.to_string().contains("127.0.0.1:9"), "{error}");
    }
    assert_eq!(client.broker().len("celery").await.unwrap(), 0);
}

#[tokio::test]
async fn a_reply_queue_outlives_its_reader_by_as_much_as_it_is_told() {
    let vhost = Vhost::new();
    let mut config = RpcBackendConfig::default();
    config.queue_expires = std::time::Duration::from_secs(7);
    let client = vhost.builder().backend(vhost.backend_with(config));
    let client = client.connect().unwrap();
    client.apply(add::s(1, 2)).await.unwrap();
    let name = json!(client.env().reply_to);
    let queues = vhost.list("queues");
    let queue = queues.iter().find(|queue| queue["name"] == name).unwrap();
    assert_eq!(queue["arguments"], json!({ "x-expires": 7_000 }));
    let stays = ["durable", "auto_delete", "exclusive"].map(|it| queue[it].clone());
    assert_eq!(stays, [json!(true), json!(false), json!(false)]);
}
