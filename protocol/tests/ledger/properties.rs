//! Random operations of several accounts over several epochs: what is always true.

use std::collections::{BTreeMap, BTreeSet};

use floe_protocol::{
    challenge::{BilledUnits, ChallengeParameters},
    genesis::Genesis,
    hash::Hash,
    index::{ChallengeRound, Epoch},
    keys::NodeId,
    ledger::{
        Amount, CLOSED_ROUNDS_KEPT, EndReason, Entry, Event, Executed, IndexEntry, IndexRange, Key,
        MemoryStore, OPEN_ROUNDS_MAX, Operation, Record, Registration, SignedTransaction, State,
        StateProof, StateReader as _, Supply, SystemOperation, Transaction,
    },
    message::IndexQuery,
    registration::RegistrationId,
    test_support::{Chain, account_key, genesis, node_keys},
    vote::{Equivocation, Vote, VoteKind},
};
use proptest::{collection::vec, prelude::*};

use super::{
    N, bucket, certify, challenges, ends, extension, frost, header, id, indexed, propose, register,
    registration, snapshots,
};

/// What one account tries.
#[derive(Clone, Copy, Debug)]
struct Step {
    kind: u8,
    who: u8,
    which: usize,
    size: u32,
}

/// What happens in one block.
#[derive(Clone, Debug, Default)]
struct Round {
    steps: Vec<Step>,
    /// Whether ledger time first passes to the next deadline.
    deadline: bool,
    offender: Option<usize>,
    /// Which nodes report that they follow the ledger, and which that their shards are ready.
    reports: (u8, u8),
    /// Which members pass the round of challenges that is open.
    passes: u8,
}

/// Nodes here: four of them can hold all shards, so committees change.
const NODES: usize = 6;

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let step = (0..14_u8, 0..4_u8, 0..8_usize, 1..12_u32)
        .prop_map(|(kind, who, which, size)| Step { kind, who, which, size });
    let offender = proptest::option::weighted(0.1, 0..4_usize);
    let few = || prop_oneof![2 => Just(0_u8), 2 => Just(0x3f), 1 => any::<u8>()];
    let deadline = proptest::bool::weighted(0.3);
    let passes = prop_oneof![3 => Just(0_u8), 1 => any::<u8>()];
    let round = (vec(step, 0..6), deadline, offender, (few(), few()), passes);
    let round = round.prop_map(|(steps, deadline, offender, reports, passes)| Round {
        steps,
        deadline,
        offender,
        reports,
        passes,
    });
    vec(round, 1..30)
}

/// A chain, and what an observer of its events and changes knows.
struct World {
    chain: Chain,
    records: BTreeMap<Hash, Record>,
    registrations: Vec<(RegistrationId, u8)>,
    stakes: BTreeSet<(u8, NodeId)>,
}

/// The genesis of every world: with little room for blobs, and many challenges.
fn rules() -> Genesis {
    let mut rules = genesis(NODES, N);
    rules.ledger.capacity_units = 60;
    // A round in every block or two, if there is anything to ask for.
    rules.ledger.challenges = ChallengeParameters {
        interval_ms: 1_000,
        grace_ms: 150,
        window_ms: 100,
        certificate_window_ms: 800,
        certificate_window_heights: 5,
        slash_rounds_min: 2,
        ..ChallengeParameters::default()
    };
    rules
}

impl World {
    fn new() -> Self {
        let rules = rules();
        let (_, change) = State::genesis(&rules).unwrap();
        let mut world = Self {
            chain: Chain::new(&rules),
            records: BTreeMap::new(),
            registrations: Vec::new(),
            stakes: BTreeSet::new(),
        };
        world.learn(&change.values);
        world
    }

    fn learn(&mut self, values: &[(Hash, Option<Vec<u8>>)]) {
        for (key, value) in values {
            match value {
                Some(bytes) => {
                    let entry = Entry::from_bytes(bytes).expect("an entry");
                    self.records.insert(*key, entry.record);
                }
                None => assert!(self.records.remove(key).is_some(), "only what is there goes"),
            }
        }
    }

    fn operation(&self, step: Step) -> Operation {
        let Step { kind, who, which, size } = step;
        let known = self.registrations.len().max(1);
        let known = self.registrations.get((known - 1).saturating_sub(which) % known);
        let (registration, blob) = known.copied().unwrap_or((RegistrationId::new([0; 32]), 0));
        let target = node_keys(NODES)[which % NODES].0.public();
        let stake = self.stake(who, &target);
        match kind {
            0 => super::transfer((who + 1) % 5, u128::from(size) * 1_000_000_007),
            1..=3 => register(header(u8::try_from(which).unwrap()), size, size % 3 > 0),
            4..=6 => certify(&self.chain, registration, &header(blob)),
            7 => extension(&self.chain, registration, size),
            8 => Operation::DeleteBlob { registration },
            9 => {
                let to = id(&account_key((who + 1) % 4));
                Operation::TransferBlob { registration, to }
            }
            10 => Operation::Stake { node: target, amount: frost(u128::from(size) * 999_999_999) },
            11 => Operation::Unstake { node: target, shares: (stake / u128::from(size)).max(1) },
            12 => Operation::Withdraw { node: target },
            _ => {
                let version = u64::from(size % 3) + 1;
                let blob = Some(header(blob).id());
                Operation::SetName { name: format!("name {}", which % 2), blob, version }
            }
        }
    }

    fn stake(&self, who: u8, node: &NodeId) -> u128 {
        let (chain, account) = (&self.chain, id(&account_key(who)));
        let worth = chain.state.stake_worth(&chain.store, &account, node).unwrap();
        worth.map_or(1_000, |worth| worth.shares)
    }

    /// The transactions of a round: one operation each, but for pairs that belong together.
    fn transactions(&self, steps: &[Step]) -> Vec<SignedTransaction> {
        let mut sent = BTreeMap::<u8, u64>::new();
        let sign = |step: &Step| {
            let key = account_key(step.who);
            let mut operations = vec![self.operation(*step)];
            if step.size == 11 {
                operations.insert(0, super::transfer(5, 1));
            }
            let signed = self.chain.sign(&key, operations);
            let count = sent.entry(step.who).or_default();
            let nonce = signed.transaction.nonce + *count;
            *count += 1;
            Transaction { nonce, ..signed.transaction }.sign(&self.chain.id(), &key)
        };
        steps.iter().map(sign).collect()
    }

    fn offence(&self, offender: usize) -> SystemOperation {
        let key = &node_keys(4)[offender].0;
        let vote = |round_block: Option<floe_protocol::ledger::BlockHash>| Vote {
            height: self.chain.state.next_height(),
            round: 0,
            kind: VoteKind::Prevote,
            block: round_block,
            voter: key.public(),
        };
        let tip = self.chain.state.tip().hash;
        let [first, second] =
            [vote(None), vote(Some(tip))].map(|vote| vote.sign(&self.chain.id(), key));
        SystemOperation::ReportEquivocation { equivocation: Equivocation { first, second } }
    }

    /// What nodes say of themselves, true or not: the state takes what it may.
    fn reports(&self, (nodes, shards): (u8, u8)) -> Vec<SystemOperation> {
        let keys = node_keys(NODES);
        let chosen = |mask: u8| keys.iter().enumerate().filter(move |(i, _)| mask >> i & 1 == 1);
        let member = |key: &floe_protocol::keys::KeyPair| {
            self.chain.state.committee().member(&key.public()).is_some()
        };
        let ready = chosen(nodes).map(|(_, (key, _))| self.chain.node_ready(key));
        let complete = chosen(shards).filter(|(_, (key, _))| member(key));
        ready.chain(complete.map(|(_, (key, _))| self.chain.shards_ready(key))).collect()
    }

    /// Certificates for the oldest round that is open, true but for one of another round.
    fn passes(&self, mask: u8) -> Vec<SystemOperation> {
        let Some(round) = self.chain.state.open_challenges().first().copied() else {
            return Vec::new();
        };
        let members = 0..self.chain.state.committee().members().len();
        let passed = members.filter(|position| mask >> position & 1 == 1);
        let wrong = ChallengeRound::new(round.get() + 1);
        let pass = |position| {
            let round = if position == 5 { wrong } else { round };
            challenges::passes(&self.chain, round, position)
        };
        // Signatures are what these tests take their time for.
        passed.take(2).map(pass).collect()
    }

    /// A round that opens asks for the units that the records say.
    fn check_universe(&self, executed: &Executed) {
        let Some(universe) = &executed.opened else { return };
        let mut units = BilledUnits::new();
        for record in self.records.values() {
            if let Record::Blob(blob) = record {
                units.update(None, Some(blob)).unwrap();
            }
        }
        units.advance(universe.epoch(), universe.opened.minus_ms(universe.parameters.grace_ms));
        challenges::assert_same_units(&universe.units, &units);
    }

    /// Rounds are few, and each counts once.
    fn check_rounds(&self) {
        let stored = challenges::record(&self.chain).unwrap_or_default();
        assert_eq!(stored.open, self.chain.state.challenges().open);
        assert!(stored.open.len() <= OPEN_ROUNDS_MAX);
        let (open, rounds) = (stored.open.len(), usize::try_from(stored.rounds).unwrap());
        assert_eq!(stored.closed.len(), (rounds - open).min(CLOSED_ROUNDS_KEPT));
        let counted = stored.scores.iter().map(|s| s.passed + s.missed + s.void).max();
        assert!(counted.unwrap_or(0) <= stored.rounds);
    }

    /// The block before a deadline that is far off.
    fn approach(&mut self, round: &Round) -> Option<Executed> {
        self.chain.now = self.chain.eve().filter(|_| round.deadline)?;
        Some(self.play(&Round::default()))
    }

    fn play(&mut self, round: &Round) -> Executed {
        let before: BTreeMap<_, _> = self.living().into_iter().collect();
        if round.deadline {
            let deadline = self.chain.state.epoch_deadline().unwrap_or(self.chain.now);
            self.chain.now = self.chain.now.max(deadline);
        }
        let mut system: Vec<_> = round.offender.map(|i| self.offence(i)).into_iter().collect();
        system.extend(self.reports(round.reports));
        system.extend(self.passes(round.passes));
        let transactions = self.transactions(&round.steps);
        let (block, proposed, _) = propose(&self.chain, &system, &transactions);
        let executed = self.chain.apply(&block).expect("what one proposes, all accept");
        assert_eq!(executed.change, proposed.change);
        assert_eq!(executed.events, proposed.events);
        check_refunds(&before, block.header.epoch, &executed);
        self.learn(&executed.change.values);
        self.check_universe(&executed);
        for event in executed.events.iter() {
            match event {
                Event::BlobRegistered { registration, blob, .. } => {
                    let blob = (0..8).find(|i| header(*i).id() == *blob).expect("one of ours");
                    self.registrations.push((*registration, blob));
                }
                Event::Staked { account, node, .. } => {
                    let who = (0..8).find(|i| id(&account_key(*i)) == *account).expect("ours");
                    self.stakes.insert((who, *node));
                }
                _ => {}
            }
        }
        executed
    }

    /// Every FROST is in one record.
    fn check_supply(&self) {
        let mut supply = Supply::default();
        let mut summary = None;
        let add = |sum: &mut Amount, amount: Amount| *sum = sum.checked_add(amount).unwrap();
        for record in self.records.values() {
            match record {
                Record::Account(account) => add(&mut supply.balances, account.balance),
                Record::Node(node) => {
                    add(&mut supply.stakes, node.pool.stake);
                    add(&mut supply.stakes, node.unbonding.stake);
                    for incoming in &node.incoming {
                        add(&mut supply.stakes, incoming.amount);
                    }
                }
                Record::Epoch(epoch) => add(&mut supply.buckets, epoch.bucket),
                Record::Summary(found) => summary = Some(*found),
                _ => {}
            }
        }
        let summary = summary.expect("there is one");
        supply.burned = summary.supply.burned;
        assert_eq!(supply, summary.supply);
        assert_eq!(supply.total(), Some(self.chain.state.parameters().supply));
        assert_eq!(&summary, self.chain.state.summary());
    }

    fn living(&self) -> Vec<(RegistrationId, Registration)> {
        let records = self.registrations.iter();
        records.filter_map(|(id, _)| Some((*id, registration(&self.chain, *id)?))).collect()
    }

    /// The index, without the history and past candidates, is what the records say.
    fn check_index(&self) {
        let mut expected = BTreeSet::new();
        let registrations = self.living();
        let found = self.records.values().filter(|r| matches!(r, Record::Registration(_))).count();
        assert_eq!(found, registrations.len());
        for (id, record) in registrations {
            expected.insert(IndexEntry::Deadline(record.deadline(), id).to_bytes());
            expected.insert(IndexEntry::Owned(record.owner, record.blob, id).to_bytes());
            if let Some((epoch, time)) = record.certified {
                let place = (epoch, time.ms());
                expected.insert(IndexEntry::CertifiedEnd(record.blob, record.end, id).to_bytes());
                expected.insert(IndexEntry::Certified(record.blob, place, id).to_bytes());
            }
        }
        for (i, (node, _)) in node_keys(NODES).iter().enumerate() {
            let operator = id(&floe_protocol::test_support::operator_key(i));
            expected.insert(IndexEntry::Registered(node.public()).to_bytes());
            expected.insert(IndexEntry::Staked(operator, node.public()).to_bytes());
            let record = super::node(&self.chain, &node.public());
            let epoch = self.chain.state.summary().epoch;
            if record.ready == Some(epoch) {
                let entry = IndexEntry::Ready(epoch, record.ready_stake, node.public());
                expected.insert(entry.to_bytes());
            }
        }
        for (who, node) in &self.stakes {
            let account = id(&account_key(*who));
            if self.chain.record(&Key::Stake(account, *node)).is_some() {
                expected.insert(IndexEntry::Staked(account, *node).to_bytes());
            }
        }
        let past = IndexRange::ready_before(self.chain.state.summary().epoch);
        let mut found = index(&self.chain.store);
        found.retain(|entry| *entry < past.start || *entry >= past.end);
        assert_eq!(found, expected);
    }

    /// A snapshot gives the same state and index to who has nothing else, and the same blocks
    /// follow.
    fn check_snapshot(&self, rounds_behind: usize) {
        let (block, _) = self.chain.blocks.last().expect("at least one");
        let (manifest, chunks) = snapshots::make(&self.chain);
        let restored = snapshots::restore(&manifest, &chunks).unwrap();
        // Reports of past epochs only wait to be swept.
        let past = IndexRange::ready_before(self.chain.state.summary().epoch);
        let mut kept = index(&self.chain.store);
        kept.retain(|entry| *entry < past.start || *entry >= past.end);
        assert_eq!(index(&restored), kept, "after {rounds_behind} blocks");
        let (origin, _) = State::genesis(&rules()).unwrap();
        let mut state = State::load(&origin, &block.header, &restored).unwrap();
        // As long as a round needs to open and to close: what both ask for is the same.
        let (mut chain, mut restored) = (self.chain.clone(), restored);
        for _ in 0..4 {
            assert_eq!(state.challenge_deadline(), chain.state.challenge_deadline());
            chain.now = chain.state.challenge_deadline().unwrap_or(chain.now).max(chain.now);
            let (next, _) = chain.propose(&[], &[]).unwrap();
            let executed = state.execute(&restored, &next, &|_| false).unwrap();
            assert_eq!(executed.next.tip().state_root, next.header.state_root);
            let first = chain.apply(&next).unwrap();
            challenges::assert_same_universe(executed.opened.as_deref(), first.opened.as_deref());
            restored.write(executed.change);
            state = executed.next;
        }
    }

    /// Who asks for an account's registrations of a blob gets these, and no others.
    fn check_owned(&self) {
        let registrations = self.living();
        for (who, i) in (0..5).flat_map(|who| (0..8).map(move |i| (who, i))) {
            let (owner, blob) = (id(&account_key(who)), header(i).id());
            let own = |(_, r): &&(_, Registration)| r.owner == owner && r.blob == blob;
            let expected: BTreeSet<_> =
                registrations.iter().filter(own).map(|(id, _)| *id).collect();
            let found = indexed(&self.chain, IndexQuery::OwnedOf(owner, blob));
            assert_eq!(found, Vec::from_iter(expected), "account {who}, blob {i}");
        }
    }

    /// Blobs and epochs sum up their registrations, pools their stakes.
    fn check_sums(&self) {
        let (registrations, now) = (self.living(), self.chain.state.summary().epoch);
        let swept = !self.chain.state.sweep_pending(&self.chain.store).unwrap();
        for i in 0..8 {
            let of_blob = || registrations.iter().filter(|(_, r)| r.blob == header(i).id());
            let certified = || of_blob().filter_map(|(_, r)| r.certified.map(|place| (r, place)));
            let Some(blob) = super::blob(&self.chain, &header(i)) else {
                assert_eq!(of_blob().count(), 0);
                continue;
            };
            assert_eq!(usize::try_from(blob.registrations).unwrap(), of_blob().count());
            assert_eq!(blob.certified.is_some(), certified().next().is_some());
            let Some(life) = blob.certified else { continue };
            assert_eq!(Some(life.end), certified().map(|(r, _)| r.end).max());
            if swept {
                let first = certified().map(|(_, place)| place).min();
                assert_eq!(Some((life.first_epoch, life.first_time)), first);
            }
            let permanent = certified().filter(|(r, _)| !r.deletable).map(|(r, _)| r.end).max();
            let end = blob.permanent_end.filter(|end| *end > now);
            assert_eq!(end, permanent.filter(|end| *end > now));
        }
        for epoch in (now.get() + 1..now.get() + 20).map(Epoch::new) {
            let covers =
                |(_, r): &&(RegistrationId, Registration)| (r.start..r.end).contains(&epoch);
            let units: u64 = registrations.iter().filter(covers).map(|(_, r)| r.units).sum();
            let payments = registrations.iter().flat_map(|(_, r)| &r.payments);
            let paid: u128 = payments
                .filter(|payment| (payment.start..payment.end).contains(&epoch))
                .map(|payment| payment.per_epoch.frost())
                .sum();
            assert_eq!(bucket(&self.chain, epoch.get()), (units, paid), "epoch {epoch}");
        }
        let sum = |pick: &dyn Fn(&floe_protocol::ledger::Stake) -> u128| -> u128 {
            let stakes = self.records.values().filter_map(|record| match record {
                Record::Stake(stake) => Some(pick(stake)),
                _ => None,
            });
            stakes.sum()
        };
        let pools = |pick: &dyn Fn(&floe_protocol::ledger::Node) -> u128| -> u128 {
            let nodes = self.records.values().filter_map(|record| match record {
                Record::Node(node) => Some(pick(node)),
                _ => None,
            });
            nodes.sum()
        };
        let rates = self.records.values().map(|record| match record {
            Record::Rate(rate) => rate.shares,
            _ => 0,
        });
        let shares = sum(&|stake| stake.shares) + rates.sum::<u128>();
        assert_eq!(shares, pools(&|node| node.pool.shares));
        let waiting = pools(&|node| node.incoming.iter().map(|i| i.amount.frost()).sum());
        let rates = self.records.values().map(|record| match record {
            Record::Rate(rate) => rate.amount.frost(),
            _ => 0,
        });
        let incoming = sum(&|stake| stake.incoming.iter().map(|i| i.amount.frost()).sum());
        assert_eq!(waiting + rates.sum::<u128>(), incoming);
        let unbonding = sum(&|stake| stake.unbonding.iter().map(|u| u.shares).sum());
        assert_eq!(unbonding, pools(&|node| node.unbonding.shares));
    }
}

/// What ended in a block of `epoch` was paid back as its record `before` said, with what was bought
/// for it in the same block.
fn check_refunds(
    before: &BTreeMap<RegistrationId, Registration>,
    epoch: Epoch,
    executed: &Executed,
) {
    let bought = |id: RegistrationId| {
        let paid = executed.events.iter().filter_map(move |event| match event {
            Event::BlobExtended { registration, paid, .. } if *registration == id => Some(*paid),
            _ => None,
        });
        paid.map(Amount::frost).sum::<u128>()
    };
    for (id, refund, reason) in ends(executed) {
        let record = &before[&id];
        let from = if reason == EndReason::Deleted { epoch.plus(1) } else { record.deadline() };
        let paid = record.paid_from(from).unwrap().frost();
        assert_eq!(refund, paid + bought(id), "{reason:?} in epoch {epoch}: {record:?}");
    }
}

/// All of the index but the history.
fn index(store: &MemoryStore) -> BTreeSet<Vec<u8>> {
    let all = store.index(&[0][..]..&[255][..], usize::MAX).unwrap();
    all.into_iter().filter(|entry| entry[0] != 6).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, cases: 24, ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_accounts_do_the_ledger_stays_whole(rounds in rounds()) {
        let mut world = World::new();
        for round in &rounds {
            world.approach(round);
            world.play(round);
            world.check_supply();
            world.check_index();
            world.check_owned();
            world.check_sums();
            world.check_rounds();
        }
        world.check_snapshot(rounds.len());
        // At last everything ends, and all that was paid in advance has been earned or paid back.
        for _ in 0..40 {
            // Whoever holds shards completes them, or the epoch would not end.
            super::report_shards(&mut world.chain, &[0, 1, 2, 3, 4, 5]);
            world.chain.next_epoch();
        }
        world.chain.commit(&[]);
        let store = &world.chain.store;
        let left: Vec<_> = index(store).into_iter().filter(|entry| entry[0] < 5).collect();
        prop_assert_eq!(left, Vec::<Vec<u8>>::new());
    }

    /// A node that replays, one that restarts after every block from a pruned store, and the
    /// first one agree on every byte.
    #[test]
    fn replay_and_restart_give_the_same_state(rounds in rounds()) {
        let mut world = World::new();
        let mut played = Vec::new();
        for round in &rounds {
            played.extend(world.approach(round));
            played.push(world.play(round));
        }
        let (start, change) = State::genesis(&rules()).unwrap();
        let mut store = MemoryStore::default();
        store.write(change);
        let mut last = None;
        for ((block, _), first) in world.chain.blocks.iter().zip(&played) {
            let state = match &last {
                None => start.clone(),
                Some(header) => State::load(&start, header, &store).unwrap(),
            };
            let executed = state.execute(&store, block, &|_| false).unwrap();
            prop_assert_eq!(&executed.change, &first.change);
            challenges::assert_same_universe(executed.opened.as_deref(), first.opened.as_deref());
            prop_assert_eq!(executed.next.challenge_deadline(), first.next.challenge_deadline());
            store.write(executed.change);
            last = Some(block.header);
            let height = block.header.height.get();
            let kept = height.saturating_sub(5);
            store.prune(kept);
            // What is kept can be proven.
            let root = match kept {
                0 => start.tip().state_root,
                _ => world.chain.blocks[usize::try_from(kept).unwrap() - 1].0.header.state_root,
            };
            let proof = StateProof::new(&store, kept, &Key::Summary).unwrap();
            prop_assert!(proof.verify(&root, &Key::Summary).unwrap().is_some());
        }
        prop_assert_eq!(index(&store), index(&world.chain.store));
    }
}
