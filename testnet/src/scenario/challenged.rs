//! What the scenarios of challenges share: rules under which rounds come often, blobs that are asked
//! for, and what the ledger says of it all at the end.

use std::time::Duration;

use anyhow::Context;
use floe_node::{
    Client,
    client::{STORE_BATCH_MAX, StoreProgress},
};
use floe_protocol::{
    blob::BlobHeader,
    challenge::ChallengeParameters,
    index::Epoch,
    keys::NodeId,
    ledger::{AccountId, LedgerParameters},
    transfer::Wanted,
};
use tokio::{sync::watch, task::spawn_blocking};

use super::{
    history::Source,
    load::Stored,
    millis,
    rounds::{self, EpochLedger},
};
use crate::{cluster::Cluster, report, up::with_epoch, workload::content};

/// A round is opened after so many windows: as often as the rules let it.
const WINDOWS: u64 = 10;
/// Rounds that an epoch has time for beside those that are asked for: in the first there is nothing
/// to ask for while blobs are stored, and blocks open rounds a little late.
const ROUNDS_MORE: u64 = 20;
/// Sizes of blobs: many small ones, some large.
const SMALL_BYTES: usize = 64 << 10;
const LARGE_BYTES: usize = 1 << 20;
const LARGE_EVERY: usize = 8;

/// The rules: so many rounds an epoch at least, with so long to answer each.
pub(super) fn rules(window: Duration, rounds: u64) -> LedgerParameters {
    let window_ms = millis(window);
    let interval_ms = window_ms.saturating_mul(WINDOWS);
    let challenges = ChallengeParameters {
        window_ms,
        interval_ms,
        grace_ms: interval_ms,
        certificate_window_ms: interval_ms,
        ..ChallengeParameters::default()
    };
    let epoch = Duration::from_millis(interval_ms.saturating_mul(rounds + ROUNDS_MORE));
    LedgerParameters { heartbeat_ms: 2_000, challenges, ..with_epoch(epoch) }
}

/// Stores so many blobs for so many epochs.
pub(super) async fn store(
    client: &Client,
    cluster: &Cluster,
    (blobs, epochs, seed): (usize, u64, u64),
) -> anyhow::Result<Vec<(Stored, BlobHeader)>> {
    let wanted = Wanted { epochs: u32::try_from(epochs)?, deletable: false };
    let owner = AccountId::new(cluster.wallet().public());
    let progress = watch::Sender::new(StoreProgress::default());
    let mut all = Vec::with_capacity(blobs);
    while all.len() < blobs {
        let mut batch = Vec::new();
        let numbers = all.len()..blobs.min(all.len() + STORE_BATCH_MAX);
        for number in numbers.clone() {
            let content = content(seed.wrapping_add(number as u64), bytes_of(number));
            batch.push(client.prepare_store(content, wanted, owner).await?);
        }
        let stored = client.store_prepared(batch, cluster.wallet(), &progress).await;
        for (number, stored) in numbers.zip(stored) {
            let stored = stored.with_context(|| format!("blob {number} cannot be stored"))?;
            let (seed, end) = (seed.wrapping_add(number as u64), Epoch::new(u64::MAX));
            let blob = Stored { id: stored.blob, seed, bytes: bytes_of(number), end };
            all.push((blob, stored.header));
        }
    }
    report::note(&format!("{blobs} blobs are stored"));
    Ok(all)
}

const fn bytes_of(number: usize) -> usize {
    if number.is_multiple_of(LARGE_EVERY) { LARGE_BYTES } else { SMALL_BYTES }
}

/// Stops all nodes; their ids, and the epochs that have ended.
pub(super) async fn end(mut cluster: Cluster) -> anyhow::Result<(Vec<NodeId>, Vec<EpochLedger>)> {
    let nodes = 0..cluster.nodes();
    let ids: Vec<_> = nodes.clone().map(|node| cluster.node_id(node)).collect();
    let source = |node| Source { dir: cluster.node_dir(node), node: cluster.node_id(node) };
    let sources: Vec<_> = nodes.clone().map(source).collect();
    let genesis = cluster.network().genesis.clone();
    for node in nodes {
        if cluster.is_running(node) {
            cluster.stop(node).await?;
        }
    }
    // The cluster's directory may go with it.
    let epochs = spawn_blocking(move || rounds::replay(&genesis, &sources)).await??;
    cluster.shutdown().await?;
    Ok((ids, epochs))
}
