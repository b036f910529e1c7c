//! The one task that owns the swarm.
//!
//! Handles send it commands, the swarm reports events, services send back responses and verdicts,
//! and time passes: each of these is one arm of the loop. It decides who is dialled and when, and
//! passes everything else on. Requests of others and each topic of gossip go to the services through
//! bounded channels of their own; when one is full its requests are told `Busy` and its messages
//! ignored, so the loop never waits for anybody, and no kind of traffic for another.
//!
//! Invariants: no disk, hash or decoding work here (codecs run in the connections' tasks); every
//! collection is bounded by a limit of the configuration or by the number of connections.

mod circuits;
mod dialling;
mod gossip;
mod inbound;
mod meeting;
mod membership;
mod nat;
mod outbound;

use std::{
    collections::{HashMap, HashSet},
    io,
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use libp2p::{
    Multiaddr, PeerId, Swarm, TransportError,
    core::transport::ListenerId,
    identify, kad, ping,
    request_response::InboundRequestId,
    swarm::{ConnectionId, ListenError, SwarmEvent},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout_at},
};

pub(super) use self::gossip::Judges;
use self::{dialling::Dials, gossip::Judging, inbound::Reply, nat::Nat, outbound::Requests};
use super::{
    address::named_peer,
    behaviour::{Behaviour, BehaviourEvent, ProtocolNames},
    command::{Command, Publication},
    config::NetworkConfig,
    discovery::Redial,
    error::NetworkError,
    event::InboundRequest,
    gossip::Topics,
    metrics::Metrics,
    peers::{Peers, PeersView},
    published::PublishedDials,
    sockets::check_free,
};

/// Time between looks at scores and offenders.
const TICK: Duration = Duration::from_secs(1);

/// Time that a peer has at the end to read what was sent to it. Nothing tells when it has, and
/// what it has not read by then is lost with the connection.
const LINGER: Duration = Duration::from_millis(250);

/// The ends of the channels that the loop holds.
#[derive(Debug)]
pub(super) struct Channels {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) requests: mpsc::Sender<InboundRequest>,
    /// What this peer publishes: of consensus, and the rest.
    pub(super) consensus: mpsc::Receiver<Publication>,
    pub(super) publications: mpsc::Receiver<Publication>,
    pub(super) view: watch::Sender<PeersView>,
    pub(super) listen: watch::Sender<Vec<Multiaddr>>,
    /// The peers that may reserve a place at this relay.
    pub(super) reservable: watch::Sender<HashSet<PeerId>>,
}

/// The state of the network's task.
pub(super) struct EventLoop {
    swarm: Swarm<Behaviour>,
    config: NetworkConfig,
    names: ProtocolNames,
    judging: Judging,
    channels: Channels,
    metrics: Metrics,
    listeners: Vec<ListenerId>,
    peers: Peers,
    requests: Requests,
    dials: Dials,
    nat: Nat,
    /// Committee members that this peer keeps connections to.
    members: Redial<PeerId>,
    published_dials: PublishedDials,
    /// Bootstrap addresses by their position, and their dials under way.
    bootstrap: Redial<usize>,
    bootstrap_dials: HashMap<ConnectionId, usize>,
    replies: FuturesUnordered<BoxFuture<'static, Reply>>,
    next_tick: Instant,
    warned_of_observed: bool,
    /// Responses that have been accepted and are not sent yet.
    unsent: HashSet<InboundRequestId>,
    last_sent: Option<Instant>,
    closing: bool,
}

impl EventLoop {
    /// A loop over `swarm`. `committee` is without the peer itself.
    pub(super) fn new(
        swarm: Swarm<Behaviour>,
        config: NetworkConfig,
        committee: &HashSet<PeerId>,
        (channels, judges): (Channels, Judges),
        metrics: Metrics,
    ) -> Self {
        let now = Instant::now();
        let pauses = (
            Duration::from_millis(config.limits.redial_min_ms),
            Duration::from_millis(config.limits.redial_max_ms),
        );
        let is_member = config.committee.contains(&config.key.public());
        let mut peers = Peers::new(&config, committee.clone());
        for address in &config.bootstrap {
            if let Some(peer) = named_peer(address) {
                peers.given(peer, std::slice::from_ref(address));
            }
        }
        let members = membership::kept(&config, committee, is_member);
        let published_dials = PublishedDials::new(
            config.limits.published_dials_per_ip_max,
            config.limits.loopback_exempt,
        );
        Self {
            swarm,
            names: ProtocolNames::new(&config),
            judging: Judging::new(Topics::new(&config), judges, &config.limits),
            channels,
            metrics,
            listeners: Vec::new(),
            peers,
            requests: Requests::default(),
            dials: Dials::default(),
            nat: Nat::new(&config),
            members: Redial::new(members, now, pauses),
            published_dials,
            bootstrap: Redial::new(0..config.bootstrap.len(), now, pauses),
            bootstrap_dials: HashMap::new(),
            replies: FuturesUnordered::new(),
            next_tick: now + TICK,
            warned_of_observed: false,
            unsent: HashSet::new(),
            last_sent: None,
            closing: false,
            config,
        }
    }

    /// Binds all addresses to listen on and waits until each is there.
    pub(super) async fn listen(&mut self) -> Result<(), NetworkError> {
        for address in self.config.external.clone() {
            self.swarm.add_external_address(address);
        }
        let mut pending = HashMap::new();
        for address in self.config.listen.clone() {
            check_free(&address)
                .map_err(|source| NetworkError::Listen { address: address.clone(), source })?;
            let listener = self.swarm.listen_on(address.clone());
            let listener = listener.map_err(|error| listen_error(address.clone(), error))?;
            self.listeners.push(listener);
            pending.insert(listener, address);
        }
        let patience = Duration::from_millis(self.config.limits.handshake_timeout_ms);
        let deadline = Instant::now() + patience;
        while let Some(address) = pending.values().next().cloned() {
            let bound = timeout_at(deadline, self.swarm.select_next_some()).await;
            let Ok(event) = bound else {
                let source = io::ErrorKind::TimedOut.into();
                return Err(NetworkError::Listen { address, source });
            };
            match event {
                SwarmEvent::NewListenAddr { listener_id, .. } => {
                    pending.remove(&listener_id);
                }
                SwarmEvent::ListenerClosed { listener_id, reason: Err(source), .. } => {
                    let address = pending.remove(&listener_id).unwrap_or(address);
                    return Err(NetworkError::Listen { address, source });
                }
                other => self.on_event(other),
            }
        }
        self.set_relay_status();
        self.publish_listen_addresses();
        Ok(())
    }

    /// Runs until a handle says to shut down or all handles are gone.
    pub(super) async fn run(mut self) {
        self.on_timer();
        loop {
            let timer = sleep_until(self.next_timer());
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                Some(reply) = self.replies.next() => self.on_reply(reply),
                Some((judged, verdict)) = self.judging.verdicts.recv() => {
                    self.on_verdict(&judged, verdict);
                }
                Some(own) = self.channels.consensus.recv() => self.on_publication(own),
                Some(own) = self.channels.publications.recv() => self.on_publication(own),
                command = self.channels.commands.recv() => match command {
                    None | Some(Command::Shutdown) => break,
                    Some(command) => self.on_command(command),
                },
                () = timer => self.on_timer(),
            }
            if let Some(view) = self.peers.take_view() {
                self.channels.view.send_replace(view);
            }
        }
        Box::pin(self.close()).await;
    }

    /// Answers what the service still answers, then tells all peers that this one goes.
    async fn close(mut self) {
        self.closing = true;
        let deadline =
            Instant::now() + Duration::from_millis(self.config.limits.shutdown_timeout_ms);
        for listener in std::mem::take(&mut self.listeners) {
            self.swarm.remove_listener(listener);
        }
        let answered = async {
            loop {
                let under_way = !self.replies.is_empty() || !self.unsent.is_empty();
                let read = self.last_sent.map_or_else(Instant::now, |sent| sent + LINGER);
                tokio::select! {
                    () = sleep_until(read), if !under_way => break,
                    event = self.swarm.select_next_some() => self.on_event(event),
                    Some(reply) = self.replies.next() => self.on_reply(reply),
                }
            }
        };
        if timeout_at(deadline, answered).await.is_err() {
            tracing::debug!("not all requests were answered in time");
        }
        let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // An error says that it has gone already.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let swarm = &mut self.swarm;
        let closed = async {
            while swarm.network_info().num_peers() > 0 {
                swarm.select_next_some().await;
            }
        };
        if timeout_at(deadline, closed).await.is_err() {
            tracing::debug!("connections did not close in time");
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Request(peer, request) => self.request(peer, request),
            Command::AddAddresses(peer, addresses) => self.add_addresses(peer, &addresses),
            Command::SetCommittee { others, is_member } => self.set_committee(others, is_member),
            Command::SetPublished(peer, addresses) => self.set_published(peer, &addresses),
            Command::Find(peer, result) => self.find(peer, result),
            Command::Shutdown => {}
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                endpoint,
                num_established,
                cause,
            } => {
                tracing::debug!(%peer_id, ?cause, "connection closed");
                self.on_disconnected(peer_id, &endpoint, num_established);
                self.on_nat_disconnected(peer_id, connection_id, num_established);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                tracing::debug!(%error, "dial failed");
                self.on_dial_failed(connection_id, &error);
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                tracing::debug!(%error, "inbound connection failed");
                if matches!(error, ListenError::Denied { .. }) {
                    self.metrics.connection_refused();
                }
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::info!(%address, "listening");
                self.publish_listen_addresses();
            }
            SwarmEvent::ListenerClosed { listener_id, .. } => {
                self.on_listener_closed(listener_id);
                self.publish_listen_addresses();
            }
            SwarmEvent::ExpiredListenAddr { .. } => self.publish_listen_addresses(),
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "listener error");
            }
            _ => {}
        }
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Exchange(event) => self.on_exchange(event),
            BehaviourEvent::Gossip(event) => self.on_gossip(event),
            BehaviourEvent::Kademlia(kad::Event::OutboundQueryProgressed {
                id,
                result: kad::QueryResult::GetClosestPeers(result),
                ..
            }) => self.on_looked_up(id, result),
            // What strangers want stored is dropped here: the routing table keeps no records.
            BehaviourEvent::Kademlia(_) => {}
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.on_identified(peer_id, info);
            }
            BehaviourEvent::Identify(_) => {}
            BehaviourEvent::Nat(event) => self.on_nat(event),
            BehaviourEvent::Ping(ping::Event {
                connection,
                result: Err(ping::Failure::Timeout | ping::Failure::Other { .. }),
                ..
            }) => {
                self.swarm.close_connection(connection);
            }
            BehaviourEvent::Ping(_) => {}
            BehaviourEvent::Limiter(never) => match never {},
        }
    }

    /// When the loop has to act by itself next.
    fn next_timer(&self) -> Instant {
        let bootstrap = self.bootstrap.next_due();
        let bootstrap = bootstrap.filter(|_| !self.peers.any_routes());
        let due = self.members.next_due().into_iter().chain(bootstrap).min();
        due.map_or(self.next_tick, |due| due.min(self.next_tick))
    }

    fn on_timer(&mut self) {
        let now = Instant::now();
        // Before the members: one that is dialled as bootstrap is not dialled twice.
        if !self.peers.any_routes() {
            for position in self.bootstrap.take_due(now) {
                self.dial_bootstrap(position);
            }
        }
        for member in self.members.take_due(now) {
            self.connect(member);
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.expire_held_lookups(now);
            self.cut_offenders();
            self.forget_all_abandoned();
            self.refresh_scores();
            self.advance_awaiting();
            self.keep_relays(now);
            self.retire_circuits();
        }
        self.start_held_lookups();
    }

    fn cut_offenders(&mut self) {
        let max = self.config.limits.violations_max;
        for peer in self.swarm.behaviour_mut().exchange.take_offenders(max) {
            tracing::info!(%peer, "cutting off a peer that sent too much that is broken or not valid");
            self.swarm.behaviour_mut().limiter.ban(peer);
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    fn publish_listen_addresses(&self) {
        let addresses = self.swarm.listeners().cloned().collect();
        self.channels.listen.send_replace(addresses);
    }
}

fn listen_error(address: Multiaddr, error: TransportError<io::Error>) -> NetworkError {
    match error {
        TransportError::MultiaddrNotSupported(address) => NetworkError::UnsupportedAddress(address),
        TransportError::Other(source) => NetworkError::Listen { address, source },
    }
}
