//! The broker on a real Redis, alone, beside Python, and through outages.
//!
//! Each test starts a server of its own. `redis-server` must be installed:
//! `apt-get install redis-server`.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

mod celery;
mod layout;
mod lease;
mod outage;
mod support;
mod waiting;
