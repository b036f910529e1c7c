//! Transactions: lists of operations that happen together or not at all, signed by the account
//! that pays for them.
//!
//! A wallet makes one, any node takes it, gossip spreads it, the mempool holds it until a proposer
//! puts it into a block. A transaction in a committed block has been applied: one that fails
//! against the state is never included, so inclusion is the receipt.
//!
//! Invariants: the signature binds chain, sender, nonce, fee, expiry and operations; the id binds
//! the signature too, so a block's transaction root fixes every byte of its body; a
//! [`VerifiedTransaction`] has passed every check that needs no state, once.

use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use super::{AccountId, Amount, Operation, Timestamp};
use crate::{
    hash::{Domain, Hash},
    keys::{ChainId, KeyPair, Signature, SignatureBatch, SigningDomain},
    registration::RegistrationId,
};

/// Longest signed transaction in bytes.
pub const MAX_TRANSACTION_BYTES: usize = 32 << 10;
/// Most operations of a transaction.
pub const MAX_OPERATIONS: usize = 64;

/// The name of a transaction: the keyed hash of chain id and signed bytes.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    BorshSerialize,
    BorshDeserialize,
)]
#[serde(transparent)]
pub struct TransactionId(Hash);

impl TransactionId {
    /// Wraps a hash.
    #[must_use]
    pub const fn new(hash: Hash) -> Self {
        Self(hash)
    }

    /// The hash.
    #[must_use]
    pub const fn hash(&self) -> &Hash {
        &self.0
    }

    /// The registration that operation `index` of this transaction makes.
    #[must_use]
    pub fn registration(&self, chain: &ChainId, index: u32) -> RegistrationId {
        let index = index.to_le_bytes();
        let parts: [&[u8]; 3] = [chain.as_bytes(), self.0.as_bytes(), &index];
        RegistrationId::new(*Domain::Registration.hash(&parts).as_bytes())
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::str::FromStr for TransactionId {
    type Err = crate::hash::ParseHashError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// Why a transaction is refused before anybody looks at the state.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum TransactionError {
    /// More bytes than a transaction may have.
    #[error("transaction of {bytes} bytes exceeds the limit of {MAX_TRANSACTION_BYTES}")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
    },
    /// Not the layout of a transaction, or bytes left over.
    #[error("malformed transaction")]
    Malformed,
    /// No operations, or too many.
    #[error("a transaction has 1 to {MAX_OPERATIONS} operations")]
    Operations,
    /// A field is out of range.
    #[error("{0} of an operation is out of range")]
    Field(&'static str),
    /// The signature is not the sender's, or for another network.
    #[error("signature of the transaction does not verify")]
    Signature,
}

/// What an account wants done.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Transaction {
    /// Who pays.
    pub sender: AccountId,
    /// How many transactions of the sender came before.
    pub nonce: u64,
    /// Paid into the running epoch's bucket.
    pub fee: Amount,
    /// The last ledger time at which it may be included.
    pub expires: Timestamp,
    /// What happens, in order, all or nothing.
    pub operations: Vec<Operation>,
}

impl Transaction {
    /// Signs with the sender's key.
    #[must_use]
    pub fn sign(self, chain: &ChainId, key: &KeyPair) -> SignedTransaction {
        let signature = key.sign(&self.message(chain));
        SignedTransaction { transaction: self, signature }
    }

    /// What is signed: tag, chain id, then sender (32), nonce (u64 LE), fee (u128 LE), expiry (u64
    /// LE, milliseconds since the Unix epoch), operations (u32 LE count, each in borsh's layout).
    fn message(&self, chain: &ChainId) -> Vec<u8> {
        let bytes = borsh::to_vec(self).expect("writing to memory");
        SigningDomain::Transaction.message(&[chain.as_bytes(), &bytes])
    }
}

/// A transaction as it travels: its layout, then the signature (64).
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct SignedTransaction {
    /// What is to be done.
    pub transaction: Transaction,
    /// The sender's.
    pub signature: Signature,
}

impl SignedTransaction {
    /// The bytes of the layout.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        borsh::to_vec(self).expect("writing to memory")
    }

    /// Parses the layout; nothing else is checked.
    ///
    /// # Errors
    /// [`TransactionError::TooLarge`], [`TransactionError::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TransactionError> {
        if bytes.len() > MAX_TRANSACTION_BYTES {
            return Err(TransactionError::TooLarge { bytes: bytes.len() });
        }
        borsh::from_slice(bytes).map_err(|_| TransactionError::Malformed)
    }

    /// The id on `chain`.
    #[must_use]
    pub fn id(&self, chain: &ChainId) -> TransactionId {
        TransactionId(Domain::Transaction.hash(&[chain.as_bytes(), &self.to_bytes()]))
    }

    /// Checks everything that needs no state. The signature comes last: it costs most.
    ///
    /// # Errors
    /// [`TransactionError`]: no block may hold it.
    pub fn verify(self, chain: &ChainId) -> Result<VerifiedTransaction, TransactionError> {
        let encoded = Encoded::new(self, chain);
        encoded.check()?;
        let (sender, signature) = (encoded.signed.transaction.sender, &encoded.signed.signature);
        if !sender.key().verify(&encoded.message(chain), signature) {
            return Err(TransactionError::Signature);
        }
        Ok(encoded.verified())
    }

    /// [`Self::verify`] of each of them, in their order: many cost little more than half, if all
    /// are right.
    #[must_use]
    pub fn verify_all(
        transactions: impl IntoIterator<Item = Self>,
        chain: &ChainId,
    ) -> Vec<Result<VerifiedTransaction, TransactionError>> {
        let encoded = transactions.into_iter().map(|signed| Encoded::new(signed, chain));
        Encoded::verify_all(encoded.collect(), chain, &|_| false)
    }
}

/// A transaction with its layout and its id, computed once. Nothing is verified yet.
#[derive(Debug)]
pub(super) struct Encoded {
    signed: SignedTransaction,
    bytes: Vec<u8>,
    id: TransactionId,
}

impl Encoded {
    pub(super) fn new(signed: SignedTransaction, chain: &ChainId) -> Self {
        let bytes = signed.to_bytes();
        let id = TransactionId(Domain::Transaction.hash(&[chain.as_bytes(), &bytes]));
        Self { signed, bytes, id }
    }

    pub(super) const fn id(&self) -> TransactionId {
        self.id
    }

    /// Judges each of them; the signatures together, but for those that `known` has seen verified.
    pub(super) fn verify_all(
        transactions: Vec<Self>,
        chain: &ChainId,
        known: &dyn Fn(&TransactionId) -> bool,
    ) -> Vec<Result<VerifiedTransaction, TransactionError>> {
        let mut batch = SignatureBatch::new();
        let mut in_batch = Vec::new();
        let mut judged = Vec::with_capacity(transactions.len());
        for (position, encoded) in transactions.iter().enumerate() {
            let checked = encoded.check();
            if checked.is_ok() && !known(&encoded.id) {
                let sender = encoded.signed.transaction.sender;
                batch.add(sender.key(), &encoded.message(chain), &encoded.signed.signature);
                in_batch.push(position);
            }
            judged.push(checked);
        }
        for wrong in batch.wrong() {
            judged[in_batch[wrong]] = Err(TransactionError::Signature);
        }
        let results = transactions.into_iter().zip(judged);
        results.map(|(encoded, judged)| judged.map(|()| encoded.verified())).collect()
    }

    /// Everything that needs neither state nor signature.
    fn check(&self) -> Result<(), TransactionError> {
        let bytes = self.bytes.len();
        if bytes > MAX_TRANSACTION_BYTES {
            return Err(TransactionError::TooLarge { bytes });
        }
        let operations = &self.signed.transaction.operations;
        if operations.is_empty() || operations.len() > MAX_OPERATIONS {
            return Err(TransactionError::Operations);
        }
        operations.iter().try_for_each(Operation::check)
    }

    /// What the sender signs: the layout ends with the signature.
    fn message(&self, chain: &ChainId) -> Vec<u8> {
        let body = self.bytes.len().saturating_sub(self.signed.signature.as_bytes().len());
        SigningDomain::Transaction.message(&[chain.as_bytes(), &self.bytes[..body]])
    }

    fn verified(self) -> VerifiedTransaction {
        VerifiedTransaction { bytes: self.bytes.len(), id: self.id, signed: self.signed }
    }
}

/// A transaction whose signature and shape are right. Only the state can refuse it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedTransaction {
    signed: SignedTransaction,
    id: TransactionId,
    bytes: usize,
}

impl VerifiedTransaction {
    /// The transaction.
    #[must_use]
    pub const fn transaction(&self) -> &Transaction {
        &self.signed.transaction
    }

    /// The transaction with its signature.
    #[must_use]
    pub const fn signed(&self) -> &SignedTransaction {
        &self.signed
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> TransactionId {
        self.id
    }

    /// Its length in a block, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}
