//! A broker and a backend as data, which can be copied and compared. They do
//! what the ports promise and no more; `reference.rs` holds them to what the
//! ones in memory do.

use crate::mutation::Mutation;
use crate::program::Nr;

/// How many tasks there can be, and places.
pub(crate) const MOST: usize = 16;

/// The broker: one queue, whose messages may come in any order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Broker {
    pub(crate) held: Vec<Held>,
}

/// A message in the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Held {
    pub(crate) message: Nr,
    /// Whether it is out at a worker, or was when that died.
    pub(crate) out: bool,
    /// Whether it was out before.
    pub(crate) again: bool,
    /// How often it was given out.
    pub(crate) epoch: u8,
    pub(crate) tag: u8,
}

/// The right to settle a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Receipt {
    pub(crate) tag: u8,
    pub(crate) epoch: u8,
}

/// How a delivery ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Settle {
    Ack,
    Requeue,
}

/// What came of settling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    Done,
    /// The receipt no longer counted, and nothing happened.
    Stale,
    /// It no longer counted, and yet something happened.
    Unfenced,
}

impl Broker {
    pub(crate) fn publish(&mut self, message: Nr, tag: u8) {
        self.held.push(Held {
            message,
            out: false,
            again: false,
            epoch: 0,
            tag,
        });
    }

    /// Gives out the message at `at`.
    pub(crate) fn take(&mut self, at: usize) -> Receipt {
        let held = &mut self.held[at];
        held.out = true;
        held.epoch += 1;
        held.receipt()
    }

    pub(crate) fn settle(&mut self, receipt: Receipt, how: Settle, broken: Mutation) -> Settled {
        let found = self.held.iter().position(|held| held.tag == receipt.tag);
        let Some(at) = found.filter(|at| self.held[*at].out) else {
            return Settled::Stale;
        };
        let stale = self.held[at].epoch != receipt.epoch;
        if stale && broken != Mutation::NoFence {
            return Settled::Stale;
        }
        match how {
            Settle::Ack => drop(self.held.remove(at)),
            Settle::Requeue => self.lapse(at),
        }
        if stale {
            Settled::Unfenced
        } else {
            Settled::Done
        }
    }

    /// Ends the lease of the message at `at`.
    pub(crate) fn lapse(&mut self, at: usize) {
        self.held[at].out = false;
        self.held[at].again = true;
    }
}

impl Held {
    /// What settles it now.
    pub(crate) fn receipt(&self) -> Receipt {
        Receipt {
            tag: self.tag,
            epoch: self.epoch,
        }
    }
}

/// The results, by task: 0 for none, else [`Stored::code`]. Bytes, since they
/// are hashed in every state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Results([u8; MOST]);

/// A result, as far as the backend looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Stored {
    pub(crate) result: Nr,
    pub(crate) end: End,
}

/// How final a result is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum End {
    No,
    /// An end, but no success.
    Yes,
    Success,
}

impl Stored {
    const ENDS: [End; 3] = [End::No, End::Yes, End::Success];

    fn code(self) -> u8 {
        1 + self.result * 3 + self.end as u8
    }

    fn of(code: u8) -> Option<Self> {
        let code = code.checked_sub(1)?;
        Some(Self {
            result: code / 3,
            end: Self::ENDS[usize::from(code % 3)],
        })
    }
}

impl Results {
    /// Stores a result, and says which one stands if that changed nothing.
    pub(crate) fn store(&mut self, task: Nr, new: Stored, broken: Mutation) -> Option<Stored> {
        let old = self.get(task);
        let stands = match old.map(|old| old.end) {
            _ if broken == Mutation::LastWriteWins => false,
            None | Some(End::No) => false,
            Some(End::Yes) => new.end == End::No,
            Some(End::Success) => true,
        };
        if stands {
            return old;
        }
        self.0[usize::from(task)] = new.code();
        None
    }

    pub(crate) fn get(&self, task: Nr) -> Option<Stored> {
        Stored::of(self.0[usize::from(task)])
    }

    /// Whether a task has ended.
    pub(crate) fn is_ready(&self, task: Nr) -> bool {
        self.get(task).is_some_and(|stored| stored.end != End::No)
    }
}

/// A join in the backend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Join {
    size: u8,
    quorum: u8,
    /// In header order.
    pub(crate) parts: Vec<Nr>,
    pub(crate) phase: Phase,
}

/// How far a join has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Phase {
    Waiting,
    Claimed { claim: u8, lapsed: bool },
    Closed,
}

/// What a join looks at in a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) task: Nr,
    pub(crate) index: Option<u64>,
    pub(crate) ok: bool,
}

/// What an arrival found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Arrived {
    Waiting,
    Complete { claim: u8 },
    Claimed,
    Closed,
}

impl Join {
    pub(crate) fn new(size: u8, quorum: u8) -> Self {
        Self {
            size,
            quorum,
            parts: Vec::new(),
            phase: Phase::Waiting,
        }
    }

    /// Whether somebody's claim keeps others out.
    pub(crate) fn claim(&self) -> Option<u8> {
        match self.phase {
            Phase::Claimed {
                claim,
                lapsed: false,
            } => Some(claim),
            _ => None,
        }
    }

    /// Counts a member in. `known` tells what a part is.
    pub(crate) fn arrive(
        &mut self,
        part: Nr,
        broken: Mutation,
        known: impl Fn(Nr) -> Member,
    ) -> Arrived {
        let late = self.phase != Phase::Closed && broken == Mutation::LateMembersCount;
        if late || self.phase == Phase::Waiting {
            self.count(part, broken, &known);
        }
        match self.phase {
            Phase::Closed => Arrived::Closed,
            Phase::Claimed { lapsed: false, .. } => Arrived::Claimed,
            Phase::Claimed { .. } if broken == Mutation::ClaimIsForGood => Arrived::Closed,
            Phase::Claimed { claim, .. } => self.pass(claim),
            Phase::Waiting => {
                let arrived = self.parts.len();
                let successes = self.parts.iter().filter(|part| known(**part).ok).count();
                let quorum = self.quorum < self.size && successes >= usize::from(self.quorum);
                if quorum || arrived >= usize::from(self.size) {
                    self.pass(0)
                } else {
                    Arrived::Waiting
                }
            }
        }
    }

    fn count(&mut self, part: Nr, broken: Mutation, known: &impl Fn(Nr) -> Member) {
        let new = known(part);
        let is_same = |old: &Nr| {
            let of = known(*old);
            (of.task, of.index) == (new.task, new.index)
                && (broken != Mutation::KeyedByValue || *old == part)
        };
        if !self.parts.iter().any(is_same) {
            self.parts.push(part);
            self.parts.sort_by_key(|part| known(*part).index);
        }
    }

    fn pass(&mut self, before: u8) -> Arrived {
        let claim = before + 1;
        self.phase = Phase::Claimed {
            claim,
            lapsed: false,
        };
        Arrived::Complete { claim }
    }

    /// Ends the time for which a claim keeps others out.
    pub(crate) fn lapse(&mut self) {
        if let Phase::Claimed { lapsed, .. } = &mut self.phase {
            *lapsed = true;
        }
    }

    /// Ends the join, if this claim is the one that counts.
    pub(crate) fn close(&mut self, by: u8) -> bool {
        let counts = matches!(self.phase, Phase::Claimed { claim, .. } if claim == by);
        if counts {
            self.phase = Phase::Closed;
            self.parts.clear();
        }
        counts
    }
}
