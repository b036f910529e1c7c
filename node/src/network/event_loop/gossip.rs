//! Gossip, from the router to the services and back, and what this peer publishes itself.
//!
//! Every topic has a channel and a bound on what awaits its verdict, by number and bytes: beyond
//! it, messages are ignored. Verdicts come back through one channel that has a place for each of
//! them, so a handle never waits and the loop does the same little work for every message.

use std::time::Instant;

use libp2p::{
    PeerId,
    gossipsub::{Event as GossipEvent, Message, MessageAcceptance, MessageId, PublishError},
};
use tokio::sync::mpsc;

use super::EventLoop;
use crate::network::{
    address::node_id,
    admitted::Admitted,
    command::Publication,
    config::NetworkLimits,
    error::AnnounceError,
    event::{GossipMessage, Judged, Verdict, VerdictHandle},
    gossip::{Topic, Topics},
    metrics::{INBOUND, OUTBOUND},
};

/// The ends of the channels to those who judge, by topic.
pub(in crate::network) type Judges = [mpsc::Sender<GossipMessage>; Topic::COUNT];

/// What awaits its verdict on one topic.
#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    messages: usize,
    bytes: usize,
}

/// Messages on their way through the services.
#[derive(Debug)]
pub(super) struct Judging {
    pub(super) topics: Topics,
    pub(super) verdicts: mpsc::Receiver<(Judged, Verdict)>,
    /// What handles get, and what keeps the channel open.
    verdict_sender: mpsc::Sender<(Judged, Verdict)>,
    judges: Judges,
    pending: [Pending; Topic::COUNT],
    commitments: Admitted,
}

impl Judging {
    pub(super) fn new(topics: Topics, judges: Judges, limits: &NetworkLimits) -> Self {
        let places: usize = Topic::ALL.into_iter().map(|topic| limits.pending_max(topic)).sum();
        let (verdict_sender, verdicts) = mpsc::channel(places.max(1));
        let pending = [Pending::default(); Topic::COUNT];
        let commitments = Admitted::new(Instant::now());
        Self { topics, verdicts, verdict_sender, judges, pending, commitments }
    }
}

impl EventLoop {
    pub(super) fn on_publication(&mut self, publication: Publication) {
        let Publication { topic, bytes, result } = publication;
        let length = bytes.len();
        let published = self.publish(topic, bytes);
        match published {
            Ok(()) => self.metrics.gossip(topic, OUTBOUND, length),
            Err(AnnounceError::NoPeers) => self.metrics.gossip_lost(topic, "no_peers"),
            Err(_) => self.metrics.gossip_lost(topic, "busy"),
        }
        if let Some(result) = result {
            // The caller may have gone: then nobody needs the result.
            let _ = result.send(published);
        }
    }

    fn publish(&mut self, topic: Topic, bytes: Vec<u8>) -> Result<(), AnnounceError> {
        let topic = self.judging.topics.hash(topic);
        match self.swarm.behaviour_mut().gossip.publish(topic, bytes) {
            // A duplicate is what others have published before: it is on its way.
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
        match event {
            GossipEvent::Message { propagation_source, message_id, message } => {
                self.on_message(propagation_source, message_id, message);
            }
            GossipEvent::SlowPeer { peer_id, failed_messages } => {
                let messages = failed_messages.non_priority + failed_messages.priority;
                tracing::debug!(%peer_id, messages, "gossip dropped for a slow peer");
                self.metrics.gossip_dropped(messages);
            }
            GossipEvent::Subscribed { .. }
            | GossipEvent::Unsubscribed { .. }
            | GossipEvent::GossipsubNotSupported { .. } => {}
        }
    }

    fn on_message(&mut self, from: PeerId, id: MessageId, message: Message) {
        // The router passes on topics only that this peer hears.
        let Some(topic) = self.judging.topics.find(&message.topic) else { return };
        let bytes = message.data.len();
        self.metrics.gossip(topic, INBOUND, bytes);
        let judged = Judged { topic, id, from, bytes };
        if bytes > topic.max_bytes() {
            self.report(&judged, Verdict::Reject);
        } else if let Err(judged) = self.hand_over(judged, message) {
            self.metrics.gossip_lost(topic, "crowded");
            self.report(&judged, Verdict::Ignore);
        }
    }

    /// Asks the service for its verdict, if it keeps up and the peer does not send too much.
    fn hand_over(&mut self, judged: Judged, message: Message) -> Result<(), Judged> {
        let (topic, bytes) = (judged.topic, judged.bytes);
        let Some(author) = message.source else { return Err(judged) };
        if topic == Topic::Challenges {
            let is_member = self.peers.is_member(&author);
            if !self.judging.commitments.admit(author, is_member, Instant::now()) {
                return Err(judged);
            }
        }
        let limits = &self.config.limits;
        let pending = &mut self.judging.pending[topic.index()];
        let fits = pending.messages < limits.pending_max(topic)
            && pending.bytes.saturating_add(bytes) <= limits.gossip_pending_bytes_max;
        let ids = (node_id(&judged.from), node_id(&author));
        let ((Some(from), Some(source)), true) = (ids, fits) else {
            return Err(judged);
        };
        let judge = &self.judging.judges[topic.index()];
        let Ok(place) = judge.try_reserve() else { return Err(judged) };
        pending.messages += 1;
        pending.bytes += bytes;
        let verdict = VerdictHandle::new(judged, self.judging.verdict_sender.clone());
        let (bytes, received) = (message.data, Instant::now());
        place.send(GossipMessage { topic, from, source, bytes, received, verdict });
        Ok(())
    }

    /// A message that had been handed over is judged, or its handle was dropped.
    pub(super) fn on_verdict(&mut self, judged: &Judged, verdict: Verdict) {
        let pending = &mut self.judging.pending[judged.topic.index()];
        pending.messages -= 1;
        pending.bytes -= judged.bytes;
        self.report(judged, verdict);
    }

    /// Tells the router: it passes on what is accepted at once.
    fn report(&mut self, judged: &Judged, verdict: Verdict) {
        let (acceptance, word) = match verdict {
            Verdict::Accept => (MessageAcceptance::Accept, "accepted"),
            Verdict::Ignore => (MessageAcceptance::Ignore, "ignored"),
            Verdict::Reject => (MessageAcceptance::Reject, "rejected"),
        };
        self.metrics.gossip_judged(judged.topic, word);
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        gossip.report_message_validation_result(&judged.id, &judged.from, acceptance);
        // Credit grows with every message: it is looked at from time to time only.
        if verdict == Verdict::Reject
            && let Some(score) = gossip.peer_score(&judged.from)
        {
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
