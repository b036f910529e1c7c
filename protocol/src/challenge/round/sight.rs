//! Whether this node can tell what came in time: the window is measured by its own clock from its own
//! commit of the seed's block, which says nothing if it stood still or lagged behind the others.

use super::Silence;

/// How this node came to a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// From others that had committed it, not by votes.
    pub by_sync: bool,
    /// When it first saw a later block or a vote for one, if it did before.
    pub later_seen_ms: Option<u64>,
    /// When this process last went on after it had stood still: [`Pulse::resumed_ms`].
    pub resumed_ms: Option<u64>,
}

impl Sight {
    /// Why commitments cannot be timed from the commit of such a block at `now_ms`.
    pub(super) fn silence(&self, now_ms: u64, window_ms: u64) -> Option<Silence> {
        let since = |at_ms: Option<u64>| at_ms.map(|at_ms| now_ms.saturating_sub(at_ms));
        if self.by_sync {
            return Some(Silence::Synced);
        }
        if let Some(behind_ms) = since(self.later_seen_ms).filter(|ms| *ms > window_ms) {
            return Some(Silence::Behind { behind_ms });
        }
        // What had piled up meanwhile is worked off within about a window, or shows that others
        // are further.
        since(self.resumed_ms).filter(|ms| *ms <= window_ms).map(|_| Silence::Paused)
    }
}

/// Notices that a process stood still: it beats at least four times in a window, and a beat that
/// comes half a window late tells.
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    window_ms: u64,
    last_ms: u64,
    resumed_ms: Option<u64>,
}

impl Pulse {
    /// The first beat.
    #[must_use]
    pub const fn new(window_ms: u64, now_ms: u64) -> Self {
        Self { window_ms, last_ms: now_ms, resumed_ms: None }
    }

    /// A beat: since when the process had stood still, if it had.
    pub fn beat(&mut self, now_ms: u64) -> Option<u64> {
        let last_ms = std::mem::replace(&mut self.last_ms, now_ms);
        let stood_still = now_ms.saturating_sub(last_ms) > self.window_ms / 4 + self.window_ms / 2;
        if stood_still {
            self.resumed_ms = Some(now_ms);
        }
        stood_still.then_some(last_ms)
    }

    /// When it is to beat again.
    #[must_use]
    pub const fn next_ms(&self) -> u64 {
        self.last_ms.saturating_add(self.window_ms / 4)
    }

    /// When the process last went on after it had stood still.
    #[must_use]
    pub const fn resumed_ms(&self) -> Option<u64> {
        self.resumed_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stood_still_or_lagged_is_silent() {
        let sight = Sight::default();
        assert_eq!(sight.silence(5_000, 1_000), None);
        let synced = Sight { by_sync: true, ..sight };
        assert_eq!(synced.silence(5_000, 1_000), Some(Silence::Synced));
        let behind = |at_ms| Sight { later_seen_ms: Some(at_ms), ..sight }.silence(5_000, 1_000);
        assert_eq!(behind(4_000), None);
        assert_eq!(behind(3_999), Some(Silence::Behind { behind_ms: 1_001 }));
        let resumed = |at_ms| Sight { resumed_ms: Some(at_ms), ..sight }.silence(5_000, 1_000);
        assert_eq!(resumed(4_000), Some(Silence::Paused));
        assert_eq!(resumed(3_999), None);
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
    }
}
