//! The worker: how much it takes, what it gives back, and what it survives.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use canvas::broker::{ConsumeSpec, DeadLetter, Destination, Outgoing, Settle};
use canvas::memory::{MemoryBackend, MemoryBroker};
use canvas::protocol::{Headers, Properties};
use canvas::{
    AsyncResult, Broker, Builder, Canvas, Config, Ctx, Id, Message, Route, Signature, State, Task,
    TaskOptions, WorkerExt, chord, group, task,
};
use canvas_tests::faults::{Fault, Faults};
use canvas_tests::support::{
    Gate, Log, PATIENCE, add, all_end, builder, echo, ended, eventually, fail, failure, ok, sum,
    task as task_of, task_with, value, work,
};
use canvas_tests::undeferring::Undeferring;
use chrono::Utc;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// A lease that ends while a test looks on.
const SHORT: Duration = Duration::from_millis(200);

/// A lease that does not.
const LONG: Duration = Duration::from_secs(3_600);

fn build(builder: Builder) -> Canvas {
    builder.build().expect("memory:// needs nothing")
}

fn leased(lease: Duration) -> impl FnOnce(&mut Config) {
    move |config| config.visibility_timeout = lease
}

async fn apply(app: &Canvas, canvas: impl Into<Signature>) -> AsyncResult {
    app.apply(canvas).await.expect("memory:// takes everything")
}

fn call(task: &str) -> Signature {
    Signature::new(task)
}

async fn waiting(app: &Canvas) -> u64 {
    app.broker().len("celery").await.expect("memory:// answers")
}

async fn dead(app: &Canvas) -> Vec<DeadLetter> {
    let dead = app.broker().dead_letters("celery").await;
    dead.expect("memory:// answers")
}

/// Returns when a lease that began now has ended this many times.
async fn leases_end(app: &Canvas, times: u32) {
    let to = Destination::queue("canary");
    let message = malformed(|_| {});
    app.broker()
        .publish(vec![Outgoing { to, message }])
        .await
        .unwrap();
    let spec = ConsumeSpec {
        queues: vec!["canary".into()],
        prefetch: 1,
        lease: app.config().visibility_timeout,
    };
    let mut consumer = app.broker().consume(spec).await.unwrap();
    loop {
        let delivery = consumer.next().await.unwrap().expect("a message");
        if delivery.deliveries > times {
            app.broker()
                .settle(&delivery.receipt, Settle::Ack)
                .await
                .unwrap();
            return;
        }
    }
}

// How much is taken at a time

#[tokio::test(flavor = "multi_thread")]
async fn as_many_tasks_run_at_a_time_as_allowed_and_no_more() {
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = {
        let (running, most) = (running.clone(), most.clone());
        task_of("counted", move |_, _| {
            let (running, most) = (running.clone(), most.clone());
            async move {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                // The first three wait for each other.
                while most.load(Ordering::SeqCst) < 3 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(Value::Null)
            }
        })
    };
    let app = build(builder().task_object(counted));
    let worker = app
        .worker()
        .concurrency(3)
        .prefetch(20)
        .start()
        .await
        .unwrap();
    let result = apply(&app, group((0..60).map(|_| call("counted")))).await;
    value(&result).await;
    worker.stop().await;
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_start_in_the_order_in_which_they_came() {
    let log = Log::new();
    let app = build(builder().task_object(log.task("note")));
    let result = apply(&app, group((0..200).map(|n| call("note").arg(n)))).await;
    let worker = app
        .worker()
        .concurrency(1)
        .prefetch(20)
        .start()
        .await
        .unwrap();
    value(&result).await;
    worker.stop().await;
    let want: Vec<Value> = (0..200).map(|n| json!([n])).collect();
    assert_eq!(log.entries(), want);
}

/// Runs until it is told that it was called off; notes its id when it begins
/// and when it ends.
fn sentinel(log: &Log) -> Arc<dyn Task> {
    let log = log.clone();
    task_of("sentinel", move |ctx: Ctx, _| {
        let log = log.clone();
        async move {
            log.note(ctx.id().as_str());
            while !ctx.is_revoked() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            log.note(ctx.id().as_str());
            Ok(Value::Null)
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_messages_are_taken_than_the_prefetch_allows() {
    let log = Log::new();
    let app = build(builder().task_object(sentinel(&log)));
    let tasks = (0..12).map(|n| call("sentinel").task_id(n.to_string()));
    let result = apply(&app, group(tasks)).await;
    let worker = app
        .worker()
        .concurrency(3)
        .prefetch(5)
        .start()
        .await
        .unwrap();
    log.reaches(3).await;
    // Each end makes room for one more; each command also takes the worker
    // once around, in which it could take more than it may.
    for ended in 0..3 {
        eventually("the prefetch is used", async || {
            waiting(&app).await <= 7 - ended
        })
        .await;
        assert_eq!(waiting(&app).await, 7 - ended);
        let next = log.entries()[usize::try_from(2 * ended).unwrap()].clone();
        app.revoke(&[next.as_str().unwrap().into()], false)
            .await
            .unwrap();
        log.reaches(usize::try_from(3 + 2 * (ended + 1)).unwrap())
            .await;
        assert!(waiting(&app).await >= 7 - ended - 1);
    }
    let all: Vec<Id> = (0..12).map(|n| Id::from(n.to_string())).collect();
    app.revoke(&all, true).await.unwrap();
    all_end(&result).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_prefetch_follows_from_the_concurrency() {
    let (gate, started) = (Gate::new(), Log::new());
    let app = build(
        builder()
            .task_object(gate.task("slow", &started))
            .configure(|c| c.worker_prefetch_multiplier = 3),
    );
    let result = apply(&app, group((0..10).map(|n| call("slow").arg(n)))).await;
    let worker = app.worker().concurrency(2).start().await.unwrap();
    started.reaches(2).await;
    eventually("six are taken", async || waiting(&app).await == 4).await;
    gate.open();
    value(&result).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_blocking_task_does_not_hold_up_an_async_one_on_the_same_thread() {
    static ASYNC_RAN: std::sync::Mutex<Option<mpsc::Receiver<()>>> = std::sync::Mutex::new(None);
    #[task(name = "blocks")]
    fn blocks() -> bool {
        // There is one async thread only: were this on it, nothing would come.
        let taken = ASYNC_RAN.lock().unwrap().take().expect("it runs once");
        taken.recv_timeout(PATIENCE).is_ok()
    }
    let (sender, receiver) = mpsc::channel();
    *ASYNC_RAN.lock().unwrap() = Some(receiver);
    let beside = task_of("beside", move |_, _| {
        let sender = sender.clone();
        async move {
            tokio::task::yield_now().await;
            Ok(json!(sender.send(()).is_ok()))
        }
    });
    let app = build(builder().task::<blocks>().task_object(beside));
    let worker = app.worker().concurrency(2).start().await.unwrap();
    let blocked = apply(&app, Signature::from(blocks::s())).await;
    assert_eq!(value(&apply(&app, call("beside")).await).await, json!(true));
    assert_eq!(value(&blocked).await, json!(true));
    worker.stop().await;
}

// Leases and acknowledgement

#[tokio::test(flavor = "multi_thread")]
async fn the_task_of_a_killed_worker_comes_back_and_ends_once() {
    let (gate, started) = (Gate::new(), Log::new());
    let log = Log::new();
    let app = build(
        builder()
            .task_object(gate.task("slow", &started))
            .task_object(log.task("note"))
            .configure(leased(SHORT)),
    );
    let first = work(&app).await;
    let result = apply(&app, call("slow").arg("x") | call("note")).await;
    started.reaches(1).await;
    first.kill();
    let second = work(&app).await;
    started.reaches(2).await;
    gate.open();
    assert_eq!(value(&result).await, json!("x"));
    second.stop().await;
    assert_eq!(waiting(&app).await, 0);
    assert_eq!(started.len(), 2);
    assert_eq!(log.entries(), [json!(["x"])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_acknowledged_early_does_not_come_back() {
    let (gate, started) = (Gate::new(), Log::new());
    let early = {
        let (gate, started) = (gate.clone(), started.clone());
        let options = TaskOptions {
            acks_late: Some(false),
            ..TaskOptions::default()
        };
        task_with("early", options, move |_, _| {
            started.note("early");
            let gate = gate.clone();
            async move {
                gate.passed().await;
                Ok(Value::Null)
            }
        })
    };
    let app = build(
        builder()
            .task_object(early)
            .task_object(gate.task("late", &started))
            .configure(leased(SHORT)),
    );
    let first = work(&app).await;
    apply(&app, call("early")).await;
    started.reaches(1).await;
    let late = apply(&app, call("late").arg("late")).await;
    started.reaches(2).await;
    first.kill();
    let second = work(&app).await;
    // It was taken after the other, whose lease would have ended before.
    started.reaches(3).await;
    gate.open();
    value(&late).await;
    second.stop().await;
    assert_eq!(started.entries(), ["early", "late", "late"]);
}

/// A killed worker is not to be asked about anything, so this runs on one
/// thread, where nothing happens while the test looks.
#[tokio::test]
async fn a_killed_worker_puts_nothing_back() {
    let (gate, started) = (Gate::new(), Log::new());
    let app = build(
        builder()
            .task_object(gate.task("slow", &started))
            .configure(leased(LONG)),
    );
    apply(&app, group((0..6).map(|n| call("slow").arg(n)))).await;
    let worker = app
        .worker()
        .concurrency(1)
        .prefetch(4)
        .start()
        .await
        .unwrap();
    started.reaches(1).await;
    eventually("four are taken", async || waiting(&app).await == 2).await;
    worker.kill();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(waiting(&app).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_of_a_long_task_is_renewed_while_it_runs() {
    let (gate, started) = (Gate::new(), Log::new());
    let app = build(
        builder()
            .task_object(gate.task("slow", &started))
            .configure(leased(SHORT)),
    );
    let running = work(&app).await;
    let result = apply(&app, call("slow").arg("x")).await;
    started.reaches(1).await;
    let idle = work(&app).await;
    leases_end(&app, 4).await;
    gate.open();
    assert_eq!(value(&result).await, json!("x"));
    running.stop().await;
    idle.stop().await;
    assert_eq!(started.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_wait_for_a_slot_keep_their_lease() {
    let (gate, started) = (Gate::new(), Log::new());
    let app = build(
        builder()
            .task_object(gate.task("slow", &started))
            .configure(leased(SHORT)),
    );
    let result = apply(&app, group((0..4).map(|n| call("slow").arg(n)))).await;
    let busy = app
        .worker()
        .concurrency(1)
        .prefetch(4)
        .start()
        .await
        .unwrap();
    started.reaches(1).await;
    eventually("all are taken", async || waiting(&app).await == 0).await;
    let idle = work(&app).await;
    leases_end(&app, 4).await;
    assert_eq!(started.len(), 1);
    gate.open();
    value(&result).await;
    busy.stop().await;
    idle.stop().await;
    assert_eq!(started.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_late_end_of_a_lost_lease_leaves_the_next_one_alone() {
    // The first run ends at the first gate, the second run at the second.
    let gates = [Gate::new(), Gate::new()];
    let started = Log::new();
    let slow = {
        let (gates, started) = (gates.clone(), started.clone());
        task_of("slow", move |_, _| {
            started.note("slow");
            let gate = gates[started.len().min(2) - 1].clone();
            async move {
                gate.passed().await;
                Ok(Value::Null)
            }
        })
    };
    let faults = Faults::plan(|call| (call.operation == "broker.renew").then_some(Fault::Lost));
    let app = build(
        builder()
            .task_object(slow)
            .broker(faults.broker(MemoryBroker::new()))
            .configure(leased(SHORT))
            .configure(|c| c.worker_deduplicate_successful_tasks = false),
    );
    let worker = work(&app).await;
    let result = apply(&app, call("slow")).await;
    // Its lease is lost, and the same worker is given it again.
    started.reaches(2).await;
    faults.replan(|_| None);
    gates[0].open();
    value(&result).await;
    eventually("the first run finds its lease gone", async || {
        faults.stale() == 1
    })
    .await;
    leases_end(&app, 4).await;
    assert_eq!(started.len(), 2, "the second lease was not renewed");
    gates[1].open();
    worker.stop().await;
    assert_eq!(waiting(&app).await, 0);
}

/// Runs a task whose worker dies after its result was stored, and before the
/// next step was sent. How often did it run?
async fn runs_of_a_task_that_comes_again(deduplicate: bool) -> usize {
    let log = Log::new();
    let (broker, backend) = (MemoryBroker::new(), Arc::new(MemoryBackend::new()));
    let base = || {
        builder()
            .task_object(log.task("note"))
            .backend(backend.clone())
            .configure(leased(SHORT))
            .configure(|c| c.worker_deduplicate_successful_tasks = deduplicate)
    };
    let faults = Faults::nth("broker.publish", 0, Fault::KilledBefore);
    let mortal = build(base().broker(faults.broker(broker.clone())));
    let app = build(base().broker(Arc::new(broker)));
    let first = work(&mortal).await;
    let result = apply(&app, call("note").arg(1).task_id("a") | add(10)).await;
    faults.killed().await;
    first.kill();
    let stored = ended(&app, &"a".into()).await;
    assert_eq!((stored.status, stored.result), (State::Success, json!(1)));
    let second = work(&app).await;
    assert_eq!(value(&result).await, json!(11));
    second.stop().await;
    assert_eq!(waiting(&app).await, 0);
    log.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_comes_again_after_its_success_is_not_run_but_its_chain_goes_on() {
    assert_eq!(runs_of_a_task_that_comes_again(true).await, 1);
    assert_eq!(runs_of_a_task_that_comes_again(false).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_kills_its_workers_is_put_aside() {
    let started = Log::new();
    let deadly = Gate::new().task("deadly", &started);
    let app = build(
        builder()
            .task_object(deadly)
            .configure(leased(SHORT))
            .configure(|c| c.task_delivery_limit = 2),
    );
    let canvas = chord([call("deadly").task_id("a"), ok(1)], sum()) | echo();
    let result = apply(&app, canvas).await;
    for deaths in 1..=2 {
        let worker = work(&app).await;
        started.reaches(deaths).await;
        worker.kill();
    }
    let worker = work(&app).await;
    let error = failure(&result).await;
    assert!(
        error
            .message()
            .starts_with("Dependency a raised WorkerLostError("),
        "{error}"
    );
    let meta = ended(&app, &"a".into()).await;
    let exception = meta.exception().unwrap();
    assert_eq!(exception.exc_module, "billiard.exceptions");
    assert!(
        exception.message().contains("delivered 2 times"),
        "{exception}"
    );
    worker.stop().await;
    assert_eq!(started.len(), 2);
    let dead = dead(&app).await;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].message.headers.id, Some("a".into()));
    assert!(
        dead[0].reason.contains("delivered 2 times"),
        "{}",
        dead[0].reason
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_and_a_backend_that_come_back_are_waited_for() {
    // Everything that commits fails twice.
    let commits = [
        "broker.publish",
        "broker.settle",
        "backend.store",
        "backend.open_join",
        "backend.arrive",
    ];
    let faults = Faults::plan(move |call| {
        (commits.contains(&call.operation) && call.nth < 2).then_some(Fault::Lost)
    });
    let (broker, backend) = (MemoryBroker::new(), MemoryBackend::new());
    let shaky = build(
        builder()
            .broker(faults.broker(broker.clone()))
            .backend(faults.backend(backend.clone()))
            .configure(leased(SHORT)),
    );
    let app = build(
        builder()
            .broker(Arc::new(broker))
            .backend(Arc::new(backend)),
    );
    let worker = work(&shaky).await;
    let canvas = ok(1) | chord([add(1), add(2)], sum()) | add(10);
    assert_eq!(value(&apply(&app, canvas).await).await, json!(15));
    assert_eq!(faults.faults().len(), 2 * commits.len());
    worker.stop().await;
}

// Later, and too late

/// The broker keeps what is for later, or the worker does.
fn deferring_and_not() -> [Arc<dyn Broker>; 2] {
    [
        Arc::new(MemoryBroker::new()),
        Arc::new(Undeferring::default()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_for_later_do_not_keep_others_from_being_taken() {
    for broker in deferring_and_not() {
        let defers = broker.info().defers;
        let app = build(builder().broker(broker).configure(leased(SHORT)));
        let worker = app
            .worker()
            .concurrency(1)
            .prefetch(1)
            .start()
            .await
            .unwrap();
        for _ in 0..5 {
            apply(&app, ok("later").countdown(LONG)).await;
        }
        let now = apply(&app, ok("now")).await;
        assert_eq!(value(&now).await, json!("now"), "defers: {defers}");
        leases_end(&app, 3).await;
        let again = apply(&app, ok("again")).await;
        assert_eq!(value(&again).await, json!("again"), "defers: {defers}");
        worker.stop().await;
        // Nothing of it is lost.
        assert_eq!(waiting(&app).await, 5, "defers: {defers}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_with_an_eta_runs_when_its_time_has_come() {
    for broker in deferring_and_not() {
        let defers = broker.info().defers;
        let log = Log::new();
        let timed = {
            let log = log.clone();
            task_of("timed", move |ctx, call| {
                let in_time = ctx
                    .request()
                    .headers
                    .eta
                    .is_some_and(|eta| Utc::now() >= eta);
                log.note(json!([call.args[0], in_time]));
                async { Ok(Value::Null) }
            })
        };
        let app = build(
            builder()
                .task_object(timed)
                .broker(broker)
                .configure(leased(SHORT)),
        );
        let worker = work(&app).await;
        let later = |ms| call("timed").arg(ms).countdown(Duration::from_millis(ms));
        let result = apply(&app, group([later(500), later(100), later(300)])).await;
        value(&result).await;
        worker.stop().await;
        let want = [json!([100, true]), json!([300, true]), json!([500, true])];
        assert_eq!(log.entries(), want, "defers: {defers}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_comes_too_late_is_revoked_and_not_run() {
    for broker in deferring_and_not() {
        let log = Log::new();
        let app = build(builder().task_object(log.task("note")).broker(broker));
        let canvas = (call("note").task_id("late").expires_in(Duration::ZERO)) | echo();
        let result = apply(&app, canvas).await;
        // Even its time to run is after its date.
        let never = call("note").countdown(SHORT).expires_in(SHORT / 2);
        let never = apply(&app, never.task_id("never")).await;
        let timely = apply(&app, ok(1).expires_in(LONG)).await;
        let worker = work(&app).await;
        assert_eq!(failure(&result).await.repr(), "TaskRevokedError('expired')");
        assert_eq!(failure(&never).await.repr(), "TaskRevokedError('expired')");
        assert_eq!(value(&timely).await, json!(1));
        for id in ["late", "never"] {
            assert_eq!(ended(&app, &id.into()).await.status, State::Revoked);
        }
        worker.stop().await;
        assert!(log.is_empty());
        assert_eq!(waiting(&app).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_ended_at_its_time_limit() {
    let endless = Gate::new().task("endless", &Log::new());
    let app = build(builder().task_object(endless));
    let worker = app.worker().concurrency(1).start().await.unwrap();
    let limited = call("endless").time_limit(Duration::from_millis(50));
    let error = failure(&apply(&app, limited | echo()).await).await;
    assert_eq!(error.repr(), "TimeLimitExceeded(0.05)");
    assert_eq!(error.exc_module, "billiard.exceptions");
    assert_eq!(value(&apply(&app, ok("next")).await).await, json!("next"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_has_started_says_so_when_asked_to() {
    let (gate, started) = (Gate::new(), Log::new());
    let app = build(
        builder()
            .task_object(gate.task("slow", &started))
            .configure(|c| c.task_track_started = true),
    );
    let worker = app.worker().name("w1@here").start().await.unwrap();
    let result = apply(&app, call("slow").arg(1)).await;
    started.reaches(1).await;
    let meta = result.meta().await.unwrap();
    assert_eq!(meta.status, State::Started);
    assert_eq!(
        meta.result,
        json!({ "pid": std::process::id(), "hostname": "w1@here" })
    );
    // Nothing would ever follow the state of a result that is dropped.
    apply(
        &app,
        call("slow").arg(2).task_id("dropped").ignore_result(true),
    )
    .await;
    started.reaches(2).await;
    assert_eq!(app.result("dropped").state().await.unwrap(), State::Pending);
    gate.open();
    assert_eq!(value(&result).await, json!(1));
    worker.stop().await;
}

// Messages that cannot be used

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_nobody_knows_fails_and_its_message_is_kept() {
    for acks_late in [true, false] {
        let app = build(builder().configure(|c| c.task_acks_late = acks_late));
        let worker = work(&app).await;
        let canvas = chord([call("nobody.knows").task_id("a"), ok(1)], sum()) | echo();
        let error = failure(&apply(&app, canvas).await).await;
        assert_eq!(
            error.message(),
            "Dependency a raised NotRegistered('nobody.knows')"
        );
        let meta = ended(&app, &"a".into()).await;
        assert_eq!(meta.exception().unwrap().exc_module, "celery.exceptions");
        worker.stop().await;
        let dead = dead(&app).await;
        assert_eq!(dead.len(), 1, "acks_late: {acks_late}");
        assert_eq!(
            dead[0].message.headers.task.as_deref(),
            Some("nobody.knows")
        );
        assert_eq!(dead[0].reason, "NotRegistered: nobody.knows");
    }
}

/// A good message of `t.ok` with the id `m`, changed.
fn malformed(change: impl FnOnce(&mut Message)) -> Message {
    let mut message = Message {
        headers: Headers {
            task: Some("t.ok".into()),
            id: Some("m".into()),
            ..Headers::default()
        },
        properties: Properties::default(),
        body: Bytes::from_static(b"[[], {\"value\": 1}, {}]"),
    };
    change(&mut message);
    message
}

/// The same with a header as somebody else may write it.
fn with_header(name: &str, value: Value) -> Message {
    malformed(|message| {
        let mut headers = message.headers.to_map();
        headers.insert(name.to_owned(), value);
        message.headers = Headers::from_map(headers);
    })
}

fn with_body(body: impl Into<Bytes>) -> Message {
    malformed(|message| message.body = body.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_messages_are_kept_with_a_reason_and_the_worker_goes_on() {
    let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    let v1 = |body: &str| {
        let body = body.to_owned();
        malformed(|message| {
            message.headers = Headers::default();
            message.body = body.into();
        })
    };
    // The message, whether its id can be told, and a part of the reason.
    let cases: Vec<(Message, bool, &str)> = vec![
        (with_body("no json"), true, "expected"),
        (with_body("[[], {}, "), true, "EOF"),
        (with_body(""), true, "EOF"),
        (with_body("[[], {}, {}] and more"), true, "trailing"),
        (with_body(&b"\xff\xfe"[..]), true, "decode a message body"),
        (with_body("{\"args\": []}"), true, "invalid type: map"),
        (with_body("3"), true, "invalid type: integer"),
        (with_body("[[], {}]"), true, "invalid length 2"),
        (with_body("[3, {}, {}]"), true, "invalid type: integer"),
        (with_body("[[], [], {}]"), true, "expected a map"),
        (with_body("[[], {}, 7]"), true, "invalid type: integer"),
        (
            with_body("[[], {}, {\"chain\": 7}]"),
            true,
            "expected a sequence",
        ),
        (
            with_body(format!("[[{}], {{}}, {{}}]", deep(5_000))),
            true,
            "nested 5002 deep",
        ),
        (
            with_body(format!("[[], {{}}, {{\"chord\": {}}}]", deep(100_000))),
            true,
            "nested 100002 deep",
        ),
        (
            malformed(|m| m.properties.content_type = "application/x-python-serialize".into()),
            true,
            "content type `application/x-python-serialize` is refused",
        ),
        (
            malformed(|m| m.headers.id = None),
            false,
            "header `id` is missing",
        ),
        (
            with_header("id", json!(5)),
            false,
            "header `id` must be text, not 5",
        ),
        (
            with_header("task", json!(["t.ok"])),
            true,
            "header `task` must be text",
        ),
        (
            with_header("retries", json!("many")),
            true,
            "header `retries` must be a small whole number",
        ),
        (
            with_header("eta", json!("tomorrow")),
            true,
            "header `eta` must be an ISO 8601 time",
        ),
        (
            with_header("expires", json!(7)),
            true,
            "header `expires` must be an ISO 8601 time",
        ),
        (
            with_header("group_index", json!(-1)),
            true,
            "header `group_index` must be a whole number",
        ),
        (
            with_header("timelimit", json!("60")),
            true,
            "header `timelimit` must be a pair",
        ),
        (
            with_header("stamps", json!([])),
            true,
            "header `stamps` must be an object",
        ),
        (v1("no json"), false, "no `task` header (protocol 2)"),
        (v1("{\"id\": \"m\"}"), true, "needs `task` and `id`"),
        (v1("{\"task\": \"t.ok\"}"), false, "needs `task` and `id`"),
        (
            v1("{\"task\": \"t.ok\", \"id\": \"m\", \"args\": 3}"),
            true,
            "`args` must be a list",
        ),
        (
            v1("{\"task\": \"t.ok\", \"id\": \"m\", \"retries\": \"x\"}"),
            true,
            "header `retries`",
        ),
    ];
    let app = build(builder());
    let worker = app.worker().concurrency(1).start().await.unwrap();
    for (number, (message, has_id, reason)) in cases.into_iter().enumerate() {
        let shown = format!("{:.200}", format!("{message:?}"));
        let content_type = message.properties.content_type.clone();
        let to = Destination::queue("celery");
        app.broker()
            .publish(vec![Outgoing { to, message }])
            .await
            .unwrap();
        let kept = async || dead(&app).await.len() == number + 1;
        eventually(&format!("a dead letter for {shown}"), kept).await;
        let letter = dead(&app).await.pop().unwrap();
        assert!(letter.reason.contains(reason), "{shown}: {}", letter.reason);
        let id = Id::from("m");
        let stored = app.backend().load(std::slice::from_ref(&id)).await.unwrap();
        assert_eq!(stored[0].is_some(), has_id, "{shown}");
        if let Some(meta) = &stored[0] {
            let exception = meta.exception().unwrap();
            assert_eq!(meta.status, State::Failure, "{shown}");
            assert!(exception.message().contains(reason), "{shown}: {exception}");
            assert_eq!(exception.exc_module, "kombu.exceptions", "{shown}");
            let kind = if content_type == "application/json" {
                "DecodeError"
            } else {
                "ContentDisallowed"
            };
            assert_eq!(exception.exc_type, kind, "{shown}");
            app.backend().forget(&[id]).await.unwrap();
        }
        assert_eq!(
            value(&apply(&app, ok("alive")).await).await,
            json!("alive"),
            "{shown}"
        );
    }
    worker.stop().await;
    assert_eq!(waiting(&app).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_malformed_message_is_told_as_far_as_it_can_be_read() {
    let caught = Log::new();
    let app = build(builder().task_object(caught.errback("catch")));
    for spoil in [
        (|message| message.headers.problem = Some("header `eta` must be a time".into()))
            as fn(&mut Message),
        |message| {
            let mut body: Value = serde_json::from_slice(&message.body).unwrap();
            body[0] = json!("no list");
            message.body = serde_json::to_vec(&body).unwrap().into();
        },
    ] {
        let member = ok(1).queue("spoiled").link_error(call("catch"));
        let canvas = chord([member | echo(), ok(2)], sum()) | echo();
        let result = apply(&app, canvas).await;
        pass_on(&app, "spoiled", spoil).await;
        let worker = work(&app).await;
        let error = failure(&result).await;
        assert!(error.message().contains("raised DecodeError("), "{error}");
        all_end(&result).await;
        worker.stop().await;
        assert_eq!(app.broker().len("celery").await.unwrap(), 0);
    }
    assert_eq!(caught.len(), 2);
    assert_eq!(dead(&app).await.len(), 2);
}

/// Sends the message of a queue on to the default queue, changed.
async fn pass_on(app: &Canvas, queue: &str, change: impl FnOnce(&mut Message)) {
    let spec = ConsumeSpec {
        queues: vec![queue.into()],
        prefetch: 1,
        lease: LONG,
    };
    let mut consumer = app.broker().consume(spec).await.unwrap();
    let delivery = consumer.next().await.unwrap().expect("a message");
    app.broker()
        .settle(&delivery.receipt, Settle::Ack)
        .await
        .unwrap();
    let mut message = delivery.message;
    change(&mut message);
    let to = Destination::queue("celery");
    app.broker()
        .publish(vec![Outgoing { to, message }])
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_continuation_that_is_no_signature_ends_in_an_error() {
    let app = build(builder());
    let worker = app.worker().concurrency(1).start().await.unwrap();
    for embed in [
        json!({ "chain": [3] }),
        json!({ "chain": [{ "args": [] }] }),
        json!({ "callbacks": ["x"] }),
        json!({ "callbacks": [{ "task": "t.ok", "kwargs": [] }] }),
        json!({ "chain": [{ "task": "celery.chord", "subtask_type": "chord", "kwargs": { "header": 3 } }] }),
    ] {
        let body = serde_json::to_vec(&json!([[], { "value": 1 }, embed])).unwrap();
        let to = Destination::queue("celery");
        let message = with_body(body);
        app.broker()
            .publish(vec![Outgoing { to, message }])
            .await
            .unwrap();
        let meta = ended(&app, &"m".into()).await;
        assert_eq!(meta.status, State::Failure, "{embed}");
        let exception = meta.exception().unwrap();
        assert!(
            exception.message().contains("malformed signature"),
            "{embed}: {exception}"
        );
        app.backend().forget(&["m".into()]).await.unwrap();
    }
    // A body is only read when its header is complete.
    let mut member = with_body(&b"[[], {\"value\": 1}, {\"chord\": 3}]"[..]);
    member.headers.group = Some("g".into());
    let to = Destination::queue("celery");
    let message = member;
    app.broker()
        .publish(vec![Outgoing { to, message }])
        .await
        .unwrap();
    eventually("a dead letter", async || dead(&app).await.len() == 1).await;
    assert!(ended(&app, &"m".into()).await.status.is_ready());
    assert_eq!(value(&apply(&app, ok("alive")).await).await, json!("alive"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_the_first_protocol_runs() {
    let log = Log::new();
    let app = build(builder().task_object(log.task("note")));
    let worker = work(&app).await;
    let body = json!({
        "task": "t.add", "id": "old", "args": [1, 2], "kwargs": {}, "retries": 0,
        "eta": null, "expires": null, "utc": true, "timelimit": [null, null], "taskset": null,
        "callbacks": [call("note")], "errbacks": null, "chord": null,
    });
    let message = malformed(|message| {
        message.headers = Headers::default();
        message.body = serde_json::to_vec(&body).unwrap().into();
    });
    let to = Destination::queue("celery");
    app.broker()
        .publish(vec![Outgoing { to, message }])
        .await
        .unwrap();
    assert_eq!(ended(&app, &"old".into()).await.result, json!(3));
    log.reaches(1).await;
    worker.stop().await;
    assert_eq!(log.entries(), [json!([3])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_mebibytes_pass_through_a_chain_and_a_chord() {
    let app = build(builder());
    let worker = work(&app).await;
    let text = "x".repeat(8 << 20);
    let measure =
        ok(1) | chord([echo().immutable().arg(text.clone()), ok("small")], echo()) | echo();
    let got = value(&apply(&app, measure).await).await;
    assert!(
        got == json!([text, "small"]),
        "{} of them",
        got[0].as_str().map_or(0, str::len)
    );
    worker.stop().await;
}

// Queues, routes and priorities

/// Returns the name that its application gave it.
fn whoami(name: &'static str) -> Arc<dyn Task> {
    task_of("whoami", move |_, _| async move { Ok(json!(name)) })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_takes_from_its_queues_only() {
    let (broker, backend) = (MemoryBroker::new(), MemoryBackend::new());
    let named = |name| {
        build(
            builder()
                .task_object(whoami(name))
                .broker(Arc::new(broker.clone()))
                .backend(Arc::new(backend.clone())),
        )
    };
    let app = named("client");
    let mail = named("mail")
        .worker()
        .queues(["mail", "urgent"])
        .name("mail@here");
    let web = named("web")
        .worker()
        .queues(["web"])
        .direct(true)
        .name("web@here");
    let direct = web.direct_queue();
    let (mail, web) = (mail.start().await.unwrap(), web.start().await.unwrap());
    for (queue, want) in [
        ("mail", "mail"),
        ("urgent", "mail"),
        ("web", "web"),
        (direct.as_str(), "web"),
    ] {
        let result = apply(&app, call("whoami").queue(queue)).await;
        assert_eq!(value(&result).await, json!(want), "{queue}");
    }
    // Nobody serves the default queue, nor the direct queue of the other.
    apply(&app, call("whoami")).await;
    apply(&app, call("whoami").queue("mail@here.dq")).await;
    mail.stop().await;
    web.stop().await;
    assert_eq!(waiting(&app).await, 1);
    assert_eq!(app.broker().len("mail@here.dq").await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_chosen_by_call_route_function_and_task_in_this_order() {
    #[task(name = "mail.send", queue = "own")]
    async fn mail_send() {}
    #[task(name = "video.cut", queue = "own")]
    async fn video_cut() {}
    #[task(name = "plain", queue = "own")]
    async fn plain() {}
    let app = build(
        builder()
            .task::<mail_send>()
            .task::<video_cut>()
            .task::<plain>()
            .configure(|c| {
                c.task_routes = vec![Route {
                    task: "mail.*".to_owned(),
                    queue: "mail".to_owned(),
                    priority: Some(3),
                }];
            })
            .route(|task| {
                let by_function = task.starts_with("video.") || task.starts_with("mail.");
                by_function.then(|| "by-function".to_owned())
            }),
    );
    let len = async |queue: &str| app.broker().len(queue).await.unwrap();
    apply(&app, Signature::from(mail_send::s()).queue("asked")).await;
    assert_eq!(len("asked").await, 1);
    apply(&app, mail_send::s()).await;
    assert_eq!(len("mail").await, 1);
    apply(&app, video_cut::s()).await;
    assert_eq!(len("by-function").await, 1);
    apply(&app, plain::s()).await;
    assert_eq!(len("own").await, 1);
    apply(&app, ok(1)).await;
    assert_eq!(len("celery").await, 1);
    // Every task of a canvas goes its own way.
    let worker = app
        .worker()
        .queues(["celery", "mail", "by-function", "own"]);
    let worker = worker.start().await.unwrap();
    let canvas =
        ok(1) | Signature::from(mail_send::si()) | Signature::from(video_cut::si()) | ok(4);
    assert_eq!(value(&apply(&app, canvas).await).await, json!(4));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_most_urgent_task_runs_first_and_equals_in_their_order() {
    let log = Log::new();
    let app = build(builder().task_object(log.task("note")));
    let mut members = Vec::new();
    for (n, priority) in [9, 3, 0, 5, 3, 0].into_iter().enumerate() {
        members.push(
            call("note")
                .arg(format!("{priority}-{n}"))
                .priority(priority),
        );
    }
    // None is as urgent as can be.
    members.push(call("note").arg("none"));
    let result = apply(&app, group(members)).await;
    let worker = app
        .worker()
        .concurrency(1)
        .prefetch(1)
        .start()
        .await
        .unwrap();
    value(&result).await;
    worker.stop().await;
    let order: Vec<Value> = log.entries().iter().map(|args| args[0].clone()).collect();
    assert_eq!(order, ["0-2", "0-5", "none", "3-1", "3-4", "5-3", "9-0"]);
}

// Shutting down

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_handle_is_dropped_goes_on() {
    let app = build(builder());
    drop(work(&app).await);
    for n in 0..20 {
        assert_eq!(
            value(&apply(&app, ok(n) | add(1)).await).await,
            json!(n + 1)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_shutdown_finishes_what_runs_and_leaves_the_rest_queued() {
    let (gate, started) = (Gate::new(), Log::new());
    let app = build(
        builder()
            .task_object(gate.task("slow", &started))
            .configure(leased(LONG)),
    );
    let result = apply(&app, group((0..6).map(|n| call("slow").arg(n)))).await;
    let worker = app
        .worker()
        .concurrency(2)
        .prefetch(4)
        .start()
        .await
        .unwrap();
    started.reaches(2).await;
    eventually("four are taken", async || waiting(&app).await == 2).await;
    let stopping = tokio::spawn(worker.stop());
    eventually("two are put back", async || waiting(&app).await == 4).await;
    assert!(!stopping.is_finished(), "two still run");
    gate.open();
    stopping.await.unwrap();
    assert_eq!(started.len(), 2);
    assert_eq!(waiting(&app).await, 4);
    let states = result.as_group().unwrap().completed_count().await.unwrap();
    assert_eq!(states, 2);
    // They are acknowledged: what is left is run by another, and no more.
    let next = work(&app).await;
    assert_eq!(value(&result).await, json!([0, 1, 2, 3, 4, 5]));
    next.stop().await;
    assert_eq!(started.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_shutdown_puts_back_what_runs() {
    // What is stopped and what is put back race each other, hence the rounds.
    for _ in 0..20 {
        let (gate, started) = (Gate::new(), Log::new());
        let app = build(
            builder()
                .task_object(gate.task("slow", &started))
                .configure(leased(LONG)),
        );
        let result = apply(&app, group((0..6).map(|n| call("slow").arg(n)))).await;
        let worker = app
            .worker()
            .concurrency(2)
            .prefetch(4)
            .start()
            .await
            .unwrap();
        started.reaches(2).await;
        worker.stop_now().await;
        assert_eq!(waiting(&app).await, 6);
        assert_eq!(started.len(), 2, "a slot that was freed is not used again");
        gate.open();
        let next = work(&app).await;
        assert_eq!(value(&result).await, json!([0, 1, 2, 3, 4, 5]));
        next.stop().await;
        assert_eq!(started.len(), 8);
        assert_eq!(waiting(&app).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn being_put_back_does_not_count_as_killing_a_worker() {
    let (gate, started) = (Gate::new(), Log::new());
    let app = build(
        builder()
            .task_object(gate.task("slow", &started))
            .configure(|c| c.task_delivery_limit = 2),
    );
    let result = apply(&app, call("slow").arg(1)).await;
    for runs in 1..=4 {
        let worker = work(&app).await;
        started.reaches(runs).await;
        worker.stop_now().await;
    }
    gate.open();
    let worker = work(&app).await;
    assert_eq!(value(&result).await, json!(1));
    worker.stop().await;
}

/// A worker in a process of its own, and what it prints.
struct Stoppable {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Stoppable {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_stoppable"))
            .args(args)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the worker starts");
        let stdout = child.stdout.take().expect("it is piped");
        Self {
            child,
            lines: BufReader::new(stdout).lines(),
        }
    }

    async fn line(&mut self) -> Option<String> {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
        line.expect("a line, or the end of them").expect("text")
    }

    async fn terminate(&self) {
        let id = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().await;
        assert!(sent.expect("kill can be run").success());
    }

    /// What is printed until the end, and the exit code.
    async fn end(mut self) -> (Vec<String>, Option<i32>) {
        let mut rest = Vec::new();
        while let Some(line) = self.line().await {
            rest.push(line);
        }
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        (rest, status.expect("it ends").expect("it ran").code())
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn on_sigterm_a_process_finishes_what_runs_and_exits_with_0() {
    let mut process = Stoppable::start(&[]);
    assert_eq!(process.line().await.as_deref(), Some("started"));
    process.terminate().await;
    let (lines, code) = process.end().await;
    assert_eq!(lines, ["shutting down", "finished", "2 left"]);
    assert_eq!(code, Some(0));
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn on_a_second_signal_a_process_exits_at_once() {
    let mut process = Stoppable::start(&["stuck"]);
    assert_eq!(process.line().await.as_deref(), Some("started"));
    process.terminate().await;
    assert_eq!(process.line().await.as_deref(), Some("shutting down"));
    process.terminate().await;
    let (lines, code) = process.end().await;
    assert_eq!(lines, ["3 left"]);
    assert_eq!(code, Some(0));
}

// Calling off

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_called_off_before_it_starts_is_not_run() {
    // It waits for a slot in the worker, or in the queue.
    for prefetch in [1, 2] {
        let (log, noted) = (Log::new(), Log::new());
        let app = build(
            builder()
                .task_object(sentinel(&log))
                .task_object(noted.task("note")),
        );
        let worker = app
            .worker()
            .concurrency(1)
            .prefetch(prefetch)
            .start()
            .await
            .unwrap();
        apply(&app, call("sentinel").task_id("running")).await;
        log.reaches(1).await;
        let canvas = call("note").task_id("off") | call("note").task_id("next");
        let result = apply(&app, canvas).await;
        // In one command, so that the worker knows of the first when the
        // running task is told, and ends.
        app.revoke(&["off".into(), "running".into()], false)
            .await
            .unwrap();
        let error = failure(&result).await;
        assert_eq!(error.repr(), "TaskRevokedError('revoked')");
        assert_eq!(ended(&app, &"off".into()).await.status, State::Revoked);
        assert_eq!(ended(&app, &"next".into()).await.status, State::Failure);
        // It had started, and was not stopped.
        assert_eq!(ended(&app, &"running".into()).await.status, State::Success);
        worker.stop().await;
        assert!(
            noted.is_empty(),
            "prefetch {prefetch}: {:?}",
            noted.entries()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_task_is_stopped_when_it_is_called_off_with_terminate() {
    let (gate, started) = (Gate::new(), Log::new());
    let app = build(
        builder()
            .task_object(gate.task("slow", &started))
            .task_object(started.errback("catch")),
    );
    let worker = app.worker().concurrency(1).start().await.unwrap();
    let slow = call("slow")
        .arg("x")
        .task_id("slow")
        .link_error(call("catch"));
    let result = apply(&app, chord([slow, ok(1)], sum()) | echo()).await;
    started.reaches(1).await;
    app.result("slow").revoke(true).await.unwrap();
    let error = failure(&result).await;
    assert_eq!(
        error.message(),
        "Dependency slow raised TaskRevokedError('terminated')"
    );
    assert_eq!(ended(&app, &"slow".into()).await.status, State::Revoked);
    all_end(&result).await;
    worker.stop().await;
    let want = [
        json!("x"),
        json!(["slow", "TaskRevokedError: terminated", []]),
    ];
    assert_eq!(started.entries(), want);
    assert_eq!(waiting(&app).await, 0);
}

/// On one thread, where the worker has done nothing yet when `start` returns.
#[tokio::test]
async fn a_worker_can_be_told_to_call_off_a_task_once_it_has_started() {
    let log = Log::new();
    let app = build(builder().task_object(log.task("note")));
    let worker = work(&app).await;
    app.revoke(&["off".into()], false).await.unwrap();
    let result = apply(&app, call("note").task_id("off")).await;
    assert_eq!(failure(&result).await.repr(), "TaskRevokedError('revoked')");
    worker.stop().await;
    assert!(log.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_can_be_called_off_as_a_whole() {
    let (gate, started) = (Gate::new(), Log::new());
    let app = build(builder().task_object(gate.task("slow", &started)));
    let worker = app.worker().concurrency(2).start().await.unwrap();
    let result = apply(&app, group((0..5).map(|n| call("slow").arg(n)))).await;
    started.reaches(2).await;
    result.revoke(true).await.unwrap();
    all_end(&result).await;
    for member in result.as_group().unwrap().results() {
        assert_eq!(member.state().await.unwrap(), State::Revoked);
    }
    worker.stop().await;
    assert_eq!(started.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_for_later_can_be_called_off() {
    for broker in deferring_and_not() {
        let log = Log::new();
        let app = build(
            builder()
                .task_object(log.task("note"))
                .task_object(sentinel(&log))
                .broker(broker),
        );
        let worker = work(&app).await;
        apply(&app, call("sentinel").task_id("running")).await;
        log.reaches(1).await;
        let later = call("note").countdown(SHORT).task_id("off");
        let result = apply(&app, later | fail("unreached")).await;
        app.revoke(&["off".into(), "running".into()], false)
            .await
            .unwrap();
        assert_eq!(failure(&result).await.repr(), "TaskRevokedError('revoked')");
        worker.stop().await;
        assert_eq!(log.entries(), ["running", "running"]);
    }
}
