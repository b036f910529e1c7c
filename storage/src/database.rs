//! The only file that names `sled`: an ordered key-value store in one log file.
//!
//! Settings are measured, not chosen by taste: segments of 1 MiB (with smaller ones, leaf pages of
//! 8 KiB values leave the log for files that sled never syncs), no background flusher, one tree
//! per table. Facts about sled 0.34 that this file takes care of:
//!
//! - Its writes end in `sync_file_range`, which promises nothing after a power cut; yet it reuses
//!   a segment as soon as what replaced it is "stable" by that measure. If the disk then has the
//!   later write and not the earlier, the log does not read at all. So the log carries the
//!   attribute that makes writes go through in order, and [`Database::flush`] adds `sync_data`.
//! - sled syncs no directory and not its `conf` file. [`Database::open`] does.
//! - The lock on the log can outlive a dropped database for a moment. Opening retries briefly.
//! - A batch is atomic on recovery, but not when it fails half way: what was written before the
//!   error may come back. So nothing relies on a batch to hide its own first half; see
//!   `slivers.rs` for the order of writes.
//! - Its writing threads (seven in a process) all block if each holds a full buffer while the log
//!   is made shorter, and then everything hangs. So few buffers may wait: writers wait for the
//!   disk, which bounds memory as well.
//! - It panics on some damaged files. Opening turns that into an error.
//!
//! Invariant: after one failed write or flush nothing more is written or called durable
//! ([`StorageError::Stopped`]): what the disk holds is known again only after a restart.

use std::{
    fmt,
    fs::File,
    io,
    ops::{Deref, RangeBounds},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional};

use crate::StorageError;

/// Fixed when a database is created. At least four leaf pages of 17 values.
const SEGMENT_BYTES: usize = 1 << 20;
/// The largest value, so that a leaf page never leaves the log.
pub(crate) const VALUE_BYTES_MAX: usize = 9 << 10;
/// Bytes that may wait in sled's buffers, for the volume that slivers are written to. The log grows
/// by some twice as much, so that fewer segments wait than sled has threads that write them, which
/// all databases of a process share: only one volume at a time has anything to write.
pub(crate) const BACKLOG_BYTES_MAX: usize = 2 << 20;
/// The same for the store's main database and for the ledger's.
pub(crate) const SMALL_BACKLOG_BYTES_MAX: usize = BACKLOG_BYTES_MAX / 4;
/// sled's log file.
pub(crate) const LOG_FILE: &str = "db";

const LOCK_ATTEMPTS_MAX: u32 = 100;
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Why a database does not open.
#[derive(Debug)]
pub(crate) enum DatabaseError {
    /// The file system refused.
    Io(io::Error),
    /// The files are no database, or a damaged one.
    Corrupt(String),
}

impl From<io::Error> for DatabaseError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// An open database.
pub(crate) struct Database {
    db: sled::Db,
    log: File,
    state: Arc<State>,
}

/// What a database and its tables share.
#[derive(Debug)]
struct State {
    /// Shared with the databases that stop together with this one.
    stopped: Arc<AtomicBool>,
    backlog_bytes_max: usize,
    /// Bytes written since sled's buffers were last waited for.
    backlog_bytes: AtomicUsize,
    waiting: Mutex<()>,
}

impl State {
    const fn new(stopped: Arc<AtomicBool>, backlog_bytes_max: usize) -> Self {
        Self {
            stopped,
            backlog_bytes_max,
            backlog_bytes: AtomicUsize::new(0),
            waiting: Mutex::new(()),
        }
    }

    fn check_running(&self) -> Result<(), StorageError> {
        if self.stopped.load(Ordering::Acquire) { Err(StorageError::Stopped) } else { Ok(()) }
    }

    /// Counts bytes that sled buffered, and waits until they left its buffers if they are many.
    fn throttle(&self, tree: &sled::Tree, bytes: usize) -> sled::Result<()> {
        let backlog = self.backlog_bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if backlog < self.backlog_bytes_max {
            return Ok(());
        }
        let _waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let backlog = self.backlog_bytes.load(Ordering::Acquire);
        if backlog >= self.backlog_bytes_max {
            tree.flush()?;
            self.backlog_bytes.fetch_sub(backlog, Ordering::AcqRel);
        }
        Ok(())
    }
}

/// Not derived: sled would print every row that it holds.
impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("log", &self.log)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Database {
    /// Opens or creates the database in `dir`, which exists. The caller holds the store's lock.
    pub(crate) fn open(
        dir: &Path,
        cache_bytes: u64,
        backlog_bytes_max: usize,
    ) -> Result<Self, DatabaseError> {
        let stopped = Arc::new(AtomicBool::new(false));
        Self::open_with(dir, cache_bytes, State::new(stopped, backlog_bytes_max))
    }

    /// Opens or creates a database in `dir` that stops when this one does, and the other way round.
    pub(crate) fn open_beside(
        &self,
        dir: &Path,
        cache_bytes: u64,
        backlog_bytes_max: usize,
    ) -> Result<Self, DatabaseError> {
        let stopped = Arc::clone(&self.state.stopped);
        Self::open_with(dir, cache_bytes, State::new(stopped, backlog_bytes_max))
    }

    fn open_with(dir: &Path, cache_bytes: u64, state: State) -> Result<Self, DatabaseError> {
        let config = sled::Config::new()
            .path(dir)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(cache_bytes)
            .flush_every_ms(None);
        let db = open_patiently(&config)?;
        let log = File::open(dir.join(LOG_FILE))?;
        log.sync_all()?;
        write_through(&log);
        File::open(dir.join("conf"))?.sync_all()?;
        File::open(dir.join("blobs"))?.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(Self { db, log, state: Arc::new(state) })
    }

    /// The table `name`, created if absent.
    pub(crate) fn table(&self, name: &'static str) -> Result<Table, DatabaseError> {
        let tree = catch_unwind(AssertUnwindSafe(|| self.db.open_tree(name)))
            .map_err(|_| DatabaseError::Corrupt(format!("table {name}")))?
            .map_err(open_error)?;
        Ok(Table { tree, name, state: Arc::clone(&self.state) })
    }

    /// Makes everything written before the call durable.
    pub(crate) fn flush(&self) -> Result<(), StorageError> {
        self.state.check_running()?;
        let flushed = match self.db.flush() {
            Ok(_) => self.log.sync_data().map_err(StorageError::Io),
            Err(error) => Err(write_error("log", &self.state, error)),
        };
        if flushed.is_err() {
            self.state.stopped.store(true, Ordering::Release);
        }
        flushed
    }
}

/// Makes the file system write every change of the log through to the disk, in the order in which
/// sled makes them: the attribute belongs to the file, whoever writes to it.
#[cfg(target_os = "linux")]
fn write_through(log: &File) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

    let set = ioctl_getflags(log).and_then(|flags| ioctl_setflags(log, flags | IFlags::SYNC));
    if let Err(error) = set {
        tracing::warn!(
            %error,
            "this file system does not write through: a power cut may damage the store"
        );
    }
}

/// Elsewhere sled syncs the log after every write.
#[cfg(not(target_os = "linux"))]
fn write_through(_: &File) {}

/// Opens, waiting a bounded time for the lock of a database dropped just before.
fn open_patiently(config: &sled::Config) -> Result<sled::Db, DatabaseError> {
    let mut attempt = 1;
    loop {
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
            .map_err(|_| DatabaseError::Corrupt("reading it failed an assertion".into()))?;
        match opened {
            Ok(db) => return Ok(db),
            Err(error) if is_lock(&error) && attempt < LOCK_ATTEMPTS_MAX => {
                attempt += 1;
                thread::sleep(LOCK_RETRY);
            }
            Err(error) => return Err(open_error(error)),
        }
    }
}

/// sled tells this case by its text alone.
fn is_lock(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(e) if e.to_string().contains("could not acquire lock"))
}

fn open_error(error: sled::Error) -> DatabaseError {
    match error {
        sled::Error::Io(error) => DatabaseError::Io(error),
        other => DatabaseError::Corrupt(other.to_string()),
    }
}

/// A failed read concerns what was read. A sector that the disk cannot read is damage, like
/// bytes that do not match their checksum.
fn read_error(table: &'static str, error: sled::Error) -> StorageError {
    const UNREADABLE: Option<i32> = Some(rustix::io::Errno::IO.raw_os_error());
    match error {
        sled::Error::Io(e)
            if e.raw_os_error() != UNREADABLE && e.kind() != io::ErrorKind::UnexpectedEof =>
        {
            StorageError::Io(e)
        }
        other => {
            tracing::error!(table, error = %other, "table does not read");
            StorageError::Corrupt { table }
        }
    }
}

/// A failed write stops the store, unless it only met a page that does not read.
fn write_error(table: &'static str, state: &State, error: sled::Error) -> StorageError {
    if !matches!(error, sled::Error::Corruption { .. }) {
        state.stopped.store(true, Ordering::Release);
        tracing::error!(table, %error, "write failed, the store stops");
    }
    match error {
        sled::Error::Io(error) => StorageError::Io(error),
        _ => StorageError::Corrupt { table },
    }
}

/// A value as the database keeps it.
#[derive(Clone, Debug)]
pub(crate) struct Value(sled::IVec);

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// A key and its value.
pub(crate) type Row = (Value, Value);

/// One table.
#[derive(Clone)]
pub(crate) struct Table {
    tree: sled::Tree,
    name: &'static str,
    state: Arc<State>,
}

/// Not derived: sled would print every row.
impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Table").field(&self.name).finish()
    }
}

impl Table {
    /// The value of `key`.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Value>, StorageError> {
        match self.tree.get(key) {
            Ok(value) => Ok(value.map(Value)),
            Err(error) => Err(read_error(self.name, error)),
        }
    }

    /// Sets the value of `key`, in memory: durable after [`Database::flush`].
    pub(crate) fn insert(&self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        check_value(self.name, value)?;
        self.state.check_running()?;
        self.tree
            .insert(key, value)
            .and_then(|_| self.state.throttle(&self.tree, key.len() + value.len()))
            .map_err(|error| write_error(self.name, &self.state, error))
    }

    /// Replaces the value of `key` if it is `old`; whether it was.
    pub(crate) fn swap(&self, key: &[u8], old: &[u8], new: &[u8]) -> Result<bool, StorageError> {
        check_value(self.name, new)?;
        self.state.check_running()?;
        let swapped = self.tree.compare_and_swap(key, Some(old), Some(new)).and_then(|swapped| {
            self.state.throttle(&self.tree, key.len() + new.len())?;
            Ok(swapped.is_ok())
        });
        swapped.map_err(|error| write_error(self.name, &self.state, error))
    }

    /// The last key of a range.
    pub(crate) fn last_key<K: AsRef<[u8]>, R: RangeBounds<K>>(
        &self,
        keys: R,
    ) -> Result<Option<Value>, StorageError> {
        match self.tree.range(keys).next_back().transpose() {
            Ok(row) => Ok(row.map(|(key, _)| Value(key))),
            Err(error) => Err(read_error(self.name, error)),
        }
    }

    /// Removes `key`; whether it was there.
    pub(crate) fn remove(&self, key: &[u8]) -> Result<bool, StorageError> {
        Ok(self.take(key)?.is_some())
    }

    /// Removes `key`; what was there.
    pub(crate) fn take(&self, key: &[u8]) -> Result<Option<Value>, StorageError> {
        self.state.check_running()?;
        // A removal may copy its page.
        let removed = self.tree.remove(key).and_then(|old| {
            self.state.throttle(&self.tree, VALUE_BYTES_MAX)?;
            Ok(old.map(Value))
        });
        removed.map_err(|error| write_error(self.name, &self.state, error))
    }

    /// All rows in key order. Ends with the first error: sled would repeat it for ever.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Result<Row, StorageError>> + use<> {
        self.range::<&[u8], _>(..)
    }

    /// The rows of a range of keys, in key order. Ends with the first error.
    pub(crate) fn range<K: AsRef<[u8]>, R: RangeBounds<K>>(
        &self,
        keys: R,
    ) -> impl Iterator<Item = Result<Row, StorageError>> + use<K, R> {
        let name = self.name;
        let mut rows = self.tree.range(keys);
        let mut failed = false;
        std::iter::from_fn(move || {
            if failed {
                return None;
            }
            Some(match rows.next()? {
                Ok((key, value)) => Ok((Value(key), Value(value))),
                Err(error) => {
                    failed = true;
                    Err(read_error(name, error))
                }
            })
        })
    }

    /// Whether the table has no row.
    pub(crate) fn is_empty(&self) -> bool {
        self.tree.is_empty()
    }

    /// The error of a row that was never written so.
    pub(crate) const fn corrupt(&self) -> StorageError {
        StorageError::Corrupt { table: self.name }
    }
}

fn check_value(what: &'static str, value: &[u8]) -> Result<(), StorageError> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(StorageError::Length { what, bytes: value.len(), max_bytes: VALUE_BYTES_MAX });
    }
    Ok(())
}

/// Writes to several tables that come back together or not at all after a crash.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    parts: Vec<(Table, sled::Batch)>,
}

impl Batch {
    /// Sets the value of `key` in `table`.
    pub(crate) fn insert(
        &mut self,
        table: &Table,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), StorageError> {
        check_value(table.name, value)?;
        self.part(table).insert(key, value);
        Ok(())
    }

    /// Removes `key` from `table`.
    pub(crate) fn remove(&mut self, table: &Table, key: &[u8]) {
        self.part(table).remove(key);
    }

    fn part(&mut self, table: &Table) -> &mut sled::Batch {
        let found = self.parts.iter().position(|(t, _)| t.name == table.name);
        let index = found.unwrap_or_else(|| {
            self.parts.push((table.clone(), sled::Batch::default()));
            self.parts.len() - 1
        });
        &mut self.parts[index].1
    }

    /// Applies the writes.
    pub(crate) fn commit(self) -> Result<(), StorageError> {
        let Some((first, _)) = self.parts.first() else {
            return Ok(());
        };
        first.state.check_running()?;
        let trees: Vec<&sled::Tree> = self.parts.iter().map(|(table, _)| &table.tree).collect();
        let applied: Result<(), TransactionError<()>> = trees[..].transaction(|trees| {
            for (tree, (_, batch)) in trees.iter().zip(&self.parts) {
                tree.apply_batch(batch)?;
            }
            Ok::<(), ConflictableTransactionError<()>>(())
        });
        // Each batch makes sled write out the buffer before it, however full.
        let applied = applied.and_then(|()| {
            let throttled = first.state.throttle(&first.tree, first.state.backlog_bytes_max / 2);
            throttled.map_err(TransactionError::Storage)
        });
        match applied {
            // Aborts come from the closure alone, and it has none.
            Ok(()) | Err(TransactionError::Abort(())) => Ok(()),
            Err(TransactionError::Storage(error)) => {
                Err(write_error(first.name, &first.state, error))
            }
        }
    }
}
