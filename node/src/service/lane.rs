//! Lanes: how many requests of a kind run and wait at a time, in all and of one peer.
//!
//! So no stranger can make the node queue without end or keep the others out.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use floe_protocol::keys::NodeId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests of one kind: so many run, so many more wait, so many of them of one peer.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
    per_peer_max: usize,
    peers: BTreeMap<NodeId, Weak<Semaphore>>,
}

/// A place in a lane, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _in_lane: OwnedSemaphorePermit,
    _of_peer: OwnedSemaphorePermit,
}

impl Lane {
    pub(super) fn new(running_max: usize, queue_max: usize, per_peer_max: usize) -> Self {
        Self {
            running: Arc::new(Semaphore::new(running_max)),
            admitted: Arc::new(Semaphore::new(running_max + queue_max)),
            per_peer_max,
            peers: BTreeMap::new(),
        }
    }

    /// A place for a request of this peer, if the lane and its share of it have room.
    pub(super) fn admit(&mut self, peer: NodeId) -> Option<Place> {
        let in_lane = self.admitted.clone().try_acquire_owned().ok()?;
        // A peer is remembered for as long as it has a place: no more of them than places.
        self.peers.retain(|_, places| places.strong_count() > 0);
        let places = self.peers.get(&peer).and_then(Weak::upgrade);
        let places = places.unwrap_or_else(|| Arc::new(Semaphore::new(self.per_peer_max)));
        self.peers.insert(peer, Arc::downgrade(&places));
        let of_peer = places.try_acquire_owned().ok()?;
        Some(Place { _in_lane: in_lane, _of_peer: of_peer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_gets_its_share_of_a_lane_and_leaves_the_rest() {
        let mut lane = Lane::new(2, 4, 3);
        let (greedy, other) = (NodeId::new([1; 32]), NodeId::new([2; 32]));
        let mut places: Vec<_> = (0..3).map(|_| lane.admit(greedy).unwrap()).collect();
        assert!(lane.admit(greedy).is_none());
        places.extend((0..3).map(|_| lane.admit(other).unwrap()));
        assert!(lane.admit(NodeId::new([3; 32])).is_none(), "the lane is full");
        places.clear();
        assert!(lane.admit(greedy).is_some());
        assert_eq!(lane.peers.len(), 1, "those without a place are forgotten");
    }
}
