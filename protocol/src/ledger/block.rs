//! Blocks: a header that says what was done and what came of it, and the body that did it.
//!
//! Consensus agrees on the hash of a header. The header binds every byte of the body (the commit
//! record, transactions and system operations), the state and the events after it, the beacon, and
//! the committee of the next height. So a light peer needs headers alone, and any fact of the
//! state is proven by a header, its commit certificate and a path in the authenticated map.
//!
//! Invariants: the byte layout is borsh's, fixed by golden vectors; one hash has one body; the
//! header names the round in which its proposer made it, which stays when another member proposes
//! it again in a later round.

use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use super::{SignedTransaction, SystemOperation, Timestamp, TransactionId};
use crate::{
    hash::{Domain, Hash},
    index::{Epoch, Height},
    keys::{BlsSignature, ChainId, NodeId, Signature, SigningDomain},
    merkle,
    vote::CommitCertificate,
};

/// Longest block body in bytes.
pub const MAX_BLOCK_BYTES: usize = 1 << 20;
/// Part of a block body that is kept for system operations, in bytes.
pub const SYSTEM_BYTES: usize = MAX_BLOCK_BYTES / 4;
/// Heights back for which a commit record may bring late precommits.
pub const LATE_PRECOMMIT_HEIGHTS: u64 = 100;

/// The name of a block: the keyed hash of its header.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    BorshSerialize,
    BorshDeserialize,
)]
#[serde(transparent)]
pub struct BlockHash(Hash);

impl BlockHash {
    /// Wraps a hash.
    #[must_use]
    pub const fn new(hash: Hash) -> Self {
        Self(hash)
    }

    /// The parent of the first block: the chain id.
    #[must_use]
    pub const fn genesis(chain: &ChainId) -> Self {
        Self(Hash::new(*chain.as_bytes()))
    }

    /// The hash.
    #[must_use]
    pub const fn hash(&self) -> &Hash {
        &self.0
    }
}

impl fmt::Display for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What consensus agrees on.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Header {
    /// Its height.
    pub height: Height,
    /// The round in which its proposer made it.
    pub round: u32,
    /// Its time by the proposer's clock, after the parent's.
    pub time: Timestamp,
    /// The block before; the chain id at height 1.
    pub parent: BlockHash,
    /// Hash of the commit record.
    pub commit_record: Hash,
    /// The epoch in which the block is executed.
    pub epoch: Epoch,
    /// Who made it.
    pub proposer: NodeId,
    /// Merkle root over transactions and system operations.
    pub transactions_root: Hash,
    /// Root of the authenticated map after this block.
    pub state_root: Hash,
    /// Merkle root over the events of this block.
    pub events_root: Hash,
    /// The beacon after this block.
    pub beacon: Hash,
    /// The proposer's BLS signature over height and the beacon before.
    pub beacon_signature: BlsSignature,
    /// Hash of the committee of the next height.
    pub next_committee: Hash,
}

impl Header {
    /// The keyed hash of the layout.
    #[must_use]
    pub fn hash(&self) -> BlockHash {
        let bytes = borsh::to_vec(self).expect("writing to memory");
        BlockHash(Domain::BlockHeader.hash(&[&bytes]))
    }
}

/// The beacon of a chain before its first block.
#[must_use]
pub fn genesis_beacon(chain: &ChainId) -> Hash {
    Domain::Beacon.hash(&[chain.as_bytes()])
}

/// What a proposer signs with its BLS key: tag, chain id, the beacon before, height (u64 LE).
#[must_use]
pub fn beacon_message(chain: &ChainId, before: &Hash, height: Height) -> Vec<u8> {
    let height = height.get().to_le_bytes();
    SigningDomain::Beacon.message(&[chain.as_bytes(), before.as_bytes(), &height])
}

/// The beacon after a block: keyed hash of the one before and the proposer's signature.
#[must_use]
pub fn next_beacon(before: &Hash, signature: &BlsSignature) -> Hash {
    Domain::Beacon.hash(&[before.as_bytes(), signature.as_bytes()])
}

/// A precommit for a committed block that came too late for the next block's certificate.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct LatePrecommit {
    /// The height voted on.
    pub height: Height,
    /// The round voted in.
    pub round: u32,
    /// Position of the voter in that height's committee.
    pub position: u16,
    /// Over the precommit for the block that was committed.
    pub signature: Signature,
}

/// The precommits that a block records: who took part is counted from these alone.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct CommitRecord {
    /// The parent's commit certificate; none at height 1.
    pub parent: Option<CommitCertificate>,
    /// Precommits of the last [`LATE_PRECOMMIT_HEIGHTS`] heights that no earlier block records,
    /// by ascending height and position.
    pub late: Vec<LatePrecommit>,
}

impl CommitRecord {
    /// The keyed hash of the layout.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Domain::CommitRecord.hash(&[&borsh::to_vec(self).expect("writing to memory")])
    }
}

/// What a block does.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Body {
    /// The precommits that it records.
    pub commit_record: CommitRecord,
    /// Executed first, in order.
    pub system: Vec<SystemOperation>,
    /// Executed next, in order.
    pub transactions: Vec<SignedTransaction>,
}

impl Body {
    /// Root over the hashes of system operations, then the ids of transactions.
    #[must_use]
    pub fn transactions_root(&self, chain: &ChainId) -> Hash {
        root(Domain::TransactionNode, self.transaction_leaves(chain))
    }

    /// The leaves of the transaction tree.
    #[must_use]
    pub fn transaction_leaves(&self, chain: &ChainId) -> Vec<Hash> {
        self.leaves(chain, self.transactions.iter().map(|signed| signed.id(chain)))
    }

    /// [`Self::transactions_root`], where the ids of the transactions are known.
    pub(super) fn root_of(
        &self,
        chain: &ChainId,
        ids: impl Iterator<Item = TransactionId>,
    ) -> Hash {
        root(Domain::TransactionNode, self.leaves(chain, ids))
    }

    fn leaves(&self, chain: &ChainId, ids: impl Iterator<Item = TransactionId>) -> Vec<Hash> {
        let system = self.system.iter().map(|operation| {
            let bytes = borsh::to_vec(operation).expect("writing to memory");
            Domain::SystemOperation.hash(&[chain.as_bytes(), &bytes])
        });
        system.chain(ids.map(|id| *id.hash())).collect()
    }
}

/// A Merkle root; of nothing, the zero hash.
pub(super) fn root(domain: Domain, leaves: Vec<Hash>) -> Hash {
    if leaves.is_empty() { Hash::ZERO } else { merkle::root(domain, leaves) }
}

/// A header and its body.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Block {
    /// What was agreed on.
    pub header: Header,
    /// What it does.
    pub body: Body,
}

impl Block {
    /// The bytes of the layout: header, then body.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        borsh::to_vec(self).expect("writing to memory")
    }

    /// Parses the layout strictly.
    ///
    /// # Errors
    /// [`MalformedBlock`] if it is none or too long.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MalformedBlock> {
        if bytes.len() > MAX_BLOCK_BYTES {
            return Err(MalformedBlock);
        }
        borsh::from_slice(bytes).map_err(|_| MalformedBlock)
    }
}

/// Bytes that are no block.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error("malformed block")]
pub struct MalformedBlock;
