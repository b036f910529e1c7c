//! What a storage node gives to those who repair: symbols, whole pairs, attestations; to whom, how
//! much of it, and what becomes of damage that it finds in its own store.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use common::{Lie, RawPeer, WANTED, Written, flip};
use floe_node::{
    client::{ReadOptions, StoreProgress},
    config::NodePaths,
    key_file::NodeKeys,
    network::{self, NetworkConfig, Role},
};
use floe_protocol::{
    blob::BlobId,
    committee::CommitteeFact,
    encoding::{self, Axis},
    genesis::NetworkFile,
    inconsistency::InconsistencyProof,
    index::{ShardIndex, SliverIndex, SliverPairIndex, SymbolIndex},
    invalidity::InvalidityFact,
    keys::{KeyPair, NodeId},
    message::{InvalidReason, Limits, MAX_PAIRS, Refusal, Request, Response, StoredPair},
    test_support,
};
use floe_storage::{Store, StoreConfig};
use floe_testnet::Cluster;
use prometheus_client::registry::Registry;
use tokio::{sync::watch, task::JoinSet, time::timeout};

const DEADLINE: Duration = Duration::from_secs(60);
const AXES: [Axis; 2] = [Axis::Primary, Axis::Secondary];

fn refused(refusal: Refusal) -> Response {
    Response::Refused(refusal)
}

/// A peer with the key of member `i`, whose node stops.
async fn member(cluster: &mut Cluster, i: usize) -> RawPeer {
    let paths = NodePaths::below(&cluster.dir().join(format!("node-{i}")));
    let key = NodeKeys::open(&paths.key).unwrap().node;
    cluster.stop(i).await.unwrap();
    RawPeer::join_with_key(cluster, key, Role::LightPeer).await
}

/// The value of a counter of a node.
async fn counter(cluster: &Cluster, node: usize, name: &str) -> u64 {
    let metrics = cluster.metrics(node).await.unwrap();
    let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("{name}_total ")));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
}

/// Runs all side by side.
async fn all<T: Send + 'static>(
    asks: impl Iterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let tasks: Vec<_> = asks.map(tokio::spawn).collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

fn all_symbols(blob: BlobId, pair: SliverPairIndex, axis: Axis, n_shards: u16) -> Request {
    let targets = (0..n_shards).map(SymbolIndex::new).collect();
    Request::ReadSymbols { blob, pair, axis, targets }
}

#[tokio::test(flavor = "multi_thread")]
async fn symbols_of_true_slivers_recover_every_other() {
    let cluster = Cluster::builder().nodes(4).shards(16).start().await.unwrap();
    let peer = RawPeer::join(&cluster).await;
    let config = peer.config();
    let blob = Written::honest(config, test_support::blob(1, 50_000));
    peer.store(&blob, cluster.wallet(), WANTED).await.unwrap();
    let id = blob.id();

    // Symbols of all slivers of one axis make every sliver of the other.
    let targets = [0, 3, 15].map(SymbolIndex::new);
    for axis in AXES {
        let mut symbols: BTreeMap<SymbolIndex, Vec<(SliverIndex, Bytes)>> = BTreeMap::new();
        for pair in (0..16).map(SliverPairIndex::new) {
            let request = Request::ReadSymbols { blob: id, pair, axis, targets: targets.to_vec() };
            let answer = peer.ask(peer.holder_of(pair, &id), request).await;
            let Response::Symbols(answer) = answer else { panic!("{answer:?}") };
            for symbol in answer.verify(config, (&id, pair, axis), &targets).unwrap() {
                let (line, bytes) = (symbol.line(), symbol.symbol.clone());
                symbols.entry(symbol.index).or_default().push((line, bytes));
            }
        }
        for (target, symbols) in symbols {
            let line = (axis.other(), SliverIndex::new(target.get()));
            let sliver = encoding::recover(&blob.layout, &blob.table, line, &symbols).unwrap();
            let (primary, secondary) = &blob.pairs[line.0.pair(line.1, 16).as_usize()];
            let expected = if line.0 == Axis::Primary { primary } else { secondary };
            assert!(sliver == *expected, "{line:?}");
        }
    }

    // What a node has not, and what nobody has.
    let node = cluster.node_id(0);
    let foreign = { 0..16 }.map(SliverPairIndex::new);
    let foreign = { foreign }.find(|pair| peer.holder_of(*pair, &id) != node).unwrap();
    for (blob, pair) in [(id, foreign), (BlobId::new([3; 32]), SliverPairIndex::new(2))] {
        for axis in AXES {
            let answer = peer.ask(node, all_symbols(blob, pair, axis, 16)).await;
            assert_eq!(answer, refused(Refusal::NotFound));
        }
    }
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sliver_is_expanded_once_however_many_ask() {
    let mut cluster = Cluster::builder().nodes(4).shards(16).start().await.unwrap();
    let peer = RawPeer::join(&cluster).await;
    let blob = Written::honest(peer.config(), test_support::blob(2, 600_000));
    peer.store(&blob, cluster.wallet(), WANTED).await.unwrap();
    let node = cluster.node_id(0);
    let pair = peer.pairs_of(node, &blob.id())[0];
    let member = member(&mut cluster, 3).await;
    let requests = (0..10).map(|place| {
        let (network, blob) = (member.network.clone(), blob.id());
        let targets = vec![SymbolIndex::new(place)];
        let request = Request::ReadSymbols { blob, pair, axis: Axis::Secondary, targets };
        async move { network.request(node, request).await.unwrap() }
    });
    for answer in all(requests).await {
        assert!(matches!(answer, Response::Symbols(_)), "{answer:?}");
    }
    let expanded = counter(&cluster, 0, "storage_symbol_expanded_bytes").await;
    assert_eq!(expanded, 16 * blob.layout.symbol_bytes() as u64);
    assert_eq!(counter(&cluster, 0, "storage_symbol_requests").await, 10);
    cluster.shutdown().await.unwrap();
}

/// Strangers have a budget, each and together; members have their own.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_that_flood_are_told_to_wait_and_members_and_readers_are_served() {
    let cluster = Cluster::builder().nodes(4).shards(16);
    // What nobody has spent is all that strangers get.
    let mut cluster = cluster
        .configure(|_, config| config.service.stranger_symbol_bytes_per_second = 1)
        .start()
        .await
        .unwrap();
    let peer = RawPeer::join(&cluster).await;
    let blob = Written::honest(peer.config(), test_support::blob(3, 4_000_000));
    peer.store(&blob, cluster.wallet(), WANTED).await.unwrap();
    let node = cluster.node_id(0);
    let pairs = peer.pairs_of(node, &blob.id());
    let mut strangers = vec![peer];
    for seed in 0..2 {
        let key = KeyPair::from_seed([200 + seed; 32]);
        strangers.push(RawPeer::join_with_key(&cluster, key, Role::LightPeer).await);
    }
    let member = member(&mut cluster, 3).await;

    // Every sliver, expanded again and again, until nobody gets any more.
    let flood = |stranger: &RawPeer| {
        let (network, pairs, id) = (stranger.network.clone(), pairs.clone(), blob.id());
        async move {
            let (mut served, mut busy) = (0_usize, 0_usize);
            while busy < 20 {
                let (pair, axis) = (pairs[served % pairs.len()], AXES[served % 2]);
                match network.request(node, all_symbols(id, pair, axis, 16)).await.unwrap() {
                    Response::Symbols(_) => served += 1,
                    Response::Refused(Refusal::Busy { retry_after_ms }) => {
                        assert!(retry_after_ms > 0);
                        busy += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            served
        }
    };
    let served = timeout(DEADLINE, all(strangers.iter().map(flood))).await;
    let served: usize = served.expect("the budget ends").into_iter().sum();
    let expanded = 16 * blob.layout.symbol_bytes();
    assert!(served * expanded <= 2 * (6 << 20), "{served} answers of {expanded} bytes");

    for pair in &pairs {
        for axis in AXES {
            let answer = member.ask(node, all_symbols(blob.id(), *pair, axis, 16)).await;
            assert!(matches!(answer, Response::Symbols(_)), "{answer:?}");
            let read = Request::ReadSliver { blob: blob.id(), pair: *pair, axis };
            let read = strangers[0].ask(node, read).await;
            assert!(matches!(read, Response::Sliver { .. }), "{read:?}");
        }
    }
    assert!(counter(&cluster, 0, "storage_symbol_requests_busy").await >= 60);
    cluster.shutdown().await.unwrap();
}

/// Asks all nodes for all symbols of one sliver after the other, heeds nothing, and comes back by
/// a new connection when it is cut off. Never ends by itself.
async fn stranger(
    network_file: Arc<NetworkFile>,
    seed: u8,
    (blobs, told): (Arc<Vec<BlobId>>, watch::Sender<usize>),
) {
    const LANES: usize = 16;
    let committee = Arc::new(network_file.genesis.committee().unwrap());
    let n_shards = committee.n_shards();
    loop {
        let key = KeyPair::from_seed([seed; 32]);
        let chain = network_file.genesis.chain_id();
        let limits = Limits::new(committee.config());
        let mut config = NetworkConfig::new(key, chain, limits, Role::LightPeer);
        let bootstrap = network_file.bootstrap.iter();
        config.bootstrap = bootstrap.map(|address| address.parse().unwrap()).collect();
        config.committee = committee.members().iter().map(|member| member.node).collect();
        let (network, _inbound, _) =
            network::start(config, &mut Registry::default()).await.unwrap();
        let mut lanes = JoinSet::new();
        for lane in 0..LANES * committee.members().len() {
            let (network, committee) = (network.clone(), Arc::clone(&committee));
            let (blobs, told) = (Arc::clone(&blobs), told.clone());
            lanes.spawn(async move {
                let member = &committee.members()[lane % committee.members().len()];
                for count in lane.. {
                    let blob = blobs[count % blobs.len()];
                    let shard = member.shards[count % member.shards.len()];
                    let pair = blob.pair_of(shard, n_shards);
                    let request = all_symbols(blob, pair, AXES[count % 2], n_shards);
                    match network.request(member.node, request).await {
                        Ok(Response::Refused(Refusal::Busy { .. })) => {
                            told.send_modify(|count| *count += 1);
                        }
                        Ok(_) => {}
                        Err(_) => return,
                    }
                }
            });
        }
        lanes.join_next().await;
        lanes.shutdown().await;
        network.shutdown().await;
    }
}

/// A stranger that never heeds `Busy` is not heard for a while, by a new connection neither; whoever
/// else asks is.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_heed_busy_is_not_heard() {
    let cluster = Cluster::builder().nodes(4).shards(16);
    let cluster = cluster
        .configure(|_, config| config.service.stranger_symbol_bytes_per_second = 1)
        .start()
        .await
        .unwrap();
    let reader = RawPeer::join(&cluster).await;
    let blob = Written::honest(reader.config(), test_support::blob(3, 4_000_000));
    reader.store(&blob, cluster.wallet(), WANTED).await.unwrap();
    let (node, key) = (cluster.node_id(0), KeyPair::from_seed([201; 32]));
    let pair = reader.pairs_of(node, &blob.id())[0];
    let stranger = RawPeer::join_with_key(&cluster, key.clone(), Role::LightPeer).await;
    let flood = || async {
        loop {
            let asks = (0..32).map(|_| {
                let network = stranger.network.clone();
                let request = all_symbols(blob.id(), pair, Axis::Primary, 16);
                async move { network.request(node, request).await }
            });
            if all(asks).await.iter().any(Result::is_err) {
                return;
            }
        }
    };
    let read = Request::ReadSliver { blob: blob.id(), pair, axis: Axis::Primary };
    // Each cool-down is longer than the one before: sooner or later one is met.
    let unheard = async {
        loop {
            flood().await;
            if stranger.network.request(node, read.clone()).await.is_err() {
                return;
            }
        }
    };
    timeout(DEADLINE, unheard).await.expect("it is left to cool down");
    assert!(counter(&cluster, 0, "storage_symbol_cool_downs").await >= 1);
    let heard = reader.ask(node, read).await;
    assert!(matches!(heard, Response::Sliver { .. }), "{heard:?}");
    cluster.shutdown().await.unwrap();
}

/// Strangers that do not heed `Busy` keep nobody else: a node with an empty disk gets all of it back,
/// and whoever reads meanwhile reads.
#[tokio::test(flavor = "multi_thread")]
async fn under_a_flood_of_strangers_repair_finishes_and_reads_succeed() {
    let mut cluster = Cluster::builder().nodes(4).shards(16).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    let progress = watch::Sender::new(StoreProgress::default());
    let files: Vec<_> = (1..=3).map(|seed| test_support::blob(seed, 900_000)).collect();
    let mut ids = Vec::new();
    for file in &files {
        let stored = client.store(file.clone(), WANTED, cluster.wallet(), &progress).await;
        ids.push(stored.unwrap().blob);
    }
    let network_file = Arc::new(cluster.network().clone());
    let blobs = Arc::new(ids.clone());
    let (told, mut busy) = watch::channel(0);
    let mut strangers = JoinSet::new();
    for number in 0..10 {
        let asks = (Arc::clone(&blobs), told.clone());
        strangers.spawn(stranger(Arc::clone(&network_file), 150 + number, asks));
    }
    let flooded = timeout(DEADLINE, busy.wait_for(|count| *count >= 200)).await;
    flooded.expect("strangers go on when they are told to wait").unwrap();

    cluster.stop(3).await.unwrap();
    cluster.wipe(3).unwrap();
    cluster.start(3).await.unwrap();
    let own = u64::from(cluster.weight(3)) * files.len() as u64;
    let mut status = cluster.node(3).unwrap().repair();
    let repaired = status.wait_for(|status| status.recovered_pairs + status.moved_pairs >= own);
    let mut repaired = std::pin::pin!(timeout(DEADLINE, repaired));
    let mut reads = 0;
    loop {
        let (id, file) = (ids[reads % ids.len()], &files[reads % files.len()]);
        let read = async {
            client.read(id, ReadOptions::default()).await.unwrap().read_to_end().await.unwrap()
        };
        let mut read = std::pin::pin!(read);
        let is_over = tokio::select! {
            bytes = &mut read => {
                assert!(bytes == *file);
                false
            }
            done = &mut repaired => {
                done.expect("repair finishes").unwrap();
                assert!(read.await == *file);
                true
            }
        };
        reads += 1;
        if is_over {
            break;
        }
    }
    assert!(strangers.try_join_next().is_none(), "they go on to the end");
    strangers.shutdown().await;
    client.shutdown().await;
    cluster.shutdown().await.unwrap();
}

/// Asks for pairs of a shard until all blobs have been looked up; how many answers it took.
async fn read_pairs(
    peer: &RawPeer,
    node: NodeId,
    shard: ShardIndex,
    blobs: &[BlobId],
) -> (Vec<StoredPair>, usize) {
    let (mut found, mut answers, mut rest) = (Vec::new(), 0, blobs);
    while !rest.is_empty() {
        let request = Request::ReadPairs { shard, blobs: rest.to_vec() };
        let Response::Pairs { looked_up, pairs } = peer.ask(node, request).await else {
            panic!("a member is answered");
        };
        assert!((1..=rest.len()).contains(&looked_up.into()), "{looked_up}");
        found.extend(pairs);
        answers += 1;
        rest = &rest[usize::from(looked_up)..];
    }
    (found, answers)
}

#[tokio::test(flavor = "multi_thread")]
async fn pairs_come_in_order_as_many_as_an_answer_takes() {
    let mut cluster = Cluster::builder().nodes(4).shards(4).start().await.unwrap();
    let stranger = RawPeer::join(&cluster).await;
    let config = stranger.config();
    let mut blobs = Vec::new();
    // Two of the larger fit into an answer.
    for (seed, bytes) in [(1, 3_900_000), (2, 10), (3, 3_900_000), (4, 3_900_000), (5, 700)] {
        let blob = Written::honest(config, test_support::blob(seed, bytes));
        stranger.store(&blob, cluster.wallet(), WANTED).await.unwrap();
        blobs.push(blob);
    }
    let node = cluster.node_id(0);
    let committee = stranger.committee();
    let shard = committee.member(&node).unwrap().shards[0];
    let mut ids: Vec<_> = blobs.iter().map(Written::id).collect();
    ids.insert(1, BlobId::new([7; 32]));
    let request = Request::ReadPairs { shard, blobs: ids.clone() };
    assert_eq!(stranger.ask(node, request).await, refused(Refusal::Unavailable));

    let member = member(&mut cluster, 3).await;
    let (pairs, answers) = read_pairs(&member, node, shard, &ids).await;
    assert_eq!(answers, 2);
    assert_eq!(pairs.len(), blobs.len());
    for (pair, blob) in pairs.iter().zip(&blobs) {
        assert_eq!(pair.blob, blob.id());
        let index = blob.id().pair_of(shard, 4);
        assert_eq!(pair.proof, blob.proof(index).to_bytes());
        let expected = &blob.pairs[index.as_usize()];
        assert!(pair.primary == expected.0 && pair.secondary == expected.1);
    }

    // Nothing of a shard that the node never had, and of blobs that nobody has.
    let foreign = { 0..4 }.map(ShardIndex::new).find(|other| *other != shard).unwrap();
    assert_eq!(read_pairs(&member, node, foreign, &ids).await, (Vec::new(), 1));
    let unknown = vec![BlobId::new([8; 32]); MAX_PAIRS];
    assert_eq!(read_pairs(&member, node, shard, &unknown).await, (Vec::new(), 1));
    cluster.shutdown().await.unwrap();
}

/// Slivers changed together with their checksums: only their roots tell.
#[tokio::test(flavor = "multi_thread")]
async fn the_scrubber_finds_what_was_changed_and_removes_it() {
    let mut cluster = Cluster::builder().nodes(4).shards(16).start().await.unwrap();
    let peer = RawPeer::join(&cluster).await;
    let node = cluster.node_id(1);
    let blob = Written::honest(peer.config(), test_support::blob(9, 50_000));
    peer.store(&blob, cluster.wallet(), WANTED).await.unwrap();

    cluster.stop(1).await.unwrap();
    let paths = NodePaths::below(&cluster.dir().join("node-1"));
    let store = Store::open(&StoreConfig::new(paths.store, paths.marker, node)).unwrap();
    let shard = peer.committee().member(&node).unwrap().shards[2];
    let pair = blob.id().pair_of(shard, 16);
    let (primary, secondary) = &blob.pairs[pair.as_usize()];
    assert!(store.delete_pair(shard, &blob.id()).unwrap());
    store.put_pair(shard, &blob.id(), primary, &flip(secondary, 11)).unwrap();
    store.flush().unwrap();
    drop(store);
    cluster.start(1).await.unwrap();

    let found = async {
        while counter(&cluster, 1, "storage_pairs_damaged").await == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, found).await.expect("the scrubber comes by");
    // It is gone, or already repaired.
    let read = Request::ReadSliver { blob: blob.id(), pair, axis: Axis::Secondary };
    match peer.ask(node, read).await {
        Response::Refused(Refusal::NotFound) => {}
        Response::Sliver { sliver, .. } => assert!(sliver == *secondary),
        other => panic!("{other:?}"),
    }
    assert_eq!(counter(&cluster, 1, "storage_pairs_damaged").await, 1);
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn members_attest_true_proofs_and_no_others() {
    let cluster = Cluster::builder().nodes(7).shards(7);
    // Node 1 has no more for strangers than what nobody has spent, the others enough.
    let cluster = cluster
        .configure(|node, config| {
            let bytes_per_second = if node == 1 { 1 } else { 1 << 30 };
            config.service.stranger_symbol_bytes_per_second = bytes_per_second;
        })
        .start()
        .await
        .unwrap();
    let peer = RawPeer::join(&cluster).await;
    let config = peer.config();
    let file = test_support::blob(8, 400);
    let lying = Written::lying(config, file.clone(), Lie::Row(SliverPairIndex::new(1)));
    let honest = Written::honest(config, file);
    let unknown =
        Written::lying(config, test_support::blob(9, 500), Lie::Row(SliverPairIndex::new(1)));
    for blob in [&lying, &honest] {
        peer.store(blob, cluster.wallet(), WANTED).await.unwrap();
    }
    let proof = |blob: &Written| {
        let rows = (0..config.k1()).map(|row| {
            let row = SliverIndex::new(u16::try_from(row).unwrap());
            (row, blob.pairs[row.as_usize()].0.clone())
        });
        let rows: Vec<_> = rows.collect();
        InconsistencyProof::from_slivers(&blob.table, &blob.header, Axis::Primary, &rows)
    };
    assert!(proof(&honest).is_err(), "there is none against an honest blob");
    let bytes: Bytes = proof(&lying).unwrap().to_bytes().into();

    let committee = peer.committee();
    let fact = InvalidityFact { epoch: committee.epoch(), blob: lying.id() };
    for member in committee.members() {
        let answer = peer.ask(member.node, Request::Attest { proof: bytes.clone() }).await;
        let Response::Attested { epoch, signature } = answer else { panic!("{answer:?}") };
        assert_eq!(epoch, fact.epoch);
        assert!(fact.verify(peer.chain(), &member.bls_key, &signature));
    }

    // A blob that the ledger does not know; bytes that prove nothing.
    let node = cluster.node_id(0);
    let other: Bytes = proof(&unknown).unwrap().to_bytes().into();
    let answer = peer.ask(node, Request::Attest { proof: other }).await;
    assert_eq!(answer, refused(Refusal::NotFound));
    // The header is that of the honest blob: what follows must prove something against it.
    let mut against = honest.header.to_bytes().to_vec();
    against.extend_from_slice(&bytes[against.len()..]);
    let last = flip(&bytes, bytes.len() - 1);
    for wrong in [against.into(), last, bytes.slice(..bytes.len() - 1), Bytes::new()] {
        let answer = peer.ask(node, Request::Attest { proof: wrong }).await;
        assert_eq!(answer, refused(Refusal::Invalid(InvalidReason::Proof)));
    }

    // Verifying is dear: a stranger gets a few and is told to wait.
    let mut attested = 0;
    loop {
        match peer.ask(cluster.node_id(1), Request::Attest { proof: bytes.clone() }).await {
            Response::Attested { .. } => attested += 1,
            Response::Refused(Refusal::Busy { .. }) => break,
            other => panic!("{other:?}"),
        }
        assert!(attested < 10);
    }
    cluster.shutdown().await.unwrap();
}
