//! `floe network`: gives networks names, so that commands need no file: `--network NAME`.
//!
//! What a name stands for is the user's own choice: no name is built in, and nothing is fetched. How
//! the list is kept is in `known.rs`.

pub(super) mod known;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use floe_protocol::genesis::NetworkFile;
use serde::Serialize;

use self::known::{KnownNetworks, NetworkName};
use super::{
    exit::{Exit, Failure},
    session::{Session, read_genesis, read_network},
};
use crate::network::Multiaddr;

const ADD_HELP: &str = "\
Copies the file into the list of known networks; from then on NAME does wherever a network file is
named. The list is in floe/networks below $XDG_CONFIG_HOME or ~/.config, or in $FLOE_NETWORKS_DIR. A
name is made of small letters, digits, - and _. Of a name that is taken nothing is replaced.

Take a network file only from somebody you trust: it says who the first members are.

Examples:
  floe network add friends --genesis network.json
  floe network add friends --genesis genesis.json --peer /dns4/floe.example/tcp/4950/p2p/12D3KooW…
  floe info --network friends";

const LIST_HELP: &str = "\
Examples:
  floe network list
  floe network list --json";

const REMOVE_HELP: &str = "\
Forgets a name. Nodes of the network run on: each keeps its network file in its directory.

Examples:
  floe network remove friends";

/// Commands about known networks.
#[derive(Debug, Subcommand)]
pub(super) enum NetworkCommand {
    /// Give a network a name
    Add(AddArgs),
    /// List the known networks
    List(ListArgs),
    /// Forget a network's name
    Remove(RemoveArgs),
}

/// Arguments of `floe network add`.
#[derive(Debug, Args)]
#[command(after_help = ADD_HELP)]
pub(super) struct AddArgs {
    /// The name
    name: NetworkName,
    /// The network's genesis, or its network file
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
    /// Addresses to join at, beside those of the file
    #[arg(long = "peer", visible_alias = "bootstrap", value_name = "ADDR", num_args = 1..)]
    peers: Vec<Multiaddr>,
}

/// Arguments of `floe network list`.
#[derive(Debug, Args)]
#[command(after_help = LIST_HELP)]
pub(super) struct ListArgs {}

/// Arguments of `floe network remove`.
#[derive(Debug, Args)]
#[command(after_help = REMOVE_HELP)]
pub(super) struct RemoveArgs {
    /// The name
    name: NetworkName,
}

/// Runs `floe network`.
pub(super) fn run(session: &Session, command: NetworkCommand) -> Result<Exit, Failure> {
    let known = &session.settings.networks;
    match command {
        NetworkCommand::Add(arguments) => add(session, known, arguments),
        NetworkCommand::List(ListArgs {}) => list(session, known),
        NetworkCommand::Remove(RemoveArgs { name }) => {
            known.remove(&name)?;
            session.output.result(&Removed { name: name.clone() }, &name)?;
            Ok(Exit::Done)
        }
    }
}

fn add(session: &Session, known: &KnownNetworks, arguments: AddArgs) -> Result<Exit, Failure> {
    let AddArgs { name, genesis, peers } = arguments;
    let mut network = read_genesis(&genesis)?;
    network.genesis.committee()?;
    join_at(&mut network, &peers)?;
    let file = known.add(&name, &network)?;
    let added = Shown::new(name, &file, Ok(network));
    session.output.result(&added, &added.name)?;
    Ok(Exit::Done)
}

/// Adds addresses to join at, of which there must be one then.
pub(super) fn join_at(network: &mut NetworkFile, peers: &[Multiaddr]) -> Result<(), Failure> {
    for peer in peers.iter().map(ToString::to_string) {
        if !network.bootstrap.contains(&peer) {
            network.bootstrap.push(peer);
        }
    }
    if network.bootstrap.is_empty() {
        let message = "there is no address to join at";
        return Err(Failure::usage("no_peer", message)
            .hint("name one with --peer /dns4/floe.example/tcp/4950/p2p/12D3KooW…"));
    }
    if crate::node::parse_bootstrap(&network.bootstrap).is_err() {
        let wrong = network
            .bootstrap
            .iter()
            .find(|address| crate::node::parse_bootstrap(std::slice::from_ref(*address)).is_err());
        let wrong = wrong.map_or("", String::as_str);
        return Err(Failure::usage("bad_address", format!("{wrong:?} is no address to join at"))
            .hint("addresses look like /ip4/203.0.113.7/tcp/4950/p2p/12D3KooW…"));
    }
    Ok(())
}

fn list(session: &Session, known: &KnownNetworks) -> Result<Exit, Failure> {
    let shown = known.names()?.into_iter().map(|name| {
        let file = known.file(&name).unwrap_or_default();
        let network = read_network(&file);
        Shown::new(name, &file, network)
    });
    let list = List { networks: shown.collect() };
    let names: Vec<_> = list.networks.iter().map(|network| network.name.to_string()).collect();
    session.output.result(&list, names.join("\n"))?;
    Ok(Exit::Done)
}

/// The result of `floe network list`.
#[derive(Debug, Serialize)]
struct List {
    networks: Vec<Shown>,
}

/// A known network.
#[derive(Debug, Serialize)]
struct Shown {
    name: NetworkName,
    file: String,
    /// What the network calls itself; null with an error.
    calls_itself: Option<String>,
    chain_id: Option<String>,
    bootstrap: Vec<String>,
    /// Why the file cannot be used; null if it can.
    error: Option<String>,
}

impl Shown {
    fn new(name: NetworkName, file: &Path, network: Result<NetworkFile, Failure>) -> Self {
        let file = file.display().to_string();
        match network {
            Ok(NetworkFile { genesis, bootstrap }) => Self {
                name,
                file,
                chain_id: Some(genesis.chain_id().to_string()),
                calls_itself: Some(genesis.name),
                bootstrap,
                error: None,
            },
            Err(failure) => Self {
                name,
                file,
                calls_itself: None,
                chain_id: None,
                bootstrap: Vec::new(),
                error: Some(failure.message().to_owned()),
            },
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, file, calls_itself, chain_id, bootstrap, error } = self;
        writeln!(f, "network    {name}, kept in {file}")?;
        if let Some(error) = error {
            return write!(f, "           cannot be used: {error}");
        }
        // Its founder chose it: nothing of it may steer the terminal.
        writeln!(f, "its name   {:?}", calls_itself.as_deref().unwrap_or_default())?;
        writeln!(f, "chain id   {}", chain_id.as_deref().unwrap_or_default())?;
        write!(f, "join at    {}", bootstrap.join("\n           "))
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.networks.is_empty() {
            return f.write_str("no network is known: `floe network add NAME --genesis FILE`");
        }
        for (i, network) in self.networks.iter().enumerate() {
            let gap = if i == 0 { "" } else { "\n\n" };
            write!(f, "{gap}{network}")?;
        }
        Ok(())
    }
}

/// The result of `floe network remove`.
#[derive(Debug, Serialize)]
struct Removed {
    name: NetworkName,
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "forgot network {}", self.name)
    }
}
