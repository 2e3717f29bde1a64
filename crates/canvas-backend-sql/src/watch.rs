//! Waiting for results: one task that looks for all who wait.
//!
//! PostgreSQL tells of each result, by a trigger, so that those of Python
//! processes are heard of as well. Whoever waits is entered in a list first and
//! looked for then, so that nothing falls between the two; and all are looked
//! for again when there was no connection to hear by. The other databases are
//! asked again and again: soon after something happened, and then more seldom.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use canvas_core::{Error, Id, Result, TaskMeta};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::{Notify, mpsc};

use crate::listen::{Ears, Heard};
use crate::store::Store;

const OPERATION: &str = "backend.watch";

/// The first pause between two looks.
const SOON: Duration = Duration::from_millis(5);

/// All who wait, and the task that looks for them.
#[derive(Debug)]
pub(crate) struct Watches {
    store: Arc<Store>,
    list: Mutex<List>,
    /// Wakes the task: there is something new in the list.
    news: Notify,
}

#[derive(Debug, Default)]
struct List {
    /// Who waits for which task.
    waiting: HashMap<Id, Vec<Waiter>>,
    /// Those to look for at once.
    new: Vec<Id>,
    watches: u64,
    /// Whether a task takes care of it.
    taken_care_of: bool,
}

#[derive(Debug)]
struct Waiter {
    watch: u64,
    sender: mpsc::UnboundedSender<Told>,
}

/// An end, or that there is none to be had.
type Told = Result<(Id, Result<TaskMeta>)>;

impl Watches {
    pub(crate) fn new(store: Arc<Store>) -> Arc<Self> {
        Arc::new(Self {
            store,
            list: Mutex::default(),
            news: Notify::new(),
        })
    }

    /// Yields each of these tasks once it has ended.
    pub(crate) fn watch(self: &Arc<Self>, ids: &[Id]) -> BoxStream<'static, Result<TaskMeta>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let open: HashSet<Id> = ids.iter().cloned().collect();
        let mut list = self.list();
        list.watches += 1;
        let watch = list.watches;
        for id in &open {
            let sender = sender.clone();
            let waiting = list.waiting.entry(id.clone()).or_default();
            waiting.push(Waiter { watch, sender });
        }
        let mut seen = HashSet::with_capacity(open.len());
        list.new
            .extend(ids.iter().filter(|id| seen.insert(*id)).cloned());
        if !open.is_empty() {
            if std::mem::replace(&mut list.taken_care_of, true) {
                self.news.notify_one();
            } else {
                let care = Care {
                    watches: self.clone(),
                    done: false,
                };
                tokio::spawn(care.run());
            }
        }
        drop(list);
        let watch = Watch {
            watches: self.clone(),
            watch,
            open,
            receiver,
        };
        stream::unfold(watch, |mut watch| async {
            let told = watch.next().await?;
            Some((told, watch))
        })
        .boxed()
    }

    /// Has those be looked for at once who wait for a task that ended in this
    /// process.
    pub(crate) fn ended(&self, id: &Id) {
        let mut list = self.list();
        if list.waiting.contains_key(id) {
            list.new.push(id.clone());
            self.news.notify_one();
        }
    }

    /// Looks, until nobody waits any more.
    async fn look_on(&self) {
        let mut ears = Ears::open(&self.store);
        let mut pause = Pause::new(&self.store);
        let mut ids = Vec::new();
        self.all(&mut ids);
        loop {
            if self.look(&ids).await {
                pause.reset();
            }
            ids.clear();
            if self.is_over() {
                return;
            }
            tokio::select! {
                () = self.news.notified() => {
                    pause.reset();
                    ids.append(&mut self.list().new);
                }
                heard = ears.next() => {
                    self.heard(heard, &mut ids, &mut pause);
                    // All that has come so far, before the next look.
                    while let Some(heard) = ears.now() {
                        self.heard(heard, &mut ids, &mut pause);
                    }
                }
                () = tokio::time::sleep(pause.next()) => {
                    pause.lengthen();
                    self.all(&mut ids);
                }
            }
        }
    }

    fn heard(&self, heard: Heard, ids: &mut Vec<Id>, pause: &mut Pause) {
        match heard {
            Heard::Result(id) => {
                if self.list().waiting.contains_key(&id) {
                    ids.push(id);
                }
            }
            // What was told meanwhile went unheard.
            Heard::Listening => {
                pause.set(true);
                self.all(ids);
            }
            Heard::Deaf => pause.set(false),
        }
    }

    /// All that is waited for: what is new first, in the order asked for.
    fn all(&self, ids: &mut Vec<Id>) {
        let mut list = self.list();
        *ids = std::mem::take(&mut list.new);
        let new: HashSet<Id> = ids.iter().cloned().collect();
        let others = list.waiting.keys().filter(|id| !new.contains(*id));
        ids.extend(others.cloned());
    }

    /// Tells of those that have ended; gives whether any has.
    async fn look(&self, ids: &[Id]) -> bool {
        if ids.is_empty() {
            return false;
        }
        let mut found = match self.store.load(OPERATION, ids, true).await {
            Ok(found) => found,
            // It was tried again for long enough.
            Err(error) => {
                self.give_up(&error);
                return false;
            }
        };
        let any = !found.is_empty();
        // In the order asked for, as far as there is one.
        for id in ids {
            if let Some(meta) = found.remove(id) {
                self.tell(id, &meta);
            }
        }
        any
    }

    fn tell(&self, id: &Id, meta: &Result<TaskMeta>) {
        let waiters = self.list().waiting.remove(id);
        for waiter in waiters.into_iter().flatten() {
            // Fails only if the waiter has gone.
            let _ = waiter.sender.send(Ok((id.clone(), meta.clone())));
        }
    }

    fn give_up(&self, error: &Error) {
        let waiting = std::mem::take(&mut self.list().waiting);
        for waiter in waiting.into_values().flatten() {
            // Fails only if the waiter has gone.
            let _ = waiter.sender.send(Err(error.clone()));
        }
    }

    /// Whether nobody waits: then the task ends, and the next one who comes
    /// starts another.
    fn is_over(&self) -> bool {
        let mut list = self.list();
        if list.waiting.is_empty() {
            list.new.clear();
            list.taken_care_of = false;
        }
        list.waiting.is_empty()
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that nobody takes care of the list any more, should the task that does
/// be dropped with its runtime.
struct Care {
    watches: Arc<Watches>,
    done: bool,
}

impl Care {
    async fn run(mut self) {
        self.watches.look_on().await;
        self.done = true;
    }
}

impl Drop for Care {
    fn drop(&mut self) {
        if !self.done {
            self.watches.list().taken_care_of = false;
        }
    }
}

/// How long until the next look.
#[derive(Debug)]
struct Pause {
    poll: Duration,
    look_again: Duration,
    /// Whether the database tells of results.
    told: bool,
    next: Duration,
}

impl Pause {
    fn new(store: &Store) -> Self {
        Self {
            poll: store.config.poll.max(SOON),
            look_again: store.config.look_again,
            told: false,
            next: SOON,
        }
    }

    fn next(&self) -> Duration {
        self.next
    }

    fn set(&mut self, told: bool) {
        self.told = told;
        self.reset();
    }

    fn reset(&mut self) {
        self.next = if self.told { self.look_again } else { SOON };
    }

    fn lengthen(&mut self) {
        self.next = match self.told {
            true => (self.next * 2).min(self.look_again * 12),
            false => (self.next * 3 / 2).min(self.poll),
        };
    }
}

/// A stream of tasks as they end.
struct Watch {
    watches: Arc<Watches>,
    watch: u64,
    /// Those that have not.
    open: HashSet<Id>,
    receiver: mpsc::UnboundedReceiver<Told>,
}

impl Watch {
    async fn next(&mut self) -> Option<Result<TaskMeta>> {
        while !self.open.is_empty() {
            match self.receiver.recv().await? {
                Ok((id, meta)) => {
                    if self.open.remove(&id) {
                        return Some(meta);
                    }
                }
                Err(error) => {
                    self.open.clear();
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut list = self.watches.list();
        for id in &self.open {
            if let Some(waiters) = list.waiting.get_mut(id) {
                waiters.retain(|waiter| waiter.watch != self.watch);
                if waiters.is_empty() {
                    list.waiting.remove(id);
                }
            }
        }
        if list.waiting.is_empty() {
            self.watches.news.notify_one();
        }
    }
}
