//! Attestations that a blob is inconsistent, and their certificates: what verifies, what does not,
//! and the bytes.

#![expect(clippy::unwrap_used, reason = "a test fails where it can't go on")]

mod golden;

use std::fmt::Write as _;

use floe_protocol::{
    bft,
    blob::BlobId,
    certificate::{CertificateError, ConfirmedFact},
    committee::{Committee, CommitteeFact},
    genesis::{Genesis, GenesisMember},
    index::Epoch,
    invalidity::{InvalidityCertificate, InvalidityFact},
    keys::{BlsKeyPair, BlsSignature, ChainId},
    registration::RegistrationId,
    test_support::{genesis, node_keys},
};
use proptest::{collection::vec, prelude::*};

/// A network whose nodes have attested one fact.
struct Signed {
    chain: ChainId,
    committee: Committee,
    fact: InvalidityFact,
    /// Per committee position.
    signatures: Vec<BlsSignature>,
}

impl Signed {
    fn new(genesis: &Genesis) -> Self {
        let (chain, committee) = (genesis.chain_id(), genesis.committee().unwrap());
        let fact = InvalidityFact { epoch: Epoch::new(0), blob: BlobId::new([3; 32]) };
        let signatures = sign(&committee, |key| fact.sign(&chain, key));
        Self { chain, committee, fact, signatures }
    }

    /// Seven nodes with one shard each: three are more than `f`.
    fn equal() -> Self {
        Self::new(&genesis(7, 7))
    }

    /// Five nodes of different weights, 16 shards: 6 are more than `f`.
    fn weighted() -> Self {
        let mut genesis = genesis(5, 16);
        for (stake_wal, member) in [9, 7, 5, 3, 2].into_iter().zip(&mut genesis.members) {
            member.stake_wal = stake_wal;
        }
        Self::new(&genesis)
    }

    fn certificate(&self, signers: &[usize]) -> Result<InvalidityCertificate, CertificateError> {
        let attestations: Vec<_> = signers.iter().map(|i| (*i, self.signatures[*i])).collect();
        InvalidityCertificate::new(&self.committee, self.fact, &attestations)
    }

    fn verify(&self, certificate: &InvalidityCertificate) -> Result<(), CertificateError> {
        certificate.verify(&self.committee, &self.chain)
    }
}

fn sign(committee: &Committee, sign: impl Fn(&BlsKeyPair) -> BlsSignature) -> Vec<BlsSignature> {
    let keys = node_keys(committee.members().len());
    let signatures = committee.members().iter().map(|member| {
        let key = keys.iter().find(|(node, _)| node.public() == member.node);
        sign(&key.unwrap().1)
    });
    signatures.collect()
}

#[test]
fn exactly_those_with_more_than_f_shards_certify() {
    for signed in [Signed::equal(), Signed::weighted()] {
        let committee = &signed.committee;
        let (members, n_shards) = (committee.members().len(), committee.n_shards());
        let mut certificates = 0;
        for bits in 0..1_usize << members {
            let signers: Vec<_> = (0..members).filter(|i| bits >> i & 1 == 1).collect();
            let weights = signers.iter().map(|i| committee.members()[*i].weight());
            let weight: u16 = weights.sum();
            match signed.certificate(&signers) {
                Ok(certificate) => {
                    certificates += 1;
                    assert!(weight > bft::max_faulty(n_shards), "{signers:?}");
                    assert!(certificate.signers(committee).eq(signers.iter().copied()));
                    assert_eq!(signed.verify(&certificate), Ok(()), "{signers:?}");
                    let bytes = certificate.to_bytes();
                    assert_eq!(InvalidityCertificate::from_bytes(&bytes), Ok(certificate));
                }
                Err(CertificateError::Signature) => assert_eq!(signers, [] as [usize; 0]),
                Err(error) => {
                    assert!(weight <= bft::max_faulty(n_shards), "{signers:?}");
                    assert_eq!(error, CertificateError::NoQuorum { weight, n_shards });
                }
            }
        }
        assert!(certificates > 1);
    }
}

#[test]
fn the_order_of_attestations_does_not_matter() {
    let signed = Signed::equal();
    let ascending = signed.certificate(&[0, 2, 5]).unwrap();
    assert_eq!(signed.certificate(&[5, 0, 2]), Ok(ascending));
}

#[test]
fn the_signers_named_are_the_signers() {
    let signed = Signed::equal();
    let bytes = signed.certificate(&[0, 1, 2]).unwrap().to_bytes();
    let bitmap = bytes.len() - 97;
    assert_eq!(bytes[bitmap], 0b0000_0111);
    let verify = |signers: u8| {
        let mut bytes = bytes.clone();
        bytes[bitmap] = signers;
        signed.verify(&InvalidityCertificate::from_bytes(&bytes).unwrap())
    };
    assert_eq!(verify(0b0000_0111), Ok(()));
    let too_few = CertificateError::NoQuorum { weight: 2, n_shards: 7 };
    assert_eq!(verify(0b0000_0011), Err(too_few), "one less");
    assert_eq!(verify(0b0000_1111), Err(CertificateError::Signature), "one more");
    assert_eq!(verify(0b0000_1110), Err(CertificateError::Signature), "another");
}

#[test]
fn any_flipped_bit_spoils_a_certificate() {
    let signed = Signed::equal();
    let mut bytes = signed.certificate(&[0, 1, 2, 3]).unwrap().to_bytes();
    for bit in 0..8 * bytes.len() {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let result = InvalidityCertificate::from_bytes(&bytes).and_then(|c| signed.verify(&c));
        assert!(result.is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn a_certificate_is_for_one_chain_epoch_and_blob() {
    let signed = Signed::equal();
    let certificate = signed.certificate(&[1, 2, 3]).unwrap();
    assert_eq!(signed.verify(&certificate), Ok(()));

    let mut other_genesis = genesis(7, 7);
    other_genesis.name = "other".into();
    let result = certificate.verify(&signed.committee, &other_genesis.chain_id());
    assert_eq!(result, Err(CertificateError::Signature));

    let with_fact = |fact| {
        let mut certificate = certificate.clone();
        certificate.fact = fact;
        certificate
    };
    let other_blob = with_fact(InvalidityFact { blob: BlobId::new([5; 32]), ..signed.fact });
    assert_eq!(signed.verify(&other_blob), Err(CertificateError::Signature));

    // The epoch is judged before the signature, and is part of what is signed.
    let epoch = Epoch::new(1);
    let later = InvalidityFact { epoch, ..signed.fact };
    let expected = CertificateError::Epoch { certificate: epoch, committee: Epoch::new(0) };
    assert_eq!(signed.verify(&with_fact(later)), Err(expected));
    let signatures = sign(&signed.committee, |key| later.sign(&signed.chain, key));
    let signed_later = Signed { signatures, ..Signed::equal() };
    let certificate = signed_later.certificate(&[1, 2, 3]).unwrap();
    assert_eq!(signed.verify(&certificate), Err(CertificateError::Signature));
}

#[test]
fn a_confirmation_of_storage_is_no_attestation() {
    let signed = Signed::equal();
    let InvalidityFact { epoch, blob } = signed.fact;
    let registration = RegistrationId::new([0; 32]);
    let stored = ConfirmedFact { epoch, blob, registration };
    let signatures = sign(&signed.committee, |key| stored.sign(&signed.chain, key));
    let key = signed.committee.members()[0].bls_key;
    assert!(signed.fact.verify(&signed.chain, &key, &signed.signatures[0]));
    assert!(!signed.fact.verify(&signed.chain, &key, &signatures[0]));
    assert!(!stored.verify(&signed.chain, &key, &signed.signatures[0]));
    let confirmed = Signed { signatures, ..Signed::equal() };
    let certificate = confirmed.certificate(&[0, 1, 2]).unwrap();
    assert_eq!(signed.verify(&certificate), Err(CertificateError::Signature));
}

#[test]
fn a_certificate_of_another_committee_is_refused() {
    let signed = Signed::equal();
    let certificate = signed.certificate(&[0, 1, 2]).unwrap();
    let larger = genesis(8, 8).committee().unwrap();
    let result = certificate.verify(&larger, &signed.chain);
    assert_eq!(result, Err(CertificateError::Malformed));
    let mut others = genesis(7, 7);
    for (i, member) in (0_u8..).zip(&mut others.members) {
        let bls = BlsKeyPair::from_seed([100 + i; 32]);
        let operator = member.operator;
        *member = GenesisMember::new(&node_keys(7)[usize::from(i)].0, &bls, operator, 1);
    }
    let result = certificate.verify(&others.committee().unwrap(), &signed.chain);
    assert_eq!(result, Err(CertificateError::Signature));
}

#[test]
fn attestations_count_once_and_come_from_members() {
    let signed = Signed::equal();
    assert_eq!(signed.certificate(&[0, 1, 1]), Err(CertificateError::Malformed));
    let new = |attestations: &[(usize, BlsSignature)]| {
        InvalidityCertificate::new(&signed.committee, signed.fact, attestations)
    };
    assert_eq!(new(&[(7, signed.signatures[0])]), Err(CertificateError::Malformed));
    let garbage: Vec<_> = (0..3).map(|i| (i, BlsSignature::new([0; 96]))).collect();
    assert_eq!(new(&garbage), Err(CertificateError::Signature));
    // One that is wrong spoils those that are right.
    let copied = [(0, signed.signatures[0]), (1, signed.signatures[1]), (2, signed.signatures[1])];
    let certificate = new(&copied).unwrap();
    assert_eq!(signed.verify(&certificate), Err(CertificateError::Signature));
}

#[test]
fn spare_bits_and_wrong_lengths_are_refused() {
    for nodes in 4..=9 {
        let signed = Signed::new(&genesis(nodes, u16::try_from(nodes).unwrap()));
        let all: Vec<_> = (0..nodes).collect();
        let bytes = signed.certificate(&all).unwrap().to_bytes();
        let (bitmap_start, bitmap_bytes) = (8 + 32 + 2, nodes.div_ceil(8));
        assert_eq!(bytes.len(), bitmap_start + bitmap_bytes + 96);
        let malformed = |bytes: &[u8], what: &str| {
            let result = InvalidityCertificate::from_bytes(bytes);
            assert_eq!(result, Err(CertificateError::Malformed), "{nodes} nodes, {what}");
        };
        for spare in nodes..8 * bitmap_bytes {
            let mut bytes = bytes.clone();
            bytes[bitmap_start + spare / 8] |= 1 << (spare % 8);
            malformed(&bytes, &format!("bit {spare}"));
        }
        for cut in 0..bytes.len() {
            malformed(&bytes[..cut], &format!("{cut} bytes"));
        }
        malformed(&[&bytes[..], &[0]].concat(), "a byte more");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The layout is canonical: what parses is written back byte for byte.
    #[test]
    fn random_bytes_of_the_right_length_are_a_certificate_without_spare_bits(
        (members, mut bytes) in (0..=300_u16).prop_flat_map(|members| {
            let len = 8 + 32 + 2 + usize::from(members.div_ceil(8)) + 96;
            (Just(members), vec(any::<u8>(), len))
        }),
        clear_spare_bits in any::<bool>(),
    ) {
        bytes[40..42].copy_from_slice(&members.to_le_bytes());
        let last = bytes.len() - 97;
        let spare = if members % 8 == 0 { 0 } else { 0xff << (members % 8) };
        if clear_spare_bits {
            bytes[last] &= !spare;
        }
        let parsed = InvalidityCertificate::from_bytes(&bytes);
        prop_assert_eq!(parsed.is_ok(), bytes[last] & spare == 0);
        if let Ok(certificate) = parsed {
            prop_assert_eq!(certificate.to_bytes(), bytes);
        }
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
    let signed = Signed::equal();
    writeln!(text, "\nchain {}", signed.chain).unwrap();
    let message = signed.fact.message(&signed.chain);
    writeln!(text, "attestation_message {}", golden::hex(&message)).unwrap();
    for (position, member) in signed.committee.members().iter().enumerate() {
        writeln!(text, "\nmember {position} shards {:?}", member.shards).unwrap();
        writeln!(text, "bls_key {}", member.bls_key).unwrap();
        writeln!(text, "attestation {}", signed.signatures[position]).unwrap();
    }
    for signers in [&[0, 1, 2][..], &[2, 4, 6], &[0, 1, 2, 3, 4, 5, 6]] {
        let bytes = signed.certificate(signers).unwrap().to_bytes();
        writeln!(text, "\ncertificate signers {signers:?}").unwrap();
        writeln!(text, "bytes {}", golden::hex(&bytes)).unwrap();
    }
    golden::check("invalidity.txt", include_str!("vectors/invalidity.txt"), &text);
}
