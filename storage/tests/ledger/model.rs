//! Random chains with pruning and restarts: the store says what the model in memory says.

use proptest::{collection::vec, prelude::*, test_runner::Config};

use crate::common::{Chain, Home};

#[derive(Clone, Copy, Debug)]
enum Action {
    Commit,
    Prune(usize),
    Reopen,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => Just(Action::Commit),
        3 => (1..200_usize).prop_map(Action::Prune),
        1 => Just(Action::Reopen),
    ]
}

proptest! {
    #![proptest_config(Config { cases: 12, ..Config::default() })]

    #[test]
    fn the_store_agrees_with_memory(seed in any::<u64>(), actions in vec(action(), 1..140)) {
        let home = Home::new();
        let mut store = home.open();
        let mut chain = Chain::new(seed);
        prop_assert_eq!(chain.check(&store), None);
        for (number, action) in actions.into_iter().enumerate() {
            match action {
                Action::Commit => {
                    chain.grow();
                    chain.steps.last().unwrap().commit(&store);
                }
                Action::Prune(max_entries) => {
                    store.prune_step(max_entries).unwrap();
                }
                Action::Reopen => {
                    drop(store);
                    store = home.open();
                }
            }
            if number % 16 == 0 || matches!(action, Action::Reopen) {
                let tip = chain.check(&store);
                prop_assert_eq!(tip, (chain.steps.len() as u64).checked_sub(1));
            }
        }
        while store.prune_step(100).unwrap() > 0 {}
        if !chain.steps.is_empty() {
            chain.check_pruned(&store);
        }
    }
}
