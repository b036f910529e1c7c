//! `bench repair`: what it costs a node to get back what its disk held, and what readers notice.
//!
//! A node is stopped, its disk is emptied, and it starts with `--repair`. Figures: bytes that it
//! fetches for each byte that it gets back, against what reading whole blobs would cost; MiB got
//! back a second; and the middle time of reads meanwhile, against that of the same reads before.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use floe_node::{
    Client,
    cli::size::parse_bytes,
    client::{ReadOptions, StoreProgress},
};
use floe_protocol::{
    blob::{BlobId, PairProof},
    encoding::EncodingConfig,
    message::RepairStatus,
    transfer::Wanted,
};
use serde::Serialize;
use tokio::{sync::watch, time::timeout};

use super::median;
use crate::{
    cluster::Cluster,
    report::{self, Spinner, Table, mib, mib_per_second, rate, seconds},
    workload::{content, fresh_seed},
};

/// What is paid for: longer than any bench takes.
const WANTED: Wanted = Wanted { epochs: 100, deletable: true };
/// How long repair may take.
const DEADLINE: Duration = Duration::from_secs(1_200);
/// Which node loses its disk.
const LOSER: usize = 1;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RepairArgs {
    /// Size of each blob
    #[arg(long, default_value = "16MiB", value_name = "SIZE", value_parser = parse_size)]
    size: u64,
    /// Blobs
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    blobs: u16,
    /// Storage nodes
    #[arg(long, default_value_t = 7, value_name = "N")]
    nodes: usize,
    /// Shards of the network
    #[arg(long, default_value_t = 64, value_name = "N")]
    shards: u16,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    parse_bytes(text).map_err(|error| error.to_string())
}

/// Measures and prints.
pub(crate) async fn run(args: &RepairArgs) -> anyhow::Result<()> {
    let spinner = Spinner::new("starting storage nodes and storing");
    let builder = Cluster::builder().nodes(args.nodes).shards(args.shards);
    let mut cluster = Box::pin(builder.start()).await?;
    let client = cluster.client().await?;
    let blobs = store(&client, &cluster, (args.blobs, args.size)).await?;
    drop(spinner);
    let spinner = Spinner::new("reading while nothing else happens");
    let idle = read_for(&client, &blobs, std::future::ready(()), 3 * blobs.len()).await?;
    drop(spinner);
    let _spinner = Spinner::new("repairing a node with an empty disk");
    cluster.stop(LOSER).await?;
    cluster.wipe(LOSER)?;
    let own = u64::from(cluster.weight(LOSER)) * u64::from(args.blobs);
    cluster.start(LOSER).await?;
    let begun = Instant::now();
    let mut status = cluster.node(LOSER).context("the node runs in this process")?.repair();
    let whole = |status: &RepairStatus| status.moved_pairs + status.recovered_pairs >= own;
    let repaired = async {
        let ended = timeout(DEADLINE, status.wait_for(whole)).await;
        ended.map(|status| (status.map(|status| *status), begun.elapsed()))
    };
    let (repairing, during) = watch::channel(true);
    let reading = read_for(&client, &blobs, ended(during), 1);
    let repaired = async {
        let repaired = repaired.await;
        drop(repairing);
        repaired
    };
    let (repaired, busy) = tokio::join!(repaired, reading);
    let (status, took) = repaired.context("repair does not come to its end")?;
    let report = RepairReport::new(args, &status?, took, (idle, busy?))?;
    client.shutdown().await;
    cluster.shutdown().await?;
    if args.json {
        return report::json(&report);
    }
    report.print();
    Ok(())
}

/// Stores fresh blobs.
pub(super) async fn store(
    client: &Client,
    cluster: &Cluster,
    (blobs, bytes): (u16, u64),
) -> anyhow::Result<Vec<BlobId>> {
    let progress = watch::Sender::new(StoreProgress::default());
    let mut stored = Vec::new();
    for _ in 0..blobs {
        let blob = content(fresh_seed(), usize::try_from(bytes)?);
        stored.push(client.store(blob, WANTED, cluster.wallet(), &progress).await?.blob);
    }
    Ok(stored)
}

async fn ended(mut running: watch::Receiver<bool>) {
    while running.changed().await.is_ok() {}
}

/// Reads one blob after the other until `end`, but so many at least; the time of each.
async fn read_for(
    client: &Client,
    blobs: &[BlobId],
    end: impl Future<Output = ()>,
    at_least: usize,
) -> anyhow::Result<Vec<Duration>> {
    let mut end = std::pin::pin!(end);
    let mut over = false;
    let mut times = Vec::new();
    while !over || times.len() < at_least {
        let begun = Instant::now();
        let blob = blobs[times.len() % blobs.len()];
        let read = async { client.read(blob, ReadOptions::default()).await?.read_to_end().await };
        let mut read = std::pin::pin!(read);
        loop {
            tokio::select! {
                done = &mut read => {
                    done?;
                    break;
                }
                () = &mut end, if !over => over = true,
            }
        }
        times.push(begun.elapsed());
    }
    Ok(times)
}

/// Bytes of a pair of such a blob, and what it takes to read the blob, proofs included in both.
pub(super) fn pair_bytes(config: EncodingConfig, blob_bytes: u64) -> anyhow::Result<(u64, u64)> {
    let layout = config.layout(blob_bytes)?;
    let symbol = layout.symbol_bytes();
    let (pair, row) = ((config.k1() + config.k2()) * symbol, config.k2() * symbol);
    let proof = PairProof::layout_bytes(config);
    Ok((u64::try_from(pair)?, u64::try_from(config.k1() * (row + proof))?))
}

#[derive(Debug, Serialize)]
struct RepairReport {
    blob_bytes: u64,
    blobs: u16,
    nodes: usize,
    n_shards: u16,
    gained_bytes: u64,
    fetched_bytes: u64,
    fetched_per_gained: f64,
    whole_blobs_per_gained: f64,
    took_ms: u64,
    mib_per_second: f64,
    read_idle_p50_ms: f64,
    read_busy_p50_ms: f64,
    read_ratio: f64,
    reads_busy: usize,
}

impl RepairReport {
    fn new(
        args: &RepairArgs,
        status: &RepairStatus,
        took: Duration,
        (idle, busy): (Vec<Duration>, Vec<Duration>),
    ) -> anyhow::Result<Self> {
        ensure!(status.gained_bytes > 0, "the node says that it got nothing back");
        let (_, whole) = pair_bytes(EncodingConfig::new(args.shards)?, args.size)?;
        let (gained, whole) = (status.gained_bytes, whole * u64::from(args.blobs));
        let reads_busy = busy.len();
        let ms = |times| median(times).unwrap_or_default().as_secs_f64() * 1e3;
        let (idle, busy) = (ms(idle), ms(busy));
        Ok(Self {
            blob_bytes: args.size,
            blobs: args.blobs,
            nodes: args.nodes,
            n_shards: args.shards,
            gained_bytes: gained,
            fetched_bytes: status.fetched_bytes,
            fetched_per_gained: mib(status.fetched_bytes) / mib(gained),
            whole_blobs_per_gained: mib(whole) / mib(gained),
            took_ms: u64::try_from(took.as_millis())?,
            mib_per_second: mib_per_second(gained, took),
            read_idle_p50_ms: idle,
            read_busy_p50_ms: busy,
            read_ratio: busy / idle.max(1e-9),
            reads_busy,
        })
    }

    fn print(&self) {
        let Self { blobs, nodes, n_shards, .. } = self;
        let size = mib(self.blob_bytes);
        report::line(&format!(
            "repair of one of {nodes} nodes, {blobs} blobs of {size:.0} MiB, {n_shards} shards\n"
        ));
        let mut table = Table::default();
        let cell = |value: f64| format!("{value:.2}");
        table.row(["got back", &format!("{:.1} MiB", mib(self.gained_bytes))]);
        table.row(["fetched", &format!("{:.1} MiB", mib(self.fetched_bytes))]);
        table.row(["fetched for each byte", &cell(self.fetched_per_gained)]);
        table.row(["the same by whole blobs", &cell(self.whole_blobs_per_gained)]);
        table.row(["time", &seconds(Duration::from_millis(self.took_ms))]);
        table.row(["MiB/s", &rate(self.mib_per_second)]);
        table.row(["read p50, idle", &format!("{:.0} ms", self.read_idle_p50_ms)]);
        let busy = format!("{:.0} ms ({} reads)", self.read_busy_p50_ms, self.reads_busy);
        table.row(["read p50, meanwhile", &busy]);
        table.row(["ratio", &cell(self.read_ratio)]);
        report::line(&table.render());
    }
}
