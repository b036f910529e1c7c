//! What names a blob and what authenticates a sliver pair of it: id, header, pair proof.
//!
//! A [`BlobId`] is the keyed hash of a [`BlobHeader`], which holds the blob root. A [`PairProof`]
//! leads from one pair's sliver roots to that id and needs nothing else: it is all that a node
//! keeps beside a sliver pair, and all that a reader needs to check one.
//!
//! Invariants: byte layouts here are canonical (one value, one encoding), fixed by golden vectors,
//! and parsed strictly: wrong lengths, another encoding type, another number of shards and
//! trailing bytes are refused.

use std::{fmt, io, str::FromStr};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    encoding::{BlobLayout, ConfigError, EncodingConfig},
    hash::{Domain, HASH_BYTES, Hash},
    index::{ShardIndex, SliverPairIndex},
    merkle,
};

/// The only encoding type so far: Red Stuff on GF(2^8) as this crate writes it.
pub const ENCODING_TYPE: u8 = 1;
/// Length of a header's byte layout.
pub const HEADER_BYTES: usize = 1 + 2 + 8 + HASH_BYTES;
/// Length of a pair digest's byte layout.
pub const PAIR_DIGEST_BYTES: usize = 2 * HASH_BYTES;

/// The name of a blob: the keyed hash of its header. Printed as 43 characters of URL-safe base64,
/// in JSON too; raw bytes in CBOR.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    borsh::BorshSerialize,
    borsh::BorshDeserialize,
)]
pub struct BlobId(Hash);

impl BlobId {
    /// Wraps raw bytes.
    #[must_use]
    pub const fn new(bytes: [u8; HASH_BYTES]) -> Self {
        Self(Hash::new(bytes))
    }

    /// The bytes of the id.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; HASH_BYTES] {
        self.0.as_bytes()
    }

    /// By how many shards the pairs of this blob are rotated: the id as a big-endian integer
    /// modulo `n_shards`.
    #[must_use]
    pub fn offset(&self, n_shards: u16) -> u16 {
        let n = u32::from(n_shards);
        let remainder =
            self.as_bytes().iter().fold(0_u32, |acc, byte| (acc * 256 + u32::from(*byte)) % n);
        u16::try_from(remainder).expect("below n_shards")
    }

    /// The shard that holds `pair`: `(pair + offset) mod n`.
    #[must_use]
    pub fn shard_of(&self, pair: SliverPairIndex, n_shards: u16) -> ShardIndex {
        ShardIndex::new((pair.get() % n_shards + self.offset(n_shards)) % n_shards)
    }

    /// The pair that lives in `shard`, the inverse of [`Self::shard_of`].
    #[must_use]
    pub fn pair_of(&self, shard: ShardIndex, n_shards: u16) -> SliverPairIndex {
        SliverPairIndex::new((shard.get() % n_shards + n_shards - self.offset(n_shards)) % n_shards)
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::BASE64URL_NOPAD.encode(self.as_bytes()))
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no blob id.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error("a blob id is 43 characters of URL-safe base64 (letters, digits, - and _)")]
pub struct ParseBlobIdError;

impl FromStr for BlobId {
    type Err = ParseBlobIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes =
            data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| ParseBlobIdError)?;
        Ok(Self::new(bytes.try_into().map_err(|_| ParseBlobIdError)?))
    }
}

impl Serialize for BlobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for BlobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            Hash::deserialize(deserializer).map(Self)
        }
    }
}

/// Why bytes are not a header or pair proof of this network, or do not belong to the blob.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum ProofError {
    /// Bytes missing or left over.
    #[error("wrong length")]
    Length,
    /// Another encoding type or number of shards than this network's.
    #[error("another network's encoding")]
    Encoding,
    /// The pair index is not below `n_shards`.
    #[error("pair index out of range")]
    Index,
    /// The blob is larger than the code allows.
    #[error(transparent)]
    Layout(#[from] ConfigError),
    /// The header does not hash to the blob id.
    #[error("header of another blob")]
    BlobId,
    /// The path does not lead to the blob root.
    #[error("proof does not lead to the blob root")]
    Path,
}

/// What the blob id commits to: the shape of the encoding and the root over all pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobHeader {
    /// The network's number of shards.
    pub n_shards: u16,
    /// Length of the blob in bytes.
    pub len: u64,
    /// Merkle root over the pair leaves.
    pub root: Hash,
}

impl BlobHeader {
    /// The canonical layout: encoding type, `n_shards` (LE), `len` (LE), blob root.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = ENCODING_TYPE;
        bytes[1..3].copy_from_slice(&self.n_shards.to_le_bytes());
        bytes[3..11].copy_from_slice(&self.len.to_le_bytes());
        bytes[11..].copy_from_slice(self.root.as_bytes());
        bytes
    }

    /// Parses a header of a network with `config`.
    ///
    /// # Errors
    /// [`ProofError::Length`], [`ProofError::Encoding`], [`ProofError::Layout`].
    pub fn from_bytes(config: EncodingConfig, bytes: &[u8]) -> Result<Self, ProofError> {
        let bytes: &[u8; HEADER_BYTES] = bytes.try_into().map_err(|_| ProofError::Length)?;
        let n_shards = u16::from_le_bytes([bytes[1], bytes[2]]);
        if bytes[0] != ENCODING_TYPE || n_shards != config.n_shards() {
            return Err(ProofError::Encoding);
        }
        let len = u64::from_le_bytes(bytes[3..11].try_into().expect("8 bytes"));
        config.layout(len)?;
        Ok(Self { n_shards, len, root: hash_at(bytes, 11) })
    }

    fn of_any_network(bytes: &[u8; HEADER_BYTES]) -> Result<Self, ProofError> {
        let n_shards = u16::from_le_bytes([bytes[1], bytes[2]]);
        Self::from_bytes(EncodingConfig::new(n_shards)?, bytes)
    }

    /// The blob id: keyed hash of the layout.
    #[must_use]
    pub fn id(&self) -> BlobId {
        BlobId(Domain::BlobHeader.hash(&[&self.to_bytes()]))
    }

    /// The sizes of the blob.
    ///
    /// # Errors
    /// [`ConfigError`] if the header was not parsed but made up and names no possible shape.
    pub fn layout(&self) -> Result<BlobLayout, ConfigError> {
        EncodingConfig::new(self.n_shards)?.layout(self.len)
    }
}

/// As its byte layout.
impl Serialize for BlobHeader {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.to_bytes())
    }
}

/// Strict, for whatever number of shards the bytes name: compare it with the network's.
impl<'de> Deserialize<'de> for BlobHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes: [u8; HEADER_BYTES] = serde_bytes::deserialize(deserializer)?;
        Self::of_any_network(&bytes).map_err(D::Error::custom)
    }
}

/// As its byte layout.
impl borsh::BorshSerialize for BlobHeader {
    fn serialize<W: io::Write>(&self, writer: &mut W) -> io::Result<()> {
        writer.write_all(&self.to_bytes())
    }
}

/// Strict, for whatever number of shards the bytes name: compare it with the network's.
impl borsh::BorshDeserialize for BlobHeader {
    fn deserialize_reader<R: io::Read>(reader: &mut R) -> io::Result<Self> {
        let mut bytes = [0; HEADER_BYTES];
        reader.read_exact(&mut bytes)?;
        Self::of_any_network(&bytes).map_err(io::Error::other)
    }
}

/// The roots of the two slivers of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairDigest {
    /// Root of the expanded primary sliver `i`.
    pub primary: Hash,
    /// Root of the expanded secondary sliver `n - 1 - i`.
    pub secondary: Hash,
}

impl PairDigest {
    /// The canonical layout: primary root, secondary root.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; PAIR_DIGEST_BYTES] {
        let mut bytes = [0; PAIR_DIGEST_BYTES];
        bytes[..HASH_BYTES].copy_from_slice(self.primary.as_bytes());
        bytes[HASH_BYTES..].copy_from_slice(self.secondary.as_bytes());
        bytes
    }

    /// Reads the layout back.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; PAIR_DIGEST_BYTES]) -> Self {
        Self { primary: hash_at(bytes, 0), secondary: hash_at(bytes, HASH_BYTES) }
    }

    /// The leaf of the blob tree for this digest and the digest share beside it.
    #[must_use]
    pub fn leaf(&self, share: &[u8]) -> Hash {
        Domain::PairLeaf.hash(&[&self.to_bytes(), share])
    }
}

/// Authenticates pair `index` of a blob against the blob id alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairProof {
    /// The blob's header.
    pub header: BlobHeader,
    /// Which pair.
    pub index: SliverPairIndex,
    /// Its sliver roots.
    pub digest: PairDigest,
    /// Its share of the coded digest table.
    pub share: Bytes,
    /// Siblings from the pair leaf to the blob root.
    pub path: Vec<Hash>,
}

impl PairProof {
    /// Length of the byte layout in a network with `config`.
    #[must_use]
    pub const fn layout_bytes(config: EncodingConfig) -> usize {
        HEADER_BYTES
            + 2
            + PAIR_DIGEST_BYTES
            + config.share_bytes()
            + merkle::path_steps(config.n()) * HASH_BYTES
    }

    /// The canonical layout: header, index (LE), digest, share, path.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let path_bytes = self.path.len() * HASH_BYTES;
        let mut bytes = Vec::with_capacity(
            HEADER_BYTES + 2 + PAIR_DIGEST_BYTES + self.share.len() + path_bytes,
        );
        bytes.extend_from_slice(&self.header.to_bytes());
        bytes.extend_from_slice(&self.index.get().to_le_bytes());
        bytes.extend_from_slice(&self.digest.to_bytes());
        bytes.extend_from_slice(&self.share);
        for hash in &self.path {
            bytes.extend_from_slice(hash.as_bytes());
        }
        bytes
    }

    /// Parses a proof and checks it against the blob id: what it returns is authentic.
    ///
    /// # Errors
    /// [`ProofError`]: the bytes are no proof of that blob in a network with `config`.
    pub fn verify_bytes(
        config: EncodingConfig,
        id: &BlobId,
        bytes: &[u8],
    ) -> Result<Self, ProofError> {
        if bytes.len() != Self::layout_bytes(config) {
            return Err(ProofError::Length);
        }
        let header = BlobHeader::from_bytes(config, &bytes[..HEADER_BYTES])?;
        let rest = &bytes[HEADER_BYTES..];
        let index = SliverPairIndex::new(u16::from_le_bytes([rest[0], rest[1]]));
        let (digest, rest) = rest[2..].split_at(PAIR_DIGEST_BYTES);
        let digest = PairDigest::from_bytes(digest.try_into().expect("split at its length"));
        let (share, path) = rest.split_at(config.share_bytes());
        let path = path.chunks_exact(HASH_BYTES).map(|hash| hash_at(hash, 0)).collect();
        let proof = Self { header, index, digest, share: Bytes::copy_from_slice(share), path };
        proof.verify(config, id)?;
        Ok(proof)
    }

    /// Checks the proof against the blob id.
    ///
    /// # Errors
    /// [`ProofError`]: it is no proof of that blob in a network with `config`.
    pub fn verify(&self, config: EncodingConfig, id: &BlobId) -> Result<(), ProofError> {
        if self.header.n_shards != config.n_shards() {
            return Err(ProofError::Encoding);
        }
        config.layout(self.header.len)?;
        if self.index.get() >= config.n_shards() {
            return Err(ProofError::Index);
        }
        if self.share.len() != config.share_bytes() {
            return Err(ProofError::Length);
        }
        if self.header.id() != *id {
            return Err(ProofError::BlobId);
        }
        let leaf = self.digest.leaf(&self.share);
        let position = (self.index.as_usize(), config.n());
        if merkle::verify(Domain::BlobNode, &self.header.root, position, leaf, &self.path) {
            Ok(())
        } else {
            Err(ProofError::Path)
        }
    }
}

/// The hash at `offset`, which must be at least 32 bytes before the end.
fn hash_at(bytes: &[u8], offset: usize) -> Hash {
    Hash::new(bytes[offset..offset + HASH_BYTES].try_into().expect("32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_as_43_characters_and_parse_strictly() {
        let id = BlobId::new([0xfb; 32]);
        let text = id.to_string();
        assert_eq!(text.len(), 43);
        assert_eq!(text.parse(), Ok(id));
        let standard_alphabet = text.replace('-', "+").replace('_', "/");
        for bad in
            ["", "x", &text[1..], &format!("{text}="), &format!("{text} "), &standard_alphabet]
        {
            assert_eq!(bad.parse::<BlobId>(), Err(ParseBlobIdError), "{bad:?}");
        }
        // 43 characters carry 258 bits: the two spare ones must be zero.
        let spare_bits = format!("{}{}", &text[..42], '9');
        assert_eq!(spare_bits.parse::<BlobId>(), Err(ParseBlobIdError));
    }

    #[test]
    fn placement_is_a_rotation_by_the_id_modulo_n() {
        let mut bytes = [0; 32];
        bytes[31] = 200;
        bytes[30] = 1; // 456 = 64 * 7 + 8
        let id = BlobId::new(bytes);
        assert_eq!(id.offset(64), 8);
        assert_eq!(id.shard_of(SliverPairIndex::new(60), 64), ShardIndex::new(4));
        for n in [4, 7, 64, 100, 256] {
            for pair in (0..n).map(SliverPairIndex::new) {
                assert_eq!(id.pair_of(id.shard_of(pair, n), n), pair);
            }
        }
    }

    #[test]
    fn headers_of_other_networks_are_refused() {
        let config = EncodingConfig::new(7).unwrap();
        let header = BlobHeader { n_shards: 7, len: 99, root: Hash::of_symbol(b"root") };
        let bytes = header.to_bytes();
        assert_eq!(BlobHeader::from_bytes(config, &bytes), Ok(header));
        assert_eq!(BlobHeader::from_bytes(config, &bytes[1..]), Err(ProofError::Length));
        let other = EncodingConfig::new(8).unwrap();
        assert_eq!(BlobHeader::from_bytes(other, &bytes), Err(ProofError::Encoding));
        let mut other_type = bytes;
        other_type[0] = 2;
        assert_eq!(BlobHeader::from_bytes(config, &other_type), Err(ProofError::Encoding));
        let huge = BlobHeader { len: u64::MAX, ..header }.to_bytes();
        assert!(matches!(BlobHeader::from_bytes(config, &huge), Err(ProofError::Layout(_))));
    }
}
