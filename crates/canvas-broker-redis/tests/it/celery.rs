//! Python on the other side: Celery's client and kombu's consumer.

#[path = "../../../../tests/kit/python.rs"]
mod python;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use canvas_core::Request;
use canvas_core::broker::{Destination, Outgoing, Settled};
use canvas_core::protocol::{DeliveryInfo, Headers, Message, Properties};
use serde_json::{Value, json};

use crate::support::{
    NEVER, PATIENCE, Redis, ack, consume, id, message, next, nothing, publish, to, until,
};

/// What the Python needs.
const PACKAGES: &str = "celery[redis]==5.7.0";

/// A script that runs.
struct Script {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Script {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/python");
        let mut child = Command::new(python::python(PACKAGES))
            .arg(scripts.join(name))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line it prints.
    async fn line(mut self) -> (Self, String) {
        let reading = tokio::task::spawn_blocking(move || {
            let line = self.lines.next().expect("the script has ended").unwrap();
            (self, line)
        });
        tokio::time::timeout(PATIENCE, reading)
            .await
            .expect("no line")
            .unwrap()
    }

    /// All lines until it ends by itself.
    async fn run(name: &'static str, arguments: &[&str]) -> Vec<String> {
        let mut script = Self::start(name, arguments);
        let reading = tokio::task::spawn_blocking(move || {
            let lines = script.lines.by_ref().map(Result::unwrap).collect();
            assert!(script.child.wait().unwrap().success(), "{name} has failed");
            lines
        });
        tokio::time::timeout(PATIENCE * 2, reading)
            .await
            .expect("it goes on")
            .unwrap()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[tokio::test]
async fn what_celerys_client_sends_is_read() {
    let redis = Redis::start();
    for prefix in ["", "app:"] {
        let broker = redis.broker_with(|config| config.global_keyprefix = prefix.to_owned());
        let sent = json(&Script::run("send.py", &[&redis.url(), prefix]).await[0]);
        let ids: Vec<&str> = sent["ids"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let mut consumer = consume(&broker, &["q"], 10, NEVER).await;
        let mut requests = Vec::new();
        let mut got = Vec::new();
        for _ in 0..6 {
            let delivery = next(&mut consumer).await;
            assert_eq!((delivery.redelivered, delivery.deliveries), (false, 1));
            assert_eq!(
                delivery
                    .message
                    .properties
                    .reply_to
                    .as_ref()
                    .unwrap()
                    .as_str(),
                sent["oid"]
            );
            got.push(id(&delivery));
            let info = DeliveryInfo::default();
            requests.push(Request::decode(&delivery.message, info).unwrap());
            assert_eq!(ack(&broker, &delivery).await, Settled::Done);
        }
        // The slow one comes last; it is in a list of its own.
        let order: Vec<&str> = [0, 1, 2, 3, 5, 4].map(|place| ids[place]).into();
        assert_eq!(got, order);
        let names: Vec<&str> = requests.iter().map(|request| &*request.task).collect();
        assert_eq!(
            names,
            ["plain", "full", "zipped", "urgent", "first", "slow"]
        );
        let [plain, full, zipped, urgent, first, slow] = &requests[..] else {
            panic!("six were sent");
        };
        assert_eq!(
            (&plain.args, &plain.kwargs["x"]),
            (&vec![json!(1), json!("ü")], &Value::Null)
        );
        assert_eq!(
            full.headers.eta,
            Some("2030-01-02T03:04:05.678901Z".parse().unwrap())
        );
        assert_eq!(
            full.headers.expires,
            Some("2031-01-01T00:00:00Z".parse().unwrap())
        );
        assert!(full.properties.expiration.is_some());
        assert_eq!(full.headers.retries, 3);
        assert_eq!(full.headers.timelimit, (Some(10.0), Some(5.0)));
        assert_eq!(full.headers.extra["mine"], json!({"deep": [1.5, null]}));
        assert_eq!(zipped.args, [json!((0..1000).collect::<Vec<_>>())]);
        assert_eq!(urgent.properties.priority, None);
        assert_eq!(slow.properties.priority, Some(7));
        let following = first.embed.chain.as_ref().unwrap();
        assert_eq!(following[0].open().unwrap().task, "second");
    }
}

#[tokio::test]
async fn what_is_sent_here_is_read_by_kombu() {
    let redis = Redis::start();
    for prefix in ["", "app:"] {
        let broker = redis.broker_with(|config| config.global_keyprefix = prefix.to_owned());
        let mut full = message("id-1");
        full.headers.eta = Some("2030-01-02T03:04:05.678901Z".parse().unwrap());
        full.headers
            .extra
            .insert("mine".to_owned(), json!({"deep": [1.5, null]}));
        full.properties = Properties {
            correlation_id: Some("id-1".into()),
            reply_to: Some("me".into()),
            priority: Some(7),
            expiration: Some(60_000),
            ..Properties::default()
        };
        full.body = "[[\"ü\"], {}, {}]".into();
        broker
            .publish(vec![to("q", full.clone()), to("q", message("id-2"))])
            .await
            .unwrap();
        let prefix = format!("--prefix={prefix}");
        let lines = Script::run("take.py", &[&redis.url(), "q", "2", &prefix]).await;
        let [second, first] = [json(&lines[0]), json(&lines[1])];
        assert_eq!(second["headers"]["id"], json!("id-2"));
        assert_eq!(second["properties"]["priority"], json!(0));
        assert_eq!(
            first,
            json!({
                "body": "[[\"ü\"], {}, {}]",
                "content_type": "application/json",
                "content_encoding": "utf-8",
                "headers": full.headers.to_map(),
                "properties": {
                    "correlation_id": "id-1",
                    "reply_to": "me",
                    "delivery_mode": 2,
                    "expiration": "60000",
                    "delivery_info": {"exchange": "", "routing_key": "q"},
                    "priority": 7,
                },
            })
        );
        assert_eq!(broker.len("q").await.unwrap(), 0);
    }
    assert_eq!(
        redis
            .ask::<u64>(&["EXISTS", "unacked", "app:unacked"])
            .await,
        0
    );
}

#[tokio::test]
async fn kombu_restores_what_a_dead_consumer_of_ours_had_after_the_lease_and_not_before() {
    let redis = Redis::start();
    // Ours looks for nothing: it is as good as dead.
    let broker = redis.broker_with(|config| config.sweep_interval = NEVER);
    let mut urgent = message("urgent");
    urgent.properties.priority = Some(3);
    broker
        .publish(vec![to("q", urgent.clone()), to("q", message("id-2"))])
        .await
        .unwrap();
    let lease = Duration::from_secs(4);
    let mut dead = consume(&broker, &["q"], 2, lease).await;
    let taken = Instant::now();
    let stale = next(&mut dead).await;
    next(&mut dead).await;
    let url = redis.url();
    let restored = async || Script::run("restore.py", &[&url, "q"]).await[0].clone();
    assert_eq!(restored().await, "0", "the lease runs");
    assert!(taken.elapsed() < lease, "too slow to tell");
    tokio::time::sleep(lease.saturating_sub(taken.elapsed()) + Duration::from_millis(200)).await;
    assert_eq!(
        restored().await,
        "2",
        "the lease has ended, an hour before kombu's timeout"
    );
    assert_eq!(
        redis.ask::<u64>(&["LLEN", "q\x06\x163"]).await,
        1,
        "in the list of its priority"
    );
    let mut consumer = consume(&redis.broker(), &["q"], 2, NEVER).await;
    for want in ["id-2", "urgent"] {
        let again = next(&mut consumer).await;
        assert_eq!((id(&again).as_str(), again.redelivered), (want, true));
        if want == "urgent" {
            assert_eq!(again.message, urgent);
        }
    }
    assert_eq!(ack(&broker, &stale).await, Settled::Stale);
    assert_eq!(redis.ask::<u64>(&["HLEN", "unacked"]).await, 2);
}

#[tokio::test]
async fn kombu_leaves_a_renewed_delivery_alone() {
    let redis = Redis::start();
    let broker = redis.broker_with(|config| config.sweep_interval = NEVER);
    publish(&broker, "q", &["1"]).await;
    let lease = Duration::from_secs(2);
    let mut consumer = consume(&broker, &["q"], 1, lease).await;
    let delivery = next(&mut consumer).await;
    // Also while Python starts, which may take longer than a lease.
    let renewing = async {
        loop {
            let renewed = broker.renew(std::slice::from_ref(&delivery.receipt)).await;
            renewed.unwrap();
            tokio::time::sleep(lease / 4).await;
        }
    };
    let looking = async {
        let end = Instant::now() + lease * 3 / 2;
        while Instant::now() < end {
            let restored = Script::run("restore.py", &[&redis.url(), "q"]).await;
            assert_eq!(restored[0], "0");
        }
    };
    tokio::select! {
        () = renewing => {}
        () = looking => {}
    }
    assert_eq!(ack(&broker, &delivery).await, Settled::Done);
}

#[tokio::test]
async fn what_a_dead_python_consumer_had_comes_back_after_its_visibility_timeout_and_not_before() {
    let redis = Redis::start();
    let broker = redis.broker_with(|config| config.visibility_timeout = Duration::from_secs(5));
    publish(&broker, "q", &["1"]).await;
    let url = redis.url();
    let python = Script::start("take.py", &[&url, "q", "1", "--hold", "--visibility=5"]);
    let (python, line) = python.line().await;
    let taken = Instant::now();
    assert_eq!(json(&line)["headers"]["id"], json!("1"));
    // Killed, with the message.
    drop(python);
    let mut consumer = consume(&broker, &["q"], 1, Duration::from_secs(1)).await;
    nothing(
        &mut consumer,
        Duration::from_secs(4).saturating_sub(taken.elapsed()),
    )
    .await;
    let delivery = next(&mut consumer).await;
    let after = taken.elapsed();
    assert!(after > Duration::from_millis(4_500), "after {after:?}");
    assert!(delivery.redelivered);
    assert_eq!(delivery.message, message("1"));
    assert_eq!(ack(&broker, &delivery).await, Settled::Done);
    assert_eq!(
        redis
            .ask::<u64>(&["EXISTS", "unacked", "unacked_index", "q"])
            .await,
        0
    );
}

#[tokio::test]
async fn python_and_rust_share_a_queue() {
    const ALL: usize = 400;
    let redis = Redis::start();
    let broker = redis.broker();
    let url = redis.url();
    // Python takes 100 of them.
    let python = tokio::spawn(async move { Script::run("take.py", &[&url, "q", "100"]).await });
    until("python consumes", || async {
        redis.served("brpop").await > 0
    })
    .await;
    let mut consumer = consume(&broker, &["q"], 5, NEVER).await;
    let publisher = broker.clone();
    let publishing = tokio::spawn(async move {
        for n in 0..ALL {
            publish(&publisher, "q", &[&n.to_string()]).await;
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    });
    let mut seen = Vec::new();
    let quiet = Duration::from_secs(3);
    while let Ok(delivery) = tokio::time::timeout(quiet, consumer.next()).await {
        let delivery = delivery.unwrap().unwrap();
        seen.push(id(&delivery));
        ack(&broker, &delivery).await;
    }
    publishing.await.unwrap();
    let lines = python.await.unwrap();
    let theirs = lines
        .iter()
        .map(|line| json(line)["headers"]["id"].as_str().unwrap().to_owned());
    seen.extend(theirs);
    seen.sort_unstable();
    let count = seen.len();
    seen.dedup();
    assert_eq!((count, seen.len()), (ALL, ALL), "each once");
}

#[tokio::test]
async fn a_ping_of_celerys_remote_control_is_heard_and_answered() {
    let redis = Redis::start();
    let broker = redis.broker();
    let mut commands = broker.subscribe("celery.pidbox").await.unwrap();
    let url = redis.url();
    let python = tokio::spawn(async move { Script::run("ping.py", &[&url]).await });
    let heard = tokio::time::timeout(PATIENCE, commands.next()).await;
    let (key, command) = heard.expect("nothing heard").unwrap().unwrap();
    assert_eq!(key, "");
    let body: Value = serde_json::from_slice(&command.body).unwrap();
    assert_eq!(body["method"], json!("ping"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let to = Destination {
        exchange: text(&body["reply_to"]["exchange"]).into(),
        routing_key: text(&body["reply_to"]["routing_key"]).into(),
    };
    let ticket = [("ticket".to_owned(), body["ticket"].clone())];
    let answer = Message {
        headers: Headers {
            extra: ticket.into_iter().collect(),
            ..Headers::default()
        },
        properties: Properties::default(),
        body: json!({"rust@host": {"ok": "pong"}}).to_string().into(),
    };
    broker
        .publish(vec![Outgoing {
            to,
            message: answer,
        }])
        .await
        .unwrap();
    let lines = python.await.unwrap();
    assert_eq!(json(&lines[0]), json!([{"rust@host": {"ok": "pong"}}]));
}

#[tokio::test]
async fn an_event_that_is_broadcast_here_is_heard_by_celery() {
    let redis = Redis::start();
    let broker = redis.broker();
    let python = Script::start("events.py", &[&redis.url()]);
    let (python, line) = python.line().await;
    assert_eq!(line, "ready");
    until("celery listens", || async {
        redis.ask::<u64>(&["PUBSUB", "NUMPAT"]).await > 0
    })
    .await;
    let event = json!({
        "hostname": "rust@host", "utcoffset": 0, "pid": 1, "clock": 1,
        "timestamp": 1764000000.5, "type": "worker-online", "freq": 2.0,
    });
    let message = Message {
        headers: Headers {
            extra: [("hostname".to_owned(), json!("rust@host"))]
                .into_iter()
                .collect(),
            ..Headers::default()
        },
        properties: Properties {
            delivery_mode: 1,
            ..Properties::default()
        },
        body: event.to_string().into(),
    };
    broker
        .broadcast("celeryev", "worker.online", message)
        .await
        .unwrap();
    let (_python, line) = python.line().await;
    assert_eq!(json(&line)["type"], json!("worker-online"));
    assert_eq!(json(&line)["hostname"], json!("rust@host"));
}
