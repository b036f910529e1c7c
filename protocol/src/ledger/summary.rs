//! The ledger at a glance, and where its WAL is: one record, rewritten by every block.
//!
//! From it alone follows what time does to the running epoch: when its next deadline is, and
//! whether a selection has to wait because nodes could not report during a gap between blocks.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use super::{Amount, NODE_READY_AGE_MAX_MS, Prices, Timestamp};
use crate::index::Epoch;

/// Where the supply is.
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
pub struct Supply {
    /// In accounts.
    pub balances: Amount,
    /// With nodes: in pools, on the way in and on the way out.
    pub stakes: Amount,
    /// Paid for epochs, not yet earned by anybody.
    pub buckets: Amount,
    /// Destroyed: slashed, or not earned.
    pub burned: Amount,
}

impl Supply {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> Option<Amount> {
        let sum = self.balances.checked_add(self.stakes)?;
        sum.checked_add(self.buckets)?.checked_add(self.burned)
    }

    pub(super) fn add(&self, other: &Self) -> Option<Self> {
        Some(Self {
            balances: self.balances.checked_add(other.balances)?,
            stakes: self.stakes.checked_add(other.stakes)?,
            buckets: self.buckets.checked_add(other.buckets)?,
            burned: self.burned.checked_add(other.burned)?,
        })
    }

    pub(super) fn sub(&self, other: &Self) -> Option<Self> {
        Some(Self {
            balances: self.balances.checked_sub(other.balances)?,
            stakes: self.stakes.checked_sub(other.stakes)?,
            buckets: self.buckets.checked_sub(other.buckets)?,
            burned: self.burned.checked_sub(other.burned)?,
        })
    }
}

/// The ledger at a glance: one record, rewritten by every block.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Summary {
    /// The running epoch.
    pub epoch: Epoch,
    /// When it began.
    pub epoch_start: Timestamp,
    /// Prices of the running epoch.
    pub prices: Prices,
    /// Prices of the next one, once it has been selected.
    pub next_prices: Option<Prices>,
    /// How many half durations of the running epoch were over when the next one was last
    /// selected; 0 before the first selection.
    pub selections: u32,
    /// The epoch for which the last selection could form no committee, if so it was: the running
    /// one stays for it.
    pub selection_failed: Option<Epoch>,
    /// When blocks last came again after a gap in which reports of nodes grew too old; none if
    /// there was none. Nodes get time to report before the next selection.
    pub resumed: Option<Timestamp>,
    /// Certifications so far: the number of the next.
    pub certifications: u64,
    /// Where the supply is.
    pub supply: Supply,
}

impl Summary {
    /// Whether nodes had the time to report since the last gap between blocks, so that a block of
    /// this time may select a committee.
    #[must_use]
    pub fn may_select(&self, time: Timestamp) -> bool {
        self.resumed.is_none_or(|resumed| time.ms_since(resumed) >= NODE_READY_AGE_MAX_MS)
    }

    /// The next deadline of the running epoch after a block of time `now`, in a ledger whose epochs
    /// last `epoch_ms`.
    #[must_use]
    pub fn deadline(&self, now: Timestamp, epoch_ms: u64) -> Timestamp {
        let halves = u64::from(self.selections).saturating_add(1);
        let due = self.epoch_start.plus_ms(epoch_ms.saturating_mul(halves).div_ceil(2));
        match self.resumed {
            // It was due, and waits for reports.
            Some(resumed) if now >= due => due.max(resumed.plus_ms(NODE_READY_AGE_MAX_MS)),
            Some(_) | None => due,
        }
    }
}
