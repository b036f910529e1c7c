//! When a height begins: blocks are made when there is something to do, else as a heartbeat.
//!
//! After each commit a node waits here before it begins the next height. A proposer that has begun
//! builds at once: nothing is held back within a height.
//!
//! Invariants: two heights begin at least the least interval apart, unless others have begun
//! already; without any reason the heartbeat begins one.

use std::time::Duration;

use crate::ledger::{LedgerParameters, Timestamp};

/// What speaks for a block now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reasons {
    /// Transactions or system operations wait, or the state has records to sweep.
    pub work: bool,
    /// Others have begun the next height.
    pub others_began: bool,
    /// When the running epoch needs a block.
    pub epoch_deadline: Option<Timestamp>,
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

    /// When the next height begins, on the monotonic clock. `last` is when the last one ended
    /// there; `wall` is what the wall clock says at `now`.
    #[must_use]
    pub fn next_height(
        &self,
        (now, wall): (Duration, Timestamp),
        last: Duration,
        reasons: &Reasons,
    ) -> Duration {
        if reasons.others_began {
            return now;
        }
        let soonest = last.saturating_add(self.interval_min);
        if reasons.work {
            return soonest;
        }
        let heartbeat = last.saturating_add(self.heartbeat);
        let Some(deadline) = reasons.epoch_deadline else { return heartbeat };
        let until = Duration::from_millis(deadline.ms_since(wall));
        heartbeat.min(now.saturating_add(until)).max(soonest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_height_begins_for_a_reason_or_as_a_heartbeat() {
        let pace = Pace::new(&LedgerParameters::default());
        let ms = Duration::from_millis;
        let at = |reasons: Reasons| {
            pace.next_height((ms(1_000), Timestamp::from_ms(50_000)), ms(980), &reasons)
        };
        let none = Reasons::default();
        let deadline = |ms| Reasons { epoch_deadline: Some(Timestamp::from_ms(ms)), ..none };
        assert_eq!(at(none), ms(10_980), "heartbeat");
        assert_eq!(at(Reasons { work: true, ..none }), ms(1_030), "least interval");
        assert_eq!(at(Reasons { others_began: true, ..none }), ms(1_000), "at once");
        assert_eq!(at(deadline(50_500)), ms(1_500), "at the deadline");
        assert_eq!(at(deadline(49_000)), ms(1_030), "past the deadline: least interval");
        assert_eq!(at(deadline(99_000)), ms(10_980), "the heartbeat comes first");
    }
}
