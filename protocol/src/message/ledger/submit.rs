//! Why a node does not take a transaction: a closed set, so that a wallet can act on it.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::ledger::{Amount, OperationError, TransactionError};

/// Why a node does not take a transaction or a system operation.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    thiserror::Error,
    Serialize,
    Deserialize,
    BorshSerialize,
    BorshDeserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum SubmitError {
    /// No transaction, or one with fields out of range.
    #[error("malformed transaction")]
    Malformed,
    /// The signature is not the sender's, or for another network.
    #[error("signature of the transaction does not verify")]
    Signature,
    /// The nonce has been used, or is too far ahead.
    #[error("the next nonce of the account is {expected}")]
    Nonce {
        /// What it would have to be.
        expected: u64,
    },
    /// The sender can't pay.
    #[error("the account has too little WAL")]
    Funds,
    /// The mempool has no room, for this account or at this fee.
    #[error("too many transactions are waiting: pay a higher fee or try later")]
    Full,
    /// The fee is too low.
    #[error("the least fee is {min}")]
    Fee {
        /// The least.
        min: Amount,
    },
    /// The transaction came too late.
    #[error("the transaction has expired")]
    Expired,
    /// It is waiting already, or has been committed.
    #[error("the transaction is known")]
    Known,
    /// The state refuses it.
    #[error("refused: {0}")]
    Refused(RefusedOperation),
}

/// Why the state refuses an operation, in short: a node that is asked for the records concerned
/// proves the rest.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    thiserror::Error,
    Serialize,
    Deserialize,
    BorshSerialize,
    BorshDeserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum RefusedOperation {
    /// An amount exceeds what an amount can be.
    #[error("amount out of range")]
    Overflow,
    /// There is no such node, or its keys belong to another, or did not consent.
    #[error("no such storage node, or not its keys")]
    Node,
    /// The sender is not the one who may do this.
    #[error("the sender may not do this")]
    NotOwner,
    /// The node is not jailed, or its term is not over.
    #[error("the node is not jailed, or not for long enough")]
    Jail,
    /// Pool, shares or unbonding do not allow it.
    #[error("the stake does not allow it")]
    Stake,
    /// The blob cannot be stored in this network.
    #[error("the blob cannot be stored in this network")]
    Blob,
    /// Too many epochs ahead.
    #[error("too many epochs ahead")]
    TooFarAhead,
    /// The price exceeds what the sender agreed to.
    #[error("the price is more than the agreed one")]
    Price,
    /// The network is full.
    #[error("the network is full")]
    Capacity,
    /// There is no such registration, or it does not allow it.
    #[error("no such registration, or it does not allow this")]
    Registration,
    /// A registration of the sender's serves already.
    #[error("a registration of the same account serves already")]
    AlreadyRegistered,
    /// The registration ends in another epoch than the sender thought.
    #[error("the registration ends in another epoch")]
    OtherEnd,
    /// The registration is certified already.
    #[error("the registration is certified already")]
    AlreadyCertified,
    /// The storage certificate proves nothing, or something else.
    #[error("the storage certificate does not verify")]
    Certificate,
    /// The name has another version.
    #[error("the name has another version")]
    NameVersion,
    /// The votes prove nothing that is still to be punished.
    #[error("no offence that is still to be punished")]
    Equivocation,
    /// A node's report of itself is old, known, or not its own.
    #[error("the report is known, too old, or not of this node and epoch")]
    Report,
    /// The challenge round is over, or does not ask for the node, or it is not certified.
    #[error("the challenge round does not take this certificate")]
    Challenge,
}

impl From<&TransactionError> for SubmitError {
    fn from(error: &TransactionError) -> Self {
        match error {
            TransactionError::Signature => Self::Signature,
            TransactionError::TooLarge { .. }
            | TransactionError::Malformed
            | TransactionError::Operations
            | TransactionError::Field(_) => Self::Malformed,
        }
    }
}

impl From<&OperationError> for SubmitError {
    fn from(error: &OperationError) -> Self {
        use OperationError as E;
        use RefusedOperation as R;
        Self::Refused(match error {
            E::Nonce { expected, .. } => return Self::Nonce { expected: *expected },
            E::Expired { .. } => return Self::Expired,
            E::Fee { min, .. } => return Self::Fee { min: *min },
            E::Funds { .. } => return Self::Funds,
            E::Overflow => R::Overflow,
            // One transaction alone always fits a block.
            E::BlockFull => return Self::Full,
            E::OtherEpoch { .. } | E::Reported | E::OldBlock(_) | E::Report | E::ForeignShard => {
                R::Report
            }
            E::NoNode | E::KeyTaken | E::Identity => R::Node,
            E::NotOwner { .. } => R::NotOwner,
            E::Jail => R::Jail,
            E::PoolClosed
            | E::Shares
            | E::MinStake { .. }
            | E::NothingUnbonded
            | E::TooManyUnbondings => R::Stake,
            E::NoBlob | E::BlobHeader | E::BlobInvalid => R::Blob,
            E::TooFarAhead { .. } => R::TooFarAhead,
            E::Price { .. } => R::Price,
            E::Capacity { .. } => R::Capacity,
            E::NoRegistration | E::NotCertified | E::Permanent => R::Registration,
            E::AlreadyRegistered { .. } => R::AlreadyRegistered,
            E::OtherEnd { .. } => R::OtherEnd,
            E::AlreadyCertified => R::AlreadyCertified,
            E::Certificate(_) | E::OtherBlob => R::Certificate,
            E::NameVersion { .. } => R::NameVersion,
            E::Equivocation(_) | E::NotPunishable | E::Punished => R::Equivocation,
            E::ChallengeRound(_) | E::Challenge(_) | E::ChallengeCertificate(_) => R::Challenge,
        })
    }
}
