//! The swarm: transports and behaviours put together, with nothing left at an unsafe default.

use std::{collections::HashSet, num::NonZeroUsize, time::Duration};

use libp2p::{
    PeerId, StreamProtocol, Swarm, SwarmBuilder, identify,
    identity::Keypair,
    kad::{
        self, BucketInserts, Caching, Mode, StoreInserts,
        store::{MemoryStore, MemoryStoreConfig},
    },
    noise, ping, quic,
    swarm::NetworkBehaviour,
    tcp, yamux,
};
use tokio::sync::watch;

use super::{
    config::{NetworkConfig, Role},
    error::NetworkError,
    exchange::Exchange,
    gossip::{self, Gossip},
    limiter::Limiter,
    metrics::Metrics,
    nat::{Identify, Nat, Quiet},
};

/// Streams of one connection whose protocol is being agreed on.
const NEGOTIATING_STREAMS_MAX: usize = 32;
/// Streams that a Yamux window allows are counted in these; the protocol fixes the size.
const YAMUX_WINDOW_BYTES: usize = 256 << 10;
/// What one peer may send in a routing table message.
const ROUTING_MESSAGE_BYTES: usize = 16 << 10;

/// All behaviours. The limiter comes first: what it refuses, the others need not see.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) limiter: Limiter,
    pub(super) exchange: Exchange,
    pub(super) gossip: Gossip,
    pub(super) kademlia: kad::Behaviour<MemoryStore>,
    pub(super) identify: Identify,
    pub(super) nat: Nat,
    ping: ping::Behaviour,
}

/// The names under which peers of one network speak.
#[derive(Clone, Debug)]
pub(super) struct ProtocolNames {
    pub(super) request: StreamProtocol,
    pub(super) routing: StreamProtocol,
    pub(super) identify: String,
}

impl ProtocolNames {
    pub(super) fn new(config: &NetworkConfig) -> Self {
        let chain = config.chain.short();
        let name = |what: &str| format!("/floe/{chain}/{what}/1");
        let protocol = |what| {
            StreamProtocol::try_from_owned(name(what)).expect("the name begins with a slash")
        };
        Self { request: protocol("request"), routing: protocol("kad"), identify: name("id") }
    }
}

/// The swarm of a peer, listening nowhere yet. `committee` is without the peer itself.
pub(super) fn swarm(
    config: &NetworkConfig,
    key: Keypair,
    (committee, reservable): (&HashSet<PeerId>, watch::Receiver<HashSet<PeerId>>),
    metrics: &Metrics,
) -> Result<Swarm<Behaviour>, NetworkError> {
    let gossip = gossip::behaviour(config, &key)?;
    let streams = config.limits.streams_per_connection_max;
    let handshake_timeout = Duration::from_millis(config.limits.handshake_timeout_ms);
    let idle_timeout = Duration::from_millis(config.limits.idle_connection_timeout_ms);
    let yamux = move || {
        let mut yamux = yamux::Config::default();
        let streams = usize::try_from(streams).unwrap_or(usize::MAX);
        // Above this the sum of the windows would exceed what Yamux allows a connection.
        yamux.set_max_num_streams(streams.min((1 << 30) / YAMUX_WINDOW_BYTES));
        yamux
    };
    let swarm = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::new().nodelay(true), noise::Config::new, yamux)
        .map_err(|_| NetworkError::Transport("TCP"))?
        .with_quic_config(|mut quic: quic::Config| {
            quic.handshake_timeout = handshake_timeout;
            quic.max_concurrent_stream_limit = streams;
            quic
        })
        .with_dns()
        .map_err(NetworkError::Dns)?
        .with_relay_client(noise::Config::new, yamux)
        .map_err(|_| NetworkError::Transport("relays"))?
        .with_behaviour(|key, relays| {
            let local = key.public().to_peer_id();
            let nat = Nat::new(config, local, relays, (committee, reservable));
            behaviour(config, key, (committee, metrics), (gossip, nat))
        })
        .expect("a behaviour is one")
        .with_swarm_config(|swarm| {
            swarm
                .with_idle_connection_timeout(idle_timeout)
                .with_max_negotiating_inbound_streams(NEGOTIATING_STREAMS_MAX)
        })
        .with_connection_timeout(handshake_timeout)
        .build();
    Ok(swarm)
}

fn behaviour(
    config: &NetworkConfig,
    key: &Keypair,
    (committee, metrics): (&HashSet<PeerId>, &Metrics),
    (gossip, nat): (Gossip, Nat),
) -> Behaviour {
    let names = ProtocolNames::new(config);
    let identify = identify::Config::new(names.identify.clone(), key.public())
        .with_agent_version(concat!("floe/", env!("CARGO_PKG_VERSION")).to_owned())
        .with_push_listen_addr_updates(true)
        // Addresses are kept filtered, in the address book.
        .with_cache_size(0);
    let ping =
        ping::Config::new().with_interval(Duration::from_millis(config.limits.ping_interval_ms));
    let exchange = Exchange::new(config, names.request.clone(), committee.clone(), metrics.clone());
    Behaviour {
        limiter: Limiter::new(config, committee.clone()),
        exchange,
        gossip,
        kademlia: kademlia(config, key.public().to_peer_id(), names.routing),
        identify: Quiet::new(identify::Behaviour::new(identify)),
        nat,
        ping: ping::Behaviour::new(ping),
    }
}

/// A routing table and no records: who holds what follows from the committee.
fn kademlia(
    config: &NetworkConfig,
    local: PeerId,
    protocol: StreamProtocol,
) -> kad::Behaviour<MemoryStore> {
    let mut kad_config = kad::Config::new(protocol);
    kad_config
        .set_query_timeout(Duration::from_millis(config.limits.find_timeout_ms))
        .set_record_filtering(StoreInserts::FilterBoth)
        .set_kbucket_inserts(BucketInserts::Manual)
        .set_caching(Caching::Disabled)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_max_packet_size(ROUTING_MESSAGE_BYTES)
        .set_periodic_bootstrap_interval(Some(Duration::from_millis(
            config.limits.routing_refresh_ms,
        )))
        .disjoint_query_paths(true)
        .set_parallelism(NonZeroUsize::new(3).expect("three is not zero"));
    let no_records = MemoryStoreConfig {
        max_records: 0,
        max_value_bytes: 0,
        max_providers_per_key: 0,
        max_provided_keys: 0,
    };
    let store = MemoryStore::with_config(local, no_records);
    let mut kademlia = kad::Behaviour::with_config(local, store, kad_config);
    kademlia.set_mode(Some(match config.role {
        Role::StorageNode => Mode::Server,
        Role::LightPeer => Mode::Client,
    }));
    kademlia
}
