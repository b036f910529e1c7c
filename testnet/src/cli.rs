//! The command line of `floe-testnet`: arguments, exit codes, how errors are shown.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not possible on this system, 130 interrupted. Results go to stdout, everything
//! else to stderr; with `--json` an error is an object too, on stdout.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand, error::ErrorKind};
use floe_node::{
    cli::usage_message,
    telemetry::{self, LogFormat, LogLevel},
};
use serde::Serialize;

use crate::{
    bench::{self, BenchCommand, repair::StrangersArgs},
    cluster::{
        ProcessArgs, SwarmStatus,
        link::{LinkError, Links},
        run_node_process,
    },
    control::{self, Command},
    current,
    demo::{self, DemoArgs},
    report,
    scenario::{self, ScenarioCommand},
    up::{self, StopSignals, UpArgs},
};

/// Local Floe swarms: real storage nodes on this machine.
#[derive(Debug, Parser)]
#[command(
    name = "floe-testnet",
    version,
    after_help = "Examples:\n  floe-testnet demo                    see a file survive the loss of 4 of 7 nodes\n  \
                  floe-testnet up                      run 7 nodes until Ctrl-C\n  \
                  floe-testnet up --dir ~/swarm        the same, and keep keys and data\n  \
                  floe-testnet kill 3                  kill a node of the running swarm\n  \
                  floe-testnet scenario churn          nodes come, go and die over 6 epochs\n\n\
                  Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not possible on this system, \
                  130 interrupted"
)]
struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Run a swarm until Ctrl-C, and print the line that points `floe` at it
    Up(UpArgs),
    /// Start a node of the running swarm again
    Start(NodeArgs),
    /// Stop a node of the running swarm in order
    Stop(NodeArgs),
    /// Kill a node of the running swarm in the middle of whatever it does
    Kill(NodeArgs),
    /// Show how the running swarm is doing
    Status(SwarmArgs),
    /// Store a file on 7 nodes, stop 4 of them, and read it back
    Demo(DemoArgs),
    /// Measure, and measure what bounds it
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Let nodes come, go and die over several epochs, and check what must hold
    #[command(subcommand)]
    Scenario(ScenarioCommand),
    /// Run one node of a swarm
    #[command(hide = true)]
    NodeProcess(ProcessArgs),
    /// Flood a swarm with requests
    #[command(hide = true)]
    StrangersProcess(StrangersArgs),
}

#[derive(Clone, Debug, clap::Args)]
struct NodeArgs {
    /// The node's number
    node: usize,
    #[command(flatten)]
    swarm: SwarmArgs,
}

#[derive(Clone, Debug, clap::Args)]
struct SwarmArgs {
    /// The swarm's directory [default: the swarm that was started last]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The exit code where the system does not allow what a command needs.
const NOT_POSSIBLE: u8 = 3;
const HINT_LINKS: &str = "run it as root, or where users may have namespaces of their own";

/// How a command ended that did not fail.
enum End {
    Done,
    Interrupted,
}

/// An error for programs, of the same shape as those of `floe`.
#[derive(Serialize)]
struct JsonError<'a> {
    error: JsonErrorBody<'a>,
}

#[derive(Serialize)]
struct JsonErrorBody<'a> {
    code: &'a str,
    message: &'a str,
    retryable: bool,
    hint: Option<&'a str>,
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let wants_json = std::env::args_os().any(|argument| argument == "--json");
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return parse_failure(&error, wants_json),
    };
    let json = cli.command.json();
    if let Err(error) = telemetry::start(LogLevel::Warnings, LogFormat::Text) {
        report_error(json, "log_filter", &error.to_string(), Some("see FLOE_LOG and RUST_LOG"));
        return ExitCode::from(2);
    }
    // Before there is another thread.
    let links = match cli.command.links() {
        Ok(links) => links,
        Err(error) => {
            let (message, hint) = (format!("{:#}", anyhow::Error::from(error)), HINT_LINKS);
            report_error(json, "no_links", &message, Some(hint));
            return ExitCode::from(NOT_POSSIBLE);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = match runtime.context("cannot start the runtime") {
        Ok(runtime) => {
            let ended = runtime.block_on(run(cli.command, links));
            // A blocked read of stdin would keep it for ever.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(error),
    };
    match ended {
        Ok(End::Done) => ExitCode::SUCCESS,
        Ok(End::Interrupted) => {
            if json {
                report_error(json, "interrupted", "interrupted", Some("begin again"));
            }
            ExitCode::from(130)
        }
        Err(error) => {
            report_error(json, "failed", &format!("{error:#}"), None);
            ExitCode::FAILURE
        }
    }
}

/// What is wrong with the arguments, or the help and version that were asked for.
fn parse_failure(error: &clap::Error, wants_json: bool) -> ExitCode {
    let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if asked_for || !wants_json {
        // A closed pipe is no reason to complain.
        let _ = error.print();
    } else {
        let hint = "see floe-testnet --help, or --help behind the command";
        report_error(true, "usage", &usage_message(error), Some(hint));
    }
    ExitCode::from(if asked_for { 0 } else { 2 })
}

fn report_error(json: bool, code: &str, message: &str, hint: Option<&str>) {
    if json {
        let error = JsonErrorBody { code, message, retryable: code == "interrupted", hint };
        // Text and booleans always serialise.
        let _ = report::json(&JsonError { error });
        return;
    }
    report::note(&format!("error: {message}"));
    if let Some(hint) = hint {
        report::note(&format!("hint: {hint}"));
    }
}

impl Subcommands {
    /// The links between nodes that a command needs.
    fn links(&self) -> Result<Option<Links>, LinkError> {
        match self {
            Self::Scenario(command) => command.links(),
            _ => Ok(None),
        }
    }

    const fn json(&self) -> bool {
        match self {
            Self::Start(args) | Self::Stop(args) | Self::Kill(args) => args.swarm.json,
            Self::Status(args) => args.json,
            Self::Demo(args) => args.json,
            Self::Bench(BenchCommand::StoreRead(args)) => args.json,
            Self::Bench(BenchCommand::Ledger(args)) => args.json,
            Self::Bench(BenchCommand::Repair(args)) => args.json,
            Self::Bench(BenchCommand::Migrate(args)) => args.json,
            Self::Bench(BenchCommand::Challenge(args)) => args.json,
            Self::Scenario(command) => command.json(),
            Self::Up(_) | Self::NodeProcess(_) | Self::StrangersProcess(_) => false,
        }
    }
}

async fn run(command: Subcommands, links: Option<Links>) -> anyhow::Result<End> {
    match command {
        Subcommands::Up(args) => up::run(&args).await?,
        Subcommands::Start(NodeArgs { node, swarm }) => {
            report_change(&swarm, Command::Start { node }, &format!("node {node} started")).await?;
        }
        Subcommands::Stop(NodeArgs { node, swarm }) => {
            report_change(&swarm, Command::Stop { node }, &format!("node {node} stopped")).await?;
        }
        Subcommands::Kill(NodeArgs { node, swarm }) => {
            report_change(&swarm, Command::Kill { node }, &format!("node {node} killed")).await?;
        }
        Subcommands::Status(swarm) => {
            let status = ask(&swarm, Command::Status).await?;
            if swarm.json {
                report::json(&status)?;
            } else {
                report::line(&report::status(&status));
            }
        }
        Subcommands::Demo(args) => return until_interrupted(Box::pin(demo::run(&args))).await,
        Subcommands::Bench(BenchCommand::StoreRead(args)) => {
            return until_interrupted(Box::pin(bench::store_read::run(&args))).await;
        }
        Subcommands::Bench(BenchCommand::Ledger(args)) => {
            return until_interrupted(Box::pin(bench::ledger::run(&args))).await;
        }
        Subcommands::Bench(BenchCommand::Repair(args)) => {
            return until_interrupted(Box::pin(bench::repair::run(&args))).await;
        }
        Subcommands::Bench(BenchCommand::Migrate(args)) => {
            return until_interrupted(Box::pin(bench::migrate::run(&args))).await;
        }
        Subcommands::Bench(BenchCommand::Challenge(args)) => {
            return until_interrupted(Box::pin(bench::challenge::run(&args))).await;
        }
        Subcommands::Scenario(command) => {
            return until_interrupted(Box::pin(scenario::run(&command, links))).await;
        }
        Subcommands::NodeProcess(args) => run_node_process(args).await?,
        Subcommands::StrangersProcess(args) => bench::repair::run_strangers(&args).await?,
    }
    Ok(End::Done)
}

/// Drops the work at Ctrl-C, and with it the swarm and its files.
async fn until_interrupted(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<End> {
    let mut stop = StopSignals::new()?;
    tokio::select! {
        done = work => done.map(|()| End::Done),
        () = stop.next() => Ok(End::Interrupted),
    }
}

async fn ask(swarm: &SwarmArgs, command: Command) -> anyhow::Result<SwarmStatus> {
    let dir = match &swarm.dir {
        Some(dir) => dir.clone(),
        None => current::current()?,
    };
    control::ask(&dir, command).await
}

async fn report_change(swarm: &SwarmArgs, command: Command, done: &str) -> anyhow::Result<()> {
    let status = ask(swarm, command).await?;
    if swarm.json {
        return report::json(&status);
    }
    report::line(&format!("{done}; {}", report::summary(&status)));
    Ok(())
}
