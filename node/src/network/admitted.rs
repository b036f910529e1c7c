//! How many commitments to challenge answers each peer may pass on.
//!
//! Of a member there is one commitment a round, and a peer that passes on those of all members
//! sends few. Whether one is of use says a signature check that its sender does not pay for, and
//! who has nothing to lose can sign any number. So each peer has its number in a window of time,
//! and all that are no members share one besides. What is beyond is ignored: the same commitment
//! comes from others, too.
//!
//! Pure: the time is handed in. Invariant: in memory are as many peers as the committee and the
//! strangers' number allow.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use libp2p::PeerId;

/// How long a window is.
const WINDOW: Duration = Duration::from_secs(10);
/// Commitments that a member may pass on in a window: two rounds of the largest committee.
const MEMBER_MAX: u32 = 512;
/// The same of a stranger, and of all strangers together.
const STRANGER_MAX: u32 = 64;
const STRANGERS_MAX: u32 = 512;

/// What was passed on in the running window.
#[derive(Debug)]
pub(super) struct Admitted {
    since: Instant,
    peers: HashMap<PeerId, u32>,
    strangers: u32,
}

impl Admitted {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, peers: HashMap::new(), strangers: 0 }
    }

    /// Counts a commitment, unless its peer has passed on enough.
    pub(super) fn admit(&mut self, peer: PeerId, is_member: bool, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= WINDOW {
            *self = Self::new(now);
        }
        let own = self.peers.get(&peer).copied().unwrap_or(0);
        let own_max = if is_member { MEMBER_MAX } else { STRANGER_MAX };
        if own >= own_max || !is_member && self.strangers >= STRANGERS_MAX {
            return false;
        }
        self.peers.insert(peer, own + 1);
        self.strangers += u32::from(!is_member);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_has_its_number_and_strangers_share_theirs() {
        let now = Instant::now();
        let mut admitted = Admitted::new(now);
        let member = PeerId::random();
        let mut count = |peer, is_member, now| {
            (0..2 * MEMBER_MAX).filter(|_| admitted.admit(peer, is_member, now)).count()
        };
        assert_eq!(count(member, true, now), 512);
        for _ in 0..8 {
            assert_eq!(count(PeerId::random(), false, now), 64);
        }
        assert_eq!(count(PeerId::random(), false, now), 0, "a crowd has no more than some");
        assert_eq!(count(PeerId::random(), true, now), 512, "members are none of it");
        assert_eq!(count(member, true, now + WINDOW / 2), 0);
        assert_eq!(count(member, true, now + WINDOW), 512);
        let left = admitted.peers.len();
        assert_eq!(left, 1, "the others are forgotten");
    }
}
