//! Work on a few blobs: looks what is missing, copies what has moved, recovers the rest.
//!
//! Whatever ends a task early loses nothing but time: what is in the store stays there, and the
//! next attempt begins with a look at it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use floe_protocol::{
    blob::BlobId,
    index::ShardIndex,
    keys::NodeId,
    repair::{HolderFault, Unfit},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use super::{
    context::{Context, Failed},
    migrate::{self, Copied, Source},
    plan::{Plan, plan},
    recover::{self, Recovered},
    scan::{self, Lack, Looked},
};

/// What came of a task.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Blobs that are complete, or over.
    pub(super) settled: Vec<BlobId>,
    /// The others, with what is still missing of them if that is known.
    pub(super) missing: Vec<(BlobId, Option<Vec<ShardIndex>>)>,
    /// What was wrong with nodes.
    pub(super) faults: BTreeMap<NodeId, HolderFault>,
    /// Nodes that sent most of what they were asked for, and nothing else.
    pub(super) delivered: BTreeSet<NodeId>,
    /// Something could be kept.
    pub(super) kept: bool,
    /// The disk is full.
    pub(super) full: bool,
}

impl Outcome {
    /// A node was found at fault: the worst that it did counts.
    fn fault(&mut self, node: NodeId, fault: HolderFault) {
        let worst = self.faults.entry(node).or_insert(fault);
        *worst = fault.max(*worst);
        self.delivered.remove(&node);
    }

    /// Who was unfit before, and who has been found so.
    fn unfit(&self, before: &Unfit) -> Unfit {
        let mut unfit = before.clone();
        for (node, fault) in &self.faults {
            match fault {
                HolderFault::Away => unfit.away.insert(*node),
                HolderFault::Lied => unfit.liars.insert(*node),
            };
        }
        unfit
    }

    fn delivered(&mut self, node: NodeId) {
        if !self.faults.contains_key(&node) {
            self.delivered.insert(node);
        }
    }
}

/// Works on `blobs`, without asking who is unfit.
pub(super) async fn work(
    context: Arc<Context>,
    blobs: Vec<BlobId>,
    unfit: Unfit,
) -> Result<Outcome, Failed> {
    let mut outcome = Outcome::default();
    let asked = blobs.clone();
    let looked = match context.blocking(move |context| scan::look(context, &asked)).await {
        Ok(looked) => Arc::new(looked),
        Err(error) if error.is_fatal() => return Err(error),
        Err(_) => {
            outcome.missing = blobs.into_iter().map(|blob| (blob, None)).collect();
            return Ok(outcome);
        }
    };
    let lacks = looked.lacks.iter().map(|lack| (lack.blob, lack.shards.clone()));
    let mut missing: Missing = lacks.collect();
    match fetch(&context, &looked, (&unfit, &mut missing, &mut outcome)).await {
        Ok(()) => {}
        Err(error) if error.is_fatal() => return Err(error),
        Err(error) => {
            outcome.full = error.is_full();
            tracing::debug!(%error, "repair was cut short");
        }
    }
    for blob in blobs {
        match missing.remove(&blob) {
            Some(shards) => outcome.missing.push((blob, Some(shards))),
            None => outcome.settled.push(blob),
        }
    }
    Ok(outcome)
}

type Missing = BTreeMap<BlobId, Vec<ShardIndex>>;

/// Fetches what is missing, and takes off what has come.
async fn fetch(
    context: &Arc<Context>,
    looked: &Arc<Looked>,
    (unfit, missing, outcome): (&Unfit, &mut Missing, &mut Outcome),
) -> Result<(), Failed> {
    let me = context.node();
    let is_fit = |node: &NodeId| !unfit.liars.contains(node) && !unfit.away.contains(node);
    let Plan { moves, mut recoveries } = plan(&looked.holders, me, is_fit, &looked.lacks);
    let moves = copies(context, looked, moves).into_iter();
    let moves = moves.map(|(source, lacks)| migrate::copy(Arc::clone(context), source, lacks));
    let mut moves = stream::iter(moves).buffer_unordered(context.limits.moves_max.max(1));
    while let Some(Copied { holder, shard, settled, left, fault }) = moves.try_next().await? {
        match fault {
            Some(fault) => outcome.fault(holder, fault),
            // A little of it does not make up for how it was before.
            None if settled.len() > left.len() => outcome.delivered(holder),
            None => {}
        }
        outcome.kept |= !settled.is_empty();
        for blob in settled {
            settle(missing, &blob, shard);
        }
        for blob in left {
            recoveries.entry(blob).or_default().push(shard);
        }
    }
    let unfit = Arc::new(outcome.unfit(unfit));
    let mut runs = Vec::with_capacity(recoveries.len());
    for lack in &looked.lacks {
        let Some(mut shards) = recoveries.remove(&lack.blob) else { continue };
        shards.sort_unstable();
        let lack = Lack { shards, ..lack.clone() };
        runs.push(recover::recover(
            Arc::clone(context),
            Arc::clone(looked),
            lack,
            Arc::clone(&unfit),
        ));
    }
    let mut runs = stream::iter(runs).buffer_unordered(context.limits.recoveries_max.max(1));
    while let Some(Recovered { blob, shards, liars }) = runs.try_next().await? {
        for node in liars {
            outcome.fault(node, HolderFault::Lied);
        }
        outcome.kept |= !shards.is_empty();
        for shard in shards {
            settle(missing, &blob, shard);
        }
    }
    Ok(())
}

/// What to copy, from whom, and how long each holder has: twice what one answer of all that it is
/// asked for would have.
fn copies(
    context: &Context,
    looked: &Looked,
    moves: BTreeMap<(NodeId, ShardIndex), Vec<usize>>,
) -> Vec<(Source, Vec<Lack>)> {
    let mut holders: BTreeMap<NodeId, (u64, CancellationToken)> = BTreeMap::new();
    for ((holder, _), positions) in &moves {
        let bytes = positions.iter().map(|position| migrate::pair_bytes(&looked.lacks[*position]));
        let (sum, _) = holders.entry(*holder).or_default();
        *sum = bytes.fold(*sum, u64::saturating_add);
    }
    let copies = moves.into_iter().map(|((holder, shard), positions)| {
        let (bytes, over) = holders.get(&holder).cloned().unwrap_or_default();
        let time = context.patience(bytes).saturating_mul(2);
        let lacks = positions.iter().map(|position| looked.lacks[*position].clone());
        (Source { holder, shard, time, over }, lacks.collect())
    });
    copies.collect()
}

/// A pair is here, or no longer wanted.
fn settle(missing: &mut Missing, blob: &BlobId, shard: ShardIndex) {
    if let Some(shards) = missing.get_mut(blob) {
        shards.retain(|other| *other != shard);
        if shards.is_empty() {
            missing.remove(blob);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_that_a_node_did_counts() {
        let (liar, other) = (NodeId::new([1; 32]), NodeId::new([2; 32]));
        for faults in
            [[HolderFault::Lied, HolderFault::Away], [HolderFault::Away, HolderFault::Lied]]
        {
            let mut outcome = Outcome::default();
            outcome.delivered(liar);
            outcome.delivered(other);
            for fault in faults {
                outcome.fault(liar, fault);
            }
            outcome.delivered(liar);
            assert_eq!(outcome.faults, BTreeMap::from([(liar, HolderFault::Lied)]));
            assert_eq!(outcome.unfit(&Unfit::default()).liars, BTreeSet::from([liar]));
            assert_eq!(outcome.delivered, BTreeSet::from([other]), "who has a fault has not");
        }
    }
}
