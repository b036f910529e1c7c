//! Seeds: where each node's chain begins.
//!
//! The opening block gives no seed. Its proposer knows its beacon before anybody else and has some
//! say in when a round opens, so it could open one that suits it. Whoever signs the beacon that
//! follows finds the round open, and can but let its turn pass.
//!
//! Invariants: nobody's seed is a beacon that it signed itself; a seed that is known stays.

use crate::{
    hash::{Domain, Hash},
    index::{ChallengeRound, Height},
    keys::NodeId,
    ledger::Header,
};

/// The seeds of a round: of each node the first beacon after the opening block's that it did not
/// sign itself. So there are two at most: that of the next block, and for the proposer of that the
/// next one of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seeds {
    next: Height,
    first: Option<(NodeId, Hash)>,
    other: Option<Hash>,
}

impl Seeds {
    /// No block after the opening one is known yet.
    #[must_use]
    pub const fn new(round: ChallengeRound) -> Self {
        Self { next: Height::new(round.get()).next(), first: None, other: None }
    }

    /// A block was committed. Blocks come in the order of their heights; others, and those up to
    /// the opening one, change nothing.
    pub fn committed(&mut self, header: &Header) {
        if header.height != self.next {
            return;
        }
        self.next = header.height.next();
        match self.first {
            None => self.first = Some((header.proposer, header.beacon)),
            Some((proposer, _)) if self.other.is_none() && header.proposer != proposer => {
                self.other = Some(header.beacon);
            }
            Some(_) => {}
        }
    }

    /// The seed of `node`, once it is known.
    #[must_use]
    pub fn of(&self, node: &NodeId) -> Option<Hash> {
        match self.first? {
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
