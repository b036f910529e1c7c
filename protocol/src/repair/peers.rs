//! The nodes that a recovery asks: how they have behaved, and who may be asked now.

use std::collections::BTreeMap;

use super::RecoveryConfig;
use crate::{keys::NodeId, transfer::SliverFault};

#[derive(Clone, Debug)]
struct Peer {
    node: NodeId,
    /// Its last request came late or failed.
    unreliable: bool,
    /// It failed too often in a row, or lied.
    given_up: bool,
    /// It lied.
    banned: bool,
    failures_in_a_row: u32,
    busy_in_a_row: u32,
    not_before_ms: u64,
    in_flight: usize,
}

/// Nodes, known by their position.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    config: RecoveryConfig,
    positions: BTreeMap<NodeId, usize>,
    peers: Vec<Peer>,
    /// Per pair, whom to ask, first first.
    holders: Vec<Vec<usize>>,
    faults: BTreeMap<NodeId, SliverFault>,
    answer_times_ms: Vec<u64>,
}

impl Peers {
    pub(super) fn new(config: RecoveryConfig, holders: &[Vec<NodeId>]) -> Self {
        let mut positions = BTreeMap::new();
        let mut peers = Vec::new();
        let mut position = |node: &NodeId| {
            *positions.entry(*node).or_insert_with(|| {
                peers.push(Peer {
                    node: *node,
                    unreliable: false,
                    given_up: false,
                    banned: false,
                    failures_in_a_row: 0,
                    busy_in_a_row: 0,
                    not_before_ms: 0,
                    in_flight: 0,
                });
                peers.len() - 1
            })
        };
        let holders =
            holders.iter().map(|nodes| nodes.iter().map(&mut position).collect()).collect();
        let (faults, answer_times_ms) = (BTreeMap::new(), Vec::new());
        Self { config, positions, peers, holders, faults, answer_times_ms }
    }

    pub(super) fn find(&self, node: &NodeId) -> Option<usize> {
        self.positions.get(node).copied()
    }

    pub(super) fn node(&self, peer: usize) -> NodeId {
        self.peers[peer].node
    }

    pub(super) const fn faults(&self) -> &BTreeMap<NodeId, SliverFault> {
        &self.faults
    }

    pub(super) fn is_banned(&self, peer: usize) -> bool {
        self.peers[peer].banned
    }

    pub(super) fn is_given_up(&self, peer: usize) -> bool {
        self.peers[peer].given_up
    }

    pub(super) fn is_reliable(&self, peer: usize) -> bool {
        !self.peers[peer].unreliable
    }

    /// Whether anybody is left for a pair that those of `gone` do not have.
    pub(super) fn is_possible(&self, pair: usize, gone: &[usize]) -> bool {
        self.holders[pair].iter().any(|peer| !self.is_given_up(*peer) && !gone.contains(peer))
    }

    /// Whom to ask for a pair now, and how bad that is.
    pub(super) fn choose(
        &self,
        pair: usize,
        gone: &[usize],
        now_ms: u64,
    ) -> Option<(impl Ord + use<>, usize)> {
        let candidates = self.holders[pair].iter().copied().enumerate();
        let askable = candidates.filter(|(_, peer)| {
            let state = &self.peers[*peer];
            // An unreliable node is asked one thing at a time.
            let most = if state.unreliable { 1 } else { self.config.node_in_flight_max };
            let ready = now_ms >= state.not_before_ms && state.in_flight < most;
            ready && !state.given_up && !gone.contains(peer)
        });
        let cost = |(rank, peer): (usize, usize)| {
            let state = &self.peers[peer];
            ((state.unreliable, rank, state.in_flight), peer)
        };
        askable.map(cost).min()
    }

    /// When the nodes for a pair may be asked again.
    pub(super) fn retries<'a>(
        &'a self,
        pair: usize,
        gone: &'a [usize],
    ) -> impl Iterator<Item = u64> + 'a {
        let left = |peer: &&usize| !self.is_given_up(**peer) && !gone.contains(peer);
        let holders = self.holders[pair].iter().filter(left);
        holders.map(|peer| self.peers[*peer].not_before_ms)
    }

    pub(super) fn asked(&mut self, peer: usize) {
        self.peers[peer].in_flight += 1;
    }

    /// An answer came, after this time if it was still waited for.
    pub(super) fn answered(&mut self, peer: usize, answer_ms: Option<u64>) {
        let state = &mut self.peers[peer];
        if let Some(answer_ms) = answer_ms {
            state.in_flight = state.in_flight.saturating_sub(1);
            let position = self.answer_times_ms.partition_point(|ms| *ms <= answer_ms);
            self.answer_times_ms.insert(position, answer_ms);
        }
        if !state.given_up {
            state.unreliable = false;
            state.failures_in_a_row = 0;
            state.busy_in_a_row = 0;
        }
    }

    /// What it was asked for came from another: nothing is waited for.
    pub(super) fn released(&mut self, peer: usize) {
        let state = &mut self.peers[peer];
        state.in_flight = state.in_flight.saturating_sub(1);
    }

    pub(super) fn late(&mut self, peer: usize) {
        self.peers[peer].unreliable = true;
    }

    /// A request that was waited for came to nothing.
    pub(super) fn failed(&mut self, now_ms: u64, peer: usize, fault: SliverFault) {
        let config = self.config;
        let state = &mut self.peers[peer];
        state.in_flight = state.in_flight.saturating_sub(1);
        state.unreliable = true;
        self.faults.insert(state.node, fault);
        match fault {
            SliverFault::NoAnswer => {
                if now_ms < state.not_before_ms {
                    // One outage fails everything in flight at once and counts once.
                    return;
                }
                state.failures_in_a_row += 1;
                state.not_before_ms = now_ms + config.retry_delay_ms;
                state.given_up |= state.failures_in_a_row >= config.attempts_max;
            }
            SliverFault::Busy { retry_after_ms } => {
                // An answer: it costs time and no attempt, though not for ever.
                state.busy_in_a_row += 1;
                let wait_ms = u64::from(retry_after_ms).max(config.retry_delay_ms);
                let wait_ms = wait_ms.min(config.busy_delay_max_ms);
                state.not_before_ms = state.not_before_ms.max(now_ms + wait_ms);
                state.given_up |= state.busy_in_a_row >= config.busy_max;
            }
            // It may lack others too: the rest is asked first.
            SliverFault::NotFound => {}
            SliverFault::Wrong => state.given_up = true,
        }
    }

    /// Never asks it again. False if that was so already.
    pub(super) fn ban(&mut self, peer: usize) -> bool {
        let state = &mut self.peers[peer];
        state.given_up = true;
        self.faults.insert(state.node, SliverFault::Wrong);
        !std::mem::replace(&mut state.banned, true)
    }

    /// Nothing is waited for from this node any more.
    pub(super) fn forget(&mut self, peer: usize) {
        self.peers[peer].in_flight = 0;
    }

    /// Pairs of which somebody who did not lie may have slivers.
    pub(super) fn pardonable_pairs(&self) -> usize {
        let honest = |nodes: &&Vec<usize>| nodes.iter().any(|peer| !self.is_banned(*peer));
        self.holders.iter().filter(honest).count()
    }

    /// Starts anew with all that did not lie.
    pub(super) fn pardon(&mut self) {
        for state in &mut self.peers {
            state.given_up = state.banned;
            state.failures_in_a_row = 0;
            state.busy_in_a_row = 0;
            state.in_flight = 0;
        }
        self.answer_times_ms.clear();
    }

    /// The time after which a request is late: a multiple of the observed median.
    pub(super) fn late_after_ms(&self) -> u64 {
        let Some(median_ms) = self.answer_times_ms.get(self.answer_times_ms.len() / 2) else {
            return self.config.late_unknown_ms;
        };
        let late_ms = median_ms * self.config.late_after_median_percent / 100;
        late_ms.max(self.config.late_min_ms)
    }
}
