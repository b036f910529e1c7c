//! What runs in the process of a node: a storage node, honest or lazy, or something in its place.

use std::sync::Arc;

use anyhow::anyhow;
use floe_node::{Node, NodeConfig, NodeHandle, network::PeersView};
use floe_protocol::ledger::State;
use tokio::{sync::watch, task::JoinHandle};

use super::sink::Sink;
use crate::lazy::{Fetcher, Lazy, Liar, drop_slivers};

/// What is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Honest,
    Lazy(Lazy),
    Sink,
}

impl Kind {
    pub(super) const fn new(lazy: Option<Lazy>, sink: bool) -> Self {
        match lazy {
            Some(lazy) => Self::Lazy(lazy),
            None if sink => Self::Sink,
            None => Self::Honest,
        }
    }
}

/// It.
#[derive(Debug)]
pub(super) enum Peer {
    Storage(Box<NodeHandle>),
    /// Its slivers go as they come.
    Lazy(Box<NodeHandle>, JoinHandle<anyhow::Error>),
    Liar(Liar),
    Sink(Sink),
}

impl Peer {
    pub(super) async fn start(mut config: NodeConfig, kind: Kind) -> anyhow::Result<Self> {
        match kind {
            Kind::Sink => Sink::start(config).await.map(Self::Sink),
            Kind::Honest => Ok(Self::Storage(Box::new(Node::start(config).await?))),
            Kind::Lazy(Lazy::Lies) => Liar::start(config).await.map(Self::Liar),
            Kind::Lazy(lazy) => {
                if let Lazy::Fetches(way) = lazy {
                    config.elsewhere = Some(Arc::new(Fetcher::new(&config.network, way).await?));
                }
                let handle = Node::start(config).await?;
                let dropper = tokio::spawn(drop_slivers(handle.store().clone(), lazy.drops()));
                Ok(Self::Lazy(Box::new(handle), dropper))
            }
        }
    }

    pub(super) fn addresses(&self) -> Vec<String> {
        let addresses = match self {
            Self::Storage(handle) | Self::Lazy(handle, _) => handle.addresses(),
            Self::Liar(liar) => liar.addresses(),
            Self::Sink(sink) => sink.addresses(),
        };
        addresses.iter().map(ToString::to_string).collect()
    }

    pub(super) fn peers(&self) -> watch::Receiver<PeersView> {
        match self {
            Self::Storage(handle) | Self::Lazy(handle, _) => handle.peers(),
            Self::Liar(liar) => liar.peers(),
            Self::Sink(sink) => sink.peers(),
        }
    }

    /// Where its ledger stands; only storage nodes have one.
    pub(super) fn state(&self) -> Option<watch::Receiver<Arc<State>>> {
        match self {
            Self::Storage(handle) | Self::Lazy(handle, _) => Some(handle.ledger().state()),
            Self::Liar(_) | Self::Sink(_) => None,
        }
    }

    pub(super) fn metrics(&self) -> String {
        match self {
            Self::Storage(handle) | Self::Lazy(handle, _) => handle.metrics(),
            Self::Liar(_) | Self::Sink(_) => String::new(),
        }
    }

    pub(super) async fn failed(&mut self) -> anyhow::Error {
        match self {
            Self::Storage(handle) => node_failed(handle).await,
            Self::Lazy(handle, dropper) => tokio::select! {
                error = node_failed(handle) => error,
                ended = dropper => ended.unwrap_or_else(|error| anyhow!(error)),
            },
            Self::Liar(liar) => liar.failed().await,
            Self::Sink(_) => std::future::pending().await,
        }
    }

    pub(super) async fn shutdown(self) {
        match self {
            Self::Storage(handle) => handle.shutdown().await,
            Self::Lazy(handle, dropper) => {
                dropper.abort();
                // It may be in the middle of something, with the store.
                drop(dropper.await);
                handle.shutdown().await;
            }
            Self::Liar(liar) => liar.shutdown().await,
            Self::Sink(sink) => sink.shutdown().await,
        }
    }
}

async fn node_failed(handle: &mut NodeHandle) -> anyhow::Error {
    match handle.failed().await {
        Err(error) => anyhow!(error),
        Ok(()) => anyhow!("the node has ended"),
    }
}
