//! Nodes that lie and nodes that are silent: no read fails, and none waits longer than its hedge.
//!
//! The faulty nodes run under the keys of committee members, on the real network.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use floe_node::{
    client::{Client, ReadOptions, StoreProgress},
    config::NodePaths,
    key_file::NodeKeys,
    network::{self, InboundRequest, NetworkConfig, Role},
};
use floe_protocol::{
    blob::BlobId,
    message::{Limits, Request, Response},
    test_support,
    transfer::Wanted,
};
use floe_testnet::Cluster;
use prometheus_client::registry::Registry;
use tokio::{sync::watch, time::timeout};

/// Far beyond any hedge, far below the time after which a silent request fails by itself.
const DEADLINE: Duration = Duration::from_secs(25);

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Answers reads with a sliver in which one bit is wrong.
    WrongSlivers,
    /// Takes every request and answers none.
    Silent,
}

/// Replaces node `i` of the cluster by a faulty one with the same keys, which serves what the
/// node had stored, changed.
async fn replace(cluster: &mut Cluster, i: usize, fault: Fault, slivers: Vec<Response>) {
    let keys = NodeKeys::open(&NodePaths::below(&cluster.dir().join(format!("node-{i}"))).key);
    cluster.stop(i).await.unwrap();
    let genesis = &cluster.network().genesis;
    let limits = Limits::new(cluster.committee().config());
    let key = keys.unwrap().node;
    let mut config = NetworkConfig::new(key, genesis.chain_id(), limits, Role::StorageNode);
    config.limits.loopback_exempt = true;
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    let bootstrap = cluster.network().bootstrap.iter();
    config.bootstrap = bootstrap.map(|address| address.parse().unwrap()).collect();
    config.committee = cluster.committee().members().iter().map(|member| member.node).collect();
    let (network, mut inbound, _) = network::start(config, &mut Registry::default()).await.unwrap();
    let mut peers = network.peers();
    peers.wait_for(|view| view.connected.len() >= 3).await.unwrap();
    tokio::spawn(async move {
        let _network = network;
        let mut kept = Vec::new();
        let mut next = 0;
        while let Some(InboundRequest { request, reply, .. }) = inbound.requests.recv().await {
            match (fault, request) {
                (Fault::WrongSlivers, Request::ReadSliver { .. }) => {
                    reply.reply(slivers[next % slivers.len()].clone());
                    next += 1;
                }
                _ => kept.push(reply),
            }
        }
    });
}

/// One true sliver response of node `i` with a bit flipped, so that only verification can tell.
async fn changed_sliver(cluster: &Cluster, i: usize, blob: BlobId) -> Response {
    let peer = common::RawPeer::join(cluster).await;
    let pair = peer.pairs_of(cluster.node_id(i), &blob)[0];
    let axis = floe_protocol::encoding::Axis::Primary;
    match peer.ask(cluster.node_id(i), Request::ReadSliver { blob, pair, axis }).await {
        Response::Sliver { proof, sliver } => {
            Response::Sliver { proof, sliver: common::flip(&sliver, 0) }
        }
        other => panic!("{other:?}"),
    }
}

async fn read_with(fault: Fault) {
    let mut cluster = Cluster::builder().nodes(7).shards(64).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    let file = test_support::blob(1, 200_000);
    let (progress, _) = watch::channel(StoreProgress::default());
    let wanted = Wanted { epochs: 2, deletable: false };
    let stored = client.store(file.clone(), wanted, cluster.wallet(), &progress).await.unwrap();
    let id = stored.blob;
    client.shutdown().await;

    for i in [1, 4] {
        let wrong = changed_sliver(&cluster, i, id).await;
        replace(&mut cluster, i, fault, vec![wrong]).await;
    }
    let client: Client = cluster
        .client_with(|config| {
            // Longer than the test may take: what ends the wait is the hedge.
            config.download.give_up_ms = 10 * u64::try_from(DEADLINE.as_millis()).unwrap();
            config.limits.answer_timeout_ms = config.download.give_up_ms;
        })
        .await
        .unwrap();
    for _ in 0..3 {
        let read = async {
            client.read(id, ReadOptions::default()).await.unwrap().read_to_end().await.unwrap()
        };
        let bytes = timeout(DEADLINE, read).await.expect("the hedge ends the wait");
        assert_eq!(bytes, file);
    }
    client.shutdown().await;
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_answer_with_wrong_slivers_are_replaced() {
    read_with(Fault::WrongSlivers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_answer_nothing_are_hedged() {
    read_with(Fault::Silent).await;
}
