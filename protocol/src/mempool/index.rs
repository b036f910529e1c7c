//! The mempool across accounts: by id, in block order, by expiry, and the held ones by age and fee.
//!
//! Invariant: holds exactly the transactions of all accounts; only [`Account`] changes it, and the
//! byte counters are the sums of what it holds.
//!
//! [`Account`]: super::account::Account

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    account::Entry,
    order::{FeeRate, Order},
};
use crate::ledger::{AccountId, Timestamp, TransactionId, VerifiedTransaction};

#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// Every transaction's sender and nonce.
    ids: BTreeMap<TransactionId, (AccountId, u64)>,
    /// Block order; eviction from the back.
    pub(super) ready: BTreeMap<Order, Arc<VerifiedTransaction>>,
    pub(super) ready_bytes: usize,
    expiry: BTreeSet<(Timestamp, TransactionId)>,
    /// Held ones by arrival, with their deadlines. All are held equally long, so this is the order
    /// of the deadlines too, as long as the caller's clock does not go back.
    held: BTreeMap<u64, (u64, Arc<VerifiedTransaction>)>,
    pub(super) held_bytes: usize,
    /// Rates and arrivals of held ones: the first makes room first.
    held_rates: BTreeSet<(FeeRate, Reverse<u64>)>,
}

impl Index {
    pub(super) fn locate(&self, id: &TransactionId) -> Option<(AccountId, u64)> {
        self.ids.get(id).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn held_len(&self) -> usize {
        self.held.len()
    }

    /// A transaction whose time is over at `now`.
    pub(super) fn first_expired(&self, now: Timestamp) -> Option<TransactionId> {
        self.expiry.first().filter(|(expires, _)| *expires <= now).map(|(_, id)| *id)
    }

    /// A held transaction that has waited until `now_ms`.
    pub(super) fn first_overdue(&self, now_ms: u64) -> Option<TransactionId> {
        let (_, (deadline_ms, transaction)) = self.held.first_key_value()?;
        (*deadline_ms <= now_ms).then(|| transaction.id())
    }

    /// Held transactions, those that pay least first, then the latest.
    pub(super) fn held_cheapest_first(
        &self,
    ) -> impl Iterator<Item = (FeeRate, &Arc<VerifiedTransaction>)> {
        let held = |arrival| self.held.get(arrival).map(|(_, transaction)| transaction);
        self.held_rates
            .iter()
            .filter_map(move |(rate, Reverse(arrival))| Some((*rate, held(arrival)?)))
    }

    pub(super) fn add_ready(&mut self, order: Order, transaction: &Arc<VerifiedTransaction>) {
        self.add(transaction);
        self.ready_bytes += transaction.bytes();
        self.ready.insert(order, Arc::clone(transaction));
    }

    pub(super) fn remove_ready(&mut self, order: Order, transaction: &VerifiedTransaction) {
        self.remove(transaction);
        self.ready_bytes -= transaction.bytes();
        self.ready.remove(&order);
    }

    pub(super) fn rank(&mut self, old: Order, new: Order) {
        if let Some(transaction) = self.ready.remove(&old) {
            self.ready.insert(new, transaction);
        }
    }

    pub(super) fn add_held(&mut self, entry: &Entry, deadline_ms: u64) {
        self.add(&entry.transaction);
        self.held_bytes += entry.transaction.bytes();
        self.held.insert(entry.arrival, (deadline_ms, Arc::clone(&entry.transaction)));
        self.held_rates.insert((entry.rate, Reverse(entry.arrival)));
    }

    pub(super) fn remove_held(&mut self, entry: &Entry) {
        self.remove(&entry.transaction);
        self.held_bytes -= entry.transaction.bytes();
        self.held.remove(&entry.arrival);
        self.held_rates.remove(&(entry.rate, Reverse(entry.arrival)));
    }

    fn add(&mut self, transaction: &VerifiedTransaction) {
        let body = transaction.transaction();
        self.ids.insert(transaction.id(), (body.sender, body.nonce));
        self.expiry.insert((body.expires, transaction.id()));
    }

    fn remove(&mut self, transaction: &VerifiedTransaction) {
        self.ids.remove(&transaction.id());
        self.expiry.remove(&(transaction.transaction().expires, transaction.id()));
    }
}
