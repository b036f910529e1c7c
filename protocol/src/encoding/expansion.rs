//! The message matrix extended in both directions: slivers and their roots, in three passes.
//!
//! ```text
//!             c < k2       c >= k2
//!  r < k1   the blob     pass 2 (rows)        pass 1 cuts the blob into columns: secondary slivers
//!  r >= k1  pass 3       pass 3, hashed and   pass 3 hashes every symbol of the expanded matrix
//!           (columns)    never held           exactly once, for the trees of its row and column
//! ```
//!
//! The row code is one extension of whole secondary slivers: all rows at once. The column code runs
//! over batches of columns, so that what it makes is hashed while it is in the cache; the corner,
//! which belongs to no sliver, lives only there.
//!
//! Invariant: scratch space stays below a few MiB a thread, whatever the blob.

use std::{num::NonZeroUsize, ops::Range};

use bytes::{Bytes, BytesMut};

use super::{
    BlobLayout, DigestTable,
    extension::{self, Extension},
    parallel,
};
use crate::{
    blob::PairDigest,
    hash::{Domain, Hash},
    index::SliverPairIndex,
    merkle,
};

/// Bytes of a row that the column code takes at a time: small symbols are batched up to it, so
/// that its calls are few.
const BATCH_BYTES: usize = 8 << 10;
/// What hashing a symbol costs beyond its bytes (tree nodes included), in bytes.
const HASH_COST: usize = 512;
/// Bytes of work below which a second thread costs more than it gives.
const MIN_THREAD_WORK: usize = 1 << 20;

/// Whether the parity rows of the matrix are wanted as slivers, or only in the roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ParityRows {
    Keep,
    Discard,
}

/// What the expansion of a blob yields beside the blob.
#[derive(Debug)]
pub(super) struct Expanded {
    pub(super) parity_rows: Vec<Bytes>,
    pub(super) secondaries: Vec<Bytes>,
    pub(super) table: DigestTable,
}

/// Expands the `k1` message rows.
pub(super) fn expand(
    layout: &BlobLayout,
    rows: &[Bytes],
    parity_rows: ParityRows,
    threads: NonZeroUsize,
) -> Expanded {
    let config = layout.config();
    let work = config.n() * config.n() * (layout.symbol_bytes() + HASH_COST);
    let threads = threads.min(NonZeroUsize::MIN.saturating_add(work / MIN_THREAD_WORK));
    let mut secondaries = transpose(layout, rows, threads);
    let columns: Vec<_> = secondaries.iter().map(|column| &column[..]).collect();
    let parity_columns = Extension::new(config.k2(), config.n()).parity(&columns, threads);
    secondaries.extend(parity_columns);

    let pass = ColumnPass { layout, rows, secondaries: &secondaries };
    let (parity_rows, hashes) = pass.run(parity_rows, threads);
    let table = table(layout, &hashes, threads);
    Expanded { parity_rows, secondaries, table }
}

/// The `k2` systematic columns of the message rows.
fn transpose(layout: &BlobLayout, rows: &[Bytes], threads: NonZeroUsize) -> Vec<Bytes> {
    let symbol_bytes = layout.symbol_bytes();
    let column = |column: usize| {
        let mut sliver = Vec::with_capacity(layout.secondary_bytes());
        for row in rows {
            sliver.extend_from_slice(&row[column * symbol_bytes..(column + 1) * symbol_bytes]);
        }
        Bytes::from(sliver)
    };
    let ranges = parallel::split_items(layout.config().k2(), threads.get());
    parallel::run(ranges, |range| range.map(column).collect::<Vec<_>>()).concat()
}

/// The third pass: the column code and all symbol hashes.
struct ColumnPass<'a> {
    layout: &'a BlobLayout,
    rows: &'a [Bytes],
    secondaries: &'a [Bytes],
}

impl ColumnPass<'_> {
    /// The parity rows, and the hashes of all symbols, column by column.
    fn run(&self, parity_rows: ParityRows, threads: NonZeroUsize) -> (Vec<Bytes>, Vec<Hash>) {
        let config = self.layout.config();
        let count = if parity_rows == ParityRows::Keep { config.n() - config.k1() } else { 0 };
        let columns = parallel::split_items(config.n(), threads.get());
        let bytes_of = |columns: &Range<usize>| {
            let byte = |column: usize| column.min(config.k2()) * self.layout.symbol_bytes();
            byte(columns.start)..byte(columns.end)
        };
        let bytes: Vec<_> = columns.iter().map(bytes_of).collect();
        let segments = parallel::segments(count, &bytes);
        let mut hashes = vec![Hash::ZERO; config.n() * config.n()];
        let mut rest = &mut hashes[..];
        let mut work = Vec::new();
        for (columns, (_, segments)) in columns.into_iter().zip(segments) {
            let (part, behind) = rest.split_at_mut(columns.len() * config.n());
            rest = behind;
            work.push((columns, segments, part));
        }
        let filled = parallel::run(work, |(columns, mut segments, hashes)| {
            self.run_range(columns, &mut segments, hashes);
            segments
        });
        (parallel::join_segments(filled), hashes)
    }

    /// Works through a range of columns, in batches on one side of the corner.
    fn run_range(&self, columns: Range<usize>, segments: &mut [BytesMut], hashes: &mut [Hash]) {
        let k2 = self.layout.config().k2();
        let n = self.layout.config().n();
        let per_batch = (BATCH_BYTES / self.layout.symbol_bytes()).max(1);
        let mut scratch = Scratch::default();
        let mut start = columns.start;
        while start < columns.end {
            let side_end = if start < k2 { columns.end.min(k2) } else { columns.end };
            let batch = start..side_end.min(start + per_batch);
            start = batch.end;
            let first = batch.start - columns.start;
            let hashes = &mut hashes[first * n..(first + batch.len()) * n];
            self.run_batch(batch, &mut scratch, segments, hashes);
        }
    }

    fn run_batch(
        &self,
        batch: Range<usize>,
        scratch: &mut Scratch,
        segments: &mut [BytesMut],
        hashes: &mut [Hash],
    ) {
        let (k1, k2, n) =
            (self.layout.config().k1(), self.layout.config().k2(), self.layout.config().n());
        let symbol_bytes = self.layout.symbol_bytes();
        let width = batch.len() * symbol_bytes;
        let mut hash_row = |row: usize, symbols: &[u8]| {
            for (column, symbol) in symbols.chunks_exact(symbol_bytes).enumerate() {
                hashes[column * n + row] = Hash::of_symbol(symbol);
            }
        };
        let message: Vec<&[u8]> = if batch.start < k2 {
            let bytes = batch.start * symbol_bytes..batch.end * symbol_bytes;
            self.rows.iter().map(|row| &row[bytes.clone()]).collect()
        } else {
            scratch.gathered.clear();
            for row in 0..k1 {
                for column in &self.secondaries[batch.clone()] {
                    let bytes = row * symbol_bytes..(row + 1) * symbol_bytes;
                    scratch.gathered.extend_from_slice(&column[bytes]);
                }
            }
            scratch.gathered.chunks_exact(width).collect()
        };
        for (row, symbols) in message.iter().enumerate() {
            hash_row(row, symbols);
        }
        let extension = Extension::new(k1, n);
        let working_memory = &mut scratch.extension;
        if batch.start < k2 && !segments.is_empty() {
            extension.extend(&message, working_memory, &mut |row, _, piece| {
                segments[row].extend_from_slice(piece);
            });
            for (row, segment) in segments.iter().enumerate() {
                hash_row(k1 + row, &segment[segment.len() - width..]);
            }
        } else {
            scratch.parity.resize(extension.parity_shards() * width, 0);
            let parity = &mut scratch.parity;
            extension.extend(&message, working_memory, &mut |row, start, piece| {
                let start = row * width + start;
                parity[start..start + piece.len()].copy_from_slice(piece);
            });
            for (row, symbols) in parity.chunks_exact(width).enumerate() {
                hash_row(k1 + row, symbols);
            }
        }
    }
}

/// Buffers that one thread uses again for every batch.
#[derive(Default)]
struct Scratch {
    gathered: Vec<u8>,
    parity: Vec<u8>,
    extension: extension::Scratch,
}

/// The trees over rows and columns of `hashes` (column by column): the digest table.
fn table(layout: &BlobLayout, hashes: &[Hash], threads: NonZeroUsize) -> DigestTable {
    let (config, n) = (layout.config(), layout.config().n());
    let digest = |pair: SliverPairIndex| {
        let row = pair.primary().as_usize();
        let column = pair.secondary(config.n_shards()).as_usize();
        let row_leaves = hashes.iter().skip(row).step_by(n).copied().collect();
        let column_leaves = hashes[column * n..(column + 1) * n].to_vec();
        PairDigest {
            primary: merkle::root(Domain::SliverNode, row_leaves),
            secondary: merkle::root(Domain::SliverNode, column_leaves),
        }
    };
    let pairs: Vec<_> = (0..config.n_shards()).map(SliverPairIndex::new).collect();
    let ranges = parallel::split_items(n, threads.get());
    let digests =
        parallel::run(ranges, |range| pairs[range].iter().copied().map(digest).collect::<Vec<_>>());
    DigestTable::new(config, digests.concat()).expect("one digest per pair")
}
