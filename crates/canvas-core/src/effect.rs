//! What a finished task does to the world.

use bytes::Bytes;
use serde_json::Value;

use crate::backend::{JoinSpec, Part};
use crate::broker::{Outgoing, Settle};
use crate::exception::ExceptionInfo;
use crate::id::Id;
use crate::protocol::{REPEAT, Request, Sealed, TaskMeta};
use crate::result::ResultTree;
use crate::signature::Signature;

/// One change to the broker or the backend, decided by
/// [`advance`](crate::advance()) and made by a [`Committer`](crate::Committer).
///
/// Making an effect twice is the same as making it once: stores keep the first
/// SUCCESS, members arrive once, and what is published twice has the same id.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Store a state.
    Store(Box<TaskMeta>),
    /// Keep a continuation that messages refer to.
    Keep {
        /// Under which key.
        key: Id,
        /// A JSON list of signatures.
        value: Bytes,
    },
    /// Keep the shape of a header in which a member ends in a group: that
    /// group's results are then a list among the others. Celery does the same.
    SaveGroup(Box<ResultTree>),
    /// Open a join, before any of its members is published.
    OpenJoin(JoinSpec),
    /// Publish a message.
    Publish(Box<Outgoing>),
    /// Call an error callback in this process.
    Errback(Box<Errback>),
    /// Count a member into a join. Whoever completes it goes on with what
    /// [`joined`](crate::advance::joined) says, and closes the join after that.
    Arrive(Box<Arrive>),
}

impl Effect {
    /// Says of the message, if this publishes one, that the same may have been
    /// published before.
    pub(crate) fn repeated(mut self) -> Self {
        if let Self::Publish(outgoing) = &mut self {
            let headers = &mut outgoing.message.headers.extra;
            headers.insert(REPEAT.to_owned(), Value::Bool(true));
        }
        self
    }
}

/// A call of an error callback.
#[derive(Debug, Clone, PartialEq)]
pub struct Errback {
    /// The callback.
    pub signature: Signature,
    /// The request that failed.
    pub request: Request,
    /// The error.
    pub exception: ExceptionInfo,
    /// Where it came from.
    pub traceback: Option<String>,
}

/// An arrival at a join.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrive {
    /// The join: the id of the header's group.
    pub join: Id,
    /// The member.
    pub part: Part,
    /// What the join feeds.
    pub body: Sealed,
}

/// What a run comes to: effects, and after all of them the end of the delivery.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// In the order in which they are safe: results before the messages that
    /// may use them, joins before their members, arrivals last.
    pub effects: Vec<Effect>,
    /// What then becomes of the delivery.
    pub settle: Settle,
    /// Whether the task has ended without a value, and all that follows with
    /// it: then all of that must have been at hand, see
    /// [`Request::missing`](crate::Request::missing).
    pub ended: bool,
}
