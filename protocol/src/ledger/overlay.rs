//! The state as a block in execution sees it: the stored records, and over them what the block has
//! changed so far.
//!
//! Operations read and write records here; a transaction that fails is taken back whole
//! ([`Overlay::rollback`]). At the end of the block the changes become a [`StateChange`].
//!
//! Invariant: every FROST that a block's records gain, others lose: [`Overlay::finish`] counts
//! them all and refuses anything else, in release builds too.

use std::{collections::BTreeMap, ops::Bound};

use super::{
    Account, Attendance, Blob, Challenges, Entry, EpochRecord, IndexEntry, IndexRange, Key, Name,
    Node, Presence, Rate, ReadError, Record, Registration, ShardRecord, Stake, StateChange,
    StateReader, Summary, Supply, Terms, entry::entry_bytes, tree,
};
use crate::{
    blob::BlobId,
    hash::Hash,
    index::{Epoch, Height},
    keys::NodeId,
    ledger::AccountId,
    registration::RegistrationId,
};

/// Entries of the index read at a time when only the first is wanted, but may have been removed.
const FIRST_PAGE: usize = 8;

/// A record that the block has looked at.
#[derive(Debug)]
struct Slot {
    /// As of the parent, with the version that wrote it.
    before: Option<(u64, Record)>,
    /// As of now.
    now: Option<Record>,
}

/// How to undo one step.
#[derive(Debug)]
enum Undo {
    Record(Key, Box<Option<Record>>),
    Index(Vec<u8>, Option<bool>),
}

/// The state under change.
pub(super) struct Overlay<'a> {
    reader: &'a dyn StateReader,
    /// The version read from: the parent's height. `None` before genesis.
    parent: Option<u64>,
    records: BTreeMap<Key, Slot>,
    /// Index entries added (true) or removed (false).
    index: BTreeMap<Vec<u8>, bool>,
    /// By the start of a range, where its first entry can be: what the store holds before has been
    /// removed. So whoever removes many, one by one, does not pass them all again each time.
    first: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Since the last savepoint.
    undo: Vec<Undo>,
}

/// A typed getter per kind of record.
macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) -> $record:ident($value:ty) = $key:expr;)*) => {$(
        $(#[$doc])*
        pub(super) fn $name(&mut self, $($arg: $type),*) -> Result<Option<$value>, ReadError> {
            match self.get(&$key)? {
                Some(Record::$record(record)) => Ok(Some(record.clone().into())),
                Some(_) => Err(self.damaged(&$key)),
                None => Ok(None),
            }
        }
    )*};
}

impl<'a> Overlay<'a> {
    /// The state after block `parent`, or before genesis.
    pub(super) fn new(reader: &'a dyn StateReader, parent: Option<Height>) -> Self {
        Self {
            reader,
            parent: parent.map(Height::get),
            records: BTreeMap::new(),
            index: BTreeMap::new(),
            first: BTreeMap::new(),
            undo: Vec::new(),
        }
    }

    getters! {
        node(id: &NodeId) -> Node(Box<Node>) = Key::Node(*id);
        stake(account: &AccountId, node: &NodeId) -> Stake(Stake) = Key::Stake(*account, *node);
        blob(id: &BlobId) -> Blob(Blob) = Key::Blob(*id);
        registration(id: &RegistrationId) -> Registration(Box<Registration>)
            = Key::Registration(*id);
        name(account: &AccountId, name: &str) -> Name(Name) = Key::Name(*account, name.to_owned());
        stored_account(id: &AccountId) -> Account(Account) = Key::Account(*id);
        stored_epoch(epoch: Epoch) -> Epoch(EpochRecord) = Key::Epoch(epoch);
        presence(height: Height) -> Presence(Presence) = Key::Presence(height);
        committee(epoch: Epoch) -> Committee(Vec<u8>) = Key::Committee(epoch);
        stored_shards() -> Shards(Vec<ShardRecord>) = Key::Shards;
        attendance() -> Attendance(Attendance) = Key::Attendance;
        stored_terms(epoch: Epoch) -> Terms(Vec<Terms>) = Key::Terms(epoch);
        rate(node: &NodeId, epoch: Epoch) -> Rate(Rate) = Key::Rate(*node, epoch);
        stored_challenges(epoch: Epoch) -> Challenges(Box<Challenges>) = Key::Challenges(epoch);
        stored_summary() -> Summary(Summary) = Key::Summary;
    }

    /// An account; one that was never seen is empty.
    pub(super) fn account(&mut self, id: &AccountId) -> Result<Account, ReadError> {
        Ok(self.stored_account(id)?.unwrap_or_default())
    }

    /// An epoch; one that nothing was paid for is empty.
    pub(super) fn epoch(&mut self, epoch: Epoch) -> Result<EpochRecord, ReadError> {
        Ok(self.stored_epoch(epoch)?.unwrap_or_default())
    }

    /// The summary, which every state has.
    pub(super) fn summary(&mut self) -> Result<Summary, ReadError> {
        self.stored_summary()?.ok_or_else(|| self.damaged(&Key::Summary))
    }

    /// The readiness of all shards, which every state has.
    pub(super) fn shards(&mut self) -> Result<Vec<ShardRecord>, ReadError> {
        self.stored_shards()?.ok_or_else(|| self.damaged(&Key::Shards))
    }

    /// The terms of an epoch's committee, which every committee that is kept has.
    pub(super) fn terms(&mut self, epoch: Epoch) -> Result<Vec<Terms>, ReadError> {
        self.stored_terms(epoch)?.ok_or_else(|| self.damaged(&Key::Terms(epoch)))
    }

    /// Whether there is a record.
    pub(super) fn has(&mut self, key: &Key) -> Result<bool, ReadError> {
        Ok(self.get(key)?.is_some())
    }

    fn get(&mut self, key: &Key) -> Result<Option<&Record>, ReadError> {
        self.load(key)?;
        Ok(self.records.get(key).and_then(|slot| slot.now.as_ref()))
    }

    fn load(&mut self, key: &Key) -> Result<(), ReadError> {
        if self.records.contains_key(key) {
            return Ok(());
        }
        let stored = match self.parent {
            Some(version) => self.reader.value(&key.hash(), version)?,
            None => None,
        };
        let before = match stored {
            Some((version, Some(bytes))) => {
                let record = Entry::record_of(key, &bytes).ok_or_else(|| self.damaged(key))?;
                Some((version, record))
            }
            Some((_, None)) | None => None,
        };
        let now = before.as_ref().map(|(_, record)| record.clone());
        self.records.insert(key.clone(), Slot { before, now });
        Ok(())
    }

    /// Writes a record, or removes it.
    pub(super) fn put(
        &mut self,
        key: Key,
        record: impl Into<Option<Record>>,
    ) -> Result<(), ReadError> {
        self.load(&key)?;
        let slot = self.records.get_mut(&key).expect("loaded");
        let before = std::mem::replace(&mut slot.now, record.into());
        self.undo.push(Undo::Record(key, Box::new(before)));
        Ok(())
    }

    /// Puts an entry into the index.
    pub(super) fn add_index(&mut self, entry: IndexEntry) {
        self.set_index(entry.to_bytes(), true);
    }

    /// Takes an entry out of the index.
    pub(super) fn remove_index(&mut self, entry: IndexEntry) {
        self.set_index(entry.to_bytes(), false);
    }

    /// Takes out an entry that was found in the index.
    pub(super) fn remove_index_bytes(&mut self, entry: Vec<u8>) {
        self.set_index(entry, false);
    }

    fn set_index(&mut self, entry: Vec<u8>, present: bool) {
        if present {
            self.rewind(&entry);
        }
        let before = self.index.insert(entry.clone(), present);
        self.undo.push(Undo::Index(entry, before));
    }

    /// Looks for the first entry of a range from `entry` on again, if it was thought to be later.
    fn rewind(&mut self, entry: &[u8]) {
        // Ranges do not overlap: the last that starts before the entry is the only one to hold it.
        let range = (Bound::Unbounded, Bound::Included(entry));
        if let Some((_, first)) = self.first.range_mut::<[u8], _>(range).next_back()
            && first.as_slice() > entry
        {
            *first = entry.to_vec();
        }
    }

    /// The first entry of the index in `range`. Ranges asked for here do not overlap.
    pub(super) fn first_index(&mut self, range: &IndexRange) -> Result<Option<Vec<u8>>, ReadError> {
        let start = self.first.get(&range.start).unwrap_or(&range.start).clone();
        let mut from = start.clone();
        let stored = loop {
            let page = match self.parent {
                Some(_) => self.reader.index(&from..&range.end, FIRST_PAGE)?,
                None => Vec::new(),
            };
            let living = page.iter().find(|entry| self.index.get(*entry) != Some(&false));
            if let Some(entry) = living {
                break Some(entry.clone());
            }
            match page.last() {
                Some(last) if page.len() >= FIRST_PAGE => from = [last.as_slice(), &[0]].concat(),
                Some(_) | None => break None,
            }
        };
        let end = stored.as_ref().unwrap_or(&range.end);
        let mut changed = self.index.range::<Vec<u8>, _>(&start..end);
        let added = changed.find(|(_, present)| **present).map(|(entry, _)| entry.clone());
        let first = added.or(stored);
        let place = first.clone().unwrap_or_else(|| range.end.clone());
        self.first.insert(range.start.clone(), place);
        Ok(first)
    }

    /// At most `limit` entries of the index in `range`, ascending.
    pub(super) fn index(
        &self,
        range: &IndexRange,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, ReadError> {
        let bounds = range.start.clone()..range.end.clone();
        let changed = || self.index.range(bounds.clone());
        let removed = changed().filter(|(_, present)| !**present).count();
        let stored = match self.parent {
            Some(_) => {
                self.reader.index(&range.start..&range.end, limit.saturating_add(removed))?
            }
            None => Vec::new(),
        };
        let mut entries: Vec<_> =
            stored.into_iter().filter(|entry| !self.index.contains_key(entry)).collect();
        entries.extend(changed().filter(|(_, present)| **present).map(|(entry, _)| entry.clone()));
        entries.sort_unstable();
        entries.truncate(limit);
        Ok(entries)
    }

    /// At most `limit` entries of the index in `range`: the first, and then those among as many in
    /// the store and as many that the block has changed as are still there. So the work is bounded
    /// whatever the block has done before: an owner may have thousands of entries.
    pub(super) fn few_index(
        &mut self,
        range: &IndexRange,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, ReadError> {
        let Some(start) = self.first_index(range)? else { return Ok(Vec::new()) };
        let stored = match self.parent {
            Some(_) => self.reader.index(&start..&range.end, limit)?,
            None => Vec::new(),
        };
        let living = stored.into_iter().filter(|entry| !self.index.contains_key(entry));
        let changed = self.index.range::<Vec<u8>, _>(&start..&range.end).take(limit);
        let added = changed.filter(|(_, present)| **present).map(|(entry, _)| entry.clone());
        let mut entries: Vec<_> = living.chain(added).collect();
        entries.sort_unstable();
        entries.truncate(limit);
        Ok(entries)
    }

    /// Where a transaction begins: what was done before stays. So a block needs the memory to
    /// undo one transaction, never all of them.
    pub(super) fn savepoint(&mut self) {
        self.undo.clear();
    }

    /// Takes back everything since the last savepoint.
    pub(super) fn rollback(&mut self) {
        let mut undone = Vec::new();
        for step in self.undo.drain(..).rev() {
            match step {
                Undo::Record(key, before) => {
                    self.records.get_mut(&key).expect("it was written").now = *before;
                }
                Undo::Index(entry, before) => undone.push((entry, before)),
            }
        }
        for (entry, before) in undone {
            self.rewind(&entry);
            match before {
                Some(before) => self.index.insert(entry, before),
                None => self.index.remove(&entry),
            };
        }
    }

    /// The blobs that the block has written, as of the parent and as of now.
    pub(super) fn changed_blobs(&self) -> impl Iterator<Item = (Option<Blob>, Option<Blob>)> {
        let blob = |record: Option<&Record>| match record {
            Some(Record::Blob(blob)) => Some(*blob),
            _ => None,
        };
        self.records.values().filter_map(move |slot| {
            let before = blob(slot.before.as_ref().map(|(_, record)| record));
            let now = blob(slot.now.as_ref());
            (before != now).then_some((before, now))
        })
    }

    /// Where the supply of the records touched was and is: before, now.
    pub(super) fn supply(&self) -> Option<(Supply, Supply)> {
        let (mut before, mut now) = (Supply::default(), Supply::default());
        for slot in self.records.values() {
            if let Some((_, record)) = &slot.before {
                before = before.add(&record.wal()?)?;
            }
            if let Some(record) = &slot.now {
                now = now.add(&record.wal()?)?;
            }
        }
        Some((before, now))
    }

    /// What the block changes, and the root of the map after it.
    pub(super) fn finish(self, height: Height) -> Result<(Hash, StateChange), ReadError> {
        let version = height.get();
        let mut change = StateChange { version, ..StateChange::default() };
        for (key, slot) in &self.records {
            let before = slot.before.as_ref().map(|(_, record)| record);
            if before == slot.now.as_ref() {
                continue;
            }
            let hash = key.hash();
            let value = slot.now.as_ref().map(|record| entry_bytes(key, record));
            change.values.push((hash, value));
            change.stale_values.extend(slot.before.as_ref().map(|(version, _)| (hash, *version)));
            if slot.now.is_none() {
                // A removal hides the value before it; both go together, this one last.
                change.stale_values.push((hash, version));
            }
        }
        let update = tree::update(self.reader, &change.values, version)?;
        change.nodes = update.nodes;
        change.stale_nodes = update.stale;
        for (entry, present) in self.index {
            if present { &mut change.index_added } else { &mut change.index_removed }.push(entry);
        }
        Ok((update.root, change))
    }

    /// What it means that a record is missing which every state has.
    pub(super) fn damaged(&self, key: &Key) -> ReadError {
        ReadError::Failed(format!("the record under {key:?} is damaged or missing").into())
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, collections::BTreeSet, ops::Range};

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::ledger::{MemoryStore, VersionedValue};

    fn entry(number: u8) -> IndexEntry {
        let registration = RegistrationId::new([number / 2; 32]);
        IndexEntry::CertifiedEnd(blob(number), Epoch::new(9), registration)
    }

    fn blob(number: u8) -> BlobId {
        BlobId::new([number % 2; 32])
    }

    /// Of the entries of a blob, the first.
    fn expected(model: &BTreeSet<u8>, of: u8) -> Option<Vec<u8>> {
        let first = model.iter().find(|number| *number % 2 == of % 2);
        first.map(|number| entry(*number).to_bytes())
    }

    /// A store that counts what is read of its index.
    #[derive(Default)]
    struct Counting {
        store: MemoryStore,
        read: Cell<usize>,
    }

    impl StateReader for Counting {
        fn node(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
            self.store.node(key)
        }

        fn value(&self, key: &Hash, version: u64) -> Result<Option<VersionedValue>, ReadError> {
            self.store.value(key, version)
        }

        fn index(&self, range: Range<&[u8]>, limit: usize) -> Result<Vec<Vec<u8>>, ReadError> {
            let entries = self.store.index(range, limit)?;
            self.read.set(self.read.get().saturating_add(entries.len()));
            Ok(entries)
        }
    }

    /// Whoever removes many entries, but not the first, lets nobody read them all again each time.
    #[test]
    fn a_few_entries_cost_a_few_reads_whatever_was_removed() {
        let entry = |number: u16| {
            let mut registration = [0; 32];
            registration[..2].copy_from_slice(&number.to_be_bytes());
            IndexEntry::CertifiedEnd(blob(0), Epoch::new(9), RegistrationId::new(registration))
        };
        let mut reader = Counting::default();
        let index_added = (0..2_000).map(|number| entry(number).to_bytes()).collect();
        reader.store.write(StateChange { index_added, ..StateChange::default() });
        let mut overlay = Overlay::new(&reader, Some(Height::new(0)));
        (1..1_990).for_each(|number| overlay.remove_index(entry(number)));
        (2_000..4_000).for_each(|number| overlay.add_index(entry(number)));
        let range = IndexRange::certified_ends(&blob(0));
        for _ in 0..10 {
            assert_eq!(overlay.few_index(&range, 8).unwrap(), [entry(0).to_bytes()]);
        }
        assert_eq!(reader.read.get(), 10 * (FIRST_PAGE + 8));
        overlay.remove_index(entry(0));
        let few = overlay.few_index(&range, 8).unwrap();
        let first: Vec<_> = (1_990..1_998).map(|number| entry(number).to_bytes()).collect();
        assert_eq!(few, first);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_first_entry_is_found_whatever_was_added_removed_and_taken_back(
            stored in vec(0..60_u8, 0..60),
            steps in vec((0..5_u8, 0..60_u8), 0..120),
        ) {
            let mut store = MemoryStore::default();
            let index_added = stored.iter().map(|number| entry(*number).to_bytes()).collect();
            store.write(StateChange { index_added, ..StateChange::default() });
            let mut overlay = Overlay::new(&store, Some(Height::new(0)));
            let mut model: BTreeSet<u8> = stored.into_iter().collect();
            let mut saved = model.clone();
            for (kind, number) in steps {
                match kind {
                    0 => {
                        overlay.add_index(entry(number));
                        model.insert(number);
                    }
                    1 | 2 => {
                        // The first more often than others, as the state does.
                        let first = model.iter().find(|n| *n % 2 == number % 2).copied();
                        let number = if kind == 1 { number } else { first.unwrap_or(number) };
                        overlay.remove_index(entry(number));
                        model.remove(&number);
                    }
                    3 if number < 20 => {
                        overlay.rollback();
                        model.clone_from(&saved);
                    }
                    3 => {
                        overlay.savepoint();
                        saved.clone_from(&model);
                    }
                    _ => {}
                }
                let range = IndexRange::certified_ends(&blob(number));
                let few = overlay.few_index(&range, 4).unwrap();
                let first = overlay.first_index(&range).unwrap();
                prop_assert_eq!(&first, &expected(&model, number));
                let all = overlay.index(&range, usize::MAX).unwrap();
                prop_assert!(few.is_sorted() && few.len() <= 4);
                prop_assert!(few.iter().all(|entry| all.contains(entry)));
                prop_assert_eq!(few.first(), first.as_ref());
                let removed = overlay.index.values().any(|present| !present);
                prop_assert!(removed || few == all[..all.len().min(4)]);
                prop_assert_eq!(overlay.index(&range, 1).unwrap().pop(), first);
            }
        }
    }
}
