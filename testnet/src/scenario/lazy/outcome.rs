//! What came of the scenario `lazy`, and what should have.

use std::fmt;

use floe_protocol::{challenge::ChallengeParameters, keys::NodeId, ledger::Amount};
use serde::Serialize;

use super::{
    Fetching, LazyPlan, Part,
    expected::{Pairs, float, passes},
};
use crate::{
    lazy::{Fetch, Lazy},
    report::{Table, millis},
    scenario::rounds::{EpochLedger, Member},
};

/// Of the rounds of an honest member so many are passed at least, or something is wrong with the
/// machine or with us.
const HONEST_MIN: f64 = 0.6;
/// One that fetches in vain passes no more than this: a round may draw what it still has.
const FETCHED_MAX: f64 = 0.1;
/// One that fetches what it is asked for in time passes at least this.
const FETCHED_MIN: f64 = 0.5;
/// One that stops early in each epoch passes no more than this.
const STOPPED_MAX: f64 = 0.5;

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct LazyReport {
    /// What decided what was stored.
    pub seed: u64,
    /// Storage nodes.
    pub nodes: usize,
    /// Shards of the network.
    pub n_shards: u16,
    /// Blobs stored.
    pub blobs: usize,
    /// The time to answer a round.
    pub window_ms: u64,
    /// Each epoch.
    pub epochs: Vec<RoundsRow>,
    /// Each lazy member in each epoch in which it was one.
    pub lazy: Vec<MemberRow>,
    /// Duration of everything.
    pub took_ms: u64,
    /// What became of the node that stops.
    pub stopped: Stopped,
    /// Promises that such a run is too short to test.
    pub untested: Vec<String>,
    /// Promises that did not hold.
    pub broken: Vec<String>,
}

/// An epoch's rounds.
#[derive(Clone, Debug, Serialize)]
pub struct RoundsRow {
    /// The epoch.
    pub epoch: u64,
    /// Rounds.
    pub rounds: u64,
    /// Rounds that more than a third missed.
    pub void: u64,
    /// Honest members.
    pub honest: usize,
    /// Of the rounds that were opened for it, the part that the worst of them passed.
    pub honest_least: f64,
    /// What all of them earned.
    pub earned: Amount,
    /// What was burned, slashed stake and pay that was not earned.
    pub burned: Amount,
}

/// A lazy member in an epoch.
#[derive(Clone, Debug, Serialize)]
pub struct MemberRow {
    /// The node.
    pub node: usize,
    /// What it did.
    pub does: &'static str,
    /// The epoch.
    pub epoch: u64,
    /// Its shards.
    pub shards: u16,
    /// Rounds passed.
    pub passed: u32,
    /// Rounds missed that were not void.
    pub missed: u32,
    /// Void rounds missed.
    pub void: u32,
    /// The fewest and the most passes that are no surprise.
    pub expected: (f64, f64),
    /// What it earned.
    pub earned: Amount,
    /// What it would have earned beyond that: burned.
    pub forfeited: Amount,
    /// What of its stake was burned.
    pub slashed: Amount,
    /// Whether it was jailed then.
    pub jailed: bool,
}

/// The node that stops early in each epoch.
#[derive(Clone, Debug, Serialize)]
pub struct Stopped {
    /// The node.
    pub node: usize,
    /// The epochs for which it was slashed.
    pub slashed: Vec<u64>,
    /// The epoch at whose end it was jailed.
    pub jailed: Option<u64>,
}

/// What is expected of a lazy member in an epoch.
struct Expected {
    does: &'static str,
    passes: (f64, f64),
}

/// Holds what the ledger says against what was to come.
pub(super) fn report(
    plan: &LazyPlan,
    epochs: &[EpochLedger],
    (ids, pairs): (&[NodeId], &Pairs),
) -> LazyReport {
    let mut report = LazyReport {
        seed: plan.swarm.seed,
        nodes: plan.swarm.nodes,
        n_shards: plan.swarm.shards,
        blobs: plan.swarm.blobs,
        window_ms: millis(plan.swarm.window),
        epochs: Vec::new(),
        lazy: Vec::new(),
        took_ms: 0,
        stopped: Stopped { node: plan.stopping(), slashed: Vec::new(), jailed: None },
        untested: Vec::new(),
        broken: Vec::new(),
    };
    let rules = plan.swarm.rules().challenges;
    let parts = plan.parts();
    for (step, epoch) in (0..plan.epochs).zip(epochs) {
        let row = honest(&parts, epoch, ids);
        report.broken.extend(judge_epoch(plan, epoch, &row));
        for (node, part) in parts {
            let Some(position) = epoch.committee.position(&ids[node]) else { continue };
            let (member, shards) =
                (&epoch.members[position], &epoch.committee.members()[position].shards);
            if shards.is_empty() {
                continue;
            }
            let rounds = member.score.pay().1;
            let fetching = LazyPlan::fetching(step);
            let honest = row.honest_least;
            let pass = |permille| pairs.pass(permille, shards, &rules);
            let expected = expected(part, fetching, (rounds, honest), &pass);
            let row = MemberRow {
                node,
                does: expected.does,
                epoch: epoch.epoch,
                shards: u16::try_from(shards.len()).unwrap_or(u16::MAX),
                passed: member.score.passed,
                missed: member.score.missed,
                void: member.score.void,
                expected: expected.passes,
                earned: earned(member),
                forfeited: member.settled.map_or(Amount::ZERO, |settled| settled.forfeited),
                slashed: member.slashed,
                jailed: member.jailed,
            };
            report.broken.extend(judge_member(&row, member, &rules));
            report.lazy.push(row);
        }
        report.epochs.push(row);
    }
    report.follow_stopped(plan.epochs, rules.slashes_until_jail.into());
    if epochs.len() < usize::try_from(plan.epochs).unwrap_or(usize::MAX) {
        report.broken.push(format!("only {} epochs have ended", epochs.len()));
    }
    report
}

impl LazyReport {
    /// What became of the node that stops, and whether it was to. In the first epoch it may be up
    /// for longer, while blobs are stored; so that one is not relied on.
    fn follow_stopped(&mut self, epochs: u64, bad_epochs_max: u64) {
        let rows: Vec<_> = self.lazy.iter().filter(|row| row.node == self.stopped.node).collect();
        let slashed = rows.iter().filter(|row| !row.slashed.is_zero());
        self.stopped.slashed = slashed.map(|row| row.epoch).collect();
        self.stopped.jailed = rows.iter().find(|row| row.jailed).map(|row| row.epoch);
        let node = self.stopped.node;
        if epochs <= bad_epochs_max {
            self.untested.push(format!(
                "node {node}, which stops, is jailed: that takes {bad_epochs_max} epochs after the \
                 first"
            ));
        } else if self.stopped.jailed.is_none() {
            self.broken.push(format!("node {node}, which stops, was not jailed"));
        }
    }
}

fn earned(member: &Member) -> Amount {
    let settled = member.settled.as_ref();
    let both = settled.and_then(|settled| settled.reward.checked_add(settled.commission));
    both.unwrap_or(Amount::ZERO)
}

fn part_of(parts: &[(usize, Part)], node: usize) -> Option<Part> {
    parts.iter().find(|(lazy, _)| *lazy == node).map(|(_, part)| *part)
}

/// How the honest members of an epoch did.
fn honest(parts: &[(usize, Part)], epoch: &EpochLedger, ids: &[NodeId]) -> RoundsRow {
    let mut row = RoundsRow {
        epoch: epoch.epoch,
        rounds: epoch.rounds,
        void: epoch.void,
        honest: 0,
        honest_least: 1.0,
        earned: Amount::ZERO,
        burned: epoch.burned,
    };
    for (_, id) in ids.iter().enumerate().filter(|(node, _)| part_of(parts, *node).is_none()) {
        let Some(position) = epoch.committee.position(id) else { continue };
        let member = &epoch.members[position];
        let (passed, rounds) = member.score.pay();
        row.honest += 1;
        row.honest_least = row.honest_least.min(float(passed) / float(rounds));
        row.earned = row.earned.checked_add(earned(member)).unwrap_or(row.earned);
    }
    row
}

fn expected(
    part: Part,
    fetching: Fetching,
    (rounds, honest): (u64, f64),
    pass: &dyn Fn(u16) -> f64,
) -> Expected {
    let all = float(rounds);
    match part {
        Part::Lazy(Lazy::Drops(permille)) => Expected {
            does: if permille < 100 { "drops 3 %" } else { "drops 30 %" },
            passes: passes(pass(permille), rounds, honest),
        },
        Part::Lazy(Lazy::Fetches(_)) => {
            let in_time = fetching.way == Fetch::Reads && !fetching.delayed;
            let passes = if in_time { (all * FETCHED_MIN, all) } else { (0.0, all * FETCHED_MAX) };
            Expected { does: fetching.name(), passes }
        }
        Part::Lazy(Lazy::Lies) => Expected { does: "lies", passes: (0.0, 0.0) },
        Part::Stops => Expected { does: "stops early", passes: (0.0, all * STOPPED_MAX) },
    }
}

fn judge_epoch(plan: &LazyPlan, epoch: &EpochLedger, row: &RoundsRow) -> Vec<String> {
    let number = epoch.epoch;
    let mut broken = Vec::new();
    if row.rounds < plan.swarm.rounds {
        broken.push(format!("epoch {number} had {} rounds, not {}", row.rounds, plan.swarm.rounds));
    }
    if 2 * row.void > row.rounds {
        broken.push(format!("epoch {number}: {} of {} rounds are void", row.void, row.rounds));
    }
    if row.honest_least < HONEST_MIN {
        let percent = 100.0 * row.honest_least;
        broken
            .push(format!("epoch {number}: an honest member passed {percent:.0} % of its rounds"));
    }
    if epoch.supply_broken {
        broken.push(format!("epoch {number}: the supply is not what it was"));
    }
    let forfeits = epoch.members.iter().filter_map(|member| member.settled);
    let forfeits = forfeits.map(|settled| settled.forfeited.frost() + settled.slashed.frost());
    if forfeits.sum::<u128>() != epoch.burned.frost() {
        broken.push(format!("epoch {number} burned {}: not what members lost", epoch.burned));
    }
    broken
}

fn judge_member(row: &MemberRow, member: &Member, rules: &ChallengeParameters) -> Vec<String> {
    let mut broken = Vec::new();
    let MemberRow { node, epoch, does, .. } = row;
    let passed = f64::from(row.passed);
    if passed < row.expected.0 - 0.5 || passed > row.expected.1 + 0.5 {
        let (least, most) = row.expected;
        broken.push(format!(
            "epoch {epoch}: node {node} ({does}) passed {passed} rounds, not {least:.0} to {most:.0}"
        ));
    }
    if member.score.is_slashed(rules) == row.slashed.is_zero() {
        broken
            .push(format!("epoch {epoch}: node {node} ({does}) lost {} of its stake", row.slashed));
    }
    if member.settled.is_some_and(|settled| settled.score != member.score) {
        broken.push(format!("epoch {epoch}: node {node} was settled by another score"));
    }
    broken
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, slashed, jailed } = self;
        let slashed: Vec<_> = slashed.iter().map(ToString::to_string).collect();
        write!(f, "node {node}, which stops early in each epoch, ")?;
        match &slashed[..] {
            [] => write!(f, "was not slashed")?,
            epochs => write!(f, "was slashed for epochs {}", epochs.join(", "))?,
        }
        match jailed {
            Some(epoch) => write!(f, ", and jailed at the end of epoch {epoch}"),
            None => write!(f, ", and not jailed"),
        }
    }
}

impl fmt::Display for LazyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, n_shards, blobs, window_ms, seed, .. } = self;
        writeln!(
            f,
            "scenario lazy: {nodes} nodes, {n_shards} shards, {blobs} blobs, {window_ms} ms to \
             answer, seed {seed}\n"
        )?;
        let mut table = Table::default();
        table.row(["epoch", "rounds", "void", "honest", "worst passed", "earned", "burned"]);
        for row in &self.epochs {
            table.row([
                &row.epoch.to_string(),
                &row.rounds.to_string(),
                &row.void.to_string(),
                &row.honest.to_string(),
                &format!("{:.1} %", 100.0 * row.honest_least),
                &row.earned.to_string(),
                &row.burned.to_string(),
            ]);
        }
        writeln!(f, "{}", table.render())?;
        let mut table = Table::default();
        table.row([
            "node",
            "does",
            "epoch",
            "shards",
            "passed",
            "expected",
            "missed",
            "void",
            "earned",
            "forfeited",
            "slashed",
            "",
        ]);
        for row in &self.lazy {
            table.row([
                &row.node.to_string(),
                row.does,
                &row.epoch.to_string(),
                &row.shards.to_string(),
                &row.passed.to_string(),
                &format!("{:.0}-{:.0}", row.expected.0, row.expected.1),
                &row.missed.to_string(),
                &row.void.to_string(),
                &row.earned.to_string(),
                &row.forfeited.to_string(),
                &row.slashed.to_string(),
                if row.jailed { "jailed" } else { "" },
            ]);
        }
        writeln!(f, "{}", table.render())?;
        writeln!(f, "{}", self.stopped)?;
        self.untested.iter().try_for_each(|promise| writeln!(f, "not tested: {promise}"))?;
        if self.broken.is_empty() {
            return write!(f, "all promises were kept");
        }
        write!(f, "{} promises were broken:", self.broken.len())?;
        self.broken.iter().try_for_each(|broken| write!(f, "\n- {broken}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(node: usize, epoch: u64, slashed: u64, jailed: bool) -> MemberRow {
        MemberRow {
            node,
            does: "stops early",
            epoch,
            shards: 4,
            passed: 30,
            missed: 70,
            void: 0,
            expected: (0.0, 50.0),
            earned: Amount::ZERO,
            forfeited: Amount::ZERO,
            slashed: Amount::from_frost(slashed.into()),
            jailed,
        }
    }

    fn followed(epochs: u64, lazy: Vec<MemberRow>) -> LazyReport {
        let mut report = LazyReport {
            seed: 1,
            nodes: 16,
            n_shards: 64,
            blobs: 1,
            window_ms: 300,
            epochs: Vec::new(),
            lazy,
            stopped: Stopped { node: 14, slashed: Vec::new(), jailed: None },
            took_ms: 0,
            untested: Vec::new(),
            broken: Vec::new(),
        };
        report.follow_stopped(epochs, 3);
        report
    }

    #[test]
    fn the_one_that_stops_is_to_be_jailed_where_there_is_time_for_it() {
        let slashed =
            |epochs: std::ops::Range<u64>| epochs.map(|epoch| row(14, epoch, 1, epoch == 3));
        // The jail of somebody else is no concern of it.
        let rows: Vec<_> =
            slashed(1..4).chain([row(14, 0, 0, false), row(13, 2, 1, true)]).collect();
        let report = followed(4, rows.clone());
        assert_eq!((&report.stopped.slashed[..], report.stopped.jailed), (&[1, 2, 3][..], Some(3)));
        assert!(report.untested.is_empty() && report.broken.is_empty());

        let report = followed(4, rows[..2].to_vec());
        assert_eq!((report.untested.len(), report.broken.len()), (0, 1));
        let report = followed(2, rows[..1].to_vec());
        assert_eq!((report.untested.len(), report.broken.len()), (1, 0));
        assert!(report.to_string().contains("slashed for epochs 1, and not jailed\nnot tested"));
    }
}
