//! What the benchmark of repair shows.

use std::time::Duration;

use anyhow::ensure;
use floe_protocol::{encoding::EncodingConfig, message::RepairStatus};
use serde::Serialize;

use super::{RepairArgs, pair_bytes, strangers::Given};
use crate::{
    bench::median,
    report::{self, Table, mib, mib_per_second, rate, seconds},
};

/// Processors that were busy, on average over a time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Cores {
    pub(super) nodes: f64,
    pub(super) reader: f64,
    pub(super) strangers: f64,
}

/// Reads within a time.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Reads {
    count: usize,
    pub(super) p50_ms: f64,
    cores: Cores,
}

impl Reads {
    pub(super) fn new(times: Vec<Duration>, cores: Cores) -> Self {
        let count = times.len();
        let p50_ms = median(times).unwrap_or_default().as_secs_f64() * 1e3;
        Self { count, p50_ms, cores }
    }

    fn cell(&self, idle: &Self) -> String {
        let Self { count, p50_ms, cores } = self;
        let ratio = p50_ms / idle.p50_ms.max(1e-9);
        format!(
            "{p50_ms:.0} ms, {ratio:.2} of idle ({count} reads; processors: nodes {:.2}, reader \
             {:.2}, strangers {:.2})",
            cores.nodes, cores.reader, cores.strangers
        )
    }
}

/// One repair, and the reads meanwhile.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Repaired {
    pub(super) blobs: usize,
    gained_bytes: u64,
    fetched_bytes: u64,
    took_ms: u64,
    mib_per_second: f64,
    /// The largest memory of the process so far.
    peak_rss_bytes: u64,
    reads: Reads,
}

impl Repaired {
    pub(super) fn new(
        blobs: usize,
        (status, took): (&RepairStatus, Duration),
        peak_rss_bytes: u64,
        reads: Reads,
    ) -> anyhow::Result<Self> {
        ensure!(status.gained_bytes > 0, "the node says that it got nothing back");
        Ok(Self {
            blobs,
            gained_bytes: status.gained_bytes,
            fetched_bytes: status.fetched_bytes,
            took_ms: u64::try_from(took.as_millis())?,
            mib_per_second: mib_per_second(status.gained_bytes, took),
            peak_rss_bytes,
            reads,
        })
    }
}

/// What happened under a flood.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Flooded {
    pub(super) strangers: usize,
    pub(super) reads: Reads,
    pub(super) repair: Repaired,
    pub(super) given: Given,
}

/// All figures.
#[derive(Debug, Serialize)]
pub(super) struct RepairReport {
    pub(super) blob_bytes: u64,
    pub(super) nodes: usize,
    pub(super) n_shards: u16,
    pub(super) whole_blobs_per_gained: f64,
    pub(super) idle: Reads,
    pub(super) repair: Repaired,
    pub(super) flooded: Option<Flooded>,
    /// The repair of more blobs.
    pub(super) more: Repaired,
    /// The largest memory of the same node with nothing to repair.
    pub(super) baseline_rss_bytes: u64,
    /// The largest memory of a node that writers brought everything and that repaired nothing.
    pub(super) written_rss_bytes: u64,
    pub(super) in_flight_bytes_max: u64,
    pub(super) cache_bytes: u64,
}

impl RepairReport {
    /// What reading whole blobs would cost for each byte that was got back.
    pub(super) fn whole_blobs(args: &RepairArgs, repair: &Repaired) -> anyhow::Result<f64> {
        let (_, whole) = pair_bytes(EncodingConfig::new(args.shards)?, args.size)?;
        let whole = whole * u64::try_from(repair.blobs)?;
        Ok(mib(whole) / mib(repair.gained_bytes).max(1e-9))
    }

    pub(super) fn print(&self) {
        let Self { nodes, n_shards, repair, idle, .. } = self;
        let (size, blobs) = (mib(self.blob_bytes), repair.blobs);
        report::line(&format!(
            "repair of one of {nodes} nodes, {blobs} blobs of {size:.0} MiB, {n_shards} shards\n"
        ));
        let mut table = Table::default();
        let cell = |value: f64| format!("{value:.2}");
        let fetched_for_each = mib(repair.fetched_bytes) / mib(repair.gained_bytes);
        table.row(["got back", &format!("{:.1} MiB", mib(repair.gained_bytes))]);
        table.row(["fetched", &format!("{:.1} MiB", mib(repair.fetched_bytes))]);
        table.row(["fetched for each byte", &cell(fetched_for_each)]);
        table.row(["the same by whole blobs", &cell(self.whole_blobs_per_gained)]);
        table.row(["time", &seconds(Duration::from_millis(repair.took_ms))]);
        table.row(["MiB/s", &rate(repair.mib_per_second)]);
        table.row(["read p50, idle", &idle.cell(idle)]);
        table.row(["read p50, repair", &repair.reads.cell(idle)]);
        if let Some(flooded) = &self.flooded {
            flooded.rows(idle, &mut table);
        }
        let grown = |repaired: &Repaired| {
            let grown = repaired.peak_rss_bytes.saturating_sub(self.baseline_rss_bytes);
            format!("{:.0} MiB for {} blobs", mib(grown), repaired.blobs)
        };
        table.row(["memory added by repair", &grown(repair)]);
        table.row(["", &grown(&self.more)]);
        let written = self.written_rss_bytes.saturating_sub(self.baseline_rss_bytes);
        let written = format!("{:.0} MiB for {} blobs", mib(written), self.more.blobs);
        table.row(["the same by writers", &written]);
        let (budget, cache) = (mib(self.in_flight_bytes_max), mib(self.cache_bytes));
        let bounds = format!(
            "in flight {budget:.0} MiB, store cache {cache:.0} MiB (node without repair: {:.0} MiB)",
            mib(self.baseline_rss_bytes)
        );
        table.row(["its bounds", &bounds]);
        report::line(&table.render());
    }
}

impl Flooded {
    fn rows(&self, idle: &Reads, table: &mut Table) {
        let Self { strangers, reads, repair, given } = self;
        table.row([&format!("read p50, {strangers} strangers"), &reads.cell(idle)]);
        table.row(["read p50, repair and strangers", &repair.reads.cell(idle)]);
        let time = seconds(Duration::from_millis(repair.took_ms));
        let finished = format!("{} (finished in {time})", rate(repair.mib_per_second));
        table.row(["MiB/s under flood", &finished]);
        let Given { served, busy, refused, failed, returns } = given;
        let given = format!(
            "{served} answers, {busy} told to wait, {refused} refused, {failed} without answer, \
             {returns} returns"
        );
        table.row(["strangers got", &given]);
    }
}
