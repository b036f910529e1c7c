//! Pair proofs: about half a kilobyte per pair that ties it to the blob id.
//!
//! Written when a node was sent a blob's digest table, before its slivers come, and read whenever
//! a sliver is checked or sent. Kept as the bytes that `PairProof` defines: this module does not
//! look inside. A proof of a blob without a record belongs to nothing and is removed at start.
//! Who stages changes of a blob's proofs holds its lock (see `blobs.rs`).

use std::collections::BTreeMap;

use floe_protocol::{blob::BlobId, index::ShardIndex};

use crate::{
    StorageError,
    blobs::Change,
    database::{Batch, Table, VALUE_BYTES_MAX},
    key,
    usage::{Space, row_bytes},
};

#[derive(Debug)]
pub(crate) struct PairProofs {
    proofs: Table,
}

impl PairProofs {
    /// Takes over the table, without the proofs of blobs that `is_known` denies.
    pub(crate) fn open(
        proofs: Table,
        space: &Space,
        is_known: impl Fn(&BlobId) -> Result<bool, StorageError>,
    ) -> Result<Self, StorageError> {
        let mut dangling = Vec::new();
        for row in proofs.rows() {
            let (key, value) = row?;
            let (_, blob) = key::parse_pair(&key).ok_or_else(|| proofs.corrupt())?;
            if is_known(&blob)? {
                space.add(row_bytes(key.len(), value.len()));
            } else {
                dangling.push(key);
            }
        }
        for key in dangling {
            proofs.remove(&key)?;
        }
        Ok(Self { proofs })
    }

    pub(crate) fn get(
        &self,
        shard: ShardIndex,
        blob: &BlobId,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        let proof = self.proofs.get(&key::pair(shard, blob))?;
        Ok(proof.map(|proof| proof.to_vec()))
    }

    /// Adds the proofs that are not there to `batch`. The last one counts where a shard is named
    /// twice.
    pub(crate) fn stage(
        &self,
        batch: &mut Batch,
        blob: &BlobId,
        proofs: &[(ShardIndex, Vec<u8>)],
    ) -> Result<Change, StorageError> {
        let mut change = Change::default();
        let proofs: BTreeMap<ShardIndex, &Vec<u8>> =
            proofs.iter().map(|(shard, proof)| (*shard, proof)).collect();
        for (shard, proof) in proofs {
            if proof.is_empty() || proof.len() > VALUE_BYTES_MAX {
                return Err(StorageError::Length {
                    what: "pair proof",
                    bytes: proof.len(),
                    max_bytes: VALUE_BYTES_MAX,
                });
            }
            let key = key::pair(shard, blob);
            let old = self.proofs.get(&key)?;
            if old.as_deref() == Some(&proof[..]) {
                continue;
            }
            batch.insert(&self.proofs, &key, proof)?;
            change.added += row_bytes(key.len(), proof.len());
            change.freed += old.map_or(0, |old| row_bytes(key.len(), old.len()));
        }
        Ok(change)
    }

    /// Adds the removal of the proofs in these shards to `batch`; the bytes that they count.
    pub(crate) fn stage_removal(
        &self,
        batch: &mut Batch,
        blob: &BlobId,
        shards: impl IntoIterator<Item = ShardIndex>,
    ) -> Result<u64, StorageError> {
        let mut freed = 0;
        for shard in shards {
            let key = key::pair(shard, blob);
            if let Some(old) = self.proofs.get(&key)? {
                batch.remove(&self.proofs, &key);
                freed += row_bytes(key.len(), old.len());
            }
        }
        Ok(freed)
    }
}
