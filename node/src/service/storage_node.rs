//! The storage service: takes requests from the network and answers them.
//!
//! This is where slivers enter and leave a node. The law of every write is *verify, persist,
//! flush, sign, answer*, in that order; [`Responder`] holds it, one method per request. The task
//! itself only bounds how many requests run at a time and how many wait, in all and of one peer:
//! beyond that the answer is `Busy`, so no stranger can make the node queue without end or keep the
//! others out. What nobody pays for any more is removed by the collector, and its disk space given
//! back by the compactor.

mod blob_locks;
mod collector;
mod compactor;
mod responder;

use std::{sync::Arc, time::Duration};

use floe_protocol::{
    message::{Refusal, RepairStatus, Request, Response},
    registration::RegistrationId,
};
use floe_storage::Store;
use tokio::{
    sync::{
        Notify, Semaphore,
        mpsc::{self, error::TrySendError},
        watch,
    },
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::blob_locks::BlobLocks;
use self::{collector::Collector, responder::Responder};
use super::{blocking, lane::Lane, ledger::Ledger, on_ended, queries::Query};
use crate::{
    config::ServiceLimits,
    key_file::NodeKeys,
    network::{InboundRequest, Network},
};

/// How long a table waits for the block that registers its blob: its writer may have heard of that
/// block before this node has.
const REGISTRATION_WAIT: Duration = Duration::from_secs(1);
/// Tables that wait so at a time; more are told at once that there is no registration.
const REGISTRATION_WAITS_MAX: usize = 32;

/// What the service needs.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) ledger: Ledger,
    pub(crate) keys: NodeKeys,
    pub(crate) store: Store,
    pub(crate) network: Network,
    /// Shared with all who add to blobs.
    pub(crate) locks: Arc<BlobLocks>,
    /// How far repair has come.
    pub(crate) repair: watch::Receiver<RepairStatus>,
    pub(crate) requests: mpsc::Receiver<InboundRequest>,
    /// Where questions about the ledger go.
    pub(crate) queries: mpsc::Sender<Query>,
    pub(crate) limits: ServiceLimits,
    pub(crate) cancel: CancellationToken,
}

/// Serves until cancelled, until the network has stopped, or until the store can no longer be
/// relied on.
pub(crate) async fn run(args: Args) {
    let Args { ledger, keys, store, network, locks, mut requests, queries, limits, cancel, .. } =
        args;
    let broken = CancellationToken::new();
    let removed = Arc::new(Notify::new());
    let (collected, removal) = (store.clone(), Arc::clone(&removed));
    let collector = Collector::new(ledger.clone(), collected, Arc::clone(&locks), removal);
    let compaction = compactor::run(store.clone(), removed, (cancel.clone(), broken.clone()));
    let keys_and_store = (keys, store);
    let network = (network, args.repair);
    let responder = Responder::new(ledger, keys_and_store, locks, network, broken.clone());
    let mut service = Service {
        responder: Arc::new(responder),
        queries,
        writes: Lane::new(limits.writes_max, limits.queue_max, limits.per_peer_max),
        reads: Lane::new(limits.reads_max, limits.queue_max, limits.per_peer_max),
        waiting: Arc::new(Semaphore::new(REGISTRATION_WAITS_MAX)),
        busy_retry_after_ms: limits.busy_retry_after_ms,
        tasks: JoinSet::new(),
    };
    service.tasks.spawn(collector.run(cancel.clone(), broken.clone()));
    service.tasks.spawn(compaction);
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            () = broken.cancelled() => break,
            Some(ended) = service.tasks.join_next() => on_ended(ended),
            request = requests.recv() => match request {
                Some(request) => service.on_request(request),
                None => break,
            },
        }
    }
    broken.cancel();
    // What runs is finished: it may be about to answer for something durable.
    while let Some(ended) = service.tasks.join_next().await {
        on_ended(ended);
    }
}

struct Service {
    responder: Arc<Responder>,
    queries: mpsc::Sender<Query>,
    writes: Lane,
    reads: Lane,
    /// Tables that wait for a registration.
    waiting: Arc<Semaphore>,
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
        let (responder, waiting) = (Arc::clone(&self.responder), Arc::clone(&self.waiting));
        self.tasks.spawn(async move {
            let name = request.name();
            if let Request::Table { registration, .. } = &request
                && let Ok(_waiting) = waiting.try_acquire()
            {
                wait_for_registration(&responder, *registration).await;
            }
            let Ok(turn) = running.acquire_owned().await else { return };
            let Some(response) = blocking(move || responder.answer(request)).await else { return };
            drop((turn, place));
            if let Response::Refused(refusal) = &response {
                tracing::debug!(%peer, request = name, %refusal, "refused");
            }
            reply.reply(response);
        });
    }
}

/// Returns when the ledger has the registration here, too, or will hardly have it any more.
async fn wait_for_registration(responder: &Arc<Responder>, id: RegistrationId) {
    let mut states = responder.states();
    let known = async {
        loop {
            states.borrow_and_update();
            let responder = Arc::clone(responder);
            let known = blocking(move || responder.knows(&id)).await;
            if known != Some(false) || states.changed().await.is_err() {
                return;
            }
        }
    };
    // Whatever came of it: the answer says it.
    drop(timeout(REGISTRATION_WAIT, known).await);
}

const fn is_write(request: &Request) -> bool {
    match request {
        Request::Table { .. } | Request::StoreSlivers { .. } | Request::Confirm { .. } => true,
        Request::ReadSliver { .. }
        | Request::ReadPairs { .. }
        | Request::ReadSymbols { .. }
        | Request::Attest { .. }
        | Request::NodeStatus
        | Request::Ledger(_) => false,
    }
}
