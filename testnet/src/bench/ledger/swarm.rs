//! A swarm of node processes under load, and without any.
//!
//! Two swarms one after the other: one with the default pace, idle first, then under load; and one
//! that makes empty blocks as fast as it may, which also answers queries. What blocks hold is read
//! afterwards, so that it costs nothing while they are made.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use floe_node::{
    key_file::generate_key_pair,
    network::{self, Inbound, Role},
};
use floe_protocol::{
    index::Height,
    ledger::{Block, LedgerParameters, Timestamp},
};
use prometheus_client::registry::Registry;
use serde::Serialize;

use super::{
    LedgerArgs, load,
    load::Load,
    per, percentile_ms,
    usage::{Gossip, Usage},
};
use crate::{
    cluster::{Cluster, extra_account_key, network_config},
    report::{self, Spinner},
};

/// Time for what starting a swarm leaves to do, before it counts as idle.
const SETTLE: Duration = Duration::from_secs(2);
/// Time for the last transactions of a load to be committed before the next one.
const DRAIN: Duration = Duration::from_secs(20);
/// Facts that are asked for.
const FACTS: usize = 200;
/// A precommit of a certificate: position and signature.
const SIGNATURE_BYTES: usize = 2 + 64;

/// All that was measured of swarms of one size.
#[derive(Debug, Serialize)]
pub(super) struct SwarmReport {
    pub(super) nodes: usize,
    pub(super) empty: Period,
    pub(super) facts_p50_ms: f64,
    pub(super) facts_p95_ms: f64,
    pub(super) idle: Period,
    pub(super) loads: Vec<LoadReport>,
    /// Of the node that grew most, between the end of the first load and that of the last.
    pub(super) rss_growth_mib_per_100k: f64,
    pub(super) rss_mib: f64,
    pub(super) disk_mib_per_100k: f64,
    /// The part of it that blocks and certificates are; the rest is state and index.
    pub(super) blocks_mib_per_100k: f64,
}

/// A period in which blocks were made.
#[derive(Debug, Default, Serialize)]
pub(super) struct Period {
    pub(super) seconds: f64,
    pub(super) blocks: u64,
    pub(super) blocks_per_second: f64,
    pub(super) interval_p50_ms: f64,
    pub(super) interval_p95_ms: f64,
    /// Cores that an average node keeps busy.
    pub(super) node_cores: f64,
    pub(super) node_cpu_ms_per_block: f64,
    /// Bytes and messages that all nodes together heard, each counted once a node, and published.
    pub(super) heard_bytes_per_block: f64,
    pub(super) heard_per_block: f64,
    pub(super) published_bytes_per_block: f64,
    pub(super) published_per_block: f64,
    pub(super) gossip_lost: u64,
}

/// A period of load.
#[derive(Debug, Serialize)]
pub(super) struct LoadReport {
    pub(super) offered_per_second: u32,
    pub(super) sent_per_second: f64,
    pub(super) refused: u64,
    pub(super) committed: u64,
    pub(super) committed_per_second: f64,
    pub(super) latency_p50_ms: f64,
    pub(super) latency_p95_ms: f64,
    pub(super) latency_max_ms: f64,
    pub(super) sampled: usize,
    /// Sampled transactions that were not seen committed.
    pub(super) unseen: u64,
    pub(super) node_cpu_ms_per_1000: f64,
    pub(super) period: Period,
}

/// What a range of blocks holds, from above `first` up to `last`.
#[derive(Debug)]
struct Blocks {
    first: Height,
    last: Height,
    transactions: u64,
    bytes: u64,
    times: Vec<Timestamp>,
}

/// A swarm with a light peer that loads it.
struct Swarm {
    cluster: Cluster,
    load: Load,
    network: network::Network,
    /// Kept so that the network never finds its queue closed.
    _inbound: Inbound,
}

/// Where a period began.
struct Begin {
    usage: Usage,
    height: Height,
    at: Instant,
}

/// Measures swarms of one size.
pub(super) async fn measure(
    args: &LedgerArgs,
    nodes: usize,
    work: &Path,
) -> anyhow::Result<SwarmReport> {
    let fast = LedgerParameters::default();
    let fast = LedgerParameters { heartbeat_ms: fast.block_interval_min_ms, ..fast };
    let swarm = Swarm::start(args, nodes, (fast, &work.join(format!("empty-{nodes}")))).await?;
    let (empty, facts) = swarm.empty(args.empty()).await?;
    swarm.shutdown().await?;

    let usual = (LedgerParameters::default(), work.join(format!("load-{nodes}")));
    let mut swarm = Swarm::start(args, nodes, (usual.0, &usual.1)).await?;
    let idle = swarm.idle(args.idle()).await?;
    let report = swarm.loads(args, idle).await?;
    swarm.shutdown().await?;
    Ok(SwarmReport {
        nodes,
        empty,
        facts_p50_ms: percentile_ms(&facts, 50),
        facts_p95_ms: percentile_ms(&facts, 95),
        ..report
    })
}

impl Swarm {
    async fn start(
        args: &LedgerArgs,
        nodes: usize,
        (ledger, dir): (LedgerParameters, &Path),
    ) -> anyhow::Result<Self> {
        let _spinner = Spinner::new(&format!("starting {nodes} nodes"));
        let builder = Cluster::builder().nodes(nodes).shards(args.shards).processes(true);
        let builder = builder.ledger(ledger).extra_accounts(args.senders()).dir(dir);
        let cluster = Box::pin(builder.start()).await?;
        let mut config = network_config(cluster.network(), generate_key_pair()?, Role::LightPeer)?;
        config.limits.loopback_exempt = true;
        config.limits.outbound_requests_per_peer_max = 64;
        let chain = config.chain;
        let (network, inbound, _) = network::start(config, &mut Registry::default()).await?;
        let members: Vec<_> =
            cluster.committee().members().iter().map(|member| member.node).collect();
        let mut peers = network.peers();
        let all = |view: &network::PeersView| {
            members.iter().all(|node| view.connected.contains_key(node))
        };
        peers.wait_for(all).await.context("the light peer has stopped")?;
        let keys = (0..args.senders()).map(extra_account_key);
        let load = Load::new(network.clone(), (chain, ledger.fee_per_operation), &members, keys);
        let swarm = Self { cluster, load, network, _inbound: inbound };
        swarm.first_block().await?;
        Ok(swarm)
    }

    /// Waits until there is a block to count from.
    async fn first_block(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.load.tip(0).await.is_err() {
            anyhow::ensure!(Instant::now() < deadline, "there is no block after a minute");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn shutdown(self) -> anyhow::Result<()> {
        self.network.shutdown().await;
        self.cluster.shutdown().await
    }

    async fn begin(&self) -> anyhow::Result<Begin> {
        let usage = Usage::read(&self.cluster).await?;
        let height = self.load.tip(0).await?.header.height;
        Ok(Begin { usage, height, at: Instant::now() })
    }

    /// What happened since `begin`.
    async fn end(&self, begin: &Begin) -> anyhow::Result<Period> {
        let seconds = begin.at.elapsed().as_secs_f64();
        let height = self.load.tip(0).await?.header.height;
        let usage = Usage::read(&self.cluster).await?;
        let mut blocks = Blocks::after(begin.height);
        self.read_blocks(&mut blocks, height).await?;
        Ok(Period::new(seconds, &blocks, (&begin.usage, &usage)))
    }

    /// Goes on reading blocks up to `last`.
    async fn read_blocks(&self, blocks: &mut Blocks, last: Height) -> anyhow::Result<()> {
        while blocks.last < last {
            let more = self.load.blocks(blocks.last.next()).await?;
            anyhow::ensure!(!more.is_empty(), "block {} is missing", blocks.last.next());
            for certified in more {
                let block = Block::from_bytes(&certified.block)?;
                if block.header.height > last {
                    break;
                }
                blocks.last = block.header.height;
                blocks.transactions += block.body.transactions.len() as u64;
                let signatures = certified.certificate.signatures.len();
                blocks.bytes += (certified.block.len() + signatures * SIGNATURE_BYTES) as u64;
                blocks.times.push(block.header.time);
            }
        }
        Ok(())
    }

    async fn empty(&self, period: Duration) -> anyhow::Result<(Period, Vec<Duration>)> {
        let _spinner = Spinner::new("making empty blocks");
        let begin = self.begin().await?;
        tokio::time::sleep(period).await;
        let empty = self.end(&begin).await?;
        Ok((empty, self.load.time_facts(FACTS).await?))
    }

    async fn idle(&self, period: Duration) -> anyhow::Result<Period> {
        let _spinner = Spinner::new("being idle");
        tokio::time::sleep(SETTLE).await;
        let begin = self.begin().await?;
        tokio::time::sleep(period).await;
        self.end(&begin).await
    }

    /// Offers every rate in turn.
    async fn loads(&mut self, args: &LedgerArgs, idle: Period) -> anyhow::Result<SwarmReport> {
        let first = self.begin().await?;
        let mut warm = None;
        let (mut loads, mut total, mut block_bytes, mut before_warm) = (Vec::new(), 0, 0, 0);
        for rate in args.rates() {
            let _spinner = Spinner::new(&format!("{rate} transactions a second"));
            let begin = self.begin().await?;
            let outcome = self.load.run(rate, args.period()).await?;
            let (period, blocks) = self.drain(&begin, &outcome).await?;
            total += blocks.transactions;
            block_bytes += blocks.bytes;
            let usage = Usage::read(&self.cluster).await?;
            if warm.is_none() {
                (warm, before_warm) = (Some(usage), blocks.transactions);
            }
            loads.push(LoadReport::new(rate, &outcome, &blocks, period));
        }
        let usage = Usage::read(&self.cluster).await?;
        let grown = warm.map_or(0, |warm| usage.rss_growth_bytes(&warm));
        let per_100k =
            |bytes: u64, transactions: u64| report::mib(bytes) * 1e5 / per(transactions.max(1), 1);
        Ok(SwarmReport {
            nodes: self.cluster.nodes(),
            empty: Period::default(),
            facts_p50_ms: 0.0,
            facts_p95_ms: 0.0,
            idle,
            loads,
            rss_growth_mib_per_100k: per_100k(grown, total - before_warm),
            rss_mib: report::mib(usage.rss_bytes_max()),
            disk_mib_per_100k: per_100k(usage.disk_growth_bytes(&first.usage), total),
            blocks_mib_per_100k: per_100k(block_bytes, total),
        })
    }

    /// Waits until what was accepted is committed; what the period was like, up to then.
    async fn drain(
        &self,
        begin: &Begin,
        outcome: &load::Outcome,
    ) -> anyhow::Result<(Period, Blocks)> {
        let deadline = Instant::now() + DRAIN;
        let mut blocks = Blocks::after(begin.height);
        loop {
            let seconds = begin.at.elapsed().as_secs_f64();
            let height = self.load.tip(0).await?.header.height;
            self.read_blocks(&mut blocks, height).await?;
            if blocks.transactions >= outcome.accepted || Instant::now() > deadline {
                let usage = Usage::read(&self.cluster).await?;
                return Ok((Period::new(seconds, &blocks, (&begin.usage, &usage)), blocks));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Blocks {
    const fn after(height: Height) -> Self {
        Self { first: height, last: height, transactions: 0, bytes: 0, times: Vec::new() }
    }
}

impl Period {
    fn new(seconds: f64, blocks: &Blocks, (before, after): (&Usage, &Usage)) -> Self {
        let count = blocks.last.get() - blocks.first.get();
        let cpu = after.cpu_since(before).as_secs_f64();
        let Gossip { published, published_bytes, heard, heard_bytes, lost } =
            after.gossip_since(before);
        let mut intervals: Vec<_> = blocks.times.windows(2).map(interval).collect();
        intervals.sort_unstable();
        Self {
            seconds,
            blocks: count,
            blocks_per_second: per(count, 1) / seconds,
            interval_p50_ms: percentile_ms(&intervals, 50),
            interval_p95_ms: percentile_ms(&intervals, 95),
            node_cores: cpu / seconds,
            node_cpu_ms_per_block: 1e3 * cpu / per(count.max(1), 1),
            heard_bytes_per_block: per(heard_bytes, count),
            heard_per_block: per(heard, count),
            published_bytes_per_block: per(published_bytes, count),
            published_per_block: per(published, count),
            gossip_lost: lost,
        }
    }
}

impl LoadReport {
    fn new(rate: u32, outcome: &load::Outcome, blocks: &Blocks, period: Period) -> Self {
        let seconds = outcome.elapsed.as_secs_f64();
        let cpu_ms = period.node_cores * period.seconds * 1e3;
        let max = outcome.latencies.last().map_or(0.0, Duration::as_secs_f64);
        Self {
            offered_per_second: rate,
            sent_per_second: per(outcome.sent, 1) / seconds,
            refused: outcome.sent - outcome.accepted,
            committed: blocks.transactions,
            committed_per_second: per(blocks.transactions, 1) / period.seconds,
            latency_p50_ms: percentile_ms(&outcome.latencies, 50),
            latency_p95_ms: percentile_ms(&outcome.latencies, 95),
            latency_max_ms: 1e3 * max,
            sampled: outcome.latencies.len(),
            unseen: outcome.unseen,
            node_cpu_ms_per_1000: cpu_ms * 1e3 / per(blocks.transactions.max(1), 1),
            period,
        }
    }
}

fn interval(times: &[Timestamp]) -> Duration {
    Duration::from_millis(times[1].ms_since(times[0]))
}
