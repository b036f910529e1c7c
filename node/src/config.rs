//! Configuration of a storage node: one structure, every limit in it, units last.

use std::{
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::Arc,
};

use floe_protocol::{consensus::Timeouts, genesis::NetworkFile};

use crate::{
    clock::Clock,
    network::{Multiaddr, NatConfig, NetworkLimits},
    service::challenges::SymbolSource,
};

/// Fewer blocks are executed sooner than a snapshot is fetched, by default.
const SNAPSHOT_BEHIND_BLOCKS: u64 = 2_000;

/// Everything that a storage node is told when it starts.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Where the node's files are.
    pub paths: NodePaths,
    /// The network to serve.
    pub network: NetworkFile,
    /// Addresses to listen on.
    pub listen: Vec<Multiaddr>,
    /// Addresses under which others reach the node, where they differ from those listened on.
    pub external: Vec<Multiaddr>,
    /// Bytes of disk that the store may use.
    pub quota_bytes: u64,
    /// Bytes of free disk below which no new sliver is accepted.
    pub reserve_bytes: u64,
    /// Memory of the store's cache.
    pub cache_bytes: u64,
    /// Start on an empty disk although slivers were stored before.
    pub accept_empty: bool,
    /// Where the first state of a network that goes on from a stopped one is. None: it comes from
    /// others.
    pub first_state: Option<PathBuf>,
    /// Go on in a successor of the node's network although the node's ledger has come further than
    /// the successor goes on from.
    pub abandon_blocks: bool,
    /// Vote at once although the vote journal is lost. Whoever has voted before and does this may
    /// vote twice, which costs stake: only for when everybody has lost theirs.
    pub vote_now: bool,
    /// How the node deals with NAT.
    pub nat: NatConfig,
    /// Limits of the network layer.
    pub limits: NetworkLimits,
    /// Limits of the storage service.
    pub service: ServiceLimits,
    /// Limits of moving and recovering what the node lacks.
    pub repair: RepairLimits,
    /// What the node asks for the symbols that it is challenged for and its store does not have;
    /// none if they are nowhere else.
    pub elsewhere: Option<Arc<dyn SymbolSource>>,
    /// A node without blocks that is so many behind begins with a snapshot, if somebody has one.
    pub snapshot_behind_blocks: u64,
    /// How long consensus waits for others.
    pub timeouts: Timeouts,
    /// The wall clock: the machine's, unless that is known to be wrong, or is meant to be.
    pub clock: Clock,
}

/// Limits of the storage service.
#[derive(Clone, Copy, Debug)]
pub struct ServiceLimits {
    /// Requests that write (verified, then flushed) at a time.
    pub writes_max: usize,
    /// Requests that only read at a time.
    pub reads_max: usize,
    /// Requests waiting for their turn, of each kind; beyond it the answer is "busy".
    pub queue_max: usize,
    /// Requests of one peer that run or wait, of each kind.
    pub per_peer_max: usize,
    /// What a busy node asks others to wait.
    pub busy_retry_after_ms: u32,
    /// Memory for slivers that were expanded for others, the next who asks being likely.
    pub tree_cache_bytes: usize,
    /// Bytes of slivers that are expanded in a second for all members of the committee; one of
    /// them may have half of it.
    pub member_symbol_bytes_per_second: u64,
    /// The same for all others; one of them may have a quarter of it.
    pub stranger_symbol_bytes_per_second: u64,
    /// Bytes of stored slivers that are read again in a second, to look for damage.
    pub scrub_bytes_per_second: u64,
}

impl Default for ServiceLimits {
    fn default() -> Self {
        // More writers than cores: while some wait for the disk, others verify, and those who
        // wait together share one flush.
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            writes_max: (2 * cores).max(8),
            reads_max: 8,
            queue_max: 64,
            per_peer_max: 16,
            busy_retry_after_ms: 100,
            tree_cache_bytes: 64 << 20,
            member_symbol_bytes_per_second: 64 << 20,
            stranger_symbol_bytes_per_second: 4 << 20,
            scrub_bytes_per_second: 4 << 20,
        }
    }
}

/// Limits of moving and recovering what the node lacks.
#[derive(Clone, Copy, Debug)]
pub struct RepairLimits {
    /// Bytes received in a second, on average. None: no limit.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Bytes that all fetches may hold in memory. A fetch that needs more runs alone.
    pub in_flight_bytes_max: u64,
    /// Memory that the recovery of one blob may take; a blob that needs more stays missing.
    pub recovery_bytes_max: u64,
    /// Earlier holders and shards that one task copies from at a time.
    pub moves_max: usize,
    /// Blobs that one task recovers at a time.
    pub recoveries_max: usize,
    /// Tasks at a time, each with a few dozen blobs.
    pub tasks_max: usize,
    /// Blobs that wait for repair and are remembered; more are found again by a later scan.
    pub blobs_max: usize,
    /// How long the writer of a freshly certified blob is given to bring it.
    pub grace_ms: u64,
    /// Wait before a blob that failed is tried again; doubles with each failure.
    pub retry_min_ms: u64,
    /// The longest such wait.
    pub retry_max_ms: u64,
    /// Time for an answer.
    pub answer_timeout_ms: u64,
    /// Time that each MiB of it adds.
    pub answer_timeout_per_mib_ms: u64,
    /// How long a node that did not answer is not asked for what has moved.
    pub away_ms: u64,
}

impl Default for RepairLimits {
    fn default() -> Self {
        Self {
            bytes_per_second: NonZeroU64::new(64 << 20),
            in_flight_bytes_max: 64 << 20,
            recovery_bytes_max: 256 << 20,
            moves_max: 4,
            recoveries_max: 4,
            tasks_max: 2,
            blobs_max: 4_096,
            grace_ms: 5_000,
            retry_min_ms: 1_000,
            retry_max_ms: 60_000,
            answer_timeout_ms: 10_000,
            answer_timeout_per_mib_ms: 5_000,
            away_ms: 30_000,
        }
    }
}

/// The files of a node, all below one directory unless the store is put elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePaths {
    /// The secret keys.
    pub key: PathBuf,
    /// The secret key of the operator's account, unless it is kept elsewhere. A node does not
    /// need it to run.
    pub operator: PathBuf,
    /// Says that this node has a store: kept beside the key, so that an emptied data disk is
    /// noticed.
    pub marker: PathBuf,
    /// The database.
    pub store: PathBuf,
    /// The same as `marker`, for the ledger.
    pub ledger_marker: PathBuf,
    /// The ledger: blocks and state.
    pub ledger: PathBuf,
    /// Snapshots of the ledger's state, for others. Can be made again.
    pub snapshots: PathBuf,
}

impl NodePaths {
    /// The usual places below `dir`.
    #[must_use]
    pub fn below(dir: &Path) -> Self {
        Self {
            key: dir.join("node.key"),
            operator: dir.join("operator.key"),
            marker: dir.join("store.marker"),
            store: dir.join("store"),
            ledger_marker: dir.join("ledger.marker"),
            ledger: dir.join("ledger"),
            snapshots: dir.join("snapshots"),
        }
    }
}

impl NodeConfig {
    /// A node of `network` with its files below `dir` and the usual limits.
    #[must_use]
    pub fn new(dir: &Path, network: NetworkFile, listen: Vec<Multiaddr>) -> Self {
        Self {
            paths: NodePaths::below(dir),
            network,
            listen,
            external: Vec::new(),
            quota_bytes: 64 << 30,
            reserve_bytes: 1 << 30,
            cache_bytes: 64 << 20,
            accept_empty: false,
            first_state: None,
            abandon_blocks: false,
            vote_now: false,
            nat: NatConfig::default(),
            limits: NetworkLimits::default(),
            service: ServiceLimits::default(),
            repair: RepairLimits::default(),
            elsewhere: None,
            snapshot_behind_blocks: SNAPSHOT_BEHIND_BLOCKS,
            timeouts: Timeouts::WAN,
            clock: Clock::SYSTEM,
        }
    }
}
