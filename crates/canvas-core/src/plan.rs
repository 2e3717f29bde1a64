//! A frozen canvas → what to publish and which joins to open. Pure.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::advance::first_tasks;
use crate::backend::JoinSpec;
use crate::broker::{Destination, Outgoing};
use crate::config::Config;
use crate::effect::Effect;
use crate::error::{Error, Result};
use crate::freeze::{Place, freeze, frozen};
use crate::id::{Id, Ids};
use crate::json::deep;
use crate::options::Options;
use crate::policy::Policy;
use crate::primitive::{count, ends_in_group, normalize};
use crate::protocol::{Body, Embed, Fields, Headers, Message, Properties, Sealed, saferepr};
use crate::result::ResultTree;
use crate::signature::{ChordParts, Kwargs, Shape, Signature};
use crate::task::TaskRegistry;

/// A queue for a task name, decided by the application.
pub(crate) type RouteFn = dyn Fn(&str) -> Option<String> + Send + Sync;

/// What planning needs to know of the application. It holds no connection.
#[derive(Clone)]
pub struct Env {
    /// The settings.
    pub config: Arc<Config>,
    /// The tasks that are known here, for their options.
    pub tasks: Arc<TaskRegistry>,
    /// Routes in code.
    pub(crate) router: Option<Arc<RouteFn>>,
    /// Who sends: `gen<pid>@<host>`.
    pub origin: Arc<str>,
    /// The queue that results may be sent to.
    pub reply_to: Id,
    /// Whether Celery's clients join chords by polling:
    /// [`BackendInfo::polled`](crate::backend::BackendInfo::polled).
    pub(crate) polled: bool,
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env")
            .field("config", &self.config)
            .field("tasks", &self.tasks)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// A key of a chord's body that says that its join was opened, where those from
/// Python are joined without one. It travels with the body, wherever that goes.
const JOINED: &str = "canvas-joined";

impl Env {
    /// Whether the chord with this body has a join: else Python polls for it.
    pub(crate) fn has_join(&self, body: &Sealed) -> bool {
        // Only what was sent from here is kept, and stood for by a reference.
        !self.polled
            || body.reference_key().is_some()
            || body
                .open()
                .is_ok_and(|body| body.extra.contains_key(JOINED))
    }
}

/// What goes on after a canvas.
#[derive(Debug, Clone, Default)]
pub(crate) struct Onward {
    /// The steps still to come, the next one last.
    pub(crate) chain: Vec<Sealed>,
    /// The body of the chord that the canvas's last tasks arrive at.
    pub(crate) chord: Option<Sealed>,
}

/// Where a canvas is sent from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origin {
    /// The first task of the whole.
    pub(crate) root: Option<Id>,
    /// The task that sends it.
    pub(crate) parent: Option<Id>,
    /// Its priority, where that is inherited.
    pub(crate) priority: Option<u8>,
    /// How often the task it replaces was replaced.
    pub(crate) nesting: u32,
    /// Who wants the results, if not who sends it.
    pub(crate) reply_to: Option<Id>,
}

/// Turns canvases into effects.
pub(crate) struct Planner<'a> {
    pub(crate) env: &'a Env,
    pub(crate) ids: Ids,
    pub(crate) from: Origin,
    pub(crate) now: DateTime<Utc>,
    pub(crate) effects: Vec<Effect>,
}

/// Options that become something else than a property of the message.
const HANDLED: [&str; 32] = [
    "task_id",
    "root_id",
    "parent_id",
    "group_id",
    "group_index",
    "chord",
    "chain",
    "link",
    "link_error",
    "reply_to",
    "queue",
    "exchange",
    "routing_key",
    "priority",
    "countdown",
    "eta",
    "expires",
    "time_limit",
    "soft_time_limit",
    "ignore_result",
    "headers",
    "shadow",
    "retry",
    "retry_policy",
    "serializer",
    "compression",
    "delivery_mode",
    "retries",
    "stamped_headers",
    "add_to_parent",
    "immutable",
    "replaced_task_nesting",
];

impl<'a> Planner<'a> {
    pub(crate) fn new(env: &'a Env, ids: Ids, from: Origin, now: DateTime<Utc>) -> Self {
        Self {
            env,
            ids,
            from,
            now,
            effects: Vec::new(),
        }
    }

    /// Freezes a canvas and plans it. `args` arrive from the task before it.
    pub(crate) fn apply(
        &mut self,
        signature: Signature,
        args: &[Value],
        place: Place<'_>,
        onward: Onward,
    ) -> Result<ResultTree> {
        // A root and a parent that are given to a canvas are those of its tasks.
        let root = signature.options.root_id().or(self.from.root.clone());
        let parent = signature.options.parent_id().or(self.from.parent.clone());
        let given = Origin {
            root,
            parent,
            ..self.from.clone()
        };
        let own = std::mem::replace(&mut self.from, given);
        let tree = self.apply_from(signature, args, place, onward);
        self.from = own;
        tree
    }

    fn apply_from(
        &mut self,
        signature: Signature,
        args: &[Value],
        place: Place<'_>,
        onward: Onward,
    ) -> Result<ResultTree> {
        let mut signature = normalize(signature)?;
        self.mark_ignored(&mut signature);
        let tree = freeze(&mut signature, &mut self.ids, place)?;
        self.emit(signature, args, onward)?;
        Ok(tree)
    }

    /// Writes down where a task's own default drops its result, so that
    /// whoever waits knows.
    fn mark_ignored(&self, signature: &mut Signature) {
        deep(|| match &mut signature.shape {
            Shape::Task | Shape::Custom(_) => {
                if signature.options.ignore_result().is_none()
                    && self.ignores(signature) == Some(true)
                {
                    signature.options.set("ignore_result", true);
                }
            }
            Shape::Chain(tasks) | Shape::Group(tasks) => {
                tasks.iter_mut().for_each(|t| self.mark_ignored(t));
            }
            Shape::Chord(parts) => {
                self.mark_ignored(&mut parts.header);
                parts.body.iter_mut().for_each(|b| self.mark_ignored(b));
            }
        });
    }

    fn ignores(&self, signature: &Signature) -> Option<bool> {
        signature.options.ignore_result().or_else(|| {
            let everywhere = self.env.config.task_ignore_result;
            match self.env.tasks.options(&signature.task) {
                Some(options) => Some(options.ignore_result || everywhere),
                // Celery's own tasks are known to everyone.
                None => signature.task.starts_with("celery.").then_some(everywhere),
            }
        })
    }

    /// Plans a canvas that is in normal form and frozen.
    pub(crate) fn emit(
        &mut self,
        signature: Signature,
        args: &[Value],
        onward: Onward,
    ) -> Result<()> {
        deep(|| match signature.shape {
            Shape::Task | Shape::Custom(_) => self.emit_task(signature, args, onward),
            Shape::Chain(_) => self.emit_chain(signature, args, onward),
            Shape::Group(_) => self.emit_group(signature, args, onward),
            Shape::Chord(_) => self.emit_chord(signature, args, onward),
        })
    }

    fn emit_task(
        &mut self,
        mut signature: Signature,
        args: &[Value],
        mut onward: Onward,
    ) -> Result<()> {
        signature.merge(args, &Kwargs::new(), &Options::new(), false);
        let own = tail(&mut signature.options)?;
        onward.chain = joined(own, onward.chain);
        if let Some(chord) = signature.options.remove("chord") {
            onward
                .chord
                .get_or_insert(Sealed::new(&Signature::from_value(chord)?)?);
        }
        let outgoing = self.message(&signature, onward)?;
        self.effects.push(Effect::Publish(Box::new(outgoing)));
        Ok(())
    }

    fn emit_chain(
        &mut self,
        mut signature: Signature,
        args: &[Value],
        mut onward: Onward,
    ) -> Result<()> {
        let own = tail(&mut signature.options)?;
        onward.chain = joined(own, onward.chain);
        let Shape::Chain(mut steps) = signature.shape else {
            return Ok(());
        };
        if let (Some(chord), Some(last)) = (onward.chord.take(), steps.last_mut()) {
            attach_chord(last, &chord)?;
        }
        let mut steps = steps.into_iter();
        let Some(first) = steps.next() else {
            return Err(Error::InvalidCanvas(
                "a chain needs at least one step".to_owned(),
            ));
        };
        let rest: Vec<Signature> = steps.collect();
        onward.chain = self.seal_tail(rest, onward.chain)?;
        self.emit(first, args, onward)
    }

    /// Seals the steps that follow, the next one last. Where references are on
    /// and they are beyond the limit, they are kept in pieces, each of which
    /// ends in a reference to the next, and the message carries a reference:
    /// the header of a chord then costs little however long its members are.
    fn seal_tail(&mut self, steps: Vec<Signature>, after: Vec<Sealed>) -> Result<Vec<Sealed>> {
        let mut sealed: Vec<Sealed> = after;
        let Some(limit) = self.env.config.continuation_reference_size else {
            for step in steps.into_iter().rev() {
                sealed.push(self.seal(step)?);
            }
            return Ok(sealed);
        };
        let mut size: usize = sealed.iter().map(Sealed::len).sum();
        let mut is_kept = false;
        for step in steps.into_iter().rev() {
            let next = self.seal(step)?;
            if size + next.len() > limit && !sealed.is_empty() {
                let reference = self.keep(&sealed, None)?;
                size = reference.len();
                sealed = vec![reference];
                is_kept = true;
            }
            size += next.len();
            sealed.push(next);
        }
        if is_kept {
            sealed = vec![self.keep(&sealed, None)?];
        }
        Ok(sealed)
    }

    /// Seals what another process will send. It is told who wants the results:
    /// left to itself, it would have them sent to itself.
    fn seal(&self, mut signature: Signature) -> Result<Sealed> {
        self.address(&mut signature);
        Sealed::new(&signature)
    }

    fn reply_to(&self) -> &Id {
        self.from.reply_to.as_ref().unwrap_or(&self.env.reply_to)
    }

    fn address(&self, signature: &mut Signature) {
        deep(|| match &mut signature.shape {
            Shape::Task | Shape::Custom(_) => {
                let reply_to = self.reply_to().as_str();
                signature.options.set_default("reply_to", reply_to);
            }
            Shape::Chain(tasks) | Shape::Group(tasks) => {
                tasks.iter_mut().for_each(|t| self.address(t));
            }
            Shape::Chord(parts) => {
                self.address(&mut parts.header);
                parts.body.iter_mut().for_each(|b| self.address(b));
            }
        });
    }

    /// Keeps signatures under a key that follows from what they are.
    fn keep(&mut self, signatures: &[Sealed], like: Option<&Signature>) -> Result<Sealed> {
        let value = crate::json::write(signatures, "a continuation")?;
        let id = like.and_then(|like| like.options.task_id());
        let key = crate::protocol::reference::key(&value, id);
        self.effects.push(Effect::Keep {
            key: key.clone(),
            value: Bytes::from(value),
        });
        Sealed::reference(&key, like)
    }

    fn emit_group(
        &mut self,
        mut signature: Signature,
        args: &[Value],
        mut onward: Onward,
    ) -> Result<()> {
        let own = tail(&mut signature.options)?;
        onward.chain = joined(own, onward.chain);
        if let Some(chord) = signature.options.remove("chord") {
            onward
                .chord
                .get_or_insert(Sealed::new(&Signature::from_value(chord)?)?);
        }
        // Only a message that we did not write can have a step after a group.
        if let Some(next) = onward.chain.pop() {
            let mut chord = crate::primitive::upgraded(signature, next.open()?);
            freeze(&mut chord, &mut self.ids, Place::default())?;
            return self.emit(chord, args, onward);
        }
        let id = signature.options.task_id();
        let Shape::Group(members) = signature.shape else {
            return Ok(());
        };
        for mut member in members {
            if let Some(id) = &id {
                set_group(&mut member, id);
            }
            let onward = Onward {
                chain: Vec::new(),
                chord: onward.chord.clone(),
            };
            self.emit(member, args, onward)?;
        }
        Ok(())
    }

    fn emit_chord(
        &mut self,
        mut signature: Signature,
        args: &[Value],
        mut onward: Onward,
    ) -> Result<()> {
        let own = tail(&mut signature.options)?;
        onward.chain = joined(own, onward.chain);
        if let Some(chord) = signature.options.remove("chord") {
            onward
                .chord
                .get_or_insert(Sealed::new(&Signature::from_value(chord)?)?);
        }
        let Shape::Chord(parts) = signature.shape else {
            return Ok(());
        };
        let ChordParts { header, body, .. } = *parts;
        let (Some(mut body), Some(id)) = (body, header.options.task_id()) else {
            return Err(Error::InvalidCanvas("a chord needs a body".to_owned()));
        };
        if let Some(chord) = &onward.chord {
            attach_chord(&mut body, chord)?;
        }
        let size = count(&header);
        set_group(&mut body, &id);
        if size == 0 {
            let nothing = crate::primitive::no_results();
            let chain = onward.chain;
            return self.emit(body, &[nothing], Onward { chain, chord: None });
        }
        let mut header = header;
        if self.env.config.task_allow_error_cb_on_chord_header {
            for task in first_tasks(&body) {
                for errback in task.options.error_links()? {
                    // Celery marks it so, which leaves it its argument.
                    header.add_link_error(errback.set("immutable", true));
                }
            }
        }
        let quorum = Policy::of(&body).quorum(size);
        if self.env.polled {
            body.extra.insert(JOINED.to_owned(), Value::Bool(true));
        }
        let body = self.seal_body(body, onward.chain)?;
        if let Shape::Group(members) = &header.shape
            && members.iter().any(ends_in_group)
            && let Some(shape) = frozen(&header)
        {
            self.effects.push(Effect::SaveGroup(Box::new(shape)));
        }
        self.effects
            .push(Effect::OpenJoin(JoinSpec { id, size, quorum }));
        let onward = Onward {
            chain: Vec::new(),
            chord: Some(body),
        };
        self.emit(header, args, onward)
    }

    /// A chord's body with what follows it, whole or by reference.
    fn seal_body(&mut self, mut body: Signature, chain: Vec<Sealed>) -> Result<Sealed> {
        if !chain.is_empty() {
            let chain: Result<Vec<Value>> = chain
                .iter()
                .map(|step| Ok(step.open()?.to_value()))
                .collect();
            body.options.set("chain", chain?);
        }
        self.address(&mut body);
        let sealed = Sealed::new(&body)?;
        match self.env.config.continuation_reference_size {
            Some(limit) if sealed.len() > limit => self.keep(&[sealed], Some(&body)),
            _ => Ok(sealed),
        }
    }

    fn message(&self, signature: &Signature, onward: Onward) -> Result<Outgoing> {
        let options = &signature.options;
        self.check(signature)?;
        let known = self.env.tasks.options(&signature.task);
        let id = options.task_id().unwrap_or_else(Id::random);
        let limit = |call: Option<std::time::Duration>| call.map(|l| l.as_secs_f64());
        let eta = match options.countdown() {
            Some(delay) => chrono::Duration::from_std(delay).ok().map(|d| self.now + d),
            None => options.eta(),
        };
        let expires = options.expires(self.now).or_else(|| {
            let own = known?.expires?;
            Some(self.now + chrono::Duration::from_std(own).ok()?)
        });
        let names = options
            .get("stamped_headers")
            .map(|_| options.stamped_headers());
        let stamps: Fields = names
            .iter()
            .flatten()
            .filter_map(|name| Some((name.clone(), options.get(name)?.clone())))
            .collect();
        let root = options.root_id().or_else(|| self.from.root.clone());
        let headers = Headers {
            task: Some(signature.task.as_str().into()),
            id: Some(id.clone()),
            shadow: options
                .get("shadow")
                .and_then(Value::as_str)
                .map(Into::into),
            eta: eta.filter(|eta| *eta > self.now),
            expires,
            group: options.group_id(),
            group_index: options.group_index(),
            retries: options.retries(),
            timelimit: (
                limit(options.time_limit()),
                limit(options.soft_time_limit()),
            ),
            root_id: Some(root.unwrap_or_else(|| id.clone())),
            parent_id: options.parent_id().or_else(|| self.from.parent.clone()),
            argsrepr: saferepr::args(&signature.args).into(),
            kwargsrepr: saferepr::kwargs(&signature.kwargs).into(),
            origin: self.env.origin.clone(),
            ignore_result: self.ignores(signature),
            replaced_task_nesting: self.from.nesting,
            stamped_headers: names,
            stamps,
            extra: options.headers().cloned().unwrap_or_default().into(),
            ..Headers::default()
        };
        let properties = self.properties(signature, id, expires);
        let body = Body(
            signature.args.clone(),
            signature.kwargs.clone(),
            Embed {
                callbacks: sealed_list(options.links()?)?,
                errbacks: sealed_list(options.error_links()?)?,
                chain: (!onward.chain.is_empty()).then_some(onward.chain),
                chord: onward.chord,
            },
        );
        Ok(Outgoing {
            to: self.destination(&signature.task, options),
            message: Message {
                headers,
                properties,
                body: deep(|| body.to_json())?,
            },
        })
    }

    fn properties(
        &self,
        signature: &Signature,
        id: Id,
        expires: Option<DateTime<Utc>>,
    ) -> Properties {
        let options = &signature.options;
        let env = self.env;
        let stamps = options.stamped_headers();
        let extra = options.as_map().iter().filter(|(key, value)| {
            let handled = HANDLED.contains(&key.as_str());
            !handled && !value.is_null() && !stamps.contains(key)
        });
        let own = env.tasks.options(&signature.task).and_then(|o| o.priority);
        let route = env.config.route(&signature.task).and_then(|r| r.priority);
        let in_ms = |at: DateTime<Utc>| (at - self.now).num_milliseconds().max(0).cast_unsigned();
        Properties {
            correlation_id: Some(id),
            reply_to: options
                .get("reply_to")
                .and_then(Value::as_str)
                .map(Id::from)
                .or_else(|| Some(self.reply_to().clone())),
            priority: options
                .priority()
                .or(self.from.priority)
                .or(own)
                .or(route)
                .or(env.config.task_default_priority),
            expiration: expires.map(in_ms),
            delivery_mode: options.delivery_mode(),
            content_type: Cow::Borrowed("application/json"),
            extra: extra.map(|(k, v)| (k.clone(), v.clone())).collect(),
            ..Properties::default()
        }
    }

    fn destination(&self, task: &str, options: &Options) -> Destination {
        let own = self.env.tasks.options(task);
        let routed = self.env.router.as_ref().and_then(|route| route(task));
        let own = routed
            .as_deref()
            .or_else(|| own.and_then(|o| o.queue.as_deref()));
        self.env.config.destination(task, options, own)
    }

    /// What Celery's client refuses too.
    fn check(&self, signature: &Signature) -> Result<()> {
        let options = &signature.options;
        if let (Some(soft), Some(hard)) = (options.soft_time_limit(), options.time_limit())
            && soft > hard
        {
            return Err(Error::InvalidCanvas(format!(
                "{}: the soft time limit ({soft:?}) must not be over the hard one ({hard:?})",
                signature.task
            )));
        }
        match options.get("serializer").and_then(Value::as_str) {
            None | Some("json") => Ok(()),
            Some(other) => Err(Error::InvalidCanvas(format!(
                "{}: serializer `{other}` is not supported: messages are JSON",
                signature.task
            ))),
        }
    }
}

/// Puts the last tasks of a canvas into a group, unless they are in one. They
/// are its members; Celery also puts a chord's body into the header's group.
fn set_group(signature: &mut Signature, group: &Id) {
    deep(|| match &mut signature.shape {
        Shape::Chain(steps) => {
            if let Some(last) = steps.last_mut() {
                set_group(last, group);
            }
        }
        Shape::Chord(parts) => parts.body.iter_mut().for_each(|b| set_group(b, group)),
        Shape::Group(members) => {
            signature.options.set_default("group_id", group.as_str());
            members.iter_mut().for_each(|m| set_group(m, group));
        }
        Shape::Task | Shape::Custom(_) => {
            signature.options.set_default("group_id", group.as_str());
        }
    });
}

/// Makes the last tasks of a canvas arrive at the chord with this body.
fn attach_chord(signature: &mut Signature, chord: &Sealed) -> Result<()> {
    deep(|| match &mut signature.shape {
        Shape::Chain(steps) => match steps.last_mut() {
            Some(last) => attach_chord(last, chord),
            None => Ok(()),
        },
        Shape::Chord(parts) => match &mut parts.body {
            Some(body) => attach_chord(body, chord),
            None => Ok(()),
        },
        Shape::Group(members) => members.iter_mut().try_for_each(|m| attach_chord(m, chord)),
        Shape::Task | Shape::Custom(_) => {
            signature.options.set("chord", chord.open()?.to_value());
            Ok(())
        }
    })
}

/// Takes the steps that follow a canvas out of its options.
pub(crate) fn tail(options: &mut Options) -> Result<Vec<Sealed>> {
    match options.remove("chain") {
        None => Ok(Vec::new()),
        Some(Value::Array(steps)) => steps
            .into_iter()
            .map(|step| Sealed::new(&Signature::from_value(step)?))
            .collect(),
        Some(_) => Err(crate::options::malformed("option `chain` must be a list")),
    }
}

/// What `later` says runs after what `sooner` says: lists of steps have the
/// next one last.
fn joined(mut later: Vec<Sealed>, sooner: Vec<Sealed>) -> Vec<Sealed> {
    later.extend(sooner);
    later
}

fn sealed_list(signatures: Vec<Signature>) -> Result<Option<Vec<Sealed>>> {
    if signatures.is_empty() {
        return Ok(None);
    }
    signatures
        .iter()
        .map(Sealed::new)
        .collect::<Result<_>>()
        .map(Some)
}
