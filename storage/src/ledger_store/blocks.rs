//! Blocks on disk: what a commit makes durable before it returns.
//!
//! A commit writes few rows under keys that follow those of the last one, then the tip: from there
//! on the block is there. A start removes the rows above the tip, which a crash left.
//!
//! A ledger that begins with a snapshot has no blocks up to the snapshot's height: of that height
//! it has header and certificate, and of those before only what ends an epoch.
//!
//! Beside the end of an epoch there may be its hand-over certificate, which comes later than the
//! block, or not at all. Of an end that came with a snapshot it may stand for the commit certificate.
//!
//! Invariant: a height up to the tip and above the first has header, body and certificate; nothing
//! above the tip is shown.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use borsh::BorshDeserialize;
use floe_protocol::{
    handover::HandoverCertificate,
    index::{Epoch, Height},
};

use super::{
    Committed, EpochEnd, StoredBlock,
    rows::{self, Kind},
};
use crate::{StorageError, database::Table};

/// The tip of a store without genesis, in memory.
const NO_TIP: u64 = u64::MAX;

/// The newest height and what its owner left with it.
#[derive(Clone, Debug)]
struct Tip {
    height: u64,
    /// The height whose row has the bytes.
    row: u64,
    bytes: Arc<[u8]>,
}

/// The blocks of a ledger.
#[derive(Debug)]
pub(super) struct Blocks {
    table: Table,
    tip: Mutex<Option<Tip>>,
    /// Its height, for readers.
    height: AtomicU64,
    /// What the blocks begin after: 0, or the height of a snapshot.
    first: AtomicU64,
}

impl Blocks {
    /// Reads the tip and removes what is above it.
    pub(super) fn recover(table: Table, first: u64) -> Result<Self, StorageError> {
        let tip = read_tip(&table)?;
        match &tip {
            Some(tip) => remove_unfinished(&table, tip)?,
            None => clear(&table)?,
        }
        let height = AtomicU64::new(tip.as_ref().map_or(NO_TIP, |tip| tip.height));
        Ok(Self { table, tip: Mutex::new(tip), height, first: AtomicU64::new(first) })
    }

    /// Shows the snapshot of a height, which is on disk.
    pub(super) fn show_snapshot(&self, height: u64) -> Result<(), StorageError> {
        let tip = read_tip(&self.table)?;
        self.first.store(height, Ordering::Release);
        *self.lock() = tip;
        self.height.store(height, Ordering::Release);
        Ok(())
    }

    /// The height that blocks follow: 0, or that of a snapshot.
    pub(super) fn first(&self) -> u64 {
        self.first.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Tip>> {
        self.tip.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest height.
    pub(super) fn height(&self) -> Option<u64> {
        Some(self.height.load(Ordering::Acquire)).filter(|tip| *tip != NO_TIP)
    }

    /// Whether `height` is committed.
    pub(super) fn holds(&self, height: u64) -> bool {
        self.height().is_some_and(|tip| height <= tip)
    }

    pub(super) fn tip(&self) -> Option<(Height, Vec<u8>)> {
        self.lock().as_ref().map(|tip| (Height::new(tip.height), tip.bytes.to_vec()))
    }

    /// Writes a block's rows. The caller flushes, then publishes.
    pub(super) fn write(&self, committed: &Committed<'_>) -> Result<(), StorageError> {
        let height = committed.block.header.height.get();
        let row = |kind| rows::numbered(kind, height);
        let block = committed.block;
        rows::put(&self.table, &row(Kind::Header), &to_bytes(&block.header))?;
        rows::put(&self.table, &row(Kind::Body), &to_bytes(&block.body))?;
        rows::put(&self.table, &row(Kind::Certificate), &to_bytes(committed.certificate))?;
        if let Some(end) = committed.epoch_end {
            write_epoch_end(&self.table, height, end)?;
        }
        self.write_tip(height, committed.tip)
    }

    /// Writes the tip, behind all that belongs to it.
    pub(super) fn write_tip(&self, height: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let before = self.lock().clone();
        let same = before.as_ref().filter(|before| *before.bytes == *bytes);
        let row = same.map_or(height, |before| before.row);
        if same.is_none() {
            rows::put(&self.table, &rows::numbered(Kind::TipBytes, row), bytes)?;
        }
        let tip = [height.to_be_bytes(), row.to_be_bytes()].concat();
        self.table.insert(&rows::key(Kind::Tip, &[]), &tip)?;
        match before.filter(|before| before.row != row) {
            Some(before) => rows::remove(&self.table, &rows::numbered(Kind::TipBytes, before.row)),
            None => Ok(()),
        }
    }

    /// Shows a height that is durable.
    pub(super) fn publish(&self, height: u64, bytes: &[u8]) {
        let mut tip = self.lock();
        let same = tip.take().filter(|before| *before.bytes == *bytes);
        let shown = same.map_or_else(
            || Tip { height, row: height, bytes: bytes.into() },
            |before| Tip { height, ..before },
        );
        *tip = Some(shown);
        self.height.store(height, Ordering::Release);
    }

    /// A row of a height's block; none above the tip, none of genesis, and of what a snapshot
    /// stands for only what is kept.
    pub(super) fn bytes(
        &self,
        kind: Kind,
        height: Height,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        let height = height.get();
        if height == 0 || !self.holds(height) {
            return Ok(None);
        }
        let first = self.first();
        match rows::get(&self.table, &rows::numbered(kind, height))? {
            None if height < first || (height == first && kind == Kind::Body) => Ok(None),
            None => Err(self.table.corrupt()),
            bytes => Ok(bytes),
        }
    }

    /// The same, parsed.
    pub(super) fn parsed<T: BorshDeserialize>(
        &self,
        kind: Kind,
        height: Height,
    ) -> Result<Option<T>, StorageError> {
        let Some(bytes) = self.bytes(kind, height)? else {
            return Ok(None);
        };
        borsh::from_slice(&bytes).map(Some).map_err(|_| self.table.corrupt())
    }

    pub(super) fn epoch_end(&self, epoch: Epoch) -> Result<Option<Height>, StorageError> {
        let row = rows::numbered(Kind::EpochEnd, epoch.get());
        let Some(height) = rows::get(&self.table, &row)? else {
            return Ok(None);
        };
        let height = rows::number_of(&self.table, &height)?;
        Ok(Some(Height::new(height)).filter(|_| self.holds(height)))
    }

    pub(super) fn committee(&self, epoch: Epoch) -> Result<Option<Vec<u8>>, StorageError> {
        let before = epoch.get().checked_sub(1).map(Epoch::new);
        match before.map(|before| self.epoch_end(before)).transpose()?.flatten() {
            Some(_) => rows::get(&self.table, &committee_row(epoch)),
            None => Ok(None),
        }
    }

    /// Writes the certificate of an epoch that has ended here; whether it has.
    pub(super) fn put_handover_certificate(
        &self,
        certificate: &HandoverCertificate,
    ) -> Result<bool, StorageError> {
        let fact = certificate.fact;
        let has_ended = self.epoch_end(fact.epoch)? == Some(fact.height);
        if has_ended {
            write_handover_certificate(&self.table, certificate)?;
        }
        Ok(has_ended)
    }

    pub(super) fn handover_certificate(
        &self,
        epoch: Epoch,
    ) -> Result<Option<HandoverCertificate>, StorageError> {
        if self.epoch_end(epoch)?.is_none() {
            return Ok(None);
        }
        let Some(bytes) = rows::get(&self.table, &handover_certificate_row(epoch))? else {
            return Ok(None);
        };
        HandoverCertificate::from_bytes(&bytes).map(Some).map_err(|_| self.table.corrupt())
    }

    pub(super) fn blocks(
        &self,
        from: Height,
        max_bytes: usize,
    ) -> Result<Vec<StoredBlock>, StorageError> {
        let mut blocks = Vec::new();
        if self.first() > 0 && from.get() <= self.first() {
            return Ok(blocks);
        }
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
}

/// Writes where an epoch ends. The height's header and certificate are written before.
pub(super) fn write_epoch_end(
    table: &Table,
    height: u64,
    EpochEnd { epoch, next_committee }: EpochEnd<'_>,
) -> Result<(), StorageError> {
    let end = rows::numbered(Kind::EpochEnd, epoch.get());
    rows::put(table, &end, &height.to_be_bytes())?;
    rows::put(table, &committee_row(epoch.plus(1)), next_committee)
}

/// Writes a certificate. It is short: one row, whole or not there.
pub(super) fn write_handover_certificate(
    table: &Table,
    certificate: &HandoverCertificate,
) -> Result<(), StorageError> {
    let row = handover_certificate_row(certificate.fact.epoch);
    rows::put(table, &row, &certificate.to_bytes())
}

/// Writes the first tip of a ledger that begins with a snapshot.
pub(super) fn write_first_tip(
    table: &Table,
    height: u64,
    bytes: &[u8],
) -> Result<(), StorageError> {
    rows::put(table, &rows::numbered(Kind::TipBytes, height), bytes)?;
    table.insert(&rows::key(Kind::Tip, &[]), &height.to_be_bytes().repeat(2))
}

/// The height of the tip on disk.
pub(super) fn tip_height(table: &Table) -> Result<Option<u64>, StorageError> {
    Ok(read_tip(table)?.map(|tip| tip.height))
}

fn committee_row(epoch: Epoch) -> Vec<u8> {
    rows::numbered(Kind::Committee, epoch.get())
}

fn handover_certificate_row(epoch: Epoch) -> Vec<u8> {
    rows::numbered(Kind::HandoverCertificate, epoch.get())
}

fn to_bytes<T: borsh::BorshSerialize>(value: &T) -> Vec<u8> {
    borsh::to_vec(value).expect("writing to memory")
}

fn read_tip(table: &Table) -> Result<Option<Tip>, StorageError> {
    let Some(tip) = table.get(&rows::key(Kind::Tip, &[]))? else {
        return Ok(None);
    };
    let (height, row) = tip.split_at_checked(8).ok_or_else(|| table.corrupt())?;
    let (height, row) = (rows::number_of(table, height)?, rows::number_of(table, row)?);
    let bytes = rows::get(table, &rows::numbered(Kind::TipBytes, row))?;
    let bytes = bytes.ok_or_else(|| table.corrupt())?.into();
    Ok(Some(Tip { height, row, bytes }))
}

/// Removes what a commit left that never came to its tip, or did not end behind it.
fn remove_unfinished(table: &Table, tip: &Tip) -> Result<(), StorageError> {
    let next = tip.height + 1;
    for kind in [Kind::Header, Kind::Body, Kind::Certificate, Kind::TipBytes] {
        rows::remove_unfinished(table, &rows::numbered(kind, next))?;
    }
    for row in rows::keys(table, rows::all(Kind::TipBytes))? {
        if rows::number(table, &row)? != tip.row {
            rows::remove_unfinished(table, &row)?;
        }
    }
    for row in rows::keys(table, rows::all(Kind::EpochEnd))? {
        let end = rows::get(table, &row)?.ok_or_else(|| table.corrupt())?;
        if rows::number_of(table, &end)? > tip.height {
            let epoch = Epoch::new(rows::number(table, &row)?);
            // First what hides behind it.
            rows::remove_unfinished(table, &committee_row(epoch.plus(1)))?;
            rows::remove_unfinished(table, &handover_certificate_row(epoch))?;
            rows::remove(table, &row)?;
        }
    }
    Ok(())
}

/// Removes a genesis that was not written to its end.
fn clear(table: &Table) -> Result<(), StorageError> {
    for row in table.rows() {
        table.remove(&row?.0)?;
    }
    Ok(())
}
