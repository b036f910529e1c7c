//! The ledger on disk: blocks, and the state after each of the last heights.
//!
//! A [`LedgerStore`] is a database of its own, in its own directory with its own marker, so that a
//! block never waits behind slivers. Its owner executes a block against it, calls
//! [`LedgerStore::commit`], and calls the block committed when that returns: block, certificate
//! and tip are then on disk, whole.
//!
//! The state is written behind. Blocks can be executed again, so what one changes goes into memory
//! and is readable at once; a thread of the store merges many versions into the disk together,
//! which spares it all that lives for a few blocks only. The version that the disk is at is the
//! [`LedgerStore::checkpoint`]. A store that was closed has it at the tip; after a crash the owner
//! executes the blocks above it again and hands the changes to [`LedgerStore::replay`], before
//! anything else. The same blocks must bring the same changes.
//!
//! Readers name a version, which is a height, and see one state whatever is committed meanwhile.
//! The last [`STATE_HEIGHTS`] heights can be read, or fewer where those are large; an older one is
//! refused as [`ReadError::NoSuchVersion`] (the tree finds no root for it). After a start it is the
//! checkpoint and what follows. The index is that of the newest version, for the owner alone.
//!
//! Invariants: heights follow one another; memory is bounded, commits wait for merges; what does
//! not read is an error that stops the node, never a gap. Nothing is verified here, and no block
//! is judged. `blocks.rs` has the blocks, `install.rs` snapshots to begin with, `memory.rs` the layers, `merge.rs` the order of writes,
//! `runs.rs` the state on disk, `state.rs` reads and the thread.

mod blocks;
mod install;
mod memory;
mod merge;
mod rows;
mod runs;
mod state;
mod values;

use std::{
    fs::File,
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use floe_protocol::{
    handover::HandoverCertificate,
    hash::Hash,
    index::{Epoch, Height},
    keys::NodeId,
    ledger::{
        Block, BlockHash, Executed, Header, ReadError, StateChange, StateReader, TransactionId,
        VersionedValue,
    },
    vote::CommitCertificate,
};

use self::{blocks::Blocks, memory::Layer, merge::Disk, rows::Kind, state::States};
pub use self::{
    install::{Installation, InstalledEnd, Snapshot},
    values::StateValues,
};
use crate::{
    OpenError, StorageError, StoreConfig,
    opening::{self, Opened},
    schema,
};

/// Heights before the tip whose state can be read, by default and unless they are large: see
/// [`LedgerStoreConfig::state_bytes`].
pub const STATE_HEIGHTS: u64 = 128;
/// Memory for pages that a configuration gives by default.
const CACHE_BYTES: u64 = 16 << 20;
/// Commits wait when so much is not merged, as a multiple of what starts a merge.
const UNMERGED_MAX: usize = 4;

/// Where a ledger's store lives, and what it keeps in memory.
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
    /// Heights before the tip that stay in memory, readable, unless `state_bytes` are enough.
    pub state_heights: u64,
    /// Bytes of state that stay in memory, however few heights they are.
    pub state_bytes: usize,
    /// Heights that are merged into the disk together.
    pub merge_heights: u64,
    /// Bytes of state that are merged into the disk together, if they come first.
    pub merge_bytes: usize,
    /// How long nothing is committed before what there is is merged, in milliseconds.
    pub idle_ms: u64,
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
            state_bytes: 16 << 20,
            merge_heights: 64,
            merge_bytes: 8 << 20,
            idle_ms: 3_000,
            accept_empty: false,
        }
    }

    const fn limits(&self) -> Limits {
        Limits {
            state_heights: self.state_heights,
            state_bytes: self.state_bytes,
            merge_heights: self.merge_heights,
            merge_bytes: self.merge_bytes,
            unmerged_bytes_max: self.merge_bytes.saturating_mul(UNMERGED_MAX),
            idle: Duration::from_millis(self.idle_ms),
        }
    }
}

/// What bounds the memory.
#[derive(Clone, Copy, Debug)]
struct Limits {
    state_heights: u64,
    state_bytes: usize,
    merge_heights: u64,
    merge_bytes: usize,
    unmerged_bytes_max: usize,
    idle: Duration,
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
    /// A snapshot is installed where there are blocks already.
    #[error("a snapshot is installed into an empty ledger only, and this one has block {0}")]
    NotEmpty(Height),
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

/// A ledger on disk. Dropping it merges what is in memory. Fields drop in order: table and database
/// before the lock on their directory.
#[derive(Debug)]
pub struct LedgerStore {
    blocks: Blocks,
    states: Arc<States>,
    /// Who commits holds it.
    writer: Mutex<()>,
    merger: Option<JoinHandle<()>>,
    _lock: File,
}

impl Drop for LedgerStore {
    fn drop(&mut self) {
        self.states.stop();
        if let Some(merger) = self.merger.take() {
            // A panic has been told already, and leaves what a crash leaves.
            drop(merger.join());
        }
    }
}

impl LedgerStore {
    /// Opens or creates a store, and ends or undoes what a crash interrupted. If
    /// [`Self::checkpoint`] is then below the tip, the owner replays the blocks between.
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
        let first = install::recover(&table).map_err(failed)?;
        let blocks = Blocks::recover(table.clone(), first).map_err(failed)?;
        let disk = Disk::recover(table.clone()).map_err(failed)?;
        let (checkpoint, tip) = (disk.checkpoint, blocks.height());
        if checkpoint.is_some() != tip.is_some() || checkpoint > tip {
            return Err(failed(table.corrupt()));
        }
        database.flush().map_err(failed)?;
        let states = Arc::new(States::new(table, database, disk, config.limits()));
        let shared = Arc::clone(&states);
        let merger = thread::Builder::new()
            .name("floe-merger".into())
            .spawn(move || shared.run_merger())
            .map_err(|source| failed(source.into()))?;
        Ok(Self { blocks, states, writer: Mutex::default(), merger: Some(merger), _lock: lock })
    }

    /// Writes the state of genesis, durably.
    ///
    /// # Errors
    /// [`CommitError::OutOfOrder`] if it is there; others are fatal.
    pub fn commit_genesis(&self, change: &StateChange, tip: &[u8]) -> Result<(), CommitError> {
        let _writer = self.lock();
        if self.blocks.height().is_some() || change.version != 0 {
            return Err(out_of_order(change.version, self.blocks.height()));
        }
        let runs = self.states.write_genesis(Layer::new(change, None, &[]))?;
        self.blocks.write_tip(0, tip)?;
        self.states.database.flush()?;
        self.states.show_first(0, runs);
        self.blocks.publish(0, tip);
        Ok(())
    }

    /// The same, of a state that came in parts: that of a network that goes on from another. A crash
    /// before it returns leaves an empty store.
    ///
    /// # Errors
    /// [`CommitError::OutOfOrder`] if there is a genesis, or the state is that of a later height;
    /// others are fatal.
    pub fn install_genesis(
        &self,
        installation: Installation,
        tip: &[u8],
    ) -> Result<(), CommitError> {
        let _writer = self.lock();
        if self.blocks.height().is_some() || installation.version() != 0 {
            return Err(out_of_order(installation.version(), self.blocks.height()));
        }
        let runs = installation.finish_genesis()?;
        self.blocks.write_tip(0, tip)?;
        self.states.database.flush()?;
        self.states.show_first(0, runs);
        self.blocks.publish(0, tip);
        Ok(())
    }

    /// Makes a block durable, and what it brings readable. Waits where merges fall behind.
    ///
    /// # Errors
    /// [`CommitError::OutOfOrder`] if it is not the next block, or blocks are yet to be replayed;
    /// others are fatal.
    pub fn commit(&self, committed: &Committed<'_>) -> Result<(), CommitError> {
        let _writer = self.lock();
        let Committed { block, hash, change, transactions, tip, .. } = *committed;
        let height = block.header.height.get();
        for (found, expected) in [
            (height, self.blocks.height()),
            (change.version, self.blocks.height()),
            (change.version, self.states.memory().tip),
        ] {
            check_next(found, expected)?;
        }
        self.states.wait_for_room()?;
        self.blocks.write(committed)?;
        self.states.database.flush()?;
        self.states.push(Layer::new(change, Some(hash), transactions));
        self.blocks.publish(height, tip);
        Ok(())
    }

    /// As [`Self::commit`], for a block as the ledger's state has executed it.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn commit_executed(
        &self,
        block: &Block,
        certificate: &CommitCertificate,
        executed: &Executed,
        tip: &[u8],
    ) -> Result<(), CommitError> {
        let epoch = block.header.epoch;
        let ends = executed.next.committee().epoch() > epoch;
        let next_committee = executed.next.committee().to_bytes();
        self.commit(&Committed {
            block,
            hash: executed.hash,
            certificate,
            transactions: &executed.transactions,
            change: &executed.change,
            epoch_end: ends.then_some(EpochEnd { epoch, next_committee: &next_committee }),
            tip,
        })
    }

    /// Begins to write the state of a snapshot beside what there is. Nothing of it counts before
    /// [`Self::install`]; dropped, or after a crash, it is gone.
    ///
    /// # Errors
    /// [`CommitError::NotEmpty`].
    pub fn begin_install(&self, height: Height) -> Result<Installation, CommitError> {
        self.check_empty()?;
        Ok(Installation::new(Arc::clone(&self.states), height.get()))
    }

    /// Begins the ledger anew with a snapshot whose state was written: from here on it is at the
    /// snapshot's height. Durable when this returns; a crash leaves all of it or nothing.
    ///
    /// # Errors
    /// [`CommitError::NotEmpty`], [`CommitError::OutOfOrder`] if the state is another height's;
    /// others are fatal.
    pub fn install(
        &self,
        installation: Installation,
        snapshot: &Snapshot<'_>,
    ) -> Result<(), CommitError> {
        let _writer = self.lock();
        self.check_empty()?;
        let height = snapshot.header.height.get();
        if installation.version() != height {
            return Err(CommitError::OutOfOrder {
                found: installation.version(),
                expected: height,
            });
        }
        installation.finish(snapshot)?;
        self.blocks.show_snapshot(height)?;
        Ok(())
    }

    fn check_empty(&self) -> Result<(), CommitError> {
        match self.blocks.height() {
            Some(height) if height > 0 => Err(CommitError::NotEmpty(Height::new(height))),
            Some(_) | None => Ok(()),
        }
    }

    /// All values of a height whose state can be read, by the hashes of their keys. Later commits
    /// do not touch the list.
    ///
    /// # Errors
    /// [`ReadError`] if the height is not kept, or the store fails.
    pub fn values(&self, height: Height) -> Result<StateValues, ReadError> {
        StateValues::new(&self.states, height.get())
    }

    /// The height that the blocks of this store follow: 0, or that of the snapshot that it began
    /// with.
    #[must_use]
    pub fn first(&self) -> Height {
        Height::new(self.blocks.first())
    }

    /// Takes what a block above the checkpoint brings, which is on disk already.
    ///
    /// # Errors
    /// [`CommitError::OutOfOrder`] if it is not the next block, or no block at all; others are
    /// fatal.
    pub fn replay(
        &self,
        hash: BlockHash,
        transactions: &[TransactionId],
        change: &StateChange,
    ) -> Result<(), CommitError> {
        let _writer = self.lock();
        let state = self.states.memory().tip;
        check_next(change.version, state)?;
        if !self.blocks.holds(change.version) {
            return Err(out_of_order(change.version, state));
        }
        self.states.wait_for_room()?;
        self.states.push(Layer::new(change, Some(hash), transactions));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The height whose state is on disk, 0 for genesis; none before genesis.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Height> {
        self.states.checkpoint().map(Height::new)
    }

    /// The oldest height whose state can be read; none before genesis.
    #[must_use]
    pub fn oldest_state(&self) -> Option<Height> {
        let memory = self.states.memory();
        memory.tip.map(|_| Height::new(memory.floor))
    }

    /// Waits until the disk is at `height`, if commits so far and the rules of merging lead there.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn wait_for_checkpoint(&self, height: Height) -> Result<(), StorageError> {
        self.states.wait_for_checkpoint(height.get())
    }

    /// Merges what is in memory, and waits until that is done and what became stale is removed.
    /// Merges nothing while blocks are yet to be replayed.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn persist(&self) -> Result<(), StorageError> {
        self.states.persist()
    }

    /// The newest height, 0 for genesis, and what its owner left with it; none before genesis.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn tip(&self) -> Result<Option<(Height, Vec<u8>)>, StorageError> {
        Ok(self.blocks.tip())
    }

    /// The block of a height; none above the tip, and none up to [`Self::first`].
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn block(&self, height: Height) -> Result<Option<Block>, StorageError> {
        let header = self.blocks.parsed(Kind::Header, height)?;
        let body = self.blocks.parsed(Kind::Body, height)?;
        Ok(header.zip(body).map(|(header, body)| Block { header, body }))
    }

    /// The header of a height. Reads no body. Below [`Self::first`] only ends of epochs have one.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn header(&self, height: Height) -> Result<Option<Header>, StorageError> {
        self.blocks.parsed(Kind::Header, height)
    }

    /// Why the block of a height is final. Below [`Self::first`] an end of an epoch may have a
    /// hand-over certificate alone.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn certificate(&self, height: Height) -> Result<Option<CommitCertificate>, StorageError> {
        self.blocks.parsed(Kind::Certificate, height)
    }

    /// The height of a block.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn height_of(&self, hash: &BlockHash) -> Result<Option<Height>, StorageError> {
        self.states.height_of(hash)
    }

    /// Height and position of a transaction.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn transaction(&self, id: &TransactionId) -> Result<Option<(Height, u32)>, StorageError> {
        self.states.transaction(id)
    }

    /// The last block of an epoch that has ended.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn epoch_end(&self, epoch: Epoch) -> Result<Option<Height>, StorageError> {
        self.blocks.epoch_end(epoch)
    }

    /// The layout of the committee of an epoch after the first, once the one before it has ended.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn committee(&self, epoch: Epoch) -> Result<Option<Vec<u8>>, StorageError> {
        self.blocks.committee(epoch)
    }

    /// The hand-over certificate of an epoch that has ended, if there is one.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn handover_certificate(
        &self,
        epoch: Epoch,
    ) -> Result<Option<HandoverCertificate>, StorageError> {
        self.blocks.handover_certificate(epoch)
    }

    /// Keeps a hand-over certificate, which the caller has verified, beside the end of its epoch;
    /// whether that end is here. Not flushed: one that a crash loses is collected again.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn put_handover_certificate(
        &self,
        certificate: &HandoverCertificate,
    ) -> Result<bool, StorageError> {
        self.blocks.put_handover_certificate(certificate)
    }

    /// Blocks from a height on, as many as `max_bytes` hold, but one at least if it is there.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn blocks(&self, from: Height, max_bytes: usize) -> Result<Vec<StoredBlock>, StorageError> {
        self.blocks.blocks(from, max_bytes)
    }
}

/// Checks that a height follows `before`, which is none before genesis.
fn check_next(found: u64, before: Option<u64>) -> Result<(), CommitError> {
    match before.map(|before| before + 1) {
        Some(expected) if found == expected => Ok(()),
        _ => Err(out_of_order(found, before)),
    }
}

fn out_of_order(found: u64, before: Option<u64>) -> CommitError {
    CommitError::OutOfOrder { found, expected: before.map_or(0, |before| before + 1) }
}

impl StateReader for LedgerStore {
    fn node(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.states.read_node(key).map_err(read_error)
    }

    fn value(&self, key: &Hash, version: u64) -> Result<Option<VersionedValue>, ReadError> {
        self.states.read_value(key, version)
    }

    fn index(&self, range: Range<&[u8]>, limit: usize) -> Result<Vec<Vec<u8>>, ReadError> {
        self.states.read_index(&range, limit).map_err(read_error)
    }
}

fn read_error(error: StorageError) -> ReadError {
    ReadError::Failed(Box::new(error))
}
