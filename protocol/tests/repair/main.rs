//! Recovery of lost pairs, driven against a swarm whose nodes are late, busy, empty or lie.

#![expect(clippy::unwrap_used, reason = "a test fails where it can't go on")]

mod costs;
mod honest;
mod inconsistent;
mod swarm;
mod trouble;

use std::num::NonZeroUsize;

use floe_protocol::{
    encoding::{EncodedBlob, EncodingConfig, encode},
    index::SliverPairIndex,
    repair::RecoveredPair,
    test_support,
};

/// Blobs whose pairs are recovered by symbols, and small ones for which the whole blob is cheaper.
/// No two rows are alike, so that the sliver of another pair is a wrong one.
const LARGE: [(u16, usize); 4] = [(4, 60_000), (7, 200_000), (10, 300_000), (64, 2 << 20)];
const SMALL: [(u16, usize); 4] = [(4, 100), (7, 100), (10, 3_000), (64, 20_000)];

fn encoded(n: u16, seed: u64, len: usize) -> EncodedBlob {
    let config = EncodingConfig::new(n).unwrap();
    encode(config, test_support::blob(seed, len), NonZeroUsize::MIN).unwrap()
}

fn pairs(numbers: impl IntoIterator<Item = usize>) -> Vec<SliverPairIndex> {
    let pair = |number: usize| SliverPairIndex::new(u16::try_from(number).unwrap());
    numbers.into_iter().map(pair).collect()
}

/// These pairs, byte for byte.
fn check(blob: &EncodedBlob, wanted: &[SliverPairIndex], recovered: &[RecoveredPair]) {
    assert!(recovered.iter().map(|pair| pair.pair).eq(wanted.iter().copied()));
    for RecoveredPair { pair, proof, primary, secondary } in recovered {
        let (true_primary, true_secondary) = blob.pair(*pair);
        assert!(*primary == true_primary && *secondary == true_secondary, "pair {pair}");
        assert_eq!(*proof, blob.proof(*pair), "pair {pair}");
    }
}
