//! The names of keys: Celery's, and a few of our own beside them.

use canvas_core::Id;

/// Names keys.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    result: String,
    group: String,
    kept: String,
}

/// The keys of a join. Those up to the claim are Celery 5.7's.
#[derive(Debug, Clone)]
pub(crate) struct JoinKeys {
    /// The members that have arrived: sorted by place, `[1, id, state, result]`.
    pub(crate) parts: String,
    /// By how many the join has grown.
    pub(crate) growth: String,
    /// How many members were expected when it was opened.
    pub(crate) size: String,
    /// Who has arrived: `id:place`.
    pub(crate) arrived: String,
    /// Who sends the body, until when; `done` once it is sent.
    pub(crate) claim: String,
    /// The saved shape of the header.
    pub(crate) group: String,
    /// How many successes are enough, and how many there are.
    pub(crate) quorum: String,
    /// How often the join was claimed.
    pub(crate) claims: String,
    /// Who has made it grow.
    pub(crate) grown: String,
    /// Which member waits for the size to be told, until when.
    pub(crate) waits: String,
}

impl JoinKeys {
    /// Those that are the join's alone: all but the shape of the header.
    pub(crate) fn own(self) -> [String; 9] {
        [
            self.parts,
            self.growth,
            self.size,
            self.arrived,
            self.claim,
            self.quorum,
            self.claims,
            self.grown,
            self.waits,
        ]
    }
}

impl Keys {
    pub(crate) fn new(prefix: &str) -> Self {
        let gap = match prefix.chars().last() {
            None | Some(':' | '_' | '-' | '.') => "",
            Some(_) => "_",
        };
        Self {
            result: format!("{prefix}{gap}celery-task-meta-"),
            group: format!("{prefix}{gap}celery-taskset-meta-"),
            kept: format!("{prefix}{gap}canvas-ref-"),
        }
    }

    /// The key of a task's state, which is also the channel that it is
    /// published on.
    pub(crate) fn result(&self, task: &Id) -> String {
        format!("{}{task}", self.result)
    }

    /// What the keys of states begin with.
    pub(crate) fn results(&self) -> &str {
        &self.result
    }

    /// The task whose state is published on a channel.
    pub(crate) fn task(&self, channel: &[u8]) -> Option<Id> {
        let channel = std::str::from_utf8(channel).ok()?;
        Some(channel.strip_prefix(&self.result)?.into())
    }

    pub(crate) fn group(&self, group: &Id) -> String {
        format!("{}{group}", self.group)
    }

    pub(crate) fn kept(&self, key: &Id) -> String {
        format!("{}{key}", self.kept)
    }

    pub(crate) fn join(&self, group: &Id) -> JoinKeys {
        let group = self.group(group);
        let key = |name: &str| format!("{group}.{name}");
        JoinKeys {
            parts: key("j"),
            growth: key("t"),
            size: key("s"),
            arrived: key("d"),
            claim: key("c"),
            quorum: key("q"),
            claims: key("n"),
            grown: key("g"),
            waits: key("w"),
            group,
        }
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
        assert_eq!(keys.join(&"g".into()).parts, "celery-taskset-meta-g.j");
        assert_eq!(keys.task(b"celery-task-meta-1"), Some("1".into()));
        assert_eq!(keys.task(b"other-1"), None);
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
