//! Seeded committees, keys and networks for tests. Never compiled into a program.

use crate::{
    committee::Committee,
    genesis::{Genesis, GenesisMember},
    keys::{BlsKeyPair, KeyPair},
};

/// The node and BLS keys of `nodes` nodes, always the same.
#[must_use]
pub fn node_keys(nodes: usize) -> Vec<(KeyPair, BlsKeyPair)> {
    (0..nodes)
        .map(|i| {
            let mut seed = [1; 32];
            seed[..8].copy_from_slice(&(i as u64).to_le_bytes());
            (KeyPair::from_seed(seed), BlsKeyPair::from_seed(seed))
        })
        .collect()
}

/// The key of the writer that [`genesis`] lists.
#[must_use]
pub fn writer_key() -> KeyPair {
    KeyPair::from_seed([2; 32])
}

/// A genesis of `nodes` nodes with equal stakes.
#[must_use]
pub fn genesis(nodes: usize, n_shards: u16) -> Genesis {
    let members = node_keys(nodes);
    let config = crate::encoding::EncodingConfig::new(n_shards).expect("a valid number of shards");
    Genesis {
        name: "test".into(),
        n_shards,
        max_blob_bytes: config.default_max_blob_bytes(),
        members: members
            .iter()
            .map(|(node, bls)| GenesisMember::new(node, bls, 1_000))
            .collect(),
        writers: vec![writer_key().public()],
    }
}

/// The committee of [`genesis`].
///
/// # Panics
/// If so few nodes cannot carry `n_shards`.
#[must_use]
pub fn committee(nodes: usize, n_shards: u16) -> Committee {
    genesis(nodes, n_shards).committee().expect("enough nodes")
}
