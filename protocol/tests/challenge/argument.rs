//! The numbers of the argument in the header of `protocol::challenge`.

use std::{collections::BTreeSet, num::NonZeroUsize};

use floe_protocol::{
    challenge::{ChallengeParameters, Score, transcript_bytes_max},
    encoding::{Axis, EncodingConfig, encode, symbol_hashes},
    index::SliverPairIndex,
    test_support,
};

/// Of a node that lacks this part of its billed units: the probability to pass a round.
fn passes(lacks: f64) -> f64 {
    (1.0 - lacks).powi(i32::from(ChallengeParameters::default().steps))
}

/// The probability to be slashed after so many rounds, of which each is passed with probability
/// `p`: the tail of a binomial distribution, by the rule that the ledger applies.
fn slashed(rounds: u32, p: f64) -> f64 {
    let rules = ChallengeParameters::default();
    // The probability to pass none, then one more each time, as logarithms: it may be tiny.
    let mut log = f64::from(rounds) * (1.0 - p).ln();
    let mut sum = 0.0;
    for passed in 0..=rounds {
        let score = Score { passed, missed: rounds - passed, void: 0 };
        if score.is_slashed(&rules) {
            sum += log.exp();
        }
        log += (p / (1.0 - p)).ln() + (f64::from(rounds - passed) / f64::from(passed + 1)).ln();
    }
    sum
}

fn check(name: &str, is: f64, from: f64, to: f64) {
    assert!((from..=to).contains(&is), "{name}: {is}");
}

#[test]
fn dropping_costs_more_than_it_saves() {
    // A day of rounds by default rules, and an epoch of 100.
    let rules = ChallengeParameters::default();
    let day = u32::try_from(86_400_000 / rules.interval_ms).unwrap();
    assert_eq!(day, 1_440);
    for (lacks, lost, slashed_day, slashed_100) in [
        (0.001, (0.015, 0.016), (0.0, 1e-99), (0.0, 1e-60)),
        (0.01, (0.148, 0.149), (0.0, 1e-99), (0.0, 1e-15)),
        (0.03, (0.385, 0.386), (0.0, 1e-18), (0.007, 0.008)),
        (0.04, (0.479, 0.480), (0.057, 0.058), (0.30, 0.31)),
        (0.05, (0.559, 0.560), (0.999, 1.0), (0.86, 0.87)),
        (0.30, (0.996, 0.997), (1.0 - 1e-9, 1.0 + 1e-9), (1.0 - 1e-9, 1.0 + 1e-9)),
    ] {
        let p = passes(lacks);
        check(&format!("{lacks}: pay lost"), 1.0 - p, lost.0, lost.1);
        check(&format!("{lacks}: slashed in a day"), slashed(day, p), slashed_day.0, slashed_day.1);
        check(&format!("{lacks}: in 100"), slashed(100, p), slashed_100.0, slashed_100.1);
    }
    // Half of the rounds are missed from here on.
    check("threshold", passes(0.0424), 0.499, 0.501);
}

/// The part of the proposers that collude.
const FRIENDS: f64 = 1.0 / 3.0;

/// Who misses if friends withhold each block by which it would, given that any one draw is missed
/// with this probability.
fn withheld(miss: f64) -> f64 {
    // Missed at last by the first draw that no friend could withhold.
    (1.0 - FRIENDS) * miss / (1.0 - FRIENDS * miss)
}

/// Who passes if a third of the proposers withholds each block by which it would not.
#[test]
fn withholding_beacons_moves_the_threshold_a_little() {
    let with_friends = |lacks| 1.0 - withheld(1.0 - passes(lacks));
    let p = passes(0.03);
    let in_header = 2.0 * (1.0 - p) / (2.0 + p);
    check("as the header says it", 1.0 - with_friends(0.03), in_header - 1e-12, in_header + 1e-12);
    check("pay at 3 %", with_friends(0.03), 0.704, 0.706);
    check("pay at 30 %", with_friends(0.30), 0.0049, 0.0051);
    check("threshold", with_friends(0.0556), 0.499, 0.501);
}

/// Who misses if friends, besides, choose when the round opens: each that is to open it may do so,
/// leave it to the next height, or drop its block, and takes what comes out best by all that is known
/// when it decides: who proposes, and what friends in a row after it would draw. An upper bound, as
/// nobody can put it off for ever.
fn opened_by_friends(miss: f64) -> f64 {
    // Opened by a friend, the seed is drawn by others in a row until one of them is honest: the
    // chance that a friend among them has a good one to show.
    let good = FRIENDS * (1.0 - miss) / (1.0 - FRIENDS * miss);
    // What comes out is 0, or miss^j if it is up to j draws that nobody knows yet. `above(j)` is the
    // probability that it is more than miss^j: x = an honest opener + a friend and three ways to go on,
    // two of which are as before.
    let above = |j: i32| {
        let by_honest = (1.0 - FRIENDS) * (1.0 - FRIENDS.powi(j - 1));
        let by_friend = if j == 1 { 0.0 } else { FRIENDS * (1.0 - good) };
        (0..200).fold(1.0, |x: f64, _| by_honest + by_friend * x * x)
    };
    (1..40).map(|j| miss.powi(j) * (above(j + 1) - above(j))).sum()
}

#[test]
fn choosing_when_to_open_moves_it_a_little_further() {
    let pay = |lacks| 1.0 - opened_by_friends(1.0 - passes(lacks));
    check("pay lost at 3 %", 1.0 - pay(0.03), 0.23, 0.24);
    check("pay lost at 30 %", 1.0 - pay(0.30), 0.99, 0.993);
    check("threshold", pay(0.0685), 0.49, 0.50);
    check("threshold", pay(0.0683), 0.50, 0.51);
    check("lacks everything", opened_by_friends(1.0), 1.0 - 1e-9, 1.0 + 1e-9);
    assert!(pay(0.03) > 1.0 - withheld(1.0 - passes(0.03)), "more than by withholding alone");
}

/// What a node with `m` shards holds twice: `m` of its primary slivers, expanded, have a symbol of
/// each of its secondary slivers.
#[test]
fn some_symbols_can_be_recomputed_from_others() {
    let part = |shards| f64::from(shards) / 65.0;
    for (n_shards, shards, redundant) in
        [(7, 2, 0.25), (64, 4, part(4)), (64, 7, part(7)), (64, 21, part(21))]
    {
        let config = EncodingConfig::new(n_shards).unwrap();
        let content = test_support::blob(3, 40 * config.k1() * config.k2());
        let blob = encode(config, content, NonZeroUsize::MIN).unwrap();
        let layout = blob.header().layout().unwrap();
        // Of pairs whose slivers cross where both are stored.
        let pairs: Vec<_> = (0..shards).map(SliverPairIndex::new).map(|i| blob.pair(i)).collect();
        let hashes = |axis, sliver: &[u8]| symbol_hashes(&layout, axis, sliver).unwrap();
        let mut by_rows = BTreeSet::new();
        for (primary, _) in &pairs {
            by_rows.extend(hashes(Axis::Primary, primary));
        }
        let stored = pairs.iter().flat_map(|(_, secondary)| {
            hashes(Axis::Secondary, secondary).into_iter().take(config.k1())
        });
        let recomputed = stored.filter(|hash| by_rows.contains(hash)).count();
        let held = usize::from(shards) * (config.k1() + config.k2());
        assert_eq!(recomputed, usize::from(shards) * usize::from(shards));
        #[expect(clippy::cast_precision_loss, reason = "small counts")]
        let part = recomputed as f64 / held as f64;
        check(&format!("{shards} of {n_shards}"), part, redundant - 1e-9, redundant + 1e-9);
    }
}

/// Fetching: so many answers one after the other fit into a window, and into two.
#[test]
fn fetching_takes_fast_links_and_many_bytes() {
    let rules = ChallengeParameters::default();
    let steps = u64::from(rules.steps);
    assert_eq!((rules.window_ms / steps, 2 * rules.window_ms / steps), (62, 125));
    assert_eq!(steps * 32, 512, "MiB, by whole blobs");
    check("answers that who lacks 3 % needs", 16.0 * 0.03, 0.45, 0.5);
}

/// A node that is up for 60 % of the rounds, and for the rest at the worst moment.
#[test]
fn who_is_there_in_most_rounds_is_never_slashed() {
    let rules = ChallengeParameters::default();
    for rounds in 1..2_000_u32 {
        let missed = rounds * 2 / 5;
        let score = Score { passed: rounds - missed, missed, void: 0 };
        assert!(!score.is_slashed(&rules), "{rounds} rounds");
    }
}

#[test]
fn a_round_costs_so_many_bytes() {
    let rules = ChallengeParameters::default();
    // Members, members that ask for each transcript, MB that a node sends in a day.
    for (members, asking, megabytes) in [(4, 2, 88), (7, 3, 131), (16, 6, 262), (64, 22, 958)] {
        let config = EncodingConfig::new(64).unwrap();
        let shards = config.n_shards() / members;
        assert_eq!(config.max_faulty() / shards + 1, asking, "{members} members");
        let transcript = transcript_bytes_max(config, rules.steps);
        let bytes = transcript * usize::from(asking) * 1_440;
        assert_eq!(bytes.div_ceil(1_000_000), megabytes, "{members} members");
    }
}
