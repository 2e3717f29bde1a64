//! What the behaviour tests share: tasks that share state with their test,
//! and waiting for what must come true.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use canvas::{
    Arguments, AsyncResult, Builder, Canvas, Ctx, Error, ExceptionInfo, Id, Running, Signature,
    Task, TaskError, TaskMeta, TaskOptions, Wait, WorkerExt,
};
use serde_json::{Value, json};
use tokio::sync::watch;

/// How long anything may take before it counts as never.
pub const PATIENCE: Duration = Duration::from_secs(30);

type Run = dyn Fn(Ctx, Arguments) -> Pin<Box<dyn Future<Output = Result<Value, TaskError>> + Send>>
    + Send
    + Sync;

struct Closure {
    name: String,
    options: TaskOptions,
    run: Box<Run>,
}

#[async_trait]
impl Task for Closure {
    fn name(&self) -> &str {
        &self.name
    }

    fn options(&self) -> TaskOptions {
        self.options.clone()
    }

    async fn run(&self, ctx: Ctx, call: Arguments) -> Result<Value, TaskError> {
        (self.run)(ctx, call).await
    }
}

/// A task made of a closure, which can share state with its test.
pub fn task<F, Fut>(name: &str, run: F) -> Arc<dyn Task>
where
    F: Fn(Ctx, Arguments) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Value, TaskError>> + Send + 'static,
{
    task_with(name, TaskOptions::default(), run)
}

/// [`task`] with options.
pub fn task_with<F, Fut>(name: &str, options: TaskOptions, run: F) -> Arc<dyn Task>
where
    F: Fn(Ctx, Arguments) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Value, TaskError>> + Send + 'static,
{
    Arc::new(Closure {
        name: name.to_owned(),
        options,
        run: Box::new(move |ctx, call| Box::pin(run(ctx, call))),
    })
}

/// An application to add to, which knows the tasks of this module.
pub fn builder() -> Builder {
    Canvas::builder()
        .task_object(task("t.ok", |_, call| async move {
            Ok(call.kwargs.get("value").cloned().unwrap_or_default())
        }))
        .task_object(task("t.fail", |_, call| async move {
            Err(value_error(call.kwargs["why"].as_str().unwrap_or("?")))
        }))
        .task_object(task("t.echo", |_, call| async move {
            Ok(call.args.into_iter().next().unwrap_or_default())
        }))
        .task_object(task("t.args", |_, call| async move {
            Ok(Value::Array(call.args))
        }))
        .task_object(task("t.sum", |_, call| async move {
            Ok(json!(numbers(&call.args[0]).iter().sum::<i64>()))
        }))
        .task_object(task("t.add", |_, call| async move {
            let args = Value::Array(call.args);
            Ok(json!(numbers(&args).iter().sum::<i64>()))
        }))
}

fn numbers(list: &Value) -> Vec<i64> {
    let list = list.as_array().into_iter().flatten();
    list.map(|n| n.as_i64().unwrap_or_default()).collect()
}

/// What [`fail`] fails with.
pub fn value_error(why: &str) -> TaskError {
    TaskError::failed(ExceptionInfo::builtin("ValueError", why))
}

/// A call that returns `value`, whatever it is given.
pub fn ok(value: impl Into<Value>) -> Signature {
    Signature::new("t.ok").kwarg("value", value)
}

/// A call that fails with `ValueError(why)`, whatever it is given.
pub fn fail(why: &str) -> Signature {
    Signature::new("t.fail").kwarg("why", why)
}

/// A call that returns its first argument.
pub fn echo() -> Signature {
    Signature::new("t.echo")
}

/// A call that returns its arguments.
pub fn args() -> Signature {
    Signature::new("t.args")
}

/// A call that returns the sum of a list.
pub fn sum() -> Signature {
    Signature::new("t.sum")
}

/// A call that returns the sum of its arguments, of which `n` is the last.
pub fn add(n: i64) -> Signature {
    Signature::new("t.add").arg(n)
}

/// What tasks did, in order. A clone is another handle on the same one.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Value>>>);

impl Log {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry.
    pub fn note(&self, entry: impl Into<Value>) {
        self.lock().push(entry.into());
    }

    /// What was noted so far.
    pub fn entries(&self) -> Vec<Value> {
        self.lock().clone()
    }

    /// How much was noted so far.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nothing was noted so far.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Waits for this many entries.
    pub async fn reaches(&self, len: usize) {
        eventually(&format!("{len} entries in the log"), async || {
            self.len() >= len
        })
        .await;
    }

    /// A task that notes its arguments and returns the first of them.
    pub fn task(&self, name: &str) -> Arc<dyn Task> {
        let log = self.clone();
        task(name, move |_, call| {
            log.note(call.args.clone());
            async move { Ok(call.args.into_iter().next().unwrap_or_default()) }
        })
    }

    /// An error callback that notes the id of the request it is given, the
    /// error as `type: message`, and what else it was called with.
    pub fn errback(&self, name: &str) -> Arc<dyn Task> {
        let log = self.clone();
        let options = TaskOptions {
            errback: true,
            ..TaskOptions::default()
        };
        task_with(name, options, move |_, call| {
            let id = call.args[0]["id"].clone();
            let error = ExceptionInfo::from_result(&call.args[1]).to_string();
            log.note(json!([id, error, call.args[3..]]));
            async { Ok(Value::Null) }
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Value>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps tasks waiting until the test lets them pass. A clone is another
/// handle on the same one.
#[derive(Debug, Clone)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets everyone pass, from now on.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until it is open.
    pub async fn passed(&self) {
        let mut watched = self.0.subscribe();
        // Cannot fail: the sender is borrowed here.
        let _ = watched.wait_for(|open| *open).await;
    }

    /// A task that notes its first argument, waits for the gate, and returns
    /// the argument.
    pub fn task(&self, name: &str, started: &Log) -> Arc<dyn Task> {
        let (gate, started) = (self.clone(), started.clone());
        task(name, move |_, call| {
            let value = call.args.into_iter().next().unwrap_or_default();
            started.note(value.clone());
            let gate = gate.clone();
            async move {
                gate.passed().await;
                Ok(value)
            }
        })
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// If it does not within [`PATIENCE`], naming `what` was waited for.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "{what}: not within {PATIENCE:?}");
}

/// The value of a result.
///
/// # Panics
/// If there is none within [`PATIENCE`].
pub async fn value(result: &AsyncResult) -> Value {
    match result.get_timeout(PATIENCE).await {
        Ok(value) => value,
        Err(error) => panic!("no value: {error}"),
    }
}

/// The error of a result, and whose it is.
///
/// # Panics
/// If there is none within [`PATIENCE`].
pub async fn failure(result: &AsyncResult) -> ExceptionInfo {
    match result.get_timeout(PATIENCE).await {
        Err(Error::TaskFailed { exception, .. }) => *exception,
        Err(error) => panic!("no failure: {error}"),
        Ok(value) => panic!("no failure: {value}"),
    }
}

/// The stored state of a task that has ended.
///
/// # Panics
/// If it has not within [`PATIENCE`].
pub async fn ended(app: &Canvas, id: &Id) -> TaskMeta {
    let result = app.result(id.clone());
    let wait = Wait {
        timeout: Some(PATIENCE),
        propagate: false,
    };
    if let Err(error) = result.wait(wait).await {
        panic!("{id} has not ended: {error}");
    }
    match result.meta().await {
        Ok(meta) => meta,
        Err(error) => panic!("{id} cannot be read: {error}"),
    }
}

/// The id of a frozen signature.
///
/// # Panics
/// If it is not frozen.
pub fn id_of(signature: &Signature) -> Id {
    signature.id().expect("a frozen signature has an id")
}

/// A worker of the application that runs a few tasks at a time.
///
/// # Panics
/// If it cannot start.
pub async fn work(app: &Canvas) -> Running {
    let worker = app.worker().concurrency(4).start().await;
    worker.expect("a worker on memory:// starts")
}

/// Waits for the end of every task of a result tree whose state is kept.
///
/// # Panics
/// If one has not ended within [`PATIENCE`].
pub async fn all_end(result: &AsyncResult) {
    let nodes = result.tree().nodes();
    for node in nodes.iter().filter(|n| n.members.is_none() && !n.ignored) {
        let wait = Wait {
            timeout: Some(PATIENCE),
            propagate: false,
        };
        let waited = result.of(node).wait(wait).await;
        assert!(waited.is_ok(), "{} has not ended: {waited:?}", node.id);
    }
}
