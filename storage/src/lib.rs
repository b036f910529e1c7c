//! What a storage node keeps on disk: slivers, pair proofs, blob headers, and the ledger.
//!
//! A [`Store`] stands between a node's services and one directory. It verifies nothing that comes
//! from peers: callers check slivers, headers and proofs first, and put what passed. Who registered
//! a blob and until when it lives is the ledger's to know: a [`Store`] keeps a blob until it is
//! told to remove it. All calls block; an async caller wraps them in its runtime's blocking pool.
//!
//! **Durability.** A put is in memory until [`Store::flush`] returns; everything written before
//! the call is then on disk, through a power cut (where the file system can write through, as
//! ext4, xfs and btrfs can; a warning is logged otherwise). Law of the protocol: verify, persist, sign,
//! answer. So the order of a node is put, flush, answer `Stored`; and [`Store::has_pair`], flush,
//! sign, since another thread's put may be seen before it is durable.
//!
//! **Crashes.** Records lie in a main database, the pieces of slivers in *volumes*, databases of
//! their own that go as a whole when nothing lives in them any more. Each log comes back up to some
//! point behind its own last flush. Rows are written in an order that makes every combination of
//! such points sound: a pair is there with all its pieces or not at all, a proof with its blob's
//! record or not at all. What was left unfinished is removed when the store opens. A blob's
//! record comes first and goes last: a removal that was cut off is found among [`Store::blobs`]
//! and goes on with the next [`Store::remove_blob`].
//!
//! **Space.** What is removed goes back to the disk: at once where nothing else lives in its volume,
//! else by [`Store::compact_step`], which the node calls in the background.
//!
//! **Damage.** Every piece has a checksum. One that does not read or match is logged and counted,
//! its pair is missing from then on, and the node recovers it from the others. A volume that is
//! gone or does not read at all takes its own pairs along, no others. Damage to the main database
//! is an error that stops the node: it never continues on a store that lied.
//!
//! **Ledger.** Blocks and state live in a [`LedgerStore`], a database of its own so that no block
//! waits behind slivers, and what the node said at the running height in a [`VoteJournal`], a
//! plain file that is flushed before anything is sent.
//!
//! **Files.** `database.rs` names sled, `opening.rs` decides whether a directory may be trusted,
//! one file per kind of table holds its rows, `group_commit.rs` shares flushes, `usage.rs` counts.
//! Of pairs, `pairs.rs` has what callers see, `slivers.rs` the rules, `pair_record.rs` the rows,
//! `pieces.rs` the contents of one volume, `volume.rs` and `volumes.rs` their life, `compaction.rs`
//! what empties them.
//!
//! ```
//! use floe_protocol::{blob::BlobId, encoding::Axis, index::ShardIndex, keys::NodeId};
//! use floe_storage::{Store, StoreConfig};
//!
//! let home = tempfile::tempdir()?;
//! let config = StoreConfig::new(home.path().join("store"), home.path().join("marker"), NodeId::new([1; 32]));
//! let store = Store::open(&config)?;
//! let (shard, blob) = (ShardIndex::new(3), BlobId::new([9; 32]));
//! store.put_pair(shard, &blob, b"primary", b"secondary")?;
//! store.flush()?;
//! assert!(store.has_pair(shard, &blob)?);
//! assert_eq!(store.sliver(shard, &blob, Axis::Primary)?.as_deref(), Some(&b"primary"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod blobs;
mod compaction;
mod database;
mod error;
mod group_commit;
mod key;
mod ledger_store;
mod marker;
mod opening;
mod pair_proofs;
mod pair_record;
mod pairs;
mod peers;
mod pieces;
mod schema;
mod slivers;
mod succession;
mod usage;
mod volume;
mod volumes;
mod vote_journal;

use std::{fs::File, path::PathBuf, sync::Arc};

use floe_protocol::{
    blob::{BlobHeader, BlobId},
    encoding::MAX_SLIVER_BYTES,
    index::{Height, ShardIndex},
    keys::NodeId,
};

pub use blobs::StoredBlob;
pub use error::{FullLimit, OpenError, StorageError};
pub use ledger_store::{
    CommitError, Committed, EpochEnd, Installation, InstalledEnd, LedgerStore, LedgerStoreConfig,
    STATE_HEIGHTS, Snapshot, StateValues, StoredBlock,
};
pub use peers::{ADDRESS_BYTES_MAX, ADDRESSES_PER_PEER_MAX, PEERS_MAX};
pub use pieces::{HASHED_ABOVE_BYTES, PIECE_BYTES, SLIVER_BYTES_MAX};
pub use schema::{FORMAT_VERSION, LEDGER_FORMAT_VERSION};
pub use succession::{NetworkFiles, SuccessionError};
pub use usage::Usage;
pub use vote_journal::{ENTRY_BYTES_MAX, JOURNAL_BYTES_MAX, JournalError, VoteJournal};

use crate::{
    blobs::Blobs,
    database::Database,
    group_commit::GroupCommit,
    opening::Opened,
    pair_proofs::PairProofs,
    peers::Peers,
    slivers::Slivers,
    usage::{Disk, Space},
    volumes::{CacheShares, Volumes},
};

/// Where a store lives and how much it may take.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Directory of the database. Created if absent.
    pub dir: PathBuf,
    /// The marker file. It lives beside the node's key, not on the disk of `dir`.
    pub marker: PathBuf,
    /// Whose store it is.
    pub node: NodeId,
    /// Memory for pages that were read or written.
    pub cache_bytes: u64,
    /// Disk space that the store may take.
    pub quota_bytes: u64,
    /// Free space to leave on the disk: below it new slivers are refused, reads go on.
    pub reserve_bytes: u64,
    /// Start anew where the marker tells of a store that is not there.
    pub accept_empty: bool,
}

impl StoreConfig {
    /// A store of `node` without a quota, with defaults for the rest.
    #[must_use]
    pub const fn new(dir: PathBuf, marker: PathBuf, node: NodeId) -> Self {
        Self {
            dir,
            marker,
            node,
            cache_bytes: 64 << 20,
            quota_bytes: u64::MAX,
            reserve_bytes: 0,
            accept_empty: false,
        }
    }
}

/// A node's store. Clones share it; the last one closes it.
#[derive(Clone, Debug)]
pub struct Store {
    tables: Arc<Tables>,
}

/// Fields drop in order: tables and database before the lock on their directory.
#[derive(Debug)]
struct Tables {
    slivers: Slivers,
    pair_proofs: PairProofs,
    blobs: Blobs,
    peers: Peers,
    space: Arc<Space>,
    group_commit: GroupCommit,
    database: Arc<Database>,
    _lock: File,
}

impl Store {
    /// Opens or creates a store, counts what it holds and removes what was left unfinished.
    ///
    /// # Errors
    /// [`OpenError`]: what is wrong with directory, database or marker, and what to do next.
    pub fn open(config: &StoreConfig) -> Result<Self, OpenError> {
        let dir = &config.dir;
        let cache_bytes = CacheShares::of(config.cache_bytes).main;
        let main = StoreConfig { cache_bytes, ..config.clone() };
        let Opened { database, lock } = opening::open(&main, &schema::SLIVER_STORE)?;
        let database = Arc::new(database);
        let table = |name| opening::table(&database, dir, name);
        let failed = |error| opening::storage_error(dir, error);
        let space = Arc::new(Space::new(dir, config.quota_bytes, config.reserve_bytes));

        let volumes = Volumes::open(
            config,
            Arc::clone(&database),
            table(schema::VOLUMES)?,
            Arc::clone(&space),
        );
        let volumes = volumes.map_err(failed)?;
        let slivers =
            Slivers::open(table(schema::SLIVERS)?, volumes, Arc::clone(&space)).map_err(failed)?;
        let blobs = Blobs::open(table(schema::BLOBS)?, Arc::clone(&space)).map_err(failed)?;
        let is_known = |blob: &BlobId| blobs.has(blob);
        let pair_proofs =
            PairProofs::open(table(schema::PAIR_PROOFS)?, &space, is_known).map_err(failed)?;
        let peers = Peers::open(table(schema::PEERS)?).map_err(failed)?;
        database.flush().map_err(failed)?;
        slivers.remove_empty().map_err(failed)?;
        Ok(Self {
            tables: Arc::new(Tables {
                slivers,
                pair_proofs,
                blobs,
                peers,
                space,
                group_commit: GroupCommit::default(),
                database,
                _lock: lock,
            }),
        })
    }

    /// Keeps what a `Table` request brought: the blob's header, the height at which the ledger
    /// knows the blob, and the proofs of the pairs that live in these shards, in one step. Of
    /// heights the latest stays. Durable after [`Self::flush`].
    ///
    /// # Errors
    /// [`StorageError::Full`] beyond the quota or the reserve; [`StorageError::Length`] of proofs
    /// without bytes or with too many, and of a header that names no possible blob; nothing was
    /// kept then. Others are fatal.
    pub fn put_table(
        &self,
        header: &BlobHeader,
        height: Height,
        proofs: &[(ShardIndex, Vec<u8>)],
    ) -> Result<(), StorageError> {
        let tables = &self.tables;
        tables
            .blobs
            .put((header, height), |batch, blob| tables.pair_proofs.stage(batch, blob, proofs))
    }

    /// A blob of which something is kept.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn blob(&self, blob: &BlobId) -> Result<Option<StoredBlob>, StorageError> {
        self.tables.blobs.get(blob)
    }

    /// Makes all blobs known at no height, durably: the ledger is another from now on, whose heights
    /// begin again.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn forget_heights(&self) -> Result<(), StorageError> {
        self.tables.blobs.forget_heights()?;
        self.flush()
    }

    /// Blobs of which something is kept, in the order of their ids: at most `max` after `after`.
    /// A blob is known from its first [`Self::put_table`] to the end of [`Self::remove_blob`].
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn blobs(&self, after: Option<&BlobId>, max: usize) -> Result<Vec<BlobId>, StorageError> {
        self.tables.blobs.ids(after, max)
    }

    /// Removes everything of a blob from the shards below `n_shards`, which are all shards of the
    /// network; whether there was anything.
    ///
    /// The pairs go first, damaged and unfinished ones too, then the proofs and the blob's record
    /// in one step. So a removal that was cut off half way leaves the record: the blob is still
    /// among [`Self::blobs`], and calling this again goes on. Its slivers that are still there are
    /// whole. The caller sees to it that nothing of the blob is put meanwhile: a pair put behind
    /// the removal of its shard stays, without a record, until this is called for the blob again.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn remove_blob(&self, blob: &BlobId, n_shards: u16) -> Result<bool, StorageError> {
        let tables = &self.tables;
        let mut was_there = false;
        for shard in (0..n_shards).map(ShardIndex::new) {
            was_there |= tables.slivers.purge(&key::pair(shard, blob))?;
        }
        let shards = (0..n_shards).map(ShardIndex::new);
        let rows = |batch: &mut _, blob: &_| tables.pair_proofs.stage_removal(batch, blob, shards);
        was_there |= tables.blobs.remove(blob, rows)?;
        Ok(was_there)
    }

    /// Returns when everything written before the call is durable. Callers at the same time share
    /// one flush.
    ///
    /// # Errors
    /// [`StorageError`], always fatal: nothing is known to be durable any more.
    pub fn flush(&self) -> Result<(), StorageError> {
        let tables = &self.tables;
        tables.group_commit.flush(|| {
            tables.slivers.flush()?;
            tables.database.flush()
        })
    }

    /// Gives disk space back, one bounded step of it: moves at most a few pairs, a mebibyte or one
    /// larger pair, out of a volume that is mostly dead, or removes volumes in which nothing lives.
    /// True while there may be more to do: a node calls it in the background, a pause after every
    /// step, until it is false, and again after blobs were removed. Any number of other calls may
    /// run at the same time.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn compact_step(&self) -> Result<bool, StorageError> {
        self.tables.slivers.compact_step()
    }

    /// Last known addresses of peers, those named last first.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn peers(&self) -> Result<Vec<(NodeId, Vec<String>)>, StorageError> {
        self.tables.peers.all()
    }

    /// Remembers the addresses of these peers in place of what was known of them, and forgets the
    /// peers named longest ago beyond [`PEERS_MAX`].
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn put_peers(&self, peers: &[(NodeId, Vec<String>)]) -> Result<(), StorageError> {
        self.tables.peers.put(peers)
    }

    /// How much the store holds. Cheap: the disk is asked about once a second.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let tables = &self.tables;
        let space = &tables.space;
        let disk = space.disk(0).unwrap_or_else(|error| {
            tracing::warn!(%error, "the disk does not say how full it is");
            Disk::UNKNOWN
        });
        Usage {
            pairs: tables.slivers.pairs(),
            blobs: tables.blobs.count(),
            live_bytes: space.live_bytes(),
            disk_bytes: disk.disk_bytes,
            quota_bytes: space.quota_bytes(),
            free_bytes: disk.free_bytes,
            accepts_slivers: space.accepts(disk, 2 * MAX_SLIVER_BYTES),
            damaged_pieces: tables.slivers.damaged_pieces(),
        }
    }
}
