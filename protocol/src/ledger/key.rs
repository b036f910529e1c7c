//! Where records live in the authenticated map, and what the index beside it is sorted by.

use borsh::{BorshDeserialize, BorshSerialize};

use super::{AccountId, Amount};
use crate::{
    blob::BlobId,
    hash::{Domain, Hash},
    index::{Epoch, Height},
    keys::{BlsPublicKey, NodeId},
    registration::RegistrationId,
};

/// The key of a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub enum Key {
    /// The one [`Summary`](super::Summary).
    Summary,
    /// An [`Account`](super::Account).
    Account(AccountId),
    /// A [`Node`](super::Node) of the registry.
    Node(NodeId),
    /// The node that a BLS key belongs to, for ever.
    BlsKey(BlsPublicKey),
    /// A [`Stake`](super::Stake) of an account in a node's pool.
    Stake(AccountId, NodeId),
    /// A [`Blob`](super::Blob).
    Blob(BlobId),
    /// A [`Registration`](super::Registration).
    Registration(RegistrationId),
    /// A [`Name`](super::Name) that an account has given.
    Name(AccountId, String),
    /// An [`EpochRecord`](super::EpochRecord).
    Epoch(Epoch),
    /// The committee of an epoch.
    Committee(Epoch),
    /// Who precommitted a [recent block](super::Presence).
    Presence(Height),
    /// An equivocation of a node in an epoch, already punished.
    Offence(NodeId, Epoch),
    /// Which shards are [ready](super::ShardRecord) in the running epoch.
    Shards,
    /// The [`Attendance`](super::Attendance) of the running epoch's members.
    Attendance,
    /// The [`Terms`](super::Terms) of an epoch's committee.
    Terms(Epoch),
    /// The [`Rate`](super::Rate) at which stake entered a node's pool with an epoch.
    Rate(NodeId, Epoch),
    /// The [`Challenges`](super::Challenges) of an epoch, once there was something to ask for.
    Challenges(Epoch),
}

impl Key {
    /// Where the record lives: the keyed hash of the key's layout.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Domain::StateKey.hash(&[&borsh::to_vec(self).expect("writing to memory")])
    }
}

/// An entry of the index. Each kind starts with a byte of its own; numbers are big-endian, so that
/// entries sort by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexEntry {
    /// A registration ends, or lapses, at the start of an epoch.
    Deadline(Epoch, RegistrationId),
    /// A certified registration of a blob, latest end first.
    CertifiedEnd(BlobId, Epoch, RegistrationId),
    /// A certified registration of a blob, first certified first: epoch, time in milliseconds.
    Certified(BlobId, (Epoch, u64), RegistrationId),
    /// A registration of an account, by blob.
    Owned(AccountId, BlobId, RegistrationId),
    /// A node of the registry.
    Registered(NodeId),
    /// A transaction that concerns an account, latest first: height, position in its block.
    History(AccountId, Height, u32),
    /// A stake of an account.
    Staked(AccountId, NodeId),
    /// A node that reported in an epoch that it follows the ledger; of one epoch those with most
    /// stake first.
    Ready(Epoch, Amount, NodeId),
}

impl IndexEntry {
    /// The bytes that sort.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let latest_first = |number: u64| (!number).to_be_bytes();
        match self {
            Self::Deadline(epoch, registration) => {
                [&[1][..], &epoch.get().to_be_bytes(), registration.as_bytes()].concat()
            }
            Self::CertifiedEnd(blob, end, registration) => {
                let end = latest_first(end.get());
                [&[2][..], blob.as_bytes(), &end, registration.as_bytes()].concat()
            }
            Self::Certified(blob, (epoch, time_ms), registration) => {
                let (epoch, time) = (epoch.get().to_be_bytes(), time_ms.to_be_bytes());
                [&[3][..], blob.as_bytes(), &epoch, &time, registration.as_bytes()].concat()
            }
            Self::Owned(account, blob, registration) => {
                let (account, registration) = (account.key().as_bytes(), registration.as_bytes());
                [&[4][..], account, blob.as_bytes(), registration].concat()
            }
            Self::Registered(node) => [&[5][..], node.as_bytes()].concat(),
            Self::History(account, height, position) => {
                let height = latest_first(height.get());
                let position = (!position).to_be_bytes();
                [&[6][..], account.key().as_bytes(), &height, &position].concat()
            }
            Self::Staked(account, node) => {
                [&[7][..], account.key().as_bytes(), node.as_bytes()].concat()
            }
            Self::Ready(epoch, stake, node) => {
                let stake = (!stake.frost()).to_be_bytes();
                [&[8][..], &epoch.get().to_be_bytes(), &stake, node.as_bytes()].concat()
            }
        }
    }
}

/// A range of the index: all entries that start with a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexRange {
    /// The first entry.
    pub start: Vec<u8>,
    /// Behind the last entry.
    pub end: Vec<u8>,
}

impl IndexRange {
    fn of(prefix: Vec<u8>) -> Self {
        let mut end = prefix.clone();
        // Kinds are small numbers, so some byte can always be raised.
        while end.last() == Some(&u8::MAX) {
            end.pop();
        }
        if let Some(last) = end.last_mut() {
            *last = last.saturating_add(1);
        }
        Self { start: prefix, end }
    }

    /// Registrations that are dead in `epoch` and not yet swept.
    #[must_use]
    pub fn dead(epoch: Epoch) -> Self {
        let end = [&[1][..], &epoch.plus(1).get().to_be_bytes()].concat();
        Self { start: vec![1], end }
    }

    /// All certified registrations, by blob and latest end first.
    #[must_use]
    pub fn all_certified() -> Self {
        Self::of(vec![2])
    }

    /// Certified registrations of a blob, latest end first.
    #[must_use]
    pub fn certified_ends(blob: &BlobId) -> Self {
        Self::of([&[2][..], blob.as_bytes()].concat())
    }

    /// Certified registrations of a blob, first certified first.
    #[must_use]
    pub fn certified(blob: &BlobId) -> Self {
        Self::of([&[3][..], blob.as_bytes()].concat())
    }

    /// Registrations of an account.
    #[must_use]
    pub fn owned(account: &AccountId) -> Self {
        Self::of([&[4][..], account.key().as_bytes()].concat())
    }

    /// Registrations of an account for one blob.
    #[must_use]
    pub fn owned_of(account: &AccountId, blob: &BlobId) -> Self {
        Self::of([&[4][..], account.key().as_bytes(), blob.as_bytes()].concat())
    }

    /// All nodes of the registry.
    #[must_use]
    pub fn registered() -> Self {
        Self::of(vec![5])
    }

    /// Transactions that concern an account, latest first.
    #[must_use]
    pub fn history(account: &AccountId) -> Self {
        Self::of([&[6][..], account.key().as_bytes()].concat())
    }

    /// Nodes that reported in `epoch` that they follow the ledger, those with most stake first.
    #[must_use]
    pub fn ready(epoch: Epoch) -> Self {
        Self::of([&[8][..], &epoch.get().to_be_bytes()].concat())
    }

    /// Nodes that reported so before `epoch`.
    #[must_use]
    pub fn ready_before(epoch: Epoch) -> Self {
        let end = [&[8][..], &epoch.get().to_be_bytes()].concat();
        Self { start: vec![8], end }
    }

    /// Stakes of an account.
    #[must_use]
    pub fn staked(account: &AccountId) -> Self {
        Self::of([&[7][..], account.key().as_bytes()].concat())
    }
}
