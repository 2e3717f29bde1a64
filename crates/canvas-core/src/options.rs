//! Execution options of a signature.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::id::Id;
use crate::signature::Signature;

/// The options of a signature: where and when it is to run, what follows it,
/// and, once it is frozen, its ids.
///
/// They are Celery's dictionary as it stands, so an option that this library
/// does not know is kept and sent on. The methods give the known ones their
/// types. Celery's list: `Task.apply_async`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Options(Map<String, Value>);

impl Options {
    /// No options.
    pub fn new() -> Self {
        Self::default()
    }

    /// The option called `key`; an explicit null counts as unset, as in Celery.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Sets an option.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    /// Sets an option unless it is set already.
    pub fn set_default(&mut self, key: &str, value: impl Into<Value>) {
        if self.get(key).is_none() {
            self.set(key, value);
        }
    }

    /// Takes an option out.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        // `remove` would move the last entry up; the order is worth keeping.
        self.0.shift_remove(key).filter(|value| !value.is_null())
    }

    /// Whether there are no options.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The dictionary itself.
    pub fn as_map(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Celery's merge: `newer` overrides, except for the options that must not
    /// change once set (`group_id`, `stamped_headers` and the stamps they name).
    pub fn merge(&mut self, newer: &Options) {
        if newer.is_empty() {
            return;
        }
        let stamps = self.stamped_headers();
        for (key, value) in &newer.0 {
            let kept =
                key == "group_id" || key == "stamped_headers" || stamps.iter().any(|s| s == key);
            if !(kept && self.0.contains_key(key)) {
                self.0.insert(key.clone(), value.clone());
            }
        }
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }

    fn id(&self, key: &str) -> Option<Id> {
        self.text(key).map(Id::from)
    }

    /// The id that the task will have, once the signature is frozen.
    pub fn task_id(&self) -> Option<Id> {
        self.id("task_id")
    }

    /// The group that the task is a member of.
    pub fn group_id(&self) -> Option<Id> {
        self.id("group_id")
    }

    /// The queue of whoever wants the result, where results are sent there.
    pub fn reply_to(&self) -> Option<Id> {
        self.id("reply_to")
    }

    /// The place in that group.
    pub fn group_index(&self) -> Option<u64> {
        self.get("group_index").and_then(Value::as_u64)
    }

    /// The first task of the canvas.
    pub fn root_id(&self) -> Option<Id> {
        self.id("root_id")
    }

    /// The task that sent this one.
    pub fn parent_id(&self) -> Option<Id> {
        self.id("parent_id")
    }

    /// The queue asked for.
    pub fn queue(&self) -> Option<&str> {
        self.text("queue")
    }

    /// The routing key asked for.
    pub fn routing_key(&self) -> Option<&str> {
        self.text("routing_key")
    }

    /// The priority, 0 to 9.
    pub fn priority(&self) -> Option<u8> {
        self.get("priority")
            .and_then(Value::as_u64)
            .and_then(|p| u8::try_from(p).ok())
    }

    /// A delay before the task may run.
    pub fn countdown(&self) -> Option<Duration> {
        self.seconds("countdown")
    }

    /// The moment before which the task must not run.
    pub fn eta(&self) -> Option<DateTime<Utc>> {
        self.get("eta").and_then(parse_time)
    }

    /// The moment after which the task must not run, with `expires` given in
    /// seconds taken from `now`.
    pub fn expires(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self.get("expires")? {
            Value::Number(n) => {
                let seconds = n.as_f64()?;
                Some(now + chrono::Duration::milliseconds((seconds * 1000.0) as i64))
            }
            other => parse_time(other),
        }
    }

    /// Hard time limit.
    pub fn time_limit(&self) -> Option<Duration> {
        self.seconds("time_limit")
    }

    /// Soft time limit.
    pub fn soft_time_limit(&self) -> Option<Duration> {
        self.seconds("soft_time_limit")
    }

    fn seconds(&self, key: &str) -> Option<Duration> {
        let seconds = self.get(key).and_then(Value::as_f64)?;
        Duration::try_from_secs_f64(seconds.max(0.0)).ok()
    }

    /// How often it counts as tried already.
    pub(crate) fn retries(&self) -> u32 {
        let retries = self.get("retries").and_then(Value::as_u64);
        retries.and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
    }

    /// 1 for a message that need not survive a restart of the broker, else 2.
    pub(crate) fn delivery_mode(&self) -> u8 {
        let mode = self.get("delivery_mode");
        let is_transient = mode.is_some_and(|mode| mode == "transient" || mode == 1);
        if is_transient { 1 } else { 2 }
    }

    /// Whether the result is not wanted, where the call says so.
    pub fn ignore_result(&self) -> Option<bool> {
        self.get("ignore_result").and_then(Value::as_bool)
    }

    /// Headers of the caller's own.
    pub fn headers(&self) -> Option<&Map<String, Value>> {
        self.get("headers").and_then(Value::as_object)
    }

    /// Sets a header of the caller's own.
    pub fn set_header(&mut self, key: &str, value: Value) {
        let mut headers = self.headers().cloned().unwrap_or_default();
        headers.insert(key.to_owned(), value);
        self.set("headers", headers);
    }

    /// The names of the options that are stamps.
    pub fn stamped_headers(&self) -> Vec<String> {
        let names = self.get("stamped_headers").and_then(Value::as_array);
        names
            .into_iter()
            .flatten()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect()
    }

    /// The callbacks.
    ///
    /// # Errors
    /// [`Error::MalformedSignature`] if one is no signature.
    pub fn links(&self) -> Result<Vec<Signature>> {
        self.signatures("link")
    }

    /// The error callbacks.
    ///
    /// # Errors
    /// [`Error::MalformedSignature`] if one is no signature.
    pub fn error_links(&self) -> Result<Vec<Signature>> {
        self.signatures("link_error")
    }

    /// A list of signatures; Celery also accepts a bare one.
    fn signatures(&self, key: &str) -> Result<Vec<Signature>> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| Signature::from_value(item.clone()))
                .collect(),
            Some(one) => Ok(vec![Signature::from_value(one.clone())?]),
        }
    }

    /// Appends to a list option unless an equal entry is there already.
    pub(crate) fn append_unique(&mut self, key: &str, value: Value) {
        let mut list = match self.remove(key) {
            None => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(one) => vec![one],
        };
        if !list.contains(&value) {
            list.push(value);
        }
        self.set(key, list);
    }
}

impl From<Map<String, Value>> for Options {
    fn from(map: Map<String, Value>) -> Self {
        Self(map)
    }
}

impl<'a> Extend<(&'a str, Value)> for Options {
    fn extend<T: IntoIterator<Item = (&'a str, Value)>>(&mut self, iter: T) {
        for (key, value) in iter {
            self.set(key, value);
        }
    }
}

/// A time as Celery writes it: ISO 8601 with an offset, and with microseconds
/// unless there are none.
pub fn format_time(time: DateTime<Utc>) -> String {
    let precision = if time.timestamp_subsec_micros() == 0 {
        SecondsFormat::Secs
    } else {
        SecondsFormat::Micros
    };
    time.to_rfc3339_opts(precision, false)
}

/// A time as kombu puts a Python `datetime` into JSON, which gives it back as
/// one.
pub(crate) fn datetime(time: DateTime<Utc>) -> Value {
    json!({ "__type__": "datetime", "__value__": format_time(time) })
}

/// A number of seconds as Python would write it: whole ones without a fraction.
pub(crate) fn seconds(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        Value::from(value as i64)
    } else {
        Value::from(value)
    }
}

/// A time as Celery or kombu writes it: ISO 8601 with or without an offset
/// (UTC is meant then), bare or wrapped by kombu's JSON encoder.
pub fn parse_time(value: &Value) -> Option<DateTime<Utc>> {
    let text = match value {
        Value::String(text) => text,
        Value::Object(map) if map.get("__type__")? == "datetime" => {
            map.get("__value__")?.as_str()?
        }
        _ => return None,
    };
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.with_timezone(&Utc));
    }
    let naive = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").ok()?;
    Some(naive.and_utc())
}

pub(crate) fn malformed(reason: impl Into<String>) -> Error {
    Error::MalformedSignature(reason.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_overrides_all_but_the_group_and_the_stamps() {
        let mut own = Options::new();
        own.extend([
            ("group_id", json!("g")),
            ("stamped_headers", json!(["user"])),
            ("user", json!("ann")),
            ("queue", json!("a")),
        ]);
        let mut newer = Options::new();
        newer.extend([
            ("group_id", json!("other")),
            ("user", json!("bob")),
            ("queue", json!("b")),
        ]);
        own.merge(&newer);
        assert_eq!(own.group_id(), Some(Id::from("g")));
        assert_eq!(own.get("user"), Some(&json!("ann")));
        assert_eq!(own.queue(), Some("b"));
    }

    #[test]
    fn times_are_read_in_every_form_celery_writes() {
        let want = "2026-11-24T06:21:18.239414+00:00";
        for form in [
            json!(want),
            json!("2026-11-24T06:21:18.239414"),
            json!("2026-11-24T07:21:18.239414+01:00"),
            json!({"__type__": "datetime", "__value__": want}),
        ] {
            assert_eq!(format_time(parse_time(&form).unwrap()), want, "{form}");
        }
        let whole = "2026-11-24T06:21:18+00:00";
        assert_eq!(format_time(parse_time(&json!(whole)).unwrap()), whole);
    }
}
