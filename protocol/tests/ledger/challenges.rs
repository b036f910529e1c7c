//! Rounds of storage challenges on the ledger: when they open and close ([`pace`]), what they ask for
//! ([`asked`]), what passes a member ([`certificates`]). Here is what all of them need.

mod asked;
mod certificates;
mod pace;

use std::sync::{Arc, LazyLock};

use floe_protocol::{
    blob::BlobHeader,
    challenge::{
        BilledUnits, ChallengeCertificate, ChallengeCertificateError, ChallengeFact,
        ChallengeParameters, Outcome, Universe,
    },
    committee::{Committee, CommitteeFact as _},
    genesis::Genesis,
    hash::Hash,
    index::ChallengeRound,
    keys::{BlsKeyPair, ChainId, KeyPair},
    ledger::{
        Challenges, Event, Executed, Key, LedgerParameters, Record, SystemOperation, billed_units,
    },
    test_support::{Chain, account_key, genesis, node_keys},
};

use super::{N, header, stored};

/// The keys of all nodes here, made once.
pub(super) fn keys() -> &'static [(KeyPair, BlsKeyPair)] {
    static KEYS: LazyLock<Vec<(KeyPair, BlsKeyPair)>> = LazyLock::new(|| node_keys(16));
    &KEYS
}

/// Rules under which a round takes few blocks, and an epoch has some 20 of them.
pub(super) fn rules(nodes: usize) -> Genesis {
    let mut genesis = genesis(nodes, N);
    genesis.ledger = LedgerParameters {
        epoch_ms: 110_000,
        challenges: ChallengeParameters {
            interval_ms: 5_000,
            grace_ms: 10_000,
            window_ms: 500,
            certificate_window_ms: 4_000,
            certificate_window_heights: 5,
            ..ChallengeParameters::default()
        },
        ..genesis.ledger
    };
    genesis
}

/// The word of the members at `positions` that a member has passed a round.
pub(super) fn certified(
    chain: &Chain,
    fact: ChallengeFact,
    positions: &[usize],
) -> SystemOperation {
    let certificate = certificate_of(&chain.id(), chain.state.committee(), fact, positions);
    let certificate = certificate.expect("more than f").to_bytes();
    SystemOperation::PassChallenge { certificate }
}

fn certificate_of(
    chain: &ChainId,
    committee: &Committee,
    fact: ChallengeFact,
    positions: &[usize],
) -> Result<ChallengeCertificate, ChallengeCertificateError> {
    let bls = |position: usize| -> &BlsKeyPair {
        let node = committee.members()[position].node;
        &keys().iter().find(|(key, _)| key.public() == node).expect("ours").1
    };
    let sign = |position: &usize| (*position, fact.sign(chain, bls(*position)));
    let acknowledgements: Vec<_> = positions.iter().map(sign).collect();
    ChallengeCertificate::new(committee, fact, &acknowledgements)
}

/// That a member has passed a round, said by all others.
pub(super) fn passes(chain: &Chain, round: ChallengeRound, position: usize) -> SystemOperation {
    let committee = chain.state.committee();
    let node = committee.members()[position].node;
    let fact = ChallengeFact { epoch: committee.epoch(), round, node, end: Hash::new([1; 32]) };
    let others: Vec<_> =
        (0..committee.members().len()).filter(|other| *other != position).collect();
    certified(chain, fact, &others)
}

/// The record of the running epoch's challenges.
pub(super) fn record(chain: &Chain) -> Option<Challenges> {
    match chain.record(&Key::Challenges(chain.state.summary().epoch)) {
        Some(Record::Challenges(record)) => Some(*record),
        None => None,
        other => unreachable!("another record: {other:?}"),
    }
}

/// Lets time pass to when the ledger next needs a block, and makes it.
pub(super) fn step(chain: &mut Chain) -> Executed {
    let state = &chain.state;
    let due = [state.challenge_deadline(), state.epoch_deadline()].into_iter().flatten().min();
    chain.now = due.unwrap_or(chain.now).max(chain.now);
    chain.commit(&[])
}

/// Goes on until a round opens.
pub(super) fn open(chain: &mut Chain) -> Arc<Universe> {
    loop {
        if let Some(universe) = step(chain).opened {
            return universe;
        }
    }
}

fn closed(executed: &Executed) -> Vec<(ChallengeRound, Vec<Outcome>)> {
    let events = executed.events.iter().filter_map(|event| match event {
        Event::ChallengeClosed { round, outcomes } => Some((*round, outcomes.clone())),
        _ => None,
    });
    events.collect()
}

/// Goes on until a round closes; what it came to.
pub(super) fn close(chain: &mut Chain) -> (ChallengeRound, Vec<Outcome>) {
    loop {
        if let Some(closed) = closed(&step(chain)).pop() {
            return closed;
        }
    }
}

/// Both draw the same.
pub(super) fn assert_same_units(a: &BilledUnits, b: &BilledUnits) {
    assert_eq!((a.total(), a.is_empty()), (b.total(), b.is_empty()));
    for unit in 0..a.total() {
        assert_eq!(a.find(unit), b.find(unit), "unit {unit}");
    }
}

/// It draws from these blobs in the order of their certification, each with what it is billed for.
pub(super) fn assert_asks_for(units: &BilledUnits, headers: &[BlobHeader]) {
    let billed = headers.iter().flat_map(|header| {
        (0..billed_units(header).expect("a possible blob")).map(|_| header.root)
    });
    let found = (0..units.total()).map(|unit| units.find(unit).expect("below the total").root);
    assert_eq!(found.collect::<Vec<_>>(), billed.collect::<Vec<_>>());
}

/// Both ask for the same.
pub(super) fn assert_same_universe(a: Option<&Universe>, b: Option<&Universe>) {
    assert_eq!(a.is_some(), b.is_some());
    let (Some(a), Some(b)) = (a, b) else { return };
    assert_eq!((a.chain, a.round, a.opened), (b.chain, b.round, b.opened));
    assert_eq!(a.parameters, b.parameters);
    assert_eq!(a.committee.to_bytes(), b.committee.to_bytes());
    assert_eq!(a.shards, b.shards);
    assert_same_units(&a.units, &b.units);
}

/// A chain with a blob that is old enough to be asked for.
fn chain_with_blob() -> Chain {
    let mut chain = Chain::new(&rules(4));
    stored(&mut chain, &account_key(0), header(1), 9, true);
    chain
}
