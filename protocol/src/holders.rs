//! Whom to ask for the pairs of a shard, also while shards move.
//!
//! A shard that has changed its holder is with the new one only when that one has reported it
//! ready. Until then the last holder that had all of it keeps it. Blobs that were first certified
//! since the change went to the new holder from the start.
//!
//! Everybody who looks for slivers asks here: readers, and nodes that move or recover them. The two
//! facts that it rests on, committee and shard records, are proven by one header.

use std::sync::Arc;

use crate::{
    committee::Committee,
    index::{Epoch, ShardIndex},
    keys::NodeId,
    ledger::ShardRecord,
};

/// Committee and readiness of one state.
#[derive(Clone, Debug)]
pub struct Holders {
    committee: Arc<Committee>,
    shards: Vec<ShardRecord>,
}

impl Holders {
    /// The holders of a state. None if there is not one record per shard.
    #[must_use]
    pub fn new(committee: Arc<Committee>, shards: Vec<ShardRecord>) -> Option<Self> {
        let fits = shards.len() == usize::from(committee.n_shards());
        fits.then_some(Self { committee, shards })
    }

    /// The committee of the running epoch.
    #[must_use]
    pub const fn committee(&self) -> &Arc<Committee> {
        &self.committee
    }

    /// The readiness of a shard.
    ///
    /// # Panics
    /// If there is no such shard.
    #[must_use]
    pub fn shard(&self, shard: ShardIndex) -> &ShardRecord {
        &self.shards[shard.as_usize()]
    }

    /// Who may have the pair of `shard` of a blob first certified in `first_epoch`, whom to ask
    /// first first.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn of(
        &self,
        shard: ShardIndex,
        first_epoch: Epoch,
    ) -> impl Iterator<Item = NodeId> + use<> {
        let holder = self.committee.members()[self.committee.holder(shard)].node;
        let record = self.shard(shard);
        let earlier = (!record.ready && record.last_ready != holder).then_some(record.last_ready);
        let new = first_epoch >= self.committee.epoch();
        let (first, second) = match earlier {
            Some(earlier) if !new => (earlier, Some(holder)),
            earlier => (holder, earlier),
        };
        [Some(first), second].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support;

    #[test]
    fn a_moving_shard_is_with_its_last_ready_holder_but_for_new_blobs() {
        let committee = Arc::new(test_support::committee(5, 7).in_epoch(Epoch::new(4)));
        let node = |position: usize| committee.members()[position].node;
        let holder = |shard: u16| committee.holder(ShardIndex::new(shard));
        let record = |shard: u16| ShardRecord { ready: true, last_ready: node(holder(shard)) };
        let mut shards: Vec<_> = (0..7).map(record).collect();
        let other = node((holder(2) + 1) % 5);
        shards[2] = ShardRecord { ready: false, last_ready: other };
        shards[3].ready = false;
        let holders = Holders::new(Arc::clone(&committee), shards.clone()).unwrap();
        let of = |shard: u16, epoch| {
            let nodes = holders.of(ShardIndex::new(shard), Epoch::new(epoch));
            nodes.collect::<Vec<_>>()
        };
        assert_eq!(of(0, 1), [node(holder(0))]);
        assert_eq!(of(2, 3), [other, node(holder(2))]);
        assert_eq!(of(2, 4), [node(holder(2)), other]);
        assert_eq!(of(3, 1), [node(holder(3))], "returned to who had it");
        shards.pop();
        assert!(Holders::new(committee, shards).is_none());
    }
}
