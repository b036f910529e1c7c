//! What a recovery costs, computed before anything is asked.
//!
//! Symbols cost what they recover, and a path each; the whole blob costs the blob, once for all
//! pairs. So symbols win for large blobs and few pairs, the whole blob for small blobs, whose
//! symbols are shorter than their proofs, and for many pairs.

use crate::{
    blob::PairProof,
    encoding::{BlobLayout, ProvenSymbol},
    hash::HASH_BYTES,
    merkle,
};

/// Bytes of a request and of an answer's head, but for proofs and what they carry.
const EXCHANGE_BYTES: u64 = 160;
/// Bytes of one target in a request.
const TARGET_BYTES: u64 = 3;

/// How pairs are recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryMethod {
    /// Each sliver from single symbols of the slivers that cross it.
    Symbols,
    /// From `k1` primary slivers, which are the blob.
    WholeBlob,
}

/// What it costs to recover some pairs of one blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryCost {
    /// How.
    pub method: RecoveryMethod,
    /// Pairs recovered.
    pub pairs: usize,
    /// Requests, if all are answered.
    pub requests: usize,
    /// Bytes on the wire for it, proofs and heads included.
    pub fetched_bytes: u64,
    /// Bytes of the slivers that it makes.
    pub recovered_bytes: u64,
    /// Most memory that it takes: answers, spare ones included, and what is made of them.
    pub memory_bytes: u64,
}

impl RecoveryCost {
    /// The cost of `pairs` pairs of a blob, with up to `spares` answers more than are needed.
    #[must_use]
    pub fn of(layout: &BlobLayout, method: RecoveryMethod, pairs: usize, spares: usize) -> Self {
        let config = layout.config();
        let (k1, k2) = (config.k1(), config.k2());
        let proof = PairProof::layout_bytes(config) as u64;
        let symbol = layout.symbol_bytes() as u64;
        let path = (merkle::path_steps(config.n()) * HASH_BYTES) as u64;
        let targets = pairs as u64;
        // Expanded once more when its root is compared.
        let sliver_at_work = 2 * config.n() as u64 * symbol;
        let recovered_bytes = targets * (k1 + k2) as u64 * symbol;
        let (requests, exchange, held, spare_groups) = match method {
            RecoveryMethod::Symbols => {
                let answer = proof + targets * (symbol + path);
                let exchange = EXCHANGE_BYTES + targets * TARGET_BYTES + answer;
                // Each symbol has its own copy of the path of its pair.
                let parsed = targets * (size_of::<ProvenSymbol>() as u64 + 2 * path);
                (k1 + k2, exchange, answer + parsed, 2)
            }
            RecoveryMethod::WholeBlob => {
                let answer = proof + k2 as u64 * symbol;
                (k1, EXCHANGE_BYTES + answer, answer, 1)
            }
        };
        let at_work = match method {
            RecoveryMethod::Symbols => sliver_at_work,
            RecoveryMethod::WholeBlob => sliver_at_work + (k1 * k2) as u64 * symbol,
        };
        let answers = (requests + spare_groups * spares) as u64;
        Self {
            method,
            pairs,
            requests,
            fetched_bytes: requests as u64 * exchange,
            recovered_bytes,
            memory_bytes: answers * held + recovered_bytes + at_work,
        }
    }

    /// Bytes of one exchange.
    pub(super) const fn answer_bytes(&self) -> u64 {
        let requests = if self.requests == 0 { 1 } else { self.requests as u64 };
        self.fetched_bytes / requests
    }

    /// The cheaper of the two methods for `pairs` pairs.
    #[must_use]
    pub fn cheapest(layout: &BlobLayout, pairs: usize, spares: usize) -> Self {
        let symbols = Self::of(layout, RecoveryMethod::Symbols, pairs, spares);
        let whole_blob = Self::of(layout, RecoveryMethod::WholeBlob, pairs, spares);
        if whole_blob.fetched_bytes < symbols.fetched_bytes { whole_blob } else { symbols }
    }

    /// The cost of as many of `pairs` pairs as fit into `memory_max` bytes.
    pub(super) fn within(
        layout: &BlobLayout,
        method: RecoveryMethod,
        (pairs, spares): (usize, usize),
        memory_max: u64,
    ) -> Option<Self> {
        let costs = (1..=pairs).rev().map(|pairs| Self::of(layout, method, pairs, spares));
        costs.into_iter().find(|cost| cost.memory_bytes <= memory_max)
    }

    /// Whether a pair costs less this way than the other.
    pub(super) fn is_cheaper(&self, other: &Self) -> bool {
        let (own, others) = (self.pairs as u64, other.pairs as u64);
        self.fetched_bytes * others < other.fetched_bytes * own
    }
}
