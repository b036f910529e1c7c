//! What a node's directory tells commands: its network, its id, and the wallet that runs it.

use std::path::{Path, PathBuf};

use floe_protocol::{
    genesis::{Genesis, GenesisMember, NetworkFile},
    keys::KeyPair,
    ledger::AccountId,
};

use super::init::wallet_at;
use crate::{
    cli::{
        exit::{Exit, Failure},
        network::join_at,
        out_file::write_file,
        session::{Session, read_genesis, read_network},
        settings::Origin,
    },
    config::NodePaths,
    key_file::{self, NodeKeys},
    network::Multiaddr,
    service::snapshot,
};

/// Where `floe node join` keeps the network file, so that later commands need not name it.
fn kept(dir: &Path) -> PathBuf {
    dir.join("network.json")
}

/// The network of a node: the one named by flag, else the one that its directory keeps, else
/// whatever is configured.
pub(super) fn network(session: &Session, dir: &Path) -> Result<NetworkFile, Failure> {
    let kept = kept(dir);
    if session.settings.network.origin != Origin::Flag && kept.exists() {
        return read_network(&kept);
    }
    session.network()
}

/// The network that a node is to join.
pub(super) fn network_to_join(
    session: &Session,
    dir: &Path,
    (genesis, peers): (Option<&Path>, &[Multiaddr]),
) -> Result<NetworkFile, Failure> {
    let mut file = match genesis {
        Some(_) if session.settings.network.origin == Origin::Flag => {
            let message = "--genesis and --network both name a network";
            return Err(Failure::usage("usage", message).hint("leave out one of the two"));
        }
        Some(path) => read_genesis(path)?,
        None => network(session, dir)?,
    };
    file.genesis.committee()?;
    let kept = kept(dir);
    if kept.exists() {
        let before = read_network(&kept)?;
        if before.genesis.chain_id() != file.genesis.chain_id()
            && !follows(&before.genesis, &file.genesis)
            && !follows(&file.genesis, &before.genesis)
        {
            let message = format!("{} is of a node of another network", dir.display());
            return Err(Failure::new(Exit::Refused, "other_network", message)
                .hint("name another directory with --dir"));
        }
    }
    join_at(&mut file, peers)?;
    Ok(file)
}

/// Has the directory keep the network file from now on.
pub(super) fn keep_network(dir: &Path, file: &NetworkFile) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(file).expect("strings and numbers serialise");
    text.push('\n');
    write_file(&kept(dir), text.as_bytes(), true)
}

/// Where a running node keeps the addresses under which it listens, for commands that ask it.
fn addresses_kept(dir: &Path) -> PathBuf {
    dir.join("addresses.json")
}

/// Has the directory keep the addresses of its node.
pub(super) fn keep_addresses(dir: &Path, addresses: &[String]) -> Result<(), Failure> {
    let text = serde_json::to_vec(addresses).expect("strings serialise");
    write_file(&addresses_kept(dir), &text, true)
}

/// The addresses under which the directory's node listened when it was started last.
pub(super) fn addresses(dir: &Path) -> Vec<String> {
    let text = std::fs::read(addresses_kept(dir)).unwrap_or_default();
    let mut addresses: Vec<String> = serde_json::from_slice(&text).unwrap_or_default();
    addresses.retain(|address| address.parse::<Multiaddr>().is_ok());
    addresses
}

/// Whether a network goes on from another.
fn follows(before: &Genesis, after: &Genesis) -> bool {
    let chain = before.chain_id();
    after.predecessor.as_ref().is_some_and(|predecessor| predecessor.chain == chain)
}

/// The state file beside the network file that a node is started with, if there is one.
pub(super) fn first_state(
    session: &Session,
    dir: &Path,
    genesis: Option<&Path>,
) -> Option<PathBuf> {
    let named = session.settings.network.value.as_deref();
    let kept = kept(dir);
    snapshot::first_beside(genesis.into_iter().chain(named).chain([kept.as_path()]))
}

/// The keys of a node.
pub(super) fn keys(dir: &Path) -> Result<NodeKeys, Failure> {
    Ok(NodeKeys::open(&NodePaths::below(dir).key)?)
}

/// The wallet that runs a node: named by flag, else the operator's beside the node's key, else
/// named by the environment.
pub(super) fn wallet(session: &Session, dir: &Path) -> Result<Option<KeyPair>, Failure> {
    let operator = NodePaths::below(dir).operator;
    Ok(match session.settings.wallet.origin {
        Origin::Flag => Some(session.wallet()?),
        _ if operator.exists() => Some(key_file::open_wallet(&operator)?),
        Origin::Environment => Some(session.wallet()?),
        Origin::File | Origin::Default => None,
    })
}

/// A wallet that is made beside the node's key.
pub(super) fn new_wallet(dir: &Path) -> Result<KeyPair, Failure> {
    let operator = NodePaths::below(dir).operator;
    wallet_at(&operator)?;
    Ok(key_file::open_wallet(&operator)?)
}

/// The account that the node's public entry names as its operator; none if there is no entry yet.
pub(super) fn operator(dir: &Path) -> Option<AccountId> {
    let text = std::fs::read(dir.join("member.json")).ok()?;
    let entry: GenesisMember = serde_json::from_slice(&text).ok()?;
    Some(entry.operator)
}

/// The account of a wallet.
pub(super) fn account(wallet: &KeyPair) -> AccountId {
    AccountId::new(wallet.public())
}
