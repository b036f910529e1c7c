//! What the store refuses, and what concurrent readers see.

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use floe_protocol::{index::Height, keys::NodeId, ledger::StateReader};
use floe_storage::{CommitError, LedgerStore, OpenError, Store, StoreConfig};

use crate::common::{Chain, Home, KEYS, STATE_HEIGHTS, key};

#[test]
fn heights_follow_one_another() {
    let home = Home::new();
    let store = home.open();
    let chain = Chain::of(1, 4);
    let [genesis, first, second, ..] = &chain.steps[..] else { panic!("four blocks") };
    let refused = |found, expected, result: Result<(), CommitError>| {
        let error = result.unwrap_err();
        let CommitError::OutOfOrder { found: f, expected: e } = error else { panic!("{error}") };
        assert_eq!((f, e), (found, expected));
    };
    refused(1, 0, store.commit(&first.committed()));
    refused(0, 0, store.commit(&genesis.committed()));
    refused(1, 0, store.commit_genesis(&first.change, &[]));
    genesis.commit(&store);
    refused(0, 1, store.commit_genesis(&genesis.change, &[]));
    refused(1, 1, store.commit_genesis(&first.change, &[]));
    refused(2, 1, store.commit(&second.committed()));
    let other_change = floe_storage::Committed { change: &second.change, ..first.committed() };
    refused(2, 1, store.commit(&other_change));
    assert_eq!(chain.check(&store), Some(0));
    first.commit(&store);
    refused(1, 2, store.commit(&first.committed()));
    assert_eq!(chain.check(&store), Some(1));
}

#[test]
fn blocks_come_in_order_up_to_a_size() {
    let home = Home::new();
    let store = home.open();
    let chain = Chain::of(2, 30);
    chain.steps.iter().for_each(|step| step.commit(&store));
    let bytes: Vec<usize> = chain.steps[1..]
        .iter()
        .map(|s| s.block.to_bytes().len() + borsh::to_vec(&s.certificate).unwrap().len())
        .collect();
    let count = |from, max_bytes| store.blocks(Height::new(from), max_bytes).unwrap().len();
    assert_eq!(count(1, usize::MAX), 30);
    assert_eq!(count(11, usize::MAX), 20);
    assert_eq!(count(31, usize::MAX), 0);
    assert_eq!(count(0, usize::MAX), 0);
    let ten: usize = bytes[..10].iter().sum();
    assert_eq!(count(1, ten), 10);
    assert_eq!(count(1, ten - 1), 9);
    assert_eq!(count(30, 0), 1);
}

#[test]
fn readers_see_one_version_while_blocks_are_committed_and_pruned() {
    let home = Home::new();
    let store = home.open();
    let chain = Chain::of(3, 150);
    chain.steps[0].commit(&store);
    let (tip, done, reads) = (AtomicU64::new(0), AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let version = tip.load(Ordering::Acquire);
                    for number in 0..KEYS {
                        let found = store.value(&key(number), version).unwrap();
                        // Only if the version is still kept after the read.
                        if store.tip().unwrap().unwrap().0.get() <= version + STATE_HEIGHTS {
                            assert_eq!(found, chain.value_at(version, number));
                            reads.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        for (height, step) in (1..).zip(&chain.steps[1..]) {
            step.commit(&store);
            tip.store(height, Ordering::Release);
            store.prune_step(200).unwrap();
        }
        done.store(true, Ordering::Release);
    });
    assert!(reads.into_inner() > 100);
    assert_eq!(chain.check(&store), Some(150));
}

#[test]
fn an_emptied_disk_is_not_taken_for_a_new_one() {
    let home = Home::new();
    let chain = Chain::of(4, 2);
    let store = home.open();
    chain.steps.iter().for_each(|step| step.commit(&store));
    assert!(matches!(LedgerStore::open(&home.config()), Err(OpenError::Locked { .. })));
    drop(store);
    fs::remove_dir_all(home.config().dir).unwrap();
    assert!(matches!(LedgerStore::open(&home.config()), Err(OpenError::Emptied { .. })));
    let accepting = floe_storage::LedgerStoreConfig { accept_empty: true, ..home.config() };
    assert_eq!(chain.check(&LedgerStore::open(&accepting).unwrap()), None);
}

#[test]
fn slivers_and_ledger_are_never_taken_for_each_other() {
    let home = Home::new();
    drop(home.open());
    let config = home.config();
    let slivers = StoreConfig::new(config.dir, config.marker, NodeId::new([7; 32]));
    assert!(matches!(Store::open(&slivers), Err(OpenError::Version { .. })));

    let home = Home::new();
    let config = home.config();
    let slivers = StoreConfig::new(config.dir, config.marker, NodeId::new([7; 32]));
    drop(Store::open(&slivers).unwrap());
    assert!(matches!(LedgerStore::open(&home.config()), Err(OpenError::Version { .. })));
}

#[test]
fn an_empty_or_backward_range_of_the_index_is_empty() {
    let home = Home::new();
    let store = home.open();
    Chain::of(5, 6).steps.iter().for_each(|step| step.commit(&store));
    let all = store.index(&[][..]..&[255; 4][..], 100).unwrap();
    assert!(all.len() > 2);
    assert!(store.index(&[9][..]..&[9][..], 100).unwrap().is_empty());
    assert!(store.index(&[9][..]..&[8][..], 100).unwrap().is_empty());
    assert!(store.index(&[][..]..&[255; 4][..], 0).unwrap().is_empty());
}

#[test]
fn old_nodes_and_values_go_while_the_chain_grows_and_the_node_restarts() {
    let home = Home::new();
    let mut store = home.open();
    let chain = Chain::of(6, 170);
    let mut entries = 0;
    for (height, step) in chain.steps.iter().enumerate() {
        step.commit(&store);
        // Now and then nothing is pruned, and a pass over the lists is cut short.
        if height % 5 > 0 {
            entries += store.prune_step(15 + height % 3 * 20).unwrap();
        }
        if height % 13 == 0 {
            drop(store);
            store = home.open();
        }
    }
    chain.check(&store);
    assert!(entries > 1_000, "{entries}");
    while store.prune_step(100).unwrap() > 0 {}
    chain.check_pruned(&store);
    drop(store);
    let store = home.open();
    assert_eq!(store.prune_step(100).unwrap(), 0);
    chain.check_pruned(&store);
}
