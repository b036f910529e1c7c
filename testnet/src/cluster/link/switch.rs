//! What the thread between the devices decides: where a packet goes, when, and whether at all.
//!
//! Pure but for the paths, which others change meanwhile: time and packets are given.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::Path;
use crate::workload::Dice;

/// Of the range that is kept for tests of networks (RFC 2544). To nodes it is the internet.
pub(super) const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 254, 0, 0);
const NETWORK: u8 = 198;
/// The two halves of the range: limits by network count hosts of each.
const HALVES: [u8; 2] = [18, 19];
/// Packets that are under way; more are lost.
const UNDER_WAY_MAX: usize = 100_000;
/// Where an IPv4 header has the destination.
const DESTINATION: std::ops::Range<usize> = 16..20;

/// A host, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HostIndex(u8);

impl HostIndex {
    pub(super) fn new(index: usize) -> Self {
        Self(u8::try_from(index).expect("there are fewer hosts than a byte counts"))
    }

    pub(super) fn as_usize(self) -> usize {
        self.0.into()
    }

    /// Its address: each in a subnet of its own, as machines of strangers are.
    pub(super) fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(NETWORK, HALVES[usize::from(self.0 % 2)], self.0, 1)
    }

    fn of(address: [u8; 4]) -> Option<Self> {
        let index = Self(address[2]);
        (index.address().octets() == address).then_some(index)
    }
}

/// What becomes of packets.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths {
    access: BTreeMap<HostIndex, Path>,
    between: BTreeMap<(HostIndex, HostIndex), Path>,
}

impl Paths {
    pub(super) fn set_access(&mut self, host: HostIndex, path: Path) {
        self.access.insert(host, path);
    }

    pub(super) fn set_between(&mut self, from: HostIndex, to: HostIndex, path: Path) {
        self.between.insert((from, to), path);
    }

    /// The parts of the way from one host to another.
    fn parts(&self, from: HostIndex, to: HostIndex) -> impl Iterator<Item = &Path> {
        let ends = [self.access.get(&from), self.access.get(&to)];
        ends.into_iter().chain([self.between.get(&(from, to))]).flatten()
    }
}

/// A packet under way. The earliest is the greatest; those of one time keep their order.
type UnderWay = Reverse<(Instant, u64, HostIndex, Vec<u8>)>;

/// The packets under way.
pub(super) struct Switch {
    paths: watch::Receiver<Paths>,
    dice: Dice,
    under_way: BinaryHeap<UnderWay>,
    taken: u64,
}

impl Switch {
    pub(super) fn new(seed: u64, paths: watch::Receiver<Paths>) -> Self {
        Self { paths, dice: Dice::new(seed), under_way: BinaryHeap::new(), taken: 0 }
    }

    /// Takes a packet that a host has sent.
    pub(super) fn take(&mut self, now: Instant, from: HostIndex, packet: &[u8]) {
        let Some(to) = destination(packet) else { return };
        let mut delay = Duration::ZERO;
        let mut lost = self.under_way.len() >= UNDER_WAY_MAX;
        for part in self.paths.borrow().parts(from, to) {
            delay += part.delay;
            lost |= part.lost_permille > 0 && self.dice.below(1_000) < part.lost_permille.into();
        }
        if !lost {
            self.taken += 1;
            self.under_way.push(Reverse((now + delay, self.taken, to, packet.to_vec())));
        }
    }

    /// When the next packet arrives.
    pub(super) fn due(&self) -> Option<Instant> {
        self.under_way.peek().map(|Reverse((due, ..))| *due)
    }

    /// A packet that arrives, and where.
    pub(super) fn next_due(&mut self, now: Instant) -> Option<(HostIndex, Vec<u8>)> {
        if self.due()? > now {
            return None;
        }
        self.under_way.pop().map(|Reverse((_, _, to, packet))| (to, packet))
    }
}

/// The host that an IPv4 packet is for. Of others the namespaces' own chatter is all there is.
fn destination(packet: &[u8]) -> Option<HostIndex> {
    let version = packet.first()? >> 4;
    let address = packet.get(DESTINATION)?.try_into().ok()?;
    if version == 4 { HostIndex::of(address) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(to: HostIndex, mark: u8) -> Vec<u8> {
        let mut packet = vec![0; 21];
        packet[0] = 0x45;
        packet[DESTINATION].copy_from_slice(&to.address().octets());
        packet[20] = mark;
        packet
    }

    fn hosts() -> [HostIndex; 3] {
        [0, 1, 2].map(HostIndex::new)
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn delays_of_both_ends_and_between_add_up_and_order_stays() {
        let ([a, b, c], now) = (hosts(), Instant::now());
        let (paths, seen) = watch::channel(Paths::default());
        let mut switch = Switch::new(1, seen);
        let slow = |delay| Path { delay: millis(delay), lost_permille: 0 };
        paths.send_modify(|paths| {
            paths.set_access(b, slow(100));
            paths.set_between(c, b, slow(30));
        });
        for (from, to, mark) in [(c, b, 1), (a, b, 2), (a, b, 3), (b, c, 4), (a, c, 5)] {
            switch.take(now, from, &packet(to, mark));
        }
        let mut arrive = |after: u64| {
            let mut marks = Vec::new();
            while let Some((_, packet)) = switch.next_due(now + millis(after)) {
                marks.push(packet[20]);
            }
            marks
        };
        assert_eq!(arrive(0), [5]);
        assert_eq!(arrive(99), [0; 0]);
        assert_eq!(arrive(100), [2, 3, 4]);
        assert_eq!(arrive(130), [1]);
        assert_eq!(switch.due(), None);
    }

    #[test]
    fn as_many_are_lost_as_told_the_same_for_a_seed() {
        let [a, b, _] = hosts();
        let (paths, seen) = watch::channel(Paths::default());
        let arrived = |seed, lost_permille| {
            let path = Path { delay: Duration::ZERO, lost_permille };
            paths.send_modify(|paths| paths.set_between(a, b, path));
            let (mut switch, now) = (Switch::new(seed, seen.clone()), Instant::now());
            (0..10_000).for_each(|_| switch.take(now, a, &packet(b, 0)));
            switch.under_way.len()
        };
        assert_eq!((arrived(1, 0), arrived(1, 1_000)), (10_000, 0));
        assert!((6_800..7_200).contains(&arrived(1, 300)), "{}", arrived(1, 300));
        assert_eq!(arrived(2, 300), arrived(2, 300));
    }

    #[test]
    fn what_is_for_nobody_goes_nowhere_and_too_much_is_lost() {
        let ([a, b, _], now) = (hosts(), Instant::now());
        let (_paths, seen) = watch::channel(Paths::default());
        let mut switch = Switch::new(1, seen);
        let mut elsewhere = packet(b, 0);
        elsewhere[DESTINATION].copy_from_slice(&[10, 0, 0, 1]);
        let mut newer = packet(b, 0);
        newer[0] = 0x60;
        for strange in [&elsewhere[..], &newer, &[], &[0x45], &packet(b, 0)[..19]] {
            switch.take(now, a, strange);
        }
        assert_eq!(switch.due(), None);
        (0..=UNDER_WAY_MAX).for_each(|_| switch.take(now, a, &packet(b, 0)));
        assert_eq!(switch.under_way.len(), UNDER_WAY_MAX);
    }

    #[test]
    fn addresses_name_their_hosts_and_no_others() {
        for index in 0..super::super::HOSTS_MAX {
            let host = HostIndex::new(index);
            assert_eq!(HostIndex::of(host.address().octets()), Some(host));
        }
        assert_eq!(HostIndex::of([198, 18, 1, 1]), None);
        assert_eq!(HostIndex::of([198, 18, 0, 2]), None);
    }
}
