//! The peer-to-peer network: requests, responses and announcements between nodes and clients.
//!
//! A [`Network`] is a cheap handle to one background task that owns a libp2p swarm. Through it a
//! client sends slivers to storage nodes and reads them back, and nodes spread new certificates;
//! what others ask of this peer comes out of the [`Event`] channel that [`start`] returns. Peers
//! are named by their [`NodeId`] only: which address a node has, whether it is connected, and how
//! to find it when it moved is this module's business. Nothing outside it names libp2p, but for
//! [`Multiaddr`].
//!
//! Invariants: whatever strangers do, memory, connections, streams and queues are bounded by
//! [`NetworkConfig`]; every request ends, in a response or a [`RequestError`]; an announcement goes
//! no further before the service has judged it. Deliberately not here: what requests mean, retries
//! of requests, and who holds what, which follows from the committee and never from the network.
//!
//! ```text
//! Network --Command--> event loop --> swarm: limiter, exchange + codec, gossip, kademlia, ...
//!    ^ watch: PeersView     |  ^ ReplyHandle, VerdictHandle
//!                         Event --> service
//! ```

mod address;
mod admission;
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
mod limiter;
mod metrics;
mod peers;
mod sockets;
#[cfg(test)]
mod tests;
mod throttle;

use std::sync::Arc;

use floe_protocol::{
    keys::NodeId,
    message::{Limits, MAX_ANNOUNCEMENT_BYTES, Request, Response},
};
use libp2p::identity::Keypair;
use prometheus_client::registry::Registry;
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinHandle,
};

pub use libp2p::Multiaddr;

use self::{
    address::peer_id,
    command::{Command, OutboundRequest},
    event_loop::{Channels, EventLoop},
    metrics::Metrics,
};
pub use self::{
    config::{NetworkConfig, NetworkLimits, Role},
    error::{AnnounceError, FindError, NetworkError, RequestError},
    event::{Event, ReplyHandle, VerdictHandle},
    peers::{PeerView, PeersView},
};

/// Starts the network: binds all listen addresses, then runs in a task of its own until
/// [`Network::shutdown`] is called or the last handle is dropped.
///
/// The receiver yields what others ask. If it is full or dropped, they are told `Busy`.
///
/// # Errors
/// [`NetworkError`]: an address cannot be bound, or the configuration makes no network.
pub async fn start(
    config: NetworkConfig,
    registry: &mut Registry,
) -> Result<(Network, mpsc::Receiver<Event>, JoinHandle<()>), NetworkError> {
    sockets::warn_of_small_buffers(&config.listen);
    let mut seed = *config.key.seed();
    let key = Keypair::ed25519_from_bytes(&mut seed).map_err(|_| NetworkError::Key)?;
    let local = config.key.public();
    let others = config.committee.iter().filter(|node| **node != local);
    let committee = others.filter_map(peer_id).collect();
    let metrics = Metrics::register(registry);
    let swarm = behaviour::swarm(&config, key, &committee, &metrics)?;

    let (command_sender, commands) = mpsc::channel(config.limits.commands_max);
    let (events, event_receiver) = mpsc::channel(config.limits.events_max);
    let (view, peers) = watch::channel(PeersView::default());
    let (listen, listen_addresses) = watch::channel(Vec::new());
    let network = Network {
        local,
        limits: config.messages,
        commands: command_sender,
        requests: Arc::new(Semaphore::new(config.limits.outbound_requests_max)),
        peers,
        listen_addresses,
    };
    let channels = Channels { commands, events, view, listen };
    let mut event_loop = Box::new(EventLoop::new(swarm, config, &committee, channels, metrics));
    event_loop.listen().await?;
    let task = tokio::spawn(Box::pin(event_loop.run()));
    Ok((network, event_receiver, task))
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
        let permit = Arc::clone(&self.requests).acquire_owned().await;
        let permit = permit.map_err(|_| RequestError::Stopped)?;
        let (reply, response) = oneshot::channel();
        let request = OutboundRequest { request, reply, permit };
        let sent = self.commands.send(Command::Request(peer, request)).await;
        sent.map_err(|_| RequestError::Stopped)?;
        response.await.map_err(|_| RequestError::Stopped)?
    }

    /// Spreads an announcement to the swarm.
    ///
    /// # Errors
    /// [`AnnounceError`]: it went to nobody.
    pub async fn announce(&self, announcement: Vec<u8>) -> Result<(), AnnounceError> {
        if announcement.len() > MAX_ANNOUNCEMENT_BYTES {
            return Err(AnnounceError::TooLarge);
        }
        let (result, announced) = oneshot::channel();
        let sent = self.commands.send(Command::Announce(announcement, result)).await;
        sent.map_err(|_| AnnounceError::Stopped)?;
        announced.await.map_err(|_| AnnounceError::Stopped)?
    }

    /// Tells the network where a node may be reached, for instance from the last run's memory.
    /// Addresses of unknown form are left out.
    pub async fn add_addresses(&self, node: NodeId, addresses: Vec<Multiaddr>) {
        if let Some(peer) = peer_id(&node) {
            // If the network has stopped there is nothing left to remember them.
            drop(self.commands.send(Command::AddAddresses(peer, addresses)).await);
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
