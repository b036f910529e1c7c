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
    blob::BlobId,
    certificate::{Certificate, ConfirmedFact},
    committee::CommitteeFact,
    encoding::Axis,
    keys::{BlsKeyPair, BlsSignature, ChainId, KeyPair},
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

/// What is false, for which registration it is handed in, and its bytes.
type Forged = (&'static str, RegistrationId, Vec<u8>);

/// Who has three true confirmations of four nodes, and these nodes' keys as well.
struct Forger {
    chain: ChainId,
    fact: ConfirmedFact,
    signatures: [BlsSignature; 3],
    keys: [BlsKeyPair; 3],
    /// Another registration of the same blob.
    again: RegistrationId,
    /// Another blob with its registration.
    other: (BlobId, RegistrationId),
}

impl Forger {
    /// What the nodes would sign, were they to lie.
    fn signed(&self, fact: &ConfirmedFact) -> Vec<u8> {
        self.signed_for(&self.chain, fact)
    }

    fn signed_for(&self, chain: &ChainId, fact: &ConfirmedFact) -> Vec<u8> {
        forge(fact, 4, 0b1011, &self.keys.each_ref().map(|key| fact.sign(chain, key)))
    }

    /// Facts like the true one, each with one thing changed.
    fn facts(&self) -> [ConfirmedFact; 4] {
        let fact = self.fact;
        [
            ConfirmedFact { blob: self.other.0, ..fact },
            ConfirmedFact { registration: self.other.1, ..fact },
            ConfirmedFact { registration: self.again, ..fact },
            ConfirmedFact { epoch: fact.epoch.plus(1), ..fact },
        ]
    }

    /// What only the state can tell to be false.
    fn false_ones(&self) -> Vec<Forged> {
        let (id, of_other, again) = (self.fact.registration, self.other.1, self.again);
        let [s0, s1, s3] = self.signatures;
        let true_signers = |fact: &_| forge(fact, 4, 0b1011, &[s0, s1, s3]);
        let [other_blob, other_registration, same_blob, next_epoch] = self.facts();
        let foreign = test_support::genesis(4, 16).chain_id();
        let by =
            |members, signers, signatures: &[_]| forge(&self.fact, members, signers, signatures);
        vec![
            ("renamed to another registration", again, true_signers(&same_blob)),
            ("its blob replaced", id, true_signers(&other_blob)),
            ("another blob's, signed", id, self.signed(&other_blob)),
            ("another blob's registration, signed", of_other, self.signed(&other_registration)),
            ("its epoch replaced", id, true_signers(&next_epoch)),
            ("the next epoch's, signed", id, self.signed(&next_epoch)),
            ("another network's, signed", id, self.signed_for(&foreign, &self.fact)),
            ("two signers", id, by(4, 0b0011, &[s0, s1])),
            ("no signer", id, by(4, 0, &[s0, s1, s3])),
            ("one signer twice", id, by(4, 0b1011, &[s0, s0, s1])),
            ("two signers, one twice", id, by(4, 0b0011, &[s0, s1, s1])),
            ("one who did not sign", id, by(4, 0b1111, &[s0, s1, s3])),
            ("another one than signed", id, by(4, 0b0111, &[s0, s1, s3])),
            ("a signer too few named", id, by(4, 0b1001, &[s0, s1, s3])),
            ("a fifth member", id, by(5, 0b1_1011, &[s0, s1, s3])),
        ]
    }

    /// What is told to be none without a state.
    fn malformed_ones(&self) -> Vec<Forged> {
        let (id, bytes) = (self.fact.registration, forge(&self.fact, 4, 0b1011, &self.signatures));
        let [_, other_registration, ..] = self.facts();
        vec![
            ("another registration's", self.again, bytes.clone()),
            ("another blob's registration's", self.other.1, bytes.clone()),
            ("another registration's, signed", id, self.signed(&other_registration)),
            ("behind the last member", id, forge(&self.fact, 4, 0b1_1011, &self.signatures)),
            ("a byte short", id, bytes[..bytes.len() - 1].to_vec()),
            ("a byte long", id, [&bytes[..], &[0]].concat()),
            ("empty", id, Vec::new()),
        ]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_true_certificate_certifies_and_a_refused_one_changes_nothing() {
    let cluster = Cluster::builder().nodes(4).shards(16).start().await.unwrap();
    let (peer, wallet) = (RawPeer::join(&cluster).await, cluster.wallet());
    let committee = peer.committee();
    let blob = Written::honest(peer.config(), test_support::blob(5, 100));
    let other = Written::honest(peer.config(), test_support::blob(6, 100));
    // An account gets a second one only for other terms.
    let longer = Wanted { epochs: WANTED.epochs + 1, ..WANTED };
    let [registration, again] =
        [peer.register(&blob, wallet, WANTED).await, peer.register(&blob, wallet, longer).await];
    let of_other = peer.register(&other, wallet, WANTED).await;
    let fact = peer.fact(blob.id(), registration);
    let confirmations = peer.upload(&blob, registration, [0, 1, 3]).await;
    let certificate = Certificate::new(&committee, fact, &confirmations).unwrap();
    let bytes = certificate.to_bytes();
    let forger = Forger {
        chain: *peer.chain(),
        fact,
        signatures: std::array::from_fn(|i| confirmations[i].1),
        keys: [0, 1, 3].map(|node| {
            let paths = NodePaths::below(&cluster.dir().join(format!("node-{node}")));
            NodeKeys::open(&paths.key).unwrap().bls
        }),
        again,
        other: (other.id(), of_other),
    };
    assert_eq!(bytes, forger.signed(&fact), "the layout is as documented");

    let account = AccountId::new(wallet.public());
    let before = peer.ledger().account(account).await.unwrap().value;
    for (what, registration, certificate) in forger.false_ones() {
        let refusal = refusal(peer.certify(registration, certificate, wallet).await);
        assert_eq!(refusal, refused(RefusedOperation::Certificate), "{what}");
    }
    for (what, registration, certificate) in forger.malformed_ones() {
        let refusal = refusal(peer.certify(registration, certificate, wallet).await);
        assert_eq!(refusal, SubmitError::Malformed, "{what}");
    }
    let nobodys = RegistrationId::new([5; 32]);
    let of_nobody = forger.signed(&ConfirmedFact { registration: nobodys, ..fact });
    let refused_now = refusal(peer.certify(nobodys, of_nobody, wallet).await);
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
