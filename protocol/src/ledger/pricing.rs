//! What storing costs: billed units, payments, and the prices that members vote for.

use super::{Amount, NodeSettings, Prices};
use crate::{bft, blob::BlobHeader, encoding::ConfigError};

/// Bytes of a billed unit.
pub const UNIT_BYTES: usize = 1 << 20;
/// Bytes that are billed for each shard beside its slivers: about what a pair proof takes.
const PROOF_BYTES: usize = 512;

/// Billed units of a blob: `ceil((n * (k1 + k2) * s + n * 512) / 2^20)`.
///
/// # Errors
/// [`ConfigError`] if the header names no possible shape.
pub fn billed_units(header: &BlobHeader) -> Result<u64, ConfigError> {
    let layout = header.layout()?;
    let config = layout.config();
    // Below 2^32 for every shape: a symbol has at most some 100 KiB, a pair some 6 MiB.
    let slivers = layout.primary_bytes().saturating_add(layout.secondary_bytes());
    let pair = slivers.saturating_add(PROOF_BYTES);
    let units = config.n().saturating_mul(pair).div_ceil(UNIT_BYTES);
    Ok(u64::try_from(units).expect("a few thousand at most"))
}

impl Prices {
    /// What `units` cost for one epoch.
    #[must_use]
    pub fn per_epoch(&self, units: u64) -> Option<Amount> {
        self.storage.checked_mul(units.into())
    }

    /// What storing `units` for `epochs` costs in all: the write, then each epoch.
    #[must_use]
    pub fn total(&self, units: u64, epochs: u32) -> Option<Amount> {
        let storage = self.per_epoch(units)?.checked_mul(epochs.into())?;
        storage.checked_add(self.write.checked_mul(units.into())?)
    }

    /// The prices that members vote for, given each one's weight in shards: votes ascending, the
    /// price at which cumulative shares reach a quorum; the capacity descending.
    #[must_use]
    pub fn voted<'a>(votes: impl Iterator<Item = (u16, &'a NodeSettings)>, n_shards: u16) -> Self {
        let votes: Vec<_> = votes.collect();
        let at_quorum = |mut sorted: Vec<(u128, u16)>| {
            let mut weight = 0_u16;
            sorted.retain(|(_, shards)| *shards > 0);
            let reached = sorted.iter().find(|(_, shards)| {
                weight = weight.saturating_add(*shards);
                bft::is_quorum(weight, n_shards)
            });
            reached.or(sorted.last()).map_or(0, |(vote, _)| *vote)
        };
        let ascending = |vote: &dyn Fn(&NodeSettings) -> u128| {
            let mut sorted: Vec<_> = votes.iter().map(|(w, s)| (vote(s), *w)).collect();
            sorted.sort_unstable();
            sorted
        };
        let mut capacity = ascending(&|settings| settings.capacity_units.into());
        capacity.reverse();
        Self {
            storage: Amount::from_frost(at_quorum(ascending(&|s| s.storage_price.frost()))),
            write: Amount::from_frost(at_quorum(ascending(&|s| s.write_price.frost()))),
            capacity_units: u64::try_from(at_quorum(capacity)).unwrap_or(u64::MAX),
        }
    }
}
