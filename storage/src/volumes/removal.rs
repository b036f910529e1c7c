//! Removal of volumes in which no pair lives: what gives space back to the disk.
//!
//! The order is what makes a crash harmless. The main database is flushed first, so that no record
//! that comes back names the volume. Then the directory gets a name that is no volume's, and only
//! then it is deleted. What a crash leaves of that is deleted at the next start.

use std::{fs, io, path::Path, sync::PoisonError};

use super::{KEPT_BYTES_MAX, Volumes, sync, write};
use crate::{StorageError, volume::Volume};

/// What directories that are being removed end in.
const REMOVED: &str = "removed";

impl Volumes {
    /// Removes the volumes in which no pair lives; whether there was one to remove.
    pub(crate) fn remove_empty(&self) -> Result<bool, StorageError> {
        self.seal_if(|active| active.is_empty() && active.given() > KEPT_BYTES_MAX)?;
        let _removing = self.removing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut empty = self.all_sealed();
        empty.retain(|volume| volume.is_empty());
        if empty.is_empty() {
            return Ok(false);
        }
        for volume in &empty {
            self.sealed.remove(&volume.number().to_be_bytes())?;
        }
        // From here on no crash brings back a record that names them.
        self.main.flush()?;
        let mut removed = false;
        for volume in &empty {
            removed |= self.remove(volume)?;
        }
        Ok(removed)
    }

    /// Removes a volume that no record names, unless somebody is reading it just now.
    fn remove(&self, volume: &Volume) -> Result<bool, StorageError> {
        let opened = volume.lock();
        let closing = self.open.close(volume.number());
        let users = opened.strong_count().saturating_sub(usize::from(closing.is_some()));
        if users > 0 {
            return Ok(false);
        }
        volume.set_lost();
        drop(closing);
        write(&self.all).remove(&volume.number());
        let removed = volume.dir().with_extension(REMOVED);
        fs::rename(volume.dir(), &removed)?;
        sync(&self.dir)?;
        fs::remove_dir_all(&removed)?;
        sync(&self.dir)?;
        self.space.release_sealed(volume.disk_bytes());
        tracing::debug!(volume = volume.number(), "removed a volume");
        Ok(true)
    }
}

/// Numbers of the volumes in `dir`, after removing what is left of those that were being removed.
pub(super) fn existing(dir: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == REMOVED) {
            fs::remove_dir_all(&path)?;
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            let number = name.parse::<u32>().ok();
            numbers.extend(number.filter(|number| format!("{number:06}") == name));
        }
    }
    Ok(numbers)
}
