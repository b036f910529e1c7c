//! Peers that come, say what they are, and go.

use libp2p::{PeerId, core::ConnectedPoint, identify, swarm::ConnectionId};
use tokio::time::Instant;

use super::EventLoop;
use crate::network::{
    address::{Scope, node_id, vetted},
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
        self.bootstrap_dials.remove(&id);
        if node_id(&peer).is_none() {
            tracing::debug!(%peer, "peer has no ed25519 key");
            let _ = self.swarm.disconnect_peer_id(peer);
            return;
        }
        let remote = endpoint.get_remote_address();
        self.peers.opened(peer, remote);
        if endpoint.is_dialer()
            && let Some(address) = vetted(&peer, remote, Scope::Loopback)
        {
            self.peers.heard(peer, address);
        }
        self.members.connected(&peer);
        self.dials.connected(&peer);
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
            tracing::debug!(%peer, theirs = info.protocol_version, "peer of another network");
            self.metrics.malformed("wrong_network");
            let _ = self.swarm.disconnect_peer_id(peer);
            return;
        }
        let knew_the_way = self.peers.any_routes();
        let routes = info.protocols.contains(&self.names.routing);
        let nearest = self.peers.scope_of(&peer);
        let mut addresses = Vec::new();
        for address in &info.listen_addrs {
            if let Some(address) = vetted(&peer, address, nearest)
                && !addresses.contains(&address)
                && addresses.len() < self.config.limits.addresses_per_peer_max
            {
                addresses.push(address);
            }
        }
        let kademlia = &mut self.swarm.behaviour_mut().kademlia;
        for address in addresses.iter().filter(|_| routes) {
            kademlia.add_address(&peer, address.clone());
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
        if routes && !knew_the_way {
            // Somebody can be asked for the members now.
            self.members.hurry(Instant::now());
        }
        self.start_held_lookups();
    }
}

const fn direction(endpoint: &ConnectedPoint) -> Word {
    match endpoint {
        ConnectedPoint::Dialer { .. } => OUTBOUND,
        ConnectedPoint::Listener { .. } => INBOUND,
    }
}
