//! Blobs of which the ledger has said the last word, until no open round asks for them any more.
//!
//! Pure. Invariant: as many are remembered as may be known to be inconsistent, and beyond that the
//! oldest are over early: whoever stands on them may miss a round.

use std::collections::BTreeSet;

use floe_protocol::{
    blob::BlobId,
    index::{ChallengeRound, Height},
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

    /// Whether it is known that the blob is settled.
    pub(super) fn has(&self, blob: &BlobId) -> bool {
        self.0.iter().any(|(_, settled)| settled == blob)
    }

    /// Takes those that no round asks for, of which the `oldest` was opened first.
    pub(super) fn take_over(&mut self, oldest: Option<ChallengeRound>) -> BTreeSet<BlobId> {
        let mut over = BTreeSet::new();
        let is_over = |(height, _): &(Height, BlobId)| {
            oldest.is_none_or(|oldest| height.get() < oldest.get())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_over_when_all_rounds_are_that_were_opened_before() {
        let blob = |number| BlobId::new([number; 32]);
        let mut settled = Settled::default();
        let rounds = |number| Some(ChallengeRound::new(number));
        settled.add(blob(1), Height::new(10));
        settled.add(blob(2), Height::new(11));
        assert!(settled.has(&blob(2)) && !settled.has(&blob(3)));
        assert_eq!(settled.take_over(rounds(9)), [].into());
        assert_eq!(settled.take_over(rounds(10)), [].into(), "opened in the same block");
        assert_eq!(settled.take_over(rounds(11)), [blob(1)].into());
        assert_eq!(settled.take_over(None), [blob(2)].into());
        for number in 0..6_000 {
            settled.add(blob(3), Height::new(number));
        }
        settled.take_over(rounds(0));
        assert_eq!(settled.0.len(), BLOBS_MAX);
    }
}
