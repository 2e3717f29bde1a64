//! What every backend must do, asked of this one, on a server of each test's own.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

mod support;

use std::time::Duration;

use canvas_conformance::{BackendFixture, Need};

use support::Redis;

/// How long things live in a backend that forgets.
const EXPIRY: Duration = Duration::from_secs(2);

async fn redis(need: Need) -> BackendFixture {
    let redis = Redis::start().await;
    let backend = redis.backend_with(|config| {
        // No Python process sends chords here.
        config.header_grace = Duration::ZERO;
        if need == Need::Expiry {
            config.result_expires = Some(EXPIRY);
            config.join_expires = Some(EXPIRY);
        }
    });
    let fixture = BackendFixture::new(backend).expiring_after(EXPIRY);
    if need != Need::Restart {
        return fixture.keep(redis);
    }
    fixture.restarting(async || {
        let mut redis = redis;
        redis.kill();
        redis.run().await;
        BackendFixture::new(redis.backend()).keep(redis)
    })
}

canvas_conformance::backend_suite!(redis);
