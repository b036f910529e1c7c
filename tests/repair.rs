//! Repair on the real network: what a node missed, lost or gained comes back by itself, and blobs
//! that nobody can repair are proven invalid.
//!
//! Nothing here waits for a time: every test follows what nodes say of themselves.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use common::{Lie, RawPeer, WANTED, Written, told};
use floe_node::{
    CommittedBlock,
    client::{Client, ReadError, ReadOptions, StoreProgress},
    config::{NodeConfig, NodePaths},
    key_file::NodeKeys,
    network::{self, InboundRequest, NetworkConfig, Role},
};
use floe_protocol::{
    blob::BlobId,
    encoding::Axis,
    index::{Epoch, ShardIndex, SliverPairIndex},
    ledger::{Amount, BlobState, Event, LedgerParameters, Operation},
    message::{Limits, Refusal, RepairStatus, Request, Response, StoredPair},
    test_support,
    transfer::Wanted,
};
use floe_storage::{Store, StoreConfig};
use floe_testnet::{Cluster, ClusterBuilder};
use prometheus_client::registry::Registry;
use tokio::{
    sync::{broadcast, watch},
    time::timeout,
};

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(120);
const NODES: usize = 4;
const SHARDS: u16 = 7;

fn builder() -> ClusterBuilder {
    let rules = LedgerParameters { heartbeat_ms: 500, ..LedgerParameters::default() };
    Cluster::builder().nodes(NODES).shards(SHARDS).ledger(rules)
}

/// The usual configuration, but that writers are given no time: tests write and wait.
fn eager(config: &mut NodeConfig) {
    config.repair.grace_ms = 100;
    config.repair.retry_min_ms = 100;
}

async fn store(client: &Client, cluster: &Cluster, seed: u64, bytes: usize) -> (BlobId, Bytes) {
    let content = test_support::blob(seed, bytes);
    let (progress, _) = watch::channel(StoreProgress::default());
    let wanted = Wanted { epochs: 50, deletable: true };
    let stored = client.store(content.clone(), wanted, cluster.wallet(), &progress).await.unwrap();
    (stored.blob, content)
}

async fn read(client: &Client, blob: BlobId) -> Result<Vec<u8>, ReadError> {
    client.read(blob, ReadOptions::default()).await?.read_to_end().await
}

/// Waits until a node says of itself what is wished.
async fn repair_is(
    cluster: &Cluster,
    node: usize,
    wish: impl Fn(&RepairStatus) -> bool,
) -> RepairStatus {
    let mut status = cluster.node(node).expect("a running node").repair();
    let seen = timeout(DEADLINE, status.wait_for(wish)).await;
    let seen = seen.map(|seen| *seen.unwrap());
    seen.unwrap_or_else(|_| panic!("node {node}: {:?}", cluster.node(node).unwrap().repair()))
}

/// The shards that a node has in the running epoch.
fn shards(cluster: &Cluster, node: usize) -> Vec<ShardIndex> {
    let state = cluster.node(0).expect("a running node").ledger().state().borrow().clone();
    let member = state.committee().member(&cluster.node_id(node));
    member.map(|member| member.shards.clone()).unwrap_or_default()
}

/// Asserts that a node serves exactly the slivers of its shards.
async fn holds(cluster: &Cluster, peer: &RawPeer, node: usize, blob: &Written) {
    for shard in shards(cluster, node) {
        let pair = blob.id().pair_of(shard, SHARDS);
        let (primary, secondary) = &blob.pairs[pair.as_usize()];
        for (axis, expected) in [(Axis::Primary, primary), (Axis::Secondary, secondary)] {
            let request = Request::ReadSliver { blob: blob.id(), pair, axis };
            match peer.ask(cluster.node_id(node), request).await {
                Response::Sliver { proof, sliver } => {
                    assert!(sliver == *expected, "node {node}, shard {shard}, {axis:?}");
                    assert_eq!(proof, blob.proof(pair).to_bytes());
                }
                other => panic!("node {node}, shard {shard}: {other:?}"),
            }
        }
    }
}

/// The store of a node that does not run.
fn open(cluster: &Cluster, node: usize) -> Store {
    let paths = NodePaths::below(&cluster.dir().join(format!("node-{node}")));
    let config = StoreConfig::new(paths.store, paths.marker, cluster.node_id(node));
    Store::open(&config).unwrap()
}

/// Waits for an event.
async fn happened(
    blocks: &mut broadcast::Receiver<Arc<CommittedBlock>>,
    wish: impl Fn(&Event) -> bool,
) {
    told(blocks, |event| wish(event).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_down_catches_up_by_itself() {
    let mut cluster = builder().configure(|_, config| eager(config)).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    let own = u64::from(cluster.weight(3));
    cluster.stop(3).await.unwrap();
    let mut blobs = Vec::new();
    // Small ones are read whole, the large one costs less by symbols.
    for (seed, bytes) in [(1, 0), (2, 900), (3, 60_000), (4, 3_000_000)] {
        blobs.push(store(&client, &cluster, seed, bytes).await);
    }
    let missed = own * blobs.len() as u64;

    cluster.start(3).await.unwrap();
    let done = |status: &RepairStatus| {
        status.recovered_pairs >= missed && u64::from(status.complete_shards) == own
    };
    let status = repair_is(&cluster, 3, done).await;
    assert_eq!((status.recovered_pairs, status.moved_pairs), (missed, 0));
    assert_eq!(status.missing_pairs, 0);
    assert!(status.fetched_bytes > 0 && status.gained_bytes > 0, "{status:?}");
    assert_eq!(cluster.node(3).unwrap().usage().pairs, missed);
    let peer = RawPeer::join(&cluster).await;
    for (_, content) in &blobs {
        let written = Written::honest(peer.config(), content.clone());
        holds(&cluster, &peer, 3, &written).await;
    }
    let metrics = cluster.metrics(3).await.unwrap();
    assert!(metrics.contains(&format!("floe_repair_recovered_pairs_total {missed}")), "{metrics}");

    // What is certified while it runs, and passes it by, comes after the grace.
    let late = Written::honest(peer.config(), test_support::blob(9, 40_000));
    let registration = peer.register(&late, cluster.wallet(), WANTED).await;
    let confirmations = peer.upload(&late, registration, 0..3).await;
    let fact = peer.fact(late.id(), registration);
    let committee = peer.committee();
    let certificate =
        floe_protocol::certificate::Certificate::new(&committee, fact, &confirmations).unwrap();
    peer.certify(registration, certificate.to_bytes(), cluster.wallet()).await.unwrap();
    repair_is(&cluster, 3, |status| status.recovered_pairs == missed + own).await;
    holds(&cluster, &peer, 3, &late).await;

    // What is here is not fetched again.
    cluster.stop(3).await.unwrap();
    cluster.start(3).await.unwrap();
    let status = repair_is(&cluster, 3, |status| u64::from(status.complete_shards) == own).await;
    assert_eq!((status.recovered_pairs, status.fetched_bytes, status.missing_pairs), (0, 0, 0));
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_repair_and_nothing_else() {
    let quota = Arc::new(AtomicU64::new(1 << 30));
    let of_node = Arc::clone(&quota);
    let configure = move |node, config: &mut NodeConfig| {
        eager(config);
        if node == 1 {
            config.quota_bytes = of_node.load(Ordering::SeqCst);
        }
    };
    let mut cluster = builder().configure(configure).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    let own = u64::from(cluster.weight(1));
    let (first, content) = store(&client, &cluster, 1, 100_000).await;
    cluster.stop(1).await.unwrap();
    store(&client, &cluster, 2, 100_000).await;

    quota.store(1, Ordering::SeqCst);
    cluster.start(1).await.unwrap();
    let tried = |status: &RepairStatus| status.fetched_bytes > 0 && status.missing_pairs == own;
    let status = repair_is(&cluster, 1, tried).await;
    assert_eq!((status.complete_shards, status.recovered_pairs), (0, 0));
    let peer = RawPeer::join(&cluster).await;
    holds(&cluster, &peer, 1, &Written::honest(peer.config(), content.clone())).await;
    let (third, other) = store(&client, &cluster, 3, 40_000).await;
    assert_eq!(read(&client, first).await.unwrap(), content[..]);
    assert_eq!(read(&client, third).await.unwrap(), other[..]);
    let status = *cluster.node(1).unwrap().repair().borrow();
    assert_eq!((status.complete_shards, status.recovered_pairs), (0, 0), "{status:?}");

    quota.store(1 << 30, Ordering::SeqCst);
    cluster.stop(1).await.unwrap();
    cluster.start(1).await.unwrap();
    repair_is(&cluster, 1, |status| {
        u64::from(status.complete_shards) == own && status.recovered_pairs == 2 * own
    })
    .await;
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_store_is_gone_rejoins_and_serves_again() {
    let emptied = Arc::new(AtomicUsize::new(usize::MAX));
    let accepts = Arc::clone(&emptied);
    let configure = move |node, config: &mut NodeConfig| {
        eager(config);
        config.accept_empty = accepts.load(Ordering::SeqCst) == node;
    };
    let mut cluster = builder().configure(configure).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    let mut blobs = Vec::new();
    for seed in 1..=5 {
        blobs.push(store(&client, &cluster, seed, 200_000 * usize::try_from(seed).unwrap()).await);
    }
    let own = u64::from(cluster.weight(0));
    let lost = own * blobs.len() as u64;
    repair_is(&cluster, 0, |status| u64::from(status.complete_shards) == own).await;
    cluster.stop(0).await.unwrap();
    let paths = NodePaths::below(&cluster.dir().join("node-0"));
    fs::remove_dir_all(&paths.store).unwrap();
    let refused = cluster.start(0).await.unwrap_err();
    assert!(format!("{refused:#}").contains("marker"), "{refused:#}");

    emptied.store(0, Ordering::SeqCst);
    cluster.start(0).await.unwrap();
    let done = |status: &RepairStatus| {
        status.recovered_pairs == lost && u64::from(status.complete_shards) == own
    };
    let status = repair_is(&cluster, 0, done).await;
    println!(
        "{} pairs of {} bytes recovered from {} bytes",
        status.recovered_pairs, status.gained_bytes, status.fetched_bytes
    );
    let peer = RawPeer::join(&cluster).await;
    for (_, content) in &blobs {
        let written = Written::honest(peer.config(), content.clone());
        holds(&cluster, &peer, 0, &written).await;
    }

    // With k1 shards alive, those of the repaired node among them, everything reads back.
    let k1 = u16::try_from(cluster.committee().config().k1()).unwrap();
    let other = (1..NODES).find(|node| cluster.weight(0) + cluster.weight(*node) >= k1).unwrap();
    for node in (1..NODES).filter(|node| *node != other) {
        cluster.stop(node).await.unwrap();
    }
    for (blob, content) in &blobs {
        assert_eq!(read(&client, *blob).await.unwrap(), content[..]);
    }
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_pair_is_found_and_made_good() {
    let configure = |_, config: &mut NodeConfig| {
        eager(config);
        config.service.scrub_bytes_per_second = 1 << 30;
    };
    let mut cluster = builder().configure(configure).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    let (blob, content) = store(&client, &cluster, 1, 500_000).await;
    let damaged = shards(&cluster, 2)[0];
    cluster.stop(2).await.unwrap();
    {
        // As if somebody had changed the bytes together with their checksums.
        let store = open(&cluster, 2);
        let [primary, secondary] = [Axis::Primary, Axis::Secondary]
            .map(|axis| store.sliver(damaged, &blob, axis).unwrap().unwrap());
        assert!(store.delete_pair(damaged, &blob).unwrap());
        store.put_pair(damaged, &blob, &common::flip(&primary, 9), &secondary).unwrap();
        store.flush().unwrap();
    }
    cluster.start(2).await.unwrap();
    let own = cluster.weight(2);
    let done = |status: &RepairStatus| status.recovered_pairs == 1 && status.complete_shards == own;
    repair_is(&cluster, 2, done).await;
    let peer = RawPeer::join(&cluster).await;
    holds(&cluster, &peer, 2, &Written::honest(peer.config(), content)).await;
    cluster.shutdown().await.unwrap();
}

/// A blob whose slivers do not fit together: whoever has to recover one finds out, and proves it.
async fn ends_invalid(lie: Lie) {
    let mut cluster = builder().configure(|_, config| eager(config)).start().await.unwrap();
    let peer = RawPeer::join(&cluster).await;
    let blob = Written::lying(peer.config(), test_support::blob(3, 90_000), lie);
    let holder = peer.holder_of(SliverPairIndex::new(1), &blob.id());
    let away = (0..NODES).find(|node| cluster.node_id(*node) == holder).unwrap();
    let registration = peer.register(&blob, cluster.wallet(), WANTED).await;
    cluster.stop(away).await.unwrap();
    let position = peer.committee().position(&holder).unwrap();
    let others = (0..NODES).filter(|other| *other != position);
    let confirmations = peer.upload(&blob, registration, others).await;
    let (committee, fact) = (peer.committee(), peer.fact(blob.id(), registration));
    let certificate =
        floe_protocol::certificate::Certificate::new(&committee, fact, &confirmations).unwrap();
    peer.certify(registration, certificate.to_bytes(), cluster.wallet()).await.unwrap();

    cluster.start(away).await.unwrap();
    for node in 0..NODES {
        let handle = cluster.node(node).unwrap();
        let (mut states, mut blocks) = (handle.ledger().state(), handle.ledger().committed());
        let is_invalid = || async {
            let status = peer.client.blob_status(blob.id()).await.unwrap();
            status.state == BlobState::Invalid
        };
        if node == 0 && !is_invalid().await {
            let wish = |event: &Event| matches!(event, Event::BlobInvalidated { blob: id } if *id == blob.id());
            happened(&mut blocks, wish).await;
        }
        let emptied = states.wait_for(|_| handle.usage().pairs == 0);
        let emptied = timeout(DEADLINE, emptied).await.map(drop);
        emptied.unwrap_or_else(|_| panic!("{lie:?}: node {node} keeps slivers"));
        let repaired = cluster.node(node).unwrap().repair().borrow().recovered_pairs;
        assert_eq!(repaired, 0, "{lie:?}: nothing was made of it");
    }
    let refused = read(&peer.client, blob.id()).await.unwrap_err();
    assert!(
        matches!(refused, ReadError::NotReadable { state: BlobState::Invalid, .. }),
        "{lie:?}: {refused}"
    );
    // Honest nodes are not blamed: they still repair each other.
    let (id, content) = store(&peer.client, &cluster, 8, 50_000).await;
    assert_eq!(read(&peer.client, id).await.unwrap(), content[..]);
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_false_digest_ends_invalid_on_all_nodes() {
    ends_invalid(Lie::Digest(SliverPairIndex::new(1))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_false_row_ends_invalid_on_all_nodes() {
    ends_invalid(Lie::Row(SliverPairIndex::new(1))).await;
}

/// Short epochs, in which the lightest node is about to become the richest: it gains the shard that
/// another one loses. Blobs are stored already, and the next committee is selected.
struct Change {
    cluster: Cluster,
    client: Client,
    blobs: Vec<(BlobId, Bytes)>,
    gainer: usize,
    /// What the gainer has before.
    before: Vec<ShardIndex>,
    blocks: broadcast::Receiver<Arc<CommittedBlock>>,
    /// The epoch in which it gains.
    next: Epoch,
}

/// Half of it is enough to replace a node on most machines.
const EPOCH_MS: u64 = 12_000;

impl Change {
    async fn begin(epoch_ms: u64, configure: fn(&mut NodeConfig)) -> Self {
        let rules = LedgerParameters { heartbeat_ms: 200, ..LedgerParameters::for_epoch(epoch_ms) };
        let configure = move |_, config: &mut NodeConfig| {
            eager(config);
            configure(config);
        };
        let builder = Cluster::builder().nodes(NODES).shards(SHARDS).ledger(rules);
        let cluster = builder.configure(configure).start().await.unwrap();
        let client = cluster.client().await.unwrap();
        let mut blobs = Vec::new();
        for seed in 1..=6 {
            let bytes = 30_000 * usize::try_from(seed).unwrap();
            blobs.push(store(&client, &cluster, seed, bytes).await);
        }
        let gainer = (0..NODES).min_by_key(|node| cluster.weight(*node)).unwrap();
        let before = shards(&cluster, gainer);
        let mut blocks = cluster.node(gainer).unwrap().ledger().committed();
        let node = cluster.node_id(gainer);
        let stake = Operation::Stake { node, amount: Amount::from_wal(5_000) };
        client.ledger().submit(vec![stake], cluster.wallet()).await.unwrap();
        happened(&mut blocks, |event| matches!(event, Event::Staked { .. })).await;
        let next = |event: &Event| match event {
            Event::EpochSelected { epoch, .. } => Some(*epoch),
            _ => None,
        };
        let next = told(&mut blocks, next).await;
        Self { cluster, client, blobs, gainer, before, blocks, next }
    }

    /// Whether the epoch has not begun yet in which it gains.
    fn is_ahead(&self) -> bool {
        let gainer = self.cluster.node(self.gainer).expect("a running node");
        gainer.ledger().state().borrow().committee().epoch() < self.next
    }

    /// Waits until the gainer has all, has told the ledger so, and holds the truth; what it says of
    /// itself, and how many pairs it has gained.
    async fn end(&mut self) -> (RepairStatus, u64) {
        let Self { cluster, client, blobs, gainer, before, blocks, .. } = self;
        let node = cluster.node_id(*gainer);
        let gained = |event: &Event| matches!(event, Event::ShardsCompleted { node: reporter, .. } if *reporter == node);
        happened(blocks, gained).await;
        let after = shards(cluster, *gainer);
        assert!(after.len() > before.len(), "{:?} {after:?}", before);
        let complete = |status: &RepairStatus| usize::from(status.complete_shards) == after.len();
        let status = repair_is(cluster, *gainer, complete).await;
        let peer = RawPeer::join(cluster).await;
        for (blob, content) in blobs.iter() {
            let written = Written::honest(peer.config(), content.clone());
            holds(cluster, &peer, *gainer, &written).await;
            assert_eq!(read(client, *blob).await.unwrap(), content[..]);
        }
        let gained = (after.len() - before.len()) * blobs.len();
        (status, u64::try_from(gained).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gained_shard_is_copied_from_its_holder_and_reported() {
    let mut change = Change::begin(EPOCH_MS, |_| {}).await;
    let (status, gained) = change.end().await;
    assert_eq!((status.moved_pairs, status.recovered_pairs), (gained, 0), "{status:?}");
    let proofs = status.fetched_bytes - status.gained_bytes;
    println!("{gained} pairs of {} bytes moved, {proofs} bytes of proofs", status.gained_bytes);
    change.cluster.shutdown().await.unwrap();
}

/// What a holder does that is asked for what has moved.
#[derive(Clone, Copy, Debug)]
enum Holder {
    Lies,
    Stalls,
    Denies,
}

/// Replaces a node by one with its keys that answers requests for pairs in another way, and counts
/// them.
async fn replace(cluster: &mut Cluster, node: usize, holder: Holder) -> Arc<AtomicUsize> {
    let paths = NodePaths::below(&cluster.dir().join(format!("node-{node}")));
    let keys = NodeKeys::open(&paths.key).unwrap();
    cluster.stop(node).await.unwrap();
    let store = open(cluster, node);
    let committee = cluster.committee();
    let chain = cluster.network().genesis.chain_id();
    let limits = Limits::new(committee.config());
    let mut config = NetworkConfig::new(keys.node, chain, limits, Role::StorageNode);
    config.limits.loopback_exempt = true;
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    let bootstrap = cluster.network().bootstrap.iter();
    config.bootstrap = bootstrap.map(|address| address.parse().unwrap()).collect();
    config.committee = committee.members().iter().map(|member| member.node).collect();
    let (network, mut inbound, _) = network::start(config, &mut Registry::default()).await.unwrap();
    let mut peers = network.peers();
    peers.wait_for(|view| view.connected.len() >= NODES - 1).await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    tokio::spawn(async move {
        let _network = network;
        let mut kept = Vec::new();
        while let Some(InboundRequest { request, reply, .. }) = inbound.requests.recv().await {
            let Request::ReadPairs { shard, blobs } = request else {
                reply.reply(Response::Refused(Refusal::Unavailable));
                continue;
            };
            counted.fetch_add(1, Ordering::SeqCst);
            let pair = |blob: &BlobId| {
                let sliver = |axis| store.sliver(shard, blob, axis).unwrap();
                Some(StoredPair {
                    blob: *blob,
                    proof: store.pair_proof(shard, blob).unwrap()?.into(),
                    primary: common::flip(&sliver(Axis::Primary)?, 3),
                    secondary: sliver(Axis::Secondary)?,
                })
            };
            let looked_up = u16::try_from(blobs.len()).unwrap();
            match holder {
                Holder::Lies => {
                    let pairs = blobs.iter().filter_map(pair).collect();
                    reply.reply(Response::Pairs { looked_up, pairs });
                }
                Holder::Denies => reply.reply(Response::Pairs { looked_up, pairs: Vec::new() }),
                Holder::Stalls => kept.push(reply),
            }
        }
    });
    asked
}

/// What the earlier holder does not give is recovered from the others.
async fn is_recovered_without(holder: Holder) {
    let mut epoch_ms = EPOCH_MS;
    let (mut change, asked) = loop {
        let mut change =
            Change::begin(epoch_ms, |config| config.repair.answer_timeout_ms = 2_000).await;
        // Of the nodes with equal stake the last one has no second shard when the gainer takes it.
        let loser = (0..NODES).filter(|node| *node != change.gainer).max().unwrap();
        let asked = replace(&mut change.cluster, loser, holder).await;
        if change.is_ahead() {
            break (change, asked);
        }
        // The shard has moved before the holder was another: the machine needs more time.
        change.cluster.shutdown().await.unwrap();
        epoch_ms *= 2;
    };
    let (status, gained) = change.end().await;
    let counts = (status.moved_pairs, status.recovered_pairs);
    assert_eq!(counts, (0, gained), "{holder:?}: {status:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 1, "{holder:?}: not asked again");
    change.cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_lies_is_done_without() {
    is_recovered_without(Holder::Lies).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_stalls_is_done_without() {
    is_recovered_without(Holder::Stalls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_has_nothing_is_done_without() {
    is_recovered_without(Holder::Denies).await;
}
