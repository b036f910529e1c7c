//! Who heeds `Busy`: peers that were told to wait and ask all the same are told so again without a
//! look at the store, and after many times are left to cool down, unheard.
//!
//! A `Busy` costs the node a request that is read, decoded and answered; whoever ignores it
//! costs that as often as they can send. An honest peer may have a few dozen requests under
//! way when it is first told to wait, so it takes many more than that before anything happens, and
//! waiting once is enough to begin anew. What does not begin anew soon is how long the next
//! cool-down lasts: it doubles each time.
//!
//! Pure: the time is handed in. Invariant: the number of peers that are remembered is bounded;
//! beyond it nobody new is blamed.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use floe_protocol::keys::NodeId;

/// Peers that are remembered.
const PEERS_MAX: usize = 1024;
/// Requests too early, one after the other, that are answered.
const IGNORED_MAX: u32 = 64;
/// The first cool-down, and the longest.
const COOL_DOWN_MIN: Duration = Duration::from_secs(2);
const COOL_DOWN_MAX: Duration = Duration::from_secs(64);
/// After so long without another, earlier cool-downs are forgotten.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heed {
    /// Look at it.
    Welcome,
    /// It comes too early: tell its sender to wait so long.
    Early(Duration),
    /// Its sender does not listen: no answer, to anything, for so long.
    CoolDown(Duration),
}

#[derive(Clone, Copy, Debug)]
struct Told {
    /// Until when the peer was told to wait, or is left to cool down.
    until: Instant,
    ignored: u32,
    is_cooling: bool,
    cool_downs: u32,
}

impl Told {
    const fn until(until: Instant) -> Self {
        Self { until, ignored: 0, is_cooling: false, cool_downs: 0 }
    }

    fn is_forgiven(&self, now: Instant) -> bool {
        let pause = if self.cool_downs == 0 { Duration::ZERO } else { FORGIVEN_AFTER };
        now >= self.until + pause
    }
}

/// Whom was told to wait, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Patience {
    peers: BTreeMap<NodeId, Told>,
}

impl Patience {
    /// A request of `peer` has come.
    pub(super) fn asked(&mut self, peer: &NodeId, now: Instant) -> Heed {
        let Some(told) = self.peers.get_mut(peer) else { return Heed::Welcome };
        if told.is_forgiven(now) {
            self.peers.remove(peer);
            return Heed::Welcome;
        }
        if now >= told.until {
            (told.ignored, told.is_cooling) = (0, false);
            return Heed::Welcome;
        }
        if told.is_cooling {
            return Heed::CoolDown(told.until - now);
        }
        told.ignored += 1;
        if told.ignored <= IGNORED_MAX {
            return Heed::Early(told.until - now);
        }
        let length = COOL_DOWN_MIN * 2_u32.pow(told.cool_downs.min(8));
        let length = length.min(COOL_DOWN_MAX);
        told.cool_downs = told.cool_downs.saturating_add(1);
        (told.until, told.is_cooling) = (now + length, true);
        Heed::CoolDown(length)
    }

    /// The peer is told to wait so long.
    pub(super) fn told(&mut self, peer: NodeId, wait: Duration, now: Instant) {
        let until = now + wait;
        if let Some(told) = self.peers.get_mut(&peer) {
            told.until = told.until.max(until);
            return;
        }
        if self.peers.len() >= PEERS_MAX {
            self.peers.retain(|_, told| !told.is_forgiven(now));
        }
        if self.peers.len() < PEERS_MAX {
            self.peers.insert(peer, Told::until(until));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(500);

    fn peer(number: u16) -> NodeId {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&number.to_le_bytes());
        NodeId::new(id)
    }

    /// Asks without a pause until it is left to cool down: after how many answers, how long.
    fn flood(patience: &mut Patience, now: Instant) -> (u32, Duration) {
        patience.told(peer(1), WAIT, now);
        for answers in 0.. {
            match patience.asked(&peer(1), now) {
                Heed::Early(_) => {}
                Heed::CoolDown(length) => return (answers, length),
                Heed::Welcome => panic!("it was told to wait"),
            }
        }
        unreachable!("it is left to cool down at some time")
    }

    #[test]
    fn who_waits_is_welcome_however_often_it_is_told_to() {
        let (mut patience, mut now) = (Patience::default(), Instant::now());
        for _ in 0..1_000 {
            assert_eq!(patience.asked(&peer(1), now), Heed::Welcome);
            patience.told(peer(1), WAIT, now);
            // What was under way already.
            for _ in 0..32 {
                assert_eq!(patience.asked(&peer(1), now), Heed::Early(WAIT));
            }
            now += WAIT;
        }
    }

    #[test]
    fn who_does_not_listen_cools_down_twice_as_long_each_time() {
        let (mut patience, mut now) = (Patience::default(), Instant::now());
        for seconds in [2, 4, 8, 16, 32, 64, 64] {
            let length = Duration::from_secs(seconds);
            assert_eq!(flood(&mut patience, now), (IGNORED_MAX, length));
            let later = now + length / 2;
            assert_eq!(patience.asked(&peer(1), later), Heed::CoolDown(length / 2));
            assert_eq!(patience.asked(&peer(2), later), Heed::Welcome, "others are heard");
            now += length;
            assert_eq!(patience.asked(&peer(1), now), Heed::Welcome);
        }
        now += FORGIVEN_AFTER;
        assert_eq!(patience.asked(&peer(1), now), Heed::Welcome);
        assert_eq!(flood(&mut patience, now), (IGNORED_MAX, COOL_DOWN_MIN));
    }

    #[test]
    fn the_number_of_peers_is_bounded_and_the_forgiven_make_room() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        for number in 0..3_000 {
            patience.told(peer(number), WAIT, now);
        }
        assert_eq!(patience.peers.len(), PEERS_MAX);
        assert_eq!(patience.asked(&peer(2_999), now), Heed::Welcome);
        patience.told(peer(2_999), WAIT, now + WAIT);
        assert_eq!(patience.peers.len(), 1);
    }
}
