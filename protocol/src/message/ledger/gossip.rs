//! Announcements of the ledger: transactions, system operations and new headers, each on a topic
//! of its own, so that a light peer listens to headers alone.

use super::{
    MAX_SUBMITTED_TRANSACTIONS,
    codec::{self, list},
};
use crate::{
    ledger::SystemOperation,
    light::{CertifiedHeader, MAX_CERTIFIED_HEADER_BYTES},
    message::MessageError,
};

/// Longest batch of transactions in bytes.
pub const MAX_TRANSACTIONS_ANNOUNCEMENT_BYTES: usize = 64 << 10;
/// Longest announcement of a system operation in bytes.
pub const MAX_SYSTEM_ANNOUNCEMENT_BYTES: usize = 2 << 10;
/// Longest announcement of a header in bytes.
pub const MAX_HEADER_ANNOUNCEMENT_BYTES: usize = MAX_CERTIFIED_HEADER_BYTES + 1;

/// What a topic of the ledger carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LedgerTopic {
    /// [`LedgerAnnouncement::Transactions`].
    Transactions,
    /// [`LedgerAnnouncement::System`] and [`LedgerAnnouncement::SystemAgain`].
    System,
    /// [`LedgerAnnouncement::NewHeader`].
    Headers,
}

impl LedgerTopic {
    /// The longest announcement of the topic.
    #[must_use]
    pub const fn max_bytes(self) -> usize {
        match self {
            Self::Transactions => MAX_TRANSACTIONS_ANNOUNCEMENT_BYTES,
            Self::System => MAX_SYSTEM_ANNOUNCEMENT_BYTES,
            Self::Headers => MAX_HEADER_ANNOUNCEMENT_BYTES,
        }
    }
}

/// What is told to everyone. Unverified.
#[derive(Clone, Debug, PartialEq, Eq, borsh::BorshSerialize, borsh::BorshDeserialize)]
pub enum LedgerAnnouncement {
    /// Signed transactions, each in its layout: 1 to [`MAX_SUBMITTED_TRANSACTIONS`].
    Transactions(
        #[borsh(deserialize_with = "list::<_, _, MAX_SUBMITTED_TRANSACTIONS>")] Vec<Vec<u8>>,
    ),
    /// A system operation.
    System(SystemOperation),
    /// A block has been committed.
    NewHeader(Box<CertifiedHeader>),
    /// A system operation that was announced before and may be lost, with a number that is new: gossip
    /// does not hear the same bytes twice.
    SystemAgain(SystemOperation, u32),
}

impl LedgerAnnouncement {
    /// Where it belongs.
    #[must_use]
    pub const fn topic(&self) -> LedgerTopic {
        match self {
            Self::Transactions(_) => LedgerTopic::Transactions,
            Self::System(_) | Self::SystemAgain(..) => LedgerTopic::System,
            Self::NewHeader(_) => LedgerTopic::Headers,
        }
    }

    /// The bytes to gossip. One value has one encoding, so gossip may tell them apart by it.
    ///
    /// # Errors
    /// [`MessageError`] above the topic's limit, or for a batch of none or too many.
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        self.check()?;
        codec::encode(self, self.topic().max_bytes())
    }

    /// Parses what was gossiped on `topic`. Nothing else is verified.
    ///
    /// # Errors
    /// [`MessageError`]: not to be passed on.
    pub fn decode(topic: LedgerTopic, bytes: &[u8]) -> Result<Self, MessageError> {
        let announcement: Self = codec::decode(bytes, topic.max_bytes())?;
        if announcement.topic() != topic {
            return Err(MessageError::Field);
        }
        announcement.check()?;
        Ok(announcement)
    }

    fn check(&self) -> Result<(), MessageError> {
        match self {
            Self::Transactions(batch)
                if !(1..=MAX_SUBMITTED_TRANSACTIONS).contains(&batch.len()) =>
            {
                Err(MessageError::Field)
            }
            Self::Transactions(_)
            | Self::System(_)
            | Self::SystemAgain(..)
            | Self::NewHeader(_) => Ok(()),
        }
    }
}
