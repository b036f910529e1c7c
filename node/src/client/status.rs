//! Questions about blobs and nodes.
//!
//! A certificate proves its blob's status whoever sends it; what a single node says beyond that is
//! shown to people and decides nothing.

use floe_protocol::{
    blob::BlobId,
    certificate::Certificate,
    committee::QuorumTracker,
    ledger::{BlobState, BlobStatus},
    message::{NodeStatus, Refusal, Request, Response, StatusAnswer},
};
use tokio::task::JoinSet;

use super::{Client, StatusError};
use crate::network::RequestError;

/// Members asked for a status at a time.
const ASKED_AT_A_TIME: usize = 16;

/// A blob's status, and the certificate that proves it where there is one.
#[derive(Clone, Debug)]
pub struct VerifiedStatus {
    /// The status. Its header belongs to the blob id for certain.
    pub status: BlobStatus,
    /// The verified certificate of a certified blob.
    pub certificate: Option<Certificate>,
}

/// How one member of the committee is doing.
#[derive(Debug)]
pub struct MemberStatus {
    /// Its position in the committee.
    pub member: usize,
    /// What it says, or why it did not answer.
    pub status: Result<NodeStatus, RequestError>,
}

impl Client {
    /// The status of a blob: the first proven one, else what the nodes that know it say.
    ///
    /// # Errors
    /// [`StatusError`].
    pub async fn blob_status(&self, blob: BlobId) -> Result<VerifiedStatus, StatusError> {
        self.status_until(blob, |found| found.certificate.is_some()).await
    }

    /// As [`Self::blob_status`], but content with the first answer that carries the blob's header,
    /// which is the blob's for certain. Whether the blob is certified may stay open.
    ///
    /// # Errors
    /// [`StatusError`].
    pub async fn any_status(&self, blob: BlobId) -> Result<VerifiedStatus, StatusError> {
        self.status_until(blob, |_| true).await
    }

    async fn status_until(
        &self,
        blob: BlobId,
        enough: impl Fn(&VerifiedStatus) -> bool,
    ) -> Result<VerifiedStatus, StatusError> {
        let committee = self.view.committee();
        let mut unasked = 0..committee.members().len();
        let mut asked = JoinSet::new();
        let mut unknown = QuorumTracker::new(committee);
        let mut answered = 0;
        let mut best: Option<VerifiedStatus> = None;
        loop {
            while asked.len() < ASKED_AT_A_TIME
                && let Some(member) = unasked.next()
            {
                let client = self.clone();
                asked.spawn(async move {
                    (member, client.ask(member, Request::BlobStatus { blob }).await)
                });
            }
            let Some(Ok((member, answer))) = asked.join_next().await else {
                break;
            };
            match answer {
                Ok(Response::BlobStatus(answer)) => {
                    answered += 1;
                    let found = self.verify_status(blob, &answer);
                    if found.as_ref().is_some_and(&enough) {
                        return found.ok_or_else(|| unreachable!());
                    }
                    best = best.or(found);
                }
                Ok(Response::Refused(Refusal::NotFound)) => {
                    answered += 1;
                    unknown.add(committee, member);
                }
                Ok(_) | Err(_) => {}
            }
            // A quorum shares an honest shard with every certificate's quorum.
            if best.is_none() && committee.is_quorum(unknown.weight()) {
                let shards = unknown.weight();
                return Err(StatusError::NotFound { blob, shards, n_shards: committee.n_shards() });
            }
        }
        let nodes = committee.members().len();
        best.ok_or(StatusError::TooFewAnswers { blob, answered, nodes })
    }

    /// What of an answer is true for certain; none if its header is another blob's.
    fn verify_status(&self, blob: BlobId, answer: &StatusAnswer) -> Option<VerifiedStatus> {
        let mut status = answer.status;
        if status.header.n_shards != self.view.parameters().n_shards || status.header.id() != blob {
            return None;
        }
        let certificate = answer
            .certificate
            .as_deref()
            .and_then(|bytes| Certificate::from_bytes(bytes).ok())
            .filter(|certificate| certificate.fact.blob == blob)
            .filter(|certificate| {
                certificate.verify(self.view.committee(), self.view.chain()).is_ok()
            });
        if certificate.is_none() && status.state == BlobState::Certified {
            status.state = BlobState::Registered;
            status.first_certified_epoch = None;
        }
        Some(VerifiedStatus { status, certificate })
    }

    /// How every member of the committee is doing, in committee order.
    pub async fn member_statuses(&self) -> Vec<MemberStatus> {
        let mut asked = JoinSet::new();
        for member in 0..self.view.committee().members().len() {
            let client = self.clone();
            asked.spawn(async move {
                let status = match client.ask(member, Request::NodeStatus).await {
                    Ok(Response::NodeStatus(status)) => Ok(status),
                    Ok(_) => Err(RequestError::Malformed),
                    Err(error) => Err(error),
                };
                MemberStatus { member, status }
            });
        }
        let mut statuses = asked.join_all().await;
        statuses.sort_by_key(|status| status.member);
        statuses
    }
}
