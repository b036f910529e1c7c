//! What challenges do to pay and stake, to the FROST, against sums of this file's own.

use std::collections::{BTreeMap, BTreeSet};

use floe_protocol::{
    challenge::Outcome,
    genesis::Genesis,
    index::{ChallengeRound, Epoch, ShardIndex},
    keys::NodeId,
    ledger::{Event, Executed, Operation, Pool, SlashReason, Timestamp},
    test_support::{Chain, account_key, operator_key},
};

use super::{
    FEE, N, bucket,
    challenges::{keys, passes, record, rules, step},
    commit, frost, fund, header, id, large_header, node, register, report_ready, report_shards,
    settings, stored, worth,
};

const WAL: u128 = 1_000_000_000;
/// Shards that may miss a round that is not void.
const F: u128 = 2;

fn member(i: usize) -> NodeId {
    keys()[i].0.public()
}

/// A part of a sum, rounded down.
fn part(sum: u128, of: u128, all: u128) -> u128 {
    sum * of / all
}

/// A node as the page of the protocol describes it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Model {
    pool: u128,
    unbonding: u128,
    /// What its operator's account got.
    commissions: u128,
    passed: u128,
    missed: u128,
    void: u128,
    jailed: bool,
    bad_epochs: u32,
    /// Nobody has stake in its pool: all have left, or all was lost.
    ownerless: bool,
}

impl Model {
    /// Takes a part of all that is at stake; how much.
    fn slash(&mut self, bps: u128) -> u128 {
        let lost = part(self.pool, bps, 10_000);
        let leaving = part(self.unbonding, bps, 10_000);
        self.pool -= lost;
        self.unbonding -= leaving;
        self.ownerless |= self.pool == 0;
        lost + leaving
    }
}

/// Positions in [`keys`] of the members with shards, ascending.
fn members(chain: &Chain) -> Vec<usize> {
    let committee = chain.state.committee();
    let weight = |i: &usize| committee.member(&member(*i)).map_or(0, |member| member.weight());
    (0..keys().len()).filter(|i| weight(i) > 0).collect()
}

/// A chain, and what it should come to.
struct World {
    chain: Chain,
    nodes: Vec<Model>,
    commission_bps: Vec<u128>,
    burned: u128,
    /// Of rounds that are open, who misses them.
    missing: BTreeMap<ChallengeRound, BTreeSet<usize>>,
    /// Who is asked for nothing yet: its shards have been ready for too short a time.
    unasked: BTreeMap<ChallengeRound, BTreeSet<usize>>,
    rounds: usize,
    /// Shards that each is paid for.
    paid: Vec<u128>,
    /// Stake of a node that enters with the next epoch, neither slashed nor paid before.
    enters: (usize, u128),
    /// Blocks are so far apart, if not as near as rounds ask for.
    stride_ms: Option<u64>,
}

impl World {
    fn new(genesis: &Genesis) -> Self {
        let mut chain = Chain::new(genesis);
        stored(&mut chain, &account_key(0), header(1), 90, true);
        let nodes = (0..genesis.members.len()).map(|i| {
            let pool = node(&chain, &member(i)).pool.stake.frost();
            Model { pool, ..Model::default() }
        });
        let nodes: Vec<_> = nodes.collect();
        Self {
            commission_bps: vec![0; nodes.len()],
            nodes,
            burned: 0,
            missing: BTreeMap::new(),
            unasked: BTreeMap::new(),
            rounds: 0,
            paid: Vec::new(),
            enters: (0, 0),
            stride_ms: None,
            chain,
        }
    }

    fn weight(&self, i: usize) -> u128 {
        let committee = self.chain.state.committee();
        committee.member(&member(i)).map_or(0, |member| member.weight().into())
    }

    fn position(&self, i: usize) -> Option<usize> {
        self.chain.state.committee().position(&member(i))
    }

    /// The next block. Whoever does not miss the round that it opens passes it in the one after.
    fn step(&mut self, misses: &dyn Fn(usize) -> Vec<usize>) -> Executed {
        self.note_paid();
        let executed = match self.stride_ms {
            None => step(&mut self.chain),
            Some(stride_ms) => {
                let later = self.chain.state.tip().time.plus_ms(stride_ms);
                let deadline = self.chain.state.epoch_deadline();
                self.chain.now = deadline.map_or(later, |deadline| later.min(deadline));
                self.chain.commit(&[])
            }
        };
        self.check_supply();
        self.count(&executed);
        if let Some(universe) = &executed.opened {
            let unasked = self.unasked(universe.opened);
            let mut missing: BTreeSet<_> = misses(self.rounds).into_iter().collect();
            missing.retain(|i| !unasked.contains(i));
            let passes_it = |i: &usize| !missing.contains(i) && !unasked.contains(i);
            let asked = members(&self.chain).into_iter().filter(passes_it);
            let positions = asked.filter_map(|i| self.position(i));
            let passes: Vec<_> =
                positions.map(|position| passes(&self.chain, universe.round, position)).collect();
            self.missing.insert(universe.round, missing);
            self.unasked.insert(universe.round, unasked);
            self.rounds += 1;
            let executed = self.chain.commit_system(&passes);
            self.check_supply();
            self.count(&executed);
        }
        executed
    }

    /// Before the block at half of the epoch: who is paid for what.
    fn note_paid(&mut self) {
        if self.chain.state.summary().selections > 0 {
            return;
        }
        let records = self.chain.state.shards(&self.chain.store).unwrap();
        let committee = self.chain.state.committee();
        let paid = (0..self.nodes.len()).map(|i| {
            let own = committee.member(&member(i)).map_or(&[][..], |member| &member.shards);
            own.iter().filter(|shard| records[shard.as_usize()].is_ready()).count() as u128
        });
        self.paid = paid.collect();
    }

    /// Members of whose shards none was reported ready the grace ago.
    fn unasked(&self, opened: Timestamp) -> BTreeSet<usize> {
        let records = self.chain.state.shards(&self.chain.store).unwrap();
        let grace_ms = self.chain.state.parameters().ledger.challenges.grace_ms;
        let is_old = |shard: &ShardIndex| {
            let since = records[shard.as_usize()].ready_since;
            since.is_some_and(|since| opened.ms_since(since) >= grace_ms)
        };
        let committee = self.chain.state.committee();
        let own =
            |i: &usize| committee.member(&member(*i)).map_or(&[][..], |member| &member.shards);
        members(&self.chain).into_iter().filter(|i| !own(i).iter().any(is_old)).collect()
    }

    fn check_supply(&self) {
        let supply = self.chain.state.summary().supply;
        assert_eq!(supply.total(), Some(self.chain.state.parameters().supply));
    }

    /// Counts the rounds that a block closes.
    fn count(&mut self, executed: &Executed) {
        for event in executed.events.iter() {
            let Event::ChallengeClosed { round, outcomes } = event else { continue };
            let missing = self.missing.remove(round).expect("it was open");
            let unasked = self.unasked.remove(round).expect("it was open");
            let weight: u128 = missing.iter().map(|i| self.weight(*i)).sum();
            for i in members(&self.chain) {
                let outcome = match (missing.contains(&i), weight > F) {
                    _ if unasked.contains(&i) => Outcome::NotAsked,
                    (false, _) => Outcome::Passed,
                    (true, false) => Outcome::Missed,
                    (true, true) => Outcome::Void,
                };
                assert_eq!(outcomes[self.position(i).unwrap()], outcome, "node {i}");
                let node = &mut self.nodes[i];
                match outcome {
                    Outcome::Passed => node.passed += 1,
                    Outcome::Missed => node.missed += 1,
                    Outcome::Void => node.void += 1,
                    Outcome::NotAsked | Outcome::Open => {}
                }
            }
        }
    }

    /// Goes to the end of the epoch, settles it in the model and compares.
    fn play_epoch(&mut self, misses: &dyn Fn(usize) -> Vec<usize>) -> Executed {
        let epoch = self.chain.state.summary().epoch;
        loop {
            let earned = bucket(&self.chain, epoch.get()).1;
            let next = bucket(&self.chain, epoch.get() + 1).1;
            let weights: Vec<_> = (0..self.nodes.len()).map(|i| self.weight(i)).collect();
            let executed = self.step(misses);
            if self.chain.state.summary().epoch > epoch {
                let left = self.settle(epoch, earned, &weights, &executed);
                assert_eq!(bucket(&self.chain, epoch.get() + 1).1, next + left);
                self.missing.clear();
                self.unasked.clear();
                for (i, before) in weights.iter().enumerate() {
                    if *before == 0 && self.weight(i) > 0 {
                        self.nodes[i].bad_epochs = 0;
                    }
                }
                let (i, amount) = std::mem::take(&mut self.enters);
                self.nodes[i].pool += amount;
                self.compare();
                return executed;
            }
        }
    }

    /// Pays and slashes by the page of the protocol; what is left of the bucket.
    fn settle(
        &mut self,
        epoch: Epoch,
        bucket: u128,
        weights: &[u128],
        executed: &Executed,
    ) -> u128 {
        let (n, mut left) = (u128::from(N), bucket);
        let rules = self.chain.state.parameters().ledger.challenges;
        for (i, weight) in weights.iter().enumerate() {
            let Model { passed, missed, void, jailed, .. } = self.nodes[i];
            if *weight == 0 {
                continue;
            }
            let due = part(bucket, *weight, n);
            let opened = passed + missed + void;
            let (of, all) = if opened == 0 { (1, 1) } else { (passed, opened) };
            let earned = if jailed { 0 } else { part(bucket, self.paid[i] * of, n * all) };
            let counted = passed + missed;
            let slashed = if counted < u128::from(rules.slash_rounds_min) {
                0
            } else if 2 * passed < counted {
                self.nodes[i].bad_epochs += 1;
                self.nodes[i].jailed |= self.nodes[i].bad_epochs >= rules.slashes_until_jail;
                self.nodes[i].slash(rules.slash_bps.into())
            } else {
                self.nodes[i].bad_epochs = 0;
                0
            };
            let commission = part(earned, self.commission_bps[i], 10_000);
            // What belongs to nobody waits in the next bucket, and is not burned.
            let waits = if self.nodes[i].ownerless { earned - commission } else { 0 };
            let reward = earned - commission - waits;
            self.nodes[i].pool += reward;
            self.nodes[i].commissions += commission;
            self.burned += slashed + due - earned;
            left -= due - waits;
            let settled = node(&self.chain, &member(i)).settled.unwrap();
            let amounts = [settled.reward, settled.commission, settled.forfeited, settled.slashed];
            let amounts = amounts.map(|amount| amount.frost());
            let expected = [reward, commission, due - earned, slashed];
            assert_eq!((settled.epoch, amounts), (epoch, expected), "epoch {epoch}, node {i}");
            let score = [settled.score.passed, settled.score.missed, settled.score.void];
            assert_eq!(score.map(u128::from), [passed, missed, void]);
            let paid = Event::RewardPaid {
                node: member(i),
                epoch,
                reward: frost(reward),
                commission: frost(commission),
                score: settled.score,
            };
            assert!(executed.events.iter().any(|event| *event == paid), "{paid:?}");
            let burned = frost(slashed);
            let reason = SlashReason::Challenges;
            let event = Event::NodeSlashed { node: member(i), burned, reason };
            assert_eq!(executed.events.iter().any(|e| *e == event), slashed > 0, "node {i}");
        }
        for node in &mut self.nodes {
            (node.passed, node.missed, node.void) = (0, 0, 0);
        }
        left
    }

    fn compare(&self) {
        assert_eq!(self.chain.state.summary().supply.burned.frost(), self.burned);
        for (i, model) in self.nodes.iter().enumerate() {
            let node = node(&self.chain, &member(i));
            assert_eq!(node.pool.stake.frost(), model.pool, "node {i}");
            assert_eq!(node.unbonding.stake.frost(), model.unbonding, "node {i}");
            assert_eq!((node.jailed.is_some(), node.bad_epochs), (model.jailed, model.bad_epochs));
        }
    }

    fn business(&mut self, i: u8) {
        let key = account_key(6);
        commit(&mut self.chain, &key, vec![register(large_header(i), 3, false)]);
        commit(&mut self.chain, &key, vec![register(header(100 + i), 1, true)]);
    }
}

#[test]
fn rewards_over_three_epochs_are_exact_to_the_frost() {
    let mut genesis = rules(5);
    genesis.ledger.challenges.slash_rounds_min = 8;
    genesis.ledger.challenges.slash_bps = 1_237;
    let mut world = World::new(&genesis);
    let all = [0, 1, 2, 3, 4];
    for (i, commission_bps) in [(0, 1_234), (2, 10)] {
        set_commission(&mut world, i, commission_bps);
    }
    let operators = [0, 2].map(|i| world.chain.balance(&id(&operator_key(i))).frost());
    let delegators = [account_key(1), account_key(2)];
    let amounts = [333 * WAL + 1, 77 * WAL + 777];
    for (key, amount) in delegators.iter().zip(amounts) {
        let stake = Operation::Stake { node: member(2), amount: frost(amount) };
        commit(&mut world.chain, key, vec![stake]);
    }
    world.enters = (2, amounts.iter().sum());
    // The fourth votes twice: it is jailed, unpaid, and gone with the next epoch.
    let offence = super::staking::offence(&world.chain, 3, 1);
    world.chain.commit_system(&[offence]);
    world.burned += world.nodes[3].slash(500);
    world.nodes[3].jailed = true;

    // Never more than f shards, but for every sixth round, which is void: the second misses some,
    // the third most, and the fifth only that.
    let misses = |round: usize| match round % 6 {
        0 => vec![1],
        1 | 2 | 4 => vec![2],
        3 => vec![1, 2, 4],
        _ => vec![],
    };
    let worse = |round: usize| if round % 6 == 5 { vec![2] } else { misses(round) };
    for epoch in 0..3_u64 {
        report_ready(&mut world.chain, if epoch == 0 { &all } else { &[0, 1, 2, 4] });
        world.business(u8::try_from(epoch).unwrap());
        if epoch == 1 {
            // One delegator leaves in part: it is slashed on its way out as if it had stayed.
            let shares = worth(&world.chain, &delegators[0], &member(2)).shares / 3;
            let before = node(&world.chain, &member(2)).pool;
            let amount = before.worth(shares).unwrap().frost();
            let unstake = Operation::Unstake { node: member(2), shares };
            commit(&mut world.chain, &delegators[0], vec![unstake]);
            world.nodes[2].pool -= amount;
            world.nodes[2].unbonding += amount;
        }
        if epoch == 2 {
            report_shards(&mut world.chain, &[0, 1, 2, 4]);
        }
        let before = worth_of(&world.chain);
        let executed = world.play_epoch(&worse);
        if epoch == 0 {
            world.commission_bps[0] = 1_234;
            world.commission_bps[2] = 10;
        }
        let jailed = executed.events.iter().any(|event| matches!(event, Event::NodeJailed { .. }));
        assert_eq!(jailed, epoch == 2, "after three in a row");
        // Of the fourth's shards nobody has said in time that they are complete.
        let paid: u128 = world.paid.iter().sum();
        assert_eq!(paid == u128::from(N), epoch != 1, "epoch {epoch}: {paid} shards were paid");
        if epoch == 1 {
            // What is on its way out lost the same part as the pool.
            let after = worth_of(&world.chain);
            assert_eq!(after, before - part(before, 1_237, 10_000));
        }
    }
    assert_eq!(world.nodes[2].bad_epochs, 3);
    assert!(world.nodes[1].bad_epochs == 0 && world.burned > 0);
    assert!(world.nodes[0].commissions > 0 && world.nodes[2].commissions > 0);
    for (i, before) in [0, 2].into_iter().zip(operators) {
        let balance = world.chain.balance(&id(&operator_key(i))).frost();
        assert_eq!(balance, before + world.nodes[i].commissions);
    }
}

/// What the first delegator has on its way out.
fn worth_of(chain: &Chain) -> u128 {
    let unbonding = worth(chain, &account_key(1), &member(2)).unbonding;
    unbonding.iter().map(|(amount, _)| amount.frost()).sum()
}

/// Epochs with few rounds, but enough to be slashed for.
fn short(nodes: usize) -> Genesis {
    let mut genesis = rules(nodes);
    genesis.ledger.epoch_ms = 50_000;
    genesis.ledger.challenges.slash_rounds_min = 5;
    genesis
}

#[test]
fn who_stops_is_slashed_and_after_three_epochs_in_a_row_jailed() {
    let mut world = World::new(&short(5));
    let all = [0, 1, 2, 3, 4];
    let stops = |_: usize| vec![4];
    let passes = |_: usize| vec![];
    let play = |world: &mut World, i: u8, stopped: bool| {
        report_shards(&mut world.chain, &all);
        let able = if world.nodes[4].jailed { &all[..4] } else { &all[..] };
        report_ready(&mut world.chain, able);
        world.business(i);
        world.play_epoch(if stopped { &stops } else { &passes });
    };
    let stake = |world: &World| node(&world.chain, &member(4)).pool.stake;
    let full = stake(&world);
    play(&mut world, 0, true);
    assert_eq!(stake(&world).frost(), full.frost() / 100 * 99, "no pay, and a hundredth lost");
    play(&mut world, 1, true);
    // A good one between: it begins anew.
    play(&mut world, 2, false);
    assert_eq!(world.nodes[4].bad_epochs, 0);
    play(&mut world, 3, true);
    play(&mut world, 4, true);
    assert_eq!((world.nodes[4].bad_epochs, world.nodes[4].jailed), (2, false));
    // So few rounds cost pay, and say nothing of the node.
    world.stride_ms = Some(10_000);
    play(&mut world, 5, true);
    world.stride_ms = None;
    let few = node(&world.chain, &member(4)).settled.unwrap();
    assert!((1..5).contains(&few.score.missed) && few.slashed.is_zero(), "{few:?}");
    assert_eq!((world.nodes[4].bad_epochs, world.nodes[4].jailed), (2, false));
    play(&mut world, 6, true);
    assert_eq!((world.nodes[4].bad_epochs, world.nodes[4].jailed), (3, true));
    // It serves the epoch that it was selected for, unpaid, and leaves.
    assert!(members(&world.chain).contains(&4));
    play(&mut world, 7, false);
    assert_eq!(node(&world.chain, &member(4)).settled.unwrap().reward, frost(0));
    assert!(!members(&world.chain).contains(&4));
    play(&mut world, 8, false);
    // Its term over, it begins anew.
    fund(&mut world.chain, 4, 10 * FEE);
    commit(&mut world.chain, &operator_key(4), vec![Operation::Unjail { node: member(4) }]);
    let free = node(&world.chain, &member(4));
    assert_eq!((free.jailed, free.bad_epochs), (None, 0));
}

#[test]
fn bad_epochs_are_counted_in_a_row_and_a_jail_once() {
    let jailed = |executed: &Executed| {
        executed.events.iter().any(|event| matches!(event, Event::NodeJailed { .. }))
    };
    let mut genesis = short(5);
    genesis.ledger.challenges.slashes_until_jail = 2;
    let mut world = World::new(&genesis);
    // It stays away for an epoch between two bad ones.
    for (epoch, able) in [&[0, 1, 2, 3][..], &[0, 1, 2, 3, 4], &[0, 1, 2, 3, 4]].iter().enumerate()
    {
        let who = members(&world.chain);
        assert_eq!(who.contains(&4), epoch != 1);
        report_shards(&mut world.chain, &who);
        report_ready(&mut world.chain, able);
        world.business(u8::try_from(epoch).unwrap());
        assert!(!jailed(&world.play_epoch(&|_| vec![4])), "epoch {epoch}");
        assert_eq!(world.nodes[4].bad_epochs, [1, 0, 1][epoch]);
    }
    // Without one of four there is no other committee: it goes on as a member, and stays down.
    let mut genesis = short(4);
    genesis.ledger.challenges.slashes_until_jail = 2;
    let mut world = World::new(&genesis);
    for epoch in 0..4 {
        report_ready(&mut world.chain, if epoch < 2 { &[0, 1, 2, 3] } else { &[0, 1, 2] });
        world.business(epoch);
        assert_eq!(jailed(&world.play_epoch(&|_| vec![3])), epoch == 1, "epoch {epoch}");
        assert!(members(&world.chain).contains(&3));
    }
    assert_eq!(node(&world.chain, &member(3)).jailed, Some(Epoch::new(1)));
}

/// Sets the commission of a node, for the committee that is selected next.
fn set_commission(world: &mut World, i: usize, commission_bps: u16) {
    fund(&mut world.chain, i, 10 * FEE);
    let update = Operation::UpdateNode { node: member(i), settings: settings(commission_bps) };
    commit(&mut world.chain, &operator_key(i), vec![update]);
}

#[test]
fn who_leaves_with_rounds_behind_is_judged_like_those_who_stay() {
    let mut world = World::new(&short(6));
    let all = [0, 1, 2, 3, 4, 5];
    for i in [4, 5] {
        set_commission(&mut world, i, 1_500);
    }
    report_ready(&mut world.chain, &all);
    world.business(0);
    world.play_epoch(&|_| vec![]);
    world.commission_bps[4..].fill(1_500);

    // Two take out all their stake; one of them misses most rounds, the other none.
    report_shards(&mut world.chain, &all);
    report_ready(&mut world.chain, &all[..4]);
    world.business(1);
    for i in [4, 5] {
        let key = operator_key(i);
        let shares = worth(&world.chain, &key, &member(i)).shares;
        let pool = node(&world.chain, &member(i)).pool;
        assert_eq!(shares, pool.shares, "nobody else has staked");
        let amount = pool.worth(shares).unwrap().frost();
        let unstake = Operation::Unstake { node: member(i), shares };
        commit(&mut world.chain, &key, vec![unstake]);
        world.nodes[i].pool -= amount;
        world.nodes[i].unbonding += amount;
        world.nodes[i].ownerless = true;
    }
    let (leaving, burned) = (world.nodes[4].unbonding, world.burned);
    let commissions = [4, 5].map(|i| world.nodes[i].commissions);
    world.play_epoch(&|round| if round.is_multiple_of(6) { vec![] } else { vec![4] });
    assert!(members(&world.chain).iter().all(|i| *i < 4), "both have left");
    assert_eq!(world.nodes[4].unbonding, leaving - part(leaving, 100, 10_000));
    assert!(world.burned > burned + leaving / 100, "what it has not earned, too");
    let settled = [4, 5].map(|i| node(&world.chain, &member(i)).settled.unwrap());
    let forfeited = settled.map(|settled| settled.forfeited.is_zero());
    assert_eq!((settled.map(|settled| settled.reward.frost()), forfeited), ([0; 2], [false, true]));
    assert!([4, 5].into_iter().zip(commissions).all(|(i, c)| world.nodes[i].commissions > c));

    // What is left is paid to them when its time has come, and to nobody else.
    for i in 2..5 {
        report_shards(&mut world.chain, &all[..4]);
        report_ready(&mut world.chain, &all[..4]);
        world.business(i);
        world.play_epoch(&|_| vec![]);
    }
    for i in [4, 5] {
        let (key, before) = (operator_key(i), world.chain.balance(&id(&operator_key(i))));
        commit(&mut world.chain, &key, vec![Operation::Withdraw { node: member(i) }]);
        let paid = world.chain.balance(&id(&key)).frost() + FEE - before.frost();
        assert_eq!(paid, world.nodes[i].unbonding, "node {i}");
    }
}

#[test]
fn a_pool_that_loses_all_to_challenges_is_closed_and_its_rewards_wait_for_others() {
    let mut genesis = short(5);
    genesis.ledger.challenges.slash_bps = 10_000;
    let mut world = World::new(&genesis);
    let all = [0, 1, 2, 3, 4];
    set_commission(&mut world, 4, 1_500);
    for epoch in 0..3 {
        let who = members(&world.chain);
        assert_eq!(who.contains(&4), epoch < 2, "it is selected before it loses its stake");
        report_shards(&mut world.chain, &who);
        report_ready(&mut world.chain, if epoch == 0 { &all } else { &all[..4] });
        world.business(epoch);
        let most = |round: usize| if round.is_multiple_of(3) { vec![] } else { vec![4] };
        let executed = world.play_epoch(&most);
        world.commission_bps[4] = 1_500;
        let slashed = executed
            .events
            .iter()
            .filter(|event| matches!(event, Event::NodeSlashed { node, .. } if *node == member(4)));
        assert_eq!(slashed.count(), usize::from(epoch == 0), "epoch {epoch}");
        let (closed, model) = (node(&world.chain, &member(4)), world.nodes[4]);
        assert!(closed.closed && model.ownerless && closed.pool.stake.is_zero());
        assert_eq!(model.bad_epochs, [1, 2, 2][usize::from(epoch)]);
    }
    // In its last epoch its operator has earned something: the pool has nobody to pay.
    let settled = node(&world.chain, &member(4)).settled.unwrap();
    assert_eq!(
        (settled.epoch, settled.reward, settled.slashed),
        (Epoch::new(1), frost(0), frost(0))
    );
    assert!(world.nodes[4].commissions > 0 && !settled.forfeited.is_zero());
}

#[test]
fn void_rounds_cost_pay_but_no_stake() {
    let mut world = World::new(&short(5));
    report_ready(&mut world.chain, &[0, 1, 2, 3, 4]);
    world.business(1);
    // A third stops together.
    let weights: Vec<_> = (0..5).map(|i| world.weight(i)).collect();
    let stopped: Vec<_> = (0..5).filter(|i| weights[*i] == 2).collect();
    assert_eq!(stopped.len(), 2);
    let before: Vec<_> = world.nodes.iter().map(|node| node.pool).collect();
    world.play_epoch(&|_| stopped.clone());
    for (i, before) in before.into_iter().enumerate() {
        let same = world.nodes[i].pool == before;
        assert_eq!(same, stopped.contains(&i), "node {i}: others are paid, nobody is slashed");
    }
}

#[test]
fn a_fresh_network_pays_everybody_in_full() {
    let mut chain = Chain::new(&short(5));
    commit(&mut chain, &account_key(6), vec![register(large_header(1), 3, false)]);
    report_ready(&mut chain, &[0, 1, 2, 3, 4]);
    let paid = bucket(&chain, 0).1;
    let committee = chain.state.committee().clone();
    while chain.state.summary().epoch == Epoch::new(0) {
        assert!(step(&mut chain).opened.is_none());
    }
    assert_eq!(record(&chain), None);
    for held in committee.members() {
        let settled = node(&chain, &held.node).settled.unwrap();
        let due = part(paid, held.weight().into(), N.into());
        assert_eq!((settled.reward.frost(), settled.forfeited.frost()), (due, 0));
        assert_eq!(settled.score, floe_protocol::challenge::Score::default());
    }
    assert_eq!(chain.state.summary().supply.burned, frost(0));
    assert_eq!(node(&chain, &member(0)).unbonding, Pool::default());
}
