//! Results over a real RabbitMQ: between Rust and Rust, Rust and Python, and
//! through outages.
//!
//! One server serves all tests, each in a virtual host of its own; one that stops
//! a server has its own. RabbitMQ must be installed:
//! `apt-get install rabbitmq-server`.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

mod celery;
mod outage;
#[expect(dead_code, reason = "the tests of the broker need more of it")]
#[path = "../../../canvas-broker-amqp/tests/it/rabbit.rs"]
mod rabbit;
mod support;
mod workflows;
