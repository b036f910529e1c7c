//! From whom missing pairs come: copied from the earlier holder of their shard, or recovered.

use std::collections::BTreeMap;

use floe_protocol::{blob::BlobId, holders::Holders, index::ShardIndex, keys::NodeId};

use super::scan::Lack;

/// Where the missing pairs of some blobs come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Copied: by holder and shard, the positions of the blobs.
    pub(super) moves: BTreeMap<(NodeId, ShardIndex), Vec<usize>>,
    /// Recovered: blobs and shards.
    pub(super) recoveries: BTreeMap<BlobId, Vec<ShardIndex>>,
}

/// A pair is copied if its shard has moved here, its earlier holder was to have it, and that one
/// `is_fit` to be asked. Everything else is recovered.
pub(super) fn plan(
    holders: &Holders,
    me: NodeId,
    is_fit: impl Fn(&NodeId) -> bool,
    lacks: &[Lack],
) -> Plan {
    let mut plan = Plan::default();
    for (position, lack) in lacks.iter().enumerate() {
        for shard in &lack.shards {
            let first = holders.of(*shard, lack.first.0).next();
            match first.filter(|holder| *holder != me && is_fit(holder)) {
                Some(holder) => plan.moves.entry((holder, *shard)).or_default().push(position),
                None => plan.recoveries.entry(lack.blob).or_default().push(*shard),
            }
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use floe_protocol::{
        blob::BlobHeader,
        hash::Hash,
        index::Epoch,
        ledger::{ShardRecord, Timestamp},
        test_support,
    };

    use super::*;

    #[test]
    fn what_moved_is_copied_and_the_rest_recovered() {
        let committee = Arc::new(test_support::committee(5, 7).in_epoch(Epoch::new(4)));
        let me = committee.members()[0].node;
        let (earlier, liar) = (committee.members()[3].node, committee.members()[4].node);
        let mut shards = vec![ShardRecord { ready: false, last_ready: me }; 7];
        let own = committee.members()[0].shards.clone();
        let [kept, moved] = own[..] else { panic!("{own:?}") };
        shards[moved.as_usize()].last_ready = earlier;
        let lack = |seed: u8, epoch, shards: &[ShardIndex]| Lack {
            blob: BlobId::new([seed; 32]),
            header: BlobHeader { n_shards: 7, len: 9, root: Hash::ZERO },
            first: (Epoch::new(epoch), Timestamp::from_ms(0)),
            shards: shards.to_vec(),
        };
        let lacks = [lack(1, 3, &[kept, moved]), lack(2, 4, &[moved]), lack(3, 1, &[moved])];
        let blob = |position: usize| lacks[position].blob;

        let holders = Holders::new(Arc::clone(&committee), shards.clone()).unwrap();
        let plan_of = |holders: &Holders| plan(holders, me, |node| *node != liar, &lacks);
        let planned = plan_of(&holders);
        assert_eq!(planned.moves, BTreeMap::from([((earlier, moved), vec![0, 2])]));
        let recovered = [(blob(0), vec![kept]), (blob(1), vec![moved])];
        assert_eq!(planned.recoveries, BTreeMap::from(recovered), "new blobs never were there");

        shards[moved.as_usize()].last_ready = liar;
        let planned = plan_of(&Holders::new(Arc::clone(&committee), shards.clone()).unwrap());
        assert!(planned.moves.is_empty());
        assert_eq!(planned.recoveries.len(), 3);

        shards[moved.as_usize()] = ShardRecord { ready: true, last_ready: earlier };
        let planned = plan_of(&Holders::new(committee, shards).unwrap());
        assert!(planned.moves.is_empty(), "what was complete and went missing");
    }
}
