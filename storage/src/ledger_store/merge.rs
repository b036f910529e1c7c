//! A merge: what takes the state on disk from one version to a later one.
//!
//! Blocks are durable before their state, and can be executed again. So a merge need not end: what
//! a crash leaves of it is completed by the same merge, which the owner's second execution of the
//! same blocks makes. It consists of these steps, in this order, since sled's log is recovered up
//! to some point:
//!
//! 1. the version that it leads to: after a crash the next merge leads there, too, and writes over
//!    what this one left;
//! 2. what versions above the old checkpoint brought and is alive at the new one: nodes, the newest
//!    value of each key, transactions. All have keys that no reader of the old checkpoint asks for;
//! 3. two lists: rows on disk that are stale from here on, and net changes of the index;
//! 4. the new checkpoint, and a flush: from here on a start finds this version;
//! 5. the changes of the index, which has no versions. A start makes them again.
//!
//! Stale rows go when the floor (`memory.rs`) has reached the checkpoint that lists them, again in
//! an order that can be repeated: rows, then list.
//!
//! Invariants: between steps 1 and 4 the old state reads as before, index included; the removal of
//! a key is itself removed after the value that it hides.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use borsh::{BorshDeserialize, BorshSerialize};
use floe_protocol::hash::Hash;

use super::{
    memory::{Layer, Shared},
    rows::{self, Kind},
};
use crate::{StorageError, database::Table};

/// Bytes of entries in one row of a list.
const PART_BYTES: usize = 8 << 10;
/// Last byte of a value: the key was removed.
const ABSENT: u8 = 0;
/// Last byte of a value that is there.
const PRESENT: u8 = 1;

/// One write of a merge.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Writes a row of any length.
    Put(Vec<u8>, Bytes),
    /// Writes a row of few bytes as it is.
    Set(Vec<u8>, Vec<u8>),
    /// Removes such a row.
    Remove(Vec<u8>),
    /// All before it is to be durable before anything behind it is written.
    Flush,
}

/// The bytes of a row.
#[derive(Clone, Debug)]
pub(super) enum Bytes {
    Node(Shared),
    Value(Option<Shared>),
    Place(Vec<u8>),
}

impl Step {
    /// Makes the write; whether it is the flush, which is left to the caller.
    pub(super) fn apply(&self, table: &Table) -> Result<bool, StorageError> {
        match self {
            Self::Put(key, Bytes::Node(bytes)) => rows::put(table, key, bytes)?,
            Self::Put(key, Bytes::Place(bytes)) => rows::put(table, key, bytes)?,
            Self::Put(key, Bytes::Value(value)) => rows::put(table, key, &value_row(value))?,
            Self::Set(key, bytes) => table.insert(key, bytes)?,
            Self::Remove(key) => table.remove(key).map(drop)?,
            Self::Flush => return Ok(true),
        }
        Ok(false)
    }
}

fn value_row(value: &Option<Shared>) -> Vec<u8> {
    match value {
        Some(value) => [value, &[PRESENT][..]].concat(),
        None => vec![ABSENT],
    }
}

/// The value in a row.
pub(super) fn parse_value(
    table: &Table,
    mut row: Vec<u8>,
) -> Result<Option<Vec<u8>>, StorageError> {
    match row.pop() {
        Some(PRESENT) => Ok(Some(row)),
        Some(ABSENT) if row.is_empty() => Ok(None),
        _ => Err(table.corrupt()),
    }
}

/// What the layers above a checkpoint come to.
#[derive(Debug, Default)]
pub(super) struct Plan {
    to: u64,
    /// New rows in key order.
    rows: Vec<(Vec<u8>, Bytes)>,
    /// Rows on disk that go, in the order in which they do.
    stale: Vec<Vec<u8>>,
    /// Net changes of the index, in its order.
    index: Vec<(Shared, bool)>,
}

impl Plan {
    /// The plan of a merge of `layers`, which are all those above `from` up to `to`. Above nothing
    /// (`from` is none) there is only genesis.
    pub(super) fn new(layers: &[Arc<Layer>], from: Option<u64>, to: u64) -> Self {
        let mut plan = Self { to, ..Self::default() };
        plan.add_nodes(layers);
        plan.add_values(layers, from);
        layers.iter().for_each(|layer| plan.add_names(layer));
        let changes: HashMap<_, _> =
            layers.iter().flat_map(|layer| layer.index.iter().cloned()).collect();
        plan.index = changes.into_iter().collect();
        plan.index.sort_unstable();
        plan.rows.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        plan
    }

    fn add_nodes(&mut self, layers: &[Arc<Layer>]) {
        let nodes = layers.iter().flat_map(|layer| &layer.nodes);
        let mut alive: HashMap<&[u8], &Shared> = nodes.map(|(key, node)| (&**key, node)).collect();
        for key in layers.iter().flat_map(|layer| &layer.stale_nodes) {
            if alive.remove(&**key).is_none() {
                self.stale.push(rows::node(key));
            }
        }
        let alive = alive.into_iter();
        self.rows.extend(alive.map(|(key, node)| (rows::node(key), Bytes::Node(Arc::clone(node)))));
        self.stale.sort_unstable();
    }

    fn add_values(&mut self, layers: &[Arc<Layer>], from: Option<u64>) {
        let mut newest: HashMap<&Hash, (u64, &Option<Shared>)> = HashMap::new();
        for layer in layers {
            newest.extend(layer.values.iter().map(|(key, value)| (key, (layer.version, value))));
        }
        // Stale ones that are on disk; and keys whose newest value is stale, as they were removed.
        let (mut on_disk, mut removed) = (HashSet::new(), HashSet::new());
        let mut stale = Vec::new();
        for (key, version) in layers.iter().flat_map(|layer| &layer.stale_values) {
            if from.is_some_and(|from| *version <= from) {
                on_disk.insert(key);
                stale.push(rows::value(key, *version));
            } else if newest.get(key).is_some_and(|(newest, _)| newest == version) {
                removed.insert(key);
            }
        }
        stale.sort_unstable();
        self.stale.extend(stale);
        for (key, (version, value)) in newest {
            let row = rows::value(key, version);
            if value.is_none() && removed.contains(key) {
                if !on_disk.contains(key) {
                    continue;
                }
                // Last of all: it hides what goes before it.
                self.stale.push(row.clone());
            }
            self.rows.push((row, Bytes::Value(value.clone())));
        }
    }

    fn add_names(&mut self, layer: &Layer) {
        let height = layer.version.to_be_bytes();
        let hash = layer.hash.map(|hash| rows::key(Kind::Hash, &[hash.hash().as_bytes()]));
        self.rows.extend(hash.map(|row| (row, Bytes::Place(height.to_vec()))));
        for (position, id) in (0_u32..).zip(&layer.transactions) {
            let place = [&height[..], &position.to_be_bytes()].concat();
            let row = rows::key(Kind::Transaction, &[id.hash().as_bytes()]);
            self.rows.push((row, Bytes::Place(place)));
        }
    }

    /// All writes in their order.
    pub(super) fn steps(self) -> impl Iterator<Item = Step> {
        let to = self.to.to_be_bytes().to_vec();
        let merging = Step::Set(rows::key(Kind::Merging, &[]), to.clone());
        let puts = self.rows.into_iter().map(|(key, bytes)| Step::Put(key, bytes));
        let set =
            move |kind| move |(part, bytes)| Step::Set(rows::part(kind, self.to, part), bytes);
        let stale = (0..).zip(parts(&self.stale)).map(set(Kind::Stale));
        let changes: Vec<_> = self.index.iter().map(|(entry, there)| (&**entry, *there)).collect();
        let changes = parts(&changes);
        let lists = 0..u32::try_from(changes.len()).expect("memory is bounded");
        let changes = (0..).zip(changes).map(set(Kind::IndexChanges));
        let checkpoint = Step::Set(rows::key(Kind::Checkpoint, &[]), to);
        let index = self.index.into_iter().map(|(entry, there)| index_step(&entry, there));
        let lists =
            lists.map(move |part| Step::Remove(rows::part(Kind::IndexChanges, self.to, part)));
        std::iter::once(merging)
            .chain(puts)
            .chain(stale)
            .chain(changes)
            .chain([checkpoint, Step::Flush])
            .chain(index)
            .chain(lists)
    }
}

fn index_step(entry: &[u8], is_there: bool) -> Step {
    let row = rows::key(Kind::Index, &[entry]);
    if is_there { Step::Set(row, Vec::new()) } else { Step::Remove(row) }
}

/// Where the state on disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recovered {
    /// Its version; none before genesis.
    pub(super) checkpoint: Option<u64>,
    /// The version to which the next merge must lead.
    pub(super) forced: Option<u64>,
}

/// Reads where the state on disk is, and makes what its last merge may have left to do.
pub(super) fn recover(table: &Table) -> Result<Recovered, StorageError> {
    let checkpoint = version_in(table, Kind::Checkpoint)?;
    let merging = version_in(table, Kind::Merging)?;
    let mut lists = Vec::new();
    for row in table.range(rows::all(Kind::IndexChanges)) {
        let (key, list) = row?;
        if Some(rows::number(table, &key)?) == checkpoint {
            for (entry, is_there) in entries::<(Vec<u8>, bool)>(table, &list)? {
                index_step(&entry, is_there).apply(table)?;
            }
        }
        lists.push(key);
    }
    // All of it was read: what is left of a list never hides what it began.
    for list in lists {
        table.remove(&list)?;
    }
    let unfinished = checkpoint.map_or(0, |checkpoint| checkpoint + 1);
    let lists = rows::numbered(Kind::Stale, unfinished)..rows::key(Kind::Piece, &[]);
    for list in rows::keys(table, lists)? {
        table.remove(&list)?;
    }
    Ok(Recovered { checkpoint, forced: merging.filter(|to| checkpoint.is_none_or(|at| *to > at)) })
}

fn version_in(table: &Table, kind: Kind) -> Result<Option<u64>, StorageError> {
    let row = rows::key(kind, &[]);
    table.get(&row)?.map(|version| rows::number_of(table, &version)).transpose()
}

/// Removes what is stale at `floor`, with the lists that name it. `again`: an earlier removal may
/// have stopped half way.
pub(super) fn remove_stale(table: &Table, floor: u64, again: bool) -> Result<(), StorageError> {
    let lists = rows::numbered(Kind::Stale, 0)..=rows::part(Kind::Stale, floor, u32::MAX);
    for list in table.range(lists) {
        let (list, stale) = list?;
        for row in entries::<Vec<u8>>(table, &stale)? {
            if again { rows::remove_unfinished(table, &row)? } else { rows::remove(table, &row)? }
        }
        table.remove(&list)?;
    }
    Ok(())
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
fn entries<T: BorshDeserialize>(table: &Table, mut bytes: &[u8]) -> Result<Vec<T>, StorageError> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        entries.push(T::deserialize(&mut bytes).map_err(|_| table.corrupt())?);
    }
    Ok(entries)
}
