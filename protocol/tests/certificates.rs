//! Confirmations and certificates: what verifies, what does not, and the bytes.

#![expect(clippy::unwrap_used, reason = "a test fails where it can't go on")]

mod golden;
mod signed;

use std::fmt::Write as _;

use floe_protocol::{
    bft,
    blob::BlobId,
    certificate::ConfirmedFact,
    committee::CommitteeFact,
    index::Epoch,
    keys::{BlsKeyPair, KeyPair},
    registration::RegistrationId,
    test_support::node_keys,
};
use proptest::prelude::*;
use signed::Signed;

/// Epoch, blob id, registration.
const FACT_BYTES: usize = 8 + 32 + 32;
/// As many as certify.
const QUORUM: [usize; 5] = [0, 1, 2, 3, 4];

fn fact() -> ConfirmedFact {
    ConfirmedFact {
        epoch: Epoch::new(0),
        blob: BlobId::new([3; 32]),
        registration: RegistrationId::new([4; 32]),
    }
}

#[test]
fn exactly_the_quorums_certify() {
    signed::exactly_these_certify(fact(), bft::min_quorum);
}

#[test]
fn the_signers_named_are_the_signers() {
    signed::the_signers_named_are_the_signers(fact(), 5);
}

#[test]
fn any_flipped_bit_spoils_a_certificate() {
    signed::any_flipped_bit_spoils_it(fact(), &[0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_certificate_is_for_one_chain_epoch_blob_and_registration() {
    let registration = RegistrationId::new([5; 32]);
    let others = [
        ("blob", ConfirmedFact { blob: BlobId::new([5; 32]), ..fact() }),
        ("registration", ConfirmedFact { registration, ..fact() }),
    ];
    let later = ConfirmedFact { epoch: Epoch::new(1), ..fact() };
    signed::it_states_one_fact(fact(), (&others, later), &[1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_certificate_of_another_committee_is_refused() {
    signed::another_committee_refuses_it(fact(), &QUORUM);
}

#[test]
fn confirmations_count_once_and_come_from_members() {
    signed::members_count_once(fact(), &QUORUM);
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
        signed::the_layout_is_canonical::<ConfirmedFact>(members, &bytes)?;
    }
}

// --- golden vectors --------------------------------------------------------------------------

#[test]
fn certificates_are_those_of_the_golden_vectors() {
    let mut text = String::from(
        "# Golden vectors of storage confirmations and certificates. Written by\n\
         # tests/certificates.rs; changed only on purpose. Seven nodes hold one of seven shards each;\n\
         # the seed of both keys of node i: i as u64 LE, then 24 bytes 01.\n",
    );
    let signed = Signed::equal(fact());
    let keys = node_keys(7);
    writeln!(text, "\nchain {}", signed.chain).unwrap();
    let message = signed.fact.message(&signed.chain);
    writeln!(text, "confirmation_message {}", golden::hex(&message)).unwrap();
    for (position, member) in signed.committee.members().iter().enumerate() {
        let key = |(node, _): &&(KeyPair, BlsKeyPair)| node.public() == member.node;
        let (node, bls) = keys.iter().find(key).unwrap();
        writeln!(text, "\nmember {position} shards {:?}", member.shards).unwrap();
        writeln!(text, "node_key {}", member.node).unwrap();
        writeln!(text, "bls_key {}", member.bls_key).unwrap();
        writeln!(text, "bls_possession {}", bls.prove_possession(&node.public())).unwrap();
        writeln!(text, "confirmation {}", signed.signatures[position]).unwrap();
    }
    signed.write_certificates(&mut text, &[&QUORUM, &[1, 2, 4, 5, 6], &[0, 1, 2, 3, 4, 5, 6]]);
    golden::check("certificates.txt", include_str!("vectors/certificates.txt"), &text);
}
