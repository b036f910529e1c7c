//! libp2p's request-response behaviour, with every inbound stream tied to its peer's account.
//!
//! The codec that reads a stream is not told whose it is. So a guard wraps libp2p's handler
//! of a connection and puts the peer's [`Account`] into the protocol
//! value that each inbound stream carries to the codec. Streams beyond what a stranger may have
//! open are dropped here, before they reach it. Everything else passes through.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
    task::{Context, Poll},
};

use libp2p::{
    PeerId, StreamProtocol,
    request_response::{self, OutboundRequestId, ProtocolSupport, ResponseChannel},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId,
        SubstreamProtocol, THandler,
        handler::{ConnectionEvent, FullyNegotiatedInbound},
    },
};

use super::{
    address::origin,
    admission::{Account, Accounts, Running},
    codec::{Answer, Ask, Codec},
    config::{NetworkConfig, Role},
    guarded::{Established, Guard, Guarded, Made},
    metrics::Metrics,
};

type Inner = request_response::Behaviour<Codec>;
type InnerHandler = THandler<Inner>;

/// What the behaviour reports.
pub(super) type ExchangeEvent = request_response::Event<Ask, Answer>;

/// Requests and responses.
pub(super) type Exchange = Guarded<Inner, Accounting>;

/// What ties streams to their peers' accounts.
pub(super) struct Accounting {
    accounts: Accounts,
    /// By connection. Its handler holds one copy, and each stream another.
    running: HashMap<ConnectionId, Weak<()>>,
}

impl Exchange {
    /// The exchange of a peer. Light peers take no requests.
    pub(super) fn new(
        config: &NetworkConfig,
        protocol: StreamProtocol,
        committee: HashSet<PeerId>,
        metrics: Metrics,
    ) -> Self {
        let support = match config.role {
            Role::StorageNode => ProtocolSupport::Full,
            Role::LightPeer => ProtocolSupport::Outbound,
        };
        // Twice what a connection can carry: a stream beyond would be dropped without an answer.
        let streams =
            2 * usize::try_from(config.limits.streams_per_connection_max).unwrap_or(usize::MAX / 2);
        let inner_config = request_response::Config::default()
            .with_request_timeout(config.exchange_timeout())
            .with_max_concurrent_streams(streams);
        let codec = Codec::new(config, metrics);
        let inner = Inner::with_codec(codec, [(protocol.into(), support)], inner_config);
        let accounts = Accounts::new(config, committee);
        Self { inner, guard: Accounting { accounts, running: HashMap::new() } }
    }

    /// Sends a request to a connected peer.
    pub(super) fn send(&mut self, peer: &PeerId, ask: Ask) -> OutboundRequestId {
        self.inner.send_request(peer, ask)
    }

    /// Sends a response, unless the stream has gone.
    pub(super) fn respond(&mut self, channel: ResponseChannel<Answer>, answer: Answer) -> bool {
        self.inner.send_response(channel, answer).is_ok()
    }

    /// Whether requests of the other side are read or answered on a connection.
    pub(super) fn answers_on(&self, id: ConnectionId) -> bool {
        self.guard.running.get(&id).is_some_and(|running| running.strong_count() > 1)
    }

    /// Names the committee's members anew.
    pub(super) fn set_committee(&mut self, committee: HashSet<PeerId>) {
        self.guard.accounts.set_committee(committee);
    }

    /// The peers that broke the rules so often that they are to be cut off.
    pub(super) fn take_offenders(&mut self, violations_max: u32) -> Vec<PeerId> {
        self.guard.accounts.take_offenders(violations_max)
    }
}

impl Guard<Inner> for Accounting {
    type Handler = Accounted;

    fn handler(
        &mut self,
        connection: &Established<'_>,
        make: impl FnOnce() -> Made<Inner>,
    ) -> Result<Accounted, ConnectionDenied> {
        let Established { id, peer, local, remote } = *connection;
        let inner = make()?;
        let running = Running::default();
        self.running.retain(|_, running| running.strong_count() > 0);
        self.running.insert(id, Arc::downgrade(&running));
        Ok(Accounted { inner, account: self.accounts.open(peer, origin(local, remote)), running })
    }
}

/// A connection's handler that knows the account of its peer.
pub(super) struct Accounted {
    inner: InnerHandler,
    account: Arc<Account>,
    running: Running,
}

impl ConnectionHandler for Accounted {
    type FromBehaviour = <InnerHandler as ConnectionHandler>::FromBehaviour;
    type ToBehaviour = <InnerHandler as ConnectionHandler>::ToBehaviour;
    type InboundProtocol = <InnerHandler as ConnectionHandler>::InboundProtocol;
    type OutboundProtocol = <InnerHandler as ConnectionHandler>::OutboundProtocol;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        self.inner.listen_protocol()
    }

    fn connection_keep_alive(&self) -> bool {
        self.inner.connection_keep_alive()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Self::ToBehaviour>> {
        self.inner.poll(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner.poll_close(cx)
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        self.inner.on_behaviour_event(event);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        let event = match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, mut name),
                info,
            }) => {
                // Dropped, it is reset, and what its window holds is freed.
                let Some(open) = self.account.stream(&self.running) else { return };
                name.open = Some(Arc::new(open));
                name.account = Some(Arc::clone(&self.account));
                ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                    protocol: (stream, name),
                    info,
                })
            }
            other => other,
        };
        self.inner.on_connection_event(event);
    }
}
