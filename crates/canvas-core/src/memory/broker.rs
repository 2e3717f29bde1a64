//! The in-process broker.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;

use crate::broker::{
    Broker, BrokerInfo, ConsumeSpec, Consumer, DeadLetter, Delivery, Destination, Outgoing,
    Priorities, Receipt, Settle, Settled, Subscription,
};
use crate::error::Result;
use crate::protocol::Message;

/// How many broadcasts a slow subscriber may fall behind before it misses some.
const BROADCAST_BUFFER: usize = 1_024;

/// How many rejected messages of a queue are kept; older ones are dropped.
const DEAD_LETTERS: usize = 10_000;

/// The longest wait for a moment that may come sooner than it seems, because
/// the wall clock was set.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A broker inside this process. A clone is another handle on the same one.
///
/// It keeps all that [`Broker`] promises but persistence: leases and
/// redelivery, receipts that are fenced, priorities (0 is the most urgent, as
/// on Redis), messages put off for later, dead letters and broadcasts. An
/// exchange is taken for a direct one whose queues are named after the routing
/// keys. Nothing is ever dropped because it expired: a worker turns what came
/// too late into a REVOKED result, so that nobody waits for it.
#[derive(Clone, Default)]
pub struct MemoryBroker(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Told whenever there may be something to take.
    changed: Notify,
}

#[derive(Default)]
struct State {
    queues: HashMap<Arc<str>, Queue>,
    out: HashMap<Arc<str>, Out>,
    /// When leases end, soonest first.
    leases: BTreeSet<(Instant, Arc<str>)>,
    /// How many deliveries each consumer has out.
    loads: HashMap<u64, usize>,
    fanout: HashMap<String, broadcast::Sender<(String, Message)>>,
    last: u64,
}

#[derive(Default)]
struct Queue {
    /// By priority, the most urgent first.
    ready: BTreeMap<u8, VecDeque<Stored>>,
    /// By the time at which they are due.
    later: BinaryHeap<Reverse<Later>>,
    dead: VecDeque<DeadLetter>,
}

/// A message in a queue.
struct Stored {
    /// On the heap, so that a long queue does not keep room for messages that
    /// have gone: a `VecDeque` never gives any back.
    message: Box<Message>,
    /// Set once it was delivered.
    tag: Option<Arc<str>>,
    redelivered: bool,
    /// How often it was given out: the fence of its receipts.
    epoch: u64,
    /// The same, but for those that were given back.
    deliveries: u32,
}

struct Later {
    at: DateTime<Utc>,
    order: u64,
    stored: Stored,
}

/// A message that a consumer has.
struct Out {
    stored: Stored,
    queue: Arc<str>,
    consumer: u64,
    deadline: Instant,
    lease: Duration,
}

impl MemoryBroker {
    /// An empty broker.
    pub fn new() -> Self {
        Self::default()
    }
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state();
        let waiting = state.queues.iter().map(|(name, queue)| (name, queue.len()));
        f.debug_struct("MemoryBroker")
            .field("waiting", &waiting.collect::<BTreeMap<_, _>>())
            .field("unsettled", &state.out.len())
            .finish()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    fn info(&self) -> BrokerInfo {
        let mut info = BrokerInfo::new("memory://");
        info.defers = true;
        info.priorities = Priorities::LowestFirst;
        info
    }

    async fn publish(&self, batch: Vec<Outgoing>) -> Result<()> {
        {
            let mut state = self.0.state();
            for Outgoing { to, message } in batch {
                let stored = Stored {
                    message: Box::new(message),
                    tag: None,
                    redelivered: false,
                    epoch: 0,
                    deliveries: 0,
                };
                state.queue(&queue_of(to)).push(stored);
            }
        }
        self.0.changed.notify_waiters();
        Ok(())
    }

    async fn consume(&self, spec: ConsumeSpec) -> Result<Box<dyn Consumer>> {
        let mut state = self.0.state();
        state.last += 1;
        let id = state.last;
        state.loads.insert(id, 0);
        Ok(Box::new(MemoryConsumer {
            broker: self.0.clone(),
            id,
            queues: spec.queues,
            prefetch: spec.prefetch,
            lease: spec.lease,
            turn: 0,
            stopped: false,
        }))
    }

    async fn settle(&self, receipt: &Receipt, how: Settle) -> Result<Settled> {
        let settled = self.0.state().settle(receipt, how);
        // A message may be back in a queue, and a consumer has room again.
        self.0.changed.notify_waiters();
        Ok(settled)
    }

    async fn renew(&self, receipts: &[Receipt]) -> Result<()> {
        let mut state = self.0.state();
        let now = Instant::now();
        for receipt in receipts {
            state.renew(receipt, now);
        }
        Ok(())
    }

    async fn purge(&self, queue: &str) -> Result<u64> {
        let mut state = self.0.state();
        let Some(queue) = state.queues.get_mut(queue) else {
            return Ok(0);
        };
        let purged = queue.len();
        queue.ready.clear();
        queue.later.clear();
        Ok(purged as u64)
    }

    async fn len(&self, queue: &str) -> Result<u64> {
        let state = self.0.state();
        Ok(state.queues.get(queue).map_or(0, Queue::len) as u64)
    }

    async fn dead_letters(&self, queue: &str) -> Result<Vec<DeadLetter>> {
        let state = self.0.state();
        let dead = state.queues.get(queue).map(|queue| &queue.dead);
        Ok(dead.into_iter().flatten().cloned().collect())
    }

    async fn broadcast(&self, exchange: &str, routing_key: &str, message: Message) -> Result<()> {
        let mut state = self.0.state();
        if let Some(sender) = state.fanout.get(exchange)
            && sender.send((routing_key.to_owned(), message)).is_err()
        {
            // Nobody is left.
            state.fanout.remove(exchange);
        }
        Ok(())
    }

    async fn subscribe(&self, exchange: &str) -> Result<Box<dyn Subscription>> {
        let mut state = self.0.state();
        let sender = state
            .fanout
            .entry(exchange.to_owned())
            .or_insert_with(|| broadcast::channel(BROADCAST_BUFFER).0);
        Ok(Box::new(MemorySubscription {
            exchange: exchange.to_owned(),
            receiver: sender.subscribe(),
        }))
    }
}

fn queue_of(to: Destination) -> Arc<str> {
    if to.routing_key.is_empty() {
        to.exchange
    } else {
        to.routing_key
    }
}

impl State {
    fn queue(&mut self, name: &Arc<str>) -> &mut Queue {
        self.queues.entry(name.clone()).or_default()
    }

    /// Takes back the message that `receipt` is for, if it still counts.
    fn take_back(&mut self, receipt: &Receipt) -> Option<Out> {
        let current = self.out.get(&receipt.tag)?;
        if current.stored.epoch != receipt.epoch {
            return None;
        }
        self.release(&receipt.tag)
    }

    /// Ends the lease of a delivery.
    fn release(&mut self, tag: &Arc<str>) -> Option<Out> {
        let out = self.out.remove(tag)?;
        self.leases.remove(&(out.deadline, tag.clone()));
        if let Some(load) = self.loads.get_mut(&out.consumer) {
            *load = load.saturating_sub(1);
        }
        Some(out)
    }

    fn settle(&mut self, receipt: &Receipt, how: Settle) -> Settled {
        let Some(Out {
            mut stored, queue, ..
        }) = self.take_back(receipt)
        else {
            return Settled::Stale;
        };
        match how {
            Settle::Ack => {}
            Settle::Requeue => {
                stored.given_back();
                stored.redelivered = true;
                self.queue(&queue).push(stored);
            }
            Settle::Defer(at) => {
                stored.given_back();
                self.last += 1;
                let order = self.last;
                let later = Later { at, order, stored };
                self.queue(&queue).later.push(Reverse(later));
            }
            Settle::Reject(reason) => {
                let dead = &mut self.queue(&queue).dead;
                if dead.len() >= DEAD_LETTERS {
                    tracing::warn!(%queue, "too many dead letters: the oldest is dropped");
                    dead.pop_front();
                }
                dead.push_back(DeadLetter {
                    message: *stored.message,
                    reason,
                    at: Utc::now(),
                });
            }
        }
        Settled::Done
    }

    fn renew(&mut self, receipt: &Receipt, now: Instant) {
        if let Some(out) = self.out.get_mut(&receipt.tag)
            && out.stored.epoch == receipt.epoch
        {
            self.leases.remove(&(out.deadline, receipt.tag.clone()));
            out.deadline = now + out.lease;
            self.leases.insert((out.deadline, receipt.tag.clone()));
        }
    }

    /// Puts deliveries whose lease has ended back to the front of their queue.
    fn restore(&mut self, now: Instant) {
        while let Some((deadline, tag)) = self.leases.first()
            && *deadline <= now
        {
            let tag = tag.clone();
            let Some(mut out) = self.release(&tag) else {
                continue;
            };
            out.stored.redelivered = true;
            tracing::debug!(queue = %out.queue, %tag, "a lease has ended: delivering again");
            self.queue(&out.queue).push_front(out.stored);
        }
    }

    /// Takes the most urgent message of these queues, which take turns.
    fn take(&mut self, queues: &[Arc<str>], turn: usize) -> Option<(usize, Stored)> {
        let now = Utc::now();
        let mut best: Option<(u8, usize)> = None;
        for step in 0..queues.len() {
            let at = (turn + step) % queues.len();
            let Some(queue) = self.queues.get_mut(&queues[at]) else {
                continue;
            };
            queue.bring_due(now);
            if let Some(priority) = queue.most_urgent()
                && best.is_none_or(|(other, _)| priority < other)
            {
                best = Some((priority, at));
            }
        }
        let (_, at) = best?;
        Some((at, self.queues.get_mut(&queues[at])?.pop()?))
    }

    /// When there may be something to take, if nothing else happens.
    fn next_event(&self, queues: &[Arc<str>], now: Instant) -> Instant {
        let lease = self.leases.first().map(|(deadline, _)| *deadline);
        let due = queues
            .iter()
            .filter_map(|name| self.queues.get(name)?.later.peek())
            .map(|Reverse(later)| now + (later.at - Utc::now()).to_std().unwrap_or_default())
            .min();
        let soonest = lease.into_iter().chain(due).min();
        soonest
            .unwrap_or(now + LONGEST_WAIT)
            .min(now + LONGEST_WAIT)
    }

    /// Hands a message to a consumer, under a lease.
    fn hand_over(
        &mut self,
        mut stored: Stored,
        queue: Arc<str>,
        consumer: u64,
        lease: Duration,
    ) -> Delivery {
        let tag = stored.tag.take().unwrap_or_else(|| {
            self.last += 1;
            self.last.to_string().into()
        });
        stored.epoch += 1;
        stored.deliveries += 1;
        let delivery = Delivery {
            message: Message::clone(&stored.message),
            receipt: Receipt {
                tag: tag.clone(),
                epoch: stored.epoch,
            },
            queue: queue.clone(),
            redelivered: stored.redelivered,
            deliveries: stored.deliveries,
        };
        stored.tag = Some(tag.clone());
        let deadline = Instant::now() + lease;
        self.leases.insert((deadline, tag.clone()));
        *self.loads.entry(consumer).or_default() += 1;
        let out = Out {
            stored,
            queue,
            consumer,
            deadline,
            lease,
        };
        self.out.insert(tag, out);
        delivery
    }
}

impl Queue {
    fn len(&self) -> usize {
        self.ready.values().map(VecDeque::len).sum::<usize>() + self.later.len()
    }

    fn line(&mut self, stored: &Stored) -> &mut VecDeque<Stored> {
        let priority = stored.message.properties.priority.unwrap_or(0);
        self.ready.entry(priority).or_default()
    }

    fn push(&mut self, stored: Stored) {
        self.line(&stored).push_back(stored);
    }

    fn push_front(&mut self, stored: Stored) {
        self.line(&stored).push_front(stored);
    }

    fn bring_due(&mut self, now: DateTime<Utc>) {
        while let Some(Reverse(later)) = self.later.peek()
            && later.at <= now
            && let Some(Reverse(later)) = self.later.pop()
        {
            self.push(later.stored);
        }
    }

    fn most_urgent(&self) -> Option<u8> {
        let mut lines = self.ready.iter();
        lines.find_map(|(priority, line)| (!line.is_empty()).then_some(*priority))
    }

    fn pop(&mut self) -> Option<Stored> {
        self.ready.values_mut().find_map(VecDeque::pop_front)
    }
}

impl Stored {
    /// A delivery that was given back on purpose says nothing against the
    /// message, so it is not counted.
    fn given_back(&mut self) {
        self.deliveries = self.deliveries.saturating_sub(1);
    }
}

impl PartialEq for Later {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Later {}

impl PartialOrd for Later {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Later {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

struct MemoryConsumer {
    broker: Arc<Shared>,
    id: u64,
    queues: Vec<Arc<str>>,
    prefetch: usize,
    lease: Duration,
    /// Whose turn it is among the queues.
    turn: usize,
    stopped: bool,
}

impl MemoryConsumer {
    /// A message, or when to look again.
    fn try_next(&mut self) -> std::result::Result<Delivery, Instant> {
        let mut state = self.broker.state();
        let now = Instant::now();
        state.restore(now);
        let load = state.loads.get(&self.id).copied().unwrap_or(0);
        let taken = if load < self.prefetch {
            state.take(&self.queues, self.turn)
        } else {
            None
        };
        match taken {
            Some((at, stored)) => {
                self.turn = at + 1;
                let queue = self.queues[at].clone();
                Ok(state.hand_over(stored, queue, self.id, self.lease))
            }
            None => Err(state.next_event(&self.queues, now)),
        }
    }
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn next(&mut self) -> Result<Option<Delivery>> {
        let broker = self.broker.clone();
        loop {
            if self.stopped {
                return Ok(None);
            }
            // Listening starts before looking, so nothing is missed between.
            let changed = broker.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.try_next() {
                Ok(delivery) => return Ok(Some(delivery)),
                Err(again) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(again) => {}
                },
            }
        }
    }

    async fn set_prefetch(&mut self, prefetch: usize) -> Result<()> {
        self.prefetch = prefetch;
        Ok(())
    }

    async fn add_queue(&mut self, queue: &str) -> Result<()> {
        if !self.queues.iter().any(|name| &**name == queue) {
            self.queues.push(queue.into());
        }
        Ok(())
    }

    async fn cancel_queue(&mut self, queue: &str) -> Result<()> {
        self.queues.retain(|name| &**name != queue);
        Ok(())
    }

    async fn stop(&mut self) -> Result<()> {
        self.stopped = true;
        Ok(())
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        // What is out stays out until it is settled or its lease ends.
        self.broker.state().loads.remove(&self.id);
    }
}

struct MemorySubscription {
    exchange: String,
    receiver: broadcast::Receiver<(String, Message)>,
}

#[async_trait]
impl Subscription for MemorySubscription {
    async fn next(&mut self) -> Result<Option<(String, Message)>> {
        loop {
            match self.receiver.recv().await {
                Ok(received) => return Ok(Some(received)),
                Err(broadcast::error::RecvError::Closed) => return Ok(None),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::warn!(exchange = self.exchange, missed, "too slow for broadcasts");
                }
            }
        }
    }
}
