//! Direct connections through two routers at once, for committee members.
//!
//! Two peers that meet over a relay tell each other where they are seen and dial at the same time;
//! each router takes the other's call for an answer. So one peer has another dial where it says.
//! Members alone may, and only where a vetted address of theirs could be. Light peers do not listen
//! and could not be met in this way; connections with them over a relay stay as they are.

use std::collections::HashSet;

use libp2p::{
    Multiaddr, PeerId, dcutr,
    swarm::{
        ConnectionDenied, ConnectionId, DialFailure, FromSwarm, NetworkBehaviour,
        NewExternalAddrCandidate, THandler, THandlerInEvent, ToSwarm, derive_prelude::Either,
        dummy,
    },
};

use crate::network::{
    address::{Scope, is_relayed, vetted},
    guarded::{Established, Guard, Guarded, Made},
    limiter::Exceeded,
};

/// Addresses that are dialled at one attempt.
const ADDRESSES_MAX: usize = 8;

/// Hole punching with some peers only.
pub(in crate::network) type HolePunch = Guarded<dcutr::Behaviour, Partners>;

/// With whom.
#[derive(Debug)]
pub(in crate::network) struct Partners {
    with: HashSet<PeerId>,
    nearest: Scope,
    /// Dials under way.
    dials: HashSet<ConnectionId>,
}

impl HolePunch {
    /// Hole punching `with` these, towards addresses of the scope `nearest` at least.
    pub(super) fn new(local: PeerId, with: HashSet<PeerId>, nearest: Scope) -> Self {
        let guard = Partners { with, nearest, dials: HashSet::new() };
        Self { inner: dcutr::Behaviour::new(local), guard }
    }

    /// Names anew with whom.
    pub(in crate::network) fn set_partners(&mut self, with: HashSet<PeerId>) {
        self.guard.with = with;
    }

    /// Tells where this peer is seen. The latest few are kept.
    pub(in crate::network) fn seen_at(&mut self, address: &Multiaddr) {
        let candidate = NewExternalAddrCandidate { addr: address };
        self.inner.on_swarm_event(FromSwarm::NewExternalAddrCandidate(candidate));
    }
}

impl Guard<dcutr::Behaviour> for Partners {
    type Handler = THandler<dcutr::Behaviour>;

    fn handler(
        &mut self,
        connection: &Established<'_>,
        make: impl FnOnce() -> Made<dcutr::Behaviour>,
    ) -> Result<Self::Handler, ConnectionDenied> {
        let is_circuit = is_relayed(connection.local.unwrap_or(connection.remote));
        if is_circuit && !self.with.contains(&connection.peer) {
            return Ok(Either::Right(dummy::ConnectionHandler));
        }
        make()
    }

    fn check_dial(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
    ) -> Result<(), ConnectionDenied> {
        let is_its = |address: &Multiaddr| {
            let found = peer.and_then(|peer| vetted(&peer, address, self.nearest));
            found.is_some_and(|address| !is_relayed(&address))
        };
        if self.dials.contains(&id)
            && (addresses.len() > ADDRESSES_MAX || !addresses.iter().all(is_its))
        {
            return Err(ConnectionDenied::new(Exceeded::Hearsay));
        }
        Ok(())
    }

    fn on_swarm_event(&mut self, event: &FromSwarm<'_>) {
        match event {
            FromSwarm::DialFailure(DialFailure { connection_id, .. }) => {
                self.dials.remove(connection_id);
            }
            FromSwarm::ConnectionEstablished(established) => {
                self.dials.remove(&established.connection_id);
            }
            _ => {}
        }
    }

    fn passes(
        &mut self,
        action: &ToSwarm<dcutr::Event, THandlerInEvent<dcutr::Behaviour>>,
    ) -> bool {
        if let ToSwarm::Dial { opts } = action {
            self.dials.insert(opts.connection_id());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use floe_protocol::keys::KeyPair;
    use libp2p::core::Endpoint;

    use super::*;
    use crate::network::address::peer_id;

    #[test]
    fn members_are_dialled_where_they_could_be_and_others_dials_are_none_of_its_business() {
        let [local, member, other] =
            [1, 2, 3].map(|seed| peer_id(&KeyPair::from_seed([seed; 32]).public()).unwrap());
        let mut punch = HolePunch::new(local, HashSet::from([member]), Scope::Global);
        let (own, foreign) = (ConnectionId::new_unchecked(1), ConnectionId::new_unchecked(2));
        punch.guard.dials.insert(own);
        let mut dials = |id, addresses: &[String]| {
            let addresses: Vec<Multiaddr> =
                addresses.iter().map(|address| address.parse().unwrap()).collect();
            let role = Endpoint::Listener;
            punch.handle_pending_outbound_connection(id, Some(member), &addresses, role).is_ok()
        };
        let good = format!("/ip4/8.8.8.8/tcp/1/p2p/{member}");
        assert!(dials(own, std::slice::from_ref(&good)));
        let bad = [
            "/ip4/192.168.0.1/tcp/22".to_owned(),
            "/ip4/127.0.0.1/tcp/22".to_owned(),
            format!("/ip4/8.8.8.8/tcp/1/p2p/{other}"),
            format!("/ip4/8.8.8.8/tcp/1/p2p/{other}/p2p-circuit/p2p/{member}"),
            "/ip4/8.8.8.8/udp/53".to_owned(),
        ];
        for bad in bad {
            assert!(!dials(own, &[good.clone(), bad.clone()]), "{bad}");
            assert!(dials(foreign, &[bad]));
        }
        assert!(!dials(own, &vec![good; ADDRESSES_MAX + 1]));
    }
}
