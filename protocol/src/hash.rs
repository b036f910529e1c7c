//! BLAKE3, the only hash of Floe: plain for symbols, keyed with one constant key per purpose for
//! everything else.
//!
//! Symbols are hashed plainly, so that a 1 KiB chunk of one can later be proven by a BLAKE3
//! verified-streaming slice. Every other value (tree nodes, leaves, headers, ids) is hashed under
//! a key of its own kind.
//!
//! Invariant: a value of one kind can never stand for a value of another kind, because no two
//! [`Domain`]s share a key. This is the only file, with [`mod@slice`] below it, that names the
//! `blake3` crate.

pub mod slice;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Length of a hash in bytes.
pub const HASH_BYTES: usize = 32;

/// A 32-byte BLAKE3 hash: hexadecimal where people read (JSON), raw bytes in CBOR.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    borsh::BorshSerialize,
    borsh::BorshDeserialize,
)]
pub struct Hash([u8; HASH_BYTES]);

impl Hash {
    /// The padding leaf of Merkle trees.
    pub const ZERO: Self = Self([0; HASH_BYTES]);

    /// Wraps raw bytes.
    #[must_use]
    pub const fn new(bytes: [u8; HASH_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes of the hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; HASH_BYTES] {
        &self.0
    }

    /// Plain BLAKE3: the hash of a symbol.
    #[must_use]
    pub fn of_symbol(symbol: &[u8]) -> Self {
        Self(blake3::hash(symbol).into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no hash.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error("a hash is 64 hexadecimal digits")]
pub struct ParseHashError;

impl FromStr for Hash {
    type Err = ParseHashError;

    fn from_str(text: &str) -> Result<Self, ParseHashError> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes());
        let bytes = bytes.map_err(|_| ParseHashError)?;
        Ok(Self(bytes.try_into().map_err(|_| ParseHashError)?))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            serde_bytes::deserialize(deserializer).map(Self)
        }
    }
}

/// What a keyed hash is for. Each domain has a key of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// Inner nodes of the Merkle tree over the symbols of one sliver.
    SliverNode,
    /// Inner nodes of the Merkle tree over the pair leaves of one blob.
    BlobNode,
    /// Leaf of the blob tree: pair digest and digest share.
    PairLeaf,
    /// Blob id: the hash of a blob header.
    BlobHeader,
    /// Registration id.
    Registration,
    /// Chain id: the hash of a genesis.
    Genesis,
    /// Checksum of a stored piece, on disk only.
    Piece,
    /// Transaction id: the hash of a signed transaction.
    Transaction,
    /// Leaf of a block's transaction tree: a system operation.
    SystemOperation,
    /// Inner nodes of a block's transaction tree.
    TransactionNode,
    /// Leaf of a block's event tree: the events of one transaction, or of the block.
    Events,
    /// Inner nodes of a block's event tree.
    EventNode,
    /// Commit record: the precommits that a block records.
    CommitRecord,
    /// Block hash: the hash of a block's header.
    BlockHeader,
    /// Leaf of the tree over a block body's parts.
    BodyPart,
    /// Inner nodes of the tree over a block body's parts.
    BodyNode,
    /// The beacon.
    Beacon,
    /// The draw of a height's proposers.
    ProposerDraw,
    /// Committee hash.
    Committee,
    /// Where a record of the state lives in the authenticated map.
    StateKey,
    /// Nodes and values of the authenticated map.
    StateTree,
    /// A part of a snapshot of the state.
    SnapshotChunk,
    /// What a snapshot of the state consists of.
    SnapshotManifest,
    /// The factors by which signatures are verified together.
    SignatureBatch,
    /// The beginning of a node's chain in a challenge round.
    ChallengeStart,
    /// A step of such a chain over a chunk.
    ChallengeChunk,
    /// A step of such a chain over a blob that is proven inconsistent.
    ChallengeInconsistent,
    /// The order in which members ask a challenged node for its transcript.
    ChallengeTurn,
}

impl Domain {
    /// Hashes the concatenation of `parts` under this domain's key.
    #[must_use]
    pub fn hash(self, parts: &[&[u8]]) -> Hash {
        let mut hasher = self.hasher();
        for part in parts {
            hasher.update(part);
        }
        hasher.finalize()
    }

    /// Starts a hash under this domain's key, for bytes that come piece by piece.
    #[must_use]
    pub fn hasher(self) -> Hasher {
        Hasher(blake3::Hasher::new_keyed(self.key()))
    }

    const fn key(self) -> &'static [u8; HASH_BYTES] {
        const SLIVER_NODE: [u8; HASH_BYTES] = pad("floe/1 sliver node");
        const BLOB_NODE: [u8; HASH_BYTES] = pad("floe/1 blob node");
        const PAIR_LEAF: [u8; HASH_BYTES] = pad("floe/1 pair leaf");
        const BLOB_HEADER: [u8; HASH_BYTES] = pad("floe/1 blob header");
        const REGISTRATION: [u8; HASH_BYTES] = pad("floe/1 registration");
        const GENESIS: [u8; HASH_BYTES] = pad("floe/1 genesis");
        const PIECE: [u8; HASH_BYTES] = pad("floe/1 piece");
        const TRANSACTION: [u8; HASH_BYTES] = pad("floe/1 transaction");
        const SYSTEM_OPERATION: [u8; HASH_BYTES] = pad("floe/1 system operation");
        const TRANSACTION_NODE: [u8; HASH_BYTES] = pad("floe/1 transaction node");
        const EVENTS: [u8; HASH_BYTES] = pad("floe/1 events");
        const EVENT_NODE: [u8; HASH_BYTES] = pad("floe/1 event node");
        const COMMIT_RECORD: [u8; HASH_BYTES] = pad("floe/1 commit record");
        const BLOCK_HEADER: [u8; HASH_BYTES] = pad("floe/1 block header");
        const BODY_PART: [u8; HASH_BYTES] = pad("floe/1 body part");
        const BODY_NODE: [u8; HASH_BYTES] = pad("floe/1 body node");
        const BEACON: [u8; HASH_BYTES] = pad("floe/1 beacon");
        const PROPOSER_DRAW: [u8; HASH_BYTES] = pad("floe/1 proposer draw");
        const COMMITTEE: [u8; HASH_BYTES] = pad("floe/1 committee");
        const STATE_KEY: [u8; HASH_BYTES] = pad("floe/1 state key");
        const STATE_TREE: [u8; HASH_BYTES] = pad("floe/1 state tree");
        const SNAPSHOT_CHUNK: [u8; HASH_BYTES] = pad("floe/1 snapshot chunk");
        const SNAPSHOT_MANIFEST: [u8; HASH_BYTES] = pad("floe/1 snapshot manifest");
        const SIGNATURE_BATCH: [u8; HASH_BYTES] = pad("floe/1 signature batch");
        const CHALLENGE_START: [u8; HASH_BYTES] = pad("floe/1 challenge start");
        const CHALLENGE_CHUNK: [u8; HASH_BYTES] = pad("floe/1 challenge chunk");
        const CHALLENGE_INCONSISTENT: [u8; HASH_BYTES] = pad("floe/1 challenge inconsistent");
        const CHALLENGE_TURN: [u8; HASH_BYTES] = pad("floe/1 challenge turn");
        match self {
            Self::SliverNode => &SLIVER_NODE,
            Self::BlobNode => &BLOB_NODE,
            Self::PairLeaf => &PAIR_LEAF,
            Self::BlobHeader => &BLOB_HEADER,
            Self::Registration => &REGISTRATION,
            Self::Genesis => &GENESIS,
            Self::Piece => &PIECE,
            Self::Transaction => &TRANSACTION,
            Self::SystemOperation => &SYSTEM_OPERATION,
            Self::TransactionNode => &TRANSACTION_NODE,
            Self::Events => &EVENTS,
            Self::EventNode => &EVENT_NODE,
            Self::CommitRecord => &COMMIT_RECORD,
            Self::BlockHeader => &BLOCK_HEADER,
            Self::BodyPart => &BODY_PART,
            Self::BodyNode => &BODY_NODE,
            Self::Beacon => &BEACON,
            Self::ProposerDraw => &PROPOSER_DRAW,
            Self::Committee => &COMMITTEE,
            Self::StateKey => &STATE_KEY,
            Self::StateTree => &STATE_TREE,
            Self::SnapshotChunk => &SNAPSHOT_CHUNK,
            Self::SnapshotManifest => &SNAPSHOT_MANIFEST,
            Self::SignatureBatch => &SIGNATURE_BATCH,
            Self::ChallengeStart => &CHALLENGE_START,
            Self::ChallengeChunk => &CHALLENGE_CHUNK,
            Self::ChallengeInconsistent => &CHALLENGE_INCONSISTENT,
            Self::ChallengeTurn => &CHALLENGE_TURN,
        }
    }
}

/// A keyed hash in the making.
#[derive(Clone, Debug)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// Appends bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all bytes so far.
    #[must_use]
    pub fn finalize(&self) -> Hash {
        Hash(self.0.finalize().into())
    }
}

/// The label's ASCII bytes, padded with zeros to a key.
const fn pad(label: &str) -> [u8; HASH_BYTES] {
    let bytes = label.as_bytes();
    let mut key = [0; HASH_BYTES];
    let mut i = 0;
    while i < bytes.len() {
        key[i] = bytes[i];
        i += 1;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_domains_share_a_key() {
        let domains = [
            Domain::SliverNode,
            Domain::BlobNode,
            Domain::PairLeaf,
            Domain::BlobHeader,
            Domain::Registration,
            Domain::Genesis,
            Domain::Piece,
            Domain::Transaction,
            Domain::SystemOperation,
            Domain::TransactionNode,
            Domain::Events,
            Domain::EventNode,
            Domain::CommitRecord,
            Domain::BlockHeader,
            Domain::BodyPart,
            Domain::BodyNode,
            Domain::Beacon,
            Domain::ProposerDraw,
            Domain::Committee,
            Domain::StateKey,
            Domain::StateTree,
            Domain::SignatureBatch,
            Domain::ChallengeStart,
            Domain::ChallengeChunk,
            Domain::ChallengeInconsistent,
            Domain::ChallengeTurn,
        ];
        for (i, a) in domains.iter().enumerate() {
            for b in &domains[i + 1..] {
                assert_ne!(a.key(), b.key(), "{a:?} and {b:?}");
            }
        }
    }

    #[test]
    fn parts_are_concatenated() {
        assert_eq!(Domain::PairLeaf.hash(&[b"ab", b"c"]), Domain::PairLeaf.hash(&[b"a", b"bc"]));
        assert_ne!(Domain::PairLeaf.hash(&[b"abc"]), Hash::of_symbol(b"abc"));
    }
}
