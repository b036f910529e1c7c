//! Which connections are accepted: counts in total, by direction, peer, IP address and subnet.
//!
//! Every other layer trusts that there are only so many connections; this is where that becomes
//! true. Connections by way of relays have no address of their own: they are counted together. libp2p has no limits by default, its own counting behaviour keeps a record of every peer
//! ever seen, and none counts by subnet. Committee members bypass all limits but the one per
//! peer, so that a crowd of strangers cannot cut the committee apart; connections to them are also
//! kept alive when idle.
//!
//! It also refuses dials that nobody but the routing table wants, to peers other than the
//! committee's and those that this peer began with: their addresses are strangers' hearsay, and
//! would let anybody aim this peer's connections at third parties.
//!
//! Two more reasons refuse what others open: the process's memory, as a last resort against what
//! connections buffer before anything is read of them, and a ban. Own dials are spared, so that
//! members still find each other.
//!
//! Invariants: closing a connection frees its slots; a slot is taken before the handshake, so
//! handshakes are counted too. An address that is shared with strangers may be refused while it is
//! theirs to fill; the committee's own dials out are not.

mod bans;
mod counts;

use std::{
    collections::HashSet,
    convert::Infallible,
    net::IpAddr,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse, upgrade::DeniedUpgrade},
    memory_connection_limits,
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent,
        ConnectionId, DialFailure, FromSwarm, ListenFailure, NetworkBehaviour, NotifyHandler,
        SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        handler::ConnectionEvent,
    },
};

use self::{
    bans::Bans,
    counts::{Counts, Direction},
};
use super::{
    address::{RELAYED, ip_of, named_peer, origin, site},
    config::NetworkConfig,
};

/// The limit that a connection would have broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Exceeded {
    /// Handshakes in one direction.
    #[error("too many connections pending")]
    Pending,
    /// Connections in one direction.
    #[error("too many connections in this direction")]
    Direction,
    /// Connections of all kinds.
    #[error("too many connections")]
    Total,
    /// Connections with one peer.
    #[error("too many connections with this peer")]
    Peer,
    /// Connections with one address or subnet, or by way of relays.
    #[error("too many connections with this address or subnet, or through relays")]
    Subnet,
    /// The peer, or another of its address, was cut off.
    #[error("peer or address was cut off")]
    Banned,
    /// A dial to where a stranger said that another stranger was.
    #[error("only hearsay tells of this peer")]
    Hearsay,
}

/// The limits, copied from the configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionLimits {
    pending_per_direction_max: usize,
    inbound_max: usize,
    outbound_max: usize,
    total_max: usize,
    per_peer_max: usize,
    per_ip_max: usize,
    per_subnet_max: usize,
    per_network_max: usize,
    relayed_max: usize,
    loopback_exempt: bool,
}

impl From<&NetworkConfig> for ConnectionLimits {
    fn from(config: &NetworkConfig) -> Self {
        Self {
            pending_per_direction_max: config.limits.pending_connections_max,
            inbound_max: config.limits.inbound_connections_max,
            outbound_max: config.limits.outbound_connections_max,
            total_max: config.limits.connections_max,
            per_peer_max: config.limits.connections_per_peer_max,
            per_ip_max: config.limits.connections_per_ip_max,
            per_subnet_max: config.limits.connections_per_subnet_max,
            per_network_max: config.limits.connections_per_network_max,
            relayed_max: config.limits.relayed_connections_max,
            loopback_exempt: config.limits.loopback_exempt,
        }
    }
}

/// The behaviour that applies the limits.
pub(super) struct Limiter {
    limits: ConnectionLimits,
    privileged: HashSet<PeerId>,
    bootstrap: HashSet<PeerId>,
    counts: Counts,
    memory: memory_connection_limits::Behaviour,
    ban: Duration,
    banned_peers: Bans<PeerId>,
    banned_addresses: Bans<IpAddr>,
    /// Connections whose handlers are to be told whether to keep them.
    changed: Vec<(ConnectionId, PeerId, bool)>,
    waker: Option<Waker>,
}

impl Limiter {
    /// A limiter that lets `privileged` peers bypass all limits but the one per peer.
    pub(super) fn new(config: &NetworkConfig, privileged: HashSet<PeerId>) -> Self {
        Self {
            limits: config.into(),
            privileged,
            bootstrap: config.bootstrap.iter().filter_map(named_peer).collect(),
            counts: Counts::default(),
            memory: memory_connection_limits::Behaviour::with_max_bytes(
                config.limits.process_memory_bytes_max,
            ),
            ban: Duration::from_millis(config.limits.ban_ms),
            banned_peers: Bans::new(),
            banned_addresses: Bans::new(),
            changed: Vec::new(),
            waker: None,
        }
    }

    /// Lets other peers bypass the limits from now on. Connections that are there stay, but those
    /// of peers that lose the privilege are no longer kept when idle.
    pub(super) fn set_privileged(&mut self, privileged: HashSet<PeerId>) {
        self.privileged = privileged;
        let changed = self.counts.reclassify(|peer| self.privileged.contains(peer));
        self.changed.extend(changed);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Refuses a connected peer from now on, and the addresses that it has, unless it is of the
    /// committee.
    pub(super) fn ban(&mut self, peer: PeerId) {
        if self.privileged.contains(&peer) {
            return;
        }
        let until = Instant::now() + self.ban;
        self.banned_peers.add(peer, until);
        let its = self.counts.slots.values().filter(|slot| slot.established == Some(peer));
        // The first subnet is the address itself; exempt addresses have none.
        for (address, _) in its.filter_map(|slot| slot.subnets.first()) {
            if *address == RELAYED {
                continue;
            }
            self.banned_addresses.add(*address, until);
        }
    }

    fn is_banned(&self, peer: &PeerId, remote: &Multiaddr) -> bool {
        let address = ip_of(remote).map(site);
        self.banned_peers.contains(peer)
            || address.is_some_and(|address| self.banned_addresses.contains(&address))
    }

    fn establish(
        &mut self,
        id: ConnectionId,
        direction: Direction,
        peer: PeerId,
        (local, remote): (Option<&Multiaddr>, &Multiaddr),
    ) -> Result<KeepAlive, ConnectionDenied> {
        let privileged = self.privileged.contains(&peer);
        // Not before the handshake: members behind the same address are spared.
        if direction == Direction::Inbound && !privileged && self.is_banned(&peer, remote) {
            return Err(ConnectionDenied::new(Exceeded::Banned));
        }
        let connection = (direction, origin(local, remote), peer, privileged);
        let counted = self.counts.establish(&self.limits, id, connection);
        counted.map_err(ConnectionDenied::new)?;
        Ok(KeepAlive(privileged))
    }
}

impl NetworkBehaviour for Limiter {
    type ConnectionHandler = KeepAlive;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let ip = ip_of(remote);
        let exempt = self.limits.loopback_exempt && ip.is_some_and(|ip| ip.is_loopback());
        if !exempt {
            self.memory.handle_pending_inbound_connection(id, local, remote)?;
        }
        let connection = (Direction::Inbound, ip, false);
        let counted = self.counts.begin(&self.limits, id, connection);
        counted.map_err(ConnectionDenied::new)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.establish(id, Direction::Inbound, peer, (Some(local), remote))
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let privileged = peer.is_some_and(|peer| self.privileged.contains(&peer));
        // The event loop always says where to dial; Kademlia leaves that to its own knowledge.
        let begun_with = peer.is_some_and(|peer| self.bootstrap.contains(&peer));
        if addresses.is_empty() && !privileged && !begun_with {
            return Err(ConnectionDenied::new(Exceeded::Hearsay));
        }
        // Several addresses may be tried at once: which one counts is known when one answers.
        let connection = (Direction::Outbound, None, privileged);
        let counted = self.counts.begin(&self.limits, id, connection);
        counted.map_err(ConnectionDenied::new)?;
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.establish(id, Direction::Outbound, peer, (None, remote))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. })
            | FromSwarm::DialFailure(DialFailure { connection_id, .. })
            | FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.counts.end(connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some((id, peer_id, keep)) = self.changed.pop() {
            let handler = NotifyHandler::One(id);
            return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event: keep });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A handler that opens no streams and decides whether an idle connection is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeepAlive(bool);

impl ConnectionHandler for KeepAlive {
    type FromBehaviour = bool;
    type ToBehaviour = Infallible;
    type InboundProtocol = DeniedUpgrade;
    type OutboundProtocol = DeniedUpgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(DeniedUpgrade, ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.0
    }

    fn on_behaviour_event(&mut self, keep: Self::FromBehaviour) {
        self.0 = keep;
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Self::ToBehaviour>> {
        Poll::Pending
    }

    fn on_connection_event(
        &mut self,
        _: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
    }
}

#[cfg(test)]
mod tests;
