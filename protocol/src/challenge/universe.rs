//! What a round asks for, as it was when the round opened, and what a value of a chain draws of it.
//!
//! A blob that is deleted, ends or turns out invalid while a round is open stays in its universe:
//! nodes keep its slivers so long. What is too new, and shards that a member has just gained, are
//! not in it: there is a time for repair.
//!
//! Invariants: a universe never changes, and is the same at every member; making one costs nothing
//! that grows with the number of blobs; every place that is drawn is one that the member is to hold.

use std::sync::Arc;

use super::{BilledUnits, ChallengeParameters};
use crate::{
    blob::{BlobHeader, BlobId},
    committee::Committee,
    encoding::{Axis, BlobLayout},
    hash::{Hash, slice},
    index::{ChallengeRound, Epoch, ShardIndex, SliverPairIndex, SymbolIndex},
    keys::{ChainId, NodeId},
    ledger::Timestamp,
};

/// The universe of a round: fixed by the state after its opening block. All that a node needs to
/// answer it or to judge answers.
#[derive(Clone, Debug)]
pub struct Universe {
    /// The network.
    pub chain: ChainId,
    /// The round.
    pub round: ChallengeRound,
    /// The time of the opening block.
    pub opened: Timestamp,
    /// The rules.
    pub parameters: ChallengeParameters,
    /// The committee of the running epoch.
    pub committee: Arc<Committee>,
    /// Per committee position, the shards that are asked for, ascending: [`challenged_shards`].
    pub shards: Vec<Vec<ShardIndex>>,
    /// Of the blobs that are asked for.
    pub units: BilledUnits,
}

/// The shards that each member of `committee` is asked for: those reported ready at `cutoff` or
/// before, be it in an earlier epoch. `ready_since` says of each shard when its holder has reported
/// it ready, if it has.
///
/// Who has gained a shard may need longer than an epoch to make it complete, and is asked for it
/// only then; who never says that it is complete is not asked, and not paid either.
#[must_use]
pub fn challenged_shards(
    committee: &Committee,
    ready_since: &[Option<Timestamp>],
    cutoff: Timestamp,
) -> Vec<Vec<ShardIndex>> {
    let members = committee.members().iter().map(|member| {
        let is_asked_for = |shard: &&ShardIndex| {
            let since = ready_since.get(shard.as_usize()).copied().flatten();
            since.is_some_and(|since| since <= cutoff)
        };
        member.shards.iter().filter(is_asked_for).copied().collect()
    });
    members.collect()
}

impl Universe {
    /// The epoch that the round belongs to.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.committee.epoch()
    }

    /// Whether the round counts for the member at `position`: there is something to ask it for.
    #[must_use]
    pub fn counts_for(&self, position: usize) -> bool {
        self.units.total() > 0 && self.shards.get(position).is_some_and(|shards| !shards.is_empty())
    }

    /// Position of a member for whom the round counts.
    #[must_use]
    pub fn position(&self, node: &NodeId) -> Option<usize> {
        self.committee.position(node).filter(|position| self.counts_for(*position))
    }

    /// The place that `value` draws from what the member at `position` holds; none if the round
    /// does not count for it.
    ///
    /// A value is as good as random, so its parts are: bytes 0 to 8 (LE, as all) draw the blob by
    /// billed units, 8 to 12 the shard, 12 to 20 the axis by the lengths of the slivers, 20 to 24
    /// the symbol and 24 to 32 the chunk. A number below `n` is drawn as word times `n`, shifted.
    #[must_use]
    pub fn place(&self, position: usize, value: &Hash) -> Option<Place> {
        let (unit, rest) = value.as_bytes().split_first_chunk::<8>()?;
        let (shard, rest) = rest.split_first_chunk::<4>()?;
        let (axis, rest) = rest.split_first_chunk::<8>()?;
        let (symbol, chunk) = rest.split_first_chunk::<4>()?;
        let chunk = chunk.first_chunk::<8>()?;

        let unit = below(u64::from_le_bytes(*unit), self.units.total());
        let header = *self.units.find(unit)?;
        let layout = header.layout().ok()?;
        let config = layout.config();
        let shards = self.shards.get(position)?;
        let shard = *shards.get(below_u32(*shard, shards.len()))?;
        let symbols = config.k2() as u64 + config.k1() as u64;
        let is_row = below(u64::from_le_bytes(*axis), symbols) < config.k2() as u64;
        let axis = if is_row { Axis::Primary } else { Axis::Secondary };
        let symbol = u16::try_from(below_u32(*symbol, axis.symbols(config))).ok()?;
        let chunks = slice::chunks(layout.symbol_bytes()) as u64;
        let chunk = usize::try_from(below(u64::from_le_bytes(*chunk), chunks)).ok()?;
        let blob = header.id();
        let pair = blob.pair_of(shard, config.n_shards());
        Some(Place {
            blob,
            header,
            layout,
            shard,
            pair,
            axis,
            symbol: SymbolIndex::new(symbol),
            chunk,
        })
    }
}

/// A number below `n` (0 if `n` is) from 64 random bits.
fn below(word: u64, n: u64) -> u64 {
    let product = u128::from(word) * u128::from(n);
    u64::try_from(product >> 64).expect("the upper half")
}

/// A number below `n` from 32 random bits.
fn below_u32(word: [u8; 4], n: usize) -> usize {
    let product = u64::from(u32::from_le_bytes(word)) * n as u64;
    usize::try_from(product >> 32).expect("below n")
}

/// What one step of a chain asks for: a chunk of a symbol as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The blob.
    pub blob: BlobId,
    /// Its header.
    pub header: BlobHeader,
    /// Its sizes.
    pub layout: BlobLayout,
    /// The shard.
    pub shard: ShardIndex,
    /// The pair of the blob in that shard.
    pub pair: SliverPairIndex,
    /// Which sliver of the pair.
    pub axis: Axis,
    /// Which symbol of the sliver: one that is stored, never one of its expansion.
    pub symbol: SymbolIndex,
    /// Which chunk of the symbol.
    pub chunk: usize,
}

impl Place {
    /// The bytes of the sliver that are the symbol.
    #[must_use]
    pub const fn symbol_range(&self) -> std::ops::Range<usize> {
        let start = self.symbol.as_usize() * self.layout.symbol_bytes();
        start..start + self.layout.symbol_bytes()
    }

    /// Bytes of the chunk.
    #[must_use]
    pub const fn chunk_bytes(&self) -> usize {
        slice::chunk_bytes(self.layout.symbol_bytes(), self.chunk)
    }
}
