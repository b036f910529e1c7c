//! Whom to ask for the pairs of a shard, also while shards move.
//!
//! A shard that has changed its holder is with the new one only when that one has reported it
//! ready. Until then each earlier holder back to the last that had all of it keeps what was first
//! certified in its time, that last one everything from before; blobs that were first certified
//! since the change went to the new holder from the start.
//!
//! Also of a ready shard the earlier holders are named as long as they have to keep it, after the
//! one that says that it is complete: if that one lies they have what it lacks.
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

    /// The holder of a shard in the running epoch.
    ///
    /// # Panics
    /// If there is no such shard.
    #[must_use]
    pub fn holder(&self, shard: ShardIndex) -> NodeId {
        self.committee.members()[self.committee.holder(shard)].node
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
        let record = self.shard(shard);
        let keepers = record.keepers.iter().rev().filter(|keeper| first_epoch < keeper.until);
        let others = std::iter::once(self.holder(shard)).chain(keepers.map(|keeper| keeper.node));
        let mut nodes: Vec<_> = record.earlier_holder(first_epoch).into_iter().collect();
        for node in others {
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        nodes.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ledger::Keeper, test_support};

    #[test]
    fn a_moving_shard_is_with_who_held_it_when_the_blob_was_certified() {
        let committee = Arc::new(test_support::committee(5, 7).in_epoch(Epoch::new(4)));
        let member = |position: usize| committee.members()[position % 5].node;
        let position = |shard: u16| committee.holder(ShardIndex::new(shard));
        let holder = |shard: u16| member(position(shard));
        let mut shards: Vec<_> = (0..7).map(|shard| ShardRecord::settled(holder(shard))).collect();
        let keeper = |node, until, complete| Keeper { node, until: Epoch::new(until), complete };
        // Moved once; not ready twice and back with its first holder; ready, but not for long.
        let (other, interim) = (member(position(2) + 1), member(position(3) + 1));
        shards[2] = ShardRecord {
            ready_since: None,
            last_ready: other,
            keepers: vec![keeper(other, 4, true)],
        };
        shards[3].ready_since = None;
        shards[3].keepers = vec![keeper(holder(3), 3, true), keeper(interim, 4, false)];
        shards[4].keepers = vec![keeper(interim, 4, true)];
        let holders = Holders::new(Arc::clone(&committee), shards.clone()).unwrap();
        let of = |shard: u16, epoch| {
            let nodes = holders.of(ShardIndex::new(shard), Epoch::new(epoch));
            nodes.collect::<Vec<_>>()
        };
        assert_eq!(of(0, 1), [holder(0)]);
        assert_eq!(of(2, 3), [other, holder(2)]);
        assert_eq!(of(2, 4), [holder(2)], "it never was with the other one");
        assert_eq!(of(3, 2), [holder(3), interim], "returned to who had it");
        assert_eq!(of(3, 3), [interim, holder(3)], "certified in the interim holder's time");
        assert_eq!(of(3, 4), [holder(3)]);
        let mut kept = vec![holder(4), interim];
        kept.dedup();
        assert_eq!(of(4, 3), kept, "should the holder not have it");
        assert_eq!(of(4, 4), [holder(4)]);
        shards.pop();
        assert!(Holders::new(committee, shards).is_none());
    }
}
