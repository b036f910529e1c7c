//! The record of a sliver pair: in what state it is, where its pieces lie, how long its slivers are.
//!
//! Records are rows of the main database; pieces lie in volumes, databases of their own with logs
//! of their own, so that after a crash either may come back from an earlier point than the other.
//! The state says what may be concluded then (see `slivers.rs` for the order of writes).
//!
//! Invariant: a place is given to one pair once. What a record was read to say about it therefore
//! holds for as long as the record is unchanged, which `swap` finds out without a lock.

use floe_protocol::encoding::Axis;

use crate::{
    key,
    pieces::{self, SLIVER_BYTES_MAX},
    usage::row_bytes,
};

pub(crate) const RECORD_BYTES: usize = 1 + 4 + 8 + 4 + 4;

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
}

impl PairRecord {
    pub(crate) fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[0] = match self.state {
            State::Complete => 1,
            State::Unfinished => 2,
            State::Damaged => 3,
            State::Written => 4,
        };
        bytes[1..5].copy_from_slice(&self.place.volume.to_be_bytes());
        bytes[5..13].copy_from_slice(&self.place.offset.to_be_bytes());
        bytes[13..17].copy_from_slice(&self.primary_bytes.to_be_bytes());
        bytes[17..].copy_from_slice(&self.secondary_bytes.to_be_bytes());
        bytes
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (state, rest) = bytes.split_first()?;
        let (volume, rest) = rest.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let (primary_bytes, rest) = rest.split_first_chunk()?;
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
            secondary_bytes: u32::from_be_bytes(rest.try_into().ok()?),
        };
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

    /// What the pair counts: its record and pieces.
    pub(crate) fn live_bytes(self) -> u64 {
        let slivers = [Axis::Primary, Axis::Secondary]
            .map(|axis| pieces::counted_bytes(self.sliver_bytes(axis)));
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
            let record = PairRecord { state, place, primary_bytes: 70_000, secondary_bytes: 1 };
            let bytes = record.to_bytes();
            assert_eq!(PairRecord::parse(&bytes), Some(record));
            assert_eq!(PairRecord::parse(&bytes[1..]), None);
            assert_eq!(PairRecord::parse(&[&bytes[..], &[0]].concat()), None);
        }
        assert_eq!(PairRecord::parse(&[5; RECORD_BYTES]), None);
        assert_eq!(PairRecord::parse(&[1; RECORD_BYTES]), None, "slivers of 16 MiB and more");
    }
}
