//! Waiting for results: looking again and again, soon at first and then more
//! seldom. Memcached tells of nothing.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use canvas_core::{Id, Result, TaskMeta};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use crate::cache::Cache;

/// The first pause between two looks.
const SOON: Duration = Duration::from_millis(5);

/// Yields each of these tasks once it has ended.
pub(crate) fn watch(cache: Arc<Cache>, ids: &[Id]) -> BoxStream<'static, Result<TaskMeta>> {
    let mut seen = HashSet::with_capacity(ids.len());
    let watch = Watch {
        cache,
        open: ids.iter().filter(|id| seen.insert(*id)).cloned().collect(),
        ended: VecDeque::new(),
        pause: None,
    };
    stream::unfold(watch, |mut watch| async {
        let told = watch.next().await?;
        Some((told, watch))
    })
    .boxed()
}

struct Watch {
    cache: Arc<Cache>,
    /// Those that had not ended when they were last looked for, in the order
    /// asked for.
    open: Vec<Id>,
    /// Those that had, and have not been told of yet.
    ended: VecDeque<TaskMeta>,
    /// How long until the next look.
    pause: Option<Duration>,
}

impl Watch {
    async fn next(&mut self) -> Option<Result<TaskMeta>> {
        loop {
            if let Some(meta) = self.ended.pop_front() {
                return Some(Ok(meta));
            }
            if self.open.is_empty() {
                return None;
            }
            if let Some(pause) = self.pause {
                tokio::time::sleep(pause).await;
            }
            if let Err(error) = self.look().await {
                self.open.clear();
                return Some(Err(error));
            }
        }
    }

    async fn look(&mut self) -> Result<()> {
        let found = self.cache.load_metas("backend.watch", &self.open).await?;
        let mut open = Vec::new();
        for (id, found) in std::mem::take(&mut self.open).into_iter().zip(found) {
            match found.filter(|meta| meta.status.is_ready()) {
                Some(meta) => self.ended.push_back(meta),
                None => open.push(id),
            }
        }
        self.open = open;
        let longest = self.cache.config.poll.max(SOON);
        self.pause = Some(match self.pause {
            Some(pause) if self.ended.is_empty() => (pause * 3 / 2).min(longest),
            _ => SOON,
        });
        Ok(())
    }
}
