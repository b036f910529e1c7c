//! Last known addresses of peers, so that a node finds the swarm again when its bootstrap peers
//! are gone.
//!
//! Hints, not facts: nobody relies on them, and a row that does not parse is skipped. Bounded: the
//! peers that were not named for the longest time make room for new ones.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use floe_protocol::{codec, hash::HASH_BYTES, keys::NodeId};

use crate::{
    StorageError,
    database::{Table, VALUE_BYTES_MAX},
};

/// Peers that a store remembers.
pub const PEERS_MAX: usize = 1024;
/// Addresses that it remembers of each.
pub const ADDRESSES_PER_PEER_MAX: usize = 16;
/// Longer addresses are not kept.
pub const ADDRESS_BYTES_MAX: usize = 256;

#[derive(Debug)]
pub(crate) struct Peers {
    peers: Table,
    /// The number of the last naming of each peer; the oldest goes first.
    named: Mutex<BTreeMap<[u8; HASH_BYTES], u64>>,
}

impl Peers {
    pub(crate) fn open(peers: Table) -> Result<Self, StorageError> {
        let mut named = BTreeMap::new();
        for row in peers.rows() {
            let (key, value) = row?;
            if let (Ok(key), Some((number, _))) = (key[..].try_into(), parse(&value)) {
                named.insert(key, number);
            }
        }
        Ok(Self { peers, named: Mutex::new(named) })
    }

    /// Remembers the addresses of these peers, in place of what was known of them.
    pub(crate) fn put(&self, peers: &[(NodeId, Vec<String>)]) -> Result<(), StorageError> {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let next = named.values().max().map_or(0, |newest| newest + 1);
        for (number, (node, addresses)) in (next..).zip(peers.iter().take(PEERS_MAX)) {
            let kept: Vec<&String> = addresses
                .iter()
                .filter(|address| address.len() <= ADDRESS_BYTES_MAX)
                .take(ADDRESSES_PER_PEER_MAX)
                .collect();
            let value = codec::encode(&(number, kept), VALUE_BYTES_MAX)
                .expect("a bounded number of bounded addresses");
            self.peers.insert(node.as_bytes(), &value)?;
            named.insert(*node.as_bytes(), number);
        }
        while named.len() > PEERS_MAX {
            let oldest = named.iter().min_by_key(|(_, number)| **number);
            let Some(oldest) = oldest.map(|(node, _)| *node) else {
                break;
            };
            self.peers.remove(&oldest)?;
            named.remove(&oldest);
        }
        Ok(())
    }

    /// The peers, last named first.
    pub(crate) fn all(&self) -> Result<Vec<(NodeId, Vec<String>)>, StorageError> {
        let mut peers = Vec::new();
        for row in self.peers.rows() {
            let (key, value) = row?;
            let node = key[..].try_into().map(NodeId::new);
            if let (Ok(node), Some((number, addresses))) = (node, parse(&value)) {
                peers.push((number, node, addresses));
            }
        }
        peers.sort_unstable_by_key(|(number, _, _)| std::cmp::Reverse(*number));
        Ok(peers.into_iter().map(|(_, node, addresses)| (node, addresses)).collect())
    }
}

fn parse(value: &[u8]) -> Option<(u64, Vec<String>)> {
    codec::decode(value, VALUE_BYTES_MAX).ok()
}
