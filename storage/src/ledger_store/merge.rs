//! What the state on disk consists of: runs, and the row that says which of them count.
//!
//! The *checkpoint* row names a version and the runs that hold its state, oldest first. Blocks are
//! durable before their state, and can be executed again, so nothing else has to be durable:
//!
//! - A merge of the versions above the checkpoint writes a run of what they brought and is alive
//!   at the newest of them (nodes, the newest value of each key, the index, and deletions of what
//!   was on disk), then the checkpoint row, then flushes.
//! - A compaction writes a run in place of some others, then the checkpoint row with the same
//!   version, then flushes, then gives back what those others took.
//!
//! sled's log is recovered up to some point, so a start finds a checkpoint with all its runs. It
//! removes the runs that the row does not name.
//!
//! There are two families of runs: the state, and the names (block hashes and transaction ids),
//! which only grow and should not be copied whenever stale state is thrown out.
//!
//! Invariant: a compaction takes part in runs at or below the floor (`memory.rs`) alone: above it,
//! replaced values are still read.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use borsh::{BorshDeserialize, BorshSerialize};
use floe_protocol::{hash::Hash, ledger::VersionedValue};

use super::{
    memory::{self, Layer, Shared},
    rows::{self, Kind},
    runs::{self, Compaction, Run, Slots, Writer},
};
use crate::{
    StorageError,
    database::{Database, Table},
};

/// So many runs of one size become one.
const FAN_IN: usize = 16;
/// The smallest size.
const TIER_BYTES: u64 = 1 << 20;

/// Runs by family, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs {
    pub(super) state: Vec<Arc<Run>>,
    pub(super) names: Vec<Arc<Run>>,
}

impl Runs {
    pub(super) fn extend(&mut self, newer: &Self) {
        self.state.extend_from_slice(&newer.state);
        self.names.extend_from_slice(&newer.names);
    }

    /// All of them.
    pub(super) fn into_all(self) -> impl Iterator<Item = Arc<Run>> {
        self.state.into_iter().chain(self.names)
    }

    /// Puts one run in the place of some neighbours.
    pub(super) fn replace(&mut self, old: &[Arc<Run>], new: Option<&Arc<Run>>) {
        for runs in [&mut self.state, &mut self.names] {
            let first = old.first().and_then(|old| runs.iter().position(|run| run.id == old.id));
            if let Some(first) = first {
                runs.splice(first..first + old.len(), new.cloned());
            }
        }
    }

    /// What is to be compacted, and whether nothing is below it.
    fn crowded(&self) -> Option<(Vec<Arc<Run>>, bool)> {
        // As much above the oldest run as in it: about half of both is stale.
        if let Some((oldest, newer)) = self.state.split_first()
            && !newer.is_empty()
            && newer.iter().map(|run| run.bytes).sum::<u64>() >= oldest.bytes
        {
            return Some((self.state.clone(), true));
        }
        [&self.state, &self.names].into_iter().find_map(|runs| {
            let first = (1..u64::BITS).map_while(|tier| TIER_BYTES.checked_shl(4 * tier));
            let small = first.map(|bytes_max| {
                let newest = runs.iter().rev().take_while(|run| run.bytes < bytes_max);
                runs.len() - newest.count()
            });
            let mut small = small.take(20).filter(|first| runs.len() - first >= FAN_IN);
            small.next().map(|first| (runs[first..].to_vec(), first == 0))
        })
    }
}

/// The checkpoint row.
#[derive(BorshSerialize, BorshDeserialize)]
struct Checkpoint {
    version: u64,
    state: Vec<u64>,
    names: Vec<u64>,
}

/// The state on disk, for those who change it.
#[derive(Debug)]
pub(super) struct Disk {
    table: Table,
    /// The version; none before genesis.
    pub(super) checkpoint: Option<u64>,
    pub(super) runs: Runs,
    slots: Slots,
    next_id: u64,
}

impl Disk {
    /// Reads the checkpoint, and removes what it does not name.
    pub(super) fn recover(table: Table) -> Result<Self, StorageError> {
        let row = table.get(&rows::key(Kind::Checkpoint, &[]))?;
        let row = row.map(|row| borsh::from_slice(&row)).transpose();
        let row: Option<Checkpoint> = row.map_err(|_| table.corrupt())?;
        let checkpoint = row.as_ref().map(|row| row.version);
        let (state, names) = row.map(|row| (row.state, row.names)).unwrap_or_default();
        let ids = [&state[..], &names].concat();
        runs::remove_others(&table, &ids)?;
        let load = |ids: Vec<u64>| -> Result<Vec<Arc<Run>>, StorageError> {
            ids.into_iter().map(|id| Run::load(&table, id).map(Arc::new)).collect()
        };
        let runs = Runs { state: load(state)?, names: load(names)? };
        let next_id = ids.into_iter().max().map_or(0, |id| id + 1);
        let slots = Slots::beside(runs.state.iter().chain(&runs.names));
        Ok(Self { table, checkpoint, runs, slots, next_id })
    }

    fn new_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Merges layers, which are all those above the checkpoint up to a version; their runs.
    /// Durable when this returns.
    pub(super) fn merge(
        &mut self,
        database: &Database,
        layers: &[Arc<Layer>],
        to: u64,
    ) -> Result<Runs, StorageError> {
        let new = self.write(layers)?;
        self.runs.extend(&new);
        self.checkpoint = Some(to);
        self.write_checkpoint(to)?;
        database.flush()?;
        Ok(new)
    }

    /// Writes what layers come to into runs that nothing names yet.
    pub(super) fn write(&mut self, layers: &[Arc<Layer>]) -> Result<Runs, StorageError> {
        let mut new = Runs::default();
        let (state, names) = (state_entries(layers), name_entries(layers));
        for (entries, runs) in [(state, &mut new.state), (names, &mut new.names)] {
            let (table, slots) = (self.table.clone(), self.slots.clone());
            let mut writer = Writer::new(table, slots, self.new_id(), entries.len() as u64);
            for (key, value) in &entries {
                match value {
                    Some(value) => writer.push(key, Some(&value.bytes()))?,
                    None => writer.push(key, None)?,
                }
            }
            runs.extend(writer.finish()?);
        }
        Ok(new)
    }

    /// Goes on with other runs, which a checkpoint row names already; those before.
    pub(super) fn install(&mut self, version: u64, runs: Runs) -> Runs {
        self.checkpoint = Some(version);
        std::mem::replace(&mut self.runs, runs)
    }

    /// The next compaction among `runs`, which are those at or below the floor.
    pub(super) fn compaction(&mut self, runs: &Runs) -> Result<Option<Compaction>, StorageError> {
        let Some(crowded) = runs.crowded() else {
            return Ok(None);
        };
        let id = self.new_id();
        Compaction::new(&self.table, crowded, self.slots.clone(), id).map(Some)
    }

    /// Gives back what a run took that nobody needs any more.
    pub(super) fn remove(&self, run: &Run) -> Result<(), StorageError> {
        run.remove(&self.table)?;
        self.slots.free(run);
        Ok(())
    }

    /// Puts a compacted run in the place of `old`, durably.
    pub(super) fn replace(
        &mut self,
        database: &Database,
        old: &[Arc<Run>],
        new: Option<&Arc<Run>>,
    ) -> Result<(), StorageError> {
        self.runs.replace(old, new);
        if let Some(version) = self.checkpoint {
            self.write_checkpoint(version)?;
        }
        database.flush()
    }

    fn write_checkpoint(&self, version: u64) -> Result<(), StorageError> {
        write_checkpoint(&self.table, &checkpoint_of(version, &self.runs))
    }
}

/// The checkpoint row of a version in these runs.
pub(super) fn checkpoint_of(version: u64, runs: &Runs) -> Vec<u8> {
    let ids = |runs: &[Arc<Run>]| runs.iter().map(|run| run.id).collect();
    let (state, names) = (ids(&runs.state), ids(&runs.names));
    borsh::to_vec(&Checkpoint { version, state, names }).expect("writing to memory")
}

pub(super) fn write_checkpoint(table: &Table, row: &[u8]) -> Result<(), StorageError> {
    table.insert(&rows::key(Kind::Checkpoint, &[]), row)
}

/// What a key of a run holds.
enum Bytes<'a> {
    Node(&'a [u8]),
    Value(u64, &'a Shared),
    Place(Vec<u8>),
    Nothing,
}

impl Bytes<'_> {
    fn bytes(&self) -> std::borrow::Cow<'_, [u8]> {
        match self {
            Self::Node(bytes) => (*bytes).into(),
            Self::Value(version, bytes) => [&version.to_be_bytes()[..], bytes].concat().into(),
            Self::Place(bytes) => (&bytes[..]).into(),
            Self::Nothing => (&[][..]).into(),
        }
    }
}

/// A key, and what it holds; none if it is deleted.
type PlannedEntry<'a> = (Vec<u8>, Option<Bytes<'a>>);

/// What layers come to, in key order.
fn state_entries(layers: &[Arc<Layer>]) -> Vec<PlannedEntry<'_>> {
    let first = layers.first().map(|layer| layer.version);
    let mut entries = Vec::new();
    let mut dead = HashSet::new();
    for key in layers.iter().flat_map(|layer| &layer.stale_nodes) {
        if memory::node_version(key) < first {
            entries.push((rows::node(key), None));
        } else {
            dead.insert(&**key);
        }
    }
    let nodes = layers.iter().flat_map(|layer| layer.nodes.iter());
    let alive = nodes.filter(|(key, _)| !dead.contains(key));
    entries.extend(alive.map(|(key, node)| (rows::node(key), Some(Bytes::Node(node)))));

    let mut newest: HashMap<&Hash, (u64, Option<&Shared>)> = HashMap::new();
    let mut index: HashMap<&Shared, bool> = HashMap::new();
    for layer in layers {
        let values = layer.values.iter();
        newest.extend(values.map(|(key, value)| (key, (layer.version, value.as_ref()))));
        index.extend(layer.index.iter().map(|(entry, is_there)| (entry, *is_there)));
    }
    entries.extend(newest.into_iter().map(|(key, (version, value))| {
        (rows::value(key), value.map(|value| Bytes::Value(version, value)))
    }));
    entries.extend(index.into_iter().map(|(entry, is_there)| {
        (rows::key(Kind::Index, &[entry]), is_there.then_some(Bytes::Nothing))
    }));
    entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    entries.dedup_by(|(a, _), (b, _)| a == b);
    entries
}

/// The names of the layers' blocks, in key order.
fn name_entries(layers: &[Arc<Layer>]) -> Vec<PlannedEntry<'static>> {
    let mut entries = Vec::new();
    for layer in layers {
        let height = layer.version.to_be_bytes();
        let hash = layer.hash.map(|hash| rows::key(Kind::Hash, &[hash.hash().as_bytes()]));
        entries.extend(hash.map(|key| (key, Some(Bytes::Place(height.to_vec())))));
        for (position, id) in (0_u32..).zip(&layer.transactions) {
            let place = [&height[..], &position.to_be_bytes()].concat();
            let key = rows::key(Kind::Transaction, &[id.hash().as_bytes()]);
            entries.push((key, Some(Bytes::Place(place))));
        }
    }
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    entries.dedup_by(|(a, _), (b, _)| a == b);
    entries
}

/// The value in an entry.
pub(super) fn parse_value(table: &Table, bytes: &[u8]) -> Result<VersionedValue, StorageError> {
    let (version, value) = bytes.split_first_chunk().ok_or_else(|| table.corrupt())?;
    Ok((u64::from_be_bytes(*version), Some(value.to_vec())))
}

/// What the newest of `runs` that has a key says of it.
pub(super) fn get(
    table: &Table,
    runs: &[Arc<Run>],
    key: &[u8],
) -> Result<Option<Vec<u8>>, StorageError> {
    for run in runs.iter().rev() {
        if let Some(value) = run.get(table, key)? {
            return Ok(value);
        }
    }
    Ok(None)
}
