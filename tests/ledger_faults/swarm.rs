//! What the tests here share: payments and waiting for them, members that fall silent before they
//! say anything at a height, a peer that holds members' keys and says what a test wants it to say,
//! and a copy of the chain to build on.
//!
//! In a quiet swarm a height begins with a payment, but not only: with a node's report that it
//! follows the ledger, as a heartbeat, when a node starts. So nothing here rests on a height that
//! has not begun: [`silence`] looks whether it has, and whoever needs that tries again.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use floe_node::{
    Clock, CommittedBlock, Ledger,
    key_file::NodeKeys,
    network::{self, GossipMessage, InboundRequest, Network, NetworkConfig, Role, Topic},
};
use floe_protocol::{
    consensus::{BodyPart, ConsensusMessage, PART_BYTES, Proposal as ConsensusProposal},
    genesis::Genesis,
    hash::{Domain, Hash},
    index::Height,
    keys::{ChainId, KeyPair, NodeId},
    ledger::{
        AccountId, Amount, Block, BlockHash, CommitRecord, Header, MemoryStore, Operation,
        Proposal, SignedTransaction, State, SystemOperation, Transaction, TransactionId,
    },
    merkle::MerkleTree,
    message::{LedgerRequest, LedgerResponse, Limits, Request, Response, SubmitError},
    vote::{CommitCertificate, Vote, VoteKind},
};
use floe_storage::VoteJournal;
use floe_testnet::Cluster;
use prometheus_client::registry::Registry;
use tokio::{
    sync::{broadcast, mpsc},
    time::timeout,
};

/// Far longer than anything here takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);
/// Turns in which a height may begin before nodes are silent, until a test gives up.
pub(crate) const TURNS_MAX: usize = 10;

pub(crate) fn ledger(cluster: &Cluster, node: usize) -> Ledger {
    cluster.node(node).expect("a running node").ledger().clone()
}

/// Whether a block reports that a member voted twice.
pub(crate) fn reports_anybody(block: &Block) -> bool {
    let is_report = |operation: &SystemOperation| {
        matches!(operation, SystemOperation::ReportEquivocation { .. })
    };
    block.body.system.iter().any(is_report)
}

pub(crate) fn keys(cluster: &Cluster, node: usize) -> NodeKeys {
    NodeKeys::open(&cluster.dir().join(format!("node-{node}")).join("node.key")).unwrap()
}

pub(crate) fn recipient() -> AccountId {
    AccountId::new(KeyPair::from_seed([9; 32]).public())
}

/// The wallet's transfer with this nonce, good for longer than any test takes.
pub(crate) fn draft(cluster: &Cluster, nonce: u64) -> Transaction {
    Transaction {
        sender: AccountId::new(cluster.wallet().public()),
        nonce,
        fee: cluster.network().genesis.ledger.fee_per_operation,
        expires: Clock::SYSTEM.now().plus_ms(1_200_000),
        operations: vec![Operation::Transfer { to: recipient(), amount: Amount::from_frost(1) }],
    }
}

pub(crate) fn sign(cluster: &Cluster, transaction: Transaction) -> SignedTransaction {
    transaction.sign(&cluster.network().genesis.chain_id(), cluster.wallet())
}

/// Gives a node the wallet's transfer with this nonce, to be spread.
pub(crate) async fn pay(cluster: &Cluster, node: usize, nonce: u64) -> TransactionId {
    let signed = sign(cluster, draft(cluster, nonce));
    let chain = cluster.network().genesis.chain_id();
    let transaction = Arc::new(signed.verify(&chain).unwrap());
    let id = transaction.id();
    let results = ledger(cluster, node).insert(vec![transaction], true).await.unwrap();
    assert_eq!(results, [Ok(())], "nonce {nonce}");
    id
}

/// Hands transactions to a node as any wallet does.
pub(crate) async fn submit(
    puppet: &Puppet,
    node: NodeId,
    transactions: Vec<Vec<u8>>,
) -> Vec<Result<TransactionId, SubmitError>> {
    let request = Request::Ledger(LedgerRequest::Submit { transactions });
    match puppet.network.request(node, request).await.unwrap() {
        Response::Ledger(answer) => match *answer {
            LedgerResponse::Submitted { results } => results,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

pub(crate) type Blocks = broadcast::Receiver<Arc<CommittedBlock>>;

pub(crate) async fn next_block(blocks: &mut Blocks) -> Arc<CommittedBlock> {
    timeout(DEADLINE, blocks.recv()).await.expect("in time").expect("none is missed")
}

/// Waits until the blocks of a node have brought this transaction; the block.
pub(crate) async fn committed(blocks: &mut Blocks, id: TransactionId) -> Arc<CommittedBlock> {
    loop {
        let block = next_block(blocks).await;
        if block.transactions.contains(&id) {
            return block;
        }
    }
}

/// Payments through one node, one after the other: they keep heights coming.
pub(crate) struct Payments {
    node: usize,
    blocks: Blocks,
    /// Payments made so far.
    pub(crate) made: u64,
    waits: Option<TransactionId>,
}

impl Payments {
    pub(crate) fn new(cluster: &Cluster, node: usize) -> Self {
        Self { node, blocks: ledger(cluster, node).committed(), made: 0, waits: None }
    }

    /// Pays, unless a payment waits.
    pub(crate) async fn pay(&mut self, cluster: &Cluster) {
        if self.waits.is_none() {
            self.waits = Some(pay(cluster, self.node, self.made).await);
            self.made += 1;
        }
    }

    /// The next block of the node.
    pub(crate) async fn next_block(&mut self) -> Arc<CommittedBlock> {
        let block = next_block(&mut self.blocks).await;
        self.waits = self.waits.filter(|id| !block.transactions.contains(id));
        block
    }

    /// Waits until the payment that waits, or else a new one, is committed; the height.
    pub(crate) async fn paid(&mut self, cluster: &Cluster) -> Height {
        self.pay(cluster).await;
        loop {
            let block = self.next_block().await;
            if self.waits.is_none() {
                return block.block.header.height;
            }
        }
    }

    /// Pays until all nodes are below a height such as is wanted; which.
    pub(crate) async fn until(
        &mut self,
        cluster: &Cluster,
        wanted: impl Fn(Height) -> bool,
    ) -> Height {
        let all: Vec<_> = (0..cluster.nodes()).collect();
        loop {
            let last = self.paid(cluster).await;
            agree(cluster, &all, last).await;
            if wanted(last.next()) {
                return last.next();
            }
        }
    }
}

/// Kills nodes before they begin a height; whether that was in time, so that nothing that they say
/// there is under way. If it was not, they run again.
pub(crate) async fn silence(cluster: &mut Cluster, nodes: &[usize], height: Height) -> bool {
    for node in nodes {
        cluster.kill(*node).await.unwrap();
    }
    // A node writes down that it begins a height before it says anything there.
    let has_begun = |node: &usize| {
        let journal = VoteJournal::open(&cluster.node_dir(*node), cluster.node_id(*node));
        journal.unwrap().expect("it has one").height() >= height
    };
    let in_time = !nodes.iter().any(has_begun);
    if !in_time {
        println!("height {height} began too soon");
        for node in nodes {
            cluster.start(*node).await.unwrap();
        }
    }
    in_time
}

pub(crate) fn tip(cluster: &Cluster, node: usize) -> Height {
    ledger(cluster, node).state().borrow().tip().height
}

/// Waits until a node has committed a height; hash and state root of that block.
pub(crate) async fn reached(cluster: &Cluster, node: usize, height: Height) -> (BlockHash, Hash) {
    let ledger = ledger(cluster, node);
    let mut state = ledger.state();
    let reached = timeout(DEADLINE, state.wait_for(|state| state.tip().height >= height)).await;
    reached.expect("the node reaches the height in time").expect("it runs");
    let (block, _) = ledger.block(height).unwrap().expect("it is committed");
    (block.header.hash(), block.header.state_root)
}

/// Waits until these nodes have committed a height, and checks that they agree on it.
pub(crate) async fn agree(cluster: &Cluster, nodes: &[usize], height: Height) {
    let expected = reached(cluster, nodes[0], height).await;
    for node in &nodes[1..] {
        assert_eq!(reached(cluster, *node, height).await, expected, "node {node} at {height}");
    }
}

/// The member whose turn it is, by its number in the cluster.
pub(crate) fn turn(cluster: &Cluster, height: Height, round: u32) -> usize {
    let chain = cluster.network().genesis.chain_id();
    let node = floe_protocol::consensus::proposer(&chain, height, round, cluster.committee());
    (0..cluster.nodes()).find(|i| cluster.node_id(*i) == node).expect("a member")
}

/// A peer of the network that signs with whatever keys it is given.
pub(crate) struct Puppet {
    pub(crate) network: Network,
    pub(crate) consensus: mpsc::Receiver<GossipMessage>,
    pub(crate) requests: mpsc::Receiver<InboundRequest>,
    pub(crate) chain: ChainId,
}

impl Puppet {
    /// Joins and waits until it is connected with all running nodes.
    pub(crate) async fn join(cluster: &Cluster, key: KeyPair) -> Self {
        let genesis = &cluster.network().genesis;
        let (chain, committee) = (genesis.chain_id(), cluster.committee());
        let limits = Limits::new(committee.config());
        let mut config = NetworkConfig::new(key, chain, limits, Role::StorageNode);
        let bootstrap = cluster.network().bootstrap.iter();
        config.bootstrap = bootstrap.map(|address| address.parse().unwrap()).collect();
        config.committee = committee.members().iter().map(|member| member.node).collect();
        config.limits.loopback_exempt = true;
        let (network, inbound, _) = network::start(config, &mut Registry::default()).await.unwrap();
        let running = (0..cluster.nodes()).filter(|node| cluster.is_running(*node));
        let running: BTreeSet<_> = running.map(|node| cluster.node_id(node)).collect();
        let mut peers = network.peers();
        let all =
            peers.wait_for(|view| running.iter().all(|node| view.connected.contains_key(node)));
        timeout(DEADLINE, all).await.expect("connected in time").unwrap();
        Self { network, consensus: inbound.consensus, requests: inbound.requests, chain }
    }

    /// The next message of consensus that it hears.
    pub(crate) async fn hear(&mut self) -> ConsensusMessage {
        let message = timeout(DEADLINE, self.consensus.recv()).await.expect("in time");
        judged(message.expect("the network runs"))
    }

    /// Waits until one node is all that is left, and takes what the others had said.
    pub(crate) async fn hear_out(&mut self, left: NodeId) -> Vec<ConsensusMessage> {
        let mut peers = self.network.peers();
        let gone = peers.wait_for(|view| view.connected.keys().eq([&left]));
        timeout(DEADLINE, gone).await.expect("the others go in time").unwrap();
        std::iter::from_fn(|| self.consensus.try_recv().ok()).map(judged).collect()
    }

    /// Says something, once somebody listens.
    pub(crate) async fn say(&self, message: &ConsensusMessage) {
        let mut patience = tokio::time::interval(Duration::from_millis(20));
        let said = async {
            while self.network.publish(Topic::Consensus, message.to_bytes()).await.is_err() {
                // Nobody has told yet what it listens to.
                patience.tick().await;
            }
        };
        timeout(DEADLINE, said).await.expect("somebody listens in time");
    }

    pub(crate) async fn vote(
        &self,
        key: &KeyPair,
        (height, round, kind): (Height, u32, VoteKind),
        block: Option<BlockHash>,
    ) {
        let vote = Vote { height, round, kind, block, voter: key.public() };
        self.say(&ConsensusMessage::Vote(vote.sign(&self.chain, key))).await;
    }

    /// Proposes a header with a body of these bytes. Returns when all is said.
    pub(crate) async fn propose(&self, key: &KeyPair, header: Header, body: &[u8]) {
        for message in proposal(&self.chain, key, header, body) {
            self.say(&message).await;
        }
    }
}

/// Passes a message on, and gives what it says.
pub(crate) fn judged(message: GossipMessage) -> ConsensusMessage {
    let GossipMessage { bytes, verdict, .. } = message;
    verdict.accept();
    ConsensusMessage::from_bytes(&bytes).expect("nodes pass nothing else on")
}

/// The messages by which a new block is proposed; the parts are those of `body`, whatever it is.
pub(crate) fn proposal(
    chain: &ChainId,
    key: &KeyPair,
    header: Header,
    body: &[u8],
) -> Vec<ConsensusMessage> {
    let pieces: Vec<_> = body.chunks(PART_BYTES).collect();
    let leaves = pieces.iter().map(|piece| Domain::BodyPart.hash(&[piece])).collect();
    let tree = MerkleTree::new(Domain::BodyNode, leaves);
    let proposal = ConsensusProposal {
        round: header.round,
        pol_round: None,
        parts_root: tree.root(),
        parts: u16::try_from(pieces.len()).unwrap(),
        proposer: key.public(),
        header,
    };
    let proposal = ConsensusMessage::Proposal(Box::new(proposal.sign(chain, key)));
    let (height, round) = (header.height, header.round);
    let part = |(index, piece): (u16, &&[u8])| {
        let path = tree.path(index.into());
        ConsensusMessage::Part(BodyPart { height, round, index, path, bytes: piece.to_vec() })
    };
    std::iter::once(proposal).chain((0_u16..).zip(&pieces).map(part)).collect()
}

/// A copy of the chain in memory, to build blocks on.
pub(crate) struct Mirror {
    pub(crate) state: State,
    store: MemoryStore,
    certificate: Option<CommitCertificate>,
}

impl Mirror {
    pub(crate) fn new(genesis: &Genesis) -> Self {
        let (state, change) = State::genesis(genesis).unwrap();
        let mut store = MemoryStore::default();
        store.write(change);
        Self { state, store, certificate: None }
    }

    /// Takes all blocks that a node has.
    pub(crate) fn follow(&mut self, ledger: &Ledger) {
        while let Some((block, certificate)) = ledger.block(self.state.next_height()).unwrap() {
            let executed = self.state.execute(&self.store, &block, &|_| true).unwrap();
            self.store.write(executed.change);
            self.state = executed.next;
            self.certificate = Some(certificate);
        }
    }

    /// A valid block on top, without transactions.
    pub(crate) fn build(&self, keys: &NodeKeys, round: u32) -> Block {
        let proposal = Proposal {
            node: keys.node.public(),
            bls: &keys.bls,
            round,
            now: Clock::SYSTEM.now(),
            commit_record: CommitRecord { parent: self.certificate.clone(), late: Vec::new() },
        };
        let built = self.state.propose(&self.store, proposal, (&[], &|_| false), &mut |_| None);
        built.unwrap().block
    }
}
