//! What Python does with the values that the tests pass around.

use canvas::{ExceptionInfo, TaskError};
use serde_json::{Value, json};

use super::MODULE;

/// `x + y`, for numbers, texts and lists.
pub(super) fn plus(x: Value, y: Value) -> Result<Value, TaskError> {
    match (x, y) {
        (Value::Number(x), Value::Number(y)) => match (x.as_i64(), y.as_i64()) {
            (Some(x), Some(y)) => Ok(json!(x + y)),
            _ => Ok(json!(
                x.as_f64().unwrap_or_default() + y.as_f64().unwrap_or_default()
            )),
        },
        (Value::String(x), Value::String(y)) => Ok(json!(x + &y)),
        (Value::Array(mut x), Value::Array(y)) => {
            x.extend(y);
            Ok(Value::Array(x))
        }
        (x, y) => Err(type_error(format!(
            "unsupported operand type(s) for +: '{}' and '{}'",
            kind(&x),
            kind(&y)
        ))),
    }
}

/// `sum(values)`.
pub(super) fn sum(values: Value) -> Result<Value, TaskError> {
    let Value::Array(values) = values else {
        return Err(type_error(format!(
            "'{}' object is not iterable",
            kind(&values)
        )));
    };
    values.into_iter().try_fold(json!(0), plus)
}

/// `if value:`.
pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(value) => value.as_f64() != Some(0.0),
        Value::String(value) => !value.is_empty(),
        Value::Array(value) => !value.is_empty(),
        Value::Object(value) => !value.is_empty(),
    }
}

/// `type(value).__name__`.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Number(value) if value.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
    }
}

/// A text as it goes to Redis: texts and bytes as they are, all else as JSON.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        // What kombu makes of bytes.
        Value::Object(object) if object.get("__type__") == Some(&json!("bytes")) => {
            text(&object["__value__"])
        }
        other => other.to_string(),
    }
}

pub(super) fn type_error(text: impl Into<String>) -> TaskError {
    TaskError::failed(ExceptionInfo::builtin("TypeError", text))
}

/// An exception of the tests' own module, with these arguments.
pub(super) fn own_error(kind: &str, args: Vec<Value>) -> ExceptionInfo {
    let mut exception = ExceptionInfo::new(MODULE, kind, "");
    exception.exc_message = args;
    exception
}
