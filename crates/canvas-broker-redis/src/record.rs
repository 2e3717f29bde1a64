//! What is kept of a message that is out, and how it goes back.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::envelope::{Text, priority};

/// Where we note how often a message was out, in its `delivery_info`. Python
/// passes it on unread.
pub(crate) const DELIVERIES: &str = "canvas-deliveries";

/// An envelope that is put back.
#[derive(Debug, PartialEq)]
pub(crate) struct Marked {
    pub(crate) raw: Vec<u8>,
    pub(crate) priority: u8,
}

/// Marks an envelope as redelivered where kombu does, and counts the delivery
/// if it is held against the message. All else stays as it was written; what
/// cannot be read stays as a whole.
pub(crate) fn mark(raw: &[u8], counted: bool) -> Marked {
    rewrite(raw, counted).unwrap_or_else(|| Marked {
        raw: raw.to_vec(),
        priority: 0,
    })
}

fn rewrite(raw: &[u8], counted: bool) -> Option<Marked> {
    let mut envelope: Members<'_> = serde_json::from_slice(raw).ok()?;
    if let Some(headers) = envelope.object("headers") {
        envelope.set("headers", &headers.with("redelivered", &true)?)?;
    }
    let mut urgency = 0;
    if let Some(mut properties) = envelope.object("properties") {
        let stated = properties.get("priority");
        urgency = priority(
            stated
                .and_then(|raw| serde_json::from_str(raw.get()).ok())
                .as_ref(),
        );
        if let Some(mut info) = properties.object("delivery_info") {
            info = info.with("redelivered", &true)?;
            if counted {
                let before = info.get(DELIVERIES);
                let before = before.and_then(|raw| raw.get().parse::<u32>().ok());
                info = info.with(DELIVERIES, &before.unwrap_or(0).saturating_add(1))?;
            }
            properties.set("delivery_info", &info)?;
        }
        envelope.set("properties", &properties)?;
    }
    Some(Marked {
        raw: serde_json::to_vec(&envelope).ok()?,
        priority: urgency,
    })
}

/// The members of an object, in order, their values unread.
struct Members<'a>(Vec<(Cow<'a, str>, Cow<'a, RawValue>)>);

impl<'a> Members<'a> {
    fn get(&self, key: &str) -> Option<&RawValue> {
        let found = self.0.iter().rev().find(|(name, _)| name == key);
        found.map(|(_, value)| &**value)
    }

    /// A member that is an object itself.
    fn object(&self, key: &str) -> Option<Members<'static>> {
        let members: Members<'_> = serde_json::from_str(self.get(key)?.get()).ok()?;
        let own = members.0.into_iter();
        let own = own.map(|(name, value)| {
            (
                Cow::Owned(name.into_owned()),
                Cow::Owned(value.into_owned()),
            )
        });
        Some(Members(own.collect()))
    }

    fn set(&mut self, key: &str, value: &impl Serialize) -> Option<()> {
        let value = Cow::Owned(serde_json::value::to_raw_value(value).ok()?);
        match self.0.iter_mut().rev().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((Cow::Owned(key.to_owned()), value)),
        }
        Some(())
    }

    fn with(mut self, key: &str, value: &impl Serialize) -> Option<Self> {
        self.set(key, value)?;
        Some(self)
    }
}

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, &**value)))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: serde::de::MapAccess<'de>>(
                self,
                mut map: M,
            ) -> Result<Self::Value, M::Error> {
                let mut members = Vec::new();
                while let Some((Text(name), value)) = map.next_entry::<_, &'de RawValue>()? {
                    members.push((name, Cow::Borrowed(value)));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}

/// What the hash of messages that are out holds for one: the message, and
/// where it is to go if it comes back.
#[derive(Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) raw: Vec<u8>,
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
}

/// What follows the message in the records of a queue.
pub(crate) fn tail(queue: &str) -> String {
    format!(",\"\",{}]", Value::from(queue))
}

impl Record {
    /// Reads a record, ours or Python's.
    pub(crate) fn read(record: &[u8]) -> Option<Self> {
        type Triple<'a> = (&'a RawValue, Option<String>, Option<String>);
        if let Ok((raw, exchange, routing_key)) = serde_json::from_slice::<Triple<'_>>(record) {
            return Some(Self {
                raw: raw.get().as_bytes().to_vec(),
                exchange: exchange.unwrap_or_default(),
                routing_key: routing_key.unwrap_or_default(),
            });
        }
        // A message that is no JSON, in a record of ours.
        let end = record.windows(5).rposition(|part| part == b",\"\",\"")?;
        let queue: Value = serde_json::from_slice(record[end + 4..].strip_suffix(b"]")?).ok()?;
        Some(Self {
            raw: record.get(1..end)?.to_vec(),
            exchange: String::new(),
            routing_key: queue.as_str()?.to_owned(),
        })
    }
}

/// A dead letter as it is kept.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Dead {
    pub(crate) reason: String,
    /// ISO 8601.
    pub(crate) at: String,
    /// The envelope, where it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
    /// The envelope as base64, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) message_base64: Option<String>,
}

impl Dead {
    pub(crate) fn new(reason: &str, at: String, raw: &[u8]) -> Self {
        let text = std::str::from_utf8(raw);
        Self {
            reason: reason.to_owned(),
            at,
            message: text.ok().map(str::to_owned),
            message_base64: text.is_err().then(|| STANDARD.encode(raw)),
        }
    }

    /// The envelope, byte for byte.
    pub(crate) fn raw(&self) -> Vec<u8> {
        match (&self.message, &self.message_base64) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(encoded)) => STANDARD.decode(encoded).unwrap_or_default(),
            (None, None) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marking_changes_the_marks_and_nothing_else() {
        let table = [
            // What is missing is not added, as in kombu.
            (
                r#"{"headers":[],"properties":{}}"#,
                r#"{"headers":[],"properties":{}}"#,
            ),
            (
                r#"{"properties":{"delivery_info":null}}"#,
                r#"{"properties":{"delivery_info":null}}"#,
            ),
            (
                r#"{"headers":{"redelivered":false,"n":1e400},"properties":{"delivery_info":{"canvas-deliveries":41}}}"#,
                r#"{"headers":{"redelivered":true,"n":1e400},"properties":{"delivery_info":{"canvas-deliveries":42,"redelivered":true}}}"#,
            ),
            ("[1,  2]", "[1,  2]"),
            ("no JSON", "no JSON"),
        ];
        for (raw, want) in table {
            let marked = mark(raw.as_bytes(), true).raw;
            assert_eq!(String::from_utf8(marked).unwrap(), want);
        }
    }

    #[test]
    fn records_of_both_kinds_are_read() {
        let record = |raw: &[u8], exchange: &str, routing_key: &str| Record {
            raw: raw.to_vec(),
            exchange: exchange.to_owned(),
            routing_key: routing_key.to_owned(),
        };
        let python = br#"[{"body": "", "n": 1.0}, "celery", "key"]"#;
        assert_eq!(
            Record::read(python),
            Some(record(br#"{"body": "", "n": 1.0}"#, "celery", "key"))
        );
        let null = br#"[{}, null, "key"]"#;
        assert_eq!(Record::read(null), Some(record(b"{}", "", "key")));
        for raw in [&b"{}"[..], b"", b"no JSON", b"\xff", b"a,\"\",\"b\"]"] {
            for queue in ["q", "a\"b", "a,\"\",\"b", "\\", "ü"] {
                let written = [b"[", raw, tail(queue).as_bytes()].concat();
                assert_eq!(
                    Record::read(&written),
                    Some(record(raw, "", queue)),
                    "{queue}"
                );
            }
        }
        for nonsense in [&b""[..], b"[]", b"{}", b"[1, \"\"]"] {
            assert_eq!(Record::read(nonsense), None);
        }
    }
}
