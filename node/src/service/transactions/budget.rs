//! How much work reports of system operations may cause before they are known to be true.
//!
//! They are free of charge, so only the signature on them says whether they are worth anything, and
//! on certificates it costs a pairing and a key per signer. So much each peer may cost a node in a
//! while; who is no member of the committee shares, besides, with all others who are none. A forged
//! report convicts who passed it on, so the budget lasts until its peers shun it.
//!
//! Pure: the time is handed in. Invariant: bounded by the members and by what strangers may cost.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use floe_protocol::{
    challenge::ChallengeFact,
    committee::{Committee, CommitteeCertificate, CommitteeFact},
    invalidity::InvalidityFact,
    keys::NodeId,
    ledger::SystemOperation,
};

/// How long a budget is for.
const WINDOW: Duration = Duration::from_secs(10);
/// What one peer may cost in a window: less than half a second. At the start of an epoch it may
/// have the reports of thousands of nodes to pass on.
const PEER_WORK_MAX: usize = 10_000;
/// What all peers that are no members may cost in a window.
const STRANGERS_WORK_MAX: usize = 20_000;

/// Work of checking one signature by a node key.
const NODE_KEY_WORK: usize = 2;
/// Work of one pairing.
const PAIRING_WORK: usize = 32;

/// What checking an operation's signatures costs, where reading a BLS key is 1: 40 microseconds.
pub(super) fn work(operation: &SystemOperation, committee: &Committee) -> usize {
    match operation {
        SystemOperation::NodeReady { .. } | SystemOperation::ShardsReady { .. } => NODE_KEY_WORK,
        SystemOperation::ReportEquivocation { .. } => 2 * NODE_KEY_WORK,
        SystemOperation::InvalidateBlob { certificate } => {
            certificate_work::<InvalidityFact>(certificate, committee)
        }
        SystemOperation::PassChallenge { certificate } => {
            certificate_work::<ChallengeFact>(certificate, committee)
        }
    }
}

/// The same for bytes of a certificate; what is malformed costs nothing.
fn certificate_work<F: CommitteeFact>(bytes: &[u8], committee: &Committee) -> usize {
    CommitteeCertificate::<F>::from_bytes(bytes)
        .map_or(0, |certificate| PAIRING_WORK + certificate.signers(committee).count())
}

/// What peers have cost in the running window.
#[derive(Debug)]
pub(super) struct Budget {
    since: Instant,
    peers: BTreeMap<NodeId, usize>,
    strangers: usize,
}

impl Budget {
    pub(super) const fn new(now: Instant) -> Self {
        Self { since: now, peers: BTreeMap::new(), strangers: 0 }
    }

    /// Whether a peer may cost so much more.
    pub(super) fn allows(
        &mut self,
        peer: &NodeId,
        is_member: bool,
        work: usize,
        now: Instant,
    ) -> bool {
        if now.saturating_duration_since(self.since) >= WINDOW {
            *self = Self::new(now);
        }
        let own = self.peers.get(peer).copied().unwrap_or(0);
        own + work <= PEER_WORK_MAX && (is_member || self.strangers + work <= STRANGERS_WORK_MAX)
    }

    /// A peer has cost so much, which was allowed.
    pub(super) fn spend(&mut self, peer: NodeId, is_member: bool, work: usize) {
        if work > 0 {
            *self.peers.entry(peer).or_default() += work;
        }
        if !is_member {
            self.strangers += work;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> NodeId {
        NodeId::new([number; 32])
    }

    /// How often in a row a peer may cost so much.
    fn times(budget: &mut Budget, number: u8, is_member: bool, now: Instant) -> usize {
        let work = PEER_WORK_MAX / 4;
        let mut times = 0;
        while budget.allows(&peer(number), is_member, work, now) {
            budget.spend(peer(number), is_member, work);
            times += 1;
        }
        times
    }

    #[test]
    fn each_peer_has_its_own_budget_and_strangers_share_another() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let strangers: Vec<_> = (0..4).map(|i| times(&mut budget, i, false, start)).collect();
        assert_eq!(strangers, [4, 4, 0, 0], "the third has nothing left");
        assert_eq!(times(&mut budget, 10, true, start), 4, "members do not share with them");
        assert_eq!(times(&mut budget, 11, true, start), 4);
        assert_eq!(times(&mut budget, 11, true, start + WINDOW / 2), 0);
        assert_eq!(budget.peers.len(), 4, "who costs nothing is not remembered");
        assert_eq!(times(&mut budget, 3, false, start + WINDOW), 4, "a new window");
        assert_eq!(budget.peers.len(), 1);
    }
}
