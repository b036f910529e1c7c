//! Hand-over certificates: what verifies, what does not, the bytes; how their signatures get
//! together; and light clients that follow by them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails where it can't go on")]

mod golden;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    sync::{Arc, LazyLock},
};

use floe_protocol::{
    bft,
    blob::BlobId,
    certificate::CertificateError,
    committee::{Committee, CommitteeFact},
    genesis::{Genesis, GenesisError, GenesisMember},
    handover::{HandoverCertificate, HandoverFact},
    hash::Hash,
    index::{Epoch, Height},
    invalidity::InvalidityFact,
    keys::{BlsKeyPair, BlsPublicKey, BlsSignature, ChainId, KeyPair, NodeId},
    ledger::{Block, BlockHash, Header, NodeIdentity, Timestamp},
    light::{
        CertifiedHeader, CollectionLimits, CollectionStep, FinalHeader, Finality,
        HandoverCollection, HandoverQuestion, LightClient, LightError, OldRoot, Start,
        VerifiedHeader,
    },
    test_support::{Chain, genesis, node_keys},
};
use proptest::{collection::vec, prelude::*};

/// A committee whose members have all signed the end of their epoch.
struct Signed {
    chain: ChainId,
    committee: Arc<Committee>,
    fact: HandoverFact,
    /// Per committee position.
    signatures: Vec<BlsSignature>,
}

impl Signed {
    fn new(genesis: &Genesis) -> Self {
        let (chain, committee) = (genesis.chain_id(), Arc::new(genesis.committee().unwrap()));
        let fact = HandoverFact {
            epoch: Epoch::new(0),
            height: Height::new(9),
            last: BlockHash::new(Hash::new([3; 32])),
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
        Self::new(&genesis)
    }

    fn certificate(&self, signers: &[usize]) -> Result<HandoverCertificate, CertificateError> {
        let signatures: Vec<_> = signers.iter().map(|i| (*i, self.signatures[*i])).collect();
        HandoverCertificate::new(&self.committee, self.fact, &signatures)
    }

    fn verify(&self, certificate: &HandoverCertificate) -> Result<(), CertificateError> {
        certificate.verify(&self.committee, &self.chain)
    }
}

static KEYS: LazyLock<Vec<(KeyPair, BlsKeyPair)>> = LazyLock::new(|| node_keys(16));

fn bls_of(node: &NodeId) -> &'static BlsKeyPair {
    &KEYS.iter().find(|(key, _)| key.public() == *node).unwrap().1
}

fn sign(committee: &Committee, chain: &ChainId, fact: &HandoverFact) -> Vec<BlsSignature> {
    committee.members().iter().map(|member| fact.sign(chain, bls_of(&member.node))).collect()
}

fn subsets(len: usize) -> impl Iterator<Item = Vec<usize>> {
    (0..1_usize << len).map(move |bits| (0..len).filter(|i| bits >> i & 1 == 1).collect())
}

// --- certificates ----------------------------------------------------------------------------

#[test]
fn exactly_the_quorums_certify() {
    for signed in [Signed::equal(), Signed::weighted()] {
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
                    assert_eq!(HandoverCertificate::from_bytes(&bytes), Ok(certificate));
                }
                Err(CertificateError::Signature) => assert_eq!(signers, [] as [usize; 0]),
                Err(error) => {
                    assert!(weight < bft::min_quorum(n_shards), "{signers:?}");
                    assert_eq!(error, CertificateError::NoQuorum { weight, n_shards });
                }
            }
        }
        assert_eq!(least, bft::min_quorum(n_shards), "a quorum exactly is one");
    }
}

#[test]
fn any_flipped_bit_spoils_a_certificate() {
    let signed = Signed::equal();
    let mut bytes = signed.certificate(&[0, 1, 2, 3, 4, 5]).unwrap().to_bytes();
    for bit in 0..8 * bytes.len() {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let result = HandoverCertificate::from_bytes(&bytes).and_then(|c| signed.verify(&c));
        assert!(result.is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn a_certificate_is_for_one_chain_epoch_height_and_header() {
    let signed = Signed::equal();
    let certificate = signed.certificate(&[1, 2, 3, 4, 5, 6]).unwrap();
    assert_eq!(signed.verify(&certificate), Ok(()));

    let mut other_genesis = genesis(7, 7);
    other_genesis.name = "other".into();
    assert_eq!(other_genesis.committee().as_ref(), Ok(&*signed.committee));
    let result = certificate.verify(&signed.committee, &other_genesis.chain_id());
    assert_eq!(result, Err(CertificateError::Signature), "another chain");

    let with_fact = |fact| {
        let mut certificate = certificate.clone();
        certificate.fact = fact;
        certificate
    };
    let other = BlockHash::new(Hash::new([5; 32]));
    for (name, fact) in [
        ("height", HandoverFact { height: Height::new(10), ..signed.fact }),
        ("header", HandoverFact { last: other, ..signed.fact }),
    ] {
        let result = signed.verify(&with_fact(fact));
        assert_eq!(result, Err(CertificateError::Signature), "another {name}");
    }

    // The epoch is judged before the signature, and is part of what is signed.
    let epoch = Epoch::new(1);
    let later = HandoverFact { epoch, ..signed.fact };
    assert_eq!(
        signed.verify(&with_fact(later)),
        Err(CertificateError::Epoch { certificate: epoch, committee: Epoch::new(0) })
    );
    let result = with_fact(later).verify(&signed.committee.in_epoch(epoch), &signed.chain);
    assert_eq!(result, Err(CertificateError::Signature), "the same members an epoch later");
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
fn members_count_once_and_strangers_not_at_all() {
    let mut signed = Signed::equal();
    assert_eq!(signed.certificate(&[0, 1, 2, 3, 3]), Err(CertificateError::Malformed));
    let stranger = [(7, signed.signatures[0])];
    assert_eq!(
        HandoverCertificate::new(&signed.committee, signed.fact, &stranger),
        Err(CertificateError::Malformed)
    );
    let garbage: Vec<_> = (0..5).map(|i| (i, BlsSignature::new([0; 96]))).collect();
    assert_eq!(
        HandoverCertificate::new(&signed.committee, signed.fact, &garbage),
        Err(CertificateError::Signature)
    );
    // One signature in the name of two.
    signed.signatures[3] = signed.signatures[2];
    let certificate = signed.certificate(&[0, 1, 2, 3, 4]).unwrap();
    assert_eq!(signed.verify(&certificate), Err(CertificateError::Signature));
}

#[test]
fn no_signature_serves_two_purposes() {
    let signed = Signed::equal();
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
    let signed = Signed::equal();
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
    for nodes in 4..=9 {
        let signed = Signed::new(&genesis(nodes, u16::try_from(nodes).unwrap()));
        let all: Vec<_> = (0..nodes).collect();
        let bytes = signed.certificate(&all).unwrap().to_bytes();
        let (bitmap_start, bitmap_bytes) = (8 + 8 + 32 + 2, nodes.div_ceil(8));
        assert_eq!(bytes.len(), bitmap_start + bitmap_bytes + 96);
        let malformed = Err(CertificateError::Malformed);
        for spare in nodes..8 * bitmap_bytes {
            let mut bytes = bytes.clone();
            bytes[bitmap_start + spare / 8] |= 1 << (spare % 8);
            assert_eq!(HandoverCertificate::from_bytes(&bytes), malformed, "{nodes}, bit {spare}");
            assert!(borsh::from_slice::<HandoverCertificate>(&bytes).is_err());
        }
        for cut in 0..bytes.len() {
            assert_eq!(HandoverCertificate::from_bytes(&bytes[..cut]), malformed, "{cut} bytes");
            assert!(borsh::from_slice::<HandoverCertificate>(&bytes[..cut]).is_err());
        }
        let long = [bytes.as_slice(), &[0]].concat();
        assert_eq!(HandoverCertificate::from_bytes(&long), malformed);
        assert!(borsh::from_slice::<HandoverCertificate>(&long).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The layout is canonical, alone and within an answer: what parses is written back.
    #[test]
    fn random_bytes_of_the_right_length_are_a_certificate_without_spare_bits(
        (members, mut bytes) in (0..=300_u16).prop_flat_map(|members| {
            let len = 8 + 8 + 32 + 2 + usize::from(members.div_ceil(8)) + 96;
            (Just(members), vec(any::<u8>(), len))
        }),
        clear_spare_bits in any::<bool>(),
    ) {
        bytes[48..50].copy_from_slice(&members.to_le_bytes());
        let last = bytes.len() - 97;
        let spare = if members % 8 == 0 { 0 } else { 0xff << (members % 8) };
        if clear_spare_bits {
            bytes[last] &= !spare;
        }
        let parsed = HandoverCertificate::from_bytes(&bytes);
        prop_assert_eq!(parsed.is_ok(), bytes[last] & spare == 0);
        let within = borsh::from_slice::<HandoverCertificate>(&bytes).ok();
        prop_assert_eq!(&within, &parsed.clone().ok().filter(|_| members <= 256));
        if let Ok(certificate) = parsed {
            prop_assert_eq!(borsh::to_vec(&certificate).unwrap(), certificate.to_bytes());
            prop_assert_eq!(certificate.to_bytes(), bytes);
        }
    }

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

// --- light clients ---------------------------------------------------------------------------

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

/// The last header of an epoch with its commit certificate.
fn certified(chain: &Chain, epoch: u64) -> CertifiedHeader {
    let of = |(block, _): &&(Block, _)| block.header.epoch.get() == epoch;
    let (block, certificate) = chain.blocks.iter().rfind(of).unwrap();
    CertifiedHeader { header: block.header, certificate: certificate.clone() }
}

fn certify(
    chain: &Chain,
    header: &Header,
    signers: usize,
) -> Result<FinalHeader, CertificateError> {
    let committee = chain.state.committee().in_epoch(header.epoch);
    let fact = HandoverFact::new(header);
    let signatures = sign(&committee, &chain.id(), &fact).into_iter().enumerate();
    let signatures: Vec<_> = signatures.take(signers).collect();
    let certificate = HandoverCertificate::new(&committee, fact, &signatures)?;
    Ok(FinalHeader { header: *header, finality: Finality::Handover(certificate) })
}

/// The last header of an epoch with a hand-over certificate, and the next committee. The members
/// of these chains do not change.
fn by_handover(chain: &Chain, epoch: u64) -> (FinalHeader, Vec<u8>) {
    let last = certify(chain, &certified(chain, epoch).header, 4).unwrap();
    (last, chain.state.committee().in_epoch(Epoch::new(epoch + 1)).to_bytes())
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
    let two = &sign(&committee, &chain.id(), &certificate.fact)[..2];
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

// --- collection ------------------------------------------------------------------------------

/// What a member answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Signs,
    /// Not before this time.
    SignsAt(u64),
    Silent,
    /// The signature of its neighbour.
    Lies,
    Garbage,
}

/// What became of a collection.
struct Outcome {
    certificate: Option<HandoverCertificate>,
    signatures_asked: usize,
    certificates_asked: usize,
    liars: usize,
    ended_ms: u64,
    in_flight_max: usize,
}

/// Drives a collection as a node does, with answers in the order of the questions, and checks its
/// bounds. `holds` says what a node has of the certificate.
fn collect(
    signed: &Signed,
    me: NodeId,
    answers: &BTreeMap<NodeId, Answer>,
    holds: impl Fn(NodeId, u64) -> Option<FinalHeader>,
) -> Outcome {
    let limits = CollectionLimits::default();
    let committee = Arc::clone(&signed.committee);
    let mut collection = HandoverCollection::new(
        signed.chain,
        (committee, &signed.committee),
        signed.fact,
        me,
        limits,
    );
    if signed.committee.position(&me).is_some() {
        collection.sign(bls_of(&me));
    }
    let mut now = 1_000;
    let mut waiting = VecDeque::new();
    let mut outcome = Outcome {
        certificate: None,
        signatures_asked: 0,
        certificates_asked: 0,
        liars: 0,
        ended_ms: 0,
        in_flight_max: 0,
    };
    for _ in 0..10_000 {
        match collection.step(Timestamp::from_ms(now)) {
            CollectionStep::Ask(questions) => {
                assert!(!questions.is_empty());
                for question in &questions {
                    let (HandoverQuestion::Certificate(node) | HandoverQuestion::Signature(node)) =
                        question;
                    assert_ne!(*node, me, "nobody asks itself");
                    assert!(!collection.liars().contains(node), "who lied is not asked again");
                    match question {
                        HandoverQuestion::Signature(_) => outcome.signatures_asked += 1,
                        HandoverQuestion::Certificate(_) => outcome.certificates_asked += 1,
                    }
                }
                waiting.extend(questions);
                outcome.in_flight_max = outcome.in_flight_max.max(waiting.len());
                assert!(waiting.len() <= limits.questions_max);
            }
            CollectionStep::AwaitAnswer => {
                now += 1;
                match waiting.pop_front().expect("a question is on its way") {
                    HandoverQuestion::Certificate(node) => {
                        collection.on_certificate(node, holds(node, now).as_ref());
                    }
                    HandoverQuestion::Signature(node) => {
                        let signature = answer(signed, node, answers[&node], now);
                        collection.on_signature(node, signature);
                    }
                }
            }
            CollectionStep::Rest(until) => {
                assert!(until.ms() > now, "a rest ends");
                now = until.ms();
            }
            step @ (CollectionStep::Done(_) | CollectionStep::GivenUp) => {
                outcome.liars = collection.liars().len();
                outcome.ended_ms = now - 1_000;
                if let CollectionStep::Done(certificate) = step {
                    assert_eq!(signed.verify(&certificate), Ok(()));
                    outcome.certificate = Some(certificate);
                }
                return outcome;
            }
        }
    }
    panic!("a collection ends");
}

fn answer(signed: &Signed, node: NodeId, answer: Answer, now: u64) -> Option<BlsSignature> {
    let position = signed.committee.position(&node).unwrap();
    match answer {
        Answer::Signs => Some(signed.signatures[position]),
        Answer::SignsAt(ms) => (now >= ms).then(|| signed.signatures[position]),
        Answer::Silent => None,
        Answer::Lies => {
            let next = (position + 1) % signed.signatures.len();
            Some(signed.signatures[next])
        }
        Answer::Garbage => Some(BlsSignature::new([0xff; 96])),
    }
}

fn answers(signed: &Signed, of: impl Fn(usize) -> Answer) -> BTreeMap<NodeId, Answer> {
    let members = signed.committee.members().iter().enumerate();
    members.map(|(position, member)| (member.node, of(position))).collect()
}

fn stranger() -> NodeId {
    NodeId::new([0xee; 32])
}

#[test]
fn members_take_turns_and_the_first_asks_no_more_than_it_needs() {
    let signed = Signed::new(&genesis(16, 16));
    let all = answers(&signed, |_| Answer::Signs);
    let first = signed.committee.members()[0].node;
    let outcome = collect(&signed, first, &all, |_, _| None);
    assert!(outcome.certificate.is_some());
    assert_eq!(outcome.certificates_asked, 0, "nobody began before it");
    let quorum = usize::from(bft::min_quorum(16));
    assert!((quorum - 1..quorum + 8).contains(&outcome.signatures_asked));
    assert!(outcome.ended_ms < 100, "at once");
    let later = signed.committee.members()[5].node;
    let outcome = collect(&signed, later, &all, |_, _| None);
    assert_eq!(outcome.certificates_asked, 2);
    assert!((1_000..1_200).contains(&outcome.ended_ms), "in its turn: {}", outcome.ended_ms);
    let outcome = collect(&signed, stranger(), &all, |_, _| None);
    assert!((2_000..2_200).contains(&outcome.ended_ms), "last: {}", outcome.ended_ms);
}

/// The committee of a real chain whose last header's facts are signed.
fn of_chain() -> (Signed, FinalHeader, FinalHeader) {
    let network = genesis(4, 7);
    let mut chain = Chain::new(&network);
    chain.next_epoch();
    let commit = certified(&chain, 0);
    let committee = Arc::new(chain.state.committee().in_epoch(Epoch::new(0)));
    let fact = HandoverFact::new(&commit.header);
    let signatures = sign(&committee, &chain.id(), &fact);
    let (last, _) = by_handover(&chain, 0);
    (Signed { chain: chain.id(), committee, fact, signatures }, last, commit.into())
}

#[test]
fn who_comes_later_takes_the_certificate_that_others_have() {
    let (signed, told, by_commit) = of_chain();
    let all = answers(&signed, |_| Answer::Signs);
    for me in [signed.committee.members()[3].node, stranger()] {
        let outcome = collect(&signed, me, &all, |_, _| Some(told.clone()));
        let Finality::Handover(certificate) = &told.finality else { panic!("by hand-over") };
        assert_eq!(outcome.certificate.as_ref(), Some(certificate));
        assert_eq!((outcome.signatures_asked, outcome.liars), (0, 0));
        // A commit certificate only says that it is not there yet.
        let outcome = collect(&signed, me, &all, |_, _| Some(by_commit.clone()));
        assert!(outcome.certificate.is_some() && outcome.signatures_asked > 0);
        assert_eq!(outcome.liars, 0);
        // False ones cost a check each, and the signatures are asked for.
        let Finality::Handover(mut wrong) = told.finality.clone() else { panic!("by hand-over") };
        wrong.fact.height = wrong.fact.height.next();
        let lie = FinalHeader { finality: Finality::Handover(wrong), ..told.clone() };
        let holders = outcome.certificates_asked;
        let outcome = collect(&signed, me, &all, |_, _| Some(lie.clone()));
        assert_eq!(outcome.certificate, None, "two of four have lied: no quorum is left");
        assert!(outcome.liars >= holders);
    }
}

#[test]
fn liars_are_found_left_out_and_not_asked_again() {
    let signed = Signed::new(&genesis(16, 16));
    let me = signed.committee.members()[3].node;
    for false_answer in [Answer::Lies, Answer::Garbage] {
        // Five of sixteen: a quorum of 11 is left.
        let of = |position: usize| if position % 3 == 1 { false_answer } else { Answer::Signs };
        let outcome = collect(&signed, me, &answers(&signed, of), |_, _| None);
        let certificate = outcome.certificate.expect("enough are honest");
        assert!(certificate.signers(&signed.committee).all(|position| position % 3 != 1));
        assert_eq!(outcome.liars, 5, "{false_answer:?}");
        assert!(outcome.signatures_asked <= 15, "each once");
    }
    // One more, and there is no quorum: it ends all the same.
    let of = |position: usize| if position < 6 { Answer::Lies } else { Answer::Signs };
    let outcome = collect(&signed, stranger(), &answers(&signed, of), |_, _| None);
    assert_eq!((outcome.certificate, outcome.liars), (None, 6));
}

#[test]
fn who_is_behind_is_asked_again_and_nobody_is_asked_for_ever() {
    let signed = Signed::new(&genesis(16, 16));
    let late = |_| Answer::SignsAt(20_000);
    let outcome = collect(&signed, stranger(), &answers(&signed, late), |_, _| None);
    assert!(outcome.certificate.is_some());
    assert_eq!(outcome.in_flight_max, 8);
    let silent = |position| if position < 6 { Answer::Silent } else { Answer::Signs };
    let outcome = collect(&signed, stranger(), &answers(&signed, silent), |_, _| None);
    assert_eq!(outcome.certificate, None);
    let rounds = usize::try_from(CollectionLimits::default().rounds_max).unwrap();
    assert_eq!(outcome.signatures_asked, 16 + (rounds - 1) * 6, "who has signed is left alone");
    assert!(outcome.ended_ms < 20 * 60_000);
}

#[test]
fn answers_that_were_not_asked_for_count_for_nothing() {
    let signed = Signed::equal();
    let limits = CollectionLimits::default();
    let committee = Arc::clone(&signed.committee);
    let mut collection = HandoverCollection::new(
        signed.chain,
        (committee, &signed.committee),
        signed.fact,
        stranger(),
        limits,
    );
    for (position, member) in signed.committee.members().iter().enumerate() {
        collection.on_signature(member.node, Some(signed.signatures[position]));
        collection.on_certificate(member.node, Some(&TOLD.last));
    }
    assert!(matches!(collection.step(Timestamp::from_ms(0)), CollectionStep::Rest(_)));
    assert!(collection.liars().is_empty());
    // A key that is not the member's signs nothing.
    collection.sign(&BlsKeyPair::from_seed([55; 32]));
    assert!(matches!(collection.step(Timestamp::from_ms(0)), CollectionStep::Rest(_)));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24, failure_persistence: None, ..ProptestConfig::default()
    })]

    /// There is a certificate exactly if a quorum is honest and answers, whoever collects.
    #[test]
    fn a_collection_succeeds_exactly_with_an_honest_quorum(
        kinds in vec(0..5_u8, 10),
        me in 0..11_usize,
    ) {
        let signed = Signed::new(&genesis(10, 10));
        let of = |position: usize| match kinds[position] {
            0 | 1 => Answer::Signs,
            2 => Answer::SignsAt(5_000),
            3 => Answer::Silent,
            _ if position.is_multiple_of(2) => Answer::Lies,
            _ => Answer::Garbage,
        };
        let node = signed.committee.members().get(me).map_or(stranger(), |member| member.node);
        let honest = (0..10).filter(|position| kinds[*position] <= 2 || *position == me).count();
        let outcome = collect(&signed, node, &answers(&signed, of), |_, _| None);
        prop_assert_eq!(outcome.certificate.is_some(), honest >= 7);
    }
}

// --- golden vectors --------------------------------------------------------------------------

#[test]
fn certificates_are_those_of_the_golden_vectors() {
    let mut text = String::from(
        "# Golden vectors of hand-over certificates and the signatures that they are made of.\n\
         # Written by tests/handover.rs; changed only on purpose. Seven nodes hold one of seven\n\
         # shards each, with the keys of certificates.txt.\n",
    );
    let signed = Signed::equal();
    writeln!(text, "\nchain {}", signed.chain).unwrap();
    let message = signed.fact.message(&signed.chain);
    writeln!(text, "handover_message {}", golden::hex(&message)).unwrap();
    for (position, member) in signed.committee.members().iter().enumerate() {
        writeln!(text, "\nmember {position} shards {:?}", member.shards).unwrap();
        writeln!(text, "bls_key {}", member.bls_key).unwrap();
        writeln!(text, "signature {}", signed.signatures[position]).unwrap();
    }
    for signers in [&[0, 1, 2, 3, 4][..], &[1, 2, 4, 5, 6], &[0, 1, 2, 3, 4, 5, 6]] {
        let bytes = signed.certificate(signers).unwrap().to_bytes();
        writeln!(text, "\ncertificate signers {signers:?}").unwrap();
        writeln!(text, "bytes {}", golden::hex(&bytes)).unwrap();
    }
    golden::check("handover.txt", include_str!("vectors/handover.txt"), &text);
}
