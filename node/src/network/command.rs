//! What handles ask of the event loop.

use floe_protocol::message::{Request, Response};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    error::{AnnounceError, FindError, RequestError},
    gossip::Topic,
};

/// One request that waits to be sent or for its response.
#[derive(Debug)]
pub(super) struct OutboundRequest {
    pub(super) request: Request,
    pub(super) reply: oneshot::Sender<Result<Response, RequestError>>,
    /// Its place among the requests under way. Urgent ones need none.
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

/// A message to publish. It has a channel of its own, so that requests never hold it up.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) topic: Topic,
    pub(super) bytes: Vec<u8>,
    /// Takes the result, if anybody waits for it.
    pub(super) result: Option<oneshot::Sender<Result<(), AnnounceError>>>,
}

/// A command, with the way back for its result.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all commands are requests")]
pub(super) enum Command {
    /// Send a request.
    Request(PeerId, OutboundRequest),
    /// Remember addresses.
    AddAddresses(PeerId, Vec<Multiaddr>),
    /// Other peers are of the committee from now on.
    SetCommittee {
        /// Without this peer itself.
        others: Vec<PeerId>,
        /// Whether this peer is of the committee.
        is_member: bool,
    },
    /// Remember addresses that a peer has published.
    SetPublished(PeerId, Vec<Multiaddr>),
    /// Look for a peer's addresses.
    Find(PeerId, oneshot::Sender<Result<Vec<Multiaddr>, FindError>>),
    /// Close everything and end.
    Shutdown,
}
