//! What the network asks of services: to answer requests and to judge gossip.

use std::time::{Duration, Instant};

use bytes::Bytes;
use floe_protocol::{
    keys::NodeId,
    message::{Refusal, Request, Response, StoredPair},
};
use libp2p::{PeerId, gossipsub::MessageId};
use tokio::sync::{mpsc, oneshot};

use super::{admission::Admission, codec::Answer, gossip::Topic};

/// Everything that arrives, each kind through its own bounded channel, so that a burst of one never
/// holds up another. A service takes the channels that it serves; one that is full, dropped or
/// not drained means that its requests are told `Busy` and its messages ignored. All receivers may
/// be read from plain threads, with `blocking_recv`. Those of topics that a role does not hear are
/// closed.
#[derive(Debug)]
pub struct Inbound {
    /// Requests of peers.
    pub requests: mpsc::Receiver<InboundRequest>,
    /// Gossip of [`Topic::Transactions`].
    pub transactions: mpsc::Receiver<GossipMessage>,
    /// Gossip of [`Topic::Consensus`].
    pub consensus: mpsc::Receiver<GossipMessage>,
    /// Gossip of [`Topic::Headers`].
    pub headers: mpsc::Receiver<GossipMessage>,
    /// Gossip of [`Topic::Challenges`].
    pub challenges: mpsc::Receiver<GossipMessage>,
}

/// A peer asks. What it sent is within limits but not verified.
#[derive(Debug)]
pub struct InboundRequest {
    /// Who asks. The connection proves it.
    pub peer: NodeId,
    /// What it asks.
    pub request: Request,
    /// Takes the response.
    pub reply: ReplyHandle,
}

/// A peer published or passed on a message, which goes no further until it is judged.
#[derive(Debug)]
pub struct GossipMessage {
    /// What it is about.
    pub topic: Topic,
    /// Who passed it on.
    pub from: NodeId,
    /// Who published it: its signature is valid.
    pub source: NodeId,
    /// The message, to be decoded by the service.
    pub bytes: Vec<u8>,
    /// When it came.
    pub received: Instant,
    /// Takes the verdict.
    pub verdict: VerdictHandle,
}

/// Takes the response to one request. Dropping it closes the stream without an answer. It holds
/// the room that request and response take, so a slow service is felt by the peers that keep it
/// busy.
#[derive(Debug)]
pub struct ReplyHandle {
    sender: oneshot::Sender<Answer>,
    admission: Admission,
}

impl ReplyHandle {
    pub(super) fn new(admission: Admission) -> (Self, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        (Self { sender, admission }, receiver)
    }

    /// Sends the response. The peer may have gone meanwhile, which is its own affair. A peer that
    /// sends what is not valid again and again is cut off.
    pub fn reply(mut self, response: Response) {
        let bytes = match &response {
            Response::Sliver { sliver, .. } => sliver.len(),
            Response::Ledger(answer) => answer.kind().max_response_bytes(),
            Response::Pairs { pairs, .. } => {
                let bytes = |pair: &StoredPair| {
                    pair.proof.len() + pair.primary.len() + pair.secondary.len()
                };
                pairs.iter().map(bytes).sum()
            }
            Response::Symbols(symbols) => symbols.symbols.len(),
            Response::Transcript(transcript) => transcript.as_ref().map_or(0, Bytes::len),
            Response::TableStored { .. }
            | Response::Stored { .. }
            | Response::Confirmed { .. }
            | Response::Missing { .. }
            | Response::Attested { .. }
            | Response::Taken
            | Response::NodeStatus(_)
            | Response::Refused(_) => 0,
        };
        if matches!(response, Response::Refused(Refusal::Invalid(_))) {
            self.admission.violation();
        }
        // The request has been dealt with: only the response needs room from now on.
        self.admission.shrink(bytes);
        let answer = Answer { response, admission: Some(self.admission) };
        drop(self.sender.send(answer));
    }

    /// Closes the stream without an answer, and leaves the peer unheard for so long: what it sends
    /// meanwhile is not even read. Members of the committee are heard all the same.
    pub fn cool_down(self, length: Duration) {
        self.admission.cool_down(length);
    }
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is valid: pass it on.
    Accept,
    /// It cannot be judged, or is of no use: forget it.
    Ignore,
    /// It is invalid: forget it and hold it against its sender.
    Reject,
}

/// A message that awaits its verdict, as the router knows it.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) topic: Topic,
    pub(super) id: MessageId,
    pub(super) from: PeerId,
    /// The room that it takes.
    pub(super) bytes: usize,
}

/// Takes the verdict on one message, from any thread, without waiting. Dropping it means to ignore
/// the message. A verdict that comes later than a few seconds is in vain.
#[derive(Debug)]
pub struct VerdictHandle {
    /// None once it has been judged.
    judged: Option<Judged>,
    verdicts: mpsc::Sender<(Judged, Verdict)>,
}

impl VerdictHandle {
    pub(super) const fn new(judged: Judged, verdicts: mpsc::Sender<(Judged, Verdict)>) -> Self {
        Self { judged: Some(judged), verdicts }
    }

    /// The message is valid and is passed on.
    pub fn accept(mut self) {
        self.send(Verdict::Accept);
    }

    /// The message cannot be judged or is of no use. Nobody is blamed.
    pub fn ignore(self) {
        drop(self);
    }

    /// The message is invalid. Its sender's score falls.
    pub fn reject(mut self) {
        self.send(Verdict::Reject);
    }

    fn send(&mut self, verdict: Verdict) {
        if let Some(judged) = self.judged.take() {
            // There is a place for each message that awaits its verdict. If the network has
            // stopped, there is nothing left to pass it on.
            drop(self.verdicts.try_send((judged, verdict)));
        }
    }
}

impl Drop for VerdictHandle {
    fn drop(&mut self) {
        self.send(Verdict::Ignore);
    }
}
