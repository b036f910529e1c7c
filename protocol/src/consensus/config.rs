//! What a replica is told once: its network, its key, its patience.

use std::time::Duration;

use crate::{
    keys::{ChainId, KeyPair},
    ledger::Timestamp,
};

/// No timer runs longer than this, whatever the round.
const MAX_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a replica waits for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the proposal of a round.
    pub propose_ms: u64,
    /// For more prevotes, once a quorum has prevoted.
    pub prevote_ms: u64,
    /// For more precommits, once a quorum has precommitted.
    pub precommit_ms: u64,
    /// Added to each of these in every further round.
    pub delta_ms: u64,
    /// Until votes are sent again: gossip loses some.
    pub rebroadcast_ms: u64,
}

impl Timeouts {
    /// For nodes in one place.
    pub const LAN: Self = Self {
        propose_ms: 1_000,
        prevote_ms: 500,
        precommit_ms: 500,
        delta_ms: 250,
        rebroadcast_ms: 1_500,
    };

    /// For nodes around the world.
    pub const WAN: Self = Self {
        propose_ms: 3_000,
        prevote_ms: 1_000,
        precommit_ms: 1_000,
        delta_ms: 250,
        rebroadcast_ms: 1_500,
    };

    /// `base_ms` lengthened for `round`.
    pub(super) fn in_round(&self, base_ms: u64, round: u32) -> Duration {
        let ms = base_ms.saturating_add(self.delta_ms.saturating_mul(round.into()));
        Duration::from_millis(ms).min(MAX_TIMEOUT)
    }
}

/// What a replica is and how it behaves, whatever the height.
#[derive(Clone, Debug)]
pub struct Config {
    /// The network.
    pub chain: ChainId,
    /// The node key: its public half is the voter.
    pub key: KeyPair,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// How far the time of a new proposal may be from the wall clock, either way.
    pub max_clock_skew_ms: u64,
}

impl Config {
    /// A configuration with the protocol's clock skew.
    #[must_use]
    pub const fn new(chain: ChainId, key: KeyPair, timeouts: Timeouts) -> Self {
        Self { chain, key, timeouts, max_clock_skew_ms: 10_000 }
    }
}

/// The two clocks that come with every input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Time since any fixed start, never backwards: for timers.
    pub monotonic: Duration,
    /// What the wall clock says: only for judging the time of new proposals.
    pub wall: Timestamp,
}
