//! The two classes of peers that ask for symbols, members of the committee and strangers, and what
//! each may take: places, bytes, kept trees, threads.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use floe_protocol::{encoding::EncodingConfig, keys::NodeId};
use tokio::sync::Semaphore;

use super::{
    budgets::{Budgets, Rate},
    patience::{Heed, Patience},
    trees::Trees,
};
use crate::{
    config::ServiceLimits,
    service::{
        background::Background,
        lane::{Lane, Place},
    },
};

/// What every request costs: looking up what is not there, or an answer's smallest part.
const REQUEST_BYTES: u64 = 16 << 10;
/// A peer may take this part of what its class may.
const MEMBER_PART: u64 = 2;
const STRANGER_PART: u64 = 4;
/// Strangers' trees take this part of the bytes for trees.
const STRANGERS_TREES_PART: usize = 4;
/// Expansions and proofs that are worked on at a time; as many threads do it.
const MEMBERS_WORKING: usize = 2;
const STRANGERS_WORKING: usize = 1;

/// Why a request is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turned {
    /// Its sender is to come back after so long.
    Busy(Duration),
    /// Its sender does not listen, and is not heard for so long.
    CoolDown(Duration),
}

/// The peers of one kind, and what they may take.
#[derive(Debug)]
pub(super) struct Class {
    lane: Lane,
    /// Expansions and proofs that are worked on at a time.
    pub(super) working: Arc<Semaphore>,
    budgets: Budgets,
    pub(super) trees: Trees,
    pub(super) background: Background,
    /// Members are taken at their word.
    patience: Option<Patience>,
    busy: Duration,
}

impl Class {
    pub(super) fn of_members(config: EncodingConfig, limits: &ServiceLimits) -> Self {
        let strangers_trees = limits.tree_cache_bytes / STRANGERS_TREES_PART;
        Self {
            lane: Lane::new(4, limits.queue_max, limits.per_peer_max),
            working: Arc::new(Semaphore::new(MEMBERS_WORKING)),
            budgets: budgets(config, limits.member_symbol_bytes_per_second, MEMBER_PART),
            trees: Trees::new(limits.tree_cache_bytes - strangers_trees),
            background: Background::start(MEMBERS_WORKING),
            patience: None,
            busy: Duration::from_millis(limits.busy_retry_after_ms.into()),
        }
    }

    pub(super) fn of_strangers(config: EncodingConfig, limits: &ServiceLimits) -> Self {
        Self {
            lane: Lane::new(1, limits.queue_max / 4, (limits.per_peer_max / 4).max(1)),
            working: Arc::new(Semaphore::new(STRANGERS_WORKING)),
            budgets: budgets(config, limits.stranger_symbol_bytes_per_second, STRANGER_PART),
            trees: Trees::new(limits.tree_cache_bytes / STRANGERS_TREES_PART),
            background: Background::start(STRANGERS_WORKING),
            patience: Some(Patience::default()),
            busy: Duration::from_millis(limits.busy_retry_after_ms.into()),
        }
    }

    /// A place for a request of `peer`, which pays for it and so much more. Nothing has been looked
    /// up for it until then.
    pub(super) fn admit(&mut self, peer: NodeId, more_bytes: u64) -> Result<Place, Turned> {
        let now = Instant::now();
        match self.patience.as_mut().map_or(Heed::Welcome, |patience| patience.asked(&peer, now)) {
            Heed::Welcome => {}
            Heed::Early(wait) => return Err(Turned::Busy(wait)),
            Heed::CoolDown(length) => return Err(Turned::CoolDown(length)),
        }
        let place = self.lane.admit(peer).ok_or(self.busy);
        let bytes = REQUEST_BYTES.saturating_add(more_bytes);
        let place = place.and_then(|place| {
            self.budgets.spend(peer, bytes, now)?;
            Ok(place)
        });
        place.map_err(|wait| Turned::Busy(self.turned_away(peer, wait)))
    }

    /// Takes the price of some work from the peer's budget, or says how long to wait.
    pub(super) fn spend(&mut self, peer: NodeId, bytes: u64) -> Result<(), Duration> {
        if let Err(wait) = self.budgets.spend(peer, bytes, Instant::now()) {
            return Err(self.turned_away(peer, wait));
        }
        if let Some(patience) = &mut self.patience {
            patience.let_in(&peer);
        }
        Ok(())
    }

    /// There will be nothing to spend for so long: what the peer is to be told.
    fn turned_away(&mut self, peer: NodeId, wait: Duration) -> Duration {
        match &mut self.patience {
            Some(patience) => patience.turned_away(peer, wait, Instant::now()),
            None => wait,
        }
    }

    /// Answers that are made at a time.
    pub(super) fn running(&self) -> Arc<Semaphore> {
        self.lane.running.clone()
    }
}

/// The budgets of a class that may take so much, of which a peer may take a part.
fn budgets(config: EncodingConfig, bytes_per_second: u64, part: u64) -> Budgets {
    let largest = config.max_symbol_bytes().saturating_mul(config.n() as u64);
    let rate = |bytes_per_second: u64| Rate {
        bytes_per_second: bytes_per_second.max(1),
        // Otherwise the largest sliver could never be paid.
        burst_bytes: bytes_per_second.max(largest.saturating_add(REQUEST_BYTES)),
    };
    Budgets::new(rate(bytes_per_second), rate(bytes_per_second / part), Instant::now())
}
