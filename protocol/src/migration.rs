//! What the ledger's facts mean for one node: which shards it keeps, fetches, guards for others and
//! gives up.
//!
//! After every change of the committee, and whenever a node looks for what it lacks, it computes its
//! own [`MigrationPlan`] from the facts of one state (committee and shard records, that is
//! [`Holders`]; the next committee, once it is selected) and from what it holds, and executes it:
//! missing pairs are copied from the earlier holder that was to have them, or recovered from other
//! shards; what others may still need is kept and served; the rest is deleted. The plan is the same
//! after a restart in the middle of it: what has been copied by then shows in the holdings.
//!
//! *Why no blob is lost.* Of a blob `k1 = n - 2f` pairs are needed. Assumed is that of the shards of
//! each committee at most `f` are with faulty nodes while its epoch runs and until the next epoch
//! has ended in which a quorum of flags was set; and that an honest holder fetches what its writer
//! did not bring it by the end of the epoch after the blob's first one. A faulty holder may say that
//! it has everything and have nothing, at as many boundaries as it likes; honest ones may be as slow
//! as they like. Look at the end of an epoch `e` with a quorum of flags. At least `n - 2f` of the
//! `n - f` shards with a flag are with honest holders, who have all blobs of earlier epochs; and of
//! each blob of `e` at least `n - 2f` honest holders have signed that they have it. All these copies
//! stay through `e + 1`: who loses its shard with the boundary is named as its keeper in the record,
//! a record forgets keepers only where its flag was set at the end of an epoch with a quorum of
//! flags, and nobody who is named deletes. So each blob can be recovered until `e + 1` ends, and
//! then the same holds of the holders of `e + 1`. Where an epoch ends without a quorum of flags,
//! because shards return, no record forgets anybody, and `e` stays the epoch to look at.
//!
//! Because flags alone never free a copy, a liar gains nothing by an early one. What that costs: a
//! shard that moved is kept twice until the end of the epoch in which its new holder has it, by
//! each loser of up to [`KEEPERS_MAX`](crate::ledger::KEEPERS_MAX) epochs if flags fail for so long;
//! disk pressure shortens nothing.
//!
//! Invariants: the plan is total, each shard that is the node's own or here has one place in it, so
//! nothing is deleted by omission; only what the ledger counts on nobody for is given up.

use std::collections::BTreeMap;

use crate::{
    committee::{Committee, Member},
    holders::Holders,
    index::{Epoch, ShardIndex},
    keys::NodeId,
    ledger::{Keeper, origin},
};

/// What a node's store has of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holding {
    /// Some pairs; others may be missing.
    Partial,
    /// Every pair that it looked for.
    Complete,
}

/// What a node does about shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationPlan {
    /// Whose plan it is.
    pub node: NodeId,
    /// Its own, and complete: nothing is to be done.
    pub kept: Vec<ShardIndex>,
    /// Its own, and not complete: what is missing is to be fetched, from these earlier holders each
    /// for its time, as far as it is from a time before this holder's.
    pub fetched: BTreeMap<ShardIndex, Vec<Keeper>>,
    /// Not its own, but here, and the ledger counts on it, or it comes back with the next epoch: to
    /// be kept and served.
    pub guarded: Vec<ShardIndex>,
    /// Not its own, but here, and nobody counts on it: to be deleted.
    pub released: Vec<ShardIndex>,
}

/// Where the missing pairs of some blobs come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetches {
    /// Copied: by earlier holder and shard, the positions of the blobs.
    pub copies: BTreeMap<(NodeId, ShardIndex), Vec<usize>>,
    /// Recovered from other shards: the positions of the blobs, and the shards.
    pub recoveries: BTreeMap<usize, Vec<ShardIndex>>,
}

/// The plan of node `me` by the facts of a state, with `holdings` here.
///
/// Absent from the plan are the shards that are neither its own nor here: those of others, and
/// those that it lost before it had any pair of them, for which other keepers are bound.
///
/// # Panics
/// If `next` is of a network with other shards.
#[must_use]
pub fn plan(
    holders: &Holders,
    next: Option<&Committee>,
    me: &NodeId,
    holdings: &BTreeMap<ShardIndex, Holding>,
) -> MigrationPlan {
    let mut plan = MigrationPlan {
        node: *me,
        kept: Vec::new(),
        fetched: BTreeMap::new(),
        guarded: Vec::new(),
        released: Vec::new(),
    };
    for shard in (0..holders.committee().n_shards()).map(ShardIndex::new) {
        let is_own = holders.holder(shard) == *me;
        match (is_own, holdings.get(&shard)) {
            (true, Some(Holding::Complete)) => plan.kept.push(shard),
            (true, Some(Holding::Partial) | None) => {
                plan.fetched.insert(shard, holders.shard(shard).origins().to_vec());
            }
            (false, Some(_)) => {
                let returns = next.is_some_and(|next| holder(next, shard) == *me);
                let is_needed = returns || holders.shard(shard).is_kept_by(me);
                if is_needed { &mut plan.guarded } else { &mut plan.released }.push(shard);
            }
            (false, None) => {}
        }
    }
    plan
}

impl MigrationPlan {
    /// Where the missing pairs of blobs come from: of each blob the epoch of its first
    /// certification and the shards whose pair is missing.
    ///
    /// A pair is copied if an earlier holder was to have it and that one `is_fit` to be asked.
    /// Everything else is recovered. Shards for which nothing is planned are left out.
    pub fn fetches<'a>(
        &self,
        lacks: impl IntoIterator<Item = (Epoch, &'a [ShardIndex])>,
        is_fit: impl Fn(&NodeId) -> bool,
    ) -> Fetches {
        let mut fetches = Fetches::default();
        for (position, (first_epoch, shards)) in lacks.into_iter().enumerate() {
            for shard in shards {
                let Some(origins) = self.fetched.get(shard) else { continue };
                let from = origin(origins, first_epoch);
                match from.filter(|from| *from != self.node && is_fit(from)) {
                    Some(from) => fetches.copies.entry((from, *shard)).or_default().push(position),
                    None => fetches.recoveries.entry(position).or_default().push(*shard),
                }
            }
        }
        fetches
    }
}

/// Shards that have another holder after the change.
#[must_use]
pub fn moved(previous: &Committee, next: &Committee) -> u64 {
    let shards = (0..previous.n_shards().min(next.n_shards())).map(ShardIndex::new);
    let moved = shards.filter(|shard| holder(previous, *shard) != holder(next, *shard));
    moved.map(|_| 1).sum()
}

/// Shards that must change their holder, however they are placed: the sum of what members weigh
/// more than before. A change that [`moved`] more than that moved too many.
#[must_use]
pub fn moved_minimum(previous: &Committee, next: &Committee) -> u64 {
    let gained = |member: &Member| {
        let before = previous.member(&member.node).map_or(0, Member::weight);
        u64::from(member.weight().saturating_sub(before))
    };
    next.members().iter().map(gained).sum()
}

fn holder(committee: &Committee, shard: ShardIndex) -> NodeId {
    committee.members()[committee.holder(shard)].node
}
