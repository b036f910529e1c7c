//! What becomes of acknowledgements: a certificate, whoever lies, and that on the ledger.

use super::*;

/// What stops a member, or somebody in its name, does not stop a true word of it.
#[test]
fn false_acknowledgements_harm_nobody() {
    let mut table = Table::new();
    let commitment = table.commit(0, 0);
    let node = table.network.node(0);
    let fact = ChallengeFact::new(&table.network.universe, node, commitment.end);
    let other = ChallengeFact { end: Hash::ZERO, ..fact };
    let sign = |network: &Network, fact: &ChallengeFact, by: usize| {
        fact.sign(network.chain(), network.bls(by))
    };
    // Of another transcript, another member's, and no signature at all: noticed when they count.
    let of_other = sign(&table.network, &other, 1);
    assert!(table.acknowledge(0, 1, of_other).is_empty());
    let of_member = sign(&table.network, &fact, 6);
    assert!(table.acknowledge(0, 2, of_member).is_empty());
    let outputs = table.acknowledge(0, 3, BlsSignature::new([0; 96]));
    let liars: Vec<_> =
        outputs.iter().map(|output| ignored(std::slice::from_ref(output)).unwrap()).collect();
    let expected = [1, 2, 3].map(|at| (table.network.node(at), Ignored::FalseAcknowledgement));
    assert_eq!(liars, expected);
    for (member, done) in [(1, false), (4, false), (2, true)] {
        let signature = sign(&table.network, &fact, member);
        let outputs = table.acknowledge(0, member, signature);
        assert_eq!(matches!(outputs[..], [RoundOutput::Submit(_)]), done, "member {member}");
    }
}

/// While acknowledgements are checked elsewhere, others come; a false one does not hide the true one
/// behind it.
#[test]
fn acknowledgements_are_checked_beside_and_taken_meanwhile() {
    let mut table = Table::new();
    let commitment = table.commit(0, 0);
    let node = table.network.node(0);
    let fact = ChallengeFact::new(&table.network.universe, node, commitment.end);
    let other = ChallengeFact { end: Hash::ZERO, ..fact };
    let [lie, truth] = [other, fact]
        .map(|fact| [1, 2, 3, 4].map(|by| fact.sign(table.network.chain(), table.network.bls(by))));
    assert!(table.heard(0, 1, lie[0]).is_none());
    assert!(table.heard(0, 1, truth[0]).is_none(), "kept behind the other");
    assert!(table.heard(0, 2, truth[1]).is_none());
    let joining = table.heard(0, 3, lie[2]).expect("three may be enough");
    assert!(table.heard(0, 4, truth[3]).is_none(), "one at a time");
    let joined = RoundInput::Joined(Box::new(joining.run()));
    let outputs = table.rounds[0].handle(0, joined.clone());
    let [first, second, RoundOutput::Join(joining)] = &outputs[..] else { panic!("{outputs:?}") };
    for (output, liar) in [(first, 1), (second, 3)] {
        let expected = (table.network.node(liar), Ignored::FalseAcknowledgement);
        assert_eq!(ignored(std::slice::from_ref(output)), Some(expected));
    }
    let input = RoundInput::Joined(Box::new(joining.clone().run()));
    let outputs = table.rounds[0].handle(0, input);
    let [RoundOutput::Submit(certificate)] = &outputs[..] else { panic!("{outputs:?}") };
    let universe = &table.network.universe;
    assert!(certificate.signers(&universe.committee).eq([1, 2, 4]));
    assert_eq!(certificate.verify(&universe.committee, &universe.chain), Ok(()));
    assert!(table.rounds[0].handle(0, joined).is_empty(), "again, and too late");
}

#[test]
fn of_each_member_a_few_acknowledgements_are_taken() {
    let mut table = Table::new();
    let commitment = table.commit(0, 0);
    let fact = ChallengeFact::new(&table.network.universe, commitment.node, commitment.end);
    let sign = |table: &Table, by| fact.sign(table.network.chain(), table.network.bls(by));
    for member in [1, 2] {
        let signature = sign(&table, member);
        assert!(table.heard(0, member, signature).is_none());
    }
    let most = RoundConfig::default().attempts_max;
    let checked = (0..100_u8).filter(|number| {
        let outputs = table.acknowledge(0, 3, BlsSignature::new([*number; 96]));
        !outputs.is_empty()
    });
    assert_eq!(checked.count(), most as usize);
    let signature = sign(&table, 3);
    assert!(table.heard(0, 3, signature).is_none(), "it has lied too often");
    let signature = sign(&table, 4);
    assert!(matches!(table.acknowledge(0, 4, signature)[..], [RoundOutput::Submit(_)]));
}

/// A transaction may get lost.
#[test]
fn a_certificate_is_submitted_until_it_is_on_the_ledger() {
    let config = RoundConfig::default();
    for certified_after in [1, 4, 100] {
        let mut table = Table::new();
        let commitment = table.commit(0, 0);
        let fact = ChallengeFact::new(&table.network.universe, commitment.node, commitment.end);
        let mut outputs = Vec::new();
        for member in 1..4 {
            let signature = fact.sign(table.network.chain(), table.network.bls(member));
            outputs = table.acknowledge(0, member, signature);
        }
        let mut submitted = 0;
        let mut last_ms = 0;
        loop {
            assert!(matches!(outputs[..], [RoundOutput::Submit(_)]), "{outputs:?}");
            submitted += 1;
            if submitted == certified_after {
                let certified = RoundInput::Certified { node: commitment.node };
                assert!(table.rounds[0].handle(last_ms, certified).is_empty());
            }
            let Some(at_ms) = table.rounds[0].wake_at_ms() else { break };
            assert_eq!(at_ms, last_ms + 3 * config.retry_ms);
            assert!(table.rounds[0].handle(at_ms - 1, RoundInput::Tick).is_empty());
            outputs = table.rounds[0].handle(at_ms, RoundInput::Tick);
            last_ms = at_ms;
        }
        assert_eq!(submitted, certified_after.min(config.attempts_max));
    }
}

/// What f others do, whatever it is, does not make an empty node pass.
#[test]
fn f_friends_are_not_enough() {
    let network = Network::new(7, 7, &[1_000]);
    let fact = ChallengeFact::new(&network.universe, network.node(0), Hash::ZERO);
    let sign = |at: usize| (at, fact.sign(network.chain(), network.bls(at)));
    let committee = &network.universe.committee;
    assert!(ChallengeCertificate::new(committee, fact, &[sign(0), sign(1), sign(2)]).is_err());
    assert!(ChallengeCertificate::new(committee, fact, &[sign(1), sign(2)]).is_err());
    // And nobody honest acknowledges what it cannot show, be it as long as it should be.
    let challenge = network.challenge(0);
    let (end, transcript) = network.answer(&challenge);
    let judge = |end, transcript: Vec<u8>| {
        let (challenge, transcript) = (challenge.clone(), transcript.into());
        Verification { challenge, end, transcript }.run(&BTreeSet::new())
    };
    assert_eq!(judge(end, transcript.to_vec()), Ok(()));
    assert_eq!(judge(Hash::ZERO, transcript.to_vec()), Err(TranscriptError::OtherEnd));
    assert_eq!(judge(end, Vec::new()), Err(TranscriptError::TooShort));
    let head = 72;
    let mut forged = transcript.to_vec();
    forged[head..].fill(0);
    let error = StepError::Pair;
    assert_eq!(judge(end, forged), Err(TranscriptError::Step { step: 0, error }));
    // With all that is public, but for the chunk: the first byte tells its kind.
    let mut forged = transcript.to_vec();
    forged[head + 1..head + 41].fill(0);
    let error = StepError::Chunk;
    assert_eq!(judge(end, forged), Err(TranscriptError::Step { step: 0, error }));
}
