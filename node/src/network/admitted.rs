//! How many commitments to challenge answers each node may say.
//!
//! A member commits itself once a round, others never, and a message proves its source. So each
//! source has its number in a window of time, whoever passes its messages on, and all that are no
//! members share one besides. What is beyond is ignored, and takes no room from anybody else.
//!
//! Pure: the time is handed in. Invariant: in memory are as many sources as the committee and the
//! strangers' number allow.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use libp2p::PeerId;

/// How long a window is.
const WINDOW: Duration = Duration::from_secs(10);
/// Commitments that a member may say in a window: far more rounds than there are.
const MEMBER_MAX: u32 = 64;
/// The same of a stranger, which the next committee may know, and of all strangers together.
const STRANGER_MAX: u32 = 8;
const STRANGERS_MAX: u32 = 512;

/// What was said in the running window.
#[derive(Debug)]
pub(super) struct Admitted {
    since: Instant,
    sources: HashMap<PeerId, u32>,
    strangers: u32,
}

impl Admitted {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, sources: HashMap::new(), strangers: 0 }
    }

    /// Counts a commitment, unless its source has said enough.
    pub(super) fn admit(&mut self, source: PeerId, is_member: bool, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= WINDOW {
            *self = Self::new(now);
        }
        let own = self.sources.get(&source).copied().unwrap_or(0);
        let own_max = if is_member { MEMBER_MAX } else { STRANGER_MAX };
        if own >= own_max || !is_member && self.strangers >= STRANGERS_MAX {
            return false;
        }
        self.sources.insert(source, own + 1);
        self.strangers += u32::from(!is_member);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_has_its_number_and_strangers_share_theirs() {
        let now = Instant::now();
        let mut admitted = Admitted::new(now);
        let member = PeerId::random();
        let mut count = |peer, is_member, now| {
            (0..2 * MEMBER_MAX).filter(|_| admitted.admit(peer, is_member, now)).count()
        };
        assert_eq!(count(member, true, now), 64);
        for _ in 0..64 {
            assert_eq!(count(PeerId::random(), false, now), 8);
        }
        assert_eq!(count(PeerId::random(), false, now), 0, "a crowd has no more than some");
        assert_eq!(count(PeerId::random(), true, now), 64, "members are none of it");
        assert_eq!(count(member, true, now + WINDOW / 2), 0);
        assert_eq!(count(member, true, now + WINDOW), 64);
        let left = admitted.sources.len();
        assert_eq!(left, 1, "the others are forgotten");
    }
}
