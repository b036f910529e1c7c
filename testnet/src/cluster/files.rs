//! The files of a swarm: one directory, from which it can be started again.
//!
//! ```text
//! DIR/network.json          genesis and the addresses of all nodes: what clients are given
//! DIR/wallet.key            the account that the genesis funds: it pays for what is stored
//! DIR/lock                  held while the swarm runs
//! DIR/control.sock          where `floe-testnet up` takes commands
//! DIR/node-0/node.key ...   each node's files, as `NodePaths::below` names them
//! DIR/node-0/ports.json     the ports that it had, to be taken again
//! DIR/node-0/log            what it wrote to stderr, where nodes are processes
//! ```
//!
//! Invariant: `network.json` is written last when a swarm is created and replaced by renaming, so
//! a directory that has it has everything, and a reader never sees half of it.

use std::{
    fs::{self, File, TryLockError},
    io,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use floe_node::{
    config::NodePaths,
    key_file::{self, NodeKeys},
};
use floe_protocol::{
    encoding::EncodingConfig,
    genesis::{Faucet, Genesis, GenesisAccount, GenesisMember, NetworkFile},
    hash::Hash,
    keys::{KeyPair, NodeId},
    ledger::{AccountId, Amount, LedgerParameters},
};
use serde::{Deserialize, Serialize};

/// Every node of a local swarm has the same stake, so shards are spread evenly.
const STAKE_WAL: u64 = 1_000;
/// What the wallet of a local swarm starts with.
const WALLET_BALANCE: Amount = Amount::from_wal(1_000_000);
/// What its faucet starts with.
const FAUCET_BALANCE: Amount = Amount::from_wal(1_000_000);

/// The port of a node that has all ports of its host to choose from.
pub(crate) const HOST_PORT: u16 = 4_950;

/// What each extra account of a local swarm starts with.
const EXTRA_BALANCE: Amount = Amount::from_wal(1_000);

/// What a new swarm's genesis says beyond its nodes and shards.
#[derive(Clone, Debug, Default)]
pub(super) struct GenesisOptions {
    /// The rules of the ledger.
    pub(super) ledger: LedgerParameters,
    /// Funded accounts beside wallet and faucet, with the keys of [`extra_account_key`].
    pub(super) extra_accounts: u32,
}

/// The key of an extra account of the genesis, always the same: for load, never for anything of
/// worth.
#[must_use]
pub fn extra_account_key(index: u32) -> KeyPair {
    let mut seed = *b"floe-testnet extra account key..";
    seed[28..].copy_from_slice(&index.to_le_bytes());
    KeyPair::from_seed(seed)
}

/// The directory of a swarm.
#[derive(Clone, Debug)]
pub(crate) struct SwarmFiles {
    dir: PathBuf,
}

/// The ports that a node listens on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ports {
    tcp: u16,
    udp: u16,
}

impl SwarmFiles {
    /// The swarm in `dir`, which is created if absent.
    pub(crate) fn new(dir: &Path) -> anyhow::Result<Self> {
        let io = || format!("cannot use directory {}", dir.display());
        fs::create_dir_all(dir).with_context(io)?;
        Ok(Self { dir: dir.canonicalize().with_context(io)? })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn network(&self) -> PathBuf {
        self.dir.join("network.json")
    }

    pub(crate) fn wallet(&self) -> PathBuf {
        self.dir.join("wallet.key")
    }

    pub(crate) fn node(&self, node: usize) -> PathBuf {
        self.dir.join(format!("node-{node}"))
    }

    /// Whether a swarm was created here.
    pub(crate) fn is_swarm(&self) -> bool {
        self.network().exists()
    }

    /// Keeps others from starting the same swarm for as long as the file lives.
    pub(crate) fn lock(&self) -> anyhow::Result<File> {
        let path = self.dir.join("lock");
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                bail!("a swarm is running in {} already", self.dir.display())
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// Draws keys for nodes, wallet and faucet and makes the genesis.
    pub(super) fn create(
        &self,
        nodes: usize,
        n_shards: u16,
        options: &GenesisOptions,
    ) -> anyhow::Result<()> {
        self.check_empty()?;
        let config = EncodingConfig::new(n_shards)?;
        let mut keys = (0..nodes).map(|_| NodeKeys::generate()).collect::<Result<Vec<_>, _>>()?;
        // Committees are sorted by node id: so node 3 is also member 3 of the first one.
        keys.sort_by_key(|keys| keys.node.public());
        let (wallet, source) = (key_file::generate_key_pair()?, key_file::generate_key_pair()?);
        let faucet = Faucet { seed: Hash::new(*source.seed()), amount: Amount::from_wal(100) };
        let funded = |key: &KeyPair, balance| GenesisAccount {
            account: AccountId::new(key.public()),
            balance,
        };
        let mut accounts = vec![funded(&wallet, WALLET_BALANCE), funded(&source, FAUCET_BALANCE)];
        let extra = (0..options.extra_accounts).map(extra_account_key);
        accounts.extend(extra.map(|key| funded(&key, EXTRA_BALANCE)));
        accounts.sort_by_key(|account| account.account);
        let member = |keys: &NodeKeys| {
            // One operator for all: the swarm is one person's.
            GenesisMember::new(&keys.node, &keys.bls, AccountId::new(wallet.public()), STAKE_WAL)
        };
        let genesis = Genesis {
            name: "local".into(),
            n_shards,
            max_blob_bytes: config.default_max_blob_bytes(),
            members: keys.iter().map(member).collect(),
            accounts,
            faucet: Some(faucet),
            ledger: options.ledger,
            predecessor: None,
        };
        genesis.committee()?;
        for (node, keys) in keys.iter().enumerate() {
            let dir = self.node(node);
            fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
            keys.create(&dir.join("node.key"))?;
        }
        key_file::create_wallet(&self.wallet(), &wallet)?;
        self.write_network(&NetworkFile { genesis, bootstrap: Vec::new() })
    }

    /// Draws the keys of a node that joins later.
    pub(super) fn create_node(&self, node: usize) -> anyhow::Result<NodeKeys> {
        let dir = self.node(node);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let keys = NodeKeys::generate()?;
        keys.create(&dir.join("node.key"))?;
        Ok(keys)
    }

    /// The ids of the nodes that have joined later, in the order of their numbers.
    pub(super) fn joined(&self, members: usize) -> anyhow::Result<Vec<NodeId>> {
        let keys = (members..).map(|node| self.node(node).join("node.key"));
        let there = keys.take_while(|key| key.exists());
        there.map(|key| Ok(NodeKeys::open(&key)?.node.public())).collect()
    }

    /// Removes what a node has stored, slivers and ledger: not its keys, nor what it has voted.
    pub(super) fn empty(&self, node: usize) -> anyhow::Result<()> {
        let paths = NodePaths::below(&self.node(node));
        for dir in [paths.store, paths.ledger] {
            match fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", dir.display()));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// A new swarm never mixes with files that are not its own.
    fn check_empty(&self) -> anyhow::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            if entry?.file_name() != "lock" {
                bail!(
                    "{} holds files but no swarm: name another directory, or an empty one",
                    self.dir.display()
                );
            }
        }
        Ok(())
    }

    pub(crate) fn read_network(&self) -> anyhow::Result<NetworkFile> {
        let path = self.network();
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is no network file", path.display()))
    }

    pub(crate) fn write_network(&self, network: &NetworkFile) -> anyhow::Result<()> {
        replace(&self.network(), network)
    }

    /// Writes what one node is given to join the network by.
    pub(crate) fn write_node_network(
        &self,
        node: usize,
        network: &NetworkFile,
    ) -> anyhow::Result<PathBuf> {
        let path = self.node(node).join("network.json");
        replace(&path, network)?;
        Ok(path)
    }

    pub(crate) fn read_wallet(&self) -> anyhow::Result<KeyPair> {
        Ok(key_file::open_wallet(&self.wallet())?)
    }

    /// Where a node listens: on the ports that it had before, where these are free.
    pub(crate) fn listen(&self, node: usize, quic: bool) -> Vec<String> {
        let remembered = fs::read(self.node(node).join("ports.json"));
        let ports: Ports =
            remembered.ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let tcp = if tcp_is_free(ports.tcp) { ports.tcp } else { 0 };
        let udp = if udp_is_free(ports.udp) { ports.udp } else { 0 };
        let mut listen = vec![format!("/ip4/127.0.0.1/tcp/{tcp}")];
        if quic {
            listen.push(format!("/ip4/127.0.0.1/udp/{udp}/quic-v1"));
        }
        listen
    }

    /// Remembers the ports in the addresses that a node listens on.
    pub(crate) fn remember_ports(&self, node: usize, addresses: &[String]) -> anyhow::Result<()> {
        let port = |kind| addresses.iter().find_map(|address| port(address, kind)).unwrap_or(0);
        let ports = Ports { tcp: port("tcp"), udp: port("udp") };
        replace(&self.node(node).join("ports.json"), &ports)
    }
}

/// Where a node listens that has a host of its own.
pub(super) fn listen_at(host: Ipv4Addr, quic: bool) -> Vec<String> {
    let quic = quic.then(|| format!("/ip4/{host}/udp/{HOST_PORT}/quic-v1"));
    [format!("/ip4/{host}/tcp/{HOST_PORT}")].into_iter().chain(quic).collect()
}

/// The port of a multiaddress of this kind.
fn port(address: &str, kind: &str) -> Option<u16> {
    let mut parts = address.split('/').skip_while(|part| *part != kind);
    parts.nth(1)?.parse().ok()
}

fn tcp_is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn udp_is_free(port: u16) -> bool {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Writes JSON beside the file, then renames it over the old one.
fn replace(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let write = || -> io::Result<()> {
        let fresh = path.with_extension("new");
        let mut text = serde_json::to_vec_pretty(value)?;
        text.push(b'\n');
        fs::write(&fresh, text)?;
        fs::rename(&fresh, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_created_swarm_is_found_again_and_never_made_twice() {
        let dir = tempfile::tempdir().unwrap();
        let files = SwarmFiles::new(&dir.path().join("swarm")).unwrap();
        assert!(!files.is_swarm());
        files.create(4, 7, &GenesisOptions::default()).unwrap();
        assert!(files.is_swarm());
        let network = files.read_network().unwrap();
        let wallet = AccountId::new(files.read_wallet().unwrap().public());
        assert!(network.genesis.accounts.iter().any(|funded| funded.account == wallet));
        let ids: Vec<_> = network.genesis.members.iter().map(|member| member.node).collect();
        assert!(ids.is_sorted());
        for (node, id) in ids.iter().enumerate() {
            let keys = NodeKeys::open(&files.node(node).join("node.key")).unwrap();
            assert_eq!(keys.node.public(), *id);
        }
        let error = files.create(4, 7, &GenesisOptions::default()).unwrap_err();
        assert!(error.to_string().contains("holds files but no swarm"), "{error}");
    }

    #[test]
    fn impossible_swarms_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let files = SwarmFiles::new(dir.path()).unwrap();
        assert!(files.create(3, 7, &GenesisOptions::default()).is_err());
        assert!(files.create(4, 3, &GenesisOptions::default()).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn ports_are_taken_again_unless_somebody_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let files = SwarmFiles::new(dir.path()).unwrap();
        files.create(4, 7, &GenesisOptions::default()).unwrap();
        assert_eq!(files.listen(0, false), ["/ip4/127.0.0.1/tcp/0"]);
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let addresses = [format!("/ip4/127.0.0.1/tcp/{port}/p2p/x")];
        files.remember_ports(0, &addresses).unwrap();
        assert_eq!(files.listen(0, false), ["/ip4/127.0.0.1/tcp/0"]);
        drop(taken);
        assert_eq!(
            files.listen(0, true),
            [format!("/ip4/127.0.0.1/tcp/{port}"), "/ip4/127.0.0.1/udp/0/quic-v1".to_owned()]
        );
    }

    #[test]
    fn one_directory_runs_one_swarm() {
        let dir = tempfile::tempdir().unwrap();
        let files = SwarmFiles::new(dir.path()).unwrap();
        let lock = files.lock().unwrap();
        assert!(files.lock().unwrap_err().to_string().contains("running"));
        drop(lock);
        assert!(files.lock().is_ok());
    }
}
