//! `bench migrate`: what an epoch change moves, against what it has to.
//!
//! A node joins a swarm with blobs; in the epoch for which it is selected it takes shards over. The
//! two committees say which shards move; each of them has one pair of every blob. Figures: bytes
//! that all nodes fetch for each byte of these pairs, and the memory that this adds to the process
//! of the node that joined; both once more for another node, and four times as many blobs.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use floe_node::{Client, config::RepairLimits};
use floe_protocol::{
    committee::Committee, index::ShardIndex, ledger::Amount, message::RepairStatus,
};
use serde::Serialize;
use tokio::time::timeout;

use super::{
    process::peak_rss_bytes,
    repair::{CACHE_BYTES, MORE, pair_bytes, parse_size, repair_status, store},
};
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
    let builder = builder.processes(true).cache_bytes(CACHE_BYTES);
    let mut cluster = Box::pin(builder.ledger(with_epoch(args.epoch)).start()).await?;
    let client = cluster.client().await?;
    store(&client, &cluster, (args.blobs.into(), args.size)).await?;
    drop(spinner);
    let spinner = Spinner::new("waiting for the epoch in which a node takes shards over");
    let first = migrate(args, (&mut cluster, &client), args.blobs.into()).await?;
    drop(spinner);
    let _spinner = Spinner::new("the same with more blobs");
    store(&client, &cluster, ((MORE - 1) * usize::from(args.blobs), args.size)).await?;
    let more = migrate(args, (&mut cluster, &client), MORE * usize::from(args.blobs)).await?;
    client.shutdown().await;
    cluster.shutdown().await?;
    let report = MigrateReport {
        blob_bytes: args.size,
        nodes: args.nodes,
        n_shards: args.shards,
        migrations: vec![first, more],
        in_flight_bytes_max: RepairLimits::default().in_flight_bytes_max,
        cache_bytes: CACHE_BYTES,
    };
    if args.json {
        return report::json(&report);
    }
    report.print();
    Ok(())
}

/// Has a node join, and waits until all that it takes over is there.
async fn migrate(
    args: &MigrateArgs,
    (cluster, client): (&mut Cluster, &Client),
    blobs: usize,
) -> anyhow::Result<Migrated> {
    let joined = cluster.join(STAKE).await?;
    let node = cluster.node_id(joined);
    let selected = wait_for_epoch(client, |running| {
        running.next_shards_of(&node).is_some_and(|shards| shards > 0)
    });
    let before = timeout(DEADLINE, selected).await.context("the node is not selected")??;
    let next = before.summary.epoch.plus(1);
    let fetched_before = totals(cluster).await?;
    let peak_rss = |cluster: &Cluster| {
        peak_rss_bytes(cluster.process_id(joined).context("the node does not run")?)
    };
    let rss_before = peak_rss(cluster)?;
    let begun = wait_for_epoch(client, |running| running.summary.epoch >= next);
    let after = timeout(DEADLINE, begun).await.context("the next epoch does not begin")??;
    let started = Instant::now();
    let whole = wait_for_epoch(client, |running| running.ready() == args.shards);
    timeout(DEADLINE, whole).await.context("shards do not come to be ready")??;
    let took = started.elapsed();
    let fetched = totals(cluster).await?;
    let moved = moved_shards(&before.committee, &after.committee);
    ensure!(moved > 0, "no shard has moved");
    let (pair, _) = pair_bytes(after.committee.config(), args.size)?;
    Ok(Migrated {
        blobs,
        moved_shards: moved,
        copied_pairs: fetched.moved_pairs - fetched_before.moved_pairs,
        recovered_pairs: fetched.recovered_pairs - fetched_before.recovered_pairs,
        minimum_bytes: u64::from(moved) * u64::try_from(blobs)? * pair,
        fetched_bytes: fetched.fetched_bytes - fetched_before.fetched_bytes,
        took_ms: u64::try_from(took.as_millis())?,
        added_rss_bytes: peak_rss(cluster)?.saturating_sub(rss_before),
    })
}

/// What all nodes say of themselves, added up.
async fn totals(cluster: &Cluster) -> anyhow::Result<RepairStatus> {
    let mut sum = RepairStatus::default();
    for node in (0..cluster.nodes()).filter(|node| cluster.is_running(*node)) {
        let status = repair_status(&cluster.metrics(node).await?);
        sum.moved_pairs += status.moved_pairs;
        sum.recovered_pairs += status.recovered_pairs;
        sum.fetched_bytes += status.fetched_bytes;
    }
    Ok(sum)
}

/// Shards that have another holder.
fn moved_shards(before: &Committee, after: &Committee) -> u16 {
    let holder = |committee: &Committee, shard| committee.members()[committee.holder(shard)].node;
    let moved = |shard: &ShardIndex| holder(before, *shard) != holder(after, *shard);
    let shards = (0..after.n_shards()).map(ShardIndex::new);
    u16::try_from(shards.filter(moved).count()).unwrap_or(u16::MAX)
}

/// What one change of the committee has moved.
#[derive(Debug, Serialize)]
struct Migrated {
    blobs: usize,
    moved_shards: u16,
    copied_pairs: u64,
    recovered_pairs: u64,
    minimum_bytes: u64,
    fetched_bytes: u64,
    took_ms: u64,
    /// Memory of the node that has joined, at most, above what it had before the change.
    added_rss_bytes: u64,
}

#[derive(Debug, Serialize)]
struct MigrateReport {
    blob_bytes: u64,
    nodes: usize,
    n_shards: u16,
    migrations: Vec<Migrated>,
    in_flight_bytes_max: u64,
    cache_bytes: u64,
}

impl MigrateReport {
    fn print(&self) {
        let Self { nodes, n_shards, .. } = self;
        let size = mib(self.blob_bytes);
        report::line(&format!(
            "a node joins {nodes} others, then another; blobs of {size:.0} MiB, {n_shards} shards\n"
        ));
        let mut table = Table::default();
        let mut row = |name: &str, cell: &dyn Fn(&Migrated) -> String| {
            let cells: Vec<_> = self.migrations.iter().map(cell).collect();
            table.row([name, &cells.join("   ")]);
        };
        row("blobs", &|m| m.blobs.to_string());
        row("shards moved", &|m| m.moved_shards.to_string());
        row("pairs copied", &|m| m.copied_pairs.to_string());
        row("pairs recovered", &|m| m.recovered_pairs.to_string());
        row("needed", &|m| format!("{:.1} MiB", mib(m.minimum_bytes)));
        row("fetched", &|m| format!("{:.1} MiB", mib(m.fetched_bytes)));
        row("fetched for each byte", &|m| {
            format!("{:.3}", mib(m.fetched_bytes) / mib(m.minimum_bytes))
        });
        row("time until all are ready", &|m| seconds(Duration::from_millis(m.took_ms)));
        row("MiB/s", &|m| rate(mib_per_second(m.fetched_bytes, Duration::from_millis(m.took_ms))));
        row("memory added", &|m| format!("{:.0} MiB", mib(m.added_rss_bytes)));
        let (budget, cache) = (mib(self.in_flight_bytes_max), mib(self.cache_bytes));
        let bounds = format!("in flight {budget:.0} MiB, store cache {cache:.0} MiB");
        table.row(["its bounds", &bounds]);
        report::line(&table.render());
    }
}
