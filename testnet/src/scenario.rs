//! Scenarios: a swarm of processes whose nodes come, go and die over several epochs, under a steady
//! load of writes and reads, and what must hold all the while.
//!
//! A [`Plan`] says what happens; its [`Report`] what came of it. At each epoch boundary and at the
//! end every blob that is alive is read back and compared, the supply is added up, and jails are
//! looked for; at the end the nodes are stopped, and the stores of the last committee are opened:
//! each must hold every pair of its shards, and each pair must verify. The whole ledger is executed
//! again: nobody was slashed, nothing is burned that was earned. A promise that does not hold
//! is named in [`Report::broken`]; the rest goes on, since more may break.
//!
//! Invariants: the same seed makes the same plan and the same blobs (not the same timing: these are
//! processes); waiting is for blocks, with a deadline. Liars are in a scenario of their own
//! ([`LazyPlan`]).

mod audit;
mod challenged;
mod closing;
mod faults;
mod gaps;
mod history;
mod lazy;
mod load;
mod outcome;
mod plan;
mod rounds;
mod run;

use std::{fmt::Display, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use clap::Subcommand;
use serde::Serialize;

pub use self::{
    challenged::Challenged,
    faults::{FaultsPlan, FaultsReport},
    lazy::{LazyPlan, LazyReport},
    outcome::{
        EpochRow, LastCommittee, LedgerCounts, LoadCounts, RepairCounts, Report, SlowEpoch,
        SlowMember,
    },
    plan::{Change, Plan, Slow},
};
use self::{faults::FaultsArgs, lazy::LazyArgs};
use crate::{
    cluster::link::{LinkError, Links},
    report, workload,
};

/// Which scenario.
#[derive(Debug, Subcommand)]
pub(crate) enum ScenarioCommand {
    /// Nodes leave, join, die and return with empty disks; every blob stays readable
    Churn(ScenarioArgs),
    /// One node dies in each epoch and none returns; blocks never stop, every blob stays readable
    Attrition(ScenarioArgs),
    /// One member has a slow link; it stays in the committee (needs network namespaces)
    Slow(SlowArgs),
    /// Nodes without room win shards; epochs go on, shards return, every blob stays readable
    Full(ScenarioArgs),
    /// Five of 16 nodes drop slivers, fetch them on demand, stop or lie; the others earn and they pay
    /// (needs network namespaces; takes an hour on a machine that does nothing else)
    Lazy(LazyArgs),
    /// Honest nodes are cut off, restarted, paused, put behind lossy links and given wrong clocks; none
    /// is slashed (needs network namespaces; takes an hour on a machine that does nothing else)
    Faults(FaultsArgs),
}

/// A slow link.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SlowArgs {
    #[command(flatten)]
    scenario: ScenarioArgs,
    /// Delay of each packet that the slow member sends or receives
    #[arg(long, default_value = "200ms", value_name = "TIME", value_parser = humantime::parse_duration)]
    delay: Duration,
    /// How many of a thousand of its packets are lost
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u16).range(..=1000))]
    lost_permille: u16,
}

/// How large and how long.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ScenarioArgs {
    /// Storage nodes at the start
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = parse_nodes)]
    nodes: usize,
    /// Shards of the network
    #[arg(long, default_value_t = 64, value_name = "N")]
    shards: u16,
    /// Epochs to go through [default: churn 6, others 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=100))]
    epochs: Option<u64>,
    /// Duration of an epoch
    #[arg(long, default_value = "20s", value_name = "TIME", value_parser = humantime::parse_duration)]
    epoch: Duration,
    /// Decides who leaves and dies, and what is stored [default: another one each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The largest blob
    #[arg(long, default_value = "256KiB", value_name = "SIZE", value_parser = parse_size)]
    blob_size: u64,
    /// Time between the beginnings of two stores
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = humantime::parse_duration)]
    store_every: Duration,
    /// Where the swarm lives, and stays [default: a temporary directory, which goes]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn parse_size(text: &str) -> Result<u64, String> {
    floe_node::cli::size::parse_bytes(text).map_err(|error| error.to_string())
}

fn parse_nodes(text: &str) -> Result<usize, String> {
    let nodes = text.parse().map_err(|error: std::num::ParseIntError| error.to_string())?;
    if (4..=100).contains(&nodes) { Ok(nodes) } else { Err("4 to 100 nodes".into()) }
}

impl ScenarioCommand {
    pub(crate) const fn json(&self) -> bool {
        match self {
            Self::Churn(args) | Self::Attrition(args) | Self::Full(args) => args.json,
            Self::Slow(args) => args.scenario.json,
            Self::Lazy(args) => args.swarm.json,
            Self::Faults(args) => args.swarm.json,
        }
    }

    /// The links that it needs. To be called before there is another thread.
    pub(crate) fn links(&self) -> Result<Option<Links>, LinkError> {
        match self {
            Self::Churn(_) | Self::Attrition(_) | Self::Full(_) => Ok(None),
            Self::Slow(args) => Links::new(args.scenario.seed.unwrap_or(1)).map(Some),
            Self::Lazy(args) => args.swarm.links().map(Some),
            Self::Faults(args) => args.swarm.links().map(Some),
        }
    }
}

impl ScenarioArgs {
    /// The plan, in sizes and times as asked for.
    fn of(&self, plan: Plan) -> Plan {
        Plan {
            shards: self.shards,
            epoch: self.epoch,
            seed: self.seed.unwrap_or_else(workload::fresh_seed),
            blob_bytes_max: usize::try_from(self.blob_size).unwrap_or(usize::MAX),
            store_every: self.store_every,
            dir: self.dir.clone(),
            ..plan
        }
    }

    fn epochs(&self) -> u64 {
        self.epochs.unwrap_or(5)
    }
}

/// Runs a scenario and prints what came of it; fails if a promise was broken.
pub(crate) async fn run(command: &ScenarioCommand, links: Option<Links>) -> anyhow::Result<()> {
    let links = || links.context("there are no links");
    let plan = match command {
        ScenarioCommand::Lazy(args) => {
            let plan = args.plan(links()?);
            report::note(&format!("lazy: seed {}", plan.swarm.seed));
            let outcome = plan.run().await?;
            return tell(&outcome, args.swarm.json, (&outcome.broken, outcome.seed));
        }
        ScenarioCommand::Faults(args) => {
            let plan = args.plan(links()?);
            report::note(&format!("faults: seed {}", plan.swarm.seed));
            let outcome = plan.run().await?;
            return tell(&outcome, args.swarm.json, (&outcome.broken, outcome.seed));
        }
        ScenarioCommand::Churn(args) => args.of(Plan::churn(args.nodes, args.epochs.unwrap_or(6))),
        ScenarioCommand::Attrition(args) => args.of(Plan::attrition(args.nodes, args.epochs())),
        ScenarioCommand::Full(args) => args.of(Plan::full(args.nodes, args.epochs())),
        ScenarioCommand::Slow(SlowArgs { scenario: args, delay, lost_permille }) => {
            let slow = Slow { delay: *delay, lost_permille: *lost_permille };
            args.of(Plan::slow(args.nodes, args.epochs(), slow, links()?))
        }
    };
    report::note(&format!("{}: seed {}", plan.name, plan.seed));
    let outcome = plan.run().await?;
    tell(&outcome, command.json(), (&outcome.broken, outcome.seed))
}

fn tell(
    outcome: &(impl Display + Serialize),
    json: bool,
    (broken, seed): (&[String], u64),
) -> anyhow::Result<()> {
    if json {
        report::json(outcome)?;
    } else {
        report::line(&outcome.to_string());
    }
    if broken.is_empty() {
        return Ok(());
    }
    bail!("{} promises were broken (seed {seed})", broken.len())
}
