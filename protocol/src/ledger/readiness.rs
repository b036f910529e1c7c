//! What nodes report of themselves: that they are there, and that shards which they gained are
//! complete.
//!
//! Before each selection a node says that it follows the ledger ([`NodeReady`]): who does not is
//! not selected. After an epoch change it says of which of its new shards it holds every pair
//! ([`ShardsReady`]); an epoch ends only when a quorum of shards is ready. Both are system
//! operations: free of charge, signed by the node key, for one epoch.
//!
//! Deliberately not here: what the ledger makes of them (`execute/readiness.rs`).

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use super::BlockHash;
use crate::{
    index::{Epoch, Height, ShardIndex},
    keys::{ChainId, KeyPair, NodeId, Signature, SigningDomain},
};

/// How much older than its block the block may be in milliseconds that a [`NodeReady`] names. So
/// long after a gap between blocks that was longer nobody is selected: before it, nobody could
/// report who was not there already.
pub const NODE_READY_AGE_MAX_MS: u64 = 30_000;

/// A node's word that it follows the ledger and would serve in the next epoch.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct NodeReady {
    /// The node.
    pub node: NodeId,
    /// The running epoch.
    pub epoch: Epoch,
    /// A recent height.
    pub height: Height,
    /// The block of that height: shows that the node is there, now.
    pub block: BlockHash,
    /// The node key's signature over chain and the fields above.
    pub signature: Signature,
}

impl NodeReady {
    /// The report of the node with `key`.
    #[must_use]
    pub fn new(chain: &ChainId, key: &KeyPair, epoch: Epoch, block: (Height, BlockHash)) -> Self {
        let (height, block) = block;
        let node = key.public();
        let signature = key.sign(&ready_message(chain, &node, epoch, (height, block)));
        Self { node, epoch, height, block, signature }
    }

    /// Whether the node signed it, on this chain.
    #[must_use]
    pub fn verify(&self, chain: &ChainId) -> bool {
        let message = ready_message(chain, &self.node, self.epoch, (self.height, self.block));
        self.node.verify(&message, &self.signature)
    }
}

fn ready_message(
    chain: &ChainId,
    node: &NodeId,
    epoch: Epoch,
    (height, block): (Height, BlockHash),
) -> Vec<u8> {
    SigningDomain::NodeReady.message(&[
        chain.as_bytes(),
        node.as_bytes(),
        &epoch.get().to_le_bytes(),
        &height.get().to_le_bytes(),
        block.hash().as_bytes(),
    ])
}

/// A node's word that it holds every pair of these shards, which it has in the running epoch.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct ShardsReady {
    /// The node.
    pub node: NodeId,
    /// The running epoch.
    pub epoch: Epoch,
    /// The shards, ascending.
    pub shards: Vec<ShardIndex>,
    /// The node key's signature over chain and the fields above.
    pub signature: Signature,
}

impl ShardsReady {
    /// The report of the node with `key`; `shards` ascending.
    #[must_use]
    pub fn new(chain: &ChainId, key: &KeyPair, epoch: Epoch, shards: Vec<ShardIndex>) -> Self {
        let node = key.public();
        let signature = key.sign(&shards_message(chain, &node, epoch, &shards));
        Self { node, epoch, shards, signature }
    }

    /// Whether the node signed it, on this chain.
    #[must_use]
    pub fn verify(&self, chain: &ChainId) -> bool {
        let message = shards_message(chain, &self.node, self.epoch, &self.shards);
        self.node.verify(&message, &self.signature)
    }
}

fn shards_message(chain: &ChainId, node: &NodeId, epoch: Epoch, shards: &[ShardIndex]) -> Vec<u8> {
    let shards: Vec<u8> = shards.iter().flat_map(|shard| shard.get().to_le_bytes()).collect();
    SigningDomain::ShardsReady.message(&[
        chain.as_bytes(),
        node.as_bytes(),
        &epoch.get().to_le_bytes(),
        &shards,
    ])
}
