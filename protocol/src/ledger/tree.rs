//! The authenticated map: a Jellyfish Merkle tree over BLAKE3, one version per block height.
//!
//! Execution hands it what a block has changed and gets the root that goes into the header, with
//! the nodes to write and those that no later version needs. Queries get a proof that a record is,
//! or is not, in the map under a header's state root; a light peer checks it with nothing else.
//!
//! This is the only file that names `jmt`, and `anyhow`, in which it reports errors.

use std::collections::BTreeMap;

use jmt::{
    JellyfishMerkleTree, KeyHash, OwnedValue, RootHash, SimpleHasher,
    proof::SparseMerkleProof,
    storage::{LeafNode, Node, NodeKey, TreeReader},
};

use super::{Entry, Key, ReadError, Record, StateReader};
use crate::hash::{Domain, Hash, Hasher};

/// Longest proof in bytes: 256 siblings at most, each a hash or a leaf.
const MAX_PROOF_BYTES: usize = 32 << 10;

/// BLAKE3 under the key of [`Domain::StateTree`].
#[derive(Clone, Debug)]
struct TreeHasher(Hasher);

impl SimpleHasher for TreeHasher {
    fn new() -> Self {
        Self(Domain::StateTree.hasher())
    }

    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn finalize(self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

type Tree<'a> = JellyfishMerkleTree<'a, Nodes<'a>, TreeHasher>;

/// A [`StateReader`] as the tree wants it.
struct Nodes<'a>(&'a dyn StateReader);

impl TreeReader for Nodes<'_> {
    fn get_node_option(&self, key: &NodeKey) -> anyhow::Result<Option<Node>> {
        let Some(bytes) = self.0.node(&borsh::to_vec(key)?)? else { return Ok(None) };
        Ok(Some(borsh::from_slice(&bytes)?))
    }

    fn get_value_option(&self, version: u64, key: KeyHash) -> anyhow::Result<Option<OwnedValue>> {
        Ok(self.0.value(&Hash::new(key.0), version)?.and_then(|(_, value)| value))
    }

    fn get_rightmost_leaf(&self) -> anyhow::Result<Option<(NodeKey, LeafNode)>> {
        Ok(None)
    }
}

/// The root of the map after a version, and what that version writes.
pub(super) struct TreeUpdate {
    /// The root.
    pub(super) root: Hash,
    /// New nodes.
    pub(super) nodes: EncodedNodes,
    /// Encoded keys of nodes that this version and later ones no longer need.
    pub(super) stale: Vec<Vec<u8>>,
}

/// Changes `values` in the map as of `version - 1`, making `version`.
pub(super) fn update(
    reader: &dyn StateReader,
    values: &[(Hash, Option<Vec<u8>>)],
    version: u64,
) -> Result<TreeUpdate, ReadError> {
    let nodes = Nodes(reader);
    let values = values.iter().map(|(key, value)| (KeyHash(*key.as_bytes()), value.clone()));
    let (root, batch) = Tree::new(&nodes).put_value_set(values, version).map_err(read_error)?;
    let encode = |key: &NodeKey| borsh::to_vec(key).expect("writing to memory");
    let node = |node: &Node| borsh::to_vec(node).expect("writing to memory");
    let written = batch.node_batch.nodes().iter();
    Ok(TreeUpdate {
        root: Hash::new(root.0),
        nodes: written.map(|(key, value)| (encode(key), node(value))).collect(),
        stale: batch.stale_node_index_batch.iter().map(|stale| encode(&stale.node_key)).collect(),
    })
}

/// Nodes as they are stored: encoded key and encoded node.
type EncodedNodes = Vec<(Vec<u8>, Vec<u8>)>;

/// A tree that is made anew, from its first key to its last. Only the way to the last key so far
/// can still change: all else leaves as soon as it is made.
#[derive(Debug)]
pub(super) struct TreeBuilder {
    version: u64,
    /// The nodes that a greater key may change: those above the last key, and its leaf.
    edge: Edge,
    root: Hash,
}

/// Nodes of the version in the making, and the root of none before it.
#[derive(Debug)]
struct Edge(BTreeMap<NodeKey, Node>);

impl TreeReader for Edge {
    fn get_node_option(&self, key: &NodeKey) -> anyhow::Result<Option<Node>> {
        if let Some(node) = self.0.get(key) {
            return Ok(Some(node.clone()));
        }
        // The tree asks for the root of the version before: it is the one made so far.
        let root = self.0.iter().find(|(key, _)| key.nibble_path().is_empty());
        Ok(key.nibble_path().is_empty().then(|| root.map_or(Node::Null, |(_, node)| node.clone())))
    }

    fn get_value_option(&self, _: u64, _: KeyHash) -> anyhow::Result<Option<OwnedValue>> {
        Ok(None)
    }

    fn get_rightmost_leaf(&self) -> anyhow::Result<Option<(NodeKey, LeafNode)>> {
        Ok(None)
    }
}

impl TreeBuilder {
    /// A tree of `version` without a key.
    pub(super) const fn new(version: u64) -> Self {
        Self { version, edge: Edge(BTreeMap::new()), root: Hash::ZERO }
    }

    /// Adds keys, ascending and greater than all before; the encoded nodes that are done.
    pub(super) fn extend(
        &mut self,
        values: &[(Hash, Option<Vec<u8>>)],
    ) -> Result<EncodedNodes, ReadError> {
        let Some((last, _)) = values.last() else { return Ok(Vec::new()) };
        let added = values.iter().map(|(key, value)| (KeyHash(*key.as_bytes()), value.clone()));
        let tree: JellyfishMerkleTree<'_, Edge, TreeHasher> = JellyfishMerkleTree::new(&self.edge);
        let (root, batch) = tree.put_value_set(added, self.version).map_err(read_error)?;
        self.root = Hash::new(root.0);
        for stale in &batch.stale_node_index_batch {
            self.edge.0.remove(&stale.node_key);
        }
        let nodes = batch.node_batch.nodes().iter();
        self.edge.0.extend(nodes.map(|(key, node)| (key.clone(), node.clone())));
        let nibbles = last.as_bytes().iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let leads_to_last = |key: &NodeKey| {
            key.nibble_path().nibbles().zip(nibbles.clone()).all(|(a, b)| u8::from(a) == b)
        };
        Ok(encode(self.edge.0.extract_if(.., |key, _| !leads_to_last(key))))
    }

    /// The root, and the nodes that were left.
    pub(super) fn finish(self) -> (Hash, EncodedNodes) {
        (self.root, encode(self.edge.0.into_iter()))
    }
}

fn encode(nodes: impl Iterator<Item = (NodeKey, Node)>) -> EncodedNodes {
    const MEMORY: &str = "writing to memory";
    let bytes = |(key, node): (NodeKey, Node)| {
        (borsh::to_vec(&key).expect(MEMORY), borsh::to_vec(&node).expect(MEMORY))
    };
    nodes.map(bytes).collect()
}

/// The root of the map at `version`.
///
/// # Errors
/// [`ReadError`] if the store fails or holds no such version.
pub fn state_root(reader: &dyn StateReader, version: u64) -> Result<Hash, ReadError> {
    let root = Tree::new(&Nodes(reader)).get_root_hash(version).map_err(read_error)?;
    Ok(Hash::new(root.0))
}

fn read_error(error: anyhow::Error) -> ReadError {
    // The tree passes on what the reader said.
    error.downcast().unwrap_or_else(|error| ReadError::Failed(error.into()))
}

/// What is, or is not, in the map under a key, with the path that shows it.
#[derive(Clone, Debug, PartialEq, Eq, borsh::BorshSerialize, borsh::BorshDeserialize)]
pub struct StateProof {
    /// The value's bytes; `None` if the key is absent.
    pub value: Option<Vec<u8>>,
    /// The path, in the tree's own layout.
    pub path: Vec<u8>,
}

/// A proof that proves nothing under the given root and key.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error("the state proof does not lead to the state root of the header")]
pub struct StateProofError;

impl StateProof {
    /// Proves what `version` holds under `key`.
    ///
    /// # Errors
    /// [`ReadError`] if the store fails or holds no such version.
    pub fn new(reader: &dyn StateReader, version: u64, key: &Key) -> Result<Self, ReadError> {
        let key = KeyHash(*key.hash().as_bytes());
        let (value, proof) =
            Tree::new(&Nodes(reader)).get_with_proof(key, version).map_err(read_error)?;
        Ok(Self { value, path: borsh::to_vec(&proof).expect("writing to memory") })
    }

    /// Checks that the map under `root` holds exactly this under `key`.
    ///
    /// # Errors
    /// [`StateProofError`]: it proves nothing.
    pub fn verify(&self, root: &Hash, key: &Key) -> Result<Option<Record>, StateProofError> {
        if self.path.len() > MAX_PROOF_BYTES {
            return Err(StateProofError);
        }
        let proof: SparseMerkleProof<TreeHasher> =
            borsh::from_slice(&self.path).map_err(|_| StateProofError)?;
        let hash = KeyHash(*key.hash().as_bytes());
        proof
            .verify(RootHash(*root.as_bytes()), hash, self.value.as_ref())
            .map_err(|_| StateProofError)?;
        match &self.value {
            None => Ok(None),
            Some(bytes) => Entry::record_of(key, bytes).map(Some).ok_or(StateProofError),
        }
    }
}
