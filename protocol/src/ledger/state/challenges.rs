//! What a state knows of storage challenges beside its records: the billed units to draw from, which
//! are derived from all blobs, and when the next block is needed.

use std::{sync::Arc, time::Duration};

use super::State;
use crate::{
    blob::BlobId,
    challenge::BilledUnits,
    index::{ChallengeRound, Height},
    ledger::{
        Challenges, IndexRange, LoadError, ReadError, StateReader, Timestamp, overlay::Overlay,
    },
};

/// Entries of the index that are read at a time.
const PAGE_MAX: usize = 1_024;

impl State {
    /// The challenges of the running epoch, after the tip.
    #[must_use]
    pub const fn challenges(&self) -> &Arc<Challenges> {
        &self.challenges
    }

    /// The rounds in which certificates can come.
    #[must_use]
    pub fn open_challenges(&self) -> Vec<ChallengeRound> {
        self.challenges.open.iter().map(|open| open.round).collect()
    }

    /// How much ledger time is left from the tip to [`State::challenge_deadline`].
    #[must_use]
    pub fn challenge_wait(&self) -> Option<Duration> {
        let deadline = self.challenge_deadline()?;
        Some(Duration::from_millis(deadline.ms_since(self.tip.time)))
    }

    /// When challenges need the next block: one that opens a round or closes one, that gives a
    /// seed, or that is one of the heights for which certificates count. None without any blob.
    #[must_use]
    pub fn challenge_deadline(&self) -> Option<Timestamp> {
        if self.tip.height == Height::new(0) {
            return None;
        }
        let (rules, start) = (&self.parameters.ledger.challenges, self.summary.epoch_start);
        let end = start.plus_ms(self.parameters.ledger.epoch_ms);
        let opening = self.challenges.next_opening(rules, start);
        // Past the end none opens, however long the epoch lasts.
        let may_open = self.tip.time < end && !self.units.is_empty();
        let opening = opening.filter(|due| *due < end && may_open);
        let step = self.challenges.next_step(rules, (self.tip.height, self.tip.time));
        opening.into_iter().chain(step).min()
    }

    /// The same state, with what is derived from the records of `reader`.
    pub(in crate::ledger) fn recalled(
        mut self,
        reader: &dyn StateReader,
    ) -> Result<Self, LoadError> {
        let epoch = self.committee.epoch();
        let mut overlay = Overlay::new(reader, Some(self.tip.height));
        let members = self.committee.members().len();
        let stored = overlay.stored_challenges(epoch)?;
        self.challenges =
            Arc::new(stored.map_or_else(|| Challenges::new(members), |record| *record));
        self.units = units(reader, self.tip.height)?;
        // As far as the last round could have come, so that the next one has little to do.
        let cutoff = self.challenges.last.unwrap_or_default();
        let cutoff = cutoff.minus_ms(self.parameters.ledger.challenges.grace_ms);
        self.units.advance(epoch, cutoff);
        Ok(self)
    }
}

/// The units of all certified blobs at `height`. The index is that of the newest block: what came
/// later has no record at this height.
fn units(reader: &dyn StateReader, height: Height) -> Result<BilledUnits, ReadError> {
    let mut units = BilledUnits::new();
    let IndexRange { mut start, end } = IndexRange::all_certified();
    let mut last = None;
    loop {
        let page = reader.index(&start..&end, PAGE_MAX)?;
        let Some(entry) = page.last() else { return Ok(units) };
        start = [entry.as_slice(), &[0]].concat();
        // Behind the kind: a blob with several registrations has as many entries in a row.
        let ids = page.iter().filter_map(|entry| entry.get(1..)?.first_chunk::<32>());
        for id in ids.map(|id| BlobId::new(*id)) {
            if last.replace(id) == Some(id) {
                continue;
            }
            // Not kept over the pages: a network may have millions of blobs.
            let blob = Overlay::new(reader, Some(height)).blob(&id)?;
            let updated = units.update(None, blob.as_ref());
            updated.map_err(|error| ReadError::Failed(error.into()))?;
        }
    }
}
