//! What every broker must do, asked of this one, on a server of each test's own.
//!
//! `redis-server` must be installed: `apt-get install redis-server`.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

#[expect(dead_code, unused_imports, reason = "other tests use the rest")]
#[path = "it/support.rs"]
mod support;

use canvas_conformance::{BrokerFixture, Need};

use support::Redis;

async fn redis(need: Need) -> BrokerFixture {
    if need != Need::Restart {
        let redis = Redis::start();
        return BrokerFixture::new(redis.broker()).keep(redis);
    }
    let redis = Redis::durable();
    BrokerFixture::new(redis.broker()).restarting(async || {
        let mut redis = redis;
        redis.kill();
        redis.restart();
        BrokerFixture::new(redis.broker()).keep(redis)
    })
}

canvas_conformance::broker_suite!(redis);
