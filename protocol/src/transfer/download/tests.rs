use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use super::*;
use crate::{
    index::ShardIndex,
    ledger::{Keeper, ShardRecord},
    test_support,
};

const ANSWER_MS: u64 = 10;

/// Scripted members on a virtual clock.
struct World {
    download: Download,
    /// Positions in the committee, by name.
    positions: BTreeMap<NodeId, usize>,
    members_of: Vec<usize>,
    silent: BTreeSet<usize>,
    unreachable: BTreeSet<usize>,
    liars: BTreeSet<usize>,
    empty: BTreeSet<usize>,
    /// Answer `Busy` until this time.
    busy_until_ms: u64,
    in_flight: VecDeque<(u64, usize, SliverPairIndex)>,
    now_ms: u64,
    asked: Vec<SliverPairIndex>,
    /// Whom, in the same order.
    asked_of: Vec<usize>,
    emitted: Vec<usize>,
    decoded: Vec<usize>,
    failure: Option<DownloadFailure>,
    done: bool,
}

const BLOB: BlobId = BlobId::new([3; 32]);

/// Seven members and 64 shards, of which those of `moving` are not ready: their last holder is the
/// next member.
fn holders(moving: &[u16]) -> Holders {
    let committee = Arc::new(test_support::committee(7, 64).in_epoch(Epoch::new(2)));
    let node = |position: usize| committee.members()[position % 7].node;
    let record = |shard: u16| {
        let holder = committee.holder(ShardIndex::new(shard));
        if !moving.contains(&shard) {
            return ShardRecord::settled(node(holder));
        }
        let last_ready = node(holder + 1);
        let keeper = Keeper { node: last_ready, until: Epoch::new(2), complete: true };
        ShardRecord { ready_since: None, last_ready, keepers: vec![keeper] }
    };
    let shards = (0..64).map(record).collect();
    Holders::new(committee, shards).unwrap()
}

impl World {
    fn new(wanted: Range<usize>) -> Self {
        Self::with(&holders(&[]), Epoch::new(1), wanted)
    }

    fn with(holders: &Holders, first_epoch: Epoch, wanted: Range<usize>) -> Self {
        let sources = Sources::new(holders, &BLOB, first_epoch);
        let download = Download::new(DownloadConfig::default(), &sources, wanted);
        let committee = holders.committee();
        let of = |row| committee.holder(BLOB.shard_of(SliverPairIndex::new(row), 64));
        let names = committee.members().iter().enumerate();
        Self {
            download,
            positions: names.map(|(position, member)| (member.node, position)).collect(),
            members_of: (0..64).map(of).collect(),
            silent: BTreeSet::new(),
            unreachable: BTreeSet::new(),
            liars: BTreeSet::new(),
            empty: BTreeSet::new(),
            busy_until_ms: 0,
            in_flight: VecDeque::new(),
            now_ms: 0,
            asked: Vec::new(),
            asked_of: Vec::new(),
            emitted: Vec::new(),
            decoded: Vec::new(),
            failure: None,
            done: false,
        }
    }

    fn name(&self, member: usize) -> NodeId {
        *self.positions.iter().find(|(_, position)| **position == member).unwrap().0
    }

    /// Members that failed.
    fn failed(&self) -> BTreeMap<usize, SliverFault> {
        let faults = self.download.faults().iter();
        faults.map(|(node, fault)| (self.positions[node], *fault)).collect()
    }

    fn input(&mut self, input: DownloadInput) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for output in self.download.handle(self.now_ms, input) {
                match output {
                    DownloadOutput::Ask { node, pair } => {
                        let member = self.positions[&node];
                        self.asked.push(pair);
                        self.asked_of.push(member);
                        if !self.silent.contains(&member) {
                            self.in_flight.push_back((self.now_ms + ANSWER_MS, member, pair));
                        }
                    }
                    DownloadOutput::Emit(rows) => self.emitted.extend(rows),
                    DownloadOutput::Decode(rows) => {
                        self.decoded = rows;
                        inputs.push_back(DownloadInput::Decoded);
                    }
                    DownloadOutput::Done => self.done = true,
                    DownloadOutput::Failed(failure) => self.failure = Some(failure),
                }
            }
        }
    }

    fn run(&mut self) {
        self.input(DownloadInput::Tick);
        for _ in 0..10_000 {
            if self.done || self.failure.is_some() {
                return;
            }
            let wake_ms = self.download.wake_at_ms();
            let answer_ms = self.in_flight.front().map(|(at_ms, ..)| *at_ms);
            if answer_ms.is_some() && (wake_ms.is_none() || answer_ms <= wake_ms) {
                let (at_ms, member, pair) = self.in_flight.pop_front().unwrap();
                self.now_ms = self.now_ms.max(at_ms);
                let node = self.name(member);
                let failed = |fault| DownloadInput::Failed { node, pair, fault };
                self.input(if self.now_ms < self.busy_until_ms {
                    failed(SliverFault::Busy { retry_after_ms: 500 })
                } else if self.unreachable.contains(&member) {
                    failed(SliverFault::NoAnswer)
                } else if self.liars.contains(&member) {
                    failed(SliverFault::Wrong)
                } else if self.empty.contains(&member) {
                    failed(SliverFault::NotFound)
                } else {
                    DownloadInput::Received { node, pair }
                });
            } else {
                let wake_ms = wake_ms.expect("something is left to wait for");
                assert!(wake_ms > self.now_ms, "a wake-up in the past would spin");
                self.now_ms = wake_ms;
                self.input(DownloadInput::Tick);
            }
        }
        panic!("the download does not end: {:?}", self.download);
    }
}

#[test]
fn a_healthy_swarm_is_asked_for_the_systematic_rows_and_nothing_else() {
    let mut world = World::new(0..22);
    world.run();
    assert_eq!(world.emitted, (0..22).collect::<Vec<_>>());
    assert_eq!(world.asked.len(), 22);
    assert!(world.decoded.is_empty());
}

#[test]
fn a_range_touches_only_its_rows() {
    let mut world = World::new(5..7);
    world.run();
    assert_eq!(world.emitted, [5, 6]);
    assert_eq!(world.asked.len(), 2);
}

#[test]
fn an_empty_range_is_done_at_once() {
    let mut world = World::new(0..0);
    world.run();
    assert!(world.done && world.asked.is_empty());
}

#[test]
fn any_four_of_seven_members_may_be_gone() {
    for members in [[0, 1, 2, 3], [3, 4, 5, 6], [0, 2, 4, 6], [1, 2, 5, 6]] {
        let mut world = World::new(0..22);
        world.unreachable = members.into();
        world.run();
        assert_eq!(world.emitted, (0..22).collect::<Vec<_>>(), "{members:?}");
        assert!(world.now_ms < 1_000, "{members:?} took {} ms", world.now_ms);
    }
}

#[test]
fn silent_members_cost_one_hedge_in_all() {
    for members in [vec![0], vec![2, 5], vec![0, 1, 2, 3]] {
        let mut world = World::new(0..22);
        world.silent = members.iter().copied().collect();
        world.run();
        assert_eq!(world.emitted, (0..22).collect::<Vec<_>>(), "{members:?}");
        let config = DownloadConfig::default();
        // Every request to them is late at the same time; what replaces it takes a few answers.
        let bound_ms = config.late_unknown_ms + 12 * ANSWER_MS;
        assert!(world.now_ms <= bound_ms, "{members:?} took {} ms", world.now_ms);
    }
}

#[test]
fn liars_are_replaced_at_once_and_never_asked_again() {
    let mut world = World::new(0..22);
    world.liars = [0, 3].into();
    world.run();
    assert_eq!(world.emitted, (0..22).collect::<Vec<_>>());
    assert!(world.now_ms <= 10 * ANSWER_MS, "took {} ms", world.now_ms);
    assert_eq!(world.failed().get(&0), Some(&SliverFault::Wrong));
    let rows_of_liars = |world: &World| {
        let of_liar =
            |pair: &&SliverPairIndex| world.liars.contains(&world.members_of[pair.as_usize()]);
        world.asked.iter().filter(of_liar).count()
    };
    let asked = rows_of_liars(&world);
    assert!(asked <= DownloadConfig::default().in_flight_max, "{asked} asks of liars");
}

#[test]
fn an_absent_row_of_a_range_is_recovered_from_k1_others() {
    let mut world = World::new(4..5);
    world.empty = [world.members_of[4]].into();
    world.run();
    assert_eq!(world.emitted, [4]);
    assert_eq!(world.decoded, [4]);
    assert_eq!(world.asked.len(), 1 + 22);
}

#[test]
fn too_few_members_end_in_a_failure_that_names_them() {
    let mut world = World::new(0..22);
    world.unreachable = [0, 1, 2, 3, 4].into();
    world.run();
    let failure = world.failure.clone().expect("two of seven hold 18 of 64 shards, 22 are needed");
    assert_eq!(failure.rows_needed, 22);
    assert!(failure.rows < 22);
    assert_eq!(failure.faults.len(), 5);
    assert_eq!(world.failed().into_keys().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert!(world.now_ms < 5_000, "took {} ms", world.now_ms);
}

#[test]
fn a_late_answer_is_still_welcome() {
    let mut world = World::new(0..1);
    let holder = world.members_of[0];
    world.silent = [holder].into();
    world.input(DownloadInput::Tick);
    world.now_ms = DownloadConfig::default().late_unknown_ms;
    world.input(DownloadInput::Tick);
    assert!(world.asked.len() > 1, "hedged");
    let node = world.name(holder);
    world.input(DownloadInput::Received { node, pair: SliverPairIndex::new(0) });
    assert!(world.done && world.emitted == [0] && world.decoded.is_empty());
}

#[test]
fn a_swarm_that_is_busy_for_a_while_is_waited_for() {
    let mut world = World::new(0..22);
    world.unreachable = [0, 1, 2, 3].into();
    world.busy_until_ms = 4_000;
    world.run();
    assert_eq!(world.emitted, (0..22).collect::<Vec<_>>());
    assert!(world.now_ms < 10_000, "took {} ms", world.now_ms);
}

#[test]
fn a_member_that_is_back_is_asked_although_a_better_one_is_silent() {
    // Only two members are left that could complete the read: one answered and fell silent, the
    // other failed at first and is back.
    let mut world = World::new(0..22);
    world.unreachable = [0, 1, 2, 3].into();
    world.silent = [4].into();
    world.run();
    let failure = world.failure.clone().expect("two of seven members are too few");
    assert!(failure.rows > 0 && failure.rows < 22, "{failure:?}");
    assert_eq!(world.failed().get(&4), Some(&SliverFault::NoAnswer));
}

#[test]
fn hedging_at_most_doubles_what_is_on_the_wire() {
    let mut world = World::new(0..22);
    world.silent = (0..7).collect();
    world.input(DownloadInput::Tick);
    for _ in 0..5 {
        world.now_ms += DownloadConfig::default().late_unknown_ms;
        world.input(DownloadInput::Tick);
    }
    assert!(world.asked.len() <= 2 * DownloadConfig::default().in_flight_max);
}

/// The shards of the wanted rows of a read.
fn shards_of(rows: Range<u16>) -> Vec<u16> {
    rows.map(|row| BLOB.shard_of(SliverPairIndex::new(row), 64).get()).collect()
}

#[test]
fn moving_shards_are_read_from_who_had_them_and_new_blobs_from_who_gets_them() {
    let holders = holders(&shards_of(0..22));
    for (first_epoch, offset) in [(1, 1), (2, 0)] {
        let mut world = World::with(&holders, Epoch::new(first_epoch), 0..22);
        world.run();
        assert_eq!(world.emitted, (0..22).collect::<Vec<_>>());
        assert_eq!(world.asked.len(), 22);
        for (pair, of) in world.asked.iter().zip(&world.asked_of) {
            assert_eq!(*of, (world.members_of[pair.as_usize()] + offset) % 7, "{pair}");
        }
    }
}

#[test]
fn the_second_holder_is_asked_before_other_rows_replace_what_the_first_lacks() {
    let holders = holders(&shards_of(0..22));
    let first = |world: &World, row: usize| (world.members_of[row] + 1) % 7;
    for fault in ["gone", "empty", "lies", "silent"] {
        let mut world = World::with(&holders, Epoch::new(1), 0..22);
        let one = first(&world, 0);
        match fault {
            "gone" => world.unreachable = [one].into(),
            "empty" => world.empty = [one].into(),
            "lies" => world.liars = [one].into(),
            _ => world.silent = [one].into(),
        }
        world.run();
        assert_eq!(world.emitted, (0..22).collect::<Vec<_>>(), "{fault}");
        assert!(world.decoded.is_empty(), "{fault}: the second holders have all of them");
        assert!(world.asked.iter().all(|pair| pair.as_usize() < 22), "{fault}");
    }
}

#[test]
fn a_read_that_has_failed_goes_on_with_what_it_has_when_shards_have_moved() {
    // Five of seven are gone; then their shards are with the two others.
    let mut world = World::new(0..22);
    world.unreachable = [0, 1, 2, 3, 4].into();
    world.run();
    let failure = world.failure.take().expect("too few");
    assert!(failure.rows > 0);
    let sources = Sources::new(&holders(&[]), &BLOB, Epoch::new(1));
    assert!(!world.download.resume(&sources), "nobody else is named");
    let (here, rows) = (world.name(6), vec![vec![world.name(6)]; 64]);
    let asked = world.asked.len();
    assert!(world.download.resume(&Sources { k1: 22, rows }));
    world.run();
    assert_eq!(world.emitted, (0..22).collect::<Vec<_>>());
    assert!(world.asked_of[asked..].iter().all(|of| world.name(*of) == here));
    let again = |pair: &SliverPairIndex| world.members_of[pair.as_usize()] > 4;
    assert!(!world.asked[asked..].iter().any(again), "what has been received stays");
}
