//! Quota, reserve and how much disk is really taken.

use std::{collections::VecDeque, ops::Range};

use floe_protocol::encoding::Axis;
use floe_storage::{FullLimit, StorageError, Store, StoreConfig};

use crate::common::{Home, SHARD, blob, compact, noise};

const MIB: u64 = 1 << 20;
/// The disk is looked at every 8 MiB of new bytes, which the log may take twice, and sled writes
/// whole segments.
const SLACK_BYTES: u64 = 20 * MIB;

fn put_sliver(store: &Store, number: u64, bytes: usize) -> Result<(), StorageError> {
    let sliver = noise(number, bytes);
    store.put_pair(SHARD, &blob(number), &sliver, &sliver[bytes / 2..])
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
    assert!(home.disk_bytes() <= 48 * MIB + SLACK_BYTES, "{} bytes", home.disk_bytes());
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

/// Slivers of 200 kB and 100 kB.
const PAIR_BYTES: u64 = 300_000;

fn put_many(store: &Store, numbers: Range<u64>) {
    for number in numbers {
        put_sliver(store, number, 200_000).unwrap();
        if number % 16 == 15 {
            store.flush().unwrap();
        }
    }
    store.flush().unwrap();
}

fn remove(store: &Store, number: u64) {
    assert!(store.remove_blob(&blob(number), SHARD.get() + 1).unwrap());
}

#[test]
fn what_is_removed_is_given_back_to_the_disk_at_once() {
    let home = Home::new();
    let store = home.open();
    let empty = home.disk_bytes();
    let pairs = 100 * MIB / PAIR_BYTES;
    for round in 0..2 {
        let numbers = round * pairs..(round + 1) * pairs;
        put_many(&store, numbers.clone());
        assert!(home.disk_bytes() > 100 * MIB);
        assert!(store.usage().disk_bytes > 100 * MIB);
        numbers.for_each(|number| remove(&store, number));
        store.flush().unwrap();
        let left = home.disk_bytes();
        assert!(left < empty + 4 * MIB, "{left} bytes, {empty} of an empty store");
        assert!(store.usage().disk_bytes.abs_diff(left) < MIB / 4);
        assert_eq!(store.usage().live_bytes, 0);
        assert_eq!(home.volumes().len(), 0);
    }
}

#[test]
fn compaction_gives_back_what_is_dead_and_ends() {
    let (home, other) = (Home::new(), Home::new());
    let (store, of_live) = (home.open(), other.open());
    let pairs = 64 * MIB / PAIR_BYTES;
    put_many(&store, 0..pairs);
    (0..pairs).filter(|number| number % 2 == 0).for_each(|number| remove(&store, number));
    for number in (0..pairs).filter(|number| number % 2 == 1) {
        put_many(&of_live, number..number + 1);
    }
    compact(&store);
    let (compacted, fresh) = (home.disk_bytes(), other.disk_bytes());
    assert!(compacted * 10 < fresh * 13, "{compacted} bytes compacted, {fresh} fresh");
    assert!(store.usage().disk_bytes.abs_diff(compacted) < MIB / 4);
    assert_eq!(store.usage().pairs, pairs / 2);
    for number in 0..pairs {
        let sliver = store.sliver(SHARD, &blob(number), Axis::Primary).unwrap();
        let expected = (number % 2 == 1).then(|| noise(number, 200_000));
        assert!(sliver.as_deref() == expected.as_deref(), "pair {number}");
    }
    assert!(!store.compact_step().unwrap());
    drop(store);
    let store = home.open();
    assert!(!store.compact_step().unwrap());
    assert_eq!(store.usage().pairs, pairs / 2);
}

#[test]
fn a_full_store_takes_pairs_again_once_others_were_removed() {
    let home = Home::new();
    let config = StoreConfig { quota_bytes: 64 * MIB, ..home.config() };
    let mut store = Store::open(&config).unwrap();
    let mut next = 0;
    let mut live = VecDeque::new();
    let mut taken = Vec::new();
    for round in 0..4 {
        let before = next;
        while put_sliver(&store, next, 200_000).is_ok() {
            live.push_back(next);
            next += 1;
            store.flush().unwrap();
        }
        taken.push(next - before);
        assert!(home.disk_bytes() <= 64 * MIB + SLACK_BYTES);
        // Blobs end in another order than they came.
        let half = live.len() / 2;
        for place in (0..half).rev() {
            remove(&store, live.remove(place * 2).unwrap());
        }
        compact(&store);
        assert!(store.usage().accepts_slivers, "round {round}");
        if round == 1 {
            drop(store);
            store = Store::open(&config).unwrap();
        }
    }
    assert!(taken[1..].iter().all(|again| *again * 4 > taken[0]), "{taken:?}");
}

#[test]
fn the_disk_settles_when_half_of_the_contents_is_replaced_again_and_again() {
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
        compact(&store);
    }
    let live_bytes = store.usage().live_bytes;
    let disk_bytes = home.disk_bytes();
    assert!(disk_bytes <= 4 * live_bytes, "{disk_bytes} on disk for {live_bytes} live ones");
    for volume in home.volumes() {
        let beside_the_log = std::fs::read_dir(volume.join("blobs")).unwrap().count();
        assert_eq!(beside_the_log, 0, "files that sled does not sync");
    }
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
        let log_bytes = home.disk_bytes();
        assert!(
            log_bytes + 3 * MIB >= written,
            "{log_bytes} bytes in the log of {written} that were never flushed"
        );
    }
}
