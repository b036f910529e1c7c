//! What replicas gossip: votes, proposals, parts of bodies, certificates.
//!
//! Invariants: the layout is borsh's, fixed by golden vectors; bytes beyond the limit are refused
//! before anything is parsed, trailing ones afterwards; a proposal's signature binds chain, round,
//! header and the root over the parts of the body, so a part proves by its path that the proposer
//! sent it.

use borsh::{BorshDeserialize, BorshSerialize};

use super::{
    body::{MAX_PARTS, PART_BYTES},
    certificate::{PolkaCertificate, RoundCertificate},
};
use crate::{
    hash::{Domain, Hash},
    index::Height,
    keys::{ChainId, KeyPair, NodeId, Signature, SigningDomain},
    ledger::Header,
    merkle,
    vote::SignedVote,
};

/// Longest message in bytes: a part with its path, or a certificate of 256 members.
pub const MAX_MESSAGE_BYTES: usize = PART_BYTES + 1024;

/// Voters in a certificate at most: one per shard of the largest network.
const MAX_VOTERS: usize = 256;

/// What a member proposes in a round: a block of its own, or one that had a quorum of prevotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Proposal {
    /// The round in which it is proposed; its header keeps the round in which it was made.
    pub round: u32,
    /// The round in which a quorum prevoted the block, if it is proposed again for that.
    pub pol_round: Option<u32>,
    /// Root over the parts of the body.
    pub parts_root: Hash,
    /// Number of parts.
    pub parts: u16,
    /// Who proposes it.
    pub proposer: NodeId,
    /// The block's header.
    pub header: Header,
}

impl Proposal {
    /// What is signed: tag, chain id, then the layout of the proposal.
    #[must_use]
    pub fn message(&self, chain: &ChainId) -> Vec<u8> {
        let proposal = borsh::to_vec(self).expect("writing to memory");
        SigningDomain::Proposal.message(&[chain.as_bytes(), &proposal])
    }

    /// Whether the block can be proposed in this round: it keeps the round it was made in, and comes
    /// back in another one only with a quorum's prevotes from between.
    pub(super) const fn fits_round(&self) -> bool {
        match self.pol_round {
            None => self.header.round == self.round,
            Some(pol_round) => self.header.round <= pol_round && pol_round < self.round,
        }
    }

    /// Signs the proposal with the proposer's node key. The caller answers for the law: journaled
    /// before it is sent.
    #[must_use]
    pub fn sign(self, chain: &ChainId, key: &KeyPair) -> SignedProposal {
        let signature = key.sign(&self.message(chain));
        SignedProposal { proposal: self, signature }
    }
}

/// A proposal and its proposer's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SignedProposal {
    /// The proposal.
    pub proposal: Proposal,
    /// Over [`Proposal::message`].
    pub signature: Signature,
}

impl SignedProposal {
    /// Whether the proposer that the proposal names signed it. Whose turn it is is the committee's
    /// business.
    #[must_use]
    pub fn verify(&self, chain: &ChainId) -> bool {
        self.proposal.proposer.verify(&self.proposal.message(chain), &self.signature)
    }
}

/// A part of a proposed block's body.
#[derive(Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct BodyPart {
    /// The height of the proposal.
    pub height: Height,
    /// The round of the proposal.
    pub round: u32,
    /// Which part, from 0.
    pub index: u16,
    /// The siblings up to below the proposal's root.
    pub path: Vec<Hash>,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl BodyPart {
    /// Whether the path proves that the part is one of `parts` under `root`.
    #[must_use]
    pub fn verify(&self, root: &Hash, parts: u16) -> bool {
        let place = (usize::from(self.index), usize::from(parts));
        let leaf = Domain::BodyPart.hash(&[&self.bytes]);
        merkle::verify(Domain::BodyNode, root, place, leaf, &self.path)
    }
}

impl std::fmt::Debug for BodyPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { height, round, index, bytes, .. } = self;
        write!(f, "BodyPart({height}/{round} #{index}, {} bytes)", bytes.len())
    }
}

/// What is gossiped on the consensus topic.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum ConsensusMessage {
    /// A vote.
    Vote(SignedVote),
    /// A proposal, without the body.
    Proposal(Box<SignedProposal>),
    /// A part of a body.
    Part(BodyPart),
    /// Prevotes of a quorum.
    Polka(PolkaCertificate),
    /// Votes that justify another round.
    Round(RoundCertificate),
}

/// Bytes that are no consensus message.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error("malformed consensus message")]
pub struct MalformedMessage;

impl ConsensusMessage {
    /// The bytes of the layout: kind (u8), then the message.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        borsh::to_vec(self).expect("writing to memory")
    }

    /// Parses the layout strictly.
    ///
    /// # Errors
    /// [`MalformedMessage`] if it is none, or too long as a whole or in a part.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MalformedMessage> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(MalformedMessage);
        }
        let message: Self = borsh::from_slice(bytes).map_err(|_| MalformedMessage)?;
        let bounded = match &message {
            Self::Vote(_) => true,
            Self::Proposal(signed) => (1..=MAX_PARTS).contains(&signed.proposal.parts),
            Self::Part(part) => {
                part.index < MAX_PARTS
                    && (1..=PART_BYTES).contains(&part.bytes.len())
                    && part.path.len() <= merkle::path_steps(MAX_PARTS.into())
            }
            Self::Polka(certificate) => certificate.signatures.len() <= MAX_VOTERS,
            Self::Round(certificate) => certificate.votes.len() <= MAX_VOTERS,
        };
        if bounded { Ok(message) } else { Err(MalformedMessage) }
    }

    /// The height that the message is about.
    #[must_use]
    pub fn height(&self) -> Height {
        match self {
            Self::Vote(signed) => signed.vote.height,
            Self::Proposal(signed) => signed.proposal.header.height,
            Self::Part(part) => part.height,
            Self::Polka(certificate) => certificate.height,
            Self::Round(certificate) => certificate.height,
        }
    }

    /// The round that the message is about.
    #[must_use]
    pub fn round(&self) -> u32 {
        match self {
            Self::Vote(signed) => signed.vote.round,
            Self::Proposal(signed) => signed.proposal.round,
            Self::Part(part) => part.round,
            Self::Polka(certificate) => certificate.round,
            Self::Round(certificate) => certificate.round,
        }
    }
}
