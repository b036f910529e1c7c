//! Where it does not go well: late, busy, empty, lying helpers, and too few of them.

use std::{collections::BTreeSet, sync::LazyLock};

use floe_protocol::{
    encoding::{Axis, EncodedBlob},
    index::SliverPairIndex,
    keys::NodeId,
    repair::{
        Recovery, RecoveryConfig, RecoveryFailure, RecoveryInput, RecoveryMethod, RecoveryOutput,
    },
    transfer::SliverFault,
};
use proptest::{prelude::*, sample};

use super::{
    LARGE, SMALL, check, encoded, pairs,
    swarm::{Habit, Random, Swarm, Written, node},
};

static BLOBS: LazyLock<Vec<(EncodedBlob, Written)>> = LazyLock::new(|| {
    let blob = |(n, len)| {
        let blob = encoded(n, 77, len);
        let written = Written::honest(&blob);
        (blob, written)
    };
    LARGE.into_iter().chain(SMALL).map(blob).collect()
});

const LIES: [Habit; 2] = [Habit::FlipsBits, Habit::OtherPlaces];
const USELESS: [Habit; 5] =
    [Habit::Silent, Habit::Unreachable, Habit::Empty, Habit::FlipsBits, Habit::OtherPlaces];
const USEFUL: [Habit; 5] =
    [Habit::Honest, Habit::Honest, Habit::Busy(3), Habit::Slow(700), Habit::Slow(20_000)];

fn liars(habits: &[Habit]) -> BTreeSet<NodeId> {
    let liars = habits.iter().enumerate().filter(|(_, habit)| LIES.contains(habit));
    liars.map(|(i, _)| node(i)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, cases: 300, ..ProptestConfig::default()
    })]

    /// Whichever helpers are left: with `k1` useful ones the pairs come back, byte for byte, by
    /// symbols where `k2` are; with fewer it fails and says so. Only liars are banned.
    #[test]
    fn pairs_come_back_as_long_as_enough_helpers_are_left(
        blob in sample::select((0..8_usize).collect::<Vec<_>>()),
        seed in any::<u64>(),
    ) {
        let (blob, written) = &BLOBS[blob];
        let encoding = blob.layout().config();
        let n = encoding.n();
        let mut random = Random(seed);
        let wanted = 1 + random.index(usize::from(encoding.max_faulty()));
        let lost = random.some(wanted, n);
        let mut habits: Vec<_> = (0..n).map(|_| USEFUL[random.index(USEFUL.len())]).collect();
        let count = random.index(n);
        let useless = random.some(count, n);
        for i in &useless {
            habits[*i] = USELESS[random.index(USELESS.len())];
        }
        let useful = (0..n).filter(|i| !lost.contains(i) && !useless.contains(i)).count();
        let wanted = pairs(lost);
        let mut swarm = Swarm::new(written.clone(), habits.clone(), seed);
        let config = RecoveryConfig::default();
        let (recovery, result) = swarm.recover(config, &wanted);
        prop_assert!(swarm.banned.is_subset(&liars(&habits)));
        prop_assert!(swarm.most_in_flight <= 2 * config.in_flight_max);
        prop_assert!(swarm.most_bytes <= recovery.bytes_needed());
        let symbols = recovery.cost().method == RecoveryMethod::Symbols;
        match result {
            Ok(recovered) => {
                prop_assert!(useful >= encoding.k1());
                prop_assert!(!symbols || useful >= encoding.k2());
                check(blob, &wanted, &recovered.unwrap());
            }
            Err(RecoveryFailure::TooFewHelpers { rows, rows_needed, faults }) => {
                prop_assert!(useful < encoding.k1());
                prop_assert!(rows >= useful && rows < rows_needed && rows_needed == encoding.k1());
                let useless: BTreeSet<_> = useless.into_iter().map(node).collect();
                for (node, fault) in faults {
                    let busy = matches!(fault, SliverFault::Busy { .. });
                    prop_assert!(busy || useless.contains(&node), "{node}: {fault}");
                }
            }
            Err(failure) => prop_assert!(false, "{failure}"),
        }
    }
}

#[test]
fn liars_are_banned_and_others_asked() {
    let (blob, written) = &BLOBS[2];
    let wanted = pairs([5]);
    for seed in 0..40 {
        let mut random = Random(seed);
        let mut habits = vec![Habit::Honest; 10];
        for i in random.some(2, 9) {
            habits[(6 + i) % 10] = LIES[random.index(2)];
        }
        let mut swarm = Swarm::new(written.clone(), habits.clone(), seed);
        let (recovery, recovered) = swarm.recover(RecoveryConfig::default(), &wanted);
        check(blob, &wanted, &recovered.unwrap().unwrap());
        assert_eq!(recovery.cost().method, RecoveryMethod::Symbols, "seed {seed}");
        // Seven of nine columns and four rows are asked for: one liar at least is met.
        let asked = liars(&habits).into_iter().filter(|liar| swarm.asked.contains_key(liar));
        assert_eq!(swarm.banned, asked.collect(), "seed {seed}");
        let wrong = recovery.faults().iter().filter(|(_, fault)| **fault == SliverFault::Wrong);
        assert!(wrong.map(|(node, _)| *node).eq(swarm.banned.iter().copied()), "seed {seed}");
    }
}

#[test]
fn too_few_helpers_fail_with_the_reason_of_each() {
    let (_, written) = &BLOBS[2];
    let mut habits = vec![Habit::Empty; 10];
    habits[0] = Habit::Honest;
    habits[1] = Habit::Honest;
    habits[2] = Habit::Honest;
    habits[3] = Habit::FlipsBits;
    habits[4] = Habit::Silent;
    habits[5] = Habit::Unreachable;
    let mut swarm = Swarm::new(written.clone(), habits, 3);
    let (_, result) = swarm.recover(RecoveryConfig::default(), &pairs([9]));
    let failure = result.unwrap_err();
    let text = failure.to_string();
    let RecoveryFailure::TooFewHelpers { rows, rows_needed: 4, faults } = failure else {
        panic!("{failure}")
    };
    assert_eq!(text, format!("{rows} rows of the blob can be had or are here, 4 are needed"));
    assert!(rows >= 3, "{rows}");
    assert_eq!(faults.get(&node(3)), Some(&SliverFault::Wrong));
    assert_eq!(faults.get(&node(6)), Some(&SliverFault::NotFound));
    assert!(!faults.contains_key(&node(0)));
}

#[test]
fn late_helpers_are_hedged_and_not_waited_for() {
    let (blob, written) = &BLOBS[3];
    let wanted = pairs([20]);
    let mut habits = vec![Habit::Honest; 64];
    for slow in [3, 24, 25, 26, 50] {
        habits[slow] = Habit::Slow(25_000);
    }
    let mut swarm = Swarm::new(written.clone(), habits, 9);
    let config = RecoveryConfig::default();
    let (recovery, recovered) = swarm.recover(config, &wanted);
    check(blob, &wanted, &recovered.unwrap().unwrap());
    assert!(swarm.ended_ms < 10_000, "{} ms", swarm.ended_ms);
    let requests = swarm.asked.values().sum::<usize>();
    let most = recovery.cost().requests + 2 * config.spares_max;
    assert!((recovery.cost().requests..=most).contains(&requests), "{requests} requests");
    assert!(recovery.faults().is_empty());
}

#[test]
fn busy_helpers_are_asked_again_when_they_say() {
    let (blob, written) = &BLOBS[0];
    // All three others are needed.
    let mut swarm = Swarm::new(written.clone(), vec![Habit::Busy(20); 4], 9);
    let (_, recovered) = swarm.recover(RecoveryConfig::default(), &pairs([2]));
    check(blob, &pairs([2]), &recovered.unwrap().unwrap());
    let config = RecoveryConfig { busy_max: 5, ..RecoveryConfig::default() };
    let mut swarm = Swarm::new(written.clone(), vec![Habit::Busy(u32::MAX); 4], 9);
    let (_, result) = swarm.recover(config, &pairs([2]));
    let Err(RecoveryFailure::TooFewHelpers { rows: 0 | 1, rows_needed: 2, faults }) = result else {
        panic!("{result:?}")
    };
    assert_eq!(faults.len(), 3);
    // As long as symbols are hoped for, and once more for rows.
    assert!(swarm.asked.values().all(|asked| *asked <= 2 * 8), "{:?}", swarm.asked);
}

#[test]
fn the_second_who_may_have_a_pair_is_asked_when_the_first_has_not() {
    let (blob, written) = &BLOBS[0];
    for first in [Habit::Empty, Habit::Silent, Habit::Unreachable, Habit::FlipsBits] {
        let habits = [vec![first; 4], vec![Habit::Honest; 4]].concat();
        let mut swarm = Swarm::new(written.clone(), habits, 4);
        let wanted = pairs([1]);
        let holders: Vec<_> = (0..4)
            .map(|pair| if pair == 1 { Vec::new() } else { vec![node(pair), node(4 + pair)] })
            .collect();
        let config = RecoveryConfig::default();
        let mut recovery = Recovery::new(config, blob.header(), &wanted, &holders).unwrap();
        let material = swarm.drive(config, &mut recovery).unwrap();
        check(blob, &wanted, &material.recover().unwrap());
        assert_eq!(recovery.cost().method, RecoveryMethod::Symbols, "{first:?}");
        assert!(swarm.asked.contains_key(&node(0)), "{first:?}: the first is asked first");
    }
}

#[test]
fn the_whole_blob_is_read_where_symbols_are_not_to_be_had() {
    let (blob, written) = &BLOBS[2];
    let wanted = pairs([0, 7]);
    let mut habits = vec![Habit::Honest; 10];
    for i in [1, 4, 8] {
        habits[i] = Habit::RowsOnly;
    }
    let mut swarm = Swarm::new(written.clone(), habits.clone(), 4);
    let config = RecoveryConfig::default();
    let (recovery, recovered) = swarm.recover(config, &wanted);
    check(blob, &wanted, &recovered.unwrap().unwrap());
    assert_eq!((swarm.enlarged, recovery.cost().method), (1, RecoveryMethod::WholeBlob));
    // Memory for symbols alone: it fails before it takes more.
    let holders = swarm.holders(&wanted);
    let bytes_max = Recovery::new(config, blob.header(), &wanted, &holders).unwrap().bytes_needed();
    let config = RecoveryConfig { bytes_max, ..config };
    let mut swarm = Swarm::new(written.clone(), habits, 4);
    let (_, result) = swarm.recover(config, &wanted);
    let Err(RecoveryFailure::Memory { needed_bytes, .. }) = result else { panic!("{result:?}") };
    assert!(needed_bytes > bytes_max);
}

#[test]
fn a_banned_node_is_not_believed_and_stray_inputs_do_nothing() {
    let (blob, written) = &BLOBS[0];
    let wanted = pairs([1]);
    let swarm = Swarm::new(written.clone(), vec![Habit::Honest; 4], 4);
    let config = RecoveryConfig::default();
    let holders = swarm.holders(&wanted);
    let mut recovery = Recovery::new(config, blob.header(), &wanted, &holders).unwrap();
    let asked = recovery.handle(0, RecoveryInput::Tick).len();
    assert_eq!(asked, 5);
    let strange = SliverPairIndex::new(u16::MAX);
    let empty = |node, pair| RecoveryInput::Symbols {
        node,
        pair,
        axis: Axis::Primary,
        symbols: Vec::new(),
    };
    let failed =
        |node, pair, fault| RecoveryInput::Failed { node, pair, axis: Axis::Primary, fault };
    for input in [
        empty(node(99), pairs([0])[0]),
        empty(node(0), strange),
        failed(node(99), pairs([0])[0], SliverFault::Wrong),
        failed(node(0), strange, SliverFault::NoAnswer),
        failed(node(2), pairs([1])[0], SliverFault::NotFound),
        RecoveryInput::Sliver {
            node: node(0),
            proof: blob.proof(pairs([0])[0]),
            sliver: blob.pair(pairs([0])[0]).0,
        },
        RecoveryInput::Enlarged,
    ] {
        assert!(recovery.handle(1, input).is_empty());
    }
    // All three others are needed for symbols, two for rows.
    let outputs = recovery.handle(2, failed(node(3), pairs([3])[0], SliverFault::Wrong));
    let [RecoveryOutput::Banned { node: banned }, RecoveryOutput::Enlarge { .. }] = &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!(*banned, node(3));
    assert!(recovery.handle(3, empty(node(3), pairs([3])[0])).is_empty());
    assert!(recovery.handle(3, RecoveryInput::Tick).is_empty(), "it waits for memory");
    let outputs = recovery.handle(4, RecoveryInput::Enlarged);
    let to_others = |output: &RecoveryOutput| matches!(output, RecoveryOutput::AskSliver { node: to, .. } if *to != node(3));
    assert!(outputs.len() == 2 && outputs.iter().all(to_others), "{outputs:?}");
    let last = recovery.handle(5, failed(node(0), pairs([0])[0], SliverFault::Wrong));
    // A false sliver may be a damaged one: its holder is asked no more here, and not banned.
    assert!(matches!(&last[..], [RecoveryOutput::Failed(_)]), "{last:?}");
    assert!(recovery.handle(6, RecoveryInput::Tick).is_empty(), "it has ended");
    assert_eq!(recovery.wake_at_ms(), None);
}

#[test]
fn a_slow_link_is_asked_for_what_it_carries() {
    let (blob, written) = &BLOBS[3];
    let wanted = pairs(0..10);
    for rate in [10_000, 30_000, 100_000, 1_000_000] {
        let mut swarm = Swarm::new(written.clone(), vec![Habit::Honest; 64], rate);
        swarm.link_bytes_per_second = Some(rate);
        let (recovery, recovered) = swarm.recover(RecoveryConfig::default(), &wanted);
        check(blob, &wanted, &recovered.unwrap().unwrap());
        assert!(swarm.banned.is_empty());
        let minimum_ms = recovery.cost().fetched_bytes * 1_000 / rate;
        let (took_ms, too_late) = (swarm.ended_ms, swarm.too_late);
        assert!(took_ms < 3 * minimum_ms + 60_000, "{rate}: {took_ms} of {minimum_ms} ms");
        assert!(too_late <= 24, "{rate}: {too_late} answers too late");
    }
}

#[test]
fn nothing_is_asked_for_while_the_network_is_used_up() {
    let (blob, written) = &BLOBS[0];
    let swarm = Swarm::new(written.clone(), vec![Habit::Honest; 4], 4);
    let (wanted, config) = (pairs([1]), RecoveryConfig::default());
    let holders = swarm.holders(&wanted);
    let mut recovery = Recovery::new(config, blob.header(), &wanted, &holders).unwrap();
    assert!(recovery.handle(0, RecoveryInput::Hold { until_ms: 700 }).is_empty());
    assert!(recovery.handle(1, RecoveryInput::Hold { until_ms: 300 }).is_empty());
    assert_eq!(recovery.wake_at_ms(), Some(700));
    assert!(recovery.handle(699, RecoveryInput::Tick).is_empty());
    assert_eq!(recovery.handle(700, RecoveryInput::Tick).len(), 5);
}
