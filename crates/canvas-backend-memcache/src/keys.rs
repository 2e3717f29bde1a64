//! The names of keys: Celery's, and a few of our own beside them.

use canvas_core::Id;
use canvas_core::backend::Part;

/// Names keys.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    prefix: String,
}

impl Keys {
    pub(crate) fn new(prefix: &str) -> Self {
        let gap = match prefix.chars().last() {
            None | Some(':' | '_' | '-' | '.') => "",
            Some(_) => "_",
        };
        Self {
            prefix: format!("{prefix}{gap}"),
        }
    }

    /// The key of a task's state.
    pub(crate) fn result(&self, task: &Id) -> String {
        format!("{}celery-task-meta-{task}", self.prefix)
    }

    /// The key of a group's shape.
    pub(crate) fn group(&self, group: &Id) -> String {
        format!("{}celery-taskset-meta-{group}", self.prefix)
    }

    /// How many members of a chord have arrived, as Celery counts them.
    pub(crate) fn counter(&self, group: &Id) -> String {
        format!("{}chord-unlock-{group}", self.prefix)
    }

    pub(crate) fn kept(&self, key: &Id) -> String {
        format!("{}canvas-ref-{key}", self.prefix)
    }

    /// What all keys of joins begin with, up to the id.
    pub(crate) fn joins(&self) -> String {
        format!("{}canvas-join-", self.prefix)
    }

    /// What is known of a join.
    pub(crate) fn join(&self, join: &Id) -> String {
        format!("{}{join}", self.joins())
    }

    /// The member that arrived as the `place`th since the join was opened with
    /// this `epoch`.
    pub(crate) fn slot(&self, join: &Id, epoch: &str, place: u64) -> String {
        format!("{}|{epoch}|{place}", self.join(join))
    }

    /// From where on a member has its place.
    pub(crate) fn member(&self, join: &Id, epoch: &str, part: &Part) -> String {
        let index = part
            .index
            .map_or_else(String::new, |index| index.to_string());
        format!("{}|{epoch}|m{index}|{}", self.join(join), part.task_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_as_celery_names_them() {
        let keys = Keys::new("");
        assert_eq!(keys.result(&"1".into()), "celery-task-meta-1");
        assert_eq!(keys.group(&"g".into()), "celery-taskset-meta-g");
        assert_eq!(keys.counter(&"g".into()), "chord-unlock-g");
    }

    #[test]
    fn a_prefix_is_set_apart() {
        let result = |prefix| Keys::new(prefix).result(&"1".into());
        assert_eq!(result("shop"), "shop_celery-task-meta-1");
        for prefix in ["shop:", "shop_", "shop-", "shop."] {
            assert_eq!(result(prefix), format!("{prefix}celery-task-meta-1"));
        }
    }
}
