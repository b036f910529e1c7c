//! Blobs that are removed: nothing of them stays, nothing of others goes, and a removal that was
//! cut off goes on later.

use std::{env, io::BufRead, path::Path};

use floe_protocol::{blob::BlobId, encoding::Axis, index::ShardIndex};
use floe_storage::Store;

use crate::{
    common::{HEIGHT, Home, config_in, header, noise},
    crash::{CHILD_HOME, child, copy, tear, tears, tell},
};

/// Shards of the network.
const SHARDS: u16 = 64;
/// Shards of the node.
const OWN: [u16; 5] = [0, 7, 31, 62, 63];

/// Blobs have lower numbers.
const NUMBERS: u8 = 80;

fn id(number: u8) -> BlobId {
    header(number).id()
}

fn sliver(number: u8, shard: u16, axis: Axis) -> Vec<u8> {
    let seed = u64::from(number) * 1000 + u64::from(shard) * 2;
    match axis {
        Axis::Primary => noise(seed, 40_000),
        Axis::Secondary => noise(seed + 1, 20_000),
    }
}

fn put_blob(store: &Store, number: u8) {
    let proof = |shard| (ShardIndex::new(shard), noise(u64::from(shard), 500));
    store.put_table(&header(number), HEIGHT, &OWN.map(proof)).unwrap();
    for shard in OWN {
        let [primary, secondary] =
            [Axis::Primary, Axis::Secondary].map(|axis| sliver(number, shard, axis));
        store.put_pair(ShardIndex::new(shard), &id(number), &primary, &secondary).unwrap();
    }
}

/// What is there of a blob: its record, its proofs, its pairs. Pairs that are there must be right.
fn found(store: &Store, number: u8) -> (bool, usize, usize) {
    let blob = id(number);
    let is_known = store.blob(&blob).unwrap().is_some();
    let (mut proofs, mut pairs) = (0, 0);
    for shard in (0..SHARDS).map(ShardIndex::new) {
        proofs += usize::from(store.pair_proof(shard, &blob).unwrap().is_some());
        let is_there = store.has_pair(shard, &blob).unwrap();
        pairs += usize::from(is_there);
        for axis in [Axis::Primary, Axis::Secondary] {
            let found = store.sliver(shard, &blob, axis).unwrap();
            let expected = is_there.then(|| sliver(number, shard.get(), axis));
            assert!(found.as_deref() == expected.as_deref(), "blob {number}, shard {shard}");
        }
    }
    (is_known, proofs, pairs)
}

const WHOLE: (bool, usize, usize) = (true, OWN.len(), OWN.len());
const GONE: (bool, usize, usize) = (false, 0, 0);

/// Live bytes, pairs and blobs.
fn counts(store: &Store) -> (u64, u64, u64) {
    let usage = store.usage();
    (usage.live_bytes, usage.pairs, usage.blobs)
}

fn reopen(home: &Home, store: Store) -> Store {
    store.flush().unwrap();
    drop(store);
    home.open()
}

#[test]
fn a_removed_pair_takes_its_proof_and_leaves_the_others() {
    let home = Home::new();
    let store = home.open();
    put_blob(&store, 1);
    let one = counts(&store);
    put_blob(&store, 2);
    let two = counts(&store);
    for (removed, shard) in (1..).zip(OWN.map(ShardIndex::new)) {
        assert!(store.remove_pair(shard, &id(2)).unwrap());
        assert!(!store.remove_pair(shard, &id(2)).unwrap());
        let left = OWN.len() - removed;
        assert_eq!(found(&store, 2), (true, left, left));
    }
    // The record stays, alone; it can be stored again.
    let store = reopen(&home, store);
    assert_eq!((found(&store, 1), found(&store, 2)), (WHOLE, (true, 0, 0)));
    put_blob(&store, 2);
    assert_eq!((found(&store, 2), counts(&store)), (WHOLE, two));
    // A proof alone goes, too.
    for shard in OWN.map(ShardIndex::new) {
        assert!(store.delete_pair(shard, &id(2)).unwrap());
        assert!(store.remove_pair(shard, &id(2)).unwrap());
    }
    assert!(store.remove_blob(&id(2), SHARDS).unwrap());
    assert_eq!((found(&store, 2), counts(&store)), (GONE, one));
}

#[test]
fn a_removed_blob_leaves_nothing_and_others_stay() {
    let home = Home::new();
    let store = home.open();
    (1..=3).for_each(|number| put_blob(&store, number));
    assert!(store.remove_blob(&id(2), SHARDS).unwrap());
    assert!(!store.remove_blob(&id(2), SHARDS).unwrap(), "nothing is left to remove");
    assert!(!store.remove_blob(&id(4), SHARDS).unwrap(), "it was never there");
    assert_eq!([1, 2, 3].map(|number| found(&store, number)), [WHOLE, GONE, WHOLE]);
    let store = reopen(&home, store);
    assert_eq!([1, 2, 3].map(|number| found(&store, number)), [WHOLE, GONE, WHOLE]);
    let mut others = [id(1), id(3)];
    others.sort_unstable();
    assert_eq!(store.blobs(None, 10).unwrap(), others);

    // It can come back.
    put_blob(&store, 2);
    assert_eq!(found(&reopen(&home, store), 2), WHOLE);
}

#[test]
fn counts_are_those_of_a_fresh_store_after_cycles_of_putting_and_removing() {
    let home = Home::new();
    let mut store = home.open();
    let fresh = counts(&store);
    put_blob(&store, 0);
    let one = counts(&store);
    for round in 0..4_u8 {
        let numbers = 1 + round * 10..=10 + round * 10;
        for number in numbers.clone() {
            put_blob(&store, number);
            // Parts that are repeated, replaced, deleted on their own, or all that there is.
            put_blob(&store, number);
            let last = ShardIndex::new(63);
            store.put_table(&header(number), HEIGHT, &[(last, noise(9, 100))]).unwrap();
            if number % 3 == 0 {
                store.delete_pair(last, &id(number)).unwrap();
            }
        }
        if round % 2 == 1 {
            store = reopen(&home, store);
        }
        for number in numbers {
            assert!(store.remove_blob(&id(number), SHARDS).unwrap());
        }
        assert_eq!(counts(&store), one, "round {round}");
        store = reopen(&home, store);
        assert_eq!(counts(&store), one, "round {round}, reopened");
    }
    assert!(store.remove_blob(&id(0), SHARDS).unwrap());
    assert_eq!(counts(&store), fresh);
    let store = reopen(&home, store);
    assert_eq!(counts(&store), fresh);
    assert_eq!(store.blobs(None, 10).unwrap(), []);
}

#[test]
fn a_record_a_proof_or_a_pair_alone_is_something() {
    let home = Home::new();
    let store = home.open();
    store.put_table(&header(1), HEIGHT, &[]).unwrap();
    assert!(store.remove_blob(&id(1), SHARDS).unwrap());
    store.put_pair(ShardIndex::new(63), &id(1), b"primary", b"secondary").unwrap();
    assert!(store.remove_blob(&id(1), SHARDS).unwrap());
    assert!(!store.remove_blob(&id(1), SHARDS).unwrap());
    assert_eq!(counts(&store), (0, 0, 0));
}

#[test]
fn what_is_left_of_removed_volumes_goes_at_the_next_start() {
    let home = Home::new();
    let store = home.open();
    put_blob(&store, 1);
    store.flush().unwrap();
    drop(store);
    let volume = home.volumes()[0].clone();
    // A removal that was cut off, and a volume whose pairs were all removed.
    for left in ["000007.removed", "000008"] {
        copy(&volume, &volume.with_file_name(left));
    }
    let store = home.open();
    assert_eq!(home.volumes(), [volume]);
    assert_eq!(found(&store, 1), WHOLE);
    put_blob(&store, 2);
    let store = reopen(&home, store);
    assert_eq!([1, 2].map(|number| found(&store, number)), [WHOLE, WHOLE]);
}

/// Whatever point a crash left: a blob of which anything is there has its record, and removing
/// what is listed leaves nothing, not even in the counts. Whether a removal was found half done.
fn check_crashed(home: &Home, what: &str) -> bool {
    let store = home.open();
    let mut half = false;
    for number in 0..NUMBERS {
        let (is_known, proofs, pairs) = found(&store, number);
        assert!(is_known || (proofs, pairs) == (0, 0), "{what}: blob {number} without a record");
        assert!(!is_known || proofs == OWN.len(), "{what}: proofs go with the record");
        half |= is_known && pairs < OWN.len();
    }
    for blob in store.blobs(None, usize::MAX).unwrap() {
        assert!(store.remove_blob(&blob, SHARDS).unwrap());
    }
    assert_eq!(counts(&store), (0, 0, 0), "{what}");
    let store = reopen(home, store);
    assert_eq!(counts(&store), (0, 0, 0), "{what}, reopened");
    assert!((0..NUMBERS).all(|number| found(&store, number) == GONE), "{what}");
    half
}

#[test]
fn a_removal_that_a_crash_cut_off_is_found_by_its_record_and_goes_on() {
    let home = Home::new();
    let store = home.open();
    (0..20).for_each(|number| put_blob(&store, number));
    // Where the log ends in what was written last depends on sled's threads, so some rounds tear
    // nothing. Growth in between takes its free segments.
    const ROUNDS_MAX: u8 = 30;
    let mut half = 0;
    for number in 0..ROUNDS_MAX {
        (20 + 2 * number..22 + 2 * number).for_each(|new| put_blob(&store, new));
        store.flush().unwrap();
        let flushed = std::fs::read(home.log()).unwrap();
        assert!(store.remove_blob(&id(number), SHARDS).unwrap());
        let image = Home::new();
        copy(home.path(), image.path());
        let flushed_bytes = u64::try_from(flushed.len()).unwrap();
        for torn_so in tears(&image.log(), &flushed) {
            let crashed = Home::new();
            copy(image.path(), crashed.path());
            tear(&crashed.log(), flushed_bytes, torn_so);
            half += usize::from(check_crashed(&crashed, &format!("{number}, {torn_so:?}")));
        }
        if half >= 3 {
            return;
        }
    }
    panic!("{half} images ended in the middle of a removal");
}

#[test]
fn killed_removals_go_on_at_the_next_start() {
    const NAME: &str = "removal::killed_removals_go_on_at_the_next_start";
    if let Ok(home) = env::var(CHILD_HOME) {
        remove_until_killed(&Store::open(&config_in(Path::new(&home))).unwrap());
    }
    for kill_after in [1, 4, 9, 13] {
        let home = Home::new();
        let mut running = child(NAME, home.path()).spawn().unwrap();
        let told = std::io::BufReader::new(running.stdout.take().unwrap()).lines();
        let removing = told.map(Result::unwrap).filter(|line| line.starts_with("removing"));
        assert_eq!(removing.take(kill_after).count(), kill_after);
        running.kill().unwrap();
        running.wait().unwrap();
        check_crashed(&home, &format!("killed after {kill_after}"));
    }
}

/// Removes and puts again without end.
fn remove_until_killed(store: &Store) -> ! {
    (0..20).for_each(|number| put_blob(store, number));
    store.flush().unwrap();
    loop {
        for number in 0..20_u8 {
            tell("removing", number.into());
            store.remove_blob(&id(number), SHARDS).unwrap();
        }
        (0..20).for_each(|number| put_blob(store, number));
    }
}
