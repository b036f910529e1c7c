//! Clusters: nodes in this process and as processes, restarts from a directory.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::{path::Path, time::Duration};

use floe_node::client::{ReadOptions, StoreProgress};
use floe_protocol::{
    blob::BlobId,
    ledger::{Amount, LedgerParameters},
    transfer::Wanted,
};
use floe_testnet::{Cluster, ClusterBuilder, NodeState, cluster::wait_for_epoch, content};
use tokio::{sync::watch, time::timeout};

const BLOB_BYTES: usize = 100_000;
/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(180);

fn small() -> ClusterBuilder {
    Cluster::builder().nodes(4).shards(7).executable(env!("CARGO_BIN_EXE_floe-testnet"))
}

async fn store(cluster: &Cluster, seed: u64) -> BlobId {
    let client = cluster.client().await.unwrap();
    let progress = watch::Sender::new(StoreProgress::default());
    let blob = content(seed, BLOB_BYTES);
    let wanted = Wanted { epochs: 50, deletable: true };
    let stored = client.store(blob, wanted, cluster.wallet(), &progress).await.unwrap();
    client.shutdown().await;
    stored.blob
}

async fn read(cluster: &Cluster, blob: BlobId) -> Vec<u8> {
    let client = cluster.client().await.unwrap();
    let reader = client.read(blob, ReadOptions::default()).await.unwrap();
    let read = reader.read_to_end().await.unwrap();
    client.shutdown().await;
    read
}

async fn survives_the_loss_of_a_node(builder: ClusterBuilder) {
    let mut cluster = builder.start().await.unwrap();
    let weights: u16 = (0..4).map(|node| cluster.weight(node)).sum();
    assert_eq!(weights, 7);
    let blob = store(&cluster, 1).await;

    cluster.stop(0).await.unwrap();
    assert_eq!(read(&cluster, blob).await, content(1, BLOB_BYTES));
    let error = cluster.stop(0).await.unwrap_err().to_string();
    assert_eq!(error, "node 0 is not running: stopped");
    cluster.start(0).await.unwrap();
    cluster.wait_connected().await.unwrap();

    cluster.kill(2).await.unwrap();
    assert_eq!(read(&cluster, blob).await, content(1, BLOB_BYTES));
    let status = cluster.status();
    assert_eq!(status.nodes[2].state, NodeState::Killed);
    assert_eq!(status.running_shards, 7 - cluster.weight(2));
    let error = cluster.start(0).await.unwrap_err().to_string();
    assert_eq!(error, "node 0 is running already");
    cluster.start(2).await.unwrap();
    cluster.wait_connected().await.unwrap();

    let error = cluster.kill(4).await.unwrap_err().to_string();
    assert_eq!(error, "no node 4: this swarm has nodes 0 to 3");
    assert!(cluster.status().nodes.iter().all(|node| node.connected == 3));
    assert_eq!(read(&cluster, blob).await, content(1, BLOB_BYTES));
    let dir = cluster.dir().to_owned();
    cluster.shutdown().await.unwrap();
    assert!(!dir.exists());
}

#[tokio::test]
async fn nodes_in_this_process_come_and_go() {
    survives_the_loss_of_a_node(small()).await;
}

#[tokio::test]
async fn nodes_as_processes_come_and_go() {
    survives_the_loss_of_a_node(small().processes(true)).await;
}

#[tokio::test]
async fn configuration_reaches_the_nodes_of_this_process() {
    let builder = small().configure(|node, config| config.quota_bytes = (10 + node as u64) << 20);
    let cluster = builder.start().await.unwrap();
    let usage = cluster.node(3).unwrap().usage();
    assert_eq!(usage.quota_bytes, 13 << 20);
    assert_eq!(cluster.node(3).unwrap().id(), cluster.node_id(3));
    cluster.shutdown().await.unwrap();
    let both = small().processes(true).configure(|_, _| {}).start().await;
    assert!(both.unwrap_err().to_string().contains("cannot be configured"));
}

#[tokio::test]
async fn a_swarm_starts_again_from_its_directory() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("swarm");
    let cluster = small().dir(&dir).start().await.unwrap();
    let blob = store(&cluster, 2).await;
    let (network, ids) =
        (cluster.network().clone(), (0..4).map(|i| cluster.node_id(i)).collect::<Vec<_>>());
    check_env_line(&cluster.env_line(), &dir);
    let twice = small().dir(&dir).start().await.unwrap_err().to_string();
    assert!(twice.contains("a swarm is running in"), "{twice}");
    cluster.shutdown().await.unwrap();

    let other = small().nodes(5).dir(&dir).start().await.unwrap_err().to_string();
    assert!(other.contains("4 nodes and 7 shards"), "{other}");
    let again = Cluster::builder().dir(&dir).quic(true).start().await.unwrap();
    assert_eq!(again.network().genesis, network.genesis);
    assert_eq!((0..4).map(|i| again.node_id(i)).collect::<Vec<_>>(), ids);
    // TCP ports are the same; QUIC was not there before.
    for address in &network.bootstrap {
        assert!(again.network().bootstrap.contains(address), "{address}");
    }
    assert_eq!(again.network().bootstrap.len(), 8);
    assert_eq!(read(&again, blob).await, content(2, BLOB_BYTES));
    again.shutdown().await.unwrap();
    assert!(dir.join("network.json").exists());
}

fn check_env_line(line: &str, dir: &Path) {
    let dir = dir.canonicalize().unwrap();
    let dir = dir.display();
    let expected = format!("export FLOE_NETWORK={dir}/network.json FLOE_WALLET={dir}/wallet.key");
    assert_eq!(line, expected);
}

#[tokio::test]
async fn a_node_joins_loses_its_disk_and_is_found_again_with_its_swarm() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("swarm");
    let rules = LedgerParameters { heartbeat_ms: 500, ..LedgerParameters::for_epoch(6_000) };
    let mut cluster = small().dir(&dir).ledger(rules).start().await.unwrap();
    let blob = store(&cluster, 3).await;
    let joined = cluster.join(Amount::from_wal(4_000)).await.unwrap();
    assert_eq!((joined, cluster.nodes(), cluster.weight(joined)), (4, 5, 0));
    let id = cluster.node_id(joined);
    let client = cluster.client().await.unwrap();
    let serves = wait_for_epoch(&client, |running| {
        let (shards, ready) = running.shards_of(&id);
        shards > 0 && shards == ready
    });
    let running = timeout(DEADLINE, serves).await.expect("it is selected").unwrap();
    assert_eq!(
        running.summary.supply.total().unwrap(),
        cluster.network().genesis.supply().unwrap()
    );

    let refused = cluster.wipe(joined).unwrap_err().to_string();
    assert_eq!(refused, "node 4 is running");
    cluster.stop(joined).await.unwrap();
    cluster.wipe(joined).unwrap();
    assert!(!cluster.node_dir(joined).join("store").exists());
    cluster.start(joined).await.unwrap();
    let mut repair = cluster.node(joined).unwrap().repair();
    let pairs = repair.wait_for(|status| status.moved_pairs + status.recovered_pairs > 0);
    timeout(DEADLINE, pairs).await.expect("it is refilled").unwrap();

    cluster.leave(joined).await.unwrap();
    let again = cluster.leave(joined).await.unwrap_err().to_string();
    assert_eq!(again, "node 4 has no stake");
    let free = wait_for_epoch(&client, |running| !running.needs(&id));
    timeout(DEADLINE, free).await.expect("nobody needs it any more").unwrap();
    cluster.stop(joined).await.unwrap();
    assert_eq!(read(&cluster, blob).await, content(3, BLOB_BYTES));
    client.shutdown().await;
    cluster.shutdown().await.unwrap();

    let cluster = small().dir(&dir).start().await.unwrap();
    assert_eq!((cluster.nodes(), cluster.node_id(joined)), (5, id));
    cluster.shutdown().await.unwrap();
}
