//! What a genesis fixes for storage challenges.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::{
    index::{ChallengeRound, Height},
    ledger::{OutOfRange, Timestamp},
};

/// Most steps of a chain: a transcript of so many stays within
/// [`TRANSCRIPT_BYTES_MAX`](super::TRANSCRIPT_BYTES_MAX) in every network.
pub const STEPS_MAX: u16 = 28;
/// Longest window and longest wait for certificates in milliseconds: an hour.
const WAIT_MS_MAX: u64 = 3_600_000;
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
    /// Certificates count until the first block so many milliseconds after the opening ...
    pub certificate_window_ms: u64,
    /// ... and so many heights after it.
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
    /// The first value that no ledger can work with.
    #[must_use]
    pub fn out_of_range(&self) -> Option<OutOfRange> {
        let interval_min = self.window_ms.saturating_mul(10);
        // So few rounds are open at a time.
        let wait_max = self.interval_ms.saturating_mul(8).min(WAIT_MS_MAX);
        let rules = [
            ("window_ms", self.window_ms, 1, WAIT_MS_MAX),
            ("interval_ms", self.interval_ms, interval_min, INTERVAL_MS_MAX),
            ("grace_ms", self.grace_ms, 0, INTERVAL_MS_MAX),
            ("steps", self.steps.into(), 1, STEPS_MAX.into()),
            ("certificate_window_ms", self.certificate_window_ms, self.window_ms, wait_max),
            ("certificate_window_heights", self.certificate_window_heights, 1, 100),
            ("slash_rounds_min", self.slash_rounds_min.into(), 1, u32::MAX.into()),
            ("slash_bps", self.slash_bps.into(), 0, 10_000),
            ("slashes_until_jail", self.slashes_until_jail.into(), 1, 1_024),
        ];
        let out = |(_, value, min, max): &(_, u64, u64, u64)| !(min..=max).contains(&value);
        let (name, value, min, max) = rules.into_iter().find(out)?;
        Some(OutOfRange { name, value, min, max })
    }

    /// Whether a block of this time opens a round, where the last one was opened at `last`.
    #[must_use]
    pub const fn opens(&self, last: Timestamp, time: Timestamp) -> bool {
        time.ms_since(last) >= self.interval_ms
    }

    /// Whether the block at `height` and `time` closes the round that `opened` then: certificates
    /// in it count no more.
    #[must_use]
    pub fn closes(
        &self,
        (round, opened): (ChallengeRound, Timestamp),
        (height, time): (Height, Timestamp),
    ) -> bool {
        let heights = height.get().saturating_sub(round.get());
        time.ms_since(opened) >= self.certificate_window_ms
            && heights >= self.certificate_window_heights
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_have_bounds() {
        let rules = ChallengeParameters::default();
        assert_eq!(rules.out_of_range(), None);
        let name = |rules: ChallengeParameters| rules.out_of_range().map(|rule| rule.name);
        assert_eq!(name(ChallengeParameters { window_ms: 0, ..rules }), Some("window_ms"));
        assert_eq!(name(ChallengeParameters { window_ms: 6_001, ..rules }), Some("interval_ms"));
        assert_eq!(name(ChallengeParameters { steps: 0, ..rules }), Some("steps"));
        assert_eq!(name(ChallengeParameters { steps: STEPS_MAX + 1, ..rules }), Some("steps"));
        for certificate_window_ms in [999, 480_001] {
            let rules = ChallengeParameters { certificate_window_ms, ..rules };
            assert_eq!(name(rules), Some("certificate_window_ms"));
        }
        let never = ChallengeParameters { slash_rounds_min: 0, ..rules };
        assert_eq!(name(never), Some("slash_rounds_min"));
    }

    #[test]
    fn a_round_opens_and_closes_by_ledger_time_and_heights() {
        let rules = ChallengeParameters::default();
        let at = |ms: u64| Timestamp::from_ms(1_000_000 + ms);
        assert!(!rules.opens(at(0), at(59_999)));
        assert!(rules.opens(at(0), at(60_000)));
        let closes = |height, ms| {
            rules.closes((ChallengeRound::new(7), at(0)), (Height::new(height), at(ms)))
        };
        assert!(closes(17, 30_000));
        assert!(!closes(16, 90_000), "a ledger that hardly moves gives time");
        assert!(!closes(99, 29_999));
    }
}
