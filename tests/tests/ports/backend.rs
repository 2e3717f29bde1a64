//! What a backend does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use canvas::backend::{Arrival, JoinSpec, Part, Stored};
use canvas::{Backend, ExceptionInfo, Id, ResultTree, State, TaskMeta};
use futures_util::StreamExt;
use serde_json::{Value, json};

/// How long whoever completes a join has it.
const CLAIM: Duration = Duration::from_millis(400);

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Long enough to see that nothing comes.
const MOMENT: Duration = Duration::from_millis(100);

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

async fn load(backend: &Arc<dyn Backend>, id: &str) -> Option<TaskMeta> {
    let mut found = backend.load(&[id.into()]).await.unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

/// What is stored is loaded as it was.
pub(crate) async fn a_state_is_loaded_as_it_was_stored(backend: Arc<dyn Backend>) {
    let mut full = success("1", 3);
    full.children = Some(vec![ResultTree::group(
        "g".into(),
        vec![ResultTree::task("2".into())],
    )]);
    full.date_done = Some("2026-11-24T06:21:18.239414Z".parse().unwrap());
    full.group_id = Some("group".into());
    full.parent_id = Some("parent".into());
    full.extended.insert("name".to_owned(), json!("tasks.add"));
    assert_eq!(backend.store(&full).await.unwrap(), Stored::Written);
    assert_eq!(load(&backend, "1").await, Some(full));
    let mut failed = failure("3");
    failed.traceback = Some("line 1\nline 2".to_owned());
    backend.store(&failed).await.unwrap();
    assert_eq!(load(&backend, "3").await, Some(failed));
}

/// States are loaded in the order asked for, the same one twice if asked
/// twice; unknown ids are None.
pub(crate) async fn states_are_loaded_in_the_order_asked_for(backend: Arc<dyn Backend>) {
    for n in 1..=3 {
        backend.store(&success(&n.to_string(), n)).await.unwrap();
    }
    let ids = ["3", "unknown", "1", "2", "3"].map(Id::from);
    let found = backend.load(&ids).await.unwrap();
    let values: Vec<Option<i64>> = found
        .iter()
        .map(|meta| meta.as_ref()?.result.as_i64())
        .collect();
    assert_eq!(values, [Some(3), None, Some(1), Some(2), Some(3)]);
    assert!(backend.load(&[]).await.unwrap().is_empty());
}

/// The first SUCCESS stands, whatever comes after it.
pub(crate) async fn the_first_success_stands(backend: Arc<dyn Backend>) {
    assert_eq!(
        backend.store(&success("1", 1)).await.unwrap(),
        Stored::Written
    );
    let later = [
        success("1", 2),
        failure("1"),
        meta("1", State::Retry, Value::Null),
        meta("1", State::Started, Value::Null),
        meta("1", State::Revoked, Value::Null),
        meta("1", State::Custom("PROGRESS".to_owned()), Value::Null),
    ];
    for later in later {
        let stored = backend.store(&later).await.unwrap();
        assert_eq!(stored, Stored::Kept, "{}", later.status);
        assert_eq!(load(&backend, "1").await, Some(success("1", 1)));
    }
}

/// A state that is no end is overwritten by any other.
pub(crate) async fn a_state_that_is_no_end_is_overwritten(backend: Arc<dyn Backend>) {
    let states = [
        State::Received,
        State::Started,
        State::Custom("PROGRESS".to_owned()),
        State::Retry,
        State::Started,
        State::Failure,
    ];
    for state in states {
        let stored = backend.store(&meta("1", state.clone(), Value::Null)).await;
        assert_eq!(stored.unwrap(), Stored::Written, "{state}");
        assert_eq!(load(&backend, "1").await.unwrap().status, state);
    }
}

/// An end that is no success is overwritten by another end only.
pub(crate) async fn an_end_is_overwritten_by_another_end_only(backend: Arc<dyn Backend>) {
    for end in [State::Failure, State::Revoked] {
        let id = end.as_str();
        backend
            .store(&meta(id, end.clone(), Value::Null))
            .await
            .unwrap();
        for state in [State::Started, State::Retry, State::Custom("X".to_owned())] {
            let stored = backend.store(&meta(id, state, Value::Null)).await.unwrap();
            assert_eq!(stored, Stored::Kept);
        }
        assert_eq!(load(&backend, id).await.unwrap().status, end);
        assert_eq!(backend.store(&failure(id)).await.unwrap(), Stored::Written);
        assert_eq!(
            backend.store(&success(id, 1)).await.unwrap(),
            Stored::Written
        );
        assert_eq!(load(&backend, id).await, Some(success(id, 1)));
    }
}

/// What is forgotten is unknown, and may be stored anew.
pub(crate) async fn a_forgotten_state_is_unknown(backend: Arc<dyn Backend>) {
    backend.store(&success("1", 1)).await.unwrap();
    backend.store(&success("2", 2)).await.unwrap();
    backend
        .forget(&["1".into(), "unknown".into()])
        .await
        .unwrap();
    assert_eq!(load(&backend, "1").await, None);
    assert_eq!(load(&backend, "2").await, Some(success("2", 2)));
    assert_eq!(
        backend.store(&success("1", 3)).await.unwrap(),
        Stored::Written
    );
}

/// Those that had ended before are among those watched.
pub(crate) async fn a_watch_yields_what_ended_before(backend: Arc<dyn Backend>) {
    backend.store(&success("1", 1)).await.unwrap();
    backend.store(&failure("2")).await.unwrap();
    backend
        .store(&meta("3", State::Revoked, Value::Null))
        .await
        .unwrap();
    assert_eq!(watched(&backend, &["1", "2", "3"]).await, ["1", "2", "3"]);
    assert!(watched(&backend, &[]).await.is_empty());
}

/// Those that end later are yielded as they do, and not before.
pub(crate) async fn a_watch_yields_what_ends_later(backend: Arc<dyn Backend>) {
    backend
        .store(&meta("1", State::Started, Value::Null))
        .await
        .unwrap();
    let ids = ["1", "2", "3"].map(Id::from);
    let mut watch = backend.watch(&ids).await.unwrap();
    backend
        .store(&meta("2", State::Retry, Value::Null))
        .await
        .unwrap();
    assert!(tokio::time::timeout(MOMENT, watch.next()).await.is_err());
    backend.store(&success("3", 3)).await.unwrap();
    let first = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
    assert_eq!(first.unwrap().unwrap(), success("3", 3));
    let (one, two) = (success("1", 1), failure("2"));
    let later = async {
        tokio::time::sleep(MOMENT).await;
        backend.store(&one).await.unwrap();
        backend.store(&two).await.unwrap();
    };
    let rest = async { watch.by_ref().map(Result::unwrap).collect::<Vec<_>>().await };
    let (rest, ()) = tokio::join!(rest, later);
    let rest: BTreeSet<Id> = rest.into_iter().map(|meta| meta.task_id).collect();
    assert_eq!(rest, BTreeSet::from(["1".into(), "2".into()]));
}

/// Each task is yielded once, however often it was asked for, or stored.
pub(crate) async fn a_watch_yields_each_once(backend: Arc<dyn Backend>) {
    backend.store(&success("1", 1)).await.unwrap();
    let ids = ["1", "2", "1", "2", "1"].map(Id::from);
    let watch = backend.watch(&ids).await.unwrap();
    backend.store(&failure("2")).await.unwrap();
    backend.store(&success("2", 2)).await.unwrap();
    let all = watch
        .map(|meta| meta.unwrap().task_id.to_string())
        .collect::<Vec<_>>();
    let all = tokio::time::timeout(PATIENCE, all).await.unwrap();
    assert_eq!(all, ["1", "2"]);
}

/// Many may watch one task, and one that goes does not disturb the others.
pub(crate) async fn a_watch_that_is_dropped_disturbs_no_other(backend: Arc<dyn Backend>) {
    let ids = ["1", "2"].map(Id::from);
    let first = backend.watch(&ids).await.unwrap();
    let second = backend.watch(&ids).await.unwrap();
    let mut third = backend.watch(&ids).await.unwrap();
    drop(first);
    backend.store(&success("1", 1)).await.unwrap();
    assert_eq!(third.next().await.unwrap().unwrap(), success("1", 1));
    drop(third);
    backend.store(&success("2", 2)).await.unwrap();
    let all = second.collect::<Vec<_>>();
    assert_eq!(tokio::time::timeout(PATIENCE, all).await.unwrap().len(), 2);
}

/// A watch of many yields all of them.
pub(crate) async fn a_watch_of_many_yields_them_all(backend: Arc<dyn Backend>) {
    let ids: Vec<Id> = (0..1_000).map(|n| Id::from(n.to_string())).collect();
    let watch = backend.watch(&ids).await.unwrap();
    let storing = backend.clone();
    let stored = ids.clone();
    let storing = tokio::spawn(async move {
        for id in stored.iter().rev() {
            storing.store(&success(id.as_str(), 1)).await.unwrap();
        }
    });
    let all = watch
        .map(|meta| meta.unwrap().task_id)
        .collect::<BTreeSet<Id>>();
    let all = tokio::time::timeout(PATIENCE, all).await.unwrap();
    assert_eq!(all.len(), 1_000);
    storing.await.unwrap();
}

async fn watched(backend: &Arc<dyn Backend>, ids: &[&str]) -> Vec<String> {
    let ids: Vec<Id> = ids.iter().map(|id| Id::from(*id)).collect();
    let watch = backend.watch(&ids).await.unwrap();
    let all = watch
        .map(|meta| meta.unwrap().task_id.to_string())
        .collect::<Vec<_>>();
    let mut all = tokio::time::timeout(PATIENCE, all).await.unwrap();
    all.sort();
    all
}

/// A group is kept under its id, in its shape, until it is forgotten.
pub(crate) async fn a_group_keeps_its_shape(backend: Arc<dyn Backend>) {
    let mut member = ResultTree::task("b".into());
    member.set_root_parent(ResultTree::task("a".into()));
    let inner = ResultTree::group("inner".into(), Vec::new());
    let group = ResultTree::group("g".into(), vec![member, inner]);
    assert_eq!(backend.load_group(&"g".into()).await.unwrap(), None);
    backend.save_group(&group).await.unwrap();
    assert_eq!(
        backend.load_group(&"g".into()).await.unwrap(),
        Some(group.clone())
    );
    let smaller = ResultTree::group("g".into(), Vec::new());
    backend.save_group(&smaller).await.unwrap();
    assert_eq!(
        backend.load_group(&"g".into()).await.unwrap(),
        Some(smaller)
    );
    backend.forget_group(&"g".into()).await.unwrap();
    backend.forget_group(&"g".into()).await.unwrap();
    assert_eq!(backend.load_group(&"g".into()).await.unwrap(), None);
}

/// What is kept is recalled, byte for byte, however often.
pub(crate) async fn what_is_kept_is_recalled(backend: Arc<dyn Backend>) {
    let value = Bytes::from("[{\"task\": \"ü\"}]".repeat(1_000));
    assert_eq!(backend.recall(&"k".into()).await.unwrap(), None);
    backend.keep(&"k".into(), value.clone()).await.unwrap();
    backend.keep(&"k".into(), value.clone()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(
            backend.recall(&"k".into()).await.unwrap(),
            Some(value.clone())
        );
    }
}

/// Results, groups and what is kept go when their time is over. `backend`
/// keeps things for `expiry`.
pub(crate) async fn things_expire(backend: Arc<dyn Backend>, expiry: Duration) {
    backend.store(&success("1", 1)).await.unwrap();
    let group = ResultTree::group("g".into(), Vec::new());
    backend.save_group(&group).await.unwrap();
    backend
        .keep(&"k".into(), Bytes::from_static(b"[]"))
        .await
        .unwrap();
    open(&backend, "j", 2).await;
    tokio::time::sleep(expiry / 2).await;
    assert!(load(&backend, "1").await.is_some());
    assert!(backend.load_group(&"g".into()).await.unwrap().is_some());
    assert!(backend.recall(&"k".into()).await.unwrap().is_some());
    tokio::time::sleep(expiry).await;
    assert_eq!(load(&backend, "1").await, None);
    assert_eq!(backend.load_group(&"g".into()).await.unwrap(), None);
    assert_eq!(backend.recall(&"k".into()).await.unwrap(), None);
    assert_eq!(arrive(&backend, "j", &part(0, 0)).await, Arrival::Missing);
    // And may come again.
    assert_eq!(backend.store(&failure("1")).await.unwrap(), Stored::Written);
    open(&backend, "j", 1).await;
    assert!(matches!(
        arrive(&backend, "j", &part(0, 0)).await,
        Arrival::Complete { .. }
    ));
}

/// Storing anew starts the time anew.
pub(crate) async fn a_state_that_is_stored_again_lives_on(
    backend: Arc<dyn Backend>,
    expiry: Duration,
) {
    for state in [State::Started, State::Retry, State::Started, State::Success] {
        backend
            .store(&meta("1", state.clone(), Value::Null))
            .await
            .unwrap();
        tokio::time::sleep(expiry * 2 / 3).await;
        assert_eq!(
            load(&backend, "1").await.map(|meta| meta.status),
            Some(state)
        );
    }
    tokio::time::sleep(expiry).await;
    assert_eq!(load(&backend, "1").await, None);
}

/// Each arrival starts the time of a join anew.
pub(crate) async fn a_join_lives_on_while_members_arrive(
    backend: Arc<dyn Backend>,
    expiry: Duration,
) {
    open(&backend, "j", 4).await;
    for n in 0..3 {
        tokio::time::sleep(expiry * 2 / 3).await;
        let waiting = Arrival::Waiting {
            arrived: n + 1,
            size: 4,
        };
        assert_eq!(arrive(&backend, "j", &part(n, 0)).await, waiting);
    }
    tokio::time::sleep(expiry * 2 / 3).await;
    let last = arrive(&backend, "j", &part(3, 0)).await;
    assert_eq!(complete(last).1.len(), 4);
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

async fn open(backend: &Arc<dyn Backend>, id: &str, size: u64) {
    open_quorum(backend, id, size, size).await;
}

async fn open_quorum(backend: &Arc<dyn Backend>, id: &str, size: u64, quorum: u64) {
    let spec = JoinSpec {
        id: id.into(),
        size,
        quorum,
    };
    backend.open_join(&spec).await.unwrap();
}

async fn arrive(backend: &Arc<dyn Backend>, join: &str, part: &Part) -> Arrival {
    backend.arrive(&join.into(), part, CLAIM).await.unwrap()
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

async fn close(backend: &Arc<dyn Backend>, join: &str, claim: u64) -> bool {
    backend.close_join(&join.into(), claim).await.unwrap()
}

/// A join counts its members, and the last one sees all of them, in header order.
pub(crate) async fn the_last_member_sees_all_in_header_order(backend: Arc<dyn Backend>) {
    open(&backend, "j", 3).await;
    assert_eq!(arrive(&backend, "j", &part(2, 20)).await, waiting(1, 3));
    assert_eq!(arrive(&backend, "j", &part(0, 0)).await, waiting(2, 3));
    let (claim, parts) = complete(arrive(&backend, "j", &part(1, 10)).await);
    assert_eq!(parts, [part(0, 0), part(1, 10), part(2, 20)]);
    assert!(close(&backend, "j", claim).await);
}

/// The order is that of the places as numbers, also beyond ten.
pub(crate) async fn places_are_numbers(backend: Arc<dyn Backend>) {
    open(&backend, "j", 12).await;
    for index in (1..12).rev() {
        arrive(&backend, "j", &part(index, 0)).await;
    }
    let (_, parts) = complete(arrive(&backend, "j", &part(0, 0)).await);
    let places: Vec<Option<u64>> = parts.iter().map(|part| part.index).collect();
    assert_eq!(places, (0..12).map(Some).collect::<Vec<_>>());
}

/// A member counts once, with the outcome it came with first.
pub(crate) async fn a_member_counts_once_with_its_first_outcome(backend: Arc<dyn Backend>) {
    open(&backend, "j", 2).await;
    assert_eq!(arrive(&backend, "j", &part(0, 1)).await, waiting(1, 2));
    assert_eq!(arrive(&backend, "j", &part(0, 1)).await, waiting(1, 2));
    assert_eq!(arrive(&backend, "j", &part(0, 2)).await, waiting(1, 2));
    assert_eq!(arrive(&backend, "j", &failed(0)).await, waiting(1, 2));
    let (_, parts) = complete(arrive(&backend, "j", &part(1, 5)).await);
    assert_eq!(parts, [part(0, 1), part(1, 5)]);
}

/// Failures are among the members that have arrived.
pub(crate) async fn a_failed_member_counts_as_arrived(backend: Arc<dyn Backend>) {
    open(&backend, "j", 2).await;
    assert_eq!(arrive(&backend, "j", &failed(1)).await, waiting(1, 2));
    let (_, parts) = complete(arrive(&backend, "j", &part(0, 1)).await);
    assert_eq!(parts, [part(0, 1), failed(1)]);
}

/// Opening a join that is open, or closed, changes nothing.
pub(crate) async fn opening_twice_changes_nothing(backend: Arc<dyn Backend>) {
    open(&backend, "j", 2).await;
    arrive(&backend, "j", &part(0, 0)).await;
    open(&backend, "j", 7).await;
    let (claim, _) = complete(arrive(&backend, "j", &part(1, 0)).await);
    open(&backend, "j", 2).await;
    let again = arrive(&backend, "j", &part(0, 0)).await;
    assert!(matches!(again, Arrival::Claimed { .. }), "{again:?}");
    assert!(close(&backend, "j", claim).await);
    open(&backend, "j", 2).await;
    assert_eq!(arrive(&backend, "j", &part(0, 0)).await, Arrival::Closed);
}

/// Joins do not disturb each other.
pub(crate) async fn joins_are_apart(backend: Arc<dyn Backend>) {
    open(&backend, "j1", 2).await;
    open(&backend, "j2", 2).await;
    assert_eq!(arrive(&backend, "j1", &part(0, 0)).await, waiting(1, 2));
    assert_eq!(arrive(&backend, "j2", &part(1, 0)).await, waiting(1, 2));
    complete(arrive(&backend, "j1", &part(1, 0)).await);
    complete(arrive(&backend, "j2", &part(0, 0)).await);
}

/// A join that nobody has opened is missing.
pub(crate) async fn an_unknown_join_is_missing(backend: Arc<dyn Backend>) {
    assert_eq!(arrive(&backend, "j", &part(0, 0)).await, Arrival::Missing);
    assert!(!close(&backend, "j", 1).await);
}

/// While one has a claim, all others are told to ask again.
pub(crate) async fn there_is_one_claim_at_a_time(backend: Arc<dyn Backend>) {
    open(&backend, "j", 2).await;
    arrive(&backend, "j", &part(0, 0)).await;
    let (claim, _) = complete(arrive(&backend, "j", &part(1, 0)).await);
    for member in [part(0, 0), part(1, 0), part(2, 0)] {
        match arrive(&backend, "j", &member).await {
            Arrival::Claimed { retry_after } => assert!(retry_after <= CLAIM),
            other => panic!("not claimed: {other:?}"),
        }
    }
    assert!(close(&backend, "j", claim).await);
}

/// A claim that has lapsed passes to whoever asks next, who sees the same
/// members; what the first one had counts no more.
pub(crate) async fn a_claim_that_lapses_passes_on(backend: Arc<dyn Backend>) {
    open(&backend, "j", 2).await;
    arrive(&backend, "j", &part(0, 1)).await;
    let (lapsed, parts) = complete(arrive(&backend, "j", &part(1, 2)).await);
    let Arrival::Claimed { retry_after } = arrive(&backend, "j", &part(0, 1)).await else {
        panic!("not claimed")
    };
    tokio::time::sleep(retry_after + Duration::from_millis(10)).await;
    let (claim, again) = complete(arrive(&backend, "j", &part(0, 9)).await);
    assert_eq!(again, parts);
    assert_ne!(claim, lapsed);
    assert!(!close(&backend, "j", lapsed).await);
    let other = arrive(&backend, "j", &part(1, 2)).await;
    assert!(matches!(other, Arrival::Claimed { .. }), "{other:?}");
    assert!(close(&backend, "j", claim).await);
    assert_eq!(arrive(&backend, "j", &part(0, 1)).await, Arrival::Closed);
}

/// A claim that has lapsed, but that nobody has taken over, still closes.
pub(crate) async fn a_claim_counts_until_it_passes_on(backend: Arc<dyn Backend>) {
    open(&backend, "j", 1).await;
    let (claim, _) = complete(arrive(&backend, "j", &part(0, 1)).await);
    tokio::time::sleep(CLAIM * 2).await;
    assert!(close(&backend, "j", claim).await);
    assert_eq!(arrive(&backend, "j", &part(0, 1)).await, Arrival::Closed);
}

/// Closing twice closes once.
pub(crate) async fn a_closed_join_stays_closed(backend: Arc<dyn Backend>) {
    open(&backend, "j", 1).await;
    let (claim, _) = complete(arrive(&backend, "j", &part(0, 1)).await);
    assert!(!close(&backend, "j", claim + 1).await);
    assert!(close(&backend, "j", claim).await);
    assert!(!close(&backend, "j", claim).await);
    backend
        .grow_join(&"j".into(), &"late".into(), 1)
        .await
        .unwrap();
    for member in [part(0, 1), part(1, 1)] {
        assert_eq!(arrive(&backend, "j", &member).await, Arrival::Closed);
    }
}

/// A join grows, once for each member that asks.
pub(crate) async fn a_join_grows_once_for_each_member(backend: Arc<dyn Backend>) {
    open(&backend, "j", 2).await;
    arrive(&backend, "j", &part(0, 0)).await;
    let grow = |member: &'static str, by| {
        let backend = backend.clone();
        async move {
            backend
                .grow_join(&"j".into(), &member.into(), by)
                .await
                .unwrap()
        }
    };
    grow("a", 2).await;
    grow("a", 2).await;
    grow("b", 1).await;
    for index in 1..4 {
        assert_eq!(
            arrive(&backend, "j", &part(index, 0)).await,
            waiting(index + 1, 5)
        );
    }
    assert_eq!(
        complete(arrive(&backend, "j", &part(4, 0)).await).1.len(),
        5
    );
}

/// Growing a join that is not there is no error.
pub(crate) async fn growing_an_unknown_join_does_nothing(backend: Arc<dyn Backend>) {
    backend
        .grow_join(&"j".into(), &"a".into(), 2)
        .await
        .unwrap();
    assert_eq!(arrive(&backend, "j", &part(0, 0)).await, Arrival::Missing);
}

/// With a quorum, so many successes complete the join; failures do not count
/// towards it.
pub(crate) async fn a_quorum_of_successes_completes_a_join(backend: Arc<dyn Backend>) {
    open_quorum(&backend, "j", 5, 2).await;
    assert_eq!(arrive(&backend, "j", &failed(4)).await, waiting(1, 5));
    assert_eq!(arrive(&backend, "j", &part(3, 3)).await, waiting(2, 5));
    assert_eq!(arrive(&backend, "j", &failed(1)).await, waiting(3, 5));
    let (claim, parts) = complete(arrive(&backend, "j", &part(0, 0)).await);
    assert_eq!(parts, [part(0, 0), failed(1), part(3, 3), failed(4)]);
    assert!(close(&backend, "j", claim).await);
    assert_eq!(arrive(&backend, "j", &part(2, 2)).await, Arrival::Closed);
}

/// Where a quorum is out of reach, the join is complete when all have arrived.
pub(crate) async fn a_quorum_out_of_reach_waits_for_all(backend: Arc<dyn Backend>) {
    open_quorum(&backend, "j", 3, 2).await;
    arrive(&backend, "j", &failed(0)).await;
    assert_eq!(arrive(&backend, "j", &failed(1)).await, waiting(2, 3));
    let (_, parts) = complete(arrive(&backend, "j", &part(2, 2)).await);
    assert_eq!(parts.len(), 3);
}

/// Who takes over a claim sees what the first one saw, though more have
/// arrived since: the body is sent again, not another one.
pub(crate) async fn a_claim_passes_on_with_the_same_members(backend: Arc<dyn Backend>) {
    open_quorum(&backend, "j", 3, 1).await;
    let (_, parts) = complete(arrive(&backend, "j", &part(2, 2)).await);
    arrive(&backend, "j", &part(0, 0)).await;
    tokio::time::sleep(CLAIM + Duration::from_millis(10)).await;
    let (_, again) = complete(arrive(&backend, "j", &part(1, 1)).await);
    assert_eq!(again, parts);
}

/// Of many that arrive at once, one completes the join, and sees all.
pub(crate) async fn one_of_many_at_once_completes_a_join(backend: Arc<dyn Backend>) {
    let size = 200;
    open(&backend, "j", size).await;
    // Each arrives three times.
    let arriving = (0..size * 3).map(|n| {
        let backend = backend.clone();
        tokio::spawn(async move { arrive(&backend, "j", &part(n % size, 0)).await })
    });
    let mut completed = Vec::new();
    for arrival in arriving.collect::<Vec<_>>() {
        if let Arrival::Complete { parts, .. } = arrival.await.unwrap() {
            completed.push(parts.len());
        }
    }
    assert_eq!(completed, [200]);
}

/// Of many that ask at once for a claim that has lapsed, one gets it.
pub(crate) async fn one_of_many_at_once_takes_a_claim_over(backend: Arc<dyn Backend>) {
    open(&backend, "j", 1).await;
    complete(arrive(&backend, "j", &part(0, 0)).await);
    tokio::time::sleep(CLAIM + Duration::from_millis(10)).await;
    let arriving = (0..50).map(|_| {
        let backend = backend.clone();
        tokio::spawn(async move { arrive(&backend, "j", &part(0, 0)).await })
    });
    let mut taken = 0;
    for arrival in arriving.collect::<Vec<_>>() {
        taken += usize::from(matches!(arrival.await.unwrap(), Arrival::Complete { .. }));
    }
    assert_eq!(taken, 1);
}
