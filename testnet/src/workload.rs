//! Content for demo, bench and tests: bytes that compress and repeat as little as real ones.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

/// Pseudo-random numbers, always the same for a seed.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(crate) const fn next(&mut self) -> u64 {
        // SplitMix64: passes for random, and makes gigabytes a second.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }
}

/// `bytes` pseudo-random bytes, always the same for a seed and different for different seeds.
#[must_use]
pub fn content(seed: u64, bytes: usize) -> Bytes {
    let mut dice = Dice::new(seed);
    let mut content = Vec::with_capacity(bytes.next_multiple_of(8));
    while content.len() < bytes {
        content.extend_from_slice(&dice.next().to_le_bytes());
    }
    content.truncate(bytes);
    Bytes::from(content)
}

/// A seed that no earlier run had: a blob that is stored already sends nothing.
pub(crate) fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanos = u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap_or_default();
    nanos ^ u64::from(std::process::id()).rotate_left(48)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_depends_on_the_seed_alone() {
        assert_eq!(content(1, 1000), content(1, 1000));
        assert_eq!(content(1, 1000)[..13], content(1, 13)[..]);
        assert_ne!(content(1, 1000), content(2, 1000));
        assert!(content(1, 0).is_empty());
    }
}
