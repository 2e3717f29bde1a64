//! The ids of a canvas as the tree in which its results hang together.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::id::Id;
use crate::json::deep;

/// A node of a result tree: one task, or a group of nodes.
///
/// It says what to wait for, without a connection to wait on; see
/// [`AsyncResult`](crate::result::AsyncResult) for that. Its JSON is Celery's `as_tuple()`:
/// `[[id, parent], null]` for a task, `[[id, parent], [members…]]` for a group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ResultTree {
    /// The id of the task or group.
    pub id: Id,
    /// What ran before it: the step before in a chain, the header of a chord.
    pub parent: Option<Parent>,
    /// The members, if this is a group.
    pub members: Option<Vec<ResultTree>>,
    /// Whether the result is known not to be stored. Not part of the JSON.
    pub ignored: bool,
}

impl ResultTree {
    /// A task.
    pub fn task(id: Id) -> Self {
        Self {
            id,
            parent: None,
            members: None,
            ignored: false,
        }
    }

    /// A group.
    pub fn group(id: Id, members: Vec<ResultTree>) -> Self {
        Self {
            members: Some(members),
            ..Self::task(id)
        }
    }

    /// Hangs `parent` onto the topmost node of this one's line of parents.
    pub fn set_root_parent(&mut self, parent: ResultTree) {
        let mut node = self;
        while node.parent.is_some() {
            node = match node.parent {
                Some(ref mut next) => Arc::make_mut(&mut next.0),
                None => return,
            };
        }
        node.parent = Some(parent.into());
    }

    /// The tasks whose results make up the value of this node, in order.
    pub fn leaves(&self) -> Vec<&ResultTree> {
        match &self.members {
            None => vec![self],
            Some(members) => members.iter().flat_map(|m| deep(|| m.leaves())).collect(),
        }
    }

    /// Every node: this one, its members and the parents of all of them.
    pub fn nodes(&self) -> Vec<&ResultTree> {
        let mut all = Vec::new();
        let mut open = vec![self];
        while let Some(node) = open.pop() {
            all.push(node);
            open.extend(node.members.iter().flatten());
            open.extend(node.parent.as_deref());
        }
        all
    }

    /// Celery's `as_tuple()`.
    pub fn to_value(&self) -> Value {
        let parent = self.parent.as_ref().map(|p| deep(|| p.to_value()));
        let members = self.members.as_ref().map(|members| {
            let all = members.iter().map(|m| deep(|| m.to_value()));
            Value::Array(all.collect())
        });
        json!([[self.id.as_str(), parent], members])
    }

    /// Celery's `result_from_tuple`: also takes a bare id, and `[id, members]`.
    ///
    /// # Errors
    /// [`Error::Encoding`] when it is none of these.
    pub fn from_value(value: &Value) -> Result<Self> {
        let bad = || Error::Encoding {
            action: "decode",
            what: "a result tuple".to_owned(),
            reason: format!("expected [[id, parent], members], not {value}"),
        };
        if let Value::String(id) = value {
            return Ok(Self::task(id.as_str().into()));
        }
        let pair = value.as_array().ok_or_else(bad)?;
        let (id, parent) = match pair.first() {
            Some(Value::String(id)) => (id, None),
            Some(Value::Array(head)) => match head.as_slice() {
                [Value::String(id)] => (id, None),
                [Value::String(id), parent] => (id, Some(parent).filter(|p| !p.is_null())),
                _ => return Err(bad()),
            },
            _ => return Err(bad()),
        };
        let mut node = Self::task(id.as_str().into());
        if let Some(parent) = parent {
            node.parent = Some(deep(|| Self::from_value(parent))?.into());
        }
        if let Some(Value::Array(members)) = pair.get(1) {
            let members: Result<_> = members
                .iter()
                .map(|m| deep(|| Self::from_value(m)))
                .collect();
            node.members = Some(members?);
        }
        Ok(node)
    }
}

/// What ran before a node. A clone is another handle on the same one.
///
/// A chain has as many nodes one behind the other as it has steps: whatever
/// goes from node to node must not use up the stack.
#[derive(Clone)]
pub struct Parent(Arc<ResultTree>);

impl Parent {
    pub(crate) fn share(&self) -> Arc<ResultTree> {
        self.0.clone()
    }
}

impl Deref for Parent {
    type Target = ResultTree;

    fn deref(&self) -> &ResultTree {
        &self.0
    }
}

impl From<ResultTree> for Parent {
    fn from(tree: ResultTree) -> Self {
        Self(Arc::new(tree))
    }
}

impl fmt::Debug for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        deep(|| self.0.fmt(f))
    }
}

impl PartialEq for Parent {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || deep(|| self.0 == other.0)
    }
}

impl Eq for Parent {}

impl Hash for Parent {
    fn hash<H: Hasher>(&self, state: &mut H) {
        deep(|| self.0.hash(state));
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        // Each node is freed when its parent has been taken out of it.
        let take = |node: &mut Self| Arc::get_mut(&mut node.0)?.parent.take();
        let mut next = take(self);
        while let Some(mut node) = next {
            next = take(&mut node);
        }
    }
}

impl Serialize for ResultTree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ResultTree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_value(&Value::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tuple_of_a_chord_round_trips() {
        let mut body = ResultTree::task("body".into());
        body.set_root_parent(ResultTree::group(
            "g".into(),
            vec![ResultTree::task("a".into()), ResultTree::task("b".into())],
        ));
        let tuple = json!([
            [
                "body",
                [["g", null], [[["a", null], null], [["b", null], null]]]
            ],
            null
        ]);
        assert_eq!(body.to_value(), tuple);
        assert_eq!(ResultTree::from_value(&tuple).unwrap(), body);
        assert!(ResultTree::from_value(&json!(3)).is_err());
    }

    #[test]
    fn a_line_of_parents_may_be_longer_than_the_stack() {
        let line = || {
            let steps = (0..200_000).map(|step| ResultTree::task(step.to_string().into()));
            steps.reduce(|before, mut step| {
                step.set_root_parent(before);
                step
            })
        };
        let (one, other) = (line(), line());
        assert_eq!(one, other);
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
        assert_eq!(one.clone(), other);
        drop(other);
        assert_eq!(one.unwrap().nodes().len(), 200_000);
    }
}
