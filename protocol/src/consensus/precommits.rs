//! Precommits: counted until they decide a height, collected for a while afterwards.
//!
//! Counting is done here and not left to the core, so that a quorum decides even for a replica
//! that missed the proposal of the deciding round. Precommits for the decided block that come
//! later are kept for the commit records of coming blocks: presence is paid by what is recorded.
//!
//! Invariants: every precommit has been verified; one per member and round counts; memory is
//! bounded by members times rounds reached, and by members times [`LATE_PRECOMMIT_HEIGHTS`].

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use crate::{
    committee::Committee,
    index::Height,
    keys::Signature,
    ledger::{BlockHash, LATE_PRECOMMIT_HEIGHTS, LatePrecommit},
    vote::{CommitCertificate, CommitSignature, Vote, VoteKind},
};

/// The precommits for blocks of the running height.
#[derive(Debug, Default)]
pub(super) struct Precommits {
    /// By round and position.
    votes: BTreeMap<(u32, u16), (BlockHash, Signature)>,
    weights: BTreeMap<(u32, BlockHash), u16>,
    quorum: Option<(u32, BlockHash)>,
}

impl Precommits {
    /// Counts a verified precommit of the running height.
    pub(super) fn add(&mut self, committee: &Committee, vote: &Vote, signature: Signature) {
        let (VoteKind::Precommit, Some(block)) = (vote.kind, vote.block) else { return };
        let Some(position) = committee.position(&vote.voter) else { return };
        let place = (vote.round, u16::try_from(position).expect("at most 65,536 members"));
        if self.votes.contains_key(&place) {
            return;
        }
        self.votes.insert(place, (block, signature));
        let weight = self.weights.entry((vote.round, block)).or_default();
        *weight += committee.members()[position].weight();
        if committee.is_quorum(*weight) && self.quorum.is_none() {
            self.quorum = Some((vote.round, block));
        }
    }

    /// The round and block that a quorum precommitted.
    pub(super) fn quorum(&self) -> Option<(u32, BlockHash)> {
        self.quorum
    }

    /// Whether members that cannot all be faulty precommitted `block` in some round.
    pub(super) fn is_backed(&self, committee: &Committee, block: &BlockHash) -> bool {
        let mut weights = self.weights.iter().filter(|((_, voted), _)| voted == block);
        weights.any(|(_, weight)| committee.is_validity(*weight))
    }

    /// The certificate of `block` in `round`, from all precommits known.
    pub(super) fn certificate(
        &self,
        height: Height,
        round: u32,
        block: BlockHash,
    ) -> CommitCertificate {
        let votes = self.votes.range((round, 0)..=(round, u16::MAX));
        let signatures = votes.filter(|(_, (voted, _))| *voted == block);
        let signatures = signatures
            .map(|((_, position), (_, signature))| CommitSignature {
                position: *position,
                signature: *signature,
            })
            .collect();
        CommitCertificate { height, round, block, signatures }
    }

    /// All precommits for `block`, as round, position and signature.
    fn for_block(&self, block: BlockHash) -> impl Iterator<Item = (u32, u16, Signature)> + '_ {
        let votes = self.votes.iter().filter(move |(_, (voted, _))| *voted == block);
        votes.map(|((round, position), (_, signature))| (*round, *position, *signature))
    }
}

/// A decided height.
#[derive(Debug)]
struct Decided {
    height: Height,
    committee: Arc<Committee>,
    block: BlockHash,
    /// By position: round and signature. Those of this node's certificate too: the one that the
    /// next block records may be another.
    known: BTreeMap<u16, (u32, Signature)>,
}

/// Precommits for the blocks of recent heights.
#[derive(Debug, Default)]
pub(super) struct RecentPrecommits {
    heights: VecDeque<Decided>,
}

impl RecentPrecommits {
    /// Starts collecting for a height just decided.
    pub(super) fn decided(
        &mut self,
        committee: Arc<Committee>,
        certificate: &CommitCertificate,
        precommits: &Precommits,
    ) {
        let (height, block) = (certificate.height, certificate.block);
        let mut known = BTreeMap::new();
        for CommitSignature { position, signature } in &certificate.signatures {
            known.insert(*position, (certificate.round, *signature));
        }
        for (round, position, signature) in precommits.for_block(block) {
            known.entry(position).or_insert((round, signature));
        }
        self.heights.push_back(Decided { height, committee, block, known });
        while self.heights.len() as u64 > LATE_PRECOMMIT_HEIGHTS {
            self.heights.pop_front();
        }
    }

    /// Whether a precommit like this is still missing for a recent block.
    pub(super) fn wants(&self, vote: &Vote) -> bool {
        let recent = self.heights.iter().find(|decided| decided.height == vote.height);
        let Some(Decided { committee, block, known, .. }) = recent else { return false };
        let Some(position) = committee.position(&vote.voter) else { return false };
        let is_known = u16::try_from(position).is_ok_and(|position| known.contains_key(&position));
        vote.kind == VoteKind::Precommit
            && vote.block == Some(*block)
            && committee.members()[position].weight() > 0
            && !is_known
    }

    /// Keeps a verified precommit that was wanted.
    pub(super) fn add(&mut self, vote: &Vote, signature: Signature) {
        let decided = self.heights.iter_mut().find(|decided| decided.height == vote.height);
        let Some(decided) = decided else { return };
        let Some(position) = decided.committee.position(&vote.voter) else { return };
        let position = u16::try_from(position).expect("at most 65,536 members");
        decided.known.entry(position).or_insert((vote.round, signature));
    }

    /// Those that are not recorded, by ascending height and position.
    pub(super) fn unrecorded(
        &self,
        is_recorded: impl Fn(Height, u16) -> bool,
    ) -> Vec<LatePrecommit> {
        let mut late = Vec::new();
        for Decided { height, known, .. } in &self.heights {
            for (position, (round, signature)) in known {
                if !is_recorded(*height, *position) {
                    let (height, round, position) = (*height, *round, *position);
                    late.push(LatePrecommit { height, round, position, signature: *signature });
                }
            }
        }
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hash::Hash, test_support};

    #[test]
    fn what_is_kept_after_decisions_is_bounded() {
        let committee = Arc::new(test_support::committee(4, 4));
        let block = BlockHash::new(Hash::new([1; 32]));
        let mut recent = RecentPrecommits::default();
        let vote = |height, member: usize| Vote {
            height: Height::new(height),
            round: 0,
            kind: VoteKind::Precommit,
            block: Some(block),
            voter: committee.members()[member].node,
        };
        for height in 1..=150 {
            let signatures = vec![CommitSignature { position: 1, signature: signature() }];
            let height = Height::new(height);
            let certificate = CommitCertificate { height, round: 0, block, signatures };
            recent.decided(Arc::clone(&committee), &certificate, &Precommits::default());
        }
        assert!(!recent.wants(&vote(50, 0)), "too old");
        assert!(recent.wants(&vote(51, 0)));
        assert!(!recent.wants(&vote(51, 1)), "known from the certificate");
        assert!(!recent.wants(&vote(151, 0)), "not decided");
        assert!(!recent.wants(&Vote { block: None, ..vote(51, 0) }));
        assert!(!recent.wants(&Vote { kind: VoteKind::Prevote, ..vote(51, 0) }));
        recent.add(&vote(51, 0), signature());
        assert!(!recent.wants(&vote(51, 0)));
        assert_eq!(recent.unrecorded(|_, _| false).len(), 101);
        assert_eq!(recent.unrecorded(|_, position| position == 1).len(), 1);
    }

    fn signature() -> Signature {
        Signature::new([0; 64])
    }
}
