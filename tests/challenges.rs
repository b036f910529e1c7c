//! Storage challenges among real nodes: who holds what it must passes round after round, whatever
//! others do; who does not, misses them.
//!
//! Nothing here waits for a time: every test follows what the ledger says of rounds. On a machine
//! that is busy with something else a node may be late in any of them: then the next one is looked at.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::{RawPeer, told};
use floe_node::{
    CommittedBlock,
    client::{Client, StoreProgress},
    config::NodePaths,
    key_file::NodeKeys,
    network::{self, InboundRequest, NetworkConfig, Role, Topic},
};
use floe_protocol::{
    blob::BlobId,
    challenge::{ChallengeCertificate, ChallengeFact, Commitment, Outcome},
    committee::CommitteeFact,
    encoding::Axis,
    hash::Hash,
    index::{ChallengeRound, Epoch, ShardIndex, SymbolIndex},
    keys::{ChainId, KeyPair, NodeId},
    ledger::{Event, SystemOperation},
    message::{LedgerAnnouncement, LedgerTopic, Limits, Miss, Refusal, Request, Response},
    test_support,
    transfer::Wanted,
};
use floe_storage::{Store, StoreConfig};
use floe_testnet::{Cluster, ClusterBuilder};
use prometheus_client::registry::Registry;
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::timeout,
};

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(120);

/// Rounds that are looked at, at most.
const ROUNDS_MAX: u64 = 10;

/// As many nodes as shards, and a round every three seconds.
fn builder(nodes: u16) -> ClusterBuilder {
    Cluster::builder().nodes(nodes.into()).shards(nodes).rounds_every(Duration::from_secs(3))
}

async fn store(client: &Client, cluster: &Cluster, seed: u64, bytes: usize) -> BlobId {
    let (progress, _) = watch::channel(StoreProgress::default());
    let wanted = Wanted { epochs: 2, deletable: true };
    let content = test_support::blob(seed, bytes);
    client.store(content, wanted, cluster.wallet(), &progress).await.unwrap().blob
}

/// Waits until a round opens.
async fn opened(blocks: &mut broadcast::Receiver<Arc<CommittedBlock>>) -> ChallengeRound {
    told(blocks, |event| match event {
        Event::ChallengeOpened { round } => Some(*round),
        _ => None,
    })
    .await
}

/// What the round came to.
async fn closed(
    blocks: &mut broadcast::Receiver<Arc<CommittedBlock>>,
    round: ChallengeRound,
) -> Vec<Outcome> {
    told(blocks, |event| match event {
        Event::ChallengeClosed { round: closed, outcomes } if *closed == round => {
            Some(outcomes.clone())
        }
        _ => None,
    })
    .await
}

/// Waits for a round that comes to this.
async fn comes_to(blocks: &mut broadcast::Receiver<Arc<CommittedBlock>>, expected: &[Outcome]) {
    let mut seen = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let round = opened(blocks).await;
        let outcomes = closed(blocks, round).await;
        if outcomes == expected {
            return;
        }
        seen.push(outcomes);
    }
    panic!("no round comes to {expected:?}: {seen:?}");
}

/// Deletes a blob in the next round, and looks at the pairs that a node holds then, which were
/// `pairs` before; what the round comes to. None if it was over too soon.
async fn delete_in_a_round(
    (cluster, client): (&Cluster, &Client),
    blob: BlobId,
    pairs: u64,
) -> Option<Vec<Outcome>> {
    let node = cluster.node(0).unwrap();
    let mut blocks = node.ledger().committed();
    let round = opened(&mut blocks).await;
    client.delete(blob, cluster.wallet()).await.unwrap();
    let is_over = |event: &Event| match event {
        Event::BlobEnded { blob: ended } if *ended == blob => Some(false),
        Event::ChallengeClosed { .. } => Some(true),
        _ => None,
    };
    if told(&mut blocks, is_over).await {
        return None;
    }
    // Whatever is done with the next block: who is asked for it can show it.
    let mut next = blocks.recv().await.unwrap();
    let held = node.usage().pairs;
    loop {
        if next.events.iter().any(|event| matches!(event, Event::ChallengeClosed { .. })) {
            return None;
        }
        match blocks.try_recv() {
            Ok(block) => next = block,
            Err(_) => break,
        }
    }
    assert_eq!(held, pairs, "what a round may ask for is gone");
    Some(closed(&mut blocks, round).await)
}

/// A counter of a node.
async fn counter(cluster: &Cluster, node: usize, name: &str) -> u64 {
    let metrics = cluster.metrics(node).await.unwrap();
    let name = format!("floe_challenges_{name}_total ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value.unwrap_or_else(|| panic!("no {name}in {metrics}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_pass_and_a_blob_deleted_in_a_round_costs_nobody_anything() {
    use Outcome::Passed;
    let cluster = builder(4).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    for (seed, bytes) in [(1, 10), (2, 50_000)] {
        store(&client, &cluster, seed, bytes).await;
    }
    let peer = RawPeer::join(&cluster).await;
    let mut blocks = cluster.node(0).unwrap().ledger().committed();
    comes_to(&mut blocks, &[Passed; 4]).await;
    let mut seen = Vec::new();
    for seed in 3..=ROUNDS_MAX {
        // Its slivers are too long to be read whole.
        let blob = store(&client, &cluster, seed, 1_000_000).await;
        peer.wait_for_pairs(&cluster, 3).await;
        let outcomes = delete_in_a_round((&cluster, &client), blob, 3).await;
        peer.wait_for_pairs(&cluster, 2).await;
        if outcomes.as_deref() == Some(&[Passed; 4]) {
            break;
        }
        seen.push(outcomes);
        assert!(seed < ROUNDS_MAX, "somebody misses whatever is deleted: {seen:?}");
    }

    for node in 0..4 {
        let mut score = cluster.node(node).unwrap().challenges();
        let passed = timeout(DEADLINE, score.wait_for(|score| score.passed >= 2)).await;
        drop(passed.expect("it counts its rounds").unwrap());
        match peer.ask(cluster.node_id(node), Request::NodeStatus).await {
            Response::NodeStatus(status) => assert!(status.challenges.passed >= 2),
            other => panic!("{other:?}"),
        }
    }
    client.shutdown().await;
    cluster.shutdown().await.unwrap();
}

/// How long a node takes to answer, with what is asked for.
async fn answer_takes(peer: &RawPeer, node: NodeId, request: Request) -> Duration {
    let asked = Instant::now();
    let answer = peer.ask(node, request).await;
    assert!(matches!(answer, Response::Sliver { .. } | Response::Symbols(_)), "{answer:?}");
    asked.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nodes_are_challenged_symbols_and_secondary_slivers_wait_and_rows_do_not() {
    let cluster = builder(4).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    let blob = store(&client, &cluster, 1, 1_000).await;
    let peer = RawPeer::join(&cluster).await;
    let node = cluster.node_id(0);
    let pair = peer.pairs_of(node, &blob)[0];
    let sliver = |axis| Request::ReadSliver { blob, pair, axis };
    let targets = vec![SymbolIndex::new(0)];
    let symbols = Request::ReadSymbols { blob, pair, axis: Axis::Primary, targets };
    let mut blocks = cluster.node(0).unwrap().ledger().committed();
    // A machine that is busy may come to ask when the window is over.
    let mut seen = Vec::new();
    for _ in 0..5 {
        let round = opened(&mut blocks).await;
        while blocks.recv().await.unwrap().block.header.height.get() <= round.get() {}
        let [row, column, symbol] =
            [sliver(Axis::Primary), sliver(Axis::Secondary), symbols.clone()]
                .map(|request| answer_takes(&peer, node, request));
        let (row, column, symbol) = tokio::join!(row, column, symbol);
        let window = Duration::from_millis(300);
        if row < column && row < symbol && column.min(symbol) >= window / 3 {
            assert!(column.max(symbol) < DEADLINE);
            client.shutdown().await;
            return cluster.shutdown().await.unwrap();
        }
        seen.push((row, column, symbol));
    }
    panic!("nothing waits: {seen:?}");
}

/// Removes everything that a node stores of these blobs, which does not run.
fn empty(cluster: &Cluster, node: usize, blobs: &[BlobId]) {
    let paths = NodePaths::below(&cluster.node_dir(node));
    let config = StoreConfig::new(paths.store, paths.marker, cluster.node_id(node));
    let store = Store::open(&config).unwrap();
    for shard in (0..cluster.committee().n_shards()).map(ShardIndex::new) {
        for blob in blobs {
            store.remove_pair(shard, blob).unwrap();
        }
    }
    store.flush().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_lost_its_slivers_or_is_down_misses_and_the_others_pass() {
    use Outcome::{Missed, Passed};
    let lazy = 5;
    let cluster = builder(7).configure(move |node, config| {
        if node == lazy {
            // It does not get them back by itself.
            config.repair.recovery_bytes_max = 1;
        }
    });
    let mut cluster = cluster.start().await.unwrap();
    let client = cluster.client().await.unwrap();
    let blobs =
        [store(&client, &cluster, 1, 1_000).await, store(&client, &cluster, 2, 9_000).await];
    cluster.stop(6).await.unwrap();
    cluster.stop(lazy).await.unwrap();
    empty(&cluster, lazy, &blobs);
    cluster.start(lazy).await.unwrap();
    cluster.wait_connected().await.unwrap();

    let mut blocks = cluster.node(0).unwrap().ledger().committed();
    comes_to(&mut blocks, &[Passed, Passed, Passed, Passed, Passed, Missed, Missed]).await;
    let mut score = cluster.node(lazy).unwrap().challenges();
    let absent = Some(Miss::Absent { step: 0 });
    let told = score.wait_for(|score| score.last_failure == absent);
    drop(timeout(DEADLINE, told).await.expect("it is told").unwrap());

    // Who comes back passes again, and reads nothing for the rounds that are long over.
    let round = opened(&mut blocks).await;
    closed(&mut blocks, round).await;
    cluster.start(6).await.unwrap();
    loop {
        let round = opened(&mut blocks).await;
        if closed(&mut blocks, round).await[6] == Passed {
            break;
        }
    }
    assert!(counter(&cluster, 6, "over").await > 0);
    client.shutdown().await;
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_whose_announcement_was_lost_is_announced_again() {
    let cluster = builder(4).start().await.unwrap();
    let keys = KeyPair::from_seed([98; 32]);
    let members = cluster.committee().members().iter().map(|member| member.node);
    let chain = cluster.network().genesis.chain_id();
    let limits = Limits::new(cluster.committee().config());
    let mut config = NetworkConfig::new(keys, chain, limits, Role::StorageNode);
    config.committee = members.collect();
    let bootstrap = cluster.network().bootstrap.iter();
    config.bootstrap = bootstrap.map(|address| address.parse().unwrap()).collect();
    let (network, mut inbound, _) = network::start(config, &mut Registry::default()).await.unwrap();
    let mut peers = network.peers();
    peers.wait_for(|view| view.connected.contains_key(&cluster.node_id(0))).await.unwrap();

    // Of no round: nobody else takes it, and it waits until the next block.
    let (committee, ledger) = (cluster.committee(), cluster.node(0).unwrap().ledger().clone());
    let fact = |number| ChallengeFact {
        epoch: committee.epoch(),
        round: ChallengeRound::new(1_000_000 + number),
        node: cluster.node_id(0),
        end: Hash::ZERO,
    };
    let at = committee.position(&cluster.node_id(0)).unwrap();
    let bls = NodeKeys::generate().unwrap().bls;
    let heard = async {
        for number in 0_u64.. {
            let fact = fact(number);
            let signatures: Vec<_> = (0..committee.members().len())
                .filter(|position| *position != at)
                .map(|position| (position, fact.sign(&chain, &bls)))
                .collect();
            let certificate = ChallengeCertificate::new(committee, fact, &signatures).unwrap();
            let operation = SystemOperation::PassChallenge { certificate: certificate.to_bytes() };
            let inserted = ledger.insert_system(operation.clone(), true).await.unwrap();
            assert_eq!(inserted, Ok(()));
            // The first announcement is lost to whoever listens: only what comes next counts.
            if ledger.insert_system(operation.clone(), true).await.unwrap().is_ok() {
                continue;
            }
            let again = |bytes: &[u8]| {
                let said = LedgerAnnouncement::decode(LedgerTopic::System, bytes);
                matches!(said, Ok(LedgerAnnouncement::SystemAgain(of, _)) if of == operation)
            };
            let listens = async {
                while let Some(message) = inbound.transactions.recv().await {
                    if again(&message.bytes) {
                        return;
                    }
                }
            };
            // The topic's subscription may come later than the connection.
            if timeout(Duration::from_secs(2), listens).await.is_ok() {
                return;
            }
        }
    };
    timeout(DEADLINE, heard).await.expect("it is announced again");
    network.shutdown().await;
    cluster.shutdown().await.unwrap();
}

/// What a member does that lies as it can: sends transcripts that are none, signs falsely what it
/// acknowledges, commits itself twice.
struct Liar {
    network: network::Network,
    keys: NodeKeys,
    chain: ChainId,
    others: Vec<NodeId>,
}

impl Liar {
    /// In place of node `node`, which is stopped.
    async fn replace(cluster: &mut Cluster, node: usize) -> Self {
        let keys = NodeKeys::open(&NodePaths::below(&cluster.node_dir(node)).key).unwrap();
        cluster.stop(node).await.unwrap();
        let chain = cluster.network().genesis.chain_id();
        let limits = Limits::new(cluster.committee().config());
        let mut config = NetworkConfig::new(keys.node.clone(), chain, limits, Role::StorageNode);
        config.limits.loopback_exempt = true;
        config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        let bootstrap = cluster.network().bootstrap.iter();
        config.bootstrap = bootstrap.map(|address| address.parse().unwrap()).collect();
        let members = cluster.committee().members().iter().map(|member| member.node);
        config.committee = members.collect();
        let me = keys.node.public();
        let others: Vec<_> = config.committee.iter().copied().filter(|node| *node != me).collect();
        let (network, mut inbound, _) =
            network::start(config, &mut Registry::default()).await.unwrap();
        let mut peers = network.peers();
        peers.wait_for(|view| view.connected.len() >= others.len()).await.unwrap();
        tokio::spawn(async move {
            while let Some(InboundRequest { request, reply, .. }) = inbound.requests.recv().await {
                if let Request::ReadTranscript { .. } = request {
                    reply.reply(Response::Transcript(Some(vec![0; 50_000].into())));
                }
            }
        });
        Self { network, keys, chain, others }
    }

    /// Lies in a round.
    async fn lie(&self, round: ChallengeRound, epoch: Epoch) {
        let node = self.keys.node.public();
        for byte in [1, 2] {
            let commitment = Commitment { round, node, end: Hash::new([byte; 32]) };
            self.network.publish(Topic::Challenges, commitment.to_bytes()).await.unwrap();
        }
        for _ in 0..20 {
            for node in &self.others {
                let fact = ChallengeFact { epoch, round, node: *node, end: Hash::ZERO };
                let signature = fact.sign(&self.chain, &self.keys.bls);
                let request = Request::Acknowledge { round, signature };
                let answer = self.network.request(*node, request).await;
                assert!(matches!(answer, Ok(Response::Taken)), "{answer:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lies_and_a_stranger_that_floods_cost_nobody_anything() {
    use Outcome::{Missed, Passed};
    let mut cluster = builder(4).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    store(&client, &cluster, 1, 1_000).await;
    let liar = Liar::replace(&mut cluster, 1).await;
    let stranger_key = KeyPair::from_seed([99; 32]);
    let stranger = RawPeer::join_with_key(&cluster, stranger_key.clone(), Role::LightPeer).await;
    let (rounds, mut lied_in) = mpsc::channel(16);
    let mut blocks = cluster.node(0).unwrap().ledger().committed();
    let epoch = cluster.committee().epoch();
    tokio::spawn(async move {
        while let Some(round) = lied_in.recv().await {
            liar.lie(round, epoch).await;
        }
    });
    let (mut arrived, mut rounds_lied, mut unharmed) = (0, 0, 0);
    while unharmed < 2 {
        assert!(rounds_lied < ROUNDS_MAX, "somebody misses whenever others lie");
        rounds_lied += 1;
        let round = opened(&mut blocks).await;
        rounds.send(round).await.unwrap();
        // In the name of a member first, while it is still heard, then in its own.
        for node in [cluster.node_id(2), stranger_key.public()] {
            for byte in 0..100 {
                let end = Hash::new([byte; 32]);
                let said = Commitment { round, node, end }.to_bytes();
                arrived +=
                    u32::from(stranger.network.publish(Topic::Challenges, said).await.is_ok());
            }
        }
        for request in [
            Request::ReadTranscript { round },
            Request::Acknowledge {
                round,
                signature: ChallengeFact {
                    epoch,
                    round,
                    node: cluster.node_id(0),
                    end: Hash::ZERO,
                }
                .sign(stranger.chain(), &NodeKeys::generate().unwrap().bls),
            },
        ] {
            // It may have been cut off for what it has published.
            if let Ok(answer) = stranger.network.request(cluster.node_id(0), request).await {
                assert_eq!(answer, Response::Refused(Refusal::Unavailable));
            }
        }
        let outcomes = closed(&mut blocks, round).await;
        assert_ne!(outcomes[1], Passed, "the liar has passed");
        unharmed += u32::from(outcomes == [Passed, Missed, Passed, Passed]);
    }
    assert!(arrived > 0, "the stranger has published nothing");
    let mut refused = 0;
    let mut rejected = 0;
    for node in [0, 2, 3] {
        let metrics = cluster.metrics(node).await.unwrap();
        rejected += u32::from(metrics.lines().any(|line| {
            let is_of = |word: &str| line.contains(word);
            is_of("gossip_judged_total") && is_of("challenges") && is_of("rejected")
        }));
        refused += counter(&cluster, node, "refused").await;
        // What a stranger says is nothing new, whatever it says.
        let said = counter(&cluster, node, "commitments").await;
        assert!(said <= 15 * rounds_lied, "{said} commitments said something new");
    }
    assert!(rejected > 0, "nobody has heard what the stranger says in another's name");
    assert!(refused > 0, "nobody has judged what the liar sent");
    client.shutdown().await;
    cluster.shutdown().await.unwrap();
}
