//! Runs: what one merge wrote, sorted and packed.
//!
//! A row for each small entry costs sled far more than its bytes: most lie on a page of their own
//! that has to be read, and written again. So the entries of a merge, some thousands, go into a
//! *run*: in key order, packed into chunks of a few KiB. A run is never changed. An entry may say that its key is deleted; the newest run that has a key
//! decides. Of every run its *fences* (the first key of each chunk) and a filter of its keys stay
//! in memory, so that a look-up reads one chunk of one run, nearly always.
//!
//! *Compaction* makes one run of several neighbours, and leaves out what newer ones of them
//! deleted or replaced. Deletions go when the oldest run takes part.
//!
//! Chunks lie in numbered *slots*, rows that are written over and never removed: removals cost sled
//! as much as writes, and their space hardly comes back. Which slots are free follows from the runs
//! that count.
//!
//! Invariants: keys of a run ascend and differ. A run is written to its end before anything names
//! it. Its slots are free when nothing on disk names it and nobody holds it: [`Arc`] counts the
//! readers.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use borsh::{BorshDeserialize, BorshSerialize};

use super::rows::{self, Kind};
use crate::{StorageError, database::Table};

/// Bytes of a slot, and of entries in one chunk; a longer entry has a chunk of its own.
const SLOT_BYTES: usize = 4 << 10;
/// Lengths of key and value.
const ENTRY_HEAD_BYTES: usize = 8;
/// In place of the value's length: the key is deleted.
const DELETED: u32 = u32::MAX;
/// Bits of the filter for each key, and how many of them a key sets: one key in a hundred that is
/// not there passes.
const FILTER_BITS: u64 = 10;
const FILTER_HASHES: u64 = 6;

/// The slots, for those who write runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots(Arc<Mutex<Free>>);

#[derive(Debug, Default)]
struct Free {
    below: BTreeSet<u32>,
    /// This one and all behind it.
    from: u32,
}

impl Slots {
    /// The slots that no run has.
    pub(super) fn beside<'a>(runs: impl Iterator<Item = &'a Arc<Run>>) -> Self {
        let taken: BTreeSet<u32> = runs.flat_map(|run| run.slots()).collect();
        let from = taken.last().map_or(0, |last| last + 1);
        let below = (0..from).filter(|slot| !taken.contains(slot)).collect();
        Self(Arc::new(Mutex::new(Free { below, from })))
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Neighbours share pages, so the first ones come first.
    fn take(&self) -> u32 {
        let mut free = self.lock();
        free.below.pop_first().unwrap_or_else(|| {
            free.from += 1;
            free.from - 1
        })
    }

    /// Gives the slots of a run back.
    pub(super) fn free(&self, run: &Run) {
        self.lock().below.extend(run.slots());
    }
}

/// A filter of keys: what it does not know is not there.
#[derive(Debug, BorshSerialize, BorshDeserialize)]
struct Filter(Vec<u64>);

impl Filter {
    fn new(keys_max: u64) -> Self {
        let words = (keys_max * FILTER_BITS).div_ceil(64).max(1);
        Self(vec![0; usize::try_from(words).expect("fits in memory")])
    }

    /// Word and bit of each hash of a key.
    fn places(&self, key: &[u8]) -> impl Iterator<Item = (usize, u64)> + use<> {
        // FNV-1a, then two halves that count as independent.
        let hash = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (first, step) = (hash, hash.rotate_left(32) | 1);
        let bits = self.0.len() as u64 * 64;
        (0..FILTER_HASHES).map(move |n| {
            let bit = first.wrapping_add(step.wrapping_mul(n)) % bits;
            (usize::try_from(bit / 64).expect("below the length"), 1 << (bit % 64))
        })
    }

    fn insert(&mut self, key: &[u8]) {
        for (word, bit) in self.places(key) {
            self.0[word] |= bit;
        }
    }

    fn may_have(&self, key: &[u8]) -> bool {
        self.places(key).all(|(word, bit)| self.0[word] & bit != 0)
    }
}

/// What is known of a run without its chunks, and is kept in a row of its own.
#[derive(Debug, BorshSerialize, BorshDeserialize)]
pub(super) struct Run {
    pub(super) id: u64,
    /// Of all entries.
    pub(super) bytes: u64,
    keys: u64,
    fences: Vec<Fence>,
    filter: Filter,
}

/// Where a chunk is.
#[derive(Debug, BorshSerialize, BorshDeserialize)]
struct Fence {
    /// Its first key.
    key: Vec<u8>,
    slot: u32,
    /// Where it goes on, if it is a longer one.
    more: Vec<u32>,
}

impl Run {
    /// Reads what [`Writer::finish`] wrote.
    pub(super) fn load(table: &Table, id: u64) -> Result<Self, StorageError> {
        let run = rows::get(table, &rows::numbered(Kind::Run, id))?;
        let run: Option<Self> = run.and_then(|run| borsh::from_slice(&run).ok());
        run.filter(|run| run.id == id && !run.filter.0.is_empty()).ok_or_else(|| table.corrupt())
    }

    /// What the run says of a key: its value, or that it is deleted; none if it has no such key.
    pub(super) fn get(
        &self,
        table: &Table,
        key: &[u8],
    ) -> Result<Option<Option<Vec<u8>>>, StorageError> {
        if !self.filter.may_have(key) {
            return Ok(None);
        }
        let Some(chunk) = self.chunk_of(key) else {
            return Ok(None);
        };
        let chunk = self.read_chunk(table, chunk)?;
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            let (found, value) = split_entry(table, &mut rest)?;
            if found >= key {
                return Ok((found == key).then(|| value.map(<[u8]>::to_vec)));
            }
        }
        Ok(None)
    }

    /// The last chunk that begins at or before `key`.
    fn chunk_of(&self, key: &[u8]) -> Option<usize> {
        self.fences.partition_point(|fence| fence.key.as_slice() <= key).checked_sub(1)
    }

    fn slots(&self) -> impl Iterator<Item = u32> {
        self.fences.iter().flat_map(|fence| [fence.slot].into_iter().chain(fence.more.clone()))
    }

    fn read_chunk(&self, table: &Table, chunk: usize) -> Result<Vec<u8>, StorageError> {
        let fence = self.fences.get(chunk).ok_or_else(|| table.corrupt())?;
        let mut bytes = Vec::with_capacity(SLOT_BYTES * (1 + fence.more.len()));
        for slot in [fence.slot].iter().chain(&fence.more) {
            let row = table.get(&slot_row(*slot))?.ok_or_else(|| table.corrupt())?;
            bytes.extend_from_slice(&row);
        }
        Ok(bytes)
    }

    /// Removes what tells of the run. What a crash leaves of it is removed at the next start.
    pub(super) fn remove(&self, table: &Table) -> Result<(), StorageError> {
        rows::remove_unfinished(table, &rows::numbered(Kind::Run, self.id))
    }
}

fn slot_row(slot: u32) -> Vec<u8> {
    rows::key(Kind::Slot, &[&slot.to_be_bytes()])
}

/// Removes all runs but these, which a crash left.
pub(super) fn remove_others(table: &Table, ids: &[u64]) -> Result<(), StorageError> {
    for row in rows::keys_of_long_rows(table, Kind::Run)? {
        if !ids.contains(&rows::number(table, &row)?) {
            rows::remove_unfinished(table, &row)?;
        }
    }
    Ok(())
}

fn split_entry<'a>(
    table: &Table,
    rest: &mut &'a [u8],
) -> Result<(&'a [u8], Option<&'a [u8]>), StorageError> {
    let parse = |rest: &'a [u8]| {
        let (key_len, rest) = rest.split_first_chunk()?;
        let (value_len, rest) = rest.split_first_chunk()?;
        let key_len = usize::try_from(u32::from_be_bytes(*key_len)).ok()?;
        let (key, rest) = rest.split_at_checked(key_len)?;
        match u32::from_be_bytes(*value_len) {
            DELETED => Some((key, None, rest)),
            len => {
                let (value, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
                Some((key, Some(value), rest))
            }
        }
    };
    let (key, value, behind) = parse(rest).ok_or_else(|| table.corrupt())?;
    *rest = behind;
    Ok((key, value))
}

/// Writes a run, in the order of its keys.
#[derive(Debug)]
pub(super) struct Writer {
    table: Table,
    slots: Slots,
    run: Run,
    /// The first key of the chunk, and its bytes so far.
    first: Vec<u8>,
    chunk: Vec<u8>,
}

impl Writer {
    pub(super) fn new(table: Table, slots: Slots, id: u64, keys_max: u64) -> Self {
        let filter = Filter::new(keys_max);
        let run = Run { id, bytes: 0, keys: 0, fences: Vec::new(), filter };
        Self { table, slots, run, first: Vec::new(), chunk: Vec::with_capacity(SLOT_BYTES) }
    }

    pub(super) fn push(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), StorageError> {
        let bytes = ENTRY_HEAD_BYTES + key.len() + value.map_or(0, <[u8]>::len);
        if self.chunk.len() + bytes > SLOT_BYTES {
            self.write_chunk()?;
        }
        if self.chunk.is_empty() {
            self.first = key.to_vec();
        }
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).expect("far below 4 GiB");
        self.chunk.extend_from_slice(&len(key).to_be_bytes());
        self.chunk.extend_from_slice(&value.map_or(DELETED, len).to_be_bytes());
        self.chunk.extend_from_slice(key);
        self.chunk.extend_from_slice(value.unwrap_or_default());
        self.run.filter.insert(key);
        self.run.keys += 1;
        self.run.bytes += bytes as u64;
        Ok(())
    }

    fn write_chunk(&mut self) -> Result<(), StorageError> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let mut slots = Vec::new();
        for bytes in self.chunk.chunks(SLOT_BYTES) {
            let slot = self.slots.take();
            self.table.insert(&slot_row(slot), bytes)?;
            slots.push(slot);
        }
        let key = std::mem::take(&mut self.first);
        self.run.fences.push(Fence { key, slot: slots.remove(0), more: slots });
        self.chunk.clear();
        Ok(())
    }

    /// Writes the rest; none if there was no entry.
    pub(super) fn finish(mut self) -> Result<Option<Arc<Run>>, StorageError> {
        self.write_chunk()?;
        if self.run.keys == 0 {
            return Ok(None);
        }
        let run = borsh::to_vec(&self.run).expect("writing to memory");
        rows::put(&self.table, &rows::numbered(Kind::Run, self.run.id), &run)?;
        Ok(Some(Arc::new(self.run)))
    }
}

/// The entries of one run, from some key on.
#[derive(Debug)]
struct Cursor {
    run: Arc<Run>,
    /// The chunk to read next.
    chunk: usize,
    /// The one before.
    bytes: Vec<u8>,
    /// Where in it the entry behind the head begins.
    at: usize,
    /// Where in it the key and the value of the head are, if there is one.
    head: Option<(Range<usize>, Option<Range<usize>>)>,
    /// The head was seen.
    is_seen: bool,
}

impl Cursor {
    fn new(table: &Table, run: Arc<Run>, from: &[u8]) -> Result<Self, StorageError> {
        let chunk = run.chunk_of(from).unwrap_or(0);
        let bytes = Vec::new();
        let mut cursor = Self { run, chunk, bytes, at: 0, head: None, is_seen: false };
        cursor.advance(table)?;
        while cursor.key().is_some_and(|key| key < from) {
            cursor.advance(table)?;
        }
        Ok(cursor)
    }

    fn key(&self) -> Option<&[u8]> {
        self.head.as_ref().map(|(key, _)| &self.bytes[key.clone()])
    }

    fn value(&self) -> Option<&[u8]> {
        let (_, value) = self.head.as_ref()?;
        value.clone().map(|value| &self.bytes[value])
    }

    fn advance(&mut self, table: &Table) -> Result<(), StorageError> {
        self.is_seen = false;
        if self.at == self.bytes.len() {
            if self.chunk == self.run.fences.len() {
                self.head = None;
                return Ok(());
            }
            self.bytes = self.run.read_chunk(table, self.chunk)?;
            self.chunk += 1;
            self.at = 0;
        }
        let mut rest = &self.bytes[self.at..];
        let (key, value) = split_entry(table, &mut rest)?;
        let start = self.at + ENTRY_HEAD_BYTES;
        let end = start + key.len();
        self.head = Some((start..end, value.map(|value| end..end + value.len())));
        self.at = self.bytes.len() - rest.len();
        Ok(())
    }
}

/// The entries of several runs in one order, each key once, as the newest run has it.
#[derive(Debug)]
pub(super) struct Merged {
    table: Table,
    /// Newest first.
    cursors: Vec<Cursor>,
}

/// An entry of [`Merged`].
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) key: &'a [u8],
    /// None: it is deleted.
    pub(super) value: Option<&'a [u8]>,
    /// How many runs have the key.
    found: usize,
}

impl Merged {
    /// Entries of `runs`, oldest first, from a key on.
    pub(super) fn new(table: &Table, runs: &[Arc<Run>], from: &[u8]) -> Result<Self, StorageError> {
        let cursors = runs.iter().rev().map(|run| Cursor::new(table, Arc::clone(run), from));
        Ok(Self { table: table.clone(), cursors: cursors.collect::<Result<_, _>>()? })
    }

    /// The next entry.
    pub(super) fn next(&mut self) -> Result<Option<Entry<'_>>, StorageError> {
        for cursor in self.cursors.iter_mut().filter(|cursor| cursor.is_seen) {
            cursor.advance(&self.table)?;
        }
        // The first of equal ones, which is the newest.
        let heads = self.cursors.iter().enumerate();
        let heads = heads.filter_map(|(n, cursor)| Some((cursor.key()?, n)));
        let Some((_, newest)) = heads.min() else {
            return Ok(None);
        };
        let (before, from) = self.cursors.split_at_mut(newest);
        debug_assert!(before.iter().all(|cursor| !cursor.is_seen));
        let Some((newest, older)) = from.split_first_mut() else {
            return Ok(None);
        };
        newest.is_seen = true;
        let mut found = 1;
        for cursor in older.iter_mut().filter(|cursor| cursor.key() == newest.key()) {
            cursor.is_seen = true;
            found += 1;
        }
        let value = newest.value();
        Ok(newest.key().map(|key| Entry { key, value, found }))
    }
}

/// A compaction that has ended.
#[derive(Debug)]
pub(super) struct Compacted {
    /// The runs to be replaced, oldest first.
    pub(super) old: Vec<Arc<Run>>,
    /// What replaces them; none if nothing is left of them.
    pub(super) new: Option<Arc<Run>>,
}

/// The making of one run of several.
#[derive(Debug)]
pub(super) struct Compaction {
    /// Oldest first.
    runs: Vec<Arc<Run>>,
    merged: Merged,
    writer: Writer,
    /// Nothing is below: deletions delete nothing more.
    has_oldest: bool,
}

impl Compaction {
    pub(super) fn new(
        table: &Table,
        (runs, has_oldest): (Vec<Arc<Run>>, bool),
        slots: Slots,
        id: u64,
    ) -> Result<Self, StorageError> {
        let keys = runs.iter().map(|run| run.keys).sum();
        let merged = Merged::new(table, &runs, &[])?;
        Ok(Self { runs, merged, writer: Writer::new(table.clone(), slots, id, keys), has_oldest })
    }

    /// Goes through so many entries; whether there may be more.
    pub(super) fn step(&mut self, entries: usize) -> Result<bool, StorageError> {
        for _ in 0..entries {
            let Some(Entry { key, value, found }) = self.merged.next()? else {
                return Ok(false);
            };
            // A node is made once and deleted once, so it needs no deletion below.
            let is_gone = self.has_oldest || (found > 1 && rows::is_node(key));
            if value.is_some() || !is_gone {
                self.writer.push(key, value)?;
            }
        }
        Ok(true)
    }

    /// What has become of the runs.
    pub(super) fn finish(self) -> Result<Compacted, StorageError> {
        Ok(Compacted { old: self.runs, new: self.writer.finish()? })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{StoreConfig, opening, schema};

    type Entries = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

    fn table(home: &tempfile::TempDir) -> Table {
        let node = floe_protocol::keys::NodeId::new([1; 32]);
        let config = StoreConfig::new(home.path().join("l"), home.path().join("marker"), node);
        let opened = opening::open(&config, &schema::LEDGER_STORE).unwrap();
        opening::table(&opened.database, &config.dir, schema::LEDGER).unwrap()
    }

    /// Keys in the order of their numbers.
    fn key(number: u64) -> Vec<u8> {
        rows::numbered(Kind::Value, number * 7)
    }

    /// A run of every `step`th key, with values of many lengths, every third deleted.
    fn run(table: &Table, slots: &Slots, id: u64, step: usize) -> (Arc<Run>, Entries) {
        let mut writer = Writer::new(table.clone(), slots.clone(), id, 400);
        let mut entries = Entries::new();
        for number in (0..400).step_by(step) {
            let len = if number % 50 == 0 { 2_500 } else { usize::try_from(number % 11).unwrap() };
            let value = (number % 3 > 0).then(|| id.to_be_bytes().repeat(len));
            writer.push(&key(number), value.as_deref()).unwrap();
            entries.insert(key(number), value);
        }
        (writer.finish().unwrap().unwrap(), entries)
    }

    fn all(table: &Table, runs: &[Arc<Run>], from: &[u8]) -> Entries {
        let mut merged = Merged::new(table, runs, from).unwrap();
        let mut entries = Entries::new();
        while let Some(entry) = merged.next().unwrap() {
            entries.insert(entry.key.to_vec(), entry.value.map(<[u8]>::to_vec));
        }
        entries
    }

    #[test]
    fn the_newest_run_decides_before_and_after_a_compaction() {
        let home = tempfile::tempdir().unwrap();
        let table = table(&home);
        let slots = Slots::default();
        let made = [(0, 1), (1, 2), (2, 5)].map(|(id, step)| run(&table, &slots, id, step));
        let (runs, entries): (Vec<_>, Vec<_>) = made.into_iter().unzip();
        let expected: Entries = entries.into_iter().flatten().collect();
        assert_eq!(all(&table, &runs, &[]), expected);
        let half = key(200);
        let behind = expected.range(half.clone()..).map(|(k, v)| (k.clone(), v.clone()));
        assert_eq!(all(&table, &runs, &half), behind.collect());
        for has_oldest in [false, true] {
            let crowded = (runs.clone(), has_oldest);
            let mut compaction = Compaction::new(&table, crowded, slots.clone(), 9).unwrap();
            while compaction.step(7).unwrap() {}
            let compacted = compaction.finish().unwrap();
            assert_eq!(compacted.old.len(), 3);
            let new = compacted.new.unwrap();
            let mut kept = expected.clone();
            kept.retain(|_, value| value.is_some() || !has_oldest);
            assert_eq!(all(&table, &[Arc::clone(&new)], &[]), kept);
            for (key, value) in &kept {
                assert_eq!(new.get(&table, key).unwrap().as_ref(), Some(value));
            }
            assert_eq!(new.get(&table, &[255]).unwrap(), None);
            assert_eq!(new.get(&table, &[]).unwrap(), None);
            let loaded = Run::load(&table, 9).unwrap();
            assert_eq!(all(&table, &[Arc::new(loaded)], &[]), kept);
        }
    }

    #[test]
    fn a_node_that_was_deleted_needs_no_deletion() {
        let home = tempfile::tempdir().unwrap();
        let table = table(&home);
        let slots = Slots::default();
        let node = rows::node(&[1; 20]);
        let write = |id, value: Option<&[u8]>| {
            let mut writer = Writer::new(table.clone(), slots.clone(), id, 1);
            writer.push(&node, value).unwrap();
            writer.finish().unwrap().unwrap()
        };
        let crowded = (vec![write(0, Some(b"node")), write(1, None)], false);
        let mut compaction = Compaction::new(&table, crowded, slots.clone(), 2).unwrap();
        while compaction.step(1).unwrap() {}
        assert!(compaction.finish().unwrap().new.is_none());
        // A deletion alone stays: what it deletes may be below.
        let crowded = (vec![write(3, None)], false);
        let mut compaction = Compaction::new(&table, crowded, slots.clone(), 4).unwrap();
        while compaction.step(1).unwrap() {}
        assert!(compaction.finish().unwrap().new.is_some());
    }

    #[test]
    fn slots_that_were_given_back_are_written_over() {
        let home = tempfile::tempdir().unwrap();
        let table = table(&home);
        let slots = Slots::default();
        let (first, _) = run(&table, &slots, 0, 2);
        let (second, kept) = run(&table, &slots, 1, 5);
        let taken: Vec<u32> = first.slots().collect();
        assert!(taken.len() > 20 && taken.iter().all(|slot| second.slots().all(|s| s != *slot)));
        let reopened = Slots::beside([&second].into_iter());
        slots.free(&first);
        for slots in [&slots, &reopened] {
            let (third, entries) = run(&table, slots, 2, 2);
            assert_eq!(third.slots().collect::<Vec<_>>(), taken);
            assert_eq!(all(&table, &[third], &[]), entries);
            assert_eq!(all(&table, &[Arc::clone(&second)], &[]), kept);
        }
    }
}
