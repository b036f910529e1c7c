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
    /// Positions in the certificate.
    certified: Vec<u16>,
    /// By position: round and signature.
    late: BTreeMap<u16, (u32, Signature)>,
}

/// Precommits for recent blocks that their certificates do not hold.
#[derive(Debug, Default)]
pub(super) struct LatePrecommits {
    heights: VecDeque<Decided>,
}

impl LatePrecommits {
    /// Starts collecting for a height just decided.
    pub(super) fn decided(
        &mut self,
        committee: Arc<Committee>,
        certificate: &CommitCertificate,
        precommits: &Precommits,
    ) {
        let (height, block) = (certificate.height, certificate.block);
        let certified: Vec<_> = certificate.signatures.iter().map(|s| s.position).collect();
        let mut late = BTreeMap::new();
        for (round, position, signature) in precommits.for_block(block) {
            if !certified.contains(&position) {
                late.entry(position).or_insert((round, signature));
            }
        }
        self.heights.push_back(Decided { height, committee, block, certified, late });
        while self.heights.len() as u64 > LATE_PRECOMMIT_HEIGHTS {
            self.heights.pop_front();
        }
    }

    /// The committee of a recent height, if a precommit like this is still missing there.
    pub(super) fn wants(&self, vote: &Vote) -> Option<&Arc<Committee>> {
        let decided = self.heights.iter().find(|decided| decided.height == vote.height)?;
        let position = decided.committee.position(&vote.voter)?;
        let shards = decided.committee.members()[position].weight();
        let position = u16::try_from(position).ok()?;
        let known = decided.certified.contains(&position) || decided.late.contains_key(&position);
        let fits = vote.kind == VoteKind::Precommit && vote.block == Some(decided.block);
        (fits && shards > 0 && !known).then_some(&decided.committee)
    }

    /// Keeps a verified precommit that was wanted.
    pub(super) fn add(&mut self, vote: &Vote, signature: Signature) {
        let decided = self.heights.iter_mut().find(|decided| decided.height == vote.height);
        let Some(decided) = decided else { return };
        let Some(position) = decided.committee.position(&vote.voter) else { return };
        let position = u16::try_from(position).expect("at most 65,536 members");
        decided.late.entry(position).or_insert((vote.round, signature));
    }

    /// All of them, by ascending height and position.
    pub(super) fn all(&self) -> Vec<LatePrecommit> {
        let mut all = Vec::new();
        for Decided { height, late, .. } in &self.heights {
            all.extend(late.iter().map(|(position, (round, signature))| LatePrecommit {
                height: *height,
                round: *round,
                position: *position,
                signature: *signature,
            }));
        }
        all
    }
}
