//! Connections through relays, and their end once there is a direct connection beside them.
//!
//! Requests would go on taking either of the two. So from the moment that a peer sees both, it
//! sends the other nothing new, and what runs comes to its end; then whoever opened the circuit
//! closes it, and what waited goes directly.
//!
//! Invariant: nothing is closed that a request of either side runs on.

use std::collections::{HashMap, HashSet};

use libp2p::{PeerId, swarm::ConnectionId};

use super::EventLoop;

/// A connection through a relay.
#[derive(Clone, Copy, Debug)]
struct Circuit {
    with: PeerId,
    /// Whether this peer opened it.
    own: bool,
    /// Whether it was of no more use when that was looked at last.
    idle: bool,
}

/// All connections through relays.
#[derive(Debug, Default)]
pub(super) struct Circuits(HashMap<ConnectionId, Circuit>);

impl Circuits {
    pub(super) fn opened(&mut self, id: ConnectionId, with: PeerId, own: bool) {
        self.0.insert(id, Circuit { with, own, idle: false });
    }

    pub(super) fn closed(&mut self, id: ConnectionId) {
        self.0.remove(&id);
    }

    fn count(&self, with: &PeerId) -> usize {
        self.0.values().filter(|circuit| circuit.with == *with).count()
    }
}

impl EventLoop {
    /// Whether requests to a peer wait for the end of a circuit.
    pub(super) fn drains_circuits(&self, peer: &PeerId) -> bool {
        let circuits = self.nat.circuits.count(peer);
        circuits > 0 && self.peers.connections(peer) > circuits
    }

    /// Closes the circuits beside direct connections that this peer opened and on which nothing
    /// has run since the last look: by then the other side has seen the direct one, too.
    pub(super) fn retire_circuits(&mut self) {
        let exchange = &self.swarm.behaviour().exchange;
        let idle = self.nat.circuits.0.iter().filter(|(id, Circuit { with, .. })| {
            self.drains_circuits(with) && !self.is_under_way(with) && !exchange.answers_on(**id)
        });
        let idle: HashSet<_> = idle.map(|(id, _)| *id).collect();
        for (id, circuit) in &mut self.nat.circuits.0 {
            let was_idle = std::mem::replace(&mut circuit.idle, idle.contains(id));
            if circuit.own && circuit.idle && was_idle {
                self.swarm.close_connection(*id);
            }
        }
    }
}
