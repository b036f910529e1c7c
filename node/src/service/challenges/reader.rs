//! Reads for this node's own chains: a symbol, and what proves it.
//!
//! A step has 60 ms, and its disk read is all that a node that stores needs of them. Of a long
//! sliver only the pieces of one symbol are read, and the row with the hashes of all symbols that
//! was kept with it. A short sliver is read whole and expanded; so is a long one whose hashes are
//! not kept, or are not those of the blob. Nothing is cached: a chain hardly ever comes to the same
//! sliver twice.
//!
//! Invariants: what is returned was checked against the blob id, whatever the disk says; memory is
//! bounded by one sliver and its expansion. Blocking: runs on blocking threads only. Deliberately
//! not here: what becomes of damage, which the scrubber finds, too.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use bytes::Bytes;
use floe_protocol::{
    blob::{BlobId, PairProof},
    challenge::{Answer, ChunkProof, Place, StepProof, Walk, WalkError},
    encoding::symbol_hashes,
    hash::Hash,
};
use floe_storage::{HASHED_ABOVE_BYTES, StorageError, Store};

/// Where a node may have what its store does not: on another disk, or with somebody else.
pub trait SymbolSource: std::fmt::Debug + Send + Sync {
    /// The chunk at a place of a chain that was `begun` then. Blocks; the sooner it is there, the more
    /// of the chain's time is left.
    fn chunk(&self, place: &Place, begun: Instant) -> Option<ChunkProof>;
}

/// Reads places of chains.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    pub(crate) store: Store,
    /// What is asked for what the store does not have.
    pub(crate) elsewhere: Option<Arc<dyn SymbolSource>>,
}

impl Reader {
    /// What this node has for a step of a chain that was `begun` then: the chunk at `place`, or else
    /// that its blob is among those `known` to be inconsistent. None if it has neither.
    pub(super) fn read(
        &self,
        place: &Place,
        (known, begun): (&BTreeSet<BlobId>, Instant),
    ) -> Option<StepProof> {
        let chunk = self.chunk(place).unwrap_or_else(|error| {
            tracing::error!(shard = %place.shard, blob = %place.blob, %error, "challenge not read");
            None
        });
        let elsewhere = || self.elsewhere.as_ref().and_then(|source| source.chunk(place, begun));
        let chunk = chunk.or_else(elsewhere);
        // A chunk convinces everybody; that a blob is inconsistent may not have come to all yet.
        let is_known = || known.contains(&place.blob).then_some(StepProof::Inconsistent);
        chunk.map(|chunk| StepProof::Chunk(Box::new(chunk))).or_else(is_known)
    }

    /// Reads a chain to its end, or to something that is not there.
    pub(super) fn walk(&self, walk: Walk, known: &BTreeSet<BlobId>) -> Result<Answer, WalkError> {
        let begun = Instant::now();
        walk.run(|place| self.read(place, (known, begun)))
    }

    fn chunk(&self, place: &Place) -> Result<Option<ChunkProof>, StorageError> {
        let Some(pair) = self.pair_proof(place)? else { return Ok(None) };
        if place.axis.sliver_bytes(&place.layout) > HASHED_ABOVE_BYTES
            && let Some(chunk) = self.of_symbol(place, &pair)?
        {
            return Ok(Some(chunk));
        }
        self.of_sliver(place, &pair)
    }

    /// By the symbol alone, with the hashes that were kept.
    fn of_symbol(
        &self,
        place: &Place,
        pair: &PairProof,
    ) -> Result<Option<ChunkProof>, StorageError> {
        let Place { shard, blob, axis, .. } = place;
        let Some(hashes) = self.store.symbol_hashes(*shard, blob, *axis)? else { return Ok(None) };
        let symbol = self.store.sliver_range(*shard, blob, *axis, place.symbol_range())?;
        Ok(symbol.and_then(|symbol| proven(place, pair, &symbol, hashes)))
    }

    /// By the whole sliver.
    fn of_sliver(
        &self,
        place: &Place,
        pair: &PairProof,
    ) -> Result<Option<ChunkProof>, StorageError> {
        let sliver: Option<Bytes> = self.store.sliver(place.shard, &place.blob, place.axis)?;
        Ok(sliver.and_then(|sliver| {
            let hashes = symbol_hashes(&place.layout, place.axis, &sliver).ok()?;
            proven(place, pair, sliver.get(place.symbol_range())?, hashes)
        }))
    }

    /// The proof of the pair, if it is there and sound.
    fn pair_proof(&self, place: &Place) -> Result<Option<PairProof>, StorageError> {
        let Some(bytes) = self.store.pair_proof(place.shard, &place.blob)? else {
            return Ok(None);
        };
        let proof = PairProof::verify_bytes(place.layout.config(), &place.blob, &bytes);
        Ok(proof.ok().filter(|proof| proof.index == place.pair))
    }
}

/// The chunk, if everything is what the blob id says it is.
fn proven(place: &Place, pair: &PairProof, symbol: &[u8], hashes: Vec<Hash>) -> Option<ChunkProof> {
    let chunk = ChunkProof::new(place, pair, symbol, hashes);
    let (shard, blob) = (place.shard, place.blob);
    chunk.inspect_err(|error| tracing::warn!(%shard, %blob, %error, "damage in a challenge")).ok()
}

#[cfg(test)]
mod tests;
