//! What the network asks of the service: to answer requests and to judge announcements.

use floe_protocol::{
    keys::NodeId,
    message::{Refusal, Request, Response},
};
use tokio::sync::oneshot;

use super::{admission::Admission, codec::Answer};

/// Something that needs the service.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all events are requests")]
pub enum Event {
    /// A peer asks. What it sent is within limits but not verified.
    Request {
        /// Who asks. The connection proves it.
        peer: NodeId,
        /// What it asks.
        request: Request,
        /// Takes the response.
        reply: ReplyHandle,
    },
    /// A peer passed on an announcement, which goes no further until it is judged.
    Announcement {
        /// Who passed it on: not necessarily its author.
        from: NodeId,
        /// The announcement, to be decoded by the service.
        bytes: Vec<u8>,
        /// Takes the verdict.
        verdict: VerdictHandle,
    },
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
            Response::TableStored { .. }
            | Response::Stored { .. }
            | Response::Confirmed { .. }
            | Response::Missing { .. }
            | Response::Certified
            | Response::BlobStatus(_)
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
}

/// What becomes of an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is valid: pass it on.
    Accept,
    /// It cannot be judged, or is of no use: forget it.
    Ignore,
    /// It is invalid: forget it and hold it against its sender.
    Reject,
}

/// Takes the verdict on one announcement. Dropping it means to ignore the announcement.
#[derive(Debug)]
pub struct VerdictHandle {
    sender: oneshot::Sender<Verdict>,
}

impl VerdictHandle {
    pub(super) fn new() -> (Self, oneshot::Receiver<Verdict>) {
        let (sender, receiver) = oneshot::channel();
        (Self { sender }, receiver)
    }

    /// The announcement is valid and is passed on.
    pub fn accept(self) {
        let _ = self.sender.send(Verdict::Accept);
    }

    /// The announcement cannot be judged or is of no use. Nobody is blamed.
    pub fn ignore(self) {
        let _ = self.sender.send(Verdict::Ignore);
    }

    /// The announcement is invalid. Its sender's score falls.
    pub fn reject(self) {
        let _ = self.sender.send(Verdict::Reject);
    }
}
