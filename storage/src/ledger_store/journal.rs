//! The order of writes of a commit, and what a start makes of one that did not end.
//!
//! sled's log is recovered up to some point, and a batch of sled that fails half way may come back
//! by half. So a commit relies on the order of its writes alone:
//!
//! 1. the *journal*: the keys of all rows to come, and the changes of the index;
//! 2. rows under keys of this height: nobody asks for them yet;
//! 3. the tip: from here on the block is there;
//! 4. the changes of the index, which has no versions, and the end of the journal.
//!
//! A start that finds a journal above the tip removes the rows that it names; one at the tip makes
//! its changes of the index again. Both may be interrupted and repeated. A node calls a block
//! committed after the flush that follows step 4.
//!
//! Invariant: without a journal in the table, tip, blocks, state and index agree.

use borsh::{BorshDeserialize, BorshSerialize};

use super::rows::{self, Kind};
use crate::{StorageError, database::Table};

/// Bytes of entries in one row of a list.
const PART_BYTES: usize = 4 << 10;

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(super) enum Entry {
    /// A row that the commit writes.
    Row(Vec<u8>),
    /// An entry that the index gains.
    Added(Vec<u8>),
    /// An entry that the index loses.
    Removed(Vec<u8>),
}

/// Rows of one commit, in memory.
#[derive(Debug)]
pub(super) struct Commit {
    height: u64,
    rows: Vec<(Vec<u8>, Vec<u8>)>,
    index: Vec<Entry>,
}

impl Commit {
    pub(super) const fn new(height: u64) -> Self {
        Self { height, rows: Vec::new(), index: Vec::new() }
    }

    pub(super) const fn height(&self) -> u64 {
        self.height
    }

    /// Adds a row whose key belongs to this height alone.
    pub(super) fn put(&mut self, key: Vec<u8>, bytes: Vec<u8>) {
        self.rows.push((key, bytes));
    }

    /// Adds a list, which is read and removed part by part.
    pub(super) fn put_list<T: BorshSerialize>(&mut self, kind: Kind, entries: &[T]) {
        for (part, bytes) in (0..).zip(parts(entries)) {
            self.put(rows::part(kind, self.height, part), bytes);
        }
    }

    /// Changes the index.
    pub(super) fn index(&mut self, entry: Entry) {
        self.index.push(entry);
    }

    /// Makes all writes in their order. The caller flushes.
    pub(super) fn write(mut self, table: &Table) -> Result<(), StorageError> {
        // Neighbours share pages.
        self.rows.sort_unstable();
        let mut entries: Vec<Entry> =
            self.rows.iter().map(|(key, _)| Entry::Row(key.clone())).collect();
        entries.extend_from_slice(&self.index);
        let parts = parts(&entries);
        for (part, bytes) in (0..).zip(&parts) {
            table.insert(&rows::part(Kind::Journal, self.height, part), bytes)?;
        }
        for (key, bytes) in &self.rows {
            rows::put(table, key, bytes)?;
        }
        table.insert(&rows::key(Kind::Tip, &[]), &self.height.to_be_bytes())?;
        for entry in &self.index {
            change_index(table, entry)?;
        }
        if let Some(before) = self.height.checked_sub(1) {
            rows::remove(table, &rows::numbered(Kind::TipBytes, before))?;
        }
        for (part, _) in (0..).zip(&parts) {
            table.remove(&rows::part(Kind::Journal, self.height, part))?;
        }
        Ok(())
    }
}

/// The height of the newest block.
pub(super) fn tip(table: &Table) -> Result<Option<u64>, StorageError> {
    let Some(tip) = table.get(&rows::key(Kind::Tip, &[]))? else {
        return Ok(None);
    };
    let tip: Result<[u8; 8], _> = (*tip).try_into();
    tip.map(|tip| Some(u64::from_be_bytes(tip))).map_err(|_| table.corrupt())
}

/// Ends or undoes the commit that a crash interrupted; the tip.
pub(super) fn recover(table: &Table) -> Result<Option<u64>, StorageError> {
    let tip = tip(table)?;
    for row in table.range(rows::all(Kind::Journal)) {
        let (key, value) = row?;
        let height = rows::number(table, &key)?;
        for entry in entries::<Entry>(table, &value)? {
            match entry {
                Entry::Row(row) if tip.is_none_or(|tip| height > tip) => {
                    rows::remove_unfinished(table, &row)?;
                }
                Entry::Added(_) | Entry::Removed(_) if tip == Some(height) => {
                    change_index(table, &entry)?;
                }
                Entry::Row(_) | Entry::Added(_) | Entry::Removed(_) => {}
            }
        }
    }
    // The whole journal was read, so that what is left of one never hides what it began.
    for key in rows::keys(table, rows::all(Kind::Journal))? {
        table.remove(&key)?;
    }
    for key in rows::keys(table, rows::all(Kind::TipBytes))? {
        if Some(rows::number(table, &key)?) != tip {
            rows::remove(table, &key)?;
        }
    }
    Ok(tip)
}

fn change_index(table: &Table, entry: &Entry) -> Result<(), StorageError> {
    match entry {
        Entry::Row(_) => Ok(()),
        Entry::Added(entry) => table.insert(&rows::key(Kind::Index, &[entry]), &[]),
        Entry::Removed(entry) => table.remove(&rows::key(Kind::Index, &[entry])).map(drop),
    }
}

/// Entries in as many rows as their bytes need. Each is read alone.
fn parts<T: BorshSerialize>(entries: &[T]) -> Vec<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for entry in entries {
        let bytes = borsh::to_vec(entry).expect("writing to memory");
        match parts.last_mut() {
            Some(last) if last.len() + bytes.len() <= PART_BYTES => last.extend_from_slice(&bytes),
            _ => parts.push(bytes),
        }
    }
    parts
}

/// The entries of a row of [`parts`].
pub(super) fn entries<T: BorshDeserialize>(
    table: &Table,
    mut bytes: &[u8],
) -> Result<Vec<T>, StorageError> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        entries.push(T::deserialize(&mut bytes).map_err(|_| table.corrupt())?);
    }
    Ok(entries)
}
