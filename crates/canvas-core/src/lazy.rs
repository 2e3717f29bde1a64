//! Groups that are too large to hold.

use std::sync::Arc;

use chrono::Utc;

use crate::advance;
use crate::app::Canvas;
use crate::effect::Effect;
use crate::error::Result;
use crate::id::Id;
use crate::protocol::Headers;
use crate::result::{AsyncResult, ResultTree};
use crate::signature::{Kwargs, Signature};

/// How many messages are made before they are published.
const BATCH: usize = 256;

/// A group whose members are made while they are sent: of a million
/// signatures, a few hundred are in memory at a time.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use canvas_core::{Canvas, Group, Signature};
/// let app = Canvas::in_memory();
/// let numbers = Group::from_iter((0..1_000).map(|n| Signature::new("add").args([n, n])));
/// let result = numbers.apply(&app).await?;
/// assert_eq!(result.tree().members.as_ref().map(Vec::len), Some(1_000));
/// # Ok::<(), canvas_core::Error>(()) }).unwrap();
/// ```
pub struct Group {
    members: Box<dyn Iterator<Item = Signature> + Send>,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group")
            .field("size", &self.members.size_hint())
            .finish()
    }
}

impl Group {
    /// A group of what `members` gives, asked for when it is sent.
    #[expect(
        clippy::should_implement_trait,
        reason = "FromIterator cannot ask for an iterator that outlives the call"
    )]
    pub fn from_iter<I>(members: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<Signature> + 'static,
        I::IntoIter: Send + 'static,
    {
        Self {
            members: Box::new(members.into_iter().map(Into::into)),
        }
    }

    /// Makes all members at once: an ordinary group, to be composed.
    pub fn collect(self) -> Signature {
        crate::group(self.members)
    }

    /// Sends the members as they are made.
    ///
    /// # Errors
    /// As [`Canvas::apply`]; the members before the one that failed were sent.
    pub async fn apply(self, app: &Canvas) -> Result<AsyncResult> {
        let id = Id::random();
        let mut nodes = Vec::with_capacity(self.members.size_hint().0);
        let mut expected = 0;
        let mut effects: Vec<Effect> = Vec::with_capacity(BATCH);
        let mut common = Common {
            group: id.clone(),
            task: None,
        };
        for (index, mut member) in self.members.enumerate() {
            app.check_joins(&member)?;
            member.options.set("group_id", id.as_str());
            member.options.set("group_index", index);
            let (mut more, mut node) =
                advance::apply(app.env(), member, &[], &Kwargs::new(), Utc::now())?;
            for effect in &mut more {
                if let Effect::Publish(outgoing) = effect {
                    common.share(&mut outgoing.message.headers, &mut node);
                }
            }
            nodes.push(node);
            effects.extend(more);
            if effects.len() >= BATCH {
                app.backend().expect(&nodes[expected..]).await?;
                expected = nodes.len();
                app.committer().send(effects.drain(..)).await?;
                // A million members should not keep a worker beside them waiting.
                tokio::task::yield_now().await;
            }
        }
        app.backend().expect(&nodes[expected..]).await?;
        app.committer().send(effects).await?;
        nodes.shrink_to_fit();
        Ok(AsyncResult::new(app.clone(), ResultTree::group(id, nodes)))
    }
}

/// What members have in common, so that they need not each have a copy: by the
/// million, that is a sixth of what their messages take.
struct Common {
    group: Id,
    /// The task of the last one: most often the same again.
    task: Option<Arc<str>>,
}

impl Common {
    fn share(&mut self, headers: &mut Headers, node: &mut ResultTree) {
        if headers.group.as_ref() == Some(&self.group) {
            headers.group = Some(self.group.clone());
        }
        if headers.task == self.task {
            headers.task.clone_from(&self.task);
        } else {
            self.task.clone_from(&headers.task);
        }
        match &headers.id {
            Some(id) if *id == node.id => node.id = id.clone(),
            _ => {}
        }
    }
}
