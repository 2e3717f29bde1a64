//! Every order in which workers, clients and mishaps can follow each other,
//! and what must be true in each.

use canvas_core::Id;
use stateright::{Model, Property};

use crate::mutation::Mutation;
use crate::program::{Answer, At, Case, Nr, Op, Program};
use crate::scene::Scene;
use crate::state::{Client, FEW, Faults, Seen, State, WORKERS, Worker};
use crate::store::{Arrived, Broker, End, Join, Phase, Receipt, Results, Settle, Settled, Stored};

/// A scene, what may go wrong in it, and what is broken on purpose.
#[derive(Debug)]
pub(crate) struct Check {
    program: Program,
    chords: Vec<Chord>,
    /// The tasks whose results can be waited for.
    awaited: Vec<Nr>,
    /// The places whose runs are counted.
    counted: Vec<Nr>,
    faults: Faults,
    broken: Mutation,
}

/// A chord of the scene, by numbers.
#[derive(Debug)]
struct Chord {
    body: Nr,
    members: Vec<Nr>,
    needed: usize,
}

/// What can happen next. Numbers are places in the state's lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Take { worker: usize, held: usize },
    Run { worker: usize, case: Case },
    Step { worker: usize },
    Crash { worker: usize },
    BeginAnew { worker: usize },
    LeaseEnds { held: usize },
    ClaimEnds { join: usize },
    JoinExpires { join: usize },
    Send,
    Quit,
    Resend,
}

/// Whether something happens by itself, or is a mishap that may as well not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Progress,
    Mishap,
}

impl Check {
    pub(crate) fn new(scene: Scene, faults: Faults, broken: Mutation) -> Self {
        let program = Program::new(scene, broken);
        let scene = &program.scene;
        let tasks = |ids: &[Id]| ids.iter().map(|id| program.task(id)).collect();
        let chords = scene.chords.iter().map(|chord| Chord {
            body: program.task(&chord.body),
            members: tasks(&chord.members),
            needed: chord.needed,
        });
        let nodes = scene.tree.nodes().into_iter();
        let awaited = nodes.filter(|node| node.members.is_none() && !node.ignored);
        Self {
            chords: chords.collect(),
            awaited: awaited.map(|node| program.task(&node.id)).collect(),
            counted: scene
                .counted
                .iter()
                .map(|name| program.place(name))
                .collect(),
            faults,
            broken,
            program,
        }
    }

    /// What happened, in words.
    pub(crate) fn story(&self, path: Vec<(State, Option<Action>)>) -> String {
        let tell = |(state, action): &(State, Option<Action>)| {
            let action = action.as_ref()?;
            let about = match action {
                Action::Take { held, .. } | Action::LeaseEnds { held } => {
                    self.program.tell_message(state.broker.held[*held].message)
                }
                Action::Step { worker } | Action::Crash { worker } => {
                    match state.workers[*worker] {
                        Worker::At { at, .. } => self.program.tell(at),
                        _ => String::new(),
                    }
                }
                Action::Send => format!("{:?}", self.sends(state)),
                _ => String::new(),
            };
            Some(format!("   {action:?} {about}\n"))
        };
        path.iter().filter_map(tell).collect()
    }

    /// Asks for all that can happen next.
    fn moves(&self, state: &State, mut push: impl FnMut(Action, Kind)) {
        for worker in 0..state.workers.len() {
            self.worker_moves(state, worker, &mut push);
        }
        let mishap = |alive| if alive { Kind::Mishap } else { Kind::Progress };
        for (held, message) in state.broker.held.iter().enumerate() {
            let alive = message.out && state.has_lease(held);
            if message.out && (!alive || state.left.lapses > 0) {
                push(Action::LeaseEnds { held }, mishap(alive));
            }
        }
        for (at, join) in state.joins.iter().enumerate() {
            if let Some(claim) = join.as_ref().and_then(Join::claim) {
                let alive = state.has_claim(at, claim);
                if !alive || state.left.lapses > 0 {
                    push(Action::ClaimEnds { join: at }, mishap(alive));
                }
            }
            if join.is_some() && state.left.losses > 0 {
                push(Action::JoinExpires { join: at }, Kind::Mishap);
            }
        }
        let resends = state.left.resends > 0;
        match (state.client, self.sends(state)) {
            (_, Some(_)) => {
                push(Action::Send, Kind::Progress);
                if state.left.quits > 0 {
                    push(Action::Quit, Kind::Mishap);
                }
            }
            (Client::Dead, _) if resends => push(Action::Resend, Kind::Progress),
            // It may not know that all is sent.
            (Client::At(_), _) if resends => push(Action::Resend, Kind::Mishap),
            _ => {}
        }
    }

    fn worker_moves(&self, state: &State, worker: usize, push: &mut impl FnMut(Action, Kind)) {
        match state.workers[worker] {
            Worker::Idle => {
                // The idle are alike.
                if !state.workers[..worker].contains(&Worker::Idle) {
                    for (held, message) in state.broker.held.iter().enumerate() {
                        if !message.out {
                            push(Action::Take { worker, held }, Kind::Progress);
                        }
                    }
                }
                return;
            }
            Worker::Took { message, again, .. } => {
                for case in self.cases(state, message, again) {
                    push(Action::Run { worker, case }, Kind::Progress);
                }
            }
            Worker::At { at, .. } => {
                if !self.waits(state, at) {
                    push(Action::Step { worker }, Kind::Progress);
                }
                if state.left.errors > 0 {
                    push(Action::BeginAnew { worker }, Kind::Mishap);
                }
            }
        }
        if state.left.crashes > 0 {
            push(Action::Crash { worker }, Kind::Mishap);
        }
    }

    /// How a delivery may go on: as in the worker's `before`.
    fn cases(&self, state: &State, message: Nr, again: bool) -> Vec<Case> {
        let sent = self.program.sent(message);
        if (again || sent.repeat)
            && self.program.scene.deduplicate
            && let Some(stored) = state.results.get(sent.task)
            && stored.end == End::Success
        {
            return vec![Case::Stored(stored.result)];
        }
        (0..self.program.choices(message)).map(Case::Ran).collect()
    }

    /// Whether a worker waits for somebody's claim to end.
    fn waits(&self, state: &State, at: At) -> bool {
        let Op::Arrive { join, .. } = self.program.op(at) else {
            return false;
        };
        let join = state.joins[usize::from(join)].as_ref();
        let claimed = join.and_then(Join::claim).is_some();
        claimed && self.program.next(at, Answer::Claimed) == at
    }

    /// What the client does next.
    fn sends(&self, state: &State) -> Option<Op> {
        match state.client {
            Client::At(at) => self.program.client.get(at).copied(),
            Client::Dead => None,
        }
    }

    fn apply(&self, state: &mut State, action: &Action) {
        match *action {
            Action::Take { worker, held } => {
                let receipt = state.broker.take(held);
                let held = state.broker.held[held];
                state.workers[worker] = Worker::Took {
                    message: held.message,
                    again: held.again,
                    receipt,
                };
            }
            Action::Run { worker, case } => self.run(state, worker, case),
            Action::Step { worker } => self.step(state, worker),
            Action::Crash { worker } => {
                state.left.crashes -= 1;
                state.workers[worker] = Worker::Idle;
            }
            Action::BeginAnew { worker } => {
                state.left.errors -= 1;
                if let Worker::At { at, claims, .. } = &mut state.workers[worker] {
                    *at = self.program.anew(*at);
                    *claims = Default::default();
                }
            }
            Action::LeaseEnds { held } => {
                state.left.lapses -= u8::from(state.has_lease(held));
                state.broker.lapse(held);
            }
            Action::ClaimEnds { join } => {
                if let Some(claim) = state.joins[join].as_ref().and_then(Join::claim) {
                    state.left.lapses -= u8::from(state.has_claim(join, claim));
                }
                state.joins[join].iter_mut().for_each(Join::lapse);
            }
            Action::JoinExpires { join } => {
                state.left.losses -= 1;
                state.joins[join] = None;
            }
            Action::Send => {
                if let (Client::At(at), Some(op)) = (state.client, self.sends(state)) {
                    self.make(state, op);
                    state.client = Client::At(at + 1);
                }
            }
            Action::Quit => {
                state.left.quits -= 1;
                state.client = Client::Dead;
            }
            Action::Resend => {
                state.left.resends -= 1;
                state.client = Client::At(0);
            }
        }
    }

    fn run(&self, state: &mut State, worker: usize, case: Case) {
        let Worker::Took {
            message,
            again,
            receipt,
        } = state.workers[worker]
        else {
            return;
        };
        let place = self.program.sent(message).place;
        let counted = self.counted.iter().position(|counted| *counted == place);
        if let (Case::Ran(_), Some(counted)) = (case, counted) {
            state.seen.runs[counted] += 1;
        }
        if self.broken == Mutation::AckFirst {
            state.broker.settle(receipt, Settle::Ack, self.broken);
        }
        let at = self.program.run(message, again, case);
        self.reach(state, worker, at, receipt, Default::default());
    }

    fn reach(&self, state: &mut State, worker: usize, at: At, receipt: Receipt, claims: [u8; FEW]) {
        state.seen.lost_reference |= self.program.recalled(at) & !state.kept != 0;
        state.workers[worker] = Worker::At {
            at,
            claims,
            receipt,
        };
    }

    /// Makes a worker's next operation.
    fn step(&self, state: &mut State, worker: usize) {
        let Worker::At {
            at,
            mut claims,
            receipt,
        } = state.workers[worker]
        else {
            return;
        };
        let answer = match self.program.op(at) {
            Op::Arrive { join, part } => {
                let answer = self.arrive(&mut state.joins[usize::from(join)], part);
                if let Answer::Complete { claim, .. } = &answer {
                    claims[usize::from(join)] = *claim;
                }
                answer
            }
            Op::Close { join, claim } => {
                let join = usize::from(join);
                if let Some(open) = &mut state.joins[join] {
                    open.close(claim);
                }
                claims[join] = 0;
                Answer::Done
            }
            Op::Settle(how) => {
                let settled = state.broker.settle(receipt, how, self.broken);
                state.seen.unfenced |= settled == Settled::Unfenced;
                state.workers[worker] = Worker::Idle;
                return;
            }
            Op::Store { task, stored } => {
                let standing = self.store(state, task, stored);
                let instead = standing.and_then(|s| self.program.superseded(at, s.result));
                if let Some(at) = instead {
                    return self.reach(state, worker, at, receipt, claims);
                }
                Answer::Done
            }
            op => {
                self.make(state, op);
                Answer::Done
            }
        };
        let at = self.program.next(at, answer);
        self.reach(state, worker, at, receipt, claims);
    }

    fn arrive(&self, join: &mut Option<Join>, part: Nr) -> Answer {
        let Some(join) = join else {
            return Answer::Missing;
        };
        match join.arrive(part, self.broken, |part| self.program.member(part)) {
            Arrived::Waiting | Arrived::Closed => Answer::Done,
            Arrived::Claimed => Answer::Claimed,
            Arrived::Complete { claim } => Answer::Complete {
                claim,
                parts: join.parts.clone(),
            },
        }
    }

    /// Makes an operation of the kind that clients ask for, too.
    fn make(&self, state: &mut State, op: Op) {
        match op {
            Op::Keep { key } => state.kept |= 1 << key,
            Op::OpenJoin { join, size, quorum } => {
                let join = &mut state.joins[usize::from(join)];
                join.get_or_insert_with(|| Join::new(size, quorum));
            }
            Op::Publish { message } => self.publish(state, message),
            // No client does these, and those that do something see to it.
            Op::Store { .. } | Op::Arrive { .. } | Op::Close { .. } | Op::Settle(_) => {}
            Op::Errback => {}
        }
    }

    fn store(&self, state: &mut State, task: Nr, new: Stored) -> Option<Stored> {
        // A body that fails without having run waits for all, too.
        let chord = self.chords.iter().find(|chord| chord.body == task);
        if let Some(chord) = chord
            && new.end == End::Yes
        {
            let mut members = chord.members.iter();
            state.seen.early_failure |= !members.all(|member| state.results.is_ready(*member));
        }
        let before = state.results.get(task);
        let standing = state.results.store(task, new, self.broken);
        if let Some(old) = before {
            let success = old.end == End::Success;
            state.seen.overwritten |= success && state.results.get(task) != before;
            if old.end != End::No && new.end != End::No && new != old {
                state.seen.torn |= 1 << task;
            }
        }
        standing
    }

    fn publish(&self, state: &mut State, message: Nr) {
        let sent = self.program.sent(message);
        let chord = self.chords.iter().find(|chord| chord.body == sent.task);
        if let Some(chord) = chord {
            // Of other members than these, or in another order, or with other
            // values than the stored ones: all of that is wrong.
            let mut members = chord.members.iter();
            let mut is_of_next = |value: &Nr| {
                let success = Stored {
                    result: *value,
                    end: End::Success,
                };
                members.any(|member| state.results.get(*member) == Some(success))
            };
            let values = self.program.gives(message);
            let right = values.iter().all(&mut is_of_next) && values.len() == chord.needed;
            state.seen.wrong_body |= !right;
        }
        let first = &mut state.seen.published[usize::from(sent.place)];
        if *first == 0 {
            *first = sent.says + 1;
        }
        state.seen.two_messages |= *first != sent.says + 1;
        if !sent.repeat {
            state.seen.unmarked_repeat |= state.seen.unmarked & (1 << message) != 0;
            state.seen.unmarked |= 1 << message;
        }
        let tag = state.free_tag();
        state.broker.publish(message, tag);
    }

    /// Whether everything has come to its end.
    fn has_ended(&self, state: &State) -> bool {
        let mut joins = state.joins.iter().flatten();
        state.client == Client::At(self.program.client.len())
            && state.broker == Broker::default()
            && state.workers.iter().all(|worker| *worker == Worker::Idle)
            && joins.all(|join| join.phase == Phase::Closed)
            && self
                .awaited
                .iter()
                .all(|task| state.results.is_ready(*task))
    }

    /// Each step that is no mishap uses something up: a message, an operation,
    /// a lease, a claim. So what can always go on by itself comes to an end.
    fn is_stuck(&self, state: &State) -> bool {
        let mut goes_on = false;
        self.moves(state, |_, kind| goes_on |= kind == Kind::Progress);
        // What a client has not sent cannot end.
        !goes_on && !self.has_ended(state) && state.client != Client::Dead
    }

    /// Whether a body may have failed that others wait for still, or run.
    fn has_lost_a_join(&self, state: &State) -> bool {
        state.left.losses < self.faults.losses
    }

    fn ends_in_two_ways(&self, state: &State) -> bool {
        let mut bodies = self.chords.iter();
        let body = bodies.any(|chord| state.seen.torn & (1 << chord.body) != 0);
        body || (self.program.scene.steady && state.seen.torn != 0)
    }

    fn runs_for_nothing(&self, state: &State) -> bool {
        let mishaps = self.faults.disturbing() - state.left.disturbing();
        state.seen.runs.iter().any(|runs| *runs > 1 + mishaps)
    }
}

pub(crate) const GIVEN_RESULTS: &str = "a body is given the stored results of its members";
pub(crate) const FAILS_AFTER: &str = "a body fails only after its members have ended";
pub(crate) const ONE_MESSAGE: &str = "what is sent twice is the same task with the same arguments";
pub(crate) const MARKED: &str = "a message that is sent again says so";
pub(crate) const ONE_END: &str = "a result that is written twice is the same";
pub(crate) const SUCCESS_STANDS: &str = "a stored success stands";
pub(crate) const FENCED: &str = "a stale receipt settles nothing";
pub(crate) const KEPT: &str = "what a message refers to has been kept";
pub(crate) const ONLY_MISHAPS: &str = "a task runs again only after a mishap";
pub(crate) const NOT_STUCK: &str = "nothing is stuck";

impl Model for Check {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            broker: Broker::default(),
            results: Results::default(),
            joins: Default::default(),
            kept: 0,
            workers: [Worker::Idle; WORKERS],
            client: Client::At(0),
            left: self.faults,
            seen: Seen::default(),
        };
        // A client that cannot die has sent all.
        if self.faults.quits == 0 {
            while self.sends(&state).is_some() {
                self.apply(&mut state, &Action::Send);
            }
        }
        vec![state.in_normal_form()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.moves(state, |action, _| actions.push(action));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        self.apply(&mut next, &action);
        Some(next.in_normal_form())
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let always = Property::<Self>::always;
        let sometimes = Property::<Self>::sometimes;
        let mut all = vec![
            always(GIVEN_RESULTS, |_, state| !state.seen.wrong_body),
            always(FAILS_AFTER, |check, state| {
                !state.seen.early_failure || check.has_lost_a_join(state)
            }),
            always(ONE_MESSAGE, |_, state| !state.seen.two_messages),
            always(ONE_END, |check, state| {
                !check.ends_in_two_ways(state) || check.has_lost_a_join(state)
            }),
            always(MARKED, |check, state| {
                // A client does not know what it has sent.
                !state.seen.unmarked_repeat || state.left.resends < check.faults.resends
            }),
            always(SUCCESS_STANDS, |_, state| !state.seen.overwritten),
            always(FENCED, |_, state| !state.seen.unfenced),
            always(KEPT, |_, state| !state.seen.lost_reference),
            always(ONLY_MISHAPS, |check, state| !check.runs_for_nothing(state)),
            always(NOT_STUCK, |check, state| !check.is_stuck(state)),
            // Else the rest would say little.
            sometimes("the canvas ends", Self::has_ended),
        ];
        if self.faults.disturbing() > 0 && !self.counted.is_empty() {
            all.push(sometimes("a counted task runs again", |_, state| {
                state.seen.runs.iter().any(|runs| *runs > 1)
            }));
        }
        if self.faults.crashes > 0 && !self.chords.is_empty() {
            all.push(sometimes("a claim passes on", |_, state| {
                let mut joins = state.joins.iter().flatten();
                joins.any(|join| join.claim().is_some_and(|claim| claim > 1))
            }));
        }
        all
    }
}
