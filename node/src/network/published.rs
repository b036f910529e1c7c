//! How often an address is dialled because a node has published it.
//!
//! Whoever gets into a committee can publish any address, also a third party's, and every member
//! would dial it again and again. So dials are counted by target, and beyond a few a minute left
//! out. Pure: the event loop passes the time in.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use tokio::time::Instant;

use super::address::site;

/// The time in which dials are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// Targets counted at a time. While there are so many, no further one is dialled.
const TARGETS_MAX: usize = 1_024;

/// The dials of the last minute, by target.
#[derive(Debug)]
pub(super) struct PublishedDials {
    max: u32,
    loopback_exempt: bool,
    /// When the target's window began, and the dials in it.
    targets: HashMap<IpAddr, (Instant, u32)>,
}

impl PublishedDials {
    /// At most `max` dials of a target in a minute.
    pub(super) fn new(max: u32, loopback_exempt: bool) -> Self {
        Self { max, loopback_exempt, targets: HashMap::new() }
    }

    /// Counts a dial, if it may be made.
    pub(super) fn may_dial(&mut self, ip: IpAddr, now: Instant) -> bool {
        if self.loopback_exempt && ip.is_loopback() {
            return true;
        }
        self.targets.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
        let full = self.targets.len() >= TARGETS_MAX;
        let target = site(ip);
        if full && !self.targets.contains_key(&target) {
            return false;
        }
        let (_, dials) = self.targets.entry(target).or_insert((now, 0));
        *dials = dials.saturating_add(1);
        *dials <= self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_target_is_dialled_more_than_a_few_times_a_minute_whoever_names_it() {
        let start = Instant::now();
        let mut dials = PublishedDials::new(3, true);
        let target: IpAddr = "8.8.8.8".parse().unwrap();
        let made = |dials: &mut PublishedDials, ip: IpAddr, at_s: u64| {
            let now = start + Duration::from_secs(at_s);
            (0..10).filter(|_| dials.may_dial(ip, now)).count()
        };
        assert_eq!(made(&mut dials, target, 0), 3);
        assert_eq!(made(&mut dials, target, 59), 0);
        assert_eq!(made(&mut dials, target, 60), 3);
        // Of IPv6 a whole /64 is one target.
        assert_eq!(made(&mut dials, "2001:db8::1".parse().unwrap(), 60), 3);
        assert_eq!(made(&mut dials, "2001:db8::2".parse().unwrap(), 60), 0);
        assert_eq!(made(&mut dials, "127.0.0.1".parse().unwrap(), 60), 10, "local swarms");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let start = Instant::now();
        let mut dials = PublishedDials::new(3, false);
        let allowed = (0..5_000_u32).filter(|i| dials.may_dial(IpAddr::V4((*i).into()), start));
        assert_eq!(allowed.count(), TARGETS_MAX);
        assert_eq!(dials.targets.len(), TARGETS_MAX);
        assert!(dials.may_dial(IpAddr::V4(9_999.into()), start + WINDOW), "forgotten in time");
    }
}
