//! The scrubber: reads everything that is stored again and again, so that damage is found before
//! somebody needs the bytes.
//!
//! It works in bounded steps, one pair each, at so many bytes a second on average, round after
//! round. Proofs that wait for their slivers are looked at between two rounds, blob by blob. A pair that is damaged counts as missing from then on and repair is told. The place is
//! kept in memory: after a restart the round begins anew.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use floe_protocol::{blob::BlobId, encoding::EncodingConfig, index::ShardIndex};
use floe_storage::Store;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    faults::Faults,
    metrics::Metrics,
    pairs::{Condition, Pairs},
};
use crate::service::blocking;

/// Pairs named at a time.
const PAGE_MAX: usize = 256;
/// Between two steps at least.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// Between two rounds.
const ROUND_PAUSE: Duration = Duration::from_secs(60);
/// What a pair counts beside its bytes: looking it up, and a place on the disk to go to.
const PAIR_BYTES: u64 = 16 << 10;

/// Reads pairs again.
#[derive(Debug)]
pub(super) struct Scrubber {
    pub(super) config: EncodingConfig,
    pub(super) store: Store,
    pub(super) pairs: Pairs,
    pub(super) bytes_per_second: u64,
    /// Pairs read since the start, for the node's status.
    pub(super) scrubbed: Arc<AtomicU64>,
    pub(super) faults: Faults,
    pub(super) metrics: Metrics,
}

impl Scrubber {
    /// Runs until `over` is cancelled, or the store fails.
    pub(super) async fn run(self, over: CancellationToken) {
        let mut after: Option<(ShardIndex, BlobId)> = None;
        loop {
            let Some(page) = self.page(after).await else { return };
            after = page.last().copied();
            if after.is_none() && !self.rest(&over).await {
                return;
            }
            for (shard, blob) in page {
                let started = Instant::now();
                let (pairs, config) = (self.pairs.clone(), self.config);
                let scrubbed = blocking(move || pairs.scrub(config, shard, &blob)).await;
                let Some(Ok(condition)) = scrubbed else { return };
                let bytes = match condition {
                    Condition::Absent => continue,
                    Condition::Sound { bytes } => bytes as u64,
                    Condition::Damaged => 0,
                };
                self.scrubbed.fetch_add(1, Ordering::Relaxed);
                self.metrics.pairs_scrubbed.inc();
                let pause = sleep_until(started + self.pause(bytes));
                if over.run_until_cancelled(pause).await.is_none() {
                    return;
                }
            }
        }
    }

    /// Looks at the proofs that wait for their slivers, and rests until the next round. False when
    /// there is none.
    async fn rest(&self, over: &CancellationToken) -> bool {
        let mut last: Option<BlobId> = None;
        loop {
            let (store, after) = (self.store.clone(), last);
            let blobs = blocking(move || store.blobs(after.as_ref(), PAGE_MAX)).await;
            let blobs = match blobs {
                Some(Ok(blobs)) => blobs,
                Some(Err(error)) => {
                    self.faults.storage(&error);
                    return false;
                }
                None => return false,
            };
            last = blobs.last().copied();
            if last.is_none() {
                return over.run_until_cancelled(sleep(ROUND_PAUSE)).await.is_some();
            }
            for blob in blobs {
                let (pairs, config) = (self.pairs.clone(), self.config);
                let scrubbed = blocking(move || pairs.scrub_proofs(config, &blob)).await;
                let paused = over.run_until_cancelled(sleep(PAUSE_MIN)).await;
                if !matches!(scrubbed, Some(Ok(()))) || paused.is_none() {
                    return false;
                }
            }
        }
    }

    /// How long after the start of a step of so many bytes the next one comes.
    fn pause(&self, bytes: u64) -> Duration {
        let micros = (bytes + PAIR_BYTES).saturating_mul(1_000_000) / self.bytes_per_second.max(1);
        Duration::from_micros(micros).max(PAUSE_MIN)
    }

    /// The next pairs; none if the node is going down.
    async fn page(&self, after: Option<(ShardIndex, BlobId)>) -> Option<Vec<(ShardIndex, BlobId)>> {
        let store = self.store.clone();
        let page = blocking(move || store.pairs(after, PAGE_MAX)).await?;
        match page {
            Ok(page) => Some(page),
            Err(error) => {
                self.faults.storage(&error);
                None
            }
        }
    }
}
