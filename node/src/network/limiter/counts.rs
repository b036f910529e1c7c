//! How many connections there are of each kind, and whether one more may be.
//!
//! Pure bookkeeping: the limiter says which connection begins, is established and ends. Invariant:
//! entries are those of living connections only, so that the last one of a kind leaves nothing.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use libp2p::{PeerId, swarm::ConnectionId};

use super::{ConnectionLimits, Exceeded};
use crate::network::address::RELAYED;

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    Inbound,
    Outbound,
}

/// A prefix of addresses and how many connections it may have.
type Subnet = (IpAddr, u8);

/// One connection, pending while its peer is unknown or not yet authenticated.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    direction: Direction,
    pub(super) established: Option<PeerId>,
    pub(super) subnets: Vec<Subnet>,
    privileged: bool,
}

/// The connections there are, and how many of each kind.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) slots: HashMap<ConnectionId, Slot>,
    pub(super) pending: HashMap<Direction, usize>,
    pub(super) established: HashMap<Direction, usize>,
    pub(super) peers: HashMap<PeerId, usize>,
    pub(super) subnets: HashMap<Subnet, usize>,
}

impl Counts {
    /// Takes a slot for a connection whose handshake begins.
    pub(super) fn begin(
        &mut self,
        limits: &ConnectionLimits,
        id: ConnectionId,
        (direction, ip, privileged): (Direction, Option<IpAddr>, bool),
    ) -> Result<(), Exceeded> {
        let subnets = subnets(limits, ip);
        if !privileged {
            if count(&self.pending, &direction) >= limits.pending_per_direction_max {
                return Err(Exceeded::Pending);
            }
            self.check_subnets(limits, &subnets)?;
        }
        *self.pending.entry(direction).or_default() += 1;
        self.take_subnets(&subnets);
        let slot = Slot { direction, established: None, subnets, privileged };
        self.slots.insert(id, slot);
        Ok(())
    }

    /// Turns a pending slot into that of an authenticated peer, or frees it.
    pub(super) fn establish(
        &mut self,
        limits: &ConnectionLimits,
        id: ConnectionId,
        (direction, ip, peer, privileged): (Direction, Option<IpAddr>, PeerId, bool),
    ) -> Result<(), Exceeded> {
        self.end(id);
        // Members on an address leave its slots to the others on it.
        let ip = ip.filter(|_| !privileged);
        let subnets = subnets(limits, ip);
        if count(&self.peers, &peer) >= limits.per_peer_max {
            return Err(Exceeded::Peer);
        }
        if !privileged {
            let max = match direction {
                Direction::Inbound => limits.inbound_max,
                Direction::Outbound => limits.outbound_max,
            };
            if count(&self.established, &direction) >= max {
                return Err(Exceeded::Direction);
            }
            if self.established.values().sum::<usize>() >= limits.total_max {
                return Err(Exceeded::Total);
            }
            self.check_subnets(limits, &subnets)?;
            *self.established.entry(direction).or_default() += 1;
        }
        *self.peers.entry(peer).or_default() += 1;
        self.take_subnets(&subnets);
        let slot = Slot { direction, established: Some(peer), subnets, privileged };
        self.slots.insert(id, slot);
        Ok(())
    }

    /// Counts the connections of peers that have become members as the committee's, and those of
    /// peers that are no longer as everybody's: beyond the limits if need be, until they close.
    /// The connections concerned, with their peers.
    pub(super) fn reclassify(
        &mut self,
        is_member: impl Fn(&PeerId) -> bool,
    ) -> Vec<(ConnectionId, PeerId, bool)> {
        let mut changed = Vec::new();
        for (id, slot) in &mut self.slots {
            let Some(peer) = slot.established else { continue };
            let privileged = is_member(&peer);
            if slot.privileged == privileged {
                continue;
            }
            slot.privileged = privileged;
            if privileged {
                release(&mut self.established, slot.direction);
                // Members on an address leave its slots to the others on it.
                for subnet in slot.subnets.drain(..) {
                    release(&mut self.subnets, subnet);
                }
            } else {
                *self.established.entry(slot.direction).or_default() += 1;
            }
            changed.push((*id, peer, privileged));
        }
        changed
    }

    /// Frees the slots of a connection that failed or closed.
    pub(super) fn end(&mut self, id: ConnectionId) -> Option<Slot> {
        let slot = self.slots.remove(&id)?;
        match &slot.established {
            None => release(&mut self.pending, slot.direction),
            Some(peer) => {
                release(&mut self.peers, *peer);
                if !slot.privileged {
                    release(&mut self.established, slot.direction);
                }
            }
        }
        for subnet in &slot.subnets {
            release(&mut self.subnets, *subnet);
        }
        Some(slot)
    }

    fn check_subnets(&self, limits: &ConnectionLimits, subnets: &[Subnet]) -> Result<(), Exceeded> {
        // From the single address to the widest prefix, as `subnets` lists them.
        let maxima = [limits.per_ip_max, limits.per_subnet_max, limits.per_network_max];
        let full = |(subnet, max): (&Subnet, usize)| {
            let max = if subnet.0 == RELAYED { limits.relayed_max } else { max };
            count(&self.subnets, subnet) >= max
        };
        if subnets.iter().zip(maxima).any(full) {
            return Err(Exceeded::Subnet);
        }
        Ok(())
    }

    fn take_subnets(&mut self, subnets: &[Subnet]) {
        for subnet in subnets {
            *self.subnets.entry(*subnet).or_default() += 1;
        }
    }
}

fn count<K: std::hash::Hash + Eq>(counts: &HashMap<K, usize>, key: &K) -> usize {
    counts.get(key).copied().unwrap_or(0)
}

/// Takes one away, and the entry with the last.
fn release<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) {
    if let std::collections::hash_map::Entry::Occupied(mut entry) = counts.entry(key) {
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}

/// The prefixes that an address counts for: itself (of IPv6, its /64), its subnet, its network.
fn subnets(limits: &ConnectionLimits, ip: Option<IpAddr>) -> Vec<Subnet> {
    let Some(ip) = ip else { return Vec::new() };
    if limits.loopback_exempt && ip.is_loopback() {
        return Vec::new();
    }
    if ip == RELAYED {
        return vec![(RELAYED, 0)];
    }
    let prefixes = match ip {
        IpAddr::V4(_) => [32_u8, 24, 16],
        IpAddr::V6(_) => [64, 56, 48],
    };
    prefixes.iter().map(|bits| (masked(ip, *bits), *bits)).collect()
}

/// The first `bits` of an address.
fn masked(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}
