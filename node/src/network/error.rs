//! What may fail, one enum per operation.

use std::io;

use libp2p::Multiaddr;

/// Why the network did not start.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The node key is not one that libp2p takes.
    #[error("node key is not usable as a libp2p identity")]
    Key,
    /// The system's resolver configuration cannot be read.
    #[error("cannot read the resolver configuration")]
    Dns(#[source] io::Error),
    /// A transport could not be set up.
    #[error("cannot set up the {0} transport")]
    Transport(&'static str),
    /// The gossip parameters contradict each other.
    #[error("gossip configuration is not valid: {0}")]
    Gossip(String),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// Why: `AddrInUse` if another process has the port.
        #[source]
        source: io::Error,
    },
    /// An address is of no transport that the network speaks.
    #[error("{0} is neither a TCP nor a QUIC address")]
    UnsupportedAddress(Multiaddr),
}

/// Why a request has no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No address of the node is known, or none answers.
    #[error("node cannot be reached")]
    Unreachable,
    /// The node took too long.
    #[error("node did not answer in time")]
    Timeout,
    /// The node closed the stream or the connection. Whether it acted on the request is not known.
    #[error("node closed the connection")]
    Closed,
    /// The node's response is not one of this network.
    #[error("response is malformed")]
    Malformed,
    /// The node answers no requests of this network.
    #[error("node does not answer requests of this network")]
    Unsupported,
    /// The request exceeds what its kind may carry, so it was not sent.
    #[error("request exceeds the limits of a message")]
    TooLarge,
    /// The network has been shut down.
    #[error("network has stopped")]
    Stopped,
}

/// Why a message was not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceError {
    /// More bytes than a message of the topic may have.
    #[error("message is too large for its topic")]
    TooLarge,
    /// Nobody who listens is connected.
    #[error("no peer to publish to")]
    NoPeers,
    /// The queues of all peers are full, or the network's own.
    #[error("too many messages at once")]
    Busy,
    /// The network has been shut down.
    #[error("network has stopped")]
    Stopped,
}

/// Why no addresses were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// No peer that could be asked knows the node.
    #[error("nobody knows the node")]
    NotFound,
    /// The network has been shut down.
    #[error("network has stopped")]
    Stopped,
}
