//! Who of those that send chunks is worth asking on.
//!
//! A peer that sends a little now and then is worse than none: it holds up what others would bring.
//! Its time is what counts, that between question and answer, in which it holds one of the few
//! places. A peer that is slow has not lied, and may be asked again in another attempt.
//!
//! Pure: times are arguments.

use std::{collections::BTreeMap, time::Duration};

use floe_protocol::keys::NodeId;

/// How often a peer may fail to send a chunk.
const FAULTS_MAX: u32 = 3;
/// How long a peer may be slow before it counts.
const PEER_GRACE: Duration = Duration::from_secs(20);
/// Bytes in a second that a peer must bring, on average over the time that it takes.
const PEER_BYTES_PER_SECOND: u64 = 48 << 10;

/// What one peer has brought.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    bytes: u64,
    took: Duration,
    faults: u32,
}

impl Tally {
    fn is_worth_it(&self) -> bool {
        let counted = self.took.saturating_sub(PEER_GRACE).as_secs();
        self.faults < FAULTS_MAX && self.bytes >= counted.saturating_mul(PEER_BYTES_PER_SECOND)
    }
}

/// What all have brought in one attempt.
#[derive(Debug, Default)]
pub(super) struct Pace(BTreeMap<NodeId, Tally>);

impl Pace {
    /// A chunk of so many bytes came after so long; whether the peer is asked on.
    pub(super) fn brought(&mut self, peer: NodeId, bytes: usize, took: Duration) -> bool {
        let tally = self.0.entry(peer).or_default();
        tally.bytes = tally.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        tally.took = tally.took.saturating_add(took);
        tally.is_worth_it()
    }

    /// Nothing came, for so long; whether the peer is asked on.
    pub(super) fn failed(&mut self, peer: NodeId, took: Duration) -> bool {
        let tally = self.0.entry(peer).or_default();
        tally.faults = tally.faults.saturating_add(1);
        tally.took = tally.took.saturating_add(took);
        tally.is_worth_it()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId::new([1; 32]);
    const CHUNK: usize = 256 << 10;

    #[test]
    fn who_drips_is_given_up_and_who_is_steady_is_not() {
        let mut pace = Pace::default();
        let slow = Duration::from_secs(9);
        let asked = (0..100).take_while(|_| pace.brought(PEER, CHUNK, slow)).count();
        assert!((2..10).contains(&asked), "{asked} chunks");
        let mut pace = Pace::default();
        let steady = Duration::from_secs(5);
        assert!((0..1_000).all(|_| pace.brought(PEER, CHUNK, steady)));
        let mut tiny = Pace::default();
        assert!((0..3).all(|_| tiny.brought(PEER, 10, Duration::from_millis(100))));
    }

    #[test]
    fn who_fails_again_and_again_is_given_up() {
        let mut pace = Pace::default();
        let other = NodeId::new([2; 32]);
        let short = Duration::from_millis(1);
        assert!(pace.failed(PEER, short) && pace.failed(PEER, short));
        assert!(pace.failed(other, short), "each for itself");
        assert!(!pace.failed(PEER, short));
    }
}
