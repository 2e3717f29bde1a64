//! Consuming: the handle of a consumer, and what it shares with its task.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use canvas_core::broker::{ConsumeSpec, Consumer, Delivery, Receipt};
use canvas_core::{Error, Result};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::envelope;
use crate::hub::Hub;
use crate::pump::Pump;
use crate::seat;
use crate::settle::{Move, Side};

/// How long to wait until a consumer has given back what it has. After that
/// it is left to the leases.
const STOPPING: Duration = Duration::from_secs(5);

/// A consumer, as its handle, its task and those who settle see it.
#[derive(Debug)]
pub(crate) struct Shared {
    /// What the tags of its deliveries begin with, the colon aside.
    pub(crate) name: Arc<str>,
    pub(crate) lease: Duration,
    pub(crate) state: Mutex<State>,
    /// The number of the next delivery that is not fetched: see `seat.rs`.
    pub(crate) seats: AtomicU64,
    /// Wakes the task.
    pub(crate) stir: Notify,
    /// Whether the server has sent word, or has hung up.
    pub(crate) word: AtomicBool,
    /// Wakes whoever waits for a delivery.
    pub(crate) ready: Notify,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// In the order of their turns.
    pub(crate) queues: Vec<Arc<str>>,
    /// Counts changes of the queues.
    pub(crate) version: u64,
    pub(crate) prefetch: usize,
    /// The deliveries that are out, by number, and when their leases end.
    pub(crate) out: HashMap<u64, Instant>,
    /// Those of them that were not asked for yet.
    pub(crate) buffer: VecDeque<Fetched>,
    /// Those of them that nobody will ask for.
    pub(crate) unwanted: Vec<Fetched>,
    /// Whether someone waits for a delivery.
    pub(crate) asked: bool,
    pub(crate) closed: bool,
    pub(crate) error: Option<Error>,
}

/// A message that was taken and not yet handed on.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) number: u64,
    pub(crate) delivery: Delivery,
    /// As it was in its list, to be put back.
    pub(crate) raw: Vec<u8>,
    pub(crate) at: Instant,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state());
        self.stir.notify_one();
        changed
    }

    /// When the lease of a delivery ends.
    pub(crate) fn lease_end(&self, number: u64) -> Option<Instant> {
        self.state().out.get(&number).copied()
    }

    /// Notes that a lease was started anew at `now`.
    pub(crate) fn renewed(&self, number: u64, now: Instant) {
        if let Some(end) = self.state().out.get_mut(&number) {
            *end = (*end).max(now + self.lease);
        }
    }

    /// Notes that a delivery is not out any more; tells whether the consumer
    /// can be forgotten.
    pub(crate) fn landed(&self, number: u64) -> bool {
        self.change(|state| {
            state.out.remove(&number);
            state.closed && state.out.is_empty()
        })
    }

    /// Forgets deliveries whose lease has ended; tells whether the consumer
    /// can be forgotten.
    pub(crate) fn lapse(&self, now: Instant) -> bool {
        let mut state = self.state();
        state.out.retain(|_, end| *end > now);
        state.closed && state.out.is_empty()
    }

    /// What was fetched, as it is handed on.
    pub(crate) fn fetched(
        &self,
        number: u64,
        queue: Arc<str>,
        raw: Vec<u8>,
        at: Instant,
    ) -> Fetched {
        let opened = envelope::open(&raw);
        let delivery = Delivery {
            message: opened.message,
            receipt: self.receipt(number),
            queue,
            redelivered: opened.redelivered,
            deliveries: opened.deliveries.saturating_add(1),
        };
        Fetched {
            number,
            delivery,
            raw,
            at,
        }
    }

    /// Puts what was fetched where `next` finds it.
    pub(crate) fn take_in(&self, found: Vec<Fetched>) {
        let mut state = self.state();
        for fetched in found {
            state.out.insert(fetched.number, fetched.at + self.lease);
            // The queue that was served goes to the end of the line.
            let served = state
                .queues
                .iter()
                .position(|queue| *queue == fetched.delivery.queue);
            if let Some(place) = served {
                state.queues[place..].rotate_left(1);
            }
            state.buffer.push_back(fetched);
        }
        state.set_aside();
        drop(state);
        self.ready.notify_one();
    }

    pub(crate) fn receipt(&self, number: u64) -> Receipt {
        Receipt {
            tag: format!("{}:{number:016x}", self.name).into(),
            // A tag is of one delivery only: that is fence enough.
            epoch: 0,
        }
    }
}

impl State {
    pub(crate) fn room(&self) -> usize {
        self.prefetch.saturating_sub(self.out.len())
    }

    /// The next delivery that has most of its lease before it. One that lay
    /// too long is better given back than handed on and lost at once.
    fn pop(&mut self, lease: Duration) -> Option<Delivery> {
        while let Some(fetched) = self.buffer.pop_front() {
            if fetched.at.elapsed() < lease / 2 {
                return Some(fetched.delivery);
            }
            self.unwanted.push(fetched);
        }
        None
    }

    /// Moves what was fetched and must not be handed on any more.
    pub(crate) fn set_aside(&mut self) {
        for fetched in std::mem::take(&mut self.buffer) {
            if self.closed || !self.queues.contains(&fetched.delivery.queue) {
                self.unwanted.push(fetched);
            } else {
                self.buffer.push_back(fetched);
            }
        }
    }
}

/// The handle of a consumer.
#[derive(Debug)]
pub(crate) struct RedisConsumer {
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
}

impl Hub {
    pub(crate) async fn consume(self: &Arc<Self>, spec: ConsumeSpec) -> Result<RedisConsumer> {
        let mut queues: Vec<Arc<str>> = Vec::new();
        for queue in spec.queues {
            if !queues.contains(&queue) {
                queues.push(queue);
            }
        }
        let shared = Arc::new(Shared {
            // Redis keeps a sorted set of short members as a list that it reads
            // from end to end. A member of more than 64 bytes prevents that: with
            // 64 deliveries out it is six times as fast.
            name: format!("canvas-delivery:{}", Uuid::new_v4()).into(),
            lease: self.lease(spec.lease),
            state: Mutex::new(State {
                queues,
                prefetch: spec.prefetch,
                ..State::default()
            }),
            seats: AtomicU64::new(seat::FIRST),
            stir: Notify::new(),
            word: AtomicBool::new(false),
            ready: Notify::new(),
        });
        let pump = Pump::new(self.clone(), shared.clone());
        // Here a server that is not there is an error; later it is waited for.
        pump.connect().await?;
        self.consumers().insert(shared.name.clone(), shared.clone());
        self.start_sweeping();
        let task = tokio::spawn(pump.run());
        Ok(RedisConsumer {
            shared,
            task: Some(task),
        })
    }
}

impl Hub {
    /// What is written as a lease, so that a message is out again when the
    /// lease that was asked for ends: those who look for leases that have ended
    /// do so now and then.
    fn lease(&self, asked: Duration) -> Duration {
        let until_seen = self.config.sweep_interval.mul_f64(1.5);
        asked - until_seen.min(asked / 6)
    }
}

impl Hub {
    /// Puts messages back as if they had never been taken.
    pub(crate) async fn give_back(&self, consumer: &Shared, mut unwanted: Vec<Fetched>) {
        if unwanted.is_empty() {
            return;
        }
        // The last one put back is the first one taken.
        unwanted.sort_unstable_by_key(|fetched| std::cmp::Reverse(fetched.number));
        let layout = &self.layout;
        let moves: Vec<Move<'_>> = unwanted
            .iter()
            .map(|Fetched { delivery, raw, .. }| Move {
                tag: &delivery.receipt.tag,
                list: layout.list(
                    &delivery.queue,
                    layout.step(delivery.message.properties.priority.unwrap_or(0)),
                ),
                side: Side::Next,
                most: 0,
                raw,
            })
            .collect();
        if let Err(error) = self.move_all("broker.consume", &moves, None).await {
            let error = Error::from(error);
            tracing::warn!(%error, "fetched messages could not be given back: their leases will");
        }
        for fetched in unwanted {
            consumer.landed(fetched.number);
        }
    }
}

#[async_trait]
impl Consumer for RedisConsumer {
    async fn next(&mut self) -> Result<Option<Delivery>> {
        let shared = &self.shared;
        let _asking = Asking(shared);
        loop {
            {
                let mut state = shared.state();
                if state.closed {
                    return Ok(None);
                }
                let popped = state.pop(shared.lease);
                if !state.unwanted.is_empty() {
                    shared.stir.notify_one();
                }
                if popped.is_some() {
                    return Ok(popped);
                }
                if let Some(error) = state.error.take() {
                    return Err(error);
                }
                state.asked = true;
            }
            shared.stir.notify_one();
            shared.ready.notified().await;
        }
    }

    async fn set_prefetch(&mut self, prefetch: usize) -> Result<()> {
        self.shared.change(|state| state.prefetch = prefetch);
        Ok(())
    }

    async fn add_queue(&mut self, queue: &str) -> Result<()> {
        self.shared.change(|state| {
            if !state.queues.iter().any(|name| &**name == queue) {
                state.queues.push(queue.into());
                state.version += 1;
            }
        });
        Ok(())
    }

    async fn cancel_queue(&mut self, queue: &str) -> Result<()> {
        self.shared.change(|state| {
            state.queues.retain(|name| &**name != queue);
            state.version += 1;
            state.set_aside();
        });
        Ok(())
    }

    async fn stop(&mut self) -> Result<()> {
        self.shared.change(|state| state.closed = true);
        if let Some(task) = self.task.take() {
            // It gives back what was fetched and not asked for, if it can.
            let _ = tokio::time::timeout(STOPPING, task).await;
        }
        Ok(())
    }
}

impl Drop for RedisConsumer {
    fn drop(&mut self) {
        self.shared.change(|state| state.closed = true);
    }
}

/// While it lives, someone waits for a delivery.
struct Asking<'a>(&'a Shared);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.state().asked = false;
    }
}
