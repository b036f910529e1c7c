//! The ledger's own state on the store: what a node does when it starts after a crash.

use floe_protocol::{
    index::Height,
    ledger::{AccountId, Amount, Key, Operation, State, StateProof},
    test_support::{Chain, account_key, genesis},
};
use floe_storage::{Committed, EpochEnd, LedgerStore};

use crate::common::{Home, Random, copy};

/// Executes the blocks above the checkpoint again, from what the store has.
fn load(origin: &State, store: &LedgerStore) -> State {
    let checkpoint = store.checkpoint().unwrap();
    let header = store.header(checkpoint).unwrap();
    let mut state =
        header.map_or_else(|| origin.clone(), |h| State::load(origin, &h, store).unwrap());
    while state.tip().height < store.tip().unwrap().unwrap().0 {
        let block = store.block(state.next_height()).unwrap().unwrap();
        // It checks the roots.
        let executed = state.execute(store, &block, &|_| true).unwrap();
        store.replay(executed.hash, &executed.transactions, &executed.change).unwrap();
        state = executed.next;
    }
    state
}

/// Some transfers by accounts whose turn it is.
fn grow(chain: &mut Chain, random: &mut Random) {
    let transfers: Vec<_> = (0..4)
        .map(|account| {
            let to = AccountId::new(account_key(u8::try_from(random.below(150)).unwrap()).public());
            let amount = Amount::from_frost(1 + u128::from(random.below(1000)));
            chain.sign(&account_key(account), vec![Operation::Transfer { to, amount }])
        })
        .collect();
    chain.commit(&transfers);
    if random.below(40) == 0 {
        chain.next_epoch();
    }
}

#[test]
fn a_state_that_was_replayed_goes_on_as_all_others() {
    let genesis = genesis(4, 10);
    let (origin, change) = State::genesis(&genesis).unwrap();
    let mut chain = Chain::new(&genesis);
    let mut home = Home::new();
    let mut store = home.open_patient();
    store.commit_genesis(&change, b"tip").unwrap();
    let mut state = origin.clone();
    let mut random = Random(4);
    for round in 0..130 {
        grow(&mut chain, &mut random);
        for at in usize::try_from(state.tip().height.get()).unwrap()..chain.blocks.len() {
            let (block, certificate) = &chain.blocks[at];
            let executed = state.execute(&store, block, &|_| true).unwrap();
            let epoch = block.header.epoch;
            let ends = executed.next.committee().epoch() > epoch;
            let next_committee = executed.next.committee().to_bytes();
            let committed = Committed {
                block,
                hash: executed.hash,
                certificate,
                transactions: &executed.transactions,
                change: &executed.change,
                epoch_end: ends.then_some(EpochEnd { epoch, next_committee: &next_committee }),
                tip: b"tip",
            };
            store.commit(&committed).unwrap();
            state = executed.next;
        }
        match random.below(12) {
            0 | 1 => store.persist().unwrap(),
            2 => {
                let crashed = Home::new();
                copy(home.path(), crashed.path());
                drop(store);
                home = crashed;
                store = home.open_patient();
                state = load(&origin, &store);
            }
            3 => {
                drop(store);
                store = home.open_patient();
                assert_eq!(store.checkpoint(), Some(state.tip().height));
                state = load(&origin, &store);
            }
            _ => {}
        }
        assert_eq!(state.tip(), chain.state.tip(), "round {round}");
        // Every height that can be read proves what it holds.
        let key = Key::Account(AccountId::new(account_key(1).public()));
        let oldest = store.oldest_state().unwrap().get();
        for height in oldest.max(1)..=state.tip().height.get() {
            let root = store.header(Height::new(height)).unwrap().unwrap().state_root;
            let proof = StateProof::new(&store, height, &key).unwrap();
            assert!(proof.verify(&root, &key).unwrap().is_some());
        }
        // An older one proves nothing.
        assert!(oldest == 0 || StateProof::new(&store, oldest - 1, &key).is_err());
    }
    assert!(store.oldest_state().unwrap() > Height::new(0));
}
