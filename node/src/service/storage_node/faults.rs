//! What becomes of trouble with the own disk: strangers learn only what they can act on, and a
//! store that can no longer be relied on stops the node.

use floe_protocol::{ledger::ReadError, message::Refusal};
use floe_storage::StorageError;
use tokio_util::sync::CancellationToken;

/// What a node that its own ledger has overtaken asks others to wait.
const OVERTAKEN_RETRY_AFTER_MS: u32 = 100;

/// Turns failures of the node's stores into refusals.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    /// Cancelled when a store can no longer be relied on: the node stops.
    broken: CancellationToken,
}

impl Faults {
    pub(super) const fn new(broken: CancellationToken) -> Self {
        Self { broken }
    }

    /// The ledger's store failed, or blocks come faster than this node answers.
    pub(super) fn ledger(&self, error: &ReadError) -> Refusal {
        match error {
            ReadError::NoSuchVersion { .. } => {
                Refusal::Busy { retry_after_ms: OVERTAKEN_RETRY_AFTER_MS }
            }
            ReadError::Failed(_) => {
                tracing::error!(%error, "ledger store failed: the node stops");
                self.broken.cancel();
                Refusal::Unavailable
            }
        }
    }

    /// The store of slivers failed or is full.
    pub(super) fn storage(&self, error: &StorageError) -> Refusal {
        if error.is_fatal() {
            tracing::error!(%error, "store failed: the node stops");
            self.broken.cancel();
            return Refusal::Unavailable;
        }
        tracing::warn!(%error, "not stored");
        match error {
            StorageError::Full { .. } => Refusal::StorageFull,
            StorageError::Length { .. } => Refusal::TooLarge,
            StorageError::Io(_) | StorageError::Corrupt { .. } | StorageError::Stopped => {
                Refusal::Unavailable
            }
        }
    }
}
