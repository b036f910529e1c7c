//! Peers that come, say what they are, and go.
//!
//! Only trusted peers enter the routing table: nobody else is ever looked up, and strangers would
//! fill the buckets that members need. They enter it with what they tell of themselves and with
//! the address at which they were dialled, which a node behind a port forward does not know.

use libp2p::{Multiaddr, PeerId, core::ConnectedPoint, identify, swarm::ConnectionId};
use tokio::time::Instant;

use super::EventLoop;
use crate::network::{
    address::{Scope, bounded, covers, ip_of, node_id, vetted},
    metrics::{INBOUND, OUTBOUND, Word},
    peers::Introduction,
};

impl EventLoop {
    pub(super) fn on_connected(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        endpoint: &ConnectedPoint,
    ) {
        self.metrics.connection_opened(direction(endpoint));
        let bootstrap = self.bootstrap_dials.remove(&id);
        if node_id(&peer).is_none() {
            tracing::debug!(%peer, "peer has no ed25519 key");
            let _ = self.swarm.disconnect_peer_id(peer);
            return;
        }
        if let Some(position) = bootstrap {
            self.peers.bootstrapped(position, peer);
        }
        let remote = endpoint.get_remote_address();
        self.peers.opened(peer, remote);
        if endpoint.is_dialer()
            && let Some(address) = vetted(&peer, remote, Scope::Loopback)
        {
            self.peers.answered(peer, address);
        }
        self.members.connected(&peer);
        self.dials.connected(&peer);
        self.on_nat_connected(peer, id, endpoint);
        self.advance_awaiting();
        self.pump(peer);
    }

    pub(super) fn on_disconnected(&mut self, peer: PeerId, endpoint: &ConnectedPoint, left: u32) {
        self.metrics.connection_closed(direction(endpoint));
        let knew_the_way = self.peers.any_routes();
        self.peers.closed(&peer, left);
        if left == 0 {
            let now = Instant::now();
            self.members.lost(&peer, now);
            if knew_the_way && !self.peers.any_routes() {
                self.bootstrap.all_lost(now);
            }
            self.pump(peer);
        }
        self.start_held_lookups();
    }

    /// A peer introduced itself, now or anew.
    pub(super) fn on_identified(&mut self, peer: PeerId, info: identify::Info) {
        if info.protocol_version != self.names.identify {
            let theirs = &info.protocol_version;
            if self.peers.is_trusted(&peer) {
                tracing::warn!(%peer, theirs, "member or bootstrap peer is of another network");
            } else {
                tracing::debug!(%peer, theirs, "peer of another network");
            }
            self.metrics.malformed("wrong_network");
            let _ = self.swarm.disconnect_peer_id(peer);
            return;
        }
        let knew_the_way = self.peers.any_routes();
        let routes = info.protocols.contains(&self.names.routing);
        let nearest = self.peers.scope_of(&peer);
        let told = info.listen_addrs.iter().filter_map(|told| vetted(&peer, told, nearest));
        let addresses = bounded(told, self.config.limits.addresses_per_peer_max);
        self.on_nat_identified(peer, &info);
        let trusted = self.peers.is_trusted(&peer);
        if trusted {
            self.members.confirmed(&peer);
            self.check_observed(&info.observed_addr);
        }
        let kademlia = &mut self.swarm.behaviour_mut().kademlia;
        for address in addresses.iter().chain(self.peers.answered_at(&peer)) {
            if routes && trusted {
                kademlia.add_address(&peer, address.clone());
            }
        }
        for outdated in self.peers.told(peer, addresses) {
            kademlia.remove_address(&peer, &outdated);
        }
        let introduction = Introduction {
            agent: info.agent_version,
            answers_requests: info.protocols.contains(&self.names.request),
            routes,
        };
        self.peers.introduced(&peer, introduction);
        if !knew_the_way && self.peers.any_routes() {
            // Somebody can be asked for the members now.
            self.members.hurry(Instant::now());
        }
        self.start_held_lookups();
    }
}

impl EventLoop {
    /// Says once if others see this peer at an address that it does not tell: then nobody but
    /// those that it dials itself may find it.
    fn check_observed(&mut self, observed: &Multiaddr) {
        let told = self.swarm.listeners().chain(self.swarm.external_addresses());
        if !self.config.listen.is_empty()
            && !self.warned_of_observed
            && let Some(ip) = ip_of(observed)
            && Scope::of_ip(ip).is_some_and(|scope| scope > Scope::Loopback)
            && !covers(told, ip)
        {
            self.warned_of_observed = true;
            tracing::warn!(
                %ip,
                "others see this node at an address that it does not tell them: if it can be \
                 reached there, name that address with --external"
            );
        }
    }
}

const fn direction(endpoint: &ConnectedPoint) -> Word {
    match endpoint {
        ConnectedPoint::Dialer { .. } => OUTBOUND,
        ConnectedPoint::Listener { .. } => INBOUND,
    }
}
