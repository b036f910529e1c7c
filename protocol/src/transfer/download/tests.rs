use std::collections::{BTreeSet, VecDeque};

use super::*;
use crate::test_support;

const ANSWER_MS: u64 = 10;

/// Scripted members on a virtual clock.
struct World {
    download: Download,
    members_of: Vec<usize>,
    silent: BTreeSet<usize>,
    unreachable: BTreeSet<usize>,
    liars: BTreeSet<usize>,
    empty: BTreeSet<usize>,
    /// Answer `Busy` until this time.
    busy_until_ms: u64,
    in_flight: VecDeque<(u64, SliverPairIndex)>,
    now_ms: u64,
    asked: Vec<SliverPairIndex>,
    emitted: Vec<usize>,
    decoded: Vec<usize>,
    failure: Option<DownloadFailure>,
    done: bool,
}

impl World {
    fn new(wanted: Range<usize>) -> Self {
        let committee = test_support::committee(7, 64);
        let blob = BlobId::new([3; 32]);
        let download = Download::new(DownloadConfig::default(), &committee, &blob, wanted);
        let members_of = download.rows.iter().map(|row| row.member).collect();
        Self {
            download,
            members_of,
            silent: BTreeSet::new(),
            unreachable: BTreeSet::new(),
            liars: BTreeSet::new(),
            empty: BTreeSet::new(),
            busy_until_ms: 0,
            in_flight: VecDeque::new(),
            now_ms: 0,
            asked: Vec::new(),
            emitted: Vec::new(),
            decoded: Vec::new(),
            failure: None,
            done: false,
        }
    }

    fn input(&mut self, input: DownloadInput) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for output in self.download.handle(self.now_ms, input) {
                match output {
                    DownloadOutput::Ask { member, pair } => {
                        assert_eq!(self.members_of[pair.as_usize()], member);
                        self.asked.push(pair);
                        if !self.silent.contains(&member) {
                            self.in_flight.push_back((self.now_ms + ANSWER_MS, pair));
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
            let answer_ms = self.in_flight.front().map(|(at_ms, _)| *at_ms);
            if answer_ms.is_some() && (wake_ms.is_none() || answer_ms <= wake_ms) {
                let (at_ms, pair) = self.in_flight.pop_front().unwrap();
                self.now_ms = self.now_ms.max(at_ms);
                let member = self.members_of[pair.as_usize()];
                let failed = |fault| DownloadInput::Failed { pair, fault };
                self.input(if self.now_ms < self.busy_until_ms {
                    failed(SliverFault::Busy { retry_after_ms: 500 })
                } else if self.unreachable.contains(&member) {
                    failed(SliverFault::NoAnswer)
                } else if self.liars.contains(&member) {
                    failed(SliverFault::Wrong)
                } else if self.empty.contains(&member) {
                    failed(SliverFault::NotFound)
                } else {
                    DownloadInput::Received { pair }
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
    assert_eq!(world.download.faults().get(&0), Some(&SliverFault::Wrong));
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
    let failure = world.failure.expect("two of seven hold 18 of 64 shards, 22 are needed");
    assert_eq!(failure.rows_needed, 22);
    assert!(failure.rows < 22);
    assert_eq!(failure.faults.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
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
    world.input(DownloadInput::Received { pair: SliverPairIndex::new(0) });
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
    let failure = world.failure.expect("two of seven members are too few");
    assert!(failure.rows > 0 && failure.rows < 22, "{failure:?}");
    assert_eq!(failure.faults.get(&4), Some(&SliverFault::NoAnswer));
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
