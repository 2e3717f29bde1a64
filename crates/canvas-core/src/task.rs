//! The task port: a name and what it does.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::context::Ctx;
use crate::exception::ExceptionInfo;
use crate::protocol::repr;
use crate::signature::{Kwargs, Signature};

/// Something a worker can run. `#[task]` writes the implementation for a
/// function; write it by hand where the arguments are only known at run time.
#[async_trait]
pub trait Task: Send + Sync + 'static {
    /// The name in messages, such as `tasks.add`.
    fn name(&self) -> &str;

    /// The task's own options.
    fn options(&self) -> TaskOptions {
        TaskOptions::default()
    }

    /// Runs it. Blocking work belongs into [`blocking`].
    ///
    /// # Errors
    /// Whatever the task ends with that is not a value.
    async fn run(&self, ctx: Ctx, arguments: Arguments) -> Result<Value, TaskError>;
}

/// The arguments of one call.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Arguments {
    /// Positional.
    pub args: Vec<Value>,
    /// By name.
    pub kwargs: Kwargs,
}

/// What holds for every call of a task, unless the call says otherwise.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskOptions {
    /// The queue to send it to.
    pub queue: Option<String>,
    /// 0 to 9.
    pub priority: Option<u8>,
    /// Whether results are dropped.
    pub ignore_result: bool,
    /// Whether STARTED is stored; None follows the configuration.
    pub track_started: Option<bool>,
    /// Whether the message is acknowledged after the task instead of before
    /// it; None follows the configuration (late).
    pub acks_late: Option<bool>,
    /// Hard time limit.
    pub time_limit: Option<Duration>,
    /// Soft time limit.
    pub soft_time_limit: Option<Duration>,
    /// Calls that have not started this long after they were sent are dropped.
    pub expires: Option<Duration>,
    /// Whether this task takes `(request, exception, traceback)` when it is
    /// used as an error callback; otherwise it is given the failed task's id.
    pub errback: bool,
    /// How it is retried.
    pub retry: RetryPolicy,
}

/// How often and when a task is tried again.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// How often at most; None for no limit. Celery: `max_retries`.
    pub max_retries: Option<u32>,
    /// How long to wait, where the call does not say. Celery: `default_retry_delay`.
    pub delay: Duration,
    /// Error kinds (`exc_type`) that are retried without the task asking.
    /// `*` stands for all. Celery: `autoretry_for`.
    pub autoretry_for: Vec<String>,
    /// Error kinds among those that are not. Celery: `dont_autoretry_for`.
    pub dont_autoretry_for: Vec<String>,
    /// Wait `backoff × 2^retries` before an automatic retry, instead of `delay`.
    pub backoff: Option<Duration>,
    /// The longest such wait.
    pub backoff_max: Duration,
    /// Whether the wait is a random part of that.
    pub jitter: bool,
}

impl Default for RetryPolicy {
    /// Celery's defaults: 3 retries, 180 s apart; a backoff of at most 600 s,
    /// with jitter.
    fn default() -> Self {
        Self {
            max_retries: Some(3),
            delay: Duration::from_secs(180),
            autoretry_for: Vec::new(),
            dont_autoretry_for: Vec::new(),
            backoff: None,
            backoff_max: Duration::from_secs(600),
            jitter: true,
        }
    }
}

impl RetryPolicy {
    /// Whether an error of this kind is retried without the task asking.
    pub fn is_automatic(&self, exc_type: &str) -> bool {
        let named = |kinds: &[String]| kinds.iter().any(|kind| kind == "*" || kind == exc_type);
        named(&self.autoretry_for) && !named(&self.dont_autoretry_for)
    }

    /// How long to wait before an automatic retry, after `retries` of them.
    pub fn automatic_delay(&self, retries: u32) -> Duration {
        let Some(factor) = self.backoff else {
            return self.delay;
        };
        let full = factor
            .saturating_mul(2_u32.saturating_pow(retries))
            .min(self.backoff_max);
        if self.jitter {
            full.mul_f64(fastrand::f64())
        } else {
            full
        }
    }
}

/// How a task ends, when not with a value.
///
/// Any error type turns into [`Failed`](Self::Failed) through `?`, named after
/// its type. That is why this type is not an `Error` itself.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskError {
    /// It failed.
    Failed(Box<Failure>),
    /// It wants to be run again.
    Retry(Box<Retry>),
    /// Its result does not count (Celery's `Ignore`).
    Ignore,
    /// The message is refused (Celery's `Reject`).
    Reject {
        /// Why.
        reason: String,
        /// Whether to deliver it again.
        requeue: bool,
    },
    /// A canvas takes the place of the task; see [`Ctx::replace`].
    Replaced(Box<Signature>),
}

/// The error of a task, with what led to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// The error.
    pub exception: ExceptionInfo,
    /// Where it came from: the chain of causes, or a panic's place.
    pub traceback: Option<String>,
}

/// The wish to be run again.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// When, counted from now; None for the task's own delay.
    pub countdown: Option<Duration>,
    /// How often at most; None for the task's own limit.
    pub max_retries: Option<u32>,
    /// Other arguments for the next run.
    pub arguments: Option<Arguments>,
    /// The error to fail with when there are no retries left.
    pub cause: Option<Failure>,
}

impl TaskError {
    /// A failure with an exception of any Python module and type.
    pub fn failed(exception: ExceptionInfo) -> Self {
        Self::Failed(Box::new(Failure {
            exception,
            traceback: None,
        }))
    }

    /// A failure that only has a message.
    pub fn msg(message: impl Into<String>) -> Self {
        Self::failed(ExceptionInfo::builtin("Exception", message))
    }
}

impl<E: std::error::Error + 'static> From<E> for TaskError {
    fn from(error: E) -> Self {
        let path = std::any::type_name::<E>();
        let path = path.split('<').next().unwrap_or(path);
        let (module, kind) = path.rsplit_once("::").unwrap_or(("builtins", path));
        // The name that the user wrote counts, whatever module defines it.
        let exception = ExceptionInfo::new(module.replace("::", "."), kind, error.to_string());
        let mut traceback = format!("{path}: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            traceback.push_str(&format!("\n  caused by: {cause}"));
            source = cause.source();
        }
        Self::Failed(Box::new(Failure {
            exception,
            traceback: Some(traceback),
        }))
    }
}

/// Takes the arguments of a call one parameter at a time, as Python would:
/// by position or by name, with a `TypeError` that names what is wrong.
#[derive(Debug)]
pub struct Bound<'a> {
    task: &'a str,
    params: &'a [&'a str],
    values: Vec<Option<Value>>,
}

impl<'a> Bound<'a> {
    /// Matches arguments with the parameters called `params`.
    ///
    /// # Errors
    /// A `TypeError` for an argument too many, twice, or of an unknown name.
    pub fn new(
        task: &'a str,
        params: &'a [&'a str],
        arguments: Arguments,
    ) -> Result<Self, TaskError> {
        let type_error =
            |text: String| TaskError::failed(ExceptionInfo::builtin("TypeError", text));
        let given = arguments.args.len();
        if given > params.len() {
            return Err(type_error(format!(
                "{task}() takes {} positional argument{} but {given} {} given",
                params.len(),
                if params.len() == 1 { "" } else { "s" },
                if given == 1 { "was" } else { "were" },
            )));
        }
        let mut values: Vec<Option<Value>> = arguments.args.into_iter().map(Some).collect();
        values.resize(params.len(), None);
        for (name, value) in arguments.kwargs {
            let Some(place) = params.iter().position(|param| *param == name) else {
                return Err(type_error(format!(
                    "{task}() got an unexpected keyword argument '{name}'; it takes {}",
                    params.join(", ")
                )));
            };
            if values[place].replace(value).is_some() {
                return Err(type_error(format!(
                    "{task}() got multiple values for argument '{name}'"
                )));
            }
        }
        Ok(Self {
            task,
            params,
            values,
        })
    }

    /// The value of a parameter without a default.
    ///
    /// # Errors
    /// A `TypeError` if it is missing or of another type.
    pub fn required<T: DeserializeOwned>(&mut self, place: usize) -> Result<T, TaskError> {
        match self.values[place].take() {
            Some(value) => self.decode(place, value),
            None => Err(TaskError::failed(ExceptionInfo::builtin(
                "TypeError",
                format!(
                    "{}() missing required argument: '{}'",
                    self.task, self.params[place]
                ),
            ))),
        }
    }

    /// The value of a parameter with a default.
    ///
    /// # Errors
    /// A `TypeError` if it is of another type.
    pub fn or_else<T: DeserializeOwned>(
        &mut self,
        place: usize,
        default: impl FnOnce() -> T,
    ) -> Result<T, TaskError> {
        match self.values[place].take() {
            Some(value) => self.decode(place, value),
            None => Ok(default()),
        }
    }

    fn decode<T: DeserializeOwned>(&self, place: usize, value: Value) -> Result<T, TaskError> {
        let shown = repr::value(&value);
        serde_json::from_value(value).map_err(|error| {
            TaskError::failed(ExceptionInfo::builtin(
                "TypeError",
                format!(
                    "{}() argument '{}' cannot be {shown}: {error}",
                    self.task, self.params[place]
                ),
            ))
        })
    }
}

/// Turns what a task returned into JSON.
///
/// # Errors
/// An `EncodeError` when the value has no JSON form.
pub fn encode<T: Serialize>(task: &str, value: T) -> Result<Value, TaskError> {
    serde_json::to_value(value).map_err(|error| {
        TaskError::failed(ExceptionInfo::new(
            "kombu.exceptions",
            "EncodeError",
            format!("{task}() returned a value that has no JSON form: {error}"),
        ))
    })
}

/// Runs a blocking function away from the async threads. A panic in it goes on
/// here.
///
/// # Errors
/// Those of `f`.
pub async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, TaskError> + Send + 'static,
) -> Result<T, TaskError> {
    let span = tracing::Span::current();
    let inside = crate::context::is_inside_task();
    let run = move || span.in_scope(|| crate::context::inside_task_sync(inside, f));
    match tokio::task::spawn_blocking(run).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(TaskError::msg("the runtime was shut down")),
    }
}

/// The tasks that an application knows, by name.
#[derive(Clone, Default)]
pub struct TaskRegistry {
    tasks: BTreeMap<String, (Arc<dyn Task>, Arc<TaskOptions>)>,
}

impl TaskRegistry {
    /// Adds a task; one of the same name is replaced.
    pub fn add(&mut self, task: Arc<dyn Task>) {
        let options = Arc::new(task.options());
        self.tasks.insert(task.name().to_owned(), (task, options));
    }

    /// The task called `name`.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Task>> {
        self.tasks.get(name).map(|(task, _)| task)
    }

    /// The options of the task called `name`.
    pub fn options(&self, name: &str) -> Option<&Arc<TaskOptions>> {
        self.tasks.get(name).map(|(_, options)| options)
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tasks.keys().map(String::as_str)
    }
}

impl Debug for TaskRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bind(args: Value, kwargs: Value) -> Result<(i64, i64, Option<i64>), String> {
        let arguments = Arguments {
            args: serde_json::from_value(args).unwrap(),
            kwargs: serde_json::from_value(kwargs).unwrap(),
        };
        let bound = |arguments| {
            let mut bound = Bound::new("add", &["x", "y", "z"], arguments)?;
            Ok((
                bound.required(0)?,
                bound.required(1)?,
                bound.or_else(2, || None)?,
            ))
        };
        bound(arguments).map_err(|error: TaskError| match error {
            TaskError::Failed(failure) => failure.exception.message(),
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn arguments_bind_as_in_python() {
        assert_eq!(bind(json!([1, 2]), json!({})), Ok((1, 2, None)));
        assert_eq!(
            bind(json!([1]), json!({"z": 3, "y": 2})),
            Ok((1, 2, Some(3)))
        );
        for (args, kwargs, message) in [
            (json!([1]), json!({}), "missing required argument: 'y'"),
            (
                json!([1, 2, 3, 4]),
                json!({}),
                "takes 3 positional arguments but 4 were given",
            ),
            (
                json!([1, 2]),
                json!({"y": 1}),
                "multiple values for argument 'y'",
            ),
            (
                json!([1, 2]),
                json!({"q": 1}),
                "unexpected keyword argument 'q'",
            ),
            (json!([1, "two"]), json!({}), "argument 'y' cannot be 'two'"),
        ] {
            let error = bind(args, kwargs).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn backoff_doubles_up_to_its_limit_and_jitter_stays_below() {
        let mut policy = RetryPolicy {
            backoff: Some(Duration::from_secs(2)),
            backoff_max: Duration::from_secs(10),
            jitter: false,
            ..RetryPolicy::default()
        };
        let delays: Vec<u64> = (0..5)
            .map(|n| policy.automatic_delay(n).as_secs())
            .collect();
        assert_eq!(delays, [2, 4, 8, 10, 10]);
        policy.jitter = true;
        assert!((0..100).all(|_| policy.automatic_delay(9) <= Duration::from_secs(10)));
    }

    #[test]
    fn any_error_becomes_a_failure_named_after_its_type() {
        let error = TaskError::from("x".parse::<i32>().unwrap_err());
        let TaskError::Failed(failure) = error else {
            panic!("not a failure")
        };
        assert_eq!(failure.exception.exc_type, "ParseIntError");
        assert_eq!(failure.exception.message(), "invalid digit found in string");
    }
}
