//! Questions about the ledger and their answers: transactions in, headers, facts and blocks out.
//!
//! On the wire each is one kind of [`Request`](super::Request) and [`Response`](super::Response):
//! the head states the [`LedgerKind`] and the length of the payload, which is the value in borsh's
//! layout. A node answers these for anyone; what it says is worth what [`light`](crate::light)
//! can verify of it.
//!
//! Invariants: a payload's length is bounded by its kind before it is read; lists are bounded by
//! their count before they are read; a payload of another kind than its head states, and bytes
//! left over, are refused. Deliberately not here: consensus (its own topic and messages), and any
//! check that needs a committee or the state.

mod codec;
mod gossip;
mod request;
mod response;
mod submit;

use serde::{Deserialize, Serialize};

pub use self::{
    gossip::{
        LedgerAnnouncement, LedgerTopic, MAX_HEADER_ANNOUNCEMENT_BYTES,
        MAX_SYSTEM_ANNOUNCEMENT_BYTES, MAX_TRANSACTIONS_ANNOUNCEMENT_BYTES,
    },
    request::{IndexQuery, LedgerRequest},
    response::{CertifiedBlock, Handover, LedgerResponse},
    submit::{RefusedOperation, SubmitError},
};
use crate::{
    ledger::{MAX_BLOCK_BYTES, MAX_SNAPSHOT_CHUNK_BYTES, MAX_TRANSACTION_BYTES},
    light::MAX_CERTIFIED_HEADER_BYTES,
};

/// Most transactions of one [`LedgerRequest::Submit`].
pub const MAX_SUBMITTED_TRANSACTIONS: usize = 64;
/// Longest [`LedgerRequest::Submit`] in bytes.
pub const MAX_SUBMIT_BYTES: usize = 256 << 10;
/// Most keys of one [`LedgerRequest::Facts`].
pub const MAX_FACTS: usize = 64;
/// Longest [`LedgerResponse::Facts`] in bytes: committees among them, and paths as deep as anybody
/// can dig.
pub const MAX_FACTS_BYTES: usize = 1 << 20;
/// Most epochs of one [`LedgerRequest::Handovers`].
pub const MAX_HANDOVERS: usize = 16;
/// Longest [`LedgerResponse::Handovers`] in bytes: full certificates and committees of 256 members.
pub const MAX_HANDOVERS_BYTES: usize = 1 << 20;
/// Most blocks of one [`LedgerResponse::Blocks`].
pub const MAX_BLOCKS: usize = 4096;
/// Longest [`LedgerResponse::Blocks`] in bytes. A block always fits.
pub const MAX_BLOCKS_BYTES: usize = 2 << 20;
/// How long an answer to [`LedgerRequest::Transaction`] may wait, in milliseconds.
pub const MAX_WAIT_MS: u32 = 30_000;
/// Most entries of one [`LedgerResponse::Index`].
pub const MAX_INDEX_ENTRIES: usize = 256;
/// Longest entry of the index in bytes.
pub const MAX_INDEX_ENTRY_BYTES: usize = 128;
/// Longest [`LedgerResponse::Snapshot`] in bytes: the hashes of all chunks, a committee of 256
/// members, and a full certificate.
pub const MAX_SNAPSHOT_BYTES: usize = 1 << 20;

/// Room for tags and lengths around the one big value of an answer.
const FRAME_BYTES: usize = 64;
/// Longest [`LedgerResponse::Block`]: a block with its certificate.
const MAX_CERTIFIED_BLOCK_BYTES: usize = MAX_BLOCK_BYTES + MAX_CERTIFIED_HEADER_BYTES;
/// Longest [`LedgerResponse::Transaction`]: header, transaction and a path of 32 hashes.
const MAX_INCLUSION_BYTES: usize = MAX_CERTIFIED_HEADER_BYTES + MAX_TRANSACTION_BYTES + (2 << 10);

const _: () = assert!(MAX_CERTIFIED_BLOCK_BYTES + FRAME_BYTES <= MAX_BLOCKS_BYTES);

/// What a question, and so its answer, is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LedgerKind {
    /// See [`LedgerRequest::Submit`].
    Submit,
    /// See [`LedgerRequest::SubmitSystem`].
    SubmitSystem,
    /// See [`LedgerRequest::Tip`].
    Tip,
    /// See [`LedgerRequest::Facts`].
    Facts,
    /// See [`LedgerRequest::Handovers`].
    Handovers,
    /// See [`LedgerRequest::Blocks`].
    Blocks,
    /// See [`LedgerRequest::Transaction`].
    Transaction,
    /// See [`LedgerRequest::Index`].
    Index,
    /// See [`LedgerRequest::Block`].
    Block,
    /// See [`LedgerRequest::Snapshot`].
    Snapshot,
    /// See [`LedgerRequest::SnapshotChunk`].
    SnapshotChunk,
    /// See [`LedgerRequest::SignHandover`].
    SignHandover,
}

impl LedgerKind {
    /// A short name for logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::SubmitSystem => "submit_system",
            Self::Tip => "tip",
            Self::Facts => "facts",
            Self::Handovers => "handovers",
            Self::Blocks => "blocks",
            Self::Transaction => "transaction",
            Self::Index => "index",
            Self::Block => "block",
            Self::Snapshot => "snapshot",
            Self::SnapshotChunk => "snapshot_chunk",
            Self::SignHandover => "sign_handover",
        }
    }

    /// The longest payload of such a question.
    #[must_use]
    pub const fn max_request_bytes(self) -> usize {
        match self {
            Self::Submit => MAX_SUBMIT_BYTES,
            Self::SubmitSystem => 2 << 10,
            Self::Facts => 16 << 10,
            Self::Index => 256,
            Self::Tip
            | Self::Handovers
            | Self::Blocks
            | Self::Transaction
            | Self::Block
            | Self::Snapshot
            | Self::SnapshotChunk
            | Self::SignHandover => 64,
        }
    }

    /// The longest payload of such an answer.
    #[must_use]
    pub const fn max_response_bytes(self) -> usize {
        match self {
            Self::Submit => 8 << 10,
            Self::SubmitSystem => 64,
            Self::Tip => MAX_CERTIFIED_HEADER_BYTES + FRAME_BYTES,
            Self::Facts => MAX_FACTS_BYTES,
            Self::Handovers => MAX_HANDOVERS_BYTES,
            Self::Blocks => MAX_BLOCKS_BYTES,
            Self::Transaction => MAX_INCLUSION_BYTES + FRAME_BYTES,
            Self::Index => MAX_INDEX_ENTRIES * (MAX_INDEX_ENTRY_BYTES + 4) + FRAME_BYTES,
            Self::Block => MAX_CERTIFIED_BLOCK_BYTES + FRAME_BYTES,
            Self::Snapshot => MAX_SNAPSHOT_BYTES,
            Self::SnapshotChunk => MAX_SNAPSHOT_CHUNK_BYTES + FRAME_BYTES,
            Self::SignHandover => 128,
        }
    }
}
