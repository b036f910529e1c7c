//! Who is connected, and at which addresses peers can be reached.
//!
//! Addresses come from four sides: *given* by this peer's own configuration and memory, *told* by
//! the peers of themselves, *published* by them for everybody, and the one at which a peer
//! *answered* last. What a peer tells or publishes of itself replaces what it said before, so that
//! a node that moved is found at its new address; the others stay, because a peer behind a port
//! forward does not know its own address. What third parties tell is not kept. Only *trusted* peers show the way to others: those of the committee, and
//! those that this peer began with.
//!
//! Invariant: bounded by `addresses_per_peer_max` and `known_peers_max`; only peers that are
//! neither connected nor of the committee are forgotten.

use std::collections::{BTreeMap, HashMap, HashSet};

use floe_protocol::keys::NodeId;
use libp2p::{Multiaddr, PeerId};

use super::{
    address::{Scope, ip_of, is_relayed, named_peer, nearest_told, node_id, vetted},
    config::NetworkConfig,
};

/// What is kept of a peer's own description of its software.
const AGENT_CHARS_MAX: usize = 64;

/// A connected peer.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerView {
    /// The address of its first connection, or of the first that goes through no relay.
    pub address: Multiaddr,
    /// Connections with it.
    pub connections: u32,
    /// Whether it answers requests: a storage node rather than a light peer. Known once the two
    /// have introduced themselves.
    pub answers_requests: bool,
    /// Its own description of its software. For people, never for decisions.
    pub agent: String,
    /// Its standing in gossip: 0 is neutral, below 0 it sent something wrong.
    pub gossip_score: f64,
}

/// The peers at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PeersView {
    /// Who is connected.
    pub connected: BTreeMap<NodeId, PeerView>,
    /// Addresses of committee nodes, worth remembering for the next start.
    pub committee_addresses: BTreeMap<NodeId, Vec<Multiaddr>>,
}

/// What a peer said of itself.
#[derive(Debug, Default)]
pub(super) struct Introduction {
    pub(super) agent: String,
    pub(super) answers_requests: bool,
    pub(super) routes: bool,
}

#[derive(Debug)]
struct Connected {
    address: Multiaddr,
    connections: u32,
    introduction: Option<Introduction>,
    gossip_score: f64,
}

#[derive(Debug, Default)]
struct Known {
    given: Vec<Multiaddr>,
    told: Vec<Multiaddr>,
    answered: Option<Multiaddr>,
    published: Vec<Multiaddr>,
    /// When it was last of use, in the book's own count.
    used: u64,
}

/// The peers' table and address book.
#[derive(Debug)]
pub(super) struct Peers {
    committee: HashSet<PeerId>,
    /// The peers that bootstrap addresses name.
    bootstrap: HashSet<PeerId>,
    /// Who answered last at each bootstrap address, by its position.
    bootstrap_answered: HashMap<usize, PeerId>,
    addresses_max: usize,
    known_max: usize,
    connected: HashMap<PeerId, Connected>,
    known: HashMap<PeerId, Known>,
    clock: u64,
    changed: bool,
}

impl Peers {
    pub(super) fn new(config: &NetworkConfig, committee: HashSet<PeerId>) -> Self {
        Self {
            committee,
            bootstrap: config.bootstrap.iter().filter_map(named_peer).collect(),
            bootstrap_answered: HashMap::new(),
            addresses_max: config.limits.addresses_per_peer_max,
            known_max: config.limits.known_peers_max,
            connected: HashMap::new(),
            known: HashMap::new(),
            clock: 0,
            changed: false,
        }
    }

    /// Names the committee's members anew; those before.
    pub(super) fn set_committee(&mut self, committee: HashSet<PeerId>) -> HashSet<PeerId> {
        self.changed = true;
        std::mem::replace(&mut self.committee, committee)
    }

    /// Where a connected peer that shows the way to others says that it is.
    pub(super) fn routing_addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let introduction = self.connected.get(peer).and_then(|c| c.introduction.as_ref());
        let Some(known) = self.known.get(peer) else { return Vec::new() };
        if !introduction.is_some_and(|introduction| introduction.routes) {
            return Vec::new();
        }
        known.told.iter().chain(&known.answered).cloned().collect()
    }

    /// Notes who answered at a bootstrap address.
    pub(super) fn bootstrapped(&mut self, position: usize, peer: PeerId) {
        self.bootstrap_answered.insert(position, peer);
    }

    /// Whether the peer is of the committee.
    pub(super) fn is_member(&self, peer: &PeerId) -> bool {
        self.committee.contains(peer)
    }

    /// Whether the peer is of the committee, or one that this peer began with.
    pub(super) fn is_trusted(&self, peer: &PeerId) -> bool {
        self.committee.contains(peer)
            || self.bootstrap.contains(peer)
            || self.bootstrap_answered.values().any(|answered| answered == peer)
    }

    /// Notes a connection.
    pub(super) fn opened(&mut self, peer: PeerId, address: &Multiaddr) {
        self.changed = true;
        let entry = self.connected.entry(peer).or_insert_with(|| Connected {
            address: address.clone(),
            connections: 0,
            introduction: None,
            gossip_score: 0.0,
        });
        if ip_of(&entry.address).is_none() || is_relayed(&entry.address) {
            entry.address = address.clone();
        }
        entry.connections += 1;
    }

    /// Notes that a connection closed and how many are left.
    pub(super) fn closed(&mut self, peer: &PeerId, left: u32) {
        self.changed = true;
        if left == 0 {
            self.connected.remove(peer);
        } else if let Some(entry) = self.connected.get_mut(peer) {
            entry.connections = left;
        }
    }

    /// The connections with a peer.
    pub(super) fn connections(&self, peer: &PeerId) -> usize {
        let connections = self.connected.get(peer).map_or(0, |c| c.connections);
        usize::try_from(connections).unwrap_or(usize::MAX)
    }

    /// Notes what a peer said of itself.
    pub(super) fn introduced(&mut self, peer: &PeerId, mut introduction: Introduction) {
        if let Some(entry) = self.connected.get_mut(peer) {
            let visible = |c: &char| !c.is_control();
            let agent = introduction.agent.chars().filter(visible);
            introduction.agent = agent.take(AGENT_CHARS_MAX).collect();
            entry.introduction = Some(introduction);
            self.changed = true;
        }
    }

    /// Notes a peer's standing in gossip.
    pub(super) fn scored(&mut self, peer: &PeerId, score: f64) {
        if let Some(entry) = self.connected.get_mut(peer)
            && (entry.gossip_score - score).abs() >= 0.1
        {
            entry.gossip_score = score;
            self.changed = true;
        }
    }

    /// Whether somebody trusted is connected who knows the way to others. Strangers do not count:
    /// a crowd of them would keep this peer from those that it can rely on.
    pub(super) fn any_routes(&self) -> bool {
        let routes = |c: &Connected| c.introduction.as_ref().is_some_and(|known| known.routes);
        self.connected.iter().any(|(peer, c)| routes(c) && self.is_trusted(peer))
    }

    /// Whether somebody trusted is connected who has not said yet what it is.
    pub(super) fn any_unknown(&self) -> bool {
        self.connected.iter().any(|(peer, c)| c.introduction.is_none() && self.is_trusted(peer))
    }

    /// The nearest scope that a connection has: addresses of third peers are taken from there on.
    pub(super) fn nearest_scope(&self) -> Scope {
        let scopes = self.connected.values().filter_map(|c| nearest_told(&c.address));
        scopes.min().unwrap_or(Scope::Global)
    }

    /// The scope of a connected peer's own connection: what it tells of itself is taken from there
    /// on.
    pub(super) fn scope_of(&self, peer: &PeerId) -> Scope {
        let connected = self.connected.get(peer);
        let scope = connected.and_then(|c| nearest_told(&c.address));
        scope.unwrap_or(Scope::Global)
    }

    pub(super) fn connected(&self) -> impl Iterator<Item = &PeerId> {
        self.connected.keys()
    }

    /// Keeps addresses that this peer was given.
    pub(super) fn given(&mut self, peer: PeerId, addresses: &[Multiaddr]) {
        let max = self.addresses_max;
        let known = self.entry(peer);
        for address in addresses {
            if let Some(address) = vetted(&peer, address, Scope::Loopback) {
                prefer(&mut known.given, address, max);
            }
        }
        self.changed = true;
    }

    /// Keeps the address at which the peer has just answered.
    pub(super) fn answered(&mut self, peer: PeerId, address: Multiaddr) {
        self.entry(peer).answered = Some(address);
        self.changed = true;
    }

    /// The address at which the peer answered last.
    pub(super) fn answered_at(&self, peer: &PeerId) -> Option<&Multiaddr> {
        self.known.get(peer)?.answered.as_ref()
    }

    /// Keeps what a peer told of itself in place of what was told before, and returns what is
    /// thereby out of date. Nothing changes if none of it is of use.
    pub(super) fn told(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
        if addresses.is_empty() {
            return Vec::new();
        }
        self.changed = true;
        let known = self.entry(peer);
        let before = std::mem::replace(&mut known.told, addresses);
        let outdated = |address: &Multiaddr| {
            !known.told.contains(address) && known.answered.as_ref() != Some(address)
        };
        before.into_iter().filter(outdated).collect()
    }

    /// Keeps what a peer has published in place of what it had before.
    pub(super) fn published(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        if !addresses.is_empty() || self.known.contains_key(&peer) {
            self.entry(peer).published = addresses;
        }
    }

    /// The addresses that nobody vouches for but who has published them.
    pub(super) fn only_published(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let Some(known) = self.known.get(peer) else { return Vec::new() };
        let others = known.all(self.addresses_max);
        let published = known.published.iter();
        published.filter(|address| !others.contains(address)).cloned().collect()
    }

    /// Where the peer may be reached, best first, but for what it has only published.
    pub(super) fn addresses(&mut self, peer: &PeerId) -> Vec<Multiaddr> {
        self.clock += 1;
        let Some(known) = self.known.get_mut(peer) else {
            return Vec::new();
        };
        known.used = self.clock;
        known.all(self.addresses_max)
    }

    /// The entry of a peer, for which the longest unused one makes room.
    fn entry(&mut self, peer: PeerId) -> &mut Known {
        self.clock += 1;
        if self.known.len() >= self.known_max && !self.known.contains_key(&peer) {
            let expendable = |peer: &PeerId| {
                !self.committee.contains(peer) && !self.connected.contains_key(peer)
            };
            let candidates = self.known.iter().filter(|(peer, _)| expendable(peer));
            let oldest = candidates.min_by_key(|(_, known)| known.used);
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                self.known.remove(&oldest);
            }
        }
        let entry = self.known.entry(peer).or_default();
        entry.used = self.clock;
        entry
    }

    /// The view for others, if anything changed since the last.
    pub(super) fn take_view(&mut self) -> Option<PeersView> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let view = |(peer, c): (&PeerId, &Connected)| {
            let introduction = c.introduction.as_ref();
            let view = PeerView {
                address: c.address.clone(),
                connections: c.connections,
                answers_requests: introduction.is_some_and(|i| i.answers_requests),
                agent: introduction.map(|i| i.agent.clone()).unwrap_or_default(),
                gossip_score: c.gossip_score,
            };
            Some((node_id(peer)?, view))
        };
        let addresses = |peer: &PeerId| {
            let addresses = self.known.get(peer)?.all(self.addresses_max);
            (!addresses.is_empty()).then_some((node_id(peer)?, addresses))
        };
        Some(PeersView {
            connected: self.connected.iter().filter_map(view).collect(),
            committee_addresses: self.committee.iter().filter_map(addresses).collect(),
        })
    }
}

impl Known {
    fn all(&self, max: usize) -> Vec<Multiaddr> {
        let mut all = self.told.clone();
        for address in self.answered.iter().chain(&self.given) {
            if !all.contains(address) {
                all.push(address.clone());
            }
        }
        // What was given must not be crowded out by what was told.
        all.truncate(2 * max);
        all
    }
}

/// Puts an address first, and drops the last beyond `max`.
fn prefer(addresses: &mut Vec<Multiaddr>, address: Multiaddr, max: usize) {
    addresses.retain(|other| *other != address);
    addresses.insert(0, address);
    addresses.truncate(max);
}

#[cfg(test)]
mod tests {
    use floe_protocol::{
        encoding::EncodingConfig,
        hash::Hash,
        keys::{ChainId, KeyPair},
        message::Limits,
    };

    use super::*;
    use crate::network::Role;

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
    }

    fn peers(committee: &[PeerId]) -> Peers {
        let limits = Limits::new(EncodingConfig::new(4).unwrap());
        let key = KeyPair::from_seed([1; 32]);
        let chain = ChainId::new(Hash::ZERO);
        let mut config = NetworkConfig::new(key, chain, limits, Role::StorageNode);
        config.limits.addresses_per_peer_max = 2;
        config.limits.known_peers_max = 2;
        Peers::new(&config, committee.iter().copied().collect())
    }

    #[test]
    fn what_a_peer_tells_replaces_what_was_told_but_not_what_was_given() {
        let peer = PeerId::random();
        let mut peers = peers(&[]);
        peers.given(peer, &[address(1)]);
        assert!(peers.told(peer, vec![address(2), address(3)]).is_empty());
        assert_eq!(peers.told(peer, vec![address(3), address(4)]), [address(2)]);
        assert!(peers.told(peer, Vec::new()).is_empty(), "nothing of use was told");
        assert_eq!(peers.addresses(&peer), [address(3), address(4), address(1)]);
        // Where it answered is where it is, whatever it believes.
        peers.answered(peer, address(4));
        assert!(peers.told(peer, vec![address(3)]).is_empty());
        assert_eq!(peers.addresses(&peer), [address(3), address(4), address(1)]);
    }

    #[test]
    fn addresses_and_peers_are_bounded_and_the_committee_is_kept() {
        let (member, first, second) = (PeerId::random(), PeerId::random(), PeerId::random());
        let mut peers = peers(&[member]);
        peers.given(member, &[address(1)]);
        for port in 2..10 {
            peers.given(first, &[address(port)]);
        }
        assert_eq!(peers.addresses(&first), [address(9), address(8)]);
        peers.answered(second, address(10));
        assert!(peers.addresses(&first).is_empty());
        assert_eq!(peers.addresses(&second), [address(10)]);
        assert_eq!(peers.addresses(&member), [address(1)]);
    }

    #[test]
    fn strangers_show_no_way() {
        let (member, stranger, beginning) = (PeerId::random(), PeerId::random(), PeerId::random());
        for (peer, expected) in [(member, true), (stranger, false), (beginning, true)] {
            let mut peers = peers(&[member]);
            peers.bootstrapped(0, beginning);
            peers.opened(peer, &address(1));
            assert_eq!(peers.any_unknown(), expected);
            peers.introduced(&peer, Introduction { routes: true, ..Introduction::default() });
            assert_eq!(peers.any_routes(), expected);
        }
    }
}
