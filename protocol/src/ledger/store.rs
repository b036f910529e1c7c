//! What the state needs of the disk, and what a block changes on it.
//!
//! The state lives in an authenticated map: *nodes* of a Jellyfish Merkle tree, and *values* by
//! key hash and version, where a version is a block height. Beside it an *index*, a sorted set of
//! byte strings derived from the records, finds what the map cannot: registrations by deadline, by
//! blob and by owner. The index is the same on every node but is not part of the state root.
//!
//! Whoever keeps the state implements [`StateReader`] and writes each [`StateChange`] at once with
//! its block, whole or not at all. [`MemoryStore`] does it in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Bound, Range},
};

use crate::hash::Hash;

/// Why the state could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The version has been forgotten: whoever judged by it was overtaken, and takes a newer one.
    #[error("the state at height {version} is not kept any more, the oldest is at {oldest}")]
    NoSuchVersion {
        /// The version asked for.
        version: u64,
        /// The oldest that is kept.
        oldest: u64,
    },
    /// The store failed. Fatal for a node: it must not go on with half a state.
    #[error("reading the ledger's state: {0}")]
    Failed(#[from] Box<dyn std::error::Error + Send + Sync>),
}

impl ReadError {
    /// Whether the store itself has failed.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

/// Read access to the state.
pub trait StateReader {
    /// A node of the authenticated map by its encoded key.
    ///
    /// # Errors
    /// [`ReadError`] if the store fails.
    fn node(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError>;

    /// The newest value under `key` of a version not above `version`, and its version. The value
    /// is `None` if the key was removed in that version.
    ///
    /// # Errors
    /// [`ReadError`] if the store fails.
    fn value(&self, key: &Hash, version: u64) -> Result<Option<VersionedValue>, ReadError>;

    /// At most `limit` entries of the index in `range`, ascending, as of the newest version.
    ///
    /// # Errors
    /// [`ReadError`] if the store fails.
    fn index(&self, range: Range<&[u8]>, limit: usize) -> Result<Vec<Vec<u8>>, ReadError>;
}

/// A value and the version that wrote it; `None` where that version removed the key.
pub type VersionedValue = (u64, Option<Vec<u8>>);

/// Everything that one version writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateChange {
    /// The version: the height of the block, 0 for genesis.
    pub version: u64,
    /// New nodes: encoded key and encoded node.
    pub nodes: Vec<(Vec<u8>, Vec<u8>)>,
    /// New values, to be kept under their key and this version; `None` removes the key.
    pub values: Vec<(Hash, Option<Vec<u8>>)>,
    /// Nodes that this version and later ones no longer need.
    pub stale_nodes: Vec<Vec<u8>>,
    /// Values, by key and version, that this version and later ones no longer need.
    pub stale_values: Vec<(Hash, u64)>,
    /// Entries that enter the index.
    pub index_added: Vec<Vec<u8>>,
    /// Entries that leave the index.
    pub index_removed: Vec<Vec<u8>>,
}

/// A state in memory: for tests and for programs that replay a chain.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    nodes: BTreeMap<Vec<u8>, Vec<u8>>,
    values: BTreeMap<(Hash, u64), Option<Vec<u8>>>,
    index: BTreeSet<Vec<u8>>,
    stale: BTreeMap<u64, Stale>,
}

/// What a version no longer needs: nodes, and values by key and version.
type Stale = (Vec<Vec<u8>>, Vec<(Hash, u64)>);

impl MemoryStore {
    /// Writes a change.
    pub fn write(&mut self, change: StateChange) {
        let version = change.version;
        self.nodes.extend(change.nodes);
        self.values.extend(change.values.into_iter().map(|(key, value)| ((key, version), value)));
        for entry in &change.index_removed {
            self.index.remove(entry);
        }
        self.index.extend(change.index_added);
        self.stale.insert(version, (change.stale_nodes, change.stale_values));
    }

    /// All that `version` holds, in the order of the key hashes.
    pub fn values(&self, version: u64) -> impl Iterator<Item = (Hash, &[u8])> {
        let known = self.values.iter().filter(move |((_, written), _)| *written <= version);
        let mut known = known.peekable();
        std::iter::from_fn(move || {
            loop {
                let ((key, _), value) = known.next()?;
                // A newer one decides.
                if known.peek().is_some_and(|((next, _), _)| next == key) {
                    continue;
                }
                if let Some(value) = value {
                    return Some((*key, value.as_slice()));
                }
            }
        })
    }

    /// Forgets what only versions below `version` need.
    pub fn prune(&mut self, version: u64) {
        let kept = self.stale.split_off(&version.saturating_add(1));
        for (nodes, values) in std::mem::replace(&mut self.stale, kept).into_values() {
            for node in nodes {
                self.nodes.remove(&node);
            }
            for value in values {
                self.values.remove(&value);
            }
        }
    }
}

impl StateReader for MemoryStore {
    fn node(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.nodes.get(key).cloned())
    }

    fn value(&self, key: &Hash, version: u64) -> Result<Option<VersionedValue>, ReadError> {
        let newest = self.values.range((*key, 0)..=(*key, version)).next_back();
        Ok(newest.map(|((_, version), value)| (*version, value.clone())))
    }

    fn index(&self, range: Range<&[u8]>, limit: usize) -> Result<Vec<Vec<u8>>, ReadError> {
        let range = (Bound::Included(range.start), Bound::Excluded(range.end));
        Ok(self.index.range::<[u8], _>(range).take(limit).cloned().collect())
    }
}
