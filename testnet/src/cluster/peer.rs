//! What runs in the process of a node: a storage node, or a sink in its place.

use std::sync::Arc;

use anyhow::anyhow;
use floe_node::{Node, NodeConfig, NodeHandle, network::PeersView};
use floe_protocol::ledger::State;
use tokio::sync::watch;

use super::sink::Sink;

/// It.
#[derive(Debug)]
pub(super) enum Peer {
    Storage(Box<NodeHandle>),
    Sink(Sink),
}

impl Peer {
    pub(super) async fn start(config: NodeConfig, sink: bool) -> anyhow::Result<Self> {
        if sink {
            return Sink::start(config).await.map(Self::Sink);
        }
        Ok(Self::Storage(Box::new(Node::start(config).await?)))
    }

    pub(super) fn addresses(&self) -> Vec<String> {
        let addresses = match self {
            Self::Storage(handle) => handle.addresses(),
            Self::Sink(sink) => sink.addresses(),
        };
        addresses.iter().map(ToString::to_string).collect()
    }

    pub(super) fn peers(&self) -> watch::Receiver<PeersView> {
        match self {
            Self::Storage(handle) => handle.peers(),
            Self::Sink(sink) => sink.peers(),
        }
    }

    /// Where its ledger stands; a sink has none.
    pub(super) fn state(&self) -> Option<watch::Receiver<Arc<State>>> {
        match self {
            Self::Storage(handle) => Some(handle.ledger().state()),
            Self::Sink(_) => None,
        }
    }

    pub(super) fn metrics(&self) -> String {
        match self {
            Self::Storage(handle) => handle.metrics(),
            Self::Sink(_) => String::new(),
        }
    }

    pub(super) async fn failed(&mut self) -> anyhow::Error {
        match self {
            Self::Storage(handle) => match handle.failed().await {
                Err(error) => anyhow!(error),
                Ok(()) => anyhow!("the node has ended"),
            },
            Self::Sink(_) => std::future::pending().await,
        }
    }

    pub(super) async fn shutdown(self) {
        match self {
            Self::Storage(handle) => handle.shutdown().await,
            Self::Sink(sink) => sink.shutdown().await,
        }
    }
}
