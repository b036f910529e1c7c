//! What nodes ask of each other to move and recover slivers: whole pairs of a shard that changes
//! its holder, single symbols of a sliver, and attestations that a blob is inconsistent.
//!
//! Invariant: an answer's length follows from its head and the network's limits, and what it holds
//! is verified against the blob ids that were asked for ([`Symbols::verify`]); a false symbol
//! identifies its sender.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Limits, MessageError, at_most};
use crate::{
    blob::{BlobId, PairProof, ProofError},
    encoding::{Axis, EncodingConfig, ProvenSymbol, SymbolError},
    hash::{HASH_BYTES, Hash},
    index::{SliverPairIndex, SymbolIndex},
    merkle,
};

/// Most pairs that one request asks for.
pub const MAX_PAIRS: usize = 64;

/// A sliver pair as its holder sends it to the one who takes its shard over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPair {
    /// The blob.
    pub blob: BlobId,
    /// The pair proof's byte layout.
    pub proof: Bytes,
    /// The primary sliver.
    pub primary: Bytes,
    /// The secondary sliver.
    pub secondary: Bytes,
}

impl StoredPair {
    pub(super) fn into_parts(self) -> [Bytes; 3] {
        [self.proof, self.primary, self.secondary]
    }
}

/// The head of a [`StoredPair`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredPairHead {
    /// The blob.
    pub blob: BlobId,
    /// Bytes of the primary sliver.
    pub primary_bytes: u32,
    /// Bytes of the secondary sliver.
    pub secondary_bytes: u32,
}

impl StoredPairHead {
    /// Judges an answer's heads: their number, and the bytes of all pairs together, which are at
    /// most those of one largest pair.
    pub(super) fn check(limits: &Limits, heads: &[Self]) -> Result<(), MessageError> {
        if heads.len() > MAX_PAIRS {
            return Err(MessageError::Field);
        }
        let mut bytes = 0_u64;
        for head in heads {
            at_most(u64::from(head.primary_bytes), limits.max_primary_bytes())?;
            at_most(u64::from(head.secondary_bytes), limits.max_secondary_bytes())?;
            bytes += u64::from(head.primary_bytes) + u64::from(head.secondary_bytes);
            bytes += limits.proof_bytes() as u64;
        }
        at_most(bytes, limits.max_payload_bytes())
    }
}

/// Symbols of one expanded sliver, in the order in which they were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbols {
    /// The pair proof's byte layout.
    pub proof: Bytes,
    /// Bytes of one symbol.
    pub symbol_bytes: u32,
    /// Of each target the symbol, then the hashes of its path.
    pub symbols: Bytes,
}

/// Why an answer does not hold the symbols that were asked for.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum SymbolsError {
    /// Not as many bytes as the targets need.
    #[error("wrong length")]
    Length,
    /// The pair proof is not of this blob or pair.
    #[error("pair proof: {0}")]
    Proof(#[from] ProofError),
    /// The pair proof is of another pair than asked for.
    #[error("another pair than asked for")]
    OtherPair,
    /// A symbol is not the sliver's.
    #[error(transparent)]
    Symbol(#[from] SymbolError),
}

impl Symbols {
    /// Joins symbols of one sliver; they share the proof of the first.
    ///
    /// # Panics
    /// Without any symbol.
    #[must_use]
    pub fn of(symbols: &[ProvenSymbol]) -> Self {
        let first = symbols.first().expect("who asks for symbols asks for one at least");
        let mut bytes = Vec::new();
        for symbol in symbols {
            bytes.extend_from_slice(&symbol.symbol);
            for hash in &symbol.path {
                bytes.extend_from_slice(hash.as_bytes());
            }
        }
        let symbol_bytes = u32::try_from(first.symbol.len()).expect("symbols are below 4 GiB");
        Self { proof: first.helper.to_bytes().into(), symbol_bytes, symbols: bytes.into() }
    }

    /// Bytes of the symbols of so many targets.
    pub(super) fn bytes(config: EncodingConfig, symbol_bytes: u32, targets: usize) -> u64 {
        let path_bytes = merkle::path_steps(config.n()) * HASH_BYTES;
        targets as u64 * (u64::from(symbol_bytes) + path_bytes as u64)
    }

    /// Checks everything against the blob id: the symbols, in the order of `targets`.
    ///
    /// # Errors
    /// [`SymbolsError`]: who sent this sent something false.
    pub fn verify(
        &self,
        config: EncodingConfig,
        (blob, pair, axis): (&BlobId, SliverPairIndex, Axis),
        targets: &[SymbolIndex],
    ) -> Result<Vec<ProvenSymbol>, SymbolsError> {
        let helper = PairProof::verify_bytes(config, blob, &self.proof)?;
        if helper.index != pair {
            return Err(SymbolsError::OtherPair);
        }
        let expected = Self::bytes(config, self.symbol_bytes, targets.len());
        if self.symbols.len() as u64 != expected {
            return Err(SymbolsError::Length);
        }
        let mut rest = self.symbols.clone();
        let mut symbols = Vec::with_capacity(targets.len());
        for index in targets {
            let symbol = rest.split_to(self.symbol_bytes as usize);
            let path = rest.split_to(merkle::path_steps(config.n()) * HASH_BYTES);
            let (hashes, _) = path.as_chunks::<HASH_BYTES>();
            let path = hashes.iter().map(|hash| Hash::new(*hash)).collect();
            let helper = helper.clone();
            let symbol = ProvenSymbol { helper, axis, index: *index, symbol, path };
            symbol.verify_symbol(config)?;
            symbols.push(symbol);
        }
        Ok(symbols)
    }
}

/// How far a node has come with moving and recovering what it is to hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepairStatus {
    /// Shards of which it holds every pair, by its own count.
    pub complete_shards: u16,
    /// Pairs of its shards that it knows to be missing.
    pub missing_pairs: u64,
    /// Pairs copied from earlier holders since the start.
    pub moved_pairs: u64,
    /// Pairs recovered from symbols or whole blobs since the start.
    pub recovered_pairs: u64,
    /// Bytes of slivers that were moved or recovered since the start.
    pub gained_bytes: u64,
    /// Bytes received for that since the start, proofs included.
    pub fetched_bytes: u64,
    /// Pairs read again by the scrubber since the start.
    pub scrubbed_pairs: u64,
}
