//! Values that Celery pickled before 5.7: as data, or not at all.
//!
//! A pickle is a program. The decoder builds None, booleans, numbers, texts,
//! bytes, lists, tuples, sets and dictionaries; whatever would look up a Python
//! name or call something is an error.

use canvas_core::{Error, MAX_DEPTH, Result};
use serde_json::{Map, Number, Value};
use serde_pickle::{DeOptions, HashableValue, Value as Pickled};

/// What every pickle that Celery wrote begins with: the protocol, 2 or later.
const MARK: u8 = 0x80;

/// Whether a stored value is a pickle. JSON never begins like this.
pub(crate) fn is_pickle(stored: &[u8]) -> bool {
    stored.first() == Some(&MARK)
}

/// Reads a pickle as the JSON that Celery would store for it today.
pub(crate) fn decode(stored: &[u8], what: &str) -> Result<Value> {
    let failed = |reason: String| Error::Encoding {
        action: "decode",
        what: what.to_owned(),
        reason,
    };
    if brackets(stored) > MAX_DEPTH * 64 {
        return Err(failed("a pickle with too many containers".to_owned()));
    }
    let value = serde_pickle::value_from_slice(stored, DeOptions::new()).map_err(|e| {
        failed(format!(
            "it was pickled by Celery before 5.7, and holds more than plain data: {e}"
        ))
    })?;
    plain(value, 0).map_err(failed)
}

/// How many times a pickle could at most open a container: what is nested
/// without bound would not fit on the stack.
fn brackets(stored: &[u8]) -> usize {
    stored
        .iter()
        .filter(|byte| b"](}\x8f".contains(byte))
        .count()
}

fn plain(value: Pickled, depth: usize) -> Result<Value, String> {
    if depth > MAX_DEPTH {
        return Err(format!("nested over {MAX_DEPTH} deep"));
    }
    let all = |items: Vec<Pickled>| -> Result<Value, String> {
        let items = items.into_iter().map(|item| plain(item, depth + 1));
        Ok(Value::Array(items.collect::<Result<_, _>>()?))
    };
    Ok(match value {
        Pickled::None => Value::Null,
        Pickled::Bool(value) => Value::Bool(value),
        Pickled::I64(value) => value.into(),
        // Whatever is left is over 64 bits, or nearly: as JSON is read here.
        Pickled::Int(value) => number(value.to_string().parse().unwrap_or(f64::INFINITY))?,
        Pickled::F64(value) => number(value)?,
        Pickled::Bytes(bytes) => self::bytes(bytes),
        Pickled::String(text) => Value::String(text),
        Pickled::List(items) | Pickled::Tuple(items) => all(items)?,
        Pickled::Set(items) | Pickled::FrozenSet(items) => {
            all(items.into_iter().map(HashableValue::into_value).collect())?
        }
        Pickled::Dict(entries) => {
            let mut map = Map::new();
            for (key, value) in entries {
                map.insert(self::key(key)?, plain(value, depth + 1)?);
            }
            Value::Object(map)
        }
    })
}

fn number(value: f64) -> Result<Value, String> {
    let number = Number::from_f64(value).map(Value::Number);
    number.ok_or_else(|| format!("{value} is no number in JSON"))
}

/// As kombu writes bytes in JSON.
fn bytes(bytes: Vec<u8>) -> Value {
    use base64::Engine;
    match String::from_utf8(bytes) {
        Ok(text) => serde_json::json!({ "__type__": "bytes", "__value__": text }),
        Err(bytes) => {
            let text = base64::engine::general_purpose::STANDARD.encode(bytes.as_bytes());
            serde_json::json!({ "__type__": "base64", "__value__": text })
        }
    }
}

/// As Python's `json` writes the key of a dictionary.
fn key(key: HashableValue) -> Result<String, String> {
    Ok(match key {
        HashableValue::None => "null".to_owned(),
        HashableValue::Bool(value) => value.to_string(),
        HashableValue::I64(value) => value.to_string(),
        HashableValue::Int(value) => value.to_string(),
        HashableValue::F64(value) => number(value)?.to_string(),
        HashableValue::String(text) => text,
        _ => return Err("a dictionary with a key that JSON has not".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(pickle: &[u8]) -> Result<Value> {
        assert!(is_pickle(pickle));
        decode(pickle, "a result")
    }

    #[test]
    fn data_is_read() {
        // pickle.dumps({"a": [1, 2.5, None, True, (2**70,)], 3: b"\xff", "b": "ü"}, 5)
        let pickle = b"\x80\x05\x956\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01G@\
            \x04\x00\x00\x00\x00\x00\x00N\x88\x8a\t\x00\x00\x00\x00\x00\x00\x00\x00@\x85\x94eK\x03\
            C\x01\xff\x94\x8c\x01b\x94\x8c\x02\xc3\xbc\x94u.";
        let value = read(pickle).unwrap();
        assert_eq!(
            value,
            json!({
                "a": [1, 2.5, null, true, [2f64.powi(70)]],
                "3": { "__type__": "base64", "__value__": "/w==" },
                "b": "ü",
            })
        );
    }

    #[test]
    fn code_is_refused() {
        // Would call os.system("true").
        let error = read(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.").unwrap_err();
        assert!(
            error.to_string().contains("more than plain data"),
            "{error}"
        );
        assert!(!is_pickle(b"[1]"));
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| {
            [
                b"\x80\x02".to_vec(),
                b"]".repeat(depth),
                b"a".repeat(depth - 1),
                b".".to_vec(),
            ]
            .concat()
        };
        assert!(read(&nested(100)).is_ok());
        assert!(read(&nested(MAX_DEPTH + 2)).is_err());
        assert!(read(&nested(1_000_000)).is_err());
    }
}
