//! One lost sliver from the slivers that cross it, at the cost of one sliver.
//!
//! The symbol at (row r, column c) lies in primary sliver r and in secondary sliver c. A node that
//! lacks row r asks holders of columns for their symbol r: any `k2` of them make the row; any `k1`
//! symbols from rows make a column. Every symbol comes as a [`ProvenSymbol`], so a wrong one names
//! its sender, and only true ones reach the decoding.
//!
//! Invariant: a recovered sliver has the root that the digest table gives for it, or it is not
//! returned. If true symbols decode to another root, the writer's encoding is inconsistent and
//! these symbols prove it ([`crate::inconsistency`]).

use std::{collections::BTreeMap, num::NonZeroUsize};

use bytes::Bytes;

use super::{Axis, BlobLayout, DigestTable, EncodingConfig, SliverTree, reed_solomon, sliver_root};
use crate::{
    blob::{BlobId, PairProof, ProofError},
    hash::{Domain, Hash},
    index::{SliverIndex, SymbolIndex},
    merkle,
};

/// Why a symbol is not what its helper's sliver has at that place.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum SymbolError {
    /// The helper's pair proof is not of this blob.
    #[error("pair proof of the helper: {0}")]
    Helper(#[from] ProofError),
    /// The symbol index is not below `n`.
    #[error("symbol index out of range")]
    Index,
    /// Not as long as every symbol of the blob.
    #[error("symbol of a wrong length")]
    Length,
    /// The path does not lead from the symbol to the helper's sliver root.
    #[error("symbol is not in the helper's sliver")]
    Path,
}

/// A symbol with everything that authenticates it against the blob id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenSymbol {
    /// Pair proof of the pair whose sliver was expanded.
    pub helper: PairProof,
    /// Which of the pair's slivers.
    pub axis: Axis,
    /// The place in the expanded sliver: the line of the other axis that it helps to recover.
    pub index: SymbolIndex,
    /// The symbol.
    pub symbol: Bytes,
    /// Siblings from the symbol's hash to the sliver root.
    pub path: Vec<Hash>,
}

impl ProvenSymbol {
    /// The symbol `index` of `tree`, the expanded sliver of `helper`'s pair; none from `n` on.
    #[must_use]
    pub fn new(helper: PairProof, tree: &SliverTree, index: SymbolIndex) -> Option<Self> {
        let (symbol, path) = (tree.symbol(index)?, tree.path(index)?);
        Some(Self { helper, axis: tree.axis(), index, symbol, path })
    }

    /// The sliver that the symbol comes from.
    #[must_use]
    pub const fn line(&self) -> SliverIndex {
        self.axis.line(self.helper.index, self.helper.header.n_shards)
    }

    /// Checks the helper's pair proof and the symbol against the blob id.
    ///
    /// # Errors
    /// [`SymbolError`]: who sent it sent something false.
    pub fn verify(&self, config: EncodingConfig, id: &BlobId) -> Result<(), SymbolError> {
        self.helper.verify(config, id)?;
        self.verify_symbol(config)
    }

    /// Checks the symbol alone, under a pair proof that is already verified: one check of it
    /// serves all symbols of one answer.
    ///
    /// # Errors
    /// [`SymbolError`]: who sent it sent something false.
    pub fn verify_symbol(&self, config: EncodingConfig) -> Result<(), SymbolError> {
        let layout = config.layout(self.helper.header.len).map_err(ProofError::from)?;
        if self.index.as_usize() >= config.n() {
            return Err(SymbolError::Index);
        }
        if self.symbol.len() != layout.symbol_bytes() {
            return Err(SymbolError::Length);
        }
        let root = self.axis.root_of(&self.helper.digest);
        let position = (self.index.as_usize(), config.n());
        let leaf = Hash::of_symbol(&self.symbol);
        if merkle::verify(Domain::SliverNode, &root, position, leaf, &self.path) {
            Ok(())
        } else {
            Err(SymbolError::Path)
        }
    }
}

/// Why symbols did not make the sliver.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum RecoverError {
    /// A line index out of range.
    #[error("sliver index {0} is out of range")]
    Index(SliverIndex),
    /// A symbol of another length than the layout's.
    #[error("symbol of a wrong length from sliver {0}")]
    Length(SliverIndex),
    /// Fewer symbols from different lines than the sliver has.
    #[error("symbols from {symbols} lines, {min_symbols} are needed")]
    TooFewSymbols {
        /// Different lines given.
        symbols: usize,
        /// `k2` for a primary, `k1` for a secondary sliver.
        min_symbols: usize,
    },
    /// The sliver does not have the committed root. If every symbol was proven, the writer's
    /// encoding is inconsistent.
    #[error("the recovered sliver does not have its committed root")]
    Inconsistent,
}

/// Primary sliver `target` from `k2` or more symbols, each with the column it comes from.
///
/// # Errors
/// [`RecoverError`]; [`RecoverError::Inconsistent`] only if every symbol was verified.
pub fn recover_primary(
    layout: &BlobLayout,
    table: &DigestTable,
    target: SliverIndex,
    symbols: &[(SliverIndex, Bytes)],
) -> Result<Bytes, RecoverError> {
    recover(layout, table, (Axis::Primary, target), symbols)
}

/// Secondary sliver `target` from `k1` or more symbols, each with the row it comes from.
///
/// # Errors
/// [`RecoverError`]; [`RecoverError::Inconsistent`] only if every symbol was verified.
pub fn recover_secondary(
    layout: &BlobLayout,
    table: &DigestTable,
    target: SliverIndex,
    symbols: &[(SliverIndex, Bytes)],
) -> Result<Bytes, RecoverError> {
    recover(layout, table, (Axis::Secondary, target), symbols)
}

/// The sliver `target` of `axis` from symbols of lines of the other axis, checked.
///
/// # Errors
/// [`RecoverError`]; [`RecoverError::Inconsistent`] only if every symbol was verified.
pub fn recover(
    layout: &BlobLayout,
    table: &DigestTable,
    (axis, target): (Axis, SliverIndex),
    symbols: &[(SliverIndex, Bytes)],
) -> Result<Bytes, RecoverError> {
    let config = layout.config();
    if target.as_usize() >= config.n() {
        return Err(RecoverError::Index(target));
    }
    let sliver = decode_line(layout, axis, symbols)?;
    let root = sliver_root(layout, axis, &sliver).expect("decoded to the sliver's length");
    let pair = axis.pair(target, config.n_shards());
    if root == axis.root_of(table.digest(pair)) {
        Ok(sliver)
    } else {
        Err(RecoverError::Inconsistent)
    }
}

/// The sliver of `axis` that has these symbols, unchecked.
pub(crate) fn decode_line(
    layout: &BlobLayout,
    axis: Axis,
    symbols: &[(SliverIndex, Bytes)],
) -> Result<Bytes, RecoverError> {
    let config = layout.config();
    let mut sorted = BTreeMap::new();
    for (line, symbol) in symbols {
        if line.as_usize() >= config.n() {
            return Err(RecoverError::Index(*line));
        }
        if symbol.len() != layout.symbol_bytes() {
            return Err(RecoverError::Length(*line));
        }
        sorted.entry(line.as_usize()).or_insert_with(|| symbol.clone());
    }
    let min_symbols = axis.symbols(config);
    if sorted.len() < min_symbols {
        return Err(RecoverError::TooFewSymbols { symbols: sorted.len(), min_symbols });
    }
    let present: Vec<_> = sorted.keys().copied().take(min_symbols).collect();
    let given: Vec<_> = sorted.into_values().take(min_symbols).collect();
    let code = (min_symbols, config.n());
    Ok(reed_solomon::decode(code, &present, &given, NonZeroUsize::MIN).concat().into())
}
