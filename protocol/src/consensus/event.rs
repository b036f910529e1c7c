//! What goes into a replica and what comes out.

use std::sync::Arc;

use super::{journal::JournalEntry, message::ConsensusMessage};
use crate::{
    committee::Committee,
    index::Height,
    ledger::{Block, BlockHash, Timestamp},
    vote::{CommitCertificate, Equivocation},
};

/// How a height begins.
#[derive(Clone, Debug)]
pub struct Start {
    /// The height, above every one that this replica has begun.
    pub height: Height,
    /// Its committee.
    pub committee: Arc<Committee>,
    /// The committee of the next height, should this one be the last of its epoch; none before it
    /// is selected. Its members' messages are kept, too, when they come early.
    pub next: Option<Arc<Committee>>,
    /// The time of the block before.
    pub parent_time: Timestamp,
    /// The journal's entries of this height, in order; none unless the replica was restarted.
    pub journal: Vec<JournalEntry>,
    /// Neither propose nor vote at this height, only follow: the vote journal is lost.
    pub abstain: bool,
}

/// What a replica is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// Begin a height.
    Start(Start),
    /// A message from gossip. Answered with exactly one [`Output::Verdict`].
    Message(ConsensusMessage),
    /// The answer to [`Output::Propose`].
    Proposed {
        /// The round asked for.
        round: u32,
        /// The block, made by this node in that round.
        block: Box<Block>,
    },
    /// The answer to [`Output::Execute`].
    Executed {
        /// The block.
        block: BlockHash,
        /// What came of it. Time, round and proposer are the replica's business.
        validity: Validity,
    },
    /// A block and its commit certificate from block sync. Answered with exactly one
    /// [`Output::Verdict`].
    Synced {
        /// The block.
        block: Box<Block>,
        /// Its certificate.
        certificate: CommitCertificate,
    },
    /// The deadline has come.
    Tick,
}

/// Whether a block's body does what its header says, against the state after its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// It does.
    Valid,
    /// It does not, on any correct node.
    Invalid,
}

/// What becomes of a message or synced block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Taken: forward it.
    Forward,
    /// Of no use now, and nobody's fault: do not forward it.
    Ignore,
    /// The sender's fault: no correct node sends or forwards it.
    Reject,
}

/// What a replica wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Append to the vote journal.
    Journal(JournalEntry),
    /// Everything in the vote journal must be durable before any later output is acted on.
    Flush,
    /// Gossip.
    Broadcast(ConsensusMessage),
    /// What becomes of the message or synced block just handled.
    Verdict(Verdict),
    /// Build a block now; answer with [`Input::Proposed`].
    Propose {
        /// The height.
        height: Height,
        /// The round, for the block's header.
        round: u32,
    },
    /// Judge the body against the state; answer with [`Input::Executed`].
    Execute {
        /// The block.
        block: Arc<Block>,
    },
    /// Decided, and final: commit it durably, then send [`Input::Start`] for the next height.
    Commit {
        /// The block.
        block: Arc<Block>,
        /// The precommits that make it final.
        certificate: CommitCertificate,
        /// Who was seen voting twice since the last commit: to be reported on the ledger.
        equivocations: Vec<Equivocation>,
    },
    /// A quorum decided a block whose body has not come: ask block sync for it.
    Missing {
        /// The height.
        height: Height,
        /// The block.
        block: BlockHash,
    },
    /// This height is decided and others have begun the next one.
    NextHeight,
}
