//! Some sliver pairs from `k1` rows: what a node makes that reads a whole blob to recover its own
//! pairs of it.
//!
//! The message rows are decoded once; of the parity rows and columns only those that are wanted are
//! kept, piece by piece, so memory is that of the blob and of the pairs, not of all slivers.
//!
//! Deliberately not here: the comparison with the committed roots, which is the caller's.

use std::num::NonZeroUsize;

use bytes::Bytes;

use super::{
    Axis, BlobLayout, DecodeError, RecoverError,
    decoder::by_index,
    extension::{Extension, Scratch},
    reed_solomon,
};
use crate::index::{SliverIndex, SliverPairIndex};

/// The primary and the secondary sliver of each of `pairs`, from any `k1` or more primary slivers,
/// unchecked.
///
/// # Errors
/// [`RecoverError`]: the rows are too few or not of this blob, or there is no such pair.
pub fn lines_of_rows(
    layout: &BlobLayout,
    primaries: &[(SliverIndex, Bytes)],
    pairs: &[SliverPairIndex],
    threads: NonZeroUsize,
) -> Result<Vec<(Bytes, Bytes)>, RecoverError> {
    let config = layout.config();
    let (k1, n_shards) = (config.k1(), config.n_shards());
    if let Some(pair) = pairs.iter().find(|pair| pair.get() >= n_shards) {
        return Err(RecoverError::Index(pair.primary()));
    }
    let rows = by_index(layout, Axis::Primary, primaries).map_err(|error| match error {
        DecodeError::Length { index } => RecoverError::Length(index),
        DecodeError::Index { index } | DecodeError::Inconsistent { row: index } => {
            RecoverError::Index(index)
        }
        DecodeError::TooFewSlivers { slivers, min_slivers } => {
            RecoverError::TooFewSymbols { symbols: slivers, min_symbols: min_slivers }
        }
    })?;
    if rows.len() < k1 {
        return Err(RecoverError::TooFewSymbols { symbols: rows.len(), min_symbols: k1 });
    }
    let present: Vec<_> = rows.keys().copied().take(k1).collect();
    let given: Vec<_> = rows.into_values().take(k1).collect();
    let message = reed_solomon::decode((k1, config.n()), &present, &given, threads);
    drop(given);
    let secondaries = columns(layout, &message, pairs);
    let primaries = self::rows(layout, &message, pairs);
    Ok(primaries.into_iter().zip(secondaries).collect())
}

/// The rows of `pairs`: message rows as they are, parity rows made.
fn rows(layout: &BlobLayout, message: &[Bytes], pairs: &[SliverPairIndex]) -> Vec<Bytes> {
    let k1 = message.len();
    let mut parity = vec![Vec::new(); pairs.len()];
    if pairs.iter().any(|pair| pair.as_usize() >= k1) {
        let data: Vec<_> = message.iter().map(|row| &row[..]).collect();
        let extension = Extension::new(k1, layout.config().n());
        extension.extend(&data, &mut Scratch::default(), &mut |shard, _, piece| {
            for (pair, row) in pairs.iter().zip(&mut parity) {
                if pair.as_usize() == k1 + shard {
                    row.extend_from_slice(piece);
                }
            }
        });
    }
    let row = |(pair, parity): (&SliverPairIndex, Vec<u8>)| match message.get(pair.as_usize()) {
        Some(row) => row.clone(),
        None => parity.into(),
    };
    pairs.iter().zip(parity).map(row).collect()
}

/// The columns of `pairs`: one symbol of each message row, extended where it is parity.
fn columns(layout: &BlobLayout, message: &[Bytes], pairs: &[SliverPairIndex]) -> Vec<Bytes> {
    let (n, k2) = (layout.config().n(), layout.config().k2());
    let symbol_bytes = layout.symbol_bytes();
    let wanted: Vec<_> =
        pairs.iter().map(|pair| pair.secondary(layout.config().n_shards()).as_usize()).collect();
    let mut columns = vec![Vec::with_capacity(layout.secondary_bytes()); pairs.len()];
    let mut scratch = Scratch::default();
    for row in message {
        let symbols: Vec<_> = row.chunks_exact(symbol_bytes).collect();
        for (index, column) in wanted.iter().zip(&mut columns) {
            if let Some(symbol) = symbols.get(*index) {
                column.extend_from_slice(symbol);
            }
        }
        if wanted.iter().any(|index| *index >= k2) {
            Extension::new(k2, n).extend(&symbols, &mut scratch, &mut |shard, _, piece| {
                for (index, column) in wanted.iter().zip(&mut columns) {
                    if *index == k2 + shard {
                        column.extend_from_slice(piece);
                    }
                }
            });
        }
    }
    columns.into_iter().map(Bytes::from).collect()
}
