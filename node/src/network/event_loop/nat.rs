//! Being reached from behind NAT, and helping others to be.
//!
//! A peer that others cannot reach keeps places reserved with a few relays among the members that
//! it is connected with; a relay that refuses or goes is replaced by the next. Which relay comes
//! first differs from peer to peer, so the load spreads. A peer that members say they reach keeps
//! one place until connections do arrive; from then on it is a relay itself, to storage nodes that
//! have introduced themselves.
//!
//! Invariants: relays are members, or named by the operator; at most `relays_max` places are held
//! or asked for. A place is never given up before its connection ends: libp2p does not survive the
//! answer to a request that was taken back.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    autonat::v1 as autonat,
    core::{ConnectedPoint, transport::ListenerId},
    identify, kad,
    multiaddr::Protocol,
    relay,
    swarm::ConnectionId,
    upnp,
};
use tokio::time::Instant;

use super::{EventLoop, circuits::Circuits};
use crate::network::{
    address::{Scope, ip_of, is_relayed, named_peer, site, vetted},
    config::{NetworkConfig, Reach, Role},
    nat::NatEvent,
    reachability::{Change, Origin, Reachability, Verdict},
};

/// A place with a relay, asked for or reserved.
#[derive(Debug)]
struct Place {
    relay: PeerId,
    reserved: bool,
}

/// What is known of relays and circuits.
#[derive(Debug)]
pub(super) struct Nat {
    reachability: Reachability,
    /// Connected peers that offer to be relays.
    offers: HashSet<PeerId>,
    places: HashMap<ListenerId, Place>,
    /// When those that refused or went are asked again, and how long that pause was.
    pauses: HashMap<PeerId, (Instant, Duration)>,
    /// Relays that the operator named.
    named: Vec<(PeerId, Multiaddr)>,
    pub(super) circuits: Circuits,
}

impl Nat {
    pub(super) fn new(config: &NetworkConfig) -> Self {
        let fixed = match (config.role, config.nat.reach) {
            (Role::LightPeer, _) => Some(Verdict::Unknown),
            (Role::StorageNode, Reach::Private) => Some(Verdict::Private),
            (Role::StorageNode, Reach::Probed) => {
                (!config.external.is_empty()).then_some(Verdict::Public)
            }
        };
        let named = config.nat.relays.iter();
        Self {
            reachability: Reachability::new(fixed),
            offers: HashSet::new(),
            places: HashMap::new(),
            pauses: HashMap::new(),
            named: named.filter_map(|a| Some((named_peer(a)?, a.clone()))).collect(),
            circuits: Circuits::default(),
        }
    }

    fn is_named(&self, peer: &PeerId) -> bool {
        self.named.iter().any(|(named, _)| named == peer)
    }
}

impl EventLoop {
    /// Notes a connection. One that was opened for a probe only is closed again.
    pub(super) fn on_nat_connected(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        endpoint: &ConnectedPoint,
    ) {
        if endpoint.is_relayed() {
            self.nat.circuits.opened(id, peer, endpoint.is_dialer());
        }
        self.note_way_in(peer, endpoint);
        let probes = self.swarm.behaviour_mut().nat.probes.as_mut();
        if probes.is_some_and(|probes| probes.take_dialled(id)) {
            self.swarm.close_connection(id);
        }
    }

    pub(super) fn on_nat_disconnected(&mut self, peer: PeerId, id: ConnectionId, left: u32) {
        self.nat.circuits.closed(id);
        if left > 0 {
            // What waited for the end of a circuit goes directly now.
            self.pump(peer);
        } else {
            self.nat.offers.remove(&peer);
            if let Some(probes) = self.swarm.behaviour_mut().nat.probes.as_mut() {
                probes.inner.remove_server(&peer);
            }
            self.channels.reservable.send_if_modified(|peers| peers.remove(&peer));
        }
    }

    /// A storage node of this network introduced itself.
    pub(super) fn on_nat_identified(&mut self, peer: PeerId, info: &identify::Info) {
        let offers = |name: &StreamProtocol| info.protocols.contains(name);
        let is_node = offers(&self.names.routing) && offers(&self.names.request);
        let trusted = self.peers.is_trusted(&peer) || self.nat.is_named(&peer);
        if is_node {
            self.let_reserve(peer);
        }
        if is_node && trusted && offers(&relay::HOP_PROTOCOL_NAME) {
            self.nat.offers.insert(peer);
        } else {
            self.nat.offers.remove(&peer);
        }
        if !trusted {
            return;
        }
        let nearest = self.nearest_own();
        let is_far = self.peers.scope_of(&peer) >= nearest;
        let asks = self.nat.reachability.is_probed() && is_far;
        let seen = self.own_addresses_at(&info.observed_addr);
        let nat = &mut self.swarm.behaviour_mut().nat;
        if let Some(hole_punch) = nat.hole_punch.as_mut() {
            for address in &seen {
                hole_punch.seen_at(address);
            }
        }
        if let Some(probes) = nat.probes.as_mut()
            && asks
            && offers(&autonat::DEFAULT_PROTOCOL_NAME)
        {
            probes.inner.add_server(peer, None);
        }
    }

    /// Notes which way a direct connection was opened.
    fn note_way_in(&mut self, peer: PeerId, endpoint: &ConnectedPoint) {
        let remote = endpoint.get_remote_address();
        let Some(ip) = ip_of(remote).filter(|_| !endpoint.is_relayed()) else { return };
        let scope = Scope::of_ip(ip);
        let origin = match scope {
            // Nothing stands between two peers of one machine, and they have one address.
            Some(Scope::Loopback) => Origin::Local(peer),
            _ => Origin::Site(site(ip)),
        };
        let was_open = self.nat.reachability.is_open();
        if endpoint.is_dialer() {
            self.nat.reachability.dialled(origin);
        } else if scope >= Some(self.nearest_own()) && !self.is_at_home(ip) {
            self.nat.reachability.arrived(origin);
        }
        if was_open != self.nat.reachability.is_open() {
            self.set_relay_status();
        }
    }

    /// Whether an address is on the same side of the router as this peer's own.
    fn is_at_home(&self, ip: IpAddr) -> bool {
        let own = self.swarm.listeners().chain(self.swarm.external_addresses());
        let mut own = own.filter(|own| !is_relayed(own)).filter_map(ip_of);
        !ip.is_loopback() && own.any(|own| site(own) == site(ip))
    }

    /// Other peers are of the committee from now on. Places with relays that have left it are
    /// kept until their connections end.
    pub(super) fn on_nat_committee(
        &mut self,
        before: &HashSet<PeerId>,
        committee: &HashSet<PeerId>,
    ) {
        let nat = &mut self.swarm.behaviour_mut().nat;
        if let Some(hole_punch) = nat.hole_punch.as_mut() {
            hole_punch.set_partners(committee.clone());
        }
        for left in before.iter().filter(|peer| !self.peers.is_trusted(peer)) {
            if let Some(probes) = nat.probes.as_mut() {
                probes.inner.remove_server(left);
            }
            if !self.nat.is_named(left) {
                self.nat.offers.remove(left);
                self.nat.pauses.remove(left);
            }
        }
    }

    /// The nearest scope of an address that others reach.
    const fn nearest_own(&self) -> Scope {
        if self.config.nat.local_addresses { Scope::Loopback } else { Scope::Global }
    }

    /// Lets a storage node reserve a place here. Half of the places are kept for members.
    fn let_reserve(&self, peer: PeerId) {
        let max = self.config.limits.relay_reservations_max / 2;
        let is_trusted = |peer: &PeerId| self.peers.is_trusted(peer);
        self.channels.reservable.send_if_modified(|peers| {
            let strangers = peers.iter().filter(|peer| !is_trusted(peer)).count();
            (is_trusted(&peer) || strangers < max) && peers.insert(peer)
        });
    }

    /// The addresses that this peer listens on, as they are where others see it.
    fn own_addresses_at(&self, observed: &Multiaddr) -> Vec<Multiaddr> {
        let Some(seen) = observed.iter().next().filter(|_| !is_relayed(observed)) else {
            return Vec::new();
        };
        let local = *self.swarm.local_peer_id();
        let nearest = self.nearest_own();
        let own = self.swarm.listeners().filter(|own| !is_relayed(own) && ip_of(own).is_some());
        let own = own.filter_map(|own| own.replace(0, |_| Some(seen.clone())));
        own.filter_map(|own| vetted(&local, &own, nearest)).collect()
    }

    pub(super) fn on_nat(&mut self, event: NatEvent) {
        match event {
            NatEvent::Client(relay::client::Event::ReservationReqAccepted {
                relay_peer_id,
                renewal,
                ..
            }) => self.on_reserved(relay_peer_id, renewal),
            NatEvent::Client(_) => {}
            NatEvent::Server(event) => self.on_relayed(&event),
            NatEvent::HolePunch(event) => {
                let peer = event.remote_peer_id;
                match event.result {
                    Ok(_) => tracing::info!(%peer, "direct connection through both routers"),
                    Err(error) => tracing::debug!(%peer, %error, "no direct connection"),
                }
            }
            NatEvent::Probes(event) => self.on_probed(event),
            NatEvent::PortMappings(upnp::Event::NewExternalAddr { external_addr, .. }) => {
                // Members find out whether it leads here.
                tracing::info!(address = %external_addr, "the router has opened a port");
            }
            NatEvent::PortMappings(_) => {}
        }
    }

    fn on_relayed(&self, event: &relay::Event) {
        match event {
            relay::Event::ReservationReqAccepted { src_peer_id, renewed: false } => {
                tracing::debug!(peer = %src_peer_id, "relay for a peer");
                self.metrics.relay("reserved");
            }
            relay::Event::ReservationReqDenied { .. } => self.metrics.relay("reservation_refused"),
            relay::Event::CircuitReqAccepted { .. } => self.metrics.relay("circuit"),
            relay::Event::CircuitReqDenied { .. } => self.metrics.relay("circuit_refused"),
            _ => {}
        }
    }

    fn on_probed(&mut self, event: autonat::Event) {
        let autonat::Event::OutboundProbe(event) = event else { return };
        let changes = match event {
            autonat::OutboundProbeEvent::Response { peer, address, .. } => {
                let local = *self.swarm.local_peer_id();
                let own = vetted(&local, &address, self.nearest_own());
                // Where it is not listening nobody can have reached it.
                let own = own.filter(|own| self.own_addresses_at(own).contains(own));
                own.map(|own| self.nat.reachability.reached(peer, own)).unwrap_or_default()
            }
            autonat::OutboundProbeEvent::Error {
                peer: Some(peer),
                error: autonat::OutboundProbeError::Response(autonat::ResponseError::DialError),
                ..
            } => {
                let before = self.nat.reachability.verdict();
                let changes = self.nat.reachability.not_reached(peer);
                if before != self.nat.reachability.verdict() {
                    tracing::info!("others cannot open connections to this node: it needs relays");
                }
                changes
            }
            _ => Vec::new(),
        };
        for change in changes {
            match change {
                Change::Confirmed(address) => {
                    tracing::info!(%address, "others reach this node");
                    self.swarm.add_external_address(address);
                }
                Change::Lost(addresses) => {
                    for address in &addresses {
                        self.swarm.remove_external_address(address);
                    }
                }
            }
        }
        self.set_relay_status();
        self.keep_relays(Instant::now());
    }

    /// Is a relay while others reach this peer, and no longer.
    pub(super) fn set_relay_status(&mut self) {
        let reached = self.nat.reachability.is_open();
        let direct = self.swarm.external_addresses().any(|address| !is_relayed(address));
        let status = if reached && direct { relay::Status::Enable } else { relay::Status::Disable };
        if let Some(server) = self.swarm.behaviour_mut().nat.server.as_mut() {
            server.set_status(Some(status));
        }
    }

    /// Asks for places until there are enough, if this peer needs them.
    pub(super) fn keep_relays(&mut self, now: Instant) {
        let wanted = self.nat.reachability.relays_wanted(self.config.limits.relays_max);
        if wanted == 0 || self.closing {
            return;
        }
        self.connect_named_relays(now);
        let local = kad::KBucketKey::from(*self.swarm.local_peer_id());
        let mut offers: Vec<_> = self.nat.offers.iter().copied().collect();
        offers.sort_by_key(|relay| {
            let distance = local.distance(&kad::KBucketKey::from(*relay));
            (!self.nat.is_named(relay), distance)
        });
        for relay in offers {
            if self.nat.places.len() >= wanted {
                return;
            }
            let held = self.nat.places.values().any(|place| place.relay == relay);
            if !held && self.is_due(&relay, now) {
                self.reserve(relay, now);
            }
        }
    }

    fn connect_named_relays(&mut self, now: Instant) {
        for (relay, address) in self.nat.named.clone() {
            if !self.swarm.is_connected(&relay) && self.is_due(&relay, now) {
                self.pause(relay, now);
                self.peers.given(relay, std::slice::from_ref(&address));
                self.connect(relay);
            }
        }
    }

    fn is_due(&self, relay: &PeerId, now: Instant) -> bool {
        self.nat.pauses.get(relay).is_none_or(|(due, _)| *due <= now)
    }

    /// Pauses before a relay is asked again, longer from time to time.
    fn pause(&mut self, relay: PeerId, now: Instant) {
        let limits = &self.config.limits;
        let min = Duration::from_millis(limits.redial_min_ms);
        let max = Duration::from_millis(limits.redial_max_ms);
        let before = self.nat.pauses.get(&relay).map(|(_, pause)| pause.saturating_mul(2));
        let pause = before.unwrap_or(min).min(max);
        self.nat.pauses.insert(relay, (now + pause, pause));
    }

    /// Asks a relay for a place, at the address where it is connected or has answered.
    fn reserve(&mut self, relay: PeerId, now: Instant) {
        self.pause(relay, now);
        let answered = self.peers.answered_at(&relay).cloned();
        let known = self.peers.addresses(&relay);
        let mut addresses = answered.into_iter().chain(known);
        let Some(address) = addresses.find(|address| !is_relayed(address)) else { return };
        let circuit = address.with(Protocol::P2p(relay)).with(Protocol::P2pCircuit);
        match self.swarm.listen_on(circuit) {
            Ok(listener) => {
                self.nat.places.insert(listener, Place { relay, reserved: false });
            }
            Err(error) => tracing::debug!(%relay, %error, "no place with a relay"),
        }
    }

    fn on_reserved(&mut self, relay: PeerId, renewal: bool) {
        self.nat.pauses.remove(&relay);
        for place in self.nat.places.values_mut() {
            if place.relay == relay && !place.reserved {
                place.reserved = true;
            }
        }
        if !renewal {
            tracing::info!(%relay, "reachable through a relay");
        }
        self.show_places();
    }

    /// A listener has closed: if it was a place with a relay, another takes its place.
    pub(super) fn on_listener_closed(&mut self, listener: ListenerId) {
        if let Some(place) = self.nat.places.remove(&listener) {
            let relay = place.relay;
            if place.reserved {
                tracing::info!(%relay, "a relay is lost");
            } else {
                tracing::debug!(%relay, "a relay has refused");
            }
            self.show_places();
            self.keep_relays(Instant::now());
        }
    }

    fn show_places(&self) {
        let reserved = self.nat.places.values().filter(|place| place.reserved).count();
        self.metrics.relays(reserved);
    }
}
