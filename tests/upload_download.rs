//! The main job through the client: store, lose nodes, read.

use bytes::Bytes;
use floe_node::client::{
    Client, Outcome, ReadError, ReadOptions, StatusError, StoreError, StorePhase, StoreProgress,
};
use floe_protocol::{
    blob::BlobId,
    ledger::{AccountId, Amount, BlobState},
    test_support,
    transfer::Wanted,
};
use floe_testnet::Cluster;
use tokio::sync::watch;

const WANTED: Wanted = Wanted { epochs: 2, deletable: true };

async fn store(client: &Client, cluster: &Cluster, file: &Bytes) -> Result<BlobId, StoreError> {
    let (progress, _) = watch::channel(StoreProgress::default());
    let report = client.store(file.clone(), WANTED, cluster.wallet(), &progress).await?;
    Ok(report.blob)
}

async fn read(client: &Client, id: BlobId) -> Result<Vec<u8>, ReadError> {
    client.read(id, ReadOptions::default()).await?.read_to_end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_survives_the_loss_of_four_of_seven_nodes() {
    let mut cluster = Cluster::builder().nodes(7).shards(64).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    let file = test_support::blob(1, 3_000_001);
    let id = store(&client, &cluster, &file).await.unwrap();
    for node in [1, 2, 5, 6] {
        cluster.kill(node).await.unwrap();
    }
    assert_eq!(read(&client, id).await.unwrap(), file);
    // A client that comes now finds the rest as well.
    let late = cluster.client().await.unwrap();
    assert_eq!(read(&late, id).await.unwrap(), file);
    let status = late.blob_status(id).await.unwrap();
    assert_eq!(status.state, BlobState::Certified);
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn storing_works_with_two_nodes_down_and_fails_clearly_with_four_down() {
    let mut cluster = Cluster::builder().nodes(7).shards(64).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    cluster.stop(0).await.unwrap();
    cluster.stop(3).await.unwrap();
    let file = test_support::blob(2, 100_000);
    let id = store(&client, &cluster, &file).await.unwrap();
    assert_eq!(read(&client, id).await.unwrap(), file);

    cluster.stop(1).await.unwrap();
    cluster.stop(2).await.unwrap();
    let error = store(&client, &cluster, &test_support::blob(3, 100_000)).await.unwrap_err();
    let StoreError::NoQuorum { quorum_shards: 43, n_shards: 64, failures, .. } = error else {
        panic!("{error}");
    };
    assert!(failures.len() >= 3, "{failures:?}");
    // What was stored before still reads.
    assert_eq!(read(&client, id).await.unwrap(), file);
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_return_exactly_their_bytes() {
    let cluster = Cluster::builder().nodes(4).shards(16).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    let file = test_support::blob(4, 10_007);
    let id = store(&client, &cluster, &file).await.unwrap();
    for (start, end) in [(0, 1), (0, 10_007), (5_000, 5_000), (9_999, 20_000), (1_500, 6_500)] {
        let options = ReadOptions { range: Some(start..end) };
        let bytes = client.read(id, options).await.unwrap().read_to_end().await.unwrap();
        let expected =
            &file[usize::try_from(start).unwrap()..usize::try_from(end).unwrap().min(10_007)];
        assert_eq!(bytes, expected, "{start}..{end}");
    }
    let beyond = ReadOptions { range: Some(10_008..10_009) };
    let error = client.read(id, beyond).await.unwrap_err();
    assert!(matches!(error, ReadError::Range { start: 10_008, len: 10_007 }), "{error}");
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn storing_again_pays_and_sends_nothing() {
    let cluster = Cluster::builder().nodes(4).shards(16).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    let file = test_support::blob(5, 10_000);
    let (progress, watched) = watch::channel(StoreProgress::default());
    let (wallet, ledger) = (cluster.wallet(), client.ledger());
    let account = AccountId::new(wallet.public());
    let first = client.store(file.clone(), WANTED, wallet, &progress).await.unwrap();
    assert_eq!(first.outcome, Outcome::Stored);
    assert_eq!(first.confirmed_shards, Some(16));
    assert_eq!(watched.borrow().phase, StorePhase::Tail);
    assert_eq!(watched.borrow().stored_bytes, watched.borrow().total_bytes);
    let before = ledger.account(account).await.unwrap().value.unwrap();
    let second = client.store(file, WANTED, wallet, &progress).await.unwrap();
    assert_eq!((second.outcome, second.blob), (Outcome::AlreadyStored, first.blob));
    assert_eq!((second.registration, second.end), (first.registration, first.end));
    assert_eq!((second.paid, second.payment), (Amount::ZERO, None));
    assert_eq!((second.certificate, second.confirmed_shards), (None, None));
    let after = ledger.account(account).await.unwrap().value.unwrap();
    assert_eq!(after, before, "nothing was paid, nothing was sent");
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_blob_is_not_found() {
    let cluster = Cluster::builder().nodes(4).shards(16).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    let error = read(&client, BlobId::new([9; 32])).await.unwrap_err();
    assert!(matches!(error, ReadError::Status(StatusError::NotFound { .. })), "{error}");
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_find_each_other_again_after_any_of_them_restarts() {
    let mut cluster = Cluster::builder().nodes(4).shards(16).start().await.unwrap();
    let file = test_support::blob(6, 10_000);
    let client = cluster.client().await.unwrap();
    let id = store(&client, &cluster, &file).await.unwrap();
    for node in 0..4 {
        cluster.kill(node).await.unwrap();
        cluster.start(node).await.unwrap();
        cluster.wait_connected().await.unwrap();
    }
    assert_eq!(read(&client, id).await.unwrap(), file);
    let newcomer = cluster.client().await.unwrap();
    assert_eq!(read(&newcomer, id).await.unwrap(), file);
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_file_and_the_largest_file_round_trip() {
    let cluster = Cluster::builder().nodes(7).shards(7).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    let max = usize::try_from(client.parameters().max_blob_bytes).unwrap();
    for len in [0, 1, 15, 16, max] {
        let file = test_support::blob(7, len);
        let id = store(&client, &cluster, &file).await.unwrap();
        assert_eq!(read(&client, id).await.unwrap(), file, "{len} bytes");
    }
    let error = store(&client, &cluster, &test_support::blob(7, max + 1)).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    cluster.shutdown().await.unwrap();
}
