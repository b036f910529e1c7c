//! A node process killed with `kill -9` in the middle of a store loses nothing that it answered
//! for.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, time::Duration};

use floe_node::{
    Client,
    client::{ReadOptions, StoreProgress},
    network::{self, Network, NetworkConfig, Role},
};
use floe_protocol::{
    blob::{BlobHeader, BlobId},
    certificate::ConfirmedFact,
    committee::CommitteeFact,
    encoding::{self, Axis, EncodingConfig},
    index::SliverPairIndex,
    keys::{KeyPair, NodeId},
    ledger::Operation,
    message::{Limits, Request, Response},
    registration::RegistrationId,
    transfer::Wanted,
};
use floe_testnet::{Cluster, content};
use prometheus_client::registry::Registry;
use tokio::{sync::watch, time::timeout};

const DEADLINE: Duration = Duration::from_secs(120);
const WANTED: Wanted = Wanted { epochs: 2, deletable: true };

async fn processes() -> Cluster {
    Cluster::builder()
        .nodes(7)
        .shards(64)
        .processes(true)
        .executable(env!("CARGO_BIN_EXE_floe-testnet"))
        .start()
        .await
        .unwrap()
}

/// A peer that asks nodes directly.
async fn peer(cluster: &Cluster) -> Network {
    let limits = Limits::new(cluster.committee().config());
    let key = KeyPair::from_seed([77; 32]);
    let mut config =
        NetworkConfig::new(key, cluster.network().genesis.chain_id(), limits, Role::LightPeer);
    let bootstrap = cluster.network().bootstrap.iter();
    config.bootstrap = bootstrap.map(|address| address.parse().unwrap()).collect();
    let (network, mut inbound, _) = network::start(config, &mut Registry::default()).await.unwrap();
    tokio::spawn(async move { while inbound.requests.recv().await.is_some() {} });
    let mut peers = network.peers();
    peers.wait_for(|view| !view.connected.is_empty()).await.unwrap();
    network
}

/// Registers a blob on the ledger.
async fn register(client: &Client, header: BlobHeader, wallet: &KeyPair) -> RegistrationId {
    let ledger = client.ledger();
    let max_payment = ledger.quote(&header, 2).await.unwrap().price;
    let operation = Operation::RegisterBlob { header, epochs: 2, deletable: true, max_payment };
    let receipt = ledger.submit(vec![operation], wallet).await.unwrap();
    receipt.id.registration(client.chain(), 0)
}

/// Whether a node serves its sliver of a pair, both axes, as they were encoded.
async fn holds(
    network: &Network,
    node: NodeId,
    blob: BlobId,
    pair: SliverPairIndex,
    slivers: &(bytes::Bytes, bytes::Bytes),
) -> bool {
    for (axis, expected) in [(Axis::Primary, &slivers.0), (Axis::Secondary, &slivers.1)] {
        match network.request(node, Request::ReadSliver { blob, pair, axis }).await.unwrap() {
            Response::Sliver { sliver, .. } => assert_eq!(sliver, *expected, "pair {pair}"),
            Response::Refused(_) => return false,
            other => panic!("{other:?}"),
        }
    }
    true
}

/// The store goes on without the node; what the node had acknowledged is there when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_survives_kill_9_of_a_node_in_its_middle() {
    let mut cluster = processes().await;
    let mut seed = 1;
    let (file, store) = loop {
        let client = cluster.client().await.unwrap();
        let wallet = cluster.wallet().clone();
        let file = content(seed, 8 << 20);
        let (progress, mut watched) = watch::channel(StoreProgress::default());
        let store = {
            let file = file.clone();
            tokio::spawn(async move { client.store(file, WANTED, &wallet, &progress).await })
        };
        // In the middle: slivers have been stored, and not all of them.
        let in_the_middle = watched.wait_for(|progress| progress.stored_bytes > 0);
        let seen = *timeout(DEADLINE, in_the_middle).await.unwrap().unwrap();
        if seen.stored_bytes < seen.total_bytes {
            break (file, store);
        }
        // It was over before this test had its turn.
        timeout(DEADLINE, store).await.unwrap().unwrap().unwrap();
        seed += 1;
        assert!(seed <= 10, "each store is over too soon");
    };
    cluster.kill(3).await.unwrap();

    let report = timeout(DEADLINE, store).await.unwrap().unwrap().unwrap();
    assert!(report.confirmed_shards.unwrap() >= 43);
    let client = cluster.client().await.unwrap();
    let reader = client.read(report.blob, ReadOptions::default()).await.unwrap();
    assert_eq!(reader.read_to_end().await.unwrap(), file);
    cluster.shutdown().await.unwrap();
}

/// Killed at several moments, a node has every sliver that it had answered `Stored` for.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_still_has_every_sliver_that_it_acknowledged() {
    let mut cluster = processes().await;
    let network = peer(&cluster).await;
    let client = cluster.client().await.unwrap();
    let node = cluster.node_id(3);
    let committee = cluster.committee().clone();
    let member = committee.member(&node).unwrap();
    for (round, stored_before_kill) in [1, 4, member.shards.len()].into_iter().enumerate() {
        let blob = content(round as u64 + 10, 2 << 20);
        let config = EncodingConfig::new(64).unwrap();
        let encoded = encoding::encode(config, blob, std::num::NonZeroUsize::MIN).unwrap();
        let id = encoded.id();
        let registration = register(&client, *encoded.header(), cluster.wallet()).await;
        let table = encoded.table().to_bytes().into();
        let request = Request::Table { registration, header: *encoded.header(), table };
        let answer = network.request(node, request).await.unwrap();
        assert!(matches!(answer, Response::TableStored { .. }), "{answer:?}");

        let own: Vec<_> = member.shards.iter().map(|shard| id.pair_of(*shard, 64)).collect();
        let mut acknowledged = BTreeSet::new();
        for pair in &own[..stored_before_kill] {
            let (primary, secondary) = encoded.pair(*pair);
            let request = Request::StoreSlivers { registration, pair: *pair, primary, secondary };
            let answer = network.request(node, request).await.unwrap();
            assert_eq!(answer, Response::Stored { pair: *pair });
            acknowledged.insert(*pair);
        }
        cluster.kill(3).await.unwrap();
        cluster.start(3).await.unwrap();

        for pair in &acknowledged {
            assert!(holds(&network, node, id, *pair, &encoded.pair(*pair)).await, "{pair} lost");
        }
        let confirm = Request::Confirm { registration };
        match network.request(node, confirm).await.unwrap() {
            Response::Missing { pairs } => {
                let missing: BTreeSet<_> = pairs.into_iter().collect();
                let expected: BTreeSet<_> = own.iter().copied().collect();
                assert_eq!(missing, &expected - &acknowledged);
            }
            Response::Confirmed { epoch, signature } => {
                assert_eq!(acknowledged.len(), own.len());
                assert_eq!(epoch, committee.epoch());
                let fact = ConfirmedFact { epoch, blob: id, registration };
                assert!(fact.verify(client.chain(), &member.bls_key, &signature));
            }
            other => panic!("{other:?}"),
        }
    }
    network.shutdown().await;
    cluster.shutdown().await.unwrap();
}
