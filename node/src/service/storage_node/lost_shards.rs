//! Removes the pairs of shards that another node has taken over.
//!
//! When a shard moves, its earlier holder keeps what it has until the new one has reported that it
//! is complete: until then reads and the move itself rest on it. Then this service frees its pairs,
//! one at a time, beside all other work: when a block says that shards are complete or that an epoch
//! has changed, and once at the start, so that what a crash or missed blocks left is found.
//!
//! Invariants: a pair is removed only under its blob's lock, and only if the state, looked at under
//! that lock, gives its shard to another node, which has it complete, and does not give it back in
//! the next epoch ([`is_lost`]). A node that lost its ledger follows it again from the start, through
//! epochs in which shards that it holds now were others': so the state must be recent by the
//! clock, and at least of the height at which the blob was known when it was stored.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use floe_protocol::{
    blob::BlobId,
    committee::Committee,
    index::{Height, ShardIndex},
    keys::NodeId,
    ledger::{Event, ReadError, ShardRecord, State},
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
    },
};

/// Pairs named at a time.
const PAGE_MAX: usize = 256;
/// Between two pages: reads and writes come first.
const PAUSE: Duration = Duration::from_millis(10);
/// How old the last block may be by the clock: blocks come every ten seconds at least.
const STATE_AGE_MAX_MS: u64 = 60_000;

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
struct Holding {
    height: Height,
    running: Arc<Committee>,
    next: Option<Committee>,
    shards: Vec<ShardRecord>,
}

impl Holding {
    fn is_lost(&self, node: &NodeId, shard: ShardIndex) -> bool {
        let record = self.shards.get(shard.as_usize());
        record.is_some_and(|record| {
            is_lost(node, shard, (&self.running, self.next.as_ref()), *record)
        })
    }
}

/// Whether `node` has no more use for what it holds of a shard: another node holds it, complete,
/// and it does not come back with the next epoch.
fn is_lost(
    node: &NodeId,
    shard: ShardIndex,
    (running, next): (&Committee, Option<&Committee>),
    record: ShardRecord,
) -> bool {
    let holds = |committee: &Committee| {
        let member = committee.members().get(committee.holder(shard));
        member.is_none_or(|member| member.node == *node)
    };
    record.ready && !holds(running) && !next.is_some_and(holds)
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
                if self.remove_all(over).await?.is_break() {
                    return Ok(());
                }
                is_due = false;
            }
            match over.run_until_cancelled(next_change(&mut blocks)).await {
                Some(ControlFlow::Continue(changes)) => is_due |= changes,
                Some(ControlFlow::Break(())) | None => return Ok(()),
            }
        }
    }

    /// Removes everything of the shards that are lost now; a break if the node is going down.
    async fn remove_all(&self, over: &CancellationToken) -> Result<ControlFlow<()>, Failed> {
        let lost = self.clone();
        let Some(lost) = blocking(move || lost.lost_shards()).await else {
            return Ok(ControlFlow::Break(()));
        };
        for shard in lost? {
            let mut after = None;
            loop {
                let this = self.clone();
                let page = blocking(move || this.remove_page(shard, after)).await;
                let Some(page) = page else { return Ok(ControlFlow::Break(())) };
                let Some(last) = page? else { break };
                after = Some(last);
                if over.run_until_cancelled(sleep(PAUSE)).await.is_none() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn lost_shards(&self) -> Result<Vec<ShardIndex>, Failed> {
        let Some(holding) = self.holding()? else { return Ok(Vec::new()) };
        let count = u16::try_from(holding.shards.len()).unwrap_or(u16::MAX);
        let mut lost: Vec<_> = (0..count).map(ShardIndex::new).collect();
        lost.retain(|shard| holding.is_lost(&self.node, *shard));
        Ok(lost)
    }

    /// The last blob of a page of a lost shard, whose pairs are gone; none behind the last page.
    fn remove_page(
        &self,
        shard: ShardIndex,
        after: Option<BlobId>,
    ) -> Result<Option<BlobId>, Failed> {
        let page = self.store.pairs_of(shard, after.as_ref(), PAGE_MAX)?;
        let mut removed = 0;
        for blob in &page {
            removed += u64::from(self.remove_if_lost(shard, blob)?);
        }
        if removed > 0 {
            tracing::debug!(%shard, removed, "pairs of a shard that another node holds: removed");
            self.metrics.pairs_given_up.inc_by(removed);
            self.removed.notify_one();
        }
        Ok(page.last().copied())
    }

    fn remove_if_lost(&self, shard: ShardIndex, blob: &BlobId) -> Result<bool, Failed> {
        let _lock = self.locks.remove(blob);
        // Overtaken by the ledger, or no more recent: the next change finds it.
        let Some(holding) = self.holding()? else { return Ok(false) };
        let stored = self.store.blob(blob)?;
        let is_older = stored.is_some_and(|stored| holding.height < stored.height);
        if is_older || !holding.is_lost(&self.node, shard) {
            return Ok(false);
        }
        Ok(self.store.remove_pair(shard, blob)?)
    }

    /// What the newest state says, if it is recent and not forgotten meanwhile.
    fn holding(&self) -> Result<Option<Holding>, Failed> {
        let holding = by_newest(
            || self.state(),
            |state| {
                if !self.is_recent(state) {
                    return Ok(None);
                }
                Ok(Some(Holding {
                    height: state.tip().height,
                    running: Arc::clone(state.committee()),
                    next: next_committee(&self.ledger, state)?,
                    shards: state.shards(self.ledger.store().as_ref())?,
                }))
            },
        );
        match holding {
            Err(ReadError::NoSuchVersion { .. }) => Ok(None),
            holding => Ok(holding?),
        }
    }

    fn is_recent(&self, state: &State) -> bool {
        self.clock.now().ms_since(state.tip().time) <= STATE_AGE_MAX_MS
    }

    fn state(&self) -> Arc<State> {
        self.ledger.state().borrow().clone()
    }
}

/// Waits for a block; whether shards may have been lost with it.
async fn next_change(blocks: &mut Receiver<Arc<CommittedBlock>>) -> ControlFlow<(), bool> {
    match blocks.recv().await {
        Ok(block) => ControlFlow::Continue(block.events.iter().any(|event| {
            matches!(event, Event::ShardsCompleted { .. } | Event::EpochChanged { .. })
        })),
        Err(RecvError::Lagged(_)) => ControlFlow::Continue(true),
        Err(RecvError::Closed) => ControlFlow::Break(()),
    }
}

#[cfg(test)]
mod tests {
    use floe_protocol::test_support;

    use super::*;

    /// A shard, its holder, and a node that has others.
    fn moved(committee: &Committee) -> (ShardIndex, NodeId, NodeId) {
        let shard = ShardIndex::new(3);
        let holder = committee.members()[committee.holder(shard)].node;
        let other = committee.members().iter().find(|member| member.node != holder);
        (shard, holder, other.unwrap().node)
    }

    #[test]
    fn a_shard_is_lost_only_when_another_node_has_it_complete() {
        let running = test_support::committee(5, 16);
        let (shard, holder, loser) = moved(&running);
        let record = |ready, last_ready| ShardRecord { ready, last_ready };
        let lost = |node, record| is_lost(node, shard, (&running, None), record);
        assert!(lost(&loser, record(true, holder)));
        assert!(!lost(&loser, record(false, loser)), "nobody else is known to have it");
        assert!(!lost(&loser, record(false, holder)), "it came back and is not complete");
        for ready in [false, true] {
            assert!(!lost(&holder, record(ready, holder)), "it is the node's own");
            assert!(!lost(&holder, record(ready, loser)), "it is the node's own");
        }
        let stranger = NodeId::new([9; 32]);
        assert!(lost(&stranger, record(true, holder)), "a node that has left the committee");
        assert!(!lost(&stranger, record(false, stranger)));
    }

    #[test]
    fn a_shard_that_comes_with_the_next_epoch_is_kept() {
        let running = test_support::committee(5, 16);
        let (shard, holder, loser) = moved(&running);
        let record = ShardRecord { ready: true, last_ready: holder };
        // Seven nodes share the shards in another way.
        let others = test_support::committee(7, 16);
        let next_holder = others.members()[others.holder(shard)].node;
        let keeps = |node: &NodeId| !is_lost(node, shard, (&running, Some(&others)), record);
        assert!(keeps(&next_holder));
        assert!(keeps(&holder));
        let neither = [loser, NodeId::new([9; 32])].into_iter();
        for node in neither.filter(|node| *node != next_holder) {
            assert!(!keeps(&node));
        }
    }
}
