//! Blob headers, pair proofs and peers.

use floe_protocol::{
    blob::BlobHeader,
    index::{Height, ShardIndex},
    keys::NodeId,
};
use floe_storage::{
    ADDRESS_BYTES_MAX, ADDRESSES_PER_PEER_MAX, PEERS_MAX, StorageError, StoredBlob,
};

use crate::common::{HEIGHT, Home, header, noise};

#[test]
fn a_table_brings_header_and_proofs() {
    let home = Home::new();
    let store = home.open();
    let blob = header(1).id();
    assert_eq!(store.blob(&blob).unwrap(), None);
    let proofs = [(ShardIndex::new(2), noise(1, 500)), (ShardIndex::new(9), noise(2, 500))];
    store.put_table(&header(1), HEIGHT, &proofs[..1]).unwrap();
    assert_eq!(store.pair_proof(ShardIndex::new(9), &blob).unwrap(), None);
    store.put_table(&header(1), HEIGHT, &proofs).unwrap();
    let before = store.usage();
    store.put_table(&header(1), HEIGHT, &proofs).unwrap();
    store.put_table(&header(1), HEIGHT, &[]).unwrap();
    assert_eq!(store.usage().live_bytes, before.live_bytes, "repeating adds nothing");
    store.flush().unwrap();
    drop(store);

    let store = home.open();
    assert_eq!(store.usage().live_bytes, before.live_bytes);
    assert_eq!(store.usage().blobs, 1);
    let stored = StoredBlob { header: header(1), height: HEIGHT };
    assert_eq!(store.blob(&blob).unwrap(), Some(stored));
    assert_eq!(store.blob(&header(2).id()).unwrap(), None);
    for (shard, proof) in proofs {
        assert_eq!(store.pair_proof(shard, &blob).unwrap(), Some(proof));
    }
    assert_eq!(store.pair_proof(ShardIndex::new(3), &blob).unwrap(), None);
}

#[test]
fn of_heights_the_latest_stays() {
    let home = Home::new();
    let store = home.open();
    let (earlier, later) = (Height::new(6), Height::new(300));
    for (put, kept) in [(HEIGHT, HEIGHT), (earlier, HEIGHT), (later, later), (HEIGHT, later)] {
        store.put_table(&header(1), put, &[]).unwrap();
        let stored = store.blob(&header(1).id()).unwrap().unwrap();
        assert_eq!((stored.header, stored.height), (header(1), kept));
    }
    assert_eq!(store.usage().blobs, 1);
    let live_bytes = store.usage().live_bytes;
    store.flush().unwrap();
    drop(store);
    let store = home.open();
    assert_eq!(store.blob(&header(1).id()).unwrap().unwrap().height, later);
    assert_eq!(store.usage().live_bytes, live_bytes);
}

#[test]
fn replaced_proofs_count_what_they_are() {
    let home = Home::new();
    let store = home.open();
    let shard = ShardIndex::new(2);
    store.put_table(&header(1), HEIGHT, &[(shard, noise(1, 100))]).unwrap();
    let small = store.usage().live_bytes;
    store.put_table(&header(1), HEIGHT, &[(shard, noise(2, 900))]).unwrap();
    assert_eq!(store.usage().live_bytes, small + 800);
    // The last of two for one shard stays.
    let twice = [(shard, noise(3, 700)), (shard, noise(4, 100))];
    store.put_table(&header(1), HEIGHT, &twice).unwrap();
    assert_eq!(store.usage().live_bytes, small);
    assert_eq!(store.pair_proof(shard, &header(1).id()).unwrap(), Some(noise(4, 100)));
    store.flush().unwrap();
    drop(store);
    assert_eq!(home.open().usage().live_bytes, small);
}

#[test]
fn proofs_have_a_size() {
    let home = Home::new();
    let store = home.open();
    for proof in [Vec::new(), vec![0; 100_000]] {
        let refused = store.put_table(&header(1), HEIGHT, &[(ShardIndex::new(1), proof)]);
        assert!(matches!(refused, Err(StorageError::Length { .. })));
    }
    assert_eq!(store.blob(&header(1).id()).unwrap(), None);
    assert_eq!(store.usage().live_bytes, 0);
}

#[test]
fn headers_of_no_possible_blob_are_refused() {
    let home = Home::new();
    let store = home.open();
    let of_no_network = BlobHeader { n_shards: 0, ..header(1) };
    let too_large = BlobHeader { len: u64::MAX, ..header(1) };
    for header in [of_no_network, too_large] {
        let refused = store.put_table(&header, HEIGHT, &[(ShardIndex::new(1), noise(1, 100))]);
        assert!(matches!(refused, Err(StorageError::Length { what: "blob", .. })), "{refused:?}");
    }
    assert_eq!(store.blobs(None, 10).unwrap(), []);
    assert_eq!(store.usage().live_bytes, 0);
}

#[test]
fn blobs_are_listed_in_the_order_of_their_ids_a_bounded_number_at_a_time() {
    let home = Home::new();
    let store = home.open();
    assert_eq!(store.blobs(None, 10).unwrap(), []);
    let mut expected: Vec<_> = (0..25).map(|number| header(number).id()).collect();
    for number in 0..25 {
        store.put_table(&header(number), HEIGHT, &[]).unwrap();
    }
    expected.sort_unstable();
    assert_eq!(store.blobs(None, usize::MAX).unwrap(), expected);
    assert_eq!(store.blobs(None, 0).unwrap(), []);
    let mut listed = Vec::new();
    loop {
        let page = store.blobs(listed.last(), 7).unwrap();
        assert!(page.len() <= 7);
        if page.is_empty() {
            break;
        }
        listed.extend(page);
        // A blob that goes between two pages is no place to lose.
        store.remove_blob(listed.last().unwrap(), 64).unwrap();
    }
    assert_eq!(listed, expected);
    assert_eq!(store.usage().blobs, 25 - 4);
    store.flush().unwrap();
    drop(store);
    assert_eq!(home.open().blobs(None, usize::MAX).unwrap().len(), 25 - 4);
}

#[test]
fn peers_are_remembered_latest_first_and_bounded() {
    let home = Home::new();
    let node = |number: usize| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        NodeId::new(bytes)
    };
    let address = |number: usize| vec![format!("/ip4/10.0.0.1/tcp/{number}")];
    let store = home.open();
    assert_eq!(store.peers().unwrap(), []);
    for number in 0..PEERS_MAX {
        store.put_peers(&[(node(number), address(number))]).unwrap();
    }
    store.put_peers(&[(node(0), address(77_777))]).unwrap();
    store.put_peers(&[(node(PEERS_MAX), address(PEERS_MAX))]).unwrap();
    store.flush().unwrap();
    drop(store);

    let store = home.open();
    let peers = store.peers().unwrap();
    assert_eq!(peers.len(), PEERS_MAX);
    assert_eq!(peers[0], (node(PEERS_MAX), address(PEERS_MAX)));
    assert_eq!(peers[1], (node(0), address(77_777)));
    assert!(!peers.iter().any(|(peer, _)| *peer == node(1)), "the oldest made room");

    let many = vec!["x".repeat(ADDRESS_BYTES_MAX); ADDRESSES_PER_PEER_MAX + 5];
    let long = vec!["x".repeat(ADDRESS_BYTES_MAX + 1), "short".into()];
    store.put_peers(&[(node(5), many), (node(6), long)]).unwrap();
    let peers = store.peers().unwrap();
    assert_eq!(peers[0], (node(6), vec!["short".into()]));
    assert_eq!(peers[1].1.len(), ADDRESSES_PER_PEER_MAX);
}
