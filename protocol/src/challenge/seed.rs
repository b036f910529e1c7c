//! Seeds: where each node's chain begins.

use crate::{
    hash::{Domain, Hash},
    index::{ChallengeRound, Height},
    keys::NodeId,
    ledger::Header,
};

/// The seeds of a round: of each node the first beacon at or after the opening that it did not sign
/// itself. So there are two at most: that of the opening block, and for its proposer the next one
/// of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seeds {
    next: Height,
    opening: Option<(NodeId, Hash)>,
    other: Option<Hash>,
}

impl Seeds {
    /// No block is known yet.
    #[must_use]
    pub const fn new(round: ChallengeRound) -> Self {
        Self { next: Height::new(round.get()), opening: None, other: None }
    }

    /// A block was committed. Blocks come in the order of their heights; others change nothing.
    pub fn committed(&mut self, header: &Header) {
        if header.height != self.next {
            return;
        }
        self.next = header.height.next();
        match self.opening {
            None => self.opening = Some((header.proposer, header.beacon)),
            Some((proposer, _)) if self.other.is_none() && header.proposer != proposer => {
                self.other = Some(header.beacon);
            }
            Some(_) => {}
        }
    }

    /// The seed of `node`, once it is known.
    #[must_use]
    pub fn of(&self, node: &NodeId) -> Option<Hash> {
        match self.opening? {
            (proposer, _) if proposer == *node => self.other,
            (_, beacon) => Some(beacon),
        }
    }
}

/// Where the chain of `node` begins: keyed hash of seed and node.
#[must_use]
pub fn chain_start(seed: &Hash, node: &NodeId) -> Hash {
    Domain::ChallengeStart.hash(&[seed.as_bytes(), node.as_bytes()])
}
