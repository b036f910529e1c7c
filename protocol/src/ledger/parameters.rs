//! What a genesis fixes for its ledger.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use super::Amount;

/// Longest epoch in milliseconds: a year.
const EPOCH_MS_MAX: u64 = 365 * 24 * 3_600_000;
/// Shortest epoch in milliseconds: anything less is shorter than its own blocks.
const EPOCH_MS_MIN: u64 = 1_000;

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
    /// Without anything to do, a block is made after so many milliseconds.
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
        }
    }
}

impl LedgerParameters {
    /// The name of the first value that no ledger can work with.
    #[must_use]
    pub fn out_of_range(&self) -> Option<&'static str> {
        let checks = [
            ("epoch_ms", (EPOCH_MS_MIN..=EPOCH_MS_MAX).contains(&self.epoch_ms)),
            ("block_interval_min_ms", self.block_interval_min_ms <= self.epoch_ms),
            ("heartbeat_ms", (1..=self.epoch_ms.max(10_000)).contains(&self.heartbeat_ms)),
            ("max_epochs_ahead", (1..=1_024).contains(&self.max_epochs_ahead)),
            ("unbonding_epochs", (2..=1_024).contains(&self.unbonding_epochs)),
            ("jail_epochs", self.jail_epochs <= 1_024),
            ("equivocation_slash_bps", self.equivocation_slash_bps <= 10_000),
        ];
        checks.into_iter().find(|(_, holds)| !holds).map(|(name, _)| name)
    }
}
