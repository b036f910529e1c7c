//! What members ask about rounds, on its way to the service.
//!
//! Each member has its share of the queue: who floods it has his own requests refused, and nobody
//! else's. So a member waits behind a bounded number of each of the others.

use floe_protocol::keys::NodeId;
use tokio::sync::mpsc;

use crate::service::lane::{Lane, Place};

/// Requests that wait: the shares of 256 members.
const REQUESTS_MAX: usize = 4_096;
/// Requests of one member among them: a transcript and an acknowledgement of each open round.
const PER_PEER_MAX: usize = 16;

/// A request that has a place in the queue, until it is dropped.
#[derive(Debug)]
pub(super) struct Asked<T> {
    pub(super) request: T,
    _place: Place,
}

/// Where requests of members go.
#[derive(Debug)]
pub(crate) struct Requests<T> {
    lane: Lane,
    sender: mpsc::Sender<Asked<T>>,
}

/// Both ends of the queue.
pub(super) fn channel<T>() -> (Requests<T>, mpsc::Receiver<Asked<T>>) {
    let (sender, asked) = mpsc::channel(REQUESTS_MAX);
    (Requests { lane: Lane::new(0, REQUESTS_MAX, PER_PEER_MAX), sender }, asked)
}

impl<T> Requests<T> {
    /// Hands on what `peer` asks, or gives it back if there is no room for it.
    pub(crate) fn hand_on(&mut self, peer: NodeId, request: T) -> Result<(), T> {
        match self.lane.admit(peer) {
            Some(place) => {
                let asked = Asked { request, _place: place };
                self.sender.try_send(asked).map_err(|error| error.into_inner().request)
            }
            None => Err(request),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_floods_the_queue_leaves_room_for_others() {
        let (mut requests, mut asked) = channel();
        let [greedy, other] = [1, 2].map(|number| NodeId::new([number; 32]));
        let taken = (0..REQUESTS_MAX).filter(|number| requests.hand_on(greedy, *number).is_ok());
        assert_eq!(taken.count(), PER_PEER_MAX);
        assert_eq!(requests.hand_on(other, 1_000), Ok(()));
        assert_eq!(requests.hand_on(greedy, 1_001), Err(1_001), "it gets it back");
        assert_eq!(asked.try_recv().unwrap().request, 0);
        assert_eq!(requests.hand_on(greedy, 1_002), Ok(()), "one of its own was answered");
        let left: Vec<_> = std::iter::from_fn(|| asked.try_recv().ok()).collect();
        let left = left.iter().map(|asked| asked.request);
        assert!(left.eq((1..PER_PEER_MAX).chain([1_000, 1_002])));
        drop(asked);
        assert_eq!(requests.hand_on(other, 7), Err(7), "nobody listens");
    }
}
