use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
    thread,
};

use floe_protocol::{
    blob::BlobHeader,
    hash::Hash,
    index::{Height, ShardIndex},
    keys::NodeId,
};
use tempfile::TempDir;

use super::*;
use crate::{
    Store, StoreConfig,
    database::{Database, SMALL_BACKLOG_BYTES_MAX},
    pieces::PIECE_BYTES,
    schema,
    volumes::REOPENED_AFTER_BYTES,
};

/// With a quota that makes the smallest volumes.
const QUOTA_BYTES: u64 = 256 << 20;

fn open(dir: &Path) -> (Slivers, Arc<Database>) {
    open_with(dir, QUOTA_BYTES)
}

fn open_with(dir: &Path, quota_bytes: u64) -> (Slivers, Arc<Database>) {
    let config = StoreConfig {
        quota_bytes,
        cache_bytes: 4 << 20,
        ..StoreConfig::new(dir.to_owned(), dir.join("marker"), NodeId::new([1; 32]))
    };
    let database = Arc::new(Database::open(dir, 1 << 20, SMALL_BACKLOG_BYTES_MAX).unwrap());
    let space = Arc::new(Space::new(dir, quota_bytes, 0));
    let sealed = database.table(schema::VOLUMES).unwrap();
    let volumes =
        Volumes::open(&config, Arc::clone(&database), sealed, Arc::clone(&space)).unwrap();
    let records = database.table(schema::SLIVERS).unwrap();
    (Slivers::open(records, volumes, space).unwrap(), database)
}

fn pair(number: u8) -> PairKey {
    [number; key::PAIR_KEY_BYTES]
}

fn remove_piece(slivers: &Slivers, pair: &PairKey, index: u16) {
    let place = slivers.record(pair).unwrap().unwrap().place;
    let pieces = slivers.volumes.pieces(place.volume).unwrap();
    assert!(pieces.table().remove(&key::piece(place.offset, Axis::Primary, index)).unwrap());
}

fn set_state(slivers: &Slivers, pair: &PairKey, state: State) {
    let record = slivers.record(pair).unwrap().unwrap();
    slivers.records.insert(pair, &record.with(state).to_bytes()).unwrap();
}

fn state(slivers: &Slivers, pair: &PairKey) -> Option<State> {
    slivers.record(pair).unwrap().map(|record| record.state)
}

#[test]
fn a_flush_completes_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let (slivers, _database) = open(dir.path());
    for number in [1, 2, 3] {
        slivers.put(&pair(number), &[7; 100], &[8; 100]).unwrap();
        assert_eq!(state(&slivers, &pair(number)), Some(State::Written));
        assert!(slivers.has(&pair(number)).unwrap());
    }
    slivers.delete(&pair(2)).unwrap();
    // Put again, at another place, it waits for the flush that its own put is told of.
    slivers.delete(&pair(3)).unwrap();
    let first = slivers.lock_pending().len();
    slivers.put(&pair(3), &[7; 100], &[8; 100]).unwrap();
    slivers.lock_pending().truncate(first);
    slivers.flush().unwrap();
    assert_eq!(state(&slivers, &pair(1)), Some(State::Complete));
    assert_eq!(state(&slivers, &pair(2)), None);
    assert_eq!(state(&slivers, &pair(3)), Some(State::Written));
}

#[test]
fn writers_that_never_flush_keep_a_bounded_number_of_pairs_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let (slivers, _database) = open(dir.path());
    let mut key = pair(0);
    for number in 0..u16::try_from(PENDING_MAX + 10).unwrap() {
        key[2..4].copy_from_slice(&number.to_be_bytes());
        slivers.put(&key, b"primary", b"secondary").unwrap();
    }
    assert_eq!(slivers.lock_pending().len(), 10);
    assert_eq!(slivers.pairs(), PENDING_MAX as u64 + 10);
}

#[test]
fn what_was_left_unfinished_is_removed_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let sliver = vec![3; 3 * PIECE_BYTES + 1];
    let (slivers, database) = open(dir.path());
    for number in 1..=6 {
        slivers.put(&pair(number), &sliver, &sliver).unwrap();
    }
    slivers.flush().unwrap();
    let counted = slivers.space.live_bytes();
    // What a put leaves that ended before its last record, and volumes that came back from
    // before their records.
    set_state(&slivers, &pair(2), State::Unfinished);
    set_state(&slivers, &pair(3), State::Written);
    set_state(&slivers, &pair(4), State::Written);
    remove_piece(&slivers, &pair(4), 3);
    assert!(!slivers.has(&pair(2)).unwrap());
    let given = slivers.volumes.get(1).unwrap().given();
    database.flush().unwrap();
    drop((slivers, database));

    let (slivers, _database) = open(dir.path());
    assert_eq!(slivers.pairs(), 4);
    assert_eq!(slivers.space.live_bytes(), counted / 6 * 4);
    let states = [1, 2, 3, 4, 5].map(|number| state(&slivers, &pair(number)));
    let complete = Some(State::Complete);
    assert_eq!(states, [complete, None, complete, None, complete]);
    assert_eq!(slivers.damaged_pieces(), 0);
    assert!(slivers.get(&pair(3), Axis::Secondary).unwrap().unwrap() == sliver);
    let volume = slivers.volumes.get(1).unwrap();
    assert_eq!((volume.given(), volume.dead_bytes()), (given, counted / 6 * 2));
    // What is put now meets nothing of the old.
    slivers.put(&pair(2), &sliver, &sliver).unwrap();
    assert_eq!(slivers.record(&pair(2)).unwrap().unwrap().place.offset, given);
}

#[test]
fn an_absent_piece_makes_its_pair_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (slivers, _database) = open(dir.path());
    let pair = pair(1);
    let sliver = vec![3; 3 * PIECE_BYTES];
    slivers.put(&pair, &sliver, &sliver).unwrap();
    let record = slivers.record(&pair).unwrap().unwrap();
    let pieces = slivers.volumes.pieces(record.place.volume).unwrap();
    let place = |index| key::piece(record.place.offset, Axis::Primary, index);
    // A piece in another's place is as good as none.
    let other = pieces.table().get(&place(0)).unwrap().unwrap();
    pieces.table().insert(&place(1), &other).unwrap();
    assert!(slivers.get(&pair, Axis::Secondary).unwrap().is_some());
    assert_eq!(slivers.get(&pair, Axis::Primary).unwrap(), None);
    assert!(!slivers.has(&pair).unwrap());
    assert_eq!((slivers.pairs(), slivers.damaged_pieces()), (0, 1));
    slivers.put(&pair, &sliver, &sliver).unwrap();
    assert_ne!(slivers.record(&pair).unwrap().unwrap().place, record.place);
    remove_piece(&slivers, &pair, 2);
    assert_eq!(slivers.get(&pair, Axis::Primary).unwrap(), None);
    assert_eq!((slivers.pairs(), slivers.damaged_pieces()), (0, 2));
}

#[test]
fn a_range_is_read_without_the_pieces_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let (slivers, _database) = open(dir.path());
    let (pair, sliver) = (pair(1), vec![7; 6 * PIECE_BYTES]);
    slivers.put(&pair, &sliver, &sliver).unwrap();
    remove_piece(&slivers, &pair, 4);
    let read = |pieces: Range<usize>| {
        let range = pieces.start * PIECE_BYTES..pieces.end * PIECE_BYTES;
        slivers.get_range(&pair, (Axis::Primary, range)).unwrap()
    };
    assert_eq!(read(0..4).unwrap(), sliver[..4 * PIECE_BYTES]);
    assert_eq!(read(5..6).unwrap(), sliver[..PIECE_BYTES]);
    assert!(slivers.has(&pair).unwrap(), "nobody has looked");
    assert_eq!(read(3..5), None);
    assert!(!slivers.has(&pair).unwrap());
    assert_eq!(read(0..1), None, "half a pair is none");
}

#[test]
fn damaged_hashes_are_none_and_their_pair_moves_without_them() {
    let dir = tempfile::tempdir().unwrap();
    let (slivers, _database) = open(dir.path());
    let empty_bytes = slivers.space.live_bytes();
    let sliver = |number: u8| vec![number; 200_000];
    let hashes = [5; 2_048];
    for number in 0..40 {
        let slivers_of = [&sliver(number)[..], &sliver(number)];
        let contents = Contents { slivers: slivers_of, hashes: [&hashes[..], &hashes[32..]] };
        slivers.put_contents(&pair(number), contents).unwrap();
    }
    slivers.flush().unwrap();
    for number in 0..30 {
        slivers.delete(&pair(number)).unwrap();
    }
    let of = |number| {
        [Axis::Primary, Axis::Secondary].map(|axis| slivers.hashes(&pair(number), axis).unwrap())
    };
    let sound = [&hashes[..], &hashes[32..]].map(|hashes| Some(Bytes::copy_from_slice(hashes)));
    assert_eq!(of(35), sound);
    let place = slivers.record(&pair(35)).unwrap().unwrap().place;
    let pieces = slivers.volumes.pieces(place.volume).unwrap();
    let key = key::hashes(place.offset, Axis::Primary);
    let mut row = pieces.table().get(&key).unwrap().unwrap().to_vec();
    row[1_000] ^= 1;
    pieces.table().insert(&key, &row).unwrap();
    drop(pieces);
    let without = [None, sound[1].clone()];
    assert_eq!(of(35), without);
    assert!(slivers.has(&pair(35)).unwrap());

    while slivers.compact_step().unwrap() {}
    assert_ne!(slivers.record(&pair(35)).unwrap().unwrap().place.volume, place.volume);
    for number in 30..40 {
        assert_eq!(of(number), if number == 35 { without.clone() } else { sound.clone() });
        assert!(slivers.get(&pair(number), Axis::Secondary).unwrap().unwrap() == sliver(number));
    }
    assert_eq!(slivers.damaged_pieces(), 0);
    for number in 30..40 {
        assert!(slivers.delete(&pair(number)).unwrap());
    }
    assert_eq!(slivers.space.live_bytes(), empty_bytes);
}

#[test]
fn moving_takes_sound_pairs_along_and_finds_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (slivers, database) = open(dir.path());
    let sliver = |number: u8| vec![number; 200_000];
    for number in 0..40 {
        slivers.put(&pair(number), &sliver(number), &sliver(number)).unwrap();
    }
    slivers.flush().unwrap();
    assert_eq!(slivers.record(&pair(39)).unwrap().unwrap().place.volume, 1);
    for number in 0..30 {
        slivers.delete(&pair(number)).unwrap();
    }
    remove_piece(&slivers, &pair(35), 3);
    let mut steps = 0;
    while slivers.compact_step().unwrap() {
        steps += 1;
        assert!(steps < 100);
    }
    assert!(steps >= 3, "{steps} steps");
    assert!(slivers.volumes.get(1).is_none());
    assert!(!dir.path().join("volumes/000001").exists());
    assert_eq!((slivers.pairs(), slivers.damaged_pieces()), (9, 1));
    let check = |slivers: &Slivers| {
        for number in 0..40 {
            let is_there = number >= 30 && number != 35;
            assert_eq!(slivers.has(&pair(number)).unwrap(), is_there);
            let found = slivers.get(&pair(number), Axis::Secondary).unwrap();
            assert!(found.as_deref() == is_there.then(|| sliver(number)).as_deref());
        }
        assert_eq!(slivers.volumes.get(2).unwrap().dead_bytes(), 0);
    };
    check(&slivers);
    let counted = slivers.space.live_bytes();
    drop((slivers, database));
    let (slivers, _database) = open(dir.path());
    check(&slivers);
    assert_eq!((slivers.pairs(), slivers.space.live_bytes()), (9, counted));
}

#[test]
fn few_volumes_stay_open() {
    let dir = tempfile::tempdir().unwrap();
    let (slivers, _database) = open(dir.path());
    for number in 0..20 {
        slivers.put(&pair(number), &[number; 100], &[number; 100]).unwrap();
        slivers.volumes.seal_if(|_| true).unwrap();
    }
    for number in (0..20).chain([3, 3, 0, 19]) {
        let found = slivers.get(&pair(number), Axis::Primary).unwrap();
        assert_eq!(found.as_deref(), Some(&[number; 100][..]));
        assert!(slivers.volumes.open_count() <= 16);
    }
    assert_eq!(slivers.volumes.open_count(), 16);
    // Much that was read closes the others first, then the volume itself.
    for _ in 0..40 {
        slivers.get(&pair(19), Axis::Primary).unwrap().unwrap();
    }
    assert_eq!(slivers.volumes.open_count(), 1);
}

/// With a quota that makes the largest volumes.
const LARGE_QUOTA_BYTES: u64 = 1 << 40;
/// So many slivers of 2 MiB, and the active volume is opened again.
const REOPENED_AFTER: u8 = 9;
const _: () = assert!(REOPENED_AFTER_BYTES < (REOPENED_AFTER as u64) << 21);

fn large_sliver(number: u8) -> Vec<u8> {
    vec![number; 2 << 20]
}

fn put_large(slivers: &Slivers, numbers: Range<u8>) {
    for number in numbers {
        slivers.put(&pair(number), &large_sliver(number), &[number; 9]).unwrap();
    }
}

fn check_large(slivers: &Slivers, numbers: Range<u8>) {
    for number in numbers {
        let found = slivers.get(&pair(number), Axis::Primary).unwrap();
        assert!(found.as_deref() == Some(&large_sliver(number)[..]), "pair {number}");
    }
}

/// sled may keep in memory whatever was written since it opened a database.
#[test]
fn the_active_volume_is_opened_again_while_others_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let (slivers, database) = open_with(dir.path(), LARGE_QUOTA_BYTES);
    let opened = || Arc::downgrade(&slivers.volumes.pieces(1).unwrap());
    put_large(&slivers, 0..1);
    let first = opened();
    let (last, is_over) = (AtomicU8::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                let number = last.load(Ordering::Acquire);
                check_large(&slivers, number..number + 1);
            }
        });
        let put = catch_unwind(AssertUnwindSafe(|| {
            for number in 1..2 * REOPENED_AFTER {
                put_large(&slivers, number..number + 1);
                last.store(number, Ordering::Release);
            }
        }));
        is_over.store(true, Ordering::Release);
        put.unwrap();
    });
    // Who reads it may have kept it until here; nobody does now.
    put_large(&slivers, 2 * REOPENED_AFTER..3 * REOPENED_AFTER);
    assert!(first.upgrade().is_none(), "it is as open as it was");
    check_large(&slivers, 0..3 * REOPENED_AFTER);
    assert_eq!(slivers.volumes.open_count(), 0, "it is no sealed one");
    slivers.flush().unwrap();
    drop((slivers, database));
    let (slivers, _database) = open_with(dir.path(), LARGE_QUOTA_BYTES);
    check_large(&slivers, 0..3 * REOPENED_AFTER);
    assert!(!dir.path().join("volumes/000002").exists());
}

#[test]
fn an_active_volume_that_does_not_open_again_is_given_up_and_another_begun() {
    let dir = tempfile::tempdir().unwrap();
    let (slivers, database) = open_with(dir.path(), LARGE_QUOTA_BYTES);
    put_large(&slivers, 0..REOPENED_AFTER - 1);
    std::fs::remove_file(dir.path().join("volumes/000001/db")).unwrap();
    put_large(&slivers, REOPENED_AFTER..REOPENED_AFTER + 4);
    let check = |slivers: &Slivers| {
        check_large(slivers, REOPENED_AFTER + 1..REOPENED_AFTER + 4);
        assert_eq!(slivers.get(&pair(0), Axis::Primary).unwrap(), None);
        assert!(!slivers.has(&pair(0)).unwrap());
    };
    assert!(slivers.volumes.is_lost(1));
    check(&slivers);
    slivers.flush().unwrap();
    drop((slivers, database));
    check(&open_with(dir.path(), LARGE_QUOTA_BYTES).0);
}

/// A store with a pair of the blob in shards 2 and 6.
fn store_of_one_blob(home: &TempDir) -> (StoreConfig, Store, BlobHeader) {
    let (dir, marker) = (home.path().join("store"), home.path().join("marker"));
    let config = StoreConfig::new(dir, marker, NodeId::new([1; 32]));
    let header = BlobHeader { n_shards: 7, len: 9, root: Hash::new([3; 32]) };
    let store = Store::open(&config).unwrap();
    (config, store, header)
}

#[test]
fn a_damaged_pair_goes_with_its_blob() {
    let home = tempfile::tempdir().unwrap();
    let (config, store, header) = store_of_one_blob(&home);
    let (shard, blob) = (ShardIndex::new(6), header.id());
    let sliver = vec![3; 3 * PIECE_BYTES];
    for is_alone in [false, true] {
        store.put_table(&header, Height::new(1), &[(shard, vec![1; 100])]).unwrap();
        for shard in [ShardIndex::new(2), shard] {
            store.put_pair(shard, &blob, &sliver, &sliver).unwrap();
        }
        let pair = key::pair(shard, &blob);
        let slivers = &store.tables.slivers;
        remove_piece(slivers, &pair, 2);
        assert_eq!(store.sliver(shard, &blob, Axis::Primary).unwrap(), None);
        assert_eq!(state(slivers, &pair), Some(State::Damaged));
        if is_alone {
            store.delete_pair(ShardIndex::new(2), &blob).unwrap();
        }

        assert!(store.remove_blob(&blob, 7).unwrap());
        assert_eq!(slivers.record(&pair).unwrap(), None);
        assert!(!store.remove_blob(&blob, 7).unwrap());
        assert_eq!((store.usage().live_bytes, store.usage().pairs), (0, 0));
    }
    store.flush().unwrap();
    drop(store);
    let store = Store::open(&config).unwrap();
    assert_eq!(store.tables.slivers.records.rows().count(), 0);
    assert_eq!((store.usage().live_bytes, store.usage().blobs), (0, 0));
}
