//! A dry run: what a canvas will send, before it is sent.

use std::collections::VecDeque;
use std::fmt;

use chrono::Utc;
use serde_json::Value;

use crate::advance::{self, Outcome};
use crate::app::Canvas;
use crate::backend::{JoinSpec, Part};
use crate::effect::{Arrive, Effect};
use crate::error::Result;
use crate::id::Id;
use crate::protocol::{DeliveryInfo, Request, Sealed};
use crate::result::ResultTree;
use crate::signature::{HeaderForm, Kwargs, Shape, Signature};
use crate::state::State;

/// The plan of a canvas: what happens if every task succeeds, with null as
/// its result. Print it.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The canvas in the form in which it runs.
    pub canvas: Signature,
    /// The ids of its results.
    pub result: ResultTree,
    /// Every message, in one order in which they may be sent.
    pub messages: Vec<PlannedMessage>,
    /// Every join.
    pub joins: Vec<JoinSpec>,
    /// Bytes kept in the backend as continuations.
    pub kept_bytes: usize,
    /// What may surprise.
    pub traps: Vec<String>,
}

/// A message that a canvas will send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedMessage {
    /// The task.
    pub task: String,
    /// Its id.
    pub id: Id,
    /// The queue.
    pub queue: String,
    /// The size of the body in bytes.
    pub bytes: usize,
    /// Who sends it: the client, or the task with this id.
    pub sent_by: Option<Id>,
}

/// Plans are cut off after this many messages.
const LIMIT: usize = 100_000;

impl Canvas {
    /// Says what [`apply`](Self::apply) would do, without doing it.
    ///
    /// Dynamic work (replaced tasks, custom primitives) shows as the one
    /// message that starts it.
    ///
    /// # Errors
    /// [`Error::InvalidCanvas`](crate::Error::InvalidCanvas).
    pub fn explain(&self, canvas: impl Into<Signature>) -> Result<Explanation> {
        let original = canvas.into();
        let mut frozen = original.clone();
        frozen.freeze()?;
        let now = Utc::now();
        let (effects, result) =
            advance::apply(self.env(), frozen.clone(), &[], &Kwargs::new(), now)?;
        let mut plan = Explanation {
            traps: traps(&original, &frozen),
            canvas: frozen,
            result,
            messages: Vec::new(),
            joins: Vec::new(),
            kept_bytes: 0,
        };
        self.follow(&mut plan, effects)?;
        Ok(plan)
    }

    /// Runs the plan in the head: each message in turn, with what follows it.
    fn follow(&self, plan: &mut Explanation, effects: Vec<Effect>) -> Result<()> {
        let mut kept: Vec<(Id, Vec<Sealed>)> = Vec::new();
        let mut arrived: Vec<(Id, u64)> = Vec::new();
        let mut open: VecDeque<(Option<Id>, Effect)> =
            effects.into_iter().map(|e| (None, e)).collect();
        while let Some((sent_by, effect)) = open.pop_front() {
            let next = match effect {
                Effect::OpenJoin(spec) => {
                    plan.joins.push(spec);
                    continue;
                }
                Effect::Keep { key, value } => {
                    plan.kept_bytes += value.len();
                    kept.push((key, crate::json::parse(&value, "a continuation")?));
                    continue;
                }
                Effect::Publish(outgoing) if plan.messages.len() < LIMIT => {
                    let delivery = DeliveryInfo::default();
                    let mut request = Request::decode(&outgoing.message, delivery)?;
                    plan.messages.push(PlannedMessage {
                        task: request.task.to_string(),
                        id: request.id.clone(),
                        queue: outgoing.to.routing_key.to_string(),
                        bytes: outgoing.message.body.len(),
                        sent_by,
                    });
                    while let Some(key) = request.missing(false) {
                        let steps = kept.iter().find(|(k, _)| *k == key);
                        request.supply(&key, steps.map(|(_, s)| s.clone()).unwrap_or_default());
                    }
                    let outcome = Outcome::Success(Value::Null);
                    let step = advance::advance(self.env(), &request, outcome, vec![], Utc::now());
                    step.effects
                        .into_iter()
                        .map(|e| (Some(request.id.clone()), e))
                        .collect()
                }
                Effect::Arrive(arrive) => self.arrive(plan, &kept, &mut arrived, *arrive)?,
                _ => continue,
            };
            open.extend::<Vec<_>>(next);
        }
        Ok(())
    }

    fn arrive(
        &self,
        plan: &Explanation,
        kept: &[(Id, Vec<Sealed>)],
        arrived: &mut Vec<(Id, u64)>,
        arrive: Arrive,
    ) -> Result<Vec<(Option<Id>, Effect)>> {
        let at = arrived.iter().position(|(join, _)| *join == arrive.join);
        let at = at.unwrap_or_else(|| {
            arrived.push((arrive.join.clone(), 0));
            arrived.len() - 1
        });
        arrived[at].1 += 1;
        let spec = plan.joins.iter().find(|spec| spec.id == arrive.join);
        if spec.is_none_or(|spec| spec.quorum != arrived[at].1) {
            return Ok(Vec::new());
        }
        let body = match arrive.body.reference_key() {
            None => Some(arrive.body.clone()),
            Some(key) => {
                let found = kept.iter().find(|(k, _)| *k == key);
                found.and_then(|(_, list)| list.last().cloned())
            }
        };
        let Some(body) = body else {
            return Ok(Vec::new());
        };
        let part = Part {
            task_id: arrive.part.task_id.clone(),
            index: None,
            state: State::Success,
            result: Value::Null,
        };
        let sender = arrive.part.task_id;
        let parts = vec![part; usize::try_from(arrived[at].1).unwrap_or(1)];
        let stand_in = Request::stand_in_for_plan(sender.clone(), &plan.result.id);
        let effects = advance::joined(
            self.env(),
            &stand_in,
            &body.open()?,
            &parts,
            None,
            Utc::now(),
        )?;
        Ok(effects
            .into_iter()
            .map(|e| (Some(sender.clone()), e))
            .collect())
    }
}

impl Request {
    /// A request in whose name a join is completed while planning.
    fn stand_in_for_plan(id: Id, root: &Id) -> Self {
        let mut request = Self {
            id: id.clone(),
            task: "".into(),
            args: Vec::new(),
            kwargs: Kwargs::new(),
            embed: crate::protocol::Embed::default(),
            headers: crate::protocol::Headers::default(),
            properties: crate::protocol::Properties::default(),
            delivery: DeliveryInfo::default(),
        };
        request.headers.id = Some(id);
        request.headers.root_id = Some(root.clone());
        request
    }
}

/// What people did not expect of Celery's canvas, found in this one.
fn traps(original: &Signature, frozen: &Signature) -> Vec<String> {
    let mut found = Vec::new();
    look(original, &mut found, true);
    ignored_in_headers(frozen, &mut found);
    found
}

fn look(signature: &Signature, found: &mut Vec<String>, top: bool) {
    crate::json::deep(|| match &signature.shape {
        Shape::Group(members) => {
            if members.len() == 1 && !top {
                found.push(format!(
                    "{signature} is a group of one: in a chain it is its member, and the next step \
                     gets one result, not a list"
                ));
            }
            if members.is_empty() {
                found.push(
                    "an empty group gives an empty list, or is left out of a chain".to_owned(),
                );
            }
            members.iter().for_each(|m| look(m, found, false));
        }
        Shape::Chain(steps) => {
            for pair in steps.windows(2) {
                if matches!(pair[0].shape, Shape::Group(_)) {
                    found.push(format!(
                        "{} followed by {} becomes a chord: the second waits for all of the first",
                        pair[0], pair[1]
                    ));
                }
            }
            steps.iter().for_each(|s| look(s, found, false));
        }
        Shape::Chord(parts) => {
            if !matches!(parts.header_form, HeaderForm::List) {
                found.push(format!(
                    "{} followed by a step became a chord: it needs a backend that joins",
                    parts.header
                ));
            }
            if let Shape::Group(members) = &parts.header.shape {
                members.iter().for_each(|m| look(m, found, false));
            }
            parts.body.iter().for_each(|b| look(b, found, false));
        }
        Shape::Task | Shape::Custom(_) => {}
    });
}

fn ignored_in_headers(signature: &Signature, found: &mut Vec<String>) {
    crate::json::deep(|| match &signature.shape {
        Shape::Chain(all) | Shape::Group(all) => {
            all.iter().for_each(|s| ignored_in_headers(s, found))
        }
        Shape::Chord(parts) => {
            if let Shape::Group(members) = &parts.header.shape {
                for member in members {
                    if member.options.ignore_result() == Some(true) {
                        found.push(format!(
                            "{member} ignores its result, but is in a header: the body gets the \
                             value all the same, here and on Redis; other Celery backends wait for ever"
                        ));
                    }
                    ignored_in_headers(member, found);
                }
            }
            parts.body.iter().for_each(|b| ignored_in_headers(b, found));
        }
        Shape::Task | Shape::Custom(_) => {}
    });
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: usize = self.messages.iter().map(|m| m.bytes).sum();
        writeln!(f, "{}", self.canvas)?;
        writeln!(
            f,
            "{} messages ({bytes} bytes of body), {} joins, {} bytes kept",
            self.messages.len(),
            self.joins.len(),
            self.kept_bytes
        )?;
        for message in &self.messages {
            let sender = match &message.sent_by {
                None => "client".to_owned(),
                Some(id) => format!("task {id}"),
            };
            writeln!(
                f,
                "  {sender} -> {} {}[{}] {} bytes",
                message.queue, message.task, message.id, message.bytes
            )?;
        }
        for join in &self.joins {
            writeln!(
                f,
                "  join {} of {}, body after {}",
                join.id, join.size, join.quorum
            )?;
        }
        for trap in &self.traps {
            writeln!(f, "  note: {trap}")?;
        }
        Ok(())
    }
}
