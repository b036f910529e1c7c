//! Whether others can open connections to this peer: a verdict from what several of them report.
//!
//! Pure: the event loop asks members to dial this peer and passes on what they report. A single
//! report decides nothing, so one member that lies changes nothing. Taken for reachable by mistake,
//! a peer would give up its relays; taken for unreachable, it only reserves some that it does not
//! need. Of each address no more reports are kept than are needed, and of addresses the
//! [`ADDRESSES_MAX`] that were reported last.

use std::collections::BTreeSet;

use libp2p::{Multiaddr, PeerId};

/// Members that must agree.
const AGREEING: usize = 2;
/// Addresses that are believed at a time.
const ADDRESSES_MAX: usize = 8;

/// What is known of this peer's reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing yet.
    Unknown,
    /// Others open connections to this peer.
    Public,
    /// They cannot.
    Private,
}

/// What a report has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Others can reach this address.
    Confirmed(Multiaddr),
    /// Nobody reaches these any more.
    Lost(Vec<Multiaddr>),
}

/// The reports that count.
#[derive(Debug)]
pub(super) struct Reachability {
    fixed: Option<Verdict>,
    verdict: Verdict,
    /// The address that was reported last is the last.
    reached: Vec<(Multiaddr, BTreeSet<PeerId>)>,
    not_reached: BTreeSet<PeerId>,
}

impl Reachability {
    /// Reports decide, unless the verdict is `fixed`.
    pub(super) const fn new(fixed: Option<Verdict>) -> Self {
        Self { fixed, verdict: Verdict::Unknown, reached: Vec::new(), not_reached: BTreeSet::new() }
    }

    pub(super) fn verdict(&self) -> Verdict {
        self.fixed.unwrap_or(self.verdict)
    }

    /// Whether reports decide.
    pub(super) const fn is_probed(&self) -> bool {
        self.fixed.is_none()
    }

    /// A member has reached this peer at one of its addresses.
    pub(super) fn reached(&mut self, by: PeerId, address: Multiaddr) -> Vec<Change> {
        self.not_reached.remove(&by);
        let known = self.reached.iter().position(|(known, _)| *known == address);
        let mut members = known.map(|at| self.reached.remove(at).1).unwrap_or_default();
        let believed = members.len() >= AGREEING;
        if !believed {
            members.insert(by);
        }
        let mut changes = Vec::new();
        if members.len() >= AGREEING {
            self.verdict = Verdict::Public;
            self.not_reached.clear();
            if !believed {
                changes.push(Change::Confirmed(address.clone()));
            }
        }
        if self.reached.len() >= ADDRESSES_MAX {
            let (oldest, _) = self.reached.remove(0);
            changes.push(Change::Lost(vec![oldest]));
        }
        self.reached.push((address, members));
        changes
    }

    /// A member has tried all addresses of this peer in vain.
    pub(super) fn not_reached(&mut self, by: PeerId) -> Vec<Change> {
        if self.not_reached.len() < AGREEING {
            self.not_reached.insert(by);
        }
        for (_, members) in &mut self.reached {
            members.remove(&by);
        }
        if self.not_reached.len() < AGREEING {
            return Vec::new();
        }
        self.verdict = Verdict::Private;
        let lost: Vec<_> = self.reached.drain(..).map(|(address, _)| address).collect();
        if lost.is_empty() { Vec::new() } else { vec![Change::Lost(lost)] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: usize) -> Multiaddr {
        format!("/ip4/8.8.8.8/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn one_member_decides_nothing_and_two_overrule_what_was_believed() {
        let [a, b, c] = [(); 3].map(|()| PeerId::random());
        let mut reach = Reachability::new(None);
        assert_eq!(reach.not_reached(a), []);
        assert_eq!(reach.not_reached(a), []);
        assert_eq!(reach.verdict(), Verdict::Unknown);
        assert_eq!(reach.reached(b, address(1)), []);
        assert_eq!(reach.reached(b, address(1)), []);
        assert_eq!(reach.verdict(), Verdict::Unknown);
        assert_eq!(reach.reached(c, address(1)), [Change::Confirmed(address(1))]);
        assert_eq!(reach.reached(a, address(1)), []);
        assert_eq!(reach.verdict(), Verdict::Public);
        assert_eq!(reach.not_reached(a), []);
        assert_eq!(reach.verdict(), Verdict::Public);
        assert_eq!(reach.not_reached(b), [Change::Lost(vec![address(1)])]);
        assert_eq!(reach.verdict(), Verdict::Private);
    }

    #[test]
    fn a_node_that_moves_is_believed_anew_and_its_oldest_address_is_dropped() {
        let [a, b] = [(); 2].map(|()| PeerId::random());
        let mut reach = Reachability::new(None);
        for port in 1..100 {
            let first = reach.reached(a, address(port));
            let second = reach.reached(b, address(port));
            assert_eq!(second, [Change::Confirmed(address(port))]);
            let dropped = port.checked_sub(ADDRESSES_MAX).filter(|dropped| *dropped > 0);
            let dropped = dropped.map(|port| Change::Lost(vec![address(port)]));
            assert_eq!(first, dropped.into_iter().collect::<Vec<_>>());
        }
        assert_eq!(reach.reached.len(), ADDRESSES_MAX);
    }

    #[test]
    fn a_fixed_verdict_stays_and_many_reports_take_no_room() {
        let mut reach = Reachability::new(Some(Verdict::Private));
        for _ in 0..100 {
            reach.reached(PeerId::random(), address(1));
        }
        assert_eq!(reach.reached[0].1.len(), AGREEING);
        assert_eq!(reach.verdict(), Verdict::Private);
        for _ in 0..100 {
            reach.not_reached(PeerId::random());
        }
        assert_eq!(reach.not_reached.len(), AGREEING);
    }
}
