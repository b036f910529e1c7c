//! Which volumes are open: the ones read last, a bounded number of them.
//!
//! A database that is open takes a buffer, a part of the cache and two files. So sealed volumes
//! are opened when somebody reads them, and the one not read for the longest time is closed. Who
//! reads one just then keeps it open until he is done; the next reader finds it still open.

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

/// The volumes that are open, apart from the active one.
#[derive(Debug)]
pub(super) struct OpenVolumes {
    /// What they stop together with.
    main: Arc<Database>,
    /// The last used ones last.
    last_used: Mutex<VecDeque<(u32, Arc<Pieces>)>>,
}

impl OpenVolumes {
    pub(super) fn new(main: Arc<Database>) -> Self {
        Self { main, last_used: Mutex::default() }
    }

    /// The open database of a volume, opened with so much cache if it is not.
    pub(super) fn get(&self, volume: &Volume, cache: u64) -> Result<Arc<Pieces>, StorageError> {
        let number = volume.number();
        let mut opened = volume.lock();
        if let Some(pieces) = opened.upgrade() {
            self.use_again(number);
            return Ok(pieces);
        }
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
        let pieces = Arc::new(read.map_err(|error| storage_error(number, error))?);
        *opened = Arc::downgrade(&pieces);
        drop(opened);
        let mut open = self.lock();
        open.push_back((number, Arc::clone(&pieces)));
        let oldest = if open.len() > OPEN_MAX { open.pop_front() } else { None };
        drop(open);
        drop(oldest);
        Ok(pieces)
    }

    fn use_again(&self, number: u32) {
        let mut open = self.lock();
        if let Some(place) = open.iter().position(|(other, _)| *other == number)
            && let Some(used) = open.remove(place)
        {
            open.push_back(used);
        }
    }

    /// Takes a volume from the open ones.
    pub(super) fn close(&self, number: u32) -> Option<Arc<Pieces>> {
        let mut open = self.lock();
        let place = open.iter().position(|(other, _)| *other == number)?;
        open.remove(place).map(|(_, pieces)| pieces)
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(u32, Arc<Pieces>)>> {
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
