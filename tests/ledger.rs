//! The ledger on the real network: nodes agree on blocks, fall, come back and catch up, and whoever
//! votes twice pays for it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use common::RawPeer;
use floe_node::{
    CommittedBlock, Ledger,
    key_file::NodeKeys,
    network::{RequestError, Role, Topic},
};
use floe_protocol::{
    consensus::ConsensusMessage,
    hash::Hash,
    index::{Epoch, Height},
    keys::KeyPair,
    ledger::{
        AccountId, Amount, BlockHash, Event, Key, Operation, SystemOperation, Timestamp,
        Transaction, TransactionId, VerifiedTransaction,
    },
    message::{LedgerAnnouncement, LedgerRequest, LedgerResponse, Request, Response},
    vote::{Equivocation, Vote, VoteKind},
};
use floe_testnet::Cluster;
use tokio::{sync::broadcast::Receiver, time::timeout};

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(120);

fn ledger(cluster: &Cluster, node: usize) -> Ledger {
    cluster.node(node).expect("a running node").ledger().clone()
}

fn recipient() -> AccountId {
    AccountId::new(KeyPair::from_seed([9; 32]).public())
}

/// The wallet's transfer with this nonce.
fn signed_transfer(cluster: &Cluster, nonce: u64) -> Arc<VerifiedTransaction> {
    let state = ledger(cluster, 0).state().borrow().clone();
    let wallet = cluster.wallet();
    let amount = Amount::from_frost(1);
    let transaction = Transaction {
        sender: AccountId::new(wallet.public()),
        nonce,
        fee: state.parameters().ledger.fee_per_operation,
        expires: Timestamp::from_ms(u64::MAX),
        operations: vec![Operation::Transfer { to: recipient(), amount }],
    };
    Arc::new(transaction.sign(state.chain(), wallet).verify(state.chain()).unwrap())
}

/// Gives a node the wallet's transfers with these nonces, to be spread.
async fn transfer(
    cluster: &Cluster,
    node: usize,
    nonces: std::ops::Range<u64>,
) -> Vec<TransactionId> {
    let ledger = ledger(cluster, node);
    let transactions: Vec<_> = nonces.map(|nonce| signed_transfer(cluster, nonce)).collect();
    let ids = transactions.iter().map(|transaction| transaction.id()).collect();
    for result in ledger.insert(transactions, true).await.unwrap() {
        assert_eq!(result, Ok(()));
    }
    ids
}

/// Waits until the blocks of a node have brought all these transactions; the last block's height.
async fn committed(blocks: &mut Receiver<Arc<CommittedBlock>>, ids: &[TransactionId]) -> Height {
    let mut missing: Vec<_> = ids.to_vec();
    loop {
        let block = timeout(DEADLINE, blocks.recv()).await.expect("in time").unwrap();
        missing.retain(|id| !block.transactions.contains(id));
        if missing.is_empty() {
            return block.block.header.height;
        }
    }
}

/// Waits until a node has committed a height; hash and state root of that block.
async fn reached(cluster: &Cluster, node: usize, height: Height) -> (BlockHash, Hash) {
    let ledger = ledger(cluster, node);
    let mut state = ledger.state();
    let tip = timeout(DEADLINE, state.wait_for(|state| state.tip().height >= height)).await;
    tip.expect("the node reaches the height in time").expect("it runs");
    let (block, _) = ledger.block(height).unwrap().expect("it is committed");
    (block.header.hash(), block.header.state_root)
}

/// The hashes of all blocks of a node.
fn chain(cluster: &Cluster, node: usize) -> BTreeMap<Height, BlockHash> {
    let ledger = ledger(cluster, node);
    let tip = ledger.state().borrow().tip().height.get();
    let hash = |height| {
        let (block, _) = ledger.block(height).unwrap().expect("below the tip");
        (height, block.header.hash())
    };
    (1..=tip).map(Height::new).map(hash).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_given_to_one_node_is_committed_on_all() {
    let cluster = Cluster::builder().nodes(4).shards(7).start().await.unwrap();
    cluster.wait_connected().await.unwrap();
    let mut blocks = ledger(&cluster, 3).committed();
    let ids = transfer(&cluster, 0, 0..3).await;
    let height = committed(&mut blocks, &ids).await;
    let expected = reached(&cluster, 0, height).await;
    for node in 1..4 {
        assert_eq!(reached(&cluster, node, height).await, expected, "node {node}");
    }
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_beyond_the_chain_get_no_false_answer() {
    let cluster = Cluster::builder().nodes(4).shards(7).start().await.unwrap();
    cluster.wait_connected().await.unwrap();
    let stranger = RawPeer::join(&cluster).await;
    let node = cluster.node(0).expect("a running node").id();
    let ask = |request| stranger.network.request(node, Request::Ledger(request));
    let keys = vec![Key::Account(recipient())];
    let facts = |height| LedgerRequest::Facts { height: Some(height), keys: keys.clone() };
    let last = Height::new(u64::MAX);
    assert_eq!(ask(facts(last)).await, Err(RequestError::Closed), "as if it were the genesis");
    let answer = ask(facts(Height::new(0))).await.unwrap();
    let Response::Ledger(answer) = answer else { unreachable!("{answer:?}") };
    let LedgerResponse::Facts { header: None, proofs } = *answer else { unreachable!("genesis") };
    assert_eq!(proofs.len(), 1);
    let empty = [
        (
            LedgerRequest::Handovers { from: Epoch::new(u64::MAX), max: 2 },
            LedgerResponse::Handovers { handovers: Vec::new() },
        ),
        (
            LedgerRequest::Blocks { from: last, max_bytes: 1 },
            LedgerResponse::Blocks { blocks: Vec::new() },
        ),
        (LedgerRequest::Block { height: last }, LedgerResponse::Block(None)),
    ];
    for (question, expected) in empty {
        assert_eq!(ask(question).await, Ok(Response::Ledger(Box::new(expected))));
    }
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_that_votes_twice_is_nobodys_business() {
    let cluster = Cluster::builder().nodes(4).shards(7).start().await.unwrap();
    cluster.wait_connected().await.unwrap();
    let stranger = RawPeer::join(&cluster).await;
    let key = KeyPair::from_seed([66; 32]);
    let mut blocks = ledger(&cluster, 0).committed();
    let mut nonce = 0;
    loop {
        let vote = |seed| {
            let block = Some(BlockHash::new(Hash::new([seed; 32])));
            let (height, kind) = (Height::new(1), VoteKind::Prevote);
            let vote = Vote { height, round: nonce, kind, block, voter: key.public() };
            vote.sign(stranger.chain(), &key)
        };
        let equivocation = Equivocation { first: vote(1), second: vote(2) };
        let report = SystemOperation::ReportEquivocation { equivocation };
        let report = LedgerAnnouncement::System(report).encode().unwrap();
        // Before it knows who listens it has no peers; there are more blocks to come.
        let told = stranger.network.publish(Topic::Transactions, report).await.is_ok();
        let ids = if told {
            // From the same peer, so it comes after the report.
            let transfer = signed_transfer(&cluster, nonce.into());
            let list = vec![transfer.signed().to_bytes()];
            let list = LedgerAnnouncement::Transactions(list).encode().unwrap();
            stranger.network.publish(Topic::Transactions, list).await.unwrap();
            vec![transfer.id()]
        } else {
            transfer(&cluster, 0, nonce.into()..u64::from(nonce) + 1).await
        };
        nonce += 1;
        committed(&mut blocks, &ids).await;
        if told {
            break;
        }
    }
    for node in 0..4 {
        assert_eq!(ledger(&cluster, node).mempool().await.unwrap().system, 0, "node {node}");
    }
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_seven_fall_and_come_back_to_the_same_state() {
    let mut cluster = Cluster::builder().nodes(7).shards(7).start().await.unwrap();
    cluster.wait_connected().await.unwrap();
    let mut blocks = ledger(&cluster, 0).committed();
    let ids = transfer(&cluster, 0, 0..5).await;
    committed(&mut blocks, &ids).await;
    cluster.kill(2).await.unwrap();
    cluster.kill(5).await.unwrap();
    for from in [5, 10, 15] {
        let ids = transfer(&cluster, 0, from..from + 5).await;
        committed(&mut blocks, &ids).await;
    }
    cluster.start(2).await.unwrap();
    cluster.start(5).await.unwrap();
    let ids = transfer(&cluster, 2, 20..25).await;
    let height = committed(&mut blocks, &ids).await;
    let expected = reached(&cluster, 0, height).await;
    for node in 1..7 {
        assert_eq!(reached(&cluster, node, height).await, expected, "node {node}");
    }
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn all_fall_at_once_and_nothing_committed_is_lost() {
    let mut cluster = Cluster::builder().nodes(4).shards(7).start().await.unwrap();
    cluster.wait_connected().await.unwrap();
    let mut nonce = 0;
    let mut known: BTreeMap<Height, BlockHash> = BTreeMap::new();
    for round in 0..3 {
        let mut blocks = ledger(&cluster, 0).committed();
        let ids = transfer(&cluster, 0, nonce..nonce + 5).await;
        committed(&mut blocks, &ids).await;
        // More are under way while everything stops.
        transfer(&cluster, 1, nonce + 5..nonce + 8).await;
        for node in 0..4 {
            known.extend(chain(&cluster, node));
        }
        for node in 0..4 {
            cluster.kill(node).await.unwrap();
        }
        for node in 0..4 {
            cluster.start(node).await.unwrap();
        }
        cluster.wait_connected().await.unwrap();
        // Whatever of the last ones was decided is kept; the rest is gone with the memory.
        let mut tip = ledger(&cluster, 0).state();
        let highest = *known.keys().next_back().unwrap();
        timeout(DEADLINE, tip.wait_for(|state| state.tip().height > highest))
            .await
            .unwrap()
            .unwrap();
        let again = chain(&cluster, 0);
        for (height, hash) in &known {
            assert_eq!(again.get(height), Some(hash), "round {round}, height {height}");
        }
        let state = tip.borrow().clone();
        nonce = wallet_nonce(&cluster, &state);
    }
    cluster.shutdown().await.unwrap();
}

/// How many transactions the wallet has sent.
fn wallet_nonce(cluster: &Cluster, state: &floe_protocol::ledger::State) -> u64 {
    let wallet = AccountId::new(cluster.wallet().public());
    ledger(cluster, 0).account(state, &wallet).unwrap().nonce
}

#[tokio::test(flavor = "multi_thread")]
async fn who_votes_twice_is_slashed_and_jailed() {
    let mut cluster = Cluster::builder().nodes(7).shards(7).start().await.unwrap();
    cluster.wait_connected().await.unwrap();
    let keys = NodeKeys::open(&cluster.dir().join("node-6").join("node.key")).unwrap();
    cluster.stop(6).await.unwrap();
    let liar = RawPeer::join_with_key(&cluster, keys.node.clone(), Role::StorageNode).await;
    let mut blocks = ledger(&cluster, 0).committed();
    let offender = keys.node.public();
    let chain = *ledger(&cluster, 0).state().borrow().chain();
    let mut nonce = 0;
    let slashed = loop {
        // Votes count only at the running height, so both are said again at every height.
        let height = ledger(&cluster, 0).state().borrow().next_height();
        for seed in [1, 2] {
            let block = Some(BlockHash::new(Hash::new([seed; 32])));
            let kind = VoteKind::Prevote;
            let vote = Vote { height, round: 0, kind, block, voter: offender };
            let message = ConsensusMessage::Vote(vote.sign(&chain, &keys.node));
            // Before it knows who listens it has no peers; there are more heights to come.
            let _ = liar.network.publish(Topic::Consensus, message.to_bytes()).await;
        }
        let ids = transfer(&cluster, 0, nonce..nonce + 1).await;
        nonce += 1;
        let mut found = None;
        while found.is_none() {
            let block = timeout(DEADLINE, blocks.recv()).await.expect("in time").unwrap();
            found = block.events.iter().find_map(|event| match event {
                Event::NodeSlashed { node, burned, .. } => Some(Some((*node, *burned))),
                _ => None,
            });
            if found.is_none() && block.transactions.contains(&ids[0]) {
                found = Some(None);
            }
        }
        if let Some(slashed) = found.flatten() {
            break slashed;
        }
    };
    // Five per cent of the 1,000 WAL that every member has staked.
    assert_eq!(slashed, (offender, Amount::from_wal(50)));
    let supply = ledger(&cluster, 0).state().borrow().summary().supply;
    assert_eq!(supply.burned, Amount::from_wal(50));
    cluster.shutdown().await.unwrap();
}
