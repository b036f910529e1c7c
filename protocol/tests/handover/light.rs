//! Light clients that follow by hand-over certificates, and what they don't believe.

use std::sync::LazyLock;

use floe_protocol::{
    certificate::CertificateError,
    genesis::Genesis,
    handover::HandoverCertificate,
    hash::Hash,
    index::Epoch,
    keys::BlsSignature,
    ledger::{Block, Header, Timestamp},
    light::{
        CertifiedHeader, FinalHeader, Finality, LightClient, LightError, OldRoot, Start,
        VerifiedHeader,
    },
    test_support::{Chain, genesis},
};
use proptest::prelude::*;

use super::{by_handover, certified, certify, signed};

/// The end of an epoch, as somebody tells it.
struct Told {
    genesis: Genesis,
    last: FinalHeader,
    next: Vec<u8>,
    now: Timestamp,
}

static TOLD: LazyLock<Told> = LazyLock::new(|| {
    let genesis = genesis(4, 7);
    let mut chain = Chain::new(&genesis);
    chain.next_epoch();
    let (last, next) = by_handover(&chain, 0);
    Told { genesis, last, next, now: chain.now }
});

fn client(genesis: &Genesis) -> LightClient {
    let start = Start::Genesis { started: None };
    LightClient::new(genesis, &start, OldRoot::Refuse, Timestamp::from_ms(0)).unwrap()
}

#[test]
fn epochs_are_followed_by_either_certificate() {
    let network = genesis(4, 7);
    let mut chain = Chain::new(&network);
    for _ in 0..4 {
        chain.next_epoch();
    }
    chain.commit(&[]);
    let mut client = client(&network);
    for epoch in 0..4 {
        let (last, next) = by_handover(&chain, epoch);
        let told = if epoch == 2 { certified(&chain, epoch).into() } else { last };
        let verified = client.handover(told.clone(), &next, told.header.time).unwrap();
        assert_eq!((verified.told(), verified.hash()), (&told, told.header.hash()));
        assert_eq!(client.newest(), Some(&verified));
        // The same header with the other certificate is the same, and no fork.
        let same = client.accept(certified(&chain, epoch), told.header.time).unwrap();
        assert_eq!(same.hash(), verified.hash());
    }
    assert_eq!(client.epoch(), Epoch::new(4));
    let by_one = |header: &VerifiedHeader| matches!(header.told().finality, Finality::Handover(_));
    let kinds: Vec<_> = client.handovers().map(by_one).collect();
    assert_eq!(kinds, [true, false, true], "the first is forgotten");
    let (block, certificate) = chain.blocks.last().unwrap();
    let tip = CertifiedHeader { header: block.header, certificate: certificate.clone() };
    client.accept(tip, chain.now).unwrap();
    let start = Start::Checkpoint(Box::new(client.checkpoint().unwrap()));
    LightClient::new(&network, &start, OldRoot::Refuse, chain.now).unwrap();
}

#[test]
fn a_handover_that_its_certificate_does_not_prove_changes_nothing() {
    let network = genesis(4, 7);
    let mut chain = Chain::new(&network);
    chain.next_epoch();
    chain.next_epoch();
    let (good, next) = by_handover(&chain, 0);
    let (second, after) = by_handover(&chain, 1);
    let header = good.header;
    let with = |finality: &Finality| FinalHeader { header, finality: finality.clone() };
    let other_chain = {
        let mut network = genesis(4, 7);
        network.name = "other".into();
        let mut chain = Chain::new(&network);
        chain.now = Timestamp::from_ms(1_700_000_000_000);
        certify(&chain, &header, 4).unwrap()
    };
    let not_last = chain.blocks[0].0.header;
    assert_ne!(not_last.hash(), header.hash());
    let not_last = certify(&chain, &not_last, 4).unwrap();
    let other_block = Header { state_root: Hash::ZERO, ..header };
    let other_block = FinalHeader { header: other_block, finality: good.finality.clone() };
    let epoch = |epoch, expected| LightError::Epoch {
        epoch: Epoch::new(epoch),
        expected: Epoch::new(expected),
    };
    let mut client = client(&network);
    for (name, told, next, error) in [
        ("another chain", other_chain, &next, CertificateError::Signature.into()),
        ("another epoch's certificate", with(&second.finality), &next, LightError::OtherBlock),
        ("another block", other_block, &next, LightError::OtherBlock),
        ("another committee", good.clone(), &after, LightError::OtherCommittee),
        ("a later epoch", second, &after, epoch(1, 0)),
        ("not the last header", not_last, &next, LightError::OtherCommittee),
    ] {
        assert_eq!(client.handover(told, next, header.time), Err(error), "{name}");
        assert_eq!((client.epoch(), client.newest()), (Epoch::new(0), None), "{name}");
    }
    let weights = chain.state.committee().members().iter().map(|member| member.weight());
    assert_eq!(weights.take(2).sum::<u16>(), 4, "one below the quorum of 7 shards");
    let no_quorum = CertificateError::NoQuorum { weight: 4, n_shards: 7 };
    assert_eq!(certify(&chain, &header, 2), Err(no_quorum));
    // Nor if somebody else joins the two.
    let Finality::Handover(certificate) = &good.finality else { panic!("by hand-over") };
    let mut bytes = certificate.to_bytes();
    let end = bytes.len() - 96;
    bytes[end - 1] = 0b0011;
    let committee = chain.state.committee().in_epoch(Epoch::new(0));
    let two = &signed::sign(&committee, &chain.id(), &certificate.fact)[..2];
    bytes[end..].copy_from_slice(BlsSignature::aggregate(two).unwrap().as_bytes());
    let weak = with(&Finality::Handover(HandoverCertificate::from_bytes(&bytes).unwrap()));
    assert_eq!(client.handover(weak, &next, header.time), Err(no_quorum.into()));
    client.handover(good, &next, header.time).unwrap();
}

#[test]
fn two_quorums_that_end_an_epoch_differently_are_a_fork() {
    let network = genesis(4, 7);
    let mut chain = Chain::new(&network);
    chain.next_epoch();
    chain.commit(&[]);
    let (last, next) = by_handover(&chain, 0);
    let mut client = client(&network);
    client.handover(last.clone(), &next, chain.now).unwrap();
    // Made final by the ended committee beside its last header.
    let header = Header { state_root: Hash::ZERO, ..last.header };
    let committee = Chain::new(&network);
    let block = Block { header, body: chain.blocks[0].0.body.clone() };
    let certificate = committee.certify(&block, &[0, 1, 2, 3]);
    let other = CertifiedHeader { header, certificate };
    let Err(LightError::Fork(fork)) = client.accept(other.clone(), chain.now) else {
        panic!("two last headers");
    };
    assert_eq!((fork.known, fork.other), (last, other.into()));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is changed in the end of an epoch as somebody tells it, it is not believed.
    #[test]
    fn a_changed_handover_is_not_followed(bit in any::<prop::sample::Index>()) {
        let told = &*TOLD;
        let mut bytes = borsh::to_vec(&told.last).unwrap();
        let bit = bit.index(8 * bytes.len());
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(last) = borsh::from_slice::<FinalHeader>(&bytes) {
            let mut client = client(&told.genesis);
            prop_assert!(client.handover(last, &told.next, told.now).is_err(), "bit {}", bit);
            prop_assert_eq!(client.epoch(), Epoch::new(0));
        }
    }
}
