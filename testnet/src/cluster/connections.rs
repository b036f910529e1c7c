//! Waiting for nodes to find each other.

use std::time::Duration;

use anyhow::bail;
use futures::future::join_all;
use tokio::time::timeout;

use super::Cluster;

/// Time for all nodes to find each other.
const CONNECT_DEADLINE: Duration = Duration::from_secs(60);

impl Cluster {
    /// Waits until every running node is connected with every other one. Of two that have both
    /// joined later, neither need know the other.
    ///
    /// # Errors
    /// If that takes longer than a minute: who lacks whom.
    pub async fn wait_connected(&self) -> anyhow::Result<()> {
        let running = || {
            let nodes = self.nodes.iter().enumerate();
            nodes.filter_map(|(node, slot)| Some((node, slot, slot.running.as_ref()?)))
        };
        let others = |node| {
            let others = running().filter(move |(other, ..)| self.meet(node, *other));
            others.map(|(_, slot, _)| slot.id).collect::<Vec<_>>()
        };
        let waits = running().map(|(node, _, running)| running.wait_connected(others(node)));
        if timeout(CONNECT_DEADLINE, join_all(waits)).await.is_ok() {
            return Ok(());
        }
        let lacks = running().find_map(|(node, _, this)| {
            let connected = this.connected();
            let lacks = |other: &usize| {
                self.meet(node, *other) && !connected.contains(&self.nodes[*other].id)
            };
            let others: Vec<_> = running().map(|(other, ..)| other).filter(lacks).collect();
            (!others.is_empty()).then_some((node, others))
        });
        match lacks {
            Some((node, others)) => bail!(
                "after {} s node {node} is not connected with {others:?}",
                CONNECT_DEADLINE.as_secs()
            ),
            None => Ok(()),
        }
    }

    /// Whether two nodes are to be connected with each other.
    fn meet(&self, node: usize, other: usize) -> bool {
        let founders = self.network.genesis.members.len();
        node != other && (node < founders || other < founders)
    }
}
