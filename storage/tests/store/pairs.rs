//! Sliver pairs: round trips, idempotence, shared flushes.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use floe_protocol::{encoding::Axis, index::ShardIndex};
use floe_storage::{SLIVER_BYTES_MAX, StorageError};

use crate::common::{Home, SHARD, blob, compact, is_there, noise, put, slivers};

#[test]
fn slivers_of_every_size_come_back_and_survive_reopening() {
    let home = Home::new();
    let sizes = [1, 2, 8191, 8192, 8193, 16_384, 100_001, 4 << 20];
    let store = home.open();
    for (number, bytes) in (0..).zip(sizes) {
        let (primary, secondary) = (noise(number, bytes), noise(number + 100, bytes.div_ceil(2)));
        store.put_pair(SHARD, &blob(number), &primary, &secondary).unwrap();
    }
    let check = |store: &floe_storage::Store| {
        for (number, bytes) in (0..).zip(sizes) {
            assert!(store.has_pair(SHARD, &blob(number)).unwrap());
            let primary = store.sliver(SHARD, &blob(number), Axis::Primary).unwrap();
            assert!(primary.unwrap() == noise(number, bytes), "primary of {bytes} bytes");
            let secondary = store.sliver(SHARD, &blob(number), Axis::Secondary).unwrap();
            assert!(
                secondary.unwrap() == noise(number + 100, bytes.div_ceil(2)),
                "secondary beside {bytes} bytes"
            );
        }
    };
    check(&store);
    let before = store.usage();
    store.flush().unwrap();
    drop(store);
    let store = home.open();
    check(&store);
    assert_eq!(store.usage().pairs, before.pairs);
    assert_eq!(store.usage().live_bytes, before.live_bytes);
}

#[test]
fn a_pair_belongs_to_its_shard_and_blob() {
    let home = Home::new();
    let store = home.open();
    put(&store, 1);
    assert!(!store.has_pair(ShardIndex::new(6), &blob(1)).unwrap());
    assert!(!store.has_pair(SHARD, &blob(2)).unwrap());
    assert_eq!(store.sliver(SHARD, &blob(2), Axis::Primary).unwrap(), None);
}

#[test]
fn pairs_are_named_in_order_page_by_page_damaged_ones_included() {
    let home = Home::new();
    let store = home.open();
    let mut all = Vec::new();
    for shard in [0, 5, 255, 256].map(ShardIndex::new) {
        for number in 0..7 {
            let (primary, secondary) = slivers(number);
            store.put_pair(shard, &blob(number), &primary, &secondary).unwrap();
            all.push((shard, blob(number)));
        }
    }
    all.sort_unstable();
    assert!(store.delete_pair(all[0].0, &all[0].1).unwrap());
    all.remove(0);
    for page in [1, 3, 7, 100] {
        let mut found = Vec::new();
        while let Some(pairs) = Some(store.pairs(found.last().copied(), page).unwrap())
            .filter(|pairs| !pairs.is_empty())
        {
            assert!(pairs.len() <= page);
            found.extend(pairs);
        }
        assert_eq!(found, all, "pages of {page}");
        for shard in [0, 5, 6, 255, 256].map(ShardIndex::new) {
            let mut found = Vec::new();
            while let Some(blobs) = Some(store.pairs_of(shard, found.last(), page).unwrap())
                .filter(|blobs| !blobs.is_empty())
            {
                assert!(blobs.len() <= page);
                found.extend(blobs);
            }
            let expected = all.iter().filter(|(of, _)| *of == shard).map(|(_, blob)| *blob);
            assert_eq!(found, expected.collect::<Vec<_>>(), "shard {shard}, pages of {page}");
        }
    }
}

#[test]
fn deleted_pairs_are_gone_and_can_be_stored_again() {
    let home = Home::new();
    let store = home.open();
    let empty = store.usage().live_bytes;
    put(&store, 1);
    put(&store, 2);
    assert!(store.delete_pair(SHARD, &blob(1)).unwrap());
    assert!(!store.delete_pair(SHARD, &blob(1)).unwrap());
    assert!(!is_there(&store, 1));
    assert_eq!(store.sliver(SHARD, &blob(1), Axis::Secondary).unwrap(), None);
    assert!(is_there(&store, 2));
    put(&store, 1);
    assert!(is_there(&store, 1));
    store.delete_pair(SHARD, &blob(1)).unwrap();
    store.delete_pair(SHARD, &blob(2)).unwrap();
    assert_eq!(store.usage().live_bytes, empty);
    assert_eq!(store.usage().pairs, 0);
}

#[test]
fn the_first_slivers_of_a_pair_stay() {
    let home = Home::new();
    let store = home.open();
    put(&store, 1);
    let before = store.usage();
    store.put_pair(SHARD, &blob(1), b"other", b"slivers").unwrap();
    assert!(is_there(&store, 1));
    assert_eq!(store.usage().live_bytes, before.live_bytes);
    assert_eq!(store.usage().pairs, 1);
}

#[test]
fn slivers_without_bytes_or_with_too_many_are_refused() {
    let home = Home::new();
    let store = home.open();
    let huge = vec![0; SLIVER_BYTES_MAX + 1];
    for (primary, secondary) in [(&b""[..], &b"x"[..]), (b"x", b""), (&huge, b"x")] {
        let refused = store.put_pair(SHARD, &blob(1), primary, secondary);
        assert!(matches!(refused, Err(StorageError::Length { .. })), "{refused:?}");
        assert!(!refused.unwrap_err().is_fatal());
    }
    assert!(!store.has_pair(SHARD, &blob(1)).unwrap());
    assert_eq!(store.usage().live_bytes, 0);
}

#[test]
fn threads_share_flushes_and_each_finds_its_pairs_after_a_crash() {
    let home = Home::new();
    let store = home.open();
    let image = Home::new();
    thread::scope(|scope| {
        for thread in 0..6 {
            let store = store.clone();
            scope.spawn(move || {
                for number in (0..60).filter(|number| number % 6 == thread) {
                    put(&store, number);
                    store.flush().unwrap();
                    assert!(is_there(&store, number));
                }
            });
        }
    });
    // The store is still open: what the copy holds is what a crash would leave.
    crate::crash::copy(home.path(), image.path());
    let copied = image.open();
    assert!((0..60).all(|number| is_there(&copied, number)));
    assert_eq!(copied.usage().pairs, 60);
}

#[test]
fn one_pair_put_deleted_and_read_by_many_threads_is_whole_or_absent() {
    let home = Home::new();
    let store = home.open();
    thread::scope(|scope| {
        for thread in 0..4 {
            let store = store.clone();
            scope.spawn(move || {
                for _ in 0..60 {
                    if thread == 0 {
                        store.delete_pair(SHARD, &blob(3)).unwrap();
                    } else {
                        put(&store, 3);
                    }
                    let sliver = store.sliver(SHARD, &blob(3), Axis::Primary).unwrap();
                    let expected = slivers(3).0;
                    assert!(sliver.is_none_or(|sliver| sliver == expected));
                }
            });
        }
    });
    put(&store, 3);
    assert!(is_there(&store, 3));
    assert_eq!(store.usage().pairs, 1);
    assert_eq!(store.usage().damaged_pieces, 0);
}

/// Pairs that stay are read all the time while others come and go and volumes are emptied.
#[test]
fn pairs_are_read_while_they_move() {
    const STAY: u64 = 24;
    const ROUNDS: u64 = 12;
    let home = Home::new();
    let store = home.open();
    (0..STAY).for_each(|number| put(&store, number));
    store.flush().unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (store, is_over) = (&store, &is_over);
        let writers: Vec<_> = (0..2)
            .map(|thread| {
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let first = 1000 * (thread + 1) + 40 * round;
                        (first..first + 40).for_each(|number| put(store, number));
                        store.flush().unwrap();
                        assert!((first..first + 40).all(|number| is_there(store, number)));
                        for number in first..first + 40 {
                            assert!(store.delete_pair(SHARD, &blob(number)).unwrap());
                        }
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    assert!((0..STAY).all(|number| is_there(store, number)));
                }
            });
        }
        scope.spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                store.compact_step().unwrap();
            }
        });
        let ended: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        is_over.store(true, Ordering::Relaxed);
        assert!(ended.into_iter().all(|ended| ended.is_ok()));
    });
    compact(&store);
    assert_eq!(store.usage().pairs, STAY);
    assert_eq!(store.usage().damaged_pieces, 0);
    assert!(!home.volumes()[0].ends_with("000001"), "nothing moved");
    store.flush().unwrap();
    drop(store);
    let store = home.open();
    assert!((0..STAY).all(|number| is_there(&store, number)));
    assert_eq!(store.usage().pairs, STAY);
}
