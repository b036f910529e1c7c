//! The plan of an epoch change: every combination, and that no sequence of committees loses a
//! shard.

#![expect(clippy::unwrap_used, reason = "a test fails where it can't go on")]

use std::collections::{BTreeMap, BTreeSet};

use floe_protocol::{
    committee::{Committee, Member},
    index::{Epoch, ShardIndex},
    keys::{BlsPublicKey, NodeId},
    ledger::ShardRecord,
    migration::{Holding, MigrationPlan, Move, may_delete, moved, moved_minimum, plan},
};
use proptest::{collection::vec, prelude::*};

fn node(i: u8) -> NodeId {
    NodeId::new([i; 32])
}

/// The committee in which node `holders[j]` holds shard `j`.
fn committee(epoch: u64, holders: &[u8]) -> Committee {
    let nodes: BTreeSet<_> = holders.iter().copied().collect();
    let member = |i: u8| Member {
        node: node(i),
        bls_key: BlsPublicKey::new([i; 48]),
        shards: (0..)
            .zip(holders)
            .filter(|(_, holder)| **holder == i)
            .map(|(shard, _)| ShardIndex::new(shard))
            .collect(),
    };
    let members: Vec<_> = nodes.into_iter().map(member).collect();
    let n_shards = u16::try_from(holders.len()).unwrap();
    Committee::from_bytes(&borsh::to_vec(&(Epoch::new(epoch), n_shards, members)).unwrap()).unwrap()
}

fn shards<const N: usize>(numbers: [u16; N]) -> Vec<ShardIndex> {
    numbers.map(ShardIndex::new).to_vec()
}

fn shard_move(shard: u16, other: u8) -> Move {
    Move { shard: ShardIndex::new(shard), other: node(other) }
}

#[test]
fn every_combination_has_its_place() {
    use Holding::{Complete, Partial};
    //                    before and after   before only    after only     neither
    let previous = committee(3, &[1, 1, 1, 1, 1, 1, 2, 3, 4, 2, 3, 4]);
    let next = committee(4, &[1, 1, 1, 2, 3, 4, 1, 1, 1, 3, 2, 4]);
    let held = [None, Some(Partial), Some(Complete)];
    let holdings = (0..12).map(ShardIndex::new).zip(held.into_iter().cycle());
    let holdings = holdings.filter_map(|(shard, held)| Some((shard, held?))).collect();
    let plan = plan(&previous, &next, &node(1), &holdings);
    assert_eq!(
        plan,
        MigrationPlan {
            kept: shards([2]),
            incomplete: shards([0, 1]),
            gained: vec![shard_move(6, 2)],
            returned: vec![shard_move(7, 3), shard_move(8, 4)],
            lost: vec![shard_move(4, 3), shard_move(5, 4), shard_move(10, 2), shard_move(11, 4),],
        }
    );
}

#[test]
fn strangers_newcomers_and_leavers_have_a_plan() {
    let previous = committee(0, &[1, 2, 3, 4]);
    let next = committee(1, &[1, 2, 3, 5]);
    let none = BTreeMap::new();
    assert_eq!(plan(&previous, &next, &node(9), &none), MigrationPlan::default());
    let joins = plan(&previous, &next, &node(5), &none);
    assert_eq!(joins, MigrationPlan { gained: vec![shard_move(3, 4)], ..Default::default() });
    let held = BTreeMap::from([(ShardIndex::new(3), Holding::Complete)]);
    let leaves = plan(&previous, &next, &node(4), &held);
    assert_eq!(leaves, MigrationPlan { lost: vec![shard_move(3, 5)], ..Default::default() });
    let stays = plan(&previous, &previous.in_epoch(Epoch::new(1)), &node(4), &held);
    assert_eq!(stays, MigrationPlan { kept: shards([3]), ..Default::default() });
    // No longer in either committee, and the shard has moved on: it is still not forgotten.
    let later = committee(2, &[1, 2, 3, 1]);
    let kept = plan(&next, &later, &node(4), &held);
    assert_eq!(kept, MigrationPlan { lost: vec![shard_move(3, 1)], ..Default::default() });
}

#[test]
fn a_copy_is_deleted_only_when_another_holder_is_ready() {
    let committee = committee(5, &[1, 2, 3, 4]);
    let may = |me, ready, last_ready| {
        let record = ShardRecord { ready, last_ready: node(last_ready) };
        may_delete(ShardIndex::new(2), &node(me), &committee, &record)
    };
    assert!(!may(3, true, 3), "the holder's own");
    assert!(!may(3, false, 1), "the holder's own, on its way");
    assert!(!may(3, false, 3), "returned to the holder");
    assert!(!may(1, false, 1), "the last that had it all");
    assert!(!may(2, false, 1), "an interim holder, before anybody has it all again");
    assert!(!may(2, false, 3), "an interim holder, of a shard that returned");
    assert!(may(1, true, 3), "the one before");
    assert!(may(2, true, 3), "an interim holder");
}

#[test]
fn moves_are_counted_against_the_fewest_possible() {
    for (before, after, all, fewest) in [
        ([1, 2, 3, 4, 1, 2], [1, 2, 3, 4, 1, 2], 0, 0),
        ([1, 2, 3, 4, 1, 2], [1, 2, 3, 4, 5, 2], 1, 1),
        ([1, 2, 3, 4, 1, 2], [1, 2, 3, 4, 5, 5], 2, 2),
        ([1, 2, 3, 4, 1, 2], [2, 1, 3, 4, 1, 2], 2, 0),
        ([1, 2, 3, 4, 1, 2], [5, 6, 7, 8, 5, 6], 6, 6),
        ([1, 1, 2, 2, 3, 3], [1, 2, 2, 3, 3, 3], 2, 1),
    ] {
        let (before, after) = (committee(1, &before), committee(2, &after));
        assert_eq!(moved(&before, &after), all);
        assert_eq!(moved_minimum(&before, &after), fewest);
    }
}

/// What happens in a swarm, by chance.
#[derive(Clone, Debug)]
enum Happening {
    /// The epoch ends; these are the next holders.
    Change(Vec<u8>),
    /// A blob is certified, and stored by all holders.
    Certify,
    /// A holder copies what it can find of a shard, from all who have something, and reports it
    /// ready if it has everything.
    Complete(u16),
    /// A node is cut off while it copies: it has only one more blob.
    CopyOne(u16),
    /// A node deletes what it may.
    Delete(u8),
}

const SHARDS: u16 = 5;
const NODES: u8 = 6;

fn holders() -> impl Strategy<Value = Vec<u8>> {
    vec(0..NODES, usize::from(SHARDS))
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        holders().prop_map(Happening::Change),
        Just(Happening::Certify),
        (0..SHARDS).prop_map(Happening::Complete),
        (0..SHARDS).prop_map(Happening::CopyOne),
        (0..NODES).prop_map(Happening::Delete),
    ]
}

/// Who has which blobs of which shards, and what the ledger says of them.
struct Swarm {
    committee: Committee,
    records: Vec<ShardRecord>,
    blobs: u32,
    copies: BTreeMap<(NodeId, ShardIndex), BTreeSet<u32>>,
}

impl Swarm {
    fn new(holders: &[u8]) -> Self {
        let committee = committee(0, holders);
        let record = |holder: &u8| ShardRecord { ready: true, last_ready: node(*holder) };
        let records = holders.iter().map(record).collect();
        Self { committee, records, blobs: 0, copies: BTreeMap::new() }
    }

    fn holder(&self, shard: ShardIndex) -> NodeId {
        self.committee.members()[self.committee.holder(shard)].node
    }

    fn holdings(&self, me: &NodeId) -> BTreeMap<ShardIndex, Holding> {
        let own = self.copies.iter().filter(|((node, _), _)| node == me);
        own.map(|((_, shard), blobs)| {
            let complete = blobs.len() == usize::try_from(self.blobs).unwrap();
            (*shard, if complete { Holding::Complete } else { Holding::Partial })
        })
        .collect()
    }

    fn change(&mut self, holders: &[u8]) {
        let next = committee(self.committee.epoch().get() + 1, holders);
        let plans: Vec<_> = (0..NODES)
            .map(node)
            .map(|me| {
                let plan = plan(&self.committee, &next, &me, &self.holdings(&me));
                self.check_plan(&next, &me, &plan);
                plan
            })
            .collect();
        let returned: usize = plans.iter().map(|plan| plan.returned.len()).sum();
        let gained: usize = plans.iter().map(|plan| plan.gained.len()).sum();
        assert_eq!((returned + gained) as u64, moved(&self.committee, &next));
        assert!(moved_minimum(&self.committee, &next) <= moved(&self.committee, &next));
        for (shard, record) in (0..SHARDS).map(ShardIndex::new).zip(&mut self.records) {
            let holder = |committee: &Committee| committee.members()[committee.holder(shard)].node;
            record.ready &= holder(&self.committee) == holder(&next);
        }
        self.committee = next;
    }

    /// Each shard that is the node's or here is in the plan once, and no other.
    fn check_plan(&self, next: &Committee, me: &NodeId, plan: &MigrationPlan) {
        let moves = [&plan.gained, &plan.returned, &plan.lost];
        let planned = moves.into_iter().flatten().map(|moving| moving.shard);
        let mut planned: Vec<_> =
            planned.chain(plan.kept.iter().chain(&plan.incomplete).copied()).collect();
        planned.sort_unstable();
        let concerns = |shard: &ShardIndex| {
            let own = next.members()[next.holder(*shard)].node == *me;
            own || self.copies.contains_key(&(*me, *shard))
        };
        let concerning = (0..SHARDS).map(ShardIndex::new).filter(concerns);
        assert!(concerning.eq(planned));
        for moving in moves.into_iter().flatten() {
            assert_ne!(moving.other, *me);
        }
    }

    fn apply(&mut self, happening: &Happening) {
        match happening {
            Happening::Change(holders) => self.change(holders),
            Happening::Certify => {
                for shard in (0..SHARDS).map(ShardIndex::new) {
                    let copy = self.copies.entry((self.holder(shard), shard)).or_default();
                    copy.insert(self.blobs);
                }
                self.blobs += 1;
            }
            Happening::Complete(shard) => {
                let shard = ShardIndex::new(*shard);
                let all = self.of_shard(shard);
                let holder = self.holder(shard);
                self.copies.insert((holder, shard), all);
                let record = &mut self.records[shard.as_usize()];
                *record = ShardRecord { ready: true, last_ready: holder };
            }
            Happening::CopyOne(shard) => {
                let shard = ShardIndex::new(*shard);
                let all = self.of_shard(shard);
                let copy = self.copies.entry((self.holder(shard), shard)).or_default();
                let missing = all.into_iter().find(|blob| !copy.contains(blob));
                copy.extend(missing);
            }
            Happening::Delete(i) => {
                let me = node(*i);
                let (committee, records) = (&self.committee, &self.records);
                self.copies.retain(|(node, shard), _| {
                    let record = &records[shard.as_usize()];
                    *node != me || !may_delete(*shard, &me, committee, record)
                });
            }
        }
    }

    /// Blobs of which anybody has the pair of this shard.
    fn of_shard(&self, shard: ShardIndex) -> BTreeSet<u32> {
        let copies = self.copies.iter().filter(|((_, of), _)| *of == shard);
        copies.flat_map(|(_, blobs)| blobs).copied().collect()
    }

    /// Every pair is with somebody, who is bound to keep it.
    fn check(&self) {
        for shard in (0..SHARDS).map(ShardIndex::new) {
            let record = &self.records[shard.as_usize()];
            let bound = self.copies.iter().filter(|((node, of), _)| {
                *of == shard && !may_delete(shard, node, &self.committee, record)
            });
            let kept: BTreeSet<_> = bound.flat_map(|(_, blobs)| blobs).copied().collect();
            assert_eq!(kept, (0..self.blobs).collect(), "shard {shard}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, cases: 2048, ..ProptestConfig::default()
    })]

    #[test]
    fn no_sequence_of_committees_loses_a_pair(
        first in holders(),
        happenings in vec(happening(), 1..60),
    ) {
        let mut swarm = Swarm::new(&first);
        swarm.apply(&Happening::Certify);
        for happening in &happenings {
            swarm.apply(happening);
            swarm.check();
        }
    }
}
