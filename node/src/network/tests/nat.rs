//! Peers that others cannot dial: relays, what they refuse, and finding out.

use std::net::TcpListener;

use floe_protocol::{encoding::Axis, registration::RegistrationId};
use libp2p::{
    Swarm, SwarmBuilder,
    core::ConnectedPoint,
    identify,
    multiaddr::Protocol,
    noise, relay,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};

use futures::StreamExt;

use super::*;
use crate::network::address::is_relayed;

/// The members of these networks.
const MEMBERS: [u8; 4] = [1, 2, 3, 4];
/// A place on a relay, as its metrics tell of it.
const RESERVED: &str = "network_relayed_total{reason=\"reserved\"}";
const RESERVATION_REFUSED: &str = "network_relayed_total{reason=\"reservation_refused\"}";
const CIRCUIT: &str = "network_relayed_total{reason=\"circuit\"}";
const CIRCUIT_REFUSED: &str = "network_relayed_total{reason=\"circuit_refused\"}";

pub(super) fn local(seed: u8) -> NetworkConfig {
    let mut config = config(seed);
    config.committee = MEMBERS.map(node).into();
    config.nat.local_addresses = true;
    config.limits.probe_interval_ms = 100;
    config
}

/// A node that others can dial, and that knows it.
pub(super) fn public(seed: u8) -> NetworkConfig {
    let mut config = local(seed);
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    config.listen = vec![format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()];
    config.external.clone_from(&config.listen);
    config
}

/// A node that nobody can dial, and that begins with these.
pub(super) fn private(seed: u8, relays: &[&Peer]) -> NetworkConfig {
    let mut config = local(seed);
    config.listen = Vec::new();
    config.nat.reach = Reach::Private;
    config.bootstrap = relays.iter().map(|relay| named(relay)).collect();
    config
}

/// A client that begins with these.
pub(super) fn light(seed: u8, relays: &[&Peer]) -> NetworkConfig {
    let mut config = private(seed, relays);
    config.role = Role::LightPeer;
    config
}

pub(super) fn named(peer: &Peer) -> Multiaddr {
    address_of(&peer.network.local_node(), peer.address()).unwrap()
}

impl Peer {
    /// Waits until the peer listens at a circuit by each of these relays.
    pub(super) async fn is_relayed_by(&self, relays: &[&Self]) {
        let mut listen = self.network.listen_addresses.clone();
        let by = |addresses: &Vec<Multiaddr>, relay: &&Self| {
            let relay = Protocol::P2p(raw::id(relay));
            let mut circuits = addresses.iter().filter(|address| is_relayed(address));
            circuits.any(|circuit| circuit.iter().any(|part| part == relay))
        };
        let all = listen.wait_for(|addresses| relays.iter().all(|relay| by(addresses, relay)));
        drop(timeout(DEADLINE, all).await.expect("no place with a relay in time").unwrap());
    }

    /// Whether its connection with a node goes through a relay.
    fn is_by_relay(&self, with: &Self) -> bool {
        let view = self.network.peers().borrow().clone();
        is_relayed(&view.connected[&with.network.local_node()].address)
    }
}

#[tokio::test]
async fn slivers_go_both_ways_through_a_relay() {
    let relay = Peer::start(public(1)).await;
    let mut hidden = Peer::start(private(2, &[&relay])).await;
    hidden.is_relayed_by(&[&relay]).await;
    assert_eq!(relay.count(RESERVED), 1);

    let client = Peer::start(light(9, &[&relay])).await;
    let store = Request::StoreSlivers {
        registration: RegistrationId::new([4; 32]),
        pair: SliverPairIndex::new(1),
        primary: vec![1; 3 << 20].into(),
        secondary: vec![2; 2 << 20].into(),
    };
    let read =
        Request::ReadSliver { blob: blob(), pair: SliverPairIndex::new(1), axis: Axis::Primary };
    for request in [store, read] {
        let asked = timeout(DEADLINE, client.network.request(node(2), request.clone()));
        let answers = async {
            let (from, arrived, reply) = hidden.asked().await;
            assert_eq!(from, node(9));
            assert_eq!(arrived, request);
            reply.reply(response_to(&request));
        };
        let (response, ()) = tokio::join!(asked, answers);
        assert_eq!(response.unwrap(), Ok(response_to(&request)));
    }
    assert!(client.is_by_relay(&hidden));
    assert_eq!(relay.count(CIRCUIT), 1);
    // Where it is goes into the address book like any other address.
    let found = timeout(DEADLINE, client.network.find(node(2))).await.unwrap().unwrap();
    assert!(found.iter().all(is_relayed), "{found:?}");
}

#[tokio::test]
async fn a_relay_that_goes_away_is_replaced() {
    let relays = [Peer::start(public(1)).await, Peer::start(public(2)).await];
    let mut config = private(3, &[&relays[0], &relays[1]]);
    config.limits.relays_max = 1;
    let mut hidden = Peer::start(config).await;
    let mut listen = hidden.network.listen_addresses.clone();
    let reserved = listen.wait_for(|addresses| addresses.iter().any(is_relayed));
    drop(timeout(DEADLINE, reserved).await.unwrap().unwrap());
    let [first, second] = relays;
    let (held, other) = if first.count(RESERVED) == 1 { (first, second) } else { (second, first) };
    assert_eq!((held.count(RESERVED), other.count(RESERVED)), (1, 0));
    held.network.shutdown().await;
    hidden.is_relayed_by(&[&other]).await;
    let client = Peer::start(light(9, &[&other])).await;
    client.exchanges_with(&mut hidden).await;
    assert!(client.is_by_relay(&hidden));
}

#[tokio::test]
async fn a_place_is_renewed_while_it_is_needed() {
    let mut config = public(1);
    config.limits.relay_reservation_ms = 4_000;
    let relay = Peer::start(config).await;
    let mut hidden = Peer::start(private(2, &[&relay])).await;
    hidden.is_relayed_by(&[&relay]).await;
    // What is reserved anew is not counted again, and nothing is lost when the first time is up.
    let expired = hidden.network.listen_addresses.clone();
    let lost = async {
        let mut expired = expired;
        expired.wait_for(|addresses| !addresses.iter().any(is_relayed)).await.is_ok()
    };
    assert!(timeout(Duration::from_secs(6), lost).await.is_err(), "the place was lost");
    let client = Peer::start(light(9, &[&relay])).await;
    client.exchanges_with(&mut hidden).await;
    assert_eq!(relay.count(RESERVED), 1);
}

#[tokio::test]
async fn a_relay_holds_its_limits() {
    let mut config = public(1);
    config.limits.relay_reservations_max = 2;
    config.limits.relay_circuits_max = 1;
    let relay = Peer::start(config).await;
    // Strangers take half of the places at most, whatever they claim to be.
    let stranger = |seed| {
        let mut config = private(seed, &[&relay]);
        config.nat.relays = vec![named(&relay)];
        config
    };
    let first = Peer::start(stranger(7)).await;
    first.is_relayed_by(&[&relay]).await;
    let second = Peer::start(stranger(8)).await;
    second.meets(node(1)).await;
    let mut member = Peer::start(private(2, &[&relay])).await;
    member.is_relayed_by(&[&relay]).await;
    assert_eq!(relay.count(RESERVED), 2);
    assert!(second.network.listen_addresses().is_empty());

    let client = Peer::start(light(9, &[&relay])).await;
    client.exchanges_with(&mut member).await;
    let late = Peer::start(light(10, &[&relay])).await;
    let refused = timeout(DEADLINE, late.network.request(node(2), Request::NodeStatus)).await;
    assert_eq!(refused.unwrap(), Err(RequestError::Unreachable));
    assert!(relay.count(CIRCUIT_REFUSED) >= 1);
    client.exchanges_with(&mut member).await;
}

#[tokio::test]
async fn a_circuit_ends_with_its_bytes_and_the_next_one_serves() {
    let mut config = public(1);
    config.limits.relay_circuit_bytes = 1 << 20;
    let relay = Peer::start(config).await;
    let mut hidden = Peer::start(private(2, &[&relay])).await;
    hidden.is_relayed_by(&[&relay]).await;
    let client = Peer::start(light(9, &[&relay])).await;
    let read =
        Request::ReadSliver { blob: blob(), pair: SliverPairIndex::new(1), axis: Axis::Primary };
    let asked = timeout(DEADLINE, client.network.request(node(2), read.clone()));
    let answers = async { hidden.asked().await.2.reply(response_to(&read)) };
    let (response, ()) = tokio::join!(asked, answers);
    assert_eq!(response.unwrap(), Err(RequestError::Closed));
    client.exchanges_with(&mut hidden).await;
    assert_eq!(relay.count(CIRCUIT), 2);
}

#[tokio::test]
async fn members_find_out_what_others_reach_and_become_relays_or_need_them() {
    // Nobody is told anything but where to begin.
    let first = Peer::start(local(1)).await;
    let begins = |seed| {
        let mut config = local(seed);
        config.bootstrap = vec![named(&first)];
        config
    };
    let second = Peer::start(begins(2)).await;
    let third = Peer::start(begins(3)).await;
    // It listens, but nothing gets in: as behind a router, whoever dials it is hung up on.
    let mut hidden = begins(4);
    hidden.limits.loopback_exempt = false;
    hidden.limits.process_memory_bytes_max = 0;
    let hidden = Peer::start(hidden).await;
    hidden.is_relayed_by(&[&first, &second, &third]).await;
    for open in [&first, &second, &third] {
        assert!(!open.network.listen_addresses().iter().any(is_relayed));
    }
}

#[tokio::test]
async fn members_that_meet_over_a_relay_open_a_direct_connection() {
    let relay = Peer::start(public(1)).await;
    let mut hidden = private(2, &[&relay]);
    hidden.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    // It lets no stranger in by itself: it is known to the other by its circuit only.
    let mut hidden = Peer::start(hidden).await;
    hidden.is_relayed_by(&[&relay]).await;
    let mut other = local(3);
    other.limits.redial_min_ms = 60_000;
    other.nat.reach = Reach::Private;
    let other = Peer::start(other).await;
    let circuit = named(&relay).with(Protocol::P2pCircuit);
    other.network.add_addresses(node(1), vec![relay.address()]).await;
    other.meets(node(1)).await;
    other.network.add_addresses(node(2), vec![circuit]).await;
    other.exchanges_with(&mut hidden).await;
    let direct = |view: &PeersView| {
        view.connected.get(&node(2)).is_some_and(|peer| !is_relayed(&peer.address))
    };
    other.sees(direct).await;
    other.exchanges_with(&mut hidden).await;
}

/// A peer that uses relays and says nothing of itself, or what it likes.
#[derive(NetworkBehaviour)]
pub(super) struct Freeloader {
    relays: relay::client::Behaviour,
    identify: identify::Behaviour,
}

pub(super) fn freeloader(seed: u8) -> Swarm<Freeloader> {
    let key = Keypair::ed25519_from_bytes([seed; 32]).unwrap();
    let identify = identify::Config::new(format!("/floe/{}/id/1", chain().short()), key.public());
    SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_relay_client(noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_, relays| Freeloader {
            relays,
            identify: identify::Behaviour::new(identify),
        })
        .unwrap()
        .with_swarm_config(|swarm| swarm.with_idle_connection_timeout(DEADLINE))
        .build()
}

#[tokio::test]
async fn who_is_no_storage_node_reserves_nothing_however_often_it_asks() {
    let relay = Peer::start(public(1)).await;
    let mut swarm = freeloader(9);
    let at = named(&relay).with(Protocol::P2pCircuit);
    for _ in 0..20 {
        swarm.listen_on(at.clone()).unwrap();
        let refused = async {
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::ListenerClosed { reason, .. } => break reason,
                    SwarmEvent::NewListenAddr { address, .. } => panic!("reserved {address}"),
                    _ => {}
                }
            }
        };
        assert!(timeout(DEADLINE, refused).await.unwrap().is_err());
    }
    assert_eq!(relay.count(RESERVED), 0);
    assert_eq!(relay.count(RESERVATION_REFUSED), 20);
    // It has used up nobody's rate.
    let hidden = Peer::start(private(2, &[&relay])).await;
    hidden.is_relayed_by(&[&relay]).await;
}

#[tokio::test]
async fn a_relay_carries_nothing_to_those_who_reserved_nothing() {
    let relay = Peer::start(public(1)).await;
    let open = {
        let mut config = public(2);
        config.bootstrap = vec![named(&relay)];
        Peer::start(config).await
    };
    open.meets(node(1)).await;
    let mut swarm = freeloader(9);
    let target = raw::id(&open);
    swarm.dial(named(&relay).with(Protocol::P2pCircuit).with(Protocol::P2p(target))).unwrap();
    let failed = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::OutgoingConnectionError { peer_id, .. } if peer_id == Some(target) => {
                    break;
                }
                SwarmEvent::ConnectionEstablished {
                    endpoint: ConnectedPoint::Dialer { address, .. },
                    ..
                } => assert!(!is_relayed(&address), "connected through a relay"),
                _ => {}
            }
        }
    };
    timeout(DEADLINE, failed).await.unwrap();
    assert!(relay.count(CIRCUIT_REFUSED) >= 1);
}
