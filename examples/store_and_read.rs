//! Stores a file in a swarm, stops more than half of its nodes, and reads the file back.
//!
//! You will see the blob id, what it cost, how many shards confirmed, which nodes were stopped, and
//! that the bytes are the same.
//!
//! ```sh
//! cargo run --release --example store_and_read
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use floe_node::client::{ReadOptions, StoreProgress};
use floe_protocol::{test_support, transfer::Wanted};
use floe_testnet::Cluster;
use tokio::sync::watch;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run().await
}

/// The example, also run by `tests/examples.rs`.
pub async fn run() -> anyhow::Result<()> {
    // Seven storage nodes on loopback, each with its own keys, sockets and store.
    let mut cluster = Cluster::builder().nodes(7).shards(64).start().await?;

    // A light peer: knows the network file and holds no shard.
    let client = cluster.client().await?;
    let file = test_support::blob(1, 1_000_000);
    let (progress, _) = watch::channel(StoreProgress::default());
    // The wallet that the genesis funds pays for two epochs. What may be deleted before its end
    // gives back what was paid for epochs that have not begun.
    let wanted = Wanted { epochs: 2, deletable: true };
    let report = client.store(file.clone(), wanted, cluster.wallet(), &progress).await?;
    println!("stored {} bytes as {}", file.len(), report.blob);
    println!("paid {} until epoch {}", report.paid, report.end);
    println!("{} of 64 shards confirmed", report.confirmed_shards.unwrap_or(0));

    for node in [0, 2, 4, 6] {
        cluster.stop(node).await?;
        println!("stopped node {node}");
    }

    let reader = client.read(report.blob, ReadOptions::default()).await?;
    let read = reader.read_to_end().await?;
    anyhow::ensure!(read == file, "the file came back changed");
    println!("read it back from the three nodes that are left: {} bytes, the same", read.len());

    // A range touches only the rows that cover it.
    let options = ReadOptions { range: Some(500_000..500_010) };
    let range = client.read(report.blob, options).await?.read_to_end().await?;
    anyhow::ensure!(range == file[500_000..500_010], "the range came back changed");
    println!("and ten bytes from its middle: {range:02x?}");

    client.shutdown().await;
    cluster.shutdown().await?;
    Ok(())
}
