//! Why a block, a transaction or an operation is refused.

use super::{AccountId, Amount, ReadError, Timestamp, TransactionError};
use crate::{
    certificate::CertificateError,
    challenge::{ChallengeCertificateError, NotOpen},
    index::{ChallengeRound, Epoch, Height},
    registration::RegistrationId,
    vote::{CommitCertificateError, EquivocationError},
};

/// Why the state refuses a transaction or a system operation.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum OperationError {
    /// The sender has sent another number of transactions.
    #[error("nonce {nonce} of account {account}: the next one is {expected}")]
    Nonce {
        /// The sender.
        account: AccountId,
        /// The transaction's nonce.
        nonce: u64,
        /// What it would have to be.
        expected: u64,
    },
    /// The transaction came too late.
    #[error("the transaction expired at {expires}; the block's time is {time}")]
    Expired {
        /// Its expiry.
        expires: Timestamp,
        /// The block's time.
        time: Timestamp,
    },
    /// The fee is too low.
    #[error("a fee of {fee} is below the least, {min}")]
    Fee {
        /// The fee.
        fee: Amount,
        /// The least.
        min: Amount,
    },
    /// The sender can't pay.
    #[error("account {account} has {balance}, {needed} are needed")]
    Funds {
        /// Who has to pay.
        account: AccountId,
        /// What it has.
        balance: Amount,
        /// What it needs.
        needed: Amount,
    },
    /// The block has no room for more of what costs much to check: a later one has.
    #[error("the block has no room for more certificates and node keys")]
    BlockFull,
    /// An amount exceeds what an amount can be.
    #[error("amount out of range")]
    Overflow,
    /// There is no such node.
    #[error("no such storage node")]
    NoNode,
    /// There is no such blob.
    #[error("no such blob")]
    NoBlob,
    /// A report or a challenge certificate is for another epoch than the running one.
    #[error("of another epoch than the running one, {epoch}")]
    OtherEpoch {
        /// The running epoch.
        epoch: Epoch,
    },
    /// The node has reported that already.
    #[error("the node has reported that already")]
    Reported,
    /// The node has too little stake to be selected.
    #[error("the node has a stake of {stake}, a candidate needs {min}")]
    MinStake {
        /// What it has.
        stake: Amount,
        /// The least.
        min: Amount,
    },
    /// The block that a report names is not one of the last.
    #[error("block {0} is not a recent one of this chain")]
    OldBlock(Height),
    /// A report is not signed by its node.
    #[error("the report is not signed by its node")]
    Report,
    /// A report lists shards that its node does not hold, or not in ascending order.
    #[error("the report lists shards that its node does not hold")]
    ForeignShard,
    /// The node key or the BLS key belongs to a node already.
    #[error("the node key or the BLS key belongs to a node already")]
    KeyTaken,
    /// The node's keys did not consent to this operator.
    #[error("the node's keys did not sign for this operator")]
    Identity,
    /// The sender is not the one who may do this.
    #[error("only {owner} may do this")]
    NotOwner {
        /// Who may.
        owner: AccountId,
    },
    /// The node is not jailed, or its term is not over.
    #[error("the node is not jailed, or not for long enough")]
    Jail,
    /// The pool was slashed to nothing.
    #[error("the node's pool is closed")]
    PoolClosed,
    /// The amount is too small for a share, or the shares are more than the sender has.
    #[error("not so many shares")]
    Shares,
    /// Nothing can be withdrawn yet.
    #[error("nothing to withdraw yet")]
    NothingUnbonded,
    /// Too many withdrawals are pending.
    #[error("too many unbondings at a time: withdraw first")]
    TooManyUnbondings,
    /// The header is another network's, or the blob is too large.
    #[error("a blob of this header cannot be stored in this network")]
    BlobHeader,
    /// The blob was proven inconsistent.
    #[error("the blob was proven inconsistent")]
    BlobInvalid,
    /// Too far ahead.
    #[error("{epochs} epochs ahead: at most {max} can be paid for")]
    TooFarAhead {
        /// Epochs asked for.
        epochs: u64,
        /// The most.
        max: u32,
    },
    /// The price exceeds what the sender agreed to.
    #[error("the price is {price}, more than the agreed {max_payment}")]
    Price {
        /// What it costs.
        price: Amount,
        /// What the sender agreed to.
        max_payment: Amount,
    },
    /// The network is full.
    #[error("epoch {epoch} has no room for {units} more units")]
    Capacity {
        /// The epoch.
        epoch: Epoch,
        /// Units asked for.
        units: u64,
    },
    /// There is no such registration, or it is dead.
    #[error("no such living registration")]
    NoRegistration,
    /// A registration of the sender's lives as long and is as permanent.
    #[error("registration {registration} of the same account serves already")]
    AlreadyRegistered {
        /// Which one.
        registration: RegistrationId,
    },
    /// The registration ends in another epoch than the sender thought.
    #[error("the registration ends with epoch {end}")]
    OtherEnd {
        /// Where it ends.
        end: Epoch,
    },
    /// The registration is certified already.
    #[error("the registration is certified already")]
    AlreadyCertified,
    /// The registration is not certified.
    #[error("the registration is not certified")]
    NotCertified,
    /// The registration is permanent.
    #[error("the registration is permanent")]
    Permanent,
    /// The certificate proves nothing, or something else.
    #[error("storage certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// The certificate is for another blob.
    #[error("the certificate is for another blob")]
    OtherBlob,
    /// The name has another version.
    #[error("the name has version {version}: a change makes version {expected}")]
    NameVersion {
        /// The version that the transaction would make.
        version: u64,
        /// What it would have to make.
        expected: u64,
    },
    /// The votes prove nothing.
    #[error("equivocation: {0}")]
    Equivocation(#[from] EquivocationError),
    /// The votes are too old, not yet possible, or not of a member.
    #[error("no committee that can still be punished contains this voter at that height")]
    NotPunishable,
    /// The round of challenges never opened in the running epoch, or is over.
    #[error("challenge round {0} is not open")]
    ChallengeRound(ChallengeRound),
    /// The round is open, but the node needs no certificate.
    #[error("challenge: {0}")]
    Challenge(#[from] NotOpen),
    /// The certificate passes nobody.
    #[error("challenge certificate: {0}")]
    ChallengeCertificate(#[from] ChallengeCertificateError),
    /// The offence has been punished in that epoch already.
    #[error("punished already")]
    Punished,
}

/// Why a block is refused.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// Not the next height.
    #[error("block of height {height}, not {expected}")]
    Height {
        /// The block's height.
        height: Height,
        /// The next one.
        expected: Height,
    },
    /// A field of the header is not what it must be.
    #[error("the block's {0} is wrong")]
    Header(&'static str),
    /// The body is too long, or its transactions leave no room for system operations.
    #[error("the block is too large")]
    TooLarge,
    /// The commit record is not the parent's.
    #[error("commit record: {0}")]
    CommitRecord(#[from] CommitRecordError),
    /// A transaction is malformed or not signed by its sender.
    #[error("transaction {position}: {error}")]
    Transaction {
        /// Its position.
        position: usize,
        /// Why.
        error: TransactionError,
    },
    /// A transaction or system operation fails.
    #[error("operation of transaction {position}: {error}")]
    Operation {
        /// Position of the transaction; system operations are counted on their own.
        position: usize,
        /// Why.
        error: OperationError,
    },
    /// The store failed: fatal.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl BlockError {
    /// Whether the fault is this node's own, not the block's.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        matches!(self, Self::Read(_))
    }
}

/// Why a commit record is refused.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum CommitRecordError {
    /// The first block has no parent to record; every other has.
    #[error("a parent's certificate is missing, or of another block")]
    Parent,
    /// The certificate proves nothing.
    #[error(transparent)]
    Certificate(#[from] CommitCertificateError),
    /// A late precommit is out of order, too old, recorded already, or not the voter's.
    #[error("late precommit for height {0}")]
    Late(Height),
}

/// What stops an operation: the state's refusal, or a store that fails.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The state refuses.
    #[error(transparent)]
    Refused(#[from] OperationError),
    /// The store fails: nothing can be said.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<CertificateError> for Failure {
    fn from(error: CertificateError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<ChallengeCertificateError> for Failure {
    fn from(error: ChallengeCertificateError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<NotOpen> for Failure {
    fn from(error: NotOpen) -> Self {
        Self::Refused(error.into())
    }
}

impl From<EquivocationError> for Failure {
    fn from(error: EquivocationError) -> Self {
        Self::Refused(error.into())
    }
}
