//! The result of a task, or of a whole canvas.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{GroupResult, ResultTree};
use crate::app::Canvas;
use crate::context::is_inside_task;
use crate::error::{Error, Result};
use crate::exception::ExceptionInfo;
use crate::id::Id;
use crate::json::deep;
use crate::protocol::TaskMeta;
use crate::state::State;

/// The result of a canvas, there or yet to come: Celery's `AsyncResult`.
///
/// For a chain it is that of the last step, with the steps before it as
/// [`parent`](Self::parent); for a chord the body's, whose parent is the
/// header's group; for a group all of its members', see
/// [`as_group`](Self::as_group); for a task with callbacks the task's own, with
/// the callbacks among its [`children`](Self::children).
#[derive(Debug, Clone)]
pub struct AsyncResult {
    app: Canvas,
    /// Shared, since a clone of the handle must not copy a million ids.
    tree: Arc<ResultTree>,
}

/// How to wait for a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// How long at most; None for as long as it takes.
    pub timeout: Option<Duration>,
    /// Whether a failure is an error; otherwise its exception is the value.
    pub propagate: bool,
}

impl Default for Wait {
    fn default() -> Self {
        Self {
            timeout: None,
            propagate: true,
        }
    }
}

impl AsyncResult {
    pub(crate) fn new(app: Canvas, tree: impl Into<Arc<ResultTree>>) -> Self {
        let tree = tree.into();
        Self { app, tree }
    }

    /// The id of the task or group.
    pub fn id(&self) -> &Id {
        &self.tree.id
    }

    /// The ids without the connection.
    pub fn tree(&self) -> &ResultTree {
        &self.tree
    }

    /// A handle on another node, such as one of this result's tree.
    pub fn of(&self, tree: &ResultTree) -> Self {
        Self::new(self.app.clone(), tree.clone())
    }

    /// What ran before it, as far as the client knows: the step before in a
    /// chain, the header of a chord.
    pub fn parent(&self) -> Option<Self> {
        let parent = self.tree.parent.as_ref()?;
        Some(Self::new(self.app.clone(), parent.share()))
    }

    /// The members, if this is the result of a group.
    pub fn as_group(&self) -> Option<GroupResult> {
        self.tree
            .members
            .is_some()
            .then(|| GroupResult::new(self.app.clone(), self.tree.clone()))
    }

    /// Waits for the value, as long as it takes.
    ///
    /// # Errors
    /// [`Error::TaskFailed`] if the task failed or was revoked;
    /// [`Error::GetInsideTask`] when called inside a task, where it could
    /// block the worker that it waits for.
    pub async fn get(&self) -> Result<Value> {
        self.wait(Wait::default()).await
    }

    /// Waits for the value at most this long.
    ///
    /// # Errors
    /// As [`get`](Self::get), and [`Error::Timeout`].
    pub async fn get_timeout(&self, timeout: Duration) -> Result<Value> {
        self.wait(Wait {
            timeout: Some(timeout),
            ..Wait::default()
        })
        .await
    }

    /// Waits for the value and reads it as a `T`.
    ///
    /// # Errors
    /// As [`get`](Self::get), and [`Error::Encoding`] if it is no `T`.
    pub async fn get_as<T: DeserializeOwned>(&self) -> Result<T> {
        self.read_as(self.get().await?)
    }

    /// Reads a value of this result as a `T`.
    pub(crate) fn read_as<T: DeserializeOwned>(&self, value: Value) -> Result<T> {
        serde_json::from_value(value).map_err(|e| Error::Encoding {
            action: "decode",
            what: format!("the result of {}", self.id()),
            reason: e.to_string(),
        })
    }

    /// Waits for the value. That of a group is a list; of a result that is
    /// not stored, null, at once; of a task that asked to be ignored, null.
    ///
    /// # Errors
    /// As [`get`](Self::get), and [`Error::Timeout`].
    pub async fn wait(&self, wait: Wait) -> Result<Value> {
        if is_inside_task() {
            return Err(Error::GetInsideTask(self.id().clone()));
        }
        let leaves = self.tree.leaves();
        let done = collect(&self.app, &leaves, wait);
        let values = match wait.timeout {
            None => done.await?,
            Some(timeout) => {
                tokio::time::timeout(timeout, done)
                    .await
                    .map_err(|_| Error::Timeout {
                        id: self.id().clone(),
                        waited: timeout,
                    })??
            }
        };
        Ok(value(&self.tree, values))
    }

    /// The stored state; that of a group is the one it waits for.
    ///
    /// # Errors
    /// The backend's error.
    pub async fn meta(&self) -> Result<TaskMeta> {
        let found = self
            .app
            .backend()
            .load(std::slice::from_ref(self.id()))
            .await?;
        let unknown = || TaskMeta::pending(self.id().clone());
        Ok(found.into_iter().next().flatten().unwrap_or_else(unknown))
    }

    /// The state. PENDING also stands for an id that nobody knows.
    ///
    /// # Errors
    /// The backend's error.
    pub async fn state(&self) -> Result<State> {
        if self.tree.members.is_none() {
            return Ok(self.meta().await?.status);
        }
        let states = self.states().await?;
        let failed = states.iter().map(|(_, s)| s).find(|s| s.is_error());
        Ok(match failed {
            Some(failed) => failed.clone(),
            None if states.iter().all(|(_, s)| s.is_ready()) => State::Success,
            None => State::Pending,
        })
    }

    async fn states(&self) -> Result<Vec<(Id, State)>> {
        let ids: Vec<Id> = self.tree.leaves().iter().map(|l| l.id.clone()).collect();
        let found = self.app.backend().load(&ids).await?;
        let state = |meta: Option<TaskMeta>| meta.map_or(State::Pending, |m| m.status);
        Ok(ids.into_iter().zip(found.into_iter().map(state)).collect())
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// The backend's error.
    pub async fn ready(&self) -> Result<bool> {
        Ok(self.states().await?.iter().all(|(_, s)| s.is_ready()))
    }

    /// Whether it has succeeded.
    ///
    /// # Errors
    /// The backend's error.
    pub async fn successful(&self) -> Result<bool> {
        Ok(self
            .states()
            .await?
            .iter()
            .all(|(_, s)| *s == State::Success))
    }

    /// Whether it has failed.
    ///
    /// # Errors
    /// The backend's error.
    pub async fn failed(&self) -> Result<bool> {
        Ok(self
            .states()
            .await?
            .iter()
            .any(|(_, s)| *s == State::Failure))
    }

    /// The stored error, if it failed.
    ///
    /// # Errors
    /// The backend's error.
    pub async fn exception(&self) -> Result<Option<ExceptionInfo>> {
        Ok(self.meta().await?.exception())
    }

    /// Where the error came from, if it failed and that is known.
    ///
    /// # Errors
    /// The backend's error.
    pub async fn traceback(&self) -> Result<Option<String>> {
        Ok(self.meta().await?.traceback)
    }

    /// The tasks that it sent: callbacks, the next step, and its own.
    ///
    /// # Errors
    /// The backend's error.
    pub async fn children(&self) -> Result<Vec<Self>> {
        let trees = match &self.tree.members {
            Some(members) => members.clone(),
            None => self.meta().await?.children.unwrap_or_default(),
        };
        let result = |tree| Self::new(self.app.clone(), tree);
        Ok(trees.into_iter().map(result).collect())
    }

    /// The tasks that follow from this one, each with the one that sent it,
    /// nearest first.
    ///
    /// Celery: `iterdeps`. Unless `intermediate` is set, all must have ended.
    ///
    /// # Errors
    /// [`Error::Timeout`] without waiting, Celery's `IncompleteStream`, if one
    /// has not; or the backend's error.
    pub async fn iterdeps(&self, intermediate: bool) -> Result<Vec<(Option<Self>, Self)>> {
        let mut open = VecDeque::from([(None, self.clone())]);
        let mut seen = HashSet::new();
        let mut all = Vec::new();
        while let Some((parent, node)) = open.pop_front() {
            if !seen.insert(node.id().clone()) {
                continue;
            }
            let ready = node.tree.members.is_some() || node.ready().await?;
            if !ready && !intermediate {
                return Err(Error::Timeout {
                    id: node.id().clone(),
                    waited: Duration::ZERO,
                });
            }
            for child in node.children().await? {
                open.push_back((Some(node.clone()), child));
            }
            all.push((parent, node));
        }
        Ok(all)
    }

    /// Waits for this and all that follows from it, each with its value.
    ///
    /// Celery: `collect`.
    ///
    /// # Errors
    /// As [`get`](Self::get), of the first that failed.
    pub async fn collect(&self) -> Result<Vec<(Self, Value)>> {
        let mut open = VecDeque::from([self.clone()]);
        let mut seen = HashSet::new();
        let mut all = Vec::new();
        while let Some(node) = open.pop_front() {
            if !seen.insert(node.id().clone()) {
                continue;
            }
            let value = deep(|| node.get()).await?;
            open.extend(node.children().await?);
            all.push((node, value));
        }
        Ok(all)
    }

    /// Celery's `as_tuple()`, as JSON, to be kept and read by
    /// [`from_tuple`](Self::from_tuple).
    pub fn as_tuple(&self) -> Value {
        self.tree.to_value()
    }

    /// Reads what [`as_tuple`](Self::as_tuple) or Python's wrote.
    ///
    /// # Errors
    /// [`Error::Encoding`] if it is something else.
    pub fn from_tuple(app: &Canvas, tuple: &Value) -> Result<Self> {
        Ok(Self::new(app.clone(), ResultTree::from_value(tuple)?))
    }

    /// Removes the result, the members' and those of all parents, and the joins
    /// of chords, so that the same frozen canvas can be sent again.
    ///
    /// # Errors
    /// The backend's error.
    pub async fn forget(&self) -> Result<()> {
        let ids: Vec<Id> = self.tree.nodes().iter().map(|n| n.id.clone()).collect();
        self.app.backend().forget(&ids).await?;
        if self.tree.members.is_some() {
            self.app.backend().forget_group(self.id()).await?;
        }
        Ok(())
    }

    /// Calls the task off, or all members of the group. With `terminate` also
    /// while it runs. See [`Canvas::revoke`].
    ///
    /// # Errors
    /// The broker's error.
    pub async fn revoke(&self, terminate: bool) -> Result<()> {
        let ids: Vec<Id> = self.tree.leaves().iter().map(|l| l.id.clone()).collect();
        self.app.revoke(&ids, terminate).await
    }

    pub(crate) fn app(&self) -> &Canvas {
        &self.app
    }
}

/// How many results are waited for at a time: to wait for a million at once
/// takes more memory than they do.
const AT_A_TIME: usize = 10_000;

/// The values of `leaves`, in their order, once all have ended. The first
/// failure is the error; of more than can be waited for at a time, the first
/// among those.
async fn collect(app: &Canvas, leaves: &[&ResultTree], wait: Wait) -> Result<Vec<Value>> {
    let mut values = Vec::with_capacity(leaves.len());
    for leaves in leaves.chunks(AT_A_TIME) {
        let stored = leaves.iter().filter(|leaf| !leaf.ignored);
        let ids: Vec<Id> = stored.map(|leaf| leaf.id.clone()).collect();
        let mut found = HashMap::with_capacity(ids.len());
        let mut stream = app.backend().watch(&ids).await?;
        while let Some(meta) = stream.next().await {
            let meta = meta?;
            if wait.propagate && meta.status.is_error() {
                return Err(Error::TaskFailed {
                    id: meta.task_id.clone(),
                    exception: Box::new(ExceptionInfo::from_result(&meta.result)),
                });
            }
            // What is stored of an ignored task is why, not a value.
            let ignored = meta.status == State::Ignored;
            let value = if ignored { Value::Null } else { meta.result };
            found.insert(meta.task_id, value);
        }
        // Copied, since one task may stand at two places.
        let value = |leaf: &&ResultTree| found.get(&leaf.id).cloned().unwrap_or_default();
        values.extend(leaves.iter().map(value));
    }
    Ok(values)
}

/// The value of a canvas, made of the values of its leaves: a list of the
/// members' for a group.
fn value(tree: &ResultTree, leaves: Vec<Value>) -> Value {
    let is_leaf = |member: &ResultTree| member.members.is_none();
    match &tree.members {
        // Made already, and of a large group it would be made twice.
        Some(members) if members.iter().all(is_leaf) => Value::Array(leaves),
        _ => nested(tree, &mut leaves.into_iter()),
    }
}

fn nested(tree: &ResultTree, leaves: &mut std::vec::IntoIter<Value>) -> Value {
    match &tree.members {
        Some(members) => {
            let values = members.iter().map(|m| deep(|| nested(m, leaves)));
            values.collect()
        }
        None => leaves.next().unwrap_or_default(),
    }
}
