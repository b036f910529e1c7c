//! Relays while something else goes on: lies about reach, direct connections, slow doors.

use std::pin::pin;

use libp2p::{
    StreamProtocol, Swarm, SwarmBuilder, identify,
    multiaddr::Protocol,
    noise,
    request_response::{self, Event as RequestEvent, Message, ProtocolSupport},
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};

use futures::StreamExt;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::{
    nat::{freeloader, light, local, named, private, public},
    raw::{Raw, RawCodec, protocol},
    *,
};
use crate::network::address::is_relayed;

/// A member that says of everybody that it has reached it, and never tries to.
#[derive(NetworkBehaviour)]
struct Flatterer {
    streams: request_response::Behaviour<RawCodec>,
    identify: identify::Behaviour,
}

/// The answer to a probe: this address was reached.
fn reached(address: &Multiaddr) -> Vec<u8> {
    let field = |tag: u8, bytes: &[u8]| {
        let len = u8::try_from(bytes.len()).unwrap();
        [&[tag, len], bytes].concat()
    };
    let response = [vec![0x08, 0], field(0x1a, &address.to_vec())].concat();
    let message = [vec![0x08, 1], field(0x1a, &response)].concat();
    [vec![u8::try_from(message.len()).unwrap()], message].concat()
}

/// Runs a flatterer, and says where.
async fn flatterer(seed: u8, flattered: Multiaddr) -> Multiaddr {
    let key = Keypair::ed25519_from_bytes([seed; 32]).unwrap();
    let peer = key.public().to_peer_id();
    let identify = identify::Config::new(format!("/floe/{}/id/1", chain().short()), key.public());
    let routing = format!("/floe/{}/kad/1", chain().short());
    let names = [protocol(), routing, "/libp2p/autonat/1.0.0".to_owned()];
    let names = names.map(|name| StreamProtocol::try_from_owned(name).unwrap());
    let names = names.map(|name| (name, ProtocolSupport::Inbound));
    let streams = request_response::Behaviour::new(names, request_response::Config::default());
    let mut swarm: Swarm<Flatterer> = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| Flatterer { streams, identify: identify::Behaviour::new(identify) })
        .unwrap()
        .with_swarm_config(|swarm| swarm.with_idle_connection_timeout(DEADLINE))
        .build();
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    tokio::spawn(async move {
        loop {
            let event = swarm.select_next_some().await;
            if let SwarmEvent::Behaviour(FlattererEvent::Streams(RequestEvent::Message {
                message: Message::Request { channel, .. },
                ..
            })) = event
            {
                let lie = Raw::Bytes(reached(&flattered));
                // The asker may have gone.
                drop(swarm.behaviour_mut().streams.send_response(channel, lie));
            }
        }
    });
    address.with(Protocol::P2p(peer))
}

#[tokio::test]
async fn members_that_flatter_a_node_do_not_talk_it_out_of_its_relay() {
    let relay = Peer::start(public(1)).await;
    // It listens, but nothing gets in.
    let mut config = public(2);
    // So rarely that both have met it before it has asked one often enough.
    config.limits.probe_interval_ms = 200;
    let own = config.external.remove(0);
    config.limits.loopback_exempt = false;
    config.limits.process_memory_bytes_max = 0;
    config.bootstrap =
        vec![named(&relay), flatterer(3, own.clone()).await, flatterer(4, own).await];
    let hidden = Peer::start(config).await;
    hidden.is_relayed_by(&[&relay]).await;
}

#[tokio::test]
async fn a_circuit_lasts_beside_a_direct_connection_while_the_other_side_uses_it() {
    let relay = Peer::start(public(1)).await;
    let mut config = private(2, &[&relay]);
    config.limits.redial_min_ms = 60_000;
    let mut hidden = Peer::start(config).await;
    hidden.is_relayed_by(&[&relay]).await;
    let mut config = local(3);
    config.limits.redial_min_ms = 60_000;
    config.nat.reach = Reach::Private;
    let mut other = Peer::start(config).await;
    other.network.add_addresses(node(1), vec![relay.address()]).await;
    other.meets(node(1)).await;
    let circuit = named(&relay).with(Protocol::P2pCircuit);
    other.network.add_addresses(node(2), vec![circuit]).await;
    other.exchanges_with(&mut hidden).await;

    let mut asked = pin!(hidden.network.request(node(3), Request::NodeStatus));
    let (from, _, reply) = tokio::select! {
        asked = other.asked() => asked,
        early = &mut asked => panic!("{early:?}"),
    };
    assert_eq!(from, node(2));
    // Another process with its key connects directly: to the other it is the same peer.
    let mut twin = freeloader(2);
    twin.dial(named(&other)).unwrap();
    tokio::spawn(async move {
        loop {
            twin.select_next_some().await;
        }
    });
    let view = |view: &PeersView| view.connected.get(&node(2)).map(|peer| peer.address.clone());
    other.sees(|peers| view(peers).is_some_and(|address| !is_relayed(&address))).await;
    // For some looks at what can be closed.
    let cut = timeout(Duration::from_millis(2_500), &mut asked).await;
    assert!(cut.is_err(), "the circuit was closed under a request: {cut:?}");
    reply.reply(stored());
    assert_eq!(timeout(DEADLINE, asked).await.unwrap(), Ok(stored()));
    // Then it ends.
    hidden.sees(|peers| !peers.connected.contains_key(&node(3))).await;
}

fn port(address: &Multiaddr) -> u16 {
    match address.iter().nth(1) {
        Some(Protocol::Tcp(port)) => port,
        other => panic!("{other:?}"),
    }
}

fn on_loopback(port: u16) -> Multiaddr {
    format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
}

/// Where nobody gets to an address before the door is open.
async fn door(to: Multiaddr, open: watch::Receiver<bool>) -> Multiaddr {
    let to = ("127.0.0.1", port(&to));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut outside, _)) = listener.accept().await {
            let mut open = open.clone();
            tokio::spawn(async move {
                open.wait_for(|open| *open).await.unwrap();
                let mut inside = TcpStream::connect(to).await.unwrap();
                // Either side may end it.
                drop(tokio::io::copy_bidirectional(&mut outside, &mut inside).await);
            });
        }
    });
    on_loopback(own)
}

/// Has a peer dial where nobody is. With each dial that fails it looks at what waits for a relay; one
/// has failed when this returns.
async fn dials_in_vain(peer: &Peer) {
    let mut dead_ends = Vec::new();
    for _ in 0..2 {
        dead_ends.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let (nobody, network) = (node(7), peer.network.clone());
    tokio::spawn(async move { network.request(nobody, Request::NodeStatus).await });
    // That it goes on to the second one shows that it has seen the first one fail.
    for dead_end in dead_ends {
        let address = on_loopback(dead_end.local_addr().unwrap().port());
        peer.network.add_addresses(nobody, vec![address]).await;
        drop(timeout(DEADLINE, dead_end.accept()).await.expect("it dials").unwrap());
    }
}

#[tokio::test]
async fn waiting_for_a_relay_uses_up_no_dials_of_what_is_published() {
    // The relay knows nothing of the hidden node that could be looked up.
    let mut config = public(1);
    config.committee = vec![node(1)];
    let relay = Peer::start(config).await;
    let mut hidden = Peer::start(private(2, &[&relay])).await;
    hidden.is_relayed_by(&[&relay]).await;

    let open = watch::Sender::new(false);
    let door = door(relay.address(), open.subscribe()).await;
    let mut config = light(9, &[]);
    // So that what is published of this machine counts.
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.limits.loopback_exempt = false;
    config.limits.published_dials_per_ip_max = 1;
    config.bootstrap = vec![address_of(&node(1), door).unwrap()];
    let client = Peer::start(config).await;
    let circuit = named(&relay).with(Protocol::P2pCircuit);
    client.network.set_published(node(2), vec![circuit]).await;
    let looks = async {
        dials_in_vain(&client).await;
        open.send_replace(true);
    };
    tokio::join!(client.exchanges_with(&mut hidden), looks);
}
