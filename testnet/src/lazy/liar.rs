//! A member that is no storage node: it follows the headers, and otherwise only lies.

use std::sync::Arc;

use anyhow::anyhow;
use floe_node::{
    Client, NodeConfig,
    client::ClientConfig,
    key_file::NodeKeys,
    network::{
        self, GossipMessage, Inbound, InboundRequest, Multiaddr, Network, PeersView, Role, Topic,
    },
};
use floe_protocol::{
    challenge::{Commitment, TRANSCRIPT_BYTES_MAX},
    hash::Hash,
    index::{ChallengeRound, Height},
    keys::BlsSignature,
    message::{Refusal, Request, Response},
};
use prometheus_client::registry::Registry;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    cluster::network_config,
    workload::{content, fresh_seed},
};

/// A running liar.
#[derive(Debug)]
pub(crate) struct Liar {
    network: Network,
    tasks: JoinSet<anyhow::Error>,
}

impl Liar {
    /// Takes the place of the storage node with this configuration.
    pub(crate) async fn start(config: NodeConfig) -> anyhow::Result<Self> {
        let keys = Arc::new(NodeKeys::open(&config.paths.key)?);
        let mut net = network_config(&config.network, keys.node.clone(), Role::StorageNode)?;
        net.listen = config.listen;
        net.external = config.external;
        net.limits = config.limits;
        let (network, inbound, _) = network::start(net, &mut Registry::default()).await?;
        let Inbound { requests, challenges, .. } = inbound;
        let mut tasks = JoinSet::new();
        tasks.spawn(answer(requests));
        let peer = (network.clone(), Arc::clone(&keys));
        tasks.spawn(acknowledge_falsely(peer, challenges));
        let mut client = ClientConfig::new(config.network);
        client.limits.loopback_exempt = true;
        client.trust_genesis = true;
        let peer = (network.clone(), keys);
        tasks.spawn(async move {
            let client = Client::connect(client).await;
            match client {
                Ok(client) => commit_to_anything(peer, &client).await,
                Err(error) => error.into(),
            }
        });
        Ok(Self { network, tasks })
    }

    pub(crate) fn addresses(&self) -> Vec<Multiaddr> {
        self.network.listen_addresses()
    }

    pub(crate) fn peers(&self) -> watch::Receiver<PeersView> {
        self.network.peers()
    }

    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(error)) => error,
            Some(Err(error)) => error.into(),
            None => anyhow!("the liar has ended"),
        }
    }

    pub(crate) async fn shutdown(mut self) {
        self.tasks.shutdown().await;
        self.network.shutdown().await;
    }
}

/// Whoever asks for a transcript gets one: of noise, as long as there may be.
async fn answer(mut requests: mpsc::Receiver<InboundRequest>) -> anyhow::Error {
    let noise = content(fresh_seed(), TRANSCRIPT_BYTES_MAX);
    while let Some(InboundRequest { request, reply, .. }) = requests.recv().await {
        reply.reply(match request {
            Request::ReadTranscript { .. } => Response::Transcript(Some(noise.clone())),
            Request::Acknowledge { .. } => Response::Taken,
            _ => Response::Refused(Refusal::Unavailable),
        });
    }
    anyhow!("the network has ended")
}

/// Whoever commits itself gets an acknowledgement of something else.
async fn acknowledge_falsely(
    (network, keys): (Network, Arc<NodeKeys>),
    mut challenges: mpsc::Receiver<GossipMessage>,
) -> anyhow::Error {
    while let Some(GossipMessage { bytes, verdict, .. }) = challenges.recv().await {
        verdict.ignore();
        let Ok(Commitment { round, node, .. }) = Commitment::from_bytes(&bytes) else { continue };
        let signature: BlsSignature = keys.bls.sign(&bytes);
        let network = network.clone();
        tokio::spawn(async move {
            // What it answers, or whether it does, is all the same.
            drop(network.request(node, Request::Acknowledge { round, signature }).await);
        });
    }
    anyhow!("the network has ended")
}

/// Commits itself in every block, whether it opens a round or not, and to something else each time.
async fn commit_to_anything(
    (network, keys): (Network, Arc<NodeKeys>),
    client: &Client,
) -> anyhow::Error {
    let mut height = Height::new(0);
    loop {
        height = match client.ledger().reached(height.next()).await {
            Ok(header) => header.header().height,
            Err(error) => {
                tracing::info!(%error, "the ledger does not answer");
                continue;
            }
        };
        for _ in 0..2 {
            let commitment = Commitment {
                round: ChallengeRound::new(height.get()),
                node: keys.node.public(),
                end: Hash::of_symbol(&fresh_seed().to_le_bytes()),
            };
            if let Err(error) = network.publish(Topic::Challenges, commitment.to_bytes()).await {
                tracing::debug!(%error, "not published");
            }
        }
    }
}
