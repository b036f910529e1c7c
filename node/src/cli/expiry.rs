//! Until when something is stored, in epochs and as people tell time.
//!
//! The ledger counts in epochs. When one begins is an estimate: epochs last as long as the genesis
//! says, but stretch while too few shards are ready. So every date is told as "about". Invariant:
//! an end is exclusive everywhere, the first epoch in which nobody answers for a blob any more.

use std::fmt;

use floe_protocol::{
    index::Epoch,
    ledger::{LedgerParameters, Summary, Timestamp},
};
use serde::Serialize;

use super::receipt::human_moment;

/// Digits of a moment up to its minute.
const UP_TO_MINUTES: usize = "2026-12-01T17:21".len();

/// When epochs begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Calendar {
    epoch: Epoch,
    /// None before the first block, which starts the clock.
    start: Option<Timestamp>,
    epoch_ms: u64,
}

impl Calendar {
    /// The calendar as the ledger has it now.
    pub(super) fn new(now: &Summary, parameters: &LedgerParameters) -> Self {
        let start = Some(now.epoch_start).filter(|start| start.ms() > 0);
        Self { epoch: now.epoch, start, epoch_ms: parameters.epoch_ms }
    }

    /// The same for somebody whose transaction is about to start the clock, if nobody has.
    pub(super) fn started(self, now: Timestamp) -> Self {
        Self { start: self.start.or(Some(now)), ..self }
    }

    /// The running epoch.
    pub(super) const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// About when an epoch begins or began.
    pub(super) fn begins(&self, epoch: Epoch) -> Option<Timestamp> {
        let start = self.start?;
        let duration = |epochs: u64| self.epoch_ms.saturating_mul(epochs);
        match epoch.get().checked_sub(self.epoch.get()) {
            Some(ahead) => Some(start.plus_ms(duration(ahead))),
            None => {
                let back = duration(self.epoch.get() - epoch.get());
                Some(Timestamp::from_ms(start.ms().saturating_sub(back)))
            }
        }
    }
}

/// An end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Until {
    /// The first epoch in which it is over.
    pub(super) end_epoch: u64,
    /// About when that begins, if epochs last as long as they should.
    pub(super) expires_ms: Option<u64>,
}

impl Until {
    pub(super) fn new(end: Epoch, calendar: Option<&Calendar>) -> Self {
        let expires = calendar.and_then(|calendar| calendar.begins(end));
        Self { end_epoch: end.get(), expires_ms: expires.map(Timestamp::ms) }
    }
}

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "until epoch {}", self.end_epoch)?;
        self.expires_ms.map_or(Ok(()), |ms| write!(f, " (about {})", about(ms)))
    }
}

/// A moment to the minute, in UTC.
pub(super) fn about(ms: u64) -> String {
    let moment = human_moment(Timestamp::from_ms(ms));
    match moment.get(..UP_TO_MINUTES) {
        Some(minutes) if moment.ends_with('Z') => minutes.replace('T', " "),
        _ => moment,
    }
}

#[cfg(test)]
mod tests {
    use floe_protocol::ledger::{Amount, Prices, Supply};

    use super::*;

    fn calendar(epoch: u64, start_ms: u64) -> Calendar {
        let prices = Prices { storage: Amount::ZERO, write: Amount::ZERO, capacity_units: 0 };
        let summary = Summary {
            epoch: Epoch::new(epoch),
            epoch_start: Timestamp::from_ms(start_ms),
            prices,
            next_prices: None,
            selections: 0,
            selection_failed: None,
            resumed: None,
            certifications: 0,
            supply: Supply::default(),
        };
        let parameters = LedgerParameters::for_epoch(1_000);
        Calendar::new(&summary, &parameters)
    }

    #[test]
    fn ends_are_estimated_from_the_running_epoch() {
        let at = |epoch, calendar: Calendar| calendar.begins(Epoch::new(epoch)).map(Timestamp::ms);
        assert_eq!(at(5, calendar(3, 10_000)), Some(12_000));
        assert_eq!(at(3, calendar(3, 10_000)), Some(10_000));
        assert_eq!(at(1, calendar(3, 10_000)), Some(8_000));
        assert_eq!(at(5, calendar(0, 0)), None, "no block has started the clock yet");
        let starting = calendar(0, 0).started(Timestamp::from_ms(500));
        assert_eq!(at(5, starting), Some(5_500));
        assert_eq!(at(5, calendar(3, 10_000).started(Timestamp::from_ms(500))), Some(12_000));
    }

    #[test]
    fn an_end_is_told_in_epochs_and_to_the_minute() {
        let end = Epoch::new(7);
        let later = calendar(7, 1_700_000_000_123);
        assert_eq!(
            Until::new(end, Some(&later)).to_string(),
            "until epoch 7 (about 2023-11-14 22:13)"
        );
        assert_eq!(Until::new(end, None).to_string(), "until epoch 7");
        assert_eq!(about(u64::MAX), format!("{} ms", u64::MAX));
    }
}
