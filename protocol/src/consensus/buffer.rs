//! Messages that came a little early: for one of the next heights, or parts before their proposal.
//!
//! Whoever catches up is late by a round trip, in which others go on by several heights: only with
//! what they say of those meanwhile does it ever vote with them again.
//!
//! Invariants: votes and proposals are kept only after their signature and membership have been
//! checked, of each height a few votes and one proposal per member; parts cannot be checked yet, so
//! only few are kept at all, and the oldest goes first.

use std::collections::{BTreeMap, VecDeque};

use super::{
    message::{BodyPart, ConsensusMessage, SignedProposal},
    validators::Validators,
};
use crate::{index::Height, keys::NodeId, vote::SignedVote};

/// Votes kept per height and member.
const MAX_VOTES_PER_MEMBER: usize = 8;
/// Parts kept: those of the longest bodies of two heights, of usual ones of all.
const MAX_PARTS_KEPT: usize = 64;

/// What came early.
#[derive(Debug, Default)]
pub(super) struct EarlyMessages {
    votes: BTreeMap<(Height, NodeId), Vec<SignedVote>>,
    /// By proposer: whose turn it is cannot be judged yet, and nobody may take another's place.
    proposals: BTreeMap<(Height, NodeId), SignedProposal>,
    parts: VecDeque<BodyPart>,
}

impl EarlyMessages {
    /// Whether a vote like this would be kept.
    pub(super) fn wants_vote(&self, vote: &SignedVote) -> bool {
        let place = (vote.vote.height, vote.vote.voter);
        let kept = self.votes.get(&place).map_or(&[][..], Vec::as_slice);
        kept.len() < MAX_VOTES_PER_MEMBER && kept.iter().all(|kept| kept.vote != vote.vote)
    }

    /// Keeps a wanted vote, verified, of a member.
    pub(super) fn add_vote(&mut self, vote: SignedVote) {
        self.votes.entry((vote.vote.height, vote.vote.voter)).or_default().push(vote);
    }

    /// Whether a proposal like this would be kept: its proposer's first, or one of a later round.
    pub(super) fn wants_proposal(&self, signed: &SignedProposal) -> bool {
        let kept = self.proposals.get(&place_of(signed));
        kept.is_none_or(|kept| kept.proposal.round < signed.proposal.round)
    }

    /// Keeps a wanted proposal, verified, of a member.
    pub(super) fn add_proposal(&mut self, signed: SignedProposal) {
        self.proposals.insert(place_of(&signed), signed);
    }

    /// Whether a member has sent something of this height.
    pub(super) fn has_begun(&self, height: Height) -> bool {
        self.votes.keys().chain(self.proposals.keys()).any(|(begun, _)| *begun == height)
    }

    /// The highest height at which, or behind which, voters of `voters` with more than a third of the
    /// weight have voted: one of them at least is honest.
    pub(super) fn voted_at(&self, voters: &Validators) -> Option<Height> {
        // Keys ascend by height: of each voter the highest remains.
        let highest = self.votes.keys().map(|(height, voter)| (*voter, *height));
        let highest: BTreeMap<NodeId, Height> = highest.collect();
        let mut heights: Vec<_> = highest
            .iter()
            .filter_map(|(voter, height)| Some((*height, voters.get(voter)?.weight)))
            .collect();
        heights.sort_unstable_by_key(|(height, _)| std::cmp::Reverse(*height));
        let mut weight = 0_u64;
        let reached = heights.into_iter().find(|(_, more)| {
            weight += more;
            weight > voters.faulty_max()
        });
        reached.map(|(height, _)| height)
    }

    /// Keeps a part, unverified.
    pub(super) fn add_part(&mut self, part: BodyPart) {
        if self.parts.contains(&part) {
            return;
        }
        self.parts.push_back(part);
        if self.parts.len() > MAX_PARTS_KEPT {
            self.parts.pop_front();
        }
    }

    /// Takes the parts of a proposal that has come now.
    pub(super) fn take_parts(&mut self, height: Height, round: u32) -> Vec<BodyPart> {
        let parts = std::mem::take(&mut self.parts).into_iter();
        let (ready, rest): (Vec<_>, Vec<_>) =
            parts.partition(|part| (part.height, part.round) == (height, round));
        self.parts = rest.into();
        ready
    }

    /// Takes the votes and proposals for a height that begins; forgets what is older.
    pub(super) fn take(&mut self, height: Height) -> Vec<ConsensusMessage> {
        self.parts.retain(|part| part.height >= height);
        self.votes.retain(|(of, _), _| *of >= height);
        self.proposals.retain(|(of, _), _| *of >= height);
        let proposals = self.proposals.extract_if(.., |(of, _), _| *of == height);
        let proposals = proposals.map(|(_, signed)| ConsensusMessage::Proposal(Box::new(signed)));
        let votes = self.votes.extract_if(.., |(of, _), _| *of == height);
        let votes = votes.flat_map(|(_, votes)| votes).map(ConsensusMessage::Vote);
        proposals.chain(votes).collect()
    }

    /// Messages kept, of all kinds.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.votes.values().map(Vec::len).sum::<usize>() + self.proposals.len() + self.parts.len()
    }
}

fn place_of(signed: &SignedProposal) -> (Height, NodeId) {
    (signed.proposal.header.height, signed.proposal.proposer)
}
