//! What a node has for a step: the chunk, and what leads from it to the blob id.
//!
//! A blob can turn out to be inconsistent before the ledger says so, and who lacks a pair of it can
//! never recover it. A step on such a blob stands without chunk, and counts with those that have
//! verified a proof. What is hashed then names the blob and not the proof: there may be many proofs
//! of one blob, and who could choose among them could choose the next step. (It may still choose
//! between the chunk, if it has that, and none.)
//!
//! Invariants: lengths follow from the place alone; a chunk that verifies is the one that the blob
//! id commits to; nothing here panics on bytes from a peer.

use bytes::Bytes;

use super::Place;
use crate::{
    blob::{BlobId, PAIR_DIGEST_BYTES, PairDigest, PairProof},
    hash::{Domain, HASH_BYTES, Hash, slice},
    merkle,
};

/// A step with a chunk.
const CHUNK: u8 = 0;
/// A step on a blob that is inconsistent.
const INCONSISTENT: u8 = 1;

/// What is wrong with one step.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum StepError {
    /// Bytes missing, or values of other lengths than the place asks for.
    #[error("wrong length")]
    Length,
    /// Neither a chunk nor a blob without one.
    #[error("unknown kind of step {0}")]
    Kind(u8),
    /// The digest and its share do not lead to the blob id.
    #[error("digest is not that of the pair")]
    Pair,
    /// The chunk does not lead to the root of the sliver.
    #[error("chunk is not that of the sliver")]
    Chunk,
    /// Stands without chunk, and nobody has proven here that the blob is inconsistent.
    #[error("blob {0} is not known to be inconsistent")]
    NotInconsistent(BlobId),
    /// The chain has ended.
    #[error("more steps than a chain has")]
    Ended,
}

/// A chunk and everything that authenticates it against the blob id, given its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkProof {
    /// The chunk.
    pub chunk: Bytes,
    /// Its slice: siblings from the chunk to the hash of its symbol.
    pub slice: Vec<Hash>,
    /// Siblings from the symbol's hash to the sliver root.
    pub path: Vec<Hash>,
    /// The roots of the pair's slivers.
    pub digest: PairDigest,
    /// The pair's share of the digest table.
    pub share: Bytes,
    /// Siblings from the pair leaf to the blob root.
    pub pair_path: Vec<Hash>,
}

impl ChunkProof {
    /// The chunk at `place` of a `symbol` as it was read, with the hashes of all symbols of the
    /// expanded sliver and the proof of the pair, and checked: a disk may lie.
    ///
    /// # Errors
    /// [`StepError`]: this is not what is to be at that place.
    pub fn new(
        place: &Place,
        pair: &PairProof,
        symbol: &[u8],
        hashes: Vec<Hash>,
    ) -> Result<Self, StepError> {
        let index = place.symbol.as_usize();
        let is_whole = symbol.len() == place.layout.symbol_bytes()
            && hashes.len() == place.layout.config().n();
        let slice = slice::siblings(symbol, place.chunk).filter(|_| is_whole);
        let slice = slice.ok_or(StepError::Length)?;
        let start = place.chunk * slice::CHUNK_BYTES;
        let proof = Self {
            chunk: Bytes::copy_from_slice(&symbol[start..start + place.chunk_bytes()]),
            slice,
            path: merkle::MerkleTree::new(Domain::SliverNode, hashes).path(index),
            digest: pair.digest,
            share: pair.share.clone(),
            pair_path: pair.path.clone(),
        };
        proof.verify(place)?;
        Ok(proof)
    }

    /// Checks it against the blob id.
    ///
    /// # Errors
    /// [`StepError`]: it is not what is to be at that place.
    pub fn verify(&self, place: &Place) -> Result<(), StepError> {
        let config = place.layout.config();
        if self.share.len() != config.share_bytes() {
            return Err(StepError::Length);
        }
        let leaf = self.digest.leaf(&self.share);
        let (n, pair) = (config.n(), place.pair.as_usize());
        let root = &place.header.root;
        if !merkle::verify(Domain::BlobNode, root, (pair, n), leaf, &self.pair_path) {
            return Err(StepError::Pair);
        }
        let spot = (place.layout.symbol_bytes(), place.chunk);
        let symbol = slice::hash_of(spot, &self.chunk, &self.slice).ok_or(StepError::Length)?;
        let (root, index) = (place.axis.root_of(&self.digest), place.symbol.as_usize());
        if merkle::verify(Domain::SliverNode, &root, (index, n), symbol, &self.path) {
            Ok(())
        } else {
            Err(StepError::Chunk)
        }
    }

    /// Appends the layout: chunk, slice, path, digest, share, pair path.
    fn write(&self, bytes: &mut Vec<u8>) {
        let hashes = |bytes: &mut Vec<u8>, hashes: &[Hash]| {
            bytes.extend(hashes.iter().flat_map(Hash::as_bytes));
        };
        bytes.extend_from_slice(&self.chunk);
        hashes(bytes, &self.slice);
        hashes(bytes, &self.path);
        bytes.extend_from_slice(&self.digest.to_bytes());
        bytes.extend_from_slice(&self.share);
        hashes(bytes, &self.pair_path);
    }
}

/// What a node has for a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepProof {
    /// The chunk.
    Chunk(Box<ChunkProof>),
    /// No chunk: the blob is proven inconsistent, which the ledger does not say yet.
    Inconsistent,
}

impl StepProof {
    /// Appends the layout: kind (0 a chunk, 1 none), then the chunk's.
    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Chunk(proof) => {
                bytes.push(CHUNK);
                proof.write(bytes);
            }
            Self::Inconsistent => bytes.push(INCONSISTENT),
        }
    }

    /// The value after `value`.
    pub(super) fn next(&self, value: &Hash, place: &Place) -> Hash {
        match self {
            Self::Chunk(proof) => Domain::ChallengeChunk.hash(&[value.as_bytes(), &proof.chunk]),
            Self::Inconsistent => {
                Domain::ChallengeInconsistent.hash(&[value.as_bytes(), place.blob.as_bytes()])
            }
        }
    }
}

/// Cuts steps off a transcript.
pub(super) struct StepReader<'a>(pub(super) &'a [u8]);

impl StepReader<'_> {
    /// The next step, which is to be one for `place`.
    pub(super) fn step(&mut self, place: &Place) -> Result<StepProof, StepError> {
        match self.take(1)? {
            [CHUNK] => Ok(StepProof::Chunk(Box::new(self.chunk(place)?))),
            [INCONSISTENT] => Ok(StepProof::Inconsistent),
            kind => Err(StepError::Kind(kind[0])),
        }
    }

    fn chunk(&mut self, place: &Place) -> Result<ChunkProof, StepError> {
        let config = place.layout.config();
        let steps = merkle::path_steps(config.n());
        let chunk = Bytes::copy_from_slice(self.take(place.chunk_bytes())?);
        let slice = self.hashes(slice::steps(place.layout.symbol_bytes(), place.chunk))?;
        let path = self.hashes(steps)?;
        let digest = self.take(PAIR_DIGEST_BYTES)?.try_into().map_err(|_| StepError::Length)?;
        let digest = PairDigest::from_bytes(digest);
        let share = Bytes::copy_from_slice(self.take(config.share_bytes())?);
        Ok(ChunkProof { chunk, slice, path, digest, share, pair_path: self.hashes(steps)? })
    }

    fn hashes(&mut self, count: usize) -> Result<Vec<Hash>, StepError> {
        let (hashes, _) = self.take(count * HASH_BYTES)?.as_chunks::<HASH_BYTES>();
        Ok(hashes.iter().map(|hash| Hash::new(*hash)).collect())
    }

    fn take(&mut self, len: usize) -> Result<&[u8], StepError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(StepError::Length)?;
        self.0 = rest;
        Ok(taken)
    }
}
