//! The states of a task.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of a task, in Celery's words
/// (<https://docs.celeryq.dev/en/stable/reference/celery.states.html>).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Cow<'static, str>", into = "String")]
#[non_exhaustive]
pub enum State {
    /// Waiting, or unknown to the backend.
    Pending,
    /// A worker has it, but has not started it.
    Received,
    /// Running; stored only when `track_started` is on.
    Started,
    /// Done, with a value.
    Success,
    /// Ended with an error.
    Failure,
    /// Failed, and will run again.
    Retry,
    /// Called off before or while it ran, or expired.
    Revoked,
    /// Refused by the task itself.
    Rejected,
    /// The task asked for its result not to count.
    Ignored,
    /// A state of the application's own, set by `update_state`.
    Custom(String),
}

impl State {
    /// Celery's word for it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Pending => "PENDING",
            Self::Received => "RECEIVED",
            Self::Started => "STARTED",
            Self::Success => "SUCCESS",
            Self::Failure => "FAILURE",
            Self::Retry => "RETRY",
            Self::Revoked => "REVOKED",
            Self::Rejected => "REJECTED",
            Self::Ignored => "IGNORED",
            Self::Custom(name) => name,
        }
    }

    /// Whether the task has ended: no later state is expected.
    ///
    /// IGNORED counts here, though not in Celery, so that nobody waits for a
    /// task that asked to be ignored.
    pub fn is_ready(&self) -> bool {
        matches!(
            self,
            Self::Success | Self::Failure | Self::Revoked | Self::Ignored
        )
    }

    /// Whether `get` raises the stored error in this state.
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Failure | Self::Revoked)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<&str> for State {
    fn from(text: &str) -> Self {
        match text {
            "PENDING" => Self::Pending,
            "RECEIVED" => Self::Received,
            "STARTED" => Self::Started,
            "SUCCESS" => Self::Success,
            "FAILURE" => Self::Failure,
            "RETRY" => Self::Retry,
            "REVOKED" => Self::Revoked,
            "REJECTED" => Self::Rejected,
            "IGNORED" => Self::Ignored,
            other => Self::Custom(other.to_owned()),
        }
    }
}

impl From<Cow<'static, str>> for State {
    fn from(text: Cow<'static, str>) -> Self {
        Self::from(&*text)
    }
}

impl From<State> for String {
    fn from(state: State) -> Self {
        match state {
            State::Custom(name) => name,
            other => other.as_str().to_owned(),
        }
    }
}
