//! Seeds, and what a chain draws: of which blob, shard, sliver, symbol and chunk.

use std::{collections::BTreeMap, sync::Arc};

use floe_protocol::{
    blob::BlobHeader,
    challenge::{BilledUnits, Challenge, Seeds, Universe, chain_start, challenged_shards},
    encoding::Axis,
    hash::Hash,
    index::{Epoch, ShardIndex},
    keys::NodeId,
    ledger::{Timestamp, billed_units},
    test_support,
};

use crate::{Network, OPENED, ROUND, header, record};

/// As good as random.
fn values(count: u64) -> impl Iterator<Item = Hash> {
    (0..count).map(|i| Hash::of_symbol(&i.to_le_bytes()))
}

/// A universe of 16 nodes and 64 shards with blobs of these lengths, which nobody holds.
fn universe(lens: impl Iterator<Item = u64>) -> Universe {
    let mut units = BilledUnits::new();
    for (number, len) in (0_u64..).zip(lens) {
        let header = BlobHeader { n_shards: 64, len, root: Hash::of_symbol(&number.to_le_bytes()) };
        units.update(None, Some(&record(header, number))).unwrap();
    }
    units.advance(Epoch::new(0), OPENED);
    let network = Network::new(16, 64, &[]);
    Universe { units, ..(*network.universe).clone() }
}

/// Whether a count out of `n` is what a probability gives, within six standard deviations.
fn check_share(name: &str, count: u64, n: u64, probability: f64) {
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    let (count, n) = (count as f64, n as f64);
    let deviation = (n * probability * (1.0 - probability)).sqrt();
    let expected = n * probability;
    assert!((count - expected).abs() < 6.0 * deviation, "{name}: {count} instead of {expected}");
}

/// Who drops the large ones loses what they are billed for, not what their number is.
#[test]
fn blobs_are_drawn_by_billed_units() {
    let (small, large) = (1_000, 32 << 20);
    let lens = std::iter::repeat_n(small, 10_000).chain(std::iter::repeat_n(large, 100));
    let universe = universe(lens);
    let of = |len| {
        let header = BlobHeader { n_shards: 64, len, root: Hash::ZERO };
        billed_units(&header).unwrap()
    };
    let total = 10_000 * of(small) + 100 * of(large);
    assert_eq!(universe.units.total(), total);
    let draws = 50_000;
    let is_large = |value: &Hash| universe.place(0, value).unwrap().header.len == large;
    let hits = values(draws).filter(is_large).count() as u64;
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    let share = (100 * of(large)) as f64 / total as f64;
    check_share("large blobs", hits, draws, share);
    assert!(share > 0.5, "though they are one of a hundred");
}

#[test]
fn shards_axes_symbols_and_chunks_are_drawn_evenly() {
    let universe = universe([3_000_000].into_iter());
    let (draws, shards) = (40_000, &universe.shards[5]);
    let mut counts: [BTreeMap<u64, u64>; 4] = Default::default();
    for value in values(draws) {
        let place = universe.place(5, &value).unwrap();
        assert!(shards.contains(&place.shard));
        assert_eq!(place.blob.pair_of(place.shard, 64), place.pair);
        let symbols = if place.axis == Axis::Primary { 43 } else { 22 };
        // 3,172 bytes a symbol: three chunks and a short one.
        let is_in_range = place.symbol.get() < symbols && place.chunk < 4;
        assert!(is_in_range && place.chunk_bytes() == if place.chunk == 3 { 100 } else { 1_024 });
        let keys = [
            u64::from(place.shard.get()),
            u64::from(place.axis == Axis::Primary),
            u64::from(place.symbol.get()) + if symbols == 43 { 0 } else { 1_000 },
            place.chunk as u64,
        ];
        for (counts, key) in counts.iter_mut().zip(keys) {
            *counts.entry(key).or_default() += 1;
        }
    }
    let [by_shard, by_axis, by_symbol, by_chunk] = counts;
    assert_eq!((by_shard.len(), by_symbol.len(), by_chunk.len()), (4, 65, 4));
    check_share("primary", by_axis[&1], draws, 43.0 / 65.0);
    for (name, counts) in [("shard", by_shard), ("symbol", by_symbol), ("chunk", by_chunk)] {
        #[expect(clippy::cast_precision_loss, reason = "small counts")]
        let probability = 1.0 / counts.len() as f64;
        for (key, count) in counts {
            check_share(&format!("{name} {key}"), count, draws, probability);
        }
    }
}

#[test]
fn a_round_without_anything_to_ask_for_counts_for_nobody() {
    let empty = universe(std::iter::empty());
    assert!((0..17).all(|position| !empty.counts_for(position)));
    assert_eq!(empty.place(0, &Hash::ZERO), None);
    let mut universe = universe([5].into_iter());
    universe.shards[3].clear();
    let node = |position: usize| universe.committee.members()[position].node;
    assert_eq!(universe.position(&node(2)), Some(2));
    assert_eq!(universe.position(&node(3)), None);
    assert_eq!(universe.position(&NodeId::new([0; 32])), None, "no member");
    assert_eq!(universe.place(3, &Hash::ZERO), None);
    assert_eq!(universe.place(16, &Hash::ZERO), None);
    let universe = Arc::new(universe);
    let challenge = |node| Challenge::new(Arc::clone(&universe), node, Hash::ZERO);
    assert!(challenge(universe.committee.members()[2].node).is_some());
    assert!(challenge(universe.committee.members()[3].node).is_none());
}

/// Of a member with new shards, the others are asked for all the same.
#[test]
fn only_those_shards_are_drawn_that_are_asked_for() {
    let mut universe = universe([3_000_000].into_iter());
    let all = universe.shards[5].clone();
    universe.shards[5] = vec![all[1], all[3]];
    let draws = 2_000;
    let mut counts = BTreeMap::<ShardIndex, u64>::new();
    for value in values(draws) {
        *counts.entry(universe.place(5, &value).unwrap().shard).or_default() += 1;
    }
    assert!(counts.keys().eq(&[all[1], all[3]]), "{counts:?}");
    check_share("the first of two", counts[&all[1]], draws, 0.5);
    assert!(universe.counts_for(5));
}

#[test]
fn shards_are_asked_for_if_ready_for_long_enough() {
    let committee = test_support::committee(4, 7);
    let at = Timestamp::from_ms;
    let all: Vec<_> = committee.members().iter().map(|member| member.shards.clone()).collect();
    let none = vec![Vec::new(); 4];
    let asked = |ready: &[Option<Timestamp>]| challenged_shards(&committee, ready, at(100));
    assert_eq!(asked(&[None; 7]), none);
    assert_eq!(asked(&[]), none);
    assert_eq!(asked(&[Some(at(101)); 7]), none, "not long enough");
    assert_eq!(asked(&[Some(at(100)); 7]), all);
    let mut ready = [None; 7];
    ready[usize::from(all[1][0].get())] = Some(at(5));
    let one: Vec<Vec<ShardIndex>> = vec![vec![], vec![all[1][0]], vec![], vec![]];
    assert_eq!(asked(&ready), one);
}

#[test]
fn a_seed_is_the_first_beacon_that_the_node_did_not_sign() {
    let nodes: Vec<_> = test_support::node_keys(3).iter().map(|(node, _)| node.public()).collect();
    let [a, b, c] = nodes[..] else { panic!("three nodes") };
    let first = ROUND.get();
    let mut seeds = Seeds::new(ROUND);
    let known = |seeds: &Seeds| [a, b, c].map(|node| seeds.of(&node));
    let beacon = |byte| Some(Hash::new([byte; 32]));
    seeds.committed(&header(first - 1, c, 1));
    seeds.committed(&header(first, c, 2));
    assert_eq!(known(&seeds), [None; 3], "the opening block gives none");
    seeds.committed(&header(first + 1, a, 3));
    assert_eq!(known(&seeds), [None, beacon(3), beacon(3)]);
    seeds.committed(&header(first + 3, b, 9));
    assert_eq!(known(&seeds), [None, beacon(3), beacon(3)], "a block is missing");
    seeds.committed(&header(first + 2, a, 4));
    assert_eq!(known(&seeds), [None, beacon(3), beacon(3)], "its own again");
    seeds.committed(&header(first + 3, b, 5));
    seeds.committed(&header(first + 4, c, 6));
    assert_eq!(known(&seeds), [beacon(5), beacon(3), beacon(3)]);
    let starts = [a, b, c].map(|node| chain_start(&Hash::new([2; 32]), &node));
    assert!(starts[0] != starts[1] && starts[1] != starts[2] && starts[0] != starts[2]);
}

#[test]
fn members_ask_in_an_order_that_the_seed_draws() {
    let network = Network::new(7, 7, &[10]);
    let order = |seed: u8| {
        let universe = Arc::clone(&network.universe);
        Challenge::new(universe, network.node(3), Hash::new([seed; 32])).unwrap().turns()
    };
    let mut firsts = BTreeMap::<usize, u64>::new();
    for seed in 0..200 {
        let turns = order(seed);
        let mut all = turns.clone();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 4, 5, 6], "every other member once");
        *firsts.entry(turns[0]).or_default() += 1;
    }
    for (position, count) in firsts {
        check_share(&format!("member {position} first"), count, 200, 1.0 / 6.0);
    }
}
