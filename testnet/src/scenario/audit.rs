//! What must hold: every living blob reads back, the supply is whole, nobody is jailed, and the
//! stores of the last committee hold every pair of their shards.

use std::{path::PathBuf, sync::atomic::AtomicUsize, sync::atomic::Ordering, thread};

use anyhow::Context;
use floe_node::{Client, client::ledger::RunningEpoch, config::NodePaths};
use floe_protocol::{
    blob::PairProof,
    encoding::{self, Axis, EncodingConfig},
    index::ShardIndex,
    keys::NodeId,
    ledger::Amount,
};
use floe_storage::{Store, StoreConfig};
use futures::{StreamExt, stream};
use tokio::task::spawn_blocking;

use super::load::{Stored, read_back};

/// Blobs that are read back at the same time.
const READS_MAX: usize = 4;

/// Reads every living blob back; how many, and what was wrong.
pub(super) async fn read_all(
    client: &Client,
    blobs: &[Stored],
    running: &RunningEpoch,
) -> (usize, Vec<String>) {
    let alive = blobs.iter().filter(|blob| running.summary.epoch < blob.end);
    let reads = stream::iter(alive).map(|blob| read_back(client, blob));
    let results: Vec<_> = reads.buffer_unordered(READS_MAX).collect().await;
    let read = results.iter().filter(|result| matches!(result, Ok(true))).count();
    (read, results.into_iter().filter_map(Result::err).collect())
}

/// What is wrong with the money and the nodes.
pub(super) async fn ledger(
    client: &Client,
    running: &RunningEpoch,
    supply: Amount,
) -> anyhow::Result<Vec<String>> {
    let mut broken = Vec::new();
    let total = running.summary.supply.total();
    if total != Some(supply) {
        let total = total.map_or_else(|| "more than can be counted".into(), |sum| sum.to_string());
        broken.push(format!("the supply is {total}, and was {supply} at genesis"));
    }
    for (node, record) in client.ledger().nodes().await?.value {
        if record.jailed.is_some() || record.closed {
            broken.push(format!("node {node} was slashed, and is honest"));
        }
    }
    Ok(broken)
}

/// A member of the last committee whose node has stopped.
#[derive(Clone, Debug)]
pub(super) struct Stopped {
    pub(super) number: usize,
    pub(super) node: NodeId,
    pub(super) dir: PathBuf,
    pub(super) shards: Vec<ShardIndex>,
}

/// Looks for every pair of these blobs in the stores of these nodes; how many verify, and which are
/// missing.
pub(super) async fn stores(
    members: Vec<Stopped>,
    blobs: Vec<Stored>,
    config: EncodingConfig,
) -> anyhow::Result<(usize, Vec<String>)> {
    spawn_blocking(move || {
        let verified = AtomicUsize::new(0);
        let missing = thread::scope(|scope| {
            let looks = members
                .iter()
                .map(|member| scope.spawn(|| look(member, &blobs, (config, &verified))));
            let looks: Vec<_> = looks.collect();
            let looks = looks.into_iter().map(|look| look.join().expect("looking does not panic"));
            looks.collect::<anyhow::Result<Vec<_>>>()
        });
        Ok((verified.into_inner(), missing?.concat()))
    })
    .await?
}

fn look(
    member: &Stopped,
    blobs: &[Stored],
    (config, verified): (EncodingConfig, &AtomicUsize),
) -> anyhow::Result<Vec<String>> {
    let paths = NodePaths::below(&member.dir);
    let store = StoreConfig::new(paths.store, paths.marker, member.node);
    let number = member.number;
    let store = Store::open(&store).with_context(|| format!("the store of node {number}"))?;
    let mut broken = Vec::new();
    for blob in blobs {
        for shard in &member.shards {
            match pair(&store, (blob, *shard), config) {
                Ok(()) => drop(verified.fetch_add(1, Ordering::Relaxed)),
                Err(error) => broken.push(format!(
                    "node {number} lacks the pair of shard {shard} of blob {}: {error:#}",
                    blob.id
                )),
            }
        }
    }
    Ok(broken)
}

/// Whether a store holds a pair, whole and right.
fn pair(
    store: &Store,
    (blob, shard): (&Stored, ShardIndex),
    config: EncodingConfig,
) -> anyhow::Result<()> {
    let sliver = |axis| store.sliver(shard, &blob.id, axis);
    let primary = sliver(Axis::Primary)?.context("no primary sliver")?;
    let secondary = sliver(Axis::Secondary)?.context("no secondary sliver")?;
    let proof = store.pair_proof(shard, &blob.id)?.context("no proof")?;
    let proof = PairProof::verify_bytes(config, &blob.id, &proof)?;
    anyhow::ensure!(proof.index == blob.id.pair_of(shard, config.n_shards()), "another pair");
    let layout = config.layout(proof.header.len)?;
    encoding::verify_pair(&layout, &proof, &primary, &secondary)?;
    Ok(())
}
