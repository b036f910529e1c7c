//! The clock of the ledger: half of an epoch, when the next committee is selected, and its end.
//!
//! An epoch ends with the first block at or after its deadline at which a quorum of shards is ready:
//! so never are more shards on the move than the storage can do without. Until then it stretches,
//! and the selection is repeated every half duration. After a gap between blocks, be it that the
//! ledger stood still, a selection waits until nodes had the time to report that they are there: it
//! would be among those few who had done so before the gap. From two durations on, shards whose next
//! holder had them complete before count as ready: the epoch that their interim holders could not
//! complete ends without them. If no quorum can be reached the epoch goes on for ever: the blobs
//! are worth more than the schedule. Who keeps the copies of shards that have moved on is noted in
//! their records (`ledger/shard_record.rs`).
//!
//! Invariant: what a block does here follows from its time and the state alone, and
//! [`State::epoch_deadline`](crate::ledger::State::epoch_deadline), or for rounds of challenges
//! [`State::challenge_deadline`](crate::ledger::State::challenge_deadline), names the next time at
//! which anything happens that no operation causes.

use super::Executor;
use crate::{
    bft,
    committee::Committee,
    index::{Epoch, Height, ShardIndex},
    ledger::{Event, Key, NODE_READY_AGE_MAX_MS, Record, ShardRecord, Summary, error::Failure},
};

/// Half durations after which shards that are not ready return to who had them.
pub(super) const HALVES_TO_RETURN: u32 = 4;

impl Executor<'_> {
    /// Does what the block's time calls for; the committee of the next height if it is another.
    pub(in crate::ledger) fn tick(&mut self) -> Result<Option<Committee>, Failure> {
        let mut summary = self.overlay.summary()?;
        if self.height == Height::new(1) {
            // The first epoch begins with the first block: genesis knows no time.
            summary.epoch_start = self.time;
            self.overlay.put(Key::Summary, Record::Summary(summary))?;
        } else if self.time.ms_since(self.parent.1) > NODE_READY_AGE_MAX_MS {
            summary.resumed = Some(self.time);
            self.overlay.put(Key::Summary, Record::Summary(summary))?;
        }
        let duration = self.parameters.ledger.epoch_ms;
        let passed = self.time.ms_since(summary.epoch_start);
        let halves = passed.saturating_mul(2).checked_div(duration).unwrap_or(0);
        let halves = u32::try_from(halves).unwrap_or(u32::MAX);
        let over = passed >= duration;
        self.rounds(&summary, over)?;
        if over && summary.selections > 0 && self.may_end(&summary)? {
            return self.change_epoch(summary).map(Some);
        }
        if halves > summary.selections && summary.may_select(self.time) {
            self.select(&mut summary, halves)?;
            if over && self.may_end(&summary)? {
                return self.change_epoch(summary).map(Some);
            }
        }
        Ok(None)
    }

    /// Whether so many shards are ready, or return, that the next epoch may begin.
    fn may_end(&mut self, summary: &Summary) -> Result<bool, Failure> {
        let next = match summary.selections >= HALVES_TO_RETURN {
            true => Some(self.next_committee()?),
            false => None,
        };
        let shards = self.overlay.shards()?;
        let counted = (0_u16..).map(ShardIndex::new).zip(&shards).filter(|(index, shard)| {
            let holder = |next: &Committee| next.members()[next.holder(*index)].node;
            shard.is_ready() || next.as_ref().is_some_and(|next| holder(next) == shard.last_ready)
        });
        let weight = u16::try_from(counted.count()).unwrap_or(u16::MAX);
        Ok(bft::is_quorum(weight, self.parameters.n_shards))
    }

    /// The committee that was selected for the next epoch.
    fn next_committee(&mut self) -> Result<Committee, Failure> {
        let next = self.epoch().plus(1);
        let bytes = self.overlay.committee(next)?;
        let committee = bytes.and_then(|bytes| Committee::from_bytes(&bytes).ok());
        Ok(committee.ok_or_else(|| self.overlay.damaged(&Key::Committee(next)))?)
    }

    fn change_epoch(&mut self, mut summary: Summary) -> Result<Committee, Failure> {
        let committee = self.next_committee()?;
        let next = committee.epoch();
        self.drop_rounds()?;
        self.leave_blobs(next);
        self.pay_rewards()?;
        self.forget_bad_epochs(&committee)?;
        self.move_shards(&committee)?;
        // What the rewards burned is in the stored one.
        summary.supply = self.overlay.summary()?.supply;
        summary.prices = summary.next_prices.take().unwrap_or(summary.prices);
        summary.epoch = next;
        summary.epoch_start = self.time;
        summary.selections = 0;
        self.overlay.put(Key::Summary, Record::Summary(summary))?;
        let mut record = self.overlay.epoch(next)?;
        record.first_height = Some(self.height.next());
        self.overlay.put(Key::Epoch(next), Record::Epoch(record))?;
        let oldest = self.oldest_kept_epoch();
        if oldest > Epoch::new(0) {
            let forgotten = Epoch::new(oldest.get().saturating_sub(1));
            self.overlay.put(Key::Committee(forgotten), None)?;
            self.overlay.put(Key::Terms(forgotten), None)?;
            self.overlay.put(Key::Challenges(forgotten), None)?;
        }
        self.events.push(Event::EpochChanged { epoch: next });
        Ok(committee)
    }

    fn move_shards(&mut self, next: &Committee) -> Result<(), Failure> {
        let mut shards = self.overlay.shards()?;
        ShardRecord::change_epoch(&mut shards, self.committee, next);
        Ok(self.overlay.put(Key::Shards, Record::Shards(shards))?)
    }
}
