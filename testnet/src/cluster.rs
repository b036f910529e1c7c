//! A swarm of storage nodes on this machine, and what can be done to it.
//!
//! [`Cluster::builder`] creates a swarm or starts an existing one from its directory. Each node
//! can be stopped in order, killed, and started again; the swarm tells how it is doing. `in_process`
//! and `process` run one node each way, both behind `running`, `slot` is the place of a node,
//! `volunteers` has nodes join and leave, `files` knows the directory, `status` sums up. With
//! [`link`] nodes are on hosts of their own, with slow or lossy ways to each other.
//!
//! Nodes are told one address to join through, that of node 0 (of another running one if it is
//! down), and find each other through Kademlia, as they would anywhere. Clients are given all
//! addresses. Nodes 0, 1 and so on are the members of the genesis, in the order of their ids; those
//! that join later are counted on (`volunteers`). Who is in the committee changes with the epochs.
//!
//! Invariants: a call that returns has taken effect; no node is ended that this cluster did not
//! start; dropping a cluster kills its nodes, [`Cluster::shutdown`] stops them in order.

mod builder;
mod connections;
mod files;
mod in_process;
pub mod link;
mod peer;
mod process;
mod running;
mod sink;
mod slot;
mod status;
mod volunteers;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use floe_node::{Client, NodeHandle, client::ClientConfig};
use floe_protocol::{
    committee::Committee,
    genesis::NetworkFile,
    keys::{KeyPair, NodeId},
};
use futures::future::{join_all, select_all};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::sleep;

pub use self::{
    builder::ClusterBuilder,
    files::extra_account_key,
    status::{NodeState, NodeSummary, SwarmStatus},
    volunteers::{reach_epoch, wait_for_epoch},
};
use self::{builder::Options, files::SwarmFiles, link::Host, running::Running, slot::Slot};
pub(crate) use self::{
    files::HOST_PORT,
    process::{ProcessArgs, run as run_node_process},
    sink::network_config,
};
use crate::lazy::Lazy;

const DAY_MS: u64 = 24 * 3_600_000;

/// A swarm of storage nodes on this machine.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    files: SwarmFiles,
    network: NetworkFile,
    genesis_committee: Committee,
    wallet: KeyPair,
    nodes: Vec<Slot>,
    // Last, so that they outlive the nodes.
    _lock: File,
    _temporary: Option<TempDir>,
}

impl Cluster {
    /// A new swarm: 7 nodes and 64 shards in this process and a temporary directory, unless told
    /// otherwise.
    #[must_use]
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::default()
    }

    /// What clients are given: genesis and the addresses of all nodes.
    #[must_use]
    pub const fn network(&self) -> &NetworkFile {
        &self.network
    }

    /// The committee of the genesis: that of the first epoch.
    #[must_use]
    pub const fn committee(&self) -> &Committee {
        &self.genesis_committee
    }

    /// The committee of the newest epoch that a running node knows of.
    #[must_use]
    pub fn running_committee(&self) -> Arc<Committee> {
        let running = self.nodes.iter().filter_map(|slot| slot.running.as_ref());
        let known = running.filter_map(Running::committee);
        let newest = known.max_by_key(|committee| committee.epoch());
        newest.unwrap_or_else(|| Arc::new(self.genesis_committee.clone()))
    }

    /// The key of the account that the genesis funds: it pays for what is stored, and is also every
    /// node's operator.
    #[must_use]
    pub const fn wallet(&self) -> &KeyPair {
        &self.wallet
    }

    /// The swarm's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.files.dir()
    }

    /// The directory of a node.
    #[must_use]
    pub fn node_dir(&self, node: usize) -> PathBuf {
        self.files.node(node)
    }

    /// Number of nodes, running or not.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The line that points `floe` in a shell at this swarm.
    #[must_use]
    pub fn env_line(&self) -> String {
        let network = shell_word(&self.files.network());
        let wallet = shell_word(&self.files.wallet());
        // With short epochs the genesis is soon older than clients trust by themselves.
        let rules = &self.network.genesis.ledger;
        let short = rules.epoch_ms.saturating_mul(rules.unbonding_epochs.into()) < DAY_MS;
        let trust = if short { " FLOE_TRUST_GENESIS=1" } else { "" };
        format!("export FLOE_NETWORK={network} FLOE_WALLET={wallet}{trust}")
    }

    /// A node that runs in this process.
    #[must_use]
    pub fn node(&self, node: usize) -> Option<&NodeHandle> {
        match self.nodes.get(node)?.running.as_ref()? {
            Running::InProcess(running) => running.handle(),
            Running::Process(_) => None,
        }
    }

    /// The id of a node, running or not.
    ///
    /// # Panics
    /// If there is no such node.
    #[must_use]
    pub fn node_id(&self, node: usize) -> NodeId {
        self.nodes[node].id
    }

    /// The weight of a node: its shards in the running committee, as far as running nodes know.
    ///
    /// # Panics
    /// If there is no such node.
    #[must_use]
    pub fn weight(&self, node: usize) -> u16 {
        let committee = self.running_committee();
        committee.member(&self.nodes[node].id).map_or(0, |member| member.weight())
    }

    /// The host of a node that has links of its own.
    ///
    /// # Panics
    /// If there is no such node.
    #[must_use]
    pub fn host(&self, node: usize) -> Option<&Host> {
        self.nodes[node].host.as_ref()
    }

    /// Whether a node runs.
    #[must_use]
    pub fn is_running(&self, node: usize) -> bool {
        self.nodes.get(node).is_some_and(|slot| slot.running.is_some())
    }

    /// The process of a node, where it has one.
    #[must_use]
    pub fn process_id(&self, node: usize) -> Option<u32> {
        match self.nodes.get(node)?.running.as_ref()? {
            Running::InProcess(_) => None,
            Running::Process(running) => running.process_id(),
        }
    }

    /// The metrics of a running node in the text format of Prometheus.
    ///
    /// # Errors
    /// If the node does not run, or its process does not answer.
    pub async fn metrics(&self, node: usize) -> anyhow::Result<String> {
        self.check_exists(node)?;
        let running = self.nodes[node].running.as_ref();
        running.ok_or_else(|| anyhow!("node {node} is not running"))?.metrics().await
    }

    /// A connected client with the usual limits.
    ///
    /// # Errors
    /// If no node answers.
    pub async fn client(&self) -> anyhow::Result<Client> {
        self.client_with(|_| {}).await
    }

    /// A connected client with limits of one's own.
    ///
    /// # Errors
    /// If no node answers.
    pub async fn client_with(
        &self,
        configure: impl FnOnce(&mut ClientConfig),
    ) -> anyhow::Result<Client> {
        let mut config = ClientConfig::new(self.network.clone());
        config.limits.loopback_exempt = true;
        // Its genesis was made here, and its epochs may be short.
        config.trust_genesis = true;
        configure(&mut config);
        Ok(Client::connect(config).await?)
    }

    /// Starts a node that does not run. Returns once it serves; see [`Self::wait_connected`].
    ///
    /// # Errors
    /// If there is no such node, it runs already, or it does not start.
    pub async fn start(&mut self, node: usize) -> anyhow::Result<()> {
        self.check_exists(node)?;
        if self.is_running(node) {
            bail!("node {node} is running already");
        }
        let running = self.launch(node, self.bootstrap()).await?;
        self.on_started(node, running)?;
        self.publish_network()
    }

    /// Puts a node's clock ahead of the machine's, from its next start on.
    pub(crate) fn set_clock(&mut self, node: usize, ahead_ms: i64) -> anyhow::Result<()> {
        self.check_exists(node)?;
        self.nodes[node].clock_ahead_ms = ahead_ms;
        Ok(())
    }

    /// Has the process of a node stand still for a while.
    pub(crate) async fn pause(&self, node: usize, time: Duration) -> anyhow::Result<()> {
        let pid = self.process_id(node).and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.with_context(|| format!("node {node} has no process"))?;
        kill_process(pid, Signal::STOP)?;
        sleep(time).await;
        Ok(kill_process(pid, Signal::CONT)?)
    }

    /// Has a node be lazy from its next start on, or no more.
    pub(crate) fn set_lazy(&mut self, node: usize, lazy: Option<Lazy>) -> anyhow::Result<()> {
        self.check_exists(node)?;
        self.nodes[node].lazy = lazy;
        Ok(())
    }

    /// The addresses that a node is told to join through.
    fn bootstrap(&self) -> Vec<String> {
        let first = self.nodes.iter().find(|slot| slot.running.is_some());
        first.map_or_else(Vec::new, |slot| slot.addresses.clone())
    }

    /// Stops a node in order: it answers what it was asked, flushes and closes its store.
    ///
    /// # Errors
    /// If there is no such node or it does not run.
    pub async fn stop(&mut self, node: usize) -> anyhow::Result<()> {
        let stopped = self.take(node, NodeState::Stopped)?.stop().await;
        stopped.with_context(|| format!("node {node} did not stop in order"))
    }

    /// Ends a node at once, in the middle of whatever it is doing: SIGKILL where it is a process;
    /// in this process all its tasks are dropped.
    ///
    /// # Errors
    /// If there is no such node or it does not run.
    pub async fn kill(&mut self, node: usize) -> anyhow::Result<()> {
        let killed = self.take(node, NodeState::Killed)?.kill().await;
        killed.with_context(|| format!("node {node} could not be killed"))
    }

    /// Waits until a running node ends by itself, and says which and why. It counts as failed then.
    pub async fn next_failure(&mut self) -> (usize, anyhow::Error) {
        let failures = self.nodes.iter_mut().enumerate().filter_map(|(node, slot)| {
            let running = slot.running.as_mut()?;
            Some(Box::pin(async move { (node, running.failed().await) }))
        });
        let failures: Vec<_> = failures.collect();
        if failures.is_empty() {
            return std::future::pending().await;
        }
        let ((node, error), ..) = select_all(failures).await;
        let slot = &mut self.nodes[node];
        slot.state = NodeState::Failed;
        slot.running = None;
        (node, error)
    }

    /// Stops all nodes in order and removes a temporary directory.
    ///
    /// # Errors
    /// If a node did not stop in order; all are down nevertheless.
    pub async fn shutdown(mut self) -> anyhow::Result<()> {
        let stops = self.nodes.iter_mut().map(|slot| {
            let running = slot.running.take();
            async move {
                match running {
                    Some(running) => running.stop().await,
                    None => Ok(()),
                }
            }
        });
        let stopped: Vec<_> = join_all(stops).await;
        for (node, stopped) in stopped.into_iter().enumerate() {
            stopped.with_context(|| format!("node {node} did not stop in order"))?;
        }
        Ok(())
    }

    /// Starts every node, the first one first, since the others join through it.
    async fn start_all(&mut self) -> anyhow::Result<()> {
        let first = self.launch(0, Vec::new()).await?;
        self.on_started(0, first)?;
        let bootstrap = self.nodes[0].addresses.clone();
        let launches = (1..self.nodes.len()).map(|node| self.launch(node, bootstrap.clone()));
        let launched = join_all(launches).await;
        for (node, running) in (1..).zip(launched) {
            self.on_started(node, running?)?;
        }
        self.publish_network()?;
        self.wait_connected().await
    }

    /// Gives clients the addresses of all nodes.
    fn publish_network(&mut self) -> anyhow::Result<()> {
        let addresses = self.nodes.iter().flat_map(|slot| slot.addresses.iter().cloned());
        self.network.bootstrap = addresses.collect();
        self.files.write_network(&self.network)
    }

    fn take(&mut self, node: usize, state: NodeState) -> anyhow::Result<Running> {
        self.check_exists(node)?;
        let slot = &mut self.nodes[node];
        let running = slot.running.take();
        let running =
            running.ok_or_else(|| anyhow!("node {node} is not running: {}", slot.state))?;
        slot.state = state;
        Ok(running)
    }

    fn check_exists(&self, node: usize) -> anyhow::Result<()> {
        if node < self.nodes.len() {
            return Ok(());
        }
        bail!("no node {node}: this swarm has nodes 0 to {}", self.nodes.len() - 1)
    }
}

/// A path as one word of a shell's command line.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_one_word_in_a_shell() {
        assert_eq!(shell_word(Path::new("/tmp/a-b.c")), "/tmp/a-b.c");
        assert_eq!(shell_word(Path::new("/tmp/a b")), "'/tmp/a b'");
        assert_eq!(shell_word(Path::new("/it's")), r"'/it'\''s'");
    }
}
