//! A store in a temporary home, and slivers whose bytes follow from their number.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use floe_protocol::{
    blob::{BlobHeader, BlobId},
    encoding::Axis,
    hash::{Domain, Hash},
    index::{Height, ShardIndex},
    keys::NodeId,
};
use floe_storage::{HASHED_ABOVE_BYTES, Store, StoreConfig};
use tempfile::TempDir;

pub(crate) const SHARD: ShardIndex = ShardIndex::new(5);
/// Where the ledger knew the blobs.
pub(crate) const HEIGHT: Height = Height::new(7);

/// Two places: one for the key and the marker, one for the data.
#[derive(Debug)]
pub(crate) struct Home {
    dir: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn store_dir(&self) -> PathBuf {
        self.path().join("data/store")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.store_dir().join("db")
    }

    /// Directories of the volumes, oldest first.
    pub(crate) fn volumes(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.store_dir().join("volumes")) else {
            return Vec::new();
        };
        let mut volumes: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        volumes.sort_unstable();
        volumes
    }

    /// The log of the only volume.
    pub(crate) fn volume_log(&self) -> PathBuf {
        let volumes = self.volumes();
        assert_eq!(volumes.len(), 1, "{volumes:?}");
        volumes[0].join("db")
    }

    /// What the store's files take on the disk, asked without the store.
    pub(crate) fn disk_bytes(&self) -> u64 {
        fn below(dir: &Path) -> u64 {
            let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
            let bytes = |entry: fs::DirEntry| match entry.file_type().unwrap().is_dir() {
                true => below(&entry.path()),
                false => entry.metadata().unwrap().blocks() * 512,
            };
            entries.map(bytes).sum()
        }
        below(&self.store_dir())
    }

    pub(crate) fn config(&self) -> StoreConfig {
        config_in(self.path())
    }

    pub(crate) fn open(&self) -> Store {
        Store::open(&self.config()).unwrap()
    }
}

pub(crate) fn config_in(home: &Path) -> StoreConfig {
    let node = NodeId::new([7; 32]);
    StoreConfig {
        cache_bytes: 4 << 20,
        ..StoreConfig::new(home.join("data/store"), home.join("key/marker"), node)
    }
}

pub(crate) fn blob(number: u64) -> BlobId {
    BlobId::new(*Domain::Piece.hash(&[b"blob", &number.to_le_bytes()]).as_bytes())
}

/// The header of a blob of a network of 64 shards.
pub(crate) fn header(number: u8) -> BlobHeader {
    BlobHeader { n_shards: 64, len: 1000, root: Hash::new([number; 32]) }
}

/// Bytes that nothing compresses, and that no other seed has.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut noise = Vec::with_capacity(bytes + 32);
    for counter in 0_u64.. {
        if noise.len() >= bytes {
            break;
        }
        let block = Domain::Piece.hash(&[&seed.to_le_bytes(), &counter.to_le_bytes()]);
        noise.extend_from_slice(block.as_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// Primary and secondary sliver of pair `number`, of some odd sizes up to 90 KiB.
pub(crate) fn slivers(number: u64) -> (Vec<u8>, Vec<u8>) {
    let primary_bytes = 1 + usize::try_from(number * 7919 % 90_000).unwrap();
    (noise(2 * number, primary_bytes), noise(2 * number + 1, primary_bytes / 2 + 1))
}

pub(crate) fn put(store: &Store, number: u64) {
    let (primary, secondary) = slivers(number);
    let hashes = hashes(number);
    let hashes = [&hashes[..], &hashes[1..]];
    store.put_hashed_pair((SHARD, &blob(number)), [&primary, &secondary], hashes).unwrap();
}

/// The symbol hashes of the primary sliver of pair `number`; those of the secondary one lack one.
pub(crate) fn hashes(number: u64) -> Vec<Hash> {
    (0..64_u64).map(|symbol| Hash::of_symbol(&(number << 8 | symbol).to_le_bytes())).collect()
}

/// Whether pair `number` is there. If the store says so, both slivers must be right, and symbol
/// hashes if there are any: only of long slivers.
pub(crate) fn is_there(store: &Store, number: u64) -> bool {
    let is_there = store.has_pair(SHARD, &blob(number)).unwrap();
    if is_there {
        assert_sliver(store, number, Axis::Primary);
        assert_sliver(store, number, Axis::Secondary);
    }
    is_there
}

fn assert_sliver(store: &Store, number: u64, axis: Axis) {
    let (primary, secondary) = slivers(number);
    let expected = match axis {
        Axis::Primary => primary,
        Axis::Secondary => secondary,
    };
    let found = store.sliver(SHARD, &blob(number), axis).unwrap();
    assert!(
        found.as_deref() == Some(&expected[..]),
        "{axis:?} sliver of pair {number}: {:?} bytes",
        found.map(|sliver| sliver.len())
    );
    if let Some(found) = store.symbol_hashes(SHARD, &blob(number), axis).unwrap() {
        let expected_hashes = hashes(number);
        let skipped = if axis == Axis::Primary { 0 } else { 1 };
        assert_eq!(found, expected_hashes[skipped..]);
        assert!(expected.len() > HASHED_ABOVE_BYTES);
    }
}

/// Compacts until there is nothing more to do.
pub(crate) fn compact(store: &Store) {
    const STEPS_MAX: usize = 10_000;
    assert!((0..STEPS_MAX).any(|_| !store.compact_step().unwrap()), "no end");
}
