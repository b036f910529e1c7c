//! The numbers of the argument in the header of `protocol::challenge`.

use floe_protocol::{
    challenge::{ChallengeParameters, Score, transcript_bytes_max},
    encoding::EncodingConfig,
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

/// Who passes if a third of the proposers withholds each block by which it would not.
#[test]
fn withholding_beacons_moves_the_threshold_a_little() {
    let with_friends = |p: f64| {
        let (miss, friends) = (1.0 - p, 1.0 / 3.0);
        // Missed at last by the first draw that no friend could withhold.
        1.0 - (1.0 - friends) * miss / (1.0 - friends * miss)
    };
    check("pay at 3 %", with_friends(passes(0.03)), 0.704, 0.706);
    check("pay at 30 %", with_friends(passes(0.30)), 0.0049, 0.0051);
    check("threshold", with_friends(passes(0.0556)), 0.499, 0.501);
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
