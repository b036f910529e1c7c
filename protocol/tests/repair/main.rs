//! Recovery of lost pairs, driven against a swarm whose nodes are late, busy, empty or lie.

#![expect(clippy::unwrap_used, reason = "a test fails where it can't go on")]

mod swarm;

use std::num::NonZeroUsize;

use floe_protocol::{
    encoding::{EncodedBlob, EncodingConfig, encode},
    index::SliverPairIndex,
    repair::{RecoveredPair, Recovery, RecoveryConfig, RecoveryMethod},
    test_support,
};

use swarm::{Habit, Swarm, Written};

fn encoded(n: u16, seed: u64, len: usize) -> EncodedBlob {
    let config = EncodingConfig::new(n).unwrap();
    encode(config, test_support::blob(seed, len), NonZeroUsize::MIN).unwrap()
}

fn pairs(numbers: impl IntoIterator<Item = usize>) -> Vec<SliverPairIndex> {
    let pair = |number: usize| SliverPairIndex::new(u16::try_from(number).unwrap());
    numbers.into_iter().map(pair).collect()
}

fn check(blob: &EncodedBlob, wanted: &[SliverPairIndex], recovered: &[RecoveredPair]) {
    assert!(recovered.iter().map(|pair| pair.pair).eq(wanted.iter().copied()));
    for RecoveredPair { pair, proof, primary, secondary } in recovered {
        assert_eq!((primary.clone(), secondary.clone()), blob.pair(*pair), "pair {pair}");
        assert_eq!(*proof, blob.proof(*pair), "pair {pair}");
    }
}

#[test]
fn every_pair_is_recovered_by_either_method() {
    for (n, len, step) in [(4, 3_000, 1), (7, 200_000, 1), (10, 600_000, 1), (64, 4 << 20, 9)] {
        let blob = encoded(n, 1, len);
        let config = RecoveryConfig::default();
        for lost in (0..usize::from(n)).step_by(step) {
            let wanted = pairs([lost]);
            let habits = vec![Habit::Honest; usize::from(n)];
            let mut swarm = Swarm::new(Written::honest(&blob), habits, lost as u64);
            let holders = swarm.holders(&wanted);
            let mut recovery = Recovery::new(config, blob.header(), &wanted, &holders).unwrap();
            let large = len > 100_000;
            assert_eq!(recovery.cost().method == RecoveryMethod::Symbols, large, "n = {n}");
            let material = swarm.drive(config, &mut recovery).unwrap();
            assert!(swarm.answered_bytes <= recovery.cost().fetched_bytes);
            check(&blob, &wanted, &material.recover().unwrap());
        }
    }
}
