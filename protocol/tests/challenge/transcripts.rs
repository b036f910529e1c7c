//! Transcripts: what is right, how long it is, and everything that is not.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use floe_protocol::{
    challenge::{
        Challenge, ChallengeParameters, STEPS_MAX, StepError, StepProof, TRANSCRIPT_BYTES_MAX,
        TranscriptError, Universe, Walk, transcript_bytes_max,
    },
    encoding::{EncodingConfig, MAX_SHARDS, MIN_SHARDS},
    hash::Hash,
    index::ChallengeRound,
    keys::ChainId,
};
use proptest::prelude::*;

use crate::{Network, ROUND};

fn judge(challenge: &Challenge, transcript: &[u8], end: &Hash) -> Result<(), TranscriptError> {
    challenge.verify(transcript, end, &BTreeSet::new())
}

#[test]
fn who_holds_everything_passes() {
    for (nodes, n_shards, lens) in [
        (4, 4, vec![0, 1, 100_000]),
        (5, 7, vec![31, 5_000, 300_000]),
        (4, 10, vec![2_000_000]),
        (16, 64, vec![1 << 20, 3, 200_000]),
        (7, 256, vec![3_000_000]),
    ] {
        let network = Network::new(nodes, n_shards, &lens);
        for position in 0..nodes {
            let challenge = network.challenge(position);
            let (end, transcript) = network.answer(&challenge);
            assert_eq!(judge(&challenge, &transcript, &end), Ok(()), "n = {n_shards}");
            assert!(transcript.len() <= challenge.transcript_bytes_max());
        }
    }
}

#[test]
fn a_step_takes_less_than_3_kib_at_64_shards_and_32_mib() {
    let network = Network::new(16, 64, &[32 << 20]);
    let challenge = network.challenge(3);
    let (end, transcript) = network.answer(&challenge);
    assert_eq!(judge(&challenge, &transcript, &end), Ok(()));
    let steps = usize::from(network.universe.parameters.steps);
    let step_bytes = transcript.len().div_ceil(steps);
    println!("{} bytes in {steps} steps: {step_bytes} bytes a step", transcript.len());
    assert!(step_bytes < 2_048, "{step_bytes}");
}

#[test]
fn the_longest_transcript_of_any_network_stays_within_56_kib() {
    for n in MIN_SHARDS..=MAX_SHARDS {
        let config = EncodingConfig::new(n).unwrap();
        let (one, most) =
            (transcript_bytes_max(config, 1), transcript_bytes_max(config, STEPS_MAX));
        let step = transcript_bytes_max(config, 2) - one;
        assert_eq!(most, one + usize::from(STEPS_MAX - 1) * step, "n = {n}: not cut off");
        assert!(most <= TRANSCRIPT_BYTES_MAX && step < 2_048, "n = {n}: {step} bytes a step");
    }
}

/// A network of one small blob and two steps: short enough to change every byte.
fn short() -> (Network, Challenge, Hash, Bytes) {
    let rules = ChallengeParameters { steps: 2, ..ChallengeParameters::default() };
    let network = Network::with_rules(4, 4, &[20_000], rules);
    let challenge = network.challenge(1);
    let (end, transcript) = network.answer(&challenge);
    assert_eq!(judge(&challenge, &transcript, &end), Ok(()));
    (network, challenge, end, transcript)
}

#[test]
fn every_changed_byte_is_refused() {
    let (_, challenge, end, transcript) = short();
    for place in 0..transcript.len() {
        for bit in 0..8 {
            let mut changed = transcript.to_vec();
            changed[place] ^= 1 << bit;
            assert!(judge(&challenge, &changed, &end).is_err(), "byte {place}, bit {bit}");
        }
    }
    for bit in 0..256 {
        let mut other = *end.as_bytes();
        other[bit / 8] ^= 1 << (bit % 8);
        let result = judge(&challenge, &transcript, &Hash::new(other));
        assert_eq!(result, Err(TranscriptError::OtherEnd));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// In networks of any size, with full chains.
    #[test]
    fn any_changed_byte_is_refused(
        (n, nodes) in prop_oneof![Just((4_u16, 4_usize)), Just((7, 5)), Just((31, 6)), Just((64, 8))],
        lens in proptest::collection::vec(0_usize..200_000, 1..4),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 1_u8..), 300),
    ) {
        let network = Network::new(nodes, n, &lens);
        let challenge = network.challenge(nodes - 1);
        let (end, transcript) = network.answer(&challenge);
        prop_assert_eq!(judge(&challenge, &transcript, &end), Ok(()));
        for (index, mask) in changes {
            let place = index.index(transcript.len());
            let mut changed = transcript.to_vec();
            changed[place] ^= mask;
            prop_assert!(judge(&challenge, &changed, &end).is_err(), "byte {} ^ {}", place, mask);
        }
    }

    /// Whatever bytes come, nothing panics and nothing passes.
    #[test]
    fn noise_is_refused(
        noise in proptest::collection::vec(any::<u8>(), 0..4_000),
        (start, len) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
    ) {
        let (_, challenge, end, transcript) = short();
        prop_assert!(judge(&challenge, &noise, &end).is_err());
        let start = start.index(transcript.len());
        let len = len.index(transcript.len() - start);
        let mut spliced = transcript.to_vec();
        spliced.splice(start..start + len, noise.iter().copied());
        prop_assert!(spliced == transcript || judge(&challenge, &spliced, &end).is_err());
    }
}

#[test]
fn too_short_and_too_long_are_refused() {
    let (_, challenge, end, transcript) = short();
    for len in 0..transcript.len() {
        let result = judge(&challenge, &transcript[..len], &end);
        let is_short = match result {
            Err(TranscriptError::TooShort) => len < 72,
            Err(TranscriptError::Step { error: StepError::Length, .. }) => len >= 72,
            _ => false,
        };
        assert!(is_short, "{len} bytes: {result:?}");
    }
    let long = [&transcript[..], &[0]].concat();
    assert_eq!(judge(&challenge, &long, &end), Err(TranscriptError::LeftOver));
    let huge = vec![0; TRANSCRIPT_BYTES_MAX + 1];
    let result = judge(&challenge, &huge, &end);
    assert!(matches!(result, Err(TranscriptError::TooLong { .. })), "{result:?}");
}

#[test]
fn the_transcript_of_another_is_refused() {
    let (network, challenge, end, transcript) = short();
    let with = |change: &dyn Fn(&mut Universe)| {
        let mut universe = (*network.universe).clone();
        change(&mut universe);
        Challenge::new(Arc::new(universe), *challenge.node(), Hash::new([7; 32])).unwrap()
    };
    let chain = ChainId::new(Hash::new([1; 32]));
    let other_chain = with(&|universe| universe.chain = chain);
    assert_eq!(judge(&other_chain, &transcript, &end), Err(TranscriptError::OtherChain));
    let next = ChallengeRound::new(ROUND.get() + 1);
    let other_round = with(&|universe| universe.round = next);
    assert_eq!(judge(&other_round, &transcript, &end), Err(TranscriptError::OtherRound(ROUND)));
    let other_node = network.challenge(2);
    let error = TranscriptError::OtherNode(*challenge.node());
    assert_eq!(judge(&other_node, &transcript, &end), Err(error));
    // With the other's name on it, and in a round with another seed: its places are others.
    let mut renamed = transcript.to_vec();
    renamed[40..72].copy_from_slice(network.node(2).as_bytes());
    assert!(matches!(judge(&other_node, &renamed, &end), Err(TranscriptError::Step { .. })));
    let universe = Arc::clone(&network.universe);
    let replayed = Challenge::new(universe, *challenge.node(), Hash::new([8; 32])).unwrap();
    assert!(matches!(judge(&replayed, &transcript, &end), Err(TranscriptError::Step { .. })));
}

#[test]
fn a_disk_that_lies_is_noticed_before_others_do() {
    let (network, challenge, ..) = short();
    let mut walk = Walk::new(challenge);
    let place = walk.place().unwrap();
    let StepProof::Chunk(proof) = network.read(&place).unwrap() else {
        panic!("the blob is consistent");
    };
    let mut rotten = (*proof).clone();
    let mut chunk = rotten.chunk.to_vec();
    chunk[0] ^= 1;
    rotten.chunk = chunk.into();
    let take = |walk: &mut Walk, proof| walk.take(&StepProof::Chunk(Box::new(proof)));
    assert_eq!(take(&mut walk, rotten), Err(StepError::Chunk));
    let mut other_pair = (*proof).clone();
    other_pair.digest.primary = Hash::ZERO;
    assert_eq!(take(&mut walk, other_pair), Err(StepError::Pair));
    let mut short = (*proof).clone();
    short.slice.pop();
    assert_eq!(take(&mut walk, short), Err(StepError::Length));
    assert_eq!(walk.step(), 0, "nothing of it counts");
    assert_eq!(take(&mut walk, *proof), Ok(()));
    assert_eq!(walk.step(), 1);
    assert!(walk.end().is_none(), "one step is left");
}

#[test]
fn a_blob_known_to_be_inconsistent_needs_no_chunk() {
    let (network, challenge, ..) = short();
    let mut walk = Walk::new(challenge.clone());
    let place = walk.place().unwrap();
    walk.take(&StepProof::Inconsistent).unwrap();
    let place_after = walk.place().unwrap();
    walk.take(&network.read(&place_after).unwrap()).unwrap();
    assert_eq!(walk.take(&StepProof::Inconsistent), Err(StepError::Ended));
    let answer = walk.end().unwrap();
    let (end, transcript) = (answer.commitment().end, answer.transcript());
    let known = BTreeSet::from([place.blob]);
    assert_eq!(challenge.verify(transcript, &end, &known), Ok(()));
    let error = StepError::NotInconsistent(place.blob);
    let unknown = Err(TranscriptError::Step { step: 0, error });
    assert_eq!(judge(&challenge, transcript, &end), unknown);
    let mut other_kind = transcript.to_vec();
    other_kind[72] = 2;
    let error = StepError::Kind(2);
    let result = challenge.verify(&other_kind, &end, &known);
    assert_eq!(result, Err(TranscriptError::Step { step: 0, error }));
}

#[test]
fn the_chain_depends_on_every_chunk() {
    let (network, challenge, end, _) = short();
    assert_eq!(network.answer(&challenge).0, end, "the same chain again");
    // Another blob in the same place of the same size: other chunks from the first step on.
    let rules = network.universe.parameters;
    let other = Network::with_rules(4, 4, &[20_001], rules);
    let ends: BTreeSet<_> = (0..4)
        .flat_map(|position| [&network, &other].map(|n| n.answer(&n.challenge(position)).0))
        .collect();
    assert_eq!(ends.len(), 8);
}

/// Two networks that differ in one blob of two: chains are the same until they hit it, in the middle,
/// and others from then on.
#[test]
fn a_chunk_in_the_middle_changes_all_that_follows() {
    let networks = [30_000, 30_001].map(|len| Network::new(4, 4, &[20_000, len]));
    let last = usize::from(networks[0].universe.parameters.steps) - 1;
    let mut in_the_middle = 0;
    for seed in 0..20 {
        let walk = |network: &Network| {
            let (universe, seed) = (Arc::clone(&network.universe), Hash::new([seed; 32]));
            let challenge = Challenge::new(universe, network.node(1), seed).unwrap();
            let (mut walk, mut steps) = (Walk::new(challenge), Vec::new());
            while let Some(place) = walk.place() {
                let StepProof::Chunk(proof) = network.read(&place).unwrap() else {
                    panic!("the blob is consistent");
                };
                steps.push((
                    place.shard,
                    place.axis,
                    place.symbol,
                    place.chunk,
                    proof.chunk.clone(),
                ));
                walk.take(&StepProof::Chunk(proof)).unwrap();
            }
            (steps, walk.end().unwrap().commitment().end)
        };
        let [(one, end), (other, other_end)] = networks.each_ref().map(walk);
        assert_ne!(end, other_end, "seed {seed}");
        let first = one.iter().zip(&other).position(|(one, other)| one.4 != other.4).unwrap();
        let place = |step: &(_, _, _, _, Bytes)| (step.0, step.1, step.2, step.3);
        assert!(place(&one[first]) == place(&other[first]), "seed {seed}: drawn alike");
        if (1..last).contains(&first) {
            in_the_middle += 1;
            let same = one[first + 1..].iter().zip(&other[first + 1..]);
            let same = same.filter(|(one, other)| one == other).count();
            assert!(same <= 1, "seed {seed}: {same} steps alike after step {first}");
        }
    }
    assert!(in_the_middle > 3, "{in_the_middle}");
}
