//! Snapshots in files: a directory for each, named by its height, with a file for each chunk and
//! one for the offer.
//!
//! A directory gets its name when it is whole. What has another name is a draft that nobody
//! finished, and goes at the next start. A snapshot need not be durable: one that a crash took can
//! be made or fetched again, and chunks are compared with the manifest before they are sent. A
//! network's first state is: nobody makes it again.
//!
//! Invariant: nothing is written that leaves less free on the disk than its reserve: snapshots are
//! for others, and what the node itself needs to go on comes first.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use floe_protocol::{index::Height, ledger::SnapshotOffer};

const OFFER: &str = "offer";
/// The directory of a network's first state, if that is not in its genesis. It is kept for ever.
pub(super) const FIRST: &str = "first";

/// The directory of all snapshots.
#[derive(Clone, Debug)]
pub(super) struct SnapshotFiles {
    dir: PathBuf,
    /// What is to stay free on the disk.
    reserve_bytes: u64,
}

/// A snapshot that is not whole yet.
#[derive(Debug)]
pub(super) struct Draft {
    dir: PathBuf,
    reserve_bytes: u64,
}

impl SnapshotFiles {
    pub(super) fn new(dir: &Path, reserve_bytes: u64) -> Self {
        Self { dir: dir.to_owned(), reserve_bytes }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn of(&self, height: Height) -> PathBuf {
        self.dir.join(height.get().to_string())
    }

    /// The offers of all that is whole, oldest first. Removes the rest.
    pub(super) fn recover(&self) -> io::Result<Vec<SnapshotOffer>> {
        let mut offers = Vec::new();
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(offers),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            if path == self.dir.join(FIRST) {
                continue;
            }
            match read_offer(&path) {
                Some(offer)
                    if offer.manifest.check().is_ok()
                        && path == self.of(offer.manifest.header.height) =>
                {
                    offers.push(offer);
                }
                _ => fs::remove_dir_all(&path)?,
            }
        }
        offers.sort_by_key(|offer| offer.manifest.header.height);
        Ok(offers)
    }

    /// A draft with this name, empty.
    pub(super) fn begin(&self, name: &str) -> io::Result<Draft> {
        let dir = self.dir.join(name);
        remove(&dir)?;
        fs::create_dir_all(&dir)?;
        Ok(Draft { dir, reserve_bytes: self.reserve_bytes })
    }

    /// Removes what an attempt has left.
    pub(super) fn discard(&self, name: &str) {
        if let Err(error) = remove(&self.dir.join(name)) {
            tracing::warn!(%error, "a draft of a snapshot is not removed");
        }
    }

    /// Makes a draft a snapshot.
    pub(super) fn keep(&self, draft: &Draft, offer: &SnapshotOffer) -> io::Result<()> {
        self.keep_as(draft, offer, &offer.manifest.header.height.get().to_string())
    }

    /// Makes a draft the network's first state, durably.
    pub(super) fn keep_first(&self, draft: &Draft, offer: &SnapshotOffer) -> io::Result<()> {
        for index in 0..offer.manifest.chunks.len() {
            File::open(chunk_in(&draft.dir, index))?.sync_all()?;
        }
        self.keep_as(draft, offer, FIRST)?;
        let dir = self.dir.join(FIRST);
        File::open(dir.join(OFFER))?.sync_all()?;
        File::open(dir)?.sync_all()?;
        File::open(&self.dir)?.sync_all()
    }

    fn keep_as(&self, draft: &Draft, offer: &SnapshotOffer, name: &str) -> io::Result<()> {
        let bytes = borsh::to_vec(offer)?;
        fs::write(draft.dir.join(OFFER), bytes)?;
        let place = self.dir.join(name);
        remove(&place)?;
        fs::rename(&draft.dir, place)
    }

    pub(super) fn chunk(&self, height: Height, index: usize) -> io::Result<Vec<u8>> {
        fs::read(chunk_in(&self.of(height), index))
    }

    /// The offer of what is kept under a name.
    pub(super) fn offer_of(&self, name: &str) -> Option<SnapshotOffer> {
        read_offer(&self.dir.join(name))
    }

    /// A chunk of it.
    pub(super) fn chunk_of(&self, name: &str, index: usize) -> io::Result<Vec<u8>> {
        fs::read(chunk_in(&self.dir.join(name), index))
    }

    /// Removes a snapshot that is no longer offered.
    pub(super) fn remove(&self, height: Height) {
        if let Err(error) = remove(&self.of(height)) {
            tracing::warn!(%height, %error, "an old snapshot is not removed");
        }
    }
}

impl Draft {
    /// Whether the disk has room for so many bytes beside its reserve.
    pub(super) fn has_room_for(&self, bytes: u64) -> io::Result<()> {
        let disk = rustix::fs::statvfs(&self.dir)?;
        let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free_bytes < self.reserve_bytes.saturating_add(bytes) {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                NoRoom { bytes, free_bytes, reserve_bytes: self.reserve_bytes },
            ));
        }
        Ok(())
    }

    /// Writes a chunk, if there is room for it.
    pub(super) fn write(&self, index: usize, chunk: &[u8]) -> io::Result<()> {
        self.has_room_for(u64::try_from(chunk.len()).unwrap_or(u64::MAX))?;
        fs::write(chunk_in(&self.dir, index), chunk)
    }

    pub(super) fn read(&self, index: usize) -> io::Result<Vec<u8>> {
        fs::read(chunk_in(&self.dir, index))
    }
}

/// The disk is too full for a snapshot.
#[derive(Debug, thiserror::Error)]
#[error(
    "{bytes} bytes are to be written, {free_bytes} are free on the disk, {reserve_bytes} reserved"
)]
struct NoRoom {
    bytes: u64,
    free_bytes: u64,
    reserve_bytes: u64,
}

fn chunk_in(dir: &Path, index: usize) -> PathBuf {
    dir.join(format!("{index:05}"))
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn read_offer(dir: &Path) -> Option<SnapshotOffer> {
    borsh::from_slice(&fs::read(dir.join(OFFER)).ok()?).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use floe_protocol::{
        ledger::SnapshotWriter,
        test_support::{Chain, genesis},
    };

    use super::*;

    /// The snapshot of a small state after so many epochs, of one chunk.
    pub(in super::super) fn offer(epochs: usize) -> (Vec<u8>, SnapshotOffer) {
        let mut chain = Chain::new(&genesis(4, 7));
        (0..epochs).for_each(|_| chain.next_epoch());
        let (block, certificate) = chain.blocks.last().unwrap().clone();
        let mut writer = SnapshotWriter::default();
        for (key, value) in chain.store.values(block.header.height.get()) {
            assert_eq!(writer.push(&key, value).unwrap(), None, "a small state");
        }
        let committee = chain.state.committee().to_bytes();
        let (chunk, manifest) = writer.finish(block.header, committee).unwrap();
        (chunk, SnapshotOffer { manifest, certificate })
    }

    #[test]
    fn what_is_whole_is_found_again_and_the_rest_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let files = SnapshotFiles::new(&dir.path().join("snapshots"), 0);
        assert_eq!(files.recover().unwrap(), []);
        let mut expected = Vec::new();
        for epochs in [2, 1] {
            let (chunk, offer) = offer(epochs);
            let draft = files.begin("making").unwrap();
            draft.write(0, b"of an earlier attempt").unwrap();
            let draft = files.begin("making").unwrap();
            assert!(draft.read(0).is_err());
            draft.write(0, &chunk).unwrap();
            files.keep(&draft, &offer).unwrap();
            let height = offer.manifest.header.height;
            assert_eq!(files.chunk(height, 0).unwrap(), chunk);
            assert!(files.chunk(height, 1).is_err());
            expected.insert(0, offer);
        }
        let unfinished = dir.path().join("snapshots/incoming");
        fs::create_dir(&unfinished).unwrap();
        let damaged = dir.path().join("snapshots/77");
        fs::create_dir(&damaged).unwrap();
        fs::write(damaged.join(OFFER), b"no offer").unwrap();
        assert_eq!(files.recover().unwrap(), expected);
        assert!(!unfinished.exists() && !damaged.exists());
        drop(files.begin("incoming").unwrap());
        files.discard("incoming");
        assert!(!unfinished.exists());
        files.remove(expected[0].manifest.header.height);
        assert_eq!(files.recover().unwrap(), expected[1..]);
    }

    #[test]
    fn the_reserve_of_the_disk_stays_free() {
        let dir = tempfile::tempdir().unwrap();
        let draft = |reserve_bytes| SnapshotFiles::new(dir.path(), reserve_bytes).begin("incoming");
        let full = draft(u64::MAX).unwrap();
        let refused = full.write(0, b"a chunk").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
        assert!(refused.to_string().contains("7 bytes are to be written"), "{refused}");
        assert!(full.read(0).is_err(), "nothing was written");
        let free = draft(0).unwrap();
        free.write(0, b"a chunk").unwrap();
        assert!(free.has_room_for(u64::MAX).is_err(), "more than there is");
    }
}
