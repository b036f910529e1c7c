//! The work list: blobs of which pairs are missing here, and when each is tried.
//!
//! It holds a bounded part of what may be missing. What does not fit is counted and forgotten: the
//! shards concerned stay incomplete, and a later scan finds it again. A blob that fails is left
//! alone for a while, longer each time.
//!
//! Invariants: one entry a blob; a blob is worked on once at a time; never more entries than told.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use floe_protocol::{blob::BlobId, index::ShardIndex};
use tokio::time::Instant;

/// How long and how many blobs wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListLimits {
    pub(super) blobs_max: usize,
    /// After the first failure; doubles with each.
    pub(super) retry_min: Duration,
    pub(super) retry_max: Duration,
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct WorkList {
    limits: ListLimits,
    entries: BTreeMap<BlobId, Entry>,
    /// What the last scan found and had no place for.
    dropped: Dropped,
    /// The same of the running scan.
    dropping: Dropped,
}

#[derive(Debug)]
struct Entry {
    /// Shards whose pair was missing when somebody last looked; none if nobody has.
    missing: Vec<ShardIndex>,
    failures: u32,
    due: Instant,
    /// Somebody is at work.
    busy: bool,
    /// It was certified since its shards are the node's, so its writer brought it here, or may
    /// still: that it is missing says nothing of whether a gained shard has come whole.
    fresh: bool,
    /// Something went missing while somebody was at work.
    again: bool,
}

#[derive(Debug, Default)]
struct Dropped {
    shards: BTreeSet<ShardIndex>,
    pairs: u64,
}

impl WorkList {
    pub(super) fn new(limits: ListLimits) -> Self {
        let (entries, dropped, dropping) = Default::default();
        Self { limits, entries, dropped, dropping }
    }

    /// Forgets everything: other shards are the node's now.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.limits);
    }

    /// A scan has found that these pairs of a blob are missing. If it is fresh, its writer may be
    /// at it until `due`; what a scan knows not to be fresh is not, whatever a block said.
    pub(super) fn found(
        &mut self,
        blob: BlobId,
        missing: Vec<ShardIndex>,
        (due, fresh): (Instant, bool),
    ) {
        if let Some(entry) = self.entries.get_mut(&blob) {
            entry.missing = missing;
            entry.again |= entry.busy;
            entry.fresh &= fresh;
            return;
        }
        if self.entries.len() >= self.limits.blobs_max {
            self.dropping.pairs += missing.len() as u64;
            self.dropping.shards.extend(missing);
            return;
        }
        self.entries.insert(blob, Entry { missing, fresh, ..Entry::new(due) });
    }

    /// A blob was certified: its writer may be at it until `due`. False if there is no place for
    /// it, so that a scan has to find it.
    pub(super) fn certified(&mut self, blob: BlobId, due: Instant) -> bool {
        if self.entries.contains_key(&blob) {
            return true;
        }
        let has_place = self.entries.len() < self.limits.blobs_max;
        if has_place {
            self.entries.insert(blob, Entry { fresh: true, ..Entry::new(due) });
        }
        has_place
    }

    /// Blobs to work on now.
    pub(super) fn take(&mut self, now: Instant, blobs_max: usize) -> Vec<BlobId> {
        let due = self.entries.iter_mut().filter(|(_, entry)| !entry.busy && entry.due <= now);
        let taken = due.take(blobs_max).map(|(blob, entry)| {
            (entry.busy, entry.again) = (true, false);
            *blob
        });
        taken.collect()
    }

    /// All pairs of a blob are here, or it is over.
    pub(super) fn done(&mut self, blob: &BlobId, now: Instant) {
        match self.entries.get_mut(blob) {
            // A scan has found them since.
            Some(entry) if entry.again => {
                let (missing, fresh) = (std::mem::take(&mut entry.missing), entry.fresh);
                *entry = Entry { missing, fresh, ..Entry::new(now) };
            }
            Some(_) => drop(self.entries.remove(blob)),
            None => {}
        }
    }

    /// These pairs of a blob could not be had, or nobody knows which.
    pub(super) fn failed(&mut self, blob: &BlobId, missing: Option<Vec<ShardIndex>>, now: Instant) {
        let Some(entry) = self.entries.get_mut(blob) else { return };
        let known = std::mem::take(&mut entry.missing);
        let missing = match missing {
            Some(missing) if entry.again => {
                missing.into_iter().chain(known).collect::<BTreeSet<_>>().into_iter().collect()
            }
            missing => missing.unwrap_or(known),
        };
        let wait = self.limits.retry_min.saturating_mul(1 << entry.failures.min(16));
        let failures = entry.failures.saturating_add(1);
        let due = now + wait.min(self.limits.retry_max);
        *entry = Entry { missing, failures, fresh: entry.fresh, ..Entry::new(due) };
    }

    /// A blob is over.
    pub(super) fn remove(&mut self, blob: &BlobId) {
        if self.entries.get(blob).is_some_and(|entry| !entry.busy) {
            self.entries.remove(blob);
        }
    }

    /// When the next blob that nobody works on is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.entries.values().filter(|entry| !entry.busy).map(|entry| entry.due).min()
    }

    /// Blobs that are worked on or could be.
    pub(super) fn pressing(&self, now: Instant) -> usize {
        self.entries.values().filter(|entry| entry.busy || entry.due <= now).count()
    }

    /// A scan has come to its end.
    pub(super) fn scanned(&mut self) {
        self.dropped = std::mem::take(&mut self.dropping);
    }

    /// Whether the last scan found more than there was place for.
    pub(super) fn has_dropped(&self) -> bool {
        self.dropped.pairs > 0
    }

    /// Pairs that are known to be missing.
    pub(super) fn missing_pairs(&self) -> u64 {
        let listed: usize = self.entries.values().map(|entry| entry.missing.len()).sum();
        listed as u64 + self.dropped.pairs.max(self.dropping.pairs)
    }

    /// Shards of which pairs are missing; those of fresh blobs only if asked for.
    pub(super) fn incomplete_shards(&self, with_fresh: bool) -> BTreeSet<ShardIndex> {
        let listed = self.entries.values().filter(|entry| with_fresh || !entry.fresh);
        let listed = listed.flat_map(|entry| &entry.missing);
        let dropped = self.dropped.shards.iter().chain(&self.dropping.shards);
        listed.chain(dropped).copied().collect()
    }
}

impl Entry {
    const fn new(due: Instant) -> Self {
        let missing = Vec::new();
        Self { missing, failures: 0, due, busy: false, fresh: false, again: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn list() -> WorkList {
        WorkList::new(ListLimits { blobs_max: 3, retry_min: SECOND, retry_max: 5 * SECOND })
    }

    fn blob(seed: u8) -> BlobId {
        BlobId::new([seed; 32])
    }

    fn shards(shards: &[u16]) -> Vec<ShardIndex> {
        shards.iter().map(|shard| ShardIndex::new(*shard)).collect()
    }

    fn incomplete(list: &WorkList) -> Vec<u16> {
        list.incomplete_shards(false).into_iter().map(ShardIndex::get).collect()
    }

    #[test]
    fn a_blob_is_worked_on_once_and_waits_longer_after_each_failure() {
        let (mut list, mut now) = (list(), Instant::now());
        list.found(blob(1), shards(&[2, 3]), (now, false));
        assert_eq!(list.missing_pairs(), 2);
        for wait in [1, 2, 4, 5, 5] {
            assert_eq!(list.take(now, 9), [blob(1)]);
            assert!(list.take(now, 9).is_empty(), "somebody is at work");
            assert_eq!(list.next_due(), None);
            list.failed(&blob(1), if wait == 4 { None } else { Some(shards(&[3])) }, now);
            assert_eq!(list.next_due(), Some(now + wait * SECOND));
            assert!(list.take(now, 9).is_empty(), "left alone");
            assert_eq!(incomplete(&list), [3]);
            now += wait * SECOND;
        }
        list.take(now, 9);
        list.done(&blob(1), now);
        assert!(list.entries.is_empty() && incomplete(&list).is_empty());
    }

    #[test]
    fn what_goes_missing_while_somebody_is_at_work_is_looked_at_again() {
        let (mut list, now) = (list(), Instant::now());
        list.found(blob(1), shards(&[2]), (now, false));
        assert_eq!(list.take(now, 9), [blob(1)]);
        list.found(blob(1), shards(&[4]), (now, false));
        list.done(&blob(1), now);
        assert_eq!(incomplete(&list), [4], "what the scan has found is not forgotten");
        assert_eq!(list.take(now, 9), [blob(1)]);
        list.found(blob(1), shards(&[5]), (now, false));
        list.failed(&blob(1), Some(shards(&[4])), now);
        assert_eq!(incomplete(&list), [4, 5]);
        list.take(now + SECOND, 9);
        list.done(&blob(1), now);
        assert!(list.entries.is_empty());
    }

    #[test]
    fn a_fresh_blob_is_left_to_its_writer_for_a_while() {
        let (mut list, now) = (list(), Instant::now());
        assert!(list.certified(blob(1), now + SECOND));
        assert!(list.take(now, 9).is_empty());
        assert_eq!((list.missing_pairs(), list.pressing(now)), (0, 0));
        list.found(blob(1), shards(&[2]), (now, true));
        assert_eq!(list.missing_pairs(), 1);
        assert!(incomplete(&list).is_empty() && list.take(now, 9).is_empty());
        assert_eq!(list.take(now + SECOND, 9), [blob(1)]);
        assert_eq!(list.pressing(now), 1);
        list.failed(&blob(1), Some(shards(&[2])), now);
        assert!(incomplete(&list).is_empty(), "it moved with nothing");
        assert_eq!(list.incomplete_shards(true), shards(&[2]).into_iter().collect());
        list.found(blob(1), shards(&[2]), (now, false));
        assert_eq!(incomplete(&list), [2], "a scan knows better: an earlier holder has it");
    }

    #[test]
    fn what_has_no_place_keeps_its_shards_incomplete_until_a_scan_finds_nothing() {
        let (mut list, now) = (list(), Instant::now());
        for seed in 1..=5 {
            list.found(blob(seed), shards(&[seed.into()]), (now, false));
        }
        assert!(!list.certified(blob(9), now), "no place");
        assert!(list.certified(blob(3), now), "listed already");
        list.scanned();
        assert!(list.has_dropped());
        assert_eq!((list.missing_pairs(), incomplete(&list)), (5, vec![1, 2, 3, 4, 5]));
        for blob in list.take(now, 9) {
            list.done(&blob, now);
        }
        assert_eq!(incomplete(&list), [4, 5]);
        list.found(blob(4), shards(&[4]), (now, false));
        assert_eq!(incomplete(&list), [4, 5], "until the scan is through");
        list.scanned();
        assert_eq!(incomplete(&list), [4]);
        assert!(!list.has_dropped());
        list.remove(&blob(4));
        assert!(list.entries.is_empty());
    }
}
