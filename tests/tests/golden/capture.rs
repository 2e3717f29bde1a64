//! What was captured from Celery 5.7.0, and how to compare with it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// An entry of `signatures.json`.
#[derive(Deserialize)]
pub(crate) struct CapturedSignature {
    pub(crate) name: String,
    pub(crate) signature: Box<RawValue>,
}

/// An entry of `messages.json`.
#[derive(Deserialize)]
pub(crate) struct CapturedCanvas {
    pub(crate) name: String,
    pub(crate) messages: Vec<CapturedMessage>,
    pub(crate) result: Value,
    /// The Python that applied it, where that was not `sig.apply_async()`.
    pub(crate) apply: Option<String>,
    /// Settings that were not the defaults.
    pub(crate) conf: Option<Value>,
}

/// A message, with its body decoded.
#[derive(Deserialize)]
pub(crate) struct CapturedMessage {
    pub(crate) headers: Box<RawValue>,
    pub(crate) properties: Value,
    pub(crate) body: Box<RawValue>,
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    #[serde(rename = "content-type")]
    pub(crate) content_type: String,
    #[serde(rename = "content-encoding")]
    pub(crate) content_encoding: String,
}

/// An entry of `results.json`.
#[derive(Deserialize)]
pub(crate) struct CapturedResult {
    pub(crate) name: String,
    pub(crate) meta: Box<RawValue>,
}

pub(crate) fn signatures() -> Vec<CapturedSignature> {
    serde_json::from_str(include_str!("../../golden/signatures.json")).unwrap()
}

pub(crate) fn messages() -> Vec<CapturedCanvas> {
    serde_json::from_str(include_str!("../../golden/messages.json")).unwrap()
}

pub(crate) fn results() -> Vec<CapturedResult> {
    serde_json::from_str(include_str!("../../golden/results.json")).unwrap()
}

/// A captured text, read.
pub(crate) fn value(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap()
}

/// JSON text as what it says, in its order: the spelling of strings and of
/// floats is gone, while an integer stays other than a float of its value, and
/// one of more than 64 bits keeps all its digits.
pub(crate) fn meaning(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let len = match first {
            '"' => string_len(rest),
            '[' | ']' | '{' | '}' | ',' | ':' => 1,
            _ => rest.find([',', ']', '}', ' ', '\n']).unwrap_or(rest.len()),
        };
        let token = &rest[..len];
        let is_float =
            first != '"' && token != "true" && token != "false" && token.contains(['.', 'e']);
        tokens.push(match first {
            '"' => format!("{:?}", serde_json::from_str::<String>(token).unwrap()),
            _ if is_float => format!("{:?}", token.parse::<f64>().unwrap()),
            _ => token.to_owned(),
        });
        rest = rest[len..].trim_start();
    }
    tokens
}

fn string_len(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.unwrap() + 2
}

/// Says where two texts differ in meaning, if they do.
pub(crate) fn compare_texts(ours: &str, theirs: &str) -> Result<(), String> {
    let (ours, theirs) = (meaning(ours), meaning(theirs));
    let same = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
    if same == ours.len() && same == theirs.len() {
        return Ok(());
    }
    let around = |tokens: &[String]| {
        let from = same.saturating_sub(8).min(tokens.len());
        tokens[from..tokens.len().min(same + 8)].join(" ")
    };
    Err(format!(
        "ours: … {} …\n  Celery: … {} …",
        around(&ours),
        around(&theirs)
    ))
}

/// Which of our ids stands for which of Celery's. Celery's fresh ids were
/// counted when they were captured; ours are random.
#[derive(Default)]
pub(crate) struct SameIds {
    ours: BTreeMap<String, String>,
    theirs: BTreeMap<String, String>,
}

/// What `capture.py` makes all fresh ids begin with.
const FRESH: &str = "00000000-0000-4000-8000-";

/// The id that was captured as the `n`th.
pub(crate) fn id(n: u64) -> Value {
    Value::from(format!("{FRESH}{n:012}"))
}

impl SameIds {
    /// Says where two values differ, if they do: everything is equal but for
    /// ids, and of those each of ours stands for one of Celery's throughout.
    pub(crate) fn compare(&mut self, ours: &Value, theirs: &Value, at: &str) -> Result<(), String> {
        match (ours, theirs) {
            (Value::Object(a), Value::Object(b)) => {
                for (key, b) in b {
                    let Some(a) = a.get(key) else {
                        return Err(format!("{at}/{key}: ours: nothing, Celery: {b}"));
                    };
                    self.compare(a, b, &format!("{at}/{key}"))?;
                }
                match a.iter().find(|(key, _)| !b.contains_key(*key)) {
                    Some((key, a)) => Err(format!("{at}/{key}: ours: {a}, Celery: nothing")),
                    None => Ok(()),
                }
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                let mut pairs = a.iter().zip(b).enumerate();
                pairs.try_for_each(|(i, (a, b))| self.compare(a, b, &format!("{at}/{i}")))
            }
            (Value::String(a), Value::String(b)) if b.starts_with(FRESH) => {
                let seen_b = self.ours.entry(a.clone()).or_insert_with(|| b.clone());
                let seen_a = self.theirs.entry(b.clone()).or_insert_with(|| a.clone());
                let is_uuid = a.len() == 36 && !a.starts_with(FRESH);
                if seen_a == a && seen_b == b && is_uuid {
                    return Ok(());
                }
                Err(format!(
                    "{at}: ours: {a}, which stands for {seen_b}, Celery: {b}, which is our {seen_a}"
                ))
            }
            _ if ours == theirs => Ok(()),
            _ => Err(format!("{at}: ours: {ours}, Celery: {theirs}")),
        }
    }
}
