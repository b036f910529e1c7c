//! One volume: a directory with a database of pieces that only grows, and what is counted of it.
//!
//! Whoever is given a place counts as live there before anything is written, and until its record
//! no longer names the place. So a volume that takes nothing more and counts no pair is named by
//! no whole pair, and never will be.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::{database::LOG_FILE, pieces::Pieces, usage};

/// A volume, open or not.
#[derive(Debug)]
pub(crate) struct Volume {
    number: u32,
    dir: PathBuf,
    /// Bytes of all places that it gave.
    given: AtomicU64,
    live_bytes: AtomicU64,
    live_pairs: AtomicU64,
    /// It takes nothing more.
    sealed: AtomicBool,
    /// Its database does not read, or is gone.
    lost: AtomicBool,
    /// Disk space of a sealed volume.
    disk_bytes: AtomicU64,
    /// Held while its database is opened or removed.
    open: Mutex<Weak<Pieces>>,
}

impl Volume {
    /// The volume `number` in `volumes`, sealed until it is chosen to be written to.
    pub(crate) fn new(volumes: &Path, number: u32) -> Self {
        Self {
            number,
            dir: volumes.join(format!("{number:06}")),
            given: AtomicU64::new(0),
            live_bytes: AtomicU64::new(0),
            live_pairs: AtomicU64::new(0),
            sealed: AtomicBool::new(true),
            lost: AtomicBool::new(false),
            disk_bytes: AtomicU64::new(0),
            open: Mutex::default(),
        }
    }

    pub(crate) const fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Gives a place of so many bytes to a pair, which counts as live there.
    pub(crate) fn give(&self, bytes: u64) -> u64 {
        self.count(bytes);
        self.given.fetch_add(bytes, Ordering::AcqRel)
    }

    /// Counts a pair that is there.
    pub(crate) fn count(&self, bytes: u64) {
        self.live_bytes.fetch_add(bytes, Ordering::AcqRel);
        self.live_pairs.fetch_add(1, Ordering::AcqRel);
    }

    /// A pair no longer lives here.
    pub(crate) fn release(&self, bytes: u64) {
        let order = Ordering::AcqRel;
        self.live_bytes.update(order, Ordering::Acquire, |live| live.saturating_sub(bytes));
        self.live_pairs.update(order, Ordering::Acquire, |live| live.saturating_sub(1));
    }

    /// No record names this volume, whatever was counted.
    pub(crate) fn release_all(&self) {
        self.live_bytes.store(0, Ordering::Release);
        self.live_pairs.store(0, Ordering::Release);
    }

    /// Places up to `end` were given.
    pub(crate) fn given_up_to(&self, end: u64) {
        self.given.fetch_max(end, Ordering::AcqRel);
    }

    pub(crate) fn given(&self) -> u64 {
        self.given.load(Ordering::Acquire)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.live_pairs.load(Ordering::Acquire) == 0
    }

    pub(crate) fn dead_bytes(&self) -> u64 {
        self.given().saturating_sub(self.live_bytes.load(Ordering::Acquire))
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    pub(crate) fn set_sealed(&self, sealed: bool) {
        self.sealed.store(sealed, Ordering::Release);
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    pub(crate) fn set_lost(&self) {
        self.lost.store(true, Ordering::Release);
    }

    /// Disk space as of the last [`Self::measure`].
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.disk_bytes.load(Ordering::Acquire)
    }

    /// Looks how much disk space the volume takes.
    pub(crate) fn measure(&self) -> io::Result<u64> {
        let bytes = usage::disk_bytes(&self.dir)?;
        self.disk_bytes.store(bytes, Ordering::Release);
        Ok(bytes)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Weak<Pieces>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a log to open: sled would create a new one.
    pub(crate) fn has_log(&self) -> io::Result<bool> {
        match fs::metadata(self.dir.join(LOG_FILE)) {
            Ok(metadata) => Ok(metadata.len() > 0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}
