//! Questions about blobs and nodes.
//!
//! A certificate proves its blob's status whoever sends it; what a single node says beyond that is
//! shown to people and decides nothing.

use floe_protocol::{
    blob::BlobId,
    certificate::Certificate,
    committee::QuorumTracker,
    index::Epoch,
    ledger::{BlobState, BlobStatus, LedgerView},
    message::{NodeStatus, Refusal, Request, Response, StatusAnswer},
};
use tokio::task::JoinSet;

use super::{Client, StatusError, blocking, joined};
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
        self.status_until(blob, |found, _| found.certificate.is_some()).await
    }

    /// As [`Self::blob_status`], but content with the first answer that carries the blob's header,
    /// which proves itself: enough to read, and to know the blob's length.
    ///
    /// # Errors
    /// [`StatusError`].
    pub async fn any_status(&self, blob: BlobId) -> Result<VerifiedStatus, StatusError> {
        self.status_until(blob, |_, _| true).await
    }

    /// The verified certificate of a blob, if members of more than `f` shards do not pass without
    /// one: a hint that spares a store, and no more.
    pub(super) async fn certificate(&self, blob: BlobId) -> Option<Certificate> {
        let committee = self.view.committee();
        let enough = |found: &VerifiedStatus, answered: u16| {
            found.certificate.is_some() || committee.is_validity(answered)
        };
        self.status_until(blob, enough).await.ok()?.certificate
    }

    /// Asks until `enough` says so of the best answer and the shards of those that answered.
    async fn status_until(
        &self,
        blob: BlobId,
        enough: impl Fn(&VerifiedStatus, u16) -> bool,
    ) -> Result<VerifiedStatus, StatusError> {
        let committee = self.view.committee();
        let mut unasked = 0..committee.members().len();
        let mut asked = JoinSet::new();
        let mut unknown = QuorumTracker::new(committee);
        let mut answered = QuorumTracker::new(committee);
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
            let Some(answer) = asked.join_next().await else { break };
            let (member, answer) = joined(answer);
            match answer {
                Ok(Response::BlobStatus(answer)) => {
                    answered.add(committee, member);
                    let view = self.view.clone();
                    let found = blocking(move || verify_status(&view, blob, &answer)).await;
                    best = match (best, found) {
                        (Some(best), Some(found)) if found.certificate.is_none() => Some(best),
                        (best, found) => found.or(best),
                    };
                }
                Ok(Response::Refused(Refusal::NotFound)) => {
                    answered.add(committee, member);
                    unknown.add(committee, member);
                }
                Ok(_) | Err(_) => {}
            }
            match best {
                Some(best) if enough(&best, answered.weight()) => return Ok(best),
                // A quorum shares an honest shard with every certificate's quorum.
                None if committee.is_quorum(unknown.weight()) => {
                    let (shards, n_shards) = (unknown.weight(), committee.n_shards());
                    return Err(StatusError::NotFound { blob, shards, n_shards });
                }
                Some(_) | None => {}
            }
        }
        let (answered, nodes) = (answered.members().count(), committee.members().len());
        best.ok_or(StatusError::TooFewAnswers { blob, answered, nodes })
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

/// What of an answer is true for certain; none if its header is another blob's. The certificate
/// makes the state: whatever else a single node says of it is not believed.
fn verify_status(view: &LedgerView, blob: BlobId, answer: &StatusAnswer) -> Option<VerifiedStatus> {
    let mut status = answer.status;
    if status.header.n_shards != view.parameters().n_shards || status.header.id() != blob {
        return None;
    }
    let certificate = answer
        .certificate
        .as_deref()
        .and_then(|bytes| Certificate::from_bytes(bytes).ok())
        .filter(|certificate| certificate.fact.blob == blob)
        .filter(|certificate| certificate.verify(view.committee(), view.chain()).is_ok());
    status.first_certified_epoch = certificate.as_ref().map(|certificate| certificate.fact.epoch);
    if certificate.is_some() {
        // Every registration is permanent until the ledger records them.
        status.state = BlobState::Certified;
        status.end = Epoch::new(u64::MAX);
        status.deletable = false;
    } else if status.state != BlobState::Expired {
        status.state = BlobState::Registered;
    }
    Some(VerifiedStatus { status, certificate })
}
