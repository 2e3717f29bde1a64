//! Bad messages on Redis: each ends in a rejection that can be looked at, and
//! in a FAILURE where an id is known, and the worker goes on.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

use std::collections::HashSet;
use std::io;
use std::sync::{Mutex, Once};

use canvas::broker::DeadLetter;
use canvas::{Canvas, ExceptionInfo, Id, Running, State, TaskMeta, WorkerExt, task};
use canvas_backend_redis::{RedisBackend, RedisBackendConfig};
use canvas_broker_redis::{RedisBroker, RedisBrokerConfig};
use canvas_tests::redis_server::{RedisServer, ask};
use canvas_tests::support::{builder, echo, ended, eventually, value};
use redis::AsyncCommands;
use serde_json::{Value, json};

#[task(name = "t.double")]
async fn double(x: i64) -> i64 {
    x * 2
}

/// A worker on a queue of a server of its own.
struct Bed {
    server: RedisServer,
    /// Also what its lines in the log are found by.
    queue: String,
    app: Canvas,
    _worker: Running,
}

impl Bed {
    async fn start() -> Self {
        Self::with_results_in(0).await
    }

    /// With results in another database, a worker does not commit in one step.
    async fn with_results_in(database: u8) -> Self {
        keep_log();
        let server = RedisServer::start();
        let queue = format!("queue-{}", Id::random());
        let broker = RedisBroker::new(&server.url(), RedisBrokerConfig::default()).unwrap();
        let results = format!("{}?db={database}", server.url());
        let backend = RedisBackend::new(&results, RedisBackendConfig::default()).unwrap();
        let app = builder()
            .task::<double>()
            .broker(broker)
            .backend(backend)
            .configure(|config| config.task_default_queue.clone_from(&queue))
            .build()
            .unwrap();
        let worker = app.worker().concurrency(2).start().await.unwrap();
        Self {
            server,
            queue,
            app,
            _worker: worker,
        }
    }

    /// Puts something into the queue, whatever it is.
    async fn push(&self, raw: impl Into<Vec<u8>>) {
        let client = redis::Client::open(self.server.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let pushed = connection.lpush::<_, _, u64>(&self.queue, raw.into()).await;
        pushed.unwrap();
    }

    /// What was rejected, and why: the only one.
    async fn rejected(&self) -> DeadLetter {
        let mut found = Vec::new();
        eventually("a dead letter", async || {
            found = self.app.broker().dead_letters(&self.queue).await.unwrap();
            !found.is_empty()
        })
        .await;
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    async fn failure(&self, id: &str) -> ExceptionInfo {
        let TaskMeta { status, result, .. } = ended(&self.app, &id.into()).await;
        assert_eq!(status, State::Failure);
        ExceptionInfo::from_result(&result)
    }

    /// The worker runs the next task, and has nothing else in its hands.
    async fn goes_on(&self) {
        let next = self.app.apply(echo().arg("fine")).await.unwrap();
        assert_eq!(value(&next).await, json!("fine"));
        eventually("all settled", async || {
            let url = self.server.url();
            let out: u64 = ask(&url, &["HLEN", "unacked"]).await.unwrap();
            let index: u64 = ask(&url, &["ZCARD", "unacked_index"]).await.unwrap();
            let waiting = self.app.broker().len(&self.queue).await.unwrap();
            (out, index, waiting) == (0, 0, 0)
        })
        .await;
    }
}

/// An envelope as kombu writes it.
fn envelope(id: &str, task: &str, body: &[u8]) -> Value {
    json!({
        "body": base64(body),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py", "task": task, "id": id, "root_id": id, "parent_id": null,
            "group": null, "argsrepr": "()", "kwargsrepr": "{}",
        },
        "properties": {
            "correlation_id": id, "reply_to": "", "delivery_mode": 2, "priority": 0,
            "delivery_info": { "exchange": "", "routing_key": "celery" },
            "body_encoding": "base64", "delivery_tag": id,
        },
    })
}

fn call(args: &Value) -> Vec<u8> {
    let embed = json!({ "callbacks": null, "errbacks": null, "chain": null, "chord": null });
    json!([args, {}, embed]).to_string().into_bytes()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let at = |place: usize| u32::from(three.get(place).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            let is_there = place <= three.len();
            text.push(if is_there { letter.into() } else { '=' });
        }
    }
    text
}

/// All that is logged in this process.
static LOGGED: Mutex<Vec<u8>> = Mutex::new(Vec::new());

#[derive(Clone, Copy)]
struct Log;

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOGGED.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn keep_log() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let log = tracing_subscriber::fmt().with_ansi(false);
        log.with_writer(|| Log).init();
    });
}

/// Makes sure that an error was logged that holds all of this.
fn logged(parts: &[&str]) {
    let log = String::from_utf8(LOGGED.lock().unwrap().clone()).unwrap();
    let mut errors = log.lines().filter(|line| line.contains("ERROR"));
    let found = errors.any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(found, "not logged: {parts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_envelope_is_kept_as_it_came() {
    for raw in [
        &b"no json"[..],
        b"",
        b"[1, 2]",
        b"\xff\xfe\x00",
        b"{\"body\": ",
    ] {
        let bed = Bed::start().await;
        bed.push(raw).await;
        let dead = bed.rejected().await;
        assert_eq!(dead.message.body, raw);
        assert!(dead.reason.contains("envelope"), "{}", dead.reason);
        logged(&[&bed.queue, "message rejected", "envelope"]);
        bed.goes_on().await;
    }
}

/// What is done to a good message, the error it ends in, and its reason.
type Case = (&'static str, fn(&mut Value), &'static str, &'static str);

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_fails_its_task() {
    let cases: [Case; 14] = [
        (
            "no body",
            |message| _ = message.as_object_mut().unwrap().remove("body"),
            "DecodeError",
            "body",
        ),
        (
            "bad base64",
            |message| message["body"] = json!("W1tdLCB7fSwge31d!"),
            "DecodeError",
            "no base64",
        ),
        (
            "a body that is no text",
            |message| message["body"] = json!([[], {}, {}]),
            "DecodeError",
            "`body` in the envelope must be text",
        ),
        (
            "bad JSON inside",
            |message| message["body"] = json!(base64(b"[[1, {}, {}]")),
            "DecodeError",
            "body",
        ),
        (
            "too short a body",
            |message| message["body"] = json!(base64(b"[[], {}]")),
            "DecodeError",
            "body",
        ),
        (
            "arguments that are no list",
            |message| message["body"] = json!(base64(b"[{}, {}, {}]")),
            "DecodeError",
            "body",
        ),
        (
            "bytes that are no text",
            |message| message["body"] = json!(base64(b"[[\"\xff\"], {}, {}]")),
            "DecodeError",
            "body",
        ),
        (
            "a pickle",
            |message| {
                message["content-type"] = json!("application/x-python-serialize");
                message["content-encoding"] = json!("binary");
                message["body"] = json!(base64(b"\x80\x05]\x94(]\x94}\x94}\x94e."));
            },
            "ContentDisallowed",
            "application/x-python-serialize",
        ),
        (
            "no type of content",
            |message| _ = message.as_object_mut().unwrap().remove("content-type"),
            "ContentDisallowed",
            "application/data",
        ),
        (
            "an unknown encoding of the body",
            |message| message["properties"]["body_encoding"] = json!("rot13"),
            "DecodeError",
            "rot13",
        ),
        (
            "properties that are no object",
            |message| message["properties"] = json!("none"),
            "DecodeError",
            "`properties` in the envelope",
        ),
        (
            "a header of the wrong type",
            |message| message["headers"]["retries"] = json!("many"),
            "DecodeError",
            "`retries`",
        ),
        (
            "no zlib",
            |message| message["headers"]["compression"] = json!("application/x-gzip"),
            "DecodeError",
            "no application/x-gzip",
        ),
        (
            "an unknown compression",
            |message| message["headers"]["compression"] = json!("application/zstd"),
            "DecodeError",
            "application/zstd",
        ),
    ];
    let twice = cases.iter().flat_map(|case| [(case, 0), (case, 1)]);
    for (&(what, spoil, exc_type, reason), database) in twice {
        let bed = Bed::with_results_in(database).await;
        let id = Id::random();
        let mut message = envelope(id.as_str(), "t.echo", &call(&json!(["x"])));
        spoil(&mut message);
        bed.push(message.to_string()).await;
        let dead = bed.rejected().await;
        assert!(dead.reason.contains(reason), "{what}: {}", dead.reason);
        assert_eq!(dead.message.headers.id, Some(id.clone()), "{what}");
        let failure = bed.failure(id.as_str()).await;
        assert_eq!(&*failure.exc_type, exc_type, "{what}: {failure}");
        assert!(failure.to_string().contains(reason), "{what}: {failure}");
        logged(&[&bed.queue, "message rejected", reason]);
        bed.goes_on().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_an_id_leave_nobody_to_tell() {
    let bed = Bed::start().await;
    let mut message = envelope("1", "t.echo", &call(&json!(["x"])));
    message["headers"].as_object_mut().unwrap().remove("id");
    bed.push(message.to_string()).await;
    let dead = bed.rejected().await;
    assert!(dead.reason.contains("`id` is missing"), "{}", dead.reason);
    assert_eq!(dead.message.headers.task.as_deref(), Some("t.echo"));
    logged(&[&bed.queue, "message rejected", "`id` is missing"]);
    bed.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_nobody_knows_is_kept_and_fails() {
    let bed = Bed::start().await;
    let id = Id::random();
    let message = envelope(id.as_str(), "t.nobody", &call(&json!(["x"])));
    bed.push(message.to_string()).await;
    let dead = bed.rejected().await;
    assert!(dead.reason.contains("t.nobody"), "{}", dead.reason);
    assert_eq!(dead.message.headers.id, Some(id.clone()));
    let failure = bed.failure(id.as_str()).await;
    assert_eq!(&*failure.exc_type, "NotRegistered");
    logged(&[id.as_str(), "t.nobody", "unregistered task"]);
    bed.goes_on().await;
}

/// It was read and run: that is no rejection, but a task that has failed.
#[tokio::test(flavor = "multi_thread")]
async fn arguments_of_the_wrong_type_fail_the_task() {
    let bed = Bed::start().await;
    for args in [json!(["two"]), json!([]), json!([1, 2]), json!([null])] {
        let id = Id::random();
        let message = envelope(id.as_str(), "t.double", &call(&args));
        bed.push(message.to_string()).await;
        let failure = bed.failure(id.as_str()).await;
        assert_eq!(&*failure.exc_type, "TypeError", "{args}: {failure}");
        assert!(failure.to_string().contains("t.double()"), "{failure}");
        logged(&[id.as_str(), "TypeError"]);
    }
    let dead = bed.app.broker().dead_letters(&bed.queue).await.unwrap();
    assert!(dead.is_empty(), "{dead:?}");
    bed.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_20_megabytes_is_run() {
    let bed = Bed::start().await;
    let large = "x".repeat(20_000_000);
    let id = Id::random();
    let message = envelope(id.as_str(), "t.echo", &call(&json!([large])));
    bed.push(message.to_string()).await;
    // Those behind it need not wait for it to be fetched.
    bed.goes_on().await;
    let meta = ended(&bed.app, &id).await;
    assert_eq!(meta.status, State::Success);
    let echoed = meta.result.as_str().map(str::len);
    assert_eq!(echoed, Some(large.len()));
    let dead = bed.app.broker().dead_letters(&bed.queue).await.unwrap();
    assert!(dead.is_empty());
    bed.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_bad_messages_hold_up_no_good_one() {
    let bed = Bed::start().await;
    let goods = (0..50).map(|n| echo().arg(n));
    let mut results = Vec::new();
    for (number, good) in goods.enumerate() {
        bed.push(format!("bad {number}")).await;
        results.push(bed.app.apply(good).await.unwrap());
    }
    for (number, result) in results.iter().enumerate() {
        assert_eq!(value(result).await, json!(number));
    }
    let mut dead = Vec::new();
    eventually("all rejected", async || {
        dead = bed.app.broker().dead_letters(&bed.queue).await.unwrap();
        dead.len() == 50
    })
    .await;
    let kept: HashSet<_> = dead.iter().map(|dead| dead.message.body.to_vec()).collect();
    let sent: HashSet<_> = (0..50).map(|n| format!("bad {n}").into_bytes()).collect();
    assert_eq!(kept, sent);
    bed.goes_on().await;
}
