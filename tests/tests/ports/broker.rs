//! What a broker does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use canvas::Broker;
use canvas::broker::{
    ConsumeSpec, Consumer, Delivery, Destination, Outgoing, Settle, Settled, Subscription,
};
use canvas::protocol::{Headers, Message, Properties};
use chrono::Utc;
use serde_json::json;

/// How long deliveries are out, where that matters.
const LEASE: Duration = Duration::from_millis(400);

/// How long deliveries are out where it does not.
const NEVER: Duration = Duration::from_secs(3_600);

/// Long enough to see that nothing comes.
const MOMENT: Duration = Duration::from_millis(100);

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A message with this id.
fn message(id: &str) -> Message {
    Message {
        headers: Headers {
            task: Some("task".into()),
            id: Some(id.into()),
            ..Headers::default()
        },
        properties: Properties::default(),
        body: Bytes::from_static(b"[[], {}, {}]"),
    }
}

fn to(queue: &str, message: Message) -> Outgoing {
    Outgoing {
        to: Destination::queue(queue),
        message,
    }
}

async fn publish(broker: &Arc<dyn Broker>, queue: &str, ids: &[&str]) {
    let batch = ids.iter().map(|id| to(queue, message(id))).collect();
    broker.publish(batch).await.unwrap();
}

async fn consume(
    broker: &Arc<dyn Broker>,
    queues: &[&str],
    prefetch: usize,
    lease: Duration,
) -> Box<dyn Consumer> {
    let queues = queues.iter().map(|name| Arc::from(*name)).collect();
    let spec = ConsumeSpec {
        queues,
        prefetch,
        lease,
    };
    broker.consume(spec).await.unwrap()
}

/// The next delivery, which must come.
async fn next(consumer: &mut Box<dyn Consumer>) -> Delivery {
    let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await;
    delivery.expect("no delivery").unwrap().expect("stopped")
}

/// Makes sure that no delivery comes, for a moment.
async fn nothing(consumer: &mut Box<dyn Consumer>) {
    if let Ok(found) = tokio::time::timeout(MOMENT, consumer.next()).await {
        panic!(
            "should not have come: {:?}",
            found.map(|d| d.map(|d| id(&d)))
        );
    }
}

fn id(delivery: &Delivery) -> String {
    let id = delivery.message.headers.id.as_ref();
    id.map(ToString::to_string).unwrap_or_default()
}

async fn settle(broker: &Arc<dyn Broker>, delivery: &Delivery, how: Settle) -> Settled {
    broker.settle(&delivery.receipt, how).await.unwrap()
}

/// What is published is delivered as it was, header for header.
pub(crate) async fn a_message_is_delivered_as_it_was_published(broker: Arc<dyn Broker>) {
    let mut sent = message("1");
    sent.headers.retries = 2;
    sent.headers.eta = Some("2026-11-24T06:21:18.239414Z".parse().unwrap());
    sent.headers.timelimit = (Some(10.0), None);
    sent.headers.stamped_headers = Some(vec!["user".to_owned()]);
    sent.headers
        .stamps
        .insert("user".to_owned(), json!(["ann", 1]));
    sent.headers
        .extra
        .insert("mine".to_owned(), json!({"deep": [null, 1.5]}));
    sent.properties.priority = Some(3);
    sent.properties.correlation_id = Some("1".into());
    sent.properties.reply_to = Some("me".into());
    sent.body = Bytes::from("[[\"ü\", 1], {\"x\": null}, {}]");
    broker.publish(vec![to("q", sent.clone())]).await.unwrap();
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.message, sent);
    assert_eq!((&*delivery.queue, delivery.redelivered), ("q", false));
    assert!(delivery.deliveries <= 1);
}

/// A batch may be empty, and may go to several queues.
pub(crate) async fn a_batch_goes_where_each_of_it_is_sent(broker: Arc<dyn Broker>) {
    broker.publish(Vec::new()).await.unwrap();
    let batch = vec![
        to("a", message("1")),
        to("b", message("2")),
        to("a", message("3")),
    ];
    broker.publish(batch).await.unwrap();
    assert_eq!(broker.len("a").await.unwrap(), 2);
    assert_eq!(broker.len("b").await.unwrap(), 1);
    let mut consumer = consume(&broker, &["b"], 5, NEVER).await;
    assert_eq!(id(&next(&mut consumer).await), "2");
    nothing(&mut consumer).await;
}

/// Messages of the same priority come in the order in which they were published.
pub(crate) async fn messages_come_in_order(broker: Arc<dyn Broker>) {
    publish(&broker, "q", &["1", "2"]).await;
    publish(&broker, "q", &["3"]).await;
    let mut consumer = consume(&broker, &["q"], 5, NEVER).await;
    for want in ["1", "2", "3"] {
        assert_eq!(id(&next(&mut consumer).await), want);
    }
}

/// A consumer that waits is told of what is published.
pub(crate) async fn a_waiting_consumer_is_woken(broker: Arc<dyn Broker>) {
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let waiting = tokio::spawn(async move { id(&next(&mut consumer).await) });
    tokio::time::sleep(MOMENT).await;
    publish(&broker, "q", &["1"]).await;
    assert_eq!(waiting.await.unwrap(), "1");
}

/// What is acknowledged is gone.
pub(crate) async fn an_acknowledged_message_is_gone(broker: Arc<dyn Broker>) {
    publish(&broker, "q", &["1"]).await;
    let mut consumer = consume(&broker, &["q"], 5, LEASE).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(settle(&broker, &delivery, Settle::Ack).await, Settled::Done);
    tokio::time::sleep(LEASE * 2).await;
    nothing(&mut consumer).await;
    assert_eq!(broker.len("q").await.unwrap(), 0);
}

/// What is requeued comes again, to anyone, marked.
pub(crate) async fn a_requeued_message_comes_again(broker: Arc<dyn Broker>) {
    publish(&broker, "q", &["1"]).await;
    let mut first = consume(&broker, &["q"], 1, NEVER).await;
    let delivery = next(&mut first).await;
    drop(first);
    assert_eq!(
        settle(&broker, &delivery, Settle::Requeue).await,
        Settled::Done
    );
    assert_eq!(broker.len("q").await.unwrap(), 1);
    let mut second = consume(&broker, &["q"], 1, NEVER).await;
    let again = next(&mut second).await;
    assert_eq!(again.message, delivery.message);
    assert!(again.redelivered);
    assert_ne!(again.receipt, delivery.receipt);
}

/// What is rejected becomes a dead letter with its reason, oldest first.
pub(crate) async fn a_rejected_message_is_kept_as_a_dead_letter(broker: Arc<dyn Broker>) {
    publish(&broker, "q", &["1", "2"]).await;
    assert!(broker.dead_letters("q").await.unwrap().is_empty());
    let mut consumer = consume(&broker, &["q"], 5, LEASE).await;
    for reason in ["no", "never"] {
        let delivery = next(&mut consumer).await;
        let how = Settle::Reject(reason.to_owned());
        assert_eq!(settle(&broker, &delivery, how).await, Settled::Done);
    }
    tokio::time::sleep(LEASE * 2).await;
    nothing(&mut consumer).await;
    let dead = broker.dead_letters("q").await.unwrap();
    let reasons: Vec<&str> = dead.iter().map(|letter| letter.reason.as_str()).collect();
    assert_eq!(reasons, ["no", "never"]);
    assert_eq!(dead[1].message, message("2"));
    assert_eq!(broker.len("q").await.unwrap(), 0);
}

/// What is deferred comes when its time has come, and counts as waiting until
/// then. Brokers that cannot say so.
pub(crate) async fn a_deferred_message_comes_at_its_time(broker: Arc<dyn Broker>) {
    if !broker.info().defers {
        return;
    }
    publish(&broker, "q", &["1"]).await;
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let delivery = next(&mut consumer).await;
    let at = Utc::now() + chrono::Duration::milliseconds(300);
    assert_eq!(
        settle(&broker, &delivery, Settle::Defer(at)).await,
        Settled::Done
    );
    assert_eq!(broker.len("q").await.unwrap(), 1);
    // The prefetch is free for others meanwhile.
    publish(&broker, "q", &["2"]).await;
    let other = next(&mut consumer).await;
    assert_eq!(id(&other), "2");
    settle(&broker, &other, Settle::Ack).await;
    let again = loop {
        // The wall clock decides, which does not heed a test's clock.
        std::thread::sleep(Duration::from_millis(20));
        if let Ok(found) = tokio::time::timeout(MOMENT, consumer.next()).await {
            break found.unwrap().unwrap();
        }
        assert!(
            Utc::now() < at + chrono::Duration::seconds(10),
            "it never came"
        );
    };
    assert_eq!(id(&again), "1");
    assert!(Utc::now() >= at);
}

/// What is not settled in time is delivered again, to anyone, marked, and
/// counted.
pub(crate) async fn an_unsettled_delivery_comes_again_when_its_lease_ends(broker: Arc<dyn Broker>) {
    publish(&broker, "q", &["1"]).await;
    let mut first = consume(&broker, &["q"], 1, LEASE).await;
    let mut second = consume(&broker, &["q"], 1, LEASE).await;
    let delivery = next(&mut first).await;
    nothing(&mut second).await;
    let again = next(&mut second).await;
    assert_eq!(again.message, delivery.message);
    assert!(again.redelivered);
    assert!(
        again.deliveries == 2 || again.deliveries == 0,
        "2, or not counted"
    );
    assert_eq!(settle(&broker, &again, Settle::Ack).await, Settled::Done);
}

/// The same if its consumer has gone.
pub(crate) async fn a_consumer_that_goes_leaves_its_deliveries_to_others(broker: Arc<dyn Broker>) {
    publish(&broker, "q", &["1", "2"]).await;
    let mut first = consume(&broker, &["q"], 2, LEASE).await;
    next(&mut first).await;
    next(&mut first).await;
    drop(first);
    let mut second = consume(&broker, &["q"], 5, NEVER).await;
    let again = [next(&mut second).await, next(&mut second).await];
    assert_eq!(
        again
            .each_ref()
            .map(id)
            .into_iter()
            .collect::<BTreeSet<_>>()
            .len(),
        2
    );
}

/// A delivery whose lease is renewed stays where it is.
pub(crate) async fn a_renewed_delivery_stays(broker: Arc<dyn Broker>) {
    publish(&broker, "q", &["1"]).await;
    let mut first = consume(&broker, &["q"], 1, LEASE).await;
    let mut second = consume(&broker, &["q"], 1, LEASE).await;
    let delivery = next(&mut first).await;
    for _ in 0..12 {
        broker
            .renew(std::slice::from_ref(&delivery.receipt))
            .await
            .unwrap();
        nothing(&mut second).await;
    }
    assert_eq!(settle(&broker, &delivery, Settle::Ack).await, Settled::Done);
    tokio::time::sleep(LEASE * 2).await;
    nothing(&mut second).await;
}

/// A receipt whose lease has passed on settles and renews nothing.
pub(crate) async fn a_stale_receipt_changes_nothing(broker: Arc<dyn Broker>) {
    publish(&broker, "q", &["1"]).await;
    let mut first = consume(&broker, &["q"], 1, LEASE).await;
    let stale = next(&mut first).await;
    let mut second = consume(&broker, &["q"], 1, LEASE).await;
    let current = next(&mut second).await;
    assert_ne!(stale.receipt, current.receipt);
    let mut hows = vec![
        Settle::Ack,
        Settle::Requeue,
        Settle::Reject("no".to_owned()),
    ];
    if broker.info().defers {
        hows.push(Settle::Defer(Utc::now()));
    }
    for how in hows {
        assert_eq!(
            settle(&broker, &stale, how.clone()).await,
            Settled::Stale,
            "{how:?}"
        );
    }
    assert!(broker.dead_letters("q").await.unwrap().is_empty());
    nothing(&mut first).await;
    // Renewing both starts one lease anew; without that, it comes again.
    let both = [stale.receipt.clone(), current.receipt.clone()];
    broker.renew(&both).await.unwrap();
    for _ in 0..6 {
        broker
            .renew(std::slice::from_ref(&stale.receipt))
            .await
            .unwrap();
        tokio::time::sleep(MOMENT).await;
    }
    let third = tokio::time::timeout(LEASE / 2, next(&mut first)).await;
    let third = third.expect("a stale receipt has renewed the lease");
    assert!(third.redelivered);
    assert_eq!(settle(&broker, &current, Settle::Ack).await, Settled::Stale);
    assert_eq!(settle(&broker, &third, Settle::Ack).await, Settled::Done);
}

/// A delivery is settled once.
pub(crate) async fn settling_twice_is_stale(broker: Arc<dyn Broker>) {
    publish(&broker, "q", &["1", "2"]).await;
    let mut consumer = consume(&broker, &["q"], 5, NEVER).await;
    let acked = next(&mut consumer).await;
    let requeued = next(&mut consumer).await;
    assert_eq!(settle(&broker, &acked, Settle::Ack).await, Settled::Done);
    assert_eq!(
        settle(&broker, &acked, Settle::Requeue).await,
        Settled::Stale
    );
    assert_eq!(
        settle(&broker, &requeued, Settle::Requeue).await,
        Settled::Done
    );
    assert_eq!(
        settle(&broker, &requeued, Settle::Ack).await,
        Settled::Stale
    );
    assert_eq!(id(&next(&mut consumer).await), "2");
    nothing(&mut consumer).await;
}

/// Urgent messages come first: those of priority 0, on this broker.
pub(crate) async fn urgent_messages_come_first(broker: Arc<dyn Broker>) {
    let priorities = [
        (None, "none"),
        (Some(6), "6"),
        (Some(0), "0"),
        (Some(9), "9"),
        (Some(3), "3"),
    ];
    for (priority, id) in priorities {
        let mut message = message(id);
        message.properties.priority = priority;
        broker.publish(vec![to("q", message)]).await.unwrap();
    }
    let mut consumer = consume(&broker, &["q"], 9, NEVER).await;
    let mut order = Vec::new();
    for _ in 0..5 {
        order.push(id(&next(&mut consumer).await));
    }
    assert_eq!(order, ["none", "0", "3", "6", "9"]);
}

/// What comes again keeps its priority.
pub(crate) async fn a_message_that_comes_again_keeps_its_priority(broker: Arc<dyn Broker>) {
    let mut urgent = message("urgent");
    urgent.properties.priority = Some(0);
    let mut slow = message("slow");
    slow.properties.priority = Some(9);
    broker
        .publish(vec![to("q", urgent), to("q", slow)])
        .await
        .unwrap();
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let delivery = next(&mut consumer).await;
    settle(&broker, &delivery, Settle::Requeue).await;
    assert_eq!(id(&next(&mut consumer).await), "urgent");
}

/// Queues take turns: a long one does not keep a short one waiting.
pub(crate) async fn queues_are_served_fairly(broker: Arc<dyn Broker>) {
    let many: Vec<String> = (0..50).map(|n| format!("long-{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    publish(&broker, "long", &many).await;
    publish(&broker, "short", &["short-0", "short-1"]).await;
    let mut consumer = consume(&broker, &["long", "short"], 1, NEVER).await;
    let mut order = Vec::new();
    for _ in 0..8 {
        let delivery = next(&mut consumer).await;
        order.push(delivery.queue.to_string());
        settle(&broker, &delivery, Settle::Ack).await;
    }
    let short = order.iter().filter(|queue| *queue == "short").count();
    assert_eq!(short, 2, "{order:?}");
}

/// A consumer has no more deliveries out than its prefetch; settling one, or
/// a larger prefetch, makes room.
pub(crate) async fn no_more_is_out_than_the_prefetch(broker: Arc<dyn Broker>) {
    publish(&broker, "q", &["1", "2", "3", "4", "5"]).await;
    let mut consumer = consume(&broker, &["q"], 2, NEVER).await;
    let first = next(&mut consumer).await;
    let second = next(&mut consumer).await;
    nothing(&mut consumer).await;
    settle(&broker, &first, Settle::Ack).await;
    next(&mut consumer).await;
    nothing(&mut consumer).await;
    consumer.set_prefetch(3).await.unwrap();
    next(&mut consumer).await;
    nothing(&mut consumer).await;
    consumer.set_prefetch(1).await.unwrap();
    settle(&broker, &second, Settle::Ack).await;
    nothing(&mut consumer).await;
    // What one has out is no matter of the others.
    let mut other = consume(&broker, &["q"], 1, NEVER).await;
    assert_eq!(id(&next(&mut other).await), "5");
}

/// Room that a settled delivery makes is noticed by a consumer that waits.
pub(crate) async fn a_full_consumer_is_woken_when_it_has_room(broker: Arc<dyn Broker>) {
    publish(&broker, "q", &["1", "2"]).await;
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let first = next(&mut consumer).await;
    let waiting = tokio::spawn(async move { id(&next(&mut consumer).await) });
    tokio::time::sleep(MOMENT).await;
    settle(&broker, &first, Settle::Ack).await;
    assert_eq!(waiting.await.unwrap(), "2");
}

/// Purging drops what waits, and leaves what is out.
pub(crate) async fn purging_drops_what_waits(broker: Arc<dyn Broker>) {
    publish(&broker, "q", &["1", "2", "3"]).await;
    publish(&broker, "other", &["4"]).await;
    let mut consumer = consume(&broker, &["q"], 1, LEASE).await;
    next(&mut consumer).await;
    assert_eq!(broker.purge("q").await.unwrap(), 2);
    assert_eq!(broker.purge("q").await.unwrap(), 0);
    assert_eq!(broker.purge("unknown").await.unwrap(), 0);
    assert_eq!(broker.len("other").await.unwrap(), 1);
    assert_eq!(id(&next(&mut consumer).await), "1", "its lease has ended");
}

/// The length counts what waits, not what is out; that of an unknown queue is 0.
pub(crate) async fn the_length_counts_what_waits(broker: Arc<dyn Broker>) {
    assert_eq!(broker.len("q").await.unwrap(), 0);
    publish(&broker, "q", &["1", "2"]).await;
    assert_eq!(broker.len("q").await.unwrap(), 2);
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(broker.len("q").await.unwrap(), 1);
    settle(&broker, &delivery, Settle::Requeue).await;
    assert_eq!(broker.len("q").await.unwrap(), 2);
}

/// A consumer that was stopped gives no more; what it has out can be settled,
/// and the rest is for others.
pub(crate) async fn a_stopped_consumer_gives_no_more(broker: Arc<dyn Broker>) {
    publish(&broker, "q", &["1", "2"]).await;
    let mut consumer = consume(&broker, &["q"], 1, LEASE).await;
    let delivery = next(&mut consumer).await;
    consumer.stop().await.unwrap();
    assert!(consumer.next().await.unwrap().is_none());
    assert!(consumer.next().await.unwrap().is_none());
    assert_eq!(settle(&broker, &delivery, Settle::Ack).await, Settled::Done);
    let mut other = consume(&broker, &["q"], 5, NEVER).await;
    assert_eq!(id(&next(&mut other).await), "2");
    nothing(&mut other).await;
}

/// Queues can be added to a consumer, and taken away again.
pub(crate) async fn queues_come_and_go(broker: Arc<dyn Broker>) {
    let mut consumer = consume(&broker, &["a"], 9, NEVER).await;
    publish(&broker, "b", &["1", "2"]).await;
    nothing(&mut consumer).await;
    consumer.add_queue("b").await.unwrap();
    consumer.add_queue("b").await.unwrap();
    let delivery = next(&mut consumer).await;
    assert_eq!((id(&delivery), &*delivery.queue), ("1".to_owned(), "b"));
    consumer.cancel_queue("b").await.unwrap();
    nothing(&mut consumer).await;
    assert_eq!(settle(&broker, &delivery, Settle::Ack).await, Settled::Done);
    publish(&broker, "a", &["3"]).await;
    assert_eq!(id(&next(&mut consumer).await), "3");
    consumer.cancel_queue("a").await.unwrap();
    consumer.cancel_queue("unknown").await.unwrap();
    publish(&broker, "a", &["4"]).await;
    nothing(&mut consumer).await;
}

/// A call of `next` that is dropped loses no message.
pub(crate) async fn a_dropped_next_loses_no_message(broker: Arc<dyn Broker>) {
    let publisher = broker.clone();
    let publishing = tokio::spawn(async move {
        for n in 0..100 {
            publish(&publisher, "q", &[&n.to_string()]).await;
            tokio::time::sleep(Duration::from_micros(700)).await;
        }
    });
    let mut consumer = consume(&broker, &["q"], 1_000, NEVER).await;
    let mut seen = BTreeMap::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while seen.len() < 100 && tokio::time::Instant::now() < deadline {
        let brief = tokio::time::timeout(Duration::from_micros(300), consumer.next()).await;
        if let Ok(delivery) = brief {
            *seen.entry(id(&delivery.unwrap().unwrap())).or_insert(0) += 1;
        }
    }
    publishing.await.unwrap();
    assert_eq!(seen.len(), 100);
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
}

/// Each message goes to one of those who consume it.
pub(crate) async fn consumers_share_a_queue(broker: Arc<dyn Broker>) {
    let ids: Vec<String> = (0..60).map(|n| n.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let mut takers = Vec::new();
    for _ in 0..4 {
        let broker = broker.clone();
        let mut consumer = consume(&broker, &["q"], 2, NEVER).await;
        takers.push(tokio::spawn(async move {
            let mut taken = Vec::new();
            while let Ok(Ok(Some(delivery))) =
                tokio::time::timeout(MOMENT * 5, consumer.next()).await
            {
                taken.push(id(&delivery));
                tokio::time::sleep(Duration::from_millis(1)).await;
                settle(&broker, &delivery, Settle::Ack).await;
            }
            taken
        }));
    }
    publish(&broker, "q", &ids).await;
    let mut all = Vec::new();
    for taker in takers {
        let taken = taker.await.unwrap();
        assert!(!taken.is_empty(), "one consumer got nothing");
        all.extend(taken);
    }
    assert_eq!(all.len(), 60);
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>().len(), 60);
}

/// Nothing is lost, and nothing doubled, if many publish at once.
pub(crate) async fn many_can_publish_at_once(broker: Arc<dyn Broker>) {
    let publishers = (0..20).map(|n| {
        let broker = broker.clone();
        tokio::spawn(async move {
            let ids = [format!("{n}-a"), format!("{n}-b")];
            publish(&broker, "q", &[&ids[0], &ids[1]]).await;
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.await.unwrap();
    }
    let mut consumer = consume(&broker, &["q"], 100, NEVER).await;
    let mut seen = BTreeSet::new();
    for _ in 0..40 {
        seen.insert(id(&next(&mut consumer).await));
    }
    assert_eq!(seen.len(), 40);
    nothing(&mut consumer).await;
}

/// What is broadcast reaches all who have subscribed, and nobody else later.
pub(crate) async fn a_broadcast_reaches_those_who_listen_now(broker: Arc<dyn Broker>) {
    let say = |key: &'static str, id: &'static str| broker.broadcast("news", key, message(id));
    say("a.b", "before").await.unwrap();
    let mut first = broker.subscribe("news").await.unwrap();
    let mut second = broker.subscribe("news").await.unwrap();
    let mut other = broker.subscribe("other").await.unwrap();
    say("a.b", "1").await.unwrap();
    say("c", "2").await.unwrap();
    let late = broker.subscribe("news").await.unwrap();
    say("", "3").await.unwrap();
    for listener in [&mut first, &mut second] {
        for (key, id) in [("a.b", "1"), ("c", "2"), ("", "3")] {
            assert_eq!(heard(listener).await, (key.to_owned(), message(id)));
        }
    }
    let mut late = late;
    assert_eq!(heard(&mut late).await.1, message("3"));
    assert!(tokio::time::timeout(MOMENT, other.next()).await.is_err());
    drop((first, second, late));
    say("d", "nobody").await.unwrap();
    let mut again = broker.subscribe("news").await.unwrap();
    assert!(tokio::time::timeout(MOMENT, again.next()).await.is_err());
    say("e", "4").await.unwrap();
    assert_eq!(heard(&mut again).await.1, message("4"));
}

async fn heard(listener: &mut Box<dyn Subscription>) -> (String, Message) {
    let heard = tokio::time::timeout(PATIENCE, listener.next()).await;
    heard.expect("nothing heard").unwrap().expect("closed")
}
