//! A shard on the ledger: whether its holder has it complete, and who keeps it beside that one.
//!
//! With an epoch a shard may move. Its holder of the epoch before stays one of its *keepers*: it
//! keeps and serves what it has, so that a holder who says that the shard is complete need not be
//! believed before an epoch has ended in which a quorum of shards was said to be. Nodes ask keepers
//! for what they lack, readers ask them for what a holder does not have, and who is named here no
//! more deletes its copy ([`migration`](crate::migration) says why no blob is lost by that).
//!
//! A holder that never had the shard complete is a keeper, too: blobs that were first certified in
//! its time were brought to it, and to nobody before it.
//!
//! Invariants: keepers are in the order of their times, the last one's ends where the running
//! holder's begins while the shard is not ready; the newest who had it complete is never left out
//! before the running holder is ready; never more than [`KEEPERS_MAX`].

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use super::Timestamp;
use crate::{
    bft,
    committee::Committee,
    index::{Epoch, ShardIndex},
    keys::NodeId,
};

/// Keepers of one shard. There are more than one only while the shard moves faster than it is
/// completed, or after epochs in which no quorum was ready.
pub const KEEPERS_MAX: usize = 8;

/// Whether a shard is complete, who last had it so, and who else keeps it.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct ShardRecord {
    /// Since when its holder of the running epoch has held every pair of it, if it does: 0 from
    /// genesis on. Cleared when the shard moves, set again by the holder's report.
    pub ready_since: Option<Timestamp>,
    /// The last holder of whom that was true.
    pub last_ready: NodeId,
    /// Its earlier holders that still keep what they have of it, oldest first.
    pub keepers: Vec<Keeper>,
}

/// An earlier holder of a shard.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Keeper {
    /// The node.
    pub node: NodeId,
    /// The first epoch in which it no longer was the holder.
    pub until: Epoch,
    /// Whether it had reported the shard ready. If not, only what was first certified in its time
    /// is sure to have come to it.
    pub complete: bool,
}

impl ShardRecord {
    /// A shard that its holder has complete, and nobody else keeps.
    #[must_use]
    pub const fn settled(holder: NodeId) -> Self {
        Self { ready_since: Some(Timestamp::from_ms(0)), last_ready: holder, keepers: Vec::new() }
    }

    /// Whether its holder of the running epoch holds every pair of it.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.ready_since.is_some()
    }

    /// Whether a node has to keep what it has of the shard though another one is the holder.
    #[must_use]
    pub fn is_kept_by(&self, node: &NodeId) -> bool {
        self.last_ready == *node || self.keepers.iter().any(|keeper| keeper.node == *node)
    }

    /// Where the pairs come from that the holder need not have yet, oldest first: each of these has
    /// what was first certified in its time, the first one everything from before, too. None if
    /// the shard is ready.
    #[must_use]
    pub fn origins(&self) -> &[Keeper] {
        if self.is_ready() {
            return &[];
        }
        let newest_complete = self.keepers.iter().rposition(|keeper| keeper.complete);
        &self.keepers[newest_complete.unwrap_or(0)..]
    }

    /// Which of its [origins](Self::origins) was to have what was first certified in `first_epoch`.
    #[must_use]
    pub fn earlier_holder(&self, first_epoch: Epoch) -> Option<NodeId> {
        origin(self.origins(), first_epoch)
    }

    /// The holder has reported the shard ready, in a block of this time; whether that is news.
    pub fn report_ready(&mut self, holder: NodeId, time: Timestamp) -> bool {
        self.last_ready = holder;
        let is_news = !self.is_ready();
        self.ready_since.get_or_insert(time);
        is_news
    }

    /// The epoch ends in which `running` holds the shards, and `next` holds them from now on.
    ///
    /// If a quorum of shards is ready, the keepers of those that are have done their duty.
    pub fn change_epoch(records: &mut [Self], running: &Committee, next: &Committee) {
        let ready = records.iter().filter(|record| record.is_ready()).count();
        let ready = u16::try_from(ready).unwrap_or(u16::MAX);
        if bft::is_quorum(ready, running.n_shards()) {
            for record in records.iter_mut().filter(|record| record.is_ready()) {
                record.keepers.clear();
            }
        }
        Self::hand_over(records, running, next);
    }

    /// `next` holds the shards from now on, and no keeper is forgotten.
    ///
    /// A shard that changes its holder is not ready with the new one, be it one that had it before:
    /// that one lacks at least what was certified meanwhile.
    pub(super) fn hand_over(records: &mut [Self], running: &Committee, next: &Committee) {
        for (index, record) in (0_u16..).map(ShardIndex::new).zip(records) {
            let holder = |committee: &Committee| committee.members()[committee.holder(index)].node;
            if holder(running) != holder(next) {
                record.leave(holder(running), next.epoch());
            }
        }
    }

    fn leave(&mut self, node: NodeId, until: Epoch) {
        let complete = self.ready_since.take().is_some();
        self.keepers.push(Keeper { node, until, complete });
        if self.keepers.len() > KEEPERS_MAX {
            // The newest complete one has to stay: where all are complete it is not the oldest. So
            // does who has left just now: nobody else has what was certified in its time.
            let earlier = &self.keepers[..KEEPERS_MAX];
            let first = earlier.iter().position(|keeper| !keeper.complete);
            self.keepers.remove(first.unwrap_or(0));
        }
    }
}

/// Which of some [origins](ShardRecord::origins) was to have what was first certified in
/// `first_epoch`.
pub(crate) fn origin(origins: &[Keeper], first_epoch: Epoch) -> Option<NodeId> {
    origins.iter().find(|keeper| first_epoch < keeper.until).map(|keeper| keeper.node)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(i: u8) -> NodeId {
        NodeId::new([i; 32])
    }

    fn earlier(record: &ShardRecord, epochs: std::ops::Range<u64>) -> Vec<Option<NodeId>> {
        epochs.map(|epoch| record.earlier_holder(Epoch::new(epoch))).collect()
    }

    #[test]
    fn each_holder_is_named_for_what_was_certified_in_its_time() {
        let mut record = ShardRecord::settled(node(1));
        assert_eq!(earlier(&record, 0..3), [None; 3]);
        record.leave(node(1), Epoch::new(3));
        record.leave(node(2), Epoch::new(4));
        assert_eq!((record.ready_since, record.last_ready), (None, node(1)));
        let [first, second] = [Some(node(1)), Some(node(2))];
        assert_eq!(earlier(&record, 1..6), [first, first, second, None, None]);
        assert!(record.is_kept_by(&node(1)) && record.is_kept_by(&node(2)));
        assert!(!record.is_kept_by(&node(3)));
        // The first one has it again, then a third one, and that one completes it.
        record.leave(node(1), Epoch::new(5));
        assert_eq!(earlier(&record, 1..6), [first, first, second, first, None]);
        let at = Timestamp::from_ms;
        assert!(record.report_ready(node(3), at(7)) && !record.report_ready(node(3), at(8)));
        assert_eq!(record.ready_since, Some(at(7)), "the first report counts");
        assert_eq!(earlier(&record, 0..3), [None; 3]);
        assert!(record.is_kept_by(&node(2)), "still");
        // Who had it complete last has everything from before.
        record.leave(node(3), Epoch::new(6));
        record.leave(node(4), Epoch::new(7));
        let [third, fourth] = [Some(node(3)), Some(node(4))];
        assert_eq!(earlier(&record, 3..9), [third, third, third, fourth, None, None]);
    }

    #[test]
    fn keepers_are_bounded_and_the_last_complete_one_stays() {
        let mut record = ShardRecord::settled(node(1));
        for epoch in 1_u8..40 {
            if epoch == 20 {
                record.report_ready(node(epoch), Timestamp::from_ms(1));
            }
            record.leave(node(epoch), Epoch::new(epoch.into()));
            assert!(record.keepers.len() <= KEEPERS_MAX);
            assert!(record.keepers.is_sorted_by_key(|keeper| keeper.until));
            let whole = record.earlier_holder(Epoch::new(0)).unwrap();
            assert_eq!(whole, record.last_ready);
            assert!(record.is_kept_by(&whole));
        }
        assert_eq!(record.last_ready, node(20));
    }

    #[test]
    fn who_has_left_just_now_is_a_keeper() {
        let mut record = ShardRecord::settled(node(1));
        for epoch in 1_u8..=8 {
            record.report_ready(node(epoch), Timestamp::from_ms(1));
            record.leave(node(epoch), Epoch::new(epoch.into()));
        }
        record.leave(node(9), Epoch::new(9));
        assert_eq!(record.keepers.len(), KEEPERS_MAX);
        assert_eq!(record.earlier_holder(Epoch::new(8)), Some(node(9)));
        assert_eq!(record.earlier_holder(Epoch::new(0)), Some(node(8)), "the newest complete one");
    }
}
