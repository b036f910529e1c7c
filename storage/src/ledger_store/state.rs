//! The state as readers see it: memory over disk, and the thread that takes one to the other.
//!
//! A reader looks into memory, then, without any lock, at the disk as of the floor that it saw. If
//! the floor has moved meanwhile, rows may have gone, and it looks again. So each read is exact,
//! and a read below the floor is refused. What a merge writes does not disturb readers: its rows
//! have versions above the floor. The index has no versions; there memory overrules the disk entry
//! by entry, and a reader looks again if a merge began to apply what was younger than its look.
//!
//! Commits hand layers to the *merger*, a thread that ends with the store. It merges when much is
//! unmerged, when nobody has committed for a while, or when it is told to; then it moves the floor
//! as far as memory is to shrink and removes what was stale there.

use std::{
    ops::Range,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use floe_protocol::{
    hash::Hash,
    index::Height,
    ledger::{BlockHash, ReadError, TransactionId, VersionedValue},
};

use super::{
    Limits, NoSuchVersion,
    memory::{Layer, Memory},
    merge::{self, Plan, Recovered},
    rows::{self, Kind},
};
use crate::{
    StorageError,
    database::{Database, Table},
};

/// What commits, readers and the merger share.
#[derive(Debug)]
pub(super) struct States {
    pub(super) table: Table,
    pub(super) database: Database,
    limits: Limits,
    memory: RwLock<Memory>,
    /// The newest version whose changes of the index may be on disk.
    indexed: AtomicU64,
    progress: Mutex<Progress>,
    /// Told when `progress` changes.
    changed: Condvar,
}

/// What is to be merged. Never locked together with the memory.
#[derive(Debug)]
struct Progress {
    /// The version on disk; none before genesis.
    checkpoint: Option<u64>,
    /// The version in memory.
    tip: u64,
    unmerged_bytes: usize,
    /// The version to which the next merge must lead.
    forced: Option<u64>,
    /// Merge at least up to it.
    asked: u64,
    committed_at: Instant,
    /// The merger does something.
    works: bool,
    stopping: bool,
    failed: bool,
}

impl Progress {
    /// How far the next merge leads; none if there is nothing, or too little after a crash.
    fn target(&self) -> Option<u64> {
        let checkpoint = self.checkpoint?;
        let target = self.forced.unwrap_or(self.tip);
        (target > checkpoint && target <= self.tip && !self.failed).then_some(target)
    }

    fn due(&self, limits: &Limits) -> Option<u64> {
        let target = self.target()?;
        let checkpoint = self.checkpoint?;
        let due = self.stopping
            || self.asked > checkpoint
            || self.tip - checkpoint >= limits.merge_heights
            || self.unmerged_bytes >= limits.merge_bytes
            || self.committed_at.elapsed() >= limits.idle;
        due.then_some(target)
    }
}

impl States {
    pub(super) fn new(
        table: Table,
        database: Database,
        recovered: Recovered,
        limits: Limits,
    ) -> Self {
        let tip = recovered.checkpoint.unwrap_or(0);
        let progress = Progress {
            checkpoint: recovered.checkpoint,
            tip,
            unmerged_bytes: 0,
            forced: recovered.forced,
            asked: 0,
            committed_at: Instant::now(),
            works: true,
            stopping: false,
            failed: false,
        };
        Self {
            table,
            database,
            limits,
            memory: RwLock::new(Memory::new(recovered.checkpoint)),
            indexed: AtomicU64::new(tip),
            progress: Mutex::new(progress),
            changed: Condvar::new(),
        }
    }

    pub(super) fn memory(&self) -> RwLockReadGuard<'_, Memory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory_mut(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        progress: MutexGuard<'a, Progress>,
        time: Option<Duration>,
    ) -> MutexGuard<'a, Progress> {
        match time {
            None => self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner),
            Some(time) => {
                let waited = self.changed.wait_timeout(progress, time);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    /// Waits while so much is unmerged that memory must not grow.
    ///
    /// # Errors
    /// [`StorageError::Stopped`]: the merger failed.
    pub(super) fn wait_for_room(&self) -> Result<(), StorageError> {
        let mut progress = self.progress();
        while progress.unmerged_bytes >= self.limits.unmerged_bytes_max
            && progress.target().is_some()
        {
            progress = self.wait(progress, None);
        }
        if progress.failed { Err(StorageError::Stopped) } else { Ok(()) }
    }

    /// Shows the next version.
    pub(super) fn push(&self, layer: Layer) {
        let (version, bytes) = (layer.version, layer.bytes);
        self.memory_mut().push(Arc::new(layer));
        let mut progress = self.progress();
        let was_clean = progress.checkpoint == Some(progress.tip);
        progress.tip = version;
        progress.unmerged_bytes += bytes;
        progress.committed_at = Instant::now();
        // The merger sleeps for a time while there is something, for ever while there is nothing.
        if was_clean || progress.due(&self.limits).is_some() {
            self.changed.notify_all();
        }
    }

    /// Writes genesis. The caller flushes, then shows it.
    pub(super) fn write_genesis(&self, layer: Layer) -> Result<(), StorageError> {
        let plan = Plan::new(&[Arc::new(layer)], None, 0);
        plan.steps().try_for_each(|step| step.apply(&self.table).map(drop))
    }

    /// Shows genesis, which is durable.
    pub(super) fn show_genesis(&self) {
        *self.memory_mut() = Memory::new(Some(0));
        self.progress().checkpoint = Some(0);
    }

    pub(super) fn checkpoint(&self) -> Option<u64> {
        self.progress().checkpoint
    }

    /// Waits until the disk is at `version`, or no merge can lead there.
    pub(super) fn wait_for_checkpoint(&self, version: u64) -> Result<(), StorageError> {
        let mut progress = self.progress();
        while progress.checkpoint < Some(version) && progress.target().is_some() {
            progress = self.wait(progress, None);
        }
        if progress.failed { Err(StorageError::Stopped) } else { Ok(()) }
    }

    /// Has everything merged that is in memory, and waits until the merger rests.
    pub(super) fn persist(&self) -> Result<(), StorageError> {
        let mut progress = self.progress();
        progress.asked = progress.tip;
        self.changed.notify_all();
        let asked = Some(progress.asked);
        let unmerged = |p: &Progress| p.checkpoint < asked && p.target().is_some();
        while !progress.failed && (progress.works || unmerged(&progress)) {
            progress = self.wait(progress, None);
        }
        if progress.failed { Err(StorageError::Stopped) } else { Ok(()) }
    }

    /// Ends the merger, once it has merged everything.
    pub(super) fn stop(&self) {
        self.progress().stopping = true;
        self.changed.notify_all();
    }

    /// The merger's work, until [`Self::stop`] or a failure.
    pub(super) fn run_merger(&self) {
        let merged = self.run();
        if let Err(error) = merged {
            tracing::error!(%error, "the ledger's state cannot be merged, the store stops");
            self.progress().failed = true;
            self.changed.notify_all();
        }
    }

    fn run(&self) -> Result<(), StorageError> {
        // What an earlier process listed and may have begun to remove.
        merge::remove_stale(&self.table, self.memory().floor, true)?;
        while let Some((from, to)) = self.next_merge() {
            self.merge(from, to)?;
            self.shrink()?;
        }
        Ok(())
    }

    /// Waits for the next merge; none when the store ends.
    fn next_merge(&self) -> Option<(u64, u64)> {
        let mut progress = self.progress();
        loop {
            progress.works = progress.due(&self.limits).is_some();
            if let Some(to) = progress.due(&self.limits) {
                return progress.checkpoint.map(|from| (from, to));
            }
            if progress.stopping {
                return None;
            }
            self.changed.notify_all();
            let waits = progress.target().is_some();
            let rest = self.limits.idle.saturating_sub(progress.committed_at.elapsed());
            progress = self.wait(progress, waits.then_some(rest));
        }
    }

    fn merge(&self, from: u64, to: u64) -> Result<(), StorageError> {
        let layers = self.memory().layers(from, to);
        for step in Plan::new(&layers, Some(from), to).steps() {
            if step.apply(&self.table)? {
                self.database.flush()?;
                self.indexed.store(to, Ordering::SeqCst);
            }
        }
        let merged: usize = layers.iter().map(|layer| layer.bytes).sum();
        tracing::debug!(from, to, bytes = merged, "state merged");
        self.memory_mut().merged(to);
        let mut progress = self.progress();
        progress.checkpoint = Some(to);
        progress.forced = None;
        progress.unmerged_bytes -= merged;
        self.changed.notify_all();
        Ok(())
    }

    /// Moves the floor from checkpoint to checkpoint while more than enough is in memory, and
    /// removes what no reader can ask for any more.
    fn shrink(&self) -> Result<(), StorageError> {
        let Limits { state_heights, state_bytes, .. } = self.limits;
        loop {
            // Not in the condition of a loop, which would hold the lock in its body.
            let floor = self.memory_mut().raise_floor(state_heights, state_bytes);
            let Some(floor) = floor else {
                return Ok(());
            };
            while self.memory_mut().drop_oldest() {}
            merge::remove_stale(&self.table, floor, false)?;
        }
    }

    pub(super) fn height_of(&self, hash: &BlockHash) -> Result<Option<Height>, StorageError> {
        if let Some(height) = self.memory().height_of(hash) {
            return Ok(Some(height));
        }
        let row = rows::key(Kind::Hash, &[hash.hash().as_bytes()]);
        let height = rows::get(&self.table, &row)?;
        let height = height.map(|height| rows::number_of(&self.table, &height)).transpose()?;
        Ok(height.map(Height::new))
    }

    pub(super) fn transaction(
        &self,
        id: &TransactionId,
    ) -> Result<Option<(Height, u32)>, StorageError> {
        if let Some(place) = self.memory().transaction(id) {
            return Ok(Some(place));
        }
        let row = rows::key(Kind::Transaction, &[id.hash().as_bytes()]);
        let Some(place) = rows::get(&self.table, &row)? else {
            return Ok(None);
        };
        let (height, position) = place.split_first_chunk().ok_or_else(|| self.table.corrupt())?;
        let position = position.try_into().map_err(|_| self.table.corrupt())?;
        let height = Height::new(u64::from_be_bytes(*height));
        Ok(Some((height, u32::from_be_bytes(position))))
    }

    pub(super) fn read_node(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        loop {
            let floor = {
                let memory = self.memory();
                if memory.tip.is_none() {
                    return Ok(None);
                }
                if let Some(node) = memory.node(key) {
                    return Ok(Some(node));
                }
                memory.floor
            };
            let found = rows::get(&self.table, &rows::node(key));
            if self.memory().floor == floor {
                return found;
            }
        }
    }

    pub(super) fn read_value(
        &self,
        key: &Hash,
        version: u64,
    ) -> Result<Option<VersionedValue>, ReadError> {
        loop {
            let floor = {
                let memory = self.memory();
                let Some(tip) = memory.tip else {
                    return Ok(None);
                };
                if version < memory.floor {
                    let oldest = memory.floor;
                    return Err(ReadError(NoSuchVersion { version, oldest }.into()));
                }
                if let Some(value) = memory.value(key, version.min(tip)) {
                    return Ok(Some(value));
                }
                memory.floor
            };
            let found = self.value_on_disk(key, floor);
            if self.memory().floor == floor {
                return found.map_err(|error| ReadError(error.into()));
            }
        }
    }

    fn value_on_disk(
        &self,
        key: &Hash,
        version: u64,
    ) -> Result<Option<VersionedValue>, StorageError> {
        let range = rows::value(key, version)..=rows::value(key, 0);
        let Some(newest) = self.table.range(range).next() else {
            return Ok(None);
        };
        let (row, head) = newest?;
        let version = rows::value_version(&self.table, &row)?;
        let value = rows::assemble(&self.table, &row, &head)?;
        merge::parse_value(&self.table, value).map(|value| Some((version, value)))
    }

    pub(super) fn read_index(
        &self,
        range: &Range<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, StorageError> {
        if range.start >= range.end || limit == 0 {
            return Ok(Vec::new());
        }
        loop {
            let (tip, known) = {
                let memory = self.memory();
                let Some(tip) = memory.tip else {
                    return Ok(Vec::new());
                };
                (tip, memory.index(range, limit))
            };
            let found = self.index_over(range, limit, &known);
            if self.indexed.load(Ordering::SeqCst) <= tip {
                return found;
            }
        }
    }

    /// The entries on disk and `known`, which overrules them.
    fn index_over(
        &self,
        range: &Range<&[u8]>,
        limit: usize,
        known: &[(Arc<[u8]>, bool)],
    ) -> Result<Vec<Vec<u8>>, StorageError> {
        let keys = rows::key(Kind::Index, &[range.start])..rows::key(Kind::Index, &[range.end]);
        let mut stored = self.table.range(keys).map(|row| row.map(|(key, _)| key[1..].to_vec()));
        let mut known = known.iter().peekable();
        let mut next = stored.next().transpose()?;
        let mut entries = Vec::new();
        while entries.len() < limit {
            let from_memory = match (&next, known.peek()) {
                (None, None) => break,
                (Some(stored), Some((entry, _))) => **entry <= **stored,
                (None, Some(_)) => true,
                (Some(_), None) => false,
            };
            if !from_memory {
                entries.extend(next.take());
                next = stored.next().transpose()?;
            } else if let Some((entry, is_there)) = known.next() {
                if next.as_deref() == Some(&**entry) {
                    next = stored.next().transpose()?;
                }
                if *is_there {
                    entries.push(entry.to_vec());
                }
            }
        }
        Ok(entries)
    }
}
