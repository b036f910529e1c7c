//! Getting connected: dial what is known, look up what is not, give up when neither helps.
//!
//! A peer that shall be connected goes through at most three steps: its known addresses are
//! dialled; if none answers, it is looked up in the routing tables of others; if that gives new
//! addresses, they are dialled. While this peer is still joining, lookups are held back, because
//! nobody could be asked yet.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId,
    kad::{GetClosestPeersError, GetClosestPeersOk, GetClosestPeersResult, QueryId},
    swarm::{
        ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::{sync::oneshot, time::Instant};

use super::EventLoop;
use crate::network::{
    address::{named_peer, vetted},
    error::{FindError, RequestError},
};

/// Lookups under way at a time.
const LOOKUPS_MAX: usize = 32;

/// Who waits for a lookup.
type Seeker = oneshot::Sender<Result<Vec<Multiaddr>, FindError>>;

/// How far a peer is on its way to being connected.
#[derive(Debug)]
enum Connecting {
    /// Its addresses are dialled.
    Dialling { id: ConnectionId, addresses: Vec<Multiaddr>, looked_up: bool },
    /// It is looked up, after these addresses did not answer.
    LookingUp { tried: Vec<Multiaddr> },
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
        if self.members.wants(&peer) {
            self.connect(peer);
        }
    }

    /// Connects a peer, unless that is done or under way.
    pub(super) fn connect(&mut self, peer: PeerId) {
        if self.swarm.is_connected(&peer) || self.dials.connecting.contains_key(&peer) {
            return;
        }
        let addresses = self.peers.addresses(&peer);
        self.dial(peer, addresses, false);
    }

    fn dial(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, looked_up: bool) {
        // Without a condition on dials: Kademlia may be dialling the peer at another address. A
        // port of its own: two peers that dial each other from their listen ports would collide.
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::Disconnected)
            .addresses(addresses.clone())
            .allocate_new_port()
            .build();
        let id = options.connection_id();
        let dialled = if addresses.is_empty() {
            false
        } else {
            let dialled = self.swarm.dial(options);
            dialled.inspect_err(|error| tracing::debug!(%peer, %error, "cannot dial")).is_ok()
        };
        let state = Connecting::Dialling { id, addresses, looked_up };
        self.dials.connecting.insert(peer, state);
        if !dialled {
            self.on_dial_failed(id);
        }
    }

    /// A dial failed: the next step for whoever it was for.
    pub(super) fn on_dial_failed(&mut self, failed: ConnectionId) {
        self.bootstrap_dials.remove(&failed);
        let is_it = |state: &Connecting| match state {
            Connecting::Dialling { id, .. } => *id == failed,
            Connecting::LookingUp { .. } => false,
        };
        let connecting = self.dials.connecting.iter_mut();
        let peer = connecting.into_iter().find(|(_, state)| is_it(state));
        if let Some((peer, state)) = peer
            && let Connecting::Dialling { addresses, looked_up, .. } = state
        {
            let peer = *peer;
            if *looked_up {
                self.give_up(peer);
            } else {
                let tried = std::mem::take(addresses);
                *state = Connecting::LookingUp { tried };
                self.look_up(peer);
            }
        }
        self.start_held_lookups();
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
        let it = peers.into_iter().filter(|info| info.peer_id == peer);
        let mut addresses = Vec::new();
        for address in it.flat_map(|info| info.addrs) {
            if let Some(address) = vetted(&peer, &address, nearest)
                && !addresses.contains(&address)
                && addresses.len() < self.config.limits.addresses_per_peer_max
            {
                addresses.push(address);
            }
        }
        self.looked_up(peer, addresses);
        self.start_held_lookups();
    }

    fn looked_up(&mut self, peer: PeerId, found: Vec<Multiaddr>) {
        for address in found.iter().rev() {
            self.peers.heard(peer, address.clone());
        }
        if let Some(seekers) = self.dials.seekers.remove(&peer) {
            let known = self.peers.addresses(&peer);
            for seeker in seekers {
                let result =
                    if known.is_empty() { Err(FindError::NotFound) } else { Ok(known.clone()) };
                // The seeker may have gone.
                drop(seeker.send(result));
            }
        }
        let state = self.dials.connecting.get(&peer);
        let Some(Connecting::LookingUp { tried }) = state else {
            return;
        };
        if found.iter().any(|address| !tried.contains(address)) {
            self.dial(peer, found, true);
        } else {
            self.give_up(peer);
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
                .condition(PeerCondition::Disconnected)
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
            Err(error) => tracing::debug!(%error, "cannot dial bootstrap address"),
        }
    }
}
