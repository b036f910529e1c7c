//! A storage node: opens the store, joins the network, starts the services. Wiring only.
//!
//! Start order: key lock, store, ledger, network, services. In a network that goes on from a stopped one
//! the files of that one are put aside first, and the first state comes from others if it is not
//! there, over a network that is open for that long only. Shutdown is the reverse: services finish what
//! they are answering, the network closes its connections, ledger and store are written and closed.

mod beginning;

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, atomic::AtomicU64},
};

use floe_protocol::{
    encoding::EncodingConfig,
    genesis::GenesisError,
    index::Epoch,
    keys::NodeId,
    message::{ChallengeStatus, Limits, RepairStatus},
};
use floe_storage::{LedgerStoreConfig, OpenError, Store, StoreConfig, Usage};
use prometheus_client::registry::Registry;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::{JoinHandle, JoinSet, spawn_blocking},
};
use tokio_util::sync::CancellationToken;

use self::beginning::adopt;
use crate::{
    config::NodeConfig,
    key_file::{KeyFileError, KeyLock, NodeKeys, journal_dir},
    network::{
        self, GossipMessage, Inbound, InboundRequest, Multiaddr, Network, NetworkConfig,
        NetworkError, PeersView, Role,
    },
    service::{
        address_book, block_sync,
        challenges::{self, Challenges, Inconsistent, Reader},
        handovers,
        ledger::{self, AdoptError, Chain, ChainError, Ledger, LedgerThread, Started},
        membership,
        queries::{self, Query},
        readiness, repair,
        snapshot::{self, FirstState},
        storage_node::{self, BlobLocks},
        transactions,
    },
};

/// Questions about the ledger that wait for their service.
const QUERIES_MAX: usize = 256;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The key file cannot be used.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The network file names no valid network.
    #[error("invalid genesis: {0}")]
    Genesis(#[from] GenesisError),
    /// An address in the network file is none.
    #[error("bootstrap address {0:?} of the network file is no multiaddress")]
    Bootstrap(String),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The ledger cannot be opened.
    #[error(transparent)]
    Ledger(#[from] ChainError),
    /// The node cannot go on in a network that follows its own.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// The system gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// The network layer did not start.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The processor cannot run the erasure code.
    #[error(transparent)]
    Cpu(#[from] floe_protocol::encoding::UnsupportedCpu),
    /// The runtime is shutting down.
    #[error("interrupted while starting")]
    Interrupted,
}

/// A running storage node.
#[derive(Debug)]
pub struct NodeHandle {
    id: NodeId,
    network: Network,
    store: Store,
    registry: Arc<Registry>,
    cancel: CancellationToken,
    services: JoinSet<()>,
    network_task: JoinHandle<()>,
    ledger: Ledger,
    ledger_thread: LedgerThread,
    repair: watch::Receiver<RepairStatus>,
    score: watch::Receiver<ChallengeStatus>,
    handovers: watch::Receiver<BTreeSet<Epoch>>,
    _key_lock: KeyLock,
}

/// Starts storage nodes.
#[derive(Debug)]
pub struct Node;

impl Node {
    /// Starts a node and returns once it listens and serves.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn start(config: NodeConfig) -> Result<NodeHandle, NodeError> {
        floe_protocol::encoding::cpu_supported()?;
        let key_path = config.paths.key.clone();
        let keys = NodeKeys::open(&key_path)?;
        let key_lock = KeyLock::take(&key_path)?;
        let id = keys.node.public();
        let store = open_store(&config, id).await?;
        adopt(&config, id, &store).await?;
        let chain = beginning::ledger(&config, &keys, &store).await?;

        let mut registry = Registry::default();
        let members = membership::members(&chain.state, chain.store.as_ref());
        let members = members.map_err(ChainError::from)?.into_iter().collect();
        let encoding = chain.state.committee().config();
        let network_config = network_config(&config, &keys, (encoding, members))?;
        let (network, inbound, network_task) =
            network::start(network_config, &mut registry).await?;
        address_book::restore(&store, &network).await;

        let cancel = CancellationToken::new();
        let metrics = storage_node::Metrics::register(&mut registry);
        let progress = repair::Progress::register(&mut registry);
        let repair = progress.watch();
        let record = challenges::Record::register(&mut registry);
        let score = record.watch();
        let parts = Parts {
            config,
            keys,
            store: store.clone(),
            network: network.clone(),
            metrics,
            progress,
            record,
        };
        let (certified, handovers) = watch::channel(BTreeSet::new());
        let inbound = (inbound, certified);
        let (services, ledger, ledger_thread) = spawn_services(parts, chain, inbound, &cancel)?;
        tracing::info!(node = %id, addresses = ?network.listen_addresses(), "node is up");
        Ok(NodeHandle {
            id,
            network,
            store,
            registry: Arc::new(registry),
            cancel,
            services,
            network_task,
            ledger,
            ledger_thread,
            repair,
            score,
            handovers,
            _key_lock: key_lock,
        })
    }
}

impl NodeHandle {
    /// The node's id.
    #[must_use]
    pub const fn id(&self) -> NodeId {
        self.id
    }

    /// The addresses that it listens on, ports filled in.
    #[must_use]
    pub fn addresses(&self) -> Vec<Multiaddr> {
        self.network.listen_addresses()
    }

    /// Who it is connected to.
    #[must_use]
    pub fn peers(&self) -> watch::Receiver<PeersView> {
        self.network.peers()
    }

    /// Its part in the ledger.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Its network layer.
    pub(crate) const fn network(&self) -> &Network {
        &self.network
    }

    /// How far it has come with moving and recovering what it lacks, now and after every change.
    #[must_use]
    pub fn repair(&self) -> watch::Receiver<RepairStatus> {
        self.repair.clone()
    }

    /// How it does in the challenge rounds of the running epoch, now and after every round.
    #[must_use]
    pub fn challenges(&self) -> watch::Receiver<ChallengeStatus> {
        self.score.clone()
    }

    /// The last epochs whose ends it can prove by one signature, now and after every change.
    #[must_use]
    pub fn certified_handovers(&self) -> watch::Receiver<BTreeSet<Epoch>> {
        self.handovers.clone()
    }

    /// Its store.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// What its store holds.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.store.usage()
    }

    /// Its metrics in the text format of Prometheus.
    #[must_use]
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }

    /// Waits until a service has ended by itself, which it does only when something is broken.
    ///
    /// # Errors
    /// The panic or cancellation of the service.
    pub async fn failed(&mut self) -> io::Result<()> {
        let ended = tokio::select! {
            ended = self.services.join_next() => ended.unwrap_or(Ok(())),
            ended = &mut self.network_task => ended,
        };
        match ended {
            Err(error) => Err(io::Error::other(error)),
            Ok(()) => Err(io::Error::other("a service of the node has ended")),
        }
    }

    /// Stops in order and returns once everything is closed.
    pub async fn shutdown(mut self) {
        self.cancel.cancel();
        while self.services.join_next().await.is_some() {}
        self.network.shutdown().await;
        let (store, ledger, ledger_thread) = (self.store, self.ledger, self.ledger_thread);
        let closed = spawn_blocking(move || {
            // The ledger writes down what it holds in memory.
            drop((ledger, ledger_thread));
            store.flush().map(|()| drop(store))
        });
        let closed = closed.await;
        match closed {
            Ok(Ok(())) => tracing::info!(node = %self.id, "node is down"),
            Ok(Err(error)) => tracing::error!(%error, "store not flushed at shutdown"),
            Err(error) => tracing::error!(%error, "shutdown interrupted"),
        }
    }
}

/// What the services share.
struct Parts {
    config: NodeConfig,
    keys: NodeKeys,
    store: Store,
    network: Network,
    metrics: storage_node::Metrics,
    progress: repair::Progress,
    record: challenges::Record,
}

fn spawn_services(
    parts: Parts,
    chain: Chain,
    (inbound, certified): (Inbound, watch::Sender<BTreeSet<Epoch>>),
    cancel: &CancellationToken,
) -> Result<(JoinSet<()>, Ledger, LedgerThread), NodeError> {
    let Parts { config, keys, store, network, .. } = &parts;
    let mut services = JoinSet::new();
    let Inbound { requests, transactions, consensus, headers, challenges } = inbound;
    let (ledger, ledger_thread) = start_ledger(
        &mut services,
        ledger::Args {
            chain,
            keys: keys.clone(),
            network: network.clone(),
            consensus,
            timeouts: config.timeouts,
            clock: config.clock,
            cancel: cancel.clone(),
        },
    )?;
    let (snapshots, maker) =
        snapshot::open(&config.paths.snapshots, config.reserve_bytes, &config.network.genesis);
    services.spawn(snapshot::run(snapshot::Args {
        ledger: ledger.clone(),
        maker,
        cancel: cancel.clone(),
    }));
    let genesis = Arc::new(config.network.genesis.clone());
    let (signatures, handovers_signed) = watch::channel(handovers::Signatures::new());
    services.spawn(handovers::run(handovers::Args {
        ledger: ledger.clone(),
        network: network.clone(),
        keys: keys.clone(),
        genesis: Arc::clone(&genesis),
        signatures,
        certified,
        cancel: cancel.clone(),
    }));
    let (queries, queries_receiver) = mpsc::channel(QUERIES_MAX);
    services.spawn(queries::run(queries::Args {
        ledger: ledger.clone(),
        snapshots: snapshots.clone(),
        handovers_signed,
        queries: queries_receiver,
        cancel: cancel.clone(),
    }));
    services.spawn(transactions::run(transactions::Args {
        ledger: ledger.clone(),
        transactions,
        cancel: cancel.clone(),
    }));
    services.spawn(membership::run(ledger.clone(), network.clone(), cancel.clone()));
    services.spawn(block_sync::run(block_sync::Args {
        ledger: ledger.clone(),
        network: network.clone(),
        headers,
        snapshots,
        genesis,
        snapshot_behind_blocks: config.snapshot_behind_blocks,
        cancel: cancel.clone(),
    }));
    services.spawn(readiness::run(readiness::Args {
        ledger: ledger.clone(),
        network: network.clone(),
        key: keys.node.clone(),
        clock: config.clock,
        cancel: cancel.clone(),
    }));
    services.spawn(address_book::run(store.clone(), network.clone(), cancel.clone()));
    let inbound = (requests, challenges, queries);
    spawn_storage(&mut services, parts, &ledger, inbound, cancel);
    Ok((services, ledger, ledger_thread))
}

/// Starts what keeps slivers: the service that answers for them, the one that fetches what this
/// node lacks, and the one that proves that it holds them.
fn spawn_storage(
    services: &mut JoinSet<()>,
    parts: Parts,
    ledger: &Ledger,
    (requests, commitments, queries): (
        mpsc::Receiver<InboundRequest>,
        mpsc::Receiver<GossipMessage>,
        mpsc::Sender<Query>,
    ),
    cancel: &CancellationToken,
) {
    let Parts { config, keys, store, network, metrics, progress, record } = parts;
    let (locks, missing) = (Arc::new(BlobLocks::default()), Arc::new(Notify::new()));
    let (status, score) = (progress.watch(), record.watch());
    let inconsistent = Inconsistent::default();
    let (challenges, links) = Challenges::new(challenges::Args {
        ledger: ledger.clone(),
        network: network.clone(),
        keys: keys.clone(),
        reader: Reader { store: store.clone(), elsewhere: config.elsewhere.clone() },
        commitments,
        inconsistent: inconsistent.clone(),
        record,
        cancel: cancel.clone(),
    });
    services.spawn(challenges.run());
    services.spawn(repair::run(repair::Args {
        ledger: ledger.clone(),
        keys: keys.clone(),
        store: store.clone(),
        network: network.clone(),
        locks: Arc::clone(&locks),
        missing: Arc::clone(&missing),
        inconsistent: inconsistent.clone(),
        progress,
        limits: config.repair,
        clock: config.clock,
        cancel: cancel.clone(),
    }));
    services.spawn(storage_node::run(storage_node::Args {
        ledger: ledger.clone(),
        keys,
        store,
        network,
        locks,
        repair: status,
        requests,
        queries,
        challenges: links,
        score,
        inconsistent,
        limits: config.service,
        clock: config.clock,
        missing,
        scrubbed: Arc::new(AtomicU64::new(0)),
        metrics,
        cancel: cancel.clone(),
    }));
}

/// Starts the ledger's thread, and a task that ends when it does.
fn start_ledger(
    services: &mut JoinSet<()>,
    args: ledger::Args,
) -> Result<(Ledger, LedgerThread), NodeError> {
    let Started { ledger, thread, ended } = ledger::start(args).map_err(NodeError::Thread)?;
    services.spawn(async move {
        match ended.await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => tracing::error!(%fault, "the ledger has stopped: the node must, too"),
            Err(_) => tracing::error!("the ledger's thread has panicked"),
        }
    });
    Ok((ledger, thread))
}

async fn open_chain(
    config: &NodeConfig,
    node: NodeId,
    first: Option<FirstState>,
) -> Result<Chain, NodeError> {
    let paths = &config.paths;
    let store = LedgerStoreConfig {
        accept_empty: config.accept_empty,
        ..LedgerStoreConfig::new(paths.ledger.clone(), paths.ledger_marker.clone(), node)
    };
    let journal_dir = journal_dir(&paths.key).to_owned();
    let genesis = config.network.genesis.clone();
    let vote_now = config.vote_now;
    let opened = spawn_blocking(move || {
        Chain::open(&genesis, &store, first.as_ref(), (&journal_dir, vote_now))
    })
    .await;
    Ok(opened.map_err(|_| NodeError::Interrupted)??)
}

async fn open_store(config: &NodeConfig, node: NodeId) -> Result<Store, NodeError> {
    let store_config = StoreConfig {
        dir: config.paths.store.clone(),
        marker: config.paths.marker.clone(),
        node,
        cache_bytes: config.cache_bytes,
        quota_bytes: config.quota_bytes,
        reserve_bytes: config.reserve_bytes,
        accept_empty: config.accept_empty,
    };
    let opened = spawn_blocking(move || Store::open(&store_config)).await;
    Ok(opened.map_err(|_| NodeError::Interrupted)??)
}

fn network_config(
    config: &NodeConfig,
    keys: &NodeKeys,
    (encoding, members): (EncodingConfig, Vec<NodeId>),
) -> Result<NetworkConfig, NodeError> {
    Ok(NetworkConfig {
        key: keys.node.clone(),
        chain: config.network.genesis.chain_id(),
        messages: Limits::new(encoding),
        listen: config.listen.clone(),
        external: config.external.clone(),
        bootstrap: parse_bootstrap(&config.network.bootstrap)?,
        role: Role::StorageNode,
        committee: members,
        nat: config.nat.clone(),
        limits: config.limits,
    })
}

/// The bootstrap addresses of a network file.
pub(crate) fn parse_bootstrap(addresses: &[String]) -> Result<Vec<Multiaddr>, NodeError> {
    addresses
        .iter()
        .map(|address| address.parse().map_err(|_| NodeError::Bootstrap(address.clone())))
        .collect()
}
