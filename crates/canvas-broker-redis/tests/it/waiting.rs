//! How consumers wait, share and let go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use canvas_broker_redis::{RedisBroker, RedisBrokerConfig};
use canvas_core::broker::{Settle, Settled};
use canvas_core::{Broker, Error};

use crate::support::{
    NEVER, PATIENCE, Redis, ack, consume, id, message, next, nothing, publish, to, until,
};

/// Deliveries of tests that look at how often something was done.
fn quiet(redis: &Redis) -> Arc<dyn Broker> {
    redis.broker_with(|config| config.sweep_interval = NEVER)
}

#[tokio::test]
async fn a_message_of_any_priority_in_any_queue_wakes_a_waiting_consumer() {
    let redis = Redis::start();
    let broker = redis.broker();
    let mut consumer = consume(&broker, &["a", "b"], 1, NEVER).await;
    for (queue, priority) in [("a", 0), ("b", 0), ("a", 9), ("b", 3)] {
        let mut sent = message("1");
        sent.properties.priority = Some(priority);
        let before = redis.served("exists").await;
        let (delivery, ()) = tokio::join!(next(&mut consumer), async {
            // Not before it has looked and found nothing.
            until("waiting", || async {
                redis.served("exists").await > before
            })
            .await;
            broker.publish(vec![to(queue, sent)]).await.unwrap();
        });
        assert_eq!(&*delivery.queue, queue);
        ack(&broker, &delivery).await;
    }
}

#[tokio::test]
async fn a_waiting_consumer_asks_the_server_nothing() {
    let redis = Redis::start();
    let broker = quiet(&redis);
    let mut consumer = consume(&broker, &["a", "b", "c"], 4, NEVER).await;
    nothing(&mut consumer, Duration::from_millis(100)).await;
    let before = (redis.served("evalsha").await, redis.served("exists").await);
    for _ in 0..20 {
        // As a worker does, which has other things to look at.
        nothing(&mut consumer, Duration::from_millis(20)).await;
    }
    let after = (redis.served("evalsha").await, redis.served("exists").await);
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_full_consumer_asks_the_server_nothing() {
    let redis = Redis::start();
    let broker = quiet(&redis);
    publish(&broker, "q", &["1", "2", "3"]).await;
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    next(&mut consumer).await;
    let before = (redis.served("evalsha").await, redis.served("exists").await);
    for n in 0..10 {
        publish(&broker, "q", &[&n.to_string()]).await;
        nothing(&mut consumer, Duration::from_millis(20)).await;
    }
    let after = (redis.served("evalsha").await, redis.served("exists").await);
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_batch_is_fetched_in_one_call_and_acknowledged_in_few() {
    let redis = Redis::start();
    let broker = quiet(&redis);
    let batch = (0..200).map(|n| to("q", message(&n.to_string()))).collect();
    broker.publish(batch).await.unwrap();
    assert_eq!(
        redis.served("lpush").await,
        1,
        "200 messages are one command"
    );
    let mut consumer = consume(&broker, &["q"], 200, NEVER).await;
    let mut settling = Vec::new();
    for _ in 0..200 {
        let delivery = next(&mut consumer).await;
        let broker = broker.clone();
        settling.push(tokio::spawn(async move { ack(&broker, &delivery).await }));
    }
    assert_eq!(redis.served("zadd").await, 1, "200 messages are one step");
    for settled in settling {
        assert_eq!(settled.await.unwrap(), Settled::Done);
    }
    let calls = redis.served("zrem").await;
    assert!(calls <= 20, "200 acknowledgements took {calls} calls");
    assert_eq!(redis.ask::<u64>(&["HLEN", "unacked"]).await, 0);
}

#[tokio::test]
async fn fetching_goes_on_while_there_is_something_to_work_on() {
    let redis = Redis::start();
    let broker = quiet(&redis);
    let batch = (0..200).map(|n| to("q", message(&n.to_string()))).collect();
    broker.publish(batch).await.unwrap();
    let mut consumer = consume(&broker, &["q"], 64, NEVER).await;
    for _ in 0..40 {
        let delivery = next(&mut consumer).await;
        ack(&broker, &delivery).await;
    }
    // Nobody asks for any, but 24 of the first 64 were not even handed on.
    until("fetched", || async { broker.len("q").await.unwrap() < 136 }).await;
    let out: u64 = redis.ask(&["HLEN", "unacked"]).await;
    assert!((25..=64).contains(&out), "{out} are out");
}

#[tokio::test]
async fn ten_thousand_messages_come_once_each_to_two_consumers() {
    const ALL: usize = 10_000;
    let redis = Redis::start();
    let (one, two) = (redis.broker(), redis.broker());
    let mut takers = Vec::new();
    for broker in [one.clone(), two] {
        let mut consumer = consume(&broker, &["q", "r"], 64, NEVER).await;
        takers.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            let mut settling = tokio::task::JoinSet::new();
            while let Ok(delivery) =
                tokio::time::timeout(Duration::from_secs(2), consumer.next()).await
            {
                let delivery = delivery.unwrap().unwrap();
                seen.push(id(&delivery));
                let broker = broker.clone();
                settling.spawn(async move { ack(&broker, &delivery).await });
            }
            while let Some(settled) = settling.join_next().await {
                assert_eq!(settled.unwrap(), Settled::Done);
            }
            seen
        }));
    }
    for batch in 0..ALL / 100 {
        let queue = if batch % 2 == 0 { "q" } else { "r" };
        let ids = (batch * 100..(batch + 1) * 100).map(|n| n.to_string());
        one.publish(ids.map(|id| to(queue, message(&id))).collect())
            .await
            .unwrap();
    }
    let mut times = BTreeMap::new();
    for taker in takers {
        let seen = taker.await.unwrap();
        assert!(!seen.is_empty(), "one got nothing");
        for id in seen {
            *times.entry(id).or_insert(0) += 1;
        }
    }
    assert_eq!(times.len(), ALL);
    assert!(times.values().all(|times| *times == 1));
    assert_eq!(redis.ask::<u64>(&["HLEN", "unacked"]).await, 0);
}

#[tokio::test]
async fn consumers_that_are_dropped_at_any_moment_lose_nothing() {
    const ALL: usize = 200;
    let redis = Redis::start();
    let broker = quiet(&redis);
    let ids: Vec<String> = (0..ALL).map(|n| format!("{n:03}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    publish(&broker, "q", &ids).await;
    for round in 0..60 {
        // Its leases would not end for an hour: whatever comes back was given back.
        let mut consumer = consume(&broker, &["q"], 50, NEVER).await;
        let brief = Duration::from_micros(fastrand::u64(0..1_500));
        let asking = tokio::spawn(async move {
            let asking = tokio::time::timeout(PATIENCE, consumer.next());
            let delivery = asking.await.expect("no delivery");
            // Some go while others lie in the buffer.
            drop(consumer);
            delivery
        });
        tokio::time::sleep(brief).await;
        if round % 2 == 0 {
            asking.abort();
        }
        if let Ok(delivery) = asking.await {
            let delivery = delivery.unwrap().unwrap();
            broker
                .settle(&delivery.receipt, Settle::Requeue)
                .await
                .unwrap();
        }
    }
    until("all are back", || async {
        broker.len("q").await.unwrap() >= ALL as u64 - 60
    })
    .await;
    let mut last = consume(&broker, &["q"], ALL, NEVER).await;
    let mut seen = Vec::new();
    while let Ok(delivery) = tokio::time::timeout(Duration::from_secs(1), last.next()).await {
        seen.push(id(&delivery.unwrap().unwrap()));
    }
    seen.sort_unstable();
    // One that was handed to an aborted `next` has gone with it, to its lease.
    let out: u64 = redis.ask(&["HLEN", "unacked"]).await;
    assert_eq!(out as usize, ALL, "each is out or in the queue, once");
    assert!(seen.is_sorted_by(|a, b| a < b), "none twice");
}

#[tokio::test]
async fn what_a_consumer_has_not_handed_on_comes_back_unmarked_and_in_order() {
    let redis = Redis::start();
    let broker = quiet(&redis);
    publish(&broker, "q", &["1", "2", "3", "4"]).await;
    let mut first = consume(&broker, &["q"], 9, NEVER).await;
    assert_eq!(id(&next(&mut first).await), "1");
    assert_eq!(broker.len("q").await.unwrap(), 0, "it has them all");
    first.stop().await.unwrap();
    assert_eq!(broker.len("q").await.unwrap(), 3);
    let mut second = consume(&broker, &["q"], 9, NEVER).await;
    for want in ["2", "3", "4"] {
        let delivery = next(&mut second).await;
        assert_eq!(id(&delivery), want);
        assert_eq!((delivery.redelivered, delivery.deliveries), (false, 1));
    }
}

#[tokio::test]
async fn what_nobody_asks_for_in_time_is_for_others() {
    let redis = Redis::start();
    let broker = redis.broker();
    publish(&broker, "q", &["1", "2", "3"]).await;
    let lease = Duration::from_millis(600);
    let mut slow = consume(&broker, &["q"], 9, lease).await;
    let first = next(&mut slow).await;
    tokio::time::sleep(lease * 2 / 3).await;
    broker
        .renew(std::slice::from_ref(&first.receipt))
        .await
        .unwrap();
    // Two thirds of the lease are over for the other two: they were given
    // back, and taken anew, with all of a lease before them.
    let second = next(&mut slow).await;
    assert_eq!(id(&second), "2");
    tokio::time::sleep(lease * 2 / 3).await;
    assert_eq!(ack(&broker, &second).await, Settled::Done);
}

#[tokio::test]
async fn consumers_with_short_and_long_leases_share_a_broker() {
    let redis = Redis::start();
    let broker = redis.broker();
    publish(&broker, "short", &["s"]).await;
    publish(&broker, "long", &["l"]).await;
    let mut short = consume(&broker, &["short"], 1, Duration::from_millis(300)).await;
    let mut long = consume(&broker, &["long"], 1, NEVER).await;
    let s = next(&mut short).await;
    let l = next(&mut long).await;
    broker
        .renew(&[s.receipt.clone(), l.receipt.clone()])
        .await
        .unwrap();
    assert_eq!(id(&next(&mut short).await), "s");
    nothing(&mut long, Duration::from_millis(300)).await;
    assert_eq!(ack(&broker, &s).await, Settled::Stale);
    assert_eq!(ack(&broker, &l).await, Settled::Done);
}

#[tokio::test]
async fn a_server_that_cannot_send_word_is_looked_at_instead() {
    let redis = Redis::start();
    let _: () = redis
        .ask(&[
            "ACL",
            "SETUSER",
            "ann",
            "on",
            ">secret",
            "~*",
            "&*",
            "+@all",
            "-client|tracking",
        ])
        .await;
    let url = format!("redis+socket://ann:secret@{}", redis.socket().display());
    let broker: Arc<dyn Broker> = RedisBroker::new(&url, RedisBrokerConfig::default()).unwrap();
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    nothing(&mut consumer, Duration::from_millis(50)).await;
    publish(&broker, "q", &["1"]).await;
    assert_eq!(id(&next(&mut consumer).await), "1");
}

#[tokio::test]
async fn a_refused_login_says_so_without_the_password() {
    let redis = Redis::start();
    let url = format!("redis+socket://ann:hunter2@{}", redis.socket().display());
    let broker = RedisBroker::new(&url, RedisBrokerConfig::default()).unwrap();
    let error = broker.len("q").await.unwrap_err();
    assert!(matches!(error, Error::Config(_)), "{error}");
    let shown = format!("{error} {error:?} {broker:?} {:?}", broker.info());
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("ann:**@"), "{shown}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_at_once() {
    let url = "redis+socket:///nowhere/r.sock";
    let broker: Arc<dyn Broker> = RedisBroker::new(url, RedisBrokerConfig::default()).unwrap();
    let publishing = broker.publish(vec![to("q", message("1"))]);
    let error = tokio::time::timeout(PATIENCE, publishing)
        .await
        .unwrap()
        .unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(error.to_string().contains("/nowhere/r.sock"), "{error}");
}

#[tokio::test]
async fn connections_have_names_and_go_with_their_consumers() {
    let redis = Redis::start();
    let broker = redis.broker();
    publish(&broker, "q", &["1"]).await;
    let mut one = consume(&broker, &["q"], 1, NEVER).await;
    let mut two = consume(&broker, &["q", "r", "s"], 1, NEVER).await;
    let _a = broker.subscribe("a").await.unwrap();
    let _b = broker.subscribe("b").await.unwrap();
    next(&mut one).await;
    nothing(&mut two, Duration::from_millis(50)).await;
    let names = async || {
        let clients: String = redis.ask(&["CLIENT", "LIST"]).await;
        let words = clients.split_whitespace();
        let names = words.filter_map(|word| word.strip_prefix("name=canvas-"));
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(
        names().await,
        ["broker", "consumer-1", "consumer-2", "fanout"]
    );
    drop((one, two));
    until("gone", || async { names().await == ["broker", "fanout"] }).await;
}

#[tokio::test]
async fn a_consumer_is_told_what_the_server_refuses() {
    let redis = Redis::start();
    let allow = async |what: &str| {
        let words = [
            "ACL", "SETUSER", "ann", "on", ">secret", "~*", "&*", "+@all", what,
        ];
        redis.ask::<()>(&words).await;
    };
    allow("-evalsha").await;
    let url = format!("redis+socket://ann:secret@{}", redis.socket().display());
    let broker: Arc<dyn Broker> = RedisBroker::new(&url, RedisBrokerConfig::default()).unwrap();
    publish(&broker, "q", &["1"]).await;
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    for _ in 0..2 {
        let told = tokio::time::timeout(PATIENCE, consumer.next())
            .await
            .unwrap();
        let error = told.unwrap_err().to_string();
        assert!(error.contains("permissions"), "{error}");
    }
    allow("+evalsha").await;
    assert_eq!(id(&next(&mut consumer).await), "1");
}
