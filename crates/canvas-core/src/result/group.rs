//! The results of a group.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use serde_json::Value;

use super::{AsyncResult, ResultTree, Wait};
use crate::app::Canvas;
use crate::error::{Error, Result};
use crate::id::Id;
use crate::protocol::TaskMeta;
use crate::state::State;

/// The results of a group's members: Celery's `GroupResult`.
#[derive(Debug, Clone)]
pub struct GroupResult {
    whole: AsyncResult,
}

impl GroupResult {
    pub(crate) fn new(app: Canvas, tree: impl Into<Arc<ResultTree>>) -> Self {
        Self {
            whole: AsyncResult::new(app, tree),
        }
    }

    /// The id of the group.
    pub fn id(&self) -> &Id {
        self.whole.id()
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members().is_empty()
    }

    fn members(&self) -> &[ResultTree] {
        self.whole.tree().members.as_deref().unwrap_or_default()
    }

    /// The members' results, in order.
    pub fn results(&self) -> Vec<AsyncResult> {
        let app = self.whole.app();
        let result = |tree: &ResultTree| AsyncResult::new(app.clone(), tree.clone());
        self.members().iter().map(result).collect()
    }

    /// What ran before the group.
    pub fn parent(&self) -> Option<AsyncResult> {
        self.whole.parent()
    }

    /// Waits for the values of all members, in order.
    ///
    /// # Errors
    /// As [`AsyncResult::get`], of the first member that failed.
    pub async fn join(&self, wait: Wait) -> Result<Vec<Value>> {
        match self.whole.wait(wait).await? {
            Value::Array(values) => Ok(values),
            other => Ok(vec![other]),
        }
    }

    /// The members' ends, as they come: whichever is done first is first.
    ///
    /// # Errors
    /// The backend's error; [`Error::GetInsideTask`] when called inside a task.
    pub async fn iter(&self) -> Result<BoxStream<'static, Result<TaskMeta>>> {
        if crate::context::is_inside_task() {
            return Err(Error::GetInsideTask(self.id().clone()));
        }
        let ids = self.ids();
        let stream = self.whole.app().backend().watch(&ids).await?;
        Ok(stream.boxed())
    }

    fn ids(&self) -> Vec<Id> {
        let leaves = self.whole.tree().leaves();
        let stored = leaves.iter().filter(|leaf| !leaf.ignored);
        stored.map(|leaf| leaf.id.clone()).collect()
    }

    /// How many members have succeeded.
    ///
    /// # Errors
    /// The backend's error.
    pub async fn completed_count(&self) -> Result<usize> {
        let found = self.whole.app().backend().load(&self.ids()).await?;
        let done = |meta: &&TaskMeta| meta.status == State::Success;
        Ok(found.iter().flatten().filter(done).count())
    }

    /// Keeps the shape of the group in the backend, for
    /// [`Canvas::restore_group`].
    ///
    /// # Errors
    /// The backend's error.
    pub async fn save(&self) -> Result<()> {
        self.whole
            .app()
            .backend()
            .save_group(self.whole.tree())
            .await
    }

    /// Removes the saved shape.
    ///
    /// # Errors
    /// The backend's error.
    pub async fn delete(&self) -> Result<()> {
        self.whole.app().backend().forget_group(self.id()).await
    }

    /// The same as one result, whose value is the list.
    pub fn into_inner(self) -> AsyncResult {
        self.whole
    }
}
