//! The headers and properties of a task message.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

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

/// The names of the headers, in Celery's order.
const NAMES: [&str; 19] = [
    "lang",
    "task",
    "id",
    "shadow",
    "eta",
    "expires",
    "group",
    "group_index",
    "retries",
    "timelimit",
    "root_id",
    "parent_id",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "ignore_result",
    "replaced_task_nesting",
    "stamped_headers",
    "stamps",
];

impl Headers {
    /// Reads the headers of a message. One that calls no task has only fields
    /// of its own, whatever they are called.
    pub fn from_map(map: Map<String, Value>) -> Self {
        // What is an object is never refused.
        Self::deserialize(Value::Object(map)).unwrap_or_default()
    }

    /// The headers as Celery writes them, in its order. A message that calls
    /// no task, such as a reply to remote control, has only its own.
    pub fn to_map(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        }
    }
}

impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let calls_a_task = self.task.is_some() || self.id.is_some();
        // A header of the caller's own may take the place of one of these.
        if calls_a_task && self.extra.keys().any(|key| NAMES.contains(&&**key)) {
            let mut map = Self {
                extra: Fields::default(),
                ..self.clone()
            }
            .to_map();
            map.extend((*self.extra).clone());
            return map.serialize(serializer);
        }
        let mut map = serializer.serialize_map(None)?;
        if calls_a_task {
            let (hard, soft) = self.timelimit;
            map.serialize_entry("lang", &self.lang)?;
            map.serialize_entry("task", &self.task.as_deref())?;
            map.serialize_entry("id", &self.id)?;
            map.serialize_entry("shadow", &self.shadow.as_deref())?;
            map.serialize_entry("eta", &self.eta.map(format_time))?;
            map.serialize_entry("expires", &self.expires.map(format_time))?;
            map.serialize_entry("group", &self.group)?;
            map.serialize_entry("group_index", &self.group_index)?;
            map.serialize_entry("retries", &self.retries)?;
            map.serialize_entry("timelimit", &[hard.map(seconds), soft.map(seconds)])?;
            map.serialize_entry("root_id", &self.root_id)?;
            map.serialize_entry("parent_id", &self.parent_id)?;
            map.serialize_entry("argsrepr", &*self.argsrepr)?;
            map.serialize_entry("kwargsrepr", &*self.kwargsrepr)?;
            map.serialize_entry("origin", &*self.origin)?;
            map.serialize_entry("ignore_result", &self.ignore_result)?;
            map.serialize_entry("replaced_task_nesting", &self.replaced_task_nesting)?;
            map.serialize_entry("stamped_headers", &self.stamped_headers)?;
            map.serialize_entry("stamps", &self.stamps)?;
        }
        for (key, value) in self.extra.iter() {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsMap;

        impl<'de> Visitor<'de> for AsMap {
            type Value = Headers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut reader = Reader::default();
                let mut extra = Map::new();
                // Most often they come in order.
                let mut next = 0;
                while let Some(Text(key)) = map.next_key()? {
                    let place = match NAMES.get(next) {
                        Some(name) if *name == key => Some(next),
                        _ => NAMES.iter().position(|name| *name == key),
                    };
                    if let Some(place) = place {
                        reader.known[place] = Some(map.next_value()?);
                        next = place + 1;
                    } else {
                        extra.insert(key.into_owned(), map.next_value()?);
                    }
                }
                Ok(reader.finish(extra))
            }
        }

        deserializer.deserialize_map(AsMap)
    }
}

/// Text that needs no copy where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The value of a header, of whatever type.
enum Field<'a> {
    Text(Cow<'a, str>),
    Other(Value),
}

impl<'de> Deserialize<'de> for Field<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Field<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Field<'de>, E> {
                Ok(Field::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Field<'de>, E> {
                Ok(Field::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_string<E>(self, text: String) -> Result<Field<'de>, E> {
                Ok(Field::Text(Cow::Owned(text)))
            }

            fn visit_unit<E>(self) -> Result<Field<'de>, E> {
                Ok(Field::Other(Value::Null))
            }

            fn visit_bool<E>(self, flag: bool) -> Result<Field<'de>, E> {
                Ok(Field::Other(flag.into()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Field<'de>, E> {
                Ok(Field::Other(number.into()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Field<'de>, E> {
                Ok(Field::Other(number.into()))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Field<'de>, E> {
                Ok(Field::Other(number.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Field<'de>, A::Error> {
                Value::deserialize(SeqAccessDeserializer::new(items)).map(Field::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Field<'de>, A::Error> {
                Value::deserialize(MapAccessDeserializer::new(map)).map(Field::Other)
            }
        }

        deserializer.deserialize_any(Any)
    }
}

impl From<Field<'_>> for Value {
    fn from(field: Field<'_>) -> Self {
        match field {
            Field::Text(text) => Self::String(text.into_owned()),
            Field::Other(value) => value,
        }
    }
}

/// Gives the fields their types and notes the first that has another one.
#[derive(Default)]
struct Reader<'a> {
    /// In the order of [`NAMES`].
    known: [Option<Field<'a>>; NAMES.len()],
    problem: Option<String>,
}

impl Reader<'_> {
    fn finish(mut self, mut extra: Map<String, Value>) -> Headers {
        let [_, task, id, ..] = &self.known;
        if task.is_none() && id.is_none() {
            for (name, field) in NAMES.iter().zip(self.known) {
                extra.extend(field.map(|field| ((*name).to_owned(), field.into())));
            }
            return Headers {
                lang: Cow::Borrowed(""),
                extra: extra.into(),
                ..Headers::default()
            };
        }
        let timelimit = self.timelimit();
        let lang = match self.text("lang") {
            Some(lang) if lang == "py" => Cow::Borrowed("py"),
            lang => Cow::Owned(lang.unwrap_or_default().into_owned()),
        };
        let mut headers = Headers {
            lang,
            task: self.text("task").map(Arc::from),
            id: self.id("id"),
            shadow: self.text("shadow").map(Into::into),
            eta: self.time("eta"),
            expires: self.time("expires"),
            group: self.id("group"),
            group_index: self.number("group_index"),
            retries: self.count("retries"),
            timelimit,
            root_id: self.id("root_id"),
            parent_id: self.id("parent_id"),
            argsrepr: self.text("argsrepr").unwrap_or_default().into(),
            kwargsrepr: self.text("kwargsrepr").unwrap_or_default().into(),
            origin: self.text("origin").unwrap_or_default().into(),
            ignore_result: self.flag("ignore_result"),
            replaced_task_nesting: self.count("replaced_task_nesting"),
            stamped_headers: self.names("stamped_headers"),
            stamps: self.object("stamps").into(),
            extra: extra.into(),
            problem: None,
        };
        headers.problem = self.problem.map(Into::into);
        headers
    }
}

impl<'a> Reader<'a> {
    fn field(&mut self, key: &str) -> Option<Field<'a>> {
        let place = NAMES.iter().position(|name| *name == key)?;
        let field = self.known[place].take()?;
        Some(field).filter(|field| !matches!(field, Field::Other(Value::Null)))
    }

    fn note(&mut self, key: &str, want: &str, value: &Value) {
        if self.problem.is_none() {
            let shown = super::repr::value(value);
            self.problem = Some(format!("header `{key}` must be {want}, not {shown}"));
        }
    }

    fn take<T>(
        &mut self,
        key: &str,
        want: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.field(key)?.into();
        let read = read(&value);
        if read.is_none() {
            self.note(key, want, &value);
        }
        read
    }

    fn text(&mut self, key: &str) -> Option<Cow<'a, str>> {
        match self.field(key)? {
            Field::Text(text) => Some(text),
            Field::Other(value) => {
                self.note(key, "text", &value);
                None
            }
        }
    }

    fn id(&mut self, key: &str) -> Option<Id> {
        self.text(key).map(|text| Id::from(&*text))
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
