//! Whether this node can tell what came in time.
//!
//! The window is measured by a member's own clock, from its own commit of the seed's block. That
//! says nothing if the member stood still meanwhile, or committed the block long after the others:
//! what comes late would seem in time, or the other way round. Such a member is silent, and there
//! are others. If it comes so late that its own commitment would be late at all others, as when it
//! catches up after a long time, it makes none, and the round is followed for the record only.
//!
//! Invariants: what a member is silent for it has seen itself, or more than `f` shards of members
//! have said it: nobody silences others by what he sends. Nor by what he keeps back: who knows that a
//! block is final and has it from others within a window is not silent.

use super::Silence;

/// How this node came to a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// From others that had committed it, not by votes. Then `later_certified_ms` is when this node
    /// first saw proof that this very block was final: proof of a later one tells nothing of it.
    pub by_sync: bool,
    /// When this node first saw proof that others were further, if it did before it committed the
    /// block: a commit certificate of it or of a later one, or votes for later heights by members
    /// with more than `f` shards together. The vote of one is none, as it may lie.
    pub later_certified_ms: Option<u64>,
    /// By how many heights others were further when it was committed here, by such a proof.
    pub behind_heights: u64,
}

impl Sight {
    /// Whether others have ceased to take commitments that count from such a block, which is
    /// committed here at `now_ms`: they are `over_heights` further, or were two windows ago.
    pub(super) fn is_over(&self, now_ms: u64, (window_ms, over_heights): (u64, u64)) -> bool {
        let since_ms = self.later_certified_ms.map_or(0, |at_ms| now_ms.saturating_sub(at_ms));
        self.behind_heights >= over_heights || since_ms > window_ms.saturating_mul(2)
    }

    /// Why commitments cannot be timed from the commit of such a block at `now_ms`, by a process
    /// that went on at `resumed_ms` after it had stood still.
    pub(super) fn silence(
        &self,
        (now_ms, resumed_ms): (u64, Option<u64>),
        window_ms: u64,
    ) -> Option<Silence> {
        let since = |at_ms: Option<u64>| at_ms.map(|at_ms| now_ms.saturating_sub(at_ms));
        // It may be a few who kept the block back: who knew of it in time may go on.
        if self.by_sync && since(self.later_certified_ms).is_none_or(|ms| ms > window_ms) {
            return Some(Silence::Synced);
        }
        if let Some(behind_ms) = since(self.later_certified_ms).filter(|ms| *ms > window_ms) {
            return Some(Silence::Behind { behind_ms });
        }
        // What had piled up meanwhile is worked off within about a window, or shows that others
        // are further.
        since(resumed_ms).filter(|ms| *ms <= window_ms).map(|_| Silence::Paused)
    }
}

/// Notices that a process stood still: it beats at least four times in a window, and a beat that
/// comes half a window late tells.
#[derive(Clone, Copy, Debug)]
pub(in crate::challenge) struct Pulse {
    window_ms: u64,
    last_ms: u64,
    resumed_ms: Option<u64>,
}

impl Pulse {
    /// The first beat.
    pub(in crate::challenge) const fn new(window_ms: u64, now_ms: u64) -> Self {
        Self { window_ms, last_ms: now_ms, resumed_ms: None }
    }

    /// A beat: since when the process had stood still, if it had.
    pub(in crate::challenge) fn beat(&mut self, now_ms: u64) -> Option<u64> {
        // What came a while ago may be told now.
        let last_ms = self.last_ms;
        self.last_ms = last_ms.max(now_ms);
        let stood_still = now_ms.saturating_sub(last_ms) > self.window_ms / 4 + self.window_ms / 2;
        if stood_still {
            self.resumed_ms = Some(now_ms);
        }
        stood_still.then_some(last_ms)
    }

    /// When it is to beat again.
    pub(in crate::challenge) const fn next_ms(&self) -> u64 {
        self.last_ms.saturating_add(self.window_ms / 4)
    }

    /// When the process last went on after it had stood still.
    pub(in crate::challenge) const fn resumed_ms(&self) -> Option<u64> {
        self.resumed_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGHT: Sight = Sight { by_sync: false, later_certified_ms: None, behind_heights: 0 };

    #[test]
    fn who_stood_still_or_lagged_is_silent() {
        let silence = |sight: Sight, resumed_ms| sight.silence((5_000, resumed_ms), 1_000);
        assert_eq!(silence(SIGHT, None), None);
        let synced = Sight { by_sync: true, ..SIGHT };
        assert_eq!(silence(synced, None), Some(Silence::Synced));
        let behind = |at_ms| Sight { later_certified_ms: Some(at_ms), ..SIGHT };
        assert_eq!(silence(behind(4_000), None), None);
        let long = Some(Silence::Behind { behind_ms: 1_001 });
        assert_eq!(silence(behind(3_999), None), long);
        assert_eq!(silence(SIGHT, Some(4_000)), Some(Silence::Paused));
        assert_eq!(silence(SIGHT, Some(3_999)), None);
        // Kept back by who made it, and fetched at once.
        let fetched = |at_ms| Sight { by_sync: true, ..behind(at_ms) };
        assert_eq!(silence(fetched(4_000), None), None);
        assert_eq!(silence(fetched(3_999), None), Some(Silence::Synced));
        assert_eq!(silence(fetched(4_000), Some(4_000)), Some(Silence::Paused));
        // All of it at once: what weighs most is named.
        let all = Sight { by_sync: true, ..behind(3_999) };
        assert_eq!(silence(all, Some(4_000)), Some(Silence::Synced));
        assert_eq!(silence(behind(3_999), Some(4_000)), long);
        assert_eq!(silence(behind(4_000), Some(4_000)), Some(Silence::Paused));
        assert_eq!(silence(behind(4_000), Some(3_999)), None);
    }

    #[test]
    fn a_round_is_over_for_who_is_far_behind_others() {
        let is_over = |sight: Sight| sight.is_over(5_000, (1_000, 8));
        let behind = |heights| Sight { behind_heights: heights, ..SIGHT };
        assert!(!is_over(SIGHT) && !is_over(behind(7)) && is_over(behind(8)));
        let known = |at_ms| Sight { later_certified_ms: Some(at_ms), ..SIGHT };
        assert!(!is_over(known(3_000)) && is_over(known(2_999)));
        // Of a block that came by sync it may not be known since when others had it.
        assert!(is_over(Sight { by_sync: true, ..behind(500) }));
    }

    #[test]
    fn a_late_beat_tells_a_pause() {
        let mut pulse = Pulse::new(1_000, 0);
        assert_eq!(pulse.next_ms(), 250);
        assert_eq!((pulse.beat(250), pulse.beat(1_000)), (None, None));
        assert_eq!(pulse.resumed_ms(), None);
        assert_eq!(pulse.beat(1_751), Some(1_000));
        assert_eq!(pulse.resumed_ms(), Some(1_751));
        assert_eq!(pulse.beat(2_000), None);
        assert_eq!((pulse.beat(1_000), pulse.beat(2_700)), (None, None), "time has not gone back");
    }
}
