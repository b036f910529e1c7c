//! A ledger that begins with a snapshot instead of its first block.
//!
//! The state comes in parts, as it is restored, and is written into runs that nothing names: after
//! a crash they are removed like those of an interrupted merge. At the end one row, the *base*, says
//! all that the store has to say from then on: the block, the runs, the tip. That row is the
//! commit: before it the store is what it was, behind it the other rows are written, now or, after a
//! crash, at the next start. It stays, and tells below which height there are no blocks.
//!
//! Invariant: a base that is on disk has all of its runs, which were written before it. Nothing is
//! verified here: the owner has compared the state's root with a header that is final.

use std::sync::Arc;

use borsh::{BorshDeserialize, BorshSerialize};
use floe_protocol::{
    ledger::{Header, StateChange},
    light::Finality,
    vote::CommitCertificate,
};

use super::{
    EpochEnd, blocks,
    memory::Layer,
    merge::{self, Runs},
    rows::{self, Kind},
    state::States,
};
use crate::{StorageError, database::Table};

/// The block that a ledger begins with, whose state was written before.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    /// Its header.
    pub header: &'a Header,
    /// Why it is final.
    pub certificate: &'a CommitCertificate,
    /// The layout of the next epoch's committee, if the block ends its epoch.
    pub next_committee: Option<&'a [u8]>,
    /// The ends of epochs before, as far as they are known: for those who follow the committees.
    pub ends: &'a [InstalledEnd<'a>],
    /// What the owner needs beside the state to go on from here.
    pub tip: &'a [u8],
}

/// The last block of an epoch before the snapshot.
#[derive(Clone, Copy, Debug)]
pub struct InstalledEnd<'a> {
    /// Its header.
    pub header: &'a Header,
    /// Why it is final.
    pub finality: &'a Finality,
    /// The layout of the next epoch's committee.
    pub next_committee: &'a [u8],
}

/// The base row.
#[derive(Debug, BorshSerialize, BorshDeserialize)]
struct Base {
    header: Header,
    certificate: CommitCertificate,
    next_committee: Option<Vec<u8>>,
    tip: Vec<u8>,
    /// The checkpoint row.
    checkpoint: Vec<u8>,
}

impl Base {
    /// Writes what the other rows have to say. Repeated, it writes the same.
    fn apply(&self, table: &Table) -> Result<(), StorageError> {
        let height = self.header.height.get();
        write_block(table, &self.header, &self.certificate)?;
        if let Some(next_committee) = &self.next_committee {
            let end = EpochEnd { epoch: self.header.epoch, next_committee };
            blocks::write_epoch_end(table, height, end)?;
        }
        merge::write_checkpoint(table, &self.checkpoint)?;
        blocks::write_first_tip(table, height, &self.tip)
    }
}

fn write_block(
    table: &Table,
    header: &Header,
    certificate: &CommitCertificate,
) -> Result<(), StorageError> {
    let row = rows::numbered(Kind::Certificate, header.height.get());
    rows::put(table, &row, &borsh::to_vec(certificate).expect("writing to memory"))?;
    write_header(table, header)
}

fn write_header(table: &Table, header: &Header) -> Result<(), StorageError> {
    let row = rows::numbered(Kind::Header, header.height.get());
    rows::put(table, &row, &borsh::to_vec(header).expect("writing to memory"))
}

/// Writes the end of an epoch before the snapshot, with the certificate that there is.
fn write_end(table: &Table, end: &InstalledEnd<'_>) -> Result<(), StorageError> {
    let InstalledEnd { header, finality, next_committee } = *end;
    match finality {
        Finality::Commit(certificate) => write_block(table, header, certificate)?,
        Finality::Handover(certificate) => {
            blocks::write_handover_certificate(table, certificate)?;
            write_header(table, header)?;
        }
    }
    let end = EpochEnd { epoch: header.epoch, next_committee };
    blocks::write_epoch_end(table, header.height.get(), end)
}

fn base_row() -> Vec<u8> {
    rows::key(Kind::Base, &[])
}

/// Ends an installation that a crash interrupted; the height that blocks follow.
pub(super) fn recover(table: &Table) -> Result<u64, StorageError> {
    let Some(base) = rows::get(table, &base_row())? else {
        // What of it was written means nothing.
        rows::remove_unfinished(table, &base_row())?;
        return Ok(0);
    };
    let base: Base = borsh::from_slice(&base).map_err(|_| table.corrupt())?;
    let height = base.header.height.get();
    if blocks::tip_height(table)?.is_none_or(|tip| tip < height) {
        base.apply(table)?;
    }
    Ok(height)
}

/// A state on its way to the disk.
#[derive(Debug)]
pub struct Installation {
    states: Arc<States>,
    version: u64,
    /// What has come and is not written yet.
    pending: StateChange,
    pending_bytes: usize,
    /// What is written, and named by nothing.
    runs: Runs,
}

impl Installation {
    pub(super) fn new(states: Arc<States>, version: u64) -> Self {
        let pending = StateChange { version, ..StateChange::default() };
        Self { states, version, pending, pending_bytes: 0, runs: Runs::default() }
    }

    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    /// Takes a part of the state: nodes, values and entries of the index that no other part has.
    /// So much as is merged at a time stays in memory.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn write(&mut self, part: StateChange) -> Result<(), StorageError> {
        let StateChange { nodes, values, index_added, .. } = part;
        let node_bytes = nodes.iter().map(|(key, node)| key.len() + node.len());
        let values_bytes = values.iter().map(|(_, value)| value.as_ref().map_or(0, Vec::len));
        let index_bytes = index_added.iter().map(Vec::len);
        self.pending_bytes += node_bytes.chain(values_bytes).chain(index_bytes).sum::<usize>();
        self.pending.nodes.extend(nodes);
        self.pending.values.extend(values);
        self.pending.index_added.extend(index_added);
        if self.pending_bytes < self.states.limits.merge_bytes {
            return Ok(());
        }
        let empty = StateChange { version: self.version, ..StateChange::default() };
        let pending = std::mem::replace(&mut self.pending, empty);
        self.pending_bytes = 0;
        self.write_layer(Layer::new(&pending, None, &[]))
    }

    fn write_layer(&mut self, layer: Layer) -> Result<(), StorageError> {
        let runs = self.states.disk().write(&[Arc::new(layer)])?;
        self.runs.extend(&runs);
        Ok(())
    }

    /// Writes down that the state is that of genesis; its runs. The caller writes the tip, which
    /// makes it count, then shows it.
    pub(super) fn finish_genesis(mut self) -> Result<Runs, StorageError> {
        let pending = std::mem::take(&mut self.pending);
        let pending = StateChange { version: self.version, ..pending };
        self.write_layer(Layer::new(&pending, None, &[]))?;
        let checkpoint = merge::checkpoint_of(self.version, &self.runs);
        merge::write_checkpoint(&self.states.table, &checkpoint)?;
        self.states.database.flush()?;
        let runs = std::mem::take(&mut self.runs);
        self.states.disk().install(self.version, runs.clone());
        Ok(runs)
    }

    /// Makes the state count, with its block. The caller shows the block.
    pub(super) fn finish(mut self, snapshot: &Snapshot<'_>) -> Result<(), StorageError> {
        let Snapshot { header, certificate, next_committee, ends, tip } = *snapshot;
        let pending = std::mem::take(&mut self.pending);
        let pending = StateChange { version: self.version, ..pending };
        self.write_layer(Layer::new(&pending, Some(header.hash()), &[]))?;
        let table = &self.states.table;
        for end in ends.iter().filter(|end| end.header.height < header.height) {
            write_end(table, end)?;
        }
        let base = Base {
            header: *header,
            certificate: certificate.clone(),
            next_committee: next_committee.map(<[u8]>::to_vec),
            tip: tip.to_vec(),
            checkpoint: merge::checkpoint_of(self.version, &self.runs),
        };
        rows::put(table, &base_row(), &borsh::to_vec(&base).expect("writing to memory"))?;
        base.apply(table)?;
        self.states.database.flush()?;
        let runs = std::mem::take(&mut self.runs);
        let before = self.states.disk().install(self.version, runs.clone());
        self.states.show_first(self.version, runs);
        for run in before.into_all().filter(|run| Arc::strong_count(run) == 1) {
            // One that is still read goes at the next start.
            self.states.disk().remove(&run)?;
        }
        Ok(())
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        for run in std::mem::take(&mut self.runs).into_all() {
            if let Err(error) = self.states.disk().remove(&run) {
                // Nothing names it: the next start removes it.
                tracing::warn!(%error, "a part of an abandoned snapshot is not removed");
            }
        }
    }
}
