//! Whether blocks come as they are made, or of the past, one after the other: told without the wall
//! clock, which may be wrong.
//!
//! While a node catches up, ledger time runs faster than its own. Once it has caught up, both run
//! alike. So the distance between the two is watched: as long as it shrinks, blocks are of the past.
//!
//! Invariants: pure, its caller passes the time in; a wall clock that is wrong changes nothing.

use std::time::Duration;

use floe_protocol::ledger::Timestamp;
use tokio::time::Instant;

/// Blocks may come so much sooner or later after their time than others.
const SLACK_MS: i64 = 5_000;
/// How long the distance must have stood still.
const STEADY_AFTER: Duration = Duration::from_secs(5);

/// The pace of blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// A block's time, and when it came.
    first: Option<(Timestamp, Instant)>,
    /// By how much ledger time has gained on the node's own since then.
    gain_ms: i64,
    /// When it last gained.
    moved: Instant,
}

impl Pace {
    pub(super) const fn new(now: Instant) -> Self {
        Self { first: None, gain_ms: 0, moved: now }
    }

    /// A block has come.
    pub(super) fn block(&mut self, time: Timestamp, now: Instant) {
        let (first, at) = *self.first.get_or_insert((time, now));
        let ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let own = u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX);
        let gain = ms(time.ms_since(first)).saturating_sub(ms(own));
        if gain > self.gain_ms.saturating_add(SLACK_MS) {
            (self.gain_ms, self.moved) = (gain, now);
        }
        self.gain_ms = self.gain_ms.min(gain);
    }

    /// Whether blocks come as they are made.
    pub(super) fn is_steady(&self, now: Instant) -> bool {
        self.first.is_some() && now.saturating_duration_since(self.moved) >= STEADY_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// Feeds blocks of `ledger` seconds, one after each `own`; whether the last came in a steady
    /// pace.
    fn paced(pace: &mut Pace, (time, now): (&mut u64, &mut Instant), blocks: (u32, u64, Duration)) {
        let (count, ledger_ms, own) = blocks;
        for _ in 0..count {
            *time += ledger_ms;
            *now += own;
            pace.block(Timestamp::from_ms(*time), *now);
        }
    }

    #[tokio::test]
    async fn blocks_of_the_past_come_faster_than_they_were_made() {
        let (mut time, mut now) = (1_000_000, Instant::now());
        let mut pace = Pace::new(now);
        assert!(!pace.is_steady(now + 9 * S), "no block has come");
        pace.block(Timestamp::from_ms(time), now);
        // An hour of it within a minute.
        paced(&mut pace, (&mut time, &mut now), (60, 60_000, S));
        assert!(!pace.is_steady(now));
        // Live: early and late ones, too.
        paced(&mut pace, (&mut time, &mut now), (1, 3_000, S));
        paced(&mut pace, (&mut time, &mut now), (8, 1_000, S));
        assert!(pace.is_steady(now));
        // Nothing for a minute, and then all of it at once.
        now += 60 * S;
        assert!(pace.is_steady(now));
        paced(&mut pace, (&mut time, &mut now), (1, 1_000, S));
        paced(&mut pace, (&mut time, &mut now), (6, 9_000, S / 10));
        assert!(!pace.is_steady(now));
        paced(&mut pace, (&mut time, &mut now), (2, 10_000, 10 * S));
        assert!(pace.is_steady(now), "a ledger with nothing to do is followed, too");
    }
}
