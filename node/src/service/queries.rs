//! The queries service: answers what light peers, wallets and other nodes ask about the ledger.
//!
//! Every answer comes with what proves it (header, certificate, path), so that nobody has to
//! believe this node. Answers are read from the store on blocking threads, at the height that the
//! node has committed. Who asks for a transaction that is still on its way waits in [`receipts`]
//! without holding a thread.
//!
//! Bounded: so many answers at a time and of one peer, so many waiting; beyond that the answer is
//! `Busy`. Five lanes keep apart what must not hold up the rest: what members of the committee ask,
//! on which their catching up rests; what is submitted, which waits for the ledger's thread; what
//! waits for a block; snapshots, which are large; and all other reads.

mod answers;
mod receipts;

use std::{sync::Arc, time::Duration};

use floe_protocol::{
    keys::NodeId,
    ledger::{SystemOperation, TransactionId},
    light::Inclusion,
    message::{LedgerRequest, LedgerResponse, Refusal, Response, SubmitError},
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use self::{
    answers::{Answers, ReadFailure},
    receipts::Receipts,
};
use super::{
    blocking,
    handovers::Signatures,
    lane::{Lane, Place},
    ledger::Ledger,
    on_ended,
    snapshot::Snapshots,
};
use crate::network::ReplyHandle;

/// Answers that are computed at a time, for members of the committee and for all others.
const RUNNING_MAX: usize = 4;
/// Requests that wait for their turn.
const QUEUE_MAX: usize = 256;
/// Requests of one peer that run or wait.
const PER_PEER_MAX: usize = 64;
/// Submissions that are judged at a time: the ledger's thread takes one after the other.
const SUBMITTING_MAX: usize = 1;
/// Submissions that wait for their turn.
const SUBMIT_QUEUE_MAX: usize = 64;
/// Submissions of one peer that run or wait.
const SUBMIT_PER_PEER_MAX: usize = 8;
/// Requests for snapshots that are answered at a time: newcomers can wait.
const SNAPSHOTS_MAX: usize = 2;
/// Requests for snapshots that wait for their turn.
const SNAPSHOTS_QUEUE_MAX: usize = 32;
/// Requests of one peer for snapshots that run or wait.
const SNAPSHOTS_PER_PEER_MAX: usize = 4;
/// Requests for transactions on their way.
const WAITING_MAX: usize = 4_096;
/// Requests of one peer for transactions on their way.
const WAITING_PER_PEER_MAX: usize = 64;
/// Registrations for transactions on their way, those included that have ended unnoticed.
const REGISTERED_MAX: usize = 2 * WAITING_MAX;
/// What a busy node asks others to wait.
const BUSY_RETRY_AFTER_MS: u32 = 100;

/// A question about the ledger that a peer has asked.
#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) peer: NodeId,
    pub(crate) request: LedgerRequest,
    pub(crate) reply: ReplyHandle,
}

/// What the service needs.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) ledger: Ledger,
    pub(crate) snapshots: Snapshots,
    /// What this node has signed.
    pub(crate) handovers_signed: watch::Receiver<Signatures>,
    pub(crate) queries: mpsc::Receiver<Query>,
    pub(crate) cancel: CancellationToken,
}

/// Runs until cancelled.
pub(crate) async fn run(args: Args) {
    let Args { ledger, snapshots, handovers_signed, mut queries, cancel } = args;
    let mut tasks = JoinSet::new();
    let receipts = Receipts::start(&ledger, REGISTERED_MAX, cancel.clone(), &mut tasks);
    let answers = Arc::new(Answers::new(ledger.clone(), snapshots, handovers_signed));
    let mut lanes = Lanes::new();
    loop {
        let query = tokio::select! {
            () = cancel.cancelled() => break,
            Some(ended) = tasks.join_next() => {
                on_ended(ended);
                continue;
            }
            query = queries.recv() => query,
        };
        let Some(Query { peer, request, reply }) = query else { break };
        let Some((place, turns)) = lanes.admit(peer, is_member(&ledger, &peer), &request) else {
            let retry_after_ms = BUSY_RETRY_AFTER_MS;
            reply.reply(Response::Refused(Refusal::Busy { retry_after_ms }));
            continue;
        };
        let asked = Asked {
            ledger: ledger.clone(),
            answers: Arc::clone(&answers),
            receipts: receipts.clone(),
            turns,
        };
        tasks.spawn(async move {
            let _place = place;
            // Without an answer the stream is closed: there is none, or the node is going down.
            if let Some(answer) = asked.answer(request).await {
                reply.reply(Response::Ledger(Box::new(answer)));
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        on_ended(ended);
    }
}

fn is_member(ledger: &Ledger, peer: &NodeId) -> bool {
    let state = ledger.state().borrow().clone();
    let committees = [state.committee(), state.previous_committee()];
    committees.into_iter().any(|committee| committee.member(peer).is_some())
}

/// What requests are kept apart by.
#[derive(Debug)]
struct Lanes {
    members: Lane,
    others: Lane,
    submissions: Lane,
    snapshots: Lane,
    waiting: Lane,
}

impl Lanes {
    fn new() -> Self {
        Self {
            members: Lane::new(RUNNING_MAX, QUEUE_MAX, PER_PEER_MAX),
            others: Lane::new(RUNNING_MAX, QUEUE_MAX, PER_PEER_MAX),
            submissions: Lane::new(SUBMITTING_MAX, SUBMIT_QUEUE_MAX, SUBMIT_PER_PEER_MAX),
            snapshots: Lane::new(SNAPSHOTS_MAX, SNAPSHOTS_QUEUE_MAX, SNAPSHOTS_PER_PEER_MAX),
            waiting: Lane::new(WAITING_MAX, 0, WAITING_PER_PEER_MAX),
        }
    }

    /// A place for the request, and where it takes turns with others.
    fn admit(
        &mut self,
        peer: NodeId,
        is_member: bool,
        request: &LedgerRequest,
    ) -> Option<(Place, Arc<Semaphore>)> {
        let reads = if is_member { &mut self.members } else { &mut self.others };
        match request {
            LedgerRequest::Submit { .. } | LedgerRequest::SubmitSystem(_) => {
                let place = self.submissions.admit(peer)?;
                Some((place, Arc::clone(&self.submissions.running)))
            }
            LedgerRequest::Snapshot { .. } | LedgerRequest::SnapshotChunk { .. } => {
                let place = self.snapshots.admit(peer)?;
                Some((place, Arc::clone(&self.snapshots.running)))
            }
            // It waits without a turn; whenever it looks into the store, it is a read like others.
            LedgerRequest::Transaction { wait_ms, .. } if *wait_ms > 0 => {
                Some((self.waiting.admit(peer)?, Arc::clone(&reads.running)))
            }
            _ => Some((reads.admit(peer)?, Arc::clone(&reads.running))),
        }
    }
}

struct Asked {
    ledger: Ledger,
    answers: Arc<Answers>,
    receipts: Receipts,
    /// What it may run in, never while it waits for a block.
    turns: Arc<Semaphore>,
}

impl Asked {
    async fn answer(self, request: LedgerRequest) -> Option<LedgerResponse> {
        match request {
            LedgerRequest::Submit { transactions } => self.submit(transactions).await,
            LedgerRequest::SubmitSystem(operation) => self.submit_system(operation).await,
            LedgerRequest::Transaction { id, wait_ms } => {
                self.transaction(id, wait_ms).await.map(LedgerResponse::Transaction)
            }
            request => {
                let _turn = self.turns.acquire().await.ok()?;
                self.look(move |answers| answers.read(&request)).await?
            }
        }
    }

    async fn transaction(&self, id: TransactionId, wait_ms: u32) -> Option<Option<Inclusion>> {
        let until = Instant::now() + Duration::from_millis(wait_ms.into());
        let found = self.inclusion(id).await?;
        if found.is_some() || wait_ms == 0 {
            return Some(found);
        }
        let receipt = self.receipts.expect(id).await;
        // It may have been committed in between.
        let found = self.inclusion(id).await?;
        if found.is_some() {
            return Some(found);
        }
        match timeout_at(until, receipt).await {
            Ok(Ok(inclusion)) => Some(Some(*inclusion)),
            // Nobody can tell, but the store.
            Ok(Err(_)) => self.inclusion(id).await,
            Err(_) => Some(None),
        }
    }

    async fn inclusion(&self, id: TransactionId) -> Option<Option<Inclusion>> {
        let _turn = self.turns.acquire().await.ok()?;
        self.look(move |answers| answers.inclusion(&id)).await
    }

    async fn submit_system(&self, operation: SystemOperation) -> Option<LedgerResponse> {
        let _turn = self.turns.acquire().await.ok()?;
        let checked = operation.clone();
        let result = match self.look(move |answers| answers.check_system(&checked)).await? {
            Ok(()) => {
                let inserted = self.ledger.insert_system(operation, true).await.ok()?;
                inserted.map_err(|error| submit_error(&error))
            }
            Err(error) => Err(error),
        };
        Some(LedgerResponse::SystemSubmitted(result))
    }

    async fn submit(&self, transactions: Vec<Vec<u8>>) -> Option<LedgerResponse> {
        let _turn = self.turns.acquire().await.ok()?;
        let judged = self.look(move |answers| answers.check(&transactions)).await?;
        let good: Vec<_> =
            judged.iter().filter_map(|result| result.as_ref().ok()).cloned().collect();
        let mut inserted = self.ledger.insert(good, true).await.ok()?.into_iter();
        let results = judged.into_iter().map(|result| {
            let transaction = result?;
            let inserted = inserted.next().expect("one result for each");
            inserted.map(|()| transaction.id()).map_err(|error| submit_error(&error))
        });
        Some(LedgerResponse::Submitted { results: results.collect() })
    }

    /// Looks into the store on a blocking thread; nothing if it fails, which stops the node
    /// elsewhere.
    async fn look<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Answers) -> Result<T, ReadFailure> + Send + 'static,
    ) -> Option<T> {
        let answers = Arc::clone(&self.answers);
        let result = blocking(move || work(&answers)).await?;
        result.inspect_err(|error| tracing::error!(%error, "a query could not be answered")).ok()
    }
}

fn submit_error(error: &floe_protocol::mempool::MempoolError) -> SubmitError {
    use floe_protocol::mempool::MempoolError as E;
    match error {
        E::Known => SubmitError::Known,
        E::Stale { next } | E::NonceTooHigh { next, .. } => SubmitError::Nonce { expected: *next },
        E::Expired => SubmitError::Expired,
        E::FeeTooLow { min } => SubmitError::Fee { min: *min },
        E::Unaffordable => SubmitError::Funds,
        E::AccountFull | E::Full | E::SystemFull => SubmitError::Full,
    }
}

#[cfg(test)]
mod tests {
    use floe_protocol::hash::Hash;

    use super::*;

    fn wait_for_transaction() -> LedgerRequest {
        LedgerRequest::Transaction { id: TransactionId::new(Hash::ZERO), wait_ms: 1 }
    }

    #[test]
    fn neither_readers_nor_submitters_nor_waiters_keep_the_others_out() {
        let mut lanes = Lanes::new();
        let mut places = Vec::new();
        let strangers = (0..=u8::MAX).map(|seed| NodeId::new([seed; 32]));
        for stranger in strangers {
            let submit = LedgerRequest::Submit { transactions: Vec::new() };
            let snapshot = LedgerRequest::Snapshot { height: None };
            for request in [LedgerRequest::Tip, submit, snapshot, wait_for_transaction()] {
                while let Some(place) = lanes.admit(stranger, false, &request) {
                    places.push(place);
                }
            }
        }
        let taken = RUNNING_MAX + QUEUE_MAX + SUBMITTING_MAX + SUBMIT_QUEUE_MAX + WAITING_MAX;
        assert_eq!(places.len(), taken + SNAPSHOTS_MAX + SNAPSHOTS_QUEUE_MAX);
        let member = NodeId::new([1; 32]);
        assert!(lanes.admit(member, true, &LedgerRequest::Tip).is_some());
    }

    #[test]
    fn one_peer_waits_for_so_many_transactions_and_reads_on() {
        let mut lanes = Lanes::new();
        let peer = NodeId::new([1; 32]);
        let places: Vec<_> =
            std::iter::from_fn(|| lanes.admit(peer, false, &wait_for_transaction())).collect();
        assert_eq!(places.len(), WAITING_PER_PEER_MAX);
        let (_, turns) = lanes.admit(peer, false, &LedgerRequest::Tip).unwrap();
        assert_eq!(turns.available_permits(), RUNNING_MAX, "who waits has no turn");
    }
}
