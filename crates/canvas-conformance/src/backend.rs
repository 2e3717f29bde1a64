//! What a backend does: the list, and the words in which it is written.

mod claims;
mod expiry;
mod joins;
mod restarts;
mod states;
mod watches;

use std::sync::Arc;
use std::time::Duration;

use canvas_core::backend::{Arrival, JoinSpec, Part};
use canvas_core::protocol::Reply;
use canvas_core::{Backend, ExceptionInfo, Id, ResultTree, State, TaskMeta};
use serde_json::{Value, json};

use crate::behaviour::{self, Behaviour};
use crate::{BackendFixture, Need};

/// The behaviours, and the one place to add another.
#[doc(hidden)]
#[macro_export]
macro_rules! __backend_behaviours {
    ($then:ident $with:tt) => {
        $crate::$then! { $with
            states::a_state_is_loaded_as_it_was_stored(port) if shared:
                "state: what is stored is loaded as it was, with all its fields";
            states::states_are_loaded_in_the_order_asked_for(port) if shared:
                "state: many are loaded in the order asked for, and an unknown one is none";
            states::the_first_success_stands(port) if shared:
                "state: a stored SUCCESS is final";
            states::a_state_that_is_no_end_is_overwritten(port) if shared:
                "state: one that is no end is overwritten by any other";
            states::an_end_is_overwritten_by_another_end_only(port) if shared:
                "state: a FAILURE or REVOKED is overwritten by another end only";
            states::one_of_many_at_once_stores_the_success(port) if shared:
                "state: of many successes stored at once, one is written and stands";
            states::a_forgotten_state_is_unknown(port) if shared:
                "forget: what is forgotten is unknown, and may be stored anew";
            states::a_group_keeps_its_shape(port) if shared:
                "group: its shape is kept under its id, replaced and forgotten";
            states::what_is_kept_is_recalled(port) if shared:
                "keep: what is kept is recalled byte for byte, however often";
            watches::a_result_comes_to_who_expects_it(port):
                "watch: a result comes to whoever sent the task, who can load it then";
            watches::a_watch_yields_what_ended_before(port):
                "watch: those that had ended before are yielded";
            watches::a_watch_yields_what_ends_later(port):
                "watch: those that end later are yielded as they do, not before";
            watches::a_watch_yields_each_once(port):
                "watch: each is yielded once, however often asked for or stored";
            watches::a_watch_that_is_dropped_disturbs_no_other(port):
                "watch: many may watch one task, and one that goes disturbs no other";
            watches::a_watch_of_many_yields_them_all(port):
                "watch: a thousand tasks that end at once are all yielded";
            joins::joins_are_there_or_refused(port):
                "join: it opens where BackendInfo::join says so, else it is Unsupported";
            joins::the_last_member_sees_all_in_header_order(port) if join:
                "join: the last to arrive sees all, in header order";
            joins::places_are_numbers(port) if join:
                "join: header order is that of numbers, beyond ten too";
            joins::a_member_counts_once_with_its_first_outcome(port) if join:
                "join: arriving twice counts once, with the first outcome";
            joins::a_failed_member_counts_as_arrived(port) if join:
                "join: a failed member has arrived";
            joins::opening_twice_changes_nothing(port) if join:
                "join: opening one that is open, claimed or closed changes nothing";
            joins::joins_are_apart(port) if join:
                "join: members of one do not count in another";
            joins::an_unknown_join_is_missing(port) if join:
                "join: one that nobody opened is missing";
            joins::a_forgotten_join_is_missing(port) if join:
                "forget: a forgotten join is missing";
            joins::a_join_grows_once_for_each_member(port) if join:
                "grow: a join grows once for each member that asks";
            joins::growing_an_unknown_join_does_nothing(port) if join:
                "grow: an unknown join stays unknown, and that is no error";
            joins::a_quorum_of_successes_completes_a_join(port) if join:
                "quorum: so many successes complete a join; failures do not count";
            joins::a_quorum_out_of_reach_waits_for_all(port) if join:
                "quorum: out of reach, the join is complete when all have arrived";
            joins::one_of_many_at_once_completes_a_join(port) if join:
                "join: of many that arrive at once, one completes it and sees all";
            claims::there_is_one_claim_at_a_time(port) if join:
                "claim: while one has it, all others are told to ask again";
            claims::a_claim_that_lapses_passes_on(port) if join:
                "claim: one that lapsed passes on, and the first closes no more";
            claims::a_claim_counts_until_it_passes_on(port) if join:
                "claim: one that lapsed, and that nobody has taken, still closes";
            claims::a_claim_passes_on_with_the_same_members(port) if join:
                "claim: who takes it over sees the same members, not later ones";
            claims::one_of_many_at_once_takes_a_claim_over(port) if join:
                "claim: of many that ask for a lapsed one at once, one gets it";
            claims::a_closed_join_stays_closed(port) if join:
                "close: it closes once, for the claim that counts, and stays closed";
            expiry::things_expire(port, expiry) if expires, shared:
                "expiry: states, groups and what is kept go, and may come again";
            expiry::a_join_that_nobody_arrives_at_expires(port, expiry) if expires, join:
                "expiry: a join goes, and may be opened again";
            expiry::a_state_that_is_stored_again_lives_on(port, expiry) if expires, shared:
                "expiry: storing a state again starts its time anew";
            expiry::a_join_lives_on_while_members_arrive(port, expiry) if expires, join:
                "expiry: each arrival starts the time of a join anew";
            restarts::what_was_stored_is_there_after_a_restart(fixture) if persistent:
                "restart: states, groups and what is kept are there after it";
            restarts::a_join_goes_on_after_a_restart(fixture) if persistent, join:
                "restart: a join counts on after it, and a closed one stays closed";
        }
    };
}

/// All of them.
pub fn behaviours() -> &'static [Behaviour<dyn Backend>] {
    BEHAVIOURS
}

static BEHAVIOURS: &[Behaviour<dyn Backend>] = __backend_behaviours! { __table (dyn Backend) };

/// One test of a suite.
#[doc(hidden)]
pub fn test<F>(name: &str, port: &str, paused: bool, constructor: impl FnOnce(Need) -> F)
where
    F: Future<Output = BackendFixture>,
{
    behaviour::test(("backend", BEHAVIOURS), name, port, paused, constructor);
}

/// What some behaviours ask of a backend.
mod can {
    use canvas_core::Backend;

    pub(super) fn join(backend: &(dyn Backend + 'static)) -> Result<(), &'static str> {
        backend.info().join.then_some(()).ok_or("BackendInfo::join")
    }

    pub(super) fn shared(backend: &(dyn Backend + 'static)) -> Result<(), &'static str> {
        let shared = backend.info().shared;
        shared.then_some(()).ok_or("BackendInfo::shared")
    }

    pub(super) fn expires(backend: &(dyn Backend + 'static)) -> Result<(), &'static str> {
        let expires = backend.info().expires;
        expires.then_some(()).ok_or("BackendInfo::expires")
    }

    pub(super) fn persistent(backend: &(dyn Backend + 'static)) -> Result<(), &'static str> {
        let persistent = backend.info().persistent;
        persistent.then_some(()).ok_or("BackendInfo::persistent")
    }
}

/// How long whoever completes a join has it, where it is to lapse.
const CLAIM: Duration = Duration::from_millis(400);

/// How long where it is not.
const LONG: Duration = Duration::from_secs(600);

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Long enough to see that nothing comes.
const MOMENT: Duration = Duration::from_millis(100);

type Port = Arc<dyn Backend>;

fn meta(id: &str, state: State, result: Value) -> TaskMeta {
    let mut meta = TaskMeta::new(id.into(), state);
    meta.result = result;
    meta
}

fn success(id: &str, value: i64) -> TaskMeta {
    meta(id, State::Success, json!(value))
}

fn failure(id: &str) -> TaskMeta {
    let error = ExceptionInfo::builtin("ValueError", "no").to_value();
    meta(id, State::Failure, error)
}

/// Says that these are about to be sent, as a client does.
async fn expect(backend: &Port, ids: &[Id]) {
    let results: Vec<ResultTree> = ids.iter().cloned().map(ResultTree::task).collect();
    backend.expect(&results).await.unwrap();
}

/// Stores a state, as the worker does that has the message of that client.
async fn store(backend: &Port, meta: &TaskMeta) {
    let mut meta = meta.clone();
    meta.reply = backend.reply_to().map(|to| Reply {
        to,
        correlation_id: meta.task_id.clone(),
    });
    backend.store(&meta).await.unwrap();
}

async fn load(backend: &Port, id: &str) -> Option<TaskMeta> {
    let mut found = backend.load(&[id.into()]).await.unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

/// A member, told apart by its place, with a value.
fn part(index: u64, value: i64) -> Part {
    Part {
        task_id: Id::from(format!("member-{index}")),
        index: Some(index),
        state: State::Success,
        result: json!(value),
    }
}

fn failed(index: u64) -> Part {
    Part {
        state: State::Failure,
        result: ExceptionInfo::builtin("ValueError", "no").to_value(),
        ..part(index, 0)
    }
}

async fn open(backend: &Port, id: &str, size: u64) {
    open_quorum(backend, id, size, size).await;
}

async fn open_quorum(backend: &Port, id: &str, size: u64, quorum: u64) {
    let id = id.into();
    let spec = JoinSpec { id, size, quorum };
    backend.open_join(&spec).await.unwrap();
}

/// Arrives, with a claim that does not lapse.
async fn arrive(backend: &Port, join: &str, part: &Part) -> Arrival {
    backend.arrive(&join.into(), part, LONG).await.unwrap()
}

/// Arrives, with a claim that lapses soon.
async fn arrive_briefly(backend: &Port, join: &str, part: &Part) -> Arrival {
    backend.arrive(&join.into(), part, CLAIM).await.unwrap()
}

/// Waits until such a claim has lapsed.
async fn lapse() {
    tokio::time::sleep(CLAIM + Duration::from_millis(20)).await;
}

fn waiting(arrived: u64, size: u64) -> Arrival {
    Arrival::Waiting { arrived, size }
}

fn complete(arrival: Arrival) -> (u64, Vec<Part>) {
    match arrival {
        Arrival::Complete { claim, parts } => (claim, parts),
        other => panic!("not complete: {other:?}"),
    }
}

async fn close(backend: &Port, join: &str, claim: u64) -> bool {
    backend.close_join(&join.into(), claim).await.unwrap()
}
