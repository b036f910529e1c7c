//! A node loses its disk, comes back, and gets all of its slivers again from the others.
//!
//! You will see how many bytes it fetched for each that it recovered: it asks for single symbols,
//! each with a proof, where that is cheaper than reading whole blobs. Nobody who wrote the blob is
//! needed. `recover_sliver` shows one recovery from inside. By hand: `floe node run --repair`.
//!
//! ```sh
//! cargo run --release --example repair_node
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use anyhow::Context;
use floe_node::client::{ReadOptions, StoreProgress};
use floe_protocol::{message::RepairStatus, test_support, transfer::Wanted};
use floe_testnet::Cluster;
use tokio::sync::watch;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run().await
}

/// The example, also run by `tests/examples.rs`.
pub async fn run() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().nodes(7).shards(64).start().await?;
    let client = cluster.client().await?;
    let file = test_support::blob(1, 4 << 20);
    let (progress, _) = watch::channel(StoreProgress::default());
    let wanted = Wanted { epochs: 2, deletable: true };
    let stored = client.store(file.clone(), wanted, cluster.wallet(), &progress).await?;
    let lost = cluster.weight(3);
    println!("stored {}; node 3 holds {lost} sliver pairs of it", stored.blob);

    cluster.stop(3).await?;
    cluster.wipe(3)?;
    println!("node 3 has lost its disk; it starts again with its keys and nothing else");
    cluster.start(3).await?;

    let mut repair = cluster.node(3).context("it runs")?.repair();
    let back = |status: &RepairStatus| status.recovered_pairs >= u64::from(lost);
    let status = *repair.wait_for(back).await?;
    println!(
        "{} pairs are back: {} bytes of slivers, for {} bytes fetched",
        status.recovered_pairs, status.gained_bytes, status.fetched_bytes
    );

    // With four of the others gone, a read needs what node 3 has recovered.
    for node in [0, 1, 2, 6] {
        cluster.stop(node).await?;
    }
    let reader = client.read(stored.blob, ReadOptions::default()).await?;
    anyhow::ensure!(reader.read_to_end().await? == file, "the file came back changed");
    println!("and the blob reads with nodes 3, 4 and 5 alone");
    client.shutdown().await;
    cluster.shutdown().await?;
    Ok(())
}
