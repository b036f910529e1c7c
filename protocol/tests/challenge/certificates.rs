//! Commitments, and what certificates have beside what holds of every committee's: the node itself
//! is no witness.

use floe_protocol::{
    challenge::{
        ChallengeCertificate, ChallengeCertificateError, ChallengeFact, Commitment,
        MalformedCommitment,
    },
    committee::{CertificateError, CommitteeFact},
    hash::Hash,
    keys::BlsSignature,
};

use crate::{Network, ROUND};

/// Seven nodes with a shard each: three are more than f.
fn network() -> (Network, ChallengeFact) {
    let network = Network::new(7, 7, &[1_000]);
    let fact = ChallengeFact::new(&network.universe, network.node(2), Hash::new([5; 32]));
    (network, fact)
}

fn sign(
    network: &Network,
    fact: &ChallengeFact,
    positions: &[usize],
) -> Vec<(usize, BlsSignature)> {
    let sign = |at: &usize| (*at, fact.sign(network.chain(), network.bls(*at)));
    positions.iter().map(sign).collect()
}

#[test]
fn more_than_f_shards_of_others_make_a_certificate() {
    let (network, fact) = network();
    let committee = &network.universe.committee;
    let join = |positions: &[usize]| {
        ChallengeCertificate::new(committee, fact, &sign(&network, &fact, positions))
    };
    let certificate = join(&[0, 4, 6]).unwrap();
    assert_eq!(certificate.verify(committee, network.chain()), Ok(()));
    assert!(certificate.signers(committee).eq([0, 4, 6]));
    let few = CertificateError::NoQuorum { weight: 2, n_shards: 7 };
    assert_eq!(join(&[0, 4]), Err(few.into()));
    let own = ChallengeCertificateError::Own(fact.node);
    assert_eq!(join(&[0, 2, 4]), Err(own), "the own one does not count");
    assert_eq!(join(&[0, 2, 4, 5, 6]), Err(own), "and is not among others");
    assert_eq!(join(&[0, 4, 4]), Err(CertificateError::Malformed.into()), "nobody counts twice");
    let mut stranger = sign(&network, &fact, &[0, 4, 5]);
    stranger[2].0 = 7;
    let stranger = ChallengeCertificate::new(committee, fact, &stranger);
    assert_eq!(stranger, Err(CertificateError::Malformed.into()), "no such member");
    assert_eq!(join(&[]), Err(CertificateError::Signature.into()));
}

#[test]
fn a_certificate_proves_nothing_of_others() {
    let (network, fact) = network();
    let (committee, chain) = (&network.universe.committee, network.chain());
    let good = ChallengeCertificate::new(committee, fact, &sign(&network, &fact, &[1, 3, 5]));
    let good = good.unwrap();
    let with = |fact: ChallengeFact| {
        let (mut bytes, good) = (Vec::new(), good.to_bytes());
        fact.write(&mut bytes);
        bytes.extend_from_slice(&good[bytes.len()..]);
        ChallengeCertificate::from_bytes(&bytes).unwrap()
    };
    let signature = Err(CertificateError::Signature.into());
    let of_other = ChallengeFact { node: network.node(0), ..fact };
    assert_eq!(with(of_other).verify(committee, chain), signature);
    let stranger = floe_protocol::test_support::node_keys(8)[7].0.public();
    let no_member = Err(ChallengeCertificateError::NoMember(stranger));
    let fact_of_stranger = ChallengeFact { node: stranger, ..fact };
    assert_eq!(with(fact_of_stranger).verify(committee, chain), no_member);
    // Acknowledgements of another transcript, among true ones.
    let mut mixed = sign(&network, &fact, &[1, 3]);
    mixed.extend(sign(&network, &ChallengeFact { end: Hash::ZERO, ..fact }, &[5]));
    let mixed = ChallengeCertificate::new(committee, fact, &mixed).unwrap();
    assert_eq!(mixed.verify(committee, chain), signature);
}

#[test]
fn a_certificate_is_short() {
    let (network, fact) = network();
    let committee = &network.universe.committee;
    let good = ChallengeCertificate::new(committee, fact, &sign(&network, &fact, &[1, 3, 5]));
    let bytes = good.unwrap().to_bytes();
    // A committee of 256 members has a bitmap of 32 bytes instead of one.
    println!("{} bytes, {} with 256 members", bytes.len(), bytes.len() + 31);
    assert!(bytes.len() + 31 < 300);
}

#[test]
fn a_commitment_is_short_and_parsed_strictly() {
    let (network, fact) = network();
    let commitment = Commitment { round: ROUND, node: network.node(2), end: fact.end };
    let bytes = commitment.to_bytes();
    assert_eq!(bytes.len(), Commitment::BYTES);
    assert_eq!(Commitment::from_bytes(&bytes), Ok(commitment));
    for len in 0..bytes.len() {
        assert_eq!(Commitment::from_bytes(&bytes[..len]), Err(MalformedCommitment));
    }
    let long = [&bytes[..], &[0]].concat();
    assert_eq!(Commitment::from_bytes(&long), Err(MalformedCommitment));
}
