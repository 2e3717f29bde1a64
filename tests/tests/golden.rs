//! What we read and write is what Celery 5.7.0 reads and writes: the captures
//! of `tests/golden/capture.py`, read, written again, and made anew.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

#[path = "golden/canvases.rs"]
mod canvases;
#[path = "golden/capture.rs"]
mod capture;
#[path = "golden/differences.rs"]
mod differences;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use canvas_core::broker::Outgoing;
use canvas_core::protocol::{DeliveryInfo, Headers, Properties};
use canvas_core::{
    Arguments, Ctx, Effect, Env, Message, Request, ResultTree, Signature, Task, TaskError,
    TaskMeta, TaskOptions, advance, parse_time,
};
use canvases::{Canvas, PYTHON_ONLY, canvases, t0};
use capture::{CapturedCanvas, CapturedMessage, SameIds, compare_texts, value};
use differences::Difference;
use serde_json::{Map, Value, json};

/// The constants of `capture.py`.
const ORIGIN: &str = "gen1@golden";
const THREAD_OID: &str = "11111111-1111-4111-8111-111111111111";

/// Fails with all that is wrong, not just the first.
fn report(wrong: Vec<(String, String)>) {
    let text: Vec<String> = wrong
        .iter()
        .map(|(name, what)| format!("{name}\n  {what}"))
        .collect();
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        text.join("\n")
    );
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

// ---- reading and writing what was captured ----------------------------------

/// Captures with integers of more than 64 bits, which become floats here.
const TOO_LARGE: [&str; 2] = ["arg_large_int", "success_large_int"];

/// Takes a difference for granted where there must be one.
fn but_for_large(name: &str, compared: Result<(), String>) -> Result<(), String> {
    match (TOO_LARGE.contains(&name), compared) {
        (false, compared) => compared,
        (true, Ok(())) => Err("no longer differs".to_owned()),
        (true, Err(what)) if what.contains("18446744073709551616") => Ok(()),
        (true, Err(what)) => Err(what),
    }
}

#[test]
fn captured_signatures_are_written_as_they_were_read() {
    let captured = capture::signatures();
    assert!(captured.len() >= 40);
    let mut wrong = Vec::new();
    for entry in captured {
        let signature = Signature::from_json(entry.signature.get().as_bytes()).unwrap();
        let written = serde_json::to_string(&signature).unwrap();
        let same = compare_texts(&written, entry.signature.get());
        if let Err(what) = but_for_large(&entry.name, same) {
            wrong.push((entry.name, what));
        }
    }
    report(wrong);
}

#[test]
fn signatures_are_equal_when_they_say_the_same() {
    let mut seen: BTreeMap<String, Signature> = BTreeMap::new();
    for entry in capture::signatures() {
        let read = || Signature::from_value(value(&entry.signature)).unwrap();
        let (one, other) = (read(), read());
        assert_eq!(one, other, "{}", entry.name);
        assert_eq!(hash(&one), hash(&other), "{}", entry.name);
        // The text as we write it is the canonical form of what was said.
        let text = serde_json::to_string(&one).unwrap();
        seen.insert(text, one);
    }
    assert!(seen.len() >= 150, "{} different ones", seen.len());
    let different: Vec<&Signature> = seen.values().collect();
    for (i, one) in different.iter().enumerate() {
        for other in &different[i + 1..] {
            assert_ne!(one, other);
        }
    }
}

#[test]
fn what_is_unknown_in_a_signature_is_kept() {
    let dict = json!({
        "task": "tasks.add", "args": [], "kwargs": {},
        "options": { "queue": "hi", "from_the_future": { "a": [1] } },
        "subtask_type": null, "immutable": false, "chord_size": 3, "also_new": [true],
    });
    let signature = Signature::from_value(dict.clone()).unwrap();
    assert_eq!(signature.extra["also_new"], json!([true]));
    assert_eq!(signature.chord_size, Some(3));
    assert_eq!(signature.to_value().to_string(), dict.to_string());
}

/// The message as a driver hands it to us.
fn message(captured: &CapturedMessage) -> Message {
    let Value::Object(headers) = value(&captured.headers) else {
        panic!("headers are an object")
    };
    let Value::Object(mut properties) = captured.properties.clone() else {
        panic!("properties are an object")
    };
    // The transport's own.
    for key in ["delivery_info", "delivery_tag", "body_encoding"] {
        assert!(properties.shift_remove(key).is_some(), "{key}");
    }
    let mut text = |key: &str| match properties.shift_remove(key)? {
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    };
    let properties = Properties {
        correlation_id: text("correlation_id").map(Into::into),
        reply_to: text("reply_to").map(Into::into),
        priority: text("priority").map(|n| n.parse().unwrap()),
        delivery_mode: text("delivery_mode").unwrap().parse().unwrap(),
        expiration: text("expiration").map(|n| n.parse().unwrap()),
        content_type: captured.content_type.clone().into(),
        content_encoding: captured.content_encoding.clone().into(),
        extra: properties.into(),
    };
    Message {
        headers: Headers::from_map(headers),
        properties,
        body: captured.body.get().to_owned().into(),
    }
}

/// Messages that are refused, and why.
const UNREADABLE: [(&str, &str); 2] = [
    ("opt_serializer_pickle", "only application/json is accepted"),
    ("opt_compression", "compressed"),
];

#[test]
fn captured_messages_are_written_as_they_were_read() {
    let mut wrong = Vec::new();
    let mut count = 0;
    let of_protocol = Headers::default().to_map();
    for canvas in capture::messages() {
        for captured in &canvas.messages {
            count += 1;
            let read = message(captured);
            // All of the protocol's headers went into fields, not past them.
            assert_eq!(read.headers.problem, None, "{}", canvas.name);
            let left_over = read
                .headers
                .extra
                .keys()
                .find(|key| of_protocol.contains_key(*key));
            assert_eq!(left_over, None, "{}", canvas.name);
            let request = Request::decode(&read, DeliveryInfo::default());
            if let Some((_, why)) = UNREADABLE.iter().find(|(name, _)| *name == canvas.name) {
                let error = request.unwrap_err().to_string();
                assert!(error.contains(why), "{}: {error}", canvas.name);
                continue;
            }
            let request = request.unwrap();
            let written = request.encode().unwrap();
            let body = std::str::from_utf8(&written.body).unwrap();
            let checks = [
                but_for_large(&canvas.name, compare_texts(body, captured.body.get())),
                compare_headers(&written.headers, captured),
            ];
            assert_eq!(written.properties, read.properties);
            assert_eq!(request.id, written.properties.correlation_id.unwrap());
            for what in checks.into_iter().filter_map(Result::err) {
                wrong.push((canvas.name.clone(), what));
            }
        }
    }
    report(wrong);
    assert!(count >= 300, "{count} messages");
}

/// All headers are there, in Celery's order, and say the same. Times are
/// written in UTC, whatever zone they were given in.
fn compare_headers(ours: &Headers, captured: &CapturedMessage) -> Result<(), String> {
    let ours = serde_json::to_string(&ours.to_map()).unwrap();
    let Value::Object(mut theirs) = value(&captured.headers) else {
        panic!("headers are an object")
    };
    let mut in_utc = false;
    for key in ["eta", "expires"] {
        if let Some(time) = parse_time(&theirs[key]) {
            let text = canvas_core::format_time(time);
            in_utc |= theirs[key] != text;
            theirs.insert(key.to_owned(), text.into());
        }
    }
    if in_utc {
        return compare_texts(&ours, &serde_json::to_string(&theirs).unwrap());
    }
    compare_texts(&ours, captured.headers.get())
}

#[test]
fn captured_results_are_written_as_they_were_read() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in capture::results() {
        count += 1;
        if entry.name.starts_with("taskset") {
            let stored = value(&entry.meta);
            let tree = ResultTree::from_value(&stored["result"]).unwrap();
            assert_eq!(json!({ "result": tree }), stored, "{}", entry.name);
            continue;
        }
        let meta = TaskMeta::from_json(entry.meta.get().as_bytes()).unwrap();
        let written = String::from_utf8(meta.to_json().unwrap()).unwrap();
        let same = compare_texts(&written, entry.meta.get());
        if let Err(what) = but_for_large(&entry.name, same) {
            wrong.push((entry.name, what));
        }
    }
    report(wrong);
    assert!(count >= 40, "{count} results");
}

#[test]
fn captured_exceptions_read_as_python_shows_them() {
    let shown: BTreeMap<String, String> = capture::results()
        .into_iter()
        .filter(|entry| !entry.name.starts_with("taskset"))
        .filter_map(|entry| {
            let meta = TaskMeta::from_json(entry.meta.get().as_bytes()).unwrap();
            let exception = meta.exception()?;
            Some((
                entry.name,
                format!("{}.{}", exception.exc_module, exception.repr()),
            ))
        })
        .collect();
    let deliberate = "builtins.ValueError('deliberate', 42)";
    let revoked = "celery.exceptions.TaskRevokedError('revoked')";
    let want = [
        ("extended_failure", deliberate),
        ("extended_revoked", revoked),
        ("failure", deliberate),
        (
            "failure_chord_error",
            "celery.exceptions.ChordError(\"Dependency 00000000-0000-4000-8000-000000000001 \
             raised ValueError('deliberate', 42)\")",
        ),
        (
            "failure_custom_class",
            "t.integration.tasks.ExpectedException('message', 1)",
        ),
        ("failure_group_and_parent", "builtins.ValueError('x')"),
        (
            "failure_nested_class",
            "t.integration.tasks.Outer.Inner('message')",
        ),
        ("failure_no_args", "builtins.KeyError()"),
        ("failure_no_traceback", deliberate),
        (
            "failure_not_registered",
            "celery.exceptions.NotRegistered('tasks.missing')",
        ),
        (
            "failure_soft_time_limit",
            "billiard.exceptions.SoftTimeLimitExceeded()",
        ),
        (
            "failure_time_limit",
            "billiard.exceptions.TimeLimitExceeded(1)",
        ),
        (
            "failure_unserialisable_args",
            "builtins.ValueError('x', '<NotJson>', 1)",
        ),
        (
            "failure_worker_lost",
            "billiard.exceptions.WorkerLostError('Worker exited prematurely: signal 9 (SIGKILL) Job: 0.')",
        ),
        ("retry", deliberate),
        ("revoked", revoked),
        (
            "revoked_expired",
            "celery.exceptions.TaskRevokedError('expired')",
        ),
        ("revoked_no_request", revoked),
        (
            "revoked_terminated",
            "celery.exceptions.TaskRevokedError('terminated')",
        ),
    ];
    let want = want.map(|(name, text)| (name.to_owned(), text.to_owned()));
    assert_eq!(shown, BTreeMap::from(want));
}

// ---- making what was captured -----------------------------------------------

#[test]
fn every_capture_is_built_here_or_cannot_be() {
    let captured: BTreeSet<String> = capture::signatures().into_iter().map(|e| e.name).collect();
    let built: Vec<&str> = canvases().iter().map(|canvas| canvas.name).collect();
    let python_only = PYTHON_ONLY.iter().map(|(name, why)| {
        assert!(!why.is_empty());
        *name
    });
    let all: Vec<&str> = built.iter().copied().chain(python_only).collect();
    let names: BTreeSet<String> = all.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(names.len(), all.len(), "a name is there twice");
    assert_eq!(names, captured);
    assert!(built.len() >= 40);
}

#[test]
fn what_is_built_here_serialises_as_in_celery() {
    let captured: BTreeMap<String, Value> = capture::signatures()
        .into_iter()
        .map(|entry| (entry.name, value(&entry.signature)))
        .collect();
    let ours = |canvas: &Canvas| canvas.canvas.to_value();
    let found = differences::of_signatures();
    report(compare_all(&canvases(), &captured, &ours, &found));
}

#[test]
fn what_is_applied_here_sends_the_messages_of_celery() {
    let app = app();
    let mut canvases = canvases();
    let mut captured = BTreeMap::new();
    for entry in capture::messages() {
        let canvas = canvases.iter().find(|canvas| canvas.name == entry.name);
        if let Some(canvas) = canvas {
            // What the capture says of how it was made holds for ours too.
            assert_eq!(
                canvas.applied.is_some(),
                entry.apply.is_some(),
                "{}",
                entry.name
            );
            assert_eq!(
                canvas.setting.is_some(),
                entry.conf.is_some(),
                "{}",
                entry.name
            );
            captured.insert(entry.name.clone(), captured_run(&entry));
        }
    }
    for (name, why) in differences::REFUSED {
        let refused = canvases
            .iter()
            .position(|canvas| canvas.name == name)
            .unwrap();
        let canvas = canvases.remove(refused);
        let error = apply(&app, &canvas).unwrap_err().to_string();
        assert!(error.contains(why), "{name}: {error}");
    }
    let not_sent: Vec<&str> = canvases
        .extract_if(.., |canvas| !captured.contains_key(canvas.name))
        .map(|canvas| canvas.name)
        .collect();
    // Celery's client checks arguments, so these were not applied.
    assert_eq!(not_sent, ["task_partial_unapplied", "chord_header_chain"]);
    let ours = |canvas: &Canvas| run(&app, canvas);
    let found = differences::of_messages();
    report(compare_all(&canvases, &captured, &ours, &found));
}

/// Compares each canvas with what Celery made of it, changed by the differences
/// that are listed for it. A difference that makes none is wrong as well.
fn compare_all(
    canvases: &[Canvas],
    captured: &BTreeMap<String, Value>,
    ours: &dyn Fn(&Canvas) -> Value,
    differences: &[Difference],
) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    for difference in differences {
        assert!(!difference.why.is_empty());
        for name in &difference.canvases {
            assert!(
                canvases.iter().any(|canvas| canvas.name == *name),
                "no such canvas: {name}"
            );
        }
    }
    for canvas in canvases {
        let ours = ours(canvas);
        let listed: Vec<&Difference> = differences
            .iter()
            .filter(|difference| difference.canvases.contains(&canvas.name))
            .collect();
        let compare = |without: Option<usize>| {
            let mut theirs = captured[canvas.name].clone();
            for (i, difference) in listed.iter().enumerate() {
                if Some(i) != without {
                    (difference.edit)(&mut theirs);
                }
            }
            SameIds::default().compare(&ours, &theirs, "")
        };
        if let Err(what) = compare(None) {
            wrong.push((canvas.name.to_owned(), what));
        }
        for (i, difference) in listed.iter().enumerate() {
            if compare(Some(i)).is_ok() {
                let what = format!("no longer differs in this: {}", difference.why);
                wrong.push((canvas.name.to_owned(), what));
            }
        }
    }
    wrong
}

/// A task of `capture.py`: only its name and options matter.
struct Named(&'static str);

#[async_trait]
impl Task for Named {
    fn name(&self) -> &str {
        self.0
    }

    fn options(&self) -> TaskOptions {
        TaskOptions {
            ignore_result: self.0 == "tasks.noop",
            ..TaskOptions::default()
        }
    }

    async fn run(&self, _: Ctx, _: Arguments) -> Result<Value, TaskError> {
        unreachable!("nothing is run here")
    }
}

/// The application of `capture.py`.
fn app() -> canvas_core::Canvas {
    let names = [
        "tasks.add",
        "tasks.mul",
        "tasks.tsum",
        "tasks.identity",
        "tasks.double",
        "tasks.fail",
        "tasks.on_error",
        "tasks.noop",
    ];
    let builder = names
        .into_iter()
        .fold(canvas_core::Canvas::builder(), |builder, name| {
            builder.task_object(Arc::new(Named(name)))
        });
    builder.build().unwrap()
}

fn env(app: &canvas_core::Canvas, canvas: &Canvas) -> Env {
    let mut env = app.env().clone();
    let mut config = (*env.config).clone();
    // As with a broker that Python workers share.
    config.continuation_reference_size = None;
    if let Some(setting) = canvas.setting {
        setting(&mut config);
    }
    env.config = Arc::new(config);
    env.origin = ORIGIN.into();
    env.reply_to = THREAD_OID.into();
    env
}

fn apply(
    app: &canvas_core::Canvas,
    canvas: &Canvas,
) -> canvas_core::Result<(Vec<Effect>, ResultTree)> {
    let env = env(app, canvas);
    match &canvas.applied {
        None => advance::apply(&env, canvas.canvas.clone(), &[], &Map::new(), t0()),
        Some(given) => advance::apply(&env, given.canvas.clone(), &given.args, &given.kwargs, t0()),
    }
}

/// What is sent for a canvas, in the form of the capture.
fn run(app: &canvas_core::Canvas, canvas: &Canvas) -> Value {
    let (effects, tree) = apply(app, canvas).unwrap();
    let messages: Vec<Value> = effects
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::Publish(outgoing) => Some(sent(&outgoing)),
            _ => None,
        })
        .collect();
    json!({ "messages": messages, "result": tree })
}

fn sent(outgoing: &Outgoing) -> Value {
    let message = &outgoing.message;
    let properties = &message.properties;
    let mut all = (*properties.extra).clone();
    all.insert(
        "correlation_id".to_owned(),
        json!(properties.correlation_id),
    );
    all.insert("reply_to".to_owned(), json!(properties.reply_to));
    all.insert("delivery_mode".to_owned(), json!(properties.delivery_mode));
    // Kombu writes 0 where there is none.
    all.insert(
        "priority".to_owned(),
        json!(properties.priority.unwrap_or(0)),
    );
    if let Some(ms) = properties.expiration {
        all.insert("expiration".to_owned(), json!(ms.to_string()));
    }
    let mut body: Value = serde_json::from_slice(&message.body).unwrap();
    drop_null_options(&mut body);
    json!({
        "headers": message.headers.to_map(),
        "properties": all,
        "body": body,
        "exchange": &*outgoing.to.exchange,
        "routing_key": &*outgoing.to.routing_key,
        "content-type": properties.content_type,
        "content-encoding": properties.content_encoding,
    })
}

/// The capture in the form of [`run`].
fn captured_run(entry: &CapturedCanvas) -> Value {
    let messages: Vec<Value> = entry
        .messages
        .iter()
        .map(|message| {
            let mut properties = message.properties.clone();
            if let Some(map) = properties.as_object_mut() {
                let destination = json!({
                    "exchange": message.exchange, "routing_key": message.routing_key,
                });
                assert_eq!(map.shift_remove("delivery_info"), Some(destination));
                map.shift_remove("delivery_tag");
                map.shift_remove("body_encoding");
            }
            let mut body = value(&message.body);
            drop_null_options(&mut body);
            json!({
                "headers": value(&message.headers),
                "properties": properties,
                "body": body,
                "exchange": message.exchange,
                "routing_key": message.routing_key,
                "content-type": message.content_type,
                "content-encoding": message.content_encoding,
            })
        })
        .collect();
    json!({ "messages": messages, "result": entry.result })
}

/// An option that is null is one that is not set.
fn drop_null_options(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(drop_null_options),
        Value::Object(map) => {
            if map.contains_key("subtask_type")
                && let Some(Value::Object(options)) = map.get_mut("options")
            {
                options.retain(|_, value| !value.is_null());
            }
            map.values_mut().for_each(drop_null_options);
        }
        _ => {}
    }
}

// ---- protocol version 1 -----------------------------------------------------

/// A version 1 message has no headers of its own.
fn version_1(body: &Value) -> Message {
    Message {
        headers: Headers::from_map(Map::new()),
        properties: Properties::default(),
        body: body.to_string().into(),
    }
}

fn read(message: &Message) -> Request {
    Request::decode(message, DeliveryInfo::default()).unwrap()
}

/// What every request says, whatever version it came in.
fn said(request: &Request) -> Value {
    let headers = &request.headers;
    json!({
        "id": request.id,
        "task": &*request.task,
        "args": request.args,
        "kwargs": request.kwargs,
        "embed": request.embed,
        "eta": headers.eta.map(canvas_core::format_time),
        "expires": headers.expires.map(canvas_core::format_time),
        "group": headers.group,
        "group_index": headers.group_index,
        "retries": request.retries(),
        "timelimit": headers.timelimit,
        "root_id": request.root_id(),
        "in_chord": request.is_in_chord(),
    })
}

/// The request that a message of version 2 with these headers and this body is.
fn version_2(headers: Value, body: &Value) -> Request {
    let Value::Object(headers) = headers else {
        panic!("headers are an object")
    };
    read(&Message {
        headers: Headers::from_map(headers),
        properties: Properties::default(),
        body: body.to_string().into(),
    })
}

#[test]
fn a_version_1_message_says_what_the_captured_call_says() {
    let request = read(&version_1(&json!({
        "task": "tasks.add", "id": "00000000-0000-4000-8000-000000000001",
        "args": [2, 2], "kwargs": {}, "group": null, "group_index": null, "retries": 0,
        "eta": null, "expires": null, "utc": true, "callbacks": null, "errbacks": null,
        "timelimit": [null, null], "taskset": null, "chord": null,
    })));
    let captured = capture::messages();
    let plain = captured
        .iter()
        .find(|entry| entry.name == "task_args")
        .unwrap();
    assert_eq!(said(&request), said(&read(&message(&plain.messages[0]))));
}

#[test]
fn a_version_1_message_with_all_options_says_what_version_2_says() {
    let double = Signature::new("tasks.double");
    let on_error = Signature::new("tasks.on_error");
    let request = read(&version_1(&json!({
        "task": "tasks.add", "id": "t", "args": [2], "kwargs": { "y": 3 },
        "group": "g", "group_index": 4, "retries": 2,
        "eta": "2026-01-02T03:04:15.678901+00:00", "expires": "2026-01-02T03:05:05",
        "utc": true, "timelimit": [10, 5], "taskset": "g", "chord": null,
        "callbacks": [double], "errbacks": [on_error],
    })));
    let same = version_2(
        json!({
            "task": "tasks.add", "id": "t", "group": "g", "group_index": 4, "retries": 2,
            "eta": "2026-01-02T03:04:15.678901+00:00", "expires": "2026-01-02T03:05:05+00:00",
            "timelimit": [10, 5], "root_id": "t",
        }),
        &json!([[2], { "y": 3 }, {
            "callbacks": [double], "errbacks": [on_error], "chain": null, "chord": null,
        }]),
    );
    assert_eq!(said(&request), said(&same));
}

#[test]
fn a_version_1_member_of_a_chord_is_one_though_it_has_only_a_taskset() {
    let body = Signature::new("tasks.tsum").task_id("body");
    let request = read(&version_1(&json!({
        "task": "tasks.add", "id": "t", "args": [1, 1], "kwargs": {},
        "taskset": "g", "retries": 0, "eta": null, "expires": null, "utc": true,
        "callbacks": null, "errbacks": null, "timelimit": [null, null], "chord": body,
    })));
    let same = version_2(
        json!({ "task": "tasks.add", "id": "t", "group": "g", "root_id": "t" }),
        &json!([[1, 1], {}, {
            "callbacks": null, "errbacks": null, "chain": null, "chord": body,
        }]),
    );
    assert_eq!(said(&request), said(&same));
    assert!(request.is_in_chord());
}

#[test]
fn a_message_of_neither_version_is_refused_with_what_is_known_of_it() {
    let refused = |body: Value| {
        let error = Request::decode(&version_1(&body), DeliveryInfo::default()).unwrap_err();
        error.to_string()
    };
    let error = refused(json!({ "task": "tasks.add" }));
    assert!(error.contains("needs `task` and `id`"), "{error}");
    let error = refused(json!([[2, 2], {}, {}]));
    assert!(error.contains("protocol 2"), "{error}");
}
