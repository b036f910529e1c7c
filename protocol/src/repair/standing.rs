//! When to give a holder up: which nodes repair does not ask for what has moved, or for anything,
//! and for how long.
//!
//! A node that does not answer may be away, restarting, behind a slow link, or of another version;
//! one that answers something else may have lost its disk. None of that proves anything: it is left
//! alone for a while, each time for longer, and what it has is recovered from others. Only who sent
//! what is provably false is not asked again in the epoch. Who delivers is as good as new.
//!
//! Invariant: an honest node is asked again after a bounded time, whatever has happened.

use std::collections::{BTreeMap, BTreeSet};

use crate::keys::NodeId;

/// What is wrong with a holder, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HolderFault {
    /// It does not answer, or nothing that can be used, or so slowly that it holds others up.
    Away,
    /// It sent something provably false.
    Lied,
}

/// Nodes with a fault.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unfit {
    /// They are asked for nothing in this epoch.
    pub liars: BTreeSet<NodeId>,
    /// They are not asked for what has moved.
    pub away: BTreeSet<NodeId>,
}

/// A node that was away when it was last asked.
#[derive(Clone, Copy, Debug)]
struct Away {
    until_ms: u64,
    times: u32,
}

/// Who has a fault, and until when.
#[derive(Clone, Debug)]
pub struct Standing {
    away_min_ms: u64,
    away_max_ms: u64,
    liars: BTreeSet<NodeId>,
    away: BTreeMap<NodeId, Away>,
}

impl Standing {
    /// Nobody has a fault. Who is away is left alone for `away_min_ms`, twice as long each time, at
    /// most for `away_max_ms`.
    #[must_use]
    pub const fn new(away_min_ms: u64, away_max_ms: u64) -> Self {
        Self { away_min_ms, away_max_ms, liars: BTreeSet::new(), away: BTreeMap::new() }
    }

    /// A node was found at fault.
    pub fn note(&mut self, now_ms: u64, node: NodeId, fault: HolderFault) {
        match fault {
            HolderFault::Lied => {
                self.liars.insert(node);
            }
            HolderFault::Away => {
                let away = self.away.entry(node).or_insert(Away { until_ms: 0, times: 0 });
                if now_ms < away.until_ms {
                    // Asked before it was known to be away: the same outage.
                    return;
                }
                let wait_ms = self.away_min_ms.saturating_mul(1 << away.times.min(16));
                let wait_ms = wait_ms.min(self.away_max_ms.max(self.away_min_ms));
                away.until_ms = now_ms.saturating_add(wait_ms);
                away.times = away.times.saturating_add(1);
            }
        }
    }

    /// A node has delivered.
    pub fn delivered(&mut self, node: &NodeId) {
        self.away.remove(node);
    }

    /// Who is not to be asked now.
    #[must_use]
    pub fn unfit(&self, now_ms: u64) -> Unfit {
        let away = self.away.iter().filter(|(_, away)| now_ms < away.until_ms);
        Unfit { liars: self.liars.clone(), away: away.map(|(node, _)| *node).collect() }
    }

    /// A new epoch: everybody gets another chance.
    pub fn forget(&mut self) {
        self.liars.clear();
        self.away.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIAR: NodeId = NodeId::new([1; 32]);
    const AWAY: NodeId = NodeId::new([2; 32]);

    #[test]
    fn who_is_away_is_asked_again_and_who_lied_is_not() {
        let mut standing = Standing::new(100, 1_000);
        standing.note(0, LIAR, HolderFault::Lied);
        standing.note(0, LIAR, HolderFault::Away);
        standing.note(0, AWAY, HolderFault::Away);
        let unfit = standing.unfit(99);
        assert_eq!((unfit.liars.len(), unfit.away.len()), (1, 2));
        assert_eq!(standing.unfit(100), Unfit { liars: [LIAR].into(), away: [].into() });
        standing.forget();
        assert_eq!(standing.unfit(100), Unfit::default());
    }

    #[test]
    fn who_stays_away_is_asked_less_and_less_often_until_it_delivers() {
        let (mut standing, mut now_ms) = (Standing::new(100, 1_000), 0);
        for wait_ms in [100, 200, 400, 800, 1_000, 1_000] {
            standing.note(now_ms, AWAY, HolderFault::Away);
            // What was asked for at the same time.
            standing.note(now_ms + wait_ms - 1, AWAY, HolderFault::Away);
            assert!(!standing.unfit(now_ms + wait_ms - 1).away.is_empty());
            now_ms += wait_ms;
            assert!(standing.unfit(now_ms).away.is_empty());
        }
        standing.delivered(&AWAY);
        standing.note(now_ms, AWAY, HolderFault::Away);
        assert!(standing.unfit(now_ms + 100).away.is_empty(), "as good as new");
    }
}
