//! Peers behind NAT: relays, hole punching, probes of what others can reach, and port mappings.
//!
//! A home router lets connections out and none in. A node behind one reserves a place with a few
//! public nodes, its *relays*, which pass on what others send to its circuit address. The relays see
//! encrypted bytes only: a circuit carries the same handshake as any connection. Two members that
//! meet over a relay then try to open a direct connection through both of their routers at once.
//!
//! What libp2p brings is kept on a short leash, in this module: relays serve identified storage
//! nodes only, probes are answered towards the asker's own address and few in a minute, and hole
//! punching, in which one peer tells another where to dial, is for committee members. What others
//! say of this peer's own addresses never reaches these behaviours unfiltered.
//!
//! Invariants: an address that nobody has confirmed is not advertised; nothing here grows with the
//! number of strangers. Deliberately not here: when to reserve and whom to ask, which the event
//! loop decides, and the verdict on probes, which [`reachability`](super::reachability) makes.

mod hole_punch;
mod quiet;

use std::{collections::HashSet, num::NonZeroU32, time::Duration};

use libp2p::{
    Multiaddr, PeerId,
    autonat::v1 as autonat,
    identify, relay,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
    upnp,
};
use tokio::sync::watch;

use self::hole_punch::HolePunch;
pub(super) use self::quiet::Quiet;
use super::{
    address::Scope,
    config::{NetworkConfig, Role},
};

/// Time over which rates are counted.
const MINUTE: Duration = Duration::from_secs(60);
/// Circuits that one peer may open in a minute, and that peers of one address may.
const CIRCUITS_PER_MINUTE: (NonZeroU32, NonZeroU32) = (rate(30), rate(120));
/// Reservations that one peer may ask for in a minute, and peers of one address.
const RESERVATIONS_PER_MINUTE: (NonZeroU32, NonZeroU32) = (rate(6), rate(30));
/// Probes that all peers together and one of them may ask for in a minute.
const PROBES_PER_MINUTE: (usize, usize) = (30, 3);
/// Addresses that are dialled in answer to one probe.
const PROBED_ADDRESSES_MAX: usize = 4;
/// So many more reports must say one thing than the other before nobody is asked for a while. Who is
/// asked is random, so fewer may well come from one member alone, and one decides nothing.
const REPORTS_ALIKE: usize = 16;
/// Time for one probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);
/// Time before a verdict that nothing contradicts is looked at again.
const VERDICT_REFRESH: Duration = Duration::from_secs(900);

const fn rate(per_minute: u32) -> NonZeroU32 {
    NonZeroU32::new(per_minute).expect("a rate is not zero")
}

/// The behaviours for peers behind NAT.
#[derive(NetworkBehaviour)]
pub(super) struct Nat {
    /// Listens and dials through relays.
    pub(super) client: relay::client::Behaviour,
    /// Is a relay.
    pub(super) server: Toggle<relay::Behaviour>,
    pub(super) hole_punch: Toggle<HolePunch>,
    pub(super) probes: Toggle<Quiet<autonat::Behaviour>>,
    pub(super) port_mappings: Toggle<Quiet<upnp::tokio::Behaviour>>,
}

impl Nat {
    /// The behaviours that the role has. `reservable` are the peers that may reserve a place.
    pub(super) fn new(
        config: &NetworkConfig,
        local: PeerId,
        client: relay::client::Behaviour,
        (committee, reservable): (&HashSet<PeerId>, watch::Receiver<HashSet<PeerId>>),
    ) -> Self {
        let serves = config.role == Role::StorageNode;
        let is_relay = serves && config.nat.relays_for_others;
        let nearest = if config.nat.local_addresses { Scope::Loopback } else { Scope::Global };
        let maps_ports = serves && config.nat.map_ports && !config.listen.is_empty();
        let mut server =
            is_relay.then(|| relay::Behaviour::new(local, relay_config(config, reservable)));
        if let Some(server) = &mut server {
            // Set once this node is known to be reachable: a circuit address is no such sign.
            server.set_status(Some(relay::Status::Disable));
        }
        Self {
            client,
            server: server.into(),
            hole_punch: serves.then(|| HolePunch::new(local, committee.clone(), nearest)).into(),
            probes: serves.then(|| Quiet::new(probes(config, local))).into(),
            port_mappings: maps_ports.then(|| Quiet::new(upnp::tokio::Behaviour::default())).into(),
        }
    }
}

/// A relay's limits. libp2p compares per peer with "more than", in total with "at least".
fn relay_config(
    config: &NetworkConfig,
    reservable: watch::Receiver<HashSet<PeerId>>,
) -> relay::Config {
    let limits = &config.limits;
    let mut relay = relay::Config {
        max_reservations: limits.relay_reservations_max,
        // One for each connection that a peer may have: none of use beyond.
        max_reservations_per_peer: limits.relay_circuits_per_peer_max.saturating_sub(1),
        reservation_duration: Duration::from_millis(limits.relay_reservation_ms),
        reservation_rate_limiters: Vec::new(),
        max_circuits: limits.relay_circuits_max,
        max_circuits_per_peer: limits.relay_circuits_per_peer_max.saturating_sub(1),
        max_circuit_duration: Duration::from_millis(limits.relay_circuit_ms.min(u32::MAX.into())),
        max_circuit_bytes: limits.relay_circuit_bytes,
        circuit_src_rate_limiters: Vec::new(),
    };
    // First, so that those who may not reserve use up nobody's rate.
    let may_reserve = move |peer: PeerId, _: &Multiaddr, _| reservable.borrow().contains(&peer);
    relay.reservation_rate_limiters.push(Box::new(may_reserve));
    relay
        .reservation_rate_per_peer(RESERVATIONS_PER_MINUTE.0, MINUTE)
        .reservation_rate_per_ip(RESERVATIONS_PER_MINUTE.1, MINUTE)
        .circuit_src_per_peer(CIRCUITS_PER_MINUTE.0, MINUTE)
        .circuit_src_per_ip(CIRCUITS_PER_MINUTE.1, MINUTE)
}

/// Probes by the first version of `AutoNAT`. It dials nothing but the address that the asker is seen
/// at, and comes to a verdict; the second version dials any address that the asker pays 30 kB for,
/// has no throttle, and never looks again at an address that once did not answer.
fn probes(config: &NetworkConfig, local: PeerId) -> autonat::Behaviour {
    let interval = Duration::from_millis(config.limits.probe_interval_ms);
    autonat::Behaviour::new(
        local,
        autonat::Config {
            timeout: PROBE_TIMEOUT,
            boot_delay: interval,
            refresh_interval: VERDICT_REFRESH.max(interval),
            retry_interval: interval,
            throttle_server_period: interval,
            // Only members are asked, once they are connected.
            use_connected: false,
            confidence_max: REPORTS_ALIKE,
            max_peer_addresses: PROBED_ADDRESSES_MAX,
            throttle_clients_global_max: PROBES_PER_MINUTE.0,
            throttle_clients_peer_max: PROBES_PER_MINUTE.1,
            throttle_clients_period: MINUTE,
            only_global_ips: !config.nat.local_addresses,
        },
    )
}

/// Identify, whose word on this peer's own addresses goes nowhere but to the event loop.
pub(super) type Identify = Quiet<identify::Behaviour>;
