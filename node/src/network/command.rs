//! What handles ask of the event loop.

use floe_protocol::message::{Request, Response};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::error::{AnnounceError, FindError, RequestError};

/// One request that waits to be sent or for its response.
#[derive(Debug)]
pub(super) struct OutboundRequest {
    pub(super) request: Request,
    pub(super) reply: oneshot::Sender<Result<Response, RequestError>>,
    /// Its place among the requests under way.
    pub(super) permit: OwnedSemaphorePermit,
}

/// A command, with the way back for its result.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all commands are requests")]
pub(super) enum Command {
    /// Send a request.
    Request(PeerId, OutboundRequest),
    /// Publish an announcement.
    Announce(Vec<u8>, oneshot::Sender<Result<(), AnnounceError>>),
    /// Remember addresses.
    AddAddresses(PeerId, Vec<Multiaddr>),
    /// Look for a peer's addresses.
    Find(PeerId, oneshot::Sender<Result<Vec<Multiaddr>, FindError>>),
    /// Close everything and end.
    Shutdown,
}
