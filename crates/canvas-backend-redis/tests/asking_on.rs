//! The member that waits for the size of a header.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

mod support;

use std::time::Duration;

use canvas_core::State;
use canvas_core::backend::{Arrival, Backend, Part};
use support::Redis;

const LEASE: Duration = Duration::from_secs(5);

fn part(id: &str, index: u64, state: State) -> Part {
    Part {
        task_id: id.into(),
        index: Some(index),
        state,
        result: 1.into(),
    }
}

/// Two members: one before the size is known, the other ends the join.
async fn closed(redis: &Redis, backend: &dyn Backend, last: State) -> Part {
    let join = "g".into();
    let first = part("a", 0, State::Success);
    let early = backend.arrive(&join, &first, LEASE).await.unwrap();
    assert!(matches!(early, Arrival::Claimed { .. }), "{early:?}");
    // As Celery does just before it sends the last member.
    redis.ask::<()>("SET celery-taskset-meta-g.s 2").await;
    let last = part("b", 1, last);
    let complete = backend.arrive(&join, &last, LEASE).await.unwrap();
    let Arrival::Complete { claim, .. } = complete else {
        panic!("{complete:?}");
    };
    assert!(backend.close_join(&join, claim).await.unwrap());
    first
}

#[tokio::test]
async fn the_member_that_asked_for_the_size_leaves_the_parts_of_a_failed_join_alone() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    let first = closed(&redis, &*backend, State::Failure).await;
    // The first asks on, as it was told to.
    let late = backend.arrive(&"g".into(), &first, LEASE).await.unwrap();
    assert!(matches!(late, Arrival::Closed), "{late:?}");
    let left: u64 = redis.ask("ZCARD celery-taskset-meta-g.j").await;
    assert_eq!(left, 2);
}

#[tokio::test]
async fn the_member_that_asked_for_the_size_is_not_counted_again_once_the_join_is_closed() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    let first = closed(&redis, &*backend, State::Success).await;
    let late = backend.arrive(&"g".into(), &first, LEASE).await.unwrap();
    assert!(matches!(late, Arrival::Closed), "{late:?}");
    let keys: Vec<String> = redis.ask("KEYS *").await;
    assert_eq!(keys, ["celery-taskset-meta-g.c"]);
}
