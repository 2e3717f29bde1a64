//! The backend port: where results are kept and chords are joined.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::broker::Broker;
use crate::error::Result;
use crate::id::Id;
use crate::protocol::TaskMeta;
use crate::result::ResultTree;
use crate::state::State;
use crate::together::Together;

/// Keeps the states of tasks and joins the members of chords. It knows nothing
/// of chains or workers.
#[async_trait]
pub trait Backend: Send + Sync + Debug {
    /// What this backend is and can do.
    fn info(&self) -> BackendInfo;

    /// The queue to which results are to be sent, if they are sent and not
    /// kept: the messages of whoever uses this backend name it as `reply_to`.
    fn reply_to(&self) -> Option<Id> {
        None
    }

    /// Says that whoever uses this backend is about to send the tasks whose
    /// results these are. Where results are sent and not kept, there must be
    /// something to send them to first.
    ///
    /// # Errors
    /// [`Error::Connection`](crate::Error::Connection).
    async fn expect(&self, results: &[ResultTree]) -> Result<()> {
        let _ = results;
        Ok(())
    }

    /// Stores a state. A stored SUCCESS is final: nothing overwrites it, and
    /// the answer is then [`Stored::Kept`]. Any other state is overwritten,
    /// but one that has ended only by another end.
    ///
    /// Where results are sent and not kept, [`TaskMeta::reply`] says to whom; a
    /// state that says nobody is dropped. Those who get it keep the rule, and
    /// the answer here is always [`Stored::Written`].
    ///
    /// # Errors
    /// [`Error::Connection`](crate::Error::Connection).
    async fn store(&self, meta: &TaskMeta) -> Result<Stored>;

    /// Loads states, in the order asked for; `None` for an unknown id.
    ///
    /// # Errors
    /// [`Error::Connection`](crate::Error::Connection).
    async fn load(&self, ids: &[Id]) -> Result<Vec<Option<TaskMeta>>>;

    /// Removes states, and the joins that have these ids.
    ///
    /// # Errors
    /// [`Error::Connection`](crate::Error::Connection).
    async fn forget(&self, ids: &[Id]) -> Result<()>;

    /// Yields each of these tasks once it has ended, those that ended before
    /// the call included, and then ends.
    ///
    /// # Errors
    /// [`Error::Connection`](crate::Error::Connection);
    /// [`Error::Unsupported`](crate::Error::Unsupported) for one whose result
    /// another process is sent, see [`BackendInfo::shared`].
    async fn watch(&self, ids: &[Id]) -> Result<BoxStream<'static, Result<TaskMeta>>>;

    /// Keeps the shape of a group under its id (Celery's `GroupResult.save`).
    ///
    /// # Errors
    /// [`Error::Connection`](crate::Error::Connection);
    /// [`Error::Unsupported`](crate::Error::Unsupported) where [`BackendInfo::shared`] says no.
    async fn save_group(&self, group: &ResultTree) -> Result<()>;

    /// The shape of a saved group.
    ///
    /// # Errors
    /// [`Error::Connection`](crate::Error::Connection).
    async fn load_group(&self, id: &Id) -> Result<Option<ResultTree>>;

    /// Removes a saved group.
    ///
    /// # Errors
    /// [`Error::Connection`](crate::Error::Connection).
    async fn forget_group(&self, id: &Id) -> Result<()>;

    /// Keeps a continuation that messages refer to.
    ///
    /// # Errors
    /// [`Error::Connection`](crate::Error::Connection);
    /// [`Error::Unsupported`](crate::Error::Unsupported) where [`BackendInfo::shared`] says no.
    async fn keep(&self, key: &Id, value: Bytes) -> Result<()>;

    /// A kept continuation; `None` once it has expired.
    ///
    /// # Errors
    /// [`Error::Connection`](crate::Error::Connection).
    async fn recall(&self, key: &Id) -> Result<Option<Bytes>>;

    /// Opens a join. Opening one that is open or closed changes nothing.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) where [`BackendInfo::join`] says no.
    async fn open_join(&self, spec: &JoinSpec) -> Result<()>;

    /// Makes a join expect `by` more members (Celery's `add_to_chord`), once
    /// for each `member`, however often it is asked: the task that adds them
    /// may be run again.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) where [`BackendInfo::join`] says no.
    async fn grow_join(&self, join: &Id, member: &Id, by: u64) -> Result<()>;

    /// Counts a member in. A member counts once, with the outcome it came with
    /// first. Whoever completes the join is given a claim on it for `lease`;
    /// arriving again takes over a claim that has lapsed.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) where [`BackendInfo::join`] says no.
    async fn arrive(&self, join: &Id, part: &Part, lease: Duration) -> Result<Arrival>;

    /// Ends a join whose body was sent. A claim that has passed on no longer
    /// counts; the answer tells.
    ///
    /// # Errors
    /// [`Error::Connection`](crate::Error::Connection).
    async fn close_join(&self, join: &Id, claim: u64) -> Result<bool>;

    /// What makes all that a run leaves in one step, if this backend and
    /// `broker` are in one server that can do that.
    fn together(&self, broker: &dyn Broker) -> Option<Arc<dyn Together>> {
        let _ = broker;
        None
    }
}

/// What a backend is and can do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackendInfo {
    /// The URL without its password.
    pub url: String,
    /// Whether chords can be joined.
    pub join: bool,
    /// Whether waiting is told of a result, rather than asking again and again.
    pub push: bool,
    /// Whether results survive a restart of the backend.
    pub persistent: bool,
    /// Whether what is stored goes by itself some time after it was stored last,
    /// if such a time is set.
    pub expires: bool,
    /// Whether all processes see what is kept. Where they do not, a result is
    /// sent to the process that sent the task, and to no other; and there are
    /// no saved groups and kept continuations.
    pub shared: bool,
    /// Whether Celery's clients join chords here by asking again and again, with
    /// the task `celery.chord_unlock`, and open no join: a member of theirs then
    /// arrives at a join that is not there, and nothing is lost.
    pub polled: bool,
}

impl BackendInfo {
    /// A backend that does everything, in memory.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            join: true,
            push: true,
            persistent: false,
            expires: true,
            shared: true,
            polled: false,
        }
    }
}

/// Whether a state was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It was.
    Written,
    /// An earlier end of the task stands.
    Kept,
}

/// A join to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinSpec {
    /// The group whose members are joined.
    pub id: Id,
    /// How many members there are.
    pub size: u64,
    /// How many successes complete the join before all have arrived: `size`,
    /// unless the chord's policy asks for fewer.
    pub quorum: u64,
}

/// A member that has ended. As JSON it is an object with these fields, for
/// backends that keep it so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The task.
    pub task_id: Id,
    /// Its place in the header; decides the order of the results.
    pub index: Option<u64>,
    /// How it ended.
    pub state: State,
    /// The value or the exception.
    pub result: Value,
}

impl Part {
    /// Whether the member succeeded.
    pub fn is_ok(&self) -> bool {
        self.state == State::Success
    }
}

/// What an arrival found.
#[derive(Debug, Clone, PartialEq)]
pub enum Arrival {
    /// Members are still missing.
    Waiting {
        /// How many have arrived.
        arrived: u64,
        /// How many are expected.
        size: u64,
    },
    /// The join is complete, and it is the caller's to send the body and then
    /// close the join.
    Complete {
        /// What to close the join with: counts the claims on it, from 1.
        claim: u64,
        /// The members that have arrived, in header order.
        parts: Vec<Part>,
    },
    /// The join is complete, and somebody else is sending the body: ask again
    /// after this long, in case they died.
    Claimed {
        /// What is left of their claim.
        retry_after: Duration,
    },
    /// The body was sent already.
    Closed,
    /// No such join: it expired, or the store lost it.
    Missing,
}
