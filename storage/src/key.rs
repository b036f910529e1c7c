//! Keys of the tables: fixed sizes, big-endian numbers, so that byte order is key order.
//!
//! Tables of sliver pairs start with the shard: all that a shard holds lies together. The key of
//! a piece does not name its pair, but the place that its volume gave to the pair, which no other
//! pair ever has, and which the pair's record names (see `pair_record.rs`). It starts with a *lane*
//! that follows from the place.
//!
//! Invariant: every key of a table has one length, and parsing refuses any other.

use floe_protocol::{blob::BlobId, encoding::Axis, hash::HASH_BYTES, index::ShardIndex};

/// Length of a [`PairKey`].
pub(crate) const PAIR_KEY_BYTES: usize = 2 + HASH_BYTES;
/// Keys of pieces rise in so many places: writers of one page of sled hinder each other.
pub(crate) const LANES: u8 = 8;
const OFFSET_BYTES: usize = 8;
/// Length of a [`PieceKey`].
pub(crate) const PIECE_KEY_BYTES: usize = 1 + OFFSET_BYTES + 1 + 2;

/// Shard, blob.
pub(crate) type PairKey = [u8; PAIR_KEY_BYTES];
/// Lane, offset, kind (pieces or symbol hashes of which axis), piece.
pub(crate) type PieceKey = [u8; PIECE_KEY_BYTES];

/// The key of a sliver pair, and of its proof.
pub(crate) fn pair(shard: ShardIndex, blob: &BlobId) -> PairKey {
    let mut key = [0; PAIR_KEY_BYTES];
    key[..2].copy_from_slice(&shard.get().to_be_bytes());
    key[2..].copy_from_slice(blob.as_bytes());
    key
}

/// The lowest key of a pair of `shard`.
pub(crate) fn first_pair(shard: ShardIndex) -> PairKey {
    pair(shard, &BlobId::new([0; HASH_BYTES]))
}

/// The highest key of a pair of `shard`.
pub(crate) fn last_pair(shard: ShardIndex) -> PairKey {
    pair(shard, &BlobId::new([u8::MAX; HASH_BYTES]))
}

/// Shard and blob of a pair's key.
pub(crate) fn parse_pair(key: &[u8]) -> Option<(ShardIndex, BlobId)> {
    let (shard, blob) = key.split_first_chunk::<2>()?;
    let blob = blob.try_into().ok()?;
    Some((ShardIndex::new(u16::from_be_bytes(*shard)), BlobId::new(blob)))
}

/// The key of piece `index` of one sliver of the pair at `offset` of its volume.
pub(crate) fn piece(offset: u64, axis: Axis, index: u16) -> PieceKey {
    let kind = match axis {
        Axis::Primary => 0,
        Axis::Secondary => 1,
    };
    at(offset, kind, index)
}

/// The key of the symbol hashes of one sliver of the pair at `offset` of its volume.
pub(crate) fn hashes(offset: u64, axis: Axis) -> PieceKey {
    let kind = match axis {
        Axis::Primary => 2,
        Axis::Secondary => 3,
    };
    at(offset, kind, 0)
}

fn at(offset: u64, kind: u8, index: u16) -> PieceKey {
    let mut key = [0; PIECE_KEY_BYTES];
    key[0] = lane(offset);
    key[1..=OFFSET_BYTES].copy_from_slice(&offset.to_be_bytes());
    key[OFFSET_BYTES + 1] = kind;
    key[OFFSET_BYTES + 2..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The lane of an offset: writers at the same time rarely meet in one.
fn lane(offset: u64) -> u8 {
    // 2^64 over the golden ratio: its highest bits are the most mixed ones.
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = offset.wrapping_mul(MIX).to_be_bytes();
    mixed[0] % LANES
}

/// The offset in a piece's key.
pub(crate) fn parse_offset(key: &[u8]) -> Option<u64> {
    let key: &PieceKey = key.try_into().ok()?;
    key[1..].first_chunk().map(|offset| u64::from_be_bytes(*offset))
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
        let offsets = (0..).map(|factor| factor * 1000).filter(|offset| lane(*offset) == 3);
        for offset in offsets.take(300) {
            for axis in [Axis::Primary, Axis::Secondary] {
                pieces.extend([0, 255, 256].map(|index| piece(offset, axis, index)));
            }
            pieces.extend([Axis::Primary, Axis::Secondary].map(|axis| hashes(offset, axis)));
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
        let key = piece(1 << 40, Axis::Secondary, 7);
        assert_eq!(parse_offset(&key), Some(1 << 40));
        assert_eq!(parse_offset(&key[1..]), None);
    }
}
