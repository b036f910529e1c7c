//! What the store refuses, and what concurrent readers see.

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use floe_protocol::{
    handover::HandoverCertificate,
    index::{Epoch, Height},
    keys::NodeId,
    ledger::StateReader,
};
use floe_storage::{CommitError, LedgerStore, OpenError, Store, StoreConfig};

use crate::common::{Chain, Home, KEYS, MERGE_HEIGHTS, STATE_HEIGHTS, Step, copy, key};

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
fn readers_see_one_version_while_blocks_are_committed_and_merged() {
    let home = Home::new();
    let store = home.open();
    let chain = Chain::of(3, 250);
    chain.steps[0].commit(&store);
    let (tip, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let (reads, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for age in [0, STATE_HEIGHTS / 2, STATE_HEIGHTS, STATE_HEIGHTS + MERGE_HEIGHTS] {
            let (store, chain, tip, done) = (&store, &chain, &tip, &done);
            let (reads, refused) = (&reads, &refused);
            scope.spawn(move || {
                while !done.load(Ordering::Acquire) {
                    let version = tip.load(Ordering::Acquire).saturating_sub(age);
                    for number in 0..KEYS {
                        match store.value(&key(number), version) {
                            Ok(found) => {
                                let found = found.filter(|(_, value)| value.is_some());
                                assert_eq!(found, chain.value_at(version, number));
                                reads.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => {
                                assert!(!error.is_fatal(), "{error}");
                                // Never one of the heights that are promised.
                                let tip = store.tip().unwrap().unwrap().0.get();
                                assert!(version + STATE_HEIGHTS < tip, "{error} at {tip}");
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                    chain.check_nodes(store, version);
                }
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let before = tip.load(Ordering::Acquire);
                let index = store.index(&[][..]..&[0xff; 8][..], usize::MAX).unwrap();
                // It is that of one version, which was the newest meanwhile.
                let after = store.tip().unwrap().unwrap().0.get();
                let found = (before..=after + 1).any(|version| chain.has_index(version, &index));
                assert!(found, "the index between {before} and {after}");
            }
        });
        for (height, step) in (1..).zip(&chain.steps[1..]) {
            step.commit(&store);
            tip.store(height, Ordering::Release);
        }
        done.store(true, Ordering::Release);
    });
    assert!(reads.into_inner() > 100);
    assert_eq!(chain.check(&store), Some(250));
    store.persist().unwrap();
    chain.check_pruned(&store);
}

#[test]
fn what_an_idle_store_holds_is_merged() {
    let home = Home::new();
    let config = floe_storage::LedgerStoreConfig { idle_ms: 20, ..home.config() };
    let store = LedgerStore::open(&config).unwrap();
    let chain = Chain::of(7, 5);
    chain.steps.iter().for_each(|step| step.commit(&store));
    const { assert!(MERGE_HEIGHTS > 5) };
    store.wait_for_checkpoint(Height::new(5)).unwrap();
    assert_eq!(store.checkpoint(), Some(Height::new(5)));
    // All of it can still be read.
    assert_eq!(store.oldest_state(), Some(Height::new(0)));
    assert_eq!(chain.check(&store), Some(5));
}

#[test]
fn a_store_that_was_closed_has_nothing_to_replay() {
    let home = Home::new();
    let store = home.open_patient();
    let chain = Chain::of(8, 20);
    chain.steps.iter().for_each(|step| step.commit(&store));
    assert_eq!(store.checkpoint(), Some(Height::new(0)));
    drop(store);
    let store = home.open_patient();
    assert_eq!(store.checkpoint(), Some(Height::new(20)));
    assert_eq!(store.oldest_state(), Some(Height::new(20)));
    chain.check_pruned(&store);
}

#[test]
fn blocks_above_the_checkpoint_are_replayed_before_others_are_committed() {
    let home = Home::new();
    let store = home.open_patient();
    let chain = Chain::of(9, 7);
    chain.steps[..7].iter().for_each(|step| step.commit(&store));
    let crashed = Home::new();
    copy(home.path(), crashed.path());
    let store = crashed.open_patient();
    assert_eq!(store.checkpoint(), Some(Height::new(0)));
    assert_eq!(store.tip().unwrap().unwrap().0, Height::new(6));
    let [_, first, second, .., sixth, seventh] = &chain.steps[..] else { panic!("seven blocks") };
    let replay = |step: &Step| {
        store.replay(step.block.header.hash(), &step.transactions, &step.change).err()
    };
    let refused = |error: Option<CommitError>, found, expected| {
        let Some(CommitError::OutOfOrder { found: f, expected: e }) = error else {
            panic!("{error:?}")
        };
        assert_eq!((f, e), (found, expected));
    };
    refused(store.commit(&seventh.committed()).err(), 7, 1);
    refused(replay(second), 2, 1);
    assert!(replay(first).is_none());
    refused(replay(first), 1, 2);
    // Nothing is lost if the node stops in the middle of it.
    drop(store);
    let store = crashed.open_patient();
    assert_eq!(store.checkpoint(), Some(Height::new(1)));
    chain.replay(&store);
    let error = store.replay(sixth.block.header.hash(), &[], &sixth.change).err();
    refused(error, 6, 7);
    let error = store.replay(seventh.block.header.hash(), &[], &seventh.change).err();
    refused(error, 7, 7);
    assert_eq!(chain.check(&store), Some(6));
    seventh.commit(&store);
    assert_eq!(chain.check(&store), Some(7));
}

#[test]
fn commits_wait_for_merges_rather_than_fill_memory() {
    let home = Home::new();
    let config = floe_storage::LedgerStoreConfig {
        merge_bytes: 20_000,
        merge_heights: u64::MAX,
        state_heights: u64::MAX,
        state_bytes: 50_000,
        ..home.config()
    };
    let store = LedgerStore::open(&config).unwrap();
    let chain = Chain::of(10, 120);
    for (height, step) in (0..).zip(&chain.steps) {
        step.commit(&store);
        // Four times what starts a merge, and no block has less than 1,000 bytes.
        assert!(store.checkpoint().unwrap().get() + 80 >= height);
    }
    store.persist().unwrap();
    assert!(store.oldest_state().unwrap() > Height::new(40));
    chain.check_pruned(&store);
}

#[test]
fn a_handover_certificate_is_kept_beside_the_end_of_its_epoch() {
    let home = Home::new();
    let chain = Chain::of(7, 12);
    let mut store = home.open();
    chain.steps.iter().for_each(|step| step.commit(&store));
    // Epochs 1 and 2 end at heights 5 and 10; nothing is verified here.
    let certificate = |epoch: u64, height: u64| {
        let mut bytes = [epoch.to_le_bytes(), height.to_le_bytes()].concat();
        bytes.extend([7; 32]);
        bytes.extend([4, 0, 0b0111]);
        bytes.extend([8; 96]);
        HandoverCertificate::from_bytes(&bytes).unwrap()
    };
    let kept = |store: &LedgerStore, epoch| store.handover_certificate(Epoch::new(epoch)).unwrap();
    assert_eq!(kept(&store, 1), None, "as in a store that knows none");
    for (epoch, height, is_end) in [(1, 5, true), (1, 6, false), (2, 5, false), (3, 15, false)] {
        let put = store.put_handover_certificate(&certificate(epoch, height)).unwrap();
        assert_eq!(put, is_end, "epoch {epoch} at {height}");
    }
    for _ in 0..2 {
        assert_eq!(kept(&store, 1), Some(certificate(1, 5)));
        assert_eq!((kept(&store, 2), kept(&store, 3)), (None, None));
        drop(store);
        store = home.open();
    }
    assert_eq!(chain.check(&store), Some(12));
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
    let chain = Chain::of(6, 240);
    for (height, step) in chain.steps.iter().enumerate() {
        step.commit(&store);
        if height % 50 == 49 {
            drop(store);
            store = home.open();
        }
    }
    store.persist().unwrap();
    let oldest = store.oldest_state().unwrap().get();
    // The last restart was at 199.
    assert!(oldest >= 199, "{oldest}");
    chain.check_pruned(&store);
}
