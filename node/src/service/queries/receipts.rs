//! Those who wait for a transaction to be committed.
//!
//! One task follows the blocks. For each it looks whether somebody waits for one of its
//! transactions, and builds the block's tree once for all of them.

use std::collections::BTreeMap;

use floe_protocol::{
    hash::Domain,
    keys::ChainId,
    ledger::TransactionId,
    light::{CertifiedHeader, Inclusion},
    merkle::MerkleTree,
};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::service::ledger::{CommittedBlock, Ledger};

/// Registrations that wait for the task.
const QUEUE_MAX: usize = 256;

type Waiting = oneshot::Sender<Box<Inclusion>>;

/// A handle to the task.
#[derive(Clone, Debug)]
pub(super) struct Receipts {
    expected: mpsc::Sender<(TransactionId, Waiting)>,
}

impl Receipts {
    pub(super) fn start(ledger: &Ledger, cancel: CancellationToken, tasks: &TaskTracker) -> Self {
        let (expected, mut receiver) = mpsc::channel(QUEUE_MAX);
        let mut committed = ledger.committed();
        let chain = *ledger.state().borrow().chain();
        tasks.spawn(async move {
            let mut waiting: BTreeMap<TransactionId, Vec<Waiting>> = BTreeMap::new();
            loop {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    new = receiver.recv() => match new {
                        Some((id, reply)) => waiting.entry(id).or_default().push(reply),
                        None => return,
                    },
                    block = committed.recv() => match block {
                        Ok(block) => tell(&mut waiting, &block, &chain),
                        // Whoever missed it asks again.
                        Err(broadcast::error::RecvError::Lagged(_)) => waiting.clear(),
                        Err(broadcast::error::RecvError::Closed) => return,
                    },
                }
            }
        });
        Self { expected }
    }

    /// Resolves when the transaction is committed; an error means to ask again.
    pub(super) async fn expect(&self, id: TransactionId) -> oneshot::Receiver<Box<Inclusion>> {
        let (reply, receipt) = oneshot::channel();
        // If the task has ended, the receiver says so.
        drop(self.expected.send((id, reply)).await);
        receipt
    }
}

fn tell(
    waiting: &mut BTreeMap<TransactionId, Vec<Waiting>>,
    block: &CommittedBlock,
    chain: &ChainId,
) {
    waiting.retain(|_, replies| {
        replies.retain(|reply| !reply.is_closed());
        !replies.is_empty()
    });
    let wanted = |(_, id): &(usize, &TransactionId)| waiting.contains_key(id);
    let wanted: Vec<_> = block.transactions.iter().enumerate().filter(wanted).collect();
    if wanted.is_empty() {
        return;
    }
    let body = &block.block.body;
    let leaves = body.transaction_leaves(chain);
    let (system, count) = (body.system.len(), leaves.len());
    let tree = MerkleTree::new(Domain::TransactionNode, leaves);
    let number = |count: usize| u32::try_from(count).expect("blocks are bounded");
    for (index, id) in wanted {
        let position = system + index;
        let inclusion = Inclusion {
            certified: CertifiedHeader {
                header: block.block.header,
                certificate: block.certificate.clone(),
            },
            transaction: body.transactions[index].to_bytes(),
            position: number(position),
            leaves: number(count),
            path: tree.path(position),
        };
        for reply in waiting.remove(id).into_iter().flatten() {
            drop(reply.send(Box::new(inclusion.clone())));
        }
    }
}
