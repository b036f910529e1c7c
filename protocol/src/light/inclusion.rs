//! Proof that a transaction is in a block. As only what was applied is in blocks, it is a receipt.

use borsh::{BorshDeserialize, BorshSerialize};

use super::CertifiedHeader;
use crate::{
    hash::{Domain, Hash},
    keys::ChainId,
    ledger::{Body, Header, MAX_BLOCK_BYTES, SignedTransaction, TransactionId},
    merkle::{self, MerkleTree},
};

/// A transaction, where it stands in its block, and the path that shows it. Unverified: see
/// [`LightClient::inclusion`](super::LightClient::inclusion).
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Inclusion {
    /// The block's header.
    pub certified: CertifiedHeader,
    /// The signed transaction's layout.
    pub transaction: Vec<u8>,
    /// The transaction's leaf; the block's system operations come first.
    pub position: u32,
    /// Leaves of the block's transaction tree.
    pub leaves: u32,
    /// The siblings of the leaf, from below upwards.
    pub path: Vec<Hash>,
}

/// A proof that shows nothing of the transaction asked for.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum InclusionError {
    /// The bytes are no transaction.
    #[error("no transaction")]
    Malformed,
    /// It is another transaction.
    #[error("proof of another transaction")]
    OtherTransaction,
    /// The path does not lead from the transaction to the header.
    #[error("the path does not lead to the transactions root of the header")]
    Path,
}

impl Inclusion {
    /// Proves that the transaction at `index` of `body`, counted without system operations, is in
    /// the block. `None` if there is none.
    #[must_use]
    pub fn new(
        chain: &ChainId,
        certified: CertifiedHeader,
        body: &Body,
        index: usize,
    ) -> Option<Self> {
        let transaction = body.transactions.get(index)?.to_bytes();
        let position = body.system.len().checked_add(index)?;
        let leaves = body.transaction_leaves(chain);
        let count = u32::try_from(leaves.len()).ok()?;
        let path = MerkleTree::new(Domain::TransactionNode, leaves).path(position);
        let position = u32::try_from(position).ok()?;
        Some(Self { certified, transaction, position, leaves: count, path })
    }

    /// Checks that `header`, which the caller has verified, includes the transaction `id`, and
    /// gives it.
    ///
    /// # Errors
    /// [`InclusionError`]: it proves nothing.
    pub fn verify(
        &self,
        chain: &ChainId,
        header: &Header,
        id: &TransactionId,
    ) -> Result<SignedTransaction, InclusionError> {
        let signed = SignedTransaction::from_bytes(&self.transaction)
            .map_err(|_| InclusionError::Malformed)?;
        if signed.id(chain) != *id {
            return Err(InclusionError::OtherTransaction);
        }
        let index = usize::try_from(self.position).map_err(|_| InclusionError::Path)?;
        let leaves = usize::try_from(self.leaves).map_err(|_| InclusionError::Path)?;
        // Each leaf stands for at least a byte of a block.
        if leaves > MAX_BLOCK_BYTES {
            return Err(InclusionError::Path);
        }
        let place = (index, leaves);
        let (root, leaf) = (&header.transactions_root, *id.hash());
        if merkle::verify(Domain::TransactionNode, root, place, leaf, &self.path) {
            Ok(signed)
        } else {
            Err(InclusionError::Path)
        }
    }
}
