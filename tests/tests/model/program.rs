//! What the real code does, one operation at a time.
//!
//! [`advance`] says what follows a run, and [`Sequence`] in which order it is
//! made: the worker's own code, all but the broker and the backend. Both are
//! pure, so each question is asked once and its answer known by a number.

use std::collections::HashMap;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use canvas_core::backend::{Arrival, Part};
use canvas_core::protocol::{Body, DeliveryInfo, Sealed};
use canvas_core::{
    Effect, Env, Id, Kwargs, Message, Outcome, Request, Sequence, State, TaskMeta, Work, advance,
    broker,
};
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::mutation::Mutation;
use crate::scene::{Scene, outcomes};
use crate::store::{End, Member, Settle, Stored};

/// A number for a task, a place in the canvas, a message, a result, and so on.
pub(crate) type Nr = u8;

/// A number for a point: where a worker is in a sequence.
pub(crate) type At = u16;

/// One operation, by numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Op {
    Store {
        task: Nr,
        stored: Stored,
    },
    Keep {
        key: Nr,
    },
    OpenJoin {
        join: Nr,
        size: u8,
        quorum: u8,
    },
    Publish {
        message: Nr,
    },
    /// A call in the worker's own process: nothing in a store.
    Errback,
    Arrive {
        join: Nr,
        part: Nr,
    },
    Close {
        join: Nr,
        claim: u8,
    },
    Settle(Settle),
}

/// Why a task ends as it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Case {
    /// It is run, with one of the outcomes that it may have.
    Ran(u8),
    /// It is not, since this success of it is stored.
    Stored(Nr),
}

/// What an operation found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    /// Nothing that changes what follows.
    Done,
    Complete {
        claim: u8,
        parts: Vec<Nr>,
    },
    Claimed,
    Missing,
}

/// What there is to know of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    /// The task.
    pub(crate) task: Nr,
    /// Its place in the canvas: each has a task name of its own.
    pub(crate) place: Nr,
    /// What it says: the id and the body. The header that names the sender is
    /// no part of it, for a body's may be any member.
    pub(crate) says: Nr,
    /// Whether the message itself says that the task may have run before.
    pub(crate) repeat: bool,
}

/// The real code, applied to a scene.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) scene: Scene,
    pub(crate) client: Vec<Op>,
    env: Env,
    broken: Mutation,
    known: RwLock<Known>,
}

/// All that happens, happens now.
const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

impl Program {
    pub(crate) fn new(scene: Scene, broken: Mutation) -> Self {
        let mut program = Self {
            env: scene.env(),
            scene,
            client: Vec::new(),
            broken,
            known: RwLock::default(),
        };
        let canvas = program.scene.canvas.clone();
        let (effects, tree) = advance::apply(&program.env, canvas, &[], &Kwargs::new(), NOW)
            .expect("the canvas can be sent");
        assert_eq!(tree, program.scene.tree, "what is frozen keeps its ids");
        program.client = {
            let mut known = program.learn();
            let all = effects.iter();
            all.map(|effect| known.effect(effect)).collect()
        };
        program
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().expect("no panic under the lock")
    }

    fn learn(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().expect("no panic under the lock")
    }

    /// In how many ways the task of a message may end.
    pub(crate) fn choices(&self, message: Nr) -> u8 {
        let mut known = self.learn();
        if let Some(choices) = known.choices.get(&message) {
            return *choices;
        }
        let choices = outcomes(&known.request(message, false)).len() as u8;
        known.choices.insert(message, choices);
        choices
    }

    /// Runs the task of a message, and says where what follows begins.
    pub(crate) fn run(&self, message: Nr, redelivered: bool, case: Case) -> At {
        let key = (message, redelivered, case);
        if let Some(at) = self.known().runs.get(&key) {
            return *at;
        }
        let mut known = self.learn();
        // Another thread may have been here meanwhile.
        if let Some(at) = known.runs.get(&key) {
            return *at;
        }
        let mut request = known.request(message, redelivered);
        let outcome = match case {
            Case::Ran(choice) => outcomes(&request).swap_remove(usize::from(choice)),
            Case::Stored(nr) => Outcome::Success(known.results[usize::from(nr)].1.clone()),
        };
        let mut recalled = 0;
        // As the worker does: all that follows is looked up only if it ends.
        let mut step = None;
        for all in [false, true] {
            while let Some(key) = request.missing(all) {
                let (nr, kept) = known.recall(&key);
                recalled |= 1 << nr;
                request.supply(&key, kept);
            }
            let decided = advance(&self.env, &request, outcome.clone(), Vec::new(), NOW);
            let ended = decided.ended;
            step = Some(decided);
            if !ended {
                break;
            }
        }
        let step = step.expect("decided at least once");
        let effects = self.disorder(step.effects, redelivered);
        let at = known.add(Point {
            op: Op::Errback,
            work: None,
            rest: Sequence::new(&request, effects),
            run: key,
            request: Arc::new(request),
            settle: match step.settle {
                broker::Settle::Requeue => Settle::Requeue,
                _ => Settle::Ack,
            },
            recalled,
        });
        known.runs.insert(key, at);
        at
    }

    /// Breaks what is to be broken.
    fn disorder(&self, mut effects: Vec<Effect>, redelivered: bool) -> Vec<Effect> {
        match self.broken {
            Mutation::OpenLast => effects.sort_by_key(|e| matches!(e, Effect::OpenJoin(_))),
            Mutation::KeepLast => effects.sort_by_key(|e| matches!(e, Effect::Keep { .. })),
            Mutation::StoreLast => effects.sort_by_key(|e| matches!(e, Effect::Store(_))),
            Mutation::FreshIds if redelivered => {
                let frozen = self.scene.tree.nodes();
                for effect in &mut effects {
                    if let Effect::Publish(outgoing) = effect
                        && let Some(id) = &mut outgoing.message.headers.id
                        && !frozen.iter().any(|node| node.id == *id)
                    {
                        *id = id.derive("again");
                    }
                }
            }
            _ => {}
        }
        effects
    }

    /// The point after one, by what its operation found.
    pub(crate) fn next(&self, at: At, answer: Answer) -> At {
        let key = (at, answer);
        if let Some(next) = self.known().next.get(&key) {
            return *next;
        }
        let mut known = self.learn();
        // Another thread may have been here meanwhile.
        if let Some(next) = known.next.get(&key) {
            return *next;
        }
        let next = self.follow(&known, at, &key.1);
        let next = if next.is_again(&known.points[usize::from(at)]) {
            at
        } else {
            known.add(next)
        };
        known.next.insert(key, next);
        next
    }

    fn follow(&self, known: &Known, at: At, answer: &Answer) -> Point {
        let mut point = known.points[usize::from(at)].clone();
        let Some(Work::Do(Effect::Arrive(arrive))) = point.work.take() else {
            return point;
        };
        let arrival = match answer {
            // Waiting or closed: there is nothing more to do.
            Answer::Done => Arrival::Closed,
            Answer::Missing => Arrival::Missing,
            Answer::Claimed => Arrival::Claimed {
                retry_after: Duration::ZERO,
            },
            Answer::Complete { claim, parts } => Arrival::Complete {
                claim: u64::from(*claim),
                parts: parts.iter().map(|nr| known.part(*nr).0.clone()).collect(),
            },
        };
        let Some(mut completion) = point.rest.arrived(arrive, arrival) else {
            return point;
        };
        let request = &point.request;
        let readable = "what was sealed here can be read";
        while let Some(key) = completion.missing(&self.env, request, NOW).expect(readable) {
            let (nr, kept) = known.recall(&key);
            point.recalled |= 1 << nr;
            completion.supply(&key, Some(kept)).expect(readable);
        }
        let mut work = completion.work(&self.env, request, NOW);
        if self.broken == Mutation::CloseFirst {
            work.rotate_right(1);
        }
        point.rest.push(work);
        point
    }

    /// Where a worker goes on whose result was not stored, if another success
    /// of the task stands.
    pub(crate) fn superseded(&self, at: At, standing: Nr) -> Option<At> {
        if self.broken == Mutation::NothingSupersedes {
            return None;
        }
        let (message, redelivered, _) = {
            let known = self.known();
            let point = &known.points[usize::from(at)];
            let Some(Work::Do(Effect::Store(meta))) = &point.work else {
                return None;
            };
            let (state, value) = known.results[usize::from(standing)].clone();
            let mut other = TaskMeta::new(meta.task_id.clone(), state);
            other.result = value;
            point.rest.superseded(meta, &other)?;
            point.run
        };
        Some(self.run(message, redelivered, Case::Stored(standing)))
    }

    /// Where a worker goes on that makes all of its effects anew, as if the
    /// message had come again.
    pub(crate) fn anew(&self, at: At) -> At {
        let (message, _, case) = self.known().points[usize::from(at)].run;
        self.run(message, true, case)
    }

    /// The operation at a point.
    pub(crate) fn op(&self, at: At) -> Op {
        self.known().points[usize::from(at)].op
    }

    /// What was looked up on the way to a point: kept values, as bits.
    pub(crate) fn recalled(&self, at: At) -> u32 {
        self.known().points[usize::from(at)].recalled
    }

    /// What there is to know of a message.
    pub(crate) fn sent(&self, message: Nr) -> Sent {
        self.known().messages[usize::from(message)].1
    }

    /// The successes that a message gives its task as a list, as the body of a
    /// chord gets them.
    pub(crate) fn gives(&self, message: Nr) -> Vec<Nr> {
        let mut known = self.learn();
        let request = known.request(message, false);
        let list = request.args.into_iter().next();
        let values = list.and_then(|list| list.as_array().cloned());
        let values = values.unwrap_or_default().into_iter();
        values
            .map(|value| number(&mut known.results, (State::Success, value)))
            .collect()
    }

    /// What a join looks at in a part.
    pub(crate) fn member(&self, part: Nr) -> Member {
        self.known().part(part).1
    }

    /// The number of a task.
    pub(crate) fn task(&self, id: &Id) -> Nr {
        self.learn().id(id)
    }

    /// The number of a place in the canvas.
    pub(crate) fn place(&self, name: &str) -> Nr {
        self.learn().place(name)
    }

    /// A message, in words.
    pub(crate) fn tell_message(&self, message: Nr) -> String {
        tell_message(&self.known().messages[usize::from(message)].0)
    }

    /// The operation at a point, in words.
    pub(crate) fn tell(&self, at: At) -> String {
        let known = self.known();
        let point = &known.points[usize::from(at)];
        let what = match &point.work {
            Some(Work::Do(Effect::Publish(outgoing))) => {
                format!("publish {}", tell_message(&outgoing.message))
            }
            Some(Work::Do(Effect::Store(meta))) => {
                format!("store {} {} {}", meta.task_id, meta.status, meta.result)
            }
            Some(Work::Do(Effect::Arrive(arrive))) => {
                format!(
                    "{} arrives with {}",
                    arrive.part.task_id, arrive.part.result
                )
            }
            _ => format!("{:?}", point.op),
        };
        format!("{}: {what}", point.request.task)
    }
}

fn tell_message(message: &Message) -> String {
    let task = message.headers.task.as_deref().unwrap_or_default();
    let body = Body::from_json(&message.body).expect("a body can be read");
    format!("{task} {}", Value::from(body.0))
}

/// All that was asked so far.
#[derive(Debug, Default)]
struct Known {
    ids: Vec<Id>,
    places: Vec<String>,
    says: Vec<(Id, Vec<u8>)>,
    messages: Vec<(Message, Sent)>,
    results: Vec<(State, Value)>,
    joins: Vec<Id>,
    parts: Vec<(Part, Member)>,
    kept: Vec<(Id, Vec<u8>)>,
    points: Vec<Point>,
    choices: HashMap<Nr, u8>,
    runs: HashMap<(Nr, bool, Case), At>,
    next: HashMap<(At, Answer), At>,
}

/// Before an operation.
#[derive(Debug, Clone)]
struct Point {
    op: Op,
    /// The operation itself, if it is none that settles.
    work: Option<Work>,
    /// What is left after it.
    rest: Sequence,
    /// The message, whether it came again, and how its task ended.
    run: (Nr, bool, Case),
    request: Arc<Request>,
    settle: Settle,
    recalled: u32,
}

impl Point {
    /// Whether what is to be done here is what was to be done `before`.
    fn is_again(&self, before: &Self) -> bool {
        let mut rest = self.rest.clone();
        let work = rest.pop();
        work.is_some() && (&work, &rest) == (&before.work, &before.rest)
    }
}

impl Known {
    fn id(&mut self, id: &Id) -> Nr {
        number(&mut self.ids, id.clone())
    }

    fn place(&mut self, name: &str) -> Nr {
        number(&mut self.places, name.to_owned())
    }

    fn join(&mut self, id: &Id) -> Nr {
        number(&mut self.joins, id.clone())
    }

    fn part(&self, nr: Nr) -> &(Part, Member) {
        &self.parts[usize::from(nr)]
    }

    fn request(&self, message: Nr, redelivered: bool) -> Request {
        let delivery = DeliveryInfo {
            queue: "celery".into(),
            redelivered,
        };
        let message = &self.messages[usize::from(message)].0;
        Request::decode(message, delivery).expect("what was published can be read")
    }

    fn recall(&self, key: &Id) -> (Nr, Vec<Sealed>) {
        let found = self.kept.iter().position(|(kept, _)| kept == key);
        let at = found.expect("a reference is to something");
        let kept = serde_json::from_slice(&self.kept[at].1).expect("a list of signatures");
        (narrow(at), kept)
    }

    /// Adds the point before what is left of `after`.
    fn add(&mut self, mut after: Point) -> At {
        after.work = after.rest.pop();
        after.op = match &after.work {
            None => Op::Settle(after.settle),
            Some(Work::Close { join, claim }) => Op::Close {
                join: self.join(join),
                claim: u8::try_from(*claim).expect("few claims"),
            },
            Some(Work::Do(effect)) => self.effect(effect),
        };
        self.points.push(after);
        At::try_from(self.points.len() - 1).expect("a small model")
    }

    fn effect(&mut self, effect: &Effect) -> Op {
        match effect {
            Effect::Store(meta) => Op::Store {
                task: self.id(&meta.task_id),
                stored: Stored {
                    result: number(
                        &mut self.results,
                        (meta.status.clone(), meta.result.clone()),
                    ),
                    end: match &meta.status {
                        State::Success => End::Success,
                        state if state.is_ready() => End::Yes,
                        _ => End::No,
                    },
                },
            },
            Effect::Keep { key, value } => Op::Keep {
                key: number(&mut self.kept, (key.clone(), value.to_vec())),
            },
            Effect::SaveGroup(_) => unreachable!("no header here has a group in it"),
            Effect::OpenJoin(spec) => Op::OpenJoin {
                join: self.join(&spec.id),
                size: u8::try_from(spec.size).expect("a small header"),
                quorum: u8::try_from(spec.quorum).expect("a small header"),
            },
            Effect::Publish(outgoing) => Op::Publish {
                message: self.message(&outgoing.message),
            },
            Effect::Errback(_) => Op::Errback,
            Effect::Arrive(arrive) => Op::Arrive {
                join: self.join(&arrive.join),
                part: self.arrival(&arrive.part),
            },
        }
    }

    fn arrival(&mut self, part: &Part) -> Nr {
        let member = Member {
            task: self.id(&part.task_id),
            index: part.index,
            ok: part.is_ok(),
        };
        number(&mut self.parts, (part.clone(), member))
    }

    fn message(&mut self, message: &Message) -> Nr {
        let found = self.messages.iter().position(|(old, _)| old == message);
        if let Some(nr) = found {
            return narrow(nr);
        }
        let headers = &message.headers;
        let id = headers.id.clone().expect("a message has an id");
        let name = headers.task.clone().expect("a message names its task");
        let nr = narrow(self.messages.len());
        let sent = Sent {
            task: self.id(&id),
            place: self.place(&name),
            says: number(&mut self.says, (id, message.body.to_vec())),
            repeat: Request::decode(message, DeliveryInfo::default())
                .expect("what was published can be read")
                .may_be_repeat(),
        };
        self.messages.push((message.clone(), sent));
        nr
    }
}

fn narrow(nr: usize) -> Nr {
    Nr::try_from(nr).expect("a small model")
}

/// The number of a thing, which is a new one if it was not there.
fn number<T: PartialEq>(all: &mut Vec<T>, new: T) -> Nr {
    let found = all.iter().position(|old| *old == new);
    narrow(found.unwrap_or_else(|| {
        all.push(new);
        all.len() - 1
    }))
}
