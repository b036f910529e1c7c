//! Questions about blobs and nodes.
//!
//! What a blob is, whether the swarm answers for it and until when, is proven by the ledger. What a
//! node says of itself is shown to people and decides nothing.

use floe_protocol::{
    blob::{BlobHeader, BlobId},
    index::{Epoch, Height},
    keys::NodeId,
    ledger::{Blob, BlobState, Key, Record},
    light::Fitness,
    message::{NodeStatus, Request, Response},
};
use tokio::task::JoinSet;

use super::{Client, StatusError, ledger::Purpose};
use crate::network::RequestError;

/// What the ledger proves of a blob.
#[derive(Clone, Copy, Debug)]
pub struct BlobStatus {
    /// Its record.
    pub record: Blob,
    /// Its state in the running epoch.
    pub state: BlobState,
    /// The running epoch.
    pub epoch: Epoch,
    /// The height after which it is so.
    pub height: Height,
    /// Whether that is the newest height that can be known.
    pub fitness: Fitness,
}

impl BlobStatus {
    /// The blob's header.
    #[must_use]
    pub const fn header(&self) -> &BlobHeader {
        &self.record.header
    }
}

/// How one member of the committee is doing.
#[derive(Debug)]
pub struct MemberStatus {
    /// The member.
    pub node: NodeId,
    /// Shards that it holds.
    pub shards: u16,
    /// What it says, or why it did not answer.
    pub status: Result<NodeStatus, RequestError>,
}

impl Client {
    /// What the ledger proves of a blob.
    ///
    /// # Errors
    /// [`StatusError`]. That there is no such blob is proven, too.
    pub async fn blob_status(&self, blob: BlobId) -> Result<BlobStatus, StatusError> {
        let keys = [Key::Summary, Key::Blob(blob)];
        let proven = self.ledger.facts(&keys, Purpose::Read).await?;
        let (height, fitness) = (proven.height(), proven.fitness);
        let mut records = proven.value.into_iter();
        let (summary, record) = (records.next().flatten(), records.next().flatten());
        match (summary, record) {
            (Some(Record::Summary(summary)), Some(Record::Blob(record))) => {
                let epoch = summary.epoch;
                Ok(BlobStatus { record, state: record.state(epoch), epoch, height, fitness })
            }
            _ => Err(StatusError::NotFound { blob, height }),
        }
    }

    /// What a node says of itself, whether it is a member or not.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn node_status(&self, node: NodeId) -> Result<NodeStatus, RequestError> {
        match self.ask(node, Request::NodeStatus).await? {
            Response::NodeStatus(status) => Ok(status),
            _ => Err(RequestError::Malformed),
        }
    }

    /// How every member of the committee is doing, in committee order.
    pub async fn member_statuses(&self) -> Vec<MemberStatus> {
        let committee = self.committee();
        let mut asked = JoinSet::new();
        for (position, member) in committee.members().iter().enumerate() {
            let (client, node, shards) = (self.clone(), member.node, member.weight());
            asked.spawn(async move {
                let status = client.node_status(node).await;
                (position, MemberStatus { node, shards, status })
            });
        }
        let mut statuses = asked.join_all().await;
        statuses.sort_by_key(|(position, _)| *position);
        statuses.into_iter().map(|(_, status)| status).collect()
    }
}
