//! A guard of behaviours that may not speak of this peer's addresses, and whose dials are known.
//!
//! Behaviours tell the swarm which addresses this peer might have, and which it has for certain.
//! From there the first reach others that keep every one of them, and the second are advertised,
//! although a stranger may be all that stands behind them. With this guard a behaviour tells only
//! its own events, and the event loop draws the conclusions.

use std::collections::HashSet;

use libp2p::swarm::{
    ConnectionDenied, ConnectionId, DialFailure, FromSwarm, NetworkBehaviour, THandler,
    THandlerInEvent, ToSwarm,
};

use crate::network::guarded::{Established, Guard, Guarded, Made};

/// A behaviour that keeps quiet about addresses.
pub(in crate::network) type Quiet<B> = Guarded<B, Silence>;

/// The guard.
#[derive(Debug, Default)]
pub(in crate::network) struct Silence {
    /// The behaviour's dials under way, and those that have just succeeded.
    dials: HashSet<ConnectionId>,
}

impl<B> Quiet<B> {
    pub(in crate::network) fn new(inner: B) -> Self {
        Self { inner, guard: Silence::default() }
    }

    /// Whether this behaviour opened the connection. It can be asked once.
    pub(in crate::network) fn take_dialled(&mut self, id: ConnectionId) -> bool {
        self.guard.dials.remove(&id)
    }
}

impl<B: NetworkBehaviour> Guard<B> for Silence {
    type Handler = THandler<B>;

    fn handler(
        &mut self,
        _: &Established<'_>,
        make: impl FnOnce() -> Made<B>,
    ) -> Result<Self::Handler, ConnectionDenied> {
        make()
    }

    fn on_swarm_event(&mut self, event: &FromSwarm<'_>) {
        if let FromSwarm::DialFailure(DialFailure { connection_id, .. }) = event {
            self.dials.remove(connection_id);
        }
    }

    fn passes(&mut self, action: &ToSwarm<B::ToSwarm, THandlerInEvent<B>>) -> bool {
        if let ToSwarm::Dial { opts } = action {
            self.dials.insert(opts.connection_id());
        }
        !matches!(
            action,
            ToSwarm::NewExternalAddrCandidate(_)
                | ToSwarm::ExternalAddrConfirmed(_)
                | ToSwarm::ExternalAddrExpired(_)
        )
    }
}
