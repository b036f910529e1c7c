//! What a genesis fixes for its ledger.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use super::Amount;
use crate::challenge::{ChallengeParameters, INTERVAL_MIN_MS};

/// Longest epoch in milliseconds: a year.
const EPOCH_MS_MAX: u64 = 365 * 24 * 3_600_000;
/// Shortest epoch in milliseconds: anything less is shorter than its own blocks.
const EPOCH_MS_MIN: u64 = 1_000;
/// Longest time without a block in milliseconds. A node reports that it is there by naming the
/// block before the last, and [`NODE_READY_AGE_MAX_MS`](super::NODE_READY_AGE_MAX_MS) later it is
/// too late: at this pace a report has still ten seconds to get into a block.
const IDLE_MS_MAX: u64 = 20_000;

/// How often the grace of challenges goes into an epoch, at least.
const GRACES_PER_EPOCH: u64 = 4;

/// The rules of a ledger, fixed at genesis.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
#[serde(deny_unknown_fields, default)]
pub struct LedgerParameters {
    /// Duration of an epoch in milliseconds of ledger time.
    pub epoch_ms: u64,
    /// Blocks are at least so many milliseconds apart.
    pub block_interval_min_ms: u64,
    /// Without anything to do, a block is made after so many milliseconds: at most 20 s, or reports
    /// of nodes grow too old between two blocks.
    pub heartbeat_ms: u64,
    /// For how many epochs, the running one included, a blob can be paid in advance.
    pub max_epochs_ahead: u32,
    /// Whole epochs for which stake that leaves a pool can still be slashed.
    pub unbonding_epochs: u32,
    /// Epochs that a jailed node waits before its operator may unjail it.
    pub jail_epochs: u32,
    /// The part of a pool that equivocation costs, in ten-thousandths.
    pub equivocation_slash_bps: u16,
    /// The least stake of a node that can be selected.
    pub min_stake: Amount,
    /// The least fee of a transaction, per operation.
    pub fee_per_operation: Amount,
    /// What members vote for until they say otherwise: FROST per unit and epoch.
    pub storage_price: Amount,
    /// What members vote for until they say otherwise: FROST per unit, once.
    pub write_price: Amount,
    /// What members vote for until they say otherwise: units of the whole network.
    pub capacity_units: u64,
    /// The rules of storage challenges.
    pub challenges: ChallengeParameters,
}

impl Default for LedgerParameters {
    fn default() -> Self {
        Self {
            epoch_ms: 24 * 3_600_000,
            block_interval_min_ms: 50,
            heartbeat_ms: 10_000,
            max_epochs_ahead: 104,
            unbonding_epochs: 2,
            jail_epochs: 2,
            equivocation_slash_bps: 500,
            min_stake: Amount::from_wal(100),
            fee_per_operation: Amount::from_frost(10_000),
            storage_price: Amount::from_frost(100_000),
            write_price: Amount::from_frost(200_000),
            capacity_units: 1 << 30,
            challenges: ChallengeParameters::default(),
        }
    }
}

/// A rule that no ledger can work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} of the ledger is {value}: it has to be {min} to {max}")]
pub struct OutOfRange {
    /// Its name in the genesis.
    pub name: &'static str,
    /// What the genesis says.
    pub value: u64,
    /// The least that is possible.
    pub min: u64,
    /// The most.
    pub max: u64,
}

impl LedgerParameters {
    /// The default rules, with epochs of so many milliseconds and challenges that fit them.
    #[must_use]
    pub fn for_epoch(epoch_ms: u64) -> Self {
        let challenges = ChallengeParameters::for_epoch(epoch_ms);
        Self { epoch_ms, challenges, ..Self::default() }
    }

    /// The first value that no ledger can work with.
    #[must_use]
    pub fn out_of_range(&self) -> Option<OutOfRange> {
        let interval_max = self.epoch_ms.min(IDLE_MS_MAX);
        let rules = [
            ("epoch_ms", self.epoch_ms, EPOCH_MS_MIN, EPOCH_MS_MAX),
            ("block_interval_min_ms", self.block_interval_min_ms, 0, interval_max),
            ("heartbeat_ms", self.heartbeat_ms, 1, IDLE_MS_MAX),
            ("max_epochs_ahead", self.max_epochs_ahead.into(), 1, 1_024),
            ("unbonding_epochs", self.unbonding_epochs.into(), 2, 1_024),
            ("jail_epochs", self.jail_epochs.into(), 0, 1_024),
            ("equivocation_slash_bps", self.equivocation_slash_bps.into(), 0, 10_000),
        ];
        let out = |(_, value, min, max): &(_, u64, u64, u64)| !(min..=max).contains(&value);
        match rules.into_iter().find(out) {
            Some((name, value, min, max)) => Some(OutOfRange { name, value, min, max }),
            None => self.challenges.check().err().or_else(|| self.misfit()),
        }
    }

    /// The first rule of challenges that does not fit the epoch. In one without rounds everybody is
    /// paid in full: an epoch may be too short for them, but only with the shortest interval that
    /// is derived from any.
    fn misfit(&self) -> Option<OutOfRange> {
        let rules = &self.challenges;
        let within_epoch = self.epoch_ms.saturating_sub(1).max(INTERVAL_MIN_MS);
        let fits = [
            ("interval_ms", rules.interval_ms, within_epoch),
            ("certificate_window_ms", rules.certificate_window_ms, within_epoch),
            // Shards that are ready at half of the epoch are paid: they are asked for, too.
            ("grace_ms", rules.grace_ms, self.epoch_ms / GRACES_PER_EPOCH),
        ];
        let out = fits.into_iter().find(|(_, value, max)| value > max);
        out.map(|(name, value, max)| OutOfRange { name, value, min: 0, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl Fn(&mut LedgerParameters, u64), name: &str, (min, max): (u64, u64)) {
        let out = |value| {
            let mut rules = LedgerParameters::default();
            change(&mut rules, value);
            rules.out_of_range()
        };
        assert_eq!((out(min), out(max)), (None, None), "{name}");
        for value in [min.checked_sub(1), max.checked_add(1)].into_iter().flatten() {
            let error = out(value).expect(name);
            assert_eq!((error.name, error.value), (name, value));
            assert_eq!((error.min, error.max), (min, max), "{name}");
        }
    }

    #[test]
    fn rules_have_bounds() {
        let day = LedgerParameters::default().epoch_ms;
        let epoch = |rules: &mut LedgerParameters, ms| *rules = LedgerParameters::for_epoch(ms);
        check(epoch, "epoch_ms", (1_000, 365 * day));
        // Half a minute or more, and nobody could report in time that it is there.
        check(|rules, ms| rules.heartbeat_ms = ms, "heartbeat_ms", (1, 20_000));
        check(|rules, ms| rules.block_interval_min_ms = ms, "block_interval_min_ms", (0, 20_000));
        check(
            |rules, ms| {
                *rules = LedgerParameters::for_epoch(1_000);
                rules.block_interval_min_ms = ms;
            },
            "block_interval_min_ms",
            (0, 1_000),
        );
        let small = |value| u32::try_from(value).unwrap();
        let slash = |rules: &mut LedgerParameters, bps| {
            rules.equivocation_slash_bps = u16::try_from(bps).unwrap();
        };
        check(|rules, n| rules.max_epochs_ahead = small(n), "max_epochs_ahead", (1, 1_024));
        check(|rules, n| rules.unbonding_epochs = small(n), "unbonding_epochs", (2, 1_024));
        check(|rules, n| rules.jail_epochs = small(n), "jail_epochs", (0, 1_024));
        check(slash, "equivocation_slash_bps", (0, 10_000));
        let of_challenges = |rules: &mut LedgerParameters, bps| {
            rules.challenges.slash_bps = u16::try_from(bps).unwrap();
        };
        check(of_challenges, "slash_bps", (0, 10_000));
        let fits = |epoch_ms, change: fn(&mut ChallengeParameters)| {
            let mut rules = LedgerParameters::for_epoch(epoch_ms);
            change(&mut rules.challenges);
            rules.out_of_range().map(|rule| (rule.name, rule.value, rule.max))
        };
        // What is said of an epoch alone goes with the challenges of a day.
        let short = LedgerParameters { epoch_ms: 60_000, ..LedgerParameters::default() };
        assert_eq!(short.out_of_range().map(|rule| rule.name), Some("interval_ms"));
        assert_eq!(fits(61_000, |rules| rules.interval_ms = 60_999), None);
        let late = Some(("interval_ms", 61_000, 60_999));
        assert_eq!(fits(61_000, |rules| rules.interval_ms = 61_000), late);
        let never = Some(("certificate_window_ms", 20_000, 14_999));
        assert_eq!(fits(15_000, |rules| rules.certificate_window_ms = 20_000), never);
        assert_eq!(fits(40_000, |rules| rules.grace_ms = 10_000), None);
        let unasked = Some(("grace_ms", 10_001, 10_000));
        assert_eq!(fits(40_000, |rules| rules.grace_ms = 10_001), unasked);
        let heartbeat = LedgerParameters { heartbeat_ms: 30_000, ..LedgerParameters::default() };
        assert_eq!(
            heartbeat.out_of_range().expect("too long").to_string(),
            "heartbeat_ms of the ledger is 30000: it has to be 1 to 20000"
        );
    }
}
