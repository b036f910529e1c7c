//! The digest table: the roots of all slivers of a blob, coded `k1` of `n` into digest shares.
//!
//! Each pair proof carries one share, so no node keeps the table, and any `k1` proofs rebuild it.
//! A writer sends it to every node once; the node derives the proofs of its pairs from it and
//! forgets it.
//!
//! Invariant: a table that came from outside is believed only after its shares were coded again
//! and led to the blob root ([`DigestTable::check`], [`DigestTable::rebuild`]). Then every subset of
//! `k1` true shares gives this table, and none another one.

use std::num::NonZeroUsize;

use bytes::Bytes;

use super::{EncodingConfig, extension::Extension, reed_solomon};
use crate::{
    blob::{BlobHeader, PAIR_DIGEST_BYTES, PairDigest, PairProof},
    hash::{Domain, Hash},
    index::SliverPairIndex,
    merkle::{self, MerkleTree},
};

/// Why there is no digest table of this blob.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum TableError {
    /// Not exactly one digest per pair.
    #[error("a digest table has one digest per pair and nothing else")]
    Length,
    /// A header or proof of another network or blob than the rest.
    #[error("header of another network or blob")]
    Header,
    /// Fewer than `k1` different shares.
    #[error("{shares} digest shares, at least {min_shares} are needed")]
    TooFewShares {
        /// Different shares given.
        shares: usize,
        /// `k1`.
        min_shares: usize,
    },
    /// The table does not lead to the blob root. Rebuilt from verified proofs, this shows that
    /// the writer's shares are no code word: the blob has no table.
    #[error("the digest table does not lead to the blob root")]
    Inconsistent,
}

/// The digests of all `n` pairs of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestTable {
    config: EncodingConfig,
    digests: Vec<PairDigest>,
}

impl DigestTable {
    /// The table of these digests, in the order of the pairs.
    ///
    /// # Errors
    /// [`TableError::Length`] unless there are `n`.
    pub fn new(config: EncodingConfig, digests: Vec<PairDigest>) -> Result<Self, TableError> {
        if digests.len() != config.n() {
            return Err(TableError::Length);
        }
        Ok(Self { config, digests })
    }

    /// The canonical layout: the `n` pair digests, `64 n` bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.digests.iter().flat_map(PairDigest::to_bytes).collect()
    }

    /// Parses the layout.
    ///
    /// # Errors
    /// [`TableError::Length`].
    pub fn from_bytes(config: EncodingConfig, bytes: &[u8]) -> Result<Self, TableError> {
        let (digests, rest) = bytes.as_chunks::<PAIR_DIGEST_BYTES>();
        if !rest.is_empty() {
            return Err(TableError::Length);
        }
        Self::new(config, digests.iter().map(PairDigest::from_bytes).collect())
    }

    /// The digest of `pair`.
    ///
    /// # Panics
    /// If `pair` is not below `n`.
    #[must_use]
    pub fn digest(&self, pair: SliverPairIndex) -> &PairDigest {
        &self.digests[pair.as_usize()]
    }

    /// The `n` digest shares.
    #[must_use]
    pub fn shares(&self) -> Vec<Bytes> {
        let share_bytes = self.config.share_bytes();
        let mut padded = self.to_bytes();
        padded.resize(self.config.k1() * share_bytes, 0);
        let padded = Bytes::from(padded);
        let data: Vec<_> = padded.chunks_exact(share_bytes).collect();
        let extension = Extension::new(self.config.k1(), self.config.n());
        let parity = extension.parity(&data, NonZeroUsize::MIN);
        data.into_iter().map(|share| padded.slice_ref(share)).chain(parity).collect()
    }

    /// The blob root: over the pair leaves, each a digest and its share.
    #[must_use]
    pub fn blob_root(&self) -> Hash {
        merkle::root(Domain::BlobNode, self.leaves(&self.shares()))
    }

    fn leaves(&self, shares: &[Bytes]) -> Vec<Hash> {
        self.digests.iter().zip(shares).map(|(digest, share)| digest.leaf(share)).collect()
    }

    /// Whether this is the table of the blob with `header`: codes the shares again and compares
    /// the root.
    ///
    /// # Errors
    /// [`TableError::Header`], [`TableError::Inconsistent`].
    pub fn check(&self, header: &BlobHeader) -> Result<(), TableError> {
        self.check_network(header)?;
        if self.blob_root() == header.root { Ok(()) } else { Err(TableError::Inconsistent) }
    }

    /// The pair proofs of all pairs, after the check of [`Self::check`].
    ///
    /// # Errors
    /// [`TableError::Header`], [`TableError::Inconsistent`].
    pub fn proofs(&self, header: &BlobHeader) -> Result<Vec<PairProof>, TableError> {
        self.check_network(header)?;
        let shares = self.shares();
        let tree = MerkleTree::new(Domain::BlobNode, self.leaves(&shares));
        if tree.root() != header.root {
            return Err(TableError::Inconsistent);
        }
        Ok(self.proofs_with(header, shares, &tree))
    }

    /// The header of a blob of `len` bytes with this table, and all its proofs.
    pub(super) fn commit(&self, len: u64) -> (BlobHeader, Vec<PairProof>) {
        let shares = self.shares();
        let tree = MerkleTree::new(Domain::BlobNode, self.leaves(&shares));
        let header = BlobHeader { n_shards: self.config.n_shards(), len, root: tree.root() };
        (header, self.proofs_with(&header, shares, &tree))
    }

    fn proofs_with(
        &self,
        header: &BlobHeader,
        shares: Vec<Bytes>,
        tree: &MerkleTree,
    ) -> Vec<PairProof> {
        let pairs = (0..self.config.n_shards()).map(SliverPairIndex::new);
        let proof = |(index, share): (SliverPairIndex, Bytes)| PairProof {
            header: *header,
            index,
            digest: *self.digest(index),
            share,
            path: tree.path(index.as_usize()),
        };
        pairs.zip(shares).map(proof).collect()
    }

    fn check_network(&self, header: &BlobHeader) -> Result<(), TableError> {
        if header.n_shards == self.config.n_shards() { Ok(()) } else { Err(TableError::Header) }
    }

    /// Rebuilds the table from any `k1` or more verified proofs of one blob with different pairs.
    ///
    /// # Errors
    /// [`TableError::Header`] if the proofs are not all of one blob of this network,
    /// [`TableError::TooFewShares`], and [`TableError::Inconsistent`] if coding the table again
    /// does not give the blob root.
    pub fn rebuild(config: EncodingConfig, proofs: &[PairProof]) -> Result<Self, TableError> {
        let mut sorted: Vec<_> = proofs.iter().collect();
        sorted.sort_unstable_by_key(|proof| proof.index);
        sorted.dedup_by_key(|proof| proof.index);
        let k1 = config.k1();
        let too_few = TableError::TooFewShares { shares: sorted.len(), min_shares: k1 };
        let header = sorted.first().ok_or(too_few)?.header;
        let foreign = |proof: &&PairProof| {
            proof.header != header
                || proof.index.get() >= config.n_shards()
                || proof.share.len() != config.share_bytes()
        };
        if sorted.iter().any(foreign) {
            return Err(TableError::Header);
        }
        if sorted.len() < k1 {
            return Err(too_few);
        }
        sorted.truncate(k1);
        let present: Vec<_> = sorted.iter().map(|proof| proof.index.as_usize()).collect();
        let shares: Vec<_> = sorted.iter().map(|proof| proof.share.clone()).collect();
        let code = (k1, config.n());
        let padded = reed_solomon::decode(code, &present, &shares, NonZeroUsize::MIN).concat();
        let (table, padding) = padded.split_at(config.n() * PAIR_DIGEST_BYTES);
        // Padding is a part of the shares: anything but zeros would code to another root.
        if padding.iter().any(|byte| *byte != 0) {
            return Err(TableError::Inconsistent);
        }
        let table = Self::from_bytes(config, table)?;
        table.check(&header)?;
        Ok(table)
    }
}
