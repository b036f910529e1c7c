//! Certificates: what verifies, what does not, the bytes.

use std::fmt::Write as _;

use floe_protocol::{
    bft,
    blob::BlobId,
    certificate::CertificateError,
    committee::{Committee, CommitteeFact},
    genesis::GenesisError,
    handover::{HandoverCertificate, HandoverFact},
    hash::Hash,
    index::{Epoch, Height},
    invalidity::InvalidityFact,
    keys::{BlsKeyPair, BlsPublicKey, BlsSignature},
    ledger::{BlockHash, NodeIdentity},
    test_support::{genesis, node_keys},
};
use proptest::prelude::*;

use super::{
    fact, golden,
    signed::{self, Signed, bls_of},
};

/// Epoch, height, header hash.
const FACT_BYTES: usize = 8 + 8 + 32;
/// As many as certify.
const QUORUM: [usize; 5] = [0, 1, 2, 3, 4];

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
fn a_certificate_is_for_one_chain_epoch_height_and_header() {
    let others = [
        ("height", HandoverFact { height: Height::new(10), ..fact() }),
        ("header", HandoverFact { last: BlockHash::new(Hash::new([5; 32])), ..fact() }),
    ];
    let later = HandoverFact { epoch: Epoch::new(1), ..fact() };
    signed::it_states_one_fact(fact(), (&others, later), &[1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_certificate_of_another_committee_is_refused() {
    signed::another_committee_refuses_it(fact(), &QUORUM);
}

#[test]
fn members_count_once_and_strangers_not_at_all() {
    signed::members_count_once(fact(), &QUORUM);
}

#[test]
fn no_signature_serves_two_purposes() {
    let signed = Signed::equal(fact());
    let key = bls_of(&signed.committee.members()[0].node);
    let blob = BlobId::new([3; 32]);
    let attestation = InvalidityFact { epoch: Epoch::new(0), blob }.sign(&signed.chain, key);
    assert!(!signed.fact.verify(&signed.chain, &key.public(), &attestation));
    assert!(signed.fact.verify(&signed.chain, &key.public(), &signed.signatures[0]));
    let message = signed.fact.message(&signed.chain);
    assert_eq!(message[..16], *b"floe/1 handover\0");
    assert_eq!(message[32..64], *signed.chain.as_bytes());
    assert_eq!(message[64..72], [0; 8]);
    assert_eq!(message[72..80], [9, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(message[80..], [3; 32]);
}

/// A key that cancels another member's out of the sum would let both sign without either. Nobody
/// can prove to hold the secret of such a key, and without the proof it comes into no committee.
#[test]
fn a_key_made_from_anothers_is_kept_out_by_the_proof_of_possession() {
    let signed = Signed::equal(fact());
    let keys: Vec<_> = signed.committee.members().iter().map(|member| member.bls_key).collect();
    // The sign of a compressed point is one bit.
    let mut rogue = *keys[5].as_bytes();
    rogue[0] ^= 0x20;
    let rogue = BlsPublicKey::new(rogue);
    let mut bytes = signed.committee.to_bytes();
    let at = bytes.windows(48).position(|window| window == keys[6].as_bytes()).unwrap();
    bytes[at..at + 48].copy_from_slice(rogue.as_bytes());
    let committee = Committee::from_bytes(&bytes).unwrap();
    // Three sign for five.
    let mut forged = signed.certificate(&[0, 1, 2, 3, 4]).unwrap().to_bytes();
    let end = forged.len() - 96;
    forged[end - 1] = 0b0110_0111;
    let joined = BlsSignature::aggregate(&signed.signatures[..3]).unwrap();
    forged[end..].copy_from_slice(joined.as_bytes());
    let forged = HandoverCertificate::from_bytes(&forged).unwrap();
    assert_eq!(forged.weight(&committee), 5);
    assert_eq!(forged.verify(&committee, &signed.chain), Ok(()), "so much rests on the proofs");
    assert_eq!(signed.verify(&forged), Err(CertificateError::Signature));

    let mut network = genesis(7, 7);
    let node = &node_keys(7)[0];
    network.members[0].bls_key = rogue;
    assert!(matches!(network.committee(), Err(GenesisError::Possession(_))));
    network.members[0].bls_possession =
        BlsKeyPair::from_seed([77; 32]).prove_possession(&node.0.public());
    assert!(matches!(network.committee(), Err(GenesisError::Possession(_))));
    let operator = network.members[0].operator;
    let honest = NodeIdentity::new(&signed.chain, &operator, &node.0, &node.1);
    assert!(honest.verify(&signed.chain, &operator));
    let identity = NodeIdentity { bls_key: rogue, ..honest };
    assert!(!identity.verify(&signed.chain, &operator), "nor later");
}

#[test]
fn spare_bits_and_wrong_lengths_are_refused() {
    let refused = |bytes: &[u8]| borsh::from_slice::<HandoverCertificate>(bytes).is_err();
    signed::spare_bits_and_wrong_lengths_are_refused(fact(), FACT_BYTES, refused);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Within an answer, too, but only of committees that there can be.
    #[test]
    fn random_bytes_of_the_right_length_are_a_certificate_without_spare_bits(
        (members, bytes) in signed::layouts(FACT_BYTES),
    ) {
        let parsed = signed::the_layout_is_canonical(members, &bytes)?;
        let within = borsh::from_slice::<HandoverCertificate>(&bytes).ok();
        prop_assert_eq!(&within, &parsed.filter(|_| members <= 256));
        if let Some(certificate) = within {
            prop_assert_eq!(borsh::to_vec(&certificate).unwrap(), bytes);
        }
    }
}

// --- golden vectors --------------------------------------------------------------------------

#[test]
fn certificates_are_those_of_the_golden_vectors() {
    let mut text = String::from(
        "# Golden vectors of hand-over certificates and the signatures that they are made of.\n\
         # Written by tests/handover; changed only on purpose. Seven nodes hold one of seven\n\
         # shards each, with the keys of certificates.txt.\n",
    );
    let signed = Signed::equal(fact());
    writeln!(text, "\nchain {}", signed.chain).unwrap();
    let message = signed.fact.message(&signed.chain);
    writeln!(text, "handover_message {}", golden::hex(&message)).unwrap();
    for (position, member) in signed.committee.members().iter().enumerate() {
        writeln!(text, "\nmember {position} shards {:?}", member.shards).unwrap();
        writeln!(text, "bls_key {}", member.bls_key).unwrap();
        writeln!(text, "signature {}", signed.signatures[position]).unwrap();
    }
    signed.write_certificates(&mut text, &[&QUORUM, &[1, 2, 4, 5, 6], &[0, 1, 2, 3, 4, 5, 6]]);
    golden::check("handover.txt", include_str!("../vectors/handover.txt"), &text);
}
