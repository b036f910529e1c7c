//! What the ledger keeps of an epoch's storage challenges: one record, of bounded size.
//!
//! A round opens with a block, takes certificates while it is open, and is counted into its members'
//! [scores](Score) when it closes. At the end of the epoch the scores decide on pay and stake. Those
//! who look afterwards find the last rounds with what they came to; all of them are in the events.
//!
//! Invariants: at most [`OPEN_ROUNDS_MAX`] rounds are open and [`CLOSED_ROUNDS_KEPT`] kept; a round
//! is counted once, or never if the epoch ended before. Deliberately not here: what a round asks for
//! and how certificates are verified ([`challenge`](crate::challenge)).

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use super::Timestamp;
use crate::{
    challenge::{ChallengeParameters, RoundRecord, SEED_HEIGHTS, Score},
    committee::Committee,
    index::{ChallengeRound, Height},
};

/// Closed rounds that the record keeps, for people.
pub const CLOSED_ROUNDS_KEPT: usize = 8;
/// Most rounds that are open at a time: no other opens before one of them closes. Rounds overlap
/// only if the ledger hardly moves, or certificates count for longer than the interval.
pub const OPEN_ROUNDS_MAX: usize = 16;

/// The challenges of an epoch.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Challenges {
    /// When a round last opened, or would have if there had been something to ask for.
    pub last: Option<Timestamp>,
    /// Rounds opened so far.
    pub rounds: u32,
    /// Those in which certificates can come, oldest first.
    pub open: Vec<RoundRecord>,
    /// The last ones that are over, oldest first.
    pub closed: Vec<RoundRecord>,
    /// What the closed rounds came to, by committee position.
    pub scores: Vec<Score>,
}

impl Challenges {
    /// Those of a committee of so many members that nobody has been challenged of.
    #[must_use]
    pub fn new(members: usize) -> Self {
        Self { scores: vec![Score::default(); members], ..Self::default() }
    }

    /// How the member at a position has done so far.
    #[must_use]
    pub fn score(&self, position: usize) -> Score {
        self.scores.get(position).copied().unwrap_or_default()
    }

    /// The round, if a block of this height and time still counts certificates of it.
    pub(super) fn open_at(
        &mut self,
        rules: &ChallengeParameters,
        round: ChallengeRound,
        block: (Height, Timestamp),
    ) -> Option<&mut RoundRecord> {
        let mut open = self.open.iter_mut();
        open.find(|open| open.round == round && !rules.closes((open.round, open.since), block))
    }

    /// A block of this time was made: whether that is news for a round that is open.
    pub(super) fn begin(&mut self, time: Timestamp) -> bool {
        let mut is_news = false;
        for open in self.open.iter_mut().filter(|open| open.since.is_none()) {
            open.began(time);
            is_news = true;
        }
        is_news
    }

    /// Closes the rounds that a block of this height and time closes, and those that all have passed,
    /// and counts them.
    pub(super) fn close(
        &mut self,
        rules: &ChallengeParameters,
        committee: &Committee,
        block: (Height, Timestamp),
    ) -> Vec<RoundRecord> {
        let closes = |open: &mut RoundRecord| {
            open.is_complete() || rules.closes((open.round, open.since), block)
        };
        let mut closed: Vec<_> = self.open.extract_if(.., closes).collect();
        for round in &mut closed {
            round.close(committee);
            for (score, outcome) in self.scores.iter_mut().zip(&round.outcomes) {
                score.count(*outcome);
            }
        }
        self.closed.extend_from_slice(&closed);
        let too_many = self.closed.len().saturating_sub(CLOSED_ROUNDS_KEPT);
        self.closed.drain(..too_many);
        closed
    }

    /// Whether another round may open in a block of this time, in an epoch that has begun then.
    pub(super) fn opens(
        &self,
        rules: &ChallengeParameters,
        epoch_start: Timestamp,
        time: Timestamp,
    ) -> bool {
        let last = self.last.unwrap_or(epoch_start);
        self.open.len() < OPEN_ROUNDS_MAX && rules.opens(last, time)
    }

    /// When another round opens, in an epoch that has begun then; none before one closes if too
    /// many are open.
    pub(super) fn next_opening(
        &self,
        rules: &ChallengeParameters,
        epoch_start: Timestamp,
    ) -> Option<Timestamp> {
        let last = self.last.unwrap_or(epoch_start);
        (self.open.len() < OPEN_ROUNDS_MAX).then(|| last.plus_ms(rules.interval_ms))
    }

    /// When the block after one of this height and time is needed for the rounds that are open:
    /// the one that gives almost all of the seeds at once, the one that gives the last a window later,
    /// so that machines are left to who reads chains, the next when there should be certificates of
    /// all (it gives a seed to who has made both), and the rest, as many as a round takes, evenly
    /// until it can be closed, all counted from the first one. So an idle ledger makes as many blocks
    /// as it has to, and certificates have many proposers to come through. What a round lacks until it
    /// can be closed waits while a later one has its first two windows, in time those of all and of the
    /// last to get a seed: a ledger that was held up would make up for it just then. Where all have
    /// passed, nothing is needed.
    pub(super) fn next_step(
        &self,
        rules: &ChallengeParameters,
        (height, time): (Height, Timestamp),
    ) -> Option<Timestamp> {
        let (heights, window_ms) = (rules.certificate_window_heights, rules.certificate_window_ms);
        let windows_ms = rules.window_ms.saturating_mul(2);
        let begun = self.open.iter().filter_map(|open| open.since);
        let last_ends = begun.max().map(|since| since.plus_ms(windows_ms));
        let step = |open: &RoundRecord| {
            let number = height.next().get().saturating_sub(open.round.get());
            let part = number.min(heights).saturating_mul(window_ms).checked_div(heights);
            let wait_ms = match number {
                0 | 1 => 0,
                2 => rules.window_ms,
                SEED_HEIGHTS => rules.window_ms.saturating_mul(3),
                _ => part.unwrap_or(window_ms),
            };
            let due = open.since.unwrap_or(time).plus_ms(wait_ms);
            if number > SEED_HEIGHTS { due.max(last_ends.unwrap_or(due)) } else { due }
        };
        self.open.iter().filter(|open| !open.is_complete()).map(step).min()
    }
}
