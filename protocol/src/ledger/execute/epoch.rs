//! The clock of the ledger: half of an epoch, when the next one's prices are fixed, and its end.

use super::Executor;
use crate::{
    committee::Committee,
    index::{Epoch, Height},
    ledger::{Event, Key, NodeSettings, Prices, Record, Summary, error::Failure},
};

impl Executor<'_> {
    /// Does what the block's time calls for; the committee of the next height.
    pub(in crate::ledger) fn tick(&mut self) -> Result<Option<Committee>, Failure> {
        let mut summary = self.overlay.summary()?;
        if self.height == Height::new(1) {
            // The first epoch begins with the first block: genesis knows no time.
            summary.epoch_start = self.time;
            self.overlay.put(Key::Summary, Record::Summary(summary))?;
        }
        let duration = self.parameters.ledger.epoch_ms;
        let passed = self.time.ms_since(summary.epoch_start);
        if passed >= duration / 2 && summary.next_prices.is_none() {
            self.select(&mut summary)?;
        }
        if passed < duration {
            return Ok(None);
        }
        let next = summary.epoch.plus(1);
        summary.prices = summary.next_prices.take().unwrap_or(summary.prices);
        summary.epoch = next;
        summary.epoch_start = self.time;
        self.overlay.put(Key::Summary, Record::Summary(summary))?;
        let mut record = self.overlay.epoch(next)?;
        record.first_height = Some(self.height.next());
        self.overlay.put(Key::Epoch(next), Record::Epoch(record))?;

        let committee = self.committee.in_epoch(next);
        let bytes = committee.to_bytes();
        self.overlay.put(Key::Committee(next), Record::Committee(bytes))?;
        let oldest = self.oldest_kept_epoch();
        if oldest > Epoch::new(0) {
            let forgotten = Epoch::new(oldest.get().saturating_sub(1));
            self.overlay.put(Key::Committee(forgotten), None)?;
        }
        self.events.push(Event::EpochChanged { epoch: next });
        Ok(Some(committee))
    }

    fn select(&mut self, summary: &mut Summary) -> Result<(), Failure> {
        let mut votes: Vec<(u16, NodeSettings)> = Vec::new();
        for member in self.committee.members() {
            if let Some(node) = self.overlay.node(&member.node)? {
                votes.push((member.weight(), node.settings));
            }
        }
        let votes = votes.iter().map(|(weight, settings)| (*weight, settings));
        let prices = Prices::voted(votes, self.parameters.n_shards);
        summary.next_prices = Some(prices);
        self.overlay.put(Key::Summary, Record::Summary(*summary))?;
        let epoch = summary.epoch.plus(1);
        self.events.push(Event::EpochSelected { epoch, prices });
        Ok(())
    }
}
