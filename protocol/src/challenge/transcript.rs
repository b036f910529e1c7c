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

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;

use super::{Commitment, Place, StepError, StepProof, Universe, chain_start, proof::StepReader};
use crate::{
    blob::{BlobId, PAIR_DIGEST_BYTES},
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
    /// are those of this universe that are proven inconsistent: a proof was verified here that is
    /// not yet on the ledger, or they were invalidated there since the opening.
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
        let mut rest = StepReader(self.check_head(transcript)?);
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
        if let StepProof::Chunk(chunk) = proof {
            chunk.verify(&place)?;
        }
        proof.write(&mut self.transcript);
        self.value = proof.next(&self.value, &place);
        self.step += 1;
        Ok(())
    }

    /// How many steps have been taken.
    #[must_use]
    pub const fn step(&self) -> u16 {
        self.step
    }

    /// The whole of it, at the end of the chain.
    #[must_use]
    pub fn end(self) -> Option<Answer> {
        self.place().is_none().then(|| self.answer())
    }

    fn answer(self) -> Answer {
        let round = self.challenge.universe.round;
        let commitment = Commitment { round, node: self.challenge.node, end: self.value };
        Answer { commitment, transcript: self.transcript.into() }
    }

    /// Goes to the end: `read` says what is at a place, if something is.
    ///
    /// # Errors
    /// [`WalkError`]: something is missing, or wrong.
    pub fn run(
        mut self,
        mut read: impl FnMut(&Place) -> Option<StepProof>,
    ) -> Result<Answer, WalkError> {
        while let Some(place) = self.place() {
            let step = self.step;
            let proof = read(&place).ok_or(WalkError::Absent { step })?;
            self.take(&proof).map_err(|error| WalkError::Damaged { step, error })?;
        }
        Ok(self.answer())
    }
}

/// The whole of a chain: only who has read each of its steps has one.
#[derive(Clone, Debug)]
pub struct Answer {
    commitment: Commitment,
    transcript: Bytes,
}

impl Answer {
    /// Where the chain ends, as its node says it.
    #[must_use]
    pub const fn commitment(&self) -> &Commitment {
        &self.commitment
    }

    /// What shows that to others.
    #[must_use]
    pub const fn transcript(&self) -> &Bytes {
        &self.transcript
    }
}

/// Why a chain was not read to its end.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum WalkError {
    /// What a step asks for is not there.
    #[error("step {step}: nothing can be read at the place")]
    Absent {
        /// Which, from 0.
        step: u16,
    },
    /// What is there is not what a step asks for.
    #[error("step {step}: {error}")]
    Damaged {
        /// Which, from 0.
        step: u16,
        /// What is wrong.
        error: StepError,
    },
}
