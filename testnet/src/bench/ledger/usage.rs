//! What the processes of nodes use: processor, memory, disk, and what they gossip.
//!
//! All of it is read from outside, from `/proc`, the directories and the metrics, so that measuring
//! costs the nodes nothing while they run.

use std::{fs, io, path::Path, time::Duration};

use anyhow::Context;

use crate::{
    bench::process::{cpu, rss_bytes},
    cluster::Cluster,
};

/// The ledger's part of a node's directory.
const LEDGER_DIR: &str = "ledger";

/// What all nodes have used until now, each in its place.
#[derive(Clone, Debug)]
pub(in crate::bench) struct Usage {
    cpu: Vec<Duration>,
    rss_bytes: Vec<u64>,
    disk_bytes: Vec<u64>,
    gossip: Gossip,
}

/// Messages and bytes that all nodes together have published or heard for the first time.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::bench) struct Gossip {
    pub(in crate::bench) published: u64,
    pub(in crate::bench) published_bytes: u64,
    pub(in crate::bench) heard: u64,
    pub(in crate::bench) heard_bytes: u64,
    /// Messages that a slow peer or a full channel lost.
    pub(in crate::bench) lost: u64,
}

impl Usage {
    /// Asks the running nodes of a cluster of processes.
    pub(in crate::bench) async fn read(cluster: &Cluster) -> anyhow::Result<Self> {
        let mut usage = Self {
            cpu: Vec::new(),
            rss_bytes: Vec::new(),
            disk_bytes: Vec::new(),
            gossip: Gossip::default(),
        };
        for node in 0..cluster.nodes() {
            let pid = cluster.process_id(node).context("a node does not run")?;
            usage.cpu.push(cpu(pid)?);
            usage.rss_bytes.push(rss_bytes(pid)?);
            let dir = cluster.dir().join(format!("node-{node}")).join(LEDGER_DIR);
            let disk = directory_bytes(&dir);
            usage.disk_bytes.push(disk.with_context(|| format!("cannot read {}", dir.display()))?);
            usage.gossip.add(&cluster.metrics(node).await?);
        }
        Ok(usage)
    }

    /// Processor time of an average node since `before`.
    pub(in crate::bench) fn cpu_since(&self, before: &Self) -> Duration {
        let spent = |(now, before): (&Duration, &Duration)| now.saturating_sub(*before);
        let all: Duration = self.cpu.iter().zip(&before.cpu).map(spent).sum();
        all / u32::try_from(self.cpu.len().max(1)).unwrap_or(u32::MAX)
    }

    /// Resident memory of the largest node.
    pub(super) fn rss_bytes_max(&self) -> u64 {
        self.rss_bytes.iter().copied().max().unwrap_or(0)
    }

    /// Resident memory that the node that grew most has gained since `before`.
    pub(super) fn rss_growth_bytes(&self, before: &Self) -> u64 {
        growth(&self.rss_bytes, &before.rss_bytes)
    }

    /// Disk that the ledger of the node that grew most has gained since `before`.
    pub(super) fn disk_growth_bytes(&self, before: &Self) -> u64 {
        growth(&self.disk_bytes, &before.disk_bytes)
    }

    /// What was gossiped since `before`.
    pub(in crate::bench) fn gossip_since(&self, before: &Self) -> Gossip {
        let (now, before) = (self.gossip, before.gossip);
        Gossip {
            published: now.published.saturating_sub(before.published),
            published_bytes: now.published_bytes.saturating_sub(before.published_bytes),
            heard: now.heard.saturating_sub(before.heard),
            heard_bytes: now.heard_bytes.saturating_sub(before.heard_bytes),
            lost: now.lost.saturating_sub(before.lost),
        }
    }
}

impl Gossip {
    /// Adds what a node's metrics say.
    fn add(&mut self, metrics: &str) {
        for line in metrics.lines().filter(|line| line.starts_with("network_gossip_")) {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<u64>() else { continue };
            let out = name.contains("direction=\"out\"");
            if name.starts_with("network_gossip_messages_total") {
                *(if out { &mut self.published } else { &mut self.heard }) += value;
            } else if name.starts_with("network_gossip_bytes_total") {
                *(if out { &mut self.published_bytes } else { &mut self.heard_bytes }) += value;
            } else if name.starts_with("network_gossip_lost_total")
                || name.starts_with("network_gossip_dropped_total")
            {
                self.lost += value;
            }
        }
    }
}

fn growth(now: &[u64], before: &[u64]) -> u64 {
    let grown = now.iter().zip(before).map(|(now, before)| now.saturating_sub(*before));
    grown.max().unwrap_or(0)
}

/// Bytes of all files below a directory. Files that vanish meanwhile count nothing.
pub(super) fn directory_bytes(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() {
            directory_bytes(&entry.path()).unwrap_or(0)
        } else {
            metadata.len()
        };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_topics() {
        let mut gossip = Gossip::default();
        gossip.add(
            "# HELP network_gossip_bytes Their bytes.\n\
             network_gossip_bytes_total{topic=\"headers\",direction=\"in\"} 5\n\
             network_gossip_bytes_total{topic=\"consensus\",direction=\"in\"} 6\n\
             network_gossip_messages_total{topic=\"consensus\",direction=\"out\"} 2\n\
             network_gossip_dropped_total 3\n\
             network_payload_bytes_total{direction=\"in\"} 100\n",
        );
        assert_eq!((gossip.heard_bytes, gossip.published, gossip.lost), (11, 2, 3));
        assert_eq!((gossip.heard, gossip.published_bytes), (0, 0));
    }
}
