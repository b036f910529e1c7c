//! Blob in, sliver pairs and commitments out: the first step of every write.
//!
//! The systematic primary slivers are slices of the blob itself; only rows that are padded are
//! copied. All other slivers are computed once and shared by reference from then on.
//!
//! Invariants: the result depends on the blob and `n` alone, never on the number of threads; at
//! most the blob and its slivers (about 5.5 times the blob) are held, and neither of them twice.

use std::num::NonZeroUsize;

use bytes::Bytes;

use super::{
    BlobLayout, ConfigError, DigestTable, EncodingConfig,
    expansion::{self, ParityRows},
};
use crate::{
    blob::{BlobHeader, BlobId, PairProof},
    index::{SliverIndex, SliverPairIndex},
};

/// A blob with all its slivers and commitments.
#[derive(Clone, Debug)]
pub struct EncodedBlob {
    id: BlobId,
    header: BlobHeader,
    layout: BlobLayout,
    table: DigestTable,
    proofs: Vec<PairProof>,
    primaries: Vec<Bytes>,
    secondaries: Vec<Bytes>,
}

/// Encodes `blob` on up to `threads` threads.
///
/// ```
/// use std::num::NonZeroUsize;
/// use floe_protocol::{encoding::{EncodingConfig, encode, verify_pair}, index::SliverPairIndex};
///
/// let config = EncodingConfig::new(7)?;
/// let blob = encode(config, "glaciers calve".into(), NonZeroUsize::MIN)?;
/// let (primary, secondary) = blob.pair(SliverPairIndex::new(6));
/// let proof = blob.proof(SliverPairIndex::new(6));
/// proof.verify(config, &blob.id())?;
/// verify_pair(&blob.layout(), &proof, &primary, &secondary)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`ConfigError::BlobTooLarge`].
pub fn encode(
    config: EncodingConfig,
    blob: Bytes,
    threads: NonZeroUsize,
) -> Result<EncodedBlob, ConfigError> {
    let layout = config.layout(blob.len() as u64)?;
    let mut primaries = message_rows(&layout, &blob);
    drop(blob);
    let expanded = expansion::expand(&layout, &primaries, ParityRows::Keep, threads);
    primaries.extend(expanded.parity_rows);
    let (header, proofs) = expanded.table.commit(layout.len());
    Ok(EncodedBlob {
        id: header.id(),
        header,
        layout,
        table: expanded.table,
        proofs,
        primaries,
        secondaries: expanded.secondaries,
    })
}

/// The id and header of `blob`, without keeping its slivers: about half the memory of
/// [`encode`] and nearly all of its work.
///
/// # Errors
/// [`ConfigError::BlobTooLarge`].
pub fn blob_id(
    config: EncodingConfig,
    blob: Bytes,
    threads: NonZeroUsize,
) -> Result<(BlobId, BlobHeader), ConfigError> {
    let layout = config.layout(blob.len() as u64)?;
    let rows = message_rows(&layout, &blob);
    drop(blob);
    let expanded = expansion::expand(&layout, &rows, ParityRows::Discard, threads);
    let header = BlobHeader {
        n_shards: config.n_shards(),
        len: layout.len(),
        root: expanded.table.blob_root(),
    };
    Ok((header.id(), header))
}

/// The `k1` rows of the message matrix: slices of the blob, and copies where zeros are appended.
fn message_rows(layout: &BlobLayout, blob: &Bytes) -> Vec<Bytes> {
    let row_bytes = layout.primary_bytes();
    let zeros = Bytes::from(vec![0; row_bytes]);
    let row = |row| {
        let bytes = layout.bytes_of_row(row);
        let start = row * row_bytes;
        if bytes == row_bytes {
            blob.slice(start..start + bytes)
        } else if bytes == 0 {
            zeros.clone()
        } else {
            let mut padded = blob[start..].to_vec();
            padded.resize(row_bytes, 0);
            Bytes::from(padded)
        }
    };
    (0..layout.config().k1()).map(row).collect()
}

impl EncodedBlob {
    /// The blob id.
    #[must_use]
    pub const fn id(&self) -> BlobId {
        self.id
    }

    /// What the id commits to.
    #[must_use]
    pub const fn header(&self) -> &BlobHeader {
        &self.header
    }

    /// The sizes of the blob.
    #[must_use]
    pub const fn layout(&self) -> BlobLayout {
        self.layout
    }

    /// The digest table.
    #[must_use]
    pub const fn table(&self) -> &DigestTable {
        &self.table
    }

    /// Primary sliver `index` (a row).
    ///
    /// # Panics
    /// If `index` is not below `n`.
    #[must_use]
    pub fn primary(&self, index: SliverIndex) -> &Bytes {
        &self.primaries[index.as_usize()]
    }

    /// Secondary sliver `index` (a column).
    ///
    /// # Panics
    /// If `index` is not below `n`.
    #[must_use]
    pub fn secondary(&self, index: SliverIndex) -> &Bytes {
        &self.secondaries[index.as_usize()]
    }

    /// The primary and secondary sliver of `pair`, shared and not copied.
    ///
    /// # Panics
    /// If `pair` is not below `n`.
    #[must_use]
    pub fn pair(&self, pair: SliverPairIndex) -> (Bytes, Bytes) {
        let secondary = pair.secondary(self.header.n_shards);
        (self.primary(pair.primary()).clone(), self.secondary(secondary).clone())
    }

    /// The pair proof of `pair`.
    ///
    /// # Panics
    /// If `pair` is not below `n`.
    #[must_use]
    pub fn proof(&self, pair: SliverPairIndex) -> PairProof {
        self.proofs[pair.as_usize()].clone()
    }

    /// The pair proofs of all pairs, in order.
    #[must_use]
    pub fn proofs(&self) -> Vec<PairProof> {
        self.proofs.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::blob;

    #[test]
    fn systematic_rows_are_slices_of_the_blob_and_only_padded_ones_are_copied() {
        let config = EncodingConfig::new(7).unwrap();
        for (len, shared_rows) in [(30, 3), (29, 2), (20, 2), (19, 1), (16, 1), (15, 3), (0, 0)] {
            let blob = blob(5, len);
            let encoded = encode(config, blob.clone(), NonZeroUsize::MIN).unwrap();
            let row_bytes = encoded.layout().primary_bytes();
            let shared = (0..3_u16).filter(|&row| {
                let start = usize::from(row) * row_bytes;
                let place = blob.as_ptr() as usize + start;
                encoded.primary(SliverIndex::new(row)).as_ptr() as usize == place
            });
            assert_eq!(shared.count(), shared_rows, "{len} bytes");
            let rows: Vec<_> = (0..3).map(|row| encoded.primary(SliverIndex::new(row))).collect();
            let padded = rows.into_iter().flatten().copied().collect::<Vec<_>>();
            assert_eq!(padded[..len], blob);
            assert!(padded[len..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn threads_change_nothing_and_the_id_alone_is_the_same() {
        for (n, len) in [(4, 2_000_000), (7, 3_000_000), (64, 400_000), (100, 1_500_000), (256, 9)]
        {
            let config = EncodingConfig::new(n).unwrap();
            let blob = blob(6, len);
            let one = encode(config, blob.clone(), NonZeroUsize::MIN).unwrap();
            for threads in [1, 2, 3, 8] {
                let threads = NonZeroUsize::new(threads).unwrap();
                let more = encode(config, blob.clone(), threads).unwrap();
                assert_eq!(more.id(), one.id(), "n = {n}");
                assert_eq!(more.primaries, one.primaries, "n = {n}");
                assert_eq!(more.secondaries, one.secondaries, "n = {n}");
                let alone = blob_id(config, blob.clone(), threads).unwrap();
                assert_eq!(alone, (one.id(), *one.header()), "n = {n}");
            }
        }
    }

    #[test]
    fn blobs_above_the_limit_are_refused() {
        let config = EncodingConfig::new(4).unwrap();
        let len = 6 * usize::try_from(config.max_symbol_bytes()).unwrap() + 1;
        let error = encode(config, Bytes::from(vec![0; len]), NonZeroUsize::MIN).unwrap_err();
        assert!(matches!(error, ConfigError::BlobTooLarge { .. }));
        assert_eq!(blob_id(config, vec![0; len].into(), NonZeroUsize::MIN), Err(error));
    }
}
