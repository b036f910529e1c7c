//! Token buckets: how many bytes each peer of a class, and all of them together, may make a node
//! expand in a second.
//!
//! Pure: the time is handed in. Invariants: what was spent is never more than the burst and the
//! rate times the time since; the number of buckets is bounded, and who is forgotten had a full
//! one.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use floe_protocol::keys::NodeId;

/// Peers of a class with a bucket that is not full.
const PEERS_MAX: usize = 1024;
const RETRY_MIN: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Bytes in a second, and at once after a rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) bytes_per_second: u64,
    pub(super) burst_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    bytes: u64,
    since: Instant,
}

impl Bucket {
    const fn full(rate: Rate, now: Instant) -> Self {
        Self { bytes: rate.burst_bytes, since: now }
    }

    fn refill(&mut self, rate: Rate, now: Instant) {
        let micros = now.saturating_duration_since(self.since).as_micros();
        let gained = micros.saturating_mul(rate.bytes_per_second.into()) / 1_000_000;
        let gained = u64::try_from(gained).unwrap_or(u64::MAX);
        // A moment too short for a byte is counted with the next.
        if gained > 0 {
            self.bytes = self.bytes.saturating_add(gained).min(rate.burst_bytes);
            self.since = now;
        }
    }

    /// How long until so many bytes are there; none if they are.
    fn wait(self, rate: Rate, bytes: u64) -> Option<Duration> {
        let lacking = bytes.saturating_sub(self.bytes);
        (lacking > 0).then(|| {
            let ms = lacking.saturating_mul(1000) / rate.bytes_per_second.max(1);
            Duration::from_millis(ms).clamp(RETRY_MIN, RETRY_MAX)
        })
    }
}

/// The buckets of a class of peers.
#[derive(Debug)]
pub(super) struct Budgets {
    of_class: Rate,
    of_peer: Rate,
    class: Bucket,
    peers: BTreeMap<NodeId, Bucket>,
}

impl Budgets {
    pub(super) const fn new(of_class: Rate, of_peer: Rate, now: Instant) -> Self {
        Self { of_class, of_peer, class: Bucket::full(of_class, now), peers: BTreeMap::new() }
    }

    /// Spends `bytes`, at most what a full bucket holds, or says how long to wait: then nothing was
    /// spent.
    pub(super) fn spend(&mut self, peer: NodeId, bytes: u64, now: Instant) -> Result<(), Duration> {
        let bytes = bytes.min(self.of_peer.burst_bytes).min(self.of_class.burst_bytes);
        let rate = self.of_peer;
        if !self.peers.contains_key(&peer) && self.peers.len() >= PEERS_MAX {
            self.forget_rested(now);
            if self.peers.len() >= PEERS_MAX {
                return Err(RETRY_MAX);
            }
        }
        let own = self.peers.entry(peer).or_insert_with(|| Bucket::full(rate, now));
        own.refill(rate, now);
        self.class.refill(self.of_class, now);
        let waits = [own.wait(rate, bytes), self.class.wait(self.of_class, bytes)];
        if let Some(wait) = waits.into_iter().flatten().max() {
            return Err(wait);
        }
        own.bytes -= bytes;
        self.class.bytes -= bytes;
        Ok(())
    }

    /// A full bucket is what a peer that nobody knows has.
    fn forget_rested(&mut self, now: Instant) {
        let rate = self.of_peer;
        self.peers.retain(|_, bucket| {
            bucket.refill(rate, now);
            bucket.bytes < rate.burst_bytes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_PEER: Rate = Rate { bytes_per_second: 100, burst_bytes: 400 };
    const OF_CLASS: Rate = Rate { bytes_per_second: 300, burst_bytes: 900 };

    fn peer(number: u16) -> NodeId {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&number.to_le_bytes());
        NodeId::new(id)
    }

    #[test]
    fn a_peer_gets_its_burst_then_its_rate() {
        let start = Instant::now();
        let mut budgets = Budgets::new(OF_CLASS, OF_PEER, start);
        assert_eq!(budgets.spend(peer(1), 400, start), Ok(()));
        assert_eq!(budgets.spend(peer(1), 50, start), Err(Duration::from_millis(500)));
        let later = start + Duration::from_millis(500);
        assert_eq!(budgets.spend(peer(1), 50, later), Ok(()));
        assert_eq!(budgets.spend(peer(1), 1, later), Err(RETRY_MIN));
        let rested = later + Duration::from_secs(3600);
        assert_eq!(budgets.spend(peer(1), 400, rested), Ok(()));
        assert!(budgets.spend(peer(1), 1, rested).is_err(), "a rest gives one burst");
    }

    #[test]
    fn all_of_a_class_share_its_rate_and_who_waits_spends_nothing() {
        let now = Instant::now();
        let mut budgets = Budgets::new(OF_CLASS, OF_PEER, now);
        assert_eq!(budgets.spend(peer(1), 400, now), Ok(()));
        assert_eq!(budgets.spend(peer(2), 400, now), Ok(()));
        assert_eq!(budgets.spend(peer(3), 400, now), Err(Duration::from_secs(1)));
        assert_eq!(budgets.spend(peer(3), 100, now), Ok(()));
        assert!(budgets.spend(peer(4), 1, now).is_err());
    }

    #[test]
    fn moments_too_short_for_a_byte_add_up() {
        let mut now = Instant::now();
        let mut budgets = Budgets::new(OF_CLASS, OF_PEER, now);
        budgets.spend(peer(1), 400, now).unwrap();
        for _ in 0..1000 {
            now += Duration::from_millis(1);
            assert!(budgets.spend(peer(1), 300, now).is_err());
        }
        assert_eq!(budgets.spend(peer(1), 100, now), Ok(()));
    }

    #[test]
    fn more_than_a_full_bucket_is_never_asked_for() {
        let now = Instant::now();
        let mut budgets = Budgets::new(OF_CLASS, OF_PEER, now);
        assert_eq!(budgets.spend(peer(1), u64::MAX, now), Ok(()));
        assert!(budgets.spend(peer(1), 1, now).is_err());
    }

    #[test]
    fn the_number_of_buckets_is_bounded() {
        let now = Instant::now();
        let class = Rate { bytes_per_second: u64::MAX / 2, burst_bytes: u64::MAX / 2 };
        let mut budgets = Budgets::new(class, OF_PEER, now);
        let names = (0..=u16::MAX).map(peer);
        let served = names.filter(|name| budgets.spend(*name, 100, now).is_ok()).count();
        assert_eq!((served, budgets.peers.len()), (PEERS_MAX, PEERS_MAX));
        let later = now + Duration::from_secs(1);
        assert_eq!(budgets.spend(peer(u16::MAX), 100, later), Ok(()));
        assert_eq!(budgets.peers.len(), 1, "those that have rested are forgotten");
    }
}
