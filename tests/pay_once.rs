//! Whatever interrupts a store or runs beside it: one store is paid for once.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use common::{WANTED, told};
use floe_node::{
    CommittedBlock,
    client::{Client, Outcome, StoreProgress, StoreReport},
};
use floe_protocol::{
    blob::BlobId,
    keys::KeyPair,
    ledger::{AccountId, Amount, Event},
    registration::RegistrationId,
    test_support,
};
use floe_testnet::Cluster;
use tokio::{
    sync::{broadcast::Receiver, watch},
    time::timeout,
};

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(120);

async fn cluster() -> Cluster {
    let cluster = Cluster::builder().nodes(4).shards(7).start().await.unwrap();
    cluster.wait_connected().await.unwrap();
    cluster
}

async fn store(client: Client, file: Bytes, wallet: KeyPair) -> StoreReport {
    let (progress, _) = watch::channel(StoreProgress::default());
    client.store(file, WANTED, &wallet, &progress).await.unwrap()
}

async fn balance(client: &Client, wallet: &KeyPair) -> Amount {
    client.ledger().balance(AccountId::new(wallet.public())).await.unwrap().value
}

async fn own(client: &Client, wallet: &KeyPair, blob: BlobId) -> Vec<RegistrationId> {
    let account = AccountId::new(wallet.public());
    let own = client.ledger().registrations_of(account, blob).await.unwrap().value;
    own.into_iter().map(|(id, _)| id).collect()
}

/// What a store of one unit costs: the price, and a fee to register and to certify.
fn cost(client: &Client) -> Amount {
    let rules = client.parameters().ledger;
    let epochs = rules.storage_price.checked_mul(WANTED.epochs.into()).unwrap();
    let fees = rules.fee_per_operation.checked_mul(2).unwrap();
    rules.write_price.checked_add(epochs).unwrap().checked_add(fees).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_that_store_the_same_at_once_pay_once() {
    let cluster = cluster().await;
    let wallet = cluster.wallet();
    let (one, other) = (cluster.client().await.unwrap(), cluster.client().await.unwrap());
    for seed in 1..=4 {
        let file = test_support::blob(seed, 30_000);
        let before = balance(&one, wallet).await;
        let (a, b) = tokio::join!(
            store(one.clone(), file.clone(), wallet.clone()),
            store(other.clone(), file.clone(), wallet.clone()),
        );
        assert_eq!(a.registration, b.registration, "file {seed}");
        assert_eq!(own(&one, wallet, a.blob).await, [a.registration.unwrap()], "file {seed}");
        let paid = [&a, &b].map(|report| report.outcome);
        assert!(paid.contains(&Outcome::Stored), "file {seed}: {paid:?}");
        let after = balance(&one, wallet).await;
        assert_eq!(before.checked_sub(after), Some(cost(&one)), "file {seed}: {paid:?}");
    }
    cluster.shutdown().await.unwrap();
}

/// Where a store is given up.
#[derive(Clone, Copy, Debug)]
enum Interrupted {
    /// As soon as it begins to pay.
    Paying,
    /// When a node has committed the payment; the client may not know yet.
    Registered,
    /// When a node has committed the certificate.
    Certified,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_store_is_resumed_and_paid_once() {
    use Interrupted::{Certified, Paying, Registered};
    let cluster = cluster().await;
    let wallet = cluster.wallet();
    let client = cluster.client().await.unwrap();
    for (seed, place) in (1..).zip([Paying, Registered, Certified, Paying, Registered]) {
        let file = test_support::blob(seed, 30_000);
        let before = balance(&client, wallet).await;
        interrupt(&cluster, &client, file.clone(), place).await;
        let stored = store(client.clone(), file, wallet.clone()).await;
        let own = own(&client, wallet, stored.blob).await;
        assert_eq!(own, [stored.registration.unwrap()], "{place:?}");
        let after = balance(&client, wallet).await;
        assert_eq!(before.checked_sub(after), Some(cost(&client)), "{place:?}");
    }
    cluster.shutdown().await.unwrap();
}

/// Begins to store a file and gives up at a place.
async fn interrupt(cluster: &Cluster, client: &Client, file: Bytes, place: Interrupted) {
    let mut blocks = cluster.node(0).expect("a running node").ledger().committed();
    let (progress, mut watched) = watch::channel(StoreProgress::default());
    let (client, wallet) = (client.clone(), cluster.wallet().clone());
    let task =
        tokio::spawn(async move { client.store(file, WANTED, &wallet, &progress).await.map(drop) });
    match place {
        Interrupted::Paying => timeout(DEADLINE, watched.changed()).await.unwrap().unwrap(),
        Interrupted::Registered => {
            wait_for(&mut blocks, |event| matches!(event, Event::BlobRegistered { .. })).await;
        }
        Interrupted::Certified => {
            wait_for(&mut blocks, |event| matches!(event, Event::BlobCertified { .. })).await;
        }
    }
    task.abort();
    // It may have come to its end before: that is no other case.
    drop(task.await);
}

async fn wait_for(blocks: &mut Receiver<Arc<CommittedBlock>>, wanted: impl Fn(&Event) -> bool) {
    told(blocks, |event| wanted(event).then_some(())).await;
}
