//! The client's side of the ledger against real nodes: facts with proofs, receipts, listings.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

#[path = "ledger_client/model.rs"]
mod model;
#[path = "ledger_client/staking.rs"]
mod staking;

use std::{collections::BTreeSet, time::Duration};

use floe_node::client::{LedgerClient, LedgerError};
use floe_protocol::{
    index::Epoch,
    keys::KeyPair,
    ledger::{AccountId, Amount, LedgerParameters, Operation},
    light::{Finality, Fitness},
};
use floe_testnet::Cluster;

fn account(key: &KeyPair) -> AccountId {
    AccountId::new(key.public())
}

async fn balance(ledger: &LedgerClient, id: AccountId) -> Amount {
    let proven = ledger.balance(id).await.unwrap();
    assert_eq!(proven.fitness, Fitness::Fresh);
    proven.value
}

fn transfer(to: AccountId, wal: u64) -> Vec<Operation> {
    vec![Operation::Transfer { to, amount: Amount::from_wal(wal) }]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_shows_on_both_accounts_and_in_their_history() {
    let cluster = Cluster::builder().nodes(4).shards(7).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    let ledger = client.ledger();
    let (rich, poor) = (cluster.wallet(), KeyPair::from_seed([9; 32]));
    let start = balance(ledger, account(rich)).await;
    assert_eq!(ledger.account(account(&poor)).await.unwrap().value, None, "absence is proven");

    let receipt = ledger.submit(transfer(account(&poor), 5), rich).await.unwrap();
    // Whoever has a receipt sees what it did, at once.
    let after = ledger.balance(account(&poor)).await.unwrap();
    assert!(after.height() >= receipt.height());
    assert_eq!(after.value, Amount::from_wal(5));
    let spent = Amount::from_wal(5).checked_add(receipt.fee).unwrap();
    assert_eq!(balance(ledger, account(rich)).await, start.checked_sub(spent).unwrap());

    for key in [rich, &poor] {
        let history = ledger.history(account(key), None, 10).await.unwrap();
        assert_eq!(history.len(), 1);
        assert_eq!((history[0].id, history[0].header.height), (receipt.id, receipt.height()));
    }
    let found = ledger.transaction(receipt.id).await.unwrap().unwrap();
    assert_eq!(found.transaction.transaction.operations, transfer(account(&poor), 5));
    let block = ledger.block(receipt.height()).await.unwrap().unwrap();
    assert_eq!(block.hash, receipt.header.hash());
    assert!(ledger.committee().is_quorum(block.signed_shards.unwrap()));
    let nodes = ledger.nodes().await.unwrap().value;
    assert_eq!(nodes.len(), 4);
    let stakes = ledger.stakes(account(rich)).await.unwrap().value;
    assert_eq!(stakes.len(), 4, "the wallet is every node's operator");

    let error = ledger.submit(transfer(account(rich), 6), &poor).await.unwrap_err();
    assert!(matches!(error, LedgerError::Funds { .. }), "{error}");
    assert!(ledger.liars().is_empty());
    client.shutdown().await;
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_at_once_each_get_a_nonce_and_a_receipt() {
    const TRANSFERS: u64 = 20;
    let cluster = Cluster::builder().nodes(4).shards(7).start().await.unwrap();
    // Two clients do not know of each other's transactions: their nonces collide.
    let clients = [cluster.client().await.unwrap(), cluster.client().await.unwrap()];
    let to = AccountId::new(KeyPair::from_seed([9; 32]).public());
    let submits = (0..TRANSFERS).map(|i| {
        let ledger = clients[usize::try_from(i % 2).unwrap()].ledger().clone();
        let wallet = cluster.wallet().clone();
        async move { ledger.submit(transfer(to, 1), &wallet).await }
    });
    let submits: Vec<_> = submits.map(tokio::spawn).collect();
    let mut ids = BTreeSet::new();
    for submit in submits {
        let receipt = tokio::time::timeout(Duration::from_secs(60), submit).await;
        ids.insert(receipt.expect("in time").unwrap().unwrap().id);
    }
    assert_eq!(ids.len() as u64, TRANSFERS, "each receipt is of a transaction of its own");
    let ledger = clients[0].ledger();
    // The other client's last receipt may be later than anything this one has heard of yet.
    let height = clients[1].ledger().known_header().unwrap().header().height;
    let reached = tokio::time::timeout(Duration::from_secs(60), ledger.reached(height)).await;
    assert!(reached.expect("by gossip").unwrap().header().height >= height);
    assert_eq!(balance(ledger, to).await, Amount::from_wal(TRANSFERS), "each was paid once");
    for client in clients {
        client.shutdown().await;
    }
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_follows_epochs_by_one_signature_each() {
    let rules = LedgerParameters {
        heartbeat_ms: 500,
        unbonding_epochs: 1_000,
        ..LedgerParameters::for_epoch(3_000)
    };
    let cluster = Cluster::builder().nodes(4).shards(7).ledger(rules).start().await.unwrap();
    let ended = [Epoch::new(0), Epoch::new(1)];
    for node in 0..cluster.nodes() {
        let mut certified = cluster.node(node).unwrap().certified_handovers();
        let both = certified.wait_for(|epochs| ended.iter().all(|epoch| epochs.contains(epoch)));
        tokio::time::timeout(Duration::from_secs(60), both).await.expect("in time").unwrap();
    }
    let client = cluster.client().await.unwrap();
    let ledger = client.ledger();
    balance(ledger, account(cluster.wallet())).await;
    let followed = ledger.handovers().await.unwrap();
    assert!(followed.len() >= ended.len(), "{} hand-overs", followed.len());
    for (last, epoch) in followed.iter().zip(ended) {
        assert_eq!(last.header().epoch, epoch);
        let Finality::Handover(certificate) = &last.told().finality else {
            panic!("the end of epoch {epoch} is proven by a commit certificate");
        };
        assert_eq!(certificate.fact.last, last.hash());
    }
    assert!(ledger.liars().is_empty());
    client.shutdown().await;
    cluster.shutdown().await.unwrap();
}
