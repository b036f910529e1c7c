//! Which blobs somebody is changing: writers of a blob side by side, its collector alone.
//!
//! A writer looks at the ledger, then stores or signs; the collector looks at the ledger, then
//! removes. Each does both under the blob's lock, so that nothing is ever removed that was
//! confirmed for a registration that still lives. They guard no state. All of it runs on blocking
//! threads.

#![expect(clippy::disallowed_types, reason = "these order writers and guard no state")]

use floe_protocol::{blob::BlobId, hash::HASH_BYTES};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Different blobs rarely meet in one of so many locks.
const LOCKS: usize = 64;

/// A lock for each blob, though some share one.
#[derive(Debug)]
pub(crate) struct BlobLocks(Vec<RwLock<()>>);

impl Default for BlobLocks {
    fn default() -> Self {
        Self((0..LOCKS).map(|_| RwLock::default()).collect())
    }
}

impl BlobLocks {
    /// For who adds to a blob, or vouches for it.
    pub(crate) fn write(&self, blob: &BlobId) -> RwLockReadGuard<'_, ()> {
        self.of(blob).blocking_read()
    }

    /// For who removes it.
    pub(crate) fn remove(&self, blob: &BlobId) -> RwLockWriteGuard<'_, ()> {
        self.of(blob).blocking_write()
    }

    fn of(&self, blob: &BlobId) -> &RwLock<()> {
        &self.0[usize::from(blob.as_bytes()[HASH_BYTES - 1]) % LOCKS]
    }
}
