//! How a mempool decides: what is acceptable, what makes room for it, and what becomes ready.

use std::sync::Arc;

use super::{
    AccountFacts, Mempool, MempoolError, Place,
    account::{Account, Entry},
};
use crate::ledger::{AccountId, Amount, Transaction, TransactionId, VerifiedTransaction};

impl Mempool {
    /// Everything but room: time, nonce, fee, balance and the limits of the account.
    pub(super) fn place(
        &self,
        transaction: &Transaction,
        bytes: usize,
        facts: AccountFacts,
    ) -> Result<Place, MempoolError> {
        let Transaction { nonce, fee, expires, .. } = *transaction;
        if fee < self.config.fee_min {
            return Err(MempoolError::FeeTooLow { min: self.config.fee_min });
        }
        // A block is later than its parent, so at the tip's own time it is too late already.
        if expires <= self.time {
            return Err(MempoolError::Expired);
        }
        let unknown = Account::new(facts.nonce);
        let account = self.accounts.get(&transaction.sender).unwrap_or(&unknown);
        let next = account.nonce.max(facts.nonce);
        let Some(ahead) = nonce.checked_sub(next) else {
            return Err(MempoolError::Stale { next });
        };
        let transactions_max = self.config.account_transactions_max;
        // Nothing could follow the last nonce of all, so the state cannot count it either.
        let near = usize::try_from(ahead).is_ok_and(|ahead| ahead < transactions_max);
        if !near || nonce == u64::MAX {
            return Err(MempoolError::NonceTooHigh { next, transactions_max });
        }
        let old = account.get(nonce).map(|entry| &entry.transaction);
        let (mut other_fees, mut other_bytes) = (Some(account.fees), account.bytes);
        if let Some(old) = old {
            let min = replacement_fee(old, bytes);
            if fee < min {
                return Err(MempoolError::FeeTooLow { min });
            }
            other_fees = account.fees.checked_sub(old.transaction().fee);
            other_bytes -= old.bytes();
        }
        let fees = other_fees.and_then(|fees| fees.checked_add(fee));
        if fees.is_none_or(|fees| fees > facts.balance) {
            return Err(MempoolError::Unaffordable);
        }
        if other_bytes.saturating_add(bytes) > self.config.account_bytes_max {
            return Err(MempoolError::AccountFull);
        }
        if let Some(i) = account.ready_index(nonce) {
            return Ok(Place::Ready(i));
        }
        if nonce == account.next() {
            return Ok(Place::Ready(account.ready_len()));
        }
        if old.is_none() && account.held_len() >= self.config.account_held_max {
            return Err(MempoolError::AccountFull);
        }
        Ok(Place::Held)
    }

    /// Evicts what has to give way to `entry` as ready transaction `i` of `sender`, if all of that
    /// ranks below it; else evicts nothing.
    pub(super) fn make_room(
        &mut self,
        sender: &AccountId,
        i: usize,
        entry: &Entry,
        old: Option<&Entry>,
    ) -> Result<(), MempoolError> {
        let account = self.accounts.get(sender);
        let floor = account.map_or(entry.rate, |account| account.order_after(i, entry).floor.0);
        let freed = old.map_or(0, |old| old.transaction.bytes());
        let bytes = self.index.ready_bytes - freed + entry.transaction.bytes();
        let mut room = Room {
            excess_bytes: bytes.saturating_sub(self.config.bytes_max),
            excess: (self.index.ready.len() + usize::from(old.is_none()))
                .saturating_sub(self.config.transactions_max),
            victims: Vec::new(),
        };
        for (order, transaction) in self.index.ready.iter().rev() {
            if room.suffices() || order.floor.0 >= floor {
                break;
            }
            // Its own followers gain rank by a replacement: they stay.
            if transaction.transaction().sender != *sender {
                room.add(transaction);
            }
        }
        self.evict(room)
    }

    /// The same among the held ones, which have places of their own.
    pub(super) fn make_room_to_hold(
        &mut self,
        entry: &Entry,
        old: Option<&Entry>,
    ) -> Result<(), MempoolError> {
        let freed = old.map_or(0, |old| old.transaction.bytes());
        let bytes = self.index.held_bytes - freed + entry.transaction.bytes();
        let mut room = Room {
            excess_bytes: bytes.saturating_sub(self.config.held_bytes_max),
            excess: (self.index.held_len() + usize::from(old.is_none()))
                .saturating_sub(self.config.held_max),
            victims: Vec::new(),
        };
        let old = old.map(|old| old.transaction.id());
        for (rate, transaction) in self.index.held_cheapest_first() {
            if room.suffices() || rate >= entry.rate {
                break;
            }
            if Some(transaction.id()) != old {
                room.add(transaction);
            }
        }
        self.evict(room)
    }

    fn evict(&mut self, room: Room) -> Result<(), MempoolError> {
        if !room.suffices() {
            return Err(MempoolError::Full);
        }
        for id in room.victims {
            // From the end of the order: each is the last of its account, and takes none along.
            self.remove_alone(&id);
            self.counted.evicted += 1;
        }
        Ok(())
    }

    /// The state's nonce of an account moved on. What that closes gaps for is to be promoted.
    pub(super) fn advance(&mut self, id: &AccountId, nonce: u64) {
        if let Some(account) = self.accounts.get_mut(id) {
            account.advance(&mut self.index, nonce);
            self.forget_if_empty(id);
        }
    }

    /// Drops the last transactions of an account until it can pay the fees of the others.
    pub(super) fn shed(&mut self, id: &AccountId, balance: Amount) {
        let Some(account) = self.accounts.get_mut(id) else { return };
        while account.fees > balance && account.pop_last(&mut self.index) {
            self.counted.refused += 1;
        }
        self.forget_if_empty(id);
    }

    /// Makes held transactions ready that no gap separates any more. One for which there is no room
    /// is dropped: it had its chance.
    pub(super) fn promote(&mut self, id: &AccountId) -> usize {
        let mut promoted = 0;
        while let Some(account) = self.accounts.get_mut(id)
            && let Some(entry) = account.release(&mut self.index, account.next())
        {
            let i = account.ready_len();
            if self.make_room(id, i, &entry, None).is_err() {
                self.counted.evicted += 1;
                self.forget_if_empty(id);
                break;
            }
            let Some(account) = self.accounts.get_mut(id) else { break };
            account.push(&mut self.index, entry);
            promoted += 1;
        }
        promoted
    }

    /// Drops a transaction and all that follow it. Returns how many.
    pub(super) fn drop_with_followers(&mut self, id: &TransactionId) -> u64 {
        let Some((sender, nonce)) = self.index.locate(id) else { return 0 };
        let Some(account) = self.accounts.get_mut(&sender) else { return 0 };
        let dropped = account.drop_from(&mut self.index, nonce);
        self.forget_if_empty(&sender);
        dropped
    }

    /// Drops a held transaction, or one that is the last of its account to be ready.
    pub(super) fn remove_alone(&mut self, id: &TransactionId) {
        let Some((sender, nonce)) = self.index.locate(id) else { return };
        let Some(account) = self.accounts.get_mut(&sender) else { return };
        if account.release(&mut self.index, nonce).is_none() {
            account.pop_ready(&mut self.index);
        }
        self.forget_if_empty(&sender);
    }

    pub(super) fn forget_if_empty(&mut self, id: &AccountId) {
        if self.accounts.get(id).is_some_and(Account::is_empty) {
            self.accounts.remove(id);
        }
    }
}

/// What has to go, and what would.
struct Room {
    excess_bytes: usize,
    excess: usize,
    victims: Vec<TransactionId>,
}

impl Room {
    const fn suffices(&self) -> bool {
        self.excess_bytes == 0 && self.excess == 0
    }

    fn add(&mut self, victim: &Arc<VerifiedTransaction>) {
        self.victims.push(victim.id());
        self.excess_bytes = self.excess_bytes.saturating_sub(victim.bytes());
        self.excess = self.excess.saturating_sub(1);
    }
}

/// The lowest fee at which a transaction of `bytes` replaces `old`: a tenth more, rounded up and
/// never nothing, so that replacements cannot be gossiped for free; and no less per byte, so that a
/// longer one cannot lower its rank.
fn replacement_fee(old: &VerifiedTransaction, bytes: usize) -> Amount {
    let fee = old.transaction().fee.frost();
    let tenth_more = fee.saturating_add(fee.div_ceil(10).max(1));
    let per_byte = fee.saturating_mul(bytes as u128).div_ceil(old.bytes().max(1) as u128);
    Amount::from_frost(tenth_more.max(per_byte))
}
