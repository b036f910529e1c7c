//! How the signatures of a hand-over get together: who is asked, what counts, when it ends.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use floe_protocol::{
    bft,
    handover::{HandoverCertificate, HandoverFact},
    index::Epoch,
    keys::{BlsKeyPair, BlsSignature, NodeId},
    ledger::Timestamp,
    light::{
        CollectionLimits, CollectionStep, FinalHeader, Finality, HandoverCollection,
        HandoverQuestion,
    },
    test_support::{Chain, genesis},
};
use proptest::{collection::vec, prelude::*};

use super::{
    by_handover, certified, fact,
    signed::{self, bls_of},
};

type Signed = signed::Signed<HandoverFact>;

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

fn collection(signed: &Signed, me: NodeId) -> HandoverCollection {
    let committees = (Arc::clone(&signed.committee), &*signed.committee);
    let limits = CollectionLimits::default();
    HandoverCollection::new(signed.chain, committees, signed.fact, me, limits)
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
    let mut collection = collection(signed, me);
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
    let signed = Signed::new(&genesis(16, 16), fact());
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
    let signatures = signed::sign(&committee, &chain.id(), &fact);
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
    let signed = Signed::new(&genesis(16, 16), fact());
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
    let signed = Signed::new(&genesis(16, 16), fact());
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
    let signed = Signed::equal(fact());
    let (_, told, _) = of_chain();
    let mut collection = collection(&signed, stranger());
    for (position, member) in signed.committee.members().iter().enumerate() {
        collection.on_signature(member.node, Some(signed.signatures[position]));
        collection.on_certificate(member.node, Some(&told));
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
        let signed = Signed::new(&genesis(10, 10), fact());
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
