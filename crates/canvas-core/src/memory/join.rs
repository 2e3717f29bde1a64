//! The join of a chord's header, as data: idempotent arrivals, one claim.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::{Arrival, JoinSpec, Part};
use crate::id::Id;

/// A join in progress.
#[derive(Debug)]
pub(super) struct Join {
    size: u64,
    quorum: u64,
    /// Who has made it grow already.
    grown: HashSet<Id>,
    /// Who has arrived. One task may be a member twice, at two places.
    arrived: HashSet<(Id, Option<u64>)>,
    parts: Vec<Part>,
    successes: u64,
    phase: Phase,
    claims: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    /// Complete; somebody is sending the body until this moment.
    Claimed {
        claim: u64,
        until: Instant,
    },
    Closed,
}

impl Join {
    pub(super) fn new(spec: &JoinSpec) -> Self {
        Self {
            size: spec.size,
            quorum: spec.quorum,
            grown: HashSet::new(),
            arrived: HashSet::new(),
            parts: Vec::new(),
            successes: 0,
            phase: Phase::Waiting,
            claims: 0,
        }
    }

    /// Expects more members, once for each member that adds them.
    pub(super) fn grow(&mut self, member: &Id, by: u64) {
        if self.phase == Phase::Waiting && self.grown.insert(member.clone()) {
            // A quorum of all stays one of all.
            if self.quorum == self.size {
                self.quorum += by;
            }
            self.size += by;
        }
    }

    pub(super) fn arrive(&mut self, part: &Part, lease: Duration, now: Instant) -> Arrival {
        match self.phase {
            Phase::Closed => Arrival::Closed,
            Phase::Claimed { until, .. } if until > now => Arrival::Claimed {
                retry_after: until - now,
            },
            // Whoever had it is late or dead. What arrived since it was
            // complete stays out: the body is sent again, not another one.
            Phase::Claimed { .. } => self.claim(lease, now),
            Phase::Waiting => {
                self.count(part);
                if self.is_complete() {
                    self.claim(lease, now)
                } else {
                    Arrival::Waiting {
                        arrived: self.parts.len() as u64,
                        size: self.size,
                    }
                }
            }
        }
    }

    fn count(&mut self, part: &Part) {
        if self.arrived.insert((part.task_id.clone(), part.index)) {
            self.successes += u64::from(part.is_ok());
            self.parts.push(part.clone());
        }
    }

    fn is_complete(&self) -> bool {
        self.parts.len() as u64 >= self.size
            || (self.quorum < self.size && self.successes >= self.quorum)
    }

    fn claim(&mut self, lease: Duration, now: Instant) -> Arrival {
        // Stable, so members without a place keep the order of arrival.
        self.parts
            .sort_by_key(|part| part.index.unwrap_or(u64::MAX));
        self.claims += 1;
        self.phase = Phase::Claimed {
            claim: self.claims,
            until: now + lease,
        };
        Arrival::Complete {
            claim: self.claims,
            parts: self.parts.clone(),
        }
    }

    /// Ends the join, if `claim` is the one that counts.
    pub(super) fn close(&mut self, claim: u64) -> bool {
        if !matches!(self.phase, Phase::Claimed { claim: current, .. } if current == claim) {
            return false;
        }
        self.phase = Phase::Closed;
        // Kept only to know that it is closed.
        self.parts = Vec::new();
        self.arrived = HashSet::new();
        self.grown = HashSet::new();
        true
    }
}
