//! What can go wrong outside a task: connections, messages, settings.
//!
//! The outcome of a task itself is another type, [`TaskError`](crate::TaskError).

use std::time::Duration;

use crate::exception::ExceptionInfo;
use crate::id::Id;

/// The result of an operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the infrastructure, or the error of a task as its waiter sees it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The task that was waited for ended in FAILURE or REVOKED.
    #[error("task {id} failed: {exception}")]
    TaskFailed {
        /// Whose failure it is: the task asked for, or one that it depends on.
        id: Id,
        /// The stored error.
        exception: Box<ExceptionInfo>,
    },
    /// The result did not arrive in time. The task goes on.
    #[error("result of {id} is not there after {waited:?}: is a worker consuming its queue?")]
    Timeout {
        /// The task waited for.
        id: Id,
        /// How long.
        waited: Duration,
    },
    /// A message that cannot be read.
    #[error("malformed message: {reason}")]
    MalformedMessage {
        /// What is wrong with it, and where.
        reason: String,
        /// The task id, where the message still tells it.
        id: Option<Id>,
        /// The task name, where the message still tells it.
        task: Option<String>,
    },
    /// A signature that cannot be read.
    #[error("malformed signature: {0}")]
    MalformedSignature(String),
    /// A value that cannot be turned to or from JSON.
    #[error("cannot {action} {what}: {reason}")]
    Encoding {
        /// `encode` or `decode`.
        action: &'static str,
        /// The value, in words.
        what: String,
        /// The encoder's reason.
        reason: String,
    },
    /// A canvas that makes no sense, found before anything was sent.
    #[error("invalid canvas: {0}")]
    InvalidCanvas(String),
    /// `get()` was called inside a task.
    #[error(
        "get() inside a task ({0}) would block a worker on another task, and can deadlock: \
         link a callback, use a chain or a chord, or return ctx.replace(..) instead"
    )]
    GetInsideTask(Id),
    /// A setting that is missing or wrong.
    #[error("configuration: {0}")]
    Config(String),
    /// A URL whose scheme no compiled-in driver knows.
    #[error("no {port} for scheme `{scheme}`: compiled in are {known}")]
    UnknownScheme {
        /// `broker` or `backend`.
        port: &'static str,
        /// The scheme asked for.
        scheme: String,
        /// The schemes there are, and the feature to switch on.
        known: String,
    },
    /// The server could not be reached or hung up.
    #[error("{operation}: {reason}")]
    Connection {
        /// What was tried, as `port.verb`.
        operation: &'static str,
        /// On what server, and what it answered.
        reason: String,
    },
    /// The driver cannot do this.
    #[error("{operation} is not supported by {driver}: {hint}")]
    Unsupported {
        /// What was tried, as `port.verb`.
        operation: &'static str,
        /// The driver.
        driver: String,
        /// What to do instead.
        hint: String,
    },
    /// The broker, backend or worker was closed.
    #[error("{0} is closed")]
    Closed(&'static str),
}

impl Error {
    /// Whether doing the same again may succeed without any change by a person.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Connection { .. } | Self::Timeout { .. })
    }

    pub(crate) fn malformed(reason: impl Into<String>) -> Self {
        Self::MalformedMessage {
            reason: reason.into(),
            id: None,
            task: None,
        }
    }
}
