//! Messages that came a little early: for the next height, or parts before their proposal.
//!
//! Invariants: votes and proposals are kept only after their signature and membership have been
//! checked, a few votes and one proposal per member; parts cannot be checked yet, so only few are
//! kept at all, and the oldest goes first.

use std::collections::{BTreeMap, VecDeque};

use super::message::{BodyPart, ConsensusMessage, SignedProposal};
use crate::{index::Height, keys::NodeId, vote::SignedVote};

/// Votes kept per member.
const MAX_VOTES_PER_MEMBER: usize = 8;
/// Parts kept: a little more than a body.
const MAX_PARTS_KEPT: usize = 32;

/// What came early.
#[derive(Debug, Default)]
pub(super) struct EarlyMessages {
    votes: BTreeMap<NodeId, Vec<SignedVote>>,
    /// By proposer: whose turn it is cannot be judged yet, and nobody may take another's place.
    proposals: BTreeMap<NodeId, SignedProposal>,
    parts: VecDeque<BodyPart>,
}

impl EarlyMessages {
    /// Whether a vote like this would be kept.
    pub(super) fn wants_vote(&self, vote: &SignedVote) -> bool {
        let kept = self.votes.get(&vote.vote.voter).map_or(&[][..], Vec::as_slice);
        kept.len() < MAX_VOTES_PER_MEMBER && kept.iter().all(|kept| kept.vote != vote.vote)
    }

    /// Keeps a wanted vote, verified, of a member.
    pub(super) fn add_vote(&mut self, vote: SignedVote) {
        self.votes.entry(vote.vote.voter).or_default().push(vote);
    }

    /// Whether a proposal like this would be kept: its proposer's first, or one of a later round.
    pub(super) fn wants_proposal(&self, signed: &SignedProposal) -> bool {
        let kept = self.proposals.get(&signed.proposal.proposer);
        kept.is_none_or(|kept| kept.proposal.round < signed.proposal.round)
    }

    /// Keeps a wanted proposal, verified, of a member.
    pub(super) fn add_proposal(&mut self, signed: SignedProposal) {
        self.proposals.insert(signed.proposal.proposer, signed);
    }

    /// Whether a member has sent something of this height.
    pub(super) fn has_begun(&self, height: Height) -> bool {
        let mut votes = self.votes.values().flatten();
        votes.any(|signed| signed.vote.height == height)
            || self.proposals.values().any(|signed| signed.proposal.header.height == height)
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
        let votes = std::mem::take(&mut self.votes).into_values().flatten();
        let proposals = std::mem::take(&mut self.proposals).into_values();
        let proposals = proposals.map(|signed| ConsensusMessage::Proposal(Box::new(signed)));
        let messages = proposals.chain(votes.map(ConsensusMessage::Vote));
        messages.filter(|message| message.height() == height).collect()
    }

    /// Messages kept, of all kinds.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.votes.values().map(Vec::len).sum::<usize>() + self.proposals.len() + self.parts.len()
    }
}
