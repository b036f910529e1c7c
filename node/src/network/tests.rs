//! Tests of whole networks over real sockets on loopback, ports given by the system.

mod discovery;
mod gossip;
mod hostile;
mod nat;
mod raw;
mod relays;
mod requests;

use std::time::Duration;

use bytes::Bytes;
use floe_protocol::{
    blob::{BlobHeader, BlobId, PairProof},
    encoding::EncodingConfig,
    hash::Hash,
    index::{Epoch, SliverPairIndex},
    keys::{BlsKeyPair, ChainId, KeyPair, NodeId},
    message::{
        ChallengeStatus, InvalidReason, Limits, NodeStatus, Refusal, RepairStatus, Request,
        Response,
    },
};
use prometheus_client::registry::Registry;
use tokio::{task::JoinHandle, time::timeout};

use super::*;

/// The longest that any event may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

fn encoding() -> EncodingConfig {
    EncodingConfig::new(4).unwrap()
}

fn chain() -> ChainId {
    ChainId::new(Hash::new([7; 32]))
}

fn node(seed: u8) -> NodeId {
    KeyPair::from_seed([seed; 32]).public()
}

/// A storage node on a TCP port of loopback, impatient as tests are.
fn config(seed: u8) -> NetworkConfig {
    let key = KeyPair::from_seed([seed; 32]);
    let limits = Limits::new(encoding());
    let mut config = NetworkConfig::new(key, chain(), limits, Role::StorageNode);
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.limits.loopback_exempt = true;
    config.limits.redial_min_ms = 50;
    config.limits.redial_max_ms = 400;
    config
}

/// A running network and what it was asked.
struct Peer {
    network: Network,
    inbound: Inbound,
    task: JoinHandle<()>,
    registry: Registry,
}

impl Peer {
    async fn start(config: NetworkConfig) -> Self {
        let mut registry = Registry::default();
        let (network, inbound, task) = start(config, &mut registry).await.unwrap();
        Self { network, inbound, task, registry }
    }

    fn address(&self) -> Multiaddr {
        self.network.listen_addresses()[0].clone()
    }

    /// Tells this peer where another is.
    async fn knows(&self, other: &Self) {
        let addresses = other.network.listen_addresses();
        let node = other.network.local_node();
        self.network.add_addresses(node, addresses).await;
    }

    /// The next request.
    async fn asked(&mut self) -> (NodeId, Request, ReplyHandle) {
        let request = timeout(DEADLINE, self.inbound.requests.recv()).await.unwrap().unwrap();
        (request.peer, request.request, request.reply)
    }

    fn gossip(&mut self, topic: Topic) -> &mut mpsc::Receiver<GossipMessage> {
        match topic {
            Topic::Transactions => &mut self.inbound.transactions,
            Topic::Consensus => &mut self.inbound.consensus,
            Topic::Headers => &mut self.inbound.headers,
            Topic::Challenges => &mut self.inbound.challenges,
        }
    }

    /// The next message on a topic.
    async fn heard(&mut self, topic: Topic) -> GossipMessage {
        timeout(DEADLINE, self.gossip(topic).recv()).await.unwrap().unwrap()
    }

    /// Waits until the view of the peers is as wished.
    async fn sees(&self, wish: impl Fn(&PeersView) -> bool) {
        let mut peers = self.network.peers();
        let seen = timeout(DEADLINE, peers.wait_for(|view| wish(view))).await;
        drop(seen.expect("the peers are not as wished in time").unwrap());
    }

    /// Waits until a node is connected and introduced.
    async fn meets(&self, node: NodeId) {
        let met = |view: &PeersView| {
            let peer = view.connected.get(&node);
            peer.is_some_and(|peer| !peer.agent.is_empty())
        };
        self.sees(met).await;
    }

    /// Waits until anybody is connected.
    async fn meets_some(&self) {
        self.sees(|view| !view.connected.is_empty()).await;
    }

    /// The value of a counter, given as it is shown, without the value.
    fn count(&self, line: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let value = text.lines().find_map(|shown| shown.strip_prefix(line));
        value.map_or(0, |value| value.trim().parse().unwrap())
    }

    fn malformed(&self, reason: &str) -> u64 {
        let line = format!("network_malformed_streams_total{{reason=\"{reason}\"}}");
        self.count(&line)
    }

    /// Asks a good request of `to` and lets it answer.
    async fn exchanges_with(&self, to: &mut Self) {
        self.exchanges(to, Request::NodeStatus).await;
    }

    /// Asks `to` this and lets it answer.
    async fn exchanges(&self, to: &mut Self, request: Request) {
        let expected = response_to(&request);
        let asked = self.network.request(to.network.local_node(), request);
        let answers = async {
            let (_, request, reply) = to.asked().await;
            reply.reply(response_to(&request));
        };
        let (response, ()) = tokio::join!(timeout(DEADLINE, asked), answers);
        assert_eq!(response.unwrap(), Ok(expected));
    }
}

fn header() -> BlobHeader {
    BlobHeader { n_shards: 4, len: 100, root: Hash::new([3; 32]) }
}

fn proof() -> Bytes {
    vec![5; PairProof::layout_bytes(encoding())].into()
}

/// Some response that fits the request.
fn response_to(request: &Request) -> Response {
    match request {
        Request::Table { .. } => Response::TableStored {
            missing: vec![SliverPairIndex::new(1), SliverPairIndex::new(3)],
        },
        Request::StoreSlivers { pair, .. } => Response::Stored { pair: *pair },
        Request::Confirm { .. } => Response::Confirmed {
            epoch: Epoch::new(2),
            signature: BlsKeyPair::from_seed([1; 32]).sign(b"confirmed"),
        },
        Request::ReadPairs { .. }
        | Request::ReadSymbols { .. }
        | Request::Attest { .. }
        | Request::Acknowledge { .. }
        | Request::Ledger(_) => Response::Refused(Refusal::Unavailable),
        Request::ReadTranscript { .. } => Response::Transcript(Some(vec![7; 50 << 10].into())),
        Request::ReadSliver { .. } => {
            Response::Sliver { proof: proof(), sliver: vec![9; 3 << 20].into() }
        }
        Request::NodeStatus => Response::NodeStatus(NodeStatus {
            version: "1".into(),
            chain: chain(),
            epoch: Epoch::new(1),
            shards: 2,
            pairs: 3,
            disk_used_bytes: 4,
            disk_quota_bytes: 5,
            accepts_slivers: true,
            peers: 6,
            damaged_pieces: 0,
            uptime_ms: 7,
            time: floe_protocol::ledger::Timestamp::from_ms(8),
            repair: RepairStatus::default(),
            challenges: ChallengeStatus::default(),
        }),
    }
}

/// A short response.
const fn stored() -> Response {
    Response::Stored { pair: SliverPairIndex::new(1) }
}

fn blob() -> BlobId {
    header().id()
}
