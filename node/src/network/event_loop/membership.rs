//! The committee as it changes: who is trusted, who is kept connected, where they say they are.
//!
//! A member keeps connections to all others, since consensus goes over them. Another storage node
//! keeps a few, by which it follows: to the members that are nearest to it by name, so that
//! followers spread evenly over the committee. Light peers connect when they ask.

use std::collections::HashSet;

use floe_protocol::keys::NodeId;
use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use super::EventLoop;
use crate::network::{
    address::{Scope, dialable, ip_of, node_id, relay_of},
    config::{NetworkConfig, Role},
};

/// Members that a storage node keeps connections to while it is none of them.
const FOLLOWED_MAX: usize = 8;

/// The members that this peer keeps connections to.
pub(super) fn kept(
    config: &NetworkConfig,
    committee: &HashSet<PeerId>,
    is_member: bool,
) -> Vec<PeerId> {
    match config.role {
        Role::LightPeer => Vec::new(),
        Role::StorageNode if is_member => committee.iter().copied().collect(),
        Role::StorageNode => {
            let me = config.key.public();
            let mut members: Vec<_> = committee
                .iter()
                .filter_map(|peer| Some((distance(&me, &node_id(peer)?), *peer)))
                .collect();
            members.sort_unstable();
            members.into_iter().take(FOLLOWED_MAX).map(|(_, peer)| peer).collect()
        }
    }
}

fn distance(a: &NodeId, b: &NodeId) -> Vec<u8> {
    a.as_bytes().iter().zip(b.as_bytes()).map(|(a, b)| a ^ b).collect()
}

impl EventLoop {
    /// Other peers are of the committee from now on.
    pub(super) fn set_committee(&mut self, others: Vec<PeerId>, is_member: bool) {
        let committee: HashSet<_> = others.into_iter().collect();
        let now = Instant::now();
        let before = self.peers.set_committee(committee.clone());
        let behaviour = self.swarm.behaviour_mut();
        behaviour.limiter.set_privileged(committee.clone());
        behaviour.exchange.set_committee(committee.clone());
        // The routing table has trusted peers only.
        for left in before.iter().filter(|peer| !self.peers.is_trusted(peer)) {
            behaviour.kademlia.remove_peer(left);
        }
        for joined in committee.difference(&before) {
            for address in self.peers.routing_addresses(joined) {
                behaviour.kademlia.add_address(joined, address);
            }
        }
        self.on_nat_committee(&before, &committee);
        let swarm = &self.swarm;
        let kept = kept(&self.config, &committee, is_member);
        self.members.set_targets(kept, now, |peer| swarm.is_connected(peer));
        self.start_held_lookups();
    }

    /// A peer has published where it is.
    pub(super) fn set_published(&mut self, peer: PeerId, published: &[Multiaddr]) {
        let own = self.config.listen.iter().chain(&self.config.external);
        let nearest = own.filter_map(Scope::of).min().unwrap_or(Scope::Global);
        let max = self.config.limits.addresses_per_peer_max;
        self.peers.published(peer, dialable(&peer, published, (nearest, max)));
        if self.members.wants(&peer) {
            self.connect(peer);
        }
    }

    /// Counts a dial of an address that its peer has published, if it may be made. Through a relay
    /// that is connected nothing new is dialled from here.
    pub(super) fn may_dial_published(&mut self, address: &Multiaddr) -> bool {
        let by_connected = relay_of(address).is_some_and(|relay| self.swarm.is_connected(&relay));
        let now = Instant::now();
        by_connected || ip_of(address).is_some_and(|ip| self.published_dials.may_dial(ip, now))
    }
}
