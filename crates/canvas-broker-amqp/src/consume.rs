//! Consuming: the handle of a consumer, and the task that keeps it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use canvas_core::broker::{ConsumeSpec, Consumer, Delivery};
use canvas_core::{Error, Result};
use lapin::Channel;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, ChannelFlowOptions,
};
use lapin::types::FieldTable;
use tokio::sync::Notify;

use crate::backoff::Backoff;
use crate::config::QueueType;
use crate::hub::Hub;
use crate::link::{fault, next_epoch};
use crate::session::State;

/// How often to see whether the channel still stands.
const LOOK: Duration = Duration::from_millis(500);

/// What is asked for, in errors.
const OPERATION: &str = "broker.consume";

/// A consumer, as its handle, its task and those who settle see it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: u64,
    pub(crate) lease: Duration,
    hub: Weak<Hub>,
    kind: QueueType,
    state: Mutex<State>,
    /// Held by whoever changes what is consumed, and counts what came.
    pub(crate) changing: tokio::sync::Mutex<Limits>,
    /// Held by whoever sends acknowledgements.
    pub(crate) acking: tokio::sync::Mutex<()>,
    /// Wakes the task.
    stir: Notify,
}

/// What the server was told of how much to send.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    /// For each queue; 0 for any number.
    each: u16,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whoever waits for a delivery, and the task.
    pub(crate) fn wake(&self) {
        let waker = self.state().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
        self.stir.notify_one();
    }

    /// A delivery is done with: there is room for another, or an end.
    pub(crate) fn settled(&self) {
        let (waker, closed) = {
            let mut state = self.state();
            state.settling -= 1;
            (state.waker.take(), state.closed)
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        if closed {
            self.stir.notify_one();
        }
    }

    /// How many messages the server may have unsettled on the channel. Each
    /// queue but one has a place more, so that none keeps another waiting.
    fn limit(&self, state: &State) -> u16 {
        let more = state.queues.len().saturating_sub(1);
        // 0 would be any number; what comes then waits here.
        u16::try_from(state.prefetch.max(1).saturating_add(more)).unwrap_or(0)
    }

    /// Opens a channel, and consumes on it.
    async fn open(&self, hub: &Hub) -> Result<()> {
        let mut limits = self.changing.lock().await;
        let (queues, prefetch) = {
            let state = self.state();
            (state.queues.clone(), state.prefetch)
        };
        let (channel, _) = hub.link.channel(OPERATION).await?;
        let opening = async {
            hub.layout.declare_delays(&channel).await?;
            for queue in &queues {
                hub.layout.declare(&channel, queue).await?;
            }
            // No limit on the channel is one for quorum queues to have.
            let prefetch = u16::try_from(prefetch.max(1)).unwrap_or(0);
            limits.each = match self.kind {
                QueueType::Quorum => prefetch,
                QueueType::Classic if queues.len() > 1 => prefetch,
                QueueType::Classic => 0,
            };
            let limit = self.limit(&self.state());
            self.set_limits(&channel, limits.each, limit).await?;
            let mut streams = Vec::new();
            for queue in &queues {
                let stream = self.subscribe(&channel, queue).await?;
                streams.push((queue.clone(), stream));
            }
            Ok::<_, lapin::Error>(streams)
        };
        let streams = opening.await.map_err(|error| fault(OPERATION, &error))?;
        self.state().begin(next_epoch(), channel, streams);
        Ok(())
    }

    /// Sets the limit of consumers to come, and then that of the channel, which
    /// is lifted by setting the other, and which quorum queues do not have.
    async fn set_limits(&self, channel: &Channel, each: u16, limit: u16) -> lapin::Result<()> {
        channel
            .basic_qos(each, BasicQosOptions { global: false })
            .await?;
        match self.kind {
            QueueType::Classic => set_limit(channel, limit).await,
            QueueType::Quorum => Ok(()),
        }
    }

    async fn subscribe(&self, channel: &Channel, queue: &str) -> lapin::Result<lapin::Consumer> {
        let tag = format!("canvas-{}-{}", std::process::id(), next_epoch());
        channel
            .basic_consume(
                queue.into(),
                tag.into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
    }

    /// Stops consuming a queue, or all, and gives back what came from it and
    /// was not asked for.
    async fn cancel(&self, queue: Option<&str>) -> lapin::Result<()> {
        let (channel, tags) = {
            let state = self.state();
            (state.channel.clone(), state.consumer_tags(queue))
        };
        let Some(channel) = channel else {
            return Ok(());
        };
        for tag in &tags {
            let options = BasicCancelOptions::default();
            channel.basic_cancel(tag.clone(), options).await?;
        }
        let unwanted = {
            let mut state = self.state();
            state.take_in(&mut Context::from_waker(Waker::noop()));
            state.drop_streams(&tags);
            state.set_aside(|name, _| queue.is_none_or(|queue| queue == name))
        };
        self.give_back(&channel, &unwanted).await
    }

    /// Gives messages back to their queues, and makes sure that they are there.
    pub(crate) async fn give_back(&self, channel: &Channel, tags: &[u64]) -> lapin::Result<()> {
        if tags.is_empty() {
            return Ok(());
        }
        for tag in tags {
            let options = BasicNackOptions {
                requeue: true,
                ..BasicNackOptions::default()
            };
            channel.basic_nack(*tag, options).await?;
            self.state().settled(*tag);
        }
        settle_down(channel).await
    }

    /// How many messages of a queue came here and were not asked for. The
    /// server takes them for delivered. To be asked while `changing` is held.
    pub(crate) async fn waiting(&self, queue: &str) -> usize {
        let channel = self.state().channel.clone();
        if let Some(channel) = channel {
            // What is on its way comes ahead of the answer.
            let _ = settle_down(&channel).await;
        }
        let waiting = {
            let mut state = self.state();
            state.take_in(&mut Context::from_waker(Waker::noop()));
            state.waiting(queue)
        };
        self.wake();
        waiting
    }

    /// Keeps the consumer: its channel, and the leases of what is out.
    async fn keep(self: Arc<Self>) {
        let mut backoff = Backoff::new();
        let mut quiet = true;
        let mut cancelled = false;
        loop {
            let Some(hub) = self.hub.upgrade() else {
                return;
            };
            let (closed, done, holds) = {
                let state = self.state();
                (state.closed, state.is_done(), state.holds())
            };
            if closed && (done || !holds) {
                self.close(&hub).await;
                return;
            }
            if closed && !std::mem::replace(&mut cancelled, true) {
                let _limits = self.changing.lock().await;
                let _ = self.cancel(None).await;
            }
            if !holds {
                self.state().end();
                match self.open(&hub).await {
                    Ok(()) => {
                        backoff.reset();
                        quiet = true;
                        self.wake();
                    }
                    Err(error) => {
                        self.report(error, &mut quiet);
                        drop(hub);
                        tokio::time::sleep(backoff.pause()).await;
                        continue;
                    }
                }
            }
            self.resubscribe(&hub).await;
            self.lapse().await;
            // Of those who were dropped while they waited.
            self.flush(None).await;
            drop(hub);
            let look = Instant::now() + LOOK;
            let until = self.state().next_deadline().map_or(look, |at| at.min(look));
            tokio::select! {
                () = self.stir.notified() => {}
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }

    /// An outage is waited out, and the link has logged it. Any other problem
    /// is for whoever consumes, once.
    fn report(&self, error: Error, quiet: &mut bool) {
        if matches!(error, Error::Connection { .. }) || !std::mem::replace(quiet, false) {
            return;
        }
        tracing::error!(%error, "consuming is not possible");
        self.state().error = Some(error);
        self.wake();
    }

    /// Consumes again what the server has stopped sending: the queue was
    /// deleted, or its leader has changed.
    async fn resubscribe(&self, hub: &Hub) {
        let lost = std::mem::take(&mut self.state().lost);
        for queue in lost {
            let _limits = self.changing.lock().await;
            let channel = {
                let state = self.state();
                let wanted = state.queues.contains(&queue) && !state.closed;
                state.channel.clone().filter(|_| wanted)
            };
            let Some(channel) = channel else { continue };
            tracing::warn!(
                queue = &*queue,
                "RabbitMQ has ended this consumer; starting another"
            );
            let again = async {
                hub.layout.declare(&channel, &queue).await?;
                self.subscribe(&channel, &queue).await
            };
            match again.await {
                Ok(stream) => self.state().add_stream(queue, stream),
                // The channel goes with it, and is opened anew.
                Err(error) => tracing::warn!(queue = &*queue, %error, "no other consumer"),
            }
            self.wake();
        }
    }

    /// Gives back what is out and not renewed, and what lies here unasked for:
    /// others may have time for it. A quorum queue would count the latter as
    /// a delivery, so there it stays.
    async fn lapse(&self) {
        let now = Instant::now();
        let (channel, lapsed) = {
            let mut state = self.state();
            let mut lapsed = state.lapsed(now);
            if !lapsed.is_empty() {
                tracing::debug!(count = lapsed.len(), "leases have ended: delivering again");
            }
            state.take_in(&mut Context::from_waker(Waker::noop()));
            if self.kind == QueueType::Classic {
                lapsed.extend(state.set_aside(|_, at| now - at.min(now) >= self.lease));
            }
            // It may be told of what was just taken in.
            let waker = state.waker.take();
            if let Some(waker) = waker {
                waker.wake();
            }
            (state.channel.clone(), lapsed)
        };
        if let Some(channel) = channel
            && let Err(error) = self.give_back(&channel, &lapsed).await
        {
            // The channel has gone, and the server gives it to others by itself.
            tracing::debug!(%error, "what came was not given back");
        }
    }

    /// Ends the consumer, with nothing out.
    async fn close(&self, hub: &Hub) {
        hub.forget(self.id);
        let _limits = self.changing.lock().await;
        self.flush(None).await;
        let _ = self.cancel(None).await;
        let channel = self.state().end();
        if let Some(channel) = channel {
            let _ = channel.close(200, "done".into()).await;
        }
    }
}

async fn set_limit(channel: &Channel, limit: u16) -> lapin::Result<()> {
    channel
        .basic_qos(limit, BasicQosOptions { global: true })
        .await
}

/// Waits until the server has done what it was told on this channel, and all
/// that it has sent there until then has come.
pub(crate) async fn settle_down(channel: &Channel) -> lapin::Result<()> {
    let options = ChannelFlowOptions { active: true };
    channel.channel_flow(options).await.map(drop)
}

/// The handle of a consumer.
#[derive(Debug)]
pub(crate) struct AmqpConsumer {
    shared: Arc<Shared>,
    hub: Arc<Hub>,
}

impl Hub {
    pub(crate) async fn consume(self: &Arc<Self>, spec: ConsumeSpec) -> Result<AmqpConsumer> {
        let mut queues: Vec<Arc<str>> = Vec::new();
        for queue in spec.queues {
            if !queues.contains(&queue) {
                queues.push(queue);
            }
        }
        let shared = Arc::new(Shared {
            id: next_epoch(),
            lease: spec.lease,
            hub: Arc::downgrade(self),
            kind: self.config.queue_type,
            state: Mutex::new(State::new(queues, spec.prefetch)),
            changing: tokio::sync::Mutex::default(),
            acking: tokio::sync::Mutex::default(),
            stir: Notify::new(),
        });
        shared.open(self).await?;
        self.remember(&shared);
        tokio::spawn(shared.clone().keep());
        Ok(AmqpConsumer {
            shared,
            hub: self.clone(),
        })
    }
}

impl AmqpConsumer {
    fn poll(&self, context: &mut Context<'_>) -> Poll<Result<Option<Delivery>>> {
        let shared = &self.shared;
        let mut state = shared.state();
        if state.closed {
            return Poll::Ready(Ok(None));
        }
        if let Some(error) = state.error.take() {
            return Poll::Ready(Err(error));
        }
        if state.take_in(context) {
            shared.stir.notify_one();
        }
        if let Some(delivery) = state.give_out(shared.id, shared.lease) {
            // Its task must know of the first lease.
            if state.out.len() == 1 {
                shared.stir.notify_one();
            }
            return Poll::Ready(Ok(Some(delivery)));
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// What a change comes to that could not be told to the server: the next
    /// channel is told. Anything but a lost connection is for the caller.
    fn told(&self, told: lapin::Result<()>) -> Result<()> {
        self.shared.wake();
        match told.map_err(|error| fault(OPERATION, &error)) {
            Err(Error::Connection { .. }) | Ok(()) => Ok(()),
            Err(other) => Err(other),
        }
    }
}

#[async_trait]
impl Consumer for AmqpConsumer {
    async fn next(&mut self) -> Result<Option<Delivery>> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    async fn set_prefetch(&mut self, prefetch: usize) -> Result<()> {
        let shared = &self.shared;
        let mut limits = shared.changing.lock().await;
        let (channel, limit, queues) = {
            let mut state = shared.state();
            if state.prefetch == prefetch {
                return Ok(());
            }
            state.prefetch = prefetch;
            let limit = shared.limit(&state);
            (state.channel.clone(), limit, state.queues.clone())
        };
        let Some(channel) = channel else {
            return Ok(());
        };
        let telling = async {
            let each = u16::try_from(prefetch.max(1)).unwrap_or(0);
            let is_more = limits.each != 0 && (each == 0 || each > limits.each);
            if !is_more {
                return match shared.kind {
                    QueueType::Classic => set_limit(&channel, limit).await,
                    // What is fetched too much waits here.
                    QueueType::Quorum => Ok(()),
                };
            }
            // The limit of a consumer is fixed when it starts.
            limits.each = match shared.kind {
                QueueType::Classic => 0,
                QueueType::Quorum => each,
            };
            shared.cancel(None).await?;
            shared.set_limits(&channel, limits.each, limit).await?;
            for queue in queues {
                let stream = shared.subscribe(&channel, &queue).await?;
                shared.state().add_stream(queue, stream);
            }
            Ok(())
        };
        let told = telling.await;
        self.told(told)
    }

    async fn add_queue(&mut self, queue: &str) -> Result<()> {
        let shared = &self.shared;
        let _limits = shared.changing.lock().await;
        let queue: Arc<str> = queue.into();
        let (channel, limit) = {
            let mut state = shared.state();
            if state.queues.contains(&queue) {
                return Ok(());
            }
            state.queues.push(queue.clone());
            (state.channel.clone(), shared.limit(&state))
        };
        let Some(channel) = channel else {
            return Ok(());
        };
        let telling = async {
            self.hub.layout.declare(&channel, &queue).await?;
            if shared.kind == QueueType::Classic {
                set_limit(&channel, limit).await?;
            }
            let stream = shared.subscribe(&channel, &queue).await?;
            shared.state().add_stream(queue.clone(), stream);
            Ok(())
        };
        let told = telling.await;
        self.told(told)
    }

    async fn cancel_queue(&mut self, queue: &str) -> Result<()> {
        let shared = &self.shared;
        let _limits = shared.changing.lock().await;
        {
            let mut state = shared.state();
            let before = state.queues.len();
            state.queues.retain(|name| **name != *queue);
            if state.queues.len() == before {
                return Ok(());
            }
        }
        let told = shared.cancel(Some(queue)).await;
        self.told(told)
    }

    async fn stop(&mut self) -> Result<()> {
        let shared = &self.shared;
        let _limits = shared.changing.lock().await;
        if std::mem::replace(&mut shared.state().closed, true) {
            return Ok(());
        }
        let told = shared.cancel(None).await;
        self.told(told)
    }
}

impl Drop for AmqpConsumer {
    fn drop(&mut self) {
        // Its task does the rest.
        self.shared.state().closed = true;
        self.shared.stir.notify_one();
    }
}
