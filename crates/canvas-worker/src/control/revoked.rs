//! The tasks that were called off.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use canvas_core::{Id, Request};
use serde_json::Value;

/// How many are remembered, as in Celery.
const REMEMBERED: usize = 50_000;

/// Which tasks were called off, by id or by stamp.
#[derive(Debug, Default)]
pub(crate) struct Revoked(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    ids: HashSet<Id>,
    order: VecDeque<Id>,
    stamps: HashMap<String, VecDeque<Value>>,
}

impl Revoked {
    /// Remembers that a task was called off.
    pub(crate) fn add(&self, id: Id) {
        let mut state = self.state();
        if state.ids.insert(id.clone()) {
            state.order.push_back(id);
        }
        if state.order.len() > REMEMBERED
            && let Some(oldest) = state.order.pop_front()
        {
            state.ids.remove(&oldest);
        }
    }

    /// Remembers that all tasks with this stamp were called off.
    pub(crate) fn add_stamp(&self, name: &str, value: Value) {
        let mut state = self.state();
        let values = state.stamps.entry(name.to_owned()).or_default();
        if !values.contains(&value) {
            values.push_back(value);
        }
        if values.len() > REMEMBERED {
            values.pop_front();
        }
    }

    /// Whether a task was called off.
    pub(crate) fn covers(&self, request: &Request) -> bool {
        let state = self.state();
        if state.ids.contains(&request.id) {
            return true;
        }
        let stamps = &request.headers.stamps;
        let names = request.headers.stamped_headers.iter().flatten();
        names.into_iter().any(|name| {
            let (Some(own), Some(revoked)) = (stamps.get(name), state.stamps.get(name)) else {
                return false;
            };
            match own {
                Value::Array(own) => own.iter().any(|value| revoked.contains(value)),
                own => revoked.contains(own),
            }
        })
    }

    /// The ids, those that were called off first first.
    pub(crate) fn ids(&self) -> Vec<Id> {
        self.state().order.iter().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_first() {
        let revoked = Revoked::default();
        for n in 0..=REMEMBERED {
            revoked.add(Id::from(n.to_string()));
        }
        let ids = revoked.ids();
        assert_eq!(ids.len(), REMEMBERED);
        assert_eq!(ids[0], Id::from("1"));
    }
}
