//! The broker on a real RabbitMQ, alone, beside Python, and through outages.
//!
//! One server serves all tests, each in a virtual host of its own; those that
//! stop a server have one of their own. RabbitMQ must be installed:
//! `apt-get install rabbitmq-server`.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

mod celery;
mod delay;
mod outage;
mod queues;
mod rabbit;
mod support;
