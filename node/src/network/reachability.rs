//! Whether others can open connections to this peer: a verdict from what several of them report.
//!
//! Pure: the event loop asks members to dial this peer and passes on what they report. A single
//! report decides nothing, so one member that lies changes nothing. Taken for reachable by mistake,
//! a peer would give up its relays; taken for unreachable, it only reserves some that it does not
//! need. Bounded by the number of members that are asked and by [`ADDRESSES_MAX`].

use std::collections::{BTreeMap, BTreeSet};

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
    reached: BTreeMap<Multiaddr, BTreeSet<PeerId>>,
    not_reached: BTreeSet<PeerId>,
}

impl Reachability {
    /// Reports decide, unless the verdict is `fixed`.
    pub(super) const fn new(fixed: Option<Verdict>) -> Self {
        Self {
            fixed,
            verdict: Verdict::Unknown,
            reached: BTreeMap::new(),
            not_reached: BTreeSet::new(),
        }
    }

    pub(super) fn verdict(&self) -> Verdict {
        self.fixed.unwrap_or(self.verdict)
    }

    /// Whether reports decide.
    pub(super) const fn is_probed(&self) -> bool {
        self.fixed.is_none()
    }

    /// A member has reached this peer at one of its addresses.
    pub(super) fn reached(&mut self, by: PeerId, address: Multiaddr) -> Option<Change> {
        self.not_reached.remove(&by);
        if self.reached.len() >= ADDRESSES_MAX && !self.reached.contains_key(&address) {
            return None;
        }
        let members = self.reached.entry(address.clone()).or_default();
        let is_news = members.insert(by) && members.len() == AGREEING;
        if members.len() >= AGREEING {
            self.verdict = Verdict::Public;
            self.not_reached.clear();
        }
        is_news.then_some(Change::Confirmed(address))
    }

    /// A member has tried all addresses of this peer in vain.
    pub(super) fn not_reached(&mut self, by: PeerId) -> Option<Change> {
        self.not_reached.insert(by);
        for members in self.reached.values_mut() {
            members.remove(&by);
        }
        if self.not_reached.len() < AGREEING {
            return None;
        }
        self.verdict = Verdict::Private;
        let lost: Vec<_> = std::mem::take(&mut self.reached).into_keys().collect();
        (!lost.is_empty()).then_some(Change::Lost(lost))
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
        assert_eq!(reach.not_reached(a), None);
        assert_eq!(reach.not_reached(a), None);
        assert_eq!(reach.verdict(), Verdict::Unknown);
        assert_eq!(reach.reached(b, address(1)), None);
        assert_eq!(reach.reached(b, address(1)), None);
        assert_eq!(reach.verdict(), Verdict::Unknown);
        assert_eq!(reach.reached(c, address(1)), Some(Change::Confirmed(address(1))));
        assert_eq!(reach.verdict(), Verdict::Public);
        assert_eq!(reach.not_reached(a), None);
        assert_eq!(reach.verdict(), Verdict::Public);
        assert_eq!(reach.not_reached(b), Some(Change::Lost(vec![address(1)])));
        assert_eq!(reach.verdict(), Verdict::Private);
    }

    #[test]
    fn reports_of_many_addresses_are_bounded_and_a_fixed_verdict_stays() {
        let mut reach = Reachability::new(Some(Verdict::Private));
        for port in 1..100 {
            for by in [PeerId::random(), PeerId::random()] {
                reach.reached(by, address(port));
            }
        }
        assert_eq!(reach.reached.len(), ADDRESSES_MAX);
        assert_eq!(reach.verdict(), Verdict::Private);
    }
}
