//! Messages as AMQP carries them: kombu's properties, and headers as a table.

use std::io::Read as _;

use bytes::Bytes;
use canvas_core::protocol::{Fields, Headers, Message, Properties};
use canvas_core::{Error, Id, Result};
use flate2::read::ZlibDecoder;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString};
use serde_json::{Map, Number, Value};

/// The name that kombu has for zlib.
const ZLIB: &str = "application/x-gzip";

/// The largest body that is unpacked: a small message can hold an endless one.
const UNPACKED: u64 = 256 * 1024 * 1024;

/// In which header a quorum queue counts what came back.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// Headers in which RabbitMQ notes the ways of a message: they are no part of
/// it, and grow with each hop.
const NOTES: [&str; 9] = [
    DELIVERY_COUNT,
    "x-acquired-count",
    "x-death",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
];

/// The properties and headers of a message, as kombu gives them to py-amqp.
pub(crate) fn encode(message: &Message) -> Result<BasicProperties> {
    let of = &message.properties;
    let mut properties = BasicProperties::default()
        .with_content_type(short(&of.content_type)?)
        .with_content_encoding(short(&of.content_encoding)?)
        .with_headers(table(&message.headers.to_map())?)
        .with_delivery_mode(of.delivery_mode);
    if let Some(priority) = of.priority {
        properties = properties.with_priority(priority);
    }
    if let Some(id) = &of.correlation_id {
        properties = properties.with_correlation_id(short(id.as_str())?);
    }
    if let Some(id) = &of.reply_to {
        properties = properties.with_reply_to(short(id.as_str())?);
    }
    if let Some(expiration) = of.expiration {
        properties = properties.with_expiration(expiration.to_string().into());
    }
    more(properties, &of.extra)
}

/// The properties that AMQP knows and nothing here needs. Any other one cannot
/// be sent; py-amqp drops it too.
fn more(mut properties: BasicProperties, extra: &Fields) -> Result<BasicProperties> {
    for (name, value) in extra.iter() {
        let text = || value.as_str().map(short).transpose();
        properties = match (&**name, text()?) {
            ("message_id", Some(text)) => properties.with_message_id(text),
            ("type", Some(text)) => properties.with_type(text),
            ("user_id", Some(text)) => properties.with_user_id(text),
            ("app_id", Some(text)) => properties.with_app_id(text),
            ("cluster_id", Some(text)) => properties.with_cluster_id(text),
            ("timestamp", None) => match value.as_u64() {
                Some(seconds) => properties.with_timestamp(seconds),
                None => properties,
            },
            _ => {
                tracing::debug!(property = name, "no property of AMQP: not sent");
                properties
            }
        };
    }
    Ok(properties)
}

/// Text of at most 255 bytes.
pub fn short(text: &str) -> Result<ShortString> {
    ShortString::try_new(text).map_err(|_| {
        encoding(format!(
            "AMQP takes at most 255 bytes there: `{}…`",
            text.chars().take(40).collect::<String>()
        ))
    })
}

fn encoding(reason: String) -> Error {
    Error::Encoding {
        action: "encode",
        what: "a message for RabbitMQ".to_owned(),
        reason,
    }
}

/// A JSON object as a table.
pub(crate) fn table(map: &Map<String, Value>) -> Result<FieldTable> {
    let mut table = FieldTable::default();
    for (key, value) in map {
        table.insert(short(key)?, field(value)?);
    }
    Ok(table)
}

/// A value in the types that py-amqp chooses.
fn field(value: &Value) -> Result<AMQPValue> {
    Ok(match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(flag) => AMQPValue::Boolean(*flag),
        Value::Number(number) => numeric(number)?,
        Value::String(text) => AMQPValue::LongString(LongString::from(text.as_str())),
        Value::Array(items) => {
            let items: Result<Vec<AMQPValue>> = items.iter().map(field).collect();
            AMQPValue::FieldArray(FieldArray::from(items?))
        }
        Value::Object(map) => AMQPValue::FieldTable(table(map)?),
    })
}

fn numeric(number: &Number) -> Result<AMQPValue> {
    if let Some(whole) = number.as_i64() {
        // py-amqp keeps the smallest one for the larger type.
        return Ok(match i32::try_from(whole) {
            Ok(small) if small > i32::MIN => AMQPValue::LongInt(small),
            _ => AMQPValue::LongLongInt(whole),
        });
    }
    if number.is_u64() {
        return Err(encoding(format!("AMQP has no whole number like {number}")));
    }
    Ok(AMQPValue::Double(number.as_f64().unwrap_or_default()))
}

/// A message, read.
#[derive(Debug, PartialEq)]
pub(crate) struct Decoded {
    pub(crate) message: Message,
    /// How often it was delivered before, where the queue counts.
    pub(crate) before: Option<u64>,
}

/// Reads a message. What is wrong with it is told by [`Headers::problem`].
pub(crate) fn decode(properties: &BasicProperties, data: &Bytes) -> Decoded {
    let mut map = Map::new();
    if let Some(headers) = properties.headers() {
        for (key, value) in headers.inner() {
            map.insert(key.as_str().to_owned(), plain(value));
        }
    }
    let before = map.get(DELIVERY_COUNT).and_then(Value::as_u64);
    for note in NOTES {
        map.shift_remove(note);
    }
    let mut headers = Headers::from_map(map);
    let mut body = data.clone();
    if headers.extra.get("compression").and_then(Value::as_str) == Some(ZLIB) {
        headers.extra.shift_remove("compression");
        match unpack(&body) {
            Ok(unpacked) => body = unpacked.into(),
            Err(reason) => {
                headers.problem = Some(format!("the body is no {ZLIB}: {reason}").into());
            }
        }
    }
    Decoded {
        message: Message {
            headers,
            properties: read_properties(properties),
            body,
        },
        before,
    }
}

fn read_properties(from: &BasicProperties) -> Properties {
    let text = |text: &Option<ShortString>| text.as_ref().map(|text| text.as_str().to_owned());
    let id = |it: &Option<ShortString>| text(it).filter(|it| !it.is_empty()).map(Id::from);
    let mut extra = Map::new();
    for (name, value) in [
        ("message_id", text(from.message_id())),
        ("type", text(from.kind())),
        ("user_id", text(from.user_id())),
        ("app_id", text(from.app_id())),
        ("cluster_id", text(from.cluster_id())),
    ] {
        extra.extend(value.map(|value| (name.to_owned(), value.into())));
    }
    let timestamp = from.timestamp();
    extra.extend(timestamp.map(|seconds| ("timestamp".to_owned(), seconds.into())));
    Properties {
        correlation_id: id(from.correlation_id()),
        reply_to: id(from.reply_to()),
        priority: *from.priority(),
        delivery_mode: if *from.delivery_mode() == Some(2) {
            2
        } else {
            1
        },
        // kombu takes what does not say its type for bytes that are no concern
        // of its own.
        content_type: match text(from.content_type()).as_deref() {
            Some("application/json") => "application/json".into(),
            Some(other) => other.to_owned().into(),
            None => "application/data".into(),
        },
        content_encoding: match text(from.content_encoding()).as_deref() {
            Some("utf-8") => "utf-8".into(),
            other => other.unwrap_or_default().to_owned().into(),
        },
        expiration: text(from.expiration()).and_then(|text| text.trim().parse().ok()),
        extra: extra.into(),
    }
}

/// A value as JSON has it.
fn plain(value: &AMQPValue) -> Value {
    let double = |number: f64| Number::from_f64(number).map_or(Value::Null, Value::Number);
    match value {
        AMQPValue::Boolean(flag) => (*flag).into(),
        AMQPValue::ShortShortInt(number) => (*number).into(),
        AMQPValue::ShortShortUInt(number) => (*number).into(),
        AMQPValue::ShortInt(number) => (*number).into(),
        AMQPValue::ShortUInt(number) => (*number).into(),
        AMQPValue::LongInt(number) => (*number).into(),
        AMQPValue::LongUInt(number) => (*number).into(),
        AMQPValue::LongLongInt(number) => (*number).into(),
        AMQPValue::Timestamp(number) => (*number).into(),
        AMQPValue::Float(number) => double(f64::from(*number)),
        AMQPValue::Double(number) => double(*number),
        AMQPValue::DecimalValue(decimal) => {
            double(f64::from(decimal.value) / 10f64.powi(i32::from(decimal.scale)))
        }
        AMQPValue::ShortString(text) => text.as_str().into(),
        AMQPValue::LongString(text) => String::from_utf8_lossy(text.as_bytes()).into(),
        AMQPValue::ByteArray(bytes) => String::from_utf8_lossy(bytes.as_slice()).into(),
        AMQPValue::FieldArray(items) => items.as_slice().iter().map(plain).collect(),
        AMQPValue::FieldTable(table) => {
            let fields = table.inner().iter();
            let fields = fields.map(|(key, value)| (key.as_str().to_owned(), plain(value)));
            Value::Object(fields.collect())
        }
        AMQPValue::Void => Value::Null,
    }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The messages that Celery 5.7 sends, as they were captured.
    fn captured() -> Vec<Message> {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/golden/messages.json"
        );
        let text = std::fs::read(path).unwrap();
        let entries: Vec<Value> = serde_json::from_slice(&text).unwrap();
        let messages = entries
            .iter()
            .flat_map(|entry| entry["messages"].as_array().unwrap())
            // Their bodies are not here.
            .filter(|message| message["headers"].get("compression").is_none());
        let read = messages.map(|message| Message {
            headers: Headers::from_map(message["headers"].as_object().unwrap().clone()),
            properties: Properties {
                correlation_id: message["headers"]["id"].as_str().map(Id::from),
                ..Properties::default()
            },
            body: Bytes::from_static(b"[[], {}, {}]"),
        });
        read.collect()
    }

    #[test]
    fn celerys_messages_come_out_as_they_went_in() {
        let messages = captured();
        assert!(messages.len() > 50);
        for message in messages {
            let read = decode(&encode(&message).unwrap(), &message.body);
            assert_eq!(read.message, message);
            assert_eq!(read.before, None);
        }
    }

    #[test]
    fn values_have_the_types_of_py_amqp() {
        let table = [
            (json!(null), AMQPValue::Void),
            (json!(true), AMQPValue::Boolean(true)),
            (json!(7), AMQPValue::LongInt(7)),
            (json!(-2147483647), AMQPValue::LongInt(-2147483647)),
            (json!(-2147483648i64), AMQPValue::LongLongInt(-2147483648)),
            (json!(2147483648i64), AMQPValue::LongLongInt(2147483648)),
            (json!(1.5), AMQPValue::Double(1.5)),
            (json!("ü"), AMQPValue::LongString("ü".into())),
        ];
        for (value, want) in table {
            assert_eq!(field(&value).unwrap(), want, "{value}");
            assert_eq!(plain(&want), value);
        }
        assert!(field(&json!(u64::MAX)).is_err());
    }

    #[test]
    fn what_amqp_cannot_hold_is_an_error_that_says_so() {
        let mut message = captured().remove(0);
        message.headers.extra.insert("k".repeat(256), json!(1));
        let error = encode(&message).unwrap_err();
        assert!(error.to_string().contains("255 bytes"), "{error}");
    }

    #[test]
    fn the_notes_of_the_server_are_no_part_of_a_message() {
        let message = captured().remove(0);
        let mut map = message.headers.to_map();
        map.insert(DELIVERY_COUNT.to_owned(), json!(2));
        map.insert("x-death".to_owned(), json!([{"count": 1}]));
        map.insert("x-last-death-reason".to_owned(), json!("expired"));
        let properties = encode(&message).unwrap().with_headers(table(&map).unwrap());
        let read = decode(&properties, &message.body);
        assert_eq!((read.message, read.before), (message, Some(2)));
    }
}
