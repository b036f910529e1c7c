//! The voters of one height and the order in which they propose.
//!
//! Members of the committee that hold shards vote, with their shards as weight. The proposers of a
//! height are drawn by weight without putting anybody back, so a dead member costs a height at
//! most one round; the draw depends on chain, height and committee alone. From the round on in
//! which everybody had a turn, the order repeats.

use std::{collections::BTreeMap, sync::Arc};

use super::message::Proposal;
use crate::{
    committee::Committee,
    hash::Domain,
    index::Height,
    keys::{ChainId, NodeId},
};

/// One voter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Validator {
    pub(super) node: NodeId,
    pub(super) weight: u64,
}

/// The voters of one height.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Validators(Arc<Inner>);

#[derive(Debug, PartialEq, Eq)]
struct Inner {
    /// By weight descending, then node id.
    validators: Vec<Validator>,
    by_node: BTreeMap<NodeId, usize>,
    total: u64,
    /// Positions in `validators`, by round.
    proposers: Vec<usize>,
}

impl Validators {
    pub(super) fn new(chain: &ChainId, height: Height, committee: &Committee) -> Self {
        let members = committee.members().iter().filter(|member| member.weight() > 0);
        let mut validators: Vec<_> = members
            .map(|member| Validator { node: member.node, weight: member.weight().into() })
            .collect();
        validators.sort_by_key(|validator| (std::cmp::Reverse(validator.weight), validator.node));
        let by_node = validators.iter().enumerate().map(|(i, v)| (v.node, i)).collect();
        let total = validators.iter().map(|validator| validator.weight).sum();
        let proposers = draw(chain, height, &validators);
        Self(Arc::new(Inner { validators, by_node, total, proposers }))
    }

    pub(super) fn all(&self) -> &[Validator] {
        &self.0.validators
    }

    pub(super) fn get(&self, node: &NodeId) -> Option<&Validator> {
        self.0.by_node.get(node).map(|position| &self.0.validators[*position])
    }

    pub(super) fn total(&self) -> u64 {
        self.0.total
    }

    /// The weight that faulty voters have at most.
    pub(super) fn faulty_max(&self) -> u64 {
        self.0.total.saturating_sub(1) / 3
    }

    /// Who proposes in `round`.
    pub(super) fn proposer(&self, round: u32) -> &Validator {
        self.turn(&self.0.proposers, round)
    }

    /// Whose turn `round` is in an order.
    fn turn(&self, proposers: &[usize], round: u32) -> &Validator {
        let turns = u32::try_from(proposers.len()).expect("at most one per shard");
        let turn = usize::try_from(round % turns).expect("below the number of voters");
        &self.0.validators[proposers[turn]]
    }

    /// Whether it is the proposer's turn, and was the turn of whoever made the block.
    pub(super) fn is_due(&self, proposal: &Proposal) -> bool {
        self.fits(&self.0.proposers, proposal)
    }

    /// The same at another height, if these are its voters, too.
    pub(super) fn is_due_later(&self, chain: &ChainId, proposal: &Proposal) -> bool {
        // First, since the draw is work.
        let is_voter = self.get(&proposal.proposer).is_some();
        is_voter && self.fits(&draw(chain, proposal.header.height, &self.0.validators), proposal)
    }

    fn fits(&self, proposers: &[usize], proposal: &Proposal) -> bool {
        let turn = |round| self.turn(proposers, round).node;
        let Proposal { round, proposer, header, .. } = proposal;
        turn(*round) == *proposer && turn(header.round) == header.proposer
    }
}

/// Who proposes in `round` of `height`.
#[must_use]
pub fn proposer(chain: &ChainId, height: Height, round: u32, committee: &Committee) -> NodeId {
    Validators::new(chain, height, committee).proposer(round).node
}

/// The order of a height's proposers.
fn draw(chain: &ChainId, height: Height, validators: &[Validator]) -> Vec<usize> {
    let mut left: Vec<_> = (0..validators.len()).collect();
    let mut weight: u64 = validators.iter().map(|validator| validator.weight).sum();
    let mut order = Vec::with_capacity(left.len());
    let mut turn = 0_u32;
    while weight > 0 {
        let (height, number) = (height.get().to_le_bytes(), turn.to_le_bytes());
        let hash = Domain::ProposerDraw.hash(&[chain.as_bytes(), &height, &number]);
        let bytes = *hash.as_bytes().first_chunk().expect("32 bytes");
        // The bias is below 2^-55: all weights together are at most 256.
        let mut ticket = u64::from_le_bytes(bytes) % weight;
        let mut position = 0;
        while ticket >= validators[left[position]].weight {
            ticket -= validators[left[position]].weight;
            position += 1;
        }
        let drawn = left.remove(position);
        weight -= validators[drawn].weight;
        order.push(drawn);
        turn += 1;
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hash::Hash, test_support};

    fn chain() -> ChainId {
        ChainId::new(Hash::new([7; 32]))
    }

    #[test]
    fn nobody_proposes_twice_in_a_height_before_all_had_a_turn() {
        let committee = test_support::committee(7, 28);
        for height in (1..=200).map(Height::new) {
            let validators = Validators::new(&chain(), height, &committee);
            let turn = |round| validators.proposer(round).node;
            let mut first: Vec<_> = (0..7).map(turn).collect();
            assert!((7..14).map(turn).eq(first.iter().copied()), "then the order repeats");
            first.sort_unstable();
            assert!(first.iter().eq(committee.members().iter().map(|member| &member.node)));
        }
    }

    #[test]
    fn the_first_turn_goes_by_weight() {
        let mut genesis = test_support::genesis(5, 16);
        for (stake_wal, member) in [9, 7, 5, 3, 2].into_iter().zip(&mut genesis.members) {
            member.stake_wal = stake_wal;
        }
        let committee = genesis.committee().unwrap();
        let mut turns = BTreeMap::<_, u64>::new();
        let heights = 4_000;
        for height in (1..=heights).map(Height::new) {
            *turns.entry(proposer(&chain(), height, 0, &committee)).or_default() += 1;
        }
        for member in committee.members() {
            let due = heights * u64::from(member.weight()) / 16;
            let had = turns[&member.node];
            assert!(had.abs_diff(due) < due / 3, "{had} turns, {due} expected");
        }
    }

    #[test]
    fn members_without_shards_have_no_vote_and_no_turn() {
        let mut genesis = test_support::genesis(6, 4);
        genesis.members[5].stake_wal = 1;
        let committee = genesis.committee().unwrap();
        let idle: Vec<_> = committee.members().iter().filter(|m| m.weight() == 0).collect();
        assert!(!idle.is_empty());
        let validators = Validators::new(&chain(), Height::new(1), &committee);
        assert_eq!(validators.total(), 4);
        assert_eq!(validators.all().len() + idle.len(), 6);
        for member in idle {
            assert!(validators.get(&member.node).is_none());
            assert!((0..6).all(|round| validators.proposer(round).node != member.node));
        }
    }
}
