//! Whole epochs of rounds at all members, in one thread with a clock of its own: nodes that drop,
//! stop, hang, refuse, lie and vouch for each other, links that lose and delay, members that are cut
//! off, stand still, sync or lag, each with a clock of its own. What they make of it is held against
//! what really happened.
//!
//! `FLOE_SEEDS=1000` runs as many epochs; a failure names its seed, `FLOE_SEED=n` runs that one.

mod faults;
mod records;
mod world;

use std::{collections::BTreeMap, sync::LazyLock};

use floe_protocol::challenge::{ChallengeParameters, Outcome, RoundConfig, Score};

use self::{faults::Nature, records::Oracle, world::World};
use crate::Network;

const NODES: usize = 7;
/// f is 3, and nobody has more than 2 shards.
const SHARDS: u16 = 10;
const ROUNDS: usize = 20;
const EPOCH_MS: u64 = 220_000;
const WINDOW_MS: u64 = 1_000;
/// As many rounds as there are may cost stake, and three or four are open at a time.
const RULES: ChallengeParameters = ChallengeParameters {
    interval_ms: 10_000,
    grace_ms: 0,
    window_ms: WINDOW_MS,
    steps: 16,
    certificate_window_ms: 30_000,
    certificate_window_heights: 10,
    slash_rounds_min: 10,
    slash_bps: 100,
    slashes_until_jail: 3,
};
/// Fewer places than members may hang.
const CONFIG: RoundConfig = RoundConfig {
    busy_max: 2,
    turn_ms: 500,
    attempts_max: 10,
    answer_ms: 3_000,
    retry_ms: 1_000,
    over_heights: 8,
};

static NETWORK: LazyLock<Network> =
    LazyLock::new(|| Network::with_rules(NODES, SHARDS, &[60_000, 1_000, 9, 200_000], RULES));

/// A binomial sum with other chances each time.
#[derive(Debug, Default)]
struct Binomial {
    count: f64,
    expected: f64,
    variance: f64,
}

impl Binomial {
    fn add(&mut self, happened: bool, chance: f64) {
        self.count += f64::from(u8::from(happened));
        self.expected += chance;
        self.variance += chance * (1.0 - chance);
    }

    /// Within six standard deviations, and one for what is not continuous.
    fn check(&self, name: &str) {
        let off = (self.count - self.expected).abs();
        assert!(off <= 6.0 * self.variance.sqrt() + 1.0, "{name}: {self:?}");
    }
}

/// What all epochs come to.
#[derive(Debug, Default)]
struct Tally {
    /// Rounds of honest nodes: all, those in which they could be reached, those they passed.
    rounds: u64,
    reachable: u64,
    passed: u64,
    /// Epochs of honest nodes that were reachable in 60 % of the rounds, and of the others.
    promised: u64,
    others: u64,
    slashed: u64,
    void: u64,
    hung: u64,
    over: u64,
    lacking: BTreeMap<u64, Binomial>,
    ignored: BTreeMap<String, u64>,
}

impl Tally {
    /// Judges an epoch that is over.
    fn add(&mut self, mut world: World) -> Oracle {
        let mut oracle = std::mem::take(&mut world.oracle);
        for at in 0..NODES {
            self.add_node(&world, at, &mut oracle);
        }
        for (name, count) in &world.ignored {
            *self.ignored.entry(name.clone()).or_default() += count;
        }
        self.hung += world.hung;
        self.over += world.over;
        oracle
    }
}

impl Tally {
    /// All that can go wrong did, and yet most rounds were as they should be.
    fn check_faults(&self) {
        for name in [
            "Synced",
            "Behind",
            "Paused",
            "Late",
            "SecondCommitment",
            "NoTranscript",
            "Transcript",
            "FalseAcknowledgement",
        ] {
            assert!(self.ignored.contains_key(name), "{name}: {:?}", self.ignored);
        }
        assert!(self.hung > 0 && self.over > 0, "{self:?}");
        assert!(self.void > 0 && self.others > 0, "{self:?}");
        assert!(self.promised > self.others && self.reachable * 2 > self.rounds, "{self:?}");
    }

    fn add_node(&mut self, world: &World, at: usize, oracle: &mut Oracle) {
        let (plan, mut score, mut reachable) = (&world.plan, Score::default(), 0);
        let nature = plan.natures[at];
        for record in world.records.values() {
            let (_, outcomes) = record.closed.as_ref().expect("all rounds are closed");
            let outcome = outcomes[at];
            let state = || {
                let (seed, round) = (plan.seed, record.universe.round);
                format!("seed {seed}, round {round}, node {at}: {outcome:?}\n{plan:?}")
            };
            assert_ne!(outcome, Outcome::NotAsked, "{}", state());
            score.count(outcome);
            let (is_passed, is_fit) = (outcome == Outcome::Passed, record.is_fit(at, plan));
            let is_reachable = record.is_reachable(at, plan);
            reachable += u64::from(is_reachable);
            if is_passed {
                let (end, holds) = oracle.chain(record, at, plan).expect("a seed");
                assert!(holds && record.committed[at] == Some(end), "{}", state());
                assert!(record.submitted.contains_key(&at), "{}", state());
            }
            match nature {
                Nature::Honest if is_fit => {
                    assert!(record.committed[at].is_some() && !record.failed[at], "{}", state());
                }
                Nature::Dropped(per_mille) if is_fit => {
                    let passes = (1.0 - plan.lacking(at)).powi(i32::from(RULES.steps));
                    let of = self.lacking.entry(per_mille).or_default();
                    of.add(record.committed[at].is_some(), passes);
                }
                // Who lags may not see that it took too long.
                Nature::Fetches(100) if (0..NODES).all(|at| record.is_fit(at, plan)) => {
                    assert!(!is_passed, "{}", state());
                }
                Nature::Stopped
                | Nature::Liar
                | Nature::Refuses
                | Nature::Hangs
                | Nature::Empty => {
                    assert!(!is_passed, "{}", state());
                }
                _ => {}
            }
            // The rest of them does not make a node miss a round, nor its chain.
            assert!(is_passed || !nature.is_fair() || !is_reachable, "{}", state());
            self.void += u64::from(outcome == Outcome::Void);
        }
        if nature == Nature::Honest {
            let rounds = world.records.len() as u64;
            let state = format!("seed {}, node {at}: {score:?}, {reachable}", plan.seed);
            let is_promised = reachable * 10 >= rounds * 6;
            let is_slashed = score.is_slashed(&RULES);
            assert!(!is_promised || !is_slashed, "{state}");
            let (passed, of) = score.pay();
            assert!(passed >= reachable && of == rounds, "{state}");
            self.rounds += rounds;
            self.reachable += reachable;
            self.passed += passed;
            self.promised += u64::from(is_promised);
            self.others += u64::from(!is_promised);
            self.slashed += u64::from(is_slashed);
        }
    }
}

#[test]
fn honest_nodes_are_never_slashed_and_nobody_passes_undeserved() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let one: Option<u64> = number("FLOE_SEED");
    let seeds = match one {
        Some(seed) => seed..seed + 1,
        // Four in a row with all kinds of faults.
        None => number("FLOE_SEEDS").map_or(20..24, |seeds| 0..seeds),
    };
    let (mut oracle, mut tally) = (Oracle::default(), Tally::default());
    for seed in seeds {
        let mut world = World::new(seed, oracle);
        world.run();
        oracle = tally.add(world);
    }
    println!("{tally:?}");
    for (per_mille, passes) in &tally.lacking {
        passes.check(&format!("lacks {per_mille} of a thousand"));
    }
    if one.is_none() {
        tally.check_faults();
    }
}
