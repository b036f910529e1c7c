//! Starts a network from nothing: keys, genesis, four storage nodes, one client that looks at them.
//!
//! You will see the network's chain id, each node's address as it comes up, and what every node
//! says of itself. The same by hand: `floe node init`, `floe genesis`, `floe node run`, `floe health`.
//!
//! ```sh
//! cargo run --release --example run_node
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use floe_node::{
    Client, Node, NodeConfig, NodeHandle,
    client::ClientConfig,
    config::NodePaths,
    key_file::{self, NodeKeys},
};
use floe_protocol::{
    genesis::{Genesis, GenesisMember, NetworkFile},
    ledger::{AccountId, LedgerParameters},
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run().await
}

/// The example, also run by `tests/examples.rs`.
pub async fn run() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let dir = |i: usize| home.path().join(format!("node-{i}"));

    // Every volunteer makes keys and hands the public entry to whoever writes the genesis.
    let mut members = Vec::new();
    for i in 0..4 {
        std::fs::create_dir(dir(i))?;
        let keys = NodeKeys::generate()?;
        keys.create(&NodePaths::below(&dir(i)).key)?;
        let operator = AccountId::new(key_file::generate_key_pair()?.public());
        members.push(GenesisMember::new(&keys.node, &keys.bls, operator, 1_000));
    }
    let genesis = Genesis {
        name: "example".into(),
        n_shards: 16,
        max_blob_bytes: 16 << 20,
        members,
        accounts: Vec::new(),
        faucet: None,
        ledger: LedgerParameters::default(),
        predecessor: None,
    };
    println!("chain id {}", genesis.chain_id());
    let mut network = NetworkFile { genesis, bootstrap: Vec::new() };

    // The first node is where the others knock; from there they find each other.
    let mut nodes: Vec<NodeHandle> = Vec::new();
    for i in 0..4 {
        let listen = vec!["/ip4/127.0.0.1/tcp/0".parse()?];
        let mut config = NodeConfig::new(&dir(i), network.clone(), listen);
        config.limits.loopback_exempt = true;
        let node = Node::start(config).await?;
        let address = node.addresses()[0].to_string();
        println!("node {i} is up at {address}");
        if i == 0 {
            network.bootstrap.push(address);
        }
        nodes.push(node);
    }

    let client = Client::connect(ClientConfig::new(network)).await?;
    for member in client.member_statuses().await {
        let status = member.status?;
        println!(
            "node {}: version {}, {} of 16 shards, {} pairs stored",
            member.node, status.version, status.shards, status.pairs
        );
    }

    client.shutdown().await;
    for node in nodes {
        node.shutdown().await;
    }
    Ok(())
}
