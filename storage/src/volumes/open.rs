//! Which volumes are open: the ones read last, a bounded number of them.
//!
//! A database that is open takes a buffer of a mebibyte, a part of the cache and two files. So sealed
//! volumes are opened when somebody reads them, and the one not read for the longest time is
//! closed. sled's cache does not bound what they keep: it looks for pages to evict only after 64
//! reads in one of its 256 parts, so a volume of a thousand pages keeps all that was ever read of
//! it (750 MiB in memory after 900 were read, with a cache of 64). So volumes are closed as well
//! when much was read from them; opening one again takes some 10 ms.
//!
//! Who reads one just then keeps it open until it is done; the next reader finds it still open.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    StorageError,
    database::{Database, DatabaseError},
    pieces::Pieces,
    schema,
    volume::Volume,
};

/// Sealed volumes that stay open.
pub(super) const OPEN_MAX: usize = 16;

/// A page, which is read as a whole.
const READ_BYTES_MIN: u64 = 128 << 10;

/// A volume that is open, and how much was read from it.
#[derive(Debug)]
struct Opened {
    number: u32,
    pieces: Arc<Pieces>,
    read_bytes: u64,
}

/// The volumes that are open, apart from the active one.
#[derive(Debug)]
pub(super) struct OpenVolumes {
    /// What they stop together with.
    main: Arc<Database>,
    /// The last used ones last.
    last_used: Mutex<VecDeque<Opened>>,
    /// Bytes that may be read from those that are open.
    read_bytes_max: u64,
}

impl OpenVolumes {
    pub(super) fn new(main: Arc<Database>, read_bytes_max: u64) -> Self {
        Self { main, last_used: Mutex::default(), read_bytes_max }
    }

    /// Takes note that so much was read from a volume. What was read may all be in memory, since
    /// sled evicts late: if it is much, the volumes used longest ago are closed.
    pub(super) fn note_read(&self, number: u32, bytes: u64) {
        let mut open = self.lock();
        if let Some(opened) = open.iter_mut().find(|opened| opened.number == number) {
            opened.read_bytes += bytes.max(READ_BYTES_MIN);
        }
        let mut read_bytes: u64 = open.iter().map(|opened| opened.read_bytes).sum();
        let mut closing = Vec::new();
        while read_bytes > self.read_bytes_max
            && let Some(oldest) = open.pop_front()
        {
            read_bytes -= oldest.read_bytes;
            closing.push(oldest);
        }
        drop(open);
        drop(closing);
    }

    /// The open database of a volume, opened with so much cache if it is not.
    pub(super) fn get(&self, volume: &Volume, cache: u64) -> Result<Arc<Pieces>, StorageError> {
        let number = volume.number();
        let mut opened = volume.lock();
        if let Some(pieces) = opened.upgrade() {
            self.use_again(number);
            return Ok(pieces);
        }
        let pieces = self.open(volume, cache)?;
        *opened = Arc::downgrade(&pieces);
        drop(opened);
        let mut open = self.lock();
        open.push_back(Opened { number, pieces: Arc::clone(&pieces), read_bytes: 0 });
        let oldest = if open.len() > OPEN_MAX { open.pop_front() } else { None };
        drop(open);
        drop(oldest);
        Ok(pieces)
    }

    /// Closes a volume that is not among those that stay open, and opens it again. Readers wait
    /// meanwhile; if one reads it just now, it stays as it is, which is said beside it.
    pub(super) fn reopen(
        &self,
        volume: &Volume,
        pieces: Arc<Pieces>,
        cache: u64,
    ) -> Result<(Arc<Pieces>, bool), StorageError> {
        let mut opened = volume.lock();
        drop(self.close(volume.number()));
        drop(pieces);
        if let Some(pieces) = opened.upgrade() {
            return Ok((pieces, false));
        }
        let pieces = self.open(volume, cache)?;
        *opened = Arc::downgrade(&pieces);
        Ok((pieces, true))
    }

    /// Opens a volume that nobody has open. The caller holds its lock.
    fn open(&self, volume: &Volume, cache: u64) -> Result<Arc<Pieces>, StorageError> {
        if volume.is_lost() {
            return Err(LOST);
        }
        let read = if volume.has_log()? {
            Pieces::open(&self.main, volume.dir(), cache)
        } else {
            Err(DatabaseError::Corrupt("it has no log".into()))
        };
        if let Err(DatabaseError::Corrupt(_)) = &read {
            volume.set_lost();
        }
        read.map(Arc::new).map_err(|error| storage_error(volume.number(), error))
    }

    fn use_again(&self, number: u32) {
        let mut open = self.lock();
        if let Some(place) = open.iter().position(|opened| opened.number == number)
            && let Some(used) = open.remove(place)
        {
            open.push_back(used);
        }
    }

    /// Takes a volume from the open ones.
    pub(super) fn close(&self, number: u32) -> Option<Arc<Pieces>> {
        let mut open = self.lock();
        let place = open.iter().position(|opened| opened.number == number)?;
        open.remove(place).map(|opened| opened.pieces)
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Opened>> {
        self.last_used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pieces of a volume that does not read.
pub(super) const LOST: StorageError = StorageError::Corrupt { table: schema::PIECES };

pub(super) fn storage_error(volume: u32, error: DatabaseError) -> StorageError {
    match error {
        DatabaseError::Io(error) => StorageError::Io(error),
        DatabaseError::Corrupt(detail) => {
            tracing::error!(volume, detail, "volume does not read, its pairs count as missing");
            LOST
        }
    }
}
