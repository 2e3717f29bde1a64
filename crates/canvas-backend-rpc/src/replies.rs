//! The reply queue: declared, read for as long as this process wants results,
//! and found again after an outage.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use canvas_broker_amqp::sharing::{Backoff, Connections, fault, is_not_found, short};
use canvas_core::backend::Backend;
use canvas_core::memory::MemoryBackend;
use canvas_core::{Error, ExceptionInfo, Id, Result, ResultTree, State, TaskMeta};
use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;

use crate::config::RpcBackendConfig;
use crate::expected::Expected;

const OPERATION: &str = "backend.receive";

/// How many results may be on their way to this process.
const PREFETCH: u16 = 1_000;

/// A connection that holds for so long is none that is lost at once.
const STEADY: Duration = Duration::from_secs(1);

/// The type of the messages that this process sends to itself: see
/// [`Replies::catch_up`].
const MARK: &str = "canvas.mark";

/// The results that are sent to this process.
#[derive(Debug)]
pub(crate) struct Replies {
    shared: Arc<Shared>,
    reader: Mutex<Option<Reader>>,
}

/// The task that reads the queue. It deletes it when this is dropped.
#[derive(Debug)]
struct Reader {
    task: JoinHandle<()>,
    _stop: oneshot::Sender<()>,
}

#[derive(Debug)]
struct Shared {
    queue: Id,
    connections: Arc<Connections>,
    config: RpcBackendConfig,
    /// What came: kept here as it would be for all elsewhere.
    came: MemoryBackend,
    expected: Expected,
    line: watch::Sender<Line>,
    /// Somebody does not want to wait until it is tried again.
    now: Notify,
    /// Whether the queue was declared before.
    declared: AtomicBool,
    /// How often the queue was found to be gone.
    losses: watch::Sender<u64>,
    marks: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    last_mark: AtomicU64,
}

/// What is there to read from.
#[derive(Debug, Clone)]
enum Line {
    /// Nothing, and it is being seen to.
    Opening,
    Open(Channel),
    Down(Error),
}

impl Replies {
    pub(crate) fn new(connections: Arc<Connections>, config: RpcBackendConfig) -> Self {
        let shared = Shared {
            queue: Id::random(),
            connections,
            came: MemoryBackend::with_expiry(config.result_expires),
            expected: Expected::new(config.result_expires),
            config,
            line: watch::Sender::new(Line::Opening),
            now: Notify::new(),
            declared: AtomicBool::new(false),
            losses: watch::Sender::new(0),
            marks: Mutex::default(),
            last_mark: AtomicU64::new(0),
        };
        Self {
            shared: Arc::new(shared),
            reader: Mutex::default(),
        }
    }

    pub(crate) fn queue(&self) -> &Id {
        &self.shared.queue
    }

    /// What came until now.
    pub(crate) fn came(&self) -> &MemoryBackend {
        &self.shared.came
    }

    pub(crate) fn expected(&self) -> &Expected {
        &self.shared.expected
    }

    /// Expects the results of these, and tells whether there are any.
    pub(crate) fn expect(&self, results: &[ResultTree]) -> bool {
        let nodes: Vec<&ResultTree> = results.iter().flat_map(ResultTree::nodes).collect();
        let mut tasks = tasks(&nodes).peekable();
        let any = tasks.peek().is_some();
        self.shared.expected.add(tasks);
        any
    }

    /// Counts up when results may have been lost.
    pub(crate) fn losses(&self) -> watch::Receiver<u64> {
        self.shared.losses.subscribe()
    }

    /// Whether anything can have been sent to this process.
    pub(crate) fn is_open(&self) -> bool {
        self.shared.declared.load(Ordering::Acquire)
    }

    /// Makes sure that there is a queue and that it is read.
    pub(crate) async fn open(&self, operation: &'static str) -> Result<Channel> {
        let mut line = self.shared.line.subscribe();
        self.read();
        let mut tried = false;
        loop {
            match line.borrow_and_update().clone() {
                Line::Open(channel) if channel.status().connected() => return Ok(channel),
                Line::Down(error) if tried => return Err(asked(operation, error)),
                Line::Down(_) => {
                    self.shared.now.notify_one();
                    tried = true;
                }
                Line::Opening => tried = true,
                // The reader is about to see it.
                Line::Open(_) => {}
            }
            if line.changed().await.is_err() {
                return Err(Error::Closed("the result backend"));
            }
        }
    }

    /// Starts reading, if nobody does: a reader ends with the runtime that it
    /// was started on.
    fn read(&self) {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if reader.as_ref().is_some_and(|it| !it.task.is_finished()) {
            return;
        }
        self.shared.line.send_replace(Line::Opening);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(read(self.shared.clone(), stopped));
        *reader = Some(Reader { task, _stop: stop });
    }

    /// Takes in all that is in the queue by now: sends a message through it, and
    /// waits until that one comes.
    pub(crate) async fn catch_up(&self, operation: &'static str) -> Result<()> {
        let channel = self.open(operation).await?;
        let lost = |reason: &str| Error::Connection {
            operation,
            reason: format!("{}: {reason}", self.shared.connections.shown()),
        };
        let number = self.shared.last_mark.fetch_add(1, Ordering::Relaxed);
        let (seen, coming) = oneshot::channel();
        self.shared.marks().insert(number, seen);
        // Those that are there when the line is lost are given up.
        if !matches!(&*self.shared.line.borrow(), Line::Open(_)) {
            self.shared.marks().remove(&number);
            return Err(lost("the connection was lost"));
        }
        let properties = BasicProperties::default()
            .with_type(short(MARK)?)
            .with_correlation_id(short(&number.to_string())?);
        let queue = short(self.shared.queue.as_str())?;
        let options = BasicPublishOptions::default();
        let sent = channel.basic_publish("".into(), queue, options, b"", properties);
        let outcome = match sent.await {
            Err(error) => Err(fault(operation, &error)),
            Ok(_) => match tokio::time::timeout(self.patience(), coming).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(lost("the connection was lost")),
                Err(_) => Err(lost("no answer")),
            },
        };
        self.shared.marks().remove(&number);
        outcome
    }

    fn patience(&self) -> Duration {
        self.shared.config.connection.confirm_timeout
    }
}

/// Those of which there are results.
fn tasks<'a>(nodes: &'a [&ResultTree]) -> impl Iterator<Item = &'a Id> {
    let wanted = nodes
        .iter()
        .filter(|node| node.members.is_none() && !node.ignored);
    wanted.map(|node| &node.id)
}

/// An error of the reader, as the error of whoever asked.
fn asked(operation: &'static str, error: Error) -> Error {
    match error {
        Error::Connection { reason, .. } => Error::Connection { operation, reason },
        other => other,
    }
}

/// Reads the queue until told to stop.
async fn read(shared: Arc<Shared>, mut stop: oneshot::Receiver<()>) {
    let mut backoff = Backoff::new();
    loop {
        let opened = tokio::select! {
            _ = &mut stop => return,
            opened = shared.consume() => opened,
        };
        let began = Instant::now();
        match opened {
            Ok((channel, stream)) => {
                shared.line.send_replace(Line::Open(channel.clone()));
                tokio::select! {
                    _ = &mut stop => return shared.delete(&channel).await,
                    () = shared.take_in(&channel, stream) => {}
                }
                shared.line.send_replace(Line::Opening);
                // Nothing that was sent on it will come.
                shared.marks().clear();
            }
            Err(error) => {
                tracing::debug!(queue = %shared.queue, %error, "results cannot be received");
                shared.line.send_replace(Line::Down(error));
            }
        }
        if began.elapsed() > STEADY {
            backoff.reset();
            continue;
        }
        tokio::select! {
            _ = &mut stop => return,
            () = shared.now.notified() => {}
            () = tokio::time::sleep(backoff.pause()) => {}
        }
    }
}

impl Shared {
    fn marks(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<()>>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to consume. If the queue is gone that was there before, so is
    /// what was in it.
    async fn consume(&self) -> Result<(Channel, lapin::Consumer)> {
        let mut channel = self.connections.channel(OPERATION).await?;
        let name = short(self.queue.as_str())?;
        let mut missing = true;
        if self.declared.load(Ordering::Acquire) {
            let options = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
            let looking = channel.queue_declare(name.clone(), options, FieldTable::default());
            match looking.await {
                Ok(_) => missing = false,
                // The answer ends the channel.
                Err(error) if is_not_found(&error) => {
                    channel = self.connections.channel(OPERATION).await?;
                    tracing::warn!(queue = %self.queue, "the reply queue was gone, and results with it");
                    self.expected.doubt();
                    self.losses.send_modify(|losses| *losses += 1);
                }
                Err(error) => return Err(fault(OPERATION, &error)),
            }
        }
        let beginning = async {
            if missing {
                let mut arguments = FieldTable::default();
                // Not deleted with its last consumer, as Celery's are: a lost
                // connection is one consumer less, too.
                let expires = self.config.queue_expires_ms().unwrap_or(i32::MAX);
                arguments.insert("x-expires".into(), AMQPValue::LongInt(expires));
                let options = QueueDeclareOptions::durable();
                channel
                    .queue_declare(name.clone(), options, arguments)
                    .await?;
            }
            let qos = BasicQosOptions::default();
            channel.basic_qos(PREFETCH, qos).await?;
            let options = BasicConsumeOptions::default();
            channel
                .basic_consume(name, "".into(), options, FieldTable::default())
                .await
        };
        let stream = beginning.await.map_err(|error| fault(OPERATION, &error))?;
        self.declared.store(true, Ordering::Release);
        Ok((channel, stream))
    }

    /// Takes in what comes, until nothing more can.
    async fn take_in(&self, channel: &Channel, mut stream: lapin::Consumer) {
        while let Some(Ok(delivery)) = stream.next().await {
            let mut last = delivery.delivery_tag;
            self.take(delivery).await;
            // What is there already is acknowledged with it.
            while let Some(Some(Ok(next))) = stream.next().now_or_never() {
                last = next.delivery_tag;
                self.take(next).await;
            }
            let options = BasicAckOptions { multiple: true };
            if channel.basic_ack(last, options).await.is_err() {
                return;
            }
        }
    }

    async fn take(&self, delivery: Delivery) {
        let properties = &delivery.properties;
        let name = properties.correlation_id().as_ref();
        let name = name.map(|name| name.as_str()).unwrap_or_default();
        if properties
            .kind()
            .as_ref()
            .is_some_and(|kind| kind.as_str() == MARK)
        {
            let seen = name
                .parse()
                .ok()
                .and_then(|number| self.marks().remove(&number));
            if let Some(seen) = seen {
                // Whoever waited may have gone.
                let _ = seen.send(());
            }
            return;
        }
        let Some(meta) = read_result(&delivery, name) else {
            tracing::warn!(queue = %self.queue, "a message that is no result was dropped");
            return;
        };
        // Nothing that is in this process can fail.
        let stored = self.came.store(&meta).await;
        if let Err(error) = stored {
            tracing::warn!(task_id = %meta.task_id, %error, "a result cannot be kept");
        }
        if meta.status.is_ready() {
            self.expected.remove([&meta.task_id]);
        }
        for child in meta.children.iter().flatten() {
            self.expected.add(tasks(&child.nodes()));
        }
    }

    /// Leaves nothing behind.
    async fn delete(&self, channel: &Channel) {
        let Ok(name) = short(self.queue.as_str()) else {
            return;
        };
        let deleting = channel.queue_delete(name, QueueDeleteOptions::default());
        match deleting.await {
            Ok(_) => drop(channel.close(200, "done".into()).await),
            Err(error) => {
                tracing::debug!(queue = %self.queue, %error, "the reply queue is left to expire");
            }
        }
    }
}

/// The state that a message tells. Of one that cannot be read, it is a failure
/// that says so: whoever waits for it would wait for ever. `None`, where even
/// its task is unknown.
fn read_result(delivery: &Delivery, name: &str) -> Option<TaskMeta> {
    let kind = delivery.properties.content_type().as_ref();
    let kind = kind.map(|kind| kind.as_str()).unwrap_or_default();
    let problem = if kind == "application/json" {
        match TaskMeta::from_json(&delivery.data) {
            Ok(meta) => return Some(meta),
            Err(error) => ExceptionInfo::new("kombu.exceptions", "DecodeError", error.to_string()),
        }
    } else {
        let text = format!(
            "the result is of content type `{kind}`, and only application/json is read: \
             set result_serializer = 'json'"
        );
        ExceptionInfo::new("kombu.exceptions", "ContentDisallowed", text)
    };
    if name.is_empty() {
        return None;
    }
    let mut meta = TaskMeta::new(name.into(), State::Failure);
    meta.result = problem.to_value();
    Some(meta)
}
