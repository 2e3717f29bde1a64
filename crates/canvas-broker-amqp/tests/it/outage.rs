//! Servers that die, or hang up.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use canvas_broker_amqp::{AmqpBroker, AmqpBrokerConfig};
use canvas_core::Broker;
use canvas_core::broker::{Consumer, Settle, Settled};

use crate::support::{
    NEVER, PATIENCE, Rabbit, Vhost, ack, consume, id, keep_log, logged, message, next, nothing,
    publish, to, until,
};

/// What went through a broker.
#[derive(Default)]
struct Traffic {
    /// What was published, for certain.
    sent: BTreeSet<String>,
    acked: BTreeSet<String>,
    /// How many batches were perhaps not published.
    errors: u32,
    stale: u32,
}

/// Publishes and consumes until told to stop, and then for as long as it takes
/// until what was sent has come.
struct Load {
    traffic: Arc<Mutex<Traffic>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    async fn start(broker: &Arc<dyn Broker>) -> Self {
        let traffic = Arc::new(Mutex::new(Traffic::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let publishing = tokio::spawn(send(broker.clone(), traffic.clone(), stop.clone()));
        let consumer = consume(broker, &["q"], 20, NEVER).await;
        let consuming = take(broker.clone(), consumer, traffic.clone(), stop.clone());
        Self {
            traffic,
            stop,
            tasks: vec![publishing, tokio::spawn(consuming)],
        }
    }

    /// Waits for so much more to be acknowledged.
    async fn goes_on(&self, more: usize) {
        let acked = || self.traffic.lock().unwrap().acked.len();
        let enough = acked() + more;
        until("traffic", || async { acked() >= enough }).await;
    }

    async fn finish(self) -> Traffic {
        self.stop.store(true, Ordering::Release);
        for task in self.tasks {
            task.await.unwrap();
        }
        std::mem::take(&mut self.traffic.lock().unwrap())
    }
}

async fn send(broker: Arc<dyn Broker>, traffic: Arc<Mutex<Traffic>>, stop: Arc<AtomicBool>) {
    let mut number = 0;
    while !stop.load(Ordering::Acquire) {
        let ids: Vec<String> = (0..5).map(|n| format!("{:06}", number + n)).collect();
        number += 5;
        let batch = ids.iter().map(|id| to("q", message(id))).collect();
        match broker.publish(batch).await {
            Ok(()) => traffic.lock().unwrap().sent.extend(ids),
            Err(_) => traffic.lock().unwrap().errors += 1,
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn take(
    broker: Arc<dyn Broker>,
    mut consumer: Box<dyn Consumer>,
    traffic: Arc<Mutex<Traffic>>,
    stop: Arc<AtomicBool>,
) {
    let mut deadline = None;
    loop {
        if stop.load(Ordering::Acquire) {
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
            let traffic = traffic.lock().unwrap();
            let missing = traffic.sent.difference(&traffic.acked).count();
            assert!(
                missing == 0 || Instant::now() < deadline,
                "{missing} were lost"
            );
            if missing == 0 {
                return;
            }
        }
        let brief = tokio::time::timeout(Duration::from_millis(200), consumer.next()).await;
        let Ok(delivery) = brief else { continue };
        // An outage is waited out.
        let delivery = delivery.unwrap().unwrap();
        let id = id(&delivery);
        let settled = broker.settle(&delivery.receipt, Settle::Ack).await.unwrap();
        let mut traffic = traffic.lock().unwrap();
        match settled {
            Settled::Done => {
                traffic.acked.insert(id);
            }
            Settled::Stale => traffic.stale += 1,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_and_restarted_loses_nothing_that_it_has_confirmed() {
    let mut rabbit = Rabbit::start();
    let url = format!("amqp://127.0.0.1:{}", rabbit.port);
    let broker: Arc<dyn Broker> = AmqpBroker::new(&url, AmqpBrokerConfig::default()).unwrap();
    keep_log();
    let load = Load::start(&broker).await;
    load.goes_on(50).await;
    rabbit.kill();
    let down = load.traffic.lock().unwrap().errors;
    until("the outage is seen", || async {
        load.traffic.lock().unwrap().errors > down
    })
    .await;
    rabbit.run();
    load.goes_on(50).await;
    let traffic = load.finish().await;
    assert!(traffic.errors > 0, "the outage was not seen");
    let port = rabbit.port.to_string();
    let lost = logged(&port)
        .into_iter()
        .filter(|line| line.contains("RabbitMQ lost"));
    // Each of the two connections says so once.
    assert!((1..=2).contains(&lost.count()), "{:?}", logged(&port));
    assert!(
        logged(&port)
            .iter()
            .any(|line| line.contains("RabbitMQ again"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_the_server_closes_come_back() {
    let vhost = Vhost::new();
    let broker = vhost.broker();
    let load = Load::start(&broker).await;
    for _ in 0..3 {
        load.goes_on(30).await;
        Rabbit::shared().control(&["close_all_connections", "--vhost", &vhost.name, "a test"]);
    }
    load.goes_on(30).await;
    let traffic = load.finish().await;
    assert!(traffic.sent.len() > 100);
}

#[tokio::test]
async fn a_delivery_from_before_an_outage_settles_nothing_after_it() {
    let vhost = Vhost::new();
    let broker = vhost.broker();
    publish(&broker, "q", &["1"]).await;
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    let before = next(&mut consumer).await;
    Rabbit::shared().control(&["close_all_connections", "--vhost", &vhost.name, "a test"]);
    let after = next(&mut consumer).await;
    assert_eq!((id(&after), after.redelivered), ("1".to_owned(), true));
    assert!(after.receipt.epoch > before.receipt.epoch);
    for how in [
        Settle::Ack,
        Settle::Requeue,
        Settle::Reject("no".to_owned()),
    ] {
        let settled = broker.settle(&before.receipt, how).await;
        assert_eq!(settled.unwrap(), Settled::Stale);
    }
    assert!(broker.dead_letters("q").await.unwrap().is_empty());
    broker.renew(&[before.receipt]).await.unwrap();
    assert_eq!(ack(&broker, &after).await, Settled::Done);
}

#[tokio::test]
async fn listeners_listen_again_after_an_outage() {
    let vhost = Vhost::new();
    let broker = vhost.broker();
    let mut listener = broker.subscribe("celery.pidbox").await.unwrap();
    Rabbit::shared().control(&["close_all_connections", "--vhost", &vhost.name, "a test"]);
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "nothing is heard any more");
        // One that nobody hears is no error, and the outage may be one.
        let _ = broker.broadcast("celery.pidbox", "", message("1")).await;
        let hearing = tokio::time::timeout(Duration::from_millis(100), listener.next());
        if let Ok(heard) = hearing.await {
            assert_eq!(heard.unwrap().unwrap().1, message("1"));
            return;
        }
    }
}

#[tokio::test]
async fn the_next_server_of_a_url_takes_over() {
    let vhost = Vhost::new();
    // Nobody is at the first one.
    let url = format!("amqp://127.0.0.1:9/{};{}", vhost.name, vhost.url());
    let broker: Arc<dyn Broker> = AmqpBroker::new(&url, AmqpBrokerConfig::default()).unwrap();
    publish(&broker, "q", &["1"]).await;
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    assert_eq!(id(&next(&mut consumer).await), "1");
    assert!(
        broker
            .info()
            .url
            .starts_with("amqp://guest:**@127.0.0.1:9/")
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_with_its_address() {
    let url = "amqp://127.0.0.1:9//";
    let broker = AmqpBroker::new(url, AmqpBrokerConfig::default()).unwrap();
    let error = broker
        .publish(vec![to("q", message("1"))])
        .await
        .unwrap_err();
    assert!(error.is_retryable());
    assert!(error.to_string().contains("127.0.0.1:9"), "{error}");
}

#[tokio::test]
async fn a_server_that_takes_no_messages_says_so_and_goes_on_to_give_them() {
    let rabbit = Rabbit::start();
    let url = format!("amqp://127.0.0.1:{}", rabbit.port);
    let mut config = AmqpBrokerConfig::default();
    config.confirm_timeout = Duration::from_secs(2);
    let broker = AmqpBroker::new(&url, config).unwrap();
    let port: Arc<dyn Broker> = broker.clone();
    publish(&port, "q", &["1", "2"]).await;
    rabbit.control(&["set_vm_memory_high_watermark", "0"]);
    // It blocks a connection when something is published on it.
    let error = broker
        .publish(vec![to("q", message("3"))])
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("takes nothing for now"),
        "{error}"
    );
    assert!(broker.blocked().is_some());
    let mut consumer = consume(&port, &["q"], 1, NEVER).await;
    for want in ["1", "2"] {
        let delivery = next(&mut consumer).await;
        assert_eq!(id(&delivery), want);
        assert_eq!(ack(&port, &delivery).await, Settled::Done);
    }
    rabbit.control(&["set_vm_memory_high_watermark", "0.4"]);
    until("it is unblocked", || async { broker.blocked().is_none() }).await;
    publish(&port, "q", &["4"]).await;
}

#[tokio::test]
async fn a_server_that_hangs_is_known_by_its_silence() {
    let rabbit = Rabbit::start();
    let url = format!("amqp://127.0.0.1:{}?heartbeat=1", rabbit.port);
    let broker: Arc<dyn Broker> = AmqpBroker::new(&url, AmqpBrokerConfig::default()).unwrap();
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    publish(&broker, "q", &["1"]).await;
    let before = next(&mut consumer).await;
    rabbit.freeze(true);
    let hung = Instant::now();
    let error = broker
        .publish(vec![to("q", message("2"))])
        .await
        .unwrap_err();
    assert!(error.is_retryable());
    let noticed = hung.elapsed();
    assert!(noticed < Duration::from_secs(20), "{noticed:?}: {error}");
    // The other connection notices by itself too.
    assert!(broker.len("q").await.unwrap_err().is_retryable());
    rabbit.freeze(false);
    // What was on its way when it hung may have come through.
    let again = loop {
        let delivery = next(&mut consumer).await;
        if id(&delivery) == "1" {
            break delivery;
        }
        ack(&broker, &delivery).await;
    };
    assert!(again.redelivered, "what was out comes again");
    let settled = broker.settle(&before.receipt, Settle::Ack).await;
    assert_eq!(settled.unwrap(), Settled::Stale);
    assert_eq!(ack(&broker, &again).await, Settled::Done);
}

#[tokio::test]
async fn whoever_stops_waiting_for_a_settlement_loses_no_message() {
    let vhost = Vhost::new();
    let broker = vhost.broker();
    publish(&broker, "q", &["1", "2"]).await;
    let lease = Duration::from_millis(500);
    let mut consumer = consume(&broker, &["q"], 2, lease).await;
    let acked = next(&mut consumer).await;
    let rejected = next(&mut consumer).await;
    let how = Settle::Reject("no".to_owned());
    // A look or two, and nobody waits any more.
    let acking = broker.settle(&acked.receipt, Settle::Ack);
    let _ = tokio::time::timeout(Duration::ZERO, acking).await;
    let rejecting = broker.settle(&rejected.receipt, how);
    let looked = tokio::time::timeout(Duration::ZERO, rejecting).await;
    assert!(looked.is_err(), "it was rejected at the first look");
    // The one is gone, for that was on its way; the other was not sent on, and
    // comes again.
    let again = next(&mut consumer).await;
    assert_eq!(id(&again), "2");
    assert_eq!(ack(&broker, &again).await, Settled::Done);
    nothing(&mut consumer, lease * 3).await;
    assert_eq!(broker.len("q").await.unwrap(), 0);
}
