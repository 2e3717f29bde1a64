//! The names of kombu's keys and channels.

use std::sync::Arc;

use crate::config::RedisBrokerConfig;

/// kombu's separator inside keys and members.
pub(crate) const SEP: &str = "\x06\x16";

/// Makes the names of keys and channels.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    prefix: String,
    steps: Arc<[u8]>,
    /// `<prefix>/<db>.`
    fanout: String,
    /// The messages that are out, by tag.
    pub(crate) unacked: String,
    /// When they were delivered, by tag.
    pub(crate) index: String,
}

impl Layout {
    pub(crate) fn new(config: &RedisBrokerConfig, db: i64) -> Self {
        let prefix = config.global_keyprefix.clone();
        Self {
            steps: config.priority_steps.clone().into(),
            fanout: format!("{prefix}/{db}."),
            unacked: format!("{prefix}unacked"),
            index: format!("{prefix}unacked_index"),
            prefix,
        }
    }

    /// How many lists a queue has.
    pub(crate) fn steps(&self) -> usize {
        self.steps.len()
    }

    /// The largest step that is not above a priority, as its place.
    pub(crate) fn step(&self, priority: u8) -> usize {
        let above = self.steps.partition_point(|step| *step <= priority);
        above.saturating_sub(1)
    }

    /// The list of a queue for a step, given as its place.
    pub(crate) fn list(&self, queue: &str, step: usize) -> String {
        match self.steps.get(step) {
            None | Some(0) => format!("{}{queue}", self.prefix),
            Some(step) => format!("{}{queue}{SEP}{step}", self.prefix),
        }
    }

    /// All lists of a queue, the most urgent first.
    pub(crate) fn lists(&self, queue: &str) -> Vec<String> {
        (0..self.steps())
            .map(|step| self.list(queue, step))
            .collect()
    }

    /// All lists of several queues: for each step, the most urgent first, those
    /// of all queues in their order.
    pub(crate) fn lists_of(&self, queues: &[Arc<str>]) -> Vec<String> {
        let steps = 0..self.steps();
        let lists = steps.flat_map(|step| queues.iter().map(move |queue| self.list(queue, step)));
        lists.collect()
    }

    /// The set of queues that are bound to an exchange.
    pub(crate) fn bindings(&self, exchange: &str) -> String {
        format!("{}_kombu.binding.{exchange}", self.prefix)
    }

    /// Those of them that do not expire: kombu keeps an exchange that has any.
    pub(crate) fn permanent(&self, exchange: &str) -> String {
        format!("{}_kombu.binding_permanent.{exchange}", self.prefix)
    }

    /// The dead letters of a queue. Ours: kombu keeps none.
    pub(crate) fn dead(&self, queue: &str) -> String {
        format!("{}canvas.dead.{queue}", self.prefix)
    }

    /// The channel of a broadcast.
    pub(crate) fn channel(&self, exchange: &str, routing_key: &str) -> String {
        if routing_key.is_empty() {
            format!("{}{exchange}", self.fanout)
        } else {
            format!("{}{exchange}/{routing_key}", self.fanout)
        }
    }

    /// The patterns that match all channels of an exchange.
    pub(crate) fn patterns(&self, exchange: &str) -> [String; 2] {
        let exact = escape(&format!("{}{exchange}", self.fanout));
        let keyed = format!("{exact}/*");
        [exact, keyed]
    }

    /// The exchange and the routing key of a channel.
    pub(crate) fn read_channel<'a>(&self, channel: &'a str) -> Option<(&'a str, &'a str)> {
        let rest = channel.strip_prefix(&self.fanout)?;
        Some(rest.split_once('/').unwrap_or((rest, "")))
    }
}

/// The member that binds a queue to the exchange and the routing key of its
/// own name, as Celery declares its queues.
pub(crate) fn own_binding(queue: &str) -> String {
    format!("{queue}{SEP}{SEP}{queue}")
}

/// A pattern that matches this text and nothing else.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(prefix: &str) -> Layout {
        let config = RedisBrokerConfig {
            global_keyprefix: prefix.to_owned(),
            ..RedisBrokerConfig::default()
        };
        Layout::new(&config, 3)
    }

    #[test]
    fn names_are_kombus() {
        let layout = layout("");
        assert_eq!(
            layout.lists("celery"),
            [
                "celery",
                "celery\x06\x163",
                "celery\x06\x166",
                "celery\x06\x169"
            ]
        );
        assert_eq!(layout.bindings("celery"), "_kombu.binding.celery");
        assert_eq!(own_binding("celery"), "celery\x06\x16\x06\x16celery");
        assert_eq!(layout.channel("celery.pidbox", ""), "/3.celery.pidbox");
        assert_eq!(
            layout.channel("celeryev", "worker.online"),
            "/3.celeryev/worker.online"
        );
        assert_eq!(
            layout.read_channel("/3.celery.pidbox"),
            Some(("celery.pidbox", ""))
        );
        assert_eq!(
            layout.read_channel("/3.celeryev/a.b"),
            Some(("celeryev", "a.b"))
        );
        assert_eq!(layout.read_channel("/0.celeryev/a.b"), None);
    }

    #[test]
    fn every_name_has_the_prefix() {
        let layout = layout("{app}:");
        let mut names = layout.lists("q");
        names.extend([
            layout.unacked.clone(),
            layout.index.clone(),
            layout.dead("q"),
        ]);
        names.extend([
            layout.bindings("x"),
            layout.permanent("x"),
            layout.channel("x", "y"),
        ]);
        assert!(
            names.iter().all(|name| name.starts_with("{app}:")),
            "{names:?}"
        );
    }

    #[test]
    fn a_priority_goes_to_the_largest_step_that_is_not_above_it() {
        let layout = layout("");
        let steps: Vec<usize> = (0..=10).map(|priority| layout.step(priority)).collect();
        assert_eq!(steps, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3]);
    }

    #[test]
    fn a_pattern_matches_only_its_exchange() {
        assert_eq!(
            layout("p[").patterns("a*b"),
            ["p\\[/3.a\\*b", "p\\[/3.a\\*b/*"]
        );
    }
}
