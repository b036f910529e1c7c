//! A node inside this process, on a runtime of its own.
//!
//! Its own runtime is what makes it mortal: shutting the runtime down drops every task of the node
//! in the middle of what it does, whatever the node thinks of it. That is as near to a crash as
//! threads come; what a power cut or SIGKILL would leave on disk, only nodes of their own process
//! show, since here the database still closes its files when it is dropped.

use std::time::Duration;

use anyhow::Context;
use floe_node::{NodeConfig, NodeHandle, network::PeersView};
use floe_protocol::keys::NodeId;
use tokio::{
    runtime::{Builder, Runtime},
    task::spawn_blocking,
};

use super::peer::{Kind, Peer};

/// Time for blocking work that is under way, such as a flush, when the runtime is shut down.
const END_DEADLINE: Duration = Duration::from_secs(20);
/// As many as a node of its own process has on a small machine.
const WORKER_THREADS: usize = 2;

/// A running node. Dropping it kills it.
#[derive(Debug)]
pub(super) struct InProcessNode {
    /// None only while it is being ended.
    peer: Option<Peer>,
    runtime: Option<Runtime>,
}

impl InProcessNode {
    pub(super) async fn start(node: usize, config: NodeConfig, kind: Kind) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKER_THREADS)
            .thread_name(format!("node-{node}"))
            .enable_all()
            .build()
            .context("no runtime for the node")?;
        let mut started = Self { peer: None, runtime: Some(runtime) };
        let starting = started.spawn(Peer::start(config, kind));
        started.peer = Some(starting.await??);
        Ok(started)
    }

    fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.as_ref().expect("there until the node ends").spawn(work)
    }

    fn peer(&self) -> &Peer {
        self.peer.as_ref().expect("there until the node ends")
    }

    pub(super) fn handle(&self) -> Option<&NodeHandle> {
        match self.peer() {
            Peer::Storage(handle) | Peer::Lazy(handle, _) => Some(handle),
            Peer::Liar(_) | Peer::Sink(_) => None,
        }
    }

    pub(super) fn addresses(&self) -> Vec<String> {
        self.peer().addresses()
    }

    pub(super) fn connected(&self) -> Vec<NodeId> {
        self.peer().peers().borrow().connected.keys().copied().collect()
    }

    pub(super) async fn wait_connected(&self, others: &[NodeId]) {
        let mut peers = self.peer().peers();
        let all = |view: &PeersView| others.iter().all(|node| view.connected.contains_key(node));
        if peers.wait_for(all).await.is_err() {
            // The node has ended: nobody will ever be connected.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the node ends by itself.
    pub(super) async fn failed(&mut self) -> anyhow::Error {
        match &mut self.peer {
            Some(peer) => peer.failed().await,
            None => std::future::pending().await,
        }
    }

    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        let stopped = match self.peer.take() {
            Some(peer) => self.spawn(peer.shutdown()).await,
            None => Ok(()),
        };
        self.kill().await?;
        Ok(stopped?)
    }

    pub(super) async fn kill(self) -> anyhow::Result<()> {
        Ok(spawn_blocking(move || drop(self)).await?)
    }

    /// Returns when nothing of the node runs any more, so that its store can be opened again.
    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(END_DEADLINE);
        }
        self.peer = None;
    }
}

impl Drop for InProcessNode {
    fn drop(&mut self) {
        // A runtime must not be ended on a thread of another one, and a drop may happen there.
        std::thread::scope(|scope| {
            scope.spawn(|| self.end());
        });
    }
}
