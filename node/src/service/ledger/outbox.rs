//! Transactions on their way to others, a few milliseconds' worth in one message.

use std::time::{Duration, Instant};

use floe_protocol::{
    ledger::VerifiedTransaction,
    message::ledger::{MAX_SUBMITTED_TRANSACTIONS, MAX_TRANSACTIONS_ANNOUNCEMENT_BYTES},
};

/// How long a transaction waits for company: well below the time between blocks.
const COMPANY: Duration = Duration::from_millis(5);
/// What the list around the transactions takes, at most.
const ENVELOPE_BYTES: usize = 1 << 10;

/// Transactions that have not been told to others yet.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: Vec<Vec<u8>>,
    bytes: usize,
    since: Option<Instant>,
}

impl Outbox {
    /// Adds a transaction. What was there before is returned if both do not fit in one message.
    pub(super) fn add(&mut self, transaction: &VerifiedTransaction) -> Option<Vec<Vec<u8>>> {
        let bytes = transaction.signed().to_bytes();
        let full = self.waiting.len() == MAX_SUBMITTED_TRANSACTIONS
            || self.bytes + bytes.len() + ENVELOPE_BYTES > MAX_TRANSACTIONS_ANNOUNCEMENT_BYTES;
        let before = full.then(|| self.take());
        self.bytes += bytes.len() + 4;
        self.waiting.push(bytes);
        self.since.get_or_insert_with(Instant::now);
        before
    }

    /// When the message is to be sent.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + COMPANY)
    }

    /// Everything, if it is time.
    pub(super) fn take_due(&mut self) -> Option<Vec<Vec<u8>>> {
        self.due().filter(|due| *due <= Instant::now()).map(|_| self.take())
    }

    fn take(&mut self) -> Vec<Vec<u8>> {
        let Self { waiting, .. } = std::mem::take(self);
        waiting
    }
}
