//! The ledger on disk: blocks, and the state after each of the last heights.
//!
//! A [`LedgerStore`] is a database of its own, in its own directory with its own marker, so that a
//! block never waits behind slivers. Its owner executes a block against it, calls
//! [`LedgerStore::commit`], and calls the block committed when that returns: block, certificate,
//! state, index and tip are then on disk, whole. Anybody may read meanwhile.
//!
//! The state is kept under versions, which are heights, so a reader that names its version sees
//! one state whatever is committed meanwhile, as long as the version is one of the last
//! `state_heights`. What only older ones need, the owner removes in steps of bounded work
//! ([`LedgerStore::prune_step`]). Blocks are kept. The index has no versions: it is the owner's.
//!
//! Invariants: a crash leaves a commit whole or undone (`journal.rs` has the order of writes);
//! heights follow one another; what does not read is an error that stops the node, never a gap.
//! Nothing is verified here, and no block is judged.

mod journal;
mod nodes;
mod rows;

use std::{
    collections::BTreeSet,
    fs::File,
    ops::Range,
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use borsh::BorshDeserialize;
use floe_protocol::{
    hash::Hash,
    index::{Epoch, Height},
    keys::NodeId,
    ledger::{
        Block, BlockHash, Header, ReadError, StateChange, StateReader, TransactionId,
        VersionedValue,
    },
    vote::CommitCertificate,
};

use self::{
    journal::{Commit, Entry},
    nodes::{Pace, Sweep},
    rows::Kind,
};
use crate::{
    OpenError, StorageError, StoreConfig,
    database::{Database, Table},
    opening::{self, Opened},
    schema,
};

/// Heights before the tip whose state can be read, by default.
pub const STATE_HEIGHTS: u64 = 1_000;
/// Memory for pages that a configuration gives by default.
const CACHE_BYTES: u64 = 16 << 20;
/// The tip of a store without genesis, in memory.
const NO_TIP: u64 = u64::MAX;

/// Last byte of a value: the key was removed.
const ABSENT: u8 = 0;
/// Last byte of a value that is there.
const PRESENT: u8 = 1;

/// Where a ledger's store lives.
#[derive(Clone, Debug)]
pub struct LedgerStoreConfig {
    /// Directory of the database, not that of the slivers. Created if absent.
    pub dir: PathBuf,
    /// The marker file, not that of the slivers. It lives beside the node's key.
    pub marker: PathBuf,
    /// Whose store it is.
    pub node: NodeId,
    /// Memory for pages that were read or written.
    pub cache_bytes: u64,
    /// Heights before the tip whose state can be read.
    pub state_heights: u64,
    /// Start anew where the marker tells of a store that is not there.
    pub accept_empty: bool,
}

impl LedgerStoreConfig {
    /// A store of `node` with defaults for the rest.
    #[must_use]
    pub const fn new(dir: PathBuf, marker: PathBuf, node: NodeId) -> Self {
        Self {
            dir,
            marker,
            node,
            cache_bytes: CACHE_BYTES,
            state_heights: STATE_HEIGHTS,
            accept_empty: false,
        }
    }
}

/// Why a block was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// It is not the next block: its owner and the store disagree on where the ledger is.
    #[error("block {found} committed where {expected} is next")]
    OutOfOrder {
        /// The height, or the version of the change.
        found: u64,
        /// The height that is next.
        expected: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A block that was decided and executed, with all that it brings.
#[derive(Clone, Copy, Debug)]
pub struct Committed<'a> {
    /// The block.
    pub block: &'a Block,
    /// The hash of its header.
    pub hash: BlockHash,
    /// Why it is final.
    pub certificate: &'a CommitCertificate,
    /// Its transactions, in their order.
    pub transactions: &'a [TransactionId],
    /// What it changes in the state; its version is the block's height.
    pub change: &'a StateChange,
    /// The epoch that it ends, if it ends one.
    pub epoch_end: Option<EpochEnd<'a>>,
    /// What the owner needs beside the state to go on from here.
    pub tip: &'a [u8],
}

/// What the last block of an epoch leaves for those who follow the committees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd<'a> {
    /// The epoch.
    pub epoch: Epoch,
    /// The layout of the next epoch's committee. The state forgets committees, this does not.
    pub next_committee: &'a [u8],
}

/// A block as it is kept and sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBlock {
    /// The bytes of [`Block::to_bytes`].
    pub block: Vec<u8>,
    /// The bytes of its commit certificate.
    pub certificate: Vec<u8>,
}

/// A ledger on disk. Fields drop in order: table and database before the lock on their directory.
#[derive(Debug)]
pub struct LedgerStore {
    table: Table,
    database: Database,
    /// The newest height that is durable.
    tip: AtomicU64,
    /// Who changes the table holds it, and what a sweep has read so far.
    writer: Mutex<Option<Sweep>>,
    state_heights: u64,
    _lock: File,
}

impl LedgerStore {
    /// Opens or creates a store, and ends or undoes the commit that a crash interrupted.
    ///
    /// # Errors
    /// [`OpenError`]: what is wrong with directory, database or marker, and what to do next.
    pub fn open(config: &LedgerStoreConfig) -> Result<Self, OpenError> {
        let dir = &config.dir;
        let store = StoreConfig {
            cache_bytes: config.cache_bytes,
            accept_empty: config.accept_empty,
            ..StoreConfig::new(dir.clone(), config.marker.clone(), config.node)
        };
        let Opened { database, lock } = opening::open(&store, &schema::LEDGER_STORE)?;
        let table = opening::table(&database, dir, schema::LEDGER)?;
        let failed = |error| opening::storage_error(dir, error);
        let tip = journal::recover(&table).map_err(failed)?;
        database.flush().map_err(failed)?;
        let tip = AtomicU64::new(tip.unwrap_or(NO_TIP));
        Ok(Self {
            table,
            database,
            tip,
            writer: Mutex::default(),
            state_heights: config.state_heights,
            _lock: lock,
        })
    }

    /// Writes the state of genesis, durably.
    ///
    /// # Errors
    /// [`CommitError::OutOfOrder`] if it is there; others are fatal.
    pub fn commit_genesis(&self, change: &StateChange, tip: &[u8]) -> Result<(), CommitError> {
        let _writer = self.lock();
        self.check_next(change.version, 0)?;
        self.write(commit_of_state(change, tip)).map_err(CommitError::Storage)
    }

    /// Writes a block and all that it brings: whole, and durable when this returns.
    ///
    /// # Errors
    /// [`CommitError::OutOfOrder`] if it is not the next block; others are fatal.
    pub fn commit(&self, committed: &Committed<'_>) -> Result<(), CommitError> {
        let _writer = self.lock();
        let height = committed.block.header.height.get();
        self.check_next(height, 1)?;
        self.check_next(committed.change.version, 1)?;
        let mut commit = commit_of_state(committed.change, committed.tip);
        let bytes = |kind, bytes| (rows::numbered(kind, height), bytes);
        let Block { header, body } = committed.block;
        for (key, bytes) in [
            bytes(Kind::Header, to_bytes(header)),
            bytes(Kind::Body, to_bytes(body)),
            bytes(Kind::Certificate, to_bytes(committed.certificate)),
        ] {
            commit.put(key, bytes);
        }
        let place = height.to_be_bytes();
        commit.put(rows::key(Kind::Hash, &[committed.hash.hash().as_bytes()]), place.to_vec());
        for (position, id) in (0_u32..).zip(committed.transactions) {
            let place = [&place[..], &position.to_be_bytes()].concat();
            commit.put(rows::key(Kind::Transaction, &[id.hash().as_bytes()]), place);
        }
        if let Some(EpochEnd { epoch, next_committee }) = committed.epoch_end {
            commit.put(rows::numbered(Kind::EpochEnd, epoch.get()), place.to_vec());
            let next = rows::numbered(Kind::Committee, epoch.plus(1).get());
            commit.put(next, next_committee.to_vec());
        }
        self.write(commit).map_err(CommitError::Storage)
    }

    fn write(&self, commit: Commit) -> Result<(), StorageError> {
        let height = commit.height();
        commit.write(&self.table)?;
        self.database.flush()?;
        self.tip.store(height, Ordering::Release);
        Ok(())
    }

    fn check_next(&self, found: u64, first: u64) -> Result<(), CommitError> {
        let expected = self.tip_height().map_or(0, |tip| tip + 1);
        // Genesis is no block, and no block is genesis.
        if found == expected && found.min(1) == first {
            return Ok(());
        }
        Err(CommitError::OutOfOrder { found, expected })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Sweep>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tip_height(&self) -> Option<u64> {
        Some(self.tip.load(Ordering::Acquire)).filter(|tip| *tip != NO_TIP)
    }

    /// Whether `height` is committed.
    fn holds(&self, height: u64) -> bool {
        self.tip_height().is_some_and(|tip| height <= tip)
    }

    /// The newest height, 0 for genesis, and what its owner left with it; none before genesis.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn tip(&self) -> Result<Option<(Height, Vec<u8>)>, StorageError> {
        // A commit takes away the bytes of the tip before.
        let _writer = self.lock();
        let Some(tip) = self.tip_height() else {
            return Ok(None);
        };
        let bytes = rows::get(&self.table, &rows::numbered(Kind::TipBytes, tip))?;
        let bytes = bytes.ok_or_else(|| self.table.corrupt())?;
        Ok(Some((Height::new(tip), bytes)))
    }

    /// The block of a height; none above the tip, and none of genesis.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn block(&self, height: Height) -> Result<Option<Block>, StorageError> {
        let header = self.parsed(Kind::Header, height)?;
        let body = self.parsed(Kind::Body, height)?;
        Ok(header.zip(body).map(|(header, body)| Block { header, body }))
    }

    /// The header of a height. Reads no body.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn header(&self, height: Height) -> Result<Option<Header>, StorageError> {
        self.parsed(Kind::Header, height)
    }

    /// Why the block of a height is final.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn certificate(&self, height: Height) -> Result<Option<CommitCertificate>, StorageError> {
        self.parsed(Kind::Certificate, height)
    }

    /// The height of a block.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn height_of(&self, hash: &BlockHash) -> Result<Option<Height>, StorageError> {
        self.height_at(&rows::key(Kind::Hash, &[hash.hash().as_bytes()]))
    }

    /// Height and position of a transaction.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn transaction(&self, id: &TransactionId) -> Result<Option<(Height, u32)>, StorageError> {
        let key = rows::key(Kind::Transaction, &[id.hash().as_bytes()]);
        let Some(place) = rows::get(&self.table, &key)? else {
            return Ok(None);
        };
        let (height, position) = place.split_first_chunk().ok_or_else(|| self.table.corrupt())?;
        let position = position.try_into().map_err(|_| self.table.corrupt())?;
        let place = (Height::new(u64::from_be_bytes(*height)), u32::from_be_bytes(position));
        Ok(Some(place).filter(|(height, _)| self.holds(height.get())))
    }

    /// The last block of an epoch that has ended.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn epoch_end(&self, epoch: Epoch) -> Result<Option<Height>, StorageError> {
        self.height_at(&rows::numbered(Kind::EpochEnd, epoch.get()))
    }

    /// The layout of the committee of an epoch after the first, once the one before it has ended.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn committee(&self, epoch: Epoch) -> Result<Option<Vec<u8>>, StorageError> {
        rows::get(&self.table, &rows::numbered(Kind::Committee, epoch.get()))
    }

    /// Blocks from a height on, as many as `max_bytes` hold, but one at least if it is there.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn blocks(&self, from: Height, max_bytes: usize) -> Result<Vec<StoredBlock>, StorageError> {
        let mut blocks = Vec::new();
        let mut bytes = 0;
        for height in (from.get()..).map(Height::new) {
            let Some(mut block) = self.bytes(Kind::Header, height)? else {
                break;
            };
            let part = |kind| self.bytes(kind, height)?.ok_or_else(|| self.table.corrupt());
            block.extend(part(Kind::Body)?);
            let certificate = part(Kind::Certificate)?;
            bytes += block.len() + certificate.len();
            if bytes > max_bytes && !blocks.is_empty() {
                break;
            }
            blocks.push(StoredBlock { block, certificate });
        }
        Ok(blocks)
    }

    /// Removes what only states older than `state_heights` before the tip need: some
    /// `max_entries` of it, or what else belongs together. How many it went through; 0 if nothing
    /// is left to do. Interrupted anywhere, the next step goes on. Nodes go later than values, by
    /// a part of `state_heights`.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn prune_step(&self, max_entries: usize) -> Result<usize, StorageError> {
        let mut sweep = self.lock();
        let Some(oldest) = self.tip_height().and_then(|tip| tip.checked_sub(self.state_heights))
        else {
            return Ok(0);
        };
        let mut entries = self.prune_values(oldest, max_entries)?;
        while entries < max_entries {
            if sweep.is_none() {
                *sweep = Sweep::next(&self.table, oldest, self.pace())?;
            }
            let Some(running) = sweep.as_mut() else {
                break;
            };
            let (worked, ended) = running.step(&self.table, max_entries - entries)?;
            entries += worked;
            if ended {
                *sweep = None;
            }
        }
        Ok(entries)
    }

    fn prune_values(&self, oldest: u64, max_entries: usize) -> Result<usize, StorageError> {
        let lists =
            rows::numbered(Kind::StaleValues, 0)..=rows::part(Kind::StaleValues, oldest, u32::MAX);
        let mut removed = 0;
        for list in self.table.range(lists) {
            if removed >= max_entries {
                break;
            }
            let (list, head) = list?;
            let stale = rows::assemble(&self.table, &list, &head)?;
            for (key, version) in journal::entries::<(Hash, u64)>(&self.table, &stale)? {
                rows::remove(&self.table, &rows::value(&key, version))?;
                removed += 1;
            }
            rows::remove(&self.table, &list)?;
        }
        Ok(removed)
    }

    /// A pass is worth its reading when a pack has lost most of its nodes.
    fn pace(&self) -> Pace {
        Pace { versions: (self.state_heights / 16).max(1), age: self.state_heights / 4 }
    }

    /// A row of a height's block.
    fn bytes(&self, kind: Kind, height: Height) -> Result<Option<Vec<u8>>, StorageError> {
        let height = height.get();
        if height == 0 || !self.holds(height) {
            return Ok(None);
        }
        match rows::get(&self.table, &rows::numbered(kind, height))? {
            None => Err(self.table.corrupt()),
            bytes => Ok(bytes),
        }
    }

    fn parsed<T: BorshDeserialize>(
        &self,
        kind: Kind,
        height: Height,
    ) -> Result<Option<T>, StorageError> {
        let Some(bytes) = self.bytes(kind, height)? else {
            return Ok(None);
        };
        borsh::from_slice(&bytes).map(Some).map_err(|_| self.table.corrupt())
    }

    /// The height in a row.
    fn height_at(&self, key: &[u8]) -> Result<Option<Height>, StorageError> {
        let Some(height) = rows::get(&self.table, key)? else {
            return Ok(None);
        };
        let height: [u8; 8] = height.try_into().map_err(|_| self.table.corrupt())?;
        let height = u64::from_be_bytes(height);
        Ok(Some(Height::new(height)).filter(|_| self.holds(height)))
    }

    fn read_value(&self, key: &Hash, version: u64) -> Result<Option<VersionedValue>, StorageError> {
        let Some(tip) = self.tip_height() else {
            return Ok(None);
        };
        let range = rows::value(key, version.min(tip))..=rows::value(key, 0);
        let Some(newest) = self.table.range(range).next() else {
            return Ok(None);
        };
        let (row, head) = newest?;
        let version = rows::value_version(&self.table, &row)?;
        let mut value = rows::assemble(&self.table, &row, &head)?;
        match value.pop() {
            Some(PRESENT) => Ok(Some((version, Some(value)))),
            Some(ABSENT) if value.is_empty() => Ok(Some((version, None))),
            _ => Err(self.table.corrupt()),
        }
    }

    fn read_index(&self, range: &Range<&[u8]>, limit: usize) -> Result<Vec<Vec<u8>>, StorageError> {
        if range.start >= range.end {
            return Ok(Vec::new());
        }
        let keys = rows::key(Kind::Index, &[range.start])..rows::key(Kind::Index, &[range.end]);
        let entries = self.table.range(keys).take(limit);
        entries.map(|row| row.map(|(key, _)| key[1..].to_vec())).collect()
    }
}

impl StateReader for LedgerStore {
    fn node(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        nodes::get(&self.table, key).map_err(read_error)
    }

    fn value(&self, key: &Hash, version: u64) -> Result<Option<VersionedValue>, ReadError> {
        self.read_value(key, version).map_err(read_error)
    }

    fn index(&self, range: Range<&[u8]>, limit: usize) -> Result<Vec<Vec<u8>>, ReadError> {
        self.read_index(&range, limit).map_err(read_error)
    }
}

fn read_error(error: StorageError) -> ReadError {
    ReadError(Box::new(error))
}

fn to_bytes<T: borsh::BorshSerialize>(value: &T) -> Vec<u8> {
    borsh::to_vec(value).expect("writing to memory")
}

/// The rows of a change of the state, and of the tip.
fn commit_of_state(change: &StateChange, tip: &[u8]) -> Commit {
    let version = change.version;
    let mut commit = Commit::new(version);
    commit.put(rows::numbered(Kind::TipBytes, version), tip.to_vec());
    nodes::put(&mut commit, &change.nodes);
    for (key, value) in &change.values {
        let bytes = match value {
            Some(value) => [value, &[PRESENT][..]].concat(),
            None => vec![ABSENT],
        };
        commit.put(rows::value(key, version), bytes);
    }
    commit.put_list(Kind::StaleNodes, &change.stale_nodes);
    commit.put_list(Kind::StaleValues, &change.stale_values);
    // An entry that leaves and enters stays. Each is then named once, and may be applied twice.
    let added: BTreeSet<&Vec<u8>> = change.index_added.iter().collect();
    for entry in change.index_removed.iter().filter(|entry| !added.contains(entry)) {
        commit.index(Entry::Removed(entry.clone()));
    }
    for entry in added {
        commit.index(Entry::Added(entry.clone()));
    }
    commit
}
