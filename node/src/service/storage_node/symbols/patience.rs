//! Who heeds `Busy`: peers that were told to wait and ask all the same are told so again without a
//! look at the store, and after many times are left to cool down, unheard.
//!
//! A `Busy` costs the node a request that is read, decoded and answered; whoever ignores it
//! costs that as often as they can send. An honest peer has a few requests under way when it is
//! told to wait, and then waits: each time twice as long, until there is room for it. So many
//! requests too early in a short time are no honest peer's. Each cool-down lasts twice as long as
//! the one before.
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
/// What a peer is told to wait at least, and at most.
const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Requests too early that are answered at once, and how many more in a second: above the 4 for each
/// of 4 recoveries that one who repairs has under way to a node.
const EARLY_MAX: u64 = 24;
const EARLY_PER_SECOND: u64 = 8;
/// The first cool-down, and the longest.
const COOL_DOWN_MIN: Duration = Duration::from_secs(2);
const COOL_DOWN_MAX: Duration = Duration::from_secs(64);
/// After so long without being told to wait, a peer is forgotten: those that never cooled down, and
/// the others.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);
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
    /// What it was told last; nothing since it was let in.
    wait: Duration,
    /// Requests too early, less those forgiven since.
    early: u64,
    early_at: Instant,
    is_cooling: bool,
    cool_downs: u32,
}

impl Told {
    const fn new(now: Instant) -> Self {
        Self {
            until: now,
            wait: Duration::ZERO,
            early: 0,
            early_at: now,
            is_cooling: false,
            cool_downs: 0,
        }
    }

    fn is_forgiven(&self, now: Instant) -> bool {
        now >= self.until + if self.cool_downs == 0 { FORGOTTEN_AFTER } else { FORGIVEN_AFTER }
    }

    fn asked(&mut self, now: Instant) -> Heed {
        if now >= self.until {
            self.is_cooling = false;
            return Heed::Welcome;
        }
        if self.is_cooling {
            return Heed::CoolDown(self.until - now);
        }
        let forgiven = now.saturating_duration_since(self.early_at).as_secs();
        if forgiven > 0 {
            self.early = self.early.saturating_sub(forgiven.saturating_mul(EARLY_PER_SECOND));
            self.early_at = now;
        }
        self.early += 1;
        if self.early <= EARLY_MAX {
            return Heed::Early(self.until - now);
        }
        let length = COOL_DOWN_MIN * 2_u32.pow(self.cool_downs.min(8));
        let length = length.min(COOL_DOWN_MAX);
        self.cool_downs = self.cool_downs.saturating_add(1);
        (self.until, self.is_cooling, self.early) = (now + length, true, 0);
        Heed::CoolDown(length)
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
        told.asked(now)
    }

    /// There was room for the peer.
    pub(super) fn let_in(&mut self, peer: &NodeId) {
        if let Some(told) = self.peers.get_mut(peer) {
            told.wait = Duration::ZERO;
        }
    }

    /// There was none, nor will be for so long. What the peer is to be told.
    pub(super) fn turned_away(&mut self, peer: NodeId, wait: Duration, now: Instant) -> Duration {
        let wait = wait.clamp(WAIT_MIN, WAIT_MAX);
        if !self.peers.contains_key(&peer) && self.peers.len() >= PEERS_MAX {
            self.peers.retain(|_, told| !told.is_forgiven(now));
            if self.peers.len() >= PEERS_MAX {
                return wait;
            }
        }
        let told = self.peers.entry(peer).or_insert_with(|| Told::new(now));
        told.wait = wait.max((told.wait * 2).min(WAIT_MAX));
        told.until = told.until.max(now + told.wait);
        told.until - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u16) -> NodeId {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&number.to_le_bytes());
        NodeId::new(id)
    }

    /// Asks without a pause until it is left to cool down: after how many answers, how long.
    fn flood(patience: &mut Patience, now: Instant) -> (u64, Duration) {
        patience.turned_away(peer(1), WAIT_MIN, now);
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
    fn who_waits_is_never_left_to_cool_down_and_waits_longer_until_there_is_room() {
        let (mut patience, mut now) = (Patience::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..100 {
            assert_eq!(patience.asked(&peer(1), now), Heed::Welcome);
            let wait = patience.turned_away(peer(1), Duration::ZERO, now);
            // What was under way already; to a busy node, one request for each recovery.
            let under_way = if waits.is_empty() { 15 } else { 3 };
            for _ in 0..under_way {
                assert_eq!(patience.asked(&peer(1), now), Heed::Early(wait));
            }
            waits.push(wait.as_millis());
            now += wait;
        }
        assert_eq!(waits[..9], [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
        assert_eq!(patience.asked(&peer(1), now), Heed::Welcome);
        patience.let_in(&peer(1));
        assert_eq!(patience.turned_away(peer(1), Duration::ZERO, now), WAIT_MIN);
    }

    #[test]
    fn who_does_not_listen_cools_down_twice_as_long_each_time() {
        let (mut patience, mut now) = (Patience::default(), Instant::now());
        for seconds in [2, 4, 8, 16, 32, 64, 64] {
            let length = Duration::from_secs(seconds);
            assert_eq!(flood(&mut patience, now), (EARLY_MAX, length));
            let later = now + length / 2;
            assert_eq!(patience.asked(&peer(1), later), Heed::CoolDown(length / 2));
            assert_eq!(patience.asked(&peer(2), later), Heed::Welcome, "others are heard");
            now += length;
            assert_eq!(patience.asked(&peer(1), now), Heed::Welcome);
            patience.let_in(&peer(1));
        }
        now += FORGIVEN_AFTER;
        assert_eq!(patience.asked(&peer(1), now), Heed::Welcome);
        assert_eq!(flood(&mut patience, now), (EARLY_MAX, COOL_DOWN_MIN));
    }

    #[test]
    fn the_number_of_peers_is_bounded_and_the_forgotten_make_room() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        for number in 0..3_000 {
            patience.turned_away(peer(number), WAIT_MIN, now);
        }
        assert_eq!(patience.peers.len(), PEERS_MAX);
        assert_eq!(patience.asked(&peer(2_999), now), Heed::Welcome);
        patience.turned_away(peer(2_999), WAIT_MIN, now + WAIT_MIN + FORGOTTEN_AFTER);
        assert_eq!(patience.peers.len(), 1);
    }
}
