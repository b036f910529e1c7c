//! What a storage node accepts, refuses and confirms, asked over the real network.
//!
//! A confirmation means what it says: all pairs of the node's shards are durable. Nothing is taken
//! without a registration on the ledger. Everything that does not verify gets a typed refusal and
//! changes nothing.

mod common;

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use common::{Lie, RawPeer, WANTED, Written, flip};
use floe_node::{
    client::{ReadError, ReadOptions},
    config::{NodeConfig, NodePaths},
};
use floe_protocol::{
    blob::BlobId,
    committee::CommitteeFact,
    encoding::Axis,
    index::SliverPairIndex,
    ledger::Operation,
    message::{InvalidReason, Refusal, Request, Response},
    registration::RegistrationId,
    test_support,
};
use floe_storage::{Store, StoreConfig};
use floe_testnet::Cluster;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(60);

fn refused(refusal: Refusal) -> Response {
    Response::Refused(refusal)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_misses_one_pair_refuses_to_confirm() {
    let cluster = Cluster::builder().nodes(4).shards(16).start().await.unwrap();
    let peer = RawPeer::join(&cluster).await;
    let node = cluster.node_id(1);
    let blob = Written::honest(peer.config(), test_support::blob(1, 5_000));
    let pairs = peer.pairs_of(node, &blob.id());
    assert!(pairs.len() > 1);

    let registration = peer.register(&blob, cluster.wallet(), WANTED).await;
    let stored = peer.table(node, &blob, registration).await;
    assert_eq!(stored, Response::TableStored { missing: pairs.clone() });
    for pair in &pairs[1..] {
        assert_eq!(
            peer.pair(node, &blob, registration, *pair).await,
            Response::Stored { pair: *pair }
        );
        let missing = Response::Missing { pairs: pairs[..1].to_vec() };
        let confirmed = peer.confirm(node, registration).await;
        assert!(confirmed == missing || *pair != pairs[pairs.len() - 1], "{confirmed:?}");
        assert!(!matches!(confirmed, Response::Confirmed { .. }));
    }
    peer.pair(node, &blob, registration, pairs[0]).await;
    let Response::Confirmed { signature, .. } = peer.confirm(node, registration).await else {
        panic!("everything is there");
    };
    let fact = peer.fact(blob.id(), registration);
    let key = peer.committee().member(&node).unwrap().bls_key;
    assert!(fact.verify(peer.chain(), &key, &signature));
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_after_the_table_goes_on_and_never_confirms_wrongly() {
    let mut cluster = Cluster::builder().nodes(4).shards(16).start().await.unwrap();
    let peer = RawPeer::join(&cluster).await;
    let node = cluster.node_id(2);
    let blob = Written::honest(peer.config(), test_support::blob(2, 5_000));
    let pairs = peer.pairs_of(node, &blob.id());
    let registration = peer.register(&blob, cluster.wallet(), WANTED).await;
    peer.table(node, &blob, registration).await;
    peer.pair(node, &blob, registration, pairs[0]).await;

    cluster.kill(2).await.unwrap();
    cluster.start(2).await.unwrap();

    // What it answered for before is still there, and nothing else is claimed.
    let missing = Response::Missing { pairs: pairs[1..].to_vec() };
    assert_eq!(peer.confirm(node, registration).await, missing);
    for pair in &pairs[1..] {
        assert_eq!(
            peer.pair(node, &blob, registration, *pair).await,
            Response::Stored { pair: *pair }
        );
    }
    assert!(matches!(peer.confirm(node, registration).await, Response::Confirmed { .. }));
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_and_tables_that_do_not_verify_are_refused() {
    let cluster = Cluster::builder().nodes(4).shards(16).start().await.unwrap();
    let peer = RawPeer::join(&cluster).await;
    let (node, wallet) = (cluster.node_id(0), cluster.wallet());
    let blob = Written::honest(peer.config(), test_support::blob(3, 5_000));
    let other = Written::honest(peer.config(), test_support::blob(4, 5_000));
    let table = |registration, header, table: Vec<u8>| Request::Table {
        registration,
        header,
        table: table.into(),
    };
    let bytes = blob.table.to_bytes();
    let header = blob.header;
    let max_payment = peer.ledger().quote(&header, 1).await.unwrap().price;
    let register = Operation::RegisterBlob { header, epochs: 1, deletable: true, max_payment };
    let receipt = peer.ledger().submit(vec![register], wallet).await.unwrap();
    let registration = receipt.id.registration(peer.chain(), 0);

    // One that nobody made, an operation that the transaction does not have, another chain.
    let other_chain = test_support::genesis(5, 16).chain_id();
    let unmade = RegistrationId::new([5; 32]);
    let no_operation = receipt.id.registration(peer.chain(), 1);
    let foreign = receipt.id.registration(&other_chain, 0);
    for registration in [unmade, no_operation, foreign] {
        let answer = peer.ask(node, table(registration, blob.header, bytes.clone())).await;
        assert_eq!(answer, refused(Refusal::NotRegistered));
    }

    // The header of another blob; tables of another blob, one bit off, too short, empty.
    let invalid_table = refused(Refusal::Invalid(InvalidReason::Table));
    let answer = peer.ask(node, table(registration, other.header, bytes.clone())).await;
    assert_eq!(answer, invalid_table);
    let answer = peer.ask(node, table(registration, other.header, other.table.to_bytes())).await;
    assert_eq!(answer, invalid_table);
    let mut changed = bytes.clone();
    changed[7] ^= 1;
    for wrong in [other.table.to_bytes(), changed, bytes[64..].to_vec(), Vec::new()] {
        assert_eq!(peer.ask(node, table(registration, blob.header, wrong)).await, invalid_table);
    }

    // Nothing of it was kept.
    let pair = peer.pairs_of(node, &blob.id())[0];
    let missing = refused(Refusal::TableMissing);
    assert_eq!(peer.pair(node, &blob, registration, pair).await, missing);
    assert_eq!(peer.confirm(node, registration).await, missing);

    // What has been deleted is not registered any more, and its table is not taken.
    peer.client.delete(blob.id(), wallet).await.unwrap();
    let gone = async {
        while peer.confirm(node, registration).await != refused(Refusal::NotRegistered) {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, gone).await.expect("the node executes the block");
    let answer = peer.table(node, &blob, registration).await;
    assert_eq!(answer, refused(Refusal::NotRegistered));
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_pair_proof_is_never_served_and_storing_again_mends_it() {
    let mut cluster = Cluster::builder().nodes(4).shards(16).start().await.unwrap();
    let peer = RawPeer::join(&cluster).await;
    let node = cluster.node_id(1);
    let config = peer.config();
    let blob = Written::honest(config, test_support::blob(9, 5_000));
    let (registration, _) = peer.store(&blob, cluster.wallet(), WANTED).await.unwrap();

    // Overwrites one proof on the disk of the stopped node.
    cluster.stop(1).await.unwrap();
    let paths = NodePaths::below(&cluster.dir().join("node-1"));
    let store = Store::open(&StoreConfig::new(paths.store, paths.marker, node)).unwrap();
    let kept = store.blob(&blob.id()).unwrap().unwrap();
    let shard = peer.committee().member(&node).unwrap().shards[0];
    let pair = blob.id().pair_of(shard, 16);
    let mut proof = store.pair_proof(shard, &blob.id()).unwrap().unwrap();
    *proof.last_mut().unwrap() ^= 1;
    store.put_table(&kept.header, kept.height, &[(shard, proof)]).unwrap();
    store.flush().unwrap();
    drop(store);
    cluster.start(1).await.unwrap();

    let read = Request::ReadSliver { blob: blob.id(), pair, axis: Axis::Primary };
    assert_eq!(peer.ask(node, read.clone()).await, refused(Refusal::NotFound));
    let confirmed = peer.confirm(node, registration).await;
    assert_eq!(confirmed, refused(Refusal::TableMissing));
    let stored = peer.table(node, &blob, registration).await;
    let Response::TableStored { missing } = stored else { panic!("{stored:?}") };
    // With its proof the pair was gone: nobody could tell any more whether it was right.
    assert!(missing.is_empty() || missing == [pair], "{missing:?}");
    let stored = peer.pair(node, &blob, registration, pair).await;
    assert_eq!(stored, Response::Stored { pair });
    assert!(matches!(peer.ask(node, read).await, Response::Sliver { .. }));
    assert!(matches!(peer.confirm(node, registration).await, Response::Confirmed { .. }));
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn slivers_that_do_not_verify_are_refused() {
    let cluster = Cluster::builder().nodes(4).shards(16).start().await.unwrap();
    let peer = RawPeer::join(&cluster).await;
    let node = cluster.node_id(0);
    let config = peer.config();
    let blob = Written::honest(config, test_support::blob(3, 5_000));
    let other = Written::honest(config, test_support::blob(4, 5_000));
    let registration = peer.register(&blob, cluster.wallet(), WANTED).await;
    let pair = peer.pairs_of(node, &blob.id())[0];
    peer.table(node, &blob, registration).await;

    // One bit off, of another blob, of another pair, swapped, too short, empty.
    let (primary, secondary) = blob.pairs[pair.as_usize()].clone();
    let wrong = [
        (flip(&primary, 0), secondary.clone()),
        (primary.clone(), flip(&secondary, secondary.len() - 1)),
        other.pairs[pair.as_usize()].clone(),
        blob.pairs[(pair.as_usize() + 1) % 16].clone(),
        (secondary.clone(), primary.clone()),
        (primary.slice(1..), secondary.clone()),
        (Bytes::new(), Bytes::new()),
    ];
    for (primary, secondary) in wrong {
        let request = Request::StoreSlivers { registration, pair, primary, secondary };
        let answer = peer.ask(node, request).await;
        assert_eq!(answer, refused(Refusal::Invalid(InvalidReason::Sliver)));
        assert!(!matches!(peer.confirm(node, registration).await, Response::Confirmed { .. }));
    }

    // A pair of another node's shard, and one under a registration that nobody made.
    let foreign = (0..16).map(SliverPairIndex::new);
    let foreign = { foreign }.find(|pair| peer.holder_of(*pair, &blob.id()) != node).unwrap();
    let answer = peer.pair(node, &blob, registration, foreign).await;
    assert_eq!(answer, refused(Refusal::WrongShard));
    let nobodys = RegistrationId::new([5; 32]);
    let request = Request::StoreSlivers { registration: nobodys, pair, primary, secondary };
    assert_eq!(peer.ask(node, request).await, refused(Refusal::NotRegistered));

    // After all that the node serves as before.
    assert_eq!(peer.pair(node, &blob, registration, pair).await, Response::Stored { pair });
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_about_what_is_not_there_are_answered_so() {
    let cluster = Cluster::builder().nodes(4).shards(16).start().await.unwrap();
    let peer = RawPeer::join(&cluster).await;
    let node = cluster.node_id(0);
    let (blob, pair) = (BlobId::new([3; 32]), SliverPairIndex::new(2));
    for axis in [Axis::Primary, Axis::Secondary] {
        let read = Request::ReadSliver { blob, pair, axis };
        assert_eq!(peer.ask(node, read).await, refused(Refusal::NotFound));
    }
    let confirmed = peer.confirm(node, RegistrationId::new([5; 32])).await;
    assert_eq!(confirmed, refused(Refusal::NotRegistered));
    cluster.shutdown().await.unwrap();
}

/// A writer that lies is caught, or what it wrote reads the same for everybody: whichever three of
/// the seven holders are left.
#[tokio::test(flavor = "multi_thread")]
async fn two_successful_reads_agree_whatever_the_writer_did() {
    let file = test_support::blob(8, 400);
    let (row, column) = (SliverPairIndex::new(1), SliverPairIndex::new(5));
    // Who lacks a pair leaves it so: else the blob would soon be proven invalid.
    let patient = |_, config: &mut NodeConfig| config.repair.grace_ms = u64::MAX;
    let builder = Cluster::builder().nodes(7).shards(7).configure(patient);
    let mut cluster = builder.start().await.unwrap();
    let peer = RawPeer::join(&cluster).await;
    let config = peer.config();
    let mut blobs = Vec::new();
    for lie in [Lie::Row(row), Lie::Column(column), Lie::Digest(row)] {
        let blob = Written::lying(config, file.clone(), lie);
        // A false digest is refused by its holder; six of seven are a quorum all the same.
        let stored = peer.store(&blob, cluster.wallet(), WANTED).await;
        assert!(stored.is_some(), "{lie:?}");
        blobs.push((lie, blob, BTreeSet::new(), 0));
    }
    let client = cluster.client().await.unwrap();
    let everybody: BTreeSet<usize> = (0..7).collect();
    let mut running = everybody.clone();
    let mut subsets: Vec<BTreeSet<usize>> = vec![everybody];
    subsets.extend(subsets_of_three());
    let mut reads = 0;
    while !subsets.is_empty() {
        // The one that takes the fewest starts and stops.
        let effort = |subset: &BTreeSet<usize>| subset.symmetric_difference(&running).count();
        let next = (0..subsets.len()).min_by_key(|i| effort(&subsets[*i])).unwrap();
        let subset = subsets.swap_remove(next);
        for node in &subset - &running {
            cluster.start(node).await.unwrap();
        }
        for node in &running - &subset {
            cluster.stop(node).await.unwrap();
        }
        running = subset;
        for (lie, blob, contents, successes) in &mut blobs {
            let reader = client.read(blob.id(), ReadOptions::default()).await.unwrap();
            match reader.read_to_end().await {
                Ok(bytes) => {
                    contents.insert(bytes);
                    *successes += 1;
                }
                Err(ReadError::Inconsistent { .. }) => {}
                // The holder of the false digest has no pair, so only two of the three have one.
                Err(ReadError::TooFewSlivers { rows: 2, .. }) if matches!(lie, Lie::Digest(_)) => {}
                Err(other) => panic!("{lie:?}, {running:?}: {other}"),
            }
            assert!(contents.len() <= 1, "{lie:?}, {running:?}: two reads differ");
        }
        reads += 1;
    }
    assert_eq!(reads, 36);
    let successes: Vec<_> = blobs.iter().map(|(_, _, _, successes)| *successes).collect();
    // A false row reads where nothing is decoded: with the three systematic rows, which are among
    // all seven and in one subset. Nobody looks at columns. A false digest always needs decoding.
    assert_eq!(successes, [2, 36, 0]);
    cluster.shutdown().await.unwrap();
}

fn subsets_of_three() -> impl Iterator<Item = BTreeSet<usize>> {
    let sets = (0_u8..128).filter(|set| set.count_ones() == 3);
    sets.map(|set| (0..7).filter(|node| (set >> node) & 1 == 1).collect())
}
