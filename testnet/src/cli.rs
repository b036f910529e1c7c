//! The command line of `floe-testnet`: arguments, exit codes, how errors are shown.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Results go to stdout, everything
//! else to stderr; with `--json` an error is an object too, on stdout.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::{
    bench::{self, BenchCommand},
    cluster::{ProcessArgs, SwarmStatus, run_node_process},
    control::{self, Command},
    current,
    demo::{self, DemoArgs},
    report,
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
                  floe-testnet kill 3                  kill a node of the running swarm\n\n\
                  Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted"
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
    /// Run one node of a swarm
    #[command(hide = true)]
    NodeProcess(ProcessArgs),
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

/// How a command ended that did not fail.
enum End {
    Done,
    Interrupted,
}

/// An error for programs.
#[derive(Serialize)]
struct JsonError<'a> {
    error: JsonErrorBody<'a>,
}

#[derive(Serialize)]
struct JsonErrorBody<'a> {
    code: &'a str,
    message: String,
    retryable: bool,
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.command.json();
    start_logging();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = match runtime.context("cannot start the runtime") {
        Ok(runtime) => {
            let ended = runtime.block_on(run(cli.command));
            // A blocked read of stdin would keep it for ever.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(error),
    };
    match ended {
        Ok(End::Done) => ExitCode::SUCCESS,
        Ok(End::Interrupted) => ExitCode::from(130),
        Err(error) => {
            let message = format!("{error:#}");
            if json {
                let error = JsonErrorBody { code: "failed", message, retryable: false };
                let _ = report::json(&JsonError { error });
            } else {
                report::note(&format!("error: {message}"));
            }
            ExitCode::FAILURE
        }
    }
}

impl Subcommands {
    const fn json(&self) -> bool {
        match self {
            Self::Start(args) | Self::Stop(args) | Self::Kill(args) => args.swarm.json,
            Self::Status(args) => args.json,
            Self::Demo(args) => args.json,
            Self::Bench(BenchCommand::StoreRead(args)) => args.json,
            Self::Up(_) | Self::NodeProcess(_) => false,
        }
    }
}

async fn run(command: Subcommands) -> anyhow::Result<End> {
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
        Subcommands::NodeProcess(args) => run_node_process(args).await?,
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

/// What is worth telling unasked. Every node announces a new certificate, so gossip finds most of
/// them announced already, which it takes for a reason to warn.
const LOG_FILTER: &str = "warn,libp2p_gossipsub=error";

fn start_logging() {
    let filter = EnvFilter::try_from_env("FLOE_LOG").unwrap_or_else(|_| EnvFilter::new(LOG_FILTER));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
