//! The stored state of a task.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::Result;
use crate::exception::ExceptionInfo;
use crate::id::Id;
use crate::result::ResultTree;
use crate::state::State;

/// What a backend keeps of a task: Celery's result meta.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskMeta {
    /// The state.
    pub status: State,
    /// The value on success, the exception on failure, the caller's data in a
    /// custom state.
    #[serde(default)]
    pub result: Value,
    /// The traceback of a failure.
    #[serde(default)]
    pub traceback: Option<String>,
    /// The tasks that this one sent.
    #[serde(default)]
    pub children: Option<Vec<ResultTree>>,
    /// When the task ended.
    #[serde(default, with = "time")]
    pub date_done: Option<DateTime<Utc>>,
    /// The group that the task is a member of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_id: Option<Id>,
    /// The task that sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<Id>,
    /// With `result_extended`: name, args, kwargs, worker, retries, queue and
    /// the stamps.
    #[serde(flatten)]
    pub extended: Map<String, Value>,
    /// Where it is sent, by backends that send results and do not keep them.
    /// No part of what is stored.
    #[serde(skip)]
    pub reply: Option<Reply>,
    /// The id. Last, as Celery writes it.
    pub task_id: Id,
}

/// Where a result is sent: `reply_to` and `correlation_id` of the message of its
/// task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The queue of whoever sent the task.
    pub to: Id,
    /// By what they know the task: its id.
    pub correlation_id: Id,
}

impl TaskMeta {
    /// A state without a result.
    pub fn new(task_id: Id, status: State) -> Self {
        Self {
            status,
            result: Value::Null,
            traceback: None,
            children: Some(Vec::new()),
            date_done: None,
            reply: None,
            task_id,
            group_id: None,
            parent_id: None,
            extended: Map::new(),
        }
    }

    /// What is known of an id that the backend has never seen.
    pub fn pending(task_id: Id) -> Self {
        Self::new(task_id, State::Pending)
    }

    /// The exception of a task that failed, was revoked or will be retried
    /// because of one.
    pub fn exception(&self) -> Option<ExceptionInfo> {
        let has_one = match self.status {
            State::Failure | State::Revoked => true,
            State::Retry => !self.result.is_null(),
            _ => false,
        };
        has_one.then(|| ExceptionInfo::from_result(&self.result))
    }

    /// Reads the stored JSON.
    ///
    /// # Errors
    /// [`Error::Encoding`](crate::Error::Encoding) with the reason.
    pub fn from_json(text: &[u8]) -> Result<Self> {
        crate::json::parse(text, "a stored result")
    }

    /// The JSON to store.
    ///
    /// # Errors
    /// [`Error::Encoding`](crate::Error::Encoding) with the reason.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        crate::json::write(self, "a result")
    }
}

mod time {
    use chrono::{DateTime, Utc};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::Value;

    use crate::options::{format_time, parse_time};

    pub(super) fn serialize<S: Serializer>(
        time: &Option<DateTime<Utc>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(format_time).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<DateTime<Utc>>, D::Error> {
        Ok(parse_time(&Value::deserialize(deserializer)?))
    }
}
