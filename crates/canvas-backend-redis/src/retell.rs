//! Telling of results once more, for clients that look before they are heard.
//!
//! Celery's client asks for word of a result on one connection and looks for
//! the result on another, without waiting for the answer to the first. A server
//! that was busy finds both asked, and may look first. A result that is stored
//! between the two is then told to nobody, and that client waits for ever. A
//! worker in Python is seldom so quick; ours is.
//!
//! Of the tasks that a client sends itself, it asks for word before it sends
//! them. So the results of those that a worker has sent, as the end of a chain
//! or the body of a chord, are published again, a moment after they were stored.
//! By then the server has heard whoever looked before.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use canvas_core::{Id, TaskMeta};

use crate::connection::Link;
use crate::keys::Keys;
use crate::script::RETELL;

/// How long after a result was stored. Without a network one round trip would
/// do; with one, what was sent on two connections may come in another order.
const LATER: Duration = Duration::from_millis(20);

/// How many results one call tells of at most.
const BATCH: usize = 1_000;

/// The results to tell of again.
#[derive(Debug)]
pub(crate) struct Retell {
    link: Arc<Link>,
    keys: Keys,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    ids: Vec<Id>,
    /// Whether a task is about to take them.
    taken_care_of: bool,
}

impl Retell {
    pub(crate) fn new(link: Arc<Link>, keys: Keys) -> Arc<Self> {
        Arc::new(Self {
            link,
            keys,
            waiting: Mutex::default(),
        })
    }

    /// Whether a client may look for this one too early.
    pub(crate) fn is_for(meta: &TaskMeta) -> bool {
        meta.status.is_ready() && meta.parent_id.is_some()
    }

    /// Tells of the results of these tasks, in a moment.
    pub(crate) fn later(self: &Arc<Self>, ids: impl IntoIterator<Item = Id>) {
        let mut waiting = self.waiting();
        waiting.ids.extend(ids);
        if waiting.ids.is_empty() || std::mem::replace(&mut waiting.taken_care_of, true) {
            return;
        }
        drop(waiting);
        let taking = Taking {
            retell: self.clone(),
            done: false,
        };
        tokio::spawn(taking.run());
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of all that there is, until there is none.
    async fn tell_all(&self) {
        loop {
            tokio::time::sleep(LATER).await;
            let ids = {
                let mut waiting = self.waiting();
                if waiting.ids.is_empty() {
                    waiting.taken_care_of = false;
                    return;
                }
                std::mem::take(&mut waiting.ids)
            };
            for ids in ids.chunks(BATCH) {
                self.tell(ids).await;
            }
        }
    }

    async fn tell(&self, ids: &[Id]) {
        let mut tell = RETELL.arg(self.keys.results());
        for id in ids {
            tell.arg(id.as_str());
        }
        let tell = &tell;
        let told = self.link.call("backend.retell", |mut redis| async move {
            tell.invoke_async::<()>(&mut redis).await
        });
        if let Err(error) = told.await {
            tracing::debug!(%error, "results were told of only once");
        }
    }
}

/// Says that nobody takes care of it any more, should the task that does be
/// dropped with its runtime.
struct Taking {
    retell: Arc<Retell>,
    done: bool,
}

impl Taking {
    async fn run(mut self) {
        self.retell.tell_all().await;
        self.done = true;
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        if !self.done {
            self.retell.waiting().taken_care_of = false;
        }
    }
}
