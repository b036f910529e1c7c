//! Names and addresses: node ids as libp2p peer ids and back, and which addresses are worth a dial.
//!
//! A [`NodeId`] is an ed25519 public key, and a libp2p peer id of such a key contains it whole, so
//! the two translate without a table. Addresses that peers tell are filtered by transport and by
//! scope before they are kept: whoever was met over the internet has no business naming addresses
//! of this machine's own network.
//!
//! Invariant: an address that passed [`vetted`] ends without `/p2p/` and names a TCP or QUIC port,
//! its peer's or one relay's.

use std::net::{IpAddr, Ipv6Addr};

use floe_protocol::keys::NodeId;
use libp2p::{
    Multiaddr, PeerId,
    identity::{PublicKey, ed25519},
    multiaddr::Protocol,
};

/// Code of the identity multihash, in which a peer id carries its key unhashed.
const IDENTITY_MULTIHASH: u64 = 0;
/// What libp2p writes before the 32 bytes of an ed25519 key: a protobuf message of the key's type
/// and its bytes.
const ED25519_KEY: [u8; 4] = [0x08, 0x01, 0x12, 0x20];

/// Circuit addresses that one peer may have.
pub(super) const CIRCUITS_MAX: usize = 3;

/// Stands for all who come through relays: where they are is not known.
pub(super) const RELAYED: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// The peer id of a node, or none where the bytes are no ed25519 key.
pub(super) fn peer_id(node: &NodeId) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(node.as_bytes()).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// The node of a peer id, or none where the peer has another kind of key. Whether there is a point
/// of the curve to it is not asked, which takes as long as a third of a check of a signature:
/// whoever is connected has shown that, and nobody else becomes connected.
pub(super) fn node_id(peer: &PeerId) -> Option<NodeId> {
    let multihash = peer.as_ref();
    if multihash.code() != IDENTITY_MULTIHASH {
        return None;
    }
    let key = multihash.digest().strip_prefix(&ED25519_KEY)?;
    Some(NodeId::new(key.try_into().ok()?))
}

/// How far an address reaches. The order is from near to far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    /// This machine only.
    Loopback,
    /// A local network.
    Private,
    /// The internet.
    Global,
}

impl Scope {
    /// The scope of an IP address, or none if it is no peer's.
    pub(super) fn of_ip(ip: IpAddr) -> Option<Self> {
        let ip = ip.to_canonical();
        if ip.is_unspecified() || ip.is_multicast() {
            return None;
        }
        let private = match ip {
            IpAddr::V4(v4) if v4.is_broadcast() || v4.is_documentation() => return None,
            IpAddr::V4(v4) => v4.is_private() || v4.is_link_local() || is_shared(v4.octets()),
            IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
        };
        Some(if ip.is_loopback() {
            Self::Loopback
        } else if private {
            Self::Private
        } else {
            Self::Global
        })
    }

    /// The scope of an address, or none if nobody can be reached at it. Names count as global.
    pub(super) fn of(address: &Multiaddr) -> Option<Self> {
        match address.iter().next()? {
            Protocol::Ip4(ip) => Self::of_ip(ip.into()),
            Protocol::Ip6(ip) => Self::of_ip(ip.into()),
            Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) => Some(Self::Global),
            _ => None,
        }
    }
}

/// Whether an IPv4 address is of the range that carriers share among customers (100.64.0.0/10).
const fn is_shared(octets: [u8; 4]) -> bool {
    octets[0] == 100 && octets[1] & 0b1100_0000 == 64
}

/// The address of a peer in the form in which it is kept, if it is worth keeping: TCP or QUIC, of
/// at least the scope `nearest`, and not naming another peer; or a circuit by one relay that has
/// such an address.
pub(super) fn vetted(peer: &PeerId, address: &Multiaddr, nearest: Scope) -> Option<Multiaddr> {
    let mut address = address.clone();
    match address.iter().last() {
        // What a circuit address ends in before the peer is its relay.
        Some(Protocol::P2p(named)) if named == *peer => drop(address.pop()),
        Some(Protocol::P2p(_)) => return None,
        _ => {}
    }
    if Scope::of(&address)? < nearest {
        return None;
    }
    let mut parts = address.iter().skip(1);
    let port = match parts.next()? {
        Protocol::Tcp(port) => port,
        Protocol::Udp(port) if parts.next()? == Protocol::QuicV1 => port,
        _ => return None,
    };
    let end = (parts.next(), parts.next(), parts.next());
    let ends = match end {
        (None, None, None) => true,
        (Some(Protocol::P2p(relay)), Some(Protocol::P2pCircuit), None) => {
            relay != *peer && node_id(&relay).is_some()
        }
        _ => false,
    };
    (ends && port != 0).then_some(address)
}

/// Whether an address leads through a relay.
pub(super) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// The relay of a circuit address.
pub(super) fn relay_of(address: &Multiaddr) -> Option<PeerId> {
    let mut parts = address.iter().take_while(|part| *part != Protocol::P2pCircuit);
    let relay = parts.find_map(|part| match part {
        Protocol::P2p(relay) => Some(relay),
        _ => None,
    });
    relay.filter(|_| is_relayed(address))
}

/// The first `max` of a peer's addresses, each once, with at most [`CIRCUITS_MAX`] circuits among
/// them, by different relays.
pub(super) fn bounded(
    addresses: impl IntoIterator<Item = Multiaddr>,
    max: usize,
) -> Vec<Multiaddr> {
    let mut kept: Vec<Multiaddr> = Vec::new();
    let mut relays = Vec::new();
    for address in addresses {
        if kept.len() >= max || kept.contains(&address) {
            continue;
        }
        if let Some(relay) = relay_of(&address) {
            if relays.len() >= CIRCUITS_MAX || relays.contains(&relay) {
                continue;
            }
            relays.push(relay);
        }
        kept.push(address);
    }
    kept
}

/// What of the addresses that a peer has published may be dialled, `max` of them at most. They are
/// a stranger's word, read by everybody: a name could lead into a local network, and an address of
/// a nearer scope than this peer itself is reached at would be this machine's or its neighbours'.
pub(super) fn dialable(
    peer: &PeerId,
    published: &[Multiaddr],
    (nearest, max): (Scope, usize),
) -> Vec<Multiaddr> {
    let places = published.iter().filter(|address| ip_of(address).is_some());
    bounded(places.filter_map(|address| vetted(peer, address, nearest)), max)
}

/// From where on a peer's word about addresses is taken, given the address of the connection with
/// it. A name may lead anywhere, also into a local network, so it hides nothing.
pub(super) fn nearest_told(connection: &Multiaddr) -> Option<Scope> {
    match connection.iter().next()? {
        Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) => Some(Scope::Loopback),
        _ => Scope::of(connection),
    }
}

/// Addresses are dialled in this order: TCP, QUIC, and circuits if nothing else answers.
pub(super) fn dial_order(address: &Multiaddr) -> u8 {
    let is_tcp = |part| matches!(part, Protocol::Tcp(_));
    if is_relayed(address) { 2 } else { u8::from(!address.iter().any(is_tcp)) }
}

/// Whether one of `told` leads to `observed`, as far as can be seen: names may.
pub(super) fn covers<'a>(told: impl IntoIterator<Item = &'a Multiaddr>, observed: IpAddr) -> bool {
    told.into_iter().any(|address| ip_of(address).is_none_or(|ip| ip == observed))
}

/// The IP address that a connection goes to or comes from. Names and other transports have none.
pub(super) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(IpAddr::from(ip).to_canonical()),
        _ => None,
    }
}

/// Where a connection comes from, of those that count by address: its IP address, or [`RELAYED`].
pub(super) fn origin(local: Option<&Multiaddr>, remote: &Multiaddr) -> Option<IpAddr> {
    if local.is_some_and(is_relayed) || is_relayed(remote) { Some(RELAYED) } else { ip_of(remote) }
}

/// Those whom an address stands for: itself alone, or of IPv6 the /64 that one party has whole.
pub(super) fn site(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The peer that an address ends in.
pub(super) fn named_peer(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last()? {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use floe_protocol::{keys::KeyPair, ledger::MAX_NODE_ADDRESS_BYTES};

    use super::*;

    #[test]
    fn node_ids_and_peer_ids_translate_both_ways() {
        let node = KeyPair::from_seed([7; 32]).public();
        let peer = peer_id(&node).unwrap();
        assert_eq!(node_id(&peer), Some(node));
        assert_eq!(peer_id(&NodeId::new([2; 32])), None, "no point of the curve");
        assert_eq!(node_id(&PeerId::random()), None, "a hash, not a key");
    }

    #[test]
    fn a_name_hides_nothing_and_an_observed_address_is_told_or_not() {
        let address = |text: &str| text.parse::<Multiaddr>().unwrap();
        let scope = |text: &str| nearest_told(&address(text));
        assert_eq!(scope("/dns4/floe.example/tcp/1"), Some(Scope::Loopback));
        assert_eq!(scope("/ip4/8.8.8.8/tcp/1"), Some(Scope::Global));
        let told = [address("/ip4/10.0.0.1/tcp/1"), address("/ip4/8.8.8.8/tcp/2")];
        assert!(covers(&told, "8.8.8.8".parse().unwrap()));
        assert!(!covers(&told, "8.8.4.4".parse().unwrap()));
        let named = [address("/dns4/floe.example/tcp/1")];
        assert!(covers(&named, "8.8.4.4".parse().unwrap()));
    }

    #[test]
    fn a_circuit_leads_to_the_peer_by_one_relay_that_can_be_reached() {
        let [peer, relay, other] =
            [1, 2, 3].map(|seed| peer_id(&KeyPair::from_seed([seed; 32]).public()).unwrap());
        let start = format!("/ip4/8.8.8.8/tcp/1/p2p/{relay}/p2p-circuit");
        let good = start.clone();
        let table = [
            (start.clone(), true),
            (format!("{start}/p2p/{peer}"), true),
            (format!("/ip4/8.8.8.8/udp/1/quic-v1/p2p/{relay}/p2p-circuit/p2p/{peer}"), true),
            (format!("/dns4/floe.example/tcp/1/p2p/{relay}/p2p-circuit/p2p/{peer}"), true),
            // To another, by no relay, by the peer itself, by one that is no ed25519 key.
            (format!("{start}/p2p/{other}"), false),
            ("/ip4/8.8.8.8/tcp/1/p2p-circuit".to_owned(), false),
            (format!("/p2p/{relay}/p2p-circuit/p2p/{peer}"), false),
            (format!("/ip4/8.8.8.8/tcp/1/p2p/{peer}/p2p-circuit/p2p/{peer}"), false),
            (format!("/ip4/8.8.8.8/tcp/1/p2p/{}/p2p-circuit", PeerId::random()), false),
            // Through two relays, and on from the peer.
            (format!("{start}/p2p/{other}/p2p-circuit/p2p/{peer}"), false),
            (format!("{start}/p2p-circuit/p2p/{peer}"), false),
            (format!("{start}/p2p/{peer}/p2p/{peer}"), false),
            (format!("{start}/ip4/8.8.4.4/tcp/1/p2p/{peer}"), false),
            // Relays where no peer is.
            (format!("/ip4/127.0.0.1/tcp/1/p2p/{relay}/p2p-circuit/p2p/{peer}"), false),
            (format!("/ip4/8.8.8.8/tcp/0/p2p/{relay}/p2p-circuit/p2p/{peer}"), false),
        ];
        for (text, expected) in table {
            let address: Multiaddr = text.parse().unwrap();
            let kept = vetted(&peer, &address, Scope::Global);
            assert_eq!(kept.is_some(), expected, "{text}");
            if let Some(kept) = kept {
                assert_eq!(relay_of(&kept), Some(relay));
                assert_eq!(dial_order(&kept), 2);
                assert_eq!(vetted(&peer, &kept, Scope::Global), Some(kept));
            }
        }
        let direct: Multiaddr = "/ip4/8.8.8.8/tcp/1".parse().unwrap();
        assert_eq!(relay_of(&direct), None);
        assert_eq!(origin(None, &good.parse().unwrap()), Some(RELAYED));
        assert_eq!(origin(Some(&direct), &direct), ip_of(&direct));
    }

    #[test]
    fn the_longest_circuit_can_be_published() {
        let [peer, relay] =
            [1, 2].map(|seed| peer_id(&KeyPair::from_seed([seed; 32]).public()).unwrap());
        let ip = "2001:1db8:1234:5678:9abc:def1:2345:6789";
        let text = format!("/ip6/{ip}/udp/65535/quic-v1/p2p/{relay}/p2p-circuit/p2p/{peer}");
        assert!(text.len() <= MAX_NODE_ADDRESS_BYTES, "{}", text.len());
        assert!(vetted(&peer, &text.parse().unwrap(), Scope::Global).is_some());
    }

    #[test]
    fn of_circuits_three_are_kept_by_different_relays() {
        let circuit = |seed: u8, port: u16| {
            let relay = peer_id(&KeyPair::from_seed([seed; 32]).public()).unwrap();
            let text = format!("/ip4/8.8.8.8/tcp/{port}/p2p/{relay}/p2p-circuit");
            text.parse::<Multiaddr>().unwrap()
        };
        let direct: Multiaddr = "/ip4/8.8.8.8/tcp/1".parse().unwrap();
        let many = [circuit(1, 1), circuit(1, 2), circuit(2, 1), circuit(3, 1), circuit(4, 1)];
        let kept = bounded(many.into_iter().chain([direct.clone(), direct.clone()]), 8);
        assert_eq!(kept, [circuit(1, 1), circuit(2, 1), circuit(3, 1), direct]);
        assert_eq!(bounded((1..9).map(|seed| circuit(seed, 1)), 2).len(), 2);
    }

    #[test]
    fn of_what_is_published_only_places_as_far_as_ones_own_are_dialled() {
        let peer = PeerId::random();
        let own = format!("/ip4/8.8.8.8/tcp/1/p2p/{peer}");
        let other = format!("/ip4/8.8.4.4/tcp/1/p2p/{}", PeerId::random());
        let published = [
            own.as_str(),
            "/ip4/8.8.8.8/tcp/1",
            &other,
            "/dns4/localhost/tcp/1",
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/192.168.0.1/tcp/22",
            "/ip6/::1/tcp/1",
            "/ip4/0.0.0.0/tcp/1",
            "/ip4/8.8.8.8/udp/1/quic-v1",
        ];
        let published: Vec<Multiaddr> = published.map(|text| text.parse().unwrap()).into();
        let kept = |nearest, max| {
            let kept = dialable(&peer, &published, (nearest, max));
            kept.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let global = ["/ip4/8.8.8.8/tcp/1", "/ip4/8.8.8.8/udp/1/quic-v1"];
        assert_eq!(kept(Scope::Global, 8), global);
        assert_eq!(kept(Scope::Global, 1), global[..1]);
        assert!(kept(Scope::Private, 8).contains(&"/ip4/192.168.0.1/tcp/22".to_owned()));
        assert!(!kept(Scope::Private, 8).contains(&"/ip4/127.0.0.1/tcp/1".to_owned()));
        assert!(kept(Scope::Loopback, 8).contains(&"/ip4/127.0.0.1/tcp/1".to_owned()));
        let many: Vec<Multiaddr> =
            (1..40).map(|port| format!("/ip4/8.8.8.8/tcp/{port}").parse().unwrap()).collect();
        assert_eq!(dialable(&peer, &many, (Scope::Global, 8)).len(), 8);
    }

    #[test]
    fn only_reachable_addresses_of_the_peer_itself_are_kept() {
        let peer = PeerId::random();
        let own = format!("/ip4/8.8.8.8/tcp/1/p2p/{peer}");
        let other = format!("/ip4/8.8.8.8/tcp/1/p2p/{}", PeerId::random());
        let table: &[(&str, Scope, Option<&str>)] = &[
            ("/ip4/8.8.8.8/tcp/1", Scope::Global, Some("/ip4/8.8.8.8/tcp/1")),
            (&own, Scope::Global, Some("/ip4/8.8.8.8/tcp/1")),
            (&other, Scope::Global, None),
            ("/ip4/8.8.8.8/udp/1/quic-v1", Scope::Global, Some("/ip4/8.8.8.8/udp/1/quic-v1")),
            ("/dns4/floe.example/tcp/1", Scope::Global, Some("/dns4/floe.example/tcp/1")),
            ("/ip4/8.8.8.8/tcp/0", Scope::Global, None),
            ("/ip4/8.8.8.8/udp/1", Scope::Global, None),
            ("/ip4/8.8.8.8/tcp/1/ws", Scope::Global, None),
            ("/ip4/127.0.0.1/tcp/1", Scope::Private, None),
            ("/ip4/127.0.0.1/tcp/1", Scope::Loopback, Some("/ip4/127.0.0.1/tcp/1")),
            ("/ip6/::1/tcp/1", Scope::Private, None),
            ("/ip6/::ffff:127.0.0.1/tcp/1", Scope::Private, None),
            ("/ip4/192.168.1.1/tcp/1", Scope::Global, None),
            ("/ip4/192.168.1.1/tcp/1", Scope::Private, Some("/ip4/192.168.1.1/tcp/1")),
            ("/ip4/100.64.1.1/tcp/1", Scope::Global, None),
            ("/ip6/fe80::1/tcp/1", Scope::Global, None),
            ("/ip4/0.0.0.0/tcp/1", Scope::Loopback, None),
            ("/ip4/224.0.0.1/tcp/1", Scope::Loopback, None),
            ("/memory/1", Scope::Loopback, None),
        ];
        for (address, nearest, expected) in table {
            let expected = expected.map(|text| text.parse::<Multiaddr>().unwrap());
            let kept = vetted(&peer, &address.parse().unwrap(), *nearest);
            assert_eq!(kept, expected, "{address} from {nearest:?}");
        }
    }
}
