//! Slivers in, checked rows or the blob out: what a read does when rows are missing.
//!
//! A row that was received has been checked against its own pair proof. A row that is computed
//! here is extended again and compared with the digest table, so whatever the writer coded, two
//! readers never see different bytes: either the row has the committed root, or the read ends as
//! inconsistent and the slivers are the proof of it ([`crate::inconsistency`]).
//!
//! Invariants: no byte of an unchecked row leaves this module; a row that is there already is
//! passed on without a copy. The slivers given are verified by the caller.

use std::{collections::BTreeMap, num::NonZeroUsize};

use bytes::Bytes;

use super::{Axis, BlobLayout, DigestTable, parallel, reed_solomon, sliver_root};
use crate::index::SliverIndex;

/// Why slivers did not decode.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// A sliver of another length than the layout's.
    #[error("sliver {index} has the wrong length")]
    Length {
        /// The sliver.
        index: SliverIndex,
    },
    /// A sliver index out of range, or a row wanted that is not systematic.
    #[error("sliver index {index} is out of range")]
    Index {
        /// The sliver.
        index: SliverIndex,
    },
    /// Fewer different slivers than any decoding needs.
    #[error("{slivers} slivers, {min_slivers} are needed")]
    TooFewSlivers {
        /// Different slivers given.
        slivers: usize,
        /// `k1` primary or `k2` secondary slivers.
        min_slivers: usize,
    },
    /// A decoded row does not have the committed root: the writer's encoding is inconsistent.
    #[error("decoded row {row} does not have its committed root: the blob is inconsistent")]
    Inconsistent {
        /// The row.
        row: SliverIndex,
    },
}

/// The systematic rows `wanted`, in that order: those among `primaries` as they are, the others
/// decoded from any `k1` of them and checked against `table`.
///
/// # Errors
/// [`DecodeError`]; [`DecodeError::Inconsistent`] only if all slivers were verified.
pub fn decode_rows(
    layout: &BlobLayout,
    table: &DigestTable,
    primaries: &[(SliverIndex, Bytes)],
    wanted: &[SliverIndex],
    threads: NonZeroUsize,
) -> Result<Vec<Bytes>, DecodeError> {
    let config = layout.config();
    let mut rows = by_index(layout, Axis::Primary, primaries)?;
    if let Some(&index) = wanted.iter().find(|row| row.as_usize() >= config.k1()) {
        return Err(DecodeError::Index { index });
    }
    let mut missing: Vec<_> =
        wanted.iter().map(|row| row.as_usize()).filter(|row| !rows.contains_key(row)).collect();
    missing.sort_unstable();
    missing.dedup();
    if !missing.is_empty() {
        let min_slivers = config.k1();
        if rows.len() < min_slivers {
            return Err(DecodeError::TooFewSlivers { slivers: rows.len(), min_slivers });
        }
        let present: Vec<_> = rows.keys().copied().take(min_slivers).collect();
        let shards: Vec<_> = rows.values().take(min_slivers).map(|row| &row[..]).collect();
        let codec = reed_solomon::codec(min_slivers, config.n());
        let matrix = codec.decode_matrix(&present, &missing);
        let decoded = reed_solomon::product(&matrix, &shards, threads);
        let decoded: Vec<_> = missing.into_iter().zip(decoded).collect();
        check_rows(layout, table, &decoded, threads)?;
        rows.extend(decoded);
    }
    Ok(wanted.iter().map(|row| rows[&row.as_usize()].clone()).collect())
}

/// The blob from any `k2` secondary slivers; every row is checked against `table`.
///
/// # Errors
/// [`DecodeError`]; [`DecodeError::Inconsistent`] only if all slivers were verified.
pub fn decode_from_secondaries(
    layout: &BlobLayout,
    table: &DigestTable,
    secondaries: &[(SliverIndex, Bytes)],
    threads: NonZeroUsize,
) -> Result<Bytes, DecodeError> {
    let config = layout.config();
    let columns = by_index(layout, Axis::Secondary, secondaries)?;
    let min_slivers = config.k2();
    if columns.len() < min_slivers {
        return Err(DecodeError::TooFewSlivers { slivers: columns.len(), min_slivers });
    }
    let present: Vec<_> = columns.keys().copied().take(min_slivers).collect();
    let given: Vec<_> = columns.into_values().take(min_slivers).collect();
    let columns = reed_solomon::decode((min_slivers, config.n()), &present, &given, threads);
    drop(given);
    let symbol_bytes = layout.symbol_bytes();
    let row_bytes = layout.primary_bytes();
    let ranges = parallel::split_items(config.k1(), threads.get());
    let bytes: Vec<_> =
        ranges.into_iter().map(|rows| rows.start * row_bytes..rows.end * row_bytes).collect();
    // One output, the whole matrix; each thread fills and checks its rows of it.
    let filled = parallel::run(parallel::segments(1, &bytes), |(range, mut segments)| {
        for row in range.start / row_bytes..range.end / row_bytes {
            let start = segments[0].len();
            for column in &columns {
                let symbol = &column[row * symbol_bytes..(row + 1) * symbol_bytes];
                segments[0].extend_from_slice(symbol);
            }
            check_row(layout, table, row, &segments[0][start..])?;
        }
        Ok(segments)
    });
    let filled = filled.into_iter().collect::<Result<_, DecodeError>>()?;
    let mut matrix = parallel::join_segments(filled).remove(0);
    matrix.truncate(usize::try_from(layout.len()).expect("shorter than the matrix"));
    Ok(matrix)
}

/// The blob from its `k1` systematic rows, in order: copied into one buffer, padding cut off.
#[must_use]
pub fn assemble(layout: &BlobLayout, rows: &[Bytes]) -> Bytes {
    let mut blob = Vec::with_capacity(rows.iter().map(Bytes::len).sum());
    for (index, row) in rows.iter().enumerate() {
        blob.extend_from_slice(&row[..layout.bytes_of_row(index).min(row.len())]);
    }
    Bytes::from(blob)
}

/// Slivers by index, each of the right length.
pub(super) fn by_index(
    layout: &BlobLayout,
    axis: Axis,
    slivers: &[(SliverIndex, Bytes)],
) -> Result<BTreeMap<usize, Bytes>, DecodeError> {
    let mut sorted = BTreeMap::new();
    for (index, sliver) in slivers {
        if index.as_usize() >= layout.config().n() {
            return Err(DecodeError::Index { index: *index });
        }
        if sliver.len() != axis.sliver_bytes(layout) {
            return Err(DecodeError::Length { index: *index });
        }
        sorted.entry(index.as_usize()).or_insert_with(|| sliver.clone());
    }
    Ok(sorted)
}

fn check_rows(
    layout: &BlobLayout,
    table: &DigestTable,
    rows: &[(usize, Bytes)],
    threads: NonZeroUsize,
) -> Result<(), DecodeError> {
    let ranges = parallel::split_items(rows.len(), threads.get());
    let results = parallel::run(ranges, |range| {
        rows[range].iter().try_for_each(|(row, bytes)| check_row(layout, table, *row, bytes))
    });
    results.into_iter().collect()
}

fn check_row(
    layout: &BlobLayout,
    table: &DigestTable,
    row: usize,
    bytes: &[u8],
) -> Result<(), DecodeError> {
    let row = SliverIndex::new(u16::try_from(row).expect("below n"));
    let root = sliver_root(layout, Axis::Primary, bytes).expect("decoded to the row's length");
    if root == table.digest(row.pair_of_primary()).primary {
        Ok(())
    } else {
        Err(DecodeError::Inconsistent { row })
    }
}
