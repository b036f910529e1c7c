//! Selections, epochs that stretch, shards that return, and committees that change.

use floe_protocol::{
    committee::Committee,
    index::{Epoch, ShardIndex},
    keys::NodeId,
    ledger::{Event, Executed, NodeIdentity, Operation, OperationError, ShardRecord, State},
    test_support::{Chain, account_key, genesis, node_keys, operator_key},
};

use super::{
    Amount, N, commit, frost, fund, id, members, node, report_ready, report_shards, settings,
    staking::offence, system_refused, to_deadline, worth,
};

/// Six nodes of 1,000 WAL; the cap is two shards, so four can carry all.
pub(crate) fn six() -> Chain {
    let mut chain = Chain::new(&genesis(6, N));
    chain.commit(&[]);
    chain
}

pub(crate) fn key(i: usize) -> NodeId {
    node_keys(16)[i].0.public()
}

fn shards(chain: &Chain) -> Vec<ShardRecord> {
    chain.state.shards(&chain.store).unwrap()
}

pub(crate) fn ready(chain: &Chain) -> usize {
    shards(chain).iter().filter(|shard| shard.is_ready()).count()
}

fn holder(chain: &Chain, shard: u16) -> NodeId {
    holder_in(chain.state.committee(), shard)
}

fn holder_in(committee: &Committee, shard: u16) -> NodeId {
    committee.members()[committee.holder(ShardIndex::new(shard))].node
}

pub(crate) fn epoch(chain: &Chain) -> u64 {
    chain.state.summary().epoch.get()
}

/// Whether a block selected a committee: some that could be formed, or none.
fn selected(executed: &Executed) -> Option<bool> {
    let failed = executed.events.iter().any(|e| matches!(e, Event::SelectionFailed { .. }));
    let selected = executed.events.iter().any(|e| matches!(e, Event::EpochSelected { .. }));
    assert!(selected || !failed, "prices are fixed in any case");
    selected.then_some(!failed)
}

/// The next committee, once it has been selected.
fn next(chain: &Chain) -> Option<Committee> {
    let next = chain.state.summary().epoch.plus(1);
    chain.state.committee_of(&chain.store, next).unwrap()
}

/// Registers node `i`, run by account `i`, with a stake.
pub(crate) fn join(chain: &mut Chain, i: u8, amount: Amount) {
    let operator = account_key(i % 8);
    let (node_key, bls) = node_keys(16).swap_remove(i.into());
    let identity = NodeIdentity::new(&chain.id(), &id(&operator), &node_key, &bls);
    let entry = Operation::RegisterNode { identity: Box::new(identity), settings: settings(0) };
    let stake = Operation::Stake { node: node_key.public(), amount };
    commit(chain, &operator, vec![entry, stake]);
    chain.add_keys(node_key, bls);
}

/// The operator of node `i` takes out all but `left` FROST.
fn unstake_to(chain: &mut Chain, i: usize, left: u128) {
    fund(chain, i, 1_000_000);
    let stake = worth(chain, &operator_key(i), &key(i));
    let keep = left * 1_000_000;
    let unstake = Operation::Unstake { node: key(i), shares: stake.shares - keep };
    commit(chain, &operator_key(i), vec![unstake]);
}

/// What happens before the selection of an epoch.
type Before = fn(&mut Chain);

/// What happens, and who is selected then.
fn selections() -> [(&'static str, Before, &'static [usize]); 8] {
    [
        (
            "all that are ready",
            |chain| report_ready(chain, &[0, 1, 2, 3, 4, 5]),
            &[0, 1, 2, 3, 4, 5],
        ),
        ("not who said nothing", |chain| report_ready(chain, &[0, 1, 2, 4, 5]), &[0, 1, 2, 4, 5]),
        (
            "not who has too little stake by now",
            |chain| {
                report_ready(chain, &[0, 1, 2, 3, 4, 5]);
                unstake_to(chain, 2, 99_999_999_999);
            },
            &[0, 1, 3, 4, 5],
        ),
        (
            "but who has just enough",
            |chain| {
                unstake_to(chain, 2, 100_000_000_000);
                report_ready(chain, &[0, 1, 2, 3]);
            },
            &[0, 1, 2, 3],
        ),
        (
            "nobody in jail",
            |chain| {
                report_ready(chain, &[0, 1, 2, 3, 4, 5]);
                let offence = offence(chain, 4, 1);
                chain.commit_system(&[offence]);
            },
            &[0, 1, 2, 3, 5],
        ),
        (
            "a newcomer with more stake than a seat costs",
            |chain| {
                join(chain, 6, Amount::from_wal(600));
                report_ready(chain, &[0, 1, 3, 4, 6]);
            },
            &[0, 1, 3, 4, 6],
        ),
        (
            "not the eighth for seven shards",
            |chain| {
                join(chain, 6, Amount::from_wal(999));
                join(chain, 7, Amount::from_wal(400));
                report_ready(chain, &[0, 1, 2, 3, 4, 5, 6, 7]);
            },
            &[0, 1, 2, 3, 4, 5, 6],
        ),
        ("all stay if too few stand", |chain| report_ready(chain, &[0, 1, 2]), &[0, 1, 2, 3, 4, 5]),
    ]
}

#[test]
fn who_is_selected() {
    for (what, before, expected) in selections() {
        let mut chain = six();
        before(&mut chain);
        let stays = chain.state.committee().in_epoch(Epoch::new(1));
        let executed = to_deadline(&mut chain);
        let formed = what != "all stay if too few stand";
        assert_eq!(selected(&executed), Some(formed), "{what}");
        assert_eq!(epoch(&chain), 0, "{what}");
        let committee = next(&chain).unwrap();
        to_deadline(&mut chain);
        assert_eq!(epoch(&chain), 1, "{what}");
        assert_eq!(**chain.state.committee(), committee, "{what}");
        assert!(formed || committee == stays, "{what}");
        assert_eq!(members(&chain), expected, "{what}");
        for (shard, record) in (0..N).zip(shards(&chain)) {
            let moved = holder_in(&stays, shard) != holder(&chain, shard);
            assert_eq!(record.is_ready(), !moved, "{what}: shard {shard}");
            assert_eq!(record.last_ready, holder_in(&stays, shard), "{what}: shard {shard}");
        }
        // The new members write and vote at once.
        for _ in 0..8 {
            chain.commit(&[]);
        }
    }
}

/// A block after which the next one records only the precommits of the nodes but `absent`.
fn commit_without(chain: &mut Chain, absent: NodeId) {
    let position = chain.state.committee().position(&absent).unwrap();
    chain.commit(&[]);
    let (_, certificate) = chain.blocks.last_mut().unwrap();
    certificate.signatures.retain(|signature| usize::from(signature.position) != position);
}

#[test]
fn who_votes_for_less_than_half_of_the_heights_is_left_out() {
    // Heights voted for and missed, of the first; the last hundred are still open.
    for (voted, missed, stays) in [(10, 10, true), (9, 11, false), (0, 1, false), (20, 0, true)] {
        let mut chain = Chain::new(&genesis(6, N));
        for _ in 0..voted {
            chain.commit(&[]);
        }
        for _ in 0..missed {
            commit_without(&mut chain, key(3));
        }
        // What is open does not count, not even if nobody is there.
        for _ in 0..98 {
            commit_without(&mut chain, key(3));
        }
        report_ready(&mut chain, &[0, 1, 2, 3, 4, 5]);
        to_deadline(&mut chain);
        let in_next = next(&chain).unwrap().member(&key(3)).is_some();
        assert_eq!(in_next, stays, "{voted} voted for, {missed} missed");
    }
}

#[test]
fn a_late_precommit_counts_as_well_as_any() {
    let mut chain = Chain::new(&genesis(6, N));
    for _ in 0..20 {
        commit_without(&mut chain, key(3));
    }
    let late: Vec<_> = (1..=7).map(|height| late(&chain, height, key(3))).collect();
    chain.commit(&[]);
    let record = floe_protocol::ledger::CommitRecord { late, ..chain.commit_record() };
    let proposal = floe_protocol::ledger::Proposal { commit_record: record, ..chain.proposal() };
    let proposed =
        chain.state.propose(&chain.store, proposal, (&[], &|_| false), &mut |_| None).unwrap();
    let block = proposed.block;
    chain.apply(&block).unwrap();
    for _ in 0..90 {
        chain.commit(&[]);
    }
    // Of the first 13 heights 7 are recorded.
    report_ready(&mut chain, &[0, 1, 2, 3, 4, 5]);
    to_deadline(&mut chain);
    assert!(next(&chain).unwrap().member(&key(3)).is_some());
}

fn late(chain: &Chain, height: u64, voter: NodeId) -> floe_protocol::ledger::LatePrecommit {
    use floe_protocol::{
        index::Height,
        ledger::LatePrecommit,
        vote::{Vote, VoteKind},
    };
    let block = chain.blocks[usize::try_from(height).unwrap() - 1].0.header.hash();
    let position = chain.state.committee().position(&voter).unwrap();
    let (height, kind) = (Height::new(height), VoteKind::Precommit);
    let vote = Vote { height, round: 0, kind, block: Some(block), voter };
    let keys = node_keys(16);
    let (key, _) = keys.iter().find(|(key, _)| key.public() == voter).unwrap();
    let signature = vote.sign(&chain.id(), key).signature;
    LatePrecommit { height, round: 0, position: u16::try_from(position).unwrap(), signature }
}

#[test]
fn a_node_without_enough_stake_cannot_report() {
    let mut chain = six();
    join(&mut chain, 6, Amount::from_wal(99));
    let operation = chain.node_ready(&node_keys(16)[6].0);
    let (stake, min) = (Amount::from_wal(99), Amount::from_wal(100));
    assert_eq!(system_refused(&chain, operation.clone()), OperationError::MinStake { stake, min });
    let more = Operation::Stake { node: key(6), amount: Amount::from_wal(1) };
    commit(&mut chain, &account_key(0), vec![more]);
    chain.commit_system(&[operation]);
}

#[test]
fn stake_made_after_the_selection_counts_in_the_next() {
    let mut chain = six();
    join(&mut chain, 6, Amount::from_wal(60));
    let late = Operation::Stake { node: key(6), amount: Amount::from_wal(50) };
    report_ready(&mut chain, &[0, 1, 2, 3, 4, 5]);
    to_deadline(&mut chain);
    commit(&mut chain, &account_key(1), vec![late]);
    let operation = chain.node_ready(&node_keys(16)[6].0);
    assert!(matches!(system_refused(&chain, operation), OperationError::MinStake { .. }));
    let incoming = node(&chain, &key(6)).incoming;
    assert_eq!(incoming.iter().map(|i| i.epoch.get()).collect::<Vec<_>>(), [1, 2]);
    to_deadline(&mut chain);
    report_ready(&mut chain, &[0, 1, 2, 6]);
    // Only half of it is in the pool, but all of it is when the epoch begins.
    assert_eq!(node(&chain, &key(6)).pool.stake, Amount::from_wal(60));
    to_deadline(&mut chain);
    to_deadline(&mut chain);
    assert_eq!((epoch(&chain), members(&chain)), (2, vec![0, 1, 2, 6]));
}

/// A chain in epoch 1 that lacks the two members who held three shards before; the others have
/// not reported these ready.
pub(crate) fn three_of_seven_moved() -> (Chain, Committee, [usize; 2]) {
    let mut chain = six();
    let before = Committee::clone(chain.state.committee());
    let weight = |i: &usize| before.member(&key(*i)).unwrap().weight();
    let two = (0..6).find(|i| weight(i) == 2).unwrap();
    let one = (0..6).find(|i| weight(i) == 1).unwrap();
    let others: Vec<_> = (0..6).filter(|i| ![one, two].contains(i)).collect();
    report_ready(&mut chain, &others);
    to_deadline(&mut chain);
    to_deadline(&mut chain);
    assert_eq!((epoch(&chain), members(&chain)), (1, others));
    assert_eq!(ready(&chain), 4, "no quorum of seven");
    (chain, before, [one, two])
}

/// The time since the epoch began, in half durations, and nothing is due at once.
fn halves(chain: &Chain) -> u64 {
    let wait = chain.state.epoch_wait().unwrap();
    assert!(!wait.is_zero(), "no block is asked for at once");
    let passed = chain.state.tip().time.ms_since(chain.state.summary().epoch_start);
    passed * 2 / chain.state.parameters().ledger.epoch_ms
}

#[test]
fn an_epoch_stretches_until_shards_are_ready_and_ends_with_the_report() {
    let (mut chain, _, _) = three_of_seven_moved();
    report_ready(&mut chain, &[0, 1, 2, 3, 4, 5]);
    for half in 1..=3 {
        let executed = to_deadline(&mut chain);
        assert_eq!(selected(&executed), Some(true), "half {half}");
        assert_eq!((epoch(&chain), halves(&chain)), (1, half));
        assert_eq!(u64::from(chain.state.summary().selections), half);
        // Nothing more happens before the next.
        chain.now = chain.now.plus_ms(1_000);
        assert_eq!(selected(&chain.commit(&[])), None);
        assert_eq!(epoch(&chain), 1);
    }
    // One more ready shard makes the quorum: the block that carries the report ends the epoch.
    let gainers: Vec<_> = members(&chain);
    let gainer = gainers.into_iter().find_map(|i| report_shards(&mut chain, &[i]));
    let events = gainer.unwrap().events;
    assert!(events.iter().any(|e| matches!(e, Event::ShardsCompleted { .. })));
    assert!(events.iter().any(|e| matches!(e, Event::EpochChanged { epoch } if epoch.get() == 2)));
    assert_eq!(epoch(&chain), 2);
}

#[test]
fn shards_return_after_two_durations_to_who_had_them() {
    let (mut chain, before, back) = three_of_seven_moved();
    report_ready(&mut chain, &[0, 1, 2, 3, 4, 5]);
    for _ in 1..=3 {
        to_deadline(&mut chain);
    }
    assert_eq!(epoch(&chain), 1);
    let executed = to_deadline(&mut chain);
    assert_eq!(selected(&executed), Some(true));
    assert_eq!((epoch(&chain), members(&chain)), (2, vec![0, 1, 2, 3, 4, 5]));
    for shard in 0..N {
        let was = holder_in(&before, shard);
        if back.map(key).contains(&was) {
            assert_eq!(holder(&chain, shard), was, "shard {shard}");
            let record = &shards(&chain)[usize::from(shard)];
            assert_eq!((record.is_ready(), record.last_ready), (false, was));
        }
    }
    assert_eq!(ready(&chain), 4, "what was certified meanwhile is not there yet");
    report_shards(&mut chain, &[0, 1, 2, 3, 4, 5]);
    assert_eq!(ready(&chain), 7);
    chain.next_epoch();
    assert_eq!(epoch(&chain), 3);
}

#[test]
fn without_a_quorum_an_epoch_never_ends() {
    let (mut chain, _, gone) = three_of_seven_moved();
    let there: Vec<_> = (0..6).filter(|i| !gone.contains(i)).collect();
    report_ready(&mut chain, &there);
    for half in 1..=12 {
        let executed = to_deadline(&mut chain);
        assert_eq!(selected(&executed), Some(true), "half {half}");
        assert_eq!((epoch(&chain), halves(&chain)), (1, half));
    }
    // A ledger that stood still for long goes on where time is, not where it stopped.
    let duration = chain.state.parameters().ledger.epoch_ms;
    chain.now = chain.now.plus_ms(10 * duration);
    assert_eq!(selected(&chain.commit(&[])), None, "nobody who is back could report yet");
    let executed = to_deadline(&mut chain);
    assert_eq!(selected(&executed), Some(true), "one selection for all that were missed");
    assert!(halves(&chain) >= 32);
    // A jailed interim holder changes nothing; once one of the others is back the epoch ends.
    report_ready(&mut chain, &gone[1..]);
    to_deadline(&mut chain);
    assert_eq!(epoch(&chain), 2);
}

#[test]
fn a_selection_that_fails_while_an_epoch_stretches_leaves_shards_where_they_are() {
    let (mut chain, _, gone) = three_of_seven_moved();
    let stays = chain.state.committee().in_epoch(Epoch::new(2));
    // Only those who are gone follow the ledger.
    report_ready(&mut chain, &gone);
    for half in 1..=5 {
        assert_eq!(selected(&to_deadline(&mut chain)), Some(false), "half {half}");
        assert_eq!(next(&chain).as_ref(), Some(&stays));
    }
    assert_eq!(epoch(&chain), 1);
    let all = members(&chain);
    report_shards(&mut chain, &all);
    assert_eq!(epoch(&chain), 2);
    assert_eq!(**chain.state.committee(), stays);
    assert_eq!(ready(&chain), 7);
}

#[test]
fn a_member_that_left_comes_back_and_everybody_loads_the_same_state() {
    let rules = genesis(6, N);
    let (start, _) = State::genesis(&rules).unwrap();
    let mut chain = Chain::new(&rules);
    chain.commit(&[]);
    for who in [&[0, 1, 2, 3, 4][..], &[1, 2, 3, 4, 5], &[0, 1, 2, 3, 4, 5], &[0, 1, 2]] {
        let running = epoch(&chain);
        report_ready(&mut chain, who);
        loop {
            let loaded = {
                let header = chain.blocks.last().unwrap().0.header;
                State::load(&start, &header, &chain.store).unwrap()
            };
            assert_eq!(loaded.committee(), chain.state.committee());
            assert_eq!(loaded.previous_committee(), chain.state.previous_committee());
            assert_eq!(loaded.summary(), chain.state.summary());
            assert_eq!(loaded.epoch_deadline(), chain.state.epoch_deadline());
            if epoch(&chain) > running {
                break;
            }
            to_deadline(&mut chain);
        }
        let expected = if who.len() < 4 { &[0, 1, 2, 3, 4, 5][..] } else { who };
        assert_eq!(members(&chain), expected);
        // Who left is no proposer and no voter any more.
        for _ in 0..7 {
            chain.commit(&[]);
        }
        let all = members(&chain);
        report_shards(&mut chain, &all);
    }
    assert_eq!(epoch(&chain), 4);
}

#[test]
fn a_selected_committee_is_not_yet_the_one_that_is_punished_or_asked() {
    let mut chain = six();
    join(&mut chain, 6, Amount::from_wal(900));
    report_ready(&mut chain, &[0, 1, 2, 3, 4, 6]);
    to_deadline(&mut chain);
    assert!(next(&chain).unwrap().member(&key(6)).is_some());
    assert_eq!(chain.state.committee().epoch(), Epoch::new(0));
    let offence = offence(&chain, 6, chain.state.tip().height.get());
    assert_eq!(system_refused(&chain, offence), OperationError::NotPunishable);
    to_deadline(&mut chain);
    chain.commit(&[]);
    let height = chain.state.tip().height.get();
    let offence = super::staking::offence(&chain, 6, height);
    chain.commit_system(&[offence]);
    // Who has left is punished for what it did as a member, not for later.
    let offence = super::staking::offence(&chain, 5, height);
    assert_eq!(system_refused(&chain, offence), OperationError::NotPunishable);
    let offence = super::staking::offence(&chain, 5, 2);
    chain.commit_system(&[offence]);
}

#[test]
fn a_slashed_node_below_the_least_stake_is_not_selected() {
    let mut rules = genesis(6, 64);
    rules.members[3].stake_wal = 104;
    let mut chain = Chain::new(&rules);
    chain.commit(&[]);
    let offence = offence(&chain, 3, 1);
    chain.commit_system(&[offence]);
    fund(&mut chain, 3, 1_000_000);
    let keys = node_keys(16);
    let operation = chain.node_ready(&keys[3].0);
    let error = system_refused(&chain, operation);
    assert!(matches!(error, OperationError::MinStake { .. }), "104 - 5 % of it: {error:?}");
    for _ in 0..2 {
        report_ready(&mut chain, &[0, 1, 2, 4, 5]);
        to_deadline(&mut chain);
        to_deadline(&mut chain);
        let all = members(&chain);
        report_shards(&mut chain, &all);
    }
    commit(&mut chain, &operator_key(3), vec![Operation::Unjail { node: key(3) }]);
    let operation = chain.node_ready(&keys[3].0);
    assert!(matches!(system_refused(&chain, operation), OperationError::MinStake { .. }));
}

#[test]
fn prices_are_those_that_the_next_committee_votes_for() {
    let mut chain = six();
    for i in [6, 7, 8, 9] {
        join(&mut chain, i, Amount::from_wal(300));
        let dear = floe_protocol::ledger::NodeSettings {
            storage_price: frost(777),
            write_price: frost(7),
            capacity_units: 5,
            ..settings(0)
        };
        let update = Operation::UpdateNode { node: key(i.into()), settings: dear };
        commit(&mut chain, &account_key(i % 8), vec![update]);
    }
    report_ready(&mut chain, &[6, 7, 8, 9]);
    to_deadline(&mut chain);
    to_deadline(&mut chain);
    assert_eq!(members(&chain), [6, 7, 8, 9]);
    let prices = chain.state.summary().prices;
    assert_eq!((prices.storage, prices.write, prices.capacity_units), (frost(777), frost(7), 5));
    assert_eq!(ready(&chain), 0, "all shards have moved");
}
