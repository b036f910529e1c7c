//! Transactions and system operations that gossip brings: parsed, judged, put into the mempool,
//! passed on.
//!
//! What is malformed or forged convicts its sender. What the state or the mempool refuses does not:
//! nodes are at different heights, and it is passed on no further. Of system operations, which cost
//! nobody a fee, the mempool is asked first, for it keeps one of a kind; then peers have a budget
//! ([`budget`]) for what their signatures cost.

mod budget;
mod judge;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Instant};

use floe_protocol::{
    keys::NodeId,
    ledger::{ReadError, SystemOperation},
    mempool::MempoolError,
};
use tokio::{sync::mpsc, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use self::{
    budget::Budget,
    judge::{Content, Judge, Message},
};
use super::ledger::{Ledger, LedgerStopped};
use crate::network::{GossipMessage, VerdictHandle};

/// Messages that are judged together.
const TOGETHER_MAX: usize = 32;

/// What the service needs.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) ledger: Ledger,
    pub(crate) transactions: mpsc::Receiver<GossipMessage>,
    pub(crate) cancel: CancellationToken,
}

/// Runs until cancelled or until the ledger has stopped.
pub(crate) async fn run(args: Args) {
    let Args { ledger, mut transactions, cancel } = args;
    let mut budget = Budget::new(Instant::now());
    loop {
        let mut messages = Vec::new();
        tokio::select! {
            () = cancel.cancelled() => return,
            count = transactions.recv_many(&mut messages, TOGETHER_MAX) => if count == 0 {
                return;
            },
        }
        match on_messages(&ledger, messages, budget).await {
            Ok(left) => budget = left,
            Err(LedgerStopped) => return,
        }
    }
}

/// Judges messages, and tells what is left of the budget.
async fn on_messages(
    ledger: &Ledger,
    messages: Vec<GossipMessage>,
    budget: Budget,
) -> Result<Budget, LedgerStopped> {
    let parts = messages.into_iter();
    let parts = parts.map(|one| ((one.from, Message::parse(&one.bytes)), one.verdict));
    let (mut messages, verdicts): (Vec<_>, Vec<_>) = parts.unzip();
    pass_over_known(ledger, &mut messages).await?;
    let (contents, budget) = judge(ledger, messages, budget).await?;
    // One errand to the ledger's thread for all of them.
    let transactions = contents.iter().flat_map(|content| match content {
        Content::Transactions(transactions, _) => transactions.as_slice(),
        Content::Invalid | Content::Useless | Content::System(_) => &[],
    });
    let transactions: Vec<_> = transactions.cloned().collect();
    let mut inserted = Vec::new();
    if !transactions.is_empty() {
        inserted = ledger.insert(transactions, false).await?;
    }
    let mut inserted = inserted.into_iter();
    for (content, verdict) in contents.into_iter().zip(verdicts) {
        tell(ledger, content, &mut inserted, verdict).await?;
    }
    Ok(budget)
}

/// Marks the system operations that the mempool would not take whatever is found out about them.
async fn pass_over_known(
    ledger: &Ledger,
    messages: &mut [(NodeId, Message)],
) -> Result<(), LedgerStopped> {
    let operations = messages.iter().filter_map(|(_, message)| match message {
        Message::System(operation) => Some(SystemOperation::clone(operation)),
        Message::Malformed | Message::Transactions(_) | Message::Known => None,
    });
    let operations: Vec<_> = operations.collect();
    if operations.is_empty() {
        return Ok(());
    }
    let mut known = ledger.knows_system(operations).await?.into_iter();
    for (_, message) in messages {
        if matches!(message, Message::System(_)) && known.next() == Some(true) {
            *message = Message::Known;
        }
    }
    Ok(())
}

/// What the messages are, one by one, and what is left of the budget.
async fn judge(
    ledger: &Ledger,
    messages: Vec<(NodeId, Message)>,
    mut budget: Budget,
) -> Result<(Vec<Content>, Budget), LedgerStopped> {
    let states = ledger.state();
    let store = Arc::clone(ledger.store());
    let judged = spawn_blocking(move || {
        let newest = || states.borrow().clone();
        let judge = Judge { newest: &newest, reader: store.as_ref() };
        let contents = judge.messages(&messages, &mut budget, Instant::now())?;
        Ok((contents, budget))
    });
    match judged.await {
        Ok(Ok(judged)) => Ok(judged),
        Ok(Err(error)) => {
            let error: ReadError = error;
            tracing::error!(%error, "the store has failed: transactions are not taken any more");
            Err(LedgerStopped)
        }
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(LedgerStopped),
    }
}

/// Tells the verdict on a message; `inserted` goes on with what became of its transactions.
async fn tell(
    ledger: &Ledger,
    content: Content,
    inserted: &mut impl Iterator<Item = Result<(), MempoolError>>,
    verdict: VerdictHandle,
) -> Result<(), LedgerStopped> {
    let forward = match content {
        Content::Invalid => {
            verdict.reject();
            return Ok(());
        }
        Content::Useless => false,
        Content::Transactions(transactions, vouched) => {
            let results = inserted.take(transactions.len());
            results.filter(Result::is_ok).count() > 0 && vouched
        }
        Content::System(operation) => ledger.insert_system(*operation, false).await?.is_ok(),
    };
    if forward {
        verdict.accept();
    } else {
        verdict.ignore();
    }
    Ok(())
}
