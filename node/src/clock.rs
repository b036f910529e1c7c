//! The wall clock of a node.
//!
//! Consensus holds it against the time of new blocks, and own blocks get their time from it. Nothing
//! that is committed depends on it: a node whose clock is wrong prevotes nil where it cannot judge,
//! and follows the others. A clock that is known to be wrong can be corrected, and one that is right
//! can be put wrong to see what follows.
//!
//! Deliberately not here: the monotonic clock, by which all waiting goes.

use std::time::{SystemTime, UNIX_EPOCH};

use floe_protocol::ledger::Timestamp;

/// Tells the time: the machine's, moved by a fixed distance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    offset_ms: i64,
}

impl Clock {
    /// The machine's clock as it is.
    pub const SYSTEM: Self = Self { offset_ms: 0 };

    /// A clock that is so many milliseconds ahead of the machine's, or behind it if negative.
    #[must_use]
    pub const fn ahead_by_ms(offset_ms: i64) -> Self {
        Self { offset_ms }
    }

    /// What it shows.
    #[must_use]
    pub fn now(self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let ms = since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        Timestamp::from_ms(ms.saturating_add_signed(self.offset_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_clock_is_ahead_or_behind_and_never_out_of_range() {
        let now = Clock::SYSTEM.now();
        let hour = 3_600_000;
        assert!(Clock::ahead_by_ms(hour).now().ms_since(now) >= 3_600_000);
        assert!(now.ms_since(Clock::ahead_by_ms(-hour).now()) > 3_590_000);
        assert_eq!(Clock::ahead_by_ms(i64::MIN).now(), Timestamp::from_ms(0));
    }
}
