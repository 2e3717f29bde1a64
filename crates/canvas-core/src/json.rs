//! JSON with a depth limit that is ours to choose.
//!
//! `serde_json` refuses text nested more than 127 deep, which a canvas of some
//! thirty levels reaches. Here the limit is [`MAX_DEPTH`], checked before
//! parsing, and the parser's stack grows on demand.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};

/// The deepest nesting of arrays and objects that is read: about 250 canvases
/// inside each other. Anything deeper is refused with an error.
pub const MAX_DEPTH: usize = 1_000;

/// Up to here `serde_json`'s own recursion is safe.
const PLAIN_DEPTH: usize = 120;

/// Runs `f` with room on the stack: for functions that recurse with a canvas.
pub(crate) fn deep<T>(f: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(128 * 1024, 8 * 1024 * 1024, f)
}

/// Parses `text`, which may be nested up to [`MAX_DEPTH`].
///
/// # Errors
/// [`Error::Encoding`] with the parser's reason, naming `what`.
pub fn parse<T: DeserializeOwned>(text: &[u8], what: &str) -> Result<T> {
    let failed = |reason: String| Error::Encoding {
        action: "decode",
        what: what.to_owned(),
        reason,
    };
    let depth = depth(text);
    if depth > MAX_DEPTH {
        return Err(failed(format!(
            "nested {depth} deep; at most {MAX_DEPTH} are read"
        )));
    }
    let mut de = serde_json::Deserializer::from_slice(text);
    let parsed = if depth > PLAIN_DEPTH {
        de.disable_recursion_limit();
        T::deserialize(serde_stacker::Deserializer::new(&mut de))
    } else {
        T::deserialize(&mut de)
    };
    let value = parsed.map_err(|e| failed(e.to_string()))?;
    de.end().map_err(|e| failed(e.to_string()))?;
    Ok(value)
}

/// Writes `value` as JSON, unless [`parse`] would refuse to read it.
///
/// # Errors
/// [`Error::Encoding`] with the reason, naming `what`.
pub fn write<T: serde::Serialize + ?Sized>(value: &T, what: &str) -> Result<Vec<u8>> {
    let failed = |reason: String| Error::Encoding {
        action: "encode",
        what: what.to_owned(),
        reason,
    };
    let mut text = serde_json::to_vec(value).map_err(|e| failed(e.to_string()))?;
    let depth = depth(&text);
    if depth > MAX_DEPTH {
        return Err(failed(format!(
            "nested {depth} deep; at most {MAX_DEPTH} could be read again"
        )));
    }
    // Most of it is kept: by the million, in the in-process broker and backend.
    text.shrink_to_fit();
    Ok(text)
}

/// Whether a value is nested deeper than [`MAX_DEPTH`], found without
/// recursion: writing such a value may not fit on the stack.
pub(crate) fn is_too_deep(value: &Value) -> bool {
    let holds = |value: &Value| matches!(value, Value::Array(_) | Value::Object(_));
    let mut open = vec![(value, usize::from(holds(value)))];
    while let Some((value, depth)) = open.pop() {
        if depth > MAX_DEPTH {
            return true;
        }
        let inner: &mut dyn Iterator<Item = &Value> = match value {
            Value::Array(items) => &mut items.iter(),
            Value::Object(map) => &mut map.values(),
            _ => continue,
        };
        let inner = inner.filter(|value| holds(value));
        open.extend(inner.map(|value| (value, depth + 1)));
    }
    false
}

/// The deepest nesting in `text`, brackets inside strings aside.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut in_string = false;
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => {
                bytes.next();
            }
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> String {
        "[".repeat(depth) + &"]".repeat(depth)
    }

    #[test]
    fn reads_deeper_than_serde_json_and_refuses_deeper_than_the_limit() {
        assert!(serde_json::from_str::<Value>(&nested(200)).is_err());
        assert!(parse::<Value>(nested(MAX_DEPTH).as_bytes(), "x").is_ok());
        let error = parse::<Value>(nested(MAX_DEPTH + 1).as_bytes(), "a body").unwrap_err();
        assert!(error.to_string().contains("nested 1001 deep"), "{error}");
    }

    #[test]
    fn what_could_not_be_read_is_not_written() {
        let value = |depth| (1..depth).fold(Value::Array(vec![]), |v, _| Value::Array(vec![v]));
        assert!(write(&value(MAX_DEPTH), "x").is_ok());
        let error = write(&value(MAX_DEPTH + 1), "a result").unwrap_err();
        let reason = error.to_string();
        assert!(
            reason.contains("encode a result: nested 1001 deep"),
            "{reason}"
        );
        assert!(!is_too_deep(&value(MAX_DEPTH)));
        assert!(is_too_deep(&value(MAX_DEPTH + 1)));
        let mut object = serde_json::Map::new();
        object.insert("in".to_owned(), value(MAX_DEPTH));
        assert!(is_too_deep(&Value::Object(object)));
    }

    #[test]
    fn brackets_in_strings_do_not_count() {
        assert_eq!(depth(br#"["[[[\"[["]"#), 1);
    }
}
