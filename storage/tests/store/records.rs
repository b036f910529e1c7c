//! Registrations, blob records, certificates, pair proofs and peers.

use floe_protocol::{
    blob::BlobHeader,
    hash::Hash,
    index::{Epoch, ShardIndex},
    keys::{NodeId, PublicKey},
    ledger::MAX_REGISTRATIONS_PER_BLOB,
    registration::{Registration, RegistrationId},
};
use floe_storage::{ADDRESS_BYTES_MAX, ADDRESSES_PER_PEER_MAX, PEERS_MAX, StorageError};

use crate::common::{Home, noise};

const OWNER: PublicKey = PublicKey::new([3; 32]);

fn header(number: u8) -> BlobHeader {
    BlobHeader { n_shards: 64, len: 1000, root: Hash::new([number; 32]) }
}

fn registration(header: BlobHeader, nonce: u64) -> Registration {
    Registration {
        id: RegistrationId::of(&header.id(), &OWNER, nonce),
        header,
        owner: OWNER,
        start: Epoch::new(0),
        end: Epoch::new(u64::MAX),
        deletable: false,
        certified: None,
    }
}

#[test]
fn a_table_brings_registration_record_and_proofs() {
    let home = Home::new();
    let store = home.open();
    let (first, second) = (registration(header(1), 0), registration(header(1), 1));
    let blob = header(1).id();
    assert_eq!(store.blob_record(&blob).unwrap(), None);
    let proofs = [(ShardIndex::new(2), noise(1, 500)), (ShardIndex::new(9), noise(2, 500))];
    store.put_table(&first, &proofs).unwrap();
    store.put_table(&second, &[]).unwrap();
    let before = store.usage();
    store.put_table(&first, &proofs).unwrap();
    assert_eq!(store.usage().live_bytes, before.live_bytes, "repeating adds nothing");
    store.flush().unwrap();
    drop(store);

    let store = home.open();
    assert_eq!(store.usage().live_bytes, before.live_bytes);
    assert_eq!(store.usage().blobs, 1);
    assert_eq!(store.registration(&first.id).unwrap(), Some(first));
    assert_eq!(store.registration(&registration(header(2), 0).id).unwrap(), None);
    let (record, registrations) = store.blob_record(&blob).unwrap().unwrap();
    assert_eq!(record.header, header(1));
    assert_eq!(record.registrations, [first.id, second.id]);
    assert_eq!(registrations, [first, second]);
    for (shard, proof) in proofs {
        assert_eq!(store.pair_proof(shard, &blob).unwrap(), Some(proof));
    }
    assert_eq!(store.pair_proof(ShardIndex::new(3), &blob).unwrap(), None);
}

#[test]
fn registrations_of_one_blob_are_bounded() {
    let home = Home::new();
    let store = home.open();
    let nonces = 0..u64::try_from(MAX_REGISTRATIONS_PER_BLOB).unwrap();
    let certificate = noise(4, 300);
    store.put_certificate(&header(1), certificate, Epoch::new(2)).unwrap();
    for nonce in nonces.clone() {
        store.put_table(&registration(header(1), nonce), &[]).unwrap();
    }
    let one_more = registration(header(1), nonces.end);
    let proof = [(ShardIndex::new(1), vec![1; 100])];
    let refused = store.put_table(&one_more, &proof);
    assert!(
        matches!(refused, Err(StorageError::TooManyRegistrations(blob)) if blob == header(1).id())
    );
    assert_eq!(store.registration(&one_more.id).unwrap(), None);
    assert_eq!(store.pair_proof(ShardIndex::new(1), &header(1).id()).unwrap(), None);
    store.put_table(&registration(header(1), 0), &proof).unwrap();
}

#[test]
fn proofs_have_a_size() {
    let home = Home::new();
    let store = home.open();
    for proof in [Vec::new(), vec![0; 100_000]] {
        let refused = store.put_table(&registration(header(1), 0), &[(ShardIndex::new(1), proof)]);
        assert!(matches!(refused, Err(StorageError::Length { .. })));
    }
    assert_eq!(store.blob_record(&header(1).id()).unwrap(), None);
}

#[test]
fn the_first_certificate_stays() {
    let home = Home::new();
    let store = home.open();
    let (first, second) = (noise(1, 300), noise(2, 300));
    store.put_table(&registration(header(1), 0), &[]).unwrap();
    assert!(store.put_certificate(&header(1), first.clone(), Epoch::new(4)).unwrap());
    assert!(!store.put_certificate(&header(1), second.clone(), Epoch::new(5)).unwrap());
    // A blob can be known by its certificate alone.
    assert!(store.put_certificate(&header(2), second.clone(), Epoch::new(5)).unwrap());
    store.flush().unwrap();
    drop(store);

    let store = home.open();
    let mut blobs: Vec<_> = store.blobs().map(Result::unwrap).collect();
    assert!(blobs.is_sorted_by_key(|(blob, _)| *blob));
    blobs.sort_by_key(|(_, record)| record.certified);
    let [(one, one_record), (two, two_record)] = &blobs[..] else {
        panic!("{blobs:?}");
    };
    assert_eq!((*one, *two), (header(1).id(), header(2).id()));
    assert_eq!(one_record.certificate, Some(first));
    assert_eq!(one_record.certified, Some(Epoch::new(4)));
    assert_eq!(one_record.registrations.len(), 1);
    assert_eq!(two_record.certificate, Some(second));
    assert_eq!(store.usage().blobs, 2);
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
