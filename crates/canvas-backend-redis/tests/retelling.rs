//! Clients that look for a result before the server has heard that they wait.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

mod support;

use std::time::Duration;

use canvas_core::TaskMeta;
use canvas_core::backend::Backend;
use futures_util::StreamExt;
use redis::AsyncCommands;
use support::{Redis, soon, success};

/// The result of a task that another one has sent.
fn sent_by_a_worker(id: &str) -> TaskMeta {
    let mut meta = success(id, 1);
    meta.parent_id = Some("parent".into());
    meta
}

fn client(redis: &Redis) -> redis::Client {
    redis::Client::open(redis.url().replace("redis+socket", "unix")).unwrap()
}

#[tokio::test]
async fn the_result_of_a_task_that_a_worker_sent_is_told_twice_and_others_once() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    let mut ear = client(&redis).get_async_pubsub().await.unwrap();
    ear.psubscribe("*").await.unwrap();
    backend.store(&success("1", 1)).await.unwrap();
    backend.store(&sent_by_a_worker("2")).await.unwrap();
    let told = ear.on_message().take(3);
    let told = told.map(|message| message.get_channel_name().to_owned());
    // Again in the same order: the first would have come before the second.
    let channels = ["1", "2", "2"].map(|id| format!("celery-task-meta-{id}"));
    assert_eq!(soon(told.collect::<Vec<_>>()).await, channels);
}

#[tokio::test]
async fn a_client_that_looks_before_the_server_listens_to_it_is_told() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    for round in 0..5 {
        let meta = sent_by_a_worker(&round.to_string());
        let key = format!("celery-task-meta-{round}");
        let mut ear = client(&redis).get_async_pubsub().await.unwrap();
        let mut eye = client(&redis)
            .get_multiplexed_async_connection()
            .await
            .unwrap();
        backend
            .load(std::slice::from_ref(&meta.task_id))
            .await
            .unwrap();
        // Whichever was asked first: a server that finds all three asked takes
        // them up in an order of its own. This is the worst.
        redis.freeze(true);
        let (found, stored, asked, ()) = tokio::join!(
            eye.get::<_, Option<String>>(&key),
            backend.store(&meta),
            ear.subscribe(&key),
            async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                redis.freeze(false);
            },
        );
        asked.unwrap();
        stored.unwrap();
        if found.unwrap().is_none() {
            soon(ear.on_message().next()).await.unwrap();
        }
    }
}
