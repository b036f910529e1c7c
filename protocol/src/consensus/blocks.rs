//! The proposals and blocks of the running height, from the first header to the verdict.
//!
//! A proposal brings a header and the promise of a body; parts fill it; the driver executes it;
//! the core is told. Several proposals may carry one block (it keeps its header when another member
//! proposes it again), so blocks are kept by hash.
//!
//! Invariants: two proposals a round, from the round's proposer; bodies only while few: the oldest
//! that nobody can be locked on goes first.

use std::{collections::BTreeMap, sync::Arc};

use super::{body::Assembly, event::Validity, message::SignedProposal};
use crate::{
    keys::NodeId,
    ledger::{Block, BlockHash, Header},
};

/// Distinct proposals of one round: an honest proposer makes one, a second proves the fault.
const MAX_PER_ROUND: usize = 2;

/// Bodies kept at once, apart from those that somebody may be locked on.
const MAX_BODIES: usize = 8;

/// A proposal that has been authenticated.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) signed: SignedProposal,
    pub(super) block: BlockHash,
    /// Its parts do not make the body that its header binds.
    pub(super) spoiled: bool,
    /// The parts so far, while the body is unknown.
    pub(super) assembly: Option<Assembly>,
}

/// A block that was proposed or synced.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) header: Header,
    /// The first round in which it was proposed here.
    pub(super) round: u32,
    /// The whole block, once its body is known.
    pub(super) block: Option<Arc<Block>>,
    pub(super) validity: Option<Validity>,
    /// Whether its time was near the wall clock's when its header came.
    pub(super) in_time: bool,
    /// Whether the core was told.
    pub(super) told: bool,
}

/// Proposals by round, blocks by hash.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    offers: BTreeMap<u32, Vec<Offer>>,
    candidates: BTreeMap<BlockHash, Candidate>,
}

impl Blocks {
    pub(super) fn get(&self, hash: &BlockHash) -> Option<&Candidate> {
        self.candidates.get(hash)
    }

    pub(super) fn get_mut(&mut self, hash: &BlockHash) -> Option<&mut Candidate> {
        self.candidates.get_mut(hash)
    }

    pub(super) fn candidates(&self) -> impl Iterator<Item = (&BlockHash, &Candidate)> {
        self.candidates.iter()
    }

    /// The block, made known with its header at least.
    pub(super) fn entry(
        &mut self,
        hash: BlockHash,
        header: Header,
        round: u32,
        in_time: bool,
    ) -> &mut Candidate {
        self.candidates.entry(hash).or_insert(Candidate {
            header,
            round,
            block: None,
            validity: None,
            in_time,
            told: false,
        })
    }

    /// The whole block, if its body is known.
    pub(super) fn body(&self, hash: &BlockHash) -> Option<&Arc<Block>> {
        self.candidates.get(hash)?.block.as_ref()
    }

    /// The proposals of a round.
    pub(super) fn offers(&self, round: u32) -> &[Offer] {
        self.offers.get(&round).map_or(&[], Vec::as_slice)
    }

    pub(super) fn offers_mut(&mut self, round: u32) -> &mut [Offer] {
        self.offers.get_mut(&round).map_or(&mut [], Vec::as_mut_slice)
    }

    /// The proposal of `hash` in `round`.
    pub(super) fn offer(&self, round: u32, hash: &BlockHash) -> Option<&SignedProposal> {
        let offer = self.offers(round).iter().find(|offer| offer.block == *hash)?;
        Some(&offer.signed)
    }

    /// What `node` proposed in `round`.
    pub(super) fn offer_by(&self, round: u32, node: &NodeId) -> Option<&SignedProposal> {
        let mut offers = self.offers(round).iter();
        let offer = offers.find(|offer| offer.signed.proposal.proposer == *node)?;
        Some(&offer.signed)
    }

    /// Whether another proposal of this round would be kept.
    pub(super) fn has_room(&self, round: u32) -> bool {
        self.offers(round).len() < MAX_PER_ROUND
    }

    /// Keeps an authenticated proposal.
    pub(super) fn offer_add(&mut self, signed: SignedProposal, block: BlockHash) {
        let offer = Offer { signed, block, spoiled: false, assembly: None };
        self.offers.entry(signed.proposal.round).or_default().push(offer);
    }

    /// Forgets unfinished bodies of rounds before `round`.
    pub(super) fn forget_parts(&mut self, round: u32) {
        for (_, offers) in self.offers.range_mut(..round) {
            for offer in offers {
                offer.assembly = None;
            }
        }
    }

    /// Forgets the oldest bodies above the limit, except those to be `kept`.
    pub(super) fn forget_bodies(&mut self, kept: impl Fn(&BlockHash) -> bool) {
        let full = self.candidates.iter().filter(|(_, candidate)| candidate.block.is_some());
        let mut full: Vec<_> = full.map(|(hash, candidate)| (candidate.round, *hash)).collect();
        full.sort_unstable();
        let surplus = full.len().saturating_sub(MAX_BODIES);
        let old = full.iter().map(|(_, hash)| hash).filter(|hash| !kept(hash)).take(surplus);
        for hash in old {
            if let Some(candidate) = self.candidates.get_mut(hash) {
                candidate.block = None;
            }
        }
    }
}
