//! Requests and announcements of others, from the stream to the service and back.

use floe_protocol::message::{MAX_ANNOUNCEMENT_BYTES, Refusal, Request, Response};
use futures::FutureExt;
use libp2p::{
    PeerId,
    gossipsub::{MessageAcceptance, MessageId, PublishError},
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
    behaviour::GossipEvent,
    codec::{Answer, Ask},
    error::AnnounceError,
    event::{Event, ReplyHandle, Verdict, VerdictHandle},
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

/// What a service thinks of an announcement.
#[derive(Debug)]
pub(super) struct JudgedAnnouncement {
    id: MessageId,
    from: PeerId,
    verdict: Verdict,
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
        let (reply, answer) = ReplyHandle::new(admission);
        let event = Event::Request { peer, request, reply };
        match self.channels.events.try_send(event) {
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

    pub(super) fn announce(&mut self, bytes: Vec<u8>) -> Result<(), AnnounceError> {
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        match gossip.publish(self.topic.hash(), bytes) {
            // A duplicate is what others have announced before: it is on its way.
            Ok(_) | Err(PublishError::Duplicate) => Ok(()),
            Err(PublishError::NoPeersSubscribedToTopic) => Err(AnnounceError::NoPeers),
            Err(PublishError::AllQueuesFull(_)) => Err(AnnounceError::Busy),
            Err(
                PublishError::MessageTooLarge
                | PublishError::SigningError(_)
                | PublishError::TransformFailed(_),
            ) => Err(AnnounceError::TooLarge),
        }
    }

    pub(super) fn on_gossip(&mut self, event: GossipEvent) {
        let GossipEvent::Message { propagation_source: from, message_id: id, message } = event
        else {
            return;
        };
        let verdict = if message.data.len() > MAX_ANNOUNCEMENT_BYTES {
            Verdict::Reject
        } else {
            match self.hand_over(id.clone(), from, message.data) {
                Some(()) => return,
                None => Verdict::Ignore,
            }
        };
        self.on_verdict(&JudgedAnnouncement { id, from, verdict });
    }

    /// Asks the service for its verdict, if it keeps up.
    fn hand_over(&mut self, id: MessageId, from: PeerId, bytes: Vec<u8>) -> Option<()> {
        if self.verdicts.len() >= self.config.limits.announcements_max {
            return None;
        }
        let (verdict, judged) = VerdictHandle::new();
        let event = Event::Announcement { from: node_id(&from)?, bytes, verdict };
        self.channels.events.try_send(event).ok()?;
        let judged = judged.map(move |verdict| JudgedAnnouncement {
            id,
            from,
            verdict: verdict.unwrap_or(Verdict::Ignore),
        });
        self.verdicts.push(judged.boxed());
        Some(())
    }

    pub(super) fn on_verdict(&mut self, judged: &JudgedAnnouncement) {
        let (acceptance, word) = match judged.verdict {
            Verdict::Accept => (MessageAcceptance::Accept, "accepted"),
            Verdict::Ignore => (MessageAcceptance::Ignore, "ignored"),
            Verdict::Reject => (MessageAcceptance::Reject, "rejected"),
        };
        self.metrics.announcement(word);
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        gossip.report_message_validation_result(&judged.id, &judged.from, acceptance);
        if let Some(score) = gossip.peer_score(&judged.from) {
            self.peers.scored(&judged.from, score);
        }
    }

    /// Notes how all connected peers stand in gossip.
    pub(super) fn refresh_scores(&mut self) {
        let gossip = &self.swarm.behaviour().gossip;
        let peers: Vec<_> = self.peers.connected().copied().collect();
        for peer in peers {
            if let Some(score) = gossip.peer_score(&peer) {
                self.peers.scored(&peer, score);
            }
        }
    }
}
