//! Which results are to come to this process.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use canvas_core::Id;

/// The tasks that were sent from here and have not ended, as far as is known.
#[derive(Debug)]
pub(crate) struct Expected {
    state: Mutex<State>,
    /// How long one is remembered; `None` for ever.
    remembered: Option<Duration>,
}

#[derive(Debug, Default)]
struct State {
    tasks: HashMap<Id, Task>,
    /// In the order in which they came. One that was renewed stands here twice.
    order: VecDeque<(Instant, Id)>,
}

#[derive(Debug)]
struct Task {
    since: Instant,
    /// Whether its result may have been lost, and nobody was told.
    in_doubt: bool,
}

impl Expected {
    pub(crate) fn new(remembered: Option<Duration>) -> Self {
        Self {
            state: Mutex::default(),
            remembered,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Expects the results of tasks. One that is expected already is
    /// remembered for longer.
    pub(crate) fn add<'a>(&self, ids: impl IntoIterator<Item = &'a Id>) {
        self.add_at(Instant::now(), ids);
    }

    fn add_at<'a>(&self, since: Instant, ids: impl IntoIterator<Item = &'a Id>) {
        let mut state = self.state();
        if let Some(remembered) = self.remembered {
            state.forget_before(since.checked_sub(remembered));
        }
        for id in ids {
            if let Some(task) = state.tasks.get_mut(id) {
                task.since = since;
            } else {
                let task = Task {
                    since,
                    in_doubt: false,
                };
                state.tasks.insert(id.clone(), task);
            }
            if self.remembered.is_some() {
                state.order.push_back((since, id.clone()));
            }
        }
    }

    /// Expects nothing more of these.
    pub(crate) fn remove<'a>(&self, ids: impl IntoIterator<Item = &'a Id>) {
        let mut state = self.state();
        for id in ids {
            state.tasks.remove(id);
        }
    }

    pub(crate) fn contains(&self, id: &Id) -> bool {
        self.state().tasks.contains_key(id)
    }

    /// Says that results which have not come may have been lost.
    pub(crate) fn doubt(&self) {
        for task in self.state().tasks.values_mut() {
            task.in_doubt = true;
        }
    }

    /// Whether the result of one of these may have been lost. Whoever asks is
    /// to tell it, as the next one is told no more: it may come all the same.
    pub(crate) fn take_doubt<'a>(&self, ids: impl IntoIterator<Item = &'a Id>) -> bool {
        let mut state = self.state();
        let mut any = false;
        for id in ids {
            if let Some(task) = state.tasks.get_mut(id) {
                any |= std::mem::take(&mut task.in_doubt);
            }
        }
        any
    }
}

impl State {
    fn forget_before(&mut self, limit: Option<Instant>) {
        let Some(limit) = limit else { return };
        while let Some((since, _)) = self.order.front()
            && *since <= limit
            && let Some((since, id)) = self.order.pop_front()
        {
            if self.tasks.get(&id).is_some_and(|task| task.since <= since) {
                self.tasks.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_is_remembered_for_its_time_and_longer_if_asked_for() {
        let expected = Expected::new(Some(Duration::from_secs(50)));
        let (old, renewed, new) = ("old".into(), "renewed".into(), "new".into());
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        expected.add_at(start, [&old, &renewed]);
        expected.add_at(later(40), [&renewed]);
        expected.add_at(later(60), [&new]);
        let known = [&old, &renewed, &new].map(|id| expected.contains(id));
        assert_eq!(known, [false, true, true]);
        assert_eq!(expected.state().order.len(), 2);
    }

    #[test]
    fn a_doubt_is_told_once() {
        let expected = Expected::new(None);
        let (one, two) = ("1".into(), "2".into());
        expected.add([&one]);
        expected.doubt();
        expected.add([&two]);
        assert!(!expected.take_doubt([&two]));
        assert!(expected.take_doubt([&one, &two]));
        assert!(!expected.take_doubt([&one]));
        assert!(expected.contains(&one));
    }
}
