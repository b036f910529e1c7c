//! Those who wait for a transaction to be committed.
//!
//! One task follows the blocks. For each it looks whether somebody waits for one of its
//! transactions, and builds the block's tree once for all of them.
//!
//! Who is registered before the store is looked at misses nothing: registrations are taken before
//! blocks are. Whoever the task can tell nothing more, because it has missed blocks or has no room,
//! is dropped, which means to look into the store again.
//!
//! Bounded: those who do not wait any more are forgotten with each block, and when there are too
//! many while no blocks come.

use std::collections::BTreeMap;

use floe_protocol::{
    hash::Domain,
    keys::ChainId,
    ledger::TransactionId,
    light::{CertifiedHeader, Inclusion},
    merkle::MerkleTree,
};
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

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
    /// Starts the task, for at most `waiting_max` who wait at a time.
    pub(super) fn start(
        ledger: &Ledger,
        waiting_max: usize,
        cancel: CancellationToken,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let (expected, mut receiver) = mpsc::channel(QUEUE_MAX);
        let mut committed = ledger.committed();
        let chain = *ledger.state().borrow().chain();
        tasks.spawn(async move {
            let mut waiting = Registered::new(waiting_max);
            loop {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    new = receiver.recv() => match new {
                        Some((id, reply)) => waiting.add(id, reply),
                        None => return,
                    },
                    block = committed.recv() => match block {
                        Ok(block) => waiting.tell(&block, &chain),
                        Err(broadcast::error::RecvError::Lagged(_)) => waiting.drop_all(),
                        Err(broadcast::error::RecvError::Closed) => return,
                    },
                }
            }
        });
        Self { expected }
    }

    /// Resolves when the transaction is committed from now on; an error means to look into the
    /// store again.
    pub(super) async fn expect(&self, id: TransactionId) -> oneshot::Receiver<Box<Inclusion>> {
        let (reply, receipt) = oneshot::channel();
        // If the task has ended, the receiver says so.
        drop(self.expected.send((id, reply)).await);
        receipt
    }
}

/// Those who wait, by what they wait for.
#[derive(Debug)]
struct Registered {
    waiting: BTreeMap<TransactionId, Vec<Waiting>>,
    /// How many they are, those included who have gone since.
    count: usize,
    max: usize,
}

impl Registered {
    const fn new(max: usize) -> Self {
        Self { waiting: BTreeMap::new(), count: 0, max }
    }

    /// Registers one, or drops it if there is no room.
    fn add(&mut self, id: TransactionId, reply: Waiting) {
        if self.count >= self.max {
            self.forget_gone();
        }
        if self.count < self.max {
            self.waiting.entry(id).or_default().push(reply);
            self.count += 1;
        }
    }

    fn forget_gone(&mut self) {
        self.waiting.retain(|_, replies| {
            replies.retain(|reply| !reply.is_closed());
            !replies.is_empty()
        });
        self.count = self.waiting.values().map(Vec::len).sum();
    }

    fn drop_all(&mut self) {
        self.waiting.clear();
        self.count = 0;
    }

    fn tell(&mut self, block: &CommittedBlock, chain: &ChainId) {
        self.forget_gone();
        let wanted = |(_, id): &(usize, &TransactionId)| self.waiting.contains_key(id);
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
            let replies = self.waiting.remove(id).unwrap_or_default();
            self.count -= replies.len();
            for reply in replies {
                drop(reply.send(Box::new(inclusion.clone())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use floe_protocol::hash::Hash;

    use super::*;

    fn id(seed: u8) -> TransactionId {
        TransactionId::new(Hash::new([seed; 32]))
    }

    #[test]
    fn who_has_gone_makes_room_and_nobody_is_taken_beyond_it() {
        let mut registered = Registered::new(2);
        let (first, mut first_receipt) = oneshot::channel();
        let (second, second_receipt) = oneshot::channel();
        registered.add(id(1), first);
        registered.add(id(2), second);
        let (third, mut third_receipt) = oneshot::channel();
        registered.add(id(3), third);
        let refused = third_receipt.try_recv();
        assert_eq!(refused.err(), Some(oneshot::error::TryRecvError::Closed), "no room");
        drop(second_receipt);
        let (fourth, mut fourth_receipt) = oneshot::channel();
        registered.add(id(1), fourth);
        for receipt in [&mut first_receipt, &mut fourth_receipt] {
            assert_eq!(receipt.try_recv().err(), Some(oneshot::error::TryRecvError::Empty));
        }
        assert_eq!((registered.count, registered.waiting.len()), (2, 1));
        registered.drop_all();
        assert_eq!(first_receipt.try_recv().err(), Some(oneshot::error::TryRecvError::Closed));
        assert_eq!(registered.count, 0);
    }
}
