//! The services of a storage node. Each is one task with its own state, reached through bounded
//! channels; what is hashed, verified or written runs on blocking threads.

pub(crate) mod address_book;
mod background;
pub(crate) mod block_sync;
pub(crate) mod challenges;
pub(crate) mod handovers;
mod judging;
mod lane;
pub(crate) mod ledger;
pub(crate) mod membership;
mod pace;
pub(crate) mod queries;
pub(crate) mod readiness;
pub(crate) mod repair;
pub(crate) mod snapshot;
pub(crate) mod storage_node;
pub(crate) mod transactions;

use tokio::task::{JoinError, spawn_blocking};

/// Runs on a blocking thread; nothing comes back only when the runtime is shutting down.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match spawn_blocking(work).await {
        Ok(result) => Some(result),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}

/// A panic in a task is a broken invariant of ours: the node must not go on.
fn on_ended(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}
