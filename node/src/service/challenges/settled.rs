//! Blobs of which the ledger has said the last word, until no open round asks for them any more.
//!
//! Pure. Invariant: as many are remembered as may be known to be inconsistent, and beyond that the
//! oldest are over early: whoever stands on them may miss a round.

use std::collections::BTreeSet;

use floe_protocol::{
    blob::BlobId,
    index::{ChallengeRound, Epoch, Height},
    ledger::{Blob, BlobState},
};

/// Blobs that are remembered.
const BLOBS_MAX: usize = 4_096;

/// The blobs, by the height at which they were settled.
#[derive(Debug, Default)]
pub(super) struct Settled(BTreeSet<(Height, BlobId)>);

impl Settled {
    /// The block at `height` says that the blob is invalid, or has ended.
    pub(super) fn add(&mut self, blob: BlobId, height: Height) {
        self.0.insert((height, blob));
    }

    /// All of them.
    pub(super) fn blobs(&self) -> BTreeSet<BlobId> {
        self.0.iter().map(|(_, blob)| *blob).collect()
    }

    /// Takes those that no round asks for, of which the `oldest` was opened first, and none can ask
    /// for that opens after the block at `seen`.
    pub(super) fn take_over(
        &mut self,
        oldest: Option<ChallengeRound>,
        seen: Height,
    ) -> BTreeSet<BlobId> {
        let mut over = BTreeSet::new();
        let is_over = |(height, _): &(Height, BlobId)| {
            *height <= seen && oldest.is_none_or(|oldest| height.get() < oldest.get())
        };
        while let Some(first) = self.0.first() {
            if !is_over(first) && self.0.len() <= BLOBS_MAX {
                break;
            }
            over.extend(self.0.pop_first().map(|(_, blob)| blob));
        }
        over
    }
}

/// Those of the blobs for which, by their `record` in the running `epoch`, nobody has to hold
/// anything any more: no round that is opened later asks for them.
pub(super) fn settled_of<E>(
    blobs: &[BlobId],
    epoch: Epoch,
    record: impl Fn(&BlobId) -> Result<Option<Blob>, E>,
) -> Result<BTreeSet<BlobId>, E> {
    let mut settled = BTreeSet::new();
    for blob in blobs {
        let is_asked_for =
            record(blob)?.is_some_and(|record| record.state(epoch) == BlobState::Certified);
        if !is_asked_for {
            settled.insert(*blob);
        }
    }
    Ok(settled)
}

#[cfg(test)]
mod tests {
    use floe_protocol::{
        blob::BlobHeader,
        hash::Hash,
        ledger::{Certified, Timestamp},
    };

    use super::*;

    #[test]
    fn what_has_ended_or_is_invalid_is_settled() {
        let header = |len| BlobHeader { n_shards: 7, len, root: Hash::ZERO };
        let record = |len, end| Blob {
            header: header(len),
            registrations: 1,
            permanent_end: None,
            certified: Some(Certified {
                number: len,
                end: Epoch::new(end),
                first_epoch: Epoch::new(0),
                first_time: Timestamp::from_ms(0),
            }),
            invalid: false,
        };
        let [live, ended, invalid, gone] =
            [record(1, 9), record(2, 5), Blob { invalid: true, ..record(3, 9) }, record(4, 9)];
        let ids = [live, ended, invalid, gone].map(|record| record.header.id());
        let known = [live, ended, invalid];
        let look_up = |blob: &BlobId| {
            let found = known.iter().find(|record| record.header.id() == *blob);
            Ok::<_, ()>(found.copied())
        };
        let settled = settled_of(&ids, Epoch::new(5), look_up);
        assert_eq!(settled, Ok(ids[1..].iter().copied().collect()));
        assert_eq!(settled_of(&ids, Epoch::new(5), |_| Err("unread")), Err("unread"));
    }

    #[test]
    fn a_blob_is_over_when_all_rounds_are_that_were_opened_before() {
        let blob = |number| BlobId::new([number; 32]);
        let mut settled = Settled::default();
        let rounds = |number| Some(ChallengeRound::new(number));
        settled.add(blob(1), Height::new(10));
        settled.add(blob(2), Height::new(11));
        let seen = Height::new(11);
        assert_eq!(settled.take_over(None, Height::new(9)), [].into(), "a round may open before");
        assert_eq!(settled.blobs(), [blob(1), blob(2)].into());
        assert_eq!(settled.take_over(rounds(9), seen), [].into());
        assert_eq!(settled.take_over(rounds(10), seen), [].into(), "opened in the same block");
        assert_eq!(settled.take_over(rounds(11), seen), [blob(1)].into());
        assert_eq!(settled.take_over(None, seen), [blob(2)].into());
        for number in 0..6_000 {
            settled.add(blob(3), Height::new(number));
        }
        settled.take_over(rounds(0), seen);
        assert_eq!(settled.0.len(), BLOBS_MAX);
    }
}
