//! The headers and properties of a task message.

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::Fields;
use crate::id::Id;
use crate::options::{format_time, parse_time, seconds};

/// The headers of a protocol 2 message.
///
/// Reading never fails: a field of the wrong type is noted in
/// [`problem`](Self::problem), so that the worker can refuse the message with
/// whatever else could be read of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Headers {
    /// Who wrote the message. `py`, even here: dashboards expect it.
    pub lang: Cow<'static, str>,
    /// The name of the task. None in a version 1 message, or a malformed one.
    pub task: Option<Arc<str>>,
    /// The id of the task.
    pub id: Option<Id>,
    /// A name to show in place of the task's.
    pub shadow: Option<Box<str>>,
    /// Not to be run before.
    pub eta: Option<DateTime<Utc>>,
    /// Not to be run after.
    pub expires: Option<DateTime<Utc>>,
    /// The group it is a member of.
    pub group: Option<Id>,
    /// Its place in the group.
    pub group_index: Option<u64>,
    /// How often it was tried before.
    pub retries: u32,
    /// Hard limit and soft limit, in seconds.
    pub timelimit: (Option<f64>, Option<f64>),
    /// The first task of the canvas.
    pub root_id: Option<Id>,
    /// The task that sent it.
    pub parent_id: Option<Id>,
    /// The arguments, as Python prints them.
    pub argsrepr: Box<str>,
    /// The keyword arguments, as Python prints them.
    pub kwargsrepr: Box<str>,
    /// The process that sent it.
    pub origin: Arc<str>,
    /// Whether the result is to be dropped; None leaves it to the task.
    pub ignore_result: Option<bool>,
    /// How often the task was replaced.
    pub replaced_task_nesting: u32,
    /// The names of its stamps.
    pub stamped_headers: Option<Vec<String>>,
    /// The stamps.
    pub stamps: Fields,
    /// Headers of the caller's own, at the same level on the wire.
    pub extra: Fields,
    /// What could not be read.
    pub problem: Option<Box<str>>,
}

impl Default for Headers {
    fn default() -> Self {
        Self {
            lang: Cow::Borrowed("py"),
            task: None,
            id: None,
            shadow: None,
            eta: None,
            expires: None,
            group: None,
            group_index: None,
            retries: 0,
            timelimit: (None, None),
            root_id: None,
            parent_id: None,
            argsrepr: "()".into(),
            kwargsrepr: "{}".into(),
            origin: "".into(),
            ignore_result: None,
            replaced_task_nesting: 0,
            stamped_headers: None,
            stamps: Fields::default(),
            extra: Fields::default(),
            problem: None,
        }
    }
}

impl Headers {
    /// Reads the headers of a message. One that calls no task has only fields
    /// of its own, whatever they are called.
    pub fn from_map(mut map: Map<String, Value>) -> Self {
        if !map.contains_key("task") && !map.contains_key("id") {
            return Self {
                lang: Cow::Borrowed(""),
                extra: map.into(),
                ..Self::default()
            };
        }
        let mut reader = Reader {
            map: &mut map,
            problem: None,
        };
        let timelimit = reader.timelimit();
        let mut headers = Self {
            lang: reader.text("lang").map_or(Cow::Borrowed(""), Cow::Owned),
            task: reader.text("task").map(Arc::from),
            id: reader.text("id").map(Id::from),
            shadow: reader.text("shadow").map(Into::into),
            eta: reader.time("eta"),
            expires: reader.time("expires"),
            group: reader.text("group").map(Id::from),
            group_index: reader.number("group_index"),
            retries: reader.count("retries"),
            timelimit,
            root_id: reader.text("root_id").map(Id::from),
            parent_id: reader.text("parent_id").map(Id::from),
            argsrepr: reader.text("argsrepr").unwrap_or_default().into(),
            kwargsrepr: reader.text("kwargsrepr").unwrap_or_default().into(),
            origin: reader.text("origin").unwrap_or_default().into(),
            ignore_result: reader.flag("ignore_result"),
            replaced_task_nesting: reader.count("replaced_task_nesting"),
            stamped_headers: reader.names("stamped_headers"),
            stamps: reader.object("stamps").into(),
            extra: Fields::default(),
            problem: None,
        };
        headers.problem = reader.problem.map(Into::into);
        headers.extra = map.into();
        headers
    }

    /// The headers as Celery writes them, in its order. A message that calls
    /// no task, such as a reply to remote control, has only its own.
    pub fn to_map(&self) -> Map<String, Value> {
        if self.task.is_none() && self.id.is_none() {
            return (*self.extra).clone();
        }
        let text = |id: &Option<Id>| id.as_ref().map(Id::as_str).map(str::to_owned);
        let value = json!({
            "lang": self.lang,
            "task": self.task.as_deref(),
            "id": text(&self.id),
            "shadow": self.shadow.as_deref(),
            "eta": self.eta.map(format_time),
            "expires": self.expires.map(format_time),
            "group": text(&self.group),
            "group_index": self.group_index,
            "retries": self.retries,
            "timelimit": [self.timelimit.0.map(seconds), self.timelimit.1.map(seconds)],
            "root_id": text(&self.root_id),
            "parent_id": text(&self.parent_id),
            "argsrepr": &*self.argsrepr,
            "kwargsrepr": &*self.kwargsrepr,
            "origin": &*self.origin,
            "ignore_result": self.ignore_result,
            "replaced_task_nesting": self.replaced_task_nesting,
            "stamped_headers": self.stamped_headers,
            "stamps": self.stamps,
        });
        let Value::Object(mut map) = value else {
            return Map::new();
        };
        for (key, value) in self.extra.iter() {
            map.insert(key.clone(), value.clone());
        }
        map
    }
}

/// Takes typed fields out of a map and notes the first that has another type.
struct Reader<'a> {
    map: &'a mut Map<String, Value>,
    problem: Option<String>,
}

impl Reader<'_> {
    fn take<T>(&mut self, key: &str, want: &str, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let value = self.map.shift_remove(key).filter(|v| !v.is_null())?;
        let read = read(&value);
        if read.is_none() && self.problem.is_none() {
            let shown = super::repr::value(&value);
            self.problem = Some(format!("header `{key}` must be {want}, not {shown}"));
        }
        read
    }

    fn text(&mut self, key: &str) -> Option<String> {
        self.take(key, "text", |v| v.as_str().map(str::to_owned))
    }

    fn number(&mut self, key: &str) -> Option<u64> {
        self.take(key, "a whole number", Value::as_u64)
    }

    fn count(&mut self, key: &str) -> u32 {
        let read = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        self.take(key, "a small whole number", read).unwrap_or(0)
    }

    fn flag(&mut self, key: &str) -> Option<bool> {
        self.take(key, "true or false", Value::as_bool)
    }

    fn time(&mut self, key: &str) -> Option<DateTime<Utc>> {
        self.take(key, "an ISO 8601 time", parse_time)
    }

    fn object(&mut self, key: &str) -> Map<String, Value> {
        self.take(key, "an object", |v| v.as_object().cloned())
            .unwrap_or_default()
    }

    fn names(&mut self, key: &str) -> Option<Vec<String>> {
        self.take(key, "a list of names", |v| {
            let names = v.as_array()?.iter();
            names.map(|n| n.as_str().map(str::to_owned)).collect()
        })
    }

    fn timelimit(&mut self) -> (Option<f64>, Option<f64>) {
        self.take("timelimit", "a pair of seconds", |v| {
            let pair = v.as_array()?;
            let at = |i: usize| pair.get(i).and_then(Value::as_f64);
            Some((at(0), at(1)))
        })
        .unwrap_or((None, None))
    }
}

/// The properties of a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Properties {
    /// The task id, once more.
    pub correlation_id: Option<Id>,
    /// The queue of the client that wants the result (used by the rpc backend).
    pub reply_to: Option<Id>,
    /// 0 to 9.
    pub priority: Option<u8>,
    /// 2: the message survives a restart of the broker; 1: it need not.
    pub delivery_mode: u8,
    /// `application/json`.
    pub content_type: Cow<'static, str>,
    /// `utf-8`.
    pub content_encoding: Cow<'static, str>,
    /// Milliseconds after which the broker may drop the message.
    pub expiration: Option<u64>,
    /// Properties that are not known here.
    pub extra: Fields,
}

impl Default for Properties {
    fn default() -> Self {
        Self {
            correlation_id: None,
            reply_to: None,
            priority: None,
            delivery_mode: 2,
            content_type: Cow::Borrowed("application/json"),
            content_encoding: Cow::Borrowed("utf-8"),
            expiration: None,
            extra: Fields::default(),
        }
    }
}
