//! Who has answered, and whether they weigh enough.

use super::Committee;

/// Counts the weight of distinct members. A member counts once, however often it answers.
#[derive(Clone, Debug)]
pub struct QuorumTracker {
    counted: Vec<bool>,
    weight: u16,
}

impl QuorumTracker {
    /// Nobody has answered.
    #[must_use]
    pub fn new(committee: &Committee) -> Self {
        Self { counted: vec![false; committee.members().len()], weight: 0 }
    }

    /// Counts the member at `position`; false if it had been counted before.
    ///
    /// # Panics
    /// If there is no such member.
    pub fn add(&mut self, committee: &Committee, position: usize) -> bool {
        if std::mem::replace(&mut self.counted[position], true) {
            return false;
        }
        self.weight += committee.members()[position].weight();
        true
    }

    /// Whether the member at `position` was counted.
    #[must_use]
    pub fn has(&self, position: usize) -> bool {
        self.counted.get(position).copied().unwrap_or(false)
    }

    /// Shards of the members counted.
    #[must_use]
    pub const fn weight(&self) -> u16 {
        self.weight
    }

    /// The positions of the members counted, ascending.
    pub fn members(&self) -> impl Iterator<Item = usize> + '_ {
        self.counted.iter().enumerate().filter(|(_, counted)| **counted).map(|(i, _)| i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support;

    #[test]
    fn a_member_counts_once() {
        let committee = test_support::committee(5, 64);
        let mut tracker = QuorumTracker::new(&committee);
        assert_eq!(tracker.weight(), 0);
        assert!(tracker.add(&committee, 3));
        assert!(!tracker.add(&committee, 3));
        assert!(tracker.add(&committee, 1));
        let weight = |position: usize| committee.members()[position].weight();
        assert_eq!(tracker.weight(), weight(1) + weight(3));
        assert!(tracker.members().eq([1, 3]));
        assert!(tracker.has(3));
        assert!(!tracker.has(0));
        assert!(!tracker.has(5), "no such member");
    }

    #[test]
    fn all_members_together_weigh_all_shards() {
        let committee = test_support::committee(5, 64);
        let mut tracker = QuorumTracker::new(&committee);
        for position in 0..5 {
            assert!(tracker.add(&committee, position));
        }
        assert_eq!(tracker.weight(), 64);
    }
}
