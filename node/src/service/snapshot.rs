//! The snapshot service: makes a snapshot of the state at the end of each epoch, and offers it to
//! newcomers.
//!
//! Right after the last block of an epoch the state is listed, cut into chunks and written to
//! files, on a blocking thread, while blocks go on; the list is that of the block, whatever follows.
//! The last two snapshots are kept. Those of an epoch that ended long ago, which a node passes that
//! catches up, are left out. A newcomer that began with a snapshot ([`fetch`]) keeps it and offers
//! it on.
//!
//! Invariants: what is offered is whole; a chunk whose file was damaged is not sent, since the peer
//! that sends a wrong one is not asked again. Failing to make a snapshot is no reason to stop: blocks
//! are still there for everybody.

mod fetch;
mod files;
mod first_state;

use std::sync::Arc;

use floe_protocol::{
    genesis::Genesis,
    index::Height,
    ledger::{Event, ReadError, SnapshotError, SnapshotOffer, SnapshotWriter},
};
use floe_storage::StorageError;
use tokio::sync::{broadcast::error::RecvError, mpsc, watch};
use tokio_util::sync::CancellationToken;

pub(super) use self::fetch::Fetcher;
use self::files::{Draft, SnapshotFiles};
pub use self::first_state::FirstStateError;
pub(crate) use self::first_state::{
    FirstState, StateFile, beside, fetch as fetch_first_state, first_beside,
};
use super::{
    blocking,
    ledger::{CommittedBlock, Ledger},
};

/// Snapshots that are kept.
const KEPT_MAX: usize = 2;
/// An epoch that ended so many blocks ago needs no snapshot any more.
const OVERTAKEN_BLOCKS: u64 = 64;
/// Snapshots that were fetched and wait to be kept.
const FETCHED_MAX: usize = 1;

/// The draft of a snapshot of this node's own.
const MAKING: &str = "making";
/// The draft of one that is fetched.
const INCOMING: &str = "incoming";

/// What the service needs.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) ledger: Ledger,
    pub(crate) maker: Maker,
    pub(crate) cancel: CancellationToken,
}

/// A snapshot whose chunks are all in files.
#[derive(Debug)]
struct Finished {
    draft: Draft,
    offer: SnapshotOffer,
}

/// Why there is no snapshot of a height.
#[derive(Debug, thiserror::Error)]
enum MakeError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    State(#[from] ReadError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("the block or its committee is not in the store")]
    NoBlock,
    #[error("the node is going down")]
    Cancelled,
}

type Kept = Arc<Vec<Arc<SnapshotOffer>>>;

/// What this node offers. Clones show the same.
#[derive(Clone, Debug)]
pub(crate) struct Snapshots {
    files: SnapshotFiles,
    /// Oldest first.
    kept: watch::Receiver<Kept>,
    /// The network's first state, where it is not in the genesis.
    first: Option<(FirstState, Arc<SnapshotOffer>)>,
    fetched: mpsc::Sender<Finished>,
}

/// Who makes and keeps snapshots.
#[derive(Debug)]
pub(crate) struct Maker {
    files: SnapshotFiles,
    kept: watch::Sender<Kept>,
    fetched: mpsc::Receiver<Finished>,
}

/// What is in a directory: what can be offered, and who adds to it, as long as so much stays free on
/// the disk. Blocks.
pub(crate) fn open(
    dir: &std::path::Path,
    reserve_bytes: u64,
    genesis: &Genesis,
) -> (Snapshots, Maker) {
    let first = FirstState::of(genesis, dir, reserve_bytes);
    let first = first.and_then(|first| Some((first.offer().map(Arc::new)?, first)));
    let first = first.map(|(offer, first)| (first, offer));
    let files = SnapshotFiles::new(dir, reserve_bytes);
    let kept = files.recover().unwrap_or_else(|error| {
        tracing::warn!(%error, dir = %dir.display(), "snapshots cannot be read");
        Vec::new()
    });
    let kept = Arc::new(kept.into_iter().map(Arc::new).collect());
    let (kept_sender, kept) = watch::channel(kept);
    let (fetched, receiver) = mpsc::channel(FETCHED_MAX);
    let maker = Maker { files: files.clone(), kept: kept_sender, fetched: receiver };
    (Snapshots { files, kept, first, fetched }, maker)
}

impl Snapshots {
    /// What the snapshot of a height, or the newest one, consists of.
    pub(crate) fn offer(&self, height: Option<Height>) -> Option<Arc<SnapshotOffer>> {
        if height == Some(Height::new(0)) {
            return self.first.as_ref().map(|(_, offer)| Arc::clone(offer));
        }
        let kept = self.kept.borrow().clone();
        match height {
            None => kept.last().cloned(),
            Some(height) => kept.iter().find(|o| o.manifest.header.height == height).cloned(),
        }
    }

    /// A chunk of a snapshot that is offered. Blocks.
    pub(crate) fn chunk(&self, height: Height, index: u16) -> Option<Vec<u8>> {
        let offer = self.offer(Some(height))?;
        let index = usize::from(index);
        if index >= offer.manifest.chunks.len() {
            return None;
        }
        // It may have been removed meanwhile.
        let chunk = match &self.first {
            Some((first, _)) if height == Height::new(0) => first.chunk(index),
            _ => self.files.chunk(height, index),
        };
        let chunk = chunk.ok()?;
        if !offer.manifest.has_chunk(index, &chunk) {
            tracing::warn!(%height, index, "a chunk of a snapshot is damaged on disk: not sent");
            return None;
        }
        Some(chunk)
    }
}

/// Runs until cancelled.
pub(crate) async fn run(args: Args) {
    let Args { ledger, mut maker, cancel } = args;
    let mut blocks = ledger.committed();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            Some(finished) = maker.fetched.recv() => maker.keep(finished).await,
            block = blocks.recv() => match block {
                Ok(block) if ends_epoch(&block) => {
                    let height = block.block.header.height;
                    maker.make(&ledger, height, &cancel).await;
                }
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
        }
    }
}

fn ends_epoch(block: &CommittedBlock) -> bool {
    block.events.iter().any(|event| matches!(event, Event::EpochChanged { .. }))
}

impl Maker {
    async fn make(&self, ledger: &Ledger, height: Height, cancel: &CancellationToken) {
        let tip = ledger.state().borrow().tip().height;
        if tip.get().saturating_sub(height.get()) > OVERTAKEN_BLOCKS {
            return;
        }
        let (ledger, files, cancel) = (ledger.clone(), self.files.clone(), cancel.clone());
        let made = blocking(move || {
            make(&ledger, &files, height, &cancel).inspect_err(|_| files.discard(MAKING))
        });
        let made = made.await;
        match made {
            Some(Ok(finished)) => self.keep(finished).await,
            Some(Err(MakeError::Cancelled)) | None => {}
            Some(Err(error)) => tracing::warn!(%height, %error, "no snapshot is made"),
        }
    }

    /// Offers a snapshot, and the last one beside it.
    async fn keep(&self, Finished { draft, offer }: Finished) {
        let height = offer.manifest.header.height;
        let files = self.files.clone();
        let offer = Arc::new(offer);
        let written = Arc::clone(&offer);
        match blocking(move || files.keep(&draft, &written)).await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::warn!(%height, %error, "a snapshot is not kept");
                return;
            }
            None => return,
        }
        let chunks = offer.manifest.chunks.len();
        tracing::info!(%height, chunks, "snapshot of the state is offered");
        let mut kept: Vec<_> = self.kept.borrow().iter().cloned().collect();
        kept.retain(|known| known.manifest.header.height != height);
        kept.push(offer);
        kept.sort_by_key(|offer| offer.manifest.header.height);
        let old: Vec<_> = kept.drain(..kept.len().saturating_sub(KEPT_MAX)).collect();
        self.kept.send_replace(Arc::new(kept));
        let files = self.files.clone();
        blocking(move || {
            for offer in old {
                files.remove(offer.manifest.header.height);
            }
        })
        .await;
    }
}

/// Writes the state after a block to files.
fn make(
    ledger: &Ledger,
    files: &SnapshotFiles,
    height: Height,
    cancel: &CancellationToken,
) -> Result<Finished, MakeError> {
    let store = ledger.store();
    // First of all: it is forgotten after some blocks, but not what is listed.
    let values = store.values(height)?;
    let header = store.header(height)?.ok_or(MakeError::NoBlock)?;
    let certificate = store.certificate(height)?.ok_or(MakeError::NoBlock)?;
    let committee = store.committee(header.epoch.plus(1))?.ok_or(MakeError::NoBlock)?;
    let draft = files.begin(MAKING)?;
    let mut writer = SnapshotWriter::default();
    let mut chunks = 0;
    for value in values {
        let (key, value) = value?;
        if let Some(chunk) = writer.push(&key, &value)? {
            draft.write(chunks, &chunk)?;
            chunks += 1;
            if cancel.is_cancelled() {
                return Err(MakeError::Cancelled);
            }
        }
    }
    let (last, manifest) = writer.finish(header, committee)?;
    draft.write(chunks, &last)?;
    Ok(Finished { draft, offer: SnapshotOffer { manifest, certificate } })
}

#[cfg(test)]
mod tests {
    use super::{files::tests::offer, *};

    async fn keep(maker: &Maker, epochs: usize) -> (Height, Vec<u8>) {
        let (chunk, offer) = offer(epochs);
        let height = offer.manifest.header.height;
        let draft = maker.files.begin(MAKING).unwrap();
        draft.write(0, &chunk).unwrap();
        maker.keep(Finished { draft, offer }).await;
        (height, chunk)
    }

    #[tokio::test]
    async fn the_last_two_are_offered_and_no_damaged_chunk_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let genesis = floe_protocol::test_support::genesis(4, 7);
        let (snapshots, maker) = open(dir.path(), 0, &genesis);
        assert!(snapshots.offer(None).is_none());
        let (first, _) = keep(&maker, 1).await;
        let (third, chunk) = keep(&maker, 3).await;
        // One that was fetched, and is older.
        let (second, _) = keep(&maker, 2).await;
        assert!(first < second && second < third);
        for snapshots in [&snapshots, &open(dir.path(), 0, &genesis).0] {
            assert!(snapshots.offer(Some(first)).is_none(), "two are kept");
            assert_eq!(snapshots.chunk(first, 0), None);
            assert!(snapshots.offer(Some(second)).is_some());
            let newest = snapshots.offer(None).unwrap();
            assert_eq!(newest.manifest.header.height, third);
            assert_eq!(snapshots.chunk(third, 0).as_ref(), Some(&chunk));
            assert_eq!(snapshots.chunk(third, 1), None);
        }
        let file = dir.path().join(third.get().to_string()).join("00000");
        let mut damaged = chunk;
        damaged[7] ^= 1;
        std::fs::write(file, damaged).unwrap();
        assert_eq!(snapshots.chunk(third, 0), None, "a wrong byte");
    }
}
