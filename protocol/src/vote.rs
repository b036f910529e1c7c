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
    keys::{ChainId, KeyPair, NodeId, Signature, SignatureBatch, SigningDomain},
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
        let mut batch = SignatureBatch::new();
        for CommitSignature { position, signature } in &self.signatures {
            let vote = self.vote(committee, *position).ok_or(CommitCertificateError::Signers)?;
            batch.add(&vote.voter, &vote.message(chain), signature);
        }
        let wrong = batch.wrong().first().map(|index| self.signatures[*index].position);
        wrong.map_or(Ok(()), |position| Err(CommitCertificateError::Signature(position)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hash::Hash, test_support};

    struct Fixture {
        chain: ChainId,
        committee: Committee,
        keys: Vec<KeyPair>,
    }

    impl Fixture {
        /// Seven members with one shard each: five are a quorum.
        fn new() -> Self {
            let genesis = test_support::genesis(7, 7);
            let mut keys: Vec<_> = test_support::node_keys(7).into_iter().map(|k| k.0).collect();
            keys.sort_by_key(KeyPair::public);
            Self { chain: genesis.chain_id(), committee: genesis.committee().unwrap(), keys }
        }

        fn vote(&self, position: u16, change: impl FnOnce(&mut Vote)) -> SignedVote {
            let key = &self.keys[usize::from(position)];
            let mut vote = Vote {
                height: Height::new(9),
                round: 2,
                kind: VoteKind::Precommit,
                block: Some(BlockHash::new(Hash::new([1; 32]))),
                voter: key.public(),
            };
            change(&mut vote);
            vote.sign(&self.chain, key)
        }

        fn certificate(&self, positions: &[u16]) -> CommitCertificate {
            let signatures = positions.iter().map(|position| CommitSignature {
                position: *position,
                signature: self.vote(*position, |_| {}).signature,
            });
            CommitCertificate {
                height: Height::new(9),
                round: 2,
                block: BlockHash::new(Hash::new([1; 32])),
                signatures: signatures.collect(),
            }
        }

        fn verify(&self, certificate: &CommitCertificate) -> Result<(), CommitCertificateError> {
            certificate.verify(&self.committee, &self.chain)
        }
    }

    #[test]
    fn a_signature_binds_every_field_and_the_chain() {
        let fixture = Fixture::new();
        let signed = fixture.vote(0, |_| {});
        assert!(signed.verify(&fixture.chain));
        assert!(!signed.verify(&ChainId::new(Hash::new([3; 32]))));
        let changes: [fn(&mut Vote); 5] = [
            |vote| vote.height = vote.height.next(),
            |vote| vote.round += 1,
            |vote| vote.kind = VoteKind::Prevote,
            |vote| vote.block = None,
            |vote| vote.voter = NodeId::new([7; 32]),
        ];
        for (i, change) in changes.into_iter().enumerate() {
            let mut changed = signed;
            change(&mut changed.vote);
            assert!(!changed.verify(&fixture.chain), "change {i}");
        }
    }

    #[test]
    fn only_a_contradiction_in_one_place_is_an_equivocation() {
        let fixture = Fixture::new();
        let verify = |first, second| Equivocation { first, second }.verify(&fixture.chain);
        let first = fixture.vote(0, |_| {});
        let nil = fixture.vote(0, |vote| vote.block = None);
        assert_eq!(verify(first, nil), Ok(()));
        assert_eq!(Equivocation { first, second: nil }.offender(), fixture.keys[0].public());
        let others = [
            first,
            fixture.vote(0, |vote| (vote.block, vote.round) = (None, 3)),
            fixture.vote(0, |vote| (vote.block, vote.height) = (None, Height::new(8))),
            fixture.vote(0, |vote| (vote.block, vote.kind) = (None, VoteKind::Prevote)),
            fixture.vote(1, |vote| vote.block = None),
        ];
        for (i, other) in others.into_iter().enumerate() {
            assert_eq!(verify(first, other), Err(EquivocationError::NoConflict), "other {i}");
        }
        let forged = SignedVote { signature: first.signature, ..nil };
        assert_eq!(verify(first, forged), Err(EquivocationError::Signature));
        assert_eq!(verify(forged, first), Err(EquivocationError::Signature));
    }

    #[test]
    fn a_certificate_needs_a_quorum_of_distinct_members_who_precommitted_it() {
        let fixture = Fixture::new();
        assert_eq!(fixture.verify(&fixture.certificate(&[0, 2, 3, 5, 6])), Ok(()));
        assert_eq!(fixture.verify(&fixture.certificate(&[0, 1, 2, 3, 4, 5, 6])), Ok(()));
        let few = CommitCertificateError::NoQuorum { weight: 4, n_shards: 7 };
        assert_eq!(fixture.verify(&fixture.certificate(&[0, 1, 2, 3])), Err(few));
        for positions in [[0, 1, 2, 3, 3], [1, 0, 2, 3, 4]] {
            let certificate = fixture.certificate(&positions);
            assert_eq!(fixture.verify(&certificate), Err(CommitCertificateError::Signers));
        }
        let mut stranger = fixture.certificate(&[0, 1, 2, 3, 4, 5]);
        stranger.signatures[5].position = 7;
        assert_eq!(fixture.verify(&stranger), Err(CommitCertificateError::Signers));
        let mut prevoted = fixture.certificate(&[0, 1, 2, 3, 4]);
        let prevote = fixture.vote(4, |vote| vote.kind = VoteKind::Prevote);
        prevoted.signatures[4].signature = prevote.signature;
        assert_eq!(fixture.verify(&prevoted), Err(CommitCertificateError::Signature(4)));
        let mut moved = fixture.certificate(&[0, 1, 2, 3, 4]);
        moved.round = 3;
        assert_eq!(fixture.verify(&moved), Err(CommitCertificateError::Signature(0)));
    }
}
