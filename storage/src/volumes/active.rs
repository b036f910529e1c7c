//! The active volume: the one that takes new pairs, until it is full.
//!
//! A record names a place in it, then the pieces are written there (see `slivers.rs`). sled's cache
//! does not bound what it keeps of a database that is written to, so the active volume is closed
//! and opened again now and then, which takes some 10 ms.
//!
//! Invariants: there is at most one; who seals or reopens it holds the lock, so nobody writes; what
//! was written is durable before it is closed.

use std::{
    fs,
    sync::{Arc, RwLockReadGuard, atomic::Ordering},
};

use super::{Volumes, open::storage_error, read, sync, write};
use crate::{StorageError, pieces::Pieces, volume::Volume};

/// After so many bytes it is closed and opened again: sled may keep in memory all that was written
/// since then.
pub(crate) const REOPENED_AFTER_BYTES: u64 = 16 << 20;
/// After so many more if somebody was reading it then.
const TRIED_AGAIN_AFTER_BYTES: u64 = 2 << 20;
/// With fewer bytes it is not worth replacing, even if all are dead.
pub(crate) const KEPT_BYTES_MAX: u64 = 2 << 20;

/// The volume that is written to.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) volume: Arc<Volume>,
    pub(super) pieces: Arc<Pieces>,
    /// What it had given when it was opened.
    given_before: u64,
}

/// What is to be done before more is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    /// sled holds much of it.
    Reopening,
    /// There is none, or it is full.
    Beginning,
}

impl Volumes {
    /// Seals the active volume if it meets `condition` once nobody writes to it.
    pub(crate) fn seal_if(&self, condition: impl Fn(&Volume) -> bool) -> Result<(), StorageError> {
        let meets = |active: &Active| condition(&active.volume);
        if !read(&self.active).as_ref().is_some_and(&meets) {
            return Ok(());
        }
        let mut active = write(&self.active);
        if active.as_ref().is_some_and(&meets) {
            self.seal(&mut active)?;
        }
        Ok(())
    }

    /// The active volume, with room.
    pub(super) fn ready(&self) -> Result<RwLockReadGuard<'_, Option<Active>>, StorageError> {
        loop {
            let active = read(&self.active);
            if self.due(active.as_ref()) == Due::Nothing {
                return Ok(active);
            }
            drop(active);
            let mut active = write(&self.active);
            match self.due(active.as_ref()) {
                Due::Nothing => {}
                Due::Reopening => self.reopen(&mut active)?,
                Due::Beginning => {
                    self.seal(&mut active)?;
                    *active = Some(self.begin()?);
                }
            }
        }
    }

    fn due(&self, active: Option<&Active>) -> Due {
        let Some(Active { volume, given_before, .. }) = active else {
            return Due::Beginning;
        };
        let given = volume.given();
        if given >= self.volume_bytes_max {
            Due::Beginning
        } else if given.saturating_sub(*given_before) >= REOPENED_AFTER_BYTES {
            Due::Reopening
        } else {
            Due::Nothing
        }
    }

    /// Makes a new volume, durable itself before anything names it.
    fn begin(&self) -> Result<Active, StorageError> {
        let number = self.next_number.fetch_add(1, Ordering::AcqRel);
        let volume = Arc::new(Volume::new(&self.dir, number));
        fs::create_dir(volume.dir())?;
        let pieces = Pieces::open(&self.main, volume.dir(), self.cache.active);
        let pieces = Arc::new(pieces.map_err(|error| storage_error(number, error))?);
        sync(&self.dir)?;
        *volume.lock() = Arc::downgrade(&pieces);
        volume.set_sealed(false);
        write(&self.all).insert(number, Arc::clone(&volume));
        self.space.set_growing(Some(volume.dir()));
        tracing::debug!(volume = number, "began a volume");
        Ok(Active { volume, pieces, given_before: 0 })
    }

    /// Closes the active volume and opens it again. The caller holds the lock: nobody writes.
    ///
    /// One that is read just then stays as it is for a while. One that no longer opens is sealed.
    fn reopen(&self, active: &mut Option<Active>) -> Result<(), StorageError> {
        if let Some(active) = active.as_ref() {
            active.pieces.flush()?;
        }
        let Some(Active { volume, pieces, .. }) = active.take() else {
            return Ok(());
        };
        match self.open.reopen(&volume, pieces, self.cache.active) {
            Ok((pieces, is_new)) => {
                let spared =
                    if is_new { 0 } else { REOPENED_AFTER_BYTES - TRIED_AGAIN_AFTER_BYTES };
                let given_before = volume.given().saturating_sub(spared);
                *active = Some(Active { volume, pieces, given_before });
                Ok(())
            }
            Err(error) => {
                tracing::warn!(volume = volume.number(), %error, "does not open again: sealed");
                self.note_sealed(&volume)?;
                self.main.flush()?;
                let disk_bytes = volume.measure().unwrap_or_else(|_| volume.disk_bytes());
                self.set_sealed(&volume, disk_bytes);
                Ok(())
            }
        }
    }

    /// Goes on with a volume that was written to before.
    pub(super) fn activate(&self, volume: &Arc<Volume>, pieces: Arc<Pieces>) {
        drop(self.open.close(volume.number()));
        volume.set_sealed(false);
        self.space.release_sealed(volume.disk_bytes());
        self.space.set_growing(Some(volume.dir()));
        let (volume, given_before) = (Arc::clone(volume), volume.given());
        *write(&self.active) = Some(Active { volume, pieces, given_before });
    }

    /// Seals the active volume, if there is one. The caller holds the lock: nobody writes.
    fn seal(&self, active: &mut Option<Active>) -> Result<(), StorageError> {
        let Some(Active { volume, pieces, .. }) = active.as_ref() else {
            return Ok(());
        };
        self.note_sealed(volume)?;
        // Even if the volume can't be flushed: it is not gone on with after a restart.
        self.main.flush()?;
        pieces.flush()?;
        let disk_bytes = volume.measure()?;
        self.set_sealed(volume, disk_bytes);
        *active = None;
        Ok(())
    }

    /// Counts a volume that takes nothing more by what it takes on the disk.
    fn set_sealed(&self, volume: &Volume, disk_bytes: u64) {
        self.space.set_growing(None);
        self.space.add_sealed(disk_bytes);
        volume.set_sealed(true);
    }

    pub(super) fn note_sealed(&self, volume: &Volume) -> Result<(), StorageError> {
        self.sealed.insert(&volume.number().to_be_bytes(), &volume.given().to_be_bytes())
    }
}
