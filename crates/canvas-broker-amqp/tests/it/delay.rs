//! Tasks that wait for their time in RabbitMQ.

use std::time::Duration;

use canvas_broker_amqp::{AmqpBrokerConfig, QueueType};
use canvas_core::Error;
use canvas_core::broker::{Settle, Settled};
use chrono::Utc;

use crate::support::{NEVER, Vhost, consume, id, message, next, nothing, publish, to};

/// Delays in classic queues, which are quicker to make.
fn delaying() -> AmqpBrokerConfig {
    let mut config = AmqpBrokerConfig::default();
    config.delayed_delivery = true;
    config.delayed_delivery_queue_type = QueueType::Classic;
    config
}

#[tokio::test]
async fn a_deferred_message_comes_at_its_time_and_keeps_nobody_waiting() {
    for config in [AmqpBrokerConfig::quorum(), delaying()] {
        let vhost = Vhost::new();
        let broker = vhost.broker_with(config);
        assert!(broker.info().defers);
        publish(&broker, "q", &["0"]).await;
        let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
        let delivery = next(&mut consumer).await;
        let at = Utc::now() + chrono::Duration::milliseconds(1_500);
        let deferred = broker.settle(&delivery.receipt, Settle::Defer(at)).await;
        assert_eq!(deferred.unwrap(), Settled::Done);
        publish(&broker, "q", &["2"]).await;
        let other = next(&mut consumer).await;
        assert_eq!(id(&other), "2");
        broker.settle(&other.receipt, Settle::Ack).await.unwrap();
        let again = next(&mut consumer).await;
        assert!(Utc::now() >= at, "it came too early");
        assert_eq!(again.message, delivery.message);
        assert_eq!((again.deliveries, again.redelivered), (1, false));
    }
}

#[tokio::test]
async fn a_message_that_is_published_with_an_eta_waits_in_rabbitmq() {
    let vhost = Vhost::new();
    let broker = vhost.broker_with(delaying());
    let mut later = message("later");
    let eta = Utc::now() + chrono::Duration::milliseconds(1_200);
    later.headers.eta = Some(eta);
    // Left on, this would end the waiting early.
    later.properties.expiration = Some(300);
    // The other queue's name ends alike.
    broker.publish(vec![to("x.q", later)]).await.unwrap();
    publish(&broker, "q", &["now"]).await;
    let mut other = consume(&broker, &["q"], 5, NEVER).await;
    let mut consumer = consume(&broker, &["x.q"], 5, NEVER).await;
    assert_eq!(id(&next(&mut other).await), "now");
    nothing(&mut consumer, Duration::from_millis(600)).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(id(&delivery), "later");
    assert!(Utc::now() >= eta, "it came too early");
    nothing(&mut other, Duration::from_millis(300)).await;
}

#[tokio::test]
async fn without_delayed_delivery_the_worker_is_to_hold_it() {
    let vhost = Vhost::new();
    let broker = vhost.broker();
    assert!(!broker.info().defers);
    publish(&broker, "q", &["1"]).await;
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let delivery = next(&mut consumer).await;
    let refused = broker
        .settle(&delivery.receipt, Settle::Defer(Utc::now()))
        .await;
    assert!(matches!(refused, Err(Error::Unsupported { .. })));
    let settled = broker.settle(&delivery.receipt, Settle::Ack).await;
    assert_eq!(settled.unwrap(), Settled::Done);
}
