//! The stored pairs as they may be given to others, and what becomes of damaged ones.
//!
//! Disks lie. A pair counts as there only if its proof leads to the blob id, every piece of its
//! slivers has its checksum, and the slivers have the roots that the proof names: bytes that were
//! changed together with their checksums are damage, too. Whatever finds damage (a read, another
//! node's request, the scrubber) ends the same way: the pair is missing from then on, and repair is
//! told to look.
//!
//! Invariant: a pair is discarded only under its blob's lock, after it was judged once more there.
//! Blocking: runs on blocking threads only, without that lock.

use std::sync::Arc;

use bytes::Bytes;
use floe_protocol::{
    blob::{BlobId, PairProof},
    encoding::{self, Axis, EncodingConfig},
    index::ShardIndex,
    message::{Limits, Refusal, Response, StoredPair},
};
use floe_storage::{StorageError, Store};
use tokio::sync::Notify;

use super::{blob_locks::BlobLocks, faults::Faults, metrics::Metrics};

/// Reads pairs and discards damaged ones.
#[derive(Clone, Debug)]
pub(super) struct Pairs {
    store: Store,
    locks: Arc<BlobLocks>,
    /// Told when a pair has become missing.
    missing: Arc<Notify>,
    faults: Faults,
    metrics: Metrics,
}

/// What was found of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// There is none.
    Absent,
    /// It is what the blob id says it is.
    Sound {
        /// Bytes of both slivers.
        bytes: usize,
    },
    /// It was found damaged just now.
    Damaged,
}

/// What was found of a pair's proof.
#[derive(Debug)]
enum StoredProof {
    Absent,
    Damaged,
    Sound(PairProof),
}

/// What of a pair goes into an answer.
enum Taken {
    Absent,
    TooLarge,
    Pair(StoredPair, u64),
}

impl Pairs {
    pub(super) const fn new(
        store: Store,
        locks: Arc<BlobLocks>,
        missing: Arc<Notify>,
        faults: Faults,
        metrics: Metrics,
    ) -> Self {
        Self { store, locks, missing, faults, metrics }
    }

    /// Whether the pair is there, as far as its record says.
    pub(super) fn has(&self, shard: ShardIndex, blob: &BlobId) -> Result<bool, Refusal> {
        self.store.has_pair(shard, blob).map_err(|error| self.ours(&error))
    }

    /// The stored proof of a pair. With a damaged one its pair can't be judged any more and goes.
    pub(super) fn proof(
        &self,
        config: EncodingConfig,
        shard: ShardIndex,
        blob: &BlobId,
    ) -> Result<Option<PairProof>, Refusal> {
        match self.stored_proof(config, shard, blob).map_err(|error| self.ours(&error))? {
            StoredProof::Absent => Ok(None),
            StoredProof::Sound(proof) => Ok(Some(proof)),
            StoredProof::Damaged => {
                self.discard_if_damaged(config, shard, blob)?;
                Ok(None)
            }
        }
    }

    /// One sliver, its pieces checked, its root not.
    pub(super) fn sliver(
        &self,
        shard: ShardIndex,
        blob: &BlobId,
        axis: Axis,
    ) -> Result<Option<Bytes>, Refusal> {
        self.stored_sliver(shard, blob, axis).map_err(|error| self.ours(&error))
    }

    /// Answers a request for pairs of a shard: as many as an answer takes, in order.
    pub(super) fn answer(
        &self,
        config: EncodingConfig,
        shard: ShardIndex,
        blobs: &[BlobId],
    ) -> Result<Response, Refusal> {
        let mut room = Limits::new(config).max_payload_bytes();
        let (mut looked_up, mut pairs) = (0, Vec::new());
        for blob in blobs {
            match self.take(config, (shard, blob), room)? {
                Taken::Absent => {}
                Taken::TooLarge => break,
                Taken::Pair(pair, bytes) => {
                    room -= bytes;
                    pairs.push(pair);
                }
            }
            looked_up += 1;
        }
        self.metrics.pairs_sent.inc_by(pairs.len() as u64);
        Ok(Response::Pairs { looked_up, pairs })
    }

    fn take(
        &self,
        config: EncodingConfig,
        (shard, blob): (ShardIndex, &BlobId),
        room: u64,
    ) -> Result<Taken, Refusal> {
        if !self.has(shard, blob)? {
            return Ok(Taken::Absent);
        }
        let Some(proof) = self.proof(config, shard, blob)? else { return Ok(Taken::Absent) };
        let Ok(layout) = proof.header.layout() else { return Ok(Taken::Absent) };
        let slivers = [Axis::Primary, Axis::Secondary].map(|axis| axis.sliver_bytes(&layout));
        let bytes = (PairProof::layout_bytes(config) + slivers[0] + slivers[1]) as u64;
        if bytes > room {
            return Ok(Taken::TooLarge);
        }
        let primary = self.sliver(shard, blob, Axis::Primary)?;
        let secondary = self.sliver(shard, blob, Axis::Secondary)?;
        let Some((primary, secondary)) = primary.zip(secondary) else { return Ok(Taken::Absent) };
        // Whoever sends false pairs is taken for a liar: a damaged disk is to be found here first.
        if encoding::verify_slivers(&layout, &proof, &primary, &secondary).is_err() {
            self.discard_if_damaged(config, shard, blob)?;
            return Ok(Taken::Absent);
        }
        let proof = proof.to_bytes().into();
        Ok(Taken::Pair(StoredPair { blob: *blob, proof, primary, secondary }, bytes))
    }

    /// Reads all of a pair again. A damaged one is discarded.
    pub(super) fn scrub(
        &self,
        config: EncodingConfig,
        shard: ShardIndex,
        blob: &BlobId,
    ) -> Result<Condition, Refusal> {
        let condition = self.judge(config, shard, blob).map_err(|error| self.ours(&error))?;
        if condition == Condition::Damaged {
            self.discard_if_damaged(config, shard, blob)?;
        }
        Ok(condition)
    }

    /// Looks at the proofs of a blob that wait for their slivers. Damaged ones are discarded: a new
    /// table or repair brings others.
    pub(super) fn scrub_proofs(
        &self,
        config: EncodingConfig,
        blob: &BlobId,
    ) -> Result<(), Refusal> {
        for shard in (0..config.n_shards()).map(ShardIndex::new) {
            if !self.has(shard, blob)? {
                self.proof(config, shard, blob)?;
            }
        }
        Ok(())
    }

    /// Judges a pair alone, and removes it if it is damaged.
    pub(super) fn discard_if_damaged(
        &self,
        config: EncodingConfig,
        shard: ShardIndex,
        blob: &BlobId,
    ) -> Result<(), Refusal> {
        let _lock = self.locks.remove(blob);
        self.discard_now(config, shard, blob).map_err(|error| self.ours(&error))
    }

    fn discard_now(
        &self,
        config: EncodingConfig,
        shard: ShardIndex,
        blob: &BlobId,
    ) -> Result<(), StorageError> {
        if self.judge(config, shard, blob)? != Condition::Damaged {
            return Ok(());
        }
        let discarded = match self.stored_proof(config, shard, blob)? {
            // Repair needs no new table if the proof is sound.
            StoredProof::Sound(_) => self.store.delete_pair(shard, blob)?,
            StoredProof::Absent | StoredProof::Damaged => self.store.remove_pair(shard, blob)?,
        };
        // A damaged piece has made it missing already, and told.
        if discarded {
            tracing::warn!(%shard, %blob, "damaged pair, removed: it counts as missing");
            self.metrics.pairs_damaged.inc();
            self.missing.notify_one();
        }
        Ok(())
    }

    fn judge(
        &self,
        config: EncodingConfig,
        shard: ShardIndex,
        blob: &BlobId,
    ) -> Result<Condition, StorageError> {
        let proof = match self.stored_proof(config, shard, blob)? {
            // A proof alone waits for its slivers, and a false one would be in their way.
            StoredProof::Damaged => return Ok(Condition::Damaged),
            _ if !self.store.has_pair(shard, blob)? => return Ok(Condition::Absent),
            StoredProof::Absent => return Ok(Condition::Damaged),
            StoredProof::Sound(proof) => proof,
        };
        let Ok(layout) = proof.header.layout() else { return Ok(Condition::Damaged) };
        let primary = self.stored_sliver(shard, blob, Axis::Primary)?;
        let secondary = self.stored_sliver(shard, blob, Axis::Secondary)?;
        let Some((primary, secondary)) = primary.zip(secondary) else {
            return Ok(Condition::Damaged);
        };
        let bytes = primary.len() + secondary.len();
        match encoding::verify_slivers(&layout, &proof, &primary, &secondary) {
            Ok(_) => Ok(Condition::Sound { bytes }),
            Err(error) => {
                tracing::warn!(%shard, %blob, %error, "stored pair is not the blob's");
                Ok(Condition::Damaged)
            }
        }
    }

    fn stored_proof(
        &self,
        config: EncodingConfig,
        shard: ShardIndex,
        blob: &BlobId,
    ) -> Result<StoredProof, StorageError> {
        let Some(bytes) = self.store.pair_proof(shard, blob)? else {
            return Ok(StoredProof::Absent);
        };
        let pair = blob.pair_of(shard, config.n_shards());
        match PairProof::verify_bytes(config, blob, &bytes) {
            Ok(proof) if proof.index == pair => Ok(StoredProof::Sound(proof)),
            Ok(_) => Ok(StoredProof::Damaged),
            Err(error) => {
                tracing::warn!(%shard, %blob, %error, "stored pair proof is damaged");
                Ok(StoredProof::Damaged)
            }
        }
    }

    /// A sliver; repair is told if its pair has become missing by this.
    fn stored_sliver(
        &self,
        shard: ShardIndex,
        blob: &BlobId,
        axis: Axis,
    ) -> Result<Option<Bytes>, StorageError> {
        let was_there = self.store.has_pair(shard, blob)?;
        let sliver = self.store.sliver(shard, blob, axis)?;
        if was_there && sliver.is_none() {
            self.metrics.pairs_damaged.inc();
            self.missing.notify_one();
        }
        Ok(sliver)
    }

    fn ours(&self, error: &StorageError) -> Refusal {
        self.faults.storage(error)
    }
}

#[cfg(test)]
mod tests;
