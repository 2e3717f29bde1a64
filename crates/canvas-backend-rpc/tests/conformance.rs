//! What every backend must do, asked of this one.
//!
//! One server serves all tests, each in a virtual host of its own. RabbitMQ must
//! be installed: `apt-get install rabbitmq-server`.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

#[expect(dead_code, reason = "other tests use the rest")]
#[path = "../../canvas-broker-amqp/tests/it/rabbit.rs"]
mod rabbit;

use canvas_backend_rpc::{RpcBackend, RpcBackendConfig};
use canvas_conformance::{BackendFixture, Need};

use rabbit::Vhost;

async fn rpc(_: Need) -> BackendFixture {
    let vhost = Vhost::new();
    let config = RpcBackendConfig::default();
    let backend = RpcBackend::new("rpc://", &vhost.url(), config);
    BackendFixture::new(backend.unwrap()).keep(vhost)
}

canvas_conformance::backend_suite!(rpc);
