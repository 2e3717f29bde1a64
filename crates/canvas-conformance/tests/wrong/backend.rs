//! A backend with one fault.

use std::collections::{HashMap, HashSet};
use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use canvas_conformance::{BackendFixture, Need};
use canvas_core::backend::{Arrival, BackendInfo, JoinSpec, Part, Stored};
use canvas_core::memory::MemoryBackend;
use canvas_core::{Backend, Id, Result, ResultTree, State, TaskMeta};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::time::Instant;

/// What it does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    LosesChildren,
    LoadsBackwards,
    LastWriteWins,
    FirstWriteWins,
    FailureIsNoEnd,
    LooksThenWrites,
    ForgetsNothing,
    FirstGroupStays,
    RecallsOnce,
    LoadsOnce,
    WatchesOnlyLater,
    WatchesOnlyEarlier,
    WatchesEachAsked,
    OneWatchAtATime,
    WatchesTheFirstHundred,
    OpensNothing,
    RefusesNothing,
    PartsBackwards,
    PartsByText,
    CountsArrivals,
    LastOutcomeCounts,
    FailuresDoNotArrive,
    OpensAnew,
    OneJoinForAll,
    OpensOnArrival,
    GrowsEachTime,
    GrowingOpens,
    NoQuorum,
    OnlyQuorum,
    ClaimForAll,
    ClaimsNeverLapse,
    ClosesOnlyInTime,
    TakesInLateMembers,
    ClosesForAnyClaim,
    NeverExpires,
    ExpiresFromFirst,
    LosesAll,
}

use Fault::*;

crate::faults! { canvas_conformance::backend::behaviours, super::wrong:
    a_state_is_loaded_as_it_was_stored: LosesChildren;
    states_are_loaded_in_the_order_asked_for: LoadsBackwards;
    the_first_success_stands: LastWriteWins;
    a_state_that_is_no_end_is_overwritten: FirstWriteWins;
    an_end_is_overwritten_by_another_end_only: FailureIsNoEnd, FirstWriteWins;
    one_of_many_at_once_stores_the_success: LooksThenWrites;
    a_forgotten_state_is_unknown: ForgetsNothing;
    a_group_keeps_its_shape: FirstGroupStays;
    what_is_kept_is_recalled: RecallsOnce;
    a_result_comes_to_who_expects_it: LoadsOnce;
    a_watch_yields_what_ended_before: WatchesOnlyLater;
    a_watch_yields_what_ends_later: WatchesOnlyEarlier;
    a_watch_yields_each_once: WatchesEachAsked;
    a_watch_that_is_dropped_disturbs_no_other: OneWatchAtATime;
    a_watch_of_many_yields_them_all: WatchesTheFirstHundred;
    joins_are_there_or_refused: OpensNothing, RefusesNothing;
    the_last_member_sees_all_in_header_order: PartsBackwards;
    places_are_numbers: PartsByText;
    a_member_counts_once_with_its_first_outcome: CountsArrivals, LastOutcomeCounts;
    a_failed_member_counts_as_arrived: FailuresDoNotArrive;
    opening_twice_changes_nothing: OpensAnew;
    joins_are_apart: OneJoinForAll;
    an_unknown_join_is_missing: OpensOnArrival;
    a_forgotten_join_is_missing: ForgetsNothing;
    a_join_grows_once_for_each_member: GrowsEachTime;
    growing_an_unknown_join_does_nothing: GrowingOpens;
    a_quorum_of_successes_completes_a_join: NoQuorum;
    a_quorum_out_of_reach_waits_for_all: OnlyQuorum;
    one_of_many_at_once_completes_a_join: ClaimForAll;
    there_is_one_claim_at_a_time: ClaimForAll;
    a_claim_that_lapses_passes_on: ClaimsNeverLapse, ClosesForAnyClaim;
    a_claim_counts_until_it_passes_on: ClosesOnlyInTime;
    a_claim_passes_on_with_the_same_members: TakesInLateMembers;
    one_of_many_at_once_takes_a_claim_over: ClaimForAll;
    a_closed_join_stays_closed: ClosesForAnyClaim;
    things_expire: NeverExpires;
    a_join_that_nobody_arrives_at_expires: NeverExpires;
    a_state_that_is_stored_again_lives_on: ExpiresFromFirst;
    a_join_lives_on_while_members_arrive: ExpiresFromFirst;
    what_was_stored_is_there_after_a_restart: LosesAll;
    a_join_goes_on_after_a_restart: LosesAll;
}

const EXPIRY: Duration = Duration::from_secs(10);

fn wrong(fault: Option<Fault>, need: Need) -> BackendFixture {
    let expires = need == Need::Expiry && fault != Some(NeverExpires);
    let memory = MemoryBackend::with_expiry(expires.then_some(EXPIRY));
    let wrong = move |memory| {
        let memo = Mutex::default();
        Arc::new(Wrong {
            memory,
            fault,
            memo,
            count: Arc::default(),
        })
    };
    BackendFixture::new(wrong(memory.clone()))
        .expiring_after(EXPIRY)
        .restarting(async move || {
            let lost = fault == Some(LosesAll);
            let kept = if lost { MemoryBackend::new() } else { memory };
            BackendFixture::new(wrong(kept))
        })
}

/// The backend in memory, but for one fault; and what a fault must remember.
#[derive(Debug)]
struct Wrong {
    memory: MemoryBackend,
    fault: Option<Fault>,
    memo: Mutex<Memo>,
    count: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Memo {
    seen: HashSet<Id>,
    first: HashMap<Id, Instant>,
    parts: Vec<Part>,
    late: Vec<Part>,
    quorum: u64,
    lapses: Option<Instant>,
}

impl Wrong {
    fn is(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn memo(&self) -> std::sync::MutexGuard<'_, Memo> {
        self.memo.lock().unwrap()
    }

    /// A name that was not there before.
    fn another(&self, id: &Id) -> Id {
        format!("{id}-{}", self.count.fetch_add(1, Relaxed)).into()
    }

    /// Whether this is the first time.
    fn first_time(&self, id: &Id) -> bool {
        self.memo().seen.insert(id.clone())
    }

    /// Whether it was first seen so long ago that it should have gone, had
    /// nothing happened.
    fn is_old(&self, id: &Id) -> bool {
        let first = *self
            .memo()
            .first
            .entry(id.clone())
            .or_insert_with(Instant::now);
        self.is(ExpiresFromFirst) && first.elapsed() >= EXPIRY
    }

    async fn load_one(&self, id: &Id) -> Option<TaskMeta> {
        self.memory
            .load(std::slice::from_ref(id))
            .await
            .unwrap()
            .remove(0)
    }

    async fn overwrite(&self, meta: &TaskMeta) -> Result<Stored> {
        self.memory
            .forget(std::slice::from_ref(&meta.task_id))
            .await?;
        self.memory.store(meta).await
    }

    fn join(&self, join: &Id) -> Id {
        let one = self.is(OneJoinForAll);
        if one { "the join".into() } else { join.clone() }
    }

    /// What is wrong with an answer that is right.
    fn distort(&self, part: &Part, arrival: Arrival) -> Arrival {
        let mut memo = self.memo();
        match (arrival, self.fault) {
            (Arrival::Complete { claim, mut parts }, fault) => {
                match fault {
                    Some(PartsBackwards) => parts.reverse(),
                    Some(PartsByText) => {
                        parts.sort_by_key(|part| part.index.map(|n| n.to_string()))
                    }
                    Some(TakesInLateMembers) => parts.append(&mut memo.late),
                    Some(LastOutcomeCounts) => {
                        for part in &mut parts {
                            let last = memo.late.iter().rfind(|late| late.task_id == part.task_id);
                            *part = last.cloned().unwrap_or_else(|| part.clone());
                        }
                    }
                    Some(OnlyQuorum) => {
                        let successes = parts.iter().filter(|part| part.is_ok()).count();
                        if (successes as u64) < memo.quorum {
                            return Arrival::Waiting {
                                arrived: 0,
                                size: 0,
                            };
                        }
                    }
                    _ => {}
                }
                memo.parts = parts.clone();
                Arrival::Complete { claim, parts }
            }
            (Arrival::Claimed { .. }, Some(ClaimForAll)) => Arrival::Complete {
                claim: 1,
                parts: memo.parts.clone(),
            },
            (arrival, Some(TakesInLateMembers | LastOutcomeCounts)) => {
                memo.late.push(part.clone());
                arrival
            }
            (arrival, _) => arrival,
        }
    }
}

#[async_trait]
impl Backend for Wrong {
    fn info(&self) -> BackendInfo {
        let mut info = self.memory.info();
        info.persistent = true;
        info.join = !self.is(RefusesNothing);
        info
    }

    async fn store(&self, meta: &TaskMeta) -> Result<Stored> {
        let id = &meta.task_id;
        self.is_old(id);
        match self.fault {
            Some(LastWriteWins) => self.overwrite(meta).await,
            Some(FirstWriteWins) if self.load_one(id).await.is_some() => Ok(Stored::Kept),
            Some(FailureIsNoEnd) => match self.load_one(id).await {
                Some(old) if old.status == State::Failure => self.overwrite(meta).await,
                _ => self.memory.store(meta).await,
            },
            Some(LooksThenWrites) => {
                if self.load_one(id).await.is_some() {
                    return Ok(Stored::Kept);
                }
                tokio::task::yield_now().await;
                self.overwrite(meta).await
            }
            _ => self.memory.store(meta).await,
        }
    }

    async fn load(&self, ids: &[Id]) -> Result<Vec<Option<TaskMeta>>> {
        let mut found = self.memory.load(ids).await?;
        for (id, meta) in ids.iter().zip(&mut found) {
            if self.is(LoadsOnce) && !self.first_time(id) || self.is_old(id) {
                *meta = None;
            }
            if self.is(LosesChildren)
                && let Some(meta) = meta
            {
                meta.children = None;
            }
        }
        if self.is(LoadsBackwards) {
            found.reverse();
        }
        Ok(found)
    }

    async fn forget(&self, ids: &[Id]) -> Result<()> {
        match self.is(ForgetsNothing) {
            true => Ok(()),
            false => self.memory.forget(ids).await,
        }
    }

    async fn watch(&self, ids: &[Id]) -> Result<BoxStream<'static, Result<TaskMeta>>> {
        let ended = self.memory.load(ids).await?.into_iter().flatten();
        let ended: Vec<TaskMeta> = ended.filter(|meta| meta.status.is_ready()).collect();
        match self.fault {
            Some(WatchesOnlyLater) => {
                let has_ended = |id: &&Id| ended.iter().any(|meta| meta.task_id == **id);
                let later: Vec<Id> = ids.iter().filter(|id| !has_ended(id)).cloned().collect();
                self.memory.watch(&later).await
            }
            Some(WatchesOnlyEarlier) => Ok(stream::iter(ended.into_iter().map(Ok)).boxed()),
            Some(WatchesEachAsked) => {
                let mut watches = Vec::new();
                for id in ids {
                    watches.push(self.memory.watch(std::slice::from_ref(id)).await?);
                }
                Ok(stream::select_all(watches).boxed())
            }
            Some(OneWatchAtATime) => {
                let turn = self.count.fetch_add(1, Relaxed) + 1;
                let count = self.count.clone();
                let is_last = move |_: &_| ready(count.load(Relaxed) == turn);
                Ok(self.memory.watch(ids).await?.take_while(is_last).boxed())
            }
            Some(WatchesTheFirstHundred) => Ok(self.memory.watch(ids).await?.take(100).boxed()),
            _ => self.memory.watch(ids).await,
        }
    }

    async fn save_group(&self, group: &ResultTree) -> Result<()> {
        match self.is(FirstGroupStays) && !self.first_time(&group.id) {
            true => Ok(()),
            false => self.memory.save_group(group).await,
        }
    }

    async fn load_group(&self, id: &Id) -> Result<Option<ResultTree>> {
        self.memory.load_group(id).await
    }

    async fn forget_group(&self, id: &Id) -> Result<()> {
        self.memory.forget_group(id).await
    }

    async fn keep(&self, key: &Id, value: Bytes) -> Result<()> {
        self.memory.keep(key, value).await
    }

    async fn recall(&self, key: &Id) -> Result<Option<Bytes>> {
        let found = self.memory.recall(key).await?;
        let again = found.is_some() && self.is(RecallsOnce) && !self.first_time(key);
        Ok(found.filter(|_| !again))
    }

    async fn open_join(&self, spec: &JoinSpec) -> Result<()> {
        self.memo().quorum = spec.quorum;
        self.is_old(&spec.id);
        let mut spec = spec.clone();
        spec.id = self.join(&spec.id);
        match self.fault {
            Some(OpensNothing) => return Ok(()),
            Some(OpensAnew) => self.memory.forget(std::slice::from_ref(&spec.id)).await?,
            Some(NoQuorum) => spec.quorum = spec.size,
            _ => {}
        }
        self.memory.open_join(&spec).await
    }

    async fn grow_join(&self, join: &Id, member: &Id, by: u64) -> Result<()> {
        let mut member = member.clone();
        match self.fault {
            Some(GrowsEachTime) => member = self.another(&member),
            Some(GrowingOpens) => {
                let id = join.clone();
                let spec = JoinSpec {
                    id,
                    size: by,
                    quorum: by,
                };
                self.memory.open_join(&spec).await?;
            }
            _ => {}
        }
        self.memory.grow_join(&self.join(join), &member, by).await
    }

    async fn arrive(&self, join: &Id, part: &Part, lease: Duration) -> Result<Arrival> {
        if self.is_old(join) {
            return Ok(Arrival::Missing);
        }
        let join = self.join(join);
        let (mut part, mut lease) = (part.clone(), lease);
        match self.fault {
            Some(CountsArrivals) => part.task_id = self.another(&part.task_id),
            Some(FailuresDoNotArrive) if !part.is_ok() => {
                return Ok(Arrival::Waiting {
                    arrived: 0,
                    size: 2,
                });
            }
            Some(ClaimsNeverLapse) => lease *= 1_000,
            Some(OpensOnArrival) => {
                let id = join.clone();
                let spec = JoinSpec {
                    id,
                    size: 2,
                    quorum: 2,
                };
                self.memory.open_join(&spec).await?;
            }
            _ => {}
        }
        let arrival = self.memory.arrive(&join, &part, lease).await?;
        if matches!(arrival, Arrival::Complete { .. }) {
            self.memo().lapses = Some(Instant::now() + lease);
        }
        Ok(self.distort(&part, arrival))
    }

    async fn close_join(&self, join: &Id, claim: u64) -> Result<bool> {
        let join = self.join(join);
        let lapsed = self.memo().lapses.is_some_and(|at| at <= Instant::now());
        if self.is(ClosesOnlyInTime) && lapsed {
            return Ok(false);
        }
        let any = if self.is(ClosesForAnyClaim) {
            1..=claim + 1
        } else {
            claim..=claim
        };
        for claim in any {
            if self.memory.close_join(&join, claim).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
