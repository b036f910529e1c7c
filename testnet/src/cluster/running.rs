//! A running node, in this process or in one of its own: what can be done with either.

use std::sync::Arc;

use floe_node::NodeHandle;
use floe_protocol::{committee::Committee, keys::NodeId};

use super::{in_process::InProcessNode, process::ProcessNode};

/// A running node. Dropping it kills it.
#[derive(Debug)]
pub(super) enum Running {
    InProcess(InProcessNode),
    Process(ProcessNode),
}

impl Running {
    pub(super) fn connected(&self) -> Vec<NodeId> {
        match self {
            Self::InProcess(running) => running.connected(),
            Self::Process(running) => running.connected(),
        }
    }

    pub(super) async fn wait_connected(&self, others: Vec<NodeId>) {
        match self {
            Self::InProcess(running) => running.wait_connected(&others).await,
            Self::Process(running) => running.wait_connected(&others).await,
        }
    }

    /// The committee of the epoch that the node is in.
    pub(super) fn committee(&self) -> Option<Arc<Committee>> {
        match self {
            Self::InProcess(running) => {
                Some(Arc::clone(running.handle()?.ledger().state().borrow().committee()))
            }
            Self::Process(running) => running.committee(),
        }
    }

    pub(super) async fn failed(&mut self) -> anyhow::Error {
        match self {
            Self::InProcess(running) => running.failed().await,
            Self::Process(running) => running.failed().await,
        }
    }

    pub(super) fn addresses(&self) -> Vec<String> {
        match self {
            Self::InProcess(running) => running.addresses(),
            Self::Process(running) => running.addresses().to_vec(),
        }
    }

    pub(super) async fn metrics(&self) -> anyhow::Result<String> {
        match self {
            Self::InProcess(running) => {
                Ok(running.handle().map(NodeHandle::metrics).unwrap_or_default())
            }
            Self::Process(running) => running.metrics().await,
        }
    }

    /// Stops it in order.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        match self {
            Self::InProcess(running) => running.stop().await,
            Self::Process(running) => running.stop().await,
        }
    }

    /// Ends it at once.
    pub(super) async fn kill(self) -> anyhow::Result<()> {
        match self {
            Self::InProcess(running) => running.kill().await,
            Self::Process(running) => running.kill().await,
        }
    }
}
