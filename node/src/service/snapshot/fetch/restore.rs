//! Makes the state of the chunks, beside what the store has: nothing of it counts before the ledger
//! takes it.

use floe_protocol::ledger::{SnapshotError, SnapshotOffer, SnapshotRestore};
use floe_storage::{CommitError, Installation};

use super::super::Draft;
use crate::service::ledger::Ledger;

/// Why chunks are no state.
pub(super) enum RestoreError {
    /// Their manifest is a lie.
    Lie(SnapshotError),
    /// This node failed.
    Own(Box<dyn std::error::Error + Send + Sync>),
}

/// Restores what all chunks of an offer make. Blocks.
pub(super) fn restore(
    ledger: &Ledger,
    offer: &SnapshotOffer,
    draft: &Draft,
) -> Result<Installation, RestoreError> {
    let lie = |error: SnapshotError| match error {
        // It was what the manifest names when it came.
        SnapshotError::OtherChunk(_) => RestoreError::Own(error.into()),
        error => RestoreError::Lie(error),
    };
    let own = |error: CommitError| RestoreError::Own(error.into());
    let store = ledger.store();
    let mut installation = store.begin_install(offer.manifest.header.height).map_err(own)?;
    let mut restore = SnapshotRestore::new(offer.manifest.clone()).map_err(lie)?;
    for index in 0..offer.manifest.chunks.len() {
        let chunk = draft.read(index).map_err(|error| RestoreError::Own(error.into()))?;
        let part = restore.take(&chunk).map_err(lie)?;
        let bytes = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        draft.has_room_for(bytes).map_err(|error| RestoreError::Own(error.into()))?;
        installation.write(part).map_err(|error| own(error.into()))?;
    }
    let rest = restore.finish().map_err(lie)?;
    installation.write(rest).map_err(|error| own(error.into()))?;
    Ok(installation)
}
