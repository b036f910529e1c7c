//! Pieces: slivers cut for the database, in one volume.
//!
//! Each sliver is cut into pieces of 8 KiB, each with a checksum bound to its pair and its place,
//! so that neither a flipped bit nor a piece in another's place is ever served. A volume's database
//! holds one table of them, which only grows: nothing is replaced or removed in it.
//!
//! The hashes of all symbols of a long sliver's expansion lie beside it in a row of their own, so
//! that one of its symbols is proven by reading no more than that symbol and this row. They can be
//! had again from the sliver: a pair whose hashes are damaged is whole.

use std::{ops::Range, path::Path};

use bytes::Bytes;
use floe_protocol::{
    encoding::Axis,
    hash::{Domain, HASH_BYTES},
};

use crate::{
    StorageError,
    database::{BACKLOG_BYTES_MAX, Database, DatabaseError, Table},
    key::{self, PIECE_KEY_BYTES, PairKey, PieceKey},
    pair_record::PairRecord,
    schema,
    usage::row_bytes,
};

/// Bytes of a sliver in one piece.
pub const PIECE_BYTES: usize = 8 << 10;
/// The longest sliver that the store takes, above any that the protocol allows.
pub const SLIVER_BYTES_MAX: usize = 16 << 20;
/// Symbol hashes are kept of slivers that are longer: those of shorter ones are made anew as fast
/// as they are read.
pub const HASHED_ABOVE_BYTES: usize = 64 << 10;
/// The longest symbol hashes of a sliver: of 256 symbols.
pub(crate) const HASHES_BYTES_MAX: usize = 256 * HASH_BYTES;

const CHECKSUM_BYTES: usize = 16;

/// What is kept of a pair, primary first: its slivers, and their symbol hashes or nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contents<'a> {
    pub(crate) slivers: [&'a [u8]; 2],
    pub(crate) hashes: [&'a [u8]; 2],
}

const AXES: [Axis; 2] = [Axis::Primary, Axis::Secondary];

/// The open database of one volume. Fields drop in order.
#[derive(Debug)]
pub(crate) struct Pieces {
    table: Table,
    database: Database,
}

impl Pieces {
    /// Opens or creates the database in `dir`, which exists. It stops together with `main`.
    pub(crate) fn open(
        main: &Database,
        dir: &Path,
        cache_bytes: u64,
    ) -> Result<Self, DatabaseError> {
        let database = main.open_beside(dir, cache_bytes, BACKLOG_BYTES_MAX)?;
        Ok(Self { table: database.table(schema::PIECES)?, database })
    }

    /// Writes a pair to the place that `record` names.
    pub(crate) fn write(
        &self,
        pair: &PairKey,
        record: PairRecord,
        contents: Contents<'_>,
    ) -> Result<(), StorageError> {
        let mut value = Vec::with_capacity(CHECKSUM_BYTES + PIECE_BYTES);
        let mut insert = |key: PieceKey, piece: &[u8]| {
            value.clear();
            value.extend_from_slice(&checksum(pair, &key, piece));
            value.extend_from_slice(piece);
            self.table.insert(&key, &value)
        };
        let offset = record.place.offset;
        for (axis, sliver) in AXES.into_iter().zip(contents.slivers) {
            for (index, piece) in scattered(sliver) {
                insert(key::piece(offset, axis, index), piece)?;
            }
        }
        let hashes = AXES.into_iter().zip(contents.hashes);
        for (axis, hashes) in hashes.filter(|(_, hashes)| !hashes.is_empty()) {
            insert(key::hashes(offset, axis), hashes)?;
        }
        Ok(())
    }

    /// Puts a range of a sliver together, or says which piece is damaged or absent. What lies
    /// behind the sliver's end is not there.
    pub(crate) fn read(
        &self,
        pair: &PairKey,
        record: PairRecord,
        (axis, range): (Axis, Range<usize>),
    ) -> Result<Result<Bytes, u16>, StorageError> {
        let bytes = record.sliver_bytes(axis);
        let range = range.start.min(bytes)..range.end.min(bytes);
        let first = piece_of(range.start);
        let skipped = usize::from(first) * PIECE_BYTES;
        let mut sliver = Vec::with_capacity(range.len() + PIECE_BYTES);
        let place = |index| key::piece(record.place.offset, axis, index);
        let count = piece_count(range.end);
        // A range reads each page once.
        let mut rows = self.table.range(place(first)..place(count.max(first)));
        for index in first..count {
            let row = match rows.next() {
                Some(Ok(row)) => row,
                None | Some(Err(StorageError::Corrupt { .. })) => return Ok(Err(index)),
                Some(Err(error)) => return Err(error),
            };
            let key = place(index);
            let expected_bytes = (bytes - skipped - sliver.len()).min(PIECE_BYTES);
            match sound_piece(pair, &key, &row.1) {
                Some(piece) if *row.0 == key && piece.len() == expected_bytes => {
                    sliver.extend_from_slice(piece);
                }
                _ => return Ok(Err(index)),
            }
        }
        let sliver = Bytes::from(sliver);
        let end = sliver.len().min(range.end - skipped);
        Ok(Ok(sliver.slice((range.start - skipped).min(end)..end)))
    }

    /// The symbol hashes of a sliver, if they are there and sound.
    pub(crate) fn read_hashes(
        &self,
        pair: &PairKey,
        record: PairRecord,
        axis: Axis,
    ) -> Result<Option<Bytes>, StorageError> {
        let bytes = record.hash_bytes(axis);
        if bytes == 0 {
            return Ok(None);
        }
        let key = key::hashes(record.place.offset, axis);
        let value = match self.table.get(&key) {
            Ok(value) => value,
            Err(StorageError::Corrupt { .. }) => None,
            Err(error) => return Err(error),
        };
        let hashes = value.as_ref().and_then(|value| sound_piece(pair, &key, value));
        let hashes = hashes.filter(|hashes| hashes.len() == bytes);
        Ok(hashes.map(Bytes::copy_from_slice))
    }

    /// An offset behind those of all pieces.
    pub(crate) fn end(&self) -> Result<u64, StorageError> {
        let mut end = 0;
        for lane in 0..key::LANES {
            if let Some(last) = self.table.last_key([lane]..[lane + 1])? {
                let offset = key::parse_offset(&last).ok_or_else(|| self.table.corrupt())?;
                end = end.max(offset.saturating_add(1));
            }
        }
        Ok(end)
    }

    /// Makes everything written before the call durable.
    pub(crate) fn flush(&self) -> Result<(), StorageError> {
        self.database.flush()
    }

    #[cfg(test)]
    pub(crate) const fn table(&self) -> &Table {
        &self.table
    }
}

/// What the pieces of a sliver count.
pub(crate) fn counted_bytes(sliver_bytes: usize) -> u64 {
    let pieces = u64::from(piece_count(sliver_bytes));
    pieces * row_bytes(PIECE_KEY_BYTES, CHECKSUM_BYTES) + sliver_bytes as u64
}

/// What the symbol hashes of a sliver count.
pub(crate) fn counted_hash_bytes(hash_bytes: usize) -> u64 {
    if hash_bytes == 0 { 0 } else { row_bytes(PIECE_KEY_BYTES, CHECKSUM_BYTES + hash_bytes) }
}

/// The piece that a byte is in.
fn piece_of(byte: usize) -> u16 {
    u16::try_from(byte / PIECE_BYTES).expect("at most SLIVER_BYTES_MAX")
}

fn piece_count(sliver_bytes: usize) -> u16 {
    u16::try_from(sliver_bytes.div_ceil(PIECE_BYTES)).expect("at most SLIVER_BYTES_MAX")
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

fn checksum(pair: &PairKey, key: &PieceKey, piece: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = Domain::Piece.hash(&[pair, key, piece]);
    *hash.as_bytes().first_chunk().expect("a hash is longer than a checksum")
}

/// The bytes of a piece whose checksum holds.
fn sound_piece<'a>(pair: &PairKey, key: &PieceKey, value: &'a [u8]) -> Option<&'a [u8]> {
    let (found, piece) = value.split_first_chunk::<CHECKSUM_BYTES>()?;
    (*found == checksum(pair, key, piece)).then_some(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_bound_to_its_pair_and_place() {
        let pair = [1; key::PAIR_KEY_BYTES];
        let here = key::piece(8, Axis::Primary, 4);
        let value = [&checksum(&pair, &here, b"piece")[..], b"piece"].concat();
        assert_eq!(sound_piece(&pair, &here, &value), Some(&b"piece"[..]));
        for elsewhere in [
            key::piece(8, Axis::Primary, 5),
            key::piece(8, Axis::Secondary, 4),
            key::piece(9, Axis::Primary, 4),
        ] {
            assert_eq!(sound_piece(&pair, &elsewhere, &value), None);
        }
        assert_eq!(sound_piece(&[2; key::PAIR_KEY_BYTES], &here, &value), None);
        assert_eq!(sound_piece(&pair, &here, &value[..value.len() - 1]), None);
        assert_eq!(sound_piece(&pair, &here, b"short"), None);
    }
}
