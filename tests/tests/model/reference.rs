//! The model's broker and backend against the ones in memory: the same calls,
//! the same answers.

use std::time::Duration;

use canvas_core::backend::{self, Arrival, JoinSpec, Part};
use canvas_core::broker::{self, ConsumeSpec, Consumer, Destination, Outgoing};
use canvas_core::memory::{MemoryBackend, MemoryBroker};
use canvas_core::protocol::{Headers, Properties};
use canvas_core::{Backend, Broker as _, Id, Message, State, TaskMeta};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::mutation::Mutation;
use crate::program::Nr;
use crate::store::{Arrived, Broker, End, Join, Member, Receipt, Results, Settle, Settled, Stored};

const FAILS_NEVER: &str = "what is in memory does not fail";

/// How long a lease or a claim lasts.
const LEASE: Duration = Duration::from_secs(10);

/// Runs with a clock that only moves when told.
fn run(test: impl Future<Output = Result<(), TestCaseError>>) -> Result<(), TestCaseError> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(test)
}

/// Something that is asked of a join.
#[derive(Debug, Clone)]
enum Ask {
    Arrive(Nr),
    Lapse,
    Close(u8),
}

/// Parts by number: three members, each with two values and a failure.
fn part(nr: Nr) -> Part {
    let (member, how) = (nr / 3, nr % 3);
    Part {
        task_id: Id::from(format!("t{member}")),
        index: Some(u64::from(member)),
        state: match how {
            2 => State::Failure,
            _ => State::Success,
        },
        result: json!(how),
    }
}

fn member(nr: Nr) -> Member {
    Member {
        task: nr / 3,
        index: part(nr).index,
        ok: part(nr).is_ok(),
    }
}

proptest! {
    #[test]
    fn a_join_of_the_model_answers_as_the_one_in_memory(
        quorum in 1..=3_u8,
        asks in prop::collection::vec(
            prop_oneof![
                6 => (0..9_u8).prop_map(Ask::Arrive),
                1 => Just(Ask::Lapse),
                1 => (1..4_u8).prop_map(Ask::Close),
            ],
            1..20,
        ),
    ) {
        run(async {
            let id = Id::from("join");
            let memory = MemoryBackend::new();
            let spec = JoinSpec { id: id.clone(), size: 3, quorum: u64::from(quorum) };
            memory.open_join(&spec).await.expect(FAILS_NEVER);
            let mut model = Join::new(3, quorum);
            for ask in asks {
                match ask {
                    Ask::Arrive(nr) => {
                        let real = memory.arrive(&id, &part(nr), LEASE).await;
                        let real = real.expect(FAILS_NEVER);
                        let said = model.arrive(nr, Mutation::None, member);
                        let same = match (&real, &said) {
                            (Arrival::Waiting { arrived, size: 3 }, Arrived::Waiting) => {
                                *arrived == model.parts.len() as u64
                            }
                            (Arrival::Claimed { .. }, Arrived::Claimed)
                            | (Arrival::Closed, Arrived::Closed) => true,
                            (
                                Arrival::Complete { claim, parts },
                                Arrived::Complete { claim: said },
                            ) => {
                                let said_parts = model.parts.iter().map(|nr| part(*nr));
                                *claim == u64::from(*said) && parts.iter().cloned().eq(said_parts)
                            }
                            _ => false,
                        };
                        prop_assert!(same, "{real:?} is not {said:?} with {:?}", model.parts);
                    }
                    Ask::Lapse => {
                        tokio::time::advance(LEASE).await;
                        model.lapse();
                    }
                    Ask::Close(claim) => {
                        let real = memory.close_join(&id, u64::from(claim)).await;
                        prop_assert_eq!(real.expect(FAILS_NEVER), model.close(claim));
                    }
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn the_results_of_the_model_stand_as_those_in_memory(
        writes in prop::collection::vec((0..4_u8, 0..3_u8), 1..12),
    ) {
        run(async {
            let id = Id::from("task");
            let memory = MemoryBackend::new();
            let mut model = Results::default();
            for (state, value) in writes {
                let (status, end) = match state {
                    0 => (State::Retry, End::No),
                    1 => (State::Failure, End::Yes),
                    2 => (State::Revoked, End::Yes),
                    _ => (State::Success, End::Success),
                };
                let mut meta = TaskMeta::new(id.clone(), status.clone());
                meta.result = json!([status.as_str(), value]);
                let stored = memory.store(&meta).await.expect(FAILS_NEVER);
                let new = Stored { result: state * 3 + value, end };
                let standing = model.store(0, new, Mutation::None);
                prop_assert_eq!(stored == backend::Stored::Kept, standing.is_some());
                let real = memory.load(std::slice::from_ref(&id)).await;
                let real = real.expect(FAILS_NEVER).pop().flatten().map(|m| m.result);
                let said = model.get(0).map(|stored| {
                    let names = ["RETRY", "FAILURE", "REVOKED", "SUCCESS"];
                    json!([names[usize::from(stored.result / 3)], stored.result % 3])
                });
                prop_assert_eq!(real, said);
            }
            Ok(())
        })?;
    }

    #[test]
    fn the_broker_of_the_model_delivers_and_settles_as_the_one_in_memory(
        asks in prop::collection::vec((0..5_u8, any::<prop::sample::Index>()), 1..30),
    ) {
        run(deliver(asks))?;
    }
}

async fn deliver(asks: Vec<(u8, prop::sample::Index)>) -> Result<(), TestCaseError> {
    let mut both = Both::new().await;
    for (ask, which) in asks {
        match ask {
            0 => both.publish().await,
            1 if both.model.held.iter().any(|held| !held.out) => both.take().await?,
            2 if !both.receipts.is_empty() => both.settle(which, Settle::Ack).await?,
            3 if !both.receipts.is_empty() => both.settle(which, Settle::Requeue).await?,
            4 if both.model.held.iter().any(|held| held.out) => both.lapse(which).await?,
            _ => {}
        }
        let waiting = both.model.held.iter().filter(|held| !held.out).count() as u64;
        prop_assert_eq!(both.memory.len("q").await.expect(FAILS_NEVER), waiting);
    }
    Ok(())
}

/// A broker in memory and one of the model, which are asked the same.
struct Both {
    memory: MemoryBroker,
    consumer: Box<dyn Consumer>,
    /// Takes nothing, but notices that leases have ended.
    watch: Box<dyn Consumer>,
    model: Broker,
    receipts: Vec<(broker::Receipt, Receipt)>,
    sent: Nr,
}

impl Both {
    async fn new() -> Self {
        let memory = MemoryBroker::new();
        let spec = |prefetch| ConsumeSpec {
            queues: vec!["q".into()],
            prefetch,
            lease: LEASE,
        };
        Self {
            consumer: memory.consume(spec(usize::MAX)).await.expect(FAILS_NEVER),
            watch: memory.consume(spec(0)).await.expect(FAILS_NEVER),
            memory,
            model: Broker::default(),
            receipts: Vec::new(),
            sent: 0,
        }
    }

    async fn publish(&mut self) {
        let batch = vec![message(self.sent)];
        self.memory.publish(batch).await.expect(FAILS_NEVER);
        self.model.publish(self.sent, self.sent);
        self.sent += 1;
    }

    async fn take(&mut self) -> Result<(), TestCaseError> {
        let real = self.consumer.next().await.expect(FAILS_NEVER);
        let real = real.expect("it was not stopped");
        let nr = real.message.headers.retries as Nr;
        // The model's messages come in any order.
        let mut held = self.model.held.iter();
        let found = held.position(|held| held.message == nr && !held.out);
        let at = found.expect("the model has it, too");
        prop_assert_eq!(real.redelivered, self.model.held[at].again);
        self.receipts.push((real.receipt, self.model.take(at)));
        Ok(())
    }

    async fn settle(
        &mut self,
        which: prop::sample::Index,
        how: Settle,
    ) -> Result<(), TestCaseError> {
        let (real, said) = which.get(&self.receipts);
        let same = match how {
            Settle::Ack => broker::Settle::Ack,
            Settle::Requeue => broker::Settle::Requeue,
        };
        let real = self.memory.settle(real, same).await.expect(FAILS_NEVER);
        let said = self.model.settle(*said, how, Mutation::None);
        prop_assert_eq!(real == broker::Settled::Done, said == Settled::Done);
        Ok(())
    }

    /// Ends one lease, and no other.
    async fn lapse(&mut self, which: prop::sample::Index) -> Result<(), TestCaseError> {
        let all = 0..self.model.held.len();
        let out: Vec<usize> = all.filter(|at| self.model.held[*at].out).collect();
        let at = *which.get(&out);
        let lapsed = self.model.held[at].receipt();
        let others = self.receipts.iter().filter(|(_, said)| *said != lapsed);
        let others: Vec<_> = others.map(|(real, _)| real.clone()).collect();
        tokio::time::advance(LEASE * 2 / 3).await;
        self.memory.renew(&others).await.expect(FAILS_NEVER);
        tokio::time::advance(LEASE / 3).await;
        let nothing = tokio::time::timeout(Duration::ZERO, self.watch.next()).await;
        prop_assert!(nothing.is_err());
        self.model.lapse(at);
        Ok(())
    }
}

fn message(nr: Nr) -> Outgoing {
    let headers = Headers {
        retries: u32::from(nr),
        ..Headers::default()
    };
    Outgoing {
        to: Destination::queue("q"),
        message: Message {
            headers,
            properties: Properties::default(),
            body: Value::Null.to_string().into(),
        },
    }
}
