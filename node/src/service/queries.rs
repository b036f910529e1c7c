//! The queries service: answers what light peers, wallets and other nodes ask about the ledger.
//!
//! Every answer comes with what proves it (header, certificate, path), so that nobody has to
//! believe this node. Answers are read from the store on blocking threads, at the height that the
//! node has committed. Who asks for a transaction that is still on its way waits in [`receipts`]
//! without holding a thread.
//!
//! Bounded: so many answers at a time and of one peer, so many waiting; beyond that the answer is
//! `Busy`.

mod answers;
mod receipts;

use std::{sync::Arc, time::Duration};

use floe_protocol::{
    keys::NodeId,
    ledger::SignedTransaction,
    message::{LedgerRequest, LedgerResponse, Refusal, Response, SubmitError},
};
use tokio::{sync::mpsc, task::spawn_blocking};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{answers::Answers, receipts::Receipts};
use super::{
    lane::Lane,
    ledger::{Ledger, LedgerStopped},
};
use crate::network::ReplyHandle;

/// Answers that are computed at a time.
const RUNNING_MAX: usize = 4;
/// Requests that wait for their turn.
const QUEUE_MAX: usize = 256;
/// Requests of one peer that run or wait.
const PER_PEER_MAX: usize = 64;
/// Requests for transactions on their way, in all and of one peer.
const WAITING_MAX: usize = 4_096;
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
    pub(crate) queries: mpsc::Receiver<Query>,
    pub(crate) cancel: CancellationToken,
}

/// Runs until cancelled.
pub(crate) async fn run(args: Args) {
    let Args { ledger, mut queries, cancel } = args;
    let tasks = TaskTracker::new();
    let receipts = Receipts::start(&ledger, cancel.clone(), &tasks);
    let answers = Arc::new(Answers::new(ledger.clone()));
    let mut quick = Lane::new(RUNNING_MAX, QUEUE_MAX, PER_PEER_MAX);
    let mut waiting = Lane::new(WAITING_MAX, 0, WAITING_MAX / 2);
    loop {
        let query = tokio::select! {
            () = cancel.cancelled() => break,
            query = queries.recv() => query,
        };
        let Some(Query { peer, request, reply }) = query else { break };
        let waits = matches!(request, LedgerRequest::Transaction { wait_ms, .. } if wait_ms > 0);
        let lane = if waits { &mut waiting } else { &mut quick };
        let Some(place) = lane.admit(peer) else {
            let retry_after_ms = BUSY_RETRY_AFTER_MS;
            reply.reply(Response::Refused(Refusal::Busy { retry_after_ms }));
            continue;
        };
        let running = lane.running.clone();
        let asked = Asked {
            ledger: ledger.clone(),
            answers: Arc::clone(&answers),
            receipts: receipts.clone(),
        };
        tasks.spawn(async move {
            let _place = place;
            let Ok(_turn) = running.acquire_owned().await else { return };
            let answer = asked.answer(request).await;
            // Without an answer the stream is closed: the node is going down.
            if let Some(answer) = answer {
                reply.reply(Response::Ledger(Box::new(answer)));
            }
        });
    }
    tasks.close();
    tasks.wait().await;
}

struct Asked {
    ledger: Ledger,
    answers: Arc<Answers>,
    receipts: Receipts,
}

impl Asked {
    async fn answer(self, request: LedgerRequest) -> Option<LedgerResponse> {
        match request {
            LedgerRequest::Submit { transactions } => self.submit(transactions).await.ok(),
            LedgerRequest::SubmitSystem(operation) => {
                let answers = Arc::clone(&self.answers);
                let judged = blocking(move || answers.check_system(&operation)).await?;
                let result = match judged {
                    Ok(()) => {
                        let inserted = self.ledger.insert_system(operation, true).await.ok()?;
                        inserted.map_err(|error| submit_error(&error))
                    }
                    Err(error) => Err(error),
                };
                Some(LedgerResponse::SystemSubmitted(result))
            }
            LedgerRequest::Transaction { id, wait_ms } => {
                let answers = Arc::clone(&self.answers);
                // Listen first, look second: it may be committed in between.
                let receipt = self.receipts.expect(id).await;
                let found = blocking(move || answers.inclusion(&id)).await?;
                if found.is_some() || wait_ms == 0 {
                    return Some(LedgerResponse::Transaction(found));
                }
                let wait = Duration::from_millis(wait_ms.into());
                let receipt = tokio::time::timeout(wait, receipt).await;
                let inclusion = receipt.ok().and_then(Result::ok);
                Some(LedgerResponse::Transaction(inclusion.map(|inclusion| *inclusion)))
            }
            request => {
                let answers = Arc::clone(&self.answers);
                blocking(move || answers.read(&request)).await
            }
        }
    }

    async fn submit(self, transactions: Vec<Vec<u8>>) -> Result<LedgerResponse, LedgerStopped> {
        let answers = Arc::clone(&self.answers);
        let judged = blocking(move || {
            let judge = |bytes: &Vec<u8>| {
                let signed = SignedTransaction::from_bytes(bytes);
                answers.check(signed.map_err(|error| SubmitError::from(&error))?)
            };
            transactions.iter().map(judge).collect::<Vec<_>>()
        });
        let judged = judged.await.ok_or(LedgerStopped)?;
        let good: Vec<_> =
            judged.iter().filter_map(|result| result.as_ref().ok()).cloned().collect();
        let mut inserted = self.ledger.insert(good, true).await?.into_iter();
        let results = judged.into_iter().map(|result| {
            let transaction = result?;
            let inserted = inserted.next().expect("one result for each");
            inserted.map(|()| transaction.id()).map_err(|error| submit_error(&error))
        });
        Ok(LedgerResponse::Submitted { results: results.collect() })
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

/// Runs on a blocking thread; nothing comes back only when the runtime is shutting down.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match spawn_blocking(work).await {
        Ok(result) => Some(result),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}
