//! Billed units of all blobs, to draw from by weight.
//!
//! A sum tree over certification numbers: a blob weighs what it is billed for, a number that was
//! never given, is too young or no longer lives weighs nothing. It is derived from the blob records
//! of the ledger alone, so it is the same on every node however it came to be, by all records after
//! a start or by one change after the other, and is not part of the state root.
//!
//! Nodes of the tree are shared: a clone costs nothing and stays as it is, so that each open round
//! has the units of its own opening and each candidate for a block those that it would leave. A
//! change copies the way down to its blob. What time does to a blob (it becomes old enough to be
//! asked for, it ends with an epoch) no record says, so each subtree knows when the first of its
//! blobs is due: [`BilledUnits::advance`] visits those and no others.
//!
//! Invariants: the order is that of the numbers; an empty subtree does not exist, so memory follows
//! living blobs (some 120 bytes each) and not numbers given; every operation takes a number of steps
//! that is logarithmic in the highest number, for each blob that it changes.

use std::sync::Arc;

use crate::{
    blob::BlobHeader,
    encoding::ConfigError,
    index::Epoch,
    ledger::{Blob, Timestamp, billed_units},
};

/// Bits of a number that one level of the tree decides by.
const BITS: u32 = 4;
const FANOUT: usize = 1 << BITS;

/// A certified blob.
#[derive(Clone, Debug)]
struct Leaf {
    header: BlobHeader,
    units: u64,
    since: Timestamp,
    end: Epoch,
    /// Old enough to be asked for.
    counts: bool,
}

/// What a subtree comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sums {
    /// Units that count.
    units: u64,
    /// Since when the first of those has been certified that do not count yet.
    next_since: Option<Timestamp>,
    /// The first end.
    next_end: Option<Epoch>,
}

impl Sums {
    const NONE: Self = Self { units: 0, next_since: None, next_end: None };

    fn add(self, other: Self) -> Self {
        Self {
            // Never above what the ledger counts of the running epoch, in as many bits.
            units: self.units.saturating_add(other.units),
            next_since: first(self.next_since, other.next_since),
            next_end: first(self.next_end, other.next_end),
        }
    }

    fn is_due(&self, epoch: Epoch, cutoff: Timestamp) -> bool {
        self.next_end.is_some_and(|end| end <= epoch)
            || self.next_since.is_some_and(|since| since <= cutoff)
    }
}

fn first<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}

#[derive(Clone, Debug)]
enum Child {
    Branch(Arc<Branch>),
    Leaf(Arc<Leaf>),
}

impl Child {
    fn sums(&self) -> Sums {
        match self {
            Self::Branch(branch) => branch.sums,
            Self::Leaf(leaf) => Sums {
                units: if leaf.counts { leaf.units } else { 0 },
                next_since: (!leaf.counts).then_some(leaf.since),
                next_end: Some(leaf.end),
            },
        }
    }
}

#[derive(Clone, Debug)]
struct Branch {
    sums: Sums,
    children: [Option<Child>; FANOUT],
}

impl Branch {
    const EMPTY: Self = Self { sums: Sums::NONE, children: [const { None }; FANOUT] };

    /// Sums up what has changed below; false if nothing is left.
    fn sum_up(&mut self) -> bool {
        let children = self.children.iter().flatten();
        self.sums = children.map(Child::sums).fold(Sums::NONE, Sums::add);
        self.children.iter().any(Option::is_some)
    }
}

/// The billed units of certified blobs, by certification number.
#[derive(Clone, Debug, Default)]
pub struct BilledUnits {
    root: Option<Child>,
    /// Levels of branches above the leaves.
    levels: u32,
}

impl BilledUnits {
    /// No blobs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A blob's record has changed, from `before` to `after`; none where there is none. What is told
    /// twice, or of a blob that was not there, changes nothing.
    ///
    /// A blob counts from the next [`Self::advance`] on at which it is old enough.
    ///
    /// # Errors
    /// [`ConfigError`] if the header names no possible blob, which no ledger registers.
    pub fn update(
        &mut self,
        before: Option<&Blob>,
        after: Option<&Blob>,
    ) -> Result<(), ConfigError> {
        let certified = |blob: Option<&Blob>| {
            let blob = blob.filter(|blob| !blob.invalid)?;
            blob.certified.map(|certified| (blob.header, certified))
        };
        let (before, after) = (certified(before), certified(after));
        if let Some((_, certified)) = before
            && after.is_none_or(|(_, now)| now.number != certified.number)
        {
            self.set(certified.number, None);
        }
        if let Some((header, certified)) = after {
            let units = billed_units(&header)?;
            let (since, end) = (certified.first_time, certified.end);
            let leaf = Leaf { header, units, since, end, counts: false };
            self.set(certified.number, Some(leaf));
        }
        Ok(())
    }

    /// What is left, and what counts, in `epoch` of blobs that have been certified at `cutoff` or
    /// before. Never called with an earlier moment than before.
    pub fn advance(&mut self, epoch: Epoch, cutoff: Timestamp) {
        advance(&mut self.root, epoch, cutoff);
    }

    /// Whether there is no certified blob at all, old enough or not.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// All units that count.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.root.as_ref().map_or(0, |root| root.sums().units)
    }

    /// The blob that unit `unit` belongs to, none from [`Self::total`] on.
    #[must_use]
    pub fn find(&self, unit: u64) -> Option<&BlobHeader> {
        if unit >= self.total() {
            return None;
        }
        let (mut child, mut rest) = (self.root.as_ref()?, unit);
        loop {
            match child {
                Child::Leaf(leaf) => return Some(&leaf.header),
                Child::Branch(branch) => {
                    child = branch.children.iter().flatten().find(|child| {
                        let units = child.sums().units;
                        let here = rest < units;
                        rest = if here { rest } else { rest - units };
                        here
                    })?;
                }
            }
        }
    }

    fn set(&mut self, number: u64, leaf: Option<Leaf>) {
        while number.checked_shr(BITS * self.levels).is_some_and(|rest| rest > 0) {
            if let Some(root) = self.root.take() {
                let mut branch = Branch::EMPTY;
                branch.children[0] = Some(root);
                branch.sum_up();
                self.root = Some(Child::Branch(Arc::new(branch)));
            }
            self.levels += 1;
        }
        set(&mut self.root, self.levels, number, leaf);
    }
}

fn set(place: &mut Option<Child>, levels: u32, number: u64, leaf: Option<Leaf>) {
    let Some(below) = levels.checked_sub(1) else {
        *place = leaf.map(|leaf| Child::Leaf(Arc::new(leaf)));
        return;
    };
    if place.is_none() && leaf.is_none() {
        return;
    }
    let mut branch = match place.take() {
        Some(Child::Branch(branch)) => branch,
        // Leaves are on the lowest level alone.
        Some(Child::Leaf(_)) | None => Arc::new(Branch::EMPTY),
    };
    let changed = Arc::make_mut(&mut branch);
    let digit = (number >> (BITS * below)) % FANOUT as u64;
    let digit = usize::try_from(digit).expect("below the fanout");
    set(&mut changed.children[digit], below, number, leaf);
    *place = changed.sum_up().then_some(Child::Branch(branch));
}

fn advance(place: &mut Option<Child>, epoch: Epoch, cutoff: Timestamp) {
    let Some(child) = place.as_mut().filter(|child| child.sums().is_due(epoch, cutoff)) else {
        return;
    };
    let is_left = match child {
        Child::Leaf(leaf) => {
            let lives = leaf.end > epoch;
            if lives {
                Arc::make_mut(leaf).counts = true;
            }
            lives
        }
        Child::Branch(branch) => {
            let branch = Arc::make_mut(branch);
            for child in &mut branch.children {
                advance(child, epoch, cutoff);
            }
            branch.sum_up()
        }
    };
    if !is_left {
        *place = None;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{hash::Hash, ledger::Certified};

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ms(ms)
    }

    /// A blob of so many billed units in a network of 7 shards.
    fn record(number: u64, units: u64, since: u64, end: u64) -> Blob {
        let root = Hash::of_symbol(&number.to_le_bytes());
        let header = (0..units * 500_000)
            .step_by(10_000)
            .map(|len| BlobHeader { n_shards: 7, len, root })
            .find(|header| billed_units(header) == Ok(units))
            .unwrap();
        let certified = Certified {
            number,
            end: Epoch::new(end),
            first_epoch: Epoch::new(0),
            first_time: at(since),
        };
        Blob {
            header,
            registrations: 1,
            permanent_end: None,
            certified: Some(certified),
            invalid: false,
        }
    }

    #[test]
    fn units_are_found_in_the_order_of_the_numbers() {
        let blobs = [record(3, 2, 0, 9), record(17, 1, 0, 9), record(5_000, 4, 0, 9)];
        let mut units = BilledUnits::new();
        for blob in blobs.iter().rev() {
            units.update(None, Some(blob)).unwrap();
        }
        assert_eq!(units.total(), 0, "too young");
        units.advance(Epoch::new(0), at(0));
        assert_eq!(units.total(), 7);
        let found: Vec<_> = (0..7).map(|unit| units.find(unit).unwrap().root).collect();
        let [a, b, c] = blobs.map(|blob| blob.header.root);
        assert_eq!(found, [a, a, b, c, c, c, c]);
        assert_eq!(units.find(7), None);
    }

    #[test]
    fn blobs_count_when_old_enough_and_until_their_end() {
        let mut units = BilledUnits::new();
        units.update(None, Some(&record(0, 1, 1_000, 5))).unwrap();
        units.update(None, Some(&record(1, 2, 2_000, 4))).unwrap();
        for (epoch, cutoff, total) in
            [(0, 999, 0), (1, 1_000, 1), (2, 2_000, 3), (3, 9_000, 3), (4, 9_001, 1), (5, 9_002, 0)]
        {
            units.advance(Epoch::new(epoch), at(cutoff));
            assert_eq!(units.total(), total, "epoch {epoch}");
        }
        assert!(units.root.is_none(), "nothing is left");
    }

    #[test]
    fn the_invalid_the_deleted_and_the_renumbered_weigh_nothing() {
        let blob = record(4, 3, 0, 9);
        let renumbered = record(80, 3, 0, 9);
        let invalid = Blob { invalid: true, ..blob };
        let uncertified = Blob { certified: None, ..blob };
        for (after, total) in
            [(Some(invalid), 0), (Some(uncertified), 0), (None, 0), (Some(renumbered), 3)]
        {
            let mut units = BilledUnits::new();
            units.update(None, Some(&blob)).unwrap();
            units.update(None, Some(&blob)).unwrap();
            units.advance(Epoch::new(0), at(0));
            assert_eq!(units.total(), 3);
            let opened = units.clone();
            units.update(Some(&blob), after.as_ref()).unwrap();
            units.update(Some(&blob), after.as_ref()).unwrap();
            units.advance(Epoch::new(0), at(0));
            assert_eq!(units.total(), total, "{after:?}");
            assert_eq!(opened.total(), 3, "an open round keeps its own");
            assert_eq!(opened.find(2), Some(&blob.header));
        }
    }

    #[test]
    fn the_same_records_give_the_same_tree_however_they_came() {
        // Numbers, units and lives from a fixed sequence; some are changed or deleted on the way.
        let mut random = 1_u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        let (mut live, mut units) = (BTreeMap::new(), BilledUnits::new());
        let mut number = 0;
        for step in 0..2_000_u64 {
            let after = if live.is_empty() || next(3) > 0 {
                number += 1 + next(40);
                Some(record(number, 1 + next(3), step, 3 + next(50)))
            } else {
                let index = usize::try_from(next(live.len() as u64)).unwrap();
                let key = *live.keys().nth(index).unwrap();
                let before: Blob = live.remove(&key).unwrap();
                units.update(Some(&before), None).unwrap();
                None
            };
            if let Some(blob) = after {
                units.update(None, Some(&blob)).unwrap();
                live.insert(number, blob);
            }
            if step % 100 == 99 {
                let (epoch, cutoff) = (Epoch::new(step / 100), at(step - 50));
                units.advance(epoch, cutoff);
                let mut anew = BilledUnits::new();
                for blob in live.values() {
                    anew.update(None, Some(blob)).unwrap();
                }
                anew.advance(epoch, cutoff);
                let counting: Vec<_> = live
                    .values()
                    .filter(|blob| {
                        let certified = blob.certified.unwrap();
                        certified.first_time <= cutoff && certified.end > epoch
                    })
                    .flat_map(|blob| {
                        let units = usize::try_from(billed_units(&blob.header).unwrap()).unwrap();
                        std::iter::repeat_n(blob.header, units)
                    })
                    .collect();
                assert_eq!(units.total(), counting.len() as u64, "step {step}");
                for (unit, header) in (0_u64..).zip(&counting) {
                    assert_eq!(units.find(unit), Some(header), "step {step}, unit {unit}");
                    assert_eq!(anew.find(unit), Some(header), "step {step}, unit {unit}");
                }
            }
        }
        assert!(number > 20_000, "several levels");
    }
}
