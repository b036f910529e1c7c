//! The collector: removes what the ledger no longer knows.
//!
//! The last act in the life of a blob. When its last registration has been deleted, has lapsed or
//! has ended, or it was proven inconsistent, a block says so ([`Event::BlobEnded`],
//! [`Event::BlobInvalidated`]), and this service frees its slivers, one blob at a time, beside all
//! other work. At its start, and whenever it missed blocks, it compares all
//! that is stored with the state, so that a crash at any moment leaves nothing behind.
//!
//! Invariants: a blob is removed only under its lock, and only if the state, looked at under that
//! lock, does not know it. Because a node may have lost its ledger and be following it again from
//! the start, the state must also be recent by the clock, and at least of the height at which the
//! blob was known when it was stored: an older state proves nothing, and such blobs are looked at
//! again when it has come so far.

use std::{collections::BTreeSet, sync::Arc};

use floe_protocol::{
    blob::BlobId,
    index::Height,
    ledger::{Event, ReadError, State},
};
use floe_storage::Store;
use tokio::{
    sync::{
        Notify,
        broadcast::{self, error::RecvError},
    },
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::blob_locks::BlobLocks;
use crate::{
    clock::Clock,
    service::{
        blocking,
        judging::by_newest,
        ledger::{CommittedBlock, Ledger},
        readiness::is_recent,
    },
};

/// Blobs compared with the state in one step.
const COMPARED_MAX: usize = 256;
/// Blobs that end during a comparison and are remembered; beyond that another one is due.
const MEANWHILE_MAX: usize = 65_536;

/// Removes ended blobs.
#[derive(Clone, Debug)]
pub(crate) struct Collector {
    ledger: Ledger,
    store: Store,
    locks: Arc<BlobLocks>,
    clock: Clock,
    /// Told of each removal: what it left in half-empty files can be given back.
    removed: Arc<Notify>,
}

/// What became of a blob that may have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is here no more.
    Gone,
    /// The ledger knows it.
    Kept,
    /// The state is older than what is stored: look again at this height.
    Open(Height),
}

/// The store or the ledger failed: fatal.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Storage(#[from] floe_storage::StorageError),
    #[error(transparent)]
    Ledger(#[from] ReadError),
}

impl Collector {
    pub(super) fn new(
        (ledger, clock): (Ledger, Clock),
        store: Store,
        locks: Arc<BlobLocks>,
        removed: Arc<Notify>,
    ) -> Self {
        Self { ledger, store, locks, clock, removed }
    }

    /// Runs until one of the tokens is cancelled, and cancels `broken` if a store fails.
    pub(super) async fn run(self, cancel: CancellationToken, broken: CancellationToken) {
        if let Err(error) = self.collect(&[cancel, broken.clone()]).await {
            tracing::error!(%error, "the collector has failed: the node stops");
            broken.cancel();
        }
    }

    async fn collect(&self, ends: &[CancellationToken; 2]) -> Result<(), Failed> {
        let mut blocks = self.ledger.committed();
        // Where the next comparison is due, if one is.
        let mut compare_at = Some(Height::new(0));
        // Missed blocks ask for another one, but not before this.
        let mut rested = Instant::now();
        loop {
            let state = self.ledger.state().borrow().clone();
            let due = compare_at.is_some_and(|due| state.tip().height >= due);
            // On the way through old blocks nothing can be judged.
            let is_due = due && self.is_recent(&state);
            drop(state);
            if is_due && Instant::now() >= rested {
                let started = Instant::now();
                let meanwhile;
                (compare_at, meanwhile) = self.compare_beside(&mut blocks, ends).await?;
                rested = Instant::now() + started.elapsed();
                compare_at = earlier(compare_at, self.remove_all(meanwhile, ends).await?);
                continue;
            }
            let block = tokio::select! {
                () = ends[0].cancelled() => return Ok(()),
                () = ends[1].cancelled() => return Ok(()),
                () = sleep_until(rested), if is_due && Instant::now() < rested => continue,
                block = blocks.recv() => block,
            };
            let ended = match block {
                Ok(block) => ended(block.events.iter()),
                Err(RecvError::Lagged(_)) => {
                    compare_at = Some(Height::new(0));
                    continue;
                }
                Err(RecvError::Closed) => return Ok(()),
            };
            compare_at = earlier(compare_at, self.remove_all(ended, ends).await?);
        }
    }

    /// Compares while blocks go on; also the blobs that ended meanwhile. A comparison may take
    /// longer than the blocks that are kept for this service.
    async fn compare_beside(
        &self,
        blocks: &mut broadcast::Receiver<Arc<CommittedBlock>>,
        ends: &[CancellationToken; 2],
    ) -> Result<(Option<Height>, BTreeSet<BlobId>), Failed> {
        let compare = self.compare(ends);
        tokio::pin!(compare);
        let (mut meanwhile, mut missed) = (BTreeSet::new(), None);
        loop {
            let block = tokio::select! {
                again = &mut compare => return Ok((earlier(again?, missed), meanwhile)),
                block = blocks.recv() => block,
            };
            match block {
                Ok(block) if meanwhile.len() < MEANWHILE_MAX => {
                    meanwhile.extend(ended(block.events.iter()));
                }
                Ok(_) | Err(RecvError::Lagged(_)) => missed = Some(Height::new(0)),
                Err(RecvError::Closed) => return Ok((compare.await?, meanwhile)),
            }
        }
    }

    /// Removes those that are over; the height at which to look again, if there is one.
    async fn remove_all(
        &self,
        blobs: impl IntoIterator<Item = BlobId>,
        ends: &[CancellationToken; 2],
    ) -> Result<Option<Height>, Failed> {
        let mut again = None;
        for blob in blobs {
            if ends.iter().any(CancellationToken::is_cancelled) {
                break;
            }
            if let Fate::Open(height) = self.remove_if_over(blob).await? {
                again = earlier(again, Some(height));
            }
        }
        Ok(again)
    }

    /// Looks at everything that is stored; the height at which to look again, if there is one.
    async fn compare(&self, ends: &[CancellationToken; 2]) -> Result<Option<Height>, Failed> {
        let (mut after, mut again): (Option<BlobId>, Option<Height>) = (None, None);
        while !ends.iter().any(CancellationToken::is_cancelled) {
            let store = self.store.clone();
            let page = blocking(move || store.blobs(after.as_ref(), COMPARED_MAX)).await;
            let Some(page) = page.transpose()? else { return Ok(None) };
            let Some(last) = page.last() else { return Ok(again) };
            after = Some(*last);
            again = earlier(again, self.remove_all(page, ends).await?);
        }
        Ok(again)
    }

    fn is_recent(&self, state: &State) -> bool {
        is_recent(state.tip(), *self.ledger.missing().borrow(), self.clock.now())
    }

    async fn remove_if_over(&self, blob: BlobId) -> Result<Fate, Failed> {
        let collector = self.clone();
        // Without a result the node is going down: at its next start it compares.
        let fate = blocking(move || collector.remove_if_over_now(&blob)).await;
        fate.unwrap_or(Ok(Fate::Kept))
    }

    fn remove_if_over_now(&self, blob: &BlobId) -> Result<Fate, Failed> {
        let _lock = self.locks.remove(blob);
        let Some(stored) = self.store.blob(blob)? else { return Ok(Fate::Gone) };
        let newest = || self.ledger.state().borrow().clone();
        let known = by_newest(newest, |state| {
            let known = state.blob(self.ledger.store().as_ref(), blob)?;
            Ok((known, state.tip().height, self.is_recent(state)))
        });
        let (known, height, is_recent) = match known {
            // The ledger runs ahead of whoever reads it: look again at the next height.
            Err(ReadError::NoSuchVersion { .. }) => {
                return Ok(Fate::Open(newest().next_height()));
            }
            known => known?,
        };
        if known.as_ref().is_some_and(|blob| !blob.invalid) {
            return Ok(Fate::Kept);
        }
        if height < stored.height || !is_recent {
            return Ok(Fate::Open(stored.height.max(height)));
        }
        self.store.remove_blob(blob, newest().parameters().n_shards)?;
        self.removed.notify_one();
        let why =
            if known.is_some() { "proven inconsistent" } else { "nobody pays for it any more" };
        tracing::debug!(%blob, why, "removed");
        Ok(Fate::Gone)
    }
}

/// The earlier of two heights at which to look again.
fn earlier(one: Option<Height>, other: Option<Height>) -> Option<Height> {
    one.into_iter().chain(other).min()
}

/// The blobs that ended, or were proven inconsistent.
fn ended<'a>(events: impl Iterator<Item = &'a Event>) -> BTreeSet<BlobId> {
    let blobs = events.filter_map(|event| match event {
        Event::BlobEnded { blob } | Event::BlobInvalidated { blob } => Some(*blob),
        _ => None,
    });
    blobs.collect()
}
