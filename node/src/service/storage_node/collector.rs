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
//! again when it has come so far. And no round of challenges may be open that was opened before the
//! blob was over: nodes have to show what they held then.

use std::{collections::BTreeMap, sync::Arc};

use floe_protocol::{
    blob::BlobId,
    index::{ChallengeRound, Height},
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
/// Blobs that end during a comparison, or are waited for, and are remembered; beyond that another
/// comparison is due.
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
    /// It is over, but a round may ask for it.
    Asked,
}

/// What is to be looked at again.
#[derive(Debug, Default)]
struct Later {
    /// At this height everything is to be compared.
    compare_at: Option<Height>,
    /// Blobs that were seen to be over at a height, when rounds were open that may ask for them.
    asked: BTreeMap<BlobId, Height>,
}

impl Later {
    /// Everything is to be compared, as soon as possible.
    fn compare() -> Self {
        Self { compare_at: Some(Height::new(0)), ..Self::default() }
    }

    /// Both.
    fn and(mut self, other: Self) -> Self {
        for (blob, height) in other.asked {
            self.ask(blob, height);
        }
        self.compare_at = earlier(self.compare_at, other.compare_at);
        self
    }

    fn ask(&mut self, blob: BlobId, height: Height) {
        if self.asked.len() < MEANWHILE_MAX || self.asked.contains_key(&blob) {
            // It may have come back in between.
            let known = self.asked.entry(blob).or_insert(height);
            *known = height.max(*known);
        } else {
            self.compare_at = earlier(self.compare_at, Some(height.next()));
        }
    }

    /// Takes the blobs that no open round asks for any more, the oldest of which is this one.
    fn take_due(&mut self, oldest: Option<ChallengeRound>) -> BTreeMap<BlobId, Height> {
        self.asked.extract_if(.., |_, height| !may_ask(oldest, *height)).collect()
    }
}

/// Whether a round may ask for a blob that was over at `height`, if `oldest` was opened first of
/// those that are open.
fn may_ask(oldest: Option<ChallengeRound>, height: Height) -> bool {
    oldest.is_some_and(|oldest| oldest.get() <= height.get())
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
        let mut later = Later::compare();
        // Missed blocks ask for another one, but not before this.
        let mut rested = Instant::now();
        loop {
            let state = self.ledger.state().borrow().clone();
            let due = later.compare_at.is_some_and(|due| state.tip().height >= due);
            // On the way through old blocks nothing can be judged.
            let is_due = due && self.is_recent(&state);
            if is_due && Instant::now() >= rested {
                let started = Instant::now();
                let (found, meanwhile) = self.compare_beside(&mut blocks, ends).await?;
                rested = Instant::now() + started.elapsed();
                later.compare_at = None;
                later = later.and(found).and(self.remove_all(meanwhile, ends).await?);
                continue;
            }
            let free = later.take_due(oldest_round(&state));
            drop(state);
            if !free.is_empty() {
                later = later.and(self.remove_all(free, ends).await?);
                continue;
            }
            let block = tokio::select! {
                () = ends[0].cancelled() => return Ok(()),
                () = ends[1].cancelled() => return Ok(()),
                () = sleep_until(rested), if is_due && Instant::now() < rested => continue,
                block = blocks.recv() => block,
            };
            let ended = match block {
                Ok(block) => ended(&block),
                Err(RecvError::Lagged(_)) => {
                    later = later.and(Later::compare());
                    continue;
                }
                Err(RecvError::Closed) => return Ok(()),
            };
            later = later.and(self.remove_all(ended, ends).await?);
        }
    }

    /// Compares while blocks go on; also the blobs that ended meanwhile. A comparison may take
    /// longer than the blocks that are kept for this service.
    async fn compare_beside(
        &self,
        blocks: &mut broadcast::Receiver<Arc<CommittedBlock>>,
        ends: &[CancellationToken; 2],
    ) -> Result<(Later, BTreeMap<BlobId, Height>), Failed> {
        let compare = self.compare(ends);
        tokio::pin!(compare);
        let (mut meanwhile, mut missed) = (BTreeMap::new(), Later::default());
        loop {
            let block = tokio::select! {
                again = &mut compare => return Ok((again?.and(missed), meanwhile)),
                block = blocks.recv() => block,
            };
            match block {
                Ok(block) if meanwhile.len() < MEANWHILE_MAX => meanwhile.extend(ended(&block)),
                Ok(_) | Err(RecvError::Lagged(_)) => missed = Later::compare(),
                Err(RecvError::Closed) => return Ok((compare.await?, meanwhile)),
            }
        }
    }

    /// Removes those that are over, as of the heights at which they were seen to be; what is to be
    /// looked at again.
    async fn remove_all(
        &self,
        blobs: impl IntoIterator<Item = (BlobId, Height)>,
        ends: &[CancellationToken; 2],
    ) -> Result<Later, Failed> {
        let mut later = Later::default();
        for (blob, over_at) in blobs {
            if ends.iter().any(CancellationToken::is_cancelled) {
                break;
            }
            match self.remove_if_over(blob, over_at).await? {
                Fate::Gone | Fate::Kept => {}
                Fate::Open(height) => {
                    later.compare_at = earlier(later.compare_at, Some(height));
                }
                Fate::Asked => later.ask(blob, over_at),
            }
        }
        Ok(later)
    }

    /// Looks at everything that is stored; what is to be looked at again.
    async fn compare(&self, ends: &[CancellationToken; 2]) -> Result<Later, Failed> {
        let (mut after, mut later): (Option<BlobId>, Later) = (None, Later::default());
        while !ends.iter().any(CancellationToken::is_cancelled) {
            let store = self.store.clone();
            let page = blocking(move || store.blobs(after.as_ref(), COMPARED_MAX)).await;
            let Some(page) = page.transpose()? else { return Ok(Later::default()) };
            let Some(last) = page.last() else { return Ok(later) };
            after = Some(*last);
            // When they ended is not known: as late as can be.
            let tip = self.ledger.state().borrow().tip().height;
            let page = page.into_iter().map(|blob| (blob, tip));
            later = later.and(self.remove_all(page, ends).await?);
        }
        Ok(later)
    }

    fn is_recent(&self, state: &State) -> bool {
        is_recent(state.tip(), *self.ledger.missing().borrow(), self.clock.now())
    }

    async fn remove_if_over(&self, blob: BlobId, over_at: Height) -> Result<Fate, Failed> {
        let collector = self.clone();
        // Without a result the node is going down: at its next start it compares.
        let fate = blocking(move || collector.remove_if_over_now(&blob, over_at)).await;
        fate.unwrap_or(Ok(Fate::Kept))
    }

    fn remove_if_over_now(&self, blob: &BlobId, over_at: Height) -> Result<Fate, Failed> {
        let _lock = self.locks.remove(blob);
        let Some(stored) = self.store.blob(blob)? else { return Ok(Fate::Gone) };
        let newest = || self.ledger.state().borrow().clone();
        let known = by_newest(newest, |state| {
            let known = state.blob(self.ledger.store().as_ref(), blob)?;
            Ok((known, state.tip().height, (self.is_recent(state), oldest_round(state))))
        });
        let (known, height, (is_recent, oldest)) = match known {
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
        if may_ask(oldest, over_at) {
            return Ok(Fate::Asked);
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

/// The blobs that ended with a block, or were proven inconsistent, and its height.
fn ended(committed: &CommittedBlock) -> BTreeMap<BlobId, Height> {
    let height = committed.block.header.height;
    let blobs = committed.events.iter().filter_map(|event| match event {
        Event::BlobEnded { blob } | Event::BlobInvalidated { blob } => Some((*blob, height)),
        _ => None,
    });
    blobs.collect()
}

/// The open round of challenges that was opened first.
fn oldest_round(state: &State) -> Option<ChallengeRound> {
    state.challenges().open.iter().map(|open| open.round).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(number: u32) -> BlobId {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        BlobId::new(id)
    }

    #[test]
    fn a_blob_waits_for_the_rounds_that_were_opened_before_its_end() {
        let (height, round) = (Height::new, |number| Some(ChallengeRound::new(number)));
        let mut later = Later::default();
        later.ask(blob(1), height(10));
        later.ask(blob(2), height(11));
        later.ask(blob(2), height(12));
        later.ask(blob(2), height(9));
        let mut due = |oldest| later.take_due(oldest).into_keys().collect::<Vec<_>>();
        assert_eq!(due(round(9)), []);
        assert_eq!(due(round(10)), [], "opened in the block that says so");
        assert_eq!(due(round(11)), [blob(1)]);
        assert_eq!(due(None), [blob(2)]);
    }

    #[test]
    fn what_is_too_much_to_wait_for_is_found_by_a_comparison() {
        let mut later = Later::default();
        for number in 0..70_000 {
            later.ask(blob(number), Height::new(7));
        }
        assert_eq!((later.asked.len(), later.compare_at), (MEANWHILE_MAX, Some(Height::new(8))));
        let both = later.and(Later::compare());
        assert_eq!((both.asked.len(), both.compare_at), (MEANWHILE_MAX, Some(Height::new(0))));
    }
}
