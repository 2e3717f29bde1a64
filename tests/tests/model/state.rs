//! All that there is at one moment.

use std::fmt;

use crate::program::{At, Nr};
use crate::store::{Broker, Held, Join, MOST, Receipt, Results};

/// How many workers there are. All are alike, so states that differ only in
/// which of them does what are one.
pub(crate) const WORKERS: usize = 2;

/// How many joins there can be, and tasks whose runs are counted.
pub(crate) const FEW: usize = 2;

/// The tag in a receipt for a message that has gone.
const GONE: u8 = u8::MAX;

/// A state of the system.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) broker: Broker,
    pub(crate) results: Results,
    pub(crate) joins: [Option<Join>; FEW],
    /// Which values are kept, as bits.
    pub(crate) kept: u32,
    pub(crate) workers: [Worker; WORKERS],
    pub(crate) client: Client,
    /// What may still go wrong.
    pub(crate) left: Faults,
    pub(crate) seen: Seen,
}

/// What may go wrong, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Faults {
    /// A worker dies. Another takes its place.
    pub(crate) crashes: u8,
    /// A lease or a claim passes on although whoever has it is alive.
    pub(crate) lapses: u8,
    /// The broker or the backend fails a worker, which makes the effects of
    /// its run anew, from the first.
    pub(crate) errors: u8,
    /// The backend loses a join.
    pub(crate) losses: u8,
    /// The client dies.
    pub(crate) quits: u8,
    /// The same canvas is sent again.
    pub(crate) resends: u8,
}

impl Faults {
    /// How many of those that may make a task run twice. The others must not,
    /// where it is the body of a chord.
    pub(crate) fn disturbing(self) -> u8 {
        self.crashes + self.lapses + self.errors
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.crashes, "crashes"),
            (self.lapses, "lapses"),
            (self.errors, "errors"),
            (self.losses, "losses"),
            (self.quits, "quits"),
            (self.resends, "resends"),
        ];
        let some = all.iter().filter(|(count, _)| *count > 0);
        let some: Vec<String> = some
            .map(|(count, name)| format!("{name} {count}"))
            .collect();
        f.write_str(&some.join(", "))
    }
}

/// A worker. It dies without a trace, so that of an idle one is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Worker {
    Idle,
    /// Has a delivery, and has not run it.
    Took {
        message: Nr,
        again: bool,
        receipt: Receipt,
    },
    /// Has run it, and is before an operation.
    At {
        at: At,
        /// By join: its claim on it, from 1.
        claims: [u8; FEW],
        receipt: Receipt,
    },
}

/// Who sends the canvas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// Before this operation.
    At(usize),
    Dead,
}

/// What has happened, as far as the properties ask.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Seen {
    /// By place: what the first message for it said, from 1.
    pub(crate) published: [Nr; MOST],
    /// How often the counted tasks ran.
    pub(crate) runs: [u8; FEW],
    /// Tasks that ended in two ways, as bits.
    pub(crate) torn: u32,
    /// Messages that did not say that they may be repeats, as bits.
    pub(crate) unmarked: u64,
    pub(crate) unmarked_repeat: bool,
    pub(crate) wrong_body: bool,
    pub(crate) early_failure: bool,
    pub(crate) two_messages: bool,
    pub(crate) overwritten: bool,
    pub(crate) unfenced: bool,
    pub(crate) lost_reference: bool,
}

impl State {
    /// Whether somebody alive has the lease of the message at `held`.
    pub(crate) fn has_lease(&self, held: usize) -> bool {
        let lease = self.broker.held[held].receipt();
        let mut receipts = self.workers.iter().filter_map(Worker::receipt);
        receipts.any(|receipt| receipt == lease)
    }

    /// Whether somebody alive has this claim on a join.
    pub(crate) fn has_claim(&self, join: usize, claim: u8) -> bool {
        let mut workers = self.workers.iter();
        workers.any(|worker| matches!(worker, Worker::At { claims, .. } if claims[join] == claim))
    }

    /// A tag that no receipt has.
    pub(crate) fn free_tag(&self) -> u8 {
        let held = self.broker.held.iter().map(|held| held.tag);
        held.max().map_or(0, |tag| tag + 1)
    }

    /// Makes states that mean the same the same: the order of workers and
    /// messages, the tags, and the number of deliveries so far mean nothing.
    pub(crate) fn in_normal_form(mut self) -> Self {
        self.workers.sort_by_key(Worker::without_receipt);
        let receipts = self.workers.map(|worker| worker.receipt());
        // Epochs are only compared, so they are counted from the oldest.
        let of = |tag: u8| receipts.iter().flatten().filter(move |r| r.tag == tag);
        for held in &mut self.broker.held {
            held.epoch = rank(held.epoch, of(held.tag));
        }
        let by_whom = |tag: u8| {
            receipts.map(|receipt| {
                let receipt = receipt.filter(|receipt| receipt.tag == tag)?;
                Some(rank(receipt.epoch, of(tag)))
            })
        };
        let key = |held: &Held| {
            (
                held.message,
                held.out,
                held.again,
                held.epoch,
                by_whom(held.tag),
            )
        };
        self.broker.held.sort_by_key(key);
        for receipt in self.workers.iter_mut().filter_map(Worker::receipt_mut) {
            let tags = self.broker.held.iter().position(|h| h.tag == receipt.tag);
            *receipt = match tags {
                Some(at) => Receipt {
                    tag: at as u8,
                    epoch: rank(receipt.epoch, of(receipt.tag)),
                },
                None => Receipt {
                    tag: GONE,
                    epoch: 0,
                },
            };
        }
        for (at, held) in self.broker.held.iter_mut().enumerate() {
            held.tag = at as u8;
        }
        self.workers.sort_unstable();
        self
    }
}

/// How many of these epochs are older.
fn rank<'a>(epoch: u8, receipts: impl Iterator<Item = &'a Receipt>) -> u8 {
    let mut older: Vec<u8> = receipts.map(|r| r.epoch).filter(|r| *r < epoch).collect();
    older.sort_unstable();
    older.dedup();
    older.len() as u8
}

impl Worker {
    pub(crate) fn receipt(&self) -> Option<Receipt> {
        match self {
            Self::Idle => None,
            Self::Took { receipt, .. } | Self::At { receipt, .. } => Some(*receipt),
        }
    }

    fn receipt_mut(&mut self) -> Option<&mut Receipt> {
        match self {
            Self::Idle => None,
            Self::Took { receipt, .. } | Self::At { receipt, .. } => Some(receipt),
        }
    }

    fn without_receipt(&self) -> Self {
        let mut worker = *self;
        if let Some(receipt) = worker.receipt_mut() {
            *receipt = Receipt { tag: 0, epoch: 0 };
        }
        worker
    }
}
