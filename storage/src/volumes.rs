//! Volumes: where pieces lie, so that the disk gets back what is removed.
//!
//! sled reuses the space of removed rows but hardly ever returns it to the file system. So pieces
//! are kept in many small databases, `volumes/NNNNNN/` below the store's directory, that are only
//! ever written to at their end: one of them is *active* and takes new pairs until it is full,
//! then it is *sealed* and a new one begins. A pair is removed by removing its record; a volume
//! that no pair lives in goes as a whole. One that is mostly dead is emptied first, by moving
//! what lives in it to the active one (see `compaction.rs`).
//!
//! Invariants: only the active volume has writes that may not be durable: sealing flushes it while
//! nobody writes. A volume's directory goes only after the main database was flushed with no
//! record naming it, and is renamed first, so that no half of it is ever taken for a volume.
//! Sealed volumes are opened when somebody reads them; few stay open, and not for long if much is
//! read (see `volumes/open.rs`), which bounds memory.

mod active;
mod open;
mod removal;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use floe_protocol::encoding::Axis;

pub(crate) use self::active::KEPT_BYTES_MAX;
#[cfg(test)]
pub(crate) use self::active::REOPENED_AFTER_BYTES;
use self::{
    active::Active,
    open::{LOST, OPEN_MAX, OpenVolumes},
};
use crate::{
    StorageError, StoreConfig,
    database::{Database, Table},
    key::PairKey,
    opening,
    pair_record::{PairRecord, Place},
    pieces::Pieces,
    schema,
    usage::Space,
    volume::Volume,
};

/// A volume with so many bytes takes no more. Three fifths of it are the most that is moved to give
/// one back, and what the quota may be passed by meanwhile.
const VOLUME_BYTES_MAX: u64 = 128 << 20;
/// Smaller volumes would be mostly overhead.
const VOLUME_BYTES_MIN: u64 = 16 << 20;
/// A store has room for at least so many volumes below its quota.
const VOLUMES_PER_QUOTA: u64 = 16;
const DIR: &str = "volumes";

/// How the cache is divided: a quarter each for the main database and for all sealed volumes,
/// half for the active one, where a page that is not in memory costs most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheShares {
    pub(crate) main: u64,
    active: u64,
    sealed: u64,
}

impl CacheShares {
    /// sled wants some hundred bytes at least.
    const MIN: u64 = 4096;

    pub(crate) fn of(cache_bytes: u64) -> Self {
        Self {
            main: (cache_bytes / 4).max(Self::MIN),
            active: (cache_bytes / 2).max(Self::MIN),
            sealed: (cache_bytes / 4 / OPEN_MAX as u64).max(Self::MIN),
        }
    }
}

/// All volumes of a store.
#[derive(Debug)]
pub(crate) struct Volumes {
    dir: PathBuf,
    /// The main database, which names them.
    main: Arc<Database>,
    /// Bytes given by each sealed volume.
    sealed: Table,
    space: Arc<Space>,
    volume_bytes_max: u64,
    cache: CacheShares,
    all: RwLock<BTreeMap<u32, Arc<Volume>>>,
    next_number: AtomicU32,
    /// Writers of pieces hold it for reading: who holds it for writing finds nobody writing.
    active: RwLock<Option<Active>>,
    open: OpenVolumes,
    /// One removal of directories at a time.
    removing: Mutex<()>,
    /// Pairs written, and how many of them are known to be durable.
    written: AtomicU64,
    flushed: AtomicU64,
}

impl Volumes {
    /// Finds the volumes of a store, sealed all of them until [`Self::settle`].
    pub(crate) fn open(
        config: &StoreConfig,
        main: Arc<Database>,
        sealed: Table,
        space: Arc<Space>,
    ) -> Result<Self, StorageError> {
        let dir = config.dir.join(DIR);
        opening::create(&dir)?;
        let mut all = BTreeMap::new();
        for number in removal::existing(&dir)? {
            let volume = Volume::new(&dir, number);
            space.add_sealed(volume.measure()?);
            all.insert(number, Arc::new(volume));
        }
        let quota_part = space.quota_bytes() / VOLUMES_PER_QUOTA;
        let next_number = all.last_key_value().map_or(1, |(last, _)| last + 1);
        Ok(Self {
            dir,
            sealed,
            volume_bytes_max: quota_part.clamp(VOLUME_BYTES_MIN, VOLUME_BYTES_MAX),
            space,
            cache: CacheShares::of(config.cache_bytes),
            all: RwLock::new(all),
            next_number: AtomicU32::new(next_number),
            active: RwLock::default(),
            open: OpenVolumes::new(Arc::clone(&main), config.cache_bytes),
            main,
            removing: Mutex::default(),
            written: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
        })
    }

    /// Takes note of a record that was found at start; whether its volume is there.
    pub(crate) fn found(&self, record: PairRecord) -> bool {
        // Numbers of volumes that are gone are not used again while a record names them.
        let next = record.place.volume.saturating_add(1);
        self.next_number.fetch_max(next, Ordering::AcqRel);
        let Some(volume) = self.get(record.place.volume) else {
            return false;
        };
        volume.given_up_to(record.end());
        if record.is_whole() {
            volume.count(record.live_bytes());
        }
        true
    }

    /// After all records were found: learns how much each volume gave, and chooses the last one to
    /// be written to, unless it was sealed or is among `damaged`.
    pub(crate) fn settle(&self, damaged: &BTreeSet<u32>) -> Result<(), StorageError> {
        let mut given = BTreeMap::new();
        for row in self.sealed.rows() {
            let (key, value) = row?;
            let parsed = (|| Some((key[..].try_into().ok()?, value[..].try_into().ok()?)))();
            let (number, bytes) = parsed.ok_or_else(|| self.sealed.corrupt())?;
            given.insert(u32::from_be_bytes(number), u64::from_be_bytes(bytes));
        }
        let volumes: Vec<Arc<Volume>> = read(&self.all).values().cloned().collect();
        let last = volumes.last().map(|volume| volume.number());
        for volume in volumes.iter().filter(|volume| !volume.is_empty()) {
            let number = volume.number();
            if let Some(bytes) = given.get(&number) {
                volume.given_up_to(*bytes);
                continue;
            }
            let continues = Some(number) == last && !damaged.contains(&number);
            let cache = if continues { self.cache.active } else { self.cache.sealed };
            let opened = self.open.get(volume, cache);
            let end = opened.and_then(|pieces| Ok((pieces.end()?, pieces)));
            match end {
                Ok((end, pieces)) => {
                    volume.given_up_to(end);
                    if continues && volume.given() < self.volume_bytes_max {
                        self.activate(volume, pieces);
                        continue;
                    }
                }
                // What reads of it is read; the rest is found damaged when it is asked for.
                Err(StorageError::Corrupt { .. }) => {}
                Err(error) => return Err(error),
            }
            self.note_sealed(volume)?;
        }
        let mut gone = given.keys().filter(|number| self.get(**number).is_none());
        gone.try_for_each(|number| self.sealed.remove(&number.to_be_bytes()).map(drop))
    }

    /// Lets `write` write a pair of so many bytes to a place in the active volume.
    pub(crate) fn append<T>(
        &self,
        bytes: u64,
        write: impl Fn(Place, &Pieces) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        const ATTEMPTS_MAX: u32 = 3;
        let mut attempt = 1;
        loop {
            let guard = self.ready()?;
            let Some(Active { volume, pieces, .. }) = guard.as_ref() else {
                continue;
            };
            let place = Place { volume: volume.number(), offset: volume.give(bytes) };
            let written = write(place, pieces);
            if written.is_ok() {
                self.written.fetch_add(1, Ordering::AcqRel);
                return written;
            }
            volume.release(bytes);
            drop(guard);
            match written {
                // A page of the volume does not read: leave it as it is, and begin another.
                Err(StorageError::Corrupt { table: schema::PIECES }) if attempt < ATTEMPTS_MAX => {
                    attempt += 1;
                    tracing::warn!(volume = place.volume, "damaged volume, a new one is begun");
                    self.seal_if(|active| active.number() == place.volume)?;
                }
                other => return other,
            }
        }
    }

    /// Reads a range of a sliver, or says which piece is damaged or absent. No piece is there of a
    /// volume that does not read.
    pub(crate) fn read(
        &self,
        pair: &PairKey,
        record: PairRecord,
        (axis, range): (Axis, Range<usize>),
    ) -> Result<Result<Bytes, u16>, StorageError> {
        let number = record.place.volume;
        match self.pieces(number) {
            Ok(pieces) => {
                let end = range.end.min(record.sliver_bytes(axis));
                let bytes = end.saturating_sub(range.start);
                let read = pieces.read(pair, record, (axis, range));
                drop(pieces);
                self.open.note_read(number, bytes as u64);
                read
            }
            Err(StorageError::Corrupt { .. }) => Ok(Err(0)),
            Err(error) => Err(error),
        }
    }

    /// The symbol hashes of a sliver, if they are there and sound.
    pub(crate) fn read_hashes(
        &self,
        pair: &PairKey,
        record: PairRecord,
        axis: Axis,
    ) -> Result<Option<Bytes>, StorageError> {
        match self.pieces(record.place.volume) {
            Ok(pieces) => pieces.read_hashes(pair, record, axis),
            Err(StorageError::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The open database of a volume. One that does not read is [`StorageError::Corrupt`].
    pub(crate) fn pieces(&self, number: u32) -> Result<Arc<Pieces>, StorageError> {
        let volume = self.get(number).ok_or(LOST)?;
        self.open.get(&volume, self.cache.sealed)
    }

    /// Whether the pieces of this volume can't be read, now or ever.
    pub(crate) fn is_lost(&self, number: u32) -> bool {
        self.get(number).is_none_or(|volume| volume.is_lost())
    }

    /// Whether there is a volume that was found not to read.
    pub(crate) fn has_lost(&self) -> bool {
        read(&self.all).values().any(|volume| volume.is_lost())
    }

    /// A pair no longer lives at its place.
    pub(crate) fn release(&self, record: PairRecord) {
        if let Some(volume) = self.get(record.place.volume) {
            volume.release(record.live_bytes());
        }
    }

    /// Makes every pair durable that was appended before the call.
    pub(crate) fn flush(&self) -> Result<(), StorageError> {
        let written = self.written.load(Ordering::Acquire);
        if self.flushed.load(Ordering::Acquire) >= written {
            return Ok(());
        }
        // Held until it is done: a handle beyond that would keep the volume from being closed.
        if let Some(active) = read(&self.active).as_ref() {
            active.pieces.flush()?;
        }
        self.flushed.fetch_max(written, Ordering::AcqRel);
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn open_count(&self) -> usize {
        self.open.count()
    }

    /// Sealed volumes.
    pub(crate) fn all_sealed(&self) -> Vec<Arc<Volume>> {
        read(&self.all).values().filter(|volume| volume.is_sealed()).cloned().collect()
    }

    pub(crate) fn get(&self, number: u32) -> Option<Arc<Volume>> {
        read(&self.all).get(&number).cloned()
    }
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
