//! What repair is given when it starts, and what its parts share of it.

use std::sync::Arc;

use floe_storage::Store;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    Progress,
    budget::{Budget, Throttle},
    context::Context,
};
use crate::{
    clock::Clock,
    config::RepairLimits,
    key_file::NodeKeys,
    network::Network,
    service::{
        background::Background, challenges::Inconsistent, ledger::Ledger, storage_node::BlobLocks,
    },
};

/// What the service needs.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) ledger: Ledger,
    pub(crate) keys: NodeKeys,
    pub(crate) store: Store,
    pub(crate) network: Network,
    pub(crate) locks: Arc<BlobLocks>,
    /// Told whenever a pair was found damaged.
    pub(crate) missing: Arc<Notify>,
    /// Told of blobs that were proven inconsistent.
    pub(crate) inconsistent: Inconsistent,
    pub(crate) progress: Progress,
    pub(crate) limits: RepairLimits,
    pub(crate) clock: Clock,
    pub(crate) cancel: CancellationToken,
}

impl Args {
    /// What all parts share, until `cancel`. Starts the threads that compute.
    pub(super) fn into_context(self, cancel: CancellationToken) -> Context {
        let Self { ledger, keys, store, network, locks, limits, clock, .. } = self;
        Context {
            budget: Budget::new(limits.in_flight_bytes_max),
            throttle: Throttle::new(limits.bytes_per_second),
            background: Background::start(limits.tasks_max),
            cancel,
            ledger,
            keys,
            store,
            network,
            locks,
            limits,
            clock,
            inconsistent: self.inconsistent,
            progress: self.progress,
        }
    }
}
