//! Every single call of the broker and the backend goes wrong once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use canvas::memory::MemoryBackend;
use canvas::{Backend, Broker, Id, Ids, Signature, State, chord, group};
use canvas_tests::faults::{Fault, Faults};
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::world::{LEASE, LONG, World, call, step};

/// A chain with a chord in it, a callback and error callbacks.
fn plain() -> Signature {
    let body = step("body", 100)
        .link(step("callback", 1_000).task_id("callback"))
        .link_error(call("t.errback"))
        .link_error(step("never", 0));
    let header = group([step("a", 10), step("b", 20), step("c", 30)]);
    step("first", 1) | header | body | step("last", 5)
}

/// The same, with a member that fails.
fn failing() -> Signature {
    let body = step("body", 100)
        .link(step("callback", 1_000).task_id("callback"))
        .link_error(call("t.errback"))
        .link_error(step("told", 0));
    let header = group([
        step("a", 10),
        step("b", 20)
            .kwarg("fails", true)
            .link_error(call("t.errback")),
        step("c", 30),
    ]);
    step("first", 1) | header | body | step("last", 5)
}

/// Chords in a chord's header and body, and a task that is replaced.
fn nested() -> Signature {
    let inner = chord(
        [step("a", 1), step("b", 2) | step("b2", 3)],
        step("inner", 10),
    );
    let replaced = call("t.replace").kwarg("canvas", step("r", 1) | step("r2", 2));
    let body = step("body", 100) | group([step("x", 1), step("y", 2)]);
    chord([inner, replaced], body) | step("last", 1_000)
}

/// A chord to whose header a member adds another.
fn growing() -> Signature {
    let grows = call("t.grow").kwarg("more", step("more", 5));
    chord([grows, step("a", 1)], step("body", 100)) | step("last", 5)
}

/// What there is to see of a run.
#[derive(Debug)]
struct Seen {
    /// How each result ended: its state, its value, its children.
    ends: BTreeMap<Id, (State, Value, Value)>,
    /// The task and the id of every message.
    published: BTreeSet<(String, Id)>,
    /// The labels of the steps that ran.
    ran: Vec<String>,
    errors: usize,
    calls: usize,
    /// The labels of steps that had run, but had not been stored, when a
    /// worker was killed: there is nobody to say that they need not run again.
    excused: BTreeSet<String>,
}

impl Seen {
    fn runs(&self, label: &str) -> usize {
        self.ran.iter().filter(|ran| *ran == label).count()
    }
}

/// Runs a canvas to its end, whatever happens on the way: a client that gets
/// an error sends it again, a worker that dies is replaced.
async fn run(mut canvas: Signature, lease: Duration, faults: Faults) -> Seen {
    let world = World::with(faults, MemoryBackend::new(), |builder| {
        builder.configure(|config| {
            config.visibility_timeout = lease;
            config.continuation_reference_size = Some(300);
        })
    });
    let mut ids = Ids::derived(&Id::from("sweep"), "");
    let tree = canvas.freeze_with(&mut ids).unwrap();
    let tasks = tree
        .nodes()
        .into_iter()
        .filter(|node| node.members.is_none());
    let waited_for: Vec<Id> = tasks.map(|node| node.id.clone()).collect();
    let mut excused = BTreeSet::new();
    let mut worker = world.worker().await;
    let mut sent = false;
    loop {
        let go_on = async {
            while !sent {
                match world.app.apply(canvas.clone()).await {
                    Ok(result) => sent = *result.tree() == tree,
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
            }
            let ends = world.backend.watch(&waited_for).await.unwrap();
            assert_eq!(ends.count().await, waited_for.len());
            // Until every lease is over, and every claim and wait.
            tokio::time::sleep(lease * 3 + Duration::from_secs(20)).await;
        };
        tokio::select! {
            ended = tokio::time::timeout(LONG * 4, go_on) => {
                assert!(ended.is_ok(), "stuck: {:?}", world.unended(&waited_for).await);
                break;
            }
            () = world.faults.killed() => {
                worker.kill();
                excused.extend(world.not_stored().await);
                worker = world.worker().await;
            }
        }
    }
    worker.stop().await;
    assert_eq!(world.broker.len("celery").await.unwrap(), 0);
    assert_eq!(world.broker.dead_letters("celery").await.unwrap().len(), 0);
    let stored: BTreeSet<Id> = world
        .faults
        .written()
        .into_iter()
        .map(|meta| meta.task_id)
        .collect();
    let stored: Vec<Id> = stored.into_iter().collect();
    let metas = world.backend.load(&stored).await.unwrap();
    let ends = metas.into_iter().flatten().map(|meta| {
        let children = json!(meta.children);
        (meta.task_id, (meta.status, meta.result, children))
    });
    Seen {
        ends: ends.collect(),
        published: world.faults.published().into_iter().collect(),
        ran: world.labels(),
        errors: world.errors.len(),
        calls: world.faults.calls().len(),
        excused,
    }
}

const KILLS: [Fault; 2] = [Fault::KilledBefore, Fault::KilledAfter];

const FAULTS: [Fault; 5] = [
    Fault::Lost,
    Fault::Unanswered,
    Fault::Cut(1),
    Fault::KilledBefore,
    Fault::KilledAfter,
];

/// Breaks every single call of the broker and the backend, one a run. Each
/// time all must end as it does when all goes well, with the same messages,
/// and what stands behind a join must run once.
async fn sweep(canvas: fn() -> Signature, faults: &[Fault], once: &[&str], lease: Duration) {
    for commit in COMMITS {
        sweep_with(canvas, faults, once, lease, commit).await;
    }
}

/// One effect after the other, and all of a run's in one step.
const COMMITS: [fn(Faults) -> Faults; 2] = [|faults| faults, Faults::on_one_server];

async fn sweep_with(
    canvas: fn() -> Signature,
    faults: &[Fault],
    once: &[&str],
    lease: Duration,
    commit: fn(Faults) -> Faults,
) {
    let reference = run(canvas(), lease, commit(Faults::none())).await;
    for number in 0..reference.calls {
        for fault in faults {
            let faults = commit(Faults::at(number, *fault));
            let seen = run(canvas(), lease, faults.clone()).await;
            let what = faults.faults();
            assert_eq!(what.len(), 1, "call {number} was not made");
            assert_eq!(seen.ends, reference.ends, "{what:?}");
            assert_eq!(seen.published, reference.published, "{what:?}");
            assert!(seen.errors >= reference.errors, "{what:?}");
            for label in once {
                let want = reference.runs(label);
                let excused = usize::from(seen.excused.contains(*label));
                let runs = seen.runs(label);
                assert!(
                    (want..=want + excused).contains(&runs),
                    "{label} ran {runs} times: {what:?}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_chord_in_a_chain_survives_a_fault_at_every_call() {
    sweep(
        plain,
        &FAULTS,
        &["body", "last", "callback", "never"],
        LEASE,
    )
    .await;
}

/// A lease that ends long before a claim on a join does.
#[tokio::test(start_paused = true)]
async fn a_chord_survives_a_fault_at_every_call_with_short_leases() {
    sweep(
        plain,
        &FAULTS,
        &["body", "last", "callback", "never"],
        Duration::from_millis(100),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_chord_that_fails_survives_a_fault_at_every_call() {
    sweep(
        failing,
        &FAULTS,
        &["body", "last", "callback", "told"],
        LEASE,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn nested_chords_survive_a_fault_at_every_call() {
    sweep(nested, &FAULTS, &["body", "inner", "last", "x", "y"], LEASE).await;
}

/// What a task does itself, rather than what is done for it, fails the task if
/// it fails; so here workers die, and that is all.
#[tokio::test(start_paused = true)]
async fn a_chord_that_grows_survives_a_crash_at_every_call() {
    sweep(growing, &KILLS, &["body", "last"], LEASE).await;
}

/// One call in a few goes wrong, in any way, all the time.
#[tokio::test(start_paused = true)]
async fn a_chord_survives_faults_that_do_not_end() {
    for seed in 0..40 {
        let commit = COMMITS[usize::from(seed % 2 == 1)];
        for canvas in [plain, failing, nested] {
            let reference = run(canvas(), LEASE, Faults::none()).await;
            let mut dice = fastrand::Rng::with_seed(seed);
            let faults = Faults::plan(move |_| {
                let hit = dice.u8(..8) == 0;
                hit.then(|| FAULTS[dice.usize(..FAULTS.len())])
            });
            let faults = commit(faults);
            let seen = run(canvas(), LEASE, faults.clone()).await;
            assert_eq!(
                seen.ends,
                reference.ends,
                "seed {seed}: {:?}",
                faults.faults()
            );
            assert_eq!(seen.published, reference.published, "seed {seed}");
        }
    }
}

/// Every message is there twice, and every change to the store is made twice.
#[tokio::test(start_paused = true)]
async fn a_chord_whose_every_message_comes_twice_has_its_effects_once() {
    for canvas in [plain, failing, nested] {
        let reference = run(canvas(), LEASE, Faults::none()).await;
        for commit in COMMITS {
            let twice = commit(Faults::plan(|_| Some(Fault::Twice)));
            let doubled = run(canvas(), LEASE, twice).await;
            assert_eq!(doubled.ends, reference.ends);
            assert_eq!(doubled.published, reference.published);
        }
    }
}

/// No acknowledgement arrives at first, so every message comes again.
#[tokio::test(start_paused = true)]
async fn a_chord_whose_every_message_is_redelivered_runs_its_tasks_once() {
    for canvas in [plain, nested] {
        let reference = run(canvas(), LEASE, Faults::none()).await;
        let messages = reference.published.len();
        // All of them, since the first lease ends when all has been done.
        let deaf = Faults::plan(move |call| {
            let first = call.operation == "broker.settle" && call.nth < messages;
            first.then_some(Fault::Lost)
        });
        let again = run(canvas(), LEASE, deaf.clone()).await;
        assert_eq!(deaf.faults().len(), messages);
        assert_eq!(again.ends, reference.ends);
        assert_eq!(again.published, reference.published);
        assert_eq!(again.ran.len(), reference.ran.len(), "{:?}", again.ran);
    }
}
