//! Who was cut off, and is refused for a while.
//!
//! Bounded: strangers can make themselves new names at will.

use std::{collections::HashMap, hash::Hash, time::Instant};

/// Peers, and addresses, that are refused at a time. The first to expire gives way.
const BANS_MAX: usize = 4_096;

/// Names and addresses that are refused for a while.
#[derive(Debug)]
pub(super) struct Bans<T> {
    until: HashMap<T, Instant>,
}

impl<T: Copy + Eq + Hash> Bans<T> {
    /// Nobody is refused.
    pub(super) fn new() -> Self {
        Self { until: HashMap::new() }
    }

    /// Refuses one until then. Beyond the maximum the first to expire gives way.
    pub(super) fn add(&mut self, banned: T, until: Instant) {
        let now = Instant::now();
        self.until.retain(|_, until| *until > now);
        if self.until.len() >= BANS_MAX {
            let first = self.until.iter().min_by_key(|(_, until)| **until);
            if let Some(first) = first.map(|(banned, _)| *banned) {
                self.until.remove(&first);
            }
        }
        self.until.insert(banned, until);
    }

    /// Whether one is refused now.
    pub(super) fn contains(&self, banned: &T) -> bool {
        self.until.get(banned).is_some_and(|until| *until > Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn bans_end_and_their_number_is_bounded() {
        let now = Instant::now();
        let mut bans = Bans::new();
        bans.add(usize::MAX, now);
        assert!(!bans.contains(&usize::MAX), "it has ended");
        for (number, ms) in (0..=BANS_MAX).zip(0..) {
            bans.add(number, now + Duration::from_secs(600) + Duration::from_millis(ms));
        }
        assert_eq!(bans.until.len(), BANS_MAX);
        assert!(!bans.contains(&0) && bans.contains(&1) && bans.contains(&BANS_MAX));
    }
}
