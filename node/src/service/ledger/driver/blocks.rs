//! Blocks at the driver: built of what waits, executed when proposed, committed when decided.
//!
//! What a block changes is kept from its execution until it is decided, so that each is executed
//! once. Invariants: nothing is told of a block before it is flushed to disk; what this node has
//! verified in its mempool is not verified again.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use floe_protocol::{
    consensus::{Input, Validity},
    index::Height,
    ledger::{
        AccountId, Block, BlockError, BlockHash, CommitRecord, Executed, Known, Outcome, Proposal,
    },
    light::CertifiedHeader,
    mempool::AccountFacts,
    message::LedgerAnnouncement,
    vote::CommitCertificate,
};

use super::{CLOCK_SKEW_MS, Driver, Fault, Source};
use crate::{
    network::Topic,
    service::ledger::{
        CommittedBlock,
        chain::{Chain, ChainError},
    },
};

/// Executed blocks of one height that are kept: a faulty proposer may send more.
const EXECUTED_MAX: usize = 4;

impl Driver {
    pub(super) fn propose(&mut self, round: u32) -> Result<Input, Fault> {
        let Chain { state, store, certificate, .. } = &self.chain;
        // All that are known: the state leaves out what a block records already.
        let late = self.replica.late_precommits(|_, _| false);
        let record = state.commit_record(store.as_ref(), certificate.clone(), late);
        let record = record.map_err(|error| Fault::Build(error.into()))?;
        match self.build(round, record) {
            Err(Fault::Build(error)) if !error.is_fatal() => {
                // Late precommits are a courtesy: without them there is nothing to get wrong.
                tracing::error!(%error, "late precommits are left out");
                let parent = self.chain.certificate.clone();
                self.build(round, CommitRecord { parent, late: Vec::new() })
            }
            built => built,
        }
    }

    fn build(&mut self, round: u32, commit_record: CommitRecord) -> Result<Input, Fault> {
        let Chain { state, store, .. } = &self.chain;
        let proposal = Proposal {
            node: self.keys.node.public(),
            bls: &self.keys.bls,
            round,
            now: self.clock.now(),
            commit_record,
        };
        let system: Vec<_> = self.mempool.system_candidates().cloned().collect();
        let mut candidates = self.mempool.candidates();
        let mut offered: Option<AccountId> = None;
        let mut refused = Vec::new();
        let mut next = |outcome: Outcome<'_>| {
            if let Outcome::Refused(id, error) = outcome {
                tracing::debug!(%id, %error, "transaction refused");
                refused.push(id);
                if let Some(account) = offered {
                    candidates.skip_account(account);
                }
            }
            let transaction = Arc::clone(candidates.next()?);
            offered = Some(transaction.transaction().sender);
            Some(transaction)
        };
        let known = |what: Known<'_>| self.mempool.has(what);
        let built = state.propose(store.as_ref(), proposal, (&system, &known), &mut next);
        let built = built.map_err(Fault::Build)?;
        for id in &refused {
            self.mempool.refused(id);
        }
        // What only found no room may come into the next block.
        for operation in &built.refused {
            self.mempool.refused_system(operation);
        }
        self.keep(built.executed);
        Ok(Input::Proposed { round, block: Box::new(built.block) })
    }

    pub(super) fn execute(&mut self, block: &Block) -> Result<Input, Fault> {
        let hash = block.header.hash();
        let validity = match self.executed_of(hash, block) {
            Ok(_) => Validity::Valid,
            Err(error) if error.is_fatal() => return Err(Fault::Execute(error)),
            Err(error) => {
                let proposer = block.header.proposer;
                tracing::warn!(%hash, %proposer, %error, "invalid block");
                Validity::Invalid
            }
        };
        Ok(Input::Executed { block: hash, validity })
    }

    /// Keeps what a block changes until it is decided. What does not fit is executed again.
    fn keep(&mut self, executed: Executed) {
        while self.executed.len() >= EXECUTED_MAX {
            self.executed.pop_first();
        }
        self.executed.insert(executed.hash, executed);
    }

    fn executed_of(&mut self, hash: BlockHash, block: &Block) -> Result<&Executed, BlockError> {
        if !self.executed.contains_key(&hash) {
            let Chain { state, store, .. } = &self.chain;
            let known = |what: Known<'_>| self.mempool.has(what);
            let executed = state.execute(store.as_ref(), block, &known)?;
            self.keep(executed);
        }
        Ok(&self.executed[&hash])
    }

    pub(super) fn commit(
        &mut self,
        block: &Arc<Block>,
        certificate: CommitCertificate,
    ) -> Result<(), Fault> {
        let (hash, height) = (block.header.hash(), block.header.height);
        let decided = |error| Fault::Decided { height, error };
        self.executed_of(hash, block).map_err(decided)?;
        let executed = self.executed.remove(&hash).expect("just executed");
        let mut committed = CommittedBlock {
            block: Arc::clone(block),
            certificate: certificate.clone(),
            transactions: executed.transactions.clone(),
            events: executed.events.clone(),
            by_sync: self.source == Source::Sync,
            at: Instant::now(),
            known_since: None,
            opened: executed.opened.clone(),
        };
        self.chain.commit(block, certificate, executed)?;
        self.last_commit = self.started.elapsed();
        // Only blocks that were made since this process started: older ones may be played to it
        // again by anybody, and it may have voted on them.
        if self.source == Source::Votes && block.header.time > self.born.plus_ms(CLOCK_SKEW_MS) {
            self.abstains = self.abstains.saturating_sub(1);
        }
        let state = &self.chain.state;
        let store = self.chain.store.as_ref();
        self.sweep = state.sweep_pending(store).map_err(ChainError::from)?;
        // Each once: under load most of them send several.
        let transactions = block.body.transactions.iter();
        let ids: BTreeSet<_> = transactions.map(|signed| signed.transaction.sender).collect();
        let mut senders = Vec::with_capacity(ids.len());
        for sender in ids {
            let account = state.account(store, &sender).map_err(ChainError::from)?;
            let facts = AccountFacts { nonce: account.nonce, balance: account.balance };
            senders.push((sender, facts));
        }
        self.mempool.committed(block.header.time, &committed.transactions, &senders);
        let open = state.open_challenges();
        self.mempool.committed_system(&block.body.system, (state.summary().epoch, &open));
        tracing::debug!(%height, transactions = committed.transactions.len(), "block committed");
        if block.header.proposer == self.keys.node.public() && self.source == Source::Votes {
            let certificate = committed.certificate.clone();
            let header = CertifiedHeader { header: block.header, certificate };
            self.announce(Topic::Headers, &LedgerAnnouncement::NewHeader(Box::new(header)));
        }
        self.listeners.state.send_replace(Arc::new(self.chain.state.clone()));
        committed.at = Instant::now();
        committed.known_since = self.known_since(height, committed.at);
        // Nobody listens: nobody misses it.
        drop(self.listeners.committed.send(Arc::new(committed)));
        Ok(())
    }

    /// Since when others were known to have committed the block at `height`, which is committed here
    /// now. What decided it may have waited here, too.
    fn known_since(&self, height: Height, now: Instant) -> Option<Instant> {
        let lag = self.listeners.lag.borrow().clone();
        self.listeners.lag.send_modify(|lag| lag.committed(height));
        if self.source == Source::Sync {
            // Who was cut off learns of all at once, and of each block nothing.
            return lag.since_exactly(height);
        }
        lag.since(height).into_iter().chain(now.checked_sub(self.waited)).min()
    }
}
