//! How long blobs live, on the real network: they are paid for, stay, and go, and what they took
//! comes back, as WAL and as disk.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{RawPeer, Written};
use floe_node::{
    client::{
        Client, Deletion, LedgerError, LifetimeError, Outcome, ReadError, ReadOptions, StatusError,
        StoreProgress, StoreReport,
    },
    config::NodePaths,
};
use floe_protocol::{
    blob::BlobId,
    certificate::{Certificate, ConfirmedFact},
    index::{Epoch, Height},
    keys::{BlsSignature, KeyPair},
    ledger::{AccountId, Amount, BlobState, LedgerParameters},
    message::{RefusedOperation, Response, SubmitError},
    registration::RegistrationId,
    test_support,
    transfer::Wanted,
};
use floe_storage::{Store, StoreConfig, Usage};
use floe_testnet::{Cluster, extra_account_key};
use tokio::{sync::watch, time::timeout};

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(120);
const NODES: usize = 4;

/// Blocks come although nothing happens, so that whoever waits for one does not wait long.
fn rules(epoch: Duration) -> LedgerParameters {
    LedgerParameters {
        heartbeat_ms: 200,
        ..LedgerParameters::for_epoch(u64::try_from(epoch.as_millis()).unwrap())
    }
}

async fn cluster(epoch: Duration) -> Cluster {
    let builder = Cluster::builder().nodes(NODES).shards(7).ledger(rules(epoch));
    let cluster = builder.extra_accounts(1).start().await.unwrap();
    cluster.wait_connected().await.unwrap();
    cluster
}

fn deletable(epochs: u32) -> Wanted {
    Wanted { epochs, deletable: true }
}

async fn store(client: &Client, blob: &Bytes, wanted: Wanted, wallet: &KeyPair) -> StoreReport {
    let (progress, _) = watch::channel(StoreProgress::default());
    client.store(blob.clone(), wanted, wallet, &progress).await.unwrap()
}

async fn read(client: &Client, blob: BlobId) -> Result<Vec<u8>, ReadError> {
    client.read(blob, ReadOptions::default()).await?.read_to_end().await
}

async fn balance(client: &Client, wallet: &KeyPair) -> Amount {
    client.ledger().balance(AccountId::new(wallet.public())).await.unwrap().value
}

fn usage(cluster: &Cluster, node: usize) -> Usage {
    cluster.node(node).expect("a running node").usage()
}

/// Waits, block by block, until a node is as wished.
async fn node_is(cluster: &Cluster, node: usize, wish: impl Fn(&Usage) -> bool) {
    let mut blocks = cluster.node(node).expect("a running node").ledger().committed();
    let wished = async {
        while !wish(&usage(cluster, node)) {
            drop(blocks.recv().await);
        }
    };
    let seen = timeout(DEADLINE, wished).await;
    seen.unwrap_or_else(|_| panic!("node {node}: {:?}", usage(cluster, node)));
}

/// Waits until a node has come to an epoch.
async fn begun(cluster: &Cluster, node: usize, epoch: Epoch) {
    let mut states = cluster.node(node).expect("a running node").ledger().state();
    let begun = states.wait_for(|state| state.summary().epoch >= epoch);
    drop(timeout(DEADLINE, begun).await.expect("epochs go by").unwrap());
}

/// Waits until the client knows of an epoch.
async fn heard(cluster: &Cluster, client: &Client, epoch: Epoch) {
    begun(cluster, 0, epoch).await;
    let height = cluster.node(0).unwrap().ledger().state().borrow().tip().height;
    timeout(DEADLINE, client.ledger().reached(height)).await.expect("headers come").unwrap();
}

fn times(count: u64, amount: Amount) -> Amount {
    amount.checked_mul(count.into()).unwrap()
}

/// What a blob of one unit has cost after so many epochs.
fn cost(rules: &LedgerParameters, epochs: u64) -> Amount {
    sum(&[rules.write_price, times(epochs, rules.storage_price)])
}

/// Of the epochs bought, those that had begun when it was deleted.
fn begun_epochs(deletion: &Deletion, report: &StoreReport, bought: u64) -> u64 {
    let at = deletion.receipt.header.header().epoch;
    at.get() + 1 - (report.end.get() - bought)
}

fn sum(amounts: &[Amount]) -> Amount {
    amounts.iter().fold(Amount::ZERO, |sum, amount| sum.checked_add(*amount).unwrap())
}

/// One blob of each fate, side by side: it ends, is deleted, is kept by another owner, or was never
/// certified.
#[tokio::test(flavor = "multi_thread")]
async fn blobs_end_their_bytes_go_and_refunds_are_exact() {
    let cluster = cluster(Duration::from_secs(10)).await;
    let client = cluster.client().await.unwrap();
    let (alice, bob) = (cluster.wallet().clone(), extra_account_key(0));
    let rules = client.parameters().ledger;
    let empty = usage(&cluster, 0);
    let before = balance(&client, &alice).await;

    let files: Vec<Bytes> = (1..=4).map(|seed| test_support::blob(seed, 40_000)).collect();
    let [ending, deleted, shared, lapsing] = files.as_slice() else { unreachable!() };
    let ending = (ending, store(&client, ending, deletable(2), &alice).await);
    let deleted = (deleted, store(&client, deleted, deletable(3), &alice).await);
    let of_bob = store(&client, shared, deletable(9), &bob).await;
    let shared = (shared, store(&client, shared, deletable(2), &alice).await);
    assert_ne!(shared.1.registration, of_bob.registration, "each pays for a registration");
    for (bytes, report) in [&ending, &deleted, &shared] {
        assert_eq!(report.outcome, Outcome::Stored);
        assert_eq!(read(&client, report.blob).await.unwrap(), bytes[..]);
    }

    // Registered, stored on all nodes, but never certified.
    let peer = RawPeer::join(&cluster).await;
    let lapsing = Written::honest(client.encoding(), lapsing.clone());
    let registration = peer.register(&lapsing, &alice, deletable(5)).await;
    let lapsing_start = peer.registration(registration).await.unwrap().start;
    assert_eq!(peer.upload(&lapsing, registration, 0..NODES).await.len(), NODES);
    assert!(matches!(
        read(&client, lapsing.id()).await,
        Err(ReadError::NotReadable { state: BlobState::Registered, .. })
    ));
    for node in 0..NODES {
        node_is(&cluster, node, |usage| usage.blobs == 4).await;
    }

    // What is deleted goes at once, but what another one keeps stays.
    let deletion = client.delete(deleted.1.blob, &alice).await.unwrap();
    let gone = read(&client, deleted.1.blob).await;
    assert!(matches!(gone, Err(ReadError::Status(StatusError::NotFound { .. }))), "{gone:?}");
    let shared_deletion = client.delete(shared.1.blob, &alice).await.unwrap();
    assert_eq!(read(&client, shared.1.blob).await.unwrap(), shared.0[..]);
    for node in 0..NODES {
        node_is(&cluster, node, |usage| usage.blobs == 3).await;
    }
    let of_anothers = client.delete(shared.1.blob, &alice).await;
    assert!(matches!(of_anothers, Err(LifetimeError::NotOwned { .. })), "{of_anothers:?}");

    // The ends come: two epochs after its own an uncertified registration has lapsed.
    let end = ending.1.end.max(lapsing_start.plus(2));
    heard(&cluster, &client, end).await;
    for node in 0..NODES {
        node_is(&cluster, node, |usage| usage.blobs == 1).await;
    }
    let ended = read(&client, ending.1.blob).await;
    assert!(ended.is_err(), "nobody answers for it any more: {ended:?}");
    assert_eq!(read(&client, shared.1.blob).await.unwrap(), shared.0[..]);

    // To the last FROST: each pays for the write and for the epochs that had begun.
    let kept = [
        cost(&rules, 2),
        cost(&rules, begun_epochs(&deletion, &deleted.1, 3)),
        cost(&rules, begun_epochs(&shared_deletion, &shared.1, 2)),
        // Until it lapsed, it covered its own epoch and the next.
        cost(&rules, 2),
    ];
    // Three times register and certify, one registration alone, two deletions.
    let fees = times(9, rules.fee_per_operation);
    let expected = before.checked_sub(sum(&[sum(&kept), fees])).unwrap();
    assert_eq!(balance(&client, &alice).await, expected);
    let not_begun = 3 - begun_epochs(&deletion, &deleted.1, 3);
    assert_eq!(deletion.refund, times(not_begun, rules.storage_price));

    // The last owner goes, and with it the last byte.
    client.delete(shared.1.blob, &bob).await.unwrap();
    for node in 0..NODES {
        node_is(&cluster, node, |usage| {
            (usage.blobs, usage.pairs, usage.live_bytes) == (0, 0, empty.live_bytes)
        })
        .await;
    }
    cluster.shutdown().await.unwrap();
}

/// Stores a blob on all nodes; their confirmations of `fact`. Those of other epochs are left out.
async fn confirmations(
    peer: &RawPeer,
    blob: &Written,
    registration: RegistrationId,
    fact: &ConfirmedFact,
) -> Vec<(usize, BlsSignature)> {
    let mut confirmations = Vec::new();
    for (position, member) in peer.committee().members().iter().enumerate() {
        peer.table(member.node, blob, registration).await;
        for pair in peer.pairs_of(member.node, &blob.id()) {
            peer.pair(member.node, blob, registration, pair).await;
        }
        match peer.confirm(member.node, registration).await {
            Response::Confirmed { epoch, signature } if epoch == fact.epoch => {
                confirmations.push((position, signature));
            }
            other => assert!(matches!(other, Response::Confirmed { .. }), "{other:?}"),
        }
    }
    confirmations
}

/// Confirmations are for the epoch in which they were given.
#[tokio::test(flavor = "multi_thread")]
async fn a_boundary_between_confirmations_and_certificate_costs_new_confirmations_only() {
    let cluster = cluster(Duration::from_secs(4)).await;
    let client = cluster.client().await.unwrap();
    let peer = RawPeer::join(&cluster).await;
    let wallet = cluster.wallet();
    let file = test_support::blob(7, 50_000);
    let blob = Written::honest(client.encoding(), file.clone());
    let registration = peer.register(&blob, wallet, deletable(9)).await;

    // A quorum of confirmations, all of one epoch.
    let (epoch, certificate) = loop {
        let committee = peer.committee();
        let fact = peer.fact(blob.id(), registration);
        let confirmations = confirmations(&peer, &blob, registration, &fact).await;
        if let Ok(certificate) = Certificate::new(&committee, fact, &confirmations) {
            break (fact.epoch, certificate);
        }
        // The epoch ended meanwhile: once more, in the next.
        heard(&cluster, &peer.client, fact.epoch.plus(1)).await;
    };
    heard(&cluster, &client, epoch.plus(1)).await;
    let refused = peer.certify(registration, certificate.to_bytes(), wallet).await;
    assert!(
        matches!(
            refused,
            Err(LedgerError::Refused {
                refusal: SubmitError::Refused(RefusedOperation::Certificate),
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(client.blob_status(blob.id()).await.unwrap().state, BlobState::Registered);

    // The same writer goes on: nothing is paid, and nothing but confirmations is asked for.
    let before = balance(&client, wallet).await;
    let stored = store(&client, &file, deletable(9), wallet).await;
    assert_eq!((stored.outcome, stored.registration), (Outcome::Resumed, Some(registration)));
    assert_eq!(stored.paid, Amount::ZERO);
    assert!(stored.certificate.unwrap().fact.epoch > epoch);
    let fee = client.parameters().ledger.fee_per_operation;
    assert_eq!(balance(&client, wallet).await, before.checked_sub(fee).unwrap());
    assert_eq!(read(&client, blob.id()).await.unwrap(), file[..]);
    cluster.shutdown().await.unwrap();
}

/// A client stores while epochs end under its hands, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn stores_go_on_through_short_epochs() {
    let cluster = cluster(Duration::from_secs(4)).await;
    let client = cluster.client().await.unwrap();
    let wallet = cluster.wallet();
    let first = client.committee().epoch();
    let mut seed = 0;
    while client.committee().epoch().get() < first.get() + 3 {
        seed += 1;
        let file = test_support::blob(seed, 30_000);
        let stored = store(&client, &file, deletable(60), wallet).await;
        assert_eq!(read(&client, stored.blob).await.unwrap(), file[..], "blob {seed}");
    }
    cluster.shutdown().await.unwrap();
}

/// What a node holds and the ledger does not know is removed at its next start; but only when it
/// has followed the ledger to where the blob was known.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_frees_at_its_start_what_ended_while_it_was_away() {
    let mut cluster = cluster(Duration::from_secs(3_600)).await;
    let client = cluster.client().await.unwrap();
    let wallet = cluster.wallet().clone();
    let file = test_support::blob(1, 40_000);
    let [ended, living] = [1, 2].map(|seed| test_support::blob(seed, 40_000));
    let ended = store(&client, &ended, deletable(3), &wallet).await.blob;
    let kept = store(&client, &living, deletable(3), &wallet).await.blob;
    node_is(&cluster, 3, |usage| usage.blobs == 2).await;
    let height = cluster.node(3).unwrap().ledger().state().borrow().tip().height;
    cluster.stop(3).await.unwrap();
    client.delete(ended, &wallet).await.unwrap();

    // As if it had crashed right before removing one, and its ledger were behind with another.
    let (stray, early) = (Written::honest(client.encoding(), file.slice(..9)), file.slice(..8));
    let early = Written::honest(client.encoding(), early);
    let late_height = Height::new(height.get() + 60);
    {
        let paths = NodePaths::below(&cluster.dir().join("node-3"));
        let node = cluster.node_id(3);
        let store = Store::open(&StoreConfig::new(paths.store, paths.marker, node)).unwrap();
        store.put_table(&stray.header, Height::new(1), &[]).unwrap();
        store.put_table(&early.header, late_height, &[]).unwrap();
        store.flush().unwrap();
    }
    cluster.start(3).await.unwrap();
    node_is(&cluster, 3, |usage| usage.blobs == 2).await;
    let tip = cluster.node(3).unwrap().ledger().state().borrow().tip().height;
    assert!(tip < late_height, "too slow to see it: at {tip}");
    // Blocks come at each heartbeat.
    node_is(&cluster, 3, |usage| usage.blobs == 1).await;
    assert!(cluster.node(3).unwrap().ledger().state().borrow().tip().height >= late_height);
    assert_eq!(read(&client, kept).await.unwrap(), living[..]);
    cluster.shutdown().await.unwrap();
}
