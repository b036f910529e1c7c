//! From whom missing pairs come: what [`migration::plan`] says of the blobs of a task.

use std::collections::BTreeMap;

use floe_protocol::{
    blob::BlobId,
    holders::Holders,
    index::ShardIndex,
    keys::NodeId,
    migration::{self, Fetches, Holding},
};

use super::scan::Lack;

/// Where the missing pairs of some blobs come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Copied: by holder and shard, the positions of the blobs.
    pub(super) moves: BTreeMap<(NodeId, ShardIndex), Vec<usize>>,
    /// Recovered: blobs and shards.
    pub(super) recoveries: BTreeMap<BlobId, Vec<ShardIndex>>,
}

/// By the ledger's facts, and by what is here: of the node's shards all that these blobs do not
/// lack.
pub(super) fn plan(
    holders: &Holders,
    me: NodeId,
    is_fit: impl Fn(&NodeId) -> bool,
    lacks: &[Lack],
) -> Plan {
    let own = holders.committee().member(&me).map_or(&[][..], |member| &member.shards);
    let mut here: BTreeMap<_, _> = own.iter().map(|shard| (*shard, Holding::Complete)).collect();
    here.extend(lacks.iter().flat_map(|lack| &lack.shards).map(|lost| (*lost, Holding::Partial)));
    let plan = migration::plan(holders, None, &me, &here);
    let wanted = lacks.iter().map(|lack| (lack.first.0, &lack.shards[..]));
    let Fetches { copies, recoveries } = plan.fetches(wanted, is_fit);
    let recoveries = recoveries.into_iter();
    let recoveries = recoveries.map(|(position, shards)| (lacks[position].blob, shards)).collect();
    Plan { moves: copies, recoveries }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use floe_protocol::{
        blob::BlobHeader,
        hash::Hash,
        index::Epoch,
        ledger::{Keeper, ShardRecord, Timestamp},
        test_support,
    };

    use super::*;

    #[test]
    fn what_moved_is_copied_and_the_rest_recovered() {
        let committee = Arc::new(test_support::committee(5, 7).in_epoch(Epoch::new(4)));
        let node = |position: usize| committee.members()[position].node;
        let (me, earlier, interim, liar) = (node(0), node(2), node(3), node(4));
        let own = committee.members()[0].shards.clone();
        let [kept, moved] = own[..] else { panic!("{own:?}") };
        let holder = |shard| node(committee.holder(ShardIndex::new(shard)));
        let settled: Vec<_> = (0..7).map(|shard| ShardRecord::settled(holder(shard))).collect();
        let lack = |seed: u8, epoch, shards: &[ShardIndex]| Lack {
            blob: BlobId::new([seed; 32]),
            header: BlobHeader { n_shards: 7, len: 9, root: Hash::ZERO },
            first: (Epoch::new(epoch), Timestamp::from_ms(0)),
            shards: shards.to_vec(),
        };
        let lacks = [lack(1, 3, &[kept, moved]), lack(2, 4, &[moved]), lack(3, 1, &[moved])];
        let blob = |position: usize| lacks[position].blob;
        let plan_of = |keepers: &[(NodeId, u64, bool)]| {
            let mut shards = settled.clone();
            let keeper = |&(node, until, complete)| {
                let until = Epoch::new(until);
                Keeper { node, until, complete }
            };
            let keepers: Vec<_> = keepers.iter().map(keeper).collect();
            let whole = keepers.iter().find(|keeper| keeper.complete).map(|keeper| keeper.node);
            let last_ready = whole.unwrap_or(me);
            let ready_since = keepers.is_empty().then_some(Timestamp::from_ms(0));
            shards[moved.as_usize()] = ShardRecord { ready_since, last_ready, keepers };
            let holders = Holders::new(Arc::clone(&committee), shards).unwrap();
            plan(&holders, me, |node| *node != liar, &lacks)
        };

        let planned = plan_of(&[(earlier, 4, true)]);
        assert_eq!(planned.moves, BTreeMap::from([((earlier, moved), vec![0, 2])]));
        let recovered = [(blob(0), vec![kept]), (blob(1), vec![moved])];
        assert_eq!(planned.recoveries, BTreeMap::from(recovered), "new blobs never were there");

        let planned = plan_of(&[(me, 3, true), (interim, 4, false)]);
        assert_eq!(planned.moves, BTreeMap::from([((interim, moved), vec![0])]), "it returned");
        assert_eq!(planned.recoveries.len(), 3);

        let planned = plan_of(&[(liar, 4, true)]);
        assert!(planned.moves.is_empty());
        assert_eq!(planned.recoveries.len(), 3);

        let planned = plan_of(&[]);
        assert!(planned.moves.is_empty(), "what was complete and went missing");
    }
}
