//! Reed-Solomon over GF(2^8): the field, the decoding matrices, and their product with shards.
//!
//! Every code here is systematic: the first `k` of `n` shards are the data. The arithmetic and the
//! matrices come from `reed-solomon-erasure`, which this file alone names. What it defines is the
//! format; parity is computed by [`super::extension`], which gives the same bytes with less work.
//! Decoding multiplies the inverse of what is there by the shards: the library's C kernel makes one
//! pass over a whole shard per coefficient, so [`product`] walks the shards in blocks that stay in
//! the first-level cache, computes only the rows wanted, and uses as many threads as asked.
//!
//! Invariants: nothing here is generic (the library is compiled once, in this crate), codecs are
//! built once per `(k, n)` and process, and the result depends on neither the block size nor the
//! number of threads. Callers vouch for counts and lengths.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use reed_solomon_erasure::galois_8::{self, ReedSolomon};

use super::parallel;

/// Bytes of one shard that are multiplied at a time: [`TILE_ROWS`] of them fit into a 48 KiB
/// first-level cache beside their source.
const BLOCK_BYTES: usize = 4 << 10;
/// Rows computed together: each loaded block of a source serves so many of them.
const TILE_ROWS: usize = 4;
/// Bytes of all shards below which a second thread costs more than it gives.
const MIN_THREAD_WORK: usize = 4 << 20;
/// Bytes that the kernel multiplies at once.
const VECTOR_BYTES: usize = 32;

/// This CPU lacks instructions that the program was compiled to use.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error("this CPU lacks {0}: Floe needs x86-64-v3 (Intel Haswell, AMD Zen or newer)")]
pub struct UnsupportedCpu(&'static str);

/// Whether the CPU has what the erasure code's kernel is compiled for. Binaries ask at their
/// start: without it the first encoding would end the process.
///
/// # Errors
/// [`UnsupportedCpu`] names the first missing instruction set.
pub fn cpu_supported() -> Result<(), UnsupportedCpu> {
    #[cfg(target_arch = "x86_64")]
    {
        let features = [
            ("AVX2", is_x86_feature_detected!("avx2")),
            ("BMI1", is_x86_feature_detected!("bmi1")),
            ("BMI2", is_x86_feature_detected!("bmi2")),
            ("FMA", is_x86_feature_detected!("fma")),
            ("LZCNT", is_x86_feature_detected!("lzcnt")),
            ("MOVBE", is_x86_feature_detected!("movbe")),
        ];
        if let Some((name, _)) = features.into_iter().find(|(_, present)| !present) {
            return Err(UnsupportedCpu(name));
        }
    }
    Ok(())
}

/// Coefficients, row by row: one row per shard to compute, one column per source shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Matrix {
    columns: usize,
    cells: Vec<u8>,
}

impl Matrix {
    fn rows(&self) -> usize {
        self.cells.len() / self.columns
    }
}

/// Multiplies `matrix` by `data` (shards of one length, at least 1): one new shard per row.
pub(super) fn product(matrix: &Matrix, data: &[&[u8]], threads: NonZeroUsize) -> Vec<Bytes> {
    let width = data[0].len();
    let work = width * (matrix.rows() + data.len());
    let ranges = parallel::split(width, threads.get().min(work.div_ceil(MIN_THREAD_WORK)));
    let segments = parallel::segments(matrix.rows(), &ranges);
    let filled = parallel::run(segments, |(range, mut segments)| {
        let mut scratch = vec![0; TILE_ROWS * BLOCK_BYTES.min(range.len())];
        for start in range.clone().step_by(BLOCK_BYTES) {
            let block = start..range.end.min(start + BLOCK_BYTES);
            let data: Vec<_> = data.iter().map(|shard| &shard[block.clone()]).collect();
            let tiles = matrix.cells.chunks(TILE_ROWS * matrix.columns);
            for (tile, segments) in tiles.zip(segments.chunks_mut(TILE_ROWS)) {
                let sums = &mut scratch[..segments.len() * block.len()];
                multiply_block(tile, &data, sums);
                for (segment, sum) in segments.iter_mut().zip(sums.chunks(block.len())) {
                    segment.extend_from_slice(sum);
                }
            }
        }
        segments
    });
    parallel::join_segments(filled)
}

/// Multiplies some rows of a matrix, `tile`, by one block of the shards into one sum per row.
fn multiply_block(tile: &[u8], data: &[&[u8]], sums: &mut [u8]) {
    let width = data[0].len();
    let tail = width - width % VECTOR_BYTES..width;
    // What is left behind the last vector is multiplied in zero-padded copies: a whole vector is
    // cheaper than its bytes one by one.
    let mut tail_sums = [[0; VECTOR_BYTES]; TILE_ROWS];
    for (column, source) in data.iter().enumerate() {
        let mut padded = [0; VECTOR_BYTES];
        padded[..tail.len()].copy_from_slice(&source[tail.clone()]);
        let coefficients = tile.iter().skip(column).step_by(data.len());
        let sums = sums.chunks_exact_mut(width).zip(&mut tail_sums);
        for (&coefficient, (sum, tail_sum)) in coefficients.zip(sums) {
            let multiply = if column == 0 { galois_8::mul_slice } else { galois_8::mul_slice_xor };
            if tail.start > 0 {
                multiply(coefficient, &source[..tail.start], &mut sum[..tail.start]);
            }
            if !tail.is_empty() {
                multiply(coefficient, &padded, tail_sum);
            }
        }
    }
    for (sum, tail_sum) in sums.chunks_exact_mut(width).zip(&tail_sums) {
        sum[tail.clone()].copy_from_slice(&tail_sum[..tail.len()]);
    }
}

/// The product of two field elements.
pub(super) fn multiply(a: u8, b: u8) -> u8 {
    galois_8::mul(a, b)
}

/// The quotient of two field elements, the second of which is not 0.
pub(super) fn divide(a: u8, b: u8) -> u8 {
    galois_8::div(a, b)
}

/// Adds `factor * source` to `sum`, byte by byte; both have the same length, at least 1.
pub(super) fn add_product(factor: u8, source: &[u8], sum: &mut [u8]) {
    galois_8::mul_slice_xor(factor, source, sum);
}

/// The codec of one `(k, n)`.
#[derive(Debug)]
pub(super) struct Codec {
    data_shards: usize,
    shards: usize,
    library: ReedSolomon,
}

/// The codec for `data_shards` of `shards`, which come from an
/// [`EncodingConfig`](super::EncodingConfig).
pub(super) fn codec(data_shards: usize, shards: usize) -> Arc<Codec> {
    static CODECS: Mutex<BTreeMap<(usize, usize), Arc<Codec>>> = Mutex::new(BTreeMap::new());
    let mut codecs = CODECS.lock().unwrap_or_else(PoisonError::into_inner);
    let codec = codecs.entry((data_shards, shards));
    Arc::clone(codec.or_insert_with(|| Arc::new(Codec::new(data_shards, shards))))
}

impl Codec {
    fn new(data_shards: usize, shards: usize) -> Self {
        let library = ReedSolomon::new(data_shards, shards - data_shards)
            .expect("a checked configuration has 0 < k < n <= 256");
        Self { data_shards, shards, library }
    }

    /// The matrix that makes the data shards `wanted` from the shards `present`: exactly `k`
    /// different ones, ascending, none of them wanted.
    pub(super) fn decode_matrix(&self, present: &[usize], wanted: &[usize]) -> Matrix {
        debug_assert!(present.len() == self.data_shards && present.is_sorted_by(|a, b| a < b));
        // The library keeps its matrices private. Reconstruction from the unit vectors shows this
        // one: byte j of a data shard is then the coefficient of shard j of `present` in it. The
        // library caches the inverse that it needs by erasure pattern.
        let mut shards = vec![None; self.shards];
        for (i, &shard) in present.iter().enumerate() {
            shards[shard] = Some(unit(self.data_shards, i));
        }
        self.library.reconstruct_data(&mut shards).expect("k unit vectors of k bytes");
        let row = |&shard: &usize| shards[shard].take().expect("every data shard is rebuilt");
        let cells = wanted.iter().flat_map(row).collect();
        Matrix { columns: self.data_shards, cells }
    }
}

/// All `data_shards` data shards, from `shards` at the indices `present`: `data_shards` different
/// ones, ascending. Those that are present are shared, the others are computed.
pub(super) fn decode(
    (data_shards, shards): (usize, usize),
    present: &[usize],
    given: &[Bytes],
    threads: NonZeroUsize,
) -> Vec<Bytes> {
    let wanted: Vec<_> = (0..data_shards).filter(|i| present.binary_search(i).is_err()).collect();
    let mut computed = Vec::new();
    if !wanted.is_empty() {
        let matrix = codec(data_shards, shards).decode_matrix(present, &wanted);
        let views: Vec<_> = given.iter().map(|shard| &shard[..]).collect();
        computed = product(&matrix, &views, threads);
    }
    let mut computed = computed.into_iter();
    let shard = |i| match present.binary_search(&i) {
        Ok(place) => given[place].clone(),
        Err(_) => computed.next().expect("one per wanted shard"),
    };
    (0..data_shards).map(shard).collect()
}

fn unit(length: usize, one: usize) -> Vec<u8> {
    let mut vector = vec![0; length];
    vector[one] = 1;
    vector
}

#[cfg(test)]
impl Codec {
    /// The rows of the generator below the identity, which make the parity shards: the reference
    /// for the fast extension.
    pub(super) fn parity_matrix(&self) -> Matrix {
        let units: Vec<_> = (0..self.data_shards).map(|i| unit(self.data_shards, i)).collect();
        let mut parity = vec![vec![0; self.data_shards]; self.shards - self.data_shards];
        self.library.encode_sep(&units, &mut parity).unwrap();
        Matrix { columns: self.data_shards, cells: parity.concat() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{encoding::EncodingConfig, test_support::blob};

    const ONE: NonZeroUsize = NonZeroUsize::MIN;

    #[test]
    fn this_machine_is_supported() {
        assert_eq!(cpu_supported(), Ok(()));
    }

    #[test]
    fn matrices_follow_the_published_rows() {
        assert_eq!(codec(2, 4).parity_matrix().cells, [3, 2, 2, 3]);
        #[rustfmt::skip]
        let rows = [
            27, 28, 18, 20,   28, 27, 20, 18,   18, 20, 27, 28,   20, 18, 28, 27,
            245, 232, 196, 216,   232, 245, 216, 196,
        ];
        assert_eq!(codec(4, 10).parity_matrix().cells, rows);
    }

    #[test]
    fn products_are_the_bytes_of_the_library() {
        for (k, n) in [(2, 4), (3, 7), (34, 100), (171, 256)] {
            for width in [1, 31, 32, 33, 4096, 4100, 40_001] {
                let width = if n > 100 { width.min(4100) } else { width };
                let data: Vec<_> = (0_u64..).take(k).map(|i| blob(i, width)).collect();
                let mut expected = vec![vec![0; width]; n - k];
                let codec = codec(k, n);
                codec.library.encode_sep(&data, &mut expected).unwrap();
                let data: Vec<_> = data.iter().map(|shard| &shard[..]).collect();
                assert_eq!(
                    product(&codec.parity_matrix(), &data, ONE),
                    expected,
                    "{k} of {n}, {width}"
                );
            }
        }
    }

    #[test]
    fn threads_change_nothing() {
        let data: Vec<_> = (0..4).map(|i| blob(i, 3_000_001)).collect();
        let data: Vec<_> = data.iter().map(|shard| &shard[..]).collect();
        let codec = codec(4, 10);
        let one = product(&codec.parity_matrix(), &data, ONE);
        for threads in [2, 3, 7] {
            let threads = NonZeroUsize::new(threads).unwrap();
            assert_eq!(product(&codec.parity_matrix(), &data, threads), one, "{threads} threads");
        }
    }

    #[test]
    fn any_k_shards_decode() {
        for n in [4, 7, 10, 31] {
            let config = EncodingConfig::new(n).unwrap();
            for k in [config.k1(), config.k2()] {
                let n = usize::from(n);
                let codec = codec(k, n);
                let data: Vec<_> = (0_u64..).take(k).map(|i| blob(i, 40)).collect();
                let views: Vec<_> = data.iter().map(|shard| &shard[..]).collect();
                let all = [data.clone(), product(&codec.parity_matrix(), &views, ONE)].concat();
                for first in 0..=n - k {
                    // Every other shard from `first` on, then the rest from the end.
                    let mut present: Vec<_> = (first..n).step_by(2).take(k).collect();
                    let rest = (0..n).rev().filter(|i| !present.contains(i));
                    present.extend(rest.take(k - present.len()).collect::<Vec<_>>());
                    present.sort_unstable();
                    let wanted: Vec<_> = (0..k).filter(|i| !present.contains(i)).collect();
                    if wanted.is_empty() {
                        continue;
                    }
                    let matrix = codec.decode_matrix(&present, &wanted);
                    let views: Vec<_> = present.iter().map(|&i| &all[i][..]).collect();
                    let expected: Vec<_> = wanted.iter().map(|&i| data[i].clone()).collect();
                    assert_eq!(product(&matrix, &views, ONE), expected, "{present:?} of {n}");
                }
            }
        }
    }
}
