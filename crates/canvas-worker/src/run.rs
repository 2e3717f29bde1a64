//! The worker's loop.

use std::future::{poll_fn, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use canvas_core::broker::{ConsumeSpec, Consumer, Delivery, Settle, Subscription};
use canvas_core::{Broker, CONTROL_EXCHANGE, Canvas, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::control::{self, Clock, Revoked};
use crate::execute;
use crate::flight::Flights;
use crate::hold::Hold;
use crate::roster::{Roster, Seat};
use crate::worker::Worker;

/// A slot to run in, when it is this task's turn.
pub(crate) type Turn = Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>;

/// How far shutting down has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Running,
    /// Finish what runs.
    Warm,
    /// Stop what runs, and put it back.
    Cold,
}

/// What all tasks of a worker share.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) app: Canvas,
    pub(crate) name: String,
    pub(crate) flights: Flights,
    pub(crate) revoked: Revoked,
    pub(crate) roster: Arc<Roster>,
    pub(crate) clock: Clock,
    pub(crate) started: Instant,
    pub(crate) queues: Vec<Arc<str>>,
    pub(crate) concurrency: usize,
    slots: Arc<Semaphore>,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) prefetch: usize,
    /// Where deliveries that must wait for their time are handed over.
    later: mpsc::UnboundedSender<(Delivery, Seat)>,
    held: std::sync::Mutex<Option<mpsc::UnboundedReceiver<(Delivery, Seat)>>>,
}

impl Node {
    pub(crate) fn new(worker: &Worker, phase: watch::Receiver<Phase>) -> Arc<Self> {
        let multiplier = worker.app.config().worker_prefetch_multiplier;
        let prefetch = match (worker.prefetch, multiplier) {
            (Some(prefetch), _) => prefetch,
            (None, 0) => usize::MAX / 2,
            (None, multiplier) => worker.concurrency * multiplier,
        };
        let mut queues = worker.queues.clone();
        if worker.direct {
            queues.push(worker.direct_queue().into());
        }
        let (later, held) = mpsc::unbounded_channel();
        Arc::new(Self {
            app: worker.app.clone(),
            name: worker.name.clone(),
            flights: Flights::default(),
            revoked: Revoked::default(),
            roster: Arc::default(),
            clock: Clock::default(),
            started: Instant::now(),
            queues,
            concurrency: worker.concurrency,
            slots: Arc::new(Semaphore::new(worker.concurrency)),
            phase,
            prefetch,
            later,
            held: std::sync::Mutex::new(Some(held)),
        })
    }

    pub(crate) fn broker(&self) -> &Arc<dyn Broker> {
        self.app.broker()
    }

    /// Hands a delivery over to wait for its time.
    pub(crate) fn hold(&self, delivery: Delivery, seat: Seat) {
        seat.scheduled();
        // Fails only when the loop has ended, and then the lease brings it back.
        let _ = self.later.send((delivery, seat));
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        *self.phase.borrow() > Phase::Running
    }

    /// Returns once shutting down has come this far.
    pub(crate) async fn reached(&self, phase: Phase) {
        let mut watched = self.phase.clone();
        // The sender lives as long as the worker's handle; without it nobody
        // can ask for anything any more.
        if watched.wait_for(|now| *now >= phase).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

pub(crate) async fn consume(node: &Node) -> Result<Box<dyn Consumer>> {
    let queues = node.queues.clone();
    tracing::info!(
        worker = node.name,
        ?queues,
        prefetch = node.prefetch,
        "consuming"
    );
    node.broker()
        .consume(ConsumeSpec {
            queues,
            prefetch: node.prefetch,
            lease: node.app.config().visibility_timeout,
        })
        .await
}

/// Takes deliveries and runs them until told to stop.
pub(crate) async fn run(
    node: Arc<Node>,
    mut consumer: Box<dyn Consumer>,
    mut commands: Option<Box<dyn Subscription>>,
) {
    // Boxed, as they are large and would be copied from place to place.
    let mut tasks = JoinSet::new();
    let mut hold = Hold::default();
    let taken = node.held.lock().ok().and_then(|mut held| held.take());
    let Some(mut later) = taken else { return };
    let lease = node.app.config().visibility_timeout;
    let mut renewal = interval((lease / 3).max(Duration::from_millis(5)));
    renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = node.reached(Phase::Warm) => break,
            _ = renewal.tick() => renew(&node).await,
            command = control::next(&mut commands) => control::obey(&node, command),
            Some((delivery, seat)) = later.recv() => {
                hold.add(delivery, seat);
                prefetch(&node, &mut *consumer, hold.len()).await;
            }
            delivery = hold.due(), if hold.len() > 0 => {
                let turn = line_up(&node).await;
                tasks.spawn(Box::pin(execute::delivery(node.clone(), delivery, turn)));
                prefetch(&node, &mut *consumer, hold.len()).await;
            }
            received = consumer.next() => match received {
                Ok(Some(delivery)) => {
                    node.flights.took_off(&delivery.receipt);
                    let turn = line_up(&node).await;
                    tasks.spawn(Box::pin(execute::delivery(node.clone(), delivery, turn)));
                    while tasks.try_join_next().is_some() {}
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(worker = node.name, %error, "consuming failed; trying again");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            },
        }
    }
    shut_down(&node, consumer, tasks, hold, &mut renewal).await;
}

/// Stands in line for a slot here and now, so that tasks start in the order in
/// which their messages came.
async fn line_up(node: &Node) -> Turn {
    let slot = node.slots.clone().acquire_owned();
    let mut turn: Turn = Box::pin(async { slot.await.ok() });
    // The first look takes the place in line, or the slot itself.
    match poll_fn(|context| Poll::Ready(turn.as_mut().poll(context))).await {
        Poll::Ready(slot) => Box::pin(ready(slot)),
        Poll::Pending => turn,
    }
}

async fn shut_down(
    node: &Arc<Node>,
    mut consumer: Box<dyn Consumer>,
    mut tasks: JoinSet<()>,
    mut hold: Hold,
    renewal: &mut tokio::time::Interval,
) {
    if let Err(error) = consumer.stop().await {
        tracing::warn!(worker = node.name, %error, "stopping to consume failed");
    }
    for delivery in hold.drain() {
        put_back(node, &delivery).await;
    }
    // Deliveries that have not started put themselves back: see `execute`.
    loop {
        tokio::select! {
            biased;
            () = node.reached(Phase::Cold) => break,
            joined = tasks.join_next() => if joined.is_none() { break },
            _ = renewal.tick() => renew(node).await,
        }
    }
    tasks.abort_all();
    while tasks.join_next().await.is_some() {}
    // What was stopped, and what was on its way to be held.
    for receipt in node.flights.all() {
        let _ = node.broker().settle(&receipt, Settle::Requeue).await;
    }
    tracing::info!(worker = node.name, "stopped");
}

async fn put_back(node: &Node, delivery: &Delivery) {
    node.flights.landed(&delivery.receipt);
    if let Err(error) = node
        .broker()
        .settle(&delivery.receipt, Settle::Requeue)
        .await
    {
        tracing::warn!(worker = node.name, %error, "a task could not be put back; its lease will");
    }
}

async fn renew(node: &Node) {
    let receipts = node.flights.all();
    if receipts.is_empty() {
        return;
    }
    if let Err(error) = node.broker().renew(&receipts).await {
        tracing::warn!(worker = node.name, %error, "renewing leases failed");
    }
}

/// Tasks that wait for their time must not keep others from being taken.
async fn prefetch(node: &Node, consumer: &mut dyn Consumer, held: usize) {
    if let Err(error) = consumer.set_prefetch(node.prefetch + held).await {
        tracing::warn!(worker = node.name, %error, "changing the prefetch failed");
    }
}

pub(crate) async fn subscribe(node: &Node) -> Option<Box<dyn Subscription>> {
    match node.broker().subscribe(CONTROL_EXCHANGE).await {
        Ok(commands) => Some(commands),
        Err(error) => {
            tracing::warn!(worker = node.name, %error, "no remote control");
            None
        }
    }
}
