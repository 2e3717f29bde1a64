//! What every backend must do, asked of this one, on a server of each test's own.
//!
//! Memcached must be installed: `apt-get install memcached`.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

#[expect(dead_code, reason = "other tests use the rest")]
#[path = "it/support.rs"]
mod support;

use std::time::Duration;

use canvas_conformance::{BackendFixture, Need};

use support::Memcached;

/// How long things live in a backend that forgets. Memcached counts in seconds, and
/// may take up to one of them away.
const EXPIRY: Duration = Duration::from_secs(4);

async fn memcache(need: Need) -> BackendFixture {
    let memcached = Memcached::start().await;
    let backend = memcached.backend_with(|config| {
        if need == Need::Expiry {
            config.result_expires = Some(EXPIRY);
            config.join_expires = Some(EXPIRY);
        }
    });
    BackendFixture::new(backend)
        .expiring_after(EXPIRY)
        .keep(memcached)
}

canvas_conformance::backend_suite!(memcache);
