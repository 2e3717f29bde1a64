//! What a worker has in hand: the tasks it has taken, holds back or runs.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use canvas_core::{Ctx, Id, Request};
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

/// The tasks of a worker, from the moment they are taken until their delivery
/// has ended.
#[derive(Debug, Default)]
pub(crate) struct Roster(Mutex<Tasks>);

#[derive(Debug, Default)]
struct Tasks {
    here: BTreeMap<u64, Entry>,
    last: u64,
    /// How many were started, by name.
    total: HashMap<Arc<str>, u64>,
}

/// A task in hand.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) request: Arc<Request>,
    pub(crate) stage: Stage,
    /// Whether its message was acknowledged.
    pub(crate) acknowledged: bool,
}

/// How far a task has come.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    /// Taken, and waiting for a slot.
    Reserved,
    /// Held back until its time has come.
    Scheduled,
    /// Running.
    Active {
        since: DateTime<Utc>,
        ctx: Ctx,
        stop: CancellationToken,
    },
}

impl Roster {
    /// Notes that a task was taken.
    pub(crate) fn enter(self: &Arc<Self>, request: Arc<Request>) -> Seat {
        let mut tasks = self.tasks();
        tasks.last += 1;
        let key = tasks.last;
        let entry = Entry {
            request,
            stage: Stage::Reserved,
            acknowledged: false,
        };
        tasks.here.insert(key, entry);
        Seat {
            roster: self.clone(),
            key,
        }
    }

    /// The tasks in hand that are wanted, in the order in which they came.
    pub(crate) fn list(&self, wanted: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let tasks = self.tasks();
        tasks.here.values().filter(|e| wanted(e)).cloned().collect()
    }

    /// How many tasks were started so far, by name.
    pub(crate) fn total(&self) -> BTreeMap<Arc<str>, u64> {
        let tasks = self.tasks();
        let total = tasks.total.iter();
        total.map(|(name, count)| (name.clone(), *count)).collect()
    }

    /// Tells the wanted tasks that they were called off; with `terminate`,
    /// those that run are stopped. Says which are here.
    pub(crate) fn call_off(&self, wanted: impl Fn(&Request) -> bool, terminate: bool) -> Vec<Id> {
        let tasks = self.tasks();
        let mut found = Vec::new();
        for entry in tasks.here.values().filter(|e| wanted(&e.request)) {
            if let Stage::Active { ctx, stop, .. } = &entry.stage {
                ctx.set_revoked();
                if terminate {
                    stop.cancel();
                }
            }
            found.push(entry.request.id.clone());
        }
        found
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task's place in the roster. It is given up when this is dropped.
#[derive(Debug)]
#[must_use = "a task is in hand only as long as it has a seat"]
pub(crate) struct Seat {
    roster: Arc<Roster>,
    key: u64,
}

impl Seat {
    /// The task waits for its time.
    pub(crate) fn scheduled(&self) {
        self.change(|entry| entry.stage = Stage::Scheduled);
    }

    /// Its message was acknowledged.
    pub(crate) fn acknowledged(&self) {
        self.change(|entry| entry.acknowledged = true);
    }

    /// The task runs; the token says when to stop it.
    pub(crate) fn started(&self, ctx: &Ctx) -> CancellationToken {
        let stop = CancellationToken::new();
        let stage = Stage::Active {
            since: Utc::now(),
            ctx: ctx.clone(),
            stop: stop.clone(),
        };
        let mut tasks = self.roster.tasks();
        let name = ctx.request().task.clone();
        *tasks.total.entry(name).or_default() += 1;
        if let Some(entry) = tasks.here.get_mut(&self.key) {
            entry.stage = stage;
        }
        stop
    }

    fn change(&self, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.roster.tasks().here.get_mut(&self.key) {
            change(entry);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.roster.tasks().here.remove(&self.key);
    }
}
