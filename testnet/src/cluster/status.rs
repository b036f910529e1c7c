//! How a swarm is doing, in numbers: what `floe-testnet status` shows and the control socket sends.
//!
//! Everything here is read off the cluster at one moment; nothing is asked of a node. What a read
//! or a store needs follows from the number of shards alone.

use std::path::PathBuf;

use floe_protocol::{bft, keys::NodeId};
use serde::{Deserialize, Serialize};

use super::{Cluster, Running, Slot};

/// What has become of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It serves.
    Running,
    /// It was stopped in order, or not yet started.
    Stopped,
    /// It was killed.
    Killed,
    /// It ended by itself.
    Failed,
}

impl std::fmt::Display for NodeState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Killed => "killed",
            Self::Failed => "failed",
        })
    }
}

/// How a swarm is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwarmStatus {
    /// Its directory.
    pub dir: PathBuf,
    /// Shards of the network.
    pub n_shards: u16,
    /// Shards of the nodes that run.
    pub running_shards: u16,
    /// Shards that a read needs.
    pub read_shards: u16,
    /// Shards that a store needs.
    pub store_shards: u16,
    /// The nodes.
    pub nodes: Vec<NodeSummary>,
}

/// How one node is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSummary {
    /// Its number.
    pub node: usize,
    /// Its id.
    pub id: NodeId,
    /// Its shards in the running committee.
    pub shards: u16,
    /// What has become of it.
    pub state: NodeState,
    /// Committee nodes that it is connected with.
    pub connected: usize,
    /// Its process, where it has one.
    pub pid: Option<u32>,
    /// Where it listens, or did last.
    pub addresses: Vec<String>,
}

impl Cluster {
    /// How the swarm is doing.
    #[must_use]
    pub fn status(&self) -> SwarmStatus {
        let n_shards = self.genesis_committee.n_shards();
        let committee = self.running_committee();
        let weight = |id: &NodeId| committee.member(id).map_or(0, |member| member.weight());
        let summary = |(node, slot): (usize, &Slot)| NodeSummary {
            node,
            id: slot.id,
            shards: weight(&slot.id),
            state: slot.state,
            connected: slot.running.as_ref().map_or(0, |running| self.connected(running)),
            pid: self.process_id(node),
            addresses: slot.addresses.clone(),
        };
        let nodes: Vec<_> = self.nodes.iter().enumerate().map(summary).collect();
        let running = nodes.iter().filter(|node| node.state == NodeState::Running);
        SwarmStatus {
            dir: self.dir().to_owned(),
            n_shards,
            running_shards: running.map(|node| node.shards).sum(),
            read_shards: n_shards - 2 * bft::max_faulty(n_shards),
            store_shards: bft::min_quorum(n_shards),
            nodes,
        }
    }

    fn connected(&self, running: &Running) -> usize {
        let connected = running.connected();
        self.nodes.iter().filter(|slot| connected.contains(&slot.id)).count()
    }
}
