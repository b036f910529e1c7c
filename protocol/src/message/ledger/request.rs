//! What nodes, wallets and light peers ask about the ledger.

use borsh::{BorshDeserialize, BorshSerialize};

use super::{
    LedgerKind, MAX_FACTS, MAX_HANDOVERS, MAX_INDEX_ENTRIES, MAX_INDEX_ENTRY_BYTES,
    MAX_SUBMITTED_TRANSACTIONS, MAX_WAIT_MS,
    codec::{self, list},
};
use crate::{
    blob::BlobId,
    index::{Epoch, Height},
    ledger::{AccountId, IndexRange, Key, MAX_SNAPSHOT_CHUNKS, SystemOperation, TransactionId},
    message::MessageError,
};

/// A question about the ledger, decoded and within limits.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum LedgerRequest {
    /// Hands over signed transactions, each in its layout, in the order in which they are meant.
    /// Answered by [`LedgerResponse::Submitted`](super::LedgerResponse::Submitted).
    Submit {
        /// The transactions, at most [`MAX_SUBMITTED_TRANSACTIONS`].
        #[borsh(deserialize_with = "list::<_, _, MAX_SUBMITTED_TRANSACTIONS>")]
        transactions: Vec<Vec<u8>>,
    },
    /// Hands over a system operation.
    /// Answered by [`LedgerResponse::SystemSubmitted`](super::LedgerResponse::SystemSubmitted).
    SubmitSystem(SystemOperation),
    /// Asks for the newest header. Answered by [`LedgerResponse::Tip`](super::LedgerResponse::Tip).
    Tip,
    /// Asks what the state holds. Answered by
    /// [`LedgerResponse::Facts`](super::LedgerResponse::Facts).
    Facts {
        /// After which block; the newest one if none is named.
        height: Option<Height>,
        /// Under which keys: 1 to [`MAX_FACTS`].
        #[borsh(deserialize_with = "list::<_, _, MAX_FACTS>")]
        keys: Vec<Key>,
    },
    /// Asks for the ends of epochs. Answered by
    /// [`LedgerResponse::Handovers`](super::LedgerResponse::Handovers).
    Handovers {
        /// The first epoch.
        from: Epoch,
        /// How many at most: 1 to [`MAX_HANDOVERS`].
        max: u8,
    },
    /// Asks for consecutive blocks. Answered by
    /// [`LedgerResponse::Blocks`](super::LedgerResponse::Blocks).
    Blocks {
        /// The first one.
        from: Height,
        /// Bytes that the asker wants at most; one block may exceed them.
        max_bytes: u32,
    },
    /// Asks whether a transaction has been committed. Answered by
    /// [`LedgerResponse::Transaction`](super::LedgerResponse::Transaction).
    Transaction {
        /// The transaction.
        id: TransactionId,
        /// How long the answer may wait for it, at most [`MAX_WAIT_MS`].
        wait_ms: u32,
    },
    /// Asks for entries of the index beside the state. Answered by
    /// [`LedgerResponse::Index`](super::LedgerResponse::Index).
    Index {
        /// Of what.
        query: IndexQuery,
        /// The last entry that the asker has.
        after: Option<Vec<u8>>,
        /// How many at most: 1 to [`MAX_INDEX_ENTRIES`].
        limit: u16,
    },
    /// Asks for one block. Answered by [`LedgerResponse::Block`](super::LedgerResponse::Block).
    Block {
        /// Its height.
        height: Height,
    },
    /// Asks what snapshot of the state there is.
    /// Answered by [`LedgerResponse::Snapshot`](super::LedgerResponse::Snapshot).
    Snapshot {
        /// After which block; the newest one if none is named.
        height: Option<Height>,
    },
    /// Asks for a part of a snapshot.
    /// Answered by [`LedgerResponse::SnapshotChunk`](super::LedgerResponse::SnapshotChunk).
    SnapshotChunk {
        /// After which block the snapshot is.
        height: Height,
        /// The chunk's number in the manifest, below [`MAX_SNAPSHOT_CHUNKS`].
        index: u16,
    },
    /// Asks a member to sign which header was the last of its epoch.
    /// Answered by [`LedgerResponse::HandoverSigned`](super::LedgerResponse::HandoverSigned).
    SignHandover {
        /// The epoch that has ended.
        epoch: Epoch,
    },
}

/// A range of the index that strangers may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum IndexQuery {
    /// Registrations of an account.
    Owned(AccountId),
    /// Registrations of an account for one blob.
    OwnedOf(AccountId, BlobId),
    /// Transactions that concern an account, latest first.
    History(AccountId),
    /// Stakes of an account.
    Staked(AccountId),
    /// All nodes of the registry.
    Nodes,
}

impl IndexQuery {
    /// The range.
    #[must_use]
    pub fn range(&self) -> IndexRange {
        match self {
            Self::Owned(account) => IndexRange::owned(account),
            Self::OwnedOf(account, blob) => IndexRange::owned_of(account, blob),
            Self::History(account) => IndexRange::history(account),
            Self::Staked(account) => IndexRange::staked(account),
            Self::Nodes => IndexRange::registered(),
        }
    }
}

impl LedgerRequest {
    /// What is asked.
    #[must_use]
    pub const fn kind(&self) -> LedgerKind {
        match self {
            Self::Submit { .. } => LedgerKind::Submit,
            Self::SubmitSystem(_) => LedgerKind::SubmitSystem,
            Self::Tip => LedgerKind::Tip,
            Self::Facts { .. } => LedgerKind::Facts,
            Self::Handovers { .. } => LedgerKind::Handovers,
            Self::Blocks { .. } => LedgerKind::Blocks,
            Self::Transaction { .. } => LedgerKind::Transaction,
            Self::Index { .. } => LedgerKind::Index,
            Self::Block { .. } => LedgerKind::Block,
            Self::Snapshot { .. } => LedgerKind::Snapshot,
            Self::SnapshotChunk { .. } => LedgerKind::SnapshotChunk,
            Self::SignHandover { .. } => LedgerKind::SignHandover,
        }
    }

    /// The payload.
    ///
    /// # Errors
    /// [`MessageError`]: a field is out of range, or the payload too long.
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        self.check()?;
        codec::encode(self, self.kind().max_request_bytes())
    }

    /// Parses a payload of the kind that its head states.
    ///
    /// # Errors
    /// [`MessageError`]: it is none, or a field is out of range.
    pub fn decode(kind: LedgerKind, payload: &[u8]) -> Result<Self, MessageError> {
        let request: Self = codec::decode(payload, kind.max_request_bytes())?;
        if request.kind() != kind {
            return Err(MessageError::Field);
        }
        request.check()?;
        Ok(request)
    }

    fn check(&self) -> Result<(), MessageError> {
        let entry = |after: &Vec<u8>| after.len() <= MAX_INDEX_ENTRY_BYTES;
        let in_range = match self {
            Self::Submit { transactions } => {
                (1..=MAX_SUBMITTED_TRANSACTIONS).contains(&transactions.len())
            }
            Self::Facts { keys, .. } => (1..=MAX_FACTS).contains(&keys.len()),
            Self::Handovers { max, .. } => (1..=MAX_HANDOVERS).contains(&usize::from(*max)),
            Self::Transaction { wait_ms, .. } => *wait_ms <= MAX_WAIT_MS,
            Self::Index { after, limit, .. } => {
                (1..=MAX_INDEX_ENTRIES).contains(&usize::from(*limit))
                    && after.as_ref().is_none_or(entry)
            }
            Self::SnapshotChunk { index, .. } => usize::from(*index) < MAX_SNAPSHOT_CHUNKS,
            Self::SubmitSystem(_)
            | Self::Tip
            | Self::Blocks { .. }
            | Self::Block { .. }
            | Self::Snapshot { .. }
            | Self::SignHandover { .. } => true,
        };
        if in_range { Ok(()) } else { Err(MessageError::Field) }
    }
}
