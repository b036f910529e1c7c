//! Places for nodes: how the node of each is started, and what is remembered of it.

use anyhow::Context;
use floe_protocol::{genesis::NetworkFile, keys::NodeId};

use super::{
    Cluster, NodeState, files,
    in_process::InProcessNode,
    link::{Host, LinkError, Links},
    peer::Kind,
    process::{ProcessArgs, ProcessNode},
    running::Running,
};
use crate::lazy::Lazy;

/// A place for a node, running or not.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: NodeId,
    pub(super) state: NodeState,
    pub(super) running: Option<Running>,
    /// Where it listens, or did last.
    pub(super) addresses: Vec<String>,
    /// Whether its disk was emptied, so that it must be told to start all the same.
    pub(super) emptied: bool,
    /// Bytes of disk that its store may use; none: as many as nodes have by default.
    pub(super) quota_bytes: Option<u64>,
    /// How far its clock is ahead of the machine's.
    pub(super) clock_ahead_ms: i64,
    /// How it is lazy, if it is.
    pub(super) lazy: Option<Lazy>,
    /// Where it runs, if it has links of its own.
    pub(super) host: Option<Host>,
}

impl Slot {
    /// A place for a node that does not run yet.
    const fn new(id: NodeId, host: Option<Host>) -> Self {
        Self {
            id,
            state: NodeState::Stopped,
            running: None,
            addresses: Vec::new(),
            emptied: false,
            quota_bytes: None,
            clock_ahead_ms: 0,
            lazy: None,
            host,
        }
    }
}

impl Cluster {
    /// Makes a place for one more node.
    pub(super) fn add_slot(&mut self, id: NodeId) -> Result<(), LinkError> {
        let host = self.options.links.as_ref().map(Links::host).transpose()?;
        self.nodes.push(Slot::new(id, host));
        Ok(())
    }

    pub(super) async fn launch(
        &self,
        node: usize,
        bootstrap: Vec<String>,
    ) -> anyhow::Result<Running> {
        let network = NetworkFile { genesis: self.network.genesis.clone(), bootstrap };
        let slot = &self.nodes[node];
        let listen = match &slot.host {
            Some(host) => files::listen_at(host.address(), self.options.quic),
            None => self.files.listen(node, self.options.quic),
        };
        let launched = if self.options.processes {
            let network = self.files.write_node_network(node, &network)?;
            let dir = self.files.node(node);
            let mut arguments = ProcessArgs::new(&self.options, dir, network, listen);
            arguments.repair = slot.emptied;
            arguments.quota_bytes = slot.quota_bytes;
            arguments.clock_ahead_ms = slot.clock_ahead_ms;
            arguments.lazy = slot.lazy;
            let host = slot.host.as_ref();
            ProcessNode::start(&self.options, &arguments, host).await.map(Running::Process)
        } else {
            let dir = self.files.node(node);
            let mut config = self.options.node_config(node, &dir, network, &listen)?;
            config.accept_empty |= slot.emptied;
            config.quota_bytes = slot.quota_bytes.unwrap_or(config.quota_bytes);
            let kind = Kind::new(slot.lazy, self.options.sinks);
            InProcessNode::start(node, config, kind).await.map(Running::InProcess)
        };
        launched.with_context(|| format!("node {node} did not start"))
    }

    pub(super) fn on_started(&mut self, node: usize, running: Running) -> anyhow::Result<()> {
        let addresses = running.addresses();
        self.files.remember_ports(node, &addresses)?;
        let slot = &mut self.nodes[node];
        (slot.state, slot.emptied) = (NodeState::Running, false);
        (slot.running, slot.addresses) = (Some(running), addresses);
        Ok(())
    }
}
