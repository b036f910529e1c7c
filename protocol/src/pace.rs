//! When a height begins: blocks are made when there is something to do, else as a heartbeat.
//!
//! After each commit a node waits here before it begins the next height. A proposer that has begun
//! builds at once: nothing is held back within a height.
//!
//! Invariants: two heights begin at least the least interval apart, whatever others say; without
//! any reason the heartbeat begins one. Only the monotonic clock counts: a wall clock that is wrong
//! changes nothing here. Not asked for heights that block sync brings: those begin at once.

use std::time::Duration;

use crate::ledger::LedgerParameters;

/// What speaks for a block now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reasons {
    /// Transactions or system operations wait, or the state has records to sweep.
    pub work: bool,
    /// Others have begun the next height. One faulty member can make it look so.
    pub others_began: bool,
    /// When the running epoch needs a block, in ledger time after the last one; none before the
    /// first block.
    pub epoch_wait: Option<Duration>,
    /// When challenges need one, likewise; none without any.
    pub challenge_wait: Option<Duration>,
}

/// The pace of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    interval_min: Duration,
    heartbeat: Duration,
}

impl Pace {
    /// The pace that a genesis fixes.
    #[must_use]
    pub const fn new(parameters: &LedgerParameters) -> Self {
        Self {
            interval_min: Duration::from_millis(parameters.block_interval_min_ms),
            heartbeat: Duration::from_millis(parameters.heartbeat_ms),
        }
    }

    /// When the next height begins, on the monotonic clock: now, if that is over. `last` is when
    /// the last one ended there.
    #[must_use]
    pub fn next_height(&self, last: Duration, reasons: &Reasons) -> Duration {
        let soonest = last.saturating_add(self.interval_min);
        if reasons.work || reasons.others_began {
            return soonest;
        }
        let heartbeat = last.saturating_add(self.heartbeat);
        let waits = [reasons.epoch_wait, reasons.challenge_wait].into_iter().flatten();
        let deadline = waits.min().map(|wait| last.saturating_add(wait));
        deadline.map_or(heartbeat, |deadline| heartbeat.min(deadline).max(soonest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_height_begins_for_a_reason_or_as_a_heartbeat() {
        let pace = Pace::new(&LedgerParameters::default());
        let ms = Duration::from_millis;
        let at = |reasons: Reasons| pace.next_height(ms(980), &reasons);
        let none = Reasons::default();
        let deadline = |wait| Reasons { epoch_wait: Some(wait), ..none };
        assert_eq!(at(none), ms(10_980), "heartbeat");
        assert_eq!(at(Reasons { work: true, ..none }), ms(1_030), "least interval");
        let others_began = Reasons { others_began: true, ..none };
        assert_eq!(at(others_began), ms(1_030), "others cannot shorten it");
        assert_eq!(at(deadline(ms(520))), ms(1_500), "at the deadline");
        assert_eq!(at(deadline(Duration::ZERO)), ms(1_030), "past the deadline: least interval");
        assert_eq!(at(deadline(ms(49_000))), ms(10_980), "the heartbeat comes first");
        assert_eq!(at(deadline(Duration::MAX)), ms(10_980), "no deadline overflows");
        let challenge = |wait| Reasons { challenge_wait: Some(wait), ..deadline(ms(520)) };
        assert_eq!(at(challenge(ms(300))), ms(1_280), "the first of both");
        assert_eq!(at(challenge(ms(700))), ms(1_500), "the first of both");
        assert_eq!(at(Reasons { work: true, ..deadline(ms(520)) }), ms(1_030), "work comes first");
    }
}
