//! `bench ledger`: how fast a swarm agrees on blocks, with and without transactions, and what it
//! costs.
//!
//! Nodes are processes of their own on loopback, so processor and memory are each node's alone.
//! Nodes and load share the machine's cores: on a busy machine the processor time of a thousand
//! transactions says more than the rate. A large state and a light client are measured in this
//! process, without a network.

mod large;
mod load;
mod snapshot;
mod solo;
mod swarm;
pub(super) mod usage;

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use serde::Serialize;
use tempfile::TempDir;
use tokio::task::spawn_blocking;

use self::{
    large::LargeReport,
    swarm::{LoadReport, Period, SwarmReport},
};
use crate::report::{self, Table};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub(crate) struct LedgerArgs {
    /// Storage nodes of each swarm
    #[arg(long, default_values_t = [4, 7], value_delimiter = ',', value_name = "N,N")]
    nodes: Vec<usize>,
    /// Shards of the network
    #[arg(long, default_value_t = 64, value_name = "N")]
    shards: u16,
    /// Transactions a second to offer, each in its turn
    #[arg(long, default_values_t = [100, 1_000, 2_000], value_delimiter = ',', value_name = "N,N")]
    rates: Vec<u32>,
    /// Seconds for which each rate is offered
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    seconds: u16,
    /// Seconds without transactions
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    idle_seconds: u16,
    /// Accounts of the large state
    #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1_000..=120_000))]
    accounts: u32,
    /// Registered blobs of the large state
    #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    blobs: u32,
    /// Leave out the swarms
    #[arg(long)]
    no_swarm: bool,
    /// Leave out the large state and the light client
    #[arg(long, conflicts_with = "no_swarm")]
    no_state: bool,
    /// A few seconds in all: 4 nodes, low rates, a small state
    #[arg(long)]
    quick: bool,
    /// Where to write, on the disk to be measured: not a tmpfs [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// All that was measured.
#[derive(Debug, Serialize)]
struct LedgerReport {
    shards: u16,
    seconds: f64,
    /// Load average of the machine before, that of others included.
    load_average: Option<f64>,
    cores: usize,
    swarms: Vec<SwarmReport>,
    large: Option<LargeReport>,
}

impl LedgerArgs {
    fn nodes(&self) -> Vec<usize> {
        if self.quick { vec![4] } else { self.nodes.clone() }
    }

    fn rates(&self) -> Vec<u32> {
        if self.quick { vec![50, 200] } else { self.rates.clone() }
    }

    /// How long each rate is offered.
    fn period(&self) -> Duration {
        Duration::from_secs(if self.quick { 1 } else { self.seconds.into() })
    }

    /// How long empty blocks are made.
    fn empty(&self) -> Duration {
        self.period().min(Duration::from_secs(5))
    }

    fn idle(&self) -> Duration {
        Duration::from_secs(if self.quick { 1 } else { self.idle_seconds.into() })
    }

    /// Accounts that send. Each may have 64 transactions waiting.
    fn senders(&self) -> u32 {
        if self.quick { 64 } else { 512 }
    }

    fn accounts(&self) -> u32 {
        if self.quick { 1_000 } else { self.accounts }
    }

    fn blobs(&self) -> usize {
        if self.quick { 1_000 } else { usize::try_from(self.blobs).unwrap_or(usize::MAX) }
    }
}

/// Measures and prints.
pub(crate) async fn run(args: &LedgerArgs) -> anyhow::Result<()> {
    let work = match &args.dir {
        Some(dir) => TempDir::new_in(dir).with_context(|| format!("cannot use {}", dir.display())),
        None => TempDir::new().context("cannot use the temporary directory"),
    }?;
    let load_average = load_average();
    let mut swarms = Vec::new();
    if !args.no_swarm {
        for nodes in args.nodes() {
            swarms.push(Box::pin(swarm::measure(args, nodes, work.path())).await?);
        }
    }
    let mut large = None;
    if !args.no_state {
        let (args, dir) = (args.clone(), work.path().to_owned());
        large = Some(spawn_blocking(move || large::measure(&args, &dir)).await??);
    }
    let report = LedgerReport {
        shards: args.shards,
        seconds: args.period().as_secs_f64(),
        load_average,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        swarms,
        large,
    };
    if args.json {
        return report::json(&report);
    }
    report.print();
    Ok(())
}

/// How many threads wanted to run in the last minute, where the system tells.
fn load_average() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').next()?.parse().ok()
}

/// A quotient for people; 0 of nothing.
#[expect(clippy::cast_precision_loss, reason = "shown to three digits")]
fn per(sum: u64, count: u64) -> f64 {
    if count == 0 { 0.0 } else { sum as f64 / count as f64 }
}

fn ms(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}

/// The time that so many of a hundred do not exceed, of times in ascending order; 0 of none.
fn percentile_ms(times: &[Duration], percent: usize) -> f64 {
    let index = (times.len() * percent).div_ceil(100).saturating_sub(1);
    times.get(index).map_or(0.0, |time| ms(*time))
}

impl LedgerReport {
    fn print(&self) {
        let load = self
            .load_average
            .map_or_else(String::new, |load| format!(", load average {load:.1} before"));
        report::line(&format!(
            "{} shards, one process for each node, {} cores{load}",
            self.shards, self.cores
        ));
        for swarm in &self.swarms {
            swarm.print();
        }
        if let Some(large) = &self.large {
            large.print();
        }
    }
}

impl SwarmReport {
    fn print(&self) {
        report::line(&format!("\n{} nodes\n", self.nodes));
        let mut table = Table::default();
        table.row([
            "blocks",
            "blocks/s",
            "interval p50",
            "p95",
            "cores/node",
            "CPU/block",
            "gossip/block heard",
            "published",
        ]);
        let under = |load: &LoadReport| format!("{} tx/s offered", load.offered_per_second);
        let loads = self.loads.iter().map(|load| (under(load), &load.period));
        let others =
            [("empty, least interval".to_owned(), &self.empty), ("idle".into(), &self.idle)];
        for (name, period) in others.into_iter().chain(loads) {
            period.add_to(&name, &mut table);
        }
        report::line(table.render().trim_end());
        report::line("");
        let mut table = Table::default();
        table.row([
            "load",
            "sent/s",
            "committed/s",
            "p50",
            "p95",
            "max",
            "refused",
            "CPU/1,000 tx",
        ]);
        for load in &self.loads {
            load.add_to(&mut table);
        }
        report::line(table.render().trim_end());
        report::line(&format!(
            "\n  state query: p50 {:.1} ms, p95 {:.1} ms, while empty blocks are made\n  \
             memory of a node: {:.0} MiB, grows by {:.1} MiB per 100,000 transactions\n  \
             disk per 100,000 transactions: {:.1} MiB, of it blocks {:.1} MiB",
            self.facts_p50_ms,
            self.facts_p95_ms,
            self.rss_mib,
            self.rss_growth_mib_per_100k,
            self.disk_mib_per_100k,
            self.blocks_mib_per_100k,
        ));
    }
}

impl Period {
    fn add_to(&self, name: &str, table: &mut Table) {
        let gossip =
            |messages: f64, bytes: f64| format!("{messages:.0} ({:.1} KiB)", bytes / 1024.0);
        table.row([
            name,
            &format!("{:.1}", self.blocks_per_second),
            &format!("{:.0} ms", self.interval_p50_ms),
            &format!("{:.0} ms", self.interval_p95_ms),
            &format!("{:.3}", self.node_cores),
            &format!("{:.1} ms", self.node_cpu_ms_per_block),
            &gossip(self.heard_per_block, self.heard_bytes_per_block),
            &gossip(self.published_per_block, self.published_bytes_per_block),
        ]);
    }
}

impl LoadReport {
    fn add_to(&self, table: &mut Table) {
        table.row([
            &format!("{} tx/s offered", self.offered_per_second),
            &format!("{:.0}", self.sent_per_second),
            &format!("{:.0}", self.committed_per_second),
            &format!("{:.0} ms", self.latency_p50_ms),
            &format!("{:.0} ms", self.latency_p95_ms),
            &format!("{:.0} ms", self.latency_max_ms),
            &self.refused.to_string(),
            &format!("{:.0} ms", self.node_cpu_ms_per_1000),
        ]);
    }
}

impl LargeReport {
    fn print(&self) {
        report::line(&format!(
            "\na state of {} accounts and {} registered blobs (not certified: they lapse)\n",
            self.accounts, self.registrations
        ));
        let mut table = Table::default();
        let mut row = |name: &str, ms: f64| table.row([name, &format!("{ms:.2} ms")]);
        let transfers = format!("execute {} transfers", self.transfers);
        row("make and write the genesis", self.genesis_ms);
        row(
            "block of 2,560 registrations, executed and committed, p50",
            self.register_block_p50_ms,
        );
        row(&format!("{transfers}, signatures verified before"), self.execute_known_ms);
        row(&format!("{transfers}, with signatures"), self.execute_unknown_ms);
        row("commit them", self.commit_ms);
        row("prove an account, p50", self.prove_p50_ms);
        row("verify the proof, p50", self.verify_proof_p50_ms);
        row("start again: open, check the root, load", self.restart_ms);
        row("block after the boundary, executed and committed, p50", self.boundary_block_p50_ms);
        row("the slowest of them", self.boundary_block_max_ms);
        row("light client: verify a hand-over, p50", self.handover_p50_ms);
        row("light client: hand-over and proof, p50", self.handover_and_proof_p50_ms);
        report::line(table.render().trim_end());
        report::line(&format!(
            "\n  proof: {} bytes; disk: {:.0} MiB; {} blocks until all registrations are swept",
            self.proof_bytes, self.disk_mib, self.boundary_blocks
        ));
        let snapshot = &self.snapshot;
        report::line(&format!(
            "  snapshot: {} entries, {:.1} MiB in {} chunks; made in {:.0} ms, restored in {:.0} ms",
            snapshot.entries,
            report::mib(snapshot.bytes as u64),
            snapshot.chunks,
            snapshot.make_ms,
            snapshot.restore_ms
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times: Vec<_> = (1..=10).map(Duration::from_millis).collect();
        let of = |percent| percentile_ms(&times, percent).round();
        assert_eq!([of(50), of(95), of(0)], [5.0, 10.0, 1.0]);
        assert_eq!(percentile_ms(&[], 50).round(), 0.0);
    }
}
