//! Getting connected: dial what is known, look up what is not, give up when neither helps.
//!
//! A peer that shall be connected goes through up to six steps: its known TCP addresses are
//! dialled, then its QUIC addresses, then those by relays, then those that it has only published; if
//! none answers, it is looked up in the routing tables of others, and what that gives beside is
//! dialled. No address is dialled twice on the way, and one learnt on the way is. What a lookup
//! gives is hearsay: it serves this one way and is not kept.
//! While this peer is still joining, lookups are held back, because nobody could be asked yet.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId,
    kad::{GetClosestPeersError, GetClosestPeersOk, GetClosestPeersResult, QueryId},
    swarm::{
        ConnectionId, DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::{sync::oneshot, time::Instant};

use super::EventLoop;
use crate::network::{
    address::{Scope, bounded, dial_order, is_relayed, named_peer, relay_of, vetted},
    error::{FindError, RequestError},
};

/// Lookups under way at a time.
const LOOKUPS_MAX: usize = 32;

/// Who waits for a lookup.
type Seeker = oneshot::Sender<Result<Vec<Multiaddr>, FindError>>;

/// What happens to a peer on its way to being connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Some of its addresses are dialled.
    Dialling(ConnectionId),
    /// The relays that it has are being connected first: two dials of one relay would collide.
    AwaitingRelay,
    /// It is looked up.
    LookingUp,
}

/// A peer on its way to being connected.
#[derive(Debug)]
struct Connecting {
    step: Step,
    /// Addresses that did not answer, or are dialled.
    tried: Vec<Multiaddr>,
    /// What others said, once they have been asked.
    found: Option<Vec<Multiaddr>>,
}

/// All dials and lookups under way.
#[derive(Debug, Default)]
pub(super) struct Dials {
    connecting: HashMap<PeerId, Connecting>,
    /// Lookups that wait for somebody to ask, until their deadline.
    held: HashMap<PeerId, Instant>,
    running: HashMap<QueryId, PeerId>,
    seekers: HashMap<PeerId, Vec<Seeker>>,
}

impl Connecting {
    const fn new() -> Self {
        Self { step: Step::LookingUp, tried: Vec::new(), found: None }
    }

    /// The addresses to dial next, of those known and found: TCP before QUIC before relays.
    fn untried(&self, mut addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
        merge(&mut addresses, self.found.iter().flatten());
        addresses.retain(|address| !self.tried.contains(address));
        let first = addresses.iter().map(dial_order).min();
        addresses.retain(|address| Some(dial_order(address)) == first);
        addresses
    }
}

/// Adds what is not there yet.
fn merge<'a>(addresses: &mut Vec<Multiaddr>, more: impl IntoIterator<Item = &'a Multiaddr>) {
    for address in more {
        if !addresses.contains(address) {
            addresses.push(address.clone());
        }
    }
}

impl Dials {
    /// The peer needs no more dialling.
    pub(super) fn connected(&mut self, peer: &PeerId) {
        self.connecting.remove(peer);
    }

    fn looks_up(&self, peer: &PeerId) -> bool {
        self.held.contains_key(peer) || self.running.values().any(|running| running == peer)
    }
}

impl EventLoop {
    /// Keeps addresses that a handle gives, and uses them if they are what was missing.
    pub(super) fn add_addresses(&mut self, peer: PeerId, addresses: &[Multiaddr]) {
        self.peers.given(peer, addresses);
        let connecting = self.dials.connecting.get(&peer);
        if connecting.is_some_and(|connecting| connecting.step == Step::LookingUp) {
            self.advance(peer);
        } else if self.members.wants(&peer) {
            self.connect(peer);
        }
    }

    /// Connects a peer, unless that is done or under way.
    pub(super) fn connect(&mut self, peer: PeerId) {
        if self.swarm.is_connected(&peer) || self.dials.connecting.contains_key(&peer) {
            return;
        }
        let mut connecting = Connecting::new();
        let bootstrap = self.bootstrap_dials.iter().find_map(|(id, position)| {
            let address = &self.config.bootstrap[*position];
            (named_peer(address) == Some(peer)).then_some((*id, address))
        });
        if let Some((id, address)) = bootstrap {
            // That dial serves both.
            connecting.step = Step::Dialling(id);
            connecting.tried.extend(vetted(&peer, address, Scope::Loopback));
        }
        self.dials.connecting.insert(peer, connecting);
        if bootstrap.is_none() {
            self.advance(peer);
        }
    }

    /// The next step of a peer that is not being dialled.
    fn advance(&mut self, peer: PeerId) {
        loop {
            let known = self.peers.addresses(&peer);
            let Some(connecting) = self.dials.connecting.get_mut(&peer) else {
                return;
            };
            let mut untried = connecting.untried(known);
            let is_published = untried.is_empty();
            if is_published {
                untried = connecting.untried(self.peers.only_published(&peer));
            }
            let by_relays = untried.first().is_some_and(is_relayed);
            if by_relays && self.await_relays(peer, &mut untried) {
                return;
            }
            if is_published {
                // Counted now that they go out.
                untried.retain(|address| self.may_dial_published(address));
            }
            let Some(connecting) = self.dials.connecting.get_mut(&peer) else {
                return;
            };
            if untried.is_empty() {
                if connecting.found.is_some() {
                    self.give_up(peer);
                } else {
                    connecting.step = Step::LookingUp;
                    self.look_up(peer);
                }
                return;
            }
            // Without a condition on dials: Kademlia may be dialling the peer at another address. A
            // port of its own: two peers that dial each other from their listen ports would collide.
            let options = DialOpts::peer_id(peer)
                .condition(PeerCondition::Disconnected)
                .addresses(untried.clone())
                .allocate_new_port()
                .build();
            connecting.step = Step::Dialling(options.connection_id());
            connecting.tried.extend(untried);
            match self.swarm.dial(options) {
                Ok(()) => return,
                Err(error) => tracing::debug!(%peer, %error, "cannot dial"),
            }
        }
    }

    /// Leaves of a peer's circuit addresses those by relays that are connected, if there are any.
    /// Otherwise says whether to wait, because one of the relays is being connected.
    fn await_relays(&mut self, peer: PeerId, circuits: &mut Vec<Multiaddr>) -> bool {
        let relays: Vec<_> = circuits.iter().filter_map(relay_of).collect();
        if relays.iter().any(|relay| self.swarm.is_connected(relay)) {
            circuits.retain(|circuit| {
                relay_of(circuit).is_some_and(|relay| self.swarm.is_connected(&relay))
            });
            return false;
        }
        let is_coming = relays.iter().any(|relay| self.is_dialled(relay));
        if is_coming && let Some(connecting) = self.dials.connecting.get_mut(&peer) {
            connecting.step = Step::AwaitingRelay;
        }
        is_coming
    }

    /// Whether a dial of the peer is under way.
    fn is_dialled(&self, peer: &PeerId) -> bool {
        let connecting = self.dials.connecting.get(peer);
        let dialled = connecting.is_some_and(|c| matches!(c.step, Step::Dialling(_)));
        let mut bootstrap = self.bootstrap_dials.values();
        dialled || bootstrap.any(|at| named_peer(&self.config.bootstrap[*at]) == Some(*peer))
    }

    /// The next step of peers that wait for their relays, some of which came or failed.
    pub(super) fn advance_awaiting(&mut self) {
        let connecting = self.dials.connecting.iter();
        let awaiting = connecting.filter(|(_, c)| c.step == Step::AwaitingRelay);
        let awaiting: Vec<_> = awaiting.map(|(peer, _)| *peer).collect();
        for peer in awaiting {
            self.advance(peer);
        }
    }

    /// A dial failed: the next step for whoever it was for.
    pub(super) fn on_dial_failed(&mut self, failed: ConnectionId, error: &DialError) {
        if let Some(position) = self.bootstrap_dials.remove(&failed) {
            self.bootstrap_failed(position, error);
        }
        let mut connecting = self.dials.connecting.iter();
        let its = connecting.find(|(_, connecting)| connecting.step == Step::Dialling(failed));
        if let Some((peer, _)) = its {
            self.advance(*peer);
        }
        self.advance_awaiting();
        self.start_held_lookups();
    }

    /// Says why this peer does not join: not at a first failure, and not while others show the
    /// way. The pauses between dials bound how often.
    fn bootstrap_failed(&self, position: usize, error: &DialError) {
        let address = &self.config.bootstrap[position];
        match error {
            // It is this peer's own, or its peer is connected by other means.
            DialError::LocalPeerId { .. } | DialError::DialPeerConditionFalse(_) => {}
            error if self.peers.any_routes() || !self.bootstrap.is_persistent(&position) => {
                tracing::debug!(%address, %error, "bootstrap address does not answer");
            }
            error => tracing::warn!(%address, %error, "bootstrap address does not answer"),
        }
    }

    fn give_up(&mut self, peer: PeerId) {
        self.dials.connecting.remove(&peer);
        self.fail_waiting(&peer, RequestError::Unreachable);
    }

    /// Looks a peer up on behalf of a handle.
    pub(super) fn find(&mut self, peer: PeerId, seeker: Seeker) {
        self.dials.seekers.entry(peer).or_default().push(seeker);
        self.look_up(peer);
        self.start_held_lookups();
    }

    fn look_up(&mut self, peer: PeerId) {
        if !self.dials.looks_up(&peer) {
            let patience = Duration::from_millis(self.config.limits.find_timeout_ms);
            self.dials.held.insert(peer, Instant::now() + patience);
        }
    }

    /// Whether this peer may soon know somebody to ask, but does not yet.
    fn is_joining(&self) -> bool {
        let hopes = !self.bootstrap_dials.is_empty() || self.peers.any_unknown();
        hopes && !self.peers.any_routes()
    }

    /// Starts lookups that wait, if there is somebody to ask and not too much to do.
    pub(super) fn start_held_lookups(&mut self) {
        if self.dials.held.is_empty() || self.is_joining() {
            return;
        }
        let free = LOOKUPS_MAX.saturating_sub(self.dials.running.len());
        let next: Vec<_> = self.dials.held.keys().take(free).copied().collect();
        for peer in next {
            self.dials.held.remove(&peer);
            let query = self.swarm.behaviour_mut().kademlia.get_closest_peers(peer);
            self.dials.running.insert(query, peer);
        }
    }

    /// Ends lookups that have waited too long.
    pub(super) fn expire_held_lookups(&mut self, now: Instant) {
        let held = self.dials.held.iter();
        let expired = held.filter(|(_, deadline)| **deadline <= now);
        let expired: HashSet<_> = expired.map(|(peer, _)| *peer).collect();
        for peer in expired {
            self.dials.held.remove(&peer);
            self.looked_up(peer, Vec::new());
        }
    }

    /// A query of the routing tables ended, maybe by its timeout.
    pub(super) fn on_looked_up(&mut self, query: QueryId, result: GetClosestPeersResult) {
        let Some(peer) = self.dials.running.remove(&query) else {
            return;
        };
        let (Ok(GetClosestPeersOk { peers, .. })
        | Err(GetClosestPeersError::Timeout { peers, .. })) = result;
        let nearest = self.peers.nearest_scope();
        let its = peers.into_iter().filter(|info| info.peer_id == peer);
        let found = its.flat_map(|info| info.addrs);
        let found = found.filter_map(|address| vetted(&peer, &address, nearest));
        let addresses = bounded(found, self.config.limits.addresses_per_peer_max);
        self.looked_up(peer, addresses);
        self.start_held_lookups();
    }

    fn looked_up(&mut self, peer: PeerId, found: Vec<Multiaddr>) {
        if let Some(seekers) = self.dials.seekers.remove(&peer) {
            let mut all = self.peers.addresses(&peer);
            merge(&mut all, &found);
            for seeker in seekers {
                let result =
                    if all.is_empty() { Err(FindError::NotFound) } else { Ok(all.clone()) };
                // The seeker may have gone.
                drop(seeker.send(result));
            }
        }
        if let Some(connecting) = self.dials.connecting.get_mut(&peer) {
            connecting.found = Some(found);
            if connecting.step == Step::LookingUp {
                self.advance(peer);
            }
        }
    }

    /// Dials a bootstrap address, unless that is under way or it is this peer's own.
    pub(super) fn dial_bootstrap(&mut self, position: usize) {
        if self.bootstrap_dials.values().any(|dialled| *dialled == position) {
            return;
        }
        let address = self.config.bootstrap[position].clone();
        let options = match named_peer(&address) {
            Some(peer) if peer == *self.swarm.local_peer_id() => return,
            Some(peer) => DialOpts::peer_id(peer)
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .addresses(vec![address])
                .allocate_new_port()
                .build(),
            None => DialOpts::unknown_peer_id().address(address).allocate_new_port().build(),
        };
        let id = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.bootstrap_dials.insert(id, position);
            }
            Err(error) => self.bootstrap_failed(position, &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_is_dialled_once_tcp_first_and_what_is_learnt_on_the_way_too() {
        let tcp = |port: u16| format!("/ip4/127.0.0.1/tcp/{port}").parse::<Multiaddr>().unwrap();
        let quic: Multiaddr = "/ip4/127.0.0.1/udp/1/quic-v1".parse().unwrap();
        let mut connecting = Connecting::new();
        let known = vec![quic.clone(), tcp(1)];
        let next = connecting.untried(known.clone());
        assert_eq!(next, [tcp(1)]);
        connecting.tried.extend(next);
        assert_eq!(connecting.untried(known.clone()), std::slice::from_ref(&quic));
        connecting.tried.push(quic);
        connecting.found = Some(vec![tcp(1), tcp(2)]);
        let relay = PeerId::random();
        let circuit: Multiaddr =
            format!("/ip4/127.0.0.1/tcp/4/p2p/{relay}/p2p-circuit").parse().unwrap();
        let learnt = [known, vec![circuit.clone(), tcp(3)]].concat();
        let next = connecting.untried(learnt.clone());
        assert_eq!(next, [tcp(3), tcp(2)]);
        connecting.tried.extend(next);
        assert_eq!(connecting.untried(learnt), [circuit]);
    }
}
