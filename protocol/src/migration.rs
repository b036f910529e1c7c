//! What a change of the committee means for one node: which shards it keeps, gains, has back and
//! loses.
//!
//! At the boundary every node computes its own [`MigrationPlan`] from the two committees and from
//! what it holds, and executes it: gained shards are copied from who had them before, or recovered;
//! lost ones are kept until [`may_delete`] says otherwise. The plan is the same after a restart in
//! the middle of it: what has been copied by then shows in the holdings.
//!
//! Invariants: the plan is total, every combination has its place in it; a shard that is held and
//! not the node's own is never without a name in it, so nothing is deleted by omission; as long as
//! a shard is not ready with its holder, nobody who has it may delete it, and so no shard is lost
//! by any sequence of committees. Whom exactly to ask for a gained shard, while holders change
//! before they are ready, is said by [`Holders`](crate::holders::Holders).

use std::collections::BTreeMap;

use crate::{
    committee::{Committee, Member},
    index::ShardIndex,
    keys::NodeId,
    ledger::ShardRecord,
};

/// What a node's store has of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holding {
    /// Some pairs; others may be missing.
    Partial,
    /// Every pair of the blobs that were certified when the node last looked.
    Complete,
}

/// A shard that is with another node before or after the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The shard.
    pub shard: ShardIndex,
    /// Its holder before, if it is gained; its holder after, if it is lost.
    pub other: NodeId,
}

/// What a node does about a change of the committee. Shards are ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigrationPlan {
    /// Its own before and after, and complete: nothing is to be done.
    pub kept: Vec<ShardIndex>,
    /// Its own before and after, but not complete: what is missing is recovered, since nobody
    /// else had them.
    pub incomplete: Vec<ShardIndex>,
    /// Its own from now on, nothing is here: to be copied from the holder before.
    pub gained: Vec<Move>,
    /// Its own from now on, and still here from earlier: only what was certified since, or is
    /// missing otherwise, is to be copied from the holder before.
    pub returned: Vec<Move>,
    /// Not its own, but here: lost by this change or an earlier one, to be kept and served until
    /// [`may_delete`].
    pub lost: Vec<Move>,
}

/// The plan of node `me` for the change from `previous` to `next`, with `holdings` here.
///
/// Absent from the plan are the shards that are neither its own nor here: those of others, and
/// those that it lost before it had any pair of them, for which others are bound.
#[must_use]
pub fn plan(
    previous: &Committee,
    next: &Committee,
    me: &NodeId,
    holdings: &BTreeMap<ShardIndex, Holding>,
) -> MigrationPlan {
    let mut plan = MigrationPlan::default();
    let n_shards = previous.n_shards().min(next.n_shards());
    for shard in (0..n_shards).map(ShardIndex::new) {
        let (before, after) = (holder(previous, shard), holder(next, shard));
        let holding = holdings.get(&shard);
        match (before == *me, after == *me, holding) {
            (true, true, Some(Holding::Complete)) => plan.kept.push(shard),
            (true, true, Some(Holding::Partial) | None) => plan.incomplete.push(shard),
            (false, true, None) => plan.gained.push(Move { shard, other: before }),
            (false, true, Some(_)) => plan.returned.push(Move { shard, other: before }),
            // Whether it was the node's own until now or longer ago, partial or complete: a
            // partial shard may have the only copy of a pair.
            (_, false, Some(_)) => plan.lost.push(Move { shard, other: after }),
            (_, false, None) => {}
        }
    }
    plan
}

/// Whether node `me` may delete its copy of a shard: another node is its holder in the running
/// `committee` and has reported it ready. Committee and `record` are of one state.
///
/// The one rule covers all cases. While the flag is not set, every copy is kept: the last ready
/// holder's, and those of interim holders, who have what was certified in their time. The flag is
/// cleared when the shard moves, so it speaks of the holder of the running epoch alone.
#[must_use]
pub fn may_delete(
    shard: ShardIndex,
    me: &NodeId,
    committee: &Committee,
    record: &ShardRecord,
) -> bool {
    record.ready && holder(committee, shard) != *me
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
