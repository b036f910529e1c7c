//! The plan of an epoch change: every combination, and that no sequence of committees loses a
//! blob, whatever liars say.

#![expect(clippy::unwrap_used, reason = "a test fails where it can't go on")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use floe_protocol::{
    bft,
    committee::{Committee, Member},
    holders::Holders,
    index::{Epoch, ShardIndex},
    keys::{BlsPublicKey, NodeId},
    ledger::{KEEPERS_MAX, Keeper, ShardRecord, Timestamp},
    migration::{Fetches, Holding, MigrationPlan, moved, moved_minimum, plan},
};
use proptest::{
    collection::{btree_set, vec},
    prelude::*,
};

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

fn keeper(i: u8, until: u64, complete: bool) -> Keeper {
    Keeper { node: node(i), until: Epoch::new(until), complete }
}

fn record(ready: bool, last_ready: u8, keepers: &[Keeper]) -> ShardRecord {
    let ready_since = ready.then_some(Timestamp::from_ms(0));
    ShardRecord { ready_since, last_ready: node(last_ready), keepers: keepers.to_vec() }
}

fn planned(me: u8) -> MigrationPlan {
    let (kept, fetched) = (Vec::new(), BTreeMap::new());
    let (guarded, released) = (Vec::new(), Vec::new());
    MigrationPlan { node: node(me), kept, fetched, guarded, released }
}

#[test]
fn every_combination_has_its_place() {
    use Holding::{Complete, Partial};
    let running = Arc::new(committee(4, &[1, 1, 1, 1, 2, 2, 2, 2, 2, 2]));
    let next = committee(5, &[2, 2, 2, 2, 1, 1, 2, 2, 2, 2]);
    let moved = [keeper(2, 4, true)];
    let kept = [keeper(1, 4, false), keeper(3, 4, true)];
    let records = vec![
        record(true, 1, &[]),
        record(true, 1, &[]),
        record(false, 2, &moved),
        record(false, 2, &moved),
        record(true, 2, &[]),
        record(true, 2, &[]),
        record(true, 2, &kept),
        record(false, 1, &[keeper(1, 4, true)]),
        record(true, 2, &[]),
        record(true, 2, &[keeper(3, 4, true)]),
    ];
    let holders = Holders::new(Arc::clone(&running), records).unwrap();
    let here = [
        Some(Complete),
        Some(Partial),
        Some(Partial),
        None,
        None,
        Some(Complete),
        Some(Partial),
        Some(Complete),
        Some(Partial),
        Some(Complete),
    ];
    let here = (0..).map(ShardIndex::new).zip(here);
    let here: BTreeMap<_, _> = here.filter_map(|(shard, held)| Some((shard, held?))).collect();
    let fetched = [(1, vec![]), (2, moved.to_vec()), (3, moved.to_vec())];
    let fetched = fetched.map(|(shard, from)| (ShardIndex::new(shard), from)).into();
    let expected = MigrationPlan {
        kept: shards([0]),
        fetched,
        guarded: shards([5, 6, 7]),
        released: shards([8, 9]),
        ..planned(1)
    };
    assert_eq!(plan(&holders, Some(&next), &node(1), &here), expected);
    let expected =
        MigrationPlan { guarded: shards([6, 7]), released: shards([5, 8, 9]), ..expected };
    assert_eq!(plan(&holders, None, &node(1), &here), expected, "nothing comes back");
    assert_eq!(plan(&holders, Some(&next), &node(9), &BTreeMap::new()), planned(9));
    let all = (0..10).map(|shard| (ShardIndex::new(shard), Complete)).collect();
    let left = MigrationPlan { released: (0..10).map(ShardIndex::new).collect(), ..planned(9) };
    assert_eq!(plan(&holders, Some(&next), &node(9), &all), left);
}

#[test]
fn pairs_come_from_who_held_their_shard_then_if_it_is_fit() {
    let running = Arc::new(committee(6, &[1, 1, 1, 2, 3, 4]));
    let records = vec![
        record(true, 1, &[keeper(9, 5, true)]),
        record(false, 2, &[keeper(9, 2, true), keeper(2, 4, true), keeper(3, 6, false)]),
        record(false, 1, &[keeper(1, 5, true), keeper(4, 6, false)]),
        record(true, 2, &[]),
        record(true, 3, &[]),
        record(true, 4, &[]),
    ];
    let holders = Holders::new(running, records).unwrap();
    let own = shards([0, 1, 2]);
    let here = own.iter().map(|shard| (*shard, Holding::Partial)).collect();
    let plan = plan(&holders, None, &node(1), &here);
    let foreign = shards([1, 3]);
    let lacks = [(1, &own), (3, &own), (4, &own), (5, &own), (6, &own), (5, &foreign)];
    let lacks = lacks.map(|(epoch, shards)| (Epoch::new(epoch), &shards[..]));
    let Fetches { copies, recoveries } = plan.fetches(lacks, |_| true);
    let copied = [((2, 1), vec![0, 1]), ((3, 1), vec![2, 3, 5]), ((4, 2), vec![3])];
    let copied = copied.map(|((from, shard), at)| ((node(from), ShardIndex::new(shard)), at));
    assert_eq!(copies, copied.into());
    let recovered = [
        (0, shards([0, 2])),
        (1, shards([0, 2])),
        (2, shards([0, 2])),
        (3, shards([0])),
        (4, shards([0, 1, 2])),
    ];
    assert_eq!(recoveries, recovered.into(), "ready, its own before, or never elsewhere");
    let Fetches { copies, recoveries } = plan.fetches(lacks, |from| *from != node(3));
    assert_eq!(copies.len(), 2);
    assert_eq!(recoveries[&3], shards([0, 1]));
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
    /// The epoch ends, if it may; these are the next holders.
    Change(Vec<u8>),
    /// The same, and shards that are not ready return to who last had them complete.
    Return,
    /// A blob is certified; these shards of honest holders were passed by.
    Certify(BTreeSet<u16>),
    /// A holder fetches all that it lacks of a shard and reports it ready.
    Complete(u16),
    /// A node is cut off while it fetches: it has only one more blob.
    FetchOne(u16),
}

const SHARDS: u16 = 7;
/// Shards whose holders may be faulty, and pairs that a blob needs.
const F: usize = 2;
const K1: usize = 3;
const NODES: u8 = 9;
/// The last nodes lie if any do: they say that they are ready, and have nothing.
const LIARS: u8 = 2;

fn holders() -> impl Strategy<Value = Vec<u8>> {
    vec(0..NODES, usize::from(SHARDS))
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => holders().prop_map(Happening::Change),
        1 => Just(Happening::Return),
        2 => btree_set(0..SHARDS, 0..=F).prop_map(Happening::Certify),
        8 => (0..SHARDS).prop_map(Happening::Complete),
        1 => (0..SHARDS).prop_map(Happening::FetchOne),
    ]
}

/// Who has which blobs of which shards, and what the ledger says of them.
struct Swarm {
    liars: u8,
    holders: Holders,
    /// The first epoch of each blob.
    blobs: Vec<Epoch>,
    copies: BTreeMap<(NodeId, ShardIndex), BTreeSet<usize>>,
    changes: u32,
}

fn all_shards() -> impl Iterator<Item = ShardIndex> {
    (0..SHARDS).map(ShardIndex::new)
}

impl Swarm {
    fn new(liars: u8, first: &[u8]) -> Self {
        let first = committee(0, &honest(liars, first));
        let holder = |shard| first.members()[first.holder(shard)].node;
        let records = all_shards().map(|shard| ShardRecord::settled(holder(shard))).collect();
        let holders = Holders::new(Arc::new(first), records).unwrap();
        Self { liars, holders, blobs: Vec::new(), copies: BTreeMap::new(), changes: 0 }
    }

    fn lies(&self, node: &NodeId) -> bool {
        node.as_bytes()[0] >= NODES - self.liars
    }

    fn records(&self) -> Vec<ShardRecord> {
        all_shards().map(|shard| self.holders.shard(shard).clone()).collect()
    }

    fn put(&mut self, committee: Arc<Committee>, records: Vec<ShardRecord>) {
        self.holders = Holders::new(committee, records).unwrap();
    }

    fn plan(&self, me: &NodeId) -> MigrationPlan {
        let own = self.copies.iter().filter(|((node, _), _)| node == me);
        let here = own.map(|((_, shard), blobs)| {
            let complete = blobs.len() == self.blobs.len();
            (*shard, if complete { Holding::Complete } else { Holding::Partial })
        });
        plan(&self.holders, None, me, &here.collect())
    }

    /// Whether the ledger lets the epoch end before this committee.
    fn may_end(&self, next: &Committee) -> bool {
        let counted = all_shards().filter(|shard| {
            let record = self.holders.shard(*shard);
            record.is_ready() || next.members()[next.holder(*shard)].node == record.last_ready
        });
        bft::is_quorum(u16::try_from(counted.count()).unwrap(), SHARDS)
    }

    fn change(&mut self, next: &[u8]) {
        let running = Arc::clone(self.holders.committee());
        let next = Arc::new(committee(running.epoch().get() + 1, &honest(self.liars, next)));
        if !self.may_end(&next) {
            return;
        }
        // What their writers did not bring has come to honest holders after a whole epoch.
        for shard in all_shards() {
            if self.holders.shard(shard).is_ready() {
                self.fetch(shard, usize::MAX);
            }
        }
        let mut records = self.records();
        ShardRecord::change_epoch(&mut records, &running, &next);
        let fewest = moved_minimum(&running, &next);
        assert!(fewest <= moved(&running, &next));
        self.put(next, records);
        self.changes += 1;
        for shard in all_shards() {
            if self.lies(&self.holders.holder(shard)) {
                self.report(shard);
            }
        }
    }

    fn report(&mut self, shard: ShardIndex) {
        let mut records = self.records();
        records[shard.as_usize()].report_ready(self.holders.holder(shard), Timestamp::from_ms(1));
        self.put(Arc::clone(self.holders.committee()), records);
    }

    /// The holder of a shard gets so many more blobs of earlier epochs: all can be recovered.
    fn fetch(&mut self, shard: ShardIndex, blobs_max: usize) {
        let (holder, epoch) = (self.holders.holder(shard), self.holders.committee().epoch());
        if !self.lies(&holder) {
            let earlier = (0..self.blobs.len()).filter(|blob| self.blobs[*blob] < epoch);
            let copy = self.copies.entry((holder, shard)).or_default();
            let missing: Vec<_> = earlier.filter(|blob| !copy.contains(blob)).collect();
            copy.extend(missing.into_iter().take(blobs_max));
        }
    }

    fn apply(&mut self, happening: &Happening) {
        match happening {
            Happening::Change(next) => self.change(next),
            Happening::Return => {
                let back = |shard| {
                    let record = self.holders.shard(shard);
                    let holder = self.holders.holder(shard);
                    let back = if record.is_ready() { holder } else { record.last_ready };
                    back.as_bytes()[0]
                };
                let next: Vec<_> = all_shards().map(back).collect();
                self.change(&next);
            }
            Happening::Certify(passed_by) => {
                for shard in all_shards().filter(|shard| !passed_by.contains(&shard.get())) {
                    let holder = self.holders.holder(shard);
                    if !self.lies(&holder) {
                        let copy = self.copies.entry((holder, shard)).or_default();
                        copy.insert(self.blobs.len());
                    }
                }
                self.blobs.push(self.holders.committee().epoch());
            }
            Happening::Complete(shard) => {
                self.fetch(ShardIndex::new(*shard), usize::MAX);
                self.report(ShardIndex::new(*shard));
            }
            Happening::FetchOne(shard) => self.fetch(ShardIndex::new(*shard), 1),
        }
        self.follow_plans();
    }

    /// All nodes delete at once whatever they may; each shard has its place in their plans.
    fn follow_plans(&mut self) {
        for me in (0..NODES).map(node) {
            let plan = self.plan(&me);
            let mut all = [&plan.kept[..], &plan.guarded, &plan.released].concat();
            all.extend(plan.fetched.keys());
            all.sort_unstable();
            let concerns = |shard: &ShardIndex| {
                self.holders.holder(*shard) == me || self.copies.contains_key(&(me, *shard))
            };
            assert!(all_shards().filter(concerns).eq(all));
            for shard in plan.released {
                self.copies.remove(&(me, shard));
            }
        }
    }

    /// Whether somebody whom the ledger names has the pair of a shard.
    fn has(&self, blob: usize, shard: ShardIndex) -> bool {
        self.holders
            .of(shard, self.blobs[blob])
            .any(|node| self.copies.get(&(node, shard)).is_some_and(|copy| copy.contains(&blob)))
    }
}

/// These holders, but no more than `F` shards with liars.
fn honest(liars: u8, holders: &[u8]) -> Vec<u8> {
    let mut left = F;
    let holders = holders.iter().map(|holder| {
        if *holder < NODES - liars {
            return *holder;
        }
        let may = left > 0;
        left = left.saturating_sub(1);
        if may { *holder } else { *holder % (NODES - LIARS) }
    });
    holders.collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, cases: 512, ..ProptestConfig::default()
    })]

    #[test]
    fn no_sequence_of_committees_loses_a_blob_whatever_liars_say(
        first in holders(),
        happenings in vec(happening(), 1..120),
    ) {
        let mut swarm = Swarm::new(LIARS, &first);
        swarm.apply(&Happening::Certify(BTreeSet::new()));
        for happening in &happenings {
            swarm.apply(happening);
            for blob in 0..swarm.blobs.len() {
                let pairs = all_shards().filter(|shard| swarm.has(blob, *shard)).count();
                assert!(pairs >= K1, "blob {blob}: {pairs} pairs left after {happening:?}");
            }
        }
    }

    #[test]
    fn no_sequence_of_honest_committees_loses_a_pair(
        first in holders(),
        happenings in vec(happening(), 1..120),
    ) {
        let mut swarm = Swarm::new(0, &first);
        for happening in &happenings {
            let happening = match happening {
                Happening::Certify(_) => &Happening::Certify(BTreeSet::new()),
                other => other,
            };
            swarm.apply(happening);
            for blob in 0..swarm.blobs.len() {
                for shard in all_shards() {
                    // One that moves on and on and is never ready may be forgotten: it is recovered.
                    let keepers = swarm.holders.shard(shard).keepers.len();
                    let has = keepers == KEEPERS_MAX || swarm.has(blob, shard);
                    assert!(has, "pair of blob {blob} in shard {shard}");
                }
            }
        }
    }
}
