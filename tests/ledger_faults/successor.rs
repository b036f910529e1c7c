//! A ledger that has stopped for good, and the network that goes on from it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use floe_node::{
    Client, Node, NodeConfig, NodeError, NodeHandle,
    client::{ClientConfig, ReadOptions, StoreProgress},
};
use floe_protocol::{
    blob::BlobId,
    consensus::Timeouts,
    genesis::{NetworkFile, Predecessor},
    hash::Hash,
    index::{Epoch, Height},
    keys::{ChainId, KeyPair},
    ledger::{BlockHash, LedgerParameters},
    test_support,
    transfer::Wanted,
};
use floe_testnet::Cluster;
use tokio::{sync::watch, time::timeout};

use super::{
    program::{Run, finish, program},
    swarm::DEADLINE,
};

/// They hold three of seven shards: more than a third.
const GONE: [usize; 3] = [1, 3, 6];
const LEFT: [usize; 4] = [0, 2, 4, 5];

fn floe(dir: &Path, arguments: &[&str]) -> Run {
    let child = Command::new(program())
        .current_dir(dir)
        .env("XDG_CONFIG_HOME", dir.join("config"))
        .env_remove("FLOE_NETWORK")
        .env_remove("FLOE_LOG")
        .env_remove("RUST_LOG")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    finish(child.unwrap())
}

async fn store(client: &Client, wallet: &KeyPair, seed: u64) -> (BlobId, Bytes) {
    let content = test_support::blob(seed, 200_000);
    let (progress, _) = watch::channel(StoreProgress::default());
    let wanted = Wanted { epochs: 50, deletable: true };
    let stored = client.store(content.clone(), wanted, wallet, &progress).await.unwrap();
    (stored.blob, content)
}

async fn read(client: &Client, blob: BlobId) -> Vec<u8> {
    let reader = client.read(blob, ReadOptions::default()).await.unwrap();
    reader.read_to_end().await.unwrap()
}

fn config(dir: &Path, network: &NetworkFile, first_state: Option<PathBuf>) -> NodeConfig {
    let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    let mut config = NodeConfig::new(dir, network.clone(), listen);
    config.limits.loopback_exempt = true;
    config.timeouts = Timeouts::LAN;
    config.repair.grace_ms = 100;
    config.repair.retry_min_ms = 100;
    config.first_state = first_state;
    config
}

fn read_network(path: &Path) -> NetworkFile {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Waits until a node has every pair of its shards, and the ledger knows.
async fn whole(node: &NodeHandle) {
    let mut repair = node.repair();
    let committee = node.ledger().state().borrow().committee().clone();
    let weight = committee.member(&node.id()).expect("a member").weight();
    let whole = repair.wait_for(|status| status.complete_shards == weight);
    timeout(DEADLINE, whole).await.expect("repaired in time").unwrap();
}

async fn at_height(node: &NodeHandle, height: u64) {
    let mut state = node.ledger().state();
    let reached = state.wait_for(|state| state.tip().height >= Height::new(height));
    timeout(DEADLINE, reached).await.expect("in time").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_ledger_goes_on_in_a_successor_and_its_blobs_with_it() {
    let rules = LedgerParameters { heartbeat_ms: 200, ..LedgerParameters::default() };
    let builder = Cluster::builder().nodes(7).shards(7).ledger(rules);
    let mut cluster = builder.start().await.unwrap();
    cluster.wait_connected().await.unwrap();
    let client = cluster.client().await.unwrap();
    let (old_blob, old_content) = store(&client, cluster.wallet(), 1).await;
    let dir = tempfile::tempdir().unwrap();
    let network = cluster.dir().join("network.json");
    let ids: Vec<_> = GONE.iter().map(|node| cluster.node_id(*node).to_string()).collect();
    let data_dir = cluster.node_dir(LEFT[0]);
    let genesis = |height: &str| {
        let (network, data_dir) = (network.to_str().unwrap(), data_dir.to_str().unwrap());
        let mut arguments = vec!["--json", "--network", network, "genesis", "--from-state", height];
        arguments.extend(["--data-dir", data_dir, "--without"]);
        arguments.extend(ids.iter().map(String::as_str));
        floe(dir.path(), &arguments)
    };
    genesis("latest").expect_error(1, "node_runs", false);

    for node in GONE {
        cluster.kill(node).await.unwrap();
    }
    // Whatever was decided before reaches all that are left; then no quorum is there any more.
    assert_eq!(read(&client, old_blob).await, old_content, "reads go on");
    drop(client);
    for node in LEFT {
        cluster.stop(node).await.unwrap();
    }
    genesis("1000000").expect_error(3, "height", false);
    let made = genesis("latest").expect(0);
    println!("{}", made.text());
    let made = made.json();
    assert_eq!((made["epoch"].as_u64(), made["ready_shards"].as_u64()), (Some(1), Some(4)));
    genesis("latest").expect_error(1, "file_exists", false);
    let successor = read_network(&dir.path().join("successor.json"));
    let first_state = dir.path().join("successor.json.state");
    assert_eq!(successor.genesis.members, [], "they are in the state");
    let stopped_at = made["height"].as_u64().unwrap();

    let old = config(&data_dir, &read_network(&network), None);
    refuses_others((&data_dir, &successor), (&old, stopped_at)).await;

    // Those who are left start with it; the last of them has no state file and gets it from others.
    let mut nodes: Vec<NodeHandle> = Vec::new();
    for node in LEFT {
        let mut network = successor.clone();
        network.bootstrap = nodes.iter().flat_map(named).collect();
        let first_state = (node != LEFT[3]).then(|| first_state.clone());
        let mut config = config(&cluster.node_dir(node), &network, first_state);
        // The blocks of others may reach one further than another before all stop.
        config.abandon_blocks = true;
        nodes.push(Node::start(config).await.unwrap());
    }
    for node in &nodes {
        at_height(node, 3).await;
        assert_eq!(node.ledger().state().borrow().committee().epoch(), Epoch::new(1));
    }
    let mut network = successor.clone();
    network.bootstrap = nodes.iter().flat_map(named).collect();
    let client = connect(&network).await;
    assert_eq!(read(&client, old_blob).await, old_content, "what was stored before");
    let (new_blob, new_content) = store(&client, cluster.wallet(), 2).await;
    assert_eq!(read(&client, new_blob).await, new_content);
    for node in &nodes {
        whole(node).await;
    }
    drop(client);
    for node in nodes {
        node.shutdown().await;
    }

    // With the old genesis a node is where it was, and with the new one again where it came to.
    assert_eq!(tip(old).await, Height::new(stopped_at));
    assert!(tip(config(&data_dir, &successor, None)).await >= Height::new(3));
}

/// Where a node stands that is started and stopped again.
async fn tip(config: NodeConfig) -> Height {
    let node = Node::start(config).await.unwrap();
    let tip = node.ledger().state().borrow().tip().height;
    node.shutdown().await;
    tip
}

/// A genesis that goes on from another network, or from another block of this one, changes nothing.
async fn refuses_others(
    (data_dir, successor): (&Path, &NetworkFile),
    (old, stopped_at): (&NodeConfig, u64),
) {
    let changes: [fn(&mut Predecessor); 2] = [
        |predecessor| predecessor.chain = ChainId::new(Hash::ZERO),
        |predecessor| predecessor.block = BlockHash::new(Hash::ZERO),
    ];
    for change in changes {
        let mut other = successor.clone();
        change(other.genesis.predecessor.as_mut().unwrap());
        match Node::start(config(data_dir, &other, None)).await {
            Err(NodeError::Adopt(error)) => println!("{error}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(tip(old.clone()).await, Height::new(stopped_at));
}

/// A node's addresses as a network file has them.
fn named(node: &NodeHandle) -> Vec<String> {
    let addresses = node.addresses().into_iter();
    let named = addresses.filter_map(|address| floe_node::network::address_of(&node.id(), address));
    named.map(|address| address.to_string()).collect()
}

async fn connect(network: &NetworkFile) -> Client {
    let mut config = ClientConfig::new(network.clone());
    config.limits.loopback_exempt = true;
    config.trust_genesis = true;
    let client = timeout(Duration::from_secs(60), Client::connect(config)).await;
    client.expect("in time").unwrap()
}
