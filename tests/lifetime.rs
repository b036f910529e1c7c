//! How blobs end, on a real swarm with short epochs: at their end, uncertified, deleted. What is
//! paid comes back exactly as far as it should, and what is over is freed on every node.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{RawPeer, WANTED, Written};
use floe_node::client::{LedgerError, ReadOptions, StatusError, StoreProgress};
use floe_protocol::{
    blob::BlobId,
    certificate::Certificate,
    index::Epoch,
    keys::KeyPair,
    ledger::{AccountId, Amount, BlobState, LedgerParameters},
    message::{RefusedOperation, Response, SubmitError},
    test_support,
    transfer::Wanted,
};
use floe_testnet::Cluster;
use tokio::{sync::watch, time::timeout};

const DEADLINE: Duration = Duration::from_secs(120);

/// Long enough for a store, short enough to wait for its end.
const SHORT: u64 = 8_000;

async fn swarm(epoch_ms: u64) -> (Cluster, RawPeer) {
    let ledger = LedgerParameters { epoch_ms, heartbeat_ms: 250, ..LedgerParameters::default() };
    let cluster = Cluster::builder().nodes(4).shards(16).ledger(ledger).start().await.unwrap();
    let peer = RawPeer::join(&cluster).await;
    (cluster, peer)
}

/// Returns when a node has come to this epoch, and the client has followed it there.
async fn epoch(cluster: &Cluster, peer: &RawPeer, wanted: Epoch) {
    let reached = async {
        let mut states = cluster.node(0).unwrap().ledger().state();
        states.wait_for(|state| state.summary().epoch >= wanted).await.unwrap();
        // The client asks for newer headers every two seconds only.
        while peer.committee().epoch() < wanted {
            peer.ledger().summary().await.unwrap();
        }
    };
    timeout(DEADLINE, reached).await.unwrap_or_else(|_| panic!("no epoch {wanted}"));
}

/// Waits until the ledger has swept a blob.
async fn gone(peer: &RawPeer, blob: BlobId) {
    let gone = async {
        loop {
            match peer.client.blob_status(blob).await {
                Err(StatusError::NotFound { .. }) => return,
                Ok(status) => assert_ne!(status.state, BlobState::Invalid),
                Err(error) => panic!("{error}"),
            }
        }
    };
    timeout(DEADLINE, gone).await.expect("the ledger sweeps it");
}

async fn balance(peer: &RawPeer, key: &KeyPair) -> Amount {
    peer.ledger().balance(AccountId::new(key.public())).await.unwrap().value
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_lives_as_long_as_it_was_paid_and_an_uncertified_one_lapses() {
    let (cluster, peer) = swarm(SHORT).await;
    let wallet = cluster.wallet();
    let genesis = balance(&peer, wallet).await;
    let file = test_support::blob(1, 10_000);
    let wanted = Wanted { epochs: 2, deletable: false };
    let progress = watch::Sender::new(StoreProgress::default());
    let stored = peer.client.store(file.clone(), wanted, wallet, &progress).await.unwrap();
    let registration = peer.registration(stored.registration.unwrap()).await.unwrap();
    assert_eq!(stored.end, registration.start.plus(2));

    // Stored on every node, paid for five epochs, and never certified.
    let uncertified = Written::honest(peer.config(), test_support::blob(2, 10_000));
    let wanted = Wanted { epochs: 5, deletable: true };
    let before = balance(&peer, wallet).await;
    let id = peer.register(&uncertified, wallet, wanted).await;
    let lapsing = peer.registration(id).await.unwrap();
    let fee = peer.ledger().fee(1).unwrap();
    let price = before.checked_sub(balance(&peer, wallet).await).unwrap().checked_sub(fee).unwrap();
    let everybody = 0..cluster.nodes();
    peer.upload(&uncertified, id, everybody).await;

    // In its last epoch it still reads.
    epoch(&cluster, &peer, stored.end.get().checked_sub(1).map(Epoch::new).unwrap()).await;
    let read = peer.client.read(stored.blob, ReadOptions::default()).await.unwrap();
    assert_eq!(read.read_to_end().await.unwrap(), file);

    epoch(&cluster, &peer, stored.end.max(lapsing.deadline())).await;
    gone(&peer, stored.blob).await;
    gone(&peer, uncertified.id()).await;
    peer.wait_for_pairs(&cluster, 0).await;

    // The blob that was stored gives nothing back; the other one what it paid from the epoch on in
    // which it had lapsed: three of five, the write not.
    let refund = lapsing.payments[0].per_epoch.checked_mul(3).unwrap();
    assert_eq!(lapsing.paid_from(lapsing.deadline()), Some(refund));
    let fees = peer.ledger().fee(3).unwrap();
    let spent = [stored.paid, price, fees].into_iter().try_fold(Amount::ZERO, Amount::checked_add);
    let left = genesis.checked_sub(spent.unwrap()).unwrap().checked_add(refund).unwrap();
    assert_eq!(balance(&peer, wallet).await, left);
    let supply = peer.ledger().summary().await.unwrap().value.unwrap().supply;
    assert_eq!(supply.total().unwrap(), cluster.network().genesis.supply().unwrap());
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn confirmations_of_an_epoch_that_is_over_certify_nothing_and_new_ones_do() {
    let (cluster, peer) = swarm(2 * SHORT).await;
    let wallet = cluster.wallet();
    let blob = Written::honest(peer.config(), test_support::blob(3, 5_000));
    let registration = peer.register(&blob, wallet, WANTED).await;
    let everybody = 0..cluster.nodes();
    let first = peer.committee();
    let confirmations = peer.upload(&blob, registration, everybody.clone()).await;
    let fact = peer.fact(blob.id(), registration);
    assert_eq!((fact.epoch, confirmations.len()), (first.epoch(), 4));
    let late = Certificate::new(&first, fact, &confirmations).unwrap();

    epoch(&cluster, &peer, first.epoch().plus(1)).await;
    let refused = peer.certify(registration, late.to_bytes(), wallet).await.unwrap_err();
    let LedgerError::Refused { refusal, .. } = refused else { panic!("{refused}") };
    assert_eq!(refusal, SubmitError::Refused(RefusedOperation::Certificate));
    assert_eq!(peer.registration(registration).await.unwrap().certified, None);

    // The nodes have everything: they are only asked again.
    let fact = peer.fact(blob.id(), registration);
    assert_eq!(fact.epoch, first.epoch().plus(1));
    let committee = peer.committee();
    let mut confirmations = Vec::new();
    for (position, member) in committee.members().iter().enumerate() {
        match peer.confirm(member.node, registration).await {
            Response::Confirmed { epoch, signature } if epoch == fact.epoch => {
                confirmations.push((position, signature));
            }
            other => panic!("{other:?}"),
        }
    }
    let certificate = Certificate::new(&committee, fact, &confirmations).unwrap();
    peer.certify(registration, certificate.to_bytes(), wallet).await.unwrap();
    assert_eq!(peer.client.blob_status(blob.id()).await.unwrap().state, BlobState::Certified);
    cluster.shutdown().await.unwrap();
}
