use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{index::ShardIndex, test_support};

const PAIR_BYTES: usize = 1_000;

/// Scripted members: what each keeps, and how it answers.
struct World {
    upload: Upload,
    blob: BlobId,
    kept: BTreeMap<usize, BTreeSet<SliverPairIndex>>,
    tables: BTreeSet<usize>,
    silent: BTreeSet<usize>,
    /// Take pairs and never answer.
    swallowing: BTreeSet<usize>,
    forgetful: BTreeSet<usize>,
    /// Members that hold other shards than the writer thinks.
    moved: BTreeSet<usize>,
    queue: VecDeque<(usize, Ask)>,
    now_ms: u64,
    asked: Vec<(usize, Ask)>,
    ends: Vec<UploadOutput>,
    bytes_max: usize,
}

impl World {
    fn new(nodes: usize, n_shards: u16, config: UploadConfig) -> Self {
        let committee = test_support::committee(nodes, n_shards);
        let blob = BlobId::new([7; 32]);
        let upload = Upload::new(config, committee, &blob, PAIR_BYTES, 0);
        Self {
            upload,
            blob,
            kept: BTreeMap::new(),
            tables: BTreeSet::new(),
            silent: BTreeSet::new(),
            swallowing: BTreeSet::new(),
            forgetful: BTreeSet::new(),
            moved: BTreeSet::new(),
            queue: VecDeque::new(),
            now_ms: 0,
            asked: Vec::new(),
            ends: Vec::new(),
            bytes_max: 0,
        }
    }

    fn input(&mut self, input: UploadInput) {
        for output in self.upload.handle(self.now_ms, input) {
            match output {
                UploadOutput::Ask { member, ask } => {
                    self.asked.push((member, ask));
                    self.queue.push_back((member, ask));
                }
                end => self.ends.push(end),
            }
        }
        let pairs = self.queue.iter().filter(|(_, ask)| matches!(ask, Ask::Pair(_))).count();
        self.bytes_max = self.bytes_max.max(pairs * PAIR_BYTES);
    }

    fn pairs_of(&self, member: usize) -> BTreeSet<SliverPairIndex> {
        let committee = &self.upload.committee;
        let shards: &Vec<ShardIndex> = &committee.members()[member].shards;
        shards.iter().map(|shard| self.blob.pair_of(*shard, committee.n_shards())).collect()
    }

    fn missing(&self, member: usize) -> Vec<SliverPairIndex> {
        let kept = self.kept.get(&member).cloned().unwrap_or_default();
        self.pairs_of(member).difference(&kept).copied().collect()
    }

    /// An honest member's answer, or a failure where it is silent.
    fn answer(&mut self, member: usize, ask: Ask) -> UploadInput {
        let failed = |failure| UploadInput::Failed { member, ask, failure };
        if self.silent.contains(&member) {
            return failed(MemberFailure::NoAnswer);
        }
        match ask {
            Ask::Table => {
                self.tables.insert(member);
                UploadInput::TableStored { member, missing: self.missing(member) }
            }
            _ if !self.tables.contains(&member) || self.forgetful.contains(&member) => {
                failed(MemberFailure::Refused(Refusal::TableMissing))
            }
            Ask::Pair(pair) => {
                self.kept.entry(member).or_default().insert(pair);
                UploadInput::Stored { member, pair }
            }
            Ask::Confirm if self.moved.contains(&member) => {
                let others = self.pairs_of((member + 1) % self.upload.members.len());
                UploadInput::Missing { member, pairs: others.into_iter().collect() }
            }
            Ask::Confirm if self.missing(member).is_empty() => UploadInput::Confirmed { member },
            Ask::Confirm => UploadInput::Missing { member, pairs: self.missing(member) },
        }
    }

    /// Answers one ask, or lets time pass to the next wake-up. False when nothing is left.
    fn step(&mut self) -> bool {
        if let Some((member, ask)) = self.queue.pop_front() {
            if self.swallowing.contains(&member) && matches!(ask, Ask::Pair(_)) {
                return true;
            }
            self.now_ms += 1;
            let input = self.answer(member, ask);
            self.input(input);
            return true;
        }
        let Some(wake_at_ms) = self.upload.wake_at_ms() else {
            return false;
        };
        self.now_ms = self.now_ms.max(wake_at_ms);
        self.input(UploadInput::Tick);
        true
    }

    fn run(&mut self) {
        self.input(UploadInput::Tick);
        for _ in 0..10_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the upload does not end: {:?}", self.upload);
    }
}

#[test]
fn everybody_gets_table_then_its_pairs_then_confirm() {
    let mut world = World::new(7, 64, UploadConfig::default());
    world.run();
    assert_eq!(world.ends, [UploadOutput::Quorum, UploadOutput::Finished]);
    assert_eq!(world.upload.confirmed_shards(), 64);
    for member in 0..7 {
        assert_eq!(world.kept[&member], world.pairs_of(member), "member {member}");
        let asked: Vec<_> = world.asked.iter().filter(|(m, _)| *m == member).collect();
        assert_eq!(asked.first(), Some(&&(member, Ask::Table)));
        assert_eq!(asked.last(), Some(&&(member, Ask::Confirm)));
        assert_eq!(asked.len(), 2 + world.pairs_of(member).len(), "nothing is sent twice");
    }
}

#[test]
fn what_is_in_flight_stays_within_the_limit() {
    let config = UploadConfig { in_flight_bytes_max: 3 * PAIR_BYTES + 1, ..Default::default() };
    let mut world = World::new(7, 64, config);
    world.run();
    assert_eq!(world.bytes_max, 3 * PAIR_BYTES);
    assert_eq!(world.upload.confirmed_shards(), 64);
}

#[test]
fn a_pair_above_the_limit_is_sent_alone() {
    let config = UploadConfig { in_flight_bytes_max: 1, ..Default::default() };
    let mut world = World::new(4, 7, config);
    world.run();
    assert_eq!(world.bytes_max, PAIR_BYTES);
    assert_eq!(world.ends, [UploadOutput::Quorum, UploadOutput::Finished]);
}

#[test]
fn two_silent_of_seven_do_not_prevent_a_quorum_and_four_do() {
    let mut world = World::new(7, 64, UploadConfig::default());
    world.silent = [1, 4].into();
    world.run();
    assert_eq!(world.ends, [UploadOutput::Quorum, UploadOutput::Finished]);

    let mut world = World::new(7, 64, UploadConfig::default());
    world.silent = [0, 1, 4, 6].into();
    world.run();
    let [UploadOutput::Failed(failure)] = &world.ends[..] else { panic!("{:?}", world.ends) };
    // Given up as soon as no quorum is possible, not when the last of the four is.
    assert!(failure.failures.len() >= 3);
    assert!(failure.failures.iter().all(|(_, reason)| *reason == MemberFailure::NoAnswer));
}

#[test]
fn a_resumed_upload_sends_only_what_is_missing() {
    let mut world = World::new(7, 64, UploadConfig::default());
    for member in 0..6 {
        world.kept.insert(member, world.pairs_of(member));
    }
    world.run();
    let pairs: Vec<_> = world.asked.iter().filter(|(_, ask)| matches!(ask, Ask::Pair(_))).collect();
    assert!(pairs.iter().all(|(member, _)| *member == 6));
    assert_eq!(pairs.len(), world.pairs_of(6).len());
}

#[test]
fn a_member_that_lost_its_table_gets_it_again() {
    let mut world = World::new(7, 64, UploadConfig::default());
    world.input(UploadInput::Tick);
    for _ in 0..20 {
        world.step();
    }
    world.tables.remove(&3);
    world.kept.remove(&3);
    while world.step() {}
    assert_eq!(world.ends, [UploadOutput::Quorum, UploadOutput::Finished]);
    assert_eq!(world.kept[&3], world.pairs_of(3));
}

#[test]
fn a_member_that_returns_in_time_is_served() {
    let mut world = World::new(7, 64, UploadConfig::default());
    world.silent.insert(2);
    world.input(UploadInput::Tick);
    for _ in 0..10 {
        world.step();
    }
    world.silent.remove(&2);
    while world.step() {}
    assert_eq!(world.upload.confirmed_shards(), 64);
    assert!(world.upload.failures().is_empty());
}

#[test]
fn who_misses_pairs_of_shards_that_are_not_its_own_is_in_another_epoch() {
    let mut world = World::new(7, 64, UploadConfig::default());
    world.moved.extend(0..7);
    world.run();
    let failures = world.upload.failures();
    assert!(!failures.is_empty(), "they weigh too much to go without");
    assert!(failures.iter().all(|(_, failure)| *failure == MemberFailure::OtherEpoch));

    // A member that comes to the writer's epoch confirms.
    let mut world = World::new(7, 64, UploadConfig::default());
    world.moved.insert(5);
    world.input(UploadInput::Tick);
    while world.asked.last() != Some(&(5, Ask::Confirm)) && world.step() {}
    world.step();
    world.moved.clear();
    while world.step() {}
    assert_eq!(world.upload.confirmed_shards(), 64);
}

#[test]
fn a_member_that_loses_pairs_for_ever_is_given_up() {
    let mut world = World::new(7, 64, UploadConfig::default());
    world.input(UploadInput::Tick);
    for _ in 0..10_000 {
        world.kept.remove(&5);
        if !world.step() {
            break;
        }
    }
    assert_eq!(world.upload.failures(), [(5, MemberFailure::LosesPairs)]);
    assert_eq!(world.ends, [UploadOutput::Quorum, UploadOutput::Finished]);
}

#[test]
fn members_that_swallow_pairs_do_not_hold_up_the_others() {
    // Room for two pairs, and two members that keep what they get without a word.
    let config = UploadConfig { in_flight_bytes_max: 2 * PAIR_BYTES, ..Default::default() };
    let mut world = World::new(7, 64, config);
    world.swallowing = [0, 1].into();
    world.run();
    assert_eq!(world.ends, [UploadOutput::Quorum, UploadOutput::Finished]);
    assert!(world.now_ms < 3 * config.late_ms, "took {} ms", world.now_ms);
}

#[test]
fn a_member_that_loses_its_table_for_ever_is_given_up() {
    let mut world = World::new(7, 64, UploadConfig::default());
    world.silent = [0, 1].into();
    world.forgetful = [2].into();
    world.run();
    let [UploadOutput::Failed(failure)] = &world.ends[..] else { panic!("{:?}", world.ends) };
    let table_missing = MemberFailure::Refused(Refusal::TableMissing);
    assert!(failure.failures.contains(&(2, table_missing)), "{failure:?}");
}

/// Answers everything on its way with `Busy`.
fn all_busy(world: &mut World, retry_after_ms: u32) {
    let failure = MemberFailure::Refused(Refusal::Busy { retry_after_ms });
    while let Some((member, ask)) = world.queue.pop_front() {
        world.input(UploadInput::Failed { member, ask, failure });
    }
}

#[test]
fn busy_costs_time_and_no_attempt() {
    let mut world = World::new(7, 64, UploadConfig::default());
    world.input(UploadInput::Tick);
    for _ in 0..15 {
        all_busy(&mut world, 10);
        world.now_ms = world.upload.wake_at_ms().unwrap();
        world.input(UploadInput::Tick);
    }
    assert!(world.upload.failures().is_empty());
    while world.step() {}
    assert_eq!(world.upload.confirmed_shards(), 64);
}

#[test]
fn busy_for_ever_is_a_failure_and_busy_for_no_time_is_not_asked_at_once() {
    let mut world = World::new(7, 64, UploadConfig::default());
    world.input(UploadInput::Tick);
    while world.ends.is_empty() {
        all_busy(&mut world, 0);
        if let Some(wake_at_ms) = world.upload.wake_at_ms() {
            assert!(wake_at_ms >= world.now_ms + UploadConfig::default().retry_delay_ms);
            world.now_ms = wake_at_ms;
            world.input(UploadInput::Tick);
        }
    }
    assert!(matches!(&world.ends[..], [UploadOutput::Failed(_)]), "{:?}", world.ends);
    assert!(world.now_ms <= 2 * UploadConfig::default().busy_max_ms);
}

#[test]
fn one_outage_counts_once_however_long_its_failures_take() {
    let config = UploadConfig { attempts_max: 2, ..Default::default() };
    let mut world = World::new(7, 64, config);
    world.input(UploadInput::Tick);
    // Until member 0 has several pairs on its way.
    while world.queue.iter().filter(|(m, a)| *m == 0 && matches!(a, Ask::Pair(_))).count() < 3 {
        assert!(world.step());
    }
    let lost: Vec<_> = world.queue.iter().filter(|(m, _)| *m == 0).copied().collect();
    world.queue.retain(|(m, _)| *m != 0);
    for (member, ask) in lost {
        world.now_ms += config.retry_delay_max_ms;
        let failure = MemberFailure::NoAnswer;
        world.input(UploadInput::Failed { member, ask, failure });
    }
    assert!(world.upload.failures().is_empty());
}

#[test]
fn refusals_that_repetition_cannot_mend_end_a_member_at_once() {
    for refusal in [Refusal::TooLarge, Refusal::StorageFull] {
        let mut world = World::new(7, 64, UploadConfig::default());
        world.input(UploadInput::Tick);
        let failure = MemberFailure::Refused(refusal);
        world.input(UploadInput::Failed { member: 0, ask: Ask::Table, failure });
        assert_eq!(world.upload.failures(), [(0, failure)]);
    }
}

#[test]
fn a_member_that_has_not_heard_of_the_registration_is_asked_again_a_few_times() {
    let config = UploadConfig::default();
    let mut world = World::new(7, 64, config);
    world.input(UploadInput::Tick);
    let failure = MemberFailure::Refused(Refusal::NotRegistered);
    let mut asked = 0;
    while world.ends.last() != Some(&UploadOutput::Finished) {
        let of_first = |(member, ask): &(usize, Ask)| (*member, *ask) == (0, Ask::Table);
        if let Some(at) = world.queue.iter().position(of_first) {
            world.queue.remove(at);
            asked += 1;
            world.input(UploadInput::Failed { member: 0, ask: Ask::Table, failure });
        } else {
            assert!(world.step());
        }
    }
    assert!((2..=config.attempts_max).contains(&asked), "{asked}");
}

#[test]
fn the_tail_is_bounded() {
    let mut world = World::new(7, 64, UploadConfig::default());
    world.input(UploadInput::Tick);
    // Member 0 never answers at all.
    let mut quorum_ms = None;
    while world.ends.last() != Some(&UploadOutput::Finished) {
        world.queue.retain(|(member, _)| *member != 0);
        assert!(world.step());
        if quorum_ms.is_none() && !world.ends.is_empty() {
            quorum_ms = Some(world.now_ms);
        }
    }
    let tail_ms = world.now_ms - quorum_ms.unwrap();
    assert!(tail_ms <= UploadConfig::default().tail_min_ms, "{tail_ms} ms");
}
