//! Own requests, from the handle to the stream and back.
//!
//! A request waits in its peer's queue until the peer is connected and has few enough of this
//! peer's requests and bytes under way. A request that its caller has dropped leaves the queue
//! within a second. That keeps the streams of a connection below its limit,
//! beyond which the connection would be cut, and the bytes below what the peer makes room for.

use std::{
    collections::{HashMap, VecDeque},
    io,
};

use floe_protocol::message::{Refusal, Request, Response};
use libp2p::{
    PeerId,
    request_response::{OutboundFailure, OutboundRequestId},
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::EventLoop;
use crate::network::{
    codec::{Ask, StreamError},
    command::OutboundRequest,
    config::NetworkConfig,
    error::RequestError,
};

/// So many more requests to a peer may be under way if they are urgent.
const URGENT_REQUESTS_MAX: usize = 8;

/// A request that has been sent.
#[derive(Debug)]
struct Sent {
    peer: PeerId,
    kind: &'static str,
    payload_bytes: usize,
    reply: oneshot::Sender<Result<Response, RequestError>>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// What is under way to one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    requests: usize,
    payload_bytes: usize,
}

/// Own requests under way.
#[derive(Debug, Default)]
pub(super) struct Requests {
    waiting: HashMap<PeerId, VecDeque<OutboundRequest>>,
    sent: HashMap<OutboundRequestId, Sent>,
    sent_to: HashMap<PeerId, Load>,
}

impl Load {
    /// Whether one more request may be sent. One always may; and urgent ones have some places more,
    /// for others may wait at the peer for as long as a challenge takes.
    fn takes(&self, request: &Request, config: &NetworkConfig) -> bool {
        let bytes = self.payload_bytes + request.payload_bytes();
        let more = if request.is_urgent() { URGENT_REQUESTS_MAX } else { 0 };
        let fits = self.requests < config.limits.outbound_requests_per_peer_max + more
            && bytes <= config.limits.outbound_bytes_per_peer_max;
        fits || self.requests == 0
    }
}

impl EventLoop {
    /// Takes a request from a handle.
    pub(super) fn request(&mut self, peer: PeerId, request: OutboundRequest) {
        self.forget_abandoned(&peer);
        let waiting = self.requests.waiting.entry(peer).or_default();
        if request.request.is_urgent() {
            let place = waiting.iter().take_while(|first| first.request.is_urgent()).count();
            waiting.insert(place, request);
        } else {
            waiting.push_back(request);
        }
        self.pump(peer);
    }

    /// Drops requests for which nobody waits any more, with their payloads and their places.
    fn forget_abandoned(&mut self, peer: &PeerId) {
        if let Some(waiting) = self.requests.waiting.get_mut(peer) {
            waiting.retain(|request| !request.reply.is_closed());
            if waiting.is_empty() {
                self.requests.waiting.remove(peer);
            }
        }
    }

    /// The same for all peers.
    pub(super) fn forget_all_abandoned(&mut self) {
        let peers: Vec<_> = self.requests.waiting.keys().copied().collect();
        for peer in peers {
            self.forget_abandoned(&peer);
        }
    }

    /// Sends what waits for a peer, as far as it may be sent, or gets the peer connected.
    pub(super) fn pump(&mut self, peer: PeerId) {
        if !self.requests.waiting.contains_key(&peer) {
            return;
        }
        if !self.swarm.is_connected(&peer) {
            self.connect(peer);
            return;
        }
        if self.drains_circuits(&peer) {
            return;
        }
        let requests = &mut self.requests;
        let load = requests.sent_to.entry(peer).or_default();
        let queue = requests.waiting.entry(peer).or_default();
        while let Some(next) = queue.front()
            && load.takes(&next.request, &self.config)
            && let Some(next) = queue.pop_front()
        {
            // Nobody waits for it any more.
            if next.reply.is_closed() {
                continue;
            }
            let sent = Sent {
                peer,
                kind: next.request.name(),
                payload_bytes: next.request.payload_bytes(),
                reply: next.reply,
                _permit: next.permit,
            };
            load.requests += 1;
            load.payload_bytes += sent.payload_bytes;
            let exchange = &mut self.swarm.behaviour_mut().exchange;
            let id = exchange.send(&peer, Ask::Outbound(next.request));
            requests.sent.insert(id, sent);
        }
        if queue.is_empty() {
            requests.waiting.remove(&peer);
        }
        if *load == Load::default() {
            requests.sent_to.remove(&peer);
        }
    }

    /// Whether anything is under way to a peer.
    pub(super) fn is_under_way(&self, peer: &PeerId) -> bool {
        self.requests.sent_to.contains_key(peer)
    }

    /// A request has its response, or failed.
    pub(super) fn on_answer(
        &mut self,
        id: OutboundRequestId,
        result: Result<Response, RequestError>,
    ) {
        let Some(sent) = self.requests.sent.remove(&id) else {
            return;
        };
        self.metrics.request_out(sent.kind, outcome(&result));
        // The caller may have lost its patience.
        drop(sent.reply.send(result));
        if let Some(load) = self.requests.sent_to.get_mut(&sent.peer) {
            load.requests -= 1;
            load.payload_bytes -= sent.payload_bytes;
            if *load == Load::default() {
                self.requests.sent_to.remove(&sent.peer);
            }
        }
        self.pump(sent.peer);
    }

    /// Fails all requests that wait for a peer.
    pub(super) fn fail_waiting(&mut self, peer: &PeerId, error: RequestError) {
        for waiting in self.requests.waiting.remove(peer).into_iter().flatten() {
            let kind = waiting.request.name();
            self.metrics.request_out(kind, outcome(&Err(error)));
            drop(waiting.reply.send(Err(error)));
        }
    }
}

/// A word for metrics.
const fn outcome(result: &Result<Response, RequestError>) -> &'static str {
    match result {
        Ok(response) => answer_outcome(response),
        Err(RequestError::Unreachable) => "unreachable",
        Err(RequestError::Timeout) => "timeout",
        Err(RequestError::Closed) => "closed",
        Err(RequestError::Malformed) => "malformed",
        Err(RequestError::Unsupported) => "unsupported",
        Err(RequestError::TooLarge) => "too_large",
        Err(RequestError::Stopped) => "stopped",
    }
}

/// A word for metrics: which refusal, or that it is none.
pub(super) const fn answer_outcome(response: &Response) -> &'static str {
    match response {
        Response::Refused(refusal) => match refusal {
            Refusal::Busy { .. } => "refused_busy",
            Refusal::NotRegistered => "refused_not_registered",
            Refusal::TableMissing => "refused_table_missing",
            Refusal::WrongShard => "refused_wrong_shard",
            Refusal::TooLarge => "refused_too_large",
            Refusal::StorageFull => "refused_storage_full",
            Refusal::Invalid(_) => "refused_invalid",
            Refusal::NotFound => "refused_not_found",
            Refusal::Unavailable => "refused_unavailable",
        },
        _ => "answered",
    }
}

/// What a failed exchange means to the caller.
pub(super) fn request_error(failure: &OutboundFailure) -> RequestError {
    match failure {
        OutboundFailure::DialFailure => RequestError::Unreachable,
        OutboundFailure::Timeout => RequestError::Timeout,
        OutboundFailure::ConnectionClosed => RequestError::Closed,
        OutboundFailure::UnsupportedProtocols => RequestError::Unsupported,
        OutboundFailure::Io(error) => stream_error(error),
    }
}

fn stream_error(error: &io::Error) -> RequestError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(StreamError::HeadTooLong(_) | StreamError::Message(_) | StreamError::Trailing) => {
            RequestError::Malformed
        }
        Some(StreamError::Timeout) => RequestError::Timeout,
        Some(StreamError::Own(_)) => RequestError::TooLarge,
        Some(StreamError::Unheard | StreamError::Truncated | StreamError::Io(_)) | None => {
            RequestError::Closed
        }
    }
}
