//! (request, outcome) → effects. Pure: all that canvas means is decided here,
//! with no broker and no backend at hand.
//!
//! The rule behind it: every canvas ends. Whatever becomes of a task reaches
//! every result that depends on it, however deep.

use std::collections::BTreeSet;

mod fail;
mod send;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::backend::Part;
use crate::broker::{Destination, Outgoing, Settle};
use crate::effect::{Arrive, Effect, Errback, Step};
use crate::error::{Error, Result};
use crate::exception::ExceptionInfo;
use crate::freeze::{Member, Place};
use crate::id::{Id, Ids};
use crate::json::{MAX_DEPTH, deep, is_too_deep};
use crate::plan::{Env, Onward, Origin, Planner};
use crate::policy::Policy;
use crate::primitive::{ends_in_group, normalize};
use crate::protocol::{Request, Sealed, TaskMeta};
use crate::result::ResultTree;
use crate::signature::{Shape, Signature};
use crate::state::State;
use crate::task::{Failure, Retry, TaskError};

pub use send::apply;
pub(crate) use send::{add_to_chord, launch};

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// With a value.
    Success(Value),
    /// Otherwise.
    Error(TaskError),
    /// It was called off, or came too late, before or while it ran: the reason
    /// is Celery's word, `revoked`, `expired` or `terminated`.
    Revoked(&'static str),
    /// The message was put aside before it ran: an unknown task, or one that
    /// was delivered too often.
    Refused(ExceptionInfo),
}

/// What is done with a request that ended in `outcome`. `launched` are the
/// canvases that the task sent itself.
///
/// What follows the task must be at hand: see [`Request::missing`].
///
/// # Errors
/// None for a well-formed request. One whose continuation cannot be read ends
/// in FAILURE, as does one that wants to be replaced by an invalid canvas.
pub fn advance(
    env: &Env,
    request: &Request,
    outcome: Outcome,
    launched: Vec<ResultTree>,
    now: DateTime<Utc>,
) -> Step {
    let run = Run { env, request, now };
    let broken = |error: Error| {
        let text = match error {
            Error::InvalidCanvas(reason) => reason,
            other => other.to_string(),
        };
        let exception = ExceptionInfo::celery("ImproperlyConfigured", text);
        let failure = Failure {
            exception,
            traceback: None,
        };
        run.failure(State::Failure, &failure, Settle::Ack)
    };
    match outcome {
        Outcome::Success(value) if is_too_deep(&value) => {
            let text = format!(
                "{}() returned a value that is nested too deeply: at most {MAX_DEPTH} levels are read",
                request.task
            );
            let exception = ExceptionInfo::new("kombu.exceptions", "EncodeError", text);
            let failure = Failure {
                exception,
                traceback: None,
            };
            run.failure(State::Failure, &failure, Settle::Ack)
        }
        Outcome::Success(value) => run.success(value, launched).unwrap_or_else(broken),
        Outcome::Error(TaskError::Failed(failure)) => run.failed(*failure),
        Outcome::Error(TaskError::Retry(retry)) => run.retry(*retry).unwrap_or_else(broken),
        Outcome::Error(TaskError::Replaced(canvas)) => run.replaced(*canvas).unwrap_or_else(broken),
        Outcome::Error(TaskError::Ignore) => {
            let exception = ExceptionInfo::celery("Ignore", "the task asked to be ignored");
            let failure = Failure {
                exception,
                traceback: None,
            };
            run.failure(State::Ignored, &failure, Settle::Ack)
        }
        Outcome::Error(TaskError::Reject { requeue: true, .. }) => Step {
            effects: Vec::new(),
            settle: Settle::Requeue,
            ended: false,
        },
        Outcome::Error(TaskError::Reject { reason, .. }) => {
            let exception = ExceptionInfo::celery("Reject", reason.clone());
            let failure = Failure {
                exception,
                traceback: None,
            };
            run.failure(State::Failure, &failure, Settle::Reject(reason))
        }
        Outcome::Revoked(reason) => {
            let failure = Failure {
                exception: ExceptionInfo::celery("TaskRevokedError", reason),
                traceback: None,
            };
            run.failure(State::Revoked, &failure, Settle::Ack)
        }
        Outcome::Refused(exception) => {
            let reason = exception.to_string();
            let failure = Failure {
                exception,
                traceback: None,
            };
            run.failure(State::Failure, &failure, Settle::Reject(reason))
        }
    }
}

/// What is done with a join that is complete: its body is sent, or fails.
/// `request` is the member that completed it; `shape` is that of the header,
/// where it was kept.
///
/// # Errors
/// [`Error::MalformedSignature`] when the body cannot be sent.
pub fn joined(
    env: &Env,
    request: &Request,
    body: &Signature,
    parts: &[Part],
    shape: Option<&ResultTree>,
    now: DateTime<Utc>,
) -> Result<Vec<Effect>> {
    let run = Run { env, request, now };
    match Policy::of(body).judge(parts, shape) {
        Ok(values) => {
            let mut planner = run.planner("join");
            // The whole canvas of a body is frozen, as its header was.
            planner.apply(body.clone(), &[values], Place::default(), Onward::default())?;
            Ok(planner.effects)
        }
        Err(exception) => {
            let failed = || parts.iter().filter(|part| !part.is_ok());
            let cause = failed().next();
            let cause = cause.map(|part| ExceptionInfo::from_result(&part.result));
            let told = failed().flat_map(Told::of).collect();
            Ok(run.fail_body(body, &exception, cause.as_ref(), told))
        }
    }
}

/// What is done with a body whose join is lost: it fails, with the reason.
pub fn join_lost(
    env: &Env,
    request: &Request,
    body: &Signature,
    reason: &str,
    now: DateTime<Utc>,
) -> Vec<Effect> {
    let run = Run { env, request, now };
    let exception = ExceptionInfo::celery("ChordError", reason);
    run.fail_body(body, &exception, None, Told::default())
}

/// What was kept that `request` needs before [`advance`] can decide.
impl Request {
    /// The key of a kept continuation that must be put into
    /// the request with [`supply`](Self::supply) first. After a success only
    /// the next step matters (`all` false); a failure reaches them all.
    pub fn missing(&self, all: bool) -> Option<Id> {
        let chain = self.chain();
        if all {
            chain.iter().find_map(Sealed::reference_key)
        } else {
            chain.last().and_then(Sealed::reference_key)
        }
    }

    /// Puts kept steps in the place of the reference to them.
    pub fn supply(&mut self, key: &Id, kept: Vec<Sealed>) {
        if let Some(chain) = &mut self.embed.chain
            && let Some(at) = chain
                .iter()
                .position(|step| step.reference_key().as_ref() == Some(key))
        {
            chain.splice(at..=at, kept);
        }
    }
}

struct Run<'a> {
    env: &'a Env,
    request: &'a Request,
    now: DateTime<Utc>,
}

impl<'a> Run<'a> {
    fn planner(&self, edge: &str) -> Planner<'a> {
        let inherit = self.env.config.task_inherit_parent_priority;
        let from = Origin {
            root: Some(self.request.root_id()),
            parent: Some(self.request.id.clone()),
            priority: self.request.properties.priority.filter(|_| inherit),
            nesting: 0,
            // Whoever asked for this wants what comes of it. (Celery's workers
            // have it sent to themselves, and never look.)
            reply_to: self.request.properties.reply_to.clone(),
        };
        let ids = Ids::derived(&self.request.id, edge);
        Planner::new(self.env, ids, from, self.now)
    }

    fn meta(&self, state: State) -> TaskMeta {
        let request = self.request;
        let mut meta = TaskMeta::new(request.id.clone(), state);
        meta.date_done = meta.status.is_ready().then_some(self.now);
        meta.group_id = request.headers.group.clone();
        meta.parent_id = request.headers.parent_id.clone();
        meta.reply = request.reply();
        if self.env.config.result_extended {
            let extended = json!({
                "name": &*request.task,
                "args": request.args,
                "kwargs": request.kwargs,
                "worker": &*self.env.origin,
                "retries": request.headers.retries,
                "queue": &*request.delivery.queue,
            });
            if let Value::Object(map) = extended {
                meta.extended.extend(map);
            }
            if let Some(names) = &request.headers.stamped_headers {
                meta.extended
                    .insert("stamped_headers".to_owned(), json!(names));
                meta.extended.extend((*request.headers.stamps).clone());
            }
        }
        meta
    }

    /// Whether the result is dropped.
    fn ignores(&self) -> bool {
        self.request.headers.ignore_result.unwrap_or_else(|| {
            let own = self.env.tasks.options(&self.request.task);
            own.is_some_and(|o| o.ignore_result) || self.env.config.task_ignore_result
        })
    }

    /// Counts the task into its chord, if it is in one.
    fn arrive(&self, state: State, result: Value) -> Option<Effect> {
        let body = self.request.embed.chord.clone()?;
        let join = self.request.headers.group.clone()?;
        let part = Part {
            task_id: self.request.id.clone(),
            index: self.request.headers.group_index,
            state,
            result,
        };
        Some(Effect::Arrive(Box::new(Arrive { join, part, body })))
    }

    fn success(&self, value: Value, mut children: Vec<ResultTree>) -> Result<Step> {
        let embed = &self.request.embed;
        let args = [value.clone()];
        let mut planner = self.planner("link");
        for callback in embed.callbacks.iter().flatten() {
            let callback = callback.open()?;
            children.push(planner.apply(callback, &args, Place::default(), Onward::default())?);
        }
        planner.ids = Ids::derived(&self.request.id, "chain");
        let mut chain = self.request.chain().to_vec();
        if let Some(next) = chain.pop() {
            let onward = Onward { chain, chord: None };
            children.push(planner.apply(next.open()?, &args, Place::default(), onward)?);
        }
        let mut effects = Vec::with_capacity(planner.effects.len() + 2);
        if !self.ignores() {
            let mut meta = self.meta(State::Success);
            meta.result = value.clone();
            meta.children = Some(children);
            effects.push(Effect::Store(Box::new(meta)));
        }
        effects.extend(planner.effects);
        effects.extend(self.arrive(State::Success, value));
        Ok(Step {
            effects,
            settle: Settle::Ack,
            ended: false,
        })
    }

    /// An error: retried where the task's policy says so.
    fn failed(&self, failure: Failure) -> Step {
        let policy = self.env.tasks.options(&self.request.task).map(|o| &o.retry);
        if let Some(policy) = policy
            && policy.is_automatic(&failure.exception.exc_type)
        {
            let retry = Retry {
                countdown: Some(policy.automatic_delay(self.request.retries())),
                max_retries: None,
                arguments: None,
                cause: Some(failure.clone()),
            };
            if let Ok(step) = self.retry(retry) {
                return step;
            }
        }
        self.failure(State::Failure, &failure, Settle::Ack)
    }

    fn retry(&self, retry: Retry) -> Result<Step> {
        let policy = self.env.tasks.options(&self.request.task);
        let policy = policy.map(|o| o.retry.clone()).unwrap_or_default();
        let request = self.request;
        let limit = retry.max_retries.or(policy.max_retries);
        if limit.is_some_and(|limit| request.retries() >= limit) {
            let failure = retry.cause.unwrap_or_else(|| Failure {
                exception: ExceptionInfo::celery(
                    "MaxRetriesExceededError",
                    format!(
                        "Can't retry {}[{}] args:{} kwargs:{}",
                        request.task,
                        request.id,
                        request.headers.argsrepr,
                        request.headers.kwargsrepr
                    ),
                ),
                traceback: None,
            });
            return Ok(self.failure(State::Failure, &failure, Settle::Ack));
        }
        let delay = retry.countdown.unwrap_or(policy.delay);
        let eta = chrono::Duration::from_std(delay)
            .map(|delay| self.now + delay)
            .map_err(|e| Error::InvalidCanvas(format!("retry countdown: {e}")))?;
        let mut again = request.clone();
        again.headers.retries += 1;
        again.headers.eta = (!delay.is_zero()).then_some(eta);
        if let Some(arguments) = retry.arguments {
            again.args = arguments.args;
            again.kwargs = arguments.kwargs;
            again.headers.argsrepr = crate::protocol::saferepr::args(&again.args).into();
            again.headers.kwargsrepr = crate::protocol::saferepr::kwargs(&again.kwargs).into();
        }
        let mut effects = Vec::new();
        if !self.ignores() {
            let mut meta = self.meta(State::Retry);
            let cause = retry.cause.unwrap_or_else(|| Failure {
                exception: ExceptionInfo::celery(
                    "Retry",
                    format!("Retry in {}s", delay.as_secs_f64()),
                ),
                traceback: None,
            });
            meta.result = cause.exception.to_value();
            meta.traceback = cause.traceback;
            effects.push(Effect::Store(Box::new(meta)));
        }
        effects.push(Effect::Publish(Box::new(Outgoing {
            to: Destination::queue(request.delivery.queue.clone()),
            message: again.encode()?,
        })));
        Ok(Step {
            effects,
            settle: Settle::Ack,
            ended: false,
        })
    }

    /// The task has ended without a value: so has all that waits for it.
    fn failure(&self, state: State, failure: &Failure, settle: Settle) -> Step {
        let exception = &failure.exception;
        let mut effects = Vec::new();
        if !self.ignores() || self.env.config.task_store_errors_even_if_ignored {
            let mut meta = self.meta(state.clone());
            meta.result = exception.to_value();
            meta.traceback = failure.traceback.clone();
            effects.push(Effect::Store(Box::new(meta)));
        }
        let embed = &self.request.embed;
        for callback in embed.callbacks.iter().flatten() {
            self.fail_sealed(callback, exception, &mut effects);
        }
        for step in self.request.chain().iter().rev() {
            self.fail_sealed(step, exception, &mut effects);
        }
        let errbacks: Vec<Signature> = embed.errbacks.iter().flatten().filter_map(opened).collect();
        self.errbacks(errbacks, self.request, failure, &mut effects);
        // Celery's chords know FAILURE and REVOKED only.
        let state = if state == State::Ignored {
            State::Failure
        } else {
            state
        };
        effects.extend(self.arrive(state, exception.to_value()));
        sort(&mut effects);
        Step {
            effects,
            settle,
            ended: true,
        }
    }

    /// Calls error callbacks: those known here as such with the error, all
    /// others by message, with the id of the task that failed. As in Celery,
    /// these are a group.
    fn errbacks(
        &self,
        errbacks: Vec<Signature>,
        request: &Request,
        failure: &Failure,
        effects: &mut Vec<Effect>,
    ) -> Option<ResultTree> {
        let mut planner = self.planner("errback");
        planner.ids = Ids::derived(&request.id, "errback");
        planner.from.parent = Some(request.id.clone());
        let group = planner.ids.fresh();
        let (mut sent, mut next) = (Vec::new(), 0);
        for signature in errbacks {
            let known = self.env.tasks.options(&signature.task);
            if known.is_some_and(|options| options.errback) {
                effects.push(Effect::Errback(Box::new(Errback {
                    signature,
                    request: request.clone(),
                    exception: failure.exception.clone(),
                    traceback: failure.traceback.clone(),
                })));
                continue;
            }
            let name = signature.task.clone();
            let id = [Value::from(request.id.as_str())];
            let place = Place {
                id: None,
                member: Some(Member {
                    group: Some(group.clone()),
                    next: &mut next,
                }),
            };
            match planner.apply(signature, &id, place, Onward::default()) {
                Ok(tree) => sent.push(tree),
                Err(error) => {
                    tracing::error!(task = %request.task, errback = name, %error, "error callback cannot be sent");
                }
            }
        }
        effects.extend(planner.effects);
        (!sent.is_empty()).then(|| ResultTree::group(group, sent))
    }

    /// A canvas takes the task's place: its result is the task's, and what
    /// follows the task follows it.
    fn replaced(&self, canvas: Signature) -> Result<Step> {
        if canvas.options.get("chord").is_some() {
            return Err(Error::InvalidCanvas(
                "a signature that is in a chord already cannot replace a task".to_owned(),
            ));
        }
        if matches!(&canvas.shape, Shape::Chain(steps) if steps.is_empty()) {
            return Err(Error::InvalidCanvas(
                // Celery's words, which its users look for.
                "Cannot replace with an empty chain".to_owned(),
            ));
        }
        let mut canvas = normalize(canvas)?;
        if ends_in_group(&canvas) {
            // The task has one result, so the group's are put into a list.
            let accumulate = Signature::new("celery.accumulate").kwarg("index", 0);
            canvas = normalize(canvas | accumulate)?;
        }
        let embed = &self.request.embed;
        for errback in embed.errbacks.iter().flatten() {
            let errback = errback.open()?;
            match &mut canvas.shape {
                Shape::Chain(steps) => {
                    for step in steps {
                        step.add_link_error(errback.clone());
                    }
                }
                _ => canvas.add_link_error(errback),
            }
        }
        let last = last_task(&mut canvas);
        for callback in embed.callbacks.iter().flatten() {
            last.add_link(callback.open()?);
        }
        last.options.set("task_id", self.request.id.as_str());
        if let Some(reply_to) = &self.request.properties.reply_to {
            last.options.set_default("reply_to", reply_to.as_str());
        }
        // Whoever waits for this task knows what it says of its result, not
        // what the canvas says.
        last.options.set("ignore_result", self.ignores());
        for name in self.request.headers.stamped_headers.iter().flatten() {
            if let Some(value) = self.request.headers.stamps.get(name) {
                stamp(&mut canvas, name, value);
            }
        }
        let mut planner = self.planner("replace");
        planner.from.nesting = self.request.headers.replaced_task_nesting + 1;
        planner.from.parent = self.request.headers.parent_id.clone();
        let mut index = self.request.headers.group_index.unwrap_or(0);
        let member = self.request.headers.group.clone().map(|group| Member {
            group: Some(group),
            next: &mut index,
        });
        let place = Place {
            id: Some(self.request.id.clone()),
            member,
        };
        let onward = Onward {
            chain: self.request.chain().to_vec(),
            chord: embed.chord.clone(),
        };
        planner.apply(canvas, &[], place, onward)?;
        Ok(Step {
            effects: planner.effects,
            settle: Settle::Ack,
            ended: false,
        })
    }
}

/// Where a part says who was [`Told`], beside its exception. Python passes
/// over it.
pub(crate) const TOLD: &str = "canvas-told";

/// Which error callbacks were called for a chord in a header whose own header
/// failed. A chord passes its error callbacks on to those in its header, and
/// in Celery that is who calls them: there, the outer chord never hears of it.
/// Here it does, and must not call the same ones a second time.
#[derive(Debug, Clone, Default)]
struct Told(BTreeSet<String>);

impl Told {
    fn of(part: &Part) -> impl Iterator<Item = String> {
        let told = part.result.get(TOLD).and_then(Value::as_array);
        let told = told.into_iter().flatten().filter_map(Value::as_str);
        told.map(str::to_owned)
    }

    /// What an error callback is known by: all but how it is sent.
    fn name(errback: &Signature) -> String {
        let said = json!([errback.task, errback.args, errback.kwargs]);
        Id::from("canvas.told")
            .derive(&said.to_string())
            .to_string()
    }

    fn add(&mut self, errback: &Signature) {
        self.0.insert(Self::name(errback));
    }

    fn contains(&self, errback: &Signature) -> bool {
        !self.0.is_empty() && self.0.contains(&Self::name(errback))
    }

    fn note(&self, part: &mut Part) {
        if let (false, Value::Object(result)) = (self.0.is_empty(), &mut part.result) {
            result.insert(TOLD.to_owned(), json!(self.0));
        }
    }
}

impl FromIterator<String> for Told {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        Self(names.into_iter().collect())
    }
}

/// Gives a stamp of the replaced task to all of what replaces it.
fn stamp(canvas: &mut Signature, name: &str, value: &Value) {
    deep(|| match &mut canvas.shape {
        Shape::Chain(tasks) | Shape::Group(tasks) => {
            tasks.iter_mut().for_each(|t| stamp(t, name, value));
        }
        Shape::Chord(parts) => {
            stamp(&mut parts.header, name, value);
            parts.body.iter_mut().for_each(|b| stamp(b, name, value));
        }
        Shape::Task | Shape::Custom(_) => {
            canvas.options.append_unique("stamped_headers", name.into());
            canvas.options.set_default(name, value.clone());
        }
    });
}

/// The task whose result is the canvas's, which does not end in a group.
fn last_task(canvas: &mut Signature) -> &mut Signature {
    // Asked first, since a borrow that is returned from one arm of a match
    // would last over all of them.
    match &canvas.shape {
        Shape::Chain(steps) if !steps.is_empty() => {}
        Shape::Chord(parts) if parts.body.is_some() => {}
        _ => return canvas,
    }
    match &mut canvas.shape {
        Shape::Chain(steps) => {
            let last = steps.len() - 1;
            last_task(&mut steps[last])
        }
        Shape::Chord(parts) => last_task(parts.body.get_or_insert_with(|| Signature::new(""))),
        _ => unreachable!("asked above"),
    }
}

/// The tasks that would have run first.
pub(crate) fn first_tasks(canvas: &Signature) -> Vec<&Signature> {
    deep(|| match &canvas.shape {
        Shape::Task | Shape::Custom(_) => vec![canvas],
        Shape::Chain(steps) => steps.first().map(first_tasks).unwrap_or_default(),
        Shape::Group(members) => members.iter().flat_map(first_tasks).collect(),
        Shape::Chord(parts) => parts.body.as_ref().map(first_tasks).unwrap_or_default(),
    })
}

fn opened(sealed: &Sealed) -> Option<Signature> {
    match sealed.open() {
        Ok(signature) => Some(signature),
        Err(error) => {
            tracing::error!(%error, "what follows a task cannot be read");
            None
        }
    }
}

/// Results first, then what must be there before messages, arrivals last.
fn sort(effects: &mut [Effect]) {
    effects.sort_by_key(|effect| match effect {
        Effect::Store(_) => 0,
        Effect::Keep { .. } | Effect::SaveGroup(_) | Effect::OpenJoin(_) => 1,
        Effect::Publish(_) => 2,
        Effect::Errback(_) => 3,
        Effect::Arrive(_) => 4,
    });
}
