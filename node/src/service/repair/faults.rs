//! What stands in the way of repair for a while: nodes that lie or are away, and a full disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use floe_protocol::keys::NodeId;
use tokio::time::Instant;

/// What is wrong with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It does not answer.
    Away,
    /// It sent something false.
    Lied,
}

/// Nodes with a fault, as a task sees them.
#[derive(Clone, Debug, Default)]
pub(super) struct Unfit {
    /// They are asked for nothing in this epoch.
    pub(super) liars: BTreeSet<NodeId>,
    /// They are not asked for what has moved.
    pub(super) away: BTreeSet<NodeId>,
}

/// Who has a fault, and until when.
#[derive(Debug, Default)]
pub(super) struct Faults {
    liars: BTreeSet<NodeId>,
    away: BTreeMap<NodeId, Instant>,
}

impl Faults {
    /// Remembers a fault; that a node is away, until then.
    pub(super) fn note(&mut self, node: NodeId, fault: Fault, until: Instant) {
        match fault {
            Fault::Lied => drop(self.liars.insert(node)),
            Fault::Away => drop(self.away.insert(node, until)),
        }
    }

    /// Who has one now.
    pub(super) fn unfit(&mut self, now: Instant) -> Unfit {
        self.away.retain(|_, until| *until > now);
        Unfit { liars: self.liars.clone(), away: self.away.keys().copied().collect() }
    }

    /// Everybody gets another chance.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

/// Whether the disk has room, as far as the last attempt has shown.
#[derive(Debug)]
pub(super) struct Room {
    retry_min: Duration,
    retry_max: Duration,
    /// Attempts that found none, and when to try again.
    full: Option<(u32, Instant)>,
}

impl Room {
    pub(super) const fn new(retry_min: Duration, retry_max: Duration) -> Self {
        Self { retry_min, retry_max, full: None }
    }

    /// There was none. Says so once.
    pub(super) fn none(&mut self, now: Instant) {
        let attempts = self.full.map_or(0, |(attempts, _)| attempts);
        if attempts == 0 {
            tracing::warn!("the disk is full: what is missing here waits until there is room");
        }
        let wait = self.retry_min.saturating_mul(1 << attempts.min(16)).min(self.retry_max);
        self.full = Some((attempts.saturating_add(1), now + wait));
    }

    /// Something was kept.
    pub(super) fn some(&mut self) {
        if self.full.take().is_some() {
            tracing::info!("there is room again: repair goes on");
        }
    }

    /// Until when nothing is fetched, if the disk was full.
    pub(super) fn full_until(&self) -> Option<Instant> {
        self.full.map(|(_, until)| until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_is_away_is_asked_again_and_who_lied_is_not() {
        let (liar, away) = (NodeId::new([1; 32]), NodeId::new([2; 32]));
        let (mut faults, now) = (Faults::default(), Instant::now());
        faults.note(liar, Fault::Lied, now + SECOND);
        faults.note(liar, Fault::Away, now + SECOND);
        faults.note(away, Fault::Away, now + SECOND);
        let unfit = faults.unfit(now);
        assert_eq!((unfit.liars.len(), unfit.away.len()), (1, 2));
        let unfit = faults.unfit(now + SECOND);
        assert_eq!((unfit.liars, unfit.away.len()), ([liar].into(), 0));
        faults.forget();
        assert!(faults.unfit(now).liars.is_empty());
    }

    #[test]
    fn a_full_disk_is_tried_less_and_less_often() {
        let (mut room, now) = (Room::new(SECOND, 3 * SECOND), Instant::now());
        assert_eq!(room.full_until(), None);
        for wait in [1, 2, 3, 3] {
            room.none(now);
            assert_eq!(room.full_until(), Some(now + wait * SECOND));
        }
        room.some();
        assert_eq!(room.full_until(), None);
        room.none(now);
        assert_eq!(room.full_until(), Some(now + SECOND));
    }
}
