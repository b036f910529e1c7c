//! What passes a member, and what of certificates is refused, left out or not looked at again.

use std::sync::Arc;

use floe_protocol::{
    challenge::{ChallengeCertificateError, ChallengeFact, NotOpen, Outcome, Score},
    committee::CertificateError,
    hash::Hash,
    index::{ChallengeRound, Epoch},
    keys::{ChainId, NodeId},
    ledger::{Block, BlockError, Body, Event, Known, OperationError, SystemOperation},
    test_support::{Chain, account_key},
};

use super::{certificate_of, certified, chain_with_blob, close, open, passes, record, rules};
use crate::{N, certify, header, register, registered, resealed, system_refused};

#[test]
fn who_is_certified_has_passed_and_others_have_missed() {
    let mut chain = chain_with_blob();
    let round = open(&mut chain).round;
    let node = |position: usize| chain.state.committee().members()[position].node;
    let passed: Vec<_> = [0, 1, 3].map(|position| passes(&chain, round, position)).into();
    let nodes = [0, 1, 3].map(node);
    let executed = chain.commit_system(&passed);
    let events: Vec<_> = executed.events.iter().cloned().collect();
    assert_eq!(events, nodes.map(|node| Event::ChallengePassed { round, node }));
    let open = record(&chain).unwrap().open;
    use Outcome::{Missed, Open, Passed};
    assert_eq!(open[0].outcomes, [Passed, Passed, Open, Passed]);
    assert_eq!(close(&mut chain), (round, vec![Passed, Passed, Missed, Passed]));
    let scores = record(&chain).unwrap().scores;
    assert_eq!(
        (scores[0], scores[2]),
        (Score { passed: 1, ..Score::default() }, Score { missed: 1, ..Score::default() },)
    );
    // More than f shards miss: nobody has missed, and who passed has passed.
    let round = super::open(&mut chain).round;
    let one = passes(&chain, round, 1);
    chain.commit_system(&[one]);
    let (void, outcomes) = close(&mut chain);
    assert_eq!(
        (void, outcomes),
        (round, vec![Outcome::Void, Passed, Outcome::Void, Outcome::Void])
    );
}

#[test]
fn certificates_that_pass_nobody_are_refused() {
    let mut chain = chain_with_blob();
    let first = open(&mut chain).round;
    close(&mut chain);
    let round = open(&mut chain).round;
    let committee = Arc::clone(chain.state.committee());
    let epoch = committee.epoch();
    let node = |position: usize| committee.members()[position].node;
    let fact = |round, position| ChallengeFact {
        epoch,
        round,
        node: node(position),
        end: Hash::new([1; 32]),
    };
    let right = fact(round, 0);
    let refused = |operation| system_refused(&chain, operation);
    let bytes = |operation: SystemOperation| match operation {
        SystemOperation::PassChallenge { certificate } => certificate,
        other => unreachable!("{other:?}"),
    };
    let with = |certificate| refused(SystemOperation::PassChallenge { certificate });
    let proof = OperationError::ChallengeCertificate;

    // Other rounds, epochs, nodes.
    for other in [first, ChallengeRound::new(round.get() + 1), ChallengeRound::new(u64::MAX)] {
        let error = refused(certified(&chain, fact(other, 0), &[1, 2, 3]));
        assert_eq!(error, OperationError::ChallengeRound(other));
    }
    let other = ChallengeFact { epoch: Epoch::new(1), ..right };
    let mut of_epoch = bytes(certified(&chain, right, &[1, 2, 3]));
    of_epoch[..8].copy_from_slice(&other.epoch.get().to_le_bytes());
    assert_eq!(with(of_epoch), OperationError::OtherEpoch { epoch });
    let stranger = NodeId::new([7; 32]);
    let mut of_stranger = bytes(certified(&chain, right, &[1, 2, 3]));
    of_stranger[16..48].copy_from_slice(stranger.as_bytes());
    let no_member = ChallengeCertificateError::NoMember(stranger);
    assert_eq!(with(of_stranger), proof(no_member));

    // Its own word, too few, another chain's, one for another node or end, and no certificate.
    let own = certified_with_own(&chain, right);
    assert_eq!(refused(own), proof(ChallengeCertificateError::Own(node(0))));
    let few = bytes(certified(&chain, right, &[1, 2, 3]));
    let bitmap = few.len() - 96 - 1;
    for (mask, weight) in [(0b0000, 0), (0b0100, 2)] {
        let mut few = few.clone();
        few[bitmap] = mask;
        let error = CertificateError::NoQuorum { weight, n_shards: N };
        let error = ChallengeCertificateError::Certificate(error);
        assert_eq!(with(few), proof(error), "{mask:b}");
    }
    let foreign = Chain::new(&{
        let mut other = rules(4);
        other.name = "another".into();
        other
    });
    let wrong = proof(ChallengeCertificateError::Certificate(CertificateError::Signature));
    let foreign = certificate_of(&foreign.id(), &committee, right, &[1, 2, 3]).unwrap().to_bytes();
    assert_eq!(with(foreign), wrong);
    for at in [16, 48, 79] {
        let mut moved = bytes(certified(&chain, right, &[2, 3]));
        match at {
            16 => moved[16..48].copy_from_slice(node(1).as_bytes()),
            _ => moved[at] ^= 1,
        }
        assert_eq!(with(moved), wrong, "byte {at}");
    }
    let whole = bytes(certified(&chain, right, &[1, 2, 3]));
    for malformed in [vec![], whole[..whole.len() - 1].to_vec(), [&whole[..], &[0]].concat()] {
        let error = ChallengeCertificateError::Certificate(CertificateError::Malformed);
        assert_eq!(with(malformed), proof(error));
    }
}

#[test]
fn what_was_verified_before_is_not_verified_again_and_all_else_is() {
    let mut chain = chain_with_blob();
    let round = open(&mut chain).round;
    let right = passes(&chain, round, 0);
    let (block, _) = chain.propose(std::slice::from_ref(&right), &[]).unwrap();
    let SystemOperation::PassChallenge { certificate } = &right else { unreachable!() };
    let mut certificate = certificate.clone();
    *certificate.last_mut().unwrap() ^= 1;
    let forged = SystemOperation::PassChallenge { certificate };
    let body = Body { system: vec![forged.clone()], ..block.body.clone() };
    let wrong = resealed(&chain, Block { body, ..block });
    let judged = |known: &dyn Fn(Known<'_>) -> bool| match chain.state.execute(
        &chain.store,
        &wrong,
        known,
    ) {
        Ok(_) => None,
        Err(BlockError::Operation { error, .. }) => Some(error),
        Err(other) => unreachable!("{other:?}"),
    };
    let is = |which: &SystemOperation, what: Known<'_>| matches!(what, Known::System(operation) if operation == which);
    let checked = judged(&|what| is(&right, what));
    assert!(matches!(checked, Some(OperationError::ChallengeCertificate(_))), "{checked:?}");
    assert_eq!(judged(&|what| is(&forged, what)), None, "its signature is not looked at");
}

#[test]
fn a_certificate_counts_once_and_while_its_round_is_open() {
    let mut chain = chain_with_blob();
    let round = open(&mut chain).round;
    let again = passes(&chain, round, 0);
    chain.commit_system(std::slice::from_ref(&again));
    assert_eq!(system_refused(&chain, again), OperationError::Challenge(NotOpen::Passed));
    let late = passes(&chain, round, 1);
    close(&mut chain);
    assert_eq!(system_refused(&chain, late), OperationError::ChallengeRound(round));
}

#[test]
fn free_operations_leave_room_for_paid_ones_and_wait_where_they_find_none() {
    let mut chain = chain_with_blob();
    let key = account_key(1);
    let (registration, _) = registered(&mut chain, &key, register(header(2), 9, false));
    let certify = chain.sign(&key, vec![certify(&chain, registration, &header(2))]);
    let round = open(&mut chain).round;
    let right = passes(&chain, round, 1);
    let over = passes(&chain, ChallengeRound::new(1), 0);
    // Each costs the work of reading three keys and of a check.
    let committee = chain.state.committee();
    let (node, end) = (committee.members()[0].node, Hash::new([1; 32]));
    let fact = ChallengeFact { epoch: committee.epoch(), round, node, end };
    let foreign = ChainId::new(Hash::new([3; 32]));
    let forged = certificate_of(&foreign, committee, fact, &[1, 2, 3]).unwrap().to_bytes();
    let forged = SystemOperation::PassChallenge { certificate: forged };
    let mut system = vec![over.clone()];
    system.resize(301, forged.clone());
    system.push(right.clone());
    let mut transactions = vec![certify.clone()].into_iter();
    let mut candidates = |_: floe_protocol::ledger::Outcome<'_>| {
        let signed = transactions.next()?;
        Some(Arc::new(signed.verify(&chain.id()).expect("well formed")))
    };
    let proposed = chain
        .state
        .propose(&chain.store, chain.proposal(), (&system, &|_| false), &mut candidates)
        .unwrap();
    let checked = 20_480 / 2 / (32 + 3);
    assert_eq!(proposed.refused.len(), 1 + checked, "what is wrong is not offered again");
    assert_eq!(proposed.refused[..2], [over, forged]);
    assert_eq!(proposed.block.body.system, [], "the last one waits");
    assert_eq!(proposed.block.body.transactions, [certify]);
    let refused = &proposed.refused;
    system.retain(|operation| !refused.contains(operation));
    assert_eq!(system, std::slice::from_ref(&right));
    chain.commit_system(&[right]);
}

/// A certificate with the node's own word: whoever makes one has to do without the constructor.
fn certified_with_own(chain: &Chain, fact: ChallengeFact) -> SystemOperation {
    // All sign the fact that is about the first, under the name of another.
    let committee = chain.state.committee();
    let position = committee.position(&fact.node).unwrap();
    let others: Vec<_> = (0..committee.members().len()).filter(|i| *i != position).collect();
    let SystemOperation::PassChallenge { mut certificate } = certified(chain, fact, &others) else {
        unreachable!()
    };
    let bitmap = certificate.len() - 96 - 1;
    certificate[bitmap] |= 1 << position;
    SystemOperation::PassChallenge { certificate }
}

#[test]
fn a_certificate_in_the_block_that_closes_its_round_comes_too_late() {
    let mut chain = chain_with_blob();
    let universe = open(&mut chain);
    let operation = passes(&chain, universe.round, 0);
    for _ in 0..4 {
        chain.commit(&[]);
    }
    let since = record(&chain).unwrap().open[0].since.unwrap();
    chain.now = since.plus_ms(3_999);
    let mut in_time = chain.clone();
    in_time.commit_system(std::slice::from_ref(&operation));
    chain.now = since.plus_ms(4_000);
    let error = system_refused(&chain, operation);
    assert_eq!(error, OperationError::ChallengeRound(universe.round));
}
