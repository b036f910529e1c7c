//! Nodes of the authenticated map: packed by version, and swept by version.
//!
//! A block writes hundreds of small nodes, and most are stale some blocks later. A row for each
//! would cost sled more than all the rest. So the nodes of a version lie in *packs*, a few KiB in
//! key order under the key of the last; the pack of a key is the first one at or behind it. This
//! asks that keys of one version share their first bytes with those of no other, which is so when
//! they begin with the version; nodes with other keys get rows of their own.
//!
//! Nothing is taken out of a pack. Long after its version became old, when most of its nodes are
//! stale, the *sweep* moves the rest to rows of their own and removes the pack. It does so for
//! some versions at once: one pass through the lists of stale nodes since then tells which are
//! stale, and is kept in memory; a restart begins the pass again.
//!
//! Invariants: a node is in its pack until it is in its row. The list of a version is removed
//! after the packs of that version and of all before it; what it names in rows, just before.

use std::{
    collections::HashSet,
    ops::{Range, RangeInclusive},
};

use super::{
    journal::{self, Commit},
    rows::{self, Kind},
};
use crate::{StorageError, database::Table};

/// Bytes of nodes in one pack.
const PACK_BYTES: usize = rows::PIECE_BYTES;
const VERSION_BYTES: usize = 8;

/// A node and its key.
type Node = (Vec<u8>, Vec<u8>);

/// Adds the nodes of a version.
pub(super) fn put(commit: &mut Commit, nodes: &[Node]) {
    let version = commit.height();
    let in_packs = |key: &[u8]| is_of(key, &(version..version + 1));
    for (key, node) in nodes.iter().filter(|(key, _)| !in_packs(key)) {
        commit.put(rows::key(Kind::Node, &[key]), node.clone());
    }
    let mut packed: Vec<&Node> = nodes.iter().filter(|(key, _)| in_packs(key)).collect();
    packed.sort_unstable();
    let mut pack = Vec::with_capacity(PACK_BYTES);
    for (position, node) in packed.iter().enumerate() {
        borsh::to_writer(&mut pack, node).expect("writing to memory");
        // Packs end where the next node would be too much, and with the bytes of the version:
        // only so do packs of different versions not overlap.
        let next = packed.get(position + 1);
        let is_full = next.is_none_or(|(key, bytes)| {
            pack.len() + 8 + key.len() + bytes.len() > PACK_BYTES
                || key[..VERSION_BYTES] != node.0[..VERSION_BYTES]
        });
        if is_full {
            commit.put(rows::key(Kind::Pack, &[&node.0]), std::mem::take(&mut pack));
        }
    }
}

/// A node.
pub(super) fn get(table: &Table, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
    if let Some(range) = packs_from(key)
        && let Some(pack) = table.range(range).next()
    {
        let (row, head) = pack?;
        let pack = rows::assemble(table, &row, &head)?;
        let nodes = journal::entries::<Node>(table, &pack)?;
        if let Ok(place) = nodes.binary_search_by(|(found, _)| found.as_slice().cmp(key)) {
            return Ok(nodes.into_iter().nth(place).map(|(_, node)| node));
        }
    }
    rows::get(table, &rows::key(Kind::Node, &[key]))
}

/// The packs of the version of `key` from `key` on.
fn packs_from(key: &[u8]) -> Option<RangeInclusive<Vec<u8>>> {
    let version = key.get(..VERSION_BYTES)?;
    Some(rows::key(Kind::Pack, &[key])..=behind(version))
}

/// Behind all packs whose keys begin with `version`, but before any other.
fn behind(version: &[u8]) -> Vec<u8> {
    rows::key(Kind::Pack, &[version, &[0xff; 64]])
}

/// Whether a node's key begins with one of the versions, in either byte order.
fn is_of(key: &[u8], versions: &Range<u64>) -> bool {
    key.first_chunk().is_some_and(|version| {
        versions.contains(&u64::from_be_bytes(*version))
            || versions.contains(&u64::from_le_bytes(*version))
    })
}

/// A pass over some versions that are old.
#[derive(Debug)]
pub(super) struct Sweep {
    /// Whose packs go.
    versions: Range<u64>,
    /// How old they are at least.
    age: u64,
    /// The version up to which lists count.
    oldest: u64,
    /// The next list to read; none when all are read.
    next: Option<Vec<u8>>,
    stale: HashSet<Vec<u8>>,
}

/// How many versions make one sweep, and how old they are when it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) versions: u64,
    pub(super) age: u64,
}

impl Sweep {
    /// The next sweep, if enough versions are old where `oldest` is the oldest that is read.
    pub(super) fn next(
        table: &Table,
        oldest: u64,
        pace: Pace,
    ) -> Result<Option<Self>, StorageError> {
        let from = swept(table)?;
        let to = from + pace.versions;
        if to + pace.age > oldest {
            return Ok(None);
        }
        let next = Some(rows::numbered(Kind::StaleNodes, from));
        let stale = HashSet::new();
        Ok(Some(Self { versions: from..to, age: pace.age, oldest, next, stale }))
    }

    /// Works through some `max_entries`, or a version if that has more; how many it were, and
    /// whether the sweep has ended.
    pub(super) fn step(
        &mut self,
        table: &Table,
        max_entries: usize,
    ) -> Result<(usize, bool), StorageError> {
        let mut entries = self.read_lists(table, max_entries)?;
        while self.next.is_none() && entries < max_entries && !self.versions.is_empty() {
            entries += self.sweep_version(table)?;
        }
        Ok((entries, self.versions.is_empty()))
    }

    fn read_lists(&mut self, table: &Table, max_entries: usize) -> Result<usize, StorageError> {
        let mut entries = 0;
        while let Some(next) = self.next.take() {
            if entries >= max_entries {
                self.next = Some(next);
                break;
            }
            let last = rows::part(Kind::StaleNodes, self.oldest, u32::MAX);
            let Some(list) = table.range(next..=last).next() else {
                break;
            };
            let (row, head) = list?;
            for key in journal::entries::<Vec<u8>>(table, &rows::assemble(table, &row, &head)?)? {
                entries += 1;
                if is_of(&key, &self.versions) {
                    self.stale.insert(key);
                }
            }
            self.next = Some([&row, &[0][..]].concat());
        }
        Ok(entries)
    }

    /// Empties the packs of the first version, and ends with its list.
    fn sweep_version(&mut self, table: &Table) -> Result<usize, StorageError> {
        let version = self.versions.start;
        let mut entries = 1;
        for bytes in [version.to_be_bytes(), version.to_le_bytes()] {
            let packs = rows::key(Kind::Pack, &[&bytes])..=behind(&bytes);
            for pack in table.range(packs) {
                let (row, head) = pack?;
                let pack = rows::assemble(table, &row, &head)?;
                for (key, node) in journal::entries::<Node>(table, &pack)? {
                    entries += 1;
                    if !self.stale.contains(&key) {
                        rows::put(table, &rows::key(Kind::Node, &[&key]), &node)?;
                    }
                }
                rows::remove(table, &row)?;
            }
        }
        let lists = rows::numbered(Kind::StaleNodes, version)
            ..=rows::part(Kind::StaleNodes, version, u32::MAX);
        for list in table.range(lists) {
            let (row, head) = list?;
            for key in journal::entries::<Vec<u8>>(table, &rows::assemble(table, &row, &head)?)? {
                // A node that was stale so soon never left its pack.
                if !is_of(&key, &(version.saturating_sub(self.age)..version)) {
                    rows::remove(table, &rows::key(Kind::Node, &[&key]))?;
                }
            }
            rows::remove(table, &row)?;
        }
        table.insert(&rows::key(Kind::Swept, &[]), &(version + 1).to_be_bytes())?;
        self.versions.start += 1;
        Ok(entries)
    }
}

/// The first version that is not swept.
fn swept(table: &Table) -> Result<u64, StorageError> {
    let Some(swept) = table.get(&rows::key(Kind::Swept, &[]))? else {
        return Ok(0);
    };
    let swept: [u8; 8] = (*swept).try_into().map_err(|_| table.corrupt())?;
    Ok(u64::from_be_bytes(swept))
}
