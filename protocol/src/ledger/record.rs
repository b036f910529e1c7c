//! The records of the state: what the authenticated map holds under a [`Key`](super::Key).
//!
//! Invariants: the byte layout is borsh's and fixed by golden vectors; every FROST of the supply
//! is counted in exactly one record ([`Record::wal`]), so that the ledger can prove to itself
//! after each block that none was made or lost.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use super::{
    AccountId, Amount, BlockHash, Challenges, NodeSettings, ShardRecord, Summary, Supply, Timestamp,
};
use crate::{
    blob::{BlobHeader, BlobId},
    challenge::Score,
    index::{Epoch, Height},
    keys::{BlsPublicKey, NodeId},
};

/// An account.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
)]
pub struct Account {
    /// What it can spend.
    pub balance: Amount,
    /// How many transactions it has sent: the nonce of the next.
    pub nonce: u64,
}

/// A sum of stakes that is shared by shares.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
)]
pub struct Pool {
    /// What it holds.
    pub stake: Amount,
    /// Shares in it.
    pub shares: u128,
}

/// Stake that is not yet in its pool.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Incoming {
    /// The first epoch in which it is in the pool.
    pub epoch: Epoch,
    /// How much.
    pub amount: Amount,
}

/// What stake that became active with one epoch got for itself in a node's pool: those whose it is
/// take their shares from here when they next come. Gone with the last of them.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Rate {
    /// Stake for which shares are left.
    pub amount: Amount,
    /// The shares.
    pub shares: u128,
}

/// A storage node in the registry.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Node {
    /// Who runs it.
    pub operator: AccountId,
    /// Its BLS key.
    pub bls_key: BlsPublicKey,
    /// What it offers, from the next selection on.
    pub settings: NodeSettings,
    /// Stake that earns, and is slashed.
    pub pool: Pool,
    /// Stake on its way in, by ascending epoch. It enters when its epoch has begun and the node's
    /// record is next written; nothing changes the pool in between.
    pub incoming: Vec<Incoming>,
    /// Stake on its way out, slashable until it is paid.
    pub unbonding: Pool,
    /// Slashed to nothing: nobody can stake here again.
    pub closed: bool,
    /// The epoch in which it was jailed, while it is.
    pub jailed: Option<Epoch>,
    /// Epochs in a row that ended with a score so bad that it cost stake; such in which too few
    /// rounds counted are passed over.
    pub bad_epochs: u32,
    /// The last epoch in which it reported that it follows the ledger.
    pub ready: Option<Epoch>,
    /// Its stake when it did: if too many stand for a committee, those with most are looked at.
    pub ready_stake: Amount,
    /// What the last epoch came to in which it had shards and there was something to earn, or was
    /// challenged.
    pub settled: Option<Settlement>,
}

/// What an ended epoch brought one of its members.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Settlement {
    /// The epoch.
    pub epoch: Epoch,
    /// What its pool got: its stakers' part.
    pub reward: Amount,
    /// What its operator's account got.
    pub commission: Amount,
    /// What its shards were worth but it did not earn: burned.
    pub forfeited: Amount,
    /// How it did in the epoch's challenges.
    pub score: Score,
    /// What of its stake was burned for a bad score: of the pool and of what is on its way out.
    pub slashed: Amount,
}

/// Stake that will be paid.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Unbonding {
    /// Shares in the node's unbonding pool.
    pub shares: u128,
    /// The first epoch in which it can be withdrawn.
    pub until: Epoch,
}

/// What an account has staked with one node.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Stake {
    /// Shares in the node's pool.
    pub shares: u128,
    /// What is on its way in, by ascending epoch. What is in the pool by now, at the node's
    /// [`Rate`] of that epoch, is counted in shares when the account next stakes or unstakes.
    pub incoming: Vec<Incoming>,
    /// What is on its way out, by ascending epoch.
    pub unbonding: Vec<Unbonding>,
}

/// Certified life of a blob.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Certified {
    /// Given at the first certification, kept while any certified registration lives.
    pub number: u64,
    /// The latest end of the certified registrations: dead from this epoch on.
    pub end: Epoch,
    /// The epoch of the first certification among the living.
    pub first_epoch: Epoch,
    /// Its time.
    pub first_time: Timestamp,
}

/// A blob with at least one registration that was not swept, or one proven invalid.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Blob {
    /// Its header.
    pub header: BlobHeader,
    /// Registrations that have not been deleted or swept.
    pub registrations: u64,
    /// The latest end of those of them that are certified and can't be deleted.
    pub permanent_end: Option<Epoch>,
    /// Its certified life, if it has one; dead from its end on.
    pub certified: Option<Certified>,
    /// Proven inconsistent.
    pub invalid: bool,
}

/// The state of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlobState {
    /// Registered, not yet certified: nobody answers for it.
    Registered,
    /// Certified and alive: the swarm answers for it.
    Certified,
    /// Every certified registration has ended; its records are about to be swept.
    Expired,
    /// Proven inconsistent: it reads as invalid everywhere.
    Invalid,
}

impl Blob {
    /// Its state in `epoch`.
    #[must_use]
    pub fn state(&self, epoch: Epoch) -> BlobState {
        match self.certified {
            _ if self.invalid => BlobState::Invalid,
            Some(certified) if epoch < certified.end => BlobState::Certified,
            Some(_) => BlobState::Expired,
            None => BlobState::Registered,
        }
    }
}

/// A price paid for some epochs.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Payment {
    /// The first epoch paid.
    pub start: Epoch,
    /// Behind the last epoch paid.
    pub end: Epoch,
    /// What each of them got.
    pub per_epoch: Amount,
}

/// An account's paid claim that a blob be stored.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Registration {
    /// The blob.
    pub blob: BlobId,
    /// Who may extend, delete or give it away.
    pub owner: AccountId,
    /// The first epoch that it covers.
    pub start: Epoch,
    /// The first epoch that it no longer covers.
    pub end: Epoch,
    /// Whether it can be deleted before its end.
    pub deletable: bool,
    /// When it was certified.
    pub certified: Option<(Epoch, Timestamp)>,
    /// Billed units.
    pub units: u64,
    /// What was paid for storage, by ascending epochs, without gaps.
    pub payments: Vec<Payment>,
}

impl Registration {
    /// The first epoch in which it is dead: its end, or where it lapses uncertified.
    #[must_use]
    pub fn deadline(&self) -> Epoch {
        match self.certified {
            Some(_) => self.end,
            None => self.end.min(self.start.plus(2)),
        }
    }

    /// Whether it lives in `epoch`.
    #[must_use]
    pub fn is_alive(&self, epoch: Epoch) -> bool {
        epoch < self.deadline()
    }

    /// Whether it serves who wants the blob stored in `epoch` for `epochs` epochs, the running one
    /// included, and `deletable` or not: then nothing more is to be paid.
    ///
    /// A permanent registration serves who wants a deletable one, but not the other way round. An
    /// uncertified one serves if it lasts as long as is wanted: bought in the epoch before, and its
    /// store cut off, it ends one epoch earlier than a new one would.
    #[must_use]
    pub fn serves(&self, epoch: Epoch, epochs: u32, deletable: bool) -> bool {
        let lasts = self.end.get().saturating_sub(self.start.get()) >= epochs.into();
        let reaches = self.end >= epoch.plus(epochs.into());
        self.is_alive(epoch)
            && (deletable || !self.deletable)
            && (reaches || (self.certified.is_none() && lasts))
    }

    /// What was paid for epochs from `from` on: what its owner gets back if it ends before them.
    #[must_use]
    pub fn paid_from(&self, from: Epoch) -> Option<Amount> {
        self.payments.iter().try_fold(Amount::ZERO, |sum, payment| {
            let epochs = payment.end.get().saturating_sub(payment.start.max(from).get());
            sum.checked_add(payment.per_epoch.checked_mul(epochs.into())?)
        })
    }
}

/// A name that an account has given to a blob.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Name {
    /// What it points at.
    pub blob: Option<BlobId>,
    /// How often it has been set.
    pub version: u64,
}

/// What the ledger keeps of one epoch, past or to come.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
)]
pub struct EpochRecord {
    /// What was paid for this epoch: fees, writes, storage.
    pub bucket: Amount,
    /// Units of living registrations that cover it.
    pub units: u64,
    /// Its first block, once it has begun.
    pub first_height: Option<Height>,
}

/// What storing costs in an epoch, and how much there is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Prices {
    /// FROST per unit and epoch.
    pub storage: Amount,
    /// FROST per unit, once.
    pub write: Amount,
    /// Units that the network offers.
    pub capacity_units: u64,
}

/// Whose precommits for a recent block have been recorded.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Presence {
    /// The block that was committed.
    pub block: BlockHash,
    /// Its time.
    pub time: Timestamp,
    /// The epoch whose committee voted.
    pub epoch: Epoch,
    /// Per committee position.
    pub recorded: Vec<bool>,
}

/// How many of an epoch's heights have a member's precommit recorded, of those that are too long
/// past for more to be recorded.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Attendance {
    /// The epoch.
    pub epoch: Epoch,
    /// The heights.
    pub heights: u64,
    /// Per committee position, of how many of them.
    pub recorded: Vec<u64>,
}

/// What was agreed with one member of a committee for its epoch.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Terms {
    /// The operator's part of the reward, in ten-thousandths, as of the selection.
    pub commission_bps: u16,
    /// Shards that it is paid for: all, until at half of the epoch those that are not ready are
    /// left out.
    pub paid_shards: u16,
}

/// A value of the authenticated map.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Record {
    /// Under [`Key::Summary`](super::Key::Summary).
    Summary(Summary),
    /// Under [`Key::Account`](super::Key::Account).
    Account(Account),
    /// Under [`Key::Node`](super::Key::Node).
    Node(Box<Node>),
    /// Under [`Key::BlsKey`](super::Key::BlsKey).
    BlsKey(NodeId),
    /// Under [`Key::Stake`](super::Key::Stake).
    Stake(Stake),
    /// Under [`Key::Blob`](super::Key::Blob).
    Blob(Blob),
    /// Under [`Key::Registration`](super::Key::Registration).
    Registration(Box<Registration>),
    /// Under [`Key::Name`](super::Key::Name).
    Name(Name),
    /// Under [`Key::Epoch`](super::Key::Epoch).
    Epoch(EpochRecord),
    /// Under [`Key::Committee`](super::Key::Committee): the layout of the committee.
    Committee(Vec<u8>),
    /// Under [`Key::Presence`](super::Key::Presence).
    Presence(Presence),
    /// Under [`Key::Offence`](super::Key::Offence): the height of the votes.
    Offence(Height),
    /// Under [`Key::Shards`](super::Key::Shards): one per shard.
    Shards(Vec<ShardRecord>),
    /// Under [`Key::Attendance`](super::Key::Attendance).
    Attendance(Attendance),
    /// Under [`Key::Terms`](super::Key::Terms): one per committee position.
    Terms(Vec<Terms>),
    /// Under [`Key::Rate`](super::Key::Rate).
    Rate(Rate),
    /// Under [`Key::Challenges`](super::Key::Challenges).
    Challenges(Box<Challenges>),
}

impl Record {
    /// The part of the supply that this record counts, but for what a [`Summary`] sums up.
    pub(super) fn wal(&self) -> Option<Supply> {
        let mut supply = Supply::default();
        match self {
            Self::Account(account) => supply.balances = account.balance,
            Self::Node(node) => {
                let stakes = node.pool.stake.checked_add(node.unbonding.stake)?;
                let mut incoming = node.incoming.iter().map(|incoming| incoming.amount);
                supply.stakes = incoming.try_fold(stakes, Amount::checked_add)?;
            }
            Self::Epoch(epoch) => supply.buckets = epoch.bucket,
            Self::Summary(_)
            | Self::BlsKey(_)
            | Self::Stake(_)
            | Self::Blob(_)
            | Self::Registration(_)
            | Self::Name(_)
            | Self::Committee(_)
            | Self::Presence(_)
            | Self::Offence(_)
            | Self::Shards(_)
            | Self::Attendance(_)
            | Self::Terms(_)
            | Self::Rate(_)
            | Self::Challenges(_) => {}
        }
        Some(supply)
    }
}
