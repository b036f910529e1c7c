//! What the scenarios of challenges share: rules under which rounds come often, blobs that are asked
//! for, and what the ledger says of it all at the end.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use floe_node::{
    Client,
    client::{STORE_BATCH_MAX, StoreProgress},
};
use floe_protocol::{
    blob::BlobHeader,
    challenge::ChallengeParameters,
    index::Epoch,
    keys::NodeId,
    ledger::{AccountId, LedgerParameters},
    transfer::Wanted,
};
use tokio::{sync::watch, task::spawn_blocking};

use super::{
    history::Source,
    load::Stored,
    rounds::{self, EpochLedger},
};
use crate::{
    cluster::{
        Cluster,
        link::{LinkError, Links},
    },
    report::{self, millis},
    up::with_epoch,
    workload::{self, content},
};

/// Nodes at least: five that are lazy, or two that are cut off and one whose clock is wrong, must
/// have no more shards than may be faulty.
const NODES_MIN: usize = 16;
/// A round is opened after so many windows: as often as the rules let it.
const WINDOWS: u64 = 10;
/// Heights for which certificates count: as few as the rules let them be. Who is lazy misses every
/// round, so each takes all of them, and all nodes agree on them on one machine.
const CERTIFICATE_HEIGHTS: u64 = 5;
/// An epoch lasts as long as so many rounds for each that is asked for, in tenths: who does not run
/// has proposals time out, and rounds come late.
const ROUNDS_TENTHS: u64 = 12;
/// Sizes of blobs: many small ones, some large.
const SMALL_BYTES: usize = 64 << 10;
const LARGE_BYTES: usize = 1 << 20;
const LARGE_EVERY: usize = 8;
/// Epochs more than a scenario lasts for which blobs are paid.
const EPOCHS_MORE: u64 = 4;
/// How many durations of an epoch the next one may take to come, and what is given on top.
const PATIENCE: (u32, Duration) = (3, Duration::from_secs(120));

fn parse_nodes(text: &str) -> Result<usize, String> {
    let nodes = text.parse().map_err(|error: std::num::ParseIntError| error.to_string())?;
    let range = NODES_MIN..=100;
    if range.contains(&nodes) { Ok(nodes) } else { Err(format!("{NODES_MIN} to 100 nodes")) }
}

/// How large the swarm is, and how it is asked.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ChallengedArgs {
    /// Storage nodes
    #[arg(long, default_value_t = NODES_MIN, value_name = "N", value_parser = parse_nodes)]
    nodes: usize,
    /// Shards of the network
    #[arg(long, default_value_t = 64, value_name = "N")]
    shards: u16,
    /// Time that nodes have to answer a round; one is opened after ten times as long
    #[arg(long, default_value = "450ms", value_name = "TIME", value_parser = humantime::parse_duration)]
    window: Duration,
    /// Blobs, of 64 KiB and every eighth of 1 MiB
    #[arg(long, default_value_t = 48, value_name = "N")]
    blobs: usize,
    /// Decides what is stored, and what happens [default: another one each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Where the swarm lives, and stays [default: a temporary directory, which goes]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// A swarm whose nodes are challenged.
#[derive(Clone, Debug)]
pub struct Challenged {
    /// Storage nodes.
    pub nodes: usize,
    /// Shards of the network.
    pub shards: u16,
    /// Rounds in each epoch, at least.
    pub rounds: u64,
    /// Time to answer a round.
    pub window: Duration,
    /// What an epoch lasts longer.
    pub longer: Duration,
    /// Blobs that are stored.
    pub blobs: usize,
    /// Decides what is stored, and what happens.
    pub seed: u64,
    /// Where nodes have links of their own.
    pub links: Links,
    /// Where the swarm lives; a temporary directory if none.
    pub dir: Option<PathBuf>,
    /// The program that runs a node; the one beside the running program if none.
    pub executable: Option<PathBuf>,
}

impl ChallengedArgs {
    /// The links. To be called before there is another thread.
    pub(super) fn links(&self) -> Result<Links, LinkError> {
        Links::new(self.seed.unwrap_or(1))
    }

    pub(super) fn swarm(&self, rounds: u64, longer: Duration, links: Links) -> Challenged {
        Challenged {
            nodes: self.nodes,
            shards: self.shards,
            rounds,
            window: self.window,
            longer,
            blobs: self.blobs,
            seed: self.seed.unwrap_or_else(workload::fresh_seed),
            links,
            dir: self.dir.clone(),
            executable: None,
        }
    }
}

impl Challenged {
    /// The rules: as many rounds an epoch, and as long to answer each, as is asked for.
    pub(super) fn rules(&self) -> LedgerParameters {
        let window_ms = millis(self.window);
        let interval_ms = window_ms.saturating_mul(WINDOWS);
        let challenges = ChallengeParameters {
            window_ms,
            interval_ms,
            grace_ms: interval_ms,
            certificate_window_ms: interval_ms,
            certificate_window_heights: CERTIFICATE_HEIGHTS,
            ..ChallengeParameters::default()
        };
        let rounds = self.rounds.saturating_mul(ROUNDS_TENTHS) / 10;
        let epoch = Duration::from_millis(interval_ms.saturating_mul(rounds)) + self.longer;
        LedgerParameters { heartbeat_ms: 2_000, challenges, ..with_epoch(epoch) }
    }

    /// How long an epoch may take to come.
    pub(super) fn patience(&self) -> Duration {
        Duration::from_millis(self.rules().epoch_ms) * PATIENCE.0 + PATIENCE.1
    }

    /// Starts it, each node as a process on a host of its own.
    pub(super) async fn start(&self) -> anyhow::Result<Cluster> {
        let mut builder = Cluster::builder().nodes(self.nodes).shards(self.shards);
        builder = builder.processes(true).ledger(self.rules()).links(&self.links);
        if let Some(dir) = &self.dir {
            builder = builder.dir(dir);
        }
        if let Some(program) = &self.executable {
            builder = builder.executable(program);
        }
        builder.start().await
    }

    /// Stores its blobs, for longer than so many epochs.
    pub(super) async fn store(
        &self,
        (client, cluster): (&Client, &Cluster),
        epochs: u64,
    ) -> anyhow::Result<Vec<(Stored, BlobHeader)>> {
        let (blobs, seed) = (self.blobs, self.seed);
        let wanted = Wanted { epochs: u32::try_from(epochs + EPOCHS_MORE)?, deletable: false };
        let owner = AccountId::new(cluster.wallet().public());
        let progress = watch::Sender::new(StoreProgress::default());
        let mut all = Vec::with_capacity(blobs);
        while all.len() < blobs {
            let mut batch = Vec::new();
            let numbers = all.len()..blobs.min(all.len() + STORE_BATCH_MAX);
            for number in numbers.clone() {
                let content = content(seed.wrapping_add(number as u64), bytes_of(number));
                batch.push(client.prepare_store(content, wanted, owner).await?);
            }
            let stored = client.store_prepared(batch, cluster.wallet(), &progress).await;
            for (number, stored) in numbers.zip(stored) {
                let stored = stored.with_context(|| format!("blob {number} cannot be stored"))?;
                let (seed, end) = (seed.wrapping_add(number as u64), Epoch::new(u64::MAX));
                let blob = Stored { id: stored.blob, seed, bytes: bytes_of(number), end };
                all.push((blob, stored.header));
            }
        }
        report::note(&format!("{blobs} blobs are stored"));
        Ok(all)
    }
}

const fn bytes_of(number: usize) -> usize {
    if number.is_multiple_of(LARGE_EVERY) { LARGE_BYTES } else { SMALL_BYTES }
}

/// Stops all nodes; their ids, and the epochs that have ended.
pub(super) async fn end(mut cluster: Cluster) -> anyhow::Result<(Vec<NodeId>, Vec<EpochLedger>)> {
    let nodes = 0..cluster.nodes();
    let ids: Vec<_> = nodes.clone().map(|node| cluster.node_id(node)).collect();
    let source = |node| Source { dir: cluster.node_dir(node), node: cluster.node_id(node) };
    let sources: Vec<_> = nodes.clone().map(source).collect();
    let genesis = cluster.network().genesis.clone();
    for node in nodes {
        if cluster.is_running(node) {
            cluster.stop(node).await?;
        }
    }
    // The cluster's directory may go with it.
    let epochs = spawn_blocking(move || rounds::replay(&genesis, &sources)).await??;
    cluster.shutdown().await?;
    Ok((ids, epochs))
}
