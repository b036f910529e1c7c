//! A fifth node joins a running swarm: it registers, stakes, is selected, and gets shards.
//!
//! You will see the selection, the boundary of the epoch, and the newcomer copying the pairs of its
//! shards from those who held them. The same by hand: `floe node join`.
//!
//! ```sh
//! cargo run --release --example join_swarm
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use anyhow::Context;
use floe_node::client::{ReadOptions, StoreProgress};
use floe_protocol::{
    ledger::{Amount, LedgerParameters},
    test_support,
    transfer::Wanted,
};
use floe_testnet::{Cluster, cluster::wait_for_epoch};
use tokio::sync::watch;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run().await
}

/// The example, also run by `tests/examples.rs`.
pub async fn run() -> anyhow::Result<()> {
    // Epochs of six seconds instead of a day.
    let ledger = LedgerParameters { heartbeat_ms: 500, ..LedgerParameters::for_epoch(6_000) };
    let mut cluster = Cluster::builder().nodes(4).shards(16).ledger(ledger).start().await?;
    let client = cluster.client().await?;
    let file = test_support::blob(1, 200_000);
    let (progress, _) = watch::channel(StoreProgress::default());
    let wanted = Wanted { epochs: 50, deletable: true };
    let stored = client.store(file.clone(), wanted, cluster.wallet(), &progress).await?;
    println!("four nodes, and one blob on them: {}", stored.blob);

    let newcomer = cluster.join(Amount::from_wal(1_000)).await?;
    let id = cluster.node_id(newcomer);
    println!("node {id} is registered and has stake: it stands for the next selection");

    // Selected at half of an epoch, it holds its shards from the next one on.
    let running =
        wait_for_epoch(&client, |running| running.committee.member(&id).is_some()).await?;
    let member = running.committee.member(&id).context("it was just there")?;
    println!("epoch {}: it has {} of 16 shards", running.summary.epoch, member.weight());

    // It copies them, checks each sliver against the blob's id, and says which shards are ready.
    let ready = wait_for_epoch(&client, |running| {
        let own = running.committee.member(&id).map_or(&[][..], |member| &member.shards);
        !own.is_empty() && own.iter().all(|shard| running.shards[shard.as_usize()].is_ready())
    });
    println!("epoch {}: all of its shards are ready", ready.await?.summary.epoch);
    let repair = *cluster.node(newcomer).context("it runs")?.repair().borrow();
    println!("{} pairs copied, {} recovered", repair.moved_pairs, repair.recovered_pairs);

    let reader = client.read(stored.blob, ReadOptions::default()).await?;
    anyhow::ensure!(reader.read_to_end().await? == file, "the file came back changed");
    println!("the blob reads as before");
    client.shutdown().await;
    cluster.shutdown().await?;
    Ok(())
}
