//! `bench repair`: what it costs a node to get back what its disk held, and what readers notice.
//!
//! A node is stopped, its disk is emptied, and it starts with `--repair`. Figures: bytes that it
//! fetches for each byte that it gets back, against what reading whole blobs would cost; MiB got
//! back a second; the middle time of reads meanwhile, against that of the same reads before; and
//! the memory that repair adds to the node's process, for some blobs and for four times as many.
//!
//! With `--strangers` the same is measured again while strangers flood all nodes with requests for
//! symbols. Strangers, nodes and reader share the machine's processors; how much of them each had
//! is shown beside the times.

mod figures;
mod strangers;

use std::time::{Duration, Instant};

use anyhow::Context;
use floe_node::{
    Client,
    cli::size::parse_bytes,
    client::{ReadOptions, StoreProgress},
    config::RepairLimits,
};
use floe_protocol::{
    blob::{BlobId, PairProof},
    encoding::EncodingConfig,
    message::RepairStatus,
    transfer::Wanted,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

pub(crate) use self::strangers::{StrangersArgs, run as run_strangers};
use self::{
    figures::{Cores, Flooded, Reads, RepairReport, Repaired},
    strangers::Flood,
};
use super::process::{cpu, peak_rss_bytes};
use crate::{
    cluster::Cluster,
    report::{self, Spinner},
    workload::{content, fresh_seed},
};

/// What is paid for: longer than any bench takes.
const WANTED: Wanted = Wanted { epochs: 100, deletable: true };
/// How long repair may take.
const DEADLINE: Duration = Duration::from_secs(1_200);
/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(50);
/// Which node loses its disk.
const LOSER: usize = 1;
/// A node that keeps its disk and has what writers brought: what a node takes for the same without
/// repair.
const WRITTEN: usize = 2;
/// How many times as many blobs the last repair has.
pub(super) const MORE: usize = 4;
/// Reads of each blob while nothing else, or nothing but the flood, happens.
const READS_OF_EACH: usize = 3;
/// So many at least, or the middle one says little.
const READS_MIN: usize = 60;
/// How long a flood is let to come up.
const FLOOD_RISE: Duration = Duration::from_secs(2);
/// Memory of each node's store cache: it fills with whatever a node stores.
pub(super) const CACHE_BYTES: u64 = 16 << 20;

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
    /// Strangers that flood all nodes with requests for symbols, for the same figures once more
    #[arg(long, default_value_t = 0, value_name = "N")]
    strangers: usize,
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
    let builder = builder.processes(true).cache_bytes(CACHE_BYTES);
    let cluster = Box::pin(builder.start()).await?;
    let client = cluster.client().await?;
    let mut bench = Bench { cluster, client, blobs: Vec::new(), flood: None };
    bench.store(args.blobs.into(), args.size).await?;
    drop(spinner);
    let spinner = Spinner::new("reading while nothing else happens");
    let idle = bench.read_all().await?;
    let baseline_rss_bytes = bench.baseline().await?;
    drop(spinner);
    let spinner = Spinner::new("repairing a node with an empty disk");
    let repair = bench.repair().await?;
    drop(spinner);
    let flooded = match args.strangers {
        0 => None,
        strangers => Some(bench.flooded(strangers).await?),
    };
    let spinner = Spinner::new("repairing more");
    bench.store((MORE - 1) * usize::from(args.blobs), args.size).await?;
    let more = bench.repair().await?;
    let written_rss_bytes = bench.peak_rss_bytes(WRITTEN)?;
    drop(spinner);
    let report = RepairReport {
        blob_bytes: args.size,
        nodes: args.nodes,
        n_shards: args.shards,
        whole_blobs_per_gained: RepairReport::whole_blobs(args, &repair)?,
        idle,
        repair,
        flooded,
        more,
        baseline_rss_bytes,
        written_rss_bytes,
        in_flight_bytes_max: RepairLimits::default().in_flight_bytes_max,
        cache_bytes: CACHE_BYTES,
    };
    bench.client.shutdown().await;
    bench.cluster.shutdown().await?;
    if args.json {
        return report::json(&report);
    }
    report.print();
    Ok(())
}

struct Bench {
    cluster: Cluster,
    client: Client,
    blobs: Vec<BlobId>,
    flood: Option<Flood>,
}

/// Processor time until now: of all nodes, of this process, of the strangers.
struct Spent {
    at: Instant,
    nodes: Duration,
    reader: Duration,
    strangers: Duration,
}

impl Bench {
    /// Stores fresh blobs.
    async fn store(&mut self, blobs: usize, bytes: u64) -> anyhow::Result<()> {
        let stored = store(&self.client, &self.cluster, (blobs, bytes)).await?;
        self.blobs.extend(stored);
        Ok(())
    }

    fn spent(&self) -> anyhow::Result<Spent> {
        let nodes = (0..self.cluster.nodes()).filter_map(|node| self.cluster.process_id(node));
        let nodes: Duration = nodes.map(cpu).sum::<anyhow::Result<_>>()?;
        let strangers = self.flood.as_ref().map(Flood::process_id).transpose()?;
        Ok(Spent {
            at: Instant::now(),
            nodes,
            reader: cpu(std::process::id())?,
            strangers: strangers.map(cpu).transpose()?.unwrap_or_default(),
        })
    }

    fn cores_since(&self, before: &Spent) -> anyhow::Result<Cores> {
        let now = self.spent()?;
        let time = now.at.duration_since(before.at).as_secs_f64().max(1e-9);
        let cores = |now: Duration, before| now.saturating_sub(before).as_secs_f64() / time;
        Ok(Cores {
            nodes: cores(now.nodes, before.nodes),
            reader: cores(now.reader, before.reader),
            strangers: cores(now.strangers, before.strangers),
        })
    }

    /// Reads one blob after the other.
    async fn read_all(&self) -> anyhow::Result<Reads> {
        let before = self.spent()?;
        let reads = (READS_OF_EACH * self.blobs.len()).max(READS_MIN);
        let times = read_for(&self.client, &self.blobs, std::future::ready(()), reads).await?;
        Ok(Reads::new(times, self.cores_since(&before)?))
    }

    /// The largest memory that the node has when it starts with all that it is to hold.
    async fn baseline(&mut self) -> anyhow::Result<u64> {
        self.cluster.stop(LOSER).await?;
        self.cluster.start(LOSER).await?;
        let weight = self.cluster.weight(LOSER);
        let whole = |status: &RepairStatus| status.complete_shards >= weight;
        self.wait_for(whole).await?;
        self.peak_rss_bytes(LOSER)
    }

    fn peak_rss_bytes(&self, node: usize) -> anyhow::Result<u64> {
        peak_rss_bytes(self.cluster.process_id(node).context("the node does not run")?)
    }

    /// Empties the node's disk and waits until it has everything again; reads meanwhile.
    async fn repair(&mut self) -> anyhow::Result<Repaired> {
        self.cluster.stop(LOSER).await?;
        self.cluster.wipe(LOSER)?;
        let own = u64::from(self.cluster.weight(LOSER)) * u64::try_from(self.blobs.len())?;
        self.cluster.start(LOSER).await?;
        let begun = Instant::now();
        let before = self.spent()?;
        let whole = |status: &RepairStatus| status.moved_pairs + status.recovered_pairs >= own;
        let (repairing, during) = watch::channel(true);
        let repaired = async {
            let repaired = self.wait_for(whole).await;
            drop(repairing);
            repaired.map(|status| (status, begun.elapsed()))
        };
        let reading = read_for(&self.client, &self.blobs, ended(during), 1);
        let (repaired, times) = tokio::join!(repaired, reading);
        let (status, took) = repaired?;
        let reads = Reads::new(times?, self.cores_since(&before)?);
        Repaired::new(self.blobs.len(), (&status, took), self.peak_rss_bytes(LOSER)?, reads)
    }

    /// The same while strangers flood all nodes.
    async fn flooded(&mut self, strangers: usize) -> anyhow::Result<Flooded> {
        let _spinner = Spinner::new("reading and repairing while strangers flood all nodes");
        self.flood = Some(Flood::start(&self.cluster, &self.blobs, strangers)?);
        sleep(FLOOD_RISE).await;
        let reads = self.read_all().await?;
        let repair = self.repair().await?;
        let flood = self.flood.take().context("the flood was started")?;
        Ok(Flooded { strangers, reads, repair, given: flood.stop().await? })
    }

    /// Waits until the node's own counts are so.
    async fn wait_for(
        &self,
        reached: impl Fn(&RepairStatus) -> bool,
    ) -> anyhow::Result<RepairStatus> {
        let looks = async {
            loop {
                let status = repair_status(&self.cluster.metrics(LOSER).await?);
                if reached(&status) {
                    return anyhow::Ok(status);
                }
                sleep(LOOK).await;
            }
        };
        timeout(DEADLINE, looks).await.context("repair does not come to its end")?
    }
}

/// What a node's metrics say of repair.
pub(super) fn repair_status(metrics: &str) -> RepairStatus {
    let value = |name: &str| {
        let mut lines = metrics.lines().filter_map(|line| line.strip_prefix("floe_repair_"));
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse::<u64>().ok()).unwrap_or(0)
    };
    RepairStatus {
        complete_shards: u16::try_from(value("complete_shards")).unwrap_or(u16::MAX),
        missing_pairs: value("missing_pairs"),
        moved_pairs: value("moved_pairs_total"),
        recovered_pairs: value("recovered_pairs_total"),
        gained_bytes: value("gained_bytes_total"),
        fetched_bytes: value("fetched_bytes_total"),
        scrubbed_pairs: 0,
    }
}

/// Stores fresh blobs.
pub(super) async fn store(
    client: &Client,
    cluster: &Cluster,
    (blobs, bytes): (usize, u64),
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
