//! Where all goes well: every target by either method, at the computed cost, with the load spread.

use std::collections::BTreeMap;

use floe_protocol::{
    index::SliverPairIndex,
    repair::{Recovery, RecoveryConfig, RecoveryMethod, RecoveryPlanError},
};

use super::{
    LARGE, SMALL, check, encoded, pairs,
    swarm::{Habit, Swarm, Written, node},
};

#[test]
fn every_pair_is_recovered_by_either_method_at_the_computed_cost() {
    let large = LARGE.map(|shape| (shape, RecoveryMethod::Symbols));
    let small = SMALL.into_iter().chain([(4, 0), (7, 1)]);
    let small = small.map(|shape| (shape, RecoveryMethod::WholeBlob));
    for ((n, len), method) in large.into_iter().chain(small) {
        let blob = encoded(n, 1, len);
        let written = Written::honest(&blob);
        let config = RecoveryConfig::default();
        for lost in 0..usize::from(n) {
            let wanted = pairs([lost]);
            let habits = vec![Habit::Honest; usize::from(n)];
            let mut swarm = Swarm::new(written.clone(), habits, lost as u64);
            let (recovery, recovered) = swarm.recover(config, &wanted);
            let cost = *recovery.cost();
            assert_eq!(cost.method, method, "n = {n}");
            check(&blob, &wanted, &recovered.unwrap().unwrap());
            assert_eq!(swarm.asked.values().sum::<usize>(), cost.requests, "no spare requests");
            let slivers = blob.layout().primary_bytes() + blob.layout().secondary_bytes();
            assert_eq!(cost.recovered_bytes, slivers as u64);
            let (answered, heads) = (swarm.answered_bytes, cost.requests as u64 * 200);
            assert!((answered..=answered + heads).contains(&cost.fetched_bytes), "n = {n}");
            assert!(swarm.most_in_flight <= config.in_flight_max);
            assert!(swarm.most_bytes <= recovery.bytes_needed());
        }
    }
}

#[test]
fn a_node_that_lost_all_its_pairs_has_them_back_and_the_load_is_spread() {
    let blob = encoded(64, 2, 1 << 20);
    // Five nodes; the first has lost its disk.
    for wanted in [1, 6, 13] {
        let wanted = pairs((0..wanted).map(|i| 5 * i));
        let mut swarm = Swarm::new(Written::honest(&blob), vec![Habit::Honest; 5], 3);
        let mut holders = swarm.holders(&wanted);
        holders.iter_mut().for_each(|nodes| nodes.retain(|holder| *holder != node(0)));
        let config = RecoveryConfig::default();
        let mut recovery = Recovery::new(config, blob.header(), &wanted, &holders).unwrap();
        let result = swarm.drive(config, &mut recovery);
        check(&blob, &wanted, &result.unwrap().recover().unwrap());
        let asked: Vec<_> = swarm.asked.values().copied().collect();
        assert_eq!(asked.len(), 4);
        let (least, most) = (asked.iter().min().unwrap(), asked.iter().max().unwrap());
        assert!(most - least <= 2 + most / 4, "requests per node: {asked:?}");
    }
}

#[test]
fn blobs_that_lack_the_same_pair_ask_different_helpers() {
    let mut asked: BTreeMap<_, usize> = BTreeMap::new();
    for seed in 0..30 {
        let blob = encoded(10, seed, 100_000);
        let mut swarm = Swarm::new(Written::honest(&blob), vec![Habit::Honest; 10], seed);
        let (_, recovered) = swarm.recover(RecoveryConfig::default(), &pairs([4]));
        check(&blob, &pairs([4]), &recovered.unwrap().unwrap());
        for (node, requests) in swarm.asked {
            *asked.entry(node).or_default() += requests;
        }
    }
    // 11 requests to 9 nodes, 30 times.
    let asked: Vec<_> = asked.into_values().collect();
    assert!(asked.iter().all(|requests| (25..=50).contains(requests)), "{asked:?}");
}

#[test]
fn pairs_beyond_the_memory_allowed_are_left_for_a_next_recovery() {
    let blob = encoded(10, 5, 300_000);
    let wanted = pairs([1, 4, 9]);
    let habits = vec![Habit::Honest; 10];
    let all = |bytes_max| {
        let config = RecoveryConfig { bytes_max, ..RecoveryConfig::default() };
        let mut missing = wanted.clone();
        let mut rounds = 0;
        while !missing.is_empty() {
            let mut swarm = Swarm::new(Written::honest(&blob), habits.clone(), 1);
            let (recovery, recovered) = swarm.recover(config, &missing);
            assert!(recovery.bytes_needed() <= bytes_max);
            assert!(swarm.most_bytes <= recovery.bytes_needed());
            check(&blob, recovery.pairs(), &recovered.unwrap().unwrap());
            missing.retain(|pair| !recovery.pairs().contains(pair));
            rounds += 1;
        }
        rounds
    };
    assert_eq!(all(100 << 20), 1);
    let one = {
        let swarm = Swarm::new(Written::honest(&blob), habits.clone(), 1);
        let config = RecoveryConfig { bytes_max: 1_000, ..RecoveryConfig::default() };
        let holders = swarm.holders(&wanted);
        let error = Recovery::new(config, blob.header(), &wanted, &holders).unwrap_err();
        let RecoveryPlanError::Memory { needed_bytes, bytes_max: 1_000 } = error else {
            panic!("{error}")
        };
        needed_bytes
    };
    assert_eq!(all(one), 3);
    let swarm = Swarm::new(Written::honest(&blob), habits.clone(), 1);
    let config = RecoveryConfig { bytes_max: one - 1, ..RecoveryConfig::default() };
    assert!(Recovery::new(config, blob.header(), &wanted, &swarm.holders(&wanted)).is_err());
}

#[test]
fn what_does_not_fit_the_blob_is_refused() {
    let blob = encoded(7, 1, 100);
    let swarm = Swarm::new(Written::honest(&blob), vec![Habit::Honest; 7], 1);
    let new = |wanted: &[SliverPairIndex], holders: &[Vec<_>]| {
        Recovery::new(RecoveryConfig::default(), blob.header(), wanted, holders).map(|_| ())
    };
    let holders = swarm.holders(&[]);
    assert_eq!(new(&pairs([6]), &holders), Ok(()));
    for (wanted, holders) in [
        (pairs([]), &holders[..]),
        (pairs([7]), &holders[..]),
        (pairs([1, 65_535]), &holders[..]),
        (pairs([1]), &holders[..6]),
        (pairs([1]), &[]),
    ] {
        assert_eq!(new(&wanted, holders), Err(RecoveryPlanError::Shape), "{wanted:?}");
    }
    let repeated = pairs([3, 1, 3]);
    let config = RecoveryConfig::default();
    let recovery = Recovery::new(config, blob.header(), &repeated, &holders).unwrap();
    assert_eq!(recovery.pairs(), pairs([1, 3]));
}
