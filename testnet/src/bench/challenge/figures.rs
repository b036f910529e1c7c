//! What the benchmark of challenges shows.

use serde::Serialize;

use super::steps::Steps;
use crate::report::{self, Table, mib};

/// What a swarm used in a while.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Period {
    pub(super) seconds: f64,
    pub(super) blocks: u64,
    /// Rounds opened.
    pub(super) rounds: u64,
    /// What members made of rounds that were closed, added up.
    pub(super) passed: u64,
    pub(super) missed: u64,
    /// Bytes of the largest certificate.
    pub(super) certificate_bytes: usize,
    /// Of an average node.
    pub(super) cpu_ms: f64,
    /// Of an average node, from files, in memory or not.
    pub(super) disk_read_bytes: u64,
    /// Of an average node, published or heard for the first time.
    pub(super) gossip_bytes: u64,
    pub(super) reads: usize,
    pub(super) read_p50_ms: f64,
    pub(super) read_p99_ms: f64,
}

/// Swarms of one size, and as many blobs.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Swarm {
    pub(super) nodes: usize,
    pub(super) blobs: usize,
    pub(super) without: Period,
    pub(super) with: Period,
}

impl Swarm {
    /// What one round costs an average node, of something that is used all the time.
    fn per_round(&self, used: impl Fn(&Period) -> f64) -> f64 {
        let Self { without, with, .. } = self;
        let idle = used(without) / without.seconds.max(1e-9) * with.seconds;
        let rounds = u32::try_from(with.rounds).map_or(f64::INFINITY, f64::from);
        (used(with) - idle).max(0.0) / rounds.max(1.0)
    }
}

/// All figures.
#[derive(Debug, Serialize)]
pub(super) struct ChallengeReport {
    pub(super) n_shards: u16,
    pub(super) blob_bytes: u64,
    pub(super) window_ms: u64,
    pub(super) interval_ms: u64,
    pub(super) steps: Steps,
    pub(super) swarms: Vec<Swarm>,
}

impl ChallengeReport {
    pub(super) fn print(&self) {
        let Self { n_shards, blob_bytes, window_ms, interval_ms, steps, .. } = self;
        report::line(&format!(
            "challenges: {n_shards} shards, blobs of {:.2} MiB, {window_ms} ms to answer a round, one every {interval_ms} ms\n",
            mib(*blob_bytes)
        ));
        let Steps { blob_bytes, step_bytes, transcript_bytes, judge_us, make_us, make_kept_us } =
            steps;
        let mut table = Table::default();
        table.row(["a step, of a blob of", &format!("{:.0} MiB", mib(*blob_bytes))]);
        table.row(["  of a transcript", &format!("{step_bytes} bytes")]);
        table.row(["  a whole transcript", &format!("{transcript_bytes} bytes")]);
        table.row(["  to judge", &format!("{judge_us:.1} us")]);
        table.row(["  to make, hashes kept", &format!("{make_kept_us:.0} us")]);
        table.row(["  to make, hashes computed", &format!("{make_us:.0} us")]);
        report::line(&table.render());
        let mut table = Table::default();
        table.row([
            "nodes",
            "blobs",
            "rounds",
            "passed",
            "blocks",
            "CPU/round",
            "read/round",
            "gossip/round",
            "certificate",
            "read p50",
            "read p99",
            "p99 without",
            "ratio",
        ]);
        for swarm in &self.swarms {
            let Swarm { nodes, blobs, without, with } = swarm;
            let kib = |used: &dyn Fn(&Period) -> u64| {
                #[expect(clippy::cast_precision_loss, reason = "shown to four digits")]
                let bytes = swarm.per_round(|period| used(period) as f64);
                format!("{:.1} KiB", bytes / 1_024.0)
            };
            table.row([
                &nodes.to_string(),
                &blobs.to_string(),
                &with.rounds.to_string(),
                &format!("{} of {}", with.passed, with.passed + with.missed),
                &with.blocks.to_string(),
                &format!("{:.1} ms", swarm.per_round(|period| period.cpu_ms)),
                &kib(&|period| period.disk_read_bytes),
                &kib(&|period| period.gossip_bytes),
                &format!("{} bytes", with.certificate_bytes),
                &format!("{:.1} ms", with.read_p50_ms),
                &format!("{:.1} ms", with.read_p99_ms),
                &format!("{:.1} ms", without.read_p99_ms),
                &format!("{:.2}", with.read_p99_ms / without.read_p99_ms.max(1e-9)),
            ]);
        }
        report::line(&table.render());
    }
}
