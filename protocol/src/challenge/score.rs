//! What rounds come to: who passed, who missed, which rounds are void, and what that makes of a
//! member's pay and stake.
//!
//! A [`RoundRecord`] is what the ledger keeps of a round, open or closed, a [`Score`] what it keeps
//! of a member through its epoch. Pay counts every round that was opened for the
//! member; for slashing it has to be the member's fault alone, so rounds that too many missed are
//! left out.
//!
//! Invariants: an outcome is decided once; a score only grows; who passes a void round keeps it.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use super::{ChallengeParameters, Universe};
use crate::{committee::Committee, index::ChallengeRound, ledger::Timestamp};

/// Where a member stands in a round.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// There is nothing to ask it for: the round does not count for it.
    NotAsked,
    /// Its certificate can still come.
    Open,
    /// Certified.
    Passed,
    /// No certificate came.
    Missed,
    /// No certificate came, as for too many others.
    Void,
}

/// A round on the ledger: while certificates can come, and afterwards with what it came to.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct RoundRecord {
    /// The round.
    pub round: ChallengeRound,
    /// The time of its opening block.
    pub opened: Timestamp,
    /// The time of the block after it, which gives the first seeds: from then on time counts, so
    /// that a ledger that stands still in between takes none from anybody.
    pub since: Option<Timestamp>,
    /// Per committee position.
    pub outcomes: Vec<Outcome>,
}

/// Why a certificate changes nothing.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum NotOpen {
    /// The round does not count for the node, or it is no member.
    #[error("the round does not count for the node")]
    NotAsked,
    /// It has passed the round already.
    #[error("the node has passed the round already")]
    Passed,
}

impl RoundRecord {
    /// The round of `universe`, in which nobody has passed.
    #[must_use]
    pub fn new(universe: &Universe) -> Self {
        let outcome = |position| {
            if universe.counts_for(position) { Outcome::Open } else { Outcome::NotAsked }
        };
        let outcomes = (0..universe.committee.members().len()).map(outcome).collect();
        Self { round: universe.round, opened: universe.opened, since: None, outcomes }
    }

    /// The member at `position` has a certificate.
    ///
    /// # Errors
    /// [`NotOpen`] if it needs none.
    pub fn pass(&mut self, position: usize) -> Result<(), NotOpen> {
        match self.outcomes.get_mut(position) {
            Some(outcome @ Outcome::Open) => {
                *outcome = Outcome::Passed;
                Ok(())
            }
            Some(Outcome::Passed) => Err(NotOpen::Passed),
            Some(Outcome::NotAsked | Outcome::Missed | Outcome::Void) | None => {
                Err(NotOpen::NotAsked)
            }
        }
    }

    /// A block of this time was made after the opening one.
    pub fn began(&mut self, time: Timestamp) {
        self.since.get_or_insert(time);
    }

    /// Whether all that are asked have passed: nothing can change any more.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.outcomes.contains(&Outcome::Open)
    }

    /// Decides what the round came to, of each member: no certificate counts any more. It is void if
    /// members with more than `f` shards of `committee` missed it, counted by all their shards as
    /// everywhere.
    pub fn close(&mut self, committee: &Committee) {
        let members = committee.members().iter().zip(&self.outcomes);
        let missing = members.filter(|(_, outcome)| **outcome == Outcome::Open);
        let weight = missing.map(|(member, _)| member.weight()).sum();
        let missed = if committee.is_validity(weight) { Outcome::Void } else { Outcome::Missed };
        for outcome in &mut self.outcomes {
            if *outcome == Outcome::Open {
                *outcome = missed;
            }
        }
    }
}

/// What the rounds of an epoch came to for a member.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
)]
pub struct Score {
    /// Rounds passed, void ones included.
    pub passed: u32,
    /// Rounds missed that were not void.
    pub missed: u32,
    /// Void rounds missed.
    pub void: u32,
}

impl Score {
    /// A round has closed.
    pub fn count(&mut self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Passed => &mut self.passed,
            Outcome::Missed => &mut self.missed,
            Outcome::Void => &mut self.void,
            Outcome::NotAsked | Outcome::Open => return,
        };
        *counter = counter.saturating_add(1);
    }

    /// The part of its reward that it has earned, as numerator and denominator: rounds passed of all
    /// that were opened for it; everything if there was none.
    #[must_use]
    pub fn pay(&self) -> (u64, u64) {
        let (passed, missed) = (u64::from(self.passed), u64::from(self.missed));
        let opened = passed.saturating_add(missed).saturating_add(self.void.into());
        if opened == 0 { (1, 1) } else { (passed, opened) }
    }

    /// Whether enough rounds count to say that it is good or bad.
    #[must_use]
    pub fn is_judged(&self, parameters: &ChallengeParameters) -> bool {
        let counted = u64::from(self.passed).saturating_add(self.missed.into());
        counted >= parameters.slash_rounds_min.into()
    }

    /// Whether it costs stake: less than half of enough rounds that count were passed.
    #[must_use]
    pub fn is_slashed(&self, parameters: &ChallengeParameters) -> bool {
        self.is_judged(parameters) && self.passed < self.missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support;

    fn round(outcomes: &[Outcome]) -> RoundRecord {
        let (round, opened) = (ChallengeRound::new(1), Timestamp::from_ms(0));
        RoundRecord { round, opened, since: None, outcomes: outcomes.to_vec() }
    }

    #[test]
    fn a_round_is_void_if_more_than_f_shards_miss_it() {
        use Outcome::{Missed, NotAsked, Open, Passed, Void};
        // Seven members with a shard each: f is 2.
        let committee = test_support::committee(7, 7);
        let mut some = round(&[Open; 7]);
        for position in 0..5 {
            assert_eq!(some.pass(position), Ok(()));
            assert_eq!(some.pass(position), Err(NotOpen::Passed));
        }
        assert_eq!(some.pass(7), Err(NotOpen::NotAsked), "no such member");
        let closed = [Passed, Passed, Passed, Passed, Passed, Missed, Missed];
        some.close(&committee);
        assert_eq!(some.outcomes, closed);
        let mut many = round(&[Passed, Passed, Open, Open, Open, NotAsked, NotAsked]);
        let closed = [Passed, Passed, Void, Void, Void, NotAsked, NotAsked];
        many.close(&committee);
        assert_eq!(many.outcomes, closed);
        let mut idle = round(&[NotAsked; 7]);
        assert_eq!(idle.pass(0), Err(NotOpen::NotAsked));
        idle.close(&committee);
        assert_eq!(idle.outcomes, [NotAsked; 7]);
    }

    #[test]
    fn pay_counts_all_rounds_and_slashing_those_that_are_not_void() {
        let rules = ChallengeParameters::default();
        let score = |passed, missed, void| Score { passed, missed, void };
        for (score, pay, slashed) in [
            (score(0, 0, 0), (1, 1), false),
            (score(10, 10, 0), (10, 20), false),
            (score(9, 10, 0), (9, 19), false),
            (score(9, 11, 0), (9, 20), true),
            (score(0, 19, 0), (0, 19), false),
            (score(0, 20, 0), (0, 20), true),
            (score(15, 4, 81), (15, 100), false),
        ] {
            assert_eq!((score.pay(), score.is_slashed(&rules)), (pay, slashed), "{score:?}");
        }
        let mut counted = Score::default();
        for outcome in
            [Outcome::Passed, Outcome::Missed, Outcome::Void, Outcome::NotAsked, Outcome::Passed]
        {
            counted.count(outcome);
        }
        assert_eq!(counted, score(2, 1, 1));
    }
}
