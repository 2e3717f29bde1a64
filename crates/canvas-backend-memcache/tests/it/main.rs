//! The backend on real servers, and beside Celery's.
//!
//! Memcached must be installed: `apt-get install memcached`.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

mod celery;
mod forms;
mod loss;
mod servers;
mod support;
mod workflows;
