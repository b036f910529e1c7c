//! The peer-to-peer network: requests, responses and gossip between nodes and clients.
//!
//! A [`Network`] is a cheap handle to one background task that owns a libp2p swarm. Through it a
//! client sends slivers to storage nodes and reads them back, and nodes spread what all shall know;
//! what others ask of this peer comes out of the [`Inbound`] channels that [`start`] returns. Peers
//! are named by their [`NodeId`] only: which address a node has, whether it is connected, and how
//! to find it when it moved is this module's business. Nothing outside it names libp2p, but for
//! [`Multiaddr`].
//!
//! Invariants: whatever strangers do, memory, connections, streams and queues are bounded by
//! [`NetworkConfig`], but for own urgent requests, of which callers have few under way; every request
//! ends, in a response or a [`RequestError`]; a gossiped message goes no further before the service
//! has judged it. Deliberately not here: what requests mean, retries of requests, and who holds what,
//! which follows from the committee and never from the network.
//!
//! ```text
//! Network --Command--> event loop --> swarm: limiter, exchange + codec, gossip, kademlia, ...
//!    ^ watch: PeersView     |  ^ ReplyHandle, VerdictHandle
//!                        Inbound --> services
//! ```

mod address;
mod admission;
mod admitted;
mod behaviour;
mod codec;
mod command;
mod config;
mod discovery;
mod error;
mod event;
mod event_loop;
mod exchange;
mod gossip;
mod guarded;
mod limiter;
mod metrics;
mod nat;
mod peers;
mod published;
mod reachability;
mod sockets;
#[cfg(test)]
mod tests;
mod throttle;

use std::{collections::HashSet, sync::Arc};

use floe_protocol::{
    keys::NodeId,
    message::{Limits, Request, Response},
};
use libp2p::identity::Keypair;
use prometheus_client::registry::Registry;
use tokio::{
    sync::{
        Semaphore,
        mpsc::{self, error::TrySendError},
        oneshot, watch,
    },
    task::JoinHandle,
};

pub use libp2p::Multiaddr;

use self::{
    address::peer_id,
    command::{Command, OutboundRequest, Publication},
    event_loop::{Channels, EventLoop, Judges},
    metrics::Metrics,
};
pub use self::{
    config::{NatConfig, NetworkConfig, NetworkLimits, Reach, Role},
    error::{AnnounceError, FindError, NetworkError, RequestError},
    event::{GossipMessage, Inbound, InboundRequest, ReplyHandle, VerdictHandle},
    gossip::Topic,
    peers::{PeerView, PeersView},
};

/// Starts the network: binds all listen addresses, then runs in a task of its own until
/// [`Network::shutdown`] is called or the last handle is dropped.
///
/// The receivers yield what others ask and say.
///
/// # Errors
/// [`NetworkError`]: an address cannot be bound, or the configuration makes no network.
pub async fn start(
    config: NetworkConfig,
    registry: &mut Registry,
) -> Result<(Network, Inbound, JoinHandle<()>), NetworkError> {
    sockets::warn_of_small_buffers(&config.listen);
    let mut seed = *config.key.seed();
    let key = Keypair::ed25519_from_bytes(&mut seed).map_err(|_| NetworkError::Key)?;
    let local = config.key.public();
    let others = config.committee.iter().filter(|node| **node != local);
    let committee = others.filter_map(peer_id).collect();
    let metrics = Metrics::register(registry);
    let (reservable, may_reserve) = watch::channel(HashSet::new());
    let swarm = behaviour::swarm(&config, key, (&committee, may_reserve), &metrics)?;

    let (command_sender, commands) = mpsc::channel(config.limits.commands_max);
    let (own_consensus, consensus) = mpsc::channel(config.limits.publications_max);
    let (own_others, publications) = mpsc::channel(config.limits.publications_max);
    let (requests, judges, inbound) = inbound(&config);
    let (view, peers) = watch::channel(PeersView::default());
    let (listen, listen_addresses) = watch::channel(Vec::new());
    let network = Network {
        local,
        limits: config.messages,
        commands: command_sender,
        consensus: own_consensus,
        publications: own_others,
        requests: Arc::new(Semaphore::new(config.limits.outbound_requests_max)),
        peers,
        listen_addresses,
    };
    let channels =
        Channels { commands, requests, consensus, publications, view, listen, reservable };
    let channels = (channels, judges);
    let mut event_loop = Box::new(EventLoop::new(swarm, config, &committee, channels, metrics));
    event_loop.listen().await?;
    let task = tokio::spawn(Box::pin(event_loop.run()));
    Ok((network, inbound, task))
}

/// The channels to the services. Those of topics that this peer does not hear are closed.
fn inbound(config: &NetworkConfig) -> (mpsc::Sender<InboundRequest>, Judges, Inbound) {
    let limits = &config.limits;
    let (request_sender, requests) = mpsc::channel(limits.events_max);
    let channel = |topic: Topic| {
        let (judge, mut messages) = mpsc::channel(limits.pending_max(topic).max(1));
        if !topic.is_heard_by(config.role) {
            messages.close();
        }
        (judge, messages)
    };
    let (judge_transactions, transactions) = channel(Topic::Transactions);
    let (judge_consensus, consensus) = channel(Topic::Consensus);
    let (judge_headers, headers) = channel(Topic::Headers);
    let (judge_challenges, challenges) = channel(Topic::Challenges);
    // In the order of the topics.
    let judges = [judge_transactions, judge_consensus, judge_headers, judge_challenges];
    let inbound = Inbound { requests, transactions, consensus, headers, challenges };
    (request_sender, judges, inbound)
}

/// `address` with the name of `node` at its end, as network files list it. None if the node's
/// bytes are no ed25519 key.
#[must_use]
pub fn address_of(node: &NodeId, address: Multiaddr) -> Option<Multiaddr> {
    address.with_p2p(peer_id(node)?).ok()
}

/// A handle to the network. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct Network {
    local: NodeId,
    limits: Limits,
    commands: mpsc::Sender<Command>,
    consensus: mpsc::Sender<Publication>,
    publications: mpsc::Sender<Publication>,
    requests: Arc<Semaphore>,
    peers: watch::Receiver<PeersView>,
    listen_addresses: watch::Receiver<Vec<Multiaddr>>,
}

impl Network {
    /// This peer's own name.
    #[must_use]
    pub const fn local_node(&self) -> NodeId {
        self.local
    }

    /// Asks a node and waits for its response. The node is dialled if it is not connected, and
    /// looked for if its address is not known or does not answer. Dropping the future takes back
    /// a request that has not been sent yet.
    ///
    /// # Errors
    /// [`RequestError`]: no response. A refusal is a response.
    pub async fn request(&self, node: NodeId, request: Request) -> Result<Response, RequestError> {
        let payload_bytes = request.payload_bytes() as u64;
        if payload_bytes > self.limits.max_payload_bytes() {
            return Err(RequestError::TooLarge);
        }
        let peer = peer_id(&node).filter(|_| node != self.local);
        let peer = peer.ok_or(RequestError::Unreachable)?;
        // Peers that never answer hold places for long. Urgent requests are small, and who asks has
        // few for each peer.
        let permit = if request.is_urgent() {
            None
        } else {
            let permit = Arc::clone(&self.requests).acquire_owned().await;
            Some(permit.map_err(|_| RequestError::Stopped)?)
        };
        let (reply, response) = oneshot::channel();
        let request = OutboundRequest { request, reply, permit };
        let sent = self.commands.send(Command::Request(peer, request)).await;
        sent.map_err(|_| RequestError::Stopped)?;
        response.await.map_err(|_| RequestError::Stopped)?
    }

    /// Publishes a message to all connected peers that hear the topic, from where it spreads. A
    /// peer need not hear a topic to publish to it. What has been published within the last minute
    /// is not sent again, but on the consensus topic. This waits until the message is in the peers'
    /// queues.
    ///
    /// # Errors
    /// [`AnnounceError`]: it went to nobody.
    pub async fn publish(&self, topic: Topic, bytes: Vec<u8>) -> Result<(), AnnounceError> {
        if bytes.len() > topic.max_bytes() {
            return Err(AnnounceError::TooLarge);
        }
        let (result, published) = oneshot::channel();
        let publication = Publication { topic, bytes, result: Some(result) };
        let sent = self.own(topic).send(publication).await;
        sent.map_err(|_| AnnounceError::Stopped)?;
        published.await.map_err(|_| AnnounceError::Stopped)?
    }

    /// The same from a plain thread, and without waiting for anything: whether anybody was there
    /// to hear it is only counted.
    ///
    /// # Errors
    /// [`AnnounceError`]: too large, too many messages wait, or the network has stopped.
    pub fn try_publish(&self, topic: Topic, bytes: Vec<u8>) -> Result<(), AnnounceError> {
        if bytes.len() > topic.max_bytes() {
            return Err(AnnounceError::TooLarge);
        }
        let publication = Publication { topic, bytes, result: None };
        self.own(topic).try_send(publication).map_err(|error| match error {
            TrySendError::Full(_) => AnnounceError::Busy,
            TrySendError::Closed(_) => AnnounceError::Stopped,
        })
    }

    /// The queue of a topic's own messages.
    const fn own(&self, topic: Topic) -> &mpsc::Sender<Publication> {
        match topic {
            // Commitments are few and in a hurry.
            Topic::Consensus | Topic::Challenges => &self.consensus,
            Topic::Transactions | Topic::Headers => &self.publications,
        }
    }

    /// Tells the network where a node may be reached, for instance from the last run's memory.
    /// Addresses of unknown form are left out.
    pub async fn add_addresses(&self, node: NodeId, addresses: Vec<Multiaddr>) {
        if let Some(peer) = peer_id(&node) {
            // If the network has stopped there is nothing left to remember them.
            drop(self.commands.send(Command::AddAddresses(peer, addresses)).await);
        }
    }

    /// Tells the network who the committee is: the nodes that bypass its limits, are trusted to show
    /// the way, and are kept connected. Everybody else becomes a stranger, without losing
    /// connections that are there. A member passes those that it needs: of the running epoch, of
    /// the one before and of the next one as soon as that is selected.
    pub async fn set_committee(&self, members: Vec<NodeId>) {
        let others = members.iter().filter(|node| **node != self.local).filter_map(peer_id);
        let (others, is_member) = (others.collect(), members.contains(&self.local));
        // If the network has stopped there is no committee to keep up with.
        drop(self.commands.send(Command::SetCommittee { others, is_member }).await);
    }

    /// Tells the network where a node says publicly that it is, in place of what it said before.
    /// Such addresses are nobody's but a stranger's word: those are left out that name another
    /// peer, no IP address, or a place nearer than this node itself listens at; and no target is
    /// dialled for them more often than [`NetworkLimits::published_dials_per_ip_max`] allows.
    pub async fn set_published(&self, node: NodeId, addresses: Vec<Multiaddr>) {
        if let Some(peer) = peer_id(&node).filter(|_| node != self.local) {
            drop(self.commands.send(Command::SetPublished(peer, addresses)).await);
        }
    }

    /// Looks for a node's addresses among the peers. [`Network::request`] does it by itself.
    ///
    /// # Errors
    /// [`FindError`]: none found.
    pub async fn find(&self, node: NodeId) -> Result<Vec<Multiaddr>, FindError> {
        let peer = peer_id(&node).ok_or(FindError::NotFound)?;
        let (result, found) = oneshot::channel();
        let sent = self.commands.send(Command::Find(peer, result)).await;
        sent.map_err(|_| FindError::Stopped)?;
        found.await.map_err(|_| FindError::Stopped)?
    }

    /// The addresses that this peer listens on, ports filled in.
    #[must_use]
    pub fn listen_addresses(&self) -> Vec<Multiaddr> {
        self.listen_addresses.borrow().clone()
    }

    /// Who is connected, now and after every change.
    #[must_use]
    pub fn peers(&self) -> watch::Receiver<PeersView> {
        self.peers.clone()
    }

    /// Closes all connections orderly and waits until the network's task has ended.
    pub async fn shutdown(&self) {
        // An error says that it has ended already.
        drop(self.commands.send(Command::Shutdown).await);
        self.commands.closed().await;
    }
}
