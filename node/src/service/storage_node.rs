//! The storage service: takes requests from the network and answers them.
//!
//! This is where slivers enter and leave a node. The law of every write is *verify, persist,
//! flush, sign, answer*, in that order; [`Responder`] holds it, one method per request. The task
//! itself only bounds how many requests run at a time and how many wait, in all and of one peer:
//! beyond that the answer is `Busy`, so no stranger can make the node queue without end or keep the
//! others out. What other nodes need to repair theirs is computed beside all that, within budgets
//! (`symbols.rs`). While nodes are challenged, symbols and secondary slivers wait for the end of the
//! window in their lanes; rows are served as ever. What nobody pays for any more is removed by the collector, the pairs of shards
//! that have moved on by `lost_shards.rs`, and their disk space given back by the compactor. The
//! scrubber looks for damage.

mod attester;
mod blob_locks;
mod collector;
mod compactor;
mod faults;
mod lost_shards;
mod members;
mod metrics;
mod pairs;
mod responder;
mod scrubber;
mod symbols;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use floe_protocol::{
    encoding::Axis,
    message::{ChallengeStatus, Refusal, RepairStatus, Request, Response},
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

use self::{
    attester::Attester,
    collector::Collector,
    faults::Faults,
    lost_shards::LostShards,
    members::Members,
    pairs::Pairs,
    responder::Responder,
    scrubber::Scrubber,
    symbols::{Queues, Symbols},
};
pub(crate) use self::{blob_locks::BlobLocks, metrics::Metrics};
use super::{
    blocking,
    challenges::{Inconsistent, Links, Quiet, Requests},
    lane::Lane,
    ledger::Ledger,
    on_ended,
    queries::Query,
};
use crate::{
    clock::Clock,
    config::ServiceLimits,
    key_file::NodeKeys,
    network::{InboundRequest, Network},
};

/// How long a table waits for the block that registers its blob: its writer may have heard of that
/// block before this node has.
const REGISTRATION_WAIT: Duration = Duration::from_secs(1);
/// Tables that wait so at a time; more are told at once that there is no registration.
const REGISTRATION_WAITS_MAX: usize = 32;
/// Requests for pairs of a shard that are answered at a time, wait, and are of one peer.
const MOVES_MAX: usize = 2;
const MOVES_QUEUE_MAX: usize = 30;
const MOVES_PER_PEER_MAX: usize = 4;
/// Requests for symbols and attestations that wait for their service: of members, and of others.
const SYMBOLS_MAX: usize = 64;

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
    /// Where what members ask about challenges goes, and what waits for them.
    pub(crate) challenges: Links,
    /// How this node does in them.
    pub(crate) score: watch::Receiver<ChallengeStatus>,
    /// Told of blobs that were proven inconsistent.
    pub(crate) inconsistent: Inconsistent,
    pub(crate) limits: ServiceLimits,
    pub(crate) clock: Clock,
    /// Told when a stored pair was found damaged and counts as missing from then on.
    pub(crate) missing: Arc<Notify>,
    /// Counts the pairs that the scrubber reads.
    pub(crate) scrubbed: Arc<AtomicU64>,
    pub(crate) metrics: Metrics,
    pub(crate) cancel: CancellationToken,
}

/// Serves until cancelled, until the network has stopped, or until the store can no longer be
/// relied on.
pub(crate) async fn run(args: Args) {
    // Cancelled with the node, or alone when a store fails.
    let broken = args.cancel.child_token();
    let (mut service, mut requests) = Service::start(args, &broken);
    loop {
        tokio::select! {
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
    members: Members,
    queries: mpsc::Sender<Query>,
    challenges: Requests<InboundRequest>,
    quiet: Quiet,
    symbols_of_members: mpsc::Sender<InboundRequest>,
    symbols_of_strangers: mpsc::Sender<InboundRequest>,
    writes: Lane,
    reads: Lane,
    /// Secondary slivers, which nobody needs in a hurry.
    secondaries: Lane,
    /// Pairs of shards that move.
    moves: Lane,
    /// Tables that wait for a registration.
    waiting: Arc<Semaphore>,
    busy_retry_after_ms: u32,
    tasks: JoinSet<()>,
}

impl Service {
    /// Starts what runs beside the requests.
    fn start(args: Args, broken: &CancellationToken) -> (Self, mpsc::Receiver<InboundRequest>) {
        let mut tasks = JoinSet::new();
        let locks = Arc::clone(&args.locks);
        let faults = Faults::new(broken.clone());
        let pairs = Pairs::new(
            args.store.clone(),
            Arc::clone(&locks),
            Arc::clone(&args.missing),
            faults.clone(),
            args.metrics.clone(),
        );
        let (members, follower) = Members::new(args.ledger.clone(), faults.clone());
        tasks.spawn(follower.run(broken.clone()));
        let [symbols_of_members, symbols_of_strangers] =
            spawn_symbols(&args, (&pairs, &members, &faults), &mut tasks, broken);
        spawn_keepers(&args, (&pairs, &locks, &faults), &mut tasks, broken);

        let Args {
            ledger,
            keys,
            store,
            network,
            requests,
            queries,
            challenges,
            score,
            limits,
            scrubbed,
            repair,
            clock,
            ..
        } = args;
        let Links { requests: challenges, quiet } = challenges;
        let responder = Responder::new(responder::Args {
            ledger,
            keys,
            store,
            locks,
            network,
            pairs,
            scrubbed,
            repair,
            score,
            clock,
            faults,
        });
        let service = Self {
            responder: Arc::new(responder),
            members,
            queries,
            challenges,
            quiet,
            symbols_of_members,
            symbols_of_strangers,
            writes: Lane::new(limits.writes_max, limits.queue_max, limits.per_peer_max),
            reads: Lane::new(limits.reads_max, limits.queue_max, limits.per_peer_max),
            secondaries: Lane::new(limits.reads_max, limits.queue_max, limits.per_peer_max),
            moves: Lane::new(MOVES_MAX, MOVES_QUEUE_MAX, MOVES_PER_PEER_MAX),
            waiting: Arc::new(Semaphore::new(REGISTRATION_WAITS_MAX)),
            busy_retry_after_ms: limits.busy_retry_after_ms,
            tasks,
        };
        (service, requests)
    }

    fn on_request(&mut self, inbound: InboundRequest) {
        let InboundRequest { peer, request, reply } = inbound;
        let busy = Refusal::Busy { retry_after_ms: self.busy_retry_after_ms };
        let lane = match &request {
            Request::Ledger(_) => return self.ask_ledger(InboundRequest { peer, request, reply }),
            Request::ReadSymbols { .. } | Request::Attest { .. } => {
                let is_member = self.members.has(&peer);
                let queue =
                    if is_member { &self.symbols_of_members } else { &self.symbols_of_strangers };
                let busy = self.busy_for(self.quiet.left());
                return hand_on(queue, InboundRequest { peer, request, reply }, busy);
            }
            Request::ReadTranscript { .. } | Request::Acknowledge { .. }
                if !self.members.has(&peer) =>
            {
                return reply.reply(Response::Refused(Refusal::Unavailable));
            }
            Request::ReadTranscript { .. } | Request::Acknowledge { .. } => {
                let asked = InboundRequest { peer, request, reply };
                if let Err(asked) = self.challenges.hand_on(peer, asked) {
                    asked.reply.reply(Response::Refused(busy));
                }
                return;
            }
            Request::ReadPairs { .. } if !self.members.has(&peer) => {
                return reply.reply(Response::Refused(Refusal::Unavailable));
            }
            Request::ReadPairs { .. } => &mut self.moves,
            Request::Table { .. } | Request::StoreSlivers { .. } | Request::Confirm { .. } => {
                &mut self.writes
            }
            Request::ReadSliver { axis: Axis::Secondary, .. } => &mut self.secondaries,
            Request::ReadSliver { .. } | Request::NodeStatus => &mut self.reads,
        };
        let waits = matches!(
            request,
            Request::ReadPairs { .. } | Request::ReadSliver { axis: Axis::Secondary, .. }
        );
        let quiet = waits.then(|| self.quiet.clone());
        let Some(place) = lane.admit(peer) else {
            return reply.reply(Response::Refused(busy));
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
            if let Some(quiet) = quiet {
                quiet.over().await;
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

    /// To come back when the node is done with what it does, and not before `wait` is over.
    fn busy_for(&self, wait: Duration) -> Refusal {
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        Refusal::Busy { retry_after_ms: self.busy_retry_after_ms.max(wait_ms) }
    }

    fn ask_ledger(&self, InboundRequest { peer, request, reply }: InboundRequest) {
        let Request::Ledger(request) = request else { return };
        if let Err(error) = self.queries.try_send(Query { peer, request, reply }) {
            let retry_after_ms = self.busy_retry_after_ms;
            let (TrySendError::Full(query) | TrySendError::Closed(query)) = error;
            query.reply.reply(Response::Refused(Refusal::Busy { retry_after_ms }));
        }
    }
}

/// Hands a request to the service that has the queue; there is no room for it if that is full.
fn hand_on(queue: &mpsc::Sender<InboundRequest>, request: InboundRequest, busy: Refusal) {
    if let Err(TrySendError::Full(asked) | TrySendError::Closed(asked)) = queue.try_send(request) {
        asked.reply.reply(Response::Refused(busy));
    }
}

/// Starts what computes symbols for others: where members' and strangers' requests for it go.
fn spawn_symbols(
    args: &Args,
    (pairs, members, faults): (&Pairs, &Members, &Faults),
    tasks: &mut JoinSet<()>,
    broken: &CancellationToken,
) -> [mpsc::Sender<InboundRequest>; 2] {
    let (to_members, members_requests) = mpsc::channel(SYMBOLS_MAX);
    let (to_strangers, strangers_requests) = mpsc::channel(SYMBOLS_MAX);
    let (ledger, keys) = (args.ledger.clone(), args.keys.clone());
    let symbols = Symbols::new(symbols::Args {
        config: args.ledger.state().borrow().committee().config(),
        pairs: pairs.clone(),
        attester: Attester::new(
            ledger,
            keys,
            faults.clone(),
            (args.inconsistent.clone(), args.metrics.clone()),
        ),
        members: members.clone(),
        quiet: args.challenges.quiet.clone(),
        limits: args.limits,
        metrics: args.metrics.clone(),
    });
    let queues = Queues { members: members_requests, strangers: strangers_requests };
    tasks.spawn(symbols.run(queues, broken.clone()));
    [to_members, to_strangers]
}

/// Starts what looks after the store: collector, lost shards, compactor, scrubber.
fn spawn_keepers(
    args: &Args,
    (pairs, locks, faults): (&Pairs, &Arc<BlobLocks>, &Faults),
    tasks: &mut JoinSet<()>,
    broken: &CancellationToken,
) {
    let Args { ledger, store, metrics, cancel, .. } = args;
    let removed = Arc::new(Notify::new());
    let (collected, collector_locks) = (store.clone(), Arc::clone(locks));
    let collector = Collector::new(
        (ledger.clone(), args.clock),
        collected,
        collector_locks,
        Arc::clone(&removed),
    );
    tasks.spawn(collector.run(cancel.clone(), broken.clone()));
    let lost_shards = LostShards {
        node: args.keys.node.public(),
        ledger: ledger.clone(),
        store: store.clone(),
        locks: Arc::clone(locks),
        clock: args.clock,
        removed: Arc::clone(&removed),
        metrics: metrics.clone(),
    };
    tasks.spawn(lost_shards.run(broken.clone()));
    tasks.spawn(compactor::run(store.clone(), removed, (cancel.clone(), broken.clone())));
    let scrubber = Scrubber {
        config: ledger.state().borrow().committee().config(),
        store: store.clone(),
        pairs: pairs.clone(),
        bytes_per_second: args.limits.scrub_bytes_per_second,
        scrubbed: Arc::clone(&args.scrubbed),
        faults: faults.clone(),
        metrics: metrics.clone(),
    };
    tasks.spawn(scrubber.run(broken.clone()));
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
