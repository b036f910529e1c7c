//! Requests of others, from the stream to the service and back.

use floe_protocol::message::{Refusal, Request, Response};
use futures::FutureExt;
use libp2p::{
    PeerId,
    request_response::{Event as RequestEvent, InboundRequestId, Message, ResponseChannel},
};
use tokio::{sync::mpsc::error::TrySendError, time::Instant};

use super::{
    EventLoop,
    outbound::{answer_outcome, request_error},
};
use crate::network::{
    address::node_id,
    admission::{Admission, Crowded},
    codec::{Answer, Ask},
    event::{InboundRequest, ReplyHandle},
    exchange::ExchangeEvent,
};

/// What a service did with a request.
#[derive(Debug)]
pub(super) struct Reply {
    id: InboundRequestId,
    channel: ResponseChannel<Answer>,
    kind: &'static str,
    /// None if the handle was dropped.
    answer: Option<Answer>,
}

impl EventLoop {
    pub(super) fn on_exchange(&mut self, event: ExchangeEvent) {
        match event {
            RequestEvent::Message {
                peer,
                message: Message::Request { request_id, request, channel },
                ..
            } => match request {
                Ask::Inbound(request, admission) => {
                    self.on_request(peer, request, admission, (request_id, channel));
                }
                Ask::Crowded(crowded) => self.refuse(crowded, channel),
                Ask::Outbound(_) => {}
            },
            RequestEvent::Message {
                message: Message::Response { request_id, response }, ..
            } => self.on_answer(request_id, Ok(response.response)),
            RequestEvent::OutboundFailure { peer, request_id, error, .. } => {
                tracing::debug!(%peer, %error, "request failed");
                self.on_answer(request_id, Err(request_error(&error)));
            }
            RequestEvent::InboundFailure { peer, request_id, error, .. } => {
                self.unsent.remove(&request_id);
                tracing::debug!(%peer, %error, "response not sent");
            }
            RequestEvent::ResponseSent { request_id, .. } => {
                self.unsent.remove(&request_id);
                self.last_sent = Some(Instant::now());
            }
        }
    }

    /// Hands a request to the service, if that keeps up.
    fn on_request(
        &mut self,
        peer: PeerId,
        request: Request,
        admission: Admission,
        (id, channel): (InboundRequestId, ResponseChannel<Answer>),
    ) {
        let Some(peer) = node_id(&peer) else { return };
        if self.closing {
            self.refuse(Crowded::Service, channel);
            return;
        }
        let kind = request.name();
        let queue = &self.channels.requests;
        // However many strangers ask, members find a place, and whatever members ask, challenges do.
        let kept = match (admission.is_member(), request.is_urgent()) {
            (false, _) => queue.max_capacity() / 4,
            (true, false) => queue.max_capacity() / 8,
            (true, true) => 0,
        };
        if queue.capacity() <= kept {
            self.metrics.request_in(kind, "crowded");
            self.refuse(Crowded::Service, channel);
            return;
        }
        let (reply, answer) = ReplyHandle::new(admission);
        match self.channels.requests.try_send(InboundRequest { peer, request, reply }) {
            Ok(()) => {
                let reply =
                    answer.map(move |answer| Reply { id, channel, kind, answer: answer.ok() });
                self.replies.push(reply.boxed());
            }
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => {
                self.metrics.request_in(kind, "crowded");
                self.refuse(Crowded::Service, channel);
            }
        }
    }

    fn refuse(&mut self, crowded: Crowded, channel: ResponseChannel<Answer>) {
        self.metrics.refused(crowded.word());
        let retry_after_ms = self.config.limits.busy_retry_after_ms;
        let answer = Answer {
            response: Response::Refused(Refusal::Busy { retry_after_ms }),
            admission: None,
        };
        self.swarm.behaviour_mut().exchange.respond(channel, answer);
    }

    pub(super) fn on_reply(&mut self, reply: Reply) {
        let outcome = match reply.answer {
            // Dropping the channel closes the stream.
            None => "dropped",
            Some(answer) => {
                let outcome = answer_outcome(&answer.response);
                let exchange = &mut self.swarm.behaviour_mut().exchange;
                if exchange.respond(reply.channel, answer) {
                    self.unsent.insert(reply.id);
                    outcome
                } else {
                    "gone"
                }
            }
        };
        self.metrics.request_in(reply.kind, outcome);
    }
}
