//! Strangers that flood a swarm with requests for symbols, as a process of their own.
//!
//! The worst that light peers do with the usual means: each asks every node for all symbols of one
//! large sliver after the other, so that no kept tree helps, with as many requests under way as a
//! peer may have. None heeds `Busy`. Every few seconds each comes back by new connections, every
//! other one under a new name. The process ends when its stdin closes, and then says what it was
//! given.

use std::{
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use floe_node::{
    key_file::generate_key_pair,
    network::{self, Network, Role},
};
use floe_protocol::{
    blob::BlobId,
    committee::Committee,
    encoding::Axis,
    genesis::NetworkFile,
    index::{SliverPairIndex, SymbolIndex},
    keys::{KeyPair, NodeId},
    message::{Refusal, Request, Response},
};
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncReadExt,
    process::{Child, ChildStdin, Command},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::cluster::{Cluster, network_config};

/// How long a stranger stays before it comes back by new connections.
const STAY: Duration = Duration::from_secs(3);
/// Requests under way from one stranger to one node.
const IN_FLIGHT: usize = 64;
/// How long connecting may take, and the end of the process.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the command `strangers-process` is told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StrangersArgs {
    /// The network file.
    #[arg(long)]
    network: PathBuf,
    /// How many strangers.
    #[arg(long)]
    strangers: usize,
    /// Blobs to ask for.
    #[arg(long = "blob", required = true)]
    blobs: Vec<BlobId>,
}

/// What strangers were given.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Given {
    /// Answers with symbols.
    pub(super) served: u64,
    /// Told to come back later.
    pub(super) busy: u64,
    /// Other refusals.
    pub(super) refused: u64,
    /// Requests without an answer.
    pub(super) failed: u64,
    /// Connections anew.
    pub(super) returns: u64,
}

#[derive(Debug, Default)]
struct Counts {
    served: AtomicU64,
    busy: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    returns: AtomicU64,
}

impl Counts {
    fn given(&self) -> Given {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Given {
            served: count(&self.served),
            busy: count(&self.busy),
            refused: count(&self.refused),
            failed: count(&self.failed),
            returns: count(&self.returns),
        }
    }
}

/// Strangers that flood a cluster. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Flood {
    child: Child,
    stdin: ChildStdin,
}

impl Flood {
    /// Starts so many of them, which ask for `blobs`.
    pub(super) fn start(
        cluster: &Cluster,
        blobs: &[BlobId],
        strangers: usize,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find the running program")?;
        let mut command = Command::new(&program);
        command.arg("strangers-process").arg("--network").arg(cluster.dir().join("network.json"));
        command.arg("--strangers").arg(strangers.to_string());
        for blob in blobs {
            command.arg(format!("--blob={blob}"));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        let child = command.spawn();
        let mut child = child.with_context(|| format!("cannot run {}", program.display()))?;
        let stdin = child.stdin.take().context("the child has no stdin")?;
        Ok(Self { child, stdin })
    }

    pub(super) fn process_id(&self) -> anyhow::Result<u32> {
        self.child.id().context("the strangers have ended")
    }

    /// Ends it; what the strangers were given.
    pub(super) async fn stop(self) -> anyhow::Result<Given> {
        drop(self.stdin);
        let output = timeout(DEADLINE, self.child.wait_with_output()).await;
        let output = output.context("the strangers do not end")??;
        serde_json::from_slice(&output.stdout).context("the strangers do not say what they got")
    }
}

/// What a child does: floods until its stdin closes.
pub(crate) async fn run(args: &StrangersArgs) -> anyhow::Result<()> {
    let network = std::fs::read(&args.network)
        .with_context(|| format!("cannot read {}", args.network.display()))?;
    let network: NetworkFile = serde_json::from_slice(&network)?;
    let flood = Arc::new(Target {
        committee: network.genesis.committee()?,
        network,
        blobs: args.blobs.clone(),
        counts: Counts::default(),
    });
    let mut strangers = JoinSet::new();
    for number in 0..args.strangers {
        strangers.spawn(stranger(Arc::clone(&flood), number));
    }
    let ended = async {
        let mut stdin = tokio::io::stdin();
        while matches!(stdin.read(&mut [0; 64]).await, Ok(1..)) {}
    };
    tokio::select! {
        () = ended => {}
        Some(ended) = strangers.join_next() => ended??,
    }
    crate::report::json(&flood.counts.given())
}

/// Whom the strangers ask, and for what.
#[derive(Debug)]
struct Target {
    network: NetworkFile,
    committee: Committee,
    blobs: Vec<BlobId>,
    counts: Counts,
}

async fn stranger(target: Arc<Target>, number: usize) -> anyhow::Result<()> {
    let mut key = generate_key_pair()?;
    loop {
        let network = join(&target, key.clone()).await?;
        let mut asks = JoinSet::new();
        for (position, member) in target.committee.members().iter().enumerate() {
            for lane in 0..IN_FLIGHT {
                // Everybody begins elsewhere.
                let first = number * 131 + position * 17 + lane * 7;
                asks.spawn(ask(Arc::clone(&target), network.clone(), member.node, first));
            }
        }
        sleep(STAY).await;
        asks.shutdown().await;
        network.shutdown().await;
        target.counts.returns.fetch_add(1, Ordering::Relaxed);
        if number.is_multiple_of(2) {
            key = generate_key_pair()?;
        }
    }
}

async fn join(target: &Target, key: KeyPair) -> anyhow::Result<Network> {
    let mut config = network_config(&target.network, key, Role::LightPeer)?;
    config.limits.loopback_exempt = true;
    config.limits.outbound_requests_per_peer_max = IN_FLIGHT;
    config.limits.outbound_requests_max = IN_FLIGHT * target.committee.members().len();
    let (network, _, _) = network::start(config, &mut Registry::default()).await?;
    let mut peers = network.peers();
    // Whoever is not let in tries again with its next name.
    let connected = peers.wait_for(|view| !view.connected.is_empty());
    drop(timeout(DEADLINE, connected).await);
    Ok(network)
}

/// Asks a node for one of its slivers after the other, all symbols of it, without a pause.
async fn ask(target: Arc<Target>, network: Network, node: NodeId, first: usize) {
    let n_shards = target.committee.n_shards();
    let Some(member) = target.committee.member(&node) else { return };
    let targets: Vec<_> = (0..n_shards).map(SymbolIndex::new).collect();
    for count in first.. {
        let blob = target.blobs[count % target.blobs.len()];
        let Some(shard) = member.shards.get(count % member.shards.len().max(1)) else { return };
        let pair: SliverPairIndex = blob.pair_of(*shard, n_shards);
        let axis = if count % 2 == 0 { Axis::Primary } else { Axis::Secondary };
        let request = Request::ReadSymbols { blob, pair, axis, targets: targets.clone() };
        let counts = &target.counts;
        let counter = match network.request(node, request).await {
            Ok(Response::Symbols(_)) => &counts.served,
            Ok(Response::Refused(Refusal::Busy { .. })) => &counts.busy,
            Ok(_) => &counts.refused,
            Err(_) => &counts.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
