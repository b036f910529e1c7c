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

use super::{
    context::{Context, Failed},
    migrate::{self, Copied},
    plan::plan,
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
    /// Nodes that sent what they were asked for.
    pub(super) delivered: BTreeSet<NodeId>,
    /// Something could be kept.
    pub(super) kept: bool,
    /// The disk is full.
    pub(super) full: bool,
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
    let planned = plan(&looked.holders, me, is_fit, &looked.lacks);
    let mut recoveries = planned.recoveries;
    let mut moves = Vec::with_capacity(planned.moves.len());
    for ((holder, shard), positions) in planned.moves {
        let lacks = positions.iter().map(|position| looked.lacks[*position].clone());
        moves.push(migrate::copy(Arc::clone(context), (holder, shard), lacks.collect()));
    }
    let mut moves = stream::iter(moves).buffer_unordered(context.limits.moves_max.max(1));
    while let Some(Copied { holder, shard, settled, left, fault }) = moves.try_next().await? {
        outcome.faults.extend(fault.map(|fault| (holder, fault)));
        if fault.is_none() && !settled.is_empty() {
            outcome.delivered.insert(holder);
        }
        outcome.kept |= !settled.is_empty();
        for blob in settled {
            settle(missing, &blob, shard);
        }
        for blob in left {
            recoveries.entry(blob).or_default().push(shard);
        }
    }
    let lied =
        |(node, fault): (&NodeId, &HolderFault)| (*fault == HolderFault::Lied).then_some(*node);
    let liars = unfit.liars.iter().copied().chain(outcome.faults.iter().filter_map(lied));
    let liars: Arc<BTreeSet<_>> = Arc::new(liars.collect());
    let mut runs = Vec::with_capacity(recoveries.len());
    for lack in &looked.lacks {
        let Some(mut shards) = recoveries.remove(&lack.blob) else { continue };
        shards.sort_unstable();
        let lack = Lack { shards, ..lack.clone() };
        runs.push(recover::recover(
            Arc::clone(context),
            Arc::clone(looked),
            lack,
            Arc::clone(&liars),
        ));
    }
    let mut runs = stream::iter(runs).buffer_unordered(context.limits.recoveries_max.max(1));
    while let Some(Recovered { blob, shards, liars }) = runs.try_next().await? {
        outcome.faults.extend(liars.into_iter().map(|node| (node, HolderFault::Lied)));
        outcome.kept |= !shards.is_empty();
        for shard in shards {
            settle(missing, &blob, shard);
        }
    }
    Ok(())
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
