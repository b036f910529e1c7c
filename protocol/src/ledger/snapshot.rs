//! Snapshots: the whole state after a block, for newcomers that do not execute all blocks before.
//!
//! A snapshot is every entry of the authenticated map in the order of its key hashes, cut into
//! *chunks* of a bounded size, and a *manifest* that names header, next committee and the hash of
//! each chunk. All nodes make the same bytes of a height; only the certificate beside them, in the
//! *offer*, is each node's own. Nodes make one of the last block of every epoch.
//!
//! Whoever restores one verifies the header first, by the committee of its height; then builds the
//! tree again, chunk by chunk, and at the end its root must be the header's state root. Until then
//! all is a stranger's word: a manifest can name chunks of a state that never was, and only the
//! root tells. The index beside the state is derived from the entries, all but the history of
//! transactions: that begins with the snapshot. So do the blocks.
//!
//! Invariants: memory is one chunk and the path to the last key, whatever the state; a wrong byte,
//! an entry that is missing, twice, misplaced or too many never comes to the end of
//! [`SnapshotRestore::finish`]. Deliberately not here: files, and whom to ask.

use borsh::{BorshDeserialize, BorshSerialize};

use super::{Entry, Header, IndexEntry, ReadError, StateChange, index_of, tree::TreeBuilder};
use crate::{
    committee::Committee,
    genesis::Predecessor,
    hash::{Domain, Hash},
    index::{Epoch, Height},
    light::CertifiedHeader,
    vote::CommitCertificate,
};

/// Bytes of a chunk, unless a single entry has more.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;
/// Longest chunk in bytes: one entry that is longer than chunks are.
pub const MAX_SNAPSHOT_CHUNK_BYTES: usize = 512 << 10;
/// Most chunks of a snapshot: 4 GiB of state.
pub const MAX_SNAPSHOT_CHUNKS: usize = 16_384;

/// The length before an entry, little-endian.
const LENGTH_BYTES: usize = 4;

/// A snapshot that cannot be made or restored.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The state is too large for a snapshot, or an entry for a chunk.
    #[error("the state is too large for a snapshot")]
    TooLarge,
    /// It is of genesis, or has no chunk, or too many.
    #[error("the manifest is none of a snapshot")]
    Manifest,
    /// The committee is not the one that the header names.
    #[error("the committee of the snapshot is not the one that its header names")]
    Committee,
    /// A chunk is not the one that the manifest names.
    #[error("chunk {0} of the snapshot is not the one that its manifest names")]
    OtherChunk(usize),
    /// A chunk does not consist of entries.
    #[error("chunk {0} of the snapshot does not consist of entries")]
    Malformed(usize),
    /// An entry is there twice, or not where it belongs.
    #[error("an entry of the snapshot is there twice or misplaced, in chunk {0}")]
    Order(usize),
    /// Chunks or entries are missing, or there are too many.
    #[error("the snapshot has not as many chunks and entries as its manifest says")]
    Count,
    /// The entries are not those of the header's state.
    #[error("the snapshot is of another state than its header")]
    OtherState,
    /// The tree cannot be built.
    #[error(transparent)]
    Tree(#[from] ReadError),
}

/// What a snapshot consists of. The same on every node.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SnapshotManifest {
    /// After which block.
    pub header: Header,
    /// The layout of the next height's committee.
    pub committee: Vec<u8>,
    /// Entries of the state.
    pub entries: u64,
    /// The hash of each chunk.
    pub chunks: Vec<Hash>,
}

impl SnapshotManifest {
    /// What tells manifests apart: the hash of the layout.
    #[must_use]
    pub fn id(&self) -> Hash {
        Domain::SnapshotManifest.hash(&[&borsh::to_vec(self).expect("writing to memory")])
    }

    /// Checks what can be checked before any chunk is there; the next height's committee. That the
    /// header is final is for the caller to know.
    ///
    /// # Errors
    /// [`SnapshotError::Manifest`], [`SnapshotError::Committee`].
    pub fn check(&self) -> Result<Committee, SnapshotError> {
        if self.header.height == Height::new(0) {
            return Err(SnapshotError::Manifest);
        }
        self.check_parts()
    }

    fn check_parts(&self) -> Result<Committee, SnapshotError> {
        let chunks = u64::try_from(self.chunks.len()).unwrap_or(u64::MAX);
        let count = (1..=MAX_SNAPSHOT_CHUNKS).contains(&self.chunks.len());
        if !count || self.entries < chunks {
            return Err(SnapshotError::Manifest);
        }
        if Domain::Committee.hash(&[&self.committee]) != self.header.next_committee {
            return Err(SnapshotError::Committee);
        }
        Committee::from_bytes(&self.committee).map_err(|_| SnapshotError::Committee)
    }

    /// Whether these bytes are the chunk with this number.
    #[must_use]
    pub fn has_chunk(&self, index: usize, bytes: &[u8]) -> bool {
        self.chunks.get(index) == Some(&Domain::SnapshotChunk.hash(&[bytes]))
    }
}

/// A manifest, and why its header is final: what a node offers.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SnapshotOffer {
    /// What the snapshot consists of.
    pub manifest: SnapshotManifest,
    /// Precommits for its header.
    pub certificate: CommitCertificate,
}

impl SnapshotOffer {
    /// The header with what makes it final.
    #[must_use]
    pub fn certified(&self) -> CertifiedHeader {
        CertifiedHeader { header: self.manifest.header, certificate: self.certificate.clone() }
    }
}

/// Cuts a state into chunks.
#[derive(Debug, Default)]
pub struct SnapshotWriter {
    chunk: Vec<u8>,
    last: Option<Hash>,
    entries: u64,
    chunks: Vec<Hash>,
}

impl SnapshotWriter {
    /// Takes the next entry: the hash of its key and its bytes. Gives a chunk that became full.
    ///
    /// # Errors
    /// [`SnapshotError::Order`], [`SnapshotError::TooLarge`].
    pub fn push(&mut self, key: &Hash, value: &[u8]) -> Result<Option<Vec<u8>>, SnapshotError> {
        if self.last.as_ref().is_some_and(|last| last >= key) {
            return Err(SnapshotError::Order(self.chunks.len()));
        }
        let bytes = value.len().saturating_add(LENGTH_BYTES);
        let length = u32::try_from(value.len()).map_err(|_| SnapshotError::TooLarge)?;
        if bytes > MAX_SNAPSHOT_CHUNK_BYTES {
            return Err(SnapshotError::TooLarge);
        }
        let is_full = self.chunk.len().saturating_add(bytes) > SNAPSHOT_CHUNK_BYTES;
        let full = (is_full && !self.chunk.is_empty()).then(|| self.cut());
        self.chunk.extend_from_slice(&length.to_le_bytes());
        self.chunk.extend_from_slice(value);
        self.entries = self.entries.saturating_add(1);
        self.last = Some(*key);
        if self.chunks.len() >= MAX_SNAPSHOT_CHUNKS {
            return Err(SnapshotError::TooLarge);
        }
        Ok(full)
    }

    fn cut(&mut self) -> Vec<u8> {
        let chunk = std::mem::take(&mut self.chunk);
        self.chunks.push(Domain::SnapshotChunk.hash(&[&chunk]));
        chunk
    }

    /// The last chunk, and the manifest of all.
    ///
    /// # Errors
    /// [`SnapshotError::Manifest`] if there was no entry.
    pub fn finish(
        mut self,
        header: Header,
        committee: Vec<u8>,
    ) -> Result<(Vec<u8>, SnapshotManifest), SnapshotError> {
        if self.chunk.is_empty() {
            return Err(SnapshotError::Manifest);
        }
        let last = self.cut();
        let Self { entries, chunks, .. } = self;
        Ok((last, SnapshotManifest { header, committee, entries, chunks }))
    }
}

/// Makes a state of chunks, which come in their order.
#[derive(Debug)]
pub struct SnapshotRestore {
    manifest: SnapshotManifest,
    /// The one of the next height.
    epoch: Epoch,
    tree: TreeBuilder,
    taken: usize,
    entries: u64,
    last: Option<Hash>,
}

impl SnapshotRestore {
    /// Nothing restored yet.
    ///
    /// # Errors
    /// As [`SnapshotManifest::check`].
    pub fn new(manifest: SnapshotManifest) -> Result<Self, SnapshotError> {
        let epoch = manifest.check()?.epoch();
        Ok(Self::begin(manifest, epoch))
    }

    /// The same, of the first state of a network that goes on from a stopped one.
    ///
    /// # Errors
    /// [`SnapshotError::Manifest`] if it is not the one that the genesis names.
    pub fn of_first_state(
        manifest: SnapshotManifest,
        predecessor: &Predecessor,
    ) -> Result<Self, SnapshotError> {
        if !predecessor.names(&manifest) {
            return Err(SnapshotError::Manifest);
        }
        let epoch = manifest.check_parts()?.epoch();
        Ok(Self::begin(manifest, epoch))
    }

    const fn begin(manifest: SnapshotManifest, epoch: Epoch) -> Self {
        let tree = TreeBuilder::new(manifest.header.height.get());
        Self { manifest, epoch, tree, taken: 0, entries: 0, last: None }
    }

    /// Takes the next chunk: a part of what the height writes. Nothing of it counts before
    /// [`Self::finish`].
    ///
    /// # Errors
    /// [`SnapshotError`]: the snapshot is none.
    pub fn take(&mut self, chunk: &[u8]) -> Result<StateChange, SnapshotError> {
        let index = self.taken;
        if index >= self.manifest.chunks.len() {
            return Err(SnapshotError::Count);
        }
        if !self.manifest.has_chunk(index, chunk) || chunk.len() > MAX_SNAPSHOT_CHUNK_BYTES {
            return Err(SnapshotError::OtherChunk(index));
        }
        let mut change = self.change();
        let mut rest = chunk;
        while !rest.is_empty() {
            let value = split_entry(&mut rest).ok_or(SnapshotError::Malformed(index))?;
            let entry = Entry::from_bytes(value).ok_or(SnapshotError::Malformed(index))?;
            let key = entry.key.hash();
            if self.last.is_some_and(|last| last >= key) {
                return Err(SnapshotError::Order(index));
            }
            self.last = Some(key);
            self.entries = self.entries.saturating_add(1);
            let indexed = index_of(&entry, self.epoch);
            change.index_added.extend(indexed.iter().map(IndexEntry::to_bytes));
            change.values.push((key, Some(value.to_vec())));
        }
        if change.values.is_empty() || self.entries > self.manifest.entries {
            return Err(SnapshotError::Count);
        }
        change.nodes = self.tree.extend(&change.values)?;
        self.taken = self.taken.saturating_add(1);
        Ok(change)
    }

    /// The rest of what the height writes, once the state is known to be the header's.
    ///
    /// # Errors
    /// [`SnapshotError::Count`], [`SnapshotError::OtherState`].
    pub fn finish(self) -> Result<StateChange, SnapshotError> {
        let complete = self.taken == self.manifest.chunks.len();
        if !complete || self.entries != self.manifest.entries {
            return Err(SnapshotError::Count);
        }
        let mut change = self.change();
        let (root, nodes) = self.tree.finish();
        if root != self.manifest.header.state_root {
            return Err(SnapshotError::OtherState);
        }
        change.nodes = nodes;
        Ok(change)
    }

    fn change(&self) -> StateChange {
        let version = self.manifest.header.height.get();
        StateChange { version, ..StateChange::default() }
    }
}

fn split_entry<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, behind) = rest.split_first_chunk::<LENGTH_BYTES>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (value, behind) = behind.split_at_checked(length)?;
    *rest = behind;
    Some(value)
}
