//! What came of the scenario `faults`.

use std::fmt;

use floe_protocol::keys::NodeId;
use serde::Serialize;

use super::FaultsPlan;
use crate::{
    report::{Table, millis},
    scenario::rounds::{EpochLedger, Member},
};

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct FaultsReport {
    /// The first of the seeds.
    pub seed: u64,
    /// Storage nodes.
    pub nodes: usize,
    /// Shards of the network.
    pub n_shards: u16,
    /// The time to answer a round.
    pub window_ms: u64,
    /// Each epoch with faults.
    pub epochs: Vec<EpochRow>,
    /// Duration of everything.
    pub took_ms: u64,
    /// Promises that did not hold.
    pub broken: Vec<String>,
}

/// An epoch.
#[derive(Clone, Debug, Serialize)]
pub struct EpochRow {
    /// The epoch.
    pub epoch: u64,
    /// Rounds.
    pub rounds: u64,
    /// Rounds that more than a third missed.
    pub void: u64,
    /// What the node that fared worst made of its rounds: passed, missed, void.
    pub worst: (usize, u32, u32, u32),
    /// The node whose clock was wrong when it began, if one was, and what it made of them.
    pub wrong_clock: Option<(usize, u32, u32, u32)>,
    /// What the nodes together made of theirs to whom nothing happened.
    pub others: (u32, u32, u32),
    /// What happened.
    pub faults: Vec<String>,
}

fn counts(member: &Member) -> (u32, u32, u32) {
    (member.score.passed, member.score.missed, member.score.void)
}

/// Holds what the ledger says against what was to come.
pub(super) fn report(plan: &FaultsPlan, epochs: &[EpochLedger], ids: &[NodeId]) -> FaultsReport {
    let mut report = FaultsReport {
        seed: plan.swarm.seed,
        nodes: plan.swarm.nodes,
        n_shards: plan.swarm.shards,
        window_ms: millis(plan.swarm.window),
        epochs: Vec::new(),
        took_ms: 0,
        broken: Vec::new(),
    };
    let with_faults = epochs.iter().filter(|epoch| (1..=plan.seeds).contains(&epoch.epoch));
    for epoch in with_faults {
        let number = epoch.epoch;
        if epoch.rounds < plan.swarm.rounds {
            let told =
                format!("epoch {number} had {} rounds, not {}", epoch.rounds, plan.swarm.rounds);
            report.broken.push(told);
        }
        if epoch.supply_broken {
            report.broken.push(format!("epoch {number}: the supply is not what it was"));
        }
        let drawn = plan.faults(number);
        let mut row = EpochRow {
            epoch: number,
            rounds: epoch.rounds,
            void: epoch.void,
            worst: (0, u32::MAX, 0, 0),
            wrong_clock: None,
            others: (0, 0, 0),
            faults: drawn.map(|fault| format!("{:?} {}", fault.nodes(), fault.name())).to_vec(),
        };
        for (node, id) in ids.iter().enumerate() {
            let Some(position) = epoch.committee.position(id) else { continue };
            let member = &epoch.members[position];
            let (passed, missed, void) = counts(member);
            if !member.slashed.is_zero() || member.jailed {
                report.broken.push(format!(
                    "epoch {number}: node {node} keeps its slivers, passed {passed} rounds, missed \
                     {missed}, and lost {} of its stake",
                    member.slashed
                ));
            }
            if passed < row.worst.1 {
                row.worst = (node, passed, missed, void);
            }
            if Some(node) == plan.wrong_clock(number) {
                row.wrong_clock = Some((node, passed, missed, void));
            }
            if drawn.iter().all(|fault| !fault.nodes().contains(&node)) {
                let (all_passed, all_missed, all_void) = row.others;
                row.others = (all_passed + passed, all_missed + missed, all_void + void);
            }
        }
        report.epochs.push(row);
    }
    let ended = report.epochs.len() as u64;
    if ended < plan.seeds {
        report.broken.push(format!("only {ended} of {} epochs have ended", plan.seeds));
    }
    report
}

impl fmt::Display for FaultsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, n_shards, window_ms, seed, .. } = self;
        writeln!(
            f,
            "scenario faults: {nodes} nodes, {n_shards} shards, {window_ms} ms to answer, seed \
             {seed}; rounds as passed/missed/void\n"
        )?;
        let mut table = Table::default();
        table.row(["epoch", "rounds", "void", "worst", "wrong clock", "unharmed", "what happened"]);
        let of = |(node, passed, missed, void): (usize, u32, u32, u32)| {
            format!("node {node}: {passed}/{missed}/{void}")
        };
        for row in &self.epochs {
            let (passed, missed, void) = row.others;
            table.row([
                &row.epoch.to_string(),
                &row.rounds.to_string(),
                &row.void.to_string(),
                &of(row.worst),
                &row.wrong_clock.map_or_else(|| "-".to_owned(), of),
                &format!("{passed}/{missed}/{void}"),
                &row.faults.join(", "),
            ]);
        }
        writeln!(f, "{}", table.render())?;
        if self.broken.is_empty() {
            return write!(f, "all promises were kept");
        }
        write!(f, "{} promises were broken:", self.broken.len())?;
        self.broken.iter().try_for_each(|broken| write!(f, "\n- {broken}"))
    }
}
