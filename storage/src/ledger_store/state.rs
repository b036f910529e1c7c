//! The state as readers see it: memory over disk, and the thread that takes one to the other.
//!
//! A reader looks into memory, then, without any lock, into the runs of the floor that it saw there.
//! Runs never change, and stay while a reader holds them. So every read is exact, whatever is
//! committed, merged and compacted meanwhile, and a read below the floor is refused. The index has
//! no versions of its own; there memory overrules the runs entry by entry.
//!
//! Commits hand layers to the *merger*, a thread that ends with the store. It merges when much is
//! unmerged, when nobody has committed for a while, or when it is told to; then it moves the floor
//! as far as memory is to shrink. Between merges it compacts runs below the floor, in small steps.

use std::{
    ops::Range,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
    },
    time::{Duration, Instant},
};

use floe_protocol::{
    hash::Hash,
    index::Height,
    ledger::{BlockHash, ReadError, TransactionId, VersionedValue},
};

use super::{
    Limits,
    memory::{Layer, Memory},
    merge::{self, Disk, Runs},
    rows::{self, Kind},
    runs::{Compacted, Compaction, Merged, Run},
};
use crate::{
    StorageError,
    database::{Database, Table},
};

/// Entries that a compaction goes through before the merger looks for other work.
const COMPACTED_ENTRIES: usize = 2_000;

/// What commits, readers and the merger share.
#[derive(Debug)]
pub(super) struct States {
    pub(super) table: Table,
    pub(super) database: Database,
    pub(super) limits: Limits,
    memory: RwLock<Memory>,
    /// Locked by the merger while it works, and for genesis.
    disk: Mutex<Disk>,
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
    /// Merge at least up to it.
    asked: u64,
    committed_at: Instant,
    /// The merger does something.
    works: bool,
    stopping: bool,
    failed: bool,
}

impl Progress {
    /// How far the next merge leads; none if there is nothing to merge.
    fn target(&self) -> Option<u64> {
        let checkpoint = self.checkpoint?;
        (self.tip > checkpoint && !self.failed).then_some(self.tip)
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
    pub(super) fn new(table: Table, database: Database, disk: Disk, limits: Limits) -> Self {
        let progress = Progress {
            checkpoint: disk.checkpoint,
            tip: disk.checkpoint.unwrap_or(0),
            unmerged_bytes: 0,
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
            memory: RwLock::new(Memory::new(disk.checkpoint, disk.runs.clone())),
            disk: Mutex::new(disk),
            progress: Mutex::new(progress),
            changed: Condvar::new(),
        }
    }

    pub(super) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Writes genesis, durably; its runs. The caller writes the tip, then shows it.
    pub(super) fn write_genesis(&self, layer: Layer) -> Result<Runs, StorageError> {
        self.disk().merge(&self.database, &[Arc::new(layer)], 0)
    }

    /// Shows the first version, that of genesis or of a snapshot, which is on disk.
    pub(super) fn show_first(&self, version: u64, runs: Runs) {
        *self.memory_mut() = Memory::new(Some(version), runs);
        let mut progress = self.progress();
        progress.checkpoint = Some(version);
        progress.tip = version;
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
        let mut compaction: Option<Compaction> = None;
        // Compacted away, but a reader may hold them.
        let mut old: Vec<Arc<Run>> = Vec::new();
        loop {
            for run in old.extract_if(.., |run| Arc::strong_count(run) == 1) {
                self.disk().remove(&run)?;
            }
            match self.next_work(compaction.is_some()) {
                Work::Stop => return Ok(()),
                Work::Merge(from, to) => self.merge(from, to)?,
                Work::Other => {
                    let more = compaction.as_mut().map(|running| running.step(COMPACTED_ENTRIES));
                    if more.transpose()? == Some(false)
                        && let Some(ended) = compaction.take()
                    {
                        old.extend(self.end_compaction(ended)?);
                    }
                }
            }
            if compaction.is_none() {
                let runs = self.memory().runs();
                compaction = self.disk().compaction(&runs)?;
            }
        }
    }

    /// Waits for a merge, unless there is something else to do.
    fn next_work(&self, has_other: bool) -> Work {
        let mut progress = self.progress();
        loop {
            let due = progress.due(&self.limits);
            progress.works = due.is_some() || has_other;
            if let (Some(from), Some(to)) = (progress.checkpoint, due) {
                return Work::Merge(from, to);
            }
            if progress.stopping {
                // A compaction is begun anew at the next start.
                return Work::Stop;
            }
            if has_other {
                return Work::Other;
            }
            self.changed.notify_all();
            let waits = progress.target().is_some();
            let rest = self.limits.idle.saturating_sub(progress.committed_at.elapsed());
            progress = self.wait(progress, waits.then_some(rest));
        }
    }

    fn merge(&self, from: u64, to: u64) -> Result<(), StorageError> {
        let layers = self.memory().layers(from, to);
        let runs = self.disk().merge(&self.database, &layers, to)?;
        let merged: usize = layers.iter().map(|layer| layer.bytes).sum();
        tracing::debug!(from, to, bytes = merged, "state merged");
        drop(layers);
        self.memory_mut().merged(to, runs);
        let Limits { state_heights, state_bytes, .. } = self.limits;
        while self.memory_mut().raise_floor(state_heights, state_bytes) {
            loop {
                let dropped = self.memory_mut().drop_oldest();
                if dropped.is_none() {
                    break;
                }
            }
        }
        let mut progress = self.progress();
        progress.checkpoint = Some(to);
        progress.unmerged_bytes -= merged;
        self.changed.notify_all();
        Ok(())
    }

    /// Makes the compacted run count; the runs that it replaces.
    fn end_compaction(&self, ended: Compaction) -> Result<Vec<Arc<Run>>, StorageError> {
        let Compacted { old, new } = ended.finish()?;
        self.disk().replace(&self.database, &old, new.as_ref())?;
        self.memory_mut().compacted(&old, new.as_ref());
        tracing::debug!(runs = old.len(), bytes = new.map_or(0, |run| run.bytes), "runs compacted");
        Ok(old)
    }

    pub(super) fn height_of(&self, hash: &BlockHash) -> Result<Option<Height>, StorageError> {
        let runs = {
            let memory = self.memory();
            if let Some(height) = memory.height_of(hash) {
                return Ok(Some(height));
            }
            memory.runs()
        };
        let key = rows::key(Kind::Hash, &[hash.hash().as_bytes()]);
        let height = merge::get(&self.table, &runs.names, &key)?;
        let height = height.map(|height| rows::number_of(&self.table, &height)).transpose()?;
        Ok(height.map(Height::new))
    }

    pub(super) fn transaction(
        &self,
        id: &TransactionId,
    ) -> Result<Option<(Height, u32)>, StorageError> {
        let runs = {
            let memory = self.memory();
            if let Some(place) = memory.transaction(id) {
                return Ok(Some(place));
            }
            memory.runs()
        };
        let key = rows::key(Kind::Transaction, &[id.hash().as_bytes()]);
        let Some(place) = merge::get(&self.table, &runs.names, &key)? else {
            return Ok(None);
        };
        let (height, position) = place.split_first_chunk().ok_or_else(|| self.table.corrupt())?;
        let position = position.try_into().map_err(|_| self.table.corrupt())?;
        let height = Height::new(u64::from_be_bytes(*height));
        Ok(Some((height, u32::from_be_bytes(position))))
    }

    pub(super) fn read_node(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let runs = {
            let memory = self.memory();
            if let Some(node) = memory.node(key) {
                return Ok(Some(node));
            }
            memory.runs()
        };
        merge::get(&self.table, &runs.state, &rows::node(key))
    }

    pub(super) fn read_value(
        &self,
        key: &Hash,
        version: u64,
    ) -> Result<Option<VersionedValue>, ReadError> {
        let runs = {
            let memory = self.memory();
            let oldest = memory.floor;
            if version < oldest {
                return Err(ReadError::NoSuchVersion { version, oldest });
            }
            if let Some(value) = memory.value(key, version) {
                return Ok(Some(value));
            }
            memory.runs()
        };
        let value = merge::get(&self.table, &runs.state, &rows::value(key));
        let value = value.and_then(|value| {
            value.map(|value| merge::parse_value(&self.table, &value)).transpose()
        });
        value.map_err(|error| ReadError::Failed(error.into()))
    }

    pub(super) fn read_index(
        &self,
        range: &Range<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, StorageError> {
        if range.start >= range.end || limit == 0 {
            return Ok(Vec::new());
        }
        let (runs, known) = {
            let memory = self.memory();
            (memory.runs(), memory.index(range, limit))
        };
        let end = rows::key(Kind::Index, &[range.end]);
        let start = rows::key(Kind::Index, &[range.start]);
        let mut stored = Merged::new(&self.table, &runs.state, &start)?;
        let mut next_stored = || -> Result<Option<Vec<u8>>, StorageError> {
            while let Some(entry) = stored.next()? {
                if *entry.key >= *end {
                    return Ok(None);
                }
                if entry.value.is_some() {
                    return Ok(Some(entry.key[1..].to_vec()));
                }
            }
            Ok(None)
        };
        let mut known = known.iter().peekable();
        let mut next = next_stored()?;
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
                next = next_stored()?;
            } else if let Some((entry, is_there)) = known.next() {
                if next.as_deref() == Some(&**entry) {
                    next = next_stored()?;
                }
                if *is_there {
                    entries.push(entry.to_vec());
                }
            }
        }
        Ok(entries)
    }
}

/// What the merger does next.
enum Work {
    /// Merge the versions above the first up to the second.
    Merge(u64, u64),
    /// Go on with what else there is.
    Other,
    Stop,
}
