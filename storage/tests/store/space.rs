//! Quota, reserve and how much disk is really taken.

use floe_protocol::encoding::Axis;
use floe_storage::{FullLimit, StorageError, Store, StoreConfig};

use crate::common::{Home, SHARD, blob, noise};

const MIB: u64 = 1 << 20;
/// The disk is looked at every 8 MiB of new bytes, which the log may take twice, and sled writes
/// whole segments.
const SLACK_BYTES: u64 = 20 * MIB;

fn put_sliver(store: &Store, number: u64, bytes: usize) -> Result<(), StorageError> {
    let sliver = noise(number, bytes);
    store.put_pair(SHARD, &blob(number), &sliver, &sliver[bytes / 2..])
}

fn disk_bytes(home: &Home) -> u64 {
    std::fs::metadata(home.log()).unwrap().len()
}

#[test]
fn the_quota_bounds_the_disk() {
    let home = Home::new();
    let config = StoreConfig { quota_bytes: 48 * MIB, ..home.config() };
    let store = Store::open(&config).unwrap();
    assert!(store.usage().accepts_slivers);
    let mut stored = 0;
    let refused = loop {
        match put_sliver(&store, stored, 300_000) {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
        store.flush().unwrap();
    };
    let limit = match &refused {
        StorageError::Full { limit } => *limit,
        other => panic!("{other}"),
    };
    assert!(matches!(limit, FullLimit::Quota { quota_bytes, .. } if quota_bytes == 48 * MIB));
    assert!(!refused.is_fatal());
    assert!(!store.usage().accepts_slivers);
    assert!(disk_bytes(&home) <= 48 * MIB + SLACK_BYTES, "{} bytes", disk_bytes(&home));
    assert!(stored >= 40, "{stored} pairs of 440 kB in 48 MiB");
    assert_eq!(store.usage().pairs, stored);

    // Reads go on, and so do repetitions of what is there.
    assert_eq!(store.sliver(SHARD, &blob(0), Axis::Primary).unwrap().unwrap(), noise(0, 300_000));
    put_sliver(&store, 0, 300_000).unwrap();
    assert!(!store.has_pair(SHARD, &blob(stored)).unwrap());

    // Deleting goes on at the limit, and a larger quota makes room again.
    assert!(store.delete_pair(SHARD, &blob(1)).unwrap());
    store.flush().unwrap();
    drop(store);
    let store = home.open();
    assert_eq!(store.usage().pairs, stored - 1);
    put_sliver(&store, 1, 300_000).unwrap();
}

#[test]
fn the_log_settles_when_half_of_the_contents_is_replaced_again_and_again() {
    let home = Home::new();
    let store = home.open();
    let pairs = 60;
    let mut live: Vec<u64> = (0..pairs).collect();
    for number in &live {
        put_sliver(&store, *number, 100_000).unwrap();
    }
    store.flush().unwrap();
    let mut next = pairs;
    for round in 0..24 {
        for (place, number) in (0_u64..).zip(&mut live) {
            if noise(place * 1000 + round, 1)[0] < 128 {
                store.delete_pair(SHARD, &blob(*number)).unwrap();
                *number = next;
                put_sliver(&store, next, 100_000).unwrap();
                store.flush().unwrap();
                next += 1;
            }
        }
    }
    let live_bytes = store.usage().live_bytes;
    assert!(
        disk_bytes(&home) <= 7 * live_bytes,
        "{} bytes on disk for {live_bytes} live ones",
        disk_bytes(&home)
    );
    let beside_the_log = std::fs::read_dir(home.store_dir().join("blobs")).unwrap().count();
    assert_eq!(beside_the_log, 0, "files that sled does not sync");
    for number in live {
        let sliver = store.sliver(SHARD, &blob(number), Axis::Primary).unwrap();
        assert!(sliver.unwrap() == noise(number, 100_000));
    }
}

#[test]
fn the_reserve_stays_free() {
    let home = Home::new();
    drop(home.open());
    let config = StoreConfig { reserve_bytes: u64::MAX / 2, ..home.config() };
    let store = Store::open(&config).unwrap();
    let refused = put_sliver(&store, 1, 100);
    let Err(StorageError::Full { limit: FullLimit::Reserve { free_bytes, .. } }) = refused else {
        panic!("{refused:?}");
    };
    assert!(free_bytes > 0);
    assert!(!store.usage().accepts_slivers);
    assert_eq!(store.usage().live_bytes, 0);
    assert!(!store.has_pair(SHARD, &blob(1)).unwrap());
}

#[test]
fn writers_wait_for_the_disk_before_much_waits_in_memory() {
    let home = Home::new();
    let store = home.open();
    for number in 0..16_u64 {
        put_sliver(&store, number, 1_000_000).unwrap();
        let written = (number + 1) * 1_500_000;
        let log_bytes = disk_bytes(&home);
        assert!(
            log_bytes + 3 * MIB >= written,
            "{log_bytes} bytes in the log of {written} that were never flushed"
        );
    }
}
