//! What justifies a step to those who missed the votes: polka and round certificates.
//!
//! A polka certificate shows that a quorum prevoted one block in one round; a round certificate
//! that a round is over, or that others are ahead. Both are bundles of votes that anyone who knows
//! the committee can check. (The third kind, the [`CommitCertificate`], outlives the height and is
//! the ledger's.)
//!
//! Invariants: signers are listed by ascending committee position, so none counts twice; cheap
//! checks come before signatures.
//!
//! [`CommitCertificate`]: crate::vote::CommitCertificate

use borsh::{BorshDeserialize, BorshSerialize};

use crate::{
    committee::Committee,
    index::Height,
    keys::{ChainId, Signature},
    ledger::BlockHash,
    vote::{CommitSignature, SignedVote, Vote, VoteKind},
};

/// Prevotes of a quorum for one block in one round.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct PolkaCertificate {
    /// The height.
    pub height: Height,
    /// The round.
    pub round: u32,
    /// The block.
    pub block: BlockHash,
    /// The prevotes, by ascending position.
    pub signatures: Vec<CommitSignature>,
}

/// What a round certificate shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum RoundCertificateKind {
    /// More than a third has voted in the round: it may be entered.
    Skip,
    /// A quorum has precommitted in the round: the next one may be entered.
    Precommit,
}

/// One vote in a round certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct RoundVote {
    /// Position of the voter in the committee.
    pub position: u16,
    /// The step.
    pub kind: VoteKind,
    /// The block, or nil.
    pub block: Option<BlockHash>,
    /// Over the vote's message.
    pub signature: Signature,
}

/// Votes of one round that justify entering it or the next.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct RoundCertificate {
    /// The height.
    pub height: Height,
    /// The round voted in.
    pub round: u32,
    /// What they show.
    pub kind: RoundCertificateKind,
    /// The votes, by ascending position.
    pub votes: Vec<RoundVote>,
}

/// Why a bundle of votes proves nothing.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum BundleError {
    /// Voters are unknown, without shards, repeated or out of order.
    #[error("voters are not distinct members with shards in committee order")]
    Voters,
    /// A vote of the wrong step.
    #[error("the vote of member {0} is of another step")]
    Step(u16),
    /// The voters hold too few shards.
    #[error("the voters' weight of {0} shards does not suffice")]
    Weight(u16),
    /// A signature is not the voter's.
    #[error("the vote of member {0} does not verify")]
    Signature(u16),
}

impl PolkaCertificate {
    /// The prevotes; none of unknown members.
    pub(super) fn votes<'a>(
        &'a self,
        committee: &'a Committee,
    ) -> impl Iterator<Item = (u16, SignedVote)> + 'a {
        self.signatures.iter().filter_map(|CommitSignature { position, signature }| {
            let voter = committee.members().get(usize::from(*position))?.node;
            let (height, round, kind) = (self.height, self.round, VoteKind::Prevote);
            let vote = Vote { height, round, kind, block: Some(self.block), voter };
            Some((*position, SignedVote { vote, signature: *signature }))
        })
    }

    /// Checks that a quorum of `committee`, which must be the height's, prevoted the block.
    ///
    /// # Errors
    /// [`BundleError`]: it proves nothing.
    pub fn verify(&self, committee: &Committee, chain: &ChainId) -> Result<(), BundleError> {
        let positions = self.signatures.iter().map(|signature| signature.position);
        let weight = weigh(positions, committee)?;
        if !committee.is_quorum(weight) {
            return Err(BundleError::Weight(weight));
        }
        verify_votes(self.votes(committee), chain)
    }
}

impl RoundCertificate {
    /// The votes; none of unknown members.
    pub(super) fn votes<'a>(
        &'a self,
        committee: &'a Committee,
    ) -> impl Iterator<Item = (u16, SignedVote)> + 'a {
        self.votes.iter().filter_map(|RoundVote { position, kind, block, signature }| {
            let voter = committee.members().get(usize::from(*position))?.node;
            let (height, round) = (self.height, self.round);
            let vote = Vote { height, round, kind: *kind, block: *block, voter };
            Some((*position, SignedVote { vote, signature: *signature }))
        })
    }

    /// Checks that enough of `committee`, which must be the height's, voted so.
    ///
    /// # Errors
    /// [`BundleError`]: it proves nothing.
    pub fn verify(&self, committee: &Committee, chain: &ChainId) -> Result<(), BundleError> {
        let weight = weigh(self.votes.iter().map(|vote| vote.position), committee)?;
        let enough = match self.kind {
            // The core's bound, which is never below the committee's validity.
            RoundCertificateKind::Skip => 3 * u32::from(weight) > u32::from(committee.n_shards()),
            RoundCertificateKind::Precommit => {
                let other = self.votes.iter().find(|vote| vote.kind != VoteKind::Precommit);
                if let Some(other) = other {
                    return Err(BundleError::Step(other.position));
                }
                committee.is_quorum(weight)
            }
        };
        if !enough {
            return Err(BundleError::Weight(weight));
        }
        verify_votes(self.votes(committee), chain)
    }
}

/// The weight of distinct members in committee order.
fn weigh(positions: impl Iterator<Item = u16>, committee: &Committee) -> Result<u16, BundleError> {
    let (mut weight, mut last) = (0_u16, None);
    for position in positions {
        let member = committee.members().get(usize::from(position)).ok_or(BundleError::Voters)?;
        if member.weight() == 0 || last.is_some_and(|last| last >= position) {
            return Err(BundleError::Voters);
        }
        weight += member.weight();
        last = Some(position);
    }
    Ok(weight)
}

fn verify_votes(
    votes: impl Iterator<Item = (u16, SignedVote)>,
    chain: &ChainId,
) -> Result<(), BundleError> {
    for (position, vote) in votes {
        if !vote.verify(chain) {
            return Err(BundleError::Signature(position));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hash::Hash, keys::KeyPair, test_support};

    struct Fixture {
        chain: ChainId,
        committee: Committee,
        keys: Vec<KeyPair>,
    }

    impl Fixture {
        fn new() -> Self {
            let committee = test_support::committee(4, 4);
            let mut keys: Vec<_> = test_support::node_keys(4).into_iter().map(|k| k.0).collect();
            keys.sort_by_key(KeyPair::public);
            Self { chain: ChainId::new(Hash::new([9; 32])), committee, keys }
        }

        fn vote(&self, position: u16, kind: VoteKind, block: Option<BlockHash>) -> SignedVote {
            let key = &self.keys[usize::from(position)];
            let voter = key.public();
            Vote { height: Height::new(3), round: 1, kind, block, voter }.sign(&self.chain, key)
        }

        fn polka(&self, positions: &[u16]) -> PolkaCertificate {
            let block = BlockHash::new(Hash::new([5; 32]));
            let signatures = positions.iter().map(|position| CommitSignature {
                position: *position,
                signature: self.vote(*position, VoteKind::Prevote, Some(block)).signature,
            });
            let signatures = signatures.collect();
            PolkaCertificate { height: Height::new(3), round: 1, block, signatures }
        }

        fn round(&self, kind: RoundCertificateKind, votes: &[(u16, VoteKind)]) -> RoundCertificate {
            let votes = votes.iter().map(|(position, kind)| RoundVote {
                position: *position,
                kind: *kind,
                block: None,
                signature: self.vote(*position, *kind, None).signature,
            });
            let votes = votes.collect();
            RoundCertificate { height: Height::new(3), round: 1, kind, votes }
        }
    }

    #[test]
    fn a_polka_needs_a_quorum_of_distinct_members() {
        let fixture = Fixture::new();
        let check =
            |certificate: &PolkaCertificate| certificate.verify(&fixture.committee, &fixture.chain);
        assert_eq!(check(&fixture.polka(&[0, 1, 3])), Ok(()));
        assert_eq!(check(&fixture.polka(&[0, 1])), Err(BundleError::Weight(2)));
        assert_eq!(check(&fixture.polka(&[])), Err(BundleError::Weight(0)));
        let mut twice = fixture.polka(&[0, 1, 2]);
        twice.signatures[1].position = 0;
        assert_eq!(check(&twice), Err(BundleError::Voters));
        let mut stranger = fixture.polka(&[0, 1, 2]);
        stranger.signatures[2].position = 4;
        assert_eq!(check(&stranger), Err(BundleError::Voters));
        let mut moved = fixture.polka(&[0, 1, 2]);
        moved.round = 2;
        assert_eq!(check(&moved), Err(BundleError::Signature(0)));
    }

    #[test]
    fn a_round_is_left_by_a_quorum_and_skipped_to_by_more_than_a_third() {
        use RoundCertificateKind::{Precommit, Skip};
        let fixture = Fixture::new();
        let check = |kind, votes: &[(u16, VoteKind)]| {
            fixture.round(kind, votes).verify(&fixture.committee, &fixture.chain)
        };
        let (early, late) = (VoteKind::Prevote, VoteKind::Precommit);
        assert_eq!(check(Precommit, &[(0, late), (1, late), (2, late)]), Ok(()));
        assert_eq!(check(Precommit, &[(0, late), (1, late)]), Err(BundleError::Weight(2)));
        let mixed = check(Precommit, &[(0, late), (1, early), (2, late)]);
        assert_eq!(mixed, Err(BundleError::Step(1)));
        assert_eq!(check(Skip, &[(1, early), (2, late)]), Ok(()));
        assert_eq!(check(Skip, &[(1, early)]), Err(BundleError::Weight(1)));
        assert_eq!(check(Skip, &[(2, early), (1, early)]), Err(BundleError::Voters));
    }
}
