//! Committing where broker and backend are in one server.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::backend::Arrival;
use crate::broker::{Receipt, Settled};
use crate::error::Result;
use crate::protocol::TaskMeta;
use crate::sequence::Work;

/// A server that is broker and backend at once, and makes what a run leaves in
/// one step: all of it and the acknowledgement, or nothing.
///
/// A [`Committer`](crate::Committer) uses it if [`Backend::together`] gives
/// one. It drives the same [`Sequence`](crate::Sequence) as without, so the
/// order is the same too; there are only fewer round trips, and fewer points at
/// which a crash leaves something to be made again.
///
/// [`Backend::together`]: crate::Backend::together
#[async_trait]
pub trait Together: Send + Sync + Debug {
    /// Makes `work` in its order, and then acknowledges `delivery`. It stops
    /// at what finds something that the caller must know.
    ///
    /// There is no [`Effect::Errback`](crate::Effect::Errback) among it.
    ///
    /// # Errors
    /// [`Error::Connection`](crate::Error::Connection): all of it may have been
    /// made, or none.
    async fn make(&self, work: &[Work], delivery: Option<&Receipt>) -> Result<Made>;
}

/// How far making has come.
#[derive(Debug, Clone, PartialEq)]
pub enum Made {
    /// All was made.
    All {
        /// What became of the delivery, if there was one to acknowledge.
        settled: Option<Settled>,
    },
    /// All before this place was made, what is there has found something, and
    /// nothing after it was made.
    Until {
        /// The place in the work, from 0.
        at: usize,
        /// What was found there.
        found: Found,
    },
}

/// What the caller must know before it goes on.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// A state was not stored, as this one stands.
    Standing(Box<TaskMeta>),
    /// An arrival was neither [`Waiting`](Arrival::Waiting) nor
    /// [`Closed`](Arrival::Closed).
    Arrival(Arrival),
}
