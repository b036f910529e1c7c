//! A newcomer begins with a snapshot instead of the first block, whoever lies to it about one.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use floe_node::{Node, NodeConfig, NodeHandle, key_file::NodeKeys, network::InboundRequest};
use floe_protocol::{
    consensus::Timeouts,
    hash::Domain,
    index::{Epoch, Height},
    keys::{KeyPair, NodeId},
    ledger::{AccountId, Key, LedgerParameters, Record, SnapshotOffer, Timestamp},
    light::{LightClient, OldRoot, Start},
    message::{LedgerRequest, LedgerResponse, Request, Response},
};
use floe_testnet::Cluster;
use tokio::{sync::mpsc, time::timeout};

use super::swarm::{DEADLINE, Puppet, agree, committed, keys, ledger, pay, recipient, tip};

const HONEST: usize = 0;
/// So few blocks are a reason to look for a snapshot.
const BEHIND_BLOCKS: u64 = 20;
/// Blocks of the chains here, about.
const BLOCKS: u64 = 150;

/// A swarm whose epochs end soon, with so many accounts that their snapshots have some chunks.
async fn swarm() -> Cluster {
    let ledger = LedgerParameters {
        heartbeat_ms: 20,
        block_interval_min_ms: 20,
        ..LedgerParameters::for_epoch(2_500)
    };
    let builder = Cluster::builder().nodes(4).shards(7).ledger(ledger).extra_accounts(8_000);
    let cluster = builder.start().await.unwrap();
    cluster.wait_connected().await.unwrap();
    cluster
}

/// Lets the chain grow for some epochs, with payments in it, until it has so many blocks.
async fn grow(cluster: &Cluster) {
    let mut blocks = ledger(cluster, HONEST).committed();
    for nonce in 0..5 {
        let id = pay(cluster, HONEST, nonce).await;
        committed(&mut blocks, id).await;
    }
    let long = |height: u64, epoch: u64| height >= BLOCKS && epoch >= 2;
    let mut state = ledger(cluster, HONEST).state();
    let grown = state.wait_for(|s| long(s.tip().height.get(), s.committee().epoch().get()));
    timeout(DEADLINE, grown).await.expect("in time").unwrap();
}

/// A node that is no member, with nothing but the genesis and addresses.
async fn newcomer(cluster: &Cluster, dir: &Path) -> NodeHandle {
    let network = cluster.network().clone();
    let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    let mut config = NodeConfig::new(dir, network, listen);
    config.limits.loopback_exempt = true;
    config.timeouts = Timeouts::LAN;
    config.snapshot_behind_blocks = BEHIND_BLOCKS;
    NodeKeys::generate().unwrap().create(&config.paths.key).unwrap();
    Node::start(config).await.unwrap()
}

async fn ask(puppet: &Puppet, node: NodeId, request: LedgerRequest) -> LedgerResponse {
    let answer = async {
        loop {
            match puppet.network.request(node, Request::Ledger(request.clone())).await {
                Ok(Response::Ledger(answer)) => return *answer,
                Ok(Response::Refused(_)) => tokio::task::yield_now().await,
                other => panic!("{other:?}"),
            }
        }
    };
    timeout(DEADLINE, answer).await.expect("in time")
}

/// The newest snapshot of a node; waits until there is one.
async fn offer(puppet: &Puppet, node: NodeId) -> SnapshotOffer {
    let mut patience = tokio::time::interval(Duration::from_millis(50));
    let offer = async {
        loop {
            let request = LedgerRequest::Snapshot { height: None };
            if let LedgerResponse::Snapshot(Some(offer)) = ask(puppet, node, request).await {
                return *offer;
            }
            patience.tick().await;
        }
    };
    timeout(DEADLINE, offer).await.expect("a snapshot in time")
}

async fn chunks(puppet: &Puppet, node: NodeId, offer: &SnapshotOffer) -> Vec<Vec<u8>> {
    let height = offer.manifest.header.height;
    let mut chunks = Vec::new();
    for index in 0..u16::try_from(offer.manifest.chunks.len()).unwrap() {
        let request = LedgerRequest::SnapshotChunk { height, index };
        match ask(puppet, node, request).await {
            LedgerResponse::SnapshotChunk(Some(chunk)) => chunks.push(chunk),
            other => panic!("chunk {index}: {other:?}"),
        }
    }
    chunks
}

/// Waits until a node is at `height`, and checks that it agrees with a node of the cluster and
/// never had the first block.
async fn joined_by_snapshot(cluster: &Cluster, newcomer: &NodeHandle, height: Height) {
    let mut state = newcomer.ledger().state();
    let reached = timeout(DEADLINE, state.wait_for(|s| s.tip().height >= height)).await;
    let reached = reached.expect("the newcomer is there in time").unwrap().clone();
    assert!(newcomer.ledger().block(Height::new(1)).unwrap().is_none(), "it has the first block");
    let tip = reached.tip();
    let honest = ledger(cluster, HONEST);
    let mut state = honest.state();
    let same = timeout(DEADLINE, state.wait_for(|s| s.tip().height >= tip.height)).await;
    same.expect("in time").unwrap();
    let (block, _) = honest.block(tip.height).unwrap().expect("it was committed");
    assert_eq!((block.header.hash(), block.header.state_root), (tip.hash, tip.state_root));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_begins_with_a_snapshot_and_serves_as_all_others() {
    let cluster = swarm().await;
    grow(&cluster).await;
    let puppet = Puppet::join(&cluster, KeyPair::from_seed([5; 32])).await;
    let served = offer(&puppet, cluster.node_id(HONEST)).await;
    assert!(served.manifest.chunks.len() > 1, "{} chunks", served.manifest.chunks.len());
    let dir = tempfile::tempdir().unwrap();
    let newcomer = newcomer(&cluster, dir.path()).await;
    let height = tip(&cluster, HONEST);
    joined_by_snapshot(&cluster, &newcomer, height).await;

    // It takes part in what comes: a payment that is made now reaches it.
    let mut blocks = newcomer.ledger().committed();
    let id = pay(&cluster, HONEST, 5).await;
    let paid = committed(&mut blocks, id).await.block.header.height;

    // What it says can be verified by who knows the genesis only.
    puppet.network.add_addresses(newcomer.id(), newcomer.addresses()).await;
    let start = Start::Genesis { started: None };
    let now = Timestamp::from_ms(0);
    let genesis = &cluster.network().genesis;
    let mut light = LightClient::new(genesis, &start, OldRoot::Trust, now).unwrap();
    let keys = vec![Key::Account(AccountId::new(cluster.wallet().public())), Key::Summary];
    let request = LedgerRequest::Facts { height: None, keys: keys.clone() };
    let LedgerResponse::Facts { header: Some(header), proofs } =
        ask(&puppet, newcomer.id(), request).await
    else {
        panic!("no facts");
    };
    while light.epoch() < header.header.epoch {
        let request = LedgerRequest::Handovers { from: light.epoch(), max: 16 };
        let LedgerResponse::Handovers { handovers } = ask(&puppet, newcomer.id(), request).await
        else {
            panic!("no hand-overs");
        };
        assert!(!handovers.is_empty(), "those of epochs before the snapshot, too");
        for handover in handovers {
            light.handover(handover.last, &handover.committee, now).unwrap();
        }
    }
    assert!(header.header.height >= paid);
    let (_, records) = light.facts((None, &keys), header, &proofs, now).unwrap();
    let [Some(Record::Account(account)), Some(Record::Summary(_))] = &records[..] else {
        panic!("{records:?}");
    };
    assert_eq!(account.nonce, 6);
    let registered =
        newcomer.ledger().account(&newcomer.ledger().state().borrow().clone(), &recipient());
    assert_eq!(registered.unwrap().balance.frost(), 6);

    // Blocks before it are not there, and it offers what it began with, or a newer one.
    let request = LedgerRequest::Blocks { from: Height::new(1), max_bytes: 1 << 20 };
    let answer = ask(&puppet, newcomer.id(), request).await;
    assert_eq!(answer, LedgerResponse::Blocks { blocks: Vec::new() });
    let again = offer(&puppet, newcomer.id()).await;
    assert!(again.manifest.header.height >= served.manifest.header.height);
    assert!(again.manifest.header.epoch > Epoch::new(0));
    let same = LedgerRequest::Snapshot { height: Some(again.manifest.header.height) };
    if let LedgerResponse::Snapshot(Some(honest)) =
        ask(&puppet, cluster.node_id(HONEST), same).await
    {
        assert_eq!(honest.manifest, again.manifest, "all make the same");
    }

    // It starts again where it was.
    let last = newcomer.ledger().state().borrow().tip().height;
    newcomer.shutdown().await;
    let network = cluster.network().clone();
    let mut config =
        NodeConfig::new(dir.path(), network, vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()]);
    config.limits.loopback_exempt = true;
    let newcomer = Node::start(config).await.unwrap();
    assert!(newcomer.ledger().state().borrow().tip().height >= last);
    newcomer.shutdown().await;
    cluster.shutdown().await.unwrap();
}

/// What a liar was asked for.
#[derive(Default)]
struct Asked {
    offers: AtomicU32,
    chunks: AtomicU32,
}

/// Offers a snapshot and nothing else.
async fn tell(
    mut requests: mpsc::Receiver<InboundRequest>,
    (told, chunks): (SnapshotOffer, Vec<Vec<u8>>),
    asked: Arc<Asked>,
) {
    while let Some(InboundRequest { request, reply, .. }) = requests.recv().await {
        let Request::Ledger(request) = request else { continue };
        let answer = match request {
            LedgerRequest::Tip => LedgerResponse::Tip(None),
            LedgerRequest::Handovers { .. } => LedgerResponse::Handovers { handovers: Vec::new() },
            LedgerRequest::Blocks { .. } => LedgerResponse::Blocks { blocks: Vec::new() },
            LedgerRequest::Snapshot { .. } => {
                asked.offers.fetch_add(1, Ordering::AcqRel);
                LedgerResponse::Snapshot(Some(Box::new(told.clone())))
            }
            LedgerRequest::SnapshotChunk { height, index } => {
                assert_eq!(height, told.manifest.header.height);
                asked.chunks.fetch_add(1, Ordering::AcqRel);
                LedgerResponse::SnapshotChunk(chunks.get(usize::from(index)).cloned())
            }
            _ => continue,
        };
        reply.reply(Response::Ledger(Box::new(answer)));
    }
}

/// What a liar tells of the honest snapshot.
type Lie = fn(&mut SnapshotOffer, &mut Vec<Vec<u8>>);

/// Two members that tell the same lie, one that is honest: the chain stands still, and a newcomer
/// comes to it by the honest snapshot.
async fn joins_among_liars(lie: Lie) {
    let mut cluster = swarm().await;
    grow(&cluster).await;
    let helper = Puppet::join(&cluster, KeyPair::from_seed([5; 32])).await;
    for node in 1..4 {
        cluster.stop(node).await.unwrap();
    }
    let last = tip(&cluster, HONEST);
    agree(&cluster, &[HONEST], last).await;
    // No more epochs end, so this one stays.
    let honest = cluster.node_id(HONEST);
    let mut told = offer(&helper, honest).await;
    let mut told_chunks = chunks(&helper, honest, &told).await;
    lie(&mut told, &mut told_chunks);
    helper.network.shutdown().await;

    let asked = [0, 1].map(|_| Arc::new(Asked::default()));
    let mut networks = Vec::new();
    for (liar, asked) in asked.iter().enumerate() {
        let puppet = Puppet::join(&cluster, keys(&cluster, 1 + liar).node).await;
        networks.push(puppet.network);
        let lie = (told.clone(), told_chunks.clone());
        tokio::spawn(tell(puppet.requests, lie, Arc::clone(asked)));
    }
    let dir = tempfile::tempdir().unwrap();
    let newcomer = newcomer(&cluster, dir.path()).await;
    for network in &networks {
        // Nobody can dial a liar: it connects by asking something itself.
        network.add_addresses(newcomer.id(), newcomer.addresses()).await;
        network.request(newcomer.id(), Request::Ledger(LedgerRequest::Tip)).await.unwrap();
    }
    joined_by_snapshot(&cluster, &newcomer, last).await;
    // A liar is asked until it is caught: at least one was, and the chunks came all the same.
    let lies: Vec<u32> = asked.iter().map(|lies| lies.chunks.load(Ordering::Acquire)).collect();
    println!("lies told: {lies:?}");
    assert!(lies.iter().sum::<u32>() > 0);
    newcomer.shutdown().await;
    for network in networks {
        network.shutdown().await;
    }
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_byte_in_a_chunk_is_found_and_comes_from_another_node() {
    joins_among_liars(|_, chunks| {
        for chunk in chunks {
            let place = chunk.len() / 2;
            chunk[place] ^= 1;
        }
    })
    .await;
}

/// Members that vouch together are believed first; their state has not the header's root.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_a_made_up_state_is_found_and_another_one_taken() {
    joins_among_liars(|offer, chunks| {
        // The last byte of an entry: the count of what its account has sent, most likely.
        let index = chunks.len() - 1;
        *chunks[index].last_mut().unwrap() ^= 1;
        offer.manifest.chunks[index] = Domain::SnapshotChunk.hash(&[&chunks[index]]);
    })
    .await;
}

/// A stranger has the newest header, as everybody may, and a long list of chunks that it made up.
#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_made_up_snapshot_is_not_begun_with_while_a_member_has_one() {
    let mut cluster = swarm().await;
    grow(&cluster).await;
    let Puppet { network, requests, .. } =
        Puppet::join(&cluster, KeyPair::from_seed([6; 32])).await;
    let helper = Puppet::join(&cluster, KeyPair::from_seed([5; 32])).await;
    for node in 1..4 {
        cluster.stop(node).await.unwrap();
    }
    let last = tip(&cluster, HONEST);
    let mut told = offer(&helper, cluster.node_id(HONEST)).await;
    helper.network.shutdown().await;
    let made_up = Domain::SnapshotChunk.hash(&[b"made up"]);
    told.manifest.chunks = vec![made_up; 16_000];
    told.manifest.entries = 1_000_000;
    let asked = Arc::new(Asked::default());
    tokio::spawn(tell(requests, (told, Vec::new()), Arc::clone(&asked)));
    let dir = tempfile::tempdir().unwrap();
    let newcomer = newcomer(&cluster, dir.path()).await;
    network.add_addresses(newcomer.id(), newcomer.addresses()).await;
    network.request(newcomer.id(), Request::Ledger(LedgerRequest::Tip)).await.unwrap();
    joined_by_snapshot(&cluster, &newcomer, last).await;
    assert!(asked.offers.load(Ordering::Acquire) > 0, "it was not asked at all");
    assert_eq!(asked.chunks.load(Ordering::Acquire), 0, "it was believed");
    newcomer.shutdown().await;
    network.shutdown().await;
    cluster.shutdown().await.unwrap();
}
