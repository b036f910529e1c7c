//! Gaps between blocks: after one, a selection waits until nodes could report that they are there.

use floe_protocol::{
    index::Epoch,
    ledger::{Event, Executed, Timestamp},
    test_support::{Chain, genesis},
};
use proptest::prelude::*;

use super::{N, members, report_ready, to_deadline};

/// How much older than its block the block may be that a report names, and the longest gap after
/// which nothing waits.
const GAP_MS: u64 = 30_000;

/// Six nodes, of which four can carry all shards.
fn six() -> Chain {
    let mut chain = Chain::new(&genesis(6, N));
    chain.commit(&[]);
    chain
}

fn epoch_ms(chain: &Chain) -> u64 {
    chain.state.parameters().ledger.epoch_ms
}

/// A block so much after the last one.
fn after(chain: &mut Chain, ms: u64) -> Executed {
    chain.now = chain.state.tip().time.plus_ms(ms);
    chain.commit(&[])
}

fn selected(executed: &Executed) -> bool {
    executed.events.iter().any(|event| matches!(event, Event::EpochSelected { .. }))
}

fn ended(executed: &Executed) -> bool {
    executed.events.iter().any(|event| matches!(event, Event::EpochChanged { .. }))
}

fn resumed(chain: &Chain) -> Option<Timestamp> {
    chain.state.summary().resumed
}

fn wait_ms(chain: &Chain) -> u128 {
    chain.state.epoch_wait().unwrap().as_millis()
}

#[test]
fn after_a_gap_those_who_come_back_can_report_before_a_selection() {
    let mut chain = six();
    assert_eq!(resumed(&chain), None, "genesis knows no time: the first block ends no gap");
    // Only two had reported when the ledger stood still.
    report_ready(&mut chain, &[0, 1]);
    let half = epoch_ms(&chain) / 2;
    assert!(!selected(&after(&mut chain, half + 600_000)), "too few could report");
    let back = chain.state.tip().time;
    assert_eq!(resumed(&chain), Some(back));
    assert_eq!(wait_ms(&chain), u128::from(GAP_MS), "nor is a block asked for at once");
    report_ready(&mut chain, &[2, 3, 5]);
    chain.now = back.plus_ms(GAP_MS - 1);
    assert!(!selected(&chain.commit(&[])));
    assert_eq!(wait_ms(&chain), 1);
    chain.now = back.plus_ms(GAP_MS);
    assert!(selected(&chain.commit(&[])));
    assert_eq!(chain.state.summary().selection_failed, None);
    to_deadline(&mut chain);
    assert_eq!(chain.state.summary().epoch, Epoch::new(1));
    assert_eq!(members(&chain), [0, 1, 2, 3, 5]);
}

#[test]
fn a_pause_in_which_reports_stay_young_is_no_gap() {
    for (ms, waits) in [(GAP_MS, false), (GAP_MS + 1, true)] {
        let mut chain = six();
        let deadline = chain.state.epoch_deadline().unwrap();
        chain.now = Timestamp::from_ms(deadline.ms() - GAP_MS);
        chain.commit(&[]);
        report_ready(&mut chain, &[0, 1, 2, 3, 4, 5]);
        let deadline = deadline.ms() - chain.state.tip().time.ms();
        assert!(deadline < ms);
        assert_eq!(selected(&after(&mut chain, ms)), !waits, "{ms} ms");
    }
}

#[test]
fn a_gap_delays_no_end_for_which_a_committee_is_selected() {
    let mut chain = six();
    report_ready(&mut chain, &[0, 1, 2, 3]);
    assert!(selected(&to_deadline(&mut chain)));
    let epoch = epoch_ms(&chain);
    let executed = after(&mut chain, 5 * epoch);
    assert!(ended(&executed) && !selected(&executed));
    assert_eq!(chain.state.summary().epoch, Epoch::new(1));
    // The new epoch has all its time: nothing is due.
    assert_eq!(wait_ms(&chain), u128::from(epoch_ms(&chain) / 2));
}

#[test]
fn an_epoch_that_passed_in_a_gap_ends_with_its_late_selection() {
    let mut chain = six();
    let epoch = epoch_ms(&chain);
    let executed = after(&mut chain, 5 * epoch);
    assert!(!ended(&executed) && !selected(&executed));
    report_ready(&mut chain, &[1, 2, 3, 4]);
    // One more gap: those who reported after the first one may be gone by now.
    after(&mut chain, 2 * GAP_MS);
    report_ready(&mut chain, &[5]);
    assert_eq!(wait_ms(&chain), u128::from(GAP_MS) - 100);
    let executed = to_deadline(&mut chain);
    assert!(ended(&executed) && selected(&executed));
    assert_eq!(
        (chain.state.summary().epoch, members(&chain)),
        (Epoch::new(1), vec![1, 2, 3, 4, 5])
    );
}

#[test]
fn a_selection_without_enough_candidates_is_on_record_until_one_succeeds() {
    let mut chain = six();
    let failed = |chain: &Chain| chain.state.summary().selection_failed;
    report_ready(&mut chain, &[0, 1]);
    to_deadline(&mut chain);
    assert_eq!(failed(&chain), Some(Epoch::new(1)));
    to_deadline(&mut chain);
    assert_eq!((chain.state.summary().epoch, failed(&chain)), (Epoch::new(1), Some(Epoch::new(1))));
    report_ready(&mut chain, &[0, 1, 2, 3]);
    to_deadline(&mut chain);
    assert_eq!(failed(&chain), None);
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, cases: 32, ..ProptestConfig::default()
    })]

    /// Whatever the gaps, what comes next is in the future, and when it is reached something
    /// happens, or waits for reports.
    #[test]
    fn a_deadline_is_ahead_and_something_happens_there(
        gaps in proptest::collection::vec((any::<bool>(), 0..8_u64, 0..3 * GAP_MS), 1..24),
    ) {
        let mut chain = six();
        for (to_deadline, halves, ms) in gaps {
            let due = chain.state.epoch_deadline().unwrap();
            let before = *chain.state.summary();
            let ms = if to_deadline {
                due.ms_since(chain.state.tip().time)
            } else {
                halves / 4 * epoch_ms(&chain) / 2 + ms + 1
            };
            let executed = after(&mut chain, ms);
            let now = chain.state.tip().time;
            prop_assert!(wait_ms(&chain) > 0, "no block is asked for at once");
            let happened = selected(&executed) || ended(&executed);
            let held = !before.may_select(now) || ms > GAP_MS;
            prop_assert!(now >= due || !happened);
            prop_assert!(now < due || happened || held);
            prop_assert!(!selected(&executed) || !held);
            let supply = chain.state.summary().supply.total();
            prop_assert_eq!(supply, Some(chain.state.parameters().supply));
        }
    }
}
