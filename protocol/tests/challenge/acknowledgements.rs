//! What holds of every committee certificate, for acknowledgements.

use floe_protocol::{
    bft,
    blob::BlobId,
    challenge::{ChallengeCertificate, ChallengeFact},
    hash::Hash,
    index::{ChallengeRound, Epoch},
    invalidity::InvalidityFact,
    keys::NodeId,
};
use proptest::prelude::*;

use crate::signed::{self, Signed};

/// Epoch, round, node, end.
const FACT_BYTES: usize = 8 + 8 + 32 + 32;
/// One more than `f`, so as many as certify.
const ENOUGH: [usize; 3] = [0, 1, 2];

fn fact() -> ChallengeFact {
    ChallengeFact {
        epoch: Epoch::new(0),
        round: ChallengeRound::new(9),
        node: NodeId::new([4; 32]),
        end: Hash::new([3; 32]),
    }
}

#[test]
fn exactly_those_with_more_than_f_shards_certify() {
    signed::exactly_these_certify(fact(), |n_shards| bft::max_faulty(n_shards) + 1);
}

#[test]
fn the_signers_named_are_the_signers() {
    signed::the_signers_named_are_the_signers(fact(), 3);
}

#[test]
fn any_flipped_bit_spoils_a_certificate() {
    signed::any_flipped_bit_spoils_it(fact(), &[0, 1, 2, 3]);
}

#[test]
fn a_certificate_is_for_one_chain_epoch_round_node_and_end() {
    let others = [
        ("round", ChallengeFact { round: ChallengeRound::new(10), ..fact() }),
        ("node", ChallengeFact { node: NodeId::new([5; 32]), ..fact() }),
        ("end", ChallengeFact { end: Hash::new([4; 32]), ..fact() }),
    ];
    let later = ChallengeFact { epoch: Epoch::new(1), ..fact() };
    signed::it_states_one_fact(fact(), (&others, later), &[1, 2, 3]);
}

#[test]
fn an_attestation_of_inconsistency_is_no_acknowledgement() {
    let signed = Signed::equal(fact());
    let other = InvalidityFact { epoch: signed.fact.epoch, blob: BlobId::new([3; 32]) };
    let signatures = signed::sign(&signed.committee, &signed.chain, &other);
    signed::is_not_signed_by(fact(), signatures, &ENOUGH);
}

#[test]
fn a_certificate_of_another_committee_is_refused() {
    signed::another_committee_refuses_it(fact(), &ENOUGH);
}

#[test]
fn acknowledgements_count_once_and_come_from_members() {
    signed::members_count_once(fact(), &ENOUGH);
}

#[test]
fn spare_bits_and_wrong_lengths_are_refused() {
    let refused = |bytes: &[u8]| ChallengeCertificate::from_bytes(bytes).is_err();
    signed::spare_bits_and_wrong_lengths_are_refused(fact(), FACT_BYTES, refused);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_of_the_right_length_are_a_certificate_without_spare_bits(
        (members, bytes) in signed::layouts(FACT_BYTES),
    ) {
        signed::the_layout_is_canonical::<ChallengeFact>(members, &bytes)?;
    }
}
