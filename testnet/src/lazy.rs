//! Members that do less than they are paid for, to show what that brings them.
//!
//! They are run as an adversary would run them: with the program of everybody else where that is
//! enough, and with one of their own where it is not. Honest nodes cannot tell them apart but by
//! their answers.
//!
//! - *Drops*: a storage node whose slivers go as soon as they have come, all or some of them, always
//!   the same ones. It repairs nothing.
//! - *Fetches*: one that has dropped everything and, asked for a place, gets it from others.
//! - *Lies*: no storage node at all. It commits itself to nothing in every block, hands out
//!   transcripts of the right length, acknowledges everybody falsely and nobody truly.
//!
//! Who drops what follows from the pair alone ([`is_dropped`]), so that a scenario can compute what
//! each is to score.

mod dropper;
mod fetcher;
mod liar;
mod recovery;
mod rows;
mod stranger;

use std::{fmt, str::FromStr};

use floe_protocol::{blob::BlobId, index::ShardIndex};

pub(crate) use self::{dropper::drop_slivers, fetcher::Fetcher, liar::Liar};
use crate::workload::Dice;

/// All of it, in thousandths.
pub(crate) const EVERYTHING: u16 = 1_000;

/// How a member that holds nothing gets what it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fetch {
    /// It reads the blob by its rows, as any client may, but in more of a hurry.
    Reads,
    /// It recovers the sliver from symbols, as a node does that repairs.
    Symbols,
}

/// What a member does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lazy {
    /// It keeps all but so many of a thousand of its pairs.
    Drops(u16),
    /// It keeps nothing, and fetches what it is asked for.
    Fetches(Fetch),
    /// It keeps nothing, and lies.
    Lies,
}

impl Lazy {
    /// How many of a thousand pairs it drops.
    pub(crate) const fn drops(self) -> u16 {
        match self {
            Self::Drops(permille) => permille,
            Self::Fetches(_) | Self::Lies => EVERYTHING,
        }
    }
}

impl fmt::Display for Lazy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drops(permille) => write!(f, "drops:{permille}"),
            Self::Fetches(Fetch::Reads) => f.write_str("fetches:reads"),
            Self::Fetches(Fetch::Symbols) => f.write_str("fetches:symbols"),
            Self::Lies => f.write_str("lies"),
        }
    }
}

impl FromStr for Lazy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no way to be lazy");
        match text.split_once(':') {
            Some(("drops", permille)) => {
                let permille = permille.parse().ok().filter(|permille| *permille <= EVERYTHING);
                permille.map(Self::Drops).ok_or_else(wrong)
            }
            Some(("fetches", "reads")) => Ok(Self::Fetches(Fetch::Reads)),
            Some(("fetches", "symbols")) => Ok(Self::Fetches(Fetch::Symbols)),
            None if text == "lies" => Ok(Self::Lies),
            Some(_) | None => Err(wrong()),
        }
    }
}

/// Whether who drops so many of a thousand pairs drops this one.
pub(crate) fn is_dropped(permille: u16, blob: &BlobId, shard: ShardIndex) -> bool {
    let (seed, _) = blob.as_bytes().split_first_chunk::<8>().expect("an id has 32 bytes");
    let mut dice = Dice::new(u64::from_le_bytes(*seed) ^ u64::from(shard.get()));
    dice.below(usize::from(EVERYTHING)) < usize::from(permille)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_read_as_they_are_written() {
        let ways = [
            Lazy::Drops(30),
            Lazy::Drops(1_000),
            Lazy::Fetches(Fetch::Reads),
            Lazy::Fetches(Fetch::Symbols),
            Lazy::Lies,
        ];
        for way in ways {
            assert_eq!(way.to_string().parse(), Ok(way));
        }
        for wrong in ["", "drops", "drops:1001", "drops:-1", "fetches:", "lies:", "idles"] {
            wrong.parse::<Lazy>().unwrap_err();
        }
    }

    #[test]
    fn about_as_many_pairs_are_dropped_as_asked_for() {
        let pairs = (0..100_u8).flat_map(|blob| {
            (0..64).map(move |shard| {
                (BlobId::new([blob.wrapping_mul(101); 32]), ShardIndex::new(shard))
            })
        });
        let pairs: Vec<_> = pairs.collect();
        for (permille, expected) in
            [(0, 0..=0), (30, 140..=250), (300, 1_800..=2_050), (1_000, 6_400..=6_400)]
        {
            let dropped = pairs.iter().filter(|(blob, shard)| is_dropped(permille, blob, *shard));
            let dropped = dropped.count();
            assert!(expected.contains(&dropped), "{permille}: {dropped}");
        }
    }
}
