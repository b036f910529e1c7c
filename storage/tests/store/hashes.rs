//! What a challenge reads: ranges of slivers, and the symbol hashes that lie beside long ones.

use floe_protocol::{encoding::Axis, hash::Hash};
use floe_storage::{HASHED_ABOVE_BYTES, PIECE_BYTES, StorageError, Store};

use crate::common::{Home, SHARD, blob, compact, hashes, is_there, noise, put, slivers};

const BOTH: [Axis; 2] = [Axis::Primary, Axis::Secondary];

fn kept(store: &Store, number: u64) -> [Option<Vec<Hash>>; 2] {
    BOTH.map(|axis| store.symbol_hashes(SHARD, &blob(number), axis).unwrap())
}

#[test]
fn any_range_of_a_sliver_is_read_alone() {
    let home = Home::new();
    let store = home.open();
    let id = blob(1);
    for bytes in [1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES + 77] {
        let sliver = noise(1, bytes);
        store.put_pair(SHARD, &id, &sliver, &sliver).unwrap();
        let edges = (0..7).flat_map(|piece| [0, 1, 100].map(|more| piece * PIECE_BYTES + more));
        let edges: Vec<_> = edges.chain([bytes - 1, bytes, bytes + 1, usize::MAX]).collect();
        for start in &edges {
            for end in &edges {
                let range = *start.min(end)..*end;
                let read = store.sliver_range(SHARD, &id, Axis::Secondary, range.clone()).unwrap();
                let expected = &sliver[range.start.min(bytes)..range.end.min(bytes)];
                assert!(read.as_deref() == Some(expected), "{range:?} of {bytes}");
            }
        }
        assert!(store.delete_pair(SHARD, &id).unwrap());
    }
    assert_eq!(store.sliver_range(SHARD, &id, Axis::Primary, 0..1).unwrap(), None);
}

#[test]
fn hashes_lie_beside_long_slivers_alone_and_survive_reopening() {
    let home = Home::new();
    let store = home.open();
    let empty_bytes = store.usage().live_bytes;
    let hashes = hashes(7);
    let (short, long) = (noise(1, HASHED_ABOVE_BYTES), noise(2, HASHED_ABOVE_BYTES + 1));
    let put = |number, slivers| {
        let before = store.usage().live_bytes;
        store.put_hashed_pair((SHARD, &blob(number)), slivers, [&hashes; 2]).unwrap();
        store.usage().live_bytes - before
    };
    let neither = put(1, [&short, &short]);
    let [of_long, of_both] = [put(2, [&long, &short]), put(3, [&long, &long])];
    // Rows of 64 hashes, and of the byte that makes a sliver long, with what a row costs.
    let [of_hashes, of_byte] = [2_048..2_048 + 128, 1..128];
    let more = of_long - neither;
    assert!((of_hashes.start + of_byte.start..of_hashes.end + of_byte.end).contains(&more));
    assert_eq!(of_both - of_long, more);
    store.flush().unwrap();
    let live_bytes = store.usage().live_bytes;
    drop(store);
    let store = home.open();
    assert_eq!(store.usage().live_bytes, live_bytes);
    let some = || Some(hashes.clone());
    assert_eq!(kept(&store, 1), [None, None]);
    assert_eq!(kept(&store, 2), [some(), None]);
    assert_eq!(kept(&store, 3), [some(), some()]);
    for number in 1..=3 {
        assert!(store.delete_pair(SHARD, &blob(number)).unwrap());
        assert_eq!(kept(&store, number), [None, None]);
    }
    assert_eq!(store.usage().live_bytes, empty_bytes);
    // Without any they are as before.
    store.put_pair(SHARD, &blob(2), &long, &long).unwrap();
    assert_eq!(kept(&store, 2), [None, None]);
}

#[test]
fn more_hashes_than_a_sliver_has_symbols_are_refused() {
    let home = Home::new();
    let store = home.open();
    let long = noise(2, HASHED_ABOVE_BYTES + 1);
    let put = |hashes: &[Hash]| {
        store.put_hashed_pair((SHARD, &blob(1)), [&long, b"short"], [hashes, hashes])
    };
    let refused = put(&[Hash::ZERO; 257]).unwrap_err();
    assert!(matches!(refused, StorageError::Length { what: "symbol hashes", .. }), "{refused}");
    assert!(!store.has_pair(SHARD, &blob(1)).unwrap());
    put(&[Hash::ZERO; 256]).unwrap();
    assert_eq!(kept(&store, 1), [Some(vec![Hash::ZERO; 256]), None]);
}

#[test]
fn hashes_move_with_their_pair() {
    const PAIRS: u64 = 150;
    let home = Home::new();
    let store = home.open();
    let empty_bytes = store.usage().live_bytes;
    (0..PAIRS).for_each(|number| put(&store, number));
    let lives = |number: u64| number.is_multiple_of(5);
    for number in (0..PAIRS).filter(|number| !lives(*number)) {
        assert!(store.delete_pair(SHARD, &blob(number)).unwrap());
    }
    store.flush().unwrap();
    compact(&store);
    assert!(!home.volumes()[0].ends_with("000001"), "nothing moved");
    drop(store);
    let store = home.open();
    let mut long = 0;
    for number in (0..PAIRS).filter(|number| lives(*number)) {
        assert!(is_there(&store, number));
        let has_long = slivers(number).0.len() > HASHED_ABOVE_BYTES;
        let expected = has_long.then(|| hashes(number));
        assert_eq!(kept(&store, number), [expected, None], "pair {number}");
        long += u64::from(has_long);
        assert!(store.delete_pair(SHARD, &blob(number)).unwrap());
    }
    assert!(long > 5, "{long} of them");
    assert_eq!(store.usage().live_bytes, empty_bytes);
}
