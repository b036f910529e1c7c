//! Blocks by height, by hash and by transaction, as anybody may read them.
//!
//! A block lies in three rows, so that headers and certificates are read without bodies. Rows
//! above the tip belong to a commit that has not ended: they are not there yet.

use borsh::BorshDeserialize;
use floe_protocol::{
    index::{Epoch, Height},
    ledger::{Block, BlockHash, Header, TransactionId},
    vote::CommitCertificate,
};

use super::{
    LedgerStore,
    rows::{self, Kind},
};
use crate::StorageError;

/// A block as it is kept and sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBlock {
    /// The bytes of [`Block::to_bytes`].
    pub block: Vec<u8>,
    /// The bytes of its commit certificate.
    pub certificate: Vec<u8>,
}

impl LedgerStore {
    /// The newest height, 0 for genesis, and what its owner left with it; none before genesis.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn tip(&self) -> Result<Option<(Height, Vec<u8>)>, StorageError> {
        // A commit takes away the bytes of the tip before.
        let _writer = self.lock();
        let Some(tip) = self.tip_height() else {
            return Ok(None);
        };
        let bytes = rows::get(&self.table, &rows::numbered(Kind::TipBytes, tip))?;
        let bytes = bytes.ok_or_else(|| self.table.corrupt())?;
        Ok(Some((Height::new(tip), bytes)))
    }

    /// The block of a height; none above the tip, and none of genesis.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn block(&self, height: Height) -> Result<Option<Block>, StorageError> {
        let header = self.parsed(Kind::Header, height)?;
        let body = self.parsed(Kind::Body, height)?;
        Ok(header.zip(body).map(|(header, body)| Block { header, body }))
    }

    /// The header of a height. Reads no body.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn header(&self, height: Height) -> Result<Option<Header>, StorageError> {
        self.parsed(Kind::Header, height)
    }

    /// Why the block of a height is final.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn certificate(&self, height: Height) -> Result<Option<CommitCertificate>, StorageError> {
        self.parsed(Kind::Certificate, height)
    }

    /// The height of a block.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn height_of(&self, hash: &BlockHash) -> Result<Option<Height>, StorageError> {
        self.height_at(&rows::key(Kind::Hash, &[hash.hash().as_bytes()]))
    }

    /// Height and position of a transaction.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn transaction(&self, id: &TransactionId) -> Result<Option<(Height, u32)>, StorageError> {
        let key = rows::key(Kind::Transaction, &[id.hash().as_bytes()]);
        let Some(place) = rows::get(&self.table, &key)? else {
            return Ok(None);
        };
        let (height, position) = place.split_first_chunk().ok_or_else(|| self.table.corrupt())?;
        let position = position.try_into().map_err(|_| self.table.corrupt())?;
        let place = (Height::new(u64::from_be_bytes(*height)), u32::from_be_bytes(position));
        Ok(Some(place).filter(|(height, _)| self.holds(height.get())))
    }

    /// The last block of an epoch that has ended.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn epoch_end(&self, epoch: Epoch) -> Result<Option<Height>, StorageError> {
        self.height_at(&rows::numbered(Kind::EpochEnd, epoch.get()))
    }

    /// Blocks from a height on, as many as `max_bytes` hold, but one at least if it is there.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn blocks(&self, from: Height, max_bytes: usize) -> Result<Vec<StoredBlock>, StorageError> {
        let mut blocks = Vec::new();
        let mut bytes = 0;
        for height in (from.get()..).map(Height::new) {
            let Some(mut block) = self.bytes(Kind::Header, height)? else {
                break;
            };
            let part = |kind| self.bytes(kind, height)?.ok_or_else(|| self.table.corrupt());
            block.extend(part(Kind::Body)?);
            let certificate = part(Kind::Certificate)?;
            bytes += block.len() + certificate.len();
            if bytes > max_bytes && !blocks.is_empty() {
                break;
            }
            blocks.push(StoredBlock { block, certificate });
        }
        Ok(blocks)
    }

    /// A row of a height's block.
    fn bytes(&self, kind: Kind, height: Height) -> Result<Option<Vec<u8>>, StorageError> {
        let height = height.get();
        if height == 0 || !self.holds(height) {
            return Ok(None);
        }
        match rows::get(&self.table, &rows::numbered(kind, height))? {
            None => Err(self.table.corrupt()),
            bytes => Ok(bytes),
        }
    }

    fn parsed<T: BorshDeserialize>(
        &self,
        kind: Kind,
        height: Height,
    ) -> Result<Option<T>, StorageError> {
        let Some(bytes) = self.bytes(kind, height)? else {
            return Ok(None);
        };
        borsh::from_slice(&bytes).map(Some).map_err(|_| self.table.corrupt())
    }

    /// The height in a row.
    fn height_at(&self, key: &[u8]) -> Result<Option<Height>, StorageError> {
        let Some(height) = rows::get(&self.table, key)? else {
            return Ok(None);
        };
        let height: [u8; 8] = height.try_into().map_err(|_| self.table.corrupt())?;
        let height = u64::from_be_bytes(height);
        Ok(Some(Height::new(height)).filter(|_| self.holds(height)))
    }
}
