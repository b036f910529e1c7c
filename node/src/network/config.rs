//! The network's configuration: who this peer is, where it listens, and every limit.
//!
//! Names end in their unit. [`NetworkConfig::new`] gives all defaults, fields are then changed.

use std::{num::NonZeroU32, time::Duration};

use floe_protocol::{
    keys::{ChainId, KeyPair, NodeId},
    message::Limits,
};
use libp2p::Multiaddr;

use super::gossip::Topic;

/// What this peer does for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Answers requests and helps others to find peers.
    StorageNode,
    /// Only asks, publishes transactions and hears of headers. It takes no inbound requests and no
    /// place in routing tables.
    LightPeer,
}

/// The configuration of a [`Network`](super::Network).
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// The node key: its public half is the peer's name.
    pub key: KeyPair,
    /// The network, part of all protocol names, so that two networks never mix.
    pub chain: ChainId,
    /// What messages of the network may carry.
    pub messages: Limits,
    /// What this peer does for others.
    pub role: Role,
    /// Addresses to listen on, `/tcp/` or `/udp/../quic-v1`. Default: none, as light peers do.
    pub listen: Vec<Multiaddr>,
    /// Addresses under which others reach this peer, told to them beside the listen addresses.
    pub external: Vec<Multiaddr>,
    /// Addresses to begin with when nobody is connected.
    pub bootstrap: Vec<Multiaddr>,
    /// The nodes of the committee at the start. They bypass connection limits and have byte budgets
    /// of their own; if this peer is one of them, it keeps connections to the others, and another
    /// storage node keeps some. [`Network::set_committee`] names others later.
    ///
    /// [`Network::set_committee`]: super::Network::set_committee
    pub committee: Vec<NodeId>,
    /// How this peer deals with NAT, its own and that of others.
    pub nat: NatConfig,
    /// Every limit.
    pub limits: NetworkLimits,
}

/// Whether others can open connections to this peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Found out by what others can reach. External addresses given by hand are believed.
    #[default]
    Probed,
    /// They cannot: it is reached through relays.
    Private,
}

/// How a peer deals with NAT. Light peers open all their connections themselves and use none of it
/// but the relays of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatConfig {
    /// Whether others can open connections to this peer. Default: found out.
    pub reach: Reach,
    /// Relays to use beside those of the committee, each with its `/p2p/` part. Default: none.
    pub relays: Vec<Multiaddr>,
    /// Whether this peer is a relay to others if it can be reached. Default true.
    pub relays_for_others: bool,
    /// Whether to ask the router for port mappings over `UPnP`. Default false.
    pub map_ports: bool,
    /// Whether addresses of this machine and of local networks count as those that others reach,
    /// as local swarms need it. Default false.
    pub local_addresses: bool,
}

impl Default for NatConfig {
    fn default() -> Self {
        Self {
            reach: Reach::Probed,
            relays: Vec::new(),
            relays_for_others: true,
            map_ports: false,
            local_addresses: false,
        }
    }
}

/// The limits of the network layer. They hold against strangers by default; what a default leaves
/// open is written at its field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkLimits {
    /// Handshakes in each direction. Default 64.
    pub pending_connections_max: usize,
    /// Connections that others opened. Default 160.
    pub inbound_connections_max: usize,
    /// Connections that this peer opened. Default 80.
    pub outbound_connections_max: usize,
    /// Connections in all, the committee's not counted. Default 200.
    pub connections_max: usize,
    /// Connections with one peer. Holds for the committee too. Default 3: two that dialled each
    /// other at once, and one to probe an address or to replace a relayed one.
    pub connections_per_peer_max: usize,
    /// Connections with one IPv4 address or IPv6 /64. Default 8.
    pub connections_per_ip_max: usize,
    /// Connections with one IPv4 /24 or IPv6 /56. Default 16.
    pub connections_per_subnet_max: usize,
    /// Connections with one IPv4 /16 or IPv6 /48. Default 32.
    pub connections_per_network_max: usize,
    /// Connections with strangers by way of relays, which tell no address. Default 32.
    pub relayed_connections_max: usize,
    /// Whether connections over loopback are exempt from the limits by address, as local swarms
    /// need it. Default false.
    pub loopback_exempt: bool,
    /// Memory of the process above which no more connections of others are accepted, but not over
    /// loopback where that is exempt. Default 2 GiB.
    pub process_memory_bytes_max: usize,
    /// Time for which a peer that was cut off is refused, and its address. Default 600,000.
    pub ban_ms: u64,
    /// Time for a handshake. Default 10,000.
    pub handshake_timeout_ms: u64,
    /// Time after which an unused connection is closed, but not one with a committee member.
    /// Default 120,000.
    pub idle_connection_timeout_ms: u64,
    /// Streams that a TCP connection or one side of a QUIC connection may have. Equal on all
    /// peers: a connection with more is cut. Default 128.
    pub streams_per_connection_max: u32,

    /// Requests of one peer that wait for their payload or their answer; beyond, it is told `Busy`.
    /// A committee member may have as many urgent ones ([`Request::is_urgent`]) besides. Default 64.
    ///
    /// [`Request::is_urgent`]: floe_protocol::message::Request::is_urgent
    pub inbound_requests_per_peer_max: usize,
    /// The same for all strangers together, and for all committee members together, whose urgent
    /// ones are not among them. Default 1,024.
    pub inbound_requests_max: usize,
    /// Request streams that a stranger may have open, whether or not anything has been read of
    /// them; more are closed at once. Each may hold a window of 256 KiB. Default 64.
    pub inbound_streams_per_peer_max: usize,
    /// The same for all strangers together. Default 2,048.
    pub inbound_streams_max: usize,
    /// Payload bytes that requests of one peer may hold. Default 64 MiB.
    pub inbound_bytes_per_peer_max: usize,
    /// Payload bytes that requests of all strangers may hold, a quarter of it at most those of one
    /// IPv4 address or IPv6 /64. Default 256 MiB.
    pub inbound_bytes_max: usize,
    /// Payload bytes that requests of committee members may hold, apart from the strangers'.
    /// Default 128 MiB.
    pub committee_inbound_bytes_max: usize,
    /// Time that a request waits for room for its payload before it is told `Busy`. Default 5,000.
    pub admission_timeout_ms: u64,
    /// What a peer that is told `Busy` is asked to wait. Default 500.
    pub busy_retry_after_ms: u32,
    /// Messages that are broken, too slow or not valid, after which a peer is cut off. Default 32.
    pub violations_max: u32,

    /// Requests of this peer that are under way in all, urgent ones aside; more wait in
    /// [`Network::request`]. Default 512.
    ///
    /// [`Network::request`]: super::Network::request
    pub outbound_requests_max: usize,
    /// Requests of this peer that are under way to one peer; more wait. Default 32, so that those
    /// of both sides fit into the streams of a connection.
    pub outbound_requests_per_peer_max: usize,
    /// Payload bytes of requests that are under way to one peer, below what peers accept; more
    /// wait. Default 48 MiB.
    pub outbound_bytes_per_peer_max: usize,
    /// Time for a head, and for a payload beside what its size adds. Default 10,000.
    pub transfer_timeout_ms: u64,
    /// Time that each MiB of a payload adds. Default 10,000, about 100 KiB/s for one stream.
    pub transfer_timeout_per_mib_ms: u64,
    /// Time in which something of a payload must arrive. Default 10,000.
    pub stall_timeout_ms: u64,
    /// Time from a sent request to the first byte of its answer. Default 30,000.
    pub answer_timeout_ms: u64,
    /// Payload bytes sent in a second, all peers together; transcripts of challenges, which are few
    /// and have a deadline, are not held back. Default: no limit.
    pub upload_bytes_per_second: Option<NonZeroU32>,
    /// The same for bytes read. Default: no limit.
    pub download_bytes_per_second: Option<NonZeroU32>,

    /// Gossiped transactions that await their verdict; more are ignored. Default 2,048.
    pub transactions_max: usize,
    /// Consensus messages that await their verdict; more are ignored. Default 1,024.
    pub consensus_messages_max: usize,
    /// Headers that await their verdict; more are ignored. Default 64.
    pub headers_max: usize,
    /// Commitments of challenged nodes that await their verdict; more are ignored. Default 512.
    pub commitments_max: usize,
    /// Bytes of one topic that await their verdict; more are ignored. The router holds as much
    /// again. Default 8 MiB: eight whole blocks.
    pub gossip_pending_bytes_max: usize,
    /// Messages that wait for one gossip peer; more are dropped. A peer that reads nothing holds
    /// so many times 64 KiB at worst. Default 128: five whole blocks.
    pub gossip_queue_max: usize,
    /// Longest gossip frame, a message or control messages, and what is read ahead of the next.
    /// Less than 73 KiB is refused. Default 80 KiB.
    pub gossip_frame_bytes: usize,
    /// Own messages that wait for the network's task, those of consensus and challenges apart
    /// from the others.
    /// Default 256.
    pub publications_max: usize,

    /// Time to look for a peer's addresses. Default 10,000.
    pub find_timeout_ms: u64,
    /// Addresses kept of one peer. Default 8.
    pub addresses_per_peer_max: usize,
    /// Peers whose addresses are kept beside the committee. Default 1,024.
    pub known_peers_max: usize,
    /// First pause before a lost committee member or bootstrap address is dialled again. Doubles
    /// with every failure. Default 500.
    pub redial_min_ms: u64,
    /// Longest pause. Default 60,000.
    pub redial_max_ms: u64,
    /// Dials within a minute to one IPv4 address or IPv6 /64 because nodes have published it, who
    /// may have published somebody else's. Default 8.
    pub published_dials_per_ip_max: u32,
    /// Time between walks through the routing table. Default 300,000.
    pub routing_refresh_ms: u64,
    /// Time between pings. A connection whose ping fails is closed. Default 15,000.
    pub ping_interval_ms: u64,

    /// Relays that a peer behind NAT reserves a place with. Default 3.
    pub relays_max: usize,
    /// Peers for which this one is a relay; half of them are committee members at least.
    /// Default 64.
    pub relay_reservations_max: usize,
    /// Connections of others that pass through this relay. Default 64.
    pub relay_circuits_max: usize,
    /// The same that one peer may open. Default 4.
    pub relay_circuits_per_peer_max: usize,
    /// Time for which a place at this relay is reserved, unless it is renewed. Default 3,600,000.
    pub relay_reservation_ms: u64,
    /// Time after which a connection through this relay is cut. Default 3,600,000.
    pub relay_circuit_ms: u64,
    /// Bytes in one direction after which a connection through this relay is cut. Default 1 GiB:
    /// slivers pass, too.
    pub relay_circuit_bytes: u64,
    /// Time between probes of what others can reach, until they agree. Default 15,000.
    pub probe_interval_ms: u64,

    /// Commands that wait for the network's task. Default 256.
    pub commands_max: usize,
    /// Requests that wait for the service; beyond, they are told `Busy`. The last quarter is the
    /// members', the last eighth their urgent ones'. Default 256.
    pub events_max: usize,
    /// Time for connections to close at the end. Default 2,000.
    pub shutdown_timeout_ms: u64,
}

impl NetworkConfig {
    /// All defaults for a peer of the network `chain`.
    #[must_use]
    pub fn new(key: KeyPair, chain: ChainId, messages: Limits, role: Role) -> Self {
        Self {
            key,
            chain,
            messages,
            role,
            listen: Vec::new(),
            external: Vec::new(),
            bootstrap: Vec::new(),
            committee: Vec::new(),
            nat: NatConfig::default(),
            limits: NetworkLimits::default(),
        }
    }

    /// The time within which a payload must have passed.
    pub(super) fn transfer_timeout(&self, bytes: usize) -> Duration {
        let mib = (bytes as u64).div_ceil(1 << 20);
        let by_size = self.limits.transfer_timeout_per_mib_ms.saturating_mul(mib);
        Duration::from_millis(self.limits.transfer_timeout_ms.saturating_add(by_size))
    }

    /// An upper bound for a whole exchange, whatever its size: request, answer, both heads.
    pub(super) fn exchange_timeout(&self) -> Duration {
        let largest = usize::try_from(self.messages.max_payload_bytes()).unwrap_or(usize::MAX);
        let transfers = self.transfer_timeout(largest).saturating_mul(2);
        let heads = Duration::from_millis(self.limits.transfer_timeout_ms).saturating_mul(2);
        let answer = Duration::from_millis(self.limits.answer_timeout_ms);
        transfers.saturating_add(heads).saturating_add(answer)
    }
}

impl NetworkLimits {
    /// Messages of a topic that await their verdict.
    pub(super) const fn pending_max(&self, topic: Topic) -> usize {
        match topic {
            Topic::Transactions => self.transactions_max,
            Topic::Consensus => self.consensus_messages_max,
            Topic::Headers => self.headers_max,
            Topic::Challenges => self.commitments_max,
        }
    }
}

impl Default for NetworkLimits {
    fn default() -> Self {
        Self {
            pending_connections_max: 64,
            inbound_connections_max: 160,
            outbound_connections_max: 80,
            connections_max: 200,
            connections_per_peer_max: 3,
            connections_per_ip_max: 8,
            connections_per_subnet_max: 16,
            connections_per_network_max: 32,
            relayed_connections_max: 32,
            loopback_exempt: false,
            process_memory_bytes_max: 2 << 30,
            ban_ms: 600_000,
            handshake_timeout_ms: 10_000,
            idle_connection_timeout_ms: 120_000,
            streams_per_connection_max: 128,
            inbound_requests_per_peer_max: 64,
            inbound_requests_max: 1_024,
            inbound_streams_per_peer_max: 64,
            inbound_streams_max: 2_048,
            inbound_bytes_per_peer_max: 64 << 20,
            inbound_bytes_max: 256 << 20,
            committee_inbound_bytes_max: 128 << 20,
            admission_timeout_ms: 5_000,
            busy_retry_after_ms: 500,
            violations_max: 32,
            outbound_requests_max: 512,
            outbound_requests_per_peer_max: 32,
            outbound_bytes_per_peer_max: 48 << 20,
            transfer_timeout_ms: 10_000,
            transfer_timeout_per_mib_ms: 10_000,
            stall_timeout_ms: 10_000,
            answer_timeout_ms: 30_000,
            upload_bytes_per_second: None,
            download_bytes_per_second: None,
            transactions_max: 2_048,
            consensus_messages_max: 1_024,
            headers_max: 64,
            commitments_max: 512,
            gossip_pending_bytes_max: 8 << 20,
            gossip_queue_max: 128,
            gossip_frame_bytes: 80 << 10,
            publications_max: 256,
            find_timeout_ms: 10_000,
            addresses_per_peer_max: 8,
            known_peers_max: 1_024,
            redial_min_ms: 500,
            redial_max_ms: 60_000,
            published_dials_per_ip_max: 8,
            routing_refresh_ms: 300_000,
            ping_interval_ms: 15_000,
            relays_max: 3,
            relay_reservations_max: 64,
            relay_circuits_max: 64,
            relay_circuits_per_peer_max: 4,
            relay_reservation_ms: 3_600_000,
            relay_circuit_ms: 3_600_000,
            relay_circuit_bytes: 1 << 30,
            probe_interval_ms: 15_000,
            commands_max: 256,
            events_max: 256,
            shutdown_timeout_ms: 2_000,
        }
    }
}
