//! Random chains with merges, restarts and crashes: the store says what the model in memory says.

use proptest::{collection::vec, prelude::*, test_runner::Config};

use crate::common::{Chain, Home, copy};

#[derive(Clone, Copy, Debug)]
enum Action {
    Commit,
    Merge,
    Reopen,
    Crash,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        20 => Just(Action::Commit),
        3 => Just(Action::Merge),
        1 => Just(Action::Reopen),
        1 => Just(Action::Crash),
    ]
}

proptest! {
    #![proptest_config(Config { cases: 12, ..Config::default() })]

    #[test]
    fn the_store_agrees_with_memory(seed in any::<u64>(), actions in vec(action(), 1..140)) {
        let mut home = Home::new();
        let mut store = home.open_patient();
        let mut chain = Chain::new(seed);
        prop_assert_eq!(chain.check(&store), None);
        for (number, action) in actions.into_iter().enumerate() {
            match action {
                Action::Commit => {
                    chain.grow();
                    chain.steps.last().unwrap().commit(&store);
                }
                Action::Merge => store.persist().unwrap(),
                Action::Reopen => {
                    drop(store);
                    store = home.open_patient();
                    // Nothing is left to replay.
                    let tip = store.tip().unwrap().map(|(tip, _)| tip);
                    prop_assert_eq!(store.checkpoint(), tip);
                }
                Action::Crash => {
                    let crashed = Home::new();
                    copy(home.path(), crashed.path());
                    drop(store);
                    home = crashed;
                    store = home.open_patient();
                    chain.replay(&store);
                }
            }
            if number % 16 == 0 || matches!(action, Action::Reopen | Action::Crash) {
                let tip = chain.check(&store);
                prop_assert_eq!(tip, (chain.steps.len() as u64).checked_sub(1));
            }
        }
        store.persist().unwrap();
        if !chain.steps.is_empty() {
            chain.check_pruned(&store);
        }
    }
}
