//! Transactions on their way to others, a few milliseconds' worth in one message.
//!
//! Every message costs every node some work, whatever it holds. So who has little to tell tells it
//! at once, and who has much fills its messages: less often, but well within the time between
//! blocks.

use std::time::{Duration, Instant};

use floe_protocol::{
    ledger::VerifiedTransaction,
    message::ledger::{MAX_SUBMITTED_TRANSACTIONS, MAX_TRANSACTIONS_ANNOUNCEMENT_BYTES},
};

/// How long a transaction waits for company.
const COMPANY: Duration = Duration::from_millis(5);
/// The least time between two messages that are not full: half of that between blocks.
const INTERVAL: Duration = Duration::from_millis(25);
/// What the list around the transactions takes, at most.
const ENVELOPE_BYTES: usize = 1 << 10;

/// Transactions that have not been told to others yet.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: Vec<Vec<u8>>,
    bytes: usize,
    /// When the first of them came.
    since: Option<Instant>,
    /// When the last message was taken.
    taken: Option<Instant>,
}

impl Outbox {
    /// Adds a transaction. What was there before is returned if both do not fit in one message.
    pub(super) fn add(
        &mut self,
        now: Instant,
        transaction: &VerifiedTransaction,
    ) -> Option<Vec<Vec<u8>>> {
        let bytes = transaction.signed().to_bytes();
        let full = self.waiting.len() == MAX_SUBMITTED_TRANSACTIONS
            || self.bytes + bytes.len() + ENVELOPE_BYTES > MAX_TRANSACTIONS_ANNOUNCEMENT_BYTES;
        let before = full.then(|| self.take(now));
        self.bytes += bytes.len() + 4;
        self.waiting.push(bytes);
        self.since.get_or_insert(now);
        before
    }

    /// When the message is to be sent.
    pub(super) fn due(&self) -> Option<Instant> {
        let due = self.since? + COMPANY;
        Some(self.taken.map_or(due, |taken| due.max(taken + INTERVAL)))
    }

    /// Everything, if it is time.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Vec<Vec<u8>>> {
        self.due().filter(|due| *due <= now).map(|_| self.take(now))
    }

    fn take(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let Self { waiting, .. } = std::mem::take(self);
        self.taken = Some(now);
        waiting
    }
}

#[cfg(test)]
mod tests {
    use floe_protocol::{
        hash::Hash,
        keys::ChainId,
        ledger::{AccountId, Amount, Operation, Timestamp, Transaction},
        test_support::account_key,
    };

    use super::*;

    fn transaction(operations: usize) -> VerifiedTransaction {
        let (chain, key) = (ChainId::new(Hash::ZERO), account_key(0));
        let to = AccountId::new(key.public());
        let transaction = Transaction {
            sender: to,
            nonce: 0,
            fee: Amount::from_frost(1),
            expires: Timestamp::from_ms(1),
            operations: vec![Operation::Transfer { to, amount: Amount::from_frost(1) }; operations],
        };
        transaction.sign(&chain, &key).verify(&chain).unwrap()
    }

    #[test]
    fn a_lone_transaction_waits_for_company_only() {
        let mut outbox = Outbox::default();
        let start = Instant::now();
        assert_eq!(outbox.due(), None);
        assert_eq!(outbox.take_due(start), None);
        for step in 0..3_u32 {
            let now = start + step * INTERVAL;
            assert_eq!(outbox.add(now, &transaction(1)), None);
            assert_eq!(outbox.due(), Some(now + COMPANY));
            assert_eq!(outbox.take_due(now), None);
            assert_eq!(outbox.take_due(now + COMPANY).map(|taken| taken.len()), Some(1));
            assert_eq!(outbox.due(), None);
        }
    }

    #[test]
    fn many_share_messages_that_are_an_interval_apart() {
        let (mut outbox, transaction) = (Outbox::default(), transaction(1));
        let start = Instant::now();
        let mut sent = Vec::new();
        for ms in 0..200_u32 {
            let now = start + Duration::from_millis(ms.into());
            assert_eq!(outbox.add(now, &transaction), None);
            sent.extend(outbox.take_due(now).map(|taken| (ms, taken.len())));
        }
        let expected = [(5, 6), (30, 25), (55, 25), (80, 25), (105, 25), (130, 25), (155, 25)];
        assert_eq!(sent[..7], expected);
    }

    #[test]
    fn a_full_message_goes_at_once() {
        let (mut outbox, transaction) = (Outbox::default(), transaction(64));
        let now = Instant::now();
        let mut bytes = 0;
        let full = (0..=MAX_SUBMITTED_TRANSACTIONS).find_map(|_| {
            bytes += transaction.bytes();
            outbox.add(now, &transaction)
        });
        let full = full.unwrap();
        let taken: usize = full.iter().map(Vec::len).sum();
        assert!(taken <= MAX_TRANSACTIONS_ANNOUNCEMENT_BYTES);
        assert!(bytes + ENVELOPE_BYTES + 4 * full.len() > MAX_TRANSACTIONS_ANNOUNCEMENT_BYTES);
        assert_eq!(outbox.due(), Some(now + INTERVAL), "what did not fit");
    }
}
