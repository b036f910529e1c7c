//! What a round asks for: of which blobs, by what weight, of which shards.

use floe_protocol::{
    challenge::Outcome,
    committee::{Committee, CommitteeFact as _},
    index::Epoch,
    invalidity::{InvalidityCertificate, InvalidityFact},
    ledger::{SystemOperation, billed_units},
    test_support::{Chain, account_key},
};

use super::{assert_asks_for, chain_with_blob, closed, keys, open, passes, record, rules};
use crate::{
    certify, commit, delete, header, large_header, members, register, registered, report_ready,
    report_shards, stored,
};

#[test]
fn what_is_deleted_expired_or_invalid_while_a_round_is_open_costs_nobody_anything() {
    let mut chain = Chain::new(&rules(4));
    let key = account_key(0);
    let gone = stored(&mut chain, &key, header(1), 9, true);
    stored(&mut chain, &key, header(2), 9, true);
    stored(&mut chain, &key, large_header(3), 1, true);
    let all = large_units() + 2;
    chain.now = chain.state.tip().time.plus_ms(10_000);
    let universe = open(&mut chain);
    assert_eq!(universe.units.total(), all);
    commit(&mut chain, &key, vec![delete(gone)]);
    let blob = header(2).id();
    let fact = InvalidityFact { epoch: chain.state.committee().epoch(), blob };
    let committee = chain.state.committee();
    let sign = |position: usize| {
        let node = committee.members()[position].node;
        let (_, bls) = keys().iter().find(|(key, _)| key.public() == node).expect("ours");
        (position, fact.sign(&chain.id(), bls))
    };
    let certificate = InvalidityCertificate::new(committee, fact, &[sign(0), sign(1), sign(2)]);
    let certificate = certificate.unwrap().to_bytes();
    chain.commit_system(&[SystemOperation::InvalidateBlob { certificate }]);
    // The round asks for what it asked for, and takes certificates.
    let operations: Vec<_> = (0..4).map(|i| passes(&chain, universe.round, i)).collect();
    let executed = chain.commit_system(&operations);
    assert_eq!(universe.units.total(), all);
    assert_eq!(closed(&executed), [(universe.round, vec![Outcome::Passed; 4])]);
    assert_eq!(open(&mut chain).units.total(), large_units());
    // It ends with the epoch: then there is nothing left to ask for.
    chain.next_epoch();
    let rounds = |chain: &Chain| record(chain).map_or(0, |record| record.rounds);
    for seconds in 1..6 {
        chain.now = chain.state.summary().epoch_start.plus_ms(seconds * 5_000);
        assert!(chain.commit(&[]).opened.is_none());
    }
    assert_eq!((rounds(&chain), chain.state.challenge_deadline()), (0, None));
}

fn large_units() -> u64 {
    billed_units(&large_header(0)).unwrap()
}

#[test]
fn blobs_weigh_what_they_are_billed_for() {
    let mut chain = Chain::new(&rules(4));
    stored(&mut chain, &account_key(0), header(1), 9, true);
    stored(&mut chain, &account_key(0), large_header(2), 9, true);
    stored(&mut chain, &account_key(0), header(3), 9, true);
    chain.now = chain.state.tip().time.plus_ms(10_000);
    let universe = open(&mut chain);
    assert!(large_units() > 1);
    assert_asks_for(&universe.units, &[header(1), large_header(2), header(3)]);
}

#[test]
fn gained_shards_are_asked_for_once_they_have_been_ready_for_a_while() {
    let mut chain = Chain::new(&rules(6));
    stored(&mut chain, &account_key(0), header(1), 9, true);
    report_ready(&mut chain, &[0, 1, 2, 3]);
    let before = chain.state.committee().clone();
    chain.next_epoch();
    let mut committee = chain.state.committee().clone();
    let asked = |committee: &Committee, with_gained: bool| -> Vec<Vec<_>> {
        let own = committee.members().iter().map(|member| {
            let held = before.member(&member.node).map_or(&[][..], |member| &member.shards);
            let asked = |shard: &&_| with_gained || held.contains(shard);
            member.shards.iter().filter(asked).copied().collect()
        });
        own.collect()
    };
    assert_ne!(asked(&committee, false), asked(&committee, true), "shards have moved");
    assert_eq!(open(&mut chain).shards, asked(&committee, false));
    // Nor in the epoch after, if they are not complete by then: it may take longer than one.
    report_ready(&mut chain, &[0, 1, 2, 3]);
    chain.next_epoch();
    assert_eq!(chain.state.committee().epoch(), Epoch::new(2));
    committee = chain.state.committee().clone();
    let expected = |with_gained| asked(&committee, with_gained);
    assert_ne!(expected(false), expected(true), "the same holders");
    assert_eq!(open(&mut chain).shards, expected(false));
    let who = members(&chain);
    let executed = report_shards(&mut chain, &who).expect("some were not ready");
    drop(executed);
    let ready = chain.state.tip().time;
    let mut universe = open(&mut chain);
    while universe.opened < ready.plus_ms(10_000) {
        assert_eq!(universe.shards, expected(false));
        universe = open(&mut chain);
    }
    assert_eq!(universe.shards, expected(true));
    // And from then on.
    report_ready(&mut chain, &[0, 1, 2, 3]);
    chain.next_epoch();
    assert_eq!(chain.state.committee().epoch(), Epoch::new(3));
    let committee = chain.state.committee().clone();
    let shards = committee.members().iter().map(|member| member.shards.clone());
    assert_eq!(open(&mut chain).shards, shards.collect::<Vec<_>>());
}

#[test]
fn certifying_anew_a_blob_that_is_asked_for_changes_nothing() {
    let mut chain = chain_with_blob();
    let first = open(&mut chain);
    let key = account_key(1);
    let (registration, _) = registered(&mut chain, &key, register(header(1), 12, false));
    let certify = certify(&chain, registration, &header(1));
    commit(&mut chain, &key, vec![certify]);
    let second = open(&mut chain);
    assert_eq!((first.units.total(), second.units.total()), (1, 1));
    assert_eq!(first.units.find(0), second.units.find(0));
}
