//! What other parts of the node ask of the driver: transactions and system operations to take in,
//! blocks that were fetched, a snapshot to begin with.
//!
//! Invariant: what comes in here is verified; whether there is room for it is the mempool's word.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use floe_protocol::{
    challenge::ChallengeCertificate,
    consensus::{Input, Verdict},
    index::Height,
    ledger::{SystemOperation, VerifiedTransaction},
    mempool::{AccountFacts, Mempool, MempoolConfig, MempoolError},
    message::LedgerAnnouncement,
};

use super::{Driver, Fault, Source};
use crate::{
    network::Topic,
    service::ledger::{Command, Install, SyncedBlocks, chain::ChainError},
};

/// The shortest time between two announcements of what has been announced before.
const ANNOUNCED_AGAIN_AFTER: Duration = Duration::from_millis(250);

impl Driver {
    pub(super) fn on_command(&mut self, command: Command) -> Result<(), Fault> {
        match command {
            Command::Insert { transactions, spread, reply } => {
                let mut results = Vec::with_capacity(transactions.len());
                for transaction in transactions {
                    results.push(self.insert(&transaction, spread)?);
                }
                // The asker may have gone; the transactions stay.
                drop(reply.send(results));
            }
            Command::InsertSystem { operation, spread, reply } => {
                let _ = reply.send(self.insert_system(*operation, spread));
            }
            Command::KnowsSystem { operations, reply } => {
                let known = operations.iter().map(|operation| self.mempool.knows_system(operation));
                let _ = reply.send(known.collect());
            }
            Command::Synced(synced) => self.on_synced(synced)?,
            Command::Install { install, reply } => {
                let _ = reply.send(self.on_install(*install)?);
            }
            Command::Stats(reply) => drop(reply.send(self.mempool.stats())),
        }
        Ok(())
    }

    fn insert(
        &mut self,
        transaction: &Arc<VerifiedTransaction>,
        spread: bool,
    ) -> Result<Result<(), MempoolError>, Fault> {
        let sender = transaction.transaction().sender;
        let account = self.chain.state.account(self.chain.store.as_ref(), &sender);
        let account = account.map_err(ChainError::from)?;
        let facts = AccountFacts { nonce: account.nonce, balance: account.balance };
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let inserted = self.mempool.insert(now_ms, Arc::clone(transaction), facts);
        if inserted.is_ok()
            && spread
            && let Some(full) = self.outbox.add(Instant::now(), transaction)
        {
            self.spread(full);
        }
        Ok(inserted.map(drop))
    }

    pub(super) fn spread(&self, transactions: Vec<Vec<u8>>) {
        self.announce(Topic::Transactions, &LedgerAnnouncement::Transactions(transactions));
    }

    pub(super) fn insert_system(
        &mut self,
        operation: SystemOperation,
        spread: bool,
    ) -> Result<(), MempoolError> {
        let inserted = self.mempool.insert_system(operation.clone());
        if spread && inserted.is_ok() {
            self.announce(Topic::Transactions, &LedgerAnnouncement::System(operation));
        } else if spread && inserted == Err(MempoolError::Known) {
            self.announce_again(operation);
        }
        inserted
    }

    /// Announces this node's own challenge certificate once more, as long as it is in no block: what
    /// was announced may be lost. Others may hand it in, too, so it is not done too often.
    fn announce_again(&mut self, operation: SystemOperation) {
        let SystemOperation::PassChallenge { certificate } = &operation else { return };
        let Ok(parsed) = ChallengeCertificate::from_bytes(certificate) else { return };
        let is_own = parsed.fact().node == self.keys.node.public();
        let waits = self.mempool.system_candidates().any(|pending| *pending == operation);
        let (times, last) = self.again;
        if is_own && waits && last.is_none_or(|last| last.elapsed() >= ANNOUNCED_AGAIN_AFTER) {
            self.again = (times.wrapping_add(1), Some(Instant::now()));
            let announcement = LedgerAnnouncement::SystemAgain(operation, times);
            self.announce(Topic::Transactions, &announcement);
        }
    }

    /// Goes on from a snapshot, if there is no block yet; whether it did.
    fn on_install(&mut self, install: Install) -> Result<bool, Fault> {
        if self.chain.state.tip().height > Height::new(0) {
            return Ok(false);
        }
        self.chain.install(install)?;
        let tip = *self.chain.state.tip();
        self.mempool = Mempool::new(MempoolConfig::default(), tip.time);
        let store = self.chain.store.as_ref();
        self.sweep = self.chain.state.sweep_pending(store).map_err(ChainError::from)?;
        self.last_commit = self.started.elapsed();
        // What the replica says of the first height means nothing any more.
        self.begin_height()?;
        self.listeners.state.send_replace(Arc::new(self.chain.state.clone()));
        self.others_began = true;
        Ok(true)
    }

    fn on_synced(&mut self, synced: SyncedBlocks) -> Result<(), Fault> {
        let SyncedBlocks { blocks, reply } = synced;
        self.source = Source::Sync;
        let mut taken = true;
        for (block, certificate) in blocks {
            let next = self.chain.state.next_height();
            if block.header.height != next {
                continue;
            }
            if self.replica.height() != Some(next) {
                self.begin_height()?;
            }
            if self.chain.state.next_height() == next {
                let input = Input::Synced { block: Box::new(block), certificate };
                let verdict = self.feed(input)?;
                taken &= verdict != Some(Verdict::Reject);
            }
            if self.chain.state.next_height() == next {
                break;
            }
        }
        self.source = Source::Votes;
        // Others are ahead: there is no reason to wait at this height.
        self.others_began = true;
        let _ = reply.send(taken);
        Ok(())
    }
}
