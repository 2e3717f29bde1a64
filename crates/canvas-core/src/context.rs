//! What a running task can see and do.

use std::cell::Cell;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::Utc;
use serde::Serialize;
use serde_json::Value;

use crate::advance;
use crate::app::Canvas;
use crate::effect::Effect;
use crate::error::{Error, Result};
use crate::exception::ExceptionInfo;
use crate::id::{Id, Ids};
use crate::protocol::{Request, TaskMeta};
use crate::result::{AsyncResult, ResultTree};
use crate::signature::{Kwargs, Signature};
use crate::state::State;
use crate::task::{Arguments, Failure, Retry, TaskError};

/// The running task: its request, and what it can do besides returning.
/// Celery: a bound task's `self`.
#[derive(Clone, Debug)]
pub struct Ctx(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    app: Canvas,
    request: Arc<Request>,
    launched: Mutex<Launched>,
    revoked: AtomicBool,
    started: tokio::time::Instant,
}

#[derive(Debug)]
struct Launched {
    ids: Ids,
    trees: Vec<ResultTree>,
}

impl Ctx {
    /// The context of one run. Workers make it, and tests of tasks may.
    pub fn new(app: Canvas, request: impl Into<Arc<Request>>) -> Self {
        let request = request.into();
        // Another attempt launches other tasks; the same attempt, run again
        // after a crash, launches the same.
        let attempt = format!("launch/{}", request.retries());
        let launched = Launched {
            ids: Ids::derived(&request.id, &attempt),
            trees: Vec::new(),
        };
        Self(Arc::new(Inner {
            app,
            request,
            launched: Mutex::new(launched),
            revoked: AtomicBool::new(false),
            started: tokio::time::Instant::now(),
        }))
    }

    /// The request: id, arguments, headers, retries and so on.
    pub fn request(&self) -> &Request {
        &self.0.request
    }

    /// The id of this task.
    pub fn id(&self) -> &Id {
        &self.0.request.id
    }

    /// How often this task was tried before.
    pub fn retries(&self) -> u32 {
        self.0.request.retries()
    }

    /// The application.
    pub fn app(&self) -> &Canvas {
        &self.0.app
    }

    /// Sends a canvas of its own, as a child of this task. Use this and not
    /// [`Canvas::apply`]: the parent and root ids are right then, and if the
    /// worker dies and the task is run again, the same tasks are sent again,
    /// not others.
    ///
    /// # Errors
    /// [`Error::InvalidCanvas`], or the broker's or backend's error.
    pub async fn launch(&self, canvas: impl Into<Signature>) -> Result<AsyncResult> {
        let app = &self.0.app;
        let (effects, tree) = {
            let mut launched = self.launched();
            let Launched { ids, trees } = &mut *launched;
            let request = &self.0.request;
            let (effects, tree) =
                advance::launch(app.env(), request, canvas.into(), ids, Utc::now())?;
            trees.push(tree.clone());
            (effects, tree)
        };
        self.send(effects).await?;
        Ok(AsyncResult::new(app.clone(), tree))
    }

    /// Adds a canvas to the header of the chord that this task is in. The
    /// chord's body then waits for it as well.
    ///
    /// Celery: `Task.add_to_chord`.
    ///
    /// # Errors
    /// [`Error::InvalidCanvas`] if this task is in no chord.
    pub async fn add_to_chord(&self, canvas: impl Into<Signature>) -> Result<AsyncResult> {
        let app = &self.0.app;
        let request = &self.0.request;
        let index = request.headers.group_index.unwrap_or(u64::MAX);
        let (effects, size, tree) = {
            let mut launched = self.launched();
            let ids = &mut launched.ids;
            advance::add_to_chord(app.env(), request, canvas.into(), ids, index, Utc::now())?
        };
        if let Some(join) = &request.headers.group {
            // Before it is sent: it must not complete the join by itself.
            app.backend().grow_join(join, &tree.id, size).await?;
        }
        self.send(effects).await?;
        self.launched().trees.push(tree.clone());
        Ok(AsyncResult::new(app.clone(), tree))
    }

    /// Puts a canvas in the place of this task: return the error it gives.
    /// The canvas's result becomes this task's, under the same id, and what
    /// follows this task follows the canvas; a group's results become a list.
    ///
    /// Celery: `Task.replace`.
    ///
    /// ```
    /// # use canvas_core::{Ctx, Signature, TaskError, group};
    /// async fn fetch_all(ctx: &Ctx, pages: Vec<u64>) -> Result<String, TaskError> {
    ///     let fetch = pages.into_iter().map(|page| Signature::new("fetch").arg(page));
    ///     Err(ctx.replace(group(fetch) | Signature::new("merge")))
    /// }
    /// ```
    pub fn replace(&self, canvas: impl Into<Signature>) -> TaskError {
        TaskError::Replaced(Box::new(canvas.into()))
    }

    /// Asks to be run again: return the error that `into()` makes of it.
    ///
    /// Celery: `Task.retry`.
    pub fn retry(&self) -> RetryRequest {
        RetryRequest(Retry {
            countdown: None,
            max_retries: None,
            arguments: None,
            cause: None,
        })
    }

    /// Stores a state of the task's own, for whoever watches it.
    ///
    /// Celery: `Task.update_state`.
    ///
    /// # Errors
    /// The backend's error, or [`Error::Encoding`].
    pub async fn update_state(&self, state: &str, meta: impl Serialize) -> Result<()> {
        let mut stored = TaskMeta::new(self.id().clone(), State::from(state));
        stored.result = serde_json::to_value(meta).map_err(|e| Error::Encoding {
            action: "encode",
            what: "the meta of a state".to_owned(),
            reason: e.to_string(),
        })?;
        stored.group_id = self.request().headers.group.clone();
        stored.parent_id = self.request().headers.parent_id.clone();
        stored.reply = self.request().reply();
        self.0.app.backend().store(&stored).await.map(drop)
    }

    /// Stores how far the task is, as state `PROGRESS` with `current` and `total`.
    ///
    /// # Errors
    /// The backend's error.
    pub async fn progress(&self, current: u64, total: u64) -> Result<()> {
        let meta = serde_json::json!({ "current": current, "total": total });
        self.update_state("PROGRESS", meta).await
    }

    /// How long this call may take at most: its own hard limit, or else the
    /// task's.
    pub fn time_limit(&self) -> Option<Duration> {
        let own = self.0.app.tasks().options(&self.request().task);
        let call = self.request().time_limit();
        call.or_else(|| own.and_then(|options| options.time_limit))
    }

    /// After how long this call should come to an end by itself: its own soft
    /// limit, or else the task's.
    pub fn soft_time_limit(&self) -> Option<Duration> {
        let own = self.0.app.tasks().options(&self.request().task);
        let call = self.request().soft_time_limit();
        call.or_else(|| own.and_then(|options| options.soft_time_limit))
    }

    /// Returns when the soft time limit has passed; never, if there is none.
    /// Celery raises `SoftTimeLimitExceeded` in the task then.
    ///
    /// ```
    /// # use canvas_core::Ctx;
    /// # async fn whole() -> u64 { 1 }
    /// # async fn rough() -> u64 { 0 }
    /// async fn count(ctx: &Ctx) -> u64 {
    ///     tokio::select! {
    ///         exact = whole() => exact,
    ///         () = ctx.soft_time_limit_passed() => rough().await,
    ///     }
    /// }
    /// ```
    pub async fn soft_time_limit_passed(&self) {
        match self.soft_time_limit() {
            Some(limit) => tokio::time::sleep_until(self.0.started + limit).await,
            None => std::future::pending().await,
        }
    }

    /// Whether this task was called off while it runs: long loops should ask
    /// now and then, and stop.
    pub fn is_revoked(&self) -> bool {
        self.0.revoked.load(Ordering::Relaxed)
    }

    /// Says that the task was called off.
    pub fn set_revoked(&self) {
        self.0.revoked.store(true, Ordering::Relaxed);
    }

    /// What this task has sent so far.
    pub fn children(&self) -> Vec<ResultTree> {
        self.launched().trees.clone()
    }

    async fn send(&self, effects: Vec<Effect>) -> Result<()> {
        let again = self.request().may_be_repeat();
        let mark = |effect: Effect| if again { effect.repeated() } else { effect };
        let effects = effects.into_iter().map(mark);
        self.0.app.committer().send(effects).await
    }

    fn launched(&self) -> std::sync::MutexGuard<'_, Launched> {
        self.0
            .launched
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A retry to be filled in; `?` or `.into()` makes the error of it.
///
/// ```
/// # use canvas_core::{Ctx, TaskError};
/// # use std::time::Duration;
/// async fn fetch(ctx: &Ctx, path: String) -> Result<String, TaskError> {
///     std::fs::read_to_string(&path)
///         .map_err(|error| ctx.retry().countdown(Duration::from_secs(5)).because(error))
/// }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a retry only happens if the task returns it as its error"]
pub struct RetryRequest(Retry);

impl RetryRequest {
    /// How long to wait; the task's `retry_delay` if this is not called.
    pub fn countdown(mut self, delay: Duration) -> Self {
        self.0.countdown = Some(delay);
        self
    }

    /// How many retries at most; the task's `max_retries` if this is not called.
    pub fn max_retries(mut self, limit: u32) -> Self {
        self.0.max_retries = Some(limit);
        self
    }

    /// Other arguments for the next run.
    pub fn arguments(mut self, args: Vec<Value>, kwargs: Kwargs) -> Self {
        self.0.arguments = Some(Arguments { args, kwargs });
        self
    }

    /// Why. With no retries left the task fails with this error.
    pub fn because(mut self, error: impl Into<TaskError>) -> TaskError {
        self.0.cause = Some(match error.into() {
            TaskError::Failed(failure) => *failure,
            other => Failure {
                exception: ExceptionInfo::builtin("Exception", format!("{other:?}")),
                traceback: None,
            },
        });
        self.into()
    }
}

impl From<RetryRequest> for TaskError {
    fn from(request: RetryRequest) -> Self {
        Self::Retry(Box::new(request.0))
    }
}

tokio::task_local! {
    static INSIDE: ();
}

thread_local! {
    static INSIDE_SYNC: Cell<bool> = const { Cell::new(false) };
}

/// Runs `task` marked as the inside of a task, where `get()` is refused.
pub async fn inside_task<F: Future>(task: F) -> F::Output {
    INSIDE.scope((), task).await
}

/// The same for a function on a thread of its own.
pub(crate) fn inside_task_sync<T>(inside: bool, f: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            INSIDE_SYNC.set(self.0);
        }
    }
    let _restore = Restore(INSIDE_SYNC.replace(inside));
    f()
}

/// Whether the caller runs inside a task.
pub(crate) fn is_inside_task() -> bool {
    INSIDE.try_with(|()| ()).is_ok() || INSIDE_SYNC.get()
}
