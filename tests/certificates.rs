//! What makes a blob certified, on the ledger of a real swarm: a quorum's word for this blob, this
//! registration and this epoch, and nothing else. Registrations do not get into each other's way.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{RawPeer, WANTED, Written};
use floe_node::{
    client::{LedgerError, Outcome, ReadError, ReadOptions, StatusError, StoreProgress},
    config::NodePaths,
    key_file::NodeKeys,
};
use floe_protocol::{
    certificate::{Certificate, ConfirmedFact},
    encoding::Axis,
    index::Epoch,
    keys::{BlsSignature, KeyPair},
    ledger::{AccountId, BlobState, Operation},
    message::{RefusedOperation, Request, Response, SubmitError},
    registration::RegistrationId,
    test_support,
    transfer::Wanted,
};
use floe_testnet::{Cluster, extra_account_key};
use tokio::sync::watch;

/// Why the ledger refuses it.
fn refusal(result: Result<impl Sized, LedgerError>) -> SubmitError {
    match result {
        Err(LedgerError::Refused { refusal, .. }) => refusal,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("taken"),
    }
}

const fn refused(operation: RefusedOperation) -> SubmitError {
    SubmitError::Refused(operation)
}

/// A certificate's layout with whatever signers and signature one likes.
fn forge(fact: &ConfirmedFact, members: u16, signers: u8, signatures: &[BlsSignature]) -> Vec<u8> {
    let mut bytes = fact.epoch.get().to_le_bytes().to_vec();
    bytes.extend_from_slice(fact.blob.as_bytes());
    bytes.extend_from_slice(fact.registration.as_bytes());
    bytes.extend_from_slice(&members.to_le_bytes());
    bytes.push(signers);
    bytes.extend_from_slice(BlsSignature::aggregate(signatures).unwrap().as_bytes());
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_true_certificate_certifies_and_a_refused_one_changes_nothing() {
    let cluster = Cluster::builder().nodes(4).shards(16).start().await.unwrap();
    let (peer, wallet) = (RawPeer::join(&cluster).await, cluster.wallet());
    let committee = peer.committee();
    let blob = Written::honest(peer.config(), test_support::blob(5, 100));
    let other = Written::honest(peer.config(), test_support::blob(6, 100));
    let [registration, again] =
        [peer.register(&blob, wallet, WANTED).await, peer.register(&blob, wallet, WANTED).await];
    let of_other = peer.register(&other, wallet, WANTED).await;
    let fact = peer.fact(blob.id(), registration);
    let confirmations = peer.upload(&blob, registration, [0, 1, 3]).await;
    let [s0, s1, s3] = *confirmations.iter().map(|(_, s)| *s).collect::<Vec<_>>() else {
        panic!("three nodes confirm");
    };
    let certificate = Certificate::new(&committee, fact, &confirmations).unwrap();
    let bytes = certificate.to_bytes();
    assert_eq!(bytes, forge(&fact, 4, 0b1011, &[s0, s1, s3]), "the layout is as documented");

    // What the same nodes would sign for other facts, were they to lie.
    let keys = [0, 1, 3].map(|node| {
        let paths = NodePaths::below(&cluster.dir().join(format!("node-{node}")));
        NodeKeys::open(&paths.key).unwrap().bls
    });
    let sign = |fact: &ConfirmedFact| keys.each_ref().map(|key| fact.sign(peer.chain(), key));
    let signed = |fact: &ConfirmedFact| forge(fact, 4, 0b1011, &sign(fact));
    let next_epoch = ConfirmedFact { epoch: Epoch::new(fact.epoch.get() + 1), ..fact };
    let other_blob = ConfirmedFact { blob: other.id(), ..fact };
    let other_registration = ConfirmedFact { registration: of_other, ..fact };
    let of_again = ConfirmedFact { registration: again, ..fact };
    let foreign = test_support::genesis(4, 16).chain_id();
    let foreign = keys.each_ref().map(|key| fact.sign(&foreign, key));

    let account = AccountId::new(wallet.public());
    let before = peer.ledger().account(account).await.unwrap().value;
    let false_ones = [
        ("renamed to another registration", again, forge(&of_again, 4, 0b1011, &[s0, s1, s3])),
        ("its blob replaced", registration, forge(&other_blob, 4, 0b1011, &[s0, s1, s3])),
        ("another blob's, signed", registration, signed(&other_blob)),
        ("signed for another blob's registration", of_other, signed(&other_registration)),
        ("the next epoch's, signed", registration, signed(&next_epoch)),
        ("its epoch replaced", registration, forge(&next_epoch, 4, 0b1011, &[s0, s1, s3])),
        ("another network's, signed", registration, forge(&fact, 4, 0b1011, &foreign)),
        ("two signers", registration, forge(&fact, 4, 0b0011, &[s0, s1])),
        ("no signer", registration, forge(&fact, 4, 0, &[s0, s1, s3])),
        ("one signer twice", registration, forge(&fact, 4, 0b1011, &[s0, s0, s1])),
        ("two signers, one twice", registration, forge(&fact, 4, 0b0011, &[s0, s1, s1])),
        ("one who did not sign", registration, forge(&fact, 4, 0b1111, &[s0, s1, s3])),
        ("another one than signed", registration, forge(&fact, 4, 0b0111, &[s0, s1, s3])),
        ("a signer too few named", registration, forge(&fact, 4, 0b1001, &[s0, s1, s3])),
        ("a fifth member", registration, forge(&fact, 5, 0b1_1011, &[s0, s1, s3])),
    ];
    for (what, registration, certificate) in false_ones {
        let refusal = refusal(peer.certify(registration, certificate, wallet).await);
        assert_eq!(refusal, refused(RefusedOperation::Certificate), "{what}");
    }
    // No state is needed to tell that these are none.
    let malformed = [
        ("another registration's", again, bytes.clone()),
        ("another blob's registration's", of_other, bytes.clone()),
        ("another registration's, signed", registration, signed(&other_registration)),
        ("one behind the last member", registration, forge(&fact, 4, 0b1_1011, &[s0, s1, s3])),
        ("a byte short", registration, bytes[..bytes.len() - 1].to_vec()),
        ("a byte long", registration, [&bytes[..], &[0]].concat()),
        ("empty", registration, Vec::new()),
    ];
    for (what, registration, certificate) in malformed {
        let refusal = refusal(peer.certify(registration, certificate, wallet).await);
        assert_eq!(refusal, SubmitError::Malformed, "{what}");
    }
    let nobodys = RegistrationId::new([5; 32]);
    let of_nobody = ConfirmedFact { registration: nobodys, ..fact };
    let refused_now = refusal(peer.certify(nobodys, signed(&of_nobody), wallet).await);
    assert_eq!(refused_now, refused(RefusedOperation::Registration));

    // Nothing was paid, nothing is certified, nothing can be read.
    assert_eq!(peer.ledger().account(account).await.unwrap().value, before);
    for id in [registration, again, of_other] {
        assert_eq!(peer.registration(id).await.unwrap().certified, None);
    }
    for id in [blob.id(), other.id()] {
        assert_eq!(peer.client.blob_status(id).await.unwrap().state, BlobState::Registered);
    }
    let read = peer.client.read(blob.id(), ReadOptions::default()).await;
    let state = match read.map(drop) {
        Err(ReadError::NotReadable { state, .. }) => state,
        other => panic!("{other:?}"),
    };
    assert_eq!(state, BlobState::Registered);

    peer.certify(registration, bytes.clone(), wallet).await.unwrap();
    assert_eq!(peer.client.blob_status(blob.id()).await.unwrap().state, BlobState::Certified);
    assert!(peer.registration(registration).await.unwrap().certified.is_some());
    assert_eq!(peer.registration(again).await.unwrap().certified, None, "each on its own");
    let refused_now = refusal(peer.certify(registration, bytes, wallet).await);
    assert_eq!(refused_now, refused(RefusedOperation::AlreadyCertified));
    cluster.shutdown().await.unwrap();
}

/// Before, while and after somebody stores a blob, a stranger registers the same one, lets it lie,
/// certifies it, or deletes it again: the blob is stored, stays, and goes when its owner says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_registration_of_the_same_blob_does_no_harm() {
    let builder = Cluster::builder().nodes(4).shards(16).extra_accounts(1);
    let cluster = builder.start().await.unwrap();
    let peer = RawPeer::join(&cluster).await;
    let (wallet, stranger) = (cluster.wallet(), extra_account_key(0));
    let file = test_support::blob(7, 5_000);
    let blob = Written::honest(peer.config(), file.clone());
    let everybody = 0..cluster.nodes();
    let read = || async {
        peer.client.read(blob.id(), ReadOptions::default()).await.unwrap().read_to_end().await
    };

    // Before: it is registered and lies there, one that can be deleted and one that can't.
    let permanent = Wanted { epochs: 1, deletable: false };
    let [early, kept] = [
        peer.register(&blob, &stranger, WANTED).await,
        peer.register(&blob, &stranger, permanent).await,
    ];
    let registration = peer.register(&blob, wallet, WANTED).await;
    let refused_now = refusal(delete(&peer, registration, &stranger).await);
    assert_eq!(refused_now, refused(RefusedOperation::NotOwner));

    // While: the stranger sends the slivers of its own, then deletes it between the owner's
    // slivers and the owner's confirmations.
    assert_eq!(peer.upload(&blob, early, [0, 1]).await.len(), 2);
    let confirmations = peer.upload(&blob, registration, everybody.clone()).await;
    assert_eq!(confirmations.len(), 4);
    delete(&peer, early, &stranger).await.unwrap();
    let fact = peer.fact(blob.id(), registration);
    let certificate = Certificate::new(&peer.committee(), fact, &confirmations).unwrap();
    peer.certify(registration, certificate.to_bytes(), wallet).await.unwrap();
    assert_eq!(read().await.unwrap(), file);

    // After: one more, certified with confirmations of its own, and deleted.
    let late = peer.register(&blob, &stranger, WANTED).await;
    let confirmations = peer.upload(&blob, late, everybody.clone()).await;
    let fact = peer.fact(blob.id(), late);
    let certificate = Certificate::new(&peer.committee(), fact, &confirmations).unwrap();
    peer.certify(late, certificate.to_bytes(), &stranger).await.unwrap();
    delete(&peer, late, &stranger).await.unwrap();
    assert_eq!(read().await.unwrap(), file);
    assert!(peer.registration(kept).await.is_some());
    for node in everybody.clone() {
        let answer = peer.confirm(cluster.node_id(node), registration).await;
        assert!(matches!(answer, Response::Confirmed { .. }), "node {node}: {answer:?}");
    }

    // The owner stores it once more: it is found to be stored, and nothing is paid.
    let progress = watch::Sender::new(StoreProgress::default());
    let report = peer.client.store(file.clone(), WANTED, wallet, &progress).await.unwrap();
    assert_eq!((report.outcome, report.registration), (Outcome::AlreadyStored, Some(registration)));
    cluster.shutdown().await.unwrap();
}

/// The slivers go with the last registration, whoever's it is, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_keep_a_blob_until_its_last_registration_ends() {
    let builder = Cluster::builder().nodes(4).shards(16).extra_accounts(1);
    let cluster = builder.start().await.unwrap();
    let peer = RawPeer::join(&cluster).await;
    let (wallet, stranger) = (cluster.wallet(), extra_account_key(0));
    let blob = Written::honest(peer.config(), test_support::blob(8, 5_000));
    peer.store(&blob, wallet, WANTED).await.unwrap();
    peer.store(&blob, &stranger, WANTED).await.unwrap();
    // Stored later: once it is gone everywhere, whatever was to go before it has gone.
    let marker = Written::honest(peer.config(), test_support::blob(9, 100));
    peer.store(&marker, wallet, WANTED).await.unwrap();

    peer.client.delete(blob.id(), wallet).await.unwrap();
    peer.client.delete(marker.id(), wallet).await.unwrap();
    peer.wait_for_pairs(&cluster, 4).await;
    for node in 0..cluster.nodes() {
        for pair in peer.pairs_of(cluster.node_id(node), &blob.id()) {
            let request = Request::ReadSliver { blob: blob.id(), pair, axis: Axis::Primary };
            let answer = peer.ask(cluster.node_id(node), request).await;
            assert!(matches!(answer, Response::Sliver { .. }), "node {node}: {answer:?}");
        }
    }
    assert_eq!(peer.client.blob_status(blob.id()).await.unwrap().state, BlobState::Certified);

    peer.client.delete(blob.id(), &stranger).await.unwrap();
    peer.wait_for_pairs(&cluster, 0).await;
    let gone = peer.client.blob_status(blob.id()).await;
    assert!(matches!(gone, Err(StatusError::NotFound { .. })), "{gone:?}");
    cluster.shutdown().await.unwrap();
}

async fn delete(
    peer: &RawPeer,
    registration: RegistrationId,
    key: &KeyPair,
) -> Result<(), LedgerError> {
    let delete = Operation::DeleteBlob { registration };
    peer.ledger().submit(vec![delete], key).await.map(drop)
}
