//! How much to ask for at a time, by how long what was asked for took to come.
//!
//! A node's link may carry gigabytes or a few kilobytes a second, and so may a holder's. What is
//! asked for at once shares the link, and every request has its time: who asks for more than comes
//! in it gets nothing at all. So it begins with little, asks for more as long as answers come
//! promptly, and for half as much when they do not.
//!
//! Invariants: one answer may always be asked for, however large; what is asked for never exceeds
//! the bound; one outage, which ends everything on its way, counts once; a node holds nobody up for
//! longer than the time it has for a list, however it spreads its answers over it.

use std::ops::Range;

/// What a [`Pace`] goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaceConfig {
    /// Bytes asked for at a time in the beginning.
    pub bytes_start: u64,
    /// Bytes asked for at a time, at most.
    pub bytes_max: u64,
    /// An answer within this is prompt; one that takes twice as long is not.
    pub prompt_ms: u64,
}

impl Default for PaceConfig {
    fn default() -> Self {
        Self { bytes_start: 256 << 10, bytes_max: 64 << 20, prompt_ms: 2_000 }
    }
}

/// How many bytes may be on their way at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    config: PaceConfig,
    bytes: u64,
    /// When it was last made less.
    lessened_at_ms: Option<u64>,
}

impl Pace {
    /// The pace to begin with.
    #[must_use]
    pub const fn new(config: PaceConfig) -> Self {
        Self { config, bytes: config.bytes_start, lessened_at_ms: None }
    }

    /// Bytes that may be on their way.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Answers of so many bytes that may be on their way, one at least.
    #[must_use]
    pub fn answers(&self, bytes: u64) -> usize {
        usize::try_from(self.bytes / bytes.max(1)).unwrap_or(usize::MAX).max(1)
    }

    /// An answer of so many bytes came after so long.
    pub fn answered(&mut self, bytes: u64, took_ms: u64) {
        if took_ms <= self.config.prompt_ms {
            self.bytes = self.bytes.saturating_add(bytes).min(self.config.bytes_max);
        } else if took_ms >= self.config.prompt_ms.saturating_mul(2) {
            // As slow as that, it was asked for together with what made it slow.
            self.bytes = self.bytes.saturating_sub(bytes).max(self.bytes / 2).max(1);
        }
    }

    /// Something did not come at all. What else does not come at the same time says nothing more.
    pub fn unanswered(&mut self, now_ms: u64) {
        let is_same = self
            .lessened_at_ms
            .is_some_and(|at_ms| now_ms < at_ms.saturating_add(self.config.prompt_ms));
        if !is_same {
            self.bytes = (self.bytes / 2).max(1);
            self.lessened_at_ms = Some(now_ms);
        }
    }
}

/// A list of things that are fetched one batch after the other from one node, as many at a time as
/// come promptly. The node has a time for all of them: each answer may come late, but not every one.
#[derive(Clone, Debug)]
pub struct Batches {
    pace: Pace,
    /// Bytes of each.
    bytes: Vec<u64>,
    batch_max: usize,
    done: usize,
    /// Of the time that the node has, what is left.
    left_ms: u64,
    delivered: bool,
    given_up: bool,
    away: bool,
}

impl Batches {
    /// A list of things of so many bytes each, of which at most `batch_max` may be asked for at a
    /// time. The node has `time_ms` for all of them.
    #[must_use]
    pub const fn new(config: PaceConfig, bytes: Vec<u64>, batch_max: usize, time_ms: u64) -> Self {
        Self {
            pace: Pace::new(config),
            bytes,
            batch_max,
            done: 0,
            left_ms: time_ms,
            delivered: false,
            given_up: false,
            away: false,
        }
    }

    /// What to ask for next; none if there is nothing left, or no hope.
    #[must_use]
    pub fn next(&self) -> Option<Range<usize>> {
        if self.given_up || self.done >= self.bytes.len() {
            return None;
        }
        let mut room = self.pace.bytes();
        let rest = self.bytes[self.done..].iter().take(self.batch_max.max(1));
        let fits = |bytes: &&u64| {
            let fits = **bytes <= room;
            room = room.saturating_sub(**bytes);
            fits
        };
        let count = rest.take_while(fits).count().max(1);
        Some(self.done..self.done + count)
    }

    /// What is left of the node's time: the next batch has to come within it.
    #[must_use]
    pub const fn left_ms(&self) -> u64 {
        self.left_ms
    }

    /// Whether the node is to be left alone for a while: it does not answer, or holds up who asks.
    #[must_use]
    pub const fn is_away(&self) -> bool {
        self.away
    }

    /// So many of the batch were answered, after so long; whether anything came with it. A node
    /// that begins with nothing is given up, and so is one whose time is over.
    pub fn answered(&mut self, count: usize, took_ms: u64, anything: bool) {
        self.delivered |= anything;
        let is_slow = took_ms >= self.pace.config.prompt_ms.saturating_mul(2);
        self.give_up_if(!self.delivered, is_slow);
        let end = (self.done + count).min(self.bytes.len());
        let bytes = self.bytes[self.done..end].iter().sum();
        self.done = end;
        self.pace.answered(bytes, took_ms);
        self.spend(took_ms);
    }

    /// The batch did not come within so long. False if the node is to be given up: it has never
    /// delivered, there is no less to ask for, or its time is over.
    pub fn unanswered(&mut self, took_ms: u64) -> bool {
        let asked = self.next().map_or(0, |batch| batch.len());
        self.give_up_if(asked <= 1 || !self.delivered, true);
        self.spend(took_ms);
        // By what was asked for, which may be much less than it might have been.
        while !self.given_up && self.next().is_some_and(|batch| batch.len() >= asked) {
            self.pace.bytes /= 2;
        }
        !self.given_up
    }

    fn spend(&mut self, took_ms: u64) {
        self.left_ms = self.left_ms.saturating_sub(took_ms);
        self.give_up_if(self.left_ms == 0 && self.done < self.bytes.len(), true);
    }

    const fn give_up_if(&mut self, hopeless: bool, is_away: bool) {
        self.given_up |= hopeless;
        self.away |= hopeless && is_away;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: PaceConfig =
        PaceConfig { bytes_start: 1_000, bytes_max: 16_000, prompt_ms: 2_000 };

    const fn batches(sizes: Vec<u64>, time_ms: u64) -> Batches {
        Batches::new(CONFIG, sizes, 100, time_ms)
    }

    /// A link of so many bytes a second over which everything asked for comes at once.
    fn fetch(rate: u64, patience_ms: u64, sizes: &[u64]) -> Option<(Vec<usize>, u64)> {
        let (mut batches, mut now_ms) = (batches(sizes.to_vec(), u64::MAX), 0);
        let mut counts = Vec::new();
        while let Some(batch) = batches.next() {
            let bytes: u64 = sizes[batch.clone()].iter().sum();
            let took_ms = bytes * 1_000 / rate;
            now_ms += took_ms.min(patience_ms);
            if took_ms <= patience_ms {
                counts.push(batch.len());
                batches.answered(batch.len(), took_ms, true);
            } else if !batches.unanswered(patience_ms) {
                assert!(batches.is_away());
                return None;
            }
        }
        Some((counts, now_ms))
    }

    #[test]
    fn a_fast_link_is_asked_for_more_up_to_the_bound() {
        let (counts, _) = fetch(1 << 30, 10_000, &[100; 1_000]).unwrap();
        assert_eq!(counts[..5], [10, 20, 40, 80, 100]);
        let (counts, _) = fetch(1 << 30, 10_000, &[1_000; 100]).unwrap();
        assert_eq!(counts, [1, 2, 4, 8, 16, 16, 16, 16, 16, 5]);
    }

    #[test]
    fn a_slow_link_gets_what_it_can_carry_and_everything_comes() {
        for rate in [100, 200, 500, 1_000] {
            let (counts, took_ms) = fetch(rate, 10_000, &[10; 200]).unwrap();
            assert_eq!(counts.iter().sum::<usize>(), 200);
            // What was asked for in vain costs a few times its patience.
            assert!(took_ms <= 2_000_000 / rate + 8 * 10_000, "{rate}: {took_ms} ms, {counts:?}");
        }
        assert_eq!(fetch(5, 1_000, &[10; 3]), None, "not one comes in time: given up");
    }

    #[test]
    fn who_begins_with_nothing_is_given_up_and_who_has_delivered_gets_another_chance() {
        let batches = || batches(vec![100; 100], 60_000);
        let mut silent = batches();
        assert!(!silent.unanswered(10));
        assert_eq!((silent.next(), silent.is_away()), (None, true));
        for (took_ms, is_away) in [(5, false), (4_000, true)] {
            let mut empty = batches();
            empty.answered(10, took_ms, false);
            assert_eq!((empty.next(), empty.is_away()), (None, is_away), "{took_ms} ms");
        }
        let mut lapses = batches();
        lapses.answered(10, 5, true);
        assert_eq!(lapses.next(), Some(10..30));
        lapses.answered(20, 5, false);
        assert_eq!(lapses.next(), Some(30..70));
        assert!(lapses.unanswered(20));
        assert!(lapses.next().is_some_and(|batch| batch.start == 30 && batch.len() < 40));
    }

    #[test]
    fn who_dribbles_is_given_up_when_its_time_is_over_however_much_is_asked_of_it() {
        const PATIENCE_MS: u64 = 15_000;
        // One pair each time, just in time; or one to begin with, and then empty answers.
        for (count, every) in [(1, 1), (2, 1), (64, 1), (64, 64), (1_000, 1), (100_000, 1_000)] {
            let mut batches = batches(vec![10; count], 2 * PATIENCE_MS);
            let (mut spent_ms, mut done) = (0, 0);
            while let Some(batch) = batches.next() {
                assert_eq!(batch.start, done);
                let took_ms = (PATIENCE_MS - 1).min(batches.left_ms());
                spent_ms += took_ms;
                if batches.left_ms() > took_ms {
                    batches.answered(1, took_ms, done % every == 0);
                    done += 1;
                } else {
                    assert!(!batches.unanswered(took_ms));
                }
            }
            assert!(spent_ms <= 2 * PATIENCE_MS, "{count}: {spent_ms} ms");
            assert_eq!(batches.is_away(), done < count, "{count}");
            assert_eq!(done, count.min(2));
        }
        // What comes with the last of the time is no fault.
        let mut late = batches(vec![10; 2], PATIENCE_MS);
        late.answered(2, PATIENCE_MS, true);
        assert!(late.next().is_none() && !late.is_away());
    }

    #[test]
    fn one_outage_counts_once_and_one_answer_may_always_be_asked_for() {
        let mut pace = Pace::new(CONFIG);
        for _ in 0..10 {
            pace.unanswered(5_000);
        }
        assert_eq!(pace.bytes(), 500);
        pace.unanswered(7_000);
        assert_eq!(pace.bytes(), 250);
        assert_eq!(pace.answers(100), 2);
        assert_eq!(pace.answers(u64::MAX), 1);
        for outage in 0..100 {
            pace.unanswered(10_000 * (outage + 1));
        }
        assert_eq!((pace.bytes(), pace.answers(100)), (1, 1));
        pace.answered(1_000, 3_000);
        assert_eq!(pace.bytes(), 1, "neither prompt nor slow");
        pace.answered(100_000, 2_000);
        assert_eq!(pace.bytes(), CONFIG.bytes_max);
    }
}
