//! Sentinels: the master is found by its name, and found again when another
//! server has taken its place.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use canvas::broker::{Destination, Outgoing, Subscription};
use canvas::protocol::{Headers, Properties};
use canvas::{Broker, Canvas, Error, Message, Signature};
use canvas_backend_redis::{RedisBackend, RedisBackendConfig, SentinelOptions};
use canvas_broker_redis::{RedisBroker, RedisBrokerConfig};
use canvas_tests::redis_server::{RedisServer, ask, plain};
use canvas_tests::support::{Gate, Log, PATIENCE, add, builder, eventually, value, work};
use serde_json::json;

/// What each server, and each sentinel, wants to be told.
const PASSWORD: &str = "hidden";
const SENTINEL_PASSWORD: &str = "secret";

/// A master, its replica, and a sentinel that watches over the two.
struct Watched {
    master: RedisServer,
    replica: RedisServer,
    sentinel: RedisServer,
}

impl Watched {
    async fn start() -> Self {
        let login = format!("--requirepass {PASSWORD} --masterauth {PASSWORD}");
        let master = RedisServer::with(|_, port| plain(&format!("--port {port} {login}")));
        let of = format!("--replicaof 127.0.0.1 {}", master.port());
        let replica = RedisServer::with(|_, port| plain(&format!("--port {port} {login} {of}")));
        let sentinel = RedisServer::with(|folder, port| {
            let (at, conf) = (master.port(), folder.join("sentinel.conf"));
            let settings = format!(
                "port {port}\n\
                 bind 127.0.0.1\n\
                 dir {}\n\
                 requirepass {SENTINEL_PASSWORD}\n\
                 sentinel monitor one 127.0.0.1 {at} 1\n\
                 sentinel auth-pass one {PASSWORD}\n\
                 sentinel down-after-milliseconds one 500\n\
                 sentinel failover-timeout one 3000\n",
                folder.display()
            );
            fs::write(&conf, settings).unwrap();
            vec![conf.display().to_string(), "--sentinel".to_owned()]
        });
        let watched = Self {
            master,
            replica,
            sentinel,
        };
        eventually(
            "the replica is in step, and known to the sentinel",
            async || {
                let known = format!(
                    "redis://:{SENTINEL_PASSWORD}@127.0.0.1:{}",
                    watched.sentinel.port()
                );
                let known: redis::RedisResult<Vec<redis::Value>> =
                    ask(&known, &["SENTINEL", "REPLICAS", "one"]).await;
                known.is_ok_and(|known| known.len() == 1) && watched.in_step().await
            },
        )
        .await;
        watched
    }

    fn direct(server: &RedisServer) -> String {
        format!("redis://:{PASSWORD}@127.0.0.1:{}/2", server.port())
    }

    /// Whether the replica has all that the master has.
    async fn in_step(&self) -> bool {
        let told: redis::RedisResult<String> =
            ask(&Self::direct(&self.replica), &["INFO", "replication"]).await;
        let is_linked = told.is_ok_and(|told| told.contains("master_link_status:up"));
        let behind = ask(&Self::direct(&self.master), &["WAIT", "1", "100"]).await;
        is_linked && behind.is_ok_and(|replicas: u64| replicas == 1)
    }

    async fn is_promoted(&self) -> bool {
        let told: redis::RedisResult<String> =
            ask(&Self::direct(&self.replica), &["INFO", "replication"]).await;
        told.is_ok_and(|told| told.contains("role:master"))
    }

    /// Behind a sentinel that is gone.
    fn url(&self) -> String {
        let port = self.sentinel.port();
        format!("sentinel://:{PASSWORD}@127.0.0.1:1/2;sentinel://127.0.0.1:{port}")
    }

    fn told(&self) -> SentinelOptions {
        let mut told = SentinelOptions::default();
        told.master_name = Some("one".to_owned());
        told.password = Some(SENTINEL_PASSWORD.to_owned());
        told
    }

    fn drivers(&self) -> (Arc<RedisBroker>, Arc<RedisBackend>) {
        let limit = Duration::from_secs(1);
        let mut config = RedisBrokerConfig::default();
        config.sentinel = self.told();
        (config.connect_timeout, config.response_timeout) = (limit, limit);
        let broker = RedisBroker::new(&self.url(), config).unwrap();
        let mut config = RedisBackendConfig::default();
        config.sentinel = self.told();
        config.retry_for = PATIENCE;
        (config.connect_timeout, config.response_timeout) = (limit, limit);
        let backend = RedisBackend::new(&self.url(), config).unwrap();
        (broker, backend)
    }
}

/// Sends until it is taken: a client that is told of an outage tries again.
async fn send(app: &Canvas, signature: Signature) -> canvas::AsyncResult {
    let mut sent = None;
    eventually("sent", async || {
        sent = app.apply(signature.clone()).await.ok();
        sent.is_some()
    })
    .await;
    sent.unwrap()
}

fn message() -> Message {
    Message {
        headers: Headers::default(),
        properties: Properties::default(),
        body: Bytes::from_static(b"{}"),
    }
}

async fn hear(news: &mut Box<dyn Subscription>) -> String {
    let heard = tokio::time::timeout(PATIENCE, news.next()).await.unwrap();
    heard.unwrap().unwrap().0
}

/// Runs tasks before and after another server takes the place of the master,
/// and one all the while.
async fn goes_on(fail: impl FnOnce(&mut Watched)) -> Watched {
    let mut servers = Watched::start().await;
    let (broker, backend) = servers.drivers();
    let (gate, started) = (Gate::new(), Log::new());
    let app = builder()
        .task_object(gate.task("t.gated", &started))
        .broker(broker.clone())
        .backend(backend)
        .build()
        .unwrap();
    let _worker = work(&app).await;
    let mut news = broker.subscribe("news").await.unwrap();
    let before = app.apply(add(1).arg(2)).await.unwrap();
    assert_eq!(value(&before).await, json!(3));
    let during = app
        .apply(Signature::new("t.gated").arg("kept"))
        .await
        .unwrap();
    let waiting = tokio::spawn(async move { value(&during).await });
    started.reaches(1).await;
    eventually("the replica is in step", async || servers.in_step().await).await;

    fail(&mut servers);
    eventually("another master", async || servers.is_promoted().await).await;

    gate.open();
    assert_eq!(waiting.await.unwrap(), json!("kept"));
    let after = send(&app, add(10).arg(2)).await;
    assert_eq!(value(&after).await, json!(12));
    // What is broadcast while nobody is connected is heard by nobody.
    eventually("listening again", async || {
        let heard: redis::RedisResult<u64> =
            ask(&Watched::direct(&servers.replica), &["PUBSUB", "NUMPAT"]).await;
        heard.is_ok_and(|patterns| patterns >= 2)
    })
    .await;
    broker.broadcast("news", "it", message()).await.unwrap();
    assert_eq!(hear(&mut news).await, "it");
    let out: u64 = ask(&Watched::direct(&servers.replica), &["HLEN", "unacked"])
        .await
        .unwrap();
    assert_eq!(out, 0);
    servers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_dies_is_followed_by_its_replica() {
    goes_on(|servers| servers.master.kill()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_stands_still_is_left_and_believed_no_more() {
    let servers = goes_on(|servers| servers.master.freeze(true)).await;
    // It comes back as what it was, until the sentinel tells it otherwise.
    servers.master.freeze(false);
    let (broker, _) = servers.drivers();
    let (to, message) = (Destination::queue("late"), message());
    broker
        .publish(vec![Outgoing { to, message }])
        .await
        .unwrap();
    let taken = ask(&Watched::direct(&servers.replica), &["LLEN", "late"]).await;
    assert_eq!(taken, Ok(1_u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sentinels_are_told_must_be_right() {
    let servers = Watched::start().await;
    let refused = async |sentinel| {
        let mut config = RedisBrokerConfig::default();
        config.sentinel = sentinel;
        let broker = RedisBroker::new(&servers.url(), config).unwrap();
        let error = broker.len("celery").await.unwrap_err();
        assert!(matches!(error, Error::Config(_)), "{error}");
        let text = error.to_string();
        let shown = text.contains(PASSWORD) || text.contains(SENTINEL_PASSWORD);
        assert!(!shown, "{text}");
        text
    };
    let mut unknown = servers.told();
    unknown.master_name = Some("two".to_owned());
    let text = refused(unknown).await;
    assert!(text.contains("check master_name"), "{text}");
    let mut stranger = servers.told();
    stranger.password = None;
    let text = refused(stranger).await;
    assert!(text.contains("sentinel_password"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_that_are_gone_are_an_outage() {
    let url = "sentinel://127.0.0.1:1?master_name=one";
    let broker = RedisBroker::new(url, RedisBrokerConfig::default()).unwrap();
    let error = broker.len("celery").await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(error.to_string().contains("is it running"), "{error}");
}
