//! Settings, under the names that Celery gives them.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::broker::Destination;
use crate::error::{Error, Result};
use crate::options::Options;

/// The settings of an application. Celery's names and, but for those named in
/// the docs, Celery's defaults:
/// <https://docs.celeryq.dev/en/stable/userguide/configuration.html>
///
/// ```
/// let config: canvas_core::Config = "task_default_queue = 'mail'\nresult_expires = 3600".parse()?;
/// assert_eq!(config.task_default_queue, "mail");
/// # Ok::<(), canvas_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// Where messages go. `memory://` by default.
    pub broker_url: String,
    /// Where results go. `memory://` by default.
    pub result_backend: String,
    /// The queue of tasks that no route sends elsewhere.
    pub task_default_queue: String,
    /// The first pattern that fits a task's name decides its queue.
    pub task_routes: Vec<Route>,
    /// The priority of tasks that have none.
    pub task_default_priority: Option<u8>,
    /// Whether a task that is sent by a task has its priority, unless told.
    pub task_inherit_parent_priority: bool,
    /// Whether messages are acknowledged after their task, so that a task
    /// whose worker died is run again. On, unlike in Celery.
    pub task_acks_late: bool,
    /// Whether STARTED is stored.
    pub task_track_started: bool,
    /// Whether no task stores its result, unless told.
    pub task_ignore_result: bool,
    /// Whether errors are stored even where results are not.
    pub task_store_errors_even_if_ignored: bool,
    /// Whether the error callbacks of a chord's body also go to its header.
    pub task_allow_error_cb_on_chord_header: bool,
    /// How often a message may be delivered before it is put aside as one that
    /// kills its workers. 0 for no limit.
    pub task_delivery_limit: u32,
    /// How long results, joins and kept continuations live.
    #[serde(with = "seconds")]
    pub result_expires: Duration,
    /// Whether the name, arguments, worker, retries and queue are stored with
    /// the result.
    pub result_extended: bool,
    /// Whether results that are sent and not kept (`rpc://`) survive a restart
    /// of the broker. On, unlike in Celery.
    pub result_persistent: bool,
    /// How many tasks a worker runs at a time; None for one a core.
    pub worker_concurrency: Option<usize>,
    /// How many messages a worker takes for each task that it can run.
    pub worker_prefetch_multiplier: usize,
    /// Whether a redelivered task that has succeeded is not run again; what
    /// follows it is sent from the stored result. On, unlike in Celery.
    pub worker_deduplicate_successful_tasks: bool,
    /// After how long an unsettled message is delivered again. Workers renew
    /// it, so it need not be longer than a task.
    #[serde(with = "seconds")]
    pub visibility_timeout: Duration,
    /// The size in bytes above which what follows a task is kept in the
    /// backend and named in its message, instead of copied into it. None, the
    /// default except on `memory://`, copies as Celery does.
    pub continuation_reference_size: Option<usize>,
    /// Whether what a run leaves is made in one step, where the broker and the
    /// backend are one server that can do that. On.
    pub commit_together: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            broker_url: "memory://".to_owned(),
            result_backend: "memory://".to_owned(),
            task_default_queue: "celery".to_owned(),
            task_routes: Vec::new(),
            task_default_priority: None,
            task_inherit_parent_priority: false,
            task_acks_late: true,
            task_track_started: false,
            task_ignore_result: false,
            task_store_errors_even_if_ignored: false,
            task_allow_error_cb_on_chord_header: false,
            task_delivery_limit: 20,
            result_expires: Duration::from_secs(86_400),
            result_extended: false,
            result_persistent: true,
            worker_concurrency: None,
            worker_prefetch_multiplier: 4,
            worker_deduplicate_successful_tasks: true,
            visibility_timeout: Duration::from_secs(30),
            continuation_reference_size: None,
            commit_together: true,
        }
    }
}

/// A rule that sends tasks to a queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// A glob over task names, such as `mail.*`.
    pub task: String,
    /// The queue.
    pub queue: String,
    /// The priority of what goes there.
    #[serde(default)]
    pub priority: Option<u8>,
}

impl Config {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// [`Error::Config`], naming the file and the setting.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed = |reason: String| Error::Config(format!("{}: {reason}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        toml::from_str(&text).map_err(|e| failed(e.to_string()))
    }

    /// Overrides settings with environment variables: `CANVAS_BROKER_URL`,
    /// `CANVAS_RESULT_EXPIRES` and so on, each a TOML value; text needs no
    /// quotes.
    ///
    /// # Errors
    /// [`Error::Config`], naming the variable.
    pub fn with_env(self) -> Result<Self> {
        let vars = std::env::vars().filter_map(|(name, value)| {
            let key = name.strip_prefix("CANVAS_")?.to_ascii_lowercase();
            Some((key, value))
        });
        self.with_vars(vars)
    }

    fn with_vars(self, vars: impl Iterator<Item = (String, String)>) -> Result<Self> {
        let failed = |e: String| Error::Config(format!("environment: {e}"));
        let mut table = toml::Table::try_from(&self).map_err(|e| failed(e.to_string()))?;
        let known = toml::Table::try_from(Self {
            // So that the optional settings show up as keys.
            task_default_priority: Some(0),
            worker_concurrency: Some(0),
            continuation_reference_size: Some(0),
            ..Self::default()
        })
        .map_err(|e| failed(e.to_string()))?;
        for (key, value) in vars {
            // Other programs' variables may begin alike.
            if known.contains_key(&key) {
                let is_text = matches!(known.get(&key), Some(toml::Value::String(_)));
                let parsed = value
                    .parse::<toml::Value>()
                    .ok()
                    .filter(|parsed| !is_text || parsed.is_str())
                    .unwrap_or(toml::Value::String(value));
                table.insert(key, parsed);
            }
        }
        table.try_into().map_err(|e| failed(e.to_string()))
    }

    /// Where a call goes: its own exchange, routing key or queue, else the
    /// first route that fits, else the task's own queue, else the default.
    pub(crate) fn destination(
        &self,
        task: &str,
        options: &Options,
        task_queue: Option<&str>,
    ) -> Destination {
        if let Some(exchange) = options.get("exchange").and_then(|v| v.as_str())
            && !exchange.is_empty()
        {
            return Destination {
                exchange: exchange.into(),
                routing_key: options.routing_key().unwrap_or_default().into(),
            };
        }
        let asked = options.queue().or(options.routing_key());
        let queue = asked
            .or_else(|| self.route(task).map(|route| route.queue.as_str()))
            .or(task_queue)
            .unwrap_or(&self.task_default_queue);
        Destination::queue(queue)
    }

    /// The first route that fits a task.
    pub(crate) fn route(&self, task: &str) -> Option<&Route> {
        self.task_routes.iter().find(|route| {
            glob::Pattern::new(&route.task).is_ok_and(|pattern| pattern.matches(task))
        })
    }
}

impl std::str::FromStr for Config {
    type Err = Error;

    /// Reads TOML.
    fn from_str(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e| Error::Config(e.to_string()))
    }
}

/// Durations as numbers of seconds, as Celery's settings have them.
mod seconds {
    use super::*;

    pub(super) fn serialize<S: serde::Serializer>(
        value: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_secs_f64().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(de: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(de)?;
        Duration::try_from_secs_f64(seconds)
            .map_err(|e| serde::de::Error::custom(format!("{seconds} seconds: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_by_option_then_glob_then_task_then_default() {
        let config: Config = r#"
            task_routes = [{ task = "mail.*", queue = "mail" }]
        "#
        .parse()
        .unwrap();
        let none = Options::new();
        let mut asked = Options::new();
        asked.set("queue", "urgent");
        let queue = |task, options, own| config.destination(task, options, own).routing_key;
        assert_eq!(&*queue("mail.send", &asked, None), "urgent");
        assert_eq!(&*queue("mail.send", &none, Some("own")), "mail");
        assert_eq!(&*queue("add", &none, Some("own")), "own");
        assert_eq!(&*queue("add", &none, None), "celery");
    }

    #[test]
    fn the_environment_overrides_the_file_and_a_wrong_value_is_named() {
        let config: Config = "result_expires = 60".parse().unwrap();
        let set = |k: &str, v: &str| [(k.to_owned(), v.to_owned())].into_iter();
        let config = config.with_vars(set("task_default_queue", "q1")).unwrap();
        assert_eq!(config.task_default_queue, "q1");
        assert_eq!(config.result_expires, Duration::from_secs(60));
        let config = config.with_vars(set("worker_concurrency", "8")).unwrap();
        assert_eq!(config.worker_concurrency, Some(8));
        let error = config
            .with_vars(set("task_acks_late", "perhaps"))
            .unwrap_err();
        assert!(error.to_string().contains("task_acks_late"), "{error}");
        assert!("no_such_setting = 1".parse::<Config>().is_err());
    }
}
