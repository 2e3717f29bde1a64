//! Committing in one step with a broker on the same server.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

mod support;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use canvas_backend_redis::{RedisBackend, RedisBackendConfig};
use canvas_broker_redis::{RedisBroker, RedisBrokerConfig};
use canvas_core::backend::{Arrival, JoinSpec, Part, Stored};
use canvas_core::broker::{
    ConsumeSpec, Consumer, Delivery, Destination, Outgoing, Settle, Settled,
};
use canvas_core::protocol::{Headers, Properties, Sealed};
use canvas_core::together::{Found, Made};
use canvas_core::{
    Arrive, Backend, Broker, Effect, Error, Message, Signature, State, TaskMeta, Together, Work,
};
use futures_util::StreamExt;
use support::{Redis, soon, success};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A broker and a backend on one server.
struct OneServer {
    redis: Redis,
    broker: Arc<RedisBroker>,
    backend: Arc<RedisBackend>,
    together: Arc<dyn Together>,
    consumer: Box<dyn Consumer>,
}

impl OneServer {
    async fn start() -> Self {
        let redis = Redis::start().await;
        let url = redis.url();
        Self::at(redis, &url).await
    }

    async fn at(redis: Redis, url: &str) -> Self {
        let broker = RedisBroker::new(url, RedisBrokerConfig::default()).unwrap();
        let backend = RedisBackend::new(url, RedisBackendConfig::default()).unwrap();
        let together = backend.together(&*broker).unwrap();
        let spec = ConsumeSpec {
            queues: vec!["q".into()],
            prefetch: 10,
            lease: Duration::from_secs(30),
        };
        let consumer = broker.consume(spec).await.unwrap();
        Self {
            redis,
            broker,
            backend,
            together,
            consumer,
        }
    }

    /// A task that is out at a worker.
    async fn delivery(&mut self, id: &str) -> Delivery {
        self.broker.publish(vec![message("q", id)]).await.unwrap();
        soon(self.consumer.next()).await.unwrap().unwrap()
    }

    async fn stored(&self, id: &str) -> Option<TaskMeta> {
        let found = self.backend.load(&[id.into()]).await.unwrap();
        found.into_iter().next().flatten()
    }

    async fn out(&self) -> u64 {
        self.redis.ask("HLEN unacked").await
    }
}

fn message(queue: &str, id: &str) -> Outgoing {
    Outgoing {
        to: Destination::queue(queue),
        message: Message {
            headers: Headers {
                task: Some("t".into()),
                id: Some(id.into()),
                ..Headers::default()
            },
            properties: Properties::default(),
            body: b"[[], {}, {}]".to_vec().into(),
        },
    }
}

fn store(meta: TaskMeta) -> Work {
    Work::Do(Effect::Store(Box::new(meta)))
}

fn publish(queue: &str, id: &str) -> Work {
    Work::Do(Effect::Publish(Box::new(message(queue, id))))
}

fn arrive(join: &str, member: &str, index: u64) -> Work {
    Work::Do(Effect::Arrive(Box::new(Arrive {
        join: join.into(),
        part: part(member, index),
        body: Sealed::new(&Signature::new("body")).unwrap(),
    })))
}

fn part(member: &str, index: u64) -> Part {
    Part {
        task_id: member.into(),
        index: Some(index),
        state: State::Success,
        result: 1.into(),
    }
}

fn done(settled: Settled) -> Made {
    Made::All {
        settled: Some(settled),
    }
}

#[tokio::test]
async fn all_that_a_run_leaves_is_made_and_acknowledged_in_one_call() {
    let mut here = OneServer::start().await;
    // The script is known, and the queue declared, from here on.
    let first = here.delivery("first").await;
    let work = [publish("next", "0")];
    let made = here.together.make(&work, Some(&first.receipt)).await;
    assert_eq!(made.unwrap(), done(Settled::Done));
    let delivery = here.delivery("1").await;
    here.redis.ask::<()>("CONFIG RESETSTAT").await;
    let spec = JoinSpec {
        id: "join".into(),
        size: 2,
        quorum: 2,
    };
    let kept = Effect::Keep {
        key: "k".into(),
        value: "[]".into(),
    };
    let work = [
        store(success("1", 7)),
        Work::Do(kept),
        Work::Do(Effect::OpenJoin(spec)),
        publish("next", "2"),
        publish("next", "3"),
        arrive("join", "1", 0),
    ];
    let made = here.together.make(&work, Some(&delivery.receipt)).await;
    assert_eq!(made.unwrap(), done(Settled::Done));
    let statistics: String = here.redis.ask("INFO commandstats").await;
    let calls = statistics
        .lines()
        .find(|line| line.starts_with("cmdstat_evalsha:"));
    assert!(calls.unwrap().contains("calls=1,"), "{statistics}");
    assert_eq!(here.stored("1").await.unwrap().result, 7);
    assert_eq!(
        here.backend.recall(&"k".into()).await.unwrap().unwrap(),
        "[]"
    );
    assert_eq!(here.broker.len("next").await.unwrap(), 3);
    assert_eq!(here.out().await, 0);
    let (join, last) = ("join".into(), part("2", 1));
    let arrival = here.backend.arrive(&join, &last, Duration::from_secs(5));
    let Arrival::Complete { parts, .. } = arrival.await.unwrap() else {
        panic!("the first member did not arrive");
    };
    assert_eq!(parts, [part("1", 0), part("2", 1)]);
}

#[tokio::test]
async fn a_result_that_stands_stops_what_would_follow_from_another() {
    let mut here = OneServer::start().await;
    let delivery = here.delivery("1").await;
    let standing = success("1", "before");
    assert_eq!(
        here.backend.store(&standing).await.unwrap(),
        Stored::Written
    );
    let work = [
        publish("next", "2"),
        store(success("1", "now")),
        publish("next", "3"),
    ];
    let made = here.together.make(&work, Some(&delivery.receipt)).await;
    let found = Found::Standing(Box::new(standing));
    assert_eq!(made.unwrap(), Made::Until { at: 1, found });
    assert_eq!(here.broker.len("next").await.unwrap(), 1);
    assert_eq!(here.out().await, 1, "it is not acknowledged");
}

#[tokio::test]
async fn a_join_that_is_complete_is_seen_through_before_the_acknowledgement() {
    let mut here = OneServer::start().await;
    let delivery = here.delivery("1").await;
    let spec = JoinSpec {
        id: "join".into(),
        size: 1,
        quorum: 1,
    };
    here.backend.open_join(&spec).await.unwrap();
    let work = [store(success("1", 1)), arrive("join", "1", 0)];
    let made = here.together.make(&work, Some(&delivery.receipt)).await;
    let found = Found::Arrival(Arrival::Complete {
        claim: 1,
        parts: vec![part("1", 0)],
    });
    assert_eq!(made.unwrap(), Made::Until { at: 1, found });
    assert_eq!(here.out().await, 1);
    let close = Work::Close {
        join: "join".into(),
        claim: 1,
    };
    let work = [publish("next", "body"), close];
    let made = here.together.make(&work, Some(&delivery.receipt)).await;
    assert_eq!(made.unwrap(), done(Settled::Done));
    assert_eq!(here.out().await, 0);
    // Closed is no news to a member that comes late.
    let made = here.together.make(&[arrive("join", "1", 0)], None).await;
    assert_eq!(made.unwrap(), Made::All { settled: None });
}

#[tokio::test]
async fn what_is_wrong_with_one_run_does_not_stop_the_others() {
    let mut here = OneServer::start().await;
    let (bad, good) = (here.delivery("bad").await, here.delivery("good").await);
    here.redis.ask::<()>("SADD celery-task-meta-bad x").await;
    let bad_work = [store(success("bad", 1)), publish("next", "2")];
    let good_work = [store(success("good", 1)), publish("next", "3")];
    let (bad, good) = tokio::join!(
        here.together.make(&bad_work, Some(&bad.receipt)),
        here.together.make(&good_work, Some(&good.receipt)),
    );
    let error = bad.unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert_eq!(good.unwrap(), done(Settled::Done));
    assert_eq!(here.broker.len("next").await.unwrap(), 1);
    assert_eq!(here.out().await, 1);
}

#[tokio::test]
async fn a_run_whose_lease_has_passed_on_is_told_so_and_its_effects_stand() {
    let mut here = OneServer::start().await;
    let delivery = here.delivery("1").await;
    here.broker
        .settle(&delivery.receipt, Settle::Requeue)
        .await
        .unwrap();
    let work = [store(success("1", 1))];
    let made = here.together.make(&work, Some(&delivery.receipt)).await;
    assert_eq!(made.unwrap(), done(Settled::Stale));
    assert!(here.stored("1").await.is_some());
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_not_made_twice() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis.listen().await).await;
    let mut here = OneServer::at(redis, &proxy.url).await;
    let first = here.delivery("first").await;
    let work = [publish("next", "0")];
    here.together
        .make(&work, Some(&first.receipt))
        .await
        .unwrap();
    for work in [
        vec![store(success("1", 1)), publish("next", "2")],
        vec![publish("next", "3")],
    ] {
        let before = here.broker.len("next").await.unwrap();
        let delivery = here.delivery("1").await;
        proxy.swallow.store(true, Ordering::Release);
        let made = soon(here.together.make(&work, Some(&delivery.receipt))).await;
        assert_eq!(made.unwrap(), done(Settled::Done));
        assert!(!proxy.swallow.load(Ordering::Acquire), "nothing was lost");
        assert_eq!(here.broker.len("next").await.unwrap(), before + 1);
        assert_eq!(here.out().await, 0);
    }
}

/// A task with a callback may be what a client waits for: see `retell.rs`.
#[tokio::test]
async fn a_result_that_a_message_follows_is_told_of_again_too() {
    let here = OneServer::start().await;
    let url = here.redis.url().replace("redis+socket", "unix");
    let client = redis::Client::open(url).unwrap();
    let mut ear = client.get_async_pubsub().await.unwrap();
    ear.subscribe("celery-task-meta-1").await.unwrap();
    let mut meta = success("1", 1);
    meta.parent_id = Some("parent".into());
    let work = [store(meta), publish("next", "callback")];
    let made = here.together.make(&work, None).await;
    assert_eq!(made.unwrap(), Made::All { settled: None });
    assert_eq!(soon(ear.on_message().take(2).count()).await, 2);
}

/// An idle worker that is alone with a chain passes it to itself.
#[tokio::test]
async fn what_follows_is_taken_in_the_same_step_if_nothing_is_before_it() {
    let mut here = OneServer::start().await;
    let delivery = here.delivery("1").await;
    here.redis.ask::<()>("CONFIG RESETSTAT").await;
    let work = [store(success("1", 1)), publish("q", "2")];
    let (next, made) = tokio::join!(
        soon(here.consumer.next()),
        here.together.make(&work, Some(&delivery.receipt)),
    );
    assert_eq!(made.unwrap(), done(Settled::Done));
    let next = next.unwrap().unwrap();
    assert_eq!(next.message.headers.id, Some("2".into()));
    assert_eq!(
        (&*next.queue, next.redelivered, next.deliveries),
        ("q", false, 1)
    );
    assert_eq!(here.out().await, 1);
    let statistics: String = here.redis.ask("INFO commandstats").await;
    for fetched in ["cmdstat_rpop", "cmdstat_lpush"] {
        assert!(!statistics.contains(fetched), "{statistics}");
    }
    let made = here.together.make(&[], Some(&next.receipt)).await;
    assert_eq!(made.unwrap(), done(Settled::Done));
    assert_eq!(here.out().await, 0);
}

/// What is taken is under a lease like all else.
#[tokio::test]
async fn what_was_taken_comes_back_if_it_is_not_settled() {
    let mut here = OneServer::start().await;
    let delivery = here.delivery("1").await;
    let work = [publish("q", "2")];
    let (next, made) = tokio::join!(
        soon(here.consumer.next()),
        here.together.make(&work, Some(&delivery.receipt)),
    );
    assert_eq!(made.unwrap(), done(Settled::Done));
    let next = next.unwrap().unwrap();
    let requeued = here.broker.settle(&next.receipt, Settle::Requeue).await;
    assert_eq!(requeued.unwrap(), Settled::Done);
    let again = soon(here.consumer.next()).await.unwrap().unwrap();
    assert_eq!(again.message.headers.id, Some("2".into()));
    assert_eq!(again.message.body, next.message.body);
    let late = here.together.make(&[], Some(&next.receipt)).await;
    assert_eq!(late.unwrap(), done(Settled::Stale));
}

#[tokio::test]
async fn what_follows_stands_in_line_if_something_is_before_it() {
    let mut here = OneServer::start().await;
    let delivery = here.delivery("1").await;
    // It has taken all that it may.
    here.consumer.set_prefetch(1).await.unwrap();
    here.broker
        .publish(vec![message("q", "before")])
        .await
        .unwrap();
    let work = [publish("q", "after")];
    let (next, made) = tokio::join!(
        soon(here.consumer.next()),
        here.together.make(&work, Some(&delivery.receipt)),
    );
    assert_eq!(made.unwrap(), done(Settled::Done));
    let next = next.unwrap().unwrap();
    assert_eq!(next.message.headers.id, Some("before".into()));
    here.broker
        .settle(&next.receipt, Settle::Ack)
        .await
        .unwrap();
    let last = soon(here.consumer.next()).await.unwrap().unwrap();
    assert_eq!(last.message.headers.id, Some("after".into()));
}

#[tokio::test]
async fn what_was_taken_by_a_call_whose_answer_is_lost_is_known() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis.listen().await).await;
    let mut here = OneServer::at(redis, &proxy.url).await;
    let first = here.delivery("first").await;
    let work = [publish("q", "0")];
    here.together
        .make(&work, Some(&first.receipt))
        .await
        .unwrap();
    let delivery = soon(here.consumer.next()).await.unwrap().unwrap();
    let work = [publish("q", "2")];
    let making = async {
        // The consumer has asked by now, and gets no answer either.
        proxy.swallow.store(true, Ordering::Release);
        here.together.make(&work, Some(&delivery.receipt)).await
    };
    let (next, made) = tokio::join!(soon(here.consumer.next()), soon(making));
    assert_eq!(made.unwrap(), done(Settled::Done));
    assert!(!proxy.swallow.load(Ordering::Acquire), "nothing was lost");
    let next = next.unwrap().unwrap();
    assert_eq!(next.message.headers.id, Some("2".into()));
    assert_eq!(here.out().await, 1);
}

/// The server forgot the delivery and the result: nobody else has them.
#[tokio::test]
async fn a_commit_that_the_server_has_lost_is_made_again() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis.listen().await).await;
    let mut here = OneServer::at(redis, &proxy.url).await;
    let first = here.delivery("first").await;
    let work = [publish("next", "0")];
    here.together
        .make(&work, Some(&first.receipt))
        .await
        .unwrap();
    let delivery = here.delivery("1").await;
    here.redis.ask::<()>("FLUSHALL").await;
    // The first attempt gets no answer, and nothing of it is left.
    proxy.refuse.store(true, Ordering::Release);
    let work = [store(success("1", 1)), publish("next", "2")];
    let making = here.together.make(&work, Some(&delivery.receipt));
    let made = soon(making).await.unwrap();
    assert_eq!(made, done(Settled::Stale));
    assert!(here.stored("1").await.is_some());
    assert_eq!(here.broker.len("next").await.unwrap(), 1);
}

#[tokio::test]
async fn servers_and_databases_that_differ_do_not_commit_together() {
    let redis = Redis::start().await;
    let url = redis.listen().await;
    let backend = RedisBackend::new(&format!("{url}/0"), RedisBackendConfig::default()).unwrap();
    let broker = |url: &str| RedisBroker::new(url, RedisBrokerConfig::default()).unwrap();
    assert!(backend.together(&*broker(&url)).is_some());
    assert!(backend.together(&*broker(&format!("{url}/1"))).is_none());
    assert!(backend.together(&*broker("redis://127.0.0.1:1")).is_none());
    let memory = canvas_core::memory::MemoryBroker::new();
    assert!(backend.together(&memory).is_none());
}

/// Stands before a server, and can keep an answer to itself, or a call.
struct Proxy {
    url: String,
    swallow: Arc<AtomicBool>,
    refuse: Arc<AtomicBool>,
}

impl Proxy {
    async fn start(server: &str) -> Self {
        let server = server.trim_start_matches("redis://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let (swallow, refuse) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let flags = (swallow.clone(), refuse.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.unwrap();
                tokio::spawn(pass(client, server, flags.clone()));
            }
        });
        Self {
            url,
            swallow,
            refuse,
        }
    }
}

/// Passes on both ways; hangs up on what is to be kept.
async fn pass(
    client: TcpStream,
    server: TcpStream,
    (swallow, refuse): (Arc<AtomicBool>, Arc<AtomicBool>),
) {
    async fn until_kept(
        mut from: impl AsyncReadExt + Unpin,
        mut to: impl AsyncWriteExt + Unpin,
        keep: Arc<AtomicBool>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = from.read(&mut buffer).await?;
            if read == 0 || keep.swap(false, Ordering::AcqRel) {
                return Ok(());
            }
            to.write_all(&buffer[..read]).await?;
        }
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        _ = until_kept(from_client, to_server, refuse) => {}
        _ = until_kept(from_server, to_client, swallow) => {}
    }
}
