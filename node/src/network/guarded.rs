//! A behaviour of libp2p's with a guard around it, which sees what goes in and comes out.
//!
//! Some behaviours are of use but do too much, or tell too little. A [`Guard`] changes a few things
//! about one: which handler a connection gets, which of its own dials go out, what reaches the
//! swarm. All else passes through, here, once for all of them.

use std::task::{Context, Poll};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionId, FromSwarm, NetworkBehaviour, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm,
    },
};

/// A connection that has been established.
#[derive(Clone, Copy, Debug)]
pub(super) struct Established<'a> {
    pub(super) id: ConnectionId,
    pub(super) peer: PeerId,
    /// Of inbound connections.
    pub(super) local: Option<&'a Multiaddr>,
    pub(super) remote: &'a Multiaddr,
}

/// What the guarded behaviour does with a connection: its handler, or a refusal.
pub(super) type Made<B> = Result<THandler<B>, ConnectionDenied>;

/// What is different about a guarded behaviour.
pub(super) trait Guard<B: NetworkBehaviour>: 'static {
    /// The handler of a connection.
    type Handler: ConnectionHandler<FromBehaviour = THandlerInEvent<B>, ToBehaviour = THandlerOutEvent<B>>;

    /// Gives a connection its handler. The behaviour itself hears of the connection if `make` is
    /// called.
    fn handler(
        &mut self,
        connection: &Established<'_>,
        make: impl FnOnce() -> Made<B>,
    ) -> Result<Self::Handler, ConnectionDenied>;

    /// Whether a dial, of anybody's, may go out.
    fn check_dial(
        &mut self,
        _id: ConnectionId,
        _peer: Option<PeerId>,
        _addresses: &[Multiaddr],
    ) -> Result<(), ConnectionDenied> {
        Ok(())
    }

    /// Hears what the behaviour is about to hear.
    fn on_swarm_event(&mut self, _event: &FromSwarm<'_>) {}

    /// Whether the swarm hears what the behaviour says.
    fn passes(&mut self, _action: &ToSwarm<B::ToSwarm, THandlerInEvent<B>>) -> bool {
        true
    }
}

/// A guarded behaviour.
pub(super) struct Guarded<B, G> {
    pub(super) inner: B,
    pub(super) guard: G,
}

impl<B: NetworkBehaviour, G: Guard<B>> NetworkBehaviour for Guarded<B, G> {
    type ConnectionHandler = G::Handler;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let Self { inner, guard } = self;
        guard.handler(&Established { id, peer, local: Some(local), remote }, || {
            inner.handle_established_inbound_connection(id, peer, local, remote)
        })
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.guard.check_dial(id, peer, addresses)?;
        self.inner.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let Self { inner, guard } = self;
        guard.handler(&Established { id, peer, local: None, remote }, || {
            inner.handle_established_outbound_connection(id, peer, remote, role, port_use)
        })
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.guard.on_swarm_event(&event);
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            match self.inner.poll(cx) {
                Poll::Ready(action) if !self.guard.passes(&action) => {}
                polled => return polled,
            }
        }
    }
}
