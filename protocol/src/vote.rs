//! Votes on blocks, and what a quorum or a liar makes of them: commit certificates and proofs of
//! equivocation.
//!
//! Members of the committee prevote and precommit the hash of a block, or nil, in a round of a
//! height ([`consensus`]). Precommits of a quorum for one block in one round make a
//! [`CommitCertificate`]: the block is final, and whoever knows the committee can check it without
//! having taken part. Two different votes of one member in one place make an [`Equivocation`],
//! which costs it stake ([`ledger`]).
//!
//! Invariants: the signed bytes bind chain, height, round, kind, block and voter; a certificate
//! lists signers by ascending committee position, so none counts twice; its weight is counted in
//! shards, as everywhere.
//!
//! [`consensus`]: crate::consensus
//! [`ledger`]: crate::ledger

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::{
    committee::{Committee, QuorumTracker},
    index::Height,
    keys::{ChainId, KeyPair, NodeId, Signature, SigningDomain},
    ledger::BlockHash,
};

/// The step of a round that a vote belongs to.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum VoteKind {
    /// The first step: this block may be decided.
    Prevote,
    /// The second step: a quorum has prevoted this block.
    Precommit,
}

/// What one member says of one round.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
)]
pub struct Vote {
    /// The height voted on.
    pub height: Height,
    /// The round, from 0.
    pub round: u32,
    /// The step.
    pub kind: VoteKind,
    /// The block, or nil.
    pub block: Option<BlockHash>,
    /// The voter's node key.
    pub voter: NodeId,
}

impl Vote {
    /// What is signed: tag, chain id, then the vote: height (u64 LE), round (u32 LE), kind (u8),
    /// block (u8 0, or 1 and 32 bytes), voter (32).
    #[must_use]
    pub fn message(&self, chain: &ChainId) -> Vec<u8> {
        let vote = borsh::to_vec(self).expect("writing to memory");
        SigningDomain::Vote.message(&[chain.as_bytes(), &vote])
    }

    /// Signs the vote with the voter's node key. The caller answers for the law: journaled before
    /// it is sent.
    #[must_use]
    pub fn sign(self, chain: &ChainId, key: &KeyPair) -> SignedVote {
        let signature = key.sign(&self.message(chain));
        SignedVote { vote: self, signature }
    }
}

/// A vote and its voter's signature.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
)]
pub struct SignedVote {
    /// The vote.
    pub vote: Vote,
    /// Over [`Vote::message`].
    pub signature: Signature,
}

impl SignedVote {
    /// Whether the voter that the vote names signed it. Whether it may vote is the committee's
    /// business.
    #[must_use]
    pub fn verify(&self, chain: &ChainId) -> bool {
        self.vote.voter.verify(&self.vote.message(chain), &self.signature)
    }
}

/// Two different votes of one member for one height, round and step.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Equivocation {
    /// The vote that was seen first.
    pub first: SignedVote,
    /// The other one.
    pub second: SignedVote,
}

/// Why two votes prove nothing against their signer.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum EquivocationError {
    /// The votes differ in height, round, step or voter, or not in what they vote for.
    #[error("the votes do not contradict each other")]
    NoConflict,
    /// A signature is not the voter's, or for another network.
    #[error("a vote's signature does not verify")]
    Signature,
}

impl Equivocation {
    /// Who voted twice.
    #[must_use]
    pub const fn offender(&self) -> NodeId {
        self.first.vote.voter
    }

    /// Checks that one voter signed both votes and that they contradict each other.
    ///
    /// # Errors
    /// [`EquivocationError`]: it proves nothing.
    pub fn verify(&self, chain: &ChainId) -> Result<(), EquivocationError> {
        let (a, b) = (&self.first.vote, &self.second.vote);
        let place = |vote: &Vote| (vote.height, vote.round, vote.kind, vote.voter);
        if place(a) != place(b) || a.block == b.block {
            return Err(EquivocationError::NoConflict);
        }
        if self.first.verify(chain) && self.second.verify(chain) {
            Ok(())
        } else {
            Err(EquivocationError::Signature)
        }
    }
}

/// One member's precommit in a certificate.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct CommitSignature {
    /// Position of the signer in the committee.
    pub position: u16,
    /// Over the [`Vote::message`] of the precommit.
    pub signature: Signature,
}

/// Precommits of a quorum for one block: it is final.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct CommitCertificate {
    /// The height decided.
    pub height: Height,
    /// The round in which it was decided.
    pub round: u32,
    /// The block.
    pub block: BlockHash,
    /// The precommits, by ascending position.
    pub signatures: Vec<CommitSignature>,
}

/// Why a commit certificate proves nothing.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum CommitCertificateError {
    /// Signers are unknown, repeated or out of order.
    #[error("signers are not distinct members in committee order")]
    Signers,
    /// The signers hold too few shards.
    #[error("signers hold {weight} of {n_shards} shards, which is no quorum")]
    NoQuorum {
        /// Shards of the signers.
        weight: u16,
        /// Shards of the network.
        n_shards: u16,
    },
    /// A signature is not the signer's precommit for this block.
    #[error("the precommit of member {0} does not verify")]
    Signature(u16),
}

impl CommitCertificate {
    /// The precommit that the member at `position` signed.
    #[must_use]
    pub fn vote(&self, committee: &Committee, position: u16) -> Option<Vote> {
        let member = committee.members().get(usize::from(position))?;
        Some(Vote {
            height: self.height,
            round: self.round,
            kind: VoteKind::Precommit,
            block: Some(self.block),
            voter: member.node,
        })
    }

    /// Checks that a quorum of `committee`, which must be the height's, precommitted this block in
    /// this round. Cheap checks come first.
    ///
    /// # Errors
    /// [`CommitCertificateError`]: it proves nothing.
    pub fn verify(
        &self,
        committee: &Committee,
        chain: &ChainId,
    ) -> Result<(), CommitCertificateError> {
        let mut tracker = QuorumTracker::new(committee);
        if !self.signatures.is_sorted_by(|a, b| a.position < b.position) {
            return Err(CommitCertificateError::Signers);
        }
        for signature in &self.signatures {
            let position = usize::from(signature.position);
            if position >= committee.members().len() {
                return Err(CommitCertificateError::Signers);
            }
            tracker.add(committee, position);
        }
        let weight = tracker.weight();
        if !committee.is_quorum(weight) {
            let n_shards = committee.n_shards();
            return Err(CommitCertificateError::NoQuorum { weight, n_shards });
        }
        for CommitSignature { position, signature } in &self.signatures {
            let vote = self.vote(committee, *position).ok_or(CommitCertificateError::Signers)?;
            if !(SignedVote { vote, signature: *signature }).verify(chain) {
                return Err(CommitCertificateError::Signature(*position));
            }
        }
        Ok(())
    }
}
