//! The systematic extension of `k` data shards to `n`: the fast way to the parity shards.
//!
//! The code of [`reed_solomon`](super::reed_solomon) is polynomial evaluation: the data are the
//! values of a polynomial of degree below `k` at the field elements `0 .. k`, parity shard `i` is
//! its value at `i`. Successive elements are unions of cosets of linear subspaces, so an additive
//! Fourier transform (Lin, Chung, Han: "Novel polynomial basis", FOCS 2014) gives the same bytes as
//! the `(n - k) x k` matrix with `O(n log n)` instead of `O(n^2)` products of shards: a sixth of
//! the work at n = 256.
//!
//! In the basis `X_i = prod s_j^(bit j of i)`, where `s_j` vanishes on `0 .. 2^j` and is 1 at
//! `2^j`, one butterfly turns the coefficients of a block into those of its halves:
//! `u = lo + s_j(base) hi`, `v = u + hi`. [`forward`] descends so to the values. [`inverse`] climbs
//! back from the first `known` values and the coefficients behind them, which are zero at the top
//! (truncated transform: van der Hoeven, ISSAC 2004).
//!
//! Invariant: the bytes are those of the matrix, which tests compare for every shape.

use std::{num::NonZeroUsize, sync::OnceLock};

use bytes::Bytes;

use super::{parallel, reed_solomon as field};

/// Bytes of a transform's working set: of the size of a second-level cache.
const WORKING_SET_BYTES: usize = 128 << 10;
/// Bytes of all shards below which a second thread costs more than it gives.
const MIN_THREAD_WORK: usize = 4 << 20;
/// Pieces are padded to this, so that the kernel has whole vectors only.
const VECTOR_BYTES: usize = 32;

/// Extends `data_shards` to `shards`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extension {
    data_shards: usize,
    shards: usize,
}

/// Working memory of one thread, used again for every call.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    coefficients: Vec<u8>,
    values: Vec<u8>,
}

/// Takes a piece of a parity shard: which one, from which byte on, the bytes.
pub(super) type Emit<'a> = dyn FnMut(usize, usize, &[u8]) + 'a;

impl Extension {
    /// The extension of `data_shards` to `shards`, with `0 < data_shards < shards <= 256`.
    pub(super) const fn new(data_shards: usize, shards: usize) -> Self {
        Self { data_shards, shards }
    }

    /// Parity shards.
    pub(super) const fn parity_shards(self) -> usize {
        self.shards - self.data_shards
    }

    /// The parity shards of `data` (shards of one length, at least 1).
    pub(super) fn parity(self, data: &[&[u8]], threads: NonZeroUsize) -> Vec<Bytes> {
        let width = data[0].len();
        let parts = threads.get().min((width * self.shards).div_ceil(MIN_THREAD_WORK));
        let segments = parallel::segments(self.parity_shards(), &parallel::split(width, parts));
        let filled = parallel::run(segments, |(range, mut segments)| {
            let data: Vec<_> = data.iter().map(|shard| &shard[range.clone()]).collect();
            self.extend(&data, &mut Scratch::default(), &mut |shard, _, piece| {
                segments[shard].extend_from_slice(piece);
            });
            segments
        });
        parallel::join_segments(filled)
    }

    /// Computes the parity shards of `data` piece by piece; the pieces of one shard come in
    /// order.
    pub(super) fn extend(self, data: &[&[u8]], scratch: &mut Scratch, emit: &mut Emit<'_>) {
        debug_assert_eq!(data.len(), self.data_shards);
        let width = data[0].len();
        let rows = self.data_shards.next_power_of_two();
        let piece_bytes = (WORKING_SET_BYTES / rows).next_multiple_of(VECTOR_BYTES);
        for start in (0..width).step_by(piece_bytes) {
            let bytes = piece_bytes.min(width - start);
            let stride = bytes.next_multiple_of(VECTOR_BYTES);
            let Scratch { coefficients, values } = scratch;
            coefficients.clear();
            for shard in data {
                coefficients.extend_from_slice(&shard[start..start + bytes]);
                coefficients.resize(coefficients.len().next_multiple_of(stride), 0);
            }
            coefficients.resize(rows * stride, 0);
            inverse(coefficients, stride, (0, rows), self.data_shards);
            for base in (0..self.shards).step_by(rows) {
                let first = self.data_shards.saturating_sub(base);
                let end = rows.min(self.shards - base);
                if first >= end {
                    continue;
                }
                // The last block may use the coefficients up.
                let block = if base + rows < self.shards {
                    values.clear();
                    values.extend_from_slice(coefficients);
                    &mut *values
                } else {
                    &mut *coefficients
                };
                forward(block, stride, (base, rows), (first, end));
                for row in first..end {
                    let value = &block[row * stride..row * stride + bytes];
                    emit(base + row - self.data_shards, start, value);
                }
            }
        }
    }
}

/// Turns the first `known` of `rows` rows of `stride` bytes from values at `base ..` into
/// coefficients; the others hold coefficients.
fn inverse(block: &mut [u8], stride: usize, (base, rows): (usize, usize), known: usize) {
    if known == 0 || rows == 1 {
        return;
    }
    let half = rows / 2;
    let factor = skew(half, base);
    let (lo, hi) = block.split_at_mut(half * stride);
    if known < half {
        let behind = known * stride;
        add_product(factor, &hi[behind..], &mut lo[behind..]);
        inverse(lo, stride, (base, half), known);
    } else {
        inverse(lo, stride, (base, half), half);
        let behind = (known - half) * stride;
        add(&lo[behind..], &mut hi[behind..]);
        inverse(hi, stride, (base + half, half), known - half);
        add(lo, hi);
    }
    add_product(factor, hi, lo);
}

/// Turns coefficients into values at `base ..`, of which only `first .. end` become right.
fn forward(
    block: &mut [u8],
    stride: usize,
    (base, rows): (usize, usize),
    (first, end): (usize, usize),
) {
    if first >= end || rows == 1 {
        return;
    }
    let half = rows / 2;
    let (lo, hi) = block.split_at_mut(half * stride);
    add_product(skew(half, base), hi, lo);
    if end > half {
        add(lo, hi);
        forward(hi, stride, (base + half, half), (first.saturating_sub(half), end - half));
    }
    forward(lo, stride, (base, half), (first, end.min(half)));
}

/// `s_j(x)` for `half = 2^j`, the factor of the butterflies of a block at `x`.
fn skew(half: usize, x: usize) -> u8 {
    static SKEWS: OnceLock<[[u8; 256]; 8]> = OnceLock::new();
    let skews = SKEWS.get_or_init(|| {
        // s_0(x) = x; s_(j+1)(x) = s_j(x) (s_j(x) + s_j(2^j)); at last each is divided by its
        // value at 2^j.
        let mut skews = [[0; 256]; 8];
        let mut polynomial: [u8; 256] = std::array::from_fn(|x| x.to_le_bytes()[0]);
        for (j, skew) in skews.iter_mut().enumerate() {
            let one = polynomial[1 << j];
            *skew = polynomial.map(|value| field::divide(value, one));
            polynomial = polynomial.map(|value| field::multiply(value, value ^ one));
        }
        skews
    });
    skews[half.trailing_zeros() as usize][x]
}

fn add_product(factor: u8, source: &[u8], sum: &mut [u8]) {
    match factor {
        0 => {}
        1 => add(source, sum),
        _ => field::add_product(factor, source, sum),
    }
}

fn add(source: &[u8], sum: &mut [u8]) {
    for (sum, byte) in sum.iter_mut().zip(source) {
        *sum ^= byte;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{encoding::EncodingConfig, test_support::blob};

    const ONE: NonZeroUsize = NonZeroUsize::MIN;

    fn check(data_shards: usize, shards: usize, width: usize) {
        let data: Vec<_> = (0_u64..).take(data_shards).map(|i| blob(i, width)).collect();
        let data: Vec<_> = data.iter().map(|shard| &shard[..]).collect();
        let codec = field::codec(data_shards, shards);
        let expected = field::product(&codec.parity_matrix(), &data, ONE);
        let parity = Extension::new(data_shards, shards).parity(&data, ONE);
        assert_eq!(parity, expected, "{data_shards} to {shards}, {width} bytes");
    }

    #[test]
    fn parity_is_that_of_the_matrix_for_the_codes_of_every_n() {
        for n in 4..=256 {
            let config = EncodingConfig::new(n).unwrap();
            // Every fourth above 64: building the matrices takes the time.
            if n <= 64 || n % 4 == 0 {
                check(config.k1(), config.n(), 3);
                check(config.k2(), config.n(), 3);
            }
        }
    }

    #[test]
    fn parity_is_that_of_the_matrix_for_every_small_shape() {
        for shards in 2..=20 {
            for data_shards in 1..shards {
                check(data_shards, shards, 5);
            }
        }
    }

    #[test]
    fn parity_is_that_of_the_matrix_for_every_width() {
        for width in [1, 31, 32, 33, 1023, 1024, 1025, 70_001] {
            check(5, 7, width);
            check(34, 100, width);
        }
    }

    #[test]
    fn threads_change_nothing() {
        let data: Vec<_> = (0..4).map(|i| blob(i, 3_000_001)).collect();
        let data: Vec<_> = data.iter().map(|shard| &shard[..]).collect();
        let extension = Extension::new(4, 10);
        let one = extension.parity(&data, ONE);
        for threads in [2, 3, 7] {
            let threads = NonZeroUsize::new(threads).unwrap();
            assert_eq!(extension.parity(&data, threads), one, "{threads} threads");
        }
    }
}
