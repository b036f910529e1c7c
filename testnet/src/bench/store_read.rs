//! `bench store-read`: how fast blobs are stored and read, beside what bounds it.
//!
//! Every run stores a blob that no node has seen, since a store of a known one sends nothing, and
//! reads it back. The parts alone, in the same run: encoding; verifying; sending the encoded bytes
//! over loopback to peers that only answer; writing them durably. All figures are MiB of *blob* a
//! second, whatever the part moves, so that they compare. Client and nodes share the machine's
//! cores, so a store cannot reach the slowest of its parts: the sum of all of them is the other
//! yardstick.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use floe_node::{
    Client,
    cli::size::{human_bytes, parse_bytes},
    client::{Outcome as Stored, ReadOptions, StoreProgress},
};
use floe_protocol::{
    encoding::{EncodedBlob, EncodingConfig},
    transfer::Wanted,
};
use serde::Serialize;
use tempfile::TempDir;
use tokio::{sync::watch, task::spawn_blocking};

use super::{
    bounds::{self, Stores},
    loopback::Loopback,
    median,
};
use crate::{
    cluster::{Cluster, ClusterBuilder},
    report::{self, Spinner, Table},
    workload,
};

/// What is paid for.
const WANTED: Wanted = Wanted { epochs: 2, deletable: true };
/// What a storage node has by itself.
const NODE_CACHE_BYTES: u64 = 64 << 20;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StoreReadArgs {
    /// Size of each blob
    #[arg(long, default_value = "64MiB", value_name = "SIZE", value_parser = parse_size)]
    size: u64,
    /// Storage nodes
    #[arg(long, default_value_t = 7, value_name = "N")]
    nodes: usize,
    /// Shards of the network
    #[arg(long, default_value_t = 64, value_name = "N")]
    shards: u16,
    /// Runs, of which the median is shown
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// One process per node instead of all in this one; shows their memory too
    #[arg(long)]
    processes: bool,
    /// Where to write, on the disk to be measured: not a tmpfs [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn parse_size(text: &str) -> Result<u64, String> {
    parse_bytes(text).map_err(|error| error.to_string())
}

/// All that was measured.
#[derive(Debug, Serialize)]
struct StoreReadReport {
    blob_bytes: u64,
    encoded_bytes: u64,
    nodes: usize,
    shards: u16,
    runs: u16,
    processes: bool,
    store: Outcome,
    read: Outcome,
    /// Largest resident memory of each node process.
    node_peak_rss_bytes: Vec<u64>,
}

/// A whole operation and its parts.
#[derive(Debug, Serialize)]
struct Outcome {
    whole: Figure,
    parts: Vec<Figure>,
    /// For comparison only: no part of the operation.
    reference: Vec<Figure>,
    /// Speed as a share of the slowest part alone.
    of_slowest_part: f64,
    /// Speed as a share of all parts one after the other.
    of_parts_in_turn: f64,
}

/// One thing measured.
#[derive(Clone, Debug, Serialize)]
struct Figure {
    name: &'static str,
    seconds: f64,
    mib_per_second: f64,
}

/// The times of all runs of each thing.
#[derive(Debug, Default)]
struct Times {
    encode: Vec<Duration>,
    verify_pairs: Vec<Duration>,
    verify_rows: Vec<Duration>,
    write_stores: Vec<Duration>,
    write_files: Vec<Duration>,
    upload: Vec<Duration>,
    download: Vec<Duration>,
    store: Vec<Duration>,
    certified: Vec<Duration>,
    read: Vec<Duration>,
}

/// Measures and prints.
pub(crate) async fn run(args: &StoreReadArgs) -> anyhow::Result<()> {
    let config = EncodingConfig::new(args.shards)?;
    ensure!(
        (1..=config.default_max_blob_bytes()).contains(&args.size),
        "a blob of a network with {} shards has at most {}",
        args.shards,
        human_bytes(config.default_max_blob_bytes())
    );
    let work = match &args.dir {
        Some(dir) => TempDir::new_in(dir).with_context(|| format!("cannot use {}", dir.display())),
        None => TempDir::new().context("cannot use the temporary directory"),
    }?;
    let mut times = Times::default();
    let encoded = measure_parts(args, config, work.path(), &mut times).await?;
    let node_peak_rss_bytes = measure_whole(args, work.path(), &mut times).await?;
    let report = StoreReadReport::new(args, &encoded, &times, node_peak_rss_bytes)?;
    if args.json {
        return report::json(&report);
    }
    report.print();
    Ok(())
}

/// The parts alone. Returns the last blob, encoded.
async fn measure_parts(
    args: &StoreReadArgs,
    config: EncodingConfig,
    work: &Path,
    times: &mut Times,
) -> anyhow::Result<EncodedBlob> {
    let spinner = Spinner::new("starting peers that only answer");
    let builder = builder(args).sinks().dir(work.join("sinks"));
    let cluster = start(builder).await?;
    let loopback = Loopback::connect(&cluster).await?;
    let stores = Stores::create(&work.join("alone"), cluster.committee().clone())?;
    drop(spinner);
    let mut last = None;
    for _ in 0..args.runs {
        let _spinner = Spinner::new("measuring the parts alone");
        let blob = fresh_blob(args)?;
        let (dir, stores) = (work.join("files"), stores.clone());
        let alone = spawn_blocking(move || {
            let (encoded, encode) = bounds::encode(config, blob)?;
            let verify_pairs = bounds::verify_pairs(&encoded)?;
            let verify_rows = bounds::verify_rows(&encoded)?;
            let write_stores = stores.write(&encoded)?;
            let write_files = stores.write_files(&dir, &encoded)?;
            anyhow::Ok((encoded, [encode, verify_pairs, verify_rows, write_stores, write_files]))
        });
        let (encoded, [encode, verify_pairs, verify_rows, write_stores, write_files]) =
            alone.await??;
        times.encode.push(encode);
        times.verify_pairs.push(verify_pairs);
        times.verify_rows.push(verify_rows);
        times.write_stores.push(write_stores);
        times.write_files.push(write_files);
        times.upload.push(loopback.upload(&encoded).await?);
        times.download.push(loopback.download(&encoded).await?);
        last = Some(encoded);
    }
    loopback.shutdown().await;
    cluster.shutdown().await?;
    last.context("no run")
}

/// Storing and reading. Returns the largest memory of each node process.
async fn measure_whole(
    args: &StoreReadArgs,
    work: &Path,
    times: &mut Times,
) -> anyhow::Result<Vec<u64>> {
    let spinner = Spinner::new("starting storage nodes");
    let cluster = start(builder(args).dir(work.join("swarm"))).await?;
    let client = cluster.client().await?;
    drop(spinner);
    for _ in 0..args.runs {
        let _spinner = Spinner::new("storing and reading");
        let blob = fresh_blob(args)?;
        store_and_read(&cluster, &client, &blob, times).await?;
    }
    client.shutdown().await;
    let nodes = (0..cluster.nodes()).filter_map(|node| cluster.process_id(node));
    let peaks = nodes.map(peak_rss_bytes).collect::<anyhow::Result<_>>()?;
    cluster.shutdown().await?;
    Ok(peaks)
}

async fn store_and_read(
    cluster: &Cluster,
    client: &Client,
    blob: &Bytes,
    times: &mut Times,
) -> anyhow::Result<()> {
    let progress = watch::Sender::new(StoreProgress::default());
    let started = Instant::now();
    let stored = client.store(blob.clone(), WANTED, cluster.wallet(), &progress).await?;
    times.store.push(started.elapsed());
    times.certified.push(Duration::from_millis(stored.encode_ms + stored.certify_ms));
    ensure!(stored.outcome == Stored::Stored, "the blob was stored before");
    let started = Instant::now();
    let read = client.read(stored.blob, ReadOptions::default()).await?.read_to_end().await?;
    times.read.push(started.elapsed());
    ensure!(read == blob[..], "the blob came back changed");
    Ok(())
}

fn builder(args: &StoreReadArgs) -> ClusterBuilder {
    let builder = Cluster::builder().nodes(args.nodes).shards(args.shards);
    builder.processes(args.processes).cache_bytes(NODE_CACHE_BYTES)
}

async fn start(builder: ClusterBuilder) -> anyhow::Result<Cluster> {
    Box::pin(builder.start()).await
}

fn fresh_blob(args: &StoreReadArgs) -> anyhow::Result<Bytes> {
    Ok(workload::content(workload::fresh_seed(), usize::try_from(args.size)?))
}

/// The largest resident memory that a process has had.
fn peak_rss_bytes(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kib.with_context(|| format!("{path} has no VmHWM"))? << 10)
}

impl StoreReadReport {
    fn new(
        args: &StoreReadArgs,
        encoded: &EncodedBlob,
        times: &Times,
        node_peak_rss_bytes: Vec<u64>,
    ) -> anyhow::Result<Self> {
        let figure = |name, times: &Vec<Duration>| {
            let time = median(times.clone()).context("nothing was measured")?;
            let mib_per_second = report::mib_per_second(args.size, time);
            anyhow::Ok(Figure { name, seconds: time.as_secs_f64(), mib_per_second })
        };
        let layout = encoded.layout();
        let pair_bytes = layout.primary_bytes() + layout.secondary_bytes();
        let store = Outcome::new(
            figure("store", &times.store)?,
            vec![
                figure("encode", &times.encode)?,
                figure("send over loopback", &times.upload)?,
                figure("verify on nodes", &times.verify_pairs)?,
                figure("write durably", &times.write_stores)?,
            ],
            vec![
                figure("until certified", &times.certified)?,
                figure("plain files, synced", &times.write_files)?,
            ],
        );
        let read = Outcome::new(
            figure("read", &times.read)?,
            vec![
                figure("fetch over loopback", &times.download)?,
                figure("verify on the client", &times.verify_rows)?,
            ],
            Vec::new(),
        );
        Ok(Self {
            blob_bytes: args.size,
            encoded_bytes: pair_bytes as u64 * u64::from(args.shards),
            nodes: args.nodes,
            shards: args.shards,
            runs: args.runs,
            processes: args.processes,
            store,
            read,
            node_peak_rss_bytes,
        })
    }

    fn print(&self) {
        let place = if self.processes { "one process each" } else { "all in one process" };
        report::line(&format!(
            "{} blobs ({} encoded), {} nodes, {place}, {} shards, median of {}\n",
            human_bytes(self.blob_bytes),
            human_bytes(self.encoded_bytes),
            self.nodes,
            self.shards,
            self.runs
        ));
        let mut table = Table::default();
        table.row(["", "time", "MiB of blob/s"]);
        for outcome in [&self.store, &self.read] {
            outcome.add_to(&mut table);
        }
        report::line(table.render().trim_end());
        report::line("");
        for outcome in [&self.store, &self.read] {
            report::line(&outcome.sentence());
        }
        if let Some(peak) = self.node_peak_rss_bytes.iter().max() {
            report::line(&format!("largest memory of a node process: {}", human_bytes(*peak)));
        }
    }
}

impl Outcome {
    fn new(whole: Figure, parts: Vec<Figure>, reference: Vec<Figure>) -> Self {
        let slowest = parts.iter().map(|part| part.seconds).fold(0.0, f64::max);
        let sum: f64 = parts.iter().map(|part| part.seconds).sum();
        Self {
            of_slowest_part: slowest / whole.seconds,
            of_parts_in_turn: sum / whole.seconds,
            whole,
            parts,
            reference,
        }
    }

    fn sentence(&self) -> String {
        let slowest = self.parts.iter().max_by(|a, b| a.seconds.total_cmp(&b.seconds));
        format!(
            "{}: {:.0} % of the speed of its slowest part alone ({}), {:.0} % of that of all its \
             parts one after the other",
            self.whole.name,
            100.0 * self.of_slowest_part,
            slowest.map_or("none", |part| part.name),
            100.0 * self.of_parts_in_turn
        )
    }

    fn add_to(&self, table: &mut Table) {
        let mut add = |indent, figure: &Figure, suffix| {
            let name = format!("{indent}{}{suffix}", figure.name);
            let time = report::seconds(Duration::from_secs_f64(figure.seconds));
            table.row([&name, &time, &report::rate(figure.mib_per_second)]);
        };
        add("", &self.whole, "");
        for part in &self.parts {
            add("  ", part, ", alone");
        }
        for reference in &self.reference {
            add("  (", reference, ")");
        }
    }
}
