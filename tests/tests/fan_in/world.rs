//! A world in which things go wrong: an application whose broker and backend
//! are faulty, and a client whose are not.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use canvas::broker::{ConsumeSpec, Destination, Outgoing, Settle};
use canvas::memory::{MemoryBackend, MemoryBroker};
use canvas::{
    AsyncResult, Backend, Broker, Builder, Canvas, Error, ExceptionInfo, Id, Message, ResultTree,
    Running, Signature, WorkerExt,
};
use canvas_tests::faults::Faults;
use canvas_tests::support::{Log, task, value_error};
use serde_json::{Value, json};

/// How long a worker has a message, unless it renews that.
pub(crate) const LEASE: Duration = Duration::from_secs(30);

/// Long enough for every lease, claim and wait to be over.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// A broker and a backend, an application that reaches them through faults,
/// and a client that reaches them without.
pub(crate) struct World {
    pub(crate) broker: MemoryBroker,
    pub(crate) backend: MemoryBackend,
    pub(crate) faults: Faults,
    /// The label and the id of each step that ran.
    pub(crate) ran: Log,
    /// What error callbacks were given.
    pub(crate) errors: Log,
    pub(crate) app: Canvas,
    pub(crate) client: Canvas,
}

impl World {
    pub(crate) fn new(faults: Faults) -> Self {
        Self::with(faults, MemoryBackend::new(), |builder| builder)
    }

    pub(crate) fn with(
        faults: Faults,
        backend: MemoryBackend,
        change: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let broker = MemoryBroker::new();
        let (ran, errors) = (Log::new(), Log::new());
        let ports = Canvas::builder()
            .broker(faults.broker(broker.clone()))
            .backend(faults.backend(backend.clone()))
            .configure(|config| config.visibility_timeout = LEASE);
        let app = change(tasks(ports, &ran, &errors)).build().unwrap();
        let client = Canvas::builder()
            .broker(Arc::new(broker.clone()))
            .backend(Arc::new(backend.clone()))
            .build()
            .unwrap();
        Self {
            broker,
            backend,
            faults,
            ran,
            errors,
            app,
            client,
        }
    }

    /// Starts a worker, however often that fails.
    pub(crate) async fn worker(&self) -> Running {
        loop {
            tokio::select! {
                started = self.app.worker().concurrency(2).start() => match started {
                    Ok(running) => return running,
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                },
                () = self.faults.killed() => {}
            }
        }
    }

    /// How often the step with this label ran.
    pub(crate) fn runs(&self, label: &str) -> usize {
        self.labels().iter().filter(|ran| *ran == label).count()
    }

    pub(crate) fn labels(&self) -> Vec<String> {
        let label = |entry: Value| entry[0].as_str().map(str::to_owned);
        self.ran.entries().into_iter().filter_map(label).collect()
    }

    /// Those of these tasks that have not ended, and what went wrong.
    pub(crate) async fn unended(&self, ids: &[Id]) -> String {
        let found = self.backend.load(ids).await.unwrap();
        let open = found.iter().zip(ids).filter(|(meta, _)| {
            let ended = meta.as_ref().is_some_and(|meta| meta.status.is_ready());
            !ended
        });
        format!("{:?} after {:?}", open.collect::<Vec<_>>(), self.faults)
    }

    /// The labels of steps that ran, but whose end is not stored.
    pub(crate) async fn not_stored(&self) -> Vec<String> {
        let mut open = Vec::new();
        for entry in self.ran.entries() {
            let (Some(label), Some(id)) = (entry[0].as_str(), entry[1].as_str()) else {
                continue;
            };
            let found = self.backend.load(&[Id::from(id)]).await.unwrap();
            if found
                .iter()
                .all(|meta| meta.as_ref().is_none_or(|m| !m.status.is_ready()))
            {
                open.push(label.to_owned());
            }
        }
        open
    }

    /// A result, asked for without faults.
    pub(crate) fn result(&self, tree: &ResultTree) -> AsyncResult {
        self.client.result_of(tree.clone())
    }

    /// Waits until all that can happen has happened.
    pub(crate) async fn settle_down(&self) {
        tokio::time::sleep(LONG).await;
        assert_eq!(self.broker.len("celery").await.unwrap(), 0);
    }

    /// Sends a canvas to nobody: its messages are taken from the queue.
    pub(crate) async fn messages(&self, canvas: Signature) -> (ResultTree, Vec<Message>) {
        let result = self.client.apply(canvas).await.unwrap();
        let spec = ConsumeSpec {
            queues: vec!["celery".into()],
            prefetch: 1_000,
            lease: LEASE,
        };
        let mut consumer = self.broker.consume(spec).await.unwrap();
        let mut messages = Vec::new();
        while self.broker.len("celery").await.unwrap() > 0 {
            let delivery = consumer.next().await.unwrap().unwrap();
            let ack = self.broker.settle(&delivery.receipt, Settle::Ack);
            ack.await.unwrap();
            messages.push(delivery.message);
        }
        (result.tree().clone(), messages)
    }

    pub(crate) async fn deliver(&self, message: &Message) {
        let to = Destination::queue("celery");
        let message = message.clone();
        let outgoing = vec![Outgoing { to, message }];
        self.broker.publish(outgoing).await.unwrap();
    }
}

/// The tasks that the canvases here are made of.
pub(crate) fn tasks(builder: Builder, ran: &Log, errors: &Log) -> Builder {
    let ran = ran.clone();
    // Adds its number to all that it is given, or fails.
    let step = task("t.step", move |ctx, call| {
        ran.note(json!([call.kwargs["label"], ctx.id()]));
        let fails = call.kwargs.contains_key("fails");
        let sum = call.args.iter().map(total).sum::<i64>() + total(&call.kwargs["n"]);
        async move {
            match fails {
                true => Err(value_error("out of luck")),
                false => Ok(json!(sum)),
            }
        }
    });
    // Returns another number each time.
    let runs = AtomicI64::new(100);
    let vary = task("t.vary", move |_, _| {
        let value = runs.fetch_add(1, Ordering::Relaxed);
        async move { Ok(json!(value)) }
    });
    // Takes so many seconds, and returns them.
    let slow = task("t.slow", |_, call| async move {
        let seconds = call.args[0].as_u64().unwrap_or_default();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        Ok(json!(seconds))
    });
    let panics = task("t.panic", |_, _| async { panic!("no way") });
    let retries = task("t.retry", |ctx, call| async move {
        let goal = call.args[0].as_u64().unwrap_or_default();
        if u64::from(ctx.retries()) < goal {
            let retry = ctx.retry().countdown(Duration::ZERO).max_retries(2);
            return Err(retry.because(value_error("not yet")));
        }
        Ok(json!(goal))
    });
    let grows = task("t.grow", |ctx, call| async move {
        let more = Signature::from_value(call.kwargs["more"].clone())?;
        ctx.add_to_chord(more).await?;
        Ok(json!(1))
    });
    let replaced = task("t.replace", |ctx, call| async move {
        Err(ctx.replace(Signature::from_value(call.kwargs["canvas"].clone())?))
    });
    builder
        .task_object(step)
        .task_object(vary)
        .task_object(slow)
        .task_object(panics)
        .task_object(retries)
        .task_object(grows)
        .task_object(replaced)
        .task_object(errors.errback("t.errback"))
}

/// The sum of all numbers in a value.
fn total(value: &Value) -> i64 {
    match value {
        Value::Array(items) => items.iter().map(total).sum(),
        other => other.as_i64().unwrap_or_default(),
    }
}

pub(crate) fn step(label: &str, n: i64) -> Signature {
    Signature::new("t.step").kwarg("label", label).kwarg("n", n)
}

pub(crate) fn call(name: &str) -> Signature {
    Signature::new(name)
}

/// The value of a result.
pub(crate) async fn value(result: &AsyncResult) -> Value {
    result.get_timeout(LONG).await.unwrap()
}

/// The error of a result.
pub(crate) async fn failure(result: &AsyncResult) -> ExceptionInfo {
    match result.get_timeout(LONG).await {
        Err(Error::TaskFailed { exception, .. }) => *exception,
        other => panic!("no failure: {other:?}"),
    }
}
