//! Pieces: slivers cut for the database, in one volume.
//!
//! Each sliver is cut into pieces of 8 KiB, each with a checksum bound to its pair and its place,
//! so that neither a flipped bit nor a piece in another's place is ever served. A volume's database
//! holds one table of them, which only grows: nothing is replaced or removed in it.

use std::path::Path;

use bytes::Bytes;
use floe_protocol::{encoding::Axis, hash::Domain};

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

const CHECKSUM_BYTES: usize = 16;

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

    /// Writes both slivers of a pair to the place that `record` names.
    pub(crate) fn write(
        &self,
        pair: &PairKey,
        record: PairRecord,
        slivers: [&[u8]; 2],
    ) -> Result<(), StorageError> {
        let mut value = Vec::with_capacity(CHECKSUM_BYTES + PIECE_BYTES);
        for (axis, sliver) in [Axis::Primary, Axis::Secondary].into_iter().zip(slivers) {
            for (index, piece) in scattered(sliver) {
                let key = key::piece(record.place.offset, axis, index);
                value.clear();
                value.extend_from_slice(&checksum(pair, &key, piece));
                value.extend_from_slice(piece);
                self.table.insert(&key, &value)?;
            }
        }
        Ok(())
    }

    /// Puts a sliver together, or says which piece is damaged or absent.
    pub(crate) fn read(
        &self,
        pair: &PairKey,
        record: PairRecord,
        axis: Axis,
    ) -> Result<Result<Bytes, u16>, StorageError> {
        let bytes = record.sliver_bytes(axis);
        let mut sliver = Vec::with_capacity(bytes);
        let place = |index| key::piece(record.place.offset, axis, index);
        let count = piece_count(bytes);
        // A range reads each page once.
        let mut rows = self.table.range(place(0)..place(count));
        for index in 0..count {
            let row = match rows.next() {
                Some(Ok(row)) => row,
                None | Some(Err(StorageError::Corrupt { .. })) => return Ok(Err(index)),
                Some(Err(error)) => return Err(error),
            };
            let key = place(index);
            let expected_bytes = (bytes - sliver.len()).min(PIECE_BYTES);
            match sound_piece(pair, &key, &row.1) {
                Some(piece) if *row.0 == key && piece.len() == expected_bytes => {
                    sliver.extend_from_slice(piece);
                }
                _ => return Ok(Err(index)),
            }
        }
        Ok(Ok(sliver.into()))
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
