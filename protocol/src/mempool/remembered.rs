//! A bounded set of what was there lately: the oldest member makes room for the newest.

use std::collections::{BTreeSet, VecDeque};

#[derive(Clone, Debug)]
pub(super) struct Remembered<T> {
    members: BTreeSet<T>,
    oldest_first: VecDeque<T>,
    members_max: usize,
}

impl<T: Copy + Ord> Remembered<T> {
    pub(super) const fn new(members_max: usize) -> Self {
        Self { members: BTreeSet::new(), oldest_first: VecDeque::new(), members_max }
    }

    pub(super) fn insert(&mut self, member: T) {
        if self.members_max == 0 || !self.members.insert(member) {
            return;
        }
        self.oldest_first.push_back(member);
        if self.oldest_first.len() > self.members_max
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.members.remove(&oldest);
        }
    }

    pub(super) fn contains(&self, member: &T) -> bool {
        self.members.contains(member)
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut remembered = Remembered::new(3);
        for member in [1, 2, 3, 2, 4] {
            remembered.insert(member);
        }
        let there: Vec<u32> = (0..6).filter(|member| remembered.contains(member)).collect();
        assert_eq!((there, remembered.len()), (vec![2, 3, 4], 3));
        let mut nothing = Remembered::new(0);
        nothing.insert(1);
        assert_eq!((nothing.contains(&1), nothing.len()), (false, 0));
    }
}
