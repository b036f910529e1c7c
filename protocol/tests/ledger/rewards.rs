//! What members and their stakers earn, to the FROST, against sums of this file's own.

use floe_protocol::{
    index::Epoch,
    keys::{KeyPair, NodeId},
    ledger::{Amount, Event, Executed, Incoming, Key, Operation, OperationError, Prospect, Record},
    test_support::{Chain, account_key, genesis, node_keys, operator_key},
};

use super::{
    FEE, N, bucket, commit, fails, frost, fund, header, id, large_header, members, node, register,
    report_ready, report_shards, settings, to_deadline, worth,
};

const WAL: u128 = 1_000_000_000;
/// What nobody owns of a pool.
const SHARES: u128 = 1_000_000;

fn member(i: usize) -> NodeId {
    node_keys(16)[i].0.public()
}

fn stake(node: NodeId, amount: u128) -> Operation {
    Operation::Stake { node, amount: frost(amount) }
}

/// A pool as the page of the protocol describes it: sums of WAL and shares, rounded down.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Pool {
    stake: u128,
    shares: u128,
}

impl Pool {
    fn put(&mut self, amount: u128) -> u128 {
        let shares = amount * (self.shares + SHARES) / (self.stake + 1);
        self.stake += amount;
        self.shares += shares;
        shares
    }

    fn worth(&self, shares: u128) -> u128 {
        shares * (self.stake + 1) / (self.shares + SHARES)
    }

    fn take(&mut self, shares: u128) -> u128 {
        let amount = self.worth(shares);
        self.stake -= amount;
        self.shares -= shares;
        amount
    }
}

fn pool(chain: &Chain, id: &NodeId) -> Pool {
    let pool = node(chain, id).pool;
    Pool { stake: pool.stake.frost(), shares: pool.shares }
}

/// What a block paid: node, reward, commission.
fn paid(executed: &Executed) -> Vec<(NodeId, u128, u128)> {
    let paid = executed.events.iter().filter_map(|event| match event {
        Event::RewardPaid { node, reward, commission, .. } => {
            Some((*node, reward.frost(), commission.frost()))
        }
        _ => None,
    });
    paid.collect()
}

/// What the node's record says of its last settled epoch: which, reward, commission, forfeited.
fn settled(chain: &Chain, i: usize) -> [u128; 4] {
    let settled = node(chain, &member(i)).settled.unwrap();
    let amounts = [settled.reward, settled.commission, settled.forfeited].map(Amount::frost);
    [settled.epoch.get().into(), amounts[0], amounts[1], amounts[2]]
}

fn burned(chain: &Chain) -> u128 {
    chain.state.summary().supply.burned.frost()
}

/// Goes to the end of the epoch; its bucket, and the block that ended it.
fn end(chain: &mut Chain) -> (u128, Executed) {
    let epoch = chain.state.summary().epoch;
    loop {
        let paid = bucket(chain, epoch.get()).1;
        let expected = prospects(chain, paid);
        let executed = to_deadline(chain);
        if chain.state.summary().epoch > epoch {
            for (member, expected) in expected {
                let settled = node(chain, &member).settled.filter(|settled| settled.epoch == epoch);
                let brought = settled.map(|settled| Prospect {
                    reward: settled.reward,
                    commission: settled.commission,
                    forfeited: settled.forfeited,
                });
                assert_eq!(brought.unwrap_or_default(), expected, "as it was foretold");
            }
            return (paid, executed);
        }
    }
}

/// What the running epoch would bring its members if it ended now, with so much in its bucket.
fn prospects(chain: &Chain, bucket: u128) -> Vec<(NodeId, Prospect)> {
    let (committee, epoch) = (chain.state.committee(), chain.state.summary().epoch);
    let terms = match chain.record(&Key::Terms(epoch)) {
        Some(Record::Terms(terms)) => terms,
        _ => Vec::new(),
    };
    assert_eq!(terms.len(), committee.members().len());
    let members = committee.members().iter().zip(&terms).enumerate();
    let prospects = members.map(|(position, (member, terms))| {
        let (shards, score) =
            ((member.weight(), committee.n_shards()), chain.state.challenges().score(position));
        let prospect = node(chain, &member.node).prospect(frost(bucket), shards, terms, &score);
        (member.node, prospect.unwrap())
    });
    prospects.collect()
}

fn weight(chain: &Chain, node: &NodeId) -> u128 {
    chain.state.committee().member(node).map_or(0, |member| member.weight().into())
}

/// Somebody stores, so that there is something to earn.
fn business(chain: &mut Chain, i: u8) {
    commit(chain, &account_key(6), vec![register(large_header(i), 3, false)]);
    commit(chain, &account_key(6), vec![register(header(100 + i), 1, true)]);
}

#[test]
fn stake_earn_over_three_epochs_unstake_and_withdraw_to_the_frost() {
    let mut chain = Chain::new(&genesis(5, N));
    let (operator, target) = (operator_key(0), member(0));
    let (early, same, late) = (account_key(0), account_key(1), account_key(2));
    fund(&mut chain, 0, 10 * FEE);
    let update = Operation::UpdateNode { node: target, settings: settings(1_234) };
    commit(&mut chain, &operator, vec![update]);
    let mut balance = chain.balance(&id(&operator)).frost();
    let mut model = Pool::default();
    let own = model.put(1_000 * WAL);
    let (mut incoming, mut commission_bps) = (Vec::<(u64, u128)>::new(), 0);
    let (mut early_shares, mut same_shares, mut late_shares) = (0, 0, 0);
    let (in_early, in_same, in_late) = (333_333_333_333, 7 * WAL + 1, 500 * WAL);
    for epoch in 0..4_u64 {
        report_ready(&mut chain, &[0, 1, 2, 3, 4]);
        business(&mut chain, u8::try_from(epoch).unwrap());
        if epoch == 0 {
            commit(&mut chain, &early, vec![stake(target, in_early - 3), stake(target, 3)]);
            commit(&mut chain, &same, vec![stake(target, in_same)]);
            incoming.push((1, in_early + in_same));
        }
        to_deadline(&mut chain);
        if epoch == 0 {
            // After the selection: it counts in the next, and enters with the epoch after that.
            commit(&mut chain, &late, vec![stake(target, in_late)]);
            incoming.push((2, in_late));
        }
        let next_before = bucket(&chain, epoch + 1).1;
        let weights: Vec<_> = (0..5).map(|i| weight(&chain, &member(i))).collect();
        let (earned, executed) = end(&mut chain);
        assert!(earned > 0);
        // Of the bucket each shard gets its part; what is left over is the next epoch's.
        let mut left = earned;
        for (i, weight) in weights.iter().enumerate() {
            let (node, due) = (member(i), earned * weight / u128::from(N));
            left -= due;
            let fee = if i == 0 { due * commission_bps / 10_000 } else { 0 };
            assert!(paid(&executed).contains(&(node, due - fee, fee)), "epoch {epoch}, node {i}");
            assert_eq!(settled(&chain, i), [u128::from(epoch), due - fee, fee, 0], "node {i}");
            if i == 0 {
                model.stake += due - fee;
                balance += fee;
            }
        }
        assert_eq!(bucket(&chain, epoch).1, 0);
        assert_eq!(bucket(&chain, epoch + 1).1, next_before + left);
        assert_eq!(chain.balance(&id(&operator)).frost(), balance);
        if let Some((_, amount)) = incoming.iter().find(|(with, _)| *with == epoch + 1) {
            let shares = model.put(*amount);
            if epoch == 0 {
                early_shares = shares * in_early / (in_early + in_same);
                same_shares = shares - early_shares;
            } else {
                late_shares = shares;
            }
        }
        commission_bps = 1_234;
        assert_eq!(pool(&chain, &target), model, "after epoch {epoch}");
        let early_worth = worth(&chain, &early, &target);
        assert_eq!(early_worth.shares, early_shares);
        assert_eq!(early_worth.active.frost(), model.worth(early_shares));
        let waits = worth(&chain, &late, &target).incoming;
        let expected = Incoming { epoch: Epoch::new(2), amount: frost(in_late) };
        assert_eq!(waits, if epoch == 0 { vec![expected] } else { vec![] });
    }
    assert_eq!(burned(&chain), 0);
    let claims = [(early, early_shares), (same, same_shares), (late, late_shares), (operator, own)];
    leave(&mut chain, &target, model, &claims);
}

/// All stakers of a node leave with the shares that they have by the model, and are paid.
fn leave(chain: &mut Chain, target: &NodeId, mut model: Pool, stakers: &[(KeyPair, u128)]) {
    let unstake = |shares| Operation::Unstake { node: *target, shares };
    assert_eq!(fails(chain, &account_key(5), unstake(1)), OperationError::Shares);
    let mut unbonding = Pool::default();
    let mut claims = Vec::new();
    for (key, shares) in stakers {
        assert_eq!(worth(chain, key, target).shares, *shares);
        let more = chain.sign(key, vec![unstake(shares + 1)]);
        assert_eq!(super::refused(chain, &more), OperationError::Shares);
        commit(chain, key, vec![unstake(*shares)]);
        let amount = model.take(*shares);
        claims.push((key, unbonding.put(amount)));
        assert_eq!(pool(chain, target), model);
    }
    assert_eq!(model.shares, 0, "all have left");
    assert!(model.stake < 100, "but for what rounding left: {}", model.stake);
    for _ in 0..3 {
        end(chain);
    }
    for (key, shares) in claims {
        let before = chain.balance(&id(key)).frost();
        commit(chain, key, vec![Operation::Withdraw { node: *target }]);
        let amount = unbonding.take(shares);
        assert_eq!(chain.balance(&id(key)).frost(), before + amount - FEE);
    }
    assert_eq!(chain.state.summary().supply.total(), Some(chain.state.parameters().supply));
}

#[test]
fn flash_stake_earns_nothing() {
    let mut chain = Chain::new(&genesis(5, N));
    let (key, target) = (account_key(0), member(1));
    chain.commit(&[]);
    for after_selection in [false, true] {
        report_ready(&mut chain, &[0, 1, 2, 3, 4]);
        business(&mut chain, u8::from(after_selection));
        if after_selection {
            to_deadline(&mut chain);
        }
        let before = pool(&chain, &target);
        commit(&mut chain, &key, vec![stake(target, 900 * WAL / 2)]);
        assert_eq!(pool(&chain, &target), before, "it is not in the pool");
        assert!(worth(&chain, &key, &target).active.is_zero());
        let unstake = Operation::Unstake { node: target, shares: 1_000_000 };
        assert_eq!(fails(&chain, &key, unstake), OperationError::Shares, "nor can it leave");
        let (_, executed) = end(&mut chain);
        let earned = paid(&executed).iter().find(|(node, ..)| *node == target).unwrap().1;
        assert!(earned > 0);
        if after_selection {
            assert_eq!(pool(&chain, &target).stake, before.stake + earned);
            end(&mut chain);
        }
        // What enters is worth what was staked, and no more.
        let worth = worth(&chain, &key, &target);
        assert!(worth.active.frost() <= 450 * WAL && worth.active.frost() + 2 >= 450 * WAL);
        let unstake = Operation::Unstake { node: target, shares: worth.shares };
        commit(&mut chain, &key, vec![unstake]);
    }
}

#[test]
fn who_delegates_to_itself_takes_nothing_from_others() {
    // An operator takes all as commission from the next selection on, and no earlier.
    let mut chain = Chain::new(&genesis(5, N));
    let (operator, victim, target) = (operator_key(2), account_key(0), member(2));
    fund(&mut chain, 2, 100 * WAL);
    commit(&mut chain, &victim, vec![stake(target, 800 * WAL)]);
    report_ready(&mut chain, &[0, 1, 2, 3, 4]);
    end(&mut chain);
    report_shards(&mut chain, &[0, 1, 2, 3, 4]);
    report_ready(&mut chain, &[0, 1, 2, 3, 4]);
    to_deadline(&mut chain);
    let greedy = Operation::UpdateNode { node: target, settings: settings(10_000) };
    commit(&mut chain, &operator, vec![greedy]);
    for (i, agreed) in (10..).zip([0, 0, 10_000]) {
        business(&mut chain, i);
        let weight = weight(&chain, &target);
        let (all, executed) = end(&mut chain);
        let due = all * weight / u128::from(N);
        let fee = due * agreed / 10_000;
        assert!(paid(&executed).contains(&(target, due - fee, fee)), "{agreed}");
        report_shards(&mut chain, &[0, 1, 2, 3, 4]);
        report_ready(&mut chain, &[0, 1, 2, 3, 4]);
    }
    // In and out, in whatever pieces, gains nothing at the cost of the others.
    let before = worth(&chain, &victim, &target).active;
    let own = worth(&chain, &operator, &target).active.frost();
    for piece in [1, 3, 999_999_999, 7 * WAL] {
        commit(&mut chain, &operator, vec![stake(target, piece)]);
        end(&mut chain);
        let shares = worth(&chain, &operator, &target).shares;
        let out = Operation::Unstake { node: target, shares: shares / 3 };
        commit(&mut chain, &operator, vec![out]);
    }
    assert!(worth(&chain, &victim, &target).active >= before);
    let mine = worth(&chain, &operator, &target);
    let unbonding: u128 = mine.unbonding.iter().map(|(amount, _)| amount.frost()).sum();
    let put = 1 + 3 + 999_999_999 + 7 * WAL;
    assert!(mine.active.frost() + unbonding <= own + put, "only the fee of others was earned");
}

#[test]
fn gained_shards_that_are_not_ready_by_half_earn_nothing() {
    let mut chain = Chain::new(&genesis(6, N));
    chain.commit(&[]);
    let gone = (0..6).find(|i| weight(&chain, &member(*i)) == 1).unwrap();
    let there: Vec<_> = (0..6).filter(|i| *i != gone).collect();
    report_ready(&mut chain, &there);
    let (_, executed) = end(&mut chain);
    assert_eq!(paid(&executed), [], "nothing was paid for the first epoch");
    assert_eq!(burned(&chain), 0);
    let gainer = there.iter().copied().find(|i| {
        let own = &chain.state.committee().member(&member(*i)).unwrap().shards;
        let records = chain.state.shards(&chain.store).unwrap();
        own.iter().any(|shard| !records[shard.as_usize()].is_ready())
    });
    let gainer = gainer.unwrap();
    assert_eq!(weight(&chain, &member(gainer)), 2);
    // Ready after half: too late for this epoch's pay, in time for the next.
    for ready_before_half in [false, true] {
        business(&mut chain, u8::from(ready_before_half));
        to_deadline(&mut chain);
        if !ready_before_half {
            report_shards(&mut chain, &[gainer]).unwrap();
        }
        let before = burned(&chain);
        let weights: Vec<_> = (0..6).map(|i| weight(&chain, &member(i))).collect();
        let (all, executed) = end(&mut chain);
        let due = all * 2 / u128::from(N);
        let earned = if ready_before_half { due } else { all / u128::from(N) };
        let others = there.iter().filter(|i| **i != gainer);
        for i in others {
            let due = all * weights[*i] / u128::from(N);
            assert!(paid(&executed).contains(&(member(*i), due, 0)));
        }
        assert!(paid(&executed).contains(&(member(gainer), earned, 0)));
        let epoch = 1 + u128::from(ready_before_half);
        assert_eq!(settled(&chain, gainer), [epoch, earned, 0, due - earned]);
        assert_eq!(node(&chain, &member(gone)).settled, None, "it was never paid");
        assert_eq!(burned(&chain) - before, due - earned);
    }
}

#[test]
fn a_jailed_member_keeps_its_duties_unpaid() {
    let mut chain = Chain::new(&genesis(5, N));
    chain.commit(&[]);
    business(&mut chain, 1);
    let offence = super::staking::offence(&chain, 3, 1);
    chain.commit_system(&[offence]);
    let (slashed, before) = (burned(&chain), pool(&chain, &member(3)));
    let weight = weight(&chain, &member(3));
    report_ready(&mut chain, &[0, 1, 2, 3, 4]);
    let (all, executed) = end(&mut chain);
    assert!(paid(&executed).contains(&(member(3), 0, 0)));
    assert_eq!(burned(&chain) - slashed, all * weight / u128::from(N));
    assert_eq!(settled(&chain, 3), [0, 0, 0, all * weight / u128::from(N)]);
    assert_eq!(pool(&chain, &member(3)), before);
    assert_eq!(members(&chain), [0, 1, 2, 4]);
}

#[test]
fn a_pool_that_everybody_has_left_leaves_its_part_to_the_next_epoch() {
    let mut chain = Chain::new(&genesis(5, N));
    fund(&mut chain, 4, 10 * FEE);
    let shares = worth(&chain, &operator_key(4), &member(4)).shares;
    commit(&mut chain, &operator_key(4), vec![Operation::Unstake { node: member(4), shares }]);
    business(&mut chain, 1);
    let weight = weight(&chain, &member(4));
    let before = bucket(&chain, 1).1;
    let (all, executed) = end(&mut chain);
    assert!(paid(&executed).contains(&(member(4), 0, 0)));
    let shares: u128 = paid(&executed).iter().map(|(_, reward, _)| reward).sum();
    assert!(all * weight / u128::from(N) > 0);
    assert_eq!(bucket(&chain, 1).1, before + all - shares);
    assert_eq!(burned(&chain), 0);
}

#[test]
fn a_closed_pool_gives_back_what_had_not_entered() {
    let mut harsh = genesis(5, N);
    harsh.ledger.equivocation_slash_bps = 10_000;
    let mut chain = Chain::new(&harsh);
    let (in_pool, waiting, both) = (account_key(0), account_key(1), account_key(2));
    let target = member(0);
    commit(&mut chain, &in_pool, vec![stake(target, 10 * WAL)]);
    commit(&mut chain, &both, vec![stake(target, 20 * WAL)]);
    end(&mut chain);
    commit(&mut chain, &waiting, vec![stake(target, 30 * WAL)]);
    to_deadline(&mut chain);
    commit(&mut chain, &both, vec![stake(target, 40 * WAL)]);
    let offence = super::staking::offence(&chain, 0, chain.state.tip().height.get());
    chain.commit_system(&[offence]);
    assert!(node(&chain, &target).closed && node(&chain, &target).pool.stake.is_zero());
    let withdraw = || Operation::Withdraw { node: target };
    assert_eq!(fails(&chain, &in_pool, withdraw()), OperationError::NothingUnbonded);
    let back = |chain: &mut Chain, key: &KeyPair, amount: u128| {
        assert_eq!(worth(chain, key, &target).returned.frost(), amount);
        let before = chain.balance(&id(key)).frost();
        commit(chain, key, vec![withdraw()]);
        assert_eq!(chain.balance(&id(key)).frost(), before + amount - FEE);
        assert_eq!(fails(chain, key, withdraw()), OperationError::NothingUnbonded);
    };
    back(&mut chain, &waiting, 30 * WAL);
    for _ in 0..3 {
        end(&mut chain);
    }
    back(&mut chain, &both, 40 * WAL);
    assert_eq!(node(&chain, &target).incoming, []);
    assert_eq!(worth(&chain, &both, &target).active, Amount::ZERO);
    assert_eq!(chain.state.summary().supply.total(), Some(chain.state.parameters().supply));
}
