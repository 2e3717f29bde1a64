//! The error of a task, as Celery's JSON results carry it.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::protocol::repr;

/// An exception in Celery's stored form: a type name, its arguments and the
/// Python module that the type comes from.
///
/// A Python reader looks the type up in that module and raises it, or makes up
/// a class of that name. See `celery.backends.base.Backend.prepare_exception`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ExceptionInfo {
    /// The class name, such as `ValueError`.
    pub exc_type: String,
    /// The arguments of the exception: usually one message.
    #[serde(deserialize_with = "args")]
    pub exc_message: Vec<Value>,
    /// The module of the class, such as `builtins`.
    #[serde(default)]
    pub exc_module: String,
}

/// Older writers store a bare string where newer ones store a list.
fn args<'de, D: serde::Deserializer<'de>>(de: D) -> Result<Vec<Value>, D::Error> {
    Ok(match Value::deserialize(de)? {
        Value::Array(items) => items,
        other => vec![other],
    })
}

impl ExceptionInfo {
    /// An exception of any type and module.
    pub fn new(
        module: impl Into<String>,
        exc_type: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            exc_type: exc_type.into(),
            exc_message: vec![Value::String(message.into())],
            exc_module: module.into(),
        }
    }

    /// One of Python's built-in exceptions, such as `ValueError`.
    pub fn builtin(exc_type: &str, message: impl Into<String>) -> Self {
        Self::new("builtins", exc_type, message)
    }

    /// One of `celery.exceptions`, such as `ChordError`.
    pub fn celery(exc_type: &str, message: impl Into<String>) -> Self {
        Self::new("celery.exceptions", exc_type, message)
    }

    /// Reads the `result` field of a failed task; anything unreadable becomes
    /// an exception that says so.
    pub fn from_result(result: &Value) -> Self {
        serde_json::from_value(result.clone())
            .unwrap_or_else(|_| Self::builtin("Exception", result.to_string()))
    }

    /// The `result` field of a failed task.
    pub fn to_value(&self) -> Value {
        serde_json::json!({
            "exc_type": self.exc_type,
            "exc_message": self.exc_message,
            "exc_module": self.exc_module,
        })
    }

    /// The first argument as text: what a person wants to read.
    pub fn message(&self) -> String {
        match self.exc_message.as_slice() {
            [] => String::new(),
            [Value::String(text)] => text.clone(),
            [one] => repr::value(one),
            many => repr::args(many),
        }
    }

    /// As Python's `repr` shows it: `ValueError('no', 42)`.
    pub fn repr(&self) -> String {
        let args: Vec<String> = self.exc_message.iter().map(repr::value).collect();
        format!("{}({})", self.exc_type, args.join(", "))
    }

    /// The error of a chord whose header lost a member.
    pub(crate) fn chord(member: &str, cause: &Self) -> Self {
        // A chord in a chord quotes its own cause already. Escaping the quotes
        // again at each level would double the backslashes, until the cause is
        // cut off.
        let shown = match cause.exc_message.as_slice() {
            [Value::String(text)] if cause.exc_type == "ChordError" => {
                format!("ChordError(\"{text}\")")
            }
            _ => cause.repr(),
        };
        Self::celery("ChordError", format!("Dependency {member} raised {shown}"))
    }
}

impl fmt::Display for ExceptionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = self.message();
        if message.is_empty() {
            f.write_str(&self.exc_type)
        } else {
            write!(f, "{}: {message}", self.exc_type)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_celery_stores_and_shows_it_as_python_does() {
        let stored = serde_json::json!({
            "exc_type": "ValueError", "exc_message": ["deliberate", 42], "exc_module": "builtins"
        });
        let exception = ExceptionInfo::from_result(&stored);
        assert_eq!(exception.repr(), "ValueError('deliberate', 42)");
        assert_eq!(exception.to_value(), stored);
        let old = serde_json::json!({"exc_type": "KeyError", "exc_message": "k"});
        assert_eq!(ExceptionInfo::from_result(&old).to_string(), "KeyError: k");
    }

    #[test]
    fn the_cause_is_named_however_many_chords_it_passes() {
        let cause = ExceptionInfo::builtin("ValueError", "no");
        let inner = ExceptionInfo::chord("a", &cause);
        assert_eq!(inner.message(), "Dependency a raised ValueError('no')");
        let outer = ExceptionInfo::chord("b", &inner);
        let want = "Dependency b raised ChordError(\"Dependency a raised ValueError('no')\")";
        assert_eq!(outer.message(), want);
        let outermost = (0..200).fold(cause, |cause, _| ExceptionInfo::chord("m", &cause));
        assert!(outermost.message().contains("ValueError('no')"));
    }
}
