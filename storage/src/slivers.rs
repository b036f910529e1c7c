//! Sliver pairs: the bytes that a node is there to keep.
//!
//! A pair is put after its slivers were verified against the pair proof, and before the node says
//! `Stored`; it is looked up before the node signs a confirmation. Each sliver is cut into
//! *pieces* of 8 KiB (the one size whose space sled gives back), each with a checksum bound to its
//! key, so that neither a flipped bit nor a piece in another's place is ever served.
//!
//! Order of writes, which is what crash safety rests on, since the log is recovered up to one
//! point: a record `unfinished`, the pieces, the record `complete`. A record says `complete` only
//! behind all its pieces in the log, even if a write between them failed; and pieces without a
//! complete record are found by their `unfinished` one and removed at the next start. Deletion
//! goes the same way back. One batch would be shorter, but a batch of sled that fails half way,
//! say on a full disk, can come back without its other half.
//!
//! Invariants: [`Slivers::has`] reads the record alone; it is true only if every piece was
//! written. A piece found damaged or absent makes its pair missing, for good: only putting it
//! again brings it back. It then goes to the table of the next *generation*, because sled can
//! neither write to a page that it cannot read nor merge its neighbours; for the same reason the
//! sound pieces of a damaged pair stay behind as they are.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use floe_protocol::{encoding::Axis, hash::Domain};

use crate::{
    StorageError,
    database::{Table, Value},
    key::{self, PIECE_KEY_BYTES, PairKey},
    usage::{Space, row_bytes},
};

/// Bytes of a sliver in one piece.
pub const PIECE_BYTES: usize = 8 << 10;
/// The longest sliver that the store takes, above any that the protocol allows.
pub const SLIVER_BYTES_MAX: usize = 16 << 20;

const CHECKSUM_BYTES: usize = 16;
/// Writers of different pairs rarely meet in one of so many locks.
const LOCKS: usize = 64;

/// What is known of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// All pieces are there.
    Complete,
    /// Being written or removed.
    Unfinished,
    /// A piece was found damaged.
    Damaged,
}

/// The row of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PairRecord {
    state: State,
    generation: u8,
    primary_bytes: u32,
    secondary_bytes: u32,
}

const RECORD_BYTES: usize = 1 + 1 + 4 + 4;

impl PairRecord {
    fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[0] = match self.state {
            State::Complete => 1,
            State::Unfinished => 2,
            State::Damaged => 3,
        };
        bytes[1] = self.generation;
        bytes[2..6].copy_from_slice(&self.primary_bytes.to_be_bytes());
        bytes[6..].copy_from_slice(&self.secondary_bytes.to_be_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; RECORD_BYTES] = bytes.try_into().ok()?;
        let [state, generation, p0, p1, p2, p3, s0, s1, s2, s3] = *bytes;
        Some(Self {
            state: match state {
                1 => State::Complete,
                2 => State::Unfinished,
                3 => State::Damaged,
                _ => return None,
            },
            generation,
            primary_bytes: u32::from_be_bytes([p0, p1, p2, p3]),
            secondary_bytes: u32::from_be_bytes([s0, s1, s2, s3]),
        })
    }

    const fn with(self, state: State) -> Self {
        Self { state, ..self }
    }

    const fn sliver_bytes(self, axis: Axis) -> usize {
        match axis {
            Axis::Primary => self.primary_bytes as usize,
            Axis::Secondary => self.secondary_bytes as usize,
        }
    }

    /// What the pair counts: its record and pieces.
    fn live_bytes(self) -> u64 {
        let slivers = [Axis::Primary, Axis::Secondary].map(|axis| {
            let bytes = self.sliver_bytes(axis);
            let pieces = u64::from(piece_count(bytes));
            pieces * row_bytes(PIECE_KEY_BYTES, CHECKSUM_BYTES) + bytes as u64
        });
        slivers[0] + slivers[1] + row_bytes(key::PAIR_KEY_BYTES, RECORD_BYTES)
    }
}

fn piece_count(sliver_bytes: usize) -> u16 {
    u16::try_from(sliver_bytes.div_ceil(PIECE_BYTES)).expect("at most SLIVER_BYTES_MAX")
}

/// The table of pairs and the table of their pieces.
#[derive(Debug)]
pub(crate) struct Slivers {
    records: Table,
    /// One table for each generation, each as good as the next.
    pieces: Vec<Table>,
    space: Arc<Space>,
    /// One writer per pair at a time; readers take none.
    locks: Vec<Mutex<()>>,
    pairs: AtomicU64,
    damaged_pieces: AtomicU64,
}

impl Slivers {
    /// Takes over the tables: counts what is there and removes what was never finished.
    pub(crate) fn open(
        records: Table,
        pieces: Vec<Table>,
        space: Arc<Space>,
    ) -> Result<Self, StorageError> {
        let slivers = Self {
            records,
            pieces,
            space,
            locks: (0..LOCKS).map(|_| Mutex::default()).collect(),
            pairs: AtomicU64::new(0),
            damaged_pieces: AtomicU64::new(0),
        };
        let mut unfinished = Vec::new();
        for row in slivers.records.rows() {
            let (key, value) = row?;
            let pair = PairKey::try_from(&*key).map_err(|_| slivers.records.corrupt())?;
            let record = slivers.parse(&value)?;
            match record.state {
                State::Complete => slivers.count(record),
                State::Unfinished => unfinished.push((pair, record)),
                State::Damaged => {}
            }
        }
        if !unfinished.is_empty() {
            tracing::info!(pairs = unfinished.len(), "removing unfinished sliver pairs");
        }
        for (pair, record) in unfinished {
            slivers.remove_pieces(&pair, record)?;
            slivers.records.remove(&pair)?;
        }
        Ok(slivers)
    }

    /// Stores both slivers of a pair. Does nothing if they are there.
    pub(crate) fn put(
        &self,
        pair: &PairKey,
        primary: &[u8],
        secondary: &[u8],
    ) -> Result<(), StorageError> {
        let lengths = PairRecord {
            state: State::Unfinished,
            generation: 0,
            primary_bytes: sliver_bytes(primary)?,
            secondary_bytes: sliver_bytes(secondary)?,
        };
        let _lock = self.lock(pair);
        let mut record = match self.record(pair)? {
            Some(old) if old.state == State::Complete => return Ok(()),
            Some(old) => PairRecord { generation: self.next_generation(old), ..lengths },
            None => lengths,
        };
        self.space.reserve(record.live_bytes())?;
        let written = self.write(pair, &mut record, primary, secondary);
        if written.is_ok() {
            self.pairs.fetch_add(1, Ordering::Relaxed);
        } else {
            self.space.release(record.live_bytes());
        }
        written
    }

    /// Whether both slivers were stored completely and not found damaged since.
    pub(crate) fn has(&self, pair: &PairKey) -> Result<bool, StorageError> {
        let record = self.record(pair)?;
        Ok(record.is_some_and(|record| record.state == State::Complete))
    }

    /// One sliver of a pair, if the pair is there and every piece of the sliver is sound.
    pub(crate) fn get(&self, pair: &PairKey, axis: Axis) -> Result<Option<Bytes>, StorageError> {
        let Some(record) = self.complete(pair)? else {
            return Ok(None);
        };
        if let Ok(sliver) = self.assemble(pair, record, axis)? {
            return Ok(Some(sliver));
        }
        // Perhaps the pair was deleted or stored again meanwhile: look once more, alone.
        let _lock = self.lock(pair);
        let Some(record) = self.complete(pair)? else {
            return Ok(None);
        };
        match self.assemble(pair, record, axis)? {
            Ok(sliver) => Ok(Some(sliver)),
            Err(piece) => {
                self.damaged(pair, record, axis, piece)?;
                Ok(None)
            }
        }
    }

    /// Removes a pair; whether it was there.
    pub(crate) fn delete(&self, pair: &PairKey) -> Result<bool, StorageError> {
        Ok(self.remove(pair)? == Some(State::Complete))
    }

    /// Removes whatever is kept of a pair, complete or not; whether there was anything.
    pub(crate) fn purge(&self, pair: &PairKey) -> Result<bool, StorageError> {
        Ok(self.remove(pair)?.is_some())
    }

    /// Removes a pair; the state that it was in.
    fn remove(&self, pair: &PairKey) -> Result<Option<State>, StorageError> {
        let _lock = self.lock(pair);
        let Some(record) = self.record(pair)? else {
            return Ok(None);
        };
        if record.state == State::Damaged {
            self.records.remove(pair)?;
            return Ok(Some(State::Damaged));
        }
        self.records.insert(pair, &record.with(State::Unfinished).to_bytes())?;
        if record.state == State::Complete {
            self.uncount(record);
        }
        self.remove_pieces(pair, record)?;
        self.records.remove(pair)?;
        Ok(Some(record.state))
    }

    pub(crate) fn pairs(&self) -> u64 {
        self.pairs.load(Ordering::Relaxed)
    }

    pub(crate) fn damaged_pieces(&self) -> u64 {
        self.damaged_pieces.load(Ordering::Relaxed)
    }

    /// Writes record, pieces, record. Pages that do not read are left to their damage: the pair
    /// goes to those of the next generation.
    fn write(
        &self,
        pair: &PairKey,
        record: &mut PairRecord,
        primary: &[u8],
        secondary: &[u8],
    ) -> Result<(), StorageError> {
        let mut tried = 1;
        loop {
            self.records.insert(pair, &record.to_bytes())?;
            let pieces =
                self.write_pieces(pair, record.generation, Axis::Primary, primary).and_then(|()| {
                    self.write_pieces(pair, record.generation, Axis::Secondary, secondary)
                });
            match pieces {
                Ok(()) => break,
                Err(StorageError::Corrupt { .. }) if tried < self.pieces.len() => {
                    tried += 1;
                    record.generation = self.next_generation(*record);
                }
                Err(error) => return Err(error),
            }
        }
        self.records.insert(pair, &record.with(State::Complete).to_bytes())
    }

    fn write_pieces(
        &self,
        pair: &PairKey,
        generation: u8,
        axis: Axis,
        sliver: &[u8],
    ) -> Result<(), StorageError> {
        let mut value = Vec::with_capacity(CHECKSUM_BYTES + PIECE_BYTES);
        for (index, piece) in scattered(sliver) {
            let key = key::piece(generation, pair, axis, index);
            value.clear();
            value.extend_from_slice(&checksum(&key, piece));
            value.extend_from_slice(piece);
            self.table(generation).insert(&key, &value)?;
        }
        Ok(())
    }

    /// Puts a sliver together, or says which piece is damaged or absent.
    fn assemble(
        &self,
        pair: &PairKey,
        record: PairRecord,
        axis: Axis,
    ) -> Result<Result<Bytes, u16>, StorageError> {
        let bytes = record.sliver_bytes(axis);
        let mut sliver = Vec::with_capacity(bytes);
        for index in 0..piece_count(bytes) {
            let key = key::piece(record.generation, pair, axis, index);
            let value = match self.table(record.generation).get(&key) {
                Ok(value) => value,
                Err(StorageError::Corrupt { .. }) => None,
                Err(error) => return Err(error),
            };
            let expected_bytes = (bytes - sliver.len()).min(PIECE_BYTES);
            let piece = value.as_deref().and_then(|value| sound_piece(&key, value));
            match piece {
                Some(piece) if piece.len() == expected_bytes => sliver.extend_from_slice(piece),
                _ => return Ok(Err(index)),
            }
        }
        Ok(Ok(sliver.into()))
    }

    /// Takes note of a damaged piece. Its pair is missing from here on.
    fn damaged(
        &self,
        pair: &PairKey,
        record: PairRecord,
        axis: Axis,
        piece: u16,
    ) -> Result<(), StorageError> {
        let (shard, blob) = key::parse_pair(pair).expect("a pair's key");
        tracing::warn!(%shard, %blob, ?axis, piece, "damaged piece, the pair counts as missing");
        self.damaged_pieces.fetch_add(1, Ordering::Relaxed);
        self.uncount(record);
        self.records.insert(pair, &record.with(State::Damaged).to_bytes())
    }

    /// Removes the pieces of a pair that is not complete. Those in pages that do not read stay.
    fn remove_pieces(&self, pair: &PairKey, record: PairRecord) -> Result<(), StorageError> {
        for axis in [Axis::Primary, Axis::Secondary] {
            for index in 0..piece_count(record.sliver_bytes(axis)) {
                let key = key::piece(record.generation, pair, axis, index);
                match self.table(record.generation).remove(&key) {
                    Ok(_) | Err(StorageError::Corrupt { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// The table of a generation. Numbers wrap: pages of the first are tried again after the last.
    fn table(&self, generation: u8) -> &Table {
        &self.pieces[usize::from(generation) % self.pieces.len()]
    }

    fn next_generation(&self, record: PairRecord) -> u8 {
        let next = usize::from(record.generation) + 1;
        u8::try_from(next % self.pieces.len()).expect("few tables")
    }

    fn record(&self, pair: &PairKey) -> Result<Option<PairRecord>, StorageError> {
        let value = self.records.get(pair)?;
        value.map(|value| self.parse(&value)).transpose()
    }

    fn complete(&self, pair: &PairKey) -> Result<Option<PairRecord>, StorageError> {
        let record = self.record(pair)?;
        Ok(record.filter(|record| record.state == State::Complete))
    }

    fn parse(&self, value: &Value) -> Result<PairRecord, StorageError> {
        PairRecord::parse(value)
            .filter(|record| {
                let longest = record.primary_bytes.max(record.secondary_bytes);
                longest as usize <= SLIVER_BYTES_MAX
            })
            .ok_or_else(|| self.records.corrupt())
    }

    fn count(&self, record: PairRecord) {
        self.pairs.fetch_add(1, Ordering::Relaxed);
        self.space.add(record.live_bytes());
    }

    fn uncount(&self, record: PairRecord) {
        self.pairs.fetch_sub(1, Ordering::Relaxed);
        self.space.release(record.live_bytes());
    }

    fn lock(&self, pair: &PairKey) -> MutexGuard<'_, ()> {
        // Blob ids are hashes, and a blob's pairs differ in the shard.
        let index = usize::from(pair[1].wrapping_add(pair[key::PAIR_KEY_BYTES - 1]));
        self.locks[index % LOCKS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pieces of a sliver in a scattered order. Keys that rise leave every page of sled half full
/// behind them; scattered ones take a fifth to a quarter less disk.
fn scattered(sliver: &[u8]) -> Vec<(u16, &[u8])> {
    // An odd factor permutes the numbers of pieces; this one is near 2^16 over the golden ratio.
    const SCATTER: u16 = 40_503;
    let mut pieces: Vec<(u16, &[u8])> = (0..).zip(sliver.chunks(PIECE_BYTES)).collect();
    pieces.sort_unstable_by_key(|(index, _)| index.wrapping_mul(SCATTER));
    pieces
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

fn checksum(key: &key::PieceKey, piece: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = Domain::Piece.hash(&[key, piece]);
    *hash.as_bytes().first_chunk().expect("a hash is longer than a checksum")
}

/// The bytes of a piece whose checksum holds.
fn sound_piece<'a>(key: &key::PieceKey, value: &'a [u8]) -> Option<&'a [u8]> {
    let (found, piece) = value.split_first_chunk::<CHECKSUM_BYTES>()?;
    (*found == checksum(key, piece)).then_some(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_parse_strictly() {
        let record = PairRecord {
            state: State::Damaged,
            generation: 3,
            primary_bytes: 70_000,
            secondary_bytes: 1,
        };
        let bytes = record.to_bytes();
        assert_eq!(PairRecord::parse(&bytes), Some(record));
        assert_eq!(PairRecord::parse(&bytes[1..]), None);
        assert_eq!(PairRecord::parse(&[4; RECORD_BYTES]), None);
    }

    #[test]
    fn a_piece_is_bound_to_its_place() {
        let pair = [1; key::PAIR_KEY_BYTES];
        let here = key::piece(0, &pair, Axis::Primary, 4);
        let value = [&checksum(&here, b"piece")[..], b"piece"].concat();
        assert_eq!(sound_piece(&here, &value), Some(&b"piece"[..]));
        for elsewhere in [
            key::piece(0, &pair, Axis::Primary, 5),
            key::piece(0, &pair, Axis::Secondary, 4),
            key::piece(1, &pair, Axis::Primary, 4),
        ] {
            assert_eq!(sound_piece(&elsewhere, &value), None);
        }
        assert_eq!(sound_piece(&here, &value[..value.len() - 1]), None);
        assert_eq!(sound_piece(&here, b"short"), None);
    }

    fn open(dir: &std::path::Path) -> (Slivers, crate::database::Database) {
        let database =
            crate::database::Database::open(dir, 1 << 20, crate::database::BACKLOG_BYTES_MAX)
                .unwrap();
        let records = database.table(crate::schema::SLIVERS).unwrap();
        let pieces = crate::schema::PIECES.map(|name| database.table(name).unwrap());
        let space = Arc::new(Space::new(dir, u64::MAX, 0));
        let slivers = Slivers::open(records, pieces.into(), space).unwrap();
        (slivers, database)
    }

    #[test]
    fn what_was_left_unfinished_is_removed_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let pair = |number| [number; key::PAIR_KEY_BYTES];
        let sliver = vec![3; 3 * PIECE_BYTES + 1];
        let (slivers, database) = open(dir.path());
        for number in [1, 2, 3] {
            slivers.put(&pair(number), &sliver, &sliver).unwrap();
        }
        let counted = slivers.space.live_bytes();
        // What a put leaves that ended before its last record, and a deletion behind its first.
        let record = slivers.record(&pair(2)).unwrap().unwrap();
        let unfinished = record.with(State::Unfinished).to_bytes();
        slivers.records.insert(&pair(2), &unfinished).unwrap();
        assert!(!slivers.has(&pair(2)).unwrap());
        database.flush().unwrap();
        drop((slivers, database));

        let (slivers, _database) = open(dir.path());
        assert_eq!(slivers.pairs(), 2);
        assert_eq!(slivers.space.live_bytes(), counted / 3 * 2);
        assert_eq!(slivers.record(&pair(2)).unwrap(), None);
        assert_eq!(slivers.pieces[0].rows().count(), 2 * 2 * 4);
        assert!(slivers.get(&pair(3), Axis::Secondary).unwrap().unwrap() == sliver);
    }

    #[test]
    fn an_absent_piece_makes_its_pair_missing() {
        let dir = tempfile::tempdir().unwrap();
        let (slivers, _database) = open(dir.path());
        let pair = [1; key::PAIR_KEY_BYTES];
        let sliver = vec![3; 3 * PIECE_BYTES];
        slivers.put(&pair, &sliver, &sliver).unwrap();
        let place = |index| key::piece(0, &pair, Axis::Primary, index);
        // A piece in another's place is as good as none.
        let other = slivers.pieces[0].get(&place(0)).unwrap().unwrap();
        slivers.pieces[0].insert(&place(1), &other).unwrap();
        assert!(slivers.get(&pair, Axis::Secondary).unwrap().is_some());
        assert_eq!(slivers.get(&pair, Axis::Primary).unwrap(), None);
        assert!(!slivers.has(&pair).unwrap());
        assert_eq!((slivers.pairs(), slivers.damaged_pieces()), (0, 1));
        slivers.put(&pair, &sliver, &sliver).unwrap();
        assert_eq!(slivers.record(&pair).unwrap().unwrap().generation, 1);
        slivers.pieces[1].remove(&key::piece(1, &pair, Axis::Primary, 2)).unwrap();
        assert_eq!(slivers.get(&pair, Axis::Primary).unwrap(), None);
        assert_eq!((slivers.pairs(), slivers.damaged_pieces()), (0, 2));
    }

    #[test]
    fn a_damaged_pair_goes_with_its_blob() {
        use floe_protocol::{
            blob::BlobHeader,
            hash::Hash,
            index::{Height, ShardIndex},
            keys::NodeId,
        };

        let home = tempfile::tempdir().unwrap();
        let (dir, marker) = (home.path().join("store"), home.path().join("marker"));
        let config = crate::StoreConfig::new(dir, marker, NodeId::new([1; 32]));
        let header = BlobHeader { n_shards: 7, len: 9, root: Hash::new([3; 32]) };
        let (shard, blob) = (ShardIndex::new(6), header.id());
        let sliver = vec![3; 3 * PIECE_BYTES];

        let store = crate::Store::open(&config).unwrap();
        for is_alone in [false, true] {
            store.put_table(&header, Height::new(1), &[(shard, vec![1; 100])]).unwrap();
            for shard in [ShardIndex::new(2), shard] {
                store.put_pair(shard, &blob, &sliver, &sliver).unwrap();
            }
            let pair = key::pair(shard, &blob);
            let slivers = &store.tables.slivers;
            let generation = slivers.record(&pair).unwrap().unwrap().generation;
            let place = key::piece(generation, &pair, Axis::Primary, 2);
            slivers.table(generation).remove(&place).unwrap();
            assert_eq!(store.sliver(shard, &blob, Axis::Primary).unwrap(), None);
            assert_eq!(slivers.record(&pair).unwrap().unwrap().state, State::Damaged);
            if is_alone {
                store.delete_pair(ShardIndex::new(2), &blob).unwrap();
            }

            assert!(store.remove_blob(&blob, 7).unwrap());
            assert_eq!(slivers.record(&pair).unwrap(), None);
            assert!(!store.remove_blob(&blob, 7).unwrap());
            assert_eq!((store.usage().live_bytes, store.usage().pairs), (0, 0));
        }
        store.flush().unwrap();
        drop(store);
        let store = crate::Store::open(&config).unwrap();
        assert_eq!(store.tables.slivers.records.rows().count(), 0);
        assert_eq!((store.usage().live_bytes, store.usage().blobs), (0, 0));
    }
}
