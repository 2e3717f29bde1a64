//! What every broker must do, asked of this one: on classic queues, on those
//! with priorities, and on quorum queues.
//!
//! One server serves all tests, each in a virtual host of its own; those that
//! restart a server have one of their own. RabbitMQ must be installed:
//! `apt-get install rabbitmq-server`.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

#[expect(dead_code, reason = "other tests use the rest")]
#[path = "it/rabbit.rs"]
mod rabbit;

use canvas_broker_amqp::{AmqpBroker, AmqpBrokerConfig, QueueType};
use canvas_conformance::{BrokerFixture, Need};

use rabbit::{Rabbit, Vhost};

async fn amqp(need: Need) -> BrokerFixture {
    with(AmqpBrokerConfig::default(), need)
}

async fn amqp_priorities(need: Need) -> BrokerFixture {
    let mut config = AmqpBrokerConfig::default();
    config.queue_max_priority = Some(9);
    with(config, need)
}

async fn amqp_quorum(need: Need) -> BrokerFixture {
    with(AmqpBrokerConfig::quorum(), need)
}

fn with(config: AmqpBrokerConfig, need: Need) -> BrokerFixture {
    if need != Need::Restart {
        let vhost = Vhost::new();
        return to(&vhost.url(), config);
    }
    let rabbit = Rabbit::start();
    let url = format!("amqp://guest:guest@127.0.0.1:{}//", rabbit.port);
    to(&url, config.clone()).restarting(async move || {
        let mut rabbit = rabbit;
        if config.queue_type == QueueType::Quorum {
            // Killed just after it has declared a quorum queue, RabbitMQ 3.10 does
            // not find that queue again, whatever was in it.
            rabbit.control(&["stop_app"]);
            rabbit.control(&["start_app"]);
        } else {
            rabbit.kill();
            rabbit.run();
        }
        to(&url, config).keep(rabbit)
    })
}

fn to(url: &str, config: AmqpBrokerConfig) -> BrokerFixture {
    BrokerFixture::new(AmqpBroker::new(url, config).unwrap())
}

canvas_conformance::broker_suite!(amqp);
canvas_conformance::broker_suite!(amqp_priorities);
canvas_conformance::broker_suite!(amqp_quorum);
