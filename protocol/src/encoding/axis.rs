//! The two directions of the matrix.

use serde::{Deserialize, Serialize};

use super::{BlobLayout, EncodingConfig};
use crate::{
    blob::PairDigest,
    hash::Hash,
    index::{SliverIndex, SliverPairIndex},
};

/// A direction: primary slivers are rows, secondary slivers are columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// Rows.
    Primary,
    /// Columns.
    Secondary,
}

impl Axis {
    /// The other direction: that of the lines that cross.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Primary => Self::Secondary,
            Self::Secondary => Self::Primary,
        }
    }

    /// Symbols in a sliver of this axis before it is expanded: `k2` in a row, `k1` in a column.
    /// So many symbols of an expanded sliver, or so many slivers of the other axis, make it.
    #[must_use]
    pub const fn symbols(self, config: EncodingConfig) -> usize {
        match self {
            Self::Primary => config.k2(),
            Self::Secondary => config.k1(),
        }
    }

    /// Bytes of a sliver of this axis.
    #[must_use]
    pub const fn sliver_bytes(self, layout: &BlobLayout) -> usize {
        self.symbols(layout.config()) * layout.symbol_bytes()
    }

    /// The sliver of this axis in a pair.
    #[must_use]
    pub const fn line(self, pair: SliverPairIndex, n_shards: u16) -> SliverIndex {
        match self {
            Self::Primary => pair.primary(),
            Self::Secondary => pair.secondary(n_shards),
        }
    }

    /// The pair that has a sliver of this axis.
    #[must_use]
    pub const fn pair(self, line: SliverIndex, n_shards: u16) -> SliverPairIndex {
        match self {
            Self::Primary => line.pair_of_primary(),
            Self::Secondary => line.pair_of_secondary(n_shards),
        }
    }

    /// The root of the sliver of this axis in a pair.
    #[must_use]
    pub const fn root_of(self, digest: &PairDigest) -> Hash {
        match self {
            Self::Primary => digest.primary,
            Self::Secondary => digest.secondary,
        }
    }
}
