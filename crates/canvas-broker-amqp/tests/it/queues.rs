//! What is RabbitMQ's own: priorities, counts of deliveries, queues that go.

use canvas_broker_amqp::{AmqpBroker, AmqpBrokerConfig};
use canvas_core::broker::{Broker, Destination, Outgoing, Settle, Settled};
use canvas_core::{Error, Result};
use serde_json::json;

use crate::support::{NEVER, Vhost, ack, consume, id, message, next, nothing, publish, to, until};

fn with_priorities() -> AmqpBrokerConfig {
    let mut config = AmqpBrokerConfig::default();
    config.queue_max_priority = Some(10);
    config
}

#[tokio::test]
async fn the_highest_priority_comes_first_and_none_is_the_lowest() {
    let vhost = Vhost::new();
    let broker = vhost.broker_with(with_priorities());
    for (priority, id) in [
        (None, "none"),
        (Some(6), "6"),
        (Some(9), "9"),
        (Some(3), "3"),
    ] {
        let mut message = message(id);
        message.properties.priority = priority;
        broker.publish(vec![to("q", message)]).await.unwrap();
    }
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let mut order = Vec::new();
    for _ in 0..4 {
        let delivery = next(&mut consumer).await;
        order.push(id(&delivery));
        ack(&broker, &delivery).await;
    }
    assert_eq!(order, ["9", "6", "3", "none"]);
}

#[tokio::test]
async fn what_comes_again_keeps_its_priority() {
    let vhost = Vhost::new();
    let broker = vhost.broker_with(with_priorities());
    for (priority, id) in [(9, "urgent"), (0, "slow")] {
        let mut message = message(id);
        message.properties.priority = Some(priority);
        broker.publish(vec![to("q", message)]).await.unwrap();
    }
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(id(&delivery), "urgent");
    // RabbitMQ may send this one the next message before it has the first back.
    consumer.stop().await.unwrap();
    let settled = broker.settle(&delivery.receipt, Settle::Requeue).await;
    assert_eq!(settled.unwrap(), Settled::Done);
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let again = next(&mut consumer).await;
    assert_eq!((&*id(&again), again.redelivered), ("urgent", true));
}

#[tokio::test]
async fn a_quorum_queue_counts_how_often_it_has_delivered() {
    let vhost = Vhost::new();
    let broker = vhost.broker_with(AmqpBrokerConfig::quorum());
    publish(&broker, "q", &["1"]).await;
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    for deliveries in 1..=3 {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.deliveries, deliveries);
        assert_eq!(delivery.redelivered, deliveries > 1);
        assert!(delivery.message.headers.extra.is_empty());
        let settled = broker.settle(&delivery.receipt, Settle::Requeue).await;
        assert_eq!(settled.unwrap(), Settled::Done);
    }
}

#[tokio::test]
async fn a_quorum_queue_gives_up_at_its_delivery_limit() {
    let vhost = Vhost::new();
    let mut config = AmqpBrokerConfig::quorum();
    config.delivery_limit = Some(2);
    let broker = vhost.broker_with(config);
    publish(&broker, "q", &["1"]).await;
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    for _ in 0..3 {
        let delivery = next(&mut consumer).await;
        let settled = broker.settle(&delivery.receipt, Settle::Requeue).await;
        settled.unwrap();
    }
    nothing(&mut consumer, std::time::Duration::from_millis(300)).await;
    assert_eq!(broker.len("q").await.unwrap(), 0);
}

#[tokio::test]
async fn what_leads_to_no_queue_is_an_error() {
    let vhost = Vhost::new();
    let broker = vhost.broker();
    publish(&broker, "q", &["1"]).await;
    let lost = |key: &str, exchange: &str| Outgoing {
        to: Destination {
            exchange: exchange.into(),
            routing_key: key.into(),
        },
        message: message("2"),
    };
    let returned: Result<()> = broker.publish(vec![lost("nobody", "q")]).await;
    let error = returned.unwrap_err();
    assert!(matches!(error, Error::Connection { .. }));
    assert!(
        error
            .to_string()
            .contains("no queue is bound to exchange `q`"),
        "{error}"
    );
    let unknown = broker.publish(vec![lost("q", "no-such-exchange")]).await;
    assert!(
        unknown
            .unwrap_err()
            .to_string()
            .contains("no-such-exchange")
    );
    // That was no harm to what came after.
    broker.publish(vec![lost("q", "q")]).await.unwrap();
    publish(&broker, "q", &["3"]).await;
    assert_eq!(broker.len("q").await.unwrap(), 3);
}

#[tokio::test]
async fn a_queue_that_was_deleted_is_declared_again_by_who_publishes() {
    let vhost = Vhost::new();
    let broker = vhost.broker();
    publish(&broker, "q", &["1"]).await;
    vhost.manage("DELETE", "queues", "q");
    publish(&broker, "q", &["2"]).await;
    assert_eq!(broker.len("q").await.unwrap(), 1);
}

#[tokio::test]
async fn a_queue_that_was_deleted_is_declared_again_by_who_consumes() {
    let vhost = Vhost::new();
    let broker = vhost.broker();
    publish(&broker, "other", &["0"]).await;
    let mut consumer = consume(&broker, &["q", "other"], 5, NEVER).await;
    let out = next(&mut consumer).await;
    vhost.manage("DELETE", "queues", "q");
    let receiving = tokio::spawn(async move { (id(&next(&mut consumer).await), consumer) });
    until("the queue is back", || async {
        vhost
            .list("queues")
            .iter()
            .any(|queue| queue["name"] == "q")
    })
    .await;
    publish(&broker, "q", &["1"]).await;
    let (received, _consumer) = receiving.await.unwrap();
    assert_eq!(received, "1");
    // The channel lived on.
    assert_eq!(ack(&broker, &out).await, Settled::Done);
}

#[tokio::test]
async fn a_queue_that_others_have_declared_otherwise_is_refused_with_what_to_do() {
    let vhost = Vhost::new();
    publish(&vhost.broker(), "q", &["1"]).await;
    let other = vhost.broker_with(with_priorities());
    let error = other
        .publish(vec![to("q", message("2"))])
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Config(_)));
    assert!(error.to_string().contains("queue_max_priority"), "{error}");
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn a_wrong_password_or_virtual_host_is_an_error_that_says_so() {
    let vhost = Vhost::new();
    let wrong = [
        vhost.url().replace("guest:guest", "guest:wrong"),
        vhost.url().replace(&vhost.name, "no-such-host"),
    ];
    for url in wrong {
        let broker = AmqpBroker::new(&url, AmqpBrokerConfig::default()).unwrap();
        let error = broker.len("q").await.unwrap_err();
        assert!(matches!(error, Error::Config(_)), "{error}");
        assert!(!error.to_string().contains("wrong"), "{error}");
    }
}

#[tokio::test]
async fn what_was_acknowledged_together_is_gone_and_nothing_else_is() {
    let vhost = Vhost::new();
    let broker = vhost.broker();
    let ids: Vec<String> = (0..200).map(|n| format!("{n:03}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    publish(&broker, "a", &ids[..100]).await;
    publish(&broker, "b", &ids[100..]).await;
    let mut consumer = consume(&broker, &["a", "b"], 200, NEVER).await;
    let mut out = Vec::new();
    for _ in 0..200 {
        out.push(next(&mut consumer).await);
    }
    // All but each seventh, and all at once.
    let acking = out.iter().enumerate().filter(|(place, _)| place % 7 != 0);
    let acking = acking.map(|(_, delivery)| {
        let (broker, receipt) = (broker.clone(), delivery.receipt.clone());
        tokio::spawn(async move { broker.settle(&receipt, Settle::Ack).await })
    });
    for ack in acking.collect::<Vec<_>>() {
        assert_eq!(ack.await.unwrap().unwrap(), Settled::Done);
    }
    let mut kept: Vec<String> = out.iter().step_by(7).map(id).collect();
    kept.sort_unstable();
    drop((consumer, broker));
    // The rest comes again once their connection has gone.
    let broker = vhost.broker();
    let mut consumer = consume(&broker, &["a", "b"], 200, NEVER).await;
    let mut again = Vec::new();
    for _ in 0..kept.len() {
        let delivery = next(&mut consumer).await;
        assert!(delivery.redelivered);
        again.push(id(&delivery));
    }
    again.sort_unstable();
    assert_eq!(again, kept);
    nothing(&mut consumer, std::time::Duration::from_millis(300)).await;
}

#[tokio::test]
async fn a_dead_letter_keeps_all_of_its_message() {
    let vhost = Vhost::new();
    let broker = vhost.broker();
    let mut sent = message("1");
    sent.headers
        .extra
        .insert("mine".to_owned(), json!([1, null]));
    sent.properties.reply_to = Some("me".into());
    broker.publish(vec![to("q", sent.clone())]).await.unwrap();
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let delivery = next(&mut consumer).await;
    let how = Settle::Reject("not a task of ours".to_owned());
    assert_eq!(
        broker.settle(&delivery.receipt, how).await.unwrap(),
        Settled::Done
    );
    // Reading takes nothing away.
    for _ in 0..2 {
        let dead = broker.dead_letters("q").await.unwrap();
        assert_eq!(dead.len(), 1);
        assert_eq!(dead[0].message, sent);
        assert_eq!(dead[0].reason, "not a task of ours");
        assert!((chrono::Utc::now() - dead[0].at).num_seconds() < 60);
    }
    let queues = vhost.list("queues");
    assert!(queues.iter().any(|queue| queue["name"] == "q.dead"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_deliveries_of_a_consumer_that_was_stopped_are_settled() {
    let vhost = Vhost::new();
    let broker = vhost.broker();
    for round in 0..30 {
        publish(&broker, "q", &["1"]).await;
        let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
        let delivery = next(&mut consumer).await;
        consumer.stop().await.unwrap();
        assert_eq!(ack(&broker, &delivery).await, Settled::Done, "{round}");
        assert_eq!(broker.len("q").await.unwrap(), 0, "{round}");
    }
}
