//! A peer that answers at once and keeps nothing: what the network layer alone can do.
//!
//! It speaks the same protocol over the same sockets as a storage node, but verifies and stores
//! nothing. A sliver that it is asked for is the last one that it was sent, so that an answer
//! has the right size. The difference between a swarm of these and a real one is the work of
//! verifying, storing and flushing.

use bytes::Bytes;
use floe_node::{
    NodeConfig,
    key_file::NodeKeys,
    network::{
        self, InboundRequest, Multiaddr, NatConfig, Network, NetworkConfig, NetworkLimits,
        PeersView, Role,
    },
};
use floe_protocol::{
    blob::PairProof,
    encoding::EncodingConfig,
    genesis::NetworkFile,
    keys::KeyPair,
    message::{Limits, Refusal, Request, Response},
};
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};

/// A running sink.
#[derive(Debug)]
pub(super) struct Sink {
    network: Network,
}

impl Sink {
    /// Starts in the place of the storage node with this configuration.
    pub(super) async fn start(config: NodeConfig) -> anyhow::Result<Self> {
        let keys = NodeKeys::open(&config.paths.key)?;
        let encoding = EncodingConfig::new(config.network.genesis.n_shards)?;
        let mut network_config = network_config(&config.network, keys.node, Role::StorageNode)?;
        network_config.listen = config.listen;
        network_config.limits = config.limits;
        let (network, inbound, _) =
            network::start(network_config, &mut Registry::default()).await?;
        tokio::spawn(serve(encoding, inbound.requests));
        Ok(Self { network })
    }

    pub(super) fn addresses(&self) -> Vec<Multiaddr> {
        self.network.listen_addresses()
    }

    pub(super) fn peers(&self) -> watch::Receiver<PeersView> {
        self.network.peers()
    }

    pub(super) async fn shutdown(self) {
        self.network.shutdown().await;
    }
}

/// A bare peer of a network, with the usual limits.
pub(crate) fn network_config(
    network: &NetworkFile,
    key: KeyPair,
    role: Role,
) -> anyhow::Result<NetworkConfig> {
    let committee = network.genesis.committee()?;
    let bootstrap = network.bootstrap.iter().map(|address| address.parse());
    Ok(NetworkConfig {
        key,
        chain: network.genesis.chain_id(),
        messages: Limits::new(committee.config()),
        listen: Vec::new(),
        external: Vec::new(),
        bootstrap: bootstrap.collect::<Result<_, _>>()?,
        role,
        committee: committee.members().iter().map(|member| member.node).collect(),
        nat: NatConfig::default(),
        limits: NetworkLimits::default(),
    })
}

async fn serve(encoding: EncodingConfig, mut requests: mpsc::Receiver<InboundRequest>) {
    let proof = Bytes::from(vec![0; PairProof::layout_bytes(encoding)]);
    let mut last = Bytes::new();
    while let Some(InboundRequest { request, reply, .. }) = requests.recv().await {
        reply.reply(match request {
            Request::StoreSlivers { pair, primary, .. } => {
                last = primary;
                Response::Stored { pair }
            }
            Request::ReadSliver { .. } => {
                Response::Sliver { proof: proof.clone(), sliver: last.clone() }
            }
            Request::Table { .. }
            | Request::Confirm { .. }
            | Request::ReadPairs { .. }
            | Request::ReadSymbols { .. }
            | Request::Attest { .. }
            | Request::ReadTranscript { .. }
            | Request::Acknowledge { .. }
            | Request::NodeStatus
            | Request::Ledger(_) => Response::Refused(Refusal::Unavailable),
        });
    }
}
