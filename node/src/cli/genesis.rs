//! `floe genesis`: writes the network file of a new network, or of one that goes on from a stopped one
//! ([`from_state`]).

mod from_state;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use floe_protocol::{
    encoding::EncodingConfig,
    genesis::{Faucet, Genesis, GenesisAccount, GenesisMember, NetworkFile},
    hash::Hash,
    ledger::{AccountId, Amount, LedgerParameters},
};
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    out_file::write_file,
    session::Session,
    size::{human_bytes, parse_bytes},
};
use crate::{key_file, network::Multiaddr};

const AFTER_HELP: &str = "\
Every operator runs `floe node init` and hands in the member.json that it makes. At least four nodes
are needed.

Accounts named with --fund have WAL from the start, beside the members' stakes. With --faucet, an
account is funded whose key is in the file, so that everybody can take from it: for test networks.

Everybody needs the file that is written. Its bootstrap addresses may be changed at any time; every
other change makes another network.

A ledger stops if more than a third of all shards are with nodes that are gone. Reads go on. If those
nodes never come back, people may decide to go on without them: stop a node that is left, and make
the genesis of a network that begins with what its ledger holds (accounts, stakes, blobs, names):
  floe genesis --from-state latest --data-dir DIR --without NODE...
That writes successor.json and successor.json.state; give both to everybody who is left. Each stops
its node and starts it with --network successor.json: its slivers stay, the old ledger is put aside
(and taken back if it is started with the old file). The epoch that stopped counts as over, the next
one begins; shards of nodes that are gone are recovered by their new holders. Two such networks from
one ledger never meet again: agree on one file.

Examples:
  floe genesis --from-state latest --data-dir /var/lib/floe --without 3f0c… 77ab…
  floe genesis --name friends --member a/member.json b/member.json c/member.json d/member.json \\
      --bootstrap /dns4/floe.example/tcp/4950/p2p/12D3KooW… -o network.json";

/// Arguments of `floe genesis`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct GenesisArgs {
    /// The network's name [default with --from-state: the old one's]
    #[arg(long, required_unless_present = "from_state")]
    name: Option<String>,
    #[command(flatten)]
    from: from_state::FromStateArgs,
    /// Shards: how finely blobs are spread
    #[arg(long, value_name = "N", default_value_t = 64)]
    n_shards: u16,
    /// Files made by `floe node init` or `floe key new`
    #[arg(
        long = "member", value_name = "FILE", num_args = 1..,
        required_unless_present = "from_state"
    )]
    members: Vec<PathBuf>,
    /// Addresses of nodes to join at, each ending in /p2p/PEER
    #[arg(long, value_name = "ADDR", num_args = 1..)]
    bootstrap: Vec<Multiaddr>,
    /// The largest blob [default: what the shards carry, at most 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    max_blob_bytes: Option<u64>,
    /// Accounts that have WAL from the start
    #[arg(long, value_name = "ACCOUNT=WAL", num_args = 1.., value_parser = parse_funding)]
    fund: Vec<GenesisAccount>,
    /// WAL of an account that everybody can take from
    #[arg(long, value_name = "WAL")]
    faucet: Option<Amount>,
    /// Duration of an epoch
    #[arg(long, value_name = "TIME", default_value = "1day", value_parser = humantime::parse_duration)]
    epoch: Duration,
    /// Stake that a node needs to be selected
    #[arg(long, value_name = "WAL", default_value_t = LedgerParameters::default().min_stake)]
    min_stake: Amount,
    /// The file to write [default: network.json, or successor.json with --from-state]
    #[arg(short, long, visible_alias = "out", value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

/// Runs `floe genesis`.
pub(super) fn run(session: &Session, arguments: GenesisArgs) -> Result<Exit, Failure> {
    let bootstrap = named(&arguments.bootstrap)?;
    if arguments.from.is_asked() {
        let GenesisArgs { name, from, output, force, .. } = arguments;
        return from_state::run(
            session,
            from,
            from_state::Wanted { name, bootstrap, output, force },
        );
    }
    found(session, arguments, bootstrap)
}

/// Addresses to join at as a network file lists them.
fn named(addresses: &[Multiaddr]) -> Result<Vec<String>, Failure> {
    let bootstrap: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    if let Some(address) = bootstrap.iter().find(|address| !address.contains("/p2p/")) {
        return Err(Failure::usage("bad_address", format!("{address} does not end in /p2p/PEER"))
            .hint("`floe node init` prints the node's /p2p/ name"));
    }
    Ok(bootstrap)
}

/// Founds a network.
fn found(
    session: &Session,
    arguments: GenesisArgs,
    bootstrap: Vec<String>,
) -> Result<Exit, Failure> {
    let output = arguments.output.unwrap_or_else(|| "network.json".into());
    let config = EncodingConfig::new(arguments.n_shards)?;
    let members: Result<Vec<_>, _> = arguments.members.iter().map(|path| member(path)).collect();
    let members = members?;
    check_absent(&output, arguments.force)?;
    let (accounts, faucet) = funded(arguments.fund, arguments.faucet)?;
    let epoch_ms = u64::try_from(arguments.epoch.as_millis()).unwrap_or(u64::MAX);
    let genesis = Genesis {
        name: arguments.name.unwrap_or_default(),
        n_shards: arguments.n_shards,
        max_blob_bytes: arguments.max_blob_bytes.unwrap_or(config.default_max_blob_bytes()),
        members,
        accounts,
        faucet,
        ledger: LedgerParameters {
            min_stake: arguments.min_stake,
            ..LedgerParameters::for_epoch(epoch_ms)
        },
        predecessor: None,
    };
    let committee = genesis.committee()?;
    let network = NetworkFile { genesis, bootstrap };
    write_network(&output, &network, arguments.force)?;
    if network.bootstrap.is_empty() {
        session.output.warning(
            "no --bootstrap address: add one to the file once a node is up, or nobody finds the network",
        );
    }
    let result = NewNetwork {
        file: output.display().to_string(),
        name: network.genesis.name.clone(),
        chain_id: network.genesis.chain_id().to_string(),
        n_shards: network.genesis.n_shards,
        nodes: committee.members().len(),
        max_blob_bytes: network.genesis.max_blob_bytes,
    };
    session.output.result(&result, &result.chain_id)?;
    Ok(Exit::Done)
}

fn check_absent(path: &Path, force: bool) -> Result<(), Failure> {
    if path.exists() && !force {
        let message = format!("{} exists already", path.display());
        return Err(Failure::new(Exit::Failed, "file_exists", message).hint("--force replaces it"));
    }
    Ok(())
}

fn write_network(path: &Path, network: &NetworkFile, force: bool) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(network).expect("strings and numbers serialise");
    text.push('\n');
    write_file(path, text.as_bytes(), force)
}

/// What everybody may decently take from a faucet at a time.
const FAUCET_AMOUNT: Amount = Amount::from_wal(100);

/// The accounts of the genesis, sorted, with the faucet's.
fn funded(
    mut accounts: Vec<GenesisAccount>,
    faucet: Option<Amount>,
) -> Result<(Vec<GenesisAccount>, Option<Faucet>), Failure> {
    let mut made = None;
    if let Some(balance) = faucet {
        let key = key_file::generate_key_pair()?;
        accounts.push(GenesisAccount { account: AccountId::new(key.public()), balance });
        made = Some(Faucet { seed: Hash::new(*key.seed()), amount: FAUCET_AMOUNT });
    }
    accounts.sort_by_key(|account| account.account);
    Ok((accounts, made))
}

/// Reads `ACCOUNT=WAL`.
fn parse_funding(text: &str) -> Result<GenesisAccount, String> {
    let (account, balance) = text.split_once('=').ok_or("write it as ACCOUNT=WAL")?;
    let account = account.parse().map_err(|error| format!("{error}"))?;
    let balance = balance.parse().map_err(|error| format!("{error}"))?;
    Ok(GenesisAccount { account, balance })
}

/// Reads a member's entry, whole or within what `floe key new --json` prints.
fn member(path: &Path) -> Result<GenesisMember, Failure> {
    let name = path.display();
    let text = fs::read_to_string(path).map_err(|error| Failure::io(&name, &error))?;
    serde_json::from_str(&text).map_err(|error| {
        Failure::new(Exit::Failed, "bad_member", format!("{name} is no member's entry: {error}"))
            .hint("name the member.json that `floe node init` has made")
    })
}

/// The result.
#[derive(Debug, Serialize)]
struct NewNetwork {
    file: String,
    name: String,
    chain_id: String,
    n_shards: u16,
    nodes: usize,
    max_blob_bytes: u64,
}

impl fmt::Display for NewNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "network       {}, written to {}", self.name, self.file)?;
        writeln!(f, "chain id      {}", self.chain_id)?;
        writeln!(f, "shards        {} on {} nodes", self.n_shards, self.nodes)?;
        write!(f, "largest blob  {}", human_bytes(self.max_blob_bytes))
    }
}
