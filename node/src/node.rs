//! A storage node: opens the store, joins the network, starts the services. Wiring only.
//!
//! Start order: key lock, store, ledger, network, services. In a network that goes on from a stopped one
//! the files of that one are put aside first, and the first state comes from others if it is not
//! there, over a network that is open for that long only. Shutdown is the reverse: services finish what
//! they are answering, the network closes its connections, ledger and store are written and closed.
//! `node/beginning.rs` has what comes before the ledger is open, `node/services.rs` the services.

mod beginning;
mod services;

use std::{collections::BTreeSet, io, sync::Arc};

use floe_protocol::{
    encoding::EncodingConfig,
    genesis::GenesisError,
    index::Epoch,
    keys::NodeId,
    message::{ChallengeStatus, Limits, RepairStatus},
};
use floe_storage::{OpenError, Store, StoreConfig, Usage};
use prometheus_client::registry::Registry;
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet, spawn_blocking},
};
use tokio_util::sync::CancellationToken;

use self::{beginning::adopt, services::Parts};
use crate::{
    config::NodeConfig,
    key_file::{KeyFileError, KeyLock, NodeKeys},
    network::{self, Multiaddr, Network, NetworkConfig, NetworkError, PeersView, Role},
    service::{
        address_book, challenges,
        ledger::{AdoptError, ChainError, Ledger, LedgerThread},
        membership, repair, storage_node,
    },
};

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
        let (services, ledger, ledger_thread) = services::spawn(parts, chain, inbound, &cancel)?;
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
