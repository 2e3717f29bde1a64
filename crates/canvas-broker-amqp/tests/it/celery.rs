//! Python on the other side: Celery's client, its declarations, its control.

#[path = "../../../../tests/kit/python.rs"]
mod python;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use canvas_broker_amqp::{AmqpBrokerConfig, ExchangeType};
use canvas_core::Request;
use canvas_core::broker::{Destination, Outgoing, Settled};
use canvas_core::protocol::{DeliveryInfo, Headers, Message, Properties};
use serde_json::{Value, json};

use crate::support::{NEVER, PATIENCE, Vhost, ack, consume, id, message, next, publish, to, until};

/// What the Python needs.
const PACKAGES: &str = "celery==5.7.0";

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
    async fn run(name: &'static str, arguments: &[&str]) -> Vec<Value> {
        let mut script = Self::start(name, arguments);
        let reading = tokio::task::spawn_blocking(move || {
            let lines = script.lines.by_ref().map(|line| json(&line.unwrap()));
            let lines = lines.collect();
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

/// The ways to declare that Celery has, by the names that the script knows.
fn ways() -> [(&'static str, AmqpBrokerConfig); 4] {
    let mut priorities = AmqpBrokerConfig::default();
    priorities.queue_max_priority = Some(10);
    let mut topic = AmqpBrokerConfig::quorum();
    topic.exchange_type = ExchangeType::Topic;
    [
        ("classic", AmqpBrokerConfig::default()),
        ("priorities", priorities),
        ("quorum", AmqpBrokerConfig::quorum()),
        ("topic", topic),
    ]
}

/// All that is declared in a virtual host, by what it is.
fn declared(vhost: &Vhost) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (what, keys) in [
        (
            "queues",
            &[
                "name",
                "type",
                "durable",
                "auto_delete",
                "exclusive",
                "arguments",
            ][..],
        ),
        (
            "exchanges",
            &[
                "name",
                "type",
                "durable",
                "auto_delete",
                "internal",
                "arguments",
            ],
        ),
        (
            "bindings",
            &[
                "source",
                "destination",
                "destination_type",
                "routing_key",
                "arguments",
            ],
        ),
    ] {
        for entry in vhost.list(what) {
            let own = entry["name"]
                .as_str()
                .is_some_and(|name| name.starts_with("amq."));
            if !own && entry["name"] != "" && entry["source"] != "" {
                let shown: Vec<String> = keys.iter().map(|key| entry[key].to_string()).collect();
                all.insert(format!("{what}: {}", shown.join(" ")));
            }
        }
    }
    all
}

#[tokio::test]
async fn what_is_declared_here_is_what_celery_declares() {
    for (way, config) in ways() {
        let (theirs, ours) = (Vhost::new(), Vhost::new());
        Script::run("declare.py", &[&theirs.url(), way]).await;
        let broker = ours.broker_with(config.clone());
        publish(&broker, "celery", &["1"]).await;
        publish(&broker, "other", &["1"]).await;
        for exchange in ["celery.pidbox", "celeryev"] {
            broker
                .broadcast(exchange, "a.b", message("1"))
                .await
                .unwrap();
        }
        let (theirs, ours) = (declared(&theirs), declared(&ours));
        assert!(theirs.len() >= 6, "{theirs:?}");
        let ours_only: Vec<&String> = ours.difference(&theirs).collect();
        let theirs_only: Vec<&String> = theirs.difference(&ours).collect();
        // Delayed messages find queues here by bindings of our own, which serve
        // direct exchanges too: Celery's bind exchanges other than these.
        let delayed = |entry: &&&String| !entry.contains("celery_delayed_delivery");
        assert_eq!(
            ours_only.iter().filter(delayed).count(),
            0,
            "{way}: {ours_only:#?}"
        );
        let topics = |entry: &&&String| delayed(entry) && !entry.contains("\"#.");
        assert_eq!(
            theirs_only.iter().filter(topics).count(),
            0,
            "{way}: {theirs_only:#?}"
        );
        assert_eq!(ours_only.len(), if config.delayed_delivery { 2 } else { 0 });
    }
}

#[tokio::test]
async fn each_side_declares_what_the_other_has_declared() {
    for (way, config) in ways() {
        let vhost = Vhost::new();
        let broker = vhost.broker_with(config.clone());
        publish(&broker, "celery", &["1"]).await;
        Script::run("declare.py", &[&vhost.url(), way]).await;
        let again = vhost.broker_with(config);
        publish(&again, "other", &["2"]).await;
        assert_eq!(again.len("other").await.unwrap(), 1);
    }
}

fn with_priorities() -> AmqpBrokerConfig {
    let mut config = AmqpBrokerConfig::default();
    config.queue_max_priority = Some(10);
    config
}

#[tokio::test]
async fn what_celerys_client_sends_is_read_and_written_again_as_it_was() {
    let vhost = Vhost::new();
    let broker = vhost.broker_with(with_priorities());
    let sent = Script::run("send.py", &[&vhost.url()]).await.remove(0);
    let ids: Vec<&str> = sent["ids"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let mut consumer = consume(&broker, &["q"], 10, NEVER).await;
    let mut requests = Vec::new();
    let mut got = Vec::new();
    let mut batch = Vec::new();
    for _ in 0..6 {
        let delivery = next(&mut consumer).await;
        assert!(!delivery.redelivered);
        let reply_to = delivery.message.properties.reply_to.clone().unwrap();
        assert_eq!(reply_to.as_str(), sent["oid"]);
        got.push(id(&delivery));
        let info = DeliveryInfo::default();
        requests.push(Request::decode(&delivery.message, info).unwrap());
        batch.push(to("again", delivery.message.clone()));
        assert_eq!(ack(&broker, &delivery).await, Settled::Done);
    }
    // The urgent one comes first.
    let order: Vec<&str> = [2, 0, 1, 3, 4, 5].map(|place| ids[place]).into();
    assert_eq!(got, order);
    let [urgent, plain, full, slow, first, zipped] = &requests[..] else {
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
    assert_eq!(full.headers.timelimit, (Some(10.0), Some(5.0)));
    let mine = json!({"deep": [1.5, null, true, 3_000_000_000i64]});
    assert_eq!(full.headers.extra["mine"], mine);
    assert_eq!(
        (urgent.properties.priority, slow.properties.priority),
        (Some(9), Some(0))
    );
    assert_eq!(
        first.embed.chain.as_ref().unwrap()[0].open().unwrap().task,
        "second"
    );
    assert_eq!(zipped.args, [json!((0..1000).collect::<Vec<_>>())]);

    // Sent once more from here and once more from there: Python sees no difference,
    // but for the body that was unpacked.
    batch.pop();
    broker.publish(batch).await.unwrap();
    let ours = Script::run("take.py", &[&vhost.url(), "again"]).await;
    Script::run("send.py", &[&vhost.url()]).await;
    drop(consumer);
    let second = vhost.broker_with(with_priorities());
    until("all are back in the queue", || async {
        second.len("q").await.unwrap() == 6
    })
    .await;
    let theirs = Script::run("take.py", &[&vhost.url(), "q"]).await;
    assert_eq!(ours.len(), 5);
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(
            without_ids(&ours["properties"]),
            without_ids(&theirs["properties"])
        );
        assert_eq!(shape(&ours["properties"]), shape(&theirs["properties"]));
    }
}

/// Properties without what differs from one call to the next.
fn without_ids(properties: &Value) -> Value {
    let mut properties = properties.clone();
    for key in ["correlation_id", "reply_to", "expiration"] {
        if let Some(value) = properties.get_mut(key) {
            *value = json!("set");
        }
    }
    let headers = properties["application_headers"].as_object_mut().unwrap();
    for key in ["id", "root_id", "origin"] {
        headers.insert(key.to_owned(), json!("set"));
    }
    properties
}

/// The type of each value, as Python took it off the wire.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), shape(v))).collect(),
        Value::Array(items) => items.iter().map(shape).collect(),
        Value::Number(number) if number.is_f64() => json!("float"),
        Value::Number(_) => json!("int"),
        Value::String(_) => json!("text"),
        other => other.clone(),
    }
}

#[tokio::test]
async fn a_ping_of_celerys_remote_control_is_heard_and_answered() {
    let vhost = Vhost::new();
    let broker = vhost.broker();
    let mut commands = broker.subscribe("celery.pidbox").await.unwrap();
    let url = vhost.url();
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
    let message = Message {
        headers: Headers {
            extra: ticket.into_iter().collect(),
            ..Headers::default()
        },
        properties: Properties::default(),
        body: json!({"rust@host": {"ok": "pong"}}).to_string().into(),
    };
    broker
        .publish(vec![Outgoing { to, message }])
        .await
        .unwrap();
    let lines = python.await.unwrap();
    assert_eq!(lines[0], json!([{"rust@host": {"ok": "pong"}}]));
}

#[tokio::test]
async fn an_event_that_is_broadcast_here_is_heard_by_celery() {
    let vhost = Vhost::new();
    let broker = vhost.broker();
    let python = Script::start("events.py", &[&vhost.url()]);
    let (python, line) = python.line().await;
    assert_eq!(line, "ready");
    until("celery listens", || async {
        let bindings = vhost.list("bindings");
        bindings
            .iter()
            .any(|binding| binding["source"] == "celeryev")
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
