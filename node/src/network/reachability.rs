//! Whether others can open connections to this peer: a verdict from what several of them report.
//!
//! Pure: the event loop asks members to dial this peer and passes on what they report. A single
//! report decides nothing, so one member that lies changes nothing. Taken for unreachable, a peer
//! only reserves relays that it does not need; taken for reachable by mistake, it could not be
//! reached at all without them. So reports alone, which a few members may make up together, do not
//! make it give up its last relay: for that, connections must have come in from [`ARRIVALS`] places
//! to which it has opened none itself, and whose packets its router let in unasked.
//!
//! Of each address no more reports are kept than are needed, of addresses the [`ADDRESSES_MAX`] that
//! were reported last, and of places dialled the last [`DIALLED_MAX`].

use std::{
    collections::{BTreeSet, VecDeque},
    net::IpAddr,
};

use libp2p::{Multiaddr, PeerId};

/// Members that must agree.
const AGREEING: usize = 2;
/// Addresses that are believed at a time.
const ADDRESSES_MAX: usize = 8;
/// Places from which connections must have come in.
const ARRIVALS: usize = 2;
/// Places dialled that are remembered.
const DIALLED_MAX: usize = 1_024;

/// The far end of a direct connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// All who share an address, or an IPv6 /64.
    Site(IpAddr),
    /// A peer on the same machine, between which and this one there is no router.
    Local(PeerId),
}

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
    /// The latest is the last.
    dialled: VecDeque<IpAddr>,
    arrivals: BTreeSet<Origin>,
}

impl Reachability {
    /// Reports decide, unless the verdict is `fixed`.
    pub(super) const fn new(fixed: Option<Verdict>) -> Self {
        Self {
            fixed,
            verdict: Verdict::Unknown,
            reached: Vec::new(),
            not_reached: BTreeSet::new(),
            dialled: VecDeque::new(),
            arrivals: BTreeSet::new(),
        }
    }

    /// Whether others reach this peer beyond what members can make up.
    pub(super) fn is_open(&self) -> bool {
        let proven = self.fixed.is_some() || self.arrivals.len() >= ARRIVALS;
        proven && self.verdict() == Verdict::Public
    }

    /// How many relays this peer needs, if it has at most `max`.
    pub(super) fn relays_wanted(&self, max: usize) -> usize {
        match self.verdict() {
            Verdict::Private => max,
            Verdict::Public if !self.is_open() => max.min(1),
            Verdict::Public | Verdict::Unknown => 0,
        }
    }

    /// This peer has opened a connection: what comes back from there may be let in as an answer.
    pub(super) fn dialled(&mut self, origin: Origin) {
        let Origin::Site(site) = origin else { return };
        self.dialled.retain(|known| *known != site);
        self.dialled.push_back(site);
        if self.dialled.len() > DIALLED_MAX {
            self.dialled.pop_front();
        }
    }

    /// A connection came in.
    pub(super) fn arrived(&mut self, origin: Origin) {
        let unasked = !matches!(origin, Origin::Site(site) if self.dialled.contains(&site));
        if unasked && self.arrivals.len() < ARRIVALS {
            self.arrivals.insert(origin);
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
        self.arrivals.clear();
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

    #[test]
    fn a_peer_keeps_a_relay_until_connections_come_in_that_it_has_not_asked_for() {
        let [a, b] = [(); 2].map(|()| PeerId::random());
        let site = |last: u8| Origin::Site(IpAddr::from([8, 8, 8, last]));
        let mut reach = Reachability::new(None);
        assert_eq!(reach.relays_wanted(3), 0);
        for by in [a, b] {
            reach.reached(by, address(1));
        }
        assert_eq!((reach.verdict(), reach.relays_wanted(3)), (Verdict::Public, 1));
        // Whoever was dialled gets back in through many routers.
        for last in 0..9 {
            reach.dialled(site(last));
            reach.arrived(site(last));
        }
        for _ in 0..9 {
            reach.arrived(site(10));
        }
        assert!(!reach.is_open());
        reach.arrived(site(11));
        assert_eq!((reach.is_open(), reach.relays_wanted(3)), (true, 0));
        for by in [a, b] {
            reach.not_reached(by);
        }
        assert_eq!((reach.is_open(), reach.relays_wanted(3)), (false, 3));
        for by in [a, b] {
            reach.reached(by, address(1));
        }
        assert_eq!(reach.relays_wanted(3), 1, "it may be behind another router now");
    }

    #[test]
    fn what_is_remembered_of_connections_is_bounded() {
        let mut reach = Reachability::new(None);
        for i in 0..5_000_u32 {
            reach.dialled(Origin::Site(IpAddr::V4(i.into())));
            reach.arrived(Origin::Local(PeerId::random()));
        }
        assert_eq!((reach.dialled.len(), reach.arrivals.len()), (DIALLED_MAX, ARRIVALS));
        assert!(Reachability::new(Some(Verdict::Public)).is_open(), "the operator knows");
    }
}
