//! A bare libp2p peer that speaks the request protocol in its own way.

use std::io;

use floe_protocol::{
    codec,
    message::{Frame, MAX_HEAD_BYTES, RequestHead},
};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::{
    PeerId, StreamProtocol, Swarm, SwarmBuilder, noise,
    request_response::{
        self, Event as RequestEvent, Message, OutboundFailure, OutboundRequestId, ProtocolSupport,
    },
    swarm::SwarmEvent,
    tcp, yamux,
};

use super::*;

/// What a hostile peer writes to a stream.
#[derive(Clone, Debug)]
pub(super) enum Raw {
    /// These bytes, then the end.
    Bytes(Vec<u8>),
    /// These bytes, and never the end.
    Hang(Vec<u8>),
}

impl Raw {
    async fn write<T: AsyncWrite + Unpin>(self, io: &mut T) -> io::Result<()> {
        match self {
            Self::Bytes(bytes) => io.write_all(&bytes).await,
            Self::Hang(bytes) => {
                io.write_all(&bytes).await?;
                io.flush().await?;
                std::future::pending().await
            }
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RawCodec;

impl request_response::Codec for RawCodec {
    type Protocol = StreamProtocol;
    type Request = Raw;
    type Response = Raw;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Raw>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut bytes = Vec::new();
        io.read_to_end(&mut bytes).await?;
        Ok(Raw::Bytes(bytes))
    }

    async fn read_response<T>(&mut self, name: &StreamProtocol, io: &mut T) -> io::Result<Raw>
    where
        T: AsyncRead + Unpin + Send,
    {
        self.read_request(name, io).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, raw: Raw) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        raw.write(io).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        raw: Raw,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        raw.write(io).await
    }
}

/// A bare swarm that speaks the request protocol in its own way.
pub(super) struct Hostile {
    pub(super) swarm: Swarm<request_response::Behaviour<RawCodec>>,
}

impl Hostile {
    pub(super) fn new(seed: u8, protocol: &str) -> Self {
        let key = Keypair::ed25519_from_bytes([seed; 32]).unwrap();
        let protocol = StreamProtocol::try_from_owned(protocol.to_owned()).unwrap();
        let protocols = [(protocol, ProtocolSupport::Full)];
        let swarm = SwarmBuilder::with_existing_identity(key)
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|_| {
                request_response::Behaviour::new(protocols, request_response::Config::default())
            })
            .unwrap()
            .with_swarm_config(|swarm| swarm.with_idle_connection_timeout(DEADLINE))
            .build();
        Self { swarm }
    }

    pub(super) fn against(seed: u8, victim: &Peer) -> Self {
        let mut hostile = Self::new(seed, &protocol());
        let address = victim.address();
        let peer = id(victim);
        hostile.swarm.add_peer_address(peer, address);
        hostile
    }

    pub(super) fn send(&mut self, victim: &Peer, raw: Raw) -> OutboundRequestId {
        self.swarm.behaviour_mut().send_request(&id(victim), raw)
    }

    /// Drives the swarm until the request has ended.
    pub(super) async fn outcome(
        &mut self,
        sent: OutboundRequestId,
    ) -> Result<Vec<u8>, OutboundFailure> {
        let driven = async {
            loop {
                match self.swarm.select_next_some().await {
                    SwarmEvent::Behaviour(RequestEvent::Message {
                        message: Message::Response { request_id, response: Raw::Bytes(bytes) },
                        ..
                    }) if request_id == sent => return Ok(bytes),
                    SwarmEvent::Behaviour(RequestEvent::OutboundFailure {
                        request_id,
                        error,
                        ..
                    }) if request_id == sent => return Err(error),
                    _ => {}
                }
            }
        };
        timeout(DEADLINE, driven).await.unwrap()
    }

    /// Asks a good request and expects a good answer.
    pub(super) async fn is_served_by(&mut self, victim: &mut Peer) {
        let sent = self.send(victim, Raw::Bytes(good()));
        let answers = async {
            let (_, request, reply) = victim.asked().await;
            assert_eq!(request, Request::NodeStatus);
            reply.reply(stored());
        };
        let (outcome, ()) = tokio::join!(self.outcome(sent), answers);
        assert_eq!(outcome.unwrap(), bytes_of(&stored().into_frame().unwrap()));
    }
}

pub(super) fn protocol() -> String {
    format!("/floe/{}/request/1", chain().short())
}

pub(super) fn id(peer: &Peer) -> PeerId {
    peer_id(&peer.network.local_node()).unwrap()
}

/// A message with a stated length of its head.
pub(super) fn framed(stated: u32, head: &[u8], payload: &[u8]) -> Vec<u8> {
    [stated.to_le_bytes().as_slice(), head, payload].concat()
}

pub(super) fn with_head(head: &RequestHead, payload: &[u8]) -> Vec<u8> {
    let head = codec::encode(head, MAX_HEAD_BYTES).unwrap();
    framed(u32::try_from(head.len()).unwrap(), &head, payload)
}

pub(super) fn bytes_of(frame: &Frame) -> Vec<u8> {
    let stated = u32::try_from(frame.head.len()).unwrap();
    framed(stated, &frame.head, &frame.payload.concat())
}

pub(super) fn good() -> Vec<u8> {
    with_head(&RequestHead::NodeStatus, &[])
}
