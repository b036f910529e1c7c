//! The vote journal: what a replica must still know after a crash.
//!
//! A replica that comes back at the height where it fell is fed its entries again, in order, and
//! stands where it stood: it knows what it has proposed and voted, what it is locked on and the
//! bodies for that. Own signatures are never made twice for one place, so an entry's loss before
//! the last flush costs nothing: what was not flushed was not sent.
//!
//! Invariants: the layout is borsh's; entries belong to one height; whoever keeps the journal may
//! cut its tail behind the last flush, nothing else.

use borsh::{BorshDeserialize, BorshSerialize};

use super::{certificate::PolkaCertificate, message::SignedProposal};
use crate::{
    ledger::{Block, BlockHash, MAX_BLOCK_BYTES},
    vote::SignedVote,
};

/// Longest entry in bytes: a block and its judgement.
pub const MAX_ENTRY_BYTES: usize = MAX_BLOCK_BYTES + 1024;

/// The step whose timeout has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Step {
    /// Waiting for a proposal.
    Propose,
    /// Waiting for prevotes.
    Prevote,
    /// Waiting for precommits.
    Precommit,
}

/// An entry of the vote journal.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum JournalEntry {
    /// A vote, own or received.
    Vote(SignedVote),
    /// A proposal, own or received.
    Proposal(Box<SignedProposal>),
    /// A block whose execution succeeded, own or received.
    Block {
        /// The block.
        block: Box<Block>,
        /// Whether its time was acceptable when it came.
        in_time: bool,
    },
    /// A judgement that the core was told.
    Value {
        /// The block.
        block: BlockHash,
        /// The round in which it was proposed.
        round: u32,
        /// Whether it may be decided.
        valid: bool,
    },
    /// A timeout that passed.
    Timeout {
        /// The step.
        step: Step,
        /// The round.
        round: u32,
    },
    /// A polka certificate received.
    Polka(PolkaCertificate),
}

/// Bytes that are no journal entry.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error("malformed journal entry")]
pub struct MalformedEntry;

impl JournalEntry {
    /// The bytes of the layout.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        borsh::to_vec(self).expect("writing to memory")
    }

    /// Parses the layout strictly.
    ///
    /// # Errors
    /// [`MalformedEntry`] if it is none or too long.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MalformedEntry> {
        if bytes.len() > MAX_ENTRY_BYTES {
            return Err(MalformedEntry);
        }
        borsh::from_slice(bytes).map_err(|_| MalformedEntry)
    }
}
