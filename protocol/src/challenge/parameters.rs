//! What a genesis fixes for storage challenges.
//!
//! The defaults are for epochs of a day. Networks with shorter ones take what
//! [`ChallengeParameters::for_epoch`] derives: as many rounds as make a score say something, in
//! windows that shrink with them. A genesis may fix others, within [`ChallengeParameters::check`].
//!
//! Invariants of rules that pass the check: a window is over long before certificates cease to
//! count, those long before so many further rounds are open that memory would notice, and a
//! transcript stays within its longest.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::{
    index::{ChallengeRound, Height},
    ledger::{OutOfRange, Timestamp},
};

/// Most steps of a chain: a transcript of so many stays within
/// [`TRANSCRIPT_BYTES_MAX`](super::TRANSCRIPT_BYTES_MAX) in every network.
pub const STEPS_MAX: u16 = 28;
/// Shortest window in milliseconds: less, and it measures how busy machines are.
const WINDOW_MS_MIN: u64 = 100;
/// Windows in an interval, at least: most of the time is for reads.
const WINDOWS_PER_INTERVAL: u64 = 10;
/// Windows for which certificates count, at least: transcripts, acknowledgements and a transaction
/// follow upon the first.
const WINDOWS_PER_CERTIFICATE: u64 = 8;
/// Intervals for which certificates count, at most: about so many rounds are open at a time.
const INTERVALS_PER_CERTIFICATE: u64 = 8;
/// Heights right after the opening that nodes' seeds come from: three have two proposers but for
/// one that has all its turns at once.
pub(crate) const SEED_HEIGHTS: u64 = 3;
/// Heights for which certificates count, at least: one between those of the seeds and the last, or
/// an idle ledger would have none that takes certificates of the last who got a seed.
const CERTIFICATE_HEIGHTS_MIN: u64 = SEED_HEIGHTS + 2;
/// Longest window and longest wait for certificates in milliseconds: an hour.
const WAIT_MS_MAX: u64 = 3_600_000;
/// Shortest interval that [`ChallengeParameters::for_epoch`] gives, in milliseconds.
pub(crate) const INTERVAL_MIN_MS: u64 = 5_000;
/// Longest interval and grace in milliseconds: a year.
const INTERVAL_MS_MAX: u64 = 365 * 24 * 3_600_000;

/// The rules of storage challenges, fixed at genesis.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
#[serde(deny_unknown_fields, default)]
pub struct ChallengeParameters {
    /// A round opens in the first block at least so many milliseconds after the last opening.
    pub interval_ms: u64,
    /// For how many milliseconds a blob has to be certified, and a gained shard reported ready,
    /// before it is asked for.
    pub grace_ms: u64,
    /// How long a node has, in milliseconds from the commit of its seed's block to its commitment.
    pub window_ms: u64,
    /// Steps of a chain.
    pub steps: u16,
    /// Certificates count until the first block so many milliseconds after the one that follows
    /// the opening ...
    pub certificate_window_ms: u64,
    /// ... and so many heights after the opening.
    pub certificate_window_heights: u64,
    /// Rounds that have to count before a node is slashed for its score.
    pub slash_rounds_min: u32,
    /// The part of a pool that a bad score costs, in ten-thousandths.
    pub slash_bps: u16,
    /// Epochs in a row with a bad score after which a node is jailed.
    pub slashes_until_jail: u32,
}

impl Default for ChallengeParameters {
    fn default() -> Self {
        Self {
            interval_ms: 60_000,
            grace_ms: 600_000,
            window_ms: 1_000,
            steps: 16,
            certificate_window_ms: 30_000,
            certificate_window_heights: 10,
            slash_rounds_min: 20,
            slash_bps: 100,
            slashes_until_jail: 3,
        }
    }
}

impl ChallengeParameters {
    /// Rules for epochs of so many milliseconds.
    ///
    /// - interval: the 120th part of the epoch, so that 100 rounds at least are over when it ends;
    ///   from 5 s to the default. Epochs below ten minutes have fewer rounds, and those below 100
    ///   seconds too few for anybody to be slashed: they are for trying things out, with all nodes
    ///   on one machine, which then has other things to do as well. Epochs of up to 5 s have none.
    /// - window: the tenth part of the interval, at most the default.
    /// - certificates count for the 30th part of the epoch or an interval, whichever is longer, but
    ///   no longer than by default. A proposer may be ahead of others' clocks by
    ///   [`max_clock_skew_ms`](crate::consensus::Config::max_clock_skew_ms), and bring the end so much
    ///   nearer: from epochs of ten minutes on this leaves time for all.
    /// - grace: the tenth part of the epoch, at most the default.
    ///
    /// All else, and from two hours on everything, is as by default.
    #[must_use]
    pub fn for_epoch(epoch_ms: u64) -> Self {
        let default = Self::default();
        let interval_ms = (epoch_ms / 120).clamp(INTERVAL_MIN_MS, default.interval_ms);
        Self {
            interval_ms,
            window_ms: (interval_ms / WINDOWS_PER_INTERVAL).min(default.window_ms),
            certificate_window_ms: (epoch_ms / 30)
                .max(interval_ms)
                .min(default.certificate_window_ms),
            grace_ms: (epoch_ms / 10).min(default.grace_ms),
            ..default
        }
    }

    /// Checks the rules of a genesis.
    ///
    /// # Errors
    /// [`OutOfRange`]: the first value that no ledger can work with.
    pub fn check(&self) -> Result<(), OutOfRange> {
        let interval_min = self.window_ms.saturating_mul(WINDOWS_PER_INTERVAL);
        let wait_min = self.window_ms.saturating_mul(WINDOWS_PER_CERTIFICATE);
        let wait_max = self.interval_ms.saturating_mul(INTERVALS_PER_CERTIFICATE).min(WAIT_MS_MAX);
        let rules = [
            ("window_ms", self.window_ms, WINDOW_MS_MIN, WAIT_MS_MAX / WINDOWS_PER_CERTIFICATE),
            ("interval_ms", self.interval_ms, interval_min, INTERVAL_MS_MAX),
            ("grace_ms", self.grace_ms, 0, INTERVAL_MS_MAX),
            ("steps", self.steps.into(), 1, STEPS_MAX.into()),
            ("certificate_window_ms", self.certificate_window_ms, wait_min, wait_max),
            (
                "certificate_window_heights",
                self.certificate_window_heights,
                CERTIFICATE_HEIGHTS_MIN,
                100,
            ),
            ("slash_rounds_min", self.slash_rounds_min.into(), 1, u32::MAX.into()),
            ("slash_bps", self.slash_bps.into(), 0, 10_000),
            ("slashes_until_jail", self.slashes_until_jail.into(), 1, 1_024),
        ];
        let out = |(_, value, min, max): &(_, u64, u64, u64)| !(min..=max).contains(&value);
        match rules.into_iter().find(out) {
            Some((name, value, min, max)) => Err(OutOfRange { name, value, min, max }),
            None => Ok(()),
        }
    }

    /// Whether a block of this time opens a round, where the last one was opened at `last`.
    #[must_use]
    pub const fn opens(&self, last: Timestamp, time: Timestamp) -> bool {
        time.ms_since(last) >= self.interval_ms
    }

    /// Whether the block at `height` and `time` closes `round`: certificates in it count no more.
    /// `since` is the time of the block after the opening one, if that is made.
    #[must_use]
    pub fn closes(
        &self,
        (round, since): (ChallengeRound, Option<Timestamp>),
        (height, time): (Height, Timestamp),
    ) -> bool {
        let heights = height.get().saturating_sub(round.get());
        since.is_some_and(|since| time.ms_since(since) >= self.certificate_window_ms)
            && heights >= self.certificate_window_heights
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with default rules after this change.
    fn check(change: impl FnOnce(&mut ChallengeParameters)) -> Option<(&'static str, u64, u64)> {
        let mut rules = ChallengeParameters::default();
        change(&mut rules);
        rules.check().err().map(|rule| (rule.name, rule.min, rule.max))
    }

    #[test]
    fn rules_have_bounds() {
        assert_eq!(check(|_| {}), None);
        let window = Some(("window_ms", 100, 450_000));
        for (window_ms, expected) in [
            (0, window),
            (99, window),
            (100, None),
            (3_750, None),
            (3_751, Some(("certificate_window_ms", 30_008, 480_000))),
            (6_001, Some(("interval_ms", 60_010, INTERVAL_MS_MAX))),
            (450_001, window),
        ] {
            assert_eq!(check(|rules| rules.window_ms = window_ms), expected, "{window_ms} ms");
        }
        for (ms, is_right) in [(7_999, false), (8_000, true), (480_000, true), (480_001, false)] {
            let expected = (!is_right).then_some(("certificate_window_ms", 8_000, 480_000));
            assert_eq!(check(|rules| rules.certificate_window_ms = ms), expected, "{ms} ms");
        }
        let max = u64::from(STEPS_MAX);
        assert_eq!(check(|rules| rules.steps = 0), Some(("steps", 1, max)));
        assert_eq!(check(|rules| rules.steps = STEPS_MAX + 1), Some(("steps", 1, max)));
        let never = Some(("slash_rounds_min", 1, u32::MAX.into()));
        assert_eq!(check(|rules| rules.slash_rounds_min = 0), never);
        assert_eq!(check(|rules| rules.slash_bps = 10_001), Some(("slash_bps", 0, 10_000)));
    }

    #[test]
    fn rules_for_shorter_epochs_keep_their_proportions() {
        let default = ChallengeParameters::default();
        let rules = |interval_ms, window_ms, certificate_window_ms, grace_ms| ChallengeParameters {
            interval_ms,
            window_ms,
            certificate_window_ms,
            grace_ms,
            ..default
        };
        for (epoch_ms, expected) in [
            (0, rules(5_000, 500, 5_000, 0)),
            (10_000, rules(5_000, 500, 5_000, 1_000)),
            (300_000, rules(5_000, 500, 10_000, 30_000)),
            (600_000, rules(5_000, 500, 20_000, 60_000)),
            (1_200_000, rules(10_000, 1_000, 30_000, 120_000)),
            (2_400_000, rules(20_000, 1_000, 30_000, 240_000)),
            (7_200_000, default),
            (86_400_000, default),
            (u64::MAX, default),
        ] {
            let derived = ChallengeParameters::for_epoch(epoch_ms);
            assert_eq!(derived, expected, "{epoch_ms} ms");
        }
        for epoch_ms in (0..8_000_000).step_by(997) {
            let rules = ChallengeParameters::for_epoch(epoch_ms);
            assert_eq!(rules.check(), Ok(()), "{epoch_ms} ms");
            // Blocks open rounds up to a tenth of an interval late; the last ones are still open.
            let over = (epoch_ms - rules.certificate_window_ms.min(epoch_ms)) * 10;
            let rounds = over / (rules.interval_ms * 11);
            assert!(rounds >= 100 || epoch_ms < 600_000, "{epoch_ms} ms: {rounds} rounds");
        }
    }

    #[test]
    fn a_round_opens_and_closes_by_ledger_time_and_heights() {
        let rules = ChallengeParameters::default();
        let at = |ms: u64| Timestamp::from_ms(1_000_000 + ms);
        assert!(!rules.opens(at(0), at(59_999)));
        assert!(rules.opens(at(0), at(60_000)));
        let closes_since = |since, height, ms| {
            rules.closes((ChallengeRound::new(7), since), (Height::new(height), at(ms)))
        };
        let closes = |height, ms| closes_since(Some(at(0)), height, ms);
        assert!(closes(17, 30_000));
        assert!(!closes(16, 90_000), "a ledger that hardly moves gives time");
        assert!(!closes(99, 29_999));
        assert!(!closes_since(None, 99, 90_000), "nobody could answer yet");
    }
}
