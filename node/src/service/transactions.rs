//! Transactions that gossip brings: parsed, verified, put into the mempool, passed on.
//!
//! What is malformed or forged convicts its sender. What the mempool refuses does not: nodes are at
//! different heights, and it is passed on no further.

use std::sync::Arc;

use floe_protocol::{
    keys::ChainId,
    ledger::{SignedTransaction, SystemOperation, VerifiedTransaction},
    mempool::MempoolError,
    message::{LedgerAnnouncement, LedgerTopic},
};
use tokio::{sync::mpsc, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::ledger::{Ledger, LedgerStopped};
use crate::network::GossipMessage;

/// What the service needs.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) ledger: Ledger,
    pub(crate) transactions: mpsc::Receiver<GossipMessage>,
    pub(crate) cancel: CancellationToken,
}

/// What a message holds, once verified.
enum Content {
    Transactions(Vec<Arc<VerifiedTransaction>>),
    System(Box<SystemOperation>),
}

/// Runs until cancelled or until the ledger has stopped.
pub(crate) async fn run(args: Args) {
    let Args { ledger, mut transactions, cancel } = args;
    let chain = *ledger.state().borrow().chain();
    loop {
        let event = tokio::select! {
            () = cancel.cancelled() => return,
            event = transactions.recv() => event,
        };
        let Some(event) = event else { return };
        if let Err(LedgerStopped) = on_message(&ledger, chain, event).await {
            return;
        }
    }
}

async fn on_message(
    ledger: &Ledger,
    chain: ChainId,
    event: GossipMessage,
) -> Result<(), LedgerStopped> {
    let GossipMessage { bytes, verdict, .. } = event;
    let content = match spawn_blocking(move || verify(&chain, &bytes)).await {
        Ok(Some(content)) => content,
        Ok(None) => {
            verdict.reject();
            return Ok(());
        }
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => return Err(LedgerStopped),
    };
    let of_use = |result: &Result<(), MempoolError>| result.is_ok();
    let forward = match content {
        Content::Transactions(transactions) => {
            ledger.insert(transactions, false).await?.iter().any(of_use)
        }
        Content::System(operation) => of_use(&ledger.insert_system(*operation, false).await?),
    };
    if forward {
        verdict.accept();
    } else {
        verdict.ignore();
    }
    Ok(())
}

fn verify(chain: &ChainId, bytes: &[u8]) -> Option<Content> {
    let announcement = LedgerAnnouncement::decode(LedgerTopic::Transactions, bytes)
        .or_else(|_| LedgerAnnouncement::decode(LedgerTopic::System, bytes));
    match announcement.ok()? {
        LedgerAnnouncement::Transactions(list) => {
            let verified = list.iter().map(|bytes| {
                let signed = SignedTransaction::from_bytes(bytes).ok()?;
                signed.verify(chain).ok().map(Arc::new)
            });
            verified.collect::<Option<Vec<_>>>().map(Content::Transactions)
        }
        LedgerAnnouncement::System(operation) => match operation {
            SystemOperation::ReportEquivocation { equivocation } => {
                equivocation.verify(chain).ok()?;
                Some(Content::System(Box::new(operation)))
            }
        },
        LedgerAnnouncement::NewHeader(_) => None,
    }
}
