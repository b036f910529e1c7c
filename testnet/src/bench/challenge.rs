//! `bench challenge`: what storage challenges cost a node, and what readers notice of them.
//!
//! Swarms of processes, each size twice: with rounds, by default as often as the rules let them be,
//! and without any. What nodes use with rounds beyond what they use without, divided by the rounds,
//! is what a round costs; the reads of both are compared. With more blobs the same is measured
//! again: the cost must follow their number by its logarithm at most. What a step takes of bytes and
//! time is measured alone, for a large blob.

mod figures;
mod steps;

use std::{
    fs,
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use floe_node::{
    Client,
    client::{ReadOptions, STORE_BATCH_MAX, StoreProgress},
};
use floe_protocol::{
    blob::BlobId,
    challenge::ChallengeParameters,
    index::Height,
    ledger::{AccountId, LedgerParameters, SystemOperation},
    transfer::Wanted,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{sleep, timeout},
};

use self::{
    figures::{ChallengeReport, Period, Swarm},
    steps::Steps,
};
use super::{
    ledger::usage::{Gossip, Usage},
    repair::parse_size,
};
use crate::{
    cluster::Cluster,
    report::{self, Spinner, millis},
    workload::{Dice, content, fresh_seed},
};

/// What is paid for: longer than any bench takes.
const WANTED: Wanted = Wanted { epochs: 100, deletable: true };
/// Batches of blobs that are stored at a time: while one waits for blocks, others are brought.
const BATCHES: usize = 4;
/// A network that opens no rounds: none in the first epoch.
const NEVER_MS: u64 = 24 * 3_600_000 - 1;
/// Blobs that are read, of those that are stored.
const READ_MAX: usize = 64;
/// How long the first round may take once it is due.
const FIRST_ROUND: Duration = Duration::from_secs(60);
/// What storing left to be done, in stores and in the ledger, is done after this long: it would be
/// taken for the cost of an idle swarm.
const SETTLED: Duration = Duration::from_secs(30);
/// Between two looks at the ledger.
const LOOK: Duration = Duration::from_millis(500);

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ChallengeArgs {
    /// Sizes of swarms
    #[arg(long, value_delimiter = ',', default_value = "4,7,16", value_name = "N,...")]
    nodes: Vec<usize>,
    /// Shards of the network
    #[arg(long, default_value_t = 64, value_name = "N")]
    shards: u16,
    /// Numbers of blobs; all but the first with the middle size of swarm alone
    #[arg(long, value_delimiter = ',', default_value = "10,1000,10000", value_name = "N,...")]
    blobs: Vec<usize>,
    /// Size of each blob
    #[arg(long, default_value = "64KiB", value_name = "SIZE", value_parser = parse_size)]
    size: u64,
    /// Time that nodes have to answer a round
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = humantime::parse_duration)]
    window: Duration,
    /// Time from round to round [default: ten windows, as often as the rules let them be]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    interval: Option<Duration>,
    /// Duration of each measurement
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = humantime::parse_duration)]
    time: Duration,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl ChallengeArgs {
    fn rules(&self, rounds: bool) -> LedgerParameters {
        let (window_ms, interval_ms) = (millis(self.window), millis(self.interval()));
        let default = ChallengeParameters::default();
        let challenges = ChallengeParameters {
            window_ms,
            interval_ms: if rounds { interval_ms } else { NEVER_MS },
            grace_ms: 0,
            certificate_window_ms: interval_ms.min(default.certificate_window_ms),
            ..default
        };
        LedgerParameters { challenges, ..LedgerParameters::default() }
    }

    fn interval(&self) -> Duration {
        self.interval.unwrap_or_else(|| self.window.saturating_mul(10))
    }
}

/// Measures and prints.
pub(crate) async fn run(args: &ChallengeArgs) -> anyhow::Result<()> {
    let few = *args.blobs.first().context("how many blobs?")?;
    let middle = *args.nodes.get(args.nodes.len() / 2).context("how many nodes?")?;
    let steps = measure_steps(args, middle).await?;
    let mut swarms = Vec::new();
    let sizes = args.nodes.iter().map(|nodes| (*nodes, few));
    let more = args.blobs.iter().skip(1).map(|blobs| (middle, *blobs));
    for (nodes, blobs) in sizes.chain(more) {
        let without = measure(args, (nodes, blobs), false).await?;
        let with = measure(args, (nodes, blobs), true).await?;
        swarms.push(Swarm { nodes, blobs, without, with });
    }
    let report = ChallengeReport {
        n_shards: args.shards,
        blob_bytes: args.size,
        window_ms: millis(args.window),
        interval_ms: millis(args.interval()),
        steps,
        swarms,
    };
    if args.json {
        return report::json(&report);
    }
    report.print();
    Ok(())
}

/// What a step takes alone, for a member of a swarm of so many nodes.
async fn measure_steps(args: &ChallengeArgs, nodes: usize) -> anyhow::Result<Steps> {
    let _spinner = Spinner::new("measuring steps alone");
    let cluster = Cluster::builder().nodes(nodes).shards(args.shards).start().await?;
    let (chain, committee) = (cluster.network().genesis.chain_id(), cluster.committee().clone());
    cluster.shutdown().await?;
    spawn_blocking(move || steps::measure(chain, committee)).await?
}

/// What one swarm uses in a while, and how long reads take in it.
async fn measure(
    args: &ChallengeArgs,
    (nodes, blobs): (usize, usize),
    is_challenged: bool,
) -> anyhow::Result<Period> {
    let spinner = Spinner::new(&format!("{nodes} nodes, {blobs} blobs: storing"));
    let builder = Cluster::builder().nodes(nodes).shards(args.shards).processes(true);
    let cluster = Box::pin(builder.ledger(args.rules(is_challenged)).start()).await?;
    let client = cluster.client().await?;
    let stored = store(&client, &cluster, (blobs, usize::try_from(args.size)?)).await?;
    drop(spinner);
    let _spinner = Spinner::new(&format!("{nodes} nodes, {blobs} blobs: measuring"));
    sleep(SETTLED).await;
    if is_challenged {
        let wait = args.interval().saturating_add(FIRST_ROUND);
        let first = timeout(wait, first_round(&client)).await;
        first.context("no round is passed")??;
    }
    // Nobody reads: what nodes use is what rounds and an idle ledger take.
    let begin = (Look::new(&cluster, &client).await?, Instant::now());
    sleep(args.time).await;
    let (end, took) = (Look::new(&cluster, &client).await?, begin.1.elapsed());
    let opened = end.rounds.opened - begin.0.rounds.opened;
    ensure!(opened > 0 || !is_challenged, "no round was opened in {} s", took.as_secs());
    let heights = begin.0.height.get()..end.height.get();
    let certificate_bytes = certificate_bytes(&client, heights.clone()).await?;
    let reads = read_for(&client, &stored, args.time).await?;
    client.shutdown().await;
    let gossip: Gossip = end.usage.gossip_since(&begin.0.usage);
    let period = Period {
        seconds: took.as_secs_f64(),
        blocks: heights.end - heights.start,
        rounds: opened,
        passed: end.rounds.passed - begin.0.rounds.passed,
        missed: end.rounds.missed - begin.0.rounds.missed,
        certificate_bytes,
        cpu_ms: end.usage.cpu_since(&begin.0.usage).as_secs_f64() * 1e3,
        disk_read_bytes: end.read_bytes.saturating_sub(begin.0.read_bytes) / nodes as u64,
        gossip_bytes: (gossip.heard_bytes + gossip.published_bytes) / nodes as u64,
        read_p50_ms: percentile(&reads, 50),
        read_p99_ms: percentile(&reads, 99),
        reads: reads.len(),
    };
    cluster.shutdown().await?;
    Ok(period)
}

/// What nodes have used so far.
struct Look {
    usage: Usage,
    read_bytes: u64,
    height: Height,
    rounds: Rounds,
}

/// Rounds of an epoch, and what all members together made of those that are over.
#[derive(Clone, Copy, Debug)]
struct Rounds {
    opened: u64,
    passed: u64,
    missed: u64,
}

impl Look {
    async fn new(cluster: &Cluster, client: &Client) -> anyhow::Result<Self> {
        let mut read_bytes = 0;
        for node in 0..cluster.nodes() {
            let pid = cluster.process_id(node).context("a node does not run")?;
            read_bytes += bytes_read(pid)?;
        }
        let newest = client.ledger().newest().await?;
        let height = newest.header.map_or(Height::new(0), |header| header.header().height);
        let rounds = rounds(client).await?;
        Ok(Self { usage: Usage::read(cluster).await?, read_bytes, height, rounds })
    }
}

/// Bytes that a process has read from files so far, be it from the disk or from memory; what it
/// has received over sockets is not among them.
fn bytes_read(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/io");
    let io = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    let bytes = line.and_then(|bytes| bytes.trim().parse().ok());
    bytes.with_context(|| format!("{path} says nothing of reads"))
}

async fn store(
    client: &Client,
    cluster: &Cluster,
    (blobs, bytes): (usize, usize),
) -> anyhow::Result<Vec<BlobId>> {
    let (seed, wallet) = (fresh_seed(), cluster.wallet());
    let owner = AccountId::new(wallet.public());
    let progress = watch::Sender::new(StoreProgress::default());
    let store_batch = async |first: usize| {
        let mut batch = Vec::with_capacity(STORE_BATCH_MAX);
        for number in (first..blobs).take(STORE_BATCH_MAX) {
            let blob: Bytes = content(seed.wrapping_add(number as u64), bytes);
            batch.push(client.prepare_store(blob, WANTED, owner).await?);
        }
        let stored = client.store_prepared(batch, wallet, &progress).await;
        let stored = stored.into_iter().map(|report| Ok(report?.blob));
        stored.collect::<anyhow::Result<Vec<_>>>()
    };
    let batches = stream::iter((0..blobs).step_by(STORE_BATCH_MAX)).map(store_batch);
    batches.buffered(BATCHES).try_concat().await
}

/// What the ledger says of the epoch's rounds so far.
async fn rounds(client: &Client) -> anyhow::Result<Rounds> {
    let known = client.ledger().challenges(None).await?.context("the epoch has a committee")?;
    let challenges = known.challenges;
    let scores = challenges.scores.iter();
    Ok(Rounds {
        opened: challenges.rounds.into(),
        passed: scores.clone().map(|score| u64::from(score.passed)).sum(),
        missed: scores.map(|score| u64::from(score.missed) + u64::from(score.void)).sum(),
    })
}

/// Waits until nodes have passed a round.
async fn first_round(client: &Client) -> anyhow::Result<()> {
    while rounds(client).await?.passed == 0 {
        sleep(LOOK).await;
    }
    Ok(())
}

/// Bytes of the largest certificate in these blocks.
async fn certificate_bytes(client: &Client, heights: Range<u64>) -> anyhow::Result<usize> {
    let mut bytes = 0;
    for height in heights.map(Height::new) {
        let Some(block) = client.ledger().block(height).await? else { continue };
        for operation in &block.block.body.system {
            if let SystemOperation::PassChallenge { certificate } = operation {
                bytes = bytes.max(certificate.len());
            }
        }
    }
    Ok(bytes)
}

/// Reads blob after blob for a while; how long each took.
async fn read_for(
    client: &Client,
    blobs: &[BlobId],
    time: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let (begun, mut dice, mut times) = (Instant::now(), Dice::new(fresh_seed()), Vec::new());
    let blobs = &blobs[..blobs.len().min(READ_MAX)];
    while begun.elapsed() < time {
        let started = Instant::now();
        let blob = blobs[dice.below(blobs.len())];
        client.read(blob, ReadOptions::default()).await?.read_to_end().await?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

/// Of sorted times.
fn percentile(times: &[Duration], percent: usize) -> f64 {
    let index = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}
