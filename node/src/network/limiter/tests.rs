//! Table tests of the connection counts.

use floe_protocol::{
    encoding::EncodingConfig,
    hash::Hash,
    keys::{ChainId, KeyPair},
    message::Limits,
};

use super::*;
use crate::network::Role;

const LIMITS: ConnectionLimits = ConnectionLimits {
    pending_per_direction_max: 3,
    inbound_max: 6,
    outbound_max: 2,
    total_max: 7,
    per_peer_max: 2,
    per_ip_max: 2,
    per_subnet_max: 3,
    per_network_max: 4,
    relayed_max: 2,
    loopback_exempt: true,
};

fn id(number: usize) -> ConnectionId {
    ConnectionId::new_unchecked(number)
}

/// Establishes connections of distinct peers, in order, from each address: `+` if accepted, `-` if
/// its subnet is full, `!` if its direction is.
fn admitted(addresses: &[&str]) -> String {
    let mut counts = Counts::default();
    let mut connect = |(number, address): (usize, &&str)| {
        let ip: IpAddr = address.parse().unwrap();
        counts.begin(&LIMITS, id(number), (Direction::Inbound, Some(ip), false))?;
        let connection = (Direction::Inbound, Some(ip), PeerId::random(), false);
        counts.establish(&LIMITS, id(number), connection)
    };
    let answer = |connection| match connect(connection) {
        Ok(()) => '+',
        Err(Exceeded::Subnet) => '-',
        Err(Exceeded::Direction) => '!',
        Err(other) => panic!("{other}"),
    };
    addresses.iter().enumerate().map(answer).collect()
}

#[test]
fn addresses_subnets_and_networks_are_limited() {
    let table: &[(&str, &str)] = &[
        // One address, one /24, one /16.
        ("10.0.0.1 10.0.0.1 10.0.0.1", "++-"),
        ("10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4 10.0.1.1", "+++-+"),
        ("10.0.0.1 10.0.1.1 10.0.2.1 10.0.3.1 10.0.4.1 10.1.0.1", "++++-+"),
        // An IPv6 address counts as its /64; one /56; one /48.
        ("2001:db8::1 2001:db8::2 2001:db8::3", "++-"),
        ("2001:db8:0:1::1 2001:db8:0:2::1 2001:db8:0:3::1 2001:db8:0:4::1", "+++-"),
        (
            "2001:db8:0:100::1 2001:db8:0:200::1 2001:db8:0:300::1 2001:db8:0:400::1 \
             2001:db8:0:500::1 2001:db8:1::1",
            "++++-+",
        ),
        // All who come through relays are one address.
        (":: :: :: 10.0.0.1", "++-+"),
        // Loopback is exempt, until the inbound limit.
        ("127.0.0.1 127.0.0.1 127.0.0.1 ::1 ::1 ::1 ::1", "++++++!"),
    ];
    for (addresses, expected) in table {
        let list: Vec<_> = addresses.split_whitespace().collect();
        assert_eq!(admitted(&list), *expected, "{addresses}");
    }
}

#[test]
fn closing_frees_every_slot() {
    let mut counts = Counts::default();
    let ip: IpAddr = "10.0.0.1".parse().unwrap();
    let peer = PeerId::random();
    for round in 0..10 {
        for number in 0..2 {
            let connection = (Direction::Inbound, Some(ip), false);
            counts.begin(&LIMITS, id(number), connection).unwrap();
            let connection = (Direction::Inbound, Some(ip), peer, false);
            counts.establish(&LIMITS, id(number), connection).unwrap();
        }
        let third = (Direction::Inbound, Some(ip), false);
        assert_eq!(counts.begin(&LIMITS, id(2), third), Err(Exceeded::Subnet));
        for number in 0..2 {
            assert!(counts.end(id(number)).is_some(), "round {round}");
        }
    }
    assert!(counts.slots.is_empty() && counts.peers.is_empty() && counts.subnets.is_empty());
    assert!(counts.pending.is_empty() && counts.established.is_empty());
}

#[test]
fn a_failed_handshake_frees_its_slot_and_a_pending_one_keeps_it() {
    let mut counts = Counts::default();
    let inbound = |number: u8| {
        let ip = IpAddr::from([number, 0, 0, 1]);
        (Direction::Inbound, Some(ip), false)
    };
    for number in 0..3 {
        let begun = counts.begin(&LIMITS, id(number.into()), inbound(number));
        assert_eq!(begun, Ok(()));
    }
    assert_eq!(counts.begin(&LIMITS, id(3), inbound(3)), Err(Exceeded::Pending));
    counts.end(id(0));
    assert_eq!(counts.begin(&LIMITS, id(3), inbound(3)), Ok(()));
}

#[test]
fn directions_peers_and_the_total_are_limited() {
    let mut counts = Counts::default();
    let mut next = 0;
    let mut connect = |direction, peer| {
        next += 1;
        counts.establish(&LIMITS, id(next), (direction, None, peer, false))
    };
    let peer = PeerId::random();
    assert_eq!(connect(Direction::Outbound, peer), Ok(()));
    assert_eq!(connect(Direction::Inbound, peer), Ok(()));
    assert_eq!(connect(Direction::Inbound, peer), Err(Exceeded::Peer));
    assert_eq!(connect(Direction::Outbound, PeerId::random()), Ok(()));
    let third_out = connect(Direction::Outbound, PeerId::random());
    assert_eq!(third_out, Err(Exceeded::Direction));
    for _ in 0..4 {
        assert_eq!(connect(Direction::Inbound, PeerId::random()), Ok(()));
    }
    let eighth = connect(Direction::Inbound, PeerId::random());
    assert_eq!(eighth, Err(Exceeded::Total));
}

#[test]
fn the_committee_bypasses_all_but_the_limit_per_peer() {
    let mut counts = Counts::default();
    let ip: IpAddr = "10.0.0.1".parse().unwrap();
    for number in 0..20 {
        let connection = (Direction::Inbound, Some(ip), PeerId::random(), true);
        assert_eq!(counts.establish(&LIMITS, id(number), connection), Ok(()));
    }
    let member = PeerId::random();
    for (number, expected) in [(20, Ok(())), (21, Ok(())), (22, Err(Exceeded::Peer))] {
        let connection = (Direction::Inbound, Some(ip), member, true);
        assert_eq!(counts.establish(&LIMITS, id(number), connection), expected);
    }
    // Members on one address leave its slots to others.
    let stranger = (Direction::Inbound, Some(ip), PeerId::random(), false);
    assert_eq!(counts.establish(&LIMITS, id(30), stranger), Ok(()));
}

fn config() -> NetworkConfig {
    let key = KeyPair::from_seed([1; 32]);
    let limits = Limits::new(EncodingConfig::new(4).unwrap());
    NetworkConfig::new(key, ChainId::new(Hash::ZERO), limits, Role::StorageNode)
}

#[test]
fn who_is_cut_off_is_refused_with_its_address_but_members_are_not() {
    let [member, offender, neighbour] = [(); 3].map(|()| PeerId::random());
    let mut limiter = Limiter::new(&config(), HashSet::from([member]));
    let here: Multiaddr = "/ip4/10.0.0.1/tcp/1".parse().unwrap();
    let elsewhere: Multiaddr = "/ip4/10.0.0.2/tcp/1".parse().unwrap();
    let mut connects = |number, peer, from: &Multiaddr, ban| {
        let connected =
            limiter.handle_established_inbound_connection(id(number), peer, &here, from).is_ok();
        if ban {
            limiter.ban(peer);
        }
        connected
    };
    assert!(connects(1, offender, &here, true));
    assert!(!connects(2, offender, &elsewhere, false));
    assert!(!connects(3, neighbour, &here, false));
    assert!(connects(4, neighbour, &elsewhere, false));
    assert!(connects(5, member, &here, true));
    assert!(connects(6, member, &here, false));
}

#[test]
fn a_full_memory_refuses_what_others_open_but_no_dial_of_ones_own() {
    let mut config = config();
    config.limits.process_memory_bytes_max = 0;
    config.limits.loopback_exempt = true;
    let mut limiter = Limiter::new(&config, HashSet::new());
    let addresses = ["/ip4/10.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/1"];
    let [there, loopback] = addresses.map(|address| address.parse::<Multiaddr>().unwrap());
    assert!(limiter.handle_pending_inbound_connection(id(1), &there, &there).is_err());
    assert!(limiter.handle_pending_inbound_connection(id(2), &there, &loopback).is_ok());
    let dialled =
        limiter.handle_pending_outbound_connection(id(3), None, &[there], Endpoint::Dialer);
    assert!(dialled.is_ok());
}

#[test]
fn the_routing_table_dials_only_the_committee_and_the_beginning() {
    let mut config = config();
    let [member, beginning, stranger] = [(); 3].map(|()| PeerId::random());
    config.bootstrap = vec![format!("/ip4/10.0.0.1/tcp/1/p2p/{beginning}").parse().unwrap()];
    let mut limiter = Limiter::new(&config, HashSet::from([member]));
    let given: Multiaddr = "/ip4/10.0.0.2/tcp/1".parse().unwrap();
    let none: &[Multiaddr] = &[];
    let table = [
        (member, none, true),
        (beginning, none, true),
        (stranger, none, false),
        (stranger, std::slice::from_ref(&given), true),
    ];
    for (number, (peer, addresses, expected)) in table.into_iter().enumerate() {
        let dialled = limiter.handle_pending_outbound_connection(
            id(number),
            Some(peer),
            addresses,
            Endpoint::Dialer,
        );
        assert_eq!(dialled.is_ok(), expected);
    }
}

#[test]
fn who_joins_the_committee_leaves_the_strangers_slots_and_who_leaves_it_takes_one() {
    let mut counts = Counts::default();
    let ip: IpAddr = "10.0.0.1".parse().unwrap();
    let [joins, leaves, other] = [(); 3].map(|()| PeerId::random());
    for (number, peer, member) in [(1, joins, false), (2, leaves, true), (3, other, false)] {
        let connection = (Direction::Inbound, Some(ip), peer, member);
        assert_eq!(counts.establish(&LIMITS, id(number), connection), Ok(()));
    }
    let mut changed = counts.reclassify(|peer| *peer == joins);
    changed.sort_by_key(|(id, ..)| *id);
    assert_eq!(changed, [(id(1), joins, true), (id(2), leaves, false)]);
    assert_eq!(counts.established[&Direction::Inbound], 2);
    assert!(counts.reclassify(|peer| *peer == joins).is_empty());
    // The address has room for one more again.
    let stranger = (Direction::Inbound, Some(ip), PeerId::random(), false);
    assert_eq!(counts.establish(&LIMITS, id(4), stranger), Ok(()));
    for number in 1..=4 {
        counts.end(id(number));
    }
    assert!(counts.established.is_empty() && counts.subnets.is_empty());
}
