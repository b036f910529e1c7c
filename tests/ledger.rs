//! The ledger on the real network: nodes agree on blocks, transactions are committed everywhere.

use std::{sync::Arc, time::Duration};

use floe_node::NodeHandle;
use floe_protocol::{
    index::Height,
    keys::KeyPair,
    ledger::{AccountId, Amount, Operation, Transaction},
};
use floe_testnet::Cluster;

/// Waits until a node has committed a height.
async fn reached(node: &NodeHandle, height: Height) -> floe_protocol::hash::Hash {
    let mut state = node.ledger().state();
    let reached = state.wait_for(|state| state.tip().height >= height);
    let state = tokio::time::timeout(Duration::from_secs(60), reached).await;
    let state = state.expect("in time").expect("the ledger runs");
    state.tip().state_root
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_given_to_one_node_is_committed_on_all() {
    let cluster = Cluster::builder().nodes(4).shards(7).start().await.unwrap();
    cluster.wait_connected().await.unwrap();
    let node = cluster.node(0).unwrap();
    let wallet = cluster.wallet();
    let state = node.ledger().state().borrow().clone();
    let to = AccountId::new(KeyPair::from_seed([9; 32]).public());
    let operations = vec![Operation::Transfer { to, amount: Amount::from_wal(5) }];
    let transaction = Transaction {
        sender: AccountId::new(wallet.public()),
        nonce: 0,
        fee: state.parameters().ledger.fee_per_operation,
        expires: floe_protocol::ledger::Timestamp::from_ms(u64::MAX),
        operations,
    };
    let verified = transaction.sign(state.chain(), wallet).verify(state.chain()).unwrap();
    let id = verified.id();
    let mut committed = cluster.node(3).unwrap().ledger().committed();
    let results = node.ledger().insert(vec![Arc::new(verified)], true).await.unwrap();
    assert_eq!(results, [Ok(())]);
    let block = loop {
        let block = tokio::time::timeout(Duration::from_secs(60), committed.recv()).await;
        let block = block.expect("in time").unwrap();
        if block.transactions.contains(&id) {
            break block;
        }
    };
    let height = block.block.header.height;
    for i in 0..4 {
        reached(cluster.node(i).unwrap(), height).await;
    }
    cluster.shutdown().await.unwrap();
}
