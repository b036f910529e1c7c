//! A committee whose members have all signed one fact, and what holds of the certificates of every
//! such fact: who proves it, what they are for, their bytes.
//!
//! Equal committees are of seven nodes with one shard each, so a signer is a shard.

use std::{
    fmt::{Debug, Write as _},
    sync::{Arc, LazyLock},
};

use floe_protocol::{
    certificate::CertificateError,
    committee::{Committee, CommitteeCertificate, CommitteeFact},
    genesis::{Genesis, GenesisMember},
    index::Epoch,
    keys::{BlsKeyPair, BlsSignature, ChainId, KeyPair, NodeId},
    test_support::{genesis, node_keys},
};
use proptest::{collection::vec, prelude::*};

use super::golden;

/// What can be signed and compared.
pub(crate) trait Fact: CommitteeFact + Copy + Debug + PartialEq {}

impl<F: CommitteeFact + Copy + Debug + PartialEq> Fact for F {}

/// A committee whose members have all signed one fact.
pub(crate) struct Signed<F> {
    pub(crate) chain: ChainId,
    pub(crate) committee: Arc<Committee>,
    pub(crate) fact: F,
    /// Per committee position.
    pub(crate) signatures: Vec<BlsSignature>,
}

impl<F: Fact> Signed<F> {
    pub(crate) fn new(genesis: &Genesis, fact: F) -> Self {
        let (chain, committee) = (genesis.chain_id(), Arc::new(genesis.committee().unwrap()));
        let signatures = sign(&committee, &chain, &fact);
        Self { chain, committee, fact, signatures }
    }

    /// Seven nodes with one shard each.
    pub(crate) fn equal(fact: F) -> Self {
        Self::new(&genesis(7, 7), fact)
    }

    /// Five nodes of different weights, 16 shards.
    fn weighted(fact: F) -> Self {
        let mut genesis = genesis(5, 16);
        for (stake_wal, member) in [9, 7, 5, 3, 2].into_iter().zip(&mut genesis.members) {
            member.stake_wal = stake_wal;
        }
        let signed = Self::new(&genesis, fact);
        let mut weights: Vec<_> = signed.committee.members().iter().map(|m| m.weight()).collect();
        weights.sort_unstable();
        assert_eq!(weights, [1, 2, 3, 5, 5], "no two subsets alike");
        signed
    }

    pub(crate) fn certificate(
        &self,
        signers: &[usize],
    ) -> Result<CommitteeCertificate<F>, CertificateError> {
        let signatures: Vec<_> = signers.iter().map(|i| (*i, self.signatures[*i])).collect();
        CommitteeCertificate::new(&self.committee, self.fact, &signatures)
    }

    pub(crate) fn verify(
        &self,
        certificate: &CommitteeCertificate<F>,
    ) -> Result<(), CertificateError> {
        certificate.verify(&self.committee, &self.chain)
    }

    /// Appends certificates by these signers to golden vectors.
    pub(crate) fn write_certificates(&self, text: &mut String, signers: &[&[usize]]) {
        for signers in signers {
            let bytes = self.certificate(signers).unwrap().to_bytes();
            writeln!(text, "\ncertificate signers {signers:?}").unwrap();
            writeln!(text, "bytes {}", golden::hex(&bytes)).unwrap();
        }
    }
}

static KEYS: LazyLock<Vec<(KeyPair, BlsKeyPair)>> = LazyLock::new(|| node_keys(16));

pub(crate) fn bls_of(node: &NodeId) -> &'static BlsKeyPair {
    &KEYS.iter().find(|(key, _)| key.public() == *node).unwrap().1
}

/// The signatures of all members.
pub(crate) fn sign<F: Fact>(committee: &Committee, chain: &ChainId, fact: &F) -> Vec<BlsSignature> {
    committee.members().iter().map(|member| fact.sign(chain, bls_of(&member.node))).collect()
}

fn subsets(len: usize) -> impl Iterator<Item = Vec<usize>> {
    (0..1_usize << len).map(move |bits| (0..len).filter(|i| bits >> i & 1 == 1).collect())
}

/// Signers certify exactly if they have so many of all shards.
pub(crate) fn exactly_these_certify(fact: impl Fact, min_weight: fn(u16) -> u16) {
    for signed in [Signed::equal(fact), Signed::weighted(fact)] {
        let committee = &signed.committee;
        let n_shards = committee.n_shards();
        let mut least = u16::MAX;
        for signers in subsets(committee.members().len()) {
            let weights = signers.iter().map(|i| committee.members()[*i].weight());
            let weight: u16 = weights.sum();
            match signed.certificate(&signers) {
                Ok(certificate) => {
                    least = least.min(weight);
                    assert_eq!(certificate.weight(committee), weight);
                    assert!(certificate.signers(committee).eq(signers.iter().copied()));
                    assert_eq!(signed.verify(&certificate), Ok(()), "{signers:?}");
                    let bytes = certificate.to_bytes();
                    assert_eq!(CommitteeCertificate::from_bytes(&bytes), Ok(certificate));
                }
                Err(CertificateError::Signature) => assert_eq!(signers, [] as [usize; 0]),
                Err(error) => {
                    assert!(weight < min_weight(n_shards), "{signers:?}");
                    assert_eq!(error, CertificateError::NoQuorum { weight, n_shards });
                }
            }
        }
        assert_eq!(least, min_weight(n_shards), "so much exactly is enough");
    }
}

/// Any order gives the same certificate, and it names who has signed it. So many certify.
pub(crate) fn the_signers_named_are_the_signers(fact: impl Fact, min: u16) {
    let signed = Signed::equal(fact);
    let signers: Vec<_> = (0..usize::from(min)).collect();
    let certificate = signed.certificate(&signers).unwrap();
    let backwards: Vec<_> = signers.iter().rev().copied().collect();
    assert_eq!(signed.certificate(&backwards).as_ref(), Ok(&certificate));
    let bytes = certificate.to_bytes();
    let bitmap = bytes.len() - 97;
    let named = (1 << min) - 1;
    assert_eq!(bytes[bitmap], named);
    let verify = |signers: u8| {
        let mut bytes = bytes.clone();
        bytes[bitmap] = signers;
        signed.verify(&CommitteeCertificate::from_bytes(&bytes).unwrap())
    };
    assert_eq!(verify(named), Ok(()));
    let too_few = CertificateError::NoQuorum { weight: min - 1, n_shards: 7 };
    assert_eq!(verify(named >> 1), Err(too_few), "one less");
    assert_eq!(verify(named << 1 | 1), Err(CertificateError::Signature), "one more");
    assert_eq!(verify(named << 1), Err(CertificateError::Signature), "another");
}

pub(crate) fn any_flipped_bit_spoils_it(fact: impl Fact, signers: &[usize]) {
    let signed = Signed::equal(fact);
    let mut bytes = signed.certificate(signers).unwrap().to_bytes();
    for bit in 0..8 * bytes.len() {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let result = CommitteeCertificate::from_bytes(&bytes).and_then(|c| signed.verify(&c));
        assert!(result.is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

/// A certificate is for one chain and one fact; `others` differ from it in what is named, `later`
/// is the same an epoch later.
pub(crate) fn it_states_one_fact<F: Fact>(
    fact: F,
    (others, later): (&[(&str, F)], F),
    signers: &[usize],
) {
    let signed = Signed::equal(fact);
    let certificate = signed.certificate(signers).unwrap();
    assert_eq!(signed.verify(&certificate), Ok(()));
    let key = |position: usize| signed.committee.members()[position].bls_key;
    let (chain, of_first) = (&signed.chain, &signed.signatures[0]);
    assert!(fact.verify(chain, &key(0), of_first));
    assert!(!fact.verify(chain, &key(1), of_first), "another node's");

    let mut other_genesis = genesis(7, 7);
    other_genesis.name = "other".into();
    let other_chain = other_genesis.chain_id();
    assert_eq!(other_genesis.committee().as_ref(), Ok(&*signed.committee));
    let result = certificate.verify(&signed.committee, &other_chain);
    assert_eq!(result, Err(CertificateError::Signature), "another chain");
    assert!(!fact.verify(&other_chain, &key(0), of_first));

    let with_fact = |fact| {
        let mut certificate = certificate.clone();
        certificate.fact = fact;
        certificate
    };
    for (name, other) in others {
        let result = signed.verify(&with_fact(*other));
        assert_eq!(result, Err(CertificateError::Signature), "another {name}");
        assert!(!other.verify(chain, &key(0), of_first), "another {name}");
    }

    // The epoch is judged before the signature, and is part of what is signed.
    let epoch = Epoch::new(1);
    assert_eq!((fact.epoch(), later.epoch()), (Epoch::new(0), epoch));
    let wrong = CertificateError::Epoch { certificate: epoch, committee: Epoch::new(0) };
    assert_eq!(signed.verify(&with_fact(later)), Err(wrong));
    let result = with_fact(later).verify(&signed.committee.in_epoch(epoch), chain);
    assert_eq!(result, Err(CertificateError::Signature), "the same members an epoch later");
    is_not_signed_by(fact, sign(&signed.committee, chain, &later), signers);
}

/// Signatures over something else make no certificate of a fact.
pub(crate) fn is_not_signed_by(fact: impl Fact, by: Vec<BlsSignature>, signers: &[usize]) {
    let signed = Signed::equal(fact);
    let key = signed.committee.members()[0].bls_key;
    assert!(!fact.verify(&signed.chain, &key, &by[0]));
    let certificate = Signed { signatures: by, ..Signed::equal(fact) }.certificate(signers);
    assert_eq!(signed.verify(&certificate.unwrap()), Err(CertificateError::Signature));
}

pub(crate) fn another_committee_refuses_it(fact: impl Fact, signers: &[usize]) {
    let signed = Signed::equal(fact);
    let certificate = signed.certificate(signers).unwrap();
    let larger = genesis(8, 8).committee().unwrap();
    let result = certificate.verify(&larger, &signed.chain);
    assert_eq!(result, Err(CertificateError::Malformed));
    let mut others = genesis(7, 7);
    for (i, member) in (0_u8..).zip(&mut others.members) {
        let bls = BlsKeyPair::from_seed([100 + i; 32]);
        let operator = member.operator;
        *member = GenesisMember::new(&KEYS[usize::from(i)].0, &bls, operator, 1);
    }
    let result = certificate.verify(&others.committee().unwrap(), &signed.chain);
    assert_eq!(result, Err(CertificateError::Signature));
}

/// Members count once, others not at all, and one wrong signature spoils the rest.
pub(crate) fn members_count_once(fact: impl Fact, signers: &[usize]) {
    let mut signed = Signed::equal(fact);
    let (last, others) = signers.split_last().unwrap();
    let twice = [others, &others[..1]].concat();
    assert_eq!(signed.certificate(&twice), Err(CertificateError::Malformed));
    let new = |signatures: &[_]| CommitteeCertificate::new(&signed.committee, fact, signatures);
    assert_eq!(new(&[(7, signed.signatures[0])]), Err(CertificateError::Malformed));
    let garbage: Vec<_> = signers.iter().map(|i| (*i, BlsSignature::new([0; 96]))).collect();
    assert_eq!(new(&garbage), Err(CertificateError::Signature));
    // One signature in the name of two.
    signed.signatures[*last] = signed.signatures[others[0]];
    let certificate = signed.certificate(signers).unwrap();
    assert_eq!(signed.verify(&certificate), Err(CertificateError::Signature));
}

/// Bytes that differ from a certificate's in spare bits or length are malformed; what else is to
/// refuse them does. The fact takes so many bytes.
pub(crate) fn spare_bits_and_wrong_lengths_are_refused<F: Fact>(
    fact: F,
    fact_bytes: usize,
    refused: impl Fn(&[u8]) -> bool,
) {
    for nodes in 4..=9 {
        let signed = Signed::new(&genesis(nodes, u16::try_from(nodes).unwrap()), fact);
        let all: Vec<_> = (0..nodes).collect();
        let bytes = signed.certificate(&all).unwrap().to_bytes();
        let (bitmap_start, bitmap_bytes) = (fact_bytes + 2, nodes.div_ceil(8));
        assert_eq!(bytes.len(), bitmap_start + bitmap_bytes + 96);
        let malformed = |bytes: &[u8], what: &str| {
            let result = CommitteeCertificate::<F>::from_bytes(bytes);
            assert_eq!(result, Err(CertificateError::Malformed), "{nodes} nodes, {what}");
            assert!(refused(bytes), "{nodes} nodes, {what}");
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

/// As many bytes as a certificate of a committee has whose fact takes so many; of how many members.
pub(crate) fn layouts(fact_bytes: usize) -> impl Strategy<Value = (u16, Vec<u8>)> {
    let bytes = move |members: u16| {
        let len = fact_bytes + 2 + usize::from(members.div_ceil(8)) + 96;
        (Just(members), vec(any::<u8>(), len), any::<bool>())
    };
    let layout = (0..=300_u16).prop_flat_map(bytes);
    layout.prop_map(move |(members, mut bytes, clear_spare_bits)| {
        bytes[fact_bytes..fact_bytes + 2].copy_from_slice(&members.to_le_bytes());
        if clear_spare_bits {
            let last = bytes.len() - 97;
            bytes[last] &= !spare_bits(members);
        }
        (members, bytes)
    })
}

/// Those of the bitmap's last byte that stand for nobody.
fn spare_bits(members: u16) -> u8 {
    if members.is_multiple_of(8) { 0 } else { 0xff << (members % 8) }
}

/// What parses has no spare bits, and is written back byte for byte; it, if it parses.
pub(crate) fn the_layout_is_canonical<F: Fact>(
    members: u16,
    bytes: &[u8],
) -> Result<Option<CommitteeCertificate<F>>, TestCaseError> {
    let parsed = CommitteeCertificate::from_bytes(bytes).ok();
    prop_assert_eq!(parsed.is_some(), bytes[bytes.len() - 97] & spare_bits(members) == 0);
    if let Some(certificate) = &parsed {
        prop_assert_eq!(certificate.to_bytes(), bytes);
    }
    Ok(parsed)
}
