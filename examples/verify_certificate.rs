//! Verifies a storage certificate that the ledger has, with nothing but the genesis file.
//!
//! You will see a certificate taken from a block of the ledger and accepted, and the same one
//! refused for another blob, for another network, and with one bit changed.
//!
//! ```sh
//! cargo run --release --example verify_certificate
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use anyhow::Context;
use floe_node::{Client, client::StoreProgress};
use floe_protocol::{
    blob::BlobId,
    certificate::Certificate,
    genesis::Genesis,
    ledger::{Operation, TransactionId},
    registration::RegistrationId,
    test_support,
    transfer::Wanted,
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
    let (blob, wanted) = (test_support::blob(2, 10_000), Wanted { epochs: 2, deletable: false });
    let report = client.store(blob, wanted, cluster.wallet(), &progress).await?;
    let certification = report.certification.context("it was certified now")?;
    client.shutdown().await;

    // A third party who only knows the transaction: whoever it asks, the block proves itself.
    let client = cluster.client().await?;
    let (registration, bytes) = committed(&client, certification).await?;
    println!("certificate of {}: {} bytes", report.blob, bytes.len());
    // The committee of the epoch; the client follows the ledger to it from the genesis.
    let committee = client.committee();
    client.shutdown().await;

    // From here on nobody is asked.
    let genesis: Genesis = cluster.network().genesis.clone();
    let chain = genesis.chain_id();
    let certificate = Certificate::from_bytes(&bytes)?;
    certificate.verify(&committee, &chain)?;
    anyhow::ensure!(certificate.fact.blob == report.blob, "of the blob that was stored");
    anyhow::ensure!(certificate.fact.registration == registration, "of its registration");
    let weight = certificate.weight(&committee);
    println!("signed by holders of {weight} of {} shards", committee.n_shards());

    let mut other_blob = certificate.clone();
    other_blob.fact.blob = BlobId::new([0; 32]);
    let refused = other_blob.verify(&committee, &chain);
    println!("for another blob: {}", refused.expect_err("it is false"));

    let other_chain = Genesis { name: "another".into(), ..genesis }.chain_id();
    let refused = certificate.verify(&committee, &other_chain);
    println!("for another network: {}", refused.expect_err("it is false"));

    let mut changed = bytes;
    *changed.last_mut().expect("not empty") ^= 1;
    let refused = Certificate::from_bytes(&changed)
        .and_then(|certificate| certificate.verify(&committee, &chain));
    println!("with a bit changed: {}", refused.expect_err("it is false"));

    cluster.shutdown().await?;
    Ok(())
}

/// The certificate in a committed transaction, and what it certifies.
async fn committed(
    client: &Client,
    id: TransactionId,
) -> anyhow::Result<(RegistrationId, Vec<u8>)> {
    let found = client.ledger().transaction(id).await?.context("it was committed")?;
    println!("committed in block {}", found.header.height);
    match found.transaction.transaction.operations.into_iter().next() {
        Some(Operation::CertifyBlob { registration, certificate }) => {
            Ok((registration, certificate))
        }
        other => anyhow::bail!("certifies nothing: {other:?}"),
    }
}
