//! The command line `floe`: argument types, and one file per command below `cli/`.
//!
//! A command turns arguments into calls of the library and results into lines; it decides nothing
//! about blobs. Results go to stdout; progress, notes and logs to stderr. With `--json` every
//! result is one object per line, errors too. What an error means to the caller (exit code,
//! whether trying again helps, what to do next) is decided in `exit.rs` alone, and everything is
//! written in `output.rs` alone.
//!
//! Invariants: no command panics on a closed pipe or overwrites a file that it was not told to;
//! Ctrl-C leaves no temporary file behind.

mod blob_id;
mod blob_status;
mod challenges;
mod committee;
mod config;
mod delete;
mod epoch;
mod exit;
mod expiry;
mod extend;
mod faucet;
mod genesis;
mod health;
mod info;
mod input;
mod interrupt;
mod key;
mod ledger;
mod list_blobs;
mod manual;
mod name;
mod network;
mod node;
mod operation;
mod out_file;
mod output;
mod peers;
mod progress;
mod range;
mod reach;
mod read;
mod receipt;
mod rewards;
mod session;
mod settings;
pub mod size;
mod stake;
mod status_line;
mod store;
mod wallet;

use std::{ffi::OsString, future::Future, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, error::ErrorKind};

use self::{
    exit::{Exit, Failure},
    interrupt::Interrupts,
    output::Output,
    progress::ProgressMode,
    session::{Session, TrustFlags},
    settings::{Flags, Settings},
};
use crate::telemetry::{self, LogFormat, LogLevel};

const AFTER_HELP: &str = "\
Exit codes:
  0    done
  1    failed
  2    wrong usage
  3    not found
  4    verification failed
  5    temporary: try again
  6    refused (funds, permission, quota)
  130  interrupted

Environment (flags win over it, and it over the configuration file: see floe config show --help):
  FLOE_NETWORK        as --network
  FLOE_NETWORKS_DIR   where known networks are kept [default: floe/networks below ~/.config]
  FLOE_WALLET         as --wallet
  FLOE_TRUST_GENESIS  as --trust-genesis, if it is not empty: for local swarms with short epochs
  FLOE_PROGRESS       as --progress
  FLOE_EPOCHS         for how many epochs floe store pays, unless --epochs says so
  FLOE_LOG            log filter, as RUST_LOG
  NO_COLOR            no colours

Examples:
  floe store holiday.jpg --epochs 30
  floe read ID -o holiday.jpg
  floe list-blobs";

/// Floe: peer-to-peer blob storage. Stores blobs as coded slivers across a swarm of nodes.
#[derive(Debug, Parser)]
#[command(name = "floe", version, propagate_version = true, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Globals {
    /// The network to use: its file (network.json), or its name in `floe network list`
    #[arg(long, global = true, value_name = "FILE|NAME")]
    network: Option<PathBuf>,
    /// The key file of the account that pays [default: floe/wallet.key below ~/.config]
    #[arg(long, global = true, value_name = "FILE")]
    wallet: Option<PathBuf>,
    /// A checkpoint from somebody you trust (floe info --checkpoint) to start from
    #[arg(long, global = true, value_name = "FILE")]
    trust_checkpoint: Option<PathBuf>,
    /// Start from a genesis or checkpoint even if it is too old to be safe
    #[arg(long, global = true)]
    trust_genesis: bool,
    /// Print one JSON object per result, and errors as {"error":{…}}
    #[arg(long, global = true)]
    json: bool,
    /// Print results and errors only, in their shortest form
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Log more to stderr; repeat for still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// When to show progress on stderr [default: auto]
    #[arg(long, global = true, value_enum, value_name = "WHEN")]
    progress: Option<ProgressMode>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Store files as blobs and print their ids
    Store(store::StoreArgs),
    /// Read a blob
    Read(read::ReadArgs),
    /// Compute the id that a file would have, without storing it
    BlobId(blob_id::BlobIdArgs),
    /// Say what the network knows of a blob
    BlobStatus(blob_status::BlobStatusArgs),
    /// Show a network: committee, shards, limits, what may fail, who answers
    Info(info::InfoArgs),
    /// Ask every storage node how it is, and whether reads and writes are possible
    Health(health::HealthArgs),
    /// Make a wallet, show what an account has, and send WAL
    #[command(subcommand)]
    Wallet(wallet::WalletCommand),
    /// Take WAL from a test network's faucet
    Faucet(faucet::FaucetArgs),
    /// Pay for more epochs of a stored blob
    Extend(extend::ExtendArgs),
    /// End a stored blob, and get back what was paid for epochs to come
    Delete(delete::DeleteArgs),
    /// List the blobs of an account, and until when they are stored
    ListBlobs(list_blobs::ListBlobsArgs),
    /// Give blobs names, and look names up
    #[command(subcommand)]
    Name(name::NameCommand),
    /// Put WAL into a storage node's pool, or list what is there
    Stake(stake::StakeArgs),
    /// Take WAL out of a storage node's pool
    Unstake(stake::UnstakeArgs),
    /// Collect WAL that was unstaked long enough ago
    Withdraw(stake::WithdrawArgs),
    /// Show the members of a committee, their shards, and how far these are
    Committee(committee::CommitteeArgs),
    /// Show the running epoch: when it ends, and what it waits for
    Epoch(epoch::EpochArgs),
    /// Show an epoch's storage challenges: rounds, who passed, who missed
    Challenges(challenges::ChallengesArgs),
    /// Show what storage nodes have earned, forfeited and lost, and what the running epoch brings
    Rewards(rewards::RewardsArgs),
    /// Look at the ledger: status, blocks, transactions, accounts
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// Run a storage node, join and leave a swarm with it
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Make keys
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Make the network file of a new network
    Genesis(genesis::GenesisArgs),
    /// Give networks names, for --network NAME
    #[command(subcommand)]
    Network(network::NetworkCommand),
    /// Show the configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print a shell's completions
    Completions(manual::CompletionsArgs),
    /// Print a manual page
    Man(manual::ManArgs),
}

/// Runs the command line `arguments`, program name first, and returns how the process ends.
#[must_use]
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let wants_json = arguments.iter().any(|argument| argument == "--json");
    let resume = session::command_line(&arguments);
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return parse_failure(&error, wants_json),
    };
    let Cli { globals, command } = cli;
    let output = Output::new(globals.json, globals.quiet, command.owns_stdout());
    execute(globals, command, output, &resume).into()
}

/// Runs a command once it is known what was asked.
fn execute(globals: Globals, command: Command, output: Output, resume: &str) -> Exit {
    if let Err(failure) = start_log(&globals, &command) {
        return output.failure(&failure);
    }
    let Globals { network, wallet, trust_checkpoint, progress, .. } = globals;
    // Whoever sets the variable has been told, and is not told again with every command.
    let told = std::env::var_os("FLOE_TRUST_GENESIS").is_some_and(|value| !value.is_empty());
    let trust =
        TrustFlags { checkpoint: trust_checkpoint, genesis: globals.trust_genesis, local: told };
    let flags = Flags { network, wallet, progress };
    let settings = match &command {
        // Whatever is wrong with the user's files, these work.
        Command::Completions(_) | Command::Man(_) => Settings::from_flags(flags),
        _ => Settings::load(flags),
    };
    let settings = match settings {
        Ok(settings) => settings,
        Err(failure) => return output.failure(&failure),
    };
    let progress = match settings.progress.value {
        // Lines of the log would tear the bar apart.
        ProgressMode::Auto if globals.verbose > 0 => ProgressMode::Never,
        mode => mode,
    };
    let after_interrupt = command.after_interrupt(resume);
    let session = Session { settings, progress, output, trust, after_interrupt };
    command.execute(&session).unwrap_or_else(|failure| session.output.failure(&failure))
}

impl Command {
    /// Whether the bytes of a blob go to stdout, so that nothing else may.
    const fn owns_stdout(&self) -> bool {
        matches!(self, Self::Read(arguments) if arguments.to_stdout())
    }

    /// What to do after an interruption, given the command line.
    fn after_interrupt(&self, command_line: &str) -> String {
        match self {
            Self::Store(arguments) if arguments.is_dry_run() => {
                format!("begin again with: {command_line}")
            }
            Self::Store(arguments) if arguments.reads_stdin() => {
                format!("what was paid and sent counts, resume with the same input: {command_line}")
            }
            Self::Store(_) => format!("what was paid and sent counts, resume with: {command_line}"),
            Self::Extend(_) => {
                "it may have been paid: look with `floe list-blobs` before extending again".into()
            }
            Self::Delete(_) => {
                format!("it may be done: look with `floe list-blobs`, or repeat {command_line}")
            }
            Self::Wallet(wallet::WalletCommand::Send(_))
            | Self::Faucet(_)
            | Self::Stake(stake::StakeArgs { command: None, .. })
            | Self::Unstake(_) => {
                "it may have been sent: look with `floe wallet history` before sending again".into()
            }
            Self::Node(node::NodeCommand::Leave(_)) => {
                format!("what was unstaked stays so; watch on with: {command_line}")
            }
            _ => format!("begin again with: {command_line}"),
        }
    }

    fn execute(self, session: &Session) -> Result<Exit, Failure> {
        match self {
            Self::Key(command) => key::run(session, &command),
            Self::Genesis(arguments) => genesis::run(session, arguments),
            Self::Node(node::NodeCommand::Init(arguments)) => node::init(session, &arguments),
            Self::Node(node::NodeCommand::Run(arguments)) => {
                with_runtime(node::run(session, *arguments))
            }
            Self::Node(node::NodeCommand::Join(arguments)) => {
                with_runtime(node::join(session, *arguments))
            }
            Self::Node(node::NodeCommand::Leave(arguments)) => {
                interruptible(session, node::leave(session, arguments))
            }
            Self::Node(node::NodeCommand::Status(arguments)) => {
                interruptible(session, node::status(session, arguments))
            }
            Self::Info(arguments) => interruptible(session, info::run(session, arguments)),
            Self::Store(arguments) => interruptible(session, store::run(session, arguments)),
            Self::Read(arguments) => interruptible(session, read::run(session, arguments)),
            Self::BlobId(arguments) => interruptible(session, blob_id::run(session, arguments)),
            Self::BlobStatus(arguments) => {
                interruptible(session, blob_status::run(session, arguments))
            }
            Self::Extend(arguments) => interruptible(session, extend::run(session, arguments)),
            Self::Delete(arguments) => interruptible(session, delete::run(session, arguments)),
            Self::Health(arguments) => interruptible(session, health::run(session, arguments)),
            Self::Wallet(command) if command.is_local() => wallet::run_local(session, &command),
            Self::Wallet(command) => interruptible(session, wallet::run(session, command)),
            Self::Faucet(arguments) => interruptible(session, faucet::run(session, arguments)),
            Self::ListBlobs(arguments) => {
                interruptible(session, list_blobs::run(session, arguments))
            }
            Self::Name(command) => interruptible(session, name::run(session, command)),
            Self::Stake(arguments) => interruptible(session, stake::stake(session, arguments)),
            Self::Unstake(arguments) => interruptible(session, stake::unstake(session, arguments)),
            Self::Withdraw(arguments) => {
                interruptible(session, stake::withdraw(session, arguments))
            }
            Self::Committee(arguments) => {
                interruptible(session, committee::run(session, arguments))
            }
            Self::Epoch(arguments) => interruptible(session, epoch::run(session, arguments)),
            Self::Challenges(arguments) => {
                interruptible(session, challenges::run(session, arguments))
            }
            Self::Rewards(arguments) => interruptible(session, rewards::run(session, arguments)),
            Self::Ledger(command) => interruptible(session, ledger::run(session, command)),
            Self::Network(command) => network::run(session, command),
            Self::Config(command) => config::run(session, &command),
            Self::Completions(arguments) => manual::completions(&session.output, &arguments),
            Self::Man(arguments) => manual::man(&session.output, &arguments),
        }
    }
}

fn start_log(globals: &Globals, command: &Command) -> Result<(), Failure> {
    let (level, format) = match command {
        Command::Node(command @ node::NodeCommand::Run(_)) => {
            (LogLevel::Info, command.log_format())
        }
        // Its status line says what goes on.
        Command::Node(command) => (LogLevel::Warnings, command.log_format()),
        _ => (LogLevel::Warnings, LogFormat::Text),
    };
    let level = if globals.quiet { LogLevel::Errors } else { level.raised(globals.verbose) };
    telemetry::start(level, format).map_err(|error| Failure::usage("log_filter", error))
}

/// What is wrong with the arguments, or the help and version that were asked for.
fn parse_failure(error: &clap::Error, wants_json: bool) -> ExitCode {
    let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if asked_for || !wants_json {
        // A closed pipe is no reason to complain.
        let _ = error.print();
        return if asked_for { Exit::Done } else { Exit::Usage }.into();
    }
    let failure = Failure::usage("usage", usage_message(error))
        .hint("see floe --help, or --help behind the command");
    Output::new(true, false, false).failure(&failure).into()
}

/// What is wrong with the arguments, in one line: `clap` names missing ones on lines of their own.
#[must_use]
pub fn usage_message(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines: Vec<_> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    lines.join(" ").trim_start_matches("error: ").to_owned()
}

/// Runs a command until it is done or the user interrupts it.
fn interruptible(
    session: &Session,
    command: impl Future<Output = Result<Exit, Failure>>,
) -> Result<Exit, Failure> {
    with_runtime(async {
        let mut interrupts = Interrupts::listen()?;
        tokio::select! {
            biased;
            () = interrupts.next() => Err(Failure::interrupted(&session.after_interrupt)),
            result = command => result,
        }
    })
}

fn with_runtime(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::io("cannot start", &error))?;
    let result = runtime.block_on(command);
    // A thread may wait in a read of standard input that never ends.
    runtime.shutdown_background();
    result
}
