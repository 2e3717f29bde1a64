//! Ids of tasks, groups and stored continuations.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The id of a task, a group or a stored continuation.
///
/// Celery writes random (version 4) UUIDs, but any string is accepted, since a
/// caller may choose its own. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Id(Arc<str>);

/// Namespace of the ids that are derived from another id.
const DERIVED: Uuid = Uuid::from_u128(0x6b1d_5f0e_7a52_4c7e_9b43_1f1c_6a9e_c0de);

impl Id {
    /// A new random id.
    pub fn random() -> Self {
        Self::from_uuid(Uuid::new_v4())
    }

    /// The id that follows from this one along `edge`, always the same for the
    /// same two inputs.
    ///
    /// A worker names every continuation this way, so that publishing it a
    /// second time after a crash publishes the same task, not another one.
    pub fn derive(&self, edge: &str) -> Self {
        let name = format!("{self}/{edge}");
        Self::from_uuid(Uuid::new_v5(&DERIVED, name.as_bytes()))
    }

    /// The text of the id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn from_uuid(uuid: Uuid) -> Self {
        let mut buffer = Uuid::encode_buffer();
        Self(Arc::from(&*uuid.hyphenated().encode_lower(&mut buffer)))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl From<&str> for Id {
    fn from(text: &str) -> Self {
        Self(Arc::from(text))
    }
}

impl From<String> for Id {
    fn from(text: String) -> Self {
        Self(Arc::from(text))
    }
}

impl AsRef<str> for Id {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Id {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Where fresh ids come from while a canvas is frozen.
#[derive(Debug, Clone)]
pub enum Ids {
    /// Random ids: what a client uses.
    Random,
    /// Ids derived from one base, counted: what a worker uses, so that doing a
    /// step again after a crash gives the same ids.
    Derived {
        /// The task that publishes.
        task: Id,
        /// A label for the occasion.
        edge: Box<str>,
        /// What the ids are derived from, once one was asked for: most tasks
        /// publish nothing.
        base: Option<Id>,
        /// How many ids were given out.
        given: u64,
    },
}

impl Ids {
    /// Ids derived from `task`, for one occasion (`edge`).
    pub fn derived(task: &Id, edge: &str) -> Self {
        Self::Derived {
            task: task.clone(),
            edge: edge.into(),
            base: None,
            given: 0,
        }
    }

    /// The next id.
    pub fn fresh(&mut self) -> Id {
        match self {
            Self::Random => Id::random(),
            Self::Derived {
                task,
                edge,
                base,
                given,
            } => {
                *given += 1;
                let base = base.get_or_insert_with(|| task.derive(edge));
                base.derive(&given.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_ids_repeat_and_differ_by_edge() {
        let task = Id::from("t");
        let mut a = Ids::derived(&task, "chain");
        let mut b = Ids::derived(&task, "chain");
        assert_eq!(a.fresh(), b.fresh());
        assert_ne!(a.fresh(), Ids::derived(&task, "chain").fresh());
        assert_ne!(Ids::derived(&task, "link").fresh(), b.fresh());
    }
}
