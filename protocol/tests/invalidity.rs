//! Attestations that a blob is inconsistent, and their certificates: what verifies, what does not,
//! and the bytes.

#![expect(clippy::unwrap_used, reason = "a test fails where it can't go on")]

mod golden;
mod signed;

use std::fmt::Write as _;

use floe_protocol::{
    bft, blob::BlobId, certificate::ConfirmedFact, committee::CommitteeFact, index::Epoch,
    invalidity::InvalidityFact, registration::RegistrationId,
};
use proptest::prelude::*;
use signed::Signed;

/// Epoch, blob id.
const FACT_BYTES: usize = 8 + 32;
/// One more than `f`, so as many as certify.
const ENOUGH: [usize; 3] = [0, 1, 2];

fn fact() -> InvalidityFact {
    InvalidityFact { epoch: Epoch::new(0), blob: BlobId::new([3; 32]) }
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
fn a_certificate_is_for_one_chain_epoch_and_blob() {
    let others = [("blob", InvalidityFact { blob: BlobId::new([5; 32]), ..fact() })];
    let later = InvalidityFact { epoch: Epoch::new(1), ..fact() };
    signed::it_states_one_fact(fact(), (&others, later), &[1, 2, 3]);
}

#[test]
fn a_confirmation_of_storage_is_no_attestation() {
    let signed = Signed::equal(fact());
    let InvalidityFact { epoch, blob } = signed.fact;
    let registration = RegistrationId::new([0; 32]);
    let stored = ConfirmedFact { epoch, blob, registration };
    let signatures = signed::sign(&signed.committee, &signed.chain, &stored);
    let key = signed.committee.members()[0].bls_key;
    assert!(!stored.verify(&signed.chain, &key, &signed.signatures[0]));
    signed::is_not_signed_by(fact(), signatures, &ENOUGH);
}

#[test]
fn a_certificate_of_another_committee_is_refused() {
    signed::another_committee_refuses_it(fact(), &ENOUGH);
}

#[test]
fn attestations_count_once_and_come_from_members() {
    signed::members_count_once(fact(), &ENOUGH);
}

#[test]
fn spare_bits_and_wrong_lengths_are_refused() {
    signed::spare_bits_and_wrong_lengths_are_refused(fact(), FACT_BYTES, |_| true);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_of_the_right_length_are_a_certificate_without_spare_bits(
        (members, bytes) in signed::layouts(FACT_BYTES),
    ) {
        signed::the_layout_is_canonical::<InvalidityFact>(members, &bytes)?;
    }
}

// --- golden vectors --------------------------------------------------------------------------

#[test]
fn certificates_are_those_of_the_golden_vectors() {
    let mut text = String::from(
        "# Golden vectors of attestations that a blob is inconsistent, and of their certificates.\n\
         # Written by tests/invalidity.rs; changed only on purpose. Seven nodes hold one of seven\n\
         # shards each, with the keys of certificates.txt.\n",
    );
    let signed = Signed::equal(fact());
    writeln!(text, "\nchain {}", signed.chain).unwrap();
    let message = signed.fact.message(&signed.chain);
    writeln!(text, "attestation_message {}", golden::hex(&message)).unwrap();
    for (position, member) in signed.committee.members().iter().enumerate() {
        writeln!(text, "\nmember {position} shards {:?}", member.shards).unwrap();
        writeln!(text, "bls_key {}", member.bls_key).unwrap();
        writeln!(text, "attestation {}", signed.signatures[position]).unwrap();
    }
    signed.write_certificates(&mut text, &[&ENOUGH, &[2, 4, 6], &[0, 1, 2, 3, 4, 5, 6]]);
    golden::check("invalidity.txt", include_str!("vectors/invalidity.txt"), &text);
}
