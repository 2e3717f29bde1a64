//! kombu's envelope: a message as JSON text in a list.

use std::borrow::Cow;
use std::fmt;
use std::io::Read;
use std::marker::PhantomData;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use canvas_core::Id;
use canvas_core::broker::Destination;
use canvas_core::protocol::{Fields, Headers, Message, Properties};
use flate2::read::ZlibDecoder;
use serde::de::value::MapAccessDeserializer;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::record::DELIVERIES;

/// The name that kombu has for zlib.
const ZLIB: &str = "application/x-gzip";

/// The largest body that is unpacked: a small message can hold an endless one.
const UNPACKED: u64 = 256 * 1024 * 1024;

/// Writes a message as kombu does, key for key.
pub(crate) fn encode(message: &Message, to: &Destination) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Envelope { message, to })
}

struct Envelope<'a> {
    message: &'a Message,
    to: &'a Destination,
}

impl Serialize for Envelope<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Message {
            headers,
            properties,
            body,
        } = self.message;
        let mut map = serializer.serialize_map(Some(5))?;
        map.serialize_entry("body", &STANDARD.encode(body))?;
        map.serialize_entry("content-encoding", &properties.content_encoding)?;
        map.serialize_entry("content-type", &properties.content_type)?;
        map.serialize_entry("headers", headers)?;
        map.serialize_entry("properties", &Wire(properties, self.to))?;
        map.end()
    }
}

struct Wire<'a>(&'a Properties, &'a Destination);

impl Serialize for Wire<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(properties, to) = self;
        let mut map = serializer.serialize_map(None)?;
        if let Some(id) = &properties.correlation_id {
            map.serialize_entry("correlation_id", id)?;
        }
        let reply_to = properties.reply_to.as_ref().map_or("", Id::as_str);
        map.serialize_entry("reply_to", reply_to)?;
        for (key, value) in properties.extra.iter() {
            map.serialize_entry(key, value)?;
        }
        map.serialize_entry("delivery_mode", &properties.delivery_mode)?;
        if let Some(expiration) = properties.expiration {
            map.serialize_entry("expiration", &expiration.to_string())?;
        }
        map.serialize_entry("delivery_info", &Info(to))?;
        map.serialize_entry("priority", &properties.priority.unwrap_or(0))?;
        map.serialize_entry("body_encoding", "base64")?;
        let mut buffer = Uuid::encode_buffer();
        let tag = Uuid::new_v4().hyphenated();
        map.serialize_entry("delivery_tag", &*tag.encode_lower(&mut buffer))?;
        map.end()
    }
}

struct Info<'a>(&'a Destination);

impl Serialize for Info<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("exchange", &*self.0.exchange)?;
        map.serialize_entry("routing_key", &*self.0.routing_key)?;
        map.end()
    }
}

/// An envelope, read.
#[derive(Debug, PartialEq)]
pub(crate) struct Opened {
    pub(crate) message: Message,
    /// Whether it was out before.
    pub(crate) redelivered: bool,
    /// How often it was out before, as far as it was counted.
    pub(crate) deliveries: u32,
}

/// The parts of an envelope, each of whatever type.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Parts<'a> {
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
    #[serde(default)]
    content_encoding: Value,
    #[serde(default)]
    content_type: Value,
    #[serde(default)]
    headers: Object<Headers>,
    #[serde(default)]
    properties: Value,
}

/// An object, unless it is something else.
#[derive(Default)]
enum Object<T> {
    There(T),
    #[default]
    Absent,
    Other,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Any<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object::There)
            }

            fn visit_unit<E>(self) -> Result<Object<T>, E> {
                Ok(Object::Absent)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Object<T>, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Object::Other)
            }

            fn visit_str<E>(self, _: &str) -> Result<Object<T>, E> {
                Ok(Object::Other)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Object<T>, E> {
                Ok(Object::Other)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Object<T>, E> {
                Ok(Object::Other)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Object<T>, E> {
                Ok(Object::Other)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Object<T>, E> {
                Ok(Object::Other)
            }
        }

        deserializer.deserialize_any(Any(PhantomData))
    }
}

/// Text that needs no copy where it has no escapes.
#[derive(Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// Reads an envelope. What is wrong with it is told by
/// [`Headers::problem`], so that a worker refuses it with whatever could be
/// read; the body is then the text that could not be read.
pub(crate) fn open(raw: &[u8]) -> Opened {
    // serde would take an array for the parts in order.
    let is_array = raw.trim_ascii_start().first() == Some(&b'[');
    let parts = match serde_json::from_slice::<Parts<'_>>(raw) {
        Ok(_) if is_array => Err("it is an array".to_owned()),
        parts => parts.map_err(|error| error.to_string()),
    };
    match parts {
        Ok(parts) => read(parts),
        Err(error) => Opened {
            message: Message {
                headers: Headers {
                    problem: Some(format!("the envelope cannot be read: {error}").into()),
                    ..Headers::default()
                },
                properties: Properties::default(),
                body: Bytes::copy_from_slice(raw),
            },
            redelivered: false,
            deliveries: 0,
        },
    }
}

fn read(parts: Parts<'_>) -> Opened {
    let mut reader = Reader::default();
    let mut headers = reader.take("headers", parts.headers);
    let mut properties = reader.object("properties", parts.properties);
    let info = properties.shift_remove("delivery_info");
    let info = reader.object("properties.delivery_info", info.unwrap_or_default());
    let is_set = |value: Option<Value>| value == Some(Value::Bool(true));
    let redelivered = is_set(remove(&mut headers.extra, "redelivered"))
        | is_set(info.get("redelivered").cloned());
    let deliveries = info.get(DELIVERIES).and_then(Value::as_u64).unwrap_or(0);
    let encoding = reader.text(
        "properties.body_encoding",
        properties.shift_remove("body_encoding"),
    );
    properties.shift_remove("delivery_tag");
    let mut body = reader.body(parts.body, encoding.as_deref());
    if headers.extra.get("compression").and_then(Value::as_str) == Some(ZLIB) {
        remove(&mut headers.extra, "compression");
        match unpack(&body) {
            Ok(unpacked) => body = unpacked.into(),
            Err(reason) => reader.note(format!("the body is no {ZLIB}: {reason}")),
        }
    }
    let content_type = reader.text("content-type", Some(parts.content_type));
    let content_encoding = reader.text("content-encoding", Some(parts.content_encoding));
    let mut properties = reader.properties(properties);
    properties.content_type = match content_type {
        Some(content_type) => content_type.into(),
        // kombu takes what does not say its type for bytes that are no concern
        // of its own. Another problem is the better reason, though.
        None if reader.problem.is_none() => "application/data".into(),
        None => properties.content_type,
    };
    properties.content_encoding = content_encoding.unwrap_or_default().into();
    if let Some(problem) = reader.problem {
        headers.problem = Some(problem.into());
    }
    Opened {
        message: Message {
            headers,
            properties,
            body,
        },
        redelivered,
        deliveries: u32::try_from(deliveries).unwrap_or(u32::MAX),
    }
}

/// Takes typed parts out of an envelope and notes the first problem.
#[derive(Default)]
struct Reader {
    problem: Option<String>,
}

/// Takes a field of the sender's own away, if it is there.
fn remove(fields: &mut Fields, key: &str) -> Option<Value> {
    // To change what has no fields makes room for some.
    if fields.is_empty() {
        return None;
    }
    fields.shift_remove(key)
}

impl Reader {
    fn note(&mut self, problem: String) {
        self.problem.get_or_insert(problem);
    }

    fn take<T: Default>(&mut self, name: &str, object: Object<T>) -> T {
        match object {
            Object::There(object) => object,
            Object::Absent => T::default(),
            Object::Other => {
                self.note(format!("`{name}` in the envelope must be an object"));
                T::default()
            }
        }
    }

    fn object(&mut self, name: &str, value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            Value::Null => Map::new(),
            _ => {
                self.note(format!("`{name}` in the envelope must be an object"));
                Map::new()
            }
        }
    }

    fn text(&mut self, name: &str, value: Option<Value>) -> Option<String> {
        match value? {
            Value::String(text) => Some(text),
            Value::Null => None,
            _ => {
                self.note(format!("`{name}` in the envelope must be text"));
                None
            }
        }
    }

    /// A whole number, or one as text.
    fn number(&mut self, name: &str, value: Option<Value>) -> Option<u64> {
        let read = match value? {
            Value::Null => return None,
            Value::String(text) => text.trim().parse().ok(),
            value => value.as_u64(),
        };
        if read.is_none() {
            self.note(format!("`{name}` in the envelope must be a whole number"));
        }
        read
    }

    fn body(&mut self, raw: Option<&RawValue>, encoding: Option<&str>) -> Bytes {
        let Some(raw) = raw.filter(|raw| raw.get() != "null") else {
            return Bytes::new();
        };
        let Ok(Text(text)) = serde_json::from_str(raw.get()) else {
            self.note("`body` in the envelope must be text".to_owned());
            return Bytes::copy_from_slice(raw.get().as_bytes());
        };
        let failed = match encoding {
            None | Some("utf-8" | "UTF-8") => return Bytes::copy_from_slice(text.as_bytes()),
            Some("base64") => match decode(&text) {
                Ok(body) => return body.into(),
                Err(error) => format!("the body is no base64: {error}"),
            },
            Some(other) => format!("body_encoding `{other}` is not known: send base64"),
        };
        self.note(failed);
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn properties(&mut self, mut map: Map<String, Value>) -> Properties {
        let id = |text: Option<String>| text.filter(|text| !text.is_empty()).map(Id::from);
        let mut text = |name: &str, key: &str| self.text(name, map.shift_remove(key));
        let correlation_id = text("properties.correlation_id", "correlation_id");
        let reply_to = text("properties.reply_to", "reply_to");
        let mut number = |name: &str, key: &str| self.number(name, map.shift_remove(key));
        let delivery_mode = number("properties.delivery_mode", "delivery_mode");
        let expiration = number("properties.expiration", "expiration");
        let priority = priority(map.shift_remove("priority").as_ref());
        Properties {
            correlation_id: id(correlation_id),
            reply_to: id(reply_to),
            // kombu writes 0 where nobody has set one.
            priority: (priority > 0).then_some(priority),
            delivery_mode: if delivery_mode == Some(1) { 1 } else { 2 },
            expiration,
            extra: map.into(),
            ..Properties::default()
        }
    }
}

/// base64 as Python reads it: with line breaks, if need be.
fn decode(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    STANDARD.decode(text).or_else(|error| {
        let dense: String = text.split_ascii_whitespace().collect();
        if dense.len() == text.len() {
            return Err(error);
        }
        STANDARD.decode(dense)
    })
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>, String> {
    let mut unpacked = Vec::new();
    let mut decoder = ZlibDecoder::new(packed).take(UNPACKED + 1);
    let read = decoder.read_to_end(&mut unpacked);
    read.map_err(|error| error.to_string())?;
    if unpacked.len() as u64 > UNPACKED {
        return Err(format!("more than {UNPACKED} bytes come out of it"));
    }
    Ok(unpacked)
}

/// A priority as kombu reads it.
pub(crate) fn priority(value: Option<&Value>) -> u8 {
    let number = match value {
        Some(Value::Number(number)) => number.as_i64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        _ => None,
    };
    number.map_or(0, |number| number.clamp(0, 9) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages that Celery 5.7 sends, as they were captured.
    fn captured() -> Vec<(String, Value)> {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/golden/messages.json"
        );
        let text = std::fs::read(path).unwrap();
        let entries: Vec<Value> = serde_json::from_slice(&text).unwrap();
        let mut all = Vec::new();
        for entry in &entries {
            for message in entry["messages"].as_array().unwrap() {
                let name = entry["name"].as_str().unwrap().to_owned();
                all.push((name, message.clone()));
            }
        }
        all
    }

    #[test]
    fn celerys_messages_are_written_as_celery_writes_them() {
        let captured = captured();
        assert!(captured.len() > 50);
        // Times are written in UTC, whatever zone they came in, and the body
        // of the compressed one was captured unpacked.
        let other = ["opt_eta_other_zone", "opt_eta_naive", "opt_compression"];
        let same = captured
            .iter()
            .filter(|(name, _)| !other.contains(&&**name));
        for (name, message) in same {
            let body = STANDARD.encode(message["body"].to_string());
            // The order of keys is kombu's.
            let wire = serde_json::json!({
                "body": body,
                "content-encoding": message["content-encoding"],
                "content-type": message["content-type"],
                "headers": message["headers"],
                "properties": message["properties"],
            });
            let opened = open(wire.to_string().as_bytes());
            assert_eq!(opened.message.headers.problem, None, "{name}");
            let to = Destination {
                exchange: message["exchange"].as_str().unwrap().into(),
                routing_key: message["routing_key"].as_str().unwrap().into(),
            };
            let written = encode(&opened.message, &to).unwrap();
            let mut written: Value = serde_json::from_slice(&written).unwrap();
            // A new message has a new tag.
            let tag = &mut written["properties"]["delivery_tag"];
            assert_ne!(*tag, wire["properties"]["delivery_tag"]);
            *tag = wire["properties"]["delivery_tag"].clone();
            assert_eq!(written.to_string(), wire.to_string(), "{name}");
        }
    }

    #[test]
    fn what_is_no_task_has_only_its_own_headers() {
        let mut message = Message {
            headers: Headers::default(),
            properties: Properties::default(),
            body: Bytes::from_static(b"{}"),
        };
        message.headers.extra = [("hostname".to_owned(), "w1@h".into())]
            .into_iter()
            .collect();
        let written = encode(&message, &Destination::queue("q")).unwrap();
        let written: Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(written["headers"].to_string(), r#"{"hostname":"w1@h"}"#);
    }

    #[test]
    fn a_body_may_be_plain_text_or_base64_in_lines() {
        for (body, encoding, want) in [
            ("[1, \"ü\"]", "\"utf-8\"", "[1, \"ü\"]"),
            ("[]", "null", "[]"),
            ("W10=", "\"base64\"", "[]"),
            ("W1\n0=\n", "\"base64\"", "[]"),
            ("", "\"base64\"", ""),
        ] {
            let body = Value::from(body);
            let raw =
                format!(r#"{{"body": {body}, "properties": {{"body_encoding": {encoding}}}}}"#);
            let opened = open(raw.as_bytes()).message;
            assert_eq!(
                (opened.headers.problem, &*opened.body),
                (None, want.as_bytes())
            );
        }
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        use std::io::Write;

        let zeros = vec![0; 1024 * 1024];
        let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        for _ in 0..=UNPACKED / zeros.len() as u64 {
            packer.write_all(&zeros).unwrap();
        }
        let bomb = packer.finish().unwrap();
        assert!(bomb.len() < 4 * 1024 * 1024);
        assert!(unpack(&bomb).unwrap_err().contains("come out of it"));
        assert!(unpack(b"").is_err());
    }

    #[test]
    fn priorities_are_read_as_kombu_reads_them() {
        for (text, want) in [
            ("3", 3),
            ("\"7\"", 7),
            ("12", 9),
            ("-1", 0),
            ("null", 0),
            ("[]", 0),
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(priority(Some(&value)), want, "{text}");
        }
        assert_eq!(priority(None), 0);
    }
}
