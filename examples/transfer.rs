//! Sends WAL from one wallet to another, and proves that it arrived.
//!
//! You will see both balances before and after, each proven by a header that a quorum of the
//! committee signed, the receipt, and a transfer that is refused because the sender has too little.
//!
//! ```sh
//! cargo run --release --example transfer
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use anyhow::ensure;
use floe_node::{client::LedgerClient, key_file::generate_key_pair};
use floe_protocol::{
    keys::KeyPair,
    ledger::{AccountId, Amount, Operation},
};
use floe_testnet::Cluster;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run().await
}

/// The example, also run by `tests/examples.rs`.
pub async fn run() -> anyhow::Result<()> {
    let cluster = Cluster::builder().nodes(4).shards(16).start().await?;
    let client = cluster.client().await?;
    let ledger = client.ledger();

    // A local swarm's genesis funds one wallet; the other one is new: the ledger has never heard
    // of it, which is proven like everything else.
    let (rich, new) = (cluster.wallet(), generate_key_pair()?);
    let before = (balance(ledger, rich).await?, balance(ledger, &new).await?);
    println!("before: {} and {}", before.0, before.1);

    let amount: Amount = "12.5 WAL".parse()?;
    let receipt = ledger.submit(vec![transfer(&new, amount)], rich).await?;
    println!("transaction {} is in block {}, fee {}", receipt.id, receipt.height(), receipt.fee);

    let after = (balance(ledger, rich).await?, balance(ledger, &new).await?);
    println!("after:  {} and {}", after.0, after.1);
    ensure!(after.1 == amount, "it has arrived");
    let moved = before.0.checked_sub(after.0).and_then(|spent| spent.checked_sub(receipt.fee));
    ensure!(moved == Some(amount), "nothing was made or lost");

    // A refused transaction costs nothing, not even its fee.
    let refused = ledger.submit(vec![transfer(rich, Amount::from_wal(13))], &new).await;
    println!("back again with a bit more: {}", refused.expect_err("it has too little"));
    ensure!(balance(ledger, &new).await? == amount, "nothing was paid");

    client.shutdown().await;
    cluster.shutdown().await?;
    Ok(())
}

fn transfer(to: &KeyPair, amount: Amount) -> Operation {
    Operation::Transfer { to: AccountId::new(to.public()), amount }
}

async fn balance(ledger: &LedgerClient, key: &KeyPair) -> anyhow::Result<Amount> {
    Ok(ledger.balance(AccountId::new(key.public())).await?.value)
}
