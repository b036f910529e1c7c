//! Node processes killed with `kill -9` while transactions are under way: the others go on, who
//! comes back catches up, nothing committed is lost, and no two blocks exist at one height.
//!
//! Two rounds unless `FLOE_ROUNDS` says otherwise. The full run:
//! `FLOE_ROUNDS=20 cargo test --release -p floe-testnet --test ledger_crash`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use floe_node::network::{self, Network, NetworkConfig, Role};
use floe_protocol::{
    hash::Hash,
    index::Height,
    keys::{ChainId, KeyPair, NodeId},
    ledger::{
        AccountId, Amount, Block, BlockHash, Entry, Key, Operation, Record, SignedTransaction,
        Timestamp, Transaction, TransactionId,
    },
    message::{LedgerRequest, LedgerResponse, Limits, Request, Response, ledger::MAX_WAIT_MS},
};
use floe_testnet::Cluster;
use prometheus_client::registry::Registry;

const NODES: usize = 7;
/// For anything that has to happen.
const DEADLINE: Duration = Duration::from_secs(180);
/// Between two looks at a node that is not there yet.
const LOOK: Duration = Duration::from_millis(50);

/// A light peer that pays and looks.
struct Watcher {
    network: Network,
    chain: ChainId,
    nodes: Vec<NodeId>,
    wallet: KeyPair,
    fee: Amount,
    /// Transfers of the wallet that were seen committed.
    paid: u64,
    /// What was seen committed, by any node.
    known: BTreeMap<Height, (BlockHash, Hash)>,
}

impl Watcher {
    async fn join(cluster: &Cluster) -> Self {
        let genesis = &cluster.network().genesis;
        let (committee, chain) = (cluster.committee(), genesis.chain_id());
        let key = KeyPair::from_seed([78; 32]);
        let limits = Limits::new(committee.config());
        let mut config = NetworkConfig::new(key, chain, limits, Role::LightPeer);
        let bootstrap = cluster.network().bootstrap.iter();
        config.bootstrap = bootstrap.map(|address| address.parse().unwrap()).collect();
        config.committee = committee.members().iter().map(|member| member.node).collect();
        let (network, mut inbound, _) =
            network::start(config, &mut Registry::default()).await.unwrap();
        tokio::spawn(async move { while inbound.requests.recv().await.is_some() {} });
        Self {
            network,
            chain,
            nodes: (0..NODES).map(|node| cluster.node_id(node)).collect(),
            wallet: cluster.wallet().clone(),
            fee: genesis.ledger.fee_per_operation,
            paid: 0,
            known: BTreeMap::new(),
        }
    }

    /// A node's answer; none while it is down.
    async fn ask(&self, node: usize, request: LedgerRequest) -> Option<LedgerResponse> {
        match self.network.request(self.nodes[node], Request::Ledger(request)).await {
            Ok(Response::Ledger(answer)) => Some(*answer),
            Ok(Response::Refused(_)) | Err(_) => None,
            Ok(other) => panic!("node {node} answers {other:?}"),
        }
    }

    async fn tip(&self, node: usize) -> Height {
        let answer = self.wait(node, || LedgerRequest::Tip, |answer| Some(answer.clone())).await;
        match answer {
            LedgerResponse::Tip(tip) => tip.map_or(Height::new(0), |tip| tip.header.height),
            other => panic!("{other:?}"),
        }
    }

    /// Asks a node until its answer is of use.
    async fn wait<T>(
        &self,
        node: usize,
        request: impl Fn() -> LedgerRequest,
        wanted: impl Fn(&LedgerResponse) -> Option<T>,
    ) -> T {
        let started = Instant::now();
        loop {
            let found = self.ask(node, request()).await.as_ref().and_then(&wanted);
            if let Some(found) = found {
                return found;
            }
            assert!(started.elapsed() < DEADLINE, "node {node} does not get there");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The wallet's nonce, as a node says.
    async fn nonce(&self, node: usize) -> u64 {
        let account = Key::Account(AccountId::new(self.wallet.public()));
        let request = || LedgerRequest::Facts { height: None, keys: vec![account.clone()] };
        let nonce = |answer: &LedgerResponse| match answer {
            LedgerResponse::Facts { proofs, .. } => {
                let value = proofs.first()?.value.as_ref()?;
                match Entry::from_bytes(value)?.record {
                    Record::Account(account) => Some(account.nonce),
                    _ => None,
                }
            }
            _ => None,
        };
        self.wait(node, request, nonce).await
    }

    /// Hands a node the wallet's next transfers; the last one's id.
    async fn pay(&self, node: usize, nonces: std::ops::Range<u64>) -> TransactionId {
        let sign = |nonce| {
            let to = AccountId::new(KeyPair::from_seed([9; 32]).public());
            let transfer = Operation::Transfer { to, amount: Amount::from_frost(1) };
            let transaction = Transaction {
                sender: AccountId::new(self.wallet.public()),
                nonce,
                fee: self.fee,
                expires: Timestamp::from_ms(u64::MAX),
                operations: vec![transfer],
            };
            transaction.sign(&self.chain, &self.wallet)
        };
        let signed: Vec<_> = nonces.map(sign).collect();
        let last = signed.last().expect("there is one").id(&self.chain);
        let transactions: Vec<_> = signed.iter().map(SignedTransaction::to_bytes).collect();
        let request = || LedgerRequest::Submit { transactions: transactions.clone() };
        self.wait(node, request, |_| Some(())).await;
        last
    }

    /// Pays through one node and waits until the payments are committed there.
    async fn load(&mut self, node: usize) {
        // A node that was away may not know yet what was paid before.
        let from = self.nonce(node).await.max(self.paid);
        self.paid = from + 10;
        let id = self.pay(node, from..from + 10).await;
        // The node answers as soon as it has committed the last of them.
        let request = || LedgerRequest::Transaction { id, wait_ms: MAX_WAIT_MS };
        let included = |answer: &LedgerResponse| match answer {
            LedgerResponse::Transaction(included) => included.as_ref().map(|_| ()),
            _ => None,
        };
        self.wait(node, request, included).await;
    }

    /// Reads a node's whole chain and compares it with all that was ever seen.
    async fn check_chain(&mut self, node: usize, round: usize) {
        let tip = self.tip(node).await;
        let mut next = Height::new(1);
        while next <= tip {
            let request = || LedgerRequest::Blocks { from: next, max_bytes: 1 << 20 };
            let blocks = self
                .wait(node, request, |answer| match answer {
                    LedgerResponse::Blocks { blocks } if !blocks.is_empty() => Some(blocks.clone()),
                    _ => None,
                })
                .await;
            for certified in blocks {
                let header = Block::from_bytes(&certified.block).unwrap().header;
                let found = (header.hash(), header.state_root);
                assert_eq!(certified.certificate.block, found.0);
                let known = *self.known.entry(header.height).or_insert(found);
                assert_eq!(found, known, "round {round}, node {node}, height {}", header.height);
                next = header.height.next();
            }
        }
    }

    /// Waits until all nodes are at the highest tip that was ever seen, and compares their chains.
    /// Blocks go on being made meanwhile, so that one node may be ahead of the next.
    async fn check_all(&mut self, round: usize) {
        let mut highest = self.known.keys().next_back().copied().unwrap_or(Height::new(0));
        for node in 0..NODES {
            highest = highest.max(self.tip(node).await);
        }
        for node in 0..NODES {
            let reached = |answer: &LedgerResponse| match answer {
                LedgerResponse::Tip(Some(tip)) if tip.header.height >= highest => Some(()),
                _ => None,
            };
            self.wait(node, || LedgerRequest::Tip, reached).await;
        }
        for node in 0..NODES {
            self.check_chain(node, round).await;
            let has_all = self.tip(node).await >= highest;
            assert!(has_all, "round {round}: node {node} lost what was committed");
        }
    }
}

fn rounds() -> usize {
    std::env::var("FLOE_ROUNDS")
        .map_or(2, |rounds| rounds.parse().expect("FLOE_ROUNDS is a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_committed_is_lost_by_kill_9() {
    let cluster = Cluster::builder().nodes(NODES).shards(7).processes(true);
    let cluster = cluster.executable(env!("CARGO_BIN_EXE_floe-testnet"));
    let mut cluster = cluster.start().await.unwrap();
    let mut watcher = Watcher::join(&cluster).await;
    for round in 0..rounds() {
        // Two fall, the others go on, the two come back.
        let fallen = [round % NODES, (round * 3 + 1) % NODES];
        let fallen = if fallen[0] == fallen[1] { [0, 1] } else { fallen };
        let up = (0..NODES).find(|node| !fallen.contains(node)).unwrap();
        watcher.load(up).await;
        for node in fallen {
            cluster.kill(node).await.unwrap();
        }
        watcher.load(up).await;
        for node in fallen {
            cluster.start(node).await.unwrap();
        }
        watcher.load(fallen[0]).await;
        watcher.check_all(round).await;

        // All fall while transactions are under way.
        let from = watcher.nonce(up).await;
        watcher.pay(up, from..from + 10).await;
        for node in 0..NODES {
            cluster.kill(node).await.unwrap();
        }
        for node in 0..NODES {
            cluster.start(node).await.unwrap();
        }
        watcher.load(up).await;
        watcher.check_all(round).await;
        println!("round {round}: {} blocks, the same on all nodes", watcher.known.len());
    }
    watcher.network.shutdown().await;
    cluster.shutdown().await.unwrap();
}
