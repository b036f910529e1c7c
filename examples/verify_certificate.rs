//! Verifies a storage certificate with nothing but the genesis file.
//!
//! You will see a certificate of a stored blob accepted, and the same certificate refused for
//! another blob, for another network, and with one bit changed.
//!
//! ```sh
//! cargo run --release --example verify_certificate
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use floe_node::client::StoreProgress;
use floe_protocol::{
    blob::BlobId, certificate::Certificate, genesis::Genesis, ledger::LedgerView, test_support,
};
use floe_testnet::Cluster;
use tokio::sync::watch;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run().await
}

/// The example, also run by `tests/examples.rs`.
pub async fn run() -> anyhow::Result<()> {
    let cluster = Cluster::builder().nodes(4).shards(16).start().await?;
    let client = cluster.client().await?;
    let (progress, _) = watch::channel(StoreProgress::default());
    let blob = test_support::blob(2, 10_000);
    let report = client.store(blob, cluster.writer(), &progress).await?;
    let bytes = report.certificate.to_bytes();
    println!("certificate of {}: {} bytes", report.blob, bytes.len());

    // From here on: no network, just the genesis that everybody has.
    let genesis: Genesis = cluster.network().genesis.clone();
    let view = LedgerView::from_genesis(&genesis)?;
    let certificate = Certificate::from_bytes(&bytes)?;
    certificate.verify(view.committee(), view.chain())?;
    let weight = certificate.weight(view.committee());
    println!("signed by holders of {weight} of {} shards", view.parameters().n_shards);

    let mut other_blob = certificate.clone();
    other_blob.fact.blob = BlobId::new([0; 32]);
    let refused = other_blob.verify(view.committee(), view.chain());
    println!("for another blob: {}", refused.expect_err("it is false"));

    let other_chain = Genesis { name: "another".into(), ..genesis }.chain_id();
    let refused = certificate.verify(view.committee(), &other_chain);
    println!("for another network: {}", refused.expect_err("it is false"));

    let mut changed = bytes;
    *changed.last_mut().expect("not empty") ^= 1;
    let refused = Certificate::from_bytes(&changed)
        .and_then(|certificate| certificate.verify(view.committee(), view.chain()));
    println!("with a bit changed: {}", refused.expect_err("it is false"));

    client.shutdown().await;
    cluster.shutdown().await?;
    Ok(())
}
