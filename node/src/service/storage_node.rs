//! The storage service: takes requests and announcements from the network and answers them.
//!
//! This is where slivers enter and leave a node. The law of every write is *verify, persist,
//! flush, sign, answer*, in that order; [`Responder`] holds it, one method per request. The task
//! itself only bounds how many requests run at a time and how many wait, in all and of one peer:
//! beyond that the answer is `Busy`, so no stranger can make the node queue without end or keep the
//! others out.

mod responder;

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use floe_protocol::{
    keys::NodeId,
    ledger::LedgerView,
    message::{Refusal, Request, Response},
};
use floe_storage::Store;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{JoinSet, spawn_blocking},
};
use tokio_util::sync::CancellationToken;

use self::responder::{Judgement, Responder};
use crate::{
    config::ServiceLimits,
    key_file::NodeKeys,
    network::{GossipMessage, Inbound, InboundRequest, Network, Topic},
};

/// What the service needs.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) view: watch::Receiver<Arc<LedgerView>>,
    pub(crate) keys: NodeKeys,
    pub(crate) store: Store,
    pub(crate) network: Network,
    pub(crate) inbound: Inbound,
    pub(crate) limits: ServiceLimits,
    pub(crate) cancel: CancellationToken,
}

/// Requests of one kind: so many run, so many more wait, so many of them of one peer.
#[derive(Debug)]
struct Lane {
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
    per_peer_max: usize,
    peers: BTreeMap<NodeId, Weak<Semaphore>>,
}

/// A place in a lane, until it is dropped.
#[derive(Debug)]
struct Place {
    _in_lane: OwnedSemaphorePermit,
    _of_peer: OwnedSemaphorePermit,
}

impl Lane {
    fn new(running_max: usize, queue_max: usize, per_peer_max: usize) -> Self {
        Self {
            running: Arc::new(Semaphore::new(running_max)),
            admitted: Arc::new(Semaphore::new(running_max + queue_max)),
            per_peer_max,
            peers: BTreeMap::new(),
        }
    }

    /// A place for a request of this peer, if the lane and its share of it have room.
    fn admit(&mut self, peer: NodeId) -> Option<Place> {
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

/// Serves until cancelled, until the network has stopped, or until the store can no longer be
/// relied on.
pub(crate) async fn run(args: Args) {
    let Args { view, keys, store, network, inbound, limits, cancel } = args;
    let Inbound { mut requests, mut announcements, .. } = inbound;
    let broken = CancellationToken::new();
    let responder = Responder::new(view, keys, store, network.clone(), broken.clone());
    let mut service = Service {
        responder: Arc::new(responder),
        network,
        writes: Lane::new(limits.writes_max, limits.queue_max, limits.per_peer_max),
        reads: Lane::new(limits.reads_max, limits.queue_max, limits.per_peer_max),
        announcements: Lane::new(1, limits.queue_max, limits.per_peer_max),
        busy_retry_after_ms: limits.busy_retry_after_ms,
        tasks: JoinSet::new(),
    };
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            () = broken.cancelled() => break,
            Some(ended) = service.tasks.join_next() => Service::on_ended(ended),
            request = requests.recv() => match request {
                Some(request) => service.on_request(request),
                None => break,
            },
            Some(announcement) = announcements.recv() => service.on_announcement(announcement),
        }
    }
    // What runs is finished: it may be about to answer for something durable.
    while let Some(ended) = service.tasks.join_next().await {
        Service::on_ended(ended);
    }
}

struct Service {
    responder: Arc<Responder>,
    network: Network,
    writes: Lane,
    reads: Lane,
    announcements: Lane,
    busy_retry_after_ms: u32,
    tasks: JoinSet<()>,
}

impl Service {
    fn on_request(&mut self, request: InboundRequest) {
        let InboundRequest { peer, request, reply } = request;
        let lane = if is_write(&request) { &mut self.writes } else { &mut self.reads };
        let Some(place) = lane.admit(peer) else {
            let retry_after_ms = self.busy_retry_after_ms;
            reply.reply(Response::Refused(Refusal::Busy { retry_after_ms }));
            return;
        };
        let running = lane.running.clone();
        let (responder, network) = (self.responder.clone(), self.network.clone());
        self.tasks.spawn(async move {
            let name = request.name();
            let Ok(turn) = running.acquire_owned().await else { return };
            let Some((response, announcement)) = blocking(move || responder.answer(request)).await
            else {
                return;
            };
            drop((turn, place));
            if let Response::Refused(refusal) = &response {
                tracing::debug!(%peer, request = name, %refusal, "refused");
            }
            reply.reply(response);
            if let Some(bytes) = announcement
                && let Err(error) = network.publish(Topic::Announcements, bytes).await
            {
                tracing::debug!(%error, "certificate not announced");
            }
        });
    }

    fn on_announcement(&mut self, announcement: GossipMessage) {
        let GossipMessage { from, bytes, verdict, .. } = announcement;
        // Without a place the verdict is dropped, which means to ignore the announcement.
        let Some(place) = self.announcements.admit(from) else { return };
        let (responder, running) = (self.responder.clone(), self.announcements.running.clone());
        self.tasks.spawn(async move {
            let _place = place;
            let Ok(_turn) = running.acquire_owned().await else { return };
            let judged = blocking(move || responder.judge(&bytes)).await;
            tracing::debug!(%from, ?judged, "announcement");
            match judged {
                Some(Judgement::Valid) => verdict.accept(),
                Some(Judgement::Invalid) => verdict.reject(),
                Some(Judgement::Unknown) | None => verdict.ignore(),
            }
        });
    }

    /// A panic in a request's task is a broken invariant of ours: the node must not go on.
    fn on_ended(ended: Result<(), tokio::task::JoinError>) {
        if let Err(error) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// Runs on a blocking thread; nothing comes back only when the runtime is shutting down.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match spawn_blocking(work).await {
        Ok(result) => Some(result),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}

const fn is_write(request: &Request) -> bool {
    match request {
        Request::Table { .. }
        | Request::StoreSlivers { .. }
        | Request::Confirm { .. }
        | Request::Certify { .. } => true,
        Request::BlobStatus { .. } | Request::ReadSliver { .. } | Request::NodeStatus => false,
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
