//! From one committee to the next on the real network: clients notice nothing but new addresses.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use floe_node::client::{
    Client, ClientConfig, LedgerVerdict, ReadOptions, StoreProgress, ledger::RunningEpoch,
};
use floe_protocol::{
    blob::BlobId,
    keys::{KeyPair, NodeId},
    ledger::{Amount, LedgerParameters},
    test_support,
    transfer::Wanted,
};
use floe_testnet::{Cluster, cluster::wait_for_epoch};
use tokio::{sync::watch, task::JoinSet, time::timeout};

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(240);
const SHARDS: u16 = 7;
/// Of each kind, while shards move.
const OPERATIONS: u64 = 100;
/// What the newcomer takes in a second until so much has been done: after the first answers nothing
/// for days, however slow the machine is and however many epochs pass.
const HELD_BACK: NonZeroU64 = NonZeroU64::MIN;
/// Blobs that are there before, more and larger ones than first answers hold.
const BEFORE: u64 = 10;
const BEFORE_BYTES: usize = 200_000;
const WRITERS: u64 = 4;
const READERS: u64 = 1;

/// Short epochs; a committee can be punished for so long that any client trusts the genesis.
fn rules(epoch_ms: u64) -> LedgerParameters {
    LedgerParameters {
        heartbeat_ms: 500,
        unbonding_epochs: 1_000,
        ..LedgerParameters::for_epoch(epoch_ms)
    }
}

async fn swarm(nodes: usize, epoch_ms: u64) -> Cluster {
    swarm_with(nodes, epoch_ms, &Arc::default()).await
}

/// Those who join are held back if they start while they are to be.
async fn swarm_with(nodes: usize, epoch_ms: u64, hold_back: &Arc<AtomicBool>) -> Cluster {
    let builder = Cluster::builder().nodes(nodes).shards(SHARDS).ledger(rules(epoch_ms));
    let hold_back = Arc::clone(hold_back);
    let builder = builder.configure(move |node, config| {
        config.repair.grace_ms = 200;
        config.repair.retry_min_ms = 200;
        if node >= nodes && hold_back.load(Ordering::Relaxed) {
            config.repair.bytes_per_second = Some(HELD_BACK);
        }
    });
    builder.start().await.unwrap()
}

fn content(seed: u64) -> Bytes {
    let bytes = if seed < BEFORE { BEFORE_BYTES } else { 20_000 };
    test_support::blob(seed, bytes + usize::try_from(seed % 7).unwrap())
}

async fn store(client: &Client, wallet: &KeyPair, seed: u64) -> BlobId {
    let wanted = Wanted { epochs: 60, deletable: true };
    let progress = watch::Sender::new(StoreProgress::default());
    let stored = client.store(content(seed), wanted, wallet, &progress).await;
    stored.unwrap_or_else(|error| panic!("blob {seed} not stored: {error}")).blob
}

async fn read(client: &Client, blob: BlobId, seed: u64) {
    let reader = client.read(blob, ReadOptions::default()).await;
    let reader = reader.unwrap_or_else(|error| panic!("blob {seed} not read: {error}"));
    let bytes = reader.read_to_end().await;
    let bytes = bytes.unwrap_or_else(|error| panic!("blob {seed} cut off: {error}"));
    assert!(bytes == content(seed), "blob {seed} comes back as another");
}

/// A client that knows the genesis and the addresses of one node.
async fn client_of(cluster: &Cluster, node: usize) -> Client {
    let mut network = cluster.network().clone();
    network.bootstrap = cluster
        .node(node)
        .unwrap()
        .addresses()
        .into_iter()
        .map(|address| {
            let id = cluster.node_id(node);
            floe_node::network::address_of(&id, address).unwrap().to_string()
        })
        .collect();
    let mut config = ClientConfig::new(network);
    config.limits.loopback_exempt = true;
    Client::connect(config).await.unwrap()
}

/// What was done from beginning to end since the count began.
#[derive(Debug, Default)]
struct Count {
    counting: AtomicBool,
    writes: AtomicU64,
    reads: AtomicU64,
}

impl Count {
    async fn of<T>(&self, done: &AtomicU64, operation: impl Future<Output = T>) -> T {
        let counts = self.counting.load(Ordering::Relaxed);
        let result = operation.await;
        done.fetch_add(counts.into(), Ordering::Relaxed);
        result
    }
}

/// Writers and readers that never rest until they are told.
struct Load {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
    count: Arc<Count>,
    blobs: watch::Receiver<Vec<(BlobId, u64)>>,
}

impl Load {
    fn start(client: &Client, wallet: &KeyPair, before: Vec<(BlobId, u64)>) -> Self {
        let (stop, _) = watch::channel(false);
        let (sender, blobs) = watch::channel(before);
        let sender = Arc::new(sender);
        let count = Arc::new(Count::default());
        let mut tasks = JoinSet::new();
        for writer in 0..WRITERS {
            let (client, wallet, stop) = (client.clone(), wallet.clone(), stop.subscribe());
            let (sender, count) = (Arc::clone(&sender), Arc::clone(&count));
            tasks.spawn(async move {
                for seed in (1_000 + writer..).step_by(usize::try_from(WRITERS).unwrap()) {
                    if *stop.borrow() {
                        return;
                    }
                    let blob = count.of(&count.writes, store(&client, &wallet, seed)).await;
                    sender.send_modify(|blobs| blobs.push((blob, seed)));
                }
            });
        }
        for reader in 0..READERS {
            let (client, stop, blobs) = (client.clone(), stop.subscribe(), blobs.clone());
            let count = Arc::clone(&count);
            tasks.spawn(async move {
                for turn in reader.. {
                    if *stop.borrow() {
                        return;
                    }
                    let known = blobs.borrow().clone();
                    // Old and new ones alike.
                    let turn = usize::try_from(turn * 7_919).unwrap();
                    let (blob, seed) = known[turn % known.len()];
                    count.of(&count.reads, read(&client, blob, seed)).await;
                }
            });
        }
        Self { tasks, stop, count, blobs }
    }

    /// What was done since the count began.
    fn done(&self) -> (u64, u64) {
        let Count { writes, reads, .. } = &*self.count;
        (writes.load(Ordering::Relaxed), reads.load(Ordering::Relaxed))
    }

    /// Counts what begins from now on, until so much has been done.
    async fn counted(&mut self, each: u64) -> (u64, u64) {
        self.count.counting.store(true, Ordering::Relaxed);
        let (count, mut blobs) = (Arc::clone(&self.count), self.blobs.clone());
        let enough = async {
            let few = |done: &AtomicU64| done.load(Ordering::Relaxed) < each;
            while few(&count.writes) || few(&count.reads) {
                blobs.changed().await.unwrap();
            }
        };
        self.beside(timeout(DEADLINE, enough)).await.expect("the load goes on");
        self.done()
    }

    /// Does something beside; whatever fails of the load meanwhile fails the test.
    async fn beside<T>(&mut self, other: impl Future<Output = T>) -> T {
        tokio::pin!(other);
        loop {
            tokio::select! {
                done = &mut other => return done,
                ended = self.tasks.join_next() => ended.unwrap().unwrap(),
            }
        }
    }

    async fn finish(mut self) -> Vec<(BlobId, u64)> {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        self.blobs.borrow().clone()
    }
}

/// The first epoch in which a node has shards.
async fn joins(client: &Client, node: NodeId) -> RunningEpoch {
    let joined = wait_for_epoch(client, |running| running.shards_of(&node).0 > 0);
    timeout(DEADLINE, joined).await.expect("it is selected in time").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_and_writes_go_on_while_a_node_joins_and_shards_move() {
    let hold_back = Arc::new(AtomicBool::new(true));
    let mut cluster = swarm_with(4, 12_000, &hold_back).await;
    let client = cluster.client().await.unwrap();
    let mut before = Vec::new();
    for seed in 0..BEFORE {
        before.push((store(&client, cluster.wallet(), seed).await, seed));
    }
    let joined = cluster.join(Amount::from_wal(2_000)).await.unwrap();
    let id = cluster.node_id(joined);
    let mut load = Load::start(&client, cluster.wallet(), before);
    let began = load.beside(joins(&client, id)).await;
    let epoch = began.summary.epoch;
    let (moving, ready) = began.shards_of(&id);
    assert!(moving > 0 && ready == 0, "{moving} shards move, {ready} are there already");

    // A flag that is set stays set while its shard does not move, so none was set in between.
    let (writes, reads) = load.counted(OPERATIONS).await;
    let then = load.beside(client.ledger().running_epoch()).await.unwrap();
    assert_eq!(then.shards_of(&id), (moving, 0), "they still move");
    let repair = cluster.node(joined).unwrap().repair();
    assert!(repair.borrow().fetched_bytes > 0, "and are on their way");
    println!("{writes} writes and {reads} reads while {moving} shards of epoch {epoch} moved");

    // From now on they come as fast as they can; what was on its way is cut off.
    hold_back.store(false, Ordering::Relaxed);
    load.beside(cluster.stop(joined)).await.unwrap();
    load.beside(cluster.start(joined)).await.unwrap();
    let all = wait_for_epoch(&client, |running| running.ready() == SHARDS);
    let all = load.beside(timeout(DEADLINE, all)).await.expect("it completes them").unwrap();
    assert_eq!(all.shards_of(&id), (moving, moving));
    let (writes, reads) = load.done();
    println!("{writes} writes and {reads} reads until all shards were ready");
    let blobs = load.finish().await;

    // Who comes now, and knows nobody but the newcomer, reads all of it.
    let late = client_of(&cluster, joined).await;
    for (blob, seed) in blobs {
        read(&late, blob, seed).await;
    }
    let health = late.ledger_health().await.unwrap();
    assert_eq!(health.verdict, LedgerVerdict::Running, "{health:?}");
    assert_eq!(health.members, (5, 5), "{health:?}");
    assert!(late.committee().epoch() >= epoch);
    late.shutdown().await;
    client.shutdown().await;
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_whose_power_is_gone_says_so_and_reads_go_on() {
    let mut cluster = swarm(4, 60_000).await;
    let client = cluster.client().await.unwrap();
    let blob = store(&client, cluster.wallet(), 1).await;
    let health = client.ledger_health().await.unwrap();
    assert_eq!(health.verdict, LedgerVerdict::Running, "{health:?}");
    assert_eq!((health.shards_answering, health.shards_ready), (SHARDS, Some(SHARDS)));
    // Two of four: more than two of the seven shards.
    cluster.stop(2).await.unwrap();
    cluster.stop(3).await.unwrap();
    let health = client.ledger_health().await.unwrap();
    assert!(!health.quorum_answers(), "{health:?}");
    assert_eq!(health.members, (4, 2), "{health:?}");
    assert_eq!(health.silent.len(), 2);
    read(&client, blob, 1).await;
    client.shutdown().await;
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_long_after_the_genesis_needs_none_of_its_members() {
    let mut cluster = swarm(4, 6_000).await;
    let client = cluster.client().await.unwrap();
    let blob = store(&client, cluster.wallet(), 1).await;
    // With twice the stake of the founders each of them gets a shard.
    for _ in 0..4 {
        cluster.join(Amount::from_wal(2_000)).await.unwrap();
    }
    for node in 4..8 {
        let epoch = joins(&client, cluster.node_id(node)).await.summary.epoch;
        println!("node {node} serves from epoch {epoch}");
    }
    for founder in 0..4 {
        cluster.leave(founder).await.unwrap();
    }
    let founders: Vec<_> = (0..4).map(|node| cluster.node_id(node)).collect();
    let gone = wait_for_epoch(&client, |running| {
        let serves = |founder: &NodeId| {
            running.committee.member(founder).is_some() || running.kept_by(founder) > 0
        };
        running.shards.iter().all(|shard| shard.is_ready()) && !founders.iter().any(serves)
    });
    let gone = timeout(DEADLINE, gone).await.expect("the founders are replaced").unwrap();
    println!("epoch {} is without founders", gone.summary.epoch);
    for founder in 0..4 {
        cluster.stop(founder).await.unwrap();
    }
    // The one that was there all the time goes on, one that comes now finds everything.
    read(&client, blob, 1).await;
    let late = client_of(&cluster, 7).await;
    read(&late, blob, 1).await;
    let second = store(&late, cluster.wallet(), 2).await;
    read(&late, second, 2).await;
    // The other one sees it as soon as it has heard of that block.
    let height = late.ledger().known_header().unwrap().header().height;
    timeout(DEADLINE, client.ledger().reached(height)).await.expect("in time").unwrap();
    read(&client, second, 2).await;
    // So does a node: it follows to the newest block, and serves in time.
    let newcomer = cluster.join(Amount::from_wal(2_000)).await.unwrap();
    let epoch = joins(&late, cluster.node_id(newcomer)).await.summary.epoch;
    println!("a node that knows no founder serves from epoch {epoch}");
    late.shutdown().await;
    client.shutdown().await;
    cluster.shutdown().await.unwrap();
}
