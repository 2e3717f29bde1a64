//! Fan-in when things go wrong. Each of the ways in which others got it wrong
//! is a test here, named in its first line; `sweep` then breaks every single
//! call of the broker and the backend, one after the other.
//!
//! Time is paused: it leaps to the next timer whenever nothing else can
//! happen, so leases and claims lapse at once and in the same order each run.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

#[path = "fan_in/sweep.rs"]
mod sweep;
#[path = "fan_in/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use canvas::backend::{Arrival, Part};
use canvas::broker::{ConsumeSpec, Settle, Settled};
use canvas::memory::{MemoryBackend, MemoryBroker};
use canvas::protocol::{DeliveryInfo, Headers};
use canvas::{
    Backend, Broker, Canvas, Effect, Id, Kwargs, Outcome, Request, Signature, State, TaskError,
    WorkerExt, advance, chord, group,
};
use canvas_tests::faults::{Fault, Faults};
use canvas_tests::support::{Gate, Log, eventually, task};
use chrono::Utc;
use serde_json::{Value, json};

use world::{LEASE, LONG, World, call, failure, step, tasks, value};

/// Three members, and a body that adds 100 to their sum: 106.
fn three() -> Signature {
    chord(
        [step("a", 1), step("b", 2), step("c", 3)],
        step("body", 100),
    )
}

/// Callback fired N times: whoever arrives, and however often, one of them is
/// told to send the body.
#[tokio::test(start_paused = true)]
async fn a_body_is_sent_once_however_often_its_members_are_delivered() {
    let world = World::new(Faults::none());
    let (tree, messages) = world.messages(three()).await;
    for message in messages
        .iter()
        .chain(messages.iter().rev())
        .chain(&messages)
    {
        world.deliver(message).await;
    }
    let worker = world.worker().await;
    assert_eq!(value(&world.result(&tree)).await, 106);
    world.settle_down().await;
    assert_eq!(world.runs("body"), 1);
    let sent = world.faults.published();
    assert_eq!(sent, [("t.step".to_owned(), tree.id.clone())]);
    worker.stop().await;
}

/// Where broker and backend are one server, nothing comes between what a run
/// leaves: it is one call, and one more for the member that completes a join.
#[tokio::test(start_paused = true)]
async fn what_a_run_leaves_is_one_call_where_that_can_be() {
    let world = World::new(Faults::none().on_one_server());
    let worker = world.worker().await;
    let canvas = step("first", 1) | group([step("a", 2), step("b", 3)]) | step("body", 0);
    let result = world.app.apply(canvas).await.unwrap();
    assert_eq!(value(&result).await, 1 + 2 + 1 + 3);
    world.settle_down().await;
    let calls = world.faults.calls();
    let count = |operation| calls.iter().filter(|c| c.operation == operation).count();
    assert_eq!(count("backend.commit"), 4 + 1);
    for apart in ["backend.store", "backend.arrive", "broker.settle"] {
        assert_eq!(count(apart), 0, "{apart}");
    }
    worker.stop().await;
}

/// Callback fired N times: nor are the error callbacks of a body called once
/// for each member that failed.
#[tokio::test(start_paused = true)]
async fn a_body_fails_once_however_many_members_fail() {
    let world = World::new(Faults::none());
    let worker = world.worker().await;
    let fails = |label| step(label, 0).kwarg("fails", true);
    let canvas = chord(
        [fails("a"), fails("b"), step("c", 1), fails("d")],
        step("body", 0).link_error(call("t.errback")),
    );
    let result = world.app.apply(canvas).await.unwrap();
    assert_eq!(failure(&result).await.exc_type, "ChordError");
    world.settle_down().await;
    let errors = world.errors.entries();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0][0], result.id().as_str());
    assert_eq!(world.runs("body"), 0);
    worker.stop().await;
}

/// Callback fired early: a member that is delivered twice, and gives another
/// result the second time, is counted once, with the first.
#[tokio::test(start_paused = true)]
async fn a_member_that_arrives_twice_with_different_results_counts_once_with_the_first() {
    let world = World::new(Faults::none());
    let canvas = chord(
        [call("t.vary"), step("b", 2), step("c", 3)],
        step("body", 0),
    );
    let (tree, messages) = world.messages(canvas).await;
    let worker = world.worker().await;
    world.deliver(&messages[0]).await;
    world.deliver(&messages[0]).await;
    world.deliver(&messages[1]).await;
    world.settle_down().await;
    assert_eq!(world.runs("body"), 0, "the third member has not run");
    assert_eq!(world.result(&tree).state().await.unwrap(), State::Pending);
    world.deliver(&messages[2]).await;
    assert_eq!(value(&world.result(&tree)).await, 100 + 2 + 3);
    world.settle_down().await;
    assert_eq!(world.runs("body"), 1);
    worker.stop().await;
}

/// Callback fired early: a member that wants to be retried has not ended.
#[tokio::test(start_paused = true)]
async fn a_member_that_is_retried_counts_when_it_ends() {
    let world = World::new(Faults::none());
    let worker = world.worker().await;
    let canvas = chord([call("t.retry").arg(2), step("b", 10)], step("body", 100));
    let result = world.app.apply(canvas).await.unwrap();
    assert_eq!(value(&result).await, 112);
    world.settle_down().await;
    assert_eq!(world.runs("body"), 1);
    worker.stop().await;
}

/// Callback fired early: what a member adds while it runs is waited for, even
/// if the member is the last, and it is added once, even if it runs twice.
#[tokio::test(start_paused = true)]
async fn what_is_added_to_a_header_while_it_runs_is_waited_for_once() {
    let world = World::new(Faults::none());
    let more = call("t.slow").arg(60);
    let grows = call("t.grow").kwarg("more", more);
    let (tree, messages) = world
        .messages(chord([grows, step("b", 5)], step("body", 0)))
        .await;
    let worker = world.worker().await;
    world.deliver(&messages[1]).await;
    world.deliver(&messages[0]).await;
    world.deliver(&messages[0]).await;
    assert_eq!(value(&world.result(&tree)).await, 1 + 5 + 60);
    world.settle_down().await;
    assert_eq!(world.runs("body"), 1);
    worker.stop().await;
}

/// Callback never fired: however a member ends, the body ends too, and says
/// why. Members that fail, chains in the header that break off, chords in it
/// whose own member fails.
#[tokio::test(start_paused = true)]
async fn however_a_member_ends_the_body_ends_and_says_why() {
    let fails = || step("x", 0).kwarg("fails", true);
    let in_the_past = Utc::now() - chrono::Duration::hours(1);
    let late = step("late", 0).set("expires", canvas_core::format_time(in_the_past));
    let members = [
        ("out of luck", fails()),
        ("out of luck", step("a", 1) | fails() | step("b", 2)),
        (
            "out of luck",
            chord([step("a", 1), fails()], step("inner", 0)),
        ),
        ("out of luck", chord([step("a", 1)], fails())),
        ("out of luck", step("a", 1) | group([step("b", 1), fails()])),
        (
            "out of luck",
            step("a", 1) | group([step("b", 1), fails()]) | step("c", 1),
        ),
        ("out of luck", call("t.replace").kwarg("canvas", fails())),
        ("NotRegistered", call("t.nobody_knows")),
        ("no way", call("t.panic")),
        ("not yet", call("t.retry").arg(3)),
        ("expired", late),
        (
            "in a chord already",
            call("t.replace").kwarg("canvas", step("r", 1).set("chord", step("x", 0))),
        ),
    ];
    for (why, member) in members {
        let world = World::new(Faults::none());
        let worker = world.worker().await;
        let shown = member.to_string();
        let body = step("body", 0).link_error(call("t.errback"));
        let canvas = chord([step("ok", 1), member], body) | step("after", 0);
        let result = world.app.apply(canvas).await.unwrap();
        let before = result.parent().unwrap();
        for ended in [&result, &before] {
            let error = failure(ended).await;
            assert_eq!(error.exc_type, "ChordError", "{shown}: {error}");
            assert!(error.message().contains(why), "{shown}: {error}");
        }
        world.settle_down().await;
        assert_eq!(world.errors.len(), 1, "{shown}");
        assert_eq!(world.runs("body") + world.runs("after"), 0, "{shown}");
        worker.stop().await;
    }
}

/// Callback never fired: a member that is called off counts as failed.
#[tokio::test(start_paused = true)]
async fn a_member_that_is_called_off_fails_the_body() {
    let world = World::new(Faults::none());
    let worker = world.worker().await;
    let mut canvas = chord([step("a", 1), call("t.slow").arg(60)], step("body", 0));
    let header = canvas.freeze().unwrap().parent.unwrap();
    let slow = header.members.as_ref().unwrap()[1].clone();
    let result = world.app.apply(canvas).await.unwrap();
    eventually("the first member runs", async || world.runs("a") == 1).await;
    world.app.result_of(slow).revoke(true).await.unwrap();
    let error = failure(&result).await;
    assert!(error.message().contains("TaskRevokedError"), "{error}");
    worker.stop().await;
}

/// Callback never fired, though it was noted as fired: sending the body fails,
/// and is tried again.
#[tokio::test(start_paused = true)]
async fn a_body_that_could_not_be_sent_is_sent_later() {
    for fault in [Fault::Lost, Fault::Unanswered] {
        let world = World::new(Faults::nth("broker.publish", 1, fault));
        let worker = world.worker().await;
        let result = world.app.apply(three()).await.unwrap();
        assert_eq!(value(&world.result(result.tree())).await, 106);
        world.settle_down().await;
        assert_eq!(world.faults.faults().len(), 1);
        assert_eq!(world.runs("body"), 1, "{fault:?}");
        worker.stop().await;
    }
}

/// Counter drift: what arrives twice, fails the second time, or arrives after
/// the end moves nothing.
#[tokio::test(start_paused = true)]
async fn no_arrival_moves_a_count_that_it_should_not() {
    let world = World::new(Faults::none());
    let (tree, messages) = world.messages(three()).await;
    let worker = world.worker().await;
    for message in &messages {
        world.deliver(message).await;
        world.deliver(message).await;
        world.settle_down().await;
        world.deliver(message).await;
    }
    assert_eq!(value(&world.result(&tree)).await, 106);
    let group = tree.parent.clone().unwrap();
    let stranger = Part {
        task_id: Id::from("stranger"),
        index: Some(7),
        state: State::Failure,
        result: Value::Null,
    };
    world.settle_down().await;
    let arrival = world.backend.arrive(&group.id, &stranger, LEASE).await;
    assert_eq!(arrival.unwrap(), Arrival::Closed);
    for message in &messages {
        world.deliver(message).await;
    }
    world.settle_down().await;
    assert_eq!(world.runs("body"), 1);
    assert_eq!(world.result(&tree).get().await.unwrap(), 106);
    worker.stop().await;
}

/// Crash between "last one" and "enqueue callback": the worker dies right
/// after the last arrival. Its claim lapses, its message comes again, and
/// another worker sends the body.
#[tokio::test(start_paused = true)]
async fn a_worker_that_dies_before_it_sends_the_body_is_replaced() {
    let moments = [
        ("backend.arrive", 2, Fault::KilledAfter),
        ("broker.publish", 1, Fault::KilledBefore),
        ("broker.publish", 1, Fault::KilledAfter),
        ("backend.close_join", 0, Fault::KilledBefore),
        ("backend.close_join", 0, Fault::KilledAfter),
    ];
    for (operation, nth, fault) in moments {
        let world = World::new(Faults::nth(operation, nth, fault));
        let worker = world.worker().await;
        let result = world.app.apply(three()).await.unwrap();
        world.faults.killed().await;
        worker.kill();
        tokio::time::sleep(LONG).await;
        let worker = world.worker().await;
        let tree = result.tree();
        assert_eq!(value(&world.result(tree)).await, 106);
        world.settle_down().await;
        assert_eq!(world.runs("body"), 1, "{operation} {fault:?}");
        let bodies: BTreeSet<(String, Id)> = world.faults.published().into_iter().skip(3).collect();
        assert_eq!(bodies.len(), 1, "{operation} {fault:?}");
        worker.stop().await;
    }
}

/// Crash between "last one" and "enqueue callback": another member that comes
/// again may do it too, once the claim has lapsed, and not before.
#[tokio::test(start_paused = true)]
async fn any_member_can_take_over_a_claim_that_has_lapsed() {
    let world = World::new(Faults::none());
    let (tree, messages) = world.messages(three()).await;
    let group = tree.parent.clone().unwrap();
    for message in &messages {
        let request = Request::decode(message, DeliveryInfo::default()).unwrap();
        let part = Part {
            task_id: request.id.clone(),
            index: request.headers.group_index,
            state: State::Success,
            result: json!(1),
        };
        // Whoever this is, it never goes on.
        world.backend.arrive(&group.id, &part, LEASE).await.unwrap();
    }
    let worker = world.worker().await;
    world.deliver(&messages[1]).await;
    tokio::time::sleep(LEASE / 2).await;
    assert_eq!(world.runs("body"), 0, "the claim is still somebody's");
    assert_eq!(value(&world.result(&tree)).await, 103);
    assert_eq!(world.runs("body"), 1);
    worker.stop().await;
}

/// Publisher dies while the header is being sent: the size is stored before
/// the first message, so nothing fires early, and sending the same canvas
/// again completes it.
#[tokio::test(start_paused = true)]
async fn a_header_that_was_sent_in_part_waits_for_the_rest() {
    for sent in 0..=3 {
        let world = World::new(Faults::nth("broker.publish", 0, Fault::Cut(sent)));
        let worker = world.worker().await;
        let mut canvas = three();
        let tree = canvas.freeze().unwrap();
        let error = world.app.apply(canvas.clone()).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        world.settle_down().await;
        assert_eq!(world.runs("body"), usize::from(sent == 3));
        let again = world.app.apply(canvas).await.unwrap();
        assert_eq!(*again.tree(), tree);
        assert_eq!(value(&world.result(&tree)).await, 106);
        world.settle_down().await;
        assert_eq!(world.runs("body"), 1, "after {sent} messages");
        worker.stop().await;
    }
}

/// Publisher dies while the header is being sent: the order of calls.
#[tokio::test(start_paused = true)]
async fn the_size_of_a_join_is_stored_before_its_first_message_is_sent() {
    let world = World::new(Faults::none());
    world.app.apply(three()).await.unwrap();
    let calls = world.faults.calls();
    let order: Vec<&str> = calls.iter().map(|call| call.operation).collect();
    assert_eq!(order, ["backend.open_join", "broker.publish"]);
}

/// Lost field in a port: what a member's message says survives its being read
/// and sent again, in full.
#[test]
fn a_message_that_is_sent_again_says_all_that_it_said() {
    let app = Canvas::in_memory();
    let options = step("a", 1)
        .priority(3)
        .header("mine", "yes")
        .set("shadow", "nick")
        .set("time_limit", 60)
        .set("soft_time_limit", 30)
        .set("reply_to", "me")
        .set("something", "new")
        .ignore_result(true)
        .stamp([("user", "ann")])
        .link(step("callback", 1))
        .link_error(step("errback", 1));
    let member = chord([options | step("b", 2), step("c", 3)], step("body", 0));
    let now = Utc::now();
    let (effects, _) = advance::apply(app.env(), member, &[], &Kwargs::new(), now).unwrap();
    let published = effects.iter().filter_map(|effect| match effect {
        Effect::Publish(outgoing) => Some(&outgoing.message),
        _ => None,
    });
    for message in published {
        let request = Request::decode(message, DeliveryInfo::default()).unwrap();
        assert_eq!(request.encode().unwrap(), *message);
        assert_eq!(Headers::from_map(message.headers.to_map()), message.headers);
        let retry = TaskError::Retry(Box::new(canvas_core::task::Retry {
            countdown: Some(Duration::ZERO),
            max_retries: None,
            arguments: None,
            cause: None,
        }));
        let step = advance(app.env(), &request, Outcome::Error(retry), Vec::new(), now);
        let Some(Effect::Publish(again)) = step.effects.last() else {
            panic!("not sent again: {:?}", step.effects)
        };
        let mut want = message.clone();
        want.headers.retries = 1;
        assert_eq!(again.message, want);
    }
}

/// Stale ack overwrites its successor: a worker whose lease has passed to
/// another cannot settle the message any more, and what it did counts once.
#[tokio::test(start_paused = true)]
async fn a_worker_whose_lease_has_passed_on_cannot_settle() {
    let (gate, started) = (Gate::new(), Log::new());
    let broker = MemoryBroker::new();
    let backend = MemoryBackend::new();
    let ran = Log::new();
    let app = |faults: &Faults| {
        let ports = Canvas::builder()
            .broker(faults.broker(broker.clone()))
            .backend(faults.backend(backend.clone()))
            .configure(|config| config.visibility_timeout = LEASE);
        tasks(ports, &ran, &Log::new())
            .task_object(gate.task("t.gate", &started))
            .build()
            .unwrap()
    };
    let mute = Faults::plan(|call| (call.operation == "broker.renew").then_some(Fault::Lost));
    let (first, second) = (app(&mute), app(&Faults::none()));
    let one = first.worker().start().await.unwrap();
    let canvas = chord([call("t.gate").arg(1), step("b", 2)], step("body", 100));
    let result = second.apply(canvas).await.unwrap();
    started.reaches(1).await;
    let two = second.worker().start().await.unwrap();
    started.reaches(2).await;
    gate.open();
    assert_eq!(value(&result).await, 103);
    tokio::time::sleep(LONG).await;
    assert_eq!(
        mute.stale(),
        1,
        "the first worker's acknowledgement counts no more"
    );
    assert_eq!(broker.len("celery").await.unwrap(), 0);
    let bodies = ran.entries().into_iter().filter(|entry| entry[0] == "body");
    assert_eq!(bodies.count(), 1);
    one.stop().await;
    two.stop().await;
}

/// Stale ack overwrites its successor: the message is still its new owner's,
/// and is delivered again if that one dies.
#[tokio::test(start_paused = true)]
async fn a_stale_acknowledgement_loses_no_message() {
    let broker = MemoryBroker::new();
    let spec = ConsumeSpec {
        queues: vec!["celery".into()],
        prefetch: 1,
        lease: LEASE,
    };
    let app = Canvas::builder()
        .broker(Arc::new(broker.clone()))
        .build()
        .unwrap();
    let sent = app.apply(step("a", 1)).await.unwrap();
    let mut first = broker.consume(spec.clone()).await.unwrap();
    let mut second = broker.consume(spec.clone()).await.unwrap();
    let stale = first.next().await.unwrap().unwrap();
    let current = second.next().await.unwrap().unwrap();
    assert_eq!(current.message, stale.message);
    for how in [
        Settle::Ack,
        Settle::Requeue,
        Settle::Reject("no".to_owned()),
    ] {
        let settled = broker.settle(&stale.receipt, how).await.unwrap();
        assert_eq!(settled, Settled::Stale);
    }
    drop(second);
    let again = first.next().await.unwrap().unwrap();
    assert_eq!(again.message.headers.id.as_ref(), Some(sent.id()));
    assert!(again.redelivered);
    assert_eq!(broker.dead_letters("celery").await.unwrap().len(), 0);
}

/// Result expiry during a long chord: each arrival renews the join, so it
/// lives as long as its members keep coming.
#[tokio::test(start_paused = true)]
async fn a_join_lives_on_while_its_members_arrive() {
    let backend = MemoryBackend::with_expiry(Some(Duration::from_secs(100)));
    let world = World::with(Faults::none(), backend, |builder| builder);
    let worker = world.app.worker().concurrency(8).start().await.unwrap();
    let members = [60, 120, 180, 240].map(|seconds| call("t.slow").arg(seconds));
    let result = world
        .app
        .apply(chord(members, step("body", 0)))
        .await
        .unwrap();
    assert_eq!(result.get_timeout(LONG).await.unwrap(), 600);
    worker.stop().await;
}

/// Result expiry during a long chord: if the join is gone when a member
/// arrives, the body ends with an error that says so, once.
#[tokio::test(start_paused = true)]
async fn a_join_that_has_expired_fails_the_body_once() {
    let backend = MemoryBackend::with_expiry(Some(Duration::from_secs(100)));
    let world = World::with(Faults::none(), backend, |builder| builder);
    let worker = world.app.worker().concurrency(8).start().await.unwrap();
    let members = [10, 150, 160, 170].map(|seconds| call("t.slow").arg(seconds));
    let body = step("body", 0).link_error(call("t.errback"));
    let result = world
        .app
        .apply(chord(members, body) | step("after", 0))
        .await
        .unwrap();
    let error = result.get_timeout(LONG).await.unwrap_err();
    assert!(error.to_string().contains("it expired"), "{error}");
    assert!(error.to_string().contains("ChordError"), "{error}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.errors.len(), 1, "{:?}", world.errors.entries());
    assert_eq!(world.runs("body") + world.runs("after"), 0);
    worker.stop().await;
}

/// Result expiry during a long chord: the same where the body is kept apart
/// from the messages, and that has gone.
#[tokio::test(start_paused = true)]
async fn a_kept_body_that_has_expired_fails_the_chord() {
    let backend = MemoryBackend::with_expiry(Some(Duration::from_secs(100)));
    let world = World::with(Faults::none(), backend, |builder| {
        builder.configure(|config| config.continuation_reference_size = Some(0))
    });
    let worker = world.app.worker().concurrency(8).start().await.unwrap();
    let members = [60, 120].map(|seconds| call("t.slow").arg(seconds));
    let result = world
        .app
        .apply(chord(members, step("body", 0)))
        .await
        .unwrap();
    let error = result.get_timeout(LONG).await.unwrap_err();
    assert!(error.to_string().contains("has expired"), "{error}");
    worker.stop().await;
}

/// Ids of what follows a task are the same each time, so publishing twice is
/// publishing once.
#[test]
fn two_runs_of_a_message_publish_the_same_ids() {
    let app = Canvas::in_memory();
    let canvas = step("a", 1)
        .link(step("callback", 1) | group([step("x", 1), step("y", 1)]))
        .link_error(step("errback", 1))
        | chord([step("b", 1), step("c", 1) | step("d", 1)], step("body", 1))
        | group([step("e", 1), step("f", 1)]);
    let now = Utc::now();
    let apply = advance::apply(app.env(), canvas, &[], &Kwargs::new(), now);
    let (effects, _) = apply.unwrap();
    let Some(Effect::Publish(first)) = effects.last() else {
        panic!("nothing sent: {effects:?}")
    };
    let request = Request::decode(&first.message, DeliveryInfo::default()).unwrap();
    let other = chord([step("g", 1), step("h", 1)], step("i", 1));
    let outcomes = [
        Outcome::Success(json!(1)),
        Outcome::Error(TaskError::msg("no")),
        Outcome::Error(TaskError::Replaced(Box::new(other))),
        Outcome::Revoked("revoked"),
    ];
    for outcome in outcomes {
        let run = || advance(app.env(), &request, outcome.clone(), Vec::new(), now);
        assert_eq!(run(), run(), "{outcome:?}");
        let ids: Vec<Id> = published(&run().effects);
        let unique: BTreeSet<&Id> = ids.iter().collect();
        assert_eq!(unique.len(), ids.len(), "{outcome:?}: {ids:?}");
    }
}

fn published(effects: &[Effect]) -> Vec<Id> {
    let id = |effect: &Effect| match effect {
        Effect::Publish(outgoing) => outgoing.message.headers.id.clone(),
        _ => None,
    };
    effects.iter().filter_map(id).collect()
}

/// What a task launches has the same ids when it is run again.
#[tokio::test(start_paused = true)]
async fn a_task_that_runs_again_launches_the_same_tasks() {
    let faults = Faults::nth("backend.store", 0, Fault::KilledBefore);
    let world = World::with(faults, MemoryBackend::new(), |builder| {
        builder.task_object(task("t.launch", |ctx, _| async move {
            let first = ctx.launch(step("x", 1)).await?;
            let second = ctx.launch(step("x", 1)).await?;
            Ok(json!([first.id(), second.id()]))
        }))
    });
    let worker = world.worker().await;
    let result = world.app.apply(call("t.launch")).await.unwrap();
    world.faults.killed().await;
    worker.kill();
    let worker = world.worker().await;
    let launched = value(&world.result(result.tree())).await;
    world.settle_down().await;
    let sent: BTreeSet<Id> = world
        .faults
        .published()
        .into_iter()
        .map(|(_, id)| id)
        .collect();
    assert_eq!(sent.len(), 3, "{sent:?}");
    assert_ne!(launched[0], launched[1]);
    worker.stop().await;
}

/// What follows a task that ran twice follows from the result that stands: the
/// first run got no further than to store its own.
#[tokio::test(start_paused = true)]
async fn what_follows_a_task_that_ran_twice_follows_from_its_first_result() {
    let world = World::new(Faults::nth("backend.store", 0, Fault::KilledAfter));
    let canvas = call("t.vary") | chord([step("a", 1), step("b", 2)], step("body", 0));
    let (tree, messages) = world.messages(canvas).await;
    world.deliver(&messages[0]).await;
    world.deliver(&messages[0]).await;
    let worker = world.worker().await;
    world.faults.killed().await;
    // The other task of this worker goes on.
    assert_eq!(value(&world.result(&tree)).await, 100 + 1 + 100 + 2);
    worker.kill();
    let worker = world.worker().await;
    world.settle_down().await;
    assert_eq!(world.result(&tree).get().await.unwrap(), 203);
    assert_eq!(world.runs("body"), 1);
    worker.stop().await;
}
