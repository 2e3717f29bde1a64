//! The signature: a call that can be stored, sent, composed and run later.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::de::Error as _;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::id::Id;
use crate::json::deep;
use crate::options::{Options, datetime, malformed, seconds};

/// Keyword arguments, in the order in which they were given.
pub type Kwargs = Map<String, Value>;

/// A call that has not happened yet: a task's name, its arguments and its
/// options. It may also be a whole canvas, told by its [`Shape`].
///
/// A signature is plain data. It serialises to the dictionary that Celery 5.7
/// writes and reads what Celery writes; keys it does not know are kept.
/// Two signatures are equal when they say the same.
///
/// Celery: <https://docs.celeryq.dev/en/stable/userguide/canvas.html#signatures>
///
/// ```
/// use canvas_core::Signature;
///
/// let add = Signature::new("tasks.add").arg(2).arg(2);
/// let sum = add | Signature::new("tasks.mul").arg(10);
/// assert_eq!(sum.to_string(), "tasks.add(2, 2) | tasks.mul(10)");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Signature {
    /// The name of the task.
    pub task: String,
    /// Positional arguments. Those that arrive at run time go before them.
    pub args: Vec<Value>,
    /// Keyword arguments. Those that arrive at run time override them.
    pub kwargs: Kwargs,
    /// Where and when to run, and what follows.
    pub options: Options,
    /// What kind of canvas this is: Celery's `subtask_type` and, for the
    /// built-in kinds, the parts.
    pub shape: Shape,
    /// Whether arguments that arrive at run time are left out.
    pub immutable: bool,
    /// The size of a chord's header, where an older Celery wrote it.
    pub chord_size: Option<u64>,
    /// Keys of the dictionary that this library does not know.
    pub extra: Map<String, Value>,
}

/// What kind of canvas a signature is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Shape {
    /// One task. Celery's map and starmap are this too: one task runs the
    /// whole of them.
    Task,
    /// Steps, each given the result of the one before.
    Chain(Vec<Signature>),
    /// Members that run side by side.
    Group(Vec<Signature>),
    /// A group whose results feed a body.
    Chord(Box<ChordParts>),
    /// A primitive registered by the application, under this `subtask_type`.
    Custom(String),
}

/// The parts of a chord.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChordParts {
    /// The header: a group.
    pub header: Signature,
    /// How the dictionary shows the header.
    pub header_form: HeaderForm,
    /// What gets the results.
    pub body: Option<Signature>,
    /// Keyword arguments for the header's tasks.
    pub kwargs: Kwargs,
}

/// How a chord's dictionary shows its header.
#[derive(Debug, Clone, Copy, Default)]
pub enum HeaderForm {
    /// As the list of its members: what `chord([a, b], …)` was given.
    #[default]
    List,
    /// As a list too, but it was a group before something followed it.
    /// The dictionary does not tell, so the two forms are equal.
    Upgraded,
    /// As a group: one that has an id or options of its own.
    Group,
}

impl HeaderForm {
    /// Whether it is shown as a list.
    pub fn is_list(self) -> bool {
        !matches!(self, Self::Group)
    }
}

impl PartialEq for HeaderForm {
    fn eq(&self, other: &Self) -> bool {
        self.is_list() == other.is_list()
    }
}

impl Eq for HeaderForm {}

impl std::hash::Hash for HeaderForm {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.is_list().hash(state);
    }
}

impl Signature {
    /// A signature of the task called `task`, without arguments.
    pub fn new(task: impl Into<String>) -> Self {
        Self::shaped(task, Shape::Task)
    }

    pub(crate) fn shaped(task: impl Into<String>, shape: Shape) -> Self {
        Self {
            task: task.into(),
            args: Vec::new(),
            kwargs: Kwargs::new(),
            options: Options::new(),
            shape,
            immutable: false,
            chord_size: None,
            extra: Map::new(),
        }
    }

    /// Appends a positional argument.
    #[must_use]
    pub fn arg(mut self, value: impl Into<Value>) -> Self {
        self.args.push(value.into());
        self
    }

    /// Appends positional arguments.
    #[must_use]
    pub fn args<V: Into<Value>>(mut self, values: impl IntoIterator<Item = V>) -> Self {
        self.args.extend(values.into_iter().map(Into::into));
        self
    }

    /// Sets a keyword argument.
    #[must_use]
    pub fn kwarg(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.kwargs.insert(key.into(), value.into());
        self
    }

    /// Makes the signature take nothing from the task before it (Celery's
    /// `si`). For a group this means each member, for a chord its header.
    #[must_use]
    pub fn immutable(mut self) -> Self {
        self.set_immutable(true);
        self
    }

    /// Sets or clears immutability in place.
    pub fn set_immutable(&mut self, immutable: bool) {
        match &mut self.shape {
            Shape::Group(tasks) => tasks.iter_mut().for_each(|t| t.set_immutable(immutable)),
            Shape::Chord(parts) => parts.header.set_immutable(immutable),
            _ => self.immutable = immutable,
        }
    }

    /// Sets any option, known or not.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.options.set(key, value);
        self
    }

    /// Sends it to this queue.
    #[must_use]
    pub fn queue(self, name: &str) -> Self {
        self.set("queue", name)
    }

    /// Gives it a priority, 0 to 9. Which end is urgent depends on the broker,
    /// as in Celery: 0 on Redis and in memory, 9 on RabbitMQ.
    #[must_use]
    pub fn priority(self, priority: u8) -> Self {
        self.set("priority", priority)
    }

    /// Runs it no sooner than this long after it is sent.
    #[must_use]
    pub fn countdown(self, delay: Duration) -> Self {
        self.set("countdown", seconds(delay.as_secs_f64()))
    }

    /// Runs it no sooner than at this moment.
    #[must_use]
    pub fn eta(self, at: DateTime<Utc>) -> Self {
        self.set("eta", datetime(at))
    }

    /// Drops it, as REVOKED, if it has not started this long after it is sent.
    #[must_use]
    pub fn expires_in(self, after: Duration) -> Self {
        self.set("expires", seconds(after.as_secs_f64()))
    }

    /// Ends the task after this long, whatever it is doing.
    #[must_use]
    pub fn time_limit(self, limit: Duration) -> Self {
        self.set("time_limit", seconds(limit.as_secs_f64()))
    }

    /// Tells the task after this long that its time is up.
    #[must_use]
    pub fn soft_time_limit(self, limit: Duration) -> Self {
        self.set("soft_time_limit", seconds(limit.as_secs_f64()))
    }

    /// Says whether the result is to be dropped instead of stored.
    #[must_use]
    pub fn ignore_result(self, ignore: bool) -> Self {
        self.set("ignore_result", ignore)
    }

    /// Adds a header that the task can read in its request.
    #[must_use]
    pub fn header(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.options.set_header(key, value.into());
        self
    }

    /// Gives the task this id instead of a fresh one.
    #[must_use]
    pub fn task_id(self, id: impl Into<Id>) -> Self {
        let id = id.into();
        self.set("task_id", id.as_str())
    }

    /// The id that the task has, once frozen.
    pub fn id(&self) -> Option<Id> {
        self.options.task_id()
    }

    /// Celery's `subtask_type`.
    pub fn subtask_type(&self) -> Option<&str> {
        match &self.shape {
            Shape::Task => None,
            Shape::Chain(_) => Some("chain"),
            Shape::Group(_) => Some("group"),
            Shape::Chord(_) => Some("chord"),
            Shape::Custom(name) => Some(name),
        }
    }

    /// Celery's `_merge`: arguments that arrive are put before the own ones,
    /// keyword arguments and options that arrive override the own ones. An
    /// immutable signature takes the options only, unless `force` is set.
    pub fn merge(&mut self, args: &[Value], kwargs: &Kwargs, options: &Options, force: bool) {
        self.options.merge(options);
        if self.immutable && !force {
            return;
        }
        if !args.is_empty() {
            self.args.splice(0..0, args.iter().cloned());
        }
        for (key, value) in kwargs {
            self.kwargs.insert(key.clone(), value.clone());
        }
    }

    /// A copy with these arguments merged in: Celery's `clone`, and `partial`.
    #[must_use]
    pub fn clone_with(&self, args: &[Value], kwargs: &Kwargs, options: &Options) -> Self {
        let mut clone = self.clone();
        clone.merge(args, kwargs, options, false);
        clone
    }

    /// A copy with parts substituted, not merged: Celery's `replace`.
    #[must_use]
    pub fn replace(
        &self,
        args: Option<Vec<Value>>,
        kwargs: Option<Kwargs>,
        options: Option<Options>,
    ) -> Self {
        let mut clone = self.clone();
        if let Some(args) = args {
            clone.args = args;
        }
        if let Some(kwargs) = kwargs {
            clone.kwargs = kwargs;
        }
        if let Some(options) = options {
            clone.options = options;
        }
        clone
    }

    /// Calls `callback` with the result once this has succeeded.
    ///
    /// On a group it goes to the first member, immutable, and on a chord to
    /// the body, as in Celery. To act on all of a group's results, use a chord.
    #[must_use]
    pub fn link(mut self, callback: impl Into<Signature>) -> Self {
        self.add_link(callback.into());
        self
    }

    /// [`link`](Self::link), in place.
    pub fn add_link(&mut self, callback: Signature) {
        match &mut self.shape {
            Shape::Group(tasks) if !tasks.is_empty() => {
                tasks[0].add_link(callback.immutable());
            }
            Shape::Chord(parts) if parts.body.is_some() => {
                if let Some(body) = &mut parts.body {
                    body.add_link(callback);
                }
            }
            _ => self.options.append_unique("link", callback.to_value()),
        }
    }

    /// Calls `errback` if this fails.
    ///
    /// On a group it goes to each member; on a chord to the body, and to the
    /// chords in its header. A task that takes `(request, exception, traceback)`
    /// is given these; any other gets the id of the task that failed.
    #[must_use]
    pub fn link_error(mut self, errback: impl Into<Signature>) -> Self {
        self.add_link_error(errback.into());
        self
    }

    /// The same as [`link_error`](Self::link_error): Celery's name for the
    /// form that chains.
    #[must_use]
    pub fn on_error(self, errback: impl Into<Signature>) -> Self {
        self.link_error(errback)
    }

    /// [`link_error`](Self::link_error), in place.
    pub fn add_link_error(&mut self, errback: Signature) {
        match &mut self.shape {
            Shape::Group(tasks) if !tasks.is_empty() => {
                for task in tasks {
                    task.add_link_error(errback.clone());
                }
            }
            Shape::Chord(parts) if parts.body.is_some() => {
                if let Shape::Group(tasks) = &mut parts.header.shape {
                    let nested = |t: &&mut Signature| matches!(t.shape, Shape::Chord(_));
                    for task in tasks.iter_mut().filter(nested) {
                        task.add_link_error(errback.clone());
                    }
                }
                if let Some(body) = &mut parts.body {
                    body.add_link_error(errback);
                }
            }
            _ => self.options.append_unique("link_error", errback.to_value()),
        }
    }

    /// This signature and all callbacks below it, depth first.
    ///
    /// # Errors
    /// [`Error::MalformedSignature`] if a stored callback is no signature.
    pub fn flatten_links(&self) -> Result<Vec<Signature>> {
        let mut all = vec![self.clone()];
        for link in self.options.links()? {
            all.extend(deep(|| link.flatten_links())?);
        }
        Ok(all)
    }

    /// The dictionary, as a JSON value.
    pub fn to_value(&self) -> Value {
        // Every part of a signature is JSON already, so this cannot fail.
        deep(|| serde_json::to_value(self)).unwrap_or_default()
    }

    /// Reads the dictionary.
    ///
    /// # Errors
    /// [`Error::MalformedSignature`] that names the field.
    pub fn from_value(value: Value) -> Result<Self> {
        let Value::Object(mut map) = value else {
            return Err(malformed(format!(
                "a signature is an object, not {}",
                crate::protocol::repr::value(&value)
            )));
        };
        crate::protocol::reference::complete(&mut map);
        let Some(Value::String(task)) = map.shift_remove("task") else {
            return Err(malformed("`task` must be the name of a task"));
        };
        let field = |what: &str| malformed(format!("{what} of `{task}`"));
        let args = match map.shift_remove("args") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(field("`args` must be a list, as those")),
        };
        let mut object = |key: &str| match map.shift_remove(key) {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map),
            Some(_) => Err(field(&format!("`{key}` must be an object, as those"))),
        };
        let mut kwargs = object("kwargs")?;
        let options = Options::from(object("options")?);
        let immutable = map
            .shift_remove("immutable")
            .and_then(|v| v.as_bool())
            .unwrap_or(false);
        let chord_size = map.shift_remove("chord_size").and_then(|v| v.as_u64());
        let shape = match map.shift_remove("subtask_type") {
            None | Some(Value::Null) => Shape::Task,
            Some(Value::String(name)) => Shape::take(&name, &mut kwargs)?,
            Some(_) => return Err(field("`subtask_type` must be text or null, as that")),
        };
        Ok(Self {
            task,
            args,
            kwargs,
            options,
            shape,
            immutable,
            chord_size,
            extra: map,
        })
    }

    /// Reads the dictionary from JSON text.
    ///
    /// # Errors
    /// [`Error::Encoding`] if it is no JSON, [`Error::MalformedSignature`] if
    /// it is no signature.
    pub fn from_json(text: &[u8]) -> Result<Self> {
        Self::from_value(crate::json::parse(text, "a signature")?)
    }
}

impl Shape {
    /// Takes the parts of the shape called `name` out of `kwargs`.
    fn take(name: &str, kwargs: &mut Kwargs) -> Result<Self> {
        let list = |value: Option<Value>| -> Result<Vec<Signature>> {
            match value {
                None | Some(Value::Null) => Ok(Vec::new()),
                Some(Value::Array(items)) => items
                    .into_iter()
                    .map(|item| deep(|| Signature::from_value(item)))
                    .collect(),
                Some(_) => Err(malformed("the tasks of a canvas must be a list")),
            }
        };
        Ok(match name {
            "chain" => Self::Chain(list(kwargs.shift_remove("tasks"))?),
            "group" => Self::Group(list(kwargs.shift_remove("tasks"))?),
            "chord" => {
                let (header, header_form) = match kwargs.shift_remove("header") {
                    Some(object @ Value::Object(_)) => {
                        let one = deep(|| Signature::from_value(object))?;
                        (as_header(one), HeaderForm::Group)
                    }
                    other => (group_of(list(other)?), HeaderForm::List),
                };
                let body = match kwargs.shift_remove("body") {
                    None | Some(Value::Null) => None,
                    Some(body) => Some(deep(|| Signature::from_value(body))?),
                };
                let inner = match kwargs.shift_remove("kwargs") {
                    Some(Value::Object(map)) => map,
                    _ => Map::new(),
                };
                Self::Chord(Box::new(ChordParts {
                    header,
                    header_form,
                    body,
                    kwargs: inner,
                }))
            }
            other => Self::Custom(other.to_owned()),
        })
    }
}

fn group_of(tasks: Vec<Signature>) -> Signature {
    Signature::shaped("celery.group", Shape::Group(tasks))
}

/// What Celery accepts as a chord's header, as a group: a chain is taken
/// apart, its steps run side by side (`_maybe_group`).
pub(crate) fn as_header(signature: Signature) -> Signature {
    match signature.shape {
        Shape::Group(_) => signature,
        Shape::Chain(tasks) => group_of(tasks),
        _ => group_of(vec![signature]),
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let serializer = match crate::protocol::reference::write(self, serializer) {
            Ok(written) => return written,
            Err(serializer) => serializer,
        };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("task", &self.task)?;
        map.serialize_entry("args", &self.args)?;
        map.serialize_entry("kwargs", &KwargsOf(self))?;
        map.serialize_entry("options", &self.options)?;
        map.serialize_entry("subtask_type", &self.subtask_type())?;
        map.serialize_entry("immutable", &self.immutable)?;
        if let Some(size) = self.chord_size {
            map.serialize_entry("chord_size", &size)?;
        }
        for (key, value) in &self.extra {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// Serialises `kwargs` with the parts of the shape put back in.
struct KwargsOf<'a>(&'a Signature);

impl Serialize for KwargsOf<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match &self.0.shape {
            Shape::Task | Shape::Custom(_) => {}
            Shape::Chain(tasks) | Shape::Group(tasks) => map.serialize_entry("tasks", tasks)?,
            Shape::Chord(parts) => {
                map.serialize_entry("kwargs", &parts.kwargs)?;
                match (&parts.header.shape, parts.header_form.is_list()) {
                    (Shape::Group(tasks), true) => map.serialize_entry("header", tasks)?,
                    _ => map.serialize_entry("header", &parts.header)?,
                }
                map.serialize_entry("body", &parts.body)?;
            }
        }
        for (key, value) in &self.0.kwargs {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Self::from_value(Value::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl TryFrom<Value> for Signature {
    type Error = Error;

    fn try_from(value: Value) -> Result<Self> {
        Self::from_value(value)
    }
}

impl From<Signature> for Value {
    fn from(signature: Signature) -> Self {
        signature.to_value()
    }
}

/// An argument as Python shows it; a signature as a canvas.
fn shown(value: &Value) -> String {
    let is_signature = value.get("task").is_some() && value.get("subtask_type").is_some();
    if is_signature && let Ok(signature) = Signature::from_value(value.clone()) {
        return deep(|| signature.to_string());
    }
    crate::protocol::repr::value(value)
}

impl std::fmt::Display for Signature {
    /// Much as Celery's `repr`: `add(2, 2) | mul(4)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |f: &mut std::fmt::Formatter<'_>, tasks: &[Signature], sep: &str| {
            for (i, task) in tasks.iter().enumerate() {
                if i > 0 {
                    f.write_str(sep)?;
                }
                write!(f, "{task}")?;
            }
            Ok(())
        };
        match &self.shape {
            Shape::Chain(tasks) if tasks.is_empty() => f.write_str("chain()"),
            Shape::Chain(tasks) => list(f, tasks, " | "),
            Shape::Group(tasks) => {
                f.write_str("group(")?;
                list(f, tasks, ", ")?;
                f.write_str(")")
            }
            Shape::Chord(parts) => {
                f.write_str("chord([")?;
                if let Shape::Group(tasks) = &parts.header.shape {
                    list(f, tasks, ", ")?;
                }
                f.write_str("], ")?;
                match &parts.body {
                    Some(body) => write!(f, "{body})"),
                    None => f.write_str("no body)"),
                }
            }
            Shape::Task | Shape::Custom(_) => {
                write!(f, "{}(", self.task)?;
                let mut first = true;
                let mut sep = |f: &mut std::fmt::Formatter<'_>| {
                    let sep = if std::mem::take(&mut first) { "" } else { ", " };
                    f.write_str(sep)
                };
                for value in &self.args {
                    sep(f)?;
                    f.write_str(&shown(value))?;
                }
                for (key, value) in &self.kwargs {
                    sep(f)?;
                    write!(f, "{key}={}", shown(value))?;
                }
                f.write_str(")")
            }
        }
    }
}
