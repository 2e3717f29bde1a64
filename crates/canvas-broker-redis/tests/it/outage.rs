//! Servers that die, hang, or hang up.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use canvas_broker_redis::{RedisBroker, RedisBrokerConfig};
use canvas_core::Broker;
use canvas_core::broker::{Consumer, Settle, Settled};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::task::JoinHandle;

use crate::support::{
    NEVER, PATIENCE, Redis, ack, consume, id, keep_log, message, next, nothing, publish, to, until,
};

/// What went through a broker.
#[derive(Default)]
struct Traffic {
    /// What was published, for certain.
    sent: BTreeSet<String>,
    /// What has come, acknowledged or not.
    delivered: BTreeSet<String>,
    /// What was acknowledged, for certain.
    acked: BTreeSet<String>,
    /// How often each was delivered after it was acknowledged for certain.
    came_back: BTreeMap<String, u32>,
    /// How many batches were perhaps not published.
    errors: u32,
}

/// Publishes and consumes until it is finished.
struct Load {
    traffic: Arc<Mutex<Traffic>>,
    stop: Arc<AtomicBool>,
    publishing: JoinHandle<()>,
    consuming: JoinHandle<()>,
}

impl Load {
    async fn start(redis: &Redis, lease: Duration) -> Self {
        let traffic = Arc::new(Mutex::new(Traffic::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let publishing = tokio::spawn(send(redis.broker(), traffic.clone(), stop.clone()));
        let broker = redis.broker();
        let consumer = consume(&broker, &["q"], 20, lease).await;
        let consuming = tokio::spawn(take(broker, consumer, traffic.clone()));
        Self {
            traffic,
            stop,
            publishing,
            consuming,
        }
    }

    fn sent(&self) -> usize {
        self.traffic.lock().unwrap().sent.len()
    }

    /// Publishes no more, and waits until all that was sent has come and the
    /// server has none of it left.
    ///
    /// Not until all of it was acknowledged for certain: of an acknowledgement
    /// whose answer is lost nobody can tell what became of it once the lease
    /// has ended. Either it was done, or the message comes again.
    async fn finish(mut self, redis: &Redis) -> Traffic {
        self.stop.store(true, Ordering::Release);
        self.publishing.await.unwrap();
        tokio::select! {
            () = drained(redis, &self.traffic) => {}
            ended = &mut self.consuming => panic!("the consumer has ended: {ended:?}"),
        }
        self.consuming.abort();
        std::mem::take(&mut self.traffic.lock().unwrap())
    }
}

async fn send(broker: Arc<dyn Broker>, traffic: Arc<Mutex<Traffic>>, stop: Arc<AtomicBool>) {
    let mut number = 0;
    while !stop.load(Ordering::Acquire) {
        let ids: Vec<String> = (0..5).map(|n| format!("{:06}", number + n)).collect();
        number += 5;
        let batch = ids.iter().map(|id| to("q", message(id))).collect();
        let published = broker.publish(batch).await;
        match published {
            Ok(()) => traffic.lock().unwrap().sent.extend(ids),
            Err(_) => traffic.lock().unwrap().errors += 1,
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn take(
    broker: Arc<dyn Broker>,
    mut consumer: Box<dyn Consumer>,
    traffic: Arc<Mutex<Traffic>>,
) {
    loop {
        // An outage is waited out.
        let delivery = consumer.next().await.unwrap().unwrap();
        let id = id(&delivery);
        {
            let mut traffic = traffic.lock().unwrap();
            if traffic.acked.contains(&id) {
                *traffic.came_back.entry(id.clone()).or_default() += 1;
            }
            traffic.delivered.insert(id.clone());
        }
        let settled = broker.settle(&delivery.receipt, Settle::Ack).await;
        if let Ok(Settled::Done) = settled {
            traffic.lock().unwrap().acked.insert(id);
        }
    }
}

/// Waits until all that was sent has come and the server has nothing left, for
/// as long as it goes on: how fast depends on the disk and on who else is busy.
async fn drained(redis: &Redis, traffic: &Mutex<Traffic>) {
    let mut before = (0, 0);
    let mut since = Instant::now();
    loop {
        let left = "return {redis.call('LLEN', 'q'), redis.call('HLEN', 'unacked')}";
        let (waiting, out): (u64, u64) = redis.ask(&["EVAL", left, "0"]).await;
        {
            let traffic = traffic.lock().unwrap();
            let missing: Vec<_> = traffic.sent.difference(&traffic.delivered).collect();
            if missing.is_empty() && waiting + out == 0 {
                return;
            }
            let now = (traffic.delivered.len(), traffic.acked.len());
            if now != before {
                before = now;
                since = Instant::now();
            }
            assert!(
                since.elapsed() < PATIENCE,
                "of {} sent these never came: {missing:?}; {waiting} wait and {out} are out",
                traffic.sent.len()
            );
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// On threads of its own the traffic goes on while the server is being killed,
/// so that some answers are lost and not all calls that were made were done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_killed_and_restarted_loses_nothing_that_it_has_confirmed() {
    let mut redis = Redis::durable();
    let load = Load::start(&redis, Duration::from_secs(1)).await;
    for _ in 0..3 {
        let before = load.sent();
        until("traffic", || async { load.sent() >= before + 50 }).await;
        redis.kill();
        tokio::time::sleep(Duration::from_millis(300)).await;
        redis.restart();
    }
    let traffic = load.finish(&redis).await;
    assert!(traffic.errors > 0, "the outage was not seen");
    assert!(
        traffic.came_back.is_empty(),
        "acknowledged, and came again: {:?}",
        traffic.came_back
    );
}

#[tokio::test]
async fn connections_that_are_cut_lose_nothing() {
    let redis = Redis::start();
    let load = Load::start(&redis, Duration::from_secs(1)).await;
    for _ in 0..20 {
        let before = load.sent();
        until("traffic", || async { load.sent() > before + 20 }).await;
        let _: u64 = redis.ask(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    }
    let traffic = load.finish(&redis).await;
    assert!(
        traffic.came_back.is_empty(),
        "acknowledged, and came again: {:?}",
        traffic.came_back
    );
}

#[tokio::test]
async fn a_connection_that_is_cut_while_nobody_uses_it_is_no_error() {
    let redis = Redis::start();
    let broker = redis.broker();
    for round in 0..5 {
        publish(&broker, "q", &["1"]).await;
        let _: u64 = redis.ask(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        // It takes a moment until the end of a connection is read.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(broker.len("q").await.unwrap(), round + 1);
    }
}

#[tokio::test]
async fn a_redis_that_stands_still_is_waited_for() {
    let redis = Redis::start();
    let load = Load::start(&redis, Duration::from_secs(10)).await;
    until("traffic", || async { load.sent() >= 50 }).await;
    redis.signal("-STOP");
    tokio::time::sleep(Duration::from_secs(3)).await;
    redis.signal("-CONT");
    let before = load.sent();
    until("traffic", || async { load.sent() >= before + 50 }).await;
    let traffic = load.finish(&redis).await;
    assert_eq!(traffic.errors, 0);
    assert!(traffic.came_back.is_empty());
}

#[tokio::test]
async fn a_consumer_that_waits_survives_an_outage() {
    let mut redis = Redis::durable();
    let broker = redis.broker();
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    nothing(&mut consumer, Duration::from_millis(100)).await;
    redis.kill();
    nothing(&mut consumer, Duration::from_millis(500)).await;
    redis.restart();
    publish(&broker, "q", &["1"]).await;
    assert_eq!(id(&next(&mut consumer).await), "1");
}

#[tokio::test]
async fn a_delivery_is_settled_once_its_server_is_back() {
    let mut redis = Redis::durable();
    let broker = redis.broker();
    publish(&broker, "q", &["1", "2", "3"]).await;
    let mut consumer = consume(&broker, &["q"], 3, NEVER).await;
    let deliveries = [
        next(&mut consumer).await,
        next(&mut consumer).await,
        next(&mut consumer).await,
    ];
    redis.kill();
    let hows = [
        Settle::Ack,
        Settle::Requeue,
        Settle::Reject("no".to_owned()),
    ];
    let mut settling = Vec::new();
    for (delivery, how) in deliveries.into_iter().zip(hows) {
        let broker = broker.clone();
        settling.push(tokio::spawn(async move {
            broker.settle(&delivery.receipt, how).await
        }));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    redis.restart();
    for settled in settling {
        assert_eq!(settled.await.unwrap().unwrap(), Settled::Done);
    }
    assert_eq!(broker.dead_letters("q").await.unwrap().len(), 1);
    assert_eq!(id(&next(&mut consumer).await), "2");
    nothing(&mut consumer, Duration::from_millis(100)).await;
}

#[tokio::test]
async fn settling_is_given_up_when_the_lease_has_ended() {
    let mut redis = Redis::start();
    let broker = redis.broker();
    publish(&broker, "q", &["1", "2"]).await;
    let mut consumer = consume(&broker, &["q"], 2, Duration::from_millis(500)).await;
    let acked = next(&mut consumer).await;
    let requeued = next(&mut consumer).await;
    redis.kill();
    let (one, two) = tokio::join!(
        broker.settle(&acked.receipt, Settle::Ack),
        broker.settle(&requeued.receipt, Settle::Requeue),
    );
    assert!(one.unwrap_err().is_retryable());
    assert!(two.unwrap_err().is_retryable());
}

#[tokio::test]
async fn a_lease_that_ends_in_an_outage_is_noticed_after_it() {
    let mut redis = Redis::durable();
    let broker = redis.broker();
    publish(&broker, "q", &["1"]).await;
    let mut consumer = consume(&broker, &["q"], 1, Duration::from_millis(500)).await;
    let held = next(&mut consumer).await;
    redis.kill();
    nothing(&mut consumer, Duration::from_millis(700)).await;
    redis.restart();
    let again = next(&mut consumer).await;
    assert_eq!(id(&again), "1");
    assert!(again.redelivered);
    assert_eq!(ack(&broker, &held).await, Settled::Stale);
}

#[tokio::test]
async fn those_who_listen_hear_again_after_an_outage() {
    let mut redis = Redis::durable();
    let broker = redis.broker();
    let mut news = broker.subscribe("news").await.unwrap();
    let mut more = broker.subscribe("more").await.unwrap();
    redis.kill();
    redis.restart();
    until("listening again", || async {
        redis.ask::<u64>(&["PUBSUB", "NUMPAT"]).await == 4
    })
    .await;
    broker.broadcast("news", "a", message("1")).await.unwrap();
    broker.broadcast("more", "", message("2")).await.unwrap();
    assert_eq!(news.next().await.unwrap().unwrap().0, "a");
    assert_eq!(more.next().await.unwrap().unwrap().0, "");
}

/// Stands between a broker and Redis, and can keep the answers to itself.
struct Proxy {
    url: String,
    swallow: Arc<AtomicBool>,
}

impl Proxy {
    async fn start(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}/0", listener.local_addr().unwrap());
        let swallow = Arc::new(AtomicBool::new(false));
        let swallowing = swallow.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = UnixStream::connect(&socket).await.unwrap();
                tokio::spawn(pass(client, server, swallowing.clone()));
            }
        });
        Self { url, swallow }
    }
}

/// Passes on both ways; hangs up on an answer that is to be swallowed.
async fn pass(
    mut client: tokio::net::TcpStream,
    server: UnixStream,
    swallow: Arc<AtomicBool>,
) -> io::Result<()> {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.into_split();
    let forth = tokio::io::copy(&mut from_client, &mut to_server);
    let back = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = from_server.read(&mut buffer).await?;
            if read == 0 || swallow.swap(false, Ordering::AcqRel) {
                return io::Result::Ok(());
            }
            to_client.write_all(&buffer[..read]).await?;
        }
    };
    tokio::select! {
        _ = forth => {}
        _ = back => {}
    }
    Ok(())
}

#[tokio::test]
async fn a_fetch_whose_answer_is_lost_is_read_again() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.socket()).await;
    let broker: Arc<dyn Broker> =
        RedisBroker::new(&proxy.url, RedisBrokerConfig::default()).unwrap();
    let mut consumer = consume(&broker, &["q"], 5, NEVER).await;
    publish(&redis.broker(), "q", &["first"]).await;
    let first = next(&mut consumer).await;
    let direct = redis.broker();
    ack(&broker, &first).await;
    publish(&direct, "q", &["1", "2", "3"]).await;
    // The consumer's next answer is that of a fetch.
    proxy.swallow.store(true, Ordering::Release);
    for want in ["1", "2", "3"] {
        let delivery = next(&mut consumer).await;
        assert_eq!(id(&delivery), want);
        assert!(!delivery.redelivered, "nobody ever had it");
        assert_eq!(ack(&broker, &delivery).await, Settled::Done);
    }
    assert!(!proxy.swallow.load(Ordering::Acquire), "nothing was lost");
}

#[tokio::test]
async fn an_acknowledgement_whose_answer_is_lost_is_done() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.socket()).await;
    let broker: Arc<dyn Broker> =
        RedisBroker::new(&proxy.url, RedisBrokerConfig::default()).unwrap();
    publish(&broker, "q", &["1", "2"]).await;
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    // From here on the server knows the script: it does what it is asked.
    let first = next(&mut consumer).await;
    assert_eq!(ack(&broker, &first).await, Settled::Done);
    let delivery = next(&mut consumer).await;
    proxy.swallow.store(true, Ordering::Release);
    assert_eq!(ack(&broker, &delivery).await, Settled::Done);
    assert!(!proxy.swallow.load(Ordering::Acquire), "nothing was lost");
    assert_eq!(redis.ask::<u64>(&["HLEN", "unacked"]).await, 0);
    assert_eq!(ack(&broker, &delivery).await, Settled::Stale);
}

#[tokio::test]
async fn an_acknowledgement_that_comes_too_late_is_stale_though_its_answer_is_lost() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.socket()).await;
    let broker: Arc<dyn Broker> =
        RedisBroker::new(&proxy.url, RedisBrokerConfig::default()).unwrap();
    let mut consumer = consume(&broker, &["q"], 1, Duration::from_millis(300)).await;
    publish(&broker, "q", &["1"]).await;
    let late = next(&mut consumer).await;
    let direct = redis.broker();
    let mut other = consume(&direct, &["q"], 1, NEVER).await;
    let again = next(&mut other).await;
    assert_eq!(id(&again), "1");
    // The consumer has room for one, so it has given up the other.
    publish(&broker, "q", &["2"]).await;
    assert_eq!(id(&next(&mut consumer).await), "2");
    proxy.swallow.store(true, Ordering::Release);
    assert_eq!(ack(&broker, &late).await, Settled::Stale);
    assert!(!proxy.swallow.load(Ordering::Acquire), "nothing was lost");
    assert_eq!(ack(&direct, &again).await, Settled::Done);
}

#[tokio::test]
async fn an_outage_is_logged_once_and_so_is_its_end() {
    keep_log();
    let mut redis = Redis::durable();
    let broker = redis.broker();
    let mut consumer = consume(&broker, &["q"], 1, NEVER).await;
    nothing(&mut consumer, Duration::from_millis(100)).await;
    redis.kill();
    for _ in 0..10 {
        let _ = broker.publish(vec![to("q", message("lost"))]).await;
        nothing(&mut consumer, Duration::from_millis(100)).await;
    }
    redis.restart();
    publish(&broker, "q", &["1"]).await;
    next(&mut consumer).await;
    let logged = redis.logged();
    assert_eq!(logged.len(), 2, "{logged:?}");
    assert!(logged[0].contains("connection to Redis lost"), "{logged:?}");
    assert!(logged[1].contains("connected to Redis again"), "{logged:?}");
}
