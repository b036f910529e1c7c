//! Removes the pairs of shards that nobody needs from this node any more.
//!
//! When a shard moves, its earlier holder keeps what it has until the ledger no longer names it as
//! one of the shard's keepers: reads, the move itself, and whoever a lying holder deceives rest on
//! it. Then this service frees its pairs, one at a time, beside all other work: when a block says
//! that an epoch has changed, once at the start, so that what a crash or missed blocks left is found,
//! and again with the next block if the ledger overtook it. Which shards those are is said by
//! [`migration::plan`].
//!
//! Invariants: a pair is removed only under its blob's lock, and only if the plan, made under that
//! lock of the newest state, gives its shard up. A node that lost its ledger follows it again from
//! the start, through epochs in which shards that it holds now were others': so the state must be
//! recent by the clock, the last that is known of, and at least of the height at which the blob was
//! known when it was stored.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc, time::Duration};

use floe_protocol::{
    blob::BlobId,
    committee::Committee,
    holders::Holders,
    index::{Height, ShardIndex},
    keys::NodeId,
    ledger::{Event, ReadError, State},
    migration::{self, Holding},
};
use floe_storage::Store;
use tokio::{
    sync::{
        Notify,
        broadcast::{Receiver, error::RecvError},
    },
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{blob_locks::BlobLocks, members::next_committee, metrics::Metrics};
use crate::{
    clock::Clock,
    service::{
        blocking,
        judging::by_newest,
        ledger::{CommittedBlock, Ledger},
        readiness::is_recent,
    },
};

/// Pairs named at a time.
const PAGE_MAX: usize = 256;
/// Between two pages: reads and writes come first.
const PAUSE: Duration = Duration::from_millis(10);

/// The store or the ledger failed: fatal.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Storage(#[from] floe_storage::StorageError),
    #[error(transparent)]
    Ledger(#[from] ReadError),
}

/// Removes pairs of lost shards.
#[derive(Clone, Debug)]
pub(super) struct LostShards {
    pub(super) node: NodeId,
    pub(super) ledger: Ledger,
    pub(super) store: Store,
    pub(super) locks: Arc<BlobLocks>,
    pub(super) clock: Clock,
    /// Told of removals: what they left in half-empty files can be given back.
    pub(super) removed: Arc<Notify>,
    pub(super) metrics: Metrics,
}

/// What the ledger says of who holds which shard.
#[derive(Debug)]
struct Facts {
    height: Height,
    holders: Holders,
    next: Option<Committee>,
}

impl Facts {
    /// Those of the shards, all of them here, that `node` gives up.
    fn released(&self, node: &NodeId, here: &[ShardIndex]) -> Vec<ShardIndex> {
        let here: BTreeMap<_, _> = here.iter().map(|shard| (*shard, Holding::Partial)).collect();
        migration::plan(&self.holders, self.next.as_ref(), node, &here).released
    }
}

impl LostShards {
    /// Runs until `over` is cancelled, and cancels it if a store fails.
    pub(super) async fn run(self, over: CancellationToken) {
        if let Err(error) = self.collect(&over).await {
            tracing::error!(%error, "pairs of lost shards are not removed: the node stops");
            over.cancel();
        }
    }

    async fn collect(&self, over: &CancellationToken) -> Result<(), Failed> {
        let mut blocks = self.ledger.committed();
        let mut is_due = true;
        loop {
            if is_due && self.is_recent(&self.state()) {
                let Some(all_judged) = self.remove_all(over).await? else { return Ok(()) };
                is_due = !all_judged;
            }
            match over.run_until_cancelled(next_change(&mut blocks)).await {
                Some(ControlFlow::Continue(changes)) => is_due |= changes,
                Some(ControlFlow::Break(())) | None => return Ok(()),
            }
        }
    }

    /// Removes everything of the shards that are given up now. Whether everything could be judged;
    /// none if the node is going down.
    async fn remove_all(&self, over: &CancellationToken) -> Result<Option<bool>, Failed> {
        let lost = self.clone();
        let Some(lost) = blocking(move || lost.lost_shards()).await else { return Ok(None) };
        let Some(lost) = lost? else { return Ok(Some(false)) };
        let mut all_judged = true;
        for shard in lost {
            let mut after = None;
            loop {
                let this = self.clone();
                let page = blocking(move || this.remove_page(shard, after)).await;
                let Some(page) = page else { return Ok(None) };
                let Some((last, judged)) = page? else { break };
                all_judged &= judged;
                after = Some(last);
                if over.run_until_cancelled(sleep(PAUSE)).await.is_none() {
                    return Ok(None);
                }
            }
        }
        Ok(Some(all_judged))
    }

    /// The shards that are given up; none if there is no state to go by.
    fn lost_shards(&self) -> Result<Option<Vec<ShardIndex>>, Failed> {
        let Some(facts) = self.facts()? else { return Ok(None) };
        let mut here = Vec::new();
        for shard in (0..facts.holders.committee().n_shards()).map(ShardIndex::new) {
            if !self.store.pairs_of(shard, None, 1)?.is_empty() {
                here.push(shard);
            }
        }
        Ok(Some(facts.released(&self.node, &here)))
    }

    /// The last blob of a page of a lost shard, and whether all of the page could be judged; none
    /// behind the last page.
    fn remove_page(
        &self,
        shard: ShardIndex,
        after: Option<BlobId>,
    ) -> Result<Option<(BlobId, bool)>, Failed> {
        let page = self.store.pairs_of(shard, after.as_ref(), PAGE_MAX)?;
        let (mut removed, mut all_judged) = (0, true);
        for blob in &page {
            let was_lost = self.remove_if_lost(shard, blob)?;
            removed += u64::from(was_lost == Some(true));
            all_judged &= was_lost.is_some();
        }
        if removed > 0 {
            tracing::debug!(%shard, removed, "pairs of a shard that nobody needs from here: removed");
            self.metrics.pairs_given_up.inc_by(removed);
            self.removed.notify_one();
        }
        Ok(page.last().map(|last| (*last, all_judged)))
    }

    /// Whether the pair was removed; none if the state can't say whether it may be.
    fn remove_if_lost(&self, shard: ShardIndex, blob: &BlobId) -> Result<Option<bool>, Failed> {
        let _lock = self.locks.remove(blob);
        let Some(facts) = self.facts()? else { return Ok(None) };
        let stored = self.store.blob(blob)?;
        if stored.is_some_and(|stored| facts.height < stored.height) {
            return Ok(None);
        }
        if facts.released(&self.node, &[shard]).is_empty() {
            return Ok(Some(false));
        }
        Ok(Some(self.store.remove_pair(shard, blob)?))
    }

    /// What the newest state says, if it is recent and not forgotten meanwhile.
    fn facts(&self) -> Result<Option<Facts>, Failed> {
        let facts = by_newest(
            || self.state(),
            |state| {
                if !self.is_recent(state) {
                    return Ok(None);
                }
                let shards = state.shards(self.ledger.store().as_ref())?;
                let holders = Holders::new(Arc::clone(state.committee()), shards);
                let next = next_committee(&self.ledger, state)?;
                let height = state.tip().height;
                Ok(holders.map(|holders| Facts { height, holders, next }))
            },
        );
        match facts {
            Err(ReadError::NoSuchVersion { .. }) => Ok(None),
            facts => Ok(facts?),
        }
    }

    fn is_recent(&self, state: &State) -> bool {
        is_recent(state.tip(), *self.ledger.missing().borrow(), self.clock.now())
    }

    fn state(&self) -> Arc<State> {
        self.ledger.state().borrow().clone()
    }
}

/// Waits for a block; whether shards may have been lost with it.
async fn next_change(blocks: &mut Receiver<Arc<CommittedBlock>>) -> ControlFlow<(), bool> {
    match blocks.recv().await {
        Ok(block) => {
            let mut events = block.events.iter();
            let changed = events.any(|event| matches!(event, Event::EpochChanged { .. }));
            ControlFlow::Continue(changed)
        }
        Err(RecvError::Lagged(_)) => ControlFlow::Continue(true),
        Err(RecvError::Closed) => ControlFlow::Break(()),
    }
}

#[cfg(test)]
mod tests {
    use floe_protocol::{
        index::Epoch,
        ledger::{Keeper, ShardRecord},
        test_support,
    };

    use super::*;

    #[test]
    fn a_shard_is_given_up_only_if_it_is_named_and_expected_nowhere() {
        let running = Arc::new(test_support::committee(5, 16));
        let shard = ShardIndex::new(3);
        let holder = running.members()[running.holder(shard)].node;
        let loser = running.members().iter().find(|member| member.node != holder).unwrap().node;
        let keeper = Keeper { node: loser, until: Epoch::new(0), complete: true };
        let settled = ShardRecord::settled(holder);
        let facts = |record: &ShardRecord, next| Facts {
            height: Height::new(9),
            holders: Holders::new(Arc::clone(&running), vec![record.clone(); 16]).unwrap(),
            next,
        };
        let gives_up = |facts: &Facts, node: &NodeId| !facts.released(node, &[shard]).is_empty();
        let now = facts(&settled, None);
        assert!(gives_up(&now, &loser));
        assert!(gives_up(&now, &NodeId::new([9; 32])), "a node that has left the committee");
        assert!(!gives_up(&now, &holder), "it is the node's own");
        let kept = ShardRecord { keepers: vec![keeper], ..settled.clone() };
        assert!(!gives_up(&facts(&kept, None), &loser), "whatever the holder says");
        let moving = ShardRecord { ready_since: None, last_ready: loser, keepers: vec![keeper] };
        assert!(!gives_up(&facts(&moving, None), &loser));
        assert!(!gives_up(&facts(&moving, None), &holder));
        // Seven nodes share the shards in another way.
        let others = test_support::committee(7, 16);
        let next_holder = others.members()[others.holder(shard)].node;
        let next = facts(&settled, Some(others));
        assert!(!gives_up(&next, &next_holder), "it comes with the next epoch");
        assert!(!gives_up(&next, &holder));
    }
}
