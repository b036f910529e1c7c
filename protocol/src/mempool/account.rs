//! The transactions of one account: those ready without a gap, and those held behind one.
//!
//! Invariants: ready transaction `i` has the nonce `nonce + i`; none that is held has the nonce
//! that would come next, so whatever closes a gap is followed by a promotion; every change here is
//! made in the index of the mempool in the same call.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{
    index::Index,
    order::{FeeRate, Order},
};
use crate::ledger::{Amount, VerifiedTransaction};

/// A transaction and when it came.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) transaction: Arc<VerifiedTransaction>,
    pub(super) rate: FeeRate,
    pub(super) arrival: u64,
}

impl Entry {
    pub(super) fn new(transaction: Arc<VerifiedTransaction>, arrival: u64) -> Self {
        let rate = FeeRate::of(&transaction);
        Self { transaction, rate, arrival }
    }

    fn nonce(&self) -> u64 {
        self.transaction.transaction().nonce
    }

    fn order(&self, previous: Option<Order>) -> Order {
        Order::after(previous, self.rate, self.arrival, self.nonce())
    }
}

#[derive(Clone, Debug)]
struct Ready {
    entry: Entry,
    order: Order,
}

#[derive(Clone, Debug)]
pub(super) struct Account {
    /// The next nonce by the state.
    pub(super) nonce: u64,
    ready: VecDeque<Ready>,
    held: BTreeMap<u64, Entry>,
    /// Bytes of all its transactions.
    pub(super) bytes: usize,
    /// Fees of all its transactions.
    pub(super) fees: Amount,
}

impl Account {
    pub(super) const fn new(nonce: u64) -> Self {
        Self { nonce, ready: VecDeque::new(), held: BTreeMap::new(), bytes: 0, fees: Amount::ZERO }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.held.is_empty()
    }

    pub(super) fn ready_len(&self) -> usize {
        self.ready.len()
    }

    pub(super) fn held_len(&self) -> usize {
        self.held.len()
    }

    /// The nonce after those that are ready.
    pub(super) fn next(&self) -> u64 {
        self.nonce.saturating_add(self.ready.len() as u64)
    }

    /// The transaction with this nonce, ready or held.
    pub(super) fn get(&self, nonce: u64) -> Option<&Entry> {
        match self.ready_index(nonce) {
            Some(i) => Some(&self.ready[i].entry),
            None => self.held.get(&nonce),
        }
    }

    pub(super) fn ready_index(&self, nonce: u64) -> Option<usize> {
        let i = usize::try_from(nonce.checked_sub(self.nonce)?).ok()?;
        (i < self.ready.len()).then_some(i)
    }

    /// Where `entry` would rank as the one after the first `ready` transactions.
    pub(super) fn order_after(&self, ready: usize, entry: &Entry) -> Order {
        let previous = ready.checked_sub(1).map(|last| self.ready[last].order);
        entry.order(previous)
    }

    /// Appends the transaction with the next nonce.
    pub(super) fn push(&mut self, index: &mut Index, entry: Entry) {
        let order = self.order_after(self.ready.len(), &entry);
        self.add(&entry);
        index.add_ready(order, &entry.transaction);
        self.ready.push_back(Ready { entry, order });
    }

    /// Replaces ready transaction `i`; those after it stay ready.
    pub(super) fn replace(&mut self, index: &mut Index, i: usize, entry: &Entry) {
        let order = self.order_after(i, entry);
        let old = std::mem::replace(&mut self.ready[i], Ready { entry: entry.clone(), order });
        self.subtract(&old.entry);
        self.add(entry);
        index.remove_ready(old.order, &old.entry.transaction);
        index.add_ready(order, &entry.transaction);
        self.reorder(index, i + 1);
    }

    /// Ranks the ready transactions from `first` on anew, after a change before it. Stops at the
    /// first that keeps its rank: those behind it depend on nothing earlier.
    fn reorder(&mut self, index: &mut Index, first: usize) {
        for i in first..self.ready.len() {
            let order = self.order_after(i, &self.ready[i].entry);
            let ready = &mut self.ready[i];
            if ready.order == order {
                return;
            }
            index.rank(ready.order, order);
            ready.order = order;
        }
    }

    /// Holds a transaction behind a gap until `deadline_ms`.
    pub(super) fn hold(&mut self, index: &mut Index, entry: Entry, deadline_ms: u64) {
        self.add(&entry);
        index.add_held(&entry, deadline_ms);
        self.held.insert(entry.nonce(), entry);
    }

    /// Drops the held transaction with this nonce and returns it.
    pub(super) fn release(&mut self, index: &mut Index, nonce: u64) -> Option<Entry> {
        let entry = self.held.remove(&nonce)?;
        self.subtract(&entry);
        index.remove_held(&entry);
        Some(entry)
    }

    /// Drops the last transaction that is ready.
    pub(super) fn pop_ready(&mut self, index: &mut Index) -> bool {
        let Some(last) = self.ready.pop_back() else { return false };
        self.subtract(&last.entry);
        index.remove_ready(last.order, &last.entry.transaction);
        true
    }

    /// Drops the transaction with the highest nonce.
    pub(super) fn pop_last(&mut self, index: &mut Index) -> bool {
        match self.held.last_key_value() {
            Some((nonce, _)) => self.release(index, *nonce).is_some(),
            None => self.pop_ready(index),
        }
    }

    /// Drops the transaction with this nonce and all that follow it. Returns how many.
    pub(super) fn drop_from(&mut self, index: &mut Index, nonce: u64) -> u64 {
        let mut dropped = 0;
        while let Some((last, _)) = self.held.last_key_value()
            && *last >= nonce
        {
            self.release(index, *last);
            dropped += 1;
        }
        while self.next() > nonce && self.pop_ready(index) {
            dropped += 1;
        }
        dropped
    }

    /// The state's nonce moved on: what is below it can never be executed again.
    pub(super) fn advance(&mut self, index: &mut Index, nonce: u64) {
        if nonce <= self.nonce {
            return;
        }
        while self.nonce < nonce
            && let Some(first) = self.ready.pop_front()
        {
            self.nonce += 1;
            self.subtract(&first.entry);
            index.remove_ready(first.order, &first.entry.transaction);
        }
        self.nonce = nonce;
        while let Some((first, _)) = self.held.first_key_value()
            && *first < nonce
        {
            self.release(index, *first);
        }
        self.reorder(index, 0);
    }

    fn add(&mut self, entry: &Entry) {
        self.bytes += entry.transaction.bytes();
        let fees = self.fees.checked_add(entry.transaction.transaction().fee);
        self.fees = fees.expect("the sum was found affordable");
    }

    fn subtract(&mut self, entry: &Entry) {
        self.bytes -= entry.transaction.bytes();
        let fees = self.fees.checked_sub(entry.transaction.transaction().fee);
        self.fees = fees.expect("a part of the sum");
    }
}
