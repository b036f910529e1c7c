//! The compactor: gives back to the disk what removed blobs have left in half-empty files.
//!
//! It works in small steps with pauses between them, so that reads and writes come first: at the
//! start, after removals, and now and then, because a step may have found no room, or a file that
//! was being read.

use std::{sync::Arc, time::Duration};

use floe_storage::Store;
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::service::blocking;

/// Between two steps.
const PAUSE: Duration = Duration::from_millis(20);
/// Between two looks without a removal.
const INTERVAL: Duration = Duration::from_secs(60);

/// Runs until one of the tokens is cancelled, and cancels `broken` if the store fails.
pub(super) async fn run(
    store: Store,
    removed: Arc<Notify>,
    (cancel, broken): (CancellationToken, CancellationToken),
) {
    loop {
        let step = {
            let store = store.clone();
            blocking(move || store.compact_step()).await
        };
        let (wait, more) = match step {
            Some(Ok(true)) => (PAUSE, true),
            Some(Ok(false)) => (INTERVAL, false),
            Some(Err(error)) => {
                tracing::error!(%error, "compaction has failed: the node stops");
                broken.cancel();
                return;
            }
            // The node is going down.
            None => return,
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = broken.cancelled() => return,
            () = sleep(wait) => {}
            () = removed.notified(), if !more => {}
        }
    }
}
