//! How much the store holds, and whether it takes more.
//!
//! *Live* bytes are what the tables hold: contents, keys and a fixed overhead per row. The logs
//! take more than that, because sled writes new versions of pages beside the old ones and reuses
//! whole segments only: some 1.6 times the live bytes for slivers of 1 MiB, 1.9 for 64 KiB, 2 for
//! 4 KiB, 3 and more for slivers of a few hundred bytes. It stays so while half of the contents is
//! replaced again and again, if volumes are compacted (`benches/pairs.rs`). What lives alone in
//! a volume goes back to the disk when it is removed: 300 MiB put and removed four times took some
//! 520 MiB each time, and left 1, 1, 2 and 2 MiB. Compaction leaves at most two fifths of a volume
//! dead, so that the disk holds at most 5/3 of what a fresh store would.
//!
//! The quota bounds what the store's files really take. New slivers, pair proofs and headers
//! are refused once they might not fit below it. Passing it is possible by what was written since
//! the last look at the disk, some 20 MiB, by the writes of deletions, which always go on, like
//! reads, and by the live part of one volume while it is compacted. Half of the reserve stays free
//! whatever happens. A look asks for the files of the main database and of the active volume: those
//! of sealed volumes do not change.
//!
//! Invariant: live bytes are counted before the write and given back if it fails; they are
//! recomputed at every start.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{FullLimit, StorageError};

/// What a row costs beside key and value: headers in the log and pointers in its page.
const ROW_OVERHEAD_BYTES: u64 = 64;
/// Log bytes per byte of new rows, measured 1.6 to 2 in a volume.
const LOG_PER_NEW: u64 = 2;
/// The disk is looked at again after so long, or so many bytes.
const SAMPLE_AGE_MAX: Duration = Duration::from_secs(1);
const SAMPLE_BYTES_MAX: u64 = 8 << 20;

/// What a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Sliver pairs, complete ones.
    pub pairs: u64,
    /// Blobs of which something is kept.
    pub blobs: u64,
    /// Bytes of all contents, with keys and the overhead of rows.
    pub live_bytes: u64,
    /// Disk space that the store takes.
    pub disk_bytes: u64,
    /// Disk space that it may take.
    pub quota_bytes: u64,
    /// Free space on its disk.
    pub free_bytes: u64,
    /// Whether a further sliver pair would be taken.
    pub accepts_slivers: bool,
    /// Damaged or absent pieces found since the start.
    pub damaged_pieces: u64,
}

/// Bytes that one row counts.
pub(crate) fn row_bytes(key: usize, value: usize) -> u64 {
    u64::try_from(key + value).expect("rows are small") + ROW_OVERHEAD_BYTES
}

/// The count of live bytes and the limits on them.
#[derive(Debug)]
pub(crate) struct Space {
    dir: PathBuf,
    quota_bytes: u64,
    reserve_bytes: u64,
    live: AtomicU64,
    /// Disk space of sealed volumes, which does not change.
    sealed: AtomicU64,
    /// The directory of the active volume.
    growing: Mutex<Option<PathBuf>>,
    sample: Mutex<Option<Sample>>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    taken: Instant,
    written_bytes: u64,
    disk: Disk,
}

/// What the file system says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disk {
    pub(crate) disk_bytes: u64,
    pub(crate) free_bytes: u64,
}

impl Disk {
    /// A disk that does not answer has no room.
    pub(crate) const UNKNOWN: Self = Self { disk_bytes: 0, free_bytes: 0 };
}

impl Space {
    pub(crate) fn new(dir: &Path, quota_bytes: u64, reserve_bytes: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            quota_bytes,
            reserve_bytes,
            live: AtomicU64::new(0),
            sealed: AtomicU64::new(0),
            growing: Mutex::default(),
            sample: Mutex::default(),
        }
    }

    pub(crate) const fn quota_bytes(&self) -> u64 {
        self.quota_bytes
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// Counts bytes without asking whether there is room.
    pub(crate) fn add(&self, bytes: u64) {
        self.live.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that are about to be written, if there is room for them.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<(), StorageError> {
        self.check(self.disk(bytes)?, bytes)?;
        self.add(bytes);
        Ok(())
    }

    /// Takes back bytes that were not written, or that were removed.
    pub(crate) fn release(&self, bytes: u64) {
        self.live.update(Ordering::Relaxed, Ordering::Relaxed, |live| live.saturating_sub(bytes));
    }

    /// Counts the disk space of a volume that was sealed.
    pub(crate) fn add_sealed(&self, disk_bytes: u64) {
        self.sealed.fetch_add(disk_bytes, Ordering::AcqRel);
        self.look_again();
    }

    /// A sealed volume is gone, or goes on.
    pub(crate) fn release_sealed(&self, disk_bytes: u64) {
        let order = Ordering::AcqRel;
        self.sealed.update(order, Ordering::Acquire, |sealed| sealed.saturating_sub(disk_bytes));
        self.look_again();
    }

    /// Names the directory of the active volume.
    pub(crate) fn set_growing(&self, dir: Option<&Path>) {
        let mut growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        *growing = dir.map(Path::to_owned);
    }

    /// Whether there is room to write so many bytes of which more will be freed: the quota may be
    /// passed meanwhile, and half of the reserve is for this.
    pub(crate) fn has_room_to_move(&self, bytes: u64) -> Result<bool, StorageError> {
        let written = bytes.saturating_mul(LOG_PER_NEW);
        let free_bytes = self.disk(bytes)?.free_bytes;
        Ok(free_bytes >= (self.reserve_bytes / 2).saturating_add(written))
    }

    /// Whether so many more bytes would be taken.
    pub(crate) fn accepts(&self, disk: Disk, bytes: u64) -> bool {
        self.check(disk, bytes).is_ok()
    }

    /// What the file system says, at most about a second old.
    pub(crate) fn disk(&self, written_bytes: u64) -> Result<Disk, StorageError> {
        let mut sample = self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sample) = sample.as_mut() {
            sample.written_bytes += written_bytes;
            if sample.taken.elapsed() < SAMPLE_AGE_MAX && sample.written_bytes < SAMPLE_BYTES_MAX {
                return Ok(sample.disk);
            }
        }
        let disk = self.look()?;
        *sample = Some(Sample { taken: Instant::now(), written_bytes: 0, disk });
        Ok(disk)
    }

    /// The next question about the disk is answered by looking.
    fn look_again(&self) {
        *self.sample.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Adds up the store's files and asks the file system for its free space.
    fn look(&self) -> io::Result<Disk> {
        let disk = rustix::fs::statvfs(&self.dir)?;
        let growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let growing_bytes = growing.map_or(Ok(0), |dir| disk_bytes(&dir))?;
        let main_bytes = disk_bytes(&self.dir)?;
        let sealed_bytes = self.sealed.load(Ordering::Acquire);
        Ok(Disk {
            disk_bytes: main_bytes.saturating_add(growing_bytes).saturating_add(sealed_bytes),
            free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
        })
    }

    fn check(&self, disk: Disk, bytes: u64) -> Result<(), StorageError> {
        let written = bytes.saturating_mul(LOG_PER_NEW);
        if disk.disk_bytes.saturating_add(written) > self.quota_bytes {
            return Err(StorageError::Full {
                limit: FullLimit::Quota {
                    disk_bytes: disk.disk_bytes,
                    quota_bytes: self.quota_bytes,
                },
            });
        }
        if disk.free_bytes < self.reserve_bytes.saturating_add(written) {
            return Err(StorageError::Full {
                limit: FullLimit::Reserve {
                    free_bytes: disk.free_bytes,
                    reserve_bytes: self.reserve_bytes,
                },
            });
        }
        Ok(())
    }
}

/// Disk space of a database in `dir`; nothing of one that is not there.
pub(crate) fn disk_bytes(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for dir in [dir, &dir.join("blobs")] {
        match allocated_bytes(dir) {
            Ok(allocated) => bytes += allocated,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

fn allocated_bytes(dir: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;

    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        match entry?.metadata() {
            Ok(metadata) => bytes += metadata.blocks() * 512,
            // sled removes old snapshots on its own.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}
