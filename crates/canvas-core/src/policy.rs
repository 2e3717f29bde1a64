//! How many members of a header must succeed for the body to run.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use crate::advance::TOLD;
use crate::backend::Part;
use crate::exception::ExceptionInfo;
use crate::id::Id;
use crate::json::deep;
use crate::result::ResultTree;
use crate::signature::{Shape, Signature};

/// The header of the body's message that carries the policy. Python workers
/// pass it on and act as under [`Policy::All`].
const HEADER: &str = "canvas-chord-policy";

/// When a chord's body runs, and with what (celery#1881).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// All members must succeed; the body gets their results. Celery's rule.
    #[default]
    All,
    /// One must; the body gets a list of the first result.
    Any,
    /// This many must; the body gets the results that were there first, in
    /// header order.
    AtLeast(u64),
    /// The body always runs, once all have ended. It gets an object for each
    /// member: `{"ok": value}` or `{"error": {"exc_type": …}}`.
    Collect,
}

impl Signature {
    /// Sets the failure policy of a chord. On any other canvas, that of the
    /// chord that this will be the body of.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        match &mut self.shape {
            Shape::Chord(parts) => {
                if let Some(body) = &mut parts.body {
                    policy.set(body);
                }
            }
            _ => policy.set(&mut self),
        }
        self
    }
}

impl Policy {
    fn set(self, body: &mut Signature) {
        let value = match self {
            Self::All => return,
            Self::Any => json!("any"),
            Self::AtLeast(k) => json!({ "at_least": k }),
            Self::Collect => json!("collect"),
        };
        first_task(body).options.set_header(HEADER, value);
    }

    /// The policy of the chord that has this body.
    pub(crate) fn of(body: &Signature) -> Self {
        let mut first = body;
        while let Shape::Chain(steps) = &first.shape {
            match steps.first() {
                Some(step) => first = step,
                None => break,
            }
        }
        let value = first.options.headers().and_then(|h| h.get(HEADER));
        match value {
            Some(Value::String(name)) if name == "any" => Self::Any,
            Some(Value::String(name)) if name == "collect" => Self::Collect,
            Some(Value::Object(map)) => at_least(map),
            _ => Self::All,
        }
    }

    /// How many successes complete a join of `size` before all have arrived.
    pub(crate) fn quorum(self, size: u64) -> u64 {
        match self {
            // Waits for all, even once one has failed, as Celery does.
            Self::All | Self::Collect => size,
            Self::Any => 1,
            Self::AtLeast(k) => k.clamp(1, size.max(1)),
        }
    }

    /// What the body gets, or the error that it fails with. Where the shape of
    /// the header is known, a group in it gives a list.
    pub(crate) fn judge(
        self,
        parts: &[Part],
        shape: Option<&ResultTree>,
    ) -> Result<Value, ExceptionInfo> {
        let values = || parts.iter().filter(|p| p.is_ok()).map(|p| p.result.clone());
        let failed = || {
            let first = parts.iter().find(|part| !part.is_ok());
            match first {
                Some(part) => ExceptionInfo::chord(
                    part.task_id.as_str(),
                    &ExceptionInfo::from_result(&part.result),
                ),
                None => ExceptionInfo::celery("ChordError", "no member succeeded"),
            }
        };
        match self {
            Self::All if parts.iter().all(Part::is_ok) => {
                Ok(arranged(parts, shape, |part| part.result.clone()))
            }
            Self::All => Err(failed()),
            Self::Any | Self::AtLeast(_) => {
                let wanted = self.quorum(parts.len() as u64);
                let have: Vec<Value> = values().collect();
                let needed = usize::try_from(wanted).unwrap_or(usize::MAX);
                if have.len() < needed || have.is_empty() {
                    return Err(failed());
                }
                Ok(have.into_iter().take(needed).collect())
            }
            Self::Collect => Ok(arranged(parts, shape, |part| {
                if part.is_ok() {
                    return json!({ "ok": part.result });
                }
                let mut error = part.result.clone();
                if let Value::Object(error) = &mut error {
                    error.shift_remove(TOLD);
                }
                json!({ "error": error })
            })),
        }
    }
}

/// What each part comes to, in the order of the header, or in its shape.
fn arranged(parts: &[Part], shape: Option<&ResultTree>, show: impl Fn(&Part) -> Value) -> Value {
    let Some(members) = shape.and_then(|shape| shape.members.as_ref()) else {
        return parts.iter().map(show).collect();
    };
    let found: HashMap<&Id, &Part> = parts.iter().map(|part| (&part.task_id, part)).collect();
    let mut placed = HashSet::new();
    let mut values = members
        .iter()
        .map(|member| place(member, &found, &mut placed, &show))
        .collect::<Vec<_>>();
    // Members that were added later stand in no shape.
    let added = parts.iter().filter(|part| !placed.contains(&part.task_id));
    values.extend(added.map(show));
    Value::Array(values)
}

fn place<'a>(
    node: &'a ResultTree,
    found: &HashMap<&Id, &Part>,
    placed: &mut HashSet<&'a Id>,
    show: &impl Fn(&Part) -> Value,
) -> Value {
    deep(|| match &node.members {
        Some(members) => {
            let values = members.iter().map(|m| place(m, found, placed, show));
            values.collect()
        }
        None => {
            placed.insert(&node.id);
            found.get(&node.id).map_or(Value::Null, |part| show(part))
        }
    })
}

fn at_least(map: &Map<String, Value>) -> Policy {
    map.get("at_least")
        .and_then(Value::as_u64)
        .map_or(Policy::All, Policy::AtLeast)
}

fn first_task(body: &mut Signature) -> &mut Signature {
    if !matches!(&body.shape, Shape::Chain(steps) if !steps.is_empty()) {
        return body;
    }
    match &mut body.shape {
        Shape::Chain(steps) => first_task(&mut steps[0]),
        _ => unreachable!("asked above"),
    }
}
