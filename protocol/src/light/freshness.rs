//! When enough nodes have said which header is their newest, and what that header is good for.
//!
//! A single node can withhold the newest blocks. So a client asks several: once members that weigh
//! more than all faulty ones together have answered, one of them was honest; the highest header
//! that verified counts, common or not. If too few answer in time, what there is counts, and its
//! age says what it is good for: a header carries the time at which a quorum agreed on it.
//!
//! Invariants: pure, the clock is the caller's; a member counts once; an answer never makes the
//! result older.

use std::sync::Arc;

use super::VerifiedHeader;
use crate::{
    committee::{Committee, QuorumTracker},
    keys::NodeId,
    ledger::Timestamp,
};

/// How long to ask, and how old is too old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreshnessLimits {
    /// Asking ends after so many milliseconds, whoever has answered.
    pub deadline_ms: u64,
    /// No new round within so many milliseconds of the last one.
    pub again_ms: u64,
    /// Writes and balances refuse headers older than so many milliseconds; reads warn.
    pub age_max_ms: u64,
}

impl Default for FreshnessLimits {
    fn default() -> Self {
        Self { deadline_ms: 3_000, again_ms: 2_000, age_max_ms: 60_000 }
    }
}

/// One round of questions.
#[derive(Clone, Debug)]
pub struct Freshness {
    limits: FreshnessLimits,
    committee: Arc<Committee>,
    answered: QuorumTracker,
    started: Timestamp,
    newest: Option<VerifiedHeader>,
}

/// How far a round is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Too few have answered.
    Asking {
        /// When it ends all the same.
        until: Timestamp,
    },
    /// It is over.
    Done(Newest),
}

/// What a round has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newest {
    /// The highest header; none if nobody knew any.
    pub header: Option<VerifiedHeader>,
    /// Whether an honest member must be among those that answered.
    pub validity: bool,
    /// When the round ended.
    pub ended: Timestamp,
    limits: FreshnessLimits,
}

/// What a header is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fitness {
    /// New enough for everything.
    Fresh,
    /// Good for reading certified blobs, with a warning.
    Old(Unfit),
}

/// Why a write or a balance is refused.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// The newest header is too old.
    #[error("the newest header is {} s old, more than {} s", age_ms / 1_000, max_ms / 1_000)]
    TooOld {
        /// Its age in milliseconds.
        age_ms: u64,
        /// The most in milliseconds.
        max_ms: u64,
    },
    /// The newest header is from the future: this machine's clock is wrong, so nothing can be said
    /// of ages.
    #[error("the newest header is {} s ahead of this machine's clock: set the clock", ahead_ms / 1_000)]
    Clock {
        /// By how much, in milliseconds.
        ahead_ms: u64,
    },
    /// Too few members answered, and none of them knew a header.
    #[error("too few members of the committee answered")]
    NoAnswer,
}

impl Freshness {
    /// Starts to ask the members of `committee`.
    #[must_use]
    pub fn new(committee: Arc<Committee>, limits: FreshnessLimits, now: Timestamp) -> Self {
        let answered = QuorumTracker::new(&committee);
        Self { limits, committee, answered, started: now, newest: None }
    }

    /// Takes the verified answer of a node: its newest header, none before the first block. An
    /// answer that did not verify is no answer. Whoever is no member has no weight, but may know
    /// the newest header.
    pub fn answered(&mut self, node: &NodeId, newest: Option<VerifiedHeader>) {
        if let Some(position) = self.committee.position(node) {
            self.answered.add(&self.committee, position);
        }
        let height = |header: &VerifiedHeader| header.header().height;
        if newest.as_ref().map(height) > self.newest.as_ref().map(height) {
            self.newest = newest;
        }
    }

    /// Whether the round is over at `now`.
    #[must_use]
    pub fn progress(&self, now: Timestamp) -> Progress {
        let until = self.started.plus_ms(self.limits.deadline_ms);
        let validity = self.committee.is_validity(self.answered.weight());
        if !validity && now < until {
            return Progress::Asking { until };
        }
        let header = self.newest.clone();
        Progress::Done(Newest { header, validity, ended: now.min(until), limits: self.limits })
    }
}

impl Newest {
    /// Milliseconds since its header; none without one.
    #[must_use]
    pub fn age_ms(&self, now: Timestamp) -> Option<u64> {
        self.header.as_ref().map(|header| now.ms_since(header.header().time))
    }

    /// Whether a new round may be started: not so soon after this one.
    #[must_use]
    pub fn may_ask_again(&self, now: Timestamp) -> bool {
        now.ms_since(self.ended) >= self.limits.again_ms
    }

    /// For reads of certified blobs, which go on from an old header with a warning.
    #[must_use]
    pub fn for_read(&self, now: Timestamp) -> Fitness {
        self.for_write(now).map_or_else(Fitness::Old, |()| Fitness::Fresh)
    }

    /// For writes and balances.
    ///
    /// # Errors
    /// [`Unfit`]: nothing may be decided from it.
    pub fn for_write(&self, now: Timestamp) -> Result<(), Unfit> {
        let max_ms = self.limits.age_max_ms;
        let Some(header) = &self.header else {
            // One honest member says that there is no block yet: the genesis is the state.
            return if self.validity { Ok(()) } else { Err(Unfit::NoAnswer) };
        };
        let time = header.header().time;
        let (age_ms, ahead_ms) = (now.ms_since(time), time.ms_since(now));
        if ahead_ms > max_ms {
            return Err(Unfit::Clock { ahead_ms });
        }
        if age_ms > max_ms { Err(Unfit::TooOld { age_ms, max_ms }) } else { Ok(()) }
    }
}
