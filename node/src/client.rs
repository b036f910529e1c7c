//! The client: a light peer that stores and reads blobs and holds no shard.
//!
//! It joins the network through the bootstrap addresses, finds the members of the running committee
//! through Kademlia, and talks to them directly; nobody of the genesis need be there any more. What it believes is what it has verified: facts of
//! the ledger against headers that a quorum signed, pair proofs against the blob id, rows against
//! pair proofs or the digest table, confirmations against the committee's keys. What is to be done
//! is decided by the pure machines of [`floe_protocol::transfer`] and [`floe_protocol::light`]; the
//! files below drive them.
//!
//! ```text
//!   store ──► ledger: plan, pay ──► upload (slivers, confirmations) ──► ledger: certify
//!   read  ──► ledger: status ─────► download (rows, proofs)
//!   extend, delete (lifetime) ────► ledger
//! ```

mod download;
mod error;
mod health;
mod holders;
pub mod ledger;
mod lifetime;
mod status;
mod store;
mod upload;

use std::{sync::Arc, time::Duration};

use floe_protocol::{
    committee::Committee,
    encoding::EncodingConfig,
    genesis::NetworkFile,
    keys::{ChainId, NodeId},
    ledger::Parameters,
    light::{Checkpoint, LightClient, LightError, OldRoot, Start},
    message::{Limits, Request, Response},
    transfer::{DownloadConfig, UploadConfig},
};
use prometheus_client::registry::Registry;
use tokio::{task::AbortHandle, time::timeout};

use self::holders::HoldersCache;
pub use self::{
    download::{BlobReader, ReadOptions},
    error::{ConnectError, LifetimeError, ReadError, StatusError, StoreError},
    health::{LedgerHealth, LedgerVerdict, ShardsWaiting},
    ledger::{LedgerClient, LedgerError},
    lifetime::{Deletion, Extension},
    status::{BlobStatus, MemberStatus},
    store::{Outcome, PreparedStore, STORE_BATCH_MAX, StoreReport, UnreachedNode},
    upload::{StorePhase, StoreProgress},
};
use crate::{
    key_file::generate_key_pair,
    network::{
        self, Multiaddr, NatConfig, Network, NetworkConfig, NetworkLimits, RequestError, Role,
    },
    node::parse_bootstrap,
    service::ledger::wall_clock,
};

/// Everything that a client is told when it starts.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The network.
    pub network: NetworkFile,
    /// How long to knock at the bootstrap addresses, and then, with the first question, to find
    /// enough members that answer.
    pub connect_timeout_ms: u64,
    /// Limits of uploads.
    pub upload: UploadConfig,
    /// Limits of downloads.
    pub download: DownloadConfig,
    /// Payload bytes of a download on their way at a time.
    pub download_in_flight_bytes_max: usize,
    /// Limits of the network layer.
    pub limits: NetworkLimits,
    /// A block that the user has from somebody trusted, to start from instead of the genesis.
    pub checkpoint: Option<Box<Checkpoint>>,
    /// Whether to start from a genesis or checkpoint although it is older than its committee can
    /// be punished for. Only after telling the user what that means.
    pub trust_genesis: bool,
}

impl ClientConfig {
    /// A client of `network` with the usual limits.
    #[must_use]
    pub fn new(network: NetworkFile) -> Self {
        Self {
            network,
            connect_timeout_ms: 10_000,
            upload: UploadConfig::default(),
            download: DownloadConfig::default(),
            download_in_flight_bytes_max: 32 << 20,
            limits: NetworkLimits::default(),
            checkpoint: None,
            trust_genesis: false,
        }
    }

    /// The light client that such a client starts with.
    fn light(&self) -> Result<LightClient, LightError> {
        let start = match &self.checkpoint {
            Some(checkpoint) => Start::Checkpoint(checkpoint.clone()),
            // A network file does not say when the network was started.
            None => Start::Genesis { started: None },
        };
        let old_root = if self.trust_genesis { OldRoot::Trust } else { OldRoot::Refuse };
        LightClient::new(&self.network.genesis, &start, old_root, wall_clock())
    }
}

/// A connected light peer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    network: Network,
    parameters: Parameters,
    encoding: EncodingConfig,
    config: Arc<ClientConfig>,
    ledger: Arc<LedgerClient>,
    holders: HoldersCache,
    _events: Arc<AbortOnDrop>,
}

/// Ends the tasks that take the network's events when the last client is gone.
#[derive(Debug)]
struct AbortOnDrop([AbortHandle; 3]);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl Client {
    /// Joins the network; returns once connected to at least one node.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(config: ClientConfig) -> Result<Self, ConnectError> {
        floe_protocol::encoding::cpu_supported()?;
        let committee = config.network.genesis.committee()?;
        let parameters = config.network.genesis.parameters()?;
        let bootstrap = parse_bootstrap(&config.network.bootstrap)
            .map_err(|_| ConnectError::BootstrapAddress)?;
        if bootstrap.is_empty() {
            return Err(ConnectError::NoBootstrap);
        }
        let light = Box::new(config.light()?);
        let network_config = NetworkConfig {
            key: generate_key_pair()?,
            chain: config.network.genesis.chain_id(),
            messages: Limits::new(committee.config()),
            listen: Vec::new(),
            external: Vec::new(),
            bootstrap: bootstrap.clone(),
            role: Role::LightPeer,
            committee: committee.members().iter().map(|member| member.node).collect(),
            nat: NatConfig::default(),
            limits: config.limits,
        };
        let mut registry = Registry::default();
        let (network, inbound, _) = network::start(network_config, &mut registry).await?;
        // A light peer is asked nothing; whatever arrives is dropped, which closes the stream.
        let mut requests = inbound.requests;
        let drain = tokio::spawn(async move { while requests.recv().await.is_some() {} });
        let genesis = Arc::new(config.network.genesis.clone());
        let patience = Duration::from_millis(config.connect_timeout_ms);
        let (ledger, follow) =
            LedgerClient::start(network.clone(), inbound.headers, genesis, *light, patience)?;
        let committees = tokio::spawn(ledger.clone().tell_committees());
        let tasks = [drain.abort_handle(), follow, committees.abort_handle()];
        let events = Arc::new(AbortOnDrop(tasks));
        let (config, ledger, encoding) = (Arc::new(config), Arc::new(ledger), committee.config());
        let holders = HoldersCache::new();
        let client =
            Self { network, parameters, encoding, config, ledger, holders, _events: events };
        client.wait_for_a_peer(&bootstrap).await?;
        Ok(client)
    }

    async fn wait_for_a_peer(&self, bootstrap: &[Multiaddr]) -> Result<(), ConnectError> {
        let mut peers = self.network.peers();
        let connected = peers.wait_for(|view| !view.connected.is_empty());
        let wait = Duration::from_millis(self.config.connect_timeout_ms);
        match timeout(wait, connected).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(ConnectError::NobodyAnswers {
                addresses: bootstrap.iter().map(ToString::to_string).collect(),
                waited_ms: self.config.connect_timeout_ms,
            }),
        }
    }

    /// The network.
    #[must_use]
    pub fn chain(&self) -> &ChainId {
        self.ledger.chain()
    }

    /// What the network fixes for everyone.
    #[must_use]
    pub const fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The committee of the running epoch, as far as it has been followed.
    #[must_use]
    pub fn committee(&self) -> Arc<Committee> {
        self.ledger.committee()
    }

    /// The ledger: proven facts, listings, and transactions.
    #[must_use]
    pub fn ledger(&self) -> &LedgerClient {
        &self.ledger
    }

    /// The network's encoding.
    #[must_use]
    pub const fn encoding(&self) -> EncodingConfig {
        self.encoding
    }

    /// Leaves the network.
    pub async fn shutdown(self) {
        self.network.shutdown().await;
    }

    async fn ask(&self, node: NodeId, request: Request) -> Result<Response, RequestError> {
        self.network.request(node, request).await
    }
}

/// Threads for encoding and decoding: all cores.
fn threads() -> std::num::NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(std::num::NonZeroUsize::MIN)
}

/// Runs CPU work on a blocking thread. Panics in it continue here.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down and drops this future at its next await.
            Err(_) => std::future::pending().await,
        },
    }
}

/// The result of a task that nobody cancels. A panic in it continues here.
fn joined<T>(ended: Result<T, tokio::task::JoinError>) -> T {
    ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// Milliseconds since `start`: the clock of the transfer machines.
fn elapsed_ms(start: tokio::time::Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}
