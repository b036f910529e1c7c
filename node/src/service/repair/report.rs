//! Reports shards as ready: tells the ledger when every pair of a gained shard is here.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use floe_protocol::{
    index::{Epoch, ShardIndex},
    ledger::{ShardRecord, ShardsReady, State, SystemOperation},
};
use tokio::time::Instant;

use super::context::{Context, Failed};
use crate::service::judging::by_newest;

/// How long a report may take to be committed before it is made again.
const RETRY: Duration = Duration::from_secs(5);

/// What has been reported.
#[derive(Debug)]
pub(super) struct Reporter {
    epoch: Epoch,
    /// The shards that were complete when the ledger was last asked about them.
    looked_at: BTreeSet<ShardIndex>,
    /// The ledger has the flags of all of them.
    settled: bool,
    /// When to look again.
    due: Option<Instant>,
}

impl Reporter {
    pub(super) const fn new(epoch: Epoch) -> Self {
        Self { epoch, looked_at: BTreeSet::new(), settled: true, due: None }
    }

    /// When to call again though nothing has changed.
    pub(super) const fn next_due(&self) -> Option<Instant> {
        if self.settled { None } else { self.due }
    }

    /// Looks whether the ledger knows that these shards are complete, and tells it.
    pub(super) async fn report(
        &mut self,
        context: &Arc<Context>,
        complete: &BTreeSet<ShardIndex>,
    ) -> Result<(), Failed> {
        let now = Instant::now();
        let changed = *complete != self.looked_at;
        let is_due = !self.settled && self.due.is_none_or(|due| due <= now);
        if !changed && !is_due {
            return Ok(());
        }
        self.looked_at.clone_from(complete);
        self.due = Some(now + RETRY);
        self.settled = complete.is_empty();
        if self.settled {
            return Ok(());
        }
        let (epoch, complete) = (self.epoch, complete.clone());
        let operation = context.blocking(move |context| operation(context, epoch, &complete));
        match operation.await {
            Ok(None) => self.settled = true,
            Ok(Some(operation)) => {
                // One that waits already is as good; else it is made again.
                let inserted = context.ledger.insert_system(operation, true).await;
                inserted.map_err(|_| Failed::Stopping)?.unwrap_or_else(|error| {
                    tracing::debug!(%error, "report of shards not taken");
                });
            }
            Err(error) if error.is_fatal() => return Err(error),
            Err(_) => {}
        }
        Ok(())
    }
}

/// The report that the ledger lacks.
fn operation(
    context: &Context,
    epoch: Epoch,
    complete: &BTreeSet<ShardIndex>,
) -> Result<Option<SystemOperation>, Failed> {
    let reader = context.ledger.store().as_ref();
    let newest = || context.state();
    let look = |state: &State| Ok((state.summary().epoch, state.shards(reader)?));
    let (running, records) = by_newest(newest, look)?;
    let shards = unreported(&records, complete);
    if running != epoch || shards.is_empty() {
        return Ok(None);
    }
    tracing::info!(%epoch, shards = shards.len(), "gained shards are complete: reporting them");
    let report = ShardsReady::new(context.state().chain(), &context.keys.node, epoch, shards);
    Ok(Some(SystemOperation::ShardsReady { report }))
}

/// The complete shards whose flag is not set.
fn unreported(records: &[ShardRecord], complete: &BTreeSet<ShardIndex>) -> Vec<ShardIndex> {
    let is_ready =
        |shard: &ShardIndex| records.get(shard.as_usize()).is_none_or(ShardRecord::is_ready);
    complete.iter().copied().filter(|shard| !is_ready(shard)).collect()
}

#[cfg(test)]
mod tests {
    use floe_protocol::keys::NodeId;

    use super::*;

    #[test]
    fn complete_shards_without_a_flag_are_reported_in_order() {
        let record = |ready: bool| {
            let settled = ShardRecord::settled(NodeId::new([1; 32]));
            ShardRecord { ready_since: settled.ready_since.filter(|_| ready), ..settled }
        };
        let records = [record(true), record(false), record(false), record(false)];
        let complete = [3, 0, 1, 9].map(ShardIndex::new).into();
        assert_eq!(unreported(&records, &complete), [1, 3].map(ShardIndex::new));
        assert!(unreported(&records, &BTreeSet::new()).is_empty());
    }
}
