//! Remote control: what a worker does when it is told, and answers when it is
//! asked, in Celery's words.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use canvas::broker::{ConsumeSpec, Settle};
use canvas::protocol::{Headers, Message, Properties};
use canvas::{Canvas, Id, Running, Signature, State, TaskMeta, WorkerExt};
use canvas_core::CONTROL_EXCHANGE;
use canvas_tests::support::{
    Gate, Log, PATIENCE, add, builder, ended, eventually, id_of, ok, value, work,
};
use canvas_tests::undeferring::Undeferring;
use serde_json::{Value, json};

const NODE: &str = "w1@here";

/// A worker that runs one task at a time.
async fn node(app: &Canvas) -> Running {
    let worker = app.worker().name(NODE).concurrency(1).prefetch(4);
    worker.start().await.unwrap()
}

/// A command as Celery's client sends it, all of whose parts can be changed.
fn command(method: &str, arguments: Value) -> Value {
    json!({
        "method": method, "arguments": arguments, "destination": null,
        "pattern": null, "matcher": null, "ticket": "the-ticket",
        "reply_to": { "exchange": "reply.celery.pidbox", "routing_key": "asker" },
    })
}

async fn tell(app: &Canvas, command: &Value) {
    let headers = Headers {
        extra: [
            ("clock".to_owned(), json!(41)),
            ("expires".to_owned(), json!(0)),
        ]
        .into_iter()
        .collect(),
        ..Headers::default()
    };
    let message = Message {
        headers,
        properties: Properties::default(),
        body: Bytes::from(command.to_string()),
    };
    let told = app.broker().broadcast(CONTROL_EXCHANGE, "", message);
    told.await.unwrap();
}

/// The next reply, and the message that it came in.
async fn reply(app: &Canvas) -> (Value, Message) {
    let spec = ConsumeSpec {
        queues: vec!["asker".into()],
        prefetch: 1,
        lease: PATIENCE,
    };
    let mut consumer = app.broker().consume(spec).await.unwrap();
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await;
    let delivery = next.expect("no reply").unwrap().unwrap();
    let settled = app.broker().settle(&delivery.receipt, Settle::Ack);
    settled.await.unwrap();
    let body: Value = serde_json::from_slice(&delivery.message.body).unwrap();
    (body, delivery.message)
}

/// What the worker answers.
async fn ask(app: &Canvas, method: &str, arguments: Value) -> Value {
    tell(app, &command(method, arguments)).await;
    reply(app).await.0[NODE].clone()
}

#[tokio::test]
async fn a_reply_goes_to_whoever_asked_with_the_ticket_and_a_later_clock() {
    let app = builder().build().unwrap();
    let worker = node(&app).await;
    tell(&app, &command("ping", json!({}))).await;
    let (body, message) = reply(&app).await;
    assert_eq!(body, json!({ NODE: { "ok": "pong" } }));
    let headers = message.headers.to_map();
    assert_eq!(headers["ticket"], "the-ticket");
    assert!(headers["clock"].as_u64() > Some(41), "{headers:?}");
    // No field of a task: Celery would take it for one.
    assert_eq!(headers.len(), 2);
    worker.stop().await;
}

#[tokio::test]
async fn only_the_nodes_that_are_meant_answer() {
    let app = builder().build().unwrap();
    let worker = node(&app).await;
    let to = |key: &str, value: Value| {
        let mut command = command("clock", json!({}));
        command[key] = value;
        command
    };
    let mut for_others = to("pattern", json!("x*"));
    for_others["matcher"] = json!("glob");
    tell(&app, &for_others).await;
    tell(&app, &to("destination", json!(["w2@here", "w3@here"]))).await;
    let mut for_it = to("pattern", json!("w?@*"));
    for_it["matcher"] = json!("glob");
    for_it["ticket"] = json!("1");
    let mut also = to("destination", json!(["w2@here", NODE]));
    also["ticket"] = json!("2");
    for (command, ticket) in [(for_it, "1"), (also, "2")] {
        tell(&app, &command).await;
        let (_, message) = reply(&app).await;
        assert_eq!(message.headers.extra["ticket"], ticket);
    }
    worker.stop().await;
}

#[tokio::test]
async fn what_a_worker_cannot_do_is_answered_with_the_error_that_celery_gives() {
    let app = builder().build().unwrap();
    let worker = node(&app).await;
    let answer = ask(&app, "no_such_thing", json!({})).await;
    assert_eq!(answer, json!({ "error": "KeyError('no_such_thing')" }));
    let answer = ask(&app, "revoke", json!({})).await;
    let text = answer["error"].as_str().unwrap();
    assert!(
        text.starts_with("TypeError(") && text.contains("'task_id'"),
        "{text}"
    );
    // And it goes on.
    assert_eq!(ask(&app, "ping", json!({})).await, json!({ "ok": "pong" }));
    worker.stop().await;
}

#[tokio::test]
async fn what_is_no_command_is_passed_over() {
    let app = builder().build().unwrap();
    let worker = node(&app).await;
    for nonsense in [json!([]), json!({ "method": 1 }), json!("ping")] {
        tell(&app, &nonsense).await;
    }
    assert_eq!(ask(&app, "ping", json!({})).await, json!({ "ok": "pong" }));
    worker.stop().await;
}

#[tokio::test]
async fn a_command_that_wants_no_reply_gets_none() {
    let app = builder().build().unwrap();
    let worker = node(&app).await;
    let mut cast = command("ping", json!({}));
    cast["reply_to"] = Value::Null;
    tell(&app, &cast).await;
    assert_eq!(ask(&app, "ping", json!({})).await, json!({ "ok": "pong" }));
    assert_eq!(app.broker().len("asker").await.unwrap(), 0);
    worker.stop().await;
}

#[tokio::test]
async fn tasks_are_listed_by_how_far_they_have_come() {
    let (gate, started) = (Gate::new(), Log::new());
    let app = builder()
        .task_object(gate.task("held", &started))
        .build()
        .unwrap();
    let worker = node(&app).await;
    let mut running = Signature::new("held").arg(1).kwarg("k", "v").priority(3);
    let mut waiting = ok(2);
    running.freeze().unwrap();
    waiting.freeze().unwrap();
    let result = app.apply(running.clone()).await.unwrap();
    started.reaches(1).await;
    app.apply(waiting.clone()).await.unwrap();
    eventually("the second task to be taken", async || {
        !ask(&app, "reserved", json!({})).await[0].is_null()
    })
    .await;

    let active = ask(&app, "active", json!({})).await;
    assert_eq!(active.as_array().unwrap().len(), 1);
    let active = &active[0];
    assert_eq!(active["id"], json!(id_of(&running)));
    assert_eq!(
        (&active["name"], &active["type"]),
        (&json!("held"), &json!("held"))
    );
    assert_eq!(
        (&active["args"], &active["kwargs"]),
        (&json!([1]), &json!({"k": "v"}))
    );
    assert_eq!(active["hostname"], NODE);
    assert_eq!(active["worker_pid"], std::process::id());
    assert!(active["time_start"].as_f64() > Some(1.6e9), "{active}");
    let info = json!({
        "exchange": "", "routing_key": "celery", "priority": 3, "redelivered": false,
    });
    assert_eq!(active["delivery_info"], info);
    let safe = ask(&app, "active", json!({ "safe": true })).await;
    assert_eq!(safe[0]["args"], "(1,)");
    assert_eq!(safe[0]["kwargs"], "{'k': 'v'}");

    let reserved = ask(&app, "reserved", json!({})).await;
    assert_eq!(reserved[0]["id"], json!(id_of(&waiting)));
    assert_eq!(reserved[0]["time_start"], Value::Null);
    let ids = json!([id_of(&running), id_of(&waiting), "unknown"]);
    let query = ask(&app, "query_task", json!({ "ids": ids })).await;
    assert_eq!(query.as_object().unwrap().len(), 2);
    assert_eq!(query[id_of(&running).as_str()][0], "active");
    assert_eq!(query[id_of(&waiting).as_str()][0], "reserved");

    gate.open();
    value(&result).await;
    eventually("everything to end", async || {
        let active = ask(&app, "active", json!({})).await;
        let reserved = ask(&app, "reserved", json!({})).await;
        active == json!([]) && reserved == json!([])
    })
    .await;
    let stats = ask(&app, "stats", json!({})).await;
    assert_eq!(stats["total"], json!({ "held": 1, "t.ok": 1 }));
    worker.stop().await;
}

#[tokio::test]
async fn the_registered_tasks_are_listed_with_what_is_asked_of_them() {
    let app = builder().build().unwrap();
    let worker = node(&app).await;
    let names = ask(&app, "registered", json!({ "taskinfoitems": [] })).await;
    let want = ["t.add", "t.args", "t.echo", "t.fail", "t.ok", "t.sum"];
    assert_eq!(names, json!(want));
    let asked = json!({ "taskinfoitems": ["max_retries", "ignore_result", "nonsense"] });
    let with = ask(&app, "registered", asked).await;
    assert_eq!(with[0], "t.add [max_retries=3 ignore_result=False]");
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_tells_of_itself() {
    let app = builder()
        .configure(|config| config.task_acks_late = false)
        .build()
        .unwrap();
    let worker = app.worker().name(NODE).concurrency(3).queues(["a", "b"]);
    let worker = worker.start().await.unwrap();
    let stats = ask(&app, "stats", json!({})).await;
    assert_eq!(stats["pid"], std::process::id());
    assert_eq!(stats["pool"]["max-concurrency"], 3);
    assert_eq!(stats["prefetch_count"], 12);
    assert!(stats["clock"].as_str().unwrap().parse::<u64>().unwrap() > 41);
    let queues = ask(&app, "active_queues", json!({})).await;
    let names: Vec<&Value> = queues
        .as_array()
        .unwrap()
        .iter()
        .map(|q| &q["name"])
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(queues[0]["exchange"]["type"], "direct");
    let changed = ask(&app, "conf", json!({ "with_defaults": false })).await;
    assert_eq!(changed["task_acks_late"], false);
    assert!(changed.get("task_default_queue").is_none(), "{changed}");
    let all = ask(&app, "conf", json!({ "with_defaults": true })).await;
    assert_eq!(all["task_default_queue"], "celery");
    let report = ask(&app, "report", json!({})).await;
    assert!(
        report["ok"].as_str().unwrap().contains("memory://"),
        "{report}"
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_task_that_is_called_off_is_revoked_at_once_and_never_runs() {
    let (gate, log) = (Gate::new(), Log::new());
    let app = builder()
        .task_object(gate.task("held", &log))
        .task_object(log.task("noted"))
        .build()
        .unwrap();
    let worker = node(&app).await;
    let result = app.apply(Signature::new("held").arg(1)).await.unwrap();
    log.reaches(1).await;
    let mut called_off = Signature::new("noted").arg(2);
    called_off.freeze().unwrap();
    let id = id_of(&called_off);
    app.apply(called_off).await.unwrap();
    let answer = ask(&app, "revoke", json!({ "task_id": id })).await;
    assert_eq!(
        answer,
        json!({ "ok": format!("tasks {{'{id}'}} flagged as revoked") })
    );
    // Stored before the answer: nobody comes across the message meanwhile.
    assert_eq!(
        app.result(id.clone()).meta().await.unwrap().status,
        State::Revoked
    );
    assert_eq!(ask(&app, "revoked", json!({})).await, json!([id]));
    gate.open();
    value(&result).await;
    eventually("the message to be dropped", async || {
        app.broker().len("celery").await.unwrap() == 0
            && ask(&app, "reserved", json!({})).await == json!([])
    })
    .await;
    assert_eq!(log.entries(), [json!(1)]);
    assert_eq!(ended(&app, &id).await.status, State::Revoked);
    worker.stop().await;
}

#[tokio::test]
async fn calling_off_leaves_alone_what_has_a_state_of_its_own() {
    let app = builder().build().unwrap();
    let worker = node(&app).await;
    let states = [
        "STARTED", "PROGRESS", "SUCCESS", "FAILURE", "RETRY", "PENDING",
    ];
    for state in states.iter().filter(|state| **state != "PENDING") {
        let meta = TaskMeta::new(Id::from(*state), State::from(*state));
        app.backend().store(&meta).await.unwrap();
    }
    let answer = ask(&app, "revoke", json!({ "task_id": states })).await;
    assert!(
        answer["ok"]
            .as_str()
            .unwrap()
            .contains("'PROGRESS', 'SUCCESS'")
    );
    for state in states {
        let stored = app.result(state).meta().await.unwrap().status;
        let revoked = ["RETRY", "PENDING"].contains(&state);
        let want = if revoked {
            State::Revoked
        } else {
            State::from(state)
        };
        assert_eq!(stored, want);
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_running_task_is_stopped_only_if_that_is_said() {
    let (gate, started) = (Gate::new(), Log::new());
    let app = builder()
        .task_object(gate.task("held", &started))
        .build()
        .unwrap();
    let worker = node(&app).await;
    let mut sent = Signature::new("held").arg(1);
    sent.freeze().unwrap();
    let id = id_of(&sent);
    app.apply(sent).await.unwrap();
    started.reaches(1).await;
    ask(&app, "revoke", json!({ "task_id": [id] })).await;
    // The state of what runs is for the task to decide.
    assert_eq!(
        app.result(id.clone()).meta().await.unwrap().status,
        State::Pending
    );
    assert_eq!(ask(&app, "active", json!({})).await[0]["id"], json!(id));
    let answer = ask(
        &app,
        "terminate",
        json!({ "task_id": id, "signal": "TERM" }),
    )
    .await;
    assert_eq!(answer, json!({ "ok": format!("terminate: {id}") }));
    let meta = ended(&app, &id).await;
    assert_eq!(meta.status, State::Revoked);
    assert_eq!(meta.exception().unwrap().message(), "terminated");
    let answer = ask(&app, "revoke", json!({ "task_id": "x", "terminate": true })).await;
    assert_eq!(answer, json!({ "ok": "terminate: tasks unknown" }));
    worker.stop().await;
}

#[tokio::test]
async fn tasks_are_called_off_by_a_stamp_that_they_bear() {
    let app = builder().build().unwrap();
    let worker = node(&app).await;
    let headers = json!({ "customer": ["a", 7], "run": "x" });
    let answer = ask(
        &app,
        "revoke_by_stamped_headers",
        json!({ "headers": headers }),
    )
    .await;
    let text = "headers {'customer': ['a', 7], 'run': 'x'} flagged as revoked, but not terminated";
    assert_eq!(answer, json!({ "ok": text }));
    let stamped = |name: &'static str, stamp: Value| {
        let app = app.clone();
        async move {
            let result = app.apply(ok(1).stamp([(name, stamp)])).await.unwrap();
            ended(&app, result.id()).await.status
        }
    };
    assert_eq!(stamped("customer", json!("a")).await, State::Revoked);
    assert_eq!(stamped("customer", json!(7)).await, State::Revoked);
    assert_eq!(stamped("customer", json!(["b", "a"])).await, State::Revoked);
    assert_eq!(stamped("run", json!("x")).await, State::Revoked);
    assert_eq!(stamped("customer", json!("7")).await, State::Success);
    assert_eq!(stamped("run", json!("a")).await, State::Success);
    // And without a stamp.
    assert_eq!(value(&app.apply(add(1)).await.unwrap()).await, json!(1));
    worker.stop().await;
}

#[tokio::test]
async fn running_tasks_are_stopped_by_a_stamp() {
    let (gate, started) = (Gate::new(), Log::new());
    let app = builder()
        .task_object(gate.task("held", &started))
        .build()
        .unwrap();
    let worker = work(&app).await;
    let name = worker.name().to_owned();
    let mut results = Vec::new();
    for customer in ["a", "b"] {
        let sent = Signature::new("held")
            .arg(customer)
            .stamp([("customer", customer)]);
        results.push(app.apply(sent).await.unwrap());
    }
    started.reaches(2).await;
    let arguments = json!({ "headers": { "customer": "a" }, "terminate": true });
    tell(&app, &command("revoke_by_stamped_headers", arguments)).await;
    let answer = reply(&app).await.0[name.as_str()].clone();
    assert_eq!(
        answer,
        json!({ "ok": "headers {'customer': ['a']} revoked" })
    );
    assert_eq!(ended(&app, results[0].id()).await.status, State::Revoked);
    gate.open();
    assert_eq!(value(&results[1]).await, "b");
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_that_starts_learns_what_was_called_off() {
    let app = builder().build().unwrap();
    let worker = node(&app).await;
    ask(&app, "revoke", json!({ "task_id": "one" })).await;
    let hello = json!({ "from_node": "w2@here", "revoked": ["two"] });
    let answer = ask(&app, "hello", hello).await;
    assert_eq!(answer["revoked"], json!(["one", "two"]));
    assert!(answer["clock"].as_u64() > Some(41));
    // Up to Celery 5.6 they come as an object.
    let hello = json!({ "from_node": "w3@here", "revoked": { "three": [1.5, "three"] } });
    let answer = ask(&app, "hello", hello).await;
    assert_eq!(answer["revoked"], json!(["one", "two", "three"]));
    let own = ask(&app, "hello", json!({ "from_node": NODE })).await;
    assert_eq!(own, Value::Null);
    worker.stop().await;
}

#[tokio::test]
async fn what_waits_for_its_time_is_scheduled() {
    // In the worker, where the broker cannot put it off.
    let broker = Arc::new(Undeferring::default());
    let app = builder().broker(broker).build().unwrap();
    let worker = node(&app).await;
    let mut later = ok(1).countdown(Duration::from_secs(3600));
    later.freeze().unwrap();
    let id = id_of(&later);
    app.apply(later).await.unwrap();
    eventually("the task to be held", async || {
        ask(&app, "scheduled", json!({})).await != json!([])
    })
    .await;
    let scheduled = ask(&app, "scheduled", json!({})).await;
    assert_eq!(scheduled[0]["request"]["id"], json!(id));
    assert_eq!(scheduled[0]["priority"], 6);
    let eta = scheduled[0]["eta"].as_str().unwrap();
    assert!(canvas_core::parse_time(&json!(eta)).unwrap() > chrono::Utc::now());
    assert_eq!(ask(&app, "reserved", json!({})).await, json!([]));
    let query = ask(&app, "query_task", json!({ "ids": [id] })).await;
    assert_eq!(query[id.as_str()][0], "scheduled");
    worker.stop().await;
}
