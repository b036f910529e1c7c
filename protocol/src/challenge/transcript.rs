//! The chain of one node in one round, what it read on its way, and how that is judged.
//!
//! `t_0` is a hash of the node's seed. Each value draws a place; the hash of it and the chunk found
//! there is the next one. So nobody can know a step before having read the one before, and the last
//! value, to which the node commits itself, fixes every byte that was read.
//!
//! A transcript holds, after chain, round and node, what no one else can derive: of each step the
//! chunk and the hashes that lead from it to the blob id. Where it was to be read, how long
//! everything is and which header the blob has is known from the [`Universe`], so that there is one
//! transcript for each chain and no byte in it that is not checked.
//!
//! A blob can turn out to be inconsistent before the ledger says so, and who lacks a pair of it can
//! never recover it. A step on such a blob stands without chunk, and counts with those that have
//! verified a proof. What is hashed then names the blob and not the proof: there may be many proofs
//! of one blob, and who could choose among them could choose the next step.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;

use super::{Place, Universe, chain_start};
use crate::{
    blob::{BlobId, PAIR_DIGEST_BYTES, PairDigest, PairProof},
    encoding::EncodingConfig,
    hash::{Domain, HASH_BYTES, Hash, slice},
    index::ChallengeRound,
    keys::NodeId,
    merkle,
};

/// Longest transcript in bytes, in any network.
pub const TRANSCRIPT_BYTES_MAX: usize = 56 << 10;
/// Chain, round, node.
const HEAD_BYTES: usize = 32 + 8 + 32;
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

/// Why a transcript counts for nothing.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum TranscriptError {
    /// Longer than any transcript.
    #[error("transcript of {bytes} bytes: at most {max_bytes} are possible")]
    TooLong {
        /// Bytes given.
        bytes: usize,
        /// Bytes that are possible.
        max_bytes: usize,
    },
    /// Shorter than its head.
    #[error("transcript too short")]
    TooShort,
    /// Of another network.
    #[error("transcript of another chain")]
    OtherChain,
    /// Of another round.
    #[error("transcript of round {0}")]
    OtherRound(ChallengeRound),
    /// Of another node.
    #[error("transcript of node {0}")]
    OtherNode(NodeId),
    /// A step fails.
    #[error("step {step}: {error}")]
    Step {
        /// Which, from 0.
        step: u16,
        /// Why.
        error: StepError,
    },
    /// Bytes behind the last step.
    #[error("transcript with bytes left over")]
    LeftOver,
    /// It ends elsewhere than where the node committed itself to.
    #[error("transcript does not lead to the commitment")]
    OtherEnd,
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
    /// The value after `value`.
    fn next(&self, value: &Hash, place: &Place) -> Hash {
        match self {
            Self::Chunk(proof) => Domain::ChallengeChunk.hash(&[value.as_bytes(), &proof.chunk]),
            Self::Inconsistent => {
                Domain::ChallengeInconsistent.hash(&[value.as_bytes(), place.blob.as_bytes()])
            }
        }
    }
}

/// What one node is asked for in one round.
#[derive(Clone, Debug)]
pub struct Challenge {
    universe: Arc<Universe>,
    node: NodeId,
    position: usize,
    seed: Hash,
}

impl Challenge {
    /// What a round asks `node` for, whose seed this is; none if the round does not count for it.
    #[must_use]
    pub fn new(universe: Arc<Universe>, node: NodeId, seed: Hash) -> Option<Self> {
        let position = universe.position(&node)?;
        Some(Self { universe, node, position, seed })
    }

    /// The universe of the round.
    #[must_use]
    pub const fn universe(&self) -> &Arc<Universe> {
        &self.universe
    }

    /// The node.
    #[must_use]
    pub const fn node(&self) -> &NodeId {
        &self.node
    }

    /// Its position in the committee.
    #[must_use]
    pub const fn position(&self) -> usize {
        self.position
    }

    /// The first value of its chain.
    #[must_use]
    pub fn start(&self) -> Hash {
        chain_start(&self.seed, &self.node)
    }

    /// The place that a value of its chain draws.
    ///
    /// # Panics
    /// Never: the round counts for the node.
    #[must_use]
    pub fn place(&self, value: &Hash) -> Place {
        let place = self.universe.place(self.position, value);
        place.expect("the round counts for the node, so there is a blob and a shard to draw")
    }

    /// The other members, by position, in the order in which they ask for the transcript: by keyed
    /// hash of seed, node and member.
    #[must_use]
    pub fn turns(&self) -> Vec<usize> {
        let members = self.universe.committee.members();
        let mut turns: Vec<_> =
            (0..members.len()).filter(|other| *other != self.position).collect();
        turns.sort_by_cached_key(|other| {
            let other = members[*other].node;
            let parts = [&self.seed.as_bytes()[..], self.node.as_bytes(), other.as_bytes()];
            Domain::ChallengeTurn.hash(&parts)
        });
        turns
    }

    /// Checks that `transcript` is that of the chain which ends with `end`. Blobs in `inconsistent`
    /// are those of which a proof was verified here that is not yet on the ledger.
    ///
    /// # Errors
    /// [`TranscriptError`]: it is no such transcript.
    pub fn verify(
        &self,
        transcript: &[u8],
        end: &Hash,
        inconsistent: &BTreeSet<BlobId>,
    ) -> Result<(), TranscriptError> {
        let max_bytes = self.transcript_bytes_max();
        if transcript.len() > max_bytes {
            return Err(TranscriptError::TooLong { bytes: transcript.len(), max_bytes });
        }
        let mut rest = Reader(self.check_head(transcript)?);
        let mut value = self.start();
        for step in 0..self.universe.parameters.steps {
            let place = self.place(&value);
            let proof = rest.step(&place).and_then(|proof| match &proof {
                StepProof::Chunk(chunk) => chunk.verify(&place).map(|()| proof),
                StepProof::Inconsistent if inconsistent.contains(&place.blob) => Ok(proof),
                StepProof::Inconsistent => Err(StepError::NotInconsistent(place.blob)),
            });
            let proof = proof.map_err(|error| TranscriptError::Step { step, error })?;
            value = proof.next(&value, &place);
        }
        if !rest.0.is_empty() {
            return Err(TranscriptError::LeftOver);
        }
        if value == *end { Ok(()) } else { Err(TranscriptError::OtherEnd) }
    }

    /// What follows the head of a transcript.
    fn check_head<'a>(&self, transcript: &'a [u8]) -> Result<&'a [u8], TranscriptError> {
        let short = TranscriptError::TooShort;
        let (chain, rest) = transcript.split_first_chunk::<HASH_BYTES>().ok_or(short)?;
        let (round, rest) = rest.split_first_chunk::<8>().ok_or(short)?;
        let (node, rest) = rest.split_first_chunk::<HASH_BYTES>().ok_or(short)?;
        if chain != self.universe.chain.as_bytes() {
            return Err(TranscriptError::OtherChain);
        }
        let round = ChallengeRound::new(u64::from_le_bytes(*round));
        if round != self.universe.round {
            return Err(TranscriptError::OtherRound(round));
        }
        let node = NodeId::new(*node);
        if node != self.node {
            return Err(TranscriptError::OtherNode(node));
        }
        Ok(rest)
    }

    /// Bytes of the longest transcript that this network and these rules allow.
    #[must_use]
    pub fn transcript_bytes_max(&self) -> usize {
        transcript_bytes_max(self.universe.committee.config(), self.universe.parameters.steps)
    }
}

/// Bytes of the longest transcript of so many steps in a network with `config`.
#[must_use]
pub fn transcript_bytes_max(config: EncodingConfig, steps: u16) -> usize {
    let symbol_bytes = usize::try_from(config.max_symbol_bytes()).unwrap_or(usize::MAX);
    // The first chunk is among the deepest.
    let paths = slice::steps(symbol_bytes, 0) + 2 * merkle::path_steps(config.n());
    let proof_bytes = paths * HASH_BYTES + PAIR_DIGEST_BYTES + config.share_bytes();
    let step_bytes = 1 + slice::CHUNK_BYTES + proof_bytes;
    (HEAD_BYTES + usize::from(steps) * step_bytes).min(TRANSCRIPT_BYTES_MAX)
}

/// A node's way along its chain.
#[derive(Clone, Debug)]
pub struct Walk {
    challenge: Challenge,
    value: Hash,
    step: u16,
    transcript: Vec<u8>,
}

impl Walk {
    /// At the beginning of the chain.
    #[must_use]
    pub fn new(challenge: Challenge) -> Self {
        let universe = challenge.universe();
        let mut transcript = universe.chain.as_bytes().to_vec();
        transcript.extend_from_slice(&universe.round.get().to_le_bytes());
        transcript.extend_from_slice(challenge.node().as_bytes());
        let value = challenge.start();
        Self { challenge, value, step: 0, transcript }
    }

    /// What is to be read next; none at the end.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        let ended = self.step == self.challenge.universe.parameters.steps;
        (!ended).then(|| self.challenge.place(&self.value))
    }

    /// Takes the next step, with what is at its place.
    ///
    /// # Errors
    /// [`StepError`]: it is something else, or there is no next step.
    pub fn take(&mut self, proof: &StepProof) -> Result<(), StepError> {
        let place = self.place().ok_or(StepError::Ended)?;
        match proof {
            StepProof::Chunk(chunk) => {
                chunk.verify(&place)?;
                self.transcript.push(CHUNK);
                chunk.write(&mut self.transcript);
            }
            StepProof::Inconsistent => self.transcript.push(INCONSISTENT),
        }
        self.value = proof.next(&self.value, &place);
        self.step += 1;
        Ok(())
    }

    /// How many steps have been taken.
    #[must_use]
    pub const fn step(&self) -> u16 {
        self.step
    }

    /// The last value and the transcript, at the end of the chain.
    #[must_use]
    pub fn end(self) -> Option<(Hash, Bytes)> {
        self.place().is_none().then(|| (self.value, self.transcript.into()))
    }
}

/// Cuts steps off a transcript.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn step(&mut self, place: &Place) -> Result<StepProof, StepError> {
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
