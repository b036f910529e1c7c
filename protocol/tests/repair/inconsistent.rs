//! Blobs of false writers: recovery ends with slivers that have their committed roots, or with a
//! proof, never with others.

use bytes::Bytes;
use floe_protocol::{
    encoding::{Axis, DigestTable, sliver_root},
    hash::Hash,
    inconsistency::InconsistencyProof,
    index::SliverPairIndex,
    repair::{RecoveredPair, RecoveryConfig, RecoveryError, RecoveryMethod},
};

use super::{
    encoded, pairs,
    swarm::{Habit, Swarm, Written, slivers},
};

const AXES: [Axis; 2] = [Axis::Primary, Axis::Secondary];

/// Every writer at n = 7 that is false in one sliver: in its bytes, with roots that are true to
/// them, or in the digest of a sliver that is right.
fn false_writers(len: usize) -> Vec<(String, Written)> {
    let blob = encoded(7, 13, len);
    let mut writers = Vec::new();
    for axis in AXES {
        for line in 0..7 {
            let mut bytes = slivers(&blob);
            let sliver = &mut bytes[usize::from(axis == Axis::Secondary)][line];
            let mut other = sliver.to_vec();
            other[line] ^= 0x80;
            *sliver = Bytes::from(other);
            writers.push((format!("bytes of {axis:?} {line}"), Written::commit(&blob, bytes)));

            let all = (0..7).map(SliverPairIndex::new);
            let mut digests: Vec<_> = all.map(|pair| *blob.table().digest(pair)).collect();
            let false_root = Hash::of_symbol(b"no sliver's root");
            match axis {
                Axis::Primary => digests[line].primary = false_root,
                Axis::Secondary => digests[6 - line].secondary = false_root,
            }
            let table = DigestTable::new(blob.layout().config(), digests).unwrap();
            let written = Written::with_table(&blob, table, slivers(&blob));
            writers.push((format!("digest of {axis:?} {line}"), written));
        }
    }
    writers
}

fn check_roots(what: &str, written: &Written, recovered: &[RecoveredPair]) {
    let layout = written.header.layout().unwrap();
    for RecoveredPair { pair, proof, primary, secondary } in recovered {
        assert_eq!(proof.verify(layout.config(), &written.header.id()), Ok(()), "{what}");
        assert_eq!(proof.index, *pair);
        for (axis, sliver) in [(Axis::Primary, primary), (Axis::Secondary, secondary)] {
            let root = sliver_root(&layout, axis, sliver).unwrap();
            assert_eq!(root, axis.root_of(&proof.digest), "{what}");
        }
    }
}

fn check_proof(what: &str, written: &Written, proof: &InconsistencyProof) {
    let (config, id) = (written.header.layout().unwrap().config(), written.header.id());
    assert_eq!(proof.verify(config, &id), Ok(()), "{what}");
    let parsed = InconsistencyProof::verify_bytes(config, &id, &proof.to_bytes());
    assert_eq!(parsed.as_ref(), Ok(proof), "{what}");
}

#[test]
fn false_blobs_end_in_a_proof_or_in_what_was_committed() {
    for (len, method) in [(140, RecoveryMethod::WholeBlob), (150_000, RecoveryMethod::Symbols)] {
        for (what, written) in false_writers(len) {
            let mut proofs = 0;
            for lost in 0..7 {
                for seed in 0..6 {
                    // Another one fails, so that choices differ.
                    let mut habits = vec![Habit::Honest; 7];
                    habits[(lost + usize::try_from(seed).unwrap()) % 7] = Habit::Empty;
                    let mut swarm = Swarm::new(written.clone(), habits, seed);
                    let wanted = pairs([lost]);
                    let (recovery, result) = swarm.recover(RecoveryConfig::default(), &wanted);
                    // A holder whose sliver is refused is another one that has nothing.
                    let fell_back = swarm.enlarged > 0;
                    assert!(fell_back || recovery.cost().method == method, "{what}");
                    assert!(swarm.banned.is_empty(), "{what}: nobody honest is blamed");
                    match result.unwrap() {
                        Ok(recovered) => check_roots(&what, &written, &recovered),
                        Err(RecoveryError::Inconsistent(proof)) => {
                            check_proof(&what, &written, &proof);
                            proofs += 1;
                        }
                        Err(error) => panic!("{what}, pair {lost}, seed {seed}: {error}"),
                    }
                }
            }
            assert!(proofs > 0, "{what}: not noticed by anybody");
        }
    }
}
