//! Python's `repr` of JSON values.

use std::fmt::Write;

use serde_json::{Map, Value};

/// Longer texts end in `...`.
const MAX: usize = 1024;

/// `repr` of a tuple of arguments: `(1, 'a')`, `(1,)`, `()`.
pub(crate) fn args(values: &[Value]) -> String {
    let mut out = String::from("(");
    for (i, value) in values.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        write(&mut out, value);
        if out.len() > MAX {
            break;
        }
    }
    if values.len() == 1 {
        out.push(',');
    }
    out.push(')');
    truncated(out)
}

/// Python's `repr` of a value, cut off where it gets long: `{'x': [1, None]}`.
pub fn value(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value);
    truncated(out)
}

fn truncated(mut text: String) -> String {
    if text.len() > MAX {
        let mut end = MAX - 3;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
    text
}

fn write(out: &mut String, value: &Value) {
    if out.len() > MAX {
        return;
    }
    match value {
        Value::Null => out.push_str("None"),
        Value::Bool(true) => out.push_str("True"),
        Value::Bool(false) => out.push_str("False"),
        Value::Number(n) => match n.as_f64() {
            Some(float) if n.is_f64() => write_float(out, float),
            _ => {
                let _ = write!(out, "{n}");
            }
        },
        Value::String(text) => write_str(out, text),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write(out, item);
                if out.len() > MAX {
                    return;
                }
            }
            out.push(']');
        }
        Value::Object(map) => write_map(out, map),
    }
}

fn write_map(out: &mut String, map: &Map<String, Value>) {
    out.push('{');
    for (i, (key, item)) in map.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        write_str(out, key);
        out.push_str(": ");
        write(out, item);
        if out.len() > MAX {
            return;
        }
    }
    out.push('}');
}

/// Rust shows the same digits as Python, but `1e16` where Python has `1e+16`.
fn write_float(out: &mut String, float: f64) {
    let shown = format!("{float:?}");
    let _ = match shown.split_once('e') {
        Some((digits, power)) => {
            let (sign, power) = match power.strip_prefix('-') {
                Some(power) => ('-', power),
                None => ('+', power),
            };
            write!(out, "{digits}e{sign}{power:0>2}")
        }
        None => write!(out, "{shown}"),
    };
}

fn write_str(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for c in text.chars().take(MAX + 1) {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_as_python_prints_it() {
        assert_eq!(args(&[json!(2), json!("it's")]), r#"(2, "it's")"#);
        assert_eq!(args(&[json!(null)]), "(None,)");
        assert_eq!(args(&[]), "()");
        assert_eq!(value(&json!({"a": [true, 1.5]})), "{'a': [True, 1.5]}");
        assert_eq!(args(&[json!(1e16), json!(-1.5e-7)]), "(1e+16, -1.5e-07)");
        assert_eq!(args(&[json!("x".repeat(5000))]).len(), MAX);
    }
}
