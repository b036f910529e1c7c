//! The newest versions of the state, in memory: what a reader looks at before the disk.
//!
//! Each commit adds a [`Layer`]. Its bytes are shared by the maps in which readers search and by
//! the merges that take layers to disk. A layer stays after it was merged, so that its version can
//! still be read; whole merges leave together, oldest first.
//!
//! The *floor* is the newest version whose layer and all before it may be gone. It is always a
//! version to which a merge led, so that the disk holds all that was alive at it, until the floor
//! moves on. A read at a version is answered by the newest change up to that version in memory, or
//! else by the disk as of the floor.
//!
//! The tree's node keys begin with the version that wrote the node, little-endian, which leads to
//! its layer.
//!
//! Invariant: memory holds every change above the floor. Changes at or below it may be there
//! still, but then all later ones are, so the newest that is found is the right one.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::{Bound, Range},
    sync::Arc,
};

use floe_protocol::{
    hash::Hash,
    index::Height,
    ledger::{BlockHash, StateChange, TransactionId, VersionedValue},
};

use super::{merge::Runs, runs::Run};

/// What one entry costs beside its bytes, in maps and allocations.
const ENTRY_BYTES: usize = 96;

/// Bytes that several owners share.
pub(super) type Shared = Arc<[u8]>;

/// The nodes of one version: an allocation for each would cost more than all else.
#[derive(Debug)]
pub(super) struct Nodes {
    bytes: Box<[u8]>,
    /// Where key and node begin and the node ends, in the order of the keys.
    places: Box<[[usize; 3]]>,
}

impl Nodes {
    fn new(nodes: &[(Vec<u8>, Vec<u8>)]) -> Self {
        let mut sorted: Vec<_> = nodes.iter().collect();
        sorted.sort_unstable();
        let len = nodes.iter().map(|(key, node)| key.len() + node.len()).sum();
        let mut bytes = Vec::with_capacity(len);
        let places = sorted.into_iter().map(|(key, node)| {
            let start = bytes.len();
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(node);
            [start, start + key.len(), bytes.len()]
        });
        let places = places.collect();
        Self { bytes: bytes.into_boxed_slice(), places }
    }

    fn entry(&self, [start, node, end]: [usize; 3]) -> (&[u8], &[u8]) {
        (&self.bytes[start..node], &self.bytes[node..end])
    }

    fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let found = self.places.binary_search_by(|place| self.entry(*place).0.cmp(key));
        found.ok().map(|place| self.entry(self.places[place]).1)
    }

    /// Keys and nodes, in the order of the keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.places.iter().map(|place| self.entry(*place))
    }
}

/// The version that wrote a node: its key begins with it, in little-endian order.
pub(super) fn node_version(key: &[u8]) -> Option<u64> {
    key.first_chunk().map(|version| u64::from_le_bytes(*version))
}

/// What one version changes.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) version: u64,
    /// What it takes in memory, about.
    pub(super) bytes: usize,
    pub(super) nodes: Nodes,
    pub(super) values: Vec<(Hash, Option<Shared>)>,
    pub(super) stale_nodes: Vec<Box<[u8]>>,
    /// Entries of the index that are there from here on, or not.
    pub(super) index: Vec<(Shared, bool)>,
    /// The hash of its block; genesis has none.
    pub(super) hash: Option<BlockHash>,
    pub(super) transactions: Vec<TransactionId>,
}

impl Layer {
    pub(super) fn new(
        change: &StateChange,
        hash: Option<BlockHash>,
        transactions: &[TransactionId],
    ) -> Self {
        let values = change.values.iter();
        let values = values.map(|(key, value)| (*key, value.as_deref().map(Arc::from)));
        // An entry that leaves and enters stays.
        let removed = change.index_removed.iter().map(|entry| (shared(entry), false));
        let added = change.index_added.iter().map(|entry| (shared(entry), true));
        let mut layer = Self {
            version: change.version,
            bytes: 0,
            nodes: Nodes::new(&change.nodes),
            values: values.collect(),
            stale_nodes: change.stale_nodes.iter().map(|key| key.as_slice().into()).collect(),
            index: removed.chain(added).collect(),
            hash,
            transactions: transactions.to_vec(),
        };
        layer.bytes = layer.count_bytes();
        layer
    }

    fn count_bytes(&self) -> usize {
        let nodes = self.nodes.bytes.len() + size_of_val(&*self.nodes.places);
        let values = self.values.iter();
        let values = values.map(|(_, value)| value.as_ref().map_or(0, |v| v.len()) + ENTRY_BYTES);
        let stale = self.stale_nodes.iter().map(|key| key.len() + ENTRY_BYTES / 4);
        let index = self.index.iter().map(|(entry, _)| entry.len() + ENTRY_BYTES);
        let fixed = self.transactions.len() + 1;
        nodes + values.chain(stale).chain(index).sum::<usize>() + fixed * ENTRY_BYTES
    }
}

fn shared(bytes: &[u8]) -> Shared {
    bytes.into()
}

/// The values of a key with their versions, oldest first.
type Versions = VecDeque<(u64, Option<Shared>)>;

/// The layers, and what readers search.
#[derive(Debug)]
pub(super) struct Memory {
    /// The version of the state; none before genesis.
    pub(super) tip: Option<u64>,
    pub(super) floor: u64,
    layers: VecDeque<Arc<Layer>>,
    /// Versions above the floor to which merges led, with their runs, oldest first.
    checkpoints: VecDeque<(u64, Runs)>,
    /// The disk as of the floor.
    runs: Arc<Runs>,
    bytes: usize,
    values: HashMap<Hash, Versions>,
    /// The newest change of each entry, and its version.
    index: BTreeMap<Shared, (u64, bool)>,
    hashes: HashMap<BlockHash, u64>,
    transactions: HashMap<TransactionId, (u64, u32)>,
}

impl Memory {
    /// Nothing above the version that the disk is at.
    pub(super) fn new(checkpoint: Option<u64>, runs: Runs) -> Self {
        Self {
            tip: checkpoint,
            floor: checkpoint.unwrap_or(0),
            layers: VecDeque::new(),
            checkpoints: VecDeque::new(),
            runs: Arc::new(runs),
            bytes: 0,
            values: HashMap::new(),
            index: BTreeMap::new(),
            hashes: HashMap::new(),
            transactions: HashMap::new(),
        }
    }

    /// Adds the next version.
    pub(super) fn push(&mut self, layer: Arc<Layer>) {
        let version = layer.version;
        for (key, value) in &layer.values {
            self.values.entry(*key).or_default().push_back((version, value.clone()));
        }
        for (entry, is_there) in &layer.index {
            self.index.insert(Arc::clone(entry), (version, *is_there));
        }
        self.hashes.extend(layer.hash.map(|hash| (hash, version)));
        let places = layer.transactions.iter().zip(0_u32..);
        self.transactions.extend(places.map(|(id, position)| (*id, (version, position))));
        self.bytes += layer.bytes;
        self.layers.push_back(layer);
        self.tip = Some(version);
    }

    /// The layers above `from` up to `to`.
    pub(super) fn layers(&self, from: u64, to: u64) -> Vec<Arc<Layer>> {
        let layers = self.layers.iter().filter(|layer| (from + 1..=to).contains(&layer.version));
        layers.cloned().collect()
    }

    /// The disk is at `version`.
    pub(super) fn merged(&mut self, version: u64, runs: Runs) {
        self.checkpoints.push_back((version, runs));
    }

    /// The disk as of the floor. Its runs stay for as long as they are held.
    pub(super) fn runs(&self) -> Arc<Runs> {
        Arc::clone(&self.runs)
    }

    /// A compaction put one run in the place of some.
    pub(super) fn compacted(&mut self, old: &[Arc<Run>], new: Option<&Arc<Run>>) {
        let mut runs = Runs::clone(&self.runs);
        runs.replace(old, new);
        self.runs = Arc::new(runs);
    }

    /// Moves the floor to the next checkpoint, if enough is kept above it; whether it did.
    pub(super) fn raise_floor(&mut self, versions_min: u64, bytes_min: usize) -> bool {
        let Some(next) = self.checkpoints.front().map(|(version, _)| *version) else {
            return false;
        };
        let below = self.layers.iter().take_while(|layer| layer.version <= next);
        let bytes = self.bytes - below.map(|layer| layer.bytes).sum::<usize>();
        let versions = self.tip.unwrap_or(0).saturating_sub(next);
        if versions < versions_min && bytes < bytes_min {
            return false;
        }
        if let Some((floor, newer)) = self.checkpoints.pop_front() {
            let mut runs = Runs::clone(&self.runs);
            runs.extend(&newer);
            self.runs = Arc::new(runs);
            self.floor = floor;
        }
        true
    }

    /// Drops the oldest layer, if it is at or below the floor. One at a time, and to be freed by
    /// the caller, so that readers need not wait for all of them.
    pub(super) fn drop_oldest(&mut self) -> Option<Arc<Layer>> {
        let layer = self.layers.pop_front_if(|layer| layer.version <= self.floor)?;
        for (key, _) in &layer.values {
            if let Some(versions) = self.values.get_mut(key) {
                versions.pop_front_if(|(version, _)| *version <= layer.version);
                if versions.is_empty() {
                    self.values.remove(key);
                }
            }
        }
        for (entry, _) in &layer.index {
            if self.index.get(entry).is_some_and(|(version, _)| *version == layer.version) {
                self.index.remove(entry);
            }
        }
        if let Some(hash) = &layer.hash {
            self.hashes.remove(hash);
        }
        for id in &layer.transactions {
            self.transactions.remove(id);
        }
        self.bytes -= layer.bytes;
        Some(layer)
    }

    pub(super) fn node(&self, key: &[u8]) -> Option<Vec<u8>> {
        let first = self.layers.front()?.version;
        let place = node_version(key)?.checked_sub(first)?;
        let layer = self.layers.get(usize::try_from(place).ok()?)?;
        layer.nodes.get(key).map(<[u8]>::to_vec)
    }

    /// The newest value up to `version`.
    pub(super) fn value(&self, key: &Hash, version: u64) -> Option<VersionedValue> {
        let versions = self.values.get(key)?;
        let newest = versions.iter().rev().find(|(found, _)| *found <= version);
        newest.map(|(version, value)| (*version, value.as_ref().map(|value| value.to_vec())))
    }

    /// What is known of the values at `version`, ascending; none where the key is removed.
    pub(super) fn values_at(&self, version: u64) -> Vec<(Hash, Option<Shared>)> {
        let newest = |(key, versions): (&Hash, &Versions)| {
            let newest = versions.iter().rev().find(|(found, _)| *found <= version);
            newest.map(|(_, value)| (*key, value.clone()))
        };
        let mut values: Vec<_> = self.values.iter().filter_map(newest).collect();
        values.sort_unstable_by_key(|(key, _)| *key);
        values
    }

    /// What is known of the index in `range`, ascending, up to `limit` entries that are there:
    /// nothing behind those is among the first `limit`.
    pub(super) fn index(&self, range: &Range<&[u8]>, limit: usize) -> Vec<(Shared, bool)> {
        let bounds = (Bound::Included(range.start), Bound::Excluded(range.end));
        let mut entries = Vec::new();
        let mut there = 0;
        for (entry, (_, is_there)) in self.index.range::<[u8], _>(bounds) {
            if there == limit {
                break;
            }
            there += usize::from(*is_there);
            entries.push((Arc::clone(entry), *is_there));
        }
        entries
    }

    pub(super) fn height_of(&self, hash: &BlockHash) -> Option<Height> {
        self.hashes.get(hash).copied().map(Height::new)
    }

    pub(super) fn transaction(&self, id: &TransactionId) -> Option<(Height, u32)> {
        self.transactions.get(id).map(|(height, position)| (Height::new(*height), *position))
    }
}
