//! Blobs: which ones a node keeps something of, and their headers.
//!
//! A blob's record is born with the first `Table` request, beside the proofs of the node's pairs,
//! and goes when nothing of the blob is kept any more. It is the header, in the byte layout that
//! the blob id is the hash of, and the height at which the ledger was last seen to know the blob
//! (u64 BE): a state before that height can't tell that the blob has ended. Who registered the blob, until when, and whether it is certified,
//! is the ledger's to know and not here.
//!
//! Invariants: a record and the proofs that came with it are written in one step, and removed in
//! one step; what a failed write tore apart is put right at the next start, where proofs without
//! a record go (see `pair_proofs.rs`). A removal takes the record last, so that one that was cut
//! off is found by it. Who changes a blob's record or proofs holds its lock.

use std::{
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use floe_protocol::{
    blob::{BlobHeader, BlobId, HEADER_BYTES},
    encoding::{ConfigError, EncodingConfig},
    hash::HASH_BYTES,
    index::Height,
};

use crate::{
    StorageError,
    database::{Batch, Table},
    usage::{Space, row_bytes},
};

const HEIGHT_BYTES: usize = 8;
/// Writers of different blobs rarely meet in one of so many locks.
const LOCKS: usize = 64;

/// A blob of which something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredBlob {
    /// Its header.
    pub header: BlobHeader,
    /// The latest height at which the ledger was seen to know it.
    pub height: Height,
}

/// Live bytes that a step adds and frees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) added: u64,
    pub(crate) freed: u64,
}

/// The table of blobs.
#[derive(Debug)]
pub(crate) struct Blobs {
    blobs: Table,
    space: Arc<Space>,
    locks: Vec<Mutex<()>>,
    count: AtomicU64,
}

impl Blobs {
    /// Takes over the table and counts its rows.
    pub(crate) fn open(blobs: Table, space: Arc<Space>) -> Result<Self, StorageError> {
        let blobs = Self {
            blobs,
            space,
            locks: (0..LOCKS).map(|_| Mutex::default()).collect(),
            count: AtomicU64::new(0),
        };
        for row in blobs.blobs.rows() {
            let (key, value) = row?;
            blobs.parse(&blobs.parse_id(&key)?, &value)?;
            blobs.count.fetch_add(1, Ordering::Relaxed);
            blobs.space.add(record_bytes());
        }
        Ok(blobs)
    }

    /// Writes the blob's record, if there is none of this height, and whatever `stage` adds, in
    /// one step.
    pub(crate) fn put(
        &self,
        (header, height): (&BlobHeader, Height),
        stage: impl FnOnce(&mut Batch, &BlobId) -> Result<Change, StorageError>,
    ) -> Result<(), StorageError> {
        check_header(header)?;
        let blob = header.id();
        let _lock = self.lock(&blob);
        let mut batch = Batch::default();
        let Change { mut added, freed } = stage(&mut batch, &blob)?;
        let known = self.get(&blob)?;
        let is_new = known.is_none();
        if is_new {
            added += record_bytes();
        }
        if known.is_none_or(|known| known.height < height) {
            batch.insert(&self.blobs, blob.as_bytes(), &to_bytes(header, height))?;
        }
        self.space.reserve(added)?;
        batch.commit().inspect_err(|_| self.space.release(added))?;
        self.space.release(freed);
        if is_new {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Makes all blobs known at no height at all: heights begin again. Repeated, it does the same.
    pub(crate) fn forget_heights(&self) -> Result<(), StorageError> {
        for row in self.blobs.rows() {
            let (key, value) = row?;
            let blob = self.parse_id(&key)?;
            let _lock = self.lock(&blob);
            let stored = self.parse(&blob, &value)?;
            if stored.height > Height::new(0) {
                let record = to_bytes(&stored.header, Height::new(0));
                self.blobs.insert(blob.as_bytes(), &record)?;
            }
        }
        Ok(())
    }

    /// Removes the blob's record and whatever `stage` removes, in one step; whether there was
    /// anything.
    pub(crate) fn remove(
        &self,
        blob: &BlobId,
        stage: impl FnOnce(&mut Batch, &BlobId) -> Result<u64, StorageError>,
    ) -> Result<bool, StorageError> {
        let _lock = self.lock(blob);
        let mut batch = Batch::default();
        let mut freed = stage(&mut batch, blob)?;
        let is_known = self.has(blob)?;
        if is_known {
            batch.remove(&self.blobs, blob.as_bytes());
            freed += record_bytes();
        }
        batch.commit()?;
        self.space.release(freed);
        if is_known {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(freed > 0)
    }

    /// Removes whatever `stage` removes of the blob, in one step; its record stays. Whether there
    /// was anything.
    pub(crate) fn remove_beside(
        &self,
        blob: &BlobId,
        stage: impl FnOnce(&mut Batch, &BlobId) -> Result<u64, StorageError>,
    ) -> Result<bool, StorageError> {
        let _lock = self.lock(blob);
        let mut batch = Batch::default();
        let freed = stage(&mut batch, blob)?;
        batch.commit()?;
        self.space.release(freed);
        Ok(freed > 0)
    }

    /// Whether there is a record of `blob`.
    pub(crate) fn has(&self, blob: &BlobId) -> Result<bool, StorageError> {
        Ok(self.blobs.get(blob.as_bytes())?.is_some())
    }

    pub(crate) fn get(&self, blob: &BlobId) -> Result<Option<StoredBlob>, StorageError> {
        let value = self.blobs.get(blob.as_bytes())?;
        value.map(|value| self.parse(blob, &value)).transpose()
    }

    /// At most `max` blobs behind `after`, in the order of ids.
    pub(crate) fn ids(
        &self,
        after: Option<&BlobId>,
        max: usize,
    ) -> Result<Vec<BlobId>, StorageError> {
        let start = after.map_or(Bound::Unbounded, |blob| Bound::Excluded(blob.as_bytes()));
        let rows = self.blobs.range::<&[u8; HASH_BYTES], _>((start, Bound::Unbounded));
        rows.take(max).map(|row| self.parse_id(&row?.0)).collect()
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn parse_id(&self, key: &[u8]) -> Result<BlobId, StorageError> {
        let id = key.try_into().map_err(|_| self.blobs.corrupt())?;
        Ok(BlobId::new(id))
    }

    /// A row, whose key must be the hash of its header.
    fn parse(&self, blob: &BlobId, value: &[u8]) -> Result<StoredBlob, StorageError> {
        parse_record(value)
            .filter(|stored| stored.header.id() == *blob)
            .ok_or_else(|| self.blobs.corrupt())
    }

    fn lock(&self, blob: &BlobId) -> MutexGuard<'_, ()> {
        let index = usize::from(blob.as_bytes()[HASH_BYTES - 1]) % LOCKS;
        self.locks[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn record_bytes() -> u64 {
    row_bytes(HASH_BYTES, HEADER_BYTES + HEIGHT_BYTES)
}

fn to_bytes(header: &BlobHeader, height: Height) -> [u8; HEADER_BYTES + HEIGHT_BYTES] {
    let mut bytes = [0; HEADER_BYTES + HEIGHT_BYTES];
    bytes[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    bytes[HEADER_BYTES..].copy_from_slice(&height.get().to_be_bytes());
    bytes
}

fn parse_record(bytes: &[u8]) -> Option<StoredBlob> {
    let (header, height) = bytes.split_last_chunk::<HEIGHT_BYTES>()?;
    let height = Height::new(u64::from_be_bytes(*height));
    Some(StoredBlob { header: parse_header(header)?, height })
}

/// Parses a header for the number of shards that it names. It is the network's: callers checked
/// that before the header was kept.
fn parse_header(bytes: &[u8]) -> Option<BlobHeader> {
    let n_shards = u16::from_le_bytes(bytes.get(1..3)?.try_into().ok()?);
    BlobHeader::from_bytes(EncodingConfig::new(n_shards).ok()?, bytes).ok()
}

/// A header that was made up and names no possible shape would not read again.
fn check_header(header: &BlobHeader) -> Result<(), StorageError> {
    header.layout().map(drop).map_err(|error| {
        let max_bytes = match error {
            ConfigError::BlobTooLarge { max_bytes, .. } => max_bytes,
            ConfigError::Shards(_) => 0,
        };
        StorageError::Length {
            what: "blob",
            bytes: usize::try_from(header.len).unwrap_or(usize::MAX),
            max_bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX),
        }
    })
}

#[cfg(test)]
mod tests {
    use floe_protocol::hash::Hash;

    use super::*;
    use crate::{database::Database, schema};

    fn open(dir: &std::path::Path) -> (Result<Blobs, StorageError>, Database) {
        let database = Database::open(dir, 1 << 20, crate::database::BACKLOG_BYTES_MAX).unwrap();
        let blobs = database.table(schema::BLOBS).unwrap();
        (Blobs::open(blobs, Arc::new(Space::new(dir, u64::MAX, 0))), database)
    }

    fn header(number: u8) -> BlobHeader {
        BlobHeader { n_shards: 7, len: 9, root: Hash::new([number; HASH_BYTES]) }
    }

    #[test]
    fn headers_parse_strictly() {
        let bytes = header(1).to_bytes();
        assert_eq!(parse_header(&bytes), Some(header(1)));
        assert_eq!(parse_header(&bytes[1..]), None);
        assert_eq!(parse_header(&[&bytes[..], &[0]].concat()), None);
        assert_eq!(parse_header(&[]), None);
        let mut other_encoding = bytes;
        other_encoding[0] ^= 1;
        assert_eq!(parse_header(&other_encoding), None);
        let no_shape = BlobHeader { n_shards: 0, ..header(1) };
        assert_eq!(parse_header(&no_shape.to_bytes()), None);
    }

    #[test]
    fn a_header_under_another_key_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let (blobs, database) = open(dir.path());
        let blobs = blobs.unwrap();
        blobs.put((&header(1), Height::new(3)), |_, _| Ok(Change::default())).unwrap();
        let elsewhere = header(2).id();
        blobs.blobs.insert(elsewhere.as_bytes(), &to_bytes(&header(1), Height::new(3))).unwrap();
        assert_eq!(blobs.get(&header(1).id()).unwrap().unwrap().header, header(1));
        let error = blobs.get(&elsewhere).unwrap_err();
        assert!(matches!(error, StorageError::Corrupt { table: schema::BLOBS }), "{error}");
        database.flush().unwrap();
        drop((blobs, database));

        let (reopened, _database) = open(dir.path());
        assert!(matches!(reopened.unwrap_err(), StorageError::Corrupt { table: schema::BLOBS }));
    }
}
