//! The network layer alone: the requests of a store or a read, sent to peers that answer at once.
//!
//! Peers, connections, messages and the number of requests under way are those of a real store
//! or read; nothing is verified, stored or flushed at the other end.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{anyhow, bail};
use floe_node::{
    client::ClientConfig,
    key_file::generate_key_pair,
    network::{self, Network, Role},
};
use floe_protocol::{
    encoding::{Axis, EncodedBlob},
    index::SliverPairIndex,
    keys::NodeId,
    message::{Request, Response},
    registration::RegistrationId,
};
use prometheus_client::registry::Registry;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::cluster::{Cluster, network_config};

/// A light peer among sinks.
#[derive(Debug)]
pub(crate) struct Loopback {
    network: Network,
    config: ClientConfig,
    nodes: Vec<(NodeId, Vec<floe_protocol::index::ShardIndex>)>,
    /// Kept so that the network never finds its queue closed.
    _inbound: network::Inbound,
}

impl Loopback {
    /// Joins a cluster of sinks.
    pub(crate) async fn connect(cluster: &Cluster) -> anyhow::Result<Self> {
        let mut config = ClientConfig::new(cluster.network().clone());
        config.limits.loopback_exempt = true;
        let mut network_config =
            network_config(&config.network, generate_key_pair()?, Role::LightPeer)?;
        network_config.limits = config.limits;
        let (network, inbound, _) =
            network::start(network_config, &mut Registry::default()).await?;
        let members = cluster.committee().members().iter();
        let nodes = members.map(|member| (member.node, member.shards.clone())).collect();
        Ok(Self { network, config, nodes, _inbound: inbound })
    }

    /// Sends every pair to the node of its shard.
    pub(crate) async fn upload(&self, encoded: &EncodedBlob) -> anyhow::Result<Duration> {
        let layout = encoded.layout();
        let limits = &self.config.upload;
        let pair_bytes = layout.primary_bytes() + layout.secondary_bytes();
        let all = Arc::new(Semaphore::new((limits.in_flight_bytes_max / pair_bytes).max(1)));
        let n_shards = encoded.header().n_shards;
        let started = Instant::now();
        let mut sent = JoinSet::new();
        for (node, shards) in &self.nodes {
            let of_node = Arc::new(Semaphore::new(limits.pairs_in_flight_per_member_max));
            for shard in shards {
                let pair = encoded.id().pair_of(*shard, n_shards);
                let (primary, secondary) = encoded.pair(pair);
                let registration = RegistrationId::new([0; 32]);
                let request = Request::StoreSlivers { registration, pair, primary, secondary };
                let (network, node) = (self.network.clone(), *node);
                let (all, of_node) = (Arc::clone(&all), Arc::clone(&of_node));
                sent.spawn(async move {
                    let _of_node = of_node.acquire_owned().await?;
                    let _all = all.acquire_owned().await?;
                    match network.request(node, request).await? {
                        Response::Stored { .. } => Ok(()),
                        answer => Err(anyhow!("unexpected answer {answer:?}")),
                    }
                });
            }
        }
        finish(sent).await?;
        Ok(started.elapsed())
    }

    /// Asks for every row that holds the blob itself. Needs an upload of the same size before.
    pub(crate) async fn download(&self, encoded: &EncodedBlob) -> anyhow::Result<Duration> {
        let layout = encoded.layout();
        let n_shards = encoded.header().n_shards;
        let blob = encoded.id();
        let by_bytes = self.config.download_in_flight_bytes_max / layout.primary_bytes();
        let in_flight_max = self.config.download.in_flight_max;
        let all = Arc::new(Semaphore::new(by_bytes.max(in_flight_max).min(layout.config().n())));
        let started = Instant::now();
        let mut sent = JoinSet::new();
        for pair in (0..n_shards).take(layout.config().k1()).map(SliverPairIndex::new) {
            let shard = blob.shard_of(pair, n_shards);
            let holder = self.nodes.iter().find(|(_, shards)| shards.contains(&shard));
            let Some((node, _)) = holder else { bail!("shard {shard} has no holder") };
            let request = Request::ReadSliver { blob, pair, axis: Axis::Primary };
            let (network, node, all) = (self.network.clone(), *node, Arc::clone(&all));
            let bytes = layout.primary_bytes();
            sent.spawn(async move {
                let _all = all.acquire_owned().await?;
                match network.request(node, request).await? {
                    Response::Sliver { sliver, .. } if sliver.len() == bytes => Ok(()),
                    answer => Err(anyhow!("unexpected answer {answer:?}")),
                }
            });
        }
        finish(sent).await?;
        Ok(started.elapsed())
    }

    pub(crate) async fn shutdown(self) {
        self.network.shutdown().await;
    }
}

async fn finish(mut sent: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(done) = sent.join_next().await {
        done??;
    }
    Ok(())
}
