//! `floe genesis --from-state`: the network that goes on from a stopped one.
//!
//! Reads the ledger of a node that is stopped, and writes the network file of the successor with the
//! file of its first state beside it. Nothing of the node is changed. What is taken over, and how,
//! is decided in [`Succession`]; that it be done at all, and without whom, is for people to decide.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use floe_protocol::{
    genesis::{Genesis, NetworkFile, Predecessor},
    index::Height,
    keys::NodeId,
    ledger::{State, Succession, SuccessionError},
};
use floe_storage::{LedgerStore, LedgerStoreConfig};
use serde::Serialize;

use super::{check_absent, write_network};
use crate::{
    ChainError,
    cli::{
        exit::{Exit, Failure},
        node::network_of,
        out_file::write_parts,
        session::Session,
        size::human_bytes,
    },
    config::NodePaths,
    key_file::{KeyFileError, KeyLock, NodeKeys},
    network::address_of,
    service::{
        ledger::stand,
        snapshot::{StateFile, beside},
    },
};

/// Arguments of `floe genesis --from-state`.
#[derive(Debug, Args)]
pub(super) struct FromStateArgs {
    /// Go on from the state of a stopped ledger at this height, or `latest`
    #[arg(
        long, value_name = "HEIGHT", value_parser = parse_height, requires = "data_dir",
        conflicts_with_all = [
            "members", "n_shards", "max_blob_bytes", "fund", "faucet", "epoch", "min_stake"
        ]
    )]
    from_state: Option<At>,
    /// The directory of a node that has that ledger, and is stopped
    #[arg(long, value_name = "DIR", requires = "from_state")]
    data_dir: Option<PathBuf>,
    /// Nodes that are gone for good
    #[arg(long, value_name = "NODE", num_args = 1.., requires = "from_state")]
    without: Vec<NodeId>,
}

impl FromStateArgs {
    pub(super) const fn is_asked(&self) -> bool {
        self.from_state.is_some()
    }
}

/// Which state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Latest,
    Height(Height),
}

fn parse_height(text: &str) -> Result<At, String> {
    if text == "latest" {
        return Ok(At::Latest);
    }
    let height = text.parse().map_err(|_| "write a height, or `latest`".to_owned())?;
    Ok(At::Height(Height::new(height)))
}

/// What the files are to be.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) name: Option<String>,
    pub(super) bootstrap: Vec<String>,
    pub(super) output: Option<PathBuf>,
    pub(super) force: bool,
}

/// Runs `floe genesis --from-state`.
pub(super) fn run(
    session: &Session,
    arguments: FromStateArgs,
    wanted: Wanted,
) -> Result<Exit, Failure> {
    let FromStateArgs { from_state, data_dir, without } = arguments;
    let (at, dir) = from_state
        .zip(data_dir)
        .ok_or_else(|| Failure::usage("usage", "--from-state needs --data-dir"))?;
    let without: BTreeSet<NodeId> = without.into_iter().collect();
    let output = wanted.output.unwrap_or_else(|| "successor.json".into());
    let state_file = beside(&output);
    check_absent(&output, wanted.force)?;
    check_absent(&state_file, wanted.force)?;
    let before = network_of(session, &dir)?;
    let stopped = Stopped::open(&dir, &before.genesis, at)?;
    let Stopped { state, store, .. } = &stopped;
    let succession =
        Succession::new(state, store.as_ref(), &without).map_err(|error| refused(&error))?;
    let (predecessor, bytes) = write_state(&stopped, &succession, (&state_file, wanted.force))?;
    let mut genesis = before.genesis.successor(predecessor);
    genesis.name = wanted.name.unwrap_or(genesis.name);
    let committee = genesis.committee()?;
    let mut bootstrap = wanted.bootstrap;
    bootstrap.extend(before.bootstrap.into_iter().filter(|address| is_left(address, &without)));
    bootstrap.sort_unstable();
    bootstrap.dedup();
    let network = NetworkFile { genesis, bootstrap };
    write_network(&output, &network, wanted.force)?;
    warn(session, &network, (&succession, without.is_empty()));
    let result = Successor {
        file: output.display().to_string(),
        state_file: state_file.display().to_string(),
        state_bytes: bytes,
        name: network.genesis.name.clone(),
        chain_id: network.genesis.chain_id().to_string(),
        predecessor: state.chain().to_string(),
        height: state.tip().height.get(),
        epoch: committee.epoch().get(),
        n_shards: committee.n_shards(),
        ready_shards: succession.ready_shards(),
        nodes: committee.members().iter().map(|member| member.node.to_string()).collect(),
    };
    session.output.result(&result, &result.chain_id)?;
    Ok(Exit::Done)
}

/// Says what people should think of before they hand the files out.
fn warn(session: &Session, network: &NetworkFile, (succession, all): (&Succession, bool)) {
    let config = succession.committee().config();
    if all {
        session.output.warning(
            "no --without: all members of the stopped network are to go on; if too many of them \
             are gone the new ledger stops as the old one did",
        );
    }
    if succession.ready_shards() < config.k1() {
        session.output.warning(
            "fewer shards are with nodes that are left than a blob needs: what is stored cannot \
             be read unless some of the others come back",
        );
    }
    if network.bootstrap.is_empty() {
        session.output.warning(
            "no address to join at is left: add one to the file under \"bootstrap\", or name one \
             with --bootstrap",
        );
    }
}

/// Whether an address is not one of a node that is gone.
fn is_left(address: &str, without: &BTreeSet<NodeId>) -> bool {
    let gone =
        without.iter().filter_map(|node| address_of(node, crate::network::Multiaddr::empty()));
    let mut gone = gone.map(|name| name.to_string());
    !gone.any(|name| address.ends_with(&name))
}

/// The ledger of a node that does not run.
struct Stopped {
    state: State,
    store: Arc<LedgerStore>,
    _lock: KeyLock,
}

impl Stopped {
    fn open(dir: &Path, genesis: &Genesis, at: At) -> Result<Self, Failure> {
        let paths = NodePaths::below(dir);
        let lock = KeyLock::take(&paths.key).map_err(|error| match error {
            error @ KeyFileError::Locked { .. } => {
                Failure::new(Exit::Failed, "node_runs", error).hint("stop the node first")
            }
            error => Failure::from(error)
                .hint("name with --data-dir the directory that the node is run with as --dir"),
        })?;
        let node = NodeKeys::open(&paths.key)?.node.public();
        if !paths.ledger.exists() {
            let message = format!("there is no ledger in {}", dir.display());
            return Err(Failure::new(Exit::NotFound, "no_ledger", message)
                .hint("name the directory of a node that has served the network"));
        }
        let config = LedgerStoreConfig::new(paths.ledger, paths.ledger_marker, node);
        let store = Arc::new(LedgerStore::open(&config)?);
        let state = stand(genesis, &store, &config).map_err(|error| match error {
            error @ ChainError::OtherNetwork(_) => {
                Failure::new(Exit::Failed, "other_network", error)
                    .hint("name the network file of the stopped network with --network")
            }
            error => error.into(),
        })?;
        let state = state_at(&store, state, at)?;
        Ok(Self { state, store, _lock: lock })
    }
}

/// The state of a height that is kept.
fn state_at(store: &LedgerStore, newest: State, at: At) -> Result<State, Failure> {
    let tip = newest.tip().height;
    let oldest = store.oldest_state().unwrap_or(tip).max(Height::new(1));
    let height = match at {
        At::Latest => tip,
        At::Height(height) => height,
    };
    if tip == Height::new(0) {
        return Err(Failure::new(Exit::Failed, "no_block", "the ledger has no block yet")
            .hint("make another genesis with `floe genesis --member …`"));
    }
    if height < oldest || height > tip {
        let message = format!(
            "the state of height {height} is not kept: this node has those of {oldest} to {tip}"
        );
        return Err(Failure::new(Exit::NotFound, "height", message)
            .hint("name one of these, or `latest`; another node may keep others"));
    }
    if height == tip {
        return Ok(newest);
    }
    let failed = |error: ChainError| Failure::from(error);
    let header = store.header(height).map_err(|error| failed(error.into()))?;
    let header = header.ok_or_else(|| {
        Failure::new(Exit::NotFound, "height", format!("there is no block of height {height}"))
    })?;
    State::load(&newest, &header, store).map_err(|error| failed(error.into()))
}

fn refused(error: &SuccessionError) -> Failure {
    match error {
        SuccessionError::Committee { .. } => Failure::new(Exit::Failed, "too_few_nodes", error)
            .hint("leave fewer nodes out: at least four with the least stake must go on"),
        SuccessionError::Unknown(_) => Failure::new(Exit::NotFound, "no_node", error)
            .hint("`floe committee` names the nodes; ids are those of `floe node init`"),
        _ => Failure::new(Exit::Failed, "succession", error),
    }
}

/// Writes the file of the first state; what the genesis says of it, and its length.
fn write_state(
    Stopped { state, store, .. }: &Stopped,
    succession: &Succession,
    (path, force): (&Path, bool),
) -> Result<(Predecessor, u64), Failure> {
    let height = state.tip().height;
    let io = |error: std::io::Error| {
        Failure::io(format_args!("cannot write {}", path.display()), &error)
    };
    write_parts(path, force, |file| {
        let mut file = StateFile::new(file);
        let mut writer = succession.writer();
        let values = store.values(height).map_err(|error| refused(&error.into()))?;
        for value in values {
            let (key, value) = value.map_err(|error| Failure::from(ChainError::from(error)))?;
            for chunk in writer.push(&key, &value).map_err(|error| refused(&error))? {
                file.push(&chunk).map_err(io)?;
            }
        }
        let (chunks, manifest, predecessor) = writer.finish().map_err(|error| refused(&error))?;
        for chunk in &chunks {
            file.push(chunk).map_err(io)?;
        }
        let bytes = file.finish(&manifest).map_err(io)?;
        Ok((predecessor, bytes))
    })
}

/// The result.
#[derive(Debug, Serialize)]
struct Successor {
    file: String,
    state_file: String,
    state_bytes: u64,
    name: String,
    chain_id: String,
    predecessor: String,
    height: u64,
    epoch: u64,
    n_shards: u16,
    /// Shards that stay with who has them complete.
    ready_shards: usize,
    nodes: Vec<String>,
}

impl fmt::Display for Successor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (state, bytes) = (&self.state_file, human_bytes(self.state_bytes));
        writeln!(f, "network      {}, written to {}", self.name, self.file)?;
        writeln!(f, "first state  {state}, {bytes}: belongs to it")?;
        writeln!(f, "chain id     {}", self.chain_id)?;
        writeln!(f, "goes on from {}, height {}", self.predecessor, self.height)?;
        writeln!(f, "epoch        {}", self.epoch)?;
        let (ready, all) = (self.ready_shards, self.n_shards);
        writeln!(f, "shards       {ready} of {all} stay, the others are recovered")?;
        write!(f, "nodes        {}", self.nodes.join("\n             "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heights_are_numbers_or_latest() {
        assert_eq!(parse_height("latest"), Ok(At::Latest));
        assert_eq!(parse_height("17"), Ok(At::Height(Height::new(17))));
        assert!(parse_height("last").is_err() && parse_height("-1").is_err());
    }

    #[test]
    fn addresses_of_nodes_that_are_gone_are_left_out() {
        let keys = floe_protocol::test_support::node_keys(2);
        let [gone, left] = [0, 1].map(|i| {
            let base = "/ip4/127.0.0.1/tcp/5000".parse().unwrap();
            address_of(&keys[i].0.public(), base).unwrap().to_string()
        });
        let without = BTreeSet::from([keys[0].0.public()]);
        assert!(!is_left(&gone, &without) && is_left(&left, &without));
        assert!(is_left(&gone, &BTreeSet::new()));
    }
}
