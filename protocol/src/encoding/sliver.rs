//! One sliver: its symbols, its expansion, and its check against a pair proof.
//!
//! A sliver root covers all `n` symbols of the *expanded* sliver, so a sliver is verified by
//! extending it again: who holds one can prove any symbol of it, parity included, and so help to
//! recover every sliver that crosses it.
//!
//! Two kinds of holder check differently. A storage node, before it confirms, also requires that
//! the bytes past the blob's length are zero ([`verify_pair`]). A reader takes a row with the right
//! root whatever its padding ([`verify_primary`]): the root fixes every byte, and what lies past
//! the length is never output.
//!
//! Invariant: nothing here trusts a length; the pair proof is the caller's to verify first.

use std::num::NonZeroUsize;

use bytes::Bytes;

use super::{Axis, BlobLayout, extension::Extension};
use crate::{
    blob::PairProof,
    hash::{Domain, Hash},
    index::SymbolIndex,
    merkle::{self, MerkleTree},
};

/// Why bytes are not the sliver that a pair proof names.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum SliverError {
    /// Not as long as every sliver of this blob and axis.
    #[error("{axis:?} sliver of {bytes} bytes instead of {expected_bytes}")]
    Length {
        /// The sliver's axis.
        axis: Axis,
        /// Bytes given.
        bytes: usize,
        /// Bytes that the layout asks for.
        expected_bytes: usize,
    },
    /// Bytes past the blob's length that are not zero.
    #[error("bytes past the blob's length are not zero")]
    Padding,
    /// The expanded sliver has another root.
    #[error("{0:?} sliver does not have the root of its pair proof")]
    Root(Axis),
}

/// The hashes of all `n` symbols of a pair's expanded slivers, as its check found them: who keeps
/// them beside a long sliver need not expand it to prove one of its symbols.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairHashes {
    /// Of the primary sliver.
    pub primary: Vec<Hash>,
    /// Of the secondary sliver.
    pub secondary: Vec<Hash>,
}

impl PairHashes {
    /// Hashes both slivers without comparing them with anything.
    ///
    /// # Errors
    /// [`SliverError::Length`].
    pub fn of(layout: &BlobLayout, primary: &[u8], secondary: &[u8]) -> Result<Self, SliverError> {
        let primary = symbol_hashes(layout, Axis::Primary, primary)?;
        let secondary = symbol_hashes(layout, Axis::Secondary, secondary)?;
        Ok(Self { primary, secondary })
    }
}

/// Checks both slivers of the pair as a storage node does before it keeps them: lengths, zero
/// padding of a systematic row, both roots. `proof` is already verified and `layout` is its
/// header's.
///
/// # Errors
/// [`SliverError`] names the first check that fails.
pub fn verify_pair(
    layout: &BlobLayout,
    proof: &PairProof,
    primary: &[u8],
    secondary: &[u8],
) -> Result<PairHashes, SliverError> {
    check_length(layout, Axis::Primary, primary)?;
    check_length(layout, Axis::Secondary, secondary)?;
    let row = proof.index.primary().as_usize();
    let blob_bytes = layout.bytes_of_row(row);
    if row < layout.config().k1() && primary[blob_bytes..].iter().any(|byte| *byte != 0) {
        return Err(SliverError::Padding);
    }
    verify_slivers(layout, proof, primary, secondary)
}

/// Checks both slivers of a pair of a blob that is certified, as repair does and whoever looks at
/// stored pairs again: lengths and roots. Padding is ignored: a certified blob may have bytes
/// there, its writer having shown them to others than the holder of that row, and then the pair is
/// what it is. `proof` is already verified and `layout` is its header's.
///
/// # Errors
/// [`SliverError::Length`], [`SliverError::Root`].
pub fn verify_slivers(
    layout: &BlobLayout,
    proof: &PairProof,
    primary: &[u8],
    secondary: &[u8],
) -> Result<PairHashes, SliverError> {
    let primary = verify(layout, Axis::Primary, proof, primary)?;
    let secondary = verify(layout, Axis::Secondary, proof, secondary)?;
    Ok(PairHashes { primary, secondary })
}

/// Checks the length and root of a primary sliver, as a reader does: padding is ignored. `proof`
/// is already verified and `layout` is its header's.
///
/// # Errors
/// [`SliverError::Length`], [`SliverError::Root`].
pub fn verify_primary(
    layout: &BlobLayout,
    proof: &PairProof,
    primary: &[u8],
) -> Result<(), SliverError> {
    verify(layout, Axis::Primary, proof, primary).map(drop)
}

/// Checks the length and root of a secondary sliver. `proof` is already verified and `layout` is
/// its header's.
///
/// # Errors
/// [`SliverError::Length`], [`SliverError::Root`].
pub fn verify_secondary(
    layout: &BlobLayout,
    proof: &PairProof,
    secondary: &[u8],
) -> Result<(), SliverError> {
    verify(layout, Axis::Secondary, proof, secondary).map(drop)
}

fn verify(
    layout: &BlobLayout,
    axis: Axis,
    proof: &PairProof,
    sliver: &[u8],
) -> Result<Vec<Hash>, SliverError> {
    let hashes = symbol_hashes(layout, axis, sliver)?;
    if merkle::root(Domain::SliverNode, hashes.clone()) == axis.root_of(&proof.digest) {
        Ok(hashes)
    } else {
        Err(SliverError::Root(axis))
    }
}

/// The root of the expanded sliver.
///
/// # Errors
/// [`SliverError::Length`].
pub fn sliver_root(layout: &BlobLayout, axis: Axis, sliver: &[u8]) -> Result<Hash, SliverError> {
    Ok(merkle::root(Domain::SliverNode, symbol_hashes(layout, axis, sliver)?))
}

/// The hashes of all `n` symbols of the expanded sliver: the leaves under its root.
///
/// # Errors
/// [`SliverError::Length`].
pub fn symbol_hashes(
    layout: &BlobLayout,
    axis: Axis,
    sliver: &[u8],
) -> Result<Vec<Hash>, SliverError> {
    check_length(layout, axis, sliver)?;
    let symbol_bytes = layout.symbol_bytes();
    let n = layout.config().n();
    let mut hashes = Vec::with_capacity(n.next_power_of_two());
    hashes.extend(sliver.chunks_exact(symbol_bytes).map(Hash::of_symbol));
    let parity = expand(layout, axis, sliver);
    hashes.extend(parity.iter().map(|symbol| Hash::of_symbol(symbol)));
    Ok(hashes)
}

/// The parity symbols of a sliver of the right length.
fn expand(layout: &BlobLayout, axis: Axis, sliver: &[u8]) -> Vec<Bytes> {
    let symbols: Vec<_> = sliver.chunks_exact(layout.symbol_bytes()).collect();
    let extension = Extension::new(axis.symbols(layout.config()), layout.config().n());
    extension.parity(&symbols, NonZeroUsize::MIN)
}

fn check_length(layout: &BlobLayout, axis: Axis, sliver: &[u8]) -> Result<(), SliverError> {
    let (bytes, expected_bytes) = (sliver.len(), axis.sliver_bytes(layout));
    if bytes == expected_bytes {
        Ok(())
    } else {
        Err(SliverError::Length { axis, bytes, expected_bytes })
    }
}

/// An expanded sliver with its Merkle tree: one expansion serves every symbol asked of it.
#[derive(Clone, Debug)]
pub struct SliverTree {
    axis: Axis,
    symbol_bytes: usize,
    sliver: Bytes,
    parity: Vec<Bytes>,
    tree: MerkleTree,
}

impl SliverTree {
    /// Expands `sliver`.
    ///
    /// # Errors
    /// [`SliverError::Length`].
    pub fn new(layout: &BlobLayout, axis: Axis, sliver: Bytes) -> Result<Self, SliverError> {
        check_length(layout, axis, &sliver)?;
        let symbol_bytes = layout.symbol_bytes();
        let parity = expand(layout, axis, &sliver);
        let parity_symbols = parity.iter().map(|symbol| &symbol[..]);
        let symbols = sliver.chunks_exact(symbol_bytes).chain(parity_symbols);
        let hashes = symbols.map(Hash::of_symbol).collect();
        let tree = MerkleTree::new(Domain::SliverNode, hashes);
        Ok(Self { axis, symbol_bytes, sliver, parity, tree })
    }

    /// The sliver's axis.
    #[must_use]
    pub const fn axis(&self) -> Axis {
        self.axis
    }

    /// The root of the expanded sliver.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.tree.root()
    }

    /// Symbol `index` of the expanded sliver, none from `n` on.
    #[must_use]
    pub fn symbol(&self, index: SymbolIndex) -> Option<Bytes> {
        let symbols = self.sliver.len() / self.symbol_bytes;
        match index.as_usize().checked_sub(symbols) {
            Some(parity) => self.parity.get(parity).cloned(),
            None => {
                let start = index.as_usize() * self.symbol_bytes;
                Some(self.sliver.slice(start..start + self.symbol_bytes))
            }
        }
    }

    /// The siblings from symbol `index` to the root, none from `n` on.
    #[must_use]
    pub fn path(&self, index: SymbolIndex) -> Option<Vec<Hash>> {
        let symbols = self.sliver.len() / self.symbol_bytes + self.parity.len();
        (index.as_usize() < symbols).then(|| self.tree.path(index.as_usize()))
    }

    /// Bytes of the expanded sliver, for caches that are bounded in bytes.
    #[must_use]
    pub fn expanded_bytes(&self) -> usize {
        self.sliver.len() + self.parity.len() * self.symbol_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        encoding::{EncodedBlob, EncodingConfig, encode},
        index::SliverPairIndex,
        test_support::blob,
    };

    fn encoded(n: u16, len: usize) -> EncodedBlob {
        encode(EncodingConfig::new(n).unwrap(), blob(1, len), NonZeroUsize::MIN).unwrap()
    }

    #[test]
    fn every_pair_of_an_encoded_blob_verifies() {
        for (n, len) in [(4, 0), (4, 1), (7, 1000), (10, 28 * 40), (64, 5000), (256, 20_000)] {
            let blob = encoded(n, len);
            for pair in (0..n).step_by(usize::from(n / 16).max(1)).map(SliverPairIndex::new) {
                let (primary, secondary) = blob.pair(pair);
                let proof = blob.proof(pair);
                let hashes = verify_pair(&blob.layout(), &proof, &primary, &secondary);
                assert_eq!(hashes, PairHashes::of(&blob.layout(), &primary, &secondary));
            }
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let blob = encoded(7, 100);
        let layout = blob.layout();
        let proof = blob.proof(SliverPairIndex::new(2));
        let (primary, secondary) = blob.pair(SliverPairIndex::new(2));
        let long = [&primary[..], &[0]].concat();
        for bad in [&long[..], &primary[1..], &[]] {
            let error = verify_pair(&layout, &proof, bad, &secondary).unwrap_err();
            assert!(matches!(error, SliverError::Length { axis: Axis::Primary, .. }), "{error}");
            assert_eq!(verify_primary(&layout, &proof, bad), Err(error));
        }
        for bad in [&primary[..], &secondary[1..], &[]] {
            let error = verify_pair(&layout, &proof, &primary, bad).unwrap_err();
            assert!(matches!(error, SliverError::Length { axis: Axis::Secondary, .. }), "{error}");
            assert_eq!(verify_secondary(&layout, &proof, bad), Err(error));
        }
    }

    #[test]
    fn holders_check_the_padding_and_readers_do_not() {
        // A blob of 30 bytes whose writer says 29: its last byte becomes padding.
        let padded = encoded(7, 30);
        let layout = EncodingConfig::new(7).unwrap().layout(29).unwrap();
        assert_eq!(layout.symbol_bytes(), padded.layout().symbol_bytes());
        let last_row = SliverPairIndex::new(2);
        let (primary, secondary) = padded.pair(last_row);
        assert_ne!(primary[9], 0);
        let proof = padded.proof(last_row);
        let result = verify_pair(&layout, &proof, &primary, &secondary);
        assert_eq!(result, Err(SliverError::Padding));
        assert_eq!(verify_primary(&layout, &proof, &primary), Ok(()));
        // Parity rows have no padding to check.
        let parity_row = SliverPairIndex::new(3);
        let (primary, secondary) = padded.pair(parity_row);
        assert!(verify_pair(&layout, &padded.proof(parity_row), &primary, &secondary).is_ok());
    }

    #[test]
    fn a_tree_proves_each_symbol_of_the_expanded_sliver() {
        let blob = encoded(10, 500);
        let layout = blob.layout();
        for pair in (0..10).map(SliverPairIndex::new) {
            let (primary, secondary) = blob.pair(pair);
            let digest = blob.table().digest(pair);
            for (axis, sliver) in [(Axis::Primary, primary), (Axis::Secondary, secondary)] {
                let tree = SliverTree::new(&layout, axis, sliver.clone()).unwrap();
                assert_eq!(tree.root(), axis.root_of(digest));
                assert_eq!(sliver_root(&layout, axis, &sliver), Ok(tree.root()));
                assert_eq!(tree.expanded_bytes(), 10 * layout.symbol_bytes());
                let hashes = symbol_hashes(&layout, axis, &sliver).unwrap();
                for (index, hash) in (0..10).map(SymbolIndex::new).zip(hashes) {
                    assert_eq!(Hash::of_symbol(&tree.symbol(index).unwrap()), hash);
                    let path = tree.path(index).unwrap();
                    let position = (index.as_usize(), 10);
                    let root = tree.root();
                    assert!(merkle::verify(Domain::SliverNode, &root, position, hash, &path));
                }
                assert_eq!(tree.symbol(SymbolIndex::new(10)), None);
                assert_eq!(tree.path(SymbolIndex::new(10)), None);
            }
        }
    }
}
