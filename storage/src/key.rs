//! Keys of the tables: fixed sizes, big-endian numbers, so that byte order is key order.
//!
//! Tables of sliver pairs start with the shard: all that a shard holds lies together. A piece's
//! key starts with its *generation*, which is also its table (see `slivers.rs`), so that the
//! checksum over key and piece binds it to both.
//!
//! Invariant: every key of a table has one length, and parsing refuses any other.

use floe_protocol::{blob::BlobId, encoding::Axis, hash::HASH_BYTES, index::ShardIndex};

/// Length of a [`PairKey`].
pub(crate) const PAIR_KEY_BYTES: usize = 2 + HASH_BYTES;
/// Length of a [`PieceKey`].
pub(crate) const PIECE_KEY_BYTES: usize = 1 + PAIR_KEY_BYTES + 1 + 2;

/// Shard, blob.
pub(crate) type PairKey = [u8; PAIR_KEY_BYTES];
/// Generation, shard, blob, axis, piece.
pub(crate) type PieceKey = [u8; PIECE_KEY_BYTES];

/// The key of a sliver pair, and of its proof.
pub(crate) fn pair(shard: ShardIndex, blob: &BlobId) -> PairKey {
    let mut key = [0; PAIR_KEY_BYTES];
    key[..2].copy_from_slice(&shard.get().to_be_bytes());
    key[2..].copy_from_slice(blob.as_bytes());
    key
}

/// Shard and blob of a pair's key.
pub(crate) fn parse_pair(key: &[u8]) -> Option<(ShardIndex, BlobId)> {
    let (shard, blob) = key.split_first_chunk::<2>()?;
    let blob = blob.try_into().ok()?;
    Some((ShardIndex::new(u16::from_be_bytes(*shard)), BlobId::new(blob)))
}

/// The key of piece `index` of one sliver of `pair`.
pub(crate) fn piece(generation: u8, pair: &PairKey, axis: Axis, index: u16) -> PieceKey {
    let mut key = [0; PIECE_KEY_BYTES];
    key[0] = generation;
    key[1..=PAIR_KEY_BYTES].copy_from_slice(pair);
    key[1 + PAIR_KEY_BYTES] = match axis {
        Axis::Primary => 0,
        Axis::Secondary => 1,
    };
    key[2 + PAIR_KEY_BYTES..].copy_from_slice(&index.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_is_key_order() {
        let blob = BlobId::new([7; HASH_BYTES]);
        let pairs = [1, 255, 256, 257].map(|shard| pair(ShardIndex::new(shard), &blob));
        assert!(pairs.is_sorted());
        let mut pieces = Vec::new();
        for generation in [0, 1] {
            for pair in &pairs {
                for axis in [Axis::Primary, Axis::Secondary] {
                    pieces.extend([0, 255, 256].map(|i| piece(generation, pair, axis, i)));
                }
            }
        }
        assert!(pieces.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn pair_keys_parse_at_their_length_only() {
        let (shard, blob) = (ShardIndex::new(300), BlobId::new([9; HASH_BYTES]));
        let key = pair(shard, &blob);
        assert_eq!(parse_pair(&key), Some((shard, blob)));
        assert_eq!(parse_pair(&key[1..]), None);
        assert_eq!(parse_pair(&[0]), None);
    }
}
