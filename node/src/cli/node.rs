//! `floe node`: makes a storage node's keys, runs the node, and sees it in and out of the swarm.

mod init;
mod join;
mod leave;
mod place;
mod root;
mod status;

use std::{
    fmt, fs,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use floe_protocol::genesis::NetworkFile;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

pub(super) use self::init::{DEFAULT_STAKE_WAL, init};
use super::{
    exit::{Exit, Failure},
    interrupt::Interrupts,
    output::stderr_line,
    reach::ReachArgs,
    session::Session,
    size::{parse_bytes, parse_bytes_per_second},
};
use crate::{
    Node, NodeConfig, NodeHandle,
    key_file::journal_dir,
    network::{Multiaddr, address_of},
    telemetry::LogFormat,
};

/// Where a node listens unless told otherwise.
const DEFAULT_LISTEN: [&str; 2] = ["/ip4/0.0.0.0/tcp/4950", "/ip4/0.0.0.0/udp/4950/quic-v1"];

const RUN_HELP: &str = "\
Runs until Ctrl-C or SIGTERM, then answers what it has begun and closes its store. Prints the
addresses under which it can be reached once it is up; logs go to standard error. SIGUSR1 has it print
its metrics there, in the text format of Prometheus.

Examples:
  kill -USR1 $(pidof floe)
  floe node run --dir /var/lib/floe --network network.json
  floe node run --dir a --network network.json --listen /ip4/127.0.0.1/tcp/5001 --quota 10GiB
  floe node run --dir /var/lib/floe --network network.json --behind-nat
  floe node run --dir /var/lib/floe --network successor.json   # after `floe genesis --from-state`
  floe node run --dir /var/lib/floe --network network.json \\
      --external /dns4/floe.example/tcp/4950 --upload-limit 5MiB/s --log-json";

/// The network of the node in a directory: the one named by flag, else the one that it keeps.
pub(super) fn network_of(session: &Session, dir: &Path) -> Result<NetworkFile, Failure> {
    place::network(session, dir)
}

/// Commands about storage nodes.
#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// Make a node's directory with its keys
    Init(init::InitArgs),
    /// Run a node
    Run(Box<RunArgs>),
    /// Make a node, enter it in the ledger, stake, and run it
    Join(Box<join::JoinArgs>),
    /// Take a node's stake out, and wait until it is safe to stop it
    Leave(leave::LeaveArgs),
    /// Show how a node is doing
    Status(status::StatusArgs),
}

impl NodeCommand {
    /// How the log is written, for commands that run a node.
    pub(super) const fn log_format(&self) -> LogFormat {
        match self {
            Self::Run(arguments) => arguments.log_format(),
            Self::Join(arguments) => arguments.run.log_format(),
            Self::Init(_) | Self::Leave(_) | Self::Status(_) => LogFormat::Text,
        }
    }
}

/// Arguments of `floe node run`.
#[derive(Debug, Args)]
#[command(after_help = RUN_HELP)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub(super) struct RunArgs {
    /// The node's directory
    #[arg(long)]
    dir: PathBuf,
    /// Addresses to listen on
    #[arg(long, value_name = "ADDR", num_args = 1.., default_values = DEFAULT_LISTEN)]
    listen: Vec<Multiaddr>,
    /// Addresses under which others reach the node, where they differ
    #[arg(long, value_name = "ADDR", num_args = 1..)]
    external: Vec<Multiaddr>,
    #[command(flatten)]
    reach: ReachArgs,
    /// Addresses to join at, beside those of the network file
    #[arg(long, visible_alias = "peer", value_name = "ADDR", num_args = 1..)]
    bootstrap: Vec<Multiaddr>,
    /// Disk that the store may use
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = "64GiB")]
    quota: u64,
    /// Free disk to leave: below it no new sliver is accepted
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = "1GiB")]
    reserve: u64,
    /// Where the store is [default: DIR/store]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Start with an empty store although there was one, and refill it from the swarm
    #[arg(long)]
    repair: bool,
    /// Vote at once although the vote journal is lost; never do this with a node that others still
    /// count on
    #[arg(long)]
    vote_now: bool,
    /// Go on in the network that follows a stopped one although this node's ledger has come further
    /// than that goes on from
    #[arg(long)]
    abandon_blocks: bool,
    /// Payload to send in a second, all peers together
    #[arg(long, value_name = "SIZE/s", value_parser = parse_limit)]
    upload_limit: Option<NonZeroU32>,
    /// Payload to read in a second, all peers together
    #[arg(long, value_name = "SIZE/s", value_parser = parse_limit)]
    download_limit: Option<NonZeroU32>,
    /// Write the log as JSON, one object per line
    #[arg(long)]
    log_json: bool,
}

impl RunArgs {
    const fn log_format(&self) -> LogFormat {
        if self.log_json { LogFormat::Json } else { LogFormat::Text }
    }
}

/// Reads a rate that is neither nothing nor beyond what the limiter counts.
fn parse_limit(text: &str) -> Result<NonZeroU32, String> {
    let bytes = parse_bytes_per_second(text).map_err(|error| error.to_string())?;
    let bytes = u32::try_from(bytes).map_err(|_| "the highest limit is 4095MiB/s".to_owned())?;
    NonZeroU32::new(bytes).ok_or_else(|| "a limit of 0 would stop the node".to_owned())
}

/// Runs `floe node run`.
pub(super) async fn run(session: &Session, arguments: RunArgs) -> Result<Exit, Failure> {
    let network = place::network(session, &arguments.dir)?;
    let first_state = place::first_state(session, &arguments.dir, None);
    let mut config = config(arguments, network)?;
    config.first_state = first_state;
    serve(session, config, None).await
}

/// Runs `floe node join`.
pub(super) async fn join(session: &Session, arguments: join::JoinArgs) -> Result<Exit, Failure> {
    let (config, volunteer) = join::prepare(session, arguments)?;
    serve(session, config, Some(volunteer)).await
}

/// Runs `floe node leave`.
pub(super) async fn leave(session: &Session, arguments: leave::LeaveArgs) -> Result<Exit, Failure> {
    leave::run(session, arguments).await
}

/// Runs `floe node status`.
pub(super) async fn status(
    session: &Session,
    arguments: status::StatusArgs,
) -> Result<Exit, Failure> {
    status::run(session, arguments).await
}

/// Runs a node until it is to stop, and meanwhile whatever its volunteer does for it.
async fn serve(
    session: &Session,
    config: NodeConfig,
    volunteer: Option<join::Volunteer>,
) -> Result<Exit, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let mut metrics_wanted = signal(SignalKind::user_defined1())
        .map_err(|error| Failure::io("cannot take signals", &error))?;
    let dir = journal_dir(&config.paths.key).to_owned();
    let mut node = tokio::select! {
        biased;
        () = interrupts.next() => return Ok(Exit::Interrupted),
        node = Box::pin(Node::start(config)) => node?,
    };
    announce(session, &node, &dir, volunteer.is_some());
    let mut joining = volunteer.map(|volunteer| volunteer.begin(session, &node));
    let roots = tokio::spawn(root::keep(node.ledger().clone(), dir));
    let ended = loop {
        tokio::select! {
            () = interrupts.next() => break Ok(Exit::Done),
            result = node.failed() => break result.map(|()| Exit::Done).map_err(service_failed),
            _ = metrics_wanted.recv() => stderr_line(node.metrics().trim_end()),
            () = join::due(&mut joining) => {
                if let Err(refused) = join::step(&mut joining, &node).await {
                    break Err(refused);
                }
            }
        }
    };
    drop(joining);
    // It holds the ledger, which is closed next.
    roots.abort();
    drop(roots.await);
    session.output.note("stopping; once more Ctrl-C does not wait");
    tokio::select! {
        () = interrupts.next() => return Ok(Exit::Interrupted),
        () = node.shutdown() => {}
    }
    ended
}

fn service_failed(error: impl fmt::Display) -> Failure {
    Failure::new(Exit::Failed, "service_failed", error)
        .hint("the log above says why; start the node again")
}

fn config(arguments: RunArgs, mut network: NetworkFile) -> Result<NodeConfig, Failure> {
    require_dir(&arguments.dir)?;
    network.bootstrap.extend(arguments.bootstrap.iter().map(ToString::to_string));
    // A swarm on one machine is not a crowd of strangers at one address.
    let only_loopback = arguments.listen.iter().all(|address| {
        let address = address.to_string();
        address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/")
    });
    let mut config = NodeConfig::new(&arguments.dir, network, arguments.listen);
    config.external = arguments.external;
    config.nat = arguments.reach.config(only_loopback);
    config.quota_bytes = arguments.quota;
    config.reserve_bytes = arguments.reserve;
    config.accept_empty = arguments.repair;
    config.vote_now = arguments.vote_now;
    config.abandon_blocks = arguments.abandon_blocks;
    config.limits.upload_bytes_per_second = arguments.upload_limit;
    config.limits.download_bytes_per_second = arguments.download_limit;
    config.limits.loopback_exempt = only_loopback;
    if let Some(store) = arguments.store {
        config.paths.store = store;
    }
    Ok(config)
}

fn require_dir(dir: &Path) -> Result<(), Failure> {
    match fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Failure::usage("node_dir", format!("{} is no directory", dir.display()))),
        Err(error) => Err(Failure::io(format_args!("node directory {}", dir.display()), &error)
            .hint(format!("make it with `floe node init --dir {}`", dir.display()))),
    }
}

/// Tells that the node is up, and where.
fn announce(session: &Session, node: &NodeHandle, dir: &Path, joins: bool) {
    let state = node.ledger().state().borrow().clone();
    let shards = state.committee().member(&node.id()).map_or(0, |member| member.weight());
    if shards == 0 && !joins {
        session.output.warning("this node is not in the network's committee: it holds no shard");
    }
    // With the node's name, so that a line can be copied into a network file as it is.
    let addresses = node.addresses().into_iter();
    let addresses = addresses.filter_map(|address| address_of(&node.id(), address));
    let addresses: Vec<_> = addresses.map(|address| address.to_string()).collect();
    if let Err(failure) = place::keep_addresses(dir, &addresses) {
        session.output.warning(failure.message());
    }
    let result = RunningNode {
        node: node.id().to_string(),
        chain_id: state.chain().to_string(),
        shards,
        addresses,
    };
    // A node serves on although nobody reads what it prints.
    drop(session.output.result(&result, result.addresses.join("\n")));
}

/// What `floe node run` prints.
#[derive(Debug, Serialize)]
struct RunningNode {
    node: String,
    chain_id: String,
    shards: u16,
    addresses: Vec<String>,
}

impl fmt::Display for RunningNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} is up with {} shards", self.node, self.shards)?;
        for address in &self.addresses {
            write!(f, "\nlistening on {address}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_neither_zero_nor_beyond_the_limiter() {
        assert_eq!(parse_limit("1MiB/s").map(NonZeroU32::get), Ok(1 << 20));
        assert!(parse_limit("0").is_err());
        assert!(parse_limit("4GiB/s").is_err());
        assert!(parse_limit("fast").is_err());
    }

    #[test]
    fn the_default_addresses_parse() {
        for address in DEFAULT_LISTEN {
            assert!(address.parse::<Multiaddr>().is_ok(), "{address}");
        }
    }
}
