//! The mempool: verified transactions that wait for a block.
//!
//! A node puts in what wallets and gossip bring, a proposer takes [`Mempool::candidates`] until its
//! block is full, and every committed block is reported back ([`Mempool::committed`]). Blocks are
//! filled by fee per byte, then arrival, within an account always by nonce; the same order
//! backwards says what a full mempool gives up, so nothing is displaced by a transaction that would
//! come into a block later than itself. A transaction whose predecessors are missing is *held*
//! apart, briefly, in places of its own. System operations have their own small pool.
//!
//! Invariants: bounded in bytes and number, in total and per account, whatever is put in; every
//! sender can pay the fees of all it has here; what is offered has no nonce gap; a refused insert
//! displaces nothing. An account's tail leaves before its head, and a transaction that expires or
//! fails takes along all that follow it.
//!
//! Deliberately not here: signatures and shapes ([`VerifiedTransaction`]), the state (its facts of
//! a sender are arguments) and clocks. Expiry goes by the time of committed blocks; only gaps are
//! measured by the caller's clock. No [`MempoolError`] convicts a peer: nodes are at different
//! heights and hold different transactions.

mod account;
mod candidates;
mod config;
mod index;
mod order;
mod remembered;
mod room;
mod system;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use self::{
    account::{Account, Entry},
    index::Index,
    remembered::Remembered,
    system::SystemPool,
};
use crate::{
    index::{ChallengeRound, Epoch},
    ledger::{
        AccountId, Amount, Known, SystemOperation, Timestamp, Transaction, TransactionId,
        VerifiedTransaction,
    },
};

pub use self::{candidates::Candidates, config::MempoolConfig};

/// What the state at the tip says of an account; an account that does not exist has zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountFacts {
    /// The nonce of its next transaction.
    pub nonce: u64,
    /// What it can pay with.
    pub balance: Amount,
}

/// What an insert did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inserted {
    /// Transactions that became ready by it, itself and those it closed a gap for; 0 if it is held.
    pub newly_ready: usize,
    /// The transaction of the same nonce that it replaced.
    pub replaced: Option<TransactionId>,
}

/// Why a transaction or system operation is not taken in.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum MempoolError {
    /// It is here, or was committed lately.
    #[error("already known")]
    Known,
    /// Its nonce has been used.
    #[error("stale nonce: the account is at {next}")]
    Stale {
        /// The nonce of the account's next transaction.
        next: u64,
    },
    /// Its nonce is too far ahead of the account's.
    #[error(
        "nonce too far ahead: the account is at {next} and may have {transactions_max} pending"
    )]
    NonceTooHigh {
        /// The nonce of the account's next transaction.
        next: u64,
        /// Most transactions of one account.
        transactions_max: usize,
    },
    /// No further block can include it.
    #[error("transaction expired")]
    Expired,
    /// Less than anybody has to pay, or than the transaction that it would replace requires.
    #[error("fee too low: at least {min} is needed")]
    FeeTooLow {
        /// The lowest fee that would do.
        min: Amount,
    },
    /// The fees of all the sender's waiting transactions exceed its balance.
    #[error("balance does not cover the fees of all pending transactions")]
    Unaffordable,
    /// The sender has too many bytes here, or too many transactions with a gap before them.
    #[error("too much pending for this account")]
    AccountFull,
    /// Full of transactions that pay at least as much per byte.
    #[error("mempool is full; a higher fee may help")]
    Full,
    /// Too many system operations, in all or on this node.
    #[error("too many system operations pending")]
    SystemFull,
}

/// Numbers for metrics. Those of the second half only ever grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MempoolStats {
    /// Transactions that could come into a block.
    pub ready: usize,
    /// Their bytes.
    pub ready_bytes: usize,
    /// Transactions that wait for a predecessor.
    pub held: usize,
    /// Their bytes.
    pub held_bytes: usize,
    /// Accounts that have transactions here.
    pub accounts: usize,
    /// System operations.
    pub system: usize,
    /// Ids remembered of committed transactions.
    pub remembered: usize,
    /// Displaced by dearer ones.
    pub evicted: u64,
    /// Replaced by their senders.
    pub replaced: u64,
    /// Dropped because their time was over, or that of one they followed.
    pub expired: u64,
    /// Dropped because no predecessor came in time.
    pub overdue: u64,
    /// Dropped because they failed against the state, or followed one that did.
    pub refused: u64,
}

/// Where an acceptable transaction belongs.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Among the ready ones of its account, at this position; at the end if nothing is replaced.
    Ready(usize),
    /// Behind a gap.
    Held,
}

/// Verified transactions and system operations that wait for a block.
#[derive(Clone, Debug)]
pub struct Mempool {
    config: MempoolConfig,
    /// Of the last committed block.
    time: Timestamp,
    accounts: BTreeMap<AccountId, Account>,
    index: Index,
    arrivals: u64,
    remembered: Remembered<TransactionId>,
    system: SystemPool,
    counted: MempoolStats,
}

impl Mempool {
    /// An empty mempool behind a block of this `time`.
    #[must_use]
    pub fn new(config: MempoolConfig, time: Timestamp) -> Self {
        Self {
            config,
            time,
            accounts: BTreeMap::new(),
            index: Index::default(),
            arrivals: 0,
            remembered: Remembered::new(config.remembered_max),
            system: SystemPool::new(&config),
            counted: MempoolStats::default(),
        }
    }

    /// Whether a transaction is here or was committed lately: to be asked of everything that
    /// gossip brings before its signature is verified.
    #[must_use]
    pub fn knows(&self, id: &TransactionId) -> bool {
        self.index.locate(id).is_some() || self.remembered.contains(id)
    }

    /// Judges a transaction by everything but the room there is. Cheap, and good to ask before the
    /// signature is verified; [`Mempool::insert`] asks again. `account` is the sender's at the tip,
    /// `bytes` the length of the signed transaction.
    ///
    /// # Errors
    /// [`MempoolError`]: an insert would be refused, too.
    pub fn check(
        &self,
        transaction: &Transaction,
        bytes: usize,
        account: AccountFacts,
    ) -> Result<(), MempoolError> {
        self.place(transaction, bytes, account).map(|_| ())
    }

    /// Takes a transaction in. `account` is the sender's at the tip that [`Mempool::committed`]
    /// was last told of, `now_ms` is of any clock that does not go back.
    ///
    /// # Errors
    /// [`MempoolError`]: nothing has changed, nothing has been displaced.
    pub fn insert(
        &mut self,
        now_ms: u64,
        transaction: Arc<VerifiedTransaction>,
        account: AccountFacts,
    ) -> Result<Inserted, MempoolError> {
        if self.knows(&transaction.id()) {
            return Err(MempoolError::Known);
        }
        let Transaction { sender, nonce, .. } = *transaction.transaction();
        self.advance(&sender, account.nonce);
        self.promote(&sender);
        let place = self.place(transaction.transaction(), transaction.bytes(), account)?;
        let known = self.accounts.get(&sender);
        let next = known.map_or(account.nonce, |known| known.nonce);
        let old = known.and_then(|known| known.get(nonce)).cloned();
        let entry = Entry::new(transaction, self.arrivals);
        match place {
            Place::Ready(i) => self.make_room(&sender, i, &entry, old.as_ref())?,
            Place::Held => self.make_room_to_hold(&entry, old.as_ref())?,
        }
        self.arrivals += 1;
        let held = self.accounts.entry(sender).or_insert_with(|| Account::new(next));
        let newly_ready = match (place, &old) {
            (Place::Ready(i), Some(_)) => {
                held.replace(&mut self.index, i, &entry);
                1
            }
            (Place::Ready(_), None) => {
                held.push(&mut self.index, entry);
                1 + self.promote(&sender)
            }
            (Place::Held, _) => {
                held.release(&mut self.index, nonce);
                held.hold(&mut self.index, entry, now_ms.saturating_add(self.config.hold_ms));
                0
            }
        };
        self.counted.replaced += u64::from(old.is_some());
        Ok(Inserted { newly_ready, replaced: old.map(|old| old.transaction.id()) })
    }

    /// The transactions that are ready, in block order.
    #[must_use]
    pub fn candidates(&self) -> Candidates<'_> {
        Candidates { ready: self.index.ready.iter(), skipped: BTreeSet::new() }
    }

    /// A block was committed, or several up to one: its `time`, the transactions in it, and what
    /// the state says now of their senders and of anybody else whose balance changed. Drops what
    /// can no longer be executed and what its sender can no longer pay.
    pub fn committed(
        &mut self,
        time: Timestamp,
        ids: &[TransactionId],
        accounts: &[(AccountId, AccountFacts)],
    ) {
        self.time = self.time.max(time);
        // The highest nonce of each account first: moving on ranks all its others anew, so once.
        let facts = accounts.iter().map(|(id, facts)| (*id, facts.nonce));
        let mut nonces: BTreeMap<AccountId, u64> = facts.collect();
        for id in ids {
            if let Some((sender, nonce)) = self.index.locate(id) {
                let next = nonces.entry(sender).or_default();
                *next = nonce.saturating_add(1).max(*next);
            }
            self.remembered.insert(*id);
        }
        for (id, nonce) in &nonces {
            self.advance(id, *nonce);
        }
        for (id, facts) in accounts {
            self.shed(id, facts.balance);
        }
        while let Some(id) = self.index.first_expired(self.time) {
            self.counted.expired += self.drop_with_followers(&id);
        }
        // Last: what becomes ready must not evict what is on its way out.
        for id in nonces.keys() {
            self.promote(id);
        }
    }

    /// A transaction failed against the state: drops it and all that follow it.
    pub fn refused(&mut self, id: &TransactionId) {
        self.counted.refused += self.drop_with_followers(id);
    }

    /// Drops what has been held for too long.
    pub fn expire(&mut self, now_ms: u64) {
        while let Some(id) = self.index.first_overdue(now_ms) {
            self.remove_alone(&id);
            self.counted.overdue += 1;
        }
    }

    /// Whether an operation like this one is here or was committed lately; a further one need not
    /// be verified.
    #[must_use]
    pub fn knows_system(&self, operation: &SystemOperation) -> bool {
        self.system.knows(operation)
    }

    /// Whether exactly this system operation, or transaction, waits here: then it is verified.
    #[must_use]
    pub fn has(&self, what: Known<'_>) -> bool {
        match what {
            Known::Transaction(id) => self.get(id).is_some(),
            Known::System(operation) => self.system.has(operation),
        }
    }

    /// Takes a verified system operation in.
    ///
    /// # Errors
    /// [`MempoolError::Known`], [`MempoolError::SystemFull`].
    pub fn insert_system(&mut self, operation: SystemOperation) -> Result<(), MempoolError> {
        self.system.insert(operation)
    }

    /// The system operations that wait, in the order of their keys.
    pub fn system_candidates(&self) -> impl Iterator<Item = &SystemOperation> {
        self.system.iter()
    }

    /// System operations were committed: drops and remembers them, and drops what was for another
    /// epoch than `epoch`, which runs now, and for rounds of challenges that are not `open` now. A
    /// node that never makes blocks would keep it for ever.
    pub fn committed_system(
        &mut self,
        operations: &[SystemOperation],
        (epoch, open): (Epoch, &[ChallengeRound]),
    ) {
        for operation in operations {
            self.system.committed(operation);
        }
        self.system.keep(epoch, open);
    }

    /// A system operation failed against the state: drops it.
    pub fn refused_system(&mut self, operation: &SystemOperation) {
        self.system.refused(operation);
    }

    /// The transaction with this id, if it is here.
    #[must_use]
    pub fn get(&self, id: &TransactionId) -> Option<&Arc<VerifiedTransaction>> {
        let (sender, nonce) = self.index.locate(id)?;
        Some(&self.accounts.get(&sender)?.get(nonce)?.transaction)
    }

    /// The nonce after those of the account's transactions that are ready; none if it has no
    /// transactions here, and the state's nonce is the next one.
    #[must_use]
    pub fn pending_nonce(&self, account: &AccountId) -> Option<u64> {
        self.accounts.get(account).map(Account::next)
    }

    /// Transactions, ready and held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is nothing that a block is made for: no transaction is ready, and no system
    /// operation waits but for certificates of challenges, which go into blocks that come anyway.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.index.ready.is_empty() && self.system.is_idle()
    }

    /// Whether there are no transactions, ready or held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all transactions.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.index.ready_bytes + self.index.held_bytes
    }

    /// Numbers for metrics.
    #[must_use]
    pub fn stats(&self) -> MempoolStats {
        MempoolStats {
            ready: self.index.ready.len(),
            ready_bytes: self.index.ready_bytes,
            held: self.index.held_len(),
            held_bytes: self.index.held_bytes,
            accounts: self.accounts.len(),
            system: self.system.len(),
            remembered: self.remembered.len(),
            ..self.counted
        }
    }
}
