//! The root of trust that a running node leaves in its directory, for the operator's own commands.
//!
//! The genesis can be trusted only while its committee can be punished. The node has executed every
//! block since; so at each epoch it writes a checkpoint of its own, and `floe node leave` and
//! `floe node status` start from that. Invariant: it is written only while the node follows the
//! ledger, and replaced whole.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use floe_protocol::{ledger::State, light::Checkpoint};
use tokio::task::spawn_blocking;

use crate::{
    cli::out_file::write_file,
    service::ledger::{Ledger, wall_clock},
};

/// A block older than this says nothing of now.
const AGE_MAX_MS: u64 = 60_000;

/// Where the checkpoint is.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("checkpoint.json")
}

/// Writes a checkpoint at each epoch, until it is aborted or the node ends.
pub(super) async fn keep(ledger: Ledger, dir: PathBuf) {
    let mut state = ledger.state();
    let mut written = None;
    loop {
        let now = state.borrow_and_update().clone();
        let epoch = now.committee().epoch();
        if written != Some(epoch) && wall_clock().ms_since(now.tip().time) <= AGE_MAX_MS {
            let (ledger, dir) = (ledger.clone(), dir.clone());
            match spawn_blocking(move || write(&ledger, &now, &dir)).await {
                Ok(true) => written = Some(epoch),
                Ok(false) => {}
                Err(_) => return,
            }
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

/// Whether it was written.
fn write(ledger: &Ledger, state: &Arc<State>, dir: &Path) -> bool {
    // The genesis needs no checkpoint; a store that fails ends the node.
    let Ok(Some((block, _))) = ledger.block(state.tip().height) else { return false };
    let checkpoint = Checkpoint::new(*state.chain(), block.header, state.committee());
    let Ok(text) = serde_json::to_vec_pretty(&checkpoint) else { return false };
    if let Err(failure) = write_file(&path(dir), &text, true) {
        tracing::debug!(reason = failure.message(), "no checkpoint is written");
        return false;
    }
    true
}
