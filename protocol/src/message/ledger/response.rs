//! What a node answers about the ledger. Nothing of it is verified here.

use borsh::{BorshDeserialize, BorshSerialize};

use super::{
    LedgerKind, MAX_BLOCKS, MAX_FACTS, MAX_HANDOVERS, MAX_INDEX_ENTRIES, MAX_INDEX_ENTRY_BYTES,
    MAX_SUBMITTED_TRANSACTIONS, SubmitError,
    codec::{self, list},
};
use crate::{
    keys::BlsSignature,
    ledger::{
        MAX_BLOCK_BYTES, MAX_SNAPSHOT_CHUNK_BYTES, MAX_SNAPSHOT_CHUNKS, SnapshotOffer, StateProof,
        TransactionId,
    },
    light::{CertifiedHeader, FinalHeader, Inclusion},
    message::MessageError,
    vote::CommitCertificate,
};

/// An answer about the ledger, decoded and within limits, not yet verified.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum LedgerResponse {
    /// What became of each transaction, in the order of the request. One that was taken is
    /// waiting: only an [`Inclusion`] shows that it was committed.
    Submitted {
        /// Its id, or why it was not taken.
        #[borsh(deserialize_with = "list::<_, _, MAX_SUBMITTED_TRANSACTIONS>")]
        results: Vec<Result<TransactionId, SubmitError>>,
    },
    /// What became of the system operation.
    SystemSubmitted(Result<(), SubmitError>),
    /// The newest header; none before the first block.
    Tip(Option<CertifiedHeader>),
    /// What the state holds.
    Facts {
        /// The header that it is proven by; none before the first block, where the genesis
        /// proves it.
        header: Option<CertifiedHeader>,
        /// One proof per key, in the order of the request.
        #[borsh(deserialize_with = "list::<_, _, MAX_FACTS>")]
        proofs: Vec<StateProof>,
    },
    /// The ends of successive epochs, the first one asked for first.
    Handovers {
        /// As many as there are, and fit.
        #[borsh(deserialize_with = "list::<_, _, MAX_HANDOVERS>")]
        handovers: Vec<Handover>,
    },
    /// Consecutive blocks, the first one asked for first.
    Blocks {
        /// As many as there are, and fit.
        #[borsh(deserialize_with = "list::<_, _, MAX_BLOCKS>")]
        blocks: Vec<CertifiedBlock>,
    },
    /// Where the transaction stands; none if it was not committed in time.
    Transaction(Option<Inclusion>),
    /// Entries of the index, in order. Derived and unproven: whoever needs certainty asks for the
    /// facts.
    Index {
        /// Each an [`IndexEntry`](crate::ledger::IndexEntry)'s bytes.
        #[borsh(deserialize_with = "list::<_, _, MAX_INDEX_ENTRIES>")]
        entries: Vec<Vec<u8>>,
    },
    /// The block; none if the node does not have it.
    Block(Option<CertifiedBlock>),
    /// What a snapshot consists of; none if the node does not have it.
    Snapshot(Option<Box<SnapshotOffer>>),
    /// A chunk of a snapshot; none if the node does not have it.
    SnapshotChunk(Option<Vec<u8>>),
    /// The node's BLS signature of a [`HandoverFact`](crate::handover::HandoverFact); none if it
    /// has not seen the end of that epoch, or does not sign it.
    HandoverSigned(Option<BlsSignature>),
}

/// The end of an epoch: who decides from the next height on.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Handover {
    /// The last header of the epoch, with either certificate.
    pub last: FinalHeader,
    /// The layout of the next epoch's committee.
    pub committee: Vec<u8>,
}

/// A block as it travels.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct CertifiedBlock {
    /// The block's layout.
    pub block: Vec<u8>,
    /// Precommits for it.
    pub certificate: CommitCertificate,
}

impl LedgerResponse {
    /// Which question it answers.
    #[must_use]
    pub const fn kind(&self) -> LedgerKind {
        match self {
            Self::Submitted { .. } => LedgerKind::Submit,
            Self::SystemSubmitted(_) => LedgerKind::SubmitSystem,
            Self::Tip(_) => LedgerKind::Tip,
            Self::Facts { .. } => LedgerKind::Facts,
            Self::Handovers { .. } => LedgerKind::Handovers,
            Self::Blocks { .. } => LedgerKind::Blocks,
            Self::Transaction(_) => LedgerKind::Transaction,
            Self::Index { .. } => LedgerKind::Index,
            Self::Block(_) => LedgerKind::Block,
            Self::Snapshot(_) => LedgerKind::Snapshot,
            Self::SnapshotChunk(_) => LedgerKind::SnapshotChunk,
            Self::HandoverSigned(_) => LedgerKind::SignHandover,
        }
    }

    /// The payload.
    ///
    /// # Errors
    /// [`MessageError`]: a list or the payload is too long.
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        self.check()?;
        codec::encode(self, self.kind().max_response_bytes())
    }

    /// Parses a payload of the kind that its head states.
    ///
    /// # Errors
    /// [`MessageError`]: it is none, or too long.
    pub fn decode(kind: LedgerKind, payload: &[u8]) -> Result<Self, MessageError> {
        let response: Self = codec::decode(payload, kind.max_response_bytes())?;
        if response.kind() != kind {
            return Err(MessageError::Field);
        }
        response.check()?;
        Ok(response)
    }

    fn check(&self) -> Result<(), MessageError> {
        let block = |block: &CertifiedBlock| block.block.len() <= MAX_BLOCK_BYTES;
        let in_range = match self {
            Self::Submitted { results } => results.len() <= MAX_SUBMITTED_TRANSACTIONS,
            Self::Facts { proofs, .. } => proofs.len() <= MAX_FACTS,
            Self::Handovers { handovers } => handovers.len() <= MAX_HANDOVERS,
            Self::Blocks { blocks } => blocks.len() <= MAX_BLOCKS && blocks.iter().all(block),
            Self::Index { entries } => {
                entries.len() <= MAX_INDEX_ENTRIES
                    && entries.iter().all(|entry| entry.len() <= MAX_INDEX_ENTRY_BYTES)
            }
            Self::Block(found) => found.as_ref().is_none_or(block),
            Self::Snapshot(offer) => offer.as_ref().is_none_or(|offer| {
                (1..=MAX_SNAPSHOT_CHUNKS).contains(&offer.manifest.chunks.len())
            }),
            Self::SnapshotChunk(chunk) => {
                chunk.as_ref().is_none_or(|chunk| chunk.len() <= MAX_SNAPSHOT_CHUNK_BYTES)
            }
            Self::SystemSubmitted(_)
            | Self::Tip(_)
            | Self::Transaction(_)
            | Self::HandoverSigned(_) => true,
        };
        if in_range { Ok(()) } else { Err(MessageError::Field) }
    }
}
