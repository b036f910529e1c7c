//! The record of a sliver pair: in what state it is, where its pieces lie, how long its slivers are.
//!
//! Records are rows of the main database; pieces lie in volumes, databases of their own with logs
//! of their own, so that after a crash either may come back from an earlier point than the other.
//! The state says what may be concluded then (see `slivers.rs` for the order of writes).
//!
//! A record of slivers without symbol hashes is as long as it was in format 2, so that those of that
//! format are read as they are.
//!
//! Invariant: a place is given to one pair once. What a record was read to say about it therefore
//! holds for as long as the record is unchanged, which `swap` finds out without a lock.

use floe_protocol::encoding::Axis;

use crate::{
    key,
    pieces::{self, SLIVER_BYTES_MAX},
    usage::row_bytes,
};

const RECORD_BYTES: usize = 1 + 4 + 8 + 4 + 4;
/// What it adds if symbol hashes of a sliver are kept.
const HASHES_BYTES: usize = 2 + 2;

/// What is known of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// All pieces are there, durable before this was written.
    Complete,
    /// All pieces were written. After a crash some may be absent.
    Written,
    /// Being written.
    Unfinished,
    /// A piece was found damaged.
    Damaged,
}

/// Where the pieces of a pair lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) volume: u32,
    /// Bytes that the volume had been given before.
    pub(crate) offset: u64,
}

/// The row of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PairRecord {
    pub(crate) state: State,
    pub(crate) place: Place,
    pub(crate) primary_bytes: u32,
    pub(crate) secondary_bytes: u32,
    /// Bytes of the symbol hashes of the primary and the secondary sliver.
    pub(crate) hash_bytes: [u16; 2],
}

impl PairRecord {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(RECORD_BYTES + HASHES_BYTES);
        bytes.push(match self.state {
            State::Complete => 1,
            State::Unfinished => 2,
            State::Damaged => 3,
            State::Written => 4,
        });
        bytes.extend_from_slice(&self.place.volume.to_be_bytes());
        bytes.extend_from_slice(&self.place.offset.to_be_bytes());
        bytes.extend_from_slice(&self.primary_bytes.to_be_bytes());
        bytes.extend_from_slice(&self.secondary_bytes.to_be_bytes());
        if self.hash_bytes != [0; 2] {
            bytes.extend(self.hash_bytes.iter().flat_map(|bytes| bytes.to_be_bytes()));
        }
        bytes
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (state, rest) = bytes.split_first()?;
        let (volume, rest) = rest.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let (primary_bytes, rest) = rest.split_first_chunk()?;
        let (secondary_bytes, rest) = rest.split_first_chunk()?;
        let record = Self {
            state: match state {
                1 => State::Complete,
                2 => State::Unfinished,
                3 => State::Damaged,
                4 => State::Written,
                _ => return None,
            },
            place: Place {
                volume: u32::from_be_bytes(*volume),
                offset: u64::from_be_bytes(*offset),
            },
            primary_bytes: u32::from_be_bytes(*primary_bytes),
            secondary_bytes: u32::from_be_bytes(*secondary_bytes),
            hash_bytes: match rest {
                [] => [0; 2],
                [a, b, c, d] => [u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])],
                _ => return None,
            },
        };
        // Each record has one layout, since they are compared.
        if rest.len() == HASHES_BYTES && record.hash_bytes == [0; 2] {
            return None;
        }
        let longest = record.primary_bytes.max(record.secondary_bytes);
        (longest as usize <= SLIVER_BYTES_MAX).then_some(record)
    }

    pub(crate) const fn with(self, state: State) -> Self {
        Self { state, ..self }
    }

    /// Whether the pair is there.
    pub(crate) const fn is_whole(self) -> bool {
        matches!(self.state, State::Complete | State::Written)
    }

    pub(crate) const fn sliver_bytes(self, axis: Axis) -> usize {
        match axis {
            Axis::Primary => self.primary_bytes as usize,
            Axis::Secondary => self.secondary_bytes as usize,
        }
    }

    /// Bytes of the symbol hashes of a sliver, 0 if they are not kept.
    pub(crate) const fn hash_bytes(self, axis: Axis) -> usize {
        match axis {
            Axis::Primary => self.hash_bytes[0] as usize,
            Axis::Secondary => self.hash_bytes[1] as usize,
        }
    }

    /// What the pair counts: its record, pieces and symbol hashes.
    pub(crate) fn live_bytes(self) -> u64 {
        let slivers = [Axis::Primary, Axis::Secondary].map(|axis| {
            pieces::counted_bytes(self.sliver_bytes(axis))
                + pieces::counted_hash_bytes(self.hash_bytes(axis))
        });
        slivers[0] + slivers[1] + row_bytes(key::PAIR_KEY_BYTES, RECORD_BYTES)
    }

    /// The end of its place.
    pub(crate) fn end(self) -> u64 {
        self.place.offset.saturating_add(self.live_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_parse_strictly() {
        for state in [State::Complete, State::Written, State::Unfinished, State::Damaged] {
            let place = Place { volume: 3, offset: 1 << 40 };
            for hash_bytes in [[0, 0], [2_048, 0], [0, 32], [8_192, 8_192]] {
                let (primary_bytes, secondary_bytes) = (70_000, 1);
                let record =
                    PairRecord { state, place, primary_bytes, secondary_bytes, hash_bytes };
                let bytes = record.to_bytes();
                assert_eq!(bytes.len() == RECORD_BYTES, hash_bytes == [0, 0]);
                assert_eq!(PairRecord::parse(&bytes), Some(record));
                assert_eq!(PairRecord::parse(&bytes[1..]), None);
                assert_eq!(PairRecord::parse(&[&bytes[..], &[0]].concat()), None);
            }
        }
        let mut two_ways = [0; RECORD_BYTES + HASHES_BYTES];
        two_ways[0] = 1;
        assert!(PairRecord::parse(&two_ways[..RECORD_BYTES]).is_some());
        assert_eq!(PairRecord::parse(&two_ways), None);
        assert_eq!(PairRecord::parse(&[5; RECORD_BYTES]), None);
        assert_eq!(PairRecord::parse(&[1; RECORD_BYTES]), None, "slivers of 16 MiB and more");
    }
}
