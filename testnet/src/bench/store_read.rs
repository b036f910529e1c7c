//! `bench store-read`: how fast blobs are stored and read, beside what bounds it.
//!
//! Every run stores a blob that no node has seen, since a store of a known one sends nothing, and
//! reads it back. The parts alone, in the same run: encoding; verifying; sending the encoded bytes
//! over loopback to peers that only answer; writing them durably. All figures are MiB of *blob* a
//! second, whatever the part moves, so that they compare. Client and nodes share the machine's
//! cores, so a store cannot reach the slowest of its parts: the sum of all of them is the other
//! yardstick.
//!
//! A store also waits for the ledger: it asks for the plan, registers, and certifies. That takes as
//! long for a byte as for the largest blob, so it is shown apart, and the parts are compared with
//! the rest, the transfer.

mod figures;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use floe_node::{
    Client,
    cli::size::{human_bytes, parse_bytes},
    client::{Outcome as Stored, ReadOptions, StorePhase, StoreProgress},
};
use floe_protocol::{
    encoding::{EncodedBlob, EncodingConfig},
    ledger::AccountId,
    transfer::Wanted,
};
use tempfile::TempDir;
use tokio::{sync::watch, task::spawn_blocking};

use self::figures::{StoreReadReport, Times};
use super::{
    bounds::{self, Stores},
    loopback::Loopback,
    process::peak_rss_bytes,
};
use crate::{
    cluster::{Cluster, ClusterBuilder},
    report::{self, Spinner},
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
    let (progress, watched) = watch::channel(StoreProgress::default());
    let wallet = cluster.wallet();
    let phases = tokio::spawn(phases(watched));
    let started = Instant::now();
    let prepared = client.prepare_store(blob.clone(), WANTED, AccountId::new(wallet.public()));
    let prepared = prepared.await?;
    let planned = Instant::now();
    let stored = client.store_prepared(vec![prepared], wallet, &progress).await.pop();
    let ended = Instant::now();
    let stored = stored.context("one result for each blob")??;
    ensure!(stored.outcome == Stored::Stored, "the blob was stored before");
    drop(progress);
    let phases = phases.await?;
    let begin = |phase| {
        let begun = phases.iter().find(|(begun, _)| *begun == phase);
        begun.map(|(_, at)| *at).with_context(|| format!("no phase {phase:?} was seen"))
    };
    let plan = (planned - started).saturating_sub(Duration::from_millis(stored.encode_ms));
    let register = begin(StorePhase::Uploading)? - planned;
    let certify = begin(StorePhase::Tail)? - begin(StorePhase::Certifying)?;
    times.store.push(ended - started);
    times.transfer.push((ended - started).saturating_sub(plan + register + certify));
    times.plan.push(plan);
    times.register.push(register);
    times.certify.push(certify);
    times.certified.push(Duration::from_millis(stored.encode_ms + stored.certify_ms));
    let started = Instant::now();
    let read = client.read(stored.blob, ReadOptions::default()).await?.read_to_end().await?;
    times.read.push(started.elapsed());
    ensure!(read == blob[..], "the blob came back changed");
    Ok(())
}

/// When each phase of a store began, once it has ended.
async fn phases(mut watched: watch::Receiver<StoreProgress>) -> Vec<(StorePhase, Instant)> {
    let mut begun: Vec<(StorePhase, Instant)> = Vec::new();
    loop {
        let phase = watched.borrow_and_update().phase;
        if begun.last().is_none_or(|(last, _)| *last != phase) {
            begun.push((phase, Instant::now()));
        }
        if watched.changed().await.is_err() {
            return begun;
        }
    }
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
