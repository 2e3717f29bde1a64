//! The in-process result backend.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::join::Join;
use crate::backend::{Arrival, Backend, BackendInfo, JoinSpec, Part, Stored};
use crate::error::Result;
use crate::id::Id;
use crate::protocol::TaskMeta;
use crate::result::ResultTree;
use crate::state::State;

/// A backend inside this process. A clone is another handle on the same one.
///
/// Results are kept as the JSON that Redis would hold: a million of them are a
/// few hundred megabytes.
#[derive(Clone, Default)]
pub struct MemoryBackend(Arc<Shared>);

#[derive(Default)]
struct Shared {
    store: Mutex<Store>,
    /// How long things live; None for ever.
    expiry: Option<Duration>,
}

#[derive(Default)]
struct Store {
    results: Expiring<Id, StoredMeta>,
    groups: Expiring<Id, ResultTree>,
    kept: Expiring<Id, Bytes>,
    joins: Expiring<Id, Join>,
    /// Who waits for which task.
    watchers: HashMap<Id, Vec<Watcher>>,
    watches: u64,
}

/// A result at rest.
#[derive(Clone)]
struct StoredMeta {
    json: Bytes,
    ended: Ended,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    No,
    /// It has, but not with a success.
    Yes,
    Success,
}

impl Ended {
    fn of(state: &State) -> Self {
        match state {
            State::Success => Self::Success,
            state if state.is_ready() => Self::Yes,
            _ => Self::No,
        }
    }
}

struct Watcher {
    watch: u64,
    sender: mpsc::UnboundedSender<(Id, Bytes)>,
}

impl MemoryBackend {
    /// An empty backend whose results live as long as the process.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty backend whose results, joins and all else go this long after
    /// they were last written.
    pub fn with_expiry(expiry: Option<Duration>) -> Self {
        Self(Arc::new(Shared {
            store: Mutex::default(),
            expiry,
        }))
    }
}

impl fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let store = self.0.store();
        f.debug_struct("MemoryBackend")
            .field("results", &store.results.entries.len())
            .field("joins", &store.joins.entries.len())
            .field("expiry", &self.0.expiry)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ends(&self) -> Option<Instant> {
        self.expiry.map(|expiry| Instant::now() + expiry)
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    fn info(&self) -> BackendInfo {
        BackendInfo::new("memory://")
    }

    async fn store(&self, meta: &TaskMeta) -> Result<Stored> {
        let new = StoredMeta {
            json: Bytes::from(meta.to_json()?),
            ended: Ended::of(&meta.status),
        };
        let mut store = self.0.store();
        let old = store.results.get(&meta.task_id).map(|old| old.ended);
        let stands = match old {
            Some(Ended::Success) => true,
            Some(Ended::Yes) => new.ended == Ended::No,
            Some(Ended::No) | None => false,
        };
        if stands {
            return Ok(Stored::Kept);
        }
        if new.ended != Ended::No {
            for watcher in store.watchers.remove(&meta.task_id).into_iter().flatten() {
                // Fails only if the waiter has gone.
                let _ = watcher
                    .sender
                    .send((meta.task_id.clone(), new.json.clone()));
            }
        }
        let ends = self.0.ends();
        store.results.insert(meta.task_id.clone(), new, ends);
        Ok(Stored::Written)
    }

    async fn load(&self, ids: &[Id]) -> Result<Vec<Option<TaskMeta>>> {
        let found: Vec<Option<Bytes>> = {
            let mut store = self.0.store();
            let json = |id| store.results.get(id).map(|stored| stored.json.clone());
            ids.iter().map(json).collect()
        };
        let read = |json: Option<Bytes>| json.map(|json| TaskMeta::from_json(&json)).transpose();
        found.into_iter().map(read).collect()
    }

    async fn forget(&self, ids: &[Id]) -> Result<()> {
        let mut store = self.0.store();
        for id in ids {
            store.results.entries.remove(id);
            store.joins.entries.remove(id);
        }
        Ok(())
    }

    async fn watch(&self, ids: &[Id]) -> Result<BoxStream<'static, Result<TaskMeta>>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut store = self.0.store();
        store.watches += 1;
        let watch = store.watches;
        let mut ended = VecDeque::new();
        let mut open = HashSet::new();
        let mut asked = HashSet::with_capacity(ids.len());
        for id in ids.iter().filter(|id| asked.insert(*id)) {
            let stored = store.results.get(id);
            if let Some(stored) = stored.filter(|stored| stored.ended != Ended::No) {
                ended.push_back(stored.json.clone());
                continue;
            }
            open.insert(id.clone());
            let sender = sender.clone();
            let watchers = store.watchers.entry(id.clone()).or_default();
            watchers.push(Watcher { watch, sender });
        }
        drop(store);
        let watch = Watch {
            backend: self.0.clone(),
            watch,
            ended,
            open,
            receiver,
        };
        let next = |mut watch: Watch| async {
            let json = watch.next().await?;
            Some((TaskMeta::from_json(&json), watch))
        };
        Ok(stream::unfold(watch, next).boxed())
    }

    async fn save_group(&self, group: &ResultTree) -> Result<()> {
        let ends = self.0.ends();
        let mut store = self.0.store();
        store.groups.insert(group.id.clone(), group.clone(), ends);
        Ok(())
    }

    async fn load_group(&self, id: &Id) -> Result<Option<ResultTree>> {
        Ok(self.0.store().groups.get(id).cloned())
    }

    async fn forget_group(&self, id: &Id) -> Result<()> {
        self.0.store().groups.entries.remove(id);
        Ok(())
    }

    async fn keep(&self, key: &Id, value: Bytes) -> Result<()> {
        let ends = self.0.ends();
        self.0.store().kept.insert(key.clone(), value, ends);
        Ok(())
    }

    async fn recall(&self, key: &Id) -> Result<Option<Bytes>> {
        Ok(self.0.store().kept.get(key).cloned())
    }

    async fn open_join(&self, spec: &JoinSpec) -> Result<()> {
        let ends = self.0.ends();
        let mut store = self.0.store();
        if store.joins.get(&spec.id).is_none() {
            store.joins.insert(spec.id.clone(), Join::new(spec), ends);
        }
        Ok(())
    }

    async fn grow_join(&self, join: &Id, member: &Id, by: u64) -> Result<()> {
        if let Some(join) = self.0.store().joins.get_mut(join) {
            join.grow(member, by);
        }
        Ok(())
    }

    async fn arrive(&self, join: &Id, part: &Part, lease: Duration) -> Result<Arrival> {
        let ends = self.0.ends();
        let mut store = self.0.store();
        let Some(open) = store.joins.get_mut(join) else {
            return Ok(Arrival::Missing);
        };
        let arrival = open.arrive(part, lease, Instant::now());
        // A header may take longer than results live: each arrival renews it.
        store.joins.renew(join, ends);
        Ok(arrival)
    }

    async fn close_join(&self, join: &Id, claim: u64) -> Result<bool> {
        let mut store = self.0.store();
        Ok(store
            .joins
            .get_mut(join)
            .is_some_and(|join| join.close(claim)))
    }
}

/// A map whose entries go when their time has come. All are given the same
/// time to live, so they go in about the order in which they came.
struct Expiring<K, V> {
    entries: HashMap<K, (V, Option<Instant>)>,
    order: VecDeque<(Instant, K)>,
}

impl<K, V> Default for Expiring<K, V> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<K: Hash + Eq + Clone, V> Expiring<K, V> {
    fn insert(&mut self, key: K, value: V, ends: Option<Instant>) {
        self.sweep();
        if let Some(ends) = ends
            && !self.entries.contains_key(&key)
        {
            self.order.push_back((ends, key.clone()));
        }
        self.entries.insert(key, (value, ends));
    }

    fn renew(&mut self, key: &K, ends: Option<Instant>) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.1 = ends;
        }
    }

    fn get<Q>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.get_mut(key).map(|value| &*value)
    }

    fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.sweep();
        let (value, ends) = self.entries.get_mut(key)?;
        let gone = ends.is_some_and(|ends| ends <= Instant::now());
        (!gone).then_some(value)
    }

    /// Drops what has expired, and looks again later at what was renewed.
    fn sweep(&mut self) {
        if self.order.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some((ends, _)) = self.order.front()
            && *ends <= now
            && let Some((_, key)) = self.order.pop_front()
        {
            match self.entries.get(&key) {
                Some((_, Some(ends))) if *ends > now => self.order.push_back((*ends, key)),
                Some((_, Some(_))) => {
                    self.entries.remove(&key);
                }
                _ => {}
            }
        }
    }
}

/// A stream of tasks as they end.
struct Watch {
    backend: Arc<Shared>,
    watch: u64,
    /// Those that had ended when the watch began.
    ended: VecDeque<Bytes>,
    /// Those that had not, and still have not.
    open: HashSet<Id>,
    receiver: mpsc::UnboundedReceiver<(Id, Bytes)>,
}

impl Watch {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(json) = self.ended.pop_front() {
            return Some(json);
        }
        if self.open.is_empty() {
            return None;
        }
        let (id, json) = self.receiver.recv().await?;
        self.open.remove(&id);
        Some(json)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let mut store = self.backend.store();
        for id in &self.open {
            if let Some(watchers) = store.watchers.get_mut(id) {
                watchers.retain(|watcher| watcher.watch != self.watch);
                if watchers.is_empty() {
                    store.watchers.remove(id);
                }
            }
        }
    }
}
