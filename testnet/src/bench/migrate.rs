//! `bench migrate`: what an epoch change moves, against what it has to.
//!
//! A node joins a swarm with blobs; in the epoch for which it is selected it takes shards over. The
//! two committees say which shards move; each of them has one pair of every blob. Figure: bytes
//! that all nodes fetch for each byte of these pairs.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use floe_protocol::{
    committee::Committee, index::ShardIndex, ledger::Amount, message::RepairStatus,
};
use serde::Serialize;
use tokio::time::timeout;

use super::repair::{pair_bytes, parse_size, store};
use crate::{
    cluster::{Cluster, wait_for_epoch},
    report::{self, Spinner, Table, mib, mib_per_second, rate, seconds},
    up::with_epoch,
};

/// How long the change may take to come, and to be done.
const DEADLINE: Duration = Duration::from_secs(1_200);
/// What every node of a local swarm has at stake.
const STAKE: Amount = Amount::from_wal(1_000);

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct MigrateArgs {
    /// Size of each blob
    #[arg(long, default_value = "16MiB", value_name = "SIZE", value_parser = parse_size)]
    size: u64,
    /// Blobs
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    blobs: u16,
    /// Storage nodes before one joins
    #[arg(long, default_value_t = 7, value_name = "N")]
    nodes: usize,
    /// Shards of the network
    #[arg(long, default_value_t = 64, value_name = "N")]
    shards: u16,
    /// Duration of an epoch
    #[arg(long, default_value = "40s", value_name = "TIME", value_parser = humantime::parse_duration)]
    epoch: Duration,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Measures and prints.
pub(crate) async fn run(args: &MigrateArgs) -> anyhow::Result<()> {
    let spinner = Spinner::new("starting storage nodes and storing");
    let builder = Cluster::builder().nodes(args.nodes).shards(args.shards);
    let mut cluster = Box::pin(builder.ledger(with_epoch(args.epoch)).start()).await?;
    let client = cluster.client().await?;
    store(&client, &cluster, (args.blobs, args.size)).await?;
    drop(spinner);
    let _spinner = Spinner::new("waiting for the epoch in which a node takes shards over");
    let joined = cluster.join(STAKE).await?;
    let node = cluster.node_id(joined);
    let selected = wait_for_epoch(&client, |running| {
        running.next_shards_of(&node).is_some_and(|shards| shards > 0)
    });
    let before = timeout(DEADLINE, selected).await.context("the node is not selected")??;
    let next = before.summary.epoch.plus(1);
    let fetched_before = totals(&cluster);
    let begun = wait_for_epoch(&client, |running| running.summary.epoch >= next);
    let after = timeout(DEADLINE, begun).await.context("the next epoch does not begin")??;
    let started = Instant::now();
    let whole = wait_for_epoch(&client, |running| running.ready() == args.shards);
    timeout(DEADLINE, whole).await.context("shards do not come to be ready")??;
    let took = started.elapsed();
    let fetched = totals(&cluster);
    let moved = moved_shards(&before.committee, &after.committee);
    client.shutdown().await;
    cluster.shutdown().await?;
    ensure!(moved > 0, "no shard has moved");
    let (pair, _) = pair_bytes(after.committee.config(), args.size)?;
    let report = MigrateReport {
        blob_bytes: args.size,
        blobs: args.blobs,
        nodes: args.nodes,
        n_shards: args.shards,
        moved_shards: moved,
        copied_pairs: fetched.moved_pairs - fetched_before.moved_pairs,
        recovered_pairs: fetched.recovered_pairs - fetched_before.recovered_pairs,
        minimum_bytes: u64::from(moved) * u64::from(args.blobs) * pair,
        fetched_bytes: fetched.fetched_bytes - fetched_before.fetched_bytes,
        took_ms: u64::try_from(took.as_millis())?,
    };
    if args.json {
        return report::json(&report);
    }
    report.print();
    Ok(())
}

/// What all nodes say of themselves, added up.
fn totals(cluster: &Cluster) -> RepairStatus {
    let nodes = (0..cluster.nodes()).filter_map(|node| cluster.node(node));
    nodes.fold(RepairStatus::default(), |mut sum, node| {
        let status = *node.repair().borrow();
        sum.moved_pairs += status.moved_pairs;
        sum.recovered_pairs += status.recovered_pairs;
        sum.fetched_bytes += status.fetched_bytes;
        sum
    })
}

/// Shards that have another holder.
fn moved_shards(before: &Committee, after: &Committee) -> u16 {
    let holder = |committee: &Committee, shard| committee.members()[committee.holder(shard)].node;
    let moved = |shard: &ShardIndex| holder(before, *shard) != holder(after, *shard);
    let shards = (0..after.n_shards()).map(ShardIndex::new);
    u16::try_from(shards.filter(moved).count()).unwrap_or(u16::MAX)
}

#[derive(Debug, Serialize)]
struct MigrateReport {
    blob_bytes: u64,
    blobs: u16,
    nodes: usize,
    n_shards: u16,
    moved_shards: u16,
    copied_pairs: u64,
    recovered_pairs: u64,
    minimum_bytes: u64,
    fetched_bytes: u64,
    took_ms: u64,
}

impl MigrateReport {
    fn print(&self) {
        let Self { blobs, nodes, n_shards, moved_shards, .. } = self;
        let size = mib(self.blob_bytes);
        report::line(&format!(
            "a node joins {nodes} others, {blobs} blobs of {size:.0} MiB, {n_shards} shards\n"
        ));
        let took = Duration::from_millis(self.took_ms);
        let mut table = Table::default();
        table.row(["shards moved", &moved_shards.to_string()]);
        table.row(["pairs copied", &self.copied_pairs.to_string()]);
        table.row(["pairs recovered", &self.recovered_pairs.to_string()]);
        table.row(["needed", &format!("{:.1} MiB", mib(self.minimum_bytes))]);
        table.row(["fetched", &format!("{:.1} MiB", mib(self.fetched_bytes))]);
        let ratio = mib(self.fetched_bytes) / mib(self.minimum_bytes);
        table.row(["fetched for each byte", &format!("{ratio:.3}")]);
        table.row(["time until all are ready", &seconds(took)]);
        table.row(["MiB/s", &rate(mib_per_second(self.fetched_bytes, took))]);
        report::line(&table.render());
    }
}
