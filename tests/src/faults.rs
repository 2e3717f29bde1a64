//! A broker and a backend that go wrong when told to, to see what becomes of a
//! canvas after a fault at any point.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use canvas_core::backend::{Arrival, BackendInfo, JoinSpec, Part, Stored};
use canvas_core::broker::{
    BrokerInfo, ConsumeSpec, Consumer, DeadLetter, Delivery, Outgoing, Receipt, Settle, Settled,
    Subscription,
};
use canvas_core::together::{Found, Made};
use canvas_core::{
    Backend, Broker, Effect, Error, Id, JOIN_CLAIM, Message, Result, ResultTree, TaskMeta,
    Together, Work,
};
use futures_util::stream::BoxStream;
use tokio::sync::Notify;

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails, and nothing has happened.
    Lost,
    /// It fails, but has taken effect: the answer was lost.
    Unanswered,
    /// The first so many messages of a batch are published, then it fails.
    /// Calls other than `broker.publish` are [`Lost`](Self::Lost).
    Cut(usize),
    /// Whoever calls dies before it takes effect: the call never returns.
    KilledBefore,
    /// Whoever calls dies after it has taken effect: the call never returns.
    KilledAfter,
    /// It takes effect twice, with the first answer.
    Twice,
}

/// A call of the broker or the backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// `port.verb`, such as `broker.publish`.
    pub operation: &'static str,
    /// How many calls there were before it, of any operation; None if this
    /// one does not count.
    pub number: Option<usize>,
    /// How many calls there were before it, of this operation.
    pub nth: usize,
}

const RENEW: &str = "broker.renew";

type Plan = Box<dyn FnMut(&Call) -> Option<Fault> + Send>;

/// Decides which calls go wrong, and remembers what was called.
///
/// Renewing leases does not count, since how often that happens depends on the
/// time. Waiting for results and changing the prefetch never go wrong. Taking a
/// delivery counts when there is one.
#[derive(Clone)]
pub struct Faults(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    killed: Notify,
    one_server: AtomicBool,
}

struct State {
    plan: Plan,
    nth: HashMap<&'static str, usize>,
    calls: Vec<Call>,
    faults: Vec<(Call, Fault)>,
    published: Vec<(String, Id)>,
    written: Vec<TaskMeta>,
    stale: usize,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults")
            .field("faults", &self.faults())
            .finish_non_exhaustive()
    }
}

impl Faults {
    /// Each call goes wrong in the way that `plan` says.
    pub fn plan(plan: impl FnMut(&Call) -> Option<Fault> + Send + 'static) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                plan: Box::new(plan),
                nth: HashMap::new(),
                calls: Vec::new(),
                faults: Vec::new(),
                published: Vec::new(),
                written: Vec::new(),
                stale: 0,
            }),
            killed: Notify::new(),
            one_server: AtomicBool::new(false),
        }))
    }

    /// Nothing goes wrong.
    pub fn none() -> Self {
        Self::plan(|_| None)
    }

    /// One call goes wrong: the one with this number, from 0.
    pub fn at(number: usize, fault: Fault) -> Self {
        Self::plan(move |call| (call.number == Some(number)).then_some(fault))
    }

    /// One call of `operation` goes wrong: the one with this number, from 0.
    pub fn nth(operation: &'static str, nth: usize, fault: Fault) -> Self {
        Self::plan(move |call| (call.operation == operation && call.nth == nth).then_some(fault))
    }

    /// The broker and the backend are in one server, and commit in one step:
    /// the call `backend.commit`.
    #[must_use]
    pub fn on_one_server(self) -> Self {
        self.0.one_server.store(true, Ordering::Release);
        self
    }

    /// Goes on with another plan.
    pub fn replan(&self, plan: impl FnMut(&Call) -> Option<Fault> + Send + 'static) {
        self.state().plan = Box::new(plan);
    }

    /// A broker whose calls are under this plan.
    pub fn broker(&self, broker: impl Broker + 'static) -> Arc<dyn Broker> {
        Arc::new(FlakyBroker {
            inner: Arc::new(broker),
            faults: self.clone(),
        })
    }

    /// A backend whose calls are under this plan.
    pub fn backend(&self, backend: impl Backend + 'static) -> Arc<dyn Backend> {
        Arc::new(FlakyBackend {
            inner: Arc::new(backend),
            faults: self.clone(),
        })
    }

    /// Every call so far that counts.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// What has gone wrong so far.
    pub fn faults(&self) -> Vec<(Call, Fault)> {
        self.state().faults.clone()
    }

    /// The task and the id of every message that was published so far.
    pub fn published(&self) -> Vec<(String, Id)> {
        self.state().published.clone()
    }

    /// Every state that was stored so far, in the order in which it was; those
    /// that did not stand are left out.
    pub fn written(&self) -> Vec<TaskMeta> {
        self.state().written.clone()
    }

    /// How often a delivery was settled whose lease had passed on.
    pub fn stale(&self) -> usize {
        self.state().stale
    }

    /// Returns when a caller has died.
    pub async fn killed(&self) {
        self.0.killed.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, operation: &'static str) -> Option<Fault> {
        let mut state = self.state();
        let counts = operation != RENEW;
        let number = counts.then_some(state.calls.len());
        let nth = state.nth.entry(operation).or_default();
        let call = Call {
            operation,
            number,
            nth: *nth,
        };
        *nth += 1;
        if counts {
            state.calls.push(call.clone());
        }
        let fault = (state.plan)(&call)?;
        state.faults.push((call, fault));
        Some(fault)
    }

    /// Makes a call, or what becomes of it.
    async fn call<T, F>(&self, operation: &'static str, work: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        match self.next(operation) {
            None => work().await,
            Some(Fault::Lost | Fault::Cut(_)) => Err(lost(operation)),
            Some(Fault::Unanswered) => {
                work().await?;
                Err(lost(operation))
            }
            Some(Fault::KilledBefore) => self.die().await,
            Some(Fault::KilledAfter) => {
                work().await?;
                self.die().await
            }
            Some(Fault::Twice) => {
                let answer = work().await?;
                work().await?;
                Ok(answer)
            }
        }
    }

    async fn die<T>(&self) -> T {
        self.0.killed.notify_one();
        std::future::pending().await
    }
}

fn lost(operation: &'static str) -> Error {
    Error::Connection {
        operation,
        reason: "the connection was lost, as the test wished".to_owned(),
    }
}

/// A broker that goes wrong by plan.
#[derive(Debug, Clone)]
struct FlakyBroker {
    inner: Arc<dyn Broker>,
    faults: Faults,
}

#[async_trait]
impl Broker for FlakyBroker {
    fn info(&self) -> BrokerInfo {
        self.inner.info()
    }

    async fn publish(&self, batch: Vec<Outgoing>) -> Result<()> {
        let publish = |batch| self.publish_now(batch);
        let operation = "broker.publish";
        match self.faults.next(operation) {
            None => publish(batch).await,
            Some(Fault::Lost) => Err(lost(operation)),
            Some(Fault::Cut(messages)) => {
                publish(batch.into_iter().take(messages).collect()).await?;
                Err(lost(operation))
            }
            Some(Fault::Unanswered) => {
                publish(batch).await?;
                Err(lost(operation))
            }
            Some(Fault::KilledBefore) => self.faults.die().await,
            Some(Fault::KilledAfter) => {
                publish(batch).await?;
                self.faults.die().await
            }
            Some(Fault::Twice) => {
                publish(batch.iter().flat_map(|m| [m.clone(), m.clone()]).collect()).await
            }
        }
    }

    async fn consume(&self, spec: ConsumeSpec) -> Result<Box<dyn Consumer>> {
        let consume = || self.inner.consume(spec.clone());
        let consumer = self.faults.call("broker.consume", consume).await?;
        Ok(Box::new(FlakyConsumer {
            inner: consumer,
            broker: self.clone(),
        }))
    }

    async fn settle(&self, receipt: &Receipt, how: Settle) -> Result<Settled> {
        let settle = || self.settle_now(receipt, how.clone());
        self.faults.call("broker.settle", settle).await
    }

    async fn renew(&self, receipts: &[Receipt]) -> Result<()> {
        self.faults.call(RENEW, || self.inner.renew(receipts)).await
    }

    async fn purge(&self, queue: &str) -> Result<u64> {
        self.faults
            .call("broker.purge", || self.inner.purge(queue))
            .await
    }

    async fn len(&self, queue: &str) -> Result<u64> {
        self.faults
            .call("broker.len", || self.inner.len(queue))
            .await
    }

    async fn dead_letters(&self, queue: &str) -> Result<Vec<DeadLetter>> {
        let dead = || self.inner.dead_letters(queue);
        self.faults.call("broker.dead_letters", dead).await
    }

    async fn broadcast(&self, exchange: &str, routing_key: &str, message: Message) -> Result<()> {
        let broadcast = || self.inner.broadcast(exchange, routing_key, message.clone());
        self.faults.call("broker.broadcast", broadcast).await
    }

    async fn subscribe(&self, exchange: &str) -> Result<Box<dyn Subscription>> {
        let subscribe = || self.inner.subscribe(exchange);
        self.faults.call("broker.subscribe", subscribe).await
    }

    fn companion(&self) -> Option<Box<dyn Any>> {
        let one_server = self.faults.0.one_server.load(Ordering::Acquire);
        one_server.then(|| Box::new(self.clone()) as Box<dyn Any>)
    }
}

impl FlakyBroker {
    async fn publish_now(&self, batch: Vec<Outgoing>) -> Result<()> {
        let ids = batch.iter().filter_map(|outgoing| {
            let headers = &outgoing.message.headers;
            Some((headers.task.as_deref()?.to_owned(), headers.id.clone()?))
        });
        let ids: Vec<_> = ids.collect();
        self.inner.publish(batch).await?;
        self.faults.state().published.extend(ids);
        Ok(())
    }

    async fn settle_now(&self, receipt: &Receipt, how: Settle) -> Result<Settled> {
        let settled = self.inner.settle(receipt, how).await?;
        if settled == Settled::Stale {
            self.faults.state().stale += 1;
        }
        Ok(settled)
    }
}

struct FlakyConsumer {
    inner: Box<dyn Consumer>,
    broker: FlakyBroker,
}

#[async_trait]
impl Consumer for FlakyConsumer {
    async fn next(&mut self) -> Result<Option<Delivery>> {
        let Some(delivery) = self.inner.next().await? else {
            return Ok(None);
        };
        let FlakyBroker { inner, faults } = &self.broker;
        let operation = "consumer.next";
        let fault = faults.next(operation);
        // Only now is it known that there is a delivery: as if it had not
        // been taken, it goes back.
        if matches!(
            fault,
            Some(Fault::Lost | Fault::Cut(_) | Fault::KilledBefore)
        ) {
            inner.settle(&delivery.receipt, Settle::Requeue).await?;
        }
        match fault {
            None | Some(Fault::Twice) => Ok(Some(delivery)),
            Some(Fault::Lost | Fault::Cut(_) | Fault::Unanswered) => Err(lost(operation)),
            Some(Fault::KilledBefore | Fault::KilledAfter) => faults.die().await,
        }
    }

    async fn set_prefetch(&mut self, prefetch: usize) -> Result<()> {
        self.inner.set_prefetch(prefetch).await
    }

    async fn add_queue(&mut self, queue: &str) -> Result<()> {
        self.inner.add_queue(queue).await
    }

    async fn cancel_queue(&mut self, queue: &str) -> Result<()> {
        self.inner.cancel_queue(queue).await
    }

    async fn stop(&mut self) -> Result<()> {
        self.inner.stop().await
    }
}

/// A backend that goes wrong by plan.
#[derive(Debug, Clone)]
struct FlakyBackend {
    inner: Arc<dyn Backend>,
    faults: Faults,
}

#[async_trait]
impl Backend for FlakyBackend {
    fn info(&self) -> BackendInfo {
        self.inner.info()
    }

    async fn store(&self, meta: &TaskMeta) -> Result<Stored> {
        let store = || self.store_now(meta);
        self.faults.call("backend.store", store).await
    }

    async fn load(&self, ids: &[Id]) -> Result<Vec<Option<TaskMeta>>> {
        self.faults
            .call("backend.load", || self.inner.load(ids))
            .await
    }

    async fn forget(&self, ids: &[Id]) -> Result<()> {
        self.faults
            .call("backend.forget", || self.inner.forget(ids))
            .await
    }

    async fn watch(&self, ids: &[Id]) -> Result<BoxStream<'static, Result<TaskMeta>>> {
        self.inner.watch(ids).await
    }

    async fn save_group(&self, group: &ResultTree) -> Result<()> {
        let save = || self.inner.save_group(group);
        self.faults.call("backend.save_group", save).await
    }

    async fn load_group(&self, id: &Id) -> Result<Option<ResultTree>> {
        let load = || self.inner.load_group(id);
        self.faults.call("backend.load_group", load).await
    }

    async fn forget_group(&self, id: &Id) -> Result<()> {
        let forget = || self.inner.forget_group(id);
        self.faults.call("backend.forget_group", forget).await
    }

    async fn keep(&self, key: &Id, value: bytes::Bytes) -> Result<()> {
        let keep = || self.inner.keep(key, value.clone());
        self.faults.call("backend.keep", keep).await
    }

    async fn recall(&self, key: &Id) -> Result<Option<bytes::Bytes>> {
        self.faults
            .call("backend.recall", || self.inner.recall(key))
            .await
    }

    async fn open_join(&self, spec: &JoinSpec) -> Result<()> {
        let open = || self.inner.open_join(spec);
        self.faults.call("backend.open_join", open).await
    }

    async fn grow_join(&self, join: &Id, member: &Id, by: u64) -> Result<()> {
        let grow = || self.inner.grow_join(join, member, by);
        self.faults.call("backend.grow_join", grow).await
    }

    async fn arrive(&self, join: &Id, part: &Part, lease: Duration) -> Result<Arrival> {
        let arrive = || self.inner.arrive(join, part, lease);
        self.faults.call("backend.arrive", arrive).await
    }

    async fn close_join(&self, join: &Id, claim: u64) -> Result<bool> {
        let close = || self.inner.close_join(join, claim);
        self.faults.call("backend.close_join", close).await
    }

    fn together(&self, broker: &dyn Broker) -> Option<Arc<dyn Together>> {
        let broker = *broker.companion()?.downcast::<FlakyBroker>().ok()?;
        let backend = self.clone();
        Some(Arc::new(OneServer { broker, backend }))
    }
}

impl FlakyBackend {
    async fn store_now(&self, meta: &TaskMeta) -> Result<Stored> {
        let stored = self.inner.store(meta).await?;
        if stored == Stored::Written {
            self.faults.state().written.push(meta.clone());
        }
        Ok(stored)
    }
}

/// Makes what a run leaves in one step, which goes wrong as a whole.
#[derive(Debug)]
struct OneServer {
    broker: FlakyBroker,
    backend: FlakyBackend,
}

#[async_trait]
impl Together for OneServer {
    async fn make(&self, work: &[Work], delivery: Option<&Receipt>) -> Result<Made> {
        let make = || self.make_now(work, delivery);
        self.broker.faults.call("backend.commit", make).await
    }
}

impl OneServer {
    async fn make_now(&self, work: &[Work], delivery: Option<&Receipt>) -> Result<Made> {
        let backend = &self.backend.inner;
        for (at, work) in work.iter().enumerate() {
            let found = match work.clone() {
                Work::Do(Effect::Store(meta)) => match self.backend.store_now(&meta).await? {
                    Stored::Written => None,
                    Stored::Kept => {
                        let found = backend.load(std::slice::from_ref(&meta.task_id)).await?;
                        let standing = found.into_iter().next().flatten();
                        standing.map(|meta| Found::Standing(Box::new(meta)))
                    }
                },
                Work::Do(Effect::Keep { key, value }) => {
                    backend.keep(&key, value).await?;
                    None
                }
                Work::Do(Effect::SaveGroup(group)) => {
                    backend.save_group(&group).await?;
                    None
                }
                Work::Do(Effect::OpenJoin(spec)) => {
                    backend.open_join(&spec).await?;
                    None
                }
                Work::Do(Effect::Publish(outgoing)) => {
                    self.broker.publish_now(vec![*outgoing]).await?;
                    None
                }
                Work::Do(Effect::Arrive(arrive)) => {
                    let (join, part) = (&arrive.join, &arrive.part);
                    match backend.arrive(join, part, JOIN_CLAIM).await? {
                        Arrival::Waiting { .. } | Arrival::Closed => None,
                        found => Some(Found::Arrival(found)),
                    }
                }
                Work::Close { join, claim } => {
                    backend.close_join(&join, claim).await?;
                    None
                }
                Work::Do(effect @ Effect::Errback(_)) => {
                    return Err(Error::Config(format!("asked for {effect:?}")));
                }
            };
            if let Some(found) = found {
                return Ok(Made::Until { at, found });
            }
        }
        let settled = match delivery {
            None => None,
            Some(receipt) => Some(self.broker.settle_now(receipt, Settle::Ack).await?),
        };
        Ok(Made::All { settled })
    }
}
