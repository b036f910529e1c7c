//! Newtype indices, so that a shard is never taken for a sliver.
//!
//! All but epochs, heights and rounds stay below `n_shards` (at most 256); whoever decodes one from a
//! peer checks it against its network's `n_shards` before use.

use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

macro_rules! index {
    ($(#[$doc:meta])* $name:ident($repr:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
            BorshSerialize, BorshDeserialize,
        )]
        #[serde(transparent)]
        pub struct $name($repr);

        impl $name {
            /// Wraps a number.
            #[must_use]
            pub const fn new(value: $repr) -> Self {
                Self(value)
            }

            /// The number.
            #[must_use]
            pub const fn get(self) -> $repr {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

index! {
    /// A slot that holds one sliver pair of every blob.
    ShardIndex(u16)
}
index! {
    /// A row of the expanded matrix (primary sliver) or a column (secondary sliver).
    SliverIndex(u16)
}
index! {
    /// A sliver pair: pair `i` is primary sliver `i` and secondary sliver `n - 1 - i`.
    SliverPairIndex(u16)
}
index! {
    /// A symbol within an expanded sliver.
    SymbolIndex(u16)
}
index! {
    /// A period with one committee and one set of prices.
    Epoch(u64)
}
index! {
    /// The number of a block; the first one is 1, genesis is 0.
    Height(u64)
}
index! {
    /// A round of storage challenges: the height of the block that opened it.
    ChallengeRound(u64)
}

macro_rules! as_usize {
    ($($name:ident),*) => {$(
        impl $name {
            /// The number as an index into a slice.
            #[must_use]
            pub const fn as_usize(self) -> usize {
                self.0 as usize
            }
        }
    )*};
}
as_usize!(ShardIndex, SliverIndex, SliverPairIndex, SymbolIndex);

impl Epoch {
    /// The epoch `epochs` later; the last one if there is none.
    #[must_use]
    pub const fn plus(self, epochs: u64) -> Self {
        Self(self.0.saturating_add(epochs))
    }
}

impl Height {
    /// The height of the next block.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl SliverPairIndex {
    /// The primary sliver (row) of this pair.
    #[must_use]
    pub const fn primary(self) -> SliverIndex {
        SliverIndex(self.0)
    }

    /// The secondary sliver (column) of this pair, in a network of `n_shards` (above the index).
    #[must_use]
    pub const fn secondary(self, n_shards: u16) -> SliverIndex {
        SliverIndex(n_shards - 1 - self.0)
    }
}

impl SliverIndex {
    /// The pair whose primary sliver this is.
    #[must_use]
    pub const fn pair_of_primary(self) -> SliverPairIndex {
        SliverPairIndex(self.0)
    }

    /// The pair whose secondary sliver this is, in a network of `n_shards` (above the index).
    #[must_use]
    pub const fn pair_of_secondary(self, n_shards: u16) -> SliverPairIndex {
        SliverPairIndex(n_shards - 1 - self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_join_row_i_with_column_n_minus_1_minus_i() {
        let pair = SliverPairIndex::new(2);
        assert_eq!(pair.primary(), SliverIndex::new(2));
        assert_eq!(pair.secondary(7), SliverIndex::new(4));
        assert_eq!(pair.secondary(7).pair_of_secondary(7), pair);
        assert_eq!(pair.primary().pair_of_primary(), pair);
    }
}
