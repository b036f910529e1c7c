//! The blobs that are known here to be inconsistent, while rounds may still ask for them.
//!
//! Such a blob has pairs that nobody can hold. Between the moment when a node verifies a proof of
//! that and the end of the last round that was opened before the ledger says so, its name stands for
//! the bytes that cannot be there. Repair and the attester verify proofs and tell; blocks tell, too.
//! What has ended, or was invalidated in a block that went by unseen, is looked up after each round.
//!
//! Invariant: a blob is told only after a proof was verified here, or by the ledger; so many are
//! remembered at most, and none for longer than the last round that asks for it.

use std::{collections::BTreeSet, sync::Arc};

use floe_protocol::blob::BlobId;
use tokio::sync::watch;

/// Blobs that are remembered.
const BLOBS_MAX: usize = 4_096;

/// The blobs. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inconsistent(Arc<watch::Sender<Arc<BTreeSet<BlobId>>>>);

impl Inconsistent {
    /// The blob is proven inconsistent.
    pub(crate) fn add(&self, blob: BlobId) {
        self.0.send_if_modified(|blobs| {
            let is_new = blobs.len() < BLOBS_MAX && !blobs.contains(&blob);
            is_new && Arc::make_mut(blobs).insert(blob)
        });
    }

    /// No round asks for these any more.
    pub(super) fn forget(&self, over: &BTreeSet<BlobId>) {
        self.0.send_if_modified(|blobs| {
            let is_known = !blobs.is_disjoint(over);
            if is_known {
                Arc::make_mut(blobs).retain(|blob| !over.contains(blob));
            }
            is_known
        });
    }

    /// All of them.
    pub(super) fn all(&self) -> Arc<BTreeSet<BlobId>> {
        Arc::clone(&self.0.borrow())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_known_until_they_are_forgotten_and_no_more_than_so_many() {
        let blob = |number: u16| {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&number.to_le_bytes());
            BlobId::new(id)
        };
        let known = Inconsistent::default();
        let clone = known.clone();
        for number in 0..5_000 {
            clone.add(blob(number));
        }
        let all = known.all();
        assert_eq!(all.len(), BLOBS_MAX);
        known.forget(&[blob(3), blob(4_999)].into());
        assert_eq!(clone.all().len(), BLOBS_MAX - 1);
        assert!(all.contains(&blob(3)), "who looks at them goes on with what was known");
        clone.add(blob(4_999));
        assert!(known.all().contains(&blob(4_999)));
    }
}
