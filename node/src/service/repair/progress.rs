//! How far repair has come, for whoever asks: the node's status, metrics, tests.

use std::sync::Arc;

use floe_protocol::{index::Epoch, message::RepairStatus};
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use tokio::{sync::watch, time::Instant};

/// The counts. Clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    status: Arc<watch::Sender<RepairStatus>>,
    metrics: Metrics,
}

#[derive(Clone, Debug, Default)]
struct Metrics {
    complete_shards: Gauge,
    missing_pairs: Gauge,
    moved_pairs: Counter,
    recovered_pairs: Counter,
    gained_bytes: Counter,
    fetched_bytes: Counter,
    failures: Counter,
    invalidated: Counter,
}

impl Progress {
    /// Counts that `registry` shows.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let m = Metrics::default();
        let registry = registry.sub_registry_with_prefix("floe_repair");
        for (name, help, gauge) in [
            ("complete_shards", "Shards of which every pair is here", &m.complete_shards),
            ("missing_pairs", "Pairs of own shards that are known to be missing", &m.missing_pairs),
        ] {
            registry.register(name, help, gauge.clone());
        }
        for (name, help, counter) in [
            ("moved_pairs", "Pairs copied from earlier holders", &m.moved_pairs),
            ("recovered_pairs", "Pairs recovered from symbols or whole blobs", &m.recovered_pairs),
            ("gained_bytes", "Bytes of slivers that were moved or recovered", &m.gained_bytes),
            ("fetched_bytes", "Bytes received for that, proofs included", &m.fetched_bytes),
            ("failures", "Attempts at a blob that left pairs missing", &m.failures),
            (
                "invalidated_blobs",
                "Blobs found inconsistent, and proven so to the ledger",
                &m.invalidated,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        Self { status: Arc::new(watch::Sender::new(RepairStatus::default())), metrics: m }
    }

    /// The counts now and after every change.
    pub(crate) fn watch(&self) -> watch::Receiver<RepairStatus> {
        self.status.subscribe()
    }

    fn now(&self) -> RepairStatus {
        *self.status.borrow()
    }

    /// A pair has come from an earlier holder.
    pub(super) fn moved(&self, sliver_bytes: u64) {
        self.metrics.moved_pairs.inc();
        self.metrics.gained_bytes.inc_by(sliver_bytes);
        self.status.send_modify(|status| {
            status.moved_pairs += 1;
            status.gained_bytes += sliver_bytes;
        });
    }

    /// A pair was recovered.
    pub(super) fn recovered(&self, sliver_bytes: u64) {
        self.metrics.recovered_pairs.inc();
        self.metrics.gained_bytes.inc_by(sliver_bytes);
        self.status.send_modify(|status| {
            status.recovered_pairs += 1;
            status.gained_bytes += sliver_bytes;
        });
    }

    /// Payload has come.
    pub(super) fn fetched(&self, bytes: u64) {
        self.metrics.fetched_bytes.inc_by(bytes);
        self.status.send_modify(|status| status.fetched_bytes += bytes);
    }

    /// An attempt at a blob left pairs missing.
    pub(super) fn failed(&self) {
        self.metrics.failures.inc();
    }

    /// A blob was found inconsistent, and enough members attest it.
    pub(super) fn invalidated(&self) {
        self.metrics.invalidated.inc();
    }

    /// What is complete and what is missing.
    fn stands(&self, complete_shards: u16, missing_pairs: u64) {
        self.metrics.complete_shards.set(complete_shards.into());
        self.metrics.missing_pairs.set(i64::try_from(missing_pairs).unwrap_or(i64::MAX));
        self.status.send_if_modified(|status| {
            let before = (status.complete_shards, status.missing_pairs);
            (status.complete_shards, status.missing_pairs) = (complete_shards, missing_pairs);
            before != (complete_shards, missing_pairs)
        });
    }
}

/// From when something is missing until nothing is.
#[derive(Debug, Default)]
pub(super) struct Episode(Option<(Instant, RepairStatus)>);

impl Episode {
    /// Publishes where repair stands, and logs beginnings and ends. While not everything has been
    /// looked at (`scanned`), nothing ends.
    pub(super) fn show(
        &mut self,
        progress: &Progress,
        epoch: Epoch,
        (complete_shards, missing): (usize, u64),
        scanned: bool,
    ) {
        progress.stands(u16::try_from(complete_shards).unwrap_or(u16::MAX), missing);
        let counts = progress.now();
        match &self.0 {
            None if missing > 0 => {
                tracing::info!(%epoch, missing, "pairs of own shards are missing: fetching them");
                self.0 = Some((Instant::now(), counts));
            }
            Some((began, before)) if missing == 0 && scanned => {
                tracing::info!(
                    %epoch,
                    moved = counts.moved_pairs - before.moved_pairs,
                    recovered = counts.recovered_pairs - before.recovered_pairs,
                    gained_bytes = counts.gained_bytes - before.gained_bytes,
                    fetched_bytes = counts.fetched_bytes - before.fetched_bytes,
                    seconds = began.elapsed().as_secs(),
                    "nothing is missing any more"
                );
                self.0 = None;
            }
            None | Some(_) => {}
        }
    }
}
