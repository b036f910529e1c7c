//! The storage service: takes requests and announcements from the network and answers them.
//!
//! This is where slivers enter and leave a node. The law of every write is *verify, persist,
//! flush, sign, answer*, in that order; [`Responder`] holds it, one method per request. The task
//! itself only bounds how many requests run at a time and how many wait, in all and of one peer:
//! beyond that the answer is `Busy`, so no stranger can make the node queue without end or keep the
//! others out.

mod responder;

use std::sync::Arc;

use floe_protocol::{
    ledger::LedgerView,
    message::{Refusal, Request, Response},
};
use floe_storage::Store;
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        watch,
    },
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use self::responder::{Judgement, Responder};
use super::{blocking, lane::Lane, on_ended, queries::Query};
use crate::{
    config::ServiceLimits,
    key_file::NodeKeys,
    network::{GossipMessage, InboundRequest, Network, Topic},
};

/// What the service needs.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) view: watch::Receiver<Arc<LedgerView>>,
    pub(crate) keys: NodeKeys,
    pub(crate) store: Store,
    pub(crate) network: Network,
    pub(crate) requests: mpsc::Receiver<InboundRequest>,
    pub(crate) announcements: mpsc::Receiver<GossipMessage>,
    /// Where questions about the ledger go.
    pub(crate) queries: mpsc::Sender<Query>,
    pub(crate) limits: ServiceLimits,
    pub(crate) cancel: CancellationToken,
}

/// Serves until cancelled, until the network has stopped, or until the store can no longer be
/// relied on.
pub(crate) async fn run(args: Args) {
    let Args { view, keys, store, network, limits, cancel, queries, .. } = args;
    let (mut requests, mut announcements) = (args.requests, args.announcements);
    let broken = CancellationToken::new();
    let responder = Responder::new(view, keys, store, network.clone(), broken.clone());
    let mut service = Service {
        responder: Arc::new(responder),
        network,
        queries,
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
            Some(ended) = service.tasks.join_next() => on_ended(ended),
            request = requests.recv() => match request {
                Some(request) => service.on_request(request),
                None => break,
            },
            Some(announcement) = announcements.recv() => service.on_announcement(announcement),
        }
    }
    // What runs is finished: it may be about to answer for something durable.
    while let Some(ended) = service.tasks.join_next().await {
        on_ended(ended);
    }
}

struct Service {
    responder: Arc<Responder>,
    network: Network,
    queries: mpsc::Sender<Query>,
    writes: Lane,
    reads: Lane,
    announcements: Lane,
    busy_retry_after_ms: u32,
    tasks: JoinSet<()>,
}

impl Service {
    fn on_request(&mut self, request: InboundRequest) {
        let InboundRequest { peer, request, reply } = request;
        let request = match request {
            Request::Ledger(request) => {
                if let Err(error) = self.queries.try_send(Query { peer, request, reply }) {
                    let retry_after_ms = self.busy_retry_after_ms;
                    let (TrySendError::Full(query) | TrySendError::Closed(query)) = error;
                    query.reply.reply(Response::Refused(Refusal::Busy { retry_after_ms }));
                }
                return;
            }
            request => request,
        };
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
}

const fn is_write(request: &Request) -> bool {
    match request {
        Request::Table { .. }
        | Request::StoreSlivers { .. }
        | Request::Confirm { .. }
        | Request::Certify { .. } => true,
        Request::BlobStatus { .. }
        | Request::ReadSliver { .. }
        | Request::NodeStatus
        | Request::Ledger(_) => false,
    }
}
