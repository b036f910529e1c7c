//! The registry of nodes, pools, and what equivocation costs.

use floe_protocol::{
    hash::Hash,
    index::{Epoch, Height},
    keys::{BlsKeyPair, BlsPublicKey, BlsSignature, KeyPair, NodeId},
    ledger::{
        Amount, BlockHash, Event, IndexRange, Key, NodeIdentity, NodeSettings, Operation,
        OperationError, Record, Stake, StateReader as _, SystemOperation,
    },
    test_support::{Chain, account_key, genesis, node_keys, operator_key},
    vote::{Equivocation, EquivocationError, Vote, VoteKind},
};
use proptest::prelude::*;

use super::{N, chain, commit, fails, frost, id, node, propose, system_refused, worth};

fn settings() -> NodeSettings {
    NodeSettings {
        addresses: Vec::new(),
        commission_bps: 0,
        storage_price: frost(1),
        write_price: frost(1),
        capacity_units: 1,
    }
}

fn member(i: usize) -> NodeId {
    node_keys(4)[i].0.public()
}

fn stake_of(chain: &Chain, account: &KeyPair, node: &NodeId) -> Stake {
    match chain.record(&Key::Stake(id(account), *node)) {
        Some(Record::Stake(stake)) => stake,
        _ => Stake::default(),
    }
}

/// Stakes, and lets the epoch come in which it is in the pool; all shares of the account.
fn staked(chain: &mut Chain, key: &KeyPair, node: &NodeId, amount: Amount) -> u128 {
    commit(chain, key, vec![Operation::Stake { node: *node, amount }]);
    let active = stake_of(chain, key, node).incoming[0].epoch;
    while chain.state.summary().epoch < active {
        chain.next_epoch();
    }
    worth(chain, key, node).shares
}

fn vote(height: u64, round: u32, kind: VoteKind, block: Option<u8>) -> Vote {
    let block = block.map(|byte| BlockHash::new(Hash::new([byte; 32])));
    Vote { height: Height::new(height), round, kind, block, voter: member(0) }
}

/// Two votes of `key`, which may be somebody else's than they say.
fn report(chain: &Chain, votes: [Vote; 2], key: &KeyPair) -> SystemOperation {
    let [first, second] = votes.map(|vote| vote.sign(&chain.id(), key));
    SystemOperation::ReportEquivocation { equivocation: Equivocation { first, second } }
}

/// Both precommits of node `i` at `height`.
pub(super) fn offence(chain: &Chain, i: usize, height: u64) -> SystemOperation {
    let key = &node_keys(16)[i].0;
    let vote = |block| Vote { voter: key.public(), ..vote(height, 0, VoteKind::Precommit, block) };
    report(chain, [vote(Some(1)), vote(None)], key)
}

fn punish(chain: &mut Chain, operation: SystemOperation) {
    let (block, _, _) = propose(chain, std::slice::from_ref(&operation), &[]);
    assert_eq!(block.body.system, [operation]);
    chain.apply(&block).unwrap();
}

#[test]
fn a_node_registers_with_the_consent_of_both_keys() {
    let mut chain = chain();
    let (key, other) = (account_key(0), account_key(1));
    let (node_key, bls) = (KeyPair::from_seed([50; 32]), BlsKeyPair::from_seed([50; 32]));
    let (other_node, other_bls) = (KeyPair::from_seed([51; 32]), BlsKeyPair::from_seed([51; 32]));
    let good = NodeIdentity::new(&chain.id(), &id(&key), &node_key, &bls);
    let entry =
        |identity| Operation::RegisterNode { identity: Box::new(identity), settings: settings() };
    let elsewhere = genesis(5, N).chain_id();
    let identity_of = |node, bls| NodeIdentity::new(&chain.id(), &id(&key), node, bls);
    let mut infinity = [0; 48];
    infinity[0] = 0xc0;
    let mut no_signature = [0; 96];
    no_signature[0] = 0xc0;
    let copied = identity_of(&other_node, &bls);
    for (what, identity) in [
        ("for another operator", NodeIdentity::new(&chain.id(), &id(&other), &node_key, &bls)),
        ("for another network", NodeIdentity::new(&elsewhere, &id(&key), &node_key, &bls)),
        ("no possession", NodeIdentity { bls_possession: good.bls_signature, ..good }),
        (
            "another node's possession",
            NodeIdentity { bls_possession: copied.bls_possession, ..good },
        ),
        ("a copied BLS key", NodeIdentity { bls_key: other_bls.public(), ..good }),
        (
            "a copied BLS key with its possession",
            NodeIdentity {
                bls_key: other_bls.public(),
                bls_possession: other_bls.prove_possession(&other_node.public()),
                bls_signature: good.bls_signature,
                ..good
            },
        ),
        ("another node key", NodeIdentity { node: other_node.public(), ..good }),
        ("another signature", NodeIdentity { node_signature: copied.node_signature, ..good }),
        (
            "the identity",
            NodeIdentity {
                bls_key: BlsPublicKey::new(infinity),
                bls_signature: BlsSignature::new(no_signature),
                bls_possession: BlsSignature::new(no_signature),
                ..good
            },
        ),
        ("no points", NodeIdentity { bls_key: BlsPublicKey::new([0; 48]), ..good }),
        ("a node key of low order", NodeIdentity { node: NodeId::new([0; 32]), ..good }),
    ] {
        assert_eq!(fails(&chain, &key, entry(identity)), OperationError::Identity, "{what}");
    }
    assert_eq!(fails(&chain, &other, entry(good)), OperationError::Identity, "somebody else");
    commit(&mut chain, &key, vec![entry(good)]);
    let registered = node(&chain, &node_key.public());
    assert_eq!(registered.operator, id(&key));
    assert_eq!(registered.pool.stake, Amount::ZERO);
    // Each key belongs to one node for ever.
    assert_eq!(fails(&chain, &key, entry(good)), OperationError::KeyTaken);
    for (node_key, bls) in [(&node_key, &other_bls), (&other_node, &bls)] {
        let theirs = NodeIdentity::new(&chain.id(), &id(&other), node_key, bls);
        assert_eq!(fails(&chain, &other, entry(theirs)), OperationError::KeyTaken);
    }
    let range = IndexRange::registered();
    assert_eq!(chain.store.index(&range.start..&range.end, 9).unwrap().len(), 5);
}

#[test]
fn only_the_operator_runs_a_node() {
    let chain = chain();
    let key = account_key(0);
    let owner = id(&operator_key(0));
    let update = |node| Operation::UpdateNode { node, settings: settings() };
    for operation in [update(member(0)), Operation::Unjail { node: member(0) }] {
        assert_eq!(fails(&chain, &key, operation), OperationError::NotOwner { owner });
    }
    let absent = NodeId::new([9; 32]);
    for operation in [
        update(absent),
        Operation::Unjail { node: absent },
        Operation::Stake { node: absent, amount: frost(1) },
        Operation::Unstake { node: absent, shares: 1 },
        Operation::Withdraw { node: absent },
    ] {
        assert_eq!(fails(&chain, &key, operation), OperationError::NoNode);
    }
}

#[test]
fn stake_is_paid_after_unbonding() {
    let mut chain = chain();
    let (key, target) = (account_key(0), member(0));
    let amount = Amount::from_wal(10);
    let shares = staked(&mut chain, &key, &target, amount);
    let unstake = |shares| Operation::Unstake { node: target, shares };
    let withdraw = Operation::Withdraw { node: target };
    for shares in [shares + 1, u128::MAX] {
        assert_eq!(fails(&chain, &key, unstake(shares)), OperationError::Shares);
    }
    assert_eq!(fails(&chain, &key, unstake(1)), OperationError::Shares, "worth nothing");
    assert_eq!(fails(&chain, &account_key(1), unstake(1)), OperationError::Shares);
    assert_eq!(fails(&chain, &key, withdraw.clone()), OperationError::NothingUnbonded);
    let half = shares / 2;
    commit(&mut chain, &key, vec![unstake(half / 2), unstake(half - half / 2)]);
    let pending = stake_of(&chain, &key, &target).unbonding;
    assert_eq!(pending.len(), 1, "of one epoch");
    assert_eq!(pending[0].until, Epoch::new(4));
    for epoch in 1..4 {
        assert_eq!(chain.state.summary().epoch, Epoch::new(epoch));
        assert_eq!(fails(&chain, &key, withdraw.clone()), OperationError::NothingUnbonded);
        chain.next_epoch();
    }
    let before = chain.balance(&id(&key));
    commit(&mut chain, &key, vec![withdraw.clone()]);
    let paid = chain.balance(&id(&key)).frost() + 10_000 - before.frost();
    assert!((4_999_999_990..=5_000_000_000).contains(&paid), "{paid}");
    assert_eq!(fails(&chain, &key, withdraw), OperationError::NothingUnbonded, "paid once");
    let rest = stake_of(&chain, &key, &target).shares;
    commit(&mut chain, &key, vec![unstake(rest)]);
    for _ in 0..3 {
        chain.next_epoch();
    }
    commit(&mut chain, &key, vec![Operation::Withdraw { node: target }]);
    assert_eq!(chain.record(&Key::Stake(id(&key), target)), None, "nothing is left of it");
    let range = IndexRange::staked(&id(&key));
    assert_eq!(chain.store.index(&range.start..&range.end, 9).unwrap().len(), 0);
}

#[test]
fn stake_unbonds_for_the_same_time_after_the_last_epoch_that_it_backs() {
    for selected in [false, true] {
        let mut chain = chain();
        let (key, target) = (account_key(0), member(0));
        let shares = staked(&mut chain, &key, &target, Amount::from_wal(10));
        let running = chain.state.summary().epoch;
        if selected {
            // The next committee counts the stake as it was here.
            super::to_deadline(&mut chain);
            assert_eq!(chain.state.summary().epoch, running);
        }
        let executed =
            commit(&mut chain, &key, vec![Operation::Unstake { node: target, shares: shares / 2 }]);
        let last_backed = running.plus(u64::from(selected));
        let until = last_backed.plus(1 + 2);
        let pending = &stake_of(&chain, &key, &target).unbonding;
        assert_eq!(pending.iter().map(|unbonding| unbonding.until).collect::<Vec<_>>(), [until]);
        let said = executed.events.iter().any(
            |event| matches!(event, Event::Unstaked { until: until_said, .. } if *until_said == until),
        );
        assert!(said);
        // An offence in the last epoch that it backed costs it its part as long as it is there.
        while chain.state.summary().epoch < last_backed {
            chain.next_epoch();
        }
        chain.commit(&[]);
        let height = chain.state.tip().height.get();
        while chain.state.summary().epoch.plus(1) < until {
            chain.next_epoch();
        }
        let withdraw = Operation::Withdraw { node: target };
        assert_eq!(fails(&chain, &key, withdraw.clone()), OperationError::NothingUnbonded);
        let before = node(&chain, &target).unbonding.stake.frost();
        let offence = offence(&chain, 0, height);
        punish(&mut chain, offence);
        let after = node(&chain, &target).unbonding.stake.frost();
        assert_eq!(before - after, before * 500 / 10_000, "selected: {selected}");
        chain.next_epoch();
        commit(&mut chain, &key, vec![withdraw]);
    }
}

#[test]
fn unbondings_are_bounded() {
    let mut long = genesis(4, N);
    long.ledger.unbonding_epochs = 100;
    let mut chain = Chain::new(&long);
    let (key, target) = (account_key(0), member(0));
    let amount = Amount::from_wal(10);
    staked(&mut chain, &key, &target, amount);
    let unstake = Operation::Unstake { node: target, shares: 1_000_000_000 };
    for _ in 0..32 {
        commit(&mut chain, &key, vec![unstake.clone()]);
        chain.next_epoch();
    }
    assert_eq!(fails(&chain, &key, unstake), OperationError::TooManyUnbondings);
}

#[test]
fn nobody_makes_a_share_too_dear_for_the_next() {
    let mut chain = chain();
    let (attacker, victim) = (account_key(0), account_key(1));
    let (node_key, bls) = (KeyPair::from_seed([50; 32]), BlsKeyPair::from_seed([50; 32]));
    let target = node_key.public();
    let identity = NodeIdentity::new(&chain.id(), &id(&attacker), &node_key, &bls);
    let entry = Operation::RegisterNode { identity: Box::new(identity), settings: settings() };
    // First with the smallest stake, then with nearly all of it taken out again.
    commit(&mut chain, &attacker, vec![entry]);
    let shares = staked(&mut chain, &attacker, &target, frost(1));
    let all_but_one = Operation::Unstake { node: target, shares: shares - 1 };
    let left = chain.sign(&attacker, vec![all_but_one]);
    assert_eq!(propose(&chain, &[], &[left]).2, [OperationError::Shares]);
    staked(&mut chain, &attacker, &target, Amount::from_wal(900));
    let small = staked(&mut chain, &victim, &target, frost(7));
    let pool = node(&chain, &target).pool;
    let worth = pool.worth(small).unwrap();
    assert!((6..=7).contains(&worth.frost()), "{worth:?}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, cases: 24, ..ProptestConfig::default()
    })]

    /// Any order of stakes, unstakes and slashes pays out at most what came in.
    #[test]
    fn rounding_never_makes_wal(
        steps in proptest::collection::vec((0..3_u8, 0..3_usize, 1..1_000_000_007_u128), 1..24),
    ) {
        let mut chain = chain();
        let target = member(0);
        for (kind, who, size) in steps {
            let key = account_key(u8::try_from(who).unwrap());
            let pool = node(&chain, &target).pool;
            let owned = worth(&chain, &key, &target).shares;
            let shares = owned.min(size * 1_000_000);
            let worth = pool.worth(shares).unwrap();
            match kind {
                0 => {
                    let minted = staked(&mut chain, &key, &target, frost(size)) - owned;
                    let now = node(&chain, &target).pool.worth(minted).unwrap();
                    prop_assert!(now.frost() <= size && size - now.frost() <= 1);
                }
                1 if worth.frost() > 0 => {
                    let unstake = Operation::Unstake { node: target, shares };
                    commit(&mut chain, &key, vec![unstake]);
                    let after = node(&chain, &target);
                    let unbonding = stake_of(&chain, &key, &target).unbonding;
                    let pending: u128 = unbonding.iter().map(|u| u.shares).sum();
                    prop_assert!(after.unbonding.worth(pending).unwrap() <= after.unbonding.stake);
                    prop_assert_eq!(pool.stake.checked_sub(worth), Some(after.pool.stake));
                }
                2 => {
                    let offence = offence(&chain, 0, chain.state.tip().height.get());
                    let (block, _, _) = propose(&chain, &[offence], &[]);
                    chain.apply(&block).unwrap();
                }
                _ => {}
            }
            prop_assert_eq!(chain.state.summary().supply.total(), Some(chain.state.parameters().supply));
        }
    }
}

#[test]
fn equivocation_burns_a_part_of_all_stake_and_jails() {
    let mut chain = chain();
    let (key, target) = (account_key(0), member(0));
    let shares = staked(&mut chain, &key, &target, Amount::from_wal(1_000 - 1));
    commit(&mut chain, &key, vec![Operation::Unstake { node: target, shares: shares / 3 }]);
    let before = node(&chain, &target);
    let operation = offence(&chain, 0, chain.state.tip().height.get());
    punish(&mut chain, operation.clone());
    let after = node(&chain, &target);
    let burned = |before: Amount| frost(before.frost() * 500 / 10_000);
    let (staked, unbonding) = (burned(before.pool.stake), burned(before.unbonding.stake));
    assert!(unbonding > Amount::from_wal(16), "what is on its way out pays too");
    assert_eq!(after.pool.stake.checked_add(staked), Some(before.pool.stake));
    assert_eq!(after.unbonding.stake.checked_add(unbonding), Some(before.unbonding.stake));
    assert_eq!(after.jailed, Some(Epoch::new(1)));
    let supply = chain.state.summary().supply;
    assert_eq!(Some(supply.burned), staked.checked_add(unbonding));
    assert_eq!(supply.total(), Some(chain.state.parameters().supply));
    assert_eq!(chain.state.committee().member(&target).unwrap().weight(), 2, "it keeps its duties");
    // Once in an epoch, whatever else it did in it.
    assert_eq!(system_refused(&chain, operation), OperationError::Punished);
    let height = chain.state.tip().height.get();
    let another = report(
        &chain,
        [vote(height, 3, VoteKind::Prevote, Some(1)), vote(height, 3, VoteKind::Prevote, Some(2))],
        &node_keys(4)[0].0,
    );
    assert_eq!(system_refused(&chain, another), OperationError::Punished);
    let twice = [offence(&chain, 1, height), offence(&chain, 1, height - 1)];
    let (block, _, _) = propose(&chain, &twice, &[]);
    assert_eq!(block.body.system, twice[..1], "nor twice in a block");
    // Again in the next.
    chain.next_epoch();
    let height = chain.state.tip().height.get() + 1;
    let operation = offence(&chain, 0, height);
    punish(&mut chain, operation);
    assert_eq!(node(&chain, &target).jailed, Some(Epoch::new(2)));
    // Who withdraws shares the loss.
    for _ in 0..2 {
        chain.next_epoch();
    }
    let balance = chain.balance(&id(&key));
    commit(&mut chain, &key, vec![Operation::Withdraw { node: target }]);
    let paid = chain.balance(&id(&key)).frost() + 10_000 - balance.frost();
    let expected = 333_000_000_000 * 95 / 100 * 95 / 100;
    assert!(paid <= expected && expected - paid < 100, "{paid}");
}

#[test]
fn only_two_contradicting_votes_of_a_recent_member_are_punished() {
    use VoteKind::{Precommit, Prevote};
    let mut chain = chain();
    let key = &node_keys(4)[0].0;
    chain.commit(&[]);
    let good = [vote(1, 0, Precommit, Some(1)), vote(1, 0, Precommit, Some(2))];
    let conflict = OperationError::Equivocation(EquivocationError::NoConflict);
    for (what, second) in [
        ("the same", good[0]),
        ("another height", vote(2, 0, Precommit, Some(2))),
        ("another round", vote(1, 1, Precommit, Some(2))),
        ("another step", vote(1, 0, Prevote, Some(2))),
        ("another voter", Vote { voter: member(1), ..good[1] }),
    ] {
        let operation = report(&chain, [good[0], second], key);
        assert_eq!(system_refused(&chain, operation), conflict, "{what}");
    }
    let forged = report(&chain, good, &node_keys(4)[1].0);
    let signature = OperationError::Equivocation(EquivocationError::Signature);
    assert_eq!(system_refused(&chain, forged), signature);
    let elsewhere = Chain::new(&genesis(5, N));
    assert_eq!(system_refused(&chain, report(&elsewhere, good, key)), signature);
    let stranger = KeyPair::from_seed([50; 32]);
    let strange = good.map(|vote| Vote { voter: stranger.public(), ..vote });
    let error = OperationError::NotPunishable;
    assert_eq!(system_refused(&chain, report(&chain, strange, &stranger)), error);
    for height in [0, 3, u64::MAX] {
        let votes = good.map(|vote| Vote { height: Height::new(height), ..vote });
        assert_eq!(system_refused(&chain, report(&chain, votes, key)), error, "height {height}");
    }
    // Unbonding takes two epochs beside the running one; so long it can be punished.
    for _ in 0..3 {
        chain.next_epoch();
    }
    let operation = report(&chain, good, key);
    assert_eq!(
        propose(&chain, std::slice::from_ref(&operation), &[]).0.body.system,
        std::slice::from_ref(&operation)
    );
    chain.next_epoch();
    assert_eq!(system_refused(&chain, operation), error, "too old");
}

#[test]
fn a_jail_term_is_served() {
    let mut chain = chain();
    let (operator, target) = (operator_key(0), member(0));
    let to = id(&operator);
    let amount = Amount::from_wal(2);
    commit(&mut chain, &account_key(0), vec![Operation::Transfer { to, amount }]);
    let unjail = Operation::Unjail { node: target };
    let fails = |chain: &Chain| {
        let signed = chain.sign(&operator, vec![unjail.clone()]);
        super::refused(chain, &signed)
    };
    assert_eq!(fails(&chain), OperationError::Jail, "it is free");
    let operation = offence(&chain, 0, 1);
    punish(&mut chain, operation);
    for _ in 0..2 {
        assert_eq!(fails(&chain), OperationError::Jail);
        chain.next_epoch();
    }
    commit(&mut chain, &operator, vec![unjail.clone()]);
    assert_eq!(node(&chain, &target).jailed, None);
    assert_eq!(fails(&chain), OperationError::Jail);
}

#[test]
fn a_pool_slashed_to_nothing_is_closed() {
    let mut harsh = genesis(4, N);
    harsh.ledger.equivocation_slash_bps = 10_000;
    let mut chain = Chain::new(&harsh);
    let (key, target) = (account_key(0), member(0));
    let stake = Operation::Stake { node: target, amount: Amount::from_wal(10) };
    staked(&mut chain, &key, &target, Amount::from_wal(10));
    let pool = node(&chain, &target).pool.stake;
    assert!(pool >= Amount::from_wal(1_010));
    let operation = offence(&chain, 0, 1);
    punish(&mut chain, operation);
    assert!(node(&chain, &target).closed);
    assert_eq!(fails(&chain, &key, stake), OperationError::PoolClosed);
    let shares = worth(&chain, &key, &target).shares;
    let unstake = Operation::Unstake { node: target, shares };
    assert_eq!(fails(&chain, &key, unstake), OperationError::Shares, "worth nothing");
    let supply = chain.state.summary().supply;
    assert_eq!(supply.burned, pool);
    assert_eq!(supply.total(), Some(chain.state.parameters().supply));
}
