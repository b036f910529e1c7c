//! Verifies what a node says of an account, trusting nobody: header, certificate and path.
//!
//! You will see a balance proven by one answer of one node, and what becomes of that answer with a
//! changed balance, a changed header, and too few signatures: all are refused.
//!
//! ```sh
//! cargo run --release --example light_client
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::time::SystemTime;

use anyhow::{Context, bail, ensure};
use floe_node::network::{self, Network, NetworkConfig, Role};
use floe_protocol::{
    keys::{KeyPair, NodeId},
    ledger::{Account, AccountId, Amount, Entry, Key, Record, StateProof, Timestamp},
    light::{CertifiedHeader, LightClient, OldRoot, Start},
    message::{LedgerRequest, LedgerResponse, Limits, Request, Response},
};
use floe_testnet::Cluster;
use prometheus_client::registry::Registry;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run().await
}

/// The example, also run by `tests/examples.rs`.
pub async fn run() -> anyhow::Result<()> {
    let cluster = Cluster::builder().nodes(4).shards(16).start().await?;
    let account = AccountId::new(cluster.wallet().public());
    let key = Key::Account(account);
    let node = cluster.node(2).context("it runs")?;
    node.ledger().state().wait_for(|state| state.tip().height.get() > 0).await?;
    let network = join(&cluster).await?;
    let (header, proof) = ask(&network, cluster.node_id(2), &key).await?;
    println!(
        "one node answered: block {}, a path of {} bytes",
        header.header.height,
        proof.path.len()
    );

    // From here on nobody is asked: the genesis says whose signatures count.
    let ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis();
    let now = Timestamp::from_ms(u64::try_from(ms)?);
    let genesis = &cluster.network().genesis;
    let start = Start::Genesis { started: None };
    let mut light = LightClient::new(genesis, &start, OldRoot::Refuse, now)?;
    let verified = light.accept(header.clone(), now)?;
    let balance = match verified.fact(&key, &proof)? {
        Some(Record::Account(Account { balance, .. })) => balance,
        other => bail!("not the record of an account: {other:?}"),
    };
    println!("signed by a quorum, and the path leads to it: the account has {balance}");
    ensure!(balance > Amount::ZERO, "the genesis funds it");

    let record = Record::Account(Account { balance: Amount::from_wal(1 << 40), nonce: 0 });
    let richer = Entry { key: key.clone(), record };
    let richer = StateProof { value: Some(richer.to_bytes()), ..proof.clone() };
    let refused = verified.fact(&key, &richer);
    println!("with a changed balance: {}", refused.expect_err("it is false"));

    let absent = StateProof { value: None, ..proof };
    let refused = verified.fact(&key, &absent);
    println!("as if there were no such account: {}", refused.expect_err("it is false"));

    let mut forged = header.clone();
    forged.header.state_root = Key::Summary.hash();
    let refused = light.accept(forged, now);
    println!("with a changed header: {}", refused.expect_err("it is false"));

    let mut unsigned = header;
    unsigned.certificate.signatures.truncate(1);
    let mut stranger = LightClient::new(genesis, &start, OldRoot::Refuse, now)?;
    let refused = stranger.accept(unsigned, now);
    println!("with one signature: {}", refused.expect_err("it is false"));

    network.shutdown().await;
    cluster.shutdown().await?;
    Ok(())
}

/// Joins the network as a peer that only asks.
async fn join(cluster: &Cluster) -> anyhow::Result<Network> {
    let genesis = &cluster.network().genesis;
    let limits = Limits::new(cluster.committee().config());
    let key = KeyPair::from_seed([5; 32]);
    let mut config = NetworkConfig::new(key, genesis.chain_id(), limits, Role::LightPeer);
    let bootstrap = cluster.network().bootstrap.iter();
    config.bootstrap = bootstrap.map(|address| address.parse()).collect::<Result<_, _>>()?;
    let (network, ..) = network::start(config, &mut Registry::default()).await?;
    Ok(network)
}

/// What one node says of a key.
async fn ask(
    network: &Network,
    node: NodeId,
    key: &Key,
) -> anyhow::Result<(CertifiedHeader, StateProof)> {
    let request = LedgerRequest::Facts { height: None, keys: vec![key.clone()] };
    let answer = network.request(node, Request::Ledger(request)).await?;
    let Response::Ledger(answer) = answer else { bail!("another answer: {answer:?}") };
    let LedgerResponse::Facts { header, proofs } = *answer else { bail!("not facts") };
    Ok((header.context("no block yet")?, proofs.into_iter().next().context("no proof")?))
}
