//! Confirmations and certificates: what verifies, what does not, and the bytes.

#![expect(clippy::unwrap_used, reason = "a test fails where it can't go on")]

mod golden;

use std::fmt::Write as _;

use floe_protocol::{
    bft,
    blob::BlobId,
    certificate::{Certificate, CertificateError, ConfirmedFact},
    committee::{Committee, CommitteeFact},
    genesis::{Genesis, GenesisMember},
    index::Epoch,
    keys::{BlsKeyPair, BlsSignature, ChainId, KeyPair},
    registration::RegistrationId,
    test_support::{genesis, node_keys},
};
use proptest::{collection::vec, prelude::*};

/// A network whose nodes have signed one fact.
struct Signed {
    chain: ChainId,
    committee: Committee,
    fact: ConfirmedFact,
    /// Per committee position.
    signatures: Vec<BlsSignature>,
}

impl Signed {
    fn new(genesis: &Genesis) -> Self {
        let (chain, committee) = (genesis.chain_id(), genesis.committee().unwrap());
        let fact = ConfirmedFact {
            epoch: Epoch::new(0),
            blob: BlobId::new([3; 32]),
            registration: RegistrationId::new([4; 32]),
        };
        let signatures = sign(&committee, &chain, &fact);
        Self { chain, committee, fact, signatures }
    }

    /// Seven nodes with one shard each: five are a quorum.
    fn equal() -> Self {
        Self::new(&genesis(7, 7))
    }

    /// Five nodes of different weights, 16 shards: 11 are a quorum.
    fn weighted() -> Self {
        let mut genesis = genesis(5, 16);
        for (stake_wal, member) in [9, 7, 5, 3, 2].into_iter().zip(&mut genesis.members) {
            member.stake_wal = stake_wal;
        }
        let signed = Self::new(&genesis);
        let mut weights: Vec<_> = signed.committee.members().iter().map(|m| m.weight()).collect();
        weights.sort_unstable();
        assert_eq!(weights, [1, 2, 3, 5, 5], "no two subsets alike");
        signed
    }

    fn certificate(&self, signers: &[usize]) -> Result<Certificate, CertificateError> {
        let confirmations: Vec<_> = signers.iter().map(|i| (*i, self.signatures[*i])).collect();
        Certificate::new(&self.committee, self.fact, &confirmations)
    }

    fn verify(&self, certificate: &Certificate) -> Result<(), CertificateError> {
        certificate.verify(&self.committee, &self.chain)
    }
}

fn sign(committee: &Committee, chain: &ChainId, fact: &ConfirmedFact) -> Vec<BlsSignature> {
    let keys = node_keys(committee.members().len());
    let signatures = committee.members().iter().map(|member| {
        let key = keys.iter().find(|(node, _)| node.public() == member.node);
        fact.sign(chain, &key.unwrap().1)
    });
    signatures.collect()
}

fn subsets(len: usize) -> impl Iterator<Item = Vec<usize>> {
    (0..1_usize << len).map(move |bits| (0..len).filter(|i| bits >> i & 1 == 1).collect())
}

#[test]
fn exactly_the_quorums_certify() {
    for signed in [Signed::equal(), Signed::weighted()] {
        let committee = &signed.committee;
        let n_shards = committee.n_shards();
        let mut quorums = 0;
        for signers in subsets(committee.members().len()) {
            let weights = signers.iter().map(|i| committee.members()[*i].weight());
            let weight: u16 = weights.sum();
            match signed.certificate(&signers) {
                Ok(certificate) => {
                    quorums += 1;
                    assert!(weight >= bft::min_quorum(n_shards), "{signers:?}");
                    assert_eq!(certificate.weight(committee), weight);
                    assert!(certificate.signers(committee).eq(signers.iter().copied()));
                    assert_eq!(signed.verify(&certificate), Ok(()), "{signers:?}");
                    let bytes = certificate.to_bytes();
                    assert_eq!(Certificate::from_bytes(&bytes), Ok(certificate));
                }
                Err(CertificateError::Signature) => assert_eq!(signers, [] as [usize; 0]),
                Err(error) => {
                    assert!(weight < bft::min_quorum(n_shards), "{signers:?}");
                    assert_eq!(error, CertificateError::NoQuorum { weight, n_shards });
                }
            }
        }
        assert!(quorums > 1);
    }
}

#[test]
fn the_order_of_confirmations_does_not_matter() {
    let signed = Signed::equal();
    let ascending = signed.certificate(&[0, 2, 3, 5, 6]).unwrap();
    assert_eq!(signed.certificate(&[5, 0, 6, 3, 2]), Ok(ascending));
}

#[test]
fn the_signers_named_are_the_signers() {
    let signed = Signed::equal();
    let bytes = signed.certificate(&[0, 1, 2, 3, 4]).unwrap().to_bytes();
    let bitmap = bytes.len() - 97;
    assert_eq!(bytes[bitmap], 0b0001_1111);
    let verify = |signers: u8| {
        let mut bytes = bytes.clone();
        bytes[bitmap] = signers;
        signed.verify(&Certificate::from_bytes(&bytes).unwrap())
    };
    assert_eq!(verify(0b0001_1111), Ok(()));
    assert_eq!(
        verify(0b0000_1111),
        Err(CertificateError::NoQuorum { weight: 4, n_shards: 7 }),
        "one less"
    );
    assert_eq!(verify(0b0011_1111), Err(CertificateError::Signature), "one more");
    assert_eq!(verify(0b0011_1110), Err(CertificateError::Signature), "another");
}

#[test]
fn any_flipped_bit_spoils_a_certificate() {
    let signed = Signed::equal();
    let mut bytes = signed.certificate(&[0, 1, 2, 3, 4, 5]).unwrap().to_bytes();
    for bit in 0..8 * bytes.len() {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let result = Certificate::from_bytes(&bytes).and_then(|c| signed.verify(&c));
        assert!(result.is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn a_certificate_is_for_one_chain_epoch_blob_and_registration() {
    let signed = Signed::equal();
    let certificate = signed.certificate(&[1, 2, 3, 4, 5, 6]).unwrap();
    assert_eq!(signed.verify(&certificate), Ok(()));

    let mut other_genesis = genesis(7, 7);
    other_genesis.name = "other".into();
    let chain = other_genesis.chain_id();
    assert_eq!(other_genesis.committee().as_ref(), Ok(&signed.committee));
    let result = certificate.verify(&signed.committee, &chain);
    assert_eq!(result, Err(CertificateError::Signature));

    let with_fact = |fact| {
        let mut certificate = certificate.clone();
        certificate.fact = fact;
        certificate
    };
    let other_blob = with_fact(ConfirmedFact { blob: BlobId::new([5; 32]), ..signed.fact });
    assert_eq!(signed.verify(&other_blob), Err(CertificateError::Signature));
    let other_registration =
        with_fact(ConfirmedFact { registration: RegistrationId::new([5; 32]), ..signed.fact });
    assert_eq!(signed.verify(&other_registration), Err(CertificateError::Signature));

    // The epoch is judged before the signature, and is part of what is signed.
    let epoch = Epoch::new(1);
    let later = ConfirmedFact { epoch, ..signed.fact };
    assert_eq!(
        signed.verify(&with_fact(later)),
        Err(CertificateError::Epoch { certificate: epoch, committee: Epoch::new(0) })
    );
    let signed_later =
        Signed { signatures: sign(&signed.committee, &signed.chain, &later), ..Signed::equal() };
    let certificate = signed_later.certificate(&[1, 2, 3, 4, 5, 6]).unwrap();
    assert_eq!(signed.verify(&certificate), Err(CertificateError::Signature));
}

#[test]
fn a_certificate_of_another_committee_is_refused() {
    let signed = Signed::equal();
    let certificate = signed.certificate(&[0, 1, 2, 3, 4]).unwrap();
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
fn confirmations_count_once_and_come_from_members() {
    let signed = Signed::equal();
    assert_eq!(signed.certificate(&[0, 1, 2, 3, 3]), Err(CertificateError::Malformed));
    let stranger = [(7, signed.signatures[0])];
    assert_eq!(
        Certificate::new(&signed.committee, signed.fact, &stranger),
        Err(CertificateError::Malformed)
    );
    let garbage: Vec<_> = (0..5).map(|i| (i, BlsSignature::new([0; 96]))).collect();
    assert_eq!(
        Certificate::new(&signed.committee, signed.fact, &garbage),
        Err(CertificateError::Signature)
    );
}

#[test]
fn a_wrong_confirmation_among_right_ones_spoils_the_certificate() {
    let mut signed = Signed::equal();
    signed.signatures[3] = signed.signatures[2];
    let certificate = signed.certificate(&[0, 1, 2, 3, 4]).unwrap();
    assert_eq!(signed.verify(&certificate), Err(CertificateError::Signature));
}

#[test]
fn a_confirmation_is_of_one_node_for_one_fact() {
    let signed = Signed::equal();
    let (chain, fact) = (signed.chain, signed.fact);
    let key = |position: usize| signed.committee.members()[position].bls_key;
    assert!(fact.verify(&chain, &key(0), &signed.signatures[0]));
    assert!(!fact.verify(&chain, &key(1), &signed.signatures[0]));
    let other = ConfirmedFact { registration: RegistrationId::new([5; 32]), ..fact };
    assert!(!other.verify(&chain, &key(0), &signed.signatures[0]));
    let other_chain = genesis(8, 8).chain_id();
    assert!(!fact.verify(&other_chain, &key(0), &signed.signatures[0]));
}

#[test]
fn spare_bits_and_wrong_lengths_are_refused() {
    for nodes in 4..=9 {
        let signed = Signed::new(&genesis(nodes, u16::try_from(nodes).unwrap()));
        let all: Vec<_> = (0..nodes).collect();
        let bytes = signed.certificate(&all).unwrap().to_bytes();
        let (bitmap_start, bitmap_bytes) = (8 + 32 + 32 + 2, nodes.div_ceil(8));
        assert_eq!(bytes.len(), bitmap_start + bitmap_bytes + 96);
        for spare in nodes..8 * bitmap_bytes {
            let mut bytes = bytes.clone();
            bytes[bitmap_start + spare / 8] |= 1 << (spare % 8);
            let result = Certificate::from_bytes(&bytes);
            assert_eq!(result, Err(CertificateError::Malformed), "{nodes} nodes, bit {spare}");
        }
        for cut in 0..bytes.len() {
            let result = Certificate::from_bytes(&bytes[..cut]);
            assert_eq!(result, Err(CertificateError::Malformed), "{cut} bytes");
        }
        let long = [bytes.as_slice(), &[0]].concat();
        assert_eq!(Certificate::from_bytes(&long), Err(CertificateError::Malformed));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The layout is canonical: what parses is written back byte for byte.
    #[test]
    fn random_bytes_of_the_right_length_are_a_certificate_without_spare_bits(
        (members, mut bytes) in (0..=300_u16).prop_flat_map(|members| {
            let len = 8 + 32 + 32 + 2 + usize::from(members.div_ceil(8)) + 96;
            (Just(members), vec(any::<u8>(), len))
        }),
        clear_spare_bits in any::<bool>(),
    ) {
        bytes[72..74].copy_from_slice(&members.to_le_bytes());
        let last = bytes.len() - 97;
        let spare = if members % 8 == 0 { 0 } else { 0xff << (members % 8) };
        if clear_spare_bits {
            bytes[last] &= !spare;
        }
        let parsed = Certificate::from_bytes(&bytes);
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
        "# Golden vectors of storage confirmations and certificates. Written by\n\
         # tests/certificates.rs; changed only on purpose. Seven nodes hold one of seven shards each;\n\
         # the seed of both keys of node i: i as u64 LE, then 24 bytes 01.\n",
    );
    let signed = Signed::equal();
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
    for signers in [&[0, 1, 2, 3, 4][..], &[1, 2, 4, 5, 6], &[0, 1, 2, 3, 4, 5, 6]] {
        let bytes = signed.certificate(signers).unwrap().to_bytes();
        writeln!(text, "\ncertificate signers {signers:?}").unwrap();
        writeln!(text, "bytes {}", golden::hex(&bytes)).unwrap();
    }
    golden::check("certificates.txt", include_str!("vectors/certificates.txt"), &text);
}
