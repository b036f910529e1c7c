//! The pairs of a store, as services see them: put, looked up, read, listed and removed.
//!
//! In the life of a blob a pair is put once it is verified, looked up before the node signs that it
//! is there, read for others and for challenges, and removed when its shard or its blob goes. The
//! methods here say what a caller may rely on; `slivers.rs` keeps the promise. They also join what
//! belongs to a pair: hashes of symbols beside the slivers, its proof beside the blob's record.
//!
//! Invariant: the two slivers of a pair are there both or not at all. Not here: what is known of a
//! blob as a whole, and durability, which is the whole store's: see [`Store::flush`].

use std::ops::{Bound, Range};

use bytes::Bytes;
use floe_protocol::{
    blob::BlobId,
    encoding::Axis,
    hash::{HASH_BYTES, Hash},
    index::ShardIndex,
};

use crate::{
    HASHED_ABOVE_BYTES, StorageError, Store,
    key::{self, PairKey},
    pieces::Contents,
};

impl Store {
    /// Stores both slivers of the pair of `blob` that lives in `shard`: both or none. Does nothing
    /// if they are there. Durable after [`Self::flush`].
    ///
    /// # Errors
    /// [`StorageError::Full`] beyond the quota or the reserve; [`StorageError::Length`] of slivers
    /// that are empty or above [`SLIVER_BYTES_MAX`](crate::SLIVER_BYTES_MAX); others are fatal.
    pub fn put_pair(
        &self,
        shard: ShardIndex,
        blob: &BlobId,
        primary: &[u8],
        secondary: &[u8],
    ) -> Result<(), StorageError> {
        self.tables.slivers.put(&key::pair(shard, blob), primary, secondary)
    }

    /// The same with the hashes of all symbols of the expanded slivers, `[primary, secondary]`. They
    /// are kept beside slivers of more than [`HASHED_ABOVE_BYTES`].
    ///
    /// # Errors
    /// Those of [`Self::put_pair`]; [`StorageError::Length`] of more than 256 hashes, too.
    pub fn put_hashed_pair(
        &self,
        (shard, blob): (ShardIndex, &BlobId),
        slivers: [&[u8]; 2],
        hashes: [&[Hash]; 2],
    ) -> Result<(), StorageError> {
        let layout = |axis: usize| -> Vec<u8> {
            let kept = hashes[axis].iter().filter(|_| slivers[axis].len() > HASHED_ABOVE_BYTES);
            kept.flat_map(Hash::as_bytes).copied().collect()
        };
        let (primary, secondary) = (layout(0), layout(1));
        let contents = Contents { slivers, hashes: [&primary, &secondary] };
        self.tables.slivers.put_contents(&key::pair(shard, blob), contents)
    }

    /// Whether both slivers are there. Reads no piece. Sign nothing for it before
    /// [`Self::flush`].
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn has_pair(&self, shard: ShardIndex, blob: &BlobId) -> Result<bool, StorageError> {
        self.tables.slivers.has(&key::pair(shard, blob))
    }

    /// One sliver, every piece of it checked. None if it is not there; a damaged piece makes its
    /// pair missing.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn sliver(
        &self,
        shard: ShardIndex,
        blob: &BlobId,
        axis: Axis,
    ) -> Result<Option<Bytes>, StorageError> {
        self.tables.slivers.get(&key::pair(shard, blob), axis)
    }

    /// A range of one sliver, every piece that it touches checked; shorter where the sliver ends.
    /// None if the pair is not there; a damaged piece makes it missing.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn sliver_range(
        &self,
        shard: ShardIndex,
        blob: &BlobId,
        axis: Axis,
        range: Range<usize>,
    ) -> Result<Option<Bytes>, StorageError> {
        self.tables.slivers.get_range(&key::pair(shard, blob), (axis, range))
    }

    /// The hashes of all symbols of an expanded sliver, as [`Self::put_hashed_pair`] was given them.
    /// None if they are not kept; damaged ones count for that, their pair is whole.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn symbol_hashes(
        &self,
        shard: ShardIndex,
        blob: &BlobId,
        axis: Axis,
    ) -> Result<Option<Vec<Hash>>, StorageError> {
        let bytes = self.tables.slivers.hashes(&key::pair(shard, blob), axis)?;
        Ok(bytes.map(|bytes| {
            let (hashes, _) = bytes.as_chunks::<HASH_BYTES>();
            hashes.iter().map(|hash| Hash::new(*hash)).collect()
        }))
    }

    /// Removes both slivers of a pair; whether they were there. The pair proof stays.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn delete_pair(&self, shard: ShardIndex, blob: &BlobId) -> Result<bool, StorageError> {
        self.tables.slivers.delete(&key::pair(shard, blob))
    }

    /// Removes what is kept of a pair, damaged and unfinished ones too, then its proof; whether
    /// there was anything. The blob's record stays, even if nothing else of the blob does. The
    /// caller sees to it that nothing of the pair is put meanwhile.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn remove_pair(&self, shard: ShardIndex, blob: &BlobId) -> Result<bool, StorageError> {
        let tables = &self.tables;
        let was_there = tables.slivers.purge(&key::pair(shard, blob))?;
        let proof =
            |batch: &mut _, blob: &_| tables.pair_proofs.stage_removal(batch, blob, [shard]);
        Ok(tables.blobs.remove_beside(blob, proof)? || was_there)
    }

    /// Pairs of which something is kept, damaged ones too, which [`Self::has_pair`] tells apart: at
    /// most `max` behind `after`, by shard and then by blob id.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn pairs(
        &self,
        after: Option<(ShardIndex, BlobId)>,
        max: usize,
    ) -> Result<Vec<(ShardIndex, BlobId)>, StorageError> {
        let after = after.map(|(shard, blob)| key::pair(shard, &blob));
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.pairs_in((start, Bound::Unbounded), max)
    }

    /// The same of one shard: at most `max` blobs behind `after`, in the order of their ids.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn pairs_of(
        &self,
        shard: ShardIndex,
        after: Option<&BlobId>,
        max: usize,
    ) -> Result<Vec<BlobId>, StorageError> {
        let after = after.map(|blob| key::pair(shard, blob));
        let start = after.map_or(Bound::Included(key::first_pair(shard)), Bound::Excluded);
        let end = Bound::Included(key::last_pair(shard));
        let pairs = self.pairs_in((start, end), max)?;
        Ok(pairs.into_iter().map(|(_, blob)| blob).collect())
    }

    fn pairs_in(
        &self,
        range: (Bound<PairKey>, Bound<PairKey>),
        max: usize,
    ) -> Result<Vec<(ShardIndex, BlobId)>, StorageError> {
        let keys = self.tables.slivers.keys(range, max)?;
        Ok(keys.iter().filter_map(|key| key::parse_pair(key)).collect())
    }

    /// The proof of the pair of `blob` that lives in `shard`.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn pair_proof(
        &self,
        shard: ShardIndex,
        blob: &BlobId,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        self.tables.pair_proofs.get(shard, blob)
    }
}
