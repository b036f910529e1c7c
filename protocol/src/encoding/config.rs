//! The shape of the code: how many symbols, rows and columns, and how large each is.

use crate::bft;

/// Largest `n_shards`: the code works in GF(2^8).
pub const MAX_SHARDS: u16 = 256;
/// Smallest `n_shards`: below it no fault is tolerated.
pub const MIN_SHARDS: u16 = 4;
/// Bound of a primary sliver, from which the bound of a symbol follows.
pub const MAX_SLIVER_BYTES: u64 = 4 << 20;
/// Bound of a blob unless the network sets another one below `k1 * MAX_SLIVER_BYTES`.
pub const DEFAULT_MAX_BLOB_BYTES: u64 = 64 << 20;

/// Why an encoding has no such shape.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum ConfigError {
    /// The number of shards is outside what the code supports.
    #[error("{0} shards: a network has between {MIN_SHARDS} and {MAX_SHARDS}")]
    Shards(u16),
    /// The blob needs symbols above the bound.
    #[error("a blob of {len} bytes exceeds the limit of {max_bytes} bytes for {n_shards} shards")]
    BlobTooLarge {
        /// Length of the blob in bytes.
        len: u64,
        /// The largest blob of such a network in bytes.
        max_bytes: u64,
        /// The network's number of shards.
        n_shards: u16,
    },
}

/// The numbers that follow from `n_shards`, fixed at genesis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodingConfig {
    n_shards: u16,
}

impl EncodingConfig {
    /// The configuration of a network of `n_shards`.
    ///
    /// # Errors
    /// [`ConfigError::Shards`] outside 4 ..= 256.
    pub const fn new(n_shards: u16) -> Result<Self, ConfigError> {
        if n_shards < MIN_SHARDS || n_shards > MAX_SHARDS {
            return Err(ConfigError::Shards(n_shards));
        }
        Ok(Self { n_shards })
    }

    /// Shards, which is rows and columns of the expanded matrix: `n`.
    #[must_use]
    pub const fn n_shards(self) -> u16 {
        self.n_shards
    }

    /// `n` as a slice length.
    #[must_use]
    pub const fn n(self) -> usize {
        self.n_shards as usize
    }

    /// Faulty shards tolerated: `f = (n - 1) / 3`.
    #[must_use]
    pub const fn max_faulty(self) -> u16 {
        bft::max_faulty(self.n_shards)
    }

    /// Rows of the message matrix, symbols in a secondary sliver: `k1 = n - 2f`. Any `k1` primary
    /// slivers decode.
    #[must_use]
    pub const fn k1(self) -> usize {
        (self.n_shards - 2 * self.max_faulty()) as usize
    }

    /// Columns of the message matrix, symbols in a primary sliver: `k2 = n - f`. Any `k2`
    /// secondary slivers decode.
    #[must_use]
    pub const fn k2(self) -> usize {
        (self.n_shards - self.max_faulty()) as usize
    }

    /// Bound of a symbol in bytes.
    #[must_use]
    pub const fn max_symbol_bytes(self) -> u64 {
        MAX_SLIVER_BYTES.div_ceil(self.k2() as u64)
    }

    /// The largest blob that such a network could allow: `k1 * MAX_SLIVER_BYTES`.
    #[must_use]
    pub const fn max_blob_bytes_possible(self) -> u64 {
        self.k1() as u64 * MAX_SLIVER_BYTES
    }

    /// The largest blob unless the network says otherwise.
    #[must_use]
    pub const fn default_max_blob_bytes(self) -> u64 {
        let possible = self.max_blob_bytes_possible();
        if possible < DEFAULT_MAX_BLOB_BYTES { possible } else { DEFAULT_MAX_BLOB_BYTES }
    }

    /// Bytes of one digest share: `ceil(64 n / k1)`.
    #[must_use]
    pub const fn share_bytes(self) -> usize {
        (64 * self.n()).div_ceil(self.k1())
    }

    /// The sizes of a blob of `len` bytes.
    ///
    /// # Errors
    /// [`ConfigError::BlobTooLarge`] if its symbols would exceed the bound.
    pub fn layout(self, len: u64) -> Result<BlobLayout, ConfigError> {
        let cells = self.k1() as u64 * self.k2() as u64;
        let symbol_bytes = len.div_ceil(cells).max(1);
        match usize::try_from(symbol_bytes) {
            Ok(bytes) if symbol_bytes <= self.max_symbol_bytes() => {
                Ok(BlobLayout { config: self, len, symbol_bytes: bytes })
            }
            _ => Err(ConfigError::BlobTooLarge {
                len,
                max_bytes: self.max_blob_bytes_possible(),
                n_shards: self.n_shards,
            }),
        }
    }
}

/// The sizes of one blob: how its bytes lie in the message matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobLayout {
    config: EncodingConfig,
    len: u64,
    symbol_bytes: usize,
}

impl BlobLayout {
    /// The configuration that the layout belongs to.
    #[must_use]
    pub const fn config(&self) -> EncodingConfig {
        self.config
    }

    /// Length of the blob in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether the blob has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of a symbol: `s = max(1, ceil(len / (k1 k2)))`.
    #[must_use]
    pub const fn symbol_bytes(&self) -> usize {
        self.symbol_bytes
    }

    /// Bytes of a primary sliver: `k2 s`.
    #[must_use]
    pub const fn primary_bytes(&self) -> usize {
        self.config.k2() * self.symbol_bytes
    }

    /// Bytes of a secondary sliver: `k1 s`.
    #[must_use]
    pub const fn secondary_bytes(&self) -> usize {
        self.config.k1() * self.symbol_bytes
    }

    /// How many bytes of systematic primary sliver `row` are the blob's own; those behind are
    /// zero. Rows of `k1` and above are parity and have none.
    #[must_use]
    pub fn bytes_of_row(&self, row: usize) -> usize {
        let row_bytes = self.primary_bytes() as u64;
        let start = row as u64 * row_bytes;
        let bytes = self.len.saturating_sub(start).min(row_bytes);
        usize::try_from(bytes).expect("at most a sliver")
    }

    /// The rows whose bytes cover `start .. end` of the blob (empty if the range is).
    #[must_use]
    pub fn rows_covering(&self, start: u64, end: u64) -> std::ops::Range<usize> {
        let row_bytes = self.primary_bytes() as u64;
        let end = end.min(self.len);
        if start >= end {
            return 0..0;
        }
        let row = |offset: u64| usize::try_from(offset / row_bytes).expect("below k1");
        row(start)..row(end - 1) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_k1_k2_follow_the_table() {
        let table = [
            (4, 1, 2, 3),
            (6, 1, 4, 5),
            (7, 2, 3, 5),
            (10, 3, 4, 7),
            (13, 4, 5, 9),
            (31, 10, 11, 21),
            (64, 21, 22, 43),
            (100, 33, 34, 67),
            (256, 85, 86, 171),
        ];
        for (n, f, k1, k2) in table {
            let config = EncodingConfig::new(n).unwrap();
            assert_eq!((config.max_faulty(), config.k1(), config.k2()), (f, k1, k2), "n = {n}");
        }
    }

    #[test]
    fn shard_counts_out_of_range_are_refused() {
        for n in [0, 1, 3, 257, u16::MAX] {
            assert_eq!(EncodingConfig::new(n), Err(ConfigError::Shards(n)));
        }
    }

    #[test]
    fn max_blob_bytes_follow_the_table() {
        for (n, mib) in [(4, 8), (7, 12), (10, 16), (31, 44), (64, 64), (256, 64)] {
            let config = EncodingConfig::new(n).unwrap();
            assert_eq!(config.default_max_blob_bytes(), mib << 20, "n = {n}");
        }
    }

    #[test]
    fn every_blob_up_to_the_possible_maximum_has_a_layout_and_no_larger_symbol_has() {
        for n in MIN_SHARDS..=MAX_SHARDS {
            let config = EncodingConfig::new(n).unwrap();
            assert!(config.layout(config.max_blob_bytes_possible()).is_ok(), "n = {n}");
            let cells = (config.k1() * config.k2()) as u64;
            let largest = cells * config.max_symbol_bytes();
            assert!(config.layout(largest).is_ok(), "n = {n}");
            assert!(config.layout(largest + 1).is_err(), "n = {n}");
            assert!(config.layout(u64::MAX).is_err(), "n = {n}");
        }
    }

    #[test]
    fn sizes_of_odd_blobs() {
        let config = EncodingConfig::new(64).unwrap();
        for (len, s) in [(0, 1), (1, 1), (946, 1), (947, 2), (64 << 20, 70_940)] {
            assert_eq!(config.layout(len).unwrap().symbol_bytes(), s, "len = {len}");
        }
        assert_eq!(config.share_bytes(), 187);
    }

    #[test]
    fn rows_hold_the_blob_in_order() {
        let layout = EncodingConfig::new(7).unwrap().layout(31).unwrap();
        assert_eq!(layout.symbol_bytes(), 3);
        let rows: Vec<_> = (0..7).map(|row| layout.bytes_of_row(row)).collect();
        assert_eq!(rows, [15, 15, 1, 0, 0, 0, 0]);
        assert_eq!(layout.rows_covering(0, 31), 0..3);
        assert_eq!(layout.rows_covering(14, 16), 0..2);
        assert_eq!(layout.rows_covering(30, 99), 2..3);
        assert_eq!(layout.rows_covering(31, 99), 0..0);
        assert_eq!(layout.rows_covering(5, 5), 0..0);
    }
}
