//! The model's broker and backend against the ones in memory: the same calls,
//! the same answers.

use std::time::Duration;

use canvas_core::backend::{Arrival, JoinSpec, Part};
use canvas_core::broker::{self, ConsumeSpec, Destination, Outgoing};
use canvas_core::memory::{MemoryBackend, MemoryBroker};
use canvas_core::protocol::{Headers, Properties};
use canvas_core::{Backend, Broker as _, Id, Message, State, TaskMeta};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::mutation::Mutation;
use crate::program::Nr;
use crate::store::{Arrived, Broker, End, Join, Member, Results, Settle, Settled, Stored};

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
            memory.open_join(&spec).await.expect("memory does not fail");
            let mut model = Join::new(3, quorum);
            for ask in asks {
                match ask {
                    Ask::Arrive(nr) => {
                        let real = memory.arrive(&id, &part(nr), LEASE).await;
                        let real = real.expect("memory does not fail");
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
                        prop_assert_eq!(real.expect("memory does not fail"), model.close(claim));
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
                memory.store(&meta).await.expect("memory does not fail");
                let stored = Stored { result: state * 3 + value, end };
                model.store(0, stored, Mutation::None);
                let real = memory.load(std::slice::from_ref(&id)).await;
                let real = real.expect("memory does not fail").pop().flatten().map(|m| m.result);
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
    let memory = MemoryBroker::new();
    let spec = |prefetch| ConsumeSpec {
        queues: vec!["q".into()],
        prefetch,
        lease: LEASE,
    };
    let mut consumer = memory
        .consume(spec(usize::MAX))
        .await
        .expect("memory does not fail");
    // Takes nothing, but notices that leases have ended.
    let mut watch = memory.consume(spec(0)).await.expect("memory does not fail");
    let mut model = Broker::default();
    let mut receipts = Vec::new();
    let mut sent = 0;
    for (ask, which) in asks {
        match ask {
            0 => {
                memory
                    .publish(vec![message(sent)])
                    .await
                    .expect("memory does not fail");
                model.publish(sent, sent);
                sent += 1;
            }
            1 if model.held.iter().any(|held| !held.out) => {
                let real = consumer.next().await.expect("memory does not fail");
                let real = real.expect("it was not stopped");
                let nr = real.message.headers.retries as Nr;
                // The model's messages come in any order.
                let found = model
                    .held
                    .iter()
                    .position(|held| held.message == nr && !held.out);
                let at = found.expect("the model has it, too");
                prop_assert_eq!(real.redelivered, model.held[at].again);
                receipts.push((real.receipt, model.take(at)));
            }
            2 | 3 if !receipts.is_empty() => {
                let (real, said) = which.get(&receipts);
                let (how, same) = match ask {
                    2 => (broker::Settle::Ack, Settle::Ack),
                    _ => (broker::Settle::Requeue, Settle::Requeue),
                };
                let real = memory
                    .settle(real, how)
                    .await
                    .expect("memory does not fail");
                let said = model.settle(*said, same, Mutation::None);
                prop_assert_eq!(real == broker::Settled::Done, said == Settled::Done);
            }
            4 if model.held.iter().any(|held| held.out) => {
                let out: Vec<usize> = (0..model.held.len())
                    .filter(|at| model.held[*at].out)
                    .collect();
                let at = *which.get(&out);
                let lapsed = model.held[at].receipt();
                let others = receipts.iter().filter(|(_, said)| *said != lapsed);
                let others: Vec<_> = others.map(|(real, _)| real.clone()).collect();
                tokio::time::advance(LEASE * 2 / 3).await;
                memory.renew(&others).await.expect("memory does not fail");
                tokio::time::advance(LEASE / 3).await;
                let nothing = tokio::time::timeout(Duration::ZERO, watch.next()).await;
                prop_assert!(nothing.is_err());
                model.lapse(at);
            }
            _ => {}
        }
        let waiting = model.held.iter().filter(|held| !held.out).count() as u64;
        prop_assert_eq!(
            memory.len("q").await.expect("memory does not fail"),
            waiting
        );
    }
    Ok(())
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
