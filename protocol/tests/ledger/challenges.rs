//! Rounds of storage challenges: when they open and close, what passes a member, and what they come
//! to.

use std::sync::{Arc, LazyLock};

use floe_protocol::{
    blob::BlobHeader,
    challenge::{
        BilledUnits, ChallengeCertificate, ChallengeCertificateError, ChallengeFact,
        ChallengeParameters, NotOpen, Outcome, Score, Universe,
    },
    committee::{CertificateError, Committee, CommitteeFact as _},
    genesis::Genesis,
    hash::Hash,
    index::{ChallengeRound, Epoch},
    invalidity::{InvalidityCertificate, InvalidityFact},
    keys::{BlsKeyPair, ChainId, KeyPair, NodeId},
    ledger::{
        Block, BlockError, Body, CLOSED_ROUNDS_KEPT, Challenges, Event, Executed, Key, Known,
        LedgerParameters, OPEN_ROUNDS_MAX, OperationError, Record, State, SystemOperation,
        billed_units,
    },
    pace::{Pace, Reasons},
    test_support::{Chain, account_key, genesis, node_keys},
};

use super::{
    N, certify, commit, delete, header, large_header, members, register, registered, report_ready,
    report_shards, resealed, stored, system_refused,
};

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

#[test]
fn rounds_open_by_the_clock_and_close_after_time_and_heights() {
    let mut chain = Chain::new(&rules(4));
    chain.commit(&[]);
    let start = chain.state.summary().epoch_start;
    assert_eq!(chain.state.challenge_deadline(), None, "nothing to ask for, no block for it");
    chain.now = start.plus_ms(20_000);
    chain.commit(&[]);
    assert_eq!(record(&chain), None);

    // Too young: nothing opens, and it is looked again after an interval.
    stored(&mut chain, &account_key(0), header(1), 9, true);
    let certified = chain.state.tip().time;
    assert_eq!(record(&chain).unwrap().last, Some(certified));
    assert_eq!(chain.state.challenge_deadline(), Some(certified.plus_ms(5_000)));
    assert_eq!(step(&mut chain).opened.map(|universe| universe.round), None);
    assert_eq!(record(&chain).unwrap().rounds, 0);
    chain.now = certified.plus_ms(9_999);
    assert!(chain.commit(&[]).opened.is_none());
    chain.now = certified.plus_ms(10_000);
    let executed = chain.commit(&[]);
    let universe = executed.opened.expect("old enough");
    let opened = chain.state.tip().time;
    assert_eq!(opened, certified.plus_ms(10_000));
    assert_eq!(universe.round.get(), chain.state.tip().height.get());
    assert_eq!((universe.opened, universe.units.total()), (opened, 1));
    assert_eq!(universe.committee.hash(), chain.state.committee().hash());
    let events: Vec<_> = executed.events.iter().cloned().collect();
    assert_eq!(events, [Event::ChallengeOpened { round: universe.round }]);
    assert_eq!(chain.state.open_challenges(), [universe.round]);

    // A block at once, for the seeds, one a window later, for the last of them, one for who has made
    // both; then it waits for the time from the first of them on.
    let mut times = Vec::new();
    let outcomes = loop {
        let deadline = chain.state.challenge_deadline().unwrap();
        times.push(deadline.ms_since(opened));
        let executed = step(&mut chain);
        if let Some(closed) = closed(&executed).pop() {
            break closed;
        }
    };
    let [fourth, last] = [4, 5].map(|number| 100 + 4_000 * number / 5);
    assert_eq!(times, [0, 100 + 500, 100 + 1_500, fourth, last]);
    assert_eq!(outcomes, (universe.round, vec![Outcome::Void; 4]));
    let kept = record(&chain).unwrap();
    assert!(kept.open.is_empty());
    assert_eq!((kept.rounds, kept.last, kept.closed.len()), (1, Some(opened), 1));
    assert_eq!(kept.closed[0].outcomes, outcomes.1);
    assert_eq!(kept.scores, [Score { passed: 0, missed: 0, void: 1 }; 4]);
    assert_eq!(chain.state.challenges().as_ref(), &kept);
    assert_eq!(chain.state.challenge_deadline(), Some(opened.plus_ms(5_000)));
}

#[test]
fn a_ledger_that_hardly_moves_gives_time() {
    let mut chain = chain_with_blob();
    let universe = open(&mut chain);
    for heights in 1..=5 {
        chain.now = universe.opened.plus_ms(9_000 * heights);
        let executed = chain.commit(&[]);
        // Others open meanwhile.
        assert_eq!(closed(&executed).len(), usize::from(heights == 5), "{heights}");
    }
    assert_eq!(record(&chain).unwrap().open.len(), 5);
}

#[test]
fn a_ledger_that_stops_right_after_an_opening_gives_all_the_time() {
    let mut chain = chain_with_blob();
    let universe = open(&mut chain);
    // Nobody has a seed before the next block, which comes a minute later.
    chain.now = universe.opened.plus_ms(60_000);
    let since = chain.now;
    let loaded = |chain: &Chain| {
        let (origin, _) = State::genesis(&rules(4)).unwrap();
        let header = &chain.blocks.last().expect("at least one").0.header;
        State::load(&origin, header, &chain.store).unwrap()
    };
    chain.commit(&[]);
    assert_eq!(record(&chain).unwrap().open[0].since, Some(since));
    let mut times = Vec::new();
    let passes = passes(&chain, universe.round, 0);
    let outcomes = loop {
        let deadline = chain.state.challenge_deadline().unwrap();
        assert_eq!(loaded(&chain).challenge_deadline(), Some(deadline));
        times.push(deadline.ms_since(since));
        if times.len() == 4 {
            chain.now = since.plus_ms(3_999);
            chain.commit_system(std::slice::from_ref(&passes));
        }
        let of_this = |(round, _): &(_, _)| *round == universe.round;
        if let Some((_, outcomes)) = closed(&step(&mut chain)).into_iter().find(of_this) {
            break outcomes;
        }
    };
    // The seeds of this round and of the one that opens meanwhile, and a block for each of them.
    assert_eq!(times, [0, 600, 1_600, 3_300]);
    assert_eq!(outcomes[0], Outcome::Passed);
}

#[test]
fn open_and_closed_rounds_are_few() {
    let mut genesis = rules(4);
    genesis.ledger.challenges.certificate_window_heights = 100;
    let mut chain = Chain::new(&genesis);
    stored(&mut chain, &account_key(0), header(1), 9, true);
    while chain.state.open_challenges().len() < OPEN_ROUNDS_MAX {
        chain.now = chain.state.tip().time.plus_ms(5_000);
        chain.commit(&[]);
    }
    let rounds = record(&chain).unwrap().rounds;
    chain.now = chain.state.tip().time.plus_ms(5_000);
    chain.commit(&[]);
    assert_eq!(record(&chain).unwrap().rounds, rounds, "none before one closes");
    let now = chain.state.tip().time;
    let first = chain.state.challenges().open[0].since.unwrap();
    assert!(chain.state.challenge_deadline() <= Some(now), "heights are what is missing");
    assert!(first.plus_ms(4_000) < now);
    while record(&chain).unwrap().rounds == rounds {
        step(&mut chain);
    }
    assert!(record(&chain).unwrap().open.len() <= OPEN_ROUNDS_MAX);
    let mut chain = chain_with_blob();
    for _ in 0..CLOSED_ROUNDS_KEPT + 3 {
        close(&mut chain);
    }
    let kept = record(&chain).unwrap();
    assert_eq!(kept.closed.len(), CLOSED_ROUNDS_KEPT);
    assert!(kept.closed.is_sorted_by_key(|closed| closed.round));
}

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
    let round = super::challenges::open(&mut chain).round;
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

#[test]
fn no_round_opens_in_a_stretched_epoch_and_open_ones_are_dropped() {
    let mut chain = chain_with_blob();
    // Nobody is selected or reports: but all shards are ready, so the epoch ends in time.
    let epoch_ms = chain.state.parameters().ledger.epoch_ms;
    let end = chain.state.summary().epoch_start.plus_ms(epoch_ms);
    while chain.state.tip().time.plus_ms(5_000) < end {
        open(&mut chain);
    }
    assert_eq!(chain.state.open_challenges().len(), 1);
    let before = record(&chain).unwrap();
    chain.now = end;
    let executed = chain.commit(&[]);
    assert!(executed.opened.is_none() && closed(&executed).is_empty());
    assert_eq!(chain.state.committee().epoch(), Epoch::new(1));
    let Some(Record::Challenges(ended)) = chain.record(&Key::Challenges(Epoch::new(0))) else {
        unreachable!("it is kept")
    };
    assert_eq!(*ended, Challenges { open: Vec::new(), ..before });
    assert_eq!((record(&chain), chain.state.open_challenges()), (None, Vec::new()));
    // The next begins an interval after its start.
    let due = chain.state.summary().epoch_start.plus_ms(5_000);
    assert_eq!(chain.state.challenge_deadline(), Some(due));
    assert!(step(&mut chain).opened.is_some());
    // As long as the committee is known, so is this.
    for _ in 0..4 {
        assert!(chain.record(&Key::Challenges(Epoch::new(0))).is_some());
        report_shards(&mut chain, &[0, 1, 2, 3]);
        chain.next_epoch();
    }
    assert_eq!(chain.record(&Key::Challenges(Epoch::new(0))), None);
    assert_eq!(chain.record(&Key::Committee(Epoch::new(0))), None);
}

#[test]
fn an_epoch_that_stretches_closes_what_is_open_and_opens_nothing() {
    let mut chain = Chain::new(&rules(7));
    stored(&mut chain, &account_key(0), header(1), 9, true);
    // Three of seven stay away, so shards move, and nobody says that they are complete.
    report_ready(&mut chain, &[0, 1, 2, 3]);
    chain.next_epoch();
    let start = chain.state.summary().epoch_start;
    let end = start.plus_ms(chain.state.parameters().ledger.epoch_ms);
    while chain.state.tip().time < end {
        step(&mut chain);
    }
    let rounds = record(&chain).unwrap().rounds;
    assert_eq!(chain.state.summary().epoch_start, start, "it stretches");
    for seconds in [1, 2, 5, 10, 20] {
        chain.now = end.plus_ms(seconds * 1_000);
        assert!(chain.commit(&[]).opened.is_none());
    }
    let kept = record(&chain).unwrap();
    assert_eq!((kept.rounds, kept.open.len()), (rounds, 0));
    assert_eq!(chain.state.challenge_deadline(), None, "no block is made for what can't open");
    let counted: u32 = kept.scores.iter().map(|score| score.void + score.missed).sum();
    assert!(counted > 0);
}

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
fn an_idle_ledger_makes_few_blocks_for_a_round() {
    let mut genesis = genesis(4, N);
    genesis.ledger.challenges = ChallengeParameters::default();
    let mut chain = Chain::new(&genesis);
    stored(&mut chain, &account_key(0), header(1), 9, true);
    let pace = Pace::new(&genesis.ledger);
    // A ledger whose blocks take no time, with nothing but rounds and heartbeats.
    let go_on = |chain: &mut Chain| {
        let reasons = Reasons {
            epoch_wait: chain.state.epoch_wait(),
            challenge_wait: chain.state.challenge_wait(),
            ..Reasons::default()
        };
        let wait = pace.next_height(std::time::Duration::ZERO, &reasons);
        let wait = u64::try_from(wait.as_millis()).unwrap();
        chain.now = chain.state.tip().time.plus_ms(wait);
        chain.commit(&[])
    };
    let mut openings = Vec::new();
    while openings.len() < 6 {
        if go_on(&mut chain).opened.is_some() {
            let tip = chain.state.tip();
            openings.push((tip.height.get(), tip.time));
        }
    }
    for pair in openings.windows(2) {
        let ((first, opened), (second, next)) = (pair[0], pair[1]);
        assert_eq!(next.ms_since(opened), 60_000, "none comes late");
        assert_eq!(second - first, 13, "10 while certificates count, 2 heartbeats, the opening");
    }
    // All pass in the first block that takes certificates.
    let round = ChallengeRound::new(chain.state.tip().height.get());
    for _ in 0..3 {
        go_on(&mut chain);
    }
    let all: Vec<_> = (0..4).map(|position| passes(&chain, round, position)).collect();
    let last = chain.commit_system(&all);
    assert_eq!(closed(&last), [(round, vec![Outcome::Passed; 4])], "nothing can change any more");
    let (height, time) = (chain.state.tip().height.get(), chain.state.tip().time);
    go_on(&mut chain);
    assert_eq!(chain.state.tip().time.ms_since(time), 10_000, "a heartbeat");
    while go_on(&mut chain).opened.is_none() {}
    assert!(chain.state.tip().height.get() - height <= 7, "heartbeats and the opening");
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
