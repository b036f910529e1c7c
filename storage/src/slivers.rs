//! Sliver pairs: the bytes that a node is there to keep.
//!
//! A pair is put after its slivers were verified against the pair proof, and before the node says
//! `Stored`; it is looked up before the node signs a confirmation. Its record is a row of the main
//! database; its pieces lie in a volume (`volumes.rs`), a database with a log of its own.
//!
//! Order of writes, which is what crash safety rests on. A put writes a record `unfinished` that
//! names the place, the pieces, the record `written`. A flush makes the volume durable first, then
//! writes `complete` for what was written, then makes the main database durable. Each log comes
//! back up to some point behind its last flush, so at a start a complete pair has its pieces, a
//! written one is read to find out, and what is unfinished is no pair. A removal is the removal of
//! the record. A pair moves by being copied, the copy made durable, and its record replaced.
//!
//! Invariants: [`Slivers::has`] reads the record alone; it is true only if every piece was
//! written. A piece found damaged or absent makes its pair missing, for good: only putting it
//! again brings it back, at another place. Who puts or removes a pair holds its lock; a record is
//! replaced without it only by `swap`, which fails if anybody else was there before.

use std::{
    collections::BTreeSet,
    mem,
    ops::{Bound, Range},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use floe_protocol::encoding::Axis;

use crate::{
    StorageError,
    compaction::Cursor,
    database::{Table, Value},
    key::{self, PairKey},
    pair_record::{PairRecord, Place, State},
    pieces::{Contents, HASHES_BYTES_MAX, SLIVER_BYTES_MAX},
    usage::Space,
    volumes::Volumes,
};

/// Writers of different pairs rarely meet in one of so many locks.
const LOCKS: usize = 64;
/// So many pairs wait for a flush; then a writer makes one.
const PENDING_MAX: usize = 1024;
/// A pair that moves between looking it up and reading it is looked up again so often.
const LOOKS_MAX: usize = 16;

/// The table of pairs and the volumes of their pieces.
#[derive(Debug)]
pub(crate) struct Slivers {
    pub(crate) records: Table,
    pub(crate) volumes: Volumes,
    pub(crate) space: Arc<Space>,
    pub(crate) compaction: Mutex<Cursor>,
    /// One writer per pair at a time; readers take none.
    locks: Vec<Mutex<()>>,
    /// Pairs that were written since the last flush.
    pending: Mutex<Vec<(PairKey, PairRecord)>>,
    pairs: AtomicU64,
    damaged_pieces: AtomicU64,
}

impl Slivers {
    /// Takes over table and volumes: counts what is there and removes what was never finished.
    pub(crate) fn open(
        records: Table,
        volumes: Volumes,
        space: Arc<Space>,
    ) -> Result<Self, StorageError> {
        let slivers = Self {
            records,
            volumes,
            space,
            compaction: Mutex::default(),
            locks: (0..LOCKS).map(|_| Mutex::default()).collect(),
            pending: Mutex::default(),
            pairs: AtomicU64::new(0),
            damaged_pieces: AtomicU64::new(0),
        };
        slivers.recover()?;
        Ok(slivers)
    }

    fn recover(&self) -> Result<(), StorageError> {
        let (mut unfinished, mut written) = (Vec::new(), Vec::new());
        let (mut damaged_volumes, mut is_lost) = (BTreeSet::new(), false);
        for row in self.records.rows() {
            let (pair, record) = self.parse_row(row?)?;
            is_lost |= !self.volumes.found(record);
            match record.state {
                State::Complete => self.count(record),
                State::Written => {
                    self.count(record);
                    written.push((pair, record));
                }
                State::Unfinished => unfinished.push(pair),
                State::Damaged => {
                    damaged_volumes.insert(record.place.volume);
                }
            }
        }
        for pair in &unfinished {
            self.records.remove(pair)?;
        }
        self.volumes.settle(&damaged_volumes)?;
        let torn = self.check_written(written)?;
        if !unfinished.is_empty() || torn > 0 {
            tracing::info!(unfinished = unfinished.len(), torn, "removed what was not flushed");
        }
        if is_lost || self.volumes.has_lost() { self.give_up_lost() } else { Ok(()) }
    }

    /// Reads the pairs that may have been written half; how many were.
    fn check_written(&self, written: Vec<(PairKey, PairRecord)>) -> Result<usize, StorageError> {
        let mut torn = 0;
        for (pair, record) in written {
            if self.read_pair(&pair, record)?.is_ok() {
                self.records.insert(&pair, &record.with(State::Complete).to_bytes())?;
            } else {
                torn += 1;
                self.records.remove(&pair)?;
                self.uncount(record);
            }
        }
        Ok(torn)
    }

    /// Takes note of the pairs whose volume does not read or is not there.
    fn give_up_lost(&self) -> Result<(), StorageError> {
        for row in self.records.rows() {
            let (pair, record) = self.parse_row(row?)?;
            if record.is_whole() && self.volumes.is_lost(record.place.volume) {
                self.damaged(&pair, record, Axis::Primary, 0)?;
            }
        }
        Ok(())
    }

    /// Stores both slivers of a pair. Does nothing if they are there.
    pub(crate) fn put(
        &self,
        pair: &PairKey,
        primary: &[u8],
        secondary: &[u8],
    ) -> Result<(), StorageError> {
        self.put_contents(pair, Contents { slivers: [primary, secondary], hashes: [&[]; 2] })
    }

    /// The same with symbol hashes.
    pub(crate) fn put_contents(
        &self,
        pair: &PairKey,
        contents: Contents<'_>,
    ) -> Result<(), StorageError> {
        let lengths = PairRecord {
            state: State::Unfinished,
            place: Place { volume: 0, offset: 0 },
            primary_bytes: sliver_bytes(contents.slivers[0])?,
            secondary_bytes: sliver_bytes(contents.slivers[1])?,
            hash_bytes: [hash_bytes(contents.hashes[0])?, hash_bytes(contents.hashes[1])?],
        };
        let lock = self.lock(pair);
        if let Some(old) = self.whole(pair)? {
            if !self.volumes.is_lost(old.place.volume) {
                return Ok(());
            }
            self.damaged(pair, old, Axis::Primary, 0)?;
        }
        self.space.reserve(lengths.live_bytes())?;
        let written = self.volumes.append(lengths.live_bytes(), |place, pieces| {
            let record = PairRecord { place, ..lengths };
            self.records.insert(pair, &record.to_bytes())?;
            pieces.write(pair, record, contents)?;
            let record = record.with(State::Written);
            self.records.insert(pair, &record.to_bytes())?;
            Ok(record)
        });
        let record = written.inspect_err(|_| self.space.release(lengths.live_bytes()))?;
        self.pairs.fetch_add(1, Ordering::Relaxed);
        drop(lock);
        let mut pending = self.lock_pending();
        pending.push((*pair, record));
        let are_many = pending.len() >= PENDING_MAX;
        drop(pending);
        if are_many { self.flush() } else { Ok(()) }
    }

    /// Makes every piece durable that was written before the call, and says so in the records: the
    /// main database is still to be flushed.
    pub(crate) fn flush(&self) -> Result<(), StorageError> {
        let pending = mem::take(&mut *self.lock_pending());
        self.volumes.flush()?;
        for (pair, record) in pending {
            // A pair that was removed or moved meanwhile is none of ours.
            let complete = record.with(State::Complete);
            self.records.swap(&pair, &record.to_bytes(), &complete.to_bytes())?;
        }
        Ok(())
    }

    /// Whether both slivers were stored completely and not found damaged since.
    pub(crate) fn has(&self, pair: &PairKey) -> Result<bool, StorageError> {
        let record = self.whole(pair)?;
        Ok(record.is_some_and(|record| !self.volumes.is_lost(record.place.volume)))
    }

    /// One sliver of a pair, if the pair is there and every piece of the sliver is sound.
    pub(crate) fn get(&self, pair: &PairKey, axis: Axis) -> Result<Option<Bytes>, StorageError> {
        self.get_range(pair, (axis, 0..SLIVER_BYTES_MAX))
    }

    /// The same of a range of it: only the pieces that it touches are read.
    pub(crate) fn get_range(
        &self,
        pair: &PairKey,
        (axis, range): (Axis, Range<usize>),
    ) -> Result<Option<Bytes>, StorageError> {
        for _ in 0..LOOKS_MAX {
            let Some(record) = self.whole(pair)? else {
                return Ok(None);
            };
            match self.volumes.read(pair, record, (axis, range.clone()))? {
                Ok(sliver) => return Ok(Some(sliver)),
                // Unless the pair was moved, removed or stored again meanwhile.
                Err(piece) if self.damaged(pair, record, axis, piece)? => return Ok(None),
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// The symbol hashes of one sliver of a pair, if they are kept and sound.
    pub(crate) fn hashes(&self, pair: &PairKey, axis: Axis) -> Result<Option<Bytes>, StorageError> {
        for _ in 0..LOOKS_MAX {
            let Some(record) = self.whole(pair)? else {
                return Ok(None);
            };
            let hashes = self.volumes.read_hashes(pair, record, axis)?;
            if hashes.is_some() || record.hash_bytes(axis) == 0 {
                return Ok(hashes);
            }
            if self.whole(pair)? == Some(record) {
                tracing::debug!(?axis, "symbol hashes are damaged: they are made anew");
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Removes a pair; whether it was there.
    pub(crate) fn delete(&self, pair: &PairKey) -> Result<bool, StorageError> {
        Ok(self.remove(pair)?.is_some_and(PairRecord::is_whole))
    }

    /// Removes whatever is kept of a pair, complete or not; whether there was anything.
    pub(crate) fn purge(&self, pair: &PairKey) -> Result<bool, StorageError> {
        Ok(self.remove(pair)?.is_some())
    }

    /// Removes a pair, and its volume if nothing else lives there; its record.
    fn remove(&self, pair: &PairKey) -> Result<Option<PairRecord>, StorageError> {
        let lock = self.lock(pair);
        if self.records.get(pair)?.is_none() {
            return Ok(None);
        }
        // It may have moved since, so what counts is what was taken out.
        let Some(taken) = self.records.take(pair)? else {
            return Ok(None);
        };
        let record = self.parse(&taken)?;
        if record.is_whole() {
            self.uncount(record);
        }
        drop(lock);
        if self.volumes.get(record.place.volume).is_some_and(|volume| volume.is_empty()) {
            self.volumes.remove_empty()?;
        }
        Ok(Some(record))
    }

    /// The first `max` pairs of a range of which anything is kept, complete or not.
    pub(crate) fn keys(
        &self,
        range: (Bound<PairKey>, Bound<PairKey>),
        max: usize,
    ) -> Result<Vec<PairKey>, StorageError> {
        let rows = self.records.range::<PairKey, _>(range).take(max);
        rows.map(|row| Ok(self.parse_row(row?)?.0)).collect()
    }

    /// Removes the volumes in which nothing lives.
    pub(crate) fn remove_empty(&self) -> Result<(), StorageError> {
        self.volumes.remove_empty().map(drop)
    }

    pub(crate) fn pairs(&self) -> u64 {
        self.pairs.load(Ordering::Relaxed)
    }

    pub(crate) fn damaged_pieces(&self) -> u64 {
        self.damaged_pieces.load(Ordering::Relaxed)
    }

    /// Reads both slivers, or says which piece of which is damaged or absent.
    pub(crate) fn read_pair(
        &self,
        pair: &PairKey,
        record: PairRecord,
    ) -> Result<Result<[Bytes; 2], (Axis, u16)>, StorageError> {
        let whole = 0..SLIVER_BYTES_MAX;
        let primary = match self.volumes.read(pair, record, (Axis::Primary, whole.clone()))? {
            Ok(primary) => primary,
            Err(piece) => return Ok(Err((Axis::Primary, piece))),
        };
        Ok(match self.volumes.read(pair, record, (Axis::Secondary, whole))? {
            Ok(secondary) => Ok([primary, secondary]),
            Err(piece) => Err((Axis::Secondary, piece)),
        })
    }

    /// Takes note of a damaged piece: its pair is missing from here on. Whether the record was
    /// still the one that led to the piece.
    pub(crate) fn damaged(
        &self,
        pair: &PairKey,
        record: PairRecord,
        axis: Axis,
        piece: u16,
    ) -> Result<bool, StorageError> {
        let damaged = record.with(State::Damaged);
        if !self.records.swap(pair, &record.to_bytes(), &damaged.to_bytes())? {
            return Ok(false);
        }
        let (shard, blob) = key::parse_pair(pair).expect("a pair's key");
        tracing::warn!(%shard, %blob, ?axis, piece, "damaged piece, the pair counts as missing");
        self.damaged_pieces.fetch_add(1, Ordering::Relaxed);
        self.uncount(record);
        Ok(true)
    }

    fn record(&self, pair: &PairKey) -> Result<Option<PairRecord>, StorageError> {
        let value = self.records.get(pair)?;
        value.map(|value| self.parse(&value)).transpose()
    }

    fn whole(&self, pair: &PairKey) -> Result<Option<PairRecord>, StorageError> {
        Ok(self.record(pair)?.filter(|record| record.is_whole()))
    }

    /// A row of the table of pairs.
    pub(crate) fn parse_row(
        &self,
        (key, value): (Value, Value),
    ) -> Result<(PairKey, PairRecord), StorageError> {
        let pair = PairKey::try_from(&*key).map_err(|_| self.records.corrupt())?;
        Ok((pair, self.parse(&value)?))
    }

    fn parse(&self, value: &Value) -> Result<PairRecord, StorageError> {
        PairRecord::parse(value).ok_or_else(|| self.records.corrupt())
    }

    /// Counts a pair that is there. Its volume counts by itself.
    fn count(&self, record: PairRecord) {
        self.pairs.fetch_add(1, Ordering::Relaxed);
        self.space.add(record.live_bytes());
    }

    fn uncount(&self, record: PairRecord) {
        self.pairs.fetch_sub(1, Ordering::Relaxed);
        self.space.release(record.live_bytes());
        self.volumes.release(record);
    }

    fn lock(&self, pair: &PairKey) -> MutexGuard<'_, ()> {
        // Blob ids are hashes, and a blob's pairs differ in the shard.
        let index = usize::from(pair[1].wrapping_add(pair[key::PAIR_KEY_BYTES - 1]));
        self.locks[index % LOCKS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_pending(&self) -> MutexGuard<'_, Vec<(PairKey, PairRecord)>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sliver_bytes(sliver: &[u8]) -> Result<u32, StorageError> {
    let length = u32::try_from(sliver.len())
        .ok()
        .filter(|bytes| (1..=SLIVER_BYTES_MAX).contains(&(*bytes as usize)));
    length.ok_or(StorageError::Length {
        what: "sliver",
        bytes: sliver.len(),
        max_bytes: SLIVER_BYTES_MAX,
    })
}

fn hash_bytes(hashes: &[u8]) -> Result<u16, StorageError> {
    let length = u16::try_from(hashes.len()).ok();
    let length = length.filter(|bytes| usize::from(*bytes) <= HASHES_BYTES_MAX);
    length.ok_or(StorageError::Length {
        what: "symbol hashes",
        bytes: hashes.len(),
        max_bytes: HASHES_BYTES_MAX,
    })
}

#[cfg(test)]
mod tests;
