//! Nodes that the last blocks wrote, in memory: the next block reads the upper levels of the map
//! again, and those are always the newest.
//!
//! Invariants: what is here is durable, and bounded in bytes and in versions; the oldest versions
//! go first. A node never changes, so there is nothing to invalidate.

use std::{
    collections::{HashMap, VecDeque},
    sync::{PoisonError, RwLock},
};

/// Memory that the nodes take, without what the map adds.
const BYTES_MAX: usize = 8 << 20;

#[derive(Debug)]
pub(super) struct RecentNodes {
    versions_max: u64,
    nodes: RwLock<Nodes>,
}

#[derive(Debug, Default)]
struct Nodes {
    by_key: HashMap<Vec<u8>, Vec<u8>>,
    /// The keys of each version, oldest first.
    versions: VecDeque<Vec<Vec<u8>>>,
    bytes: usize,
}

impl RecentNodes {
    pub(super) fn new(versions_max: u64) -> Self {
        Self { versions_max, nodes: RwLock::default() }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.by_key.get(key).cloned()
    }

    /// Adds the nodes of the newest version.
    pub(super) fn add(&self, added: &[(Vec<u8>, Vec<u8>)]) {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        let mut keys = Vec::with_capacity(added.len());
        for (key, node) in added {
            nodes.bytes += 2 * key.len() + node.len();
            nodes.by_key.insert(key.clone(), node.clone());
            keys.push(key.clone());
        }
        nodes.versions.push_back(keys);
        while nodes.bytes > BYTES_MAX || nodes.versions.len() as u64 > self.versions_max {
            let Some(keys) = nodes.versions.pop_front() else {
                break;
            };
            for key in keys {
                if let Some(node) = nodes.by_key.remove(&key) {
                    nodes.bytes -= 2 * key.len() + node.len();
                }
            }
        }
    }
}
