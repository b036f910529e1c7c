//! What to start: a new swarm, or the one that a directory holds.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use floe_node::{NodeConfig, network::Multiaddr};
use floe_protocol::{
    challenge::ChallengeParameters, consensus::Timeouts, genesis::NetworkFile,
    ledger::LedgerParameters,
};

use super::{
    Cluster,
    files::{GenesisOptions, SwarmFiles},
    link::Links,
};

const DEFAULT_NODES: usize = 7;
const DEFAULT_SHARDS: u16 = 64;
/// A swarm in one process shares one memory: less than a node of its own has.
const IN_PROCESS_CACHE_BYTES: u64 = 16 << 20;

type Configure = dyn Fn(usize, &mut NodeConfig) + Send + Sync;

/// How every node of the cluster is run.
#[derive(Clone, Default)]
pub(super) struct Options {
    pub(super) processes: bool,
    pub(super) quic: bool,
    pub(super) sinks: bool,
    pub(super) cache_bytes: Option<u64>,
    pub(super) executable: Option<PathBuf>,
    pub(super) links: Option<Links>,
    configure: Option<Arc<Configure>>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("processes", &self.processes).finish_non_exhaustive()
    }
}

impl Options {
    /// The configuration of a node in this process.
    pub(super) fn node_config(
        &self,
        node: usize,
        dir: &Path,
        network: NetworkFile,
        listen: &[String],
    ) -> anyhow::Result<NodeConfig> {
        let mut config = node_config(dir, network, listen)?;
        config.cache_bytes = self.cache_bytes.unwrap_or(IN_PROCESS_CACHE_BYTES);
        if let Some(configure) = &self.configure {
            configure(node, &mut config);
        }
        Ok(config)
    }
}

/// The usual configuration of a node, changed only where loopback asks for it.
pub(super) fn node_config(
    dir: &Path,
    network: NetworkFile,
    listen: &[String],
) -> anyhow::Result<NodeConfig> {
    let listen = listen.iter().map(|address| address.parse()).collect::<Result<_, _>>();
    let listen: Vec<Multiaddr> = listen.context("an address to listen on is no multiaddress")?;
    let on_loopback = |address: &Multiaddr| address.to_string().starts_with("/ip4/127.");
    let is_local = listen.iter().all(on_loopback);
    let mut config = NodeConfig::new(dir, network, listen);
    if is_local {
        config.limits.loopback_exempt = true;
        config.timeouts = Timeouts::LAN;
    } else {
        // A host of its own, with links to others: as on the internet.
        config.external.clone_from(&config.listen);
    }
    Ok(config)
}

/// Makes a [`Cluster`].
#[derive(Clone, Debug, Default)]
pub struct ClusterBuilder {
    nodes: Option<usize>,
    shards: Option<u16>,
    dir: Option<PathBuf>,
    genesis: GenesisOptions,
    options: Options,
}

impl ClusterBuilder {
    /// Storage nodes: 7 unless told otherwise. Fixed when a swarm is created.
    #[must_use]
    pub const fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = Some(nodes);
        self
    }

    /// Shards of the network: 64 unless told otherwise. Fixed when a swarm is created.
    #[must_use]
    pub const fn shards(mut self, n_shards: u16) -> Self {
        self.shards = Some(n_shards);
        self
    }

    /// The rules of the ledger: the defaults unless told otherwise. Fixed when a swarm is created.
    #[must_use]
    pub const fn ledger(mut self, ledger: LedgerParameters) -> Self {
        self.genesis.ledger = ledger;
        self
    }

    /// A round of challenges so often, in place of one a minute, that asks for every blob as soon as
    /// it is certified and is over before the next one opens. Fixed when a swarm is created.
    #[must_use]
    pub fn rounds_every(mut self, interval: Duration) -> Self {
        let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        self.genesis.ledger.challenges = ChallengeParameters {
            interval_ms,
            window_ms: interval_ms / 10,
            certificate_window_ms: interval_ms / 5 * 4,
            grace_ms: 0,
            ..ChallengeParameters::default()
        };
        self
    }

    /// Accounts that the genesis funds beside wallet and faucet, with the keys of
    /// [`extra_account_key`](super::extra_account_key): none unless told otherwise. Fixed when a
    /// swarm is created.
    #[must_use]
    pub const fn extra_accounts(mut self, accounts: u32) -> Self {
        self.genesis.extra_accounts = accounts;
        self
    }

    /// Where the swarm lives. If one is there it is started again with its keys, its data and,
    /// where they are free, its ports. Without it the swarm is temporary.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// One process per node instead of all in this one.
    #[must_use]
    pub const fn processes(mut self, processes: bool) -> Self {
        self.options.processes = processes;
        self
    }

    /// Listen for QUIC too. TCP alone is the default: on loopback it is the faster one, and the
    /// end of a process shows at once.
    #[must_use]
    pub const fn quic(mut self, quic: bool) -> Self {
        self.options.quic = quic;
        self
    }

    /// Memory of each node's store cache. The default is 16 MiB in one process, and what nodes
    /// have everywhere else where each is a process.
    #[must_use]
    pub const fn cache_bytes(mut self, bytes: u64) -> Self {
        self.options.cache_bytes = Some(bytes);
        self
    }

    /// The `floe-testnet` program that runs a node where each is a process. By default the running
    /// program if it is that, else the one beside it or one directory above.
    #[must_use]
    pub fn executable(mut self, program: impl Into<PathBuf>) -> Self {
        self.options.executable = Some(program.into());
        self
    }

    /// Every node runs on a host of its own, with links to all others. Only for nodes that are
    /// processes.
    #[must_use]
    pub fn links(mut self, links: &Links) -> Self {
        self.options.links = Some(links.clone());
        self
    }

    /// Changes the configuration of each node, which is given by its number. Only for nodes in this
    /// process.
    #[must_use]
    pub fn configure(
        mut self,
        configure: impl Fn(usize, &mut NodeConfig) + Send + Sync + 'static,
    ) -> Self {
        self.options.configure = Some(Arc::new(configure));
        self
    }

    /// Peers that answer at once and keep nothing, in place of storage nodes: what the network
    /// layer alone can do.
    #[must_use]
    pub(crate) const fn sinks(mut self) -> Self {
        self.options.sinks = true;
        self
    }

    /// Starts the nodes; returns when all serve and are connected with each other.
    ///
    /// # Errors
    /// If the directory cannot be used, the swarm in it is another one than asked for, or a node
    /// does not start.
    pub async fn start(self) -> anyhow::Result<Cluster> {
        let Self { nodes, shards, dir, genesis, options } = self;
        if options.processes && options.configure.is_some() {
            bail!("nodes of their own process cannot be configured: leave out one of the two");
        }
        if options.links.is_some() && !options.processes {
            bail!("only nodes of their own process can have links");
        }
        let temporary = match dir {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("floe-testnet-").tempdir()?),
        };
        let dir = dir.as_deref().or(temporary.as_ref().map(tempfile::TempDir::path));
        let files = SwarmFiles::new(dir.expect("either is there"))?;
        let lock = files.lock()?;
        if files.is_swarm() {
            check_same(&files, nodes, shards)?;
        } else {
            let (nodes, shards) =
                (nodes.unwrap_or(DEFAULT_NODES), shards.unwrap_or(DEFAULT_SHARDS));
            files.create(nodes, shards, &genesis)?;
        }
        let network = files.read_network()?;
        let mut nodes: Vec<_> = network.genesis.members.iter().map(|member| member.node).collect();
        nodes.extend(files.joined(nodes.len())?);
        let mut cluster = Cluster {
            options,
            genesis_committee: network.genesis.committee()?,
            wallet: files.read_wallet()?,
            nodes: Vec::new(),
            files,
            network,
            _lock: lock,
            _temporary: temporary,
        };
        for node in nodes {
            cluster.add_slot(node)?;
        }
        cluster.start_all().await?;
        Ok(cluster)
    }
}

/// Refuses to start a swarm of another shape than the one asked for.
fn check_same(files: &SwarmFiles, nodes: Option<usize>, shards: Option<u16>) -> anyhow::Result<()> {
    let genesis = files.read_network()?.genesis;
    let (has_nodes, has_shards) = (genesis.members.len(), genesis.n_shards);
    if nodes.unwrap_or(has_nodes) != has_nodes || shards.unwrap_or(has_shards) != has_shards {
        bail!(
            "{} holds a swarm of {has_nodes} nodes and {has_shards} shards: ask for these or name \
             another directory",
            files.dir().display()
        );
    }
    Ok(())
}
