//! Waiting for results: one connection, which goes and comes back.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use canvas_core::backend::Backend;
use canvas_core::{Error, Id, State, TaskMeta};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use support::{Redis, eventually, failure, ids, soon, success};

/// So long that it does not happen in a test.
const NEVER: Duration = Duration::from_secs(3_600);

async fn subscribed(redis: &Redis, count: usize) {
    let what = format!("{count} channels have a subscriber");
    eventually(&what, async || {
        let channels: Vec<String> = redis.ask("PUBSUB CHANNELS").await;
        (channels.len() == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn ten_thousand_wait_on_one_connection() {
    let redis = Redis::start().await;
    let backend = redis.backend_with(|config| config.look_again = NEVER);
    let ids = ids(10_000);
    let waiting = FuturesUnordered::new();
    for id in &ids {
        let mut watch = backend.watch(std::slice::from_ref(id)).await.unwrap();
        waiting.push(async move { watch.next().await.unwrap().unwrap().task_id });
    }
    // They are all told by message: nothing is there yet, and they look once.
    subscribed(&redis, ids.len()).await;
    eventually("there is one to wait and one to look", async || {
        let mut names = redis.connections().await;
        names.sort();
        (names == ["canvas-backend", "canvas-backend:watch"]).then_some(())
    })
    .await;
    for ids in ids.chunks(500) {
        let metas: Vec<TaskMeta> = ids.iter().map(|id| success(id.as_str(), 1)).collect();
        let storing = metas.iter().map(|meta| backend.store(meta));
        futures_util::future::try_join_all(storing).await.unwrap();
    }
    let told: BTreeSet<Id> = soon(waiting.collect::<Vec<_>>())
        .await
        .into_iter()
        .collect();
    assert_eq!(told, ids.into_iter().collect());
    subscribed(&redis, 0).await;
}

#[tokio::test]
async fn a_channel_is_left_when_the_last_who_waits_on_it_goes() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    let first = backend.watch(&["1".into(), "2".into()]).await.unwrap();
    let second = backend.watch(&["2".into()]).await.unwrap();
    subscribed(&redis, 2).await;
    drop(first);
    subscribed(&redis, 1).await;
    drop(second);
    subscribed(&redis, 0).await;
}

#[tokio::test]
async fn the_connection_is_closed_when_nobody_waits() {
    let redis = Redis::start().await;
    let backend = redis.backend_with(|config| config.look_again = Duration::from_millis(50));
    let watch = backend.watch(&["1".into()]).await.unwrap();
    subscribed(&redis, 1).await;
    drop(watch);
    eventually("the connection is closed", async || {
        let names = redis.connections().await;
        (names == ["canvas-backend"]).then_some(())
    })
    .await;
    // And made again for the next one.
    let mut watch = backend.watch(&["1".into()]).await.unwrap();
    subscribed(&redis, 1).await;
    backend.store(&success("1", 1)).await.unwrap();
    assert_eq!(soon(watch.next()).await.unwrap().unwrap(), success("1", 1));
}

#[tokio::test]
async fn who_comes_later_is_told_as_well() {
    let redis = Redis::start().await;
    let backend = redis.backend_with(|config| config.look_again = NEVER);
    let mut first = backend.watch(&["1".into(), "2".into()]).await.unwrap();
    subscribed(&redis, 2).await;
    backend.store(&success("1", 1)).await.unwrap();
    soon(first.next()).await.unwrap().unwrap();
    // What has ended, and what has not.
    let mut second = backend.watch(&["2".into(), "1".into()]).await.unwrap();
    assert_eq!(soon(second.next()).await.unwrap().unwrap(), success("1", 1));
    backend.store(&failure("2")).await.unwrap();
    for watch in [&mut first, &mut second] {
        assert_eq!(soon(watch.next()).await.unwrap().unwrap(), failure("2"));
        assert!(soon(watch.next()).await.is_none());
    }
}

#[tokio::test]
async fn a_state_that_is_no_end_is_not_told() {
    let redis = Redis::start().await;
    let backend = redis.backend_with(|config| config.look_again = Duration::from_millis(20));
    let mut watch = backend.watch(&["1".into()]).await.unwrap();
    subscribed(&redis, 1).await;
    for state in [
        State::Started,
        State::Retry,
        State::Custom("MINE".to_owned()),
    ] {
        let meta = TaskMeta::new("1".into(), state);
        backend.store(&meta).await.unwrap();
    }
    // Whoever hears of the other one has heard of these.
    let mut other = backend.watch(&["2".into()]).await.unwrap();
    backend.store(&success("2", 2)).await.unwrap();
    soon(other.next()).await.unwrap().unwrap();
    assert!(watch.next().now_or_never().is_none());
    backend.store(&success("1", 1)).await.unwrap();
    assert_eq!(soon(watch.next()).await.unwrap().unwrap(), success("1", 1));
}

/// For whatever may go wrong between the server and the subscriber.
#[tokio::test]
async fn a_result_that_nobody_told_of_is_found() {
    let redis = Redis::start().await;
    let backend = redis.backend_with(|config| config.look_again = Duration::from_millis(50));
    let mut watch = backend.watch(&["1".into()]).await.unwrap();
    subscribed(&redis, 1).await;
    let meta = String::from_utf8(success("1", 1).to_json().unwrap()).unwrap();
    let _: () = redis.send(&["SET", "celery-task-meta-1", &meta]).await;
    assert_eq!(soon(watch.next()).await.unwrap().unwrap(), success("1", 1));
}

/// What is published while the connection is down is lost.
#[tokio::test]
async fn whoever_reconnects_looks_what_came_meanwhile() {
    let redis = Redis::start().await;
    let backend = redis.backend_with(|config| config.look_again = NEVER);
    let ids = ids(100);
    let watch = backend.watch(&ids).await.unwrap();
    subscribed(&redis, ids.len()).await;
    let half = ids.len() / 2;
    for id in &ids[..half] {
        let meta = success(id.as_str(), 1).to_json().unwrap();
        let key = format!("celery-task-meta-{id}");
        let meta = String::from_utf8(meta).unwrap();
        let _: () = redis.send(&["SET", &key, &meta]).await;
    }
    let killed: usize = redis.ask("CLIENT KILL TYPE pubsub").await;
    assert_eq!(killed, 1);
    // And is subscribed again to the rest.
    subscribed(&redis, half).await;
    for id in &ids[half..] {
        backend.store(&success(id.as_str(), 1)).await.unwrap();
    }
    assert_eq!(soon(watch.collect::<Vec<_>>()).await.len(), ids.len());
}

#[tokio::test]
async fn those_who_wait_outlive_a_restart_of_the_server() {
    let mut redis = Redis::start().await;
    let backend = redis.backend();
    let ids = ids(1_000);
    let watch = backend.watch(&ids).await.unwrap();
    subscribed(&redis, ids.len()).await;
    redis.kill();
    // Whoever comes while it is down waits like the others.
    let late = backend.watch(&["late".into()]).await.unwrap();
    redis.run().await;
    let storing = tokio::spawn(async move {
        for id in ids.iter().chain([&"late".into()]) {
            backend.store(&success(id.as_str(), 1)).await.unwrap();
        }
    });
    assert_eq!(soon(watch.collect::<Vec<_>>()).await.len(), 1_000);
    assert_eq!(soon(late.collect::<Vec<_>>()).await.len(), 1);
    storing.await.unwrap();
}

/// Nobody waits for ever for a server that does not come back.
#[tokio::test]
async fn those_who_wait_are_told_that_the_server_is_gone() {
    let mut redis = Redis::start().await;
    let backend = redis.backend_with(|config| config.retry_for = Duration::from_millis(300));
    let watch = backend.watch(&ids(3)).await.unwrap();
    subscribed(&redis, 3).await;
    redis.kill();
    let told = soon(watch.collect::<Vec<_>>()).await;
    assert!(
        matches!(
            told.as_slice(),
            [Err(Error::Connection {
                operation: "backend.watch",
                ..
            })]
        ),
        "{told:?}"
    );
    let late = backend.watch(&ids(3)).await.unwrap();
    let told = soon(late.collect::<Vec<_>>()).await;
    assert!(
        matches!(told.as_slice(), [Err(Error::Connection { .. })]),
        "{told:?}"
    );
    // The next ones are served when it is back.
    redis.run().await;
    let mut watch = backend.watch(&["1".into()]).await.unwrap();
    backend.store(&success("1", 1)).await.unwrap();
    assert_eq!(soon(watch.next()).await.unwrap().unwrap(), success("1", 1));
}

/// A runtime takes the connection with it.
#[test]
fn a_backend_may_be_used_on_one_runtime_after_another() {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let main = runtime();
    let redis = main.block_on(Redis::start());
    let backend = redis.backend();
    for n in 0..3 {
        let id = n.to_string();
        runtime().block_on(async {
            let mut watch = backend.watch(&[id.as_str().into()]).await.unwrap();
            backend.store(&success(&id, n)).await.unwrap();
            assert_eq!(soon(watch.next()).await.unwrap().unwrap(), success(&id, n));
        });
    }
}
