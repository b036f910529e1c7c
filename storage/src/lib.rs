//! What a storage node keeps on disk: slivers, pair proofs, blob records and certificates.
//!
//! A [`Store`] stands between a node's services and one directory. It verifies nothing that comes
//! from peers: callers check slivers, proofs, registrations and certificates first, and put what
//! passed. All calls block; an async caller wraps them in its runtime's blocking pool.
//!
//! **Durability.** A put is in memory until [`Store::flush`] returns; everything written before
//! the call is then on disk, through a power cut (where the file system can write through, as
//! ext4, xfs and btrfs can; a warning is logged otherwise). Law of the protocol: verify, persist, sign,
//! answer. So the order of a node is put, flush, answer `Stored`; and [`Store::has_pair`], flush,
//! sign, since another thread's put may be seen before it is durable.
//!
//! **Crashes.** The log comes back up to some point behind the last flush. Tables are written in
//! an order that makes every such point sound: a pair is there with all its pieces or not at
//! all, a registration with its blob's record or not at all. What was left unfinished is removed
//! when the store opens.
//!
//! **Damage.** Every piece has a checksum. One that does not read or match is logged and counted,
//! its pair is missing from then on, and the node recovers it from the others. Damage elsewhere
//! is an error that stops the node: it never continues on a store that lied.
//!
//! **Ledger.** Blocks and state live in a [`LedgerStore`], a database of its own so that no block
//! waits behind slivers, and what the node said at the running height in a [`VoteJournal`], a
//! plain file that is flushed before anything is sent.
//!
//! **Files.** `database.rs` names sled, `opening.rs` decides whether a directory may be trusted,
//! one file per kind of table holds its rows, `group_commit.rs` shares flushes, `usage.rs` counts.
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

mod blob_records;
mod database;
mod error;
mod group_commit;
mod key;
mod ledger_store;
mod marker;
mod opening;
mod pair_proofs;
mod peers;
mod schema;
mod slivers;
mod usage;
mod vote_journal;

use std::{fs::File, path::PathBuf, sync::Arc};

use bytes::Bytes;
use floe_protocol::{
    blob::{BlobHeader, BlobId},
    encoding::{Axis, MAX_SLIVER_BYTES},
    index::{Epoch, ShardIndex},
    keys::NodeId,
    ledger::BlobRecord,
    registration::{Registration, RegistrationId},
};

pub use error::{FullLimit, OpenError, StorageError};
pub use ledger_store::{
    CommitError, Committed, EpochEnd, LedgerStore, LedgerStoreConfig, NoSuchVersion, STATE_HEIGHTS,
    StoredBlock,
};
pub use peers::{ADDRESS_BYTES_MAX, ADDRESSES_PER_PEER_MAX, PEERS_MAX};
pub use schema::{FORMAT_VERSION, LEDGER_FORMAT_VERSION};
pub use slivers::{PIECE_BYTES, SLIVER_BYTES_MAX};
pub use usage::Usage;
pub use vote_journal::{ENTRY_BYTES_MAX, JOURNAL_BYTES_MAX, JournalError, VoteJournal};

use crate::{
    blob_records::BlobRecords,
    database::Database,
    group_commit::GroupCommit,
    opening::Opened,
    pair_proofs::PairProofs,
    peers::Peers,
    slivers::Slivers,
    usage::{Disk, Space},
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
    blob_records: BlobRecords,
    peers: Peers,
    space: Arc<Space>,
    group_commit: GroupCommit,
    database: Database,
    _lock: File,
}

impl Store {
    /// Opens or creates a store, counts what it holds and removes what was left unfinished.
    ///
    /// # Errors
    /// [`OpenError`]: what is wrong with directory, database or marker, and what to do next.
    pub fn open(config: &StoreConfig) -> Result<Self, OpenError> {
        let dir = &config.dir;
        let Opened { database, lock } = opening::open(config, &schema::SLIVER_STORE)?;
        let table = |name| opening::table(&database, dir, name);
        let failed = |error| opening::storage_error(dir, error);
        let space = Arc::new(Space::new(dir, config.quota_bytes, config.reserve_bytes));

        let pieces: Result<Vec<_>, _> = schema::PIECES.into_iter().map(table).collect();
        let slivers =
            Slivers::open(table(schema::SLIVERS)?, pieces?, Arc::clone(&space)).map_err(failed)?;
        let blob_records = BlobRecords::open(
            table(schema::BLOBS)?,
            table(schema::REGISTRATIONS)?,
            Arc::clone(&space),
        )
        .map_err(failed)?;
        let is_known = |blob: &BlobId| Ok(blob_records.record(blob)?.is_some());
        let pair_proofs =
            PairProofs::open(table(schema::PAIR_PROOFS)?, &space, is_known).map_err(failed)?;
        let peers = Peers::open(table(schema::PEERS)?).map_err(failed)?;
        database.flush().map_err(failed)?;
        Ok(Self {
            tables: Arc::new(Tables {
                slivers,
                pair_proofs,
                blob_records,
                peers,
                space,
                group_commit: GroupCommit::default(),
                database,
                _lock: lock,
            }),
        })
    }

    /// Keeps what a `Table` request brought: the registration, its place in the blob's record and
    /// the proofs of the pairs that live in these shards, in one step.
    ///
    /// # Errors
    /// [`StorageError`]; nothing was kept if it is not fatal.
    pub fn put_table(
        &self,
        registration: &Registration,
        proofs: &[(ShardIndex, Vec<u8>)],
    ) -> Result<(), StorageError> {
        let tables = &self.tables;
        tables
            .blob_records
            .register(registration, |batch, blob| tables.pair_proofs.stage(batch, blob, proofs))
    }

    /// A registration.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn registration(&self, id: &RegistrationId) -> Result<Option<Registration>, StorageError> {
        self.tables.blob_records.registration(id)
    }

    /// A blob's record and its registrations.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn blob_record(
        &self,
        blob: &BlobId,
    ) -> Result<Option<(BlobRecord, Vec<Registration>)>, StorageError> {
        self.tables.blob_records.record_with_registrations(blob)
    }

    /// Keeps a blob's certificate, which the caller has verified, if it is the first; whether it
    /// was.
    ///
    /// # Errors
    /// [`StorageError::Length`] if it is larger than a record may be; others are fatal.
    pub fn put_certificate(
        &self,
        header: &BlobHeader,
        certificate: Vec<u8>,
        epoch: Epoch,
    ) -> Result<bool, StorageError> {
        self.tables.blob_records.put_certificate(header, certificate, epoch)
    }

    /// All blobs that the store knows, in the order of their ids. Ends after an error, which is
    /// always fatal.
    pub fn blobs(&self) -> impl Iterator<Item = Result<(BlobId, BlobRecord), StorageError>> {
        self.tables.blob_records.rows()
    }

    /// The proof of the pair of `blob` that lives in `shard`.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn pair_proof(
        &self,
        shard: ShardIndex,
        blob: &BlobId,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        self.tables.pair_proofs.get(shard, blob)
    }

    /// Stores both slivers of the pair of `blob` that lives in `shard`: both or none. Does nothing
    /// if they are there. Durable after [`Self::flush`].
    ///
    /// # Errors
    /// [`StorageError::Full`] beyond the quota or the reserve; [`StorageError::Length`] of slivers
    /// that are empty or above [`SLIVER_BYTES_MAX`]; others are fatal.
    pub fn put_pair(
        &self,
        shard: ShardIndex,
        blob: &BlobId,
        primary: &[u8],
        secondary: &[u8],
    ) -> Result<(), StorageError> {
        self.tables.slivers.put(&key::pair(shard, blob), primary, secondary)
    }

    /// Whether both slivers are there. Reads no piece. Sign nothing for it before
    /// [`Self::flush`].
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn has_pair(&self, shard: ShardIndex, blob: &BlobId) -> Result<bool, StorageError> {
        self.tables.slivers.has(&key::pair(shard, blob))
    }

    /// One sliver, every piece of it checked. None if it is not there; a damaged piece makes its
    /// pair missing.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn sliver(
        &self,
        shard: ShardIndex,
        blob: &BlobId,
        axis: Axis,
    ) -> Result<Option<Bytes>, StorageError> {
        self.tables.slivers.get(&key::pair(shard, blob), axis)
    }

    /// Removes both slivers of a pair; whether they were there. The pair proof stays.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn delete_pair(&self, shard: ShardIndex, blob: &BlobId) -> Result<bool, StorageError> {
        self.tables.slivers.delete(&key::pair(shard, blob))
    }

    /// Returns when everything written before the call is durable. Callers at the same time share
    /// one flush.
    ///
    /// # Errors
    /// [`StorageError`], always fatal: nothing is known to be durable any more.
    pub fn flush(&self) -> Result<(), StorageError> {
        let tables = &self.tables;
        tables.group_commit.flush(|| tables.database.flush())
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
            blobs: tables.blob_records.count(),
            live_bytes: space.live_bytes(),
            disk_bytes: disk.disk_bytes,
            quota_bytes: space.quota_bytes(),
            free_bytes: disk.free_bytes,
            accepts_slivers: space.accepts(disk, 2 * MAX_SLIVER_BYTES),
            damaged_pieces: tables.slivers.damaged_pieces(),
        }
    }
}
