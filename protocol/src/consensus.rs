//! Consensus: how the committee agrees on one block after the other.
//!
//! A [`Replica`] takes part in Tendermint, as Malachite's core has it: in each round of a height a
//! member proposes a block, members prevote it, then precommit it, and a quorum of precommits
//! decides. It is a pure machine. The driver feeds it what came from gossip, block sync and the
//! clocks, and acts on what it wants, in the order given: append to the vote journal, make it
//! durable, send, build a block, judge one, commit one.
//!
//! ```text
//!  Start ──► Replica ──► Propose ──► Proposed ──► Journal, Flush, Broadcast
//!  Message ─►   │   ──► Execute ──► Executed ──► votes ──► Commit ──► Start of the next height
//!  Tick ────►   │   ──► Verdict: forward, ignore or reject the message
//! ```
//!
//! Invariants: no two votes of this node for one place, whatever crashes between them, as long as
//! its journal is kept; nothing is sent before what it rests on is durable; nothing enters the core
//! but what the right member signed; a decided block's body is at hand; memory is bounded whatever
//! peers send; a fault stops the replica for good. Only the files under this module name Malachite.
//!
//! Not here: reading and building bodies ([`ledger`]), sockets, files, clocks, the pace of blocks.
//!
//! [`ledger`]: crate::ledger

mod admission;
mod blocks;
mod body;
mod buffer;
mod certificate;
mod config;
mod context;
mod error;
mod event;
mod host;
mod journal;
mod message;
mod precommits;
mod replica;
#[cfg(test)]
mod tests;
mod validators;

pub use self::{
    body::{MAX_PARTS, PART_BYTES},
    certificate::{
        BundleError, PolkaCertificate, RoundCertificate, RoundCertificateKind, RoundVote,
    },
    config::{Config, Now, Timeouts},
    error::{CoreFault, Fault},
    event::{Input, Output, Start, Validity, Verdict},
    journal::{JournalEntry, MAX_ENTRY_BYTES, MalformedEntry, Step},
    message::{
        BodyPart, ConsensusMessage, MAX_MESSAGE_BYTES, MalformedMessage, Proposal, SignedProposal,
    },
    replica::Replica,
    validators::proposer,
};
